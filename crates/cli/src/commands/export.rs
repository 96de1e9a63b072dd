//! `sommelier export`: the log as files that other programs read, and that `import` reads back.

use crate::{Global, commands::import, config, ui};
use anyhow::Result;
use clap::Args;
use sommelier_data::export::{self, ExportFormat};
use std::path::PathBuf;

#[derive(Args)]
#[command(
    after_help = "Examples:\n  sommelier export --to out\n  sommelier export --to out --format recbole"
)]
pub struct ExportArgs {
    /// Folder to write to; made if it is not there. A file that is there already is not written over
    #[arg(long)]
    to: PathBuf,
    /// parquet, jsonl, recbole, gorse
    #[arg(long, default_value = "parquet")]
    format: ExportFormat,
}

pub fn run(global: &Global, args: &ExportArgs) -> Result<()> {
    let space = config::open_space(global)?;
    let report = export::export(space.log(), &args.to, args.format, &import::import_context(global))?;
    ui::show(global, &report, || format!("wrote to {}: {report}", args.to.display()))
}

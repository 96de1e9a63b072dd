//! `sommelier reproduce`: every recipe's published figures beside ours.

use crate::{Global, ui};
use anyhow::{Result, bail};
use clap::Args;
use sommelier_engine::reproduce;
use std::path::PathBuf;

#[derive(Args)]
#[command(
    after_help = "Examples:\n  sommelier reproduce\n  sommelier reproduce ease ials --data-dir ../shared/data\n  \
                  sommelier reproduce --dataset amazon-beauty"
)]
pub struct ReproduceArgs {
    /// Only these recipes
    recipes: Vec<String>,
    /// Folder with the benchmark data sets, one folder each
    #[arg(long, default_value = "../shared/data", env = "SOMMELIER_DATASETS")]
    data_dir: PathBuf,
    /// Only the claims on these data sets, such as amazon-beauty or ml-1m/lcf_split
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    dataset: Vec<String>,
    /// Write the table as Markdown too
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
}

pub fn run(global: &Global, args: &ReproduceArgs) -> Result<()> {
    if !args.data_dir.is_dir() {
        bail!(
            "there are no benchmark data sets in {}; name their folder with --data-dir",
            args.data_dir.display()
        );
    }
    let mut context = ui::context(global, 42);
    let report =
        ui::on_pool(global, || reproduce::run(&args.recipes, &args.dataset, &args.data_dir, &mut context))??;
    if let Some(file) = &args.markdown {
        std::fs::write(file, report.to_markdown())?;
    }
    ui::show(global, &report, || report.to_string())?;
    match report.missed() {
        0 => Ok(()),
        n => bail!("{n} claims are outside their tolerance"),
    }
}

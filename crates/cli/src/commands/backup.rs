//! `sommelier backup` and `sommelier restore`: one file with everything, checked by its digest.

use crate::config::Config;
use crate::{Global, config, ui};
use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::json;
use sommelier_data::import::grouped;
use std::path::PathBuf;

#[derive(Args)]
#[command(
    after_help = "Examples:\n  sommelier backup monday.sommelier\n  sommelier backup monday.sommelier --space shop"
)]
pub struct BackupArgs {
    /// The file to write; it must not exist
    file: PathBuf,
}

#[derive(Args)]
#[command(
    after_help = "Examples:\n  sommelier restore monday.sommelier            into the space `default`, which must be empty\n  \
                  sommelier restore --check                     look for damage in the space"
)]
pub struct RestoreArgs {
    /// The backup to bring in
    #[arg(required_unless_present = "check")]
    file: Option<PathBuf>,
    /// Change nothing: read every block of the store and list what is damaged
    #[arg(long)]
    check: bool,
}

pub fn run(global: &Global, args: &BackupArgs) -> Result<()> {
    if args.file.exists() {
        bail!("{} is already there; choose another name", args.file.display());
    }
    let space = config::open_space(global)?;
    let digest = space.log().backup(&args.file)?;
    let bytes = std::fs::metadata(&args.file)?.len();
    ui::show(global, &json!({ "file": args.file, "digest": digest.to_string(), "bytes": bytes }), || {
        format!("wrote {} ({} bytes, digest {digest})", args.file.display(), grouped(bytes))
    })
}

pub fn restore(global: &Global, args: &RestoreArgs) -> Result<()> {
    let dir = sommelier_engine::log_dir(&Config::find(global)?.dir, &global.space);
    if args.check {
        return check(global, &dir);
    }
    let file = args.file.as_ref().context("name the backup to restore")?;
    let digest = sommelier_data::log::restore(file, &dir)?;
    ui::show(global, &json!({ "into": dir, "digest": digest.to_string() }), || {
        format!(
            "restored {} into {} (digest {digest})\nnext: sommelier train …",
            file.display(),
            dir.display()
        )
    })
}

fn check(global: &Global, dir: &std::path::Path) -> Result<()> {
    let damage = sommelier_data::log::verify(dir)?;
    let words: Vec<String> = damage.iter().map(ToString::to_string).collect();
    ui::show(global, &json!({ "damage": words }), || {
        if words.is_empty() { "no damage found".to_owned() } else { words.join("\n") }
    })?;
    if words.is_empty() {
        Ok(())
    } else {
        bail!(
            "{} damaged places; bring the last backup into an empty folder with `sommelier restore FILE`",
            words.len()
        )
    }
}

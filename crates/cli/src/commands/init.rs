//! `sommelier init`: a commented configuration to edit.

use crate::{Global, ui};
use anyhow::{Context, Result, bail};
use clap::Args;
use std::path::PathBuf;

#[derive(Args)]
#[command(
    after_help = "Examples:\n  sommelier init .\n  sommelier init shop && cd shop && sommelier import ../orders.csv"
)]
pub struct InitArgs {
    /// Folder for the configuration; made if it is not there
    #[arg(default_value = ".")]
    dir: PathBuf,
}

/// The file `init` writes. A test reads it back with the real configuration type.
pub const TEMPLATE: &str = include_str!("sommelier.toml");

pub fn run(global: &Global, args: &InitArgs) -> Result<()> {
    std::fs::create_dir_all(&args.dir)
        .with_context(|| format!("cannot make the folder {}", args.dir.display()))?;
    let file = args.dir.join("sommelier.toml");
    if file.exists() {
        bail!("{} is already there; edit it, or choose another folder", file.display());
    }
    std::fs::write(&file, TEMPLATE).with_context(|| format!("cannot write {}", file.display()))?;
    ui::show(global, &serde_json::json!({ "written": file }), || {
        format!("wrote {}\nnext: sommelier import YOUR-EVENTS.csv", file.display())
    })
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    #[test]
    fn the_template_is_a_valid_configuration() {
        let config: Config = toml::from_str(super::TEMPLATE).unwrap();
        assert_eq!(config.dir.to_str(), Some("sommelier-data"));
        assert!(config.events.contains_key("view"));
    }
}

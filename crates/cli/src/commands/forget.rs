//! `sommelier forget`: erase a user or an item, with a receipt that says what it covers and what it does not.

use crate::{Global, config, ui};
use anyhow::{Context, Result};
use clap::{ArgGroup, Args};
use serde_json::json;
use sommelier_data::import::grouped;
use sommelier_data::log::Erasure;
use std::path::PathBuf;

#[derive(Args)]
#[command(
    after_help = "Examples:\n  sommelier forget --user u42 --receipt u42.json\n  sommelier forget --item i9"
)]
#[command(group = ArgGroup::new("whom").required(true))]
pub struct ForgetArgs {
    /// Erase this user: events, properties, slates
    #[arg(long, group = "whom")]
    user: Option<String>,
    /// Erase this item: events, properties
    #[arg(long, group = "whom")]
    item: Option<String>,
    /// Write the receipt to a file as well
    #[arg(long, value_name = "FILE")]
    receipt: Option<PathBuf>,
}

const NOTE: &str = "Gone from the log, the catalogue and all answers. Artefacts fitted earlier keep what they \
                    learnt until they are trained again; backups made earlier still hold it.";

pub fn run(global: &Global, args: &ForgetArgs) -> Result<()> {
    let what = match (&args.user, &args.item) {
        (Some(user), _) => Erasure::User(user.clone()),
        (_, Some(item)) => Erasure::Item(item.clone()),
        _ => unreachable!("clap asks for one of the two"),
    };
    let space = config::open_space(global)?;
    let erased = space.erase(&what)?;
    space.log().compact()?;
    let receipt = json!({
        "erased": what,
        "removed": erased,
        "note": NOTE,
    });
    if let Some(file) = &args.receipt {
        std::fs::write(file, serde_json::to_vec_pretty(&receipt)?)
            .with_context(|| format!("cannot write the receipt {}", file.display()))?;
    }
    ui::show(global, &receipt, || {
        let (events, slates) = (grouped(erased.events), grouped(erased.slates));
        format!("erased {events} events and {slates} slates\n{NOTE}")
    })
}

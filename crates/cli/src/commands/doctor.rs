//! `sommelier doctor`: what is wrong with the data, and what it can support.

use crate::commands::import::{self, ReadArgs};
use crate::{Global, config, ui};
use anyhow::Result;
use clap::Args;
use sommelier_core::{Clock, SystemClock};
use sommelier_data::doctor;
use std::path::PathBuf;

#[derive(Args)]
#[command(
    after_help = "Examples:\n  sommelier doctor                    the log\n  sommelier doctor events.csv         files, without a store"
)]
pub struct DoctorArgs {
    /// A file or folder to look at; the log if absent
    path: Option<PathBuf>,
    #[command(flatten)]
    read: ReadArgs,
}

pub fn run(global: &Global, args: &DoctorArgs) -> Result<()> {
    let snapshot = match &args.path {
        Some(path) => import::of_files(global, path, &args.read)?,
        None => import::of_log(&*config::open_space(global)?)?,
    };
    let diagnosis = doctor::doctor(&snapshot, Some(SystemClock.now()));
    ui::show(global, &diagnosis, || diagnosis.to_string())
}

//! `sommelier import`: files into the log, with the reading of them printed first and the problems listed after.

use crate::config::Config;
use crate::{Global, ui};
use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::json;
use sommelier_core::{Clock, SystemClock};
use sommelier_data::Snapshot;
use sommelier_data::import::{self, Format, ImportContext, ImportOptions};
use sommelier_engine::Space;
use std::path::{Path, PathBuf};

/// How files are to be read: shared by every command that takes data.
#[derive(Args, Clone, Debug, Default)]
pub struct ReadArgs {
    /// csv, tsv, jsonl, parquet, recbole, movielens, gorse, sequences, pairs [default: found out]
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<Format>,
    /// Which column is what, such as user=visitor_id,item=sku,at=ts
    #[arg(long, value_name = "FIELD=COLUMN,…", value_delimiter = ',')]
    pub map: Vec<String>,
    /// Which ratings count as positive, such as 'rating>=4'
    #[arg(long, value_name = "RULE")]
    pub positive: Option<String>,
    /// The kind of events that do not name one
    #[arg(long, value_name = "KIND")]
    pub kind: Option<String>,
    /// Which split among several that came with the files, such as u1 or ua
    #[arg(long, value_name = "NAME")]
    pub given: Option<String>,
    /// Fail on the first problem instead of listing it
    #[arg(long)]
    pub strict: bool,
}

impl ReadArgs {
    pub fn options(&self) -> Result<ImportOptions> {
        let mut map = std::collections::BTreeMap::new();
        for pair in &self.map {
            let (field, column) = pair
                .split_once('=')
                .with_context(|| format!("--map takes field=column pairs, received {pair:?}; for example --map user=visitor_id,item=sku"))?;
            map.insert(field.trim().to_owned(), column.trim().to_owned());
        }
        Ok(ImportOptions {
            format: self.format,
            map,
            positive: self.positive.clone(),
            kind: self.kind.clone(),
            given: self.given.clone(),
            strict: self.strict,
            ..ImportOptions::default()
        })
    }
}

#[derive(Args)]
#[command(
    after_help = "Examples:\n  sommelier import events.csv items.csv\n  sommelier import ml-1m.zip --positive 'rating>=4'\n  \
                        sommelier import clicks.csv.gz --map user=visitor,item=sku,at=when"
)]
pub struct ImportArgs {
    /// Files or folders
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    read: ReadArgs,
    /// Print how the files would be read and stop
    #[arg(long)]
    dry_run: bool,
}

pub fn run(global: &Global, args: &ImportArgs) -> Result<()> {
    let options = args.read.options()?;
    let mut plans = Vec::new();
    for path in &args.paths {
        let plan =
            import::detect(path, &options).with_context(|| format!("cannot import {}", path.display()))?;
        ui::say(global, plan.to_string());
        plans.push(plan);
    }
    if args.dry_run {
        return ui::show(global, &json!({ "plans": plans }), || "nothing was imported".to_owned());
    }
    let mut config = Config::find(global)?;
    let rules: Vec<_> = plans.iter().filter_map(|plan| plan.positive.clone()).collect();
    if let Some(file) = config.add_rules(global, &rules)? {
        ui::say(
            global,
            format!(
                "{} says now which events count, under [events]; change it there any time",
                file.display()
            ),
        );
    }
    let space = config.open_engine()?.create_space(&global.space)?;
    let context = import_context(global);
    let mut reports = Vec::new();
    for (plan, path) in plans.iter().zip(&args.paths) {
        let report = import::import_into(space.log(), plan, &context)
            .with_context(|| format!("import of {} stopped", path.display()))?;
        if !global.json {
            ui::say(global, report.to_string());
        }
        reports.push(report);
    }
    space.refresh()?;
    ui::show(global, &json!({ "imports": reports }), || "next: sommelier doctor".to_owned())
}

pub fn import_context(global: &Global) -> ImportContext {
    ImportContext {
        progress: ui::progress(global),
        cancel: ui::stop().cancel.clone(),
        now: SystemClock.now(),
    }
}

/// A snapshot of files, without a store: what `--data PATH` means everywhere.
pub fn of_files(global: &Global, path: &Path, read: &ReadArgs) -> Result<Snapshot> {
    let config = Config::find(global)?;
    let failed = || format!("cannot read {}", path.display());
    let plan = import::detect(path, &read.options()?).with_context(failed)?;
    ui::say(global, plan.to_string());
    let (snapshot, report) =
        import::load_plan(&plan, &config.events, &import_context(global)).with_context(failed)?;
    if report.problems_total > 0 {
        ui::say(global, report.to_string());
    }
    if snapshot.events.is_empty() {
        bail!("{} holds no usable events", path.display());
    }
    Ok(snapshot)
}

/// A snapshot of the log, which must hold something.
pub fn of_log(space: &Space) -> Result<Snapshot> {
    let snapshot = space.snapshot()?;
    if snapshot.events.is_empty() {
        bail!("the log of space {} is empty; bring events in with `sommelier import FILE`", space.name());
    }
    Ok(snapshot)
}

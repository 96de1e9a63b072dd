//! `sommelier demo`: from nothing to a page with recommendations; run again on the same folder it resumes at once.

use crate::commands::evaluate::{compare, default_split, recipe};
use crate::commands::import::{self, ReadArgs};
use crate::commands::serve;
use crate::config::{self, Config};
use crate::{Global, ui};
use anyhow::{Context, Error, Result};
use clap::Args;
use sommelier_core::{Clock, SystemClock};
use sommelier_data::import::{self as reading, Plan, grouped};
use sommelier_data::{KindRule, world};
use sommelier_engine::experiment::{self, Experiment};
use sommelier_engine::{Recipe, Space};
use sommelier_eval::EvalConfig;
use sommelier_server::ServerConfig;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;

/// The classical opponents every data set deserves, from the dullest to the strongest.
const RECIPES: [&str; 7] = ["popularity", "item_knn", "rp3beta", "ials", "bpr", "ease", "slim"];
/// What decides which one answers, measured on validation events; the leaderboard shows test events.
const DECIDES: &str = "ndcg@10";
const SEED: u64 = 42;

#[derive(Args)]
#[command(
    after_help = "Examples:\n  sommelier demo\n  sommelier demo --from ml-100k --dir films\n  sommelier demo --port 9000"
)]
pub struct DemoArgs {
    /// Port on this machine; 0 takes a free one
    #[arg(long, default_value_t = 8000)]
    port: u16,
    /// Where the demo keeps its data; run again on it, it resumes at once
    #[arg(long, default_value = "sommelier-demo", value_name = "DIR")]
    dir: PathBuf,
    /// Your own data instead of the sample world
    #[arg(long, value_name = "PATH")]
    from: Option<PathBuf>,
    #[command(flatten)]
    read: ReadArgs,
}

pub fn run(global: &Global, args: &DemoArgs) -> Result<()> {
    let listen = SocketAddr::from(([127, 0, 0, 1], args.port));
    // Better now than after the training.
    TcpListener::bind(listen).with_context(|| {
        format!("cannot listen on {listen}; choose another port with --port, or 0 for any free one")
    })?;
    let file = args.dir.join(config::FILE);
    let plan = match &args.from {
        Some(path) if !file.exists() => {
            let plan = reading::detect(path, &args.read.options()?)
                .with_context(|| format!("cannot read {}", path.display()))?;
            ui::say(global, plan.to_string());
            Some(plan)
        }
        _ => None,
    };
    if !file.exists() {
        std::fs::create_dir_all(&args.dir)
            .with_context(|| format!("cannot make the folder {}", args.dir.display()))?;
        config::write(&file, &configuration(plan.as_ref())?)?;
    }
    let config = Config::read(&file)?;
    let engine = config.open_engine()?;
    let space = engine.create_space(&global.space)?;
    if let Some(published) = space.published() {
        ui::say(global, format!("{} already answers from {}; resuming", published.name, args.dir.display()));
    } else {
        match (&args.from, plan) {
            (None, _) => sample_world(global, &space)?,
            (Some(path), plan) => {
                let plan = plan
                    .map_or_else(|| reading::detect(path, &args.read.options()?).map_err(Error::from), Ok)?;
                let report = reading::import_into(space.log(), &plan, &import::import_context(global))?;
                ui::say(global, report.to_string());
                space.refresh()?;
            }
        }
        choose(global, &space)?;
    }
    serve::listen(global, engine, ServerConfig { listen, ..config.server }, "demo")
}

/// The demo's folder is an ordinary one: `sommelier --config DIR/sommelier.toml …` works on it too.
fn configuration(plan: Option<&Plan>) -> Result<String> {
    let rules = match plan {
        None => world::rules(),
        Some(plan) => plan
            .positive
            .iter()
            .map(|(kind, only)| (kind.clone(), KindRule { only: Some(only.clone()), ..KindRule::default() }))
            .collect(),
    };
    Ok(format!(
        "# Made by `sommelier demo`.\ndir = \".\"\n\n[server]\n# This machine may ask without a key.\n\
         allow_anonymous_loopback = true\n\n{}",
        config::events_toml(rules)?
    ))
}

fn sample_world(global: &Global, space: &Space) -> Result<()> {
    let world = world::world(SEED);
    ui::say(
        global,
        format!(
            "a sample world: {} public-domain books, {} simulated readers, {} events",
            world.items.len(),
            grouped(world.users.len() as u64),
            grouped(world.events.len() as u64)
        ),
    );
    let context = import::import_context(global);
    context.progress.start("importing", Some(world.events.len() as u64));
    space.put_items(world.items)?;
    space.put_users(world.users)?;
    let mut done = 0;
    for chunk in world.events.chunks(5_000) {
        context.cancel.check()?;
        space.append(chunk.to_vec())?;
        done += chunk.len() as u64;
        context.progress.at(done);
    }
    context.progress.finish();
    Ok(())
}

/// Compares the recipes, prints the leaderboard, fits the best on everything and lets it answer.
fn choose(global: &Global, space: &Space) -> Result<()> {
    let snapshot = import::of_log(space)?;
    let recipes = RECIPES.iter().map(|name| recipe(name, &[])).collect::<Result<Vec<Recipe>>>()?;
    let split = default_split(&snapshot);
    ui::say(global, format!("comparing {} models on the split {split}", recipes.len()));
    let mut context = ui::context(global, SEED);
    let settings = EvalConfig { seed: SEED, ..EvalConfig::default() };
    let (experiments, skipped) = ui::on_pool(global, || {
        compare(global, &recipes, &snapshot, &split, &settings, false, &mut context)
    })??;
    ui::say(global, experiment::leaderboard(&experiments));
    let runs: Vec<_> = experiments.iter().map(|e| &e.run).collect();
    let best = best(&experiments);
    let name = best.run.recipe.clone();
    space.record_evaluations(&serde_json::json!({
        "at": SystemClock.now().to_iso(), "runs": runs, "skipped": skipped, "best": name, "decided_by": DECIDES,
    }))?;
    ui::say(global, format!("{name} is best on validation ({DECIDES}); fitting it on everything"));
    let winner =
        recipes.iter().find(|r| r.name == name).context("the best recipe is one of those compared")?;
    let metrics = serde_json::to_value(&best.run.metrics)?;
    let info = ui::on_pool(global, || space.train(winner, &snapshot, &mut context, metrics))??;
    space.publish(&info.name)?;
    Ok(())
}

/// Highest on validation events, on test events where the split has no validation part.
fn best(experiments: &[Experiment]) -> &Experiment {
    let value = |e: &Experiment| {
        let judged = e.valid.as_ref().unwrap_or(&e.test);
        judged.metrics.get(DECIDES).map_or(f64::MIN, |m| m.value)
    };
    experiments.iter().max_by(|a, b| value(a).total_cmp(&value(b))).expect("compare returns at least one")
}

//! `sommelier evaluate`: fit recipes on one part of the data, ask about the other, print who did how well.

use crate::commands::import::{self, ReadArgs};
use crate::{Global, config, ui};
use anyhow::{Context, Result, bail};
use clap::Args;
use sommelier_core::FitContext;
use sommelier_data::{Snapshot, SplitSpec, TimeQuality};
use sommelier_engine::experiment::{self, Experiment};
use sommelier_engine::{EngineError, Recipe};
use sommelier_eval::{Candidates, EvalConfig, Metric, Profile};
use std::path::PathBuf;

#[derive(Args)]
#[command(after_help = "Examples:\n  sommelier evaluate ease ials item_knn popularity --data ml-100k\n  \
                  sommelier evaluate ease --data events.csv --split time:0.8,0.1,0.1 --at 5,10,20 --json\n  \
                  sommelier evaluate content_knn liger --data shop --split loo+new:0.05\n  \
                  sommelier evaluate ease --set l2=250 --profile recbole --svg leaderboard.svg")]
pub struct EvaluateArgs {
    /// Recipes by name, or paths of recipe files
    #[arg(required = true, value_name = "RECIPE")]
    recipes: Vec<String>,
    /// Files to use instead of the log
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,
    #[command(flatten)]
    read: ReadArgs,
    /// loo, ratio:0.8,0.1,0.1, time:0.8,0.1,0.1, given, lastn:N; +repeats finds items again, +new:0.05 asks for items that are held out [default: given, loo or ratio, whichever the data has]
    #[arg(long)]
    split: Option<SplitSpec>,
    /// Cut-offs
    #[arg(long, value_delimiter = ',', default_value = "10,20")]
    at: Vec<usize>,
    /// Metrics [default: recall, ndcg, mrr, hit, precision, map, coverage, novelty]
    #[arg(long, value_delimiter = ',')]
    metrics: Vec<Metric>,
    /// Whose definitions: recbole, rectools, implicit, lenskit
    #[arg(long, default_value = "recbole")]
    profile: Profile,
    /// What is ranked: all items, sampled:N, or given
    #[arg(long, default_value = "full")]
    candidates: Candidates,
    /// Items of the history may be recommended again
    #[arg(long)]
    keep_seen: bool,
    /// Fit with the validation events too; never compare with figures that did not
    #[arg(long)]
    refit: bool,
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Change a recipe's setting, such as l2=250 (for all recipes named)
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Draw the leaderboard
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

pub fn run(global: &Global, args: &EvaluateArgs) -> Result<()> {
    let recipes: Vec<Recipe> =
        args.recipes.iter().map(|name| recipe(name, &args.set)).collect::<Result<_>>()?;
    let (snapshot, space) = if let Some(path) = &args.data {
        (import::of_files(global, path, &args.read)?, None)
    } else {
        let space = config::open_space(global)?;
        (import::of_log(&space)?, Some(space))
    };
    let spec = args.split.clone().unwrap_or_else(|| default_split(&snapshot));
    let mut settings = EvalConfig {
        at: args.at.clone(),
        profile: args.profile,
        candidates: args.candidates,
        remove_seen: !args.keep_seen,
        seed: args.seed,
        ..EvalConfig::default()
    };
    if !args.metrics.is_empty() {
        settings.metrics.clone_from(&args.metrics);
    }
    let mut context = ui::context(global, args.seed);
    ui::say(global, format!("split {spec}, {} recipes, seed {}", recipes.len(), args.seed));
    let (experiments, skipped) = ui::on_pool(global, || {
        compare(global, &recipes, &snapshot, &spec, &settings, args.refit, &mut context)
    })??;
    let runs: Vec<_> = experiments.iter().map(|e| &e.run).collect();
    let mut document = serde_json::json!({ "runs": runs, "skipped": skipped });
    let coded = experiments.iter().filter_map(|e| Some((e.run.recipe.clone(), e.prepared.quality.as_ref()?)));
    let codes: serde_json::Map<_, _> =
        coded.map(|(recipe, quality)| (recipe, serde_json::json!(quality))).collect();
    if !codes.is_empty() {
        document["codes"] = codes.into();
    }
    let heard = experiments.iter().filter(|e| !e.steering.is_empty());
    let steering: serde_json::Map<_, _> =
        heard.map(|e| (e.run.recipe.clone(), serde_json::json!(e.steering))).collect();
    if !steering.is_empty() {
        document["steering"] = steering.into();
    }
    if let Some(space) = space {
        space.record_evaluations(&document)?;
    }
    if let Some(file) = &args.svg {
        std::fs::write(file, experiment::leaderboard_svg(&experiments))
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    ui::show(global, &document, || {
        experiment::leaderboard(&experiments) + &experiment::steering_lines(&experiments)
    })
}

/// A built-in recipe or a file, with `--set` applied.
pub fn recipe(name: &str, set: &[String]) -> Result<Recipe> {
    let recipe = Recipe::load(name)?;
    Ok(set.iter().try_fold(recipe, |recipe, change| recipe.set(change))?)
}

/// What the files say if they say; leave-one-out where order is known; else random per user.
pub fn default_split(snapshot: &Snapshot) -> SplitSpec {
    let name = if snapshot.given.is_some() {
        "given"
    } else if snapshot.times == TimeQuality::None {
        "ratio:0.8,0.1,0.1"
    } else {
        "loo"
    };
    name.parse().expect("a split of our own")
}

/// Fits and measures each recipe. One that cannot be fitted here (memory, data) is reported and left out; it is an
/// error only if none is left.
pub fn compare(
    global: &Global,
    recipes: &[Recipe],
    snapshot: &Snapshot,
    spec: &SplitSpec,
    settings: &EvalConfig,
    refit: bool,
    context: &mut FitContext,
) -> Result<(Vec<Experiment>, Vec<serde_json::Value>)> {
    let mut done = Vec::new();
    let mut skipped = Vec::new();
    for recipe in recipes {
        let filtered = recipe.data.filters.apply(snapshot);
        let split =
            spec.apply(&filtered, context.seed, refit).context("the data cannot be split this way")?;
        match experiment::run(recipe, &filtered, &split, settings, context) {
            Ok(mut experiment) => {
                experiment.run.peak_rss_mb = ui::peak_rss_mb();
                done.push(experiment);
            }
            Err(EngineError::Fit(error)) if !context.cancel.is_cancelled() && recipes.len() > 1 => {
                ui::say(global, format!("{} is left out: {error}", recipe.name));
                skipped.push(serde_json::json!({ "recipe": recipe.name, "reason": error.to_string() }));
            }
            Err(error) => return Err(error).with_context(|| format!("recipe {}", recipe.name)),
        }
    }
    if done.is_empty() {
        bail!("none of the recipes could be fitted");
    }
    Ok((done, skipped))
}

//! One fit, asked in several ways: what do settings that only shape the answer (a beam's width, what codes count beside vectors) do?
//!
//! `cargo run --release --workspace --example answers -- RECIPE.toml DATA DATASET [--seed N] [--set KEY=VALUE]… -- [KEY=VALUE,…]…` fits the recipe once
//! on the leave-one-out split of DATA with its settings for DATASET, and prints recall and NDCG at 10 on both parts for each list of settings.

use sommelier_core::{Clock, FitContext, Progress, SystemClock};
use sommelier_data::import::{ImportContext, ImportOptions, load};
use sommelier_data::{KindRules, SplitSpec};
use sommelier_engine::{Recipe, experiment};
use sommelier_eval::{EvalConfig, Metric, On, evaluate};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

struct Spoken(Instant);

impl Progress for Spoken {
    fn start(&self, what: &str, _: Option<u64>) {
        eprintln!("{:6.0} s  {what}", self.0.elapsed().as_secs_f64());
    }
    fn at(&self, _: u64) {}
    fn finish(&self) {}
    fn say(&self, words: &str) {
        eprintln!("{:6.0} s  {words}", self.0.elapsed().as_secs_f64());
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let asked = args.iter().position(|a| a == "--").map_or_else(Vec::new, |at| args.split_off(at + 1));
    let [recipe, data, dataset, options @ ..] = &args[..] else {
        return Err("expected RECIPE.toml DATA DATASET; the head of this file says how to ask".into());
    };
    let mut recipe = Recipe::load(recipe)?.tuned(dataset)?;
    let mut seed = 42;
    for pair in options.chunks_exact(2) {
        match &*pair[0] {
            "--seed" => seed = pair[1].parse()?,
            "--set" => recipe = recipe.set(&pair[1])?,
            other => return Err(format!("unknown option {other}").into()),
        }
    }
    let reading = ImportContext::quiet(SystemClock.now());
    let (snapshot, _) = load(Path::new(data), &ImportOptions::default(), &KindRules::new(), &reading)?;
    let split = "loo".parse::<SplitSpec>()?.apply(&snapshot, seed, false)?;
    let config = EvalConfig {
        at: vec![10],
        metrics: vec![Metric::Recall, Metric::Ndcg],
        bootstrap: 0,
        ..EvalConfig::default()
    };
    let threads = std::thread::available_parallelism()?.get();
    let ctx = FitContext { progress: Arc::new(Spoken(Instant::now())), ..FitContext::quiet(seed) };
    let mut ctx = FitContext { threads, ..ctx };
    let fitted = experiment::run(&recipe, &snapshot, &split, &config, &mut ctx)?;
    println!(
        "{}: fit {:.0} s, evaluate {:.0} s",
        recipe.name, fitted.run.seconds.fit, fitted.run.seconds.evaluate
    );
    let weights = fitted.model.weights();
    for settings in std::iter::once("").chain(asked.iter().map(String::as_str)) {
        let mut changed = recipe.clone();
        for change in settings.split(',').filter(|change| !change.is_empty()) {
            changed = changed.set(change)?;
        }
        let model = changed.model.load(&weights)?;
        let start = Instant::now();
        let mut words = vec![format!("{:40}", if settings.is_empty() { "as fitted" } else { settings })];
        for (name, on) in [("validation", On::Valid), ("test", On::Test)] {
            let found = evaluate(&*model, &split, on, &config, &ctx)?;
            words.extend(found.metrics.iter().map(|(key, m)| format!("{name} {key} {:.4}", m.value)));
        }
        println!("{}  {:.1} s", words.join("  "), start.elapsed().as_secs_f64());
    }
    Ok(())
}

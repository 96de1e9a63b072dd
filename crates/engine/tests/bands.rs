//! What generative recipes find on real data stays in a stated interval. Skipped, with a message, where the data is not there.

use sommelier_core::{FitContext, Time};
use sommelier_data::{KindRules, SplitSpec, import};
use sommelier_engine::{Recipe, experiment};
use sommelier_eval::{EvalConfig, Metric};
use std::path::PathBuf;

/// Small, and learned in a few rounds: what is held are intervals around what these very settings find, not the figures of papers.
const SETTINGS: &str = "name = 'small'\nabout = 'x'\n[encode.text]\nkind = 'text'\n[behaviour]\nkind = 'ials'\ndim = 32\niterations = 5\n\
    [encode.both]\nkind = 'fuse'\ninputs = ['text', 'behaviour']\ndim = 48\n";

/// Fits on ml-100k without each person's last two events, and checks recall and NDCG at 10 among all items.
fn check(model: &str, recall: std::ops::Range<f64>, ndcg: std::ops::Range<f64>) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/ml-100k");
    if !path.exists() {
        eprintln!("skipped: {} is not here", path.display());
        return;
    }
    let quiet = import::ImportContext::quiet(Time::default());
    let options = import::ImportOptions::default();
    let (snapshot, _) = import::load(&path, &options, &KindRules::new(), &quiet).unwrap();
    let split = "loo".parse::<SplitSpec>().unwrap().apply(&snapshot, 1, false).unwrap();
    let metrics = vec![Metric::Recall, Metric::Ndcg];
    let config = EvalConfig { at: vec![10], metrics, bootstrap: 0, ..EvalConfig::default() };
    let recipe = Recipe::parse("small", &format!("{SETTINGS}{model}")).unwrap();
    let run = experiment::run(&recipe, &snapshot, &split, &config, &mut FitContext::quiet(1)).unwrap().run;
    println!("{:?} {:?}\n{model}", run.metrics, run.seconds);
    for (key, band) in [("recall@10", recall), ("ndcg@10", ndcg)] {
        let value = run.metrics[key];
        assert!(band.contains(&value), "{key} {value:.4} is not in {band:?}:\n{model}");
    }
}

#[test]
fn setrec() {
    let model = "[model]\nkind = 'setrec'\ndim = 32\nblocks = 1\ninner = 64\nhidden = 32\nsemantic = 2\n\
        training = { epochs = 3, learning_rate = 0.005, patience = 0, validate_every = 9, schedule = { warm_up = 50 } }\n";
    check(model, 0.122..0.166, 0.058..0.081);
}

#[test]
fn codes_that_are_written() {
    let model = "[tokenise]\nof = 'both'\nby = { kind = 'residual', levels = 3, codes = 64 }\n\
        [model]\nkind = 'tiger_decoder'\ndim = 32\nblocks = 1\nheads = 2\ninner = 64\nlength = 20\n\
        training = { epochs = 4, learning_rate = 0.005, patience = 0, validate_every = 9, schedule = { warm_up = 50 } }\n";
    check(model, 0.045..0.085, 0.020..0.040);
}

//! Reproduction: each recipe's published figures beside what this program measures on the same data and protocol.

use crate::recipe::{Bound, Claim};
use crate::{EngineError, Recipe, experiment};
use serde::Serialize;
use sommelier_core::{FitContext, Time};
use sommelier_data::import::{ImportContext, ImportOptions, load};
use sommelier_data::{KindRules, Snapshot, SplitSpec};
use sommelier_eval::{Candidates, Definition, EvalConfig, Metric, MetricValue, Profile, Seconds};
use std::fmt::{self, Write as _};
use std::path::Path;
use std::sync::Arc;

/// All claims that were looked at.
#[derive(Debug, Clone, Serialize)]
pub struct Reproduction {
    pub rows: Vec<Row>,
    pub seed: u64,
    pub threads: usize,
    /// Version of this program.
    pub program: String,
}

/// One claim and what came of it.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    pub recipe: String,
    pub claim: Claim,
    /// The model's settings as fitted, in TOML.
    pub model: String,
    pub outcome: Outcome,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Measured {
        ours: f64,
        /// The figure of each seed, where there are several: `ours` is their mean.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        by_seed: Vec<f64>,
        /// 95 % bootstrap interval over users.
        low: Option<f64>,
        high: Option<f64>,
        definition: Box<Definition>,
        /// Whether the claim holds; null for a guide, which is not held against us.
        holds: Option<bool>,
        fit_seconds: f64,
        evaluate_seconds: f64,
    },
    /// The data set is not on this machine.
    NoData { looked_for: String },
}

/// Fits and measures every claim of these recipes (all built-in ones where none is named) on the data sets in
/// `data_dir`, or on `datasets` of them where some are named. Runs on the current rayon pool.
pub fn run(
    recipes: &[String],
    datasets: &[String],
    data_dir: &Path,
    ctx: &mut FitContext,
) -> Result<Reproduction, EngineError> {
    let recipes = match recipes {
        [] => Recipe::all()?,
        named => named.iter().map(|name| Recipe::load(name)).collect::<Result<_, _>>()?,
    };
    // By data set, so that each is read once (or for each fold) and only one is held.
    let mut jobs: Vec<(&Recipe, &Claim)> =
        recipes.iter().flat_map(|r| r.claims.iter().map(move |c| (r, c))).collect();
    jobs.retain(|(_, claim)| datasets.is_empty() || datasets.contains(&claim.dataset));
    jobs.sort_by_key(|(recipe, claim)| (&claim.dataset, &recipe.name, protocol(claim)));
    let mut rows = Vec::with_capacity(jobs.len());
    let mut held = None;
    for group in jobs
        .chunk_by(|(a, x), (b, y)| a.name == b.name && x.dataset == y.dataset && protocol(x) == protocol(y))
    {
        let (recipe, first) = group[0];
        let folder = data_dir.join(first.dataset.split('/').next().unwrap_or_default());
        if !folder.exists() {
            let outcome = Outcome::NoData { looked_for: folder.display().to_string() };
            rows.extend(group.iter().map(|(_, claim)| row(recipe, claim, outcome.clone())));
            continue;
        }
        let claims: Vec<&Claim> = group.iter().map(|&(_, claim)| claim).collect();
        let recipe = recipe.claimed(first)?;
        let given: Vec<Option<&str>> = match &first.folds[..] {
            [] => vec![None],
            folds => folds.iter().map(|fold| Some(fold.as_str())).collect(),
        };
        let seed = ctx.seed;
        // For each seed the measurements of each fold, claim by claim.
        let mut seeds = vec![Vec::with_capacity(given.len()); first.seeds.max(1)];
        for fold in given {
            let snapshot = read(&mut held, data_dir, first, fold, ctx)?;
            for (n, folds) in seeds.iter_mut().enumerate() {
                ctx.seed = seed + n as u64;
                let measured = measure(&recipe, &claims, snapshot, ctx);
                ctx.seed = seed;
                folds.push(measured?);
            }
        }
        rows.extend(claims.iter().enumerate().map(|(c, claim)| {
            let runs: Vec<Vec<&Measurement>> =
                seeds.iter().map(|folds| folds.iter().map(|fold| &fold[c]).collect()).collect();
            row(&recipe, claim, outcome(claim, &runs))
        }));
    }
    Ok(Reproduction {
        rows,
        seed: ctx.seed,
        threads: ctx.threads,
        program: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

/// Claims that agree in this are answered by one fit and one evaluation of each fold.
fn protocol(claim: &Claim) -> impl Ord + '_ {
    let Claim { split, refit, profile, candidates, folds, events, settings, seeds, .. } = claim;
    let weighed = events.iter().map(|(kind, rule)| format!("{kind} {rule:?}")).collect::<Vec<_>>();
    (split, refit, profile, candidates, folds, weighed, settings.to_string(), seeds)
}

/// The data set last read, and what it was read for.
type Held = Option<(String, KindRules, Option<String>, Snapshot)>;

/// The claim's data set, with that of its own splits where one is named.
fn read<'a>(
    held: &'a mut Held,
    data_dir: &Path,
    claim: &Claim,
    given: Option<&str>,
    ctx: &FitContext,
) -> Result<&'a Snapshot, EngineError> {
    let Claim { dataset, events, .. } = claim;
    let fits = |(name, rules, split, _): &(String, KindRules, Option<String>, Snapshot)| {
        name == dataset && rules == events && split.as_deref() == given
    };
    if !held.as_ref().is_some_and(fits) {
        *held = None;
        let path = data_dir.join(dataset);
        let options = ImportOptions { given: given.map(str::to_owned), ..ImportOptions::default() };
        // Files without times get this one; a published split never looks at it.
        let mut context = ImportContext::quiet(Time::default());
        context.progress = Arc::clone(&ctx.progress);
        context.cancel = ctx.cancel.clone();
        let (snapshot, _) = load(&path, &options, events, &context)
            .map_err(|e| EngineError::Invalid(format!("{}: {e}", path.display())))?;
        *held = Some((dataset.clone(), events.clone(), given.map(str::to_owned), snapshot));
    }
    Ok(&held.as_ref().unwrap_or_else(|| unreachable!("it was just read")).3)
}

/// One claim on one fold with one seed.
#[derive(Clone)]
struct Measurement {
    value: MetricValue,
    seconds: Seconds,
}

/// One fit and one evaluation, for claims of one protocol.
fn measure(
    recipe: &Recipe,
    claims: &[&Claim],
    snapshot: &Snapshot,
    ctx: &mut FitContext,
) -> Result<Vec<Measurement>, EngineError> {
    let first = claims[0];
    let fail = |reason: String| EngineError::Recipe { name: recipe.name.clone(), reason };
    let snapshot = recipe.data.filters.apply(snapshot);
    let spec: SplitSpec =
        first.split.parse().map_err(|e| fail(format!("claim on {}: {e}", first.dataset)))?;
    let split = spec.apply(&snapshot, ctx.seed, first.refit).map_err(|e| fail(e.to_string()))?;
    let wanted: Vec<(Metric, usize)> =
        claims.iter().map(|c| metric_of(&c.metric).map_err(fail)).collect::<Result<_, _>>()?;
    let profile = match &first.profile {
        Some(name) => name.parse().map_err(|e| fail(format!("claim on {}: {e}", first.dataset)))?,
        None => Profile::default(),
    };
    let candidates = match &first.candidates {
        Some(text) => text.parse().map_err(|e| fail(format!("claim on {}: {e}", first.dataset)))?,
        None => Candidates::Full,
    };
    let config = EvalConfig {
        at: wanted.iter().map(|c| c.1).collect(),
        metrics: wanted.iter().map(|c| c.0).collect(),
        profile,
        remove_seen: !split.repeats,
        candidates,
        seed: ctx.seed,
        ..EvalConfig::default()
    };
    let found = experiment::run(recipe, &snapshot, &split, &config, ctx)?;
    let one = |(metric, k): (Metric, usize)| Measurement {
        value: found.test.metrics[&metric.key(profile, k)].clone(),
        seconds: found.run.seconds,
    };
    Ok(wanted.into_iter().map(one).collect())
}

/// One run as it is; of several folds or seeds the mean, the sum of the seconds, and no interval. `runs` are folds by seed.
fn outcome(claim: &Claim, runs: &[Vec<&Measurement>]) -> Outcome {
    let mean =
        |folds: &Vec<&Measurement>| folds.iter().map(|run| run.value.value).sum::<f64>() / folds.len() as f64;
    let by_seed: Vec<f64> = runs.iter().map(mean).collect();
    let ours = by_seed.iter().sum::<f64>() / by_seed.len() as f64;
    let folds = &runs[0];
    let MetricValue { low, high, ref definition, .. } = folds[0].value;
    let mut definition = definition.clone();
    if folds.len() > 1 {
        definition.users = folds.iter().map(|run| run.value.definition.users).sum();
        definition.split = format!("{}, mean of {}", definition.split, claim.folds.join(", "));
    }
    let alone = folds.len() == 1 && runs.len() == 1;
    let seconds = || runs.iter().flatten().map(|run| run.seconds);
    Outcome::Measured {
        ours,
        by_seed: if runs.len() > 1 { by_seed } else { Vec::new() },
        low: low.filter(|_| alone),
        high: high.filter(|_| alone),
        definition: Box::new(definition),
        holds: holds(claim, ours),
        fit_seconds: seconds().map(|s| s.fit).sum(),
        evaluate_seconds: seconds().map(|s| s.evaluate).sum(),
    }
}

/// `recall@20`, `auc`.
fn metric_of(text: &str) -> Result<(Metric, usize), String> {
    let (name, k) = text.split_once('@').unwrap_or((text, "10"));
    let metric = name.parse::<Metric>().map_err(|e| e.to_string())?;
    let k = k
        .parse()
        .ok()
        .filter(|k| *k > 0)
        .ok_or_else(|| format!("expected a metric such as recall@20, received {text:?}"))?;
    Ok((metric, k))
}

fn holds(claim: &Claim, ours: f64) -> Option<bool> {
    let slack = claim.tolerance * claim.published.abs();
    match claim.bound {
        Bound::Within => Some((ours - claim.published).abs() <= slack),
        Bound::AtLeast => Some(ours >= claim.published - slack),
        Bound::Guide => None,
    }
}

fn row(recipe: &Recipe, claim: &Claim, outcome: Outcome) -> Row {
    let model = toml::to_string(&recipe.model).unwrap_or_default();
    Row { recipe: recipe.name.clone(), claim: claim.clone(), model, outcome }
}

impl Row {
    /// What is asked of our figure: `= 0.8878 ± 1 %`, `≥ 0.182`.
    fn wanted(&self) -> String {
        let Claim { published, tolerance, bound, .. } = self.claim;
        match bound {
            Bound::Within => format!("{published} ± {} %", tolerance * 100.0),
            Bound::AtLeast if tolerance == 0.0 => format!("≥ {published}"),
            Bound::AtLeast => format!("≥ {published} − {} %", tolerance * 100.0),
            Bound::Guide => format!("{published} (a guide)"),
        }
    }

    fn verdict(&self) -> &'static str {
        match &self.outcome {
            Outcome::Measured { holds: Some(true), .. } => "holds",
            Outcome::Measured { holds: Some(false), .. } => "MISSED",
            Outcome::Measured { holds: None, .. } => "not judged",
            Outcome::NoData { .. } => "no data here",
        }
    }

    fn ours(&self) -> String {
        match &self.outcome {
            Outcome::Measured { ours, low: Some(low), high: Some(high), .. } => {
                format!("{ours:.4} [{low:.4}, {high:.4}]")
            }
            Outcome::Measured { ours, by_seed, .. } if by_seed.len() > 1 => {
                let (least, most) =
                    by_seed.iter().fold((f64::MAX, f64::MIN), |(l, m), &v| (l.min(v), m.max(v)));
                format!("{ours:.4} ({} seeds: {least:.4} to {most:.4})", by_seed.len())
            }
            Outcome::Measured { ours, .. } => format!("{ours:.4}"),
            Outcome::NoData { .. } => "–".into(),
        }
    }

    fn protocol(&self) -> String {
        match &self.outcome {
            Outcome::Measured { definition: d, .. } if d.metric.is_of_ratings() => {
                format!("split {}, {} users, {}", d.split, d.users, d.variant)
            }
            Outcome::Measured { definition: d, .. } => format!(
                "split {}, {} users, ranking {}, seen {}, {} ({})",
                d.split,
                d.users,
                d.candidates,
                if d.seen_removed { "removed" } else { "kept" },
                d.variant,
                d.profile
            ),
            Outcome::NoData { looked_for } => format!("looked for {looked_for}"),
        }
    }
}

impl Reproduction {
    /// Claims that were measured and do not hold.
    pub fn missed(&self) -> usize {
        self.rows.iter().filter(|r| matches!(r.outcome, Outcome::Measured { holds: Some(false), .. })).count()
    }

    /// One table of claims and one of settings.
    pub fn to_markdown(&self) -> String {
        let mut out = format!(
            "Version {}, seed {}, {} threads. Intervals: 95 % bootstrap over users.\n\n\
             | recipe | data | metric | published | ours | | protocol | source |\n|---|---|---|---|---|---|---|---|\n",
            self.program, self.seed, self.threads
        );
        let cell = |text: &str| text.replace('|', "\\|").replace('\n', "; ");
        for row in &self.rows {
            let note = row.claim.note.as_ref().map_or_else(String::new, |note| format!(" – {note}"));
            let _ = writeln!(
                out,
                "| {} | {} | {} | {} | {} | {} | {} | {}{} |",
                row.recipe,
                row.claim.dataset,
                row.claim.metric,
                cell(&row.wanted()),
                row.ours(),
                row.verdict(),
                cell(&row.protocol()),
                cell(&row.claim.source),
                cell(&note)
            );
        }
        out.push_str("\n| recipe | data | settings | fit s | evaluate s |\n|---|---|---|---|---|\n");
        let mut seen: Vec<(&str, &str, bool, &str)> = Vec::new();
        for row in &self.rows {
            let key = (row.recipe.as_str(), row.claim.dataset.as_str(), row.claim.refit, row.model.as_str());
            let Outcome::Measured { fit_seconds, evaluate_seconds, .. } = row.outcome else { continue };
            if seen.contains(&key) {
                continue;
            }
            seen.push(key);
            let _ = writeln!(
                out,
                "| {} | {}{} | `{}` | {fit_seconds:.2} | {evaluate_seconds:.2} |",
                row.recipe,
                row.claim.dataset,
                if row.claim.refit { " (refit)" } else { "" },
                row.model.trim().replace('\n', "; "),
            );
        }
        out
    }
}

impl fmt::Display for Reproduction {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for row in &self.rows {
            writeln!(f, "{} on {}: {} {}", row.recipe, row.claim.dataset, row.claim.metric, row.verdict())?;
            writeln!(f, "    published {}   {}", row.wanted(), row.claim.source)?;
            writeln!(f, "    ours      {}", row.ours())?;
            writeln!(f, "    {}", row.protocol())?;
            if let Some(note) = &row.claim.note {
                writeln!(f, "    note: {note}")?;
            }
        }
        let judged = self
            .rows
            .iter()
            .filter(|r| matches!(r.outcome, Outcome::Measured { holds: Some(_), .. }))
            .count();
        write!(f, "{} of {judged} claims hold", judged - self.missed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECIPE: &str = "name = 'mine'\nabout = 'x'\n[model]\nkind = 'ease'\nl2 = 2.0\n\
        [[claims]]\ndataset = 'tiny'\nsplit = 'loo'\nmetric = 'recall@1'\npublished = 1.0\nsource = 'by | hand'\n\
        [[claims]]\ndataset = 'tiny'\nsplit = 'loo'\nmetric = 'ndcg@2'\npublished = 0.1\nbound = 'at_least'\nsource = 's'\n\
        [[claims]]\ndataset = 'tiny'\nsplit = 'loo'\nmetric = 'mrr@2'\npublished = 0.9\nbound = 'guide'\nsource = 's'\n\
        [[claims]]\ndataset = 'elsewhere'\nsplit = 'loo'\nmetric = 'mrr@2'\npublished = 0.9\nsource = 's'\n";

    /// Everybody takes a, b, c, d in this order, so that whoever has a, b and c is sure to want d.
    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        let lines: Vec<String> = (1..30).map(|u| format!("{u} 1 2 3 4")).chain(["30 5 6 7".into()]).collect();
        std::fs::create_dir(folder.path().join("tiny")).expect("a folder");
        std::fs::write(folder.path().join("tiny/sequences.txt"), lines.join("\n")).expect("a file");
        folder
    }

    #[test]
    fn claims_are_measured_judged_and_printed() {
        let folder = folder();
        let file = folder.path().join("mine.toml");
        std::fs::write(&file, RECIPE).expect("a file");
        let found =
            run(&[file.display().to_string()], &[], folder.path(), &mut FitContext::quiet(1)).expect("a run");
        let verdicts: Vec<(&str, &str)> =
            found.rows.iter().map(|r| (&*r.claim.metric, r.verdict())).collect();
        assert_eq!(
            verdicts,
            [("mrr@2", "no data here"), ("recall@1", "MISSED"), ("ndcg@2", "holds"), ("mrr@2", "not judged")]
        );
        assert_eq!(found.missed(), 1, "one of thirty likes other things: recall is not 1 within 1 %");
        let text = found.to_string();
        assert!(text.ends_with("1 of 2 claims hold") && text.contains("published 1 ± 1 %"), "{text}");
        let markdown = found.to_markdown();
        assert!(
            markdown.contains("by \\| hand") && markdown.contains("| `kind = \"ease\"; l2 = 2.0"),
            "{markdown}"
        );
        assert!(serde_json::to_string(&found).expect("JSON").contains("\"holds\":true"));
    }

    #[test]
    fn seeds_are_told_apart_and_averaged() {
        let folder = folder();
        let text = "name = 'luck'\nabout = 'x'\n[model]\nkind = 'random'\n[[claims]]\ndataset = 'tiny'\n\
            split = 'loo'\nmetric = 'recall@1'\nseeds = 3\npublished = 0.5\nbound = 'guide'\nsource = 's'\n";
        let file = folder.path().join("luck.toml");
        std::fs::write(&file, text).expect("a file");
        let mut ctx = FitContext::quiet(1);
        let found = run(&[file.display().to_string()], &[], folder.path(), &mut ctx).expect("a run");
        let Outcome::Measured { ours, by_seed, low, .. } = &found.rows[0].outcome else { panic!("measured") };
        assert!(by_seed.len() == 3 && by_seed.iter().any(|v| *v != by_seed[0]) && low.is_none());
        assert!((ours - by_seed.iter().sum::<f64>() / 3.0).abs() < 1e-12);
        assert!(found.to_string().contains("(3 seeds: "), "{found}");
        assert_eq!(ctx.seed, 1, "the caller's seed is as it was");
    }

    #[test]
    fn a_claim_that_makes_no_sense_is_refused() {
        assert!(
            metric_of("rms@10").is_err() && metric_of("recall@0").is_err() && metric_of("recall@x").is_err()
        );
        assert_eq!(metric_of("auc"), Ok((Metric::Auc, 10)));
    }

    #[test]
    fn every_builtin_claim_can_be_read() {
        for recipe in Recipe::all().expect("recipes") {
            for claim in &recipe.claims {
                assert!(metric_of(&claim.metric).is_ok(), "{}: {}", recipe.name, claim.metric);
                assert!(claim.split.parse::<SplitSpec>().is_ok(), "{}: {}", recipe.name, claim.split);
                let candidates = claim.candidates.as_deref().unwrap_or("full");
                assert!(candidates.parse::<Candidates>().is_ok(), "{}: {candidates}", recipe.name);
                let profile = claim.profile.as_deref().unwrap_or("recbole");
                assert!(profile.parse::<Profile>().is_ok(), "{}: {profile}", recipe.name);
            }
        }
    }
}

//! Experiments: a recipe fitted on a split's training part and asked the split's questions, and many side by side.

use crate::prepare::{Prepared, prepare};
use crate::steering::{Axis, steering};
use crate::{EngineError, Recipe};
use sommelier_core::{FitContext, NoProgress, Ranker, Stopped, Validate};
use sommelier_data::{Snapshot, Split};
use sommelier_eval::{
    Candidates, Comparison, DatasetSize, EvalConfig, EvalError, Evaluation, Metric, On, Report, Run, Seconds,
    compare, evaluate, svg_chart, table,
};
use sommelier_models::Model;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// One recipe, fitted and measured.
pub struct Experiment {
    /// What `evaluate --json` prints of it.
    pub run: Run,
    pub test: Evaluation,
    /// Measured where the split has a validation part; what decides between recipes must be decided here.
    pub valid: Option<Evaluation>,
    pub model: Box<dyn Model>,
    /// What was fitted on the catalogue before it.
    pub prepared: Prepared,
    /// How far it follows what people say, where it hears that.
    pub steering: Vec<Axis>,
}

/// Fits on `split.train` and evaluates, on the current rayon pool. `snapshot` is what the split was cut from, filters
/// applied; only its size is looked at.
pub fn run(
    recipe: &Recipe,
    snapshot: &Snapshot,
    split: &Split,
    config: &EvalConfig,
    ctx: &mut FitContext,
) -> Result<Experiment, EngineError> {
    let start = Instant::now();
    let (train, prepared) = prepare(recipe, &split.train, ctx)?;
    ctx.validate = judge(split, config, ctx);
    let model = recipe.model.fit(&train, ctx);
    ctx.validate = None;
    let model = model?;
    let fit = start.elapsed().as_secs_f64();
    let start = Instant::now();
    let test = evaluate(&*model, split, On::Test, config, ctx)?;
    let seconds = Seconds { fit, evaluate: start.elapsed().as_secs_f64() };
    let valid = match evaluate(&*model, split, On::Valid, config, ctx) {
        Ok(valid) => Some(valid),
        // No validation part, or candidates for the test only: a split need not have either.
        Err(EvalError::NoValidation { .. } | EvalError::NoCandidates(_)) => None,
        Err(other) => return Err(other.into()),
    };
    let run = Run {
        recipe: recipe.name.clone(),
        dataset: DatasetSize {
            name: snapshot.name.clone(),
            users: snapshot.users.len(),
            items: snapshot.items.len(),
            events: snapshot.events.len(),
        },
        split: split.name.clone(),
        seed: ctx.seed,
        metrics: BTreeMap::new(),
        validation: valid.iter().flat_map(|v| &v.metrics).map(|(key, m)| (key.clone(), m.value)).collect(),
        seconds,
        peak_rss_mb: None,
        threads: ctx.threads,
        artefact: None,
        definitions: BTreeMap::new(),
    };
    let steering =
        if model.hears() { steering(&*model, &prepared, &train, &split.test, ctx.seed) } else { Vec::new() };
    Ok(Experiment { run: run.measured(&test), test, valid, model, prepared, steering })
}

/// Tells a model that learns in rounds how good it is, on a split's validation part.
struct Judge {
    split: Split,
    config: EvalConfig,
    ctx: FitContext,
}

/// NDCG@10 on the validation part, asked as the test is; nobody judges where there is no such part.
pub(crate) fn judge(split: &Split, config: &EvalConfig, ctx: &FitContext) -> Option<Arc<dyn Validate>> {
    let valid = split.valid.as_ref().filter(|v| v.cases() > 0)?;
    let candidates = match config.candidates {
        // Candidates may be fixed for the test only.
        Candidates::Given if valid.candidates.is_none() => Candidates::Full,
        other => other,
    };
    let config =
        EvalConfig { at: vec![10], metrics: vec![Metric::Ndcg], candidates, bootstrap: 0, ..config.clone() };
    let ctx = FitContext { progress: Arc::new(NoProgress), validate: None, ..ctx.clone() };
    Some(Arc::new(Judge { split: split.clone(), config, ctx }))
}

impl Validate for Judge {
    fn metric(&self) -> String {
        "ndcg@10".to_owned()
    }

    fn judge(&self, model: &dyn Ranker) -> Result<f64, Stopped> {
        match evaluate(model, &self.split, On::Valid, &self.config, &self.ctx) {
            Ok(found) => Ok(found.metrics.values().next().map_or(0.0, |m| m.value)),
            Err(EvalError::Stopped(stopped)) => Err(stopped),
            // Asked in a way that this model cannot be asked: the test will say so.
            Err(_) => Ok(0.0),
        }
    }
}

/// A table of 80 columns, best first, with what the best cannot be told apart from.
pub fn leaderboard(experiments: &[Experiment]) -> String {
    let (report, _) = sorted(experiments);
    if experiments.len() < 2 {
        return table(&report, None);
    }
    let runs: Vec<(&str, &Evaluation)> =
        experiments.iter().map(|e| (e.run.recipe.as_str(), &e.test)).collect();
    match compare(&runs) {
        Ok(comparison) => table(&report, Some(&comparison)) + &verdict(&comparison, &report),
        Err(why) => format!("{}no tests of significance: {why}\n", table(&report, None)),
    }
}

/// How far models follow what people say, a line for each axis; nothing where none hears them.
pub fn steering_lines(experiments: &[Experiment]) -> String {
    let mut lines = Vec::new();
    for experiment in experiments.iter().filter(|e| !e.steering.is_empty()) {
        lines.push(format!("\n{}, asked with a wish and without:\n", experiment.run.recipe));
        lines.extend(experiment.steering.iter().map(|axis| {
            let Axis { name, said, unsaid, .. } = axis;
            format!("  {name:14} {said:.4} {unsaid:.4}  {}\n", axis.counted())
        }));
    }
    lines.concat()
}

/// The same as an SVG chart.
pub fn leaderboard_svg(experiments: &[Experiment]) -> String {
    let (report, keys) = sorted(experiments);
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let title =
        report.runs.first().map_or_else(String::new, |run| format!("Recipes on {}", run.dataset.name));
    svg_chart(&report, &keys, &title)
}

/// Runs by the first NDCG there is, or the first metric; and the metrics, that one first.
fn sorted(experiments: &[Experiment]) -> (Report, Vec<String>) {
    let mut report = Report { runs: experiments.iter().map(|e| e.run.clone()).collect() };
    let mut keys: Vec<String> =
        report.runs.first().map_or_else(Vec::new, |run| run.metrics.keys().cloned().collect());
    keys.sort_by_key(|key| !key.starts_with("ndcg"));
    if let Some(key) = keys.first() {
        report.sort_by(key);
    }
    (report, keys)
}

/// How sure the first place is, in words.
fn verdict(comparison: &Comparison, report: &Report) -> String {
    let Some(metric) = report.runs.first().and_then(|run| run.metrics.keys().find(|k| k.starts_with("ndcg")))
    else {
        return String::new();
    };
    let tests: Vec<_> = comparison.differences.iter().filter(|d| &d.metric == metric).collect();
    let Some(first) = tests.first() else { return String::new() };
    let near: Vec<&str> =
        tests.iter().filter(|d| d.sign_flip.holm >= 0.05).map(|d| d.other.as_str()).collect();
    match near[..] {
        [] => format!("{} is ahead of every other by {metric} (Holm, 5 %)\n", first.best),
        _ => format!("by {metric}, {} is not told apart from {}\n", first.best, near.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sommelier_data::SplitSpec;

    /// Two tastes of eight items that never mix; everybody takes six of one, all but the first and last of a circle.
    fn tastes() -> Snapshot {
        let mut pairs = Vec::new();
        for user in 0..40 {
            for step in 0..6 {
                pairs.push((format!("u{user}"), format!("i{}", (user % 2) * 8 + (user / 2 + step) % 8)));
            }
        }
        let refs: Vec<(&str, &str)> = pairs.iter().map(|(u, i)| (&**u, &**i)).collect();
        Snapshot::from_pairs("tastes", &refs)
    }

    fn recipe(text: &str) -> Recipe {
        Recipe::parse("test", text).expect("a recipe")
    }

    /// Readers who take from two shelves in turn, and a model that is told what they want.
    #[test]
    fn a_model_that_hears_wishes_is_measured_on_how_far_it_follows() {
        let mut rng = sommelier_core::Rng::new(3);
        let pairs: Vec<(String, String)> = (0..80)
            .flat_map(|user| (0..6).map(move |_| user))
            .map(|user| (format!("u{user}"), format!("b{}-{}", rng.below(2), rng.below(12))))
            .collect();
        let refs: Vec<(&str, &str)> = pairs.iter().map(|(u, i)| (&**u, &**i)).collect();
        let mut snapshot = Snapshot::from_pairs("shelves", &refs);
        let info = snapshot.items.iter().map(|id| {
            let mut item = sommelier_core::Item::new(id);
            let shelf = usize::from(id.starts_with("b1"));
            item.properties.insert("genre".into(), ["murder detective", "poem ode"][shelf].into());
            item.properties.insert("title".into(), format!("title{id} {}", ["clue", "sonnet"][shelf]).into());
            Some(item)
        });
        snapshot.item_info = Arc::new(info.collect());
        let split = "loo".parse::<SplitSpec>().unwrap().apply(&snapshot, 1, false).unwrap();
        let config = EvalConfig { at: vec![5], bootstrap: 0, ..EvalConfig::default() };
        let text = "name = 'w'\nabout = 'x'\n[encode.words]\nkind = 'text'\ndim = 8\n[tokenise]\nof = 'words'\n\
            by = { kind = 'residual', levels = 2, codes = 4 }\n[wish]\n[model]\nkind = 'tiger_decoder'\ndim = 16\nblocks = 1\n\
            heads = 2\ninner = 32\ndropout = 0.0\nlength = 8\nbatch = 8\n[model.training]\nepochs = 25\nlearning_rate = 0.01\n\
            patience = 0\n";
        let experiment = run(&recipe(text), &snapshot, &split, &config, &mut FitContext::quiet(1))
            .expect("it can be measured");
        let axis = |name: &str| experiment.steering.iter().find(|axis| axis.name == name).expect("asked");
        for name in ["recommendation", "fine", "coarse", "consolidation"] {
            let Axis { said, unsaid, cases, .. } = *axis(name);
            assert!(cases > 20 && (0.0..=1.0).contains(&said) && (0.0..=1.0).contains(&unsaid), "{name}");
        }
        let (matched, sentiment) = (axis("match"), axis("sentiment"));
        assert!(matched.said > matched.unsaid + 0.2, "{matched:?}");
        assert!(sentiment.said > sentiment.unsaid + 0.2, "{sentiment:?}");
        let lines = steering_lines(&[experiment]);
        assert!(lines.contains("asked with a wish") && lines.lines().all(|l| l.len() <= 80), "{lines}");
        let deaf = recipe(&text.replace("[wish]\n", ""));
        let deaf = run(&deaf, &snapshot, &split, &config, &mut FitContext::quiet(1)).unwrap();
        assert!(deaf.steering.is_empty() && steering_lines(&[deaf]).is_empty());
    }

    #[test]
    fn recipes_are_fitted_measured_and_ranked() {
        let snapshot = tastes();
        let split = "loo".parse::<SplitSpec>().unwrap().apply(&snapshot, 1, false).unwrap();
        let config = EvalConfig { at: vec![5], bootstrap: 50, ..EvalConfig::default() };
        let mut ctx = FitContext::quiet(1);
        let ease = recipe("name = 'ease'\nabout = 'x'\n[model]\nkind = 'ease'\nl2 = 1.0\n");
        let popular = recipe("name = 'popularity'\nabout = 'x'\n[model]\nkind = 'popularity'\n");
        let experiments: Vec<Experiment> =
            [popular, ease].iter().map(|r| run(r, &snapshot, &split, &config, &mut ctx).unwrap()).collect();
        let value = |n: usize| experiments[n].run.metrics["ndcg@5"];
        assert!(value(1) > value(0), "taste beats popularity: {} against {}", value(1), value(0));
        assert!(experiments.iter().all(|e| e.valid.is_some() && e.run.threads == 2));
        assert!(experiments.iter().all(|e| e.run.validation.contains_key("ndcg@5")));
        let text = leaderboard(&experiments);
        let (first, second) = (text.find("│ ease").unwrap(), text.find("│ popularity").unwrap());
        assert!(first < second && text.contains("ndcg@5"), "{text}");
        let svg = leaderboard_svg(&experiments);
        assert!(svg.contains("Recipes on tastes") && svg.contains(">ease<"));
        assert_eq!(leaderboard(&[]), "");
    }
}

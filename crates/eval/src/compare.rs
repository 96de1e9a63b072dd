//! Which differences between runs are more than chance: paired tests over users, corrected for their number.

use crate::evaluate::Evaluation;
use crate::stats;
use serde::{Deserialize, Serialize};

/// Every run against the best of its metric. A family of tests is one metric's: runs − 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    pub differences: Vec<Difference>,
}

/// One run against the best run of one metric, over the same users.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// `ndcg@10`.
    pub metric: String,
    pub best: String,
    pub other: String,
    /// Mean over users of best − other; not negative.
    pub mean: f64,
    pub paired_t: Test,
    pub wilcoxon: Test,
    /// Permutation of signs; makes no assumption about the shape of the differences.
    pub sign_flip: Test,
}

/// A two-sided p, as it is and corrected.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Test {
    pub p: f64,
    pub holm: f64,
    pub benjamini_hochberg: f64,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompareError {
    #[error("{first} and {other} were not measured alike ({key}: {what}); evaluate both in the same way")]
    NotAlike { first: String, other: String, key: String, what: String },
    #[error("{run} has no values per user; compare evaluations of this process, not stored ones")]
    NoUsers { run: String },
}

/// Draws of the permutation test: p from 0.0005 up.
const FLIPS: usize = 1999;

impl Comparison {
    /// Whether `run` is the best of `metric`, or not told apart from it at `level` (sign flips, Holm).
    pub fn ties_with_best(&self, metric: &str, run: &str, level: f64) -> bool {
        !self.differences.iter().any(|d| d.metric == metric && d.other == run && d.sign_flip.holm < level)
    }
}

/// Compares runs by every metric that is a mean over users and that all of them have. Two runs of one name are told
/// apart by their order only.
pub fn compare(runs: &[(&str, &Evaluation)]) -> Result<Comparison, CompareError> {
    let Some(((first_name, first), rest)) = runs.split_first() else {
        return Ok(Comparison { differences: Vec::new() });
    };
    for (name, run) in runs {
        if run.per_user.is_empty() && run.metrics.values().any(|m| m.definition.metric.is_per_user()) {
            return Err(CompareError::NoUsers { run: (*name).to_owned() });
        }
    }
    let mut differences = Vec::new();
    for key in first.per_user.keys() {
        if rest.iter().any(|(_, run)| !run.per_user.contains_key(key)) {
            continue;
        }
        for (name, run) in rest {
            check_alike((first_name, first), (name, run), key)?;
        }
        differences.extend(against_best(runs, key));
    }
    Ok(Comparison { differences })
}

fn check_alike(
    (first_name, first): (&str, &Evaluation),
    (name, run): (&str, &Evaluation),
    key: &str,
) -> Result<(), CompareError> {
    let (a, b) = (&first.metrics[key].definition, &run.metrics[key].definition);
    let what = if a != b {
        format!(
            "{} on {} of {} against {} on {} of {}",
            a.variant, a.split, a.snapshot, b.variant, b.split, b.snapshot
        )
    } else if first.per_user[key].len() != run.per_user[key].len() {
        format!("{} users against {}", first.per_user[key].len(), run.per_user[key].len())
    } else {
        return Ok(());
    };
    let (first, other) = (first_name.to_owned(), name.to_owned());
    Err(CompareError::NotAlike { first, other, key: key.to_owned(), what })
}

fn against_best(runs: &[(&str, &Evaluation)], key: &str) -> Vec<Difference> {
    let definition = &runs[0].1.metrics[key].definition;
    let sign = if definition.metric.higher_is_better() == Some(false) { -1.0 } else { 1.0 };
    let value = |run: &Evaluation| sign * run.metrics[key].value;
    let best =
        (0..runs.len()).rev().max_by(|&a, &b| value(runs[a].1).total_cmp(&value(runs[b].1))).unwrap_or(0);
    let mut tests: Vec<(usize, f64, [f64; 3])> = Vec::new();
    for other in (0..runs.len()).filter(|&o| o != best) {
        let pairs = runs[best].1.per_user[key].iter().zip(&runs[other].1.per_user[key]);
        let d: Vec<f64> = pairs.map(|(a, b)| sign * (a - b)).collect();
        let mean = d.iter().sum::<f64>() / d.len().max(1) as f64;
        let p = [stats::paired_t(&d).1, stats::wilcoxon(&d).1, stats::sign_flip(&d, FLIPS, definition.seed)];
        tests.push((other, mean, p));
    }
    let corrected: Vec<Vec<Test>> = (0..3)
        .map(|which| {
            let p: Vec<f64> = tests.iter().map(|t| t.2[which]).collect();
            let (holm, bh) = (stats::holm(&p), stats::benjamini_hochberg(&p));
            (0..p.len()).map(|i| Test { p: p[i], holm: holm[i], benjamini_hochberg: bh[i] }).collect()
        })
        .collect();
    let difference = |(i, &(other, mean, _)): (usize, &(usize, f64, [f64; 3]))| Difference {
        metric: key.to_owned(),
        best: runs[best].0.to_owned(),
        other: runs[other].0.to_owned(),
        mean,
        paired_t: corrected[0][i],
        wilcoxon: corrected[1][i],
        sign_flip: corrected[2][i],
    };
    tests.iter().enumerate().map(difference).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::MetricValue;
    use crate::metric::{Definition, Metric, Profile};
    use sommelier_core::Rng;

    fn evaluation(values: Vec<f64>) -> Evaluation {
        let definition = Definition {
            metric: Metric::Ndcg,
            variant: "v".into(),
            profile: Profile::Recbole,
            cut_off: Some(10),
            candidates: "all items".into(),
            split: "loo".into(),
            on: "test".into(),
            seen_removed: true,
            users: values.len(),
            ties: String::new(),
            seed: 0,
            snapshot: "s@0".into(),
        };
        let value = values.iter().sum::<f64>() / values.len() as f64;
        Evaluation {
            metrics: [("ndcg@10".to_owned(), MetricValue { value, low: None, high: None, definition })]
                .into(),
            users: values.len(),
            per_user: [("ndcg@10".to_owned(), values)].into(),
        }
    }

    fn noisy(mean: f64, seed: u64) -> Evaluation {
        let mut rng = Rng::new(seed);
        evaluation((0..300).map(|_| mean + 0.1 * rng.normal()).collect())
    }

    #[test]
    fn real_differences_stand_out_and_chance_does_not() {
        let (a, b, c) = (noisy(0.5, 1), noisy(0.5, 2), noisy(0.4, 3));
        let found = compare(&[("a", &a), ("b", &b), ("c", &c)]).unwrap();
        assert_eq!(found.differences.len(), 2);
        assert!(found.ties_with_best("ndcg@10", "a", 0.05) && found.ties_with_best("ndcg@10", "b", 0.05));
        assert!(!found.ties_with_best("ndcg@10", "c", 0.05));
        let far = found.differences.iter().find(|d| d.other == "c").unwrap();
        assert!(far.paired_t.holm < 1e-6 && far.wilcoxon.holm < 1e-6 && far.sign_flip.p <= 0.0005);
        assert!((far.mean - 0.1).abs() < 0.03);
    }

    #[test]
    fn unlike_runs_are_not_compared() {
        let (a, mut b) = (noisy(0.5, 1), noisy(0.5, 2));
        b.metrics.get_mut("ndcg@10").unwrap().definition.split = "ratio:0.8,0.1,0.1".into();
        let error = compare(&[("a", &a), ("b", &b)]).unwrap_err();
        assert!(matches!(&error, CompareError::NotAlike { .. }), "{error}");
        b.per_user.clear();
        assert!(matches!(compare(&[("a", &a), ("b", &b)]), Err(CompareError::NoUsers { .. })));
    }
}

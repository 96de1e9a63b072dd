//! What `evaluate --json` prints: one document with a list of runs.

use crate::evaluate::{Evaluation, MetricValue};
use crate::metric::Definition;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub runs: Vec<Run>,
}

/// One recipe on one split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    pub recipe: String,
    pub dataset: DatasetSize,
    pub split: String,
    pub seed: u64,
    /// `recall@10`, `ndcg@10`, …
    pub metrics: BTreeMap<String, f64>,
    /// The same on the validation part, where the split has one: what chooses between settings.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub validation: BTreeMap<String, f64>,
    pub seconds: Seconds,
    /// Of the whole process; null where the system does not say.
    pub peak_rss_mb: Option<f64>,
    pub threads: usize,
    /// Digest or folder of the artefact that answered; null where none was kept.
    pub artefact: Option<String>,
    /// What each metric means, and its 95 % interval where it has one.
    #[serde(default)]
    pub definitions: BTreeMap<String, Defined>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Defined {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub low: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub high: Option<f64>,
    #[serde(flatten)]
    pub definition: Definition,
}

/// Size of the data before the split, after filters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatasetSize {
    pub name: String,
    pub users: usize,
    pub items: usize,
    pub events: usize,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Seconds {
    pub fit: f64,
    pub evaluate: f64,
}

impl Run {
    /// Fills `metrics` and `definitions`; the rest is the caller's to know.
    pub fn measured(mut self, evaluation: &Evaluation) -> Run {
        for (key, MetricValue { value, low, high, definition }) in &evaluation.metrics {
            self.metrics.insert(key.clone(), *value);
            let defined = Defined { low: *low, high: *high, definition: definition.clone() };
            self.definitions.insert(key.clone(), defined);
        }
        self
    }
}

impl Report {
    /// Best first by `key`; runs without it last.
    pub fn sort_by(&mut self, key: &str) {
        let ascending = self
            .runs
            .iter()
            .find_map(|run| run.definitions.get(key))
            .is_some_and(|d| d.definition.metric.higher_is_better() == Some(false));
        let rank =
            |run: &Run| run.metrics.get(key).map_or(f64::NEG_INFINITY, |v| if ascending { -v } else { *v });
        self.runs.sort_by(|a, b| rank(b).total_cmp(&rank(a)));
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::metric::{Metric, Profile};

    pub(crate) fn run(recipe: &str, values: &[(&str, f64)]) -> Run {
        let run = Run {
            recipe: recipe.into(),
            dataset: DatasetSize { name: "d".into(), users: 2, items: 3, events: 4 },
            split: "loo".into(),
            seed: 7,
            metrics: BTreeMap::new(),
            validation: BTreeMap::new(),
            seconds: Seconds { fit: 1.5, evaluate: 0.25 },
            peak_rss_mb: Some(12.0),
            threads: 2,
            artefact: None,
            definitions: BTreeMap::new(),
        };
        let metrics = values.iter().map(|&(key, value)| {
            let metric: Metric = key.split('@').next().unwrap().parse().unwrap();
            let definition = Definition {
                metric,
                variant: metric.variant(Profile::Recbole).into(),
                profile: Profile::Recbole,
                cut_off: key.split_once('@').map(|(_, k)| k.parse().unwrap()),
                candidates: "all items".into(),
                split: "loo".into(),
                on: "test".into(),
                seen_removed: true,
                users: 2,
                ties: "lower index first".into(),
                seed: 7,
                snapshot: "d@0".into(),
            };
            let value = MetricValue { value, low: Some(value - 0.01), high: Some(value + 0.01), definition };
            (key.to_owned(), value)
        });
        run.measured(&Evaluation { metrics: metrics.collect(), per_user: BTreeMap::new(), users: 2 })
    }

    #[test]
    fn the_document_has_the_agreed_fields() {
        let report = Report { runs: vec![run("ease", &[("recall@10", 0.25), ("ndcg@10", 0.125)])] };
        let json = serde_json::to_value(&report).unwrap();
        let run = &json["runs"][0];
        assert_eq!(run["dataset"], serde_json::json!({"name": "d", "users": 2, "items": 3, "events": 4}));
        assert_eq!(run["metrics"], serde_json::json!({"recall@10": 0.25, "ndcg@10": 0.125}));
        assert_eq!(run["seconds"], serde_json::json!({"fit": 1.5, "evaluate": 0.25}));
        for key in ["recipe", "split", "seed", "peak_rss_mb", "threads", "artefact"] {
            assert!(run.get(key).is_some(), "{key}");
        }
        assert_eq!(run["definitions"]["recall@10"]["variant"], "hits / |R|");
        assert_eq!(serde_json::from_value::<Report>(json).unwrap(), report);
    }

    #[test]
    fn best_first_whichever_way_is_best() {
        let order = |key: &str| {
            let of = |name, value| run(name, &[(key, value)]);
            let mut report = Report { runs: vec![of("low", 0.1), of("high", 0.3), of("middle", 0.2)] };
            report.sort_by(key);
            report.runs.into_iter().map(|r| r.recipe).collect::<Vec<_>>()
        };
        assert_eq!(order("ndcg@10"), ["high", "middle", "low"]);
        assert_eq!(order("gini@10"), ["low", "middle", "high"]);
    }
}

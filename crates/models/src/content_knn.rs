//! Nearest items by content: what is like what a person took, by vectors that come with the catalogue.
//!
//! u = Σ_j x_j v_j over the last `recent` items of the history, score(i) = cos(u, v_i); v_i is item i's vector at length 1. Nothing
//! is learned from events, so an item that nobody took stands as good a chance as any: the opponent for whoever claims to know new items.
//!
//! Shapes: v (items × k); scores (items).
//! Cost: items · k an answer; memory items · k.
//! Source: the baseline that Rajput et al., "Recommender Systems with Generative Retrieval" (TIGER), NeurIPS 2023,
//! arXiv:2305.05065, call Semantic KNN; `recent` above 1 is ours: the mean direction of several items, not the last alone.

use crate::item2vec::to_unit;
use crate::linear_factors::LinearFactors;
use crate::model::plan;
use crate::{FitError, LoadError, Model, Weights};
use serde::{Deserialize, Serialize};
use sommelier_core::{Allowed, Candidate, Explain, FitContext, Item, ItemIx, ResolvedQuery, Retrieve, Score};
use sommelier_data::Snapshot;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ContentKnnConfig {
    /// The vectors of items: of an encoder of the recipe, or a property that is a list of numbers.
    pub property: String,
    /// Only this many last steps of a history count; 0 for all.
    pub recent: usize,
    /// Whether an item of a history counts its weight, or 1.
    pub weighted: bool,
}

impl Default for ContentKnnConfig {
    fn default() -> ContentKnnConfig {
        ContentKnnConfig { property: "text".into(), recent: 1, weighted: false }
    }
}

/// The items' vectors; those of later items lie beside them.
pub struct ContentKnn {
    property: String,
    factors: RwLock<LinearFactors>,
}

impl ContentKnnConfig {
    pub fn fit(&self, train: &Snapshot, ctx: &mut FitContext) -> Result<ContentKnn, FitError> {
        ctx.cancel.check()?;
        let given = train.item_vectors(&self.property).map_err(FitError::NoData)?;
        let why = format!("a vector of {} numbers for each of {} items", given.dim, train.items.len());
        plan(ctx, 3 * 4 * given.rows.len() as u64, &why, "describe items by shorter vectors")?;
        let mut rows = given.rows.clone();
        to_unit(&mut rows, given.dim);
        let factors = LinearFactors::new(&rows, given.dim, true, self.recent, self.weighted);
        factors.map(|factors| self.model(factors)).map_err(|e| FitError::Numeric(e.to_string()))
    }

    pub fn load(&self, weights: &Weights) -> Result<ContentKnn, LoadError> {
        LinearFactors::take(weights, true, self.recent, self.weighted).map(|factors| self.model(factors))
    }

    fn model(&self, factors: LinearFactors) -> ContentKnn {
        ContentKnn { property: self.property.clone(), factors: RwLock::new(factors) }
    }
}

impl ContentKnn {
    /// Nobody leaves the vectors half written: a lock that a panic poisoned is as good as any.
    fn factors(&self) -> RwLockReadGuard<'_, LinearFactors> {
        self.factors.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Score for ContentKnn {
    fn items(&self) -> usize {
        self.factors().items()
    }

    fn score(&self, q: &ResolvedQuery, items: &[ItemIx], out: &mut [f32]) {
        self.factors().score(q, items, out);
    }
}

impl Retrieve for ContentKnn {
    fn retrieve(&self, q: &ResolvedQuery, k: usize, allowed: &Allowed) -> Vec<Candidate> {
        self.factors().retrieve(q, k, allowed)
    }

    fn retrieve_batch(
        &self,
        queries: &[ResolvedQuery],
        k: usize,
        allowed: &[Allowed],
    ) -> Vec<Vec<Candidate>> {
        self.factors().retrieve_batch(queries, k, allowed)
    }
}

impl Explain for ContentKnn {
    fn contributions(&self, q: &ResolvedQuery, item: ItemIx, limit: usize) -> Vec<(ItemIx, f32)> {
        self.factors().contributions(q, item, limit)
    }
}

impl Model for ContentKnn {
    fn kind(&self) -> &'static str {
        "content_knn"
    }

    fn weights(&self) -> Weights {
        let mut weights = Weights::default();
        self.factors().put(&mut weights);
        weights
    }

    fn meet(&self, item: ItemIx, info: &Item) -> bool {
        let mut factors = self.factors.write().unwrap_or_else(PoisonError::into_inner);
        if item.ix() < factors.items() {
            return true;
        }
        let dim = factors.dim();
        let vector = info.vector(&self.property).filter(|v| v.len() == dim && v.iter().any(|&x| x != 0.0));
        let unit = vector.map(|mut v| {
            to_unit(&mut v, dim);
            v
        });
        factors.meet(item, unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::sync::Arc;

    fn item(id: &str, list: &[f32]) -> Item {
        let mut item = Item::new(id);
        if !list.is_empty() {
            item.properties.insert("text".into(), json!(list));
        }
        item
    }

    /// By hand: u took a and b, which lie at 0° and 90°; c lies at 45°, d at 60°, e has no vector.
    #[test]
    fn the_nearest_come_first_and_later_items_among_them() {
        let pairs = [("u", "a"), ("u", "b"), ("w", "c"), ("w", "d"), ("w", "e")];
        let mut snapshot = Snapshot::from_pairs("t", &pairs);
        let at = |degrees: f32, length: f32| {
            let radians = degrees.to_radians();
            vec![length * radians.cos(), length * radians.sin()]
        };
        let vectors: [Vec<f32>; 5] = [at(0.0, 2.0), at(90.0, 0.1), at(45.0, 1.0), at(60.0, 9.0), vec![]];
        let info =
            snapshot.items.iter().map(|id| Some(item(id, &vectors[(id.as_bytes()[0] - b'a') as usize])));
        snapshot.item_info = Arc::new(info.collect());
        let ix = |id: &str| ItemIx(snapshot.items.get(id).unwrap());
        let all = ContentKnnConfig { recent: 0, ..ContentKnnConfig::default() };
        let model = all.fit(&snapshot, &mut FitContext::quiet(1)).unwrap();
        let asked = ResolvedQuery::from_items([ix("a"), ix("b")]);
        let mut scores = [0f32; 5];
        model.score(&asked, &["a", "b", "c", "d", "e"].map(ix), &mut scores);
        let cos = |degrees: f32| degrees.to_radians().cos();
        for (score, expected) in scores.iter().zip([cos(45.0), cos(45.0), 1.0, cos(15.0), 0.0]) {
            assert!((score - expected).abs() < 1e-5, "{scores:?}");
        }
        let last = ContentKnnConfig::default().fit(&snapshot, &mut FitContext::quiet(1)).unwrap();
        let unseen = Allowed::everything().without([ix("a"), ix("b")]);
        assert_eq!(last.retrieve(&asked, 1, &unseen)[0].item, ix("d"), "of b alone");

        let late = ItemIx(snapshot.items.len() as u32 + 3);
        assert!(!model.meet(late, &item("new", &[])) && !model.meet(late, &item("new", &[0.0, 0.0])));
        assert!(!model.meet(late, &item("new", &[1.0, 0.0, 0.0])), "another length");
        assert!(model.meet(late, &item("new", &at(50.0, 7.0))));
        let order = |model: &ContentKnn, q: &ResolvedQuery| -> Vec<u32> {
            model.retrieve(q, 3, &unseen).iter().map(|c| c.item.0).collect()
        };
        assert_eq!(order(&model, &asked), [ix("c").0, late.0, ix("d").0]);
        let batch = model.retrieve_batch(std::slice::from_ref(&asked), 3, std::slice::from_ref(&unseen));
        assert_eq!(batch[0], model.retrieve(&asked, 3, &unseen));
        // It counts in a history too, and is explained.
        let read = ResolvedQuery::from_items([late]);
        assert_eq!(order(&model, &read)[..2], [late.0, ix("c").0]);
        let parts = model.contributions(&asked, late, 5);
        let sum: f32 = parts.iter().map(|p| p.1).sum();
        let mut score = [0f32];
        model.score(&asked, &[late], &mut score);
        assert!(parts.len() == 2 && (sum - score[0]).abs() < 1e-5, "{parts:?} of {score:?}");
        let like = ResolvedQuery { like: vec![late], ..ResolvedQuery::default() };
        assert_eq!(order(&model, &like)[..2], [late.0, ix("c").0]);
        assert!(!model.meet(late, &item("new", &[])), "it lost its vector");
        assert_eq!(order(&model, &asked), [ix("c").0, ix("d").0, ix("e").0]);
    }

    #[test]
    fn a_catalogue_without_vectors_is_told() {
        let snapshot = Snapshot::from_pairs("t", &[("u", "a")]);
        let error = ContentKnnConfig::default().fit(&snapshot, &mut FitContext::quiet(1)).err().unwrap();
        assert!(error.to_string().contains("\"text\""), "{error}");
    }
}

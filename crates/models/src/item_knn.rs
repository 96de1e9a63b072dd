//! ItemKNN: what was chosen by the same people is alike; a score is the sum of an item's likeness to one's own items.
//!
//! s_j = Σ_i x_i W_ij, W_ij = sim(i, j) for the `top_k` nearest, 0 elsewhere (similarities: see `similarity.rs`)
//!
//! Shapes: X (users × items) sparse; W (items × items) sparse, at most items × top_k entries.
//! Cost: Σ_u n_u² products to fit, O(history × top_k) a query.
//! Source: Sarwar et al., "Item-based collaborative filtering recommendation algorithms", WWW 2001; Deshpande and
//! Karypis, "Item-based top-N recommendation algorithms", TOIS 2004 (`normalise`).

use crate::item_item::ItemItem;
use crate::similarity::{Measure, Similarity, Weighting, neighbours};
use crate::{FitError, LoadError, Model, Weights};
use serde::{Deserialize, Serialize};
use sommelier_core::{Allowed, Candidate, Csr, Explain, FitContext, ItemIx, ResolvedQuery, Retrieve, Score};
use sommelier_data::snapshot::Snapshot;

/// Whose `top_k` nearest are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// Each item of a history speaks for its nearest.
    #[default]
    OfHistory,
    /// Each candidate listens to its nearest: the textbook form.
    OfCandidate,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ItemKnnConfig {
    pub similarity: Measure,
    pub weighting: Weighting,
    pub top_k: usize,
    pub keep: Keep,
    /// Added to the denominator of a similarity.
    pub shrink: f32,
    /// Divide each candidate's similarities by their sum, so that items with many near ones do not lead by that alone.
    pub normalise: bool,
    /// Count the weights of events; false: each pair counts 1.
    pub weighted: bool,
    /// BM25's saturation and length correction.
    pub k1: f32,
    pub b: f32,
    /// Tversky's weights.
    pub alpha: f32,
    pub beta: f32,
}

impl Default for ItemKnnConfig {
    /// Plain cosine over 100 neighbours; k1 and b are those of implicit's `BM25Recommender`.
    fn default() -> ItemKnnConfig {
        ItemKnnConfig {
            similarity: Measure::Cosine,
            weighting: Weighting::None,
            top_k: 100,
            keep: Keep::OfHistory,
            shrink: 0.0,
            normalise: false,
            weighted: true,
            k1: 1.2,
            b: 0.75,
            alpha: 1.0,
            beta: 1.0,
        }
    }
}

#[derive(Debug, Clone)]
pub struct ItemKnn(ItemItem);

impl ItemKnnConfig {
    pub fn fit(&self, snapshot: &Snapshot, ctx: &mut FitContext) -> Result<ItemKnn, FitError> {
        let mut items = snapshot.interactions().by_item.clone();
        if !self.weighted {
            items.value.fill(1.0);
        }
        let mut near = neighbours(&items, &self.options(), ctx)?;
        if self.keep == Keep::OfCandidate {
            near = near.transpose();
        }
        if self.normalise {
            divide_by_column_sums(&mut near);
        }
        Ok(ItemKnn(ItemItem::new(near, self.weighted)))
    }

    pub fn load(&self, weights: &Weights) -> Result<ItemKnn, LoadError> {
        ItemItem::take(weights, self.weighted).map(ItemKnn)
    }

    fn options(&self) -> Similarity {
        Similarity {
            weighting: self.weighting,
            measure: self.similarity,
            top_k: self.top_k,
            shrink: self.shrink,
            k1: self.k1,
            b: self.b,
            alpha: self.alpha,
            beta: self.beta,
        }
    }
}

fn divide_by_column_sums(w: &mut Csr) {
    let mut sums = vec![0f32; w.cols];
    for (&j, &v) in w.index.iter().zip(&w.value) {
        sums[j as usize] += v;
    }
    for (&j, v) in w.index.iter().zip(&mut w.value) {
        *v /= sums[j as usize];
    }
}

impl Score for ItemKnn {
    fn items(&self) -> usize {
        self.0.items()
    }

    fn score(&self, q: &ResolvedQuery, items: &[ItemIx], out: &mut [f32]) {
        self.0.score(q, items, out);
    }
}

impl Retrieve for ItemKnn {
    fn retrieve(&self, q: &ResolvedQuery, k: usize, allowed: &Allowed) -> Vec<Candidate> {
        self.0.retrieve(q, k, allowed)
    }

    fn retrieve_batch(
        &self,
        queries: &[ResolvedQuery],
        k: usize,
        allowed: &[Allowed],
    ) -> Vec<Vec<Candidate>> {
        self.0.retrieve_batch(queries, k, allowed)
    }
}

impl Explain for ItemKnn {
    /// Exact: the shares sum to the score.
    fn contributions(&self, q: &ResolvedQuery, item: ItemIx, limit: usize) -> Vec<(ItemIx, f32)> {
        self.0.contributions(q, item, limit)
    }
}

impl Model for ItemKnn {
    fn kind(&self) -> &'static str {
        "item_knn"
    }

    fn weights(&self) -> Weights {
        let mut weights = Weights::default();
        self.0.put(&mut weights);
        weights
    }
}

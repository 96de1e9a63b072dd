//! item2vec: item vectors from which items stand near each other in histories.
//!
//! Skip-gram with negative sampling (`sgns.rs`) with items as words and histories as sentences;
//! score(i) = cos(Σ_j x_j v_j / |v_j|, v_i).
//!
//! Shapes: v (items × D); scores (items).
//! Cost: O(events · window · negatives · D) a pass, O(items · D) memory.
//! Source: Barkan, Koenigstein, "Item2Vec: Neural Item Embedding for Collaborative Filtering", MLSP 2016, arXiv:1603.04259.
//! Departures: where the order of events is known the window follows it (the paper takes whole sets); people are
//! answered by the mean direction of their items, which the paper leaves open.

use crate::linear_factors::LinearFactors;
use crate::model::plan;
use crate::rows::delegate_model;
use crate::sgns::{Side, SkipGram};
use crate::{FitError, LoadError, Weights};
use serde::{Deserialize, Serialize};
use sommelier_core::FitContext;
use sommelier_data::Snapshot;

/// Defaults follow word2vec and have not been tuned on a data set yet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Item2vecConfig {
    pub skip_gram: SkipGram,
    /// Only this many last steps of a history count in an answer; 0 for all.
    pub recent: usize,
    /// Whether an item of a history counts its weight, or 1.
    pub weighted: bool,
}

impl Default for SkipGram {
    fn default() -> SkipGram {
        SkipGram {
            dim: 64,
            window: 5,
            negatives: 10,
            power: 0.75,
            subsample: 1e-3,
            epochs: 30,
            learning_rate: 0.05,
        }
    }
}

impl Default for Item2vecConfig {
    fn default() -> Item2vecConfig {
        Item2vecConfig { skip_gram: SkipGram::default(), recent: 0, weighted: true }
    }
}

/// The item vectors, each of length 1 (0 where the item was never seen).
#[derive(Debug, Clone)]
pub struct Item2vec(LinearFactors);

impl Item2vecConfig {
    pub fn fit(&self, train: &Snapshot, ctx: &mut FitContext) -> Result<Item2vec, FitError> {
        self.skip_gram.check()?;
        let items = train.items.len();
        let why = format!("two vectors of {} numbers for each of {items} items", self.skip_gram.dim);
        plan(ctx, self.skip_gram.bytes(items), &why, "lower dim")?;
        let mut vectors = self.skip_gram.train(train, &Side::default(), ctx)?;
        to_unit(&mut vectors, self.skip_gram.dim);
        LinearFactors::new(&vectors, self.skip_gram.dim, true, self.recent, self.weighted)
            .map(Item2vec)
            .map_err(|e| FitError::Numeric(e.to_string()))
    }

    pub fn load(&self, weights: &Weights) -> Result<Item2vec, LoadError> {
        LinearFactors::take(weights, true, self.recent, self.weighted).map(Item2vec)
    }
}

/// Scales each vector to length 1; one of length 0 stays.
pub(crate) fn to_unit(vectors: &mut [f32], dim: usize) {
    for v in vectors.chunks_exact_mut(dim) {
        let norm = sommelier_nn::kernel::dot(v, v).sqrt();
        if norm > 0.0 {
            v.iter_mut().for_each(|v| *v /= norm);
        }
    }
}

delegate_model!(Item2vec, "item2vec");

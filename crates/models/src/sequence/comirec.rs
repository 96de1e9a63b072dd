//! ComiRec: several vectors for one person, each for one of their interests.
//!
//! x_t = E[i_t] + P[t]; A = softmax over the steps of tanh(x W₁ᵀ) W₂ᵀ, one column for each interest; V = Aᵀ x;
//! score(j | history) = max_k V_k · E[j]. What is learned is the interest nearest the right item, for beginnings of a history.
//!
//! Shapes: E (items × D), P (length × D), W₁ (4 D × D), W₂ (interests × 4 D), V (interests × D); scores (items).
//! Cost: O(L D²) a beginning; memory a step's activations.
//! Source: Cen et al., "Controllable Multi-Interest Framework for Recommendation", KDD 2020, arXiv:2005.09347 (ComiRec-SA).
//! Departures: the loss is a choice of the recipe (the paper draws ten negatives from all items); `beginnings` of each
//! window are learned in a step, not one; diversity of a slate is `diversity` of the query, for all models alike.

use super::beginnings::learn_nearest;
use super::{Architecture, Batch, Embedder, Encoder, Lesson, SequenceConfig, sequence_model};
use crate::FitError;
use crate::model::require;
use serde::{Deserialize, Serialize};
use sommelier_core::Rng;
use sommelier_nn::op::{Embed, Linear};
use sommelier_nn::train::Settings;
use sommelier_nn::{Activation, Init, ParamId, Params, Tape, Var};
use std::sync::Arc;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ComirecConfig {
    /// Length of a vector.
    pub dim: usize,
    /// Vectors of one person.
    pub interests: usize,
    /// Share of numbers dropped in training.
    pub dropout: f32,
    /// Beginnings of a window that are learned in one step, at most.
    pub beginnings: usize,
    pub sequence: SequenceConfig,
    pub training: Settings,
}

impl Default for ComirecConfig {
    fn default() -> ComirecConfig {
        ComirecConfig {
            dim: 64,
            interests: 4,
            dropout: 0.2,
            beginnings: 4,
            sequence: SequenceConfig::default(),
            training: Settings::default(),
        }
    }
}

sequence_model!(ComirecConfig, "comirec");

impl Architecture for ComirecConfig {
    fn check(&self) -> Result<(), FitError> {
        for (name, value) in
            [("dim", self.dim), ("interests", self.interests), ("beginnings", self.beginnings)]
        {
            require(name, value as f64, value > 0, "at least 1")?;
        }
        require("dropout", self.dropout.into(), (0.0..1.0).contains(&self.dropout), "0 or more, and below 1")
    }

    fn build(&self, params: &mut Params) -> Arc<dyn Encoder> {
        Arc::new(Comirec {
            places: params.add("places", self.sequence.length, self.dim, Init::Normal(self.sequence.initial)),
            hidden: params.add("attention.0", 4 * self.dim, self.dim, Init::Glorot),
            interests: params.add("attention.1", self.interests, 4 * self.dim, Init::Glorot),
            config: self.clone(),
        })
    }

    fn numbers_per_step(&self) -> usize {
        2 * self.beginnings * (2 * self.dim + 8 * self.dim)
    }
}

struct Comirec {
    places: ParamId,
    hidden: ParamId,
    interests: ParamId,
    config: ComirecConfig,
}

impl Encoder for Comirec {
    fn rows(&self, batch: &Batch) -> usize {
        batch.ragged.iter().map(|r| r.len().min(self.config.beginnings)).sum()
    }

    fn learn(&self, tape: &mut Tape, items: Embedder, batch: &Batch, _: f32, rng: &mut Rng) -> Lesson {
        let (beginnings, right) = batch.beginnings(self.config.beginnings, false, rng);
        let vectors = self.encode(tape, items, &beginnings);
        learn_nearest(tape, items, vectors, self.config.interests, right)
    }

    /// The interests of each person.
    fn encode(&self, tape: &mut Tape, items: Embedder, batch: &Batch) -> Var {
        let places = Some((self.places.into(), batch.places.clone()));
        let with = Embed { places, dropout: self.config.dropout, ..Embed::default() };
        let x = items.rows(tape, &batch.items, with);
        let hidden =
            tape.linear(x, self.hidden, Linear { activation: Activation::Tanh, ..Linear::default() });
        let weights = tape.linear(hidden, self.interests, Linear::default());
        let weights = tape.segment_softmax(weights, &batch.ragged);
        tape.weighted_pool(x, weights, &batch.ragged)
    }

    fn answer(&self, tape: &mut Tape, items: Embedder, batch: &Batch) -> Var {
        self.encode(tape, items, batch)
    }
}

//! CAPE: a transformer whose places are decided by what stands between two steps, not by how many.
//!
//! As SASRec without places at the input; s_ij += q_i · e[p_ij] / √w with p_ij = Σ_{k=j..i} (1 − σ(q_i · k_k / √w)): a step like the
//! query hardly counts as distance, one unlike it counts as a whole place. e is read between two rows in proportion.
//!
//! Shapes: e (places × w), w the width of a head, one for each block; scores (items).
//! Cost: that of SASRec, and O(L (places + L) D); memory a step's activations.
//! Source: Yuan, Cai, Dong, "A Contextual-Aware Position Encoding for Sequential Recommendation", WWW 2025, arXiv:2502.09027.
//! Departures: those of `sasrec.rs`; scores and places are scaled by 1/√w alike, and added without a gate.

use super::sasrec::{causal_stack, check_attention, numbers_per_step};
use super::{Architecture, Batch, Embedder, Encoder, SequenceConfig, sequence_model};
use crate::FitError;
use crate::model::require;
use serde::{Deserialize, Serialize};
use sommelier_nn::layer::Transformer;
use sommelier_nn::op::{Bias, Embed};
use sommelier_nn::train::Settings;
use sommelier_nn::{Init, ParamId, Params, Tape, Var};
use std::sync::Arc;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CapeConfig {
    /// Length of a vector.
    pub dim: usize,
    pub blocks: usize,
    pub heads: usize,
    /// Share of numbers dropped in training.
    pub dropout: f32,
    /// Farther steps count as at the last place.
    pub places: usize,
    pub sequence: SequenceConfig,
    pub training: Settings,
}

impl Default for CapeConfig {
    fn default() -> CapeConfig {
        CapeConfig {
            dim: 64,
            blocks: 2,
            heads: 1,
            dropout: 0.2,
            places: 32,
            sequence: SequenceConfig::default(),
            training: Settings::default(),
        }
    }
}

sequence_model!(CapeConfig, "cape");

impl Architecture for CapeConfig {
    fn check(&self) -> Result<(), FitError> {
        require("places", self.places as f64, self.places > 0, "at least 1")?;
        check_attention(self.dim, self.blocks, self.heads, self.dropout)
    }

    fn build(&self, params: &mut Params) -> Arc<dyn Encoder> {
        let width = self.dim / self.heads;
        let small = Init::Normal(self.sequence.initial);
        let mut table = |b: usize| params.add(&format!("places.{b}"), self.places, width, small);
        let places = (0..self.blocks).map(&mut table).collect();
        let stack = causal_stack(params, self.dim, self.blocks, self.heads, self.dropout);
        Arc::new(Cape { places, stack, dropout: self.dropout })
    }

    fn numbers_per_step(&self) -> usize {
        numbers_per_step(self.dim, self.blocks)
    }
}

struct Cape {
    /// One table for each block.
    places: Vec<ParamId>,
    stack: Transformer,
    dropout: f32,
}

impl Encoder for Cape {
    fn encode(&self, tape: &mut Tape, items: Embedder, batch: &Batch) -> Var {
        self.read(tape, items, batch, false)
    }

    fn answer(&self, tape: &mut Tape, items: Embedder, batch: &Batch) -> Var {
        self.read(tape, items, batch, true)
    }
}

impl Cape {
    fn read(&self, tape: &mut Tape, items: Embedder, batch: &Batch, newest: bool) -> Var {
        let x = items.rows(tape, &batch.items, Embed { dropout: self.dropout, ..Embed::default() });
        let biases = |block: usize| vec![Bias::Context { of: self.places[block].into() }];
        self.stack.run(tape, x, &batch.ragged, &biases, newest)
    }
}

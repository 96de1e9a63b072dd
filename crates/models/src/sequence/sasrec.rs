//! SASRec: a causal transformer over the items of a history.
//!
//! x_t = E[i_t] + P[n − t], then blocks of self-attention that see what is before them, and a feed-forward layer of the same width;
//! score(j | history) = x_n · E[j], with one table for reading and for scoring.
//!
//! Shapes: E (items × D), P (length × D); scores (items).
//! Cost: O(L² D + L D²) a history and block, O(L · items · D) for the softmax over the catalogue; memory a step's activations.
//! Source: Kang, McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018, arXiv:1808.09781.
//! Departures: the loss is a choice (softmax over all items by default; the paper has binary cross entropy with one
//! negative, `loss = { kind = "bce", negatives = 1 }`); queries, keys and values are all of the normed input, as in the
//! paper's equations (its code norms only the queries); items are not scaled by √D. Positions count back from the newest step, as they do in the paper, whose histories are padded at their beginning.

use super::{Architecture, Batch, Embedder, Encoder, SequenceConfig, sequence_model};
use crate::FitError;
use crate::model::require;
use serde::{Deserialize, Serialize};
use sommelier_nn::layer::{Order, Transformer, TransformerConfig};
use sommelier_nn::op::Embed;
use sommelier_nn::train::Settings;
use sommelier_nn::{Activation, Init, ParamId, Params, Tape, Var};
use std::sync::Arc;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SasrecConfig {
    /// Length of a vector.
    pub dim: usize,
    pub blocks: usize,
    pub heads: usize,
    /// Share of numbers dropped in training.
    pub dropout: f32,
    pub sequence: SequenceConfig,
    pub training: Settings,
}

impl Default for SasrecConfig {
    fn default() -> SasrecConfig {
        SasrecConfig {
            dim: 64,
            blocks: 2,
            heads: 1,
            dropout: 0.2,
            sequence: SequenceConfig::default(),
            training: Settings::default(),
        }
    }
}

sequence_model!(SasrecConfig, "sasrec");

impl Architecture for SasrecConfig {
    fn check(&self) -> Result<(), FitError> {
        check_attention(self.dim, self.blocks, self.heads, self.dropout)
    }

    fn build(&self, params: &mut Params) -> Arc<dyn Encoder> {
        let places =
            params.add("places", self.sequence.length, self.dim, Init::Normal(self.sequence.initial));
        let stack = causal_stack(params, self.dim, self.blocks, self.heads, self.dropout);
        Arc::new(Sasrec { places, stack, dropout: self.dropout })
    }

    fn numbers_per_step(&self) -> usize {
        numbers_per_step(self.dim, self.blocks)
    }
}

struct Sasrec {
    places: ParamId,
    stack: Transformer,
    dropout: f32,
}

impl Encoder for Sasrec {
    fn encode(&self, tape: &mut Tape, items: Embedder, batch: &Batch) -> Var {
        self.read(tape, items, batch, false)
    }

    fn answer(&self, tape: &mut Tape, items: Embedder, batch: &Batch) -> Var {
        self.read(tape, items, batch, true)
    }
}

impl Sasrec {
    fn read(&self, tape: &mut Tape, items: Embedder, batch: &Batch, newest: bool) -> Var {
        let places = Some((self.places.into(), batch.places.clone()));
        let x = items.rows(tape, &batch.items, Embed { places, dropout: self.dropout, ..Embed::default() });
        self.stack.run(tape, x, &batch.ragged, &|_| Vec::new(), newest)
    }
}

/// The blocks of SASRec and of what varies it.
pub(super) fn causal_stack(
    params: &mut Params,
    dim: usize,
    blocks: usize,
    heads: usize,
    dropout: f32,
) -> Transformer {
    let config = TransformerConfig {
        dim,
        blocks,
        heads,
        inner: dim,
        activation: Activation::Relu,
        dropout,
        causal: true,
        order: Order::NormFirst,
        init: Init::Glorot,
    };
    Transformer::new(params, "", config)
}

/// What those blocks take on a tape.
pub(super) fn numbers_per_step(dim: usize, blocks: usize) -> usize {
    2 * dim * (2 + 10 * blocks)
}

/// What a stack of attention can be.
pub(super) fn check_attention(dim: usize, blocks: usize, heads: usize, dropout: f32) -> Result<(), FitError> {
    require("dim", dim as f64, dim > 0, "at least 1")?;
    require("blocks", blocks as f64, blocks > 0, "at least 1")?;
    require("heads", heads as f64, heads > 0 && dim.is_multiple_of(heads), "a divisor of dim")?;
    require("dropout", dropout.into(), (0.0..1.0).contains(&dropout), "0 or more, and below 1")
}

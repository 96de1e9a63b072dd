//! BERT4Rec: a transformer that sees both sides, and learns to tell items that were masked.
//!
//! x_t = E[i_t] + P[t], E[mask] where an item is masked; blocks of self-attention that see everything; what is told of a masked
//! step is score(j) = f(x_t W + b) · E[j]. Asked for what comes next, a mask is put behind the history.
//!
//! Shapes: E (items × D), P (length + 1 × D); scores (items).
//! Cost: O(L² D + L D²) a history and block; memory a step's activations.
//! Source: Sun et al., "BERT4Rec: Sequential Recommendation with Bidirectional Encoder Representations from Transformer",
//! CIKM 2019, arXiv:1904.06690.
//! Departures: positions count back from the end of what is read; each window is masked anew in each epoch instead of ten times
//! beforehand; no bias for each item; as in the paper's code some windows mask only their last item, so that training sees
//! what is asked (here a share of them, `last`).

use super::sasrec::check_attention;
use super::{Architecture, Batch, Embedder, Encoder, Lesson, SequenceConfig, sequence_model};
use crate::FitError;
use crate::model::require;
use serde::{Deserialize, Serialize};
use sommelier_core::Rng;
use sommelier_nn::layer::{Order, Transformer, TransformerConfig};
use sommelier_nn::op::{Embed, Linear, NO_ROW};
use sommelier_nn::train::Settings;
use sommelier_nn::{Activation, Init, ParamId, Params, Ragged, Tape, Var};
use std::sync::Arc;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Bert4recConfig {
    /// Length of a vector.
    pub dim: usize,
    pub blocks: usize,
    pub heads: usize,
    /// Share of numbers dropped in training.
    pub dropout: f32,
    /// Share of items masked.
    pub masked: f64,
    /// Share of windows of which only the last item is masked.
    pub last: f64,
    pub sequence: SequenceConfig,
    pub training: Settings,
}

impl Default for Bert4recConfig {
    fn default() -> Bert4recConfig {
        Bert4recConfig {
            dim: 64,
            blocks: 2,
            heads: 2,
            dropout: 0.2,
            masked: 0.2,
            last: 0.1,
            sequence: SequenceConfig::default(),
            training: Settings::default(),
        }
    }
}

sequence_model!(Bert4recConfig, "bert4rec");

impl Architecture for Bert4recConfig {
    fn check(&self) -> Result<(), FitError> {
        let share = |x: f64| (0.0..=1.0).contains(&x);
        require("masked", self.masked, share(self.masked) && self.masked > 0.0, "above 0, at most 1")?;
        require("last", self.last, share(self.last), "0 to 1")?;
        check_attention(self.dim, self.blocks, self.heads, self.dropout)
    }

    fn build(&self, params: &mut Params) -> Arc<dyn Encoder> {
        let small = Init::Normal(self.sequence.initial);
        let stack = TransformerConfig {
            dim: self.dim,
            blocks: self.blocks,
            heads: self.heads,
            inner: 4 * self.dim,
            activation: Activation::Gelu,
            dropout: self.dropout,
            causal: false,
            order: Order::NormLast,
            init: small,
        };
        Arc::new(Bert4rec {
            // The mask's own vector is the last row: a step that is masked reads it with its place.
            places: params.add("places", self.sequence.length + 1, self.dim, small),
            mask: params.add("mask", 1, self.dim, small),
            first_norm: [
                params.add("norm.weight", 1, self.dim, Init::Ones),
                params.add("norm.bias", 1, self.dim, Init::Zeros),
            ],
            stack: Transformer::new(params, "", stack),
            out: [
                params.add("out.weight", self.dim, self.dim, small),
                params.add("out.bias", 1, self.dim, Init::Zeros),
            ],
            out_norm: [
                params.add("out_norm.weight", 1, self.dim, Init::Ones),
                params.add("out_norm.bias", 1, self.dim, Init::Zeros),
            ],
            config: self.clone(),
        })
    }

    fn numbers_per_step(&self) -> usize {
        2 * self.dim * (4 + 18 * self.blocks)
    }
}

struct Bert4rec {
    places: ParamId,
    mask: ParamId,
    first_norm: [ParamId; 2],
    stack: Transformer,
    out: [ParamId; 2],
    out_norm: [ParamId; 2],
    config: Bert4recConfig,
}

impl Bert4rec {
    /// Vectors of the masked steps `told`; items of [`NO_ROW`] are masked.
    fn tell(&self, tape: &mut Tape, items: Embedder, read: &Read, told: Vec<u32>) -> Var {
        let places = Some((self.places.into(), read.places.clone()));
        let x = items.rows(tape, &read.items, Embed { places, ..Embed::default() });
        let masked = read.items.iter().map(|&i| if i == NO_ROW { 0 } else { NO_ROW }).collect();
        let masks = tape.embed(
            sommelier_nn::loss::Items::Matrix(self.mask.into()),
            Arc::new(masked),
            Embed::default(),
        );
        let x = tape.add(x, masks);
        let x = tape.layer_norm(x, self.first_norm[0], self.first_norm[1]);
        let x = tape.drop_out(x, self.config.dropout);
        let x = self.stack.run(tape, x, &read.ragged, &|_| Vec::new(), false);
        let x = tape.pick_rows(x, told);
        let [weight, bias] = self.out;
        let with = Linear { bias: Some(bias.into()), activation: Activation::Gelu, ..Linear::default() };
        let x = tape.linear(x, weight, with);
        tape.layer_norm(x, self.out_norm[0], self.out_norm[1])
    }
}

/// What is read, some of it masked.
struct Read {
    ragged: Arc<Ragged>,
    items: Arc<Vec<u32>>,
    places: Arc<Vec<u32>>,
}

impl Encoder for Bert4rec {
    fn reads_whole(&self) -> bool {
        true
    }

    fn rows(&self, batch: &Batch) -> usize {
        (batch.items.len() as f64 * self.config.masked).ceil() as usize
    }

    fn learn(&self, tape: &mut Tape, items: Embedder, batch: &Batch, _: f32, rng: &mut Rng) -> Lesson {
        let mut masked = (*batch.items).clone();
        let (mut told, mut right) = (Vec::new(), Vec::new());
        for range in batch.ragged.iter() {
            let only_last = rng.unit() < self.config.last;
            let before = told.len();
            for row in range.clone() {
                let hide = if only_last { row + 1 == range.end } else { rng.unit() < self.config.masked };
                // Somebody must be told of each window.
                if hide || (row + 1 == range.end && told.len() == before) {
                    told.push(row as u32);
                    right.push(batch.items[row]);
                    masked[row] = NO_ROW;
                }
            }
        }
        let read =
            Read { ragged: batch.ragged.clone(), items: Arc::new(masked), places: batch.places.clone() };
        let vectors = self.tell(tape, items, &read, told);
        Lesson { vectors, right: Arc::new(right), further: Vec::new(), aside: None }
    }

    fn encode(&self, tape: &mut Tape, items: Embedder, batch: &Batch) -> Var {
        self.answer(tape, items, batch)
    }

    fn answer(&self, tape: &mut Tape, items: Embedder, batch: &Batch) -> Var {
        let ragged = Ragged::of(batch.ragged.iter().map(|r| r.len() + 1));
        let mut all = Vec::with_capacity(ragged.rows());
        for range in batch.ragged.iter() {
            all.extend_from_slice(&batch.items[range]);
            all.push(NO_ROW);
        }
        let told = ragged.last_rows().map(|r| r as u32).collect();
        let places = ragged.places_back().map(|p| p as u32).collect();
        let read = Read { ragged: Arc::new(ragged), items: Arc::new(all), places: Arc::new(places) };
        self.tell(tape, items, &read, told)
    }
}

//! HSTU: hierarchical sequential transduction units, pointwise attention gated by the step itself.
//!
//! In each block, with X̂ = LN(X): U, V, Q, K = silu(X̂ Wᵀ + b) side by side; A = silu(Q Kᵀ + rab) / N; X ← X + (LN(A V) ∘ U) W₂ᵀ + b₂.
//! rab is a number for each distance in places and one for each stretch of time; N is the length that is read.
//! score(j | history) = x_n · E[j].
//!
//! Shapes: E (items × D); U, V (L × heads · value width), Q, K (L × heads · key width); scores (items).
//! Cost: O(L² (key + value width) + L D²) a history and block; memory a step's activations.
//! Source: Zhai et al., "Actions Speak Louder than Words: Trillion-Parameter Sequential Transducers for Generative
//! Recommendations", ICML 2024, arXiv:2402.17152; biases and buckets as in its published code.
//! Departures: histories are ragged, so nothing is padded; positions are added at the input too, as in that code, but counted
//! back from the newest step; stretches of time are those between a step and what is to be told, in seconds, and play no part where the data have no clock.

use super::sasrec::check_attention;
use super::{Architecture, Batch, Embedder, Encoder, SequenceConfig, sequence_model};
use crate::FitError;
use crate::model::require;
use serde::{Deserialize, Serialize};
use sommelier_nn::op::{Attention, Bias, Buckets, Embed, Gate, Linear, TimeScale, Weighing};
use sommelier_nn::train::Settings;
use sommelier_nn::{Activation, Init, ParamId, Params, Tape, Var};
use std::sync::Arc;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HstuConfig {
    /// Length of a vector.
    pub dim: usize,
    pub blocks: usize,
    pub heads: usize,
    /// Width of a query and a key in one head; 0 for dim / heads.
    pub key_width: usize,
    /// Width of a value in one head; 0 for dim / heads.
    pub value_width: usize,
    /// Share of numbers dropped in training.
    pub dropout: f32,
    /// Whether how long ago something happened counts.
    pub times: bool,
    pub sequence: SequenceConfig,
    pub training: Settings,
}

impl Default for HstuConfig {
    fn default() -> HstuConfig {
        HstuConfig {
            dim: 64,
            blocks: 2,
            heads: 1,
            key_width: 0,
            value_width: 0,
            dropout: 0.2,
            times: false,
            sequence: SequenceConfig::default(),
            training: Settings::default(),
        }
    }
}

/// Buckets of time: ln(seconds) / 0.301, as the published code has them.
const TIMES: usize = 128;
const PER_DOUBLING: f32 = std::f32::consts::LN_2 / 0.301;

sequence_model!(HstuConfig, "hstu");

impl HstuConfig {
    /// Widths of a key and of a value in one head.
    fn widths(&self) -> (usize, usize) {
        let even = self.dim / self.heads.max(1);
        let of = |width: usize| if width == 0 { even } else { width };
        (of(self.key_width), of(self.value_width))
    }
}

impl Architecture for HstuConfig {
    fn check(&self) -> Result<(), FitError> {
        if self.key_width > 0 && self.value_width > 0 {
            require("heads", self.heads as f64, self.heads > 0, "at least 1")?;
        }
        let heads = if self.key_width > 0 && self.value_width > 0 { 1 } else { self.heads };
        check_attention(self.dim, self.blocks, heads, self.dropout)
    }

    fn build(&self, params: &mut Params) -> Arc<dyn Encoder> {
        let (key, value) = self.widths();
        let wide = 2 * self.heads * (key + value);
        let outer = self.heads * value;
        let small = Init::Normal(self.sequence.initial);
        let places = params.add("places", self.sequence.length, self.dim, small);
        let blocks = (0..self.blocks)
            .map(|b| {
                let mut add = |part: &str, rows: usize, cols: usize, init: Init| {
                    params.add(&format!("blocks.{b}.{part}"), rows, cols, init)
                };
                Block {
                    norms: [
                        [
                            add("norm.weight", 1, self.dim, Init::Ones),
                            add("norm.bias", 1, self.dim, Init::Zeros),
                        ],
                        [
                            add("attention_norm.weight", 1, outer, Init::Ones),
                            add("attention_norm.bias", 1, outer, Init::Zeros),
                        ],
                    ],
                    uvqk: [
                        add("uvqk.weight", wide, self.dim, Init::Glorot),
                        add("uvqk.bias", 1, wide, Init::Zeros),
                    ],
                    out: [
                        add("out.weight", self.dim, outer, Init::Glorot),
                        add("out.bias", 1, self.dim, Init::Zeros),
                    ],
                    by_place: add("by_place", 1, self.sequence.length, small),
                    by_time: self.times.then(|| add("by_time", 1, TIMES, small)),
                }
            })
            .collect();
        Arc::new(Hstu { config: self.clone(), places, blocks })
    }

    fn numbers_per_step(&self) -> usize {
        let (key, value) = self.widths();
        2 * (2 * self.dim + self.blocks * (2 * self.dim + self.heads * (5 * value + 4 * key)))
    }
}

struct Block {
    /// Gain and bias of both norms.
    norms: [[ParamId; 2]; 2],
    uvqk: [ParamId; 2],
    out: [ParamId; 2],
    by_place: ParamId,
    by_time: Option<ParamId>,
}

struct Hstu {
    config: HstuConfig,
    places: ParamId,
    blocks: Vec<Block>,
}

impl Encoder for Hstu {
    fn encode(&self, tape: &mut Tape, items: Embedder, batch: &Batch) -> Var {
        self.read(tape, items, batch, false)
    }

    fn answer(&self, tape: &mut Tape, items: Embedder, batch: &Batch) -> Var {
        self.read(tape, items, batch, true)
    }
}

impl Hstu {
    /// With `newest` the last block is only asked of the newest steps, which come out alone.
    fn read(&self, tape: &mut Tape, items: Embedder, batch: &Batch, newest: bool) -> Var {
        let HstuConfig { heads, dropout, .. } = self.config;
        let (key, value) = self.config.widths();
        let length = self.config.sequence.length;
        let places = Some((self.places.into(), batch.places.clone()));
        let mut x = items.rows(tape, &batch.items, Embed { places, dropout, ..Embed::default() });
        let seconds = |times: &[i64]| Arc::new(times.iter().map(|t| t / 1000).collect::<Vec<i64>>());
        let clock = self.config.times.then(|| (seconds(&batch.now), seconds(&batch.at)));
        for (b, block) in self.blocks.iter().enumerate() {
            let newest = newest && b + 1 == self.blocks.len();
            let [[gain, bias], [gain_2, bias_2]] = block.norms;
            let y = tape.layer_norm(x, gain, bias);
            let [weight, bias] = block.uvqk;
            let with = Linear { bias: Some(bias.into()), activation: Activation::Silu, ..Linear::default() };
            let uvqk = tape.linear(y, weight, with);
            let mut biases =
                vec![Bias::Numbers { of: block.by_place.into(), buckets: Buckets::Places { count: length } }];
            if let (Some((now, then)), Some(table)) = (&clock, block.by_time) {
                let (now, then) = (now.clone(), then.clone());
                let scale = TimeScale::Logarithmic(PER_DOUBLING);
                biases.push(Bias::Numbers {
                    of: table.into(),
                    buckets: Buckets::Times { now, then, scale, count: TIMES },
                });
            }
            let outer = heads * value;
            let attention = Attention {
                heads,
                columns: [2 * outer, 2 * outer + heads * key, outer],
                key_width: key,
                value_width: value,
                scale: 1.0,
                weighing: Weighing::Silu(length as f32),
                causal: true,
                newest,
                dropout: 0.0,
                biases,
                visible: None,
            };
            let o = tape.attention(uvqk, &batch.ragged, attention);
            let o = tape.layer_norm(o, gain_2, bias_2);
            let mut gates = uvqk;
            if newest {
                let rows: Vec<u32> = batch.ragged.last_rows().map(|r| r as u32).collect();
                (x, gates) = (tape.pick_rows(x, rows.clone()), tape.pick_rows(uvqk, rows));
            }
            let gate = Gate { from: [0, 0], width: outer, activation: Activation::Identity, dropout };
            let o = tape.gate(gates, o, gate);
            let [weight, bias] = block.out;
            x = tape.linear(
                o,
                weight,
                Linear { bias: Some(bias.into()), residual: Some(x), ..Linear::default() },
            );
        }
        x
    }
}

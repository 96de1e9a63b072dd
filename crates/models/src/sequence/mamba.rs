//! A selective state-space model over the items of a history: its state decides from each item what to keep.
//!
//! x = drop(LN(E[i])); in each block, x ← LN(x + drop(M(x))), x ← LN(x + drop(F(x))). M is a Mamba layer: x Wᵢₙᵀ gives u and a
//! gate z; u goes through a short causal convolution and SiLU; u gives Δ, B and C; the state follows
//! h_t = e^(Δ_t A) h_{t−1} + Δ_t B_t u_t, y_t = C_t · h_t + D u_t; and M = (y ∘ silu(z)) W_outᵀ. F is a feed-forward layer of
//! four times the width. score(j | history) = x_n · E[j].
//!
//! Shapes: inner width expand · D, states a channel; scores (items).
//! Cost: O(L D (D + states)) a history and block: linear in its length; memory a step's activations.
//! Sources: Gu, Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", 2023, arXiv:2312.00752; Liu et al.,
//! "Mamba4Rec: Towards Efficient Sequential Recommendation with Selective State Space Models", 2024, arXiv:2403.03900.
//! Departures: Δ's step begins at softplus⁻¹ of a number drawn between 0.001 and 0.1 evenly in its logarithm by channel number, not
//! by chance.

use super::{Architecture, Batch, Embedder, Encoder, SequenceConfig, sequence_model};
use crate::FitError;
use crate::model::require;
use serde::{Deserialize, Serialize};
use sommelier_nn::op::{Conv, Embed, Linear, Scan};
use sommelier_nn::train::Settings;
use sommelier_nn::{Activation, Init, ParamId, Params, Tape, Var};
use std::sync::Arc;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MambaConfig {
    /// Length of a vector.
    pub dim: usize,
    pub blocks: usize,
    /// The layer is so many times as wide inside.
    pub expand: usize,
    /// Numbers of state in each channel.
    pub states: usize,
    /// Steps that the short convolution sees.
    pub taps: usize,
    /// Share of numbers dropped in training.
    pub dropout: f32,
    pub sequence: SequenceConfig,
    pub training: Settings,
}

impl Default for MambaConfig {
    fn default() -> MambaConfig {
        MambaConfig {
            dim: 64,
            blocks: 1,
            expand: 2,
            states: 32,
            taps: 4,
            dropout: 0.2,
            sequence: SequenceConfig::default(),
            training: Settings::default(),
        }
    }
}

sequence_model!(MambaConfig, "mamba");

impl Architecture for MambaConfig {
    fn check(&self) -> Result<(), FitError> {
        for (name, value) in [
            ("dim", self.dim),
            ("blocks", self.blocks),
            ("expand", self.expand),
            ("states", self.states),
            ("taps", self.taps),
        ] {
            require(name, value as f64, value > 0, "at least 1")?;
        }
        require("dropout", self.dropout.into(), (0.0..1.0).contains(&self.dropout), "0 or more, and below 1")
    }

    fn build(&self, params: &mut Params) -> Arc<dyn Encoder> {
        let (dim, inner, states) = (self.dim, self.expand * self.dim, self.states);
        let rank = dim.div_ceil(16);
        let fan = |cols: usize| Init::Uniform(1.0 / (cols as f32).sqrt());
        let norm = |params: &mut Params, name: &str| {
            [
                params.add(&format!("{name}.weight"), 1, dim, Init::Ones),
                params.add(&format!("{name}.bias"), 1, dim, Init::Zeros),
            ]
        };
        let first_norm = norm(params, "norm");
        let blocks = (0..self.blocks)
            .map(|b| {
                let norms = [
                    norm(params, &format!("blocks.{b}.norm")),
                    norm(params, &format!("blocks.{b}.feed_forward_norm")),
                ];
                let mut add = |part: &str, rows: usize, cols: usize, init: Init| {
                    params.add(&format!("blocks.{b}.{part}"), rows, cols, init)
                };
                let block = Block {
                    norms,
                    into: [
                        add("in_proj_u.weight", inner, dim, fan(dim)),
                        add("in_proj_z.weight", inner, dim, fan(dim)),
                    ],
                    conv: [
                        add("conv1d.weight", inner, self.taps, fan(self.taps)),
                        add("conv1d.bias", 1, inner, fan(self.taps)),
                    ],
                    select: add("x_proj.weight", rank + 2 * states, inner, fan(inner)),
                    delta: add("dt_proj.weight", inner, rank, Init::Uniform(1.0 / (rank as f32).sqrt())),
                    delta_bias: add("dt_proj.bias", 1, inner, Init::Zeros),
                    a_log: add("A_log", inner, states, Init::Zeros),
                    skip: add("D", 1, inner, Init::Ones),
                    out: add("out_proj.weight", dim, inner, fan(inner)),
                    wide: [
                        add("feed_forward.0.weight", 4 * dim, dim, Init::Glorot),
                        add("feed_forward.0.bias", 1, 4 * dim, Init::Zeros),
                    ],
                    narrow: [
                        add("feed_forward.1.weight", dim, 4 * dim, Init::Glorot),
                        add("feed_forward.1.bias", 1, dim, Init::Zeros),
                    ],
                };
                // A = −1, −2, …, −states in every channel.
                let log = |i: usize| ((i % states + 1) as f32).ln();
                params.get_mut(block.a_log).value.iter_mut().enumerate().for_each(|(i, a)| *a = log(i));
                let bias = &mut params.get_mut(block.delta_bias).value;
                let channels = bias.len().max(2) - 1;
                for (c, bias) in bias.iter_mut().enumerate() {
                    let step = 0.001 * 100f32.powf(c as f32 / channels as f32);
                    *bias = (step.exp() - 1.0).ln();
                }
                block
            })
            .collect();
        Arc::new(Mamba { config: self.clone(), rank, first_norm, blocks })
    }

    fn numbers_per_step(&self) -> usize {
        2 * self.dim * (3 + self.blocks * (8 + 7 * self.expand))
    }
}

struct Block {
    /// Gain and bias of both norms.
    norms: [[ParamId; 2]; 2],
    /// To u and to the gate z.
    into: [ParamId; 2],
    conv: [ParamId; 2],
    /// To Δ (by a narrow way), B and C.
    select: ParamId,
    delta: ParamId,
    delta_bias: ParamId,
    a_log: ParamId,
    skip: ParamId,
    out: ParamId,
    wide: [ParamId; 2],
    narrow: [ParamId; 2],
}

struct Mamba {
    config: MambaConfig,
    /// Width of the narrow way to Δ.
    rank: usize,
    first_norm: [ParamId; 2],
    blocks: Vec<Block>,
}

impl Encoder for Mamba {
    fn encode(&self, tape: &mut Tape, items: Embedder, batch: &Batch) -> Var {
        let MambaConfig { dropout, states, .. } = self.config;
        let x = items.rows(tape, &batch.items, Embed { dropout, ..Embed::default() });
        let mut x = tape.layer_norm(x, self.first_norm[0], self.first_norm[1]);
        for block in &self.blocks {
            let u = tape.linear(x, block.into[0], Linear::default());
            let z = tape.linear(x, block.into[1], Linear::default());
            let with = Conv { bias: Some(block.conv[1].into()), activation: Activation::Silu };
            let u = tape.conv_depthwise(u, block.conv[0], with, &batch.ragged);
            let select = tape.linear(u, block.select, Linear::default());
            let narrow = tape.columns(select, 0, self.rank);
            let delta = tape.linear(narrow, block.delta, Linear::default());
            let scan = Scan {
                u,
                delta,
                bias: block.delta_bias.into(),
                a_log: block.a_log.into(),
                b: (select, self.rank),
                c: (select, self.rank + states),
                d: block.skip.into(),
                gate: Some((z, 0)),
            };
            let y = tape.scan(scan, &batch.ragged);
            x = tape.linear(y, block.out, Linear { residual: Some(x), dropout, ..Linear::default() });
            x = tape.layer_norm(x, block.norms[0][0], block.norms[0][1]);
            let bias = |of: [ParamId; 2]| Linear { bias: Some(of[1].into()), dropout, ..Linear::default() };
            let y =
                tape.linear(x, block.wide[0], Linear { activation: Activation::Gelu, ..bias(block.wide) });
            x = tape.linear(y, block.narrow[0], Linear { residual: Some(x), ..bias(block.narrow) });
            x = tape.layer_norm(x, block.norms[1][0], block.norms[1][1]);
        }
        x
    }
}

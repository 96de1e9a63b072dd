//! A stack of transformer blocks over a ragged batch.
//!
//! Norm first: x ← x + drop(A(LN(x)) Wₒᵀ), x ← x + drop(F(LN(x))), and a norm after the last block.
//! Norm last: x ← LN(x + drop(A(x) Wₒᵀ)), x ← LN(x + drop(F(x))).
//! A is attention over q, k, v = x W_qkvᵀ + b, F(x) = drop(f(x W₁ᵀ + b₁)) W₂ᵀ + b₂.
//! A decoder, with its norms first, looks at what an encoder read, m, between the two: x ← x + drop(C(LN(x), m) Wₒᵀ), C attention
//! of q = x W_qᵀ + b to k, v = m W_kvᵀ + b.
//!
//! Shapes: x (rows × dim) in and out, m (its rows × dim); W_qkv (3 dim × dim) as in PyTorch's
//! `MultiheadAttention.in_proj_weight`, W_kv (2 dim × dim).
//! Source: Vaswani et al., NeurIPS 2017, arXiv:1706.03762; norm first as in Kang, McAuley (SASRec), ICDM 2018, arXiv:1808.09781.

use crate::kernel::Activation;
use crate::op::{Attention, Bias, Linear, Rows, Weighing};
use crate::params::{Init, ParamId, Params};
use crate::{Ragged, Tape, Var};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Where the norms stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Before each half of a block.
    #[default]
    NormFirst,
    /// After it, as BERT has them.
    NormLast,
}

#[derive(Debug, Clone, PartialEq)]
pub struct TransformerConfig {
    pub dim: usize,
    pub blocks: usize,
    pub heads: usize,
    /// Width inside the feed-forward half.
    pub inner: usize,
    pub activation: Activation,
    pub dropout: f32,
    pub causal: bool,
    pub order: Order,
    /// How weights begin.
    pub init: Init,
}

/// The stack with its parameters.
#[derive(Debug, Clone)]
pub struct Transformer {
    pub(super) config: TransformerConfig,
    pub(super) blocks: Vec<Block>,
    pub(super) last_norm: Option<Norm>,
}

#[derive(Debug, Clone)]
pub(super) struct Block {
    pub norms: [Norm; 2],
    pub qkv: Dense,
    pub out: Dense,
    pub wide: Dense,
    pub narrow: Dense,
    pub cross: Option<Cross>,
}

/// How a decoder's block looks at what its encoder read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cross {
    pub norm: Norm,
    pub query: Dense,
    pub memory: Dense,
    pub out: Dense,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Norm {
    pub gain: ParamId,
    pub bias: ParamId,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Dense {
    pub weight: ParamId,
    pub bias: ParamId,
}

fn norm(params: &mut Params, name: &str, dim: usize) -> Norm {
    Norm {
        gain: params.add(&format!("{name}.weight"), 1, dim, Init::Ones),
        bias: params.add(&format!("{name}.bias"), 1, dim, Init::Zeros),
    }
}

fn dense(params: &mut Params, name: &str, outer: usize, inner: usize, init: Init) -> Dense {
    Dense {
        weight: params.add(&format!("{name}.weight"), outer, inner, init),
        bias: params.add(&format!("{name}.bias"), 1, outer, Init::Zeros),
    }
}

impl Transformer {
    /// Adds the parameters under names that begin with `prefix`. Panics unless `heads` divides `dim`.
    pub fn new(params: &mut Params, prefix: &str, config: TransformerConfig) -> Transformer {
        let TransformerConfig { dim, inner, init, .. } = config;
        assert!(config.heads > 0 && dim.is_multiple_of(config.heads), "{} heads of {dim}", config.heads);
        let blocks = (0..config.blocks)
            .map(|b| {
                let name = |part: &str| format!("{prefix}blocks.{b}.{part}");
                Block {
                    norms: [
                        norm(params, &name("attention_norm"), dim),
                        norm(params, &name("feed_forward_norm"), dim),
                    ],
                    qkv: dense(params, &name("attention.in_proj"), 3 * dim, dim, init),
                    out: dense(params, &name("attention.out_proj"), dim, dim, init),
                    wide: dense(params, &name("feed_forward.0"), inner, dim, init),
                    narrow: dense(params, &name("feed_forward.1"), dim, inner, init),
                    cross: None,
                }
            })
            .collect();
        let last_norm =
            (config.order == Order::NormFirst).then(|| norm(params, &format!("{prefix}norm"), dim));
        Transformer { config, blocks, last_norm }
    }

    /// A stack that looks at what another one read. Panics unless its norms come first.
    pub fn decoder(params: &mut Params, prefix: &str, config: TransformerConfig) -> Transformer {
        assert!(config.order == Order::NormFirst, "a decoder has its norms first");
        let TransformerConfig { dim, init, .. } = config;
        let mut stack = Transformer::new(params, prefix, config);
        for (b, block) in stack.blocks.iter_mut().enumerate() {
            let name = |part: &str| format!("{prefix}blocks.{b}.{part}");
            block.cross = Some(Cross {
                norm: norm(params, &name("cross_norm"), dim),
                query: dense(params, &name("cross.query"), dim, dim, init),
                memory: dense(params, &name("cross.memory"), 2 * dim, dim, init),
                out: dense(params, &name("cross.out_proj"), dim, dim, init),
            });
        }
        stack
    }

    /// `biases` makes the biases of a block. With `newest` the last block is only asked of the newest row of each sequence
    /// that has any, and those rows come out.
    pub fn run(
        &self,
        tape: &mut Tape,
        x: Var,
        ragged: &Arc<Ragged>,
        biases: &dyn Fn(usize) -> Vec<Bias>,
        newest: bool,
    ) -> Var {
        self.blocks(tape, (x, ragged), None, biases, newest)
    }

    /// A decoder's rows, with what an encoder read for each of their sequences.
    pub fn run_beside(
        &self,
        tape: &mut Tape,
        x: Rows,
        memory: Rows,
        biases: &dyn Fn(usize) -> Vec<Bias>,
    ) -> Var {
        self.blocks(tape, x, Some(memory), biases, false)
    }

    fn blocks(
        &self,
        tape: &mut Tape,
        (mut x, ragged): Rows,
        memory: Option<Rows>,
        biases: &dyn Fn(usize) -> Vec<Bias>,
        newest: bool,
    ) -> Var {
        let TransformerConfig { dim, heads, dropout, order, .. } = self.config;
        let first = order == Order::NormFirst;
        let normed = |tape: &mut Tape, n: Norm, x: Var| tape.layer_norm(x, n.gain, n.bias);
        let plain = |layer: Dense| Linear { bias: Some(layer.bias.into()), ..Linear::default() };
        for (b, block) in self.blocks.iter().enumerate() {
            let newest = newest && b + 1 == self.blocks.len();
            let y = if first { normed(tape, block.norms[0], x) } else { x };
            let qkv = tape.linear(y, block.qkv.weight, plain(block.qkv));
            let width = dim / heads;
            let attention = Attention {
                heads,
                columns: [0, dim, 2 * dim],
                key_width: width,
                value_width: width,
                scale: 1.0 / (width as f32).sqrt(),
                weighing: Weighing::Softmax,
                causal: self.config.causal,
                newest,
                dropout,
                biases: biases(b),
                visible: None,
            };
            let o = tape.attention(qkv, ragged, attention);
            if newest {
                x = tape.pick_rows(x, ragged.last_rows().map(|r| r as u32).collect());
            }
            let with = Linear { residual: Some(x), dropout, ..plain(block.out) };
            x = tape.linear(o, block.out.weight, with);
            if !first {
                x = normed(tape, block.norms[0], x);
            }
            if let (Some(cross), Some((m, read))) = (block.cross, memory) {
                let y = normed(tape, cross.norm, x);
                let q = tape.linear(y, cross.query.weight, plain(cross.query));
                let m = tape.linear(m, cross.memory.weight, plain(cross.memory));
                let o = tape.cross_attention((q, ragged), (m, read), heads, dropout);
                let with = Linear { residual: Some(x), dropout, ..plain(cross.out) };
                x = tape.linear(o, cross.out.weight, with);
            }
            let y = if first { normed(tape, block.norms[1], x) } else { x };
            let with = Linear { activation: self.config.activation, dropout, ..plain(block.wide) };
            let y = tape.linear(y, block.wide.weight, with);
            let with = Linear { residual: Some(x), dropout, ..plain(block.narrow) };
            x = tape.linear(y, block.narrow.weight, with);
            if !first {
                x = normed(tape, block.norms[1], x);
            }
        }
        match self.last_norm {
            Some(n) => normed(tape, n, x),
            None => x,
        }
    }
}

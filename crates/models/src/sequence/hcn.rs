//! HCN: several interests of long ago and what somebody did last, each read in the light of the other.
//!
//! x_t = E[i_t] + P[t], x̂ = LN(x). Interests begin at centres c that all people share, and are drawn nearer to the history layer by
//! layer: a_tk = softmax over the interests of x̂_t Wᵀ · c_k / √D, c_k ← c_k + LN(Σ_t a_tk x̂_t) Uᵀ. Each step is divided between
//! the interests, so what one takes the others lack. h = GRU(x) over the last `recent` steps is the short-term side.
//! Co-attention: A_tk = h_t W_Aᵀ · c_k / √D; r_k = Σ_t softmax_t(A)_tk h_t, what was done last for an interest;
//! m_t = Σ_k softmax_k(A)_tk c_k, the interests that a step is about.
//! Fused: l_k = [c_k, r_k] W_lᵀ, s = [h_n, m_n] W_sᵀ, g_k = σ([l_k, s] W_gᵀ), V_k = g_k ∘ l_k + (1 − g_k) ∘ s;
//! score(j | history) = max_k V_k · E[j]. What is learned is the vector nearest the right item, for beginnings of a history.
//!
//! Shapes: E (items × D), P (length × D), c and V (interests × D), h (recent × D), A (recent × interests); scores (items).
//! Cost: O(layers · L D (D + interests) + recent · D²) a beginning; memory a step's activations.
//! Source: Yuan et al., "Hierarchical Multi-Interest Co-Network For Coarse-Grained Ranking", 2022, arXiv:2210.10547.
//! Departures: of the paper its abstract was at hand, not its equations. From it are interest centres that are updated
//! layer by layer so that vectors of one person differ, and a network that joins long-term and short-term interests; the
//! equations above are ours. Best item by the nearest interest, the loss and `beginnings` are as in `comirec.rs`; nothing
//! of users and items but their ids is read, where the paper ranks candidates with features.

use super::beginnings::learn_nearest;
use super::{Architecture, Batch, Embedder, Encoder, Lesson, SequenceConfig, sequence_model};
use crate::FitError;
use crate::model::require;
use serde::{Deserialize, Serialize};
use sommelier_core::Rng;
use sommelier_nn::op::{Embed, Gru, Linear, Pool};
use sommelier_nn::train::Settings;
use sommelier_nn::{Activation, Init, ParamId, Params, Ragged, Tape, Var};
use std::sync::Arc;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HcnConfig {
    /// Length of a vector.
    pub dim: usize,
    /// Vectors of one person.
    pub interests: usize,
    /// Times that interests are drawn nearer to the history.
    pub layers: usize,
    /// So many last steps are short-term.
    pub recent: usize,
    /// Share of numbers dropped in training.
    pub dropout: f32,
    /// Beginnings of a window that are learned in one step, at most.
    pub beginnings: usize,
    pub sequence: SequenceConfig,
    pub training: Settings,
}

impl Default for HcnConfig {
    fn default() -> HcnConfig {
        HcnConfig {
            dim: 64,
            interests: 4,
            layers: 2,
            recent: 8,
            dropout: 0.2,
            beginnings: 4,
            sequence: SequenceConfig::default(),
            training: Settings::default(),
        }
    }
}

sequence_model!(HcnConfig, "hcn");

impl Architecture for HcnConfig {
    fn check(&self) -> Result<(), FitError> {
        for (name, value) in [
            ("dim", self.dim),
            ("interests", self.interests),
            ("layers", self.layers),
            ("recent", self.recent),
            ("beginnings", self.beginnings),
        ] {
            require(name, value as f64, value > 0, "at least 1")?;
        }
        require("dropout", self.dropout.into(), (0.0..1.0).contains(&self.dropout), "0 or more, and below 1")
    }

    fn build(&self, params: &mut Params) -> Arc<dyn Encoder> {
        let d = self.dim;
        let small = Init::Normal(self.sequence.initial);
        let gru = Gru::new(params, "gru.", 0, d, d);
        let mut add = |name: &str, rows: usize, cols: usize, init: Init| params.add(name, rows, cols, init);
        let places = add("places", self.sequence.length, d, small);
        let norm = [add("norm.weight", 1, d, Init::Ones), add("norm.bias", 1, d, Init::Zeros)];
        let centres = add("centres", self.interests, d, Init::Normal(1.0));
        let layers = (0..self.layers)
            .map(|l| Layer {
                keys: add(&format!("layers.{l}.keys.weight"), d, d, Init::Glorot),
                norm: [
                    add(&format!("layers.{l}.norm.weight"), 1, d, Init::Ones),
                    add(&format!("layers.{l}.norm.bias"), 1, d, Init::Zeros),
                ],
                out: add(&format!("layers.{l}.out.weight"), d, d, Init::Glorot),
            })
            .collect();
        let affinity = add("affinity.weight", d, d, Init::Glorot);
        let [long, short, gate] = ["long", "short", "gate"].map(|name| {
            [
                add(&format!("{name}.weight"), d, 2 * d, Init::Glorot),
                add(&format!("{name}.bias"), 1, d, Init::Zeros),
            ]
        });
        let config = self.clone();
        Arc::new(Hcn { config, places, norm, centres, layers, gru, affinity, long, short, gate })
    }

    fn numbers_per_step(&self) -> usize {
        let long = self.dim * (2 + self.layers) + 3 * self.layers * self.interests;
        2 * self.beginnings * (long + 12 * self.dim)
    }
}

struct Layer {
    keys: ParamId,
    norm: [ParamId; 2],
    out: ParamId,
}

struct Hcn {
    config: HcnConfig,
    places: ParamId,
    norm: [ParamId; 2],
    centres: ParamId,
    layers: Vec<Layer>,
    gru: Gru,
    affinity: ParamId,
    /// Weight and bias of each side, and of what decides between them.
    long: [ParamId; 2],
    short: [ParamId; 2],
    gate: [ParamId; 2],
}

impl Hcn {
    /// Long-term interests of each history, from all of its steps.
    fn interests(&self, tape: &mut Tape, x: Var, ragged: &Arc<Ragged>) -> Var {
        let k = self.config.interests;
        let x = tape.layer_norm(x, self.norm[0], self.norm[1]);
        let each = (0..ragged.len()).flat_map(|_| 0..k as u32).collect();
        let mut c = tape.pick_rows(self.centres.into(), each); // (histories · k, D)
        for layer in &self.layers {
            let keys = tape.linear(x, layer.keys, Linear::default());
            let likeness = self.likeness(tape, keys, c, ragged);
            let shares = tape.softmax(likeness);
            let taken = tape.weighted_pool(x, shares, ragged);
            let taken = tape.layer_norm(taken, layer.norm[0], layer.norm[1]);
            let with = Linear { residual: Some(c), dropout: self.config.dropout, ..Linear::default() };
            c = tape.linear(taken, layer.out, with);
        }
        c
    }

    /// Scaled products of steps with the interests of their history.
    fn likeness(&self, tape: &mut Tape, steps: Var, interests: Var, ragged: &Arc<Ragged>) -> Var {
        let products = tape.segment_dots(steps, interests, self.config.interests, ragged);
        tape.scale(products, 1.0 / (self.config.dim as f32).sqrt())
    }
}

impl Encoder for Hcn {
    fn rows(&self, batch: &Batch) -> usize {
        batch.ragged.iter().map(|r| r.len().min(self.config.beginnings)).sum()
    }

    fn learn(&self, tape: &mut Tape, items: Embedder, batch: &Batch, _: f32, rng: &mut Rng) -> Lesson {
        let (beginnings, right) = batch.beginnings(self.config.beginnings, false, rng);
        let vectors = self.encode(tape, items, &beginnings);
        learn_nearest(tape, items, vectors, self.config.interests, right)
    }

    /// The fused interests of each person.
    fn encode(&self, tape: &mut Tape, items: Embedder, batch: &Batch) -> Var {
        let HcnConfig { interests: k, dropout, recent, .. } = self.config;
        let places = Some((self.places.into(), batch.places.clone()));
        let x = items.rows(tape, &batch.items, Embed { places, dropout, ..Embed::default() });
        let interests = self.interests(tape, x, &batch.ragged);

        let last = |r: std::ops::Range<usize>| r.end - recent.min(r.len())..r.end;
        let rows = batch.ragged.iter().flat_map(|r| last(r).map(|row| row as u32)).collect();
        let ragged = Arc::new(Ragged::of(batch.ragged.iter().map(|r| last(r).len())));
        let steps = tape.pick_rows(x, rows);
        let steps = tape.gru(steps, self.gru, &ragged);

        let keys = tape.linear(steps, self.affinity, Linear::default());
        let affinity = self.likeness(tape, keys, interests, &ragged);
        let of_steps = tape.segment_softmax(affinity, &ragged);
        let done = tape.weighted_pool(steps, of_steps, &ragged);
        let of_interests = tape.softmax(affinity);
        let about = tape.segment_mix(of_interests, interests, &ragged);

        let dense = |tape: &mut Tape, parts: [Var; 2], [weight, bias]: [ParamId; 2], activation| {
            let both = tape.concat(&parts);
            tape.linear(both, weight, Linear { bias: Some(bias.into()), activation, ..Linear::default() })
        };
        let long = dense(tape, [interests, done], self.long, Activation::Identity);
        let short = dense(tape, [steps, about], self.short, Activation::Identity);
        let short = tape.pool(short, Pool::Last, &ragged);
        let each = (0..ragged.len()).flat_map(|s| std::iter::repeat_n(s as u32, k)).collect();
        let short = tape.pick_rows(short, each);
        let gate = dense(tape, [long, short], self.gate, Activation::Sigmoid);
        let apart = tape.add_scaled(&[(long, 1.0), (short, -1.0)]);
        let part = tape.multiply(gate, apart);
        tape.add(short, part)
    }

    fn answer(&self, tape: &mut Tape, items: Embedder, batch: &Batch) -> Var {
        self.encode(tape, items, batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sommelier_nn::{Table, Workspace};

    /// Vectors of histories of a model that has learned nothing yet.
    fn vectors(histories: &[&[u32]]) -> Vec<f32> {
        vectors_with(histories, |_| ())
    }

    fn vectors_with(histories: &[&[u32]], change: impl Fn(&mut sommelier_nn::Param)) -> Vec<f32> {
        let config = HcnConfig { dim: 6, interests: 3, recent: 2, ..HcnConfig::default() };
        let mut params = Params::new(4);
        let encoder = config.build(&mut params);
        params.iter_mut().for_each(change);
        let items = Embedder::new(params.add_table(Table::of_range("items", 9, 6, 1.0, 3)));
        let ragged = Ragged::of(histories.iter().map(|h| h.len()));
        let batch = Batch {
            places: Arc::new(ragged.places_back().map(|p| p as u32).collect()),
            ragged: Arc::new(ragged),
            items: Arc::new(histories.concat()),
            at: Arc::default(),
            now: Arc::default(),
            next: Arc::default(),
        };
        let mut tape = Tape::answering(&params, Workspace::default());
        let y = encoder.answer(&mut tape, items, &batch);
        assert_eq!(tape.shape(y), (histories.len() * 3, 6));
        tape.data(y).to_vec()
    }

    fn apart(a: &[f32], b: &[f32]) -> f32 {
        a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    }

    #[test]
    fn a_history_is_read_alone_whatever_else_is_in_the_batch() {
        let histories: [&[u32]; 5] = [&[1], &[], &[4, 2, 8, 0, 1, 3], &[5, 5], &[2, 4, 6]];
        let all = vectors(&histories);
        assert!(all.iter().all(|v| v.is_finite()));
        let alone: Vec<f32> = histories.iter().flat_map(|h| vectors(&[h])).collect();
        assert!(apart(&all, &alone) < 1e-5, "{all:?} together, {alone:?} alone");
    }

    #[test]
    fn the_short_term_is_the_last_steps() {
        // The gate is shut, and the short-term side reads its own state only.
        let short = |history: &[u32]| {
            vectors_with(&[history], |param| match param.name.as_str() {
                "gate.bias" => param.value.fill(-99.0),
                "short.weight" => param.value.chunks_mut(12).for_each(|row| row[6..].fill(0.0)),
                _ => (),
            })
        };
        let whole = short(&[4, 2, 8, 0, 1, 3]);
        assert_eq!(whole[..6], whole[6..12], "nothing of the interests is left");
        assert_eq!(apart(&whole, &short(&[5, 3, 1, 7, 1, 3])), 0.0);
        for other in [[4, 2, 8, 0, 1, 5], [4, 2, 8, 0, 5, 3]] {
            assert!(apart(&whole, &short(&other)) > 1e-3, "{other:?}");
        }
    }

    #[test]
    fn both_ends_of_a_history_count_and_interests_differ() {
        let whole = vectors(&[&[4, 2, 8, 0, 1, 3]]);
        for other in [[5, 2, 8, 0, 1, 3], [4, 2, 8, 0, 1, 5], [4, 2, 8, 0, 3, 1]] {
            assert!(apart(&whole, &vectors(&[&other])) > 1e-3, "{other:?}");
        }
        for (a, b) in [(0, 1), (0, 2), (1, 2)] {
            assert!(apart(&whole[a * 6..a * 6 + 6], &whole[b * 6..b * 6 + 6]) > 1e-2, "{a} and {b}");
        }
    }
}

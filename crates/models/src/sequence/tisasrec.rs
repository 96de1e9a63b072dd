//! TiSASRec: self-attention that knows how much time lies between two steps.
//!
//! As SASRec, but s_ij = q_i · (k_j + rᵏ_b + pᵏ_j) / √w and o_i = Σ_j a_ij (v_j + rᵛ_b + pᵛ_j): b is the bucket of the time between steps
//! i and j, in units of the shortest interval of the person, and p is the place of step j.
//!
//! Shapes: rᵏ, rᵛ (intervals + 1 × D), pᵏ, pᵛ (length × D), shared by all blocks; scores (items).
//! Cost: that of SASRec, and O(L (intervals + L) D) for the products with r and p; memory a step's activations.
//! Source: Li, Wang, McAuley, "Time Interval Aware Self-Attention for Sequential Recommendation", WSDM 2020.
//! Departures: those of `sasrec.rs`; where the data have no clock, steps count as one unit apart.

use super::sasrec::{causal_stack, check_attention, numbers_per_step};
use super::{Architecture, Batch, Embedder, Encoder, SequenceConfig, sequence_model};
use crate::FitError;
use crate::model::require;
use serde::{Deserialize, Serialize};
use sommelier_nn::layer::Transformer;
use sommelier_nn::op::{Bias, Buckets, Embed, TimeScale};
use sommelier_nn::train::Settings;
use sommelier_nn::{Init, ParamId, Params, Tape, Var};
use std::sync::Arc;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TisasrecConfig {
    /// Length of a vector.
    pub dim: usize,
    pub blocks: usize,
    pub heads: usize,
    /// Share of numbers dropped in training.
    pub dropout: f32,
    /// Longer intervals count as so many units.
    pub intervals: usize,
    pub sequence: SequenceConfig,
    pub training: Settings,
}

impl Default for TisasrecConfig {
    fn default() -> TisasrecConfig {
        TisasrecConfig {
            dim: 64,
            blocks: 2,
            heads: 1,
            dropout: 0.2,
            intervals: 256,
            sequence: SequenceConfig::default(),
            training: Settings::default(),
        }
    }
}

sequence_model!(TisasrecConfig, "tisasrec");

impl Architecture for TisasrecConfig {
    fn check(&self) -> Result<(), FitError> {
        require("intervals", self.intervals as f64, (1..=60_000).contains(&self.intervals), "1 to 60000")?;
        check_attention(self.dim, self.blocks, self.heads, self.dropout)
    }

    fn build(&self, params: &mut Params) -> Arc<dyn Encoder> {
        let small = Init::Normal(self.sequence.initial);
        let mut table = |name: &str, rows: usize| params.add(name, rows, self.dim, small);
        let intervals =
            [table("intervals.keys", self.intervals + 1), table("intervals.values", self.intervals + 1)];
        let places =
            [table("places.keys", self.sequence.length), table("places.values", self.sequence.length)];
        let stack = causal_stack(params, self.dim, self.blocks, self.heads, self.dropout);
        Arc::new(Tisasrec { config: self.clone(), intervals, places, stack })
    }

    fn numbers_per_step(&self) -> usize {
        numbers_per_step(self.dim, self.blocks)
    }
}

struct Tisasrec {
    config: TisasrecConfig,
    /// Beside the keys and the values.
    intervals: [ParamId; 2],
    places: [ParamId; 2],
    stack: Transformer,
}

/// For each step, the shortest interval above 0 of its history: the person's own unit of time.
fn units(batch: &Batch) -> Vec<i64> {
    let mut units = Vec::with_capacity(batch.at.len());
    for range in batch.ragged.iter() {
        let gaps = batch.at[range.clone()].windows(2).map(|w| w[1] - w[0]).filter(|gap| *gap > 0);
        let unit = gaps.min().unwrap_or(1);
        units.extend(range.map(|_| unit));
    }
    units
}

impl Encoder for Tisasrec {
    fn encode(&self, tape: &mut Tape, items: Embedder, batch: &Batch) -> Var {
        self.read(tape, items, batch, false)
    }

    fn answer(&self, tape: &mut Tape, items: Embedder, batch: &Batch) -> Var {
        self.read(tape, items, batch, true)
    }
}

impl Tisasrec {
    fn read(&self, tape: &mut Tape, items: Embedder, batch: &Batch, newest: bool) -> Var {
        let x = items.rows(tape, &batch.items, Embed { dropout: self.config.dropout, ..Embed::default() });
        let units = Arc::new(units(batch));
        let vectors = |of: [ParamId; 2], buckets: Buckets| {
            let [keys, values] = of.map(Var::from);
            Bias::Vectors { keys: Some(keys), values: Some(values), buckets }
        };
        let biases = |_| {
            let times = Buckets::Times {
                now: batch.at.clone(),
                then: batch.at.clone(),
                scale: TimeScale::Linear(units.clone()),
                count: self.config.intervals + 1,
            };
            vec![
                vectors(self.intervals, times),
                vectors(self.places, Buckets::Keys { count: self.config.sequence.length }),
            ]
        };
        self.stack.run(tape, x, &batch.ragged, &biases, newest)
    }
}

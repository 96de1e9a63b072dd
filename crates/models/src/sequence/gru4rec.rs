//! GRU4Rec: gated recurrent units over the items of a history.
//!
//! x_t = E[i_t], h = GRU(x) through one or more layers, score(j | history) = (W h_n + b) · E[j].
//!
//! Shapes: E (items × D); the hidden state H; W (D × H); scores (items).
//! Cost: O(L H (D + H)) a history and layer; memory a step's activations.
//! Source: Hidasi, Karatzoglou, Baltrunas, Tikk, "Session-based Recommendations with Recurrent Neural Networks", ICLR 2016,
//! arXiv:1511.06939; the losses of Hidasi, Karatzoglou, CIKM 2018, arXiv:1706.03847, are choices of `sequence.loss`.
//! Departures: histories are learned whole, not in session-parallel streams; one table reads and scores, with a projection
//! between (as RecBole has it); Adam instead of Adagrad, the loss a softmax over all items unless the recipe says otherwise.

use super::{Architecture, Batch, Embedder, Encoder, SequenceConfig, sequence_model};
use crate::FitError;
use crate::model::require;
use serde::{Deserialize, Serialize};
use sommelier_nn::op::{Embed, Gru, Linear};
use sommelier_nn::train::Settings;
use sommelier_nn::{Init, ParamId, Params, Tape, Var};
use std::sync::Arc;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gru4recConfig {
    /// Length of an item's vector.
    pub dim: usize,
    /// Length of the hidden state.
    pub hidden: usize,
    pub layers: usize,
    /// Share of numbers dropped in training, of what each layer reads.
    pub dropout: f32,
    pub sequence: SequenceConfig,
    pub training: Settings,
}

impl Default for Gru4recConfig {
    fn default() -> Gru4recConfig {
        Gru4recConfig {
            dim: 64,
            hidden: 128,
            layers: 1,
            dropout: 0.3,
            sequence: SequenceConfig::default(),
            training: Settings::default(),
        }
    }
}

sequence_model!(Gru4recConfig, "gru4rec");

impl Architecture for Gru4recConfig {
    fn check(&self) -> Result<(), FitError> {
        require("dim", self.dim as f64, self.dim > 0, "at least 1")?;
        require("hidden", self.hidden as f64, self.hidden > 0, "at least 1")?;
        require("layers", self.layers as f64, self.layers > 0, "at least 1")?;
        require("dropout", self.dropout.into(), (0.0..1.0).contains(&self.dropout), "0 or more, and below 1")
    }

    fn build(&self, params: &mut Params) -> Arc<dyn Encoder> {
        let h = self.hidden;
        let layers = (0..self.layers)
            .map(|l| Gru::new(params, "gru.", l, if l == 0 { self.dim } else { h }, h))
            .collect();
        let out = [
            params.add("dense.weight", self.dim, h, Init::Glorot),
            params.add("dense.bias", 1, self.dim, Init::Zeros),
        ];
        Arc::new(Gru4rec { layers, out, dropout: self.dropout })
    }

    fn numbers_per_step(&self) -> usize {
        2 * (4 * self.dim + 8 * self.hidden * self.layers)
    }
}

struct Gru4rec {
    layers: Vec<Gru>,
    out: [ParamId; 2],
    dropout: f32,
}

impl Encoder for Gru4rec {
    fn encode(&self, tape: &mut Tape, items: Embedder, batch: &Batch) -> Var {
        let mut x = items.rows(tape, &batch.items, Embed { dropout: self.dropout, ..Embed::default() });
        for (l, layer) in self.layers.iter().enumerate() {
            if l > 0 {
                x = tape.drop_out(x, self.dropout);
            }
            x = tape.gru(x, *layer, &batch.ragged);
        }
        let [weight, bias] = self.out;
        tape.linear(x, weight, Linear { bias: Some(bias.into()), ..Linear::default() })
    }
}

//! Models that read a history in order and tell what comes next.
//!
//! Each file has one model: its config, and an [`Encoder`] that turns embedded histories into vectors of people. What they
//! share is here: how histories are cut and dealt (`windows.rs`, `beginnings.rs`), what is learned from them (`objective.rs`),
//! the fit itself (`fit.rs`) and the answers (`answer.rs`).

mod answer;
mod beginnings;
mod content;
mod fit;
mod objective;
mod windows;

mod ada_retrieval;
mod bert4rec;
mod cape;
mod comirec;
mod gru4rec;
mod hcn;
mod hstu;
mod mamba;
mod sasrec;
mod start;
mod tisasrec;

pub use ada_retrieval::{AdaRetrievalConfig, Backbone};
pub use answer::SequenceModel;
pub use bert4rec::Bert4recConfig;
pub use cape::CapeConfig;
pub use comirec::ComirecConfig;
pub use content::Content;
pub use content::{Input, Length, Maker};
pub(crate) use fit::{fit, load};
pub use gru4rec::Gru4recConfig;
pub use hcn::HcnConfig;
pub use hstu::HstuConfig;
pub use mamba::MambaConfig;
pub use objective::{Loss, Similarity};
pub use sasrec::SasrecConfig;
pub use start::Start;
pub use tisasrec::TisasrecConfig;
pub use windows::Cut;
pub(crate) use windows::Histories;

use crate::FitError;
use crate::model::require;
use serde::{Deserialize, Serialize};
use sommelier_core::Rng;
use sommelier_nn::train::Settings;
use sommelier_nn::{Params, Ragged, Tape, Var};
use std::sync::Arc;

/// What every sequence model is told beside its own settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SequenceConfig {
    /// So many last steps of a history are looked at.
    pub length: usize,
    /// What is learned of longer histories.
    pub cut: Cut,
    /// Histories in one step of training.
    pub batch: usize,
    pub loss: Loss,
    pub similarity: Similarity,
    /// Scores are divided by it in the loss.
    pub temperature: f32,
    /// Standard deviation of item vectors at the start.
    pub initial: f32,
    /// Vectors that come with the catalogue, next to what is learned of items or instead of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<Content>,
    /// Weights to begin with instead, from another framework.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<Start>,
}

impl Default for SequenceConfig {
    fn default() -> SequenceConfig {
        SequenceConfig {
            length: 50,
            cut: Cut::All,
            batch: 128,
            loss: Loss::default(),
            similarity: Similarity::Dot,
            temperature: 1.0,
            initial: 0.02,
            content: None,
            start: None,
        }
    }
}

impl SequenceConfig {
    fn check(&self) -> Result<(), FitError> {
        require("sequence.length", self.length as f64, (1..=65_536).contains(&self.length), "1 to 65536")?;
        require("sequence.batch", self.batch as f64, self.batch > 0, "at least 1")?;
        let above = "a finite number above 0";
        require("sequence.temperature", self.temperature.into(), self.temperature > 0.0, above)?;
        require("sequence.initial", self.initial.into(), self.initial > 0.0, above)?;
        self.loss.check()
    }
}

/// Histories to be read: rows of all tensors are their steps, one history after the other.
#[derive(Debug, Clone)]
pub struct Batch {
    pub ragged: Arc<Ragged>,
    /// The item of each step.
    pub items: Arc<Vec<u32>>,
    /// Place of each step in what is read of its history, counted back from the newest: 0. So the newest steps, which tell
    /// most, stand where steps stood in training, however long a history has become.
    pub places: Arc<Vec<u32>>,
    /// Time of each step, in milliseconds.
    pub at: Arc<Vec<i64>>,
    /// Time of what is to be told: of the next step, or of the question.
    pub now: Arc<Vec<i64>>,
    /// The item after each step; of the last one the item to be told. Empty when nothing is learned.
    pub next: Arc<Vec<u32>>,
}

/// Vectors whose scores with items are learned from.
pub struct Lesson {
    /// n × dim
    pub vectors: Var,
    /// The right item for each row.
    pub right: Arc<Vec<u32>>,
    /// What is learned beside it: vectors, their right items, and what such a row counts.
    pub further: Vec<(Var, Arc<Vec<u32>>, f32)>,
    /// A 1 × 1 loss beside that of the scores, already scaled.
    pub aside: Option<Var>,
}

/// What a model is: a way from embedded histories to vectors of people.
pub trait Encoder: Send + Sync {
    /// Whether it learns from all events of a window, else from all but the last, which is only told.
    fn reads_whole(&self) -> bool {
        false
    }

    /// About how many rows it will learn from a batch: a loss is the mean over them.
    fn rows(&self, batch: &Batch) -> usize {
        batch.items.len()
    }

    /// The vector of each step, from the items' own vectors, given what is before the step.
    fn encode(&self, tape: &mut Tape, items: Embedder, batch: &Batch) -> Var;

    /// What to learn from a batch; here, the next item at each step.
    ///
    /// `share` is what a row counts in the loss; `rng` draws whatever is drawn.
    fn learn(&self, tape: &mut Tape, items: Embedder, batch: &Batch, share: f32, rng: &mut Rng) -> Lesson {
        let _ = (share, rng);
        let vectors = self.encode(tape, items, batch);
        Lesson { vectors, right: batch.next.clone(), further: Vec::new(), aside: None }
    }

    /// One row for each vector of each person, here that of the last step; all people have as many, and an item's score is
    /// the largest with any of them.
    fn answer(&self, tape: &mut Tape, items: Embedder, batch: &Batch) -> Var {
        let steps = self.encode(tape, items, batch);
        let last = batch.ragged.last_rows().map(|r| r as u32).collect();
        tape.pick_rows(steps, last)
    }
}

/// Makes the vectors of a batch's items on a tape.
#[derive(Clone, Copy)]
pub struct Embedder {
    items: sommelier_nn::loss::Items,
}

/// What every config of this family has: implemented by [`sequence_model`].
pub trait Family: std::fmt::Debug {
    const KIND: &'static str;

    fn dim(&self) -> usize;
    fn sequence(&self) -> &SequenceConfig;
    fn training(&self) -> &Settings;

    /// Equal parts of a vector that are learned each by itself; a score is the inner product of the whole.
    fn parts(&self) -> usize {
        1
    }
}

/// What differs from config to config.
pub trait Architecture: Family {
    /// Refuses settings that make no sense.
    fn check(&self) -> Result<(), FitError>;

    /// Adds the encoder's parameters.
    fn build(&self, params: &mut Params) -> Arc<dyn Encoder>;

    /// Adds the parameters of whoever makes item vectors of what the catalogue says; without, they are learned item by item.
    fn maker(&self, length: Length, params: &mut Params) -> Result<Option<Arc<dyn Maker>>, String> {
        let sequence = self.sequence();
        let shape = (self.dim(), sequence.initial);
        sequence.content.as_ref().map(|content| content::linear(content, length, params, shape)).transpose()
    }

    /// Numbers that one step of one history takes on a tape, both ways, about.
    fn numbers_per_step(&self) -> usize;
}

/// What every config of the family has in common.
macro_rules! sequence_model {
    ($config:ident, $kind:literal) => {
        impl $config {
            pub fn fit(
                &self,
                train: &sommelier_data::Snapshot,
                ctx: &mut sommelier_core::FitContext,
            ) -> Result<super::SequenceModel, crate::FitError> {
                super::fit::fit(self, train, ctx)
            }

            pub fn load(&self, weights: &crate::Weights) -> Result<super::SequenceModel, crate::LoadError> {
                super::fit::load(self, weights)
            }
        }

        impl super::Family for $config {
            const KIND: &'static str = $kind;

            fn dim(&self) -> usize {
                self.dim
            }
            fn sequence(&self) -> &super::SequenceConfig {
                &self.sequence
            }
            fn training(&self) -> &sommelier_nn::train::Settings {
                &self.training
            }
        }
    };
}
use sequence_model;

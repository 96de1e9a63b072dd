//! Models that write what comes next: the codes of an item, one after the other, and no codes that no item has.
//!
//! A file for each model. What they share is here: the codes a model knows (`known.rs`), the search for the best of them that
//! are allowed (`search.rs`), how they are steered by words (`hearing.rs`), the transformer that reads and writes codes (`stack.rs`), the fit (`fit.rs`), what may come after it (`align.rs`) and the
//! answers (`answer.rs`). Codes come with the snapshot; how vectors became codes is not asked here.

mod align;
mod answer;
mod fit;
mod hearing;
mod known;
mod search;
mod stack;

mod liger;
mod setrec;
mod tiger;
mod tiger_decoder;

pub use align::Align;
pub use answer::GenerativeModel;
pub use liger::LigerConfig;
pub use setrec::SetrecConfig;
pub use tiger::TigerConfig;
pub use tiger_decoder::TigerDecoderConfig;

use crate::FitError;
use crate::sequence::Histories;
pub use known::Among;
use known::Known;
use search::Writer;
use sommelier_core::Rng;
use sommelier_data::snapshot::ItemWishes;
use sommelier_nn::train::Settings;
use sommelier_nn::{ParamId, Params, Ragged, Tape, Var};
use std::ops::Range;
use std::sync::Arc;

/// How a model of the family reads, learns and writes.
#[derive(Debug, Clone, Copy)]
struct Reading {
    /// So many last items of a history are read.
    length: usize,
    /// Histories in one step of training.
    batch: usize,
    /// Beginnings that go on at each code; at least as many as items are asked for.
    beam: usize,
}

impl Reading {
    fn check(&self) -> Result<(), FitError> {
        crate::model::require("batch", self.batch as f64, self.batch > 0, "at least 1")?;
        crate::model::require("beam", self.beam as f64, self.beam > 0, "at least 1")
    }
}

/// What differs from config to config.
trait Architecture: std::fmt::Debug + Sync {
    const KIND: &'static str;

    /// Refuses settings that make no sense.
    fn check(&self) -> Result<(), FitError>;

    fn reading(&self) -> Reading;

    fn training(&self) -> &Settings;

    /// Among which codes the next one is told.
    fn among(&self) -> Among;

    /// What is done after the fit, where people's likes are to be followed.
    fn align(&self) -> Option<&Align>;

    /// Adds the network's parameters; `words` is the length of wishes, where they are heard.
    fn build(&self, known: &Known, words: Option<usize>, params: &mut Params) -> Arc<dyn Network>;

    /// The windows of one epoch, in random order.
    fn windows(&self, histories: &Histories, rng: &mut Rng) -> Vec<Range<usize>>;

    /// Numbers that one code of one history takes on a tape, both ways, about.
    fn numbers_per_code(&self) -> usize;
}

/// Histories to learn from.
struct Lesson<'a> {
    known: &'a Known,
    items: &'a [u32],
    ragged: &'a Ragged,
    /// What can be said to ask for items.
    wishes: Option<&'a ItemWishes>,
    /// What a code counts in the loss.
    share: f32,
}

/// Codes that are told: h of all tokens, and for each level the rows that tell a code of it, and the codes.
type Telling = (Var, stack::Codes);

/// What a person did and says.
#[derive(Clone, Copy)]
struct Told<'a> {
    /// Items of the history, oldest first.
    items: &'a [u32],
    wish: Option<&'a [f32]>,
}

/// What a fitted model writes with.
trait Network: Send + Sync {
    /// How many codes are told of these windows.
    fn told(&self, known: &Known, ragged: &Ragged) -> usize;

    /// Tells the codes of a lesson: of the last item of each window alone, or of as many as it learns from.
    fn tell(&self, tape: &mut Tape, lesson: &Lesson, last: bool, rng: &mut Rng) -> Telling;

    /// Where the vectors of tokens are.
    fn vectors(&self) -> ParamId;

    /// The loss of all codes that are told.
    fn loss(&self, tape: &mut Tape, lesson: &Lesson, rng: &mut Rng) -> Var {
        let (h, told) = self.tell(tape, lesson, false, rng);
        stack::loss_of_codes(tape, lesson.known, self.vectors(), h, told, lesson.share)
    }

    /// The logarithm of the probability of the last item of each window, given those before it (windows × 1).
    fn log_probability(&self, tape: &mut Tape, known: &Known, items: &[u32], ragged: &Ragged) -> Var {
        let lesson = Lesson { known, items, ragged, wishes: None, share: 1.0 };
        let (h, told) = self.tell(tape, &lesson, true, &mut Rng::new(0));
        stack::sum_of_levels(tape, known, self.vectors(), h, told, |tape, h, vectors, codes, mask| {
            stack::log_likelihood(tape, h, vectors, &codes, mask)
        })
    }

    /// Reads a history of items with codes and is ready to write what comes next.
    fn read<'a>(&'a self, params: &'a Params, known: &'a Known, told: Told) -> Box<dyn Writer + 'a>;
}

/// What every config of the family has in common.
macro_rules! generative_model {
    ($config:ident) => {
        impl $config {
            pub fn fit(
                &self,
                snapshot: &sommelier_data::Snapshot,
                ctx: &mut sommelier_core::FitContext,
            ) -> Result<super::GenerativeModel, crate::FitError> {
                super::fit::fit(self, snapshot, ctx)
            }

            pub fn load(&self, weights: &crate::Weights) -> Result<super::GenerativeModel, crate::LoadError> {
                super::fit::load(self, weights)
            }
        }
    };
}
use generative_model;

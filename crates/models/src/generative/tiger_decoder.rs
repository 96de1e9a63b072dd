//! A decoder-only TIGER: one causal transformer over the codes of a history writes the codes of the next item.
//!
//! See `stack.rs` for what is read and told. An item's score is the sum of the logarithms of its codes' probabilities.
//! Memory: a step's activations; nothing of a person.
//! Sources: Rajput et al., "Recommender Systems with Generative Retrieval" (TIGER), NeurIPS 2023, arXiv:2305.05065; Raffel et al.
//! (T5), JMLR 2020, arXiv:1910.10683 (the biases).
//! Departures from TIGER: no encoder, so a history is learned in one pass, not once for each of its beginnings; no token for the user;
//! probabilities are over the codes of a level and not over all tokens; layer norms with a mean, GELU, biased layers, biases without
//! buckets. Items without codes are left out of histories.

use super::known::Known;
use super::search::Writer;
use super::stack::{CodeStack, Size};
use super::{Align, Among, Architecture, Lesson, Network, Reading, Telling, Told, generative_model};
use crate::FitError;
use crate::sequence::{Cut, Histories};
use serde::{Deserialize, Serialize};
use sommelier_core::Rng;
use sommelier_nn::train::Settings;
use sommelier_nn::{ParamId, Params, Ragged, Tape};
use std::ops::Range;
use std::sync::Arc;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TigerDecoderConfig {
    /// Length of a vector.
    pub dim: usize,
    pub blocks: usize,
    pub heads: usize,
    /// Width inside the feed-forward half of a block.
    pub inner: usize,
    /// Share of numbers dropped in training.
    pub dropout: f32,
    /// So many last items of a history are read.
    pub length: usize,
    /// Histories in one step of training.
    pub batch: usize,
    /// Beginnings that go on at each code; at least as many as items are asked for.
    pub beam: usize,
    /// Among which codes the next one is told.
    pub among: Among,
    /// Standard deviation of code vectors at the start.
    pub initial: f32,
    pub training: Settings,
    /// Follows what people like better, after the fit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub align: Option<Align>,
}

impl Default for TigerDecoderConfig {
    fn default() -> TigerDecoderConfig {
        TigerDecoderConfig {
            dim: 128,
            blocks: 4,
            heads: 4,
            inner: 512,
            dropout: 0.2,
            length: 20,
            batch: 128,
            beam: 20,
            among: Among::default(),
            initial: 0.02,
            training: Settings::default(),
            align: None,
        }
    }
}

generative_model!(TigerDecoderConfig);

impl TigerDecoderConfig {
    fn size(&self) -> Size {
        let TigerDecoderConfig { dim, blocks, heads, inner, dropout, length, initial, .. } = *self;
        Size { dim, blocks, heads, inner, dropout, length, initial }
    }
}

impl Architecture for TigerDecoderConfig {
    const KIND: &'static str = "tiger_decoder";

    fn check(&self) -> Result<(), FitError> {
        self.size().check()
    }

    fn reading(&self) -> Reading {
        Reading { length: self.length, batch: self.batch, beam: self.beam }
    }

    fn training(&self) -> &Settings {
        &self.training
    }

    fn among(&self) -> Among {
        self.among
    }

    fn align(&self) -> Option<&Align> {
        self.align.as_ref()
    }

    fn build(&self, known: &Known, words: Option<usize>, params: &mut Params) -> Arc<dyn Network> {
        Arc::new(CodeStack::new(&self.size(), known, words, params))
    }

    fn windows(&self, histories: &Histories, rng: &mut Rng) -> Vec<Range<usize>> {
        histories.windows(self.length, Cut::All, rng)
    }

    fn numbers_per_code(&self) -> usize {
        self.size().numbers_per_token()
    }
}

impl Network for CodeStack {
    fn told(&self, known: &Known, ragged: &Ragged) -> usize {
        ragged.rows() * known.levels()
    }

    fn tell(&self, tape: &mut Tape, lesson: &Lesson, last: bool, rng: &mut Rng) -> Telling {
        let tokens = CodeStack::tokens(lesson.known, lesson.items, lesson.ragged, false, last);
        let heard = lesson.wishes.and_then(|wishes| self.hear(tape, wishes, &tokens, lesson.items, rng));
        (self.run(tape, &tokens, heard), tokens.told)
    }

    fn vectors(&self) -> ParamId {
        CodeStack::vectors(self)
    }

    fn read<'a>(&'a self, params: &'a Params, known: &'a Known, told: Told) -> Box<dyn Writer + 'a> {
        Box::new(CodeStack::read(self, params, known, told, |_| None))
    }
}

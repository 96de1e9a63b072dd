//! LIGER: one transformer over codes that both writes the next item's codes and says where in the space of item vectors it lies.
//!
//! A history is read as in `stack.rs`, and at the last code of an item its vector E_i is added to what is read. h there tells two things:
//! the next item's codes, p_w(i) = Π_l p(c_l | c_1 … c_{l−1}, h), and the item itself, p_n(i) = softmax(h · E_i / T) over all items. Both are
//! learned at once, loss = −log p_n(i) − α · Σ_l log p(c_l | …) / L. Candidates are the items that a beam writes and, with `near`,
//! those nearest to h; all are ranked by w log p_w(i) + (1 − w) h · E_i / T.
//! E_i = e_i + V c_i, or V c_i alone (`sequence.content`): c_i an item's vector from the catalogue. Later items have V c_i and their
//! codes, and are candidates at once.
//!
//! Shapes: h (L n + 1 × D), E (items × D), V (D × length of c).
//! Cost: that of `stack.rs`, and items · D for a look at all vectors. Memory: a step's activations; nothing of a person.
//! Source: Yang et al., "Unifying Generative and Dense Retrieval for Sequential Recommendation" (LIGER), 2024, arXiv:2411.18814.
//! Departures: a causal transformer alone in the place of encoder and decoder, so that a history is learned in one pass; vectors join
//! at an item's last code, not at each (a code before it would give the next away); softmax over all items where the paper has the
//! cosine of the right one; LIGER's own ranking is w = 0 without `near`, with all cold items among the candidates.

use super::answer::{log_probabilities, newest, taken, without_one};
use super::hearing::{self, Hearing};
use super::known::Known;
use super::search::best;
use super::stack::{CodeStack, Pen, Size, Tokens};
use super::{Among, Told};
use crate::model::require;
use crate::sequence::{self, Batch, Embedder, Encoder, Family, Lesson, SequenceConfig, SequenceModel};
use crate::{FitError, LoadError, Model, Weights};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sommelier_core::{
    Allowed, Candidate, Explain, FitContext, Item, ItemIx, ResolvedQuery, Retrieve, Rng, Score,
};
use sommelier_data::Snapshot;
use sommelier_data::snapshot::ItemWishes;
use sommelier_nn::train::Settings;
use sommelier_nn::{Params, Tape, Var};
use std::collections::HashMap;
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LigerConfig {
    /// Length of a vector.
    pub dim: usize,
    pub blocks: usize,
    pub heads: usize,
    /// Width inside the feed-forward half of a block.
    pub inner: usize,
    /// Share of numbers dropped in training.
    pub dropout: f32,
    /// What telling an item's codes counts in the loss, where telling the item counts 1.
    pub codes: f32,
    /// Beginnings that go on at each code, and items looked for by their vectors; at least as many as are asked for.
    pub beam: usize,
    /// What the codes count in a score, 0 to 1; the rest is the vector's.
    pub written: f32,
    /// Whether items near by their vectors are candidates too; without, of these only such as came after the fit.
    pub near: bool,
    /// Among which codes the next one is told.
    pub among: Among,
    pub sequence: SequenceConfig,
    pub training: Settings,
}

impl Default for LigerConfig {
    fn default() -> LigerConfig {
        LigerConfig {
            dim: 64,
            blocks: 2,
            heads: 2,
            inner: 256,
            dropout: 0.3,
            codes: 1.0,
            beam: 20,
            written: 0.0,
            near: true,
            among: Among::default(),
            sequence: SequenceConfig { length: 20, ..SequenceConfig::default() },
            training: Settings::default(),
        }
    }
}

impl LigerConfig {
    fn size(&self) -> Size {
        let LigerConfig { dim, blocks, heads, inner, dropout, .. } = *self;
        let SequenceConfig { length, initial, .. } = self.sequence;
        Size { dim, blocks, heads, inner, dropout, length, initial }
    }

    fn check(&self) -> Result<(), FitError> {
        self.size().check()?;
        require("codes", self.codes.into(), self.codes >= 0.0, "a finite number of at least 0")?;
        require("beam", self.beam as f64, self.beam > 0, "at least 1")?;
        require("written", self.written.into(), (0.0..=1.0).contains(&self.written), "0 to 1")
    }

    pub fn fit(&self, snapshot: &Snapshot, ctx: &mut FitContext) -> Result<Liger, FitError> {
        self.check()?;
        let known = Arc::new(Known::of(snapshot, self.among)?);
        let backbone = Backbone::new(self, known.clone(), snapshot.wishes.clone(), Hearing::of(snapshot));
        let dense = sequence::fit(&backbone, snapshot, ctx)?;
        Ok(Liger::new(self, dense, backbone.stack(), &known))
    }

    pub fn load(&self, weights: &Weights) -> Result<Liger, LoadError> {
        self.check().map_err(|e| LoadError::Other(e.to_string()))?;
        let known = Arc::new(Known::load(weights, self.among)?);
        let backbone = Backbone::new(self, known.clone(), None, Hearing::stored(weights));
        let dense = sequence::load(&backbone, weights)?;
        Ok(Liger::new(self, dense, backbone.stack(), &known))
    }
}

/// The model as one that reads sequences: what its codes tell is learned beside.
struct Backbone<'a> {
    config: &'a LigerConfig,
    known: Arc<Known>,
    wishes: Option<Arc<ItemWishes>>,
    /// Length of wishes.
    words: Option<usize>,
    /// Once its parameters are there.
    stack: OnceLock<Arc<CodeStack>>,
}

impl<'a> Backbone<'a> {
    fn new(
        config: &'a LigerConfig,
        known: Arc<Known>,
        wishes: Option<Arc<ItemWishes>>,
        words: Option<usize>,
    ) -> Backbone<'a> {
        Backbone { config, known, wishes, words, stack: OnceLock::new() }
    }

    fn stack_in(&self, params: &mut Params) -> Arc<CodeStack> {
        let new = || Arc::new(CodeStack::new(&self.config.size(), &self.known, self.words, params));
        self.stack.get_or_init(new).clone()
    }

    /// After a fit or a load.
    fn stack(&self) -> Arc<CodeStack> {
        self.stack_in(&mut Params::new(0))
    }
}

/// How it answers is no part of what is learned.
impl std::fmt::Debug for Backbone<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let LigerConfig { codes, among, sequence, training, .. } = self.config;
        write!(f, "{:?} codes {codes} among {among:?} {sequence:?} {training:?}", self.config.size())
    }
}

impl Family for Backbone<'_> {
    const KIND: &'static str = "liger";

    fn dim(&self) -> usize {
        self.config.dim
    }

    fn sequence(&self) -> &SequenceConfig {
        &self.config.sequence
    }

    fn training(&self) -> &Settings {
        &self.config.training
    }
}

impl sequence::Architecture for Backbone<'_> {
    fn check(&self) -> Result<(), FitError> {
        self.config.check()
    }

    fn build(&self, params: &mut Params) -> Arc<dyn Encoder> {
        let stack = self.stack_in(params);
        let (known, wishes) = (self.known.clone(), self.wishes.clone());
        Arc::new(Reader { stack, known, wishes, codes: self.config.codes })
    }

    fn numbers_per_step(&self) -> usize {
        self.known.levels() * self.config.size().numbers_per_token()
    }
}

/// Reads items as their codes and vectors.
struct Reader {
    stack: Arc<CodeStack>,
    known: Arc<Known>,
    /// To learn from.
    wishes: Option<Arc<ItemWishes>>,
    codes: f32,
}

impl Encoder for Reader {
    fn reads_whole(&self) -> bool {
        true
    }

    fn rows(&self, batch: &Batch) -> usize {
        batch.items.len() - batch.ragged.iter().filter(|w| !w.is_empty()).count()
    }

    fn encode(&self, tape: &mut Tape, items: Embedder, batch: &Batch) -> Var {
        let tokens = CodeStack::tokens(&self.known, &batch.items, &batch.ragged, true, false);
        let h = self.run(tape, items, batch, &tokens, None);
        let levels = self.known.levels() as u32;
        tape.pick_rows(h, tokens.before.iter().map(|row| row + levels).collect())
    }

    fn learn(&self, tape: &mut Tape, items: Embedder, batch: &Batch, share: f32, rng: &mut Rng) -> Lesson {
        let tokens = CodeStack::tokens(&self.known, &batch.items, &batch.ragged, false, false);
        let wishes = self.wishes.as_deref();
        let heard = wishes.and_then(|wishes| self.stack.hear(tape, wishes, &tokens, &batch.items, rng));
        let h = self.run(tape, items, batch, &tokens, heard);
        // The first item of a window is told by nothing, and only by its codes.
        let firsts: Vec<usize> = batch.ragged.iter().map(|w| w.start).collect();
        let told = (0..batch.items.len()).filter(|i| firsts.binary_search(i).is_err());
        let (rows, right): (Vec<u32>, Vec<u32>) = told.map(|i| (tokens.before[i], batch.items[i])).unzip();
        let scale = share * self.codes / self.known.levels() as f32;
        let aside = (self.codes > 0.0).then(|| self.stack.loss(tape, &self.known, h, tokens, scale));
        Lesson { vectors: tape.pick_rows(h, rows), right: Arc::new(right), further: Vec::new(), aside }
    }
}

impl Reader {
    fn run(
        &self,
        tape: &mut Tape,
        items: Embedder,
        batch: &Batch,
        tokens: &Tokens,
        heard: Option<Var>,
    ) -> Var {
        let own = tokens.ends.iter().map(|&i| batch.items.get(i as usize).copied().unwrap_or(i)).collect();
        let beside = items.rows(tape, &Arc::new(own), self.stack.embed());
        let beside = hearing::add(tape, beside, heard);
        self.stack.run(tape, tokens, Some(beside))
    }
}

/// A fitted model. Nothing of a person is kept: every answer reads the history it is given.
pub struct Liger {
    beam: usize,
    length: usize,
    written: f32,
    near: bool,
    factor: f32,
    dense: SequenceModel,
    stack: Arc<CodeStack>,
    /// Grows with items that come after the fit.
    known: RwLock<Known>,
}

impl Liger {
    fn new(config: &LigerConfig, dense: SequenceModel, stack: Arc<CodeStack>, known: &Known) -> Liger {
        let LigerConfig { beam, written, near, .. } = *config;
        let SequenceConfig { length, temperature, .. } = config.sequence;
        let known = RwLock::new(known.clone());
        Liger { beam, length, written, near, factor: 1.0 / temperature, dense, stack, known }
    }

    fn known(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Of the history, what is read.
    fn reads(&self, q: &ResolvedQuery) -> Vec<ItemIx> {
        let params = self.dense.params();
        newest(taken(q), self.length, |item| self.dense.vector(&params, item).is_some())
    }

    /// Items that `find` names, ranked by what was read.
    fn rank(
        &self,
        read: &[ItemIx],
        wish: Option<&[f32]>,
        find: impl FnOnce(&mut Search) -> Vec<ItemIx>,
    ) -> Vec<Candidate> {
        let (known, params) = (self.known(), self.dense.params());
        let vector = |item: u32| self.dense.vector(&params, ItemIx(item));
        let items: Vec<u32> = read.iter().map(|item| item.0).collect();
        let pen = self.stack.read(&params, &known, Told { items: &items, wish }, vector);
        let place = pen.last.clone();
        let mut search =
            Search { model: self, known: &known, params: &params, pen, place, written: HashMap::new() };
        let items = find(&mut search);
        search.scores(items)
    }
}

/// One answer in the making.
struct Search<'a> {
    model: &'a Liger,
    known: &'a Known,
    params: &'a Params,
    pen: Pen<'a>,
    /// Where the next item's vector is expected.
    place: Vec<f32>,
    /// Logarithms of the probabilities of items that were written.
    written: HashMap<ItemIx, f32>,
}

impl Search<'_> {
    fn candidates(&mut self, width: usize, allowed: &Allowed) -> Vec<ItemIx> {
        let model = self.model;
        if model.written > 0.0 || !model.near {
            let trie = self.known.trie.restricted(allowed);
            self.written = best(&mut self.pen, self.known.among(), &trie, width)
                .into_iter()
                .map(|c| (c.item, c.score))
                .collect();
        }
        let found = model.dense.nearest(self.params, &self.place, width, allowed, model.near);
        let mut items: Vec<ItemIx> = self.written.keys().copied().collect();
        items.extend(found.iter().map(|c| c.item));
        items.sort_unstable();
        items.dedup();
        items
    }

    /// Best first.
    fn scores(&mut self, items: Vec<ItemIx>) -> Vec<Candidate> {
        let model = self.model;
        let mut by_code = vec![0f32; items.len()];
        if model.written > 0.0 {
            let missing: Vec<ItemIx> =
                items.iter().copied().filter(|item| !self.written.contains_key(item)).collect();
            let mut found = vec![0f32; missing.len()];
            log_probabilities(&mut self.pen, self.known, &missing, &mut found);
            self.written.extend(missing.into_iter().zip(found));
            by_code.iter_mut().zip(&items).for_each(|(score, item)| *score = self.written[item]);
        }
        let mut by_vector = vec![0f32; items.len()];
        model.dense.score_at(self.params, &self.place, &items, &mut by_vector);
        let score =
            |(code, vector): (f32, f32)| model.written * code + (1.0 - model.written) * vector * model.factor;
        let scores = by_code.into_iter().zip(by_vector).map(score);
        let mut ranked: Vec<Candidate> =
            items.into_iter().zip(scores).map(|(item, score)| Candidate { item, score }).collect();
        ranked.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.item.cmp(&b.item)));
        ranked
    }
}

impl Score for Liger {
    fn items(&self) -> usize {
        self.dense.items()
    }

    fn score(&self, q: &ResolvedQuery, items: &[ItemIx], out: &mut [f32]) {
        let read = self.reads(q);
        if read.is_empty() {
            return self.dense.score(q, items, out);
        }
        let of: HashMap<ItemIx, f32> = self
            .rank(&read, q.wish.as_deref(), |_| items.to_vec())
            .into_iter()
            .map(|c| (c.item, c.score))
            .collect();
        out.iter_mut().zip(items).for_each(|(out, item)| *out = of[item]);
    }
}

impl Retrieve for Liger {
    fn retrieve(&self, q: &ResolvedQuery, k: usize, allowed: &Allowed) -> Vec<Candidate> {
        let read = self.reads(q);
        if read.is_empty() {
            return self.dense.retrieve(q, k, allowed);
        }
        let mut ranked =
            self.rank(&read, q.wish.as_deref(), |search| search.candidates(self.beam.max(k), allowed));
        ranked.truncate(k);
        ranked
    }

    fn retrieve_batch(
        &self,
        queries: &[ResolvedQuery],
        k: usize,
        allowed: &[Allowed],
    ) -> Vec<Vec<Candidate>> {
        queries.par_iter().zip(allowed).map(|(q, a)| self.retrieve(q, k, a)).collect()
    }
}

impl Explain for Liger {
    fn contributions(&self, q: &ResolvedQuery, item: ItemIx, limit: usize) -> Vec<(ItemIx, f32)> {
        let read = self.reads(q);
        if read.is_empty() {
            return self.dense.contributions(q, item, limit);
        }
        without_one(&read, limit, |items| {
            self.rank(items, q.wish.as_deref(), |_| vec![item]).first().map_or(0.0, |c| c.score)
        })
    }
}

impl Model for Liger {
    fn kind(&self) -> &'static str {
        "liger"
    }

    fn weights(&self) -> Weights {
        let mut weights = self.dense.weights();
        self.known().store(&mut weights);
        weights
    }

    fn hears(&self) -> bool {
        Hearing::is_in(&self.dense.params())
    }

    /// An item needs a vector to be taken in, and is written too where it has codes.
    fn meet(&self, item: ItemIx, info: &Item) -> bool {
        if !self.dense.meet(item, info) {
            return false;
        }
        self.known.write().unwrap_or_else(PoisonError::into_inner).meet(item.0, info);
        true
    }
}

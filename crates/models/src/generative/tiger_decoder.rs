//! A decoder-only TIGER: one causal transformer over the codes of a history writes the codes of the next item.
//!
//! History i_1 … i_n becomes tokens [begin, c_11 … c_1L, c_21 … c_nL], c_il the l-th code of item i_l; every token is told by the ones
//! before it, p(c | before) = softmax(h · W_l) over the codes of its level, W_l the same vectors that are read (tied). Within a block
//! scores have a number for each distance in tokens and head, as in T5; there are no other places.
//!
//! Shapes: W (tokens + 1 × D), h (L n × D); an item's score is the sum of the logarithms of its codes' probabilities.
//! Cost: O(L n D² + (L n)² D) a block to read, L beams of D² + n L D to write. Memory: a step's activations; nothing of a person.
//! Sources: Rajput et al., "Recommender Systems with Generative Retrieval" (TIGER), NeurIPS 2023, arXiv:2305.05065; Raffel et al.
//! (T5), JMLR 2020, arXiv:1910.10683 (the biases).
//! Departures from TIGER: no encoder, so a history is learned in one pass, not once for each of its beginnings; no token for the user;
//! probabilities are over the codes of a level and not over all tokens; layer norms with a mean, GELU, biased layers, biases without
//! buckets. Items without codes are left out of histories.

use super::known::Known;
use super::search::{Writer, best};
use crate::item_item::largest;
use crate::model::{plan, require};
use crate::sequence::{Cut, Histories};
use crate::{FitError, LoadError, Model, Weights};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sommelier_core::{
    Allowed, Candidate, Explain, FitContext, Item, ItemIx, ResolvedQuery, Retrieve, Rng, Score, Stopped,
};
use sommelier_data::Snapshot;
use sommelier_index::trie::CodeTrie;
use sommelier_nn::kernel::{self, Layout};
use sommelier_nn::layer::{Branches, Memory, Order, Transformer, TransformerConfig};
use sommelier_nn::loss::Items;
use sommelier_nn::op::{Bias, Buckets, Embed};
use sommelier_nn::train::{Learner, Settings, TrainError, train};
use sommelier_nn::{Activation, Init, ParamId, Params, Ragged, Tape, Var};
use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

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
    /// Standard deviation of code vectors at the start.
    pub initial: f32,
    pub training: Settings,
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
            initial: 0.02,
            training: Settings::default(),
        }
    }
}

impl TigerDecoderConfig {
    fn check(&self) -> Result<(), FitError> {
        let dims = self.heads > 0 && self.dim.is_multiple_of(self.heads.max(1)) && self.dim > 0;
        require("dim", self.dim as f64, dims, "at least 1 and a multiple of heads")?;
        require("blocks", self.blocks as f64, (1..=64).contains(&self.blocks), "1 to 64")?;
        require("inner", self.inner as f64, self.inner > 0, "at least 1")?;
        let share = (0.0..1.0).contains(&self.dropout);
        require("dropout", self.dropout.into(), share, "a share of at least 0 and below 1")?;
        require("length", self.length as f64, (1..=4096).contains(&self.length), "1 to 4096")?;
        require("batch", self.batch as f64, self.batch > 0, "at least 1")?;
        require("beam", self.beam as f64, self.beam > 0, "at least 1")?;
        require("initial", self.initial.into(), self.initial > 0.0, "a finite number above 0")?;
        let Settings { epochs, learning_rate, .. } = self.training;
        require("training.epochs", epochs as f64, epochs > 0, "at least 1")?;
        require(
            "training.learning_rate",
            learning_rate.into(),
            learning_rate > 0.0,
            "a finite number above 0",
        )
    }

    /// Bytes at the peak: parameters with the optimiser's state, the best weights and those in validation; on each tape
    /// gradients, and everything that one part of a step makes.
    fn check_memory(
        &self,
        net: &Net,
        params: &Params,
        events: usize,
        ctx: &FitContext,
    ) -> Result<(), FitError> {
        let dense: usize = params.iter().map(|p| p.value.len()).sum();
        let threads = ctx.threads.max(1);
        let steps = (self.batch * self.length).min(events.max(1)).div_ceil(threads) * net.levels;
        let numbers = 2 * (2 * self.dim + self.blocks * (8 * self.dim + 2 * self.inner));
        let all = 6 * dense + threads * (dense + steps * numbers) + 3 * events;
        let why = format!("{dense} parameters, steps of {steps} codes on {threads} tapes");
        plan(ctx, all as u64 * 4, &why, "lower batch, length, inner or dim")
    }

    pub fn fit(&self, snapshot: &Snapshot, ctx: &mut FitContext) -> Result<TigerDecoder, FitError> {
        self.check()?;
        let known = Arc::new(Known::of(snapshot)?);
        let histories = Histories::of(snapshot, |item| known.codes(item).is_some());
        if histories.windows(1, Cut::Last, &mut Rng::new(0)).is_empty() {
            return Err(FitError::NoData(
                "somebody must have two positive events with items that have codes, one to read and one to tell".into(),
            ));
        }
        let mut params = Params::new(ctx.seed);
        let net = Arc::new(Net::new(self, &known, &mut params));
        self.check_memory(&net, &params, histories.events(), ctx)?;
        let identity = format!("model tiger_decoder {self:?}\n{}", snapshot.identity([]));
        let mut learner = Lessons {
            config: self,
            windows: Vec::new(),
            histories,
            known: known.clone(),
            net: net.clone(),
            seed: ctx.seed,
            ctx,
        };
        let trained = train(&mut learner, &mut params, &self.training, &identity, ctx);
        trained.map_err(|error| match error {
            TrainError::Stopped(Stopped) => FitError::Stopped(Stopped),
            other => FitError::Numeric(other.to_string()),
        })?;
        Ok(TigerDecoder::new(self, params, net, &known))
    }

    pub fn load(&self, weights: &Weights) -> Result<TigerDecoder, LoadError> {
        let known = Known::load(weights)?;
        self.check().map_err(|e| LoadError::Other(e.to_string()))?;
        let mut params = Params::new(0);
        let net = Net::new(self, &known, &mut params);
        for param in params.iter_mut() {
            let (rows, _, data) = weights.matrix(&param.name, Some(param.cols))?;
            if rows != param.rows {
                let (expected, received) = (vec![param.rows, param.cols], vec![rows, param.cols]);
                return Err(LoadError::Shape { name: param.name.clone(), expected, received });
            }
            param.value = data.to_vec();
        }
        Ok(TigerDecoder::new(self, params, Arc::new(net), &known))
    }
}

/// Where the parameters are.
struct Net {
    dim: usize,
    levels: usize,
    /// A row for each token, and one for the beginning.
    tokens: ParamId,
    stack: Transformer,
    /// Numbers by distance, one parameter a block.
    by_place: Vec<ParamId>,
    distances: usize,
}

impl Net {
    fn new(config: &TigerDecoderConfig, known: &Known, params: &mut Params) -> Net {
        let TigerDecoderConfig { dim, blocks, heads, inner, dropout, .. } = *config;
        let small = Init::Normal(config.initial);
        let tokens = params.add("tokens", known.tokens() as usize + 1, dim, small);
        let stack = TransformerConfig {
            dim,
            blocks,
            heads,
            inner,
            activation: Activation::Gelu,
            dropout,
            causal: true,
            order: Order::NormFirst,
            init: Init::Glorot,
        };
        let stack = Transformer::new(params, "", stack);
        let distances = known.levels() * (config.length + 1) + 1;
        let by_place = (0..blocks)
            .map(|b| params.add(&format!("blocks.{b}.by_place"), heads, distances, small))
            .collect();
        Net { dim, levels: known.levels(), tokens, stack, by_place, distances }
    }

    fn vector<'p>(&self, params: &'p Params, token: u32) -> &'p [f32] {
        &params.get(self.tokens).value[token as usize * self.dim..][..self.dim]
    }

    /// Scores of all codes of a level for each row of h.
    fn scores(&self, params: &Params, known: &Known, level: usize, h: &[f32]) -> Vec<f32> {
        let codes = known.sizes[level] as usize;
        let rows = h.len() / self.dim;
        let from = known.start(level) as usize * self.dim;
        let vectors = &params.get(self.tokens).value[from..from + codes * self.dim];
        let mut out = vec![0f32; rows * codes];
        let at = Layout::rows_of(self.dim);
        let shape = (rows, codes, self.dim);
        kernel::gemm(
            shape,
            1.0,
            (h, at),
            (vectors, at.transposed()),
            0.0,
            (&mut out, Layout::rows_of(codes)),
        );
        out
    }
}

/// Tokens of some windows, and what is told of them.
struct Part {
    ragged: Arc<Ragged>,
    /// What is read: a beginning, then all tokens but the last.
    tokens: Arc<Vec<u32>>,
    /// For each level, the rows that tell a code of it, and the codes.
    told: Vec<(Vec<u32>, Arc<Vec<u32>>)>,
    /// What a token counts in the loss.
    share: f32,
}

struct Lessons<'a> {
    config: &'a TigerDecoderConfig,
    histories: Histories,
    /// Of the epoch that is going on.
    windows: Vec<Range<usize>>,
    known: Arc<Known>,
    net: Arc<Net>,
    seed: u64,
    ctx: &'a FitContext,
}

impl Lessons<'_> {
    fn part(&self, items: &[u32], ragged: &Ragged) -> Part {
        let levels = self.net.levels;
        let mut tokens = Vec::with_capacity(items.len() * levels);
        let mut told = vec![(Vec::new(), Vec::new()); levels];
        for window in ragged.iter() {
            let mut before = self.known.tokens();
            for &item in &items[window] {
                for (level, &code) in self.known.codes(item).unwrap_or_default().iter().enumerate() {
                    told[level].0.push(tokens.len() as u32);
                    told[level].1.push(code);
                    tokens.push(before);
                    before = self.known.start(level) + code;
                }
            }
        }
        let ragged = Ragged::of(ragged.iter().map(|window| window.len() * levels));
        let told = told.into_iter().map(|(rows, codes)| (rows, Arc::new(codes))).collect();
        Part { ragged: Arc::new(ragged), tokens: Arc::new(tokens), told, share: 0.0 }
    }
}

impl Learner for Lessons<'_> {
    type Part = Part;

    fn begin(&mut self, epoch: usize) -> usize {
        let mut rng = Rng::stream(self.seed ^ 0x0e90c, epoch as u64);
        self.windows = self.histories.windows(self.config.length, Cut::All, &mut rng);
        self.windows.len().div_ceil(self.config.batch)
    }

    fn deal(&self, step: usize, parts: usize) -> Vec<Part> {
        let from = step * self.config.batch;
        let windows = &self.windows[from..(from + self.config.batch).min(self.windows.len())];
        let batches = self.histories.deal(windows, parts, true);
        let mut parts: Vec<Part> = batches.iter().map(|b| self.part(&b.items, &b.ragged)).collect();
        let tokens: usize = parts.iter().map(|p| p.tokens.len()).sum();
        parts.iter_mut().for_each(|p| p.share = 1.0 / tokens.max(1) as f32);
        parts
    }

    fn loss(&self, tape: &mut Tape, part: &Part, _: &mut Rng) -> Var {
        let net = &*self.net;
        let embed = Embed { dropout: self.config.dropout, ..Embed::default() };
        let x = tape.embed(Items::Matrix(net.tokens.into()), part.tokens.clone(), embed);
        let by_place = |b: usize| {
            let buckets = Buckets::Places { count: net.distances };
            vec![Bias::Numbers { of: net.by_place[b].into(), buckets }]
        };
        let h = net.stack.run(tape, x, &part.ragged, &by_place, false);
        let losses: Vec<(Var, f32)> = (0..net.levels)
            .map(|level| {
                let (rows, codes) = &part.told[level];
                let start = self.known.start(level);
                let h = tape.pick_rows(h, rows.clone());
                let vectors =
                    tape.pick_rows(net.tokens.into(), (start..start + self.known.sizes[level]).collect());
                (tape.catalogue_softmax(h, Items::Matrix(vectors), codes, &[], 1.0, part.share), 1.0)
            })
            .collect();
        tape.add_scaled(&losses)
    }

    fn validate(&self, params: &Params) -> Result<Option<f64>, Stopped> {
        let Some(validate) = &self.ctx.validate else { return Ok(None) };
        let model = TigerDecoder::new(self.config, params.clone(), self.net.clone(), &self.known);
        validate.judge(&model).map(Some)
    }

    fn metric(&self) -> String {
        self.ctx.validate.as_ref().map_or_else(|| "validation".to_owned(), |v| v.metric())
    }
}

/// A fitted model. Nothing of a person is kept: every answer reads the history it is given.
pub struct TigerDecoder {
    length: usize,
    beam: usize,
    params: Params,
    net: Arc<Net>,
    /// Grows with items that come after the fit.
    known: RwLock<Known>,
    fitted: usize,
}

impl TigerDecoder {
    fn new(config: &TigerDecoderConfig, params: Params, net: Arc<Net>, known: &Known) -> TigerDecoder {
        let TigerDecoderConfig { length, beam, .. } = *config;
        TigerDecoder { length, beam, params, net, fitted: known.fitted, known: RwLock::new(known.clone()) }
    }

    /// Nobody leaves the codes half written: a lock that a panic poisoned is as good as any.
    fn known(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Items that are read, oldest first: of the history, or else what is liked.
    fn reads(&self, known: &Known, q: &ResolvedQuery) -> Vec<ItemIx> {
        let coded = |item: &ItemIx| known.codes(item.0).is_some();
        let mut items: Vec<ItemIx> =
            q.history.iter().filter(|s| s.weight > 0.0).map(|s| s.item).filter(coded).collect();
        if items.is_empty() {
            items = q.like.iter().copied().filter(coded).collect();
        }
        items.split_off(items.len().saturating_sub(self.length))
    }

    fn write(&self, known: &Known, q: &ResolvedQuery, trie: &CodeTrie, width: usize) -> Vec<Candidate> {
        let net = &*self.net;
        let mut x = net.vector(&self.params, known.tokens()).to_vec();
        for item in self.reads(known, q) {
            for (level, &code) in known.codes(item.0).unwrap_or_default().iter().enumerate() {
                x.extend_from_slice(net.vector(&self.params, known.start(level) + code));
            }
        }
        let mut memory = Memory::default();
        let h = net.stack.read(&self.params, x, &mut memory, &net.by_place);
        let last = h[h.len() - net.dim..].to_vec();
        let mut pen = Pen { model: self, known, memory, last, branches: Branches::new(1) };
        best(&mut pen, trie, width)
    }
}

/// Writes codes behind a history that was read.
struct Pen<'a> {
    model: &'a TigerDecoder,
    known: &'a Known,
    memory: Memory,
    /// What the history comes to.
    last: Vec<f32>,
    branches: Branches,
}

impl Writer for Pen<'_> {
    fn first(&mut self) -> Vec<f32> {
        self.model.net.scores(&self.model.params, self.known, 0, &self.last)
    }

    fn next(&mut self, level: usize, from: &[(usize, u32)]) -> Vec<f32> {
        let (net, params) = (&*self.model.net, &self.model.params);
        self.branches.keep(&from.iter().map(|&(b, _)| b).collect::<Vec<_>>());
        let start = self.known.start(level - 1);
        let x = from.iter().flat_map(|&(_, code)| net.vector(params, start + code)).copied().collect();
        let h = net.stack.branch(params, x, &self.memory, &mut self.branches, &net.by_place);
        net.scores(params, self.known, level, &h)
    }
}

impl Score for TigerDecoder {
    fn items(&self) -> usize {
        self.fitted
    }

    /// Nothing is left out of the beam, so that every item's score is its own. An item without codes is below all.
    fn score(&self, q: &ResolvedQuery, items: &[ItemIx], out: &mut [f32]) {
        let known = self.known();
        let coded = items.iter().filter_map(|item| Some((known.codes(item.0)?, item.0)));
        let mut coded: Vec<(&[u32], u32)> = coded.collect();
        coded.sort_unstable();
        coded.dedup();
        let trie = CodeTrie::of(known.levels(), coded);
        let mut found = self.write(&known, q, &trie, trie.len());
        found.sort_by_key(|c| c.item);
        let least = found.iter().map(|c| c.score).fold(0f32, f32::min) - 1.0;
        for (out, item) in out.iter_mut().zip(items) {
            *out = found.binary_search_by_key(item, |c| c.item).map_or(least, |at| found[at].score);
        }
    }
}

impl Retrieve for TigerDecoder {
    fn retrieve(&self, q: &ResolvedQuery, k: usize, allowed: &Allowed) -> Vec<Candidate> {
        let known = self.known();
        let trie = known.trie.restricted(allowed);
        let mut found = self.write(&known, q, &trie, self.beam.max(k));
        found.truncate(k);
        found
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

impl Explain for TigerDecoder {
    /// What the item's score loses when an item of those read is left out.
    fn contributions(&self, q: &ResolvedQuery, item: ItemIx, limit: usize) -> Vec<(ItemIx, f32)> {
        let known = self.known();
        let Some(codes) = known.codes(item.0) else { return Vec::new() };
        let trie = CodeTrie::of(known.levels(), [(codes, item.0)]);
        let of = |items: &[ItemIx]| {
            let q = ResolvedQuery::from_items(items.iter().copied());
            self.write(&known, &q, &trie, 1).first().map_or(0.0, |c| c.score)
        };
        let read = self.reads(&known, q);
        let whole = of(&read);
        let mut shares: Vec<(ItemIx, f32)> = Vec::new();
        for (at, &gone) in read.iter().enumerate() {
            let share = whole - of(&[&read[..at], &read[at + 1..]].concat());
            match shares.iter_mut().find(|s| s.0 == gone) {
                Some(s) => s.1 += share,
                None => shares.push((gone, share)),
            }
        }
        largest(shares, limit)
    }
}

impl Model for TigerDecoder {
    fn kind(&self) -> &'static str {
        "tiger_decoder"
    }

    fn weights(&self) -> Weights {
        let mut weights = Weights::default();
        for p in self.params.iter() {
            weights.set_f32(&p.name, &[p.rows, p.cols], p.value.clone());
        }
        self.known().store(&mut weights);
        weights
    }

    fn meet(&self, item: ItemIx, info: &Item) -> bool {
        self.known.write().unwrap_or_else(PoisonError::into_inner).meet(item.0, info)
    }
}

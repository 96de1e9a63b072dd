//! A causal transformer over the codes of histories, which tells each code from those before it.
//!
//! A history i_1 … i_n becomes tokens [begin, c_11 … c_1L, c_21 … c_nL], c_il the l-th code of item i_l. p(c | before) =
//! softmax(h · W_l) over the codes of its level, or with `among = "tree"` over those of them that some item goes on with (the constrained
//! learning of MSCGRec, arXiv:2602.03713); W_l are the same vectors that are read (tied). Within a block scores have a number for
//! each distance in tokens and head, as in T5; there are no other places. Codes of an item that has none read zeros and tell
//! nothing.
//!
//! Shapes: W (tokens + 1 × D), h (L n + 1 × D).
//! Cost: O(L n D² + (L n)² D) a block to read, L steps of a beam of D² + n L D to write.

use super::Told;
use super::hearing::{self, Hearing};
use super::known::Known;
use super::search::Writer;
use crate::FitError;
use crate::model::require;
use sommelier_core::Rng;
use sommelier_data::snapshot::ItemWishes;
use sommelier_nn::kernel::{self, Layout};
use sommelier_nn::layer::{Branches, Memory, Order, Transformer, TransformerConfig};
use sommelier_nn::loss::Items;
use sommelier_nn::op::{Bias, Buckets, Embed, NO_ROW};
use sommelier_nn::{Activation, Init, ParamId, Params, Ragged, Tape, Tensor, Var};
use std::sync::Arc;

/// How large it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    pub dim: usize,
    pub blocks: usize,
    pub heads: usize,
    /// Width inside the feed-forward half of a block.
    pub inner: usize,
    pub dropout: f32,
    /// Items of a history.
    pub length: usize,
    /// Standard deviation of code vectors at the start.
    pub initial: f32,
}

impl Size {
    pub fn check(&self) -> Result<(), FitError> {
        let dims = self.heads > 0 && self.dim.is_multiple_of(self.heads.max(1)) && self.dim > 0;
        require("dim", self.dim as f64, dims, "at least 1 and a multiple of heads")?;
        require("blocks", self.blocks as f64, (1..=64).contains(&self.blocks), "1 to 64")?;
        require("inner", self.inner as f64, self.inner > 0, "at least 1")?;
        let share = (0.0..1.0).contains(&self.dropout);
        require("dropout", self.dropout.into(), share, "a share of at least 0 and below 1")?;
        require("length", self.length as f64, (1..=4096).contains(&self.length), "1 to 4096")?;
        require("initial", self.initial.into(), self.initial > 0.0, "a finite number above 0")
    }

    /// Numbers that one token takes on a tape, both ways, about.
    pub fn numbers_per_token(&self) -> usize {
        2 * (2 * self.dim + self.blocks * (8 * self.dim + 2 * self.inner))
    }

    pub fn transformer(&self, causal: bool) -> TransformerConfig {
        TransformerConfig {
            dim: self.dim,
            blocks: self.blocks,
            heads: self.heads,
            inner: self.inner,
            activation: Activation::Gelu,
            dropout: self.dropout,
            causal,
            order: Order::NormFirst,
            init: Init::Glorot,
        }
    }
}

/// Where the parameters are.
pub(super) struct CodeStack {
    dim: usize,
    dropout: f32,
    levels: usize,
    /// A row for each token, and one for the beginning.
    tokens: ParamId,
    stack: Transformer,
    /// Numbers by distance, one parameter a block.
    by_place: Vec<ParamId>,
    distances: usize,
    hearing: Option<Hearing>,
}

/// For each level, the rows that tell a code of it, and the codes.
pub(super) type Codes = Vec<(Vec<u32>, Vec<u32>)>;

/// Tokens of some histories, and what is told of them.
pub(super) struct Tokens {
    pub ragged: Arc<Ragged>,
    rows: Arc<Vec<u32>>,
    pub told: Codes,
    /// For each item, the row that stands before its first code.
    pub before: Vec<u32>,
    /// For each row, the place among the items of the one that it ends; [`NO_ROW`] within items.
    pub ends: Vec<u32>,
}

impl CodeStack {
    /// `words` is the length of wishes, where they are heard.
    pub fn new(size: &Size, known: &Known, words: Option<usize>, params: &mut Params) -> CodeStack {
        let small = Init::Normal(size.initial);
        let tokens = params.add("tokens", known.tokens() as usize + 1, size.dim, small);
        let stack = Transformer::new(params, "", size.transformer(true));
        let distances = known.levels() * (size.length + 1) + 1;
        let by_place = (0..size.blocks)
            .map(|b| params.add(&format!("blocks.{b}.by_place"), size.heads, distances, small))
            .collect();
        let (dim, dropout, levels) = (size.dim, size.dropout, known.levels());
        let hearing = words.map(|words| Hearing::new(dim, words, params));
        CodeStack { dim, dropout, levels, tokens, stack, by_place, distances, hearing }
    }

    /// The tokens of histories that lie end to end. Who only learns leaves out the last code of each, which is told and not read.
    /// With `last` nothing but the last item of each is told.
    pub fn tokens(known: &Known, items: &[u32], ragged: &Ragged, to_the_end: bool, last: bool) -> Tokens {
        let levels = known.levels();
        let mut rows = Vec::with_capacity(items.len() * levels + ragged.len());
        let mut told = vec![(Vec::new(), Vec::new()); levels];
        let (mut before, mut ends) = (Vec::with_capacity(items.len()), Vec::with_capacity(rows.capacity()));
        let mut lengths = Vec::with_capacity(ragged.len());
        for window in ragged.iter() {
            let start = rows.len();
            rows.push(known.tokens());
            ends.push(NO_ROW);
            for i in window.clone() {
                before.push(rows.len() as u32 - 1);
                let codes = known.codes(items[i]);
                for (level, told) in told.iter_mut().enumerate() {
                    if let Some(codes) = codes.filter(|_| !last || i + 1 == window.end) {
                        told.0.push(rows.len() as u32 - 1);
                        told.1.push(codes[level]);
                    }
                    rows.push(codes.map_or(NO_ROW, |codes| known.start(level) + codes[level]));
                    ends.push(if level + 1 == levels { i as u32 } else { NO_ROW });
                }
            }
            if !to_the_end && !window.is_empty() {
                rows.pop();
                ends.pop();
            }
            lengths.push(rows.len() - start);
        }
        Tokens { ragged: Arc::new(Ragged::of(lengths)), rows: Arc::new(rows), told, before, ends }
    }

    /// How tokens become vectors.
    pub fn embed(&self) -> Embed {
        Embed { dropout: self.dropout, ..Embed::default() }
    }

    /// What is added to tokens that tell an item whose wish is heard.
    pub fn hear(
        &self,
        tape: &mut Tape,
        wishes: &ItemWishes,
        tokens: &Tokens,
        items: &[u32],
        rng: &mut Rng,
    ) -> Option<Var> {
        let levels = self.levels;
        let tells = |&row: &u32| row as usize..row as usize + levels;
        let told = items.iter().copied().zip(tokens.before.iter().map(tells));
        self.hearing?.beside(tape, wishes, told, tokens.ragged.rows(), rng)
    }

    /// h of every token; `beside` is added to what is read.
    pub fn run(&self, tape: &mut Tape, tokens: &Tokens, beside: Option<Var>) -> Var {
        let mut x = tape.embed(Items::Matrix(self.tokens.into()), tokens.rows.clone(), self.embed());
        x = hearing::add(tape, x, beside);
        let by_place = |b: usize| {
            let buckets = Buckets::Places { count: self.distances };
            vec![Bias::Numbers { of: self.by_place[b].into(), buckets }]
        };
        self.stack.run(tape, x, &tokens.ragged, &by_place, false)
    }

    /// `scale` × the sum of −log p of all codes that are told.
    pub fn loss(&self, tape: &mut Tape, known: &Known, h: Var, tokens: Tokens, scale: f32) -> Var {
        loss_of_codes(tape, known, self.tokens, h, tokens.told, scale)
    }

    /// Where the vectors of tokens are.
    pub fn vectors(&self) -> ParamId {
        self.tokens
    }

    fn vector<'p>(&self, params: &'p Params, token: u32) -> &'p [f32] {
        code_vector(params, self.tokens, token)
    }

    /// Reads a history and is ready to write what comes next; `beside` is added to the last code of an item.
    pub fn read<'a>(
        &'a self,
        params: &'a Params,
        known: &'a Known,
        Told { items, wish }: Told,
        beside: impl Fn(u32) -> Option<&'a [f32]>,
    ) -> Pen<'a> {
        let mut x = self.vector(params, known.tokens()).to_vec();
        for &item in items {
            match known.codes(item) {
                Some(codes) => (0..).zip(codes).for_each(|(level, &code)| {
                    x.extend_from_slice(self.vector(params, known.start(level) + code));
                }),
                None => x.resize(x.len() + known.levels() * self.dim, 0.0),
            }
            if let Some(beside) = beside(item) {
                let last = x.len() - self.dim;
                kernel::axpy(1.0, beside, &mut x[last..]);
            }
        }
        let wish = wish.and_then(|wish| self.hearing?.heard(params, wish));
        let last = x.len() - self.dim;
        hearing::add_to_rows(&mut x[last..], wish.as_deref());
        let mut memory = Memory::default();
        let h = self.stack.read(params, x, &mut memory, &self.by_place);
        let last = h[h.len() - self.dim..].to_vec();
        Pen { stack: self, params, known, memory, last, wish, branches: Branches::new(1) }
    }
}

/// `scale` × the sum of −log p of all codes that are told.
pub(super) fn loss_of_codes(
    tape: &mut Tape,
    known: &Known,
    tokens: ParamId,
    h: Var,
    told: Codes,
    scale: f32,
) -> Var {
    sum_of_levels(tape, known, tokens, h, told, |tape, h, vectors, codes, mask| match mask {
        None => tape.catalogue_softmax(h, Items::Matrix(vectors), &Arc::new(codes), &[], 1.0, scale),
        Some(mask) => {
            let each = log_likelihood(tape, h, vectors, &codes, Some(mask));
            let ones = tape.constant(Tensor::new(1, codes.len(), vec![-scale; codes.len()]));
            tape.matmul(ones, each, false)
        }
    })
}

/// log p of each code that is told (rows × 1).
pub(super) fn log_likelihood(
    tape: &mut Tape,
    h: Var,
    vectors: Var,
    codes: &[u32],
    mask: Option<Vec<f32>>,
) -> Var {
    let mut scores = tape.matmul(h, vectors, true);
    if let Some(mask) = mask {
        let (rows, cols) = tape.shape(scores);
        let mask = tape.constant(Tensor::new(rows, cols, mask));
        scores = tape.add(scores, mask);
    }
    tape.log_likelihood(scores, codes)
}

/// The sum over levels of what `of` makes of the rows of h that tell a code, of W_l, of the codes, and of what is added to scores of
/// codes that cannot come; W lies level by level in one parameter.
pub(super) fn sum_of_levels(
    tape: &mut Tape,
    known: &Known,
    tokens: ParamId,
    h: Var,
    told: Codes,
    of: impl Fn(&mut Tape, Var, Var, Vec<u32>, Option<Vec<f32>>) -> Var,
) -> Var {
    let mut before: Vec<Vec<u32>> = Vec::new();
    let mut terms: Vec<(Var, f32)> = Vec::with_capacity(known.levels());
    for (level, (rows, codes)) in told.into_iter().enumerate() {
        let mask = known.mask(&before, rows.len());
        let h = tape.pick_rows(h, rows);
        let start = known.start(level);
        let vectors = tape.pick_rows(tokens.into(), (start..start + known.sizes[level]).collect());
        terms.push((of(tape, h, vectors, codes.clone(), mask), 1.0));
        before.push(codes);
    }
    tape.add_scaled(&terms)
}

/// What is read of a token.
pub(super) fn code_vector(params: &Params, tokens: ParamId, token: u32) -> &[f32] {
    let param = params.get(tokens);
    &param.value[token as usize * param.cols..][..param.cols]
}

/// h · W_l for each row of h (rows × codes of the level).
pub(super) fn code_scores(
    params: &Params,
    tokens: ParamId,
    known: &Known,
    level: usize,
    h: &[f32],
) -> Vec<f32> {
    let (dim, codes) = (params.get(tokens).cols, known.sizes[level] as usize);
    let rows = h.len() / dim;
    let vectors = &params.get(tokens).value[known.start(level) as usize * dim..][..codes * dim];
    let mut out = vec![0f32; rows * codes];
    let at = Layout::rows_of(dim);
    let into = (&mut out[..], Layout::rows_of(codes));
    kernel::gemm((rows, codes, dim), 1.0, (h, at), (vectors, at.transposed()), 0.0, into);
    out
}

/// Writes codes behind a history that was read.
pub(super) struct Pen<'a> {
    stack: &'a CodeStack,
    params: &'a Params,
    known: &'a Known,
    memory: Memory,
    /// What the history comes to.
    pub last: Vec<f32>,
    /// What is heard of a wish, added to all that is written.
    wish: Option<Vec<f32>>,
    branches: Branches,
}

impl Writer for Pen<'_> {
    fn first(&mut self) -> Vec<f32> {
        self.branches = Branches::new(1);
        code_scores(self.params, self.stack.tokens, self.known, 0, &self.last)
    }

    fn next(&mut self, level: usize, from: &[(usize, u32)]) -> Vec<f32> {
        let (stack, params) = (self.stack, self.params);
        self.branches.keep(&from.iter().map(|&(b, _)| b).collect::<Vec<_>>());
        let start = self.known.start(level - 1);
        let mut x: Vec<f32> =
            from.iter().flat_map(|&(_, code)| stack.vector(params, start + code)).copied().collect();
        hearing::add_to_rows(&mut x, self.wish.as_deref());
        let h = stack.stack.branch(params, x, &self.memory, &mut self.branches, &stack.by_place);
        code_scores(params, stack.tokens, self.known, level, &h)
    }
}

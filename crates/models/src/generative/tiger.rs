//! TIGER: an encoder reads the codes of a history, a decoder writes those of the next item.
//!
//! The encoder sees all tokens c_11 … c_nL of a history at once; the decoder reads [begin, c_1 … c_{L−1}] of the next item, each after those
//! before it, and looks at what was read: p(c_l | c_1 … c_{l−1}, history) = softmax(h_l · W_l) over the codes of the level, W_l the
//! same vectors that both read (tied). Scores of attention within each have a number for each distance and head. An item's score
//! is the sum of the logarithms of its codes' probabilities.
//!
//! Shapes: W (tokens + 1 × D), encoder rows (L n × D), decoder rows (L × D).
//! Cost: O(L n D² + (L n)² D) a block to read, L steps of a beam of D² + n L D to write. A history teaches once for each of its items,
//! and is read again each time: so many epochs cost as many times more than in `tiger_decoder`.
//! Source: Rajput et al., "Recommender Systems with Generative Retrieval" (TIGER), NeurIPS 2023, arXiv:2305.05065; Raffel et al.
//! (T5), JMLR 2020, arXiv:1910.10683 (encoder, decoder and biases).
//! Departures: no token for the user; probabilities are over the codes of a level and not over all tokens; layer norms with a mean,
//! GELU, biased layers, biases by distance without buckets. Items without codes are left out of histories.

use super::hearing::{self, Hearing};
use super::known::Known;
use super::search::Writer;
use super::stack::{Codes, Size, code_scores, code_vector};
use super::{Align, Among, Architecture, Lesson, Network, Reading, Telling, Told, generative_model};
use crate::FitError;
use crate::sequence::Histories;
use crate::spare::Spare;
use serde::{Deserialize, Serialize};
use sommelier_core::Rng;
use sommelier_nn::layer::{Branches, Memory, Transformer};
use sommelier_nn::loss::Items;
use sommelier_nn::op::{Bias, Buckets, Embed};
use sommelier_nn::train::Settings;
use sommelier_nn::{Init, ParamId, Params, Ragged, Tape, Var};
use std::ops::Range;
use std::sync::Arc;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TigerConfig {
    /// Length of a vector.
    pub dim: usize,
    /// Blocks of the encoder, and as many of the decoder.
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
    /// So many events of each person are told in an epoch, others each time; 0 tells all.
    pub each: usize,
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

impl Default for TigerConfig {
    fn default() -> TigerConfig {
        TigerConfig {
            dim: 128,
            blocks: 4,
            heads: 4,
            inner: 512,
            dropout: 0.1,
            length: 20,
            batch: 128,
            each: 4,
            beam: 20,
            among: Among::default(),
            initial: 0.02,
            training: Settings::default(),
            align: None,
        }
    }
}

generative_model!(TigerConfig);

impl TigerConfig {
    fn size(&self) -> Size {
        let TigerConfig { dim, blocks, heads, inner, dropout, length, initial, .. } = *self;
        Size { dim, blocks, heads, inner, dropout, length, initial }
    }
}

impl Architecture for TigerConfig {
    const KIND: &'static str = "tiger";

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
        Arc::new(Net::new(&self.size(), known, words, params))
    }

    fn windows(&self, histories: &Histories, rng: &mut Rng) -> Vec<Range<usize>> {
        histories.endings(self.length, self.each, rng)
    }

    fn numbers_per_code(&self) -> usize {
        // The decoder's rows are few beside the encoder's.
        self.size().numbers_per_token() * 5 / 4
    }
}

/// Where the parameters are.
struct Net {
    dropout: f32,
    levels: usize,
    /// A row for each token, and one for the beginning.
    tokens: ParamId,
    encoder: Transformer,
    decoder: Transformer,
    /// Numbers by distance, one parameter a block.
    reads_by_place: Vec<ParamId>,
    writes_by_place: Vec<ParamId>,
    distances: usize,
    hearing: Option<Hearing>,
    spare: Spare,
}

impl Net {
    fn new(size: &Size, known: &Known, words: Option<usize>, params: &mut Params) -> Net {
        let small = Init::Normal(size.initial);
        let tokens = params.add("tokens", known.tokens() as usize + 1, size.dim, small);
        let encoder = Transformer::new(params, "encoder.", size.transformer(false));
        let decoder = Transformer::decoder(params, "decoder.", size.transformer(true));
        let distances = 2 * known.levels() * size.length + 1;
        let mut by_place = |stack: &str, count: usize| -> Vec<ParamId> {
            let name = |b: usize| format!("{stack}.blocks.{b}.by_place");
            (0..size.blocks).map(|b| params.add(&name(b), size.heads, count, small)).collect()
        };
        let reads_by_place = by_place("encoder", distances);
        let writes_by_place = by_place("decoder", known.levels());
        let (dropout, levels) = (size.dropout, known.levels());
        let hearing = words.map(|words| Hearing::new(size.dim, words, params));
        let spare = Spare::default();
        Net {
            dropout,
            levels,
            tokens,
            encoder,
            decoder,
            reads_by_place,
            writes_by_place,
            distances,
            hearing,
            spare,
        }
    }

    /// What the encoder makes of tokens.
    fn encode(&self, tape: &mut Tape, tokens: Vec<u32>, ragged: &Arc<Ragged>) -> Var {
        let embed = Embed { dropout: self.dropout, ..Embed::default() };
        let x = tape.embed(Items::Matrix(self.tokens.into()), Arc::new(tokens), embed);
        let around = |b: usize| {
            let buckets = Buckets::Around { count: self.distances };
            vec![Bias::Numbers { of: self.reads_by_place[b].into(), buckets }]
        };
        self.encoder.run(tape, x, ragged, &around, false)
    }
}

impl Network for Net {
    fn told(&self, known: &Known, ragged: &Ragged) -> usize {
        ragged.len() * known.levels()
    }

    fn vectors(&self) -> ParamId {
        self.tokens
    }

    /// It learns from the last items alone.
    fn tell(&self, tape: &mut Tape, lesson: &Lesson, _: bool, rng: &mut Rng) -> Telling {
        let Lesson { known, items, ragged, wishes, .. } = *lesson;
        let levels = known.levels();
        let (mut read, mut written) = (Vec::with_capacity(items.len() * levels), Vec::new());
        let mut told: Codes = vec![Default::default(); levels];
        let mut tells = Vec::with_capacity(ragged.len());
        for window in ragged.iter() {
            let Some((next, history)) = items[window].split_last() else { continue };
            for &item in history {
                read.extend(known.tokens_of(item));
            }
            tells.push((*next, written.len()..written.len() + levels));
            let mut before = known.tokens();
            for (level, token) in known.tokens_of(*next).enumerate() {
                told[level].0.push(written.len() as u32);
                told[level].1.push(token - known.start(level));
                written.push(before);
                before = token;
            }
        }
        let of_read = Arc::new(Ragged::of(ragged.iter().map(|w| (w.len() - 1) * levels)));
        let of_written = Arc::new(Ragged::of(ragged.iter().map(|_| levels)));
        let memory = self.encode(tape, read, &of_read);
        let embed = Embed { dropout: self.dropout, ..Embed::default() };
        let heard = self.hearing.zip(wishes).and_then(|(hearing, wishes)| {
            hearing.beside(tape, wishes, tells.into_iter(), written.len(), rng)
        });
        let x = tape.embed(Items::Matrix(self.tokens.into()), Arc::new(written), embed);
        let x = hearing::add(tape, x, heard);
        let by_place = |b: usize| {
            let buckets = Buckets::Places { count: self.levels };
            vec![Bias::Numbers { of: self.writes_by_place[b].into(), buckets }]
        };
        let h = self.decoder.run_beside(tape, (x, &of_written), (memory, &of_read), &by_place);
        (h, told)
    }

    fn read<'a>(&'a self, params: &'a Params, known: &'a Known, told: Told) -> Box<dyn Writer + 'a> {
        let Told { items, wish } = told;
        let wish = wish.and_then(|wish| self.hearing?.heard(params, wish));
        let tokens: Vec<u32> = items.iter().flat_map(|&item| known.tokens_of(item)).collect();
        let ragged = Arc::new(Ragged::of([tokens.len()]));
        let mut tape = Tape::answering(params, self.spare.take());
        let read = self.encode(&mut tape, tokens, &ragged);
        let memory = self.decoder.beside(params, tape.data(read));
        self.spare.give(tape.finish());
        Box::new(Pen { net: self, params, known, memory, wish, branches: Branches::new(1) })
    }
}

/// Writes codes beside a history that was read.
struct Pen<'a> {
    net: &'a Net,
    params: &'a Params,
    known: &'a Known,
    memory: Memory,
    /// What is heard of a wish, added to all that is written.
    wish: Option<Vec<f32>>,
    branches: Branches,
}

impl Pen<'_> {
    /// Goes on with these tokens, one for each branch.
    fn write(&mut self, level: usize, tokens: impl Iterator<Item = u32>) -> Vec<f32> {
        let (net, params) = (self.net, self.params);
        let mut x: Vec<f32> =
            tokens.flat_map(|token| code_vector(params, net.tokens, token)).copied().collect();
        hearing::add_to_rows(&mut x, self.wish.as_deref());
        let h = net.decoder.branch(params, x, &self.memory, &mut self.branches, &net.writes_by_place);
        code_scores(params, net.tokens, self.known, level, &h)
    }
}

impl Writer for Pen<'_> {
    fn first(&mut self) -> Vec<f32> {
        self.branches = Branches::new(1);
        self.write(0, std::iter::once(self.known.tokens()))
    }

    fn next(&mut self, level: usize, from: &[(usize, u32)]) -> Vec<f32> {
        self.branches.keep(&from.iter().map(|&(b, _)| b).collect::<Vec<_>>());
        let start = self.known.start(level - 1);
        self.write(level, from.iter().map(|&(_, code)| start + code))
    }
}

//! Ada-Retrieval: a person is searched for in rounds, each of which knows what the rounds before it found.
//!
//! Around any model with one vector for a history, the backbone B. In round 1 u¹ = B(x), x_t = E[i_t]. In round r the context is
//! the items nearest u¹ … uʳ⁻¹, `retrieved` new ones of each, C = E[found]:
//! Ĉ = LN(C + drop(f_r ⊛ C)), a circular convolution along the context with a filter for each channel;
//! items: x′_t = x_t + drop(Σ_j softmax_j(x_t W_qᵀ · ĉ_j / √D) ĉ_j W_oᵀ);
//! people: h = GRU(u¹ … uʳ⁻¹), uʳ = B(x′) + W₂ relu(W₁ [B(x′), h] + b₁) + b₂.
//! score(j | history) = max_r uʳ · E[j]. Learned: the backbone's own loss, and Σ_{r>1} `decay`^(r−1) · the loss of uʳ.
//!
//! Shapes: E (items × D), C (retrieved · (r − 1) × D), f_r as C, W_q and W_o (D × D), W₁ (D × 2 D); scores (items).
//! Cost: that of the backbone, and for each further round of a beginning that of the backbone, O(items · D) to search and
//! O(n² D + L n D) for n items of context; memory a step's activations.
//! Source: Li et al., "Ada-Retrieval: An Adaptive Multi-Round Retrieval Paradigm for Sequential Recommendations", AAAI 2024,
//! arXiv:2401.06633; rounds, items a round and decay are what its published code is started with for Amazon Beauty, and
//! that losses are weighed by a power of one number is from that code too. Nothing is tuned here yet.
//! Departures: a list is not the rounds' lists one after the other: an item counts by its best score in any round, so that
//! scores and lists agree; later rounds search beside what earlier ones found, not beside what was handed out. The filter is
//! real and stands in the time domain, which is the same by the convolution theorem, with one for each length of context.
//! Both adapters add to what they adapt and begin at nothing: the exact form of the paper's attention and of its layer over
//! [B(x′), h] was not at hand, and is ours. Backbone and adapters learn together, the backbone from every step as it does
//! alone and the rounds from beginnings; the paper fits the backbone first. No gradient passes through the search.

use super::{
    Architecture, Batch, Embedder, Encoder, Family, Lesson, SequenceConfig, SequenceModel, Similarity,
};
use super::{
    Bert4recConfig, CapeConfig, Gru4recConfig, HstuConfig, MambaConfig, SasrecConfig, TisasrecConfig,
};
use crate::model::require;
use crate::{FitError, LoadError, Weights};
use serde::{Deserialize, Serialize};
use sommelier_core::{FitContext, Rng};
use sommelier_data::Snapshot;
use sommelier_nn::kernel::{self, Layout};
use sommelier_nn::loss::Items;
use sommelier_nn::op::{Conv, Embed, Gru, Linear, Pool};
use sommelier_nn::train::Settings;
use sommelier_nn::{Activation, Init, ParamId, Params, Ragged, Tape, Var};
use std::sync::Arc;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdaRetrievalConfig {
    /// Vectors of one person, the first of them the backbone's own.
    pub rounds: usize,
    /// Items that each round finds for those after it.
    pub retrieved: usize,
    /// What a round's loss counts, next to that of the round before.
    pub decay: f32,
    /// Share of numbers dropped in training, in the adapters.
    pub dropout: f32,
    /// Beginnings of a window of which further rounds are learned in one step, at most.
    pub beginnings: usize,
    /// What reads a history, with `sequence` and `training` of the whole.
    pub backbone: Backbone,
}

impl Default for AdaRetrievalConfig {
    fn default() -> AdaRetrievalConfig {
        AdaRetrievalConfig {
            rounds: 5,
            retrieved: 20,
            decay: 0.3,
            dropout: 0.2,
            beginnings: 1,
            backbone: Backbone::Sasrec(SasrecConfig::default()),
        }
    }
}

/// Declares the enum and asks the config in it, whichever it is.
macro_rules! backbones {
    ($($variant:ident($config:ident) = $kind:literal),* $(,)?) => {
        /// A model that has one vector for a history. In TOML and JSON, `kind` says which, as in a recipe's `[model]`.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "kind")]
        pub enum Backbone {
            $(#[serde(rename = $kind)] $variant($config),)*
        }

        impl Backbone {
            fn dim(&self) -> usize {
                match self { $(Backbone::$variant(config) => config.dim(),)* }
            }
            fn sequence(&self) -> &SequenceConfig {
                match self { $(Backbone::$variant(config) => config.sequence(),)* }
            }
            pub(crate) fn training(&self) -> &Settings {
                match self { $(Backbone::$variant(config) => config.training(),)* }
            }
            fn check(&self) -> Result<(), FitError> {
                match self { $(Backbone::$variant(config) => config.check(),)* }
            }
            fn build(&self, params: &mut Params) -> Arc<dyn Encoder> {
                match self { $(Backbone::$variant(config) => config.build(params),)* }
            }
            fn numbers_per_step(&self) -> usize {
                match self { $(Backbone::$variant(config) => config.numbers_per_step(),)* }
            }
        }
    };
}

backbones! {
    Sasrec(SasrecConfig) = "sasrec",
    Gru4rec(Gru4recConfig) = "gru4rec",
    Bert4rec(Bert4recConfig) = "bert4rec",
    Hstu(HstuConfig) = "hstu",
    Tisasrec(TisasrecConfig) = "tisasrec",
    Cape(CapeConfig) = "cape",
    Mamba(MambaConfig) = "mamba",
}

impl AdaRetrievalConfig {
    pub fn fit(&self, train: &Snapshot, ctx: &mut FitContext) -> Result<SequenceModel, FitError> {
        super::fit::fit(self, train, ctx)
    }

    pub fn load(&self, weights: &Weights) -> Result<SequenceModel, LoadError> {
        super::fit::load(self, weights)
    }
}

impl Family for AdaRetrievalConfig {
    const KIND: &'static str = "ada_retrieval";

    fn dim(&self) -> usize {
        self.backbone.dim()
    }
    fn sequence(&self) -> &SequenceConfig {
        self.backbone.sequence()
    }
    fn training(&self) -> &Settings {
        self.backbone.training()
    }
}

impl Architecture for AdaRetrievalConfig {
    fn check(&self) -> Result<(), FitError> {
        self.backbone.check()?;
        require("rounds", self.rounds as f64, (1..=64).contains(&self.rounds), "1 to 64")?;
        require("retrieved", self.retrieved as f64, (1..=1024).contains(&self.retrieved), "1 to 1024")?;
        require("beginnings", self.beginnings as f64, self.beginnings > 0, "at least 1")?;
        require("decay", self.decay.into(), self.decay > 0.0, "a finite number above 0")?;
        require("dropout", self.dropout.into(), (0.0..1.0).contains(&self.dropout), "0 or more, and below 1")
    }

    fn build(&self, params: &mut Params) -> Arc<dyn Encoder> {
        let backbone = self.backbone.build(params);
        let d = self.dim();
        let gru = Gru::new(params, "adapter.gru.", 0, d, d);
        let mut add = |part: &str, rows: usize, cols: usize, init: Init| {
            params.add(&format!("adapter.{part}"), rows, cols, init)
        };
        let filters = (1..self.rounds)
            .map(|round| add(&format!("filter.{round}"), d, round * self.retrieved, Init::Normal(0.02)))
            .collect();
        let norm = [add("norm.weight", 1, d, Init::Ones), add("norm.bias", 1, d, Init::Zeros)];
        let attention = [
            add("attention.query.weight", d, d, Init::Glorot),
            add("attention.out.weight", d, d, Init::Zeros),
        ];
        let dense = [
            [add("dense.0.weight", d, 2 * d, Init::Glorot), add("dense.0.bias", 1, d, Init::Zeros)],
            [add("dense.1.weight", d, d, Init::Zeros), add("dense.1.bias", 1, d, Init::Zeros)],
        ];
        Arc::new(AdaRetrieval { config: self.clone(), backbone, filters, norm, attention, gru, dense })
    }

    fn numbers_per_step(&self) -> usize {
        let backbone = self.backbone.numbers_per_step();
        let context = self.rounds * self.retrieved;
        let round = backbone
            + 2 * (4 * self.dim() + 3 * context)
            + 16 * self.dim() * context / self.sequence().length;
        backbone + self.beginnings * self.rounds * round
    }
}

struct AdaRetrieval {
    config: AdaRetrievalConfig,
    backbone: Arc<dyn Encoder>,
    /// One for each round but the first.
    filters: Vec<ParamId>,
    norm: [ParamId; 2],
    /// To the query, and from what was read.
    attention: [ParamId; 2],
    gru: Gru,
    /// Weights and biases of both layers.
    dense: [[ParamId; 2]; 2],
}

impl Encoder for AdaRetrieval {
    fn reads_whole(&self) -> bool {
        self.backbone.reads_whole()
    }

    fn rows(&self, batch: &Batch) -> usize {
        self.backbone.rows(batch)
    }

    fn encode(&self, tape: &mut Tape, items: Embedder, batch: &Batch) -> Var {
        self.backbone.encode(tape, items, batch)
    }

    fn learn(&self, tape: &mut Tape, items: Embedder, batch: &Batch, share: f32, rng: &mut Rng) -> Lesson {
        let mut lesson = self.backbone.learn(tape, items, batch, share, rng);
        let (begun, right) = batch.beginnings(self.config.beginnings, self.reads_whole(), rng);
        let rounds = self.rounds(tape, items, &begun);
        // As a whole a round counts what the backbone's own rows do.
        let mut counts = lesson.right.len() as f32 / right.len().max(1) as f32;
        for &vectors in &rounds[1..] {
            counts *= self.config.decay;
            lesson.further.push((vectors, right.clone(), counts));
        }
        lesson
    }

    /// One vector for each round.
    fn answer(&self, tape: &mut Tape, items: Embedder, batch: &Batch) -> Var {
        let rounds = self.rounds(tape, items, batch);
        person_by_person(tape, &rounds)
    }
}

impl AdaRetrieval {
    /// The vectors of each round, one row for each history that has steps.
    fn rounds(&self, tape: &mut Tape, items: Embedder, batch: &Batch) -> Vec<Var> {
        let ragged = Arc::new(Ragged::of(batch.ragged.iter().map(|r| r.len()).filter(|&n| n > 0)));
        let batch = Batch { ragged, ..batch.clone() };
        let mut rounds = vec![self.backbone.answer(tape, items, &batch)];
        if self.config.rounds == 1 {
            return rounds;
        }
        let own = items.rows(tape, &batch.items, Embed::default());
        let steps = Batch { items: Arc::new((0..batch.items.len() as u32).collect()), ..batch.clone() };
        let mut found = vec![Vec::new(); batch.ragged.len()];
        for &filter in &self.filters {
            self.find(tape, items, rounds[rounds.len() - 1], &mut found);
            let context = self.filtered(tape, items, filter, &found);
            let adapted = self.adapted(tape, own, context, &batch.ragged);
            // To the backbone each step is an item of its own.
            let adapted = Embedder { items: Items::Matrix(adapted) };
            let vectors = self.backbone.answer(tape, adapted, &steps);
            rounds.push(self.user(tape, vectors, &rounds));
        }
        rounds
    }

    /// The best items of each vector beside those that were found before; everybody's list grows by as many.
    fn find(&self, tape: &Tape, items: Embedder, vectors: Var, found: &mut [Vec<u32>]) {
        /// People whose scores are there at once.
        const TILE: usize = 32;
        let d = self.config.dim().max(1);
        let all = items.data(tape);
        let count = all.len() / d;
        let lengths: Option<Vec<f32>> = (self.config.sequence().similarity == Similarity::Cosine)
            .then(|| all.chunks_exact(d).map(|v| kernel::dot(v, v).sqrt().max(f32::MIN_POSITIVE)).collect());
        let mut scores = vec![0f32; TILE.min(found.len()) * count];
        for (vectors, found) in tape.data(vectors).chunks(TILE * d).zip(found.chunks_mut(TILE)) {
            let at = Layout::rows_of;
            let scores = &mut scores[..found.len() * count];
            let shape = (found.len(), count, d);
            kernel::gemm(shape, 1.0, (vectors, at(d)), (all, at(d).transposed()), 0.0, (scores, at(count)));
            for (scores, found) in scores.chunks_exact_mut(count.max(1)).zip(found) {
                if let Some(lengths) = &lengths {
                    scores.iter_mut().zip(lengths).for_each(|(score, length)| *score /= length);
                }
                take_best(scores, self.config.retrieved, found);
            }
        }
    }

    /// What was found for each person, each item with the others mixed into it.
    fn filtered(&self, tape: &mut Tape, items: Embedder, filter: ParamId, found: &[Vec<u32>]) -> Var {
        let n = found.first().map_or(0, Vec::len);
        let context = items.rows(tape, &Arc::new(found.concat()), Embed::default()); // (people · n, D)
        let mixed = circular(tape, context, filter, n, found.len());
        let mixed = tape.drop_out(mixed, self.config.dropout);
        let both = tape.add(context, mixed);
        tape.layer_norm(both, self.norm[0], self.norm[1])
    }

    /// Steps in the light of the context.
    fn adapted(&self, tape: &mut Tape, own: Var, context: Var, ragged: &Arc<Ragged>) -> Var {
        let n = tape.shape(context).0 / ragged.len().max(1);
        let [query, out] = self.attention;
        let queries = tape.linear(own, query, Linear::default());
        let likeness = tape.segment_dots(queries, context, n, ragged);
        let likeness = tape.scale(likeness, 1.0 / (self.config.dim() as f32).sqrt());
        let weights = tape.softmax(likeness);
        let read = tape.segment_mix(weights, context, ragged);
        let with = Linear { residual: Some(own), dropout: self.config.dropout, ..Linear::default() };
        tape.linear(read, out, with)
    }

    /// People in the light of their earlier rounds.
    fn user(&self, tape: &mut Tape, vectors: Var, earlier: &[Var]) -> Var {
        let people = tape.shape(vectors).0;
        let before = person_by_person(tape, earlier);
        let ragged = Arc::new(Ragged::of(std::iter::repeat_n(earlier.len(), people)));
        let states = tape.gru(before, self.gru, &ragged);
        let state = tape.pool(states, Pool::Last, &ragged);
        let both = tape.concat(&[vectors, state]);
        let [[wide, wide_bias], [narrow, narrow_bias]] = self.dense;
        let (activation, dropout) = (Activation::Relu, self.config.dropout);
        let with = Linear { bias: Some(wide_bias.into()), activation, dropout, ..Linear::default() };
        let hidden = tape.linear(both, wide, with);
        let with = Linear { bias: Some(narrow_bias.into()), residual: Some(vectors), ..Linear::default() };
        tape.linear(hidden, narrow, with)
    }
}

/// Rows of several matrices, all of a person's together.
fn person_by_person(tape: &mut Tape, rounds: &[Var]) -> Var {
    let (people, d) = tape.shape(rounds[0]);
    let side_by_side = tape.concat(rounds);
    tape.reshape(side_by_side, people * rounds.len(), d)
}

/// Appends the `count` items with the best scores that are not in the list; what is equal goes by the item.
fn take_best(scores: &mut [f32], count: usize, list: &mut Vec<u32>) {
    list.iter().for_each(|&item| scores[item as usize] = f32::NEG_INFINITY);
    let mut order: Vec<u32> = (0..scores.len() as u32).collect();
    let better = |a: &u32, b: &u32| scores[*b as usize].total_cmp(&scores[*a as usize]).then(a.cmp(b));
    let count = count.min(order.len().saturating_sub(list.len()));
    if count > 0 && count < order.len() {
        order.select_nth_unstable_by(count - 1, better);
    }
    order.truncate(count);
    order.sort_unstable_by(better);
    list.extend(order);
}

/// y_i = Σ_j f_j ∘ x_{(i − j) mod n} within the `n` rows of each person: a causal convolution that begins with rows of the end.
fn circular(tape: &mut Tape, x: Var, filter: ParamId, n: usize, people: usize) -> Var {
    let taps = tape.shape(filter).1;
    let before = if n == 0 { 0 } else { taps - 1 };
    let row = |person: usize, i: usize| (person * n + (i + taps * n - before) % n) as u32;
    let wound = (0..people).flat_map(|p| (0..before + n).map(move |i| row(p, i))).collect();
    let wound = tape.pick_rows(x, wound);
    let ragged = Arc::new(Ragged::of(std::iter::repeat_n(before + n, people)));
    let y = tape.conv_depthwise(wound, filter, Conv::default(), &ragged);
    let own = ragged.iter().flat_map(|r| r.start + before..r.end).map(|r| r as u32).collect();
    tape.pick_rows(y, own)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sommelier_nn::{Table, TableId, Tensor, Workspace};

    #[test]
    fn a_circular_convolution_wraps_around() {
        for (n, taps, people) in [(1, 1, 1), (3, 3, 2), (4, 2, 1), (2, 5, 2), (0, 3, 2), (3, 3, 0)] {
            let mut params = Params::new(1);
            let filter = params.add("filter", 2, taps, Init::Normal(1.0));
            let mut tape = Tape::answering(&params, Workspace::default());
            let x: Vec<f32> = (0..people * n * 2).map(|i| (i * i % 7) as f32 - 2.0).collect();
            let given = tape.constant(Tensor::new(people * n, 2, x.clone()));
            let y = circular(&mut tape, given, filter, n, people);
            assert_eq!(tape.shape(y), (people * n, 2));
            for (p, i, c) in (0..people).flat_map(|p| (0..n).flat_map(move |i| [(p, i, 0), (p, i, 1)])) {
                // The last tap is the row's own.
                let f = |j: usize| params.get(filter).value[c * taps + taps - 1 - j];
                let at = |j: usize| x[(p * n + (i + taps * n - j) % n) * 2 + c];
                let expected: f32 = (0..taps).map(|j| f(j) * at(j)).sum();
                assert!(
                    (tape.data(y)[(p * n + i) * 2 + c] - expected).abs() < 1e-5,
                    "{n}, {taps}: {p}, {i}, {c}"
                );
            }
        }
    }

    #[test]
    fn each_round_finds_what_is_new() {
        let mut list = vec![3];
        take_best(&mut [0.5, 2.0, 0.5, 9.0, 1.0], 3, &mut list);
        assert_eq!(list, [3, 1, 4, 0]);
        take_best(&mut [0.5, 2.0, 0.5, 9.0, 1.0], 3, &mut list);
        assert_eq!(list, [3, 1, 4, 0, 2]);
        take_best(&mut [0.5, 2.0, 0.5, 9.0, 1.0], 3, &mut list);
        assert_eq!(list.len(), 5);
    }

    /// A small model whose adapters have learned something, and its table.
    fn some(backbone: &str) -> (AdaRetrievalConfig, Params, Arc<dyn Encoder>, TableId) {
        let text = format!(
            "rounds = 3\nretrieved = 2\n[backbone]\nkind = '{backbone}'\ndim = 4\nsequence = {{ length = 6 }}"
        );
        let config: AdaRetrievalConfig = toml::from_str(&text).unwrap();
        let mut params = Params::new(5);
        let encoder = config.build(&mut params);
        let table = params.add_table(Table::of_range("items", 9, 4, 1.0, 3));
        let mut rng = Rng::new(2);
        for param in params.iter_mut().filter(|p| p.name.starts_with("adapter")) {
            param.value.iter_mut().for_each(|v| *v += 0.3 * rng.normal() as f32);
        }
        (config, params, encoder, table)
    }

    fn batch(histories: &[&[u32]]) -> Batch {
        let ragged = Ragged::of(histories.iter().map(|h| h.len()));
        let times: Vec<i64> = ragged.places().map(|p| 1000 * p as i64).collect();
        let places = ragged.places_back().map(|p| p as u32).collect();
        let (at, now) = (Arc::new(times.clone()), Arc::new(times));
        let items = Arc::new(histories.concat());
        Batch { ragged: Arc::new(ragged), items, places: Arc::new(places), at, now, next: Arc::default() }
    }

    #[test]
    fn a_person_has_one_vector_a_round_whoever_else_is_asked() {
        for backbone in ["sasrec", "gru4rec", "bert4rec", "hstu", "tisasrec", "cape", "mamba"] {
            let (config, params, encoder, table) = some(backbone);
            let items = Embedder::new(table);
            let ask = |histories: &[&[u32]]| {
                let mut tape = Tape::answering(&params, Workspace::default());
                let y = encoder.answer(&mut tape, items, &batch(histories));
                (tape.shape(y), tape.data(y).to_vec())
            };
            let histories: [&[u32]; 4] = [&[1], &[], &[4, 2, 8, 0, 1, 3], &[5, 5]];
            let (shape, all) = ask(&histories);
            assert_eq!(shape, (9, 4), "{backbone}: three people with steps, three rounds");
            let alone: Vec<f32> =
                histories.iter().filter(|h| !h.is_empty()).flat_map(|h| ask(&[h]).1).collect();
            for (a, b) in all.iter().zip(&alone) {
                assert!((a - b).abs() < 1e-5, "{backbone}: {a} among others, {b} alone");
            }
            // Rounds differ from each other, and the first is the backbone's own answer.
            let mut tape = Tape::answering(&params, Workspace::default());
            let own = config.backbone.build(&mut Params::new(5)).answer(&mut tape, items, &batch(&[&[5, 5]]));
            assert_eq!(tape.data(own), &ask(&[&[5, 5]]).1[..4], "{backbone}");
            let apart = |a: &[f32], b: &[f32]| a.iter().zip(b).any(|(a, b)| (a - b).abs() > 1e-3);
            assert!(
                apart(&alone[..4], &alone[4..8]) && apart(&alone[4..8], &alone[8..12]),
                "{backbone}: {alone:?}"
            );
        }
    }

    #[test]
    fn a_round_depends_on_what_was_found() {
        let (_, mut params, encoder, table) = some("gru4rec");
        let ask = |params: &Params| {
            let mut tape = Tape::answering(params, Workspace::default());
            let y = encoder.answer(&mut tape, Embedder::new(table), &batch(&[&[5, 6]]));
            tape.data(y).to_vec()
        };
        let before = ask(&params);
        // An item that nobody read moves far along the first vector: now it is found first.
        let rows = params.table_mut(table).rows_mut();
        rows[..4].iter_mut().zip(&before).for_each(|(number, along)| *number = 99.0 * along);
        let after = ask(&params);
        assert_eq!(before[..4], after[..4], "nothing is found before the first round");
        assert!(before[4..8].iter().zip(&after[4..8]).any(|(a, b)| (a - b).abs() > 1e-3));
    }

    #[test]
    fn only_models_of_one_vector_can_be_wrapped() {
        for kind in ["ease", "comirec", "ada_retrieval", "no_such"] {
            let refused = toml::from_str::<AdaRetrievalConfig>(&format!("backbone = {{ kind = '{kind}' }}"));
            let words = refused.err().map(|e| e.to_string()).unwrap_or_default();
            assert!(words.contains(kind) && words.contains("`sasrec`"), "{kind}: {words}");
        }
    }
}

//! SETRec: an item is a set of tokens without an order, and all tokens of the next item are written at once.
//!
//! t_0(i) = U b_i is item i's token of behaviour; t_1 … t_N(i) = rows of W_2 relu(W_1 c_i) + w are its tokens of meaning, made by the
//! first half of an autoencoder whose second half is to find c_i in them again. b_i are factors of a collaborative model, c_i the
//! item's text vector at length 1. A history is read item by item, x_t = Σ_k t_k(i_t) + P[n − t], by a causal transformer; of what
//! it comes to, h, each query q_k writes its token: y_k = h + V_2 relu(V_1 h + q_k) + v.
//! Loss = Σ_k −log softmax_i(y_k · t_k(i)) + α · mean_i |c_i − ĉ_i|², over all items that somebody took;
//! score(i) = β y_0 · t_0(i) + (1 − β) / N · Σ_{k ≥ 1} y_k · t_k(i).
//! Nothing is searched for: one pass writes all tokens, and one product with the tokens of all items finds the best. Later items
//! have their tokens of meaning and are candidates at once; what the order of tokens within an item is, no score can tell.
//!
//! Shapes: b (m), c (k), t and y (D), U (D × m), W_1 (hidden × k), W_2 (N D × hidden), V_1 (inner × D), V_2 (D × inner), q (inner),
//! P (length × D).
//! Cost: that of SASRec to read, (N + 1) · items · D for an answer; (N + 1) softmaxes over the catalogue and the autoencoder on all
//! items a step of training.
//! Source: Lin et al., "Order-agnostic Identifier for Large Language Model-based Generative Recommendation" (SETRec), SIGIR 2025,
//! arXiv:2502.10833.
//! Departures: a small transformer that is learned from nothing in the place of T5 or Qwen, so no instructions in words; an item's
//! tokens are read as their sum, where the paper has a token a step and a mask that hides tokens of one item from each other;
//! queries look at what the history comes to and not at each of its steps; one hidden layer in each half of the autoencoder; its error is the
//! share of a vector's squared length that is lost, not the mean over its numbers.

use super::stack::Size;
use crate::FitError;
use crate::model::require;
use crate::sequence::{
    self, Batch, Embedder, Encoder, Family, Input, Length, Maker, SequenceConfig, SequenceModel, Similarity,
};
use crate::{LoadError, Weights};
use serde::{Deserialize, Serialize};
use sommelier_core::FitContext;
use sommelier_data::Snapshot;
use sommelier_nn::layer::Transformer;
use sommelier_nn::loss::Items;
use sommelier_nn::op::{Embed, Linear};
use sommelier_nn::train::Settings;
use sommelier_nn::{Activation, Init, ParamId, Params, TableId, Tape, Tensor, Var};
use std::sync::Arc;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SetrecConfig {
    /// Length of a token.
    pub dim: usize,
    pub blocks: usize,
    pub heads: usize,
    /// Width inside the feed-forward half of a block, and inside what writes a token.
    pub inner: usize,
    /// Share of numbers dropped in training.
    pub dropout: f32,
    /// Name of the vectors that say who took an item; empty for no token of behaviour.
    pub behaviour: String,
    /// Name of the vectors that say what an item is; empty for no tokens of meaning.
    pub text: String,
    /// Tokens of meaning.
    pub semantic: usize,
    /// Width inside the autoencoder.
    pub hidden: usize,
    /// What the error of the autoencoder counts in the loss.
    pub reconstruction: f32,
    /// What the token of behaviour counts in a score, 0 to 1; the others share the rest.
    pub collaborative: f32,
    pub sequence: SequenceConfig,
    pub training: Settings,
}

impl Default for SetrecConfig {
    fn default() -> SetrecConfig {
        SetrecConfig {
            dim: 64,
            blocks: 2,
            heads: 2,
            inner: 256,
            dropout: 0.3,
            behaviour: "behaviour".into(),
            text: "text".into(),
            semantic: 3,
            hidden: 128,
            reconstruction: 0.5,
            collaborative: 0.5,
            sequence: SequenceConfig { length: 20, ..SequenceConfig::default() },
            training: Settings::default(),
        }
    }
}

impl SetrecConfig {
    fn size(&self) -> Size {
        let SetrecConfig { dim, blocks, heads, inner, dropout, .. } = *self;
        let SequenceConfig { length, initial, .. } = self.sequence;
        Size { dim, blocks, heads, inner, dropout, length, initial }
    }

    fn semantic(&self) -> usize {
        if self.text.is_empty() { 0 } else { self.semantic }
    }

    fn tokens(&self) -> usize {
        self.semantic() + usize::from(!self.behaviour.is_empty())
    }

    /// What each token counts in a score.
    fn shares(&self) -> Vec<f32> {
        let n = self.semantic();
        if self.behaviour.is_empty() {
            return vec![1.0 / n as f32; n];
        }
        let beta = if n == 0 { 1.0 } else { self.collaborative };
        std::iter::once(beta).chain((0..n).map(|_| (1.0 - beta) / n as f32)).collect()
    }

    pub fn fit(&self, snapshot: &Snapshot, ctx: &mut FitContext) -> Result<SequenceModel, FitError> {
        sequence::fit(self, snapshot, ctx)
    }

    pub fn load(&self, weights: &Weights) -> Result<SequenceModel, LoadError> {
        sequence::load(self, weights)
    }
}

impl Family for SetrecConfig {
    const KIND: &'static str = "setrec";

    fn dim(&self) -> usize {
        self.tokens() * self.dim
    }

    fn sequence(&self) -> &SequenceConfig {
        &self.sequence
    }

    fn training(&self) -> &Settings {
        &self.training
    }

    fn parts(&self) -> usize {
        self.tokens()
    }
}

impl sequence::Architecture for SetrecConfig {
    fn check(&self) -> Result<(), FitError> {
        self.size().check()?;
        require("semantic", self.semantic as f64, (1..=64).contains(&self.semantic), "1 to 64")?;
        let refuse = |key, expected, received: String| FitError::Config { key, expected, received };
        if self.tokens() == 0 {
            return Err(refuse("text", "a name where behaviour is empty", "nothing".into()));
        }
        require("hidden", self.hidden as f64, self.hidden > 0, "at least 1")?;
        let alpha = self.reconstruction;
        require("reconstruction", alpha.into(), alpha >= 0.0, "a finite number of at least 0")?;
        let beta = self.collaborative;
        require("collaborative", beta.into(), (0.0..=1.0).contains(&beta), "0 to 1")?;
        if let Some(content) = &self.sequence.content {
            let received = format!("{:?}", content.property);
            return Err(refuse(
                "sequence.content",
                "left out: text and behaviour say what is read",
                received,
            ));
        }
        if self.sequence.similarity != Similarity::Dot {
            return Err(refuse(
                "sequence.similarity",
                "dot: each token is compared by itself",
                "cosine".into(),
            ));
        }
        Ok(())
    }

    fn build(&self, params: &mut Params) -> Arc<dyn Encoder> {
        let SetrecConfig { dim, inner, dropout, .. } = *self;
        let places = params.add("places", self.sequence.length, dim, Init::Normal(self.sequence.initial));
        let stack = Transformer::new(params, "", self.size().transformer(true));
        let queries =
            (0..self.tokens()).map(|k| params.add(&format!("query.{k}"), 1, inner, Init::Normal(0.1)));
        let queries = queries.collect();
        let write = [
            params.add("write.in", inner, dim, Init::Glorot),
            params.add("write.out", dim, inner, Init::Glorot),
        ];
        let bias = params.add("write.bias", 1, dim, Init::Zeros);
        Arc::new(Reader { places, stack, queries, write, bias, shares: self.shares(), dropout })
    }

    fn maker(&self, length: Length, params: &mut Params) -> Result<Option<Arc<dyn Maker>>, String> {
        let SetrecConfig { dim, hidden, .. } = *self;
        let (mut inputs, mut lengths) = (Vec::new(), Vec::new());
        let mut behaviour = None;
        if !self.behaviour.is_empty() {
            let m = length(&self.behaviour, BEHAVIOUR)?;
            behaviour = Some(params.add(BEHAVIOUR, dim, m, Init::Glorot));
            inputs.push(Input { property: self.behaviour.clone(), unit: false });
            lengths.push(m);
        }
        let mut text = None;
        if !self.text.is_empty() {
            let k = length(&self.text, TEXT)?;
            let wide = self.semantic * dim;
            text = Some(Autoencoder {
                first: params.add(TEXT, hidden, k, Init::Glorot),
                second: Layer::new(params, "tokens.second", wide, hidden),
                third: Layer::new(params, "tokens.third", hidden, wide),
                fourth: Layer::new(params, "tokens.fourth", k, hidden),
                reconstruction: self.reconstruction,
            });
            inputs.push(Input { property: self.text.clone(), unit: true });
            lengths.push(k);
        }
        Ok(Some(Arc::new(Tokeniser { inputs, lengths, behaviour, text, dim })))
    }

    fn numbers_per_step(&self) -> usize {
        self.size().numbers_per_token() + self.tokens() * 4 * (self.inner + self.dim)
    }
}

/// Names of weights that tell how long what they are multiplied with is.
const BEHAVIOUR: &str = "tokens.behaviour";
const TEXT: &str = "tokens.text";

/// Makes the tokens of items, those of one side by side.
struct Tokeniser {
    inputs: Vec<Input>,
    lengths: Vec<usize>,
    behaviour: Option<ParamId>,
    text: Option<Autoencoder>,
    dim: usize,
}

struct Autoencoder {
    first: ParamId,
    second: Layer,
    third: Layer,
    fourth: Layer,
    reconstruction: f32,
}

/// A linear layer.
struct Layer {
    weight: ParamId,
    bias: ParamId,
}

impl Layer {
    fn new(params: &mut Params, name: &str, outer: usize, inner: usize) -> Layer {
        let weight = params.add(name, outer, inner, Init::Glorot);
        Layer { weight, bias: params.add(&format!("{name}.bias"), 1, outer, Init::Zeros) }
    }

    fn run(&self, tape: &mut Tape, x: Var, activation: Activation) -> Var {
        tape.linear(x, self.weight, Linear { bias: Some(self.bias.into()), activation, ..Linear::default() })
    }
}

impl Maker for Tokeniser {
    fn inputs(&self) -> &[Input] {
        &self.inputs
    }

    fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    fn make(&self, tape: &mut Tape, given: &[Arc<Tensor>], _: Option<TableId>) -> Var {
        let mut tokens = Vec::new();
        if let Some(weight) = self.behaviour {
            tokens.push(tape.describe(None, &given[0], weight));
        }
        if let Some(text) = &self.text {
            let x = tape.describe(None, &given[given.len() - 1], text.first);
            let x = tape.activation(x, Activation::Relu);
            tokens.push(text.second.run(tape, x, Activation::Identity));
        }
        tape.concat(&tokens)
    }

    fn aside(&self, tape: &mut Tape, given: &[Arc<Tensor>], made: Var) -> Option<Var> {
        let (text, c) = (self.text.as_ref()?, &given[given.len() - 1]);
        let from = if self.behaviour.is_some() { self.dim } else { 0 };
        let wide = tape.shape(made).1 - from;
        let z = tape.columns(made, from, wide);
        let x = text.third.run(tape, z, Activation::Relu);
        let again = text.fourth.run(tape, x, Activation::Identity);
        Some(tape.squared(again, c, text.reconstruction / c.rows.max(1) as f32))
    }
}

/// Reads a history and writes the tokens of what comes next.
struct Reader {
    places: ParamId,
    stack: Transformer,
    queries: Vec<ParamId>,
    write: [ParamId; 2],
    bias: ParamId,
    /// What each token counts in a score.
    shares: Vec<f32>,
    dropout: f32,
}

impl Reader {
    /// The tokens that are written behind each step, or behind the newest of each history.
    fn tokens(&self, tape: &mut Tape, items: Embedder, batch: &Batch, newest: bool) -> Vec<Var> {
        let rows = items.rows(tape, &batch.items, Embed::default());
        let dim = tape.shape(rows).1 / self.queries.len();
        let parts: Vec<(Var, f32)> =
            (0..self.queries.len()).map(|k| (tape.columns(rows, k * dim, dim), 1.0)).collect();
        let sum = tape.add_scaled(&parts);
        let places = tape.embed(Items::Matrix(self.places.into()), batch.places.clone(), Embed::default());
        let x = tape.add(sum, places);
        let x = tape.drop_out(x, self.dropout);
        let h = self.stack.run(tape, x, &batch.ragged, &|_| Vec::new(), newest);
        let query = |tape: &mut Tape, q: ParamId| {
            let (activation, dropout) = (Activation::Relu, self.dropout);
            let first = Linear { bias: Some(q.into()), activation, dropout, residual: None };
            let u = tape.linear(h, self.write[0], first);
            let second = Linear { bias: Some(self.bias.into()), residual: Some(h), ..Linear::default() };
            tape.linear(u, self.write[1], second)
        };
        self.queries.iter().map(|&q| query(tape, q)).collect()
    }
}

impl Encoder for Reader {
    fn encode(&self, tape: &mut Tape, items: Embedder, batch: &Batch) -> Var {
        let tokens = self.tokens(tape, items, batch, false);
        tape.concat(&tokens)
    }

    fn answer(&self, tape: &mut Tape, items: Embedder, batch: &Batch) -> Var {
        let tokens = self.tokens(tape, items, batch, true);
        let weighed: Vec<Var> = tokens.iter().zip(&self.shares).map(|(&y, &s)| tape.scale(y, s)).collect();
        tape.concat(&weighed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Model;
    use serde_json::json;
    use sommelier_core::{Allowed, Item, ItemIx, ResolvedQuery, Retrieve, Rng, Score};
    use sommelier_nn::optim::Schedule;

    const EACH: usize = 12;

    fn taste(id: &str) -> usize {
        usize::from(id.starts_with('b'))
    }

    fn item(id: &str, behaves: bool) -> Item {
        let mut item = Item::new(id);
        let mut rng = Rng::new(id.bytes().fold(7, |h, b| 31 * h + u64::from(b)));
        let mut own = [0; 2].map(|_| 0.3 * rng.normal() as f32).to_vec();
        own.extend(if taste(id) == 0 { [1.0, 0.0] } else { [0.0, 1.0] });
        item.properties.insert("text".into(), json!(own));
        if behaves {
            item.properties.insert("behaviour".into(), json!([own[3], own[2], 0.5]));
        }
        item
    }

    /// Two tastes of twelve items each that never mix; texts tell them apart, and so do people.
    fn tastes() -> Snapshot {
        let mut pairs = Vec::new();
        for user in 0..80 {
            for step in 0..6 {
                let name = ["a", "b"][user % 2];
                pairs.push((format!("u{user}"), format!("{name}{}", (user / 2 + step * 5) % EACH)));
            }
        }
        let refs: Vec<(&str, &str)> = pairs.iter().map(|(u, i)| (&**u, &**i)).collect();
        let mut snapshot = Snapshot::from_pairs("tastes", &refs);
        snapshot.item_info = Arc::new(snapshot.items.iter().map(|id| Some(item(id, true))).collect());
        snapshot
    }

    fn config() -> SetrecConfig {
        SetrecConfig {
            dim: 8,
            blocks: 1,
            heads: 1,
            inner: 16,
            hidden: 16,
            semantic: 2,
            sequence: SequenceConfig { length: 8, batch: 16, ..SequenceConfig::default() },
            training: Settings {
                epochs: 20,
                learning_rate: 0.01,
                schedule: Schedule::FLAT,
                ..Settings::default()
            },
            ..SetrecConfig::default()
        }
    }

    #[test]
    fn an_item_that_nobody_took_is_found_by_its_text() {
        let snapshot = tastes();
        let fitted = config().fit(&snapshot, &mut FitContext::quiet(1)).unwrap();
        let again = config().load(&fitted.weights()).unwrap();
        let items = snapshot.items.len();
        let late = ItemIx(items as u32 + 2);
        for model in [&fitted, &again] {
            assert!(!model.meet(late, &Item::new("b98")), "nothing is said of it");
            assert!(model.meet(late, &item("b99", false)));
            for wanted in [0, 1] {
                let mine = (0..items as u32).filter(|&i| taste(snapshot.items.id(i)) == wanted);
                let q = ResolvedQuery::from_items(mine.take(4).map(ItemIx));
                let found = model.retrieve(&q, items + 1, &Allowed::everything());
                let place = found.iter().position(|c| c.item == late).unwrap();
                // Among the items of its own taste, or behind all of the other.
                let fine = if wanted == 1 { place <= EACH } else { place >= EACH };
                assert!(fine, "{wanted}: place {place} of {}", found.len());
                let mut score = [0f32];
                model.score(&q, &[late], &mut score);
                assert_eq!(score[0], found[place].score);
            }
        }
    }

    /// A score is the shares of the tokens' scores: with all of it on one token, the others say nothing.
    #[test]
    fn tokens_share_a_score() {
        let snapshot = tastes();
        let fitted = config().fit(&snapshot, &mut FitContext::quiet(1)).unwrap();
        let q = snapshot.query(3);
        let all: Vec<ItemIx> = (0..snapshot.items.len() as u32).map(ItemIx).collect();
        let scores = |collaborative: f32| {
            let model = SetrecConfig { collaborative, ..config() }.load(&fitted.weights()).unwrap();
            let mut out = vec![0f32; all.len()];
            model.score(&q, &all, &mut out);
            out
        };
        let (behaviour, meaning, both) = (scores(1.0), scores(0.0), scores(0.25));
        assert_ne!(behaviour, meaning);
        for ((b, m), whole) in behaviour.iter().zip(&meaning).zip(&both) {
            assert!((0.25 * b + 0.75 * m - whole).abs() < 1e-4);
        }
    }

    #[test]
    fn one_kind_of_token_is_enough_and_none_is_refused() {
        let snapshot = tastes();
        for (behaviour, text) in [("behaviour", ""), ("", "text")] {
            let one = SetrecConfig { behaviour: behaviour.into(), text: text.into(), ..config() };
            let model = one.fit(&snapshot, &mut FitContext::quiet(1)).unwrap();
            let best = model.retrieve(&snapshot.query(0), 5, &Allowed::everything());
            let own = taste(snapshot.items.id(snapshot.events.item[0]));
            assert!(best.iter().all(|c| taste(snapshot.items.id(c.item.0)) == own), "{one:?}");
        }
        let none = SetrecConfig { behaviour: String::new(), text: String::new(), ..config() };
        let error = |config: SetrecConfig| {
            config.fit(&snapshot, &mut FitContext::quiet(1)).err().unwrap().to_string()
        };
        assert!(error(none).contains("text must be a name"));
        let unknown = SetrecConfig { text: "plot".into(), ..config() };
        assert!(error(unknown).contains("\"plot\""));
    }
}

//! Meta-Prod2Vec: item2vec whose vectors must also predict, and be predicted by, what is known of the items.
//!
//! L = L(j|i) + λ (L(m_j|i) + L(j|m_i) + L(m_j|m_i) + L(m_i|i)) over neighbours i, j of a history, m their properties;
//! each L is skip-gram with negative sampling (`sgns.rs`). λ = 0 is item2vec, bit for bit.
//!
//! Shapes: v (items + properties × D), of which the items' rows are kept; scores as in item2vec.
//! Cost: item2vec's times 1 + 2 |m| + |m|², |m| the properties of an item.
//! Source: Vasile, Smirnova, Conneau, "Meta-Prod2Vec: Product Embeddings Using Side-Information for Recommendation",
//! RecSys 2016, arXiv:1607.07326.
//! Departures: an item may have several properties, which share λ between them; an item without events gets the mean of
//! its properties' vectors, so it can be recommended from its first minute.

use crate::item2vec::to_unit;
use crate::linear_factors::LinearFactors;
use crate::model::{plan, require};
use crate::rows::delegate_model;
use crate::sgns::{Side, SkipGram};
use crate::{FitError, LoadError, Weights};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sommelier_core::{FitContext, Item, Vocab};
use sommelier_data::Snapshot;
use sommelier_nn::kernel;

/// Defaults follow word2vec and have not been tuned on a data set yet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetaProd2vecConfig {
    pub skip_gram: SkipGram,
    /// λ ≥ 0: how much properties count beside items.
    pub lambda: f32,
    /// Names of the item properties to use: text, numbers, true and false, or lists of them. Empty takes all whose
    /// values are short and shared (at least 2 items).
    pub properties: Vec<String>,
    /// Only this many last steps of a history count in an answer; 0 for all.
    pub recent: usize,
    /// Whether an item of a history counts its weight, or 1.
    pub weighted: bool,
}

impl Default for MetaProd2vecConfig {
    fn default() -> MetaProd2vecConfig {
        MetaProd2vecConfig {
            skip_gram: SkipGram::default(),
            lambda: 0.25,
            properties: Vec::new(),
            recent: 0,
            weighted: true,
        }
    }
}

/// The item vectors, each of length 1 (0 where nothing is known of the item).
#[derive(Debug, Clone)]
pub struct MetaProd2vec(LinearFactors);

/// Longer text is prose, not a property that items share.
const LONGEST_VALUE: usize = 64;
/// At most this many properties of an item are used: pairs grow with their square.
const MOST_OF_AN_ITEM: usize = 16;

impl MetaProd2vecConfig {
    pub fn fit(&self, train: &Snapshot, ctx: &mut FitContext) -> Result<MetaProd2vec, FitError> {
        self.skip_gram.check()?;
        require("lambda", self.lambda.into(), self.lambda >= 0.0, "a finite number of at least 0")?;
        let (items, dim) = (train.items.len(), self.skip_gram.dim);
        let side = self.side(&train.item_info);
        let why =
            format!("two vectors of {dim} numbers for each of {items} items and {} properties", side.tokens);
        plan(ctx, self.skip_gram.bytes(items + side.tokens), &why, "lower dim or name fewer properties")?;
        let mut vectors = self.skip_gram.train(train, &side, ctx)?;
        to_unit(&mut vectors, dim);
        if self.lambda > 0.0 {
            fill_unseen(&mut vectors, items, dim, &side);
        }
        vectors.truncate(items * dim);
        LinearFactors::new(&vectors, dim, true, self.recent, self.weighted)
            .map(MetaProd2vec)
            .map_err(|e| FitError::Numeric(e.to_string()))
    }

    pub fn load(&self, weights: &Weights) -> Result<MetaProd2vec, LoadError> {
        LinearFactors::take(weights, true, self.recent, self.weighted).map(MetaProd2vec)
    }

    /// Property values that at least two items share become side tokens.
    fn side(&self, info: &[Option<Item>]) -> Side {
        let mut values = Vocab::new();
        let mut of: Vec<Vec<u32>> = Vec::with_capacity(info.len());
        let mut items_with: Vec<u32> = Vec::new();
        for item in info {
            let mut mine: Vec<u32> = Vec::new();
            for (name, value) in item.iter().flat_map(|item| &item.properties) {
                if self.properties.is_empty() || self.properties.contains(name) {
                    words(value, &mut |word| mine.push(values.intern(&format!("{name}={word}"))));
                }
            }
            mine.sort_unstable();
            mine.dedup();
            items_with.resize(values.len(), 0);
            mine.iter().for_each(|&m| items_with[m as usize] += 1);
            of.push(mine);
        }
        for mine in &mut of {
            mine.retain(|&m| items_with[m as usize] > 1);
            // The rarer a property, the more it says.
            mine.sort_by_key(|&m| (items_with[m as usize], m));
            mine.truncate(MOST_OF_AN_ITEM);
        }
        Side { tokens: values.len(), of, strength: self.lambda }
    }
}

/// The short values in a property: itself, or those of a list.
fn words(value: &Value, each: &mut impl FnMut(&str)) {
    match value {
        Value::String(text) if !text.is_empty() && text.len() <= LONGEST_VALUE => each(text),
        Value::Number(number) => each(&number.to_string()),
        Value::Bool(flag) => each(if *flag { "true" } else { "false" }),
        Value::Array(list) => list.iter().filter(|v| !v.is_array()).for_each(|v| words(v, each)),
        _ => {}
    }
}

/// An item that never occurred gets the mean direction of its properties.
fn fill_unseen(vectors: &mut [f32], items: usize, dim: usize, side: &Side) {
    let (of_items, of_side) = vectors.split_at_mut(items * dim);
    for (v, mine) in of_items.chunks_exact_mut(dim).zip(&side.of) {
        if v.iter().all(|&x| x == 0.0) {
            for &m in mine {
                kernel::axpy(1.0, &of_side[m as usize * dim..(m as usize + 1) * dim], v);
            }
        }
    }
    to_unit(of_items, dim);
}

delegate_model!(MetaProd2vec, "meta_prod2vec");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Item2vecConfig, Model};
    use serde_json::json;
    use std::sync::Arc;

    /// Two groups of items with a genre each; item `new` has a genre and no events.
    fn train() -> Snapshot {
        let pairs: Vec<(String, String)> = (0..60)
            .flat_map(|u| {
                (0..4).map(move |s| {
                    (format!("u{u}"), format!("{}{}", if u % 2 == 0 { "a" } else { "b" }, (u / 2 + s) % 6))
                })
            })
            .collect();
        let mut pairs: Vec<(&str, &str)> = pairs.iter().map(|(u, i)| (u.as_str(), i.as_str())).collect();
        pairs.push(("x", "new"));
        let mut train = Snapshot::from_pairs("t", &pairs);
        let info = (0..train.items.len() as u32).map(|i| {
            let mut item = Item::new(train.items.id(i));
            let genre = if train.items.id(i).starts_with('b') { "crime" } else { "poems" };
            item.properties.insert("genres".into(), json!([genre]));
            Some(item)
        });
        train.item_info = Arc::new(info.collect());
        train
    }

    fn config(lambda: f32) -> MetaProd2vecConfig {
        let skip_gram = SkipGram { dim: 8, epochs: 40, subsample: 0.0, ..SkipGram::default() };
        MetaProd2vecConfig { skip_gram, lambda, ..MetaProd2vecConfig::default() }
    }

    #[test]
    fn without_lambda_it_is_item2vec() {
        let plain = Item2vecConfig { skip_gram: config(0.0).skip_gram, ..Item2vecConfig::default() };
        for threads in [1, 2, 3] {
            let mut ctx = FitContext { threads, ..FitContext::quiet(3) };
            let expected = plain.fit(&train(), &mut ctx).unwrap().weights();
            assert_eq!(config(0.0).fit(&train(), &mut ctx).unwrap().weights(), expected);
            assert_ne!(config(0.1).fit(&train(), &mut ctx).unwrap().weights(), expected);
        }
    }

    #[test]
    fn an_item_without_neighbours_goes_where_its_genre_is() {
        let train = train();
        let model = config(0.5).fit(&train, &mut FitContext::quiet(3)).unwrap().0;
        let v = |id: &str| model.vector(train.items.get(id).unwrap() as usize);
        let near = kernel::dot(v("new"), v("a0"));
        let far = kernel::dot(v("new"), v("b0"));
        assert!(near > far + 0.2, "{near} {far}");
    }
}

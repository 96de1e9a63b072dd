//! Item tokenisers: each item's vector becomes a few codes, its semantic ID.
//!
//! One file for each way. What all of them have is here: the codes of a catalogue ([`Codes`]), what a fitted tokeniser can do
//! ([`Tokeniser`]), which one a recipe asks for ([`TokeniserConfig`]). Beside them: what is done about items with the same codes
//! (`unique.rs`), even use of codes (`uniform.rs`), and how good codes are before any recommender has learned from them
//! (`quality.rs`). Tokenisers that are learned share an autoencoder (`autoencoder.rs`) and a loop (`training.rs`).

mod autoencoder;
mod fsq;
mod product;
mod quality;
mod residual;
mod rotation;
mod rq_vae;
mod training;
mod tree;
mod uniform;
mod unique;

#[cfg(test)]
mod tests;

pub use fsq::{Fsq, FsqConfig};
pub use product::{Product, ProductConfig};
pub use quality::{Level, Quality};
pub use residual::{Residual, ResidualConfig};
pub use rotation::Rotate;
pub use rq_vae::{Codebooks, RqVae, RqVaeConfig};
pub use training::Training;
pub use tree::{Node, Tree, TreeConfig};
pub use uniform::Uniform;
pub use unique::{Collisions, Taken, make_unique};

use crate::kmeans::Centres;
use crate::{EncodeError, Rows};
use serde::{Deserialize, Serialize};
use sommelier_core::FitContext;
use sommelier_nn::{LoadError, Weights};

/// A fitted tokeniser.
pub trait Tokeniser: Send + Sync {
    /// Length of the vectors it reads.
    fn dim(&self) -> usize;

    /// How many codes there are at each level.
    fn sizes(&self) -> &[u32];

    /// The codes of each vector (n × levels), on the current rayon pool. Vectors do not depend on one another.
    fn encode(&self, x: Rows) -> Vec<u32>;

    /// The codes of a whole catalogue: as [`Self::encode`], but where codes are to be used evenly, vectors give way to each other.
    fn assign(&self, x: Rows) -> Vec<u32> {
        self.encode(x)
    }

    /// The vectors that codes (n × levels) stand for (n × dim).
    fn decode(&self, codes: &[u32]) -> Vec<f32>;

    /// The `most` best code sequences for one vector, best first, each with its squared distance where codes are chosen (for
    /// what is learned, in latent space); fewer where there are fewer.
    fn best(&self, x: &[f32], most: usize) -> Vec<(Vec<u32>, f32)>;

    /// What to store; the config's `load` makes the same tokeniser again.
    fn weights(&self) -> Weights;
}

/// The config of any tokeniser. In TOML and JSON, `kind` says which; unknown keys are errors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum TokeniserConfig {
    Residual(ResidualConfig),
    RqVae(RqVaeConfig),
    Product(ProductConfig),
    Fsq(FsqConfig),
    Tree(TreeConfig),
}

impl Default for TokeniserConfig {
    fn default() -> TokeniserConfig {
        TokeniserConfig::Residual(ResidualConfig::default())
    }
}

impl TokeniserConfig {
    pub fn kind(&self) -> &'static str {
        match self {
            TokeniserConfig::Residual(_) => "residual",
            TokeniserConfig::RqVae(_) => "rq_vae",
            TokeniserConfig::Product(_) => "product",
            TokeniserConfig::Fsq(_) => "fsq",
            TokeniserConfig::Tree(_) => "tree",
        }
    }

    /// Whether `fit` can be given vectors of behaviour.
    pub fn reads_behaviour(&self) -> bool {
        matches!(self, TokeniserConfig::RqVae(_))
    }

    /// Learns codes for vectors like `x`, on the current rayon pool. `behaviour` holds a vector for each of `x` that says how
    /// people use the item, zeros where nobody knows. The same input, seed and settings give the same tokeniser on any number
    /// of threads.
    pub fn fit(
        &self,
        x: Rows,
        behaviour: Option<Rows>,
        ctx: &FitContext,
    ) -> Result<Box<dyn Tokeniser>, EncodeError> {
        if behaviour.is_some() && !self.reads_behaviour() {
            return Err(EncodeError::Input(format!(
                "a tokeniser of kind {} does not learn from vectors of behaviour; use rq_vae, or make them a part of the \
                 vectors themselves",
                self.kind()
            )));
        }
        fn boxed<T: Tokeniser + 'static>(fitted: T) -> Box<dyn Tokeniser> {
            Box::new(fitted)
        }
        match self {
            TokeniserConfig::Residual(config) => config.fit(x, ctx).map(boxed),
            TokeniserConfig::RqVae(config) => config.fit(x, behaviour, ctx).map(boxed),
            TokeniserConfig::Product(config) => config.fit(x, ctx).map(boxed),
            TokeniserConfig::Fsq(config) => config.fit(x, ctx).map(boxed),
            TokeniserConfig::Tree(config) => config.fit(x, ctx).map(boxed),
        }
    }

    /// The tokeniser that had these weights, which this config fitted.
    pub fn load(&self, weights: &Weights) -> Result<Box<dyn Tokeniser>, LoadError> {
        Ok(match self {
            TokeniserConfig::Residual(config) => Box::new(config.load(weights)?),
            TokeniserConfig::RqVae(config) => Box::new(config.load(weights)?),
            TokeniserConfig::Product(config) => Box::new(config.load(weights)?),
            TokeniserConfig::Fsq(config) => Box::new(config.load(weights)?),
            TokeniserConfig::Tree(config) => Box::new(config.load(weights)?),
        })
    }
}

/// The codes of many items.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Codes {
    /// How many codes there are at each level.
    pub sizes: Vec<u32>,
    /// Items × levels.
    pub rows: Vec<u32>,
}

impl Codes {
    pub fn levels(&self) -> usize {
        self.sizes.len()
    }

    pub fn len(&self) -> usize {
        self.rows.len() / self.levels().max(1)
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub fn row(&self, i: usize) -> &[u32] {
        &self.rows[i * self.levels()..][..self.levels()]
    }

    pub fn iter(&self) -> std::slice::ChunksExact<'_, u32> {
        self.rows.chunks_exact(self.levels().max(1))
    }
}

impl<'a> IntoIterator for &'a Codes {
    type Item = &'a [u32];
    type IntoIter = std::slice::ChunksExact<'a, u32>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Stored counts, of which there is one at least, each `least` or more.
fn counts_of(weights: &Weights, name: &str, least: u32) -> Result<Vec<u32>, LoadError> {
    let (_, counts) = weights.u32(name)?;
    if counts.is_empty() || counts.iter().any(|&c| c < least) {
        return Err(damaged(&format!("{name} is {counts:?}, expected counts of {least} or more")));
    }
    Ok(counts.to_vec())
}

/// Stored centres, as many as there should be.
fn centres_of(weights: &Weights, name: &str, count: u64) -> Result<Centres, LoadError> {
    let (rows, dim, data) = weights.matrix(name, None)?;
    if rows as u64 != count || dim == 0 {
        return Err(damaged(&format!("{name} holds {rows} centres of {dim} numbers, expected {count}")));
    }
    Ok(Centres::new(data.to_vec(), dim))
}

fn damaged(what: &str) -> LoadError {
    LoadError::Other(format!("{what}; the artefact is damaged, train it again"))
}

/// The `most` cheapest ways to take one of each list, cheapest first, with their costs. Lists are sorted, cheapest first.
fn cheapest(lists: impl IntoIterator<Item = Vec<(u32, f32)>>, most: usize) -> Vec<(Vec<u32>, f32)> {
    let mut found: Vec<(Vec<u32>, f32)> = vec![(Vec::new(), 0.0)];
    for own in lists {
        // Of the i-th best beginning, no more than the first most / i can be among the best so many.
        let mut sums: Vec<(usize, u32, f32)> = Vec::new();
        for (i, (_, so_far)) in found.iter().enumerate() {
            sums.extend(own.iter().take(most.div_ceil(i + 1)).map(|&(k, cost)| (i, k, so_far + cost)));
        }
        sums.sort_by(|a, b| a.2.total_cmp(&b.2));
        sums.truncate(most);
        let longer = |&(i, k, cost): &(usize, u32, f32)| ([&found[i].0[..], &[k]].concat(), cost);
        found = sums.iter().map(longer).collect();
    }
    found
}

//! Product quantisation: a vector is cut into parts, and each part has a code of its own.
//!
//! R x = [x_1 … x_m], x_s ≈ C_s[k_s]: the codes of a vector have no order, so they can be told all at once. R turns vectors so
//! that parts say different things, and each about as much (`rotation.rs`).
//!
//! Shapes: x (n × d), R (d × d), C_s (codes × about d / parts; the first parts are one number longer where d has a rest).
//! Cost: 2 n d codes, and 2 n d² where vectors are turned; memory one more copy of the vectors, and a tile of scores.
//! Sources: Jégou, Douze, Schmid, "Product Quantization for Nearest Neighbor Search", PAMI 2011; Ge et al., "Optimized Product
//! Quantization", PAMI 2014 (R); for semantic IDs, Hou et al., "Generating Long Semantic IDs in Parallel for Recommendation"
//! (RPG), KDD 2025, arXiv:2506.05781; unordered sets of codes: Lin et al., "Order-agnostic Identifier for Large Language
//! Model-based Generative Recommendation" (SETRec), SIGIR 2025, arXiv:2502.10833.
//! Departures: R comes from the parametric solution of Ge et al. and is not refined in turns with the centres. SETRec's own
//! continuous tokens, one for each kind of source, are vectors and not codes; these are its discrete form.

use super::rotation::{Rotate, Rotation};
use super::{Tokeniser, centres_of, cheapest, counts_of, damaged};
use crate::kmeans::{Centres, KMeans};
use crate::{EncodeError, Rows, require};
use serde::{Deserialize, Serialize};
use sommelier_core::{FitContext, Rng};
use sommelier_nn::{LoadError, Weights};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProductConfig {
    /// Parts of a vector, and so codes of an item.
    pub levels: usize,
    /// Codes of each part.
    pub codes: usize,
    /// Rounds of k-means of each part, at most.
    pub rounds: usize,
    /// How vectors are turned before they are cut.
    pub rotate: Rotate,
}

impl Default for ProductConfig {
    fn default() -> ProductConfig {
        ProductConfig { levels: 4, codes: 256, rounds: 25, rotate: Rotate::Balanced }
    }
}

/// Fitted centres of all parts.
#[derive(Debug, Clone, PartialEq)]
pub struct Product {
    dim: usize,
    sizes: Vec<u32>,
    rotation: Option<Rotation>,
    parts: Vec<Centres>,
}

impl ProductConfig {
    /// On the current rayon pool. The same vectors, seed and settings give the same centres on any number of threads.
    pub fn fit(&self, x: Rows, ctx: &FitContext) -> Result<Product, EncodeError> {
        require(
            "levels",
            self.levels as f64,
            (1..=x.dim).contains(&self.levels),
            "1 to the vectors' length",
        )?;
        require("codes", self.codes as f64, self.codes > 0, "at least 1")?;
        x.check()?;
        let kmeans = KMeans { rounds: self.rounds, ..KMeans::new(self.codes) };
        let mut rng = Rng::stream(ctx.seed, 0x0b9);
        let sample = x.sample(self.codes.saturating_mul(kmeans.each), &mut rng);
        let lengths: Vec<usize> = cuts(x.dim, self.levels).map(|(_, length)| length).collect();
        let rotation = self.rotate.fit(Rows::new(&sample, x.dim), &lengths, &mut rng)?;
        let turned = match &rotation {
            Some(rotation) => rotation.turn(Rows::new(&sample, x.dim)),
            None => sample,
        };
        let x = Rows::new(&turned, x.dim);
        ctx.progress.start("codes", Some(self.levels as u64));
        let mut parts = Vec::with_capacity(self.levels);
        for (from, dim) in cuts(x.dim, self.levels) {
            parts.push(kmeans.fit(Rows::new(&part_of(x, from, dim), dim), &mut rng, ctx)?);
            ctx.progress.at(parts.len() as u64);
        }
        ctx.progress.finish();
        Ok(Product::new(rotation, parts))
    }

    pub fn load(&self, weights: &Weights) -> Result<Product, LoadError> {
        let sizes = counts_of(weights, "sizes", 1)?;
        let named =
            |(part, &size): (usize, &u32)| centres_of(weights, &format!("centres.{part}"), size.into());
        let parts = sizes.iter().enumerate().map(named).collect::<Result<Vec<_>, _>>()?;
        let dim: usize = parts.iter().map(|p| p.dim).sum();
        let rotation = match weights.matrix("rotation", Some(dim)) {
            Ok((rows, _, data)) if rows == dim => Some(Rotation::new(data.to_vec(), dim)),
            Ok((rows, ..)) => return Err(damaged(&format!("rotation has {rows} rows, expected {dim}"))),
            Err(LoadError::Missing { .. }) => None,
            Err(other) => return Err(other),
        };
        Ok(Product::new(rotation, parts))
    }
}

/// Where each part begins, and its length.
fn cuts(dim: usize, parts: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..parts).map(move |p| {
        let from = |p: usize| p * (dim / parts) + p.min(dim % parts);
        (from(p), from(p + 1) - from(p))
    })
}

fn part_of(x: Rows, from: usize, dim: usize) -> Vec<f32> {
    x.iter().flat_map(|x| &x[from..from + dim]).copied().collect()
}

impl Product {
    pub fn new(rotation: Option<Rotation>, parts: Vec<Centres>) -> Product {
        let dim = parts.iter().map(|p| p.dim).sum();
        Product { dim, sizes: parts.iter().map(|p| p.len() as u32).collect(), rotation, parts }
    }

    /// Centres of each part.
    pub fn parts(&self) -> &[Centres] {
        &self.parts
    }

    /// Where each part begins.
    fn starts(&self) -> impl Iterator<Item = (usize, &Centres)> {
        self.parts.iter().scan(0, |from, part| {
            let start = *from;
            *from += part.dim;
            Some((start, part))
        })
    }
}

impl Tokeniser for Product {
    fn dim(&self) -> usize {
        self.dim
    }

    fn sizes(&self) -> &[u32] {
        &self.sizes
    }

    fn encode(&self, x: Rows) -> Vec<u32> {
        let turned = self.rotation.as_ref().map(|r| r.turn(x));
        let x = turned.as_ref().map_or(x, |turned| Rows::new(turned, x.dim));
        let levels = self.parts.len();
        let mut codes = vec![0u32; x.len() * levels];
        for (s, (from, part)) in self.starts().enumerate() {
            let nearest = part.nearest(Rows::new(&part_of(x, from, part.dim), part.dim));
            codes.iter_mut().skip(s).step_by(levels).zip(nearest).for_each(|(code, (k, _))| *code = k);
        }
        codes
    }

    fn decode(&self, codes: &[u32]) -> Vec<f32> {
        let centre = |(&k, part): (&u32, &Centres)| part.row(k as usize).to_vec();
        let vectors = codes.chunks_exact(self.parts.len());
        let x: Vec<f32> = vectors.flat_map(|codes| codes.iter().zip(&self.parts).flat_map(centre)).collect();
        match &self.rotation {
            Some(rotation) => rotation.turn_back(Rows::new(&x, self.dim)),
            None => x,
        }
    }

    fn best(&self, x: &[f32], most: usize) -> Vec<(Vec<u32>, f32)> {
        let turned = self.rotation.as_ref().map(|r| r.turn(Rows::new(x, self.dim)));
        let x = turned.as_deref().unwrap_or(x);
        let by_distance = |(from, part): (usize, &Centres)| {
            let x = &x[from..from + part.dim];
            let distance = |k: usize| x.iter().zip(part.row(k)).map(|(a, b)| (a - b) * (a - b)).sum::<f32>();
            let mut own: Vec<(u32, f32)> = (0..part.len()).map(|k| (k as u32, distance(k))).collect();
            own.sort_by(|a, b| a.1.total_cmp(&b.1).then(a.0.cmp(&b.0)));
            own
        };
        cheapest(self.starts().map(by_distance), most)
    }

    fn weights(&self) -> Weights {
        let mut weights = Weights::default();
        weights.set_u32("sizes", &[self.sizes.len()], self.sizes.clone());
        for (s, part) in self.parts.iter().enumerate() {
            weights.set_f32(&format!("centres.{s}"), &[part.len(), part.dim], part.rows.clone());
        }
        if let Some(rotation) = &self.rotation {
            weights.set_f32("rotation", &[self.dim; 2], rotation.rows().to_vec());
        }
        weights
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::lost;
    use super::*;

    #[test]
    fn parts_are_cut_evenly() {
        assert_eq!(cuts(7, 3).collect::<Vec<_>>(), [(0, 3), (3, 2), (5, 2)]);
        assert_eq!(cuts(4, 4).collect::<Vec<_>>(), [(0, 1), (1, 1), (2, 1), (3, 1)]);
    }

    #[test]
    fn alternatives_are_those_of_plain_loops() {
        let mut rng = Rng::new(3);
        let data: Vec<f32> = (0..60 * 5).map(|_| rng.normal() as f32).collect();
        let x = Rows::new(&data, 5);
        for rotate in [Rotate::None, Rotate::Random, Rotate::Balanced] {
            let config = ProductConfig { levels: 2, codes: 6, rotate, ..ProductConfig::default() };
            let fitted = config.fit(x, &FitContext::quiet(1)).unwrap();
            let all: Vec<u32> = (0..36).flat_map(|s| [s / 6, s % 6]).collect();
            let vectors = fitted.decode(&all);
            for i in 0..10 {
                let far = |v: &[f32]| v.iter().zip(x.row(i)).map(|(a, b)| (a - b) * (a - b)).sum::<f32>();
                let mut plain: Vec<f32> = vectors.chunks_exact(5).map(far).collect();
                plain.sort_by(f32::total_cmp);
                for (found, plain) in fitted.best(x.row(i), 50).iter().zip(&plain) {
                    assert!(
                        (found.1 - plain).abs() < 1e-4
                            && (far(&fitted.decode(&found.0)) - plain).abs() < 1e-4
                    );
                }
            }
        }
    }

    #[test]
    fn balanced_parts_lose_less() {
        // A few numbers that vary much, all of them in the first part, and their echo in the others.
        let mut rng = Rng::new(4);
        let row = |_| {
            let own: Vec<f64> =
                (0..8).map(|d| [4.0, 3.0, 2.0, 1.5, 0.4, 0.3, 0.2, 0.1][d] * rng.normal()).collect();
            (0..8).map(|d| (own[d] + 0.5 * own[(d + 4) % 8]) as f32).collect::<Vec<f32>>()
        };
        let data: Vec<f32> = (0..1500).flat_map(row).collect();
        let x = Rows::new(&data, 8);
        let of = |rotate| {
            let config = ProductConfig { levels: 2, codes: 16, rotate, ..ProductConfig::default() };
            lost(x, &config.fit(x, &FitContext::quiet(1)).unwrap())
        };
        let (none, random, balanced) = (of(Rotate::None), of(Rotate::Random), of(Rotate::Balanced));
        assert!(
            balanced < 0.85 * none && balanced < random,
            "none {none}, random {random}, balanced {balanced}"
        );
    }
}

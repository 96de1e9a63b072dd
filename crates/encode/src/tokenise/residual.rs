//! RQ-k-means: each level's codes are centres of what the levels before it left over.
//!
//! x ≈ Σ_l C_l[k_l]. Level 1 is k-means of the vectors; level l is k-means of x − Σ_{m<l} C_m[k_m]. Codes are chosen with a beam:
//! at each level the `beam` best prefixes go on, so that a first code that is a little farther may end nearer.
//!
//! Shapes: x (n × d), C_l (codes × d). Choosing needs no residual: |x − Σ C|² = |x|² − 2 Σ_l x · C_l[k_l] + |Σ C|², and the last
//! part comes from the products of all centres with one another, made once. Cost: 2 n d Σ codes for the products, and
//! n · beam · codes · levels² / 2 sums; memory a tile of scores and (levels · codes)² products. Levels that a catalogue uses
//! evenly (`uniform.rs`) are chosen among items with the same codes before, with 50 n codes exponentials at most.
//! Sources: Juang and Gray, ICASSP 1982 (residual quantisation); Babenko and Lempitsky, "Additive Quantization for Extreme Vector
//! Compression", CVPR 2014 (the beam); for semantic IDs, Deng et al., "OneRec", 2025, arXiv:2502.18965.

use super::uniform::{Uniform, spread};
use super::{Tokeniser, centres_of, counts_of, damaged};
use crate::kmeans::{Centres, KMeans};
use crate::{EncodeError, Rows, require};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sommelier_core::{FitContext, Rng};
use sommelier_nn::kernel::{self, Layout};
use sommelier_nn::{LoadError, Weights};
use std::collections::BTreeMap;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ResidualConfig {
    pub levels: usize,
    /// Codes of each level.
    pub codes: usize,
    /// Prefixes that go on at each level; 1 takes the nearest each time.
    pub beam: usize,
    /// Rounds of k-means of each level, at most.
    pub rounds: usize,
    /// Levels whose codes the fitted catalogue uses evenly.
    pub uniform: Uniform,
}

impl Default for ResidualConfig {
    fn default() -> ResidualConfig {
        ResidualConfig { levels: 3, codes: 256, beam: 5, rounds: 25, uniform: Uniform::None }
    }
}

/// Fitted centres of all levels.
#[derive(Debug, Clone, PartialEq)]
pub struct Residual {
    sizes: Vec<u32>,
    beam: usize,
    uniform: Uniform,
    /// All levels', one after the other.
    centres: Centres,
    /// Products of all centres with one another (all × all).
    products: Vec<f32>,
}

/// Vectors of one tile of scores.
const TILE: usize = 64;
/// Centres of all levels, at most: the products of these take 16 GiB.
const MOST_CENTRES: u64 = 1 << 16;
/// Vectors that give way to each other at once, at most.
const GROUP: usize = 4096;

impl ResidualConfig {
    /// On the current rayon pool. The same vectors, seed and settings give the same centres on any number of threads.
    pub fn fit(&self, x: Rows, ctx: &FitContext) -> Result<Residual, EncodeError> {
        require("levels", self.levels as f64, self.levels > 0, "at least 1")?;
        require("codes", self.codes as f64, self.codes > 0, "at least 1")?;
        require("beam", self.beam as f64, self.beam > 0, "at least 1")?;
        let all = self.levels.saturating_mul(self.codes);
        let room = all.saturating_mul(all).saturating_mul(4) as u64;
        let fits = all as u64 <= MOST_CENTRES && room <= ctx.memory;
        require("levels × codes", all as f64, fits, "few enough for the memory budget, and at most 65536")?;
        x.check()?;
        let kmeans = KMeans { rounds: self.rounds, ..KMeans::new(self.codes) };
        let mut rng = Rng::stream(ctx.seed, 0x0b9);
        let sample = x.sample(self.codes.saturating_mul(kmeans.each), &mut rng);
        let x = Rows::new(&sample, x.dim);
        ctx.progress.start("codes", Some(self.levels as u64));
        let mut fitted = self.with(Vec::new(), Centres::new(Vec::new(), x.dim));
        for level in 0..self.levels {
            // What the best codes so far leave over.
            let mut rest = x.data.to_vec();
            if level > 0 {
                kernel::axpy(-1.0, &fitted.decode(&fitted.encode(x)), &mut rest);
            }
            let centres = kmeans.fit(Rows::new(&rest, x.dim), &mut rng, ctx)?;
            let mut all = std::mem::take(&mut fitted.centres.rows);
            all.extend_from_slice(&centres.rows);
            let sizes = vec![self.codes as u32; level + 1];
            fitted = self.with(sizes, Centres::new(all, x.dim));
            ctx.progress.at(level as u64 + 1);
        }
        ctx.progress.finish();
        Ok(fitted)
    }

    /// From the centres of all levels, one level after the other.
    pub fn with(&self, sizes: Vec<u32>, centres: Centres) -> Residual {
        let (all, at) = (centres.len(), Layout::rows_of(centres.dim));
        assert_eq!(all, sizes.iter().sum::<u32>() as usize, "a centre for each code");
        let mut products = vec![0f32; all * all];
        let rows = &centres.rows[..];
        let out = (&mut products[..], Layout::rows_of(all));
        kernel::gemm((all, all, centres.dim), 1.0, (rows, at), (rows, at.transposed()), 0.0, out);
        Residual { sizes, beam: self.beam, uniform: self.uniform, centres, products }
    }

    pub fn load(&self, weights: &Weights) -> Result<Residual, LoadError> {
        let sizes = counts_of(weights, "sizes", 1)?;
        let all: u64 = sizes.iter().map(|&s| u64::from(s)).sum();
        if all > MOST_CENTRES {
            return Err(damaged(&format!("sizes are {sizes:?}, which is more centres than can be")));
        }
        Ok(self.with(sizes, centres_of(weights, "centres", all)?))
    }
}

/// One prefix of codes.
#[derive(Debug, Clone, Copy)]
struct Prefix {
    /// −½ of what its squared distance is beside |x|²: the larger the better.
    score: f32,
    /// Place among the prefixes before it.
    from: u32,
    /// Place of its last centre among all.
    centre: u32,
}

impl Residual {
    /// The centres of all levels, one level after the other.
    pub fn centres(&self) -> &Centres {
        &self.centres
    }

    /// The best prefixes of full length for a vector whose scores with all centres are given, best first, into the last of
    /// `lists`; each level's list stays, so that codes can be read back.
    fn search(&self, scores: &[f32], width: usize, lists: &mut Vec<Vec<Prefix>>, row: &mut Vec<f32>) {
        lists.resize_with(self.sizes.len(), Vec::new);
        let mut first = 0;
        for level in 0..self.sizes.len() {
            let size = self.sizes[level] as usize;
            let (before, now) = lists.split_at_mut(level);
            let found = &mut now[0];
            found.clear();
            let own = &scores[first..first + size];
            let starts = if level == 0 { 1 } else { before[level - 1].len() };
            for from in 0..starts {
                row.clear();
                row.extend_from_slice(own);
                let start = before.last().map_or(0.0, |list| list[from].score);
                let mut at = from;
                for list in before.iter().rev() {
                    let prefix = list[at];
                    let products =
                        &self.products[prefix.centre as usize * self.centres.len() + first..][..size];
                    kernel::axpy(-1.0, products, row);
                    at = prefix.from as usize;
                }
                keep_best(row, start, from as u32, first as u32, width, found);
            }
            first += size;
        }
    }

    /// The codes of one level for vectors with the same codes before it, which give way to each other.
    fn spread_level(&self, x: Rows, level: usize, codes: &mut [u32]) {
        let (levels, dim) = (self.sizes.len(), x.dim);
        let first: usize = self.sizes[..level].iter().map(|&s| s as usize).sum();
        let size = self.sizes[level] as usize;
        let own = Centres::new(self.centres.rows[first * dim..][..size * dim].to_vec(), dim);
        let mut groups: BTreeMap<&[u32], Vec<usize>> = BTreeMap::new();
        for i in 0..x.len() {
            groups.entry(&codes[i * levels..][..level]).or_default().push(i);
        }
        let parts: Vec<&[usize]> = groups.values().flat_map(|group| group.chunks(GROUP)).collect();
        let of_part = |part: &&[usize]| {
            let mut rest = x.pick(part);
            let mut at = 0;
            for (before, &size) in self.sizes[..level].iter().enumerate() {
                let centre = self.centres.row(at + codes[part[0] * levels + before] as usize);
                rest.chunks_exact_mut(dim).for_each(|rest| kernel::axpy(-1.0, centre, rest));
                at += size as usize;
            }
            let mut scores = vec![0f32; part.len() * own.len()];
            own.scores(Rows::new(&rest, dim), &mut scores);
            spread(&scores, own.len())
        };
        let found: Vec<Vec<u32>> = parts.par_iter().map(of_part).collect();
        let parts: Vec<usize> = parts.into_iter().flatten().copied().collect();
        parts.into_iter().zip(found.concat()).for_each(|(i, code)| codes[i * levels + level] = code);
    }

    fn codes_of(&self, lists: &[Vec<Prefix>], place: usize) -> Vec<u32> {
        let mut codes = vec![0u32; self.sizes.len()];
        let mut first: u32 = self.sizes.iter().sum();
        let mut at = place;
        for level in (0..self.sizes.len()).rev() {
            first -= self.sizes[level];
            let prefix = lists[level][at];
            codes[level] = prefix.centre - first;
            at = prefix.from as usize;
        }
        codes
    }
}

/// Adds those of `row` that belong among the `width` best of `list`, which stays sorted, best first. Of equal ones the first
/// found stays ahead.
fn keep_best(row: &[f32], start: f32, from: u32, first: u32, width: usize, list: &mut Vec<Prefix>) {
    let mut bar = if list.len() < width { f32::NEG_INFINITY } else { list[width - 1].score };
    if start + kernel::max(row) < bar {
        return;
    }
    for (k, &score) in row.iter().enumerate() {
        let score = start + score;
        if score > bar || list.len() < width {
            let place = list.partition_point(|p| p.score >= score);
            list.insert(place, Prefix { score, from, centre: first + k as u32 });
            list.truncate(width);
            if list.len() == width {
                bar = list[width - 1].score;
            }
        }
    }
}

impl Tokeniser for Residual {
    fn dim(&self) -> usize {
        self.centres.dim
    }

    fn sizes(&self) -> &[u32] {
        &self.sizes
    }

    fn encode(&self, x: Rows) -> Vec<u32> {
        let all = self.centres.len();
        let room = || (vec![0f32; TILE * all], Vec::new(), Vec::new());
        let of_tile = |(scores, lists, row): &mut (Vec<f32>, Vec<Vec<Prefix>>, Vec<f32>), tile: &[f32]| {
            let x = Rows::new(tile, x.dim);
            self.centres.scores(x, scores);
            let mut codes = Vec::with_capacity(x.len() * self.sizes.len());
            for scores in scores.chunks_exact(all).take(x.len()) {
                self.search(scores, self.beam, lists, row);
                codes.extend(self.codes_of(lists, 0));
            }
            codes
        };
        x.data.par_chunks(TILE * x.dim).map_init(room, of_tile).collect::<Vec<_>>().concat()
    }

    fn assign(&self, x: Rows) -> Vec<u32> {
        let mut codes = self.encode(x);
        let levels = self.sizes.len();
        for level in (0..levels).filter(|&l| self.uniform.at(l, levels)) {
            self.spread_level(x, level, &mut codes);
        }
        codes
    }

    fn decode(&self, codes: &[u32]) -> Vec<f32> {
        let dim = self.centres.dim;
        let mut out = vec![0f32; codes.len() / self.sizes.len() * dim];
        out.par_chunks_mut(dim).zip(codes.par_chunks(self.sizes.len())).for_each(|(out, codes)| {
            let mut first = 0;
            for (&k, &size) in codes.iter().zip(&self.sizes) {
                kernel::axpy(1.0, self.centres.row((first + k) as usize), out);
                first += size;
            }
        });
        out
    }

    fn best(&self, x: &[f32], most: usize) -> Vec<(Vec<u32>, f32)> {
        let mut scores = vec![0f32; self.centres.len()];
        self.centres.scores(Rows::new(x, self.centres.dim), &mut scores);
        let (mut lists, mut row) = (Vec::new(), Vec::new());
        self.search(&scores, self.beam.max(most), &mut lists, &mut row);
        let own = kernel::dot(x, x);
        let last = lists.last().map_or(&[][..], |list| &list[..]);
        let distance = |p: &Prefix| (own - 2.0 * p.score).max(0.0);
        last.iter().take(most).enumerate().map(|(i, p)| (self.codes_of(&lists, i), distance(p))).collect()
    }

    fn weights(&self) -> Weights {
        let mut weights = Weights::default();
        weights.set_u32("sizes", &[self.sizes.len()], self.sizes.clone());
        weights.set_f32("centres", &[self.centres.len(), self.centres.dim], self.centres.rows.clone());
        weights
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{grouped, lost};
    use super::*;
    use proptest::prelude::*;
    use sommelier_core::Rng;

    fn distance(a: &[f32], b: &[f32]) -> f64 {
        a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum()
    }

    /// Centres of k-means by plain loops, from the first vectors that are not alike.
    fn plain_kmeans(x: &[Vec<f64>], k: usize, rounds: usize) -> Vec<Vec<f64>> {
        let far = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>();
        let mut centres: Vec<Vec<f64>> = x.iter().step_by(x.len() / k).take(k).cloned().collect();
        for _ in 0..rounds {
            let mut groups = vec![Vec::new(); k];
            for x in x {
                let nearest = (0..k).min_by(|&a, &b| far(x, &centres[a]).total_cmp(&far(x, &centres[b])));
                groups[nearest.unwrap()].push(x);
            }
            for (centre, group) in centres.iter_mut().zip(groups).filter(|(_, group)| !group.is_empty()) {
                for (d, c) in centre.iter_mut().enumerate() {
                    *c = group.iter().map(|x| x[d]).sum::<f64>() / group.len() as f64;
                }
            }
        }
        centres
    }

    /// Squared error of residual k-means by plain loops, as a share of the spread.
    fn plain(x: Rows, levels: usize, k: usize) -> f64 {
        let far = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>();
        let mut rest: Vec<Vec<f64>> = x.iter().map(|x| x.iter().map(|&v| f64::from(v)).collect()).collect();
        let mean: Vec<f64> =
            (0..x.dim).map(|d| rest.iter().map(|x| x[d]).sum::<f64>() / x.len() as f64).collect();
        let spread: f64 = rest.iter().map(|x| far(x, &mean)).sum();
        for _ in 0..levels {
            let centres = plain_kmeans(&rest, k, 25);
            for x in &mut rest {
                let nearest = centres.iter().min_by(|a, b| far(x, a).total_cmp(&far(x, b))).unwrap();
                x.iter_mut().zip(nearest).for_each(|(x, c)| *x -= c);
            }
        }
        rest.iter().map(|x| x.iter().map(|v| v * v).sum::<f64>()).sum::<f64>() / spread
    }

    #[test]
    fn as_good_as_plain_loops_and_better_with_a_beam() {
        for (n, dim, seed) in [(600, 10, 1), (900, 6, 2)] {
            let data = grouped(n, dim, 60, seed);
            let x = Rows::new(&data, dim);
            let config = ResidualConfig { codes: 10, beam: 1, ..ResidualConfig::default() };
            let fitted = config.fit(x, &FitContext::quiet(3)).unwrap();
            let wider = ResidualConfig { beam: 8, ..config }.load(&fitted.weights()).unwrap();
            let (greedy, wide, plain) = (lost(x, &fitted), lost(x, &wider), plain(x, 3, 10));
            assert!(greedy < 1.03 * plain && greedy > 0.6 * plain, "{greedy}, plain loops {plain}");
            assert!(wide < greedy, "{wide}, greedy {greedy}");
        }
    }

    /// Anything as centres, which is harder than what a fit gives.
    fn drawn(levels: usize, codes: usize, dim: usize, beam: usize, seed: u64) -> Residual {
        let mut rng = Rng::new(seed);
        let rows = (0..levels * codes * dim).map(|_| rng.normal() as f32).collect();
        let config = ResidualConfig { beam, ..ResidualConfig::default() };
        config.with(vec![codes as u32; levels], Centres::new(rows, dim))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_beam_of_one_is_greedy_and_one_of_all_is_exact(
            n in 1usize..80, levels in 1usize..4, codes in 1usize..5, dim in 1usize..9, seed: u64,
        ) {
            let mut rng = Rng::new(seed ^ 1);
            let data: Vec<f32> = (0..n * dim).map(|_| 2.0 * rng.normal() as f32).collect();
            let x = Rows::new(&data, dim);
            let all = codes.pow(levels as u32);
            let (greedy, exact) = (drawn(levels, codes, dim, 1, seed), drawn(levels, codes, dim, all, seed));
            let found = exact.encode(x);
            let known = exact.decode(&found);
            let every: Vec<u32> = (0..all)
                .flat_map(|s| (0..levels).map(move |l| (s / codes.pow(l as u32) % codes) as u32))
                .collect();
            let vectors = exact.decode(&every);
            for (i, own) in greedy.encode(x).chunks_exact(levels).enumerate() {
                let mut rest = x.row(i).to_vec();
                for (level, &code) in own.iter().enumerate() {
                    let row = |k: usize| greedy.centres().row(level * codes + k);
                    let least = (0..codes).map(|k| distance(&rest, row(k))).fold(f64::INFINITY, f64::min);
                    prop_assert!(distance(&rest, row(code as usize)) < least + 1e-4);
                    kernel::axpy(-1.0, row(code as usize), &mut rest);
                }
                let far = |v: &[f32]| distance(x.row(i), v);
                let least = vectors.chunks_exact(dim).map(far).fold(f64::INFINITY, f64::min);
                prop_assert!((far(&known[i * dim..][..dim]) - least).abs() < 1e-4);
                prop_assert!(far(&known[i * dim..][..dim]) < far(&greedy.decode(own)) + 1e-4);
            }
            let best = greedy.best(x.row(0), all);
            prop_assert_eq!(best.len(), all);
            for (codes, d) in best {
                prop_assert!((f64::from(d) - distance(x.row(0), &greedy.decode(&codes))).abs() < 1e-3);
            }
        }
    }

    #[test]
    fn even_levels_tell_apart_what_had_the_same_codes() {
        // Ten vectors in each of 30 places: with 12 codes at the last level each can have its own.
        let data: Vec<f32> = (0..300).flat_map(|i| [(i % 30) as f32, (i % 30 % 7) as f32]).collect();
        let x = Rows::new(&data, 2);
        let distinct = |uniform| {
            let config = ResidualConfig { levels: 3, codes: 12, uniform, ..ResidualConfig::default() };
            let fitted = config.fit(x, &FitContext::quiet(1)).unwrap();
            let assigned = fitted.assign(x);
            assert!(uniform != Uniform::None || assigned == fitted.encode(x));
            let mut counts = [0; 12];
            assigned.chunks_exact(3).for_each(|c| counts[c[0] as usize] += 1);
            let all: std::collections::HashSet<&[u32]> = assigned.chunks_exact(3).collect();
            (all.len(), counts)
        };
        assert!(distinct(Uniform::None).0 <= 30);
        assert_eq!(distinct(Uniform::Last).0, 300);
        let (all, counts) = distinct(Uniform::All);
        assert!(all == 300 && counts == [25; 12], "{all} {counts:?}");
    }
}

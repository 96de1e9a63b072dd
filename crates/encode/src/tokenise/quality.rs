//! How good codes are before any recommender has learned from them.
//!
//! Of a level's codes with shares p: entropy −Σ p log₂ p, perplexity 2 to that. Of beginnings with x_1 ≤ … ≤ x_n items: Gini
//! coefficient Σ (2 i − n − 1) x_i / (n Σ x). Reconstruction and neighbours compare vectors with what their codes stand for.
//!
//! Cost: a pass over the codes for each level, and 4 n d products for each of at most 1000 items whose neighbours are looked for.
//! Source: the idea, and most of the measures, are FORGE's (Fu et al., "FORGE: Forming Semantic Identifiers for Generative
//! Retrieval in Industrial Datasets", 2025, arXiv:2509.20904); definitions are here.

use super::{Codes, Tokeniser};
use crate::Rows;
use crate::rows::draw;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sommelier_core::Rng;
use sommelier_nn::kernel::{self, Layout};
use std::collections::HashMap;

/// Measures of a catalogue's codes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Quality {
    pub items: usize,
    /// Share of items whose codes some other item has too; with a tokeniser, before a further code told them apart.
    pub collisions: f64,
    /// Items with these codes in common, at most.
    pub largest_group: usize,
    /// Σ |x − x̂|² / Σ |x − x̄|²: 0 is perfect, 1 says no more than the mean; `None` where codes stand for no vectors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reconstruction: Option<f64>,
    /// Of the ten nearest items by vector, the share among the ten nearest by what codes stand for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub neighbours: Option<f64>,
    pub levels: Vec<Level>,
}

/// Measures of one level.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Level {
    /// How many codes there are.
    pub codes: usize,
    /// Share of them that some item has.
    pub used: f64,
    /// Of the codes as items have them, in bits.
    pub entropy: f64,
    /// 2 to that: as many codes, all as common, would tell items apart as well.
    pub perplexity: f64,
    /// Distinct beginnings up to and with this level.
    pub prefixes: usize,
    /// Gini coefficient of the items of these beginnings: 0 where all have as many.
    pub gini: f64,
    /// Of the ten nearest items by vector, the share with the same beginning.
    pub shared: f64,
}

/// Items whose neighbours are looked for.
const ASKED: usize = 1000;
const NEAREST: usize = 10;

impl Quality {
    /// `x`: the vectors that were encoded, one for each row of `codes`, whose last level may be one that only numbers items.
    /// `seed` decides which items' neighbours are looked for, where there are many.
    pub fn of(codes: &Codes, x: Rows, tokeniser: Option<&dyn Tokeniser>, seed: u64) -> Quality {
        let n = codes.len();
        let own = tokeniser.map_or(codes.levels(), |t| t.sizes().len());
        let groups = prefixes(codes, own);
        let sharing: u32 = groups.values().filter(|&&items| items > 1).sum();
        let known = tokeniser.map(|t| {
            let own: Vec<u32> = codes.iter().flat_map(|c| &c[..own]).copied().collect();
            t.decode(&own)
        });
        let asked: Vec<usize> = draw(n, ASKED, &mut Rng::stream(seed, 0x9a1));
        let near = nearest(x, &asked);
        let reconstruction = known.as_ref().map(|known| lost(x, known));
        let neighbours = known.as_ref().map(|known| {
            let again = nearest(Rows::new(known, x.dim), &asked);
            mean(near.iter().zip(&again).map(|(a, b)| share(a, |i| b.contains(i))))
        });
        let levels = (0..codes.levels()).map(|l| Level::of(codes, l, &asked, &near)).collect();
        let largest_group = groups.values().copied().max().unwrap_or(0) as usize;
        let collisions = if n == 0 { 0.0 } else { f64::from(sharing) / n as f64 };
        Quality { items: n, collisions, largest_group, reconstruction, neighbours, levels }
    }
}

impl Level {
    fn of(codes: &Codes, level: usize, asked: &[usize], near: &[Vec<usize>]) -> Level {
        let size = codes.sizes[level] as usize;
        let mut counts = vec![0u32; size];
        codes.iter().for_each(|c| counts[c[level] as usize] += 1);
        let n = codes.len().max(1) as f64;
        let bits = |&c: &u32| if c == 0 { 0.0 } else { -f64::from(c) / n * (f64::from(c) / n).log2() };
        let entropy: f64 = counts.iter().map(bits).sum();
        let loads: Vec<u32> = prefixes(codes, level + 1).into_values().collect();
        let begin = |i: usize| &codes.row(i)[..=level];
        Level {
            codes: size,
            used: counts.iter().filter(|&&c| c > 0).count() as f64 / size.max(1) as f64,
            entropy,
            perplexity: entropy.exp2(),
            prefixes: loads.len(),
            gini: gini(loads),
            shared: mean(asked.iter().zip(near).map(|(&i, near)| share(near, |&j| begin(i) == begin(j)))),
        }
    }
}

/// How many items begin with each sequence of so many codes.
fn prefixes(codes: &Codes, levels: usize) -> HashMap<&[u32], u32> {
    let mut groups = HashMap::new();
    codes.iter().for_each(|c| *groups.entry(&c[..levels]).or_default() += 1);
    groups
}

/// Σ |x − x̂|² / Σ |x − x̄|²; 0 where all vectors are alike and known.
fn lost(x: Rows, known: &[f32]) -> f64 {
    let mut mean = vec![0f64; x.dim];
    x.iter().for_each(|x| mean.iter_mut().zip(x).for_each(|(m, &x)| *m += f64::from(x)));
    mean.iter_mut().for_each(|m| *m /= x.len().max(1) as f64);
    let (mut off, mut spread) = (0.0, 0.0);
    for (x, known) in x.iter().zip(known.chunks_exact(x.dim)) {
        for ((&x, &known), mean) in x.iter().zip(known).zip(&mean) {
            off += (f64::from(x) - f64::from(known)).powi(2);
            spread += (f64::from(x) - mean).powi(2);
        }
    }
    if spread > 0.0 { off / spread } else { 0.0 }
}

/// The nearest others of some vectors, the lower index where two are as near.
fn nearest(x: Rows, asked: &[usize]) -> Vec<Vec<usize>> {
    /// Vectors asked about, and those compared with them, of one product.
    const TILE: (usize, usize) = (32, 2048);
    let norms: Vec<f32> = x.iter().map(|x| kernel::dot(x, x)).collect();
    let at = Layout::rows_of(x.dim);
    let of_tile = |asked: &[usize]| {
        let own = x.pick(asked);
        let mut found: Vec<Vec<(f32, usize)>> = vec![Vec::new(); asked.len()];
        let mut products = vec![0f32; asked.len() * TILE.1];
        for (from, others) in (0..).step_by(TILE.1).zip(x.data.chunks(TILE.1 * x.dim)) {
            let n = others.len() / x.dim;
            let out = (&mut products[..], Layout::rows_of(n));
            kernel::gemm((asked.len(), n, x.dim), 1.0, (&own, at), (others, at.transposed()), 0.0, out);
            for ((found, products), &i) in found.iter_mut().zip(products.chunks_exact(n)).zip(asked) {
                let distance = |(j, p): (usize, &f32)| (norms[from + j] - 2.0 * p, from + j);
                found.extend(products.iter().enumerate().map(distance).filter(|&(_, j)| j != i));
                keep_nearest(found);
            }
        }
        found.into_iter().map(|near| near.into_iter().map(|(_, j)| j).collect()).collect::<Vec<_>>()
    };
    asked.par_chunks(TILE.0).flat_map_iter(of_tile).collect()
}

fn keep_nearest(all: &mut Vec<(f32, usize)>) {
    if all.len() > NEAREST {
        all.select_nth_unstable_by(NEAREST - 1, |a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        all.truncate(NEAREST);
    }
}

fn share<T>(list: &[T], holds: impl Fn(&T) -> bool) -> f64 {
    list.iter().filter(|x| holds(x)).count() as f64 / list.len().max(1) as f64
}

fn mean(numbers: impl Iterator<Item = f64>) -> f64 {
    let (sum, n) = numbers.fold((0.0, 0usize), |(sum, n), x| (sum + x, n + 1));
    if n == 0 { 0.0 } else { sum / n as f64 }
}

/// Σ (2 i − n − 1) x_i / (n Σ x) for ascending x, i from 1.
fn gini(mut loads: Vec<u32>) -> f64 {
    loads.sort_unstable();
    let n = loads.len() as f64;
    let total: f64 = loads.iter().map(|&x| f64::from(x)).sum();
    let weighed: f64 =
        loads.iter().zip(1..).map(|(&x, i)| (2.0 * f64::from(i) - n - 1.0) * f64::from(x)).sum();
    if total > 0.0 { weighed / (n * total) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::super::{Residual, ResidualConfig};
    use super::*;
    use crate::kmeans::Centres;

    /// Levels (2, 2) with centres 0 and 10, then 0 and 1.
    fn by_hand() -> Residual {
        let centres = Centres::new(vec![0.0, 10.0, 0.0, 1.0], 1);
        ResidualConfig { beam: 4, ..ResidualConfig::default() }.with(vec![2, 2], centres)
    }

    #[test]
    fn measures_are_those_of_the_formulas() {
        let x = [0.0, 0.5, 1.0, 11.0];
        let codes = Codes { sizes: vec![2, 2], rows: vec![0, 0, 0, 0, 0, 1, 1, 1] };
        let quality = Quality::of(&codes, Rows::new(&x, 1), Some(&by_hand()), 1);
        // Two of four share 0 0. They stand for 0, 0, 1, 11; the mean is 3.125, and only the second is not met.
        assert_eq!((quality.items, quality.collisions, quality.largest_group), (4, 0.5, 2));
        let spread: f64 = [3.125f64, 2.625, 2.125, 7.875].iter().map(|v| v * v).sum();
        assert!((quality.reconstruction.unwrap() - 0.25 / spread).abs() < 1e-9);
        // All others are among the ten nearest, with what codes stand for too.
        assert_eq!(quality.neighbours, Some(1.0));
        let [first, second] = &quality.levels[..] else { panic!("{quality:?}") };
        // Shares ¾ and ¼: 0.811 bits. Loads 1 and 3: (−1 · 1 + 1 · 3) / (2 · 4).
        let entropy = -(0.75f64 * 0.75f64.log2() + 0.25 * 0.25f64.log2());
        assert_eq!((first.codes, first.used, first.prefixes), (2, 1.0, 2));
        assert!((first.entropy - entropy).abs() < 1e-12 && (first.perplexity - entropy.exp2()).abs() < 1e-12);
        assert!((first.gini - 0.25).abs() < 1e-12);
        // Of three others, each of the first three items finds two with its first code, the last finds none.
        assert!((first.shared - 0.5).abs() < 1e-12);
        // Codes 0 and 1 twice each: one bit. Beginnings 00, 01, 11 with 2, 1, 1 items: (−2 + 0 + 4) / (3 · 4).
        assert_eq!((second.entropy, second.perplexity, second.prefixes), (1.0, 2.0, 3));
        assert!((second.gini - 1.0 / 6.0).abs() < 1e-12);
        // The first two items find each other among three: ⅓ each, of four items.
        assert!((second.shared - 1.0 / 6.0).abs() < 1e-12);
    }

    #[test]
    fn a_code_that_only_numbers_items_hides_no_collision() {
        let x = [0.0, 0.5, 1.0, 11.0];
        let rows = vec![0, 0, 0, 0, 0, 1, 0, 1, 0, 1, 1, 0];
        let codes = Codes { sizes: vec![2, 2, 16], rows };
        let quality = Quality::of(&codes, Rows::new(&x, 1), Some(&by_hand()), 1);
        assert_eq!((quality.collisions, quality.largest_group, quality.levels.len()), (0.5, 2, 3));
        let alone = Quality::of(&codes, Rows::new(&x, 1), None, 1);
        assert_eq!((alone.collisions, alone.largest_group), (0.0, 1));
        assert_eq!((alone.reconstruction, alone.neighbours), (None, None));
        let text = serde_json::to_string(&quality).unwrap();
        assert_eq!(serde_json::from_str::<Quality>(&text).unwrap().levels, quality.levels);
    }

    #[test]
    fn neighbours_are_the_nearest_others() {
        let mut rng = Rng::new(4);
        let data: Vec<f32> = (0..5000 * 3).map(|_| rng.normal() as f32).collect();
        let x = Rows::new(&data, 3);
        let asked = [0, 77, 4999];
        for (&i, near) in asked.iter().zip(nearest(x, &asked)) {
            let far = |j: usize| x.row(i).iter().zip(x.row(j)).map(|(a, b)| (a - b) * (a - b)).sum::<f32>();
            let mut all: Vec<f32> = (0..5000).filter(|&j| j != i).map(far).collect();
            all.sort_by(f32::total_cmp);
            let mut found: Vec<f32> = near.iter().map(|&j| far(j)).collect();
            found.sort_by(f32::total_cmp);
            assert!(near.len() == NEAREST && !near.contains(&i));
            assert!(found.iter().zip(&all).all(|(a, b)| (a - b).abs() < 1e-4), "{found:?} {:?}", &all[..10]);
        }
    }

    #[test]
    fn nothing_and_evenness_have_plain_values() {
        let none = Quality::of(&Codes { sizes: vec![4], rows: vec![] }, Rows::new(&[], 2), None, 1);
        assert_eq!(
            (none.items, none.collisions, none.levels[0].entropy, none.levels[0].gini),
            (0, 0.0, 0.0, 0.0)
        );
        assert_eq!(gini(vec![3, 3, 3]), 0.0);
        assert!((gini(vec![0, 0, 0, 8]) - 0.75).abs() < 1e-12);
        let x = [1.0, 2.0, 3.0, 4.0];
        let even = Quality::of(&Codes { sizes: vec![4], rows: vec![3, 1, 0, 2] }, Rows::new(&x, 1), None, 1);
        assert_eq!(
            (even.levels[0].entropy, even.levels[0].perplexity, even.levels[0].shared),
            (2.0, 4.0, 0.0)
        );
        let one = Quality::of(&Codes { sizes: vec![4], rows: vec![3] }, Rows::new(&x[..1], 1), None, 1);
        assert_eq!((one.levels[0].used, one.levels[0].perplexity), (0.25, 1.0));
    }
}

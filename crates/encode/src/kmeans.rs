//! k-means: centres of many vectors, by Lloyd's rounds from centres far apart.
//!
//! c(x) = argmin_k |x − c_k|² = argmax_k (x · c_k − ½ |c_k|²), then c_k ← the mean of what is nearest to it.
//!
//! Shapes: x (n × d), c (k × d). Cost: 2 n k d a round, as one product for each tile of vectors; memory a tile of scores, and
//! 32 × k × d numbers for the sums, which are added in an order that no thread count changes.
//! Sources: Lloyd, "Least squares quantization in PCM", IEEE Transactions on Information Theory, 1982; the start is k-means++
//! (Arthur, Vassilvitskii, SODA 2007) with a few candidates for each centre. A centre that lost everything moves to the vector
//! that is farthest from its own.

use crate::rows::Rows;
use crate::{EncodeError, require};
use rayon::prelude::*;
use sommelier_core::{FitContext, Rng};
use sommelier_nn::kernel::{self, Layout};

/// How centres are found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KMeans {
    pub centres: usize,
    /// Rounds, at most.
    pub rounds: usize,
    /// Vectors looked at, at most, for each centre: more hardly move it.
    pub each: usize,
}

impl KMeans {
    pub fn new(centres: usize) -> KMeans {
        KMeans { centres, rounds: 25, each: 256 }
    }
}

/// Vectors of one tile of scores.
const TILE: usize = 128;
/// Parts into which the vectors are cut for their sums.
const PARTS: usize = 32;
/// A round that takes less than this share off the squared distances is the last.
const ENOUGH: f64 = 1e-4;

/// Fitted centres.
#[derive(Debug, Clone, PartialEq)]
pub struct Centres {
    pub dim: usize,
    /// k × dim
    pub rows: Vec<f32>,
    /// −½ |c|² of each.
    offsets: Vec<f32>,
}

impl Centres {
    pub fn new(rows: Vec<f32>, dim: usize) -> Centres {
        let offsets = Rows::new(&rows, dim).iter().map(|c| -0.5 * kernel::dot(c, c)).collect();
        Centres { dim, rows, offsets }
    }

    pub fn len(&self) -> usize {
        self.offsets.len()
    }

    pub fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    pub fn row(&self, k: usize) -> &[f32] {
        &self.rows[k * self.dim..][..self.dim]
    }

    /// `x · c − ½ |c|²` for every vector and centre, into `out` (n × k), on the calling thread: the largest of a row is the
    /// nearest centre, and |x|² less twice a score is a squared distance.
    pub fn scores(&self, x: Rows, out: &mut [f32]) {
        assert_eq!(x.dim, self.dim, "vectors have {} numbers, centres {}", x.dim, self.dim);
        let (n, k) = (x.len(), self.len());
        out[..n * k].chunks_exact_mut(k.max(1)).for_each(|row| row.copy_from_slice(&self.offsets));
        let at = Layout::rows_of(self.dim);
        let out = (&mut out[..n * k], Layout::rows_of(k));
        kernel::gemm((n, k, self.dim), 1.0, (x.data, at), (&self.rows, at.transposed()), 1.0, out);
    }

    /// The nearest centre of one vector, on the calling thread.
    pub fn nearest_of(&self, x: &[f32]) -> u32 {
        let mut scores = vec![0f32; self.len()];
        self.scores(Rows::new(x, self.dim), &mut scores);
        largest(&scores) as u32
    }

    /// The nearest centre of each vector, the lower one where two are as near, with its squared distance.
    pub fn nearest(&self, x: Rows) -> Vec<(u32, f32)> {
        let k = self.len();
        let of_tile = |scores: &mut Vec<f32>, tile: &[f32]| {
            let x = Rows::new(tile, self.dim);
            self.scores(x, scores);
            let best = |(x, scores): (&[f32], &[f32])| {
                let top = largest(scores);
                (top as u32, (kernel::dot(x, x) - 2.0 * scores[top]).max(0.0))
            };
            x.iter().zip(scores.chunks_exact(k)).map(best).collect::<Vec<_>>()
        };
        x.data
            .par_chunks(TILE * self.dim)
            .map_init(|| vec![0f32; TILE * k], of_tile)
            .collect::<Vec<_>>()
            .concat()
    }
}

/// Place of the largest number, the first of equal ones; 0 where all are NaN.
pub(crate) fn largest(scores: &[f32]) -> usize {
    // First the value, which vectorises, then its place.
    let top = kernel::max(scores);
    scores.iter().position(|&s| s == top).unwrap_or(0)
}

impl KMeans {
    /// Centres of `x`, on the current rayon pool. The same vectors and seed give the same centres, on any number of threads.
    pub fn fit(&self, x: Rows, rng: &mut Rng, ctx: &FitContext) -> Result<Centres, EncodeError> {
        require("centres", self.centres as f64, self.centres > 0, "at least 1")?;
        x.check()?;
        let sample = x.sample(self.centres.saturating_mul(self.each.max(1)), rng);
        let x = Rows::new(&sample, x.dim);
        let mut centres = Centres::new(self.start(x, rng), x.dim);
        let mut before = f64::INFINITY;
        for _ in 0..self.rounds {
            ctx.cancel.check()?;
            let nearest = centres.nearest(x);
            let far: f64 = nearest.iter().map(|&(_, d)| f64::from(d)).sum();
            centres = Centres::new(moved(x, &nearest, &centres), x.dim);
            if far >= before * (1.0 - ENOUGH) {
                break;
            }
            before = far;
        }
        Ok(centres)
    }

    /// k-means++: each next centre is drawn by its squared distance from those there are, the best of a few draws.
    fn start(&self, x: Rows, rng: &mut Rng) -> Vec<f32> {
        /// More are not looked at for the start.
        const EACH: usize = 16;
        let some = x.sample(self.centres * EACH, rng);
        let x = Rows::new(&some, x.dim);
        let tries = 2 + self.centres.ilog2() as usize / 2;
        let mut rows = x.row(rng.below(x.len())).to_vec();
        let norms: Vec<f32> = x.iter().map(|x| kernel::dot(x, x)).collect();
        let mut distances = vec![f32::INFINITY; x.len()];
        lower(&mut distances, x, &norms, &rows);
        while rows.len() < self.centres * x.dim {
            let mut sum = 0.0;
            let cumulative: Vec<f64> = distances
                .iter()
                .map(|&d| {
                    sum += f64::from(d);
                    sum
                })
                .collect();
            let draw = |rng: &mut Rng| {
                let at = rng.unit() * sum;
                cumulative.partition_point(|&c| c <= at).min(x.len() - 1)
            };
            // Nothing is left that is not a centre: the rest are repeats.
            let tries = if sum > 0.0 { tries } else { 1 };
            let candidates: Vec<usize> = (0..tries).map(|_| draw(rng)).collect();
            let lowered = |&i: &usize| {
                let mut distances = distances.clone();
                lower(&mut distances, x, &norms, x.row(i));
                let sum: f64 = distances.iter().map(|&d| f64::from(d)).sum();
                (sum, distances, i)
            };
            let all: Vec<_> = candidates.par_iter().map(lowered).collect();
            let best = all.into_iter().reduce(|a, b| if b.0 < a.0 { b } else { a });
            let Some((_, lowered, i)) = best else { break };
            distances = lowered;
            rows.extend_from_slice(x.row(i));
        }
        rows
    }
}

/// Squared distances of all vectors from a centre, where lower than those known.
fn lower(distances: &mut [f32], x: Rows, norms: &[f32], centre: &[f32]) {
    let own = kernel::dot(centre, centre);
    for ((d, x), norm) in distances.iter_mut().zip(x.iter()).zip(norms) {
        *d = d.min((norm - 2.0 * kernel::dot(x, centre) + own).max(0.0));
    }
}

/// Each centre as the mean of what is nearest to it; one without any goes to the farthest vectors.
fn moved(x: Rows, nearest: &[(u32, f32)], centres: &Centres) -> Vec<f32> {
    let (k, dim) = (centres.len(), x.dim);
    let each = x.len().div_ceil(PARTS).max(1);
    let part = |(x, nearest): (&[f32], &[(u32, f32)])| {
        let (mut sums, mut counts) = (vec![0f32; k * dim], vec![0u32; k]);
        for (x, &(c, _)) in x.chunks_exact(dim).zip(nearest) {
            kernel::axpy(1.0, x, &mut sums[c as usize * dim..][..dim]);
            counts[c as usize] += 1;
        }
        (sums, counts)
    };
    let parts: Vec<_> = x.data.par_chunks(each * dim).zip(nearest.par_chunks(each)).map(part).collect();
    let (mut rows, mut counts) = (vec![0f32; k * dim], vec![0u32; k]);
    for (sums, n) in parts {
        kernel::axpy(1.0, &sums, &mut rows);
        counts.iter_mut().zip(n).for_each(|(a, b)| *a += b);
    }
    let mut farthest: Vec<usize> = Vec::new();
    if counts.contains(&0) {
        farthest = (0..x.len()).collect();
        farthest.sort_by(|&a, &b| nearest[b].1.total_cmp(&nearest[a].1).then(a.cmp(&b)));
    }
    let mut farthest = farthest.into_iter().filter(|&i| nearest[i].1 > 0.0);
    for (c, &n) in counts.iter().enumerate() {
        let row = &mut rows[c * dim..][..dim];
        if n > 0 {
            kernel::scale(row, 1.0 / n as f32);
        } else {
            row.copy_from_slice(farthest.next().map_or(centres.row(c), |i| x.row(i)));
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sommelier_core::Rng;

    fn drawn(n: usize, dim: usize, groups: usize, seed: u64) -> Vec<f32> {
        let mut rng = Rng::new(seed);
        let centres: Vec<f32> = (0..groups * dim).map(|_| 10.0 * rng.normal() as f32).collect();
        (0..n)
            .flat_map(|i| centres[i % groups * dim..][..dim].to_vec())
            .map(|c| c + 0.1 * rng.normal() as f32)
            .collect()
    }

    #[test]
    fn groups_that_lie_apart_are_found() {
        let x = drawn(900, 7, 9, 1);
        let x = Rows::new(&x, 7);
        let centres = KMeans::new(9).fit(x, &mut Rng::new(2), &FitContext::quiet(1)).unwrap();
        let nearest = centres.nearest(x);
        let mut found: Vec<u32> = (0..9).map(|g| nearest[g].0).collect();
        assert!((0..900).all(|i| nearest[i].0 == found[i % 9] && nearest[i].1 < 1.0));
        found.sort_unstable();
        assert_eq!(found, (0..9).collect::<Vec<u32>>());
    }

    #[test]
    fn rounds_never_make_it_worse_and_threads_change_nothing() {
        let x = drawn(3000, 12, 40, 3);
        let x = Rows::new(&x, 12);
        let far = |rounds: usize, threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let config = KMeans { rounds, each: usize::MAX, ..KMeans::new(24) };
            let centres = pool.install(|| config.fit(x, &mut Rng::new(2), &FitContext::quiet(1))).unwrap();
            let far: f64 = centres.nearest(x).iter().map(|&(_, d)| f64::from(d)).sum();
            (centres, far)
        };
        let distances: Vec<f64> = (0..6).map(|rounds| far(rounds, 2).1).collect();
        assert!(distances.is_sorted_by(|a, b| *b <= a * 1.000_01), "{distances:?}");
        assert_eq!(far(6, 1).0, far(6, 3).0);
    }

    #[test]
    fn more_centres_than_vectors_are_repeats() {
        let x = [1.0, 2.0, 1.0, 2.0, 5.0, 5.0];
        let x = Rows::new(&x, 2);
        let centres = KMeans::new(8).fit(x, &mut Rng::new(2), &FitContext::quiet(1)).unwrap();
        assert_eq!(centres.len(), 8);
        assert!(centres.nearest(x).iter().all(|&(_, d)| d == 0.0));
    }

    #[test]
    fn what_cannot_be_is_told() {
        let fit = |x: &[f32], k| {
            KMeans::new(k)
                .fit(Rows::new(x, 2), &mut Rng::new(1), &FitContext::quiet(1))
                .unwrap_err()
                .to_string()
        };
        assert!(fit(&[], 2).contains("no vector"));
        assert!(fit(&[1.0, f32::NAN], 2).contains("NaN"));
        assert!(fit(&[1.0, 1.0], 0).contains("at least 1, received 0"));
        let ctx = FitContext::quiet(1);
        ctx.cancel.cancel();
        let x = drawn(50, 2, 3, 1);
        let stopped = KMeans::new(3).fit(Rows::new(&x, 2), &mut Rng::new(1), &ctx);
        assert_eq!(stopped, Err(EncodeError::Stopped(sommelier_core::Stopped)));
    }

    proptest! {
        #[test]
        fn the_nearest_is_the_nearest(n in 0usize..300, k in 1usize..20, dim in 1usize..9, seed: u64) {
            let mut rng = Rng::new(seed);
            let mut numbers = |n: usize| (0..n).map(|_| rng.normal() as f32).collect::<Vec<f32>>();
            let (x, centres) = (numbers(n * dim), Centres::new(numbers(k * dim), dim));
            let found = centres.nearest(Rows::new(&x, dim));
            prop_assert_eq!(found.len(), n);
            for (x, (c, d)) in x.chunks_exact(dim).zip(found) {
                let to = |k: usize| x.iter().zip(centres.row(k)).map(|(a, b)| (a - b) * (a - b)).sum::<f32>();
                let least = (0..k).map(to).fold(f32::INFINITY, f32::min);
                prop_assert!((to(c as usize) - least).abs() < 1e-4 && (d - least).abs() < 1e-4);
            }
        }
    }
}

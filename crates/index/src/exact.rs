//! Exact top-k search over the rows of a matrix, by inner product or cosine: always right, with any filter.
//!
//! Rows lie in order of falling norm, so that a search by inner product may stop at the first row whose norm times the
//! query's (Cauchy and Schwarz) cannot reach the k-th best score. Many queries are answered in tiles of a matrix
//! product whose scores are scanned for the few that pass and thrown away: users × items never exists.
//!
//! A score is always [`kernel::dot`] of query and row, whatever the path; equal scores go by lower index.

use rayon::prelude::*;
use sommelier_core::{Allowed, Candidate, ItemIx};
use sommelier_nn::kernel::{self, Layout};
use std::cmp::Ordering;

/// How a row is compared with the query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    InnerProduct,
    /// Inner product over both norms; 0 where either is 0.
    Cosine,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    #[error("{received} numbers are not a whole number of rows of {dim}; pass rows × dim numbers")]
    Ragged { received: usize, dim: usize },
    #[error("row {row} holds a number that is not finite; leave it out or fit again")]
    NotFinite { row: usize },
}

/// Rows of a fixed length, ready to be searched.
#[derive(Debug, Clone)]
pub struct ExactIndex {
    dim: usize,
    /// Rows by falling norm, ties by index.
    data: Vec<f32>,
    norms: Vec<f32>,
    /// `ids[position]` is the row's index as given, `position_of[index]` the way back.
    ids: Vec<u32>,
    position_of: Vec<u32>,
}

/// Rows scanned between two looks at the stopping rule, for one query.
const STRIDE: usize = 256;
/// Rows and queries of one tile of a batch: its scores fit in the second-level cache.
const TILE_ROWS: usize = 512;
const TILE_QUERIES: usize = 128;

impl ExactIndex {
    /// `data` is rows × `dim`, row-major. A `dim` of 0 makes an index without rows.
    pub fn new(data: &[f32], dim: usize) -> Result<ExactIndex, IndexError> {
        if (dim == 0 && !data.is_empty()) || (dim > 0 && !data.len().is_multiple_of(dim)) {
            return Err(IndexError::Ragged { received: data.len(), dim });
        }
        let rows = data.len().checked_div(dim).unwrap_or(0);
        let row = |r: usize| &data[r * dim..(r + 1) * dim];
        let squares: Vec<f32> = (0..rows).map(|r| kernel::dot(row(r), row(r))).collect();
        if let Some(row) = squares.iter().position(|s| !s.is_finite()) {
            return Err(IndexError::NotFinite { row });
        }
        let mut ids: Vec<u32> = (0..rows as u32).collect();
        ids.sort_by(|&a, &b| squares[b as usize].total_cmp(&squares[a as usize]).then(a.cmp(&b)));
        let mut position_of = vec![0u32; rows];
        let mut sorted = Vec::with_capacity(data.len());
        for (position, &id) in ids.iter().enumerate() {
            position_of[id as usize] = position as u32;
            sorted.extend_from_slice(row(id as usize));
        }
        let norms = ids.iter().map(|&id| squares[id as usize].sqrt()).collect();
        Ok(ExactIndex { dim, data: sorted, norms, ids, position_of })
    }

    pub fn len(&self) -> usize {
        self.ids.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    pub fn dim(&self) -> usize {
        self.dim
    }

    /// The row given as number `index`. Panics if there is none.
    pub fn vector(&self, index: usize) -> &[f32] {
        self.at(self.position_of[index] as usize)
    }

    /// Euclidean norm of row `index`.
    pub fn norm(&self, index: usize) -> f32 {
        self.norms[self.position_of[index] as usize]
    }

    /// All rows in the order they were given.
    pub fn to_rows(&self) -> Vec<f32> {
        (0..self.len()).flat_map(|i| self.vector(i)).copied().collect()
    }

    fn at(&self, position: usize) -> &[f32] {
        &self.data[position * self.dim..(position + 1) * self.dim]
    }

    /// Score of row `index` for `query`; the same bits as [`Self::search`] gives.
    pub fn score(&self, measure: Measure, query: &[f32], index: usize) -> f32 {
        let position = self.position_of[index] as usize;
        finish(measure, kernel::dot(query, self.at(position)), self.norms[position], norm(query))
    }

    /// The best `k` allowed rows for one query of `dim` numbers, best first.
    pub fn search(&self, measure: Measure, query: &[f32], k: usize, allowed: &Allowed) -> Vec<Candidate> {
        let mut best = TopK::new(k.min(self.len()));
        if query.len() != self.dim || k == 0 {
            return best.into_sorted();
        }
        let query_norm = norm(query);
        let mut scores = [0f32; STRIDE];
        let mut passed = Vec::new();
        for start in (0..self.len()).step_by(STRIDE) {
            let end = (start + STRIDE).min(self.len());
            if measure == Measure::InnerProduct && query_norm * self.norms[start] * SLACK < best.threshold() {
                break;
            }
            let scores = &mut scores[..end - start];
            kernel::dot_rows(query, &self.data[start * self.dim..end * self.dim], scores);
            for (score, &row_norm) in scores.iter_mut().zip(&self.norms[start..end]) {
                *score = finish(measure, *score, row_norm, query_norm);
            }
            passed.clear();
            kernel::select_above(scores, best.threshold(), &mut passed);
            for &p in &passed {
                best.offer(scores[p as usize], self.ids[start + p as usize], allowed);
            }
        }
        best.into_sorted()
    }

    /// [`Self::search`] for many queries laid end to end, each with its own filter; the same answers, bit for bit.
    /// Runs on the current rayon pool.
    pub fn search_batch(
        &self,
        measure: Measure,
        queries: &[f32],
        k: usize,
        allowed: &[Allowed],
    ) -> Vec<Vec<Candidate>> {
        if self.dim == 0 || queries.len() != allowed.len() * self.dim {
            return vec![Vec::new(); allowed.len()];
        }
        queries
            .par_chunks(TILE_QUERIES * self.dim)
            .zip(allowed.par_chunks(TILE_QUERIES))
            .flat_map_iter(|(queries, allowed)| self.search_tile(measure, queries, k, allowed))
            .collect()
    }

    /// At most [`TILE_QUERIES`] queries against all rows, a tile of rows at a time. Queries that can stop, do.
    fn search_tile(
        &self,
        measure: Measure,
        queries: &[f32],
        k: usize,
        allowed: &[Allowed],
    ) -> Vec<Vec<Candidate>> {
        let dim = self.dim;
        let query_of = |q: usize| &queries[q * dim..(q + 1) * dim];
        let query_norms: Vec<f32> = (0..allowed.len()).map(|q| norm(query_of(q))).collect();
        let mut best: Vec<TopK> = allowed.iter().map(|_| TopK::new(k.min(self.len()))).collect();
        let mut open: Vec<usize> = (0..allowed.len()).collect();
        let mut packed = queries.to_vec();
        let mut scores = vec![0f32; TILE_QUERIES * TILE_ROWS];
        let mut passed = Vec::new();
        for start in (0..self.len()).step_by(TILE_ROWS) {
            let end = (start + TILE_ROWS).min(self.len());
            let width = end - start;
            if measure == Measure::InnerProduct {
                let before = open.len();
                open.retain(|&q| query_norms[q] * self.norms[start] * SLACK >= best[q].threshold());
                if open.len() < before {
                    packed.clear();
                    for &q in &open {
                        packed.extend_from_slice(query_of(q));
                    }
                }
            }
            if open.is_empty() || k == 0 {
                break;
            }
            let at = Layout::rows_of(dim);
            kernel::gemm(
                (open.len(), width, dim),
                1.0,
                (&packed, at),
                (&self.data[start * dim..end * dim], at.transposed()),
                0.0,
                (&mut scores, Layout::rows_of(width)),
            );
            for (o, &q) in open.iter().enumerate() {
                passed.clear();
                let scores = &scores[o * width..(o + 1) * width];
                let best = &mut best[q];
                self.scan(measure, (query_norms[q], start), scores, best.threshold(), &mut passed);
                for &p in &passed {
                    // The product sums in another order than `dot`: it only nominates, `dot` decides.
                    let position = start + p as usize;
                    let exact = kernel::dot(query_of(q), self.at(position));
                    let score = finish(measure, exact, self.norms[position], query_norms[q]);
                    best.offer(score, self.ids[position], &allowed[q]);
                }
            }
        }
        best.into_iter().map(TopK::into_sorted).collect()
    }

    /// Positions in the tile at `start` whose product might, but for rounding, reach `threshold`.
    fn scan(
        &self,
        measure: Measure,
        (query_norm, start): (f32, usize),
        scores: &[f32],
        threshold: f32,
        passed: &mut Vec<u32>,
    ) {
        if threshold == f32::NEG_INFINITY {
            passed.extend(0..scores.len() as u32);
            return;
        }
        let slip = self.dim as f32 * 4.0 * f32::EPSILON;
        match measure {
            Measure::InnerProduct => {
                let slack = slip * query_norm * self.norms[start] + f32::MIN_POSITIVE;
                kernel::select_above(scores, threshold - slack, passed);
            }
            Measure::Cosine => {
                for (p, &score) in scores.iter().enumerate() {
                    if finish(measure, score, self.norms[start + p], query_norm) >= threshold - slip {
                        passed.push(p as u32);
                    }
                }
            }
        }
    }
}

/// Norms are rounded: a bound is trusted only with this much room.
const SLACK: f32 = 1.0 + 1e-5;

fn norm(v: &[f32]) -> f32 {
    kernel::dot(v, v).sqrt()
}

fn finish(measure: Measure, dot: f32, row_norm: f32, query_norm: f32) -> f32 {
    match measure {
        Measure::InnerProduct => dot,
        Measure::Cosine if row_norm > 0.0 && query_norm > 0.0 => dot / (row_norm * query_norm),
        Measure::Cosine => 0.0,
    }
}

/// The best `k` of what it is offered: a binary heap with the worst on top.
#[derive(Debug, Clone)]
pub struct TopK {
    k: usize,
    heap: Vec<Candidate>,
}

impl TopK {
    pub fn new(k: usize) -> TopK {
        TopK { k, heap: Vec::with_capacity(k.min(4096)) }
    }

    /// A score below this cannot enter any more; one equal to it may, by its index.
    #[inline]
    pub fn threshold(&self) -> f32 {
        if self.heap.len() < self.k {
            f32::NEG_INFINITY
        } else {
            self.heap.first().map_or(f32::INFINITY, |c| c.score)
        }
    }

    /// Takes the item if it is good enough and allowed. The filter is asked last: few candidates get that far.
    #[inline]
    pub fn offer(&mut self, score: f32, item: u32, allowed: &Allowed) {
        let new = Candidate { item: ItemIx(item), score };
        if self.k == 0 || (self.heap.len() == self.k && order(&new, &self.heap[0]) != Ordering::Less) {
            return;
        }
        if !allowed.contains(new.item) {
            return;
        }
        if self.heap.len() < self.k {
            self.heap.push(new);
            let mut child = self.heap.len() - 1;
            while child > 0 && order(&self.heap[child], &self.heap[(child - 1) / 2]) == Ordering::Greater {
                self.heap.swap(child, (child - 1) / 2);
                child = (child - 1) / 2;
            }
        } else {
            self.heap[0] = new;
            self.sink();
        }
    }

    fn sink(&mut self) {
        let mut parent = 0;
        loop {
            let worst = (2 * parent + 1..(2 * parent + 3).min(self.heap.len()))
                .max_by(|&a, &b| order(&self.heap[a], &self.heap[b]));
            match worst {
                Some(child) if order(&self.heap[child], &self.heap[parent]) == Ordering::Greater => {
                    self.heap.swap(child, parent);
                    parent = child;
                }
                _ => return,
            }
        }
    }

    /// Best first.
    pub fn into_sorted(mut self) -> Vec<Candidate> {
        self.heap.sort_unstable_by(order);
        self.heap
    }
}

/// Better is less: higher score, then lower index.
#[allow(clippy::trivially_copy_pass_by_ref)] // Sorting hands out references.
fn order(a: &Candidate, b: &Candidate) -> Ordering {
    b.score.total_cmp(&a.score).then(a.item.cmp(&b.item))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sommelier_core::{BitSet, Rng};
    use std::sync::Arc;

    fn naive(
        index: &ExactIndex,
        measure: Measure,
        query: &[f32],
        k: usize,
        allowed: &Allowed,
    ) -> Vec<Candidate> {
        let mut all: Vec<Candidate> = (0..index.len())
            .map(|i| Candidate { item: ItemIx(i as u32), score: index.score(measure, query, i) })
            .filter(|c| allowed.contains(c.item))
            .collect();
        all.sort_by(order);
        all.truncate(k);
        all
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn equals_a_full_sort(
            rows in 0usize..1500, dim in 1usize..40, k in 0usize..30, batch in 1usize..150, skew in 0f32..3.0,
            coarse: bool, cosine: bool, seed: u64,
        ) {
            let mut rng = Rng::new(seed);
            let mut data = Vec::new();
            for _ in 0..rows {
                let size = (skew * rng.normal() as f32).exp();
                // Coarse numbers make many equal scores.
                data.extend((0..dim).map(|_| if coarse { rng.below(3) as f32 - 1.0 } else { size * rng.normal() as f32 }));
            }
            let index = ExactIndex::new(&data, dim).unwrap();
            let measure = if cosine { Measure::Cosine } else { Measure::InnerProduct };
            let queries: Vec<f32> =
                (0..batch * dim).map(|_| if coarse { rng.below(3) as f32 - 1.0 } else { rng.normal() as f32 }).collect();
            let mut live = BitSet::all(rows);
            (0..rows / 3).for_each(|_| live.remove(rng.below(rows)));
            let live = Arc::new(live);
            let allowed: Vec<Allowed> = (0..batch)
                .map(|_| Allowed::only(live.clone()).without((0..5).map(|_| ItemIx(rng.below(rows.max(1)) as u32))))
                .collect();
            let answers = index.search_batch(measure, &queries, k, &allowed);
            prop_assert_eq!(answers.len(), batch);
            for q in 0..batch {
                let query = &queries[q * dim..(q + 1) * dim];
                let one = index.search(measure, query, k, &allowed[q]);
                prop_assert_eq!(&one, &naive(&index, measure, query, k, &allowed[q]));
                prop_assert_eq!(&answers[q], &one);
            }
        }
    }

    #[test]
    fn refuses_bad_shapes() {
        assert!(matches!(ExactIndex::new(&[1.0; 5], 2), Err(IndexError::Ragged { .. })));
        assert!(matches!(ExactIndex::new(&[1.0, f32::NAN], 1), Err(IndexError::NotFinite { row: 1 })));
        let index = ExactIndex::new(&[1.0, 2.0, 3.0], 1).unwrap();
        assert_eq!(index.to_rows(), [1.0, 2.0, 3.0]);
        assert!(index.search(Measure::InnerProduct, &[1.0, 2.0], 3, &Allowed::everything()).is_empty());
        assert!(ExactIndex::new(&[], 0).unwrap().is_empty());
    }
}

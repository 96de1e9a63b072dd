//! A sparse item–item matrix as a model: a score is what the items of the profile add to each other item.

use crate::rows::{put_csr, take_csr};
use crate::{LoadError, Weights};
use rayon::prelude::*;
use sommelier_core::{Allowed, Candidate, Csr, ItemIx, ResolvedQuery};
use sommelier_index::exact::TopK;

/// score(j) = Σ_i x_i W_ij over the items i of the profile.
#[derive(Debug, Clone)]
pub(crate) struct ItemItem {
    /// Row i: what having item i adds to each item j.
    weights: Csr,
    /// Whether x_i is the profile's weight, or 1.
    weighted: bool,
}

impl ItemItem {
    pub fn new(weights: Csr, weighted: bool) -> ItemItem {
        debug_assert_eq!(weights.rows(), weights.cols, "items × items");
        ItemItem { weights, weighted }
    }

    pub fn items(&self) -> usize {
        self.weights.cols
    }

    #[cfg(test)]
    pub fn matrix(&self) -> &Csr {
        &self.weights
    }

    /// The known items of the profile and what each counts.
    fn profile(&self, q: &ResolvedQuery) -> Vec<(usize, f32)> {
        known_profile(q, self.items(), self.weighted)
    }

    pub fn score(&self, q: &ResolvedQuery, items: &[ItemIx], out: &mut [f32]) {
        out.fill(0.0);
        for (i, x) in self.profile(q) {
            let (cols, values) = self.weights.row(i);
            for (out, item) in out.iter_mut().zip(items) {
                if let Ok(at) = cols.binary_search(&item.0) {
                    *out += x * values[at];
                }
            }
        }
    }

    /// Only items that some item of the profile points at.
    pub fn retrieve(&self, q: &ResolvedQuery, k: usize, allowed: &Allowed) -> Vec<Candidate> {
        self.retrieve_with(q, k, allowed, &mut Scratch::new(self.items()))
    }

    pub fn retrieve_batch(
        &self,
        queries: &[ResolvedQuery],
        k: usize,
        allowed: &[Allowed],
    ) -> Vec<Vec<Candidate>> {
        queries
            .par_iter()
            .zip(allowed)
            .map_init(|| Scratch::new(self.items()), |scratch, (q, a)| self.retrieve_with(q, k, a, scratch))
            .collect()
    }

    fn retrieve_with(
        &self,
        q: &ResolvedQuery,
        k: usize,
        allowed: &Allowed,
        scratch: &mut Scratch,
    ) -> Vec<Candidate> {
        for (i, x) in self.profile(q) {
            let (cols, values) = self.weights.row(i);
            for (&j, &w) in cols.iter().zip(values) {
                scratch.add(j, x * w);
            }
        }
        let mut best = TopK::new(k.min(self.items()));
        scratch.drain(|j, score| best.offer(score, j, allowed));
        best.into_sorted()
    }

    /// What each item of the profile adds to `item`'s score, largest first; exact: all of them sum to the score.
    pub fn contributions(&self, q: &ResolvedQuery, item: ItemIx, limit: usize) -> Vec<(ItemIx, f32)> {
        let added = self.profile(q).into_iter().filter_map(|(i, x)| {
            let (cols, values) = self.weights.row(i);
            cols.binary_search(&item.0).ok().map(|at| (ItemIx(i as u32), x * values[at]))
        });
        largest(added.collect(), limit)
    }

    pub fn put(&self, weights: &mut Weights) {
        put_csr(weights, &self.weights);
    }

    pub fn take(weights: &Weights, weighted: bool) -> Result<ItemItem, LoadError> {
        Ok(ItemItem::new(take_csr(weights, None)?, weighted))
    }
}

/// The items of the query's profile that are below `items`, each with its weight, or 1 where weights do not count.
pub(crate) fn known_profile(q: &ResolvedQuery, items: usize, weighted: bool) -> Vec<(usize, f32)> {
    let known = q.profile().into_iter().filter(|(item, w)| item.ix() < items && w.is_finite());
    known.map(|(item, w)| (item.ix(), if weighted { w } else { 1.0 })).collect()
}

/// Largest share first, equal ones by index, at most `limit`; zeros left out.
pub(crate) fn largest(mut shares: Vec<(ItemIx, f32)>, limit: usize) -> Vec<(ItemIx, f32)> {
    shares.retain(|s| s.1 != 0.0);
    shares.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    shares.truncate(limit);
    shares
}

/// What a score loses when one of some steps is left out, shares of the same item together; `score` is told which, or none.
pub(crate) fn left_out(
    steps: &[ItemIx],
    limit: usize,
    score: impl Fn(Option<usize>) -> f32,
) -> Vec<(ItemIx, f32)> {
    let whole = score(None);
    let mut shares: Vec<(ItemIx, f32)> = Vec::new();
    for (at, &gone) in steps.iter().enumerate() {
        let share = whole - score(Some(at));
        match shares.iter_mut().find(|s| s.0 == gone) {
            Some(s) => s.1 += share,
            None => shares.push((gone, share)),
        }
    }
    largest(shares, limit)
}

/// A dense row of sums that knows which places were touched, so that clearing it costs only those.
pub(crate) struct Scratch {
    sum: Vec<f32>,
    seen: Vec<bool>,
    touched: Vec<u32>,
}

impl Scratch {
    pub fn new(items: usize) -> Scratch {
        Scratch { sum: vec![0.0; items], seen: vec![false; items], touched: Vec::new() }
    }

    pub fn len(&self) -> usize {
        self.sum.len()
    }

    /// The sum at `at`; 0 where nothing was added and past the end.
    pub fn get(&self, at: usize) -> f32 {
        self.sum.get(at).copied().unwrap_or(0.0)
    }

    #[inline]
    pub fn add(&mut self, at: u32, value: f32) {
        let ix = at as usize;
        self.sum[ix] += value;
        if !self.seen[ix] {
            self.seen[ix] = true;
            self.touched.push(at);
        }
    }

    /// Hands over every touched place with its sum, and is empty afterwards.
    pub fn drain(&mut self, mut each: impl FnMut(u32, f32)) {
        for &at in &self.touched {
            let ix = at as usize;
            each(at, self.sum[ix]);
            self.sum[ix] = 0.0;
            self.seen[ix] = false;
        }
        self.touched.clear();
    }
}

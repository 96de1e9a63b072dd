//! UserKNN: what people with a similar history chose; a score is the sum of their likeness.
//!
//! score(i) = Σ_v sim(x, v) r_vi over the `top_k` people v nearest to the history x (similarities: see `similarity.rs`,
//! with people as rows).
//!
//! Shapes: R (users × items) sparse, kept both ways round; x (items); scores (items).
//! Cost: O(|R|) to fit; a query goes through everybody who shares an item with the history.
//! Source: Resnick, Iacovou, Suchak, Bergstrom, Riedl, "GroupLens: an open architecture for collaborative filtering of
//! netnews", CSCW 1994; for top-n lists of implicit feedback as in Ferrari Dacrema et al., RecSys 2019, arXiv:1907.06902.
//! Departures: the history comes with the query, so a person never seen before has neighbours too.

use crate::item_item::{Scratch, known_profile, largest};
use crate::model::plan;
use crate::rows::{put_histories, take_histories};
use crate::similarity::{Columns, Measure, Similarity, Weighting};
use crate::{FitError, LoadError, Model, Weights};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sommelier_core::{Allowed, Candidate, Csr, Explain, FitContext, ItemIx, ResolvedQuery, Retrieve, Score};
use sommelier_data::Snapshot;
use sommelier_index::exact::TopK;
use std::cell::RefCell;

/// Defaults are plain cosine, tried on amazon-beauty (leave-one-out).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UserKnnConfig {
    pub similarity: Measure,
    pub weighting: Weighting,
    /// How many people are listened to.
    pub top_k: usize,
    /// Added to the denominator of a similarity.
    pub shrink: f32,
    /// Count the weights of events; false: each pair counts 1.
    pub weighted: bool,
    /// BM25's saturation and length correction.
    pub k1: f32,
    pub b: f32,
    /// Tversky's weights.
    pub alpha: f32,
    pub beta: f32,
}

impl Default for UserKnnConfig {
    fn default() -> UserKnnConfig {
        UserKnnConfig {
            similarity: Measure::Cosine,
            weighting: Weighting::None,
            top_k: 200,
            shrink: 0.0,
            weighted: true,
            k1: 1.2,
            b: 0.75,
            alpha: 1.0,
            beta: 1.0,
        }
    }
}

#[derive(Debug, Clone)]
pub struct UserKnn {
    config: UserKnnConfig,
    /// users × items, as it happened.
    chosen: Csr,
    /// items × users, as the similarity sees it.
    seen_by: Csr,
    /// Size of each user's row, as the similarity measures it.
    sizes: Vec<f32>,
    columns: Columns,
}

impl UserKnnConfig {
    pub fn fit(&self, train: &Snapshot, ctx: &mut FitContext) -> Result<UserKnn, FitError> {
        self.options().check()?;
        let mut chosen = train.interactions().by_user.clone();
        if chosen.nnz() == 0 {
            return Err(FitError::NoData("user_knn needs positive interactions".into()));
        }
        plan(
            ctx,
            24 * chosen.nnz() as u64 + 24 * chosen.rows() as u64,
            "the histories of all users, three times",
            "drop old events",
        )?;
        ctx.cancel.check()?;
        if !self.weighted {
            chosen.value.fill(1.0);
        }
        self.with(chosen)
    }

    pub fn load(&self, weights: &Weights) -> Result<UserKnn, LoadError> {
        let chosen = take_histories(weights)?;
        self.with(chosen).map_err(|e| LoadError::Other(e.to_string()))
    }

    fn with(&self, chosen: Csr) -> Result<UserKnn, FitError> {
        let options = self.options();
        let (rows, columns) = options.prepare(&chosen)?;
        let sizes = (0..rows.rows()).map(|u| options.size(rows.row(u).1)).collect();
        Ok(UserKnn { config: self.clone(), seen_by: rows.transpose(), chosen, sizes, columns })
    }

    fn options(&self) -> Similarity {
        Similarity {
            weighting: self.weighting,
            measure: self.similarity,
            top_k: self.top_k,
            shrink: self.shrink,
            k1: self.k1,
            b: self.b,
            alpha: self.alpha,
            beta: self.beta,
        }
    }
}

/// The history as the similarity sees it, and the people nearest to it.
struct Neighbourhood {
    index: Vec<u32>,
    values: Vec<f32>,
    /// User, similarity and inner product; by user.
    near: Vec<(u32, f32, f32)>,
}

#[derive(Default)]
struct Buffers {
    users: Option<Scratch>,
    items: Option<Scratch>,
}

thread_local! {
    /// Two rows of sums, kept between the queries of a thread.
    static BUFFERS: RefCell<Buffers> = RefCell::default();
}

impl UserKnn {
    /// Runs `work` on empty rows of sums for users and for items.
    fn with_buffers<T>(&self, work: impl FnOnce(&mut Scratch, &mut Scratch) -> T) -> T {
        // Taken out meanwhile: other work on this thread then makes its own.
        let mut buffers = BUFFERS.take();
        let fitting = |slot: Option<Scratch>, len: usize| {
            slot.filter(|s| s.len() == len).unwrap_or_else(|| Scratch::new(len))
        };
        let mut users = fitting(buffers.users.take(), self.chosen.rows());
        let mut items = fitting(buffers.items.take(), self.chosen.cols);
        let out = work(&mut users, &mut items);
        BUFFERS.set(Buffers { users: Some(users), items: Some(items) });
        out
    }

    fn neighbourhood(&self, q: &ResolvedQuery, sums: &mut Scratch) -> Neighbourhood {
        let options = self.config.options();
        let profile = known_profile(q, self.items(), self.config.weighted);
        let index: Vec<u32> = profile.iter().map(|&(j, _)| j as u32).collect();
        let mut values: Vec<f32> = profile.iter().map(|&(_, x)| x).collect();
        options.prepare_row(&self.columns, &index, &mut values);
        for (&j, &x) in index.iter().zip(&values) {
            let (users, theirs) = self.seen_by.row(j as usize);
            for (&v, &y) in users.iter().zip(theirs) {
                sums.add(v, x * y);
            }
        }
        let size = options.size(&values);
        let mut best = TopK::new(self.config.top_k.min(self.chosen.rows()));
        let mut products = Vec::new();
        sums.drain(|v, d| {
            let similarity = options.of(d, size, self.sizes[v as usize]);
            // One's own row in the data says nothing new.
            if similarity > 0.0 && similarity.is_finite() && q.user.is_none_or(|me| me.0 != v) {
                best.offer(similarity, v, &Allowed::everything());
                products.push((v, d));
            }
        });
        products.sort_unstable_by_key(|p| p.0);
        let product = |v: u32| products.binary_search_by_key(&v, |p| p.0).map_or(0.0, |at| products[at].1);
        let mut near: Vec<(u32, f32, f32)> =
            best.into_sorted().into_iter().map(|c| (c.item.0, c.score, product(c.item.0))).collect();
        near.sort_unstable_by_key(|n| n.0);
        Neighbourhood { index, values, near }
    }

    /// Adds up every score of the query.
    fn spread(&self, q: &ResolvedQuery, users: &mut Scratch, items: &mut Scratch) {
        for (v, similarity, _) in self.neighbourhood(q, users).near {
            let (theirs, weights) = self.chosen.row(v as usize);
            for (&i, &r) in theirs.iter().zip(weights) {
                items.add(i, similarity * r);
            }
        }
    }
}

impl Score for UserKnn {
    fn items(&self) -> usize {
        self.chosen.cols
    }

    fn score(&self, q: &ResolvedQuery, items: &[ItemIx], out: &mut [f32]) {
        self.with_buffers(|users, sums| {
            self.spread(q, users, sums);
            for (out, item) in out.iter_mut().zip(items) {
                *out = sums.get(item.ix());
            }
            sums.drain(|_, _| {});
        });
    }
}

impl Retrieve for UserKnn {
    /// Only what somebody in the neighbourhood chose.
    fn retrieve(&self, q: &ResolvedQuery, k: usize, allowed: &Allowed) -> Vec<Candidate> {
        self.with_buffers(|users, sums| {
            self.spread(q, users, sums);
            let mut best = TopK::new(k.min(self.items()));
            sums.drain(|i, score| best.offer(score, i, allowed));
            best.into_sorted()
        })
    }

    fn retrieve_batch(
        &self,
        queries: &[ResolvedQuery],
        k: usize,
        allowed: &[Allowed],
    ) -> Vec<Vec<Candidate>> {
        queries.par_iter().zip(allowed).map(|(q, a)| self.retrieve(q, k, a)).collect()
    }
}

impl Explain for UserKnn {
    /// Exact: each neighbour's part of the score is shared among the items in common as the inner product is.
    fn contributions(&self, q: &ResolvedQuery, item: ItemIx, limit: usize) -> Vec<(ItemIx, f32)> {
        if item.ix() >= self.items() {
            return Vec::new();
        }
        let hood = self.with_buffers(|users, _| self.neighbourhood(q, users));
        let mut parts = vec![0f32; hood.index.len()];
        let rated = |v: u32| {
            let (items, weights) = self.chosen.row(v as usize);
            items.binary_search(&item.0).ok().map(|at| weights[at])
        };
        for (v, similarity, product) in hood.near {
            let Some(r) = rated(v) else { continue };
            for (part, (&j, &x)) in parts.iter_mut().zip(hood.index.iter().zip(&hood.values)) {
                let (users, theirs) = self.seen_by.row(j as usize);
                if let Ok(at) = users.binary_search(&v) {
                    *part += similarity * r * x * theirs[at] / product;
                }
            }
        }
        largest(hood.index.into_iter().map(ItemIx).zip(parts).collect(), limit)
    }
}

impl Model for UserKnn {
    fn kind(&self) -> &'static str {
        "user_knn"
    }

    /// The histories; everything else follows from them.
    fn weights(&self) -> Weights {
        let mut weights = Weights::default();
        put_histories(&mut weights, &self.chosen);
        weights
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand: b shares one of two items with a, so cos = 1/2; c shares nothing.
    #[test]
    fn neighbours_by_hand() {
        let train = Snapshot::from_pairs(
            "t",
            &[("a", "x"), ("a", "y"), ("b", "x"), ("b", "z"), ("c", "w"), ("c", "z")],
        );
        let model = UserKnnConfig::default().fit(&train, &mut FitContext::quiet(0)).unwrap();
        let stranger = ResolvedQuery::from_items([ItemIx(0), ItemIx(1)]);
        let mut out = [9.0; 4];
        model.score(&stranger, &[ItemIx(0), ItemIx(1), ItemIx(2), ItemIx(3)], &mut out);
        // Items in order of first sight: x, y, z, w. a is a neighbour with likeness 1.
        assert!(out.iter().zip([1.5, 1.0, 0.5, 0.0]).all(|(a, b)| (a - b).abs() < 1e-6), "{out:?}");
        let mut as_a = [9.0; 4];
        model.score(&train.query(0), &[ItemIx(0), ItemIx(1), ItemIx(2), ItemIx(3)], &mut as_a);
        assert!(as_a.iter().zip([0.5, 0.0, 0.5, 0.0]).all(|(a, b)| (a - b).abs() < 1e-6), "{as_a:?}");
    }
}

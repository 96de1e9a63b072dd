//! The seams: what a model, an index or a rule can do for a query. Small on purpose.

use crate::{Allowed, Event, ItemIx, ResolvedQuery};

/// An item on its way into a slate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    pub item: ItemIx,
    pub score: f32,
}

pub trait Score: Send + Sync {
    /// How many items the model knows; indices below this are valid.
    fn items(&self) -> usize;

    /// Writes the score of `items[j]` to `out[j]`. Every score is finite.
    fn score(&self, q: &ResolvedQuery, items: &[ItemIx], out: &mut [f32]);

    /// Whether a score is the weight to expect of the user's event with the item, such as a rating, and not only an
    /// order.
    fn rates(&self) -> bool {
        false
    }
}

pub trait Retrieve: Send + Sync {
    /// The best `k` allowed items, best first, equal scores by lower index. Fewer where fewer are allowed or
    /// the model has nothing to say about the rest.
    fn retrieve(&self, q: &ResolvedQuery, k: usize, allowed: &Allowed) -> Vec<Candidate>;

    /// The same for many queries, in the same order; models with a faster way override it.
    /// Runs on the current rayon pool.
    fn retrieve_batch(
        &self,
        queries: &[ResolvedQuery],
        k: usize,
        allowed: &[Allowed],
    ) -> Vec<Vec<Candidate>> {
        queries.iter().zip(allowed).map(|(q, a)| self.retrieve(q, k, a)).collect()
    }
}

/// What can be measured: it scores and it retrieves.
pub trait Ranker: Score + Retrieve {}

impl<T: Score + Retrieve> Ranker for T {}

pub trait Rerank: Send + Sync {
    fn rerank(&self, q: &ResolvedQuery, slate: &mut Vec<Candidate>);
}

/// Online learning.
pub trait Update {
    fn update(&mut self, event: &Event);
}

pub trait Explain: Send + Sync {
    /// The items of the query's own history that carried `item`'s score, largest share first, at most `limit`.
    /// Empty where the model cannot tell.
    fn contributions(&self, q: &ResolvedQuery, item: ItemIx, limit: usize) -> Vec<(ItemIx, f32)>;

    /// The same for several items of one query, in the same order; models that must solve for the user first
    /// override it to do so once.
    fn contributions_many(
        &self,
        q: &ResolvedQuery,
        items: &[ItemIx],
        limit: usize,
    ) -> Vec<Vec<(ItemIx, f32)>> {
        items.iter().map(|&item| self.contributions(q, item, limit)).collect()
    }
}

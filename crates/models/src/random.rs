//! Random: an order of the items drawn anew for every question, the floor that other models are compared with.
//!
//! score(i) = h(seed, question, i) in [0, 1), h a 64-bit hash.
//!
//! The question is the user if there is one, otherwise what the query holds; so the same person sees the same order
//! from page to page, and two people see different ones.
//! Cost: O(items) a query, no memory.

use crate::{FitError, LoadError, Model, Weights};
use serde::{Deserialize, Serialize};
use sommelier_core::{Allowed, Candidate, Explain, FitContext, ItemIx, ResolvedQuery, Retrieve, Rng, Score};
use sommelier_data::Snapshot;
use sommelier_index::exact::TopK;

/// Nothing to choose; the seed is the fit's.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RandomConfig {}

#[derive(Debug, Clone)]
pub struct Random {
    items: usize,
    seed: u64,
}

impl RandomConfig {
    pub fn fit(&self, train: &Snapshot, ctx: &mut FitContext) -> Result<Random, FitError> {
        ctx.cancel.check()?;
        Ok(Random { items: train.items.len(), seed: ctx.seed })
    }

    pub fn load(&self, weights: &Weights) -> Result<Random, LoadError> {
        match weights.u64("items_seed")?.1 {
            &[items, seed] => Ok(Random { items: items as usize, seed }),
            other => Err(LoadError::Shape {
                name: "items_seed".into(),
                expected: vec![2],
                received: vec![other.len()],
            }),
        }
    }
}

impl Random {
    /// One number for the question.
    fn question(&self, q: &ResolvedQuery) -> u64 {
        let mut hash = self.seed;
        let mut take =
            |part: u64, value: u64| hash = Rng::stream(hash ^ part.rotate_left(32), value).next_u64();
        if let Some(user) = q.user {
            take(1, user.0.into());
        } else {
            q.history.iter().for_each(|s| take(2, s.item.0.into()));
        }
        q.like.iter().for_each(|i| take(3, i.0.into()));
        q.unlike.iter().for_each(|i| take(4, i.0.into()));
        hash
    }
}

/// 24 bits, as many as an `f32` below 1 holds exactly.
fn draw(question: u64, item: u32) -> f32 {
    (Rng::stream(question, item.into()).next_u64() >> 40) as f32 / (1u64 << 24) as f32
}

impl Score for Random {
    fn items(&self) -> usize {
        self.items
    }

    fn score(&self, q: &ResolvedQuery, items: &[ItemIx], out: &mut [f32]) {
        let question = self.question(q);
        for (item, out) in items.iter().zip(out) {
            *out = draw(question, item.0);
        }
    }
}

impl Retrieve for Random {
    fn retrieve(&self, q: &ResolvedQuery, k: usize, allowed: &Allowed) -> Vec<Candidate> {
        let question = self.question(q);
        let mut best = TopK::new(k.min(self.items));
        (0..self.items as u32).for_each(|i| best.offer(draw(question, i), i, allowed));
        best.into_sorted()
    }
}

impl Explain for Random {
    /// Nothing carried the score.
    fn contributions(&self, _: &ResolvedQuery, _: ItemIx, _: usize) -> Vec<(ItemIx, f32)> {
        Vec::new()
    }
}

impl Model for Random {
    fn kind(&self) -> &'static str {
        "random"
    }

    fn weights(&self) -> Weights {
        let mut weights = Weights::default();
        weights.set_u64("items_seed", &[2], vec![self.items as u64, self.seed]);
        weights
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sommelier_core::{Time, UserIx};

    #[test]
    fn the_order_belongs_to_the_question() {
        let model = Random { items: 500, seed: 1 };
        let order = |q: &ResolvedQuery| model.retrieve(q, 500, &Allowed::everything());
        let first = ResolvedQuery { user: Some(UserIx(0)), ..ResolvedQuery::default() };
        let second = ResolvedQuery { user: Some(UserIx(1)), ..ResolvedQuery::default() };
        assert_ne!(order(&first), order(&second));
        let later = ResolvedQuery { now: Time::from_millis(5).unwrap(), ..first.clone() };
        assert_eq!(order(&first), order(&later), "the next page is asked a moment later");
        assert_ne!(
            order(&ResolvedQuery::from_items([ItemIx(1)])),
            order(&ResolvedQuery { like: vec![ItemIx(1)], ..ResolvedQuery::default() })
        );
        let mean: f32 = order(&first).iter().map(|c| c.score).sum::<f32>() / 500.0;
        assert!((mean - 0.5).abs() < 0.05, "{mean}");
    }
}

//! How far a model follows what people say: asked with a wish and without, on the questions of a split.
//!
//! Five axes after Paischer et al., "Preference Discerning with LLM-Enhanced Generative Retrieval" (Mender), 2024, arXiv:2412.08604,
//! section 3; all at ten items, items of the history left out:
//!
//! | axis | the wish is about | counted |
//! |---|---|---|
//! | `recommendation` | the item to find | how often it is found |
//! | `fine` | an item that is much like it | how often that one is found |
//! | `coarse` | an item that has nothing in common with it | how often that one is found |
//! | `sentiment` | something of the item to find, wanted, then unwanted | the share of the slate that has it |
//! | `consolidation` | the item to find, among wishes about the history | how often it is found |
//! | `match` | one or two facts of an item that has nothing in common | the share of the slate that has them all |
//!
//! Departures: sentences are made by rule (`wish.rs`), so the sixth row can be counted on the facts themselves; the paper's
//! sentiments come of reviews, ours of the words `no …`.

use crate::prepare::Prepared;
use crate::wish::Words;
use rayon::prelude::*;
use serde::Serialize;
use sommelier_core::{Allowed, ItemIx, ResolvedQuery, Rng};
use sommelier_data::{Holdout, Snapshot};
use sommelier_models::Model;

/// Questions of each axis, at most.
const CASES: usize = 500;
const AT: usize = 10;
/// Draws of an item that has nothing in common with another.
const DRAWS: usize = 50;

/// One axis: what is counted when the model hears the wish, and beside it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Axis {
    pub name: &'static str,
    pub cases: usize,
    /// With the wish.
    pub said: f64,
    /// Without it; of `sentiment`, with the opposite.
    pub unsaid: f64,
}

impl Axis {
    /// What is counted, in words.
    pub fn counted(&self) -> &'static str {
        match self.name {
            "recommendation" => "finds the next item",
            "fine" => "finds one much like it that was asked for",
            "coarse" => "finds one quite unlike it that was asked for",
            "sentiment" => "of the slate has it when wanted; then, unwanted",
            "consolidation" => "finds the next item among several wishes",
            _ => "of the slate has all that was asked for",
        }
    }
}

/// What the axes ask about one case.
struct Case<'a> {
    query: ResolvedQuery,
    target: u32,
    words: &'a Words,
    prepared: &'a Prepared,
    model: &'a dyn Model,
}

/// All axes, in the order of the table above; those that no case can be asked about are left out. On the current rayon pool.
pub(crate) fn steering(
    model: &dyn Model,
    prepared: &Prepared,
    train: &Snapshot,
    test: &Holdout,
    seed: u64,
) -> Vec<Axis> {
    let words = Words::of(&train.item_info);
    let mut cases: Vec<usize> = (0..test.cases()).collect();
    Rng::stream(seed ^ 0x57ee, 0).shuffle(&mut cases);
    cases.retain(|&case| !words.facts[test.targets_of(case)[0] as usize].is_empty());
    cases.truncate(CASES);
    let ask = |&case: &usize| {
        let target = test.targets_of(case)[0];
        let of = Case { query: test.query(case), target, words: &words, prepared, model };
        of.ask(&mut Rng::stream(seed ^ 0x57ee, 1 + case as u64))
    };
    let found: Vec<[Option<(f64, f64)>; 6]> = cases.par_iter().map(ask).collect();
    let names = ["recommendation", "fine", "coarse", "sentiment", "consolidation", "match"];
    let axis = |(at, name): (usize, &'static str)| {
        let pairs: Vec<(f64, f64)> = found.iter().filter_map(|case| case[at]).collect();
        let mean = |of: fn(&(f64, f64)) -> f64| pairs.iter().map(of).sum::<f64>() / pairs.len() as f64;
        (!pairs.is_empty()).then(|| Axis {
            name,
            cases: pairs.len(),
            said: mean(|p| p.0),
            unsaid: mean(|p| p.1),
        })
    };
    names.into_iter().enumerate().filter_map(axis).collect()
}

impl Case<'_> {
    fn ask(&self, rng: &mut Rng) -> [Option<(f64, f64)>; 6] {
        let about = |item: u32, rng: &mut Rng| self.words.sentence(item, rng);
        let unsaid = self.slate(None);
        let finds = |item: u32, wish: &str| {
            let found = |slate: &[u32]| f64::from(u8::from(slate.contains(&item)));
            (found(&self.slate(Some(wish))), found(&unsaid))
        };
        let own = about(self.target, rng);
        let recommendation = finds(self.target, &own);
        let fine = self.nearest().map(|item| finds(item, &about(item, rng)));
        let other =
            (0..DRAWS).map(|_| rng.below(self.words.facts.len()) as u32).find(|&item| self.is_other(item));
        let coarse = other.map(|item| finds(item, &about(item, rng)));
        let facts = &self.words.facts[self.target as usize];
        let fact = std::slice::from_ref(&facts[rng.below(facts.len())]);
        let share = |facts: &[String], wish: &str| self.share(facts, &self.slate(Some(wish)));
        let sentiment = (share(fact, &fact[0]), share(fact, &format!("no {}", fact[0])));
        let history = &self.query.history;
        let consolidation = (!history.is_empty()).then(|| {
            let mut of = || about(history[rng.below(history.len())].item.0, rng);
            let (before, after) = (of(), of());
            finds(self.target, &format!("{before}, {own}, {after}"))
        });
        let matched = other.map(|item| {
            let mut facts = self.words.facts[item as usize].clone();
            rng.shuffle(&mut facts);
            facts.truncate(2);
            (share(&facts, &facts.join(" ")), self.share(&facts, &unsaid))
        });
        [Some(recommendation), fine, coarse, Some(sentiment), consolidation, matched]
    }

    fn slate(&self, wish: Option<&str>) -> Vec<u32> {
        let wish = wish.and_then(|wish| self.prepared.hear(wish, ""));
        let query = ResolvedQuery { wish, ..self.query.clone() };
        let allowed = Allowed::everything().without(query.history.iter().map(|seen| seen.item));
        self.model.retrieve(&query, AT, &allowed).into_iter().map(|c| c.item.0).collect()
    }

    /// The share of a slate that has all these facts.
    fn share(&self, facts: &[String], slate: &[u32]) -> f64 {
        let has =
            |item: &&u32| facts.iter().all(|f| self.words.facts[**item as usize].binary_search(f).is_ok());
        slate.iter().filter(has).count() as f64 / slate.len().max(1) as f64
    }

    fn seen(&self, item: u32) -> bool {
        self.query.history.iter().any(|seen| seen.item == ItemIx(item))
    }

    fn common(&self, item: u32) -> usize {
        let own = &self.words.facts[self.target as usize];
        self.words.facts[item as usize].iter().filter(|fact| own.binary_search(fact).is_ok()).count()
    }

    fn is_other(&self, item: u32) -> bool {
        !self.words.facts[item as usize].is_empty() && self.common(item) == 0 && !self.seen(item)
    }

    /// The item that has most in common with the one to find, and the least beside.
    fn nearest(&self) -> Option<u32> {
        let others =
            (0..self.words.facts.len() as u32).filter(|&item| item != self.target && !self.seen(item));
        let near =
            |&item: &u32| (self.common(item), std::cmp::Reverse(self.words.facts[item as usize].len()));
        others.max_by_key(near).filter(|&item| self.common(item) > 0)
    }
}

//! Answers of a generative model: the history is read on the spot, then the best codes that are allowed are written.

use super::hearing::Hearing;
use super::known::Known;
use super::search::{Writer, best};
use super::{Network, Reading, Told};
use crate::item_item::left_out;
use crate::{Model, Weights};
use rayon::prelude::*;
use sommelier_core::{Allowed, Candidate, Explain, Item, ItemIx, ResolvedQuery, Retrieve, Score};
use sommelier_index::trie::CodeTrie;
use sommelier_nn::Params;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

/// A fitted model. Nothing of a person is kept: every answer reads the history it is given.
pub struct GenerativeModel {
    kind: &'static str,
    reading: Reading,
    params: Params,
    net: Arc<dyn Network>,
    /// Grows with items that come after the fit.
    known: RwLock<Known>,
    fitted: usize,
}

impl GenerativeModel {
    pub(super) fn new(
        kind: &'static str,
        reading: Reading,
        params: Params,
        net: Arc<dyn Network>,
        known: &Known,
    ) -> GenerativeModel {
        GenerativeModel {
            kind,
            reading,
            params,
            net,
            fitted: known.fitted,
            known: RwLock::new(known.clone()),
        }
    }

    /// Nobody leaves the codes half written: a lock that a panic poisoned is as good as any.
    fn known(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it reads of a question.
    pub(super) fn reads_of(&self, q: &ResolvedQuery) -> Vec<ItemIx> {
        self.reads(&self.known(), q)
    }

    /// Items that are read: of the history, or else of what is liked.
    fn reads(&self, known: &Known, q: &ResolvedQuery) -> Vec<ItemIx> {
        let coded = |item: ItemIx| known.codes(item.0).is_some();
        let read = newest(taken(q), self.reading.length, coded);
        if read.is_empty() { newest(q.like.iter().copied(), self.reading.length, coded) } else { read }
    }

    fn read<'a>(&'a self, known: &'a Known, items: &[ItemIx], wish: Option<&[f32]>) -> Box<dyn Writer + 'a> {
        let items: Vec<u32> = items.iter().map(|item| item.0).collect();
        self.net.read(&self.params, known, Told { items: &items, wish })
    }
}

/// What a person took, oldest first.
pub(super) fn taken(q: &ResolvedQuery) -> impl Iterator<Item = ItemIx> {
    q.history.iter().filter(|s| s.weight > 0.0).map(|s| s.item)
}

/// The last `length` of the items that are known.
pub(super) fn newest(
    items: impl Iterator<Item = ItemIx>,
    length: usize,
    known: impl Fn(ItemIx) -> bool,
) -> Vec<ItemIx> {
    let mut items: Vec<ItemIx> = items.filter(|item| known(*item)).collect();
    items.split_off(items.len().saturating_sub(length))
}

/// The logarithm of each item's probability. Nothing is left out of the beam, so that every item's score is its own; an item without
/// codes is below all.
pub(super) fn log_probabilities(writer: &mut dyn Writer, known: &Known, items: &[ItemIx], out: &mut [f32]) {
    let coded = items.iter().filter_map(|item| Some((known.codes(item.0)?, item.0)));
    let mut coded: Vec<(&[u32], u32)> = coded.collect();
    coded.sort_unstable();
    coded.dedup();
    let trie = CodeTrie::of(known.levels(), coded);
    let mut found = best(writer, known.among(), &trie, trie.len());
    found.sort_by_key(|c| c.item);
    let least = found.iter().map(|c| c.score).fold(0f32, f32::min) - 1.0;
    for (out, item) in out.iter_mut().zip(items) {
        *out = found.binary_search_by_key(item, |c| c.item).map_or(least, |at| found[at].score);
    }
}

/// What an item's score loses when an item of those read is left out.
pub(super) fn without_one(
    read: &[ItemIx],
    limit: usize,
    score: impl Fn(&[ItemIx]) -> f32,
) -> Vec<(ItemIx, f32)> {
    left_out(read, limit, |gone| match gone {
        None => score(read),
        Some(at) => score(&[&read[..at], &read[at + 1..]].concat()),
    })
}

impl Score for GenerativeModel {
    fn items(&self) -> usize {
        self.fitted
    }

    fn score(&self, q: &ResolvedQuery, items: &[ItemIx], out: &mut [f32]) {
        let known = self.known();
        let read = self.reads(&known, q);
        log_probabilities(&mut *self.read(&known, &read, q.wish.as_deref()), &known, items, out);
    }
}

impl Retrieve for GenerativeModel {
    fn retrieve(&self, q: &ResolvedQuery, k: usize, allowed: &Allowed) -> Vec<Candidate> {
        let known = self.known();
        let trie = known.trie.restricted(allowed);
        let read = self.reads(&known, q);
        let mut writer = self.read(&known, &read, q.wish.as_deref());
        let mut found = best(&mut *writer, known.among(), &trie, self.reading.beam.max(k));
        found.truncate(k);
        found
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

impl Explain for GenerativeModel {
    fn contributions(&self, q: &ResolvedQuery, item: ItemIx, limit: usize) -> Vec<(ItemIx, f32)> {
        let known = self.known();
        let Some(codes) = known.codes(item.0) else { return Vec::new() };
        let trie = CodeTrie::of(known.levels(), [(codes, item.0)]);
        let read = self.reads(&known, q);
        without_one(&read, limit, |items| {
            let mut writer = self.read(&known, items, q.wish.as_deref());
            best(&mut *writer, known.among(), &trie, 1).first().map_or(0.0, |c| c.score)
        })
    }
}

impl Model for GenerativeModel {
    fn kind(&self) -> &'static str {
        self.kind
    }

    fn weights(&self) -> Weights {
        let mut weights = Weights::default();
        weights.remember(&self.params);
        self.known().store(&mut weights);
        weights
    }

    fn hears(&self) -> bool {
        Hearing::is_in(&self.params)
    }

    fn meet(&self, item: ItemIx, info: &Item) -> bool {
        self.known.write().unwrap_or_else(PoisonError::into_inner).meet(item.0, info)
    }
}

//! Answers of a sequence model: the history is read on the spot, then the catalogue is searched with the vector that comes out.

use super::content::Maker;
use super::{Batch, Embedder, Encoder, SequenceConfig, Similarity};
use crate::factors::{Ask, Factors, best_of, similar};
use crate::item_item::{largest, left_out};
use crate::spare::Spare;
use crate::{LoadError, Model, Weights};
use rayon::prelude::*;
use sommelier_core::{Allowed, Candidate, Explain, Item, ItemIx, ResolvedQuery, Retrieve, Score};
use sommelier_nn::kernel;
use sommelier_nn::{Params, TableId, Tape};
use std::cmp::Ordering;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

/// A fitted model of the family. Nothing of a person is kept: every answer reads the history it is given.
pub struct SequenceModel {
    kind: &'static str,
    length: usize,
    cosine: bool,
    /// The table's keys are items; those that came after the fit lie behind the fitted ones.
    params: RwLock<Params>,
    table: TableId,
    encoder: Arc<dyn Encoder>,
    /// Item vectors to search: as they are, or of length 1.
    factors: Factors,
    /// Makes the vectors of items that come later.
    maker: Option<Arc<dyn Maker>>,
    spare: Spare,
}

impl SequenceModel {
    pub(super) fn new(
        kind: &'static str,
        config: &SequenceConfig,
        params: Params,
        table: TableId,
        (encoder, maker): (Arc<dyn Encoder>, Option<Arc<dyn Maker>>),
    ) -> Result<SequenceModel, LoadError> {
        let cosine = config.similarity == Similarity::Cosine;
        let dim = params.table(table).dim();
        let mut rows = params.table(table).rows().to_vec();
        if cosine {
            crate::item2vec::to_unit(&mut rows, dim);
        }
        Ok(SequenceModel {
            kind,
            length: config.length,
            cosine,
            factors: Factors::new(&rows, dim)?,
            params: RwLock::new(params),
            table,
            encoder,
            maker,
            spare: Spare::default(),
        })
    }

    /// Nobody leaves the parameters half written: a lock that a panic poisoned is as good as any.
    pub(crate) fn params(&self) -> RwLockReadGuard<'_, Params> {
        self.params.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The vectors of some people, read together: each has as many, one after the other. All have a history to read.
    fn vectors(&self, params: &Params, people: &[&ResolvedQuery]) -> Vec<f32> {
        let table = params.table(self.table);
        let batch = Batch::of_queries(people, self.length, |item| table.slot(item.0.into()));
        let mut tape = Tape::answering(params, self.spare.take());
        let y = self.encoder.answer(&mut tape, Embedder::new(self.table), &batch);
        let mut vectors = tape.data(y).to_vec();
        if self.cosine {
            crate::item2vec::to_unit(&mut vectors, self.factors.dim());
        }
        self.spare.give(tape.finish());
        vectors
    }

    /// For each person, one question for each of their vectors; without a history to read, one for what is liked.
    fn asks(&self, params: &Params, people: &[ResolvedQuery]) -> Vec<Vec<Ask>> {
        let reads = |q: &ResolvedQuery| {
            q.history.iter().any(|s| s.weight > 0.0 && self.vector(params, s.item).is_some())
        };
        let readers: Vec<&ResolvedQuery> = people.iter().filter(|q| reads(q)).collect();
        let vectors = if readers.is_empty() { Vec::new() } else { self.vectors(params, &readers) };
        let each = vectors.len().checked_div(readers.len()).unwrap_or(0).max(1);
        let mut of_readers = vectors.chunks_exact(each);
        let of_person = |q: &ResolvedQuery| {
            let mine = if reads(q) { of_readers.next() } else { None };
            match mine {
                Some(mine) => mine.chunks_exact(self.factors.dim()).map(|v| Ask::User(v.to_vec())).collect(),
                None => vec![similar(q, self.factors.dim(), |item| self.vector(params, item))],
            }
        };
        people.iter().map(of_person).collect()
    }

    fn ask(&self, params: &Params, q: &ResolvedQuery) -> Vec<Ask> {
        self.asks(params, std::slice::from_ref(q)).pop().unwrap_or_default()
    }

    /// People who are read on one tape: so many that its products are worth their start, so few that it stays small.
    fn together<'q>(&self, people: &'q [ResolvedQuery]) -> Vec<&'q [ResolvedQuery]> {
        let mut groups = Vec::new();
        let (mut from, mut steps) = (0, 0);
        for (i, q) in people.iter().enumerate() {
            steps += q.history.len().min(self.length);
            if steps >= STEPS_TOGETHER || i + 1 == people.len() {
                groups.push(&people[from..=i]);
                (from, steps) = (i + 1, 0);
            }
        }
        groups
    }

    /// The vector of an item that the model knows.
    pub(crate) fn vector<'p>(&self, params: &'p Params, item: ItemIx) -> Option<&'p [f32]> {
        let table = params.table(self.table);
        table.slot(item.0.into()).map(|row| table.row(row))
    }

    /// The items nearest to where a reader expects the next one; of the fitted ones too, or only of later ones.
    pub(crate) fn nearest(
        &self,
        params: &Params,
        place: &[f32],
        k: usize,
        allowed: &Allowed,
        fitted: bool,
    ) -> Vec<Candidate> {
        let ask = self.ask_at(place);
        let late = self.late(params, &ask, k, allowed);
        if !fitted {
            return late;
        }
        merge(vec![self.factors.retrieve(&ask, k, allowed), late], k)
    }

    /// Scores of items with where a reader expects the next one; 0 for unknown ones.
    pub(crate) fn score_at(&self, params: &Params, place: &[f32], items: &[ItemIx], out: &mut [f32]) {
        self.score_with(params, &self.ask_at(place), items, out);
    }

    fn ask_at(&self, place: &[f32]) -> Ask {
        let mut place = place.to_vec();
        if self.cosine {
            crate::item2vec::to_unit(&mut place, self.factors.dim());
        }
        Ask::User(place)
    }

    fn score_with(&self, params: &Params, ask: &Ask, items: &[ItemIx], out: &mut [f32]) {
        self.factors.score(ask, items, out);
        for (score, &item) in out.iter_mut().zip(items).filter(|(_, item)| item.ix() >= self.items()) {
            *score = self.vector(params, item).map_or(0.0, |v| self.late_score(ask, v));
        }
    }

    /// The score of a vector that is not among the fitted ones.
    fn late_score(&self, ask: &Ask, v: &[f32]) -> f32 {
        match ask {
            Ask::User(_) if self.cosine => ask.score(v) / kernel::dot(v, v).sqrt().max(f32::MIN_POSITIVE),
            ask => ask.score(v),
        }
    }

    /// The best of the items that came after the fit.
    fn late(&self, params: &Params, ask: &Ask, k: usize, allowed: &Allowed) -> Vec<Candidate> {
        let table = params.table(self.table);
        if *ask == Ask::Nothing {
            return Vec::new();
        }
        let late = (self.items()..table.height()).filter_map(|row| {
            let item = ItemIx(table.key(row as u32)? as u32);
            allowed.contains(item).then(|| {
                let score = self.late_score(ask, table.row(row as u32));
                Candidate { item, score }
            })
        });
        best_of(late, k)
    }
}

/// See [`SequenceModel::together`].
const STEPS_TOGETHER: usize = 800;

/// The best `k` of several lists, an item by its best score; lists are best first.
fn merge(mut lists: Vec<Vec<Candidate>>, k: usize) -> Vec<Candidate> {
    if lists.len() == 1 {
        return lists.pop().unwrap_or_default();
    }
    best_of(lists.into_iter().flatten(), k)
}

impl Score for SequenceModel {
    fn items(&self) -> usize {
        self.factors.items()
    }

    fn score(&self, q: &ResolvedQuery, items: &[ItemIx], out: &mut [f32]) {
        let params = self.params();
        let mut best = vec![0f32; out.len()];
        for (n, ask) in self.ask(&params, q).iter().enumerate() {
            let to = if n == 0 { &mut *out } else { &mut best[..] };
            self.score_with(&params, ask, items, to);
            if n > 0 {
                for (out, &score) in out.iter_mut().zip(&best) {
                    if score.total_cmp(out) == Ordering::Greater {
                        *out = score;
                    }
                }
            }
        }
    }
}

impl Retrieve for SequenceModel {
    fn retrieve(&self, q: &ResolvedQuery, k: usize, allowed: &Allowed) -> Vec<Candidate> {
        let params = self.params();
        let found = self
            .ask(&params, q)
            .into_iter()
            .flat_map(|ask| [self.factors.retrieve(&ask, k, allowed), self.late(&params, &ask, k, allowed)]);
        merge(found.filter(|list| !list.is_empty()).collect(), k)
    }

    fn retrieve_batch(
        &self,
        queries: &[ResolvedQuery],
        k: usize,
        allowed: &[Allowed],
    ) -> Vec<Vec<Candidate>> {
        let params = self.params();
        let params: &Params = &params;
        let groups = self.together(queries);
        let asks: Vec<Vec<Ask>> = groups.par_iter().flat_map_iter(|group| self.asks(params, group)).collect();
        let filters: Vec<Allowed> =
            asks.iter().zip(allowed).flat_map(|(list, a)| list.iter().map(|_| a.clone())).collect();
        let counts: Vec<usize> = asks.iter().map(Vec::len).collect();
        let flat: Vec<Ask> = asks.into_iter().flatten().collect();
        let found = self.factors.retrieve_batch(&flat, k, &filters);
        let late = flat.iter().zip(&filters).map(|(ask, allowed)| self.late(params, ask, k, allowed));
        let mut found = found.into_iter().zip(late).map(|(fitted, late)| [fitted, late]);
        let of_person = |n: usize| {
            let lists = found.by_ref().take(n).flatten().filter(|list| !list.is_empty());
            merge(lists.collect(), k)
        };
        counts.into_iter().map(of_person).collect()
    }
}

impl Explain for SequenceModel {
    /// What the score loses when a step of the history is left out: each of the last steps that the model reads is left out
    /// once. Of `like`, each item's cosine.
    fn contributions(&self, q: &ResolvedQuery, item: ItemIx, limit: usize) -> Vec<(ItemIx, f32)> {
        let params = self.params();
        let Some(target) = self.vector(&params, item) else { return Vec::new() };
        let steps: Vec<usize> = (0..q.history.len())
            .filter(|&i| q.history[i].weight > 0.0 && self.vector(&params, q.history[i].item).is_some())
            .collect();
        let read = &steps[steps.len().saturating_sub(self.length)..];
        if read.is_empty() {
            let length = |v: &[f32]| kernel::dot(v, v).sqrt();
            let share = |j: &ItemIx| {
                let v = self.vector(&params, *j)?;
                Some((*j, kernel::dot(v, target) / (length(v) * length(target)).max(f32::MIN_POSITIVE)))
            };
            return largest(q.like.iter().filter_map(share).collect(), limit);
        }
        drop(params);
        let items: Vec<ItemIx> = read.iter().map(|&step| q.history[step].item).collect();
        left_out(&items, limit, |gone| {
            let mut without = q.clone();
            if let Some(at) = gone {
                without.history.remove(read[at]);
            }
            let mut score = [0f32];
            self.score(&without, &[item], &mut score);
            score[0]
        })
    }
}

impl Model for SequenceModel {
    fn kind(&self) -> &'static str {
        self.kind
    }

    /// Of the items that were fitted; whoever loads them is told of later ones again.
    fn weights(&self) -> Weights {
        let params = self.params();
        let mut weights = Weights::default();
        weights.remember(&params);
        let table = params.table(self.table);
        let fitted = table.rows()[..self.items() * table.dim()].to_vec();
        weights.set_f32("items", &[self.items(), table.dim()], fitted);
        weights
    }

    fn meet(&self, item: ItemIx, info: &Item) -> bool {
        if item.ix() < self.items() {
            return true;
        }
        let Some(maker) = &self.maker else { return false };
        let mut params = self.params.write().unwrap_or_else(PoisonError::into_inner);
        let Some(row) = maker.late(&params, info) else { return false };
        let table = params.table_mut(self.table);
        let Some(slot) = table.ask(item.0.into(), 0) else { return false };
        let dim = table.dim();
        table.rows_mut()[slot as usize * dim..][..dim].copy_from_slice(&row);
        true
    }
}

//! Answers of a sequence model: the history is read on the spot, then the catalogue is searched with the vector that comes out.

use super::{Batch, Embedder, Encoder, SequenceConfig, Similarity};
use crate::factors::{Ask, Factors};
use crate::item_item::largest;
use crate::{LoadError, Model, Weights};
use parking::Spare;
use rayon::prelude::*;
use sommelier_core::{Allowed, Candidate, Explain, ItemIx, ResolvedQuery, Retrieve, Score};
use sommelier_nn::kernel;
use sommelier_nn::{Params, TableId, Tape};
use std::cmp::Ordering;
use std::sync::Arc;

/// A fitted model of the family. Nothing of a person is kept: every answer reads the history it is given.
pub struct SequenceModel {
    kind: &'static str,
    length: usize,
    cosine: bool,
    params: Params,
    table: TableId,
    encoder: Arc<dyn Encoder>,
    /// Item vectors to search: as they are, or of length 1.
    factors: Factors,
    spare: Spare,
}

impl SequenceModel {
    pub(super) fn new(
        kind: &'static str,
        config: &SequenceConfig,
        params: Params,
        table: TableId,
        encoder: Arc<dyn Encoder>,
    ) -> Result<SequenceModel, LoadError> {
        let cosine = config.similarity == Similarity::Cosine;
        let dim = params.table(table).dim();
        let mut rows = params.table(table).rows().to_vec();
        if cosine {
            crate::item2vec::to_unit(&mut rows, dim);
        }
        let factors = Factors::new(&rows, dim)?;
        let spare = Spare::default();
        Ok(SequenceModel { kind, length: config.length, cosine, params, table, encoder, factors, spare })
    }

    /// The vectors of some people, one after the other.
    fn vectors(&self, queries: &[&ResolvedQuery]) -> Vec<f32> {
        let batch = Batch::of_queries(queries, self.length, self.items());
        let mut tape = Tape::answering(&self.params, self.spare.take());
        let y = self.encoder.answer(&mut tape, Embedder::new(self.table), &batch);
        let mut vectors = tape.data(y).to_vec();
        if self.cosine {
            crate::item2vec::to_unit(&mut vectors, self.factors.dim());
        }
        self.spare.give(tape.finish());
        vectors
    }

    /// One question for each vector of the person.
    fn ask(&self, q: &ResolvedQuery) -> Vec<Ask> {
        let mut of_person = Vec::new();
        let asked = self.factors.ask(q, |_| {
            if q.history.iter().any(|s| s.weight > 0.0 && s.item.ix() < self.items()) {
                of_person = self.vectors(&[q]);
            }
            Vec::new()
        });
        match asked {
            Ask::User(_) if of_person.is_empty() => vec![self.liked(q)],
            Ask::User(_) => {
                of_person.chunks_exact(self.factors.dim()).map(|v| Ask::User(v.to_vec())).collect()
            }
            other => vec![other],
        }
    }

    /// Without a history to read, what is liked.
    fn liked(&self, q: &ResolvedQuery) -> Ask {
        self.factors.ask(&ResolvedQuery { history: Vec::new(), ..q.clone() }, |_| Vec::new())
    }
}

mod parking {
    //! Memory of tapes between answers.

    use sommelier_nn::Workspace;
    use std::sync::Mutex;

    #[derive(Default)]
    pub struct Spare(Mutex<Vec<Workspace>>);

    /// More than so many answers at once are rare.
    const KEPT: usize = 64;

    impl Spare {
        pub fn take(&self) -> Workspace {
            self.0.lock().ok().and_then(|mut list| list.pop()).unwrap_or_default()
        }

        pub fn give(&self, workspace: Workspace) {
            if let Ok(mut list) = self.0.lock()
                && list.len() < KEPT
            {
                list.push(workspace);
            }
        }
    }
}

/// The best `k` of several lists, an item by its best score; lists are best first.
fn merge(mut lists: Vec<Vec<Candidate>>, k: usize) -> Vec<Candidate> {
    if lists.len() == 1 {
        return lists.pop().unwrap_or_default();
    }
    let mut all: Vec<Candidate> = lists.into_iter().flatten().collect();
    let better = |a: &Candidate, b: &Candidate| b.score.total_cmp(&a.score).then(a.item.cmp(&b.item));
    all.sort_by(|a, b| a.item.cmp(&b.item).then(b.score.total_cmp(&a.score)));
    all.dedup_by(|next, kept| next.item == kept.item);
    all.sort_by(better);
    all.truncate(k);
    all
}

impl Score for SequenceModel {
    fn items(&self) -> usize {
        self.factors.items()
    }

    fn score(&self, q: &ResolvedQuery, items: &[ItemIx], out: &mut [f32]) {
        let asks = self.ask(q);
        self.factors.score(&asks[0], items, out);
        let mut other = vec![0f32; out.len()];
        for ask in &asks[1..] {
            self.factors.score(ask, items, &mut other);
            for (out, &score) in out.iter_mut().zip(&other) {
                if score.total_cmp(out) == Ordering::Greater {
                    *out = score;
                }
            }
        }
    }
}

impl Retrieve for SequenceModel {
    fn retrieve(&self, q: &ResolvedQuery, k: usize, allowed: &Allowed) -> Vec<Candidate> {
        merge(self.ask(q).iter().map(|ask| self.factors.retrieve(ask, k, allowed)).collect(), k)
    }

    fn retrieve_batch(
        &self,
        queries: &[ResolvedQuery],
        k: usize,
        allowed: &[Allowed],
    ) -> Vec<Vec<Candidate>> {
        let asks: Vec<Vec<Ask>> = queries.par_iter().map(|q| self.ask(q)).collect();
        let filters: Vec<Allowed> =
            asks.iter().zip(allowed).flat_map(|(list, a)| list.iter().map(|_| a.clone())).collect();
        let counts: Vec<usize> = asks.iter().map(Vec::len).collect();
        let flat: Vec<Ask> = asks.into_iter().flatten().collect();
        let mut found = self.factors.retrieve_batch(&flat, k, &filters).into_iter();
        counts.into_iter().map(|n| merge(found.by_ref().take(n).collect(), k)).collect()
    }
}

impl Explain for SequenceModel {
    /// What the score loses when a step of the history is left out: each of the last steps that the model reads is left out
    /// once. Of `like`, each item's cosine.
    fn contributions(&self, q: &ResolvedQuery, item: ItemIx, limit: usize) -> Vec<(ItemIx, f32)> {
        if item.ix() >= self.items() {
            return Vec::new();
        }
        let steps: Vec<usize> = (0..q.history.len())
            .filter(|&i| q.history[i].weight > 0.0 && q.history[i].item.ix() < self.items())
            .collect();
        let read = &steps[steps.len().saturating_sub(self.length)..];
        if read.is_empty() {
            let target = self.factors.vector(item.ix());
            let length = |v: &[f32]| kernel::dot(v, v).sqrt();
            let liked = q.like.iter().filter(|j| j.ix() < self.items());
            let share = |j: &ItemIx| {
                let v = self.factors.vector(j.ix());
                (*j, kernel::dot(v, target) / (length(v) * length(target)).max(f32::MIN_POSITIVE))
            };
            return largest(liked.map(share).collect(), limit);
        }
        let mut whole = [0f32];
        self.score(q, &[item], &mut whole);
        let mut shares: Vec<(ItemIx, f32)> = Vec::new();
        for &left_out in read {
            let mut without = q.clone();
            let gone = without.history.remove(left_out).item;
            let mut score = [0f32];
            self.score(&without, &[item], &mut score);
            match shares.iter_mut().find(|s| s.0 == gone) {
                Some(share) => share.1 += whole[0] - score[0],
                None => shares.push((gone, whole[0] - score[0])),
            }
        }
        largest(shares, limit)
    }
}

impl Model for SequenceModel {
    fn kind(&self) -> &'static str {
        self.kind
    }

    fn weights(&self) -> Weights {
        let mut weights = Weights::default();
        for p in self.params.iter() {
            weights.set_f32(&p.name, &[p.rows, p.cols], p.value.clone());
        }
        let table = self.params.table(self.table);
        weights.set_f32("items", &[table.height(), table.dim()], table.rows().to_vec());
        weights
    }
}

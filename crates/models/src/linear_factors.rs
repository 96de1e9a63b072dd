//! What models share whose person is the weighted sum of the vectors of their items.
//!
//! u = Σ_j x_j v_j, scaled to length 1 where `unit` says so; score(i) = u · v_i. So each item of a history carries
//! x_j v_j · v_i of a score, exactly. `like` without a history is the cosine with the mean direction of those items.

use crate::LoadError;
use crate::Weights;
use crate::factors::{Ask, Factors, best_of, similar};
use crate::item_item::{known_profile, largest};
use sommelier_core::{Allowed, Candidate, ItemIx, ResolvedQuery};
use sommelier_nn::kernel;
use std::collections::BTreeMap;

#[derive(Debug, Clone)]
pub(crate) struct LinearFactors {
    factors: Factors,
    unit: bool,
    /// Only this many last steps of a history count; 0 for all.
    recent: usize,
    weighted: bool,
    /// Vectors of items that came after the fit.
    late: BTreeMap<u32, Vec<f32>>,
}

impl LinearFactors {
    /// `vectors` is items × `dim`, row-major.
    pub fn new(
        vectors: &[f32],
        dim: usize,
        unit: bool,
        recent: usize,
        weighted: bool,
    ) -> Result<LinearFactors, LoadError> {
        let factors = Factors::new(vectors, dim)?;
        Ok(LinearFactors { factors, unit, recent, weighted, late: BTreeMap::new() })
    }

    pub fn items(&self) -> usize {
        self.factors.items()
    }

    pub fn dim(&self) -> usize {
        self.factors.dim()
    }

    /// Vector of an item that was fitted.
    pub fn vector(&self, item: usize) -> &[f32] {
        self.factors.vector(item)
    }

    /// Takes in an item that came after the fit, under the vector it has now; true if it has one.
    pub fn meet(&mut self, item: ItemIx, vector: Option<Vec<f32>>) -> bool {
        match vector.filter(|v| v.len() == self.dim()) {
            Some(vector) => self.late.insert(item.0, vector),
            None => self.late.remove(&item.0),
        };
        self.late.contains_key(&item.0)
    }

    fn known(&self, item: ItemIx) -> Option<&[f32]> {
        if item.ix() < self.items() {
            return Some(self.vector(item.ix()));
        }
        self.late.get(&item.0).map(Vec::as_slice)
    }

    fn profile(&self, q: &ResolvedQuery) -> Vec<(&[f32], f32, ItemIx)> {
        let last;
        let mut asked = q;
        if self.recent > 0 && q.history.len() > self.recent {
            let history = q.history[q.history.len() - self.recent..].to_vec();
            let (like, unlike) = (q.like.clone(), q.unlike.clone());
            last = ResolvedQuery { history, like, unlike, ..ResolvedQuery::default() };
            asked = &last;
        }
        let profile = known_profile(asked, usize::MAX, self.weighted).into_iter();
        profile
            .filter_map(|(j, x)| {
                let item = ItemIx(j as u32);
                Some((self.known(item)?, x, item))
            })
            .collect()
    }

    fn ask(&self, q: &ResolvedQuery) -> Ask {
        if q.history.is_empty() && !q.like.is_empty() {
            return similar(q, self.dim(), |item| self.known(item));
        }
        let profile = self.profile(q);
        if profile.is_empty() { Ask::Nothing } else { Ask::User(self.person(&profile)) }
    }

    fn person(&self, profile: &[(&[f32], f32, ItemIx)]) -> Vec<f32> {
        let mut person = vec![0f32; self.dim()];
        profile.iter().for_each(|(v, x, _)| kernel::axpy(*x, v, &mut person));
        let scale = self.scale(&person);
        person.iter_mut().for_each(|v| *v *= scale);
        person
    }

    fn scale(&self, person: &[f32]) -> f32 {
        let norm = kernel::dot(person, person).sqrt();
        if self.unit && norm > 0.0 { 1.0 / norm } else { 1.0 }
    }

    pub fn score(&self, q: &ResolvedQuery, items: &[ItemIx], out: &mut [f32]) {
        let ask = self.ask(q);
        self.factors.score(&ask, items, out);
        for (score, item) in out.iter_mut().zip(items).filter(|(_, item)| item.ix() >= self.items()) {
            *score = self.late.get(&item.0).map_or(0.0, |v| ask.score(v));
        }
    }

    pub fn retrieve(&self, q: &ResolvedQuery, k: usize, allowed: &Allowed) -> Vec<Candidate> {
        let ask = self.ask(q);
        self.with_late(&ask, k, allowed, self.factors.retrieve(&ask, k, allowed))
    }

    pub fn retrieve_batch(
        &self,
        queries: &[ResolvedQuery],
        k: usize,
        allowed: &[Allowed],
    ) -> Vec<Vec<Candidate>> {
        let asks: Vec<Ask> = queries.iter().map(|q| self.ask(q)).collect();
        let fitted = self.factors.retrieve_batch(&asks, k, allowed);
        let asked = asks.iter().zip(allowed);
        asked.zip(fitted).map(|((ask, allowed), list)| self.with_late(ask, k, allowed, list)).collect()
    }

    /// `fitted` with the items that came after the fit, where they belong.
    fn with_late(&self, ask: &Ask, k: usize, allowed: &Allowed, fitted: Vec<Candidate>) -> Vec<Candidate> {
        if self.late.is_empty() || *ask == Ask::Nothing {
            return fitted;
        }
        let late = self.late.iter().map(|(&item, v)| Candidate { item: ItemIx(item), score: ask.score(v) });
        best_of(fitted.into_iter().chain(late.filter(|c| allowed.contains(c.item))), k)
    }

    /// Exact: without a limit they sum to the score.
    pub fn contributions(&self, q: &ResolvedQuery, item: ItemIx, limit: usize) -> Vec<(ItemIx, f32)> {
        let Some(target) = self.known(item) else { return Vec::new() };
        let length = |v: &[f32]| kernel::dot(v, v).sqrt();
        let (profile, scale) = match self.ask(q) {
            Ask::Nothing => return Vec::new(),
            Ask::User(_) => {
                let profile = self.profile(q);
                let mut sum = vec![0f32; self.dim()];
                profile.iter().for_each(|(v, x, _)| kernel::axpy(*x, v, &mut sum));
                let scale = self.scale(&sum);
                (profile, scale)
            }
            Ask::Similar(sum) => {
                let lengths = length(&sum) * length(target);
                let unit = |&j: &ItemIx| {
                    let v = self.known(j)?;
                    Some((v, 1.0 / length(v).max(f32::MIN_POSITIVE), j))
                };
                (q.like.iter().filter_map(unit).collect(), if lengths > 0.0 { 1.0 / lengths } else { 0.0 })
            }
        };
        let share = |(v, x, j): (&[f32], f32, ItemIx)| (j, x * scale * kernel::dot(v, target));
        largest(profile.into_iter().map(share).collect(), limit)
    }

    pub fn put(&self, weights: &mut Weights) {
        weights.set_f32("items", &[self.items(), self.factors.dim()], self.factors.to_rows());
    }

    pub fn take(
        weights: &Weights,
        unit: bool,
        recent: usize,
        weighted: bool,
    ) -> Result<LinearFactors, LoadError> {
        let (_, dim, data) = weights.matrix("items", None)?;
        LinearFactors::new(data, dim, unit, recent, weighted)
    }
}

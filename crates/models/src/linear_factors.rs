//! What models share whose person is the weighted sum of the vectors of their items.
//!
//! u = Σ_j x_j v_j, scaled to length 1 where `unit` says so; score(i) = u · v_i. So each item of a history carries
//! x_j v_j · v_i of a score, exactly. `like` without a history is the cosine with the mean direction of those items.

use crate::LoadError;
use crate::Weights;
use crate::factors::{Ask, Factors};
use crate::item_item::{known_profile, largest};
use sommelier_core::{Allowed, Candidate, ItemIx, ResolvedQuery};
use sommelier_nn::kernel;

#[derive(Debug, Clone)]
pub(crate) struct LinearFactors {
    factors: Factors,
    unit: bool,
    /// Only this many last steps of a history count; 0 for all.
    recent: usize,
    weighted: bool,
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
        Ok(LinearFactors { factors: Factors::new(vectors, dim)?, unit, recent, weighted })
    }

    pub fn items(&self) -> usize {
        self.factors.items()
    }

    pub fn vector(&self, item: usize) -> &[f32] {
        self.factors.vector(item)
    }

    fn profile(&self, q: &ResolvedQuery) -> Vec<(usize, f32)> {
        if self.recent == 0 || q.history.len() <= self.recent {
            return known_profile(q, self.items(), self.weighted);
        }
        let history = q.history[q.history.len() - self.recent..].to_vec();
        let last = ResolvedQuery {
            history,
            like: q.like.clone(),
            unlike: q.unlike.clone(),
            ..ResolvedQuery::default()
        };
        known_profile(&last, self.items(), self.weighted)
    }

    fn ask(&self, q: &ResolvedQuery) -> Ask {
        // `Factors` decides which question it is; the profile here may be shorter than the one it hands over.
        self.factors.ask(q, |_| self.person(&self.profile(q)))
    }

    fn person(&self, profile: &[(usize, f32)]) -> Vec<f32> {
        let mut person = vec![0f32; self.factors.dim()];
        for &(j, x) in profile {
            kernel::axpy(x, self.vector(j), &mut person);
        }
        let scale = self.scale(&person);
        person.iter_mut().for_each(|v| *v *= scale);
        person
    }

    fn scale(&self, person: &[f32]) -> f32 {
        let norm = kernel::dot(person, person).sqrt();
        if self.unit && norm > 0.0 { 1.0 / norm } else { 1.0 }
    }

    pub fn score(&self, q: &ResolvedQuery, items: &[ItemIx], out: &mut [f32]) {
        self.factors.score(&self.ask(q), items, out);
    }

    pub fn retrieve(&self, q: &ResolvedQuery, k: usize, allowed: &Allowed) -> Vec<Candidate> {
        self.factors.retrieve(&self.ask(q), k, allowed)
    }

    pub fn retrieve_batch(
        &self,
        queries: &[ResolvedQuery],
        k: usize,
        allowed: &[Allowed],
    ) -> Vec<Vec<Candidate>> {
        let asks: Vec<Ask> = queries.iter().map(|q| self.ask(q)).collect();
        self.factors.retrieve_batch(&asks, k, allowed)
    }

    /// Exact: without a limit they sum to the score.
    pub fn contributions(&self, q: &ResolvedQuery, item: ItemIx, limit: usize) -> Vec<(ItemIx, f32)> {
        if item.ix() >= self.items() {
            return Vec::new();
        }
        let target = self.vector(item.ix());
        let length = |v: &[f32]| kernel::dot(v, v).sqrt();
        let (profile, scale) = match self.ask(q) {
            Ask::Nothing => return Vec::new(),
            Ask::User(_) => {
                let profile = self.profile(q);
                let mut sum = vec![0f32; self.factors.dim()];
                profile.iter().for_each(|&(j, x)| kernel::axpy(x, self.vector(j), &mut sum));
                let scale = self.scale(&sum);
                (profile, scale)
            }
            Ask::Similar(sum) => {
                let liked = q.like.iter().filter(|j| j.ix() < self.items());
                let lengths = length(&sum) * length(target);
                let unit = |j: &ItemIx| (j.ix(), 1.0 / length(self.vector(j.ix())).max(f32::MIN_POSITIVE));
                (liked.map(unit).collect(), if lengths > 0.0 { 1.0 / lengths } else { 0.0 })
            }
        };
        let share =
            |(j, x): (usize, f32)| (ItemIx(j as u32), x * scale * kernel::dot(self.vector(j), target));
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

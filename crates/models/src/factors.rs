//! Item vectors as a model: a score is an inner product with a vector folded in from the query, or a cosine.

use crate::LoadError;
use sommelier_core::{Allowed, Candidate, ItemIx, ResolvedQuery};
use sommelier_index::exact::{ExactIndex, Measure};
use sommelier_nn::kernel;

/// The item side of a factor model.
#[derive(Debug, Clone)]
pub(crate) struct Factors {
    index: ExactIndex,
}

/// What a query asks of item vectors.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Ask {
    /// Nothing is known of the person: every score is 0 and nothing is retrieved.
    Nothing,
    /// Inner product with a user vector.
    User(Vec<f32>),
    /// Cosine with the mean direction of the liked items.
    Similar(Vec<f32>),
}

impl Ask {
    /// The score of a vector that is not among the fitted ones.
    pub fn score(&self, v: &[f32]) -> f32 {
        let length = |v: &[f32]| kernel::dot(v, v).sqrt();
        match self {
            Ask::Nothing => 0.0,
            Ask::User(u) => kernel::dot(u, v),
            Ask::Similar(u) => kernel::dot(u, v) / (length(u) * length(v)).max(f32::MIN_POSITIVE),
        }
    }
}

/// The best `k`, an item by its best score; equal scores by lower index.
pub(crate) fn best_of(found: impl Iterator<Item = Candidate>, k: usize) -> Vec<Candidate> {
    let mut all: Vec<Candidate> = found.collect();
    all.sort_by(|a, b| a.item.cmp(&b.item).then(b.score.total_cmp(&a.score)));
    all.dedup_by(|next, kept| next.item == kept.item);
    all.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.item.cmp(&b.item)));
    all.truncate(k);
    all
}

/// Asks for what is like the liked items and unlike the others, as far as they have vectors.
pub(crate) fn similar<'v>(
    q: &ResolvedQuery,
    dim: usize,
    vector: impl Fn(ItemIx) -> Option<&'v [f32]>,
) -> Ask {
    let mut sum = vec![0f32; dim];
    let signed = q.like.iter().map(|i| (i, 1.0)).chain(q.unlike.iter().map(|i| (i, -1.0)));
    for (v, sign) in signed.filter_map(|(item, sign)| Some((vector(*item)?, sign))) {
        let norm = kernel::dot(v, v).sqrt();
        if norm > 0.0 {
            kernel::axpy(sign / norm, v, &mut sum);
        }
    }
    if sum.iter().all(|&v| v == 0.0) { Ask::Nothing } else { Ask::Similar(sum) }
}

impl Factors {
    /// `data` is items × `dim`, row-major.
    pub fn new(data: &[f32], dim: usize) -> Result<Factors, LoadError> {
        ExactIndex::new(data, dim).map(|index| Factors { index }).map_err(|e| LoadError::Other(e.to_string()))
    }

    pub fn items(&self) -> usize {
        self.index.len()
    }

    pub fn dim(&self) -> usize {
        self.index.dim()
    }

    pub fn vector(&self, item: usize) -> &[f32] {
        self.index.vector(item)
    }

    /// Items × dim in vocabulary order.
    pub fn to_rows(&self) -> Vec<f32> {
        self.index.to_rows()
    }

    /// `like` without a history asks for similar items; anything else is folded in by the model, which gets the
    /// known part of the profile (never empty).
    pub fn ask(&self, q: &ResolvedQuery, fold_in: impl FnOnce(&[(usize, f32)]) -> Vec<f32>) -> Ask {
        if q.history.is_empty() && !q.like.is_empty() {
            return self.similar(q);
        }
        let profile = crate::item_item::known_profile(q, self.items(), true);
        if profile.is_empty() { Ask::Nothing } else { Ask::User(fold_in(&profile)) }
    }

    fn similar(&self, q: &ResolvedQuery) -> Ask {
        similar(q, self.dim(), |item| (item.ix() < self.items()).then(|| self.vector(item.ix())))
    }

    pub fn score(&self, ask: &Ask, items: &[ItemIx], out: &mut [f32]) {
        let (measure, vector) = match ask {
            Ask::Nothing => return out.fill(0.0),
            Ask::User(v) => (Measure::InnerProduct, v),
            Ask::Similar(v) => (Measure::Cosine, v),
        };
        for (out, item) in out.iter_mut().zip(items) {
            *out = if item.ix() < self.items() { self.index.score(measure, vector, item.ix()) } else { 0.0 };
        }
    }

    pub fn retrieve(&self, ask: &Ask, k: usize, allowed: &Allowed) -> Vec<Candidate> {
        match ask {
            Ask::Nothing => Vec::new(),
            Ask::User(v) => self.index.search(Measure::InnerProduct, v, k, allowed),
            Ask::Similar(v) => self.index.search(Measure::Cosine, v, k, allowed),
        }
    }

    /// User vectors go through the index together, the rest one by one.
    pub fn retrieve_batch(&self, asks: &[Ask], k: usize, allowed: &[Allowed]) -> Vec<Vec<Candidate>> {
        let mut queries = Vec::new();
        let mut filters = Vec::new();
        for (ask, allowed) in asks.iter().zip(allowed) {
            if let Ask::User(v) = ask {
                queries.extend_from_slice(v);
                filters.push(allowed.clone());
            }
        }
        let mut found = self.index.search_batch(Measure::InnerProduct, &queries, k, &filters).into_iter();
        let one = |(ask, allowed): (&Ask, &Allowed)| match ask {
            Ask::User(_) => found.next().unwrap_or_default(),
            other => self.retrieve(other, k, allowed),
        };
        asks.iter().zip(allowed).map(one).collect()
    }
}

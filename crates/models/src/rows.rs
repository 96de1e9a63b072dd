//! Making a sparse matrix row by row on many threads, storing one, and the traits of the models that are one.

use crate::item_item::Scratch;
use crate::{FitError, LoadError, Weights};
use rayon::prelude::*;
use sommelier_core::{Csr, FitContext, Stopped};
use std::sync::atomic::{AtomicU64, Ordering};

/// Rows a thread makes between two looks at the cancel flag.
const CHUNK: usize = 64;

/// `make(r, scratch, row)` fills the empty `row` with (column, value) in any order and leaves `scratch` empty; the
/// `keep` largest values by size stay. The result does not depend on the number of threads.
pub(crate) fn build_rows(
    what: &str,
    rows: usize,
    cols: usize,
    keep: usize,
    ctx: &FitContext,
    make: impl Fn(usize, &mut Scratch, &mut Vec<(u32, f32)>) + Sync,
) -> Result<Csr, FitError> {
    ctx.progress.start(what, Some(rows as u64));
    let done = AtomicU64::new(0);
    let parts: Result<Vec<Csr>, Stopped> = (0..rows.div_ceil(CHUNK))
        .into_par_iter()
        .map_init(
            || (Scratch::new(cols), Vec::new()),
            |(scratch, row), chunk| {
                ctx.cancel.check()?;
                let range = chunk * CHUNK..((chunk + 1) * CHUNK).min(rows);
                let count = range.len() as u64;
                let mut part = Csr { cols, ptr: vec![0], ..Csr::default() };
                for r in range {
                    row.clear();
                    make(r, scratch, row);
                    row.retain(|e: &(u32, f32)| e.1 != 0.0);
                    keep_largest(row, keep);
                    part.index.extend(row.iter().map(|e| e.0));
                    part.value.extend(row.iter().map(|e| e.1));
                    part.ptr.push(part.index.len());
                }
                part.index.shrink_to_fit();
                part.value.shrink_to_fit();
                ctx.progress.at(done.fetch_add(count, Ordering::Relaxed) + count);
                Ok(part)
            },
        )
        .collect();
    let out = stack(cols, parts?);
    ctx.progress.finish();
    Ok(out)
}

/// Keeps the `k` largest values by size, whatever the sign, equal ones by lower index, and sorts by index.
pub(crate) fn keep_largest(entries: &mut Vec<(u32, f32)>, k: usize) {
    if entries.len() > k {
        if k > 0 {
            entries.select_nth_unstable_by(k - 1, |a, b| b.1.abs().total_cmp(&a.1.abs()).then(a.0.cmp(&b.0)));
        }
        entries.truncate(k);
    }
    entries.sort_unstable_by_key(|e| e.0);
}

/// Puts matrices of the same width under each other.
fn stack(cols: usize, parts: Vec<Csr>) -> Csr {
    let nnz = parts.iter().map(Csr::nnz).sum();
    let rows: usize = parts.iter().map(Csr::rows).sum();
    let mut out = Csr {
        cols,
        ptr: Vec::with_capacity(rows + 1),
        index: Vec::with_capacity(nnz),
        value: Vec::with_capacity(nnz),
    };
    out.ptr.push(0);
    for part in parts {
        let base = out.index.len();
        out.ptr.extend(part.ptr[1..].iter().map(|p| base + p));
        out.index.extend_from_slice(&part.index);
        out.value.extend_from_slice(&part.value);
    }
    out
}

/// Bytes that [`build_rows`] needs at its peak: the parts and the stacked whole, and a scratch per thread.
pub(crate) fn rows_bytes(rows: usize, per_row: usize, cols: usize, ctx: &FitContext) -> u64 {
    let entries = rows as u64 * per_row.min(cols) as u64;
    2 * 8 * entries + 16 * rows as u64 + 9 * (cols * ctx.threads.max(1)) as u64
}

/// Stores a matrix under `ptr`, `index` and `value`.
pub(crate) fn put_csr(weights: &mut Weights, csr: &Csr) {
    weights.set_u64("ptr", &[csr.ptr.len()], csr.ptr.iter().map(|&p| p as u64).collect());
    weights.set_u32("index", &[csr.nnz()], csr.index.clone());
    weights.set_f32("value", &[csr.nnz()], csr.value.clone());
}

/// The matrix that [`put_csr`] stored, checked: a damaged one is refused. Square where `cols` is not given.
pub(crate) fn take_csr(weights: &Weights, cols: Option<usize>) -> Result<Csr, LoadError> {
    let (_, ptr) = weights.u64("ptr")?;
    let (_, index) = weights.u32("index")?;
    let (_, value) = weights.f32("value")?;
    let cols = cols.unwrap_or_else(|| ptr.len().saturating_sub(1));
    let rises = ptr.windows(2).all(|w| w[0] <= w[1]);
    if ptr.first() != Some(&0) || ptr.last() != Some(&(index.len() as u64)) || !rises {
        return Err(damaged("ptr does not fit index"));
    }
    if value.len() != index.len()
        || value.iter().any(|v| !v.is_finite())
        || index.iter().any(|&i| i as usize >= cols)
    {
        return Err(damaged("index does not fit value"));
    }
    let ptr = ptr.iter().map(|&p| p as usize).collect();
    let csr = Csr { cols, ptr, index: index.to_vec(), value: value.to_vec() };
    if (0..csr.rows()).any(|r| csr.row(r).0.windows(2).any(|w| w[0] >= w[1])) {
        return Err(damaged("index does not rise within a row"));
    }
    Ok(csr)
}

/// Stores histories (users × items): a matrix, and its width under `items`.
pub(crate) fn put_histories(weights: &mut Weights, csr: &Csr) {
    weights.set_u64("items", &[1], vec![csr.cols as u64]);
    put_csr(weights, csr);
}

/// What [`put_histories`] stored.
pub(crate) fn take_histories(weights: &Weights) -> Result<Csr, LoadError> {
    let (_, items) = weights.u64("items")?;
    let &[items] = items else { return Err(damaged("items must be one number")) };
    take_csr(weights, Some(items as usize))
}

fn damaged(words: &str) -> LoadError {
    LoadError::Other(format!("{words}; the artefact is damaged, train it again"))
}

/// Implements the model traits for a model whose field `0` does the work under methods of the same names.
macro_rules! delegate_model {
    ($model:ty, $kind:literal) => {
        impl sommelier_core::Score for $model {
            fn items(&self) -> usize {
                self.0.items()
            }
            fn score(
                &self,
                q: &sommelier_core::ResolvedQuery,
                items: &[sommelier_core::ItemIx],
                out: &mut [f32],
            ) {
                self.0.score(q, items, out);
            }
        }
        impl sommelier_core::Retrieve for $model {
            fn retrieve(
                &self,
                q: &sommelier_core::ResolvedQuery,
                k: usize,
                allowed: &sommelier_core::Allowed,
            ) -> Vec<sommelier_core::Candidate> {
                self.0.retrieve(q, k, allowed)
            }
            fn retrieve_batch(
                &self,
                queries: &[sommelier_core::ResolvedQuery],
                k: usize,
                allowed: &[sommelier_core::Allowed],
            ) -> Vec<Vec<sommelier_core::Candidate>> {
                self.0.retrieve_batch(queries, k, allowed)
            }
        }
        impl sommelier_core::Explain for $model {
            fn contributions(
                &self,
                q: &sommelier_core::ResolvedQuery,
                item: sommelier_core::ItemIx,
                limit: usize,
            ) -> Vec<(sommelier_core::ItemIx, f32)> {
                self.0.contributions(q, item, limit)
            }
        }
        impl $crate::Model for $model {
            fn kind(&self) -> &'static str {
                $kind
            }
            fn weights(&self) -> $crate::Weights {
                let mut weights = $crate::Weights::default();
                self.0.put(&mut weights);
                weights
            }
        }
    };
}
pub(crate) use delegate_model;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_are_kept_by_size() {
        let mut entries = vec![(5, 1.0), (1, -3.0), (2, 2.0), (9, 2.0)];
        keep_largest(&mut entries, 2);
        assert_eq!(entries, [(1, -3.0), (2, 2.0)]);
        keep_largest(&mut entries, 0);
        assert!(entries.is_empty());
    }

    #[test]
    fn rows_are_in_order_whatever_the_chunks() {
        let make =
            |r: usize, _: &mut Scratch, row: &mut Vec<(u32, f32)>| row.push((r as u32 % 7, r as f32 + 1.0));
        let m = build_rows("rows", 1000, 7, 3, &FitContext::quiet(0), make).unwrap();
        assert_eq!(m.rows(), 1000);
        for r in 0..1000 {
            assert_eq!(m.row(r), (&[r as u32 % 7][..], &[r as f32 + 1.0][..]));
        }
    }
}

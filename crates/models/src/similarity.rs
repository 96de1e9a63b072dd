//! Similarities between the rows of a sparse matrix, and each row's nearest others: what the neighbourhood models share.
//!
//! Weighting of the entries first (x is the raw value, row r, column c):
//!   none    x
//!   tf_idf  √x · ln(N / (1 + n_c))                                     N rows, n_c entries in column c
//!   bm25    x (k1 + 1) / (k1 (1 − b + b len_r / mean len) + x) · ln(N / (1 + n_c))      len_r = Σ_c x
//! then the similarity of two rows, with d their inner product:
//!   dot              d
//!   cosine           d / (‖a‖‖b‖ + shrink)
//!   adjusted_cosine  the same after each column's mean over its own entries was taken off
//!   tversky          d / (d + α (|a| − d) + β (|b| − d) + shrink) on entries set to 1, |a| their number; a is the row
//!                    whose neighbours are sought
//!   jaccard          tversky with α = β = 1
//! A row is no neighbour of itself, and only positive similarities count.
//!
//! Cost: Σ_c n_c² products. Rows run in parallel, each with a dense row of sums.
//! Source: Sarwar et al., WWW 2001; Deshpande and Karypis, TOIS 2004; Robertson and Zaragoza 2009 for BM25.

use crate::FitError;
use crate::model::{plan, require};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sommelier_core::{Csr, FitContext};
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Weighting {
    #[default]
    None,
    TfIdf,
    Bm25,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    #[default]
    Cosine,
    AdjustedCosine,
    Dot,
    Tversky,
    Jaccard,
}

/// How rows are compared and how many neighbours each keeps.
#[derive(Debug, Clone, PartialEq)]
pub struct Similarity {
    pub weighting: Weighting,
    pub measure: Measure,
    /// Neighbours kept per row.
    pub top_k: usize,
    /// Added to the denominator: similarities that rest on few common entries shrink most.
    pub shrink: f32,
    /// BM25: how fast repeated entries saturate, and how much long rows are held back.
    pub k1: f32,
    pub b: f32,
    /// Tversky: what entries of only the row itself, and of only the neighbour, count against.
    pub alpha: f32,
    pub beta: f32,
}

impl Similarity {
    pub(crate) fn check(&self) -> Result<(), FitError> {
        require("top_k", self.top_k as f64, self.top_k > 0, "at least 1")?;
        require("shrink", self.shrink.into(), self.shrink >= 0.0, "0 or more")?;
        require("k1", self.k1.into(), self.k1 >= 0.0, "0 or more")?;
        require("b", self.b.into(), (0.0..=1.0).contains(&self.b), "from 0 to 1")?;
        require("alpha", self.alpha.into(), self.alpha >= 0.0, "0 or more")?;
        require("beta", self.beta.into(), self.beta >= 0.0, "0 or more")
    }

    /// The entries of `rows` as the similarity sees them, and what it takes to see one more row the same way.
    pub(crate) fn prepare(&self, rows: &Csr) -> Result<(Csr, Columns), FitError> {
        let mut out = rows.clone();
        let mut columns = Columns::default();
        if self.weighting != Weighting::None {
            columns.weigh(rows);
        }
        each_row(&mut out, |index, values| self.weigh_row(&columns, index, values));
        if self.measure == Measure::AdjustedCosine {
            columns.means = column_means(&out);
            each_row(&mut out, |index, values| take_off(&columns.means, index, values));
            if out.value.iter().all(|v| v.abs() < 1e-6) {
                let why = "adjusted cosine compares weights that differ, and here they are all the same; use similarity = \"cosine\"";
                return Err(FitError::NoData(why.into()));
            }
        }
        drop_zeros(&mut out);
        Ok((out, columns))
    }

    /// One row, of the matrix or new to it, as the similarity sees it.
    pub(crate) fn prepare_row(&self, columns: &Columns, index: &[u32], values: &mut [f32]) {
        self.weigh_row(columns, index, values);
        if self.measure == Measure::AdjustedCosine {
            take_off(&columns.means, index, values);
        }
    }

    fn weigh_row(&self, columns: &Columns, index: &[u32], values: &mut [f32]) {
        if matches!(self.measure, Measure::Tversky | Measure::Jaccard) {
            values.fill(1.0);
            return;
        }
        let (k1, b) = (f64::from(self.k1), f64::from(self.b));
        let len: f64 = values.iter().map(|&v| f64::from(v)).sum();
        for (&c, v) in index.iter().zip(values) {
            let x = f64::from(*v);
            *v = match self.weighting {
                Weighting::None => continue,
                Weighting::TfIdf => x.sqrt() * columns.idf[c as usize],
                Weighting::Bm25 => {
                    x * (k1 + 1.0) / (k1 * (1.0 - b + b * len / columns.mean_len) + x)
                        * columns.idf[c as usize]
                }
            } as f32;
        }
    }

    /// Similarity of rows with size `a` (the one asking) and `b`, whose inner product is `d`; sizes are norms,
    /// or numbers of entries for the set measures.
    #[inline]
    pub(crate) fn of(&self, d: f32, a: f32, b: f32) -> f32 {
        let (alpha, beta) =
            if self.measure == Measure::Jaccard { (1.0, 1.0) } else { (self.alpha, self.beta) };
        let denominator = match self.measure {
            Measure::Dot => 1.0,
            Measure::Cosine | Measure::AdjustedCosine => a * b + self.shrink,
            Measure::Tversky | Measure::Jaccard => d + alpha * (a - d) + beta * (b - d) + self.shrink,
        };
        if denominator > 0.0 { d / denominator } else { 0.0 }
    }

    pub(crate) fn size(&self, values: &[f32]) -> f32 {
        match self.measure {
            Measure::Tversky | Measure::Jaccard => values.len() as f32,
            _ => values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt() as f32,
        }
    }
}

fn each_row(m: &mut Csr, mut work: impl FnMut(&[u32], &mut [f32])) {
    for r in 0..m.rows() {
        let range = m.ptr[r]..m.ptr[r + 1];
        work(&m.index[range.clone()], &mut m.value[range]);
    }
}

/// An entry of zero takes no part in any inner product.
fn drop_zeros(rows: &mut Csr) {
    let mut kept = 0;
    let mut start = 0;
    for r in 0..rows.rows() {
        for e in start..rows.ptr[r + 1] {
            if rows.value[e] != 0.0 {
                (rows.index[kept], rows.value[kept]) = (rows.index[e], rows.value[e]);
                kept += 1;
            }
        }
        start = rows.ptr[r + 1];
        rows.ptr[r + 1] = kept;
    }
    rows.index.truncate(kept);
    rows.value.truncate(kept);
}

/// What weighing one row takes from the whole matrix; empty where the options do not need it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Columns {
    idf: Vec<f64>,
    mean_len: f64,
    means: Vec<f32>,
}

impl Columns {
    fn weigh(&mut self, rows: &Csr) {
        let n = rows.rows();
        let mut entries = vec![0usize; rows.cols];
        rows.index.iter().for_each(|&c| entries[c as usize] += 1);
        self.idf = entries.iter().map(|&c| (n as f64).ln() - (c as f64).ln_1p()).collect();
        self.mean_len = rows.value.iter().map(|&v| f64::from(v)).sum::<f64>() / n as f64;
    }
}

/// Mean of each column over its own entries.
fn column_means(rows: &Csr) -> Vec<f32> {
    let mut sums = vec![(0f64, 0usize); rows.cols];
    for (&c, &v) in rows.index.iter().zip(&rows.value) {
        let s = &mut sums[c as usize];
        *s = (s.0 + f64::from(v), s.1 + 1);
    }
    sums.into_iter().map(|(sum, count)| (sum / count.max(1) as f64) as f32).collect()
}

fn take_off(means: &[f32], index: &[u32], values: &mut [f32]) {
    index.iter().zip(values).for_each(|(&c, v)| *v -= means[c as usize]);
}

/// For each row of `rows` the `top_k` most similar other rows: row r of the result holds their similarities.
/// Deterministic whatever the number of threads; equal similarities go to the lower index.
pub fn neighbours(rows: &Csr, options: &Similarity, ctx: &FitContext) -> Result<Csr, FitError> {
    options.check()?;
    let n = rows.rows();
    let kept = (n * options.top_k.min(n)) as u64;
    let bytes = 24 * rows.nnz() as u64 + 16 * kept + (ctx.threads * n * 8) as u64 + 1024;
    plan(ctx, bytes, "the matrix twice, all neighbours, a row of sums a thread", "lower top_k")?;
    ctx.cancel.check()?;
    let matrix = Ranked::new(options.prepare(rows)?.0, options);
    ctx.progress.start("neighbours", Some(n as u64));
    let done = AtomicU64::new(0);
    let lists: Vec<Vec<(u32, f32)>> = (0..n)
        .into_par_iter()
        .map_init(
            || Sums::new(n, options.top_k),
            |sums, r| {
                if r % 64 == 0 {
                    ctx.progress.at(done.fetch_add(64, Ordering::Relaxed));
                }
                if ctx.cancel.is_cancelled() { Vec::new() } else { matrix.nearest(r, options, sums) }
            },
        )
        .collect();
    ctx.progress.finish();
    ctx.cancel.check()?;
    let mut out = Csr { cols: n, ptr: vec![0], ..Csr::default() };
    for list in lists {
        out.index.extend(list.iter().map(|e| e.0));
        out.value.extend(list.iter().map(|e| e.1));
        out.ptr.push(out.index.len());
    }
    Ok(out)
}

/// The prepared matrix, and its transpose with rows named by rank: the fullest rows, which nearly every column meets,
/// are ranked first, so that most sums fall into the first cache.
struct Ranked {
    rows: Csr,
    /// Columns × ranks.
    columns: Csr,
    /// Whether every entry is 1.
    ones: bool,
    /// `row_of[rank]`, its inverse, and each rank's size.
    row_of: Vec<u32>,
    rank_of: Vec<u32>,
    sizes: Vec<f32>,
}

/// A thread's sums, by rank, which ranks were met, and the best so far.
struct Sums {
    sum: Vec<f32>,
    met: Vec<u32>,
    best: Vec<(f32, u32)>,
}

impl Sums {
    fn new(n: usize, top_k: usize) -> Sums {
        Sums { sum: vec![UNTOUCHED; n], met: vec![0; n + 1], best: Vec::with_capacity(2 * top_k.min(n) + 64) }
    }
}

/// A sum nothing was added to: minus zero, which adding a number other than minus zero never leaves behind.
const UNTOUCHED: f32 = -0.0;

impl Ranked {
    fn new(rows: Csr, options: &Similarity) -> Ranked {
        let n = rows.rows();
        let mut row_of: Vec<u32> = (0..n as u32).collect();
        row_of.sort_by_key(|&r| std::cmp::Reverse(rows.row_len(r as usize)));
        let mut rank_of = vec![0u32; n];
        row_of.iter().enumerate().for_each(|(rank, &r)| rank_of[r as usize] = rank as u32);
        let sizes = row_of.iter().map(|&r| options.size(rows.row(r as usize).1)).collect();
        let mut columns = rows.transpose();
        columns.index.iter_mut().for_each(|r| *r = rank_of[*r as usize]);
        let ones = rows.value.iter().all(|&v| v == 1.0);
        Ranked { rows, columns, ones, row_of, rank_of, sizes }
    }

    /// The neighbours of row `r`, by index.
    fn nearest(&self, r: usize, options: &Similarity, sums: &mut Sums) -> Vec<(u32, f32)> {
        let mut count = 0;
        // Noted on every visit, counted on the first: no branch to mispredict.
        let mut add = |other: u32, product: f32| {
            let sum = &mut sums.sum[other as usize];
            if let Some(next) = sums.met.get_mut(count) {
                *next = other;
            }
            count += usize::from(sum.to_bits() == UNTOUCHED.to_bits());
            *sum += product;
        };
        let (index, value) = self.rows.row(r);
        for (&c, &x) in index.iter().zip(value) {
            let (others, values) = self.columns.row(c as usize);
            if self.ones {
                for &other in others {
                    add(other, 1.0);
                }
            } else {
                others.iter().zip(values).for_each(|(&other, &y)| add(other, x * y));
            }
        }
        let me = self.rank_of[r] as usize;
        let mine = self.sizes[me];
        let better = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
        let room = 2 * options.top_k.min(self.sizes.len()) + 64;
        let mut bar = f32::MIN_POSITIVE;
        sums.best.clear();
        for &other in &sums.met[..count.min(sums.met.len())] {
            let at = other as usize;
            let d = std::mem::replace(&mut sums.sum[at], UNTOUCHED);
            let similarity = options.of(d, mine, self.sizes[at]);
            if similarity >= bar && at != me {
                sums.best.push((similarity, self.row_of[at]));
                if sums.best.len() == room {
                    // Of a full buffer the worse half goes; what is worse than the rest never comes in again.
                    sums.best.select_nth_unstable_by(options.top_k - 1, better);
                    sums.best.truncate(options.top_k);
                    bar = sums.best[options.top_k - 1].0;
                }
            }
        }
        if sums.best.len() > options.top_k {
            sums.best.select_nth_unstable_by(options.top_k - 1, better);
            sums.best.truncate(options.top_k);
        }
        let mut list: Vec<(u32, f32)> =
            sums.best.iter().map(|&(similarity, row)| (row, similarity)).collect();
        list.sort_unstable_by_key(|e| e.0);
        list
    }
}

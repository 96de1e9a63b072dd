//! EASE: a linear item–item autoencoder with a closed-form solution.
//!
//! min ‖X − XB‖² + λ‖B‖², diag(B) = 0  ⇒  P = (XᵀX + λI)⁻¹, B_ij = −P_ij / P_jj (i ≠ j)
//!
//! Shapes: X (users × items) sparse; P, B (items × items) dense, one in the place of the other; scores = xB (items).
//! Cost: Σ_u n_u² + items³ operations, 4 items² bytes; users enter only through XᵀX.
//! Source: Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019, arXiv:1905.03375.
//! Departure: `f32` throughout. The inverse is checked against XᵀX + λI before it is used.

use crate::item_item::{known_profile, largest};
use crate::model::{plan, require};
use crate::{FitError, LoadError, Model, Weights};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sommelier_core::{
    Allowed, Candidate, Csr, Explain, FitContext, ItemIx, ResolvedQuery, Retrieve, Rng, Score, Stopped,
};
use sommelier_data::snapshot::Snapshot;
use sommelier_index::exact::TopK;
use sommelier_nn::kernel::{self, NotPositive};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EaseConfig {
    /// λ: the larger, the less a single co-occurrence counts.
    pub l2: f64,
    /// Count the weights of events; false: each pair counts 1, as in the paper.
    pub weighted: bool,
}

impl Default for EaseConfig {
    /// λ = 500 suits MovieLens-1M.
    fn default() -> EaseConfig {
        EaseConfig { l2: 500.0, weighted: false }
    }
}

/// The weights B. A value exists only once fitted, so it can always score.
#[derive(Debug, Clone)]
pub struct Ease {
    items: usize,
    /// Row i: what having item i adds to each item.
    b: Vec<f32>,
    weighted: bool,
}

impl EaseConfig {
    pub fn fit(&self, snapshot: &Snapshot, ctx: &mut FitContext) -> Result<Ease, FitError> {
        require("l2", self.l2, self.l2 > 0.0, "more than 0")?;
        let (by_user, by_item) = (&snapshot.interactions().by_user, &snapshot.interactions().by_item);
        let items = snapshot.items.len();
        let bytes = 4 * (items as u64).pow(2) + 2 * 4 * 256 * items as u64;
        plan(ctx, bytes, &format!("a dense matrix of {items} × {items} items"), "use sparse_ease")?;
        ctx.cancel.check()?;
        let x = Side { by_user, by_item, weighted: self.weighted };
        let mut b = x.gram(self.l2 as f32, ctx)?;
        ctx.progress.start("ease: inverse", Some(items as u64));
        kernel::spd_inverse_in_place::<Trouble>(&mut b, items, |done| {
            ctx.progress.at(done as u64);
            Ok(ctx.cancel.check()?)
        })
        .map_err(|trouble| trouble.into_fit_error(self.l2))?;
        ctx.progress.finish();
        x.check_inverse(&b, self.l2, ctx.seed)?;
        // The matrix now holds −P: B_ij = −P_ij / P_jj is its entry over minus its own diagonal.
        let scale: Vec<f32> = (0..items).map(|j| -1.0 / b[j * items + j]).collect();
        kernel::mirror_scaled(&mut b, items, &scale);
        Ok(Ease { items, b, weighted: self.weighted })
    }

    pub fn load(&self, weights: &Weights) -> Result<Ease, LoadError> {
        let (rows, cols, b) = weights.matrix("b", None)?;
        if rows != cols {
            return Err(LoadError::Shape {
                name: "b".into(),
                expected: vec![cols, cols],
                received: vec![rows, cols],
            });
        }
        Ok(Ease { items: rows, b: b.to_vec(), weighted: self.weighted })
    }
}

/// Why an inversion ended early.
enum Trouble {
    NotPositive,
    Stopped(Stopped),
}

impl From<NotPositive> for Trouble {
    fn from(_: NotPositive) -> Trouble {
        Trouble::NotPositive
    }
}

impl From<Stopped> for Trouble {
    fn from(stopped: Stopped) -> Trouble {
        Trouble::Stopped(stopped)
    }
}

impl Trouble {
    fn into_fit_error(self, l2: f64) -> FitError {
        match self {
            Trouble::Stopped(stopped) => stopped.into(),
            Trouble::NotPositive => too_small(l2),
        }
    }
}

fn too_small(l2: f64) -> FitError {
    FitError::Numeric(format!(
        "l2 = {l2} is too small for these data in 32-bit arithmetic; raise it (try {})",
        l2 * 10.0
    ))
}

/// The sparse X, seen from both sides.
struct Side<'a> {
    by_user: &'a Csr,
    by_item: &'a Csr,
    weighted: bool,
}

impl Side<'_> {
    fn value(&self, v: f32) -> f32 {
        if self.weighted { v } else { 1.0 }
    }

    /// The lower triangle of XᵀX + λI, row by row: a row stays in the first cache while it is summed.
    fn gram(&self, l2: f32, ctx: &FitContext) -> Result<Vec<f32>, FitError> {
        let items = self.by_item.rows();
        ctx.progress.start("ease: co-occurrences", Some(items as u64));
        let mut g = vec![0f32; items * items];
        g.par_chunks_mut(items.max(1)).enumerate().for_each(|(i, row)| {
            if ctx.cancel.is_cancelled() {
                return;
            }
            let (users, xs) = self.by_item.row(i);
            for (&u, &x) in users.iter().zip(xs) {
                let x = self.value(x);
                let (others, values) = self.by_user.row(u as usize);
                let below = others.partition_point(|&j| j as usize <= i);
                if self.weighted {
                    for (&j, &v) in others[..below].iter().zip(values) {
                        row[j as usize] += x * v;
                    }
                } else {
                    others[..below].iter().for_each(|&j| row[j as usize] += 1.0);
                }
            }
            row[i] += l2;
        });
        ctx.progress.finish();
        ctx.cancel.check()?;
        Ok(g)
    }

    /// Puts a random vector through P and XᵀX + λI; it must come back. `negative` holds −P in its lower triangle.
    fn check_inverse(&self, negative: &[f32], l2: f64, seed: u64) -> Result<(), FitError> {
        let items = self.by_item.rows();
        let mut rng = Rng::stream(seed, 0xea5e);
        let v: Vec<f32> = (0..items).map(|_| rng.normal() as f32).collect();
        // y = P v from the lower triangle: below the diagonal by rows, above it by columns.
        let lower: Vec<f32> = (0..items)
            .into_par_iter()
            .map(|i| kernel::dot(&negative[i * items..=i * items + i], &v))
            .collect();
        let upper = (0..items)
            .into_par_iter()
            .fold(
                || vec![0f64; items],
                |mut sum, i| {
                    for (s, &p) in sum.iter_mut().zip(&negative[i * items..i * items + i]) {
                        *s += f64::from(p) * f64::from(v[i]);
                    }
                    sum
                },
            )
            .reduce(|| vec![0f64; items], |a, b| a.iter().zip(&b).map(|(x, y)| x + y).collect());
        let y: Vec<f64> = lower.iter().zip(&upper).map(|(l, u)| -(f64::from(*l) + u)).collect();
        let mut back: Vec<f64> = y.iter().map(|y| l2 * y).collect();
        for u in 0..self.by_user.rows() {
            let (cols, values) = self.by_user.row(u);
            let entries = || cols.iter().zip(values).map(|(&j, &x)| (j as usize, f64::from(self.value(x))));
            let sum: f64 = entries().map(|(j, x)| x * y[j]).sum();
            entries().for_each(|(j, x)| back[j] += x * sum);
        }
        let miss: f64 = back.iter().zip(&v).map(|(b, v)| (b - f64::from(*v)).powi(2)).sum();
        let size: f64 = v.iter().map(|v| f64::from(*v).powi(2)).sum();
        if miss.is_finite() && miss <= (0.02f64).powi(2) * size { Ok(()) } else { Err(too_small(l2)) }
    }
}

impl Ease {
    fn row(&self, item: usize) -> &[f32] {
        &self.b[item * self.items..(item + 1) * self.items]
    }

    fn profile(&self, q: &ResolvedQuery) -> Vec<(usize, f32)> {
        known_profile(q, self.items, self.weighted)
    }
}

/// Items scored at once: their sums stay in the first cache while the rows of a history pass by.
const STRIP: usize = 4096;

impl Score for Ease {
    fn items(&self) -> usize {
        self.items
    }

    fn score(&self, q: &ResolvedQuery, items: &[ItemIx], out: &mut [f32]) {
        out.fill(0.0);
        for (i, x) in self.profile(q) {
            let row = self.row(i);
            for (out, item) in out.iter_mut().zip(items) {
                *out += x * row.get(item.ix()).copied().unwrap_or(0.0);
            }
        }
    }
}

impl Retrieve for Ease {
    fn retrieve(&self, q: &ResolvedQuery, k: usize, allowed: &Allowed) -> Vec<Candidate> {
        let profile = self.profile(q);
        if profile.is_empty() {
            return Vec::new();
        }
        let mut best = TopK::new(k.min(self.items));
        let mut sums = vec![0f32; STRIP.min(self.items)];
        let mut passed = Vec::new();
        for start in (0..self.items).step_by(STRIP) {
            let sums = &mut sums[..STRIP.min(self.items - start)];
            sums.fill(0.0);
            for &(i, x) in &profile {
                kernel::axpy(x, &self.row(i)[start..start + sums.len()], sums);
            }
            passed.clear();
            kernel::select_above(sums, best.threshold(), &mut passed);
            for &p in &passed {
                best.offer(sums[p as usize], start as u32 + p, allowed);
            }
        }
        best.into_sorted()
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

impl Explain for Ease {
    /// Exact: the shares sum to the score.
    fn contributions(&self, q: &ResolvedQuery, item: ItemIx, limit: usize) -> Vec<(ItemIx, f32)> {
        if item.ix() >= self.items {
            return Vec::new();
        }
        let shares = self.profile(q).into_iter().map(|(i, x)| (ItemIx(i as u32), x * self.row(i)[item.ix()]));
        largest(shares.collect(), limit)
    }
}

impl Model for Ease {
    fn kind(&self) -> &'static str {
        "ease"
    }

    fn weights(&self) -> Weights {
        let mut weights = Weights::default();
        weights.set_f32("b", &[self.items, self.items], self.b.clone());
        weights
    }
}

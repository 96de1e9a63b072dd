//! PureSVD: people and items in the space of the largest singular vectors.
//!
//! X ≈ U Σ Vᵀ, `dim` singular values; a history x is projected on that space: scores = x V Vᵀ.
//!
//! Shapes: X (users × items) sparse; V (items × dim); a person xV (dim); scores (items).
//! Cost: O((|X| · l + (users + items) · l²) · iterations) time and O((users + items) · l) memory, l = dim + oversample.
//! Source: Cremonesi, Koren, Turrin, "Performance of Recommender Algorithms on Top-N Recommendation Tasks", RecSys 2010;
//! randomised SVD as in Halko, Martinsson, Tropp, SIAM Review 2011, arXiv:0909.4061 (its algorithm 4.4).
//! Departures: none; missing entries are 0, as in the paper.

use crate::linear_factors::LinearFactors;
use crate::model::{plan, require};
use crate::rows::delegate_model;
use crate::{FitError, LoadError, Weights};
use faer::Mat;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sommelier_core::{Csr, FitContext, Rng};
use sommelier_data::Snapshot;
use sommelier_nn::kernel;

/// Defaults were tried on ml-1m (its given split), not searched for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PureSvdConfig {
    /// Number of singular vectors.
    pub dim: usize,
    /// Passes over the data that sharpen the space; each makes small singular values matter less.
    pub iterations: usize,
    /// Directions carried along and dropped at the end.
    pub oversample: usize,
    /// Whether an item of a history counts its weight, or 1.
    pub weighted: bool,
}

impl Default for PureSvdConfig {
    fn default() -> PureSvdConfig {
        PureSvdConfig { dim: 64, iterations: 5, oversample: 16, weighted: true }
    }
}

/// The item vectors V.
#[derive(Debug, Clone)]
pub struct PureSvd(LinearFactors);

impl PureSvdConfig {
    pub fn fit(&self, train: &Snapshot, ctx: &mut FitContext) -> Result<PureSvd, FitError> {
        require("dim", self.dim as f64, self.dim > 0, "at least 1")?;
        let x = train.interactions();
        if x.by_user.nnz() == 0 {
            return Err(FitError::NoData("pure_svd needs positive interactions".into()));
        }
        let (users, items) = (x.by_user.rows(), x.by_item.rows());
        let width = (self.dim + self.oversample).min(users).min(items);
        plan(
            ctx,
            4 * 3 * ((users + items) * width) as u64,
            &format!("{width} numbers for each of {users} users and {items} items, three times"),
            "lower dim",
        )?;
        let (v, _) = self.truncated(&x.by_user, &x.by_item, width, ctx)?;
        let dim = v.len() / items;
        LinearFactors::new(&v, dim, false, 0, self.weighted)
            .map(PureSvd)
            .map_err(|e| FitError::Numeric(e.to_string()))
    }

    pub fn load(&self, weights: &Weights) -> Result<PureSvd, LoadError> {
        LinearFactors::take(weights, false, 0, self.weighted).map(PureSvd)
    }

    /// V (items × dim, row-major) and the singular values, largest first; fewer than `dim` where the rank is lower.
    fn truncated(
        &self,
        by_user: &Csr,
        by_item: &Csr,
        width: usize,
        ctx: &FitContext,
    ) -> Result<(Vec<f32>, Vec<f32>), FitError> {
        let items = by_item.rows();
        let mut rng = Rng::stream(ctx.seed, 0);
        let mut space: Vec<f32> = (0..items * width).map(|_| rng.normal() as f32).collect();
        ctx.progress.start("singular vectors", Some(self.iterations as u64 + 1));
        for pass in 0..=self.iterations {
            ctx.cancel.check()?;
            let people = orthonormal(times(by_user, &space, width), width).0;
            space = orthonormal(times(by_item, &people, width), width).0;
            ctx.progress.at(pass as u64 + 1);
        }
        ctx.cancel.check()?;
        // X on the space is (QR); the singular vectors of the small R turn the space into singular vectors of X.
        let (_, r) = orthonormal(times(by_user, &space, width), width);
        let svd = r.svd().map_err(|e| {
            FitError::Numeric(format!("no singular values: {e:?}; check the weights for extremes"))
        })?;
        let sigma: Vec<f32> = svd.S().column_vector().iter().copied().collect();
        let floor = sigma[0] * f32::EPSILON * (width as f32).sqrt();
        let dim = sigma.iter().take(self.dim).take_while(|&&s| s > floor).count().max(1);
        let turn = svd.V();
        let mut turn_rows = vec![0f32; width * dim];
        for a in 0..width {
            for b in 0..dim {
                turn_rows[a * dim + b] = turn[(a, b)];
            }
        }
        let mut v = vec![0f32; items * dim];
        v.par_chunks_mut(dim).zip(space.par_chunks(width)).for_each(|(out, row)| {
            for (a, &value) in row.iter().enumerate() {
                kernel::axpy(value, &turn_rows[a * dim..(a + 1) * dim], out);
            }
        });
        ctx.progress.finish();
        Ok((v, sigma[..dim].to_vec()))
    }
}

/// `m` (rows × cols) times `dense` (cols × width, row-major).
fn times(m: &Csr, dense: &[f32], width: usize) -> Vec<f32> {
    let mut out = vec![0f32; m.rows() * width];
    out.par_chunks_mut(width).enumerate().for_each(|(r, out)| {
        let (cols, values) = m.row(r);
        for (&c, &v) in cols.iter().zip(values) {
            kernel::axpy(v, &dense[c as usize * width..(c as usize + 1) * width], out);
        }
    });
    out
}

/// QR of a matrix of `width` columns (row-major, at least as many rows): Q row-major, R.
fn orthonormal(rows: Vec<f32>, width: usize) -> (Vec<f32>, Mat<f32>) {
    let n = rows.len() / width;
    let qr = faer::MatRef::from_row_major_slice(&rows, n, width).qr();
    drop(rows);
    let q = qr.compute_thin_Q();
    let r = qr.thin_R().to_owned();
    let mut out = vec![0f32; n * width];
    for c in 0..width {
        for (row, &v) in q.col(c).iter().enumerate() {
            out[row * width + c] = v;
        }
    }
    (out, r)
}

delegate_model!(PureSvd, "pure_svd");

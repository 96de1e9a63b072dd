//! RP3beta: random walks of three steps over the graph of users and items, less the pull of popular items.
//!
//! W_ij = Σ_u (A_iu / d_i)^α (A_uj / d_u)^α / d_j^β (i≠j), the `neighbours` largest of each row kept, rows made to
//! sum to 1 where `normalise` says so; scores = xW.
//!
//! Shapes: A (users × items) weights, d row or column sums of A; W (items × items) sparse; scores (items).
//! Cost: O(Σ_u |A_u|²) time, O(items · neighbours) memory.
//! Source: Paudel, Christoffel, Newell, Bernstein, "Updatable, Accurate, Diverse, and Scalable Recommendations for
//! Interactive Applications", ACM TiiS 2017; α as in Cooper et al., "Random Walks in Recommender Systems", WWW 2014.
//! Departures: none; keeping the largest of each row and normalising rows is how later comparisons run it
//! (Ferrari Dacrema et al., RecSys 2019, arXiv:1907.06902).

use crate::item_item::ItemItem;
use crate::model::{plan, require};
use crate::rows::{build_rows, delegate_model, rows_bytes};
use crate::{FitError, LoadError, Weights};
use serde::{Deserialize, Serialize};
use sommelier_core::{Csr, FitContext};
use sommelier_data::Snapshot;

/// Defaults were chosen by Recall@20 on an eighth of gowalla's training items.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rp3betaConfig {
    /// α ≥ 0: exponent of the step probabilities; below 1 evens them out.
    pub alpha: f64,
    /// β ≥ 0: how much popular items are held back; 0 is P3α.
    pub beta: f64,
    /// How many neighbours of each item are kept.
    pub neighbours: usize,
    /// Make each row of W sum to 1, so that every item of a history has the same say.
    pub normalise: bool,
    /// Whether an item of a history counts its weight, or 1.
    pub weighted: bool,
}

impl Default for Rp3betaConfig {
    fn default() -> Rp3betaConfig {
        Rp3betaConfig { alpha: 0.6, beta: 0.3, neighbours: 200, normalise: true, weighted: true }
    }
}

/// The walk weights W.
#[derive(Debug, Clone)]
pub struct Rp3beta(ItemItem);

impl Rp3betaConfig {
    pub fn fit(&self, train: &Snapshot, ctx: &mut FitContext) -> Result<Rp3beta, FitError> {
        require("alpha", self.alpha, self.alpha >= 0.0, "a finite number of at least 0")?;
        require("beta", self.beta, self.beta >= 0.0, "a finite number of at least 0")?;
        let n = train.items.len();
        let x = train.interactions();
        if x.by_user.nnz() == 0 {
            return Err(FitError::NoData("rp3beta needs positive interactions".into()));
        }
        plan(
            ctx,
            rows_bytes(n, self.neighbours, n, ctx) + 4 * 2 * x.by_user.nnz() as u64,
            &format!("{} neighbours of {n} items", self.neighbours.min(n)),
            "lower neighbours",
        )?;
        let (to_item, to_user) = (steps(&x.by_user, self.alpha), steps(&x.by_item, self.alpha));
        let penalty: Vec<f32> = (0..n)
            .map(|i| {
                let degree: f64 = x.by_item.row(i).1.iter().map(|&v| f64::from(v)).sum();
                if degree > 0.0 { degree.powf(-self.beta) as f32 } else { 0.0 }
            })
            .collect();
        let mut w = build_rows("walks", n, n, self.neighbours, ctx, |i, scratch, row| {
            let back = x.by_item.ptr[i]..x.by_item.ptr[i + 1];
            for (&u, &p) in x.by_item.index[back.clone()].iter().zip(&to_user[back]) {
                let on = x.by_user.ptr[u as usize]..x.by_user.ptr[u as usize + 1];
                for (&j, &p2) in x.by_user.index[on.clone()].iter().zip(&to_item[on]) {
                    scratch.add(j, p * p2);
                }
            }
            scratch.drain(|j, walks| {
                if j as usize != i {
                    row.push((j, walks * penalty[j as usize]));
                }
            });
        })?;
        if self.normalise {
            for i in 0..n {
                let row = &mut w.value[w.ptr[i]..w.ptr[i + 1]];
                let total: f32 = row.iter().sum();
                if total > 0.0 {
                    row.iter_mut().for_each(|v| *v /= total);
                }
            }
        }
        Ok(Rp3beta(ItemItem::new(w, self.weighted)))
    }

    pub fn load(&self, weights: &Weights) -> Result<Rp3beta, LoadError> {
        ItemItem::take(weights, self.weighted).map(Rp3beta)
    }
}

/// Probability of each step out of a row, to the power α; in the order of the matrix's values.
fn steps(m: &Csr, alpha: f64) -> Vec<f32> {
    let mut out = Vec::with_capacity(m.nnz());
    for r in 0..m.rows() {
        let (_, values) = m.row(r);
        let degree: f64 = values.iter().map(|&v| f64::from(v)).sum();
        out.extend(values.iter().map(|&v| (f64::from(v) / degree).powf(alpha) as f32));
    }
    out
}

delegate_model!(Rp3beta, "rp3beta");

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand: a has {x, y}, b has {x}; walks x→{a,b}→y and y→a→x.
    #[test]
    fn walks_by_hand() {
        let train = Snapshot::from_pairs("t", &[("a", "x"), ("a", "y"), ("b", "x")]);
        let config =
            Rp3betaConfig { alpha: 1.0, beta: 1.0, neighbours: 10, normalise: false, weighted: true };
        let w = config.fit(&train, &mut FitContext::quiet(0)).unwrap().0;
        let w = w.matrix();
        assert_eq!(w.row(0), (&[1][..], &[0.25][..])); // 1/2 · 1/2 / 1
        assert_eq!(w.row(1), (&[0][..], &[0.25][..])); // 1 · 1/2 / 2
    }
}

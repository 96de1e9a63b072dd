//! SLIM: each item as a sparse, by default non-negative, linear mix of the others.
//!
//! min_W ½‖X − XW‖² + ½ l2 ‖W‖² + l1 ‖W‖₁, diag(W) = 0, W ≥ 0 unless `signed`; scores = xW.
//!
//! Shapes: X (users × items) sparse; G = XᵀX and W (items × items) sparse; scores (items).
//! Cost: O(Σ_u |X_u|²) time for G, whose non-zeros are kept; then for each item the rows of G of the items it uses, and
//! a few sweeps over the items it could use. Items are independent of each other.
//! Source: Ning, Karypis, "SLIM: Sparse Linear Methods for Top-N Recommender Systems", ICDM 2011.
//! Departures: coordinate descent runs on G (as in Friedman, Hastie, Tibshirani, "Regularization Paths for Generalized
//! Linear Models via Coordinate Descent", JSS 2010), so users enter only through it; only the `neighbours` largest
//! weights of each item are kept.
//! scikit-learn's ElasticNet(alpha, l1_ratio) is l1 = users · alpha · l1_ratio, l2 = users · alpha · (1 − l1_ratio).

use crate::item_item::ItemItem;
use crate::model::{plan, require};
use crate::rows::{build_rows, delegate_model, rows_bytes};
use crate::{FitError, LoadError, Weights};
use serde::{Deserialize, Serialize};
use sommelier_core::{Csr, FitContext};
use sommelier_data::Snapshot;

/// Defaults were tried on ml-1m (its given split), not searched for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SlimConfig {
    /// Weight of Σ|w|: the larger, the fewer neighbours an item has.
    pub l1: f64,
    /// Weight of ½Σw²: the larger, the more even the neighbours.
    pub l2: f64,
    /// Allow negative weights. Slower: every item could then play a part.
    pub signed: bool,
    /// How many of each item's largest weights are kept.
    pub neighbours: usize,
    /// Most sweeps for one item.
    pub sweeps: usize,
    /// An item is done when no weight moved its own fit by more than this share of the item's own size.
    pub tolerance: f64,
    /// Whether an item of a history counts its weight, or 1.
    pub weighted: bool,
}

impl Default for SlimConfig {
    fn default() -> SlimConfig {
        SlimConfig {
            l1: 5.0,
            l2: 100.0,
            signed: false,
            neighbours: 500,
            sweeps: 50,
            tolerance: 1e-4,
            weighted: true,
        }
    }
}

/// The weights W.
#[derive(Debug, Clone)]
pub struct Slim(ItemItem);

impl SlimConfig {
    pub fn fit(&self, train: &Snapshot, ctx: &mut FitContext) -> Result<Slim, FitError> {
        require("l1", self.l1, self.l1 >= 0.0, "a finite number of at least 0")?;
        require("l2", self.l2, self.l2 >= 0.0, "a finite number of at least 0")?;
        require("tolerance", self.tolerance, self.tolerance > 0.0, "a finite number above 0")?;
        let n = train.items.len();
        let x = train.interactions();
        if x.by_user.nnz() == 0 {
            return Err(FitError::NoData("slim needs positive interactions".into()));
        }
        let gram = gram(&x.by_user, &x.by_item, ctx)?;
        plan(
            ctx,
            8 * gram.nnz() as u64 + 2 * rows_bytes(n, self.neighbours, n, ctx),
            &format!(
                "{} pairs of items seen together and {} weights for each of {n} items",
                gram.nnz(),
                self.neighbours.min(n)
            ),
            "lower neighbours or drop rare items (k_core)",
        )?;
        let by_target =
            build_rows("items", n, n, self.neighbours, ctx, |j, _, row| self.descend(&gram, j, row))?;
        Ok(Slim(ItemItem::new(by_target.transpose(), self.weighted)))
    }

    pub fn load(&self, weights: &Weights) -> Result<Slim, LoadError> {
        ItemItem::take(weights, self.weighted).map(Slim)
    }

    /// Coordinate descent for target `j`: fills `row` with (item, weight).
    fn descend(&self, gram: &Csr, j: usize, row: &mut Vec<(u32, f32)>) {
        let (l1, l2) = (self.l1, self.l2);
        let (together, counts) = gram.row(j);
        // Who could have a weight. With weights and counts ≥ 0 an item's pull only shrinks as others come in, so one
        // that starts at or below l1 stays out; with signs any item may get one.
        let pool: Vec<u32> = if self.signed {
            (0..gram.cols as u32).filter(|&i| i as usize != j).collect()
        } else {
            let strong = together.iter().zip(counts).filter(|&(&i, &g)| i as usize != j && f64::from(g) > l1);
            strong.map(|(&i, _)| i).collect()
        };
        let own =
            |i: u32| gram.row(i as usize).0.binary_search(&i).map_or(0.0, |at| gram.row(i as usize).1[at]);
        // pull[p] = G_pj − Σ_k G_pk w_k: what is left of j for pool item p to explain.
        let mut pull = spread(gram, j, &pool);
        let size: Vec<f64> = pool.iter().map(|&p| f64::from(own(p))).collect();
        let mut weight = vec![0f64; pool.len()];
        // Rows of G restricted to the pool, fetched when an item first gets a weight.
        let mut fetched: Vec<Option<Vec<f64>>> = vec![None; pool.len()];
        let scale = f64::from(own(j as u32)).max(f64::MIN_POSITIVE);
        for _ in 0..self.sweeps {
            let mut moved = 0f64;
            for p in 0..pool.len() {
                let old = weight[p];
                let z = pull[p] + size[p] * old;
                let bottom = size[p] + l2;
                let new = if bottom <= 0.0 {
                    0.0
                } else if self.signed {
                    z.signum() * (z.abs() - l1).max(0.0) / bottom
                } else {
                    (z - l1).max(0.0) / bottom
                };
                if new == old {
                    continue;
                }
                let step = new - old;
                weight[p] = new;
                let with_p = fetched[p].get_or_insert_with(|| spread(gram, pool[p] as usize, &pool));
                for (left, g) in pull.iter_mut().zip(with_p.iter()) {
                    *left -= step * g;
                }
                moved = moved.max(step * step * size[p]);
            }
            if moved <= self.tolerance * self.tolerance * scale {
                break;
            }
        }
        row.extend(pool.iter().zip(&weight).filter(|w| *w.1 != 0.0).map(|(&i, &w)| (i, w as f32)));
    }
}

/// Row `r` of `gram` at the columns `pool`, both ascending.
fn spread(gram: &Csr, r: usize, pool: &[u32]) -> Vec<f64> {
    let (cols, values) = gram.row(r);
    let mut out = vec![0f64; pool.len()];
    let mut at = 0;
    for (out, &p) in out.iter_mut().zip(pool) {
        while at < cols.len() && cols[at] < p {
            at += 1;
        }
        if at < cols.len() && cols[at] == p {
            *out = f64::from(values[at]);
        }
    }
    out
}

/// XᵀX with its diagonal, sparse. Refuses before it is made if it could not fit.
fn gram(by_user: &Csr, by_item: &Csr, ctx: &FitContext) -> Result<Csr, FitError> {
    let n = by_item.rows();
    let pairs: u64 = (0..by_user.rows()).map(|u| (by_user.row_len(u) as u64).pow(2)).sum();
    let most = pairs.min(n as u64 * n as u64);
    // Two copies for a moment, while the parts are stacked.
    plan(
        ctx,
        16 * most + 16 * n as u64,
        &format!("up to {most} pairs of items seen together"),
        "drop long histories or rare items",
    )?;
    build_rows("pairs", n, n, n, ctx, |i, scratch, row| {
        let (users, values) = by_item.row(i);
        for (&u, &a) in users.iter().zip(values) {
            let (items, values) = by_user.row(u as usize);
            for (&j, &b) in items.iter().zip(values) {
                scratch.add(j, a * b);
            }
        }
        scratch.drain(|j, g| row.push((j, g)));
    })
}

delegate_model!(Slim, "slim");

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand: two items that always come together, no l1: w = G_12 / (G_22 + l2).
    #[test]
    fn a_pair_by_hand() {
        let train = Snapshot::from_pairs("t", &[("a", "x"), ("a", "y"), ("b", "x"), ("b", "y")]);
        for signed in [false, true] {
            let config = SlimConfig { l1: 0.5, l2: 1.0, signed, ..SlimConfig::default() };
            let w = config.fit(&train, &mut FitContext::quiet(0)).unwrap().0;
            assert_eq!(w.matrix().row(0), (&[1][..], &[0.5][..])); // (2 − ½) / (2 + 1)
        }
    }
}

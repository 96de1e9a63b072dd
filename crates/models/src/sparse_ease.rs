//! Sparse EASE: the linear autoencoder for catalogues whose dense inverse would not fit in memory.
//!
//! A = XᵀX + λI = LDLᵀ with unit triangular L. Its inverse P = KᵀD⁻¹K, K = L⁻¹, is approximated with `density`
//! entries beside the diagonal in each row of K; then, as in EASE, W_ij = −P_ij / P_jj (i≠j), the `neighbours` largest
//! of each row kept; scores = xW.
//!
//! Row p of K says how item p follows from items before it: with S its chosen predecessors, y solves A_SS y = A_Sp,
//! K_p = [−y on S, 1 at p], D_p = A_pp − A_pS y. That is the best row of this pattern, needs no factor L, cannot break
//! down, and rows are independent. Items are ordered by popularity, most popular first, so that each rare item rests on
//! the well-known ones it is most like (largest A_pq / √(A_pp A_qq) > 0). Predecessors that share nobody with p are
//! never in S, though L⁻¹ has entries there: where all pairs share somebody, full density is EASE itself.
//!
//! Shapes: X (users × items) and A, K, W (items × items) sparse; D (items); scores (items).
//! Cost: O(Σ_u |X_u|² + items · density · (density² + pairs of an item)) time;
//! O(pairs + items · (density + neighbours)) memory, pairs those of A with at least `together` in common.
//! Source: Spišák, Bartyzal, Hoskovec, Peška, Tůma, "Scalable Approximate NonSymmetric Autoencoder for Collaborative
//! Filtering", RecSys 2023 (SANSA); rows of K as in Kolotilina, Yeremin, "Factorized Sparse Approximate Inverse
//! Preconditionings I", SIAM J. Matrix Anal. Appl. 1993; EASE: Steck, WWW 2019, arXiv:1905.03375.
//! Departures: SANSA first makes an incomplete L and then inverts it approximately; here K comes directly. SANSA answers
//! with two sparse factors; here their product is cut to W once, so a query costs what it does in ItemKNN.

use crate::item_item::{ItemItem, Scratch};
use crate::model::{plan, require};
use crate::rows::{build_rows, delegate_model, keep_largest, rows_bytes};
use crate::{FitError, LoadError, Weights};
use serde::{Deserialize, Serialize};
use sommelier_core::{Csr, FitContext};
use sommelier_data::Snapshot;
use sommelier_nn::kernel;

/// Density and neighbours were tried on amazon-beauty (leave-one-out), with l2 = 50.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SparseEaseConfig {
    /// λ > 0: the larger, the less a single co-occurrence counts.
    pub l2: f64,
    /// Entries of each row of K beside its diagonal.
    pub density: usize,
    /// Pairs of items with less than this in common are taken to have nothing.
    pub together: f32,
    /// How many weights of each row of W are kept.
    pub neighbours: usize,
    /// Whether an item of a history counts its weight, or 1.
    pub weighted: bool,
}

impl Default for SparseEaseConfig {
    fn default() -> SparseEaseConfig {
        SparseEaseConfig { l2: 50.0, density: 64, together: 1.0, neighbours: 200, weighted: true }
    }
}

/// The weights W.
#[derive(Debug, Clone)]
pub struct SparseEase(ItemItem);

impl SparseEaseConfig {
    pub fn fit(&self, train: &Snapshot, ctx: &mut FitContext) -> Result<SparseEase, FitError> {
        require("l2", self.l2, self.l2 > 0.0, "a finite number above 0")?;
        require("together", self.together.into(), self.together >= 0.0, "a finite number of at least 0")?;
        let n = train.items.len();
        let x = train.interactions();
        if x.by_user.nnz() == 0 {
            return Err(FitError::NoData("sparse_ease needs positive interactions".into()));
        }
        let fixed = 2 * rows_bytes(n, self.density + 1, n, ctx) + rows_bytes(n, self.neighbours, n, ctx);
        let why = |pairs: &str| {
            format!("{pairs}, {} entries for each of {n} items", self.density + self.neighbours)
        };
        plan(ctx, fixed, &why("before counting pairs"), "lower density or neighbours")?;

        let order = popular_first(&x.by_item);
        let pairs = count_pairs(&x.by_user, &x.by_item, &order, self.together, ctx)?;
        plan(
            ctx,
            fixed + 16 * pairs,
            &why(&format!("{pairs} pairs of items seen together")),
            "raise together, lower density or neighbours",
        )?;
        let gram = lower_gram(&x.by_user, &x.by_item, &order, self.together, ctx)?;
        let (k, d) = self.inverse_factor(&gram, &order, ctx)?;
        drop(gram);
        Ok(SparseEase(ItemItem::new(self.multiply_out(&k, &d, ctx)?, self.weighted)))
    }

    pub fn load(&self, weights: &Weights) -> Result<SparseEase, LoadError> {
        ItemItem::take(weights, self.weighted).map(SparseEase)
    }

    /// K (rows in popularity order, columns items) and D (popularity order).
    fn inverse_factor(
        &self,
        gram: &Lower,
        order: &Order,
        ctx: &FitContext,
    ) -> Result<(Csr, Vec<f32>), FitError> {
        let n = gram.diagonal.len();
        let l2 = self.l2 as f32;
        let a = |p: usize| gram.diagonal[p] + l2;
        let with_diagonal = build_rows("inverse factor", n, n + 1, usize::MAX, ctx, |p, _, row| {
            let (before, counts) = gram.below.row(p);
            let mut chosen: Vec<(u32, f32)> =
                before.iter().zip(counts).map(|(&q, &g)| (q, g / (a(p) * a(q as usize)).sqrt())).collect();
            keep_largest(&mut chosen, self.density);
            let s: Vec<u32> = chosen.iter().map(|c| c.0).collect();
            let right: Vec<f32> = spread(before, counts, &s);
            let y = solve(gram, &s, &right, &a);
            // A − λI is positive semi-definite, so what is left of the diagonal is at least λ.
            let left = a(p) - kernel::dot(&right, &y);
            row.extend(s.iter().zip(&y).map(|(&q, &y)| (order.item[q as usize], -y)));
            row.push((order.item[p], 1.0));
            // D rides along in a column of its own.
            row.push((n as u32, left.max(l2)));
        })?;
        let d = (0..n).map(|p| with_diagonal.row(p).1.last().copied().unwrap_or(l2)).collect();
        Ok((without_last_of_each_row(&with_diagonal, n), d))
    }

    /// W from K and D.
    fn multiply_out(&self, k: &Csr, d: &[f32], ctx: &FitContext) -> Result<Csr, FitError> {
        let n = d.len();
        let by_item = k.transpose();
        let diagonal: Vec<f32> = (0..n)
            .map(|i| {
                let (ps, values) = by_item.row(i);
                ps.iter().zip(values).map(|(&p, &v)| v * v / d[p as usize]).sum()
            })
            .collect();
        build_rows("weights", n, n, self.neighbours, ctx, |i, scratch: &mut Scratch, row| {
            let (ps, values) = by_item.row(i);
            for (&p, &v) in ps.iter().zip(values) {
                let share = v / d[p as usize];
                let (items, values) = k.row(p as usize);
                for (&j, &v) in items.iter().zip(values) {
                    scratch.add(j, share * v);
                }
            }
            scratch.drain(|j, inverse| {
                if j as usize != i {
                    row.push((j, -inverse / diagonal[j as usize]));
                }
            });
        })
    }
}

/// Items by popularity: `item[p]` is the item at place `p`, `place[i]` the place of item `i`.
struct Order {
    item: Vec<u32>,
    place: Vec<u32>,
}

fn popular_first(by_item: &Csr) -> Order {
    let mut item: Vec<u32> = (0..by_item.rows() as u32).collect();
    item.sort_by_key(|&i| (std::cmp::Reverse(by_item.row_len(i as usize)), i));
    let mut place = vec![0; item.len()];
    for (p, &i) in item.iter().enumerate() {
        place[i as usize] = p as u32;
    }
    Order { item, place }
}

/// XᵀX in popularity order: the entries before the diagonal, and the diagonal.
struct Lower {
    below: Csr,
    diagonal: Vec<f32>,
}

/// Adds up row `p` of XᵀX up to the diagonal and hands each entry to `each`.
fn gram_row(
    by_user: &Csr,
    by_item: &Csr,
    order: &Order,
    p: usize,
    scratch: &mut Scratch,
    mut each: impl FnMut(u32, f32),
) {
    let (users, values) = by_item.row(order.item[p] as usize);
    for (&u, &a) in users.iter().zip(values) {
        let (items, values) = by_user.row(u as usize);
        for (&i, &b) in items.iter().zip(values) {
            let q = order.place[i as usize];
            if q as usize <= p {
                scratch.add(q, a * b);
            }
        }
    }
    scratch.drain(&mut each);
}

/// How many pairs [`lower_gram`] will hold: it is worth going through the data twice to know before allocating.
fn count_pairs(
    by_user: &Csr,
    by_item: &Csr,
    order: &Order,
    together: f32,
    ctx: &FitContext,
) -> Result<u64, FitError> {
    let n = by_item.rows();
    let counts = build_rows("counting pairs", n, n, 1, ctx, |p, scratch, row| {
        let mut count = 0u32;
        gram_row(by_user, by_item, order, p, scratch, |q, g| {
            count += u32::from(q as usize != p && g >= together);
        });
        row.push((0, count as f32));
    })?;
    // A row has fewer than 2²⁴ pairs on any catalogue that is held in memory, so `f32` counts them exactly.
    Ok(counts.value.iter().map(|&c| c as u64).sum())
}

fn lower_gram(
    by_user: &Csr,
    by_item: &Csr,
    order: &Order,
    together: f32,
    ctx: &FitContext,
) -> Result<Lower, FitError> {
    let n = by_item.rows();
    let diagonal =
        (0..n).map(|p| by_item.row(order.item[p] as usize).1.iter().map(|v| v * v).sum()).collect();
    let below = build_rows("pairs", n, n, n, ctx, |p, scratch, row| {
        gram_row(by_user, by_item, order, p, scratch, |q, g| {
            if q as usize != p && g >= together {
                row.push((q, g));
            }
        });
    })?;
    Ok(Lower { below, diagonal })
}

/// The values of a sparse row at the ascending columns `at`, 0 where it has none.
fn spread(cols: &[u32], values: &[f32], at: &[u32]) -> Vec<f32> {
    let mut from = 0;
    let find = |&c: &u32| match cols[from..].binary_search(&c) {
        Ok(found) => {
            from += found + 1;
            values[from - 1]
        }
        Err(next) => {
            from += next;
            0.0
        }
    };
    at.iter().map(find).collect()
}

/// y with A_SS y = `right`. Should pairs that were left out make A_SS indefinite, its diagonal is raised until it is not.
fn solve(gram: &Lower, s: &[u32], right: &[f32], a: &impl Fn(usize) -> f32) -> Vec<f32> {
    let m = s.len();
    let mut raise = 0f32;
    loop {
        let mut lower = vec![0f32; m * m];
        for (r, &q) in s.iter().enumerate() {
            let (cols, values) = gram.below.row(q as usize);
            lower[r * m..r * m + r].copy_from_slice(&spread(cols, values, &s[..r]));
            lower[r * m + r] = a(q as usize) * (1.0 + raise);
        }
        if kernel::cholesky(&mut lower, m).is_ok() {
            let mut y = right.to_vec();
            kernel::cholesky_solve(&lower, m, &mut y);
            if y.iter().all(|v| v.is_finite()) {
                return y;
            }
        }
        // Diagonally dominant at the latest when the diagonal is m times its size.
        raise = if raise == 0.0 { 1e-3 } else { raise * 4.0 };
        if raise > m as f32 * 4.0 {
            return vec![0.0; m];
        }
    }
}

/// Cuts the last entry of every row, which is in column `cols`, and that column.
fn without_last_of_each_row(m: &Csr, cols: usize) -> Csr {
    let keep = |at: &usize| (m.index[*at] as usize) < cols;
    let kept: Vec<usize> = (0..m.nnz()).filter(keep).collect();
    Csr {
        cols,
        ptr: m.ptr.iter().enumerate().map(|(r, &p)| p - r).collect(),
        index: kept.iter().map(|&at| m.index[at]).collect(),
        value: kept.iter().map(|&at| m.value[at]).collect(),
    }
}

delegate_model!(SparseEase, "sparse_ease");

#[cfg(test)]
mod tests {
    use super::*;

    /// With room for every entry, and every pair sharing somebody, nothing is approximate: W is EASE's.
    #[test]
    fn full_density_is_ease() {
        let pairs = [
            ("a", "x"),
            ("a", "y"),
            ("b", "x"),
            ("b", "z"),
            ("c", "y"),
            ("c", "z"),
            ("c", "x"),
            ("d", "w"),
            ("d", "x"),
            ("d", "y"),
            ("d", "z"),
        ];
        let train = Snapshot::from_pairs("t", &pairs);
        let config = SparseEaseConfig { l2: 0.5, density: 10, neighbours: 10, ..SparseEaseConfig::default() };
        let w = config.fit(&train, &mut FitContext::quiet(0)).unwrap().0;
        // P = A⁻¹ by Gauss–Jordan on the dense matrix.
        let n = 4;
        let x = train.interactions();
        let mut a = vec![vec![0f64; 2 * n]; n];
        for u in 0..x.by_user.rows() {
            for &i in x.by_user.row(u).0 {
                for &j in x.by_user.row(u).0 {
                    a[i as usize][j as usize] += 1.0;
                }
            }
        }
        for i in 0..n {
            a[i][i] += 0.5;
            a[i][n + i] = 1.0;
        }
        for i in 0..n {
            let pivot = a[i][i];
            a[i].iter_mut().for_each(|v| *v /= pivot);
            for r in 0..n {
                if r != i {
                    let factor = a[r][i];
                    let row = a[i].clone();
                    a[r].iter_mut().zip(row).for_each(|(v, p)| *v -= factor * p);
                }
            }
        }
        for i in 0..n {
            for j in 0..n {
                let expected = if i == j { 0.0 } else { -a[i][n + j] / a[j][n + j] };
                let (cols, values) = w.matrix().row(i);
                let got = cols.binary_search(&(j as u32)).map_or(0.0, |at| values[at]);
                assert!((f64::from(got) - expected).abs() < 1e-5, "{i} {j}: {got} {expected}");
            }
        }
    }
}

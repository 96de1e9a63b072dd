//! InfoNCE: each row of a finds its own row of b among all rows of b, the others being drawn by the batch itself.
//!
//! z_rj = a_r · b_j / T − log q_j; loss = scale · Σ_r −log softmax(z_r)_r
//!
//! Shapes: a and b (n × d), log q and group ids n; without log q it is 0.
//! Columns j ≠ r whose group is that of r take no part in row r: other copies of the right item are not wrong. Nor does a
//! column with log q = +∞ in any row, and its own row takes none.
//! Way back: g = (softmax(z), less 1 on the diagonal) / T; da = g b, db = gᵀ a.
//! Cost: 2 · n² · d forwards, three times that backwards. Logits are made for tiles of 64 rows, and made again on the way
//! back: nothing of size n² is kept.
//! Source: van den Oord, Li, Vinyals, "Representation Learning with Contrastive Predictive Coding", 2018,
//! arXiv:1807.03748; log q: Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations",
//! RecSys 2019.

use super::cross_entropy;
use crate::kernel::{self, Layout};
use crate::tape::{Backward, Grads, Tape, Tensor, Values, Var};

/// Rows of a tile.
const TILE: usize = 64;

impl Tape<'_> {
    /// See `loss/info_nce.rs`; `same` holds the groups.
    pub fn info_nce(
        &mut self,
        a: Var,
        b: Var,
        temperature: f32,
        scale: f32,
        log_q: Option<Vec<f32>>,
        same: Option<Vec<u64>>,
    ) -> Var {
        let (n, _) = self.shape(a);
        assert_eq!(self.shape(a), self.shape(b), "shapes of a and b");
        assert!(temperature > 0.0, "a temperature of {temperature}");
        assert!(log_q.as_ref().is_none_or(|q| q.len() == n), "log q of {n} columns");
        assert!(same.as_ref().is_none_or(|same| same.len() == n), "groups of {n} rows");
        let way = Way { a, b, cool: 1.0 / temperature, scale, log_q, same };
        let mut tile = self.take(TILE.min(n) * n);
        let mut loss = 0.0;
        for from in (0..n).step_by(TILE) {
            let rows = TILE.min(n - from);
            loss += way.slopes(&self.values(), from, &mut tile[..rows * n]);
        }
        self.give(tile);
        let wanted = self.wants(a) || self.wants(b);
        self.push_loss(scale, loss, wanted, || Box::new(way))
    }
}

struct Way {
    a: Var,
    b: Var,
    cool: f32,
    scale: f32,
    log_q: Option<Vec<f32>>,
    same: Option<Vec<u64>>,
}

impl Way {
    /// Fills a tile of rows from `from` on with the slopes of the loss by z, and returns the loss of these rows.
    fn slopes(&self, values: &Values, from: usize, tile: &mut [f32]) -> f64 {
        let (n, d) = values.shape(self.a);
        let rows = tile.len() / n;
        let at = Layout::rows_of(d);
        let a = (&values.data(self.a)[from * d..], at);
        let b = (values.data(self.b), at.transposed());
        kernel::gemm((rows, n, d), self.cool, a, b, 0.0, (tile, Layout::rows_of(n)));
        let mut loss = 0.0;
        for (row, r) in tile.chunks_exact_mut(n).zip(from..) {
            if let Some(log_q) = &self.log_q {
                kernel::axpy(-1.0, log_q, row);
            }
            if let Some(same) = &self.same {
                for (j, z) in row.iter_mut().enumerate() {
                    if same[j] == same[r] && j != r {
                        *z = f32::NEG_INFINITY;
                    }
                }
            }
            loss += cross_entropy(row, r);
        }
        loss
    }
}

impl Backward for Way {
    fn backward(self: Box<Self>, _: &Tensor, dy: &mut [f32], values: &Values, grads: &mut Grads) {
        let (n, d) = values.shape(self.a);
        let factor = dy[0] * self.scale * self.cool;
        let at = Layout::rows_of(d);
        let mut tile = grads.workspace.take(TILE.min(n) * n);
        for from in (0..n).step_by(TILE) {
            let rows = TILE.min(n - from);
            let tile = &mut tile[..rows * n];
            self.slopes(values, from, tile);
            let g_at = Layout::rows_of(n);
            if grads.wants(self.a) {
                let da = &mut grads.sum(self.a)[from * d..];
                kernel::gemm((rows, d, n), factor, (tile, g_at), (values.data(self.b), at), 1.0, (da, at));
            }
            if grads.wants(self.b) {
                let a = &values.data(self.a)[from * d..];
                let db = grads.sum(self.b);
                kernel::gemm((n, d, rows), factor, (tile, g_at.transposed()), (a, at), 1.0, (db, at));
            }
        }
        grads.workspace.give(tile);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::run;
    use crate::testing::{M, check, check_scaled, softmax};
    use crate::{Tape, Tensor, Var};

    fn plain(a: &M, b: &M, temperature: f64, log_q: &[f32], same: &[u64]) -> M {
        let products = a.times_transposed(b);
        let mut loss = 0.0;
        for r in (0..a.rows).filter(|&r| log_q[r] < f32::INFINITY) {
            let z: Vec<f64> = (0..a.rows)
                .map(|j| {
                    let out = j != r && same[j] == same[r];
                    if out {
                        f64::NEG_INFINITY
                    } else {
                        products.at(r, j) / temperature - f64::from(log_q[j])
                    }
                })
                .collect();
            loss -= softmax(&z)[r].ln();
        }
        M::one(0.3 * loss)
    }

    #[test]
    fn forwards_and_back() {
        for (n, d) in [(0, 3), (1, 2), (2, 1), (7, 5), (64, 3), (150, 4)] {
            let (no_q, none): (Vec<f32>, Vec<u64>) = (vec![0.0; n], (0..n as u64).collect());
            let bare = |tape: &mut Tape, v: &[Var]| tape.info_nce(v[0], v[1], 0.5, 0.3, None, None);
            check(&[(n, d); 2], 1, bare, |v| plain(&v[0], &v[1], 0.5, &no_q, &none));
            let itself = |tape: &mut Tape, v: &[Var]| tape.info_nce(v[0], v[0], 0.5, 0.3, None, None);
            check(&[(n, d)], 2, itself, |v| plain(&v[0], &v[0], 0.5, &no_q, &none));

            let mut log_q: Vec<f32> = (0..n).map(|j| (j as f32 * 0.7).sin() * 2.0 - 3.0).collect();
            log_q.iter_mut().skip(3).step_by(20).for_each(|q| *q = f32::INFINITY);
            let same: Vec<u64> = (0..n as u64).map(|r| r * r % 9).collect();
            let full = |tape: &mut Tape, v: &[Var]| {
                tape.info_nce(v[0], v[1], 0.5, 0.3, Some(log_q.clone()), Some(same.clone()))
            };
            check(&[(n, d); 2], 3, full, |v| plain(&v[0], &v[1], 0.5, &log_q, &same));
        }
    }

    #[test]
    fn one_side_alone_is_learned() {
        let b: Vec<f32> = (0..140).map(|i| (i as f32 * 0.7).sin()).collect();
        let given = M { rows: 70, cols: 2, data: b.iter().map(|&b| f64::from(b)).collect() };
        let (no_q, none): (Vec<f32>, Vec<u64>) = (vec![0.0; 70], (0..70).collect());
        let right = |tape: &mut Tape, v: &[Var]| {
            let b = tape.constant(Tensor::new(70, 2, b.clone()));
            tape.info_nce(v[0], b, 0.5, 0.3, None, None)
        };
        check(&[(70, 2)], 1, right, |v| plain(&v[0], &given, 0.5, &no_q, &none));
        let left = |tape: &mut Tape, v: &[Var]| {
            let a = tape.constant(Tensor::new(70, 2, b.clone()));
            tape.info_nce(a, v[0], 0.5, 0.3, None, None)
        };
        check(&[(70, 2)], 1, left, |v| plain(&given, &v[0], 0.5, &no_q, &none));
    }

    #[test]
    fn extreme_scores() {
        let (no_q, none): (Vec<f32>, Vec<u64>) = (vec![0.0; 9], (0..9).collect());
        let build = |tape: &mut Tape, v: &[Var]| tape.info_nce(v[0], v[1], 1.0, 0.3, None, None);
        check_scaled(&[(9, 2); 2], 1, 6.0, build, |v| plain(&v[0], &v[1], 1.0, &no_q, &none));

        let of = |a: [f32; 2], b: [f32; 2]| {
            let inputs = [Tensor::new(2, 1, a.to_vec()), Tensor::new(2, 1, b.to_vec())];
            run(&inputs, |tape, v| tape.info_nce(v[0], v[1], 0.5, 2.0, None, None))
        };
        // Logits ±80 on the wrong side: each row is certain of the other's item.
        let (loss, slopes) = of([40.0, -40.0], [-1.0, 1.0]);
        assert_eq!((loss, slopes), (640.0, vec![vec![8.0, -8.0], vec![-320.0, 320.0]]));
        let (loss, slopes) = of([40.0, -40.0], [1.0, -1.0]);
        assert!(loss.abs() < 1e-30 && slopes.iter().flatten().all(|g| *g == 0.0), "{loss} {slopes:?}");
    }
}

//! Uniformity: rows lie apart from each other.
//!
//! loss = scale · log mean_{i<j} e^(−t ‖x_i − x_j‖²)
//!
//! Shapes: x (n × d), of unit length in the paper. With n < 2 the loss is 0.
//! Way back: w_ij = softmax over all pairs of −t ‖x_i − x_j‖²; dx_i = −2t Σ_j w_ij (x_i − x_j).
//! Cost: n² · d forwards, three times that backwards. Pairs are looked at in tiles of 64 rows, again on the way back:
//! nothing of size n² is kept. Distances come from products of rows, so ‖x_i − x_j‖² is off by some 1e-7 of the larger
//! ‖x‖².
//! Source: Wang and Isola, "Understanding Contrastive Representation Learning through Alignment and Uniformity on the
//! Hypersphere", ICML 2020, arXiv:2005.10242.

use crate::kernel::{self, Layout};
use crate::tape::{Backward, Grads, Tape, Tensor, Values, Var};

/// Rows of a tile.
const TILE: usize = 64;

impl Tape<'_> {
    /// See `loss/uniformity.rs`.
    pub fn uniformity(&mut self, x: Var, t: f32, scale: f32) -> Var {
        let (n, d) = self.shape(x);
        if n < 2 {
            return self.constant(Tensor::new(1, 1, vec![0.0]));
        }
        let data = self.data(x);
        let squares: Vec<f32> =
            (0..n).map(|r| kernel::dot(&data[r * d..][..d], &data[r * d..][..d])).collect();
        let mut way = Way { x, t, scale, squares, log_sum: 0.0 };
        let mut tile = self.take(TILE.min(n) * n);
        let mut sums = Vec::with_capacity(n);
        for from in (0..n).step_by(TILE) {
            let rows = TILE.min(n - from);
            let tile = &mut tile[..rows * (n - from)];
            way.exponents(&self.values(), from, tile);
            for (i, row) in tile.chunks_exact_mut(n - from).enumerate() {
                sums.push(kernel::softmax(&mut row[i + 1..], 1.0));
            }
        }
        self.give(tile);
        // The last row has no pairs of its own.
        way.log_sum = kernel::softmax(&mut sums[..n - 1], 1.0);
        let loss = f64::from(way.log_sum) - (0.5 * n as f64 * (n - 1) as f64).ln();
        let wanted = self.wants(x);
        self.push_loss(scale, loss, wanted, || Box::new(way))
    }
}

struct Way {
    x: Var,
    t: f32,
    scale: f32,
    /// ‖x_i‖²
    squares: Vec<f32>,
    /// log Σ_{i<j} e^(−t ‖x_i − x_j‖²)
    log_sum: f32,
}

impl Way {
    /// −t ‖x_i − x_j‖² of a tile: rows i from `from` on, columns j from `from` on. Only those with j > i are of use.
    fn exponents(&self, values: &Values, from: usize, tile: &mut [f32]) {
        let (n, d) = values.shape(self.x);
        let width = n - from;
        let x = &values.data(self.x)[from * d..];
        let at = Layout::rows_of(d);
        let shape = (tile.len() / width, width, d);
        kernel::gemm(shape, -2.0, (x, at), (x, at.transposed()), 0.0, (tile, Layout::rows_of(width)));
        let squares = &self.squares[from..];
        for (row, own) in tile.chunks_exact_mut(width).zip(squares) {
            for (z, other) in row.iter_mut().zip(squares) {
                let distance = *z + (own + other);
                *z = -self.t * if distance < 0.0 { 0.0 } else { distance };
            }
        }
    }
}

impl Backward for Way {
    fn backward(self: Box<Self>, _: &Tensor, dy: &mut [f32], values: &Values, grads: &mut Grads) {
        let (n, d) = values.shape(self.x);
        let factor = -2.0 * self.t * dy[0] * self.scale;
        let x = values.data(self.x);
        let at = Layout::rows_of(d);
        let mut tile = grads.workspace.take(TILE.min(n) * n);
        // Σ_j w_ij of each row, over both halves of the pairs.
        let mut weights = grads.workspace.zeroed(n);
        for from in (0..n).step_by(TILE) {
            let (rows, width) = (TILE.min(n - from), n - from);
            let tile = &mut tile[..rows * width];
            self.exponents(values, from, tile);
            for (i, row) in tile.chunks_exact_mut(width).enumerate() {
                let (before, after) = row.split_at_mut(i + 1);
                before.fill(0.0);
                kernel::softmax_again(after, 1.0, self.log_sum);
                weights[from + i] += kernel::sum(after);
                kernel::axpy(1.0, after, &mut weights[from + i + 1..]);
            }
            let w_at = Layout::rows_of(width);
            let dx = &mut grads.sum(self.x)[from * d..];
            let x = (&x[from * d..], at);
            kernel::gemm((rows, d, width), -factor, (tile, w_at), x, 1.0, (&mut *dx, at));
            kernel::gemm((width, d, rows), -factor, (tile, w_at.transposed()), x, 1.0, (dx, at));
        }
        let dx = grads.sum(self.x);
        for (r, weight) in weights.iter().enumerate() {
            kernel::axpy(factor * weight, &x[r * d..][..d], &mut dx[r * d..][..d]);
        }
        grads.workspace.give(tile);
        grads.workspace.give(weights);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::run;
    use crate::testing::{M, check, check_scaled};
    use crate::{Tape, Tensor, Var};

    fn plain(x: &M, t: f64) -> M {
        let mut z = Vec::new();
        for i in 0..x.rows {
            for j in i + 1..x.rows {
                z.push(-t * x.row(i).iter().zip(x.row(j)).map(|(a, b)| (a - b).powi(2)).sum::<f64>());
            }
        }
        let top = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let mean = z.iter().map(|z| (z - top).exp()).sum::<f64>() / z.len() as f64;
        M::one(if z.is_empty() { 0.0 } else { 0.3 * (top + mean.ln()) })
    }

    #[test]
    fn forwards_and_back() {
        for (n, d) in [(0, 3), (1, 3), (2, 1), (5, 4), (64, 3), (65, 3), (150, 4)] {
            for t in [0.5, 2.0] {
                let build = |tape: &mut Tape, v: &[Var]| tape.uniformity(v[0], t, 0.3);
                check(&[(n, d)], 1, build, |v| plain(&v[0], f64::from(t)));
            }
        }
    }

    #[test]
    fn extreme_numbers() {
        // Pairs are so far apart that no e^(−t ‖·‖²) can be written as a number: the nearest pair decides.
        let build = |tape: &mut Tape, v: &[Var]| tape.uniformity(v[0], 0.5, 0.3);
        check_scaled(&[(6, 3)], 1, 80.0, build, |v| plain(&v[0], 0.5));
        let of = |x: Vec<f32>| run(&[Tensor::new(2, 1, x)], |tape, v| tape.uniformity(v[0], 0.5, 2.0));
        assert_eq!(of(vec![80.0, -80.0]), (-25_600.0, vec![vec![-320.0, 320.0]]));
        assert_eq!(of(vec![80.0, 80.0]), (0.0, vec![vec![0.0, 0.0]]));
    }
}

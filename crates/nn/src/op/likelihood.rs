//! How likely given entries are, row by row.
//!
//! y_r = log softmax(s_r)[c_r]
//!
//! Shapes: s (n × m), c (n), y (n × 1).
//! Way back: ds_rj = dy_r ([j = c_r] − softmax(s_r)_j).
//! Cost: n · m exponentials; the slopes are remembered.

use crate::kernel;
use crate::loss::cross_entropy;
use crate::tape::{Backward, Grads, Tape, Tensor, Values, Var};

impl Tape<'_> {
    /// See `op/likelihood.rs`.
    pub fn log_likelihood(&mut self, s: Var, right: &[u32]) -> Var {
        let (n, m) = self.shape(s);
        assert_eq!(n, right.len(), "one right entry for each row");
        let mut slopes = self.take(n * m);
        slopes.copy_from_slice(self.data(s));
        let mut y = self.take(n);
        for ((y, row), &right) in y.iter_mut().zip(slopes.chunks_exact_mut(m.max(1))).zip(right) {
            *y = -cross_entropy(row, right as usize) as f32;
        }
        self.push(Tensor::new(n, 1, y), self.wants(s), || Box::new(Way { s, slopes }))
    }
}

struct Way {
    s: Var,
    /// Of −y.
    slopes: Vec<f32>,
}

impl Backward for Way {
    fn backward(self: Box<Self>, y: &Tensor, dy: &mut [f32], _: &Values, grads: &mut Grads) {
        let m = (self.slopes.len() / y.rows.max(1)).max(1);
        let sum = grads.sum(self.s).chunks_exact_mut(m);
        for ((sum, slopes), dy) in sum.zip(self.slopes.chunks_exact(m)).zip(&*dy) {
            kernel::axpy(-dy, slopes, sum);
        }
        grads.workspace.give(self.slopes);
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{M, check, check_scaled};

    #[test]
    fn forwards_and_back() {
        for (n, m) in [(0, 3), (1, 1), (1, 2), (5, 4), (70, 130)] {
            let right: Vec<u32> = (0..n).map(|r| (r * 7 % m) as u32).collect();
            let plain = |s: &M| {
                M::from_fn(n, 1, |r, _| {
                    s.at(r, r * 7 % m) - (0..m).map(|j| s.at(r, j).exp()).sum::<f64>().ln()
                })
            };
            check(&[(n, m)], 1, |tape, v| tape.log_likelihood(v[0], &right), |v| plain(&v[0]));
            check_scaled(&[(n, m)], 2, 8.0, |tape, v| tape.log_likelihood(v[0], &right), |v| plain(&v[0]));
        }
    }
}

//! Rows of unit length.
//!
//! y = x / max(‖x‖, ε), row by row
//!
//! Shapes: x and y (n × d).
//! Way back: dx = (dy − y (y · dy)) / ‖x‖; dx = dy / ε for rows shorter than ε.
//! Cost: two passes each way.
//! Departure from PyTorch's `normalize`: a row of zeros has gradient 0, not dy / ε.

use crate::kernel;
use crate::tape::{Backward, Grads, Tape, Tensor, Values, Var};

impl Tape<'_> {
    /// See `op/normalise.rs`.
    pub fn normalise(&mut self, x: Var, epsilon: f32) -> Var {
        let (n, d) = self.shape(x);
        let (mut y, mut lengths) = (self.take(n * d), self.zeroed(n));
        y.copy_from_slice(self.data(x));
        for (row, length) in y.chunks_exact_mut(d.max(1)).zip(&mut lengths) {
            *length = kernel::dot(row, row).sqrt();
            // Not `max`, which would lose a NaN.
            kernel::scale(row, 1.0 / if *length < epsilon { epsilon } else { *length });
        }
        let lengths = self.constant(Tensor::new(n, 1, lengths));
        let way_back = || Box::new(Way { x, lengths, epsilon }) as Box<dyn Backward>;
        self.push(Tensor::new(n, d, y), self.wants(x), way_back)
    }
}

struct Way {
    x: Var,
    lengths: Var,
    epsilon: f32,
}

impl Backward for Way {
    fn backward(self: Box<Self>, y: &Tensor, dy: &mut [f32], values: &Values, grads: &mut Grads) {
        let d = y.cols.max(1);
        for ((dy, y), &length) in
            dy.chunks_exact_mut(d).zip(y.data.chunks_exact(d)).zip(values.data(self.lengths))
        {
            if length == 0.0 {
                dy.fill(0.0);
            } else if length < self.epsilon {
                kernel::scale(dy, 1.0 / self.epsilon);
            } else {
                kernel::axpy(-kernel::dot(y, dy), y, dy);
                kernel::scale(dy, 1.0 / length);
            }
        }
        grads.add(self.x, dy);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{M, check, dot};
    use crate::{Init, ParamGrads, Params, Workspace};

    #[test]
    fn forwards_and_back() {
        // With so large an ε some rows are shorter.
        for (n, d, epsilon) in [(0, 3, 1e-12), (1, 1, 1e-12), (5, 3, 1e-12), (9, 2, 1.2), (40, 70, 1e-6)] {
            let build = |tape: &mut Tape, v: &[Var]| tape.normalise(v[0], epsilon);
            check(&[(n, d)], 4, build, |v| {
                let length = |r: usize| dot(v[0].row(r), v[0].row(r)).sqrt().max(f64::from(epsilon));
                M::from_fn(n, d, |r, c| v[0].at(r, c) / length(r))
            });
        }
    }

    #[test]
    fn zero_rows_stay() {
        let mut params = Params::new(0);
        let id = params.add("x", 2, 2, Init::Zeros);
        params.get_mut(id).value[2..].copy_from_slice(&[3.0, 4.0]);
        let mut tape = Tape::training(&params, sommelier_core::Rng::new(0), Workspace::default());
        let y = tape.normalise(id.into(), 1e-12);
        assert_eq!(tape.data(y), [0.0, 0.0, 0.6, 0.8]);
        let mut grads = ParamGrads::default();
        grads.clear(&params);
        tape.backward_from(y, &[1.0, 1.0, 4.0, -3.0], &mut grads);
        let dx = grads.dense(id).expect("a gradient");
        assert_eq!(dx[..2], [0.0, 0.0]);
        assert!((dx[2] - 0.8).abs() < 1e-6 && (dx[3] + 0.6).abs() < 1e-6);
    }
}

//! Products of two computed matrices.
//!
//! dots: y_i = a_i · b_i;  matmul: y = a b, or a bᵀ
//!
//! Shapes: a and b (n × d), y (n × 1); a (n × d), b (d × m) or, transposed, (m × d), y (n × m).
//! Way back: da_i = dy_i b_i, db_i = dy_i a_i; da = dy bᵀ, db = aᵀ dy or, transposed, da = dy b, db = dyᵀ a.
//! Cost: 2 · n · d; 2 · n · d · m. Twice that backwards.

use crate::kernel::{self, Layout};
use crate::tape::{Backward, Grads, Tape, Tensor, Values, Var};

impl Tape<'_> {
    /// Row by row a · b. See `op/dots.rs`.
    pub fn dots(&mut self, a: Var, b: Var) -> Var {
        let (n, d) = self.shape(a);
        assert_eq!((n, d), self.shape(b), "shapes of a and b");
        let mut y = self.zeroed(n);
        let values = self.values();
        let rows = values.data(a).chunks_exact(d.max(1)).zip(values.data(b).chunks_exact(d.max(1)));
        for (y, (a, b)) in y.iter_mut().zip(rows) {
            *y = kernel::dot(a, b);
        }
        let wanted = self.wants(a) || self.wants(b);
        self.push(Tensor::new(n, 1, y), wanted, || Box::new(Dots { a, b }))
    }

    /// a b, or a bᵀ. See `op/dots.rs`.
    pub fn matmul(&mut self, a: Var, b: Var, transpose_b: bool) -> Var {
        let ((n, d), (b_rows, b_cols)) = (self.shape(a), self.shape(b));
        let (inner, m) = if transpose_b { (b_cols, b_rows) } else { (b_rows, b_cols) };
        assert_eq!(d, inner, "columns of a and rows of b");
        let mut y = self.take(n * m);
        let b_at = Layout::rows_of(b_cols);
        let b_at = if transpose_b { b_at.transposed() } else { b_at };
        let (a_data, b_data) = (self.data(a), self.data(b));
        let a_at = Layout::rows_of(d);
        kernel::gemm((n, m, d), 1.0, (a_data, a_at), (b_data, b_at), 0.0, (&mut y, Layout::rows_of(m)));
        let wanted = self.wants(a) || self.wants(b);
        self.push(Tensor::new(n, m, y), wanted, || Box::new(Matmul { a, b, transpose_b }))
    }
}

struct Dots {
    a: Var,
    b: Var,
}

impl Backward for Dots {
    fn backward(self: Box<Self>, _: &Tensor, dy: &mut [f32], values: &Values, grads: &mut Grads) {
        for (to, other) in [(self.a, self.b), (self.b, self.a)] {
            if grads.wants(to) {
                let d = values.shape(to).1.max(1);
                let sum = grads.sum(to).chunks_exact_mut(d);
                for ((sum, other), &dy) in sum.zip(values.data(other).chunks_exact(d)).zip(&*dy) {
                    kernel::axpy(dy, other, sum);
                }
            }
        }
    }
}

struct Matmul {
    a: Var,
    b: Var,
    transpose_b: bool,
}

impl Backward for Matmul {
    fn backward(self: Box<Self>, y: &Tensor, dy: &mut [f32], values: &Values, grads: &mut Grads) {
        let (n, d, m) = (y.rows, values.shape(self.a).1, y.cols);
        let (a_at, y_at) = (Layout::rows_of(d), Layout::rows_of(m));
        let own = Layout::rows_of(if self.transpose_b { d } else { m });
        // The layout of b as the d × m matrix of the product.
        let b_at = if self.transpose_b { own.transposed() } else { own };
        if grads.wants(self.a) {
            let (da, beta) = grads.slot(self.a);
            let b = (values.data(self.b), b_at.transposed());
            kernel::gemm((n, d, m), 1.0, (dy, y_at), b, beta, (da, a_at));
        }
        if grads.wants(self.b) {
            let (db, beta) = grads.slot(self.b);
            let a = (values.data(self.a), a_at.transposed());
            kernel::gemm((d, m, n), 1.0, a, (dy, y_at), beta, (db, b_at));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{M, check, dot};

    #[test]
    fn forwards_and_back() {
        for (n, d, m) in [(0, 3, 2), (1, 1, 1), (3, 0, 2), (4, 5, 3), (70, 33, 20)] {
            let build = |tape: &mut Tape, v: &[Var]| tape.dots(v[0], v[1]);
            check(&[(n, d), (n, d)], 1, build, |v| M::from_fn(n, 1, |r, _| dot(v[0].row(r), v[1].row(r))));
            let build = |tape: &mut Tape, v: &[Var]| tape.dots(v[0], v[0]);
            check(&[(n, d)], 2, build, |v| M::from_fn(n, 1, |r, _| dot(v[0].row(r), v[0].row(r))));
            let build = |tape: &mut Tape, v: &[Var]| tape.matmul(v[0], v[1], true);
            check(&[(n, d), (m, d)], 3, build, |v| v[0].times_transposed(&v[1]));
            let build = |tape: &mut Tape, v: &[Var]| tape.matmul(v[0], v[1], false);
            check(&[(n, d), (d, m)], 4, build, |v| {
                M::from_fn(n, m, |r, c| (0..d).map(|l| v[0].at(r, l) * v[1].at(l, c)).sum())
            });
        }
        let build = |tape: &mut Tape, v: &[Var]| tape.matmul(v[0], v[0], true);
        check(&[(4, 3)], 5, build, |v| v[0].times_transposed(&v[0]));
    }
}

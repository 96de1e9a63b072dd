//! What is done number by number, and softmax.
//!
//! add: a + b;  add_scaled: Σ_i f_i x_i;  multiply: a ∘ b;  scale: f · x;  activation: f(x);  drop_out: drop(x)
//! softmax: each row to e^x / Σ e^x;  segment_softmax: each column over the rows of each sequence
//!
//! Shapes: all the same.
//! Way back: dx = y ∘ (dy − Σ y dy) for both kinds of softmax, the sum over what was normalised; the others by the chain
//! rule, what was dropped decided again by its place.
//! Cost: a pass each way; three for softmax.

use crate::kernel::{self, Activation, Dropout};
use crate::ragged::Ragged;
use crate::tape::{Backward, Grads, Tape, Tensor, Values, Var};
use std::sync::Arc;

impl Tape<'_> {
    /// a + b.
    pub fn add(&mut self, a: Var, b: Var) -> Var {
        self.add_scaled(&[(a, 1.0), (b, 1.0)])
    }

    /// Σ factor · x; also for losses, which are 1 × 1. Of nothing: a 1 × 1 zero.
    pub fn add_scaled(&mut self, terms: &[(Var, f32)]) -> Var {
        let (rows, cols) = terms.first().map_or((1, 1), |&(x, _)| self.shape(x));
        let mut y = self.zeroed(rows * cols);
        for &(x, factor) in terms {
            assert_eq!(self.shape(x), (rows, cols), "shapes of what is added");
            kernel::axpy(factor, self.data(x), &mut y);
        }
        let wanted = terms.iter().any(|&(x, _)| self.wants(x));
        self.push(Tensor::new(rows, cols, y), wanted, || Box::new(Sum(terms.to_vec())))
    }

    /// factor · x.
    pub fn scale(&mut self, x: Var, factor: f32) -> Var {
        self.add_scaled(&[(x, factor)])
    }

    /// a ∘ b.
    pub fn multiply(&mut self, a: Var, b: Var) -> Var {
        let (rows, cols) = self.shape(a);
        assert_eq!((rows, cols), self.shape(b), "shapes of the factors");
        let mut y = self.take(rows * cols);
        kernel::multiply(self.data(a), self.data(b), &mut y);
        let wanted = self.wants(a) || self.wants(b);
        self.push(Tensor::new(rows, cols, y), wanted, || Box::new(Product { a, b }))
    }

    /// f(x).
    pub fn activation(&mut self, x: Var, f: Activation) -> Var {
        let mut y = self.copy_of(x);
        kernel::activate(&mut y.data, f);
        self.push(y, self.wants(x), || Box::new(Activated { x, f }))
    }

    /// Each number 0 with probability p and else divided by 1 − p; x itself where nothing is learned or p is 0.
    pub fn drop_out(&mut self, x: Var, p: f32) -> Var {
        let Some(drop) = self.dropout(p) else { return x };
        let mut y = self.copy_of(x);
        kernel::drop_out(&mut y.data, drop, 0);
        self.push(y, self.wants(x), || Box::new(Dropped { x, drop }))
    }

    /// Rows that sum to 1.
    pub fn softmax(&mut self, x: Var) -> Var {
        let mut y = self.copy_of(x);
        for row in y.data.chunks_exact_mut(y.cols.max(1)) {
            kernel::softmax(row, 1.0);
        }
        self.push(y, self.wants(x), || Box::new(Softmax(x)))
    }

    /// Columns that sum to 1 over the rows of each sequence: attention within a sequence.
    pub fn segment_softmax(&mut self, x: Var, ragged: &Arc<Ragged>) -> Var {
        let mut y = self.copy_of(x);
        assert_eq!(y.rows, ragged.rows(), "rows of x and of the batch");
        let k = y.cols;
        let mut column = self.take(k);
        for range in ragged.iter().filter(|r| !r.is_empty() && k > 0) {
            let rows = &mut y.data[range.start * k..range.end * k];
            column.copy_from_slice(&rows[..k]);
            for row in rows.chunks_exact(k) {
                column.iter_mut().zip(row).for_each(|(top, &x)| *top = top.max(x));
            }
            rows.chunks_exact_mut(k).for_each(|row| kernel::axpy(-1.0, &column, row));
            kernel::exp(rows);
            column.fill(0.0);
            rows.chunks_exact(k).for_each(|row| kernel::axpy(1.0, row, &mut column));
            column.iter_mut().for_each(|total| *total = 1.0 / *total);
            for row in rows.chunks_exact_mut(k) {
                row.iter_mut().zip(&column).for_each(|(y, factor)| *y *= factor);
            }
        }
        self.give(column);
        let ragged = Arc::clone(ragged);
        self.push(y, self.wants(x), || Box::new(SegmentSoftmax { x, ragged }))
    }

    fn copy_of(&mut self, x: Var) -> Tensor {
        let (rows, cols) = self.shape(x);
        let mut y = self.take(rows * cols);
        y.copy_from_slice(self.data(x));
        Tensor::new(rows, cols, y)
    }
}

struct Sum(Vec<(Var, f32)>);

impl Backward for Sum {
    fn backward(self: Box<Self>, _: &Tensor, dy: &mut [f32], _: &Values, grads: &mut Grads) {
        for &(x, factor) in &self.0 {
            if grads.wants(x) {
                kernel::axpy(factor, dy, grads.sum(x));
            }
        }
    }
}

struct Product {
    a: Var,
    b: Var,
}

impl Backward for Product {
    fn backward(self: Box<Self>, _: &Tensor, dy: &mut [f32], values: &Values, grads: &mut Grads) {
        for (to, other) in [(self.a, self.b), (self.b, self.a)] {
            if grads.wants(to) {
                kernel::multiply_add(dy, values.data(other), grads.sum(to));
            }
        }
    }
}

struct Activated {
    x: Var,
    f: Activation,
}

impl Backward for Activated {
    fn backward(self: Box<Self>, _: &Tensor, dy: &mut [f32], values: &Values, grads: &mut Grads) {
        kernel::deactivate(dy, values.data(self.x), self.f);
        grads.add(self.x, dy);
    }
}

struct Dropped {
    x: Var,
    drop: Dropout,
}

impl Backward for Dropped {
    fn backward(self: Box<Self>, _: &Tensor, dy: &mut [f32], _: &Values, grads: &mut Grads) {
        kernel::drop_out(dy, self.drop, 0);
        grads.add(self.x, dy);
    }
}

struct Softmax(Var);

impl Backward for Softmax {
    fn backward(self: Box<Self>, y: &Tensor, dy: &mut [f32], _: &Values, grads: &mut Grads) {
        let cols = y.cols.max(1);
        for (dy, y) in dy.chunks_exact_mut(cols).zip(y.data.chunks_exact(cols)) {
            let mean = kernel::dot(y, dy);
            dy.iter_mut().zip(y).for_each(|(dy, y)| *dy = y * (*dy - mean));
        }
        grads.add(self.0, dy);
    }
}

struct SegmentSoftmax {
    x: Var,
    ragged: Arc<Ragged>,
}

impl Backward for SegmentSoftmax {
    fn backward(self: Box<Self>, y: &Tensor, dy: &mut [f32], _: &Values, grads: &mut Grads) {
        let k = y.cols;
        let mut means = grads.workspace.take(k);
        for range in self.ragged.iter().filter(|r| !r.is_empty() && k > 0) {
            let range = range.start * k..range.end * k;
            let (dy, y) = (&mut dy[range.clone()], &y.data[range]);
            means.fill(0.0);
            for (dy, y) in dy.chunks_exact(k).zip(y.chunks_exact(k)) {
                kernel::multiply_add(y, dy, &mut means);
            }
            for (dy, y) in dy.chunks_exact_mut(k).zip(y.chunks_exact(k)) {
                dy.iter_mut().zip(y).zip(&means).for_each(|((dy, y), mean)| *dy = y * (*dy - mean));
            }
        }
        grads.workspace.give(means);
        grads.add(self.x, dy);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{M, check, softmax};

    #[test]
    fn forwards_and_back() {
        for (n, d) in [(0, 3), (1, 1), (3, 5), (7, 70)] {
            let build = |tape: &mut Tape, v: &[Var]| tape.add(v[0], v[1]);
            check(&[(n, d), (n, d)], 1, build, |v| M::from_fn(n, d, |r, c| v[0].at(r, c) + v[1].at(r, c)));
            let build =
                |tape: &mut Tape, v: &[Var]| tape.add_scaled(&[(v[0], 0.5), (v[1], -2.0), (v[0], 3.0)]);
            check(&[(n, d), (n, d)], 2, build, |v| {
                M::from_fn(n, d, |r, c| 3.5 * v[0].at(r, c) - 2.0 * v[1].at(r, c))
            });
            let build = |tape: &mut Tape, v: &[Var]| tape.scale(v[0], -0.3);
            check(&[(n, d)], 3, build, |v| v[0].map(|x| x * f64::from(-0.3f32)));
            let build = |tape: &mut Tape, v: &[Var]| {
                let square = tape.multiply(v[0], v[0]);
                tape.multiply(square, v[1])
            };
            check(&[(n, d), (n, d)], 4, build, |v| {
                M::from_fn(n, d, |r, c| v[0].at(r, c) * v[0].at(r, c) * v[1].at(r, c))
            });
            let build = |tape: &mut Tape, v: &[Var]| tape.activation(v[0], Activation::Tanh);
            check(&[(n, d)], 5, build, |v| v[0].map(f64::tanh));
            let build = |tape: &mut Tape, v: &[Var]| tape.softmax(v[0]);
            check(&[(n, d)], 6, build, |v| M {
                data: (0..n).flat_map(|r| softmax(v[0].row(r))).collect(),
                ..v[0]
            });
        }
    }

    #[test]
    fn segments_forwards_and_back() {
        let batches: [&[usize]; 5] = [&[], &[0, 0], &[1], &[3, 0, 1, 6], &[150, 2, 0, 40]];
        for (lengths, k) in batches.iter().flat_map(|b| [1, 4, 33].map(|k| (b, k))) {
            let ragged = Arc::new(Ragged::of(lengths.iter().copied()));
            let n = ragged.rows();
            let build = |tape: &mut Tape, v: &[Var]| tape.segment_softmax(v[0], &ragged);
            check(&[(n, k)], 7, build, |v| {
                let mut y = M::zeros(n, k);
                for (range, c) in ragged.iter().flat_map(|r| (0..k).map(move |c| (r.clone(), c))) {
                    let column: Vec<f64> = range.clone().map(|t| v[0].at(t, c)).collect();
                    range.zip(softmax(&column)).for_each(|(t, p)| y.data[t * k + c] = p);
                }
                y
            });
        }
    }

    #[test]
    fn what_is_dropped_is_the_same_on_the_way_back() {
        let (seed, p) = (11, 0.4);
        let drop = Dropout::new(p, sommelier_core::Rng::new(seed).next_u64() as u32);
        let build = |tape: &mut Tape, v: &[Var]| tape.drop_out(v[0], p);
        check(&[(6, 5)], seed, build, |v| {
            M::from_fn(6, 5, |r, c| v[0].at(r, c) * f64::from(drop.factor((r * 5 + c) as u32)))
        });
        let params = crate::Params::new(0);
        let mut tape = Tape::answering(&params, crate::Workspace::default());
        let x = tape.constant(Tensor::new(1, 1, vec![1.0]));
        assert_eq!(tape.drop_out(x, 0.5), x, "nothing is dropped from an answer");
    }

    #[test]
    fn a_sum_of_nothing_is_zero() {
        let params = crate::Params::new(0);
        let mut tape = Tape::answering(&params, crate::Workspace::default());
        let y = tape.add_scaled(&[]);
        assert_eq!((tape.shape(y), tape.data(y)), ((1, 1), &[0.0][..]));
    }
}

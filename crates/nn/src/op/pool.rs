//! From the rows of each sequence to one row, and back.
//!
//! pool: y_s = mean, sum, entrywise maximum, or last of the rows of sequence s; 0 where it has none
//! weighted_pool: y_{s k + j} = Σ_{t in s} w[t, j] x_t
//! pick_rows: y_i = x_{rows[i]};  spread: y_t = x_s for each row t of sequence s
//!
//! Shapes: x (rows × d), y (sequences × d); w (rows × k), y (sequences · k × d); y (picked × d); x (sequences × d),
//! y (rows × d).
//! Way back: each row gets its share of its sequence's gradient; a maximum's goes to the first row that has it. With
//! weights dw = x · dy, dx = Σ_j w_j dy_j; picked rows are scattered; what was spread is summed.
//! Cost: a pass each way; 2 · rows · k · d for weighted_pool, twice that backwards.

use super::{add_at_rows, gather_rows, row_sums};
use crate::kernel::{self, Layout};
use crate::ragged::Ragged;
use crate::tape::{Backward, Grads, Tape, Tensor, Values, Var};
use std::sync::Arc;

/// What one row says of a sequence's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pool {
    Mean,
    Sum,
    Max,
    Last,
}

impl Tape<'_> {
    /// One row for each sequence. See `op/pool.rs`.
    pub fn pool(&mut self, x: Var, pool: Pool, ragged: &Arc<Ragged>) -> Var {
        let (rows, d) = self.shape(x);
        assert_eq!(rows, ragged.rows(), "rows of x and of the batch");
        let mut y = self.zeroed(ragged.len() * d);
        let data = self.data(x);
        for (y, range) in y.chunks_exact_mut(d.max(1)).zip(ragged.iter()).filter(|(_, r)| !r.is_empty()) {
            let rows = &data[range.start * d..range.end * d];
            let last = &rows[rows.len() - d..];
            match pool {
                Pool::Sum => row_sums(rows, d, y),
                Pool::Mean => {
                    row_sums(rows, d, y);
                    kernel::scale(y, 1.0 / range.len() as f32);
                }
                Pool::Last => y.copy_from_slice(last),
                Pool::Max => {
                    y.copy_from_slice(last);
                    for row in rows.chunks_exact(d) {
                        // A NaN stays.
                        y.iter_mut()
                            .zip(row)
                            .for_each(|(y, &x)| *y = if x > *y || x.is_nan() { x } else { *y });
                    }
                }
            }
        }
        let way_back = || Box::new(Pooled { x, pool, ragged: Arc::clone(ragged) }) as Box<dyn Backward>;
        self.push(Tensor::new(ragged.len(), d, y), self.wants(x), way_back)
    }

    /// Several weighted sums of each sequence's rows. See `op/pool.rs`.
    pub fn weighted_pool(&mut self, x: Var, weights: Var, ragged: &Arc<Ragged>) -> Var {
        let ((rows, d), (own_rows, k)) = (self.shape(x), self.shape(weights));
        assert_eq!((rows, rows), (ragged.rows(), own_rows), "rows of the batch, of x and of the weights");
        let sequences = ragged.len();
        let mut y = self.zeroed(sequences * k * d);
        let (x_data, w) = (self.data(x), self.data(weights));
        let (x_at, w_at) = (Layout::rows_of(d), Layout::rows_of(k));
        for (s, range) in ragged.iter().enumerate().filter(|(_, r)| !r.is_empty()) {
            let (x, w) = (&x_data[range.start * d..], &w[range.start * k..]);
            let y = &mut y[s * k * d..][..k * d];
            kernel::gemm((k, d, range.len()), 1.0, (w, w_at.transposed()), (x, x_at), 0.0, (y, x_at));
        }
        let wanted = self.wants(x) || self.wants(weights);
        let ragged = Arc::clone(ragged);
        self.push(Tensor::new(sequences * k, d, y), wanted, || Box::new(Weighted { x, weights, ragged }))
    }

    /// These rows of x, in this order; a row may come again. See `op/pool.rs`.
    pub fn pick_rows(&mut self, x: Var, rows: Vec<u32>) -> Var {
        let d = self.shape(x).1;
        let mut y = self.take(rows.len() * d);
        gather_rows(self.data(x), d, &rows, &mut y);
        let tensor = Tensor::new(rows.len(), d, y);
        self.push(tensor, self.wants(x), || Box::new(Picked { x, rows }))
    }

    /// For each row its sequence's row of x. See `op/pool.rs`.
    pub fn spread(&mut self, x: Var, ragged: &Arc<Ragged>) -> Var {
        let (sequences, d) = self.shape(x);
        assert_eq!(sequences, ragged.len(), "rows of x and sequences of the batch");
        let mut y = self.take(ragged.rows() * d);
        for (x, range) in self.data(x).chunks_exact(d.max(1)).zip(ragged.iter()) {
            y[range.start * d..range.end * d].chunks_exact_mut(d).for_each(|y| y.copy_from_slice(x));
        }
        let way_back = || Box::new(Spread { x, ragged: Arc::clone(ragged) }) as Box<dyn Backward>;
        self.push(Tensor::new(ragged.rows(), d, y), self.wants(x), way_back)
    }
}

struct Pooled {
    x: Var,
    pool: Pool,
    ragged: Arc<Ragged>,
}

impl Backward for Pooled {
    fn backward(self: Box<Self>, y: &Tensor, dy: &mut [f32], values: &Values, grads: &mut Grads) {
        let d = y.cols.max(1);
        let x = values.data(self.x);
        let dx = grads.sum(self.x);
        for (s, (dy, range)) in
            dy.chunks_exact(d).zip(self.ragged.iter()).enumerate().filter(|(_, (_, r))| !r.is_empty())
        {
            let share = if self.pool == Pool::Mean { 1.0 / range.len() as f32 } else { 1.0 };
            let range = range.start * d..range.end * d;
            let dx = &mut dx[range.clone()];
            match self.pool {
                Pool::Sum | Pool::Mean => dx.chunks_exact_mut(d).for_each(|dx| kernel::axpy(share, dy, dx)),
                Pool::Last => {
                    let last = dx.len() - d;
                    kernel::axpy(1.0, dy, &mut dx[last..]);
                }
                Pool::Max => {
                    let x = &x[range];
                    for (c, (&top, &dy)) in y.row(s).iter().zip(dy).enumerate() {
                        if let Some(at) = x[c..].iter().step_by(d).position(|&x| x == top) {
                            dx[at * d + c] += dy;
                        }
                    }
                }
            }
        }
    }
}

struct Weighted {
    x: Var,
    weights: Var,
    ragged: Arc<Ragged>,
}

impl Backward for Weighted {
    fn backward(self: Box<Self>, y: &Tensor, dy: &mut [f32], values: &Values, grads: &mut Grads) {
        let (d, k) = (y.cols, values.shape(self.weights).1);
        let (x_at, w_at) = (Layout::rows_of(d), Layout::rows_of(k));
        let gradients = |s: usize| &dy[s * k * d..][..k * d];
        if grads.wants(self.x) {
            let w = values.data(self.weights);
            let (dx, beta) = grads.slot(self.x);
            for (s, range) in self.ragged.iter().enumerate() {
                let (w, dx) = (&w[range.start * k..], &mut dx[range.start * d..]);
                kernel::gemm((range.len(), d, k), 1.0, (w, w_at), (gradients(s), x_at), beta, (dx, x_at));
            }
        }
        if grads.wants(self.weights) {
            let x = values.data(self.x);
            let (dw, beta) = grads.slot(self.weights);
            for (s, range) in self.ragged.iter().enumerate() {
                let (x, dw) = (&x[range.start * d..], &mut dw[range.start * k..]);
                let b = (gradients(s), x_at.transposed());
                kernel::gemm((range.len(), k, d), 1.0, (x, x_at), b, beta, (dw, w_at));
            }
        }
    }
}

struct Picked {
    x: Var,
    rows: Vec<u32>,
}

impl Backward for Picked {
    fn backward(self: Box<Self>, y: &Tensor, dy: &mut [f32], _: &Values, grads: &mut Grads) {
        add_at_rows(dy, y.cols, &self.rows, grads.sum(self.x));
    }
}

struct Spread {
    x: Var,
    ragged: Arc<Ragged>,
}

impl Backward for Spread {
    fn backward(self: Box<Self>, y: &Tensor, dy: &mut [f32], _: &Values, grads: &mut Grads) {
        let d = y.cols;
        for (dx, range) in grads.sum(self.x).chunks_exact_mut(d.max(1)).zip(self.ragged.iter()) {
            row_sums(&dy[range.start * d..range.end * d], d, dx);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{M, check};

    const BATCHES: [&[usize]; 5] = [&[], &[0, 0], &[1], &[3, 0, 1, 6], &[150, 2, 0, 40]];

    #[test]
    fn pools_forwards_and_back() {
        for (lengths, d) in BATCHES.iter().flat_map(|b| [1, 5, 40].map(|d| (b, d))) {
            let ragged = Arc::new(Ragged::of(lengths.iter().copied()));
            let (n, sequences) = (ragged.rows(), ragged.len());
            for pool in [Pool::Mean, Pool::Sum, Pool::Max, Pool::Last] {
                let build = |tape: &mut Tape, v: &[Var]| tape.pool(v[0], pool, &ragged);
                check(&[(n, d)], 1, build, |v| {
                    M::from_fn(sequences, d, |s, c| {
                        let column: Vec<f64> = ragged.range(s).map(|t| v[0].at(t, c)).collect();
                        let sum: f64 = column.iter().sum();
                        match pool {
                            _ if column.is_empty() => 0.0,
                            Pool::Sum => sum,
                            Pool::Mean => sum / column.len() as f64,
                            Pool::Max => column.iter().copied().fold(f64::NEG_INFINITY, f64::max),
                            Pool::Last => column[column.len() - 1],
                        }
                    })
                });
            }
            let build = |tape: &mut Tape, v: &[Var]| tape.spread(v[0], &ragged);
            let owner: Vec<usize> = (0..sequences).flat_map(|s| ragged.range(s).map(move |_| s)).collect();
            check(&[(sequences, d)], 2, build, |v| M::from_fn(n, d, |t, c| v[0].at(owner[t], c)));
            for k in [1, 3] {
                let build = |tape: &mut Tape, v: &[Var]| tape.weighted_pool(v[0], v[1], &ragged);
                check(&[(n, d), (n, k)], 3, build, |v| {
                    M::from_fn(sequences * k, d, |r, c| {
                        ragged.range(r / k).map(|t| v[1].at(t, r % k) * v[0].at(t, c)).sum()
                    })
                });
            }
        }
    }

    #[test]
    fn picked_rows_forwards_and_back() {
        for (n, d, rows) in [(0, 2, vec![]), (1, 1, vec![0]), (4, 3, vec![2, 0, 2, 2]), (3, 40, vec![])] {
            let build = |tape: &mut Tape, v: &[Var]| tape.pick_rows(v[0], rows.clone());
            let plain = |v: &[M]| M::from_fn(rows.len(), d, |r, c| v[0].at(rows[r] as usize, c));
            check(&[(n, d)], 4, build, plain);
        }
    }

    #[test]
    fn gradients_are_added_to_what_is_there() {
        let ragged = Arc::new(Ragged::of([2, 0, 3]));
        let build = |tape: &mut Tape, v: &[Var]| {
            let mean = tape.pool(v[0], Pool::Mean, &ragged);
            let both = [tape.weighted_pool(v[0], v[1], &ragged), tape.weighted_pool(v[0], v[1], &ragged)];
            tape.concat(&[mean, both[0], both[1]])
        };
        check(&[(5, 2), (5, 1)], 5, build, |v| {
            M::from_fn(3, 6, |s, c| {
                let rows = ragged.range(s);
                let len = rows.len() as f64;
                let weight = |t: usize| if c < 2 { 1.0 / len } else { v[1].at(t, 0) };
                rows.map(|t| weight(t) * v[0].at(t, c % 2)).sum()
            })
        });
    }

    #[test]
    fn a_maximum_keeps_a_nan() {
        let params = crate::Params::new(0);
        let mut tape = Tape::answering(&params, crate::Workspace::default());
        let x = tape.constant(Tensor::new(3, 1, vec![1.0, f32::NAN, 2.0]));
        let y = tape.pool(x, Pool::Max, &Arc::new(Ragged::of([3])));
        assert!(tape.data(y)[0].is_nan());
    }
}

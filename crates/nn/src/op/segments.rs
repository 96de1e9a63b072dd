//! Rows of each sequence against k rows that belong to the sequence as a whole: interests, centres, what was retrieved.
//!
//! segment_dots: y[t, j] = x_t · c_{s k + j};  segment_mix: y_t = Σ_j w[t, j] c_{s k + j}, for each row t of sequence s
//!
//! Together with weighted_pool (`op/pool.rs`) that is attention between the two, either way.
//!
//! Shapes: c (sequences · k × d); x (rows × d), y (rows × k); w (rows × k), y (rows × d).
//! Way back, within each sequence: dx = dy c, dc = dyᵀ x; dw = dy cᵀ, dc = wᵀ dy.
//! Cost: 2 · rows · k · d, twice that backwards: one product for each sequence.

use crate::kernel::{self, Layout};
use crate::ragged::Ragged;
use crate::tape::{Backward, Grads, Tape, Tensor, Values, Var};
use std::sync::Arc;

impl Tape<'_> {
    /// Products of each row with the k rows of its sequence. See `op/segments.rs`.
    pub fn segment_dots(&mut self, x: Var, c: Var, k: usize, ragged: &Arc<Ragged>) -> Var {
        let ((rows, d), of_c) = (self.shape(x), self.shape(c));
        assert_eq!((rows, of_c), (ragged.rows(), (ragged.len() * k, d)), "rows of x, and shape of c");
        let mut y = self.take(rows * k);
        for (s, range) in ragged.iter().enumerate() {
            let (x, c) = (&self.data(x)[range.start * d..], &self.data(c)[s * k * d..]);
            times_transposed((range.len(), d, k), x, c, 0.0, &mut y[range.start * k..]);
        }
        let wanted = self.wants(x) || self.wants(c);
        let ragged = Arc::clone(ragged);
        self.push(Tensor::new(rows, k, y), wanted, || Box::new(Dots { x, c, ragged }))
    }

    /// For each row a weighted sum of the rows of its sequence. See `op/segments.rs`.
    pub fn segment_mix(&mut self, weights: Var, c: Var, ragged: &Arc<Ragged>) -> Var {
        let ((rows, k), (of_all, d)) = (self.shape(weights), self.shape(c));
        assert_eq!((rows, of_all), (ragged.rows(), ragged.len() * k), "rows of the weights and of c");
        let mut y = self.take(rows * d);
        for (s, range) in ragged.iter().enumerate() {
            let (w, c) = (&self.data(weights)[range.start * k..], &self.data(c)[s * k * d..]);
            times((range.len(), k, d), w, c, 0.0, &mut y[range.start * d..]);
        }
        let wanted = self.wants(weights) || self.wants(c);
        let ragged = Arc::clone(ragged);
        self.push(Tensor::new(rows, d, y), wanted, || Box::new(Mix { weights, c, ragged }))
    }
}

/// y ← β y + a b for a (n × m), b (m × w).
fn times((n, m, w): (usize, usize, usize), a: &[f32], b: &[f32], beta: f32, y: &mut [f32]) {
    let at = Layout::rows_of;
    kernel::gemm((n, w, m), 1.0, (a, at(m)), (b, at(w)), beta, (y, at(w)));
}

/// y ← β y + a bᵀ for a (n × m), b (w × m).
fn times_transposed((n, m, w): (usize, usize, usize), a: &[f32], b: &[f32], beta: f32, y: &mut [f32]) {
    let at = Layout::rows_of;
    kernel::gemm((n, w, m), 1.0, (a, at(m)), (b, at(m).transposed()), beta, (y, at(w)));
}

/// y ← β y + aᵀ b for a (n × m), b (n × w).
fn transposed_times((n, m, w): (usize, usize, usize), a: &[f32], b: &[f32], beta: f32, y: &mut [f32]) {
    let at = Layout::rows_of;
    kernel::gemm((m, w, n), 1.0, (a, at(m).transposed()), (b, at(w)), beta, (y, at(w)));
}

struct Dots {
    x: Var,
    c: Var,
    ragged: Arc<Ragged>,
}

impl Backward for Dots {
    fn backward(self: Box<Self>, y: &Tensor, dy: &mut [f32], values: &Values, grads: &mut Grads) {
        let (k, d) = (y.cols, values.shape(self.x).1);
        if grads.wants(self.x) {
            let (dx, beta) = grads.slot(self.x);
            for (s, r) in self.ragged.iter().enumerate() {
                let (dy, c) = (&dy[r.start * k..], &values.data(self.c)[s * k * d..]);
                times((r.len(), k, d), dy, c, beta, &mut dx[r.start * d..]);
            }
        }
        if grads.wants(self.c) {
            let (dc, beta) = grads.slot(self.c);
            for (s, r) in self.ragged.iter().enumerate() {
                let (dy, x) = (&dy[r.start * k..], &values.data(self.x)[r.start * d..]);
                transposed_times((r.len(), k, d), dy, x, beta, &mut dc[s * k * d..]);
            }
        }
    }
}

struct Mix {
    weights: Var,
    c: Var,
    ragged: Arc<Ragged>,
}

impl Backward for Mix {
    fn backward(self: Box<Self>, y: &Tensor, dy: &mut [f32], values: &Values, grads: &mut Grads) {
        let (d, k) = (y.cols, values.shape(self.weights).1);
        if grads.wants(self.weights) {
            let (dw, beta) = grads.slot(self.weights);
            for (s, r) in self.ragged.iter().enumerate() {
                let (dy, c) = (&dy[r.start * d..], &values.data(self.c)[s * k * d..]);
                times_transposed((r.len(), d, k), dy, c, beta, &mut dw[r.start * k..]);
            }
        }
        if grads.wants(self.c) {
            let (dc, beta) = grads.slot(self.c);
            for (s, r) in self.ragged.iter().enumerate() {
                let (w, dy) = (&values.data(self.weights)[r.start * k..], &dy[r.start * d..]);
                transposed_times((r.len(), k, d), w, dy, beta, &mut dc[s * k * d..]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{M, check, dot};

    /// The sequence of each row.
    fn owners(ragged: &Ragged) -> Vec<usize> {
        (0..ragged.len()).flat_map(|s| ragged.range(s).map(move |_| s)).collect()
    }

    #[test]
    fn forwards_and_back() {
        let batches: [&[usize]; 5] = [&[], &[0, 0], &[1], &[3, 0, 1, 6], &[70, 2, 0, 30]];
        for (lengths, d) in batches.iter().flat_map(|b| [1, 5, 40].map(|d| (b, d))) {
            let ragged = Arc::new(Ragged::of(lengths.iter().copied()));
            let (n, sequences, owner) = (ragged.rows(), ragged.len(), owners(&ragged));
            for k in [0, 1, 3] {
                let build = |tape: &mut Tape, v: &[Var]| tape.segment_dots(v[0], v[1], k, &ragged);
                check(&[(n, d), (sequences * k, d)], 1, build, |v| {
                    M::from_fn(n, k, |t, j| dot(v[0].row(t), v[1].row(owner[t] * k + j)))
                });
                let build = |tape: &mut Tape, v: &[Var]| tape.segment_mix(v[0], v[1], &ragged);
                check(&[(n, k), (sequences * k, d)], 2, build, |v| {
                    M::from_fn(n, d, |t, c| {
                        (0..k).map(|j| v[0].at(t, j) * v[1].at(owner[t] * k + j, c)).sum()
                    })
                });
            }
        }
    }

    #[test]
    fn gradients_are_added_to_what_is_there() {
        let ragged = Arc::new(Ragged::of([2, 0, 3]));
        // Both operations read both matrices, the second one twice.
        let build = |tape: &mut Tape, v: &[Var]| {
            let dots = tape.segment_dots(v[0], v[1], 2, &ragged);
            let mixed = tape.segment_mix(dots, v[1], &ragged);
            tape.add(mixed, v[0])
        };
        check(&[(5, 3), (6, 3)], 3, build, |v| {
            let owner = owners(&ragged);
            M::from_fn(5, 3, |t, c| {
                let of = |j: usize| v[1].row(owner[t] * 2 + j);
                v[0].at(t, c) + (0..2).map(|j| dot(v[0].row(t), of(j)) * of(j)[c]).sum::<f64>()
            })
        });
    }
}

//! The selective state-space scan of Mamba over ragged sequences.
//!
//! Δ = softplus(delta + bias),  A = −e^a_log
//! h_t = e^(Δ_t A) ∘ h_{t−1} + Δ_t u_t B_tᵀ,  y_t = h_t C_t + d ∘ u_t,  out = y ∘ silu(gate),  h = 0 before a sequence
//!
//! Shapes: u, delta, gate and out (rows × c), bias and d (1 × c), a_log (c × s), B and C (rows × s); h_t (c × s) for each
//! row. B, C and the gate may be columns of wider matrices. The gate may be absent.
//! Way back: by hand, with dh carried backwards: dh_t = dy_t C_tᵀ + e^(Δ_{t+1} A) ∘ dh_{t+1}, from which all others follow.
//! Of h only every 16th state is remembered; those between are computed again.
//! Cost: rows · c · s exponentials each way and about 5 times as many multiplications forwards, 15 times backwards.
//! Source: Gu and Dao 2023, arXiv:2312.00752. As there, B is multiplied by Δ itself, not by its exact discretisation.

use super::columns::add_columns;
use crate::kernel::{self, SCAN_CHUNK, ScanGrads, ScanInputs};
use crate::ragged::Ragged;
use crate::tape::{Backward, Grads, Tape, Tensor, Values, Var};
use std::ops::Range;
use std::sync::Arc;

/// What a selective scan reads. A pair names columns of a matrix by the first of them.
#[derive(Debug, Clone, Copy)]
pub struct Scan {
    pub u: Var,
    /// Before bias and softplus.
    pub delta: Var,
    pub bias: Var,
    pub a_log: Var,
    pub b: (Var, usize),
    pub c: (Var, usize),
    pub d: Var,
    pub gate: Option<(Var, usize)>,
}

impl Tape<'_> {
    /// See `op/scan.rs`.
    pub fn scan(&mut self, scan: Scan, ragged: &Arc<Ragged>) -> Var {
        let ((rows, channels), states) = (self.shape(scan.u), self.shape(scan.a_log).1);
        assert_eq!(rows, ragged.rows(), "rows of u and of the batch");
        assert_eq!((rows, channels), self.shape(scan.delta), "shapes of u and delta");
        assert_eq!((channels, states), self.shape(scan.a_log), "channels of u and of A");
        let pairs = [(Some(scan.b), states), (Some(scan.c), states), (scan.gate, channels)];
        for ((var, from), width) in pairs.into_iter().filter_map(|(pair, width)| Some((pair?, width))) {
            let (own_rows, cols) = self.shape(var);
            assert!(own_rows == rows && from + width <= cols, "columns {from}.. of {own_rows} × {cols}");
        }
        let sources = [scan.u, scan.delta, scan.bias, scan.a_log, scan.b.0, scan.c.0, scan.d];
        let wanted = sources.into_iter().chain(scan.gate.map(|g| g.0)).any(|v| self.wants(v));
        let sizes = scan.inputs(&self.values(), &[], 0..0);
        let (state_len, work_len) = (sizes.state_len(), sizes.work_len());
        let chunks: usize = ragged.iter().map(|r| r.len().div_ceil(SCAN_CHUNK)).sum();
        let mut a = self.zeroed(state_len);
        let mut work = self.take(work_len);
        let mut marks = self.take(if wanted { chunks * state_len } else { 0 });
        let mut out = self.take(rows * channels);
        {
            let values = self.values();
            lay_out_a(values.data(scan.a_log), channels, states, &mut a);
            let mut left = &mut marks[..];
            for range in ragged.iter() {
                let count = if wanted { range.len().div_ceil(SCAN_CHUNK) * state_len } else { 0 };
                let (marks, rest) = left.split_at_mut(count);
                left = rest;
                let inputs = scan.inputs(&values, &a, range.clone());
                let out = &mut out[range.start * channels..range.end * channels];
                kernel::scan(&inputs, marks, &mut work, out);
            }
        }
        self.give(work);
        let a = self.constant(Tensor::new(1, state_len, a));
        let marks = self.constant(Tensor::new(1, marks.len(), marks));
        let ragged = Arc::clone(ragged);
        self.push(Tensor::new(rows, channels, out), wanted, || Box::new(Way { scan, ragged, a, marks }))
    }
}

/// A = −e^a_log for vectors.
fn lay_out_a(a_log: &[f32], channels: usize, states: usize, a: &mut [f32]) {
    kernel::scan_layout(channels, states, |from, to| a[to] = -a_log[from].exp());
}

impl Scan {
    fn inputs<'a>(&self, values: &Values<'a>, a: &'a [f32], range: Range<usize>) -> ScanInputs<'a> {
        let channels = values.shape(self.u).1;
        let own = range.start * channels..range.end * channels;
        let columns = |(var, from): (Var, usize)| {
            let (rows, cols) = values.shape(var);
            let begin = (range.start * cols + from).min(rows * cols);
            (&values.data(var)[begin..(range.end * cols).max(begin)], cols)
        };
        ScanInputs {
            channels,
            states: values.shape(self.a_log).1,
            u: &values.data(self.u)[own.clone()],
            delta: &values.data(self.delta)[own],
            bias: values.data(self.bias),
            a,
            b: columns(self.b),
            c: columns(self.c),
            d: values.data(self.d),
            gate: self.gate.map(columns),
        }
    }
}

struct Way {
    scan: Scan,
    ragged: Arc<Ragged>,
    /// A for vectors, and the states remembered.
    a: Var,
    marks: Var,
}

impl Backward for Way {
    fn backward(self: Box<Self>, y: &Tensor, dy: &mut [f32], values: &Values, grads: &mut Grads) {
        let (scan, rows, channels) = (&self.scan, y.rows, y.cols);
        let states = values.shape(scan.a_log).1;
        let a = values.data(self.a);
        let sizes = scan.inputs(values, a, 0..0);
        let state_len = sizes.state_len();
        let memory = &mut *grads.workspace;
        let mut work = memory.take(sizes.work_len());
        let (mut du, mut ddelta) = (memory.take(rows * channels), memory.take(rows * channels));
        let (mut db, mut dc) = (memory.take(rows * states), memory.take(rows * states));
        let mut dgate = memory.take(if scan.gate.is_some() { rows * channels } else { 0 });
        let (mut dbias, mut dd) = (memory.zeroed(channels), memory.zeroed(channels));
        let mut da = memory.zeroed(state_len);
        let mut marks = values.data(self.marks);
        for range in self.ragged.iter() {
            let (own, rest) = marks.split_at(range.len().div_ceil(SCAN_CHUNK) * state_len);
            marks = rest;
            let wide = range.start * channels..range.end * channels;
            let narrow = range.start * states..range.end * states;
            let mut into = ScanGrads {
                u: &mut du[wide.clone()],
                delta: &mut ddelta[wide.clone()],
                bias: &mut dbias,
                a: &mut da,
                b: &mut db[narrow.clone()],
                c: &mut dc[narrow],
                d: &mut dd,
                gate: if scan.gate.is_some() { &mut dgate[wide.clone()] } else { &mut [] },
            };
            kernel::scan_back(&scan.inputs(values, a, range), own, &dy[wide], &mut work, &mut into);
        }
        // ∂A / ∂a_log = A
        let mut da_log = grads.workspace.take(channels * states);
        kernel::scan_layout(channels, states, |to, from| da_log[to] = da[from] * a[from]);
        let gate = scan.gate.map(|gate| (gate, &dgate, channels));
        let parts = [
            ((scan.u, 0), &du, channels),
            ((scan.delta, 0), &ddelta, channels),
            ((scan.bias, 0), &dbias, channels),
            ((scan.a_log, 0), &da_log, states),
            (scan.b, &db, states),
            (scan.c, &dc, states),
            ((scan.d, 0), &dd, channels),
        ];
        for ((var, from), gradient, width) in parts.into_iter().chain(gate) {
            if grads.wants(var) {
                add_columns(grads, values, var, from, gradient, width);
            }
        }
        let used = [work, du, ddelta, db, dc, dgate, dbias, dd, da, da_log];
        used.into_iter().for_each(|v| grads.workspace.give(v));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{M, check_scaled, sigmoid};

    /// Inputs: u, delta, bias, a_log, [anything, B, C], d and, if there is one, [anything, gate].
    fn plain(v: &[M], ragged: &Ragged) -> M {
        let (u, delta, bias, a_log, bc, d) = (&v[0], &v[1], &v[2], &v[3], &v[4], &v[5]);
        let (channels, states) = (a_log.rows, a_log.cols);
        let mut out = M::zeros(u.rows, channels);
        for range in ragged.iter() {
            let mut h = M::zeros(channels, states);
            for t in range {
                for c in 0..channels {
                    let step = (delta.at(t, c) + bias.at(0, c)).exp().ln_1p();
                    let mut y = d.at(0, c) * u.at(t, c);
                    for s in 0..states {
                        let h = &mut h.data[c * states + s];
                        *h = (-step * a_log.at(c, s).exp()).exp() * *h + step * bc.at(t, 1 + s) * u.at(t, c);
                        y += *h * bc.at(t, 1 + states + s);
                    }
                    let gate = v.get(6).map_or(1.0, |g| g.at(t, 2 + c) * sigmoid(g.at(t, 2 + c)));
                    out.data[t * channels + c] = y * gate;
                }
            }
        }
        out
    }

    #[test]
    fn forwards_and_back() {
        // Lengths around the states remembered; channels around a vector's.
        let batches: [&[usize]; 5] = [&[], &[0, 0], &[1], &[3, 0, 1, 6], &[15, 16, 17, 0, 50]];
        for lengths in batches {
            let ragged = Arc::new(Ragged::of(lengths.iter().copied()));
            let n = ragged.rows();
            for (channels, states) in [(1, 1), (3, 2), (16, 4), (35, 16)] {
                let shapes = [
                    (n, channels),
                    (n, channels),
                    (1, channels),
                    (channels, states),
                    (n, 2 * states + 1),
                    (1, channels),
                    (n, channels + 2),
                ];
                let build = |tape: &mut Tape, v: &[Var]| {
                    let scan = Scan {
                        u: v[0],
                        delta: v[1],
                        bias: v[2],
                        a_log: v[3],
                        b: (v[4], 1),
                        c: (v[4], 1 + states),
                        d: v[5],
                        gate: v.get(6).map(|&g| (g, 2)),
                    };
                    tape.scan(scan, &ragged)
                };
                check_scaled(&shapes, 3, 0.7, build, |v| plain(v, &ragged));
                check_scaled(&shapes[..6], 4, 0.7, build, |v| plain(v, &ragged));
            }
        }
    }
}

//! A layer of gated recurrent units over ragged sequences, gates in PyTorch's order and convention.
//!
//! r, z = σ(W_ir x + b_ir + W_hr h + b_hr), σ(W_iz x + b_iz + W_hz h + b_hz)
//! n = tanh(W_in x + b_in + r ∘ (W_hn h + b_hn)),  h′ = (1 − z) ∘ n + z ∘ h,  h = 0 before a sequence
//!
//! Shapes: x (rows × in), `input` W_i (3h × in), `hidden` W_h (3h × h), biases (1 × 3h), y (rows × h): every state.
//! Way back: through time by hand; r, z, n and W_hn h + b_hn are remembered, states are read from y.
//! Cost: 6 · rows · h · (in + h) forwards, twice that backwards. Rows are worked on in the order of time, longest sequence
//! first, so that each moment is one product over the sequences that still run.
//! Source: Cho et al., EMNLP 2014, arXiv:1406.1078; the reset gate after the product, as in Chung et al. 2014,
//! arXiv:1412.3555 and cuDNN.

use super::{add_at_rows, gather_rows, row_sums};
use crate::kernel::{self, Layout};
use crate::params::{Init, Params};
use crate::ragged::Ragged;
use crate::tape::{Backward, Grads, Tape, Tensor, Values, Var};

/// The parameters of a layer of gated recurrent units.
#[derive(Debug, Clone, Copy)]
pub struct Gru {
    pub input: Var,
    pub hidden: Var,
    /// Of the input's products and of the hidden ones.
    pub bias: Option<(Var, Var)>,
}

impl Gru {
    /// Adds the parameters of layer `l` under PyTorch's names behind `prefix`, and begins them as PyTorch does: uniform in ± 1/√h.
    pub fn new(params: &mut Params, prefix: &str, l: usize, inputs: usize, width: usize) -> Gru {
        let uniform = Init::Uniform(1.0 / (width as f32).sqrt());
        let mut add = |part: &str, rows: usize, cols: usize| {
            params.add(&format!("{prefix}{part}_l{l}"), rows, cols, uniform).into()
        };
        Gru {
            input: add("weight_ih", 3 * width, inputs),
            hidden: add("weight_hh", 3 * width, width),
            bias: Some((add("bias_ih", 1, 3 * width), add("bias_hh", 1, 3 * width))),
        }
    }
}

/// Rows in the order of time.
struct Moments {
    /// For each row in the order of time, its place in the batch.
    order: Vec<u32>,
    /// Moment t is rows `ptr[t]..ptr[t + 1]`; its sequences are the first of those of the moment before.
    ptr: Vec<usize>,
}

impl Moments {
    fn of(ragged: &Ragged) -> Moments {
        let mut sequences: Vec<usize> = (0..ragged.len()).collect();
        sequences.sort_by_key(|&s| std::cmp::Reverse(ragged.range(s).len()));
        let mut order = Vec::with_capacity(ragged.rows());
        let mut ptr = vec![0];
        for t in 0..ragged.longest() {
            let running = sequences.iter().map(|&s| ragged.range(s)).take_while(|range| range.len() > t);
            order.extend(running.map(|range| (range.start + t) as u32));
            ptr.push(order.len());
        }
        Moments { order, ptr }
    }

    fn len(&self) -> usize {
        self.ptr.len() - 1
    }

    /// Rows before the moment before, at it, and at this one. Not of the first moment.
    fn step(&self, t: usize) -> (usize, usize, usize) {
        (self.ptr[t - 1], self.ptr[t], self.ptr[t + 1] - self.ptr[t])
    }
}

impl Tape<'_> {
    /// See `op/gru.rs`.
    pub fn gru(&mut self, x: Var, gru: Gru, ragged: &Ragged) -> Var {
        let ((rows, inner), (gates_wide, h)) = (self.shape(x), self.shape(gru.hidden));
        assert_eq!(rows, ragged.rows(), "rows of x and of the batch");
        assert_eq!((3 * h, (3 * h, inner)), (gates_wide, self.shape(gru.input)), "shapes of the weights");
        let biases = gru.bias.into_iter().flat_map(<[Var; 2]>::from);
        let wanted = [x, gru.input, gru.hidden].into_iter().chain(biases).any(|v| self.wants(v));
        let moments = Moments::of(ragged);
        let alive = moments.ptr.get(1).copied().unwrap_or(0);
        let mut x_timed = self.take(rows * inner);
        let mut gates = self.take(rows * 3 * h);
        let mut products = self.take(alive * 3 * h);
        let mut kept = self.take(rows * h);
        let mut states = self.take(rows * h);
        let mut turned = self.take(h * 3 * h);
        let before = self.zeroed(alive * h);
        let mut y = self.take(rows * h);
        let mut bias = self.zeroed(4 * h);
        {
            let values = self.values();
            let (input, hidden) = (values.data(gru.input), values.data(gru.hidden));
            gather_rows(values.data(x), inner, &moments.order, &mut x_timed);
            let (bias_in, bias_n) = bias.split_at_mut(3 * h);
            if let Some((of_input, of_hidden)) = gru.bias {
                let of_hidden = values.data(of_hidden);
                bias_in.copy_from_slice(values.data(of_input));
                kernel::axpy(1.0, &of_hidden[..2 * h], bias_in);
                bias_n.copy_from_slice(&of_hidden[2 * h..]);
            }
            gates.chunks_exact_mut((3 * h).max(1)).for_each(|row| row.copy_from_slice(bias_in));
            let (x_at, h_at, g_at) = (Layout::rows_of(inner), Layout::rows_of(h), Layout::rows_of(3 * h));
            kernel::gemm(
                (rows, 3 * h, inner),
                1.0,
                (&x_timed, x_at),
                (input, x_at.transposed()),
                1.0,
                (&mut gates, g_at),
            );
            // The product of every moment reads the hidden weights along the rows of its result.
            for (i, row) in hidden.chunks_exact(h.max(1)).enumerate() {
                row.iter().enumerate().for_each(|(j, &w)| turned[j * 3 * h + i] = w);
            }
            for t in 0..moments.len() {
                let (from, to) = (moments.ptr[t], moments.ptr[t + 1]);
                let (past, now) = states[..to * h].split_at_mut(from * h);
                let past = if t == 0 { &before[..] } else { &past[moments.ptr[t - 1] * h..] };
                let past = &past[..(to - from) * h];
                let products = &mut products[..(to - from) * 3 * h];
                if t == 0 {
                    products.fill(0.0);
                } else {
                    let shape = (to - from, 3 * h, h);
                    kernel::gemm(shape, 1.0, (past, h_at), (&turned, g_at), 0.0, (products, g_at));
                }
                let gates = &mut gates[from * 3 * h..to * 3 * h];
                kernel::gru_step(h, gates, products, bias_n, past, &mut kept[from * h..to * h], now);
            }
            for (state, &place) in states.chunks_exact(h.max(1)).zip(&moments.order) {
                y[place as usize * h..][..h].copy_from_slice(state);
            }
        }
        [x_timed, products, states, turned, before, bias].into_iter().for_each(|v| self.give(v));
        let gates = self.constant(Tensor::new(rows, 3 * h, gates));
        let kept = self.constant(Tensor::new(rows, h, kept));
        let way_back = || Box::new(Way { x, gru, moments, gates, kept }) as Box<dyn Backward>;
        self.push(Tensor::new(rows, h, y), wanted, way_back)
    }
}

struct Way {
    x: Var,
    gru: Gru,
    moments: Moments,
    /// r, z and n, in the order of time.
    gates: Var,
    /// W_hn h + b_hn, in the order of time.
    kept: Var,
}

impl Backward for Way {
    fn backward(self: Box<Self>, y: &Tensor, dy: &mut [f32], values: &Values, grads: &mut Grads) {
        let (Way { gru, moments, .. }, (rows, h)) = (&*self, (y.rows, y.cols));
        let inner = values.shape(self.x).1;
        let (gates, kept) = (values.data(self.gates), values.data(self.kept));
        let (input, hidden) = (values.data(gru.input), values.data(gru.hidden));
        let (x_at, h_at, g_at) = (Layout::rows_of(inner), Layout::rows_of(h), Layout::rows_of(3 * h));
        let alive = moments.ptr.get(1).copied().unwrap_or(0);
        // States before each row: those of the first moment are 0, the others lie one row up.
        let mut before = grads.workspace.take(rows * h);
        before[..alive * h].fill(0.0);
        for (row, &place) in before.chunks_exact_mut(h.max(1)).zip(&moments.order).skip(alive) {
            row.copy_from_slice(y.row(place as usize - 1));
        }
        let mut dh = grads.workspace.take(rows * h);
        gather_rows(dy, h, &moments.order, &mut dh);
        // Gradients of the hidden products; those of the input's are the same but for n's, which have their own place.
        let mut dhidden = grads.workspace.take(rows * 3 * h);
        let mut dinput = grads.workspace.take(rows * h);
        for t in (0..moments.len()).rev() {
            let (from, to) = (moments.ptr[t], moments.ptr[t + 1]);
            let (own, wide) = (from * h..to * h, from * 3 * h..to * 3 * h);
            kernel::gru_step_back(
                h,
                &gates[wide.clone()],
                &kept[own.clone()],
                &before[own.clone()],
                &mut dh[own.clone()],
                &mut dhidden[wide.clone()],
                &mut dinput[own],
            );
            if t > 0 {
                let (past, from, count) = moments.step(t);
                let (earlier, now) = dh.split_at_mut(from * h);
                let earlier = &mut earlier[past * h..][..count * h];
                kernel::axpy(1.0, &now[..count * h], earlier);
                let dhidden = &dhidden[wide];
                kernel::gemm((count, h, 3 * h), 1.0, (dhidden, g_at), (hidden, h_at), 1.0, (earlier, h_at));
            }
        }
        let mut x = grads.workspace.take(rows * inner);
        gather_rows(values.data(self.x), inner, &moments.order, &mut x);
        if let Some((of_input, of_hidden)) = gru.bias {
            let mut sums = grads.workspace.zeroed(3 * h);
            row_sums(&dhidden, 3 * h, &mut sums);
            grads.add(of_hidden, &sums);
            sums[2 * h..].fill(0.0);
            row_sums(&dinput, h, &mut sums[2 * h..]);
            grads.add(of_input, &sums);
            grads.workspace.give(sums);
        }
        if grads.wants(gru.hidden) {
            let (dw, beta) = grads.slot(gru.hidden);
            // No state comes before the first moment.
            let (d, b) = (&dhidden[alive * 3 * h..], &before[alive * h..]);
            let shape = (3 * h, h, rows - alive);
            kernel::gemm(shape, 1.0, (d, g_at.transposed()), (b, h_at), beta, (dw, h_at));
        }
        // The input's products in two parts: those of r and z, those of n.
        if grads.wants(gru.input) {
            let (dw, beta) = grads.slot(gru.input);
            let (dw_rz, dw_n) = dw.split_at_mut(2 * h * inner);
            let d = (&dhidden[..], g_at.transposed());
            kernel::gemm((2 * h, inner, rows), 1.0, d, (&x, x_at), beta, (dw_rz, x_at));
            let d = (&dinput[..], h_at.transposed());
            kernel::gemm((h, inner, rows), 1.0, d, (&x, x_at), beta, (dw_n, x_at));
        }
        if grads.wants(self.x) {
            let dx = &mut x;
            let (w_rz, w_n) = input.split_at(2 * h * inner);
            kernel::gemm((rows, inner, 2 * h), 1.0, (&dhidden, g_at), (w_rz, x_at), 0.0, (dx, x_at));
            kernel::gemm((rows, inner, h), 1.0, (&dinput, h_at), (w_n, x_at), 1.0, (dx, x_at));
            add_at_rows(dx, inner, &moments.order, grads.sum(self.x));
        }
        [before, dh, dhidden, dinput, x].into_iter().for_each(|v| grads.workspace.give(v));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{M, check, check_scaled, dot, sigmoid};

    fn plain(v: &[M], ragged: &Ragged) -> M {
        let (x, wi, wh) = (&v[0], &v[1], &v[2]);
        let h = wh.cols;
        let bias = |which: usize, i: usize| v.get(3 + which).map_or(0.0, |b| b.at(0, i));
        let mut y = M::zeros(x.rows, h);
        for range in ragged.iter() {
            let mut state = vec![0.0; h];
            for t in range {
                let part = |i: usize| dot(wi.row(i), x.row(t)) + bias(0, i);
                let own = |i: usize| dot(wh.row(i), &state) + bias(1, i);
                let next: Vec<f64> = (0..h)
                    .map(|i| {
                        let r = sigmoid(part(i) + own(i));
                        let z = sigmoid(part(h + i) + own(h + i));
                        let n = (part(2 * h + i) + r * own(2 * h + i)).tanh();
                        (1.0 - z) * n + z * state[i]
                    })
                    .collect();
                state = next;
                y.data[t * h..][..h].copy_from_slice(&state);
            }
        }
        y
    }

    #[test]
    fn forwards_and_back() {
        let batches: [&[usize]; 6] = [&[], &[0, 0], &[1], &[3, 0, 1, 5, 3], &[2, 2, 2], &[40, 1, 0, 7]];
        for lengths in batches {
            let ragged = Ragged::of(lengths.iter().copied());
            let rows = ragged.rows();
            for (inner, h) in [(1, 1), (3, 4), (5, 19)] {
                let shapes = [(rows, inner), (3 * h, inner), (3 * h, h), (1, 3 * h), (1, 3 * h)];
                let build = |tape: &mut Tape, v: &[Var]| {
                    let gru = Gru { input: v[1], hidden: v[2], bias: v.get(3).map(|&b| (b, v[4])) };
                    tape.gru(v[0], gru, &ragged)
                };
                check_scaled(&shapes, 5, 0.5, build, |v| plain(v, &ragged));
                check_scaled(&shapes[..3], 6, 0.5, build, |v| plain(v, &ragged));
            }
        }
    }

    #[test]
    fn layers_can_be_stacked() {
        let ragged = Ragged::of([2, 4, 0, 1]);
        let build = |tape: &mut Tape, v: &[Var]| {
            let one = tape.gru(v[0], Gru { input: v[1], hidden: v[2], bias: None }, &ragged);
            tape.gru(one, Gru { input: v[3], hidden: v[4], bias: None }, &ragged)
        };
        check(&[(7, 2), (9, 2), (9, 3), (12, 3), (12, 4)], 7, build, |v| {
            let one = plain(&v[..3], &ragged);
            plain(&[one, v[3].clone(), v[4].clone()], &ragged)
        });
    }
}

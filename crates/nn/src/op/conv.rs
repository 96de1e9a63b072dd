//! Causal convolutions over ragged sequences, with an activation after them.
//!
//! depthwise: y[t, c] = f(b_c + Σ_{j<K} w[c, j] x[t − K + 1 + j, c])
//! full: y[t, o] = f(b_o + Σ_{j<K} Σ_i w[o, i K + j] x[t − K + 1 + j, i])
//!
//! with zeros before the start of each sequence: PyTorch's Conv1d with K − 1 zeros on the left, weights in its order.
//!
//! Shapes: x (rows × c), w (c × K), b (1 × c), y (rows × c); x (rows × in), w (out × in·K), b (1 × out), y (rows × out).
//! b may be absent.
//! Way back: g = f′(z) ∘ dy; each tap's gradient is a sum over rows of g times x shifted by it, dx that of g shifted the
//! other way times the tap. z is remembered only where f is not the identity.
//! Cost: 2 · rows · c · K; 2 · rows · in · out · K: in tiles of rows one product with K shifted copies side by side. Twice
//! that backwards.

use super::row_sums;
use crate::kernel::{self, Activation, Layout};
use crate::ragged::Ragged;
use crate::tape::{Backward, Grads, Tape, Tensor, Values, Var};
use std::sync::Arc;

/// What of a convolution is used beside x and w.
#[derive(Debug, Clone, Copy, Default)]
pub struct Conv {
    pub bias: Option<Var>,
    pub activation: Activation,
}

/// Rows of a tile of a full convolution.
const TILE: usize = 128;

impl Tape<'_> {
    /// Each channel by itself. See `op/conv.rs`.
    pub fn conv_depthwise(
        &mut self,
        x: Var,
        weight: impl Into<Var>,
        with: Conv,
        ragged: &Arc<Ragged>,
    ) -> Var {
        let weight = weight.into();
        let ((rows, channels), (outer, k)) = (self.shape(x), self.shape(weight));
        assert_eq!((rows, channels), (ragged.rows(), outer), "rows of the batch and channels of the weight");
        let mut y = self.take(rows * channels);
        let (mut taps, mut bias) = (self.take(k * channels), self.zeroed(channels));
        let values = self.values();
        transpose(values.data(weight), k, channels, &mut taps);
        if let Some(of_conv) = with.bias {
            bias.copy_from_slice(values.data(of_conv));
        }
        let x_data = values.data(x);
        for range in ragged.iter() {
            let range = range.start * channels..range.end * channels;
            kernel::convolve(channels, &x_data[range.clone()], &taps, &bias, &mut y[range]);
        }
        self.give(taps);
        self.give(bias);
        self.finish_conv(x, weight, with, ragged, Tensor::new(rows, channels, y), true)
    }

    /// Every channel into every channel. See `op/conv.rs`.
    pub fn conv_full(
        &mut self,
        x: Var,
        weight: impl Into<Var>,
        taps: usize,
        with: Conv,
        ragged: &Arc<Ragged>,
    ) -> Var {
        let weight = weight.into();
        let ((rows, inner), (outer, width)) = (self.shape(x), self.shape(weight));
        assert_eq!((rows, inner * taps), (ragged.rows(), width), "rows of the batch, columns of the weight");
        let mut y = self.take(rows * outer);
        let mut shifted = self.take(TILE.min(rows) * width);
        {
            let values = self.values();
            let (x, w) = (values.data(x), values.data(weight));
            let bias = with.bias.map(|b| values.data(b));
            let (s_at, y_at) = (Layout::rows_of(width), Layout::rows_of(outer));
            let places: Vec<usize> = ragged.places().collect();
            for from in (0..rows).step_by(TILE) {
                let to = rows.min(from + TILE);
                let tile = &mut y[from * outer..to * outer];
                if let Some(bias) = bias {
                    tile.chunks_exact_mut(outer.max(1)).for_each(|row| row.copy_from_slice(bias));
                }
                shift(x, inner, taps, &places, from..to, &mut shifted);
                let beta = if bias.is_some() { 1.0 } else { 0.0 };
                let (a, b) = ((&shifted[..], s_at), (w, s_at.transposed()));
                kernel::gemm((to - from, outer, width), 1.0, a, b, beta, (tile, y_at));
            }
        }
        self.give(shifted);
        self.finish_conv(x, weight, with, ragged, Tensor::new(rows, outer, y), false)
    }

    fn finish_conv(
        &mut self,
        x: Var,
        weight: Var,
        with: Conv,
        ragged: &Arc<Ragged>,
        mut y: Tensor,
        depthwise: bool,
    ) -> Var {
        let wanted = self.wants(x) || self.wants(weight) || with.bias.is_some_and(|b| self.wants(b));
        let z = (wanted && with.activation != Activation::Identity).then(|| {
            let mut z = self.take(y.data.len());
            z.copy_from_slice(&y.data);
            self.constant(Tensor::new(y.rows, y.cols, z))
        });
        kernel::activate(&mut y.data, with.activation);
        let ragged = Arc::clone(ragged);
        self.push(y, wanted, || Box::new(Way { x, weight, with, ragged, z, depthwise }))
    }
}

/// `to` (cols × rows) ← `from` (rows × cols)ᵀ, given as `cols` and `rows`.
fn transpose(from: &[f32], cols: usize, rows: usize, to: &mut [f32]) {
    for (r, row) in from.chunks_exact(cols.max(1)).enumerate() {
        row.iter().enumerate().for_each(|(c, &x)| to[c * rows + r] = x);
    }
}

/// Rows of x with those before them as a full convolution's weight meets them: entry i K + j of a row is
/// x[t − K + 1 + j, i].
fn shift(x: &[f32], inner: usize, k: usize, places: &[usize], rows: std::ops::Range<usize>, to: &mut [f32]) {
    for (t, row) in rows.zip(to.chunks_exact_mut((inner * k).max(1))) {
        for back in 0..k {
            let j = k - 1 - back;
            let into = row[j..].iter_mut().step_by(k);
            if back <= places[t] {
                let from = &x[(t - back) * inner..][..inner];
                into.zip(from).for_each(|(to, &from)| *to = from);
            } else {
                into.for_each(|to| *to = 0.0);
            }
        }
    }
}

/// The way back of [`shift`].
fn shift_back(from: &[f32], inner: usize, k: usize, places: &[usize], first: usize, dx: &mut [f32]) {
    for (t, row) in (first..).zip(from.chunks_exact((inner * k).max(1))) {
        for back in 0..k.min(places[t] + 1) {
            let row = row[k - 1 - back..].iter().step_by(k);
            dx[(t - back) * inner..][..inner].iter_mut().zip(row).for_each(|(to, &from)| *to += from);
        }
    }
}

struct Way {
    x: Var,
    weight: Var,
    with: Conv,
    ragged: Arc<Ragged>,
    /// Before the activation.
    z: Option<Var>,
    depthwise: bool,
}

impl Backward for Way {
    fn backward(self: Box<Self>, y: &Tensor, dy: &mut [f32], values: &Values, grads: &mut Grads) {
        if let Some(z) = self.z {
            kernel::deactivate(dy, values.data(z), self.with.activation);
        }
        if let Some(bias) = self.with.bias {
            row_sums(dy, y.cols, grads.sum(bias));
        }
        if self.depthwise {
            self.depthwise_back(y, dy, values, grads);
        } else {
            self.full_back(y, dy, values, grads);
        }
    }
}

impl Way {
    fn depthwise_back(&self, y: &Tensor, g: &[f32], values: &Values, grads: &mut Grads) {
        let (channels, k) = (y.cols, values.shape(self.weight).1);
        let x = values.data(self.x);
        let mut taps = grads.workspace.take(k * channels);
        let mut dtaps = grads.workspace.zeroed(k * channels);
        let mut dx = grads.workspace.zeroed(x.len());
        transpose(values.data(self.weight), k, channels, &mut taps);
        for range in self.ragged.iter() {
            let range = range.start * channels..range.end * channels;
            let (x, g, dx) = (&x[range.clone()], &g[range.clone()], &mut dx[range]);
            kernel::convolve_back(channels, x, &taps, g, dx, &mut dtaps);
        }
        if grads.wants(self.x) {
            grads.add(self.x, &dx);
        }
        if grads.wants(self.weight) {
            transpose(&dtaps, channels, k, &mut taps);
            grads.add(self.weight, &taps);
        }
        [taps, dtaps, dx].into_iter().for_each(|v| grads.workspace.give(v));
    }

    fn full_back(&self, y: &Tensor, g: &[f32], values: &Values, grads: &mut Grads) {
        let (rows, outer) = (y.rows, y.cols);
        let (inner, width) = (values.shape(self.x).1, values.shape(self.weight).1);
        let k = width / inner.max(1);
        let (x, w) = (values.data(self.x), values.data(self.weight));
        let (s_at, y_at) = (Layout::rows_of(width), Layout::rows_of(outer));
        let places: Vec<usize> = self.ragged.places().collect();
        let mut shifted = grads.workspace.take(TILE.min(rows) * width);
        for from in (0..rows).step_by(TILE) {
            let to = rows.min(from + TILE);
            let (g, shifted) = (&g[from * outer..to * outer], &mut shifted[..(to - from) * width]);
            if grads.wants(self.weight) {
                shift(x, inner, k, &places, from..to, shifted);
                let (dw, beta) = grads.slot(self.weight);
                let (a, b) = ((g, y_at.transposed()), (&*shifted, s_at));
                kernel::gemm((outer, width, to - from), 1.0, a, b, beta, (dw, s_at));
            }
            if grads.wants(self.x) {
                kernel::gemm((to - from, width, outer), 1.0, (g, y_at), (w, s_at), 0.0, (shifted, s_at));
                shift_back(shifted, inner, k, &places, from, grads.sum(self.x));
            }
        }
        grads.workspace.give(shifted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{M, check, sigmoid};

    const BATCHES: [&[usize]; 5] = [&[], &[0, 0], &[1], &[3, 0, 1, 6], &[150, 2, 0, 120]];

    type Plain = fn(f64) -> f64;

    fn activations() -> [(Activation, Plain); 2] {
        [(Activation::Identity, |z| z), (Activation::Silu, |z| z * sigmoid(z))]
    }

    /// x[t − back], zero before the start of its sequence.
    fn before(x: &M, ragged: &Ragged, t: usize, back: usize, c: usize) -> f64 {
        let start = ragged.iter().find(|r| r.contains(&t)).expect("a sequence").start;
        if back <= t - start { x.at(t - back, c) } else { 0.0 }
    }

    #[test]
    fn depthwise_forwards_and_back() {
        for (lengths, (f, plain)) in BATCHES.iter().flat_map(|b| activations().map(|f| (b, f))) {
            let ragged = Arc::new(Ragged::of(lengths.iter().copied()));
            let n = ragged.rows();
            for (channels, k) in [(1, 1), (3, 4), (16, 2), (37, 3)] {
                let build = |tape: &mut Tape, v: &[Var]| {
                    let with = Conv { bias: v.get(2).copied(), activation: f };
                    tape.conv_depthwise(v[0], v[1], with, &ragged)
                };
                let shapes = [(n, channels), (channels, k), (1, channels)];
                let loops = |v: &[M]| {
                    M::from_fn(n, channels, |t, c| {
                        let bias = v.get(2).map_or(0.0, |b| b.at(0, c));
                        let sum = |j: usize| v[1].at(c, j) * before(&v[0], &ragged, t, k - 1 - j, c);
                        plain(bias + (0..k).map(sum).sum::<f64>())
                    })
                };
                check(&shapes, 3, build, loops);
                check(&shapes[..2], 4, build, loops);
            }
        }
    }

    #[test]
    fn full_forwards_and_back() {
        for (lengths, (f, plain)) in BATCHES.iter().flat_map(|b| activations().map(|f| (b, f))) {
            let ragged = Arc::new(Ragged::of(lengths.iter().copied()));
            let n = ragged.rows();
            for (inner, outer, k) in [(1, 1, 1), (3, 2, 4), (5, 9, 3)] {
                let build = |tape: &mut Tape, v: &[Var]| {
                    let with = Conv { bias: v.get(2).copied(), activation: f };
                    tape.conv_full(v[0], v[1], k, with, &ragged)
                };
                let shapes = [(n, inner), (outer, inner * k), (1, outer)];
                let loops = |v: &[M]| {
                    M::from_fn(n, outer, |t, o| {
                        let mut sum = v.get(2).map_or(0.0, |b| b.at(0, o));
                        for (i, j) in (0..inner).flat_map(|i| (0..k).map(move |j| (i, j))) {
                            sum += v[1].at(o, i * k + j) * before(&v[0], &ragged, t, k - 1 - j, i);
                        }
                        plain(sum)
                    })
                };
                check(&shapes, 5, build, loops);
                check(&shapes[..2], 6, build, loops);
            }
        }
    }
}

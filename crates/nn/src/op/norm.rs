//! Layer norm and RMS norm of each row.
//!
//! Layer norm: y = (x − μ) / √(σ² + ε) ∘ g + b with mean μ and variance σ² of the row. RMS norm: y = x / √(mean of x² + ε) ∘ g.
//!
//! Shapes: x and y (n × d); g and b (1 × d).
//! Way back, x̂ the normalised row, t = dy ∘ g: dx = (t − mean t − x̂ mean(t ∘ x̂)) / √(…), without the second term for RMS;
//! dg = Σ rows of dy ∘ x̂, db = Σ rows of dy.
//! Sources: Ba, Kiros, Hinton, "Layer Normalization", 2016, arXiv:1607.06450; Zhang, Sennrich, "Root Mean Square Layer
//! Normalization", NeurIPS 2019, arXiv:1910.07467.

use crate::kernel;
use crate::tape::{Backward, Grads, Tape, Tensor, Values, Var};

/// ε of both: PyTorch's default for layer norm.
pub const EPSILON: f32 = 1e-5;

impl Tape<'_> {
    /// See `op/norm.rs`. ε is [`EPSILON`].
    pub fn layer_norm(&mut self, x: Var, gain: impl Into<Var>, bias: impl Into<Var>) -> Var {
        let (gain, bias) = (gain.into(), bias.into());
        let (n, d) = self.shape(x);
        let mut y = self.take(n * d);
        let mut at = self.take(2 * n);
        let values = self.values();
        let (data, g, b) = (values.data(x), values.data(gain), values.data(bias));
        for r in 0..n {
            let (mean, inverse) =
                kernel::layer_norm(&data[r * d..][..d], g, b, &mut y[r * d..][..d], EPSILON);
            at[2 * r..][..2].copy_from_slice(&[mean, inverse]);
        }
        self.push(Tensor::new(n, d, y), true, || Box::new(Layer { x, gain, bias, at }))
    }

    /// See `op/norm.rs`. ε is [`EPSILON`].
    pub fn rms_norm(&mut self, x: Var, gain: impl Into<Var>) -> Var {
        let gain = gain.into();
        let (n, d) = self.shape(x);
        let mut y = self.take(n * d);
        let mut at = self.take(n);
        let values = self.values();
        let (data, g) = (values.data(x), values.data(gain));
        for r in 0..n {
            at[r] = kernel::rms_norm(&data[r * d..][..d], g, &mut y[r * d..][..d], EPSILON);
        }
        self.push(Tensor::new(n, d, y), true, || Box::new(Rms { x, gain, at }))
    }
}

struct Layer {
    x: Var,
    gain: Var,
    bias: Var,
    /// Mean and 1 / √(…) of each row.
    at: Vec<f32>,
}

impl Backward for Layer {
    fn backward(self: Box<Self>, y: &Tensor, dy: &mut [f32], values: &Values, grads: &mut Grads) {
        let (n, d) = (y.rows, y.cols);
        let (x, g) = (values.data(self.x), values.data(self.gain));
        let (mut dg, mut db) = (vec![0f32; d], vec![0f32; d]);
        let mut nowhere = Vec::new();
        let (dx, beta) = if grads.wants(self.x) {
            grads.slot(self.x)
        } else {
            nowhere.resize(n * d, 0.0);
            (&mut nowhere[..], 0.0)
        };
        for r in 0..n {
            let range = r * d..(r + 1) * d;
            let at = (self.at[2 * r], self.at[2 * r + 1]);
            let (x, dy, dx) = (&x[range.clone()], &dy[range.clone()], &mut dx[range]);
            kernel::layer_norm_back(x, g, dy, at, dx, beta, &mut dg, &mut db);
        }
        grads.add(self.gain, &dg);
        grads.add(self.bias, &db);
        grads.workspace.give(self.at);
    }
}

struct Rms {
    x: Var,
    gain: Var,
    at: Vec<f32>,
}

impl Backward for Rms {
    fn backward(self: Box<Self>, y: &Tensor, dy: &mut [f32], values: &Values, grads: &mut Grads) {
        let (n, d) = (y.rows, y.cols);
        let (x, g) = (values.data(self.x), values.data(self.gain));
        let mut dg = vec![0f32; d];
        let mut nowhere = Vec::new();
        let (dx, beta) = if grads.wants(self.x) {
            grads.slot(self.x)
        } else {
            nowhere.resize(n * d, 0.0);
            (&mut nowhere[..], 0.0)
        };
        for r in 0..n {
            let range = r * d..(r + 1) * d;
            let (x, dy, dx) = (&x[range.clone()], &dy[range.clone()], &mut dx[range]);
            kernel::rms_norm_back(x, g, dy, self.at[r], dx, beta, &mut dg);
        }
        grads.add(self.gain, &dg);
        grads.workspace.give(self.at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{M, check, dot};

    #[test]
    fn layer_norm_forwards_and_back() {
        for (n, d) in [(0, 4), (1, 1), (1, 2), (5, 33), (3, 64)] {
            let build = |tape: &mut Tape, v: &[Var]| tape.layer_norm(v[0], v[1], v[2]);
            check(&[(n, d), (1, d), (1, d)], 5, build, |v| {
                M::from_fn(n, d, |r, c| {
                    let row = v[0].row(r);
                    let mean = row.iter().sum::<f64>() / d as f64;
                    let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / d as f64;
                    (row[c] - mean) / (variance + f64::from(EPSILON)).sqrt() * v[1].at(0, c) + v[2].at(0, c)
                })
            });
        }
    }

    #[test]
    fn rms_norm_forwards_and_back() {
        for (n, d) in [(0, 4), (1, 1), (5, 33)] {
            let build = |tape: &mut Tape, v: &[Var]| tape.rms_norm(v[0], v[1]);
            check(&[(n, d), (1, d)], 6, build, |v| {
                M::from_fn(n, d, |r, c| {
                    let row = v[0].row(r);
                    row[c] / (dot(row, row) / d as f64 + f64::from(EPSILON)).sqrt() * v[1].at(0, c)
                })
            });
        }
    }
}

//! A linear layer with everything that usually follows it, in one pass over cache-sized tiles of rows.
//!
//! y = r + drop(f(x Wᵀ + b))
//!
//! Shapes: x (n × in), W (out × in), b (1 × out), r and y (n × out). b and r may be absent.
//! Way back: g = f′(z) · drop(dy) with z = x Wᵀ + b; dr = dy, dx = g W, dW = gᵀ x, db = Σ rows of g.
//! Cost: 2 · n · in · out forwards, twice that backwards. f′(z) is remembered only where f is neither the identity nor ReLU.

use crate::kernel::{self, Activation, Dropout, Layout};
use crate::tape::{Backward, Grads, Tape, Tensor, Values, Var};

/// What of a linear layer is used beside x and W.
#[derive(Debug, Clone, Copy, Default)]
pub struct Linear {
    pub bias: Option<Var>,
    pub activation: Activation,
    /// Probability of dropping an output.
    pub dropout: f32,
    /// Added at the end.
    pub residual: Option<Var>,
}

/// Rows of a tile.
const TILE: usize = 256;

impl Tape<'_> {
    /// See `op/linear.rs`.
    pub fn linear(&mut self, x: Var, weight: impl Into<Var>, with: Linear) -> Var {
        let weight = weight.into();
        let ((n, inner), (outer, width)) = (self.shape(x), self.shape(weight));
        assert_eq!(inner, width, "x has {inner} columns, the weight {width}");
        let drop = self.dropout(with.dropout);
        let wanted = self.wants(x) || self.wants(weight) || with.residual.is_some_and(|r| self.wants(r));
        // Of ReLU the output tells all that the slope needs, unless something was added to it.
        let told = with.activation == Activation::Relu && with.residual.is_none();
        let keep = wanted && with.activation != Activation::Identity && !told;
        let mut y = self.take(n * outer);
        let mut slope = if keep { self.take(n * outer) } else { Vec::new() };
        let none = vec![0f32; outer];
        {
            let values = self.values();
            let (x, w) = (values.data(x), values.data(weight));
            let bias = with.bias.map_or(&none[..], |b| values.data(b));
            let residual = with.residual.map(|r| values.data(r));
            for from in (0..n).step_by(TILE) {
                let rows = TILE.min(n - from);
                let range = from * outer..(from + rows) * outer;
                let tile = &mut y[range.clone()];
                let (x_at, w_at) = (Layout::rows_of(inner), Layout::rows_of(inner).transposed());
                let x = &x[from * inner..(from + rows) * inner];
                let shape = (rows, outer, inner);
                kernel::gemm(shape, 1.0, (x, x_at), (w, w_at), 0.0, (tile, Layout::rows_of(outer)));
                if !bias.is_empty() {
                    let slope = if keep { &mut slope[range.clone()] } else { &mut [] };
                    kernel::bias_activate(tile, bias, slope, with.activation);
                }
                if let Some(drop) = drop {
                    kernel::drop_out(tile, drop, range.start as u32);
                }
                if let Some(residual) = residual {
                    kernel::axpy(1.0, &residual[range], tile);
                }
            }
        }
        let way_back = || Box::new(Way { x, weight, with, drop, slope }) as Box<dyn Backward>;
        self.push(Tensor::new(n, outer, y), wanted, way_back)
    }
}

struct Way {
    x: Var,
    weight: Var,
    with: Linear,
    drop: Option<Dropout>,
    /// f′(z), where it is remembered.
    slope: Vec<f32>,
}

impl Backward for Way {
    fn backward(self: Box<Self>, y: &Tensor, dy: &mut [f32], values: &Values, grads: &mut Grads) {
        let (n, outer) = (y.rows, y.cols);
        let inner = values.shape(self.x).1;
        if let Some(residual) = self.with.residual
            && grads.wants(residual)
        {
            grads.add(residual, dy);
        }
        let (g_at, x_at) = (Layout::rows_of(outer), Layout::rows_of(inner));
        let (x, w) = (values.data(self.x), values.data(self.weight));
        let wanted = [self.weight, self.x].map(|var| grads.wants(var));
        let beta = if wanted[1] { grads.slot(self.x).1 } else { 0.0 };
        for from in (0..n).step_by(TILE) {
            let rows = TILE.min(n - from);
            let (range, x_range) = (from * outer..(from + rows) * outer, from * inner..(from + rows) * inner);
            let dy = &mut dy[range.clone()];
            if let Some(drop) = self.drop {
                kernel::drop_out(dy, drop, range.start as u32);
            }
            match self.slope.get(range.clone()) {
                Some(slope) => kernel::multiply_by(slope, dy),
                None => kernel::deactivate(dy, &y.data[range], self.with.activation),
            }
            if let Some(bias) = self.with.bias {
                super::row_sums(dy, outer, grads.sum(bias));
            }
            if wanted[0] {
                let (dw, beta) = grads.slot(self.weight);
                let x = (&x[x_range.clone()], x_at);
                kernel::gemm((outer, inner, rows), 1.0, (dy, g_at.transposed()), x, beta, (dw, x_at));
            }
            if wanted[1] {
                let into = (&mut grads.slot(self.x).0[x_range], x_at);
                kernel::gemm((rows, inner, outer), 1.0, (dy, g_at), (w, x_at), beta, into);
            }
        }
        grads.workspace.give(self.slope);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{M, check, sigmoid};

    #[test]
    fn forwards_and_back() {
        for (n, inner, outer) in [(0, 3, 2), (1, 1, 1), (3, 5, 4), (300, 8, 7)] {
            for (activation, plain) in [
                (Activation::Identity, (|z| z) as fn(f64) -> f64),
                (Activation::Silu, |z| z * sigmoid(z)),
                (Activation::Tanh, f64::tanh),
                (Activation::Relu, |z| z.max(0.0)),
            ] {
                let shapes = [(n, inner), (outer, inner), (1, outer), (n, outer)];
                let build = |tape: &mut Tape, v: &[Var]| {
                    let with = Linear { bias: Some(v[2]), activation, residual: Some(v[3]), dropout: 0.0 };
                    tape.linear(v[0], v[1], with)
                };
                check(&shapes, 3, build, |v| {
                    let z = v[0].times_transposed(&v[1]);
                    M::from_fn(n, outer, |r, c| v[3].at(r, c) + plain(z.at(r, c) + v[2].at(0, c)))
                });
            }
            let relu = |tape: &mut Tape, v: &[Var]| {
                tape.linear(v[0], v[1], Linear { activation: Activation::Relu, ..Linear::default() })
            };
            check(&[(n, inner), (outer, inner)], 4, relu, |v| {
                v[0].times_transposed(&v[1]).map(|z| z.max(0.0))
            });
            let bare = |tape: &mut Tape, v: &[Var]| tape.linear(v[0], v[1], Linear::default());
            check(&[(n, inner), (outer, inner)], 4, bare, |v| v[0].times_transposed(&v[1]));
        }
    }

    #[test]
    fn what_is_dropped_is_the_same_on_the_way_back() {
        let build = |tape: &mut Tape, v: &[Var]| {
            tape.linear(
                v[0],
                v[1],
                Linear { dropout: 0.4, activation: Activation::Tanh, ..Linear::default() },
            )
        };
        // The check's tape draws its first number from this seed.
        let seed = 9;
        let drop = Dropout::new(0.4, sommelier_core::Rng::new(seed).next_u64() as u32);
        check(&[(4, 3), (5, 3)], seed, build, |v| {
            let z = v[0].times_transposed(&v[1]);
            M::from_fn(4, 5, |r, c| z.at(r, c).tanh() * f64::from(drop.factor((r * 5 + c) as u32)))
        });
    }
}

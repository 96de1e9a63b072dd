//! A gate: some columns of one matrix, through an activation, times some columns of another.
//!
//! y = drop(f(x[:, a..a+w]) ∘ z[:, b..b+w])
//!
//! Shapes: x and z (n × any), y (n × w); x and z may be the same.
//! Way back, g = drop(dy): dx = g ∘ z ∘ f′(x), dz = g ∘ f(x), in their columns.
//! Source: Dauphin et al., "Language Modeling with Gated Convolutional Networks", ICML 2017, arXiv:1612.08083; with SiLU it is
//! SwiGLU (Shazeer, 2020, arXiv:2002.05202).

use crate::kernel::{self, Activation, Dropout};
use crate::tape::{Backward, Grads, Tape, Tensor, Values, Var};

/// Which columns, and what happens to them.
#[derive(Debug, Clone, Copy)]
pub struct Gate {
    /// First column of x, of z.
    pub from: [usize; 2],
    pub width: usize,
    /// Of x.
    pub activation: Activation,
    pub dropout: f32,
}

impl Tape<'_> {
    /// See `op/gate.rs`.
    pub fn gate(&mut self, x: Var, z: Var, with: Gate) -> Var {
        let (n, w) = (self.shape(x).0, with.width);
        assert_eq!(n, self.shape(z).0, "both sides of a gate have as many rows");
        let drop = self.dropout(with.dropout);
        let mut y = self.take(n * w);
        let mut scratch = vec![0f32; w];
        {
            let values = self.values();
            let (a, b) = (Columns::of(&values, x, with.from[0], w), Columns::of(&values, z, with.from[1], w));
            for r in 0..n {
                let gate = activated(a.row(r), with.activation, &mut scratch);
                kernel::multiply(gate, b.row(r), &mut y[r * w..][..w]);
            }
        }
        if let Some(drop) = drop {
            kernel::drop_out(&mut y, drop, 0);
        }
        let wanted = self.wants(x) || self.wants(z);
        self.push(Tensor::new(n, w, y), wanted, || Box::new(Way { x, z, with, drop }))
    }
}

/// f(row), in `scratch` unless f is the identity.
fn activated<'a>(row: &'a [f32], f: Activation, scratch: &'a mut [f32]) -> &'a [f32] {
    if f == Activation::Identity {
        return row;
    }
    scratch.copy_from_slice(row);
    kernel::activate(scratch, f);
    scratch
}

/// Some columns of a matrix.
struct Columns<'a> {
    data: &'a [f32],
    stride: usize,
    from: usize,
    width: usize,
}

impl<'a> Columns<'a> {
    fn of(values: &Values<'a>, var: Var, from: usize, width: usize) -> Columns<'a> {
        let stride = values.shape(var).1;
        assert!(from + width <= stride, "columns {from} to {} of {stride}", from + width);
        Columns { data: values.data(var), stride, from, width }
    }

    fn row(&self, r: usize) -> &'a [f32] {
        &self.data[r * self.stride + self.from..][..self.width]
    }
}

struct Way {
    x: Var,
    z: Var,
    with: Gate,
    drop: Option<Dropout>,
}

impl Backward for Way {
    fn backward(self: Box<Self>, y: &Tensor, dy: &mut [f32], values: &Values, grads: &mut Grads) {
        let (n, w) = (y.rows, y.cols);
        if let Some(drop) = self.drop {
            kernel::drop_out(dy, drop, 0);
        }
        let [from, z_from] = self.with.from;
        let (a, b) = (Columns::of(values, self.x, from, w), Columns::of(values, self.z, z_from, w));
        let mut scratch = vec![0f32; w];
        if grads.wants(self.z) {
            let dz = grads.sum(self.z);
            for r in 0..n {
                let gate = activated(a.row(r), self.with.activation, &mut scratch);
                kernel::multiply_add(gate, &dy[r * w..][..w], &mut dz[r * b.stride + z_from..][..w]);
            }
        }
        if grads.wants(self.x) {
            let dx = grads.sum(self.x);
            for r in 0..n {
                let dx = &mut dx[r * a.stride + from..][..w];
                if self.with.activation == Activation::Identity {
                    kernel::multiply_add(b.row(r), &dy[r * w..][..w], dx);
                    continue;
                }
                kernel::multiply(b.row(r), &dy[r * w..][..w], &mut scratch);
                kernel::deactivate(&mut scratch, a.row(r), self.with.activation);
                kernel::axpy(1.0, &scratch, dx);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{M, check, sigmoid};

    #[test]
    fn forwards_and_back() {
        for n in [0, 1, 4] {
            let with = Gate { from: [1, 2], width: 3, activation: Activation::Silu, dropout: 0.0 };
            let plainly = Gate { activation: Activation::Identity, ..with };
            check(
                &[(n, 4), (n, 6)],
                4,
                |tape, v| tape.gate(v[0], v[1], plainly),
                |v| M::from_fn(n, 3, |r, c| v[0].at(r, c + 1) * v[1].at(r, c + 2)),
            );
            let silu = |x: f64| x * sigmoid(x);
            check(
                &[(n, 4), (n, 6)],
                4,
                |tape, v| tape.gate(v[0], v[1], with),
                |v| M::from_fn(n, 3, |r, c| silu(v[0].at(r, c + 1)) * v[1].at(r, c + 2)),
            );
            check(
                &[(n, 6)],
                4,
                |tape, v| tape.gate(v[0], v[0], with),
                |v| M::from_fn(n, 3, |r, c| silu(v[0].at(r, c + 1)) * v[0].at(r, c + 2)),
            );
        }
    }
}

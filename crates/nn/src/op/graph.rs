//! A sparse constant times a dense matrix: one step of propagation along a graph.
//!
//! y = scale · A x
//!
//! Shapes: A (m × n) with its transpose (n × m), x (n × d), y (m × d). A symmetric A is its own transpose.
//! Way back: dx = scale · Aᵀ dy, row by row of Aᵀ, so that nothing is scattered.
//! Cost: 2 · nnz · d each way. Rows in order, each summed in registers, rows of x asked for ahead.
//! Source: He et al., LightGCN, SIGIR 2020, arXiv:2002.02126, for its use.

use crate::kernel;
use crate::tape::{Backward, Grads, Tape, Tensor, Values, Var};
use sommelier_core::Csr;
use std::sync::Arc;

impl Tape<'_> {
    /// See `op/graph.rs`.
    pub fn sparse_times(&mut self, a: &Arc<Csr>, transposed: &Arc<Csr>, x: Var, scale: f32) -> Var {
        let (n, d) = self.shape(x);
        let m = a.rows();
        assert_eq!((n, m), (a.cols, transposed.cols), "columns of the matrix and of its transpose");
        assert_eq!((n, a.nnz()), (transposed.rows(), transposed.nnz()), "the transpose is another matrix");
        let mut y = self.take(m * d);
        kernel::sparse_times(a, d, scale, self.data(x), 0.0, &mut y);
        let way_back = || Box::new(Way { transposed: Arc::clone(transposed), x, scale }) as Box<dyn Backward>;
        self.push(Tensor::new(m, d, y), self.wants(x), way_back)
    }
}

struct Way {
    transposed: Arc<Csr>,
    x: Var,
    scale: f32,
}

impl Backward for Way {
    fn backward(self: Box<Self>, y: &Tensor, dy: &mut [f32], _: &Values, grads: &mut Grads) {
        let a = &self.transposed;
        let (dx, beta) = grads.slot(self.x);
        kernel::sparse_times(a, y.cols, self.scale, dy, beta, dx);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{M, check};
    use sommelier_core::Rng;

    #[test]
    fn forwards_and_back() {
        let mut rng = Rng::new(8);
        for (m, n, d, entries) in
            [(0, 0, 3, 0), (1, 1, 1, 1), (3, 4, 2, 5), (5, 2, 17, 6), (30, 20, 70, 90), (9, 9, 131, 20)]
        {
            let triplets: Vec<(u32, u32, f32)> = (0..entries)
                .map(|_| (rng.below(m) as u32, rng.below(n) as u32, rng.normal() as f32))
                .collect();
            let a = Arc::new(Csr::from_triplets(m, n, triplets));
            let transposed = Arc::new(a.transpose());
            let plain = |x: &M| {
                let mut y = M::zeros(m, d);
                for r in 0..m {
                    let (index, value) = a.row(r);
                    for (&i, &v) in index.iter().zip(value) {
                        for c in 0..d {
                            y.data[r * d + c] += 0.5 * f64::from(v) * x.at(i as usize, c);
                        }
                    }
                }
                y
            };
            let build = |tape: &mut Tape, v: &[Var]| {
                let once = tape.sparse_times(&a, &transposed, v[0], 0.5);
                let again = tape.sparse_times(&a, &transposed, v[0], 0.5);
                tape.concat(&[once, again])
            };
            check(&[(n, d)], 1, build, |v| {
                let y = plain(&v[0]);
                M::from_fn(m, 2 * d, |r, c| y.at(r, c % d))
            });
        }
    }
}

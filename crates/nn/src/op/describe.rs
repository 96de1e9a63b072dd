//! Vectors of things that are described: what is learned of each, and what is learned of descriptions.
//!
//! y = E + C Wᵀ, or y = C Wᵀ
//!
//! Shapes: C given (n × k), W (d × k), E a table of n rows of d or absent, y (n × d).
//! Way back: dW = dyᵀ C; dE = dy, all rows of it.
//! Cost: 2 · n · k · d, and as much backwards: C is given and learns nothing.

use crate::kernel::{self, Layout};
use crate::params::TableId;
use crate::tape::{Backward, Grads, Tape, Tensor, Values, Var};
use std::sync::Arc;

impl Tape<'_> {
    /// See `op/describe.rs`. `given` stays where it is: nothing is copied to the tape.
    pub fn describe(&mut self, own: Option<TableId>, given: &Arc<Tensor>, weight: impl Into<Var>) -> Var {
        let weight = weight.into();
        let (n, k) = (given.rows, given.cols);
        let (d, wide) = self.shape(weight);
        assert_eq!(wide, k, "columns of C and of W");
        let mut y = self.take(n * d);
        let beta = match own {
            Some(table) => {
                y.copy_from_slice(self.params().table(table).rows());
                1.0
            }
            None => 0.0,
        };
        let (c_at, w_at) = (Layout::rows_of(k), Layout::rows_of(k).transposed());
        kernel::gemm(
            (n, d, k),
            1.0,
            (&given.data, c_at),
            (self.data(weight), w_at),
            beta,
            (&mut y, Layout::rows_of(d)),
        );
        let given = given.clone();
        self.push(Tensor::new(n, d, y), true, || Box::new(Way { own, given, weight }))
    }
}

struct Way {
    own: Option<TableId>,
    given: Arc<Tensor>,
    weight: Var,
}

impl Backward for Way {
    fn backward(self: Box<Self>, y: &Tensor, dy: &mut [f32], _: &Values, grads: &mut Grads) {
        let (n, d, k) = (y.rows, y.cols, self.given.cols);
        if grads.wants(self.weight) {
            let (dw, beta) = grads.slot(self.weight);
            let rows = Layout::rows_of(k);
            let dy_at = Layout::rows_of(d).transposed();
            kernel::gemm((d, k, n), 1.0, (dy, dy_at), (&self.given.data, rows), beta, (dw, rows));
        }
        if let Some(table) = self.own {
            let (rows, beta) = grads.table(table).all_mut(n);
            if beta == 0.0 {
                rows.copy_from_slice(dy);
            } else {
                kernel::axpy(1.0, dy, rows);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::Params;
    use crate::table::Table;
    use crate::tape::{ParamGrads, Workspace};
    use crate::testing::{M, check};
    use sommelier_core::Rng;

    fn given(n: usize, k: usize) -> Arc<Tensor> {
        Arc::new(Tensor::new(n, k, (0..n * k).map(|i| ((i * 7 + 3) % 11) as f32 / 5.0 - 1.0).collect()))
    }

    #[test]
    fn forwards_and_back() {
        for (n, k, d) in [(0, 2, 3), (1, 1, 1), (5, 3, 4), (40, 9, 16)] {
            let c = given(n, k);
            check(
                &[(d, k)],
                1,
                |tape: &mut Tape, v: &[Var]| tape.describe(None, &c, v[0]),
                |v| M::from_fn(n, k, |r, i| f64::from(c.data[r * k + i])).times_transposed(&v[0]),
            );
        }
    }

    #[test]
    fn own_rows_are_added_and_all_of_them_learn() {
        let mut params = Params::new(1);
        let table = params.add_table(Table::of_range("items", 3, 2, 1.0, 1));
        let weight = params.add("w", 2, 4, crate::Init::Normal(1.0));
        let c = given(3, 4);
        let mut tape = Tape::training(&params, Rng::new(1), Workspace::default());
        let with = tape.describe(Some(table), &c, weight);
        let without = tape.describe(None, &c, weight);
        for ((with, without), own) in
            tape.data(with).iter().zip(tape.data(without)).zip(params.table(table).rows())
        {
            assert!((with - without - own).abs() < 1e-6);
        }
        // Rows that were read elsewhere add up with these.
        let read =
            tape.embed(crate::loss::Items::Table(table), Arc::new(vec![2]), crate::op::Embed::default());
        let mut grads = ParamGrads::default();
        grads.clear(&params);
        tape.backward_from(read, &[10.0, 20.0], &mut grads);
        let mut tape = Tape::training(&params, Rng::new(1), Workspace::default());
        let y = tape.describe(Some(table), &c, weight);
        tape.backward_from(y, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &mut grads);
        assert_eq!(grads.table(table).all(), Some(&[1.0, 2.0, 3.0, 4.0, 15.0, 26.0][..]));
    }
}

//! Alignment: the two rows of a pair lie together.
//!
//! loss = scale · Σ_r ‖a_r − b_r‖²
//!
//! Shapes: a and b (n × d), of unit length in the paper.
//! Way back: da = 2 (a − b), db = −da.
//! Cost: n · d products; the slopes are remembered.
//! Source: Wang and Isola, "Understanding Contrastive Representation Learning through Alignment and Uniformity on the
//! Hypersphere", ICML 2020, arXiv:2005.10242 (α = 2); for recommenders, Wang et al., KDD 2022, arXiv:2206.12811.

use crate::kernel;
use crate::tape::{Backward, Grads, Tape, Tensor, Values, Var};

impl Tape<'_> {
    /// See `loss/alignment.rs`.
    pub fn alignment(&mut self, a: Var, b: Var, scale: f32) -> Var {
        let (n, d) = self.shape(a);
        assert_eq!((n, d), self.shape(b), "shapes of a and b");
        let mut apart = self.take(n * d);
        apart.copy_from_slice(self.data(a));
        kernel::axpy(-1.0, self.data(b), &mut apart);
        let loss = apart.chunks_exact(d.max(1)).map(|row| f64::from(kernel::dot(row, row))).sum();
        let wanted = self.wants(a) || self.wants(b);
        if !wanted {
            self.give(std::mem::take(&mut apart));
        }
        self.push_loss(scale, loss, wanted, || Box::new(Way { a, b, scale, apart }))
    }
}

struct Way {
    a: Var,
    b: Var,
    scale: f32,
    /// a − b
    apart: Vec<f32>,
}

impl Backward for Way {
    fn backward(self: Box<Self>, _: &Tensor, dy: &mut [f32], _: &Values, grads: &mut Grads) {
        let factor = 2.0 * dy[0] * self.scale;
        for (var, factor) in [(self.a, factor), (self.b, -factor)] {
            if grads.wants(var) {
                kernel::axpy(factor, &self.apart, grads.sum(var));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::run;
    use crate::testing::{M, check, check_scaled};
    use crate::{Tape, Tensor, Var};

    fn plain(a: &M, b: &M) -> M {
        M::one(0.3 * a.data.iter().zip(&b.data).map(|(a, b)| (a - b).powi(2)).sum::<f64>())
    }

    #[test]
    fn forwards_and_back() {
        for (n, d) in [(0, 3), (1, 1), (5, 4), (70, 130)] {
            for size in [1.0, 80.0] {
                let build = |tape: &mut Tape, v: &[Var]| tape.alignment(v[0], v[1], 0.3);
                check_scaled(&[(n, d); 2], 1, size, build, |v| plain(&v[0], &v[1]));
            }
            check(&[(n, d)], 2, |tape, v| tape.alignment(v[0], v[0], 0.3), |v| plain(&v[0], &v[0]));
        }
    }

    #[test]
    fn one_side_alone_is_learned() {
        let given = M::from_fn(3, 2, |r, c| r as f64 - c as f64);
        let build = |tape: &mut Tape, v: &[Var]| {
            let a = tape.constant(Tensor::new(3, 2, given.data.iter().map(|&x| x as f32).collect()));
            tape.alignment(a, v[0], 0.3)
        };
        check(&[(3, 2)], 1, build, |v| plain(&given, &v[0]));
    }

    #[test]
    fn extreme_numbers() {
        let inputs = [Tensor::new(1, 2, vec![80.0, -80.0]), Tensor::new(1, 2, vec![-80.0, 80.0])];
        let (loss, slopes) = run(&inputs, |tape, v| tape.alignment(v[0], v[1], 2.0));
        assert_eq!((loss, slopes), (102_400.0, vec![vec![640.0, -640.0], vec![-640.0, 640.0]]));
    }
}

//! Squared error.
//!
//! loss = scale · Σ (x − t)²
//!
//! Shapes: x and t (n × c); t is constant.
//! Way back: dx = 2 (x − t).
//! Cost: n · c products; the slopes are remembered.
//! Source: Gauss; for ratings, Koren, Bell, Volinsky, "Matrix Factorization Techniques for Recommender Systems", 2009.

use crate::kernel;
use crate::tape::{Tape, Tensor, Var};

impl Tape<'_> {
    /// See `loss/squared.rs`.
    pub fn squared(&mut self, x: Var, target: &Tensor, scale: f32) -> Var {
        assert_eq!(self.shape(x), (target.rows, target.cols), "shape of the target");
        self.loss_by_rows(x, scale, |r, x, slopes| {
            slopes.iter_mut().zip(x).zip(target.row(r)).for_each(|((slope, x), t)| *slope = x - t);
            let loss = kernel::dot(slopes, slopes);
            kernel::scale(slopes, 2.0);
            f64::from(loss)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::row;
    use crate::testing::{M, check_scaled};
    use crate::{Tape, Tensor, Var};

    #[test]
    fn forwards_and_back() {
        for (n, c) in [(0, 3), (2, 0), (1, 1), (5, 4), (300, 1), (70, 130)] {
            for size in [1.0, 80.0] {
                let target = Tensor::new(n, c, (0..n * c).map(|i| (i as f32 * 0.7).sin()).collect());
                let build = |tape: &mut Tape, v: &[Var]| tape.squared(v[0], &target, 0.3);
                check_scaled(&[(n, c)], 1, size, build, |v| {
                    let pairs = v[0].data.iter().zip(&target.data);
                    M::one(0.3 * pairs.map(|(x, &t)| (x - f64::from(t)).powi(2)).sum::<f64>())
                });
            }
        }
    }

    #[test]
    fn extreme_scores() {
        let target = Tensor::new(1, 2, vec![-80.0, 80.0]);
        let (loss, slopes) = row(&[80.0, -80.0], |tape, x| tape.squared(x, &target, 2.0));
        assert_eq!((loss, slopes), (102_400.0, vec![640.0, -640.0]));
    }
}

//! Huber's error: squared near the target, straight far from it.
//!
//! d = x − t; loss = scale · Σ (½ d² where |d| ≤ δ, else δ (|d| − ½ δ))
//!
//! Shapes: x and t (n × c); t is constant.
//! Way back: dx = d cut to [−δ, δ].
//! Cost: n · c products; the slopes are remembered.
//! Source: Huber, "Robust Estimation of a Location Parameter", Annals of Mathematical Statistics 1964.

use crate::tape::{Tape, Tensor, Var};

impl Tape<'_> {
    /// See `loss/huber.rs`.
    pub fn huber(&mut self, x: Var, target: &Tensor, delta: f32, scale: f32) -> Var {
        assert_eq!(self.shape(x), (target.rows, target.cols), "shape of the target");
        assert!(delta > 0.0, "a delta of {delta}");
        self.loss_by_rows(x, scale, |r, x, slopes| {
            let mut loss = 0.0;
            for ((slope, x), t) in slopes.iter_mut().zip(x).zip(target.row(r)) {
                let d = x - t;
                *slope = d.clamp(-delta, delta);
                // Both branches of the formula in one.
                loss += f64::from(*slope) * f64::from(d - 0.5 * *slope);
            }
            loss
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
            for (size, delta) in [(1.0, 0.8), (1.0, 3.0), (80.0, 20.0)] {
                let target = Tensor::new(n, c, (0..n * c).map(|i| (i as f32 * 0.7).sin()).collect());
                let build = |tape: &mut Tape, v: &[Var]| tape.huber(v[0], &target, delta, 0.3);
                check_scaled(&[(n, c)], 1, size, build, |v| {
                    let delta = f64::from(delta);
                    let each = |(x, &t): (&f64, &f32)| {
                        let d = (x - f64::from(t)).abs();
                        if d <= delta { 0.5 * d * d } else { delta * (d - 0.5 * delta) }
                    };
                    M::one(0.3 * v[0].data.iter().zip(&target.data).map(each).sum::<f64>())
                });
            }
        }
    }

    #[test]
    fn extreme_scores() {
        let target = Tensor::new(1, 2, vec![-80.0, 80.0]);
        let (loss, slopes) = row(&[80.0, -80.0], |tape, x| tape.huber(x, &target, 0.5, 2.0));
        assert_eq!((loss, slopes), (319.5, vec![1.0, -1.0]));
    }
}

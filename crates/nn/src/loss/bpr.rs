//! Bayesian personalised ranking: the right item before each drawn one.
//!
//! loss = scale · Σ_r (1/m) Σ_j −log σ(s_r0 − s_rj)
//!
//! Shapes: s (n × (1 + m)). With m = 0 the loss is 0.
//! Way back: ds_rj = σ(s_rj − s_r0) / m, ds_r0 = −Σ_j ds_rj.
//! Cost: n · m exponentials; the slopes are remembered.
//! Source: Rendle et al., "BPR: Bayesian Personalized Ranking from Implicit Feedback", UAI 2009, arXiv:1205.2618.
//! Departures: the mean over several drawn items instead of one.

use super::softplus;
use crate::kernel;
use crate::tape::{Tape, Var};

impl Tape<'_> {
    /// See `loss/bpr.rs`.
    pub fn bpr(&mut self, s: Var, scale: f32) -> Var {
        self.loss_by_rows(s, scale, |_, s, slopes| {
            let share = 1.0 / (s.len() - 1).max(1) as f32;
            let drawn = &mut slopes[1..];
            drawn.iter_mut().zip(&s[1..]).for_each(|(d, x)| *d = x - s[0]);
            let loss = softplus(drawn) * f64::from(share);
            kernel::scale(drawn, share);
            slopes[0] = -kernel::sum(drawn);
            loss
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::row;
    use crate::testing::{M, check, check_scaled};

    fn plain(s: &M, scale: f64) -> M {
        let mut loss = 0.0;
        for r in 0..s.rows {
            for j in 1..s.cols {
                loss += (s.at(r, j) - s.at(r, 0)).exp().ln_1p() / (s.cols - 1) as f64;
            }
        }
        M::one(scale * loss)
    }

    #[test]
    fn forwards_and_back() {
        for shape in [(0, 3), (1, 1), (1, 2), (5, 4), (70, 130)] {
            check(&[shape], 1, |tape, v| tape.bpr(v[0], 0.3), |v| plain(&v[0], 0.3));
            check_scaled(&[shape], 2, 30.0, |tape, v| tape.bpr(v[0], 0.3), |v| plain(&v[0], 0.3));
        }
    }

    #[test]
    fn extreme_scores() {
        let (loss, slopes) = row(&[-80.0, 80.0], |tape, s| tape.bpr(s, 2.0));
        assert_eq!((loss, slopes), (320.0, vec![-2.0, 2.0]));
        let (loss, slopes) = row(&[80.0, -80.0], |tape, s| tape.bpr(s, 2.0));
        assert!(loss.abs() < 1e-30 && slopes.iter().all(|g| g.abs() < 1e-30), "{loss} {slopes:?}");
    }
}

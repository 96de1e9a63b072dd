//! Generalised binary cross entropy: less certain of the right item, as few of the wrong ones were drawn.
//!
//! loss = scale · Σ_r −(β log σ(s_r0) + Σ_j log(1 − σ(s_rj)))
//! β = α (t (1 − 1/α) + 1/α), α the share of wrong items that is drawn, t in [0, 1] how far to correct for it.
//!
//! Shapes: s (n × (1 + m)).
//! Way back: ds_r0 = −β (1 − σ(s_r0)), ds_rj = σ(s_rj).
//! Cost: n · (1 + m) exponentials; the slopes are remembered.
//! Source: Petrov and Macdonald, "gSASRec: Reducing Overconfidence in Sequential Recommendation Trained with Negative
//! Sampling", RecSys 2023, arXiv:2308.07192.
//! Departures: a row is not divided by 1 + m; the scale can do that.

use super::softplus;
use crate::tape::{Tape, Var};

/// β for `sampling_rate` α = m / (items − 1) and calibration `t`: 1 (plain cross entropy) at t = 0, α at t = 1.
pub fn gbce_beta(sampling_rate: f32, t: f32) -> f32 {
    // The paper's formula multiplied out, which also holds at α = 0.
    t * sampling_rate + (1.0 - t)
}

impl Tape<'_> {
    /// See `loss/gbce.rs`; `beta` comes from [`gbce_beta`].
    pub fn gbce(&mut self, s: Var, beta: f32, scale: f32) -> Var {
        self.loss_by_rows(s, scale, |_, s, slopes| {
            slopes.copy_from_slice(s);
            let (right, drawn) = slopes.split_at_mut(1);
            right[0] = -right[0];
            let loss = f64::from(beta) * softplus(right) + softplus(drawn);
            right[0] *= -beta;
            loss
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::row;
    use super::gbce_beta;
    use crate::testing::{M, check, check_scaled};
    use crate::{Tape, Var};

    fn plain(s: &M, beta: f64, scale: f64) -> M {
        let each = |r, j| if j == 0 { beta * (-s.at(r, j)).exp().ln_1p() } else { s.at(r, j).exp().ln_1p() };
        M::one(scale * M::from_fn(s.rows, s.cols, each).data.iter().sum::<f64>())
    }

    #[test]
    fn forwards_and_back() {
        for shape in [(0, 3), (1, 1), (1, 2), (5, 4), (70, 130)] {
            let build = |tape: &mut Tape, v: &[Var]| tape.gbce(v[0], 0.25, 0.3);
            check(&[shape], 1, build, |v| plain(&v[0], 0.25, 0.3));
            check_scaled(&[shape], 2, 30.0, build, |v| plain(&v[0], 0.25, 0.3));
        }
    }

    #[test]
    fn extreme_scores() {
        let (loss, slopes) = row(&[-80.0, 80.0], |tape, s| tape.gbce(s, 0.25, 2.0));
        assert_eq!((loss, slopes), (200.0, vec![-0.5, 2.0]));
        let (loss, slopes) = row(&[80.0, -80.0], |tape, s| tape.gbce(s, 0.25, 2.0));
        assert!(loss.abs() < 1e-30 && slopes.iter().all(|g| g.abs() < 1e-30), "{loss} {slopes:?}");
    }

    #[test]
    fn beta_is_the_papers() {
        for (alpha, t) in [(1.0, 0.3), (0.5, 0.0), (0.5, 1.0), (0.02, 0.75)] {
            let paper: f32 = alpha * (t * (1.0 - 1.0 / alpha) + 1.0 / alpha);
            assert!((gbce_beta(alpha, t) - paper).abs() < 1e-6);
        }
        assert_eq!((gbce_beta(0.1, 0.0), gbce_beta(0.1, 1.0), gbce_beta(0.0, 0.75)), (1.0, 0.1, 0.25));
    }
}

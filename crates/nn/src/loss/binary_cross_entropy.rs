//! Binary cross entropy: is this the right item or a drawn one?
//!
//! loss = scale · Σ_r −(log σ(s_r0) + Σ_j log(1 − σ(s_rj)))
//!
//! Shapes: s (n × (1 + m)).
//! Way back: ds_r0 = σ(s_r0) − 1, ds_rj = σ(s_rj).
//! Cost: n · (1 + m) exponentials; the slopes are remembered.
//! Source: Kang and McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018, arXiv:1808.09781.
//! Departures: the paper draws one item (m = 1); with more, their terms are summed, not averaged.

use crate::tape::{Tape, Var};

impl Tape<'_> {
    /// See `loss/binary_cross_entropy.rs`.
    pub fn binary_cross_entropy(&mut self, s: Var, scale: f32) -> Var {
        self.gbce(s, 1.0, scale)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::row;
    use crate::testing::{M, check, check_scaled};

    fn plain(s: &M, scale: f64) -> M {
        let each = |r, j| if j == 0 { (-s.at(r, j)).exp().ln_1p() } else { s.at(r, j).exp().ln_1p() };
        M::one(scale * M::from_fn(s.rows, s.cols, each).data.iter().sum::<f64>())
    }

    #[test]
    fn forwards_and_back() {
        for shape in [(0, 3), (1, 1), (1, 2), (5, 4), (70, 130)] {
            let build = |tape: &mut crate::Tape, v: &[crate::Var]| tape.binary_cross_entropy(v[0], 0.3);
            check(&[shape], 1, build, |v| plain(&v[0], 0.3));
            check_scaled(&[shape], 2, 30.0, build, |v| plain(&v[0], 0.3));
        }
    }

    #[test]
    fn extreme_scores() {
        let (loss, slopes) = row(&[-80.0, 80.0, 80.0], |tape, s| tape.binary_cross_entropy(s, 2.0));
        assert_eq!((loss, slopes), (480.0, vec![-2.0, 2.0, 2.0]));
        let (loss, slopes) = row(&[80.0, -80.0], |tape, s| tape.binary_cross_entropy(s, 2.0));
        assert!(loss.abs() < 1e-30 && slopes.iter().all(|g| g.abs() < 1e-30), "{loss} {slopes:?}");
    }
}

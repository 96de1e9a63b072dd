//! Hinge: the right item ahead of each drawn one by a margin.
//!
//! loss = scale · Σ_r Σ_j max(0, margin − s_r0 + s_rj)
//!
//! Shapes: s (n × (1 + m)).
//! Way back: ds_rj = 1 where the term is above 0, else 0; ds_r0 = −Σ_j ds_rj.
//! Cost: n · m additions; the slopes are remembered.
//! Source: Joachims, "Optimizing Search Engines using Clickthrough Data", KDD 2002 (pairs of a ranking SVM).

use crate::kernel;
use crate::tape::{Tape, Var};

impl Tape<'_> {
    /// See `loss/hinge.rs`.
    pub fn hinge(&mut self, s: Var, margin: f32, scale: f32) -> Var {
        self.loss_by_rows(s, scale, |_, s, slopes| {
            let mut loss = 0.0;
            for (slope, x) in slopes[1..].iter_mut().zip(&s[1..]) {
                let short = margin - s[0] + x;
                // Not `short > 0`: that would lose a NaN.
                (loss, *slope) = if short <= 0.0 { (loss, 0.0) } else { (loss + f64::from(short), 1.0) };
            }
            slopes[0] = -kernel::sum(&slopes[1..]);
            loss
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::row;
    use crate::testing::{M, check, check_scaled};
    use crate::{Tape, Var};

    fn plain(s: &M, margin: f64, scale: f64) -> M {
        let mut loss = 0.0;
        for r in 0..s.rows {
            for j in 1..s.cols {
                loss += (margin - s.at(r, 0) + s.at(r, j)).max(0.0);
            }
        }
        M::one(scale * loss)
    }

    #[test]
    fn forwards_and_back() {
        for shape in [(0, 3), (1, 1), (1, 2), (5, 4), (70, 130)] {
            for size in [1.0, 30.0] {
                let build = |tape: &mut Tape, v: &[Var]| tape.hinge(v[0], 0.5, 0.3);
                check_scaled(&[shape], 1, size, build, |v| plain(&v[0], 0.5, 0.3));
            }
            check(&[shape], 3, |tape, v| tape.hinge(v[0], 2.0, 0.3), |v| plain(&v[0], 2.0, 0.3));
        }
    }

    #[test]
    fn extreme_scores() {
        let of = |s: &[f32]| row(s, |tape, s| tape.hinge(s, 1.0, 2.0));
        assert_eq!(of(&[-80.0, 80.0, -80.5]), (323.0, vec![-4.0, 2.0, 2.0]));
        assert_eq!(of(&[80.0, -80.0]), (0.0, vec![0.0, 0.0]));
    }
}

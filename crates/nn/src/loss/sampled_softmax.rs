//! Softmax over the right item and drawn ones, corrected for how likely each was to be drawn.
//!
//! z_rj = s_rj − log q_rj; loss = scale · Σ_r −log softmax(z_r)_0
//!
//! Shapes: s and log q (n × (1 + m)); without log q it is 0.
//! An entry with log q = +∞ takes no part: a drawn item that is the right one. Where that is column 0, the row takes none.
//! Way back: ds_r = softmax(z_r), less 1 in column 0.
//! Cost: n · (1 + m) exponentials; the slopes are remembered.
//! Source: Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations", RecSys 2019; the
//! correction is Bengio and Senécal's, IEEE Transactions on Neural Networks 2008.
//! Departures: none; the right item is corrected too, as there. Give it log q = 0 where it was not drawn.

use super::cross_entropy;
use crate::kernel;
use crate::tape::{Tape, Var};

impl Tape<'_> {
    /// See `loss/sampled_softmax.rs`.
    pub fn sampled_softmax(&mut self, s: Var, log_q: Option<&[f32]>, scale: f32) -> Var {
        let (n, width) = self.shape(s);
        if let Some(log_q) = log_q {
            assert_eq!(log_q.len(), n * width, "log q of {n} × {width} scores");
        }
        self.loss_by_rows(s, scale, |r, s, slopes| {
            slopes.copy_from_slice(s);
            if let Some(log_q) = log_q {
                kernel::axpy(-1.0, &log_q[r * width..][..width], slopes);
            }
            cross_entropy(slopes, 0)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::row;
    use crate::testing::{M, check, check_scaled, softmax};
    use crate::{Tape, Var};

    fn plain(s: &M, log_q: &[f32], scale: f64) -> M {
        let mut loss = 0.0;
        for r in 0..s.rows {
            let z: Vec<f64> = (0..s.cols).map(|j| s.at(r, j) - f64::from(log_q[r * s.cols + j])).collect();
            if z[0] > f64::NEG_INFINITY {
                loss -= softmax(&z)[0].ln();
            }
        }
        M::one(scale * loss)
    }

    #[test]
    fn forwards_and_back() {
        for (n, width) in [(0, 3), (1, 1), (1, 2), (5, 4), (70, 130)] {
            for size in [1.0, 30.0] {
                let build = |tape: &mut Tape, v: &[Var]| tape.sampled_softmax(v[0], None, 0.3);
                check_scaled(&[(n, width)], 1, size, build, |v| plain(&v[0], &vec![0.0; n * width], 0.3));
            }
            let mut log_q: Vec<f32> = (0..n * width).map(|i| (i as f32 * 0.7).sin() * 3.0 - 4.0).collect();
            log_q.iter_mut().skip(1).step_by(5).for_each(|q| *q = f32::INFINITY);
            let build = |tape: &mut Tape, v: &[Var]| tape.sampled_softmax(v[0], Some(&log_q), 0.3);
            check(&[(n, width)], 2, build, |v| plain(&v[0], &log_q, 0.3));
        }
    }

    #[test]
    fn what_is_left_out_has_no_gradient() {
        let of = |log_q: &[f32]| row(&[1.0, 9.0, 1.0], |tape, s| tape.sampled_softmax(s, Some(log_q), 1.0));
        let (loss, slopes) = of(&[0.0, f32::INFINITY, 0.0]);
        assert!((loss - 2f32.ln()).abs() < 1e-6);
        assert_eq!(slopes, [-0.5, 0.0, 0.5]);
        assert_eq!(of(&[0.0, f32::INFINITY, f32::INFINITY]), (0.0, vec![0.0; 3]));
        assert_eq!(of(&[f32::INFINITY, 0.0, 0.0]), (0.0, vec![0.0; 3]));
    }

    #[test]
    fn extreme_scores() {
        let (loss, slopes) = row(&[-80.0, 80.0, -80.0], |tape, s| tape.sampled_softmax(s, None, 2.0));
        assert_eq!((loss, slopes), (320.0, vec![-2.0, 2.0, 0.0]));
        let (loss, slopes) = row(&[80.0, -80.0], |tape, s| tape.sampled_softmax(s, None, 2.0));
        assert!(loss.abs() < 1e-30 && slopes.iter().all(|g| g.abs() < 1e-30), "{loss} {slopes:?}");
    }
}

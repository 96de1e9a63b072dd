//! Kullback–Leibler divergence of a softmax from given probabilities: learning a whole list, or from a teacher.
//!
//! p_r = softmax(x_r / T); loss = scale · Σ_r Σ_c t_rc (log t_rc − log p_rc), with 0 log 0 = 0
//!
//! Shapes: x and t (n × c); t is constant, its rows usually sum to 1.
//! Way back: dx_rc = (p_rc Σ_k t_rk − t_rc) / T.
//! Cost: n · c exponentials, and a logarithm for each t above 0; the slopes are remembered.
//! Source: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015, arXiv:1503.02531; over lists, Cao
//! et al., "Learning to Rank: From Pairwise Approach to Listwise Approach", ICML 2007.
//! Departures: not multiplied by T², the scale can do that; the teacher's temperature is the caller's.

use crate::kernel;
use crate::tape::{Tape, Tensor, Var};

impl Tape<'_> {
    /// See `loss/kl.rs`.
    pub fn kl(&mut self, x: Var, target: &Tensor, temperature: f32, scale: f32) -> Var {
        assert_eq!(self.shape(x), (target.rows, target.cols), "shape of the target");
        assert!(temperature > 0.0, "a temperature of {temperature}");
        let cool = 1.0 / temperature;
        self.loss_by_rows(x, scale, |r, x, slopes| {
            let target = target.row(r);
            // Less the largest, so that nothing cancels in log p.
            let top = kernel::max(x);
            slopes.iter_mut().zip(x).for_each(|(slope, x)| *slope = x - top);
            let log_sum = kernel::softmax(slopes, cool);
            let mass = kernel::sum(target);
            let mut loss = 0.0;
            for ((slope, x), &t) in slopes.iter_mut().zip(x).zip(target) {
                if t != 0.0 {
                    let log_p = (x - top) * cool - log_sum;
                    loss += f64::from(t) * f64::from(t.ln() - log_p);
                }
                *slope = (*slope * mass - t) * cool;
            }
            loss
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::row;
    use crate::testing::{M, check_scaled, softmax};
    use crate::{Tape, Tensor, Var};

    fn plain(x: &M, target: &Tensor, temperature: f64, scale: f64) -> M {
        let mut loss = 0.0;
        for r in 0..x.rows {
            let z: Vec<f64> = x.row(r).iter().map(|x| x / temperature).collect();
            let top = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let log_sum = top + z.iter().map(|z| (z - top).exp()).sum::<f64>().ln();
            for (z, &t) in z.iter().zip(target.row(r)) {
                let t = f64::from(t);
                loss += if t > 0.0 { t * (t.ln() - z + log_sum) } else { 0.0 };
            }
        }
        M::one(scale * loss)
    }

    /// Probabilities with some zeros; those of odd rows sum to ½.
    fn target(n: usize, c: usize) -> Tensor {
        let row = |r: usize| {
            let z: Vec<f64> = (0..c).map(|j| ((r * c + j) as f64 * 0.7).sin() * 2.0).collect();
            let p = softmax(&z).into_iter().enumerate();
            p.map(move |(j, p)| if j % 3 == 1 { 0.0 } else { p / (1 + r % 2) as f64 } as f32)
        };
        Tensor::new(n, c, (0..n).flat_map(row).collect())
    }

    #[test]
    fn forwards_and_back() {
        for (n, c) in [(0, 3), (2, 0), (1, 1), (1, 2), (5, 4), (70, 130)] {
            for (size, temperature) in [(1.0, 1.0), (1.0, 0.3), (60.0, 2.0)] {
                let target = target(n, c);
                let build = |tape: &mut Tape, v: &[Var]| tape.kl(v[0], &target, temperature, 0.3);
                let plain = |v: &[M]| plain(&v[0], &target, f64::from(temperature), 0.3);
                check_scaled(&[(n, c)], 1, size, build, plain);
            }
        }
    }

    #[test]
    fn extreme_scores() {
        let of = |t: &[f32]| {
            let target = Tensor::new(1, 2, t.to_vec());
            row(&[80.0, -80.0], |tape, x| tape.kl(x, &target, 0.5, 2.0))
        };
        let (loss, slopes) = of(&[0.0, 1.0]);
        assert_eq!((loss, slopes), (640.0, vec![4.0, -4.0]));
        let (loss, slopes) = of(&[1.0, 0.0]);
        assert!(loss.abs() < 1e-30 && slopes.iter().all(|g| g.abs() < 1e-30), "{loss} {slopes:?}");
    }
}

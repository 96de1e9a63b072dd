//! WARP, the weighted approximate-rank pairwise loss: a hinge that weighs more the sooner a wrong item was found.
//!
//! N = the first drawn item with margin − s_r0 + s_rN > 0, counted from 1; rank = ⌊(items − 1) / N⌋;
//! L(rank) = Σ_{i ≤ rank} 1/i; loss = scale · Σ_r L(rank) (margin − s_r0 + s_rN), and 0 for a row without such an item.
//!
//! Shapes: s (n × (1 + m)), columns in the order of drawing. One found after more than items − 1 trials has rank 0 and
//! counts nothing: the paper looks no further.
//! Way back: ds_rN = L(rank), ds_r0 = −L(rank); N and L are held fixed.
//! Cost: n · N additions; the slopes are remembered. L is a sum up to 32 terms, from there its asymptotic series.
//! Source: Weston, Bengio, Usunier, "WSABIE: Scaling Up To Large Vocabulary Image Annotation", IJCAI 2011.
//! Departures: all m items are drawn and scored beforehand, not one by one until the first wrong one.

use crate::tape::{Tape, Var};

/// Σ_{i ≤ rank} 1/i.
fn harmonic(rank: usize) -> f64 {
    const EULER: f64 = 0.577_215_664_901_532_9;
    if rank <= 32 {
        return (1..=rank).map(|i| 1.0 / i as f64).sum();
    }
    let k = rank as f64;
    k.ln() + EULER + 0.5 / k - 1.0 / (12.0 * k * k)
}

impl Tape<'_> {
    /// See `loss/warp.rs`; `items` is how many there are to draw from, the right one included.
    pub fn warp(&mut self, s: Var, margin: f32, items: usize, scale: f32) -> Var {
        let others = items.saturating_sub(1);
        self.loss_by_rows(s, scale, |_, s, slopes| {
            slopes.fill(0.0);
            let short = |x: &f32| margin - s[0] + x;
            let found = s[1..].iter().position(|x| short(x) > 0.0 || short(x).is_nan());
            found.map_or(0.0, |before| {
                let weight = harmonic(others / (before + 1));
                slopes[1 + before] = weight as f32;
                slopes[0] = -slopes[1 + before];
                weight * f64::from(short(&s[1 + before]))
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::row;
    use super::harmonic;
    use crate::testing::{M, check_scaled};
    use crate::{Tape, Var};

    fn plain(s: &M, margin: f64, items: usize, scale: f64) -> M {
        let mut loss = 0.0;
        for r in 0..s.rows {
            for trial in 1..s.cols.min(items) {
                let short = margin - s.at(r, 0) + s.at(r, trial);
                if short > 0.0 {
                    loss += (1..=(items - 1) / trial).map(|i| 1.0 / i as f64).sum::<f64>() * short;
                    break;
                }
            }
        }
        M::one(scale * loss)
    }

    #[test]
    fn forwards_and_back() {
        for shape in [(0, 3), (1, 1), (1, 2), (5, 4), (70, 130)] {
            for (size, items) in [(1.0, 1000), (1.0, 3), (30.0, 200)] {
                let build = |tape: &mut Tape, v: &[Var]| tape.warp(v[0], 0.5, items, 0.3);
                check_scaled(&[shape], 1, size, build, |v| plain(&v[0], 0.5, items, 0.3));
            }
        }
    }

    #[test]
    fn the_first_wrong_item_decides() {
        let of = |items| row(&[0.0, -3.0, 1.0, 5.0], |tape, s| tape.warp(s, 1.0, items, 1.0));
        // Found at trial 2 of 4 others: rank 2, L = 1 + 1/2.
        assert_eq!(of(5), (3.0, vec![-1.5, 0.0, 1.5, 0.0]));
        assert_eq!(of(2), (0.0, vec![0.0; 4]), "there is only one other item");
        assert_eq!(of(0), (0.0, vec![0.0; 4]));
    }

    #[test]
    fn extreme_scores() {
        let of = |s: &[f32]| row(s, |tape, s| tape.warp(s, 1.0, 3, 2.0));
        assert_eq!(of(&[-80.0, 80.0, 80.0]), (483.0, vec![-3.0, 3.0, 0.0]));
        assert_eq!(of(&[80.0, -80.0, -80.0]), (0.0, vec![0.0; 3]));
    }

    #[test]
    fn harmonic_numbers() {
        let mut sum = 0.0;
        for rank in 0..2000 {
            assert!((harmonic(rank) - sum).abs() < 1e-8, "{rank}");
            sum += 1.0 / (rank + 1) as f64;
        }
    }
}

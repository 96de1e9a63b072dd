//! Statistics of per-user results: intervals, paired tests, corrections for many comparisons.

use crate::metric::Share;
use rayon::prelude::*;
use sommelier_core::Rng;

/// 95 % percentile bootstrap over users of Σpart / Σof, for several metrics at once on the same resamples.
///
/// `shares` holds `metrics` values per user, user by user. Source: Efron, "Bootstrap Methods", Ann. Statist. 1979.
pub fn bootstrap(shares: &[Share], metrics: usize, resamples: usize, seed: u64) -> Vec<(f64, f64)> {
    let users = shares.len().checked_div(metrics).unwrap_or(0);
    if users == 0 || resamples == 0 {
        return Vec::new();
    }
    let draw = |resample: usize| {
        let mut rng = Rng::stream(seed, resample as u64);
        let mut sums = vec![(0.0f64, 0.0f64); metrics];
        for _ in 0..users {
            let user = rng.below(users) * metrics;
            for (sum, share) in sums.iter_mut().zip(&shares[user..user + metrics]) {
                sum.0 += share.part;
                sum.1 += share.of;
            }
        }
        sums.into_iter().map(|(part, of)| if of > 0.0 { part / of } else { 0.0 }).collect::<Vec<f64>>()
    };
    let draws: Vec<Vec<f64>> = (0..resamples).into_par_iter().map(draw).collect();
    (0..metrics)
        .map(|m| {
            let mut values: Vec<f64> = draws.iter().map(|d| d[m]).collect();
            values.sort_by(f64::total_cmp);
            (quantile(&values, 0.025), quantile(&values, 0.975))
        })
        .collect()
}

/// Of sorted values, with linear interpolation.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let at = q * (sorted.len() - 1) as f64;
    let (low, high) = (at.floor() as usize, at.ceil() as usize);
    sorted[low] + (sorted[high] - sorted[low]) * (at - low as f64)
}

/// Student's paired t-test on the differences: t and the two-sided p. `p = 1` where all differences are 0.
pub fn paired_t(differences: &[f64]) -> (f64, f64) {
    let n = differences.len() as f64;
    if differences.len() < 2 {
        return (0.0, 1.0);
    }
    let mean = differences.iter().sum::<f64>() / n;
    let variance = differences.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / (n - 1.0);
    if variance == 0.0 {
        return if mean == 0.0 { (0.0, 1.0) } else { (f64::INFINITY.copysign(mean), 0.0) };
    }
    let t = mean / (variance / n).sqrt();
    let freedom = n - 1.0;
    // Two tails of Student's t are one regularised incomplete beta.
    (t, incomplete_beta(freedom / 2.0, 0.5, freedom / (freedom + t * t)))
}

/// Wilcoxon's signed-rank test: the smaller rank sum and the two-sided p by the normal approximation with tie
/// correction, zero differences left out. Good from about 20 non-zero differences on.
pub fn wilcoxon(differences: &[f64]) -> (f64, f64) {
    let mut nonzero: Vec<f64> = differences.iter().copied().filter(|d| *d != 0.0).collect();
    nonzero.sort_by(|a, b| a.abs().total_cmp(&b.abs()));
    let n = nonzero.len() as f64;
    let (mut plus, mut ties, mut start) = (0.0, 0.0, 0);
    while start < nonzero.len() {
        let size = nonzero[start].abs();
        let group = nonzero[start..].iter().take_while(|d| d.abs() == size).count();
        let rank = start as f64 + f64::midpoint(group as f64, 1.0);
        plus += rank * nonzero[start..start + group].iter().filter(|d| **d > 0.0).count() as f64;
        ties += (group as f64).powi(3) - group as f64;
        start += group;
    }
    let total = n * (n + 1.0) / 2.0;
    let statistic = plus.min(total - plus);
    let variance = n * (n + 1.0) * (2.0 * n + 1.0) / 24.0 - ties / 48.0;
    if variance <= 0.0 {
        return (statistic, 1.0);
    }
    let z = (statistic - total / 2.0) / variance.sqrt();
    (statistic, erfc(z.abs() / std::f64::consts::SQRT_2).min(1.0))
}

/// Two-sided sign-flip permutation test of mean 0. The smallest p it can give is 1 / (`resamples` + 1).
pub fn sign_flip(differences: &[f64], resamples: usize, seed: u64) -> f64 {
    // Users on whom both runs agree stay the same under any flip.
    let nonzero: Vec<f64> = differences.iter().copied().filter(|d| *d != 0.0).collect();
    let observed = nonzero.iter().sum::<f64>().abs();
    let as_extreme = (0..resamples)
        .into_par_iter()
        .filter(|&resample| {
            let mut rng = Rng::stream(seed, resample as u64);
            let mut sum = 0.0;
            for chunk in nonzero.chunks(64) {
                let mut bits = rng.next_u64();
                for &d in chunk {
                    sum += if bits & 1 == 1 { d } else { -d };
                    bits >>= 1;
                }
            }
            // Equal sums added in another order must count as equal.
            sum.abs() >= observed * (1.0 - 1e-12)
        })
        .count();
    (as_extreme + 1) as f64 / (resamples + 1) as f64
}

/// Holm's step-down correction: the chance of any false alarm in the family stays below the level.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let order = ascending(p);
    let mut out = vec![0.0; p.len()];
    let mut least = 0.0f64;
    for (rank, &i) in order.iter().enumerate() {
        least = least.max((p[i] * (p.len() - rank) as f64).min(1.0));
        out[i] = least;
    }
    out
}

/// Benjamini and Hochberg's step-up correction: the expected share of false alarms stays below the level.
pub fn benjamini_hochberg(p: &[f64]) -> Vec<f64> {
    let order = ascending(p);
    let mut out = vec![0.0; p.len()];
    let mut most = 1.0f64;
    for (rank, &i) in order.iter().enumerate().rev() {
        most = most.min(p[i] * p.len() as f64 / (rank + 1) as f64);
        out[i] = most;
    }
    out
}

fn ascending(p: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    order
}

/// ln Γ(x) for x > 0, Lanczos' approximation with g = 7.
fn ln_gamma(x: f64) -> f64 {
    const COEFFICIENTS: [f64; 8] = [
        676.5203681218851,
        -1259.1392167224028,
        771.3234287776531,
        -176.6150291621406,
        12.507343278686905,
        -0.13857109526572012,
        9.984369578019572e-6,
        1.5056327351493116e-7,
    ];
    if x < 0.5 {
        return (std::f64::consts::PI / (std::f64::consts::PI * x).sin()).ln() - ln_gamma(1.0 - x);
    }
    let x = x - 1.0;
    let sum =
        COEFFICIENTS.iter().zip(1..).fold(0.9999999999998099, |sum, (c, i)| sum + c / (x + f64::from(i)));
    let t = x + 7.5;
    0.5 * std::f64::consts::TAU.ln() + (x + 0.5) * t.ln() - t + sum.ln()
}

/// Regularised incomplete beta I_x(a, b), by its continued fraction (modified Lentz).
fn incomplete_beta(a: f64, b: f64, x: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return x.clamp(0.0, 1.0);
    }
    // The fraction converges fast on this side; the other is its mirror image.
    if x > (a + 1.0) / (a + b + 2.0) {
        return 1.0 - incomplete_beta(b, a, 1.0 - x);
    }
    let front = (ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b) + a * x.ln() + b * (1.0 - x).ln()).exp() / a;
    let guard = |v: f64| if v.abs() < 1e-300 { 1e-300 } else { v };
    let (mut c, mut d) = (1.0, 1.0 / guard(1.0 - (a + b) * x / (a + 1.0)));
    let mut fraction = d;
    for m in 1..1000 {
        let m = f64::from(m);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        let mut change = 1.0;
        for step in [even, odd] {
            d = 1.0 / guard(1.0 + step * d);
            c = guard(1.0 + step / c);
            fraction *= c * d;
            change = c * d;
        }
        if (change - 1.0).abs() < 1e-15 {
            break;
        }
    }
    (front * fraction).clamp(0.0, 1.0)
}

/// Complementary error function for x ≥ 0: its series near 0, its continued fraction (Laplace) further out.
fn erfc(x: f64) -> f64 {
    if x < 2.0 {
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            let n = f64::from(n);
            term *= -x * x / n;
            sum += term / (2.0 * n + 1.0);
            if term.abs() < 1e-18 {
                break;
            }
        }
        return 1.0 - sum * std::f64::consts::FRAC_2_SQRT_PI;
    }
    let fraction = (1..=120).rev().fold(0.0, |below, k| f64::from(k) / 2.0 / (x + below));
    (-x * x).exp() / (x + fraction) / std::f64::consts::PI.sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn close(a: f64, b: f64, tolerance: f64) {
        assert!((a - b).abs() <= tolerance * b.abs().max(1e-300), "{a} against {b}");
    }

    #[test]
    fn special_functions_have_known_values() {
        close(ln_gamma(0.5), 0.5723649429247001, 1e-12);
        close(ln_gamma(10.0), 12.801827480081469, 1e-12);
        close(erfc(0.5), 0.4795001221869535, 1e-12);
        close(erfc(1.99), 0.004890048198497588, 1e-2);
        close(erfc(3.0), 2.209049699858544e-5, 1e-10);
        // I_x(2, 3) = 6x² − 8x³ + 3x⁴.
        close(incomplete_beta(2.0, 3.0, 0.4), 6.0 * 0.16 - 8.0 * 0.064 + 3.0 * 0.0256, 1e-12);
        close(incomplete_beta(0.5, 0.5, 0.5), 0.5, 1e-12);
    }

    #[test]
    fn t_by_hand() {
        // Mean 1, variance 1, n = 4: t = 2 with 3 degrees of freedom, two-sided p 0.13932596855...
        let d = [1.0 - 1.5f64.sqrt(), 1.0 + 1.5f64.sqrt(), 1.0, 1.0];
        let (t, p) = paired_t(&d);
        close(t, 2.0, 1e-12);
        close(p, 0.13932596855884, 1e-9);
        assert_eq!(paired_t(&[0.0, 0.0, 0.0]).1, 1.0);
        assert_eq!(paired_t(&[1.0, 1.0]).1, 0.0);
    }

    #[test]
    fn wilcoxon_by_hand() {
        // Ranks 1..5 with −2 the only negative: W = 2 of 15; variance 5·6·11/24 = 13.75.
        let (w, p) = wilcoxon(&[1.0, -2.0, 3.0, 4.0, 5.0, 0.0]);
        assert_eq!(w, 2.0);
        close(p, erfc((5.5 / 13.75f64.sqrt()) / 2f64.sqrt()), 1e-12);
        close(p, 0.13801073756865956, 1e-9);
        assert_eq!(wilcoxon(&[0.0; 5]).1, 1.0);
    }

    #[test]
    fn flips_count_the_extremes() {
        // Of the 2³ flips of (1, 1, 1) two have the sum 3: p near 1/4.
        close(sign_flip(&[1.0, 1.0, 1.0, 0.0], 20_000, 1), 0.25, 0.05);
        assert!(sign_flip(&[0.1; 50], 999, 1) <= 0.001);
        assert_eq!(sign_flip(&[0.0; 4], 99, 1), 1.0);
    }

    #[test]
    fn corrections_by_hand() {
        let p = [0.01, 0.04, 0.03, 0.005];
        assert_eq!(holm(&p).map_rounded(), [0.03, 0.06, 0.06, 0.02]);
        assert_eq!(benjamini_hochberg(&p).map_rounded(), [0.02, 0.04, 0.04, 0.02]);
    }

    trait Rounded {
        fn map_rounded(&self) -> Vec<f64>;
    }
    impl Rounded for Vec<f64> {
        fn map_rounded(&self) -> Vec<f64> {
            self.iter().map(|x| (x * 1e9).round() / 1e9).collect()
        }
    }

    #[test]
    fn the_interval_is_that_of_a_mean() {
        // 400 users at 0 and 400 at 1: standard error 0.5/√800 = 0.01768.
        let shares: Vec<Share> = (0..800).map(|u| Share { part: f64::from(u % 2), of: 1.0 }).collect();
        let [(low, high)] = bootstrap(&shares, 1, 2000, 5)[..] else { panic!("one metric") };
        close(low, 0.5 - 1.96 * 0.01768, 0.01);
        close(high, 0.5 + 1.96 * 0.01768, 0.01);
    }

    proptest! {
        #[test]
        fn corrections_never_lower_a_p_and_keep_their_order(p in prop::collection::vec(0.0f64..1.0, 1..20)) {
            let (holm, bh) = (holm(&p), benjamini_hochberg(&p));
            for i in 0..p.len() {
                prop_assert!(p[i] <= bh[i] + 1e-15 && bh[i] <= holm[i] + 1e-15 && holm[i] <= 1.0);
                for j in 0..p.len() {
                    prop_assert!(p[i] > p[j] || (holm[i] <= holm[j] && bh[i] <= bh[j]));
                }
            }
        }
    }
}

//! Even use of codes: which code each of several vectors gets, so that none has more than its share.
//!
//! max Σ_ij P_ij s_ij + ε H(P) with Σ_j P_ij = 1 and Σ_i P_ij ≤ max(1, n / k)  ⇒  P_ij = exp(u_i + g_j + s_ij / ε), g_j ≤ 0;
//! u and g are found in turns (Sinkhorn and Knopp), and P is rounded: whoever would lose most by another code chooses first,
//! and a code that ⌈n / k⌉ vectors have is given to no more.
//!
//! Shapes: scores s (n × k), of which a number common to a row makes no difference. Cost: n k exponentials a round, at most
//! 50 rounds; memory n k numbers.
//! Source: uniform semantic mapping of Zheng et al., "Adapting Large Language Models by Integrating Collaborative Semantics
//! for Recommendation" (LC-Rec), ICDE 2024, arXiv:2311.09049: the last level, after Asano et al., ICLR 2020. ε and the number
//! of rounds are those of its published training.
//! Departures: a code's share is a limit, not a demand: of fewer vectors than codes each keeps its nearest one where no other
//! wants it. The plan is rounded within the limit, where the source takes each row's largest and may collide again. Distances
//! are measured by the widest range of a row. ε falls to its value in steps, with which 50 rounds go further.

use crate::kmeans::largest;
use serde::{Deserialize, Serialize};
use sommelier_nn::kernel;

/// Levels whose codes a catalogue uses evenly.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Uniform {
    /// None: each vector has its nearest codes.
    #[default]
    None,
    /// The last: items with the same other codes are told apart by it.
    Last,
    /// All of them.
    All,
}

impl Uniform {
    /// Whether codes of a level (from 0) are used evenly.
    pub(super) fn at(self, level: usize, levels: usize) -> bool {
        match self {
            Uniform::None => false,
            Uniform::Last => level + 1 == levels,
            Uniform::All => true,
        }
    }
}

/// How far a plan may be from the best, as a share of half the range of distances.
const EPSILON: f32 = 0.003;
const ROUNDS: usize = 50;
/// As many rounds each with ε divided by this: the limits found for a large ε are a good start for a small one.
const STAGES: [f32; 5] = [0.01, 0.03, 0.1, 0.3, 1.0];

/// The code of each row of `scores` (n × k), the larger the better.
pub(super) fn spread(scores: &[f32], k: usize) -> Vec<u32> {
    let n = scores.len() / k;
    let most = n.div_ceil(k);
    let nearest: Vec<usize> = scores.chunks_exact(k).map(largest).collect();
    let mut counts = vec![0usize; k];
    nearest.iter().for_each(|&j| counts[j] += 1);
    if counts.iter().all(|&c| c <= most) {
        return nearest.into_iter().map(|j| j as u32).collect();
    }
    let mut widest = 0f32;
    let mut plan = scores.to_vec();
    for row in plan.chunks_exact_mut(k) {
        let top = kernel::max(row);
        row.iter_mut().for_each(|s| *s -= top);
        widest = row.iter().fold(widest, |w, s| w.max(-s));
    }
    if widest > 0.0 {
        kernel::scale(&mut plan, 2.0 / (EPSILON * widest));
    }
    let limits = limits(&plan, k, 1f32.max(n as f32 / k as f32));
    plan.chunks_exact_mut(k).for_each(|row| kernel::axpy(1.0, &limits, row));
    rounded(&plan, k, most)
}

/// g: how much less each code is worth than it seems, so that none is wanted by more than its share.
fn limits(plan: &[f32], k: usize, share: f32) -> Vec<f32> {
    let (mut limits, mut loads, mut row) = (vec![0f32; k], vec![0f32; k], vec![0f32; k]);
    for (round, stage) in (0..ROUNDS).map(|round| (round, STAGES[round * STAGES.len() / ROUNDS])) {
        loads.fill(0.0);
        for own in plan.chunks_exact(k) {
            row.copy_from_slice(own);
            kernel::axpy(1.0, &limits, &mut row);
            kernel::softmax(&mut row, stage);
            kernel::axpy(1.0, &row, &mut loads);
        }
        if round + ROUNDS / STAGES.len() >= ROUNDS && loads.iter().all(|&l| l <= 1.001 * share) {
            break;
        }
        let less = |g: f32, l: f32| (g + (share.ln() - l.ln()) / stage).min(0.0);
        limits.iter_mut().zip(&loads).for_each(|(g, &l)| *g = less(*g, l));
    }
    limits
}

/// One code for each row, none for more than `most` rows.
fn rounded(plan: &[f32], k: usize, most: usize) -> Vec<u32> {
    let row = |i: usize| &plan[i * k..][..k];
    let regret = |i: usize| {
        let best = largest(row(i));
        let others = row(i).iter().enumerate().filter(|&(j, _)| j != best);
        row(i)[best] - others.fold(f32::NEG_INFINITY, |top, (_, &s)| top.max(s))
    };
    let regrets: Vec<f32> = (0..plan.len() / k).map(regret).collect();
    let mut order: Vec<usize> = (0..regrets.len()).collect();
    order.sort_by(|&a, &b| regrets[b].total_cmp(&regrets[a]).then(a.cmp(&b)));
    let mut counts = vec![0usize; k];
    let mut codes = vec![0u32; regrets.len()];
    for i in order {
        let free = row(i).iter().enumerate().filter(|&(j, _)| counts[j] < most);
        let best = free.reduce(|a, b| if b.1 > a.1 { b } else { a }).map_or(0, |(j, _)| j);
        counts[best] += 1;
        codes[i] = best as u32;
    }
    codes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sommelier_core::Rng;

    #[test]
    fn whoever_loses_most_keeps_its_code() {
        // Both want the first code; the second row would lose more by the other.
        assert_eq!(spread(&[-1.0, -1.1, -1.0, -9.0], 2), [1, 0]);
        // Nobody is in anybody's way: all keep their nearest.
        assert_eq!(spread(&[-5.0, -1.0, -3.0, -1.0, -5.0, -3.0], 3), [1, 0]);
        // Two at most of three rows have the first code.
        assert_eq!(spread(&[-1.0, -4.0, -1.0, -3.0, -1.0, -2.0], 2), [0, 0, 1]);
        // Nothing to choose by, and one code only.
        let mut codes = spread(&[0.0; 16], 4);
        codes.sort_unstable();
        assert_eq!(codes, [0, 1, 2, 3]);
        assert_eq!(spread(&[1.0, 2.0], 1), [0, 0]);
        assert!(spread(&[], 3).is_empty());
    }

    #[test]
    fn the_plan_costs_less_than_filling_up_in_order() {
        let (n, k) = (240, 24);
        let mut rng = Rng::new(3);
        // Codes on a line, most rows near its beginning.
        let places: Vec<f64> = (0..n).map(|_| 24.0 * rng.unit().powi(3)).collect();
        let score = |i: usize, j: usize| -0.5 * (places[i] - j as f64).powi(2);
        let scores: Vec<f32> = (0..n * k).map(|at| score(at / k, at % k) as f32).collect();
        let cost = |codes: &[u32]| (0..n).map(|i| -2.0 * score(i, codes[i] as usize)).sum::<f64>();
        let plain = rounded(&scores, k, n / k);
        // The best of all matches rows and codes in the order of the line.
        let mut line: Vec<usize> = (0..n).collect();
        line.sort_by(|&a, &b| places[a].total_cmp(&places[b]));
        let mut best = vec![0u32; n];
        line.iter().enumerate().for_each(|(at, &i)| best[i] = (at * k / n) as u32);
        let found = cost(&spread(&scores, k));
        let (plain, best) = (cost(&plain), cost(&best));
        assert!(found < 0.8 * plain && found < 1.35 * best, "{found}, in order {plain}, at best {best}");
    }

    proptest! {
        #[test]
        fn no_code_has_more_than_its_share(n in 0usize..60, k in 1usize..12, seed: u64, size in 0.0f64..1e6) {
            let mut rng = Rng::new(seed);
            // Columns are not as good as one another, so that there is something to spread.
            let scores: Vec<f32> = (0..n * k).map(|at| (size * (rng.normal() - (at % k) as f64)) as f32).collect();
            let codes = spread(&scores, k);
            prop_assert_eq!(codes.len(), n);
            for j in 0..k {
                prop_assert!(codes.iter().filter(|&&c| c as usize == j).count() <= n.div_ceil(k));
            }
        }
    }
}

//! Diversity: choosing from the best candidates those that do not resemble each other.
//!
//! MMR picks, one at a time, argmax (1 − s)·rel − s·max sim to the chosen. DPP picks argmax of
//! 2α·rel + log(volume gained), α = (1 − s)/(2s), which is greedy MAP inference of a determinantal point process
//! with kernel L_ij = exp(α rel_i) S_ij exp(α rel_j). `rel` is the score mapped to 0…1 over the pool, `s` the
//! strength: 0 keeps the order by score, 1 looks at difference alone.
//!
//! Cost: k rows of similarities; O(pool·k) for MMR, O(pool·k²) for DPP.
//! Sources: Carbonell and Goldstein, SIGIR 1998; Chen, Zhang and Zhou, "Fast Greedy MAP Inference for
//! Determinantal Point Process", NeurIPS 2018, arXiv:1709.05135.

use crate::config::DiversityMethod;
use serde_json::{Map, Value};
use sommelier_core::Item;
use std::collections::BTreeSet;

/// Below this an item adds nothing new to the chosen ones.
const NOTHING_NEW: f64 = 1e-9;

/// Indices into `scores` of the `k` chosen, in order. `similar(i)` gives the likeness (0…1, 1 with itself) of
/// candidate `i` to every candidate.
pub(crate) fn select(
    scores: &[f32],
    k: usize,
    strength: f32,
    method: DiversityMethod,
    similar: &mut dyn FnMut(usize) -> Vec<f32>,
) -> Vec<usize> {
    let relevance = relevance(scores);
    let k = k.min(scores.len());
    if strength <= 0.0 {
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|&a, &b| relevance[b].total_cmp(&relevance[a]).then(a.cmp(&b)));
        order.truncate(k);
        return order;
    }
    match method {
        DiversityMethod::Mmr => mmr(&relevance, k, f64::from(strength), similar),
        DiversityMethod::Dpp => dpp(&relevance, k, f64::from(strength), similar),
    }
}

fn relevance(scores: &[f32]) -> Vec<f64> {
    let low = scores.iter().copied().fold(f32::INFINITY, f32::min);
    let high = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let range = f64::from(high) - f64::from(low);
    scores.iter().map(|&s| if range > 0.0 { (f64::from(s) - f64::from(low)) / range } else { 1.0 }).collect()
}

fn mmr(relevance: &[f64], k: usize, strength: f64, similar: &mut dyn FnMut(usize) -> Vec<f32>) -> Vec<usize> {
    let mut nearest = vec![0f64; relevance.len()];
    let mut free = vec![true; relevance.len()];
    let mut chosen = Vec::with_capacity(k);
    while chosen.len() < k {
        let value = |i: usize| (1.0 - strength) * relevance[i] - strength * nearest[i];
        let Some(best) = best_of(&free, value) else { break };
        free[best] = false;
        chosen.push(best);
        for (near, sim) in nearest.iter_mut().zip(similar(best)) {
            *near = near.max(f64::from(sim));
        }
    }
    chosen
}

fn dpp(relevance: &[f64], k: usize, strength: f64, similar: &mut dyn FnMut(usize) -> Vec<f32>) -> Vec<usize> {
    let alpha = (1.0 - strength) / (2.0 * strength);
    let n = relevance.len();
    // Cholesky rows of the chosen ones: column i of `rows` is c_i, and left[i] = S_ii − ‖c_i‖².
    let mut rows: Vec<Vec<f64>> = Vec::with_capacity(k);
    let mut left = vec![1f64; n];
    let mut free = vec![true; n];
    let mut chosen = Vec::with_capacity(k);
    while chosen.len() < k {
        let gain = |i: usize| 2.0 * alpha * relevance[i] + left[i].max(NOTHING_NEW).ln();
        let Some(best) = best_of(&free, gain) else { break };
        free[best] = false;
        chosen.push(best);
        if left[best] <= NOTHING_NEW {
            continue;
        }
        let root = left[best].sqrt();
        let row: Vec<f64> = similar(best)
            .iter()
            .enumerate()
            .map(|(i, &sim)| (f64::from(sim) - rows.iter().map(|r| r[best] * r[i]).sum::<f64>()) / root)
            .collect();
        for (left, e) in left.iter_mut().zip(&row) {
            *left = (*left - e * e).max(0.0);
        }
        rows.push(row);
    }
    chosen
}

/// The free index with the largest value; the first of equals, which is the one with the better score.
fn best_of(free: &[bool], value: impl Fn(usize) -> f64) -> Option<usize> {
    let mut best: Option<(usize, f64)> = None;
    for i in (0..free.len()).filter(|&i| free[i]) {
        let v = value(i);
        if best.is_none_or(|(_, top)| v > top) {
            best = Some((i, v));
        }
    }
    best.map(|(i, _)| i)
}

/// What an item is about, from the named properties: each text and each element of a list is one trait.
pub(crate) fn traits(item: Option<&Item>, names: &[String]) -> BTreeSet<String> {
    item.map_or_else(BTreeSet::new, |item| {
        names.iter().flat_map(|name| values(&item.properties, name)).collect()
    })
}

fn values(properties: &Map<String, Value>, name: &str) -> Vec<String> {
    let one = |v: &Value| match v {
        Value::String(text) => Some(format!("{name}={}", text.to_lowercase())),
        Value::Number(number) => Some(format!("{name}={number}")),
        _ => None,
    };
    match properties.get(name) {
        Some(Value::Array(list)) => list.iter().filter_map(one).collect(),
        Some(value) => one(value).into_iter().collect(),
        None => Vec::new(),
    }
}

/// |a ∩ b| / |a ∪ b|; 0 where both are empty, for nothing is known to be alike.
pub(crate) fn jaccard(a: &BTreeSet<String>, b: &BTreeSet<String>) -> f32 {
    let both = a.intersection(b).count();
    let either = a.len() + b.len() - both;
    if either == 0 { 0.0 } else { both as f32 / either as f32 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Two groups of three: alike within, different between.
    fn groups(i: usize) -> Vec<f32> {
        (0..6)
            .map(|j| {
                if i == j {
                    1.0
                } else if i / 3 == j / 3 {
                    0.9
                } else {
                    0.0
                }
            })
            .collect()
    }

    const SCORES: [f32; 6] = [1.0, 0.99, 0.98, 0.5, 0.4, 0.0];

    #[test]
    fn strength_zero_is_the_order_by_score() {
        for method in [DiversityMethod::Mmr, DiversityMethod::Dpp] {
            assert_eq!(select(&SCORES, 3, 0.0, method, &mut groups), [0, 1, 2]);
        }
    }

    #[test]
    fn alike_items_make_room() {
        for method in [DiversityMethod::Mmr, DiversityMethod::Dpp] {
            assert_eq!(select(&SCORES, 2, 0.5, method, &mut groups), [0, 3], "{method:?}");
            let all = select(&SCORES, 9, 0.5, method, &mut groups);
            assert_eq!(all.len(), 6, "asking for more than there is gives all");
        }
    }

    #[test]
    fn dpp_maximises_the_determinant_one_step_at_a_time() {
        // By hand: after 0, item 1 leaves 1 − 0.9² = 0.19 and gains 2α·0.99 + ln 0.19; item 3 gains 2α·0.5 + 0.
        // With α = 2 (strength 0.2): 3.96 − 1.66 = 2.30 against 2.0, so the alike but better item wins.
        assert_eq!(select(&SCORES, 2, 0.2, DiversityMethod::Dpp, &mut groups), [0, 1]);
        // With α = 0.5: 0.99 − 1.66 = −0.67 against 0.5.
        assert_eq!(select(&SCORES, 2, 0.5, DiversityMethod::Dpp, &mut groups), [0, 3]);
    }

    #[test]
    fn likeness_of_properties() {
        let names = ["genres".to_owned(), "author".to_owned()];
        let item = |json: &str| -> Item { serde_json::from_str(json).unwrap() };
        let a = item(r#"{"id":"a","properties":{"genres":["Novel","Crime"],"author":"X"}}"#);
        let b = item(r#"{"id":"b","properties":{"genres":["novel"],"author":"Y"}}"#);
        let likeness = jaccard(&traits(Some(&a), &names), &traits(Some(&b), &names));
        assert_eq!(likeness, 0.25);
        assert_eq!(jaccard(&traits(None, &names), &traits(None, &names)), 0.0);
    }

    proptest! {
        #[test]
        fn a_choice_is_distinct_and_full(
            scores in prop::collection::vec(-5f32..5.0, 0..20), k in 0usize..25, strength in 0f32..=1.0, dpp: bool,
        ) {
            let method = if dpp { DiversityMethod::Dpp } else { DiversityMethod::Mmr };
            let n = scores.len();
            let mut alike = |i: usize| (0..n).map(|j| if i % 3 == j % 3 { 1.0 } else { 0.2 }).collect();
            let chosen = select(&scores, k, strength, method, &mut alike);
            prop_assert_eq!(chosen.len(), k.min(n));
            let distinct: std::collections::BTreeSet<_> = chosen.iter().collect();
            prop_assert_eq!(distinct.len(), chosen.len());
        }
    }
}

//! The metrics of one ranked list, each in the variant that a library people compare with computes.
//!
//! R are the relevant items of a case, L the ranked list cut at K, h_i whether place i (from 1) is in R.
//!
//! | | recbole | rectools | implicit | lenskit |
//! |---|---|---|---|---|
//! | recall | Σh / \|R\| | Σh / \|R\| | Σh / \|R\| (implicit has none) | Σh / min(K, \|R\|) |
//! | precision | Σh / K | Σh / K | pooled: ΣΣh / Σ min(K, \|R\|) over all users | Σh / \|L\| |
//! | map | / min(K, \|R\|) | / \|R\| | / min(K, \|R\|) | / min(\|R\|, \|L\|) |
//! | ndcg: ideal | first min(K, \|R\|) places | all K places | first min(K, \|R\|) | first min(K, \|R\|) |
//! | ndcg: discount | 1/log2(i+1) | 1/log2(i+1) | 1/log2(i+1) | 1/max(1, log2 i) |
//! | auc | per user, weighted by \|R\| | mean over users | limited to L | mean over users |
//! | coverage | share of the catalogue | number of items | share | share |
//!
//! Source: the libraries' own code (RecBole 1.2, RecTools 0.19, implicit 0.7, LensKit 2025.8).

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// What is measured. Names as in `--metrics`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Share of the relevant items that were found.
    Recall,
    /// Share of the list that is relevant.
    Precision,
    /// Discounted cumulative gain over that of the best possible list, gains 0 and 1.
    Ndcg,
    /// 1 / place of the first hit, 0 where there is none.
    Mrr,
    /// Mean over the hits of the precision up to each.
    Map,
    /// Whether there is any hit.
    Hit,
    /// Probability that a relevant item scores above an irrelevant one, ties half.
    Auc,
    /// The same from the list alone: what is not in it counts half (implicit's AUC).
    LimitedAuc,
    /// How much of the catalogue is in anybody's list.
    Coverage,
    /// How unevenly items share the places: 0 all the same, 1 one item has all.
    Gini,
    /// Mean over the list of −log2(share of users who have the item).
    Novelty,
    /// Mean distance of the pairs in a list: 1 − Jaccard of their tags, or 1 − cosine of who has them.
    Diversity,
    /// Mean number of users who have the listed items.
    Popularity,
    /// Root of the mean squared difference of score and rating, for models whose scores are ratings.
    Rmse,
    /// Mean difference of score and rating, whatever its sign.
    Mae,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected one of {expected}, received {received:?}")]
pub struct NameError {
    pub expected: &'static str,
    pub received: String,
}

const METRICS: [(&str, Metric); 21] = [
    ("recall", Metric::Recall),
    ("precision", Metric::Precision),
    ("ndcg", Metric::Ndcg),
    ("mrr", Metric::Mrr),
    ("map", Metric::Map),
    ("hit", Metric::Hit),
    ("auc", Metric::Auc),
    ("limited_auc", Metric::LimitedAuc),
    ("coverage", Metric::Coverage),
    ("gini", Metric::Gini),
    ("novelty", Metric::Novelty),
    ("diversity", Metric::Diversity),
    ("popularity", Metric::Popularity),
    ("rmse", Metric::Rmse),
    ("mae", Metric::Mae),
    // Other people's words for the same.
    ("hr", Metric::Hit),
    ("hit_rate", Metric::Hit),
    ("ild", Metric::Diversity),
    ("prec", Metric::Precision),
    ("n", Metric::Ndcg),
    ("popularity_bias", Metric::Popularity),
];

impl Metric {
    pub fn name(self) -> &'static str {
        METRICS.iter().find(|(_, metric)| *metric == self).expect("every metric has a name").0
    }

    /// `auc` looks at the whole ranking (but for implicit's), and errors of ratings at no ranking.
    pub fn has_cut_off(self, profile: Profile) -> bool {
        !self.is_of_ratings() && (self != Metric::Auc || profile == Profile::Implicit)
    }

    /// Compares scores with ratings; lists have no part in it.
    pub fn is_of_ratings(self) -> bool {
        matches!(self, Metric::Rmse | Metric::Mae)
    }

    /// A mean over users, so that intervals and paired tests make sense. The others describe all lists together.
    pub fn is_per_user(self) -> bool {
        !matches!(self, Metric::Coverage | Metric::Gini)
    }

    /// Whether more is better. `None` where that depends on what one wants.
    pub fn higher_is_better(self) -> Option<bool> {
        match self {
            Metric::Gini | Metric::Rmse | Metric::Mae => Some(false),
            Metric::Popularity => None,
            _ => Some(true),
        }
    }

    /// `recall@10`, or `auc` where there is no cut-off.
    pub fn key(self, profile: Profile, k: usize) -> String {
        if self.has_cut_off(profile) { format!("{}@{k}", self.name()) } else { self.name().to_owned() }
    }

    /// The formula, in the words of the table above.
    pub fn variant(self, profile: Profile) -> &'static str {
        use Profile::{Implicit, Lenskit, Recbole, Rectools};
        match (self, profile) {
            (Metric::Recall, Lenskit) => "hits / min(K, |R|)",
            (Metric::Recall, _) => "hits / |R|",
            (Metric::Precision, Implicit) => "sum of hits / sum of min(K, |R|), pooled over users",
            (Metric::Precision, Lenskit) => "hits / |L|",
            (Metric::Precision, _) => "hits / K",
            (Metric::Ndcg, Rectools) => "binary gain, 1/log2(i+1), ideal over all K places",
            (Metric::Ndcg, Lenskit) => "binary gain, 1/max(1, log2 i), ideal over min(K, |R|) places",
            (Metric::Ndcg, _) => "binary gain, 1/log2(i+1), ideal over min(K, |R|) places",
            (Metric::Mrr, _) => "1 / place of the first hit within K, 0 if none",
            (Metric::Map, Rectools) => "sum of precision at hits / |R|",
            (Metric::Map, Lenskit) => "sum of precision at hits / min(|R|, |L|)",
            (Metric::Map, _) => "sum of precision at hits / min(K, |R|)",
            (Metric::Hit, _) => "any hit within K",
            (Metric::Auc, Recbole) => "pairs in order, ties half, users weighted by |R|",
            (Metric::Auc, Implicit) | (Metric::LimitedAuc, _) => {
                "pairs in order within the list, half of the rest, mean over users"
            }
            (Metric::Auc, _) => "pairs in order, ties half, mean over users",
            (Metric::Coverage, Rectools) => "number of distinct items in any list",
            (Metric::Coverage, _) => "distinct items in any list / items",
            (Metric::Gini, _) => "Gini coefficient of how often each item is listed",
            (Metric::Novelty, _) => "mean -log2(users with the item / users), items without users count one",
            (Metric::Diversity, _) => "mean pairwise distance within the list",
            (Metric::Popularity, _) => "mean number of training users of the listed items",
            (Metric::Rmse, _) => "root of the mean squared error over all ratings, scores cut to the scale",
            (Metric::Mae, _) => "mean absolute error over all ratings, scores cut to the scale",
        }
    }
}

impl FromStr for Metric {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Metric, NameError> {
        let name = text.trim().to_ascii_lowercase();
        METRICS.iter().find(|(known, _)| *known == name).map(|&(_, metric)| metric).ok_or(NameError {
            expected: "recall, precision, ndcg, mrr, map, hit, auc, limited_auc, coverage, gini, novelty, diversity, \
                       popularity, rmse, mae",
            received: text.to_owned(),
        })
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whose definition of each metric. RecBole's are the ones most papers use, and the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    #[default]
    Recbole,
    Rectools,
    Implicit,
    Lenskit,
}

impl Profile {
    pub fn name(self) -> &'static str {
        match self {
            Profile::Recbole => "recbole",
            Profile::Rectools => "rectools",
            Profile::Implicit => "implicit",
            Profile::Lenskit => "lenskit",
        }
    }
}

impl FromStr for Profile {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Profile, NameError> {
        [Profile::Recbole, Profile::Rectools, Profile::Implicit, Profile::Lenskit]
            .into_iter()
            .find(|p| p.name() == text.trim().to_ascii_lowercase())
            .ok_or(NameError { expected: "recbole, rectools, implicit, lenskit", received: text.to_owned() })
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// All that decides a number. Two values may be compared if these agree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition {
    pub metric: Metric,
    pub variant: String,
    pub profile: Profile,
    pub cut_off: Option<usize>,
    /// `all items`, `sampled:100`, `given`.
    pub candidates: String,
    pub split: String,
    /// `test` or `validation`.
    pub on: String,
    pub seen_removed: bool,
    pub users: usize,
    pub ties: String,
    pub seed: u64,
    /// Name and offset of the snapshot.
    pub snapshot: String,
}

/// Rank discounts up to the longest list, and their running sums.
#[derive(Debug, Clone)]
pub struct Discounts {
    /// Of place `i` (from 0).
    gain: Vec<f64>,
    /// Sum of the first `n`.
    ideal: Vec<f64>,
}

impl Discounts {
    pub fn new(profile: Profile, k: usize) -> Discounts {
        let of = |i: usize| match profile {
            Profile::Lenskit => 1.0 / ((i + 1).max(2) as f64).log2(),
            _ => 1.0 / ((i + 2) as f64).log2(),
        };
        let gain: Vec<f64> = (0..k).map(of).collect();
        let mut ideal = vec![0.0];
        ideal.extend(gain.iter().scan(0.0, |sum, g| {
            *sum += g;
            Some(*sum)
        }));
        Discounts { gain, ideal }
    }
}

/// One user's part of a metric: the metric is Σ `part` / Σ `of` over users. For a plain mean `of` is 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Share {
    pub part: f64,
    pub of: f64,
}

impl Share {
    fn mean(part: f64) -> Share {
        Share { part, of: 1.0 }
    }
}

/// One ranked list, judged.
#[derive(Debug, Clone, Copy)]
pub struct Case<'a> {
    /// Whether each place is relevant, best first.
    pub hits: &'a [bool],
    /// |R|, at least 1.
    pub relevant: usize,
    /// Items in the catalogue (or candidates of this case), for the limited AUC.
    pub items: usize,
}

impl Case<'_> {
    /// A metric of this list cut at `k`. `None` for metrics that need more than the hits.
    pub fn share(&self, metric: Metric, profile: Profile, k: usize, discounts: &Discounts) -> Option<Share> {
        let list = &self.hits[..self.hits.len().min(k)];
        let found = list.iter().filter(|h| **h).count() as f64;
        let (r, reachable) = (self.relevant as f64, self.relevant.min(k) as f64);
        Some(match metric {
            Metric::Recall if profile == Profile::Lenskit => Share::mean(found / reachable),
            Metric::Recall => Share::mean(found / r),
            Metric::Precision => match profile {
                Profile::Implicit => Share { part: found, of: reachable },
                Profile::Lenskit => Share::mean(found / (list.len().max(1)) as f64),
                _ => Share::mean(found / k as f64),
            },
            Metric::Ndcg => {
                let gained: f64 = places(list).map(|i| discounts.gain[i]).sum();
                let places = if profile == Profile::Rectools { k } else { self.relevant.min(k) };
                Share::mean(gained / discounts.ideal[places])
            }
            Metric::Mrr => Share::mean(places(list).next().map_or(0.0, |i| 1.0 / (i + 1) as f64)),
            Metric::Map => {
                let sum: f64 =
                    places(list).zip(1..).map(|(i, so_far)| f64::from(so_far) / (i + 1) as f64).sum();
                Share::mean(match profile {
                    Profile::Rectools => sum / r,
                    Profile::Lenskit => sum / (self.relevant.min(list.len()).max(1)) as f64,
                    _ => sum / reachable,
                })
            }
            Metric::Hit => Share::mean(f64::from(u8::from(found > 0.0))),
            Metric::Auc if profile == Profile::Implicit => Share::mean(self.limited_auc(list)),
            Metric::LimitedAuc => Share::mean(self.limited_auc(list)),
            _ => return None,
        })
    }

    /// Within the list, pairs are judged; what is not listed is taken to come after it in random order.
    fn limited_auc(&self, list: &[bool]) -> f64 {
        let negatives = self.items.saturating_sub(self.relevant);
        if negatives == 0 {
            return 0.5;
        }
        let (mut hits, mut misses, mut in_order) = (0usize, 0usize, 0usize);
        for &hit in list {
            if hit {
                hits += 1;
            } else {
                misses += 1;
                in_order += hits;
            }
        }
        let rest = (hits + self.relevant) as f64 / 2.0 * negatives.saturating_sub(misses) as f64;
        (in_order as f64 + rest) / (self.relevant * negatives) as f64
    }
}

fn places(list: &[bool]) -> impl Iterator<Item = usize> {
    list.iter().enumerate().filter(|(_, hit)| **hit).map(|(i, _)| i)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PROFILES: [Profile; 4] = [Profile::Recbole, Profile::Rectools, Profile::Implicit, Profile::Lenskit];

    fn value(metric: Metric, profile: Profile, k: usize, hits: &[bool], relevant: usize) -> f64 {
        let case = Case { hits, relevant, items: 1000 };
        let share = case.share(metric, profile, k, &Discounts::new(profile, k)).expect("a metric of hits");
        share.part / share.of
    }

    /// The four profiles in the order of the table.
    #[track_caller]
    fn check(metric: Metric, hits: &[bool], relevant: usize, want: [f64; 4]) {
        for (profile, want) in PROFILES.into_iter().zip(want) {
            let got = value(metric, profile, 10, hits, relevant);
            assert!((got - want).abs() < 5e-4, "{metric} {profile}: {got}, by hand {want}");
        }
    }

    /// Ten places, one hit at the first, two relevant. Ideal gain of two places: 1 + 1/log2(3) = 1.6309 (LensKit
    /// discounts neither of them: 2); of ten: 4.5436.
    #[test]
    fn one_hit_of_two_by_hand() {
        let hits = [true, false, false, false, false, false, false, false, false, false];
        check(Metric::Ndcg, &hits, 2, [0.6131, 0.2201, 0.6131, 0.5]);
        check(Metric::Precision, &hits, 2, [0.1, 0.1, 0.5, 0.1]);
        check(Metric::Recall, &hits, 2, [0.5; 4]);
        check(Metric::Map, &hits, 2, [0.5; 4]);
        check(Metric::Mrr, &hits, 2, [1.0; 4]);
        check(Metric::Hit, &hits, 2, [1.0; 4]);
    }

    /// Ten places, all hits, twenty relevant.
    #[test]
    fn ten_hits_of_twenty_by_hand() {
        let hits = [true; 10];
        check(Metric::Recall, &hits, 20, [0.5, 0.5, 0.5, 1.0]);
        check(Metric::Map, &hits, 20, [1.0, 0.5, 1.0, 1.0]);
        check(Metric::Ndcg, &hits, 20, [1.0; 4]);
        check(Metric::Precision, &hits, 20, [1.0; 4]);
    }

    /// A list of four for K = 10, hits at places 2 and 4 of three relevant: precision at the hits 1/2 and 2/4.
    #[test]
    fn a_short_list_by_hand() {
        let hits = [false, true, false, true];
        check(Metric::Precision, &hits, 3, [0.2, 0.2, 2.0 / 3.0, 0.5]);
        check(Metric::Map, &hits, 3, [1.0 / 3.0; 4]);
        check(Metric::Mrr, &hits, 3, [0.5; 4]);
        // Gains 1/log2(3) + 1/log2(5) = 1.0616 of 2.1309 (all ten: 4.5436); LensKit's 1 + 1/2 of 2 + 1/log2(3).
        check(Metric::Ndcg, &hits, 3, [0.4982, 0.2336, 0.4982, 0.5702]);
    }

    /// Five items, two relevant, list (hit, miss): the miss has one hit before it; of the two negatives left, both
    /// hits... (1 + (1 + 2)/2 · (3 − 1)) / (2 · 3) = 4/6.
    #[test]
    fn limited_auc_by_hand() {
        let case = Case { hits: &[true, false], relevant: 2, items: 5 };
        let share =
            case.share(Metric::Auc, Profile::Implicit, 2, &Discounts::new(Profile::Implicit, 2)).unwrap();
        assert!((share.part - 4.0 / 6.0).abs() < 1e-12);
    }

    #[test]
    fn names_read_back() {
        for (_, metric) in METRICS {
            assert_eq!(metric.name().parse::<Metric>(), Ok(metric));
        }
        assert_eq!("HR".parse::<Metric>(), Ok(Metric::Hit));
        assert!("rms".parse::<Metric>().is_err());
        for profile in PROFILES {
            assert_eq!(profile.name().parse::<Profile>(), Ok(profile));
        }
    }

    proptest! {
        #[test]
        fn bounds_and_orders(hits in prop::collection::vec(any::<bool>(), 0..30), extra in 0usize..20, k in 1usize..40) {
            let relevant = (hits.iter().filter(|h| **h).count() + extra).max(1);
            for profile in PROFILES {
                let of = |metric, k| value(metric, profile, k, &hits, relevant);
                for metric in [Metric::Recall, Metric::Precision, Metric::Ndcg, Metric::Mrr, Metric::Map, Metric::Hit] {
                    let x = of(metric, k);
                    prop_assert!((0.0..=1.0 + 1e-12).contains(&x), "{} {} {}", metric, profile, x);
                }
                prop_assert!(of(Metric::Mrr, k) <= of(Metric::Hit, k));
                if profile != Profile::Lenskit {
                    prop_assert!(of(Metric::Recall, k) <= of(Metric::Recall, k + 1), "recall grows with K");
                }
                // A hit moved one place up never lowers NDCG or MAP.
                if let Some(at) = (1..hits.len()).find(|&i| hits[i] && !hits[i - 1]) {
                    let mut better = hits.clone();
                    better.swap(at, at - 1);
                    for metric in [Metric::Ndcg, Metric::Map, Metric::Mrr] {
                        prop_assert!(value(metric, profile, k, &better, relevant) >= of(metric, k) - 1e-12);
                    }
                }
            }
        }
    }
}

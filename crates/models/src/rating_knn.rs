//! Rating prediction: what people of like opinion gave the item, told from what each of them gives on the whole.
//!
//! score(i) = b_ui + Σ_v sim(u, v) (r_vi − b_vi) / Σ_v sim(u, v) over the `top_k` people v nearest to u who rated i
//! sim(u, v) = 1 / (1 + mean over the items both rated of (r_uj − r_vj)²)
//! b_ui = μ + b_u + b_i, by `epochs` rounds of b_i = Σ_u (r_ui − μ − b_u) / (reg_item + n_i) and
//! b_u = Σ_i (r_ui − μ − b_i) / (reg_user + n_u); or the mean of u's ratings; or 0, see [`Centre`].
//! Where nobody near rated i, the score is b_ui. With `top_k` = 0 it always is.
//!
//! A score is the rating to expect ([`Score::rates`]), so lists are ordered by expected rating, not by how likely it
//! is that somebody chooses the item: for lists of implicit feedback other models are better.
//!
//! Shapes: R (users × items) sparse, kept both ways round; b_i (items); b_u (users). r_ui is the weight of u's newest
//! event on i: `[events.rating] by_value = true` makes that the rating.
//! Cost: O(epochs · |R|) to fit; a query goes through everybody who shares an item with the history.
//! Source: Koren, "Factor in the neighbors: scalable and accurate collaborative filtering", TKDD 2010 (baselines,
//! §2.1, and neighbours around them, §2.2); constants and mean squared difference as in Surprise 1.1.
//! Departures: a weight of 0 is no rating, and one below 0 counts as the lowest above it; b_u is computed for the
//! history of the query, so a person never seen before has one; a `like` counts as the highest rating in the data, an
//! `unlike` as the lowest, and weights beyond these are brought to them; scores are not cut to the scale, so that
//! orders survive.

use crate::item_item::largest;
use crate::model::{plan, require};
use crate::rows::{put_histories, take_histories};
use crate::{FitError, LoadError, Model, Weights};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sommelier_core::{Allowed, Candidate, Csr, Explain, FitContext, ItemIx, ResolvedQuery, Retrieve, Score};
use sommelier_data::Snapshot;
use sommelier_index::exact::TopK;

/// What a rating is told from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Centre {
    /// Mean, user and item (KNNBaseline).
    Baseline,
    /// The mean of the person's ratings (KNNWithMeans).
    UserMean,
    /// Nothing (KNNBasic); where nobody near rated the item, the mean of all ratings.
    None,
}

/// Defaults are Surprise's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RatingKnnConfig {
    /// How many of the people who rated an item are listened to; 0 leaves the baseline alone.
    pub top_k: usize,
    pub centre: Centre,
    /// Rounds of the baseline.
    pub epochs: usize,
    pub reg_user: f32,
    pub reg_item: f32,
}

impl Default for RatingKnnConfig {
    fn default() -> RatingKnnConfig {
        RatingKnnConfig { top_k: 40, centre: Centre::Baseline, epochs: 10, reg_user: 15.0, reg_item: 10.0 }
    }
}

#[derive(Debug, Clone)]
pub struct RatingKnn {
    config: RatingKnnConfig,
    /// users × items.
    given: Csr,
    /// items × users.
    received: Csr,
    mean: f32,
    /// b_i.
    item_bias: Vec<f32>,
    /// What each user's ratings are told from, without b_i: μ + b_u, their mean, or 0.
    level: Vec<f32>,
    lowest: f32,
    highest: f32,
}

impl RatingKnnConfig {
    pub fn fit(&self, train: &Snapshot, ctx: &mut FitContext) -> Result<RatingKnn, FitError> {
        require("reg_user", self.reg_user.into(), self.reg_user >= 0.0, "at least 0")?;
        require("reg_item", self.reg_item.into(), self.reg_item >= 0.0, "at least 0")?;
        let given = newest_ratings(train);
        let first = given.value.first().copied();
        let Some(first) = first.filter(|first| given.value.iter().any(|v| v != first)) else {
            let what = first.map_or_else(|| "there are none".to_owned(), |v| format!("all of them are {v}"));
            return Err(FitError::NoData(format!(
                "rating_knn needs ratings that differ, and {what}; if events carry a value, let it count: \
                 [events.rating] by_value = true"
            )));
        };
        plan(
            ctx,
            24 * given.nnz() as u64 + 24 * given.rows() as u64,
            "the ratings of all users, twice",
            "drop old events",
        )?;
        let received = given.transpose();
        let mean = mean(&given.value).unwrap_or(first);
        let mut item_bias = vec![0f32; given.cols];
        if self.centre == Centre::Baseline {
            let mut user_bias = vec![0f32; given.rows()];
            for _ in 0..self.epochs {
                ctx.cancel.check()?;
                item_bias = biases(&received, mean, &user_bias, self.reg_item);
                user_bias = biases(&given, mean, &item_bias, self.reg_user);
            }
        }
        ctx.cancel.check()?;
        Ok(self.with(given, mean, item_bias))
    }

    pub fn load(&self, weights: &Weights) -> Result<RatingKnn, LoadError> {
        let given = take_histories(weights)?;
        let (_, mean) = weights.f32("mean")?;
        let (_, item_bias) = weights.f32("item_bias")?;
        match mean {
            &[mean] if item_bias.len() == given.cols && given.nnz() > 0 => {
                Ok(self.with(given, mean, item_bias.to_vec()))
            }
            _ => Err(LoadError::Other(
                "the biases do not fit the ratings; the artefact is damaged, train it again".into(),
            )),
        }
    }

    fn with(&self, given: Csr, mean: f32, item_bias: Vec<f32>) -> RatingKnn {
        let (lowest, highest) =
            given.value.iter().fold((f32::MAX, f32::MIN), |(low, high), &v| (low.min(v), high.max(v)));
        let mut model = RatingKnn {
            config: self.clone(),
            received: given.transpose(),
            given,
            mean,
            item_bias,
            level: Vec::new(),
            lowest,
            highest,
        };
        model.level = (0..model.given.rows())
            .map(|u| {
                let (items, ratings) = model.given.row(u);
                model.level_of(items, ratings)
            })
            .collect();
        model
    }
}

/// users × items, the weight of each user's newest event on an item; 0 is none, and below 0 the lowest above it.
fn newest_ratings(train: &Snapshot) -> Csr {
    let events = &train.events;
    let mut out = Csr { cols: train.items.len(), ptr: vec![0], ..Csr::default() };
    let mut row: Vec<(u32, f32)> = Vec::new();
    for user in 0..events.users() {
        row.clear();
        row.extend(events.of(user).rev().map(|e| (events.item[e], events.weight[e])));
        // Stable, so that the newest of an item comes first.
        row.sort_by_key(|r| r.0);
        row.dedup_by_key(|r| r.0);
        let rated = row.iter().filter(|r| r.1 != 0.0);
        out.index.extend(rated.clone().map(|r| r.0));
        out.value.extend(rated.map(|r| r.1));
        out.ptr.push(out.index.len());
    }
    let lowest = out.value.iter().copied().filter(|r| *r > 0.0).reduce(f32::min);
    out.value.iter_mut().for_each(|r| *r = lowest.map_or(0.0, |lowest| r.max(lowest)));
    out
}

/// One half of a round: of each row, what its ratings exceed the mean and the other side's bias by.
fn biases(rows: &Csr, mean: f32, other: &[f32], reg: f32) -> Vec<f32> {
    (0..rows.rows()).into_par_iter().map(|r| bias(rows.row(r), mean, other, reg)).collect()
}

fn bias((index, ratings): (&[u32], &[f32]), mean: f32, other: &[f32], reg: f32) -> f32 {
    let excess: f32 = index.iter().zip(ratings).map(|(&j, &r)| r - mean - other[j as usize]).sum();
    if index.is_empty() { 0.0 } else { excess / (reg + index.len() as f32) }
}

fn mean(ratings: &[f32]) -> Option<f32> {
    let sum: f64 = ratings.iter().map(|&r| f64::from(r)).sum();
    (!ratings.is_empty()).then(|| (sum / ratings.len() as f64) as f32)
}

/// Who is asking, as the model sees them.
struct Asker {
    items: Vec<u32>,
    level: f32,
    /// Of each user of the training data; 0 for oneself and for who shares nothing.
    likeness: Vec<f32>,
}

/// Somebody who rated the item asked about.
struct Neighbour {
    user: u32,
    likeness: f32,
    /// What their rating says beyond what they give anyway.
    beyond: f32,
}

impl RatingKnn {
    /// μ + b_u, u's mean, or 0, of somebody who gave these ratings.
    fn level_of(&self, items: &[u32], ratings: &[f32]) -> f32 {
        match self.config.centre {
            Centre::Baseline => {
                self.mean + bias((items, ratings), self.mean, &self.item_bias, self.config.reg_user)
            }
            Centre::UserMean => mean(ratings).unwrap_or(self.mean),
            Centre::None => 0.0,
        }
    }

    fn asker(&self, q: &ResolvedQuery) -> Asker {
        let seen = q.history.iter().map(|s| (s.item, s.weight));
        let likes = q.like.iter().map(|&item| (item, self.highest));
        let unlikes = q.unlike.iter().map(|&item| (item, self.lowest));
        let mut rated: Vec<(u32, f32)> = seen
            .chain(likes)
            .chain(unlikes)
            .filter(|(item, weight)| item.ix() < self.items() && weight.is_finite() && *weight != 0.0)
            .map(|(item, weight)| (item.0, weight.clamp(self.lowest, self.highest)))
            .collect();
        // Said last counts.
        rated.reverse();
        rated.sort_by_key(|r| r.0);
        rated.dedup_by_key(|r| r.0);
        let (items, ratings): (Vec<u32>, Vec<f32>) = rated.into_iter().unzip();
        let level = self.level_of(&items, &ratings);
        let likeness = if self.config.top_k == 0 { Vec::new() } else { self.likeness(q, &items, &ratings) };
        Asker { items, level, likeness }
    }

    fn likeness(&self, q: &ResolvedQuery, items: &[u32], ratings: &[f32]) -> Vec<f32> {
        let mut shared = vec![(0f32, 0f32); self.given.rows()];
        for (&j, &mine) in items.iter().zip(ratings) {
            let (users, theirs) = self.received.row(j as usize);
            for (&v, &r) in users.iter().zip(theirs) {
                let (count, square) = &mut shared[v as usize];
                *count += 1.0;
                *square += (mine - r) * (mine - r);
            }
        }
        // One's own row in the data says nothing new.
        if let Some(me) = q.user.and_then(|me| shared.get_mut(me.ix())) {
            *me = (0.0, 0.0);
        }
        shared
            .iter()
            .map(|&(count, square)| if count > 0.0 { 1.0 / (1.0 + square / count) } else { 0.0 })
            .collect()
    }

    /// The nearest people who rated the item.
    fn near(&self, asker: &Asker, item: usize) -> Vec<Neighbour> {
        if self.config.top_k == 0 {
            return Vec::new();
        }
        let (users, ratings) = self.received.row(item);
        let neighbour = |(&user, &rating): (&u32, &f32)| Neighbour {
            user,
            likeness: asker.likeness[user as usize],
            beyond: rating - self.level[user as usize] - self.item_bias[item],
        };
        let mut near: Vec<Neighbour> =
            users.iter().zip(ratings).map(neighbour).filter(|n| n.likeness > 0.0).collect();
        let order =
            |a: &Neighbour, b: &Neighbour| b.likeness.total_cmp(&a.likeness).then(a.user.cmp(&b.user));
        if near.len() > self.config.top_k {
            near.select_nth_unstable_by(self.config.top_k - 1, order);
            near.truncate(self.config.top_k);
        }
        near.sort_unstable_by(order);
        near
    }

    fn predict(&self, asker: &Asker, item: usize) -> f32 {
        if item >= self.items() {
            return 0.0;
        }
        let near = self.near(asker, item);
        if near.is_empty() {
            // Told from nothing, only the mean is left.
            let level = if self.config.centre == Centre::None { self.mean } else { asker.level };
            return level + self.item_bias[item];
        }
        let said: f32 = near.iter().map(|n| n.likeness * n.beyond).sum();
        let heard: f32 = near.iter().map(|n| n.likeness).sum();
        asker.level + self.item_bias[item] + said / heard
    }
}

impl Score for RatingKnn {
    fn items(&self) -> usize {
        self.given.cols
    }

    fn score(&self, q: &ResolvedQuery, items: &[ItemIx], out: &mut [f32]) {
        let asker = self.asker(q);
        for (out, item) in out.iter_mut().zip(items) {
            *out = self.predict(&asker, item.ix());
        }
    }

    fn rates(&self) -> bool {
        true
    }
}

impl Retrieve for RatingKnn {
    fn retrieve(&self, q: &ResolvedQuery, k: usize, allowed: &Allowed) -> Vec<Candidate> {
        let asker = self.asker(q);
        let mut best = TopK::new(k.min(self.items()));
        for item in (0..self.items() as u32).filter(|&i| allowed.contains(ItemIx(i))) {
            best.offer(self.predict(&asker, item as usize), item, allowed);
        }
        best.into_sorted()
    }

    fn retrieve_batch(
        &self,
        queries: &[ResolvedQuery],
        k: usize,
        allowed: &[Allowed],
    ) -> Vec<Vec<Candidate>> {
        queries.par_iter().zip(allowed).map(|(q, a)| self.retrieve(q, k, a)).collect()
    }
}

impl Explain for RatingKnn {
    /// What the people near say of the item, shared evenly among the items that they and the asker rated. The
    /// baseline is nobody's share.
    fn contributions(&self, q: &ResolvedQuery, item: ItemIx, limit: usize) -> Vec<(ItemIx, f32)> {
        if item.ix() >= self.items() {
            return Vec::new();
        }
        let asker = self.asker(q);
        let near = self.near(&asker, item.ix());
        let heard: f32 = near.iter().map(|n| n.likeness).sum();
        let mut parts = vec![0f32; asker.items.len()];
        for Neighbour { user, likeness, beyond } in near {
            let theirs = self.given.row(user as usize).0;
            let shared: Vec<usize> =
                (0..asker.items.len()).filter(|&at| theirs.binary_search(&asker.items[at]).is_ok()).collect();
            for &at in &shared {
                parts[at] += likeness * beyond / heard / shared.len() as f32;
            }
        }
        let own = |item: &ItemIx| q.like.contains(item) || q.history.iter().any(|s| s.item == *item);
        largest(asker.items.into_iter().map(ItemIx).zip(parts).filter(|(item, _)| own(item)).collect(), limit)
    }
}

impl Model for RatingKnn {
    fn kind(&self) -> &'static str {
        "rating_knn"
    }

    /// The ratings and the items' biases; everything else follows from them.
    fn weights(&self) -> Weights {
        let mut weights = Weights::default();
        put_histories(&mut weights, &self.given);
        weights.set_f32("mean", &[1], vec![self.mean]);
        weights.set_f32("item_bias", &[self.item_bias.len()], self.item_bias.clone());
        weights
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sommelier_core::Seen;

    /// Rows are people, columns items, 0 unrated.
    fn ratings(rows: &[&[f32]]) -> Snapshot {
        let names: Vec<(String, String, f32)> = (0..rows.len())
            .flat_map(|u| {
                rows[u].iter().enumerate().map(move |(i, &r)| (format!("u{u}"), format!("i{i}"), r))
            })
            .collect();
        let pairs: Vec<(&str, &str)> = names.iter().map(|(u, i, _)| (u.as_str(), i.as_str())).collect();
        let train = Snapshot::from_pairs("t", &pairs);
        let mut events = (*train.events).clone();
        events.weight = names.iter().map(|n| n.2).collect();
        train.with_events(events)
    }

    fn fit(config: &RatingKnnConfig, train: &Snapshot) -> RatingKnn {
        config.fit(train, &mut FitContext::quiet(0)).unwrap()
    }

    fn score(model: &RatingKnn, q: &ResolvedQuery, item: u32) -> f32 {
        let mut out = [f32::NAN];
        model.score(q, &[ItemIx(item)], &mut out);
        out[0]
    }

    /// u0 and u1 rated i0 alike but for 1 (likeness 1/2) and u2 two apart on i0 (1/5); i1 is what u0 has not.
    const THREE: &[&[f32]] = &[&[3.0, 0.0], &[4.0, 5.0], &[1.0, 2.0]];

    #[test]
    fn basic_and_means_by_hand() {
        let train = ratings(THREE);
        let q = train.query(0);
        let basic = fit(&RatingKnnConfig { centre: Centre::None, ..RatingKnnConfig::default() }, &train);
        let want = (0.5 * 5.0 + 0.2 * 2.0) / 0.7;
        assert!((score(&basic, &q, 1) - want).abs() < 1e-6);
        let means = fit(&RatingKnnConfig { centre: Centre::UserMean, ..RatingKnnConfig::default() }, &train);
        let want = 3.0 + (0.5 * 0.5 + 0.2 * 0.5) / 0.7;
        assert!((score(&means, &q, 1) - want).abs() < 1e-6);
        let nearest = RatingKnnConfig { centre: Centre::None, top_k: 1, ..RatingKnnConfig::default() };
        assert_eq!(score(&fit(&nearest, &train), &q, 1), 5.0, "u1 is nearer");
    }

    /// One round: μ = 3; b_i0 = (0 + 1 − 2) / (10 + 3) = −1/13, b_i1 = (2 − 1) / (10 + 2) = 1/12;
    /// b_u0 = (3 − 3 + 1/13) / (15 + 1) = 1/208.
    #[test]
    fn the_baseline_by_hand() {
        let train = ratings(THREE);
        let alone = RatingKnnConfig { top_k: 0, epochs: 1, ..RatingKnnConfig::default() };
        let model = fit(&alone, &train);
        assert!((score(&model, &train.query(0), 1) - (3.0 + 1.0 / 12.0 + 1.0 / 208.0)).abs() < 1e-6);
        let nobody = ResolvedQuery::default();
        assert!((score(&model, &nobody, 1) - (3.0 + 1.0 / 12.0)).abs() < 1e-6, "a stranger has no bias");
    }

    #[test]
    fn the_newest_rating_counts_and_strangers_are_served() {
        let train = ratings(THREE);
        let basic = fit(&RatingKnnConfig { centre: Centre::None, ..RatingKnnConfig::default() }, &train);
        let seen = |weight| Seen { item: ItemIx(0), weight, at: sommelier_core::Time::default() };
        let history = |list: &[f32]| ResolvedQuery {
            history: list.iter().map(|&w| seen(w)).collect(),
            ..ResolvedQuery::default()
        };
        assert_eq!(score(&basic, &history(&[1.0, 4.0]), 1), score(&basic, &history(&[4.0]), 1));
        assert_ne!(score(&basic, &history(&[1.0]), 1), score(&basic, &history(&[4.0]), 1));
        assert_eq!(
            score(&basic, &history(&[-3.0]), 1),
            score(&basic, &history(&[1.0]), 1),
            "cut to the scale"
        );
    }

    #[test]
    fn ratings_that_are_all_the_same_are_refused_with_the_remedy() {
        let train = Snapshot::from_pairs("t", &[("a", "x"), ("b", "x")]);
        let refused = RatingKnnConfig::default().fit(&train, &mut FitContext::quiet(0)).unwrap_err();
        assert!(refused.to_string().contains("by_value = true"), "{refused}");
    }
}

//! Popularity: the same list for everybody, by what was chosen most.
//!
//! all_time: s_i = Σ w_e over the events e of item i
//! decayed:  s_i = Σ w_e 2^(−age_e / half life), ages back from the newest event of the snapshot
//! trending: s_i = (r − e) / √(e + 1) for items with r > e, where r = Σ w_e inside the window that ends at the newest
//!           event, p = Σ w_e before it, and e = r_all · (p + 1) / (p_all + items): what the window would hold had
//!           interest not moved. A z-score of a Poisson count, so that one lucky event is no trend.
//!
//! Shapes: one number an item. Cost: O(events) to fit; a query reads a ready list.
//! Source: counting; the trend score is ours.

use crate::model::{plan, require};
use crate::{FitError, LoadError, Model, Weights};
use serde::{Deserialize, Serialize};
use sommelier_core::{Allowed, Candidate, Explain, FitContext, ItemIx, ResolvedQuery, Retrieve, Score};
use sommelier_data::snapshot::{Snapshot, TimeQuality};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PopularityMode {
    #[default]
    AllTime,
    Decayed,
    Trending,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PopularityConfig {
    pub mode: PopularityMode,
    /// `decayed`: after this many days an event counts half.
    pub half_life_days: f64,
    /// `trending`: length of the recent window.
    pub window_days: f64,
}

impl Default for PopularityConfig {
    /// A month and a week: conventions, not tuned.
    fn default() -> PopularityConfig {
        PopularityConfig { mode: PopularityMode::AllTime, half_life_days: 30.0, window_days: 7.0 }
    }
}

/// A score per item and the items that have one, best first.
#[derive(Debug, Clone)]
pub struct Popularity {
    scores: Vec<f32>,
    order: Vec<ItemIx>,
}

const DAY_MS: f64 = 86_400_000.0;

impl PopularityConfig {
    pub fn fit(&self, snapshot: &Snapshot, ctx: &mut FitContext) -> Result<Popularity, FitError> {
        require("half_life_days", self.half_life_days, self.half_life_days > 0.0, "more than 0")?;
        require("window_days", self.window_days, self.window_days > 0.0, "more than 0")?;
        let items = snapshot.items.len();
        plan(ctx, 24 * items as u64, "a few numbers an item", "nothing else helps")?;
        ctx.cancel.check()?;
        if self.mode != PopularityMode::AllTime && snapshot.times != TimeQuality::Clock {
            let why = "decayed and trending popularity need clock times, and these events have only an order; use mode = \"all_time\"";
            return Err(FitError::NoData(why.into()));
        }
        let scores = match self.mode {
            PopularityMode::AllTime => sum_events(snapshot, items, |_| 1.0),
            PopularityMode::Decayed => {
                let half_life = self.half_life_days * DAY_MS;
                sum_events(snapshot, items, |age| (-age / half_life).exp2())
            }
            PopularityMode::Trending => {
                let window = self.window_days * DAY_MS;
                let recent = sum_events(snapshot, items, |age| f64::from(u8::from(age < window)));
                let before = sum_events(snapshot, items, |age| f64::from(u8::from(age >= window)));
                trend(&recent, &before)
            }
        };
        Ok(Popularity::from_scores(scores.into_iter().map(|s| s as f32).collect()))
    }

    pub fn load(&self, weights: &Weights) -> Result<Popularity, LoadError> {
        Ok(Popularity::from_scores(weights.f32("score")?.1.to_vec()))
    }
}

/// Σ weight · `factor(age in ms)` per item; negative sums become 0.
fn sum_events(snapshot: &Snapshot, items: usize, factor: impl Fn(f64) -> f64) -> Vec<f64> {
    let events = &snapshot.events;
    let newest = events.at.iter().copied().max().unwrap_or(0);
    let mut sums = vec![0f64; items];
    for ((&item, &at), &weight) in events.item.iter().zip(&events.at).zip(&events.weight) {
        sums[item as usize] += f64::from(weight) * factor(newest as f64 - at as f64);
    }
    for s in &mut sums {
        *s = s.max(0.0);
    }
    sums
}

fn trend(recent: &[f64], before: &[f64]) -> Vec<f64> {
    let recent_all: f64 = recent.iter().sum();
    let before_all: f64 = before.iter().sum::<f64>() + before.len() as f64;
    let one = |(&r, &p): (&f64, &f64)| {
        let expected = recent_all * (p + 1.0) / before_all;
        ((r - expected) / (expected + 1.0).sqrt()).max(0.0)
    };
    recent.iter().zip(before).map(one).collect()
}

impl Popularity {
    fn from_scores(scores: Vec<f32>) -> Popularity {
        let mut order: Vec<ItemIx> =
            (0..scores.len() as u32).map(ItemIx).filter(|i| scores[i.ix()] > 0.0).collect();
        order.sort_by(|a, b| scores[b.ix()].total_cmp(&scores[a.ix()]).then(a.cmp(b)));
        Popularity { scores, order }
    }
}

impl Score for Popularity {
    fn items(&self) -> usize {
        self.scores.len()
    }

    fn score(&self, _: &ResolvedQuery, items: &[ItemIx], out: &mut [f32]) {
        for (out, item) in out.iter_mut().zip(items) {
            *out = self.scores.get(item.ix()).copied().unwrap_or(0.0);
        }
    }
}

impl Retrieve for Popularity {
    fn retrieve(&self, _: &ResolvedQuery, k: usize, allowed: &Allowed) -> Vec<Candidate> {
        let good = self.order.iter().filter(|&&item| allowed.contains(item));
        good.take(k).map(|&item| Candidate { item, score: self.scores[item.ix()] }).collect()
    }
}

impl Explain for Popularity {
    /// Nobody's history has a part in it.
    fn contributions(&self, _: &ResolvedQuery, _: ItemIx, _: usize) -> Vec<(ItemIx, f32)> {
        Vec::new()
    }
}

impl Model for Popularity {
    fn kind(&self) -> &'static str {
        "popularity"
    }

    fn weights(&self) -> Weights {
        let mut weights = Weights::default();
        weights.set_f32("score", &[self.scores.len()], self.scores.clone());
        weights
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sommelier_core::Vocab;
    use sommelier_data::snapshot::Events;

    /// One user; `(item, day)`.
    fn events(list: &[(u32, f64)], times: TimeQuality) -> Snapshot {
        let n = list.len();
        let events = Events {
            ptr: vec![0, n],
            item: list.iter().map(|e| e.0).collect(),
            kind: vec![0; n],
            at: list.iter().map(|e| (e.1 * DAY_MS) as i64).collect(),
            value: vec![1.0; n],
            weight: vec![1.0; n],
        };
        let (users, items) = (Vocab::from_ids(["u"]), Vocab::from_ids(["a", "b", "c", "d"]));
        Snapshot::assemble("t", 0, users, items, vec!["view".into()], times, events)
    }

    fn top(config: &PopularityConfig, snapshot: &Snapshot) -> Vec<(u32, f32)> {
        let model = config.fit(snapshot, &mut FitContext::quiet(0)).unwrap();
        let all = model.retrieve(&ResolvedQuery::default(), 9, &Allowed::everything());
        all.into_iter().map(|c| (c.item.0, c.score)).collect()
    }

    #[test]
    fn counts_decays_and_trends() {
        // a: four events long ago; b: two now; c: one now, one half a life ago; d: none.
        let list = [(0, 0.0), (0, 0.0), (0, 0.0), (0, 0.0), (1, 90.0), (1, 90.0), (2, 90.0), (2, 60.0)];
        let clock = events(&list, TimeQuality::Clock);
        let config = |mode| PopularityConfig { mode, ..PopularityConfig::default() };
        assert_eq!(top(&config(PopularityMode::AllTime), &clock), [(0, 4.0), (1, 2.0), (2, 2.0)]);
        assert_eq!(top(&config(PopularityMode::Decayed), &clock), [(1, 2.0), (2, 1.5), (0, 0.5)]);
        // Window holds b, b, c; expected: 3·(p+1)/(5+4), so 1/3 for b, 2/3 for c, 5/3 for a.
        let trending = top(&config(PopularityMode::Trending), &clock);
        assert_eq!(trending.iter().map(|t| t.0).collect::<Vec<_>>(), [1, 2]);
        assert!((trending[0].1 - (5.0 / 3.0) / (4.0f32 / 3.0).sqrt()).abs() < 1e-6);
        let order_only = events(&list, TimeQuality::Order);
        let refused = config(PopularityMode::Decayed).fit(&order_only, &mut FitContext::quiet(0));
        assert!(refused.unwrap_err().to_string().contains("all_time"));
    }
}

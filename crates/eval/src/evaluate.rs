//! Asks a model every question of a holdout and measures the answers.
//!
//! Cost: full ranking takes what the model's `retrieve_batch` takes; nothing of users × items is ever held, only
//! one block of lists.

use crate::facts::ItemFacts;
use crate::metric::{Case, Definition, Discounts, Metric, Profile, Share};
use crate::stats;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sommelier_core::{Allowed, Candidate, FitContext, ItemIx, ResolvedQuery, Retrieve, Rng, Score, Stopped};
use sommelier_data::{Holdout, Split};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// What is ranked for each case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Candidates {
    /// Every item, less the seen ones.
    #[default]
    Full,
    /// The relevant items and this many others that the user does not have, drawn evenly. Not comparable with
    /// full ranking, and said so in every result.
    Sampled(usize),
    /// Those that came with the data.
    Given,
}

impl FromStr for Candidates {
    type Err = EvalError;
    fn from_str(text: &str) -> Result<Candidates, EvalError> {
        match text.trim().split_once(':') {
            None if text.trim() == "full" => Ok(Candidates::Full),
            None if text.trim() == "given" => Ok(Candidates::Given),
            Some(("sampled", n)) if n.parse::<usize>().is_ok_and(|n| n > 0) => {
                Ok(Candidates::Sampled(n.parse().unwrap_or(1)))
            }
            _ => Err(EvalError::Candidates(text.to_owned())),
        }
    }
}

impl fmt::Display for Candidates {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Candidates::Full => f.write_str("all items"),
            Candidates::Sampled(n) => write!(f, "sampled:{n}"),
            Candidates::Given => f.write_str("given"),
        }
    }
}

/// What to measure and how.
#[derive(Debug, Clone, PartialEq)]
pub struct EvalConfig {
    /// Cut-offs.
    pub at: Vec<usize>,
    pub metrics: Vec<Metric>,
    pub profile: Profile,
    /// Take the user's history out of the ranking.
    pub remove_seen: bool,
    pub candidates: Candidates,
    /// Draws sampled candidates and resamples.
    pub seed: u64,
    /// Resamples for the 95 % intervals; 0 leaves them out.
    pub bootstrap: usize,
}

impl Default for EvalConfig {
    fn default() -> EvalConfig {
        EvalConfig {
            at: vec![10, 20],
            metrics: vec![Metric::Recall, Metric::Ndcg],
            profile: Profile::default(),
            remove_seen: true,
            candidates: Candidates::Full,
            seed: 0,
            bootstrap: 1000,
        }
    }
}

/// Which questions of a split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum On {
    Valid,
    Test,
}

#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    #[error("{split} has no validation part; evaluate on its test part, or split with one")]
    NoValidation { split: String },
    #[error("the model knows {model} items, the split has {split}; fit it on this split's training part")]
    Items { model: usize, split: usize },
    #[error("cut-offs must be one or more numbers of at least 1, received {0:?}")]
    CutOffs(Vec<usize>),
    #[error("no metrics were asked for; name some, such as recall,ndcg")]
    NoMetrics,
    #[error("expected full, sampled:N or given, received {0:?}")]
    Candidates(String),
    #[error("{0} came without candidates; rank all items, or sampled:N")]
    NoCandidates(String),
    #[error("{name} has candidates for some users and none for user {user:?}; rank all items, or sampled:N")]
    SomeCandidates { name: String, user: String },
    #[error(
        "{count} targets are in their own user's history (user {user:?}, item {item:?}) and would be removed as seen; \
         keep seen items in the ranking, or split without +repeats"
    )]
    SeenTarget { user: String, item: String, count: usize },
    #[error(
        "{metric} compares scores with ratings, and this model's scores are no ratings; measure recall or ndcg, or \
         train a model that predicts ratings, such as rating_knn"
    )]
    NoRatings { metric: Metric },
    #[error("the model answered {what} for user {user:?}; this is a fault in the model")]
    BadAnswer { what: String, user: String },
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

/// One metric, with its 95 % interval over users where it is a mean over users.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MetricValue {
    pub value: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub low: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub high: Option<f64>,
    pub definition: Definition,
}

/// The result: metrics by key (`recall@10`), and the values of each user behind them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    pub metrics: BTreeMap<String, MetricValue>,
    /// One value per case, in the order of the holdout's cases. Not stored.
    #[serde(skip)]
    pub per_user: BTreeMap<String, Vec<f64>>,
    pub users: usize,
}

/// Cases answered at once: enough for one matrix product, small enough to hold.
const BLOCK: usize = 512;

/// Ranks for every case of the split's part and measures. Runs on the current rayon pool.
pub fn evaluate<M>(
    model: &M,
    split: &Split,
    on: On,
    config: &EvalConfig,
    ctx: &FitContext,
) -> Result<Evaluation, EvalError>
where
    M: Score + Retrieve + ?Sized,
{
    let holdout = match on {
        On::Test => &split.test,
        On::Valid => {
            split.valid.as_ref().ok_or_else(|| EvalError::NoValidation { split: split.name.clone() })?
        }
    };
    check(model, holdout, config)?;
    let job = Job::new(holdout, split, config);
    let mut tally = Tally::new(&job);
    ctx.progress.start("evaluate", Some(holdout.cases() as u64));
    for first in (0..holdout.cases()).step_by(BLOCK) {
        ctx.cancel.check()?;
        let cases: Vec<usize> = (first..holdout.cases().min(first + BLOCK)).collect();
        tally.add(&job, job.answer(model, &cases)?);
        ctx.progress.at((first + cases.len()) as u64);
    }
    ctx.progress.finish();
    Ok(tally.finish(&job, split, on))
}

fn check<M: Score + ?Sized>(model: &M, holdout: &Holdout, config: &EvalConfig) -> Result<(), EvalError> {
    let items = holdout.history.items.len();
    if model.items() != items {
        return Err(EvalError::Items { model: model.items(), split: items });
    }
    if config.at.is_empty() || config.at.contains(&0) {
        return Err(EvalError::CutOffs(config.at.clone()));
    }
    if config.metrics.is_empty() {
        return Err(EvalError::NoMetrics);
    }
    if let Some(&metric) = config.metrics.iter().find(|m| m.is_of_ratings())
        && !model.rates()
    {
        return Err(EvalError::NoRatings { metric });
    }
    if config.candidates == Candidates::Given && holdout.candidates.is_none() {
        return Err(EvalError::NoCandidates(holdout.history.name.clone()));
    }
    if let (Candidates::Given, Some(given)) = (config.candidates, &holdout.candidates)
        && let Some(case) = given.iter().position(Vec::is_empty)
    {
        let user = holdout.history.users.id(holdout.users[case]).to_owned();
        return Err(EvalError::SomeCandidates { name: holdout.history.name.clone(), user });
    }
    if config.remove_seen {
        let seen_target = |case: usize| {
            let events = &holdout.history.events;
            let seen = events.of(holdout.users[case] as usize).map(|e| events.item[e]);
            seen.filter(|item| holdout.targets_of(case).binary_search(item).is_ok())
                .min()
                .map(|item| (case, item))
        };
        let seen: Vec<(usize, u32)> = (0..holdout.cases()).into_par_iter().filter_map(seen_target).collect();
        if let Some(&(case, item)) = seen.first() {
            return Err(EvalError::SeenTarget {
                user: holdout.history.users.id(holdout.users[case]).to_owned(),
                item: holdout.history.items.id(item).to_owned(),
                count: seen.len(),
            });
        }
    }
    Ok(())
}

/// A metric at a cut-off.
#[derive(Debug, Clone)]
struct Column {
    key: String,
    metric: Metric,
    k: usize,
}

/// What stays the same over all blocks.
struct Job<'a> {
    holdout: &'a Holdout,
    config: &'a EvalConfig,
    facts: Option<ItemFacts>,
    discounts: Discounts,
    items: usize,
    longest: usize,
    /// Metrics that are means over users, then those of all lists together.
    per_user: Vec<Column>,
    overall: Vec<Column>,
    needs_auc: bool,
    /// Lowest and highest training weight, where errors of ratings are measured.
    scale: Option<(f32, f32)>,
}

/// What of a case is not in its list.
struct Aside {
    auc: Option<f64>,
    /// Means over the targets of the errors of ratings, and of their squares; 0 where nobody asked.
    error: f64,
    squared_error: f64,
}

/// One case answered: its list, and how it was judged.
struct Answer {
    list: Vec<u32>,
    shares: Vec<Share>,
}

impl<'a> Job<'a> {
    fn new(holdout: &'a Holdout, split: &Split, config: &'a EvalConfig) -> Job<'a> {
        let items = holdout.history.items.len();
        let longest = config.at.iter().copied().max().unwrap_or(1);
        let mut at = config.at.clone();
        at.sort_unstable();
        at.dedup();
        let mut columns: Vec<Column> = Vec::new();
        for &metric in &config.metrics {
            for &k in &at {
                let key = metric.key(config.profile, k);
                if !columns.iter().any(|c| c.key == key) {
                    columns.push(Column { key, metric, k });
                }
            }
        }
        let needs_facts = columns
            .iter()
            .any(|c| matches!(c.metric, Metric::Novelty | Metric::Diversity | Metric::Popularity));
        let needs_auc = config.metrics.contains(&Metric::Auc) && config.profile != Profile::Implicit;
        let scale = config.metrics.iter().any(|m| m.is_of_ratings()).then(|| {
            let weights = split.train.events.weight.iter().filter(|w| **w > 0.0);
            weights.fold((f32::MAX, f32::MIN), |(low, high), &w| (low.min(w), high.max(w)))
        });
        let (per_user, overall) = columns.into_iter().partition(|c| c.metric.is_per_user());
        Job {
            holdout,
            config,
            facts: needs_facts.then(|| ItemFacts::of(&split.train)),
            // LensKit's and RecTools' ideals look past a short catalogue, so the table is as long as the cut-off.
            discounts: Discounts::new(config.profile, longest),
            items,
            longest,
            per_user,
            overall,
            needs_auc,
            scale,
        }
    }

    fn seen(&self, case: usize) -> Vec<u32> {
        let events = &self.holdout.history.events;
        let mut seen: Vec<u32> =
            events.of(self.holdout.users[case] as usize).map(|e| events.item[e]).collect();
        seen.sort_unstable();
        seen.dedup();
        seen
    }

    fn removed(&self, case: usize) -> Vec<u32> {
        if self.config.remove_seen { self.seen(case) } else { Vec::new() }
    }

    fn answer<M: Score + Retrieve + ?Sized>(
        &self,
        model: &M,
        cases: &[usize],
    ) -> Result<Vec<Answer>, EvalError> {
        let queries: Vec<ResolvedQuery> = cases.par_iter().map(|&case| self.holdout.query(case)).collect();
        if self.config.candidates != Candidates::Full {
            return cases
                .par_iter()
                .zip(&queries)
                .map(|(&case, q)| self.rank_candidates(model, case, q))
                .collect();
        }
        let allowed: Vec<Allowed> = cases
            .par_iter()
            .map(|&case| Allowed::everything().without(self.removed(case).into_iter().map(ItemIx)))
            .collect();
        let lists = if self.config.metrics.iter().all(|m| m.is_of_ratings()) {
            vec![Vec::new(); cases.len()]
        } else {
            model.retrieve_batch(&queries, self.longest, &allowed)
        };
        if lists.len() != cases.len() {
            let user = self.user(cases[0]);
            return Err(EvalError::BadAnswer {
                what: format!("{} lists to {}", lists.len(), cases.len()),
                user,
            });
        }
        let judge =
            |((&case, list), (query, allowed)): ((&usize, &Vec<Candidate>), (&ResolvedQuery, &Allowed))| {
                self.check_list(case, list, allowed)?;
                let auc = if self.needs_auc { Some(self.full_auc(model, case, query)?) } else { None };
                let aside = self.aside(model, case, query, auc)?;
                Ok(self.judge(case, list.iter().map(|c| c.item.0).collect(), self.items, &aside))
            };
        cases.par_iter().zip(&lists).zip(queries.par_iter().zip(&allowed)).map(judge).collect()
    }

    /// A list of seen, repeated or unknown items would be measured as if nothing were wrong.
    fn check_list(&self, case: usize, list: &[Candidate], allowed: &Allowed) -> Result<(), EvalError> {
        let bad = |what: &str| EvalError::BadAnswer { what: what.to_owned(), user: self.user(case) };
        if list.len() > self.longest {
            return Err(bad("more items than asked for"));
        }
        let mut ids: Vec<u32> = list.iter().map(|c| c.item.0).collect();
        ids.sort_unstable();
        if ids.windows(2).any(|w| w[0] == w[1]) {
            return Err(bad("the same item twice"));
        }
        if list.iter().any(|c| c.item.ix() >= self.items || !allowed.contains(c.item)) {
            return Err(bad("an item that was not allowed"));
        }
        if list.iter().any(|c| c.score.is_nan()) {
            return Err(bad("a score that is not a number"));
        }
        Ok(())
    }

    fn user(&self, case: usize) -> String {
        self.holdout.history.users.id(self.holdout.users[case]).to_owned()
    }

    fn judge(&self, case: usize, list: Vec<u32>, items: usize, aside: &Aside) -> Answer {
        let targets = self.holdout.targets_of(case);
        let hits: Vec<bool> = list.iter().map(|item| targets.binary_search(item).is_ok()).collect();
        let judged = Case { hits: &hits, relevant: targets.len(), items };
        let share = |column: &Column| {
            if let Some(share) = judged.share(column.metric, self.config.profile, column.k, &self.discounts) {
                return share;
            }
            let top = &list[..list.len().min(column.k)];
            let facts = self.facts.as_ref();
            let value = match column.metric {
                Metric::Novelty => facts.map_or(0.0, |f| f.novelty(top)),
                Metric::Diversity => facts.map_or(0.0, |f| f.diversity(top)),
                Metric::Popularity => facts.map_or(0.0, |f| f.mean_popularity(top)),
                Metric::Rmse => aside.squared_error,
                Metric::Mae => aside.error,
                _ => aside.auc.unwrap_or(0.5),
            };
            // Errors are means over all ratings, and RecBole's AUC weighs users by their positives.
            let weighted = column.metric.is_of_ratings()
                || (column.metric == Metric::Auc && self.config.profile == Profile::Recbole);
            let of = if weighted { targets.len() as f64 } else { 1.0 };
            Share { part: value * of, of }
        };
        let shares = self.per_user.iter().map(share).collect();
        Answer { list, shares }
    }

    fn rank_candidates<M: Score + ?Sized>(
        &self,
        model: &M,
        case: usize,
        q: &ResolvedQuery,
    ) -> Result<Answer, EvalError> {
        let mut items = match (self.config.candidates, &self.holdout.candidates) {
            (Candidates::Given, Some(given)) => {
                let removed = self.removed(case);
                let mut items = given[case].clone();
                items.extend_from_slice(self.holdout.targets_of(case));
                items.retain(|item| removed.binary_search(item).is_err());
                items
            }
            (Candidates::Sampled(n), _) => self.sample(case, n),
            _ => (0..self.items as u32).collect(),
        };
        items.sort_unstable();
        items.dedup();
        let items: Vec<ItemIx> = items.into_iter().map(ItemIx).collect();
        let scores = self.scores(model, case, q, &items)?;
        let auc = self.needs_auc.then(|| auc(&items, &scores, self.holdout.targets_of(case), &[]));
        let mut order: Vec<usize> = (0..items.len()).collect();
        // Candidates are ascending and the sort is stable: equal scores keep the lower index first.
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
        let list = order.iter().take(self.longest).map(|&i| items[i].0).collect();
        let aside = self.aside(model, case, q, auc)?;
        Ok(self.judge(case, list, items.len(), &aside))
    }

    /// Adds the errors of ratings to the AUC.
    fn aside<M: Score + ?Sized>(
        &self,
        model: &M,
        case: usize,
        q: &ResolvedQuery,
        auc: Option<f64>,
    ) -> Result<Aside, EvalError> {
        let mut aside = Aside { auc, error: 0.0, squared_error: 0.0 };
        let Some((lowest, highest)) = self.scale else { return Ok(aside) };
        let targets: Vec<ItemIx> = self.holdout.targets_of(case).iter().map(|&i| ItemIx(i)).collect();
        let scores = self.scores(model, case, q, &targets)?;
        for (score, worth) in scores.iter().zip(self.holdout.worth_of(case)) {
            let e = f64::from(score.max(lowest).min(highest) - worth);
            aside.error += e.abs() / targets.len() as f64;
            aside.squared_error += e * e / targets.len() as f64;
        }
        Ok(aside)
    }

    /// The targets and `n` others that the user does not have; all of them where there are not that many.
    fn sample(&self, case: usize, n: usize) -> Vec<u32> {
        let mut items = self.holdout.targets_of(case).to_vec();
        let mut taken = self.seen(case);
        taken.extend_from_slice(&items);
        taken.sort_unstable();
        taken.dedup();
        let free = self.items - taken.len();
        let mut rng = Rng::stream(self.config.seed, u64::from(self.holdout.users[case]));
        if n * 2 >= free {
            let mut rest: Vec<u32> =
                (0..self.items as u32).filter(|item| taken.binary_search(item).is_err()).collect();
            rng.shuffle(&mut rest);
            items.extend(rest.into_iter().take(n));
            return items;
        }
        let mut drawn: Vec<u32> = Vec::with_capacity(n);
        while drawn.len() < n {
            let item = rng.below(self.items) as u32;
            if taken.binary_search(&item).is_err() && !drawn.contains(&item) {
                drawn.push(item);
            }
        }
        items.append(&mut drawn);
        items
    }

    fn scores<M: Score + ?Sized>(
        &self,
        model: &M,
        case: usize,
        q: &ResolvedQuery,
        items: &[ItemIx],
    ) -> Result<Vec<f32>, EvalError> {
        let mut scores = vec![0.0; items.len()];
        model.score(q, items, &mut scores);
        if scores.iter().any(|s| s.is_nan()) {
            let what = "a score that is not a number".to_owned();
            return Err(EvalError::BadAnswer { what, user: self.user(case) });
        }
        Ok(scores)
    }

    fn full_auc<M: Score + ?Sized>(
        &self,
        model: &M,
        case: usize,
        q: &ResolvedQuery,
    ) -> Result<f64, EvalError> {
        let items: Vec<ItemIx> = (0..self.items as u32).map(ItemIx).collect();
        let scores = self.scores(model, case, q, &items)?;
        Ok(auc(&items, &scores, self.holdout.targets_of(case), &self.removed(case)))
    }
}

/// Share of (target, other) pairs in the right order, ties half; 0.5 where there is no other item.
fn auc(items: &[ItemIx], scores: &[f32], targets: &[u32], removed: &[u32]) -> f64 {
    let is_target = |item: &ItemIx| targets.binary_search(&item.0).is_ok();
    let mut wanted: Vec<f32> =
        items.iter().zip(scores).filter(|(i, _)| is_target(i)).map(|(_, &s)| s).collect();
    wanted.sort_by(f32::total_cmp);
    let (mut right, mut others) = (0.0, 0usize);
    for (item, &score) in items.iter().zip(scores) {
        if is_target(item) || removed.binary_search(&item.0).is_ok() {
            continue;
        }
        others += 1;
        let below_or_same = wanted.partition_point(|&t| t <= score);
        let below = wanted.partition_point(|&t| t < score);
        right += (wanted.len() - below_or_same) as f64 + (below_or_same - below) as f64 / 2.0;
    }
    if others == 0 || wanted.is_empty() { 0.5 } else { right / (others * wanted.len()) as f64 }
}

/// Everything added up so far.
struct Tally {
    /// `per_user` values per case, case by case.
    shares: Vec<Share>,
    /// How often each item is listed, per column of all lists together.
    listed: Vec<Vec<u64>>,
}

impl Tally {
    fn new(job: &Job) -> Tally {
        Tally { shares: Vec::new(), listed: vec![vec![0; job.items]; job.overall.len()] }
    }

    fn add(&mut self, job: &Job, answers: Vec<Answer>) {
        for answer in answers {
            for (column, counts) in job.overall.iter().zip(&mut self.listed) {
                answer.list.iter().take(column.k).for_each(|&item| counts[item as usize] += 1);
            }
            self.shares.extend(answer.shares);
        }
    }

    fn finish(self, job: &Job, split: &Split, on: On) -> Evaluation {
        let columns = job.per_user.len();
        let users = job.holdout.cases();
        let intervals = stats::bootstrap(&self.shares, columns, job.config.bootstrap, job.config.seed);
        let mut metrics = BTreeMap::new();
        let mut per_user = BTreeMap::new();
        for (c, column) in job.per_user.iter().enumerate() {
            let own = || self.shares.iter().skip(c).step_by(columns.max(1));
            let (part, of) = own().fold((0.0, 0.0), |(part, of), s| (part + s.part, of + s.of));
            let root = |mean: f64| if column.metric == Metric::Rmse { mean.sqrt() } else { mean };
            let value = MetricValue {
                value: if of > 0.0 { root(part / of) } else { 0.0 },
                low: intervals.get(c).map(|i| root(i.0)),
                high: intervals.get(c).map(|i| root(i.1)),
                definition: job.definition(column, split, on),
            };
            metrics.insert(column.key.clone(), value);
            per_user.insert(column.key.clone(), own().map(|s| root(s.part / s.of)).collect());
        }
        for (column, counts) in job.overall.iter().zip(&self.listed) {
            let value = match (column.metric, job.config.profile) {
                (Metric::Gini, _) => gini(counts),
                (_, Profile::Rectools) => counts.iter().filter(|n| **n > 0).count() as f64,
                _ => counts.iter().filter(|n| **n > 0).count() as f64 / job.items.max(1) as f64,
            };
            let definition = job.definition(column, split, on);
            metrics.insert(column.key.clone(), MetricValue { value, low: None, high: None, definition });
        }
        Evaluation { metrics, per_user, users }
    }
}

impl Job<'_> {
    fn definition(&self, column: &Column, split: &Split, on: On) -> Definition {
        let config = self.config;
        let mut variant = column.metric.variant(config.profile).to_owned();
        if column.metric == Metric::Diversity {
            variant.push_str(": ");
            variant.push_str(self.facts.as_ref().map_or("", ItemFacts::likeness));
        }
        Definition {
            metric: column.metric,
            variant,
            profile: config.profile,
            cut_off: column.metric.has_cut_off(config.profile).then_some(column.k),
            candidates: config.candidates.to_string(),
            split: split.name.clone(),
            on: if on == On::Test { "test" } else { "validation" }.to_owned(),
            seen_removed: config.remove_seen,
            users: self.holdout.cases(),
            ties: if column.metric == Metric::Auc && self.needs_auc { "half" } else { "lower index first" }
                .to_owned(),
            seed: config.seed,
            snapshot: format!("{}@{}", self.holdout.history.name, self.holdout.history.offset),
        }
    }
}

/// Gini coefficient of the counts, items that were never listed included.
fn gini(counts: &[u64]) -> f64 {
    let mut sorted = counts.to_vec();
    sorted.sort_unstable();
    let (n, total) = (sorted.len() as f64, sorted.iter().sum::<u64>() as f64);
    if total == 0.0 {
        return 0.0;
    }
    sorted.iter().zip(1..).map(|(&count, rank)| (2.0 * f64::from(rank) - n - 1.0) * count as f64).sum::<f64>()
        / (n * total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sommelier_data::{Snapshot, SplitSpec};

    /// Scores by a fixed table, one row per user: what the metrics must make of known rankings.
    struct Table(Vec<Vec<f32>>);

    impl Score for Table {
        fn items(&self) -> usize {
            self.0[0].len()
        }
        fn score(&self, q: &ResolvedQuery, items: &[ItemIx], out: &mut [f32]) {
            let row = &self.0[q.user.expect("a user").ix()];
            items.iter().zip(out).for_each(|(item, out)| *out = row[item.ix()]);
        }
    }

    impl Retrieve for Table {
        fn retrieve(&self, q: &ResolvedQuery, k: usize, allowed: &Allowed) -> Vec<Candidate> {
            let row = &self.0[q.user.expect("a user").ix()];
            let mut all: Vec<Candidate> = (0..row.len())
                .map(|i| Candidate { item: ItemIx(i as u32), score: row[i] })
                .filter(|c| allowed.contains(c.item))
                .collect();
            all.sort_by(|a, b| b.score.total_cmp(&a.score));
            all.truncate(k);
            all
        }
    }

    /// Users a and b have trained on i0, are validated on i1 and tested on i2 (a) and i3 (b); five items.
    fn split() -> Split {
        let pairs = [("a", "0"), ("a", "1"), ("a", "2"), ("b", "0"), ("b", "1"), ("b", "3"), ("c", "4")];
        "loo".parse::<SplitSpec>().unwrap().apply(&Snapshot::from_pairs("five", &pairs), 0, false).unwrap()
    }

    fn config(metrics: &[Metric], at: &[usize]) -> EvalConfig {
        EvalConfig { metrics: metrics.to_vec(), at: at.to_vec(), bootstrap: 100, ..EvalConfig::default() }
    }

    fn run(rows: Vec<Vec<f32>>, config: &EvalConfig) -> Result<Evaluation, EvalError> {
        evaluate(&Table(rows), &split(), On::Test, config, &FitContext::quiet(1))
    }

    /// a: items left 2, 3, 4 in the order 4, 2, 3 (hit at 2). b: the order 3, 2, 4 (hit at 1). Item 0 and 1 seen.
    fn known() -> Vec<Vec<f32>> {
        vec![vec![9.0, 9.0, 2.0, 1.0, 3.0], vec![9.0, 9.0, 2.0, 3.0, 1.0], vec![0.0; 5]]
    }

    #[test]
    fn known_rankings_give_known_numbers() {
        let metrics =
            [Metric::Recall, Metric::Mrr, Metric::Ndcg, Metric::Auc, Metric::Coverage, Metric::Gini];
        let found = run(known(), &config(&metrics, &[1, 2])).unwrap();
        let value = |key: &str| found.metrics[key].value;
        assert_eq!((value("recall@1"), value("recall@2"), value("mrr@2")), (0.5, 1.0, 0.75));
        assert!((value("ndcg@2") - f64::midpoint(1.0, 1.0 / 3f64.log2())).abs() < 1e-12);
        assert_eq!(value("auc"), 0.75, "a: one of two others is below; b: both");
        // Lists (4, 2) and (3, 2): three of five items; counts 0 0 1 1 2, Gini (−4·0 −2·0 + 0·1 + 2·1 + 4·2) / (5·4).
        assert_eq!((value("coverage@2"), value("gini@2")), (0.6, 0.5));
        assert_eq!(found.per_user["recall@1"], [0.0, 1.0]);
        let definition = &found.metrics["recall@1"].definition;
        assert_eq!((definition.users, definition.split.as_str(), definition.on.as_str()), (2, "loo", "test"));
        assert_eq!(definition.candidates, "all items");
        let interval = &found.metrics["recall@1"];
        assert!(interval.low < Some(0.5) && interval.high > Some(0.5));
    }

    #[test]
    fn seen_items_count_only_when_kept() {
        let kept = EvalConfig { remove_seen: false, ..config(&[Metric::Recall], &[2]) };
        assert_eq!(
            run(known(), &kept).unwrap().metrics["recall@2"].value,
            0.0,
            "both places go to seen items"
        );
    }

    #[test]
    fn candidates_are_ranked_alone() {
        let all = EvalConfig {
            candidates: Candidates::Sampled(50),
            ..config(&[Metric::Recall, Metric::Auc], &[1])
        };
        let found = run(known(), &all).unwrap();
        assert_eq!(
            (found.metrics["recall@1"].value, found.metrics["auc"].value),
            (0.5, 0.75),
            "few items: all of them"
        );
        assert_eq!(found.metrics["recall@1"].definition.candidates, "sampled:50");
        let mut given = split();
        given.test.candidates = Some(vec![vec![2, 3], vec![3, 4]]);
        let asked = EvalConfig { candidates: Candidates::Given, ..config(&[Metric::Recall], &[1]) };
        let found = evaluate(&Table(known()), &given, On::Test, &asked, &FitContext::quiet(1)).unwrap();
        assert_eq!(found.metrics["recall@1"].value, 1.0, "item 4 is no candidate of a");
        assert!(matches!(run(known(), &asked), Err(EvalError::NoCandidates(_))));
    }

    #[test]
    fn sampling_draws_strangers_and_repeats_under_a_seed() {
        let pairs: Vec<(String, String)> =
            (0..20).flat_map(|u| (0..5).map(move |i| (format!("u{u}"), format!("i{}", u * 7 + i)))).collect();
        let refs: Vec<(&str, &str)> = pairs.iter().map(|(u, i)| (&**u, &**i)).collect();
        let split =
            "loo".parse::<SplitSpec>().unwrap().apply(&Snapshot::from_pairs("t", &refs), 0, false).unwrap();
        let config = EvalConfig { candidates: Candidates::Sampled(10), ..EvalConfig::default() };
        let job = Job::new(&split.test, &split, &config);
        for case in 0..split.test.cases() {
            let drawn = job.sample(case, 10);
            assert_eq!(drawn, job.sample(case, 10));
            assert_eq!(drawn.len(), 11);
            let mut distinct = drawn.clone();
            distinct.sort_unstable();
            distinct.dedup();
            assert_eq!(distinct.len(), 11);
            assert!(drawn.iter().all(|item| job.seen(case).binary_search(item).is_err()));
        }
    }

    #[test]
    fn faults_are_refused_in_words() {
        let plain = config(&[Metric::Recall], &[2]);
        let short = run(vec![vec![0.0; 4]; 3], &plain).unwrap_err();
        assert!(matches!(short, EvalError::Items { model: 4, split: 5 }), "{short}");
        assert!(matches!(run(known(), &config(&[Metric::Recall], &[0])), Err(EvalError::CutOffs(_))));
        assert!(matches!(run(known(), &config(&[], &[1])), Err(EvalError::NoMetrics)));
        let mut nan = known();
        nan[0][2] = f32::NAN;
        assert!(matches!(run(nan, &plain), Err(EvalError::BadAnswer { .. })));
        let mut repeated = split();
        repeated.test.targets[0] = 0;
        let seen = evaluate(&Table(known()), &repeated, On::Test, &plain, &FitContext::quiet(1)).unwrap_err();
        assert!(matches!(seen, EvalError::SeenTarget { count: 1, .. }), "{seen}");
        let ctx = FitContext::quiet(1);
        ctx.cancel.cancel();
        assert!(matches!(
            evaluate(&Table(known()), &split(), On::Test, &plain, &ctx),
            Err(EvalError::Stopped(_))
        ));
        let without = Split { valid: None, ..split() };
        let error =
            evaluate(&Table(known()), &without, On::Valid, &plain, &FitContext::quiet(1)).unwrap_err();
        assert!(matches!(error, EvalError::NoValidation { .. }));
    }

    /// The same table, said to hold ratings.
    struct Ratings(Table);

    impl Score for Ratings {
        fn items(&self) -> usize {
            self.0.items()
        }
        fn score(&self, q: &ResolvedQuery, items: &[ItemIx], out: &mut [f32]) {
            self.0.score(q, items, out);
        }
        fn rates(&self) -> bool {
            true
        }
    }

    impl Retrieve for Ratings {
        fn retrieve(&self, q: &ResolvedQuery, k: usize, allowed: &Allowed) -> Vec<Candidate> {
            self.0.retrieve(q, k, allowed)
        }
    }

    /// Training weights 2 to 4, so 9 is cut to 4. Targets: a gave item 2 a 3 and got 9 (error 1), b gave item 3 a 2
    /// and got 3.5 (error 1.5).
    #[test]
    fn errors_of_ratings_by_hand() {
        let mut split = split();
        split.test.worth = vec![3.0, 2.0];
        let mut events = (*split.train.events).clone();
        events.weight = vec![2.0, 4.0, 3.0];
        split.train = split.train.with_events(events);
        let rows = vec![vec![0.0, 0.0, 9.0, 0.0, 0.0], vec![0.0, 0.0, 0.0, 3.5, 0.0], vec![0.0; 5]];
        let config = config(&[Metric::Rmse, Metric::Mae], &[10]);
        let model = Ratings(Table(rows));
        let found = evaluate(&model, &split, On::Test, &config, &FitContext::quiet(1)).unwrap();
        assert_eq!(found.metrics["mae"].value, 1.25);
        assert!((found.metrics["rmse"].value - (3.25f64 / 2.0).sqrt()).abs() < 1e-12);
        assert_eq!(found.per_user["rmse"], [1.0, 1.5]);
        let interval = &found.metrics["rmse"];
        assert!(interval.low >= Some(1.0) && interval.high <= Some(1.5) && interval.low < interval.high);
        assert_eq!(interval.definition.cut_off, None);
        let refused = evaluate(&model.0, &split, On::Test, &config, &FitContext::quiet(1)).unwrap_err();
        assert!(refused.to_string().contains("rating_knn"), "{refused}");
    }

    #[test]
    fn auc_by_hand() {
        let items: Vec<ItemIx> = (0..5).map(ItemIx).collect();
        // Targets 0 (score 3) and 1 (score 1); others 3 → beaten by none (tie with 0), 2, 0; item 4 removed.
        let value = auc(&items, &[3.0, 1.0, 3.0, 2.0, 9.0], &[0, 1], &[4]);
        assert_eq!(value, 1.5 / 4.0, "0 ties with 2 and beats 3; 1 beats neither");
    }

    #[test]
    fn gini_bounds() {
        assert_eq!(gini(&[3, 3, 3]), 0.0);
        assert!((gini(&[0, 0, 0, 12]) - 0.75).abs() < 1e-12);
        assert_eq!(gini(&[0, 0]), 0.0);
    }

    #[test]
    fn candidate_names_read() {
        assert_eq!("sampled:100".parse::<Candidates>().unwrap(), Candidates::Sampled(100));
        assert_eq!("full".parse::<Candidates>().unwrap(), Candidates::Full);
        assert!("sampled:0".parse::<Candidates>().is_err());
        assert!("some".parse::<Candidates>().is_err());
    }
}

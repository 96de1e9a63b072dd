//! Alignment with preferences: a model that writes what people take learns to write what they like better.
//!
//! In each round the model writes `candidates` items for each person, a reward model that was fitted on the same feedback scores
//! them, and the best w and the worst l are a pair. With π the model and π_0 what it was when the round began,
//! loss = mean of −log σ(β (log π(w)/π_0(w) − log π(l)/π_0(l))), log π(i) = Σ_l log p(c_l | c_1 … c_{l−1}, history).
//! A round after which the validation metric is more than `fall` below what it was before the first is taken back, and is the last.
//!
//! Cost: a beam search and a score of `candidates` items a person and round; twice a step of training a pair.
//! Sources: Rafailov et al., "Direct Preference Optimization", NeurIPS 2023, arXiv:2305.18290, eq. 7; pairs of its own answers, round
//! after round, and by a reward model: Yuan et al., "Self-Rewarding Language Models", ICML 2024, arXiv:2401.10020, and Deng et al.,
//! "OneRec", 2025, arXiv:2502.18965.
//! Departures: nothing is dropped out, so that π_0 is what the pairs were written with; the pair is the best and the worst of a beam.

use super::fit::Lessons;
use super::known::Known;
use super::{Architecture, Network};
use crate::model::require;
use crate::{FitError, ModelConfig};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sommelier_core::{Allowed, FitContext, ItemIx, Retrieve, Rng, Stopped};
use sommelier_data::Snapshot;
use sommelier_nn::optim::Schedule;
use sommelier_nn::train::{Learner, Settings, train};
use sommelier_nn::{Params, Ragged, Tape, Tensor, Var, Workspace};
use std::sync::Arc;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Align {
    /// What says which of two items somebody likes better; fitted on the same events.
    pub reward: Box<ModelConfig>,
    #[serde(default = "rounds")]
    pub rounds: usize,
    /// People asked in a round, at most.
    #[serde(default = "people")]
    pub people: usize,
    /// Items written for each of them.
    #[serde(default = "candidates")]
    pub candidates: usize,
    /// How much is made of a difference from what the model was.
    #[serde(default = "beta")]
    pub beta: f32,
    #[serde(default = "learning_rate")]
    pub learning_rate: f32,
    /// Share of the validation metric that may be lost.
    #[serde(default = "fall")]
    pub fall: f64,
}

fn rounds() -> usize {
    2
}

fn people() -> usize {
    10_000
}

fn candidates() -> usize {
    10
}

fn beta() -> f32 {
    0.1
}

fn learning_rate() -> f32 {
    1e-4
}

fn fall() -> f64 {
    0.02
}

impl Align {
    fn check(&self) -> Result<(), FitError> {
        require("align.rounds", self.rounds as f64, self.rounds > 0, "at least 1")?;
        require("align.people", self.people as f64, self.people > 0, "at least 1")?;
        require("align.candidates", self.candidates as f64, self.candidates > 1, "at least 2")?;
        require("align.beta", self.beta.into(), self.beta > 0.0, "a finite number above 0")?;
        let rate = self.learning_rate;
        require("align.learning_rate", rate.into(), rate > 0.0, "a finite number above 0")?;
        require("align.fall", self.fall, (0.0..1.0).contains(&self.fall), "at least 0 and below 1")
    }
}

/// A person's history, two items that the model wrote for it, the better one first, and the logarithm of how much likelier it wrote
/// the first.
struct Pair {
    read: Vec<u32>,
    items: [u32; 2],
    before: f32,
}

/// Aligns parameters that were fitted.
pub(super) fn align<A: Architecture>(
    how: &Align,
    fitted: &Lessons<'_, A>,
    snapshot: &Snapshot,
    params: &mut Params,
) -> Result<(), FitError> {
    how.check()?;
    let ctx = FitContext { checkpoints: None, validate: None, ..fitted.ctx.clone() };
    let Some(before) = fitted.validate(params)? else {
        return Err(FitError::NoData(
            "align is guarded by a validation part, and nothing is held out here: leave align away, or use a split with one".into(),
        ));
    };
    let reward = how.reward.fit(snapshot, &mut ctx.clone())?;
    let metric = fitted.metric();
    for round in 1..=how.rounds {
        let model = fitted.model(params);
        let mut people: Vec<usize> =
            (0..snapshot.users.len()).filter(|&user| !snapshot.events.of(user).is_empty()).collect();
        Rng::stream(fitted.seed ^ 0xa119, round as u64).shuffle(&mut people);
        people.truncate(how.people);
        ctx.progress.start("pairs", Some(people.len() as u64));
        let pair = |&user: &usize| -> Result<Option<Pair>, Stopped> {
            ctx.cancel.check()?;
            let q = snapshot.query(user);
            let allowed = Allowed::everything().without(q.history.iter().map(|seen| seen.item));
            let written = model.retrieve(&q, how.candidates, &allowed);
            let items: Vec<ItemIx> = written.iter().map(|c| c.item).collect();
            let mut liked = vec![0f32; items.len()];
            reward.score(&q, &items, &mut liked);
            let order = |a: &usize, b: &usize| liked[*a].total_cmp(&liked[*b]).then(b.cmp(a));
            let (best, worst) = ((0..items.len()).max_by(order), (0..items.len()).min_by(order));
            let (Some(w), Some(l)) = (best, worst) else { return Ok(None) };
            let read: Vec<u32> = model.reads_of(&q).iter().map(|item| item.0).collect();
            if liked[w] <= liked[l] || read.is_empty() {
                return Ok(None);
            }
            let before = written[w].score - written[l].score;
            Ok(Some(Pair { read, items: [items[w].0, items[l].0], before }))
        };
        let pairs: Result<Vec<Option<Pair>>, Stopped> = people.par_iter().map(pair).collect();
        let pairs: Vec<Pair> = pairs?.into_iter().flatten().collect();
        ctx.progress.finish();
        if pairs.is_empty() {
            ctx.progress.say(
                "align: the reward tells no two items apart that are written, so there is nothing to learn",
            );
            return Ok(());
        }
        let kept = params.clone();
        let count = pairs.len();
        let mut learner = Pairs {
            all: pairs,
            batch: fitted.config.reading().batch,
            beta: how.beta,
            known: &fitted.known,
            net: &*fitted.net,
        };
        let settings = Settings {
            epochs: 1,
            learning_rate: how.learning_rate,
            schedule: Schedule::FLAT,
            ..fitted.config.training().clone()
        };
        train(&mut learner, params, &settings, "align", &ctx)?;
        let after = fitted.validate(params)?.unwrap_or(0.0);
        let right = learner.right(params);
        ctx.progress.say(&format!(
            "align, round {round}: {count} pairs, {:.1} % of them told apart better than before; {metric} {before:.4} at first, \
             now {after:.4}",
            100.0 * right
        ));
        if after < before * (1.0 - how.fall) {
            ctx.progress.say(&format!("align: round {round} is taken back, {metric} fell too far"));
            *params = kept;
            return Ok(());
        }
    }
    Ok(())
}

/// Learns from pairs.
struct Pairs<'a> {
    all: Vec<Pair>,
    batch: usize,
    beta: f32,
    known: &'a Arc<Known>,
    net: &'a dyn Network,
}

impl Pairs<'_> {
    /// β times how much further apart each pair is than it was (n × 1 on the tape).
    fn margins(&self, tape: &mut Tape, pairs: &[Pair]) -> Var {
        let mut items = Vec::new();
        let mut lengths = Vec::with_capacity(2 * pairs.len());
        for pair in pairs {
            for item in pair.items {
                items.extend_from_slice(&pair.read);
                items.push(item);
                lengths.push(pair.read.len() + 1);
            }
        }
        let now = self.net.log_probability(tape, self.known, &items, &Ragged::of(lengths));
        let now = tape.reshape(now, pairs.len(), 2);
        let before = pairs.iter().flat_map(|pair| [pair.before, 0.0]).collect();
        let before = tape.constant(Tensor::new(pairs.len(), 2, before));
        tape.add_scaled(&[(now, self.beta), (before, -self.beta)])
    }

    /// Share of the pairs that are further apart than they were.
    fn right(&self, params: &Params) -> f64 {
        let count = |pairs: &[Pair]| {
            let mut tape = Tape::answering(params, Workspace::default());
            let margins = self.margins(&mut tape, pairs);
            tape.data(margins).chunks_exact(2).filter(|m| m[0] > m[1]).count()
        };
        let right: usize = self.all.par_chunks(self.batch).map(count).sum();
        right as f64 / self.all.len() as f64
    }
}

impl Learner for Pairs<'_> {
    /// Pairs from here to there, and what each counts in the loss.
    type Part = (std::ops::Range<usize>, f32);

    fn begin(&mut self, _: usize) -> usize {
        self.all.len().div_ceil(self.batch)
    }

    fn deal(&self, step: usize, parts: usize) -> Vec<Self::Part> {
        let (from, to) = (step * self.batch, ((step + 1) * self.batch).min(self.all.len()));
        let each = (to - from).div_ceil(parts.max(1));
        let share = 1.0 / (to - from) as f32;
        (from..to).step_by(each).map(|start| (start..(start + each).min(to), share)).collect()
    }

    fn loss(&self, tape: &mut Tape, (range, share): &Self::Part, _: &mut Rng) -> Var {
        tape.drop_nothing();
        let margins = self.margins(tape, &self.all[range.clone()]);
        tape.bpr(margins, *share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generative::TigerDecoderConfig;
    use crate::{Model, Weights};
    use sommelier_core::{Ranker, ResolvedQuery, Validate};
    use sommelier_data::snapshot::ItemCodes;
    use std::sync::Mutex;

    const ITEMS: usize = 16;

    /// Everybody takes whatever there is and gives a 5 to items of an even number, a 1 to the others.
    fn raters() -> Snapshot {
        let mut rng = Rng::new(5);
        let pairs: Vec<(String, String)> = (0..60)
            .flat_map(|user| {
                let mut items: Vec<usize> = (0..ITEMS).collect();
                rng.shuffle(&mut items);
                items.truncate(8);
                items.into_iter().map(move |i| (format!("u{user}"), format!("{i}")))
            })
            .collect();
        let refs: Vec<(&str, &str)> = pairs.iter().map(|(u, i)| (&**u, &**i)).collect();
        let mut snapshot = Snapshot::from_pairs("raters", &refs);
        let mut events = (*snapshot.events).clone();
        for (weight, &item) in events.weight.iter_mut().zip(&events.item) {
            *weight = if is_even(&snapshot, item) { 5.0 } else { 1.0 };
        }
        let rows = (0..ITEMS as u32).flat_map(|i| [i % 4, i / 4]).collect();
        snapshot.codes = Some(Arc::new(ItemCodes { sizes: vec![4, 4], rows, known: vec![true; ITEMS] }));
        let codes = snapshot.codes.clone();
        let mut rated = snapshot.with_events(events);
        rated.codes = codes;
        rated
    }

    fn is_even(snapshot: &Snapshot, item: u32) -> bool {
        snapshot.items.id(item).parse::<usize>().unwrap() % 2 == 0
    }

    fn config(align: Option<Align>) -> TigerDecoderConfig {
        TigerDecoderConfig {
            dim: 8,
            blocks: 1,
            heads: 1,
            inner: 16,
            length: 8,
            batch: 16,
            initial: 0.1,
            training: Settings {
                epochs: 6,
                learning_rate: 0.01,
                schedule: Schedule::FLAT,
                validate_every: 100,
                ..Settings::default()
            },
            align,
            ..TigerDecoderConfig::default()
        }
    }

    fn rated() -> Align {
        let reward = ModelConfig::default_of("rating_knn").map(Box::new).unwrap();
        toml::from_str::<Align>(
            "reward = { kind = 'rating_knn' }\nrounds = 3\nlearning_rate = 0.01\nbeta = 0.5",
        )
        .map(|align| Align { reward, ..align })
        .unwrap()
    }

    /// Gives these verdicts, one after the other, and the last for ever.
    #[derive(Debug)]
    struct Verdicts(Mutex<Vec<f64>>);

    impl Validate for Verdicts {
        fn metric(&self) -> String {
            "verdict".into()
        }

        fn judge(&self, _: &dyn Ranker) -> Result<f64, Stopped> {
            let mut left = self.0.lock().unwrap();
            Ok(if left.len() > 1 { left.remove(0) } else { left[0] })
        }
    }

    /// Share of the best three that are even, and what was fitted.
    fn fit(align: Option<Align>, verdicts: &[f64]) -> Result<(f64, Weights), FitError> {
        let snapshot = raters();
        let verdicts = Arc::new(Verdicts(Mutex::new(verdicts.to_vec())));
        let mut ctx = FitContext { validate: Some(verdicts), ..FitContext::quiet(3) };
        let model = config(align).fit(&snapshot, &mut ctx)?;
        let best = |user: usize| {
            let q = ResolvedQuery { user: None, ..snapshot.query(user) };
            let allowed = Allowed::everything().without(q.history.iter().map(|seen| seen.item));
            let found = model.retrieve(&q, 3, &allowed);
            found.iter().filter(|c| is_even(&snapshot, c.item.0)).count()
        };
        let even =
            (0..snapshot.users.len()).map(best).sum::<usize>() as f64 / (3 * snapshot.users.len()) as f64;
        Ok((even, model.weights()))
    }

    #[test]
    fn what_people_like_better_is_written_first() {
        let (plain, _) = fit(None, &[1.0]).unwrap();
        let (aligned, _) = fit(Some(rated()), &[1.0]).unwrap();
        assert!(plain < 0.6 && aligned > 0.8, "{plain} and {aligned}");
    }

    #[test]
    fn a_round_that_costs_too_much_is_taken_back() {
        let (_, plain) = fit(None, &[1.0]).unwrap();
        // The first verdict is that of the fit itself.
        let (_, all_lost) = fit(Some(rated()), &[1.0, 1.0, 0.97]).unwrap();
        assert!(plain == all_lost, "not even the first round is kept");
        let (_, one) = fit(Some(Align { rounds: 1, ..rated() }), &[1.0]).unwrap();
        let (_, second_lost) = fit(Some(rated()), &[1.0, 1.0, 0.985, 0.5]).unwrap();
        assert!(one == second_lost && one != plain, "only the first");
    }

    #[test]
    fn nothing_is_aligned_without_a_guard() {
        let error =
            config(Some(rated())).fit(&raters(), &mut FitContext::quiet(3)).err().unwrap().to_string();
        assert!(error.contains("validation"), "{error}");
        let all = Align { candidates: 1, ..rated() };
        assert!(fit(Some(all), &[1.0]).err().unwrap().to_string().contains("align.candidates"));
    }
}

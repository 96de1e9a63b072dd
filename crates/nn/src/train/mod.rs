//! The training loop: epochs of steps, each dealt to as many tapes as there are threads.
//!
//! A run is decided by its settings, its seed and its thread count alone: what is drawn in a step is drawn from the seed and the
//! step's number, gradients are added in the order of the tapes, and nothing looks at a clock but the log. So a run that goes on
//! from a checkpoint ends with the same bits as one that was never interrupted.

mod checkpoint;
mod curves;

pub use curves::curves;

use crate::optim::{Optimiser, Rule, Schedule};
use crate::params::Params;
use crate::tape::{ParamGrads, Tape, Var, Workspace};
use checkpoint::Checkpoint;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sommelier_core::{FitContext, Rng, Stopped};
use std::time::{Duration, Instant};

/// What is learned from what.
pub trait Learner: Sync {
    /// What one tape works on in one step.
    type Part: Send + Sync;

    /// Prepares the order of an epoch (from 0); returns its steps.
    fn begin(&mut self, epoch: usize) -> usize;

    /// The parts of one step of the epoch begun last, at most `parts` of them.
    fn deal(&self, step: usize, parts: usize) -> Vec<Self::Part>;

    /// Loss of one part; those of a step add up to the step's loss. Whatever is drawn comes from `rng`.
    fn loss(&self, tape: &mut Tape, part: &Self::Part, rng: &mut Rng) -> Var;

    /// How good the model is by now, higher being better; `None` if nobody can tell.
    fn validate(&self, _: &Params) -> Result<Option<f64>, Stopped> {
        Ok(None)
    }

    /// What is validated, for the log.
    fn metric(&self) -> String {
        "validation".to_owned()
    }
}

/// How to train.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Passes over the data, at most.
    pub epochs: usize,
    pub learning_rate: f32,
    pub schedule: Schedule,
    pub optimiser: Rule,
    /// Share of the learning rate by which weights shrink at each step (not biases, not norms).
    pub weight_decay: f32,
    /// Gradients longer than this are shortened to it; 0 for never.
    pub clip: f32,
    /// Validated after every so many epochs.
    pub validate_every: usize,
    /// Ends after this many validations without a better one; 0 for never. The best weights are kept.
    pub patience: usize,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            epochs: 30,
            learning_rate: 3e-3,
            schedule: Schedule::default(),
            optimiser: Rule::default(),
            weight_decay: 0.0,
            clip: 0.0,
            validate_every: 1,
            patience: 5,
        }
    }
}

/// One line of the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Counted from 1.
    pub epoch: usize,
    /// Steps taken by its end.
    pub step: u64,
    /// Mean over its steps.
    pub loss: f64,
    pub learning_rate: f32,
    /// Mean length of the gradient before clipping.
    pub gradient: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<f64>,
    /// Of work so far, over all sessions of the run.
    pub seconds: f64,
}

/// How a run went.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// What was validated.
    pub metric: String,
    pub epochs: Vec<Record>,
    /// Epoch whose weights were kept, counted from 1.
    pub best: Option<usize>,
}

impl History {
    /// One JSON document a line.
    pub fn to_json_lines(&self) -> String {
        let line =
            |r: &Record| serde_json::to_string(r).unwrap_or_else(|e| unreachable!("plain data: {e}")) + "\n";
        self.epochs.iter().map(line).collect()
    }
}

/// Why a run ended early.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    #[error("{what} is {value} at step {step} (epoch {epoch}, batch {batch} of {batches}); {remedy}")]
    NotFinite {
        what: &'static str,
        value: f32,
        step: u64,
        epoch: usize,
        batch: usize,
        batches: usize,
        remedy: String,
    },
    #[error("{0}")]
    Checkpoint(String),
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

/// Time between two checkpoints within an epoch.
const CHECKPOINT_EVERY: Duration = Duration::from_mins(1);

/// One tape's memory between steps.
#[derive(Default)]
struct Worker {
    workspace: Workspace,
    grads: ParamGrads,
}

/// Where a run stands, besides its weights.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct State {
    /// What the run depends on, as text: a checkpoint of another run is refused.
    identity: String,
    epoch: usize,
    /// Steps done in this epoch.
    step: usize,
    loss: f64,
    gradient: f64,
    history: History,
    best: Option<f64>,
    /// Validations since the best one.
    stale: usize,
    seconds: f64,
    finished: bool,
}

/// Trains `params` in place, on the current rayon pool. `identity` says in words what the run depends on beside settings,
/// seed and thread count (data, model), for checkpoints. With a validation the weights are those of the best epoch.
///
/// With `ctx.checkpoints`, the state is kept in `checkpoint.safetensors` there about once a minute and when cancelled, the
/// log in `training.jsonl`, its curves in `training.svg`.
pub fn train<L: Learner>(
    learner: &mut L,
    params: &mut Params,
    settings: &Settings,
    identity: &str,
    ctx: &FitContext,
) -> Result<History, TrainError> {
    let identity = format!("{identity}\nseed {}\nthreads {}\n{settings:?}", ctx.seed, ctx.threads);
    let mut run = Run {
        state: State { identity, ..State::default() },
        optimiser: Optimiser::new(settings.optimiser, settings.weight_decay, settings.clip),
        best: None,
        store: ctx.checkpoints.as_deref().map(Checkpoint::in_folder),
        settings,
        ctx,
        workers: Vec::new(),
        last_save: Instant::now(),
        last_tick: Instant::now(),
        begun: false,
    };
    run.workers.resize_with(ctx.threads.max(1), Worker::default);
    run.state.history.metric = learner.metric();
    if ctx.resume {
        run.load(params)?;
    }
    run.last_tick = Instant::now();
    while !run.state.finished {
        run.epoch(learner, params)?;
    }
    if let Some(best) = run.best.take() {
        best.put(params);
    }
    ctx.progress.finish();
    Ok(run.state.history)
}

/// Weights as they were at some moment: all that answering needs.
#[derive(Debug, Clone, Default)]
struct Kept {
    dense: Vec<Vec<f32>>,
    rows: Vec<Vec<f32>>,
}

impl Kept {
    fn of(params: &Params) -> Kept {
        Kept {
            dense: params.iter().map(|p| p.value.clone()).collect(),
            rows: params.tables().map(|t| t.rows().to_vec()).collect(),
        }
    }

    fn put(self, params: &mut Params) {
        for (p, value) in params.iter_mut().zip(self.dense) {
            p.value = value;
        }
        for (t, rows) in params.tables.iter_mut().zip(self.rows) {
            t.rows_mut().copy_from_slice(&rows);
        }
    }
}

struct Run<'a> {
    state: State,
    optimiser: Optimiser,
    best: Option<Kept>,
    store: Option<Checkpoint>,
    settings: &'a Settings,
    ctx: &'a FitContext,
    workers: Vec<Worker>,
    last_save: Instant,
    last_tick: Instant,
    /// Whether the bar is shown.
    begun: bool,
}

impl Run<'_> {
    /// One epoch, or what is left of it.
    fn epoch<L: Learner>(&mut self, learner: &mut L, params: &mut Params) -> Result<(), TrainError> {
        if self.state.epoch >= self.settings.epochs {
            self.state.finished = true;
            return Ok(());
        }
        let steps = learner.begin(self.state.epoch);
        let total = (steps * self.settings.epochs) as u64;
        let first = (self.state.epoch * steps) as u64;
        if !std::mem::replace(&mut self.begun, true) {
            self.ctx.progress.start("training", Some(total));
        }
        while self.state.step < steps {
            if self.ctx.cancel.is_cancelled() {
                self.save(params)?;
                return Err(Stopped.into());
            }
            self.step(learner, params, steps, total)?;
            self.ctx.progress.at(first + self.state.step as u64);
            if self.last_save.elapsed() > CHECKPOINT_EVERY {
                self.save(params)?;
            }
        }
        self.end_of_epoch(learner, params, steps)
    }

    fn step<L: Learner>(
        &mut self,
        learner: &L,
        params: &mut Params,
        steps: usize,
        total: u64,
    ) -> Result<(), TrainError> {
        let number = (self.state.epoch * steps + self.state.step) as u64;
        let parts = learner.deal(self.state.step, self.workers.len());
        let seed = self.ctx.seed;
        let frozen = &*params;
        let workers = &mut self.workers[..parts.len()];
        let losses: Vec<f32> = workers
            .par_iter_mut()
            .zip(&parts)
            .enumerate()
            .map(|(p, (worker, part))| {
                worker.grads.clear(frozen);
                let mut rng = Rng::stream(seed ^ 0x7a9e, number * 1024 + p as u64);
                let dropped = Rng::stream(seed ^ 0xd209, number * 1024 + p as u64);
                let mut tape = Tape::training(frozen, dropped, std::mem::take(&mut worker.workspace));
                let loss = learner.loss(&mut tape, part, &mut rng);
                let value = tape.data(loss)[0];
                tape.backward(loss, &mut worker.grads);
                worker.workspace = tape.finish();
                value
            })
            .collect();
        let loss: f32 = losses.iter().sum();
        let place = (number, self.state.step + 1, steps);
        self.finite("the loss", loss, place)?;
        let workers = &mut self.workers[..parts.len()];
        if let Some((worker, others)) = workers.split_first_mut() {
            let mut grads: Vec<ParamGrads> = vec![std::mem::take(&mut worker.grads)];
            grads.extend(others.iter_mut().map(|w| std::mem::take(&mut w.grads)));
            ParamGrads::sum_into_first(&mut grads);
            let rate = self.settings.learning_rate * self.settings.schedule.at(number, total);
            let length = self.optimiser.step(params, &grads[0], rate);
            workers.iter_mut().zip(grads).for_each(|(w, g)| w.grads = g);
            self.finite("the gradient", length, place)?;
            self.state.gradient += f64::from(length);
        }
        self.state.loss += f64::from(loss);
        self.state.step += 1;
        Ok(())
    }

    fn finite(
        &self,
        what: &'static str,
        value: f32,
        (step, batch, batches): (u64, usize, usize),
    ) -> Result<(), TrainError> {
        if value.is_finite() {
            return Ok(());
        }
        let rate = self.settings.learning_rate;
        let clip = if self.settings.clip > 0.0 {
            format!("or clip, now {}", self.settings.clip)
        } else {
            "or shorten long gradients with clip = 1.0".to_owned()
        };
        let remedy = format!("lower learning_rate, now {rate}, {clip}");
        let epoch = self.state.epoch + 1;
        Err(TrainError::NotFinite { what, value, step: step + 1, epoch, batch, batches, remedy })
    }

    fn end_of_epoch<L: Learner>(
        &mut self,
        learner: &L,
        params: &mut Params,
        steps: usize,
    ) -> Result<(), TrainError> {
        let epoch = self.state.epoch + 1;
        let last = epoch >= self.settings.epochs;
        let due = epoch.is_multiple_of(self.settings.validate_every.max(1)) || last;
        let Ok(validation) = (if due { learner.validate(params) } else { Ok(None) }) else {
            self.save(params)?;
            return Err(Stopped.into());
        };
        let number = (epoch * steps) as u64;
        let total = (steps * self.settings.epochs) as u64;
        self.tick();
        self.state.history.epochs.push(Record {
            epoch,
            step: number,
            loss: self.state.loss / steps.max(1) as f64,
            learning_rate: self.settings.learning_rate
                * self.settings.schedule.at(number.saturating_sub(1), total),
            gradient: self.state.gradient / steps.max(1) as f64,
            validation,
            seconds: self.state.seconds,
        });
        let mut words = format!("epoch {epoch}: loss {:.4}", self.state.loss / steps.max(1) as f64);
        if let Some(value) = validation {
            words = format!("{words}, {} {value:.4}", self.state.history.metric);
            if self.state.best.is_none_or(|best| value > best) {
                self.state.best = Some(value);
                self.state.stale = 0;
                self.state.history.best = Some(epoch);
                self.best = Some(Kept::of(params));
            } else {
                self.state.stale += 1;
            }
        }
        self.ctx.progress.say(&words);
        self.state.epoch = epoch;
        (self.state.step, self.state.loss, self.state.gradient) = (0, 0.0, 0.0);
        let enough = self.settings.patience > 0 && self.state.stale >= self.settings.patience;
        self.state.finished = last || enough;
        if self.state.finished || self.last_save.elapsed() > CHECKPOINT_EVERY {
            self.save(params)?;
        }
        Ok(())
    }

    /// Adds the time since the last look.
    fn tick(&mut self) {
        self.state.seconds += self.last_tick.elapsed().as_secs_f64();
        self.last_tick = Instant::now();
    }

    fn save(&mut self, params: &Params) -> Result<(), TrainError> {
        self.tick();
        if let Some(store) = &self.store {
            store
                .write(&self.state, params, &self.optimiser, self.best.as_ref())
                .map_err(TrainError::Checkpoint)?;
        }
        self.last_save = Instant::now();
        Ok(())
    }

    fn load(&mut self, params: &mut Params) -> Result<(), TrainError> {
        let Some(store) = &self.store else { return Ok(()) };
        if let Some((state, best)) =
            store.read(&self.state.identity, params, &mut self.optimiser).map_err(TrainError::Checkpoint)?
        {
            (self.state, self.best) = (state, best);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;

//! The fit that generative models share.

use super::align::align;
use super::hearing::Hearing;
use super::known::Known;
use super::{Architecture, GenerativeModel, Lesson, Network, Reading};
use crate::model::{plan, require};
use crate::sequence::{Batch, Cut, Histories};
use crate::{FitError, LoadError, Weights};
use sommelier_core::{FitContext, Rng, Stopped};
use sommelier_data::Snapshot;
use sommelier_data::snapshot::ItemWishes;
use sommelier_nn::train::{Learner, Settings, train};
use sommelier_nn::{Params, Tape, Var};
use std::ops::Range;
use std::sync::Arc;

pub(super) fn fit<A: Architecture>(
    config: &A,
    snapshot: &Snapshot,
    ctx: &FitContext,
) -> Result<GenerativeModel, FitError> {
    config.check()?;
    config.reading().check()?;
    let Settings { epochs, learning_rate, .. } = *config.training();
    require("training.epochs", epochs as f64, epochs > 0, "at least 1")?;
    let rate = learning_rate > 0.0;
    require("training.learning_rate", learning_rate.into(), rate, "a finite number above 0")?;
    let known = Arc::new(Known::of(snapshot, config.among())?);
    let histories = Histories::of(snapshot, |item| known.codes(item).is_some());
    if histories.windows(1, Cut::Last, &mut Rng::new(0)).is_empty() {
        return Err(FitError::NoData(
            "somebody must have two positive events with items that have codes, one to read and one to tell"
                .into(),
        ));
    }
    let mut params = Params::new(ctx.seed);
    let net = config.build(&known, Hearing::of(snapshot), &mut params);
    check_memory(config, &known, &params, histories.events(), ctx)?;
    let identity = format!("model {} {config:?}\n{}", A::KIND, snapshot.identity([]));
    let mut learner = Lessons {
        config,
        windows: Vec::new(),
        histories,
        known: known.clone(),
        net: net.clone(),
        wishes: snapshot.wishes.clone(),
        seed: ctx.seed,
        ctx,
    };
    train(&mut learner, &mut params, config.training(), &identity, ctx)?;
    if let Some(how) = config.align() {
        align(how, &learner, snapshot, &mut params)?;
    }
    Ok(GenerativeModel::new(A::KIND, config.reading(), params, net, &known))
}

pub(super) fn load<A: Architecture>(config: &A, weights: &Weights) -> Result<GenerativeModel, LoadError> {
    let known = Known::load(weights, config.among())?;
    config.check().map_err(|e| LoadError::Other(e.to_string()))?;
    let mut params = Params::new(0);
    let net = config.build(&known, Hearing::stored(weights), &mut params);
    weights.recall(&mut params)?;
    Ok(GenerativeModel::new(A::KIND, config.reading(), params, net, &known))
}

/// Bytes at the peak: parameters with the optimiser's state, the best weights and those in validation; on each tape
/// gradients, and everything that one part of a step makes.
fn check_memory<A: Architecture>(
    config: &A,
    known: &Known,
    params: &Params,
    events: usize,
    ctx: &FitContext,
) -> Result<(), FitError> {
    let dense: usize = params.iter().map(|p| p.value.len()).sum();
    let threads = ctx.threads.max(1);
    let Reading { batch, length, .. } = config.reading();
    let codes = (batch * (length + 1)).min(events.max(1)).div_ceil(threads) * known.levels();
    let all = 6 * dense + threads * (dense + codes * config.numbers_per_code()) + 3 * events;
    let why = format!("{dense} parameters, steps of {codes} codes on {threads} tapes");
    plan(ctx, all as u64 * 4, &why, "lower batch, length, inner or dim")
}

pub(super) struct Lessons<'a, A> {
    pub config: &'a A,
    histories: Histories,
    /// Of the epoch that is going on.
    windows: Vec<Range<usize>>,
    pub known: Arc<Known>,
    pub net: Arc<dyn Network>,
    wishes: Option<Arc<ItemWishes>>,
    pub seed: u64,
    pub ctx: &'a FitContext,
}

impl<A: Architecture> Lessons<'_, A> {
    /// The model that these parameters are.
    pub fn model(&self, params: &Params) -> GenerativeModel {
        GenerativeModel::new(A::KIND, self.config.reading(), params.clone(), self.net.clone(), &self.known)
    }
}

impl<A: Architecture> Learner for Lessons<'_, A> {
    /// Histories, and what a code counts in the loss.
    type Part = (Batch, f32);

    fn begin(&mut self, epoch: usize) -> usize {
        let mut rng = Rng::stream(self.seed ^ 0x0e90c, epoch as u64);
        self.windows = self.config.windows(&self.histories, &mut rng);
        self.windows.len().div_ceil(self.config.reading().batch)
    }

    fn deal(&self, step: usize, parts: usize) -> Vec<(Batch, f32)> {
        let batch = self.config.reading().batch;
        let from = step * batch;
        let windows = &self.windows[from..(from + batch).min(self.windows.len())];
        let batches = self.histories.deal(windows, parts, true);
        let codes: usize = batches.iter().map(|b| self.net.told(&self.known, &b.ragged)).sum();
        batches.into_iter().map(|b| (b, 1.0 / codes.max(1) as f32)).collect()
    }

    fn loss(&self, tape: &mut Tape, (batch, share): &(Batch, f32), rng: &mut Rng) -> Var {
        let (items, ragged, wishes) = (&batch.items[..], &*batch.ragged, self.wishes.as_deref());
        self.net.loss(tape, &Lesson { known: &self.known, items, ragged, wishes, share: *share }, rng)
    }

    fn validate(&self, params: &Params) -> Result<Option<f64>, Stopped> {
        let Some(validate) = &self.ctx.validate else { return Ok(None) };
        validate.judge(&self.model(params)).map(Some)
    }

    fn metric(&self) -> String {
        self.ctx.validate.as_ref().map_or_else(|| "validation".to_owned(), |v| v.metric())
    }
}

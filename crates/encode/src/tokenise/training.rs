//! How tokenisers learn: epochs of batches, each dealt to the same number of tapes whatever the number of threads.
//!
//! Beside the loop of the training library (`sommelier_nn::train`), because codebooks are looked at between steps: the codes of a
//! batch are chosen from all of it before any part of it is learned. What is drawn comes from the seed and the step's number.

use crate::{EncodeError, require};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sommelier_core::{FitContext, Rng};
use sommelier_nn::optim::{Optimiser, Rule, Schedule};
use sommelier_nn::{ParamGrads, Params, Tape, Var, Workspace};
use std::ops::Range;

/// How long and how fast is learned. Defaults suit a catalogue of ten thousand items on a small computer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Training {
    /// Passes over the vectors.
    pub epochs: usize,
    /// Steps, at least: a small catalogue is passed over more often.
    pub least_steps: usize,
    /// Vectors of one step.
    pub batch: usize,
    /// It rises during the first steps and falls along half a cosine.
    pub learning_rate: f32,
    /// Share of the learning rate by which weights shrink at each step.
    pub weight_decay: f32,
}

impl Default for Training {
    fn default() -> Training {
        Training { epochs: 30, least_steps: 1000, batch: 256, learning_rate: 2e-3, weight_decay: 0.0 }
    }
}

/// What is learned from batches of vectors.
pub(super) trait Learner: Sync {
    /// What all parts of a step know of it.
    type Batch: Sync;

    /// Looks at the vectors of a step before they are learned.
    fn begin(&mut self, params: &mut Params, rows: &[u32], step: u64) -> Self::Batch;

    /// Loss of some places of the batch; those of all parts add up to the loss of the step.
    fn loss(&self, tape: &mut Tape, batch: &Self::Batch, part: Range<usize>, rng: &mut Rng) -> Var;
}

/// Tapes of a step, at most.
const PARTS: usize = 4;

impl Training {
    pub(super) fn check(&self) -> Result<(), EncodeError> {
        require("training.epochs", self.epochs as f64, self.epochs > 0, "at least 1")?;
        require("training.batch", self.batch as f64, self.batch > 0, "at least 1")?;
        let rate = self.learning_rate;
        require("training.learning_rate", rate.into(), rate > 0.0 && rate.is_finite(), "above 0")?;
        let decay = self.weight_decay;
        require("training.weight_decay", decay.into(), decay >= 0.0 && decay.is_finite(), "0 or more")
    }

    /// Passes over `n` vectors.
    pub(super) fn passes(&self, n: usize) -> usize {
        self.epochs.max(self.least_steps.div_ceil(n.div_ceil(self.batch)))
    }
}

/// Learns `n` vectors, on the current rayon pool.
pub(super) fn train<L: Learner>(
    learner: &mut L,
    params: &mut Params,
    training: &Training,
    n: usize,
    ctx: &FitContext,
) -> Result<(), EncodeError> {
    let (steps, epochs) = (n.div_ceil(training.batch), training.passes(n));
    let total = (steps * epochs) as u64;
    let schedule = Schedule { warm_up: 100.min(total / 10), ..Schedule::default() };
    let mut optimiser = Optimiser::new(Rule::default(), training.weight_decay, 0.0);
    let mut workers: Vec<(Workspace, ParamGrads)> = Vec::new();
    workers.resize_with(PARTS, Default::default);
    let mut order: Vec<u32> = (0..n as u32).collect();
    ctx.progress.start("training", Some(total));
    for epoch in 0..epochs {
        Rng::stream(ctx.seed ^ 0x07de, epoch as u64).shuffle(&mut order);
        let mut sum = 0.0;
        for (at, rows) in order.chunks(training.batch).enumerate() {
            ctx.cancel.check()?;
            let step = (epoch * steps + at) as u64;
            let batch = learner.begin(params, rows, step);
            let loss = run(learner, params, &batch, rows.len(), (ctx.seed, step), &mut workers);
            let rate = training.learning_rate * schedule.at(step, total);
            let mut grads: Vec<ParamGrads> = workers.iter_mut().map(|w| std::mem::take(&mut w.1)).collect();
            ParamGrads::sum_into_first(&mut grads);
            let length = optimiser.step(params, &grads[0], rate);
            workers.iter_mut().zip(grads).for_each(|(w, g)| w.1 = g);
            if !loss.is_finite() || !length.is_finite() {
                return Err(EncodeError::Numeric(format!(
                    "the loss is {loss} and its slope {length} at step {step} of {total}; lower training.learning_rate, now {}",
                    training.learning_rate
                )));
            }
            sum += f64::from(loss);
            ctx.progress.at(step + 1);
        }
        ctx.progress.say(&format!("epoch {}: loss {:.4}", epoch + 1, sum / steps as f64));
    }
    ctx.progress.finish();
    Ok(())
}

/// The loss of one step; its gradients stay with the workers, in the order of the parts.
fn run<L: Learner>(
    learner: &L,
    params: &Params,
    batch: &L::Batch,
    len: usize,
    (seed, step): (u64, u64),
    workers: &mut [(Workspace, ParamGrads)],
) -> f32 {
    let each = len.div_ceil(PARTS);
    let of_part = |(p, (room, grads)): (usize, &mut (Workspace, ParamGrads))| {
        grads.clear(params);
        let part = (p * each).min(len)..((p + 1) * each).min(len);
        if part.is_empty() {
            return 0.0;
        }
        let place = step * PARTS as u64 + p as u64;
        let mut tape = Tape::training(params, Rng::stream(seed ^ 0xd209, place), std::mem::take(room));
        let loss = learner.loss(&mut tape, batch, part, &mut Rng::stream(seed ^ 0x7a9e, place));
        let value = tape.data(loss)[0];
        tape.backward(loss, grads);
        *room = tape.finish();
        value
    };
    let losses: Vec<f32> = workers.par_iter_mut().enumerate().map(of_part).collect();
    losses.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use sommelier_nn::{Init, ParamId, Tensor};
    use std::sync::Mutex;

    /// w is drawn to 3 by vectors that all say so.
    struct Toy {
        w: ParamId,
        seen: Mutex<Vec<(u64, Vec<u32>)>>,
    }

    impl Learner for Toy {
        type Batch = (u64, Vec<u32>);

        fn begin(&mut self, _: &mut Params, rows: &[u32], step: u64) -> (u64, Vec<u32>) {
            (step, rows.to_vec())
        }

        fn loss(&self, tape: &mut Tape, batch: &(u64, Vec<u32>), part: Range<usize>, _: &mut Rng) -> Var {
            let n = part.len();
            self.seen.lock().unwrap().push((batch.0, batch.1[part].to_vec()));
            let w = tape.pick_rows(self.w.into(), vec![0; n]);
            tape.squared(w, &Tensor::new(n, 1, vec![3.0; n]), 1.0 / batch.1.len() as f32)
        }
    }

    #[test]
    fn every_vector_is_learned_once_an_epoch() {
        for (n, batch) in [(1, 8), (3, 8), (10, 3), (64, 16)] {
            let mut params = Params::new(1);
            let mut toy = Toy { w: params.add("w", 1, 1, Init::Zeros), seen: Mutex::default() };
            let training =
                Training { epochs: 2, least_steps: 150, batch, learning_rate: 0.1, ..Training::default() };
            train(&mut toy, &mut params, &training, n, &FitContext::quiet(3)).unwrap();
            assert!((params.get(toy.w).value[0] - 3.0).abs() < 0.1, "{n}: {:?}", params.get(toy.w).value);
            let steps = n.div_ceil(batch);
            assert_eq!(training.passes(n), 150usize.div_ceil(steps));
            let mut counts = vec![0; n * training.passes(n)];
            for (step, rows) in toy.seen.into_inner().unwrap() {
                rows.iter().for_each(|&i| counts[step as usize / steps * n + i as usize] += 1);
            }
            assert!(counts.iter().all(|&c| c == 1), "{n} in batches of {batch}");
        }
    }
}

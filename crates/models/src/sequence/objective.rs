//! What a sequence model learns from: the scores of the right item and of others, and a loss over them.

use super::{Embedder, Lesson, SequenceConfig};
use crate::FitError;
use crate::model::require;
use serde::{Deserialize, Serialize};
use sommelier_core::Rng;
use sommelier_nn::loss::{Items, gbce_beta};
use sommelier_nn::op::Drawn;
use sommelier_nn::{Tape, Var};
use std::sync::Arc;

/// How the right item is told from the others.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Loss {
    /// Cross entropy of a softmax over the whole catalogue.
    #[default]
    Softmax,
    /// Cross entropy over the right item and `negatives` drawn ones: the same for all steps on a tape, which is fast and wants
    /// some hundreds, or with `each` others for each step, as in HSTU. With `corrected`, drawn ones stand for the whole
    /// catalogue (logQ).
    Sampled {
        negatives: usize,
        #[serde(default)]
        each: bool,
        /// Items are drawn by count to this power; 0 draws all alike.
        #[serde(default)]
        power: f64,
        #[serde(default)]
        corrected: bool,
    },
    /// Right or wrong, with `negatives` drawn for each step: SASRec's own loss with one.
    Bce { negatives: usize },
    /// The same, less certain of what is right: gSASRec's. `t` is how far to correct for the drawing.
    Gbce { negatives: usize, t: f32 },
    /// The right item above each of `negatives` drawn for each step.
    Bpr { negatives: usize },
}

/// What is compared with an item's vector, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Similarity {
    #[default]
    Dot,
    Cosine,
}

impl Loss {
    pub(super) fn check(&self) -> Result<(), FitError> {
        let (Loss::Sampled { negatives, .. }
        | Loss::Bce { negatives }
        | Loss::Gbce { negatives, .. }
        | Loss::Bpr { negatives }) = self
        else {
            return Ok(());
        };
        require("sequence.loss.negatives", *negatives as f64, *negatives > 0, "at least 1")?;
        match self {
            Loss::Sampled { power, .. } => {
                require("sequence.loss.power", *power, *power >= 0.0, "a finite number of at least 0")
            }
            Loss::Gbce { t, .. } => {
                require("sequence.loss.t", (*t).into(), (0.0..=1.0).contains(t), "0 to 1")
            }
            _ => Ok(()),
        }
    }

    /// Numbers of scores that one step takes.
    pub(super) fn scores_per_step(&self) -> usize {
        match self {
            Loss::Softmax => 0,
            Loss::Sampled { negatives, .. }
            | Loss::Bce { negatives }
            | Loss::Gbce { negatives, .. }
            | Loss::Bpr { negatives } => 1 + negatives,
        }
    }
}

/// Draws items and takes the loss.
#[derive(Debug)]
pub(super) struct Objective {
    loss: Loss,
    similarity: Similarity,
    factor: f32,
    items: usize,
    /// Sums of the chances of all items up to each; empty where all have the same.
    cumulative: Vec<f64>,
    /// Logarithm of how often each item is expected among the drawn.
    log_q: Option<Vec<f32>>,
}

impl Objective {
    /// `counts`: how often each item occurs.
    pub fn new(config: &SequenceConfig, counts: &[u64]) -> Objective {
        let (mut cumulative, mut log_q) = (Vec::new(), None);
        if let Loss::Sampled { negatives, power, corrected, .. } = config.loss {
            if power > 0.0 {
                let mut sum = 0.0;
                cumulative.extend(counts.iter().map(|&c| {
                    sum += (c as f64).powf(power);
                    sum
                }));
            }
            if corrected {
                let total = cumulative.last().copied().unwrap_or(counts.len() as f64);
                let share = |c: &u64| if power > 0.0 { (*c as f64).powf(power) } else { 1.0 } / total;
                // An item that is never drawn needs no correction.
                let log = |c: &u64| (share(c) * negatives as f64).max(f64::MIN_POSITIVE).ln() as f32;
                log_q = Some(counts.iter().map(log).collect());
            }
        }
        Objective {
            loss: config.loss.clone(),
            similarity: config.similarity,
            factor: 1.0 / config.temperature,
            items: counts.len(),
            cumulative,
            log_q,
        }
    }

    fn draw(&self, rng: &mut Rng) -> u32 {
        match self.cumulative.last() {
            Some(total) => {
                let at = rng.unit() * total;
                self.cumulative.partition_point(|&c| c <= at).min(self.items - 1) as u32
            }
            None => rng.below(self.items) as u32,
        }
    }

    fn draw_many(&self, n: usize, rng: &mut Rng) -> Arc<Vec<u32>> {
        Arc::new((0..n).map(|_| self.draw(rng)).collect())
    }

    /// `scale` × the sum of the losses of all rows of a lesson, and what the model adds.
    pub fn loss(
        &self,
        tape: &mut Tape,
        embedder: Embedder,
        lesson: &Lesson,
        scale: f32,
        rng: &mut Rng,
    ) -> Var {
        let mut items = embedder.items;
        if self.similarity == Similarity::Cosine {
            let all = embedder.all(tape);
            items = Items::Matrix(tape.normalise(all, 1e-6));
        }
        let mut loss = self.loss_of(tape, items, (lesson.vectors, &lesson.right), scale, rng);
        for (vectors, right, counts) in &lesson.further {
            let further = self.loss_of(tape, items, (*vectors, right), scale * counts, rng);
            loss = tape.add(loss, further);
        }
        match lesson.aside {
            Some(aside) => tape.add(loss, aside),
            None => loss,
        }
    }

    /// `scale` × the sum of the losses of some vectors.
    fn loss_of(
        &self,
        tape: &mut Tape,
        items: Items,
        (mut vectors, right): (Var, &Arc<Vec<u32>>),
        scale: f32,
        rng: &mut Rng,
    ) -> Var {
        if self.similarity == Similarity::Cosine {
            vectors = tape.normalise(vectors, 1e-6);
        }
        let n = right.len();
        let drawn = match self.loss {
            Loss::Softmax => return tape.catalogue_softmax(vectors, items, right, self.factor, scale),
            Loss::Sampled { negatives, each: false, .. } => Drawn::Shared(self.draw_many(negatives, rng)),
            Loss::Sampled { negatives, each: true, .. }
            | Loss::Bce { negatives }
            | Loss::Gbce { negatives, .. }
            | Loss::Bpr { negatives } => Drawn::Each(self.draw_many(n * negatives, rng)),
        };
        let scores = tape.candidates(vectors, items, right, &drawn, self.log_q.as_deref(), self.factor);
        match self.loss {
            Loss::Bce { .. } => tape.binary_cross_entropy(scores, scale),
            Loss::Gbce { negatives, t } => {
                let rate = negatives as f32 / (self.items.max(2) - 1) as f32;
                tape.gbce(scores, gbce_beta(rate.min(1.0), t), scale)
            }
            Loss::Bpr { .. } => tape.bpr(scores, scale),
            Loss::Softmax | Loss::Sampled { .. } => tape.sampled_softmax(scores, None, scale),
        }
    }
}

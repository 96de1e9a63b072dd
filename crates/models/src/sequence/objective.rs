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
    /// Items that are never compared with a right one.
    absent: Vec<u32>,
    /// Parts of a vector that are learned each by itself.
    parts: usize,
}

impl Objective {
    /// `counts`: how often each item occurs. Where items are known by what they are, one that nobody took is not compared:
    /// that it was not taken says nothing of it, and would be learned of all that are like it.
    pub fn new(config: &SequenceConfig, counts: &[u64], known_by_content: bool, parts: usize) -> Objective {
        let power = match config.loss {
            Loss::Sampled { power, .. } => power,
            _ => 0.0,
        };
        let weight = |c: u64| match c {
            0 if known_by_content || power > 0.0 => 0.0,
            _ => (c as f64).powf(power),
        };
        let mut cumulative = Vec::new();
        if known_by_content || power > 0.0 {
            let mut sum = 0.0;
            cumulative.extend(counts.iter().map(|&c| {
                sum += weight(c);
                sum
            }));
        }
        let mut log_q = None;
        if let Loss::Sampled { negatives, corrected: true, .. } = config.loss {
            let total = cumulative.last().copied().unwrap_or(counts.len() as f64);
            // An item that is never drawn needs no correction.
            let log = |&c: &u64| (weight(c) / total * negatives as f64).max(f64::MIN_POSITIVE).ln() as f32;
            log_q = Some(counts.iter().map(log).collect());
        }
        let untaken = (0..counts.len() as u32).filter(|&i| counts[i as usize] == 0);
        let absent = if known_by_content { untaken.collect() } else { Vec::new() };
        Objective {
            loss: config.loss.clone(),
            similarity: config.similarity,
            factor: 1.0 / config.temperature,
            items: counts.len(),
            cumulative,
            log_q,
            absent,
            parts,
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
        let mut loss = if self.parts == 1 {
            self.loss_of(tape, items, (lesson.vectors, &lesson.right), scale, rng)
        } else {
            let all = embedder.all(tape);
            let width = tape.shape(all).1 / self.parts;
            let losses: Vec<(Var, f32)> = (0..self.parts)
                .map(|part| {
                    let items = Items::Matrix(tape.columns(all, part * width, width));
                    let vectors = tape.columns(lesson.vectors, part * width, width);
                    (self.loss_of(tape, items, (vectors, &lesson.right), scale, rng), 1.0)
                })
                .collect();
            tape.add_scaled(&losses)
        };
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
            Loss::Softmax => {
                return tape.catalogue_softmax(vectors, items, right, &self.absent, self.factor, scale);
            }
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
                let others = (self.items - self.absent.len()).max(2) - 1;
                let rate = negatives as f32 / others as f32;
                tape.gbce(scores, gbce_beta(rate.min(1.0), t), scale)
            }
            Loss::Bpr { .. } => tape.bpr(scores, scale),
            Loss::Softmax | Loss::Sampled { .. } => tape.sampled_softmax(scores, None, scale),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_known_by_content_are_compared_only_where_somebody_took_them() {
        let counts = [3, 0, 5, 0, 0, 1];
        for power in [0.0, 0.5] {
            let loss = Loss::Sampled { negatives: 4, each: false, power, corrected: true };
            let of = |by_content| {
                let config = SequenceConfig { loss: loss.clone(), ..SequenceConfig::default() };
                Objective::new(&config, &counts, by_content, 1)
            };
            let (by_content, by_id) = (of(true), of(false));
            assert_eq!((&by_content.absent[..], &by_id.absent[..]), (&[1, 3, 4][..], &[][..]));
            let drawn = by_content.draw_many(400, &mut Rng::new(1));
            let mut seen: Vec<u32> = drawn.to_vec();
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen, [0, 2, 5]);
            let shares: f32 = [0, 2, 5].iter().map(|&i| by_content.log_q.as_ref().unwrap()[i].exp()).sum();
            assert!((shares - 4.0).abs() < 1e-4, "four are drawn a step: {shares}");
        }
    }
}

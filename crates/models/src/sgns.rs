//! Skip-gram with negative sampling over tokens that are items and, for some models, what is known of them.
//!
//! For a pair (centre c, target t) of strength s and drawn negatives n: s · (log σ(a_c · b_t) + Σ log σ(−a_c · b_n)),
//! climbed by stochastic gradient; a are the vectors that are kept.
//!
//! Shapes: a and b (tokens × D).
//! Cost: O(pairs · negatives · D) a pass; memory 2 · tokens · D numbers and one batch of pairs.
//! Source: Mikolov, Sutskever, Chen, Corrado, Dean, "Distributed Representations of Words and Phrases and their
//! Compositionality", NIPS 2013, arXiv:1310.4546.
//! Departures: threads do not race. Tokens are dealt to as many blocks as there are threads; in each round every thread
//! has one block of centres and one block of targets to itself, draws negatives from its block of targets, and the
//! rounds walk through all couples of blocks (Gemulla et al., KDD 2011). So a thread count gives the same bits each time.

use crate::FitError;
use crate::model::require;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sommelier_core::{FitContext, Rng};
use sommelier_data::snapshot::{Snapshot, TimeQuality};
use sommelier_nn::kernel;

/// How to train; the part of the config that models of this family share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SkipGram {
    /// Length of a vector.
    pub dim: usize,
    /// How far from the centre a target may be in the history; each centre draws its own reach up to this.
    pub window: usize,
    /// Wrong targets drawn for each right one.
    pub negatives: usize,
    /// Negatives are drawn by count to this power.
    pub power: f64,
    /// Items with a larger share of all events than this are left out now and then; 0 leaves none out.
    pub subsample: f64,
    /// Passes over the data.
    pub epochs: usize,
    /// First step size; it falls in a straight line to a ten-thousandth of itself.
    pub learning_rate: f32,
}

/// Side tokens beside the items: token `items + m`, and for each item which of them it has.
#[derive(Debug, Clone, Default)]
pub(crate) struct Side {
    pub tokens: usize,
    /// `of[i]`: side tokens of item `i`, numbered from 0; empty if there are none at all.
    pub of: Vec<Vec<u32>>,
    /// Strength of every pair that has a side token in it, shared among an item's tokens.
    pub strength: f32,
}

/// Centre token, target token, strength.
type Pair = (u32, u32, f32);

/// Pairs worked on between two draws; small enough that the step size is smooth.
const BATCH: usize = 1 << 18;

impl SkipGram {
    pub(crate) fn check(&self) -> Result<(), FitError> {
        let whole = "at least 1";
        require("dim", self.dim as f64, self.dim > 0, whole)?;
        require("window", self.window as f64, self.window > 0, whole)?;
        require("negatives", self.negatives as f64, self.negatives > 0, whole)?;
        require("epochs", self.epochs as f64, self.epochs > 0, whole)?;
        let size = "a finite number of at least 0";
        require("power", self.power, self.power >= 0.0, size)?;
        require("subsample", self.subsample, self.subsample >= 0.0, size)?;
        require(
            "learning_rate",
            self.learning_rate.into(),
            self.learning_rate > 0.0,
            "a finite number above 0",
        )
    }

    /// Bytes that [`SkipGram::train`] needs.
    pub(crate) fn bytes(&self, tokens: usize) -> u64 {
        (tokens * (2 * self.dim * 4 + 24)) as u64 + 2 * (BATCH * size_of::<Pair>()) as u64
    }

    /// The centre vectors of all tokens, row-major; tokens that never occur have 0.
    pub(crate) fn train(
        &self,
        train: &Snapshot,
        side: &Side,
        ctx: &FitContext,
    ) -> Result<Vec<f32>, FitError> {
        let items = train.items.len();
        let tokens = items + side.tokens;
        let sentences = sentences(train);
        let mut counts = vec![0u64; tokens];
        for &item in sentences.iter().flatten() {
            counts[item as usize] += 1;
            for &m in side.of.get(item as usize).map_or(&[][..], Vec::as_slice) {
                counts[items + m as usize] += 1;
            }
        }
        let total: u64 = counts[..items].iter().sum();
        if total == 0 {
            return Err(FitError::NoData("positive interactions are needed".into()));
        }
        let keep: Vec<f64> = counts[..items].iter().map(|&c| self.keep(c as f64 / total as f64)).collect();
        let mut model = Blocks::new(self, items, &counts, ctx.threads.max(1), ctx.seed);
        let steps = (self.epochs * sentences.len()) as f64;
        let (mut begun, mut done, mut since, mut batch) = (0usize, 0usize, 0u64, Vec::new());
        ctx.progress.start("skip-gram", Some(steps as u64));
        for epoch in 0..self.epochs {
            let mut order: Vec<u32> = (0..sentences.len() as u32).collect();
            Rng::stream(ctx.seed, 1 + 2 * epoch as u64).shuffle(&mut order);
            for &s in &order {
                let mut rng = Rng::stream(ctx.seed ^ 0x5eed, ((epoch as u64) << 32) | u64::from(s));
                let mut sentence: Vec<u32> = sentences[s as usize].clone();
                if train.times == TimeQuality::None {
                    // No order is known: any two items of a history may be neighbours.
                    rng.shuffle(&mut sentence);
                }
                sentence.retain(|&i| keep[i as usize] >= 1.0 || rng.unit() < keep[i as usize]);
                self.pairs(&sentence, items, side, &mut rng, &mut batch);
                done += 1;
                if batch.len() >= BATCH || done.is_multiple_of(sentences.len()) {
                    ctx.cancel.check()?;
                    let rate = self.learning_rate * (1.0 - begun as f64 / steps).max(1e-4) as f32;
                    model.step(&batch, self.negatives, rate, ctx.seed ^ (since << 16));
                    (begun, since) = (done, since + 1);
                    batch.clear();
                    ctx.progress.at(done as u64);
                }
            }
        }
        ctx.progress.finish();
        Ok(model.centres(tokens, &counts))
    }

    /// Probability that one occurrence of an item with this share of all occurrences stays.
    fn keep(&self, share: f64) -> f64 {
        if self.subsample == 0.0 || share == 0.0 {
            return 1.0;
        }
        let ratio = self.subsample / share;
        ratio.sqrt() + ratio
    }

    /// All pairs of one sentence. With strength 0, exactly those without side tokens.
    fn pairs(&self, sentence: &[u32], items: usize, side: &Side, rng: &mut Rng, out: &mut Vec<Pair>) {
        let of = |item: u32| side.of.get(item as usize).map_or(&[][..], Vec::as_slice);
        let token = |m: u32| items as u32 + m;
        for (at, &centre) in sentence.iter().enumerate() {
            let reach = 1 + rng.below(self.window);
            let from = at.saturating_sub(reach);
            let to = (at + reach + 1).min(sentence.len());
            for &target in sentence[from..at].iter().chain(&sentence[at + 1..to]) {
                if target != centre {
                    out.push((centre, target, 1.0));
                }
                if side.strength > 0.0 {
                    let (a, b) = (of(centre), of(target));
                    out.extend(b.iter().map(|&m| (centre, token(m), side.strength / b.len() as f32)));
                    out.extend(a.iter().map(|&m| (token(m), target, side.strength / a.len() as f32)));
                    let both = side.strength / (a.len() * b.len()).max(1) as f32;
                    out.extend(a.iter().flat_map(|&m| b.iter().map(move |&n| (token(m), token(n), both))));
                }
            }
            if side.strength > 0.0 {
                let own = of(centre);
                out.extend(own.iter().map(|&m| (centre, token(m), side.strength / own.len() as f32)));
            }
        }
    }
}

/// Positive events of each user, oldest first; users with fewer than two are of no use.
fn sentences(train: &Snapshot) -> Vec<Vec<u32>> {
    let e = &train.events;
    let positive = |u: usize| e.of(u).filter(|&i| e.weight[i] > 0.0).map(|i| e.item[i]).collect::<Vec<u32>>();
    (0..e.users()).map(positive).filter(|s| s.len() > 1).collect()
}

/// The vectors, dealt to blocks: token `t` is in block `t % blocks` at slot `t / blocks`.
struct Blocks {
    dim: usize,
    items: usize,
    centre: Vec<Vec<f32>>,
    target: Vec<Vec<f32>>,
    /// Per block, who may be drawn as a wrong item and as a wrong side token.
    noise: Vec<[Noise; 2]>,
}

impl Blocks {
    fn new(config: &SkipGram, items: usize, counts: &[u64], blocks: usize, seed: u64) -> Blocks {
        let of_block = |b: usize| (b..counts.len()).step_by(blocks);
        let centre = (0..blocks)
            .map(|b| {
                let vector = |t: usize| {
                    let mut rng = Rng::stream(seed ^ 0xa11, t as u64);
                    (0..config.dim).map(move |_| (rng.unit() as f32 - 0.5) / config.dim as f32)
                };
                of_block(b).flat_map(vector).collect()
            })
            .collect();
        let target = (0..blocks).map(|b| vec![0f32; of_block(b).count() * config.dim]).collect();
        let noise = (0..blocks)
            .map(|b| {
                let (first, second): (Vec<usize>, Vec<usize>) = of_block(b).partition(|&t| t < items);
                [Noise::new(first, counts, config.power), Noise::new(second, counts, config.power)]
            })
            .collect();
        Blocks { dim: config.dim, items, centre, target, noise }
    }

    /// Climbs once for every pair of the batch.
    fn step(&mut self, batch: &[Pair], negatives: usize, rate: f32, seed: u64) {
        let blocks = self.centre.len();
        let mut dealt: Vec<Vec<Pair>> = vec![Vec::new(); blocks * blocks];
        for &pair in batch {
            dealt[pair.0 as usize % blocks * blocks + pair.1 as usize % blocks].push(pair);
        }
        let (dim, items, noise) = (self.dim, self.items, &self.noise);
        for round in 0..blocks {
            // Thread `b` has centre block b and target block b + round.
            self.target.rotate_left(usize::from(round > 0));
            self.centre.par_iter_mut().zip(self.target.par_iter_mut()).enumerate().for_each(
                |(b, (centre, target))| {
                    let t = (b + round) % blocks;
                    let mut rng = Rng::stream(seed, (b * blocks + t) as u64);
                    let mut pull = vec![0f32; dim];
                    for &(c, right, strength) in &dealt[b * blocks + t] {
                        let c = c as usize / blocks * dim;
                        let centre = &mut centre[c..c + dim];
                        let noise = &noise[t][usize::from(right as usize >= items)];
                        pull.fill(0.0);
                        for draw in 0..=negatives {
                            let (token, label) =
                                if draw == 0 { (right, 1.0) } else { (noise.draw(&mut rng), 0.0) };
                            if draw > 0 && token == right {
                                continue;
                            }
                            let at = token as usize / blocks * dim;
                            let target = &mut target[at..at + dim];
                            let step = rate * strength * (label - sigmoid(kernel::dot(centre, target)));
                            kernel::axpy(step, target, &mut pull);
                            kernel::axpy(step, centre, target);
                        }
                        kernel::axpy(1.0, &pull, centre);
                    }
                },
            );
        }
        self.target.rotate_left(usize::from(blocks > 1));
    }

    fn centres(&self, tokens: usize, counts: &[u64]) -> Vec<f32> {
        let mut out = vec![0f32; tokens * self.dim];
        let blocks = self.centre.len();
        for (t, row) in out.chunks_exact_mut(self.dim).enumerate().filter(|(t, _)| counts[*t] > 0) {
            let at = t / blocks * self.dim;
            row.copy_from_slice(&self.centre[t % blocks][at..at + self.dim]);
        }
        out
    }
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// Draws tokens by count to a power, in constant time (Walker's alias table as built by Vose, 1991).
struct Noise {
    token: Vec<u32>,
    /// Below this a slot is its own, above it its alias.
    own: Vec<f32>,
    alias: Vec<u32>,
}

impl Noise {
    fn new(tokens: Vec<usize>, counts: &[u64], power: f64) -> Noise {
        let token: Vec<u32> = tokens.into_iter().filter(|&t| counts[t] > 0).map(|t| t as u32).collect();
        let weight: Vec<f64> = token.iter().map(|&t| (counts[t as usize] as f64).powf(power)).collect();
        let mean = weight.iter().sum::<f64>() / token.len().max(1) as f64;
        let mut own: Vec<f64> = weight.iter().map(|w| w / mean).collect();
        let mut alias: Vec<u32> = (0..token.len() as u32).collect();
        let (mut small, mut large): (Vec<usize>, Vec<usize>) = (0..own.len()).partition(|&i| own[i] < 1.0);
        while let (Some(s), Some(&l)) = (small.pop(), large.last()) {
            alias[s] = l as u32;
            own[l] -= 1.0 - own[s];
            if own[l] < 1.0 {
                large.pop();
                small.push(l);
            }
        }
        Noise { token, own: own.into_iter().map(|p| p as f32).collect(), alias }
    }

    /// Must not be asked of an empty set; a target's own block is never empty.
    fn draw(&self, rng: &mut Rng) -> u32 {
        let slot = rng.below(self.token.len());
        let kept = (rng.unit() as f32) < self.own[slot] || self.alias[slot] as usize == slot;
        self.token[if kept { slot } else { self.alias[slot] as usize }]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_follows_the_counts() {
        let counts = [0, 1, 16, 81];
        let noise = Noise::new((0..4).collect(), &counts, 0.5);
        let mut rng = Rng::new(1);
        let mut drawn = [0usize; 4];
        for _ in 0..14_000 {
            drawn[noise.draw(&mut rng) as usize] += 1;
        }
        for (token, share) in [(0, 0.0), (1, 1.0 / 14.0), (2, 4.0 / 14.0), (3, 9.0 / 14.0)] {
            assert!((drawn[token] as f64 / 14_000.0 - share).abs() < 0.015, "{drawn:?}");
        }
    }
}

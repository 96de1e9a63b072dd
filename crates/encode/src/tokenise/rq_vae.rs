//! RQ-VAE: residual codes of what an encoder makes of a vector, learned together with it.
//!
//! z = encoder(x), r_1 = z, k_l = argmin_k |r_l − C_l[k]|², r_{l+1} = r_l − C_l[k_l], q_l = Σ_{m≤l} C_m[k_m], x̂ = decoder(q_L);
//! loss = mean (x − x̂)² + Σ_l (β mean (z − q_l)² + mean (r_l − C_l[k_l])²) + w_a L_a + w_d Σ_l L_l: the encoder is drawn to its
//! codes by the second term, codebooks to what has them by the third, or by a moving average. The slope of x̂ by q_L is taken
//! for that by z (straight-through).
//!
//! Alignment: a = A q_L finds the behaviour b of its own item among those learned with it, by cosine (InfoNCE):
//! L_a = mean −log softmax_j(cos(a, b_j) / T). Items whose behaviour is all zeros take no part.
//! Diversity: codes of a level lie in clusters of equal size, made anew in each epoch; e a code in use, e⁺ another of its
//! cluster: L_l = mean −log (exp(e · e⁺) / Σ_{j: C_l[j] ≠ e} exp(e · C_l[j])): codes are as likely as one another.
//!
//! Shapes: x (n × d), z and q (n × latent), C_l (codes × latent), A (behaviour × latent). Cost: that of the autoencoder, its
//! encoder once more to choose the codes, and 2 n latent Σ codes; even use (`uniform.rs`) up to 50 codes exponentials for each
//! vector of a step.
//! Sources: Lee et al., "Autoregressive Image Generation using Residual Quantization", CVPR 2022, arXiv:2203.01941; Rajput et
//! al., "Recommender Systems with Generative Retrieval" (TIGER), NeurIPS 2023, arXiv:2305.05065, of which are the defaults;
//! moving averages: van den Oord et al., NeurIPS 2017, arXiv:1711.00937; alignment and diversity: Wang et al., "Learnable Item
//! Tokenization for Generative Recommendation" (LETTER), CIKM 2024, arXiv:2405.07314.
//! Departures: epochs and steps are fewer than TIGER's (20000 epochs), for an Adam that falls along half a cosine, not Adagrad;
//! vectors are standardised; codes of all levels are k-means of what the untrained encoder makes of the first vectors; a code
//! that hardly any vector has moves to where one is; the second term's slope takes the codes before as given (as Lee et al.).
//! LETTER compares by products, with vectors as long as codes and no temperature, and clusters with constrained k-means; here
//! A maps between lengths, and clusters are k-means whose limit is kept by `uniform.rs`. Of the alignments of DAS (Ye et al., CIKM
//! 2025, arXiv:2508.10584) only this one, of an item with its own behaviour, is here: the others need codes of people.

use super::Tokeniser;
use super::autoencoder::{Autoencoder, Net};
use super::residual::{Residual, ResidualConfig};
use super::training::{Learner, Training, train};
use super::uniform::{Uniform, spread};
use crate::kmeans::{Centres, KMeans};
use crate::{EncodeError, Rows, require};
use serde::{Deserialize, Serialize};
use sommelier_core::{FitContext, Rng};
use sommelier_nn::op::Linear;
use sommelier_nn::{Init, LoadError, ParamId, Params, Tape, Tensor, Var, Weights, kernel};
use std::ops::Range;

/// How codebooks learn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Codebooks {
    /// Each code is a moving average of what has it.
    #[default]
    Ema,
    /// By the slope of the loss, as everything else.
    Gradient,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RqVaeConfig {
    /// Widths of the encoder's hidden layers; the decoder's are the same backwards.
    pub hidden: Vec<usize>,
    /// Length of what is encoded.
    pub latent: usize,
    pub levels: usize,
    /// Codes of each level.
    pub codes: usize,
    /// β: how strongly the encoder is drawn to its codes.
    pub beta: f32,
    pub codebooks: Codebooks,
    /// What a moving average keeps at each step.
    pub decay: f32,
    /// A code that fewer have than this share of an even use moves to a vector of the step; 0 for never.
    pub revive: f32,
    /// Prefixes that go on at each level when codes are chosen after learning; 1 takes the nearest each time, as in learning.
    pub beam: usize,
    /// Levels whose codes are used evenly, by the vectors of a step and by the fitted catalogue.
    pub uniform: Uniform,
    /// w_a: weight of the alignment with behaviour, where that is given.
    pub alignment: f32,
    /// T of the alignment.
    pub temperature: f32,
    /// w_d: weight of diversity; it needs `codebooks = "gradient"`.
    pub diversity: f32,
    /// Clusters of the codes of a level, for diversity.
    pub clusters: usize,
    pub training: Training,
}

impl Default for RqVaeConfig {
    fn default() -> RqVaeConfig {
        RqVaeConfig {
            hidden: vec![512, 256, 128],
            latent: 32,
            levels: 3,
            codes: 256,
            beta: 0.25,
            codebooks: Codebooks::Ema,
            decay: 0.99,
            revive: 0.05,
            beam: 1,
            uniform: Uniform::None,
            alignment: 0.02,
            temperature: 0.1,
            diversity: 0.0,
            clusters: 10,
            training: Training::default(),
        }
    }
}

/// A fitted autoencoder with the codes between its halves.
#[derive(Debug, Clone)]
pub struct RqVae {
    net: Autoencoder,
    codes: Residual,
}

/// Vectors by which the codes begin, at most, for each code.
const FIRST: usize = 20;

impl RqVaeConfig {
    fn check(&self) -> Result<(), EncodeError> {
        let narrow = self.hidden.iter().copied().min().unwrap_or(1);
        require("hidden", narrow as f64, narrow > 0, "at least 1 each")?;
        for (name, value) in [
            ("latent", self.latent),
            ("levels", self.levels),
            ("codes", self.codes),
            ("beam", self.beam),
            ("clusters", self.clusters),
        ] {
            require(name, value as f64, value > 0, "at least 1")?;
        }
        for (name, value) in [
            ("beta", self.beta),
            ("revive", self.revive),
            ("alignment", self.alignment),
            ("diversity", self.diversity),
        ] {
            require(name, value.into(), value >= 0.0 && value.is_finite(), "0 or more")?;
        }
        require("decay", self.decay.into(), (0.0..1.0).contains(&self.decay), "0 or more, and below 1")?;
        let warm = self.temperature > 0.0 && self.temperature.is_finite();
        require("temperature", self.temperature.into(), warm, "above 0")?;
        let learns = self.diversity == 0.0 || self.codebooks == Codebooks::Gradient;
        require("diversity", self.diversity.into(), learns, "0 unless codebooks = \"gradient\"")?;
        self.training.check()
    }

    fn residual(&self) -> ResidualConfig {
        ResidualConfig {
            levels: self.levels,
            codes: self.codes,
            beam: self.beam,
            uniform: self.uniform,
            ..ResidualConfig::default()
        }
    }

    /// On the current rayon pool; `behaviour` has a row for each of `x`, zeros where nobody knows. The same vectors, seed and
    /// settings give the same codes on any number of threads.
    pub fn fit(&self, x: Rows, behaviour: Option<Rows>, ctx: &FitContext) -> Result<RqVae, EncodeError> {
        self.check()?;
        x.check()?;
        let behaviour = behaviour.map(|b| known_directions(b, x.len())).transpose()?;
        let mut net = Autoencoder::new(x, &self.hidden, self.latent, ctx.seed);
        let x = net.standardised(x);
        let x = Rows::new(&x, net.dim());

        let sample = x.sample(self.codes.saturating_mul(FIRST), &mut Rng::stream(ctx.seed, 0x69a));
        let z = net.latents_of_standardised(Rows::new(&sample, x.dim));
        let first = ResidualConfig { beam: 1, ..self.residual() }.fit(Rows::new(&z, self.latent), ctx)?;
        let book = self.codes * self.latent;
        let add = |(level, rows): (usize, &[f32])| {
            let id = net.params.add(&format!("codes.{level}"), self.codes, self.latent, Init::Zeros);
            let param = net.params.get_mut(id);
            param.value.copy_from_slice(rows);
            param.decay = false;
            id
        };
        let books: Vec<ParamId> = first.centres().rows.chunks_exact(book).enumerate().map(add).collect();
        let align = behaviour
            .as_ref()
            .filter(|_| self.alignment > 0.0)
            .map(|b| (net.params.add("alignment", b.dim, self.latent, Init::Glorot), b));

        let even = self.training.batch.min(x.len()) as f32 / self.codes as f32;
        let begin = |book: &ParamId| Use {
            counts: vec![even; self.codes],
            sums: net.params.get(*book).value.iter().map(|v| v * even).collect(),
        };
        let mut learner = Student {
            config: self,
            net: net.net.clone(),
            x,
            used: books.iter().map(begin).collect(),
            books: &books,
            align,
            clusters: Vec::new(),
            steps: x.len().div_ceil(self.training.batch) as u64,
            seed: ctx.seed,
        };
        train(&mut learner, &mut net.params, &self.training, x.len(), ctx)?;
        let rows = books.iter().flat_map(|&book| &net.params.get(book).value).copied().collect();
        let sizes = vec![self.codes as u32; self.levels];
        let codes = self.residual().with(sizes, Centres::new(rows, self.latent));
        Ok(RqVae { net, codes })
    }

    pub fn load(&self, weights: &Weights) -> Result<RqVae, LoadError> {
        let (net, codes) = (Autoencoder::read(weights)?, self.residual().load(weights)?);
        if net.latent() != codes.dim() {
            return Err(super::damaged(&format!(
                "codes have {} numbers, expected the encoder's {}",
                codes.dim(),
                net.latent()
            )));
        }
        Ok(RqVae { net, codes })
    }
}

/// Behaviour as directions; rows of zeros stay.
struct Directions {
    dim: usize,
    rows: Vec<f32>,
    known: Vec<bool>,
}

fn known_directions(behaviour: Rows, n: usize) -> Result<Directions, EncodeError> {
    if behaviour.len() != n {
        return Err(EncodeError::Input(format!(
            "there are {} vectors of behaviour for {n} items; give one for each, zeros where nobody knows",
            behaviour.len()
        )));
    }
    behaviour.check().map_err(|e| EncodeError::Input(format!("of behaviour, {e}")))?;
    let mut rows = behaviour.data.to_vec();
    let known = rows
        .chunks_exact_mut(behaviour.dim)
        .map(|row| {
            let length = kernel::dot(row, row).sqrt();
            if length > 0.0 {
                kernel::scale(row, 1.0 / length);
            }
            length > 0.0
        })
        .collect();
    Ok(Directions { dim: behaviour.dim, rows, known })
}

/// Moving averages of one level.
struct Use {
    /// Vectors of a step that have each code.
    counts: Vec<f32>,
    /// Σ of what has it (codes × latent).
    sums: Vec<f32>,
}

struct Student<'a> {
    config: &'a RqVaeConfig,
    net: Net,
    /// Standardised.
    x: Rows<'a>,
    books: &'a [ParamId],
    used: Vec<Use>,
    align: Option<(ParamId, &'a Directions)>,
    /// The cluster of each code of each level.
    clusters: Vec<Vec<u32>>,
    /// Steps of an epoch.
    steps: u64,
    seed: u64,
}

/// What the parts of a step know of it.
struct Batch {
    rows: Vec<usize>,
    levels: Vec<Chosen>,
}

/// Codes of one level.
struct Chosen {
    codes: Vec<u32>,
    /// r_l (rows × latent)
    rest: Vec<f32>,
    /// q_l
    total: Vec<f32>,
    /// Another code of the same cluster, where there is one.
    others: Vec<Option<u32>>,
}

impl Learner for Student<'_> {
    type Batch = Batch;

    fn begin(&mut self, params: &mut Params, rows: &[u32], step: u64) -> Batch {
        let (dim, levels) = (self.config.latent, self.books.len());
        let rows: Vec<usize> = rows.iter().map(|&i| i as usize).collect();
        let picked = self.x.pick(&rows);
        let z = super::autoencoder::carry(params, Rows::new(&picked, self.x.dim), dim, |t, x| {
            self.net.encode(t, x)
        });
        if self.config.diversity > 0.0 && step.is_multiple_of(self.steps) {
            let cluster =
                |book: &ParamId| clusters(&params.get(*book).value, dim, self.config.clusters, self.seed);
            self.clusters = self.books.iter().map(cluster).collect();
        }
        let mut rng = Rng::stream(self.seed ^ 0xc0de, step);
        let mut rest = z.clone();
        let mut chosen = Vec::with_capacity(levels);
        for level in 0..levels {
            let centres = Centres::new(params.get(self.books[level]).value.clone(), dim);
            let given = Rows::new(&rest, dim);
            let codes = if self.config.uniform.at(level, levels) {
                let mut scores = vec![0f32; given.len() * centres.len()];
                centres.scores(given, &mut scores);
                spread(&scores, centres.len())
            } else {
                centres.nearest(given).into_iter().map(|(k, _)| k).collect()
            };
            let before = rest.clone();
            for (rest, &k) in rest.chunks_exact_mut(dim).zip(&codes) {
                kernel::axpy(-1.0, centres.row(k as usize), rest);
            }
            let mut total = z.clone();
            kernel::axpy(-1.0, &rest, &mut total);
            let others = match self.clusters.get(level) {
                Some(clusters) => codes.iter().map(|&k| another(clusters, k, &mut rng)).collect(),
                None => vec![None; codes.len()],
            };
            let book = &mut params.get_mut(self.books[level]).value;
            self.used[level].see(self.config, Rows::new(&before, dim), &codes, book, &mut rng);
            chosen.push(Chosen { codes, rest: before, total, others });
        }
        Batch { rows, levels: chosen }
    }

    fn loss(&self, tape: &mut Tape, batch: &Batch, part: Range<usize>, _: &mut Rng) -> Var {
        let (config, dim, n) = (self.config, self.config.latent, part.len());
        let target = Tensor::new(n, self.x.dim, self.x.pick(&batch.rows[part.clone()]));
        let of_part = |all: &[f32]| Tensor::new(n, dim, all[part.start * dim..part.end * dim].to_vec());
        let share = 1.0 / batch.rows.len() as f32;
        let x = tape.constant(target.clone());
        let z = self.net.encode(tape, x);
        let mut losses = Vec::new();
        let mut q = z;
        for (level, chosen) in batch.levels.iter().enumerate() {
            let total = of_part(&chosen.total);
            let each = share / dim as f32;
            losses.push((tape.squared(z, &total, each), config.beta));
            if config.codebooks == Codebooks::Gradient {
                let book = self.books[level].into();
                let codes = chosen.codes[part.clone()].to_vec();
                let own = tape.pick_rows(book, codes);
                losses.push((tape.squared(own, &of_part(&chosen.rest), each), 1.0));
                if config.diversity > 0.0 {
                    let products = tape.matmul(own, book, true);
                    losses.push((diversity(tape, products, chosen, &part, share), config.diversity));
                }
            }
            if level + 1 == batch.levels.len() {
                let mut step = total;
                kernel::axpy(-1.0, tape.data(z), &mut step.data);
                let step = tape.constant(step);
                q = tape.add(z, step);
            }
        }
        let again = self.net.decode(tape, q);
        losses.push((tape.squared(again, &target, share / self.x.dim as f32), 1.0));
        if let Some((weight, behaviour)) = self.align {
            let rows = &batch.rows[part];
            let mapped = tape.linear(q, weight, Linear::default());
            let mapped = tape.normalise(mapped, 1e-6);
            let own = Rows::new(&behaviour.rows, behaviour.dim).pick(rows);
            let own = tape.constant(Tensor::new(n, behaviour.dim, own));
            let absent = |&i: &usize| if behaviour.known[i] { 0.0 } else { f32::INFINITY };
            let absent = rows.iter().map(absent).collect();
            let loss = tape.info_nce(mapped, own, config.temperature, share, Some(absent), None);
            losses.push((loss, config.alignment));
        }
        tape.add_scaled(&losses)
    }
}

/// −log softmax of another code of the cluster, the own one being left out.
fn diversity(tape: &mut Tape, products: Var, chosen: &Chosen, part: &Range<usize>, share: f32) -> Var {
    let (n, codes) = tape.shape(products);
    let (mut out, mut right) = (vec![0f32; n * codes], vec![0f32; n * codes]);
    for (r, i) in part.clone().enumerate() {
        out[r * codes + chosen.codes[i] as usize] = f32::NEG_INFINITY;
        // Where a cluster has one code only, there is nothing to be as likely as.
        if let Some(other) = chosen.others[i] {
            right[r * codes + other as usize] = 1.0;
        }
    }
    let out = tape.constant(Tensor::new(n, codes, out));
    let logits = tape.add(products, out);
    tape.kl(logits, &Tensor::new(n, codes, right), 1.0, share)
}

/// Clusters of codes, none larger than its share.
fn clusters(book: &[f32], dim: usize, count: usize, seed: u64) -> Vec<u32> {
    let codes = Rows::new(book, dim);
    let kmeans = KMeans { rounds: 10, ..KMeans::new(count.min(codes.len())) };
    let ctx = FitContext::quiet(seed);
    // Codes that are not finite are told by the loss.
    let Ok(centres) = kmeans.fit(codes, &mut Rng::stream(seed, 0xc1), &ctx) else {
        return vec![0; codes.len()];
    };
    let mut scores = vec![0f32; codes.len() * centres.len()];
    centres.scores(codes, &mut scores);
    spread(&scores, centres.len())
}

/// Another code of the cluster.
fn another(clusters: &[u32], own: u32, rng: &mut Rng) -> Option<u32> {
    let mine = clusters[own as usize];
    let others: Vec<u32> =
        (0..clusters.len() as u32).filter(|&k| k != own && clusters[k as usize] == mine).collect();
    (!others.is_empty()).then(|| others[rng.below(others.len())])
}

impl Use {
    /// Takes in which vectors had which codes, moves the codes where they are averages, and those that are hardly used.
    fn see(&mut self, config: &RqVaeConfig, given: Rows, codes: &[u32], book: &mut [f32], rng: &mut Rng) {
        /// Of a step: a code that nobody has yet moves slowly.
        const LEAST: f32 = 1e-5;
        let (dim, keep) = (given.dim, config.decay);
        kernel::scale(&mut self.counts, keep);
        kernel::scale(&mut self.sums, keep);
        for (x, &k) in given.iter().zip(codes) {
            self.counts[k as usize] += 1.0 - keep;
            kernel::axpy(1.0 - keep, x, &mut self.sums[k as usize * dim..][..dim]);
        }
        let even = given.len() as f32 / self.counts.len() as f32;
        let rows = book.chunks_exact_mut(dim).zip(self.sums.chunks_exact_mut(dim));
        for (count, (code, sum)) in self.counts.iter_mut().zip(rows) {
            if *count < config.revive * even {
                code.copy_from_slice(given.row(rng.below(given.len())));
                // As if it had been used all the time, so that it has time to be found.
                *count = even;
                sum.copy_from_slice(code);
                kernel::scale(sum, even);
            } else if config.codebooks == Codebooks::Ema {
                code.copy_from_slice(sum);
                kernel::scale(code, 1.0 / count.max(LEAST));
            }
        }
    }
}

impl Tokeniser for RqVae {
    fn dim(&self) -> usize {
        self.net.dim()
    }

    fn sizes(&self) -> &[u32] {
        self.codes.sizes()
    }

    fn encode(&self, x: Rows) -> Vec<u32> {
        self.codes.encode(Rows::new(&self.net.latents(x), self.net.latent()))
    }

    fn assign(&self, x: Rows) -> Vec<u32> {
        self.codes.assign(Rows::new(&self.net.latents(x), self.net.latent()))
    }

    fn decode(&self, codes: &[u32]) -> Vec<f32> {
        self.net.vectors(Rows::new(&self.codes.decode(codes), self.net.latent()))
    }

    fn best(&self, x: &[f32], most: usize) -> Vec<(Vec<u32>, f32)> {
        self.codes.best(&self.net.latents(Rows::new(x, self.net.dim())), most)
    }

    fn weights(&self) -> Weights {
        let mut weights = self.codes.weights();
        self.net.put(&mut weights);
        weights
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::grouped;
    use super::super::{Codes, Quality};
    use super::*;
    use sommelier_nn::Workspace;

    fn config() -> RqVaeConfig {
        RqVaeConfig {
            hidden: vec![32],
            latent: 8,
            levels: 2,
            codes: 16,
            training: Training {
                epochs: 1,
                least_steps: 300,
                batch: 128,
                learning_rate: 3e-3,
                weight_decay: 0.0,
            },
            ..RqVaeConfig::default()
        }
    }

    #[test]
    fn averages_move_by_hand_and_unused_codes_come_to_life() {
        let config = RqVaeConfig { decay: 0.75, revive: 0.5, ..config() };
        let mut book = vec![1.0, 9.0];
        let mut used = Use { counts: vec![2.0, 0.8], sums: vec![2.0, 7.2] };
        let given = [3.0, 5.0];
        used.see(&config, Rows::new(&given, 1), &[0, 0], &mut book, &mut Rng::new(1));
        // 0.75 · 2 + 0.25 · 2 vectors with 0.75 · 2 + 0.25 · 8 in all; the second has 0.6 of the even 1, which is enough.
        assert_eq!((used.counts[0], used.sums[0], book[0]), (2.0, 3.5, 1.75));
        assert!((used.counts[1] - 0.6).abs() < 1e-6 && (book[1] - 9.0).abs() < 1e-5);
        used.see(&config, Rows::new(&given, 1), &[0, 0], &mut book, &mut Rng::new(1));
        // 0.45 is not.
        assert!(given.contains(&book[1]) && used.counts[1] == 1.0 && used.sums[1] == book[1]);
        // By the slope of the loss, only revival moves codes here.
        let config = RqVaeConfig { codebooks: Codebooks::Gradient, ..config };
        let before = book.clone();
        used.see(&config, Rows::new(&given, 1), &[0, 1], &mut book, &mut Rng::new(1));
        assert_eq!(book, before);
    }

    #[test]
    fn diversity_is_its_formula() {
        let params = Params::new(1);
        let mut tape = Tape::answering(&params, Workspace::default());
        let products = [0.5, -1.0, 2.0, 0.3, 0.7, 0.1];
        let var = tape.constant(Tensor::new(2, 3, products.to_vec()));
        let chosen =
            Chosen { codes: vec![9, 2, 0], rest: vec![], total: vec![], others: vec![None, Some(0), None] };
        // The first row has code 2 and another one, 0, beside it; the second is alone in its cluster.
        let loss = diversity(&mut tape, var, &chosen, &(1..3), 0.5);
        let expected = -0.5 * (0.5f32.exp() / (0.5f32.exp() + (-1f32).exp())).ln();
        assert!((tape.data(loss)[0] - expected).abs() < 1e-6, "{} {expected}", tape.data(loss)[0]);
    }

    #[test]
    fn clusters_have_their_share_and_others_are_of_the_same() {
        let book = grouped(20, 4, 3, 1);
        let clusters = clusters(&book, 4, 6, 1);
        for c in 0..6 {
            assert!(clusters.iter().filter(|&&k| k == c).count() <= 4, "{clusters:?}");
        }
        let mut rng = Rng::new(1);
        for own in 0..20u32 {
            let other = another(&clusters, own, &mut rng);
            assert!(other.is_none_or(|o| o != own && clusters[o as usize] == clusters[own as usize]));
        }
        assert_eq!(another(&[0, 1, 1], 0, &mut rng), None);
    }

    #[test]
    fn alignment_brings_what_is_used_alike_together() {
        // What an item is says most, and a little says how it is used: eight ways, which cross the groups.
        let (n, mut data) = (800, grouped(800, 12, 25, 1));
        let ways = grouped(8, 12, 8, 2);
        let used = |i: usize| i / 25 % 8;
        for (i, x) in data.chunks_exact_mut(12).enumerate() {
            kernel::axpy(0.25, &ways[used(i) * 12..][..12], x);
        }
        let x = Rows::new(&data, 12);
        let mut rng = Rng::new(3);
        let behaviour: Vec<f32> = (0..n)
            .flat_map(|i| (0..8).map(move |w| f32::from(u8::from(used(i) == w))))
            .map(|b| b + 0.05 * rng.normal() as f32)
            .collect();
        let shared = |alignment: f32, missing: usize| {
            let mut given = behaviour.clone();
            given.chunks_exact_mut(8).step_by(missing).for_each(|row| row.fill(0.0));
            let fitted = RqVaeConfig { alignment, ..config() }
                .fit(x, Some(Rows::new(&given, 8)), &FitContext::quiet(1))
                .unwrap();
            let codes = Codes { sizes: fitted.sizes().to_vec(), rows: fitted.encode(x) };
            Quality::of(&codes, Rows::new(&behaviour, 8), None, 1).levels[0].shared
        };
        let (without, with, with_half) = (shared(0.0, 3), shared(1.0, 900), shared(1.0, 2));
        assert!(with > 2.0 * without && with_half > 1.5 * without, "{without}, {with}, half {with_half}");
    }

    #[test]
    fn behaviour_that_nobody_knows_changes_nothing() {
        let data = grouped(200, 6, 9, 1);
        let x = Rows::new(&data, 6);
        let config = RqVaeConfig { training: Training { least_steps: 40, ..config().training }, ..config() };
        let nothing = vec![0.0; 200 * 3];
        let plain = config.fit(x, None, &FitContext::quiet(1)).unwrap();
        let with = config.fit(x, Some(Rows::new(&nothing, 3)), &FitContext::quiet(1)).unwrap();
        assert_eq!(plain.weights(), with.weights());
    }

    #[test]
    fn even_use_in_learning_and_for_the_catalogue() {
        let data = grouped(512, 8, 40, 4);
        let x = Rows::new(&data, 8);
        let of = |uniform| {
            let fitted = RqVaeConfig { uniform, ..config() }.fit(x, None, &FitContext::quiet(1)).unwrap();
            let codes = Codes { sizes: fitted.sizes().to_vec(), rows: fitted.assign(x) };
            Quality::of(&codes, x, Some(&fitted), 1)
        };
        let (plain, last, all) = (of(Uniform::None), of(Uniform::Last), of(Uniform::All));
        assert!(last.largest_group < plain.largest_group, "{plain:?} {last:?}");
        assert!(all.levels[0].gini < 0.01 && all.levels[0].perplexity > 15.9, "{all:?}");
        // 512 items and 256 sequences of codes: two at most have the same.
        assert_eq!(all.largest_group, 2, "{all:?}");
    }
}

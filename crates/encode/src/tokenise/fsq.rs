//! Finite scalar quantisation: a learned projection to a few bounded numbers, each rounded to one of a few values.
//!
//! t = tanh(encoder(x)), code_i = round((t_i + 1) / 2 · (L_i − 1)), r_i = 2 code_i / (L_i − 1) − 1, x̂ = decoder(r);
//! loss = mean (x − x̂)², its slope by r being taken for that by t (straight-through). There is no codebook: nothing can
//! collapse, and neighbouring codes lie near each other.
//!
//! Shapes: x (n × d), t and r (n × numbers). With `group` g, each g numbers in a row are one code: code = Σ digits by place.
//! Cost: that of the autoencoder; one step beside it n · numbers.
//! Source: Mentzer et al., "Finite Scalar Quantization: VQ-VAE Made Simple", ICLR 2024, arXiv:2309.15505; for recommenders,
//! Jiang et al., "RecGPT: A Foundation Model for Sequential Recommendation", EMNLP 2025, arXiv:2506.06270. Three groups of
//! 8 · 6 · 5 values are the first paper's replacement for 2⁸ codes.
//! Departures: values lie evenly from −1 to 1 for even and odd L alike, so no shift is needed; before the first step the last
//! layer of the encoder is scaled so that t has room on both sides (Salimans and Kingma, NeurIPS 2016).

use super::autoencoder::{Autoencoder, Net};
use super::training::{Learner, Training, train};
use super::{Tokeniser, cheapest, counts_of, damaged};
use crate::{EncodeError, Rows, require};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sommelier_core::{FitContext, Rng};
use sommelier_nn::{Activation, LoadError, Params, Tape, Tensor, Var, Weights, kernel};
use std::ops::Range;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FsqConfig {
    /// How many values each number has.
    pub values: Vec<u32>,
    /// Numbers that make one code together.
    pub group: usize,
    /// Widths of the encoder's hidden layers; the decoder's are the same backwards.
    pub hidden: Vec<usize>,
    pub training: Training,
}

impl Default for FsqConfig {
    fn default() -> FsqConfig {
        FsqConfig {
            values: [8, 6, 5].repeat(3),
            group: 3,
            hidden: vec![512, 256, 128],
            training: Training::default(),
        }
    }
}

/// A fitted projection, and the values it rounds to.
#[derive(Debug, Clone)]
pub struct Fsq {
    values: Vec<u32>,
    group: usize,
    /// Codes of each group.
    sizes: Vec<u32>,
    net: Autoencoder,
}

/// Vectors by which the encoder is scaled, at most.
const LOOKED_AT: usize = 4096;

impl FsqConfig {
    /// On the current rayon pool. The same vectors, seed and settings give the same codes on any number of threads.
    pub fn fit(&self, x: Rows, ctx: &FitContext) -> Result<Fsq, EncodeError> {
        let least = self.values.iter().copied().min().unwrap_or(0);
        require("values", least.into(), least >= 2, "one number or more, each at least 2")?;
        let whole = self.group > 0 && self.values.len().is_multiple_of(self.group);
        require("group", self.group as f64, whole, "a divisor of how many values there are")?;
        let sizes = sizes(&self.values, self.group);
        require(
            "values",
            f64::from(least),
            sizes.is_some(),
            "so small that a group has fewer than 2³² codes",
        )?;
        let narrow = self.hidden.iter().copied().min().unwrap_or(1);
        require("hidden", narrow as f64, narrow > 0, "at least 1 each")?;
        self.training.check()?;
        x.check()?;
        let mut net = Autoencoder::new(x, &self.hidden, self.values.len(), ctx.seed);
        let x = net.standardised(x);
        let x = Rows::new(&x, net.dim());
        make_room(&mut net, x, &mut Rng::stream(ctx.seed, 0xf59));
        let mut learner = Student { net: net.net.clone(), values: &self.values, x };
        train(&mut learner, &mut net.params, &self.training, x.len(), ctx)?;
        Ok(Fsq { values: self.values.clone(), group: self.group, sizes: sizes.unwrap_or_default(), net })
    }

    pub fn load(&self, weights: &Weights) -> Result<Fsq, LoadError> {
        let values = counts_of(weights, "values", 2)?;
        let group = match counts_of(weights, "group", 1)?[..] {
            [group] => group as usize,
            ref other => return Err(damaged(&format!("group is {other:?}, expected one number"))),
        };
        let net = Autoencoder::read(weights)?;
        let whole = values.len().is_multiple_of(group) && values.len() == net.latent();
        match sizes(&values, group) {
            Some(sizes) if whole => Ok(Fsq { values, group, sizes, net }),
            _ => Err(damaged(&format!(
                "values are {values:?} in groups of {group} for {} numbers",
                net.latent()
            ))),
        }
    }
}

/// Codes of each group; `None` where they are too many.
fn sizes(values: &[u32], group: usize) -> Option<Vec<u32>> {
    values.chunks(group).map(|g| g.iter().try_fold(1u32, |n, &v| n.checked_mul(v))).collect()
}

/// Scales the encoder's last layer so that each number it makes has mean 0 and deviation 1.
fn make_room(net: &mut Autoencoder, x: Rows, rng: &mut Rng) {
    let Some((weight, bias)) = net.net.narrowest() else { return };
    let sample = x.sample(LOOKED_AT, rng);
    let z = net.latents_of_standardised(Rows::new(&sample, x.dim));
    let z = Rows::new(&z, net.latent());
    for i in 0..z.dim {
        let mean = z.iter().map(|z| f64::from(z[i])).sum::<f64>() / z.len() as f64;
        let square = z.iter().map(|z| (f64::from(z[i]) - mean).powi(2)).sum::<f64>() / z.len() as f64;
        let factor = if square > 1e-12 { (1.0 / square.sqrt()) as f32 } else { 1.0 };
        let param = net.params.get_mut(weight);
        let cols = param.cols;
        kernel::scale(&mut param.value[i * cols..][..cols], factor);
        let own = &mut net.params.get_mut(bias).value[i];
        *own = (*own - mean as f32) * factor;
    }
}

/// The digit of a number in −1..1, one of so many values.
fn digit(t: f32, values: u32) -> u32 {
    let top = (values - 1) as f32;
    // A NaN becomes 0.
    (((t + 1.0) * 0.5 * top).round().max(0.0) as u32).min(values - 1)
}

/// The number a digit stands for.
fn value(digit: u32, values: u32) -> f32 {
    2.0 * digit as f32 / (values - 1) as f32 - 1.0
}

struct Student<'a> {
    net: Net,
    values: &'a [u32],
    /// Standardised.
    x: Rows<'a>,
}

impl Learner for Student<'_> {
    type Batch = Vec<u32>;

    fn begin(&mut self, _: &mut Params, rows: &[u32], _: u64) -> Vec<u32> {
        rows.to_vec()
    }

    fn loss(&self, tape: &mut Tape, batch: &Vec<u32>, part: Range<usize>, _: &mut Rng) -> Var {
        let rows: Vec<usize> = batch[part].iter().map(|&i| i as usize).collect();
        let target = Tensor::new(rows.len(), self.x.dim, self.x.pick(&rows));
        let x = tape.constant(target.clone());
        let z = self.net.encode(tape, x);
        let t = tape.activation(z, Activation::Tanh);
        let rounded = tape
            .data(t)
            .chunks_exact(self.values.len())
            .flat_map(|t| t.iter().zip(self.values).map(|(&t, &v)| value(digit(t, v), v) - t));
        let rounded = Tensor::new(rows.len(), self.values.len(), rounded.collect());
        let step = tape.constant(rounded);
        let r = tape.add(t, step);
        let again = self.net.decode(tape, r);
        tape.squared(again, &target, 1.0 / (batch.len() * self.x.dim) as f32)
    }
}

impl Fsq {
    /// t of each vector.
    fn bounded(&self, x: Rows) -> Vec<f32> {
        let mut t = self.net.latents(x);
        t.par_chunks_mut(1 << 12).for_each(|t| kernel::activate(t, Activation::Tanh));
        t
    }

    /// Digits of a vector to its codes: the first of a group counts most.
    fn codes_of<'a>(&'a self, digits: &'a [u32]) -> impl Iterator<Item = u32> + 'a {
        let groups = digits.chunks(self.group).zip(self.values.chunks(self.group));
        groups.map(|(digits, values)| digits.iter().zip(values).fold(0, |code, (d, v)| code * v + d))
    }
}

impl Tokeniser for Fsq {
    fn dim(&self) -> usize {
        self.net.dim()
    }

    fn sizes(&self) -> &[u32] {
        &self.sizes
    }

    fn encode(&self, x: Rows) -> Vec<u32> {
        let t = self.bounded(x);
        let mut codes = Vec::with_capacity(x.len() * self.sizes.len());
        for t in t.chunks_exact(self.values.len()) {
            let digits: Vec<u32> = t.iter().zip(&self.values).map(|(&t, &v)| digit(t, v)).collect();
            codes.extend(self.codes_of(&digits));
        }
        codes
    }

    fn decode(&self, codes: &[u32]) -> Vec<f32> {
        let mut r = Vec::with_capacity(codes.len() * self.group);
        for codes in codes.chunks_exact(self.sizes.len()) {
            for (&code, values) in codes.iter().zip(self.values.chunks(self.group)) {
                let (start, mut left) = (r.len(), code);
                for &v in values.iter().rev() {
                    r.push(value(left % v, v));
                    left /= v;
                }
                r[start..].reverse();
            }
        }
        self.net.vectors(Rows::new(&r, self.values.len()))
    }

    /// The nearest points of the grid.
    fn best(&self, x: &[f32], most: usize) -> Vec<(Vec<u32>, f32)> {
        let t = self.bounded(Rows::new(x, self.dim()));
        let by_distance = |(&t, &v): (&f32, &u32)| {
            let mut own: Vec<(u32, f32)> = (0..v).map(|d| (d, (t - value(d, v)).powi(2))).collect();
            own.sort_by(|a, b| a.1.total_cmp(&b.1).then(a.0.cmp(&b.0)));
            own
        };
        let found = cheapest(t.iter().zip(&self.values).map(by_distance), most);
        found.into_iter().map(|(digits, distance)| (self.codes_of(&digits).collect(), distance)).collect()
    }

    fn weights(&self) -> Weights {
        let mut weights = Weights::default();
        weights.set_u32("values", &[self.values.len()], self.values.clone());
        weights.set_u32("group", &[1], vec![self.group as u32]);
        self.net.put(&mut weights);
        weights
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::grouped;
    use super::*;

    #[test]
    fn digits_are_the_nearest_values() {
        for values in 2..9u32 {
            for at in -120..=120 {
                let t = at as f32 / 100.0;
                let far = |d: u32| (t - value(d, values)).abs();
                let least = (0..values).map(far).fold(f32::INFINITY, f32::min);
                assert!((far(digit(t, values)) - least).abs() < 1e-6, "{t} of {values}");
            }
            assert_eq!((value(0, values), value(values - 1, values)), (-1.0, 1.0));
            assert_eq!(digit(f32::NAN, values), 0);
        }
    }

    fn config(group: usize) -> FsqConfig {
        FsqConfig {
            values: vec![5, 4, 3, 6],
            group,
            hidden: vec![20],
            training: Training { least_steps: 100, epochs: 1, ..Training::default() },
        }
    }

    #[test]
    fn groups_only_write_the_same_digits_otherwise() {
        let data = grouped(100, 6, 8, 1);
        let x = Rows::new(&data, 6);
        let [one, two, all] = [1, 2, 4].map(|group| config(group).fit(x, &FitContext::quiet(1)).unwrap());
        assert_eq!((one.sizes(), two.sizes(), all.sizes()), (&[5, 4, 3, 6][..], &[20, 18][..], &[360][..]));
        let digits = one.encode(x);
        let folded: Vec<u32> =
            digits.chunks_exact(4).flat_map(|d| [d[0] * 4 + d[1], d[2] * 6 + d[3]]).collect();
        assert_eq!(two.encode(x), folded);
        assert_eq!(two.decode(&folded), one.decode(&digits));
        assert_eq!(all.decode(&all.encode(x)), one.decode(&digits));
        let points = |t: &Fsq| t.best(x.row(3), 50).into_iter().map(|b| b.1).collect::<Vec<_>>();
        assert_eq!(points(&one), points(&all));
    }

    #[test]
    fn alternatives_are_all_points_of_the_grid_by_distance() {
        let data = grouped(80, 6, 8, 2);
        let x = Rows::new(&data, 6);
        let fitted = config(2).fit(x, &FitContext::quiet(1)).unwrap();
        let t = fitted.bounded(Rows::new(x.row(0), 6));
        let best = fitted.best(x.row(0), 1000);
        assert_eq!(best.len(), 360);
        for (codes, d) in best {
            let digits = [codes[0] / 4, codes[0] % 4, codes[1] / 6, codes[1] % 6];
            let far: f32 = (0..4).map(|i| (t[i] - value(digits[i], fitted.values[i])).powi(2)).sum();
            assert!((far - d).abs() < 1e-5);
        }
    }

    #[test]
    fn numbers_begin_with_room_on_both_sides() {
        let data = grouped(500, 6, 8, 3);
        let mut net = Autoencoder::new(Rows::new(&data, 6), &[20], 4, 1);
        let x = net.standardised(Rows::new(&data, 6));
        make_room(&mut net, Rows::new(&x, 6), &mut Rng::new(1));
        let z = net.latents(Rows::new(&data, 6));
        for i in 0..4 {
            let own: Vec<f32> = z.iter().skip(i).step_by(4).copied().collect();
            let mean = own.iter().sum::<f32>() / 500.0;
            let square = own.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / 500.0;
            assert!(mean.abs() < 1e-3 && (square - 1.0).abs() < 1e-2, "{mean} {square}");
        }
    }
}

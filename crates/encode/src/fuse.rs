//! Several vectors of an item as one: side by side, along their principal axes, along what they agree on, or turned towards others.
//!
//! y = b + Σ_m (x_m − μ_m) W_m over the inputs m that the item has: one that is missing counts as its mean, that is nothing.
//! Each input is first made alike by T_m: whitened, E (Λ + l2 λ̄)^−½ with E Λ Eᵀ its covariance and λ̄ the mean of Λ, or divided by
//! the root of its whole variance. Then, with C the covariance of all (x_m − μ_m) T_m:
//! - `concat`: W_m = T_m, each in numbers of its own;
//! - `pca`: W = T U, U the eigenvectors of C with the largest values;
//! - `cca`: the same with I in place of each input's own block of C, so that only what inputs share counts. For two inputs these
//!   are the canonical variates, value 1 + ρ, ρ their correlation; for more, Kettenring's MAXVAR;
//! - `project`: W = T (C + l2 c̄ I)⁻¹ Tᵀ cov(x, t), ridge regression on target vectors t, and b makes the mean right.
//!
//! Shapes: x_m (d_m), D = Σ d_m, C (D × D), W (D × dim). Cost: n D² for the covariances and about 9 D³ for the eigenvectors.
//! Sources: Hotelling, "Relations between two sets of variates", Biometrika 1936; Kettenring, "Canonical analysis of several sets
//! of variables", Biometrika 1971; Vinod, "Canonical ridge", Journal of Econometrics 1976; `keep` is for vectors trained as in
//! Kusupati et al., "Matryoshka Representation Learning", NeurIPS 2022, arXiv:2205.13147.
//! Departures: covariances of two inputs are taken over the items that have both. Directions without any variance are left out.

use crate::encoder::{Encoder, Vectors, plan, put_texts, take_f32, take_texts};
use crate::linear::{Eigen, cross, multiply, to_unit};
use crate::{EncodeError, require};
use faer::Mat;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sommelier_core::{FitContext, Item};
use sommelier_nn::{LoadError, Weights, kernel};
use std::collections::BTreeMap;
use std::ops::Range;

/// How several vectors become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    Concat,
    #[default]
    Pca,
    Cca,
    Project,
}

/// Defaults are customary, not searched for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FuseConfig {
    /// Names of the vectors to fuse; empty takes all there are.
    pub inputs: Vec<String>,
    pub method: Method,
    /// Length of the result of `pca` and `cca`; shorter where there are fewer directions.
    pub dim: usize,
    /// Whether each input is made uncorrelated and even before; `cca` always does it.
    pub whiten: bool,
    /// λ of whitening and of the regression, as a share of the mean variance of a number.
    pub l2: f64,
    /// Of inputs trained for it, only so many numbers from the front, brought to unit length.
    pub keep: BTreeMap<String, usize>,
    /// How much an input counts; 1 for those not named.
    pub boost: BTreeMap<String, f32>,
    /// `project`: the name of the vectors to come close to, such as those that a model learned from behaviour.
    pub target: String,
    /// Whether the result has unit length.
    pub unit: bool,
}

impl Default for FuseConfig {
    fn default() -> FuseConfig {
        FuseConfig {
            inputs: Vec::new(),
            method: Method::Pca,
            dim: 128,
            whiten: true,
            l2: 1e-2,
            keep: BTreeMap::new(),
            boost: BTreeMap::new(),
            target: String::new(),
            unit: true,
        }
    }
}

/// One input, and where its numbers lie among all.
#[derive(Debug, Clone, PartialEq)]
struct Input {
    name: String,
    at: Range<usize>,
    /// Whether only the front of it is taken.
    cut: bool,
}

/// Means and the matrix W.
#[derive(Debug, Clone)]
pub struct FuseEncoder {
    inputs: Vec<Input>,
    unit: bool,
    dim: usize,
    mean: Vec<f32>,
    /// D × dim
    w: Vec<f32>,
    bias: Vec<f32>,
    report: Vec<String>,
}

/// The first `k` numbers of a vector, of unit length.
pub fn front(v: &[f32], k: usize) -> Vec<f32> {
    let mut v = v[..k.min(v.len())].to_vec();
    to_unit(&mut v);
    v
}

impl FuseConfig {
    pub fn fit(
        &self,
        items: &[Option<Item>],
        named: &BTreeMap<String, Vectors>,
        ctx: &FitContext,
    ) -> Result<(FuseEncoder, Vectors), EncodeError> {
        require("dim", self.dim as f64, self.dim > 0, "at least 1")?;
        require("l2", self.l2, self.l2 >= 0.0 && self.l2.is_finite(), "0 or more")?;
        for &boost in self.boost.values() {
            require("boost", boost.into(), boost > 0.0 && boost.is_finite(), "more than 0")?;
        }
        let n = items.len();
        let inputs = self.inputs(named, n)?;
        let all = inputs.last().map_or(0, |input| input.at.end);
        plan(
            ctx,
            4 * (n * all) as u64 + 8 * 6 * (all * all) as u64,
            &format!("{n} vectors of {all} numbers and matrices of {all} × {all}"),
            "lower keep",
        )?;
        ctx.cancel.check()?;
        let mut encoder = FuseEncoder {
            inputs,
            unit: self.unit,
            dim: 0,
            mean: vec![0f32; all],
            w: Vec::new(),
            bias: Vec::new(),
            report: Vec::new(),
        };
        for input in &encoder.inputs {
            let present = named[&input.name].present();
            encoder.report.push(format!("{} of {n} items have {}", present, input.name));
        }
        // Means first, then everything less them, with nothing where an input is missing.
        let mut x = encoder.side_by_side(named, n)?;
        encoder.mean = means(&x, all, &encoder.inputs, named);
        for (i, row) in x.chunks_exact_mut(all).enumerate() {
            for input in &encoder.inputs {
                if named[&input.name].known[i] {
                    let of = input.at.clone();
                    row[of.clone()].iter_mut().zip(&encoder.mean[of]).for_each(|(v, m)| *v -= m);
                }
            }
        }
        let cov = covariance(&x, all, &encoder.inputs, named);
        let t = self.alike(&cov, &encoder)?;
        ctx.cancel.check()?;
        match self.method {
            Method::Concat => encoder.set(&t),
            Method::Pca => {
                let c = multiply(multiply(t.transpose(), cov.as_ref()).as_ref(), t.as_ref());
                let eigen = Eigen::of(&rows_of(&c), c.nrows())?;
                let dim = eigen.rank().min(self.dim);
                let kept: f64 = eigen.values[..dim].iter().sum();
                let sum: f64 = eigen.values.iter().filter(|v| **v > 0.0).sum();
                encoder
                    .report
                    .push(format!("{dim} numbers keep {:.0} % of the variance", 100.0 * kept / sum));
                encoder.set(&multiply(t.as_ref(), leading(&eigen, dim).as_ref()));
            }
            Method::Cca => self.agree(&mut encoder, &cov, &t)?,
            Method::Project => self.regress(&mut encoder, &x, &t, named)?,
        }
        if encoder.dim == 0 {
            return Err(EncodeError::NoData(format!(
                "{} says nothing: its vectors are all the same, or inputs have nothing in common; \
                 use other inputs or another method",
                encoder.names()
            )));
        }
        let fused: Vec<_> = (0..n)
            .into_par_iter()
            .map(|i| encoder.fuse(|name| named.get(name).and_then(|v| v.row(i))))
            .collect();
        let vectors = Vectors::from_rows(encoder.dim, fused);
        encoder.report.push(format!("{} of {n} items have a vector", vectors.present()));
        Ok((encoder, vectors))
    }

    pub fn load(&self, weights: &Weights) -> Result<FuseEncoder, LoadError> {
        let names = take_texts(weights, "inputs")?;
        let (all, dim, w) = weights.matrix("w", None)?;
        let (_, ends) = weights.u32("ends")?;
        if ends.len() != names.len() || !ends.is_sorted() || ends.last().copied().unwrap_or(0) as usize != all
        {
            return Err(LoadError::Shape {
                name: "ends".into(),
                expected: vec![names.len()],
                received: vec![ends.len()],
            });
        }
        let mut from = 0;
        let inputs = names.into_iter().zip(ends).map(|(name, &end)| {
            let at = from..end as usize;
            from = at.end;
            Input { cut: self.keep.contains_key(&name), name, at }
        });
        Ok(FuseEncoder {
            inputs: inputs.collect(),
            unit: self.unit,
            dim,
            mean: take_f32(weights, "mean", all)?,
            w: w.to_vec(),
            bias: take_f32(weights, "bias", dim)?,
            report: take_texts(weights, "report")?,
        })
    }

    /// The inputs, each with its place; an error in words where they do not fit the catalogue or each other.
    fn inputs(&self, named: &BTreeMap<String, Vectors>, n: usize) -> Result<Vec<Input>, EncodeError> {
        let wrong = |what: String| Err(EncodeError::Input(what));
        let there = || named.keys().cloned().collect::<Vec<_>>().join(", ");
        let names: Vec<String> = if self.inputs.is_empty() {
            named
                .keys()
                .filter(|name| **name != self.target || self.method != Method::Project)
                .cloned()
                .collect()
        } else {
            self.inputs.clone()
        };
        if names.is_empty() {
            return wrong("there are no vectors to fuse; name other encoders as inputs".into());
        }
        for name in self.keep.keys().chain(self.boost.keys()) {
            if !names.contains(name) {
                return wrong(format!(
                    "keep or boost names {name}, which is no input; the inputs are {}",
                    names.join(", ")
                ));
            }
        }
        if self.method == Method::Cca && names.len() < 2 {
            return wrong(format!("cca needs two inputs or more, received {}; use pca", names.join(", ")));
        }
        let mut inputs: Vec<Input> = Vec::with_capacity(names.len());
        let target = (self.method == Method::Project).then_some(&self.target);
        for name in names.iter().chain(target) {
            let Some(vectors) = named.get(name) else {
                return wrong(format!("there are no vectors named {name:?}; there are: {}", there()));
            };
            if vectors.len() != n {
                return wrong(format!(
                    "{name} has vectors of {} items, the catalogue has {n}; encode it again",
                    vectors.len()
                ));
            }
            if let Some(i) =
                (0..n).find(|&i| vectors.row(i).is_some_and(|r| r.iter().any(|v| !v.is_finite())))
            {
                return wrong(format!(
                    "{name} holds NaN or infinity for item number {i}; leave such vectors out"
                ));
            }
            if vectors.present() == 0 || vectors.dim == 0 {
                return Err(EncodeError::NoData(format!("no item has {name}; leave it out of the inputs")));
            }
            if inputs.len() == names.len() {
                break;
            }
            if inputs.iter().any(|input| input.name == *name) {
                return wrong(format!("{name} is named twice among the inputs"));
            }
            let keep = self.keep.get(name).copied();
            if keep.is_some_and(|k| k == 0 || k > vectors.dim) {
                return wrong(format!(
                    "keep of {name} must be from 1 to {}, received {}",
                    vectors.dim,
                    keep.unwrap_or_default()
                ));
            }
            let start = inputs.last().map_or(0, |input| input.at.end);
            let at = start..start + keep.unwrap_or(vectors.dim);
            inputs.push(Input { name: name.clone(), at, cut: keep.is_some() });
        }
        Ok(inputs)
    }

    /// T: what makes each input as large as the others, as one matrix with a block for each (D × what is left).
    fn alike(&self, cov: &Mat<f64>, encoder: &FuseEncoder) -> Result<Mat<f64>, EncodeError> {
        /// A variance below this share of the squared mean is the rounding of 32-bit numbers.
        const ROUNDING: f64 = 1e-12;
        let whiten = self.whiten || self.method == Method::Cca;
        let mut blocks: Vec<(usize, Vec<Vec<f64>>)> = Vec::new();
        for input in &encoder.inputs {
            // The whitened blocks of `cca` must stay so; the boost comes after.
            let boost = if self.method == Method::Cca { 1.0 } else { self.boost_of(input) };
            let (from, d) = (input.at.start, input.at.len());
            let own: Vec<f64> = (0..d * d).map(|i| cov[(from + i / d, from + i % d)]).collect();
            let trace: f64 = (0..d).map(|i| own[i * d + i]).sum();
            let mean = encoder.mean[input.at.clone()].iter().map(|&m| f64::from(m).powi(2)).sum::<f64>();
            let floor = mean * ROUNDING;
            let columns = if whiten {
                let eigen = Eigen::of(&own, d)?;
                let least = self.l2 * trace / d as f64;
                (0..eigen.rank())
                    .filter(|&k| eigen.values[k] > floor)
                    .map(|k| {
                        let scale = boost / (eigen.values[k] + least).sqrt();
                        (0..d).map(|i| eigen.at(i, k) * scale).collect()
                    })
                    .collect()
            } else if trace > floor {
                let scale = boost / trace.sqrt();
                (0..d).map(|k| (0..d).map(|i| if i == k { scale } else { 0.0 }).collect()).collect()
            } else {
                Vec::new()
            };
            blocks.push((from, columns));
        }
        let width = blocks.iter().map(|(_, columns)| columns.len()).sum();
        let mut t = Mat::zeros(cov.nrows(), width);
        let columns = blocks.iter().flat_map(|(from, columns)| columns.iter().map(move |c| (*from, c)));
        for (k, (from, column)) in columns.enumerate() {
            column.iter().enumerate().for_each(|(i, &v)| t[(from + i, k)] = v);
        }
        Ok(t)
    }

    fn boost_of(&self, input: &Input) -> f64 {
        self.boost.get(&input.name).copied().unwrap_or(1.0).into()
    }

    fn agree(&self, encoder: &mut FuseEncoder, cov: &Mat<f64>, t: &Mat<f64>) -> Result<(), EncodeError> {
        let mut c = multiply(multiply(t.transpose(), cov.as_ref()).as_ref(), t.as_ref());
        let owner = |k: usize| {
            let first = (0..t.nrows()).find(|&i| t[(i, k)] != 0.0).unwrap_or(0);
            encoder.inputs.iter().position(|input| input.at.contains(&first))
        };
        let owners: Vec<_> = (0..t.ncols()).map(owner).collect();
        for i in 0..c.nrows() {
            for j in (0..c.ncols()).filter(|&j| owners[i] == owners[j]) {
                c[(i, j)] = f64::from(u8::from(i == j));
            }
        }
        let eigen = Eigen::of(&rows_of(&c), c.nrows())?;
        // 1 is what a direction has that nothing else agrees with.
        let shared = eigen.values.iter().take_while(|v| **v > 1.0 + 1e-6).count();
        let dim = shared.min(self.dim);
        let others = (encoder.inputs.len() - 1) as f64;
        let told: Vec<String> =
            eigen.values[..dim].iter().take(8).map(|v| format!("{:.2}", (v - 1.0) / others)).collect();
        encoder.report.push(format!("inputs agree in {shared} directions, correlations {}", told.join(", ")));
        let mut w = multiply(t.as_ref(), leading(&eigen, dim).as_ref());
        for input in &encoder.inputs {
            let boost = self.boost_of(input);
            for i in input.at.clone() {
                (0..dim).for_each(|k| w[(i, k)] *= boost);
            }
        }
        encoder.set(&w);
        Ok(())
    }

    fn regress(
        &self,
        encoder: &mut FuseEncoder,
        x: &[f32],
        t: &Mat<f64>,
        named: &BTreeMap<String, Vectors>,
    ) -> Result<(), EncodeError> {
        let (all, target) = (encoder.mean.len(), &named[&self.target]);
        let has = |i: usize| encoder.inputs.iter().any(|input| named[&input.name].known[i]);
        let both: Vec<usize> = (0..target.len()).filter(|&i| target.known[i] && has(i)).collect();
        if both.len() < 2 {
            return Err(EncodeError::NoData(format!(
                "{} items have both {} and {}; a regression needs two at least, and many to be of use",
                both.len(),
                encoder.names(),
                self.target
            )));
        }
        let n = both.len() as f64;
        // Less the means over these items, which are not those over all.
        let centred = |rows: &mut Vec<f32>, width: usize| {
            let mean: Vec<f64> = column_sums(rows, width).iter().map(|s| s / n).collect();
            rows.chunks_exact_mut(width).for_each(|row| {
                row.iter_mut().zip(&mean).for_each(|(v, m)| *v = (f64::from(*v) - m) as f32);
            });
            mean
        };
        let mut x: Vec<f32> = both.iter().flat_map(|&i| &x[i * all..][..all]).copied().collect();
        let mut y: Vec<f32> = both.iter().flat_map(|&i| target.row(i).unwrap_or_default()).copied().collect();
        let (x_mean, y_mean) = (centred(&mut x, all), centred(&mut y, target.dim));
        let square = |from: &[f32], width: usize| {
            let sums = cross((&x, all), (from, width));
            Mat::from_fn(all, width, |i, j| sums[i * width + j] / n)
        };
        let c = multiply(multiply(t.transpose(), square(&x, all).as_ref()).as_ref(), t.as_ref());
        let towards = multiply(t.transpose(), square(&y, target.dim).as_ref());
        let eigen = Eigen::of(&rows_of(&c), c.nrows())?;
        let rank = eigen.rank();
        let least = self.l2 * eigen.values.iter().sum::<f64>() / eigen.values.len().max(1) as f64;
        let u = leading(&eigen, rank);
        let mut along = multiply(u.transpose(), towards.as_ref());
        for k in 0..rank {
            (0..along.ncols()).for_each(|j| along[(k, j)] /= eigen.values[k] + least);
        }
        let w = multiply(t.as_ref(), multiply(u.as_ref(), along.as_ref()).as_ref());
        encoder.set(&w);
        for j in 0..encoder.dim {
            let shift: f64 = (0..all).map(|i| x_mean[i] * w[(i, j)]).sum();
            encoder.bias[j] = (y_mean[j] - shift) as f32;
        }
        let found = crate::linear::product((&x, all), (&encoder.w, encoder.dim));
        let squares = |each: &mut dyn Iterator<Item = f32>| each.map(|v| f64::from(v).powi(2)).sum::<f64>();
        let missed = squares(&mut found.iter().zip(&y).map(|(a, b)| a - b));
        let whole = squares(&mut y.iter().copied());
        let explained = if whole > 0.0 { 100.0 * (1.0 - missed / whole) } else { 0.0 };
        encoder.report.push(format!(
            "{explained:.0} % of the variance of {} is explained in the {} items that it was fitted on",
            self.target,
            both.len()
        ));
        Ok(())
    }
}

impl FuseEncoder {
    fn names(&self) -> String {
        self.inputs.iter().map(|input| input.name.as_str()).collect::<Vec<_>>().join(", ")
    }

    fn set(&mut self, w: &Mat<f64>) {
        self.dim = w.ncols();
        self.w = rows_of(w).iter().map(|&v| v as f32).collect();
        self.bias = vec![0.0; self.dim];
    }

    /// All inputs of all items next to each other, zeros where one is missing.
    fn side_by_side(&self, named: &BTreeMap<String, Vectors>, n: usize) -> Result<Vec<f32>, EncodeError> {
        let all = self.mean.len();
        let mut x = vec![0f32; n * all];
        x.par_chunks_mut(all.max(1)).enumerate().for_each(|(i, row)| {
            for input in &self.inputs {
                if let Some(v) = named[&input.name].row(i) {
                    row[input.at.clone()].copy_from_slice(&input.taken(v));
                }
            }
        });
        if x.iter().any(|v| v.abs() > 1e15) {
            return Err(EncodeError::Input(format!(
                "some vectors of {} are too large; scale them",
                self.names()
            )));
        }
        Ok(x)
    }

    fn fuse<'a>(&self, named: impl Fn(&str) -> Option<&'a [f32]>) -> Option<Vec<f32>> {
        let (mut out, mut any) = (self.bias.clone(), false);
        for input in &self.inputs {
            let Some(v) = named(&input.name) else { continue };
            // Another length is of another encoder: as good as missing.
            let long_enough = if input.cut { v.len() >= input.at.len() } else { v.len() == input.at.len() };
            if !long_enough || v.iter().any(|v| !v.is_finite()) {
                continue;
            }
            any = true;
            for (at, v) in input.at.clone().zip(input.taken(v)) {
                kernel::axpy(v - self.mean[at], &self.w[at * self.dim..][..self.dim], &mut out);
            }
        }
        if self.unit {
            to_unit(&mut out);
        }
        any.then_some(out)
    }
}

impl Input {
    fn taken(&self, v: &[f32]) -> Vec<f32> {
        if self.cut { front(v, self.at.len()) } else { v.to_vec() }
    }
}

impl Encoder for FuseEncoder {
    fn dim(&self) -> usize {
        self.dim
    }

    fn encode(&self, _: &Item, named: &dyn Fn(&str) -> Option<Vec<f32>>) -> Option<Vec<f32>> {
        let found: BTreeMap<&str, Vec<f32>> =
            self.inputs.iter().filter_map(|input| Some((input.name.as_str(), named(&input.name)?))).collect();
        self.fuse(|name| found.get(name).map(Vec::as_slice))
    }

    fn weights(&self) -> Weights {
        let mut weights = Weights::default();
        put_texts(&mut weights, "inputs", self.inputs.iter().map(|input| input.name.as_str()));
        put_texts(&mut weights, "report", self.report.iter().map(String::as_str));
        let ends = self.inputs.iter().map(|input| input.at.end as u32).collect();
        weights.set_u32("ends", &[self.inputs.len()], ends);
        weights.set_f32("mean", &[self.mean.len()], self.mean.clone());
        weights.set_f32("w", &[self.mean.len(), self.dim], self.w.clone());
        weights.set_f32("bias", &[self.dim], self.bias.clone());
        weights
    }

    fn report(&self) -> Vec<String> {
        self.report.clone()
    }
}

fn column_sums(x: &[f32], width: usize) -> Vec<f64> {
    let mut sums = vec![0f64; width];
    for row in x.chunks_exact(width.max(1)) {
        sums.iter_mut().zip(row).for_each(|(s, &v)| *s += f64::from(v));
    }
    sums
}

/// The mean of each number over the items that have its input.
fn means(x: &[f32], all: usize, inputs: &[Input], named: &BTreeMap<String, Vectors>) -> Vec<f32> {
    let mut sums = column_sums(x, all);
    for input in inputs {
        let n = named[&input.name].present() as f64;
        sums[input.at.clone()].iter_mut().for_each(|s| *s /= n);
    }
    sums.iter().map(|&s| s as f32).collect()
}

/// Covariances, each over the items that have both inputs; 0 where none has.
fn covariance(x: &[f32], all: usize, inputs: &[Input], named: &BTreeMap<String, Vectors>) -> Mat<f64> {
    let sums = cross((x, all), (x, all));
    let mut cov = Mat::zeros(all, all);
    for a in inputs {
        for b in inputs {
            let (a_known, b_known) = (&named[&a.name].known, &named[&b.name].known);
            let both = a_known.iter().zip(b_known).filter(|(a, b)| **a && **b).count().max(1) as f64;
            for i in a.at.clone() {
                b.at.clone().for_each(|j| cov[(i, j)] = sums[i * all + j] / both);
            }
        }
    }
    cov
}

fn rows_of(m: &Mat<f64>) -> Vec<f64> {
    (0..m.nrows()).flat_map(|i| (0..m.ncols()).map(move |j| m[(i, j)])).collect()
}

/// The first eigenvectors as columns.
fn leading(eigen: &Eigen, dim: usize) -> Mat<f64> {
    let n = eigen.values.len();
    let turned = eigen.scaled(dim, |_| 1.0);
    // Their signs are those of the 32-bit form; the numbers stay exact.
    Mat::from_fn(n, dim, |i, k| {
        let v = eigen.at(i, k);
        if (v < 0.0) == (turned[i * dim + k] < 0.0) { v } else { -v }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::EncoderConfig;
    use crate::encoder::tests::{check, item, none};
    use crate::linear::tests::drawn;
    use proptest::prelude::*;
    use serde_json::json;
    use sommelier_core::Rng;

    /// `n` items with three inputs that share something, some missing here and there, and a target.
    fn several(n: usize, seed: u64) -> (Vec<Option<Item>>, BTreeMap<String, Vectors>) {
        let mut rng = Rng::new(seed);
        let shared = drawn(n * 3, seed ^ 9);
        let mut of = |dim: usize, missing: bool| {
            let mix = drawn(3 * dim, rng.next_u64());
            let rows: Vec<_> = (0..n)
                .map(|i| {
                    let mut row: Vec<f32> =
                        (0..dim).map(|k| 2.0 + k as f32 + 0.5 * rng.normal() as f32).collect();
                    for (s, mix) in shared[i * 3..][..3].iter().zip(mix.chunks_exact(dim)) {
                        kernel::axpy(*s, mix, &mut row);
                    }
                    (!missing || rng.unit() > 0.2).then_some(row)
                })
                .collect();
            Vectors::from_rows(dim, rows)
        };
        let named = BTreeMap::from([
            ("text".to_owned(), of(6, true)),
            ("images".to_owned(), of(4, true)),
            ("sound".to_owned(), of(3, true)),
            ("behaviour".to_owned(), of(5, false)),
        ]);
        ((0..n).map(|i| item(&i.to_string(), json!({}))).collect(), named)
    }

    fn config(method: Method, inputs: &[&str]) -> FuseConfig {
        FuseConfig {
            method,
            inputs: inputs.iter().map(|&i| i.to_owned()).collect(),
            target: "behaviour".into(),
            unit: false,
            l2: 0.0,
            ..FuseConfig::default()
        }
    }

    fn fit(config: &FuseConfig, named: &BTreeMap<String, Vectors>) -> (FuseEncoder, Vectors) {
        let items = vec![None; named.values().next().unwrap().len()];
        config.fit(&items, named, &FitContext::quiet(1)).unwrap()
    }

    fn cov_of(rows: &[f32], dim: usize) -> Mat<f64> {
        let n = rows.len() / dim;
        let at = |i: usize, k: usize| f64::from(rows[i * dim + k]);
        let mean = |k: usize| (0..n).map(|i| at(i, k)).sum::<f64>() / n as f64;
        Mat::from_fn(dim, dim, |a, b| {
            (0..n).map(|i| (at(i, a) - mean(a)) * (at(i, b) - mean(b))).sum::<f64>() / n as f64
        })
    }

    #[test]
    fn what_every_encoder_promises() {
        let (items, named) = several(60, 1);
        for method in [Method::Concat, Method::Pca, Method::Cca, Method::Project] {
            for whiten in [true, false] {
                for unit in [true, false] {
                    let keep = BTreeMap::from([("text".to_owned(), 4)]);
                    let boost = BTreeMap::from([("images".to_owned(), 2.0)]);
                    let config = FuseConfig { whiten, unit, dim: 5, keep, boost, ..FuseConfig::default() };
                    let config = FuseConfig { method, target: "behaviour".into(), ..config };
                    let (encoder, _) = check(&EncoderConfig::Fuse(config), &items, &named);
                    assert!(encoder.report()[0].contains("of 60 items have"));
                    assert_eq!(encoder.encode(&Item::new("new"), &none), None);
                }
            }
        }
    }

    #[test]
    fn whitened_inputs_have_unit_covariance() {
        let (_, named) = several(80, 2);
        let (encoder, vectors) = fit(&config(Method::Concat, &["text"]), &named);
        let rows: Vec<f32> = (0..80).filter_map(|i| vectors.row(i)).flatten().copied().collect();
        assert_eq!(encoder.dim(), 6);
        assert!((cov_of(&rows, 6) - Mat::<f64>::identity(6, 6)).norm_max() < 1e-4);
        // Without whitening all inputs have the same variance in all.
        let plain = FuseConfig { whiten: false, ..config(Method::Concat, &["text", "behaviour"]) };
        let (_, vectors) = fit(&plain, &named);
        let own = cov_of(&(0..80).flat_map(|i| vectors.row(i).unwrap()[6..].to_vec()).collect::<Vec<_>>(), 5);
        assert!(((0..5).map(|i| own[(i, i)]).sum::<f64>() - 1.0).abs() < 1e-4);
    }

    #[test]
    fn principal_axes_are_uncorrelated_and_hold_the_most() {
        let (_, named) = several(80, 3);
        let config = FuseConfig { whiten: false, dim: 3, ..config(Method::Pca, &["behaviour"]) };
        let (_, vectors) = fit(&config, &named);
        let found = cov_of(&vectors.rows, 3);
        let own = cov_of(&named["behaviour"].rows, 5);
        let trace: f64 = (0..5).map(|i| own[(i, i)]).sum();
        let svd = own.svd().unwrap();
        for i in 0..3 {
            for j in 0..3 {
                let expected = if i == j { svd.S().column_vector()[i] / trace } else { 0.0 };
                assert!((found[(i, j)] - expected).abs() < 1e-5);
            }
        }
    }

    /// Canonical correlations another way: singular values of Lx⁻¹ Sxy Ly⁻ᵀ with Cholesky factors L.
    fn correlations(x: &Vectors, y: &Vectors, l2: f64) -> Vec<f64> {
        let rows: Vec<f32> =
            (0..x.len()).filter_map(|i| Some([x.row(i)?, y.row(i)?].concat())).flatten().collect();
        let (p, q) = (x.dim, y.dim);
        let all = cov_of(&rows, p + q);
        let inverse_root = |from: usize, d: usize| {
            let trace: f64 = (0..d).map(|i| all[(from + i, from + i)]).sum();
            let own = Mat::from_fn(d, d, |i, j| {
                all[(from + i, from + j)] + if i == j { l2 * trace / d as f64 } else { 0.0 }
            });
            let mut l = own.llt(faer::Side::Lower).unwrap().L().to_owned();
            let mut out = Mat::<f64>::identity(d, d);
            for k in 0..d {
                for i in 0..d {
                    let sum: f64 = (0..i).map(|j| l[(i, j)] * out[(j, k)]).sum();
                    out[(i, k)] = (out[(i, k)] - sum) / l[(i, i)];
                }
            }
            l = out;
            l
        };
        let between = Mat::from_fn(p, q, |i, j| all[(i, p + j)]);
        let (a, b) = (inverse_root(0, p), inverse_root(p, q));
        (&a * between * b.transpose()).singular_values().unwrap()
    }

    #[test]
    fn canonical_correlations_are_those_of_another_way() {
        let (_, mut named) = several(100, 4);
        // Both over the same items.
        let first = named["images"].clone();
        let text = named.get_mut("text").unwrap();
        let cut: Vec<_> = (0..100).map(|i| first.row(i).and(text.row(i)).map(<[f32]>::to_vec)).collect();
        *text = Vectors::from_rows(6, cut);
        let images = (0..100).map(|i| text.row(i).and(first.row(i)).map(<[f32]>::to_vec));
        let images = Vectors::from_rows(4, images);
        named.insert("images".into(), images);
        for l2 in [0.0, 0.1] {
            let config = FuseConfig { l2, ..config(Method::Cca, &["text", "images"]) };
            let (encoder, vectors) = fit(&config, &named);
            let expected = correlations(&named["text"], &named["images"], l2);
            assert_eq!(encoder.dim(), 4);
            let said = expected.iter().map(|r| format!("{r:.2}")).collect::<Vec<_>>().join(", ");
            assert!(encoder.report().iter().any(|l| l.ends_with(&said)), "{said}: {:?}", encoder.report());
            if l2 == 0.0 {
                // The halves of a variate have exactly this correlation.
                let half = |name: &'static str, k: usize| -> Vec<f32> {
                    let of = |i: usize| encoder.fuse(|n| named[n].row(i).filter(|_| n == name));
                    (0..100).filter_map(of).map(|v| v[k]).collect()
                };
                for (k, rho) in expected.iter().enumerate() {
                    let both: Vec<f32> =
                        half("text", k).iter().zip(half("images", k)).flat_map(|(a, b)| [*a, b]).collect();
                    let c = cov_of(&both, 2);
                    assert!((c[(0, 1)] / (c[(0, 0)] * c[(1, 1)]).sqrt() - rho).abs() < 1e-4);
                }
            }
            assert_eq!(vectors.present(), named["text"].present());
        }
    }

    #[test]
    fn one_number_each_has_the_correlation_of_a_hand() {
        let of = |v: [f32; 4]| Vectors::from_rows(1, v.map(|v| Some(vec![v])));
        let named =
            BTreeMap::from([("a".into(), of([1.0, 2.0, 3.0, 4.0])), ("b".into(), of([2.0, 1.0, 4.0, 3.0]))]);
        // Means 2.5 both, covariance (1.5·0.5 + 0.5·1.5 + 0.5·1.5 + 1.5·0.5) / 4 = 0.75, variances 1.25: 0.6.
        let (encoder, _) = fit(&config(Method::Cca, &["a", "b"]), &named);
        assert!(encoder.report().iter().any(|l| l.contains("1 directions, correlations 0.60")));
    }

    #[test]
    fn three_inputs_agree_on_what_they_share() {
        let (_, named) = several(400, 5);
        let config = FuseConfig { dim: 3, l2: 1e-3, ..config(Method::Cca, &["text", "images", "sound"]) };
        let (_, vectors) = fit(&config, &named);
        // What was mixed into all of them is told by the fused vector nearly as well as by itself.
        let shared = Vectors::from_rows(3, drawn(1200, 5 ^ 9).chunks(3).map(|r| Some(r.to_vec())));
        let found = correlations(&vectors, &shared, 0.0);
        assert!(found[0] > 0.95 && found[1] > 0.9 && found[2] > 0.7, "{found:?}");
    }

    #[test]
    fn projection_finds_a_linear_target_and_shrinks_as_the_formula_says() {
        let (_, mut named) = several(60, 6);
        let (source, w) = (named["behaviour"].clone(), drawn(5 * 2, 7));
        let target = |i: usize| {
            let mut t = vec![3.0, -4.0];
            source.row(i)?.iter().zip(w.chunks(2)).for_each(|(v, w)| kernel::axpy(*v, w, &mut t));
            (!i.is_multiple_of(7)).then_some(t)
        };
        let target = Vectors::from_rows(2, (0..60).map(target));
        named.insert("wanted".into(), target.clone());
        for whiten in [true, false] {
            let exact =
                FuseConfig { target: "wanted".into(), whiten, ..config(Method::Project, &["behaviour"]) };
            let (encoder, vectors) = fit(&exact, &named);
            assert!(encoder.report().iter().any(|l| l.starts_with("100 %")), "{:?}", encoder.report());
            assert_eq!(vectors.present(), 60, "items without a target get one");
            for i in (0..60usize).filter(|i| !i.is_multiple_of(7)) {
                let (a, b) = (vectors.row(i).unwrap(), target.row(i).unwrap());
                assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-2), "{a:?} {b:?}");
            }
        }
        // One number towards one: slope s_xt / (s_xx (1 + λ)), through the means.
        let of = |v: &[f32]| Vectors::from_rows(1, v.iter().map(|v| Some(vec![*v])));
        let named = BTreeMap::from([
            ("x".into(), of(&[1.0, 2.0, 3.0, 6.0])),
            ("t".into(), of(&[2.0, 3.0, 5.0, 6.0])),
        ]);
        let ridge =
            FuseConfig { target: "t".into(), l2: 0.5, whiten: false, ..config(Method::Project, &["x"]) };
        let (encoder, _) = fit(&ridge, &named);
        let slope = (2.0 * 2.0 + 1.0 * 1.0 + 0.0 + 3.0 * 2.0) / (14.0 * 1.5);
        let found = encoder.fuse(|_| Some(&[10.0])).unwrap()[0];
        assert!((f64::from(found) - (4.0 + 7.0 * slope)).abs() < 1e-5);
    }

    #[test]
    fn a_missing_input_counts_as_its_mean() {
        let (_, named) = several(60, 8);
        let (encoder, _) = fit(&config(Method::Pca, &["text", "images"]), &named);
        let images = [0.1, 0.2, 0.3, 0.4];
        let mean = encoder.mean[..6].to_vec();
        let without = encoder.fuse(|name| (name == "images").then_some(&images[..])).unwrap();
        let with = encoder.fuse(|name| Some(if name == "images" { &images[..] } else { &mean }));
        assert_eq!(with, Some(without.clone()));
        let odd = encoder.fuse(|name| Some(if name == "images" { &images[..] } else { &[f32::NAN; 6] }));
        assert_eq!(odd, Some(without));
        assert_eq!(front(&[3.0, 4.0, 5.0], 2), [0.6, 0.8]);
        assert_eq!(front(&[0.0, 0.0], 5), [0.0, 0.0]);
    }

    #[test]
    fn what_cannot_be_is_told() {
        let (items, mut named) = several(20, 9);
        let told = |config: FuseConfig, items: &[Option<Item>], named: &BTreeMap<String, Vectors>| {
            config.fit(items, named, &FitContext::quiet(1)).err().unwrap().to_string()
        };
        let of = |method, inputs: &[&str]| config(method, inputs);
        assert!(told(FuseConfig::default(), &items, &BTreeMap::new()).contains("no vectors to fuse"));
        assert!(told(of(Method::Pca, &["smell"]), &items, &named).contains("there are: behaviour, images"));
        assert!(told(of(Method::Cca, &["text"]), &items, &named).contains("two inputs or more"));
        assert!(told(of(Method::Pca, &["text", "text"]), &items, &named).contains("twice"));
        assert!(
            told(of(Method::Pca, &["text"]), &items[1..], &named).contains("20 items, the catalogue has 19")
        );
        let no_target = FuseConfig { target: "taste".into(), ..of(Method::Project, &["text"]) };
        assert!(told(no_target, &items, &named).contains("\"taste\""));
        let keep = BTreeMap::from([("text".to_owned(), 7)]);
        assert!(
            told(FuseConfig { keep, ..of(Method::Pca, &["text"]) }, &items, &named).contains("from 1 to 6")
        );
        let boost = BTreeMap::from([("txt".to_owned(), 1.0)]);
        assert!(
            told(FuseConfig { boost, ..of(Method::Pca, &["text"]) }, &items, &named).contains("no input")
        );
        assert!(
            told(FuseConfig { l2: f64::NAN, ..of(Method::Pca, &["text"]) }, &items, &named).contains("l2")
        );
        named.insert("same".into(), Vectors::from_rows(2, vec![Some(vec![0.1, 1.7]); 20]));
        for whiten in [true, false] {
            let same = FuseConfig { whiten, ..of(Method::Pca, &["same"]) };
            assert!(told(same, &items, &named).contains("says nothing"));
        }
        named.insert("none".into(), Vectors::from_rows(2, vec![None; 20]));
        assert!(told(of(Method::Pca, &["none"]), &items, &named).contains("no item has none"));
        named.get_mut("same").unwrap().rows[3] = f32::NAN;
        assert!(told(of(Method::Pca, &["same"]), &items, &named).contains("item number 1"));
    }

    proptest! {
        #[test]
        fn any_holes_are_lived_with(n in 1usize..12, seed: u64, whiten: bool, method in 0usize..4) {
            let mut rng = Rng::new(seed);
            let mut of = |dim: usize| {
                let rows = (0..n).map(|_| (rng.unit() > 0.4).then(|| (0..dim).map(|_| rng.normal() as f32).collect()));
                Vectors::from_rows(dim, rows.collect::<Vec<_>>())
            };
            let named = BTreeMap::from([("text".into(), of(3)), ("images".into(), of(2)), ("behaviour".into(), of(2))]);
            let method = [Method::Concat, Method::Pca, Method::Cca, Method::Project][method];
            let config = FuseConfig { whiten, ..config(method, &["text", "images"]) };
            if let Ok((_, vectors)) = config.fit(&vec![None; n], &named, &FitContext::quiet(1)) {
                prop_assert!(vectors.rows.iter().all(|v| v.is_finite()));
                for i in 0..n {
                    prop_assert_eq!(vectors.known[i], named["text"].known[i] || named["images"].known[i]);
                }
            }
        }
    }
}

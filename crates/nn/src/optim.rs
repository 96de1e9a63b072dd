//! Optimisers and learning-rate schedules.
//!
//! A rule says how a gradient moves a weight. Dense parameters have the state of every entry; tables have the state of
//! every row, and only rows with a gradient move (a lazy step, as in TensorFlow's `LazyAdam` and PyTorch's `SparseAdam`;
//! the bias correction counts all steps).

use crate::kernel::{self, AdamStep};
use crate::params::Params;
use crate::table::RowGrads;
use crate::tape::ParamGrads;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// How gradients move weights.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Rule {
    /// Kingma and Ba, ICLR 2015, with the decoupled decay of Loshchilov and Hutter, ICLR 2019.
    Adam { beta1: f32, beta2: f32, epsilon: f32 },
    /// Duchi, Hazan, Singer, JMLR 2011; in tables one sum for a whole row, the mean of the squares.
    Adagrad { epsilon: f32 },
    /// Plain stochastic gradient descent.
    Sgd,
}

impl Default for Rule {
    fn default() -> Rule {
        Rule::Adam { beta1: 0.9, beta2: 0.999, epsilon: 1e-8 }
    }
}

/// How the learning rate runs over a training.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Schedule {
    /// Steps during which it rises in a straight line from 0.
    pub warm_up: u64,
    /// What it does after that.
    pub then: Shape,
}

impl Default for Schedule {
    fn default() -> Schedule {
        Schedule { warm_up: 100, then: Shape::Cosine }
    }
}

impl Schedule {
    /// The same rate at all steps.
    pub const FLAT: Schedule = Schedule { warm_up: 0, then: Shape::Constant };
}

/// What a learning rate does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    Constant,
    /// Falls along half a cosine to a hundredth at the last step.
    Cosine,
    /// Falls in a straight line to a hundredth at the last step.
    Linear,
}

impl Schedule {
    /// What the learning rate is multiplied by at this step (from 0) of `total`.
    pub fn at(&self, step: u64, total: u64) -> f32 {
        if step < self.warm_up {
            return (step + 1) as f32 / self.warm_up as f32;
        }
        let left = total.saturating_sub(self.warm_up).max(1);
        let done = ((step - self.warm_up) as f32 / left as f32).min(1.0);
        let falling = match self.then {
            Shape::Constant => return 1.0,
            Shape::Cosine => 0.5 * (1.0 + (std::f32::consts::PI * done).cos()),
            Shape::Linear => 1.0 - done,
        };
        0.01 + 0.99 * falling
    }
}

/// A rule with what it remembers of the dense parameters.
#[derive(Debug, Clone)]
pub struct Optimiser {
    pub rule: Rule,
    /// Share of the learning rate by which decaying weights shrink at each step.
    pub decay: f32,
    /// Gradients longer than this, over all parameters, are shortened to it; 0 for never.
    pub clip: f32,
    /// Steps taken.
    pub(crate) steps: u64,
    /// Per dense parameter, as long as the parameter, or empty.
    pub(crate) first: Vec<Vec<f32>>,
    pub(crate) second: Vec<Vec<f32>>,
}

/// Numbers that one thread updates at a time.
const CHUNK: usize = 1 << 13;

impl Optimiser {
    pub fn new(rule: Rule, decay: f32, clip: f32) -> Optimiser {
        Optimiser { rule, decay, clip, steps: 0, first: Vec::new(), second: Vec::new() }
    }

    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// One step along the summed gradients; returns their length before clipping, which is not finite where something
    /// went wrong (nothing has moved then).
    pub fn step(&mut self, params: &mut Params, grads: &ParamGrads, rate: f32) -> f32 {
        let length = grads.square(params).sqrt() as f32;
        if !length.is_finite() {
            return length;
        }
        let scale = if self.clip > 0.0 && length > self.clip { self.clip / length } else { 1.0 };
        self.steps += 1;
        self.first.resize_with(params.dense.len(), Vec::new);
        self.second.resize_with(params.dense.len(), Vec::new);
        for (p, param) in params.dense.iter_mut().enumerate() {
            if !grads.touched[p] {
                continue;
            }
            let decay = if param.decay { self.decay } else { 0.0 };
            let step = self.row_step(rate * param.rate, decay, scale);
            let grad = &grads.dense[p];
            let (first, second) = (&mut self.first[p], &mut self.second[p]);
            let len = param.value.len();
            let widths = match self.rule {
                Rule::Adam { .. } => (len, len),
                Rule::Adagrad { .. } => (len, 0),
                Rule::Sgd => (0, 0),
            };
            first.resize(widths.0, 0.0);
            second.resize(widths.1, 0.0);
            let parts = param.value.par_chunks_mut(CHUNK).zip(grad.par_chunks(CHUNK));
            match self.rule {
                Rule::Adam { .. } => parts
                    .zip(first.par_chunks_mut(CHUNK))
                    .zip(second.par_chunks_mut(CHUNK))
                    .for_each(|(((w, g), m), v)| step.entries(w, g, m, v)),
                Rule::Adagrad { .. } => parts
                    .zip(first.par_chunks_mut(CHUNK))
                    .for_each(|((w, g), s)| step.entries(w, g, s, &mut [])),
                Rule::Sgd => parts.for_each(|(w, g)| step.entries(w, g, &mut [], &mut [])),
            }
        }
        for (table, grads) in params.tables.iter_mut().zip(&grads.tables) {
            let step = self.row_step(rate * table.rate, self.decay, scale);
            table.learn(grads, &step, self.steps);
        }
        length
    }

    fn row_step(&self, rate: f32, decay: f32, scale: f32) -> RowStep {
        let keep = 1.0 - rate * decay;
        match self.rule {
            Rule::Adam { beta1, beta2, epsilon } => {
                let t = self.steps as i32;
                let first = 1.0 - f64::from(beta1).powi(t);
                let second = 1.0 - f64::from(beta2).powi(t);
                RowStep::Adam(AdamStep {
                    rate: (f64::from(rate) / first) as f32,
                    correct: (1.0 / second.sqrt()) as f32,
                    beta1,
                    beta2,
                    epsilon,
                    keep,
                    scale,
                })
            }
            Rule::Adagrad { epsilon } => RowStep::Adagrad { rate, epsilon, keep, scale },
            Rule::Sgd => RowStep::Sgd { rate: rate * scale, keep },
        }
    }
}

/// A rule at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) enum RowStep {
    Adam(AdamStep),
    Adagrad { rate: f32, epsilon: f32, keep: f32, scale: f32 },
    Sgd { rate: f32, keep: f32 },
}

impl RowStep {
    /// Numbers of state that a row of `dim` needs.
    pub(crate) fn widths(&self, dim: usize) -> (usize, usize) {
        match self {
            RowStep::Adam(_) => (dim, dim),
            RowStep::Adagrad { .. } => (1, 0),
            RowStep::Sgd { .. } => (0, 0),
        }
    }

    /// Moves entries that each have their own state.
    fn entries(&self, w: &mut [f32], g: &[f32], first: &mut [f32], second: &mut [f32]) {
        match *self {
            RowStep::Adam(step) => kernel::adam(w, g, first, second, step),
            RowStep::Adagrad { rate, epsilon, keep, scale } => {
                kernel::adagrad(w, g, first, rate, epsilon, keep, scale);
            }
            RowStep::Sgd { rate, keep } => descend(w, g, rate, keep),
        }
    }

    /// Moves one row of a table.
    #[inline]
    pub(crate) fn row(&self, w: &mut [f32], g: &[f32], first: &mut [f32], second: &mut [f32]) {
        match *self {
            RowStep::Adam(step) => kernel::adam(w, g, first, second, step),
            RowStep::Adagrad { rate, epsilon, keep, scale } => {
                first[0] += scale * scale * kernel::dot(g, g) / g.len().max(1) as f32;
                descend(w, g, rate * scale / (first[0].sqrt() + epsilon), keep);
            }
            RowStep::Sgd { rate, keep } => descend(w, g, rate, keep),
        }
    }
}

fn descend(w: &mut [f32], g: &[f32], rate: f32, keep: f32) {
    if keep != 1.0 {
        kernel::scale(w, keep);
    }
    kernel::axpy(-rate, g, w);
}

impl ParamGrads {
    /// Adds up the gradients of many tapes into the first, in their order.
    pub fn sum_into_first(parts: &mut [ParamGrads]) {
        let Some((first, others)) = parts.split_first_mut() else { return };
        for p in 0..first.dense.len() {
            for other in others.iter().filter(|o| o.touched[p]) {
                if first.touched[p] {
                    let chunks = first.dense[p].par_chunks_mut(CHUNK).zip(other.dense[p].par_chunks(CHUNK));
                    chunks.for_each(|(mine, theirs)| kernel::axpy(1.0, theirs, mine));
                } else {
                    first.touched[p] = true;
                    first.dense[p].clear();
                    first.dense[p].extend_from_slice(&other.dense[p]);
                }
            }
        }
        for (t, mine) in first.tables.iter_mut().enumerate() {
            for other in others.iter() {
                mine.add(&other.tables[t]);
            }
        }
    }

    /// Σ of squares over everything.
    fn square(&self, params: &Params) -> f64 {
        let dense = (0..params.dense.len())
            .filter(|&p| self.touched[p])
            .map(|p| self.dense[p].chunks(1 << 12).map(|c| f64::from(kernel::dot(c, c))).sum::<f64>());
        dense.sum::<f64>() + self.tables.iter().map(RowGrads::square).sum::<f64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::Init;
    use crate::table::Table;

    /// A parameter and a table, both with the same numbers and gradients, beside plain loops in `f64`.
    #[test]
    fn rules_match_plain_loops() {
        for rule in [Rule::default(), Rule::Adagrad { epsilon: 1e-6 }, Rule::Sgd] {
            let mut params = Params::new(1);
            let dense = params.add("w", 5, 3, Init::Normal(1.0));
            let table = params.add_table(Table::of_range("t", 5, 3, 1.0, 2));
            let mut w: Vec<f64> = params.get(dense).value.iter().map(|&w| f64::from(w)).collect();
            let mut r: Vec<f64> = params.table(table).rows().iter().map(|&w| f64::from(w)).collect();
            let (mut m, mut v) = ([0f64; 15], [0f64; 15]);
            let (mut rm, mut rv, mut rs) = ([0f64; 15], [0f64; 15], [0f64; 5]);
            let mut s = [0f64; 15];
            let mut optimiser = Optimiser::new(rule, 0.1, 2.0);
            for t in 1..=6 {
                let mut grads = ParamGrads::default();
                grads.clear(&params);
                let g = |i: usize| ((i * 7 + t * 3) % 5) as f32 - 2.0;
                grads.dense[0] = (0..15).map(g).collect();
                grads.touched[0] = true;
                let slots = [4usize, 1];
                for slot in slots {
                    for l in 0..3 {
                        grads.tables[0].row_mut(slot as u32)[l] += g(slot * 3 + l);
                    }
                }
                let mut square: f64 = (0..15).map(|i| f64::from(g(i)).powi(2)).sum();
                square += slots
                    .iter()
                    .flat_map(|s| (0..3).map(move |l| f64::from(g(s * 3 + l)).powi(2)))
                    .sum::<f64>();
                let scale = (2.0 / square.sqrt()).min(1.0);
                let length = optimiser.step(&mut params, &grads, 0.05);
                assert!((f64::from(length) - square.sqrt()).abs() < 1e-4);
                let bias = |b: f64| 1.0 - b.powi(t as i32);
                let adam = |w: &mut f64, m: &mut f64, v: &mut f64, g: f64| {
                    *m = 0.9 * *m + 0.1 * g;
                    *v = 0.999 * *v + 0.001 * g * g;
                    *w = *w * (1.0 - 0.005) - 0.05 * (*m / bias(0.9)) / ((*v / bias(0.999)).sqrt() + 1e-8);
                };
                for i in 0..15 {
                    let g = scale * f64::from(g(i));
                    match rule {
                        Rule::Adam { .. } => adam(&mut w[i], &mut m[i], &mut v[i], g),
                        Rule::Adagrad { .. } => {
                            s[i] += g * g;
                            w[i] = w[i] * 0.995 - 0.05 * g / (s[i].sqrt() + 1e-6);
                        }
                        Rule::Sgd => w[i] = w[i] * 0.995 - 0.05 * g,
                    }
                }
                for slot in slots {
                    rs[slot] +=
                        (0..3).map(|l| (scale * f64::from(g(slot * 3 + l))).powi(2)).sum::<f64>() / 3.0;
                    for i in slot * 3..slot * 3 + 3 {
                        let g = scale * f64::from(g(i));
                        match rule {
                            Rule::Adam { .. } => adam(&mut r[i], &mut rm[i], &mut rv[i], g),
                            Rule::Adagrad { .. } => r[i] = r[i] * 0.995 - 0.05 * g / (rs[slot].sqrt() + 1e-6),
                            Rule::Sgd => r[i] = r[i] * 0.995 - 0.05 * g,
                        }
                    }
                }
            }
            for i in 0..15 {
                assert!((f64::from(params.get(dense).value[i]) - w[i]).abs() < 1e-5, "{rule:?} dense {i}");
                assert!((f64::from(params.table(table).rows()[i]) - r[i]).abs() < 1e-5, "{rule:?} row {i}");
            }
        }
    }

    #[test]
    fn a_step_that_is_not_finite_moves_nothing() {
        let mut params = Params::new(1);
        let w = params.add("w", 2, 2, Init::Ones);
        let mut grads = ParamGrads::default();
        grads.clear(&params);
        grads.dense[0] = vec![f32::NAN; 4];
        grads.touched[0] = true;
        let mut optimiser = Optimiser::new(Rule::default(), 0.0, 0.0);
        assert!(optimiser.step(&mut params, &grads, 0.1).is_nan());
        assert_eq!((params.get(w).value[0], optimiser.steps()), (1.0, 0));
    }

    #[test]
    fn schedules() {
        let flat = Schedule { warm_up: 4, then: Shape::Constant };
        assert_eq!([flat.at(0, 10), flat.at(3, 10), flat.at(9, 10)], [0.25, 1.0, 1.0]);
        for then in [Shape::Cosine, Shape::Linear] {
            let falling = Schedule { warm_up: 0, then };
            assert_eq!(falling.at(0, 100), 1.0);
            assert!((falling.at(50, 100) - 0.505).abs() < 1e-3);
            assert!((falling.at(100, 100) - 0.01).abs() < 1e-6);
        }
    }
}

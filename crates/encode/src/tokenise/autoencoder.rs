//! An encoder and a decoder with a narrow place between them, where codes are.
//!
//! z = W_m relu(… relu(W_1 (x − μ) / σ + b_1) …) + b_m, and the same widths back; μ is the mean of the vectors, σ the root of
//! their mean squared distance from it for each number, so that losses mean the same for vectors of any size.
//!
//! Shapes: x (n × d), z (n × latent). Cost: 2 n Σ in · out over the layers, three times that to learn.

use super::damaged;
use crate::Rows;
use rayon::prelude::*;
use sommelier_nn::op::Linear;
use sommelier_nn::{Activation, Init, LoadError, ParamId, Params, Tape, Tensor, Var, Weights, Workspace};

/// A linear layer.
#[derive(Debug, Clone, Copy)]
struct Layer {
    weight: ParamId,
    bias: ParamId,
}

/// Both sides, by the places of their weights.
#[derive(Debug, Clone)]
pub(super) struct Net {
    encoder: Vec<Layer>,
    decoder: Vec<Layer>,
}

/// Fitted weights of both sides.
#[derive(Debug, Clone)]
pub(super) struct Autoencoder {
    pub params: Params,
    pub net: Net,
    mean: Vec<f32>,
    /// σ
    spread: f32,
    latent: usize,
}

/// Rows that one task carries through; fixed, so that results do not depend on the number of threads.
const TILE: usize = 256;

impl Net {
    /// The latent vectors of standardised ones.
    pub fn encode(&self, tape: &mut Tape, x: Var) -> Var {
        run(tape, &self.encoder, x)
    }

    /// Standardised vectors.
    pub fn decode(&self, tape: &mut Tape, z: Var) -> Var {
        run(tape, &self.decoder, z)
    }

    /// The last weight of the encoder, and its bias.
    pub fn narrowest(&self) -> Option<(ParamId, ParamId)> {
        self.encoder.last().map(|layer| (layer.weight, layer.bias))
    }
}

fn run(tape: &mut Tape, layers: &[Layer], mut x: Var) -> Var {
    for (l, layer) in layers.iter().enumerate() {
        let last = l + 1 == layers.len();
        let activation = if last { Activation::Identity } else { Activation::Relu };
        let with = Linear { bias: Some(layer.bias.into()), activation, ..Linear::default() };
        x = tape.linear(x, layer.weight, with);
    }
    x
}

/// What one side makes of many rows, on the current rayon pool.
pub(super) fn carry(
    params: &Params,
    x: Rows,
    width: usize,
    side: impl Fn(&mut Tape, Var) -> Var + Sync,
) -> Vec<f32> {
    let mut out = vec![0f32; x.len() * width];
    let of_tile = |room: &mut Workspace, (out, x): (&mut [f32], &[f32])| {
        let mut tape = Tape::answering(params, std::mem::take(room));
        let given = tape.constant(Tensor::new(out.len() / width, x.len() / (out.len() / width), x.to_vec()));
        let made = side(&mut tape, given);
        out.copy_from_slice(tape.data(made));
        *room = tape.finish();
    };
    out.par_chunks_mut(TILE * width)
        .zip(x.data.par_chunks(TILE * x.dim))
        .for_each_init(Workspace::default, of_tile);
    out
}

impl Autoencoder {
    /// Not yet learned, for vectors like these.
    pub fn new(x: Rows, hidden: &[usize], latent: usize, seed: u64) -> Autoencoder {
        let mut mean = vec![0f64; x.dim];
        x.iter().for_each(|x| mean.iter_mut().zip(x).for_each(|(m, &x)| *m += f64::from(x)));
        mean.iter_mut().for_each(|m| *m /= x.len() as f64);
        let far = |x: &[f32]| x.iter().zip(&mean).map(|(&x, m)| (f64::from(x) - m).powi(2)).sum::<f64>();
        let spread = (x.iter().map(far).sum::<f64>() / x.data.len() as f64).sqrt() as f32;
        // Vectors that are all alike need no scale.
        let spread = if spread > 0.0 { spread } else { 1.0 };
        let mut params = Params::new(seed);
        let widths: Vec<usize> = [&[x.dim], hidden, &[latent]].concat();
        let mut side = |name: &str, widths: &[usize]| {
            let layer = |(l, w): (usize, &[usize])| Layer {
                weight: params.add(&format!("{name}.{l}.weight"), w[1], w[0], Init::Glorot),
                bias: params.add(&format!("{name}.{l}.bias"), 1, w[1], Init::Zeros),
            };
            widths.windows(2).enumerate().map(layer).collect()
        };
        let encoder = side("encoder", &widths);
        let decoder = side("decoder", &widths.iter().rev().copied().collect::<Vec<_>>());
        let mean = mean.into_iter().map(|m| m as f32).collect();
        Autoencoder { params, net: Net { encoder, decoder }, mean, spread, latent }
    }

    /// Length of the vectors it reads.
    pub fn dim(&self) -> usize {
        self.mean.len()
    }

    pub fn latent(&self) -> usize {
        self.latent
    }

    /// (x − μ) / σ
    pub fn standardised(&self, x: Rows) -> Vec<f32> {
        let row =
            |x: &[f32]| x.iter().zip(&self.mean).map(|(x, m)| (x - m) / self.spread).collect::<Vec<f32>>();
        x.data.par_chunks(x.dim).flat_map_iter(row).collect()
    }

    /// The latent vectors of vectors as they come.
    pub fn latents(&self, x: Rows) -> Vec<f32> {
        assert_eq!(x.dim, self.dim(), "length of the vectors to encode");
        let x = self.standardised(x);
        self.latents_of_standardised(Rows::new(&x, self.dim()))
    }

    pub fn latents_of_standardised(&self, x: Rows) -> Vec<f32> {
        carry(&self.params, x, self.latent, |tape, x| self.net.encode(tape, x))
    }

    /// The vectors that latent ones stand for.
    pub fn vectors(&self, z: Rows) -> Vec<f32> {
        let mut x = carry(&self.params, z, self.dim(), |tape, z| self.net.decode(tape, z));
        x.par_chunks_mut(self.dim())
            .for_each(|x| x.iter_mut().zip(&self.mean).for_each(|(x, m)| *x = *x * self.spread + m));
        x
    }

    pub fn put(&self, weights: &mut Weights) {
        weights.set_f32("mean", &[self.mean.len()], self.mean.clone());
        weights.set_f32("spread", &[1], vec![self.spread]);
        for layer in self.net.encoder.iter().chain(&self.net.decoder) {
            for id in [layer.weight, layer.bias] {
                let param = self.params.get(id);
                weights.set_f32(&param.name, &[param.rows, param.cols], param.value.clone());
            }
        }
    }

    /// What [`Self::put`] put there.
    pub fn read(weights: &Weights) -> Result<Autoencoder, LoadError> {
        let mean = weights.f32("mean")?.1.to_vec();
        let spread = match weights.f32("spread")?.1 {
            &[spread] if spread > 0.0 => spread,
            other => return Err(damaged(&format!("spread is {other:?}, expected one number above 0"))),
        };
        let mut params = Params::new(0);
        let (encoder, latent) = read_side(weights, &mut params, "encoder", mean.len())?;
        let (decoder, dim) = read_side(weights, &mut params, "decoder", latent)?;
        if dim != mean.len() || dim == 0 || latent == 0 {
            return Err(damaged(&format!("the decoder makes {dim} numbers, expected {}", mean.len())));
        }
        Ok(Autoencoder { params, net: Net { encoder, decoder }, mean, spread, latent })
    }
}

/// The layers of one side, and how wide the last is.
fn read_side(
    weights: &Weights,
    params: &mut Params,
    name: &str,
    mut width: usize,
) -> Result<(Vec<Layer>, usize), LoadError> {
    let mut layers = Vec::new();
    loop {
        let named = |what: &str| format!("{name}.{}.{what}", layers.len());
        // There is at least one.
        if !layers.is_empty() && !weights.0.contains_key(&named("weight")) {
            return Ok((layers, width));
        }
        let mut param = |name: String, rows: Option<usize>, cols: usize| {
            let (height, _, data) = weights.matrix(&name, Some(cols))?;
            if rows.is_some_and(|rows| rows != height) {
                return Err(damaged(&format!("{name} has {height} rows, expected {rows:?}")));
            }
            let id = params.add(&name, height, cols, Init::Zeros);
            params.get_mut(id).value.copy_from_slice(data);
            Ok((id, height))
        };
        let (weight, height) = param(named("weight"), None, width)?;
        let (bias, _) = param(named("bias"), Some(1), height)?;
        layers.push(Layer { weight, bias });
        width = height;
    }
}

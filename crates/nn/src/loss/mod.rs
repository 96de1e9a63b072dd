//! Losses, one file each: a method on [`Tape`] that makes a 1 × 1 node of scale · Σ over rows.
//!
//! The scale lets shards of a batch be weighed by 1 / (rows of the whole batch). A batch without rows has loss 0 and no
//! gradient. Losses over scores take a matrix s (n × (1 + m)): column 0 is the right item, the others were drawn.
//! What is not a number in the input is not one in the loss.

mod alignment;
mod binary_cross_entropy;
mod bpr;
mod catalogue;
mod gbce;
mod hinge;
mod huber;
mod info_nce;
mod kl;
mod sampled_softmax;
mod squared;
mod uniformity;
mod warp;

pub use catalogue::Items;
pub use gbce::gbce_beta;

use crate::kernel;
use crate::tape::{Backward, Grads, Tape, Tensor, Values, Var};

impl Tape<'_> {
    /// scale · Σ over rows of what `row` returns for (r, row r of x, slopes); it must fill in all slopes of its row.
    fn loss_by_rows(
        &mut self,
        x: Var,
        scale: f32,
        mut row: impl FnMut(usize, &[f32], &mut [f32]) -> f64,
    ) -> Var {
        let (n, width) = self.shape(x);
        let wanted = self.wants(x);
        // Where nobody asks for slopes, all rows write theirs to one place.
        let stride = if wanted { width } else { 0 };
        let mut slopes = self.take(if wanted { n * width } else { width });
        let data = self.data(x);
        let mut loss = 0.0;
        for r in 0..n {
            loss += row(r, &data[r * width..][..width], &mut slopes[r * stride..][..width]);
        }
        if !wanted {
            self.give(std::mem::take(&mut slopes));
        }
        self.push_loss(scale, loss, wanted, || Box::new(Known { x, scale, slopes }))
    }

    fn push_loss(
        &mut self,
        scale: f32,
        loss: f64,
        wanted: bool,
        way_back: impl FnOnce() -> Box<dyn Backward>,
    ) -> Var {
        self.push(Tensor::new(1, 1, vec![(f64::from(scale) * loss) as f32]), wanted, way_back)
    }
}

/// The way back of a loss whose slopes were found on the way forwards.
struct Known {
    x: Var,
    scale: f32,
    slopes: Vec<f32>,
}

impl Backward for Known {
    fn backward(self: Box<Self>, _: &Tensor, dy: &mut [f32], _: &Values, grads: &mut Grads) {
        kernel::axpy(dy[0] * self.scale, &self.slopes, grads.sum(self.x));
        grads.workspace.give(self.slopes);
    }
}

/// x ← σ(x); returns Σ log(1 + eˣ).
fn softplus(x: &mut [f32]) -> f64 {
    const CHUNK: usize = 64;
    let mut total = 0.0;
    for x in x.chunks_mut(CHUNK) {
        let mut e = [0.0; CHUNK];
        let e = &mut e[..x.len()];
        e.iter_mut().zip(&*x).for_each(|(e, x)| *e = -x.abs());
        kernel::exp(e);
        // log(1 + eˣ) = max(x, 0) + log(1 + e⁻|x|), and the logarithms of a chunk are one of a product of at most 2⁶⁴,
        // kept as what it is above 1.
        let mut above = 0.0;
        for (x, &e) in x.iter_mut().zip(&*e) {
            total += f64::from(x.max(0.0));
            above += f64::from(e) * (1.0 + above);
            *x = if *x >= 0.0 { 1.0 } else { e } / (1.0 + e);
        }
        total += above.ln_1p();
    }
    total
}

/// Cross entropy of softmax(x) with entry `right`: returns −log p_right and turns x into the slopes, p less 1 at the
/// right one. Entries of −∞ take no part; where the right one is −∞ the row takes none: slopes and loss are 0.
pub(crate) fn cross_entropy(x: &mut [f32], right: usize) -> f64 {
    let at = x[right];
    if at == f32::NEG_INFINITY {
        x.fill(0.0);
        return 0.0;
    }
    // Less the right one's, so that the loss is the log-sum itself and nothing cancels.
    x.iter_mut().for_each(|x| *x -= at);
    let loss = kernel::softmax(x, 1.0);
    // The exponential stops at e⁻⁸⁷, of −∞ too; numbers near that would only slow the processor down.
    x.iter_mut().for_each(|p| *p = if *p < 1e-30 { 0.0 } else { *p });
    x[right] = 0.0;
    x[right] = -kernel::sum(x);
    f64::from(loss)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::{Init, Params};
    use crate::tape::{ParamGrads, Workspace};
    use sommelier_core::Rng;

    /// A loss of given numbers and its gradients.
    pub fn run(inputs: &[Tensor], build: impl Fn(&mut Tape, &[Var]) -> Var) -> (f32, Vec<Vec<f32>>) {
        let mut params = Params::new(0);
        let mut ids = Vec::new();
        for (n, input) in inputs.iter().enumerate() {
            let id = params.add(&format!("input{n}"), input.rows, input.cols, Init::Zeros);
            params.get_mut(id).value.clone_from(&input.data);
            ids.push(id);
        }
        let vars: Vec<Var> = ids.iter().map(|&id| id.into()).collect();
        let mut tape = Tape::training(&params, Rng::new(0), Workspace::default());
        let loss = build(&mut tape, &vars);
        let value = tape.data(loss)[0];
        let mut grads = ParamGrads::default();
        grads.clear(&params);
        tape.backward(loss, &mut grads);
        let of = |(&id, input): (_, &Tensor)| {
            grads.dense(id).map_or_else(|| vec![0.0; input.data.len()], <[f32]>::to_vec)
        };
        (value, ids.iter().zip(inputs).map(of).collect())
    }

    /// One row of scores through a loss.
    pub fn row(s: &[f32], build: impl Fn(&mut Tape, Var) -> Var) -> (f32, Vec<f32>) {
        let (loss, mut slopes) = run(&[Tensor::new(1, s.len(), s.to_vec())], |tape, v| build(tape, v[0]));
        (loss, slopes.remove(0))
    }

    fn tensor(rows: usize, cols: usize, seed: f32) -> Tensor {
        let data = (0..rows * cols).map(|i| (i as f32 * 0.7 + seed).sin()).collect();
        Tensor::new(rows, cols, data)
    }

    fn every(tape: &mut Tape, s: Var, b: Var) -> Vec<Var> {
        let (n, width) = tape.shape(s);
        let target = Tensor::new(n, width, vec![1.0 / width as f32; n * width]);
        vec![
            tape.bpr(s, 0.5),
            tape.binary_cross_entropy(s, 0.5),
            tape.gbce(s, 0.3, 0.5),
            tape.sampled_softmax(s, None, 0.5),
            tape.hinge(s, 0.5, 0.5),
            tape.warp(s, 0.5, 50, 0.5),
            tape.kl(s, &target, 0.7, 0.5),
            tape.squared(s, &target, 0.5),
            tape.huber(s, &target, 0.4, 0.5),
            tape.info_nce(s, b, 0.5, 0.5, None, None),
            tape.alignment(s, b, 0.5),
            tape.uniformity(s, 2.0, 0.5),
        ]
    }

    #[test]
    fn answering_gives_the_same_loss_and_constants_no_gradient() {
        let params = Params::new(0);
        let (s, b) = (tensor(70, 4, 0.1), tensor(70, 4, 0.9));
        let mut learning = Tape::training(&params, Rng::new(0), Workspace::default());
        let mut answering = Tape::answering(&params, Workspace::default());
        let of = |tape: &mut Tape| {
            let (s, b) = (tape.constant(s.clone()), tape.constant(b.clone()));
            let losses = every(tape, s, b);
            let values: Vec<f32> = losses.iter().map(|&loss| tape.data(loss)[0]).collect();
            assert!(losses.iter().all(|&loss| !tape.wants(loss) && tape.shape(loss) == (1, 1)));
            values
        };
        let values = of(&mut learning);
        assert_eq!(values, of(&mut answering));
        for (n, &value) in values.iter().enumerate() {
            let (learned, slopes) = run(&[s.clone(), b.clone()], |tape, v| every(tape, v[0], v[1])[n]);
            assert_eq!(learned, value);
            assert!(value != 0.0 && slopes[0].iter().any(|g| *g != 0.0));
        }
    }

    #[test]
    fn what_is_not_a_number_is_not_hidden() {
        let mut s = tensor(3, 4, 0.1);
        s.data[5] = f32::NAN;
        for n in 0..12 {
            let (loss, _) = run(&[s.clone(), tensor(3, 4, 0.9)], |tape, v| every(tape, v[0], v[1])[n]);
            assert!(loss.is_nan(), "loss {n}: {loss}");
        }
    }

    #[test]
    fn softplus_matches_f64() {
        for n in [0, 1, 63, 64, 65, 200] {
            let mut x: Vec<f32> = (0..n).map(|i| ((i * 37) % 41) as f32 * 4.0 - 80.0).collect();
            let truth: f64 = x.iter().map(|&x| f64::from(x).exp().ln_1p()).sum();
            let sigma: Vec<f64> = x.iter().map(|&x| 1.0 / (1.0 + f64::from(-x).exp())).collect();
            let found = softplus(&mut x);
            assert!((found - truth).abs() <= 1e-6 * truth, "{found}, expected {truth}");
            for (x, s) in x.iter().zip(&sigma) {
                assert!((f64::from(*x) - s).abs() <= 1e-6 * s, "{x}, expected {s}");
            }
        }
    }
}

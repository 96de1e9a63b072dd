//! How operations are tested: the way forwards against plain loops in `f64`, the way back against finite differences of
//! those loops.

use crate::params::{Init, Params};
use crate::tape::{ParamGrads, Tape, Var, Workspace};
use sommelier_core::Rng;

/// A matrix in `f64`, for the plain loops.
#[derive(Debug, Clone, PartialEq)]
pub struct M {
    pub rows: usize,
    pub cols: usize,
    pub data: Vec<f64>,
}

impl M {
    pub fn zeros(rows: usize, cols: usize) -> M {
        M { rows, cols, data: vec![0.0; rows * cols] }
    }

    pub fn from_fn(rows: usize, cols: usize, mut f: impl FnMut(usize, usize) -> f64) -> M {
        let mut m = M::zeros(rows, cols);
        for r in 0..rows {
            for c in 0..cols {
                m.data[r * cols + c] = f(r, c);
            }
        }
        m
    }

    pub fn one(value: f64) -> M {
        M { rows: 1, cols: 1, data: vec![value] }
    }

    pub fn at(&self, r: usize, c: usize) -> f64 {
        self.data[r * self.cols + c]
    }

    pub fn row(&self, r: usize) -> &[f64] {
        &self.data[r * self.cols..][..self.cols]
    }

    /// A bᵀ
    pub fn times_transposed(&self, b: &M) -> M {
        M::from_fn(self.rows, b.rows, |r, c| dot(self.row(r), b.row(c)))
    }

    pub fn map(&self, f: impl Fn(f64) -> f64) -> M {
        M { data: self.data.iter().map(|&x| f(x)).collect(), ..*self }
    }
}

pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

pub fn softmax(x: &[f64]) -> Vec<f64> {
    let top = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let e: Vec<f64> = x.iter().map(|x| (x - top).exp()).collect();
    let total: f64 = e.iter().sum();
    e.iter().map(|e| e / total).collect()
}

pub fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Checks an operation on inputs of these shapes: `build` runs it on a tape, `plain` in `f64`.
pub fn check(
    shapes: &[(usize, usize)],
    seed: u64,
    build: impl Fn(&mut Tape, &[Var]) -> Var,
    plain: impl Fn(&[M]) -> M,
) {
    check_scaled(shapes, seed, 1.0, build, plain);
}

/// [`check`] with inputs of another size than 1.
pub fn check_scaled(
    shapes: &[(usize, usize)],
    seed: u64,
    size: f32,
    build: impl Fn(&mut Tape, &[Var]) -> Var,
    plain: impl Fn(&[M]) -> M,
) {
    let mut params = Params::new(seed);
    let ids: Vec<_> = shapes
        .iter()
        .enumerate()
        .map(|(n, &(rows, cols))| params.add(&format!("input{n}"), rows, cols, Init::Normal(size)))
        .collect();
    let vars: Vec<Var> = ids.iter().map(|&id| id.into()).collect();
    let mut inputs: Vec<M> = ids
        .iter()
        .map(|&id| {
            let p = params.get(id);
            M { rows: p.rows, cols: p.cols, data: p.value.iter().map(|&v| f64::from(v)).collect() }
        })
        .collect();

    let expected = plain(&inputs);
    let mut tape = Tape::training(&params, Rng::new(seed), Workspace::default());
    let y = build(&mut tape, &vars);
    assert_eq!(tape.shape(y), (expected.rows, expected.cols), "shape of the output");
    let largest = expected.data.iter().fold(1.0, |m: f64, v| m.max(v.abs()));
    for (i, (&ours, theirs)) in tape.data(y).iter().zip(&expected.data).enumerate() {
        assert!((f64::from(ours) - theirs).abs() <= 2e-5 * largest, "output {i}: {ours}, expected {theirs}");
    }

    let mut rng = Rng::new(seed ^ 0xc0ffee);
    let weights: Vec<f32> = (0..expected.data.len()).map(|_| rng.normal() as f32).collect();
    let mut grads = ParamGrads::default();
    grads.clear(&params);
    tape.backward_from(y, &weights, &mut grads);
    let weighed = |m: &M| m.data.iter().zip(&weights).map(|(y, &w)| y * f64::from(w)).sum::<f64>();
    for (n, &id) in ids.iter().enumerate() {
        let len = inputs[n].data.len();
        let ours: Vec<f32> = grads.dense(id).map_or_else(|| vec![0.0; len], <[f32]>::to_vec);
        let places: Vec<usize> =
            if len <= 60 { (0..len).collect() } else { (0..60).map(|_| rng.below(len)).collect() };
        let mut found = Vec::new();
        for &i in &places {
            let value = inputs[n].data[i];
            let step = 1e-5 * f64::from(size).max(value.abs());
            inputs[n].data[i] = value + step;
            let up = weighed(&plain(&inputs));
            inputs[n].data[i] = value - step;
            let down = weighed(&plain(&inputs));
            inputs[n].data[i] = value;
            found.push((up - down) / (2.0 * step));
        }
        let largest = found.iter().fold(1e-3, |m: f64, v| m.max(v.abs()));
        for (&i, slope) in places.iter().zip(&found) {
            assert!(
                (f64::from(ours[i]) - slope).abs() <= 2e-4 * largest,
                "gradient of input {n} at {i}: {}, finite difference {slope}",
                ours[i]
            );
        }
    }
}

#[test]
#[should_panic(expected = "gradient of input 0")]
fn a_wrong_gradient_is_found() {
    use crate::tape::{Backward, Grads, Tensor, Values};
    struct Wrong(Var);
    impl Backward for Wrong {
        fn backward(self: Box<Self>, _: &Tensor, dy: &mut [f32], _: &Values, grads: &mut Grads) {
            grads.add(self.0, dy);
        }
    }
    let build = |tape: &mut Tape, x: &[Var]| {
        let doubled = tape.data(x[0]).iter().map(|x| 2.0 * x).collect();
        let (rows, cols) = tape.shape(x[0]);
        tape.push(Tensor::new(rows, cols, doubled), true, || Box::new(Wrong(x[0])))
    };
    check(&[(2, 3)], 1, build, |x| x[0].map(|x| 2.0 * x));
}

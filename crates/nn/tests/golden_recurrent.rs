//! Operations against the outputs and gradients of PyTorch (golden/recurrent.py).

use serde_json::Value;
use sommelier_core::{Csr, Rng};
use sommelier_nn::op::{Conv, Gru, Pool, Scan};
use sommelier_nn::{Activation, Init, ParamGrads, Params, Ragged, Tape, Var, Workspace};
use std::sync::Arc;

const LENGTHS: [usize; 5] = [5, 0, 1, 19, 33];
const ROWS: usize = 58;

/// Name, seed, rows, columns and size of an input.
type Input = (&'static str, f64, usize, usize, f64);

fn ragged() -> Arc<Ragged> {
    Arc::new(Ragged::of(LENGTHS))
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().expect("a list").iter().map(|v| v.as_f64().expect("a number")).collect()
}

fn close(case: &str, what: &str, ours: &[f32], theirs: &[f64]) {
    assert_eq!(ours.len(), theirs.len(), "{case}: numbers of {what}");
    let size = theirs.iter().fold(0.0, |m: f64, v| m.max(v.abs()));
    for (i, (&ours, theirs)) in ours.iter().zip(theirs).enumerate() {
        let miss = (f64::from(ours) - theirs).abs();
        assert!(
            miss <= 1e-4 * theirs.abs().max(0.1 * size),
            "{case}, {what} {i}: {ours}, PyTorch says {theirs}"
        );
    }
}

fn check(case: &str, inputs: &[Input], build: impl Fn(&mut Tape, &[Var]) -> Var) {
    let golden: Value = serde_json::from_str(include_str!("golden/recurrent.json")).expect("golden numbers");
    let golden = &golden[case];
    let mut params = Params::new(0);
    let ids: Vec<_> = inputs
        .iter()
        .map(|&(name, seed, rows, cols, size)| {
            let id = params.add(name, rows, cols, Init::Zeros);
            for (i, v) in params.get_mut(id).value.iter_mut().enumerate() {
                *v = (size * (i as f64 * 0.7 + seed).sin()) as f32;
            }
            id
        })
        .collect();
    let vars: Vec<Var> = ids.iter().map(|&id| id.into()).collect();
    let mut tape = Tape::training(&params, Rng::new(0), Workspace::default());
    let y = build(&mut tape, &vars);
    close(case, "output", tape.data(y), &numbers(&golden["y"]));
    let gradient: Vec<f32> = (0..tape.data(y).len()).map(|i| (i as f64 * 0.3 + 5.0).sin() as f32).collect();
    let mut grads = ParamGrads::default();
    grads.clear(&params);
    tape.backward_from(y, &gradient, &mut grads);
    for (&id, &(name, ..)) in ids.iter().zip(inputs) {
        close(case, name, grads.dense(id).expect("a gradient"), &numbers(&golden["grads"][name]));
    }
}

#[test]
fn gru() {
    let (inner, h) = (6, 10);
    let inputs = [
        ("x", 1.0, ROWS, inner, 1.0),
        ("weight_ih_l0", 2.0, 3 * h, inner, 0.5),
        ("weight_hh_l0", 3.0, 3 * h, h, 0.5),
        ("bias_ih_l0", 4.0, 1, 3 * h, 0.5),
        ("bias_hh_l0", 5.0, 1, 3 * h, 0.5),
    ];
    check("gru", &inputs, |tape, v| {
        tape.gru(v[0], Gru { input: v[1], hidden: v[2], bias: Some((v[3], v[4])) }, &ragged())
    });
}

#[test]
fn convolutions() {
    let with = |bias: Var| Conv { bias: Some(bias), activation: Activation::Silu };
    let inputs = [("x", 1.0, ROWS, 20, 1.0), ("weight", 2.0, 20, 4, 1.0), ("bias", 3.0, 1, 20, 1.0)];
    check("conv_depthwise", &inputs, |tape, v| tape.conv_depthwise(v[0], v[1], with(v[2]), &ragged()));
    let inputs = [("x", 1.0, ROWS, 5, 1.0), ("weight", 2.0, 7, 15, 1.0), ("bias", 3.0, 1, 7, 1.0)];
    check("conv_full", &inputs, |tape, v| tape.conv_full(v[0], v[1], 3, with(v[2]), &ragged()));
}

#[test]
fn scan() {
    let (c, s) = (20, 5);
    let inputs = [
        ("u", 1.0, ROWS, c, 1.0),
        ("delta", 2.0, ROWS, c, 1.0),
        ("bias", 3.0, 1, c, 1.0),
        ("a_log", 4.0, c, s, 1.0),
        ("bc", 5.0, ROWS, 2 * s, 1.0),
        ("d", 6.0, 1, c, 1.0),
        ("z", 7.0, ROWS, c, 1.0),
    ];
    check("scan", &inputs, |tape, v| {
        let scan = Scan {
            u: v[0],
            delta: v[1],
            bias: v[2],
            a_log: v[3],
            b: (v[4], 0),
            c: (v[4], s),
            d: v[5],
            gate: Some((v[6], 0)),
        };
        tape.scan(scan, &ragged())
    });
}

#[test]
fn sparse() {
    let entries = (0..25u32).map(|e| (5 * e % 9, 3 * e % 7, f64::from(e).sin() as f32));
    let a = Arc::new(Csr::from_triplets(9, 7, entries));
    let transposed = Arc::new(a.transpose());
    check("sparse", &[("x", 1.0, 7, 18, 1.0)], |tape, v| tape.sparse_times(&a, &transposed, v[0], 0.5));
}

#[test]
fn attention() {
    check("attention", &[("x", 1.0, ROWS, 6, 1.0), ("scores", 2.0, ROWS, 2, 3.0)], |tape, v| {
        let weights = tape.segment_softmax(v[1], &ragged());
        tape.weighted_pool(v[0], weights, &ragged())
    });
}

#[test]
fn pools() {
    check("pools", &[("x", 1.0, ROWS, 6, 1.0)], |tape, v| {
        let pools = [Pool::Mean, Pool::Max, Pool::Last].map(|pool| tape.pool(v[0], pool, &ragged()));
        let all = tape.concat(&pools);
        // PyTorch has no mean of nothing.
        tape.pick_rows(all, vec![0, 2, 3, 4])
    });
}

#[test]
fn rows() {
    let (x, other) = (("x", 1.0, 9, 7, 1.0), ("other", 2.0, 9, 7, 1.0));
    check("normalise", &[x], |tape, v| tape.normalise(v[0], 1e-12));
    check("softmax", &[x], |tape, v| tape.softmax(v[0]));
    check("dots", &[x, other], |tape, v| tape.dots(v[0], v[1]));
    check("matmul", &[x, other], |tape, v| tape.matmul(v[0], v[1], true));
    check("gelu", &[x], |tape, v| {
        let three = tape.scale(v[0], 3.0);
        tape.activation(three, Activation::Gelu)
    });
}

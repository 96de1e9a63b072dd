//! Losses and their gradients against PyTorch's (golden/losses.py).

use serde_json::Value;
use sommelier_core::Rng;
use sommelier_nn::{Init, ParamGrads, Params, Tape, Tensor, Var, Workspace};

const SCALE: f32 = 0.25;
const OUT: f32 = f32::INFINITY;

/// The formula of golden/losses.py.
fn wave(rows: usize, cols: usize, seed: f64, size: f64) -> Tensor {
    let data = (0..rows * cols).map(|i| ((i as f64 * 0.7 + seed).sin() * size) as f32).collect();
    Tensor::new(rows, cols, data)
}

fn numbers(value: &Value) -> Vec<f64> {
    serde_json::from_value(value.clone()).unwrap()
}

/// Within 1e-5 of the largest.
fn assert_close(name: &str, ours: &[f32], theirs: &[f64]) {
    assert_eq!(ours.len(), theirs.len(), "{name}");
    let largest = theirs.iter().fold(0.0, |m: f64, v| m.max(v.abs()));
    for (i, (&ours, theirs)) in ours.iter().zip(theirs).enumerate() {
        assert!((f64::from(ours) - theirs).abs() <= 1e-5 * largest, "{name}, {i}: {ours}, PyTorch {theirs}");
    }
}

fn check(golden: &Value, name: &str, inputs: &[Tensor], build: impl Fn(&mut Tape, &[Var]) -> Var) {
    let golden = &golden[name];
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
    assert_close(name, tape.data(loss), &[golden["loss"].as_f64().unwrap()]);
    let mut grads = ParamGrads::default();
    grads.clear(&params);
    tape.backward(loss, &mut grads);
    for (n, &id) in ids.iter().enumerate() {
        assert_close(name, grads.dense(id).unwrap(), &numbers(&golden["gradients"][n]));
    }
}

#[test]
fn losses_are_pytorchs() {
    let golden: Value = serde_json::from_str(include_str!("golden/losses.json")).unwrap();
    let mut log_q = wave(5, 4, 0.9, 2.0).data;
    (log_q[6], log_q[19]) = (OUT, OUT);
    let mut shares = wave(5, 4, 0.6, 2.0);
    for row in shares.data.chunks_exact_mut(4) {
        let e: Vec<f64> = row.iter().map(|&z| f64::from(z).exp()).collect();
        row.iter_mut().zip(&e).for_each(|(p, e0)| *p = (e0 / e.iter().sum::<f64>()) as f32);
    }
    let target = wave(5, 4, 1.7, 1.0);
    let columns = wave(1, 6, 0.4, 2.0).data;
    let groups = [0, 1, 0, 2, 1, 0];

    let of = |name: &str, inputs: &[Tensor], build: &dyn Fn(&mut Tape, &[Var]) -> Var| {
        check(&golden, name, inputs, build);
    };
    let (s, large) = ([wave(5, 4, 0.3, 1.0)], [wave(5, 4, 0.3, 40.0)]);
    let pair = [wave(6, 3, 0.2, 1.0), wave(6, 3, 1.1, 1.0)];
    of("bpr", &s, &|tape, v| tape.bpr(v[0], SCALE));
    of("bpr, large scores", &large, &|tape, v| tape.bpr(v[0], SCALE));
    of("binary cross entropy", &s, &|tape, v| tape.binary_cross_entropy(v[0], SCALE));
    of("binary cross entropy, large scores", &large, &|tape, v| tape.binary_cross_entropy(v[0], SCALE));
    of("gbce", &s, &|tape, v| tape.gbce(v[0], 0.3, SCALE));
    of("sampled softmax", &s, &|tape, v| tape.sampled_softmax(v[0], None, SCALE));
    of("sampled softmax, log q", &s, &|tape, v| tape.sampled_softmax(v[0], Some(&log_q), SCALE));
    of("sampled softmax, large scores", &large, &|tape, v| tape.sampled_softmax(v[0], Some(&log_q), SCALE));
    of("hinge", &s, &|tape, v| tape.hinge(v[0], 0.5, SCALE));
    of("warp", &s, &|tape, v| tape.warp(v[0], 0.2, 100, SCALE));
    of("kl", &s, &|tape, v| tape.kl(v[0], &shares, 0.7, SCALE));
    of("kl, large scores", &large, &|tape, v| tape.kl(v[0], &shares, 0.7, SCALE));
    of("squared", &s, &|tape, v| tape.squared(v[0], &target, SCALE));
    of("huber", &s, &|tape, v| tape.huber(v[0], &target, 0.6, SCALE));
    of("info nce", &pair, &|tape, v| tape.info_nce(v[0], v[1], 0.4, SCALE, None, None));
    of("info nce, log q and groups", &pair, &|tape, v| {
        tape.info_nce(v[0], v[1], 0.4, SCALE, Some(columns.clone()), Some(groups.to_vec()))
    });
    of("alignment", &pair, &|tape, v| tape.alignment(v[0], v[1], SCALE));
    of("uniformity", &pair[..1], &|tape, v| tape.uniformity(v[0], 2.0, SCALE));
}

//! Operations against the outputs and gradients of PyTorch (golden/operations.py).

use serde_json::Value;
use sommelier_core::{Csr, Rng};
use sommelier_nn::loss::Items;
use sommelier_nn::op::{
    Attention, Bias, Buckets, Drawn, Embed, Gate, Linear, NO_ROW, Pool, TimeScale, Weighing,
};
use sommelier_nn::{Activation, Init, ParamGrads, Params, Ragged, Table, Tape, Var, Workspace};
use std::sync::{Arc, LazyLock};

static GOLDEN: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(include_str!("golden/operations.json")).expect("golden numbers"));

const ACTIVATIONS: [(&str, Activation); 6] = [
    ("identity", Activation::Identity),
    ("relu", Activation::Relu),
    ("gelu", Activation::Gelu),
    ("silu", Activation::Silu),
    ("sigmoid", Activation::Sigmoid),
    ("tanh", Activation::Tanh),
];

/// Name, seed, rows, columns and size of an input.
type Input = (&'static str, u32, usize, usize, f64);

/// The hash of golden/operations.py.
fn noise(seed: u32, count: usize, size: f64) -> Vec<f32> {
    let number = |place: usize| {
        let mut h = (place as u32).wrapping_mul(2_654_435_761).wrapping_add(seed.wrapping_mul(2_246_822_519));
        for _ in 0..2 {
            h ^= h >> 15;
            h = h.wrapping_mul(739_982_445);
        }
        h ^= h >> 15;
        (size * (f64::from(h) / 2_147_483_648.0 - 1.0)) as f32
    };
    (0..count).map(number).collect()
}

/// Each within 1e-5 of its own size, or of a tenth of the largest: what cancels is not known better.
fn close(case: &str, what: &str, ours: &[f32], theirs: &Value) {
    let theirs = theirs.as_array().unwrap_or_else(|| panic!("{case}: no golden {what}"));
    let theirs: Vec<f64> = theirs.iter().map(|v| v.as_f64().unwrap_or(f64::NEG_INFINITY)).collect();
    assert_eq!(ours.len(), theirs.len(), "{case}: numbers of {what}");
    let size = theirs.iter().filter(|v| v.is_finite()).fold(0.0, |m: f64, v| m.max(v.abs()));
    for (i, (&ours, &theirs)) in ours.iter().zip(&theirs).enumerate() {
        let ours = f64::from(ours);
        let same = ours == theirs || (ours - theirs).abs() <= 1e-5 * theirs.abs().max(0.1 * size);
        assert!(same, "{case}, {what} {i}: {ours}, PyTorch says {theirs}");
    }
}

/// Builds a case from its inputs and compares the output and all gradients. With `as_table` the last input is a table, whose
/// rows come to `build` as [`Items`]; else they are a matrix on the tape like all others.
fn compare(case: &str, inputs: &[Input], as_table: bool, build: &dyn Fn(&mut Tape, &[Var], Items) -> Var) {
    let golden = &GOLDEN[case];
    let mut params = Params::new(0);
    let dense = &inputs[..inputs.len() - usize::from(as_table)];
    let add = |params: &mut Params, &(name, seed, rows, cols, size): &Input| {
        let id = params.add(name, rows, cols, Init::Zeros);
        params.get_mut(id).value = noise(seed, rows * cols, size);
        id
    };
    let ids: Vec<_> = dense.iter().map(|input| add(&mut params, input)).collect();
    let table = inputs.last().filter(|_| as_table).map(|&(name, seed, rows, cols, size)| {
        let mut table = Table::of_range(name, rows, cols, 0.0, 0);
        table.rows_mut().copy_from_slice(&noise(seed, rows * cols, size));
        params.add_table(table)
    });
    let vars: Vec<Var> = ids.iter().map(|&id| id.into()).collect();
    let items = table.map_or_else(|| Items::Matrix(vars[vars.len() - 1]), Items::Table);
    let mut tape = Tape::training(&params, Rng::new(0), Workspace::default());
    let y = build(&mut tape, &vars, items);
    close(case, "output", tape.data(y), &golden["y"]);
    let mut gradient = noise(99, tape.data(y).len(), 1.0);
    gradient.iter_mut().zip(tape.data(y)).filter(|(_, y)| y.is_infinite()).for_each(|(g, _)| *g = 0.0);
    let mut grads = ParamGrads::default();
    grads.clear(&params);
    tape.backward_from(y, &gradient, &mut grads);
    for (&id, &(name, ..)) in ids.iter().zip(dense) {
        close(case, name, grads.dense(id).expect("a gradient"), &golden["grads"][name]);
    }
    if let (Some(table), Some(&(name, _, rows, cols, _))) = (table, inputs.last()) {
        let found = grads.table(table);
        let mut all = vec![0f32; rows * cols];
        found.some().for_each(|(slot, row)| all[slot as usize * cols..][..cols].copy_from_slice(row));
        close(case, name, found.all().unwrap_or(&all), &golden["grads"][name]);
    }
}

fn check(case: &str, inputs: &[Input], build: impl Fn(&mut Tape, &[Var]) -> Var) {
    compare(case, inputs, false, &|tape, vars, _| build(tape, vars));
}

/// The last input once as a matrix on the tape and once as a table.
fn check_items(case: &str, inputs: &[Input], build: impl Fn(&mut Tape, &[Var], Items) -> Var) {
    compare(case, inputs, false, &build);
    compare(case, inputs, true, &build);
}

#[test]
fn linear() {
    let inputs = [("x", 1, 6, 7, 2.0), ("w", 2, 9, 7, 1.0), ("b", 3, 1, 9, 1.0), ("r", 4, 6, 9, 1.0)];
    for (name, activation) in ACTIVATIONS {
        check(&format!("linear, {name}"), &inputs, |tape, v| {
            let with = Linear { bias: Some(v[2]), activation, residual: Some(v[3]), ..Linear::default() };
            tape.linear(v[0], v[1], with)
        });
    }
    check("linear, bare relu", &inputs[..2], |tape, v| {
        tape.linear(v[0], v[1], Linear { activation: Activation::Relu, ..Linear::default() })
    });
}

#[test]
fn norms() {
    for (more, size) in [("", 1.0), (", small", 1e-3)] {
        let inputs = [("x", 1, 5, 37, size), ("g", 2, 1, 37, 1.0), ("b", 3, 1, 37, 1.0)];
        check(&format!("layer norm{more}"), &inputs, |tape, v| tape.layer_norm(v[0], v[1], v[2]));
        check(&format!("rms norm{more}"), &inputs[..2], |tape, v| tape.rms_norm(v[0], v[1]));
    }
    check("normalise", &[("x", 1, 5, 37, 1.0)], |tape, v| tape.normalise(v[0], 1e-12));
    check("normalise, short rows", &[("x", 1, 5, 37, 1.0)], |tape, v| tape.normalise(v[0], 100.0));
}

#[test]
fn embed() {
    let rows = Arc::new(vec![3, 0, 3, 7, 1, 3, NO_ROW]);
    let places = Arc::new(vec![0, 1, 2, 0, 1, 0, 1]);
    check_items("embed", &[("p", 2, 4, 11, 1.0), ("items", 1, 8, 11, 1.0)], |tape, v, items| {
        let with = Embed { scale: 1.5, places: Some((v[0], places.clone())), dropout: 0.0 };
        tape.embed(items, rows.clone(), with)
    });
    let rows = Arc::new(vec![3, 0, 3, 7, 1, 3]);
    check_items("embed, bare", &[("items", 1, 8, 11, 1.0)], |tape, _, items| {
        tape.embed(items, rows.clone(), Embed::default())
    });
}

const HEADS: usize = 2;
const KEY: usize = 3;
const VALUE: usize = 2;
const LENGTHS: [usize; 4] = [5, 0, 1, 9];
const TIMES: [i64; 15] = [0, 3, 4, 90, 1000, 7, 0, 1, 2, 40, 41, 300, 5000, 5001, 5070];
const LATER: [i64; 15] = [2, 1, 60, 5, 9, 3, 1, 1, 30, 2, 7, 70, 1, 50, 11];

/// One attention of golden/operations.py, the biases made from the further inputs.
fn check_attention(
    case: &str,
    lengths: &[usize],
    further: &[Input],
    with: &dyn Fn(Attention) -> Attention,
    biases: &dyn Fn(&[Var]) -> Vec<Bias>,
) {
    let ragged = Arc::new(Ragged::of(lengths.iter().copied()));
    let mut inputs = vec![("x", 1, ragged.rows(), HEADS * (2 * KEY + VALUE), 2.0)];
    inputs.extend(further);
    check(&format!("attention, {case}"), &inputs, |tape, v| {
        let plain = Attention {
            heads: HEADS,
            columns: [0, HEADS * KEY, 2 * HEADS * KEY],
            key_width: KEY,
            value_width: VALUE,
            scale: 0.6,
            weighing: Weighing::Softmax,
            causal: true,
            newest: false,
            dropout: 0.0,
            biases: biases(&v[1..]),
            visible: None,
        };
        tape.attention(v[0], &ragged, with(plain))
    });
}

fn times(scale: TimeScale, count: usize) -> Buckets {
    let now = TIMES.iter().zip(LATER).map(|(t, later)| t + later).collect();
    Buckets::Times { now: Arc::new(now), then: Arc::new(TIMES.to_vec()), scale, count }
}

#[test]
fn attention() {
    let both = |a: Attention| Attention { causal: false, ..a };
    let hidden = |a: Attention| {
        let visible = (0..15).map(|row| ![0, 5, 6, 9, 13].contains(&row)).collect();
        Attention { visible: Some(Arc::new(visible)), ..a }
    };
    let silu = |a: Attention| Attention { weighing: Weighing::Silu(5.0), ..a };
    let none = |_: &[Var]| Vec::new();
    let numbers = |of: Var, buckets: Buckets| Bias::Numbers { of, buckets };
    let places = |v: &[Var]| vec![numbers(v[0], Buckets::Places { count: 4 })];
    let keys = |v: &[Var]| vec![numbers(v[0], Buckets::Keys { count: 4 })];
    let linear = |v: &[Var]| vec![numbers(v[0], times(TimeScale::Linear(Arc::new((1..16).collect())), 5))];
    let places_and_times = |v: &[Var]| {
        let times = times(TimeScale::Logarithmic(1.5), 13);
        vec![numbers(v[0], Buckets::Places { count: 4 }), numbers(v[1], times)]
    };
    let vectors = |v: &[Var]| {
        let buckets = Buckets::Places { count: 4 };
        vec![Bias::Vectors { keys: Some(v[0]), values: Some(v[1]), buckets }]
    };
    let context = |v: &[Var]| vec![Bias::Context { of: v[0] }];
    let of_places = ("bias0", 2, HEADS, 4, 2.0);
    let of_both = [of_places, ("bias1", 3, HEADS, 13, 2.0)];

    check_attention("causal", &LENGTHS, &[], &|a| a, &none);
    check_attention("causal, long", &[2, 67], &[], &|a| a, &none);
    check_attention("not causal", &LENGTHS, &[], &both, &none);
    check_attention("places", &LENGTHS, &[of_places], &|a| a, &places);
    check_attention("keys, not causal", &LENGTHS, &[("bias0", 2, 1, 4, 2.0)], &both, &keys);
    check_attention("times", &LENGTHS, &[("bias0", 2, 1, 5, 2.0)], &|a| a, &linear);
    check_attention("places and logarithmic times", &LENGTHS, &of_both, &|a| a, &places_and_times);
    check_attention("hidden", &LENGTHS, &[of_places], &hidden, &places);
    check_attention("hidden, not causal", &LENGTHS, &[], &|a| hidden(both(a)), &none);
    check_attention("silu", &LENGTHS, &[], &silu, &none);
    check_attention(
        "silu, places and logarithmic times, hidden",
        &LENGTHS,
        &of_both,
        &|a| hidden(silu(a)),
        &places_and_times,
    );
    let of_vectors = [("rk", 8, 4, HEADS * KEY, 1.0), ("rv", 9, 4, HEADS * VALUE, 1.0)];
    check_attention("vectors", &LENGTHS, &of_vectors, &|a| a, &vectors);
    check_attention("context", &LENGTHS, &[("e", 10, 4, KEY, 1.0)], &|a| a, &context);
}

#[test]
fn gate() {
    let with = |from: [usize; 2], activation| Gate { from, width: 5, activation, dropout: 0.0 };
    for (name, activation) in ACTIVATIONS {
        let inputs = [("x", 1, 4, 9, 2.0), ("z", 2, 4, 8, 1.0)];
        check(&format!("gate, {name}"), &inputs, |tape, v| tape.gate(v[0], v[1], with([2, 1], activation)));
    }
    check("gate, of itself", &[("x", 1, 4, 10, 2.0)], |tape, v| {
        tape.gate(v[0], v[0], with([0, 5], Activation::Silu))
    });
}

#[test]
fn pools() {
    let ragged = Arc::new(Ragged::of([3, 0, 1, 6]));
    for (name, pool) in [("mean", Pool::Mean), ("sum", Pool::Sum), ("max", Pool::Max), ("last", Pool::Last)] {
        let inputs = [("x", 1, ragged.rows(), 5, 1.0)];
        check(&format!("pool, {name}"), &inputs, |tape, v| tape.pool(v[0], pool, &ragged));
    }
}

#[test]
fn graph() {
    let values = noise(5, 25, 1.0);
    let entries = (0..25u32).map(|e| (5 * e % 9, 3 * e % 7, values[e as usize]));
    let a = Arc::new(Csr::from_triplets(9, 7, entries.filter(|&(row, ..)| row < 8)));
    let transposed = Arc::new(a.transpose());
    check("graph", &[("x", 1, 7, 83, 1.0)], |tape, v| tape.sparse_times(&a, &transposed, v[0], 0.7));
}

#[test]
fn candidates() {
    let right = Arc::new(vec![2, 0, 5, 5]);
    let shared = Drawn::Shared(Arc::new(vec![1, 5, 0, 3, 3]));
    let each = Drawn::Each(Arc::new(vec![1, 2, 3, 4, 4, 1, 5, 0, 0, 2, 1, 0]));
    let log_q = noise(3, 7, 1.0);
    let inputs = [("h", 1, 4, 6, 1.0), ("items", 2, 7, 6, 1.0)];
    for (name, drawn) in [("shared", shared), ("each", each)] {
        for (more, log_q) in [("", None), (", log q", Some(&log_q[..]))] {
            check_items(&format!("candidates, {name}{more}"), &inputs, |tape, v, items| {
                tape.candidates(v[0], items, &right, &drawn, log_q, 2.5)
            });
        }
    }
}

#[test]
fn catalogue_softmax() {
    for (more, n, d, count, factor) in [
        ("", 6, 8, 40, 1.0),
        (", temperature", 6, 8, 40, 1.0 / 0.07),
        // More than one chunk of items.
        (", large", 3, 2, 1100, 4.0),
    ] {
        let right = Arc::new((0..n as u32).map(|r| 7 * r % count as u32).collect());
        let inputs = [("h", 1, n, d, 1.0), ("items", 2, count, d, 1.0)];
        check_items(&format!("catalogue softmax{more}"), &inputs, |tape, v, items| {
            tape.catalogue_softmax(v[0], items, &right, &[], factor, 0.25)
        });
    }
}

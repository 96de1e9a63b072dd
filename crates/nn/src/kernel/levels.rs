//! Tests of every dispatched kernel on every instruction set that this processor has, against the plain one.

use super::{
    Activation, AdamStep, Dropout, Isa, ScanGrads, ScanInputs, activate, adagrad, adam, axpy, bias_activate,
    bpr_steps, conjugate_gradients, convolve, convolve_back, deactivate, dot, dot_rows, drop_out, exp,
    exp_below, exp_below_tops, gram_apply, gru_step, gru_step_back, isa, layer_norm, layer_norm_back, max,
    multiply, multiply_add, multiply_by, rms_norm, rms_norm_back, scale, scaled_silu, scaled_silu_and_slope,
    scan, scan_back, select_above, softmax, softmax_again, softmax_back, sparse_times, sum, syrk_lower,
};
use proptest::prelude::*;
use sommelier_core::{Csr, Rng};
use std::cell::Cell;

thread_local! {
    static FORCED: Cell<Option<Isa>> = const { Cell::new(None) };
}

/// The set that kernels on this thread must use.
pub(super) fn forced() -> Option<Isa> {
    FORCED.get()
}

/// Runs `f` with kernels of this set, which the processor must have.
fn on<T>(set: Isa, f: impl FnOnce() -> T) -> T {
    FORCED.set(Some(set));
    let made = f();
    FORCED.set(None);
    made
}

/// Sets with fused multiply–add that this processor has.
fn fused_sets() -> Vec<Isa> {
    match isa() {
        Isa::Avx512 => vec![Isa::Avx2, Isa::Avx512],
        Isa::Plain => Vec::new(),
        other => vec![other],
    }
}

fn normal(rng: &mut Rng, n: usize) -> Vec<f32> {
    (0..n).map(|_| rng.normal() as f32).collect()
}

fn positive(rng: &mut Rng, n: usize) -> Vec<f32> {
    (0..n).map(|_| 0.5 + rng.unit() as f32).collect()
}

/// A kernel on random vectors of `n` numbers: all that it returns and writes.
type Run = fn(n: usize, rng: &mut Rng) -> Vec<f32>;

const KERNELS: &[(&str, Run)] = &[
    ("exp", |n, rng| changed(n, rng, exp)),
    ("softmax", |n, rng| {
        let mut x = normal(rng, n);
        let sum = softmax(&mut x, 3.0);
        x.push(if n == 0 { 0.0 } else { sum });
        x
    }),
    ("exp_below_tops", |n, rng| {
        let (mut tops, mut sums) = (vec![0.0; n], vec![0.0; n]);
        let x = changed(5 * n, rng, |x| exp_below_tops(x, &mut tops, &mut sums));
        [x, tops, sums].concat()
    }),
    ("exp_below", |n, rng| {
        let shifts = normal(rng, n);
        changed(5 * n, rng, |x| exp_below(x, &shifts))
    }),
    ("softmax_again", |n, rng| changed(n, rng, |x| softmax_again(x, 1.5, 2.0))),
    ("drop_out", |n, rng| changed(n, rng, |x| drop_out(x, Dropout::new(0.3, 5), 70))),
    ("activate", |n, rng| ACTIVATIONS.iter().flat_map(|&f| changed(n, rng, |z| activate(z, f))).collect()),
    ("bias_activate", |n, rng| {
        let (bias, mut slope) = (normal(rng, n + 1), vec![0.0; 3 * (n + 1)]);
        let with = |f| {
            let y = changed(3 * (n + 1), rng, |z| bias_activate(z, &bias, &mut slope, f));
            [y, slope.clone()].concat()
        };
        ACTIVATIONS.map(with).concat()
    }),
    ("scaled_silu", |n, rng| changed(n, rng, |z| scaled_silu(z, 0.3))),
    ("scaled_silu_and_slope", |n, rng| {
        let mut y = vec![0.0; n];
        [changed(n, rng, |z| scaled_silu_and_slope(z, &mut y, 0.3)), y].concat()
    }),
    ("softmax_back", |n, rng| {
        let mut p = positive(rng, n);
        scale(&mut p, 1.0 / n.max(1) as f32);
        changed(n, rng, |grad| softmax_back(&p, grad))
    }),
    ("deactivate", |n, rng| {
        let z = normal(rng, n);
        ACTIVATIONS.iter().flat_map(|&f| changed(n, rng, |grad| deactivate(grad, &z, f))).collect()
    }),
    ("sum", |n, rng| vec![sum(&normal(rng, n))]),
    ("max", |n, rng| vec![max(&normal(rng, n)).max(-1e3)]),
    ("multiply", |n, rng| {
        let (a, b) = (normal(rng, n), normal(rng, n));
        changed(n, rng, |y| multiply(&a, &b, y))
    }),
    ("multiply_by", |n, rng| {
        let a = normal(rng, n);
        changed(n, rng, |y| multiply_by(&a, y))
    }),
    ("multiply_add", |n, rng| {
        let (a, b) = (normal(rng, n), normal(rng, n));
        changed(n, rng, |y| multiply_add(&a, &b, y))
    }),
    ("scale", |n, rng| changed(n, rng, |x| scale(x, 0.3))),
    ("dot", |n, rng| vec![dot(&normal(rng, n), &normal(rng, n))]),
    ("axpy", |n, rng| {
        let x = normal(rng, n);
        changed(n, rng, |y| axpy(0.7, &x, y))
    }),
    ("dot_rows", |n, rng| {
        let (query, rows) = (normal(rng, n), normal(rng, 3 * n));
        changed(3, rng, |out| dot_rows(&query, &rows, out))
    }),
    ("gram_apply", |n, rng| {
        // Rows of length 1, or the result would be much larger than its parts.
        let (mut rows, weights, p) = (normal(rng, 6 * n), positive(rng, 6), normal(rng, n));
        scale(&mut rows, 1.0 / (n.max(1) as f32).sqrt());
        changed(n, rng, |out| gram_apply(&rows, &weights, &p, out))
    }),
    ("syrk_lower", |n, rng| {
        let dim = n / 3;
        let (rows, weights) = (normal(rng, 5 * dim), normal(rng, 5));
        let mut h = changed(dim * dim, rng, |h| syrk_lower(&rows, &weights, dim, h));
        for i in 0..dim {
            h[i * dim + i + 1..(i + 1) * dim].fill(0.0);
        }
        h
    }),
    ("select_above", |n, rng| {
        let mut out = Vec::new();
        select_above(&normal(rng, n), 0.5, &mut out);
        out.into_iter().map(|i| i as f32).collect()
    }),
    ("bpr_steps", |n, rng| {
        let (mut u, mut items, mut bias) = (normal(rng, n), normal(rng, 4 * n), normal(rng, 4));
        let _ = bpr_steps(&mut u, &mut items, &mut bias, &[(0, 1), (3, 2), (1, 0)], 0.1, 0.01);
        [u, items, bias].concat()
    }),
    ("conjugate_gradients", |n, rng| {
        let (mut rows, weights, base) = (normal(rng, 6 * n), positive(rng, 6), positive(rng, n));
        scale(&mut rows, 1.0 / (n.max(1) as f32).sqrt());
        let mut work = vec![0.0; 4 * n];
        changed(n, rng, |x| conjugate_gradients(&rows, &weights, &base, x, 3, &mut work))
    }),
    ("sparse_times", |n, rng| {
        let entries: Vec<_> =
            (0..12).map(|_| (rng.below(4) as u32, rng.below(5) as u32, rng.normal() as f32)).collect();
        let (a, x) = (Csr::from_triplets(4, 5, entries), normal(rng, 5 * n));
        let added = changed(4 * n, rng, |y| sparse_times(&a, n, 0.5, &x, 2.0, y));
        [added, changed(4 * n, rng, |y| sparse_times(&a, n, 0.5, &x, 0.0, y))].concat()
    }),
    ("layer_norm", |n, rng| {
        let (x, g, b) = (normal(rng, n), normal(rng, n), normal(rng, n));
        let mut y = vec![0.0; n];
        let (mean, inverse) = layer_norm(&x, &g, &b, &mut y, 0.01);
        y.extend([mean, inverse]);
        y
    }),
    ("layer_norm_back", |n, rng| {
        let (x, g, dy) = (normal(rng, n), normal(rng, n), normal(rng, n));
        let (mut dx, mut dg, mut db) = (normal(rng, n), normal(rng, n), normal(rng, n));
        let mut fresh = vec![0.0; n];
        layer_norm_back(&x, &g, &dy, (0.1, 0.9), &mut dx, 1.0, &mut dg, &mut db);
        layer_norm_back(&x, &g, &dy, (0.1, 0.9), &mut fresh, 0.0, &mut dg, &mut db);
        [dx, fresh, dg, db].concat()
    }),
    ("rms_norm", |n, rng| {
        let (x, g) = (normal(rng, n), normal(rng, n));
        let mut y = vec![0.0; n];
        let inverse = rms_norm(&x, &g, &mut y, 0.01);
        y.push(inverse);
        y
    }),
    ("rms_norm_back", |n, rng| {
        let (x, g, dy) = (normal(rng, n), normal(rng, n), normal(rng, n));
        let (mut dx, mut dg) = (normal(rng, n), normal(rng, n));
        rms_norm_back(&x, &g, &dy, 0.9, &mut dx, 1.0, &mut dg);
        [dx, dg].concat()
    }),
    ("gru_step", |n, rng| {
        let (mut gates, products, bias) = (normal(rng, 6 * n), normal(rng, 6 * n), normal(rng, n));
        let (before, mut kept, mut after) = (normal(rng, 2 * n), vec![0.0; 2 * n], vec![0.0; 2 * n]);
        gru_step(n, &mut gates, &products, &bias, &before, &mut kept, &mut after);
        [gates, kept, after].concat()
    }),
    ("gru_step_back", |n, rng| {
        let (gates, kept, before) = (normal(rng, 6 * n), normal(rng, 2 * n), normal(rng, 2 * n));
        let (mut dafter, mut dhidden, mut dinput) = (normal(rng, 2 * n), vec![0.0; 6 * n], vec![0.0; 2 * n]);
        gru_step_back(n, &gates, &kept, &before, &mut dafter, &mut dhidden, &mut dinput);
        [dafter, dhidden, dinput].concat()
    }),
    ("convolve", |n, rng| {
        let (x, taps, bias) = (normal(rng, 5 * n), normal(rng, 3 * n), normal(rng, n));
        if n == 0 { Vec::new() } else { changed(5 * n, rng, |y| convolve(n, &x, &taps, &bias, y)) }
    }),
    ("convolve_back", |n, rng| {
        let (x, taps, dy) = (normal(rng, 5 * n), normal(rng, 3 * n), normal(rng, 5 * n));
        let (mut dx, mut dtaps) = (normal(rng, 5 * n), normal(rng, 3 * n));
        if n > 0 {
            convolve_back(n, &x, &taps, &dy, &mut dx, &mut dtaps);
        }
        [dx, dtaps].concat()
    }),
    ("scan", |n, rng| scans(n, rng).0),
    ("scan_back", |n, rng| scans(n, rng).1),
    ("adam", |n, rng| {
        let (mut w, g, mut m, mut v) = (normal(rng, n), normal(rng, n), normal(rng, n), positive(rng, n));
        let step = AdamStep {
            rate: 0.01,
            correct: 1.5,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            keep: 0.99,
            scale: 0.5,
        };
        adam(&mut w, &g, &mut m, &mut v, step);
        [w, m, v].concat()
    }),
    ("adagrad", |n, rng| {
        let (mut w, g, mut s) = (normal(rng, n), normal(rng, n), positive(rng, n));
        adagrad(&mut w, &g, &mut s, 0.01, 1e-8, 0.99, 0.5);
        [w, s].concat()
    }),
];

const ACTIVATIONS: [Activation; 6] = [
    Activation::Identity,
    Activation::Relu,
    Activation::Gelu,
    Activation::Silu,
    Activation::Sigmoid,
    Activation::Tanh,
];

fn changed(n: usize, rng: &mut Rng, kernel: impl FnOnce(&mut [f32])) -> Vec<f32> {
    let mut x = normal(rng, n);
    kernel(&mut x);
    x
}

/// What a scan of `n` channels over 18 rows writes, and its way back.
fn scans(n: usize, rng: &mut Rng) -> (Vec<f32>, Vec<f32>) {
    const ROWS: usize = 18;
    const STATES: usize = 2;
    let [u, delta, gate, dout] = [(); 4].map(|()| normal(rng, ROWS * n));
    let [bias, d] = [(); 2].map(|()| normal(rng, n));
    let [b, c] = [(); 2].map(|()| normal(rng, ROWS * STATES));
    let inputs = ScanInputs {
        channels: n,
        states: STATES,
        u: &u,
        delta: &delta,
        bias: &bias,
        a: &[],
        b: (&b, STATES),
        c: (&c, STATES),
        d: &d,
        gate: Some((&gate, n)),
    };
    let a: Vec<f32> = positive(rng, inputs.state_len()).iter().map(|a| -a).collect();
    let inputs = ScanInputs { a: &a, ..inputs };
    let (mut marks, mut work) = (vec![0.0; 2 * inputs.state_len()], vec![0.0; inputs.work_len()]);
    let mut out = vec![0.0; ROWS * n];
    scan(&inputs, &mut marks, &mut work, &mut out);
    let [mut du, mut ddelta, mut dgate] = [(); 3].map(|()| vec![0.0; ROWS * n]);
    let [mut dbias, mut dd] = [(); 2].map(|()| vec![0.0; n]);
    let [mut db, mut dc] = [(); 2].map(|()| vec![0.0; ROWS * STATES]);
    let mut da = vec![0.0; inputs.state_len()];
    let mut into = ScanGrads {
        u: &mut du,
        delta: &mut ddelta,
        bias: &mut dbias,
        a: &mut da,
        b: &mut db,
        c: &mut dc,
        d: &mut dd,
        gate: &mut dgate,
    };
    scan_back(&inputs, &marks, &dout, &mut work, &mut into);
    (out, [du, ddelta, dgate, dbias, dd, db, dc, da].concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn instruction_sets_agree(n in 0usize..=200, seed: u64) {
        for (name, run) in KERNELS {
            let plain = on(Isa::Plain, || run(n, &mut Rng::new(seed)));
            let largest = plain.iter().fold(1f32, |m, x| m.max(x.abs()));
            let mut first: Option<Vec<f32>> = None;
            for set in fused_sets() {
                let fused = on(set, || run(n, &mut Rng::new(seed)));
                prop_assert_eq!(plain.len(), fused.len());
                for (i, (a, b)) in plain.iter().zip(&fused).enumerate() {
                    prop_assert!((a - b).abs() <= 1e-5 * largest, "{name} {i}: plain {a}, {set:?} {b}");
                }
                let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                let first = first.get_or_insert_with(|| fused.clone());
                prop_assert_eq!(bits(first), bits(&fused), "{}: fused sets give the same bits", name);
            }
        }
    }
}

#[test]
fn every_dispatched_kernel_is_tested() {
    let sources = [
        include_str!("cg.rs"),
        include_str!("graph.rs"),
        include_str!("math.rs"),
        include_str!("norm.rs"),
        include_str!("recurrent.rs"),
        include_str!("scan.rs"),
        include_str!("spd.rs"),
        include_str!("update.rs"),
        include_str!("vector.rs"),
    ];
    let mut found: Vec<&str> = sources
        .iter()
        .flat_map(|s| s.lines())
        .filter_map(|line| {
            line.trim().split_once(" = ").filter(|(name, rest)| rest.starts_with(&format!("{name}_body(")))
        })
        .map(|(name, _)| name)
        .collect();
    let mut tested: Vec<&str> = KERNELS.iter().map(|(name, _)| *name).collect();
    found.sort_unstable();
    tested.sort_unstable();
    assert_eq!(found, tested);
}

#[test]
fn the_set_can_be_forced() {
    // (1 + ε)(1 − ε) − 1 is −ε² where the product is not rounded.
    let of = |set| {
        let mut y = [-1.0];
        on(set, || axpy(1.0 + f32::EPSILON, &[1.0 - f32::EPSILON], &mut y));
        y[0]
    };
    assert_eq!(of(Isa::Plain), 0.0);
    for set in fused_sets() {
        assert!(of(set) < 0.0, "{set:?}");
    }
}

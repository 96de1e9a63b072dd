//! Elementary functions over slices, branch-free so that they compile to vector code: exponentials, activations,
//! softmax, dropout.
//!
//! `exp` is within 2 units in the last place of the true value on [−87, 88]; below it is 0, above it
//! stays. NaN stays NaN.

use super::vector::dot_body;
use super::{dispatched, madd};

/// What a layer does to its products.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Activation {
    #[default]
    Identity,
    /// max(0, z)
    Relu,
    /// z Φ(z), Φ the normal distribution function (the exact form, not the tanh one).
    Gelu,
    /// z σ(z)
    Silu,
    /// 1 / (1 + e⁻ᶻ)
    Sigmoid,
    Tanh,
}

/// Which numbers are dropped: decided by a hash of their place, so that the backward pass need not remember.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    threshold: u32,
    scale: f32,
    seed: u32,
}

impl Dropout {
    /// Drops each number with probability `p` in [0, 1) and scales the others by 1 / (1 − p).
    pub fn new(p: f32, seed: u32) -> Dropout {
        let p = p.clamp(0.0, 0.999);
        Dropout { threshold: (f64::from(p) * 4_294_967_296.0) as u32, scale: 1.0 / (1.0 - p), seed }
    }

    /// 0 or the scale, for the number at this place.
    #[inline(always)]
    pub fn factor(self, place: u32) -> f32 {
        let mut h = place.wrapping_mul(0x9e37_79b9) ^ self.seed;
        h ^= h >> 16;
        h = h.wrapping_mul(0x7feb_352d);
        h ^= h >> 15;
        h = h.wrapping_mul(0x846c_a68b);
        h ^= h >> 16;
        if h >= self.threshold { self.scale } else { 0.0 }
    }
}

dispatched! {
    /// x ← eˣ.
    exp = exp_body(x: &mut [f32])
}

dispatched! {
    /// x ← softmax(scale · x); returns log Σ e^(scale · x). An empty row returns −∞.
    softmax = softmax_body(x: &mut [f32], scale: f32) -> f32
}

dispatched! {
    /// Columns of x (any × as many as `tops`) ← e^(x − the largest of the column); these maxima and the sums: softmaxes but for
    /// their last division. A column of nothing, or of −∞, gives (−∞, 0).
    exp_below_tops = exp_below_tops_body(x: &mut [f32], tops: &mut [f32], sums: &mut [f32])
}

dispatched! {
    /// Columns of x (any × as many as `shifts`) ← e^(x − the shift of the column).
    exp_below = exp_below_body(x: &mut [f32], shifts: &[f32])
}

dispatched! {
    /// x ← e^(scale · x − shift): the softmax whose log-sum is known.
    softmax_again = softmax_again_body(x: &mut [f32], scale: f32, shift: f32)
}

dispatched! {
    /// x ← x · dropout, places counted from `from`.
    drop_out = drop_out_body(x: &mut [f32], drop: Dropout, from: u32)
}

dispatched! {
    /// z ← f(z).
    activate = activate_body(z: &mut [f32], f: Activation)
}

dispatched! {
    /// Each row of z ← f(row + bias); with `slope` as long as z, f′ of the same goes there. The bias is not empty.
    bias_activate = bias_activate_body(z: &mut [f32], bias: &[f32], slope: &mut [f32], f: Activation)
}

dispatched! {
    /// z ← factor · silu(z).
    scaled_silu = scaled_silu_body(z: &mut [f32], factor: f32)
}

dispatched! {
    /// y ← factor · silu(z), and then z ← factor · silu′(z).
    scaled_silu_and_slope = scaled_silu_and_slope_body(z: &mut [f32], y: &mut [f32], factor: f32)
}

dispatched! {
    /// grad ← p ∘ (grad − p · grad): the way back through a softmax that gave p.
    softmax_back = softmax_back_body(p: &[f32], grad: &mut [f32])
}

dispatched! {
    /// grad ← grad · f′(z).
    deactivate = deactivate_body(grad: &mut [f32], z: &[f32], f: Activation)
}

dispatched! {
    /// Σ x.
    sum = sum_body(x: &[f32]) -> f32
}

dispatched! {
    /// max x; −∞ of nothing.
    max = max_body(x: &[f32]) -> f32
}

dispatched! {
    /// y ← a · b, entry by entry.
    multiply = multiply_body(a: &[f32], b: &[f32], y: &mut [f32])
}

dispatched! {
    /// y ← y · a, entry by entry.
    multiply_by = multiply_by_body(a: &[f32], y: &mut [f32])
}

dispatched! {
    /// y ← y + a · b, entry by entry.
    multiply_add = multiply_add_body(a: &[f32], b: &[f32], y: &mut [f32])
}

dispatched! {
    /// x ← factor · x.
    scale = scale_body(x: &mut [f32], factor: f32)
}

#[inline(always)]
pub(super) fn exp1<const FMA: bool>(x: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0; // 1.5 · 2²³: adding it rounds to whole numbers
    // Comparisons, not `min` and `max`: those would lose a NaN.
    let x = if x > 88.0 { 88.0 } else { x };
    let nothing = x < -87.0;
    let x = if nothing { 0.0 } else { x };
    let shifted = madd::<FMA>(x, std::f32::consts::LOG2_E, MAGIC);
    let n = shifted - MAGIC;
    let r = madd::<FMA>(n, -0.693_359_4, x);
    let r = madd::<FMA>(n, 2.121_944_4e-4, r);
    let p = madd::<FMA>(1.987_569_2e-4, r, 1.398_2e-3);
    let p = madd::<FMA>(p, r, 8.333_452e-3);
    let p = madd::<FMA>(p, r, 4.166_579_6e-2);
    let p = madd::<FMA>(p, r, 1.666_666_5e-1);
    let p = madd::<FMA>(p, r, 5.0e-1);
    let p = madd::<FMA>(p, r * r, r) + 1.0;
    let y = p * f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    if nothing { 0.0 } else { y }
}

#[inline(always)]
pub(super) fn sigmoid1<const FMA: bool>(x: f32) -> f32 {
    1.0 / (1.0 + exp1::<FMA>(-x))
}

#[inline(always)]
pub(super) fn tanh1<const FMA: bool>(x: f32) -> f32 {
    // Near 0 the difference below would cancel; there the series is exact enough.
    let small = x * madd::<FMA>(x * x, -1.0 / 3.0, 1.0);
    let e = exp1::<FMA>(2.0 * x);
    let large = 1.0 - 2.0 / (e + 1.0);
    if x.abs() < 0.02 { small } else { large }
}

/// Φ(x), absolute error below 1e-7 (Abramowitz and Stegun 7.1.26).
#[inline(always)]
fn phi1<const FMA: bool>(x: f32) -> f32 {
    let a = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / madd::<FMA>(0.327_591_1, a, 1.0);
    let p = madd::<FMA>(1.061_405_4, t, -1.453_152_1);
    let p = madd::<FMA>(p, t, 1.421_413_8);
    let p = madd::<FMA>(p, t, -0.284_496_74);
    let p = madd::<FMA>(p, t, 0.254_829_6);
    let upper = 0.5 * p * t * exp1::<FMA>(-a * a);
    if x > 0.0 { 1.0 - upper } else { upper }
}

#[inline(always)]
fn activate1<const FMA: bool>(z: f32, f: Activation) -> f32 {
    match f {
        Activation::Identity => z,
        Activation::Relu => {
            if z < 0.0 {
                0.0
            } else {
                z
            }
        }
        Activation::Gelu => z * phi1::<FMA>(z),
        Activation::Silu => z * sigmoid1::<FMA>(z),
        Activation::Sigmoid => sigmoid1::<FMA>(z),
        Activation::Tanh => tanh1::<FMA>(z),
    }
}

#[inline(always)]
fn slope1<const FMA: bool>(z: f32, f: Activation) -> f32 {
    match f {
        Activation::Identity => 1.0,
        Activation::Relu => {
            if z > 0.0 {
                1.0
            } else {
                0.0
            }
        }
        Activation::Gelu => {
            const DENSITY: f32 = 0.398_942_3;
            madd::<FMA>(z * DENSITY, exp1::<FMA>(-0.5 * z * z), phi1::<FMA>(z))
        }
        Activation::Silu => {
            let s = sigmoid1::<FMA>(z);
            s * madd::<FMA>(z, 1.0 - s, 1.0)
        }
        Activation::Sigmoid => {
            let s = sigmoid1::<FMA>(z);
            s * (1.0 - s)
        }
        Activation::Tanh => {
            let t = tanh1::<FMA>(z);
            1.0 - t * t
        }
    }
}

#[inline(always)]
fn exp_body<const FMA: bool>(x: &mut [f32]) {
    for x in x {
        *x = exp1::<FMA>(*x);
    }
}

/// Lanes of a sum: wide enough that additions do not wait for each other.
const LANES: usize = 32;

#[inline(always)]
pub(super) fn sum_body<const FMA: bool>(x: &[f32]) -> f32 {
    let mut acc = [0f32; LANES];
    let (chunks, tail) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for l in 0..LANES {
            acc[l] += chunk[l];
        }
    }
    for (l, x) in tail.iter().enumerate() {
        acc[l] += x;
    }
    for width in [16, 8, 4, 2, 1] {
        for l in 0..width {
            acc[l] += acc[l + width];
        }
    }
    acc[0]
}

#[inline(always)]
pub(super) fn max_body<const FMA: bool>(x: &[f32]) -> f32 {
    let mut best = [f32::NEG_INFINITY; LANES];
    let (chunks, tail) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for l in 0..LANES {
            best[l] = if chunk[l] > best[l] { chunk[l] } else { best[l] };
        }
    }
    for (l, &x) in tail.iter().enumerate() {
        best[l] = if x > best[l] { x } else { best[l] };
    }
    best.iter().copied().fold(f32::NEG_INFINITY, f32::max)
}

#[inline(always)]
pub(super) fn softmax_body<const FMA: bool>(x: &mut [f32], scale: f32) -> f32 {
    if x.is_empty() {
        return f32::NEG_INFINITY;
    }
    let top = if scale >= 0.0 {
        max_body::<FMA>(x) * scale
    } else {
        x.iter().fold(f32::NEG_INFINITY, |m, x| m.max(x * scale))
    };
    for x in x.iter_mut() {
        *x = exp1::<FMA>(madd::<FMA>(*x, scale, -top));
    }
    let total = sum_body::<FMA>(x);
    let inverse = 1.0 / total;
    for x in x.iter_mut() {
        *x *= inverse;
    }
    top + total.ln()
}

#[inline(always)]
fn exp_below_tops_body<const FMA: bool>(x: &mut [f32], tops: &mut [f32], sums: &mut [f32]) {
    let width = tops.len();
    let mut from = 0;
    while from + STRIP <= width {
        exp_below_tops_strip::<FMA, STRIP>(x, width, from, tops, sums);
        from += STRIP;
    }
    while from < width {
        exp_below_tops_strip::<FMA, 1>(x, width, from, tops, sums);
        from += 1;
    }
}

/// Columns that are reduced together, so that what is reduced stays in registers.
const STRIP: usize = 16;

/// The columns from `from` on.
#[inline(always)]
fn exp_below_tops_strip<const FMA: bool, const S: usize>(
    x: &mut [f32],
    width: usize,
    from: usize,
    tops: &mut [f32],
    sums: &mut [f32],
) {
    let mut top = [f32::NEG_INFINITY; S];
    let mut at = from;
    while let Some(row) = x.get(at..at + S).and_then(|x| x.first_chunk::<S>()) {
        for l in 0..S {
            top[l] = if row[l] > top[l] { row[l] } else { top[l] };
        }
        at += width;
    }
    // Where all are −∞ nothing is left; a NaN, which the maximum passes by, stays one.
    let shift = top.map(|top| if top == f32::NEG_INFINITY { 0.0 } else { top });
    let mut sum = [0f32; S];
    let mut at = from;
    while let Some(row) = x.get_mut(at..at + S).and_then(|x| x.first_chunk_mut::<S>()) {
        for l in 0..S {
            row[l] = exp1::<FMA>(row[l] - shift[l]);
            sum[l] += row[l];
        }
        at += width;
    }
    tops[from..from + S].copy_from_slice(&top);
    sums[from..from + S].copy_from_slice(&sum);
}

#[inline(always)]
fn exp_below_body<const FMA: bool>(x: &mut [f32], shifts: &[f32]) {
    for row in x.chunks_exact_mut(shifts.len().max(1)) {
        row.iter_mut().zip(shifts).for_each(|(x, shift)| *x = exp1::<FMA>(*x - shift));
    }
}

#[inline(always)]
fn softmax_again_body<const FMA: bool>(x: &mut [f32], scale: f32, shift: f32) {
    for x in x {
        *x = exp1::<FMA>(madd::<FMA>(*x, scale, -shift));
    }
}

#[inline(always)]
fn drop_out_body<const FMA: bool>(x: &mut [f32], drop: Dropout, from: u32) {
    for (i, x) in x.iter_mut().enumerate() {
        *x *= drop.factor(from.wrapping_add(i as u32));
    }
}

#[inline(always)]
fn activate_body<const FMA: bool>(z: &mut [f32], f: Activation) {
    // One loop for each function, so that the choice is not made for every number.
    macro_rules! each {
        ($($f:ident)*) => {
            match f {
                Activation::Identity => {}
                $(Activation::$f => z.iter_mut().for_each(|z| *z = activate1::<FMA>(*z, Activation::$f)),)*
            }
        };
    }
    each!(Relu Gelu Silu Sigmoid Tanh);
}

#[inline(always)]
fn bias_activate_body<const FMA: bool>(z: &mut [f32], bias: &[f32], slope: &mut [f32], f: Activation) {
    let width = bias.len();
    for (r, row) in z.chunks_exact_mut(width).enumerate() {
        row.iter_mut().zip(bias).for_each(|(z, b)| *z += b);
        match slope.get_mut(r * width..(r + 1) * width) {
            Some(slope) => activate_with_slope::<FMA>(row, slope, f),
            None => activate_body::<FMA>(row, f),
        }
    }
}

/// Both at once share their exponential.
#[inline(always)]
fn activate_with_slope<const FMA: bool>(z: &mut [f32], slope: &mut [f32], f: Activation) {
    macro_rules! each {
        ($($f:ident)*) => {
            match f {
                $(Activation::$f => {
                    for (z, slope) in z.iter_mut().zip(slope) {
                        (*z, *slope) =
                            (activate1::<FMA>(*z, Activation::$f), slope1::<FMA>(*z, Activation::$f));
                    }
                })*
            }
        };
    }
    each!(Identity Relu Gelu Silu Sigmoid Tanh);
}

#[inline(always)]
fn scaled_silu_body<const FMA: bool>(z: &mut [f32], factor: f32) {
    z.iter_mut().for_each(|z| *z *= factor * sigmoid1::<FMA>(*z));
}

#[inline(always)]
fn scaled_silu_and_slope_body<const FMA: bool>(z: &mut [f32], y: &mut [f32], factor: f32) {
    for (z, y) in z.iter_mut().zip(y) {
        let s = sigmoid1::<FMA>(*z);
        *y = *z * (factor * s);
        *z = factor * s * madd::<FMA>(*z, 1.0 - s, 1.0);
    }
}

#[inline(always)]
fn softmax_back_body<const FMA: bool>(p: &[f32], grad: &mut [f32]) {
    let mean = dot_body::<FMA>(p, grad);
    grad.iter_mut().zip(p).for_each(|(g, p)| *g = p * (*g - mean));
}

#[inline(always)]
fn deactivate_body<const FMA: bool>(grad: &mut [f32], z: &[f32], f: Activation) {
    macro_rules! each {
        ($($f:ident)*) => {
            match f {
                Activation::Identity => {}
                $(Activation::$f => {
                    grad.iter_mut().zip(z).for_each(|(g, &z)| *g *= slope1::<FMA>(z, Activation::$f));
                })*
            }
        };
    }
    each!(Relu Gelu Silu Sigmoid Tanh);
}

#[inline(always)]
fn multiply_body<const FMA: bool>(a: &[f32], b: &[f32], y: &mut [f32]) {
    for ((y, a), b) in y.iter_mut().zip(a).zip(b) {
        *y = a * b;
    }
}

#[inline(always)]
fn multiply_by_body<const FMA: bool>(a: &[f32], y: &mut [f32]) {
    y.iter_mut().zip(a).for_each(|(y, a)| *y *= a);
}

#[inline(always)]
fn multiply_add_body<const FMA: bool>(a: &[f32], b: &[f32], y: &mut [f32]) {
    for ((y, &a), &b) in y.iter_mut().zip(a).zip(b) {
        *y = madd::<FMA>(a, b, *y);
    }
}

#[inline(always)]
fn scale_body<const FMA: bool>(x: &mut [f32], factor: f32) {
    for x in x {
        *x *= factor;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_exact_to_two_units_and_keeps_nan() {
        let mut worst = 0f64;
        for i in 0..200_000 {
            let x = -87.0 + i as f32 * (175.0 / 200_000.0);
            let truth = f64::from(x).exp();
            for y in [exp1::<true>(x), exp1::<false>(x)] {
                worst = worst.max((f64::from(y) - truth).abs() / truth);
            }
        }
        assert!(worst < 2.5e-7, "{worst:e}");
        let mut odd = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0];
        exp(&mut odd);
        assert!(odd[0].is_nan() && odd[1] > 1e38 && odd[2] == 0.0 && odd[3] == 1.0);
    }

    #[test]
    fn activations_and_slopes_match_f64() {
        let erf = |x: f64| {
            // Maclaurin series; |x| stays below 4 here.
            let (mut term, mut total) = (x, x);
            for n in 1..120 {
                term *= -x * x / f64::from(n);
                total += term / f64::from(2 * n + 1);
            }
            total * 2.0 / std::f64::consts::PI.sqrt()
        };
        let of = |f: Activation, z: f64| match f {
            Activation::Identity => z,
            Activation::Relu => z.max(0.0),
            Activation::Gelu => z * 0.5 * (1.0 + erf(z / 2f64.sqrt())),
            Activation::Silu => z / (1.0 + (-z).exp()),
            Activation::Sigmoid => 1.0 / (1.0 + (-z).exp()),
            Activation::Tanh => z.tanh(),
        };
        let every = [
            Activation::Identity,
            Activation::Relu,
            Activation::Gelu,
            Activation::Silu,
            Activation::Sigmoid,
            Activation::Tanh,
        ];
        for f in every {
            for i in 0..1000 {
                let z = -5.0 + 0.01 * i as f32 + 0.003;
                let (mut y, mut g) = ([z], [2.0]);
                activate(&mut y, f);
                deactivate(&mut g, &[z], f);
                let z = f64::from(z);
                let slope = (of(f, z + 1e-6) - of(f, z - 1e-6)) / 2e-6;
                assert!((f64::from(y[0]) - of(f, z)).abs() < 2e-6, "{f:?}({z}) = {}", y[0]);
                assert!((f64::from(g[0]) - 2.0 * slope).abs() < 1e-5, "{f:?}'({z}) = {}", g[0]);
            }
        }
    }

    #[test]
    fn softmax_sums_to_one_and_can_be_done_again() {
        for n in [1, 7, 32, 100] {
            let x: Vec<f32> = (0..n).map(|i| ((i * 37) % 11) as f32 * 20.0 - 60.0).collect();
            let mut p = x.clone();
            let log_sum = softmax(&mut p, 0.5);
            assert!((sum(&p) - 1.0).abs() < 1e-5);
            let mut again = x.clone();
            softmax_again(&mut again, 0.5, log_sum);
            // Two columns, the second one of it all twice as high.
            let mut below: Vec<f32> = x.iter().flat_map(|x| [0.5 * x, x + 1.0]).collect();
            let (mut tops, mut sums) = ([0.0; 2], [7.0; 2]);
            let mut known = below.clone();
            exp_below_tops(&mut below, &mut tops, &mut sums);
            exp_below(&mut known, &[log_sum, 0.0]);
            assert!((tops[0] + sums[0].ln() - log_sum).abs() < 1e-4);
            for (i, (p, a)) in p.iter().zip(&again).enumerate() {
                assert!((p - a).abs() < 1e-5 && (p - below[2 * i] / sums[0]).abs() < 1e-5);
                assert!((p - known[2 * i]).abs() < 1e-5);
                assert!((below[2 * i + 1] - (x[i] + 1.0 - tops[1]).exp()).abs() < 1e-5);
            }
        }
        assert_eq!(softmax(&mut [], 1.0), f32::NEG_INFINITY);
        let tops_and_sums = |mut x: Vec<f32>| {
            let (mut top, mut sum) = ([0.0], [0.0]);
            exp_below_tops(&mut x, &mut top, &mut sum);
            (top[0], sum[0])
        };
        assert_eq!(tops_and_sums(vec![]), (f32::NEG_INFINITY, 0.0));
        assert_eq!(tops_and_sums(vec![f32::NEG_INFINITY; 3]), (f32::NEG_INFINITY, 0.0));
        assert!(tops_and_sums(vec![1.0, f32::NAN]).1.is_nan());
        let mut broken = [1.0, f32::NAN];
        softmax(&mut broken, 1.0);
        assert!(broken[0].is_nan(), "a NaN is not hidden");
    }

    #[test]
    fn dropout_drops_its_share_and_keeps_the_mean() {
        for p in [0.0, 0.1, 0.5, 0.9] {
            let mut x = vec![1f32; 100_000];
            drop_out(&mut x, Dropout::new(p, 77), 5);
            let zeros = x.iter().filter(|x| **x == 0.0).count() as f32 / 1e5;
            assert!((zeros - p).abs() < 0.01, "{p}: {zeros}");
            assert!((sum(&x) / 1e5 - 1.0).abs() < 0.04, "{p}");
            assert_eq!(x[17], Dropout::new(p, 77).factor(22));
        }
    }
}

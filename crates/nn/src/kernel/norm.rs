//! Normalisation of one row, both ways.

use super::math::sum_body;
use super::vector::dot_body;
use super::{dispatched, madd};

dispatched! {
    /// y ← (x − mean) / √(variance + ε) · g + b; returns the mean and 1 / √(variance + ε).
    layer_norm = layer_norm_body(x: &[f32], g: &[f32], b: &[f32], y: &mut [f32], epsilon: f32) -> (f32, f32)
}

dispatched! {
    /// The way back of [`layer_norm`]: dx ← beta dx + …, dg ← dg + dy x̂, db ← db + dy.
    layer_norm_back = layer_norm_back_body(
        x: &[f32], g: &[f32], dy: &[f32], at: (f32, f32), dx: &mut [f32], beta: f32, dg: &mut [f32], db: &mut [f32]
    )
}

dispatched! {
    /// y ← x / √(mean of squares + ε) · g; returns 1 / √(…).
    rms_norm = rms_norm_body(x: &[f32], g: &[f32], y: &mut [f32], epsilon: f32) -> f32
}

dispatched! {
    /// The way back of [`rms_norm`].
    rms_norm_back = rms_norm_back_body(
        x: &[f32], g: &[f32], dy: &[f32], inverse: f32, dx: &mut [f32], beta: f32, dg: &mut [f32]
    )
}

#[inline(always)]
fn layer_norm_body<const FMA: bool>(
    x: &[f32],
    g: &[f32],
    b: &[f32],
    y: &mut [f32],
    epsilon: f32,
) -> (f32, f32) {
    let n = x.len();
    let (g, b, y) = (&g[..n], &b[..n], &mut y[..n]);
    let mean = sum_body::<FMA>(x) / n.max(1) as f32;
    for i in 0..n {
        y[i] = x[i] - mean;
    }
    let variance = dot_body::<FMA>(y, y) / n.max(1) as f32;
    let inverse = 1.0 / (variance + epsilon).sqrt();
    for i in 0..n {
        y[i] = madd::<FMA>(y[i] * inverse, g[i], b[i]);
    }
    (mean, inverse)
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn layer_norm_back_body<const FMA: bool>(
    x: &[f32],
    g: &[f32],
    dy: &[f32],
    (mean, inverse): (f32, f32),
    dx: &mut [f32],
    beta: f32,
    dg: &mut [f32],
    db: &mut [f32],
) {
    const LANES: usize = 16;
    let n = x.len();
    let (g, dy, dx, dg, db) = (&g[..n], &dy[..n], &mut dx[..n], &mut dg[..n], &mut db[..n]);
    // Both sums in one pass: of dy g, and of dy g x̂.
    let (mut sums, mut products) = ([0f32; LANES], [0f32; LANES]);
    let whole = n / LANES * LANES;
    for at in (0..whole).step_by(LANES) {
        let take = |v: &[f32]| -> [f32; LANES] { *v[at..].first_chunk().expect("LANES numbers") };
        let (x, g, dy) = (take(x), take(g), take(dy));
        let (mut of_gain, mut of_bias) = (take(dg), take(db));
        for l in 0..LANES {
            let hat = (x[l] - mean) * inverse;
            let t = dy[l] * g[l];
            sums[l] += t;
            products[l] = madd::<FMA>(t, hat, products[l]);
            of_gain[l] = madd::<FMA>(dy[l], hat, of_gain[l]);
            of_bias[l] += dy[l];
        }
        dg[at..at + LANES].copy_from_slice(&of_gain);
        db[at..at + LANES].copy_from_slice(&of_bias);
    }
    for i in whole..n {
        let hat = (x[i] - mean) * inverse;
        let t = dy[i] * g[i];
        sums[0] += t;
        products[0] = madd::<FMA>(t, hat, products[0]);
        dg[i] = madd::<FMA>(dy[i], hat, dg[i]);
        db[i] += dy[i];
    }
    let one = sums.iter().sum::<f32>() / n.max(1) as f32;
    let two = products.iter().sum::<f32>() / n.max(1) as f32;
    if beta == 0.0 {
        for i in 0..n {
            let hat = (x[i] - mean) * inverse;
            dx[i] = inverse * (dy[i] * g[i] - one - hat * two);
        }
    } else {
        for i in 0..n {
            let hat = (x[i] - mean) * inverse;
            dx[i] += inverse * (dy[i] * g[i] - one - hat * two);
        }
    }
}

#[inline(always)]
fn rms_norm_body<const FMA: bool>(x: &[f32], g: &[f32], y: &mut [f32], epsilon: f32) -> f32 {
    let n = x.len();
    let (g, y) = (&g[..n], &mut y[..n]);
    let inverse = 1.0 / (dot_body::<FMA>(x, x) / n.max(1) as f32 + epsilon).sqrt();
    for i in 0..n {
        y[i] = x[i] * inverse * g[i];
    }
    inverse
}

#[inline(always)]
fn rms_norm_back_body<const FMA: bool>(
    x: &[f32],
    g: &[f32],
    dy: &[f32],
    inverse: f32,
    dx: &mut [f32],
    beta: f32,
    dg: &mut [f32],
) {
    let n = x.len();
    let (g, dy, dx, dg) = (&g[..n], &dy[..n], &mut dx[..n], &mut dg[..n]);
    let mut total = 0f32;
    for i in 0..n {
        let hat = x[i] * inverse;
        total = madd::<FMA>(dy[i] * g[i], hat, total);
        dg[i] = madd::<FMA>(dy[i], hat, dg[i]);
    }
    let mean = total / n.max(1) as f32;
    for i in 0..n {
        let d = inverse * (dy[i] * g[i] - x[i] * inverse * mean);
        dx[i] = if beta == 0.0 { d } else { dx[i] + d };
    }
}

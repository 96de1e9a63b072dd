//! Kernels of layers that go through a sequence: the gates of a GRU, causal convolution.

use super::math::{sigmoid1, tanh1};
use super::{dispatched, madd};

dispatched! {
    /// One step of a GRU for several sequences of `h` numbers. `gates` (rows × 3h, in the order r, z, n) hold the input's
    /// part with all biases but that of n's hidden part, and are replaced by r, z and n; `products` (rows × 3h) are
    /// W h without biases; `bias` (h) is n's; `kept` (rows × h) becomes W_n h + bias.
    gru_step = gru_step_body(
        h: usize, gates: &mut [f32], products: &[f32], bias: &[f32], before: &[f32], kept: &mut [f32], after: &mut [f32]
    )
}

dispatched! {
    /// The way back of [`gru_step`]. `dafter` is the gradient of the new states and becomes that part of the gradient of
    /// the old ones that does not go through W; `dhidden` (rows × 3h) becomes the gradient of the hidden products and
    /// `dinput` (rows × h) that of the input's part of n: those of r and z are the same as the hidden ones.
    gru_step_back = gru_step_back_body(
        h: usize, gates: &[f32], kept: &[f32], before: &[f32], dafter: &mut [f32], dhidden: &mut [f32],
        dinput: &mut [f32]
    )
}

dispatched! {
    /// Depthwise causal convolution of one sequence: `y[t] = bias + Σ_j taps[j] ∘ x[t − K + 1 + j]` with rows of
    /// `channels`, K `taps` laid end to end, zeros before the start.
    convolve = convolve_body(channels: usize, x: &[f32], taps: &[f32], bias: &[f32], y: &mut [f32])
}

dispatched! {
    /// The way back of [`convolve`]: adds to `dx` and `dtaps` for the gradient `dy`.
    convolve_back = convolve_back_body(
        channels: usize, x: &[f32], taps: &[f32], dy: &[f32], dx: &mut [f32], dtaps: &mut [f32]
    )
}

/// Channels worked on at once.
pub(super) const LANES: usize = 16;
pub(super) type Lane = [f32; LANES];

/// Up to [`LANES`] numbers from `at` on, zeros after them.
#[inline(always)]
pub(super) fn lanes(x: &[f32], at: usize, width: usize) -> Lane {
    let mut lane = [0.0; LANES];
    if width == LANES {
        lane.copy_from_slice(&x[at..at + LANES]);
    } else {
        lane[..width].copy_from_slice(&x[at..at + width]);
    }
    lane
}

#[inline(always)]
pub(super) fn store(lane: &Lane, x: &mut [f32], at: usize, width: usize) {
    if width == LANES {
        x[at..at + LANES].copy_from_slice(lane);
    } else {
        x[at..at + width].copy_from_slice(&lane[..width]);
    }
}

#[inline(always)]
fn gru_step_body<const FMA: bool>(
    h: usize,
    gates: &mut [f32],
    products: &[f32],
    bias: &[f32],
    before: &[f32],
    kept: &mut [f32],
    after: &mut [f32],
) {
    for row in 0..after.len() / h.max(1) {
        let (wide, own) = (row * 3 * h, row * h);
        for from in (0..h).step_by(LANES) {
            let width = LANES.min(h - from);
            let part = |x: &[f32], gate: usize| lanes(x, wide + gate * h + from, width);
            let (mut r, mut z, mut n) = (part(gates, 0), part(gates, 1), part(gates, 2));
            let (pr, pz, mut hidden) = (part(products, 0), part(products, 1), part(products, 2));
            let (bias, mut state) = (lanes(bias, from, width), lanes(before, own + from, width));
            for l in 0..LANES {
                r[l] = sigmoid1::<FMA>(r[l] + pr[l]);
                z[l] = sigmoid1::<FMA>(z[l] + pz[l]);
                hidden[l] += bias[l];
                n[l] = tanh1::<FMA>(madd::<FMA>(r[l], hidden[l], n[l]));
                state[l] = madd::<FMA>(z[l], state[l] - n[l], n[l]);
            }
            for (gate, lane) in [r, z, n].iter().enumerate() {
                store(lane, gates, wide + gate * h + from, width);
            }
            store(&hidden, kept, own + from, width);
            store(&state, after, own + from, width);
        }
    }
}

#[inline(always)]
fn gru_step_back_body<const FMA: bool>(
    h: usize,
    gates: &[f32],
    kept: &[f32],
    before: &[f32],
    dafter: &mut [f32],
    dhidden: &mut [f32],
    dinput: &mut [f32],
) {
    for row in 0..dafter.len() / h.max(1) {
        let (wide, own) = (row * 3 * h, row * h);
        for from in (0..h).step_by(LANES) {
            let width = LANES.min(h - from);
            let part = |gate: usize| lanes(gates, wide + gate * h + from, width);
            let (r, z, n) = (part(0), part(1), part(2));
            let (kept, before) = (lanes(kept, own + from, width), lanes(before, own + from, width));
            let mut g = lanes(dafter, own + from, width);
            let mut d = [[0.0; LANES]; 3];
            let mut dnew = [0.0; LANES];
            for l in 0..LANES {
                dnew[l] = g[l] * (1.0 - z[l]) * (1.0 - n[l] * n[l]);
                d[0][l] = dnew[l] * kept[l] * r[l] * (1.0 - r[l]);
                d[1][l] = g[l] * (before[l] - n[l]) * z[l] * (1.0 - z[l]);
                d[2][l] = dnew[l] * r[l];
                g[l] *= z[l];
            }
            for (gate, lane) in d.iter().enumerate() {
                store(lane, dhidden, wide + gate * h + from, width);
            }
            store(&dnew, dinput, own + from, width);
            store(&g, dafter, own + from, width);
        }
    }
}

#[inline(always)]
fn convolve_body<const FMA: bool>(channels: usize, x: &[f32], taps: &[f32], bias: &[f32], y: &mut [f32]) {
    let whole = channels - channels % LANES;
    for from in (0..whole).step_by(LANES) {
        convolve_block::<FMA>((channels, from, LANES), x, taps, bias, y);
    }
    if whole < channels {
        convolve_block::<FMA>((channels, whole, channels - whole), x, taps, bias, y);
    }
}

/// `width` channels beginning with `from`. Inlined twice, so that the whole blocks are compiled for a known width.
#[inline(always)]
fn convolve_block<const FMA: bool>(
    (channels, from, width): (usize, usize, usize),
    x: &[f32],
    taps: &[f32],
    bias: &[f32],
    y: &mut [f32],
) {
    let (k, rows) = (taps.len() / channels, y.len() / channels);
    let bias = lanes(bias, from, width);
    for t in 0..rows {
        let mut acc = bias;
        for back in 0..k.min(t + 1) {
            let tap = lanes(taps, (k - 1 - back) * channels + from, width);
            let x = lanes(x, (t - back) * channels + from, width);
            for l in 0..LANES {
                acc[l] = madd::<FMA>(tap[l], x[l], acc[l]);
            }
        }
        store(&acc, y, t * channels + from, width);
    }
}

#[inline(always)]
fn convolve_back_body<const FMA: bool>(
    channels: usize,
    x: &[f32],
    taps: &[f32],
    dy: &[f32],
    dx: &mut [f32],
    dtaps: &mut [f32],
) {
    let whole = channels - channels % LANES;
    for from in (0..whole).step_by(LANES) {
        convolve_back_block::<FMA>((channels, from, LANES), x, taps, dy, dx, dtaps);
    }
    if whole < channels {
        convolve_back_block::<FMA>((channels, whole, channels - whole), x, taps, dy, dx, dtaps);
    }
}

#[inline(always)]
fn convolve_back_block<const FMA: bool>(
    (channels, from, width): (usize, usize, usize),
    x: &[f32],
    taps: &[f32],
    dy: &[f32],
    dx: &mut [f32],
    dtaps: &mut [f32],
) {
    let (k, rows) = (taps.len() / channels, dy.len() / channels);
    for back in 0..k.min(rows) {
        let place = (k - 1 - back) * channels + from;
        let tap = lanes(taps, place, width);
        let mut dtap = lanes(dtaps, place, width);
        for t in back..rows {
            let at = (t - back) * channels + from;
            let g = lanes(dy, t * channels + from, width);
            let x = lanes(x, at, width);
            let mut acc = lanes(dx, at, width);
            for l in 0..LANES {
                dtap[l] = madd::<FMA>(g[l], x[l], dtap[l]);
                acc[l] = madd::<FMA>(g[l], tap[l], acc[l]);
            }
            store(&acc, dx, at, width);
        }
        store(&dtap, dtaps, place, width);
    }
}

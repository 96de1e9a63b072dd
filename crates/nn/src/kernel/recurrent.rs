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
    if h == 0 {
        return;
    }
    let bias = &bias[..h];
    let rows = gates.chunks_exact_mut(3 * h).zip(products.chunks_exact(3 * h));
    let states = before.chunks_exact(h).zip(after.chunks_exact_mut(h)).zip(kept.chunks_exact_mut(h));
    for ((gates, products), ((before, after), kept)) in rows.zip(states) {
        let (r, rest) = gates.split_at_mut(h);
        let (z, n) = rest.split_at_mut(h);
        let (pr, rest) = products.split_at(h);
        let (pz, pn) = rest.split_at(h);
        let (n, pn) = (&mut n[..h], &pn[..h]);
        for i in 0..h {
            let hidden = pn[i] + bias[i];
            let reset = sigmoid1::<FMA>(r[i] + pr[i]);
            let update = sigmoid1::<FMA>(z[i] + pz[i]);
            let new = tanh1::<FMA>(madd::<FMA>(reset, hidden, n[i]));
            (r[i], z[i], n[i], kept[i]) = (reset, update, new, hidden);
            after[i] = madd::<FMA>(update, before[i] - new, new);
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
    if h == 0 {
        return;
    }
    let rows = gates.chunks_exact(3 * h).zip(dhidden.chunks_exact_mut(3 * h));
    let states = kept.chunks_exact(h).zip(before.chunks_exact(h));
    let grads = dafter.chunks_exact_mut(h).zip(dinput.chunks_exact_mut(h));
    for (((gates, dhidden), (kept, before)), (d, dinput)) in rows.zip(states).zip(grads) {
        let (r, rest) = gates.split_at(h);
        let (z, n) = rest.split_at(h);
        let (dr, rest) = dhidden.split_at_mut(h);
        let (dz, dn) = rest.split_at_mut(h);
        let (n, dn) = (&n[..h], &mut dn[..h]);
        for i in 0..h {
            let (g, reset, update, new) = (d[i], r[i], z[i], n[i]);
            let dnew = g * (1.0 - update) * (1.0 - new * new);
            dr[i] = dnew * kept[i] * reset * (1.0 - reset);
            dz[i] = g * (before[i] - new) * update * (1.0 - update);
            dn[i] = dnew * reset;
            dinput[i] = dnew;
            d[i] = g * update;
        }
    }
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
fn convolve_body<const FMA: bool>(channels: usize, x: &[f32], taps: &[f32], bias: &[f32], y: &mut [f32]) {
    if channels == 0 {
        return;
    }
    let (k, rows) = (taps.len() / channels, y.len() / channels);
    for from in (0..channels).step_by(LANES) {
        let width = LANES.min(channels - from);
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
    if channels == 0 {
        return;
    }
    let (k, rows) = (taps.len() / channels, dy.len() / channels);
    for from in (0..channels).step_by(LANES) {
        let width = LANES.min(channels - from);
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
}

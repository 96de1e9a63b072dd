//! The selective scan of Mamba, 16 channels at a time; formulas in `op/scan.rs`.

use super::math::{exp1, sigmoid1};
use super::recurrent::{LANES, Lane, lanes, store};
use super::{dispatched, madd};

dispatched! {
    /// The selective scan of one sequence into `out` (rows × channels). `marks` is empty or gets the state before each
    /// [`SCAN_CHUNK`]-th row, [`ScanInputs::state_len`] numbers each. `work` holds [`ScanInputs::work_len`] numbers.
    scan = scan_body(inputs: &ScanInputs<'_>, marks: &mut [f32], work: &mut [f32], out: &mut [f32])
}

dispatched! {
    /// The way back of [`scan`] for the gradient `dout`, from its `marks`.
    scan_back = scan_back_body(
        inputs: &ScanInputs<'_>, marks: &[f32], dout: &[f32], work: &mut [f32], into: &mut ScanGrads<'_>
    )
}

/// After so many rows the state of a scan is remembered; those between are computed again on the way back.
pub const SCAN_CHUNK: usize = 16;

/// One sequence of a selective scan; see `op/scan.rs`. Slices begin at the sequence's first row.
#[derive(Debug, Clone, Copy)]
pub struct ScanInputs<'a> {
    pub channels: usize,
    pub states: usize,
    /// rows × channels
    pub u: &'a [f32],
    /// rows × channels, before bias and softplus
    pub delta: &'a [f32],
    /// channels
    pub bias: &'a [f32],
    /// A as [`scan_layout`] lays it out
    pub a: &'a [f32],
    /// rows × states, and the distance from row to row
    pub b: (&'a [f32], usize),
    /// rows × states, and the distance from row to row
    pub c: (&'a [f32], usize),
    /// channels
    pub d: &'a [f32],
    /// rows × channels, and the distance from row to row
    pub gate: Option<(&'a [f32], usize)>,
}

/// Gradients of one sequence: those of rows are written, those of parameters added to.
#[derive(Debug)]
pub struct ScanGrads<'a> {
    pub u: &'a mut [f32],
    pub delta: &'a mut [f32],
    pub bias: &'a mut [f32],
    pub a: &'a mut [f32],
    pub b: &'a mut [f32],
    pub c: &'a mut [f32],
    pub d: &'a mut [f32],
    /// Empty without a gate.
    pub gate: &'a mut [f32],
}

impl ScanInputs<'_> {
    /// Numbers of the state of all channels, laid out for vectors.
    pub fn state_len(&self) -> usize {
        self.channels.next_multiple_of(LANES) * self.states
    }

    /// Numbers [`scan_back`] works with.
    pub fn work_len(&self) -> usize {
        self.state_len() + (4 * SCAN_CHUNK + 1) * self.states * LANES
    }
}

/// Lays a channels × states matrix out for vectors, or adds it back from there: calls `each` with the places of the same
/// entry in the matrix and in the layout.
pub fn scan_layout(channels: usize, states: usize, mut each: impl FnMut(usize, usize)) {
    for channel in 0..channels {
        let (block, lane) = (channel / LANES, channel % LANES);
        for s in 0..states {
            each(channel * states + s, (block * states + s) * LANES + lane);
        }
    }
}

/// log(1 + eˣ), by 2 artanh(e / (2 + e)) with e = e^−|x|.
#[inline(always)]
fn softplus1<const FMA: bool>(x: f32) -> f32 {
    let e = exp1::<FMA>(-x.abs());
    let w = e / (2.0 + e);
    let s = w * w;
    let p = madd::<FMA>(s, 2.0 / 15.0, 2.0 / 13.0);
    let p = madd::<FMA>(p, s, 2.0 / 11.0);
    let p = madd::<FMA>(p, s, 2.0 / 9.0);
    let p = madd::<FMA>(p, s, 2.0 / 7.0);
    let p = madd::<FMA>(p, s, 2.0 / 5.0);
    let p = madd::<FMA>(p, s, 2.0 / 3.0);
    let p = madd::<FMA>(p, s, 2.0);
    // A comparison, not `max`, which would lose a NaN.
    let top = if x < 0.0 { 0.0 } else { x };
    madd::<FMA>(p, w, top)
}

#[inline(always)]
fn scan_body<const FMA: bool>(inputs: &ScanInputs<'_>, marks: &mut [f32], work: &mut [f32], out: &mut [f32]) {
    let &ScanInputs { channels, states, u, delta, bias, a, b: (b, b_step), c: (c, c_step), d, gate } = inputs;
    let (rows, whole) = (out.len() / channels.max(1), inputs.state_len());
    let h = &mut work.as_chunks_mut::<LANES>().0[..states];
    for (block, from) in (0..channels).step_by(LANES).enumerate() {
        let width = LANES.min(channels - from);
        let at = block * states * LANES;
        let a = &a[at..].as_chunks::<LANES>().0[..states];
        let (bias, d) = (lanes(bias, from, width), lanes(d, from, width));
        h.fill([0.0; LANES]);
        for t in 0..rows {
            if t % SCAN_CHUNK == 0 && !marks.is_empty() {
                let mark = t / SCAN_CHUNK * whole + at;
                marks[mark..mark + states * LANES].copy_from_slice(h.as_flattened());
            }
            let place = t * channels + from;
            let (u, mut step) = (lanes(u, place, width), lanes(delta, place, width));
            let (mut drive, mut y) = ([0.0; LANES], [0.0; LANES]);
            for l in 0..LANES {
                step[l] = softplus1::<FMA>(step[l] + bias[l]);
                drive[l] = step[l] * u[l];
                y[l] = d[l] * u[l];
            }
            let (b, c) = (&b[t * b_step..][..states], &c[t * c_step..][..states]);
            for s in 0..states {
                let (mut state, a) = (h[s], a[s]);
                for l in 0..LANES {
                    let keep = exp1::<FMA>(step[l] * a[l]);
                    state[l] = madd::<FMA>(keep, state[l], drive[l] * b[s]);
                    y[l] = madd::<FMA>(state[l], c[s], y[l]);
                }
                h[s] = state;
            }
            if let Some((gate, gate_step)) = gate {
                let z = lanes(gate, t * gate_step + from, width);
                for l in 0..LANES {
                    y[l] *= z[l] * sigmoid1::<FMA>(z[l]);
                }
            }
            store(&y, out, place, width);
        }
    }
}

#[inline(always)]
fn scan_back_body<const FMA: bool>(
    inputs: &ScanInputs<'_>,
    marks: &[f32],
    dout: &[f32],
    work: &mut [f32],
    into: &mut ScanGrads<'_>,
) {
    let &ScanInputs { channels, states, u, delta, bias, a, b: (b, b_step), c: (c, c_step), d, gate } = inputs;
    let (rows, whole) = (dout.len() / channels.max(1), inputs.state_len());
    let work = work.as_chunks_mut::<LANES>().0;
    let (dh_all, work) = work.split_at_mut(whole / LANES);
    // States of the chunk, the one before it first; factors of decay; sums over channels of the gradients of B and C.
    let (hs, work) = work.split_at_mut((SCAN_CHUNK + 1) * states);
    let (keeps, work) = work.split_at_mut(SCAN_CHUNK * states);
    let (db, work) = work.split_at_mut(SCAN_CHUNK * states);
    let dc = &mut work[..SCAN_CHUNK * states];
    dh_all.fill([0.0; LANES]);
    for chunk in (0..rows.div_ceil(SCAN_CHUNK)).rev() {
        let first = chunk * SCAN_CHUNK;
        let len = SCAN_CHUNK.min(rows - first);
        db.fill([0.0; LANES]);
        dc.fill([0.0; LANES]);
        for (block, from) in (0..channels).step_by(LANES).enumerate() {
            let width = LANES.min(channels - from);
            let at = block * states * LANES;
            let a = &a[at..].as_chunks::<LANES>().0[..states];
            let da = &mut into.a[at..].as_chunks_mut::<LANES>().0[..states];
            let dh = &mut dh_all[block * states..][..states];
            let (bias, d) = (lanes(bias, from, width), lanes(d, from, width));
            let mut steps = [[0.0; LANES]; SCAN_CHUNK];
            let mut ys = [[0.0; LANES]; SCAN_CHUNK];
            hs[..states].as_flattened_mut().copy_from_slice(&marks[chunk * whole + at..][..states * LANES]);
            for i in 0..len {
                let t = first + i;
                let place = t * channels + from;
                let (u, raw) = (lanes(u, place, width), lanes(delta, place, width));
                let (mut step, mut y, mut drive): (Lane, Lane, Lane) = Default::default();
                for l in 0..LANES {
                    step[l] = softplus1::<FMA>(raw[l] + bias[l]);
                    drive[l] = step[l] * u[l];
                    y[l] = d[l] * u[l];
                }
                let (b, c) = (&b[t * b_step..][..states], &c[t * c_step..][..states]);
                let (before, after) = hs[i * states..][..2 * states].split_at_mut(states);
                let keeps = &mut keeps[i * states..][..states];
                for s in 0..states {
                    let (mut keep, mut state, a) = ([0.0; LANES], before[s], a[s]);
                    for l in 0..LANES {
                        keep[l] = exp1::<FMA>(step[l] * a[l]);
                        state[l] = madd::<FMA>(keep[l], state[l], drive[l] * b[s]);
                        y[l] = madd::<FMA>(state[l], c[s], y[l]);
                    }
                    (keeps[s], after[s]) = (keep, state);
                }
                (steps[i], ys[i]) = (step, y);
            }
            let mut dbias = lanes(into.bias, from, width);
            let mut dd = lanes(into.d, from, width);
            for i in (0..len).rev() {
                let t = first + i;
                let place = t * channels + from;
                let (u, raw, step) = (lanes(u, place, width), lanes(delta, place, width), steps[i]);
                let mut g = lanes(dout, place, width);
                if let Some((gate, gate_step)) = gate {
                    let z = lanes(gate, t * gate_step + from, width);
                    let mut dz = [0.0; LANES];
                    for l in 0..LANES {
                        let sigmoid = sigmoid1::<FMA>(z[l]);
                        dz[l] = g[l] * ys[i][l] * sigmoid * madd::<FMA>(z[l], 1.0 - sigmoid, 1.0);
                        g[l] *= z[l] * sigmoid;
                    }
                    store(&dz, into.gate, place, width);
                }
                let mut drive = [0.0; LANES];
                for l in 0..LANES {
                    drive[l] = step[l] * u[l];
                }
                let (mut ddrive, mut dstep): (Lane, Lane) = ([0.0; LANES], [0.0; LANES]);
                let (b, c) = (&b[t * b_step..][..states], &c[t * c_step..][..states]);
                let (before, after) = hs[i * states..][..2 * states].split_at(states);
                let (db, dc) = (&mut db[i * states..][..states], &mut dc[i * states..][..states]);
                let keeps = &keeps[i * states..][..states];
                for s in 0..states {
                    // Copies: the compiler cannot know that the places do not overlap.
                    let (mut dstate, mut into_b, mut into_c, mut into_a) = (dh[s], db[s], dc[s], da[s]);
                    let (keep, before, after, a) = (keeps[s], before[s], after[s], a[s]);
                    for l in 0..LANES {
                        dstate[l] = madd::<FMA>(g[l], c[s], dstate[l]);
                        into_c[l] = madd::<FMA>(g[l], after[l], into_c[l]);
                        into_b[l] = madd::<FMA>(dstate[l], drive[l], into_b[l]);
                        ddrive[l] = madd::<FMA>(dstate[l], b[s], ddrive[l]);
                        dstate[l] *= keep[l];
                        let exponent = dstate[l] * before[l];
                        dstep[l] = madd::<FMA>(exponent, a[l], dstep[l]);
                        into_a[l] = madd::<FMA>(exponent, step[l], into_a[l]);
                    }
                    (dh[s], db[s], dc[s], da[s]) = (dstate, into_b, into_c, into_a);
                }
                let mut du = [0.0; LANES];
                for l in 0..LANES {
                    du[l] = madd::<FMA>(ddrive[l], step[l], d[l] * g[l]);
                    dd[l] = madd::<FMA>(g[l], u[l], dd[l]);
                    let draw = madd::<FMA>(ddrive[l], u[l], dstep[l]) * sigmoid1::<FMA>(raw[l] + bias[l]);
                    dstep[l] = draw;
                    dbias[l] += draw;
                }
                store(&du, into.u, place, width);
                store(&dstep, into.delta, place, width);
            }
            store(&dbias, into.bias, from, width);
            store(&dd, into.d, from, width);
        }
        let range = first * states..(first + len) * states;
        for (sum, lane) in into.b[range.clone()].iter_mut().zip(&*db) {
            *sum = fold(lane);
        }
        for (sum, lane) in into.c[range].iter_mut().zip(&*dc) {
            *sum = fold(lane);
        }
    }
}

#[inline(always)]
fn fold(lane: &Lane) -> f32 {
    let mut lane = *lane;
    for width in [8, 4, 2, 1] {
        for l in 0..width {
            lane[l] += lane[l + width];
        }
    }
    lane[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn softplus_matches_f64() {
        for i in -900..900 {
            let x = i as f32 * 0.1;
            let truth = f64::from(x).exp().ln_1p();
            for y in [softplus1::<true>(x), softplus1::<false>(x)] {
                assert!((f64::from(y) - truth).abs() <= 5e-7 * truth + 1e-37, "softplus({x}) = {y}");
            }
        }
        assert!(softplus1::<true>(f32::NAN).is_nan());
    }
}

//! Kernels over vectors and rows: inner products, scaled sums, small Gram matrices, threshold scans, the BPR step.

use super::{dispatched, madd};

dispatched! {
    /// Σ aᵢbᵢ. Stops at the shorter one.
    dot = dot_body(a: &[f32], b: &[f32]) -> f32
}

dispatched! {
    /// y ← y + αx. Stops at the shorter one.
    axpy = axpy_body(alpha: f32, x: &[f32], y: &mut [f32])
}

dispatched! {
    /// `out[r] = query · rows[r]` for rows laid end to end; bit for bit what [`dot`] gives for each.
    dot_rows = dot_rows_body(query: &[f32], rows: &[f32], out: &mut [f32])
}

dispatched! {
    /// `out ← out + Σ_r weights[r] (rows[r] · p) rows[r]`: a weighted Gram matrix times a vector, never formed.
    gram_apply = gram_apply_body(rows: &[f32], weights: &[f32], p: &[f32], out: &mut [f32])
}

dispatched! {
    /// `h ← h + Σ_r weights[r] rows[r] rows[r]ᵀ` for a `dim × dim` row-major `h`; only entries on and below the
    /// diagonal are meaningful afterwards.
    syrk_lower = syrk_lower_body(rows: &[f32], weights: &[f32], dim: usize, h: &mut [f32])
}

dispatched! {
    /// Appends each position of `scores` whose value is at least `threshold`, ascending.
    select_above = select_above_body(scores: &[f32], threshold: f32, out: &mut Vec<u32>)
}

dispatched! {
    /// BPR steps of one user `u` in order. Each `(i, j)` names two different rows of `items` (and entries of `bias`), the
    /// first liked: with g = σ(−m), m = u·(i − j) + b_i − b_j, all from the old values,
    /// u += rate (g (i − j) − l2 u), i += rate (g u − l2 i), j += rate (−g u − l2 j), b_i += rate (g − l2 b_i),
    /// b_j += rate (−g − l2 b_j). Returns how many margins m were positive.
    bpr_steps = bpr_steps_body(
        u: &mut [f32], items: &mut [f32], bias: &mut [f32], pairs: &[(u32, u32)], rate: f32, l2: f32
    ) -> usize
}

const WIDE: usize = 32;
const NARROW: usize = 8;

#[inline(always)]
pub(super) fn dot_body<const FMA: bool>(a: &[f32], b: &[f32]) -> f32 {
    let n = a.len().min(b.len());
    let (a, b) = (&a[..n], &b[..n]);
    let mut acc = [0f32; WIDE];
    let (a_wide, a) = a.as_chunks::<WIDE>();
    let (b_wide, b) = b.as_chunks::<WIDE>();
    for (x, y) in a_wide.iter().zip(b_wide) {
        for l in 0..WIDE {
            acc[l] = madd::<FMA>(x[l], y[l], acc[l]);
        }
    }
    let (a_narrow, a) = a.as_chunks::<NARROW>();
    let (b_narrow, b) = b.as_chunks::<NARROW>();
    for (x, y) in a_narrow.iter().zip(b_narrow) {
        for l in 0..NARROW {
            acc[l] = madd::<FMA>(x[l], y[l], acc[l]);
        }
    }
    for (l, (x, y)) in a.iter().zip(b).enumerate() {
        acc[l] = madd::<FMA>(*x, *y, acc[l]);
    }
    for width in [16, 8, 4, 2, 1] {
        for l in 0..width {
            acc[l] += acc[l + width];
        }
    }
    acc[0]
}

#[inline(always)]
pub(super) fn axpy_body<const FMA: bool>(alpha: f32, x: &[f32], y: &mut [f32]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = madd::<FMA>(alpha, x, *y);
    }
}

#[inline(always)]
fn dot_rows_body<const FMA: bool>(query: &[f32], rows: &[f32], out: &mut [f32]) {
    if query.is_empty() {
        out.fill(0.0);
        return;
    }
    for (row, out) in rows.chunks_exact(query.len()).zip(out) {
        *out = dot_body::<FMA>(query, row);
    }
}

#[inline(always)]
pub(super) fn gram_apply_body<const FMA: bool>(rows: &[f32], weights: &[f32], p: &[f32], out: &mut [f32]) {
    let dim = p.len();
    if dim == 0 {
        return;
    }
    let out = &mut out[..dim];
    // Four rows at a time: `out` is read and written once for all four.
    let fours = weights.len().min(rows.len() / dim) / 4;
    for four in 0..fours {
        let rows = &rows[four * 4 * dim..][..4 * dim];
        let (a, rest) = rows.split_at(dim);
        let (b, rest) = rest.split_at(dim);
        let (c, d) = rest.split_at(dim);
        let w = &weights[four * 4..][..4];
        let wa = w[0] * dot_body::<FMA>(a, p);
        let wb = w[1] * dot_body::<FMA>(b, p);
        let wc = w[2] * dot_body::<FMA>(c, p);
        let wd = w[3] * dot_body::<FMA>(d, p);
        for l in 0..dim {
            let ab = madd::<FMA>(wa, a[l], wb * b[l]);
            let cd = madd::<FMA>(wc, c[l], wd * d[l]);
            out[l] += ab + cd;
        }
    }
    for (row, &w) in rows.chunks_exact(dim).zip(weights).skip(fours * 4) {
        axpy_body::<FMA>(w * dot_body::<FMA>(row, p), row, out);
    }
}

#[inline(always)]
fn syrk_lower_body<const FMA: bool>(rows: &[f32], weights: &[f32], dim: usize, h: &mut [f32]) {
    const R: usize = 4;
    const C: usize = 16;
    if dim == 0 {
        return;
    }
    let count = weights.len().min(rows.len() / dim);
    let (tiled_rows, tiled_cols) = (dim / R * R, dim / C * C);
    // Tiles of 4 × 16 whose sums stay in registers over all rows; they may reach above the diagonal.
    for i in (0..tiled_rows).step_by(R) {
        for j in (0..tiled_cols).step_by(C).take_while(|&j| j < i + R) {
            let mut acc = [[0f32; C]; R];
            for (row, &w) in rows.chunks_exact(dim).zip(weights) {
                let right: &[f32; C] = row[j..j + C].first_chunk().expect("C values");
                let left: &[f32; R] = row[i..i + R].first_chunk().expect("R values");
                for (acc, &l) in acc.iter_mut().zip(left) {
                    for c in 0..C {
                        acc[c] = madd::<FMA>(w * l, right[c], acc[c]);
                    }
                }
            }
            for (r, acc) in acc.iter().enumerate() {
                for (h, a) in h[(i + r) * dim + j..][..C].iter_mut().zip(acc) {
                    *h += a;
                }
            }
        }
    }
    // What the tiles leave: columns past the last full tile, and the last few rows.
    for s in 0..count {
        let (row, w) = (&rows[s * dim..][..dim], weights[s]);
        for i in 0..dim {
            let from = if i < tiled_rows { tiled_cols.min(i + 1) } else { 0 };
            axpy_body::<FMA>(w * row[i], &row[from..=i], &mut h[i * dim + from..=i * dim + i]);
        }
    }
}

#[inline(always)]
fn select_above_body<const FMA: bool>(scores: &[f32], threshold: f32, out: &mut Vec<u32>) {
    let (chunks, tail) = scores.as_chunks::<WIDE>();
    for (c, chunk) in chunks.iter().enumerate() {
        // Almost every chunk has nothing: one branch for all of its lanes.
        let mut best = [f32::NEG_INFINITY; NARROW];
        for part in chunk.as_chunks::<NARROW>().0 {
            for l in 0..NARROW {
                best[l] = if part[l] > best[l] { part[l] } else { best[l] };
            }
        }
        let mut any = false;
        for b in best {
            any |= b >= threshold;
        }
        if any {
            for (l, &score) in chunk.iter().enumerate() {
                if score >= threshold {
                    out.push((c * WIDE + l) as u32);
                }
            }
        }
    }
    for (l, &score) in tail.iter().enumerate() {
        if score >= threshold {
            out.push((chunks.len() * WIDE + l) as u32);
        }
    }
}

#[inline(always)]
fn bpr_steps_body<const FMA: bool>(
    u: &mut [f32],
    items: &mut [f32],
    bias: &mut [f32],
    pairs: &[(u32, u32)],
    rate: f32,
    l2: f32,
) -> usize {
    const AHEAD: usize = 3;
    let dim = u.len();
    let keep = 1.0 - rate * l2;
    let mut ordered = 0;
    for (at, &(i, j)) in pairs.iter().enumerate() {
        if let Some(&(i, j)) = pairs.get(at + AHEAD) {
            prefetch(items, i as usize * dim, dim);
            prefetch(items, j as usize * dim, dim);
        }
        let (i, j) = (i as usize, j as usize);
        let Some((a, b)) = two_rows(items, dim, i, j) else { continue };
        let margin = dot_difference::<FMA>(u, a, b) + bias[i] - bias[j];
        ordered += usize::from(margin > 0.0);
        let g = rate / (1.0 + margin.exp());
        for ((x, a), b) in u.iter_mut().zip(a).zip(b) {
            let (x0, a0, b0) = (*x, *a, *b);
            *x = madd::<FMA>(g, a0 - b0, keep * x0);
            *a = madd::<FMA>(g, x0, keep * a0);
            *b = madd::<FMA>(-g, x0, keep * b0);
        }
        bias[i] = madd::<FMA>(keep, bias[i], g);
        bias[j] = madd::<FMA>(keep, bias[j], -g);
    }
    ordered
}

/// Rows `i` and `j` of a matrix, to be written; `None` where they are the same.
#[inline(always)]
fn two_rows(rows: &mut [f32], dim: usize, i: usize, j: usize) -> Option<(&mut [f32], &mut [f32])> {
    if i == j {
        return None;
    }
    let (low, high) = rows.split_at_mut(i.max(j) * dim);
    let (low, high) = (&mut low[i.min(j) * dim..][..dim], &mut high[..dim]);
    Some(if i < j { (low, high) } else { (high, low) })
}

/// x · (a − b).
#[inline(always)]
fn dot_difference<const FMA: bool>(x: &[f32], a: &[f32], b: &[f32]) -> f32 {
    let mut acc = [0f32; WIDE];
    let (x_wide, x) = x.as_chunks::<WIDE>();
    let (a_wide, a) = a.as_chunks::<WIDE>();
    let (b_wide, b) = b.as_chunks::<WIDE>();
    for ((x, a), b) in x_wide.iter().zip(a_wide).zip(b_wide) {
        for l in 0..WIDE {
            acc[l] = madd::<FMA>(x[l], a[l] - b[l], acc[l]);
        }
    }
    for (l, ((x, a), b)) in x.iter().zip(a).zip(b).enumerate() {
        acc[l] = madd::<FMA>(*x, *a - *b, acc[l]);
    }
    for width in [16, 8, 4, 2, 1] {
        for l in 0..width {
            acc[l] += acc[l + width];
        }
    }
    acc[0]
}

/// Asks for the cache lines of `rows[at..at + dim]`: the rows of a step lie anywhere in a matrix larger than the cache.
#[inline(always)]
pub fn prefetch(rows: &[f32], at: usize, dim: usize) {
    #[cfg(target_arch = "x86_64")]
    for line in rows.get(at..at + dim).unwrap_or_default().chunks(16) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: the address is inside the slice, and a prefetch changes nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (rows, at, dim);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sommelier_core::Rng;

    fn random(rng: &mut Rng, n: usize) -> Vec<f32> {
        (0..n).map(|_| rng.normal() as f32).collect()
    }

    fn close(a: f32, b: f64) -> bool {
        (f64::from(a) - b).abs() <= 1e-4 * (1.0 + b.abs())
    }

    proptest! {
        #[test]
        fn dot_and_axpy_match_plain_loops(n in 0usize..200, seed: u64) {
            let mut rng = Rng::new(seed);
            let (a, b) = (random(&mut rng, n), random(&mut rng, n));
            let plain: f64 = a.iter().zip(&b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum();
            prop_assert!(close(dot(&a, &b), plain));
            prop_assert!(close(dot_body::<false>(&a, &b), plain));
            prop_assert_eq!(dot_body::<true>(&a, &b).to_bits(), dot_fused(&a, &b).to_bits());
            let mut y = b.clone();
            axpy(0.5, &a, &mut y);
            for l in 0..n {
                prop_assert!(close(y[l], f64::from(b[l]) + 0.5 * f64::from(a[l])));
            }
        }

        #[test]
        fn gram_kernels_match_plain_loops(rows in 0usize..13, dim in 1usize..70, seed: u64) {
            let mut rng = Rng::new(seed);
            let (y, w, p) = (random(&mut rng, rows * dim), random(&mut rng, rows), random(&mut rng, dim));
            let mut h = vec![1f32; dim * dim];
            syrk_lower(&y, &w, dim, &mut h);
            let mut plain_h = vec![1f32; dim * dim];
            syrk_lower_body::<false>(&y, &w, dim, &mut plain_h);
            let mut out = vec![2f32; dim];
            gram_apply(&y, &w, &p, &mut out);
            for i in 0..dim {
                let mut expected = 2f64;
                for j in 0..dim {
                    let g: f64 = (0..rows).map(|r| f64::from(w[r] * y[r * dim + i]) * f64::from(y[r * dim + j])).sum();
                    expected += g * f64::from(p[j]);
                    if j <= i {
                        prop_assert!(close(h[i * dim + j], 1.0 + g), "{} {} {} {}", i, j, h[i * dim + j], 1.0 + g);
                        prop_assert!(close(plain_h[i * dim + j], 1.0 + g));
                    }
                }
                prop_assert!((f64::from(out[i]) - expected).abs() < 1e-3 * (1.0 + expected.abs()));
            }
        }

        #[test]
        fn select_above_is_a_filter(scores in prop::collection::vec(-3f32..3.0, 0..150), threshold in -3f32..3.0) {
            let expected: Vec<u32> = (0..scores.len() as u32).filter(|&i| scores[i as usize] >= threshold).collect();
            let mut found = Vec::new();
            select_above(&scores, threshold, &mut found);
            prop_assert_eq!(&found, &expected);
            found.clear();
            select_above_body::<false>(&scores, threshold, &mut found);
            prop_assert_eq!(found, expected);
        }
    }

    fn dot_fused(a: &[f32], b: &[f32]) -> f32 {
        if super::super::isa() == super::super::Isa::Plain { dot_body::<true>(a, b) } else { dot(a, b) }
    }

    #[test]
    fn rows_are_dots_bit_for_bit() {
        let mut rng = Rng::new(1);
        for dim in [1, 7, 64, 100] {
            let (q, rows) = (random(&mut rng, dim), random(&mut rng, dim * 9));
            let mut out = vec![0.0; 9];
            dot_rows(&q, &rows, &mut out);
            for r in 0..9 {
                assert_eq!(out[r].to_bits(), dot(&q, &rows[r * dim..][..dim]).to_bits());
            }
        }
    }

    #[test]
    fn bpr_steps_move_along_the_gradient() {
        let mut rng = Rng::new(3);
        for dim in [1, 11, 40] {
            let u0 = random(&mut rng, dim);
            let items0 = random(&mut rng, 5 * dim);
            let bias0 = random(&mut rng, 5);
            for (i, j) in [(1, 3), (4, 0)] {
                let (mut u, mut items, mut bias) = (u0.clone(), items0.clone(), bias0.clone());
                let ordered = bpr_steps(&mut u, &mut items, &mut bias, &[(i, j), (2, 2)], 0.1, 0.01);
                let (i, j) = (i as usize, j as usize);
                let at = |r: usize, l: usize| f64::from(items0[r * dim + l]);
                let x = |l: usize| f64::from(u0[l]);
                let margin = f64::from(bias0[i]) - f64::from(bias0[j])
                    + (0..dim).map(|l| x(l) * (at(i, l) - at(j, l))).sum::<f64>();
                let g = 1.0 / (1.0 + margin.exp());
                assert_eq!(ordered, usize::from(margin > 0.0));
                for l in 0..dim {
                    assert!(close(u[l], x(l) + 0.1 * (g * (at(i, l) - at(j, l)) - 0.01 * x(l))));
                    assert!(close(items[i * dim + l], at(i, l) + 0.1 * (g * x(l) - 0.01 * at(i, l))));
                    assert!(close(items[j * dim + l], at(j, l) + 0.1 * (-g * x(l) - 0.01 * at(j, l))));
                }
                assert!(close(bias[i], f64::from(bias0[i]) * (1.0 - 0.001) + 0.1 * g));
                assert!(close(bias[j], f64::from(bias0[j]) * (1.0 - 0.001) - 0.1 * g));
            }
        }
    }
}

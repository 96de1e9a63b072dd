//! Symmetric positive definite matrices: small Cholesky solves, and the inverse of a large one in its own memory.

use super::blas::{Layout, gemm, gemm_raw};
use super::{axpy, dot};
use rayon::prelude::*;

/// The matrix is not positive definite, or not in `f32`: row `row` has no pivot left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotPositive {
    pub row: usize,
}

/// Replaces the lower triangle of row-major `a` (n × n) by its Cholesky factor L, A = LLᵀ. The rest is not touched.
pub fn cholesky(a: &mut [f32], n: usize) -> Result<(), NotPositive> {
    for i in 0..n {
        let (above, below) = a.split_at_mut(i * n);
        let row = &mut below[..=i];
        for j in 0..i {
            let upper = &above[j * n..=j * n + j];
            row[j] = (row[j] - dot(&row[..j], &upper[..j])) / upper[j];
        }
        let pivot = row[i] - dot(&row[..i], &row[..i]);
        if pivot.is_nan() || pivot <= 0.0 {
            return Err(NotPositive { row: i });
        }
        row[i] = pivot.sqrt();
    }
    Ok(())
}

/// Solves LLᵀx = b in place of `b`, L from [`cholesky`].
pub fn cholesky_solve(l: &[f32], n: usize, b: &mut [f32]) {
    for i in 0..n {
        b[i] = (b[i] - dot(&l[i * n..i * n + i], &b[..i])) / l[i * n + i];
    }
    for i in (0..n).rev() {
        let x = b[i] / l[i * n + i];
        b[i] = x;
        axpy(-x, &l[i * n..i * n + i], &mut b[..i]);
    }
}

/// Below this size the pivot block is inverted by the plain sweep in `f64`.
const SMALL: usize = 32;
/// Width of a pivot block of a large matrix, and of the tiles that threads update.
const BLOCK: usize = 256;
const TILE: usize = 512;

/// Replaces the lower triangle of row-major `a` (n × n, symmetric positive definite) by that of −A⁻¹, in place.
///
/// Block sweeps (Gauss–Jordan on a symmetric matrix, stable without pivoting on a positive definite one): for each
/// pivot block K with inverse D, A_ij ← A_ij − A_iK D A_Kj, A_iK ← A_iK D, A_KK ← −D. That is n³ operations, all but a few of
/// them in one product per tile, and beside the matrix itself only two panels of n × 256.
/// Runs on the current rayon pool; the result does not depend on its size. `step` is told the rows done and may stop it.
pub fn spd_inverse_in_place<E: From<NotPositive>>(
    a: &mut [f32],
    n: usize,
    mut step: impl FnMut(usize) -> Result<(), E>,
) -> Result<(), E> {
    assert!(a.len() >= n * n, "matrix is too short for {n} × {n}");
    sweep_blocks(a, n, if n <= BLOCK { SMALL } else { BLOCK }, &mut step)
}

fn sweep_blocks<E: From<NotPositive>>(
    a: &mut [f32],
    n: usize,
    width: usize,
    step: &mut impl FnMut(usize) -> Result<(), E>,
) -> Result<(), E> {
    let mut panel = vec![0f32; n * width];
    let mut scaled = vec![0f32; n * width];
    for start in (0..n).step_by(width) {
        let end = (start + width).min(n);
        let b = end - start;
        let pivot = inverse_of_block(a, n, start, b)?;
        gather_panel(a, n, start, end, &mut panel[..n * b]);
        scaled[..n * b].par_chunks_mut(TILE * b).zip(panel[..n * b].par_chunks(TILE * b)).for_each(
            |(out, rows)| {
                let at = Layout::rows_of(b);
                gemm((rows.len() / b, b, b), 1.0, (rows, at), (&pivot, at), 0.0, (out, at));
            },
        );
        update_tiles(a, n, start, end, &panel[..n * b], &scaled[..n * b]);
        scatter_panel(a, n, start, end, &scaled[..n * b]);
        for r in 0..b {
            for c in 0..=r {
                a[(start + r) * n + start + c] = -pivot[r * b + c];
            }
        }
        step(end)?;
    }
    Ok(())
}

/// The inverse (full, row-major b × b) of the symmetric block of `a` at `start`.
fn inverse_of_block(a: &[f32], n: usize, start: usize, b: usize) -> Result<Vec<f32>, NotPositive> {
    let mut block = vec![0f32; b * b];
    for r in 0..b {
        block[r * b..=r * b + r].copy_from_slice(&a[(start + r) * n + start..=(start + r) * n + start + r]);
    }
    let at = |NotPositive { row }| NotPositive { row: start + row };
    if b <= SMALL {
        small_inverse(&mut block, b).map_err(at)?;
    } else {
        sweep_blocks(&mut block, b, SMALL, &mut |_| Ok::<(), NotPositive>(())).map_err(at)?;
        for v in &mut block {
            *v = -*v;
        }
    }
    for r in 0..b {
        for c in 0..r {
            block[c * b + r] = block[r * b + c];
        }
    }
    Ok(block)
}

/// Sweeps one row at a time, in `f64`; leaves A⁻¹ in the lower triangle.
fn small_inverse(block: &mut [f32], n: usize) -> Result<(), NotPositive> {
    let mut a = vec![0f64; n * n];
    for r in 0..n {
        for c in 0..=r {
            a[r * n + c] = f64::from(block[r * n + c]);
            a[c * n + r] = a[r * n + c];
        }
    }
    for k in 0..n {
        let pivot = a[k * n + k];
        if pivot.is_nan() || pivot <= 0.0 {
            return Err(NotPositive { row: k });
        }
        let column: Vec<f64> = (0..n).map(|i| a[i * n + k]).collect();
        for i in (0..n).filter(|&i| i != k) {
            let factor = column[i] / pivot;
            for j in (0..n).filter(|&j| j != k) {
                a[i * n + j] -= factor * column[j];
            }
            a[i * n + k] = factor;
            a[k * n + i] = factor;
        }
        a[k * n + k] = -1.0 / pivot;
    }
    for (out, v) in block.iter_mut().zip(&a) {
        *out = -*v as f32;
    }
    Ok(())
}

/// `panel[i] = A[i, start..end]` for every row i of the symmetric matrix; zero for the pivot's own rows.
fn gather_panel(a: &[f32], n: usize, start: usize, end: usize, panel: &mut [f32]) {
    let b = end - start;
    panel.par_chunks_mut(TILE * b).enumerate().for_each(|(t, rows)| {
        for (r, row) in rows.chunks_exact_mut(b).enumerate() {
            let i = t * TILE + r;
            if i >= end {
                row.copy_from_slice(&a[i * n + start..i * n + end]);
            } else if i >= start {
                row.fill(0.0);
            } else {
                for (c, v) in row.iter_mut().enumerate() {
                    *v = a[(start + c) * n + i];
                }
            }
        }
    });
}

fn scatter_panel(a: &mut [f32], n: usize, start: usize, end: usize, scaled: &[f32]) {
    let b = end - start;
    a.par_chunks_mut(n).enumerate().skip(start).for_each(|(i, row)| {
        if i >= end {
            row[start..end].copy_from_slice(&scaled[i * b..(i + 1) * b]);
        } else {
            for (j, v) in row[..start].iter_mut().enumerate() {
                *v = scaled[j * b + i - start];
            }
        }
    });
}

/// A matrix that several threads write, each in tiles of its own.
struct Tiles(*mut f32);
// SAFETY: shared only inside this file, where every task writes rows and columns no other task of the same loop touches.
unsafe impl Sync for Tiles {}

/// `A_ij −= scaled_i panel_jᵀ` on all tiles at or below the diagonal. The pivot's rows and columns have zero panels
/// and so stay as they are.
fn update_tiles(a: &mut [f32], n: usize, start: usize, end: usize, panel: &[f32], scaled: &[f32]) {
    let b = end - start;
    let tiles: Vec<(usize, usize)> =
        (0..n).step_by(TILE).flat_map(|i| (0..=i).step_by(TILE).map(move |j| (i, j))).collect();
    let matrix = Tiles(a.as_mut_ptr());
    let matrix = &matrix;
    tiles.into_par_iter().for_each(|(i, j)| {
        let (m, k) = (TILE.min(n - i), TILE.min(n - j));
        let (left, right) = (scaled[i * b..].as_ptr(), panel[j * b..].as_ptr());
        let at = Layout::rows_of(b);
        // SAFETY: rows i..i+m and columns j..j+k lie inside the n × n matrix, and no other task has this tile.
        unsafe {
            let tile = matrix.0.add(i * n + j);
            gemm_raw((m, k, b), -1.0, (left, at), (right, at.transposed()), 1.0, (tile, Layout::rows_of(n)));
        }
    });
}

/// Fills both triangles from the lower one, times a factor per column: `a[i][j] ← a_ij scale[j]` for all i ≠ j, and
/// zero on the diagonal.
pub fn mirror_scaled(a: &mut [f32], n: usize, scale: &[f32]) {
    const EDGE: usize = 64;
    assert!(a.len() >= n * n && scale.len() >= n, "matrix or scale is too short for {n} × {n}");
    let matrix = Tiles(a.as_mut_ptr());
    let matrix = &matrix;
    (0..n.div_ceil(EDGE)).into_par_iter().for_each(|t| {
        let rows = t * EDGE..((t + 1) * EDGE).min(n);
        for left in (0..rows.end).step_by(EDGE) {
            for i in rows.clone() {
                for j in left..(left + EDGE).min(i) {
                    // SAFETY: i, j < n; the pair (i, j), i > j, and its mirror belong to the task of row i alone.
                    unsafe {
                        let v = *matrix.0.add(i * n + j);
                        *matrix.0.add(i * n + j) = v * scale[j];
                        *matrix.0.add(j * n + i) = v * scale[i];
                    }
                }
            }
        }
        for i in rows {
            // SAFETY: the diagonal of row i belongs to this task alone.
            unsafe { *matrix.0.add(i * n + i) = 0.0 };
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use sommelier_core::Rng;

    fn spd(n: usize, seed: u64) -> Vec<f32> {
        let mut rng = Rng::new(seed);
        let x: Vec<f32> = (0..n * n).map(|_| rng.normal() as f32).collect();
        let mut a = vec![0f32; n * n];
        for i in 0..n {
            for j in 0..n {
                a[i * n + j] =
                    dot(&x[i * n..][..n], &x[j * n..][..n]) / n as f32 + if i == j { 0.5 } else { 0.0 };
            }
        }
        a
    }

    #[test]
    fn solves() {
        for n in [1, 2, 7, 33, 64] {
            let a = spd(n, n as u64);
            let x: Vec<f32> = (0..n).map(|i| i as f32 / n as f32 - 0.3).collect();
            let mut b: Vec<f32> = (0..n).map(|i| dot(&a[i * n..][..n], &x)).collect();
            let mut l = a;
            cholesky(&mut l, n).unwrap();
            cholesky_solve(&l, n, &mut b);
            for i in 0..n {
                assert!((b[i] - x[i]).abs() < 1e-3, "{n}: {} for {}", b[i], x[i]);
            }
        }
        assert_eq!(cholesky(&mut [1.0, 0.0, 2.0, 1.0], 2), Err(NotPositive { row: 1 }));
        assert_eq!(cholesky(&mut [f32::NAN], 1), Err(NotPositive { row: 0 }));
    }

    #[test]
    fn inverts_in_place() {
        for n in [1, 5, 32, 33, 100, 300, 777] {
            let a = spd(n, 40 + n as u64);
            let mut inverse = a.clone();
            for i in 0..n {
                inverse[i * n + i + 1..(i + 1) * n].fill(f32::NAN); // The upper triangle must not be read.
            }
            spd_inverse_in_place(&mut inverse, n, |_| Ok::<(), NotPositive>(())).unwrap();
            mirror_scaled_with_diagonal(&mut inverse, n);
            for i in [0, n / 2, n - 1] {
                for j in 0..n {
                    let sum: f32 = (0..n).map(|k| -inverse[i * n + k] * a[k * n + j]).sum();
                    assert!((sum - f32::from(u8::from(i == j))).abs() < 2e-3, "{n}: ({i}, {j}) is {sum}");
                }
            }
        }
        let mut bad = vec![1.0, 0.0, 2.0, 1.0];
        assert_eq!(spd_inverse_in_place(&mut bad, 2, |_| Ok(())), Err(NotPositive { row: 1 }));
    }

    fn mirror_scaled_with_diagonal(a: &mut [f32], n: usize) {
        let diagonal: Vec<f32> = (0..n).map(|i| a[i * n + i]).collect();
        mirror_scaled(a, n, &vec![1.0; n]);
        for i in 0..n {
            assert_eq!(a[i * n + i], 0.0);
            a[i * n + i] = diagonal[i];
        }
    }
}

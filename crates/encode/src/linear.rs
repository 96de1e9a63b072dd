//! The factorisations that encoders share: eigenvectors of a symmetric matrix, products, singular vectors of a sparse one.
//!
//! X ≈ U Σ Vᵀ by a random start and passes over X: Ω ← orth(Xᵀ orth(X Ω)), then (XΩ)ᵀ(XΩ) = W Σ² Wᵀ and V = ΩW.
//!
//! Shapes: X (n × c) sparse, V (c × dim), Ω (c × l), l = dim + oversample. Cost: O((|X| l + (n + c) l²) · passes) time,
//! O((n + c) l) memory. Source: Halko, Martinsson, Tropp, SIAM Review 2011, arXiv:0909.4061.
//! Departures: spaces are made orthonormal by the eigenvectors of their 64-bit Gram matrix, twice, instead of by QR, which
//! drops directions that are not there; column means may be taken off without being stored. Every sum has an order of its
//! own, so the number of threads changes nothing; the largest number of each singular vector is positive.

use crate::EncodeError;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::evd::{ComputeEigenvectors, self_adjoint_evd, self_adjoint_evd_scratch};
use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatMut, MatRef, Par, Spec};
use rayon::prelude::*;
use sommelier_core::{Csr, FitContext, Rng};
use sommelier_nn::kernel::{self, Layout};

/// Rows of a tile that is multiplied at once.
const TILE: usize = 256;
/// Rows of a Gram matrix that one task sums.
const BLOCK: usize = 32;
/// An eigenvalue below this share of the largest is taken for rounding.
const NOTHING: f64 = 1e-12;

/// A = U diag(values) Uᵀ, the largest value first.
pub(crate) struct Eigen {
    pub values: Vec<f64>,
    u: Mat<f64>,
}

impl Eigen {
    /// Of a symmetric row-major `n × n`; only its lower triangle is read.
    pub fn of(a: &[f64], n: usize) -> Result<Eigen, EncodeError> {
        let refused =
            |why: &str| EncodeError::Numeric(format!("no eigenvectors of {n} × {n} numbers: {why}"));
        if a.iter().any(|v| !v.is_finite()) {
            return Err(refused("some are NaN or infinite; look for extreme values in what is encoded"));
        }
        if n == 0 {
            return Ok(Eigen { values: Vec::new(), u: Mat::new() });
        }
        let mut u = Mat::<f64>::zeros(n, n);
        let mut s = faer::diag::Diag::<f64>::zeros(n);
        // One thread: with more, the order of sums would depend on how many there are.
        let need = self_adjoint_evd_scratch::<f64>(n, ComputeEigenvectors::Yes, Par::Seq, Spec::default());
        let mut memory = MemBuffer::new(need);
        self_adjoint_evd(
            MatRef::from_row_major_slice(a, n, n),
            s.as_mut(),
            Some(u.as_mut()),
            Par::Seq,
            MemStack::new(&mut memory),
            Spec::default(),
        )
        .map_err(|e| refused(&format!("{e:?}")))?;
        let values = s.column_vector().iter().rev().copied().collect();
        Ok(Eigen { values, u })
    }

    /// Number `i` of the eigenvector of value `k`.
    pub fn at(&self, i: usize, k: usize) -> f64 {
        self.u[(i, self.values.len() - 1 - k)]
    }

    /// How many values are more than rounding.
    pub fn rank(&self) -> usize {
        let floor = self.values.first().copied().unwrap_or(0.0) * NOTHING;
        self.values.iter().take_while(|&&v| v > floor && v > 0.0).count()
    }

    /// U diag(scale), its first `cols` columns, row-major, each column turned so that its largest number is positive.
    pub fn scaled(&self, cols: usize, scale: impl Fn(f64) -> f64) -> Vec<f32> {
        let n = self.values.len();
        let mut out = vec![0f32; n * cols];
        for k in 0..cols {
            let factor = scale(self.values[k]) * self.sign(k);
            (0..n).for_each(|i| out[i * cols + k] = (self.at(i, k) * factor) as f32);
        }
        out
    }

    fn sign(&self, k: usize) -> f64 {
        let largest = (0..self.values.len()).map(|i| self.at(i, k)).fold(0f64, |a, b| {
            // A little more is asked of a later one, so that rounding does not decide between equal ones.
            if b.abs() > a.abs() * (1.0 + 1e-6) { b } else { a }
        });
        if largest < 0.0 { -1.0 } else { 1.0 }
    }
}

/// AᵀB in 64 bits for `a` (n × p) and `b` (n × q), row-major: p × q.
pub(crate) fn cross((a, p): (&[f32], usize), (b, q): (&[f32], usize)) -> Vec<f64> {
    let mut out = vec![0f64; p * q];
    if p == 0 || q == 0 {
        return out;
    }
    out.par_chunks_mut(BLOCK * q).enumerate().for_each(|(at, out)| {
        let (from, width) = (at * BLOCK, out.len() / q);
        let (mut left, mut right) = (vec![0f64; TILE * width], vec![0f64; TILE * q]);
        for (a, b) in a.chunks(TILE * p).zip(b.chunks(TILE * q)) {
            let n = b.len() / q;
            for (to, row) in left.chunks_exact_mut(width).zip(a.chunks_exact(p)) {
                to.iter_mut().zip(&row[from..from + width]).for_each(|(to, &v)| *to = f64::from(v));
            }
            right.iter_mut().zip(b).for_each(|(to, &v)| *to = f64::from(v));
            matmul(
                MatMut::from_row_major_slice_mut(&mut *out, width, q),
                Accum::Add,
                MatRef::from_row_major_slice(&left[..n * width], n, width).transpose(),
                MatRef::from_row_major_slice(&right[..n * q], n, q),
                1.0,
                Par::Seq,
            );
        }
    });
    out
}

/// AB in 64 bits.
pub(crate) fn multiply(a: MatRef<'_, f64>, b: MatRef<'_, f64>) -> Mat<f64> {
    let mut out = Mat::zeros(a.nrows(), b.ncols());
    matmul(out.as_mut(), Accum::Replace, a, b, 1.0, Par::Seq);
    out
}

/// AB for `a` (n × p) and `b` (p × q), row-major: n × q.
pub(crate) fn product((a, p): (&[f32], usize), (b, q): (&[f32], usize)) -> Vec<f32> {
    let n = a.len().checked_div(p).unwrap_or(0);
    let mut out = vec![0f32; n * q];
    if !out.is_empty() {
        out.par_chunks_mut(TILE * q).zip(a.par_chunks(TILE * p)).for_each(|(out, a)| {
            let (n, at) = (out.len() / q, Layout::rows_of(q));
            kernel::gemm((n, q, p), 1.0, (a, Layout::rows_of(p)), (b, at), 0.0, (out, at));
        });
    }
    out
}

/// Divides by the length, where there is one; whether there was.
pub(crate) fn to_unit(v: &mut [f32]) -> bool {
    // In 64 bits, so that very small and very large vectors have a length too.
    let length = v.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
    if length > 0.0 && length.is_finite() {
        v.iter_mut().for_each(|v| *v = (f64::from(*v) / length) as f32);
        true
    } else {
        false
    }
}

/// Brings a vector that came from elsewhere to unit length, if so wanted; whether it says anything.
pub(crate) fn usable(v: &mut [f32], unit: bool) -> bool {
    if unit { to_unit(v) } else { v.iter().any(|&v| v != 0.0) }
}

/// A sparse matrix seen from both sides; `mean` is what to take off each column.
pub(crate) struct Sparse<'a> {
    x: &'a Csr,
    transposed: Csr,
    mean: Option<&'a [f32]>,
}

/// V (columns × dim, row-major) and the singular values, largest first: fewer than asked for where the rank is lower.
pub(crate) struct Singular {
    pub v: Vec<f32>,
    pub values: Vec<f32>,
}

/// Directions carried along and dropped at the end.
const OVERSAMPLE: usize = 16;
/// Passes that sharpen the space.
const PASSES: usize = 5;

impl<'a> Sparse<'a> {
    pub fn new(x: &'a Csr, mean: Option<&'a [f32]>) -> Sparse<'a> {
        Sparse { x, transposed: x.transpose(), mean }
    }

    /// Bytes that [`Self::singular`] takes beside the matrix.
    pub fn bytes(rows: usize, cols: usize, dim: usize) -> u64 {
        4 * 3 * ((rows + cols) as u64) * (dim + OVERSAMPLE).min(rows).min(cols) as u64
    }

    pub fn singular(&self, dim: usize, seed: u64, ctx: &FitContext) -> Result<Singular, EncodeError> {
        let (rows, cols) = (self.x.rows(), self.x.cols);
        let mut width = (dim + OVERSAMPLE).min(rows).min(cols);
        let mut rng = Rng::stream(ctx.seed, seed);
        let mut space: Vec<f32> = (0..cols * width).map(|_| rng.normal() as f32).collect();
        ctx.progress.start("singular vectors", Some(PASSES as u64 + 1));
        for pass in 0..=PASSES {
            ctx.cancel.check()?;
            let (left, w) = orthonormal(self.times(&space, width), width)?;
            (space, width) = orthonormal(self.transposed_times(&left, w), w)?;
            ctx.progress.at(pass as u64 + 1);
            if width == 0 {
                break;
            }
        }
        ctx.cancel.check()?;
        if width == 0 {
            return Ok(Singular { v: Vec::new(), values: Vec::new() });
        }
        let seen = self.times(&space, width);
        let turn = Eigen::of(&cross((&seen, width), (&seen, width)), width)?;
        // Singular values are roots, known to about 32-bit accuracy of the largest.
        let floor = turn.values[0] * f64::from(f32::EPSILON).powi(2) * width as f64;
        let dim = turn.values.iter().take(dim).take_while(|&&v| v > floor).count();
        let mut v = product((&space, width), (&turn.scaled(dim, |_| 1.0), dim));
        turn_up(&mut v, dim);
        ctx.progress.finish();
        Ok(Singular { v, values: turn.values[..dim].iter().map(|v| v.sqrt() as f32).collect() })
    }

    /// (X − 1μᵀ) D for D (columns × width).
    fn times(&self, dense: &[f32], width: usize) -> Vec<f32> {
        let mut off = vec![0f32; width];
        for (&m, row) in self.mean.unwrap_or_default().iter().zip(dense.chunks_exact(width)) {
            kernel::axpy(-m, row, &mut off);
        }
        sparse_times(self.x, dense, width, |_| 1.0, &off)
    }

    /// (X − 1μᵀ)ᵀ D for D (rows × width).
    fn transposed_times(&self, dense: &[f32], width: usize) -> Vec<f32> {
        let mut sums = vec![0f32; width];
        if self.mean.is_some() {
            dense.chunks_exact(width).for_each(|row| kernel::axpy(-1.0, row, &mut sums));
        }
        sparse_times(&self.transposed, dense, width, |c| self.mean.map_or(0.0, |m| m[c]), &sums)
    }
}

/// Row r of the result: Σ_c m[r, c] dense[c] + share(r) · every.
fn sparse_times(
    m: &Csr,
    dense: &[f32],
    width: usize,
    share: impl Fn(usize) -> f32 + Sync,
    every: &[f32],
) -> Vec<f32> {
    let mut out = vec![0f32; m.rows() * width];
    if width > 0 {
        out.par_chunks_mut(width).enumerate().for_each(|(r, out)| {
            kernel::axpy(share(r), every, out);
            let (cols, values) = m.row(r);
            for (&c, &v) in cols.iter().zip(values) {
                kernel::axpy(v, &dense[c as usize * width..][..width], out);
            }
        });
    }
    out
}

/// Turns each column so that its largest number is positive.
fn turn_up(v: &mut [f32], cols: usize) {
    let mut largest = vec![0f32; cols];
    for row in v.chunks_exact(cols.max(1)) {
        for (l, &v) in largest.iter_mut().zip(row) {
            if v.abs() > l.abs() * 1.000_01 {
                *l = v;
            }
        }
    }
    for row in v.chunks_exact_mut(cols.max(1)) {
        row.iter_mut().zip(&largest).filter(|(_, l)| **l < 0.0).for_each(|(v, _)| *v = -*v);
    }
}

/// An orthonormal basis of the columns of `y` (n × width), and how many they are.
fn orthonormal(mut y: Vec<f32>, mut width: usize) -> Result<(Vec<f32>, usize), EncodeError> {
    // The second time takes off the rounding of the first.
    for _ in 0..2 {
        let gram = Eigen::of(&cross((&y, width), (&y, width)), width)?;
        let rank = gram.rank();
        y = product((&y, width), (&gram.scaled(rank, |v| 1.0 / v.sqrt()), rank));
        width = rank;
        if width == 0 {
            return Ok((Vec::new(), 0));
        }
    }
    Ok((y, width))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;
    use sommelier_core::Rng;

    pub(crate) fn drawn(n: usize, seed: u64) -> Vec<f32> {
        let mut rng = Rng::new(seed);
        (0..n).map(|_| rng.normal() as f32).collect()
    }

    /// What `work` gives on so many threads.
    pub(crate) fn on_threads<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> T {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(work)
    }

    fn sparse(rows: usize, cols: usize, seed: u64) -> Csr {
        let mut rng = Rng::new(seed);
        let places: Vec<(u32, u32, f32)> = (0..=rows * cols / 3)
            .map(|_| (rng.below(rows) as u32, rng.below(cols) as u32, rng.normal() as f32))
            .collect();
        Csr::from_triplets(rows, cols, places)
    }

    fn dense(x: &Csr, mean: Option<&[f32]>) -> Mat<f64> {
        let mut out = Mat::from_fn(x.rows(), x.cols, |_, c| mean.map_or(0.0, |m| -f64::from(m[c])));
        for r in 0..x.rows() {
            let (cols, values) = x.row(r);
            cols.iter().zip(values).for_each(|(&c, &v)| out[(r, c as usize)] += f64::from(v));
        }
        out
    }

    #[test]
    fn singular_vectors_are_those_of_the_full_factorisation() {
        for (rows, cols, centred) in [(40, 30, false), (25, 60, true), (60, 12, true), (1, 5, false)] {
            let x = sparse(rows, cols, 3);
            let mean: Vec<f32> = drawn(cols, 4).iter().map(|v| v * 0.3).collect();
            let mean = centred.then_some(&mean[..]);
            let full = dense(&x, mean);
            let svd = full.svd().unwrap();
            let found = Sparse::new(&x, mean).singular(8, 1, &FitContext::quiet(1)).unwrap();
            let dim = found.values.len();
            assert_eq!(dim, 8.min(rows).min(cols));
            for k in 0..dim {
                let sigma = svd.S().column_vector()[k];
                assert!((f64::from(found.values[k]) - sigma).abs() < 2e-3 * sigma, "{k}: {sigma}");
            }
            // X V has the energy of the best approximation of this rank, and V is orthonormal.
            let v = Mat::from_fn(cols, dim, |i, k| f64::from(found.v[i * dim + k]));
            let energy = |m: &Mat<f64>| m.norm_l2().powi(2);
            let best: f64 = (0..dim).map(|k| svd.S().column_vector()[k].powi(2)).sum();
            let kept = energy(&(&full * &v));
            assert!((kept - best).abs() < 2e-3 * best, "{kept} of {best}");
            assert!((v.transpose() * &v - Mat::<f64>::identity(dim, dim)).norm_max() < 1e-5);
        }
    }

    #[test]
    fn low_rank_is_rebuilt_exactly_and_nothing_has_no_vectors() {
        let (a, b) = (drawn(20 * 3, 1), drawn(3 * 15, 2));
        let full = product((&a, 3), (&b, 15));
        let at = |(i, &v): (usize, &f32)| ((i / 15) as u32, (i % 15) as u32, v);
        let x = Csr::from_triplets(20, 15, full.iter().enumerate().map(at));
        let found = Sparse::new(&x, None).singular(8, 1, &FitContext::quiet(1)).unwrap();
        assert_eq!(found.values.len(), 3, "{:?}", found.values);
        let (v, full) = (Mat::from_fn(15, 3, |i, k| f64::from(found.v[i * 3 + k])), dense(&x, None));
        assert!((&full * &v * v.transpose() - &full).norm_max() < 1e-4);
        let zero = Csr::from_triplets(4, 3, [(0, 0, 0.0)]);
        assert!(Sparse::new(&zero, None).singular(2, 1, &FitContext::quiet(1)).unwrap().values.is_empty());
    }

    #[test]
    fn threads_change_nothing_and_a_stop_stops() {
        let x = sparse(900, 400, 5);
        let v = |threads| {
            on_threads(threads, || Sparse::new(&x, None).singular(40, 1, &FitContext::quiet(1)).unwrap().v)
        };
        assert_eq!(v(1), v(3));
        let ctx = FitContext::quiet(1);
        ctx.cancel.cancel();
        assert!(matches!(Sparse::new(&x, None).singular(4, 1, &ctx), Err(EncodeError::Stopped(_))));
    }

    #[test]
    fn numbers_that_are_none_are_refused() {
        assert!(Eigen::of(&[1.0, f64::NAN, 0.0, 1.0], 2).err().unwrap().to_string().contains("NaN"));
    }

    proptest! {
        #[test]
        fn products_are_those_of_plain_loops(n in 0usize..600, p in 1usize..40, q in 1usize..5, seed: u64) {
            let (a, b, c) = (drawn(n * p, seed), drawn(n * q, seed ^ 1), drawn(p * q, seed ^ 2));
            let (found, ab) = (cross((&a, p), (&b, q)), product((&a, p), (&c, q)));
            for j in 0..q {
                for i in 0..p {
                    let sum: f64 = (0..n).map(|r| f64::from(a[r * p + i]) * f64::from(b[r * q + j])).sum();
                    prop_assert!((found[i * q + j] - sum).abs() < 1e-9);
                }
                for r in 0..n {
                    let sum: f32 = (0..p).map(|i| a[r * p + i] * c[i * q + j]).sum();
                    prop_assert!((ab[r * q + j] - sum).abs() < 1e-3);
                }
            }
        }

        #[test]
        fn eigenvectors_rebuild_the_matrix(n in 1usize..12, seed: u64) {
            let x = drawn(n * n, seed);
            let a = cross((&x, n), (&x, n));
            let eigen = Eigen::of(&a, n).unwrap();
            prop_assert!(eigen.values.is_sorted_by(|a, b| a >= b));
            for (at, &v) in a.iter().enumerate() {
                let (i, j) = (at / n, at % n);
                let sum: f64 = (0..n).map(|k| eigen.at(i, k) * eigen.values[k] * eigen.at(j, k)).sum();
                prop_assert!((sum - v).abs() < 1e-8 * (1.0 + eigen.values[0]));
            }
        }
    }
}

//! Dense products: a checked door to the `gemm` crate.

/// Where element (i, j) of a matrix lies in its slice: `i * row + j * col`.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    pub row: usize,
    pub col: usize,
}

impl Layout {
    pub fn rows_of(width: usize) -> Layout {
        Layout { row: width, col: 1 }
    }

    /// The same numbers seen as the transposed matrix.
    pub fn transposed(self) -> Layout {
        Layout { row: self.col, col: self.row }
    }

    /// One past the last element of an `m × n` matrix.
    fn span(self, m: usize, n: usize) -> usize {
        if m == 0 || n == 0 { 0 } else { (m - 1) * self.row + (n - 1) * self.col + 1 }
    }
}

/// `c ← beta c + alpha a b` for `a` (m × k), `b` (k × n), `c` (m × n), on the calling thread.
///
/// Panics if a slice is too short for its shape: that is a mistake of the caller's, not of the data.
pub fn gemm(
    (m, n, k): (usize, usize, usize),
    alpha: f32,
    (a, a_at): (&[f32], Layout),
    (b, b_at): (&[f32], Layout),
    beta: f32,
    (c, c_at): (&mut [f32], Layout),
) {
    assert!(a.len() >= a_at.span(m, k), "a is too short for {m} × {k}");
    assert!(b.len() >= b_at.span(k, n), "b is too short for {k} × {n}");
    assert!(c.len() >= c_at.span(m, n), "c is too short for {m} × {n}");
    if m == 0 || n == 0 {
        return;
    }
    // SAFETY: the asserts above keep every address of the three matrices inside its slice, and `c` is borrowed alone.
    unsafe {
        gemm_raw((m, n, k), alpha, (a.as_ptr(), a_at), (b.as_ptr(), b_at), beta, (c.as_mut_ptr(), c_at));
    }
}

/// `to[c, r] ← from[r, c]` for `from` (any × `cols`), rows of `to` being `stride` apart. What lies between them stays.
pub fn transpose(from: &[f32], cols: usize, to: &mut [f32], stride: usize) {
    /// Both sides of a block lie in the first cache.
    const BLOCK: usize = 16;
    let rows = from.len() / cols.max(1);
    for r in (0..rows).step_by(BLOCK) {
        for c in (0..cols).step_by(BLOCK) {
            for (c, to) in to[c * stride..]
                .chunks_mut(stride)
                .take(BLOCK.min(cols - c))
                .enumerate()
                .map(|(i, to)| (c + i, to))
            {
                let column = from[r * cols + c..].iter().step_by(cols);
                to[r..rows.min(r + BLOCK)].iter_mut().zip(column).for_each(|(to, &from)| *to = from);
            }
        }
    }
}

/// [`gemm`] on pointers, for tiles of a matrix that several threads write.
///
/// # Safety
/// Every element of the three matrices must be valid, and nothing else may touch those of `c` meanwhile.
pub(super) unsafe fn gemm_raw(
    (m, n, k): (usize, usize, usize),
    alpha: f32,
    (a, a_at): (*const f32, Layout),
    (b, b_at): (*const f32, Layout),
    beta: f32,
    (c, c_at): (*mut f32, Layout),
) {
    // SAFETY: as promised by the caller. The crate calls the factor of `c` alpha and that of the product beta.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c,
            c_at.col as isize,
            c_at.row as isize,
            beta != 0.0,
            a,
            a_at.col as isize,
            a_at.row as isize,
            b,
            b_at.col as isize,
            b_at.row as isize,
            beta,
            alpha,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sommelier_core::Rng;

    #[test]
    fn transposes_and_keeps_what_is_between() {
        for (rows, cols) in [(0, 3), (1, 1), (5, 3), (40, 33), (16, 16)] {
            let from: Vec<f32> = (0..rows * cols).map(|x| x as f32).collect();
            let stride = rows + 2;
            let mut to = vec![-1f32; cols * stride];
            transpose(&from, cols, &mut to, stride);
            for c in 0..cols {
                (0..rows).for_each(|r| assert_eq!(to[c * stride + r], from[r * cols + c]));
                assert_eq!(to[c * stride + rows..(c + 1) * stride], [-1.0; 2]);
            }
        }
    }

    #[test]
    fn matches_plain_loops() {
        let mut rng = Rng::new(5);
        for (m, n, k) in [(1, 1, 1), (3, 5, 7), (33, 20, 16), (0, 4, 4), (4, 4, 0)] {
            let a: Vec<f32> = (0..m * k).map(|_| rng.normal() as f32).collect();
            let b: Vec<f32> = (0..n * k).map(|_| rng.normal() as f32).collect();
            let mut c = vec![1f32; m * n];
            let (a_at, b_at) = (Layout::rows_of(k), Layout::rows_of(k).transposed());
            gemm((m, n, k), 2.0, (&a, a_at), (&b, b_at), 0.5, (&mut c, Layout::rows_of(n)));
            for i in 0..m {
                for j in 0..n {
                    let sum: f32 = (0..k).map(|l| a[i * k + l] * b[j * k + l]).sum();
                    assert!((c[i * n + j] - (0.5 + 2.0 * sum)).abs() < 1e-4);
                }
            }
        }
    }
}

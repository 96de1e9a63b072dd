//! Sparse times dense.

use super::vector::prefetch;
use super::{dispatched, madd};
use sommelier_core::Csr;
use std::ops::Range;

/// Columns whose sums stay in registers over a sparse row.
const WIDE: usize = 64;
const NARROW: usize = 16;
/// Entries between asking for a row and using it.
const AHEAD: usize = 4;

dispatched! {
    /// `y ← beta y + alpha A x` for `dim` columns of x and y; `y` may hold anything where `beta` is 0.
    sparse_times = sparse_times_body(a: &Csr, dim: usize, alpha: f32, x: &[f32], beta: f32, y: &mut [f32])
}

#[inline(always)]
fn sparse_times_body<const FMA: bool>(a: &Csr, dim: usize, alpha: f32, x: &[f32], beta: f32, y: &mut [f32]) {
    if dim == 0 {
        return;
    }
    for (range, y) in a.ptr.windows(2).zip(y.chunks_exact_mut(dim)) {
        let row = Row { a, range: range[0]..range[1], x, dim };
        let mut from = 0;
        while from + WIDE <= dim {
            put::<FMA>(&row.sums::<FMA, WIDE>(from), alpha, beta, &mut y[from..from + WIDE]);
            from += WIDE;
        }
        while from + NARROW <= dim {
            put::<FMA>(&row.sums::<FMA, NARROW>(from), alpha, beta, &mut y[from..from + NARROW]);
            from += NARROW;
        }
        for column in from..dim {
            put::<FMA>(&row.sums::<FMA, 1>(column), alpha, beta, &mut y[column..=column]);
        }
    }
}

struct Row<'a> {
    a: &'a Csr,
    range: Range<usize>,
    x: &'a [f32],
    dim: usize,
}

impl Row<'_> {
    /// Of `W` columns beginning with `from`.
    #[inline(always)]
    fn sums<const FMA: bool, const W: usize>(&self, from: usize) -> [f32; W] {
        let mut acc = [0f32; W];
        for e in self.range.clone() {
            if let Some(&next) = self.a.index.get(e + AHEAD) {
                prefetch(self.x, next as usize * self.dim + from, W);
            }
            let (value, x) = (self.a.value[e], &self.x[self.a.index[e] as usize * self.dim + from..][..W]);
            for l in 0..W {
                acc[l] = madd::<FMA>(value, x[l], acc[l]);
            }
        }
        acc
    }
}

#[inline(always)]
fn put<const FMA: bool>(sums: &[f32], alpha: f32, beta: f32, y: &mut [f32]) {
    for (y, &sum) in y.iter_mut().zip(sums) {
        *y = if beta == 0.0 { alpha * sum } else { madd::<FMA>(beta, *y, alpha * sum) };
    }
}

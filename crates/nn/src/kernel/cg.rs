//! Conjugate gradients for a diagonal plus a few weighted rows: the normal equations of one row of a factor model.

use super::vector::{axpy_body, dot_body, gram_apply_body};
use super::{dispatched, madd};

dispatched! {
    /// Improves `x` toward the solution of (diag(base) + Σ_r w_r y_r y_rᵀ) x = Σ_r w_r y_r, for `rows` y laid end to end,
    /// by `steps` of conjugate gradients preconditioned by the diagonal of the matrix. `work` holds 4 vectors.
    ///
    /// Source: Hestenes and Stiefel 1952; Takács, Pilászy and Tikk, RecSys 2011, for its use here.
    conjugate_gradients = conjugate_gradients_body(
        rows: &[f32], weights: &[f32], base: &[f32], x: &mut [f32], steps: usize, work: &mut [f32]
    )
}

#[inline(always)]
fn conjugate_gradients_body<const FMA: bool>(
    rows: &[f32],
    weights: &[f32],
    base: &[f32],
    x: &mut [f32],
    steps: usize,
    work: &mut [f32],
) {
    let dim = base.len();
    let (residual, rest) = work.split_at_mut(dim);
    let (direction, rest) = rest.split_at_mut(dim);
    let (image, rest) = rest.split_at_mut(dim);
    let inverse = &mut rest[..dim];
    // residual = Σ w (1 − x·y) y − base x and the diagonal of the matrix, in one pass over the rows.
    for ((r, h), (&x, &b)) in residual.iter_mut().zip(&mut *inverse).zip(x.iter().zip(base)) {
        (*r, *h) = (-b * x, b);
    }
    for (y, &w) in rows.chunks_exact(dim.max(1)).zip(weights) {
        let miss = w * (1.0 - dot_body::<FMA>(x, y));
        for ((r, h), &y) in residual.iter_mut().zip(&mut *inverse).zip(y) {
            *r = madd::<FMA>(miss, y, *r);
            *h = madd::<FMA>(w * y, y, *h);
        }
    }
    for h in &mut *inverse {
        *h = 1.0 / *h;
    }
    for ((d, &r), &m) in direction.iter_mut().zip(&*residual).zip(&*inverse) {
        *d = m * r;
    }
    let mut size = dot_body::<FMA>(direction, residual);
    for step in 1..=steps {
        if size < 1e-20 {
            return;
        }
        for ((i, &d), &b) in image.iter_mut().zip(&*direction).zip(base) {
            *i = b * d;
        }
        gram_apply_body::<FMA>(rows, weights, direction, image);
        let length = size / dot_body::<FMA>(direction, image);
        axpy_body::<FMA>(length, direction, x);
        if step == steps {
            return;
        }
        axpy_body::<FMA>(-length, image, residual);
        let old = size;
        for ((i, &r), &m) in image.iter_mut().zip(&*residual).zip(&*inverse) {
            *i = m * r;
        }
        size = dot_body::<FMA>(image, residual);
        for (d, &i) in direction.iter_mut().zip(&*image) {
            *d = madd::<FMA>(size / old, *d, i);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sommelier_core::Rng;

    proptest! {
        #[test]
        fn as_many_steps_as_unknowns_solve_it(n in 0usize..12, dim in 1usize..40, plain: bool, seed: u64) {
            let mut rng = Rng::new(seed);
            let rows: Vec<f32> = (0..n * dim).map(|_| rng.normal() as f32).collect();
            let weights: Vec<f32> = (0..n).map(|_| 0.5 + rng.unit() as f32).collect();
            let base: Vec<f32> = (0..dim).map(|_| 1.0 + rng.unit() as f32).collect();
            let mut x: Vec<f32> = (0..dim).map(|_| rng.normal() as f32).collect();
            let mut work = vec![0.0; 4 * dim];
            if plain {
                conjugate_gradients_body::<false>(&rows, &weights, &base, &mut x, dim + 10, &mut work);
            } else {
                conjugate_gradients(&rows, &weights, &base, &mut x, dim + 10, &mut work);
            }
            for l in 0..dim {
                let mut miss = f64::from(base[l] * x[l]);
                for r in 0..n {
                    let y = &rows[r * dim..][..dim];
                    let s: f64 = y.iter().zip(&x).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                    miss -= f64::from(weights[r]) * (1.0 - s) * f64::from(y[l]);
                }
                prop_assert!(miss.abs() < 1e-3, "{} of {}: {}", l, dim, miss);
            }
        }
    }
}

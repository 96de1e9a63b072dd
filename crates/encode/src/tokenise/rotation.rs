//! Turning vectors before they are cut into parts: each part should say about as much, and nothing that another says.
//!
//! y = R x with R orthogonal. Balanced: the rows of R are eigenvectors of the covariance, which decorrelates; from the largest
//! eigenvalue down, each goes to the part with the smallest product of those it has and room for one more. Random: R is drawn
//! evenly from all rotations.
//!
//! Shapes: x and y (n × d), R (d × d). Cost: 2 n d² and about 9 d³ for the fit, 2 n d² to turn.
//! Source: Ge, He, Ke, Sun, "Optimized Product Quantization", PAMI 2014: its parametric solution, best for normal vectors.
//! Departures: eigenvalues are measured by the smallest that is not rounding, so that products never fall.

use crate::linear::{Eigen, cross};
use crate::{EncodeError, Rows};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sommelier_core::Rng;
use sommelier_nn::kernel::{self, Layout};

/// How vectors are turned before they are cut.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rotate {
    /// They are not.
    None,
    /// By a random rotation.
    Random,
    /// By their principal components, dealt to parts so that each varies as much.
    #[default]
    Balanced,
}

/// An orthogonal matrix.
#[derive(Debug, Clone, PartialEq)]
pub struct Rotation {
    dim: usize,
    /// New axes, one a row.
    rows: Vec<f32>,
}

/// Rows turned by one task.
const CHUNK: usize = 2048;
/// Vectors by which axes are found, at most: more hardly turn them.
const MOST: usize = 1 << 14;

impl Rotate {
    /// For vectors that will be cut into parts of these lengths.
    pub(super) fn fit(
        self,
        x: Rows,
        parts: &[usize],
        rng: &mut Rng,
    ) -> Result<Option<Rotation>, EncodeError> {
        match self {
            Rotate::None => Ok(None),
            Rotate::Random => Ok(Some(random(x.dim, rng))),
            Rotate::Balanced => balanced(x, parts, rng).map(Some),
        }
    }
}

/// Rows of normal numbers, made orthogonal one after the other.
fn random(dim: usize, rng: &mut Rng) -> Rotation {
    let mut rows = Vec::with_capacity(dim * dim);
    while rows.len() < dim * dim {
        let mut row: Vec<f32> = (0..dim).map(|_| rng.normal() as f32).collect();
        // Twice, for what rounding leaves over.
        for _ in 0..2 {
            for other in Rows::new(&rows, dim).iter() {
                kernel::axpy(-kernel::dot(&row, other), other, &mut row);
            }
        }
        let length = kernel::dot(&row, &row).sqrt();
        // What is left of a row that nearly lies among the others is mostly rounding: another is drawn.
        if length > 1e-3 {
            kernel::scale(&mut row, 1.0 / length);
            rows.extend(row);
        }
    }
    Rotation { dim, rows }
}

fn balanced(x: Rows, parts: &[usize], rng: &mut Rng) -> Result<Rotation, EncodeError> {
    let dim = x.dim;
    let eigen = Eigen::of(&covariance(&x.sample(MOST, rng), dim), dim)?;
    let least = eigen.values[..eigen.rank()].last().copied().unwrap_or(1.0);
    // Σ log of its eigenvalues, and which they are, for each part.
    let mut found: Vec<(f64, Vec<usize>)> = vec![(0.0, Vec::new()); parts.len()];
    for k in 0..dim {
        let open = (0..parts.len()).filter(|&p| found[p].1.len() < parts[p]);
        let Some(part) = open.reduce(|a, b| if found[b].0 < found[a].0 { b } else { a }) else { break };
        found[part].0 += (eigen.values[k] / least).max(1.0).ln();
        found[part].1.push(k);
    }
    let axis = |k: usize| (0..dim).map(move |i| (i, k));
    let places = found.into_iter().flat_map(|(_, axes)| axes).flat_map(axis);
    Ok(Rotation { dim, rows: places.map(|(i, k)| eigen.at(i, k) as f32).collect() })
}

/// Σ (x − x̄)(x − x̄)ᵀ
fn covariance(x: &[f32], dim: usize) -> Vec<f64> {
    let mut mean = vec![0f64; dim];
    x.chunks_exact(dim).for_each(|x| mean.iter_mut().zip(x).for_each(|(m, &x)| *m += f64::from(x)));
    let mean: Vec<f32> = mean.iter().map(|m| (m * dim as f64 / x.len() as f64) as f32).collect();
    let mut centred = x.to_vec();
    centred.par_chunks_mut(dim).for_each(|x| kernel::axpy(-1.0, &mean, x));
    cross((&centred, dim), (&centred, dim))
}

impl Rotation {
    /// From its rows, which are the new axes.
    pub fn new(rows: Vec<f32>, dim: usize) -> Rotation {
        assert_eq!(rows.len(), dim * dim, "as many axes as dimensions");
        Rotation { dim, rows }
    }

    pub fn rows(&self) -> &[f32] {
        &self.rows
    }

    /// Each vector in the new axes.
    pub fn turn(&self, x: Rows) -> Vec<f32> {
        self.product(x, Layout::rows_of(self.dim).transposed())
    }

    /// What [`Self::turn`] was given.
    pub fn turn_back(&self, y: Rows) -> Vec<f32> {
        self.product(y, Layout::rows_of(self.dim))
    }

    fn product(&self, x: Rows, seen: Layout) -> Vec<f32> {
        let dim = self.dim;
        assert_eq!(x.dim, dim, "length of the vectors to turn");
        let at = Layout::rows_of(dim);
        let mut out = vec![0f32; x.data.len()];
        out.par_chunks_mut(CHUNK * dim).zip(x.data.par_chunks(CHUNK * dim)).for_each(|(out, x)| {
            kernel::gemm((x.len() / dim, dim, dim), 1.0, (x, at), (&self.rows, seen), 0.0, (out, at));
        });
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_are_orthogonal_and_turn_back() {
        let mut rng = Rng::new(1);
        for (n, dim) in [(1, 1), (2, 5), (300, 17)] {
            let x: Vec<f32> = (0..n * dim).map(|_| 3.0 + rng.normal() as f32).collect();
            let x = Rows::new(&x, dim);
            for kind in [Rotate::Random, Rotate::Balanced] {
                let rotation = kind.fit(x, &[dim], &mut rng).unwrap().unwrap();
                for (i, a) in Rows::new(rotation.rows(), dim).iter().enumerate() {
                    for (j, b) in Rows::new(rotation.rows(), dim).iter().enumerate() {
                        assert!(
                            (kernel::dot(a, b) - f32::from(u8::from(i == j))).abs() < 1e-5,
                            "{kind:?} {i} {j}"
                        );
                    }
                }
                let back = rotation.turn_back(Rows::new(&rotation.turn(x), dim));
                assert!(back.iter().zip(x.data).all(|(a, b)| (a - b).abs() < 1e-4));
            }
        }
    }

    #[test]
    fn parts_get_uncorrelated_numbers_and_as_much_of_them() {
        // Four independent numbers of very different size, mixed by a rotation.
        let mut rng = Rng::new(2);
        let mixing = random(4, &mut rng);
        let plain: Vec<f32> = (0..4000).map(|i| [8.0, 4.0, 2.0, 1.0][i % 4] * rng.normal() as f32).collect();
        let x = mixing.turn(Rows::new(&plain, 4));
        let rotation = balanced(Rows::new(&x, 4), &[2, 2], &mut rng).unwrap();
        let y = rotation.turn(Rows::new(&x, 4));
        let moment = |a: usize, b: usize| {
            let sum: f32 = y.chunks_exact(4).map(|y| y[a] * y[b]).sum();
            sum / 1000.0
        };
        // 64 · 1 and 16 · 4: the largest and the smallest together, as the other two.
        for (part, expected) in [([0, 1], [64.0, 1.0]), ([2, 3], [16.0, 4.0])] {
            for (axis, expected) in part.into_iter().zip(expected) {
                assert!((moment(axis, axis) / expected - 1.0).abs() < 0.2, "{axis}: {}", moment(axis, axis));
            }
        }
        for (a, b) in [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)] {
            assert!(moment(a, b).abs() < 0.01 * (moment(a, a) * moment(b, b)).sqrt(), "{a} and {b}");
        }
    }
}

//! Operations, one file each: formula and shapes at its head, the way forwards, the way back, and a test of both against
//! plain loops and finite differences in `f64`.

mod attention;
mod candidates;
mod columns;
mod conv;
mod cross;
mod describe;
mod dots;
mod elementwise;
mod embed;
mod gate;
mod graph;
mod gru;
mod likelihood;
mod linear;
mod norm;
mod normalise;
mod pool;
mod scan;
mod segments;

pub use attention::{Attention, Bias, Buckets, TimeScale, Weighing};
pub use candidates::Drawn;
pub use conv::Conv;
pub use cross::Rows;
pub use embed::{Embed, NO_ROW};
pub use gate::Gate;
pub use gru::Gru;
pub use linear::Linear;
pub use norm::EPSILON;
pub use pool::Pool;
pub use scan::Scan;

use crate::kernel;

/// `to[i] = from[rows[i]]` for rows of `dim` numbers.
fn gather_rows(from: &[f32], dim: usize, rows: &[u32], to: &mut [f32]) {
    for (to, &row) in to.chunks_exact_mut(dim.max(1)).zip(rows) {
        to.copy_from_slice(&from[row as usize * dim..][..dim]);
    }
}

/// `to[rows[i]] += from[i]` for rows of `dim` numbers.
fn add_at_rows(from: &[f32], dim: usize, rows: &[u32], to: &mut [f32]) {
    for (from, &row) in from.chunks_exact(dim.max(1)).zip(rows) {
        kernel::axpy(1.0, from, &mut to[row as usize * dim..][..dim]);
    }
}

/// Adds every row of `dim` numbers to `sum`.
fn row_sums(rows: &[f32], dim: usize, sum: &mut [f32]) {
    rows.chunks_exact(dim.max(1)).for_each(|row| kernel::axpy(1.0, row, sum));
}

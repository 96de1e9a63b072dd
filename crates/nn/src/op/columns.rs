//! Matrices side by side, some columns of one, and the same numbers in rows of another width.
//!
//! concat: y = [a, b, …];  columns: y = x[:, from..from + width];  reshape: y[r · width + c] = x[r · width + c], row after row
//!
//! Shapes: a (n × p), b (n × q), … and y (n × (p + q + …)); x (n × m) and y (n × width); x (n × m) and y (n · m / width × width).
//! Way back: columns of dy; dy into those columns of dx; dy as it is.
//! Cost: a copy each way.

use crate::kernel;
use crate::tape::{Backward, Grads, Tape, Tensor, Values, Var};

impl Tape<'_> {
    /// Matrices of as many rows, side by side. See `op/columns.rs`.
    pub fn concat(&mut self, parts: &[Var]) -> Var {
        let rows = parts.first().map_or(0, |&p| self.shape(p).0);
        let cols = parts.iter().map(|&p| self.shape(p).1).sum();
        let wanted = parts.iter().any(|&p| self.wants(p));
        let mut y = self.take(rows * cols);
        let mut from = 0;
        for &part in parts {
            let (own_rows, width) = self.shape(part);
            assert_eq!(own_rows, rows, "rows of matrices side by side");
            copy_columns(self.data(part), (width, 0), &mut y, (cols, from), width);
            from += width;
        }
        let way_back = || Box::new(Concat(parts.to_vec())) as Box<dyn Backward>;
        self.push(Tensor::new(rows, cols, y), wanted, way_back)
    }

    /// `width` columns of x, the first of them `from`. See `op/columns.rs`.
    pub fn columns(&mut self, x: Var, from: usize, width: usize) -> Var {
        let (rows, cols) = self.shape(x);
        assert!(from + width <= cols, "columns {from}..{} of {cols}", from + width);
        let mut y = self.take(rows * width);
        copy_columns(self.data(x), (cols, from), &mut y, (width, 0), width);
        let way_back = || Box::new(Columns { x, from }) as Box<dyn Backward>;
        self.push(Tensor::new(rows, width, y), self.wants(x), way_back)
    }

    /// The numbers of x in `rows` rows. See `op/columns.rs`.
    pub fn reshape(&mut self, x: Var, rows: usize, width: usize) -> Var {
        let mut y = self.take(rows * width);
        y.copy_from_slice(self.data(x));
        self.push(Tensor::new(rows, width, y), self.wants(x), || Box::new(Reshaped(x)))
    }
}

/// Copies `width` columns; each matrix comes with its width and the first column.
fn copy_columns(
    x: &[f32],
    (x_cols, x_from): (usize, usize),
    y: &mut [f32],
    (y_cols, y_from): (usize, usize),
    width: usize,
) {
    for (x, y) in x.chunks_exact(x_cols.max(1)).zip(y.chunks_exact_mut(y_cols.max(1))) {
        y[y_from..y_from + width].copy_from_slice(&x[x_from..x_from + width]);
    }
}

/// Adds `dy` (rows × width) to columns of the gradient of `x`, the first of them `from`.
pub(super) fn add_columns(grads: &mut Grads, values: &Values, x: Var, from: usize, dy: &[f32], width: usize) {
    let cols = values.shape(x).1;
    if cols == width {
        return grads.add(x, dy);
    }
    let dx = grads.sum(x);
    for (dx, dy) in dx.chunks_exact_mut(cols.max(1)).zip(dy.chunks_exact(width.max(1))) {
        kernel::axpy(1.0, dy, &mut dx[from..from + width]);
    }
}

struct Concat(Vec<Var>);

impl Backward for Concat {
    fn backward(self: Box<Self>, y: &Tensor, dy: &mut [f32], values: &Values, grads: &mut Grads) {
        let mut from = 0;
        for &part in &self.0 {
            let width = values.shape(part).1;
            if grads.wants(part) {
                let (slot, beta) = grads.slot(part);
                if beta == 0.0 {
                    copy_columns(dy, (y.cols, from), slot, (width, 0), width);
                } else {
                    for (slot, dy) in slot.chunks_exact_mut(width.max(1)).zip(dy.chunks_exact(y.cols.max(1)))
                    {
                        kernel::axpy(1.0, &dy[from..from + width], slot);
                    }
                }
            }
            from += width;
        }
    }
}

struct Columns {
    x: Var,
    from: usize,
}

impl Backward for Columns {
    fn backward(self: Box<Self>, y: &Tensor, dy: &mut [f32], values: &Values, grads: &mut Grads) {
        add_columns(grads, values, self.x, self.from, dy, y.cols);
    }
}

struct Reshaped(Var);

impl Backward for Reshaped {
    fn backward(self: Box<Self>, _: &Tensor, dy: &mut [f32], _: &Values, grads: &mut Grads) {
        grads.add(self.0, dy);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{M, check};

    #[test]
    fn forwards_and_back() {
        for n in [0, 1, 7] {
            // The first twice: its gradient is a sum.
            let build = |tape: &mut Tape, v: &[Var]| tape.concat(&[v[0], v[1], v[2], v[0]]);
            check(&[(n, 2), (n, 1), (n, 4)], 1, build, |v| {
                let rows: Vec<f64> =
                    (0..n).flat_map(|r| [0, 1, 2, 0].map(|p| v[p].row(r).to_vec()).concat()).collect();
                M { rows: n, cols: 9, data: rows }
            });
            for (from, width) in [(0, 3), (2, 1), (1, 4), (0, 5), (5, 0)] {
                let build = |tape: &mut Tape, v: &[Var]| tape.columns(v[0], from, width);
                check(&[(n, 5)], 2, build, |v| M::from_fn(n, width, |r, c| v[0].at(r, from + c)));
            }
        }
        let build = |tape: &mut Tape, v: &[Var]| {
            let (a, b) = (tape.columns(v[0], 1, 2), tape.columns(v[0], 0, 2));
            tape.concat(&[a, b])
        };
        check(&[(3, 3)], 3, build, |v| M::from_fn(3, 4, |r, c| v[0].at(r, [1, 2, 0, 1][c])));
    }

    #[test]
    fn reshaped_forwards_and_back() {
        for (rows, cols, width) in [(0, 3, 2), (1, 6, 2), (4, 3, 6), (2, 5, 5)] {
            let n = rows * cols / width;
            let build = |tape: &mut Tape, v: &[Var]| {
                let y = tape.reshape(v[0], n, width);
                tape.add(y, y)
            };
            check(&[(rows, cols)], 4, build, |v| M {
                rows: n,
                cols: width,
                data: v[0].data.iter().map(|x| 2.0 * x).collect(),
            });
        }
    }
}

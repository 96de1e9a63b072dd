//! Scores of each row's right item and of drawn ones: what sampled losses look at.
//!
//! s_r0 = t h_r · e_{y_r}, s_rj = t h_r · e_{d_rj} − log q_{d_rj} for j = 1 … m; −∞ where the drawn item is the right one.
//!
//! With q_i the number of times that item i is expected among the drawn, Σ_j e^{s_rj} estimates the sum over all items without
//! bias (Bengio, Senécal, IEEE Transactions on Neural Networks 2008); without q all drawn items count the same.
//!
//! Shapes: h (n × d), E (V × d) a table or a matrix on the tape, y (n), log q (V), drawn items either m for all rows together (one product)
//! or n × m, one list for each row; s (n × (1 + m)).
//! Way back: dh_r = t Σ_j ds_rj e_j, de_j += t ds_rj h_r: only rows that were drawn have a gradient.
//! Cost: 2 n (1 + m) d forwards, twice that backwards.

use crate::kernel::{self, Layout};
use crate::loss::Items;
use crate::tape::{Backward, Grads, Tape, Tensor, Values, Var};
use std::sync::Arc;

/// Drawn items.
#[derive(Debug, Clone)]
pub enum Drawn {
    /// The same for all rows.
    Shared(Arc<Vec<u32>>),
    /// `n × m`, row by row.
    Each(Arc<Vec<u32>>),
}

impl Drawn {
    /// Items for one row of `n`.
    pub fn width(&self, n: usize) -> usize {
        match self {
            Drawn::Shared(list) => list.len(),
            Drawn::Each(list) => list.len().checked_div(n).unwrap_or(0),
        }
    }

    fn of_row(&self, r: usize, m: usize) -> &[u32] {
        match self {
            Drawn::Shared(list) => list,
            Drawn::Each(list) => &list[r * m..(r + 1) * m],
        }
    }
}

impl Tape<'_> {
    /// See `op/candidates.rs`.
    pub fn candidates(
        &mut self,
        h: Var,
        items: Items,
        right: &Arc<Vec<u32>>,
        drawn: &Drawn,
        log_q: Option<&[f32]>,
        factor: f32,
    ) -> Var {
        let (n, d) = self.shape(h);
        assert_eq!(n, right.len(), "h has {n} rows, there are {} right items", right.len());
        let m = drawn.width(n);
        let wide = 1 + m;
        let mut s = self.take(n * wide);
        let mut rows = Vec::new();
        {
            if let Drawn::Shared(list) = drawn {
                rows = self.take(list.len() * d);
            }
            let values = self.values();
            let (h, e) = (values.data(h), items.data(&values));
            let row = |i: u32| &e[i as usize * d..][..d];
            for (r, &y) in right.iter().enumerate() {
                s[r * wide] = factor * kernel::dot(&h[r * d..][..d], row(y));
            }
            match drawn {
                Drawn::Shared(list) => {
                    for (to, &i) in rows.chunks_exact_mut(d.max(1)).zip(list.iter()) {
                        to.copy_from_slice(row(i));
                    }
                    let at = Layout::rows_of(d);
                    if n > 0 {
                        let into = (&mut s[1..], Layout::rows_of(wide));
                        kernel::gemm((n, m, d), factor, (h, at), (&rows, at.transposed()), 0.0, into);
                    }
                }
                Drawn::Each(list) => {
                    for r in 0..n {
                        for j in 0..m {
                            s[r * wide + 1 + j] =
                                factor * kernel::dot(&h[r * d..][..d], row(list[r * m + j]));
                        }
                    }
                }
            }
        }
        for (r, &y) in right.iter().enumerate() {
            let row = &mut s[r * wide + 1..(r + 1) * wide];
            let list = drawn.of_row(r, m);
            if let Some(log_q) = log_q {
                row.iter_mut().zip(list).for_each(|(s, &i)| *s -= log_q[i as usize]);
            }
            row.iter_mut().zip(list).filter(|(_, i)| **i == y).for_each(|(s, _)| *s = f32::NEG_INFINITY);
        }
        let way_back = || Way { h, items, right: right.clone(), drawn: drawn.clone(), factor, rows };
        self.push(Tensor::new(n, wide, s), true, || Box::new(way_back()))
    }
}

struct Way {
    h: Var,
    items: Items,
    right: Arc<Vec<u32>>,
    drawn: Drawn,
    factor: f32,
    /// Vectors of the shared items.
    rows: Vec<f32>,
}

impl Backward for Way {
    fn backward(self: Box<Self>, y: &Tensor, dy: &mut [f32], values: &Values, grads: &mut Grads) {
        let (n, wide) = (y.rows, y.cols);
        let (m, d) = (wide - 1, values.shape(self.h).1);
        let (h, e) = (values.data(self.h), self.items.data(values));
        kernel::scale(dy, self.factor);
        let at = Layout::rows_of(d);
        let mut shared = Vec::new();
        if let Drawn::Shared(_) = self.drawn
            && n > 0
        {
            shared = vec![0f32; m * d];
            let s_at = Layout::rows_of(wide).transposed();
            kernel::gemm((m, d, n), 1.0, (&dy[1..], s_at), (h, at), 0.0, (&mut shared, at));
        }
        if grads.wants(self.h) {
            let (dh, beta) = grads.slot(self.h);
            match &self.drawn {
                Drawn::Shared(_) if n > 0 => {
                    let s_at = Layout::rows_of(wide);
                    kernel::gemm((n, d, m), 1.0, (&dy[1..], s_at), (&self.rows, at), beta, (dh, at));
                    if m == 0 && beta == 0.0 {
                        dh.fill(0.0);
                    }
                }
                _ if beta == 0.0 => dh.fill(0.0),
                _ => {}
            }
            for r in 0..n {
                let dh = &mut dh[r * d..][..d];
                kernel::axpy(dy[r * wide], &e[self.right[r] as usize * d..][..d], dh);
                if let Drawn::Each(list) = &self.drawn {
                    for j in 0..m {
                        kernel::axpy(dy[r * wide + 1 + j], &e[list[r * m + j] as usize * d..][..d], dh);
                    }
                }
            }
        }
        let spread = |add: &mut dyn FnMut(u32, f32, &[f32])| {
            for r in 0..n {
                let h = &h[r * d..][..d];
                add(self.right[r], dy[r * wide], h);
                if let Drawn::Each(list) = &self.drawn {
                    for j in 0..m {
                        add(list[r * m + j], dy[r * wide + 1 + j], h);
                    }
                }
            }
            if let Drawn::Shared(list) = &self.drawn {
                for (&i, row) in list.iter().zip(shared.chunks_exact(d.max(1))) {
                    add(i, 1.0, row);
                }
            }
        };
        match self.items {
            Items::Table(id) => {
                let rows = grads.table(id);
                spread(&mut |i, by, row| kernel::axpy(by, row, rows.row_mut(i)));
            }
            Items::Matrix(var) if grads.wants(var) => {
                let de = grads.sum(var);
                spread(&mut |i, by, row| kernel::axpy(by, row, &mut de[i as usize * d..][..d]));
            }
            Items::Matrix(_) => {}
        }
        grads.workspace.give(self.rows);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::{Init, Params};
    use crate::tape::Workspace;
    use crate::testing::{M, check, dot};

    #[test]
    fn forwards_and_back() {
        for (n, d, m) in [(0, 2, 2), (1, 1, 0), (1, 3, 1), (7, 5, 4)] {
            let right = Arc::new((0..n as u32).map(|r| (r * 5) % 6).collect::<Vec<u32>>());
            // Items are drawn twice; none is the right one.
            let right = Arc::new(right.iter().map(|y| y % 3).collect::<Vec<u32>>());
            let shared = Drawn::Shared(Arc::new((0..m as u32).map(|j| 3 + j % 2).collect()));
            let each = Drawn::Each(Arc::new((0..(n * m) as u32).map(|j| 3 + (j * 7) % 3).collect()));
            let log_q: Vec<f32> = (0..6).map(|i| i as f32 * 0.3 - 1.0).collect();
            for drawn in [shared, each] {
                let item = |r: usize, c: usize| match (&drawn, c) {
                    (_, 0) => right[r],
                    (Drawn::Shared(list), c) => list[c - 1],
                    (Drawn::Each(list), c) => list[r * m + c - 1],
                };
                let wide = 1 + drawn.width(n);
                let build = |tape: &mut Tape, v: &[Var]| {
                    tape.candidates(v[0], Items::Matrix(v[1]), &right, &drawn, Some(&log_q), 0.8)
                };
                check(&[(n, d), (6, d)], 2, build, |v| {
                    M::from_fn(n, wide, |r, c| {
                        let i = item(r, c) as usize;
                        let minus = if c > 0 { f64::from(log_q[i]) } else { 0.0 };
                        0.8 * dot(v[0].row(r), v[1].row(i)) - minus
                    })
                });
            }
        }
    }

    #[test]
    fn a_drawn_item_that_is_the_right_one_takes_no_part() {
        let mut params = Params::new(1);
        let h = params.add("h", 2, 3, Init::Normal(1.0));
        let e = params.add("e", 4, 3, Init::Normal(1.0));
        let right = Arc::new(vec![1u32, 3]);
        let drawn = Drawn::Shared(Arc::new(vec![3u32, 0, 1]));
        let mut tape = Tape::answering(&params, Workspace::default());
        let s = tape.candidates(h.into(), Items::Matrix(e.into()), &right, &drawn, None, 1.0);
        let hidden: Vec<usize> = (0..8).filter(|&i| tape.data(s)[i] == f32::NEG_INFINITY).collect();
        assert_eq!(hidden, [3, 5]);
    }
}

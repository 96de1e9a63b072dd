//! Softmax cross-entropy over the whole catalogue, without the n × V matrix of scores.
//!
//! loss = scale · Σ_r (log Σ_i exp(t h_r · e_i) − t h_r · e_{y_r}), i over all items, t a factor (the inverse temperature).
//!
//! Shapes: h (n × d), E (V × d) a table or a matrix on the tape, y one row of E for each row of h; the loss is 1 × 1.
//! Way back: p_ri the softmax, dh_r = scale t (Σ_i p_ri e_i − e_{y_r}), dE_i = scale t Σ_r (p_ri − [i = y_r]) h_r. Both are
//! made on the way forwards, where the probabilities of a tile are at hand, and only multiplied on the way back.
//! Cost: 6 n V d; where even 32 rows of scores are larger than a cache, scores are made twice, 8 n V d. Memory: one tile of
//! scores, dh and dE.
//! Source: the tiles follow Wijmans et al., "Cut Your Losses in Large-Vocabulary Language Models", ICLR 2025,
//! arXiv:2411.09009, without its filter: nothing is left out.

use crate::kernel::{self, Layout};
use crate::params::TableId;
use crate::tape::{Backward, Grads, Tape, Tensor, Values, Var};
use std::sync::Arc;

/// Vectors of all items: where scores are taken against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Items {
    /// Rows of a table by slot.
    Table(TableId),
    /// A matrix on the tape.
    Matrix(Var),
}

impl Items {
    pub(crate) fn data<'a>(self, values: &Values<'a>) -> &'a [f32] {
        match self {
            Items::Table(id) => values.params().table(id).rows(),
            Items::Matrix(var) => values.data(var),
        }
    }

    /// Rows and columns.
    pub(crate) fn shape(self, values: &Values) -> (usize, usize) {
        match self {
            Items::Table(id) => (values.params().table(id).height(), values.params().table(id).dim()),
            Items::Matrix(var) => values.shape(var),
        }
    }
}

/// Numbers of a tile of scores, at most: it stays in the last cache while it is used again.
const TILE: usize = 1 << 20;
/// Rows of h taken together, at least and at most.
const ROWS: [usize; 2] = [32, 128];
/// Items whose scores are made, and used, together: those of a tile's rows stay in the cache of one core.
const ITEMS: usize = 1 << 10;

impl Tape<'_> {
    /// See `loss/catalogue.rs`. Slots of a table that are free take no part.
    pub fn catalogue_softmax(
        &mut self,
        h: Var,
        items: Items,
        right: &Arc<Vec<u32>>,
        factor: f32,
        scale: f32,
    ) -> Var {
        let (n, d) = self.shape(h);
        let (count, wide) = items.shape(&self.values());
        assert_eq!(
            (n, d),
            (right.len(), wide),
            "h is {n} × {d} for {} right items of width {wide}",
            right.len()
        );
        let learns = self.is_training();
        let mut dh = if learns { self.take(n * d) } else { Vec::new() };
        let mut de = if learns { self.zeroed(count * d) } else { Vec::new() };
        let rows = (TILE / count.max(1)).clamp(ROWS[0], ROWS[1]);
        let whole = rows * count <= 4 * TILE;
        let mut tile = self.take(rows * if whole { count } else { ITEMS });
        let mut loss = 0f64;
        {
            let values = self.values();
            let free = match items {
                Items::Table(id) => values.params().table(id).free_slots(),
                Items::Matrix(_) => Vec::new(),
            };
            let job = Job { e: items.data(&values), d, count, free: &free, factor, step: factor * scale };
            let h = values.data(h);
            for from in (0..n).step_by(rows) {
                let to = (from + rows).min(n);
                let h = &h[from * d..to * d];
                let mut out = if learns { Some((&mut dh[from * d..to * d], &mut de[..])) } else { None };
                let right = &right[from..to];
                loss += if whole {
                    job.whole(h, right, &mut tile, &mut out)
                } else {
                    job.twice(h, right, &mut tile, &mut out)
                };
            }
        }
        self.give(tile);
        let value = Tensor::new(1, 1, vec![(loss * f64::from(scale)) as f32]);
        self.push(value, true, || Box::new(Way { h, items, dh, de }))
    }
}

struct Job<'a> {
    e: &'a [f32],
    d: usize,
    count: usize,
    free: &'a [u32],
    factor: f32,
    /// Factor of every gradient.
    step: f32,
}

/// Where the gradients of some rows of h and of E go.
type Out<'a> = Option<(&'a mut [f32], &'a mut [f32])>;

impl Job<'_> {
    /// Scores of some rows with the items of a range.
    fn scores(&self, h: &[f32], items: std::ops::Range<usize>, into: &mut [f32]) {
        let rows = h.len() / self.d;
        let (at, wide) = (Layout::rows_of(self.d), items.len());
        let e = &self.e[items.start * self.d..items.end * self.d];
        let shape = (rows, wide, self.d);
        kernel::gemm(shape, self.factor, (h, at), (e, at.transposed()), 0.0, (into, Layout::rows_of(wide)));
        let begin = self.free.partition_point(|&s| (s as usize) < items.start);
        for &slot in self.free[begin..].iter().take_while(|&&s| (s as usize) < items.end) {
            for row in into.chunks_exact_mut(wide).take(rows) {
                row[slot as usize - items.start] = f32::NEG_INFINITY;
            }
        }
    }

    /// Exponentials of those scores below the maximum of each row, with maxima and sums; returns what the right items among
    /// them take off the loss.
    fn exponentials(
        &self,
        h: &[f32],
        right: &[u32],
        items: std::ops::Range<usize>,
        into: &mut [f32],
        parts: &mut Vec<(f32, f32)>,
    ) -> f64 {
        self.scores(h, items.clone(), into);
        let mut loss = 0f64;
        for (row, &y) in into.chunks_exact_mut(items.len()).zip(right) {
            if items.contains(&(y as usize)) {
                loss -= f64::from(row[y as usize - items.start]);
            }
            parts.push(kernel::exp_below_max(row));
        }
        loss
    }

    /// dh_r += f_r (p E)_r and dE += pᵀ (f h) over the items of a range; f has the factor of each row, and `scratch` room for
    /// two matrices like h.
    fn gradients(
        &self,
        h: &[f32],
        p: &[f32],
        f: &[f32],
        items: std::ops::Range<usize>,
        (dh, de): (&mut [f32], &mut [f32]),
        scratch: &mut [f32],
    ) {
        let rows = f.len();
        let (at, p_at) = (Layout::rows_of(self.d), Layout::rows_of(items.len()));
        let range = items.start * self.d..items.end * self.d;
        let (scaled, product) = scratch[..2 * h.len()].split_at_mut(h.len());
        let e = &self.e[range.clone()];
        kernel::gemm((rows, self.d, items.len()), 1.0, (p, p_at), (e, at), 0.0, (product, at));
        let each = dh.chunks_exact_mut(self.d).zip(product.chunks_exact(self.d));
        each.zip(f).for_each(|((dh, product), &f)| kernel::axpy(f, product, dh));
        scaled.copy_from_slice(h);
        scaled.chunks_exact_mut(self.d).zip(f).for_each(|(h, &f)| kernel::scale(h, f));
        let shape = (items.len(), self.d, rows);
        kernel::gemm(shape, 1.0, (p, p_at.transposed()), (scaled, at), 1.0, (&mut de[range], at));
    }

    /// What the right items take off the gradients.
    fn less_right(&self, h: &[f32], right: &[u32], (dh, de): (&mut [f32], &mut [f32])) {
        for ((h, dh), &y) in h.chunks_exact(self.d).zip(dh.chunks_exact_mut(self.d)).zip(right) {
            let row = y as usize * self.d..(y as usize + 1) * self.d;
            kernel::axpy(-self.step, &self.e[row.clone()], dh);
            kernel::axpy(-self.step, h, &mut de[row]);
        }
    }

    fn chunks(&self) -> impl Iterator<Item = std::ops::Range<usize>> + use<> {
        let count = self.count;
        (0..count).step_by(ITEMS).map(move |from| from..(from + ITEMS).min(count))
    }

    /// All scores of some rows at once: each chunk becomes exponentials below its own maximum while it is in the cache, and what
    /// is missing to a softmax is one factor for each row and chunk.
    fn whole(&self, h: &[f32], right: &[u32], tile: &mut [f32], out: &mut Out) -> f64 {
        let rows = right.len();
        let mut parts: Vec<(f32, f32)> = Vec::with_capacity(rows * self.count.div_ceil(ITEMS));
        let mut loss = 0f64;
        for items in self.chunks() {
            // Chunks lie one after the other, each a matrix of its own.
            let chunk = &mut tile[rows * items.start..rows * items.end];
            loss += self.exponentials(h, right, items, chunk, &mut parts);
        }
        let sums = log_sums(&parts, rows);
        loss += sums.iter().sum::<f64>();
        if let Some((dh, de)) = out {
            dh.fill(0.0);
            let mut scratch = vec![0f32; 2 * h.len()];
            for (items, parts) in self.chunks().zip(parts.chunks_exact(rows)) {
                let factor =
                    |(part, sum): (&(f32, f32), &f64)| self.step * (f64::from(part.0) - sum).exp() as f32;
                let f: Vec<f32> = parts.iter().zip(&sums).map(factor).collect();
                let chunk = &tile[rows * items.start..rows * items.end];
                self.gradients(h, chunk, &f, items, (dh, de), &mut scratch);
            }
            self.less_right(h, right, (dh, de));
        }
        loss
    }

    /// Scores of some rows a chunk at a time: once for the sums, once for the gradients.
    fn twice(&self, h: &[f32], right: &[u32], tile: &mut [f32], out: &mut Out) -> f64 {
        let rows = right.len();
        let mut parts: Vec<(f32, f32)> = Vec::with_capacity(rows * self.count.div_ceil(ITEMS));
        let mut loss = 0f64;
        for items in self.chunks() {
            loss += self.exponentials(h, right, items, tile, &mut parts);
        }
        let sums = log_sums(&parts, rows);
        loss += sums.iter().sum::<f64>();
        if let Some((dh, de)) = out {
            dh.fill(0.0);
            let mut scratch = vec![0f32; 2 * h.len()];
            let f = vec![self.step; rows];
            for items in self.chunks() {
                let chunk = &mut tile[..rows * items.len()];
                self.scores(h, items.clone(), chunk);
                for (row, sum) in chunk.chunks_exact_mut(items.len()).zip(&sums) {
                    kernel::softmax_again(row, 1.0, *sum as f32);
                }
                self.gradients(h, chunk, &f, items, (dh, de), &mut scratch);
            }
            self.less_right(h, right, (dh, de));
        }
        loss
    }
}

/// Logarithms of the sums of rows whose chunks have these maxima and sums below them; all rows of a chunk lie together.
fn log_sums(parts: &[(f32, f32)], rows: usize) -> Vec<f64> {
    let sum = |r: usize| {
        let mine = || parts.iter().skip(r).step_by(rows);
        let top = mine().fold(f32::NEG_INFINITY, |top, part| top.max(part.0));
        let total: f64 = mine().map(|part| f64::from(part.1) * f64::from(part.0 - top).exp()).sum();
        f64::from(top) + total.ln()
    };
    (0..rows).map(sum).collect()
}

struct Way {
    h: Var,
    items: Items,
    dh: Vec<f32>,
    de: Vec<f32>,
}

impl Backward for Way {
    fn backward(self: Box<Self>, _: &Tensor, dy: &mut [f32], values: &Values, grads: &mut Grads) {
        let add = |(to, beta): (&mut [f32], f32), from: &[f32]| {
            if beta == 0.0 {
                to.fill(0.0);
            }
            kernel::axpy(dy[0], from, to);
        };
        if grads.wants(self.h) {
            add(grads.slot(self.h), &self.dh);
        }
        match self.items {
            Items::Table(id) => add(grads.table(id).all_mut(self.items.shape(values).0), &self.de),
            Items::Matrix(var) if grads.wants(var) => add(grads.slot(var), &self.de),
            Items::Matrix(_) => {}
        }
        grads.workspace.give(self.dh);
        grads.workspace.give(self.de);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::{Init, Params};
    use crate::table::Table;
    use crate::tape::{ParamGrads, Workspace};
    use crate::testing::{M, check};
    use sommelier_core::Rng;

    fn plain(v: &[M], right: &[u32], factor: f64, scale: f64) -> M {
        let s = v[0].times_transposed(&v[1]).map(|s| factor * s);
        let loss: f64 = right
            .iter()
            .enumerate()
            .map(|(r, &y)| {
                let top = s.row(r).iter().copied().fold(f64::NEG_INFINITY, f64::max);
                top + s.row(r).iter().map(|s| (s - top).exp()).sum::<f64>().ln() - s.at(r, y as usize)
            })
            .sum();
        M::one(loss * scale)
    }

    #[test]
    fn forwards_and_back() {
        for (n, d, count) in [(0, 2, 3), (1, 1, 1), (5, 4, 7), (140, 3, 2100)] {
            let right = Arc::new((0..n as u32).map(|r| (r * 13) % count as u32).collect::<Vec<u32>>());
            let build = |tape: &mut Tape, v: &[Var]| {
                tape.catalogue_softmax(v[0], Items::Matrix(v[1]), &right, 1.5, 0.3)
            };
            check(&[(n, d), (count, d)], 8, build, |v| plain(v, &right, 1.5, 0.3));
        }
    }

    #[test]
    fn both_ways_of_making_tiles_agree() {
        let mut rng = Rng::new(3);
        let (n, d, count) = (9, 5, 2500);
        let mut numbers = |n: usize| (0..n).map(|_| 3.0 * rng.normal() as f32).collect::<Vec<f32>>();
        let (h, e) = (numbers(n * d), numbers(count * d));
        let right: Vec<u32> = (0..n as u32).map(|r| r * 271).collect();
        let job = Job { e: &e, d, count, free: &[3, 1030], factor: 0.9, step: 0.2 };
        let run = |whole: bool| {
            let (mut dh, mut de) = (vec![0f32; n * d], vec![0f32; count * d]);
            let mut tile = vec![0f32; n * count];
            let out = &mut Some((&mut dh[..], &mut de[..]));
            let loss = if whole {
                job.whole(&h, &right, &mut tile, out)
            } else {
                job.twice(&h, &right, &mut tile, out)
            };
            assert!(de[3 * d..4 * d].iter().all(|g| *g == 0.0), "a free slot learns nothing");
            (loss, dh, de)
        };
        let (a, b) = (run(true), run(false));
        assert!((a.0 - b.0).abs() < 1e-4 * a.0, "{} {}", a.0, b.0);
        for (x, y) in a.1.iter().chain(&a.2).zip(b.1.iter().chain(&b.2)) {
            assert!((x - y).abs() < 1e-5, "{x} {y}");
        }
    }

    #[test]
    fn a_table_learns_as_a_matrix_does() {
        let mut params = Params::new(1);
        let h = params.add("h", 4, 3, Init::Normal(1.0));
        let table = params.add_table(Table::of_range("items", 6, 3, 1.0, 1));
        let right = Arc::new(vec![5u32, 0, 5, 2]);
        let rows = params.table(table).rows().to_vec();
        let mut grads = ParamGrads::default();
        grads.clear(&params);
        let mut tape = Tape::training(&params, Rng::new(1), Workspace::default());
        let loss = tape.catalogue_softmax(h.into(), Items::Table(table), &right, 1.0, 1.0);
        tape.backward(loss, &mut grads);
        let mut twin = Params::new(1);
        let h2 = twin.add("h", 4, 3, Init::Normal(1.0));
        let e2 = twin.add("e", 6, 3, Init::Zeros);
        twin.get_mut(e2).value = rows;
        let mut twin_grads = ParamGrads::default();
        twin_grads.clear(&twin);
        let mut tape = Tape::training(&twin, Rng::new(1), Workspace::default());
        let loss = tape.catalogue_softmax(h2.into(), Items::Matrix(e2.into()), &right, 1.0, 1.0);
        tape.backward(loss, &mut twin_grads);
        assert_eq!(grads.table(table).all(), twin_grads.dense(e2));
        assert_eq!(grads.dense(h), twin_grads.dense(h2));
    }

    #[test]
    fn a_nan_is_not_hidden() {
        let mut params = Params::new(1);
        let h = params.add("h", 1, 2, Init::Constant(f32::NAN));
        let e = params.add("e", 3, 2, Init::Ones);
        let mut tape = Tape::answering(&params, Workspace::default());
        let loss = tape.catalogue_softmax(h.into(), Items::Matrix(e.into()), &Arc::new(vec![0]), 1.0, 1.0);
        assert!(tape.data(loss)[0].is_nan());
    }
}

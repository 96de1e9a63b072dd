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

/// Numbers of a tile of scores: it stays in the cache of one core while it is used three times.
const TILE: usize = 1 << 20;
/// Rows of h taken together.
const ROWS: [usize; 2] = [32, 128];
/// Items whose products are made together.
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
    /// Scores of some rows with the items of a range, into a matrix of that width.
    fn scores(&self, h: &[f32], items: std::ops::Range<usize>, into: &mut [f32], wide: usize) {
        let rows = h.len() / self.d;
        let at = Layout::rows_of(self.d);
        let e = &self.e[items.start * self.d..items.end * self.d];
        let shape = (rows, items.len(), self.d);
        kernel::gemm(shape, self.factor, (h, at), (e, at.transposed()), 0.0, (into, Layout::rows_of(wide)));
        let begin = self.free.partition_point(|&s| (s as usize) < items.start);
        for &slot in self.free[begin..].iter().take_while(|&&s| (s as usize) < items.end) {
            for row in into.chunks_exact_mut(wide).take(rows) {
                row[slot as usize - items.start] = f32::NEG_INFINITY;
            }
        }
    }

    /// dh += step · p E and dE += step · pᵀ h over the items of a range; p is a matrix of width `wide`.
    fn gradients(
        &self,
        h: &[f32],
        (p, wide): (&[f32], usize),
        items: std::ops::Range<usize>,
        (dh, de): (&mut [f32], &mut [f32]),
    ) {
        let rows = h.len() / self.d;
        let (at, p_at) = (Layout::rows_of(self.d), Layout::rows_of(wide));
        let e = &self.e[items.start * self.d..items.end * self.d];
        let beta = if items.start == 0 { 0.0 } else { 1.0 };
        kernel::gemm((rows, self.d, items.len()), self.step, (p, p_at), (e, at), beta, (dh, at));
        let de = &mut de[items.start * self.d..items.end * self.d];
        kernel::gemm((items.len(), self.d, rows), self.step, (p, p_at.transposed()), (h, at), 1.0, (de, at));
    }

    fn chunks(&self) -> impl Iterator<Item = std::ops::Range<usize>> + use<> {
        let count = self.count;
        (0..count).step_by(ITEMS).map(move |from| from..(from + ITEMS).min(count))
    }

    /// All scores of some rows at once.
    fn whole(&self, h: &[f32], right: &[u32], tile: &mut [f32], out: &mut Out) -> f64 {
        for items in self.chunks() {
            let from = items.start;
            self.scores(h, items, &mut tile[from..], self.count);
        }
        let mut loss = 0f64;
        for (row, &y) in tile.chunks_exact_mut(self.count).zip(right) {
            let score = row[y as usize];
            loss += f64::from(kernel::softmax(row, 1.0) - score);
            row[y as usize] -= 1.0;
        }
        if let Some((dh, de)) = out {
            for items in self.chunks() {
                let from = items.start;
                self.gradients(h, (&tile[from..], self.count), items, (dh, de));
            }
        }
        loss
    }

    /// Scores of some rows a chunk at a time: once for the sums, once for the gradients.
    fn twice(&self, h: &[f32], right: &[u32], tile: &mut [f32], out: &mut Out) -> f64 {
        let mut sums = vec![(f32::NEG_INFINITY, 0f64); right.len()];
        let mut loss = 0f64;
        for items in self.chunks() {
            let wide = items.len();
            self.scores(h, items.clone(), tile, wide);
            for ((row, sum), &y) in tile.chunks_exact_mut(wide).zip(&mut sums).zip(right) {
                if items.contains(&(y as usize)) {
                    loss -= f64::from(row[y as usize - items.start]);
                }
                let top = kernel::max(row);
                // A NaN must reach the sum: `max` passes it by.
                if top > sum.0 {
                    sum.1 *= f64::from(sum.0 - top).exp();
                    sum.0 = top;
                }
                kernel::softmax_again(row, 1.0, sum.0);
                sum.1 += f64::from(kernel::sum(row));
            }
        }
        let sums: Vec<f32> = sums.iter().map(|(top, sum)| top + sum.ln() as f32).collect();
        loss += sums.iter().map(|s| f64::from(*s)).sum::<f64>();
        if let Some((dh, de)) = out {
            for items in self.chunks() {
                let wide = items.len();
                self.scores(h, items.clone(), tile, wide);
                for ((row, sum), &y) in tile.chunks_exact_mut(wide).zip(&sums).zip(right) {
                    kernel::softmax_again(row, 1.0, *sum);
                    if items.contains(&(y as usize)) {
                        row[y as usize - items.start] -= 1.0;
                    }
                }
                self.gradients(h, (tile, wide), items, (dh, de));
            }
        }
        loss
    }
}

struct Way {
    h: Var,
    items: Items,
    dh: Vec<f32>,
    de: Vec<f32>,
}

impl Backward for Way {
    fn backward(&self, _: &Tensor, dy: &mut [f32], values: &Values, grads: &mut Grads) {
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

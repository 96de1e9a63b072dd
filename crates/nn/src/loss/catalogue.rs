//! Softmax cross-entropy over the whole catalogue, without the n × V matrix of scores.
//!
//! loss = scale · Σ_r (log Σ_i exp(t h_r · e_i) − t h_r · e_{y_r}), i over all items, t a factor (the inverse temperature).
//!
//! Shapes: h (n × d), E (V × d) a table or a matrix on the tape, y one row of E for each row of h; the loss is 1 × 1.
//! Way back: p_ri the softmax, dh_r = scale t (Σ_i p_ri e_i − e_{y_r}), dE_i = scale t Σ_r (p_ri − [i = y_r]) h_r. Both are
//! made on the way forwards, where the probabilities of a tile are at hand, and only multiplied on the way back.
//! Cost: 6 n V d; where even 32 rows of scores are larger than a cache, scores are made twice, 8 n V d. Memory: one tile of
//! scores, dh, dE and E once more, transposed.
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
/// Rows of h taken together, at least and at most; all multiples of 16, which the product's kernel takes at once.
const ROWS: [usize; 2] = [32, 128];
/// Items whose scores are made, and used, together: those of a tile's rows stay in the cache of one core.
const ITEMS: usize = 1 << 9;

impl Tape<'_> {
    /// See `loss/catalogue.rs`. Rows of E in `absent`, ascending, take no part, nor do slots of a table that are free.
    pub fn catalogue_softmax(
        &mut self,
        h: Var,
        items: Items,
        right: &Arc<Vec<u32>>,
        absent: &[u32],
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
        let rows = (TILE / count.max(1) / 16 * 16).clamp(ROWS[0], ROWS[1]);
        let whole = rows * count <= 4 * TILE;
        let mut turned = self.take(n * d);
        let mut tile = self.take(rows * if whole { count } else { ITEMS });
        // An odd number of cache lines a row, so that a column does not fall into one set of the cache.
        let stride = if whole { count.next_multiple_of(16) | 16 } else { ITEMS };
        let mut e_turned = if learns { self.take(d * stride) } else { Vec::new() };
        let mut loss = 0f64;
        {
            let values = self.values();
            let mut absent = absent.to_vec();
            if let Items::Table(id) = items {
                absent.extend(values.params().table(id).free_slots());
                absent.sort_unstable();
            }
            let (h, e, step) = (values.data(h), items.data(&values), factor * scale);
            let job = Job { h, e, right, d, count, absent: &absent, factor, step };
            if n > 0 && d > 0 {
                job.turn(rows, &mut turned);
                let out = Out { dh: &mut dh, de: &mut de, e_turned: &mut e_turned, stride };
                let out = learns.then_some(out);
                let work = Work { rows, turned: &turned, tile: &mut tile };
                loss = if whole { job.whole(work, out) } else { job.twice(work, out) };
            }
        }
        for v in [tile, turned, e_turned] {
            self.give(v);
        }
        let value = Tensor::new(1, 1, vec![(loss * f64::from(scale)) as f32]);
        self.push(value, true, || Box::new(Way { h, items, dh, de }))
    }
}

struct Job<'a> {
    h: &'a [f32],
    e: &'a [f32],
    right: &'a [u32],
    d: usize,
    count: usize,
    /// Rows of E that take no part, ascending.
    absent: &'a [u32],
    factor: f32,
    /// Factor of every gradient.
    step: f32,
}

struct Work<'a> {
    /// Rows of a tile of h.
    rows: usize,
    /// Tiles of h, each transposed.
    turned: &'a [f32],
    /// Scores of a tile, item by item: that way neither they nor their factors must be packed for any of the three products.
    tile: &'a mut [f32],
}

/// Where the gradients go. While tiles of dh are summed they lie transposed.
struct Out<'a> {
    dh: &'a mut [f32],
    de: &'a mut [f32],
    /// Room for E transposed, or for a chunk of it, and the length of its rows.
    e_turned: &'a mut [f32],
    stride: usize,
}

type Range = std::ops::Range<usize>;

impl Job<'_> {
    fn n(&self) -> usize {
        self.right.len()
    }

    /// Tiles of h.
    fn tiles(&self, rows: usize) -> impl Iterator<Item = Range> + use<> {
        let n = self.n();
        (0..n).step_by(rows).map(move |from| from..(from + rows).min(n))
    }

    fn chunks(&self) -> impl Iterator<Item = Range> + use<> {
        let count = self.count;
        (0..count).step_by(ITEMS).map(move |from| from..(from + ITEMS).min(count))
    }

    fn of(&self, rows: &Range) -> Range {
        rows.start * self.d..rows.end * self.d
    }

    fn turn(&self, rows: usize, turned: &mut [f32]) {
        for tile in self.tiles(rows) {
            kernel::transpose(&self.h[self.of(&tile)], self.d, &mut turned[self.of(&tile)], tile.len());
        }
    }

    /// Scores of the items of a range with a tile of h that is given transposed: `into` is (items × rows).
    fn scores(&self, h: &[f32], items: &Range, into: &mut [f32]) {
        let rows = h.len() / self.d;
        let at = Layout::rows_of(rows).transposed();
        let e = (&self.e[self.of(items)], Layout::rows_of(self.d).transposed());
        kernel::gemm((rows, items.len(), self.d), self.factor, (h, at), e, 0.0, (into, at));
        let begin = self.absent.partition_point(|&s| (s as usize) < items.start);
        for &row in self.absent[begin..].iter().take_while(|&&s| (s as usize) < items.end) {
            into[(row as usize - items.start) * rows..][..rows].fill(f32::NEG_INFINITY);
        }
    }

    /// Exponentials of those scores below the maximum of each row, with these maxima and the sums; returns what the right items
    /// among them take off the loss.
    fn exponentials(
        &self,
        (h, right): (&[f32], &[u32]),
        items: &Range,
        into: &mut [f32],
        tops: &mut [f32],
        sums: &mut [f32],
    ) -> f64 {
        self.scores(h, items, into);
        let score = |(r, &y): (usize, &u32)| {
            let item = (y as usize).checked_sub(items.start).filter(|_| (y as usize) < items.end)?;
            Some(f64::from(into[item * right.len() + r]))
        };
        let off: f64 = right.iter().enumerate().filter_map(score).sum();
        kernel::exp_below_tops(into, tops, sums);
        -off
    }

    /// Transposes the vectors of the items of a range.
    fn turn_items(&self, items: &Range, out: &mut Out) {
        kernel::transpose(&self.e[self.of(items)], self.d, out.e_turned, out.stride);
    }

    /// dh_r += f_r (p E)_r and dE += pᵀ (f h) over the items of a range, of which E transposed begins at `from`; f has the
    /// factor of each row of the tile.
    fn gradients(&self, tile: &Range, p: &[f32], f: &[f32], items: &Range, from: usize, out: &mut Out) {
        let rows = tile.len();
        let (at, p_at) = (Layout::rows_of(self.d), Layout::rows_of(rows));
        let turned = p_at.transposed();
        let mut product = vec![0f32; rows * self.d];
        let e = (&out.e_turned[from..], Layout::rows_of(out.stride).transposed());
        kernel::gemm((rows, self.d, items.len()), 1.0, (p, turned), e, 0.0, (&mut product, turned));
        let dh = &mut out.dh[self.of(tile)];
        for (dh, product) in dh.chunks_exact_mut(rows).zip(product.chunks_exact(rows)) {
            kernel::multiply_add(f, product, dh);
        }
        let scaled = &mut product;
        scaled.copy_from_slice(&self.h[self.of(tile)]);
        scaled.chunks_exact_mut(self.d).zip(f).for_each(|(h, &f)| kernel::scale(h, f));
        let de = &mut out.de[self.of(items)];
        kernel::gemm((items.len(), self.d, rows), 1.0, (p, p_at), (scaled, at), 1.0, (de, at));
    }

    /// Turns the tiles of dh back, and takes off the gradients what the right items do.
    fn finish(&self, rows: usize, out: &mut Out) {
        for tile in self.tiles(rows) {
            let dh = &mut out.dh[self.of(&tile)];
            let turned = dh.to_vec();
            kernel::transpose(&turned, tile.len(), dh, self.d);
        }
        let rows = self.h.chunks_exact(self.d).zip(out.dh.chunks_exact_mut(self.d));
        for ((h, dh), &y) in rows.zip(self.right) {
            let row = y as usize * self.d..(y as usize + 1) * self.d;
            kernel::axpy(-self.step, &self.e[row.clone()], dh);
            kernel::axpy(-self.step, h, &mut out.de[row]);
        }
    }

    /// All scores of a tile at once: each chunk becomes exponentials below its own maximum while it is in the cache, and what
    /// is missing to a softmax is one factor for each row and chunk.
    fn whole(&self, work: Work, mut out: Option<Out>) -> f64 {
        let Work { rows, turned, tile: scores } = work;
        if let Some(out) = &mut out {
            self.turn_items(&(0..self.count), out);
            out.dh.fill(0.0);
        }
        let chunks = self.count.div_ceil(ITEMS);
        let (mut tops, mut sums) = (vec![0f32; rows * chunks], vec![0f32; rows * chunks]);
        let mut loss = 0f64;
        for tile in self.tiles(rows) {
            let rows = tile.len();
            let read = (&turned[self.of(&tile)], &self.right[tile.clone()]);
            // Chunks lie one after the other, each a matrix of its own.
            let parts = tops.chunks_exact_mut(rows).zip(sums.chunks_exact_mut(rows));
            for (items, (tops, sums)) in self.chunks().zip(parts) {
                let chunk = &mut scores[rows * items.start..rows * items.end];
                loss += self.exponentials(read, &items, chunk, tops, sums);
            }
            let mut all = vec![LogSum::default(); rows];
            for (tops, sums) in tops.chunks_exact(rows).zip(sums.chunks_exact(rows)).take(chunks) {
                all.iter_mut().zip(tops.iter().zip(sums)).for_each(|(all, (&top, &sum))| all.add(top, sum));
            }
            let all: Vec<f64> = all.into_iter().map(LogSum::value).collect();
            loss += all.iter().sum::<f64>();
            let Some(out) = &mut out else { continue };
            for (items, tops) in self.chunks().zip(tops.chunks_exact(rows)) {
                let factor = |(top, sum): (&f32, &f64)| self.step * (f64::from(*top) - sum).exp() as f32;
                let f: Vec<f32> = tops.iter().zip(&all).map(factor).collect();
                let chunk = &scores[rows * items.start..rows * items.end];
                self.gradients(&tile, chunk, &f, &items, items.start, out);
            }
        }
        if let Some(out) = &mut out {
            self.finish(rows, out);
        }
        loss
    }

    /// Scores a chunk of items at a time, with all tiles: once for the sums, once for the gradients.
    fn twice(&self, work: Work, out: Option<Out>) -> f64 {
        let Work { rows, turned, tile: scores } = work;
        let (mut tops, mut sums) = (vec![0f32; rows], vec![0f32; rows]);
        let mut all = vec![LogSum::default(); self.n()];
        let mut loss = 0f64;
        for items in self.chunks() {
            for tile in self.tiles(rows) {
                let rows = tile.len();
                let read = (&turned[self.of(&tile)], &self.right[tile.clone()]);
                let (tops, sums) = (&mut tops[..rows], &mut sums[..rows]);
                loss += self.exponentials(read, &items, &mut scores[..rows * items.len()], tops, sums);
                all[tile]
                    .iter_mut()
                    .zip(tops.iter().zip(sums))
                    .for_each(|(all, (&top, &mut sum))| all.add(top, sum));
            }
        }
        let all: Vec<f64> = all.into_iter().map(LogSum::value).collect();
        loss += all.iter().sum::<f64>();
        let Some(mut out) = out else { return loss };
        out.dh.fill(0.0);
        let f = vec![self.step; rows];
        let shifts: Vec<f32> = all.iter().map(|&sum| sum as f32).collect();
        for items in self.chunks() {
            self.turn_items(&items, &mut out);
            for tile in self.tiles(rows) {
                let chunk = &mut scores[..tile.len() * items.len()];
                self.scores(&turned[self.of(&tile)], &items, chunk);
                kernel::exp_below(chunk, &shifts[tile.clone()]);
                self.gradients(&tile, chunk, &f[..tile.len()], &items, 0, &mut out);
            }
        }
        self.finish(rows, &mut out);
        loss
    }
}

/// The logarithm of a sum of exponentials, a part at a time.
#[derive(Clone, Copy)]
struct LogSum {
    top: f32,
    /// Below the top.
    sum: f64,
}

impl Default for LogSum {
    fn default() -> LogSum {
        LogSum { top: f32::NEG_INFINITY, sum: 0.0 }
    }
}

impl LogSum {
    /// Adds a part by its largest exponent and its sum below that.
    fn add(&mut self, top: f32, sum: f32) {
        let highest = self.top.max(top);
        let below = |top: f32| if top == highest { 1.0 } else { f64::from(top - highest).exp() };
        self.sum = self.sum * below(self.top) + f64::from(sum) * below(top);
        self.top = highest;
    }

    fn value(self) -> f64 {
        f64::from(self.top) + self.sum.ln()
    }
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
                tape.catalogue_softmax(v[0], Items::Matrix(v[1]), &right, &[], 1.5, 0.3)
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
        let job = Job { h: &h, e: &e, right: &right, d, count, absent: &[3, 1030], factor: 0.9, step: 0.2 };
        let run = |whole: bool| {
            let (mut dh, mut de) = (vec![0f32; n * d], vec![0f32; count * d]);
            let (mut tile, mut turned) = (vec![0f32; 4 * count], vec![0f32; n * d]);
            let (mut e_turned, stride) = (vec![0f32; d * count], if whole { count } else { ITEMS });
            job.turn(4, &mut turned);
            let work = Work { rows: 4, turned: &turned, tile: &mut tile };
            let out = Some(Out { dh: &mut dh, de: &mut de, e_turned: &mut e_turned, stride });
            let loss = if whole { job.whole(work, out) } else { job.twice(work, out) };
            assert!(de[3 * d..4 * d].iter().all(|g| *g == 0.0), "an absent item learns nothing");
            (loss, dh, de)
        };
        let (a, b) = (run(true), run(false));
        assert!((a.0 - b.0).abs() < 1e-4 * a.0, "{} {}", a.0, b.0);
        for (x, y) in a.1.iter().chain(&a.2).zip(b.1.iter().chain(&b.2)) {
            assert!((x - y).abs() < 1e-5, "{x} {y}");
        }
    }

    #[test]
    fn absent_items_might_as_well_not_be_there() {
        let (n, d, count) = (4, 3, 5);
        let all: Vec<f32> = (0..count * d).map(|i| (i as f32 * 0.7).sin()).collect();
        let run = |present: &[usize], absent: &[u32], right: Vec<u32>| {
            let mut params = Params::new(1);
            let h = params.add("h", n, d, Init::Normal(1.0));
            let e = params.add("e", present.len(), d, Init::Zeros);
            params.get_mut(e).value =
                present.iter().flat_map(|&i| all[i * d..(i + 1) * d].to_vec()).collect();
            let mut grads = ParamGrads::default();
            grads.clear(&params);
            let mut tape = Tape::training(&params, Rng::new(1), Workspace::default());
            let items = Items::Matrix(e.into());
            let loss = tape.catalogue_softmax(h.into(), items, &Arc::new(right), absent, 1.0, 1.0);
            let value = tape.data(loss)[0];
            tape.backward(loss, &mut grads);
            (value, grads.dense(h).unwrap().to_vec(), grads.dense(e).unwrap().to_vec())
        };
        let with = run(&[0, 1, 2, 3, 4], &[1, 3], vec![0, 2, 4, 2]);
        let without = run(&[0, 2, 4], &[], vec![0, 1, 2, 1]);
        let near = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5);
        assert!((with.0 - without.0).abs() < 1e-5 && near(&with.1, &without.1), "{with:?} {without:?}");
        for (row, same) in [(0, Some(0)), (1, None), (2, Some(1)), (3, None), (4, Some(2))] {
            let expected = same.map_or(vec![0.0; d], |s: usize| without.2[s * d..(s + 1) * d].to_vec());
            assert!(near(&with.2[row * d..(row + 1) * d], &expected), "row {row}");
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
        let loss = tape.catalogue_softmax(h.into(), Items::Table(table), &right, &[], 1.0, 1.0);
        tape.backward(loss, &mut grads);
        let mut twin = Params::new(1);
        let h2 = twin.add("h", 4, 3, Init::Normal(1.0));
        let e2 = twin.add("e", 6, 3, Init::Zeros);
        twin.get_mut(e2).value = rows;
        let mut twin_grads = ParamGrads::default();
        twin_grads.clear(&twin);
        let mut tape = Tape::training(&twin, Rng::new(1), Workspace::default());
        let loss = tape.catalogue_softmax(h2.into(), Items::Matrix(e2.into()), &right, &[], 1.0, 1.0);
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
        let loss =
            tape.catalogue_softmax(h.into(), Items::Matrix(e.into()), &Arc::new(vec![0]), &[], 1.0, 1.0);
        assert!(tape.data(loss)[0].is_nan());
    }
}

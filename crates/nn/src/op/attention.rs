//! Attention within each sequence of a ragged batch, in tiles of queries: no L × L matrix is kept for any head.
//!
//! s_ij = scale · q_i · k_j + Σ biases_ij,  o_i = Σ_j a_ij v_j, over the keys j that i may see, with
//! softmax: a_i = drop(softmax(s_i)), or pointwise (HSTU): a_ij = silu(s_ij) / N.
//!
//! Biases: a number for each bucket of (i, j) and head; or, as in TiSASRec, a vector for each bucket that is added to the
//! keys (s_ij += scale · q_i · rᵏ_b) and one that is added to the values (o_i += Σ_j a_ij rᵛ_b), both as one product per tile.
//! Buckets are of distance in places or in time. Or a place that the scores themselves decide (CAPE): the less the keys from j
//! to i are like the query, the farther away j is, p_ij = Σ_{k=j..i} (1 − σ(scale · q_i · k_k)), at most the last place, and
//! s_ij += scale · q_i · e[p_ij] with e read between two rows in proportion. It needs a causal attention.
//!
//! Shapes: x (n × any) holds q, k and v side by side in columns of its own, heads one after the other; o (n × heads · value
//! width), or a row for each sequence where only the newest ask. Number biases (heads or 1 × buckets), vector biases (buckets ×
//! heads · width).
//! Way back: the scores of a tile are computed again from the logarithm of each softmax's sum; dv = aᵀ do, da = do vᵀ,
//! ds = a ∘ (da − Σ a ∘ da) or da ∘ silu′(s) / N, dq = scale · ds k, dk = scale · dsᵀ q; biases gather ds by bucket.
//! Cost: 4 L² d forwards and 10 L² d backwards for a sequence of length L (a causal tile skips the keys behind it);
//! memory one tile of 48 × L.
//! Sources: Vaswani et al., NeurIPS 2017, arXiv:1706.03762; Dao et al., "FlashAttention", NeurIPS 2022, arXiv:2205.14135 (tiles,
//! and the second computation); Zhai et al., "Actions Speak Louder than Words" (HSTU), ICML 2024, arXiv:2402.17152; Li,
//! Wang, McAuley, "Time Interval Aware Self-Attention" (TiSASRec), WSDM 2020.

use crate::Ragged;
use crate::kernel::{self, Dropout, Layout};
use crate::tape::{Backward, Grads, Tape, Tensor, Values, Var};
use std::sync::Arc;

/// Which attention.
#[derive(Debug, Clone)]
pub struct Attention {
    pub heads: usize,
    /// First columns of the queries, keys and values of the first head.
    pub columns: [usize; 3],
    /// Width of a query and of a key, in one head.
    pub key_width: usize,
    pub value_width: usize,
    pub scale: f32,
    pub weighing: Weighing,
    /// Whether a row sees only itself and what is before it.
    pub causal: bool,
    /// Whether only the newest row of each sequence asks: o then has a row for each sequence that has any.
    pub newest: bool,
    /// Probability of dropping a weight, under softmax.
    pub dropout: f32,
    pub biases: Vec<Bias>,
    /// Rows that may be looked at; all, where it is `None`.
    pub visible: Option<Arc<Vec<bool>>>,
}

/// How scores become weights.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Weighing {
    Softmax,
    /// silu(s) / N for this N.
    Silu(f32),
}

/// What is added to the scores.
#[derive(Debug, Clone)]
pub enum Bias {
    /// A number for each bucket (1 × buckets, or heads × buckets).
    Numbers { of: Var, buckets: Buckets },
    /// A vector for each bucket, beside the keys, the values, or both.
    Vectors { keys: Option<Var>, values: Option<Var>, buckets: Buckets },
    /// Vectors of places that the scores decide (places × key width), the same for all heads.
    Context { of: Var },
}

/// Which bucket a pair (i, j) falls into.
#[derive(Debug, Clone)]
pub enum Buckets {
    /// i − j, at most `count` − 1. Looking forwards counts as 0.
    Places { count: usize },
    /// i − j + `count` / 2, at least 0 and at most `count` − 1: both ways.
    Around { count: usize },
    /// The place of j in its sequence, at most `count` − 1.
    Keys { count: usize },
    /// By the time between `now[i]` and `then[j]`.
    Times { now: Arc<Vec<i64>>, then: Arc<Vec<i64>>, scale: TimeScale, count: usize },
}

/// How a stretch of time becomes a bucket.
#[derive(Debug, Clone)]
pub enum TimeScale {
    /// The stretch over a unit of the row's own, rounded down.
    Linear(Arc<Vec<i64>>),
    /// This many buckets each time the stretch doubles; stretches below 1 are in bucket 0.
    Logarithmic(f32),
}

impl Buckets {
    pub fn count(&self) -> usize {
        match self {
            Buckets::Places { count }
            | Buckets::Around { count }
            | Buckets::Keys { count }
            | Buckets::Times { count, .. } => *count,
        }
    }

    /// Where only the distance i − j counts.
    fn at_distance(&self, distance: isize) -> usize {
        let count = self.count();
        let ahead = if matches!(self, Buckets::Around { .. }) { count / 2 } else { 0 };
        (distance + ahead as isize).clamp(0, count as isize - 1) as usize
    }

    /// Buckets of row `i` with each of `rows`, which begin where the sequence does; both are rows of the batch.
    fn fill(&self, i: usize, rows: std::ops::Range<usize>, out: &mut [u16]) {
        let last = self.count() - 1;
        match self {
            Buckets::Places { .. } | Buckets::Around { .. } => {
                for (out, j) in out.iter_mut().zip(rows) {
                    *out = self.at_distance(i as isize - j as isize) as u16;
                }
            }
            Buckets::Keys { .. } => {
                out.iter_mut().zip(0..rows.len()).for_each(|(out, j)| *out = j.min(last) as u16);
            }
            Buckets::Times { now, then, scale, .. } => {
                let now = now[i];
                let stretch = |then: &i64| now.abs_diff(*then);
                let buckets = then[rows].iter().map(stretch);
                match scale {
                    TimeScale::Linear(units) => {
                        let unit = units[i].unsigned_abs().max(1);
                        out.iter_mut()
                            .zip(buckets)
                            .for_each(|(out, t)| *out = (t / unit).min(last as u64) as u16);
                    }
                    TimeScale::Logarithmic(each) => {
                        out.iter_mut().zip(buckets).for_each(|(out, t)| {
                            *out = ((log2(t) * each) as usize).min(last) as u16;
                        });
                    }
                }
            }
        }
    }
}

/// log₂ of a whole number of at least 1, to a 2000th (0 of 0): the mantissa's share by a parabola.
fn log2(t: u64) -> f32 {
    let bits = (t.max(1) as f32).to_bits();
    let m = f32::from_bits((bits & 0x007f_ffff) | 0x3f80_0000);
    // Least squares over [1, 2), made exact at both ends.
    let f = m - 1.0;
    (bits >> 23) as f32 - 127.0 + f * (1.422_86 + f * (-0.582_05 + f * 0.159_19))
}

/// Queries of a tile.
const TILE: usize = 48;

/// One tile's view of the world.
struct Tile {
    /// Rows of the sequence in the batch.
    base: usize,
    /// Queries `from..to` and keys `0..end`, within the sequence.
    from: usize,
    to: usize,
    end: usize,
    head: usize,
    /// Row of the output for the first query.
    out: usize,
}

impl Tile {
    fn rows(&self) -> usize {
        self.to - self.from
    }

    /// Keys that query `r` of the tile may see by its place.
    fn reach(&self, r: usize, causal: bool) -> usize {
        if causal { self.from + r + 1 } else { self.end }
    }

    /// Buckets of distances in a line: query `r` of the tile meets those of its keys in order from `rows() − 1 − r` on.
    fn line<'b>(&self, buckets: &'b Buckets) -> impl Iterator<Item = usize> + use<'b> {
        let farthest = self.to as isize - 1;
        (0..self.end + self.rows() - 1).map(move |p| buckets.at_distance(farthest - p as isize))
    }

    fn in_line(&self, r: usize) -> usize {
        self.rows() - 1 - r
    }
}

/// Memory for one tile: queries × keys each.
struct Scratch {
    /// Scores, then weights; on the way back, what the slope is told by.
    base: Vec<f32>,
    /// On the way back, the weights as they were used.
    weights: Vec<f32>,
    grads: Vec<f32>,
    /// Per bias, the bucket of each pair.
    buckets: Vec<Vec<u16>>,
    /// What places depend on: σ of the bare scores, and the places; empty without [`Bias::Context`].
    gates: Vec<f32>,
    places: Vec<f32>,
    /// Tile rows × buckets.
    by_bucket: Vec<f32>,
    /// What each distance adds, from the farthest back to the farthest ahead: see [`Tile::line`].
    line: Vec<f32>,
}

impl Tape<'_> {
    /// See `op/attention.rs`.
    pub fn attention(&mut self, x: Var, ragged: &Arc<Ragged>, with: Attention) -> Var {
        let (n, width) = self.shape(x);
        assert_eq!(n, ragged.rows(), "x has {n} rows, its sequences {}", ragged.rows());
        let [q, k, v] = with.columns;
        let ends = [
            q + with.heads * with.key_width,
            k + with.heads * with.key_width,
            v + with.heads * with.value_width,
        ];
        assert!(ends.iter().all(|&end| end <= width), "x has {width} columns, attention reaches {ends:?}");
        let drop = if with.weighing == Weighing::Softmax { self.dropout(with.dropout) } else { None };
        let outer = with.heads * with.value_width;
        let rows = if with.newest { ragged.last_rows().count() } else { n };
        let mut out = self.take(rows * outer);
        let mut sums = self.take(n * with.heads);
        let mut job = Job { x, ragged: ragged.clone(), with, drop, sums: Vec::new() };
        let values = self.values();
        let mut scratch = job.scratch(&values, false);
        job.each_tile(|tile, new_rows| {
            job.scores(&values, tile, new_rows, &mut scratch);
            job.weigh(tile, &mut scratch.base, Some(&mut sums));
            job.drop_out(tile, &mut scratch.base);
            job.spread(&values, tile, &mut scratch, &mut out);
        });
        job.sums = sums;
        let wanted = self.wants(x);
        self.push(Tensor::new(rows, outer, out), wanted, || Box::new(job))
    }
}

struct Job {
    x: Var,
    ragged: Arc<Ragged>,
    with: Attention,
    drop: Option<Dropout>,
    /// Logarithm of each softmax's sum (row × head).
    sums: Vec<f32>,
}

impl Job {
    fn scratch(&self, values: &Values, back: bool) -> Scratch {
        let size = TILE.min(self.ragged.longest()) * self.ragged.longest();
        let most = self.with.biases.iter().map(|b| b.count(values)).max().unwrap_or(0);
        let context = self.with.biases.iter().any(|b| matches!(b, Bias::Context { .. }));
        let of_context = if context { size } else { 0 };
        Scratch {
            base: vec![0.0; size],
            weights: vec![0.0; if back { size } else { 0 }],
            grads: vec![0.0; if back { size } else { 0 }],
            buckets: self
                .with
                .biases
                .iter()
                .map(|b| vec![0; if b.buckets().is_some() && !b.is_a_line() { size } else { 0 }])
                .collect(),
            gates: vec![0.0; of_context],
            places: vec![0.0; of_context],
            by_bucket: vec![0.0; TILE * most],
            line: vec![0.0; TILE + self.ragged.longest()],
        }
    }

    /// Calls `f` for every head of every tile; true with the first head of a tile.
    fn each_tile(&self, mut f: impl FnMut(&Tile, bool)) {
        let mut out = 0;
        for range in self.ragged.iter().filter(|range| !range.is_empty()) {
            let first = if self.with.newest { range.len() - 1 } else { 0 };
            for from in (first..range.len()).step_by(TILE) {
                let to = (from + TILE).min(range.len());
                let end = if self.with.causal { to } else { range.len() };
                for head in 0..self.with.heads {
                    f(&Tile { base: range.start, from, to, end, head, out }, head == 0);
                }
                out += to - from;
            }
        }
    }

    /// First numbers of the tile's queries, its sequence's keys and values.
    fn starts(&self, tile: &Tile, width: usize) -> [usize; 3] {
        let [q, k, v] = self.with.columns;
        let key = tile.head * self.with.key_width;
        [
            (tile.base + tile.from) * width + q + key,
            tile.base * width + k + key,
            tile.base * width + v + tile.head * self.with.value_width,
        ]
    }

    /// Scores of a tile with their biases, before anything is masked, into `scratch.base`.
    fn scores(&self, values: &Values, tile: &Tile, first_head: bool, scratch: &mut Scratch) {
        let with = &self.with;
        let (x, width) = (values.data(self.x), values.shape(self.x).1);
        let [q, k, _] = self.starts(tile, width);
        let (rows, end) = (tile.rows(), tile.end);
        let at = Layout::rows_of(width);
        let scores = &mut scratch.base[..rows * end];
        let shape = (rows, end, with.key_width);
        kernel::gemm(
            shape,
            with.scale,
            (&x[q..], at),
            (&x[k..], at.transposed()),
            0.0,
            (scores, Layout::rows_of(end)),
        );
        if with.biases.iter().any(|b| matches!(b, Bias::Context { .. })) {
            // Of the bare scores, before anything is added to them.
            let (gates, places) = (&mut scratch.gates[..rows * end], &mut scratch.places[..rows * end]);
            gates.copy_from_slice(scores);
            kernel::activate(gates, kernel::Activation::Sigmoid);
            for r in 0..rows {
                let mut place = 0f32;
                for j in (0..tile.reach(r, true)).rev() {
                    place += 1.0 - gates[r * end + j];
                    places[r * end + j] = place;
                }
            }
        }
        for (bias, buckets) in with.biases.iter().zip(&mut scratch.buckets) {
            if let Some(kind) = bias.buckets().filter(|_| first_head && !bias.is_a_line()) {
                for r in 0..rows {
                    let keys = tile.base..tile.base + end;
                    kind.fill(tile.base + tile.from + r, keys, &mut buckets[r * end..][..end]);
                }
            }
            let count = bias.count(values);
            let (vectors, wide) = match bias {
                Bias::Numbers { of, buckets: kind } => {
                    let heads = values.shape(*of).0;
                    let table = &values.data(*of)[if heads > 1 { tile.head * count } else { 0 }..][..count];
                    if bias.is_a_line() {
                        let line = &mut scratch.line;
                        line.iter_mut().zip(tile.line(kind)).for_each(|(to, b)| *to = table[b]);
                        for (r, s) in scores.chunks_exact_mut(end).enumerate() {
                            let s = &mut s[..tile.reach(r, with.causal)];
                            kernel::axpy(1.0, &line[tile.in_line(r)..][..s.len()], s);
                        }
                        continue;
                    }
                    for (s, &b) in scores.iter_mut().zip(&*buckets) {
                        *s += table[b as usize];
                    }
                    continue;
                }
                Bias::Vectors { keys: None, .. } => continue,
                Bias::Vectors { keys: Some(keys), .. } => {
                    (&values.data(*keys)[tile.head * with.key_width..], values.shape(*keys).1)
                }
                Bias::Context { of } => (values.data(*of), with.key_width),
            };
            let by_bucket = &mut scratch.by_bucket[..rows * count];
            kernel::gemm(
                (rows, count, with.key_width),
                with.scale,
                (&x[q..], at),
                (vectors, Layout::rows_of(wide).transposed()),
                0.0,
                (by_bucket, Layout::rows_of(count)),
            );
            for (r, (s, table)) in scores.chunks_exact_mut(end).zip(by_bucket.chunks_exact(count)).enumerate()
            {
                if bias.buckets().is_some() {
                    s.iter_mut().zip(&buckets[r * end..]).for_each(|(s, &b)| *s += table[b as usize]);
                } else {
                    let places = &scratch.places[r * end..][..tile.reach(r, true)];
                    for (s, &place) in s.iter_mut().zip(places) {
                        let (low, high, part) = between(place, count);
                        *s += (1.0 - part) * table[low] + part * table[high];
                    }
                }
            }
        }
    }

    /// Scores become weights; with `sums`, for the first time, else from the sums known. Weights of keys that may not be
    /// seen are 0.
    fn weigh(&self, tile: &Tile, scores: &mut [f32], mut sums: Option<&mut [f32]>) {
        let with = &self.with;
        for r in 0..tile.rows() {
            let reach = tile.reach(r, with.causal);
            let (row, hidden) = scores[r * tile.end..][..tile.end].split_at_mut(reach);
            hidden.fill(0.0);
            let visible = with.visible.as_ref().map(|v| &v[tile.base..tile.base + reach]);
            match with.weighing {
                Weighing::Softmax => {
                    let none = visible.is_some_and(|v| !v.contains(&true));
                    if let Some(visible) = visible {
                        row.iter_mut()
                            .zip(visible)
                            .filter(|(_, v)| !**v)
                            .for_each(|(s, _)| *s = f32::NEG_INFINITY);
                    }
                    let at = (tile.base + tile.from + r) * with.heads + tile.head;
                    if none {
                        row.fill(0.0);
                    } else if let Some(sums) = &mut sums {
                        sums[at] = kernel::softmax(row, 1.0);
                    } else {
                        kernel::softmax_again(row, 1.0, self.sums[at]);
                    }
                }
                Weighing::Silu(n) => kernel::scaled_silu(row, 1.0 / n),
            }
            if let Some(visible) = visible {
                row.iter_mut().zip(visible).filter(|(_, v)| !**v).for_each(|(s, _)| *s = 0.0);
            }
        }
    }

    /// Drops weights of a tile, or their gradients, at the same places each time.
    fn drop_out(&self, tile: &Tile, weights: &mut [f32]) {
        let Some(drop) = self.drop else { return };
        for r in 0..tile.rows() {
            let row = (tile.base + tile.from + r) * self.with.heads + tile.head;
            let reach = tile.reach(r, self.with.causal);
            kernel::drop_out(
                &mut weights[r * tile.end..][..reach],
                drop,
                (row as u32).wrapping_mul(0x85eb_ca6b),
            );
        }
    }

    /// o ← a v with the weights in `scratch.base`, and what the value vectors of buckets add.
    fn spread(&self, values: &Values, tile: &Tile, scratch: &mut Scratch, out: &mut [f32]) {
        let with = &self.with;
        let (x, width) = (values.data(self.x), values.shape(self.x).1);
        let [_, _, v] = self.starts(tile, width);
        let outer = with.heads * with.value_width;
        let (rows, end) = (tile.rows(), tile.end);
        let weights = &scratch.base[..rows * end];
        let out = &mut out[tile.out * outer + tile.head * with.value_width..];
        let (weights_at, out_at) = (Layout::rows_of(end), Layout::rows_of(outer));
        let shape = (rows, with.value_width, end);
        kernel::gemm(
            shape,
            1.0,
            (weights, weights_at),
            (&x[v..], Layout::rows_of(width)),
            0.0,
            (out, out_at),
        );
        for (bias, buckets) in with.biases.iter().zip(&scratch.buckets) {
            let Bias::Vectors { values: Some(vectors), buckets: kind, .. } = bias else { continue };
            let count = kind.count();
            let by_bucket = &mut scratch.by_bucket[..rows * count];
            gather(weights, buckets, end, count, by_bucket);
            let wide = values.shape(*vectors).1;
            let vectors = &values.data(*vectors)[tile.head * with.value_width..];
            kernel::gemm(
                (rows, with.value_width, count),
                1.0,
                (by_bucket, Layout::rows_of(count)),
                (vectors, Layout::rows_of(wide)),
                1.0,
                (out, out_at),
            );
        }
    }

    /// The weights of a tile once more, into `scratch.weights` as they were used; its scores become what
    /// [`Self::weigh_back`] needs: the softmax, or slopes.
    fn weigh_again(&self, tile: &Tile, scratch: &mut Scratch) {
        let size = tile.rows() * tile.end;
        let (base, weights) = (&mut scratch.base[..size], &mut scratch.weights[..size]);
        let Weighing::Silu(n) = self.with.weighing else {
            self.weigh(tile, base, None);
            weights.copy_from_slice(base);
            self.drop_out(tile, weights);
            return;
        };
        for r in 0..tile.rows() {
            let reach = tile.reach(r, self.with.causal);
            let row = r * tile.end..(r + 1) * tile.end;
            let (base, weights) = (&mut base[row.clone()], &mut weights[row]);
            weights[reach..].fill(0.0);
            let (base, weights) = (&mut base[..reach], &mut weights[..reach]);
            kernel::scaled_silu_and_slope(base, weights, 1.0 / n);
            if let Some(visible) = &self.with.visible {
                let hidden =
                    visible[tile.base..].iter().zip(base).zip(weights).filter(|((seen, _), _)| !**seen);
                hidden.for_each(|((_, base), weight)| (*base, *weight) = (0.0, 0.0));
            }
        }
    }

    /// `scratch.grads` holds gradients of the weights as they were used; afterwards, of the raw scores.
    fn weigh_back(&self, tile: &Tile, scratch: &mut Scratch) {
        self.drop_out(tile, &mut scratch.grads);
        for r in 0..tile.rows() {
            let reach = tile.reach(r, self.with.causal);
            let row = &scratch.base[r * tile.end..][..reach];
            let (grad, hidden) = scratch.grads[r * tile.end..][..tile.end].split_at_mut(reach);
            hidden.fill(0.0);
            match self.with.weighing {
                Weighing::Softmax => kernel::softmax_back(row, grad),
                Weighing::Silu(_) => kernel::multiply_by(row, grad),
            }
        }
    }
}

impl Bias {
    fn buckets(&self) -> Option<&Buckets> {
        match self {
            Bias::Numbers { buckets, .. } | Bias::Vectors { buckets, .. } => Some(buckets),
            Bias::Context { .. } => None,
        }
    }

    /// Whether what it adds depends on i − j alone.
    fn is_a_line(&self) -> bool {
        matches!(self, Bias::Numbers { buckets: Buckets::Places { .. } | Buckets::Around { .. }, .. })
    }

    /// Buckets, or places.
    fn count(&self, values: &Values) -> usize {
        match self {
            Bias::Numbers { buckets, .. } | Bias::Vectors { buckets, .. } => buckets.count(),
            Bias::Context { of } => values.shape(*of).0,
        }
    }

    fn parameters(&self) -> impl Iterator<Item = Var> {
        let list = match *self {
            Bias::Numbers { of, .. } | Bias::Context { of } => [Some(of), None],
            Bias::Vectors { keys, values, .. } => [keys, values],
        };
        list.into_iter().flatten()
    }
}

/// The two rows that a place lies between, and its share of the way to the second.
#[inline]
fn between(place: f32, count: usize) -> (usize, usize, f32) {
    let place = place.min((count - 1) as f32);
    let low = place as usize;
    (low, (low + 1).min(count - 1), place - low as f32)
}

/// `sums[r, b] ← Σ` of the weights of row r in bucket b.
fn gather(weights: &[f32], buckets: &[u16], end: usize, count: usize, sums: &mut [f32]) {
    sums.fill(0.0);
    let rows = weights.chunks_exact(end).zip(buckets.chunks_exact(end)).zip(sums.chunks_exact_mut(count));
    for ((w, b), sums) in rows {
        for (w, &b) in w.iter().zip(b) {
            sums[b as usize] += w;
        }
    }
}

impl Backward for Job {
    fn backward(self: Box<Self>, _: &Tensor, dy: &mut [f32], values: &Values, grads: &mut Grads) {
        let with = &self.with;
        let (x, width) = (values.data(self.x), values.shape(self.x).1);
        let outer = with.heads * with.value_width;
        let (at, out_at) = (Layout::rows_of(width), Layout::rows_of(outer));
        let mut of_biases: Vec<Vec<f32>> =
            with.biases.iter().flat_map(Bias::parameters).map(|p| vec![0f32; values.data(p).len()]).collect();
        let mut scratch = self.scratch(values, true);
        let dx = grads.sum(self.x);
        self.each_tile(|tile, first_head| {
            let [q, k, v] = self.starts(tile, width);
            let (rows, end) = (tile.rows(), tile.end);
            let tile_at = Layout::rows_of(end);
            let size = rows * end;
            self.scores(values, tile, first_head, &mut scratch);
            self.weigh_again(tile, &mut scratch);
            let dout = &dy[tile.out * outer + tile.head * with.value_width..];
            let shape = (rows, end, with.value_width);
            let values_at = at.transposed();
            kernel::gemm(
                shape,
                1.0,
                (dout, out_at),
                (&x[v..], values_at),
                0.0,
                (&mut scratch.grads, tile_at),
            );
            let used = &scratch.weights[..size];
            let shape = (end, with.value_width, rows);
            kernel::gemm(shape, 1.0, (used, tile_at.transposed()), (dout, out_at), 1.0, (&mut dx[v..], at));
            let mut n = 0;
            for (bias, buckets) in with.biases.iter().zip(&scratch.buckets) {
                let count = bias.count(values);
                if let Bias::Vectors { keys, values: Some(vectors), .. } = bias {
                    let wide = values.shape(*vectors).1;
                    let column = tile.head * with.value_width;
                    let by_bucket = &mut scratch.by_bucket[..rows * count];
                    gather(used, buckets, end, count, by_bucket);
                    let d = &mut of_biases[n + usize::from(keys.is_some())][column..];
                    let bucket_at = Layout::rows_of(count);
                    kernel::gemm(
                        (count, with.value_width, rows),
                        1.0,
                        (by_bucket, bucket_at.transposed()),
                        (dout, out_at),
                        1.0,
                        (d, Layout::rows_of(wide)),
                    );
                    let vectors = &values.data(*vectors)[column..];
                    kernel::gemm(
                        (rows, count, with.value_width),
                        1.0,
                        (dout, out_at),
                        (vectors, Layout::rows_of(wide).transposed()),
                        0.0,
                        (by_bucket, bucket_at),
                    );
                    let rows = scratch.grads.chunks_exact_mut(end).zip(buckets.chunks_exact(end));
                    for ((g, b), table) in rows.zip(by_bucket.chunks_exact(count)) {
                        g.iter_mut().zip(b).for_each(|(g, &b)| *g += table[b as usize]);
                    }
                }
                n += bias.parameters().count();
            }
            self.weigh_back(tile, &mut scratch);
            let ds = &mut scratch.grads[..size];
            let mut n = 0;
            // The places of the context last: they add to the gradients of the bare scores, which no other bias sees.
            let order = |b: &(usize, &Bias)| matches!(b.1, Bias::Context { .. });
            let mut biases: Vec<(usize, &Bias)> = Vec::new();
            for bias in &with.biases {
                biases.push((n, bias));
                n += bias.parameters().count();
            }
            let mut each: Vec<_> = biases.into_iter().zip(&scratch.buckets).collect();
            each.sort_by_key(|(bias, _)| order(bias));
            for ((n, bias), buckets) in each {
                let count = bias.count(values);
                let by_bucket = &mut scratch.by_bucket[..rows * count];
                let bucket_at = Layout::rows_of(count);
                let (vectors, wide, column) = match bias {
                    Bias::Numbers { of, buckets: kind } => {
                        let from = if values.shape(*of).0 > 1 { tile.head * count } else { 0 };
                        let table = &mut of_biases[n][from..][..count];
                        if bias.is_a_line() {
                            let line = &mut scratch.line[..end + rows - 1];
                            line.fill(0.0);
                            for (r, d) in ds.chunks_exact(end).enumerate() {
                                let d = &d[..tile.reach(r, with.causal)];
                                kernel::axpy(1.0, d, &mut line[tile.in_line(r)..][..d.len()]);
                            }
                            line.iter().zip(tile.line(kind)).for_each(|(d, b)| table[b] += d);
                            continue;
                        }
                        for (d, &b) in ds.iter().zip(buckets) {
                            table[b as usize] += d;
                        }
                        continue;
                    }
                    Bias::Vectors { keys: None, .. } => continue,
                    Bias::Vectors { keys: Some(keys), .. } => {
                        gather(ds, buckets, end, count, by_bucket);
                        let column = tile.head * with.key_width;
                        (&values.data(*keys)[column..], values.shape(*keys).1, column)
                    }
                    Bias::Context { of } => {
                        let table_at = Layout::rows_of(with.key_width).transposed();
                        let mut table = vec![0f32; rows * count];
                        let shape = (rows, count, with.key_width);
                        let into = (&mut table[..], bucket_at);
                        kernel::gemm(
                            shape,
                            with.scale,
                            (&x[q..], at),
                            (values.data(*of), table_at),
                            0.0,
                            into,
                        );
                        by_bucket.fill(0.0);
                        for r in 0..rows {
                            let (table, sums) =
                                (&table[r * count..][..count], &mut by_bucket[r * count..][..count]);
                            let mut before = 0f32;
                            for j in 0..tile.reach(r, true) {
                                let at = r * end + j;
                                let (place, gate, d) = (scratch.places[at], scratch.gates[at], ds[at]);
                                let (low, high, part) = between(place, count);
                                sums[low] += d * (1.0 - part);
                                sums[high] += d * part;
                                if place < (count - 1) as f32 {
                                    before += d * (table[high] - table[low]);
                                }
                                // Key j is counted in the places of all keys up to it.
                                ds[at] -= before * gate * (1.0 - gate);
                            }
                        }
                        (values.data(*of), with.key_width, 0)
                    }
                };
                kernel::gemm(
                    (count, with.key_width, rows),
                    with.scale,
                    (by_bucket, bucket_at.transposed()),
                    (&x[q..], at),
                    1.0,
                    (&mut of_biases[n][column..], Layout::rows_of(wide)),
                );
                kernel::gemm(
                    (rows, with.key_width, count),
                    with.scale,
                    (by_bucket, bucket_at),
                    (vectors, Layout::rows_of(wide)),
                    1.0,
                    (&mut dx[q..], at),
                );
            }
            let shape = (rows, with.key_width, end);
            kernel::gemm(shape, with.scale, (ds, tile_at), (&x[k..], at), 1.0, (&mut dx[q..], at));
            let shape = (end, with.key_width, rows);
            kernel::gemm(
                shape,
                with.scale,
                (ds, tile_at.transposed()),
                (&x[q..], at),
                1.0,
                (&mut dx[k..], at),
            );
        });
        for (p, d) in with.biases.iter().flat_map(Bias::parameters).zip(&of_biases) {
            grads.add(p, d);
        }
        grads.workspace.give(self.sums);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{M, check, dot, sigmoid, softmax};

    fn plain(with: &Attention, ragged: &Ragged, v: &[M]) -> M {
        let x = &v[0];
        let mut out = M::zeros(x.rows, with.heads * with.value_width);
        for range in ragged.iter() {
            for h in 0..with.heads {
                for i in range.clone() {
                    let part =
                        |row: usize, first: usize, width: usize| &x.row(row)[first + h * width..][..width];
                    let [q, k, value] = with.columns;
                    let k_column = k;
                    let seen = |j: &usize| {
                        (!with.causal || *j <= i) && with.visible.as_ref().is_none_or(|visible| visible[*j])
                    };
                    let keys: Vec<usize> = range.clone().filter(seen).collect();
                    let bucket = |b: &Bias, j: usize| {
                        let mut out = vec![0u16; j + 1 - range.start];
                        b.buckets().unwrap().fill(i, range.start..j + 1, &mut out);
                        out[j - range.start] as usize
                    };
                    let score = |&j: &usize| {
                        let query = part(i, q, with.key_width);
                        let mut s = f64::from(with.scale) * dot(query, part(j, k, with.key_width));
                        let bare =
                            |k: usize| f64::from(with.scale) * dot(query, part(k, k_column, with.key_width));
                        for (b, bias) in with.biases.iter().enumerate() {
                            match bias {
                                Bias::Context { .. } => {
                                    let table = &v[1 + 2 * b];
                                    let place: f64 = (j..=i).map(|k| 1.0 - sigmoid(bare(k))).sum();
                                    let place = place.min((table.rows - 1) as f64);
                                    let low = place as usize;
                                    let high = (low + 1).min(table.rows - 1);
                                    let of = |row: usize| f64::from(with.scale) * dot(query, table.row(row));
                                    let share = place - low as f64;
                                    s += (1.0 - share) * of(low) + share * of(high);
                                }
                                Bias::Numbers { .. } => {
                                    let table = &v[1 + 2 * b];
                                    s += table.at(if table.rows > 1 { h } else { 0 }, bucket(bias, j));
                                }
                                Bias::Vectors { keys: Some(_), .. } => {
                                    let vector = &v[1 + 2 * b].row(bucket(bias, j))[h * with.key_width..]
                                        [..with.key_width];
                                    s += f64::from(with.scale) * dot(query, vector);
                                }
                                Bias::Vectors { .. } => {}
                            }
                        }
                        s
                    };
                    let scores: Vec<f64> = keys.iter().map(score).collect();
                    let weights: Vec<f64> = match with.weighing {
                        Weighing::Softmax => softmax(&scores),
                        Weighing::Silu(n) => scores.iter().map(|s| s * sigmoid(*s) / f64::from(n)).collect(),
                    };
                    for (&j, a) in keys.iter().zip(&weights) {
                        for c in 0..with.value_width {
                            let mut value = part(j, value, with.value_width)[c];
                            for (b, bias) in with.biases.iter().enumerate() {
                                if let Bias::Vectors { values: Some(_), .. } = bias {
                                    value += v[2 + 2 * b].at(bucket(bias, j), h * with.value_width + c);
                                }
                            }
                            out.data[i * out.cols + h * with.value_width + c] += a * value;
                        }
                    }
                }
            }
        }
        out
    }

    fn simple(heads: usize, key_width: usize, value_width: usize) -> Attention {
        let (k, v) = (heads * key_width + 1, 2 * heads * key_width + 1);
        Attention {
            heads,
            columns: [0, k, v],
            key_width,
            value_width,
            scale: 0.7,
            weighing: Weighing::Softmax,
            causal: true,
            newest: false,
            dropout: 0.0,
            biases: Vec::new(),
            visible: None,
        }
    }

    /// Checks with two biases at most: inputs 1 and 2 belong to the first, 3 and 4 to the second.
    fn try_out(with: &Attention, lengths: &[usize], tables: &[(usize, usize)]) {
        let ragged = Arc::new(Ragged::of(lengths.iter().copied()));
        let width = with.columns[2] + with.heads * with.value_width + 1;
        let mut shapes = vec![(ragged.rows(), width)];
        shapes.extend(tables);
        let build = |tape: &mut Tape, v: &[Var]| {
            let mut with = with.clone();
            for (b, bias) in with.biases.iter_mut().enumerate() {
                match bias {
                    Bias::Numbers { of, .. } | Bias::Context { of } => *of = v[1 + 2 * b],
                    Bias::Vectors { keys, values, .. } => {
                        *keys = keys.map(|_| v[1 + 2 * b]);
                        *values = values.map(|_| v[2 + 2 * b]);
                    }
                }
            }
            tape.attention(v[0], &ragged, with)
        };
        check(&shapes, 11, build, |v| plain(with, &ragged, v));
    }

    const SHAPES: [&[usize]; 5] = [&[], &[0, 1], &[3, 0, 2], &[1, 70], &[130]];

    #[test]
    fn softmax_and_silu_forwards_and_back() {
        for lengths in SHAPES {
            for weighing in [Weighing::Softmax, Weighing::Silu(20.0)] {
                for causal in [true, false] {
                    try_out(&Attention { weighing, causal, ..simple(2, 3, 4) }, lengths, &[]);
                }
            }
        }
    }

    #[test]
    fn the_newest_rows_alone_get_what_they_get_among_all() {
        for lengths in SHAPES {
            for weighing in [Weighing::Softmax, Weighing::Silu(20.0)] {
                for causal in [true, false] {
                    let ragged = Arc::new(Ragged::of(lengths.iter().copied()));
                    let places = Buckets::Places { count: 5 };
                    let biases = vec![
                        Bias::Numbers { of: Var::Node(0), buckets: places.clone() },
                        Bias::Vectors {
                            keys: Some(Var::Node(0)),
                            values: Some(Var::Node(0)),
                            buckets: times(ragged.rows()),
                        },
                    ];
                    let with = Attention { weighing, causal, biases, ..simple(2, 3, 4) };
                    let width = with.columns[2] + 9;
                    let build = |tape: &mut Tape, v: &[Var]| {
                        let mut with = Attention { newest: true, ..with.clone() };
                        with.biases = vec![
                            Bias::Numbers { of: v[1], buckets: places.clone() },
                            Bias::Vectors {
                                keys: Some(v[2]),
                                values: Some(v[3]),
                                buckets: times(ragged.rows()),
                            },
                        ];
                        tape.attention(v[0], &ragged, with)
                    };
                    let of_newest = |v: &[M]| {
                        let v = [v[0].clone(), v[1].clone(), M::zeros(1, 1), v[2].clone(), v[3].clone()];
                        let all = plain(&with, &ragged, &v);
                        let rows: Vec<usize> = ragged.last_rows().collect();
                        M::from_fn(rows.len(), all.cols, |r, c| all.at(rows[r], c))
                    };
                    check(&[(ragged.rows(), width), (2, 5), (20, 6), (20, 8)], 11, build, of_newest);
                }
            }
        }
    }

    fn times(rows: usize) -> Buckets {
        let then: Vec<i64> = (0..rows as i64).map(|t| t * t * 37).collect();
        let now = then.iter().map(|t| t + 5).collect();
        Buckets::Times {
            now: Arc::new(now),
            then: Arc::new(then),
            scale: TimeScale::Logarithmic(1.5),
            count: 20,
        }
    }

    #[test]
    fn biases_forwards_and_back() {
        let nothing = Var::Node(0);
        for lengths in SHAPES {
            let rows = lengths.iter().sum();
            let places = Buckets::Places { count: 5 };
            let linear = Buckets::Times {
                now: Arc::new((0..rows as i64).map(|t| t * 10).collect()),
                then: Arc::new((0..rows as i64).map(|t| t * 10).collect()),
                scale: TimeScale::Linear(Arc::new(vec![4; rows])),
                count: 6,
            };
            for weighing in [Weighing::Softmax, Weighing::Silu(9.0)] {
                let numbers = vec![
                    Bias::Numbers { of: nothing, buckets: places.clone() },
                    Bias::Numbers { of: nothing, buckets: times(rows) },
                ];
                let with = Attention { biases: numbers, weighing, ..simple(2, 3, 4) };
                try_out(&with, lengths, &[(2, 5), (1, 1), (1, 20), (1, 1)]);
                for (keys, values) in [(true, true), (true, false), (false, true)] {
                    let some = |yes: bool| yes.then_some(nothing);
                    let vectors = vec![
                        Bias::Vectors { keys: some(keys), values: some(values), buckets: linear.clone() },
                        Bias::Vectors { keys: some(true), values: None, buckets: Buckets::Keys { count: 5 } },
                    ];
                    let with = Attention { biases: vectors, weighing, ..simple(2, 3, 4) };
                    try_out(&with, lengths, &[(6, 6), (6, 8), (5, 6), (1, 1)]);
                }
            }
        }
    }

    #[test]
    fn distances_both_ways_forwards_and_back() {
        for lengths in SHAPES {
            for count in [5, 301] {
                let around = Bias::Numbers { of: Var::Node(0), buckets: Buckets::Around { count } };
                let with = Attention { biases: vec![around], causal: false, ..simple(2, 3, 4) };
                if count == 5 || lengths.iter().sum::<usize>() < 20 {
                    try_out(&with, lengths, &[(2, count), (1, 1)]);
                }
            }
        }
        let mut out = [0u16; 4];
        Buckets::Around { count: 5 }.fill(1, 0..4, &mut out);
        assert_eq!(out, [3, 2, 1, 0]);
    }

    #[test]
    fn places_of_the_context_forwards_and_back() {
        let nothing = Var::Node(0);
        for lengths in SHAPES {
            for (weighing, places) in
                [(Weighing::Softmax, 4), (Weighing::Silu(9.0), 200), (Weighing::Silu(9.0), 1)]
            {
                // Where a place is whole the slope has a step, and among many places some are as good as whole.
                if places > 100 && lengths.iter().sum::<usize>() > 50 {
                    continue;
                }
                let numbers = Bias::Numbers { of: nothing, buckets: Buckets::Places { count: 5 } };
                let biases = vec![Bias::Context { of: nothing }, numbers];
                let with = Attention { weighing, biases, ..simple(2, 3, 4) };
                try_out(&with, lengths, &[(places, 3), (1, 1), (2, 5), (1, 1)]);
            }
        }
    }

    #[test]
    fn rows_out_of_sight_get_no_weight() {
        for weighing in [Weighing::Softmax, Weighing::Silu(9.0)] {
            let visible = vec![false, true, true, false, true, false, false];
            let with = Attention { visible: Some(Arc::new(visible)), weighing, ..simple(1, 4, 2) };
            try_out(&with, &[5, 2], &[]);
        }
    }

    #[test]
    fn dropped_weights_are_the_same_on_the_way_back() {
        // The output is linear in v, so its own gradient tells which weights were used.
        let mut params = crate::params::Params::new(1);
        let x = params.add("x", 6, 10, crate::params::Init::Normal(1.0));
        let with = Attention { dropout: 0.5, ..simple(1, 3, 2) };
        let ragged = Arc::new(Ragged::of([6]));
        let rng = sommelier_core::Rng::new(5);
        let mut tape = Tape::training(&params, rng, crate::tape::Workspace::default());
        let y = tape.attention(x.into(), &ragged, with.clone());
        let out = tape.data(y).to_vec();
        let mut grads = crate::tape::ParamGrads::default();
        grads.clear(&params);
        let mut seed = vec![0f32; 12];
        seed[10] = 1.0;
        tape.backward_from(y, &seed, &mut grads);
        let data = &params.get(x).value;
        let used: Vec<f32> = (0..6).map(|j| grads.dense(x).unwrap()[j * 10 + with.columns[2]]).collect();
        let again: f32 = (0..6).map(|j| used[j] * data[j * 10 + with.columns[2]]).sum();
        assert!((out[10] - again).abs() < 1e-5);
        assert!(used.contains(&0.0) && used.iter().any(|w| *w != 0.0), "{used:?}");
    }

    #[test]
    fn stretches_of_time_fall_into_even_buckets() {
        for t in [1u64, 2, 3, 7, 100, 1 << 20, 123_456_789] {
            assert!((f64::from(log2(t)) - (t as f64).log2()).abs() < 1e-3, "{t}: {}", log2(t));
        }
        assert_eq!(log2(0), 0.0);
        let mut out = [0u16; 3];
        times(3).fill(0, 0..3, &mut out);
        assert_eq!(out, [3, 7, 10], "1.5 buckets for each doubling of 5, 32 and 143");
    }
}

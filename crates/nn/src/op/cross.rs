//! Attention of some rows to others: a decoder's to what its encoder read.
//!
//! a_i = drop(softmax_j(scale · q_i · k_j)), o_i = Σ_j a_ij v_j, over all rows j of the memory that belongs to the sequence of i.
//! Where a memory is empty, o is 0.
//!
//! Shapes: q (n × heads · width), memory (m × 2 · heads · width) with all keys, then all values; both ragged with as many sequences;
//! o (n × heads · width).
//! Way back: the weights are computed again from the logarithm of each softmax's sum; dv = aᵀ do, da = do vᵀ,
//! ds = a ∘ (da − Σ a ∘ da), dq = scale · ds k, dk = scale · dsᵀ q.
//! Cost: 4 · (rows of a sequence) · (rows of its memory) · width · heads forwards, 10 backwards; memory one head's weights.
//! Source: Vaswani et al., NeurIPS 2017, arXiv:1706.03762.

use crate::Ragged;
use crate::kernel::{self, Dropout, Layout};
use crate::tape::{Backward, Grads, Tape, Tensor, Values, Var};
use std::ops::Range;
use std::sync::Arc;

/// Rows that are asked for, and the sequences they belong to.
pub type Rows<'a> = (Var, &'a Arc<Ragged>);

impl Tape<'_> {
    /// See `op/cross.rs`.
    pub fn cross_attention(
        &mut self,
        (q, own): Rows,
        (memory, read): Rows,
        heads: usize,
        dropout: f32,
    ) -> Var {
        let ((n, wide), (m, both)) = (self.shape(q), self.shape(memory));
        assert!(wide.is_multiple_of(heads) && both == 2 * wide, "{heads} heads of {wide}, memory of {both}");
        assert_eq!((n, m, own.len()), (own.rows(), read.rows(), read.len()), "rows and sequences");
        let drop = self.dropout(dropout);
        let mut out = self.zeroed(n * wide);
        let mut sums = self.take(n * heads);
        let mut job =
            Job { q, memory, own: own.clone(), read: read.clone(), heads, wide, drop, sums: Vec::new() };
        let values = self.values();
        let mut weights = Vec::new();
        job.each_head(|part| {
            job.scores(&values, part, &mut weights);
            let rows = weights.chunks_exact_mut(part.read.len());
            for (i, row) in part.own.clone().zip(rows) {
                sums[i * heads + part.head] = kernel::softmax(row, 1.0);
            }
            job.drop_out(part, &mut weights);
            let shape = (part.own.len(), part.width, part.read.len());
            let v = (&values.data(memory)[part.value(wide)..], Layout::rows_of(both));
            let into = (&mut out[part.query(wide)..], Layout::rows_of(wide));
            kernel::gemm(shape, 1.0, (&weights, Layout::rows_of(part.read.len())), v, 0.0, into);
        });
        job.sums = sums;
        let wanted = self.wants(q) || self.wants(memory);
        self.push(Tensor::new(n, wide, out), wanted, || Box::new(job))
    }
}

struct Job {
    q: Var,
    memory: Var,
    own: Arc<Ragged>,
    read: Arc<Ragged>,
    heads: usize,
    wide: usize,
    drop: Option<Dropout>,
    /// Logarithm of each softmax's sum (row × head).
    sums: Vec<f32>,
}

/// One head of one sequence.
struct Part {
    own: Range<usize>,
    read: Range<usize>,
    head: usize,
    width: usize,
}

impl Part {
    fn query(&self, wide: usize) -> usize {
        self.own.start * wide + self.head * self.width
    }

    fn key(&self, wide: usize) -> usize {
        self.read.start * 2 * wide + self.head * self.width
    }

    fn value(&self, wide: usize) -> usize {
        self.key(wide) + wide
    }
}

impl Job {
    fn each_head(&self, mut f: impl FnMut(&Part)) {
        let width = self.wide / self.heads;
        let sequences = self.own.iter().zip(self.read.iter());
        for (own, read) in sequences.filter(|(own, read)| !own.is_empty() && !read.is_empty()) {
            for head in 0..self.heads {
                f(&Part { own: own.clone(), read: read.clone(), head, width });
            }
        }
    }

    /// Raw scores (own × read).
    fn scores(&self, values: &Values, part: &Part, scores: &mut Vec<f32>) {
        let shape = (part.own.len(), part.read.len(), part.width);
        scores.resize(shape.0 * shape.1, 0.0);
        let q = (&values.data(self.q)[part.query(self.wide)..], Layout::rows_of(self.wide));
        let k =
            (&values.data(self.memory)[part.key(self.wide)..], Layout::rows_of(2 * self.wide).transposed());
        let scale = 1.0 / (part.width as f32).sqrt();
        kernel::gemm(shape, scale, q, k, 0.0, (scores, Layout::rows_of(shape.1)));
    }

    /// Drops weights, or their gradients, at the same places each time.
    fn drop_out(&self, part: &Part, weights: &mut [f32]) {
        let Some(drop) = self.drop else { return };
        for (i, row) in part.own.clone().zip(weights.chunks_exact_mut(part.read.len())) {
            let row_of_all = (i * self.heads + part.head) as u32;
            kernel::drop_out(row, drop, row_of_all.wrapping_mul(0x85eb_ca6b));
        }
    }
}

impl Backward for Job {
    fn backward(self: Box<Self>, _: &Tensor, dy: &mut [f32], values: &Values, grads: &mut Grads) {
        let wide = self.wide;
        let (at, memory_at) = (Layout::rows_of(wide), Layout::rows_of(2 * wide));
        let (q, memory) = (values.data(self.q), values.data(self.memory));
        let (mut weights, mut dropped, mut ds) = (Vec::new(), Vec::new(), Vec::new());
        // Both are gathered whole before they are added: one may be the other.
        let mut dq = grads.workspace.zeroed(q.len());
        let mut dmemory = grads.workspace.zeroed(memory.len());
        self.each_head(|part| {
            let (rows, keys) = (part.own.len(), part.read.len());
            self.scores(values, part, &mut weights);
            for (i, row) in part.own.clone().zip(weights.chunks_exact_mut(keys)) {
                kernel::softmax_again(row, 1.0, self.sums[i * self.heads + part.head]);
            }
            dropped.clone_from(&weights);
            self.drop_out(part, &mut dropped);
            let tile = Layout::rows_of(keys);
            let dout = (&dy[part.query(wide)..], at);
            let dv = (&mut dmemory[part.value(wide)..], memory_at);
            kernel::gemm((keys, part.width, rows), 1.0, (&dropped, tile.transposed()), dout, 0.0, dv);
            ds.resize(rows * keys, 0.0);
            let v = (&memory[part.value(wide)..], memory_at.transposed());
            kernel::gemm((rows, keys, part.width), 1.0, dout, v, 0.0, (&mut ds, tile));
            self.drop_out(part, &mut ds);
            for (weights, ds) in weights.chunks_exact(keys).zip(ds.chunks_exact_mut(keys)) {
                kernel::softmax_back(weights, ds);
            }
            let scale = 1.0 / (part.width as f32).sqrt();
            let k = (&memory[part.key(wide)..], memory_at);
            let into = (&mut dq[part.query(wide)..], at);
            kernel::gemm((rows, part.width, keys), scale, (&ds, tile), k, 0.0, into);
            let own = (&q[part.query(wide)..], at);
            let dk = (&mut dmemory[part.key(wide)..], memory_at);
            kernel::gemm((keys, part.width, rows), scale, (&ds, tile.transposed()), own, 0.0, dk);
        });
        for (var, d) in [(self.q, dq), (self.memory, dmemory)] {
            if grads.wants(var) {
                grads.add(var, &d);
            }
            grads.workspace.give(d);
        }
        grads.workspace.give(self.sums);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{M, check, dot, softmax};

    fn plain(own: &Ragged, read: &Ragged, heads: usize, v: &[M]) -> M {
        let (q, memory) = (&v[0], &v[1]);
        let (wide, width) = (q.cols, q.cols / heads);
        let mut out = M::zeros(q.rows, wide);
        for (own, read) in own.iter().zip(read.iter()).filter(|(_, read)| !read.is_empty()) {
            for (i, head) in own.flat_map(|i| (0..heads).map(move |head| (i, head))) {
                let from = head * width;
                let score = |j: usize| {
                    let key = &memory.row(j)[from..from + width];
                    dot(&q.row(i)[from..from + width], key) / (width as f64).sqrt()
                };
                let weights = softmax(&read.clone().map(score).collect::<Vec<_>>());
                for (j, a) in read.clone().zip(weights) {
                    for c in from..from + width {
                        out.data[i * wide + c] += a * memory.at(j, wide + c);
                    }
                }
            }
        }
        out
    }

    #[test]
    fn forwards_and_back() {
        let cases: [(&[usize], &[usize]); 5] =
            [(&[], &[]), (&[1], &[1]), (&[2, 0, 3], &[4, 2, 1]), (&[2, 1], &[0, 70]), (&[50], &[3])];
        for (own, read) in cases {
            let ragged = |lengths: &[usize]| Arc::new(Ragged::of(lengths.iter().copied()));
            let (own, read) = (ragged(own), ragged(read));
            for (heads, width) in [(1, 4), (3, 2)] {
                let wide = heads * width;
                check(
                    &[(own.rows(), wide), (read.rows(), 2 * wide)],
                    17,
                    |tape, v| tape.cross_attention((v[0], &own), (v[1], &read), heads, 0.0),
                    |v| plain(&own, &read, heads, v),
                );
            }
        }
    }

    #[test]
    fn dropped_weights_are_the_same_on_the_way_back() {
        use crate::params::{Init, Params};
        use crate::tape::{ParamGrads, Workspace};
        let mut params = Params::new(1);
        let q = params.add("q", 1, 2, Init::Normal(1.0));
        let memory = params.add("memory", 6, 4, Init::Normal(1.0));
        let (own, read) = (Arc::new(Ragged::of([1])), Arc::new(Ragged::of([6])));
        let rng = sommelier_core::Rng::new(5);
        let mut tape = Tape::training(&params, rng, Workspace::default());
        let y = tape.cross_attention((q.into(), &own), (memory.into(), &read), 1, 0.5);
        let out = tape.data(y)[0];
        let mut grads = ParamGrads::default();
        grads.clear(&params);
        tape.backward_from(y, &[1.0, 0.0], &mut grads);
        // The output is linear in the values, so their gradient tells which weights were used.
        let used: Vec<f32> = (0..6).map(|j| grads.dense(memory).unwrap()[j * 4 + 2]).collect();
        let again: f32 = (0..6).map(|j| used[j] * params.get(memory).value[j * 4 + 2]).sum();
        assert!((out - again).abs() < 1e-5);
        assert!(used.contains(&0.0) && used.iter().any(|w| *w != 0.0), "{used:?}");
    }
}

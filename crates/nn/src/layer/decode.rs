//! A causal stack read a piece at a time, and many continuations of one beginning together.
//!
//! What was read stays as keys and values ([`Memory`]); what comes next attends to them without reading them again. Continuations
//! ([`Branches`]) share the memory and keep only their own rows, so that a beam of B costs one more row each and no copy of what
//! all have in common.
//!
//! Shapes: x (n × dim) in and out, keys and values (rows × dim) a block. Cost: a row of n reads O(dim² + rows · dim) a block.
//! Biases are numbers by distance (heads × distances), as [`crate::op::Buckets::Places`] has them.

use super::transformer::{Block, Dense, Norm, Order, Transformer};
use crate::kernel::{self, Activation, Layout};
use crate::op::EPSILON;
use crate::params::{ParamId, Params};

/// Keys and values of rows, for one block.
#[derive(Debug, Clone, Default)]
struct Store {
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl Store {
    /// Takes the keys and values out of rows of queries, keys and values side by side.
    fn append(&mut self, qkv: &[f32], dim: usize) {
        for row in qkv.chunks_exact(3 * dim) {
            self.keys.extend_from_slice(&row[dim..2 * dim]);
            self.values.extend_from_slice(&row[2 * dim..]);
        }
    }
}

/// What was read so far.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    rows: usize,
    blocks: Vec<Store>,
    /// Of a decoder, what its encoder read.
    beside: Vec<Store>,
}

impl Memory {
    pub fn rows(&self) -> usize {
        self.rows
    }
}

/// Continuations of one memory, each with the rows that are its own.
#[derive(Debug, Clone, Default)]
pub struct Branches {
    blocks: Vec<Store>,
    rows: usize,
    /// The own rows of each branch, oldest first.
    paths: Vec<Vec<u32>>,
}

impl Branches {
    /// So many, with nothing of their own yet.
    pub fn new(count: usize) -> Branches {
        Branches { paths: vec![Vec::new(); count], ..Branches::default() }
    }

    pub fn len(&self) -> usize {
        self.paths.len()
    }

    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// Goes on with these branches; one may be named several times, and then parts.
    pub fn keep(&mut self, which: &[usize]) {
        self.paths = which.iter().map(|&b| self.paths[b].clone()).collect();
    }
}

impl Transformer {
    /// The memory of a decoder that has read nothing yet, beside the rows that its encoder read (rows × dim).
    pub fn beside(&self, params: &Params, read: &[f32]) -> Memory {
        let dim = self.config.dim;
        let mut both = vec![0f32; 2 * read.len()];
        let store = |block: &Block| {
            let mut store = Store::default();
            if let Some(cross) = block.cross {
                dense(params, cross.memory, read, &mut both, Activation::Identity);
                for row in both.chunks_exact(2 * dim) {
                    store.keys.extend_from_slice(&row[..dim]);
                    store.values.extend_from_slice(&row[dim..]);
                }
            }
            store
        };
        Memory { beside: self.blocks.iter().map(store).collect(), ..Memory::default() }
    }

    /// Reads `x` behind what the memory holds. `biases`: one parameter a block, or none.
    ///
    /// Panics unless the stack is causal with its norms first: others cannot be read a piece at a time.
    pub fn read(&self, params: &Params, x: Vec<f32>, memory: &mut Memory, biases: &[ParamId]) -> Vec<f32> {
        let (dim, heads) = (self.config.dim, self.config.heads);
        let start = memory.rows;
        let n = x.len() / dim;
        memory.rows += n;
        memory.blocks.resize_with(self.blocks.len(), Store::default);
        if n == 0 {
            return x;
        }
        let all = memory.rows;
        let mut scores = vec![0f32; n * all];
        let Memory { blocks, beside, .. } = memory;
        self.rows(params, x, beside, |b, qkv, out| {
            let store = &mut blocks[b];
            store.append(qkv, dim);
            let numbers = biases.get(b).map(|&bias| Numbers::of(params, bias));
            for head in 0..heads {
                let head = self.head(head);
                head.scores((qkv, 3 * dim), &store.keys, all, &mut scores, all);
                for (r, row) in scores.chunks_exact_mut(all).enumerate() {
                    let (seen, hidden) = row.split_at_mut(start + r + 1);
                    if let Some(numbers) = &numbers {
                        numbers.add(head.number, start + r, seen);
                    }
                    kernel::softmax(seen, 1.0);
                    hidden.fill(0.0);
                }
                head.spread(&scores, all, &store.values, all, out);
            }
        })
    }

    /// One more row for each branch (branches × dim), behind the memory and its own rows.
    pub fn branch(
        &self,
        params: &Params,
        x: Vec<f32>,
        memory: &Memory,
        branches: &mut Branches,
        biases: &[ParamId],
    ) -> Vec<f32> {
        let (dim, heads) = (self.config.dim, self.config.heads);
        let n = branches.len();
        assert_eq!(x.len(), n * dim, "a row for each of {n} branches");
        branches.blocks.resize_with(self.blocks.len(), Store::default);
        for (b, path) in branches.paths.iter_mut().enumerate() {
            path.push((branches.rows + b) as u32);
        }
        branches.rows += n;
        let longest = branches.paths.iter().map(Vec::len).max().unwrap_or(0);
        let (shared, wide) = (memory.rows, memory.rows + longest);
        let mut scores = vec![0f32; n * wide];
        let Branches { blocks, paths, .. } = branches;
        self.rows(params, x, &memory.beside, |b, qkv, out| {
            let own = &mut blocks[b];
            own.append(qkv, dim);
            let store = memory.blocks.get(b);
            let numbers = biases.get(b).map(|&bias| Numbers::of(params, bias));
            for head in 0..heads {
                let head = self.head(head);
                if let Some(store) = store.filter(|_| shared > 0) {
                    head.scores((qkv, 3 * dim), &store.keys, shared, &mut scores, wide);
                }
                let rows = scores.chunks_exact_mut(wide).zip(&*paths).zip(qkv.chunks_exact(3 * dim));
                for ((row, path), qkv) in rows {
                    let query = &qkv[head.from..][..head.width];
                    for (score, &slot) in row[shared..].iter_mut().zip(path) {
                        let key = &own.keys[slot as usize * dim + head.from..][..head.width];
                        *score = head.scale * kernel::dot(query, key);
                    }
                    let (seen, hidden) = row.split_at_mut(shared + path.len());
                    if let Some(numbers) = &numbers {
                        numbers.add(head.number, seen.len() - 1, seen);
                    }
                    kernel::softmax(seen, 1.0);
                    hidden.fill(0.0);
                }
                head.spread(&scores, wide, store.map_or(&[], |store| &store.values), shared, out);
                for ((row, path), out) in
                    scores.chunks_exact(wide).zip(&*paths).zip(out.chunks_exact_mut(dim))
                {
                    for (&weight, &slot) in row[shared..].iter().zip(path) {
                        let value = &own.values[slot as usize * dim + head.from..][..head.width];
                        kernel::axpy(weight, value, &mut out[head.from..][..head.width]);
                    }
                }
            }
        })
    }

    /// Attention of queries (n × dim) to all rows of a store.
    fn attend_beside(&self, queries: &[f32], store: &Store, out: &mut [f32]) {
        let dim = self.config.dim;
        let (n, all) = (queries.len() / dim, store.keys.len() / dim);
        if all == 0 {
            return out.fill(0.0);
        }
        let mut scores = vec![0f32; n * all];
        for head in 0..self.config.heads {
            let head = self.head(head);
            head.scores((queries, dim), &store.keys, all, &mut scores, all);
            scores.chunks_exact_mut(all).for_each(|row| {
                kernel::softmax(row, 1.0);
            });
            head.spread(&scores, all, &store.values, all, out);
        }
    }

    fn head(&self, number: usize) -> Head {
        let width = self.config.dim / self.config.heads;
        Head { number, from: number * width, width, dim: self.config.dim, scale: 1.0 / (width as f32).sqrt() }
    }

    /// All blocks; `attend` is told the block, its queries, keys and values (n × 3 dim) and where the answers go.
    fn rows(
        &self,
        params: &Params,
        mut x: Vec<f32>,
        beside: &[Store],
        mut attend: impl FnMut(usize, &[f32], &mut [f32]),
    ) -> Vec<f32> {
        assert!(self.config.causal && self.config.order == Order::NormFirst, "a causal stack, norms first");
        let (dim, n) = (self.config.dim, x.len() / self.config.dim);
        let mut y = vec![0f32; n * dim];
        let mut qkv = vec![0f32; n * 3 * dim];
        let mut inner = vec![0f32; n * self.config.inner];
        for (b, Block { norms, qkv: to_qkv, out, wide, narrow, cross }) in self.blocks.iter().enumerate() {
            normed(params, norms[0], &x, dim, &mut y);
            dense(params, *to_qkv, &y, &mut qkv, Activation::Identity);
            attend(b, &qkv, &mut y);
            add_dense(params, *out, &y, &mut x);
            if let Some(cross) = cross {
                let queries = &mut qkv[..n * dim];
                normed(params, cross.norm, &x, dim, &mut y);
                dense(params, cross.query, &y, queries, Activation::Identity);
                self.attend_beside(queries, &beside[b], &mut y);
                add_dense(params, cross.out, &y, &mut x);
            }
            normed(params, norms[1], &x, dim, &mut y);
            dense(params, *wide, &y, &mut inner, self.config.activation);
            add_dense(params, *narrow, &inner, &mut x);
        }
        if let Some(norm) = self.last_norm {
            normed(params, norm, &x, dim, &mut y);
            return y;
        }
        x
    }
}

/// One head of attention.
#[derive(Clone, Copy)]
struct Head {
    number: usize,
    /// First column of its own.
    from: usize,
    width: usize,
    dim: usize,
    scale: f32,
}

impl Head {
    /// Products of all queries, in rows of some width, with the first `count` keys, into rows that are `stride` apart.
    fn scores(
        self,
        (queries, width): (&[f32], usize),
        keys: &[f32],
        count: usize,
        into: &mut [f32],
        stride: usize,
    ) {
        let n = queries.len() / width;
        let queries = (&queries[self.from..], Layout::rows_of(width));
        let keys = (&keys[self.from.min(keys.len())..], Layout::rows_of(self.dim).transposed());
        kernel::gemm((n, count, self.width), self.scale, queries, keys, 0.0, (into, Layout::rows_of(stride)));
    }

    /// out ← the sums of the first `count` values by weights whose rows are `stride` apart.
    fn spread(self, weights: &[f32], stride: usize, values: &[f32], count: usize, out: &mut [f32]) {
        let n = out.len() / self.dim;
        let into = (&mut out[self.from..], Layout::rows_of(self.dim));
        let values = (&values[self.from.min(values.len())..], Layout::rows_of(self.dim));
        kernel::gemm((n, self.width, count), 1.0, (weights, Layout::rows_of(stride)), values, 0.0, into);
    }
}

/// What distances add to the scores of one block.
struct Numbers<'a> {
    table: &'a [f32],
    count: usize,
}

impl<'a> Numbers<'a> {
    fn of(params: &'a Params, bias: ParamId) -> Numbers<'a> {
        let param = params.get(bias);
        Numbers { table: &param.value, count: param.cols }
    }

    /// Adds to the scores of the row at place `at` with the rows from 0 on.
    fn add(&self, head: usize, at: usize, scores: &mut [f32]) {
        let table = &self.table[(head * self.count) % self.table.len()..][..self.count];
        for (j, score) in scores.iter_mut().enumerate() {
            *score += table[at.saturating_sub(j).min(self.count - 1)];
        }
    }
}

fn normed(params: &Params, norm: Norm, x: &[f32], dim: usize, y: &mut [f32]) {
    let (gain, bias) = (&params.get(norm.gain).value, &params.get(norm.bias).value);
    for (x, y) in x.chunks_exact(dim).zip(y.chunks_exact_mut(dim)) {
        kernel::layer_norm(x, gain, bias, y, EPSILON);
    }
}

/// y ← f(x Wᵀ + b)
fn dense(params: &Params, layer: Dense, x: &[f32], y: &mut [f32], f: Activation) {
    product(params, layer, x, 0.0, y);
    kernel::bias_activate(y, &params.get(layer.bias).value, &mut [], f);
}

/// y ← y + x Wᵀ + b
fn add_dense(params: &Params, layer: Dense, x: &[f32], y: &mut [f32]) {
    product(params, layer, x, 1.0, y);
    kernel::bias_activate(y, &params.get(layer.bias).value, &mut [], Activation::Identity);
}

fn product(params: &Params, layer: Dense, x: &[f32], beta: f32, y: &mut [f32]) {
    let weight = params.get(layer.weight);
    let (outer, inner) = (weight.rows, weight.cols);
    let at = Layout::rows_of(inner);
    let weight = (&weight.value[..], at.transposed());
    kernel::gemm((x.len() / inner, outer, inner), 1.0, (x, at), weight, beta, (y, Layout::rows_of(outer)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::TransformerConfig;
    use crate::op::{Bias, Buckets};
    use crate::params::Init;
    use crate::tape::Workspace;
    use crate::{Ragged, Tape, Tensor};
    use sommelier_core::Rng;
    use std::sync::Arc;

    const DIM: usize = 12;

    fn stack(blocks: usize) -> (Params, Transformer, Vec<ParamId>) {
        let mut params = Params::new(3);
        let config = TransformerConfig {
            dim: DIM,
            blocks,
            heads: 3,
            inner: 20,
            activation: Activation::Gelu,
            dropout: 0.3,
            causal: true,
            order: Order::NormFirst,
            init: Init::Normal(0.4),
        };
        let stack = Transformer::new(&mut params, "s.", config);
        let biases =
            (0..blocks).map(|b| params.add(&format!("by_place.{b}"), 3, 5, Init::Normal(0.5))).collect();
        (params, stack, biases)
    }

    fn numbers(rows: usize, seed: u64) -> Vec<f32> {
        let mut rng = Rng::new(seed);
        (0..rows * DIM).map(|_| rng.normal() as f32).collect()
    }

    /// As training reads it.
    fn on_tape(params: &Params, stack: &Transformer, biases: &[ParamId], x: &[f32]) -> Vec<f32> {
        let mut tape = Tape::answering(params, Workspace::default());
        let rows = x.len() / DIM;
        let x = tape.constant(Tensor::new(rows, DIM, x.to_vec()));
        let by_place =
            |b: usize| vec![Bias::Numbers { of: biases[b].into(), buckets: Buckets::Places { count: 5 } }];
        let y = stack.run(&mut tape, x, &Arc::new(Ragged::of([rows])), &by_place, false);
        tape.data(y).to_vec()
    }

    fn near(a: &[f32], b: &[f32]) {
        assert_eq!(a.len(), b.len());
        a.iter().zip(b).for_each(|(a, b)| assert!((a - b).abs() < 2e-5, "{a} and {b}"));
    }

    #[test]
    fn pieces_add_up_to_the_whole() {
        for blocks in [1, 3] {
            let (params, stack, biases) = stack(blocks);
            let x = numbers(9, 4);
            let whole = on_tape(&params, &stack, &biases, &x);
            for cuts in [vec![9], vec![1, 8], vec![4, 1, 1, 3]] {
                let (mut memory, mut found, mut from) = (Memory::default(), Vec::new(), 0);
                for rows in cuts {
                    let piece = x[from * DIM..(from + rows) * DIM].to_vec();
                    found.extend(stack.read(&params, piece, &mut memory, &biases));
                    from += rows;
                    assert_eq!(memory.rows(), from);
                }
                near(&found, &whole);
            }
        }
    }

    #[test]
    fn a_decoder_writes_beside_what_was_read() {
        let (_, model, _) = stack(2);
        let mut params = Params::new(8);
        let decoder = Transformer::decoder(&mut params, "d.", model.config.clone());
        let biases: Vec<ParamId> =
            (0..2).map(|b| params.add(&format!("by_place.{b}"), 3, 5, Init::Normal(0.5))).collect();
        for read in [0, 1, 7] {
            let (m, x) = (numbers(read, 5), numbers(3, 6));
            let mut tape = Tape::answering(&params, Workspace::default());
            let on_tape = {
                let rows = tape.constant(Tensor::new(3, DIM, x.clone()));
                let memory = tape.constant(Tensor::new(read, DIM, m.clone()));
                let by_place = |b: usize| {
                    vec![Bias::Numbers { of: biases[b].into(), buckets: Buckets::Places { count: 5 } }]
                };
                let (own, read) = (Arc::new(Ragged::of([3])), Arc::new(Ragged::of([read])));
                let y = decoder.run_beside(&mut tape, (rows, &own), (memory, &read), &by_place);
                tape.data(y).to_vec()
            };
            let memory = decoder.beside(&params, &m);
            let mut branches = Branches::new(1);
            let row = |r: usize| x[r * DIM..(r + 1) * DIM].to_vec();
            let found: Vec<f32> = (0..3)
                .flat_map(|r| decoder.branch(&params, row(r), &memory, &mut branches, &biases))
                .collect();
            near(&found, &on_tape);
        }
    }

    #[test]
    fn branches_are_as_if_each_were_read_alone() {
        let (params, stack, biases) = stack(2);
        for beginning in [0, 1, 6] {
            let x = numbers(beginning, 5);
            let mut memory = Memory::default();
            stack.read(&params, x.clone(), &mut memory, &biases);
            // Two steps of three branches; the second goes on from the last, the first, and the last again.
            let (first, second) = (numbers(3, 6), numbers(3, 7));
            let mut branches = Branches::new(3);
            let found = stack.branch(&params, first.clone(), &memory, &mut branches, &biases);
            let row = |x: &[f32], r: usize| x[r * DIM..(r + 1) * DIM].to_vec();
            let last = |x: &[f32]| {
                let all = on_tape(&params, &stack, &biases, x);
                all[all.len() - DIM..].to_vec()
            };
            for b in 0..3 {
                near(&row(&found, b), &last(&[x.clone(), row(&first, b)].concat()));
            }
            branches.keep(&[2, 0, 2]);
            let found = stack.branch(&params, second.clone(), &memory, &mut branches, &biases);
            for (b, from) in [2, 0, 2].into_iter().enumerate() {
                near(&row(&found, b), &last(&[x.clone(), row(&first, from), row(&second, b)].concat()));
            }
        }
    }
}

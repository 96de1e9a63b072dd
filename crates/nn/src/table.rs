//! Embedding tables: rows under 64-bit keys that come and go while a model learns.
//!
//! No two keys share a row. A key gets its row when it has been asked for often enough, and loses it when it has not been
//! learned from for long, so that training never needs the vocabulary in advance and memory follows what is in use.
//! The state of the optimiser lies beside the rows; only rows with a gradient are touched by a step.
//!
//! Shapes: rows (slots × D); a slot is a place in the table, given again when its key is dropped.
//! Source: Liu et al., "Monolith: Real Time Recommendation System With Collisionless Embedding Table", ORSUM 2022,
//! arXiv:2209.07663.
//! Departures: one hash map with chains out of sight instead of a cuckoo table; rare keys are counted exactly, not in a
//! probabilistic filter, until they are admitted or forgotten with [`Table::expire`].

use crate::LoadError;
use crate::kernel;
use crate::optim::RowStep;
use crate::params::name_hash;
use crate::weights::{Mapped, Outgoing};
use rayon::prelude::*;
use sommelier_core::Rng;
use std::borrow::Cow;
use std::collections::HashMap;

/// `width` numbers for each slot; none before the first step.
#[derive(Debug, Clone, Default, PartialEq)]
struct State {
    width: usize,
    data: Vec<f32>,
}

impl State {
    /// Begins at 0 for each of `slots`, where the width is new.
    fn need(&mut self, width: usize, slots: usize) {
        if self.width != width {
            *self = State { width, data: vec![0.0; slots * width] };
        }
    }

    /// A new row begins at 0.
    fn make(&mut self, slot: usize) {
        let end = (slot + 1) * self.width;
        if self.data.len() < end {
            self.data.resize(end, 0.0);
        }
        self.data[end - self.width..end].fill(0.0);
    }
}

/// A growing table of rows.
#[derive(Debug, Clone)]
pub struct Table {
    name: String,
    dim: usize,
    /// Standard deviation of a new row.
    deviation: f32,
    seed: u64,
    slots: HashMap<u64, u32>,
    /// `None` where a slot is free.
    keys: Vec<Option<u64>>,
    free: Vec<u32>,
    rows: Vec<f32>,
    /// What the optimiser keeps for each row: both moments (Adam), or one sum of squares (Adagrad).
    first: State,
    second: State,
    /// Step at which a row was last learned from, or made.
    touched: Vec<u64>,
    /// How often a key must be asked for before it gets a row.
    admit_after: u32,
    waiting: HashMap<u64, u32>,
    /// Its learning rate is the common one times this.
    pub rate: f32,
}

impl Table {
    /// An empty table whose new rows are normal with this standard deviation.
    pub fn new(name: &str, dim: usize, deviation: f32, seed: u64) -> Table {
        Table {
            name: name.to_owned(),
            dim,
            deviation,
            seed: seed ^ name_hash(name),
            slots: HashMap::new(),
            keys: Vec::new(),
            free: Vec::new(),
            rows: Vec::new(),
            first: State::default(),
            second: State::default(),
            touched: Vec::new(),
            admit_after: 1,
            waiting: HashMap::new(),
            rate: 1.0,
        }
    }

    /// A table that already has the keys 0 to `count` − 1, key k in slot k.
    pub fn of_range(name: &str, count: usize, dim: usize, deviation: f32, seed: u64) -> Table {
        let mut table = Table::new(name, dim, deviation, seed);
        for key in 0..count as u64 {
            table.admit(key);
        }
        table
    }

    /// Keys get a row the `times`-th time they are asked for (1: at once).
    pub fn admitting_after(mut self, times: u32) -> Table {
        self.admit_after = times.max(1);
        self
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Keys that have a row.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Slots, free ones included: the height of [`Self::rows`].
    pub fn height(&self) -> usize {
        self.keys.len()
    }

    /// All rows by slot; those of free slots are 0.
    pub fn rows(&self) -> &[f32] {
        &self.rows
    }

    pub fn rows_mut(&mut self) -> &mut [f32] {
        &mut self.rows
    }

    pub fn row(&self, slot: u32) -> &[f32] {
        &self.rows[slot as usize * self.dim..][..self.dim]
    }

    /// Slots without a key, ascending.
    pub fn free_slots(&self) -> Vec<u32> {
        let mut free = self.free.clone();
        free.sort_unstable();
        free
    }

    /// The slot of a key that has one.
    pub fn slot(&self, key: u64) -> Option<u32> {
        self.slots.get(&key).copied()
    }

    pub fn key(&self, slot: u32) -> Option<u64> {
        self.keys.get(slot as usize).copied().flatten()
    }

    /// The slot of a key, counting the question: a key asked for often enough gets a row, drawn from the seed and the
    /// key alone. `None` while it waits.
    pub fn ask(&mut self, key: u64, step: u64) -> Option<u32> {
        if let Some(&slot) = self.slots.get(&key) {
            return Some(slot);
        }
        if self.admit_after > 1 {
            let count = self.waiting.entry(key).or_insert(0);
            *count += 1;
            if *count < self.admit_after {
                return None;
            }
            self.waiting.remove(&key);
        }
        let slot = self.admit(key);
        self.touched[slot as usize] = step;
        Some(slot)
    }

    fn admit(&mut self, key: u64) -> u32 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.keys.push(None);
            self.touched.push(0);
            self.rows.resize(self.rows.len() + self.dim, 0.0);
            self.keys.len() as u32 - 1
        });
        let at = slot as usize;
        let mut rng = Rng::stream(self.seed, key);
        for w in &mut self.rows[at * self.dim..][..self.dim] {
            *w = rng.normal() as f32 * self.deviation;
        }
        self.first.make(at);
        self.second.make(at);
        self.keys[at] = Some(key);
        self.slots.insert(key, slot);
        slot
    }

    /// Drops keys not learned from since step `before`, and all counts of keys that still wait. Returns how many rows
    /// became free.
    pub fn expire(&mut self, before: u64) -> usize {
        self.waiting.clear();
        let mut dropped = 0;
        for slot in 0..self.keys.len() {
            if self.touched[slot] < before
                && let Some(key) = self.keys[slot].take()
            {
                self.slots.remove(&key);
                self.free.push(slot as u32);
                self.rows[slot * self.dim..][..self.dim].fill(0.0);
                dropped += 1;
            }
        }
        dropped
    }

    /// Bytes of rows and state.
    pub fn bytes(&self) -> usize {
        (self.rows.len() + self.first.data.len() + self.second.data.len()) * 4 + self.keys.len() * 40
    }
}

impl Table {
    /// One step of the optimiser on the rows that have a gradient. Runs on the current rayon pool; the result does not
    /// depend on its size.
    pub(crate) fn learn(&mut self, grads: &RowGrads, step: &RowStep, now: u64) {
        let (first, second) = step.widths(self.dim);
        self.first.need(first, self.keys.len());
        self.second.need(second, self.keys.len());
        let all = Part {
            from: 0,
            rows: &mut self.rows,
            first: &mut self.first.data,
            second: &mut self.second.data,
            touched: &mut self.touched,
        };
        let widths = [self.dim, first, second];
        if let Some(dense) = grads.all() {
            all.learn_all(widths, dense, step, now);
        } else {
            let mut order: Vec<(u32, u32)> =
                grads.slots.iter().zip(0..).map(|(&slot, at)| (slot, at)).collect();
            order.par_sort_unstable();
            all.learn_some(widths, &order, &grads.rows, step, now);
        }
    }
}

impl Table {
    /// Everything, for a checkpoint, under names that begin with the table's.
    pub(crate) fn put_all<'a>(&'a self, to: &mut Outgoing<'a>) {
        let name = |part: &str| format!("table/{}/{part}", self.name);
        let slots = self.keys.len();
        to.f32(&name("rows"), &[slots, self.dim], &self.rows);
        for (part, state) in [("first", &self.first), ("second", &self.second)] {
            to.f32(&name(part), &[state.data.len() / state.width.max(1), state.width], &state.data);
        }
        to.u64(&name("touched"), &[slots], Cow::Borrowed(&self.touched));
        to.u64(&name("keys"), &[slots], self.keys.iter().map(|k| k.unwrap_or(0)).collect());
        to.u32(&name("free"), &[self.free.len()], &self.free);
        let mut waiting: Vec<(u64, u32)> = self.waiting.iter().map(|(&k, &n)| (k, n)).collect();
        waiting.sort_unstable();
        let pairs = waiting.iter().flat_map(|&(key, count)| [key, u64::from(count)]).collect();
        to.u64(&name("waiting"), &[waiting.len(), 2], pairs);
    }

    /// What [`Self::put_all`] put.
    pub(crate) fn take_all(&mut self, from: &Mapped) -> Result<(), LoadError> {
        let name = |part: &str| format!("table/{}/{part}", self.name);
        let matrix = |part: &str| -> Result<(usize, usize, &[f32]), LoadError> {
            match from.f32(&name(part))? {
                (&[rows, cols], data) => Ok((rows, cols, data)),
                (shape, _) => {
                    let (expected, received) = (vec![0, self.dim], shape.to_vec());
                    Err(LoadError::Shape { name: name(part), expected, received })
                }
            }
        };
        let state = |part: &str| matrix(part).map(|(_, width, data)| State { width, data: data.to_vec() });
        let (slots, dim, rows) = matrix("rows")?;
        let (first, second) = (state("first")?, state("second")?);
        let column = |part: &str| from.u64(&name(part)).map(|(_, data)| data);
        let (touched, keys) = (column("touched")?, column("keys")?);
        let (_, free) = from.u32(&name("free"))?;
        let fits = |s: &State| s.data.len() == slots * s.width || s.data.is_empty();
        let sound =
            dim == self.dim && touched.len() == slots && keys.len() == slots && fits(&first) && fits(&second);
        if !sound || free.iter().any(|&f| f as usize >= slots) {
            return Err(LoadError::Other(format!("table {} does not fit together", self.name)));
        }
        let mut of_slots: Vec<Option<u64>> = keys.iter().copied().map(Some).collect();
        free.iter().for_each(|&f| of_slots[f as usize] = None);
        self.slots = of_slots.iter().zip(0..).filter_map(|(&key, slot)| key.map(|key| (key, slot))).collect();
        self.waiting = column("waiting")?.chunks_exact(2).map(|pair| (pair[0], pair[1] as u32)).collect();
        (self.keys, self.free) = (of_slots, free.to_vec());
        (self.rows, self.touched) = (rows.to_vec(), touched.to_vec());
        (self.first, self.second) = (first, second);
        Ok(())
    }
}

/// Rows from slot `from` on, with their state: what one thread works on.
struct Part<'a> {
    from: usize,
    rows: &'a mut [f32],
    first: &'a mut [f32],
    second: &'a mut [f32],
    touched: &'a mut [u64],
}

/// Rows that one thread takes at a time.
const GRAIN: usize = 512;

impl<'a> Part<'a> {
    fn split(self, at: usize, [dim, first, second]: [usize; 3]) -> (Part<'a>, Part<'a>) {
        let n = at - self.from;
        let (rows, rows_after) = self.rows.split_at_mut(n * dim);
        let (a, a_after) = self.first.split_at_mut(n * first);
        let (b, b_after) = self.second.split_at_mut(n * second);
        let (touched, touched_after) = self.touched.split_at_mut(n);
        (
            Part { from: self.from, rows, first: a, second: b, touched },
            Part { from: at, rows: rows_after, first: a_after, second: b_after, touched: touched_after },
        )
    }

    fn learn_all(self, widths: [usize; 3], grads: &[f32], step: &RowStep, now: u64) {
        let n = self.touched.len();
        if n > GRAIN {
            let middle = self.from + n / 2;
            let (grads, grads_after) = grads.split_at(n / 2 * widths[0]);
            let (a, b) = self.split(middle, widths);
            rayon::join(
                || a.learn_all(widths, grads, step, now),
                || b.learn_all(widths, grads_after, step, now),
            );
            return;
        }
        let [dim, first, second] = widths;
        for r in 0..n {
            self.touched[r] = now;
            let (a, b) = (&mut self.first[r * first..][..first], &mut self.second[r * second..][..second]);
            step.row(&mut self.rows[r * dim..][..dim], &grads[r * dim..][..dim], a, b);
        }
    }

    /// `order` is (slot, place in `grads`) by slot.
    fn learn_some(self, widths: [usize; 3], order: &[(u32, u32)], grads: &[f32], step: &RowStep, now: u64) {
        if order.len() > GRAIN {
            let (before, after) = order.split_at(order.len() / 2);
            let (a, b) = self.split(after[0].0 as usize, widths);
            rayon::join(
                || a.learn_some(widths, before, grads, step, now),
                || b.learn_some(widths, after, grads, step, now),
            );
            return;
        }
        let [dim, first, second] = widths;
        for (n, &(slot, at)) in order.iter().enumerate() {
            if let Some(&(next, _)) = order.get(n + 2) {
                let r = next as usize - self.from;
                kernel::prefetch(self.rows, r * dim, dim);
                kernel::prefetch(self.first, r * first, first);
                kernel::prefetch(self.second, r * second, second);
            }
            let r = slot as usize - self.from;
            self.touched[r] = now;
            let (a, b) = (&mut self.first[r * first..][..first], &mut self.second[r * second..][..second]);
            step.row(&mut self.rows[r * dim..][..dim], &grads[at as usize * dim..][..dim], a, b);
        }
    }
}

/// Gradients of some rows of a table, or of all of them.
#[derive(Debug, Clone, Default)]
pub struct RowGrads {
    dim: usize,
    /// Slots that have a gradient, in order of first touch, and their gradients.
    slots: Vec<u32>,
    rows: Vec<f32>,
    /// One more than the place of a slot in `slots`; 0 for none.
    place: Vec<u32>,
    /// Gradients of all rows, by slot, where an operation made them all at once.
    dense: Vec<f32>,
    is_dense: bool,
}

impl RowGrads {
    pub(crate) fn clear(&mut self, dim: usize) {
        for &slot in &self.slots {
            self.place[slot as usize] = 0;
        }
        self.dim = dim;
        self.slots.clear();
        self.rows.clear();
        self.is_dense = false;
    }

    /// The gradient of one row, to be added to.
    #[inline]
    pub fn row_mut(&mut self, slot: u32) -> &mut [f32] {
        let s = slot as usize;
        if self.is_dense {
            return &mut self.dense[s * self.dim..][..self.dim];
        }
        if self.place.len() <= s {
            self.place.resize((s + 1).next_power_of_two(), 0);
        }
        if self.place[s] == 0 {
            self.slots.push(slot);
            self.place[s] = self.slots.len() as u32;
            self.rows.resize(self.slots.len() * self.dim, 0.0);
        }
        &mut self.rows[(self.place[s] as usize - 1) * self.dim..][..self.dim]
    }

    /// The gradients of all `height` rows, and what to multiply them with before adding: 0 if they may hold anything.
    pub fn all_mut(&mut self, height: usize) -> (&mut [f32], f32) {
        if self.is_dense {
            return (&mut self.dense, 1.0);
        }
        self.is_dense = true;
        self.dense.resize(height * self.dim, 0.0);
        if self.slots.is_empty() {
            return (&mut self.dense, 0.0);
        }
        self.dense.fill(0.0);
        for (at, &slot) in self.slots.iter().enumerate() {
            self.place[slot as usize] = 0;
            self.dense[slot as usize * self.dim..][..self.dim]
                .copy_from_slice(&self.rows[at * self.dim..][..self.dim]);
        }
        self.slots.clear();
        self.rows.clear();
        (&mut self.dense, 1.0)
    }

    /// Gradients of all rows, where there are such.
    pub fn all(&self) -> Option<&[f32]> {
        self.is_dense.then_some(&self.dense[..])
    }

    /// Slots with their gradients, where not all rows have one.
    pub fn some(&self) -> impl Iterator<Item = (u32, &[f32])> {
        self.slots.iter().copied().zip(self.rows.chunks_exact(self.dim.max(1)))
    }

    /// Adds another's gradients to these.
    pub(crate) fn add(&mut self, other: &RowGrads) {
        if let Some(dense) = other.all() {
            let (mine, beta) = self.all_mut(dense.len() / self.dim.max(1));
            mine.par_chunks_mut(1 << 14).zip(dense.par_chunks(1 << 14)).for_each(|(mine, theirs)| {
                if beta == 0.0 {
                    mine.copy_from_slice(theirs);
                } else {
                    kernel::axpy(1.0, theirs, mine);
                }
            });
        } else {
            for (slot, row) in other.some() {
                kernel::axpy(1.0, row, self.row_mut(slot));
            }
        }
    }

    /// Σ of squares.
    pub(crate) fn square(&self) -> f64 {
        let data = if self.is_dense { &self.dense } else { &self.rows };
        data.chunks(1 << 12).map(|c| f64::from(kernel::dot(c, c))).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keys_get_rows_when_asked_often_enough_and_lose_them_when_idle() {
        let mut t = Table::new("t", 3, 0.1, 7).admitting_after(2);
        assert_eq!(t.ask(5, 1), None);
        assert_eq!(t.ask(9, 1), None);
        assert_eq!(t.ask(5, 2), Some(0));
        assert_eq!(t.ask(9, 3), Some(1));
        let row = t.row(0).to_vec();
        assert!(row.iter().all(|w| *w != 0.0) && row != t.row(1));
        assert_eq!(t.expire(3), 1, "key 5 was made at step 2 and never learned from");
        assert_eq!((t.slot(5), t.slot(9), t.len(), t.height()), (None, Some(1), 1, 2));
        assert_eq!(t.row(0), [0.0; 3]);
        assert_eq!(t.ask(5, 4), None, "it must be asked for twice again");
        assert_eq!(t.ask(5, 4), Some(0), "the free slot is used again");
        assert_eq!(t.row(0), row, "a key begins the same wherever and whenever");
        assert_eq!((t.key(0), t.key(7)), (Some(5), None));
    }

    proptest! {
        #[test]
        fn a_table_is_a_map(asked in prop::collection::vec((0u64..40, any::<bool>()), 0..200)) {
            let mut t = Table::new("t", 2, 1.0, 3);
            let mut model = std::collections::BTreeMap::new();
            for (step, (key, expire)) in asked.into_iter().enumerate() {
                let step = step as u64 + 1;
                t.ask(key, step);
                model.entry(key).or_insert(step);
                if expire && step.is_multiple_of(9) {
                    t.expire(step - 4);
                    model.retain(|_, made| *made >= step - 4);
                }
                prop_assert_eq!(t.len(), model.len());
                let mut slots: Vec<u32> = model.keys().map(|&k| t.slot(k).unwrap()).collect();
                for (&key, &slot) in model.keys().zip(&slots) {
                    prop_assert_eq!(t.key(slot), Some(key));
                }
                slots.sort_unstable();
                slots.dedup();
                prop_assert_eq!(slots.len(), model.len(), "no two keys share a row");
            }
        }

        #[test]
        fn gradients_add_up_however_they_are_kept(
            touches in prop::collection::vec((0u32..20, -2f32..2.0), 0..60), dense_after in 0usize..60,
        ) {
            let mut grads = RowGrads::default();
            grads.clear(2);
            let mut sum = vec![0f32; 40];
            for (n, &(slot, g)) in touches.iter().enumerate() {
                if n == dense_after {
                    let (all, beta) = grads.all_mut(20);
                    if beta == 0.0 {
                        all.fill(0.0);
                    }
                }
                grads.row_mut(slot)[1] += g;
                sum[slot as usize * 2 + 1] += g;
            }
            let mut twice = RowGrads::default();
            twice.clear(2);
            twice.add(&grads);
            twice.add(&grads);
            let mut found = [0f32; 40];
            for (slot, row) in twice.some() {
                found[slot as usize * 2..][..2].copy_from_slice(row);
            }
            if let Some(all) = twice.all() {
                found.copy_from_slice(all);
            }
            for (f, s) in found.iter().zip(&sum) {
                prop_assert!((f - 2.0 * s).abs() < 1e-4);
            }
            grads.clear(2);
            prop_assert_eq!(grads.some().count(), 0);
            prop_assert!(grads.all().is_none());
        }
    }
}

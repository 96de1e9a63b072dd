//! Rows of a table or of a matrix, with what the beginning of a sequence model adds to them.
//!
//! y_t = drop(scale · E[row_t] + P[place_t])
//!
//! Shapes: E a table or a matrix on the tape (V × d), P (places × d) or absent, y (n × d). A row of [`NO_ROW`] reads zeros.
//! Way back: the gradient of E is scattered to the rows that were read (that of a table has no others); dP likewise.

use crate::kernel::{self, Dropout};
use crate::loss::Items;
use crate::tape::{Backward, Grads, Tape, Tensor, Values, Var};
use std::sync::Arc;

/// The row of what has none: its vector is 0 and learns nothing.
pub const NO_ROW: u32 = u32::MAX;

/// What of an embedding is used beside the rows.
#[derive(Debug, Clone)]
pub struct Embed {
    /// Factor of the rows.
    pub scale: f32,
    /// A parameter with one row for each place, and the place of each token.
    pub places: Option<(Var, Arc<Vec<u32>>)>,
    /// Probability of dropping a number.
    pub dropout: f32,
}

impl Default for Embed {
    fn default() -> Embed {
        Embed { scale: 1.0, places: None, dropout: 0.0 }
    }
}

impl Tape<'_> {
    /// See `op/embed.rs`.
    pub fn embed(&mut self, items: Items, slots: Arc<Vec<u32>>, with: Embed) -> Var {
        let d = items.shape(&self.values()).1;
        let n = slots.len();
        let drop = self.dropout(with.dropout);
        let mut y = self.take(n * d);
        let rows = items.data(&self.values());
        let places = with.places.as_ref().map(|(p, at)| (self.data(*p), at));
        for (t, (&slot, y)) in slots.iter().zip(y.chunks_exact_mut(d.max(1))).enumerate() {
            match places {
                Some((p, at)) => y.copy_from_slice(&p[at[t] as usize * d..][..d]),
                None => y.fill(0.0),
            }
            if slot != NO_ROW {
                kernel::axpy(with.scale, &rows[slot as usize * d..][..d], y);
            }
        }
        if let Some(drop) = drop {
            kernel::drop_out(&mut y, drop, 0);
        }
        self.push(Tensor::new(n, d, y), true, || Box::new(Way { items, slots, with, drop }))
    }
}

struct Way {
    items: Items,
    slots: Arc<Vec<u32>>,
    with: Embed,
    drop: Option<Dropout>,
}

impl Backward for Way {
    fn backward(self: Box<Self>, y: &Tensor, dy: &mut [f32], _: &Values, grads: &mut Grads) {
        let d = y.cols;
        if let Some(drop) = self.drop {
            kernel::drop_out(dy, drop, 0);
        }
        if let Some((p, at)) = &self.with.places {
            let dp = grads.sum(*p);
            for (&place, dy) in at.iter().zip(dy.chunks_exact(d.max(1))) {
                kernel::axpy(1.0, dy, &mut dp[place as usize * d..][..d]);
            }
        }
        let uses = self.slots.iter().zip(dy.chunks_exact(d.max(1))).filter(|(slot, _)| **slot != NO_ROW);
        match self.items {
            Items::Table(table) => {
                let rows = grads.table(table);
                uses.for_each(|(&slot, dy)| kernel::axpy(self.with.scale, dy, rows.row_mut(slot)));
            }
            Items::Matrix(matrix) if grads.wants(matrix) => {
                let rows = grads.sum(matrix);
                uses.for_each(|(&slot, dy)| {
                    kernel::axpy(self.with.scale, dy, &mut rows[slot as usize * d..][..d]);
                });
            }
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
    use sommelier_core::Rng;

    #[test]
    fn forwards_and_back() {
        for dropout in [0.0, 0.3] {
            let mut params = Params::new(3);
            let table = params.add_table(Table::of_range("items", 4, 3, 1.0, 3));
            let places = params.add("places", 2, 3, Init::Normal(1.0));
            let slots = Arc::new(vec![2u32, NO_ROW, 2, 0]);
            let at = Arc::new(vec![0u32, 1, 1, 0]);
            let with = Embed { scale: 2.0, places: Some((places.into(), at.clone())), dropout };
            let mut tape = Tape::training(&params, Rng::new(1), Workspace::default());
            let y = tape.embed(Items::Table(table), slots.clone(), with);
            let drop = Dropout::new(dropout, Rng::new(1).next_u64() as u32);
            let factor =
                |t: usize, c: usize| if dropout > 0.0 { drop.factor((t * 3 + c) as u32) } else { 1.0 };
            let (rows, p) = (params.table(table).rows(), &params.get(places).value);
            for t in 0..4 {
                for c in 0..3 {
                    let row = if slots[t] == NO_ROW { 0.0 } else { rows[slots[t] as usize * 3 + c] };
                    let expected = (2.0 * row + p[at[t] as usize * 3 + c]) * factor(t, c);
                    assert!((tape.data(y)[t * 3 + c] - expected).abs() < 1e-6);
                }
            }
            // It is linear: the gradient is the sum of the weights of every use.
            let weights: Vec<f32> = (0..12).map(|i| i as f32 - 4.0).collect();
            let mut grads = ParamGrads::default();
            grads.clear(&params);
            tape.backward_from(y, &weights, &mut grads);
            let seen: Vec<u32> = grads.table(table).some().map(|(slot, _)| slot).collect();
            assert_eq!(seen, [2, 0], "only rows that were read");
            for (slot, row) in grads.table(table).some() {
                for c in 0..3 {
                    let used = (0..4).filter(|&t| slots[t] == slot);
                    let expected: f32 = used.map(|t| 2.0 * weights[t * 3 + c] * factor(t, c)).sum();
                    assert!((row[c] - expected).abs() < 1e-5);
                }
            }
            let dp = grads.dense(places).unwrap();
            for (place, c) in [(0, 1), (1, 2)] {
                let used = (0..4).filter(|&t| at[t] == place as u32);
                let expected: f32 = used.map(|t| weights[t * 3 + c] * factor(t, c)).sum();
                assert!((dp[place * 3 + c] - expected).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn a_matrix_is_read_as_a_table_is() {
        use crate::testing::{M, check};
        let slots = Arc::new(vec![2u32, 0, NO_ROW, 2]);
        let build = |tape: &mut Tape, v: &[Var]| {
            let with = Embed { scale: 1.5, ..Embed::default() };
            tape.embed(Items::Matrix(v[0]), slots.clone(), with)
        };
        check(&[(3, 4)], 2, build, |v| {
            let row = |r: usize| if slots[r] == NO_ROW { &[0.0; 4][..] } else { v[0].row(slots[r] as usize) };
            M::from_fn(4, 4, |r, c| 1.5 * row(r)[c])
        });
    }

    #[test]
    fn nothing_may_be_read() {
        let mut params = Params::new(3);
        let table = params.add_table(Table::of_range("items", 1, 2, 1.0, 3));
        let mut tape = Tape::answering(&params, Workspace::default());
        let y = tape.embed(Items::Table(table), Arc::new(vec![]), Embed::default());
        assert_eq!(tape.shape(y), (0, 2));
    }
}

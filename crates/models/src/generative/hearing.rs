//! How a generative model is steered by wishes.
//!
//! Where the codes of item i are told and its wish v is heard, V v is added to every token that tells one of them. In training one of
//! an item's wishes is heard with the probability that the snapshot says; in an answer the person's, or none.
//!
//! Shapes: v (w), V (D × w).

use crate::Weights;
use sommelier_core::Rng;
use sommelier_data::Snapshot;
use sommelier_data::snapshot::ItemWishes;
use sommelier_nn::loss::Items;
use sommelier_nn::op::{Embed, Linear, NO_ROW};
use sommelier_nn::{Init, ParamId, Params, Tape, Tensor, Var, kernel};
use std::sync::Arc;

/// Name of V among the weights.
const WEIGHT: &str = "wish";

/// Where V is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hearing(ParamId);

impl Hearing {
    pub fn new(dim: usize, words: usize, params: &mut Params) -> Hearing {
        Hearing(params.add(WEIGHT, dim, words, Init::Glorot))
    }

    /// Numbers in a wish, where the items of a snapshot have some.
    pub fn of(snapshot: &Snapshot) -> Option<usize> {
        snapshot.wishes.as_ref().map(|wishes| wishes.dim)
    }

    /// The same of what was stored.
    pub fn stored(weights: &Weights) -> Option<usize> {
        weights.matrix(WEIGHT, None).ok().map(|(_, words, _)| words)
    }

    /// Whether these are the parameters of a model that hears.
    pub fn is_in(params: &Params) -> bool {
        params.named(WEIGHT).is_some()
    }

    /// V v; `None` where the wish is not one that was learned.
    pub fn heard(self, params: &Params, wish: &[f32]) -> Option<Vec<f32>> {
        let weight = params.get(self.0);
        (wish.len() == weight.cols)
            .then(|| weight.value.chunks_exact(weight.cols).map(|row| kernel::dot(row, wish)).collect())
    }

    /// What is added to each of `rows` tokens; `tells` gives those that tell an item.
    pub fn beside(
        self,
        tape: &mut Tape,
        wishes: &ItemWishes,
        told: impl Iterator<Item = (u32, std::ops::Range<usize>)>,
        rows: usize,
        rng: &mut Rng,
    ) -> Option<Var> {
        let mut slots = vec![NO_ROW; rows];
        let (mut data, mut count) = (Vec::new(), 0);
        for (item, tells) in told {
            if wishes.known[item as usize] && rng.unit() < f64::from(wishes.heard) {
                data.extend_from_slice(wishes.row(item as usize, rng.below(wishes.each)));
                slots[tells].fill(count);
                count += 1;
            }
        }
        if count == 0 {
            return None;
        }
        let said = tape.constant(Tensor::new(count as usize, wishes.dim, data));
        let heard = tape.linear(said, self.0, Linear::default());
        Some(tape.embed(Items::Matrix(heard), Arc::new(slots), Embed::default()))
    }
}

/// The rows of x, each with what is heard of a wish.
pub(super) fn add_to_rows(x: &mut [f32], wish: Option<&[f32]>) {
    if let Some(wish) = wish {
        x.chunks_exact_mut(wish.len()).for_each(|x| kernel::axpy(1.0, wish, x));
    }
}

/// x, and what is heard.
pub(super) fn add(tape: &mut Tape, x: Var, heard: Option<Var>) -> Var {
    match heard {
        Some(heard) => tape.add(x, heard),
        None => x,
    }
}

//! What every model is: a thing that scores, retrieves, explains and can be written down.

use crate::Weights;
use sommelier_core::{Explain, FitContext, Item, ItemIx, Retrieve, Score, Stopped};
use sommelier_nn::train::TrainError;

/// A fitted model. It exists only once fitted, so it can always answer.
pub trait Model: Score + Retrieve + Explain {
    /// Name of its config in recipes: `ease`, `ials`, …
    fn kind(&self) -> &'static str;

    /// What to store; the config's `load` makes the same model again.
    fn weights(&self) -> Weights;

    /// Whether it is steered by [`sommelier_core::ResolvedQuery::wish`].
    fn hears(&self) -> bool {
        false
    }

    /// Tells of an item's latest revision; true if the model can recommend the item from now on. One that came after the fit
    /// gets an index past the fitted ones, and is taken in by models that know items by what they are.
    fn meet(&self, item: ItemIx, _: &Item) -> bool {
        item.ix() < self.items()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum FitError {
    #[error("there is nothing to learn from: {0}")]
    NoData(String),
    #[error("{key} must be {expected}, received {received}")]
    Config { key: &'static str, expected: &'static str, received: String },
    #[error("this fit needs {needed} MiB ({why}), the budget is {budget} MiB; raise --memory or {remedy}")]
    Memory { needed: u64, budget: u64, why: String, remedy: String },
    #[error("sequence.start: {0}")]
    Start(String),
    #[error("{0}")]
    Numeric(String),
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

impl From<TrainError> for FitError {
    fn from(error: TrainError) -> FitError {
        match error {
            TrainError::Stopped(stopped) => FitError::Stopped(stopped),
            other => FitError::Numeric(other.to_string()),
        }
    }
}

/// Checks a fit's plan against the budget before anything is allocated. `needed` is in bytes, at the peak.
pub(crate) fn plan(ctx: &FitContext, needed: u64, why: &str, remedy: &str) -> Result<(), FitError> {
    const MIB: u64 = 1 << 20;
    if needed <= ctx.memory {
        return Ok(());
    }
    Err(FitError::Memory {
        needed: needed.div_ceil(MIB),
        budget: ctx.memory / MIB,
        why: why.to_owned(),
        remedy: remedy.to_owned(),
    })
}

/// An error unless `value` is finite and `ok`.
pub(crate) fn require(
    key: &'static str,
    value: f64,
    ok: bool,
    expected: &'static str,
) -> Result<(), FitError> {
    if value.is_finite() && ok {
        Ok(())
    } else {
        Err(FitError::Config { key, expected, received: value.to_string() })
    }
}

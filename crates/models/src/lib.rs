//! Recommendation models, one file each. A config is a plain struct whose `fit` makes the model.

mod model;
mod weights;

pub use model::{FitError, LoadError, Model};
pub use weights::{Array, Weights};

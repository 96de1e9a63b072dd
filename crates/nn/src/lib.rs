//! A training library made for recommenders: ragged sequences, tables of embeddings, very large softmaxes.
//!
//! - [`kernel`]: numeric loops with run-time dispatch, over `f32` slices.
//! - [`Tape`]: coarse operations (`op/`) and losses (`loss/`), each with its own way back.
//! - [`Params`]: what is learned, dense matrices and [`Table`]s of rows.
//! - [`optim`]: rules, schedules.
//!
//! ```
//! use sommelier_nn::kernel;
//! assert_eq!(kernel::dot(&[1.0, 2.0, 3.0], &[4.0, 5.0, 6.0]), 32.0);
//! ```

pub mod kernel;
pub mod loss;
pub mod op;
pub mod optim;

mod params;
mod ragged;
mod table;
mod tape;
#[cfg(test)]
mod testing;

pub use kernel::Activation;
pub use params::{Init, Param, ParamId, Params, TableId};
pub use ragged::Ragged;
pub use table::{RowGrads, Table};
pub use tape::{Backward, Grads, ParamGrads, Tape, Tensor, Values, Var, Workspace};

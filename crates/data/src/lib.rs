//! The log and what is read from it: import and export, snapshots, splits, the sample world.

pub mod snapshot;
pub mod split;

pub use snapshot::{Events, Interactions, KindRule, KindRules, Snapshot, TimeQuality};
pub use split::{Holdout, Split};

//! The log and what is read from it: import and export, snapshots, splits, the sample world.

pub mod filter;
pub mod import;
pub mod rules;
pub mod snapshot;
pub mod split;

pub use filter::{Dedupe, Filters};
pub use rules::{Condition, RuleError, Weigher};
pub use snapshot::{Events, Interactions, KindRule, KindRules, Snapshot, TimeQuality};
pub use split::{Holdout, Leak, LeftOut, Split, SplitError, SplitRule, SplitSpec};

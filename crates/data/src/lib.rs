//! The log and what is read from it: import and export, snapshots, splits, the sample world.

pub mod doctor;
pub mod export;
pub mod filter;
pub mod import;
pub mod log;
pub mod rules;
pub mod snapshot;
pub mod split;
pub mod store;
pub mod world;

pub use doctor::{Diagnosis, doctor};
pub use filter::{Dedupe, Filters};
pub use log::{Log, LogError, LogOptions};
pub use rules::{Condition, RuleError, Weigher};
pub use snapshot::{Events, Interactions, KindRule, KindRules, Snapshot, TimeQuality};
pub use split::{Holdout, Leak, LeftOut, Split, SplitError, SplitRule, SplitSpec};
pub use store::StoreEngine;

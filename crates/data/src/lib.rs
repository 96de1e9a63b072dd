//! The log and what is read from it: import and export, snapshots, splits, the sample world.

pub mod import;

//! Losses, one file each, in the same form as the operations. All return a 1 × 1 value and take a `scale`: the loss is the
//! sum over rows times this, so that parts of a batch on several tapes add up to its mean.

mod catalogue;

pub use catalogue::Items;

//! Models that write what comes next: the codes of an item, one after the other, and no codes that no item has.
//!
//! A file for each model. What they share is here: the codes a model knows (`known.rs`) and the search for the best of them that
//! are allowed (`search.rs`). Codes come with the snapshot; how vectors became codes is not asked here.

mod known;
mod search;
mod tiger_decoder;

pub use tiger_decoder::{TigerDecoder, TigerDecoderConfig};

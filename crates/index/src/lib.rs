//! Here is a vector or some words: which items are near? And which codes may follow? Exact vector search, full text and code tries;
//! knows no models.

pub mod exact;
pub mod text;
pub mod trie;

//! Here is a vector or some words: which items are near? Exact vector search and full text; knows no models.

pub mod exact;
pub mod text;

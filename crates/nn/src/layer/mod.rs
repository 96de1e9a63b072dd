//! Layers: operations with the parameters that belong to them, shared by models.

mod transformer;

pub use transformer::{Order, Transformer, TransformerConfig};

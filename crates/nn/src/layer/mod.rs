//! Layers: operations with the parameters that belong to them, shared by models.

mod decode;
mod transformer;

pub use decode::{Branches, Memory};
pub use transformer::{Order, Transformer, TransformerConfig};

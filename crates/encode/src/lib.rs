//! What items are, as vectors; and vectors as short codes (semantic IDs).
//!
//! Nothing here knows a model, a log or who asks: vectors go in, codes come out. `remote` asks an endpoint for vectors, if a recipe
//! names one.

pub mod attributes;
mod cache;
pub mod encoder;
mod endpoint;
pub mod files;
pub mod fuse;
pub mod images;
pub mod kmeans;
mod linear;
pub mod pretrained;
mod reading;
pub mod relations;
pub mod remote;
pub mod rows;
pub mod text;
pub mod tokenise;

pub use attributes::{AttributeType, AttributesConfig};
pub use encoder::{Encoder, EncoderConfig, Problem, Vectors};
pub use files::FileConfig;
pub use fuse::{FuseConfig, Method};
pub use images::ImagesConfig;
pub use kmeans::{Centres, KMeans};
pub use pretrained::PretrainedConfig;
pub use relations::{Normalise, RelationsConfig};
pub use remote::RemoteConfig;
pub use rows::Rows;
pub use text::{TextConfig, Weighting};
pub use tokenise::{Codes, Collisions, Quality, Taken, Tokeniser, TokeniserConfig, make_unique};

use sommelier_core::Stopped;

/// Why nothing was fitted.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum EncodeError {
    #[error("{name} must be {expected}, received {received}")]
    Setting { name: &'static str, expected: &'static str, received: f64 },
    #[error("{0}")]
    NoData(String),
    #[error("{0}")]
    Numeric(String),
    #[error("{0}")]
    Input(String),
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

/// An error in words unless `holds`.
pub(crate) fn require(
    name: &'static str,
    received: f64,
    holds: bool,
    expected: &'static str,
) -> Result<(), EncodeError> {
    if holds { Ok(()) } else { Err(EncodeError::Setting { name, expected, received }) }
}

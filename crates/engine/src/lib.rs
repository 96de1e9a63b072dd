//! A query goes in: which slate comes out? Recipes, artefacts, pipelines, the gate; knows no HTTP and no terminal.

mod answer;
mod artefact;
mod catalogue;
mod codes;
mod config;
mod diverse;
mod error;
pub mod experiment;
mod filter;
mod gate;
mod history;
mod page;
mod prepare;
mod reasons;
mod recipe;
mod recorder;
pub mod reproduce;
mod space;
pub mod steering;
mod wish;

pub use artefact::{Artefact, ArtefactInfo, FORMAT, FileInfo, Trained, train};
pub use codes::{Branch, CodeTree, Coded, Family, Siblings, View};
pub use config::{
    DEFAULT_SCENARIO, DiversityConfig, DiversityMethod, EngineConfig, PipelineConfig, QueryLimits,
    RecordConfig, Seen, SimilarityBy, SourceConfig, SourceKind,
};
pub use error::{EngineError, QueryError};
pub use filter::{Filter, FilterError};
pub use prepare::{BEHAVIOUR, Prepared, Tokenise};
pub use recipe::{Bound, Claim, DataConfig, Recipe};
pub use sommelier_encode::tokenise::{Level, Quality};
pub use space::{Engine, Readiness, Space, SpaceStats, log_dir, media_dir};
pub use wish::Wish;

//! Import: files in any format people keep events in become events, items and users, with every bad row accounted for.
//!
//! The way of a row: a [`Source`] (a file, gzip, zstd or a member of a zip) is read in blocks that end at record
//! boundaries, a parser thread turns each block into a [`batch::Batch`], and a sink takes the batches: the
//! in-memory builder of [`load`], or the log in [`import_into`]. Memory is bounded by a handful of blocks.

mod assemble;
mod batch;
mod blocks;
mod columns;
mod delimited;
mod detect;
mod gorse;
mod into_log;
mod json;
mod lists;
mod memory;
mod movielens;
mod parquet;
mod plan;
mod report;
mod run;
mod scalar;
mod source;
mod times;

pub use columns::{Column, Field, PropertyKind};
pub use detect::detect;
pub use into_log::import_into;
pub use memory::{load, load_plan};
pub use plan::{FilePlan, Layout, Part, Plan, Role};
pub use report::grouped;
pub use report::{ImportReport, Problem};
pub use source::Source;
pub use times::TimeUnit;

use serde::Serialize;
use sommelier_core::{Cancel, NoProgress, Progress, Time};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// The formats of the command line's `--format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    Csv,
    Tsv,
    Jsonl,
    Parquet,
    Recbole,
    Movielens,
    Gorse,
    Sequences,
    Pairs,
}

impl Format {
    pub const ALL: [Format; 9] = [
        Format::Csv,
        Format::Tsv,
        Format::Jsonl,
        Format::Parquet,
        Format::Recbole,
        Format::Movielens,
        Format::Gorse,
        Format::Sequences,
        Format::Pairs,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Format::Csv => "csv",
            Format::Tsv => "tsv",
            Format::Jsonl => "jsonl",
            Format::Parquet => "parquet",
            Format::Recbole => "recbole",
            Format::Movielens => "movielens",
            Format::Gorse => "gorse",
            Format::Sequences => "sequences",
            Format::Pairs => "pairs",
        }
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Format {
    type Err = ImportError;

    fn from_str(text: &str) -> Result<Format, ImportError> {
        Format::ALL.into_iter().find(|f| f.name().eq_ignore_ascii_case(text)).ok_or_else(|| {
            ImportError::Option(format!(
                "format must be one of {}, received `{text}`",
                Format::ALL.map(Format::name).join(", ")
            ))
        })
    }
}

/// What the caller asks for; everything else is found in the files.
#[derive(Debug, Clone, PartialEq)]
pub struct ImportOptions {
    /// `None`: found from the content.
    pub format: Option<Format>,
    /// Field to column: `user`, `item`, `kind`, `at`, `value`, `id`, `session`, `slate`, `position`, `text`,
    /// `context.NAME`, `property.NAME`. A column is a header name, or a number from 1 where there is no header.
    pub map: BTreeMap<String, String>,
    /// `rating>=4`: in [`load`], events of kind `rating` whose value fails count nothing. Imports into a log keep
    /// every rating and report the rule for the configuration, so that it can be changed without a new import.
    pub positive: Option<String>,
    /// Kind of events whose files name none; `view`, or `rating` where there is a value.
    pub kind: Option<String>,
    /// Name of the split that came with the files: `u1` for `u1.base` and `u1.test`.
    pub given: Option<String>,
    /// Fail on the first bad row, before anything is written.
    pub strict: bool,
    /// How many problems the report keeps; all are counted.
    pub max_problems: usize,
}

impl Default for ImportOptions {
    fn default() -> ImportOptions {
        ImportOptions {
            format: None,
            map: BTreeMap::new(),
            positive: None,
            kind: None,
            given: None,
            strict: false,
            max_problems: 100,
        }
    }
}

/// What an import is handed from outside.
#[derive(Clone)]
pub struct ImportContext {
    /// Counts compressed bytes read.
    pub progress: Arc<dyn Progress>,
    pub cancel: Cancel,
    /// The time of events that carry none.
    pub now: Time,
}

impl ImportContext {
    /// No progress bar, never cancelled.
    pub fn quiet(now: Time) -> ImportContext {
        ImportContext { progress: Arc::new(NoProgress), cancel: Cancel::default(), now }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{} does not exist; give a file or a folder with events", .0.display())]
    NotFound(PathBuf),
    #[error("{file} is empty; expected events, items or users in one of: {}", Format::ALL.map(Format::name).join(", "))]
    Empty { file: String },
    #[error(
        "{file} is not text and not Parquet ({why}); expected csv, tsv, jsonl, parquet or one of them in gzip, zstd or zip"
    )]
    Binary { file: String, why: String },
    #[error("{file}: {reason}")]
    Unreadable { file: String, reason: String },
    #[error(
        "{file}: cannot tell which columns hold {missing}.\nColumns: {columns}\nName them, for example: --map {suggestion}"
    )]
    UnknownColumns { file: String, missing: String, columns: String, suggestion: String },
    #[error("{0}")]
    Option(String),
    #[error("{folder}: no file holds events that we can read.\n{details}")]
    NoEvents { folder: String, details: String },
    #[error(
        "{folder} holds several files that may be the events: {files}.\nGive one of them instead of the folder"
    )]
    Ambiguous { folder: String, files: String },
    #[error("strict: {total} bad rows, nothing was written. The first: {first}")]
    Strict { total: u64, first: Problem },
    #[error(transparent)]
    Log(#[from] crate::log::LogError),
    #[error(transparent)]
    Rule(#[from] crate::rules::RuleError),
    #[error(
        "{0} different kinds of event; a snapshot holds at most 256. Is `kind` mapped to the right column?"
    )]
    TooManyKinds(usize),
    #[error("import cancelled")]
    Cancelled,
}

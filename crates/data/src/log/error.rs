//! What can go wrong with a log, in words: what was expected, what was found, what to do.

use crate::rules::RuleError;
use crate::store::StoreError;
use serde::{Deserialize, Serialize};
use sommelier_core::{EventError, IdError};
use std::path::{Path, PathBuf};

/// One damaged place, and what it costs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Damage {
    /// Path of the damaged file or folder.
    pub file: String,
    /// What is wrong there.
    pub what: String,
    /// Which offsets, users or times it affects.
    pub lost: String,
    /// What to do about it.
    pub remedy: String,
}

pub(super) const REMEDY: &str =
    "restore the newest backup into an empty folder with `sommelier restore FILE`";

impl Damage {
    pub(super) fn new(file: &Path, what: impl Into<String>, lost: impl Into<String>) -> Damage {
        Damage {
            file: file.display().to_string(),
            what: what.into(),
            lost: lost.into(),
            remedy: REMEDY.to_owned(),
        }
    }
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{}: {}; affected: {}; {}", self.file, self.what, self.lost, self.remedy)
    }
}

#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum LogError {
    #[error("{} is open in another process{}; stop that process or use another folder", .dir.display(),
        .pid.map(|p| format!(" (pid {p})")).unwrap_or_default())]
    Busy { dir: PathBuf, pid: Option<u32> },
    #[error("event {index} of this call: {reason}; nothing of the call was stored")]
    Event { index: usize, reason: EventError },
    #[error("{0}; nothing of the call was stored")]
    Id(#[from] IdError),
    #[error("no space is left on the disk of {}; everything acknowledged is safe, this call was not stored: free some space and send it again", .dir.display())]
    Full { dir: PathBuf },
    #[error("{0}")]
    Damaged(Box<Damage>),
    #[error("cannot {doing} {}: {reason}", .path.display())]
    Io { doing: &'static str, path: PathBuf, reason: String },
    #[error("the store of {} failed: {reason}; the call was not acknowledged, send it again", .dir.display())]
    Store { dir: PathBuf, reason: String },
    #[error("{} was written by a newer version (log format {received}, this program reads up to {expected}); use the newer program", .dir.display())]
    Version { dir: PathBuf, expected: u32, received: String },
    #[error(
        "a log holds at most {limit} event kinds, the kind {kind:?} is one too many; merge kinds before importing"
    )]
    TooManyKinds { limit: usize, kind: String },
    #[error("{} is not empty; restore into a new or empty folder", .dir.display())]
    NotEmpty { dir: PathBuf },
    #[error("{} is not a backup made by this program: {reason}", .file.display())]
    NotABackup { file: PathBuf, reason: String },
    #[error("the source {name:?} is being imported already; wait for that import to end")]
    Importing { name: String },
    #[error(
        "expected a cursor such as `1700000000000-42`, received {0:?}; use the `next` of an earlier answer"
    )]
    Cursor(String),
    #[error(transparent)]
    Rules(#[from] RuleError),
}

impl LogError {
    pub(super) fn damaged(file: &Path, what: impl Into<String>, lost: impl Into<String>) -> LogError {
        LogError::Damaged(Box::new(Damage::new(file, what, lost)))
    }

    /// For `map_err` on file operations.
    pub(super) fn io(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> LogError + use<> {
        let path = path.to_owned();
        move |e| match e.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                LogError::Full { dir: path }
            }
            _ => LogError::Io { doing, path, reason: e.to_string() },
        }
    }

    /// For `map_err` on store operations.
    pub(super) fn store(dir: &Path) -> impl FnOnce(StoreError) -> LogError + use<> {
        let dir = dir.to_owned();
        move |e| match e {
            StoreError::Full => LogError::Full { dir },
            StoreError::Locked => LogError::Busy { dir, pid: None },
            StoreError::Damaged(what) => {
                LogError::damaged(&dir, what, "any live record (events sent one by one, revisions, slates)")
            }
            StoreError::Stopped | StoreError::Failed(_) => LogError::Store { dir, reason: e.to_string() },
        }
    }
}

//! What can go wrong, in words: for whoever runs the engine, and for whoever asks it.

use sommelier_data::log::LogError;
use sommelier_encode::EncodeError;
use sommelier_models::{FitError, LoadError};
use std::path::PathBuf;

/// Errors of everything but queries.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("configuration: {0}")]
    Config(String),
    #[error("{path}: {source}; check that the folder exists, is writable and has room")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("there is no space {name:?}{near}; create it first")]
    UnknownSpace { name: String, near: String },
    #[error(
        "{name:?} cannot name a {what}: expected 1 to 100 of a-z, A-Z, 0-9, `-`, `_` and `.`, not starting with `.`"
    )]
    Name { what: &'static str, name: String },
    #[error("there is no artefact {name:?}{near}; train one, or list what is there")]
    UnknownArtefact { name: String, near: String },
    #[error("artefact {name:?} cannot be used: {reason}; train it again")]
    Artefact { name: String, reason: String },
    #[error("there is no recipe {name:?}{near}; a recipe is a built-in name or the path of a TOML file")]
    UnknownRecipe { name: String, near: String },
    #[error("recipe {name}: {reason}")]
    Recipe { name: String, reason: String },
    #[error("{what} {id:?} is unknown")]
    UnknownId { what: &'static str, id: String },
    #[error("{0}")]
    Invalid(String),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Fit(#[from] FitError),
    #[error(transparent)]
    Eval(#[from] sommelier_eval::EvalError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Encode(EncodeError),
    #[error("text index: {0}")]
    Text(#[from] sommelier_index::text::TextError),
}

impl From<EncodeError> for EngineError {
    /// Whoever is cancelled says so in one way.
    fn from(error: EncodeError) -> EngineError {
        match error {
            EncodeError::Stopped(stopped) => EngineError::Fit(FitError::Stopped(stopped)),
            other => EngineError::Encode(other),
        }
    }
}

impl EngineError {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> EngineError {
        let path = path.into();
        move |source| EngineError::Io { path, source }
    }
}

/// Why a query was not answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{message}", .field.as_ref().map(|f| format!("{f}: ")).unwrap_or_default())]
pub struct QueryError {
    /// Stable: `count`, `limit`, `id`, `filter`, `page`, `scenario`, `context`, `unknown`, `internal`.
    pub code: &'static str,
    /// Path of the field at fault: `history[3].item`.
    pub field: Option<String>,
    /// What was expected, what was received, what to do.
    pub message: String,
}

impl QueryError {
    pub(crate) fn new(
        code: &'static str,
        field: impl Into<String>,
        message: impl Into<String>,
    ) -> QueryError {
        QueryError { code, field: Some(field.into()), message: message.into() }
    }

    /// True where the fault is the engine's and not the query's.
    pub fn is_internal(&self) -> bool {
        self.code == "internal"
    }
}

impl From<LogError> for QueryError {
    fn from(error: LogError) -> QueryError {
        QueryError { code: "internal", field: None, message: error.to_string() }
    }
}

impl From<EngineError> for QueryError {
    fn from(error: EngineError) -> QueryError {
        QueryError { code: "internal", field: None, message: error.to_string() }
    }
}

/// ` (did you mean "ials"?)` for the nearest of `known`, or nothing where none is near.
pub(crate) fn near<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(name, known).map_or_else(String::new, |best| format!(" (did you mean {best:?}?)"))
}

/// The known name at the smallest edit distance, if that is at most a third of its length, or 1.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name: Vec<char> = name.chars().take(100).collect();
    known
        .into_iter()
        .map(|k| (distance(&name, &k.chars().take(100).collect::<Vec<_>>()), k))
        .min()
        .filter(|&(d, k)| d <= (k.chars().count() / 3).max(1))
        .map(|(_, k)| k)
}

/// Levenshtein distance.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let cost = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = cost.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names() {
        assert_eq!(nearest("eese", ["ease", "ials", "slim"]), Some("ease"));
        assert_eq!(nearest("item_kn", ["item_knn", "ials"]), Some("item_knn"));
        assert_eq!(nearest("transformer", ["ease", "ials"]), None);
        assert_eq!(near("isal", ["ials"]), "", "two edits in four letters are another word");
    }
}

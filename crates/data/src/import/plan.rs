//! The plan of an import: which file holds what, and which column means what. Printed before anything is read.

use super::columns::Column;
use super::{Format, Source};
use serde::Serialize;
use std::fmt;

/// What the rows of a file are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    Events,
    Items,
    Users,
    /// Fixed candidates of each user.
    Candidates,
    /// A tar archive of pictures named after items.
    Images,
}

/// The part of a split that came with the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// Not part of a split.
    Whole,
    Train,
    Valid,
    Test,
}

/// How the bytes of a file are laid out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    Delimited {
        separator: String,
        /// Fields may be quoted with `"`, and then hold separators and line ends.
        quotes: bool,
        header: bool,
        latin1: bool,
    },
    /// `user item item …`, separated by blanks.
    List,
    /// `user positive other other …`, separated by tabs.
    Candidates,
    /// `user other other …`, separated by blanks: what is ranked beside the items to find.
    Others,
    /// One JSON object a line.
    Json,
    /// One gorse object a line: user, item or feedback, told apart by their keys.
    Gorse,
    Parquet,
    Tar,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FilePlan {
    #[serde(rename = "file")]
    pub source: Source,
    pub role: Role,
    pub part: Part,
    pub layout: Layout,
    /// Kind of events that name none.
    pub kind: String,
    pub columns: Vec<Column>,
    /// Columns that nothing is made of.
    pub unread: Vec<String>,
}

/// Everything an import will do, in words and for machines.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// Name of the data set: the folder or the file.
    pub name: String,
    pub format: Format,
    pub files: Vec<FilePlan>,
    /// Whether events without times are at least in order.
    pub ordered: bool,
    /// What was guessed, in words.
    pub guesses: Vec<String>,
    /// Files that are not read, and why.
    pub unread: Vec<String>,
    /// `--positive`, checked: a kind and what its value must be.
    pub positive: Option<(String, String)>,
    #[serde(skip)]
    pub strict: bool,
    #[serde(skip)]
    pub max_problems: usize,
}

impl Plan {
    /// Whether the files come with a split.
    pub fn is_split(&self) -> bool {
        self.files.iter().any(|f| f.part != Part::Whole)
    }

    /// Bytes on disk of all files that will be read.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|f| f.source.size()).sum()
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", self.name, self.format)?;
        for file in &self.files {
            let role = match file.role {
                Role::Events => "events",
                Role::Items => "items",
                Role::Users => "users",
                Role::Candidates => "candidates",
                Role::Images => "item images",
            };
            let part = match file.part {
                Part::Whole => "",
                Part::Train => ", training part",
                Part::Valid => ", validation part",
                Part::Test => ", test part",
            };
            writeln!(f, "  {}: {role}{part}", file.source)?;
            match &file.layout {
                Layout::List => writeln!(f, "    each line: user, then items")?,
                Layout::Candidates => writeln!(f, "    each line: user, item to find, other candidates")?,
                Layout::Others => writeln!(f, "    each line: user, candidates beside the items to find")?,
                Layout::Gorse => writeln!(f, "    each line: a user, an item or feedback, told by its keys")?,
                Layout::Tar => writeln!(f, "    each picture is named after its item")?,
                _ => {
                    for column in file.columns.iter().filter(|c| c.seen()) {
                        writeln!(f, "    {column}")?;
                    }
                }
            }
            let names_no_kind = !file.columns.iter().any(|c| c.seen() && c.field == super::Field::Kind);
            if file.role == Role::Events && names_no_kind && file.layout != Layout::Gorse {
                writeln!(f, "    kind: always `{}`", file.kind)?;
            }
            if !file.unread.is_empty() {
                writeln!(f, "    not read: {}", file.unread.join(", "))?;
            }
        }
        for guess in &self.guesses {
            writeln!(f, "  guess: {guess}")?;
        }
        for unread in &self.unread {
            writeln!(f, "  not read: {unread}")?;
        }
        Ok(())
    }
}

//! A block of rows on its way from a parser to a sink: one text, and rows that are places in it.

use super::plan::Part;
use super::report::{Problem, Problems};
use serde_json::{Map, Value};
use sommelier_core::{Item, Time, User};

/// A piece of a batch's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    pub start: u32,
    pub len: u32,
}

/// An event whose texts are spans.
#[derive(Debug, Clone)]
pub struct Row {
    pub user: Span,
    pub item: Span,
    pub kind: Span,
    pub at: Option<Time>,
    pub value: Option<f64>,
    /// Index into [`Batch::extras`], or `u32::MAX`.
    pub extra: u32,
}

/// What few events carry.
#[derive(Debug, Clone, Default)]
pub struct Extra {
    pub id: Option<String>,
    pub session: Option<String>,
    pub slate: Option<String>,
    pub position: Option<u32>,
    pub text: Option<String>,
    pub context: Map<String, Value>,
}

impl Extra {
    pub fn is_empty(&self) -> bool {
        self.id.is_none()
            && self.session.is_none()
            && self.slate.is_none()
            && self.position.is_none()
            && self.text.is_none()
            && self.context.is_empty()
    }
}

/// A line of fixed candidates.
#[derive(Debug, Clone)]
pub struct CandidateRow {
    pub user: String,
    /// The item to find first, then the others.
    pub items: Vec<String>,
}

pub struct Batch {
    pub text: String,
    /// Texts that are not in the block as they are (unescaped, joined); spans go on behind `text`.
    side: String,
    base: u32,
    pub rows: Vec<Row>,
    pub extras: Vec<Extra>,
    pub items: Vec<Item>,
    pub users: Vec<User>,
    pub candidates: Vec<CandidateRow>,
    pub part: Part,
    pub problems: Problems,
    /// Rows left out.
    pub skipped: u64,
    /// Name of the file, for problems.
    pub file: std::sync::Arc<str>,
}

impl Batch {
    pub fn new(text: String, file: &std::sync::Arc<str>, part: Part, keep: usize) -> Batch {
        Batch {
            base: text.len() as u32,
            text,
            side: String::new(),
            rows: Vec::new(),
            extras: Vec::new(),
            items: Vec::new(),
            users: Vec::new(),
            candidates: Vec::new(),
            part,
            problems: Problems::new(keep),
            skipped: 0,
            file: std::sync::Arc::clone(file),
        }
    }

    /// Text that is not in the block.
    pub fn add_text(&mut self, text: &str) -> Span {
        let start = self.base + self.side.len() as u32;
        self.side.push_str(text);
        Span { start, len: text.len() as u32 }
    }

    pub fn get(&self, span: Span) -> &str {
        self.get_in(&self.text, span)
    }

    /// Like [`Batch::get`] while a parser has taken the block's text out to read it.
    pub fn get_in<'a>(&'a self, text: &'a str, span: Span) -> &'a str {
        let (start, end) = (span.start as usize, (span.start + span.len) as usize);
        let base = self.base as usize;
        if start >= base && !self.side.is_empty() {
            &self.side[start - base..end - base]
        } else {
            &text[start..end]
        }
    }

    pub fn extra(&self, row: &Row) -> Option<&Extra> {
        self.extras.get(row.extra as usize)
    }

    pub fn add_extra(&mut self, extra: Extra) -> u32 {
        if extra.is_empty() {
            return u32::MAX;
        }
        self.extras.push(extra);
        self.extras.len() as u32 - 1
    }

    /// Records a problem that costs a row.
    pub fn skip(&mut self, line: u64, field: Option<&str>, reason: impl Into<String>) {
        self.skipped += 1;
        self.warn(line, field, reason);
    }

    /// Records a problem that costs no row.
    pub fn warn(&mut self, line: u64, field: Option<&str>, reason: impl Into<String>) {
        self.problems.add(Problem {
            file: self.file.to_string(),
            line,
            field: field.map(str::to_owned),
            reason: reason.into(),
        });
    }
}

/// The first characters of a text for an error message.
pub fn shown(text: &str) -> String {
    let mut out: String = text.chars().take(40).collect();
    if out.len() < text.len() {
        out.push('…');
    }
    out
}

//! What an import says when it is done: what came in, what did not, and why.

use crate::snapshot::KindRules;
use serde::{Deserialize, Serialize};
use std::fmt;

/// One bad row, or one bad field of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    pub file: String,
    /// From 1; in Parquet the row, from 1; 0 where the whole file is meant.
    pub line: u64,
    /// Column or field, where one is to blame.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    pub reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file)?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        if let Some(field) = &self.field {
            write!(f, " ({field})")?;
        }
        write!(f, ": {}", self.reason)
    }
}

/// The first problems in full, and the number of all.
#[derive(Debug, Clone, Default)]
pub(crate) struct Problems {
    pub kept: Vec<Problem>,
    pub total: u64,
    pub keep: usize,
}

impl Problems {
    pub fn new(keep: usize) -> Problems {
        Problems { kept: Vec::new(), total: 0, keep }
    }

    pub fn add(&mut self, problem: Problem) {
        self.total += 1;
        if self.kept.len() < self.keep {
            self.kept.push(problem);
        }
    }

    pub fn join(&mut self, other: Problems) {
        self.total += other.total;
        let room = self.keep.saturating_sub(self.kept.len());
        self.kept.extend(other.kept.into_iter().take(room));
    }
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ImportReport {
    pub events: u64,
    pub items: u64,
    pub users: u64,
    /// Rows that were left out because of a problem.
    pub skipped: u64,
    /// Events whose id was there before, and further rows of an item or user in the same file.
    pub duplicates: u64,
    /// Events that carried no time although others did; they count as happening now.
    pub without_time: u64,
    /// Events that an earlier run of the same import had stored.
    pub resumed: u64,
    /// The first problems; `problems_total` counts all.
    pub problems: Vec<Problem>,
    pub problems_total: u64,
    /// What `--positive` means as kind rules, for the configuration.
    #[serde(skip_serializing_if = "KindRules::is_empty", default)]
    pub rules: KindRules,
    pub seconds: f64,
}

impl fmt::Display for ImportReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} events, {} items, {} users in {:.1} s ({} rows/s)",
            grouped(self.events),
            grouped(self.items),
            grouped(self.users),
            self.seconds,
            grouped(((self.events + self.items + self.users) as f64 / self.seconds.max(1e-9)) as u64)
        )?;
        if self.duplicates > 0 {
            writeln!(f, "{} duplicates left out", grouped(self.duplicates))?;
        }
        if self.resumed > 0 {
            writeln!(f, "{} events were there from an earlier run of this import", grouped(self.resumed))?;
        }
        if self.without_time > 0 {
            writeln!(f, "{} events without a time count as happening now", grouped(self.without_time))?;
        }
        if self.problems_total > 0 {
            writeln!(
                f,
                "{} problems, {} rows left out:",
                grouped(self.problems_total),
                grouped(self.skipped)
            )?;
            for problem in &self.problems {
                writeln!(f, "  {problem}")?;
            }
            let rest = self.problems_total - self.problems.len() as u64;
            if rest > 0 {
                writeln!(f, "  … and {} more", grouped(rest))?;
            }
        }
        Ok(())
    }
}

/// `1234567` as `1,234,567`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

//! Export: everything a log knows, in files that other tools and our own import read.
//!
//! `parquet` and `jsonl` keep everything and come back equal. `recbole` and `gorse` keep what those formats have
//! room for; what they lose is counted and named in the report.

mod gorse;
mod jsonl;
mod parquet;
mod recbole;

use crate::import::{ImportContext, grouped};
use crate::log::{Log, LogError};
use serde::Serialize;
use sommelier_core::{Event, Item, User};
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Records taken from the log at a time.
const PAGE: usize = 10_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ExportFormat {
    Parquet,
    Jsonl,
    Recbole,
    Gorse,
}

impl std::str::FromStr for ExportFormat {
    type Err = ExportError;

    fn from_str(text: &str) -> Result<ExportFormat, ExportError> {
        Ok(match text {
            "parquet" => ExportFormat::Parquet,
            "jsonl" => ExportFormat::Jsonl,
            "recbole" => ExportFormat::Recbole,
            "gorse" => ExportFormat::Gorse,
            other => return Err(ExportError::Format(other.to_owned())),
        })
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error("format must be one of parquet, jsonl, recbole, gorse, received `{0}`")]
    Format(String),
    #[error("{} is there already; export into a new or empty folder", .0.display())]
    Exists(PathBuf),
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{}: {reason}", path.display())]
    Write { path: PathBuf, reason: String },
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("export cancelled")]
    Cancelled,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ExportReport {
    pub events: u64,
    pub items: u64,
    pub users: u64,
    pub files: Vec<PathBuf>,
    /// What the format has no room for, and how often.
    pub lost: BTreeMap<String, u64>,
    pub seconds: f64,
}

impl ExportReport {
    fn lose(&mut self, what: &str) {
        *self.lost.entry(what.to_owned()).or_default() += 1;
    }
}

impl fmt::Display for ExportReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (events, items, users) = (grouped(self.events), grouped(self.items), grouped(self.users));
        writeln!(f, "{events} events, {items} items, {users} users in {:.1} s", self.seconds)?;
        for (what, count) in &self.lost {
            writeln!(f, "  the format has no room for: {what} ({} times)", grouped(*count))?;
        }
        self.files.iter().try_for_each(|file| writeln!(f, "  {}", file.display()))
    }
}

/// Writes the events, items and users of a log into the folder `to`. Files appear whole, when all are written.
pub fn export(
    log: &Log,
    to: &Path,
    format: ExportFormat,
    ctx: &ImportContext,
) -> Result<ExportReport, ExportError> {
    let started = Instant::now();
    std::fs::create_dir_all(to).map_err(|source| ExportError::Io { path: to.to_owned(), source })?;
    let mut work = Work { log, ctx, to, report: ExportReport::default(), done: Vec::new() };
    ctx.progress.start("exporting", Some(log.offset()));
    let written = match format {
        ExportFormat::Parquet => parquet::write(&mut work),
        ExportFormat::Jsonl => jsonl::write(&mut work),
        ExportFormat::Recbole => recbole::write(&mut work),
        ExportFormat::Gorse => gorse::write(&mut work),
    };
    let Work { mut report, done, .. } = work;
    for (temporary, path) in done {
        if written.is_err() {
            // What is left of a failed export is of no use; that it cannot be removed changes nothing.
            let _ = std::fs::remove_file(&temporary);
        } else {
            std::fs::rename(&temporary, &path)
                .map_err(|source| ExportError::Io { path: path.clone(), source })?;
            report.files.push(path);
        }
    }
    written?;
    ctx.progress.finish();
    report.seconds = started.elapsed().as_secs_f64();
    Ok(report)
}

/// What the writers of formats share.
struct Work<'a> {
    log: &'a Log,
    ctx: &'a ImportContext,
    to: &'a Path,
    report: ExportReport,
    /// Files as they are written, and as they will be called.
    done: Vec<(PathBuf, PathBuf)>,
}

impl Work<'_> {
    /// A file of the export, under a temporary name until all are done.
    fn create(&mut self, name: &str) -> Result<Out, ExportError> {
        let path = self.to.join(name);
        if path.exists() {
            return Err(ExportError::Exists(path));
        }
        let temporary = self.to.join(format!(".{name}.unfinished"));
        let file =
            File::create(&temporary).map_err(|source| ExportError::Io { path: temporary.clone(), source })?;
        self.done.push((temporary.clone(), path));
        Ok(Out { file: BufWriter::with_capacity(1 << 20, file), path: temporary })
    }

    fn events(
        &mut self,
        mut each: impl FnMut(&mut ExportReport, Vec<Event>) -> Result<(), ExportError>,
    ) -> Result<(), ExportError> {
        let end = self.log.offset();
        let mut at = 0;
        while at < end {
            self.ctx.cancel.check().map_err(|_| ExportError::Cancelled)?;
            let (events, reached) = self.log.events_after(at, PAGE)?;
            each(&mut self.report, events)?;
            at = reached.max(at + 1);
            self.ctx.progress.at(at);
        }
        Ok(())
    }

    fn items(
        &mut self,
        mut each: impl FnMut(&mut ExportReport, Vec<Item>) -> Result<(), ExportError>,
    ) -> Result<(), ExportError> {
        let mut after: Option<String> = None;
        loop {
            self.ctx.cancel.check().map_err(|_| ExportError::Cancelled)?;
            let page = self.log.items(after.as_deref(), PAGE)?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.id.clone());
            each(&mut self.report, page)?;
        }
    }

    fn users(
        &mut self,
        mut each: impl FnMut(&mut ExportReport, Vec<User>) -> Result<(), ExportError>,
    ) -> Result<(), ExportError> {
        let mut after: Option<String> = None;
        loop {
            self.ctx.cancel.check().map_err(|_| ExportError::Cancelled)?;
            let page = self.log.users(after.as_deref(), PAGE)?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.id.clone());
            each(&mut self.report, page)?;
        }
    }
}

/// A file that knows its name, for errors.
struct Out {
    file: BufWriter<File>,
    path: PathBuf,
}

impl Out {
    fn json(&mut self, value: &impl Serialize) -> Result<(), ExportError> {
        serde_json::to_writer(&mut self.file, value).map_err(|e| self.error(e.into()))?;
        self.file.write_all(b"\n").map_err(|e| self.error(e))
    }

    fn line(&mut self, line: &str) -> Result<(), ExportError> {
        self.file
            .write_all(line.as_bytes())
            .and_then(|()| self.file.write_all(b"\n"))
            .map_err(|e| self.error(e))
    }

    /// Everything on the disk.
    fn close(mut self) -> Result<(), ExportError> {
        self.file.flush().and_then(|()| self.file.get_ref().sync_all()).map_err(|e| self.error(e))
    }

    fn error(&self, source: io::Error) -> ExportError {
        ExportError::Io { path: self.path.clone(), source }
    }
}

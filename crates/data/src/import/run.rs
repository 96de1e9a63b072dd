//! Runs a plan: a thread parses, the caller's thread takes the batches, and never more than a few blocks are in memory.

use super::batch::Batch;
use super::blocks::{Blocks, report};
use super::delimited::{Reader, RowMaker};
use super::plan::{FilePlan, Layout, Plan};
use super::report::Problems;
use super::{ImportContext, ImportError, gorse, json, lists, movielens, parquet};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;

/// Batches on their way; each is about a block, so this bounds memory.
const IN_FLIGHT: usize = 4;

/// Where batches go.
pub(crate) trait Sink {
    /// A new file begins; its batches follow in order.
    fn start(&mut self, _file: &FilePlan) -> Result<(), ImportError> {
        Ok(())
    }
    fn take(&mut self, batch: &mut Batch) -> Result<(), ImportError>;
    /// All batches of a file have been taken.
    fn end(&mut self, _file: &FilePlan) -> Result<(), ImportError> {
        Ok(())
    }
}

/// Counts over all files.
#[derive(Debug)]
pub(crate) struct Tally {
    pub problems: Problems,
    pub skipped: u64,
}

/// Reads every file of the plan into the sink.
pub(crate) fn run(plan: &Plan, ctx: &ImportContext, sink: &mut dyn Sink) -> Result<Tally, ImportError> {
    let mut tally = Tally { problems: Problems::new(plan.max_problems), skipped: 0 };
    ctx.progress.start("reading", Some(plan.bytes()));
    let read = Arc::new(AtomicU64::new(0));
    for file in &plan.files {
        sink.start(file)?;
        one_file(file, plan, ctx, &read, sink, &mut tally)?;
        sink.end(file)?;
    }
    ctx.progress.finish();
    Ok(tally)
}

fn one_file(
    file: &FilePlan,
    plan: &Plan,
    ctx: &ImportContext,
    read: &Arc<AtomicU64>,
    sink: &mut dyn Sink,
    tally: &mut Tally,
) -> Result<(), ImportError> {
    let (send, receive) = sync_channel::<Batch>(IN_FLIGHT);
    std::thread::scope(|scope| {
        let parser = scope.spawn(move || {
            let mut emit = |batch: Batch| send.send(batch).is_ok();
            // Our parsers do not panic; those of file formats we did not write may, and a bad file must not
            // take the program down.
            catch_unwind(AssertUnwindSafe(|| parse(file, plan.max_problems, read, &mut emit))).unwrap_or_else(
                |_| {
                    Err(ImportError::Unreadable {
                        file: file.source.name(),
                        reason: "the file is damaged in a way its reader cannot handle".to_owned(),
                    })
                },
            )
        });
        let mut outcome = Ok(());
        for mut batch in &receive {
            tally.skipped += batch.skipped;
            tally.problems.join(std::mem::take(&mut batch.problems));
            if ctx.cancel.is_cancelled() {
                outcome = Err(ImportError::Cancelled);
                break;
            }
            outcome = sink.take(&mut batch);
            if outcome.is_err() {
                break;
            }
            ctx.progress.at(read.load(Ordering::Relaxed));
        }
        // Hangs up, so that a parser that is still sending stops.
        drop(receive);
        let parsed = parser.join().unwrap_or_else(|_| unreachable!("the parser catches its panics"));
        outcome.and(parsed)
    })
}

/// Parses one file; stops early where `emit` says that nobody listens.
fn parse(
    file: &FilePlan,
    keep: usize,
    read: &Arc<AtomicU64>,
    emit: &mut dyn FnMut(Batch) -> bool,
) -> Result<(), ImportError> {
    let name: Arc<str> = file.source.name().into();
    match &file.layout {
        Layout::Parquet => return parquet::parse(file, &name, keep, read, emit),
        Layout::Tar => return movielens::parse_pictures(file, &name, keep, read, emit),
        _ => {}
    }
    let mut reader = match &file.layout {
        Layout::Delimited { separator, quotes, header, .. } => {
            let rows = RowMaker::new(file.role, &file.columns, &file.kind);
            let width = file.columns.len() + file.unread.len();
            Some(Reader::new(separator, *quotes, header.then_some(width), rows))
        }
        _ => None,
    };
    let quoted_after = match &file.layout {
        Layout::Delimited { separator, quotes: true, .. } => separator.bytes().last(),
        _ => None,
    };
    let latin1 = matches!(file.layout, Layout::Delimited { latin1: true, .. });
    let io = |source: io::Error| ImportError::Io { path: file.source.path.clone(), source };
    file.source.read(read, |stream| {
        let mut blocks = Blocks::new(stream, quoted_after);
        while let Some(block) = blocks.next().map_err(io)? {
            let first_line = block.first_line;
            let (text, problems) = block.into_text(latin1);
            let mut batch = Batch::new(text, &name, file.part, keep);
            report(&mut batch, problems);
            match (&file.layout, &mut reader) {
                (_, Some(reader)) => reader.parse(&mut batch, first_line),
                (Layout::List, _) => lists::parse(&mut batch, first_line, &file.kind),
                (Layout::Candidates, _) => lists::parse_candidates(&mut batch, first_line, &file.kind),
                (Layout::Others, _) => lists::parse_others(&mut batch, first_line),
                (Layout::Gorse, _) => gorse::parse(&mut batch, first_line),
                _ => json::parse(&mut batch, first_line, file.role, &file.columns, &file.kind),
            }
            if !emit(batch) {
                break;
            }
        }
        Ok(())
    })?
}

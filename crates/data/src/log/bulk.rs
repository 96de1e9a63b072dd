//! Bulk imports: events gather in columns, and each few million become a segment file while the next ones arrive.

use super::columns::{Columns, EventRef};
use super::record::{Record, offset_key, unseal};
use super::segment::{self, Segment, SegmentInfo};
use super::{Inner, Log, LogError, Reader, SOURCE_PREFIX, State, put, segment_key, sync_folder};
use crate::snapshot::TimeQuality;
use crate::store::{Batch, Table};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

/// How far a source had been imported before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resume {
    /// Never seen.
    Fresh,
    /// An import was cut off: its first so many events are in the log.
    At(u64),
    /// Imported whole; it had so many events.
    Done(u64),
}

/// What an import stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BulkReport {
    pub stored: u64,
    /// Events whose id the log already had.
    pub duplicates: u64,
    /// Events skipped because an earlier, unfinished import of the same source had stored them.
    pub resumed: u64,
}

#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
struct SourceState {
    position: u64,
    done: bool,
}

/// A running import. Every so many events become durable together; [`Bulk::commit`] stores the rest. Dropped without
/// a commit, it keeps what is durable, and the next import of the same source goes on from there.
///
/// The same source must push the same events in the same order: after an interruption the first ones are skipped
/// by count.
pub struct Bulk<'a> {
    log: &'a Log,
    source: String,
    times: TimeQuality,
    resume: Resume,
    /// Events pushed, skipped ones included.
    position: u64,
    columns: Columns,
    sealing: Option<JoinHandle<Result<Sealed, LogError>>>,
    report: BulkReport,
}

/// What one segment took in.
#[derive(Debug, Clone, Copy)]
struct Sealed {
    stored: u64,
    duplicates: u64,
}

impl Log {
    /// Begins an import. `source` names what is imported and how: the digest of the file and whatever else decides
    /// which events it yields.
    pub fn bulk(&self, source: &str) -> Result<Bulk<'_>, LogError> {
        let reader = self.inner.read()?;
        let state: Option<SourceState> = reader.read(Table::Meta, &source_key(source))?;
        let resume = match state {
            None => Resume::Fresh,
            Some(SourceState { position, done: false }) => Resume::At(position),
            Some(SourceState { position, done: true }) => Resume::Done(position),
        };
        if !self.inner.importing.lock().insert(source_key(source)) {
            return Err(LogError::Importing { name: source.to_owned() });
        }
        Ok(Bulk {
            log: self,
            source: source.to_owned(),
            times: TimeQuality::Clock,
            resume,
            position: 0,
            columns: Columns::default(),
            sealing: None,
            report: BulkReport::default(),
        })
    }
}

impl Bulk<'_> {
    /// Whether this source has been imported before, whole or in part. Events already stored are skipped by
    /// [`Bulk::push`] itself; a source that is done skips all it had.
    pub fn resume_position(&self) -> Resume {
        self.resume
    }

    /// How far the times of these events can be trusted; [`TimeQuality::Clock`] unless said.
    pub fn times(&mut self, times: TimeQuality) {
        self.times = times;
    }

    /// Takes one event. Durable only after [`Bulk::commit`], or earlier with its batch.
    pub fn push(&mut self, event: &EventRef) -> Result<(), LogError> {
        let stored = match self.resume {
            Resume::Fresh => 0,
            Resume::At(n) | Resume::Done(n) => n,
        };
        event.check().map_err(|reason| LogError::Event { index: self.position as usize, reason })?;
        self.position += 1;
        if self.position <= stored {
            self.report.resumed += 1;
            return Ok(());
        }
        self.columns.push(event)?;
        let options = &self.log.inner.options;
        // Measuring bytes at every event would cost more than it saves.
        let full = self.columns.len() >= options.segment_events
            || (self.columns.len().is_multiple_of(1024) && self.columns.bytes() >= options.segment_bytes);
        if full { self.spill(false) } else { Ok(()) }
    }

    /// Stores what is left and notes that the source is done.
    pub fn commit(mut self) -> Result<BulkReport, LogError> {
        self.spill(true)?;
        self.wait()?;
        Ok(self.report)
    }

    /// Hands the columns to a thread that writes them while the next ones fill.
    fn spill(&mut self, done: bool) -> Result<(), LogError> {
        self.wait()?;
        let columns = std::mem::take(&mut self.columns);
        let inner = Arc::clone(&self.log.inner);
        let (source, times) = (self.source.clone(), self.times);
        // A source imported again may have grown: what it had stays counted.
        let before = if let Resume::Done(n) = self.resume { n } else { 0 };
        let state = SourceState { position: self.position.max(before), done };
        self.sealing = Some(std::thread::spawn(move || inner.seal(columns, &source, times, state)));
        Ok(())
    }

    fn wait(&mut self) -> Result<(), LogError> {
        let Some(sealing) = self.sealing.take() else { return Ok(()) };
        let sealed = sealing.join().unwrap_or_else(|_| {
            let reason = "the thread that writes the segment stopped".to_owned();
            Err(LogError::Store { dir: self.log.inner.segments_dir(), reason })
        })?;
        self.report.stored += sealed.stored;
        self.report.duplicates += sealed.duplicates;
        Ok(())
    }
}

impl Drop for Bulk<'_> {
    fn drop(&mut self) {
        // The result of an abandoned import is asked for by nobody; what it stored is in the log all the same.
        let _ = self.wait();
        self.log.inner.importing.lock().remove(&source_key(&self.source));
    }
}

pub(super) fn source_key(source: &str) -> Vec<u8> {
    // Sources may be long; keys should not.
    [SOURCE_PREFIX, blake3::hash(source.as_bytes()).as_bytes()].concat()
}

impl Inner {
    /// Writes the columns as a segment and makes it part of the log, together with how far the source has come.
    fn seal(
        &self,
        mut columns: Columns,
        source: &str,
        times: TimeQuality,
        progress: SourceState,
    ) -> Result<Sealed, LogError> {
        let pushed = columns.len() as u64;
        // Ids are compared with everything stored, so nobody may store anything in between. Imports without ids let
        // live writes pass while the file is written.
        let mut writer = (!columns.ids.is_empty()).then(|| self.writer.lock());
        if writer.is_some() {
            remove_duplicates(&mut columns, &self.read()?)?;
        }
        let count = columns.len() as u64;
        let number = self.unfinished.fetch_add(1, Ordering::Relaxed);
        let temporary = self.segments_dir().join(format!("unfinished-{number}"));
        let bytes = if count == 0 { 0 } else { segment::write(&columns, &temporary)? };
        drop(columns);
        if writer.is_none() {
            writer = Some(self.writer.lock());
        }
        self.register(source, times, progress, count, bytes, &temporary)?;
        drop(writer);
        Ok(Sealed { stored: count, duplicates: pushed - count })
    }

    fn register(
        &self,
        source: &str,
        times: TimeQuality,
        progress: SourceState,
        count: u64,
        bytes: u64,
        temporary: &std::path::Path,
    ) -> Result<(), LogError> {
        self.ensure_open()?;
        let mut state = State::clone(&self.state.read().clone());
        let mut batch = Batch::default();
        put(&mut batch, Table::Meta, &source_key(source), &progress);
        if count > 0 {
            let base = state.counters.offset;
            let file = format!("{:08}.seg", state.counters.next_segment);
            let path = self.segments_dir().join(&file);
            std::fs::rename(temporary, &path).map_err(LogError::io("rename", temporary))?;
            sync_folder(&self.segments_dir())?;
            let info =
                SegmentInfo { file: file.clone(), base, count, source: source.to_owned(), times, bytes };
            put(&mut batch, Table::Meta, &segment_key(base), &info);
            put(&mut batch, Table::Log, &offset_key(base + 1), &Record::Segment { file, count });
            state.segments.push(Arc::new(Segment::open(&self.segments_dir(), info)?));
            state.counters.offset += count;
            state.counters.events += count;
            state.counters.next_segment += 1;
        }
        self.commit(batch, state)
    }
}

/// Leaves out events whose id occurs earlier in the columns, in another segment, or in the store.
fn remove_duplicates(columns: &mut Columns, reader: &Reader) -> Result<(), LogError> {
    let mut ids = columns.ids.clone();
    ids.sort_unstable();
    let mut drop = vec![false; columns.len()];
    for run in ids.chunk_by(|a, b| a.0 == b.0) {
        // Nearly every run has one member; equal hashes of different ids are told apart by their text.
        let mut seen: Vec<String> = Vec::new();
        for &(_, row) in run.iter().filter(|_| run.len() > 1) {
            let id = columns.event_id(row);
            drop[row as usize] = seen.contains(&id);
            seen.push(id);
        }
    }
    for segment in &reader.state.segments {
        let mut other = 0;
        for &(hash, row) in &ids {
            while other < segment.ids() && segment.id_hash(other)? < hash {
                other += 1;
            }
            if other < segment.ids() && segment.id_hash(other)? == hash {
                for found in segment.find_event(&columns.event_id(row))? {
                    drop[row as usize] |= !reader.state.hides_row(segment, found)?;
                }
            }
        }
    }
    let mut live = false;
    reader.scan(Table::EventIds, std::ops::Bound::Unbounded, std::ops::Bound::Unbounded, false, |_, _| {
        live = true;
        Ok(false)
    })?;
    if live {
        for &(_, row) in &ids {
            drop[row as usize] |= reader.get(Table::EventIds, columns.event_id(row).as_bytes())?.is_some();
        }
    }
    if drop.contains(&true) {
        columns.remove(&drop);
    }
    Ok(())
}

/// Where imports stand, as `verify` reads it.
pub(super) fn check_source(key: &[u8], bytes: &[u8]) -> Result<(), String> {
    unseal::<SourceState>(key, bytes).map(|_| ())
}

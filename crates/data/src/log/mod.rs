//! The log: the durable record of events, revisions, slates and erasures of one space. Everything else is a view of it.
//!
//! ```
//! use sommelier_core::{Event, Time};
//! use sommelier_data::log::{Log, LogOptions};
//! # let dir = tempfile::tempdir()?;
//! let log = Log::open(dir.path(), &LogOptions::default())?;
//! log.append(vec![Event::new("u1", "i9", "view")], Time::from_millis(1_700_000_000_000)?)?;
//! let (newest_first, _) = log.user_events("u1", None, 10)?;
//! assert_eq!(newest_first[0].item, "i9");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Two places hold the records. What arrives live goes into an embedded store ([`crate::store`]), many callers'
//! writes in one synced batch. Imports go into segment files, columns laid out for scans; a batch in the store makes
//! a finished segment part of the log, so it is there whole or not at all. Every record has an offset, counted from 1.
//!
//! ```text
//! LOCK          held while open, with the process id
//! FORMAT        version and engine
//! acknowledged  offset of the newest acknowledged record: shows when a store has lost its tail
//! store/        the embedded store
//! segments/     segment files
//! ```
//!
//! **Erasure** hides at once and forever; live records are removed in the same batch. Bytes of erased records stay on
//! disk in old store files and in segments until [`Log::compact`] rewrites them.

mod backup;
mod bulk;
mod catalogue;
mod columns;
mod commit;
mod dict;
mod erase;
mod error;
mod map;
mod record;
mod scan;
mod segment;
mod snapshot;
mod verify;

pub use backup::{Digest, restore};
pub use bulk::{Bulk, BulkReport, Resume};
pub use columns::EventRef;
pub use commit::Appended;
pub use erase::{Erased, Erasure};
pub use error::{Damage, LogError};
pub use record::{EventKey, SlateRecord};
pub use scan::EventFacts;
pub use verify::verify;

use crate::store::{self, Batch, Store, StoreEngine, StoreError, Table, View};
use commit::Queue;
use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use record::{Counters, Record, offset_key, seal, unseal};
use segment::{Segment, SegmentInfo};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::Bound;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

const FORMAT_VERSION: &str = "1";
const COUNTERS: &[u8] = b"counters";
const SEGMENT_PREFIX: &[u8] = b"segment/";
const SOURCE_PREFIX: &[u8] = b"source/";
const ERASED_PREFIX: &[u8] = b"erased/";

#[derive(Debug, Clone)]
pub struct LogOptions {
    /// For a new log; an existing one keeps its engine.
    pub engine: StoreEngine,
    /// Memory for cached blocks of the store.
    pub cache_bytes: u64,
    /// An import becomes a segment file each time it has so many events…
    pub segment_events: usize,
    /// …or takes so much memory.
    pub segment_bytes: usize,
    /// Open a log whose newest acknowledged records are lost, with what is left.
    pub accept_loss: bool,
}

impl Default for LogOptions {
    fn default() -> LogOptions {
        LogOptions {
            engine: StoreEngine::Fjall,
            cache_bytes: 64 << 20,
            segment_events: 4_000_000,
            segment_bytes: 512 << 20,
            accept_loss: false,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct LogStats {
    /// Offset of the newest record.
    pub offset: u64,
    /// Events that have not been erased.
    pub events: u64,
    /// Items and users with a revision; ids that occur only in events are not counted.
    pub items: u64,
    pub users: u64,
    pub slates: u64,
    pub segments: u64,
    /// Bytes on disk, all files.
    pub bytes: u64,
}

/// An open log. Shared by reference between threads; closed when dropped.
pub struct Log {
    inner: Arc<Inner>,
}

/// The part that an import's background thread shares.
struct Inner {
    dir: PathBuf,
    options: LogOptions,
    engine: StoreEngine,
    /// `None` after a failed write, until the store has been opened again.
    store: RwLock<Option<Box<dyn Store>>>,
    queue: Queue,
    /// Held by whoever writes to the store.
    writer: Mutex<()>,
    state: RwLock<Arc<State>>,
    /// Sources being imported now, by their keys.
    importing: Mutex<HashSet<Vec<u8>>>,
    /// Numbers for segment files that are not part of the log yet.
    unfinished: AtomicU64,
    acknowledged: File,
    _lock: File,
}

/// What readers need besides the store; replaced whole by the writer.
#[derive(Clone, Default)]
struct State {
    counters: Counters,
    segments: Vec<Arc<Segment>>,
    /// Erased id → offset of the erasure: segments below it must not show the id.
    erased_users: BTreeMap<String, u64>,
    erased_items: BTreeMap<String, u64>,
}

impl State {
    fn hides_user(&self, user: &str, segment: &Segment) -> bool {
        self.erased_users.get(user).is_some_and(|&offset| offset > segment.info.base)
    }

    fn hides_item(&self, item: &str, segment: &Segment) -> bool {
        self.erased_items.get(item).is_some_and(|&offset| offset > segment.info.base)
    }

    /// Whether erasures hide this row of a segment.
    fn hides_row(&self, segment: &Segment, row: usize) -> Result<bool, LogError> {
        if self.erased_users.is_empty() && self.erased_items.is_empty() {
            return Ok(false);
        }
        let user = segment.user_id(segment.user_of_row(row)?)?;
        Ok(self.hides_user(user, segment)
            || self.hides_item(segment.item_id(segment.row(row)?.item)?, segment))
    }
}

/// A view of the store that keeps the store from being replaced, and the segments that belong to it.
struct Reader<'a> {
    view: Box<dyn View>,
    state: Arc<State>,
    inner: &'a Inner,
    _open: RwLockReadGuard<'a, Option<Box<dyn Store>>>,
}

impl Log {
    /// Opens the log in `dir`, or makes a new one there. At most one process has a log open.
    pub fn open(dir: &Path, options: &LogOptions) -> Result<Log, LogError> {
        std::fs::create_dir_all(dir).map_err(LogError::io("create", dir))?;
        let lock = lock(dir)?;
        let engine = format(dir, options.engine)?;
        let segments = dir.join("segments");
        std::fs::create_dir_all(&segments).map_err(LogError::io("create", &segments))?;
        let store_dir = dir.join("store");
        create_store(engine, &store_dir)?;
        let store =
            store::open(engine, &store_dir, options.cache_bytes).map_err(LogError::store(&store_dir))?;
        let state = read_state(dir, store.view().map_err(LogError::store(&store_dir))?.as_ref())?;
        remove_orphans(&segments, &state)?;
        let path = dir.join("acknowledged");
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let acknowledged = file.map_err(LogError::io("open", &path))?;
        let inner = Inner {
            dir: dir.to_owned(),
            options: options.clone(),
            engine,
            store: RwLock::new(Some(store)),
            queue: Queue::default(),
            writer: Mutex::new(()),
            state: RwLock::new(Arc::new(state)),
            importing: Mutex::default(),
            unfinished: AtomicU64::new(0),
            acknowledged,
            _lock: lock,
        };
        inner.check_acknowledged()?;
        Ok(Log { inner: Arc::new(inner) })
    }

    /// Offset of the newest record; 0 for an empty log.
    pub fn offset(&self) -> u64 {
        self.inner.state.read().counters.offset
    }

    pub fn stats(&self) -> Result<LogStats, LogError> {
        let state = self.inner.state.read().clone();
        let c = state.counters;
        Ok(LogStats {
            offset: c.offset,
            events: c.events,
            items: c.items,
            users: c.users,
            slates: c.slates,
            segments: state.segments.len() as u64,
            bytes: folder_bytes(&self.inner.dir),
        })
    }

    pub fn dir(&self) -> &Path {
        &self.inner.dir
    }

    /// Nothing is left to write when a call returns; this also syncs the mark that guards against a lost tail.
    pub fn flush(&self) -> Result<(), LogError> {
        self.inner.acknowledged.sync_all().map_err(LogError::io("sync", &self.inner.dir))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Nobody is left to hear of a failure, and the mark is only a second guard.
        let _ = self.acknowledged.sync_all();
    }
}

impl Inner {
    fn store_dir(&self) -> PathBuf {
        self.dir.join("store")
    }

    fn segments_dir(&self) -> PathBuf {
        self.dir.join("segments")
    }

    fn store_error(&self) -> impl FnOnce(StoreError) -> LogError + use<> {
        LogError::store(&self.store_dir())
    }

    fn damaged(&self, what: String, lost: &str) -> LogError {
        LogError::damaged(&self.store_dir(), what, lost)
    }

    /// A consistent view of everything. Segments are only ever added together with the batch that registers them, so
    /// taking the state first and the store second can at worst miss what is being written right now.
    fn read(&self) -> Result<Reader<'_>, LogError> {
        self.ensure_open()?;
        let open = self.store.read();
        let state = self.state.read().clone();
        let Some(store) = open.as_ref() else {
            return Err(LogError::Store { dir: self.store_dir(), reason: "it is being opened again".into() });
        };
        let view = store.view().map_err(self.store_error())?;
        Ok(Reader { view, state, inner: self, _open: open })
    }

    /// Opens the store again if a failed write has stopped it.
    fn ensure_open(&self) -> Result<(), LogError> {
        if self.store.read().is_some() {
            return Ok(());
        }
        let mut open = self.store.write();
        if open.is_none() {
            let store = store::open(self.engine, &self.store_dir(), self.options.cache_bytes);
            let store = store.map_err(self.store_error())?;
            // A batch whose sync failed may be there or not; the store knows.
            let state = read_state(&self.dir, store.view().map_err(self.store_error())?.as_ref())?;
            *self.state.write() = Arc::new(state);
            *open = Some(store);
        }
        Ok(())
    }

    /// Writes a batch and then shows `state` to readers. Only with `writer` held.
    fn commit(&self, mut batch: Batch, state: State) -> Result<(), LogError> {
        batch.put(Table::Meta, COUNTERS, seal(COUNTERS, &state.counters));
        let offset = state.counters.offset;
        let result = match self.store.read().as_ref() {
            Some(store) => store.commit(batch),
            None => Err(StoreError::Stopped),
        };
        if let Err(error) = result {
            // After a failed write the store's memory and disk may differ: it is closed, and opened from disk by
            // the next caller.
            *self.store.write() = None;
            return Err(self.store_error()(error));
        }
        *self.state.write() = Arc::new(state);
        self.mark_acknowledged(offset);
        Ok(())
    }

    /// Not synced: it survives a killed process at once and a power cut some seconds later, and is never ahead of
    /// what is durable.
    fn mark_acknowledged(&self, offset: u64) {
        let mut bytes = [0u8; 12];
        bytes[..8].copy_from_slice(&offset.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..8]);
        bytes[8..].copy_from_slice(&crc.to_le_bytes());
        if let Err(error) = self.acknowledged.write_all_at(&bytes, 0) {
            tracing::warn!(%error, "cannot write the acknowledged mark; the records themselves are safe");
        }
    }

    fn check_acknowledged(&self) -> Result<(), LogError> {
        let have = self.state.read().counters.offset;
        let marked = read_mark(&self.acknowledged);
        if marked > have {
            let mut damage = lost_tail(&self.store_dir(), have, marked);
            if !self.options.accept_loss {
                damage.remedy.push_str(", or open once with `accept_loss` to go on with what is left");
                return Err(LogError::Damaged(Box::new(damage)));
            }
            tracing::warn!("{}; going on without them, as asked", damage.what);
        }
        self.mark_acknowledged(have);
        Ok(())
    }
}

/// Offset of the newest acknowledged record; 0 where the mark is new or was torn by a power cut.
fn read_mark(file: &File) -> u64 {
    let mut bytes = [0u8; 12];
    match file.read_exact_at(&mut bytes, 0) {
        Ok(()) if crc32fast::hash(&bytes[..8]).to_le_bytes() == bytes[8..] => {
            u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"))
        }
        _ => 0,
    }
}

/// The store opened, but ends before the newest acknowledged record.
fn lost_tail(store_dir: &Path, have: u64, marked: u64) -> Damage {
    let what = format!("the store ends at offset {have}, records up to {marked} were acknowledged");
    Damage::new(store_dir, what, format!("offsets {} to {marked}", have + 1))
}

impl Reader<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, LogError> {
        self.view.get(table, key).map_err(self.inner.store_error())
    }

    fn read<T: DeserializeOwned>(&self, table: Table, key: &[u8]) -> Result<Option<T>, LogError> {
        let bytes = self.get(table, key)?;
        bytes.map(|bytes| self.unseal(table, key, &bytes)).transpose()
    }

    fn unseal<T: DeserializeOwned>(&self, table: Table, key: &[u8], bytes: &[u8]) -> Result<T, LogError> {
        unseal(key, bytes).map_err(|what| self.inner.damaged_value(table, key, &what))
    }

    fn record(&self, offset: u64) -> Result<Option<Record>, LogError> {
        self.read(Table::Log, &offset_key(offset))
    }

    /// Visits a range; the visitor's error ends the scan and is returned.
    fn scan(
        &self,
        table: Table,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        reverse: bool,
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<bool, LogError>,
    ) -> Result<(), LogError> {
        let mut error = None;
        let scanned = self.view.scan(table, from, to, reverse, &mut |key, value| match visit(key, value) {
            Ok(more) => more,
            Err(e) => {
                error = Some(e);
                false
            }
        });
        scanned.map_err(self.inner.store_error())?;
        error.map_or(Ok(()), Err)
    }
}

impl Inner {
    fn damaged_value(&self, table: Table, key: &[u8], what: &str) -> LogError {
        let whose = match table {
            Table::ByUser | Table::ByItem => match record::read_event_key(key) {
                Ok((id, k)) => format!("the event of {id:?} at time {} with offset {}", k.at, k.offset),
                Err(_) => "one event".to_owned(),
            },
            Table::Log => match key.try_into().map(u64::from_be_bytes) {
                Ok(offset) => format!("the record at offset {offset}"),
                Err(_) => "one record".to_owned(),
            },
            _ => format!("the entry {:?}", String::from_utf8_lossy(key)),
        };
        self.damaged(format!("table {}: {what}", table.name()), &whose)
    }
}

/// Prefix scans end where the prefix, read as a number, is one larger.
fn prefix_end(prefix: &[u8]) -> Bound<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return Bound::Excluded(end);
        }
    }
    Bound::Unbounded
}

fn lock(dir: &Path) -> Result<File, LogError> {
    let path = dir.join("LOCK");
    let file = File::options().read(true).write(true).create(true).truncate(false).open(&path);
    let mut file = file.map_err(LogError::io("open", &path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(std::fs::TryLockError::WouldBlock) => {
            let mut pid = String::new();
            // The holder may be about to write its id; then the message goes without.
            let _ = file.read_to_string(&mut pid);
            return Err(LogError::Busy { dir: dir.to_owned(), pid: pid.trim().parse().ok() });
        }
        Err(std::fs::TryLockError::Error(e)) => return Err(LogError::io("lock", &path)(e)),
    }
    let written = file
        .set_len(0)
        .and_then(|()| file.seek(SeekFrom::Start(0)))
        .and_then(|_| writeln!(file, "{}", std::process::id()));
    if let Err(error) = written {
        // The lock itself holds; only the hint for others is missing, as on a full disk.
        tracing::debug!(%error, "cannot write the process id into the lock file");
    }
    Ok(file)
}

/// Reads which engine a log has, or notes it for a new one.
fn format(dir: &Path, wanted: StoreEngine) -> Result<StoreEngine, LogError> {
    let path = dir.join("FORMAT");
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            let mut words = text.split_whitespace();
            let version = words.next().unwrap_or_default();
            if version != FORMAT_VERSION {
                let received = version.chars().take(20).collect();
                return Err(LogError::Version { dir: dir.to_owned(), expected: 1, received });
            }
            let engine = words.next().and_then(StoreEngine::from_name);
            engine.ok_or_else(|| LogError::damaged(&path, "it names no engine we know", "the whole log"))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            if dir.join("store").exists() {
                return Err(LogError::damaged(&path, "the file is missing beside a store", "the whole log"));
            }
            write_synced(&path, format!("{FORMAT_VERSION} {}\n", wanted.name()).as_bytes())?;
            Ok(wanted)
        }
        Err(e) => Err(LogError::io("read", &path)(e)),
    }
}

/// Makes a new store under another name first: an engine that dies half-way through its first files would not open
/// what it left.
fn create_store(engine: StoreEngine, store_dir: &Path) -> Result<(), LogError> {
    if store_dir.exists() {
        return Ok(());
    }
    let temporary = store_dir.with_extension("new");
    if temporary.exists() {
        std::fs::remove_dir_all(&temporary).map_err(LogError::io("remove", &temporary))?;
    }
    drop(store::open(engine, &temporary, 1 << 20).map_err(LogError::store(&temporary))?);
    std::fs::rename(&temporary, store_dir).map_err(LogError::io("rename", &temporary))?;
    sync_folder(store_dir.parent().unwrap_or(Path::new(".")))
}

/// Writes a small file whole or not at all.
fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), LogError> {
    let temporary = path.with_extension("tmp");
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    write().map_err(LogError::io("write", path))?;
    sync_folder(path.parent().unwrap_or(Path::new(".")))
}

fn sync_folder(dir: &Path) -> Result<(), LogError> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(LogError::io("sync", dir))
}

fn segment_key(base: u64) -> Vec<u8> {
    [SEGMENT_PREFIX, &base.to_be_bytes()].concat()
}

fn erased_key(item: bool, id: &str) -> Vec<u8> {
    [ERASED_PREFIX, if item { b"i" } else { b"u" }, id.as_bytes()].concat()
}

/// Counters, segments and erasures as the store has them.
fn read_state(dir: &Path, view: &dyn View) -> Result<State, LogError> {
    let store_dir = dir.join("store");
    let damaged =
        |what: String| LogError::damaged(&store_dir, what, "counters, imports or erasures of this log");
    let mut state = State::default();
    if let Some(bytes) = view.get(Table::Meta, COUNTERS).map_err(LogError::store(&store_dir))? {
        state.counters = unseal(COUNTERS, &bytes).map_err(damaged)?;
    }
    let mut entries: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    for prefix in [SEGMENT_PREFIX, ERASED_PREFIX] {
        let end = prefix_end(prefix);
        view.scan(
            Table::Meta,
            Bound::Included(prefix),
            end.as_ref().map(Vec::as_slice),
            false,
            &mut |k, v| {
                entries.push((k.to_vec(), v.to_vec()));
                true
            },
        )
        .map_err(LogError::store(&store_dir))?;
    }
    for (key, value) in entries {
        if key.starts_with(SEGMENT_PREFIX) {
            let info: SegmentInfo = unseal(&key, &value).map_err(damaged)?;
            state.segments.push(Arc::new(Segment::open(&dir.join("segments"), info)?));
        } else {
            let offset: u64 = unseal(&key, &value).map_err(damaged)?;
            let rest = &key[ERASED_PREFIX.len()..];
            let id = String::from_utf8_lossy(&rest[1..]).into_owned();
            let list = if rest[0] == b'i' { &mut state.erased_items } else { &mut state.erased_users };
            list.insert(id, offset);
        }
    }
    Ok(state)
}

/// Segment files that never became part of the log: a crash came between the file and its batch.
fn remove_orphans(segments: &Path, state: &State) -> Result<(), LogError> {
    let known: HashSet<&str> = state.segments.iter().map(|s| s.info.file.as_str()).collect();
    for entry in std::fs::read_dir(segments).map_err(LogError::io("read", segments))? {
        let entry = entry.map_err(LogError::io("read", segments))?;
        if !entry.file_name().to_str().is_some_and(|name| known.contains(name)) {
            std::fs::remove_file(entry.path()).map_err(LogError::io("remove", &entry.path()))?;
        }
    }
    Ok(())
}

/// Bytes of all files below `dir`; files that vanish meanwhile do not count.
fn folder_bytes(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(m) if m.is_dir() => folder_bytes(&entry.path()),
            Ok(m) => m.len(),
            Err(_) => 0,
        })
        .sum()
}

/// Puts a sealed value under a key.
fn put<T: Serialize>(batch: &mut Batch, table: Table, key: &[u8], value: &T) {
    batch.put(table, key, seal(key, value));
}

//! The seam under the log: a few ordered tables, atomic synced batches, consistent views; fjall and redb behind it.

mod fjall;
mod redb;

use serde::{Deserialize, Serialize};
use std::ops::Bound;
use std::path::Path;

/// Which embedded engine keeps the live part of a log. A log remembers the engine it was made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreEngine {
    /// A log-structured merge tree: fast to write at any size.
    #[default]
    Fjall,
    /// A B-tree in one file: faster to read, slower to write.
    Redb,
}

impl StoreEngine {
    pub fn name(self) -> &'static str {
        match self {
            StoreEngine::Fjall => "fjall",
            StoreEngine::Redb => "redb",
        }
    }

    pub fn from_name(name: &str) -> Option<StoreEngine> {
        [StoreEngine::Fjall, StoreEngine::Redb].into_iter().find(|engine| engine.name() == name)
    }
}

/// The ordered tables of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Table {
    /// Offset → what was stored there.
    Log,
    /// User, time, offset → the event.
    ByUser,
    /// Item, time, offset → the user whose event it is.
    ByItem,
    /// Event id → where the event is.
    EventIds,
    /// Item id → its newest revision.
    Items,
    /// User id → its newest revision.
    Users,
    /// Slate id → the slate.
    Slates,
    /// User, slate id → nothing: which slates an erasure must find.
    UserSlates,
    /// Counters, segments, import positions, erasures.
    Meta,
}

impl Table {
    pub const ALL: [Table; 9] = [
        Table::Log,
        Table::ByUser,
        Table::ByItem,
        Table::EventIds,
        Table::Items,
        Table::Users,
        Table::Slates,
        Table::UserSlates,
        Table::Meta,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Table::Log => "log",
            Table::ByUser => "by_user",
            Table::ByItem => "by_item",
            Table::EventIds => "event_ids",
            Table::Items => "items",
            Table::Users => "users",
            Table::Slates => "slates",
            Table::UserSlates => "user_slates",
            Table::Meta => "meta",
        }
    }

    /// Position in [`Table::ALL`].
    pub fn number(self) -> usize {
        self as usize
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    #[error("no space is left on the disk")]
    Full,
    #[error("another process has the store open")]
    Locked,
    #[error("the store stopped after a failed write")]
    Stopped,
    #[error("the store is damaged: {0}")]
    Damaged(String),
    #[error("the store failed: {0}")]
    Failed(String),
}

/// Puts and removals that become visible and durable together.
#[derive(Debug, Default)]
pub struct Batch {
    pub(crate) changes: Vec<(Table, Vec<u8>, Option<Vec<u8>>)>,
}

impl Batch {
    pub fn put(&mut self, table: Table, key: impl Into<Vec<u8>>, value: Vec<u8>) {
        self.changes.push((table, key.into(), Some(value)));
    }

    pub fn remove(&mut self, table: Table, key: impl Into<Vec<u8>>) {
        self.changes.push((table, key.into(), None));
    }

    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

/// Called with each key and value of a scan; `false` ends it.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> bool + 'a;

/// The tables as they were at one moment.
pub trait View: Send {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Visits the keys between the bounds in order, or in reverse order.
    fn scan(
        &self,
        table: Table,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        reverse: bool,
        visit: &mut Visit,
    ) -> Result<(), StoreError>;
}

/// An embedded store. Later changes to a key win within a batch.
pub trait Store: Send + Sync {
    fn view(&self) -> Result<Box<dyn View>, StoreError>;
    /// Applies a batch; when it returns, the batch is on disk whole.
    fn commit(&self, batch: Batch) -> Result<(), StoreError>;
    /// Frees what removed and replaced values still take.
    fn compact(&mut self) -> Result<(), StoreError>;
}

/// Opens the store in `dir`, or makes a new one there.
pub fn open(engine: StoreEngine, dir: &Path, cache_bytes: u64) -> Result<Box<dyn Store>, StoreError> {
    // The engines assert on some kinds of damage; a damaged file must end in words all the same.
    let opened = std::panic::catch_unwind(|| -> Result<Box<dyn Store>, StoreError> {
        match engine {
            StoreEngine::Fjall => Ok(Box::new(fjall::Fjall::open(dir, cache_bytes)?)),
            StoreEngine::Redb => Ok(Box::new(redb::Redb::open(dir, cache_bytes)?)),
        }
    });
    opened.unwrap_or_else(|cause| {
        let words = cause.downcast_ref::<String>().map(String::as_str);
        let words = words.or_else(|| cause.downcast_ref::<&str>().copied());
        Err(StoreError::Damaged(words.unwrap_or("the engine gave up reading it").to_owned()))
    })
}

/// Full disks are told apart from other failures because they pass.
fn from_io(error: &std::io::Error) -> StoreError {
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => StoreError::Full,
        std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::InvalidData => {
            StoreError::Damaged(error.to_string())
        }
        _ => StoreError::Failed(error.to_string()),
    }
}

fn owned(bound: Bound<&[u8]>) -> Bound<Vec<u8>> {
    bound.map(<[u8]>::to_vec)
}

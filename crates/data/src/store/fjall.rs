//! The store on fjall, a log-structured merge tree: one keyspace per table, one journal for all.

use super::{Batch, Store, StoreError, Table, View, Visit, from_io, owned};
use ::fjall::compaction::Leveled;
use ::fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable, Snapshot};
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// What a killed process leaves in the journal is read again when the store opens: about a second for each 64 MiB.
const JOURNAL_BYTES: u64 = 128 << 20;
/// Small, so that the journal's oldest part is soon in the tables and can go.
const MEMTABLE_BYTES: u64 = 32 << 20;
/// Tables of the first level before they are merged into the next. Twice the usual: while one worker of fjall's merges,
/// another spins on the merges that wait (3.1.13, `worker_tick`), and answering needs that core. One worker alone would
/// not do: it blocks for good on its own full queue.
const UNMERGED_TABLES: u8 = 8;

pub(super) struct Fjall {
    db: Database,
    tables: Arc<Vec<Keyspace>>,
}

impl Fjall {
    pub(super) fn open(dir: &Path, cache_bytes: u64) -> Result<Fjall, StoreError> {
        let db = Database::builder(dir)
            .cache_size(cache_bytes)
            .max_journaling_size(JOURNAL_BYTES)
            .open()
            .map_err(|e| from_fjall(&e))?;
        let merging = Arc::new(Leveled::default().with_l0_threshold(UNMERGED_TABLES));
        let options = || {
            KeyspaceCreateOptions::default()
                .max_memtable_size(MEMTABLE_BYTES)
                .compaction_strategy(merging.clone())
        };
        let tables = Table::ALL
            .iter()
            .map(|table| db.keyspace(table.name(), options))
            .collect::<Result<_, _>>()
            .map_err(|e| from_fjall(&e))?;
        Ok(Fjall { db, tables: Arc::new(tables) })
    }
}

impl Store for Fjall {
    fn view(&self) -> Result<Box<dyn View>, StoreError> {
        Ok(Box::new(FjallView { snapshot: self.db.snapshot(), tables: Arc::clone(&self.tables) }))
    }

    fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        let mut write = self.db.batch().durability(Some(PersistMode::SyncData));
        for (table, key, value) in batch.changes {
            let keyspace = &self.tables[table.number()];
            match value {
                Some(value) => write.insert(keyspace, key, value),
                None => write.remove(keyspace, key),
            }
        }
        write.commit().map_err(|e| from_fjall(&e))
    }

    fn compact(&mut self) -> Result<(), StoreError> {
        self.flush()?;
        self.tables.iter().try_for_each(|keyspace| keyspace.major_compact().map_err(|e| from_fjall(&e)))
    }
}

impl Fjall {
    /// Writes what is only in the journal into the tables. fjall's own call for it waits forever where a write fails,
    /// as on a full disk; this one asks whether the database still works.
    fn flush(&self) -> Result<(), StoreError> {
        for keyspace in self.tables.iter() {
            keyspace.rotate_memtable().map_err(|e| from_fjall(&e))?;
        }
        while self.tables.iter().any(|keyspace| keyspace.sealed_memtable_count() > 0) {
            self.db.persist(PersistMode::Buffer).map_err(|e| from_fjall(&e))?;
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

impl Drop for Fjall {
    fn drop(&mut self) {
        // So that the next open has little to replay. If it fails nothing is lost: the journal has it all.
        if let Err(error) = self.flush() {
            tracing::debug!(%error, "the store was closed without flushing");
        }
    }
}

struct FjallView {
    snapshot: Snapshot,
    tables: Arc<Vec<Keyspace>>,
}

impl View for FjallView {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let value = self.snapshot.get(&self.tables[table.number()], key).map_err(|e| from_fjall(&e))?;
        Ok(value.map(|v| v.to_vec()))
    }

    fn scan(
        &self,
        table: Table,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        reverse: bool,
        visit: &mut Visit,
    ) -> Result<(), StoreError> {
        let mut range = self.snapshot.range(&self.tables[table.number()], (owned(from), owned(to)));
        loop {
            let next = if reverse { range.next_back() } else { range.next() };
            let Some(entry) = next else { return Ok(()) };
            let (key, value) = entry.into_inner().map_err(|e| from_fjall(&e))?;
            if !visit(&key, &value) {
                return Ok(());
            }
        }
    }
}

fn from_fjall(error: &::fjall::Error) -> StoreError {
    use ::fjall::Error;
    match error {
        Error::Io(io) => from_io(io),
        Error::Locked => StoreError::Locked,
        Error::Poisoned => StoreError::Stopped,
        other => {
            let words = format!("{other:?}");
            if words.contains("StorageFull") { StoreError::Full } else { StoreError::Damaged(words) }
        }
    }
}

//! The store on fjall, a log-structured merge tree: one keyspace per table, one journal for all.

use super::{Batch, Store, StoreError, Table, View, Visit, from_io, owned};
use ::fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable, Snapshot};
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

pub(super) struct Fjall {
    db: Database,
    tables: Arc<Vec<Keyspace>>,
}

impl Fjall {
    pub(super) fn open(dir: &Path, cache_bytes: u64) -> Result<Fjall, StoreError> {
        let db = Database::builder(dir).cache_size(cache_bytes).open().map_err(|e| from_fjall(&e))?;
        let tables = Table::ALL
            .iter()
            .map(|table| db.keyspace(table.name(), KeyspaceCreateOptions::default))
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
        for keyspace in self.tables.iter() {
            keyspace.rotate_memtable_and_wait().map_err(|e| from_fjall(&e))?;
            keyspace.major_compact().map_err(|e| from_fjall(&e))?;
        }
        Ok(())
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

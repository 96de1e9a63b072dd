//! The store on redb, a B-tree in one file: the second implementation, which keeps the first one honest.

use super::{Batch, Store, StoreError, Table, View, Visit, from_io};
use ::redb::{Database, Durability, ReadTransaction, ReadableDatabase, TableDefinition};
use std::ops::Bound;
use std::path::Path;

pub(super) struct Redb {
    db: Database,
}

fn definition(table: Table) -> TableDefinition<'static, &'static [u8], &'static [u8]> {
    TableDefinition::new(table.name())
}

impl Redb {
    pub(super) fn open(dir: &Path, cache_bytes: u64) -> Result<Redb, StoreError> {
        std::fs::create_dir_all(dir).map_err(|e| from_io(&e))?;
        let cache = usize::try_from(cache_bytes).unwrap_or(usize::MAX);
        let db = Database::builder().set_cache_size(cache).create(dir.join("log.redb")).map_err(fail)?;
        let write = db.begin_write().map_err(fail)?;
        for table in Table::ALL {
            write.open_table(definition(table)).map_err(fail)?;
        }
        write.commit().map_err(fail)?;
        Ok(Redb { db })
    }
}

impl Store for Redb {
    fn view(&self) -> Result<Box<dyn View>, StoreError> {
        Ok(Box::new(RedbView(self.db.begin_read().map_err(fail)?)))
    }

    fn commit(&self, mut batch: Batch) -> Result<(), StoreError> {
        let mut write = self.db.begin_write().map_err(fail)?;
        write.set_durability(Durability::Immediate).map_err(|e| StoreError::Failed(e.to_string()))?;
        // Table by table, since redb lends each table once; the sort is stable, so the last change to a key wins.
        batch.changes.sort_by_key(|change| change.0);
        for run in batch.changes.chunk_by(|a, b| a.0 == b.0) {
            let mut table = write.open_table(definition(run[0].0)).map_err(fail)?;
            for (_, key, value) in run {
                match value {
                    Some(value) => drop(table.insert(key.as_slice(), value.as_slice()).map_err(fail)?),
                    None => drop(table.remove(key.as_slice()).map_err(fail)?),
                }
            }
        }
        write.commit().map_err(fail)
    }

    fn compact(&mut self) -> Result<(), StoreError> {
        self.db.compact().map(|_| ()).map_err(fail)
    }
}

struct RedbView(ReadTransaction);

impl View for RedbView {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let table = self.0.open_table(definition(table)).map_err(fail)?;
        Ok(table.get(key).map_err(fail)?.map(|v| v.value().to_vec()))
    }

    fn scan(
        &self,
        table: Table,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        reverse: bool,
        visit: &mut Visit,
    ) -> Result<(), StoreError> {
        let table = self.0.open_table(definition(table)).map_err(fail)?;
        let mut range = table.range::<&[u8]>((from, to)).map_err(fail)?;
        loop {
            let next = if reverse { range.next_back() } else { range.next() };
            let Some(entry) = next else { return Ok(()) };
            let (key, value) = entry.map_err(fail)?;
            if !visit(key.value(), value.value()) {
                return Ok(());
            }
        }
    }
}

fn fail(error: impl Into<::redb::Error>) -> StoreError {
    use ::redb::Error;
    match error.into() {
        Error::Io(io) => from_io(&io),
        Error::DatabaseAlreadyOpen => StoreError::Locked,
        Error::PreviousIo | Error::DatabaseClosed => StoreError::Stopped,
        Error::Corrupted(words) => StoreError::Damaged(words),
        other => StoreError::Failed(other.to_string()),
    }
}

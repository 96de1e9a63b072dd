//! Erasure: a user or an item leaves the log at once; `compact` then takes the bytes off the disk.

use super::columns::Columns;
use super::record::{
    Entry, Record, StoredEvent, StoredSlate, event_key, id_prefix, json, offset_key, read_event_key,
};
use super::segment::{self, Segment, SegmentInfo};
use super::{
    Log, LogError, Reader, SlateRecord, State, erased_key, prefix_end, put, segment_key, sync_folder,
};
use crate::store::{Batch, Table};
use serde::{Deserialize, Serialize};
use sommelier_core::check_id;
use std::ops::Bound;
use std::sync::Arc;

/// Who or what is to be forgotten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Erasure {
    /// Events, revisions and slates of a user.
    User(String),
    /// Events and revisions of an item, and its place in every slate.
    Item(String),
}

/// What was erased.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Erased {
    pub events: u64,
    /// Whether there was a current revision.
    pub revision: bool,
    /// Slates removed (user) or shortened (item).
    pub slates: u64,
    /// Offset of the erasure in the log.
    pub offset: u64,
}

impl Log {
    /// Erases: no later read shows any of it, and when the call returns that is durable. The bytes leave the disk
    /// with [`Log::compact`]. New events of the same id are new.
    pub fn erase(&self, what: &Erasure) -> Result<Erased, LogError> {
        let (item, id) = match what {
            Erasure::User(id) => (false, id),
            Erasure::Item(id) => (true, id),
        };
        check_id(if item { "item" } else { "user" }, id)?;
        let _writer = self.inner.writer.lock();
        let (batch, state, erased) = {
            let reader = self.inner.read()?;
            let mut eraser = Eraser { reader: &reader, batch: Batch::default(), erased: Erased::default() };
            eraser.live_events(item, id)?;
            eraser.revisions(item, id)?;
            if item {
                eraser.item_in_slates(id)?;
            } else {
                eraser.user_slates(id)?;
            }
            eraser.finish(item, id)?
        };
        self.inner.commit(batch, state)?;
        Ok(erased)
    }

    /// Rewrites what erasures have left behind, in segments and in the store, so that the bytes are gone. Reading
    /// goes on meanwhile; writing waits.
    pub fn compact(&self) -> Result<(), LogError> {
        let _writer = self.inner.writer.lock();
        self.inner.rewrite_segments()?;
        self.inner.ensure_open()?;
        match self.inner.store.write().as_mut() {
            Some(store) => store.compact().map_err(self.inner.store_error()),
            None => Ok(()),
        }
    }
}

struct Eraser<'a> {
    reader: &'a Reader<'a>,
    batch: Batch,
    erased: Erased,
}

impl Eraser<'_> {
    fn live_events(&mut self, item: bool, id: &str) -> Result<(), LogError> {
        let table = if item { Table::ByItem } else { Table::ByUser };
        let (reader, batch, erased) = (self.reader, &mut self.batch, &mut self.erased);
        let from = id_prefix(id);
        let to = prefix_end(&from);
        reader.scan(table, Bound::Included(&from), to.as_ref().map(Vec::as_slice), false, |bytes, value| {
            let damaged = |what: String| reader.inner.damaged_value(table, bytes, &what);
            let (_, key) = read_event_key(bytes).map_err(damaged)?;
            let user = if item { reader.unseal(table, bytes, value)? } else { id.to_owned() };
            let by_user = event_key(&user, key);
            let stored: Option<StoredEvent> = reader.read(Table::ByUser, &by_user)?;
            let stored = stored.ok_or_else(|| damaged("it points to an event that is not there".into()))?;
            if let Some(event_id) = &stored.extra.id {
                batch.remove(Table::EventIds, event_id.as_bytes());
            }
            batch.remove(Table::ByItem, event_key(&stored.item, key));
            batch.remove(Table::ByUser, by_user);
            put(batch, Table::Log, &offset_key(key.offset), &Record::Erased);
            erased.events += 1;
            Ok(true)
        })
    }

    /// Follows the chain of revisions back to the first.
    fn revisions(&mut self, item: bool, id: &str) -> Result<(), LogError> {
        let table = if item { Table::Items } else { Table::Users };
        let Some(entry) = self.reader.read::<Entry>(table, id.as_bytes())? else { return Ok(()) };
        self.erased.revision = entry.json.is_some();
        let mut next = Some(entry.offset).filter(|&o| o > 0);
        while let Some(offset) = next {
            next = match self.reader.record(offset)? {
                Some(Record::Item { previous, .. } | Record::User { previous, .. }) => previous,
                _ => None,
            };
            put(&mut self.batch, Table::Log, &offset_key(offset), &Record::Erased);
        }
        if !item {
            self.batch.remove(table, id.as_bytes());
        }
        Ok(())
    }

    fn user_slates(&mut self, user: &str) -> Result<(), LogError> {
        let from = id_prefix(user);
        let to = prefix_end(&from);
        let mut ids = Vec::new();
        self.reader.scan(
            Table::UserSlates,
            Bound::Included(&from),
            to.as_ref().map(Vec::as_slice),
            false,
            |key, _| {
                ids.push(key[from.len()..].to_vec());
                Ok(true)
            },
        )?;
        for id in ids {
            if let Some(slate) = self.reader.read::<StoredSlate>(Table::Slates, &id)? {
                put(&mut self.batch, Table::Log, &offset_key(slate.offset), &Record::Erased);
                self.batch.remove(Table::Slates, id.as_slice());
                self.erased.slates += 1;
            }
            self.batch.remove(Table::UserSlates, [from.as_slice(), &id].concat());
        }
        Ok(())
    }

    /// Takes the item out of every slate. Slates are not indexed by item, so this reads all of them: erasing an item is
    /// rare, showing one is not.
    fn item_in_slates(&mut self, item: &str) -> Result<(), LogError> {
        let (reader, batch, erased) = (self.reader, &mut self.batch, &mut self.erased);
        reader.scan(Table::Slates, Bound::Unbounded, Bound::Unbounded, false, |key, value| {
            let stored: StoredSlate = reader.unseal(Table::Slates, key, value)?;
            let mut record: SlateRecord = reader.parse(Table::Slates, key, &stored.json)?;
            let before = record.slate.items.len();
            record.slate.items.retain(|shown| shown.item != item);
            if record.slate.items.len() < before {
                put(batch, Table::Slates, key, &StoredSlate { offset: stored.offset, json: json(&record) });
                erased.slates += 1;
            }
            Ok(true)
        })
    }

    fn finish(mut self, item: bool, id: &str) -> Result<(Batch, State, Erased), LogError> {
        let mut state = State::clone(&self.reader.state);
        let mut in_segments = 0;
        for segment in &state.segments {
            in_segments += visible_rows(&state, segment, item, id)?;
        }
        let counters = &mut state.counters;
        counters.offset += 1;
        self.erased.offset = counters.offset;
        self.erased.events += in_segments;
        counters.events -= self.erased.events;
        if item {
            counters.items -= u64::from(self.erased.revision);
            // The id of an erased item stays, so that nothing brings it back; it describes nobody.
            put(&mut self.batch, Table::Items, id.as_bytes(), &Entry { offset: 0, json: None });
        } else {
            counters.users -= u64::from(self.erased.revision);
            counters.slates -= self.erased.slates;
        }
        put(&mut self.batch, Table::Log, &offset_key(counters.offset), &Record::Erasure { item });
        let mut kept = false;
        for segment in &state.segments {
            kept |= if item { segment.find_item(id)? } else { segment.find_user(id)? }.is_some();
        }
        if kept {
            put(&mut self.batch, Table::Meta, &erased_key(item, id), &self.erased.offset);
            let list = if item { &mut state.erased_items } else { &mut state.erased_users };
            list.insert(id.to_owned(), self.erased.offset);
        }
        Ok((self.batch, state, self.erased))
    }
}

/// How many rows of the id a segment shows.
fn visible_rows(state: &State, segment: &Segment, item: bool, id: &str) -> Result<u64, LogError> {
    let mut rows = 0;
    if item {
        let Some(ix) = segment.find_item(id)?.filter(|_| !state.hides_item(id, segment)) else {
            return Ok(0);
        };
        for place in segment.item_places(ix)? {
            rows += u64::from(!state.hides_row(segment, segment.item_row(place)?)?);
        }
    } else {
        let Some(ix) = segment.find_user(id)?.filter(|_| !state.hides_user(id, segment)) else {
            return Ok(0);
        };
        for row in segment.user_rows(ix)? {
            rows += u64::from(!state.hides_row(segment, row)?);
        }
    }
    Ok(rows)
}

impl super::Inner {
    /// Writes each segment with erased rows again without them; then the notes of the erasures can go too.
    fn rewrite_segments(&self) -> Result<(), LogError> {
        let mut batch = Batch::default();
        let mut state = State::clone(&self.state.read().clone());
        if state.erased_users.is_empty() && state.erased_items.is_empty() {
            return Ok(());
        }
        let mut old = Vec::new();
        for at in 0..state.segments.len() {
            let segment = Arc::clone(&state.segments[at]);
            let Some(columns) = remaining(&state, &segment)? else { continue };
            let file = format!("{:08}.seg", state.counters.next_segment);
            state.counters.next_segment += 1;
            let path = self.segments_dir().join(&file);
            let bytes = segment::write(&columns, &path)?;
            let info = SegmentInfo { file, bytes, ..segment.info.clone() };
            put(&mut batch, Table::Meta, &segment_key(info.base), &info);
            let record = Record::Segment { file: info.file.clone(), count: info.count };
            put(&mut batch, Table::Log, &offset_key(info.base + 1), &record);
            state.segments[at] = Arc::new(Segment::open(&self.segments_dir(), info)?);
            old.push(segment.path().to_owned());
        }
        for (item, list) in [(false, &state.erased_users), (true, &state.erased_items)] {
            for id in list.keys() {
                batch.remove(Table::Meta, erased_key(item, id));
            }
        }
        state.erased_users.clear();
        state.erased_items.clear();
        sync_folder(&self.segments_dir())?;
        self.commit(batch, state)?;
        for path in old {
            std::fs::remove_file(&path).map_err(LogError::io("remove", &path))?;
        }
        Ok(())
    }
}

/// A segment's rows without the hidden ones, in order of arrival; `None` where none is hidden.
fn remaining(state: &State, segment: &Segment) -> Result<Option<Columns>, LogError> {
    let mut columns = Columns::default();
    let mut hidden = false;
    for &row in segment.by_arrival()? {
        let row = row as usize;
        if state.hides_row(segment, row)? {
            hidden = true;
            continue;
        }
        let r = segment.row(row)?;
        columns.user.push(columns.users.intern(segment.user_id(segment.user_of_row(row)?)?));
        columns.item.push(columns.items.intern(segment.item_id(r.item)?));
        let kind = columns.kind_number(segment.kind_name(r.kind)?)?;
        columns.kind.push(kind);
        columns.at.push(r.at);
        columns.value.push(r.value.unwrap_or(f64::NAN));
        columns.seq.push(r.seq);
        if let Some(extra) = segment.extra(row)? {
            columns.push_extra((columns.len() - 1) as u32, &extra);
        }
    }
    Ok(hidden.then_some(columns))
}

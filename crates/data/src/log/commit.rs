//! Group commit: callers queue their writes, one of them writes for all, and each returns once its write is on disk.

use super::record::{
    Counters, Entry, EventKey, Record, StoredEvent, StoredSlate, event_key, json, offset_key,
};
use super::{Inner, Log, LogError, Reader, SlateRecord, State, put};
use crate::store::{Batch, Table};
use parking_lot::Mutex;
use sommelier_core::{Event, Item, Time, User};
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

/// Writes gathered into one batch at most; more wait for the next.
const GROUP: usize = 1024;

/// What became of an append.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Appended {
    pub stored: usize,
    /// Events whose id the log already had; acknowledged and not stored again.
    pub duplicates: usize,
    /// Indices of the duplicates in the call.
    pub repeated: Vec<u32>,
    /// Offset of the log after this call.
    pub offset: u64,
}

/// What a queued write asks for. The values have been checked.
pub(super) enum Write {
    Append(Vec<Event>, Time),
    Items(Vec<Item>),
    Users(Vec<User>),
    /// `true` for an item.
    Delete(bool, String),
    Slates(Vec<Arc<SlateRecord>>),
}

#[derive(Debug, Clone)]
pub(super) enum Done {
    Appended(Appended),
    Deleted(bool),
    Written,
}

type Slot = Arc<Mutex<Option<Result<Done, LogError>>>>;

#[derive(Default)]
pub(super) struct Queue(Mutex<VecDeque<(Write, Slot)>>);

impl Log {
    /// Stores events; when it returns they are on disk. All of a call are stored, or none. An event without `at`
    /// gets `now`; one whose id is already in the log (or earlier in the call) is acknowledged and not stored.
    pub fn append(&self, events: Vec<Event>, now: Time) -> Result<Appended, LogError> {
        for (index, event) in events.iter().enumerate() {
            event.check().map_err(|reason| LogError::Event { index, reason })?;
        }
        if events.is_empty() {
            return Ok(Appended { offset: self.offset(), ..Appended::default() });
        }
        match self.inner.submit(Write::Append(events, now))? {
            Done::Appended(appended) => Ok(appended),
            Done::Deleted(_) | Done::Written => unreachable!("an append answers with what it appended"),
        }
    }
}

impl Inner {
    /// Queues a write and waits until somebody, perhaps this thread, has committed it.
    pub(super) fn submit(&self, write: Write) -> Result<Done, LogError> {
        let slot: Slot = Slot::default();
        self.queue.0.lock().push_back((write, Arc::clone(&slot)));
        let _writer = self.writer.lock();
        // Whoever held the lock before may have written ours.
        if let Some(result) = slot.lock().take() {
            return result;
        }
        loop {
            let group: Vec<(Write, Slot)> = {
                let mut queue = self.queue.0.lock();
                let count = queue.len().min(GROUP);
                queue.drain(..count).collect()
            };
            self.commit_group(group);
            if let Some(result) = slot.lock().take() {
                return result;
            }
        }
    }

    fn commit_group(&self, group: Vec<(Write, Slot)>) {
        let (writes, slots): (Vec<Write>, Vec<Slot>) = group.into_iter().unzip();
        match self.write_all(writes) {
            Ok(done) => slots.iter().zip(done).for_each(|(slot, done)| *slot.lock() = Some(Ok(done))),
            Err(error) => slots.iter().for_each(|slot| *slot.lock() = Some(Err(error.clone()))),
        }
    }

    fn write_all(&self, writes: Vec<Write>) -> Result<Vec<Done>, LogError> {
        let (batch, state, done) = {
            let mut pen = Pen::new(self.read()?);
            let done = writes.into_iter().map(|w| pen.write(w)).collect::<Result<Vec<_>, _>>()?;
            (pen.batch, State { counters: pen.counters, ..State::clone(&pen.reader.state) }, done)
        };
        // A group of nothing but duplicates changes nothing.
        if !batch.is_empty() {
            self.commit(batch, state)?;
        }
        Ok(done)
    }
}

/// Turns writes into changes, each seeing the ones before it.
struct Pen<'a> {
    reader: Reader<'a>,
    batch: Batch,
    counters: Counters,
    new_ids: HashSet<String>,
    /// By kind (`true` for items) and id: entries changed in this batch.
    entries: HashMap<(bool, String), Entry>,
    slates: HashMap<String, u64>,
}

impl<'a> Pen<'a> {
    fn new(reader: Reader<'a>) -> Pen<'a> {
        let counters = reader.state.counters;
        Pen {
            reader,
            batch: Batch::default(),
            counters,
            new_ids: HashSet::new(),
            entries: HashMap::new(),
            slates: HashMap::new(),
        }
    }

    fn write(&mut self, write: Write) -> Result<Done, LogError> {
        match write {
            Write::Append(events, now) => self.append(events, now).map(Done::Appended),
            Write::Items(items) => {
                for item in items {
                    self.revise(true, &item.id, Some(json(&item)))?;
                }
                Ok(Done::Written)
            }
            Write::Users(users) => {
                for user in users {
                    self.revise(false, &user.id, Some(json(&user)))?;
                }
                Ok(Done::Written)
            }
            Write::Delete(item, id) => self.revise(item, &id, None).map(Done::Deleted),
            Write::Slates(slates) => {
                for slate in slates {
                    self.slate(&slate)?;
                }
                Ok(Done::Written)
            }
        }
    }

    fn next_offset(&mut self, record: &Record) -> u64 {
        self.counters.offset += 1;
        put(&mut self.batch, Table::Log, &offset_key(self.counters.offset), record);
        self.counters.offset
    }

    fn append(&mut self, events: Vec<Event>, now: Time) -> Result<Appended, LogError> {
        let mut repeated = Vec::new();
        let total = events.len();
        for (index, event) in events.into_iter().enumerate() {
            if let Some(id) = &event.id
                && self.knows_event(id)?
            {
                repeated.push(index as u32);
            } else {
                self.event(event, now);
            }
        }
        let duplicates = repeated.len();
        Ok(Appended { stored: total - duplicates, duplicates, repeated, offset: self.counters.offset })
    }

    fn knows_event(&self, id: &str) -> Result<bool, LogError> {
        Ok(self.new_ids.contains(id) || self.reader.knows_event(id)?)
    }

    fn event(&mut self, event: Event, now: Time) {
        let at = event.at.unwrap_or(now).millis();
        let record = Record::Event { user: event.user.clone(), item: event.item.clone(), at };
        let key = EventKey { at, offset: self.next_offset(&record) };
        let by_user = event_key(&event.user, key);
        put(&mut self.batch, Table::ByItem, &event_key(&event.item, key), &event.user);
        if let Some(id) = &event.id {
            put(&mut self.batch, Table::EventIds, id.as_bytes(), &by_user);
            self.new_ids.insert(id.clone());
        }
        put(&mut self.batch, Table::ByUser, &by_user, &StoredEvent::from_event(event));
        self.counters.events += 1;
    }

    /// Stores a revision, or with `None` a deletion; answers whether there was something before.
    fn revise(&mut self, item: bool, id: &str, revision: Option<String>) -> Result<bool, LogError> {
        let table = if item { Table::Items } else { Table::Users };
        let before = match self.entries.get(&(item, id.to_owned())) {
            Some(entry) => Some(entry.clone()),
            None => self.reader.read::<Entry>(table, id.as_bytes())?,
        };
        let existed = before.as_ref().is_some_and(|e| e.json.is_some());
        if revision.is_none() && !existed {
            return Ok(false);
        }
        let count = if item { &mut self.counters.items } else { &mut self.counters.users };
        *count = *count + u64::from(revision.is_some()) - u64::from(existed);
        let (id_owned, previous) = (id.to_owned(), before.map(|e| e.offset).filter(|&o| o > 0));
        let record = if item {
            Record::Item { id: id_owned, revision: revision.clone(), previous }
        } else {
            Record::User { id: id_owned, revision: revision.clone(), previous }
        };
        let entry = Entry { offset: self.next_offset(&record), json: revision };
        put(&mut self.batch, table, id.as_bytes(), &entry);
        self.entries.insert((item, id.to_owned()), entry);
        Ok(existed)
    }

    fn slate(&mut self, slate: &SlateRecord) -> Result<(), LogError> {
        let id = slate.slate.id.clone();
        // A slate recorded again replaces the first and keeps its offset.
        let before = match self.slates.get(&id) {
            Some(&offset) => Some(offset),
            None => self.reader.read::<StoredSlate>(Table::Slates, id.as_bytes())?.map(|s| s.offset),
        };
        let offset = if let Some(offset) = before {
            offset
        } else {
            self.counters.slates += 1;
            self.next_offset(&Record::Slate { id: id.clone() })
        };
        if let Some(user) = slate.user.as_ref().or(slate.query.user.as_ref()) {
            let key = super::catalogue::user_slate_key(user, &id);
            put(&mut self.batch, Table::UserSlates, &key, &());
        }
        put(&mut self.batch, Table::Slates, id.as_bytes(), &StoredSlate { offset, json: json(slate) });
        self.slates.insert(id, offset);
        Ok(())
    }
}

impl Reader<'_> {
    /// Whether an event with this id is in the log and not erased.
    pub(super) fn knows_event(&self, id: &str) -> Result<bool, LogError> {
        if self.get(Table::EventIds, id.as_bytes())?.is_some() {
            return Ok(true);
        }
        for segment in &self.state.segments {
            for row in segment.find_event(id)? {
                if !self.state.hides_row(segment, row)? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}

//! Verification: reads everything a log holds, checks every checksum and every pointer, and lists all damage.

use super::record::{
    Counters, Entry, EventKey, Record, StoredEvent, StoredSlate, event_key, offset_key, read_event_key,
    unseal,
};
use super::segment::{Segment, SegmentInfo};
use super::{
    COUNTERS, Damage, LogError, SEGMENT_PREFIX, SOURCE_PREFIX, StoreEngine, bulk, format, lock, lost_tail,
    read_mark,
};
use crate::store::{self, Table, View};
use std::fs::File;
use std::ops::Bound;
use std::path::Path;

/// More of the same is counted and not listed.
const LISTED: usize = 1000;

/// Checks the log in `dir`, which nobody may have open. An empty list means that every block, value and pointer is as it
/// was written. Damage is listed, not returned as an error; errors are a folder that is in use or cannot be read.
pub fn verify(dir: &Path) -> Result<Vec<Damage>, LogError> {
    if !dir.join("FORMAT").exists() {
        let reason = "there is no log here (no file FORMAT)".to_owned();
        return Err(LogError::Io { doing: "verify", path: dir.to_owned(), reason });
    }
    let _lock = lock(dir)?;
    let mut found = Found { list: Vec::new(), more: 0 };
    let store_dir = dir.join("store");
    let opened = format(dir, StoreEngine::default()).and_then(|engine| {
        store::open(engine, &store_dir, 16 << 20)
            .and_then(|store| Ok((store.view()?, store)))
            .map_err(LogError::store(&store_dir))
    });
    let (view, _store) = match opened {
        Ok(opened) => opened,
        Err(LogError::Damaged(damage)) => return Ok(vec![*damage]),
        Err(other) => return Err(other),
    };
    let mut check = Check {
        dir,
        store_dir: &store_dir,
        view: view.as_ref(),
        found: &mut found,
        counted: Counters::default(),
    };
    check.segments();
    check.events();
    check.log();
    check.catalogue();
    check.counters();
    check.acknowledged();
    Ok(found.finish(&store_dir))
}

struct Found {
    list: Vec<Damage>,
    more: usize,
}

impl Found {
    fn add(&mut self, damage: Damage) {
        if self.list.len() < LISTED {
            self.list.push(damage);
        } else {
            self.more += 1;
        }
    }

    fn finish(mut self, store_dir: &Path) -> Vec<Damage> {
        if self.more > 0 {
            self.list.push(Damage::new(
                store_dir,
                format!("{} more places are damaged", self.more),
                "see above",
            ));
        }
        self.list
    }
}

struct Check<'a> {
    dir: &'a Path,
    store_dir: &'a Path,
    view: &'a dyn View,
    found: &'a mut Found,
    /// What was found, to compare with what the counters say.
    counted: Counters,
}

impl Check<'_> {
    fn report(&mut self, what: impl Into<String>, lost: impl Into<String>) {
        self.found.add(Damage::new(self.store_dir, what, lost));
    }

    /// Every pair of a table, in order; a table that cannot be read on is reported with how far it went.
    fn each(&mut self, table: Table, mut visit: impl FnMut(&mut Self, &[u8], &[u8])) {
        let view = self.view;
        let mut pairs = 0u64;
        let scanned = view.scan(table, Bound::Unbounded, Bound::Unbounded, false, &mut |key, value| {
            pairs += 1;
            visit(self, key, value);
            true
        });
        if let Err(error) = scanned {
            let lost = format!("whatever table {} holds after its first {pairs} entries", table.name());
            self.report(error.to_string(), lost);
        }
    }

    fn has(&self, table: Table, key: &[u8]) -> bool {
        matches!(self.view.get(table, key), Ok(Some(_)))
    }

    fn segments(&mut self) {
        self.each(Table::Meta, |check, key, value| {
            if key.starts_with(SOURCE_PREFIX) {
                if let Err(what) = bulk::check_source(key, value) {
                    check.report(format!("an import position: {what}"), "where an import was cut off");
                }
            } else if key.starts_with(SEGMENT_PREFIX) {
                match unseal::<SegmentInfo>(key, value) {
                    Ok(info) => check.segment(info),
                    Err(what) => {
                        check.report(format!("a segment entry: {what}"), "the events of one import batch");
                    }
                }
            }
        });
    }

    fn segment(&mut self, info: SegmentInfo) {
        match Segment::open(&self.dir.join("segments"), info) {
            Ok(segment) => segment.verify().into_iter().for_each(|damage| self.found.add(damage)),
            Err(LogError::Damaged(damage)) => self.found.add(*damage),
            Err(other) => self.report(other.to_string(), "the events of one import batch"),
        }
    }

    fn events(&mut self) {
        self.each(Table::ByUser, |check, bytes, value| {
            let (user, key) = match read_event_key(bytes) {
                Ok(read) => read,
                Err(what) => return check.report(what, "one event"),
            };
            check.counted.events += 1;
            let whose = || format!("the event of {user:?} at offset {}", key.offset);
            match unseal::<StoredEvent>(bytes, value) {
                Err(what) => check.report(format!("table by_user: {what}"), whose()),
                Ok(event) => {
                    if !check.has(Table::ByItem, &event_key(&event.item, key)) {
                        check.report("an event is missing from table by_item", whose());
                    }
                    if !check.has(Table::Log, &offset_key(key.offset)) {
                        check.report("an event is missing from table log", whose());
                    }
                    if let Some(id) = &event.extra.id
                        && !check.has(Table::EventIds, id.as_bytes())
                    {
                        check.report("an event id is missing from table event_ids", whose());
                    }
                }
            }
        });
        self.each(Table::ByItem, |check, bytes, value| {
            let (item, key) = match read_event_key(bytes) {
                Ok(read) => read,
                Err(what) => return check.report(what, "one entry of an item's events"),
            };
            let whose = || format!("the event on item {item:?} at offset {}", key.offset);
            match unseal::<String>(bytes, value) {
                Err(what) => check.report(format!("table by_item: {what}"), whose()),
                Ok(user) if !check.has(Table::ByUser, &event_key(&user, key)) => {
                    check.report("table by_item points to an event that is not there", whose());
                }
                Ok(_) => {}
            }
        });
        self.each(Table::EventIds, |check, id, value| {
            let whose = || format!("the event with id {:?}", String::from_utf8_lossy(id));
            match unseal::<Vec<u8>>(id, value) {
                Err(what) => check.report(format!("table event_ids: {what}"), whose()),
                Ok(key) if !check.has(Table::ByUser, &key) => {
                    check.report("table event_ids points to an event that is not there", whose());
                }
                Ok(_) => {}
            }
        });
    }

    fn log(&mut self) {
        let mut expected = 1u64;
        self.each(Table::Log, |check, key, value| {
            let Ok(offset) = key.try_into().map(u64::from_be_bytes) else {
                return check.report("a key of table log cannot be read", "one record");
            };
            if offset != expected {
                check.report(
                    "records are missing from table log",
                    format!("offsets {expected} to {}", offset - 1),
                );
            }
            expected = offset + 1;
            check.counted.offset = offset;
            let whose = format!("the record at offset {offset}");
            match unseal::<Record>(key, value) {
                Err(what) => check.report(format!("table log: {what}"), whose),
                Ok(Record::Event { user, item, at }) => {
                    let at = EventKey { at, offset };
                    if !check.has(Table::ByUser, &event_key(&user, at)) {
                        check.report("the log points to an event that is not there", whose.clone());
                    }
                    if !check.has(Table::ByItem, &event_key(&item, at)) {
                        check.report("an event of the log is missing from its item's events", whose);
                    }
                }
                Ok(Record::Slate { id }) if !check.has(Table::Slates, id.as_bytes()) => {
                    check.report("the log points to a slate that is not there", whose);
                }
                Ok(Record::Segment { count, .. }) => {
                    expected = offset + count;
                    check.counted.offset = expected - 1;
                }
                Ok(_) => {}
            }
        });
    }

    fn catalogue(&mut self) {
        for table in [Table::Items, Table::Users] {
            self.each(table, |check, id, value| {
                let whose = || format!("the properties of {:?}", String::from_utf8_lossy(id));
                match unseal::<Entry>(id, value) {
                    Err(what) => check.report(format!("table {}: {what}", table.name()), whose()),
                    Ok(entry) => {
                        let live = u64::from(entry.json.is_some());
                        let count = if table == Table::Items {
                            &mut check.counted.items
                        } else {
                            &mut check.counted.users
                        };
                        *count += live;
                        if entry.offset > 0 && !check.has(Table::Log, &offset_key(entry.offset)) {
                            check.report("a revision is missing from table log", whose());
                        }
                    }
                }
            });
        }
        self.each(Table::Slates, |check, id, value| {
            check.counted.slates += 1;
            if let Err(what) = unseal::<StoredSlate>(id, value) {
                let whose = format!("the slate {:?}", String::from_utf8_lossy(id));
                check.report(format!("table slates: {what}"), whose);
            }
        });
    }

    fn acknowledged(&mut self) {
        let marked = File::open(self.dir.join("acknowledged")).map_or(0, |file| read_mark(&file));
        if marked > self.counted.offset {
            self.found.add(lost_tail(self.store_dir, self.counted.offset, marked));
        }
    }

    /// Events are left out: those of segments are counted less what erasures hide.
    fn counters(&mut self) {
        let bytes = match self.view.get(Table::Meta, COUNTERS) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => {
                if self.counted != Counters::default() {
                    self.report("the counters are missing", "how much the log holds");
                }
                return;
            }
            Err(error) => return self.report(error.to_string(), "how much the log holds"),
        };
        match unseal::<Counters>(COUNTERS, &bytes) {
            Err(what) => self.report(format!("the counters: {what}"), "how much the log holds"),
            Ok(said) => {
                let c = self.counted;
                let pairs = [
                    ("offset", said.offset, c.offset),
                    ("items", said.items, c.items),
                    ("users", said.users, c.users),
                    ("slates", said.slates, c.slates),
                ];
                for (name, said, counted) in pairs {
                    if said != counted {
                        let what = format!("the counters say {name} {said}, counted {counted}");
                        self.report(what, "records between the two, if any");
                    }
                }
            }
        }
    }
}

//! A log read whole: the columnar snapshot that everything is fitted on and evaluated with.

use super::columns::MAX_KINDS;
use super::record::{StoredEvent, read_event_key};
use super::segment::{Section, Segment, u32s, u64s};
use super::{Log, LogError, Reader};
use crate::rules::Weigher;
use crate::snapshot::{Events, KindRules, Snapshot, TimeQuality};
use crate::store::Table;
use sommelier_core::{Item, User, Vocab};
use std::ops::Bound;
use std::sync::Arc;

/// A number that stands for "not shown".
const HIDDEN: u32 = u32::MAX;

/// Live events in the order of the store: by user, then time, then arrival.
#[derive(Default)]
struct Live {
    user: Vec<u32>,
    item: Vec<u32>,
    kind: Vec<u8>,
    at: Vec<i64>,
    value: Vec<f64>,
    offset: Vec<u64>,
}

/// A segment's numbers in those of the snapshot, [`HIDDEN`] where erased.
struct Mapped<'a> {
    segment: &'a Segment,
    users: Vec<u32>,
    items: Vec<u32>,
    kinds: Vec<u8>,
    hides_items: bool,
}

impl Log {
    /// Everything the log shows now. Users and items come in the order of import (segments first, oldest first), then
    /// live ones in the order of their ids, then those that have only a revision.
    pub fn snapshot(&self, name: &str, rules: &KindRules) -> Result<Snapshot, LogError> {
        // Between two batches, so that segments and live records are of the same offset.
        let reader = {
            let _writer = self.inner.writer.lock();
            self.inner.read()?
        };
        let (mut users, mut items, mut kinds) = (Vocab::new(), Vocab::new(), Vec::new());
        let mut parts = Vec::new();
        for segment in &reader.state.segments {
            parts.push(reader.mapped(segment, &mut users, &mut items, &mut kinds)?);
        }
        let live = reader.live_events(&mut users, &mut items, &mut kinds)?;
        let item_list: Vec<Item> = reader.page(Table::Items, None, usize::MAX)?;
        let user_list: Vec<User> = reader.page(Table::Users, None, usize::MAX)?;
        for item in &item_list {
            items.intern(&item.id);
        }
        for user in &user_list {
            users.intern(&user.id);
        }

        let mut times = TimeQuality::Clock;
        for part in &parts {
            times = worse(times, part.segment.info.times);
        }
        let mut newest = live.at.iter().copied().max().unwrap_or(i64::MIN);
        for part in &parts {
            newest = newest.max(part.segment.newest());
        }
        let weigher = Weigher::new(rules, &kinds, newest, times)?;
        let events = assemble(&parts, &live, users.len(), &weigher)?;

        let mut item_info = vec![None; items.len()];
        for item in item_list {
            let ix = items.intern(&item.id) as usize;
            item_info[ix] = Some(item);
        }
        let mut user_info = vec![None; users.len()];
        for user in user_list {
            let ix = users.intern(&user.id) as usize;
            user_info[ix] = Some(user);
        }
        let offset = reader.state.counters.offset;
        let mut snapshot = Snapshot::assemble(name, offset, users, items, kinds, times, events);
        snapshot.item_info = Arc::new(item_info);
        snapshot.user_info = Arc::new(user_info);
        Ok(snapshot)
    }
}

fn worse(a: TimeQuality, b: TimeQuality) -> TimeQuality {
    let rank = |t| match t {
        TimeQuality::Clock => 0,
        TimeQuality::Order => 1,
        TimeQuality::None => 2,
    };
    if rank(b) > rank(a) { b } else { a }
}

fn kind_number(kinds: &mut Vec<String>, kind: &str) -> Result<u8, LogError> {
    if let Some(k) = kinds.iter().position(|k| k == kind) {
        return Ok(k as u8);
    }
    if kinds.len() == MAX_KINDS {
        return Err(LogError::TooManyKinds { limit: MAX_KINDS, kind: kind.to_owned() });
    }
    kinds.push(kind.to_owned());
    Ok((kinds.len() - 1) as u8)
}

impl Reader<'_> {
    fn mapped<'s>(
        &self,
        segment: &'s Segment,
        users: &mut Vocab,
        items: &mut Vocab,
        kinds: &mut Vec<String>,
    ) -> Result<Mapped<'s>, LogError> {
        let item_map = (0..segment.items() as u32).map(|ix| {
            let id = segment.item_id(ix)?;
            Ok(if self.state.hides_item(id, segment) { HIDDEN } else { items.intern(id) })
        });
        let item_map = item_map.collect::<Result<Vec<u32>, LogError>>()?;
        let user_map = (0..segment.users() as u32).map(|ix| {
            let id = segment.user_id(ix)?;
            Ok(if self.state.hides_user(id, segment) { HIDDEN } else { users.intern(id) })
        });
        let user_map = user_map.collect::<Result<Vec<u32>, LogError>>()?;
        let kind_map =
            segment.kinds().iter().map(|kind| kind_number(kinds, kind)).collect::<Result<_, _>>()?;
        let hides_items = item_map.contains(&HIDDEN);
        Ok(Mapped { segment, users: user_map, items: item_map, kinds: kind_map, hides_items })
    }

    fn live_events(
        &self,
        users: &mut Vocab,
        items: &mut Vocab,
        kinds: &mut Vec<String>,
    ) -> Result<Live, LogError> {
        let mut live = Live::default();
        self.scan(Table::ByUser, Bound::Unbounded, Bound::Unbounded, false, |bytes, value| {
            let (user, key) = read_event_key(bytes)
                .map_err(|what| self.inner.damaged_value(Table::ByUser, bytes, &what))?;
            let stored: StoredEvent = self.unseal(Table::ByUser, bytes, value)?;
            live.user.push(users.intern(user));
            live.item.push(items.intern(&stored.item));
            live.kind.push(kind_number(kinds, &stored.kind)?);
            live.at.push(key.at);
            live.value.push(stored.value.unwrap_or(f64::NAN));
            live.offset.push(key.offset);
            Ok(true)
        })?;
        Ok(live)
    }
}

/// Lays all parts out by user. Within one part a user's events are in order already; only users with events in
/// several parts need sorting.
fn assemble(parts: &[Mapped], live: &Live, users: usize, weigher: &Weigher) -> Result<Events, LogError> {
    let mut counts = vec![0usize; users + 1];
    let mut sources = vec![0u8; users];
    for part in parts {
        for (ix, &user) in part.users.iter().enumerate() {
            if user != HIDDEN {
                let rows = part.segment.user_rows(ix as u32)?;
                let rows = visible(part, rows)?;
                counts[user as usize + 1] += rows;
                sources[user as usize] = sources[user as usize].saturating_add(u8::from(rows > 0));
            }
        }
    }
    for run in live.user.chunk_by(|a, b| a == b) {
        counts[run[0] as usize + 1] += run.len();
        sources[run[0] as usize] = sources[run[0] as usize].saturating_add(1);
    }
    let mut ptr = counts;
    for u in 0..users {
        ptr[u + 1] += ptr[u];
    }
    let total = ptr[users];
    let mut next = ptr.clone();
    let mut out = Filled::new(total);
    for part in parts {
        out.fill_segment(part, &mut next)?;
    }
    for e in 0..live.user.len() {
        let at = &mut next[live.user[e] as usize];
        out.set(*at, live.item[e], live.kind[e], live.at[e], live.value[e]);
        out.offset[*at] = live.offset[e];
        *at += 1;
    }
    for u in (0..users).filter(|&u| sources[u] > 1) {
        out.sort(ptr[u]..ptr[u + 1]);
    }
    Ok(out.finish(ptr, weigher))
}

/// How many of a user's rows are shown.
fn visible(part: &Mapped, rows: std::ops::Range<usize>) -> Result<usize, LogError> {
    if !part.hides_items {
        return Ok(rows.len());
    }
    let items = part.segment.bytes(Section::Item, rows.start * 4..rows.end * 4)?;
    Ok(u32s(items).filter(|&i| part.items[i as usize] != HIDDEN).count())
}

struct Filled {
    item: Vec<u32>,
    kind: Vec<u8>,
    at: Vec<i64>,
    value: Vec<f64>,
    offset: Vec<u64>,
}

impl Filled {
    fn new(events: usize) -> Filled {
        Filled {
            item: vec![0; events],
            kind: vec![0; events],
            at: vec![0; events],
            value: vec![0.0; events],
            offset: vec![0; events],
        }
    }

    fn set(&mut self, e: usize, item: u32, kind: u8, at: i64, value: f64) {
        self.item[e] = item;
        self.kind[e] = kind;
        self.at[e] = at;
        self.value[e] = value;
    }

    fn fill_segment(&mut self, part: &Mapped, next: &mut [usize]) -> Result<(), LogError> {
        let s = part.segment;
        let items: Vec<u32> = u32s(s.section(Section::Item)?).collect();
        let kinds = s.section(Section::Kind)?;
        let at: Vec<u64> = u64s(s.section(Section::At)?).collect();
        let seq: Vec<u32> = u32s(s.section(Section::Seq)?).collect();
        let values = s.values()?;
        for (ix, &user) in part.users.iter().enumerate() {
            if user == HIDDEN {
                continue;
            }
            let to = &mut next[user as usize];
            for row in s.user_rows(ix as u32)? {
                let item = part.items[items[row] as usize];
                if item == HIDDEN {
                    continue;
                }
                let kind = part.kinds[kinds.get(row).copied().unwrap_or(0) as usize];
                self.set(*to, item, kind, at[row] as i64, values.get(row).copied().unwrap_or(f64::NAN));
                self.offset[*to] = s.info.base + 1 + u64::from(seq[row]);
                *to += 1;
            }
        }
        Ok(())
    }

    fn sort(&mut self, range: std::ops::Range<usize>) {
        let mut order: Vec<usize> = range.clone().collect();
        order.sort_unstable_by_key(|&e| (self.at[e], self.offset[e]));
        reorder(&mut self.item[range.clone()], &order, range.start);
        reorder(&mut self.kind[range.clone()], &order, range.start);
        reorder(&mut self.at[range.clone()], &order, range.start);
        reorder(&mut self.value[range.clone()], &order, range.start);
        reorder(&mut self.offset[range.clone()], &order, range.start);
    }

    fn finish(self, ptr: Vec<usize>, weigher: &Weigher) -> Events {
        let weight = |e: usize| {
            let value = self.value[e];
            weigher.weight(self.kind[e], (!value.is_nan()).then_some(value as f32), self.at[e])
        };
        let weight = (0..self.item.len()).map(weight).collect();
        let value = self.value.iter().map(|v| if v.is_nan() { 1.0 } else { *v as f32 }).collect();
        Events { ptr, item: self.item, kind: self.kind, at: self.at, value, weight }
    }
}

fn reorder<T: Copy>(column: &mut [T], order: &[usize], start: usize) {
    let sorted: Vec<T> = order.iter().map(|&e| column[e - start]).collect();
    column.copy_from_slice(&sorted);
}

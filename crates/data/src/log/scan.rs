//! Reading events: of a user or an item newest first, and all of them in order of arrival.

use super::record::{EventKey, Record, StoredEvent, event_key, id_prefix, read_event_key};
use super::segment::search;
use super::{Log, LogError, Reader, Segment, prefix_end};
use crate::store::Table;
use sommelier_core::{Event, Time};
use std::ops::Bound;
use std::sync::Arc;

/// A page of events, and where the next one begins, if there is more.
type Page = (Vec<Event>, Option<EventKey>);

impl Log {
    /// The user's events, newest first (equal times: last arrived first), at most `limit`, those before `before`.
    pub fn user_events(&self, user: &str, before: Option<EventKey>, limit: usize) -> Result<Page, LogError> {
        let reader = self.inner.read()?;
        let mut found: Vec<(EventKey, Event)> = Vec::new();
        reader.newest_keys(Table::ByUser, user, before, limit, |key, bytes, value| {
            let stored: StoredEvent = reader.unseal(Table::ByUser, bytes, value)?;
            found.push((key, stored.into_event(user, key.at)));
            Ok(())
        })?;
        for segment in &reader.state.segments {
            if reader.state.hides_user(user, segment) {
                continue;
            }
            let Some(ix) = segment.find_user(user)? else { continue };
            let rows = segment.user_rows(ix)?;
            let end = match before {
                Some(key) => rows.start + segment.rows_before(rows.clone(), key, Ok)?,
                None => rows.end,
            };
            let mut taken = 0;
            for row in (rows.start..end).rev() {
                if taken > limit {
                    break;
                }
                if !reader.hides_item_of(segment, row)? {
                    let key = EventKey { at: segment.at(row)?, offset: segment.offset(row)? };
                    found.push((key, segment.event(row, user)?));
                    taken += 1;
                }
            }
        }
        Ok(newest(found, limit))
    }

    /// The item's events, like [`Log::user_events`].
    pub fn item_events(&self, item: &str, before: Option<EventKey>, limit: usize) -> Result<Page, LogError> {
        let reader = self.inner.read()?;
        let mut found: Vec<(EventKey, Event)> = Vec::new();
        reader.newest_keys(Table::ByItem, item, before, limit, |key, bytes, value| {
            let user: String = reader.unseal(Table::ByItem, bytes, value)?;
            let by_user = event_key(&user, key);
            let stored: Option<StoredEvent> = reader.read(Table::ByUser, &by_user)?;
            let stored = stored.ok_or_else(|| {
                reader.inner.damaged_value(Table::ByItem, bytes, "it points to an event that is not there")
            })?;
            found.push((key, stored.into_event(&user, key.at)));
            Ok(())
        })?;
        for segment in &reader.state.segments {
            if reader.state.hides_item(item, segment) {
                continue;
            }
            let Some(ix) = segment.find_item(item)? else { continue };
            let places = segment.item_places(ix)?;
            let end = match before {
                Some(key) => {
                    places.start + segment.rows_before(places.clone(), key, |p| segment.item_row(p))?
                }
                None => places.end,
            };
            let mut taken = 0;
            for place in (places.start..end).rev() {
                if taken > limit {
                    break;
                }
                let row = segment.item_row(place)?;
                let user = segment.user_id(segment.user_of_row(row)?)?;
                if !reader.state.hides_user(user, segment) {
                    let key = EventKey { at: segment.at(row)?, offset: segment.offset(row)? };
                    found.push((key, segment.event(row, user)?));
                    taken += 1;
                }
            }
        }
        Ok(newest(found, limit))
    }

    /// Stored events with an offset larger than `offset`, in order of arrival, at most `limit`, and the offset reached:
    /// the next call begins there, and it equals [`Log::offset`] at the end. Erased events are left out.
    pub fn events_after(&self, offset: u64, limit: usize) -> Result<(Vec<Event>, u64), LogError> {
        let reader = self.inner.read()?;
        let mut events = Vec::new();
        let mut reached = offset;
        let last = reader.state.counters.offset;
        while reached < last && events.len() < limit {
            let next = reached + 1;
            let segment = reader
                .state
                .segments
                .iter()
                .find(|s| s.info.base < next && next <= s.info.base + s.info.count)
                .map(Arc::clone);
            match segment {
                Some(segment) => reached = reader.arrivals(&segment, reached, limit, &mut events)?,
                None => reached = reader.live_arrivals(reached, limit, &mut events)?,
            }
        }
        Ok((events, reached))
    }

    /// Visits the stored events with an offset larger than `offset`, in no particular order, and answers the offset
    /// reached. Much faster than [`Log::events_after`] for what was imported: nothing is copied out of a segment.
    pub fn each_after(&self, offset: u64, visit: &mut dyn FnMut(EventFacts)) -> Result<u64, LogError> {
        let reader = self.inner.read()?;
        let segments = &reader.state.segments;
        let mut page = Vec::new();
        let mut reached = offset;
        let last = reader.state.counters.offset;
        while reached < last {
            let next = reached + 1;
            match segments.iter().find(|s| s.info.base < next && next <= s.info.base + s.info.count) {
                Some(whole) if whole.info.base == reached => {
                    for row in 0..whole.rows() {
                        if !reader.state.hides_row(whole, row)? {
                            let r = whole.row(row)?;
                            let (item, kind) = (whole.item_id(r.item)?, whole.kind_name(r.kind)?);
                            visit(EventFacts {
                                item,
                                kind,
                                value: r.value,
                                at: Time::from_millis(r.at).unwrap_or_default(),
                            });
                        }
                    }
                    reached = whole.info.base + whole.info.count;
                }
                Some(part) => reached = reader.arrivals(part, reached, VISITED, &mut page)?,
                None => reached = reader.live_arrivals(reached, VISITED, &mut page)?,
            }
            for event in page.drain(..) {
                let at = event.at.unwrap_or_default();
                visit(EventFacts { item: &event.item, kind: &event.kind, value: event.value, at });
            }
        }
        Ok(reached)
    }
}

/// What of an event its item is judged by.
#[derive(Debug, Clone, Copy)]
pub struct EventFacts<'a> {
    pub item: &'a str,
    pub kind: &'a str,
    pub value: Option<f64>,
    pub at: Time,
}

/// Live events read at a time.
const VISITED: usize = 10_000;

/// The `limit` newest, and a cursor where there are more.
fn newest(mut found: Vec<(EventKey, Event)>, limit: usize) -> Page {
    found.sort_unstable_by_key(|(key, _)| std::cmp::Reverse(*key));
    let more = found.len() > limit;
    found.truncate(limit);
    let next = if more { found.last().map(|(key, _)| *key) } else { None };
    (found.into_iter().map(|(_, event)| event).collect(), next)
}

impl Reader<'_> {
    fn hides_item_of(&self, segment: &Segment, row: usize) -> Result<bool, LogError> {
        if self.state.erased_items.is_empty() {
            return Ok(false);
        }
        Ok(self.state.hides_item(segment.item_id(segment.row(row)?.item)?, segment))
    }

    /// Visits the newest `limit + 1` live keys of an id: one more than asked for shows that there is more.
    fn newest_keys(
        &self,
        table: Table,
        id: &str,
        before: Option<EventKey>,
        limit: usize,
        mut visit: impl FnMut(EventKey, &[u8], &[u8]) -> Result<(), LogError>,
    ) -> Result<(), LogError> {
        if id.len() > sommelier_core::MAX_ID_BYTES {
            return Ok(());
        }
        let from = id_prefix(id);
        let to = before.map_or_else(|| prefix_end(&from), |key| Bound::Excluded(event_key(id, key)));
        let mut left = limit.saturating_add(1);
        let to = to.as_ref().map(Vec::as_slice);
        self.scan(table, Bound::Included(&from), to, true, |bytes, value| {
            let (_, key) =
                read_event_key(bytes).map_err(|what| self.inner.damaged_value(table, bytes, &what))?;
            visit(key, bytes, value)?;
            left -= 1;
            Ok(left > 0)
        })
    }

    /// Adds a segment's events after `reached`; answers the offset reached.
    fn arrivals(
        &self,
        segment: &Segment,
        reached: u64,
        limit: usize,
        events: &mut Vec<Event>,
    ) -> Result<u64, LogError> {
        let order = segment.by_arrival()?;
        let from = (reached - segment.info.base) as u32;
        // Offsets have gaps after a rewrite, so the first row is searched for.
        let start = search(order.len(), |n| Ok(segment.seq(order[n] as usize)? < from))?;
        for &row in &order[start..] {
            let row = row as usize;
            if events.len() == limit {
                return Ok(segment.offset(row)? - 1);
            }
            if !self.state.hides_row(segment, row)? {
                let user = segment.user_id(segment.user_of_row(row)?)?;
                events.push(segment.event(row, user)?);
            }
        }
        Ok(segment.info.base + segment.info.count)
    }

    /// Adds live events after `reached`, up to the next segment; answers the offset reached.
    fn live_arrivals(&self, reached: u64, limit: usize, events: &mut Vec<Event>) -> Result<u64, LogError> {
        let next_segment = self.state.segments.iter().map(|s| s.info.base).filter(|&b| b > reached).min();
        let end = next_segment.unwrap_or(self.state.counters.offset);
        let (from, to) = ((reached + 1).to_be_bytes(), end.to_be_bytes());
        let mut last = end;
        self.scan(Table::Log, Bound::Included(&from), Bound::Included(&to), false, |key, value| {
            let record: Record = self.unseal(Table::Log, key, value)?;
            let Record::Event { user, at, .. } = record else { return Ok(true) };
            let offset = key.try_into().map(u64::from_be_bytes).unwrap_or_default();
            let by_user = event_key(&user, EventKey { at, offset });
            let stored: Option<StoredEvent> = self.read(Table::ByUser, &by_user)?;
            let stored = stored.ok_or_else(|| {
                self.inner.damaged_value(Table::Log, key, "it points to an event that is not there")
            })?;
            events.push(stored.into_event(&user, at));
            if events.len() == limit {
                last = offset;
            }
            Ok(events.len() < limit)
        })?;
        Ok(last)
    }
}

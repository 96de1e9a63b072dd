//! Events on their way into a segment file: columns in order of arrival, then laid out by user and by item.

use super::LogError;
use super::dict::{Dict, hash};
use super::record::Extra;
use rayon::prelude::*;
use sommelier_core::{EventError, Time, check_id};

/// Kinds are numbered in one byte, here and in snapshots.
pub(super) const MAX_KINDS: usize = 256;

/// An event of an import, borrowed from the importer's buffers.
#[derive(Debug, Clone, Copy)]
pub struct EventRef<'a> {
    pub user: &'a str,
    pub item: &'a str,
    pub kind: &'a str,
    pub at: Time,
    pub value: Option<f64>,
    pub id: Option<&'a str>,
    pub slate: Option<&'a str>,
    pub position: Option<u32>,
    pub session: Option<&'a str>,
    /// A JSON object.
    pub context: Option<&'a str>,
    pub text: Option<&'a str>,
}

impl<'a> EventRef<'a> {
    pub fn new(user: &'a str, item: &'a str, kind: &'a str, at: Time) -> EventRef<'a> {
        EventRef {
            user,
            item,
            kind,
            at,
            value: None,
            id: None,
            slate: None,
            position: None,
            session: None,
            context: None,
            text: None,
        }
    }

    /// The same checks as [`sommelier_core::Event::check`].
    pub fn check(&self) -> Result<(), EventError> {
        check_id("user", self.user)?;
        check_id("item", self.item)?;
        check_id("kind", self.kind)?;
        if let Some(id) = self.id {
            check_id("event", id)?;
        }
        if let Some(session) = self.session {
            check_id("session", session)?;
        }
        match self.value {
            Some(v) if !v.is_finite() => Err(EventError::Value),
            _ => Ok(()),
        }
    }

    fn extra(&self) -> Option<Extra> {
        let any = self.id.is_some()
            || self.slate.is_some()
            || self.position.is_some()
            || self.session.is_some()
            || self.context.is_some()
            || self.text.is_some();
        any.then(|| Extra {
            id: self.id.map(str::to_owned),
            slate: self.slate.map(str::to_owned),
            position: self.position,
            session: self.session.map(str::to_owned),
            context: self.context.map(str::to_owned),
            text: self.text.map(str::to_owned),
        })
    }
}

/// Columns in order of arrival; all but the last four have one entry per event.
#[derive(Debug, Default)]
pub(super) struct Columns {
    pub users: Dict,
    pub items: Dict,
    pub kinds: Vec<String>,
    pub user: Vec<u32>,
    pub item: Vec<u32>,
    pub kind: Vec<u8>,
    pub at: Vec<i64>,
    /// NaN where there is none; values themselves are finite.
    pub value: Vec<f64>,
    /// Place in the order of arrival of the segment this one replaces; empty means 0, 1, 2, …
    pub seq: Vec<u32>,
    pub extra_row: Vec<u32>,
    pub extra_end: Vec<usize>,
    pub extra_bytes: Vec<u8>,
    /// Hash of the event id and the event.
    pub ids: Vec<(u64, u32)>,
}

impl Columns {
    pub fn len(&self) -> usize {
        self.user.len()
    }

    /// Bytes of memory these columns and their layout will take, roughly.
    pub fn bytes(&self) -> usize {
        let dicts = [&self.users, &self.items].map(|d| d.text.len() + 4 * (d.ends.len() + d.table.len()));
        self.len() * 45 + dicts[0] + dicts[1] + self.extra_bytes.len() + 20 * self.extra_row.len()
    }

    pub fn push(&mut self, event: &EventRef) -> Result<(), LogError> {
        let kind = self.kind_number(event.kind)?;
        let row = self.user.len() as u32;
        self.user.push(self.users.intern(event.user));
        self.item.push(self.items.intern(event.item));
        self.kind.push(kind);
        self.at.push(event.at.millis());
        self.value.push(event.value.unwrap_or(f64::NAN));
        if let Some(extra) = event.extra() {
            self.push_extra(row, &extra);
        }
        Ok(())
    }

    pub fn push_extra(&mut self, row: u32, extra: &Extra) {
        if let Some(id) = &extra.id {
            self.ids.push((hash(id.as_bytes()), row));
        }
        let bytes = std::mem::take(&mut self.extra_bytes);
        self.extra_bytes = postcard::to_extend(extra, bytes).expect("plain values always encode");
        self.extra_row.push(row);
        self.extra_end.push(self.extra_bytes.len());
    }

    pub fn kind_number(&mut self, kind: &str) -> Result<u8, LogError> {
        if let Some(k) = self.kinds.iter().position(|k| k == kind) {
            return Ok(k as u8);
        }
        if self.kinds.len() == MAX_KINDS {
            return Err(LogError::TooManyKinds { limit: MAX_KINDS, kind: kind.to_owned() });
        }
        self.kinds.push(kind.to_owned());
        Ok((self.kinds.len() - 1) as u8)
    }

    /// The extra of the `n`th event that has one.
    fn extra(&self, n: usize) -> &[u8] {
        let start = if n == 0 { 0 } else { self.extra_end[n - 1] };
        &self.extra_bytes[start..self.extra_end[n]]
    }

    /// The id of an event in `ids`.
    pub fn event_id(&self, row: u32) -> String {
        let n = self.extra_row.partition_point(|&r| r < row);
        let extra: Extra = postcard::from_bytes(self.extra(n)).unwrap_or_default();
        extra.id.unwrap_or_default()
    }

    /// Leaves out the events for which `drop` is true.
    pub fn remove(&mut self, drop: &[bool]) {
        let mut new_row = vec![0u32; self.len()];
        let mut kept = 0;
        for row in 0..self.len() {
            new_row[row] = kept;
            kept += u32::from(!drop[row]);
        }
        keep(&mut self.user, drop);
        keep(&mut self.item, drop);
        keep(&mut self.kind, drop);
        keep(&mut self.at, drop);
        keep(&mut self.value, drop);
        let (mut rows, mut ends, mut bytes) = (Vec::new(), Vec::new(), Vec::new());
        for (n, &row) in self.extra_row.iter().enumerate() {
            if !drop[row as usize] {
                bytes.extend_from_slice(self.extra(n));
                rows.push(new_row[row as usize]);
                ends.push(bytes.len());
            }
        }
        (self.extra_row, self.extra_end, self.extra_bytes) = (rows, ends, bytes);
        self.ids.retain(|&(_, row)| !drop[row as usize]);
        for (_, row) in &mut self.ids {
            *row = new_row[*row as usize];
        }
    }

    pub fn layout(&self) -> Layout {
        let by_time = self.by_time();
        let (user_ptr, order) =
            counting_sort(self.users.len(), by_time.iter().map(|&e| (self.user[e as usize], e)));
        let mut row_of = vec![0u32; self.len()];
        for (row, &event) in order.iter().enumerate() {
            row_of[event as usize] = row as u32;
        }
        let (item_ptr, item_rows) = counting_sort(
            self.items.len(),
            by_time.iter().map(|&e| (self.item[e as usize], row_of[e as usize])),
        );
        let mut ids: Vec<(u64, u32)> = self.ids.iter().map(|&(h, e)| (h, row_of[e as usize])).collect();
        ids.par_sort_unstable();
        let mut extras: Vec<(u32, u32)> =
            self.extra_row.iter().enumerate().map(|(n, &e)| (row_of[e as usize], n as u32)).collect();
        extras.par_sort_unstable();
        Layout { user_ptr, order, item_ptr, item_rows, ids, extras }
    }

    /// Events in order of time, equal times in order of arrival.
    fn by_time(&self) -> Vec<u32> {
        if self.at.is_sorted() {
            return (0..self.len() as u32).collect();
        }
        let mut pairs: Vec<(i64, u32)> = self.at.iter().zip(0..).map(|(&at, e)| (at, e)).collect();
        pairs.par_sort_unstable();
        pairs.into_iter().map(|(_, e)| e).collect()
    }

    /// The bytes of the `n`th extra, for writing in another order.
    pub fn extra_bytes_of(&self, n: u32) -> &[u8] {
        self.extra(n as usize)
    }
}

/// Where each event goes. A row is an event's place in the file.
pub(super) struct Layout {
    /// Rows of user `u` are `user_ptr[u]..user_ptr[u + 1]`, oldest first.
    pub user_ptr: Vec<u32>,
    /// Row → event in order of arrival.
    pub order: Vec<u32>,
    pub item_ptr: Vec<u32>,
    /// Rows of each item, oldest first.
    pub item_rows: Vec<u32>,
    /// Hash of event id and row, sorted.
    pub ids: Vec<(u64, u32)>,
    /// Row and number of the extra, sorted.
    pub extras: Vec<(u32, u32)>,
}

/// Groups `(group, value)` by group, keeping the order within a group.
fn counting_sort(
    groups: usize,
    entries: impl ExactSizeIterator<Item = (u32, u32)> + Clone,
) -> (Vec<u32>, Vec<u32>) {
    let mut ptr = vec![0u32; groups + 1];
    let mut out = vec![0u32; entries.len()];
    for (group, _) in entries.clone() {
        ptr[group as usize + 1] += 1;
    }
    for g in 0..groups {
        ptr[g + 1] += ptr[g];
    }
    let mut next = ptr.clone();
    for (group, value) in entries {
        let at = &mut next[group as usize];
        out[*at as usize] = value;
        *at += 1;
    }
    (ptr, out)
}

fn keep<T: Copy>(column: &mut Vec<T>, drop: &[bool]) {
    let mut row = 0;
    column.retain(|_| {
        row += 1;
        !drop[row - 1]
    });
}

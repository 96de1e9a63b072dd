//! The catalogue in memory: every item of a space by slot, which of them are live, how popular and how new they are.
//!
//! The first slots are the published artefact's own item indices, so nothing is translated between the catalogue and the
//! model; items that came after its fit follow, and a model that knows items by what they are knows some of them too.
//! Publishing another artefact makes a new catalogue with new slots.

use crate::Filter;
use hashbrown::HashMap;
use parking_lot::Mutex;
use sommelier_core::{BitSet, Item, Time, Vocab};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Filters whose matching items are kept as bits. One costs an eighth of a byte per item.
const CACHED_FILTERS: usize = 64;

pub(crate) type Slot = u32;

#[derive(Debug, Clone, Default)]
struct Entry {
    item: Option<Arc<Item>>,
    /// Deleted or erased: stays out until it is put again, whatever artefacts and events still know of it.
    withdrawn: bool,
    /// The model can score and return it.
    known: bool,
    counts: Counts,
}

/// What the events of one item add up to.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Counts {
    pub events: u64,
    /// Sum of positive weights, without half-lives.
    pub weight: f64,
    /// Time of the earliest event.
    pub first: Option<Time>,
}

impl Counts {
    pub fn add(&mut self, weight: f32, at: Time) {
        self.events += 1;
        self.weight += f64::from(weight.max(0.0));
        self.first = Some(self.first.map_or(at, |first| first.min(at)));
    }

    fn remove(&mut self, weight: f32) {
        self.events = self.events.saturating_sub(1);
        self.weight = (self.weight - f64::from(weight.max(0.0))).max(0.0);
        if self.events == 0 {
            *self = Counts::default();
        }
    }
}

pub(crate) struct Catalogue {
    ids: Vocab,
    entries: Vec<Entry>,
    /// Slots that were fitted.
    fitted: usize,
    /// Over the slots that the model knows: what it may return, filters aside.
    live: Arc<BitSet>,
    filters: Mutex<Vec<CachedFilter>>,
    popular: Ranking,
    recent: Ranking,
    /// Items that are live now and will expire.
    expiring: BTreeSet<(Time, Slot)>,
}

#[derive(Clone)]
struct CachedFilter {
    filter: Filter,
    /// Live items that match, over the slots that the model knows.
    bits: Arc<BitSet>,
}

/// Everything that must survive into the next catalogue.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    pub items: Vec<Arc<Item>>,
    pub counts: HashMap<String, Counts>,
    pub withdrawn: Vec<String>,
}

impl Catalogue {
    /// `model_items` are the published artefact's ids, in its order.
    pub fn new(model_items: &Vocab, contents: Contents, now: Time) -> Catalogue {
        let fitted = model_items.len();
        let mut catalogue = Catalogue {
            ids: model_items.clone(),
            entries: vec![Entry { known: true, ..Entry::default() }; fitted],
            fitted,
            live: Arc::new(BitSet::none(fitted)),
            filters: Mutex::default(),
            popular: Ranking::default(),
            recent: Ranking::default(),
            expiring: BTreeSet::new(),
        };
        for id in contents.withdrawn {
            let slot = catalogue.intern(&id);
            catalogue.entries[slot as usize].withdrawn = true;
        }
        // In the order of the ids, so that slots do not depend on a hash map's order.
        let mut counts: Vec<_> = contents.counts.into_iter().collect();
        counts.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        for (id, counts) in counts {
            let slot = catalogue.intern(&id);
            catalogue.entries[slot as usize].counts = counts;
        }
        for item in contents.items {
            let slot = catalogue.intern(&item.id);
            let entry = &mut catalogue.entries[slot as usize];
            entry.withdrawn = false;
            entry.item = Some(item);
        }
        for slot in 0..catalogue.entries.len() as Slot {
            catalogue.refresh(slot, now);
        }
        catalogue
    }

    /// What another catalogue over another artefact starts from.
    pub fn contents(&self) -> Contents {
        let mut contents = Contents::default();
        for (slot, entry) in self.entries.iter().enumerate() {
            let id = self.ids.id(slot as Slot);
            contents.items.extend(entry.item.clone());
            if entry.withdrawn {
                contents.withdrawn.push(id.to_owned());
            }
            if entry.counts.events > 0 {
                contents.counts.insert(id.to_owned(), entry.counts);
            }
        }
        contents
    }

    /// Items that a slate could hold if nothing hid them.
    pub fn len(&self) -> usize {
        self.slots().count()
    }

    /// Of the items that exist.
    pub fn slots(&self) -> impl Iterator<Item = Slot> {
        (0..self.entries.len() as Slot).filter(|&slot| self.exists(slot))
    }

    /// Whether the model can score and return it.
    pub fn knows(&self, slot: Slot) -> bool {
        self.entries.get(slot as usize).is_some_and(|entry| entry.known)
    }

    /// Tells the model of all items that came after its fit: `meet` is true of those that it knows from now on.
    pub fn introduce(&mut self, meet: impl Fn(Slot, &Item) -> bool, now: Time) {
        for slot in self.fitted..self.entries.len() {
            self.introduce_one(slot as Slot, &meet, now);
        }
    }

    fn introduce_one(&mut self, slot: Slot, meet: impl Fn(Slot, &Item) -> bool, now: Time) {
        let Some(item) = self.item(slot).cloned() else { return };
        if meet(slot, &item) && !self.knows(slot) {
            self.entries[slot as usize].known = true;
            self.refresh(slot, now);
        }
    }

    pub fn id(&self, slot: Slot) -> &str {
        self.ids.id(slot)
    }

    /// The slot of an item that exists.
    pub fn slot(&self, id: &str) -> Option<Slot> {
        self.ids.get(id).filter(|&slot| self.exists(slot))
    }

    /// The slot of any id that was ever seen, also of a deleted item's.
    pub fn interned(&self, id: &str) -> Option<Slot> {
        self.ids.get(id)
    }

    pub fn item(&self, slot: Slot) -> Option<&Arc<Item>> {
        self.entries[slot as usize].item.as_ref()
    }

    pub fn counts(&self, slot: Slot) -> Counts {
        self.entries[slot as usize].counts
    }

    pub fn all(&self) -> impl Iterator<Item = (&str, &Arc<Item>)> {
        self.entries.iter().filter_map(|e| e.item.as_ref()).map(|item| (item.id.as_str(), item))
    }

    /// An item exists while it has a record or an event, or the artefact knows it, and nobody withdrew it.
    fn exists(&self, slot: Slot) -> bool {
        let entry = &self.entries[slot as usize];
        !entry.withdrawn && (entry.item.is_some() || entry.counts.events > 0 || (slot as usize) < self.fitted)
    }

    /// Exists, is not hidden and has not expired.
    pub fn is_live(&self, slot: Slot, now: Time) -> bool {
        self.exists(slot) && self.item(slot).is_none_or(|item| item.live(now))
    }

    /// When an item came: what its record says, or else its first event.
    pub fn came(&self, slot: Slot) -> Option<Time> {
        let entry = &self.entries[slot as usize];
        entry.item.as_ref().and_then(|item| item.at).or(entry.counts.first)
    }

    /// `meet` tells the model of it: true if the model knows it from now on.
    pub fn put(&mut self, item: Arc<Item>, meet: impl Fn(Slot, &Item) -> bool, now: Time) {
        let slot = self.intern(&item.id);
        let entry = &mut self.entries[slot as usize];
        if let Some(end) = entry.item.as_ref().and_then(|old| old.expires) {
            self.expiring.remove(&(end, slot));
        }
        entry.item = Some(item);
        entry.withdrawn = false;
        self.refresh(slot, now);
        self.introduce_one(slot, meet, now);
    }

    pub fn withdraw(&mut self, id: &str, forget_events: bool, now: Time) {
        let slot = self.intern(id);
        let entry = &mut self.entries[slot as usize];
        if let Some(end) = entry.item.take().and_then(|old| old.expires) {
            self.expiring.remove(&(end, slot));
        }
        entry.withdrawn = true;
        if forget_events {
            entry.counts = Counts::default();
        }
        self.refresh(slot, now);
    }

    pub fn count_event(&mut self, item: &str, weight: f32, at: Time, now: Time) {
        let slot = self.intern(item);
        let before = self.exists(slot);
        self.entries[slot as usize].counts.add(weight, at);
        if before { self.rank(slot) } else { self.refresh(slot, now) }
    }

    pub fn uncount_event(&mut self, item: &str, weight: f32, now: Time) {
        if let Some(slot) = self.ids.get(item) {
            self.entries[slot as usize].counts.remove(weight);
            self.refresh(slot, now);
        }
    }

    /// The time of an item's earliest event, after an erasure took the one that was.
    pub fn first_event(&mut self, item: &str, first: Option<Time>) {
        if let Some(slot) = self.ids.get(item) {
            self.entries[slot as usize].counts.first = first;
            self.rank(slot);
        }
    }

    /// When the next live item expires.
    pub fn next_expiry(&self) -> Option<Time> {
        self.expiring.first().map(|&(end, _)| end)
    }

    /// Takes items that have expired by `now` out of the bits.
    pub fn expire(&mut self, now: Time) {
        while let Some(&(end, slot)) = self.expiring.first() {
            if end > now {
                break;
            }
            self.expiring.pop_first();
            self.refresh(slot, now);
        }
    }

    /// Live items that the model knows and that match the filter; kept for the next query with the same text.
    pub fn allowed(&self, filter: Option<&Filter>, now: Time) -> Arc<BitSet> {
        let Some(filter) = filter else { return Arc::clone(&self.live) };
        let mut cache = self.filters.lock();
        if let Some(at) = cache.iter().position(|c| c.filter.text() == filter.text()) {
            let used = cache.remove(at);
            let bits = Arc::clone(&used.bits);
            cache.push(used);
            return bits;
        }
        let mut bits = BitSet::none(self.live.len());
        for slot in self.live.iter() {
            let slot = slot as Slot;
            if filter.matches(self.id(slot), self.item(slot).map(|i| &**i)) && self.is_live(slot, now) {
                bits.insert(slot as usize);
            }
        }
        let bits = Arc::new(bits);
        if cache.len() == CACHED_FILTERS {
            cache.remove(0);
        }
        cache.push(CachedFilter { filter: filter.clone(), bits: Arc::clone(&bits) });
        bits
    }

    /// Slots by total weight of events, largest first, with that weight.
    pub fn popular(&self) -> impl Iterator<Item = (Slot, f64)> {
        self.popular.iter()
    }

    /// Slots by the time they came, newest first, with that time in milliseconds.
    pub fn recent(&self) -> impl Iterator<Item = (Slot, f64)> {
        self.recent.iter()
    }

    fn intern(&mut self, id: &str) -> Slot {
        let slot = self.ids.intern(id);
        if slot as usize == self.entries.len() {
            self.entries.push(Entry::default());
        }
        slot
    }

    /// Brings bits, expiry and rankings of one slot up to date with its entry.
    fn refresh(&mut self, slot: Slot, now: Time) {
        let live = self.is_live(slot, now);
        let entry = &self.entries[slot as usize];
        if live && let Some(end) = entry.item.as_ref().and_then(|item| item.expires) {
            self.expiring.insert((end, slot));
        }
        if entry.known {
            set(&mut self.live, slot, live);
            for cached in self.filters.get_mut() {
                let matches = live && cached.filter.matches(self.ids.id(slot), entry.item.as_deref());
                set(&mut cached.bits, slot, matches);
            }
        }
        self.rank(slot);
    }

    fn rank(&mut self, slot: Slot) {
        let exists = self.exists(slot);
        let weight = self.entries[slot as usize].counts.weight;
        self.popular.set(slot, (exists && weight > 0.0).then_some(weight));
        let came = self.came(slot).filter(|_| exists);
        self.recent.set(slot, came.map(|at| at.millis() as f64));
    }
}

fn set(bits: &mut Arc<BitSet>, slot: Slot, on: bool) {
    if bits.contains(slot as usize) != on {
        let bits = Arc::make_mut(bits);
        if on {
            bits.grow(slot as usize + 1);
            bits.insert(slot as usize);
        } else {
            bits.remove(slot as usize);
        }
    }
}

/// Slots in order of a number, largest first, equal numbers by slot; always sorted, whatever changes.
#[derive(Debug, Default)]
struct Ranking {
    value: Vec<Option<f64>>,
    order: BTreeSet<(Descending, Slot)>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Descending(f64);

impl Eq for Descending {}

impl Ord for Descending {
    fn cmp(&self, other: &Descending) -> std::cmp::Ordering {
        other.0.total_cmp(&self.0)
    }
}

impl PartialOrd for Descending {
    fn partial_cmp(&self, other: &Descending) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ranking {
    fn set(&mut self, slot: Slot, value: Option<f64>) {
        let at = slot as usize;
        if at >= self.value.len() {
            self.value.resize(at + 1, None);
        }
        if self.value[at] == value {
            return;
        }
        if let Some(old) = self.value[at] {
            self.order.remove(&(Descending(old), slot));
        }
        if let Some(new) = value {
            self.order.insert((Descending(new), slot));
        }
        self.value[at] = value;
    }

    fn iter(&self) -> impl Iterator<Item = (Slot, f64)> {
        self.order.iter().map(|&(Descending(value), slot)| (slot, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn time(millis: i64) -> Time {
        Time::from_millis(millis).unwrap()
    }

    fn item(id: &str, year: i64) -> Item {
        let mut item = Item::new(id);
        item.properties.insert("year".into(), json!(year));
        item
    }

    fn unmet(_: Slot, _: &Item) -> bool {
        false
    }

    fn bits(set: &BitSet) -> Vec<usize> {
        set.iter().collect()
    }

    #[test]
    fn bits_follow_every_change() {
        let filter = Filter::parse("item.year < 1900").unwrap();
        let mut c = Catalogue::new(&Vocab::from_ids(["a", "b", "c"]), Contents::default(), time(0));
        assert_eq!(bits(&c.allowed(None, time(0))), [0, 1, 2]);
        assert!(bits(&c.allowed(Some(&filter), time(0))).is_empty());
        c.put(Arc::new(item("b", 1850)), unmet, time(0));
        c.put(Arc::new(Item { expires: Some(time(10)), ..item("c", 1800) }), unmet, time(0));
        assert_eq!(bits(&c.allowed(Some(&filter), time(0))), [1, 2]);
        c.expire(time(9));
        assert_eq!(bits(&c.allowed(Some(&filter), time(9))), [1, 2]);
        c.expire(time(10));
        assert_eq!(bits(&c.allowed(Some(&filter), time(10))), [1]);
        assert_eq!(bits(&c.allowed(None, time(10))), [0, 1]);
        c.put(Arc::new(item("c", 1800)), unmet, time(10));
        c.put(Arc::new(Item { hidden: true, ..item("b", 1850) }), unmet, time(10));
        assert_eq!(bits(&c.allowed(Some(&filter), time(10))), [2]);
        c.withdraw("a", false, time(10));
        assert_eq!(bits(&c.allowed(None, time(10))), [2]);
        assert_eq!(c.slot("a"), None);
        c.put(Arc::new(item("a", 2000)), unmet, time(10));
        assert_eq!(bits(&c.allowed(None, time(10))), [0, 2]);
    }

    #[test]
    fn the_model_gets_to_know_items_that_came_later() {
        let filter = Filter::parse("item.year < 1900").unwrap();
        let mut c = Catalogue::new(&Vocab::from_ids(["a"]), Contents::default(), time(0));
        let old = |_: Slot, item: &Item| item.properties["year"].as_i64().unwrap() < 1900;
        c.put(Arc::new(item("b", 1950)), old, time(0));
        assert_eq!(bits(&c.allowed(Some(&filter), time(0))), Vec::<usize>::new());
        for n in 0..70 {
            c.put(Arc::new(item(&format!("x{n}"), 2000 - n * 10)), old, time(0));
        }
        assert!(c.knows(0) && !c.knows(1) && !c.knows(12) && c.knows(13) && c.knows(71) && !c.knows(72));
        let live: Vec<usize> = std::iter::once(0).chain(13..72).collect();
        assert_eq!(bits(&c.allowed(None, time(0))), live);
        assert_eq!(bits(&c.allowed(Some(&filter), time(0))), live[1..]);
        c.withdraw("x69", false, time(0));
        assert_eq!(bits(&c.allowed(None, time(0))), live[..live.len() - 1]);
        let mut next = Catalogue::new(&Vocab::from_ids(["a"]), c.contents(), time(0));
        assert!(!next.knows(5));
        next.introduce(old, time(0));
        assert_eq!(next.allowed(None, time(0)).count(), live.len() - 1);
    }

    #[test]
    fn rankings_follow_events() {
        let mut c = Catalogue::new(&Vocab::from_ids(["a"]), Contents::default(), time(0));
        c.count_event("b", 2.0, time(5), time(5));
        c.count_event("a", 1.0, time(6), time(6));
        c.count_event("b", -7.0, time(7), time(7));
        let popular: Vec<&str> = c.popular().map(|(s, _)| c.id(s)).collect();
        assert_eq!(popular, ["b", "a"]);
        let recent: Vec<&str> = c.recent().map(|(s, _)| c.id(s)).collect();
        assert_eq!(recent, ["a", "b"]);
        c.uncount_event("b", 2.0, time(8));
        c.uncount_event("b", -7.0, time(8));
        assert_eq!(c.slot("b"), None, "known only by events that are gone");
        assert_eq!(c.popular().count(), 1);
    }

    #[test]
    fn another_artefact_keeps_what_is_known() {
        let mut c = Catalogue::new(&Vocab::from_ids(["a", "b"]), Contents::default(), time(0));
        c.put(Arc::new(item("x", 1900)), unmet, time(0));
        c.count_event("y", 3.0, time(1), time(1));
        c.withdraw("b", false, time(1));
        let next = Catalogue::new(&Vocab::from_ids(["y", "b", "z"]), c.contents(), time(2));
        assert_eq!(next.slot("y"), Some(0));
        assert_eq!(next.slot("b"), None);
        assert!(next.slot("x").is_some() && next.slot("z").is_some());
        assert_eq!(next.slot("a"), None, "only the old artefact knew it");
        assert_eq!(next.counts(0).weight, 3.0);
    }
}

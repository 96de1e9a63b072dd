//! Filters: which events, users and items take part at all. Declared in a recipe, applied before any split.

use crate::snapshot::{Events, Given, Snapshot};
use serde::{Deserialize, Serialize};
use sommelier_core::{ItemIx, UserIx, Vocab};
use std::sync::Arc;

/// What a data set is reduced to. The default keeps everything.
///
/// Counts are of events as they stand after `dedupe`. With `k_core` the bounds are applied again and again until
/// nothing changes; without it each is applied once, users first, which is what most published scripts do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Filters {
    /// Every user and every item has at least this many events.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub k_core: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_user_events: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_user_events: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_item_events: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_item_events: Option<usize>,
    /// Of the events of one user with one item keep only the first, or only the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dedupe: Option<Dedupe>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dedupe {
    First,
    Last,
}

impl Filters {
    pub fn is_none(&self) -> bool {
        *self == Filters::default()
    }

    /// The snapshot of what is left, with vocabularies of what is left: an item that a filter drops is no
    /// candidate either. Users and items that never had an event stay unless a lower bound asks for some.
    ///
    /// Where the files came with a split, both of its parts lose the same users, items and repeats.
    pub fn apply(&self, snapshot: &Snapshot) -> Snapshot {
        if self.is_none() {
            return snapshot.clone();
        }
        let events = &*snapshot.events;
        let mut keep = match self.dedupe {
            Some(which) => without_repeats(events, snapshot.items.len(), which),
            None => vec![true; events.len()],
        };
        let mut users = vec![true; snapshot.users.len()];
        let mut items = vec![true; snapshot.items.len()];
        loop {
            let (per_user, _) = count(events, &keep, items.len());
            let lost_user = drop_outside(
                &mut users,
                &per_user,
                self.k_core.max(self.min_user_events),
                self.max_user_events,
            );
            keep_pairs(events, &mut keep, &users, &items);
            let (_, per_item) = count(events, &keep, items.len());
            let lost_item = drop_outside(
                &mut items,
                &per_item,
                self.k_core.max(self.min_item_events),
                self.max_item_events,
            );
            keep_pairs(events, &mut keep, &users, &items);
            if self.k_core.is_none() || !(lost_user || lost_item) {
                break;
            }
        }
        drop_emptied(events, &keep, &mut users, &mut items);
        compact(snapshot, &keep, &users, &items)
    }
}

fn without_repeats(events: &Events, items: usize, which: Dedupe) -> Vec<bool> {
    let mut keep = vec![false; events.len()];
    let mut seen_by = vec![u32::MAX; items];
    for user in 0..events.users() {
        let mut visit = |e: usize| {
            let seen = &mut seen_by[events.item[e] as usize];
            keep[e] = *seen != user as u32;
            *seen = user as u32;
        };
        match which {
            Dedupe::First => events.of(user).for_each(&mut visit),
            Dedupe::Last => events.of(user).rev().for_each(&mut visit),
        }
    }
    keep
}

fn count(events: &Events, keep: &[bool], items: usize) -> (Vec<usize>, Vec<usize>) {
    let (mut per_user, mut per_item) = (vec![0; events.users()], vec![0; items]);
    for user in 0..events.users() {
        for e in events.of(user).filter(|&e| keep[e]) {
            per_user[user] += 1;
            per_item[events.item[e] as usize] += 1;
        }
    }
    (per_user, per_item)
}

/// Drops what lies outside the bounds and says whether anything was dropped.
fn drop_outside(alive: &mut [bool], counts: &[usize], min: Option<usize>, max: Option<usize>) -> bool {
    let mut lost = false;
    for (alive, &n) in alive.iter_mut().zip(counts) {
        if *alive && (min.is_some_and(|min| n < min) || max.is_some_and(|max| n > max)) {
            *alive = false;
            lost = true;
        }
    }
    lost
}

fn keep_pairs(events: &Events, keep: &mut [bool], users: &[bool], items: &[bool]) {
    for user in 0..events.users() {
        for e in events.of(user) {
            keep[e] &= users[user] && items[events.item[e] as usize];
        }
    }
}

/// Drops users and items that had events and have none left.
fn drop_emptied(events: &Events, keep: &[bool], users: &mut [bool], items: &mut [bool]) {
    let before = count(events, &vec![true; events.len()], items.len());
    let after = count(events, keep, items.len());
    for (alive, (b, a)) in users.iter_mut().zip(before.0.iter().zip(&after.0)) {
        *alive &= *b == 0 || *a > 0;
    }
    for (alive, (b, a)) in items.iter_mut().zip(before.1.iter().zip(&after.1)) {
        *alive &= *b == 0 || *a > 0;
    }
}

/// New vocabularies without the dropped ids, and everything renumbered to them.
fn compact(snapshot: &Snapshot, keep: &[bool], users: &[bool], items: &[bool]) -> Snapshot {
    let new_item = renumber(items);
    let new_user = renumber(users);
    let events = regroup(&snapshot.events, users, &new_item, |e| keep[e]);
    let mut out = snapshot.with_events(events);
    out.users = Arc::new(vocab_of(&snapshot.users, users));
    out.items = Arc::new(vocab_of(&snapshot.items, items));
    out.user_info = Arc::new(pick(&snapshot.user_info, users));
    out.item_info = Arc::new(pick(&snapshot.item_info, items));
    let candidates = snapshot.candidates.iter().filter_map(|(&u, list)| {
        Some((new_user[u as usize]?, list.iter().filter_map(|&i| new_item[i as usize]).collect()))
    });
    out.candidates = Arc::new(candidates.collect());
    out.given = snapshot
        .given
        .as_ref()
        .map(|given| Arc::new(compact_given(given, &snapshot.events, keep, users, &new_user, &new_item)));
    out
}

fn compact_given(
    given: &Given,
    all: &Events,
    keep: &[bool],
    users: &[bool],
    new_user: &[Option<u32>],
    new_item: &[Option<u32>],
) -> Given {
    // Training events are repeats of the snapshot's; one goes when its twin (same item and time) went.
    let mut dropped: Vec<(u32, u32, i64)> = Vec::new();
    for user in 0..all.users() {
        dropped.extend(all.of(user).filter(|&e| !keep[e]).map(|e| (user as u32, all.item[e], all.at[e])));
    }
    dropped.sort_unstable();
    let survives = given.train.filter(|user, e| {
        dropped.binary_search(&(user as u32, given.train.item[e], given.train.at[e])).is_err()
    });
    let pairs = |list: &[(UserIx, ItemIx)]| {
        list.iter()
            .filter_map(|&(u, i)| Some((UserIx(new_user[u.ix()]?), ItemIx(new_item[i.ix()]?))))
            .collect()
    };
    Given {
        train: regroup(&survives, users, new_item, |_| true),
        valid: pairs(&given.valid),
        test: pairs(&given.test),
    }
}

fn renumber(alive: &[bool]) -> Vec<Option<u32>> {
    let mut next = 0;
    alive
        .iter()
        .map(|&alive| {
            alive.then(|| {
                next += 1;
                next - 1
            })
        })
        .collect()
}

/// The kept events of the kept users, items renumbered; events of dropped items go.
fn regroup(
    events: &Events,
    users: &[bool],
    new_item: &[Option<u32>],
    keep: impl Fn(usize) -> bool,
) -> Events {
    let mut out = Events { ptr: vec![0], ..Events::default() };
    for user in (0..events.users()).filter(|&u| users[u]) {
        for e in events.of(user).filter(|&e| keep(e)) {
            if let Some(item) = new_item[events.item[e] as usize] {
                out.item.push(item);
                out.kind.push(events.kind[e]);
                out.at.push(events.at[e]);
                out.value.push(events.value[e]);
                out.weight.push(events.weight[e]);
            }
        }
        out.ptr.push(out.item.len());
    }
    out
}

fn vocab_of(vocab: &Vocab, alive: &[bool]) -> Vocab {
    Vocab::from_ids(vocab.iter().zip(alive).filter(|&(_, &alive)| alive).map(|(id, _)| id))
}

fn pick<T: Clone>(all: &[T], alive: &[bool]) -> Vec<T> {
    all.iter().zip(alive).filter(|&(_, &alive)| alive).map(|(x, _)| x.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ids(v: &Vocab) -> Vec<&str> {
        v.iter().collect()
    }

    #[test]
    fn core_is_what_is_left_when_nothing_more_falls() {
        // d falls (one event), so z has one event left and falls, so c has one left and falls: a, b × x, y stay.
        let pairs = [("a", "x"), ("a", "y"), ("b", "x"), ("b", "y"), ("c", "x"), ("c", "z"), ("d", "z")];
        let s = Snapshot::from_pairs("t", &pairs);
        let core = Filters { k_core: Some(2), ..Filters::default() }.apply(&s);
        assert_eq!((ids(&core.users), ids(&core.items)), (vec!["a", "b"], vec!["x", "y"]));
        assert_eq!(core.events.item, [0, 1, 0, 1]);
        // One pass drops d by users, then z by items, and leaves c its one event.
        let once =
            Filters { min_user_events: Some(2), min_item_events: Some(2), ..Filters::default() }.apply(&s);
        assert_eq!(ids(&once.users), ["a", "b", "c"]);
        assert_eq!(once.events.ptr, [0, 2, 4, 5]);
    }

    #[test]
    fn dedupe_keeps_the_first_or_the_last() {
        let s = Snapshot::from_pairs("t", &[("a", "x"), ("a", "y"), ("a", "x"), ("b", "x")]);
        let of = |which| Filters { dedupe: Some(which), ..Filters::default() }.apply(&s).events.item.clone();
        assert_eq!(of(Dedupe::First), [0, 1, 0]);
        assert_eq!(of(Dedupe::Last), [1, 0, 0]);
    }

    #[test]
    fn upper_bounds_drop_heavy_users() {
        let s = Snapshot::from_pairs("t", &[("a", "x"), ("a", "y"), ("a", "z"), ("b", "x")]);
        let light = Filters { max_user_events: Some(2), ..Filters::default() }.apply(&s);
        assert_eq!((ids(&light.users), ids(&light.items)), (vec!["b"], vec!["x"]));
    }

    proptest! {
        #[test]
        fn k_core_holds_and_is_its_own_core(pairs in prop::collection::vec((0u8..12, 0u8..12), 0..80), k in 1usize..5) {
            let text: Vec<(String, String)> = pairs.iter().map(|(u, i)| (format!("u{u}"), format!("i{i}"))).collect();
            let refs: Vec<(&str, &str)> = text.iter().map(|(u, i)| (u.as_str(), i.as_str())).collect();
            let s = Snapshot::from_pairs("t", &refs);
            let filter = Filters { k_core: Some(k), ..Filters::default() };
            let core = filter.apply(&s);
            let (per_user, per_item) = count(&core.events, &vec![true; core.events.len()], core.items.len());
            prop_assert!(per_user.iter().chain(&per_item).all(|&n| n >= k));
            let again = filter.apply(&core);
            prop_assert_eq!(&again.events, &core.events);
            prop_assert_eq!(ids(&again.items), ids(&core.items));
        }
    }
}

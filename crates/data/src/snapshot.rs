//! Snapshots: an immutable columnar view of a log (or a file) at one offset. All fitting and evaluation reads these.

use serde::{Deserialize, Serialize};
use sommelier_core::{Csr, Item, ItemIx, ResolvedQuery, Seen, Time, User, UserIx, Vocab};
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

/// How much the times of a data set can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeQuality {
    /// Wall-clock times: global cuts by time mean something.
    Clock,
    /// Only the order of a user's own events is known; `at` counts 0, 1, 2, … per user.
    Order,
    /// Neither: events of a user are in no particular order.
    None,
}

/// What one event of a kind is worth. Part of the configuration, applied when a snapshot is made: changing it
/// needs no new import.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KindRule {
    /// Weight of one event; 0 leaves the kind out of fitting. Negative means dislike.
    pub weight: f32,
    /// Multiply by the event's `value`, where it has one.
    pub by_value: bool,
    /// After this many days an event counts half, measured back from the newest event of the snapshot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub half_life_days: Option<f64>,
    /// `value >= 4`: the event counts only if this holds (`>=`, `>`, `<=`, `<`, `=` and a number).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub only: Option<String>,
}

impl Default for KindRule {
    fn default() -> KindRule {
        KindRule { weight: 1.0, by_value: false, half_life_days: None, only: None }
    }
}

/// Rules by kind; a kind without one has weight 1.
pub type KindRules = BTreeMap<String, KindRule>;

/// Events grouped by user, a user's events oldest first (ties in order of arrival). All columns have one entry per event.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Events {
    /// `ptr[u]..ptr[u + 1]` are user `u`'s events; length users + 1.
    pub ptr: Vec<usize>,
    pub item: Vec<u32>,
    /// Index into [`Snapshot::kinds`].
    pub kind: Vec<u8>,
    /// Milliseconds since 1970, or a counter per user where [`TimeQuality`] is not `Clock`.
    pub at: Vec<i64>,
    /// The event's own value, 1 where it had none.
    pub value: Vec<f32>,
    /// What the event counts, after [`KindRules`].
    pub weight: Vec<f32>,
}

impl Events {
    pub fn len(&self) -> usize {
        self.item.len()
    }
    pub fn is_empty(&self) -> bool {
        self.item.is_empty()
    }
    pub fn users(&self) -> usize {
        self.ptr.len().saturating_sub(1)
    }
    pub fn of(&self, user: usize) -> std::ops::Range<usize> {
        self.ptr[user]..self.ptr[user + 1]
    }

    /// The events for which `keep(user, event)` holds, in the same order.
    pub fn filter(&self, mut keep: impl FnMut(usize, usize) -> bool) -> Events {
        let mut out = Events { ptr: Vec::with_capacity(self.ptr.len()), ..Events::default() };
        out.ptr.push(0);
        for user in 0..self.users() {
            for e in self.of(user) {
                if keep(user, e) {
                    out.item.push(self.item[e]);
                    out.kind.push(self.kind[e]);
                    out.at.push(self.at[e]);
                    out.value.push(self.value[e]);
                    out.weight.push(self.weight[e]);
                }
            }
            out.ptr.push(out.item.len());
        }
        out
    }
}

/// Distinct user–item pairs with positive total weight, both ways round.
#[derive(Debug, Clone, PartialEq)]
pub struct Interactions {
    /// users × items; values are total weights, > 0.
    pub by_user: Csr,
    /// items × users.
    pub by_item: Csr,
}

/// An immutable view of what happened and what is known, at one offset.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Name of the data set or space, for reports.
    pub name: String,
    /// Log offset it was taken at; 0 when read from files.
    pub offset: u64,
    pub users: Arc<Vocab>,
    pub items: Arc<Vocab>,
    pub kinds: Arc<Vec<String>>,
    pub times: TimeQuality,
    pub events: Arc<Events>,
    /// `item_info[i]` describes item `i`, where anything is known. Same length as `items`.
    pub item_info: Arc<Vec<Option<Item>>>,
    /// Same length as `users`.
    pub user_info: Arc<Vec<Option<User>>>,
    /// Vectors that were made of items, by name; see [`Snapshot::item_vectors`].
    pub vectors: Arc<BTreeMap<String, Arc<ItemVectors>>>,
    /// Short codes that were made of items' vectors.
    pub codes: Option<Arc<ItemCodes>>,
    /// What could be said to ask for items.
    pub wishes: Option<Arc<ItemWishes>>,
    /// The split the files came with (`u1.base`/`u1.test`, `train.txt`/`test.txt`), if any.
    pub given: Option<Arc<Given>>,
    /// What is ranked for each user beside the items to find, where the files fix that; empty where they do not.
    pub candidates: Arc<BTreeMap<u32, Vec<u32>>>,
    pub(crate) interactions: Arc<OnceLock<Interactions>>,
}

/// Held-out parts that came with the files; indices are of the snapshot's vocabularies.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Given {
    /// Events to train on, grouped like [`Snapshot::events`]; the snapshot's own events hold train and test.
    pub train: Events,
    pub valid: Vec<(UserIx, ItemIx)>,
    pub test: Vec<(UserIx, ItemIx)>,
}

/// One vector for each item that has one.
#[derive(Debug, Clone, PartialEq)]
pub struct ItemVectors {
    /// Numbers in each.
    pub dim: usize,
    /// Items × `dim`; zeros where there is none.
    pub rows: Vec<f32>,
    /// How many items have one.
    pub known: usize,
}

/// The codes (semantic ID) of each item that has some.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ItemCodes {
    /// How many codes there are at each level.
    pub sizes: Vec<u32>,
    /// Items × levels; zeros where there are none.
    pub rows: Vec<u32>,
    /// Whether the item has codes.
    pub known: Vec<bool>,
}

/// What people could say to ask for each item, as vectors: to learn from.
#[derive(Debug, Clone, PartialEq)]
pub struct ItemWishes {
    /// Numbers in a vector.
    pub dim: usize,
    /// Vectors of an item.
    pub each: usize,
    /// Share of the items told in training whose wish is heard.
    pub heard: f32,
    /// Items × `each` × `dim`; zeros where there are none.
    pub rows: Vec<f32>,
    /// Whether the item has some.
    pub known: Vec<bool>,
}

impl ItemWishes {
    /// One of an item's vectors.
    pub fn row(&self, item: usize, which: usize) -> &[f32] {
        &self.rows[(item * self.each + which) * self.dim..][..self.dim]
    }
}

impl Snapshot {
    /// What a fit on this snapshot depends on, in words: its name, its sizes and a digest of events, codes, wishes and `further` numbers.
    pub fn identity<'a>(&self, further: impl IntoIterator<Item = &'a f32>) -> String {
        let e = &self.events;
        let mut hash = 0xcbf2_9ce4_8422_2325u64;
        let mut add = |n: u64| hash = (hash ^ n).wrapping_mul(0x0100_0000_01b3).rotate_left(17);
        e.ptr.iter().for_each(|&p| add(p as u64));
        e.item.iter().for_each(|&i| add(u64::from(i)));
        e.weight.iter().for_each(|w| add(u64::from(w.to_bits())));
        e.at.iter().for_each(|&t| add(t as u64));
        self.codes.iter().flat_map(|codes| &codes.rows).for_each(|&k| add(u64::from(k)));
        let said = self.wishes.iter().flat_map(|wishes| wishes.rows.iter().chain([&wishes.heard]));
        said.for_each(|v| add(u64::from(v.to_bits())));
        further.into_iter().for_each(|v| add(u64::from(v.to_bits())));
        let (users, items) = (self.users.len(), self.items.len());
        format!("data {}: {users} users, {items} items, {} events, {hash:016x}", self.name, e.len())
    }

    /// The vectors of items by this name: made of them, or a property that they came with. An error in words where there are
    /// none, or not all have as many numbers.
    pub fn item_vectors(&self, property: &str) -> Result<Arc<ItemVectors>, String> {
        match self.vectors.get(property) {
            Some(made) => Ok(Arc::clone(made)),
            None => self.given_vectors(property).map(Arc::new),
        }
    }

    fn given_vectors(&self, property: &str) -> Result<ItemVectors, String> {
        let mut found: Option<(&str, ItemVectors)> = None;
        for (i, info) in self.item_info.iter().enumerate() {
            let Some(vector) = info.as_ref().and_then(|item| item.vector(property)) else { continue };
            let (first, all) = found.get_or_insert_with(|| {
                let dim = vector.len();
                (
                    self.items.id(i as u32),
                    ItemVectors { dim, rows: vec![0.0; dim * self.items.len()], known: 0 },
                )
            });
            if vector.len() != all.dim {
                return Err(format!(
                    "vectors must have as many numbers each: {property:?} has {} in item {first:?} and {} in {:?}",
                    all.dim,
                    vector.len(),
                    self.items.id(i as u32),
                ));
            }
            all.rows[i * all.dim..][..all.dim].copy_from_slice(&vector);
            all.known += 1;
        }
        found.map(|(_, all)| all).ok_or_else(|| self.no_vectors(property))
    }

    fn no_vectors(&self, property: &str) -> String {
        let described = self.item_info.iter().flatten().count();
        let mut lists: Vec<&str> = Vec::new();
        for item in self.item_info.iter().flatten().take(1000) {
            let names = item.properties.keys().filter(|name| item.vector(name).is_some());
            lists.extend(names.map(String::as_str));
        }
        lists.sort_unstable();
        lists.dedup();
        let lists = if lists.is_empty() { "none".to_owned() } else { lists.join(", ") };
        format!(
            "no item has a list of numbers as {property:?}; {described} items have properties, lists of numbers among them: {lists}"
        )
    }

    /// Distinct positive pairs, made on first use and kept.
    pub fn interactions(&self) -> &Interactions {
        self.interactions.get_or_init(|| {
            let mut triplets = Vec::with_capacity(self.events.len());
            for u in 0..self.events.users() {
                for e in self.events.of(u) {
                    triplets.push((u as u32, self.events.item[e], self.events.weight[e]));
                }
            }
            let all = Csr::from_triplets(self.users.len(), self.items.len(), triplets);
            let by_user = keep_positive(&all);
            Interactions { by_item: by_user.transpose(), by_user }
        })
    }

    /// The same vocabularies and features with other events: how splits and filters make their parts.
    pub fn with_events(&self, events: Events) -> Snapshot {
        Snapshot { events: Arc::new(events), given: None, interactions: Arc::default(), ..self.clone() }
    }

    /// A snapshot of bare `(user, item)` pairs with weight 1: for tests and small examples.
    /// `at` counts 0, 1, 2, … per user in the order given.
    pub fn from_pairs(name: &str, pairs: &[(&str, &str)]) -> Snapshot {
        let (mut users, mut items) = (Vocab::new(), Vocab::new());
        let rows: Vec<(u32, u32)> = pairs.iter().map(|(u, i)| (users.intern(u), items.intern(i))).collect();
        let mut by_user: Vec<Vec<u32>> = vec![Vec::new(); users.len()];
        for (u, i) in rows {
            by_user[u as usize].push(i);
        }
        let mut events = Events { ptr: vec![0], ..Events::default() };
        for list in by_user {
            for (order, item) in list.into_iter().enumerate() {
                events.item.push(item);
                events.kind.push(0);
                events.at.push(order as i64);
                events.value.push(1.0);
                events.weight.push(1.0);
            }
            events.ptr.push(events.item.len());
        }
        Snapshot::assemble(name, 0, users, items, vec!["view".into()], TimeQuality::Order, events)
    }

    /// A snapshot without item or user properties.
    pub fn assemble(
        name: &str,
        offset: u64,
        users: Vocab,
        items: Vocab,
        kinds: Vec<String>,
        times: TimeQuality,
        events: Events,
    ) -> Snapshot {
        assert_eq!(events.ptr.len(), users.len() + 1, "one row of events per user");
        Snapshot {
            name: name.to_owned(),
            offset,
            item_info: Arc::new(vec![None; items.len()]),
            user_info: Arc::new(vec![None; users.len()]),
            vectors: Arc::default(),
            codes: None,
            wishes: None,
            users: Arc::new(users),
            items: Arc::new(items),
            kinds: Arc::new(kinds),
            times,
            events: Arc::new(events),
            given: None,
            candidates: Arc::default(),
            interactions: Arc::default(),
        }
    }

    /// What a model is asked for `user`, given these events as history.
    pub fn query(&self, user: usize) -> ResolvedQuery {
        let e = &self.events;
        let history: Vec<Seen> = e
            .of(user)
            .map(|i| Seen {
                item: ItemIx(e.item[i]),
                weight: e.weight[i],
                at: Time::from_millis(e.at[i]).unwrap_or_default(),
            })
            .collect();
        let now = history.last().map_or(Time::default(), |s| s.at);
        ResolvedQuery { user: Some(UserIx(user as u32)), history, now, ..ResolvedQuery::default() }
    }
}

fn keep_positive(all: &Csr) -> Csr {
    let mut out = Csr { cols: all.cols, ptr: vec![0], ..Csr::default() };
    for r in 0..all.rows() {
        let (cols, values) = all.row(r);
        for (&c, &v) in cols.iter().zip(values) {
            if v > 0.0 {
                out.index.push(c);
                out.value.push(v);
            }
        }
        out.ptr.push(out.index.len());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_properties() {
        let mut s = Snapshot::from_pairs("t", &[("a", "x"), ("a", "y"), ("a", "z")]);
        assert!(s.item_vectors("text").unwrap_err().contains("0 items have properties"));
        let described = |i: usize, list: serde_json::Value| {
            let mut item = Item::new(format!("{i}"));
            item.properties.insert("text".into(), list);
            Some(item)
        };
        let one = described(1, serde_json::json!([1, 2.5]));
        s.item_info = Arc::new(vec![None, one.clone(), described(2, serde_json::json!(["no"]))]);
        let vectors = s.item_vectors("text").unwrap();
        assert_eq!(*vectors, ItemVectors { dim: 2, rows: vec![0.0, 0.0, 1.0, 2.5, 0.0, 0.0], known: 1 });
        assert!(s.item_vectors("image").unwrap_err().ends_with("among them: text"));
        s.item_info = Arc::new(vec![None, one, described(2, serde_json::json!([1, 2, 3]))]);
        let error = s.item_vectors("text").unwrap_err();
        assert!(error.contains("2 in item \"y\" and 3 in \"z\""), "{error}");
    }

    #[test]
    fn pairs_become_interactions() {
        let s = Snapshot::from_pairs("t", &[("a", "x"), ("b", "x"), ("a", "y"), ("a", "x")]);
        let x = s.interactions();
        assert_eq!(x.by_user.row(0), (&[0, 1][..], &[2.0, 1.0][..]));
        assert_eq!(x.by_item.row(0), (&[0, 1][..], &[2.0, 1.0][..]));
        assert_eq!(s.query(0).history.len(), 3);
    }
}

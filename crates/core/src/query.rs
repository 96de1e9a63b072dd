//! The one question: a query as it is asked, and the same query with its ids resolved for a model.

use crate::{ItemIx, Time, UserIx};
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use std::fmt;
use std::sync::Arc;

/// Recommendation, search, similar items and sessions are one question with different fields filled.
///
/// `like` alone asks for similar items, `wish` alone is search, `candidates` asks only for ranking, and a
/// `history` serves a user never seen before.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Query {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Oldest first. Joined behind what the log knows of `user`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<HistoryEntry>,
    /// What the person says they want, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wish: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub like: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unlike: Vec<String>,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub context: Map<String, Value>,
    /// An expression over item properties: `item.year < 1950 and "Novel" in item.genres`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// Items that must not come back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// Rank these and no others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub candidates: Vec<String>,
    /// How many items; 10 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
    /// The `next` of an earlier slate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page: Option<String>,
    /// A named place in the product (home, cart, email) with its own pipeline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scenario: Option<String>,
}

/// One step of a history: an item id, or an item with the kind and time of the event.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum HistoryEntry {
    Item(String),
    Event(HistoryEvent),
}

/// Not derived: a derived one takes a list for an event, and says of a wrong field only that nothing matched.
impl<'de> Deserialize<'de> for HistoryEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<HistoryEntry, D::Error> {
        struct Entry;
        impl<'de> Visitor<'de> for Entry {
            type Value = HistoryEntry;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an item id or an object with `item`")
            }

            fn visit_str<E: serde::de::Error>(self, item: &str) -> Result<HistoryEntry, E> {
                Ok(HistoryEntry::Item(item.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<HistoryEntry, A::Error> {
                HistoryEvent::deserialize(MapAccessDeserializer::new(map)).map(HistoryEntry::Event)
            }
        }
        deserializer.deserialize_any(Entry)
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HistoryEvent {
    pub item: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Time>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
}

impl HistoryEntry {
    pub fn item(&self) -> &str {
        match self {
            HistoryEntry::Item(item) => item,
            HistoryEntry::Event(event) => &event.item,
        }
    }
}

/// A [`Query`] whose ids are indices of one model's vocabulary: what the traits take.
///
/// Resolved once per request, so that no model looks up a string. Ids the model has never seen are left out.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ResolvedQuery {
    /// Known to the model, or `None`. A model may use it only as a shortcut; it must answer without it.
    pub user: Option<UserIx>,
    /// Oldest first; an item may occur more than once.
    pub history: Vec<Seen>,
    pub like: Vec<ItemIx>,
    pub unlike: Vec<ItemIx>,
    /// What is wished for in words, as the vector that a model learned to hear; only for those that do.
    pub wish: Option<Arc<[f32]>>,
    pub now: Time,
}

/// One step of a resolved history.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Seen {
    pub item: ItemIx,
    /// Weight of the event after kind, sign and half-life; negative for dislikes.
    pub weight: f32,
    pub at: Time,
}

impl ResolvedQuery {
    /// A query that has only a history of items, each with weight 1.
    pub fn from_items(items: impl IntoIterator<Item = ItemIx>) -> ResolvedQuery {
        let history = items.into_iter().map(|item| Seen { item, weight: 1.0, at: Time::default() }).collect();
        ResolvedQuery { history, ..ResolvedQuery::default() }
    }

    /// What the person is taken to want more of, one entry per item, sorted by item: weights of repeated items
    /// are summed, then items whose sum is not positive are dropped. `like` counts 1 each, `unlike` −1.
    pub fn profile(&self) -> Vec<(ItemIx, f32)> {
        let mut all: Vec<(ItemIx, f32)> = self.history.iter().map(|s| (s.item, s.weight)).collect();
        all.extend(self.like.iter().map(|&i| (i, 1.0)));
        all.extend(self.unlike.iter().map(|&i| (i, -1.0)));
        all.sort_by_key(|&(item, _)| item);
        all.dedup_by(|next, kept| {
            let same = next.0 == kept.0;
            if same {
                kept.1 += next.1;
            }
            same
        });
        all.retain(|&(_, weight)| weight > 0.0);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_is_of_ids_and_events_and_nothing_else() {
        let query: Query =
            serde_json::from_str(r#"{"history": ["a", {"item": "b", "kind": "view", "value": 2.5}]}"#)
                .unwrap();
        assert_eq!(query.history.iter().map(HistoryEntry::item).collect::<Vec<_>>(), ["a", "b"]);
        for (bad, word) in [
            (r#"{"history": [["b", "view"]]}"#, "sequence, expected an item id"),
            (r#"{"history": [7]}"#, "expected an item id"),
            (r#"{"history": [{"item": "b", "when": 1}]}"#, "`when`"),
        ] {
            let words = serde_json::from_str::<Query>(bad).unwrap_err().to_string();
            assert!(words.contains(word), "{words}");
        }
    }
}

//! The shapes of `core` as OpenAPI describes them. Never built: a test holds them against what serde really writes.

#![allow(dead_code, reason = "these types are described, not built")]

use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// Milliseconds since 1970, or an ISO 8601 text such as `2026-01-31T10:00:00Z`. Answers carry milliseconds.
#[derive(Serialize, ToSchema)]
#[schema(as = Time)]
#[serde(untagged)]
pub enum TimeSchema {
    Millis(i64),
    Text(String),
}

/// Something that somebody did with an item.
#[derive(Serialize, ToSchema)]
#[schema(as = Event, example = json!({"id": "e-123", "user": "u1", "item": "i9", "kind": "view", "at": 1_700_000_000_000_i64}))]
pub struct EventSchema {
    /// Makes the write idempotent: a second event with this id is acknowledged and not stored.
    #[schema(max_length = 512)]
    pub id: Option<String>,
    #[schema(min_length = 1, max_length = 512)]
    pub user: String,
    #[schema(min_length = 1, max_length = 512)]
    pub item: String,
    /// `view`, `buy`, `rating`, …
    #[schema(min_length = 1, max_length = 512)]
    pub kind: String,
    /// When it happened; the time of arrival if absent.
    #[schema(value_type = Option<TimeSchema>)]
    pub at: Option<TimeSchema>,
    /// How much: stars, seconds, price.
    pub value: Option<f64>,
    /// The slate that showed the item.
    pub slate: Option<String>,
    /// Its place in that slate, from 0.
    pub position: Option<u32>,
    pub session: Option<String>,
    #[schema(value_type = Object, required = false)]
    pub context: Map<String, Value>,
    pub text: Option<String>,
}

/// One, or an array.
#[derive(Serialize, ToSchema)]
#[schema(as = EventsBody)]
#[serde(untagged)]
pub enum EventsBodySchema {
    One(Box<EventSchema>),
    Many(Vec<EventSchema>),
}

/// An item of the catalogue.
#[derive(ToSchema)]
#[schema(as = Item)]
pub struct ItemSchema {
    #[schema(min_length = 1, max_length = 512)]
    pub id: String,
    /// Hidden items are never in a slate.
    #[schema(required = false)]
    pub hidden: bool,
    /// From this moment on the item is never in a slate.
    #[schema(value_type = Option<TimeSchema>)]
    pub expires: Option<TimeSchema>,
    /// When it came into the catalogue.
    #[schema(value_type = Option<TimeSchema>)]
    pub at: Option<TimeSchema>,
    /// Free JSON. `title`, `description`, `image` and `categories` or `genres` are shown and searched.
    #[schema(value_type = Object, required = false)]
    pub properties: Map<String, Value>,
}

/// A user, as far as anything is known besides events.
#[derive(ToSchema)]
#[schema(as = User)]
pub struct UserSchema {
    #[schema(min_length = 1, max_length = 512)]
    pub id: String,
    #[schema(value_type = Option<TimeSchema>)]
    pub at: Option<TimeSchema>,
    #[schema(value_type = Object, required = false)]
    pub properties: Map<String, Value>,
}

/// The one question. `like` alone asks for similar items, `wish` alone is search, `candidates` asks only for ranking.
#[derive(ToSchema)]
#[schema(as = Query, example = json!({"user": "u1", "count": 10}))]
pub struct QuerySchema {
    pub user: Option<String>,
    /// Oldest first. Joined behind what is known of `user`.
    #[schema(required = false)]
    pub history: Vec<HistorySchema>,
    /// What the person says they want, in words.
    pub wish: Option<String>,
    #[schema(required = false)]
    pub like: Vec<String>,
    #[schema(required = false)]
    pub unlike: Vec<String>,
    #[schema(value_type = Object, required = false)]
    pub context: Map<String, Value>,
    /// An expression over item properties: `item.year < 1950 and "Novel" in item.genres`.
    pub filter: Option<String>,
    /// Items that must not come back.
    #[schema(required = false)]
    pub exclude: Vec<String>,
    /// Rank these and no others.
    #[schema(required = false)]
    pub candidates: Vec<String>,
    /// How many items; 10 if absent.
    #[schema(minimum = 1)]
    pub count: Option<u32>,
    /// The `next` of an earlier slate.
    pub page: Option<String>,
    /// A named place in the product with its own pipeline.
    pub scenario: Option<String>,
}

/// One step of a history: an item id, or an item with kind and time.
#[derive(Serialize, ToSchema)]
#[schema(as = HistoryEntry)]
#[serde(untagged)]
pub enum HistorySchema {
    Item(String),
    Event(HistoryEventSchema),
}

#[derive(Serialize, ToSchema)]
#[schema(as = HistoryEvent)]
pub struct HistoryEventSchema {
    pub item: String,
    pub kind: Option<String>,
    #[schema(value_type = Option<TimeSchema>)]
    pub at: Option<TimeSchema>,
    pub value: Option<f64>,
}

/// The one answer.
#[derive(ToSchema)]
#[schema(as = Slate)]
pub struct SlateSchema {
    pub id: String,
    pub items: Vec<SlateItemSchema>,
    /// Hand this back as `page` for the items after these; absent when there are no more.
    pub next: Option<String>,
    /// The artefact that ranked; absent when only rules answered.
    pub artefact: Option<String>,
    /// Why this is not the answer asked for; null when it is.
    pub fallback: Option<String>,
    /// What was left out or not understood in the query.
    #[schema(required = false)]
    pub notes: Vec<String>,
}

#[derive(ToSchema)]
#[schema(as = SlateItem)]
pub struct SlateItemSchema {
    pub item: String,
    pub score: f32,
    /// Which source found it: `model`, `similar`, `popular`, `recent`, `search`, `candidates`.
    pub source: String,
    pub reasons: Vec<ReasonSchema>,
    /// Probability that this policy shows this item at this place.
    pub propensity: f32,
    #[schema(value_type = Object, required = false)]
    pub properties: Map<String, Value>,
}

#[derive(ToSchema)]
#[schema(as = Reason)]
pub struct ReasonSchema {
    /// `because`, `popular`, `recent`, `match`, `like`.
    pub kind: String,
    /// The item it refers to.
    pub item: Option<String>,
    /// Share of the score that it carries.
    pub share: Option<f32>,
    pub text: String,
}

/// A slate as it was shown.
#[derive(ToSchema)]
#[schema(as = SlateRecord)]
pub struct SlateRecordSchema {
    #[schema(value_type = TimeSchema)]
    pub at: TimeSchema,
    pub user: Option<String>,
    pub query: QuerySchema,
    pub slate: SlateSchema,
}

/// An error, as RFC 9457 writes it.
#[derive(ToSchema)]
#[schema(as = Problem)]
pub struct ProblemSchema {
    /// Address of a page about this kind of problem.
    pub r#type: String,
    pub title: String,
    pub status: u16,
    /// What was expected, what was received, what to do.
    pub detail: String,
    /// Never changes; for programs.
    pub code: String,
    /// Path of the field at fault: `history[3].at`.
    pub field: Option<String>,
    /// Line in the body, from 1.
    pub line: Option<usize>,
    /// Column in the body, from 1.
    pub column: Option<usize>,
    /// What is wrong with each entry of a list; at most a hundred.
    #[schema(required = false)]
    pub errors: Vec<FaultSchema>,
    pub errors_total: Option<usize>,
    /// Id of the request, also in the log.
    pub request: Option<String>,
}

#[derive(ToSchema)]
#[schema(as = Fault)]
pub struct FaultSchema {
    /// From 0, in the order sent.
    pub index: usize,
    /// From 1, for NDJSON.
    pub line: Option<usize>,
    pub field: Option<String>,
    pub reason: String,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use sommelier_core::{Event, Item, Query, Slate, User};

    fn document() -> Value {
        serde_json::to_value(crate::openapi()).unwrap()
    }

    /// Every field that serde writes is described, and every described field is one that serde reads.
    fn same_fields<T: serde::Serialize + serde::de::DeserializeOwned>(name: &str, full: &Value) {
        let schema = &document()["components"]["schemas"][name]["properties"];
        let described: Vec<&String> =
            schema.as_object().unwrap_or_else(|| panic!("{name} is described")).keys().collect();
        let value: T = serde_json::from_value(full.clone()).unwrap();
        let Value::Object(written) = serde_json::to_value(value).unwrap() else { panic!("an object") };
        let mut written: Vec<&String> = written.keys().collect();
        let mut described = described;
        written.sort();
        described.sort();
        assert_eq!(written, described, "{name}");
    }

    #[test]
    fn described_as_written() {
        same_fields::<Event>(
            "Event",
            &json!({"id": "e", "user": "u", "item": "i", "kind": "view", "at": 1, "value": 1.5, "slate": "s",
                "position": 0, "session": "x", "context": {"a": 1}, "text": "t"}),
        );
        same_fields::<Item>(
            "Item",
            &json!({"id": "i", "hidden": true, "expires": 1, "at": 1, "properties": {"a": 1}}),
        );
        same_fields::<User>("User", &json!({"id": "i", "at": 1, "properties": {"a": 1}}));
        same_fields::<Query>(
            "Query",
            &json!({"user": "u", "history": ["a", {"item": "b", "kind": "k", "at": 1, "value": 2}], "wish": "w",
                "like": ["a"], "unlike": ["b"], "context": {"a": 1}, "filter": "f", "exclude": ["e"],
                "candidates": ["c"], "count": 1, "page": "p", "scenario": "s"}),
        );
        let item = json!({"item": "i", "score": 1.0, "source": "model", "propensity": 1.0, "properties": {},
            "reasons": [{"kind": "because", "item": "j", "share": 0.5, "text": "t"}]});
        let slate = json!({"id": "s", "items": [item], "next": "n", "artefact": "a", "fallback": "f", "notes": ["n"]});
        same_fields::<Slate>("Slate", &slate);
        same_fields::<sommelier_core::SlateItem>("SlateItem", &slate["items"][0]);
        same_fields::<sommelier_core::Reason>("Reason", &slate["items"][0]["reasons"][0]);
    }

    #[test]
    fn the_document_holds_together() {
        let document = document();
        assert_eq!(document["openapi"].as_str().unwrap().get(..3), Some("3.1"));
        let text = document.to_string();
        for part in text.split("\"#/components/schemas/").skip(1) {
            let name = part.split('"').next().unwrap();
            assert!(
                document["components"]["schemas"].get(name).is_some(),
                "{name} is referred to and missing"
            );
        }
        let mut ids = Vec::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                ids.push(
                    operation["operationId"].as_str().unwrap_or_else(|| panic!("{method} {path}")).to_owned(),
                );
                let first = operation["responses"].as_object().unwrap().keys().next().unwrap();
                assert!(first.starts_with('2'), "{method} {path} says what success is");
                assert!(operation["responses"]["default"]["content"]["application/problem+json"].is_object());
                assert!(
                    !operation["summary"].as_str().unwrap_or("").is_empty(),
                    "{method} {path} says what it does"
                );
            }
        }
        let count = ids.len();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), count, "operation ids are distinct");
        assert!(count > 25, "{count} operations");
    }
}

//! Items and users as the catalogue knows them: an id and free properties, a few of which the engine reads.

use crate::Time;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Property under which an item's codes (semantic ID) are handed to models, by whoever makes them.
pub const CODES: &str = "$codes";

/// Property of a user: what this person likes and does not, in words (a text or a list of texts).
pub const PREFERENCES: &str = "preferences";

/// One revision of an item. `PUT` replaces it whole, `PATCH` merges properties.
///
/// Properties are free JSON. By convention the demo, search and explanations read `title` (text),
/// `description` (text), `image` (address), `categories`/`genres` (list of text).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Item {
    pub id: String,
    /// Hidden items are never in a slate.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hidden: bool,
    /// From this moment on the item is never in a slate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Time>,
    /// When the item came into the catalogue; `recent` sorts by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Time>,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub properties: Map<String, Value>,
}

impl Item {
    pub fn new(id: impl Into<String>) -> Item {
        Item { id: id.into(), hidden: false, expires: None, at: None, properties: Map::new() }
    }

    pub fn title(&self) -> Option<&str> {
        self.properties.get("title").and_then(Value::as_str)
    }

    /// A property that is a list of finite numbers, such as a vector of the item's text. `None` for any other.
    pub fn vector(&self, property: &str) -> Option<Vec<f32>> {
        let list = self.properties.get(property)?.as_array()?;
        let number = |v: &Value| v.as_f64().map(|v| v as f32).filter(|v| v.is_finite());
        list.iter().map(number).collect::<Option<Vec<f32>>>().filter(|v| !v.is_empty())
    }

    /// Whether the gate lets it through at `now`.
    pub fn live(&self, now: Time) -> bool {
        !self.hidden && self.expires.is_none_or(|end| now < end)
    }
}

/// One revision of a user.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    pub id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Time>,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub properties: Map<String, Value>,
}

impl User {
    pub fn new(id: impl Into<String>) -> User {
        User { id: id.into(), at: None, properties: Map::new() }
    }
}

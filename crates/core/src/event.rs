//! What somebody did with an item: the only thing the log records about behaviour.

use crate::Time;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Longest id of a user, item, event, kind or session, in bytes of UTF-8.
pub const MAX_ID_BYTES: usize = 512;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    #[error("{what} id is empty; give every {what} a non-empty id")]
    Empty { what: &'static str },
    #[error("{what} id has {bytes} bytes, at most {MAX_ID_BYTES} are allowed")]
    TooLong { what: &'static str, bytes: usize },
}

/// Any non-empty UTF-8 of at most [`MAX_ID_BYTES`] bytes is an id.
pub fn check_id(what: &'static str, id: &str) -> Result<(), IdError> {
    match id.len() {
        0 => Err(IdError::Empty { what }),
        1..=MAX_ID_BYTES => Ok(()),
        bytes => Err(IdError::TooLong { what, bytes }),
    }
}

/// One event. Everything but `user`, `item` and `kind` is optional.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// Makes the write idempotent: a second event with this id is acknowledged and not stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    pub user: String,
    pub item: String,
    /// `view`, `buy`, `rating`, …: the configuration gives each kind weight, sign and half-life.
    pub kind: String,
    /// When it happened; the time of arrival if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Time>,
    /// How much: stars, seconds, price. Finite.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    /// The slate that showed the item.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slate: Option<String>,
    /// Its place in that slate, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub context: Map<String, Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

impl Event {
    pub fn new(user: impl Into<String>, item: impl Into<String>, kind: impl Into<String>) -> Event {
        Event {
            id: None,
            user: user.into(),
            item: item.into(),
            kind: kind.into(),
            at: None,
            value: None,
            slate: None,
            position: None,
            session: None,
            context: Map::new(),
            text: None,
        }
    }

    /// Checks what the type cannot: the ids, and that `value` is finite.
    pub fn check(&self) -> Result<(), EventError> {
        check_id("user", &self.user)?;
        check_id("item", &self.item)?;
        check_id("kind", &self.kind)?;
        if let Some(id) = &self.id {
            check_id("event", id)?;
        }
        if let Some(session) = &self.session {
            check_id("session", session)?;
        }
        match self.value {
            Some(v) if !v.is_finite() => Err(EventError::Value),
            _ => Ok(()),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    #[error(transparent)]
    Id(#[from] IdError),
    #[error("value must be a finite number, received NaN or infinity")]
    Value,
}

//! How keys and values of the live store are written: ordered keys, versioned and checksummed values.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sommelier_core::{Event, Query, Slate, Time};
use std::fmt;
use std::str::FromStr;

use super::LogError;

const VALUE_VERSION: u8 = 1;

/// `version, postcard, crc32 of key and both`: a value that was changed, cut or put under another key is found out.
pub(super) fn seal<T: Serialize>(key: &[u8], value: &T) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(64);
    bytes.push(VALUE_VERSION);
    let mut bytes = postcard::to_extend(value, bytes).expect("plain values always encode");
    let crc = checksum(key, &bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

/// The reverse of [`seal`]; the error says what is wrong.
pub(super) fn unseal<T: DeserializeOwned>(key: &[u8], bytes: &[u8]) -> Result<T, String> {
    let Some((body, crc)) = bytes.split_last_chunk::<4>() else {
        return Err(format!("a value of {} bytes is too short", bytes.len()));
    };
    if checksum(key, body) != u32::from_le_bytes(*crc) {
        return Err("the checksum of a value does not match".to_owned());
    }
    match body.split_first() {
        Some((&VALUE_VERSION, payload)) => postcard::from_bytes(payload).map_err(|e| e.to_string()),
        Some((version, _)) => {
            Err(format!("a value has version {version}, this program reads {VALUE_VERSION}"))
        }
        None => Err("a value is empty".to_owned()),
    }
}

fn checksum(key: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(body);
    hasher.finalize()
}

/// What the log holds at an offset. Events are stored once, under their user; the log points there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum Record {
    Event {
        user: String,
        item: String,
        at: i64,
    },
    /// What was here has been erased.
    Erased,
    /// `revision` is the item as JSON, `None` a deletion; `previous` the offset of the revision before.
    Item {
        id: String,
        revision: Option<String>,
        previous: Option<u64>,
    },
    User {
        id: String,
        revision: Option<String>,
        previous: Option<u64>,
    },
    Slate {
        id: String,
    },
    /// The erased id itself is not kept.
    Erasure {
        item: bool,
    },
    /// Stands at the first of `count` offsets.
    Segment {
        file: String,
        count: u64,
    },
}

/// An event as it lies under its user; user, time and offset are in the key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct StoredEvent {
    pub item: String,
    pub kind: String,
    pub value: Option<f64>,
    pub extra: Extra,
}

/// What most events do not have.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Extra {
    pub id: Option<String>,
    pub slate: Option<String>,
    pub position: Option<u32>,
    pub session: Option<String>,
    /// JSON; postcard cannot hold values that describe themselves.
    pub context: Option<String>,
    pub text: Option<String>,
}

impl StoredEvent {
    pub fn from_event(event: Event) -> StoredEvent {
        let context = (!event.context.is_empty()).then(|| json(&event.context));
        StoredEvent {
            item: event.item,
            kind: event.kind,
            value: event.value,
            extra: Extra {
                id: event.id,
                slate: event.slate,
                position: event.position,
                session: event.session,
                context,
                text: event.text,
            },
        }
    }

    pub fn into_event(self, user: &str, at: i64) -> Event {
        event(user, self.item, self.kind, at, self.value, self.extra)
    }
}

/// Puts an event together. A time or context that cannot be read was checksummed as such; it stays empty.
pub(super) fn event(
    user: &str,
    item: String,
    kind: String,
    at: i64,
    value: Option<f64>,
    extra: Extra,
) -> Event {
    Event {
        id: extra.id,
        user: user.to_owned(),
        item,
        kind,
        at: Time::from_millis(at).ok(),
        value,
        slate: extra.slate,
        position: extra.position,
        session: extra.session,
        context: extra.context.and_then(|c| serde_json::from_str(&c).ok()).unwrap_or_default(),
        text: extra.text,
    }
}

pub(super) fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("plain values always encode")
}

/// The newest revision of an item or user. `json` is `None` where it was deleted or erased.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub offset: u64,
    pub json: Option<String>,
}

/// A slate that was shown, with the question it answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SlateRecord {
    pub at: Time,
    /// The user it was shown to; taken from the query where it names one.
    pub user: Option<String>,
    pub query: Query,
    pub slate: Slate,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct StoredSlate {
    pub offset: u64,
    pub json: String,
}

/// How much there is. Changed only together with what it counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Counters {
    /// Offset of the newest record; the first record has offset 1.
    pub offset: u64,
    pub events: u64,
    pub items: u64,
    pub users: u64,
    pub slates: u64,
    /// Number for the next segment file.
    pub next_segment: u64,
}

/// Where an event stands in the history of its user or item: by time, then by arrival.
///
/// Prints and parses as a cursor: `1700000000000-42`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventKey {
    pub at: i64,
    pub offset: u64,
}

impl fmt::Display for EventKey {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}-{}", self.at, self.offset)
    }
}

impl FromStr for EventKey {
    type Err = LogError;

    fn from_str(text: &str) -> Result<EventKey, LogError> {
        // From the right, because times before 1970 have a minus sign of their own.
        let parts = text
            .rsplit_once('-')
            .and_then(|(at, offset)| Some(EventKey { at: at.parse().ok()?, offset: offset.parse().ok()? }));
        parts.ok_or_else(|| LogError::Cursor(text.chars().take(80).collect()))
    }
}

pub(super) fn offset_key(offset: u64) -> [u8; 8] {
    offset.to_be_bytes()
}

/// Length-prefixed, so that an id that begins with another id is not among its events.
pub(super) fn id_prefix(id: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(2 + id.len() + 16);
    key.extend_from_slice(&(id.len() as u16).to_be_bytes());
    key.extend_from_slice(id.as_bytes());
    key
}

/// Key of an event under its user or item: id, time, offset, in that order.
pub(super) fn event_key(id: &str, key: EventKey) -> Vec<u8> {
    let mut bytes = id_prefix(id);
    bytes.extend_from_slice(&(key.at as u64 ^ (1 << 63)).to_be_bytes());
    bytes.extend_from_slice(&key.offset.to_be_bytes());
    bytes
}

/// The reverse of [`event_key`].
pub(super) fn read_event_key(bytes: &[u8]) -> Result<(&str, EventKey), String> {
    let wrong = || "a key of an event cannot be read".to_owned();
    let (len, rest) = bytes.split_first_chunk::<2>().ok_or_else(wrong)?;
    let len = u16::from_be_bytes(*len) as usize;
    if rest.len() != len + 16 {
        return Err(wrong());
    }
    let (id, rest) = rest.split_at(len);
    let (at, offset) = rest.split_at(8);
    let number = |b: &[u8]| b.try_into().map(u64::from_be_bytes).map_err(|_| wrong());
    let key = EventKey { at: (number(at)? ^ (1 << 63)) as i64, offset: number(offset)? };
    Ok((std::str::from_utf8(id).map_err(|_| wrong())?, key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn keys_sort_as_their_parts(
            a in "\\PC{1,4}", b in "\\PC{1,4}", at in any::<[i64; 2]>(), offset in any::<[u64; 2]>()
        ) {
            let (ka, kb) = (EventKey { at: at[0], offset: offset[0] }, EventKey { at: at[1], offset: offset[1] });
            let (x, y) = (event_key(&a, ka), event_key(&b, kb));
            prop_assert_eq!(read_event_key(&x), Ok((a.as_str(), ka)));
            prop_assert_eq!(x.cmp(&y), (a.len(), a.as_bytes(), ka).cmp(&(b.len(), b.as_bytes(), kb)));
            prop_assert_eq!(ka.to_string().parse::<EventKey>(), Ok(ka));
        }
    }

    #[test]
    fn every_changed_byte_is_found_out() {
        let value = Record::Slate { id: "s-1".into() };
        let sealed = seal(b"key", &value);
        assert_eq!(unseal::<Record>(b"key", &sealed), Ok(value));
        assert!(unseal::<Record>(b"kez", &sealed).is_err());
        for i in 0..sealed.len() {
            let mut broken = sealed.clone();
            broken[i] ^= 4;
            assert!(unseal::<Record>(b"key", &broken).is_err(), "byte {i}");
            assert!(unseal::<Record>(b"key", &sealed[..i]).is_err(), "cut at {i}");
        }
    }
}

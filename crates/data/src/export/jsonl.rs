//! JSON lines in our own words: `events.jsonl`, `items.jsonl`, `users.jsonl`. Times are ISO 8601, which nobody can
//! take for seconds.

use super::{ExportError, Work};
use serde_json::{Map, Value};
use sommelier_core::{Event, Item, Time, User};

pub fn write(work: &mut Work<'_>) -> Result<(), ExportError> {
    let mut out = work.create("events.jsonl")?;
    work.events(|report, events| {
        report.events += events.len() as u64;
        events.into_iter().try_for_each(|event| out.json(&event_object(event)))
    })?;
    out.close()?;
    let mut out = work.create("items.jsonl")?;
    work.items(|report, items| {
        report.items += items.len() as u64;
        items.into_iter().try_for_each(|item| out.json(&item_object(item)))
    })?;
    out.close()?;
    let mut out = work.create("users.jsonl")?;
    work.users(|report, users| {
        report.users += users.len() as u64;
        users.into_iter().try_for_each(|user| out.json(&user_object(user)))
    })?;
    out.close()
}

fn event_object(event: Event) -> Map<String, Value> {
    let mut map = Map::new();
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            map.insert(name.to_owned(), value);
        }
    };
    put("id", event.id.map(Value::from));
    put("user", Some(event.user.into()));
    put("item", Some(event.item.into()));
    put("kind", Some(event.kind.into()));
    put("at", event.at.map(iso));
    put("value", event.value.map(Value::from));
    put("slate", event.slate.map(Value::from));
    put("position", event.position.map(Value::from));
    put("session", event.session.map(Value::from));
    put("context", (!event.context.is_empty()).then_some(Value::Object(event.context)));
    put("text", event.text.map(Value::from));
    map
}

fn item_object(item: Item) -> Map<String, Value> {
    let mut map = Map::new();
    map.insert("id".into(), item.id.into());
    if item.hidden {
        map.insert("hidden".into(), true.into());
    }
    if let Some(expires) = item.expires {
        map.insert("expires".into(), iso(expires));
    }
    if let Some(at) = item.at {
        map.insert("at".into(), iso(at));
    }
    map.insert("properties".into(), Value::Object(item.properties));
    map
}

fn user_object(user: User) -> Map<String, Value> {
    let mut map = Map::new();
    map.insert("id".into(), user.id.into());
    if let Some(at) = user.at {
        map.insert("at".into(), iso(at));
    }
    map.insert("properties".into(), Value::Object(user.properties));
    map
}

fn iso(time: Time) -> Value {
    Value::from(time.to_iso())
}

//! gorse's JSON lines: users, items and feedback, told apart by their keys, which are read in any case.

use super::batch::{Batch, Extra, Row};
use super::columns::plain;
use super::json::words;
use serde_json::{Map, Value};
use sommelier_core::{Item, Time, User, check_id};
use std::collections::BTreeMap;

/// Parses the lines in `batch.text`.
pub fn parse(batch: &mut Batch, first_line: u64) {
    let text = std::mem::take(&mut batch.text);
    for (line, row) in (first_line..).zip(text.split('\n')) {
        let row = row.trim();
        if row.is_empty() {
            continue;
        }
        match serde_json::from_str::<Map<String, Value>>(row) {
            Err(e) => batch.skip(line, None, words(row, &e)),
            Ok(map) => {
                let map: BTreeMap<String, Value> =
                    map.into_iter().map(|(key, value)| (plain(&key), value)).collect();
                if let Err((field, reason)) = object(map, batch) {
                    batch.skip(line, Some(field), reason);
                }
            }
        }
    }
    batch.text = text;
}

fn object(mut map: BTreeMap<String, Value>, batch: &mut Batch) -> Result<(), (&'static str, String)> {
    let at = match map.remove("timestamp") {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) if text.is_empty() || text.starts_with("0001-01-01") => None,
        Some(value) => {
            let time = match &value {
                Value::String(text) => Time::parse(text).ok(),
                Value::Number(n) => n.as_i64().and_then(|n| Time::from_millis(n).ok()),
                _ => None,
            };
            Some(time.ok_or_else(|| ("Timestamp", format!("expected a time in ISO 8601, received {value}")))?)
        }
    };
    let comment = match map.remove("comment") {
        Some(Value::String(text)) if !text.is_empty() => Some(text),
        _ => None,
    };
    if let Some(kind) = map.remove("feedbacktype") {
        let kind = id("kind", "FeedbackType", Some(kind))?;
        let user = id("user", "UserId", map.remove("userid"))?;
        let item = id("item", "ItemId", map.remove("itemid"))?;
        let value = match map.remove("value") {
            None | Some(Value::Null) => None,
            Some(value) => Some(
                value
                    .as_f64()
                    .filter(|v| v.is_finite())
                    .ok_or_else(|| ("Value", format!("expected a finite number, received {value}")))?,
            ),
        };
        let extra = batch.add_extra(Extra { text: comment, ..Extra::default() });
        let (user, item, kind) = (batch.add_text(&user), batch.add_text(&item), batch.add_text(&kind));
        batch.rows.push(Row { user, item, kind, at, value, extra });
        return Ok(());
    }
    let mut properties = Map::new();
    match map.remove("labels") {
        None | Some(Value::Null) => {}
        Some(Value::Object(labels)) => properties = labels,
        Some(labels) => {
            properties.insert("labels".to_owned(), labels);
        }
    }
    if let Some(item) = map.remove("itemid") {
        let item = id("item", "ItemId", Some(item))?;
        if let Some(title) = comment {
            properties.entry("title").or_insert(Value::from(title));
        }
        match map.remove("categories") {
            Some(Value::Array(list)) if !list.is_empty() => {
                properties.entry("categories").or_insert(Value::Array(list));
            }
            _ => {}
        }
        let hidden = matches!(map.remove("ishidden"), Some(Value::Bool(true)));
        batch.items.push(Item { id: item, hidden, expires: None, at, properties });
        return Ok(());
    }
    if let Some(user) = map.remove("userid") {
        let user = id("user", "UserId", Some(user))?;
        if let Some(text) = comment {
            properties.entry("comment").or_insert(Value::from(text));
        }
        batch.users.push(User { id: user, at, properties });
        return Ok(());
    }
    Err((
        "",
        "expected a user (UserId), an item (ItemId) or feedback (FeedbackType, UserId, ItemId)".to_owned(),
    ))
}

fn id(
    what: &'static str,
    field: &'static str,
    value: Option<Value>,
) -> Result<String, (&'static str, String)> {
    let id = match value {
        Some(Value::String(text)) => text,
        Some(Value::Number(n)) => n.to_string(),
        Some(other) => return Err((field, format!("expected the id of the {what}, received {other}"))),
        None => return Err((field, format!("the object has no {field}"))),
    };
    check_id(what, &id).map_err(|e| (field, e.to_string()))?;
    Ok(id)
}

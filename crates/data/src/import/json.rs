//! JSON lines: one event, item or user a line, under any key names.

use super::batch::{Batch, shown};
use super::columns::{Column, Field};
use super::delimited::Entity;
use super::plan::Role;
use super::scalar::{Draft, Scalar};
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value};
use sommelier_core::check_id;
use std::borrow::Cow;
use std::fmt;

/// Parses the lines in `batch.text`.
pub fn parse(batch: &mut Batch, first_line: u64, role: Role, columns: &[Column], kind: &str) {
    let text = std::mem::take(&mut batch.text);
    let kind = batch.add_text(kind);
    for (line, row) in (first_line..).zip(text.split('\n')) {
        let row = row.trim();
        if row.is_empty() {
            continue;
        }
        if role == Role::Events {
            let mut draft = Draft::default();
            let seed = EventSeed { columns, draft: &mut draft, batch };
            match read(row, seed) {
                Err(reason) => batch.skip(line, None, reason),
                Ok(Err((field, reason))) => batch.skip(line, Some(&field), reason),
                Ok(Ok(())) => {
                    if let Err(reason) = draft.finish(kind, batch) {
                        batch.skip(line, None, reason);
                    }
                }
            }
        } else {
            match serde_json::from_str::<Map<String, Value>>(row) {
                Err(e) => batch.skip(line, None, words(row, &e)),
                Ok(map) => entity(role, columns, map, line, batch),
            }
        }
    }
    batch.text = text;
}

/// Why a line is not the object it should be.
pub fn words(row: &str, error: &serde_json::Error) -> String {
    format!("expected a JSON object, received `{}`: {error}", shown(row))
}

fn read(row: &str, seed: EventSeed<'_>) -> Result<Result<(), (String, String)>, String> {
    let mut json = serde_json::Deserializer::from_str(row);
    let out = seed.deserialize(&mut json).map_err(|e| words(row, &e))?;
    json.end().map_err(|e| words(row, &e))?;
    Ok(out)
}

/// Reads one object into a draft; the inner result names a field that is wrong in a well-formed object.
struct EventSeed<'a> {
    columns: &'a [Column],
    draft: &'a mut Draft,
    batch: &'a mut Batch,
}

impl<'de> DeserializeSeed<'de> for EventSeed<'_> {
    type Value = Result<(), (String, String)>;

    fn deserialize<D: serde::Deserializer<'de>>(self, d: D) -> Result<Self::Value, D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for EventSeed<'_> {
    type Value = Result<(), (String, String)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut wrong = Ok(());
        while let Some(Key(key)) = map.next_key::<Key<'de>>()? {
            let Some(column) = self.columns.iter().find(|c| c.name == key) else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let scalar: Scalar<'de> = map.next_value()?;
            if let (Err(reason), Ok(())) = (self.draft.set(column, &scalar, self.batch), &wrong) {
                wrong = Err((column.name.clone(), reason));
            }
        }
        Ok(wrong)
    }
}

/// A key, borrowed from the line where it holds no escapes.
struct Key<'a>(Cow<'a, str>);

impl<'de> serde::Deserialize<'de> for Key<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Key<'de>, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Key<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }
            fn visit_borrowed_str<E>(self, v: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(v)))
            }
            fn visit_str<E>(self, v: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(v.to_owned())))
            }
        }
        d.deserialize_str(V)
    }
}

/// An item or user. Keys that nobody mapped are properties as they are.
fn entity(role: Role, columns: &[Column], map: Map<String, Value>, line: u64, batch: &mut Batch) {
    let (what, own) = if role == Role::Items { ("item", Field::Item) } else { ("user", Field::User) };
    let mut made = Entity::default();
    let mut id = None;
    let mut wrong = Vec::new();
    for (key, value) in map {
        let field = columns.iter().find(|c| c.name == key).map(|c| &c.field);
        let text = match &value {
            Value::String(text) => Some(text.clone()),
            Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
            _ => None,
        };
        let result = match (field, text) {
            _ if value.is_null() => Ok(()),
            (Some(field), Some(text)) if *field == own => {
                id = Some(text);
                Ok(())
            }
            (Some(field @ (Field::At(_) | Field::Expires(_) | Field::Hidden)), Some(text)) => {
                made.set(field, &text)
            }
            (Some(Field::Bag), _) if value.is_object() => {
                if let Value::Object(more) = value {
                    made.properties.extend(more);
                }
                Ok(())
            }
            (Some(Field::Property(name, _)), _) => {
                made.properties.insert(name.clone(), value);
                Ok(())
            }
            (None, _) => {
                made.properties.insert(key.clone(), value);
                Ok(())
            }
            (Some(_), _) => Err(format!("received `{}`, which does not fit here", shown(&value.to_string()))),
        };
        if let Err(reason) = result {
            wrong.push((key, reason));
        }
    }
    let Some(id) = id else {
        batch.skip(line, None, format!("the object has no id of the {what}"));
        return;
    };
    if let Err(e) = check_id(what, &id) {
        batch.skip(line, None, e.to_string());
        return;
    }
    for (key, reason) in wrong {
        batch.warn(line, Some(&key), format!("{reason}; the {what} was kept without it"));
    }
    made.push(role, id, batch);
}

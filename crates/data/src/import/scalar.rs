//! One cell of a typed row (JSON, Parquet), and an event made of such cells.

use super::batch::{Batch, Extra, Row, Span, shown};
use super::columns::{Column, Field};
use super::delimited::{add_extra, number};
use super::times::TimeUnit;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor, value};
use serde_json::{Map, Value};
use sommelier_core::{Time, check_id};
use std::borrow::Cow;
use std::fmt;

#[derive(Debug, Clone, PartialEq)]
pub enum Scalar<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Float(f64),
    Text(Cow<'a, str>),
    Time(Time),
    /// A list or an object.
    Other(Value),
}

impl Scalar<'_> {
    /// The text people would write for it; `None` where there is none.
    pub fn text(&self) -> Option<Cow<'_, str>> {
        Some(match self {
            Scalar::Null | Scalar::Other(_) => return None,
            Scalar::Bool(b) => Cow::Borrowed(if *b { "true" } else { "false" }),
            Scalar::Int(n) => n.to_string().into(),
            Scalar::Uint(n) => n.to_string().into(),
            Scalar::Float(n) => n.to_string().into(),
            Scalar::Text(t) => Cow::Borrowed(t.as_ref()),
            Scalar::Time(t) => t.to_iso().into(),
        })
    }

    pub fn into_value(self) -> Value {
        match self {
            Scalar::Null => Value::Null,
            Scalar::Bool(b) => Value::from(b),
            Scalar::Int(n) => Value::from(n),
            Scalar::Uint(n) => Value::from(n),
            // NaN and infinity have no JSON; they become null.
            Scalar::Float(n) => Value::from(n),
            Scalar::Text(t) => Value::from(t.as_ref()),
            Scalar::Time(t) => Value::from(t.to_iso()),
            Scalar::Other(v) => v,
        }
    }

    /// An id: text, or a whole number as people print it.
    fn id(&self, what: &'static str) -> Result<Cow<'_, str>, String> {
        let text = match self {
            Scalar::Text(_) | Scalar::Int(_) | Scalar::Uint(_) => self.text().unwrap_or_default(),
            // Data frames with gaps turn whole ids into doubles.
            Scalar::Float(n) if n.fract() == 0.0 && n.abs() < 9e15 => Cow::Owned((*n as i64).to_string()),
            _ => return Err(format!("expected the id of the {what}, received {}", self.words())),
        };
        check_id(what, &text).map_err(|e| e.to_string())?;
        Ok(text)
    }

    fn words(&self) -> String {
        match self {
            Scalar::Null => "null".to_owned(),
            Scalar::Other(Value::Array(_)) => "a list".to_owned(),
            Scalar::Other(_) => "an object".to_owned(),
            other => format!("`{}`", shown(&other.text().unwrap_or_default())),
        }
    }

    pub fn time(&self, unit: TimeUnit) -> Result<Option<Time>, String> {
        match self {
            Scalar::Null => Ok(None),
            Scalar::Time(t) => Ok(Some(*t)),
            Scalar::Float(n) if n.is_nan() => Ok(None),
            Scalar::Other(_) | Scalar::Bool(_) => Err(format!("expected a time, received {}", self.words())),
            other => match other.text().unwrap_or_default().trim() {
                "" => Ok(None),
                text => unit.read(text).map(Some),
            },
        }
    }

    fn value(&self) -> Result<Option<f64>, String> {
        match self {
            Scalar::Null => Ok(None),
            Scalar::Int(n) => Ok(Some(*n as f64)),
            Scalar::Uint(n) => Ok(Some(*n as f64)),
            Scalar::Bool(b) => Ok(Some(f64::from(u8::from(*b)))),
            Scalar::Float(n) if n.is_finite() => Ok(Some(*n)),
            Scalar::Text(t) if t.trim().is_empty() => Ok(None),
            Scalar::Text(t) => number(t.trim()).map(Some),
            _ => Err(format!("expected a finite number, received {}", self.words())),
        }
    }
}

/// An event in the making.
#[derive(Default)]
pub struct Draft {
    user: Option<Span>,
    item: Option<Span>,
    kind: Option<Span>,
    at: Option<Time>,
    value: Option<f64>,
    extra: Extra,
}

impl Draft {
    pub fn set(&mut self, column: &Column, scalar: &Scalar<'_>, batch: &mut Batch) -> Result<(), String> {
        match &column.field {
            Field::User => self.user = Some(batch.add_text(&scalar.id("user")?)),
            Field::Item => self.item = Some(batch.add_text(&scalar.id("item")?)),
            Field::Kind => {
                if !matches!(scalar, Scalar::Null) {
                    self.kind = Some(batch.add_text(&scalar.id("kind")?));
                }
            }
            Field::At(unit) => self.at = scalar.time(*unit)?,
            Field::Value => self.value = scalar.value()?,
            Field::Context(name) => {
                if !matches!(scalar, Scalar::Null) {
                    self.extra.context.insert(name.clone(), scalar.clone().into_value());
                }
            }
            Field::Bag => match scalar {
                Scalar::Null => {}
                Scalar::Other(Value::Object(map)) => self.extra.context.extend(map.clone()),
                Scalar::Text(text) => add_extra(&mut self.extra, column, text)?,
                other => return Err(format!("expected an object, received {}", other.words())),
            },
            _ => {
                if let Some(text) = scalar.text() {
                    add_extra(&mut self.extra, column, &text)?;
                }
            }
        }
        Ok(())
    }

    pub fn finish(self, default_kind: Span, batch: &mut Batch) -> Result<(), String> {
        let user = self.user.ok_or("the row has no user")?;
        let item = self.item.ok_or("the row has no item")?;
        let extra = batch.add_extra(self.extra);
        let kind = self.kind.unwrap_or(default_kind);
        batch.rows.push(Row { user, item, kind, at: self.at, value: self.value, extra });
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Scalar<'de> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Scalar<'de>, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Scalar<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any JSON")
            }
            fn visit_bool<E>(self, v: bool) -> Result<Scalar<'de>, E> {
                Ok(Scalar::Bool(v))
            }
            fn visit_i64<E>(self, v: i64) -> Result<Scalar<'de>, E> {
                Ok(Scalar::Int(v))
            }
            fn visit_u64<E>(self, v: u64) -> Result<Scalar<'de>, E> {
                Ok(i64::try_from(v).map_or(Scalar::Uint(v), Scalar::Int))
            }
            fn visit_f64<E>(self, v: f64) -> Result<Scalar<'de>, E> {
                Ok(Scalar::Float(v))
            }
            fn visit_borrowed_str<E>(self, v: &'de str) -> Result<Scalar<'de>, E> {
                Ok(Scalar::Text(Cow::Borrowed(v)))
            }
            fn visit_str<E>(self, v: &str) -> Result<Scalar<'de>, E> {
                Ok(Scalar::Text(Cow::Owned(v.to_owned())))
            }
            fn visit_unit<E>(self) -> Result<Scalar<'de>, E> {
                Ok(Scalar::Null)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Scalar<'de>, A::Error> {
                Vec::<Value>::deserialize(value::SeqAccessDeserializer::new(seq))
                    .map(|v| Scalar::Other(v.into()))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Scalar<'de>, A::Error> {
                Map::<String, Value>::deserialize(value::MapAccessDeserializer::new(map))
                    .map(|m| Scalar::Other(m.into()))
            }
        }
        d.deserialize_any(V)
    }
}

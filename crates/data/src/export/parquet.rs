//! Parquet: `events.parquet`, `items.parquet`, `users.parquet`. Times are timestamps in UTC; context and properties,
//! which are free JSON, are JSON text.

use super::{ExportError, Out, Work};
use ::parquet::arrow::ArrowWriter;
use ::parquet::basic::{Compression, ZstdLevel};
use ::parquet::file::properties::WriterProperties;
use arrow_array::{
    ArrayRef, BooleanArray, Float64Array, RecordBatch, StringArray, TimestampMillisecondArray, UInt32Array,
};
use serde_json::{Map, Value};
use sommelier_core::{Event, Item, Time, User};
use std::fmt::Display;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

/// Name, cells, whether cells may be missing.
type Columns = Vec<(&'static str, ArrayRef, bool)>;

pub fn write(work: &mut Work<'_>) -> Result<(), ExportError> {
    let mut table = Table::create(work.create("events.parquet")?, event_columns(&[]))?;
    work.events(|report, events| {
        report.events += events.len() as u64;
        table.write(event_columns(&events))
    })?;
    table.close()?;
    let mut table = Table::create(work.create("items.parquet")?, item_columns(&[]))?;
    work.items(|report, items| {
        report.items += items.len() as u64;
        table.write(item_columns(&items))
    })?;
    table.close()?;
    let mut table = Table::create(work.create("users.parquet")?, user_columns(&[]))?;
    work.users(|report, users| {
        report.users += users.len() as u64;
        table.write(user_columns(&users))
    })?;
    table.close()
}

fn event_columns(events: &[Event]) -> Columns {
    let text = |get: fn(&Event) -> Option<&str>| -> ArrayRef {
        Arc::new(events.iter().map(get).collect::<StringArray>())
    };
    vec![
        ("user", text(|e| Some(&e.user)), false),
        ("item", text(|e| Some(&e.item)), false),
        ("kind", text(|e| Some(&e.kind)), false),
        ("at", times(events.iter().map(|e| e.at)), true),
        ("value", Arc::new(events.iter().map(|e| e.value).collect::<Float64Array>()), true),
        ("id", text(|e| e.id.as_deref()), true),
        ("session", text(|e| e.session.as_deref()), true),
        ("slate", text(|e| e.slate.as_deref()), true),
        ("position", Arc::new(events.iter().map(|e| e.position).collect::<UInt32Array>()), true),
        ("text", text(|e| e.text.as_deref()), true),
        ("context", json(events.iter().map(|e| &e.context)), true),
    ]
}

fn item_columns(items: &[Item]) -> Columns {
    vec![
        ("id", Arc::new(items.iter().map(|i| Some(&i.id)).collect::<StringArray>()), false),
        ("hidden", Arc::new(items.iter().map(|i| Some(i.hidden)).collect::<BooleanArray>()), true),
        ("expires", times(items.iter().map(|i| i.expires)), true),
        ("at", times(items.iter().map(|i| i.at)), true),
        ("properties", json(items.iter().map(|i| &i.properties)), true),
    ]
}

fn user_columns(users: &[User]) -> Columns {
    vec![
        ("id", Arc::new(users.iter().map(|u| Some(&u.id)).collect::<StringArray>()), false),
        ("at", times(users.iter().map(|u| u.at)), true),
        ("properties", json(users.iter().map(|u| &u.properties)), true),
    ]
}

fn times(all: impl Iterator<Item = Option<Time>>) -> ArrayRef {
    Arc::new(all.map(|t| t.map(Time::millis)).collect::<TimestampMillisecondArray>().with_timezone("UTC"))
}

/// JSON text; null where there is nothing.
fn json<'a>(all: impl Iterator<Item = &'a Map<String, Value>>) -> ArrayRef {
    let texts = all.map(|map| if map.is_empty() { None } else { serde_json::to_string(map).ok() });
    Arc::new(texts.collect::<StringArray>())
}

struct Table {
    path: PathBuf,
    writer: ArrowWriter<File>,
}

impl Table {
    /// `empty` has the columns and no rows.
    fn create(out: Out, empty: Columns) -> Result<Table, ExportError> {
        let path = out.path;
        let file = out
            .file
            .into_inner()
            .map_err(|e| ExportError::Io { path: path.clone(), source: e.into_error() })?;
        let properties =
            WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default())).build();
        let writer = RecordBatch::try_from_iter_with_nullable(empty)
            .map_err(::parquet::errors::ParquetError::from)
            .and_then(|rows| ArrowWriter::try_new(file, rows.schema(), Some(properties)))
            .map_err(|e| wrong(&path, &e))?;
        Ok(Table { path, writer })
    }

    fn write(&mut self, columns: Columns) -> Result<(), ExportError> {
        let rows = RecordBatch::try_from_iter_with_nullable(columns).map_err(|e| wrong(&self.path, &e))?;
        self.writer.write(&rows).map_err(|e| wrong(&self.path, &e))
    }

    /// Everything on the disk.
    fn close(self) -> Result<(), ExportError> {
        let file = self.writer.into_inner().map_err(|e| wrong(&self.path, &e))?;
        file.sync_all().map_err(|source| ExportError::Io { path: self.path, source })
    }
}

fn wrong(path: &std::path::Path, error: &dyn Display) -> ExportError {
    ExportError::Write { path: path.to_owned(), reason: error.to_string() }
}

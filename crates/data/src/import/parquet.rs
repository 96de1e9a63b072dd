//! Parquet: columns by name, in any of the types that data frames write ids, numbers and times in.

use super::batch::Batch;
use super::columns::{Column, Field};
use super::delimited::Entity;
use super::plan::{FilePlan, Role};
use super::scalar::{Draft, Scalar};
use super::{ImportError, Source};
use ::parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Date64Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
    UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, RecordBatch, RecordBatchReader};
use arrow_schema::{DataType, TimeUnit as ArrowUnit};
use serde_json::Value;
use sommelier_core::{Time, check_id};
use std::borrow::Cow;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const ROWS: usize = 8192;

/// Column names and some rows as text, to guess from.
pub fn sample(source: &Source, rows: usize) -> Result<(Vec<String>, Vec<Vec<String>>), ImportError> {
    let reader = open(source, rows)?;
    let header: Vec<String> = reader.schema().fields().iter().map(|f| f.name().clone()).collect();
    let mut out = Vec::new();
    for batch in reader {
        let batch = batch.map_err(|e| unreadable(source, &e))?;
        for row in 0..batch.num_rows() {
            out.push(
                batch
                    .columns()
                    .iter()
                    .map(|c| scalar(c.as_ref(), row).text().unwrap_or_default().into_owned())
                    .collect(),
            );
        }
        if out.len() >= rows {
            break;
        }
    }
    Ok((header, out))
}

pub fn parse(
    file: &FilePlan,
    name: &Arc<str>,
    keep: usize,
    read: &Arc<AtomicU64>,
    emit: &mut dyn FnMut(Batch) -> bool,
) -> Result<(), ImportError> {
    let mut record = 0;
    let size = file.source.size();
    let reader = open(&file.source, ROWS)?;
    for rows in reader {
        let rows = rows.map_err(|e| unreadable(&file.source, &e))?;
        let mut batch = Batch::new(String::new(), name, file.part, keep);
        if file.role == Role::Events {
            events(file, &rows, &mut record, &mut batch)?;
        } else {
            entities(file, &rows, &mut record, &mut batch);
        }
        if !emit(batch) {
            break;
        }
    }
    read.fetch_add(size, Ordering::Relaxed);
    Ok(())
}

fn open(source: &Source, rows: usize) -> Result<ParquetRecordBatchReader, ImportError> {
    if source.member.is_some() {
        return Err(ImportError::Unreadable {
            file: source.name(),
            reason: "Parquet inside a zip archive cannot be read; unpack it first".to_owned(),
        });
    }
    let file =
        File::open(&source.path).map_err(|e| ImportError::Io { path: source.path.clone(), source: e })?;
    ParquetRecordBatchReaderBuilder::try_new(file)
        .and_then(|b| b.with_batch_size(rows).build())
        .map_err(|e| unreadable(source, &e))
}

fn unreadable(source: &Source, error: &dyn std::fmt::Display) -> ImportError {
    ImportError::Unreadable { file: source.name(), reason: format!("not readable as Parquet: {error}") }
}

/// The columns of the plan beside the arrays that hold them.
fn pairs<'a>(file: &'a FilePlan, rows: &'a RecordBatch) -> Vec<(&'a Column, &'a dyn Array)> {
    file.columns.iter().filter_map(|c| Some((c, rows.column_by_name(&c.name)?.as_ref()))).collect()
}

fn events(
    file: &FilePlan,
    rows: &RecordBatch,
    record: &mut u64,
    batch: &mut Batch,
) -> Result<(), ImportError> {
    let columns = pairs(file, rows);
    for (column, array) in &columns {
        let id = matches!(column.field, Field::User | Field::Item | Field::Kind);
        if id && matches!(array.data_type(), DataType::List(_) | DataType::Struct(_) | DataType::Map(..)) {
            return Err(ImportError::Unreadable {
                file: file.source.name(),
                reason: format!("column {} should hold ids, its type is {}", column.name, array.data_type()),
            });
        }
    }
    let kind = batch.add_text(&file.kind);
    for row in 0..rows.num_rows() {
        *record += 1;
        let mut draft = Draft::default();
        let wrong = columns.iter().find_map(|(column, array)| {
            draft.set(column, &scalar(*array, row), batch).err().map(|reason| (column, reason))
        });
        match wrong {
            Some((column, reason)) => batch.skip(*record, Some(&column.name), reason),
            None => {
                if let Err(reason) = draft.finish(kind, batch) {
                    batch.skip(*record, None, reason);
                }
            }
        }
    }
    Ok(())
}

fn entities(file: &FilePlan, rows: &RecordBatch, record: &mut u64, batch: &mut Batch) {
    let columns = pairs(file, rows);
    let (what, own) = if file.role == Role::Items { ("item", Field::Item) } else { ("user", Field::User) };
    for row in 0..rows.num_rows() {
        *record += 1;
        let mut made = Entity::default();
        let mut id = String::new();
        for (column, array) in &columns {
            let value = scalar(*array, row);
            let result = match (&column.field, value) {
                (_, Scalar::Null) => Ok(()),
                (field, value) if *field == own => {
                    id = value.text().unwrap_or_default().into_owned();
                    Ok(())
                }
                (Field::Property(name, _), value) => {
                    made.properties.insert(name.clone(), value.into_value());
                    Ok(())
                }
                (field, value) => match (field, value.text()) {
                    (Field::At(unit) | Field::Expires(unit), Some(_)) => {
                        value.time(*unit).map(|time| made.set_time(field, time))
                    }
                    (field, Some(text)) => made.set(field, &text),
                    (_, None) => Err("a list or an object does not fit here".to_owned()),
                },
            };
            if let Err(reason) = result {
                batch.warn(*record, Some(&column.name), format!("{reason}; the {what} was kept without it"));
            }
        }
        match check_id(what, &id) {
            Err(e) => batch.skip(*record, None, e.to_string()),
            Ok(()) => made.push(file.role, id, batch),
        }
    }
}

/// The cell of a row. Types that we have no use for are null.
fn scalar(array: &dyn Array, row: usize) -> Scalar<'_> {
    if array.is_null(row) {
        return Scalar::Null;
    }
    macro_rules! int {
        ($kind:ty) => {
            Scalar::Int(i64::from(array.as_primitive::<$kind>().value(row)))
        };
    }
    let time = |millis: i64| Time::from_millis(millis).map_or(Scalar::Int(millis), Scalar::Time);
    match array.data_type() {
        DataType::Utf8 => Scalar::Text(Cow::Borrowed(array.as_string::<i32>().value(row))),
        DataType::LargeUtf8 => Scalar::Text(Cow::Borrowed(array.as_string::<i64>().value(row))),
        DataType::Utf8View => Scalar::Text(Cow::Borrowed(array.as_string_view().value(row))),
        DataType::Boolean => Scalar::Bool(array.as_boolean().value(row)),
        DataType::Int8 => int!(Int8Type),
        DataType::Int16 => int!(Int16Type),
        DataType::Int32 => int!(Int32Type),
        DataType::Int64 => int!(Int64Type),
        DataType::UInt8 => int!(UInt8Type),
        DataType::UInt16 => int!(UInt16Type),
        DataType::UInt32 => int!(UInt32Type),
        DataType::UInt64 => Scalar::Uint(array.as_primitive::<UInt64Type>().value(row)),
        DataType::Float32 => Scalar::Float(f64::from(array.as_primitive::<Float32Type>().value(row))),
        DataType::Float64 => Scalar::Float(array.as_primitive::<Float64Type>().value(row)),
        DataType::Timestamp(ArrowUnit::Second, _) => {
            time(array.as_primitive::<TimestampSecondType>().value(row).saturating_mul(1000))
        }
        DataType::Timestamp(ArrowUnit::Millisecond, _) => {
            time(array.as_primitive::<TimestampMillisecondType>().value(row))
        }
        DataType::Timestamp(ArrowUnit::Microsecond, _) => {
            time(array.as_primitive::<TimestampMicrosecondType>().value(row).div_euclid(1000))
        }
        DataType::Timestamp(ArrowUnit::Nanosecond, _) => {
            time(array.as_primitive::<TimestampNanosecondType>().value(row).div_euclid(1_000_000))
        }
        DataType::Date32 => time(i64::from(array.as_primitive::<Date32Type>().value(row)) * 86_400_000),
        DataType::Date64 => time(array.as_primitive::<Date64Type>().value(row)),
        DataType::Dictionary(..) => {
            let Some(dictionary) = array.as_any_dictionary_opt() else { return Scalar::Null };
            match scalar(dictionary.keys(), row) {
                Scalar::Int(key) => own(scalar(dictionary.values().as_ref(), key as usize)),
                Scalar::Uint(key) => own(scalar(dictionary.values().as_ref(), key as usize)),
                _ => Scalar::Null,
            }
        }
        DataType::List(_) => {
            let list = array.as_list::<i32>().value(row);
            Scalar::Other((0..list.len()).map(|i| scalar(list.as_ref(), i).into_value()).collect())
        }
        DataType::LargeList(_) => {
            let list = array.as_list::<i64>().value(row);
            Scalar::Other((0..list.len()).map(|i| scalar(list.as_ref(), i).into_value()).collect())
        }
        DataType::Struct(fields) => {
            let parts = array.as_struct();
            let map = fields
                .iter()
                .zip(parts.columns())
                .map(|(f, c)| (f.name().clone(), scalar(c.as_ref(), row).into_value()));
            Scalar::Other(Value::Object(map.collect()))
        }
        _ => Scalar::Null,
    }
}

fn own(scalar: Scalar<'_>) -> Scalar<'static> {
    match scalar {
        Scalar::Null => Scalar::Null,
        Scalar::Bool(b) => Scalar::Bool(b),
        Scalar::Int(n) => Scalar::Int(n),
        Scalar::Uint(n) => Scalar::Uint(n),
        Scalar::Float(n) => Scalar::Float(n),
        Scalar::Text(t) => Scalar::Text(Cow::Owned(t.into_owned())),
        Scalar::Time(t) => Scalar::Time(t),
        Scalar::Other(v) => Scalar::Other(v),
    }
}

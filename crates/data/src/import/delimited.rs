//! Rows of separated fields: CSV, TSV, MovieLens' `::` and `|`, RecBole's atomic files.

use super::batch::{Batch, Extra, Row, Span, shown};
use super::blocks::{close_quote, unclosed};
use super::columns::{Column, Field, PropertyKind};
use super::plan::Role;
use super::times::TimeUnit;
use memchr::{memchr, memchr_iter, memmem};
use serde_json::{Map, Value};
use sommelier_core::{Item, Time, User, check_id};

/// One field of a record: where it is, and whether it was quoted (blanks around unquoted text mean nothing).
#[derive(Debug, Clone, Copy)]
pub struct Cell {
    pub span: Span,
    pub quoted: bool,
}

/// How to read the records of one file.
pub struct Reader {
    separator: Vec<u8>,
    quotes: bool,
    header: Option<usize>,
    header_pending: bool,
    rows: RowMaker,
}

impl Reader {
    /// `width`: fields of the header, where there is one.
    pub fn new(separator: &str, quotes: bool, header: Option<usize>, rows: RowMaker) -> Reader {
        Reader {
            separator: separator.as_bytes().to_vec(),
            quotes,
            header,
            header_pending: header.is_some(),
            rows,
        }
    }

    /// Parses the block in `batch.text`.
    pub fn parse(&mut self, batch: &mut Batch, first_line: u64) {
        // The rows point into the text; it is taken out so that the batch can be written while it is read.
        let text = std::mem::take(&mut batch.text);
        let quoted = self.quotes && memchr(b'"', text.as_bytes()).is_some();
        self.rows.start(batch);
        let mut cells = Vec::with_capacity(16);
        let (mut at, mut line) = (0, first_line);
        while at < text.len() {
            cells.clear();
            let (next, lines) = if quoted {
                if let Some(end) = self.quoted_record(&text, at, &mut cells, batch) {
                    (end, memchr_iter(b'\n', &text.as_bytes()[at..end]).count() as u64)
                } else {
                    batch.skip(line, None, unclosed());
                    (line_end(text.as_bytes(), at).1, 1)
                }
            } else {
                let (end, next) = line_end(text.as_bytes(), at);
                self.plain_record(text.as_bytes(), at, end, &mut cells);
                (next, 1)
            };
            if !cells.is_empty() {
                if self.header_pending {
                    self.header_pending = false;
                } else {
                    self.record(&text, &cells, line, batch);
                }
            }
            at = next;
            line += lines;
        }
        batch.text = text;
    }

    fn record(&self, text: &str, cells: &[Cell], line: u64, batch: &mut Batch) {
        if let Some(width) = self.header
            && cells.len() != width
            && (cells.len() < width || cells[width..].iter().any(|c| c.span.len > 0))
        {
            batch.skip(
                line,
                None,
                format!("expected {width} fields like the header, received {}", cells.len()),
            );
            return;
        }
        self.rows.row(text, cells, line, batch);
    }

    /// Fields of the line `start..end`; none where the line is blank.
    fn plain_record(&self, bytes: &[u8], start: usize, end: usize, cells: &mut Vec<Cell>) {
        if start == end {
            return;
        }
        let line = &bytes[start..end];
        let mut from = start;
        let mut cell = |from: usize, to: usize| {
            cells.push(Cell { span: Span { start: from as u32, len: (to - from) as u32 }, quoted: false });
        };
        if let [separator] = self.separator[..] {
            for hit in memchr_iter(separator, line) {
                cell(from, start + hit);
                from = start + hit + 1;
            }
        } else {
            for hit in memmem::find_iter(line, &self.separator) {
                cell(from, start + hit);
                from = start + hit + self.separator.len();
            }
        }
        cell(from, end);
    }

    /// Fields of the record at `start`, which may span lines; returns where the next record starts, or `None`
    /// where a quote does not close.
    fn quoted_record(
        &self,
        text: &str,
        start: usize,
        cells: &mut Vec<Cell>,
        batch: &mut Batch,
    ) -> Option<usize> {
        let bytes = text.as_bytes();
        let separator = self.separator.as_slice();
        if bytes[start] == b'\n' || bytes[start..].starts_with(b"\r\n") {
            return Some(line_end(bytes, start).1);
        }
        let mut at = start;
        loop {
            let mut quoted = None;
            let mut search = at;
            if bytes.get(at) == Some(&b'"') {
                let Some(close) = close_quote(bytes, at) else {
                    cells.clear();
                    return None;
                };
                quoted = Some((at + 1, close));
                search = close + 1;
            }
            let (line_stop, next) = line_end(bytes, search);
            let stop =
                memmem::find(&bytes[search..line_stop], separator).map_or(line_stop, |hit| search + hit);
            let span = |from: usize, to: usize| Span { start: from as u32, len: (to - from) as u32 };
            cells.push(match quoted {
                // Text after the closing quote: the quotes were part of the text.
                Some((_, close)) if close + 1 != stop => Cell { span: span(at, stop), quoted: false },
                Some((open, close)) if memmem::find(&bytes[open..close], b"\"\"").is_some() => {
                    Cell { span: batch.add_text(&text[open..close].replace("\"\"", "\"")), quoted: true }
                }
                Some((open, close)) => Cell { span: span(open, close), quoted: true },
                None => Cell { span: span(at, stop), quoted: false },
            });
            if stop == line_stop {
                return Some(next);
            }
            at = stop + separator.len();
        }
    }
}

/// The end of the line at `start` without its line end, and the start of the next line.
fn line_end(bytes: &[u8], start: usize) -> (usize, usize) {
    let (end, next) = match memchr(b'\n', &bytes[start..]) {
        Some(hit) => (start + hit, start + hit + 1),
        None => (bytes.len(), bytes.len()),
    };
    if end > start && bytes[end - 1] == b'\r' { (end - 1, next) } else { (end, next) }
}

/// Makes events, items or users of cells.
pub struct RowMaker {
    role: Role,
    columns: Vec<Column>,
    /// Which of the columns hold what every event has, so that the common row takes no walk through all columns.
    user: Option<usize>,
    item: Option<usize>,
    kind: Option<usize>,
    at: Option<(usize, TimeUnit)>,
    value: Option<usize>,
    others: Vec<Column>,
    default_kind: String,
    default_span: Span,
}

impl RowMaker {
    pub fn new(role: Role, columns: &[Column], default_kind: &str) -> RowMaker {
        let place = |field: &Field| columns.iter().find(|c| c.field == *field).map(|c| c.index);
        let at = columns.iter().find_map(|c| match c.field {
            Field::At(unit) => Some((c.index, unit)),
            _ => None,
        });
        let others = columns
            .iter()
            .filter(|c| {
                !matches!(c.field, Field::User | Field::Item | Field::Kind | Field::At(_) | Field::Value)
            })
            .cloned()
            .collect();
        RowMaker {
            role,
            user: place(&Field::User),
            item: place(&Field::Item),
            kind: place(&Field::Kind),
            value: place(&Field::Value),
            at,
            others,
            columns: columns.to_vec(),
            default_kind: default_kind.to_owned(),
            default_span: Span::default(),
        }
    }

    /// Readies a batch for rows.
    pub fn start(&mut self, batch: &mut Batch) {
        self.default_span = batch.add_text(&self.default_kind);
    }

    /// Name of the column at `index`, for problems.
    fn name(&self, index: usize) -> &str {
        self.columns.iter().find(|c| c.index == index).map_or("", |c| &c.name)
    }

    pub fn row(&self, text: &str, cells: &[Cell], line: u64, batch: &mut Batch) {
        match self.role {
            Role::Items | Role::Users => self.entity(text, cells, line, batch),
            _ => {
                if let Err((index, reason)) = self.event(text, cells, batch) {
                    batch.skip(line, index.map(|i| self.name(i)), reason);
                }
            }
        }
    }

    fn event(&self, text: &str, cells: &[Cell], batch: &mut Batch) -> Result<(), (Option<usize>, String)> {
        let id = |what, index: Option<usize>| {
            let index = index.ok_or_else(|| (None, format!("no column holds the {what}")))?;
            let cell = cells.get(index).ok_or_else(|| {
                (Some(index), format!("the row has {} fields, {what} is field {}", cells.len(), index + 1))
            })?;
            let span = trimmed(batch, text, *cell);
            check_id(what, batch.get_in(text, span)).map_err(|e| (Some(index), e.to_string()))?;
            Ok(span)
        };
        let user = id("user", self.user)?;
        let item = id("item", self.item)?;
        let kind = match self.kind {
            Some(index) if cells.get(index).is_some_and(|c| c.span.len > 0) => id("kind", Some(index))?,
            _ => self.default_span,
        };
        let get = |index: usize| cells.get(index).map_or("", |c| batch.get_in(text, c.span).trim());
        let at = match self.at {
            Some((index, unit)) => match get(index) {
                "" => None,
                value => Some(unit.read(value).map_err(|reason| (Some(index), reason))?),
            },
            None => None,
        };
        let value = match self.value {
            Some(index) => match get(index) {
                "" => None,
                value => Some(number(value).map_err(|reason| (Some(index), reason))?),
            },
            None => None,
        };
        let extra = if self.others.is_empty() {
            u32::MAX
        } else {
            let mut extra = Extra::default();
            for column in &self.others {
                let value = cells.get(column.index).map_or("", |c| batch.get_in(text, c.span));
                add_extra(&mut extra, column, value).map_err(|reason| (Some(column.index), reason))?;
            }
            batch.add_extra(extra)
        };
        batch.rows.push(Row { user, item, kind, at, value, extra });
        Ok(())
    }

    fn entity(&self, text: &str, cells: &[Cell], line: u64, batch: &mut Batch) {
        let own = if self.role == Role::Items { self.item } else { self.user };
        let what = if self.role == Role::Items { "item" } else { "user" };
        let Some(cell) = own.and_then(|index| cells.get(index)) else {
            batch.skip(line, None, format!("the row has {} fields and none is the {what}", cells.len()));
            return;
        };
        let id = batch.get_in(text, trimmed(batch, text, *cell)).to_owned();
        if let Err(e) = check_id(what, &id) {
            batch.skip(line, own.map(|i| self.name(i)), e.to_string());
            return;
        }
        let mut made = Entity::default();
        let mut wrong = Vec::new();
        for column in &self.columns {
            let value = cells.get(column.index).map_or("", |c| batch.get_in(text, c.span));
            if let Err(reason) = made.set(&column.field, value) {
                wrong.push((column.name.clone(), reason));
            }
        }
        for (name, reason) in wrong {
            batch.warn(line, Some(&name), format!("{reason}; the {what} was kept without it"));
        }
        made.push(self.role, id, batch);
    }
}

fn trimmed(batch: &Batch, text: &str, cell: Cell) -> Span {
    if cell.quoted {
        return cell.span;
    }
    let raw = batch.get_in(text, cell.span);
    let start = raw.len() - raw.trim_start().len();
    Span { start: cell.span.start + start as u32, len: raw.trim().len() as u32 }
}

/// A finite number.
pub fn number(text: &str) -> Result<f64, String> {
    if let [digit @ b'0'..=b'9'] = text.as_bytes() {
        return Ok(f64::from(digit - b'0'));
    }
    match text.parse::<f64>() {
        Ok(n) if n.is_finite() => Ok(n),
        _ => Err(format!("expected a finite number, received `{}`", shown(text))),
    }
}

/// Puts a rare field where it belongs.
pub fn add_extra(extra: &mut Extra, column: &Column, value: &str) -> Result<(), String> {
    if value.is_empty() {
        return Ok(());
    }
    let id = |what| check_id(what, value).map(|()| Some(value.to_owned())).map_err(|e| e.to_string());
    match &column.field {
        Field::Id => extra.id = id("event")?,
        Field::Session => extra.session = id("session")?,
        Field::Slate => extra.slate = id("slate")?,
        Field::Position => {
            extra.position = Some(
                value
                    .trim()
                    .parse()
                    .map_err(|_| format!("expected a position from 0, received `{}`", shown(value)))?,
            );
        }
        Field::Text => extra.text = Some(value.to_owned()),
        Field::Context(name) => {
            extra.context.insert(name.clone(), text_or_number(value));
        }
        Field::Bag => extra.context.extend(bag(value)?),
        _ => {}
    }
    Ok(())
}

/// A number where the text is one exactly as it would be printed again, so that `007` stays text.
fn text_or_number(value: &str) -> Value {
    if let Ok(whole) = value.parse::<i64>()
        && whole.to_string() == value
    {
        return Value::from(whole);
    }
    match value.parse::<f64>() {
        Ok(n) if n.is_finite() && !value.starts_with('+') => Value::from(n),
        _ => Value::from(value),
    }
}

/// A JSON object in a text.
pub fn bag(value: &str) -> Result<Map<String, Value>, String> {
    serde_json::from_str(value)
        .map_err(|e| format!("expected a JSON object, received `{}` ({e})", shown(value)))
}

/// An item or user in the making.
#[derive(Default)]
pub struct Entity {
    hidden: bool,
    expires: Option<Time>,
    at: Option<Time>,
    pub properties: Map<String, Value>,
}

impl Entity {
    pub fn set(&mut self, field: &Field, value: &str) -> Result<(), String> {
        if value.is_empty() {
            return Ok(());
        }
        match field {
            Field::At(unit) => self.at = Some(unit.read(value)?),
            Field::Expires(unit) => self.expires = Some(unit.read(value)?),
            Field::Hidden => {
                self.hidden = match value.trim().to_lowercase().as_str() {
                    "1" | "true" | "yes" | "t" => true,
                    "0" | "false" | "no" | "f" => false,
                    _ => return Err(format!("expected true or false, received `{}`", shown(value))),
                };
            }
            Field::Bag => self.properties.extend(bag(value)?),
            Field::Property(name, kind) => self.property(name, kind, value)?,
            _ => {}
        }
        Ok(())
    }

    /// A time that needed no reading.
    pub fn set_time(&mut self, field: &Field, time: Option<Time>) {
        match field {
            Field::At(_) => self.at = time,
            _ => self.expires = time,
        }
    }

    fn property(&mut self, name: &str, kind: &PropertyKind, value: &str) -> Result<(), String> {
        let made = match kind {
            PropertyKind::Text => Value::from(value),
            PropertyKind::Number => text_or_number(value.trim()),
            PropertyKind::List(by) => {
                value.split(by.as_str()).map(str::trim).filter(|p| !p.is_empty()).map(Value::from).collect()
            }
            PropertyKind::Numbers(by) => value
                .split(by.as_str())
                .filter(|p| !p.is_empty())
                .map(|p| number(p).map(Value::from))
                .collect::<Result<Value, String>>()?,
            PropertyKind::Flag(word) => {
                if matches!(value.trim(), "1" | "1.0" | "true" | "True") {
                    let list = self.properties.entry(name).or_insert_with(|| Value::Array(Vec::new()));
                    if let Value::Array(list) = list {
                        list.push(Value::from(word.as_str()));
                    }
                }
                return Ok(());
            }
            PropertyKind::TitleYear => {
                let (title, year) = split_year(value);
                if let Some(year) = year {
                    self.properties.insert("year".to_owned(), Value::from(year));
                }
                Value::from(title)
            }
        };
        self.properties.insert(name.to_owned(), made);
        Ok(())
    }

    pub fn push(self, role: Role, id: String, batch: &mut Batch) {
        let Entity { hidden, expires, at, properties } = self;
        if role == Role::Items {
            batch.items.push(Item { id, hidden, expires, at, properties });
        } else {
            batch.users.push(User { id, at, properties });
        }
    }
}

/// `Toy Story (1995)` is the title `Toy Story` of the year 1995.
fn split_year(title: &str) -> (&str, Option<u32>) {
    let title = title.trim();
    let year = title
        .strip_suffix(')')
        .and_then(|rest| rest.rsplit_once(" ("))
        .filter(|(name, year)| !name.trim().is_empty() && year.len() == 4)
        .and_then(|(name, year)| Some((name.trim(), year.parse().ok()?)));
    match year {
        Some((name, year)) => (name, Some(year)),
        None => (title, None),
    }
}

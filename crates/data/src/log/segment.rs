//! Segment files: imported events in columns, laid out by user and by item, checksummed in blocks, never changed.
//!
//! ```text
//! "SOMMSEG1"  sections  footer (postcard)  footer length u64  footer crc32  "SOMMSEG1"
//! ```
//!
//! The footer names the sections and holds one crc32 per block of everything before it. A block is checked when it
//! is first read, so opening is quick and nothing unchecked is ever returned.

use super::columns::Columns;
use super::dict::hash;
use super::error::LogError;
use super::map::map;
use super::record::{Extra, event};
use crate::snapshot::TimeQuality;
use memmap2::Mmap;
use serde::{Deserialize, Serialize};
use sommelier_core::{Event, Time};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

const MAGIC: &[u8; 8] = b"SOMMSEG1";
const VERSION: u32 = 1;
const BLOCK: usize = 64 << 10;
const TRAILER: usize = 8 + 4 + 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Section {
    UserText,
    UserEnds,
    UserTable,
    ItemText,
    ItemEnds,
    ItemTable,
    UserPtr,
    Item,
    Kind,
    At,
    Value,
    Seq,
    ItemPtr,
    ItemRows,
    IdHash,
    IdRow,
    ExtraRow,
    ExtraEnd,
    ExtraBytes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum ValueWidth {
    None,
    F32,
    F64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Footer {
    version: u32,
    rows: u32,
    kinds: Vec<String>,
    values: ValueWidth,
    oldest: i64,
    newest: i64,
    sections: Vec<(Section, u64, u64)>,
    blocks: Vec<u32>,
}

/// What the store knows of a segment; written in the batch that makes the segment part of the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct SegmentInfo {
    pub file: String,
    /// The segment holds offsets `base + 1 ..= base + count`.
    pub base: u64,
    pub count: u64,
    pub source: String,
    pub times: TimeQuality,
    pub bytes: u64,
}

/// An open segment file.
pub(super) struct Segment {
    pub info: SegmentInfo,
    path: PathBuf,
    map: Mmap,
    footer: Footer,
    checked: Vec<AtomicBool>,
    by_arrival: OnceLock<Vec<u32>>,
}

/// One event of a segment, ids as numbers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row {
    pub item: u32,
    pub kind: u8,
    pub at: i64,
    pub value: Option<f64>,
    pub seq: u32,
}

impl Segment {
    pub fn open(dir: &Path, info: SegmentInfo) -> Result<Segment, LogError> {
        let path = dir.join(&info.file);
        let all = format!(
            "{} imported events, offsets {} to {}",
            info.count,
            info.base + 1,
            info.base + info.count
        );
        let damaged = |what: String| LogError::damaged(&path, what, all.clone());
        let file = File::open(&path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => damaged("the segment file is missing".into()),
            _ => LogError::io("open", &path)(e),
        })?;
        let length = file.metadata().map_err(LogError::io("read", &path))?.len();
        if length != info.bytes {
            return Err(damaged(format!("the file has {length} bytes, it was written with {}", info.bytes)));
        }
        let map = map(&file).map_err(LogError::io("map", &path))?;
        let footer = read_footer(&map).map_err(damaged)?;
        let checked = footer.blocks.iter().map(|_| AtomicBool::new(false)).collect();
        Ok(Segment { info, path, map, footer, checked, by_arrival: OnceLock::new() })
    }

    pub fn kinds(&self) -> &[String] {
        &self.footer.kinds
    }

    pub fn newest(&self) -> i64 {
        self.footer.newest
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file as it lies, for backups.
    pub fn file_bytes(&self) -> &[u8] {
        &self.map
    }

    pub fn users(&self) -> usize {
        self.entries(Section::UserEnds, 4)
    }

    pub fn items(&self) -> usize {
        self.entries(Section::ItemEnds, 4)
    }

    pub fn rows(&self) -> usize {
        self.entries(Section::Item, 4)
    }

    fn entries(&self, section: Section, width: usize) -> usize {
        self.find_section(section).map_or(0, |range| range.len() / width)
    }

    fn find_section(&self, section: Section) -> Option<Range<usize>> {
        let &(_, start, len) = self.footer.sections.iter().find(|s| s.0 == section)?;
        Some(start as usize..(start + len) as usize)
    }

    /// Bytes of a section, every block of them checked.
    pub fn bytes(&self, section: Section, range: Range<usize>) -> Result<&[u8], LogError> {
        let whole = self.find_section(section).unwrap_or(0..0);
        let (start, end) = (whole.start + range.start, whole.start + range.end);
        if range.start > range.end || end > whole.end {
            return Err(self.damage(format!("section {section:?} ends before byte {}", range.end), None));
        }
        if start < end {
            for block in start / BLOCK..=(end - 1) / BLOCK {
                self.check_block(block)?;
            }
        }
        Ok(&self.map[start..end])
    }

    /// A section whole.
    pub fn section(&self, section: Section) -> Result<&[u8], LogError> {
        let len = self.find_section(section).map_or(0, |r| r.len());
        self.bytes(section, 0..len)
    }

    fn check_block(&self, block: usize) -> Result<(), LogError> {
        if self.checked[block].load(Ordering::Relaxed) {
            return Ok(());
        }
        let end = ((block + 1) * BLOCK).min(self.data_end());
        if crc32fast::hash(&self.map[block * BLOCK..end]) != self.footer.blocks[block] {
            return Err(self.damage(format!("the checksum of block {block} does not match"), Some(block)));
        }
        self.checked[block].store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Blocks whose checksum does not match, as damage in words.
    pub fn verify(&self) -> Vec<super::Damage> {
        let blocks = 0..self.footer.blocks.len();
        let errors = blocks.filter_map(|block| self.check_block(block).err());
        errors.filter_map(|e| if let LogError::Damaged(damage) = e { Some(*damage) } else { None }).collect()
    }

    fn data_end(&self) -> usize {
        self.footer.sections.last().map_or(MAGIC.len(), |s| (s.1 + s.2) as usize)
    }

    fn damage(&self, what: String, block: Option<usize>) -> LogError {
        LogError::damaged(&self.path, what, self.affected(block))
    }

    /// What a damaged block takes with it, as exactly as the other blocks can still tell.
    fn affected(&self, block: Option<usize>) -> String {
        let span = |t: i64| Time::from_millis(t).map_or_else(|_| t.to_string(), Time::to_iso);
        let whole = format!(
            "of {} imported events (source {}, offsets {} to {}, {} to {})",
            self.footer.rows,
            self.info.source,
            self.info.base + 1,
            self.info.base + self.info.count,
            span(self.footer.oldest),
            span(self.footer.newest)
        );
        let rows = block.and_then(|b| self.rows_of_block(b));
        let Some(rows) = rows else { return format!("any {whole}") };
        let name = |row: usize| {
            let user = self.user_of_row(row).ok()?;
            Some(self.user_id(user).ok()?.to_owned())
        };
        match (name(rows.start), name(rows.end - 1)) {
            (Some(first), Some(last)) => {
                format!(
                    "{} {whole}: rows {} to {}, users {first:?} to {last:?} in file order",
                    rows.len(),
                    rows.start,
                    rows.end - 1
                )
            }
            _ => format!("{} {whole}", rows.len()),
        }
    }

    /// Rows with a column in `block`, where the block holds columns by row.
    fn rows_of_block(&self, block: usize) -> Option<Range<usize>> {
        let bytes = block * BLOCK..((block + 1) * BLOCK).min(self.data_end());
        let mut rows: Option<Range<usize>> = None;
        for (section, start, len) in &self.footer.sections {
            let (start, end) = (*start as usize, (*start + *len) as usize);
            if end <= bytes.start || start >= bytes.end {
                continue;
            }
            let width = match section {
                Section::Item | Section::Seq => 4,
                Section::Kind => 1,
                Section::Value if self.footer.values == ValueWidth::F32 => 4,
                Section::At | Section::Value => 8,
                // Dictionaries and indexes concern rows all over the file.
                _ => return None,
            };
            let first = bytes.start.max(start) - start;
            let last = bytes.end.min(end) - start;
            let here = first / width..last.div_ceil(width);
            rows = Some(rows.map_or(here.clone(), |r| r.start.min(here.start)..r.end.max(here.end)));
        }
        rows.filter(|r| !r.is_empty())
    }

    fn u32_at(&self, section: Section, ix: usize) -> Result<u32, LogError> {
        let bytes = self.bytes(section, ix * 4..ix * 4 + 4)?;
        Ok(u32::from_le_bytes(bytes.try_into().expect("four bytes were asked for")))
    }

    fn u64_at(&self, section: Section, ix: usize) -> Result<u64, LogError> {
        let bytes = self.bytes(section, ix * 8..ix * 8 + 8)?;
        Ok(u64::from_le_bytes(bytes.try_into().expect("eight bytes were asked for")))
    }

    fn id_text(&self, text: Section, ends: Section, ix: u32) -> Result<&str, LogError> {
        let ix = ix as usize;
        let start = if ix == 0 { 0 } else { self.u32_at(ends, ix - 1)? as usize };
        let bytes = self.bytes(text, start..self.u32_at(ends, ix)? as usize)?;
        std::str::from_utf8(bytes).map_err(|_| self.damage(format!("id {ix} of {text:?} is not UTF-8"), None))
    }

    pub fn user_id(&self, user: u32) -> Result<&str, LogError> {
        self.id_text(Section::UserText, Section::UserEnds, user)
    }

    pub fn item_id(&self, item: u32) -> Result<&str, LogError> {
        self.id_text(Section::ItemText, Section::ItemEnds, item)
    }

    pub fn find_user(&self, id: &str) -> Result<Option<u32>, LogError> {
        self.find_id_in(Section::UserTable, id, |ix| self.user_id(ix))
    }

    pub fn find_item(&self, id: &str) -> Result<Option<u32>, LogError> {
        self.find_id_in(Section::ItemTable, id, |ix| self.item_id(ix))
    }

    fn find_id_in<'a>(
        &'a self,
        table: Section,
        id: &str,
        text: impl Fn(u32) -> Result<&'a str, LogError>,
    ) -> Result<Option<u32>, LogError> {
        let slots = self.entries(table, 4);
        if slots == 0 {
            return Ok(None);
        }
        let mut slot = hash(id.as_bytes()) as usize & (slots - 1);
        loop {
            match self.u32_at(table, slot)? {
                0 => return Ok(None),
                entry if text(entry - 1)? == id => return Ok(Some(entry - 1)),
                _ => slot = (slot + 1) & (slots - 1),
            }
        }
    }

    /// Rows of a user, oldest first.
    pub fn user_rows(&self, user: u32) -> Result<Range<usize>, LogError> {
        self.ptr(Section::UserPtr, user)
    }

    /// Places of an item's rows in [`Segment::item_row`], oldest first.
    pub fn item_places(&self, item: u32) -> Result<Range<usize>, LogError> {
        self.ptr(Section::ItemPtr, item)
    }

    pub fn item_row(&self, place: usize) -> Result<usize, LogError> {
        Ok(self.u32_at(Section::ItemRows, place)? as usize)
    }

    fn ptr(&self, section: Section, ix: u32) -> Result<Range<usize>, LogError> {
        Ok(self.u32_at(section, ix as usize)? as usize..self.u32_at(section, ix as usize + 1)? as usize)
    }

    pub fn user_of_row(&self, row: usize) -> Result<u32, LogError> {
        let (mut low, mut high) = (0, self.users());
        // The user whose rows begin at or before `row` and end after it.
        while low + 1 < high {
            let middle = usize::midpoint(low, high);
            if self.u32_at(Section::UserPtr, middle)? as usize <= row {
                low = middle;
            } else {
                high = middle;
            }
        }
        Ok(low as u32)
    }

    pub fn at(&self, row: usize) -> Result<i64, LogError> {
        Ok(self.u64_at(Section::At, row)? as i64)
    }

    pub fn seq(&self, row: usize) -> Result<u32, LogError> {
        self.u32_at(Section::Seq, row)
    }

    pub fn offset(&self, row: usize) -> Result<u64, LogError> {
        Ok(self.info.base + 1 + u64::from(self.seq(row)?))
    }

    pub fn row(&self, row: usize) -> Result<Row, LogError> {
        let kind = if self.footer.kinds.len() > 1 { self.bytes(Section::Kind, row..row + 1)?[0] } else { 0 };
        let value = match self.footer.values {
            ValueWidth::None => f64::NAN,
            ValueWidth::F32 => f64::from(f32::from_bits(self.u32_at(Section::Value, row)?)),
            ValueWidth::F64 => f64::from_bits(self.u64_at(Section::Value, row)?),
        };
        Ok(Row {
            item: self.u32_at(Section::Item, row)?,
            kind,
            at: self.at(row)?,
            value: (!value.is_nan()).then_some(value),
            seq: self.seq(row)?,
        })
    }

    pub fn extra(&self, row: usize) -> Result<Option<Extra>, LogError> {
        let count = self.entries(Section::ExtraRow, 4);
        let n = search(count, |n| Ok((self.u32_at(Section::ExtraRow, n)? as usize) < row))?;
        if n == count || self.u32_at(Section::ExtraRow, n)? as usize != row {
            return Ok(None);
        }
        let start = if n == 0 { 0 } else { self.u64_at(Section::ExtraEnd, n - 1)? };
        let bytes =
            self.bytes(Section::ExtraBytes, start as usize..self.u64_at(Section::ExtraEnd, n)? as usize)?;
        let extra = postcard::from_bytes(bytes);
        extra.map(Some).map_err(|e| self.damage(format!("row {row} cannot be read: {e}"), None))
    }

    /// How many of `range` come before `key` in time and arrival.
    pub fn rows_before(
        &self,
        range: Range<usize>,
        key: super::EventKey,
        row_at: impl Fn(usize) -> Result<usize, LogError>,
    ) -> Result<usize, LogError> {
        search(range.len(), |n| {
            let row = row_at(range.start + n)?;
            Ok((self.at(row)?, self.offset(row)?) < (key.at, key.offset))
        })
    }

    pub fn event(&self, row: usize, user: &str) -> Result<Event, LogError> {
        let r = self.row(row)?;
        let item = self.item_id(r.item)?.to_owned();
        let kind = self.kind_name(r.kind)?.to_owned();
        Ok(event(user, item, kind, r.at, r.value, self.extra(row)?.unwrap_or_default()))
    }

    pub fn kind_name(&self, kind: u8) -> Result<&str, LogError> {
        let name = self.footer.kinds.get(kind as usize);
        name.map(String::as_str).ok_or_else(|| self.damage(format!("kind {kind} has no name"), None))
    }

    pub fn ids(&self) -> usize {
        self.entries(Section::IdHash, 8)
    }

    pub fn id_hash(&self, n: usize) -> Result<u64, LogError> {
        self.u64_at(Section::IdHash, n)
    }

    /// The rows whose event id is `id`.
    pub fn find_event(&self, id: &str) -> Result<Vec<usize>, LogError> {
        let wanted = hash(id.as_bytes());
        let count = self.ids();
        let mut n = search(count, |n| Ok(self.id_hash(n)? < wanted))?;
        let mut rows = Vec::new();
        while n < count && self.id_hash(n)? == wanted {
            let row = self.u32_at(Section::IdRow, n)? as usize;
            if self.extra(row)?.is_some_and(|e| e.id.as_deref() == Some(id)) {
                rows.push(row);
            }
            n += 1;
        }
        Ok(rows)
    }

    /// Rows in order of arrival.
    pub fn by_arrival(&self) -> Result<&[u32], LogError> {
        if self.by_arrival.get().is_none() {
            let seq = self.section(Section::Seq)?;
            let mut pairs: Vec<(u32, u32)> = u32s(seq).zip(0..).collect();
            pairs.sort_unstable();
            // Another thread may have been quicker; both made the same list.
            let _ = self.by_arrival.set(pairs.into_iter().map(|(_, row)| row).collect());
        }
        Ok(self.by_arrival.get().map_or(&[], Vec::as_slice))
    }

    /// Every row's value, NaN where there is none; empty where no row has one.
    pub fn values(&self) -> Result<Vec<f64>, LogError> {
        let bytes = self.section(Section::Value)?;
        Ok(match self.footer.values {
            ValueWidth::None => Vec::new(),
            ValueWidth::F32 => u32s(bytes).map(|b| f64::from(f32::from_bits(b))).collect(),
            ValueWidth::F64 => u64s(bytes).map(f64::from_bits).collect(),
        })
    }
}

/// First of `count` places where `before` is false.
pub(super) fn search(
    count: usize,
    before: impl Fn(usize) -> Result<bool, LogError>,
) -> Result<usize, LogError> {
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = usize::midpoint(low, high);
        if before(middle)? {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(low)
}

pub(super) fn u32s(bytes: &[u8]) -> impl ExactSizeIterator<Item = u32> + '_ {
    bytes.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().expect("chunks of four")))
}

pub(super) fn u64s(bytes: &[u8]) -> impl ExactSizeIterator<Item = u64> + '_ {
    bytes.chunks_exact(8).map(|b| u64::from_le_bytes(b.try_into().expect("chunks of eight")))
}

fn read_footer(file: &[u8]) -> Result<Footer, String> {
    let cut = || "the file is cut short or not a segment".to_owned();
    if file.len() < MAGIC.len() + TRAILER || !file.starts_with(MAGIC) || !file.ends_with(MAGIC) {
        return Err(cut());
    }
    let (rest, trailer) = file.split_at(file.len() - TRAILER);
    let length = u64::from_le_bytes(trailer[..8].try_into().map_err(|_| cut())?);
    let crc = u32::from_le_bytes(trailer[8..12].try_into().map_err(|_| cut())?);
    let start = usize::try_from(length).ok().and_then(|l| rest.len().checked_sub(l)).ok_or_else(cut)?;
    let (data, footer) = rest.split_at(start);
    if crc32fast::hash(footer) != crc {
        return Err("the checksum of the footer does not match".to_owned());
    }
    let footer: Footer =
        postcard::from_bytes(footer).map_err(|e| format!("the footer cannot be read: {e}"))?;
    if footer.version != VERSION {
        return Err(format!("the file has version {}, this program reads {VERSION}", footer.version));
    }
    let end = footer.sections.last().map_or(MAGIC.len() as u64, |s| s.1 + s.2) as usize;
    if end != data.len() || footer.blocks.len() != data.len().div_ceil(BLOCK) {
        return Err(cut());
    }
    Ok(footer)
}

/// Writes `columns` to `path` and syncs the file; answers its length. The caller syncs the folder.
pub(super) fn write(columns: &Columns, path: &Path) -> Result<u64, LogError> {
    let result = write_file(columns, path);
    if result.is_err() {
        // Best effort: what is left behind is removed when the log is next opened.
        let _ = std::fs::remove_file(path);
    }
    result.map_err(LogError::io("write", path))
}

fn write_file(c: &Columns, path: &Path) -> std::io::Result<u64> {
    let layout = c.layout();
    let mut out = BlockWriter::new(File::create(path)?);
    out.bytes(MAGIC)?;
    for (dict, sections) in [
        (&c.users, [Section::UserText, Section::UserEnds, Section::UserTable]),
        (&c.items, [Section::ItemText, Section::ItemEnds, Section::ItemTable]),
    ] {
        out.section(sections[0], [dict.text.as_slice()])?;
        out.section(sections[1], dict.ends.iter().map(|e| e.to_le_bytes()))?;
        out.section(sections[2], dict.table.iter().map(|e| e.to_le_bytes()))?;
    }
    out.section(Section::UserPtr, layout.user_ptr.iter().map(|p| p.to_le_bytes()))?;
    let order = || layout.order.iter().map(|&e| e as usize);
    out.section(Section::Item, order().map(|e| c.item[e].to_le_bytes()))?;
    if c.kinds.len() > 1 {
        out.section(Section::Kind, order().map(|e| [c.kind[e]]))?;
    }
    out.section(Section::At, order().map(|e| c.at[e].to_le_bytes()))?;
    let values = width(&c.value);
    match values {
        ValueWidth::None => {}
        ValueWidth::F32 => out.section(Section::Value, order().map(|e| (c.value[e] as f32).to_le_bytes()))?,
        ValueWidth::F64 => out.section(Section::Value, order().map(|e| c.value[e].to_le_bytes()))?,
    }
    if c.seq.is_empty() {
        out.section(Section::Seq, layout.order.iter().map(|e| e.to_le_bytes()))?;
    } else {
        out.section(Section::Seq, order().map(|e| c.seq[e].to_le_bytes()))?;
    }
    out.section(Section::ItemPtr, layout.item_ptr.iter().map(|p| p.to_le_bytes()))?;
    out.section(Section::ItemRows, layout.item_rows.iter().map(|r| r.to_le_bytes()))?;
    if !layout.ids.is_empty() {
        out.section(Section::IdHash, layout.ids.iter().map(|id| id.0.to_le_bytes()))?;
        out.section(Section::IdRow, layout.ids.iter().map(|id| id.1.to_le_bytes()))?;
    }
    if !layout.extras.is_empty() {
        out.section(Section::ExtraRow, layout.extras.iter().map(|x| x.0.to_le_bytes()))?;
        let mut end = 0;
        let ends = layout.extras.iter().map(|x| {
            end += c.extra_bytes_of(x.1).len() as u64;
            end.to_le_bytes()
        });
        out.section(Section::ExtraEnd, ends)?;
        out.section(Section::ExtraBytes, layout.extras.iter().map(|x| c.extra_bytes_of(x.1)))?;
    }
    let footer = Footer {
        version: VERSION,
        rows: c.len() as u32,
        kinds: c.kinds.clone(),
        values,
        oldest: c.at.iter().copied().min().unwrap_or(0),
        newest: c.at.iter().copied().max().unwrap_or(0),
        sections: std::mem::take(&mut out.sections),
        blocks: Vec::new(),
    };
    out.finish(footer)
}

/// The narrowest form that keeps every value exactly.
fn width(values: &[f64]) -> ValueWidth {
    if values.iter().all(|v| v.is_nan()) {
        ValueWidth::None
    } else if values.iter().all(|v| v.is_nan() || f64::from(*v as f32) == *v) {
        ValueWidth::F32
    } else {
        ValueWidth::F64
    }
}

/// Writes sections and keeps a checksum per block.
struct BlockWriter {
    file: BufWriter<File>,
    block: Vec<u8>,
    written: u64,
    blocks: Vec<u32>,
    sections: Vec<(Section, u64, u64)>,
}

impl BlockWriter {
    fn new(file: File) -> BlockWriter {
        BlockWriter {
            file: BufWriter::with_capacity(1 << 20, file),
            block: Vec::with_capacity(BLOCK),
            written: 0,
            blocks: Vec::new(),
            sections: Vec::new(),
        }
    }

    fn section<B: AsRef<[u8]>>(
        &mut self,
        section: Section,
        parts: impl IntoIterator<Item = B>,
    ) -> std::io::Result<()> {
        let start = self.written;
        for part in parts {
            self.bytes(part.as_ref())?;
        }
        let length = self.written - start;
        self.sections.push((section, start, length));
        Ok(())
    }

    fn bytes(&mut self, mut bytes: &[u8]) -> std::io::Result<()> {
        self.written += bytes.len() as u64;
        while !bytes.is_empty() {
            let take = bytes.len().min(BLOCK - self.block.len());
            self.block.extend_from_slice(&bytes[..take]);
            bytes = &bytes[take..];
            if self.block.len() == BLOCK {
                self.end_block()?;
            }
        }
        Ok(())
    }

    fn end_block(&mut self) -> std::io::Result<()> {
        self.blocks.push(crc32fast::hash(&self.block));
        self.file.write_all(&self.block)?;
        self.block.clear();
        Ok(())
    }

    fn finish(mut self, mut footer: Footer) -> std::io::Result<u64> {
        if !self.block.is_empty() {
            self.end_block()?;
        }
        footer.blocks = self.blocks;
        let footer = postcard::to_stdvec(&footer).expect("plain values always encode");
        self.file.write_all(&footer)?;
        self.file.write_all(&(footer.len() as u64).to_le_bytes())?;
        self.file.write_all(&crc32fast::hash(&footer).to_le_bytes())?;
        self.file.write_all(MAGIC)?;
        let file = self.file.into_inner().map_err(std::io::IntoInnerError::into_error)?;
        file.sync_all()?;
        Ok(self.written + (footer.len() + TRAILER) as u64)
    }
}

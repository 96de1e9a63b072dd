//! Backups: one file with everything a log shows at one moment, taken while writing goes on.
//!
//! ```text
//! "SOMMBACKUP1\n"  zstd( engine, tables, segment files, end )  blake3 of everything before (32 bytes)
//! ```

use super::{FORMAT_VERSION, Log, LogError, sync_folder, write_synced};
use crate::store::{self, Batch, StoreEngine, Table};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::ops::Bound;
use std::path::{Path, PathBuf};

const MAGIC: &[u8] = b"SOMMBACKUP1\n";
const DIGEST_BYTES: u64 = 32;
const BATCH: usize = 20_000;

/// blake3 of a backup file, less its last 32 bytes, which hold this digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digest([u8; 32]);

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What a backup is made of, in this order.
#[derive(Debug, Serialize, Deserialize)]
enum Part {
    Engine(String),
    Pair {
        table: u8,
        key: Vec<u8>,
        value: Vec<u8>,
    },
    /// Followed by that many bytes.
    Segment {
        file: String,
        bytes: u64,
    },
    End {
        pairs: u64,
        segments: u64,
    },
}

impl Log {
    /// Writes everything the log shows now into `file`, which appears only when complete. Writing goes on meanwhile
    /// and is not in it.
    pub fn backup(&self, file: &Path) -> Result<Digest, LogError> {
        let mut name = file.file_name().unwrap_or_default().to_owned();
        name.push(".unfinished");
        let temporary = file.with_file_name(name);
        let written = self.write_backup(&temporary).and_then(|digest| {
            std::fs::rename(&temporary, file).map_err(LogError::io("rename", &temporary))?;
            sync_folder(folder_of(file))?;
            Ok(digest)
        });
        if written.is_err() {
            // Whatever went wrong is the error to tell; a leftover is named for what it is.
            let _ = std::fs::remove_file(&temporary);
        }
        written
    }

    fn write_backup(&self, path: &Path) -> Result<Digest, LogError> {
        let reader = {
            let _writer = self.inner.writer.lock();
            self.inner.read()?
        };
        let failed = |e: std::io::Error| LogError::io("write", path)(e);
        let mut out = Hashing {
            to: BufWriter::new(File::create(path).map_err(failed)?),
            hasher: blake3::Hasher::new(),
        };
        out.write_all(MAGIC).map_err(failed)?;
        let mut packed = zstd::Encoder::new(&mut out, 1).map_err(failed)?;
        put_part(&mut packed, &Part::Engine(self.inner.engine.name().to_owned())).map_err(failed)?;
        let mut pairs = 0;
        for table in Table::ALL {
            reader.scan(table, Bound::Unbounded, Bound::Unbounded, false, |key, value| {
                pairs += 1;
                let part =
                    Part::Pair { table: table.number() as u8, key: key.to_vec(), value: value.to_vec() };
                put_part(&mut packed, &part).map_err(failed)?;
                Ok(true)
            })?;
        }
        for segment in &reader.state.segments {
            if let Some(damage) = segment.verify().into_iter().next() {
                return Err(LogError::Damaged(Box::new(damage)));
            }
            let bytes = segment.file_bytes();
            let part = Part::Segment { file: segment.info.file.clone(), bytes: bytes.len() as u64 };
            put_part(&mut packed, &part).map_err(failed)?;
            packed.write_all(bytes).map_err(failed)?;
        }
        let end = Part::End { pairs, segments: reader.state.segments.len() as u64 };
        put_part(&mut packed, &end).map_err(failed)?;
        packed.finish().map_err(failed)?;
        let digest = Digest(*out.hasher.finalize().as_bytes());
        out.to.write_all(&digest.0).map_err(failed)?;
        let file = out.to.into_inner().map_err(|e| failed(e.into_error()))?;
        file.sync_all().map_err(failed)?;
        Ok(digest)
    }
}

/// Makes a log in the empty (or new) folder `into` from a backup whose digest is right. A restore that is cut off
/// leaves a folder that does not open; empty it and restore again.
pub fn restore(file: &Path, into: &Path) -> Result<Digest, LogError> {
    let digest = check_digest(file)?;
    std::fs::create_dir_all(into).map_err(LogError::io("create", into))?;
    let mut entries = std::fs::read_dir(into).map_err(LogError::io("read", into))?;
    if entries.next().is_some() {
        return Err(LogError::NotEmpty { dir: into.to_owned() });
    }
    let engine = unpack(file, into)?;
    // The format file comes last: without it the folder does not open as a log.
    write_synced(&into.join("FORMAT"), format!("{FORMAT_VERSION} {}\n", engine.name()).as_bytes())?;
    Ok(digest)
}

fn check_digest(file: &Path) -> Result<Digest, LogError> {
    let unreadable = |e: std::io::Error| LogError::io("read", file)(e);
    let wrong = |reason: &str| LogError::NotABackup { file: file.to_owned(), reason: reason.to_owned() };
    let mut input = File::open(file).map_err(LogError::io("open", file))?;
    let length = input.metadata().map_err(unreadable)?.len();
    let Some(body) = length.checked_sub(DIGEST_BYTES).filter(|&b| b > MAGIC.len() as u64) else {
        return Err(wrong("it is too short; use a whole backup file"));
    };
    let mut magic = [0u8; MAGIC.len()];
    input.read_exact(&mut magic).map_err(unreadable)?;
    if magic != MAGIC {
        return Err(wrong("it begins with something else"));
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update(&magic);
    let mut rest = Read::by_ref(&mut input).take(body - MAGIC.len() as u64);
    std::io::copy(&mut rest, &mut hasher).map_err(unreadable)?;
    let mut stored = [0u8; 32];
    input.read_exact(&mut stored).map_err(unreadable)?;
    if *hasher.finalize().as_bytes() != stored {
        return Err(wrong(
            "its digest does not match its content, it is cut short or damaged; use another backup",
        ));
    }
    Ok(Digest(stored))
}

fn unpack(file: &Path, into: &Path) -> Result<StoreEngine, LogError> {
    let unreadable = |e: std::io::Error| LogError::io("read", file)(e);
    let wrong = |reason: String| LogError::NotABackup { file: file.to_owned(), reason };
    let input = File::open(file).map_err(LogError::io("open", file))?;
    let body = input.metadata().map_err(unreadable)?.len() - DIGEST_BYTES;
    let mut packed = BufReader::new(input.take(body));
    std::io::copy(&mut packed.by_ref().take(MAGIC.len() as u64), &mut std::io::sink()).map_err(unreadable)?;
    let mut parts = zstd::Decoder::with_buffer(packed).map_err(unreadable)?.single_frame();

    let engine = match take_part(&mut parts).map_err(unreadable)? {
        Part::Engine(name) => StoreEngine::from_name(&name)
            .ok_or_else(|| wrong(format!("it has an unknown engine {name:?}")))?,
        other => return Err(wrong(format!("it begins with {other:?} instead of its engine"))),
    };
    let store_dir = into.join("store");
    let segments_dir = into.join("segments");
    std::fs::create_dir_all(&segments_dir).map_err(LogError::io("create", &segments_dir))?;
    let store = store::open(engine, &store_dir, 16 << 20).map_err(LogError::store(&store_dir))?;
    let (mut batch, mut pairs, mut segments) = (Batch::default(), 0u64, 0u64);
    loop {
        match take_part(&mut parts).map_err(unreadable)? {
            Part::Pair { table, key, value } => {
                let table = Table::ALL.get(table as usize).ok_or_else(|| wrong(format!("table {table}")))?;
                batch.put(*table, key, value);
                pairs += 1;
                if batch.changes.len() == BATCH {
                    store.commit(std::mem::take(&mut batch)).map_err(LogError::store(&store_dir))?;
                }
            }
            Part::Segment { file: name, bytes } => {
                let plain = PathBuf::from(&name).file_name().is_some_and(|n| n == name.as_str());
                if !plain {
                    return Err(wrong(format!("a segment is named {name:?}")));
                }
                let path = segments_dir.join(name);
                let mut out = File::create(&path).map_err(LogError::io("create", &path))?;
                let copied = std::io::copy(&mut parts.by_ref().take(bytes), &mut out);
                let copied = copied.map_err(LogError::io("write", &path))?;
                if copied != bytes {
                    return Err(wrong(format!("a segment ends after {copied} of {bytes} bytes")));
                }
                out.sync_all().map_err(LogError::io("sync", &path))?;
                segments += 1;
            }
            Part::End { pairs: p, segments: s } if (p, s) == (pairs, segments) => break,
            other => {
                return Err(wrong(format!("after {pairs} pairs and {segments} segments comes {other:?}")));
            }
        }
    }
    store.commit(batch).map_err(LogError::store(&store_dir))?;
    sync_folder(&segments_dir)?;
    Ok(engine)
}

/// Length, then postcard.
fn put_part(out: &mut impl Write, part: &Part) -> std::io::Result<()> {
    let bytes = postcard::to_stdvec(part).expect("plain values always encode");
    out.write_all(&(bytes.len() as u32).to_le_bytes())?;
    out.write_all(&bytes)
}

fn take_part(from: &mut impl Read) -> std::io::Result<Part> {
    let mut length = [0u8; 4];
    from.read_exact(&mut length)?;
    let length = u64::from(u32::from_le_bytes(length));
    let mut bytes = Vec::new();
    if from.take(length).read_to_end(&mut bytes)? as u64 != length {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    postcard::from_bytes(&bytes).map_err(|e| std::io::Error::new(std::io::ErrorKind::InvalidData, e))
}

fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Hashes what it passes on.
struct Hashing<W> {
    to: W,
    hasher: blake3::Hasher,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.to.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.to.flush()
    }
}

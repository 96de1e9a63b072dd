//! Where bytes come from: a file, a gzip or zstd file, or a member of a zip archive, opened by its content.

use super::ImportError;
use serde::{Serialize, Serializer};
use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// One stream of rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    pub path: PathBuf,
    /// Name of the member, where `path` is a zip archive.
    pub member: Option<String>,
}

impl Source {
    pub fn file(path: impl Into<PathBuf>) -> Source {
        Source { path: path.into(), member: None }
    }

    /// What people call it: `ml-1m.zip/ml-1m/ratings.dat`, or the file's name.
    pub fn name(&self) -> String {
        let file = self.path.file_name().map_or_else(|| self.path.to_string_lossy(), |n| n.to_string_lossy());
        match &self.member {
            Some(member) => format!("{file}/{member}"),
            None => file.into_owned(),
        }
    }

    /// The last part of the name in lower case without `.gz` and the like: `u.data` of `u.data.gz`.
    pub fn stem(&self) -> String {
        let name = self.name();
        let last = name.rsplit('/').next().unwrap_or(&name).to_lowercase();
        for end in [".gz", ".zst", ".zstd"] {
            if let Some(cut) = last.strip_suffix(end) {
                return cut.to_owned();
            }
        }
        last
    }

    /// Bytes on disk, for progress; compressed where the file is.
    pub fn size(&self) -> u64 {
        match &self.member {
            None => std::fs::metadata(&self.path).map_or(0, |m| m.len()),
            Some(member) => open_zip(&self.path)
                .ok()
                .and_then(|mut zip| zip.by_name(member).ok().map(|m| m.compressed_size()))
                .unwrap_or(0),
        }
    }

    /// Calls `work` with the decompressed stream. `read` counts bytes taken from the disk.
    pub fn read<T>(
        &self,
        read: &Arc<AtomicU64>,
        work: impl FnOnce(&mut dyn Read) -> T,
    ) -> Result<T, ImportError> {
        let io = |source| ImportError::Io { path: self.path.clone(), source };
        if let Some(member) = &self.member {
            let mut zip = open_zip(&self.path).map_err(io)?;
            let file = zip.by_name(member).map_err(|e| io(e.into()))?;
            with_decompressed(Counted { inner: file, read: Arc::clone(read) }, work).map_err(io)
        } else {
            let file = File::open(&self.path).map_err(io)?;
            with_decompressed(Counted { inner: file, read: Arc::clone(read) }, work).map_err(io)
        }
    }

    /// The first decompressed bytes, at most `limit`. A stream that breaks gives what came before the break.
    pub fn head(&self, limit: usize) -> Result<Vec<u8>, ImportError> {
        let mut head = Vec::new();
        let broken = self.read(&Arc::default(), |stream| {
            let mut chunk = [0u8; 8192];
            while head.len() < limit {
                match stream.read(&mut chunk) {
                    Ok(0) => return None,
                    Ok(n) => head.extend_from_slice(&chunk[..n]),
                    Err(e) => return Some(e),
                }
            }
            None
        })?;
        if let (true, Some(e)) = (head.is_empty(), broken) {
            let reason = format!("the file is damaged from the beginning: {e}");
            return Err(ImportError::Unreadable { file: self.name(), reason });
        }
        head.truncate(limit);
        Ok(head)
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

impl Serialize for Source {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.name())
    }
}

struct Counted<R> {
    inner: R,
    read: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.read.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

fn with_decompressed<T>(mut raw: impl Read, work: impl FnOnce(&mut dyn Read) -> T) -> io::Result<T> {
    let mut magic = [0u8; 4];
    let mut have = 0;
    while have < magic.len() {
        match raw.read(&mut magic[have..])? {
            0 => break,
            n => have += n,
        }
    }
    let start = io::Cursor::new(magic[..have].to_vec());
    let whole = start.chain(raw);
    Ok(if magic.starts_with(&[0x1f, 0x8b]) {
        let big = BufReader::with_capacity(1 << 16, whole);
        work(&mut flate2::bufread::MultiGzDecoder::new(big))
    } else if magic == [0x28, 0xb5, 0x2f, 0xfd] {
        let mut decoder = zstd::Decoder::new(whole)?;
        // Windows of up to 128 MiB: `zstd --long=27` opens, a crafted header cannot ask for gigabytes.
        decoder.window_log_max(27)?;
        work(&mut decoder)
    } else {
        let mut whole = whole;
        work(&mut whole)
    })
}

fn open_zip(path: &Path) -> io::Result<zip::ZipArchive<BufReader<File>>> {
    zip::ZipArchive::new(BufReader::new(File::open(path)?)).map_err(Into::into)
}

/// All streams of a path: the file itself, the files of a folder (not of its folders), the members of a zip.
/// Sorted by name.
pub(crate) fn sources(path: &Path) -> Result<Vec<Source>, ImportError> {
    let io = |source| ImportError::Io { path: path.to_owned(), source };
    if !path.exists() {
        return Err(ImportError::NotFound(path.to_owned()));
    }
    if path.is_dir() {
        let mut all = Vec::new();
        for entry in std::fs::read_dir(path).map_err(io)? {
            let entry = entry.map_err(io)?.path();
            let hidden = entry.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.'));
            if entry.is_file() && !hidden {
                all.push(Source::file(entry));
            }
        }
        all.sort_by(|a, b| a.path.cmp(&b.path));
        return Ok(all);
    }
    if is_zip(path).map_err(io)? {
        let mut zip = open_zip(path).map_err(io)?;
        let mut all = Vec::new();
        for ix in 0..zip.len() {
            let member = zip.by_index_raw(ix).map_err(|e| io(e.into()))?;
            if member.is_file() {
                all.push(Source { path: path.to_owned(), member: Some(member.name().to_owned()) });
            }
        }
        all.retain(|s| !s.name().contains("__MACOSX/"));
        all.sort_by(|a, b| a.member.cmp(&b.member));
        return Ok(all);
    }
    Ok(vec![Source::file(path)])
}

fn is_zip(path: &Path) -> io::Result<bool> {
    let mut file = File::open(path)?;
    let mut magic = [0u8; 4];
    let zip = file.read_exact(&mut magic).is_ok() && magic == *b"PK\x03\x04";
    file.rewind()?;
    Ok(zip)
}

//! A model's numbers under names, and their safetensors form.

use crate::kernel;
use crate::params::Params;
use memmap2::Mmap;
use safetensors::tensor::{Dtype, View};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::Path;

/// Why stored numbers are not what they should be.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("weights lack {name}; the artefact is damaged or was made by another version, train it again")]
    Missing { name: String },
    #[error("{name} has shape {received:?}, expected {expected:?}; the artefact is damaged, train it again")]
    Shape { name: String, expected: Vec<usize>, received: Vec<usize> },
    #[error("{0}")]
    Other(String),
}

/// One named array, row-major.
#[derive(Debug, Clone, PartialEq)]
pub enum Array {
    F32 { shape: Vec<usize>, data: Vec<f32> },
    U32 { shape: Vec<usize>, data: Vec<u32> },
    U64 { shape: Vec<usize>, data: Vec<u64> },
}

/// Everything a fitted model must remember besides its config, by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Weights(pub BTreeMap<String, Array>);

macro_rules! access {
    ($set:ident, $get:ident, $variant:ident, $ty:ty) => {
        pub fn $set(&mut self, name: &str, shape: &[usize], data: Vec<$ty>) {
            self.0.insert(name.to_owned(), Array::$variant { shape: shape.to_owned(), data });
        }

        /// Shape and numbers of the array `name`.
        pub fn $get(&self, name: &str) -> Result<(&[usize], &[$ty]), LoadError> {
            match self.0.get(name) {
                Some(Array::$variant { shape, data }) if shape.iter().product::<usize>() == data.len() => {
                    Ok((shape, data))
                }
                Some(other) => Err(LoadError::Other(format!(
                    "{name} holds {}, expected {}; the artefact was made by another version, train it again",
                    other.describe(),
                    stringify!($ty)
                ))),
                None => Err(LoadError::Missing { name: name.to_owned() }),
            }
        }
    };
}

impl Weights {
    access!(set_f32, f32, F32, f32);
    access!(set_u32, u32, U32, u32);
    access!(set_u64, u64, U64, u64);

    /// An `f32` matrix whose width must be `cols` (any, where `None`): its rows and numbers.
    pub fn matrix(&self, name: &str, cols: Option<usize>) -> Result<(usize, usize, &[f32]), LoadError> {
        let (shape, data) = self.f32(name)?;
        match *shape {
            [rows, width] if cols.is_none_or(|c| c == width) => Ok((rows, width, data)),
            _ => Err(LoadError::Shape {
                name: name.to_owned(),
                expected: vec![shape.first().copied().unwrap_or(0), cols.unwrap_or(0)],
                received: shape.to_owned(),
            }),
        }
    }

    /// Writes a safetensors file. Not atomic: write beside the place it is meant for, then rename.
    /// Remembers all dense parameters under their names.
    pub fn remember(&mut self, params: &Params) {
        for p in params.iter() {
            self.set_f32(&p.name, &[p.rows, p.cols], p.value.clone());
        }
    }

    /// Gives all dense parameters the values that are remembered under their names.
    pub fn recall(&self, params: &mut Params) -> Result<(), LoadError> {
        for param in params.iter_mut() {
            let (rows, _, data) = self.matrix(&param.name, Some(param.cols))?;
            if rows != param.rows {
                let (expected, received) = (vec![param.rows, param.cols], vec![rows, param.cols]);
                return Err(LoadError::Shape { name: param.name.clone(), expected, received });
            }
            param.value = data.to_vec();
        }
        Ok(())
    }

    pub fn write(&self, path: &Path) -> io::Result<()> {
        write(self.0.iter(), None, path)
    }

    /// Reads what [`Self::write`] wrote.
    pub fn read(path: &Path) -> Result<Weights, LoadError> {
        let file = Mapped::open(path)?;
        let mut weights = Weights::default();
        for (name, Entry { dtype, shape, .. }) in &file.entries {
            let (shape, bytes) = (shape.clone(), file.bytes(name).unwrap_or_default());
            let array = match dtype.as_str() {
                "F32" => Array::F32 { shape, data: numbers(bytes) },
                "U32" => Array::U32 { shape, data: numbers(bytes) },
                _ => Array::U64 { shape, data: numbers(bytes) },
            };
            weights.0.insert(name.clone(), array);
        }
        Ok(weights)
    }
}

/// A copy, whatever address the bytes lie at.
fn numbers<T: bytemuck::Pod>(bytes: &[u8]) -> Vec<T> {
    let mut data = vec![T::zeroed(); bytes.len() / size_of::<T>()];
    bytemuck::cast_slice_mut(&mut data).copy_from_slice(bytes);
    data
}

/// A safetensors file as it lies on disk: pages are read when they are looked at, and nothing is held twice.
pub(crate) struct Mapped {
    map: Mmap,
    /// Where the header ends.
    data: usize,
    entries: BTreeMap<String, Entry>,
    /// The text beside the arrays.
    pub note: Option<String>,
}

macro_rules! mapped {
    ($get:ident, $dtype:literal, $ty:ty) => {
        /// Shape and numbers of the array `name`.
        pub fn $get(&self, name: &str) -> Result<(&[usize], &[$ty]), LoadError> {
            let entry = self
                .entries
                .get(name)
                .filter(|entry| entry.dtype == $dtype)
                .ok_or_else(|| LoadError::Missing { name: name.to_owned() })?;
            let bytes = self.bytes(name).unwrap_or_default();
            let numbers = bytemuck::try_cast_slice(bytes)
                .map_err(|e| LoadError::Other(format!("{name} lies crooked in its file ({e})")))?;
            Ok((&entry.shape, numbers))
        }
    };
}

impl Mapped {
    mapped!(f32, "F32", f32);
    mapped!(u32, "U32", u32);
    mapped!(u64, "U64", u64);

    pub fn open(path: &Path) -> Result<Mapped, LoadError> {
        let broken = |what: String| LoadError::Other(format!("{}: {what}; train it again", path.display()));
        let map = kernel::map(path).map_err(|error| broken(format!("cannot be read ({error})")))?;
        let no_header = || broken("is not a safetensors file (its header is longer than the file)".into());
        let (length, rest) = map.split_first_chunk::<8>().ok_or_else(no_header)?;
        let length = u64::from_le_bytes(*length);
        if length > rest.len() as u64 || length > MAX_HEADER {
            return Err(no_header());
        }
        let data = 8 + length as usize;
        let header: BTreeMap<String, serde_json::Value> = serde_json::from_slice(&map[8..data])
            .map_err(|e| broken(format!("has a damaged header ({e})")))?;
        let note =
            header.get("__metadata__").and_then(|m| m.get(NOTE)).and_then(|n| n.as_str()).map(str::to_owned);
        let mut entries = BTreeMap::new();
        for (name, entry) in header.into_iter().filter(|(name, _)| name != "__metadata__") {
            let entry: Entry = serde_json::from_value(entry)
                .map_err(|e| broken(format!("has a damaged header entry for {name} ({e})")))?;
            let (start, end) = entry.data_offsets;
            let count = entry.shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d as u64));
            let width = match entry.dtype.as_str() {
                "F32" | "U32" => 4,
                "U64" => 8,
                other => return Err(broken(format!("holds {name} as {other}, expected F32, U32 or U64"))),
            };
            let fits = start <= end && end <= (map.len() - data) as u64;
            if !fits || count.and_then(|n| n.checked_mul(width)) != Some(end - start) {
                return Err(broken(format!("is damaged or cut short: {name} does not fit in it")));
            }
            entries.insert(name, entry);
        }
        Ok(Mapped { map, data, entries, note })
    }

    /// The bytes of an array; offsets were checked when it was opened.
    fn bytes(&self, name: &str) -> Option<&[u8]> {
        let (start, end) = self.entries.get(name)?.data_offsets;
        Some(&self.map[self.data + start as usize..self.data + end as usize])
    }
}

/// Arrays that lie elsewhere, on their way to a file without a copy.
#[derive(Default)]
pub(crate) struct Outgoing<'a>(BTreeMap<String, Borrowed<'a>>);

struct Borrowed<'a> {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Cow<'a, [u8]>,
}

impl<'a> Outgoing<'a> {
    pub fn f32(&mut self, name: &str, shape: &[usize], data: &'a [f32]) {
        self.put(name, Dtype::F32, shape, Cow::Borrowed(bytemuck::cast_slice(data)));
    }

    pub fn u32(&mut self, name: &str, shape: &[usize], data: &'a [u32]) {
        self.put(name, Dtype::U32, shape, Cow::Borrowed(bytemuck::cast_slice(data)));
    }

    pub fn u64(&mut self, name: &str, shape: &[usize], data: Cow<'a, [u64]>) {
        let bytes = match data {
            Cow::Borrowed(data) => Cow::Borrowed(bytemuck::cast_slice(data)),
            Cow::Owned(data) => Cow::Owned(bytemuck::cast_slice(&data).to_vec()),
        };
        self.put(name, Dtype::U64, shape, bytes);
    }

    fn put(&mut self, name: &str, dtype: Dtype, shape: &[usize], bytes: Cow<'a, [u8]>) {
        self.0.insert(name.to_owned(), Borrowed { dtype, shape: shape.to_vec(), bytes });
    }

    /// With a text beside the arrays. Not atomic, as [`Weights::write`].
    pub fn write(&self, path: &Path, note: &str) -> io::Result<()> {
        write(self.0.iter(), Some(note), path)
    }
}

fn write<V: View>(
    arrays: impl IntoIterator<Item = (impl AsRef<str> + Ord + std::fmt::Display, V)>,
    note: Option<&str>,
    path: &Path,
) -> io::Result<()> {
    let note = note.map(|text| HashMap::from([(NOTE.to_owned(), text.to_owned())]));
    safetensors::serialize_to_file(arrays, note, path).map_err(|error| match error {
        safetensors::SafeTensorError::IoError(error) => error,
        other => io::Error::other(other),
    })
}

impl View for &Borrowed<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

/// Name of the text in the file's metadata.
const NOTE: &str = "note";

/// As the safetensors crate limits it.
const MAX_HEADER: u64 = 100_000_000;

#[derive(serde::Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (u64, u64),
}

// The format is little-endian, and so is every machine we build for; memory is written as it lies.
#[cfg(target_endian = "big")]
compile_error!("weights are written as little-endian memory; add a byte swap for this machine");

impl Array {
    fn describe(&self) -> String {
        format!("{:?} of shape {:?}", View::dtype(&self), View::shape(&self))
    }
}

impl View for &Array {
    fn dtype(&self) -> Dtype {
        match self {
            Array::F32 { .. } => Dtype::F32,
            Array::U32 { .. } => Dtype::U32,
            Array::U64 { .. } => Dtype::U64,
        }
    }

    fn shape(&self) -> &[usize] {
        match self {
            Array::F32 { shape, .. } | Array::U32 { shape, .. } | Array::U64 { shape, .. } => shape,
        }
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(match self {
            Array::F32 { data, .. } => bytemuck::cast_slice(data),
            Array::U32 { data, .. } => bytemuck::cast_slice(data),
            Array::U64 { data, .. } => bytemuck::cast_slice(data),
        })
    }

    fn data_len(&self) -> usize {
        self.data().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Weights {
        let mut w = Weights::default();
        w.set_f32("b", &[2, 2], vec![1.0, -0.0, f32::MIN_POSITIVE, 4.5]);
        w.set_u32("index", &[3], vec![0, 7, u32::MAX]);
        w.set_u64("ptr", &[1], vec![u64::MAX]);
        w.set_f32("empty", &[0, 5], vec![]);
        w
    }

    #[test]
    fn file_round_trip() {
        let file = tempfile::NamedTempFile::new().unwrap();
        sample().write(file.path()).unwrap();
        assert_eq!(Weights::read(file.path()).unwrap(), sample());
        // The crate that owns the format reads it too.
        let bytes = std::fs::read(file.path()).unwrap();
        assert_eq!(safetensors::SafeTensors::deserialize(&bytes).unwrap().len(), 4);
    }

    #[test]
    fn damage_is_an_error_and_never_a_panic() {
        let file = tempfile::NamedTempFile::new().unwrap();
        sample().write(file.path()).unwrap();
        let bytes = std::fs::read(file.path()).unwrap();
        for cut in 0..bytes.len() {
            std::fs::write(file.path(), &bytes[..cut]).unwrap();
            assert!(Weights::read(file.path()).is_err(), "cut at {cut}");
        }
        for at in 0..bytes.len().min(300) {
            let mut changed = bytes.clone();
            changed[at] ^= 0x11;
            std::fs::write(file.path(), &changed).unwrap();
            let _ = Weights::read(file.path());
        }
        assert!(matches!(sample().f32("nope"), Err(LoadError::Missing { .. })));
        assert!(sample().f32("index").unwrap_err().to_string().contains("U32"));
        assert!(matches!(sample().matrix("b", Some(3)), Err(LoadError::Shape { .. })));
    }
}

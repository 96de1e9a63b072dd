//! Vectors made elsewhere: a NumPy or safetensors file of them, and a text file with the id of each.
//!
//! `.npy`: a table (vectors × numbers) of 16-, 32- or 64-bit floats, rows one after the other, format versions 1 to 3.
//! `.safetensors`: one such tensor, `bf16` too. Ids: one a line, in the order of the vectors; a file with the same name and the
//! ending `.ids`, unless another is named.
//!
//! Cost: the file is read once; vectors are kept for all its ids, so that an item that comes later has its vector too.
//! Sources: NumPy enhancement proposal 1 (the `.npy` format); the safetensors format.

use crate::EncodeError;
use crate::encoder::{Encoder, Problem, Vectors, plan, put_texts, take_texts};
use crate::fuse::front;
use crate::linear::to_unit;
use hashbrown::HashMap;
use safetensors::tensor::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};
use sommelier_core::{FitContext, Item};
use sommelier_nn::{LoadError, Weights};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where vectors lie.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FileConfig {
    /// A file that ends in `.npy` or `.safetensors`.
    pub path: PathBuf,
    /// The ids, one a line; empty: the same name, ending in `.ids`.
    pub ids: PathBuf,
    /// Which tensor of a safetensors file; empty: the only one of two dimensions.
    pub tensor: String,
    /// Only so many numbers from the front, brought to unit length, for vectors trained for it; 0 takes all.
    pub keep: usize,
    /// Whether vectors are brought to unit length.
    pub unit: bool,
}

/// The vectors of a file.
#[derive(Debug, Clone)]
pub struct FileEncoder {
    dim: usize,
    ids: Vec<String>,
    places: HashMap<String, usize, foldhash::fast::FixedState>,
    /// ids × dim
    rows: Vec<f32>,
    problems: Vec<Problem>,
    report: Vec<String>,
}

impl FileConfig {
    pub fn fit(
        &self,
        items: &[Option<Item>],
        _: &BTreeMap<String, Vectors>,
        ctx: &FitContext,
    ) -> Result<(FileEncoder, Vectors), EncodeError> {
        if self.path.as_os_str().is_empty() {
            return wrong("path is not set; name a file that ends in .npy or .safetensors".into());
        }
        let ids_path =
            if self.ids.as_os_str().is_empty() { self.path.with_extension("ids") } else { self.ids.clone() };
        let size = std::fs::metadata(&self.path).map_or(0, |m| m.len());
        plan(ctx, 3 * size, &format!("the vectors of {}", self.path.display()), "take a smaller file")?;
        let table = read_table(&self.path, &self.tensor)?;
        let ids = read_ids(&ids_path)?;
        if ids.len() != table.rows {
            return wrong(format!(
                "{} holds {} vectors and {} {} ids; they must be as many, in the same order",
                self.path.display(),
                table.rows,
                ids_path.display(),
                ids.len()
            ));
        }
        if self.keep > table.cols {
            return wrong(format!(
                "keep must be at most {}, the length of the vectors, received {}",
                table.cols, self.keep
            ));
        }
        let (encoder, vectors) = self.take(ids, &table, items)?;
        Ok((encoder, vectors))
    }

    fn take(
        &self,
        ids: Vec<String>,
        table: &Table,
        items: &[Option<Item>],
    ) -> Result<(FileEncoder, Vectors), EncodeError> {
        let dim = if self.keep > 0 { self.keep } else { table.cols };
        let mut encoder = FileEncoder {
            dim,
            ids: Vec::with_capacity(ids.len()),
            places: HashMap::default(),
            rows: Vec::with_capacity(ids.len() * dim),
            problems: Vec::new(),
            report: Vec::new(),
        };
        for (id, row) in ids.into_iter().zip(table.data.chunks_exact(table.cols)) {
            if row.iter().any(|v| !v.is_finite()) {
                let reason = "its vector holds NaN, or a number too large for 32 bits; it has none".into();
                encoder.problems.push(Problem { item: id, reason });
                continue;
            }
            let mut row = if self.keep > 0 { front(row, dim) } else { row.to_vec() };
            if self.unit {
                to_unit(&mut row);
            }
            encoder.rows.extend(row);
            encoder.ids.push(id);
        }
        encoder.places = places(&encoder.ids);
        let vectors = Vectors::from_rows(
            dim,
            items.iter().map(|item| encoder.row(&item.as_ref()?.id).map(<[f32]>::to_vec)),
        );
        let (found, n) = (vectors.present(), items.len());
        if found == 0 {
            let catalogue = items.iter().flatten().next().map_or("nothing", |item| item.id.as_str());
            return Err(EncodeError::NoData(format!(
                "none of the {} ids with a vector in {} is an item of the catalogue (the file has {:?} first, the catalogue \
                 {catalogue:?}); write the catalogue's ids",
                encoder.ids.len(),
                self.path.display(),
                encoder.ids.first().map_or("nothing", String::as_str),
            )));
        }
        encoder.report.push(format!("{found} of {n} items have a vector of {dim} numbers"));
        encoder.report.push(format!(
            "{} vectors are of items that are not in the catalogue",
            encoder.ids.len() - found
        ));
        Ok((encoder, vectors))
    }

    pub fn load(&self, weights: &Weights) -> Result<FileEncoder, LoadError> {
        let ids = take_texts(weights, "ids")?;
        let (n, dim, rows) = weights.matrix("rows", None)?;
        if n != ids.len() {
            let (expected, received) = (vec![ids.len(), dim], vec![n, dim]);
            return Err(LoadError::Shape { name: "rows".into(), expected, received });
        }
        let report = take_texts(weights, "report")?;
        Ok(FileEncoder { dim, places: places(&ids), ids, rows: rows.to_vec(), problems: Vec::new(), report })
    }
}

impl FileEncoder {
    fn row(&self, id: &str) -> Option<&[f32]> {
        self.places.get(id).map(|&i| &self.rows[i * self.dim..][..self.dim])
    }
}

impl Encoder for FileEncoder {
    fn dim(&self) -> usize {
        self.dim
    }

    fn encode(&self, item: &Item, _: &dyn Fn(&str) -> Option<Vec<f32>>) -> Option<Vec<f32>> {
        self.row(&item.id).map(<[f32]>::to_vec)
    }

    fn weights(&self) -> Weights {
        let mut weights = Weights::default();
        put_texts(&mut weights, "ids", self.ids.iter().map(String::as_str));
        put_texts(&mut weights, "report", self.report.iter().map(String::as_str));
        weights.set_f32("rows", &[self.ids.len(), self.dim], self.rows.clone());
        weights
    }

    fn problems(&self) -> &[Problem] {
        &self.problems
    }

    fn report(&self) -> Vec<String> {
        self.report.clone()
    }
}

/// A table as a file holds it.
#[derive(Debug, PartialEq)]
struct Table {
    rows: usize,
    cols: usize,
    data: Vec<f32>,
}

fn wrong<T>(what: String) -> Result<T, EncodeError> {
    Err(EncodeError::Input(what))
}

fn places(ids: &[String]) -> HashMap<String, usize, foldhash::fast::FixedState> {
    ids.iter().enumerate().map(|(i, id)| (id.clone(), i)).collect()
}

fn read_ids(path: &Path) -> Result<Vec<String>, EncodeError> {
    let name = path.display();
    let text = match std::fs::read(path).map(String::from_utf8) {
        Ok(Ok(text)) => text,
        Ok(Err(_)) => return wrong(format!("{name} is not text in UTF-8; write one id a line")),
        Err(error) => {
            return wrong(format!(
                "{name} cannot be read ({error}); write the ids of the vectors there, one a line"
            ));
        }
    };
    let mut first: HashMap<&str, usize, foldhash::fast::FixedState> = HashMap::default();
    let mut ids = Vec::new();
    for (i, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let id = line.trim();
        if id.is_empty() {
            return wrong(format!("{name}: line {} is empty, expected an id", i + 1));
        }
        if let Some(before) = first.insert(id, i + 1) {
            return wrong(format!(
                "{name}: line {} has the id {id:?} of line {before} again; keep one of them",
                i + 1
            ));
        }
        ids.push(id.to_owned());
    }
    Ok(ids)
}

fn read_table(path: &Path, tensor: &str) -> Result<Table, EncodeError> {
    let broken = |what: String| EncodeError::Input(format!("{}: {what}", path.display()));
    let ending = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
    if ending != "npy" && ending != "safetensors" {
        return Err(broken(format!(
            "expected a file that ends in .npy or .safetensors, received {ending:?}"
        )));
    }
    let bytes = std::fs::read(path).map_err(|e| broken(format!("cannot be read ({e})")))?;
    let table = if ending == "npy" { npy(&bytes) } else { tensor_of(&bytes, tensor) }.map_err(broken)?;
    if table.rows == 0 || table.cols == 0 {
        return Err(broken(format!("holds no numbers ({} vectors of {})", table.rows, table.cols)));
    }
    Ok(table)
}

/// What a number looks like on disk.
#[derive(Debug, Clone, Copy)]
enum Float {
    Half,
    Brain,
    Single,
    Double,
}

impl Float {
    fn width(self) -> usize {
        match self {
            Float::Half | Float::Brain => 2,
            Float::Single => 4,
            Float::Double => 8,
        }
    }

    /// From its bytes, least first.
    fn read(self, b: &[u8]) -> f32 {
        match (self, b) {
            (Float::Half, &[a, b]) => half(u16::from_le_bytes([a, b])),
            (Float::Brain, &[a, b]) => f32::from_le_bytes([0, 0, a, b]),
            (Float::Single, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]),
            (Float::Double, &[a, b, c, d, e, f, g, h]) => f64::from_le_bytes([a, b, c, d, e, f, g, h]) as f32,
            _ => f32::NAN,
        }
    }
}

/// A 16-bit float: sign, 5 bits of exponent, 10 of fraction.
fn half(bits: u16) -> f32 {
    let (sign, exponent, fraction) = (bits >> 15, (bits >> 10) & 31, f32::from(bits & 1023));
    let size = match exponent {
        0 => fraction * 2f32.powi(-24),
        31 if fraction == 0.0 => f32::INFINITY,
        31 => f32::NAN,
        e => (1024.0 + fraction) * 2f32.powi(i32::from(e) - 25),
    };
    if sign == 1 { -size } else { size }
}

/// The numbers of a table of that shape; an error where the bytes do not fill it.
fn numbers(bytes: &[u8], shape: &[usize], float: Float, swapped: bool) -> Result<Table, String> {
    let &[rows, cols] = shape else {
        return Err(format!("expected a table (vectors × numbers), received the shape {shape:?}"));
    };
    let need = rows.checked_mul(cols).and_then(|n| n.checked_mul(float.width()));
    if need != Some(bytes.len()) {
        return Err(format!(
            "{rows} × {cols} numbers of {} bytes do not fit in {} bytes; it is cut short or damaged, write it again",
            float.width(),
            bytes.len()
        ));
    }
    let one = |b: &[u8]| {
        if !swapped {
            return float.read(b);
        }
        let mut turned = [0u8; 8];
        turned[..b.len()].copy_from_slice(b);
        turned[..b.len()].reverse();
        float.read(&turned[..b.len()])
    };
    Ok(Table { rows, cols, data: bytes.chunks_exact(float.width()).map(one).collect() })
}

fn npy(bytes: &[u8]) -> Result<Table, String> {
    let cut = || "is cut short in its header; write it again".to_owned();
    let rest = bytes.strip_prefix(b"\x93NUMPY").ok_or("is not a NumPy file; write it with numpy.save")?;
    let (&[major, _], rest) = rest.split_first_chunk::<2>().ok_or_else(cut)?;
    let (length, rest) = match major {
        1 => {
            let (length, rest) = rest.split_first_chunk::<2>().ok_or_else(cut)?;
            (u16::from_le_bytes(*length) as usize, rest)
        }
        2 | 3 => {
            let (length, rest) = rest.split_first_chunk::<4>().ok_or_else(cut)?;
            (u32::from_le_bytes(*length) as usize, rest)
        }
        other => {
            return Err(format!("has format version {other}, expected 1 to 3; write it with numpy.save"));
        }
    };
    let (header, data) = rest.split_at_checked(length).ok_or_else(cut)?;
    let header = String::from_utf8_lossy(header);
    let field = |name: &str| {
        let at = header.find(&format!("'{name}'"))? + name.len() + 2;
        header[at..].trim_start().strip_prefix(':').map(str::trim_start)
    };
    let damaged = |name: &str| format!("its header has no readable {name}; write it with numpy.save");
    let kind = field("descr").and_then(|t| t.strip_prefix('\'')).and_then(|t| t.split('\'').next());
    let kind = kind.ok_or_else(|| {
        "holds records, expected plain floats; write it with array.astype('float32')".to_owned()
    })?;
    if field("fortran_order").ok_or_else(|| damaged("fortran_order"))?.starts_with("True") {
        return Err(
            "its columns lie one after the other, expected rows; write numpy.ascontiguousarray(array)".into(),
        );
    }
    let inside = field("shape").and_then(|t| t.strip_prefix('(')).and_then(|t| t.split(')').next());
    let shape: Option<Vec<usize>> = inside.and_then(|t| {
        t.split(',').map(str::trim).filter(|t| !t.is_empty()).map(|t| t.parse().ok()).collect()
    });
    let shape = shape.ok_or_else(|| damaged("shape"))?;
    let float = match kind.get(1..) {
        Some("f2") => Float::Half,
        Some("f4") => Float::Single,
        Some("f8") => Float::Double,
        _ => {
            return Err(format!(
                "holds numbers of type {kind:?}, expected f2, f4 or f8; write array.astype('float32')"
            ));
        }
    };
    numbers(data, &shape, float, kind.starts_with('>'))
}

fn tensor_of(bytes: &[u8], name: &str) -> Result<Table, String> {
    let file = SafeTensors::deserialize(bytes)
        .map_err(|e| format!("is not a whole safetensors file ({e}); write it again"))?;
    let mut there: Vec<(String, Vec<usize>)> =
        file.tensors().into_iter().map(|(name, t)| (name, t.shape().to_vec())).collect();
    there.sort();
    let told = || there.iter().map(|(n, s)| format!("{n} {s:?}")).collect::<Vec<_>>().join(", ");
    let name = if name.is_empty() {
        match there.iter().filter(|(_, shape)| shape.len() == 2).collect::<Vec<_>>()[..] {
            [(name, _)] => name.as_str(),
            _ => {
                return Err(format!(
                    "expected one tensor of two dimensions, received: {}; name it by `tensor`",
                    told()
                ));
            }
        }
    } else {
        name
    };
    let tensor = file.tensor(name).map_err(|_| format!("has no tensor {name:?}; it has: {}", told()))?;
    let float = match tensor.dtype() {
        Dtype::F16 => Float::Half,
        Dtype::BF16 => Float::Brain,
        Dtype::F32 => Float::Single,
        Dtype::F64 => Float::Double,
        other => return Err(format!("{name} holds {other:?}, expected F16, BF16, F32 or F64")),
    };
    numbers(tensor.data(), tensor.shape(), float, false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::EncoderConfig;
    use crate::encoder::tests::{check, item, none};
    use crate::linear::tests::drawn;
    use proptest::prelude::*;
    use serde_json::json;

    /// A `.npy` file as the format's description has it.
    fn npy_file(version: u8, descr: &str, fortran: &str, shape: &str, data: &[u8]) -> Vec<u8> {
        let mut header = format!("{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}");
        let before = if version == 1 { 10 } else { 12 };
        while !(before + header.len() + 1).is_multiple_of(64) {
            header.push(' ');
        }
        header.push('\n');
        let mut file = b"\x93NUMPY".to_vec();
        file.extend([version, 0]);
        match version {
            1 => file.extend((header.len() as u16).to_le_bytes()),
            _ => file.extend((header.len() as u32).to_le_bytes()),
        }
        file.extend(header.as_bytes());
        file.extend(data);
        file
    }

    fn le(v: &[f32]) -> Vec<u8> {
        v.iter().flat_map(|v| v.to_le_bytes()).collect()
    }

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new() -> Folder {
            Folder(tempfile::tempdir().unwrap())
        }

        fn put(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
            let path = self.0.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        }
    }

    fn items() -> Vec<Option<Item>> {
        vec![item("a", json!({})), None, item("ж", json!({})), item("c", json!({}))]
    }

    fn fit(config: &FileConfig) -> Result<(FileEncoder, Vectors), String> {
        config.fit(&items(), &BTreeMap::new(), &FitContext::quiet(1)).map_err(|e| e.to_string())
    }

    #[test]
    fn what_every_encoder_promises() {
        let folder = Folder::new();
        let data = [3.0, 4.0, 0.0, 1.0, 2.0, 2.0, 7.0, 7.0, f32::NAN];
        let path = folder.put("v.npy", npy_file(1, "'<f4'", "False", "(3, 3)", &le(&data)));
        folder.put("v.ids", "ж\r\nnew\r\nc\r\n");
        let config = FileConfig { path, unit: true, ..FileConfig::default() };
        let (encoder, vectors) = check(&EncoderConfig::File(config.clone()), &items(), &BTreeMap::new());
        assert_eq!(vectors.known, [false, false, true, false]);
        assert_eq!(vectors.row(2).unwrap(), [0.6, 0.8, 0.0]);
        let new = encoder.encode(&Item::new("new"), &none).unwrap();
        assert!((new[1] - 2.0 / 3.0).abs() < 1e-6, "an item that comes later");
        assert_eq!(encoder.problems()[0].item, "c");
        assert!(encoder.problems()[0].reason.contains("NaN"));
        assert_eq!(encoder.report()[0], "1 of 4 items have a vector of 3 numbers");
        let (short, _) = fit(&FileConfig { keep: 1, ..config }).unwrap();
        assert_eq!(short.row("ж").unwrap(), [1.0]);
    }

    #[test]
    fn every_kind_of_float_and_version() {
        let table = |version, descr: &str, data: &[u8]| {
            npy(&npy_file(version, descr, "False", "(2, 2)", data)).map(|t| t.data)
        };
        let v = [1.5f32, -0.25, 65504.0, 0.0];
        for version in 1..=3 {
            assert_eq!(table(version, "'<f4'", &le(&v)).unwrap(), v);
        }
        let double: Vec<u8> = v.iter().flat_map(|v| f64::from(*v).to_le_bytes()).collect();
        assert_eq!(table(1, "'<f8'", &double).unwrap(), v);
        let big: Vec<u8> = v.iter().flat_map(|v| v.to_be_bytes()).collect();
        assert_eq!(table(1, "'>f4'", &big).unwrap(), v);
        let halves: Vec<u8> =
            [0x3e00u16, 0xb400, 0x7bff, 0x0000].iter().flat_map(|v| v.to_le_bytes()).collect();
        assert_eq!(table(1, "'<f2'", &halves).unwrap(), v);
        assert_eq!([half(1), half(0x0400), half(0x8000)], [2f32.powi(-24), 2f32.powi(-14), -0.0]);
        assert!(half(0x7c00) == f32::INFINITY && half(0xfe00).is_nan());
    }

    #[test]
    fn tensors_are_read_and_named() {
        let mut w = Weights::default();
        w.set_f32("emb", &[2, 2], vec![1.0, 2.0, 3.0, 4.0]);
        w.set_f32("bias", &[2], vec![0.0; 2]);
        let folder = Folder::new();
        let path = folder.0.path().join("m.safetensors");
        w.write(&path).unwrap();
        let ids = folder.put("names.txt", "\u{feff}c\na");
        let config = FileConfig { path, ids, ..FileConfig::default() };
        assert_eq!(fit(&config).unwrap().1.row(0).unwrap(), [3.0, 4.0]);
        let told = |tensor: &str| fit(&FileConfig { tensor: tensor.into(), ..config.clone() }).err().unwrap();
        assert!(told("bias").contains("received the shape [2]"));
        assert!(told("nope").contains("it has: bias [2], emb [2, 2]"));
        w.set_f32("more", &[1, 1], vec![0.0]);
        w.write(&config.path).unwrap();
        assert!(fit(&config).unwrap_err().contains("name it by `tensor`"));
        assert_eq!(Float::Brain.read(&[0x80, 0x3f]), 1.0);
    }

    #[test]
    fn broken_files_are_told_in_words() {
        let folder = Folder::new();
        let good = npy_file(1, "'<f4'", "False", "(2, 1)", &le(&[1.0, 2.0]));
        let told = |npy: &[u8], ids: &str| {
            let path = folder.put("v.npy", npy);
            folder.put("v.ids", ids);
            fit(&FileConfig { path, ..FileConfig::default() }).err().unwrap_or_default()
        };
        assert_eq!(told(&good, "a\nc"), "");
        for (ids, what) in [
            ("a", "2 vectors and"),
            ("a\na", "line 2 has the id \"a\" of line 1 again"),
            ("a\n\nc", "line 2 is empty"),
            ("x\ny", "the file has \"x\" first, the catalogue \"a\""),
        ] {
            assert!(told(&good, ids).contains(what), "{}", told(&good, ids));
        }
        let of = |descr: &str, order: &str, shape: &str| {
            told(&npy_file(1, descr, order, shape, &le(&[1.0, 2.0])), "a\nc")
        };
        assert!(of("'<f4'", "True", "(2, 1)").contains("ascontiguousarray"));
        assert!(of("'<i8'", "False", "(1, 1)").contains("astype"));
        assert!(of("[('x', '<f4')]", "False", "(2,)").contains("records"));
        assert!(of("'<f4'", "False", "(2,)").contains("expected a table"));
        assert!(of("'<f4'", "False", "(2, 2)").contains("cut short"));
        assert!(of("'<f4'", "False", "(99999999999, 99999999999)").contains("do not fit"));
        assert!(of("'<f4'", "False", "(-1, 2)").contains("no readable shape"));
        assert!(told(b"PK", "a").contains("numpy.save"));
        for cut in 0..good.len() {
            assert!(!told(&good[..cut], "a\nc").is_empty(), "cut at {cut}");
        }
        assert!(fit(&FileConfig::default()).unwrap_err().contains("path is not set"));
        let nowhere = FileConfig { path: folder.0.path().join("no.npy"), ..FileConfig::default() };
        assert!(fit(&nowhere).unwrap_err().contains("cannot be read"));
        let other = FileConfig { path: "x.csv".into(), ..FileConfig::default() };
        assert!(fit(&other).unwrap_err().contains("received \"csv\""));
        let path = folder.put("x.safetensors", b"\x08\0\0\0\0\0\0\0nonsense");
        assert!(fit(&FileConfig { path, ..FileConfig::default() }).unwrap_err().contains("not a whole"));
    }

    proptest! {
        #[test]
        fn damage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), at in 0usize..150, flip: u8) {
            let _ = (npy(&bytes), tensor_of(&bytes, ""));
            let mut file = npy_file(2, "'<f4'", "False", "(3, 2)", &le(&drawn(6, 1)));
            let at = at % file.len();
            file[at] ^= flip;
            let _ = npy(&file);
        }
    }
}

//! Start weights: a model begins with the tensors of a safetensors file that another framework wrote.
//!
//! Numbers are taken as they are, so the foreign network must compute what the model's own header says. How its tensors fit:
//!
//! - Matrices are out × in, as PyTorch keeps them. Dimensions of 1 do not count: a Conv1d weight (d × d × 1) fits a matrix (d × d),
//!   a vector (n) fits a bias (1 × n).
//! - `nn.MultiheadAttention`: `in_proj_weight` is `attention.in_proj.weight`, queries, keys and values one below the other.
//! - `nn.GRU`: gates in the order r, z, n and two vectors of biases, which are ours as well; nothing is converted.
//! - `items` and `places` may have more rows there than are needed. Our places count back from the newest step; most others pad
//!   histories at their beginning, so that the newest step has the last row: `newest` names it. Places that count from
//!   the oldest step of each history do not fit.
//! - F64, F16 and BF16 become F32.

use crate::FitError;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use sommelier_core::FitContext;
use sommelier_data::Snapshot;
use sommelier_nn::{Params, TableId};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// Where a model's weights begin, instead of at random.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Start {
    /// A safetensors file.
    pub weights: PathBuf,
    /// Which row of the file's table is an item's: `id`, the number that is its id; or a text file with one id a line, in the order
    /// of rows, lines of rows without an item left empty.
    #[serde(default = "by_id")]
    pub rows: String,
    /// Row of the newest step in the file's table of places, from which older steps' rows count down; without it the newest has
    /// row 0 and older ones count up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest: Option<usize>,
    /// Names of the model = names in the file. A `*` stands for the same text on both sides.
    pub names: BTreeMap<String, String>,
}

const BY_ID: &str = "id";

fn by_id() -> String {
    BY_ID.to_owned()
}

/// The table of item vectors, and that of places: their tensors may be higher.
const ITEMS: &str = "items";
const PLACES: &str = "places";

fn wrong(what: String) -> FitError {
    FitError::Start(what)
}

impl Start {
    /// Bytes held while the file is read. Where it is absent, [`Self::fill`] says so.
    pub(super) fn bytes(&self) -> u64 {
        std::fs::metadata(&self.weights).map_or(0, |m| m.len())
    }

    /// Puts the file's numbers into the parameters. Returns a digest of all that was read.
    pub(super) fn fill(
        &self,
        params: &mut Params,
        table: TableId,
        snapshot: &Snapshot,
        ctx: &FitContext,
    ) -> Result<u64, FitError> {
        let read = |path: &Path| {
            std::fs::read(path).map_err(|e| wrong(format!("{} cannot be read: {e}", path.display())))
        };
        let bytes = read(&self.weights)?;
        let file = SafeTensors::deserialize(&bytes)
            .map_err(|e| wrong(format!("{} is not a sound safetensors file: {e}", self.weights.display())))?;
        let list = if self.rows == BY_ID { Vec::new() } else { read(Path::new(&self.rows))? };
        let pairs = self.pairs(params, &file)?;

        let mut found = 0;
        for (ours, theirs) in &pairs {
            let tensor = file.tensor(theirs).map_err(|e| wrong(format!("{theirs}: {e}")))?;
            let part = Part { ours, theirs, tensor };
            if ours == ITEMS {
                found = self.fill_items(&part, params, table, snapshot, &list)?;
            } else if let Some(param) = params.iter_mut().find(|p| p.name == *ours) {
                let height = part.height((param.rows, param.cols), ours == PLACES)?;
                match self.newest.filter(|_| ours == PLACES) {
                    None => part.read(0, &mut param.value)?,
                    Some(newest) if (param.rows..=height).contains(&(newest + 1)) => {
                        for (back, row) in param.value.chunks_exact_mut(param.cols).enumerate() {
                            part.read((newest - back) * param.cols, row)?;
                        }
                    }
                    Some(newest) => {
                        return Err(wrong(format!(
                            "newest must be a row of {theirs} with {} below it, {} to {}; received {newest}",
                            param.rows - 1,
                            param.rows - 1,
                            height - 1
                        )));
                    }
                }
            }
        }
        let left: Vec<&str> =
            own_names(params).into_iter().filter(|name| !pairs.contains_key(*name)).collect();
        let rest = if left.is_empty() {
            String::new()
        } else {
            format!("; their own beginning keep: {}", left.join(", "))
        };
        let items = if pairs.contains_key(ITEMS) {
            format!(", {found} of {} items", snapshot.items.len())
        } else {
            String::new()
        };
        let from = self.weights.display();
        ctx.progress.start("start weights", None);
        ctx.progress.say(&format!("begins with {} tensors of {from}{items}{rest}", pairs.len()));
        ctx.progress.finish();
        Ok(digest(&[&bytes, &list]))
    }

    /// Names of the model with those in the file.
    fn pairs(&self, params: &Params, file: &SafeTensors) -> Result<BTreeMap<String, String>, FitError> {
        let own = own_names(params);
        let there = file.names();
        if self.names.is_empty() {
            return Err(wrong(format!("names is empty; name at least one of {}", own.join(", "))));
        }
        let mut pairs: BTreeMap<String, String> = BTreeMap::new();
        for (ours, theirs) in &self.names {
            let stars = [ours, theirs].map(|name| name.matches('*').count());
            if stars != [0, 0] && stars != [1, 1] {
                return Err(wrong(format!(
                    "names: {ours:?} = {theirs:?} must have one `*` on both sides, or none; it has {} and {}",
                    stars[0], stars[1]
                )));
            }
            let mut fits = false;
            for name in &own {
                let Some(text) = star(ours, name) else { continue };
                fits = true;
                let wanted = theirs.replace('*', text);
                if !there.contains(&wanted.as_str()) {
                    let near = near(&wanted, &there);
                    return Err(wrong(format!(
                        "names: {name} is to begin with {wanted}, which the file does not have; the nearest there are {near}"
                    )));
                }
                if let Some(other) = pairs.insert((*name).to_owned(), wanted.clone()) {
                    return Err(wrong(format!("names: {name} is to begin with both {other} and {wanted}")));
                }
            }
            if !fits {
                let near = near(ours, &own);
                return Err(wrong(format!("names: the model has no {ours}; its nearest are {near}")));
            }
        }
        Ok(pairs)
    }

    /// Rows of items that the file has; returns how many.
    fn fill_items(
        &self,
        part: &Part,
        params: &mut Params,
        table: TableId,
        snapshot: &Snapshot,
        list: &[u8],
    ) -> Result<usize, FitError> {
        let table = params.table_mut(table);
        let (items, dim) = (table.height(), table.dim());
        let height = part.height((1, dim), true)?;
        let of_id = self.rows_by_id(list, height)?;
        let mut found = 0;
        for item in 0..items {
            let id = snapshot.items.id(item as u32);
            let row = match &of_id {
                Some(of_id) => of_id.get(id).copied(),
                None => id.parse().ok().filter(|&row: &usize| row < height),
            };
            if let Some(row) = row {
                part.read(row * dim, &mut table.rows_mut()[item * dim..][..dim])?;
                found += 1;
            }
        }
        if found == 0 {
            let first = if items > 0 { snapshot.items.id(0) } else { "" };
            return Err(wrong(format!(
                "no item has a row in {} ({height} rows): items have ids such as {first:?}, rows = {:?}; for ids that are no row \
                 numbers name a text file with one id a line",
                part.theirs, self.rows
            )));
        }
        Ok(found)
    }

    /// Rows by id, as the text file has them; `None` where ids are numbers.
    fn rows_by_id<'l>(
        &self,
        list: &'l [u8],
        height: usize,
    ) -> Result<Option<HashMap<&'l str, usize>>, FitError> {
        if self.rows == BY_ID {
            return Ok(None);
        }
        let text = std::str::from_utf8(list)
            .map_err(|e| wrong(format!("rows: {} is not UTF-8 text: {e}", self.rows)))?;
        let count = text.lines().count();
        if count > height {
            return Err(wrong(format!("rows: {} has {count} lines, the tensor {height} rows", self.rows)));
        }
        let mut rows = HashMap::new();
        for (row, id) in text.lines().enumerate().filter(|(_, id)| !id.is_empty()) {
            if let Some(before) = rows.insert(id, row) {
                return Err(wrong(format!(
                    "rows: {} has {id:?} twice, in lines {} and {}",
                    self.rows,
                    before + 1,
                    row + 1
                )));
            }
        }
        Ok(Some(rows))
    }
}

/// One tensor of the file and whom it is for.
struct Part<'a> {
    ours: &'a str,
    theirs: &'a str,
    tensor: TensorView<'a>,
}

impl Part<'_> {
    /// Rows of the tensor, where it fits `rows × cols`; with `higher` it may have more.
    fn height(&self, (rows, cols): (usize, usize), higher: bool) -> Result<usize, FitError> {
        let shape = self.tensor.shape();
        let many = |shape: &[usize]| shape.iter().copied().filter(|&n| n != 1).collect::<Vec<_>>();
        let count: usize = shape.iter().product();
        // A vector of 1 × cols is a table of one row.
        let height = count / cols.max(1);
        let wide = many(shape) == many(&[height, cols]);
        if wide && (height == rows || higher && height > rows) {
            return Ok(height);
        }
        let more = if higher { " or more rows" } else { "" };
        Err(wrong(format!(
            "{} must be {rows} × {cols}{more}, {} of the file has shape {shape:?}",
            self.ours, self.theirs
        )))
    }

    /// Numbers from place `from` on.
    fn read(&self, from: usize, into: &mut [f32]) -> Result<(), FitError> {
        let kind = self.tensor.dtype();
        let width = match kind {
            Dtype::F64 => 8,
            Dtype::F32 => 4,
            Dtype::F16 | Dtype::BF16 => 2,
            _ => {
                let theirs = self.theirs;
                return Err(wrong(format!("{theirs} holds {kind:?}, expected F32, F64, F16 or BF16")));
            }
        };
        let bytes = self.tensor.data()[from * width..][..into.len() * width].chunks_exact(width);
        for (at, (x, b)) in into.iter_mut().zip(bytes).enumerate() {
            *x = match kind {
                Dtype::F64 => bytemuck::pod_read_unaligned::<f64>(b) as f32,
                Dtype::F32 => bytemuck::pod_read_unaligned(b),
                Dtype::F16 => of_half(bytemuck::pod_read_unaligned(b)),
                _ => f32::from_bits(u32::from(bytemuck::pod_read_unaligned::<u16>(b)) << 16),
            };
            if !x.is_finite() {
                let place = from + at;
                return Err(wrong(format!("{} holds {x} at place {place}, expected numbers", self.theirs)));
            }
        }
        Ok(())
    }
}

fn own_names(params: &Params) -> Vec<&str> {
    params.iter().map(|p| &p.name[..]).chain([ITEMS]).collect()
}

/// What the `*` of a pattern stands for in a name that fits it; nothing, where it has none.
fn star<'n>(pattern: &str, name: &'n str) -> Option<&'n str> {
    match pattern.split_once('*') {
        None => (pattern == name).then_some(""),
        Some((before, after)) => name.strip_prefix(before)?.strip_suffix(after).filter(|s| !s.is_empty()),
    }
}

/// The three names that are most like this one.
fn near(name: &str, known: &[&str]) -> String {
    let mut known: Vec<(usize, &str)> = known.iter().map(|k| (distance(name, k), *k)).collect();
    known.sort_unstable();
    known.iter().take(3).map(|(_, name)| *name).collect::<Vec<_>>().join(", ")
}

/// Levenshtein's, in bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let change = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// A number of half precision.
fn of_half(bits: u16) -> f32 {
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f32::from(bits & 1023) / 1024.0);
    let size = match exponent {
        0 => fraction * 2f32.powi(-14),
        31 => f32::NAN,
        _ => (1.0 + fraction) * 2f32.powi(exponent - 15),
    };
    if bits >> 15 == 1 { -size } else { size }
}

/// FNV-1a over words of 8 bytes.
fn digest(parts: &[&[u8]]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    let mut add = |word: u64| hash = (hash ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(17);
    for part in parts {
        add(part.len() as u64);
        for word in part.chunks(8) {
            let mut bytes = [0u8; 8];
            bytes[..word.len()].copy_from_slice(word);
            add(u64::from_le_bytes(bytes));
        }
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_the_same_text() {
        assert_eq!(star("blocks.*.out.weight", "blocks.12.out.weight"), Some("12"));
        assert_eq!(star("blocks.*.out.weight", "blocks..out.weight"), None);
        assert_eq!(star("blocks.*.out.weight", "blocks.1.out.bias"), None);
        assert_eq!(star("a.*.a", "a.a"), None);
        assert_eq!((star("items", "items"), star("item", "items")), (Some(""), None));
    }

    #[test]
    fn half_precision() {
        for (bits, value) in [
            (0x3c00, 1.0),
            (0xc000, -2.0),
            (0x7bff, 65504.0),
            (0x0001, 5.960_464_5e-8),
            (0x3555, 0.333_251_95),
            (0x0000, 0.0),
        ] {
            assert_eq!(of_half(bits), value, "{bits:04x}");
        }
        assert!(of_half(0x7c00).is_nan());
    }

    #[test]
    fn nearest_names_come_first() {
        assert_eq!(
            near("item_emb", &["pos_emb.weight", "item_emb.weight", "x"]),
            "item_emb.weight, x, pos_emb.weight"
        );
        assert_eq!(distance("kitten", "sitting"), 3);
    }

    #[test]
    fn every_byte_counts() {
        let of = |bytes: &[u8]| digest(&[bytes, b"ids"]);
        assert_ne!(of(b"123456789"), of(b"123456780"));
        assert_ne!(of(b"12345678"), of(b"12345678\0"));
        assert_ne!(digest(&[b"a", b"b"]), digest(&[b"a", b"c"]));
    }
}

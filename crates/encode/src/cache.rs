//! Vectors that were dear to make, kept on disk under the digest of what they are of.
//!
//! A folder for each model that makes them. A run that adds some writes a file of its own there, so that several may run at once:
//! `SOMVEC01`, the length of the vectors (u32), then for each the digest of what it is of (16 bytes), a check of what follows
//! (8 bytes) and its numbers (f32). What does not check, such as the end of a file that was being written when the machine
//! stopped, is passed over.
//!
//! Nothing of an item can be read from a digest, and a folder may be deleted at any time; only time or money is lost.

use crate::encoder::Vectors;
use hashbrown::HashMap;
use std::collections::HashSet;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"SOMVEC01";
const HEAD: u64 = 12;
/// A longer vector is none.
const LONGEST: usize = 1 << 20;

/// The digest of what a vector is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key([u8; 16]);

impl Key {
    pub fn of(bytes: &[u8]) -> Key {
        let mut key = [0; 16];
        key.copy_from_slice(&blake3::hash(bytes).as_bytes()[..16]);
        Key(key)
    }
}

/// The vectors of one model.
#[derive(Debug)]
pub(crate) struct Cache {
    /// `None` keeps them in memory, as does a folder that cannot be written.
    folder: Option<PathBuf>,
    dim: Option<usize>,
    places: HashMap<Key, Place, foldhash::fast::FixedState>,
    files: Vec<File>,
    /// Which of the files is this run's, and its length.
    own: Option<(usize, u64)>,
    /// Why vectors are not kept on disk.
    trouble: Option<String>,
}

#[derive(Debug)]
enum Place {
    File { file: usize, at: u64 },
    Memory(Box<[f32]>),
}

/// Among the user's caches, where there are any.
pub(crate) fn usual_folder() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let caches = set("XDG_CACHE_HOME")
        .or_else(|| set("LOCALAPPDATA"))
        .or_else(|| set("HOME").map(|home| home.join(".cache")))?;
    Some(caches.join("sommelier").join("vectors"))
}

impl Cache {
    /// The vectors of the model that `identity` tells from all others, below `root`, or where they usually are if that is empty.
    /// `name` is for people who look there.
    pub fn open(root: &Path, name: &str, identity: &str) -> Cache {
        let root = if root.as_os_str().is_empty() { usual_folder() } else { Some(root.to_owned()) };
        Cache::below(root.as_deref(), name, identity)
    }

    fn below(root: Option<&Path>, name: &str, identity: &str) -> Cache {
        let letters: String =
            name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(40).collect();
        let digest = blake3::hash(identity.as_bytes()).to_hex();
        let folder = root.map(|root| root.join(format!("{letters}-{}", &digest[..16])));
        let mut cache = Cache {
            folder,
            dim: None,
            places: HashMap::default(),
            files: Vec::new(),
            own: None,
            trouble: None,
        };
        if root.is_none() {
            cache.trouble = Some("no folder is known for them; set cache".into());
        }
        let names = cache.folder.as_ref().and_then(|folder| std::fs::read_dir(folder).ok());
        let mut names: Vec<PathBuf> = names.into_iter().flatten().flatten().map(|e| e.path()).collect();
        names.sort();
        for path in names.iter().filter(|path| path.extension().is_some_and(|e| e == ENDING)) {
            // What cannot be read is made again.
            let _ = File::open(path).and_then(|file| cache.read(file));
        }
        cache
    }

    fn read(&mut self, file: File) -> std::io::Result<()> {
        let mut reader = BufReader::with_capacity(1 << 16, file);
        let mut head = [0; HEAD as usize];
        reader.read_exact(&mut head)?;
        let dim = u32::from_le_bytes([head[8], head[9], head[10], head[11]]) as usize;
        if head[..8] != *MAGIC || dim == 0 || dim > LONGEST || self.dim.is_some_and(|known| known != dim) {
            return Ok(());
        }
        let place = self.files.len();
        let (mut at, size) = (HEAD, record_bytes(dim));
        let mut record = vec![0; size];
        while reader.read_exact(&mut record).is_ok() {
            if let Some(key) = checked(&record) {
                self.places.insert(key, Place::File { file: place, at });
                self.dim = Some(dim);
            }
            at += size as u64;
        }
        self.files.push(reader.into_inner());
        Ok(())
    }

    /// Length of the vectors; `None` while there are none.
    pub fn dim(&self) -> Option<usize> {
        self.dim
    }

    /// The folder, for words.
    pub fn place(&self) -> String {
        self.folder.as_ref().map_or_else(|| "memory".to_owned(), |folder| folder.display().to_string())
    }

    /// Why new vectors are not kept on disk, where they are not.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    pub fn has(&self, key: Key) -> bool {
        self.places.contains_key(&key)
    }

    pub fn get(&mut self, key: Key) -> Option<Vec<f32>> {
        match self.places.get(&key)? {
            Place::Memory(vector) => Some(vector.to_vec()),
            &Place::File { file, at } => {
                let mut record = vec![0; record_bytes(self.dim?)];
                let file = &mut self.files[file];
                file.seek(SeekFrom::Start(at)).and_then(|_| file.read_exact(&mut record)).ok()?;
                (checked(&record)? == key).then(|| numbers(&record[PREFIX..]))
            }
        }
    }

    /// Keeps vectors, which all have the length of those before. They outlive a process that is killed afterwards.
    pub fn put<'a>(&mut self, made: impl IntoIterator<Item = (Key, &'a [f32])>) {
        let (mut bytes, mut new) = (Vec::new(), Vec::new());
        for (key, vector) in made {
            let dim = *self.dim.get_or_insert(vector.len());
            debug_assert_eq!(dim, vector.len());
            write_record(&mut bytes, key, vector);
            new.push((key, vector));
        }
        let Some(dim) = self.dim.filter(|_| !new.is_empty()) else { return };
        let place = self.append(dim, &bytes);
        for (i, (key, vector)) in new.into_iter().enumerate() {
            let place = match place {
                Some((file, at)) => Place::File { file, at: at + (i * record_bytes(dim)) as u64 },
                None => Place::Memory(vector.into()),
            };
            self.places.insert(key, place);
        }
    }

    /// Where the bytes were put: the file and the place in it.
    fn append(&mut self, dim: usize, bytes: &[u8]) -> Option<(usize, u64)> {
        if self.trouble.is_some() {
            return None;
        }
        match self.try_append(dim, bytes) {
            Ok(place) => Some(place),
            Err(e) => {
                self.trouble = Some(format!("{} cannot be written ({e})", self.place()));
                None
            }
        }
    }

    fn try_append(&mut self, dim: usize, bytes: &[u8]) -> std::io::Result<(usize, u64)> {
        let (place, at) = if let Some(own) = self.own {
            own
        } else {
            let folder = self.folder.as_deref().unwrap_or(Path::new("."));
            std::fs::create_dir_all(folder)?;
            let mut file = new_file(folder)?;
            file.write_all(MAGIC)?;
            file.write_all(&(dim as u32).to_le_bytes())?;
            self.files.push(file);
            (self.files.len() - 1, HEAD)
        };
        let file = &mut self.files[place];
        file.seek(SeekFrom::Start(at))?;
        file.write_all(bytes)?;
        self.own = Some((place, at + bytes.len() as u64));
        Ok((place, at))
    }

    /// For each thing that has no vector yet, the first place where it stands.
    pub fn missing(&self, keys: &[Option<Key>]) -> Vec<usize> {
        let mut met = HashSet::new();
        let mut new = |key: Key| !self.has(key) && met.insert(key);
        (0..keys.len()).filter(|&i| keys[i].is_some_and(&mut new)).collect()
    }

    /// A row for each key; none where `finish` says that the vector is of no use.
    pub fn rows(&mut self, dim: usize, keys: &[Option<Key>], finish: impl Fn(&mut [f32]) -> bool) -> Vectors {
        let row = |key: &Option<Key>| {
            let mut row = self.get((*key)?)?;
            finish(&mut row).then_some(row)
        };
        let rows: Vec<_> = keys.iter().map(row).collect();
        Vectors::from_rows(dim, rows)
    }
}

const ENDING: &str = "vectors";
/// Bytes of a record before its numbers.
const PREFIX: usize = 24;

fn record_bytes(dim: usize) -> usize {
    PREFIX + 4 * dim
}

fn check_of(key: &[u8], numbers: &[u8]) -> [u8; 8] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(key).update(numbers);
    let mut check = [0; 8];
    check.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    check
}

fn write_record(bytes: &mut Vec<u8>, key: Key, vector: &[f32]) {
    let numbers: Vec<u8> = vector.iter().flat_map(|v| v.to_le_bytes()).collect();
    bytes.extend(key.0);
    bytes.extend(check_of(&key.0, &numbers));
    bytes.extend(numbers);
}

/// The key of a whole record.
fn checked(record: &[u8]) -> Option<Key> {
    let (key, rest) = record.split_first_chunk::<16>()?;
    let (check, numbers) = rest.split_first_chunk::<8>()?;
    (*check == check_of(key, numbers)).then_some(Key(*key))
}

fn numbers(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

/// A file that no other run has.
fn new_file(folder: &Path) -> std::io::Result<File> {
    let mut n = 0;
    loop {
        let path = folder.join(format!("{n:06}.{ENDING}"));
        match File::options().read(true).write(true).create_new(true).open(path) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => n += 1,
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(i: u32) -> Key {
        Key::of(&i.to_le_bytes())
    }

    fn vector(i: u32) -> Vec<f32> {
        vec![i as f32, -0.5, 1e-30]
    }

    fn put(cache: &mut Cache, which: std::ops::Range<u32>) {
        let made: Vec<_> = which.map(|i| (key(i), vector(i))).collect();
        cache.put(made.iter().map(|(k, v)| (*k, v.as_slice())));
    }

    #[test]
    fn what_was_put_is_there_in_another_run() {
        let root = tempfile::tempdir().unwrap();
        let open = || Cache::open(root.path(), "intfloat/e5", "url and model");
        let (mut one, mut two) = (open(), open());
        assert_eq!((one.dim(), one.get(key(0))), (None, None));
        put(&mut one, 0..3);
        put(&mut two, 3..4);
        put(&mut one, 4..6);
        assert_eq!(one.get(key(5)).unwrap(), vector(5));
        assert_eq!(two.get(key(5)), None, "each run sees its own");
        let mut third = open();
        for i in 0..6 {
            assert_eq!(third.get(key(i)).unwrap(), vector(i), "{i}");
        }
        assert_eq!((third.dim(), third.trouble()), (Some(3), None));
        assert!(third.place().contains("intfloat-e5-"));
        assert_eq!(Cache::open(root.path(), "intfloat/e5", "another url").get(key(0)), None);
        let keys = [None, Some(key(9)), Some(key(1)), Some(key(9)), Some(key(8))];
        assert_eq!(third.missing(&keys), [1, 4], "each once");
        let rows = third.rows(3, &keys, |row| row[0] != 7.0);
        assert_eq!(rows.known, [false, false, true, false, false]);
        assert_eq!(rows.row(2).unwrap(), vector(1));
        assert_eq!(third.rows(3, &keys, |_| false).present(), 0);
    }

    #[test]
    fn damage_costs_only_what_it_hit() {
        let root = tempfile::tempdir().unwrap();
        let open = || Cache::open(root.path(), "m", "");
        let mut cache = open();
        put(&mut cache, 0..3);
        let path = Path::new(&cache.place()).join("000000.vectors");
        let whole = std::fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let mut cache = open();
            let left = (0..3).filter(|&i| cache.get(key(i)) == Some(vector(i))).count();
            assert_eq!(left, cut.saturating_sub(HEAD as usize) / record_bytes(3), "cut at {cut}");
        }
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            std::fs::write(&path, &damaged).unwrap();
            let mut cache = open();
            for i in 0..3 {
                assert!(cache.get(key(i)).is_none_or(|v| v == vector(i)), "byte {at} of vector {i}");
            }
        }
        // A file that changes while it is in use.
        std::fs::write(&path, &whole).unwrap();
        let mut cache = open();
        std::fs::write(&path, &whole[..20]).unwrap();
        assert!(cache.has(key(0)) && cache.get(key(0)).is_none());
    }

    #[test]
    fn without_a_folder_they_are_kept_in_memory() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (root, why) in [(None, "set cache"), (Some(file.path()), "cannot be written")] {
            let mut cache = Cache::below(root, "m", "");
            put(&mut cache, 0..2);
            assert_eq!(cache.get(key(1)).unwrap(), vector(1));
            assert!(cache.trouble().unwrap().contains(why), "{:?}", cache.trouble());
        }
    }
}

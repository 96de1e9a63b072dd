//! Artefacts: a fitted model in a folder that describes itself, written whole or not at all and checked when read.
//!
//! ```text
//! artefacts/ease-1f0c92ab34/
//!   artefact.json         format, recipe, seed, offset, dimensions, metrics, sizes and digests of the other files
//!   items.vocab           item ids in the model's order
//!   users.vocab           user ids in the model's order
//!   weights.safetensors   the model's arrays
//!   encode.safetensors    what makes vectors and codes of items, where the recipe has that
//! ```
//!
//! The digest covers recipe, seed, origin and the other files, not times or machine: the same snapshot, recipe,
//! seed and thread count give the same digest.

use crate::error::EngineError;
use crate::experiment::judge;
use crate::prepare::{Prepared, prepare};
use crate::recipe::{Origin, Recipe};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sommelier_core::{FitContext, Time, Vocab};
use sommelier_data::{Snapshot, Split, TimeQuality};
use sommelier_encode::tokenise::Quality;
use sommelier_eval::EvalConfig;
use sommelier_models::{Model, Weights};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// Version of the folder's layout. A program reads its own and every earlier one.
pub const FORMAT: u32 = 1;

const MANIFEST: &str = "artefact.json";
const ITEMS: &str = "items.vocab";
const USERS: &str = "users.vocab";
const WEIGHTS: &str = "weights.safetensors";
const PREPARED: &str = "encode.safetensors";
const VOCAB_MAGIC: &[u8; 8] = b"SMVOCAB1";

/// What `artefact.json` says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ArtefactInfo {
    pub format: u32,
    pub name: String,
    /// Model kind: `ease`, `ials`, …
    pub kind: String,
    /// The recipe as TOML, with every `--set` applied.
    pub recipe: String,
    pub seed: u64,
    pub threads: usize,
    /// Name of the snapshot it was fitted on.
    pub data: String,
    /// Log offset of that snapshot; 0 where it came from files.
    pub offset: u64,
    pub users: usize,
    pub items: usize,
    pub events: u64,
    /// People whose newest event it did not learn, but was judged by to know when to stop.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub watched: usize,
    /// Time of the newest event it was fitted on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest: Option<Time>,
    /// How good the codes of items are, before any model learned from them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub codes: Option<Quality>,
    /// What evaluation measured, in the form of `evaluate --json`; null where nothing was measured.
    #[serde(default)]
    pub metrics: Value,
    pub fit_seconds: f64,
    pub created: Time,
    /// Version of the program that wrote it.
    pub program: String,
    pub files: BTreeMap<String, FileInfo>,
    /// blake3, in hexadecimal.
    pub digest: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_zero(n: &usize) -> bool {
    *n == 0
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileInfo {
    pub bytes: u64,
    pub blake3: String,
}

/// A model fresh from its fit, with all that its artefact will say.
pub struct Trained {
    pub recipe: Recipe,
    pub model: Box<dyn Model>,
    prepared: Prepared,
    pub items: Arc<Vocab>,
    pub users: Arc<Vocab>,
    pub seed: u64,
    pub threads: usize,
    pub fit_seconds: f64,
    /// Kept in the artefact; set it before saving.
    pub metrics: Value,
    watched: usize,
    origin: Origin,
}

/// Applies the recipe's filters, then fits its model on a pool of `ctx.threads` threads.
///
/// A model that learns in rounds does not learn the newest events of some people ([`Split::watching`]): how well it finds
/// them says when it has learned enough. `training.patience = 0` has it learn everything, in all its rounds.
pub fn train(recipe: &Recipe, snapshot: &Snapshot, ctx: &mut FitContext) -> Result<Trained, EngineError> {
    let snapshot = recipe.data.filters.apply(snapshot);
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(ctx.threads.max(1))
        .build()
        .map_err(|e| EngineError::Invalid(format!("cannot start {} threads: {e}", ctx.threads)))?;
    let start = Instant::now();
    let watched = watched(recipe, &snapshot, ctx);
    let learnt = watched.as_ref().map_or(&snapshot, |split| &split.train);
    ctx.validate = watched.as_ref().and_then(|split| judge(split, &EvalConfig::default(), ctx));
    let fitted = pool.install(|| {
        let (learnt, prepared) = prepare(recipe, learnt, ctx)?;
        Ok::<_, EngineError>((recipe.model.fit(&learnt, ctx)?, prepared))
    });
    ctx.validate = None;
    let (model, prepared) = fitted?;
    let mut trained = Trained::new(recipe, learnt, (model, prepared), ctx, start.elapsed().as_secs_f64());
    trained.watched = watched.map_or(0, |split| split.test.cases());
    Ok(trained)
}

/// What the recipe's model learns from, and the events that tell it when it has learned enough, where it is to be told.
pub(crate) fn watched(recipe: &Recipe, snapshot: &Snapshot, ctx: &FitContext) -> Option<Split> {
    recipe.model.is_watched().then(|| Split::watching(snapshot, ctx.seed)).flatten()
}

impl Trained {
    /// For models that were fitted elsewhere on this snapshot (an experiment's, for one).
    pub fn new(
        recipe: &Recipe,
        snapshot: &Snapshot,
        (model, prepared): (Box<dyn Model>, Prepared),
        ctx: &FitContext,
        fit_seconds: f64,
    ) -> Trained {
        let newest = match snapshot.times {
            TimeQuality::Clock => snapshot.events.at.iter().max().and_then(|&at| Time::from_millis(at).ok()),
            _ => None,
        };
        Trained {
            recipe: recipe.clone(),
            model,
            prepared,
            items: Arc::clone(&snapshot.items),
            users: Arc::clone(&snapshot.users),
            seed: ctx.seed,
            threads: ctx.threads,
            fit_seconds,
            metrics: Value::Null,
            watched: 0,
            origin: Origin {
                data: snapshot.name.clone(),
                offset: snapshot.offset,
                events: snapshot.events.len() as u64,
                newest,
            },
        }
    }

    /// Writes the artefact into a folder of its own under `dir`. The folder appears whole or not at all; the same
    /// content saved twice is one artefact, with the newer metrics.
    pub fn save(&self, dir: &Path, now: Time) -> Result<ArtefactInfo, EngineError> {
        fs::create_dir_all(dir).map_err(EngineError::io(dir))?;
        let work = dir.join(format!(".new-{}-{}", self.recipe.name, std::process::id()));
        let _ = fs::remove_dir_all(&work);
        fs::create_dir(&work).map_err(EngineError::io(&work))?;
        let saved = self.write(&work, now).and_then(|info| {
            let place = dir.join(&info.name);
            replace_folder(&work, &place)?;
            Ok(info)
        });
        if saved.is_err() {
            let _ = fs::remove_dir_all(&work);
        }
        saved
    }

    fn write(&self, work: &Path, now: Time) -> Result<ArtefactInfo, EngineError> {
        write_vocab(&work.join(ITEMS), &self.items)?;
        write_vocab(&work.join(USERS), &self.users)?;
        let weights = work.join(WEIGHTS);
        self.model.weights().write(&weights).map_err(EngineError::io(&weights))?;
        sync(&weights)?;
        let mut names = vec![ITEMS, USERS, WEIGHTS];
        if let Some(prepared) = self.prepared.weights() {
            let path = work.join(PREPARED);
            prepared.write(&path).map_err(EngineError::io(&path))?;
            sync(&path)?;
            names.push(PREPARED);
        }
        let mut files = BTreeMap::new();
        for name in names {
            files.insert(name.to_owned(), describe(&work.join(name))?);
        }
        let mut info = ArtefactInfo {
            format: FORMAT,
            name: String::new(),
            kind: self.model.kind().to_owned(),
            recipe: self.recipe.to_toml(),
            seed: self.seed,
            threads: self.threads,
            data: self.origin.data.clone(),
            offset: self.origin.offset,
            users: self.users.len(),
            items: self.items.len(),
            events: self.origin.events,
            newest: self.origin.newest,
            watched: self.watched,
            codes: self.prepared.quality.clone(),
            metrics: self.metrics.clone(),
            fit_seconds: self.fit_seconds,
            created: now,
            program: env!("CARGO_PKG_VERSION").to_owned(),
            files,
            digest: String::new(),
        };
        info.digest = digest(&info);
        info.name = format!("{}-{}", self.recipe.name, &info.digest[..10]);
        let text = serde_json::to_string_pretty(&info).map_err(|e| EngineError::Invalid(e.to_string()))?;
        write_synced(&work.join(MANIFEST), text.as_bytes())?;
        Ok(info)
    }
}

/// An artefact read back: checked, and ready to answer.
pub struct Artefact {
    pub info: ArtefactInfo,
    pub model: Box<dyn Model>,
    pub prepared: Prepared,
    pub items: Vocab,
    pub users: Vocab,
}

impl Artefact {
    /// Reads `dir/name`, checking every file against its digest.
    pub fn load(dir: &Path, name: &str) -> Result<Artefact, EngineError> {
        let info = ArtefactInfo::read(dir, name)?;
        let folder = dir.join(name);
        let fail = |reason: String| EngineError::Artefact { name: name.to_owned(), reason };
        for (file, expected) in &info.files {
            let found = describe(&folder.join(file)).map_err(|e| fail(e.to_string()))?;
            if found != *expected {
                let (bytes, should) = (found.bytes, expected.bytes);
                return Err(fail(if bytes == should {
                    format!("{file} does not match its checksum, so it was changed or damaged")
                } else {
                    format!("{file} has {bytes} bytes, expected {should}")
                }));
            }
        }
        let recipe = Recipe::parse(name, &info.recipe)?;
        let items = read_vocab(&folder.join(ITEMS)).map_err(fail)?;
        let users = read_vocab(&folder.join(USERS)).map_err(fail)?;
        let weights = Weights::read(&folder.join(WEIGHTS)).map_err(|e| fail(e.to_string()))?;
        let model = recipe.model.load(&weights).map_err(|e| fail(e.to_string()))?;
        if model.items() != items.len() {
            return Err(fail(format!(
                "the model knows {} items, {ITEMS} names {}",
                model.items(),
                items.len()
            )));
        }
        let prepared = if info.files.contains_key(PREPARED) {
            Weights::read(&folder.join(PREPARED)).and_then(|w| Prepared::load(&recipe, &w))
        } else {
            Ok(Prepared::default())
        };
        let prepared = prepared.map_err(|e| fail(e.to_string()))?;
        Ok(Artefact { info, model, prepared, items, users })
    }

    /// Every artefact under `dir` that can be described, newest first; damaged ones are left out here and
    /// explained by [`Artefact::load`].
    pub fn list(dir: &Path) -> Result<Vec<ArtefactInfo>, EngineError> {
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(EngineError::io(dir)(e)),
        };
        let mut found: Vec<ArtefactInfo> = entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| !name.starts_with('.'))
            .filter_map(|name| ArtefactInfo::read(dir, &name).ok())
            .collect();
        found.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| a.name.cmp(&b.name)));
        Ok(found)
    }
}

impl ArtefactInfo {
    fn read(dir: &Path, name: &str) -> Result<ArtefactInfo, EngineError> {
        crate::space::check_name("artefact", name)?;
        let fail = |reason: String| EngineError::Artefact { name: name.to_owned(), reason };
        let path = dir.join(name).join(MANIFEST);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let known = names_in(dir);
                let near = crate::error::near(name, known.iter().map(String::as_str));
                return Err(EngineError::UnknownArtefact { name: name.to_owned(), near });
            }
            Err(e) => return Err(fail(format!("{MANIFEST} cannot be read ({e})"))),
        };
        let value: Value =
            serde_json::from_str(&text).map_err(|e| fail(format!("{MANIFEST} is damaged ({e})")))?;
        match value.get("format").and_then(Value::as_u64) {
            Some(format) if format <= u64::from(FORMAT) => {}
            format => {
                let format = format.map_or("no".to_owned(), |f| f.to_string());
                return Err(fail(format!("it has format {format}, this program reads up to {FORMAT}")));
            }
        }
        let info: ArtefactInfo =
            serde_json::from_value(value).map_err(|e| fail(format!("{MANIFEST} is damaged ({e})")))?;
        if digest(&info) != info.digest {
            return Err(fail(format!(
                "{MANIFEST} does not match its own digest, so it was changed or damaged"
            )));
        }
        Ok(info)
    }
}

fn names_in(dir: &Path) -> Vec<String> {
    let names =
        fs::read_dir(dir).map(|d| d.flatten().filter_map(|e| e.file_name().into_string().ok()).collect());
    names.unwrap_or_default()
}

/// Over what the artefact is, not when or where it was made.
fn digest(info: &ArtefactInfo) -> String {
    let content = (
        (info.format, &info.kind, &info.recipe, info.seed),
        (&info.data, info.offset, info.users, info.items, info.events, info.newest),
        info.files.iter().map(|(name, f)| (name, f.bytes, &f.blake3)).collect::<Vec<_>>(),
    );
    let text = serde_json::to_vec(&content).unwrap_or_else(|e| unreachable!("plain data: {e}"));
    blake3::hash(&text).to_hex().to_string()
}

fn describe(path: &Path) -> Result<FileInfo, EngineError> {
    let mut hasher = blake3::Hasher::new();
    let mut file = File::open(path).map_err(EngineError::io(path))?;
    let bytes = std::io::copy(&mut file, &mut hasher).map_err(EngineError::io(path))?;
    Ok(FileInfo { bytes, blake3: hasher.finalize().to_hex().to_string() })
}

/// Magic, number of ids (u64), length of each in bytes (u32), their text; little-endian.
fn write_vocab(path: &Path, vocab: &Vocab) -> Result<(), EngineError> {
    let mut bytes = Vec::with_capacity(16 + vocab.len() * 16);
    bytes.extend_from_slice(VOCAB_MAGIC);
    bytes.extend_from_slice(&(vocab.len() as u64).to_le_bytes());
    for id in vocab.iter() {
        bytes.extend_from_slice(&(id.len() as u32).to_le_bytes());
    }
    for id in vocab.iter() {
        bytes.extend_from_slice(id.as_bytes());
    }
    write_synced(path, &bytes)
}

fn read_vocab(path: &Path) -> Result<Vocab, String> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let broken = || format!("{name} is not a vocabulary file");
    let bytes = fs::read(path).map_err(|e| format!("{name} cannot be read ({e})"))?;
    let rest = bytes.strip_prefix(VOCAB_MAGIC).ok_or_else(broken)?;
    let (count, rest) = rest.split_first_chunk::<8>().ok_or_else(broken)?;
    let count = u64::from_le_bytes(*count) as usize;
    let table = count.checked_mul(4).filter(|&t| t <= rest.len()).ok_or_else(broken)?;
    let (lengths, text) = rest.split_at(table);
    let mut text = std::str::from_utf8(text).map_err(|_| broken())?;
    let mut vocab = Vocab::new();
    for length in lengths.chunks_exact(4) {
        let length = u32::from_le_bytes([length[0], length[1], length[2], length[3]]) as usize;
        let (id, rest) = text.split_at_checked(length).ok_or_else(broken)?;
        vocab.intern(id);
        text = rest;
    }
    if vocab.len() == count && text.is_empty() { Ok(vocab) } else { Err(broken()) }
}

pub(crate) fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), EngineError> {
    let mut file = File::create(path).map_err(EngineError::io(path))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(EngineError::io(path))
}

/// Writes beside `path`, then renames: readers see the old file or the new one, also after a crash.
pub(crate) fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), EngineError> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    write_synced(&beside, bytes)?;
    fs::rename(&beside, path).map_err(EngineError::io(path))?;
    path.parent().map_or(Ok(()), sync)
}

fn sync(path: &Path) -> Result<(), EngineError> {
    File::open(path).and_then(|f| f.sync_all()).map_err(EngineError::io(path))
}

/// Moves `work` to `place`. Where `place` exists it is the same content, so only for a moment is neither there.
fn replace_folder(work: &Path, place: &Path) -> Result<(), EngineError> {
    sync(work)?;
    if place.exists() {
        let mut old = work.as_os_str().to_owned();
        old.push("-old");
        let old = PathBuf::from(old);
        let _ = fs::remove_dir_all(&old);
        fs::rename(place, &old).map_err(EngineError::io(place))?;
        fs::rename(work, place).map_err(EngineError::io(place))?;
        let _ = fs::remove_dir_all(&old);
    } else {
        fs::rename(work, place).map_err(EngineError::io(place))?;
    }
    place.parent().map_or(Ok(()), sync)
}

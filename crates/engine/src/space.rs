//! A space: one tenant's log, catalogue, artefacts and pipelines, and every way to write to them.

use crate::artefact::{Artefact, ArtefactInfo, Trained, train, write_atomic};
use crate::catalogue::{Catalogue, Contents, Counts};
use crate::codes::CodeTree;
use crate::config::{EngineConfig, PipelineConfig};
use crate::error::{EngineError, QueryError, near};
use crate::history::{HistoryCache, Kinds, Known};
use crate::prepare::Prepared;
use crate::recipe::Recipe;
use crate::recorder::Recorder;
use hashbrown::HashMap;
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sommelier_core::{Clock, Event, FitContext, Item, ItemIx, Time, User, UserIx, Vocab};
use sommelier_data::Snapshot;
use sommelier_data::log::{Appended, Erased, Erasure, Log, LogOptions, SlateRecord};
use sommelier_index::text::{TextDoc, TextIndex};
use sommelier_models::Model;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Items, users or events read from the log in one go.
const PAGE: usize = 10_000;
const PUBLISHED: &str = "published.json";
const COUNTERS: &str = "counters.json";
const EVALUATIONS: &str = "evaluations";
/// Events between two writings of the counters.
const COUNTED_EVERY: u64 = 100_000;

/// Folder of a space's log, for tools that write to the log without a [`Space`].
pub fn log_dir(root: &Path, space: &str) -> PathBuf {
    space_dir(root, space).join("log")
}

/// Folder of a space's images, for importers and the server.
pub fn media_dir(root: &Path, space: &str) -> PathBuf {
    space_dir(root, space).join("media")
}

pub(crate) fn space_dir(root: &Path, space: &str) -> PathBuf {
    root.join("spaces").join(space)
}

/// A name that is safe as a file name everywhere.
pub(crate) fn check_name(what: &'static str, name: &str) -> Result<(), EngineError> {
    let fine = (1..=100).contains(&name.len())
        && !name.starts_with('.')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if fine { Ok(()) } else { Err(EngineError::Name { what, name: name.chars().take(100).collect() }) }
}

/// One tenant. All methods may be called from many threads.
pub struct Space {
    pub(crate) name: String,
    dir: PathBuf,
    pub(crate) config: EngineConfig,
    pub(crate) clock: Arc<dyn Clock>,
    log: Arc<Log>,
    pub(crate) kinds: Kinds,
    pub(crate) recorder: Recorder,
    live: RwLock<Arc<Live>>,
    /// Held shared by whoever writes to log and catalogue, exclusively by whoever replaces the catalogue.
    writing: RwLock<()>,
    /// Item writes reach the log and the catalogue in the same order.
    item_writes: Mutex<()>,
    /// One publication at a time.
    publishing: Mutex<()>,
    /// Made at the first search.
    text: Mutex<Option<Arc<TextIndex>>>,
    problem: Mutex<Option<String>>,
    answered: AtomicU64,
    opened: Time,
    /// Events since the counters were last saved.
    uncounted: AtomicU64,
}

/// What answers queries: replaced whole when an artefact is published, so that one query sees one state.
pub(crate) struct Live {
    pub model: Option<Published>,
    pub catalogue: RwLock<Catalogue>,
    pub users: HistoryCache,
}

impl Live {
    /// Tells the model of an item; true if it knows it from now on.
    fn meet(&self) -> impl Fn(u32, &Item) -> bool {
        |slot, item| self.model.as_ref().is_some_and(|published| published.meet(ItemIx(slot), item))
    }

    fn ahead(&self, items: &[Item]) {
        if let Some(published) = &self.model {
            let fitted = published.model.items();
            let known =
                |id: &str| self.catalogue.read().interned(id).is_some_and(|slot| ItemIx(slot).ix() < fitted);
            published.ahead(items.iter(), known);
        }
    }
}

pub(crate) struct Published {
    pub info: ArtefactInfo,
    pub model: Box<dyn Model>,
    prepared: Prepared,
    users: Vocab,
}

impl Published {
    /// A wish and a person's preferences as the model hears them.
    pub(crate) fn hear(&self, wish: &str, preferences: &str) -> Option<Arc<[f32]>> {
        self.prepared.hear(wish, preferences)
    }

    /// Tells the model of an item, with the vectors and codes that its recipe makes.
    fn meet(&self, item: ItemIx, info: &Item) -> bool {
        if item.ix() < self.model.items() || self.prepared.is_empty() {
            return self.model.meet(item, info);
        }
        self.model.meet(item, &self.prepared.describe(info))
    }

    /// Has what is slow to make of items that came after the fit made at once, before anybody waits for it.
    fn ahead<'a>(&self, items: impl Iterator<Item = &'a Item>, fitted: impl Fn(&str) -> bool) {
        if !self.prepared.is_empty() {
            self.prepared.ahead(&items.filter(|item| !fitted(&item.id)).collect::<Vec<_>>());
        }
    }

    pub fn user(&self, id: &str) -> Option<UserIx> {
        self.users.user(id)
    }
}

/// Whether a space can answer, and what is wrong where it cannot do so fully.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Readiness {
    /// True where queries are answered, by a model or not.
    pub ready: bool,
    pub artefact: Option<String>,
    pub offset: u64,
    pub items: usize,
    /// In words; empty where all is well.
    pub problems: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SpaceStats {
    pub slates_answered: u64,
    /// Slates that were answered and not recorded because too many were waiting.
    pub slates_dropped: u64,
}

#[derive(Serialize, Deserialize)]
struct PublishedFile {
    artefact: String,
    since: Time,
}

/// What the events up to an offset add up to, so that opening reads only the events after it.
#[derive(Serialize, Deserialize)]
struct CountersFile {
    /// Of [`EngineConfig::events`]: other rules make other sums.
    rules: String,
    offset: u64,
    /// Item, events, weight, first event in milliseconds.
    items: Vec<(String, u64, f64, Option<Time>)>,
}

impl Space {
    /// Opens the space `name` under `dir/spaces`, making it where it is new. A damaged artefact does not keep it
    /// closed: it answers without a model, and [`Space::ready`] says why.
    pub fn open(
        dir: &Path,
        name: &str,
        config: EngineConfig,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Space>, EngineError> {
        check_name("space", name)?;
        let config = config.checked()?;
        let dir = space_dir(dir, name);
        std::fs::create_dir_all(&dir).map_err(EngineError::io(&dir))?;
        let log = Arc::new(Log::open(&dir.join("log"), &LogOptions::default())?);
        let kinds =
            Kinds::new(config.events.clone()).map_err(|e| EngineError::Config(format!("events: {e}")))?;
        let recorder = Recorder::start(Arc::clone(&log), &config.record).map_err(EngineError::io(&dir))?;
        let opened = clock.now();
        let users = HistoryCache::new(config.history_cache_events);
        let empty = Catalogue::new(&Vocab::new(), Contents::default(), opened);
        let live = Live { model: None, catalogue: RwLock::new(empty), users };
        let space = Space {
            name: name.to_owned(),
            dir,
            config,
            clock,
            log,
            kinds,
            recorder,
            live: RwLock::new(Arc::new(live)),
            writing: RwLock::default(),
            item_writes: Mutex::default(),
            publishing: Mutex::default(),
            text: Mutex::default(),
            problem: Mutex::default(),
            answered: AtomicU64::new(0),
            opened,
            uncounted: AtomicU64::new(0),
        };
        let model = match space.published_name() {
            Ok(None) => None,
            Ok(Some(artefact)) => space.load(&artefact).map_err(|e| space.complain(&e)).ok(),
            Err(e) => {
                space.complain(&e);
                None
            }
        };
        let contents = space.read_contents()?;
        space.replace_live(model, contents);
        Ok(Arc::new(space))
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The log itself. Writes that go past the space (imports) show after [`Space::refresh`].
    pub fn log(&self) -> &Log {
        &self.log
    }

    pub fn config(&self) -> &EngineConfig {
        &self.config
    }

    pub fn media_dir(&self) -> PathBuf {
        self.dir.join("media")
    }

    /// Where this space's artefacts lie, one folder each.
    pub fn artefacts_dir(&self) -> PathBuf {
        self.dir.join("artefacts")
    }

    pub fn scenarios(&self) -> Vec<(String, PipelineConfig)> {
        self.config.pipelines.iter().map(|(name, p)| (name.clone(), p.clone())).collect()
    }

    /// Everything learnt so far, for fitting and evaluation.
    pub fn snapshot(&self) -> Result<Snapshot, EngineError> {
        Ok(self.log.snapshot(&self.name, &self.config.events)?)
    }

    pub fn ready(&self) -> Readiness {
        let live = self.live();
        let items = live.catalogue.read().len();
        let mut problems: Vec<String> = self.problem.lock().iter().cloned().collect();
        if live.model.is_none() && problems.is_empty() {
            problems.push("no artefact is published: popular and new items answer".into());
        }
        let artefact = live.model.as_ref().map(|p| p.info.name.clone());
        Readiness { ready: true, artefact, offset: self.log.offset(), items, problems }
    }

    pub fn stats(&self) -> SpaceStats {
        SpaceStats {
            slates_answered: self.answered.load(Ordering::Relaxed),
            slates_dropped: self.recorder.dropped(),
        }
    }

    /// Writes recorded slates and counters to disk.
    pub fn flush(&self) -> Result<(), EngineError> {
        self.recorder.flush().map_err(EngineError::Invalid)?;
        self.save_counters()?;
        Ok(self.log.flush()?)
    }

    /// Reads log and catalogue again: after an import that wrote to the log itself.
    pub fn refresh(&self) -> Result<(), EngineError> {
        let _publishing = self.publishing.lock();
        let model = self.published().map(|info| self.load(&info.name)).transpose()?;
        let _alone = self.writing.write();
        let contents = self.read_contents()?;
        self.replace_live(model, contents);
        self.write_counters()
    }

    // Events.

    /// Stores events; on disk and counted when it returns. All of them or none.
    pub fn append(&self, events: Vec<Event>) -> Result<Appended, EngineError> {
        let now = self.clock.now();
        let writing = self.writing.read();
        let facts: Vec<(String, String, f32, Time)> = events
            .iter()
            .map(|e| {
                let weight = self.kinds.weigh(&e.kind, e.value).1;
                (e.user.clone(), e.item.clone(), weight, e.at.unwrap_or(now))
            })
            .collect();
        let appended = self.log.append(events, now)?;
        let live = self.live();
        let mut catalogue = live.catalogue.write();
        for (index, (user, item, weight, at)) in facts.iter().enumerate() {
            if appended.repeated.binary_search(&(index as u32)).is_err() {
                catalogue.count_event(item, *weight, *at, now);
                live.users.forget(user);
            }
        }
        drop(catalogue);
        drop(writing);
        self.save_counters_sometimes(facts.len());
        Ok(appended)
    }

    /// Keeps short what the next start has to read of the log, also after a kill.
    fn save_counters_sometimes(&self, events: usize) {
        let uncounted = self.uncounted.fetch_add(events as u64, Ordering::Relaxed) + events as u64;
        // The file has a line per item: the larger the catalogue, the rarer.
        if uncounted < COUNTED_EVERY.max(10 * self.live().catalogue.read().len() as u64) {
            return;
        }
        if self.uncounted.compare_exchange(uncounted, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok()
            && let Err(error) = self.save_counters()
        {
            tracing::warn!(%error, "counters were not saved; the next start reads more of the log");
        }
    }

    // Items.

    pub fn item(&self, id: &str) -> Result<Option<Item>, EngineError> {
        Ok(self.log.item(id)?)
    }

    /// Stores items whole; in answers at once. An item without `at` gets the present, or keeps what it had.
    pub fn put_items(&self, items: Vec<Item>) -> Result<(), EngineError> {
        self.live().ahead(&items);
        let _writing = self.writing.read();
        let _order = self.item_writes.lock();
        self.put_in_order(items)
    }

    /// Only with `writing` and `item_writes` held.
    fn put_in_order(&self, mut items: Vec<Item>) -> Result<(), EngineError> {
        let now = self.clock.now();
        for item in &mut items {
            if item.at.is_none() {
                item.at = self.log.item(&item.id)?.and_then(|old| old.at).or(Some(now));
            }
        }
        self.log.put_items(items.clone())?;
        let live = self.live();
        let text = self.text.lock().clone();
        for item in items {
            if let Some(text) = &text {
                text.put(&item.id, &searchable(&item))?;
            }
            live.catalogue.write().put(Arc::new(item), live.meet(), now);
        }
        Ok(())
    }

    /// Merges a JSON merge patch (RFC 7396: null removes) into the item.
    pub fn patch_item(&self, id: &str, patch: &Value) -> Result<Item, EngineError> {
        let _writing = self.writing.read();
        let _order = self.item_writes.lock();
        let old = self.log.item(id)?.ok_or_else(|| EngineError::UnknownId { what: "item", id: id.into() })?;
        let item: Item = patched(&old, patch)?;
        if item.id != id {
            return Err(EngineError::Invalid(format!(
                "id: an item keeps its id {id:?}, received {:?}",
                item.id
            )));
        }
        let items = vec![item.clone()];
        self.live().ahead(&items);
        self.put_in_order(items)?;
        Ok(item)
    }

    /// Takes the item out of every answer until it is put again. Its events stay. False where it is unknown.
    pub fn delete_item(&self, id: &str) -> Result<bool, EngineError> {
        let now = self.clock.now();
        let _writing = self.writing.read();
        let _order = self.item_writes.lock();
        let live = self.live();
        let known = live.catalogue.read().slot(id).is_some();
        if !self.log.delete_item(id)? {
            if !known {
                return Ok(false);
            }
            // Known from events or an artefact only: a revision to delete makes the deletion last.
            self.log.put_items(vec![Item::new(id)])?;
            self.log.delete_item(id)?;
        }
        live.catalogue.write().withdraw(id, false, now);
        if let Some(text) = &*self.text.lock() {
            text.delete(id);
        }
        Ok(true)
    }

    // Users.

    pub fn user(&self, id: &str) -> Result<Option<User>, EngineError> {
        Ok(self.log.user(id)?)
    }

    pub fn put_users(&self, users: Vec<User>) -> Result<(), EngineError> {
        Ok(self.log.put_users(users)?)
    }

    /// Merges a JSON merge patch into the user.
    pub fn patch_user(&self, id: &str, patch: &Value) -> Result<User, EngineError> {
        let old = self.log.user(id)?.ok_or_else(|| EngineError::UnknownId { what: "user", id: id.into() })?;
        let user: User = patched(&old, patch)?;
        if user.id != id {
            return Err(EngineError::Invalid(format!(
                "id: a user keeps its id {id:?}, received {:?}",
                user.id
            )));
        }
        self.log.put_users(vec![user.clone()])?;
        Ok(user)
    }

    /// Deletes the properties; the events stay. [`Space::erase`] removes everything.
    pub fn delete_user(&self, id: &str) -> Result<bool, EngineError> {
        Ok(self.log.delete_user(id)?)
    }

    /// Erases a user or item from log, slates, counters and caches. Published artefacts keep what they learnt
    /// until they are trained again; an erased item is in no answer all the same.
    pub fn erase(&self, what: &Erasure) -> Result<Erased, EngineError> {
        let now = self.clock.now();
        let _alone = self.writing.write();
        self.recorder.flush().map_err(EngineError::Invalid)?;
        let live = self.live();
        match what {
            Erasure::User(user) => {
                let events = all_events(|before| self.log.user_events(user, before, PAGE))?;
                let erased = self.log.erase(what)?;
                let mut catalogue = live.catalogue.write();
                let mut without_first: Vec<&str> = Vec::new();
                for event in &events {
                    let counts = catalogue.interned(&event.item).map(|slot| catalogue.counts(slot));
                    if counts.is_some_and(|c| c.events > 1 && c.first == event.at) {
                        without_first.push(&event.item);
                    }
                    catalogue.uncount_event(&event.item, self.kinds.weigh(&event.kind, event.value).1, now);
                }
                without_first.sort_unstable();
                without_first.dedup();
                for item in without_first {
                    let left = all_events(|before| self.log.item_events(item, before, PAGE))?;
                    catalogue.first_event(item, left.last().and_then(|event| event.at));
                }
                live.users.forget(user);
                self.write_counters_of(&catalogue)?;
                Ok(erased)
            }
            Erasure::Item(item) => {
                let erased = self.log.erase(what)?;
                let mut catalogue = live.catalogue.write();
                catalogue.withdraw(item, true, now);
                live.users.clear();
                self.write_counters_of(&catalogue)?;
                drop(catalogue);
                if let Some(text) = &*self.text.lock() {
                    text.delete(item);
                }
                Ok(erased)
            }
        }
    }

    // Artefacts.

    /// Fits and saves; the artefact is listed and can be published.
    ///
    /// A model that learns in rounds keeps its checkpoint in `training/<recipe>` of the space until it is done, and leaves the
    /// log of its rounds, and their curves, in the artefact's folder. With `ctx.resume` it goes on from that checkpoint.
    pub fn train(
        &self,
        recipe: &Recipe,
        snapshot: &Snapshot,
        ctx: &mut FitContext,
        metrics: Value,
    ) -> Result<ArtefactInfo, EngineError> {
        let unfinished = self.dir.join("training").join(&recipe.name);
        if !ctx.resume {
            let _ = std::fs::remove_dir_all(&unfinished);
        }
        ctx.checkpoints = Some(unfinished.clone());
        let trained = train(recipe, snapshot, ctx);
        ctx.checkpoints = None;
        let mut trained = trained?;
        trained.metrics = metrics;
        let info = self.save(&trained)?;
        let artefact = self.artefacts_dir().join(&info.name);
        for file in ["training.jsonl", "training.svg"] {
            if unfinished.join(file).exists() {
                let to = artefact.join(file);
                std::fs::copy(unfinished.join(file), &to).map_err(EngineError::io(&to))?;
            }
        }
        let _ = std::fs::remove_dir_all(&unfinished);
        Ok(info)
    }

    /// Whether a training of this recipe was interrupted and can go on.
    pub fn unfinished(&self, recipe: &Recipe) -> bool {
        self.dir.join("training").join(&recipe.name).join("checkpoint.safetensors").exists()
    }

    pub fn save(&self, trained: &Trained) -> Result<ArtefactInfo, EngineError> {
        trained.save(&self.artefacts_dir(), self.clock.now())
    }

    /// Newest first.
    pub fn artefacts(&self) -> Result<Vec<ArtefactInfo>, EngineError> {
        Artefact::list(&self.artefacts_dir())
    }

    pub fn published(&self) -> Option<ArtefactInfo> {
        self.live().model.as_ref().map(|p| p.info.clone())
    }

    /// Loads and checks the artefact, then answers from it. Queries in flight finish with the one before; where
    /// it cannot be used, nothing changes.
    pub fn publish(&self, name: &str) -> Result<(), EngineError> {
        let _publishing = self.publishing.lock();
        let model = self.load(name)?;
        let file = PublishedFile { artefact: name.to_owned(), since: self.clock.now() };
        let text = serde_json::to_vec_pretty(&file).map_err(|e| EngineError::Invalid(e.to_string()))?;
        let _alone = self.writing.write();
        let contents = self.live().catalogue.read().contents();
        write_atomic(&self.dir.join(PUBLISHED), &text)?;
        self.replace_live(Some(model), contents);
        *self.problem.lock() = None;
        self.write_counters()
    }

    fn load(&self, name: &str) -> Result<(Published, Vocab), EngineError> {
        let Artefact { info, model, prepared, items, users } = Artefact::load(&self.artefacts_dir(), name)?;
        let published = Published { info, model, prepared, users };
        // While the one before still answers.
        let contents = self.live().catalogue.read().contents();
        published.ahead(contents.items.iter().map(|item| &**item), |id| items.item(id).is_some());
        Ok((published, items))
    }

    /// Name in `published.json`, if there is one.
    fn published_name(&self) -> Result<Option<String>, EngineError> {
        let path = self.dir.join(PUBLISHED);
        match std::fs::read(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(EngineError::io(&path)(e)),
            Ok(bytes) => {
                serde_json::from_slice::<PublishedFile>(&bytes).map(|f| Some(f.artefact)).map_err(|e| {
                    EngineError::Invalid(format!(
                        "{} is damaged ({e}); publish an artefact again",
                        path.display()
                    ))
                })
            }
        }
    }

    fn complain(&self, error: &EngineError) {
        tracing::error!(space = self.name, %error, "the published artefact cannot be used");
        *self.problem.lock() = Some(format!("{error}; popular and new items answer until one is published"));
    }

    fn replace_live(&self, model: Option<(Published, Vocab)>, contents: Contents) {
        *self.live.write() = Arc::new(self.live_with(model, contents));
        *self.text.lock() = None;
    }

    fn live_with(&self, model: Option<(Published, Vocab)>, contents: Contents) -> Live {
        let (model, items) = model.map_or((None, Vocab::new()), |(model, items)| (Some(model), items));
        if let Some(model) = &model {
            model.ahead(contents.items.iter().map(|item| &**item), |id| items.item(id).is_some());
        }
        let now = self.clock.now();
        let catalogue = RwLock::new(Catalogue::new(&items, contents, now));
        let users = HistoryCache::new(self.config.history_cache_events);
        let live = Live { model, catalogue, users };
        live.catalogue.write().introduce(live.meet(), now);
        live
    }

    /// The codes that the published artefact's recipe made of the catalogue, or the named one's: those of items that came after
    /// its fit too.
    pub fn codes(&self, artefact: Option<&str>) -> Result<CodeTree, EngineError> {
        let live = match artefact {
            None => self.live(),
            Some(name) => {
                let contents = self.live().catalogue.read().contents();
                Arc::new(self.live_with(Some(self.load(name)?), contents))
            }
        };
        let Some(published) = &live.model else {
            let reason = self.problem.lock().clone();
            return Err(EngineError::Invalid(reason.unwrap_or_else(|| {
                format!("space {} has published no artefact; publish one, or name a recipe", self.name)
            })));
        };
        CodeTree::of_artefact(&published.info, &published.prepared, &live.catalogue.read())
    }

    // Evaluations.

    /// Keeps one document of measurements (as `evaluate --json` prints).
    pub fn record_evaluations(&self, document: &Value) -> Result<(), EngineError> {
        let dir = self.dir.join(EVALUATIONS);
        std::fs::create_dir_all(&dir).map_err(EngineError::io(&dir))?;
        let next = self.evaluation_files()?.last().map_or(0, |(number, _)| number + 1);
        let text = serde_json::to_vec(document).map_err(|e| EngineError::Invalid(e.to_string()))?;
        write_atomic(&dir.join(format!("{next}.json")), &text)
    }

    /// What was recorded, newest first; unreadable files are left out.
    pub fn evaluations(&self) -> Vec<Value> {
        let files = self.evaluation_files().unwrap_or_default();
        files
            .iter()
            .rev()
            .filter_map(|(_, path)| serde_json::from_slice(&std::fs::read(path).ok()?).ok())
            .collect()
    }

    fn evaluation_files(&self) -> Result<Vec<(u64, PathBuf)>, EngineError> {
        let dir = self.dir.join(EVALUATIONS);
        if !dir.exists() {
            return Ok(Vec::new());
        }
        let entries = std::fs::read_dir(&dir).map_err(EngineError::io(&dir))?;
        let mut files: Vec<(u64, PathBuf)> = entries
            .flatten()
            .filter_map(|e| Some((e.file_name().to_str()?.strip_suffix(".json")?.parse().ok()?, e.path())))
            .collect();
        files.sort();
        Ok(files)
    }

    // Slates.

    /// A slate that was answered, without item properties and page token: on disk, or on its way there.
    pub fn slate(&self, id: &str) -> Result<Option<SlateRecord>, EngineError> {
        match self.recorder.pending(id) {
            Some(slate) => Ok(Some(slate)),
            None => Ok(self.log.slate(id)?),
        }
    }

    /// Unlike every other slate's, also after a restart and in other processes.
    pub(crate) fn next_slate_id(&self) -> String {
        static IN_PROCESS: AtomicU64 = AtomicU64::new(0);
        self.answered.fetch_add(1, Ordering::Relaxed);
        let n = IN_PROCESS.fetch_add(1, Ordering::Relaxed);
        let parts = (&self.name, self.opened.millis(), std::process::id(), n);
        let text = serde_json::to_vec(&parts).unwrap_or_default();
        // The time first: ids that grow lie together in the store, and need no sorting in later.
        let millis = self.clock.now().millis().max(0);
        format!("s-{millis:011x}{}", &blake3::hash(&text).to_hex()[..13])
    }

    // What queries read.

    pub(crate) fn live(&self) -> Arc<Live> {
        Arc::clone(&self.live.read())
    }

    /// All events of a user, oldest first, from the cache or the log.
    pub(crate) fn known(&self, live: &Live, user: &str) -> Result<Arc<Vec<Known>>, QueryError> {
        let ticket = match live.users.get(user) {
            Ok(found) => return Ok(found),
            Err(ticket) => ticket,
        };
        let events = all_events(|before| self.log.user_events(user, before, PAGE))?;
        let catalogue = live.catalogue.read();
        let known: Vec<Known> = events
            .iter()
            .rev()
            .filter_map(|event| {
                // Also of items that are deleted: they cannot come back, but they still say what the person likes.
                let slot = catalogue.interned(&event.item)?;
                let (kind, weight) = self.kinds.weigh(&event.kind, event.value);
                Some(Known { slot, kind, weight, at: event.at.map_or(0, Time::millis) })
            })
            .collect();
        drop(catalogue);
        let known = Arc::new(known);
        live.users.keep(user, Arc::clone(&known), ticket);
        Ok(known)
    }

    /// The text index, made from the catalogue at the first call.
    pub(crate) fn text(&self) -> Result<Arc<TextIndex>, EngineError> {
        let mut slot = self.text.lock();
        if let Some(index) = &*slot {
            return Ok(Arc::clone(index));
        }
        let index = Arc::new(TextIndex::new()?);
        let live = self.live();
        let items: Vec<Arc<Item>> = live.catalogue.read().all().map(|(_, item)| Arc::clone(item)).collect();
        for item in items {
            index.put(&item.id, &searchable(&item))?;
        }
        *slot = Some(Arc::clone(&index));
        Ok(index)
    }

    // Reading the log at the start.

    fn read_contents(&self) -> Result<Contents, EngineError> {
        let mut contents = Contents { withdrawn: self.log.items_deleted()?, ..Contents::default() };
        let mut after: Option<String> = None;
        loop {
            let page = self.log.items(after.as_deref(), PAGE)?;
            let Some(last) = page.last() else { break };
            after = Some(last.id.clone());
            contents.items.extend(page.into_iter().map(Arc::new));
        }
        let mut offset = 0;
        if let Some(saved) = self.read_counters() {
            offset = saved.offset;
            for (item, events, weight, first) in saved.items {
                contents.counts.insert(item, Counts { events, weight, first });
            }
        }
        self.log.each_after(offset, &mut |event| {
            let weight = self.kinds.weigh(event.kind, event.value).1;
            contents.counts.entry_ref(event.item).or_default().add(weight, event.at);
        })?;
        Ok(contents)
    }

    fn rules_text(&self) -> String {
        serde_json::to_string(&self.config.events).unwrap_or_default()
    }

    /// `None` where there are none, they are damaged, or other rules made them: then the whole log is read.
    fn read_counters(&self) -> Option<CountersFile> {
        let bytes = std::fs::read(self.dir.join(COUNTERS)).ok()?;
        let file: CountersFile = serde_json::from_slice(&bytes).ok()?;
        (file.rules == self.rules_text() && file.offset <= self.log.offset()).then_some(file)
    }

    fn save_counters(&self) -> Result<(), EngineError> {
        let _alone = self.writing.write();
        self.write_counters()
    }

    /// Only with `writing` held exclusively: then every event up to the log's offset has been counted.
    fn write_counters(&self) -> Result<(), EngineError> {
        let live = self.live();
        let catalogue = live.catalogue.read();
        self.write_counters_of(&catalogue)
    }

    fn write_counters_of(&self, catalogue: &Catalogue) -> Result<(), EngineError> {
        let counts: HashMap<String, Counts> = catalogue.contents().counts;
        let mut items: Vec<_> = counts.into_iter().map(|(id, c)| (id, c.events, c.weight, c.first)).collect();
        items.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let file = CountersFile { rules: self.rules_text(), offset: self.log.offset(), items };
        let text = serde_json::to_vec(&file).map_err(|e| EngineError::Invalid(e.to_string()))?;
        let path = self.dir.join(COUNTERS);
        write_atomic(&path, &text)
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        // The counters only save time at the next start: without them the log is read.
        if let Err(error) = self.write_counters() {
            tracing::warn!(%error, "counters were not saved; the next start reads more of the log");
        }
    }
}

/// Newest first.
fn all_events<K>(
    page: impl Fn(Option<K>) -> Result<(Vec<Event>, Option<K>), sommelier_data::log::LogError>,
) -> Result<Vec<Event>, EngineError> {
    let (mut events, mut next) = page(None)?;
    while let Some(before) = next {
        let (more, after) = page(Some(before))?;
        events.extend(more);
        next = after;
    }
    Ok(events)
}

fn patched<T: Serialize + for<'de> Deserialize<'de>>(old: &T, patch: &Value) -> Result<T, EngineError> {
    if !patch.is_object() {
        return Err(EngineError::Invalid("expected a JSON object with the fields to change".into()));
    }
    let mut whole = serde_json::to_value(old).map_err(|e| EngineError::Invalid(e.to_string()))?;
    merge(&mut whole, patch);
    serde_json::from_value(whole).map_err(|e| EngineError::Invalid(e.to_string()))
}

/// RFC 7396. As deep as the patch, whose depth its parser bounds.
fn merge(whole: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        *whole = patch.clone();
        return;
    };
    if !whole.is_object() {
        *whole = Value::Object(serde_json::Map::new());
    }
    if let Value::Object(map) = whole {
        for (key, change) in changes {
            if change.is_null() {
                map.remove(key);
            } else {
                merge(map.entry(key.clone()).or_insert(Value::Null), change);
            }
        }
    }
}

/// Title; author, artist, director, brand; and every other text of the item.
fn searchable(item: &Item) -> TextDoc {
    const BY: [&str; 8] =
        ["author", "authors", "artist", "director", "brand", "creator", "maker", "publisher"];
    const SKIP: [&str; 4] = ["image", "url", "link", "cover"];
    let mut doc = TextDoc { title: item.title().unwrap_or(&item.id).to_owned(), ..TextDoc::default() };
    for (name, value) in &item.properties {
        let name = name.as_str();
        if name == "title" || SKIP.contains(&name) {
            continue;
        }
        collect_text(value, if BY.contains(&name) { &mut doc.by } else { &mut doc.body }, 0);
    }
    doc
}

fn collect_text(value: &Value, out: &mut String, depth: usize) {
    match value {
        Value::String(text) => {
            out.push_str(text);
            out.push(' ');
        }
        Value::Array(list) if depth < 3 => list.iter().for_each(|v| collect_text(v, out, depth + 1)),
        Value::Object(map) if depth < 3 => map.values().for_each(|v| collect_text(v, out, depth + 1)),
        _ => {}
    }
}

/// Every space of one folder.
pub struct Engine {
    root: PathBuf,
    config: EngineConfig,
    clock: Arc<dyn Clock>,
    /// By name; `None` until somebody asks for it.
    spaces: Mutex<BTreeMap<String, Option<Arc<Space>>>>,
}

impl Engine {
    /// Opens the folder. Each space opens when it is first asked for, so that a damaged one closes no other.
    pub fn open(
        root: &Path,
        config: EngineConfig,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Engine>, EngineError> {
        let config = config.checked()?;
        let dir = root.join("spaces");
        std::fs::create_dir_all(&dir).map_err(EngineError::io(&dir))?;
        let entries = std::fs::read_dir(&dir).map_err(EngineError::io(&dir))?;
        let names = entries
            .flatten()
            .filter(|e| e.path().join("log").is_dir())
            .filter_map(|e| e.file_name().into_string().ok())
            .filter(|name| check_name("space", name).is_ok());
        let spaces = Mutex::new(names.map(|name| (name, None)).collect());
        Ok(Arc::new(Engine { root: root.to_owned(), config, clock, spaces }))
    }

    /// Opens every space; returns those that cannot be, with the reason.
    pub fn open_all(&self) -> Vec<(String, EngineError)> {
        self.spaces().into_iter().filter_map(|name| self.space(&name).err().map(|e| (name, e))).collect()
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn config(&self) -> &EngineConfig {
        &self.config
    }

    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Names of the spaces, open or not, sorted.
    pub fn spaces(&self) -> Vec<String> {
        self.spaces.lock().keys().cloned().collect()
    }

    /// The spaces that are open.
    pub fn opened(&self) -> Vec<Arc<Space>> {
        self.spaces.lock().values().flatten().cloned().collect()
    }

    pub fn space(&self, name: &str) -> Result<Arc<Space>, EngineError> {
        let mut spaces = self.spaces.lock();
        match spaces.get(name) {
            None => Err(EngineError::UnknownSpace {
                name: name.chars().take(100).collect(),
                near: near(name, spaces.keys().map(String::as_str)),
            }),
            Some(Some(space)) => Ok(Arc::clone(space)),
            Some(None) => self.open_space(&mut spaces, name),
        }
    }

    /// The space, made where it is new.
    pub fn create_space(&self, name: &str) -> Result<Arc<Space>, EngineError> {
        let mut spaces = self.spaces.lock();
        match spaces.get(name) {
            Some(Some(space)) => Ok(Arc::clone(space)),
            _ => self.open_space(&mut spaces, name),
        }
    }

    fn open_space(
        &self,
        spaces: &mut BTreeMap<String, Option<Arc<Space>>>,
        name: &str,
    ) -> Result<Arc<Space>, EngineError> {
        let space = Space::open(&self.root, name, self.config.clone(), Arc::clone(&self.clock))?;
        spaces.insert(name.to_owned(), Some(Arc::clone(&space)));
        Ok(space)
    }
}

//! The engine against a naive twin: seeded random operations on both, and every answer must be one the twin allows.

use serde_json::json;
use sommelier_core::{
    Event, FitContext, HistoryEntry, Item, ItemIx, ManualClock, Query, ResolvedQuery, Rng, Slate, Time,
};
use sommelier_data::log::Erasure;
use sommelier_engine::{Artefact, EngineConfig, PipelineConfig, Recipe, Seen, Space};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

const USERS: u64 = 8;
const ITEMS: u64 = 14;
const START: i64 = 1_700_000_000_000;

/// Everything the engine should know, kept in the simplest way there is.
#[derive(Default)]
struct Twin {
    items: BTreeMap<String, Item>,
    /// Deleted or erased and not put since.
    gone: BTreeSet<String>,
    events: Vec<Event>,
    event_ids: BTreeSet<String>,
    artefact: Option<Artefact>,
}

impl Twin {
    fn exists(&self, id: &str) -> bool {
        let by_artefact = self.artefact.as_ref().is_some_and(|a| a.items.get(id).is_some());
        !self.gone.contains(id)
            && (self.items.contains_key(id) || by_artefact || self.events.iter().any(|e| e.item == id))
    }

    fn popularity(&self, id: &str) -> f64 {
        self.events.iter().filter(|e| e.item == id).map(weight).map(|w| w.max(0.0)).sum()
    }

    fn came(&self, id: &str) -> Option<Time> {
        let first = self.events.iter().filter(|e| e.item == id).filter_map(|e| e.at).min();
        self.items.get(id).and_then(|i| i.at).or(first)
    }

    fn history(&self, user: &str) -> Vec<&Event> {
        let mut events: Vec<&Event> = self.events.iter().filter(|e| e.user == user).collect();
        events.sort_by_key(|e| e.at);
        events
    }

    /// The rules of the gate, one after the other.
    fn may_show(
        &self,
        query: &Query,
        id: &str,
        now: Time,
        hide_seen: bool,
        shown: &BTreeSet<String>,
    ) -> bool {
        let item = self.items.get(id);
        let seen = query.user.as_ref().is_some_and(|u| self.history(u).iter().any(|e| e.item == id))
            || query.history.iter().any(|h| h.item() == id);
        let year = item.and_then(|i| i.properties.get("year")).and_then(serde_json::Value::as_i64);
        let filtered = match query.filter.as_deref() {
            None => false,
            Some("item.year < 1950") => year.is_none_or(|y| y >= 1950),
            Some("not item.year < 1950") => year.is_some_and(|y| y < 1950),
            Some("item.year is missing") => year.is_some(),
            Some(other) => panic!("the twin does not know {other}"),
        };
        self.exists(id)
            && item.is_none_or(|i| !i.hidden && i.expires.is_none_or(|t| now < t))
            && !(hide_seen && seen)
            && !query.exclude.iter().any(|e| e == id)
            && !query.like.iter().any(|e| e == id)
            && (query.candidates.is_empty() || query.candidates.iter().any(|c| c == id))
            && !filtered
            && !shown.contains(id)
    }

    fn everything(&self) -> BTreeSet<String> {
        let mut all: BTreeSet<String> = self.items.keys().cloned().collect();
        all.extend(self.events.iter().map(|e| e.item.clone()));
        all.extend(self.artefact.iter().flat_map(|a| a.items.iter().map(String::from)));
        all
    }

    /// The model's score of every item it knows, asked with a query that the twin resolves itself.
    fn scores(&self, query: &Query, now: Time) -> BTreeMap<String, f32> {
        let Some(artefact) = &self.artefact else { return BTreeMap::new() };
        let ix = |id: &str| artefact.items.item(id);
        let mut history: Vec<sommelier_core::Seen> = Vec::new();
        for event in query.user.iter().flat_map(|u| self.history(u)) {
            if let Some(item) = ix(&event.item).filter(|_| weight(event) != 0.0) {
                history.push(sommelier_core::Seen {
                    item,
                    weight: weight(event) as f32,
                    at: event.at.unwrap(),
                });
            }
        }
        for entry in &query.history {
            history.extend(ix(entry.item()).map(|item| sommelier_core::Seen { item, weight: 1.0, at: now }));
        }
        let like = query.like.iter().filter_map(|id| ix(id)).collect();
        let resolved = ResolvedQuery { history, like, now, ..ResolvedQuery::default() };
        if resolved.profile().is_empty() {
            return BTreeMap::new();
        }
        let all: Vec<ItemIx> = (0..artefact.items.len() as u32).map(ItemIx).collect();
        let mut scores = vec![0f32; all.len()];
        artefact.model.score(&resolved, &all, &mut scores);
        artefact.items.iter().map(String::from).zip(scores).collect()
    }
}

/// As the rules below say: a like counts 2, a dislike −1, a view 1.
fn weight(event: &Event) -> f64 {
    match event.kind.as_str() {
        "like" => 2.0,
        "dislike" => -1.0,
        _ => 1.0,
    }
}

fn config() -> EngineConfig {
    let mut config = EngineConfig::default();
    let rule = |weight| sommelier_data::KindRule { weight, ..Default::default() };
    config.events.insert("like".into(), rule(2.0));
    config.events.insert("dislike".into(), rule(-1.0));
    config
        .pipelines
        .insert("again".into(), PipelineConfig { seen: Seen::Allow, ..PipelineConfig::default() });
    config
}

struct World {
    rng: Rng,
    clock: Arc<ManualClock>,
    dir: tempfile::TempDir,
    space: Arc<Space>,
    twin: Twin,
    recipes: Vec<Recipe>,
}

impl World {
    fn new(seed: u64) -> World {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::at(Time::from_millis(START).unwrap()));
        let space = Space::open(dir.path(), "s", config(), clock.clone()).unwrap();
        let recipes = ["ease", "item_knn"].map(|name| Recipe::builtin(name).unwrap()).to_vec();
        World { rng: Rng::new(seed), clock, dir, space, twin: Twin::default(), recipes }
    }

    fn now(&self) -> Time {
        use sommelier_core::Clock as _;
        self.clock.now()
    }

    fn user(&mut self) -> String {
        format!("u{}", self.rng.below(USERS as usize))
    }

    fn item(&mut self) -> String {
        format!("i{}", self.rng.below(ITEMS as usize))
    }

    fn step(&mut self) {
        self.clock.advance(1 + self.rng.below(1000) as i64);
        match self.rng.below(100) {
            0..30 => self.append(),
            30..45 => self.put(),
            45..50 => self.patch(),
            50..54 => self.delete(),
            54..57 => self.erase(),
            57..62 => self.train_and_publish(),
            62..65 => self.reopen(),
            _ => self.answer(),
        }
    }

    fn append(&mut self) {
        let now = self.now();
        let events: Vec<Event> = (0..=self.rng.below(4))
            .map(|_| {
                let kind = ["view", "view", "like", "dislike"][self.rng.below(4)];
                let mut event = Event::new(self.user(), self.item(), kind);
                if self.rng.below(3) == 0 {
                    event.id = Some(format!("e{}", self.rng.below(40)));
                }
                if self.rng.below(3) == 0 {
                    event.at = Some(now.plus(-(self.rng.below(5000) as i64)));
                }
                event
            })
            .collect();
        let appended = self.space.append(events.clone()).unwrap();
        let mut stored = 0;
        for event in events {
            if event.id.as_ref().is_none_or(|id| self.twin.event_ids.insert(id.clone())) {
                stored += 1;
                self.twin.events.push(Event { at: event.at.or(Some(now)), ..event });
            }
        }
        assert_eq!(appended.stored, stored);
    }

    fn put(&mut self) {
        let now = self.now();
        let mut item = Item::new(self.item());
        item.hidden = self.rng.below(6) == 0;
        item.expires = (self.rng.below(4) == 0).then(|| now.plus(self.rng.below(8000) as i64));
        if self.rng.below(3) > 0 {
            item.properties.insert("year".into(), json!(1900 + self.rng.below(100)));
        }
        item.properties.insert("title".into(), json!(format!("Book of {}", item.id)));
        self.space.put_items(vec![item.clone()]).unwrap();
        item.at = self.twin.items.get(&item.id).and_then(|old| old.at).or(Some(now));
        self.twin.gone.remove(&item.id);
        self.twin.items.insert(item.id.clone(), item);
    }

    fn patch(&mut self) {
        let id = self.item();
        let hidden = self.rng.below(2) == 0;
        let patched = self.space.patch_item(&id, &json!({"hidden": hidden, "properties": {"year": null}}));
        match self.twin.items.get_mut(&id) {
            None => assert!(patched.is_err()),
            Some(item) => {
                item.hidden = hidden;
                item.properties.remove("year");
                assert_eq!(patched.unwrap(), *item);
            }
        }
    }

    fn delete(&mut self) {
        let id = self.item();
        let existed = self.twin.exists(&id);
        assert_eq!(self.space.delete_item(&id).unwrap(), existed, "{id}");
        if existed {
            self.twin.items.remove(&id);
            self.twin.gone.insert(id);
        }
    }

    fn erase(&mut self) {
        if self.rng.below(2) == 0 {
            let user = self.user();
            self.space.erase(&Erasure::User(user.clone())).unwrap();
            // The ids of erased events are free again.
            self.forget(|e| e.user == user);
        } else {
            let item = self.item();
            self.space.erase(&Erasure::Item(item.clone())).unwrap();
            self.forget(|e| e.item == item);
            self.twin.items.remove(&item);
            self.twin.gone.insert(item);
        }
    }

    fn forget(&mut self, which: impl Fn(&Event) -> bool) {
        for event in self.twin.events.iter().filter(|e| which(e)) {
            if let Some(id) = &event.id {
                self.twin.event_ids.remove(id);
            }
        }
        self.twin.events.retain(|e| !which(e));
    }

    fn train_and_publish(&mut self) {
        let recipe = self.recipes[self.rng.below(2)].clone();
        let snapshot = self.space.snapshot().unwrap();
        let trained = self.space.train(&recipe, &snapshot, &mut FitContext::quiet(1), json!(null));
        // Too little data is a refusal in words, and changes nothing.
        let Ok(info) = trained else { return };
        self.space.publish(&info.name).unwrap();
        self.twin.artefact = Some(Artefact::load(&self.space.artefacts_dir(), &info.name).unwrap());
    }

    fn reopen(&mut self) {
        let query = Query { user: Some(self.user()), count: Some(5), ..Query::default() };
        let before = self.space.answer(&query).unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let placeholder = Space::open(elsewhere.path(), "x", config(), self.clock.clone()).unwrap();
        drop(std::mem::replace(&mut self.space, placeholder));
        if self.rng.below(2) == 0 {
            // Counters only save time: without them the log says the same.
            let _ = std::fs::remove_file(self.dir.path().join("spaces/s/counters.json"));
        }
        self.space = Space::open(self.dir.path(), "s", config(), self.clock.clone()).unwrap();
        let after = self.space.answer(&query).unwrap();
        assert_eq!(by_score(&before), by_score(&after), "a restart changes no answer");
        assert_eq!((&before.artefact, &before.fallback), (&after.artefact, &after.fallback));
        if let Some(recorded) = self.space.slate(&before.id).unwrap() {
            assert_eq!(by_score(&recorded.slate), by_score(&before));
        } else {
            panic!("slates are kept");
        }
    }

    fn question(&mut self) -> Query {
        let mut query = Query { count: Some(1 + self.rng.below(8) as u32), ..Query::default() };
        if self.rng.below(4) > 0 {
            query.user = Some(self.user());
        }
        if self.rng.below(4) == 0 {
            query.history = (0..self.rng.below(3)).map(|_| HistoryEntry::Item(self.item())).collect();
        }
        if self.rng.below(6) == 0 {
            query.like = vec![self.item()];
        }
        if self.rng.below(3) == 0 {
            let filters = ["item.year < 1950", "not item.year < 1950", "item.year is missing"];
            query.filter = Some(filters[self.rng.below(3)].into());
        }
        if self.rng.below(4) == 0 {
            query.exclude = (0..self.rng.below(4)).map(|_| self.item()).collect();
        }
        match self.rng.below(8) {
            0 => query.candidates = (0..=self.rng.below(6)).map(|_| self.item()).collect(),
            1 => query.wish = Some("book".into()),
            2 => query.scenario = Some("again".into()),
            3 => {
                query.context.insert("diversity".into(), json!(0.5));
            }
            _ => {}
        }
        query
    }

    /// Asks for page after page until there are no more, with events coming in between.
    fn answer(&mut self) {
        let mut query = self.question();
        let hide_seen = query.scenario.is_none();
        let mut shown = BTreeSet::new();
        let quiet = self.rng.below(2) == 0;
        loop {
            let slate = self.space.answer(&query).unwrap_or_else(|e| panic!("{query:?}: {e}"));
            let now = self.now();
            self.check(&query, &slate, hide_seen, &shown, now);
            shown.extend(slate.items.iter().map(|i| i.item.clone()));
            let Some(next) = slate.next else { break };
            query.page = Some(next);
            if !quiet {
                self.clock.advance(1);
                self.append();
            }
        }
        if quiet && query.wish.is_none() {
            self.check_all_were_shown(&query, hide_seen, &shown);
        }
    }

    fn check(&self, query: &Query, slate: &Slate, hide_seen: bool, shown: &BTreeSet<String>, now: Time) {
        let twin = &self.twin;
        assert!(slate.items.len() <= query.count.unwrap() as usize);
        let mut here = shown.clone();
        for entry in &slate.items {
            assert!(
                twin.may_show(query, &entry.item, now, hide_seen, &here),
                "{} may not be in {slate:#?} for {query:?}",
                entry.item
            );
            here.insert(entry.item.clone());
            assert_eq!(entry.propensity, 1.0);
            let title = entry.properties.as_ref().and_then(|p| p.get("title"));
            assert_eq!(title, twin.items.get(&entry.item).and_then(|i| i.properties.get("title")));
        }
        let of = |source: &str| slate.items.iter().filter(|i| i.source == source).collect::<Vec<_>>();
        for entry in of("popular") {
            assert_eq!(f64::from(entry.score), twin.popularity(&entry.item), "{}", entry.item);
        }
        let allowed = |id: &str| twin.may_show(query, id, now, hide_seen, shown);
        let popular = of("popular");
        if popular.len() == slate.items.len() && !popular.is_empty() && query.candidates.is_empty() {
            let least = popular.iter().map(|i| i.score).fold(f32::INFINITY, f32::min);
            let missed = twin
                .everything()
                .into_iter()
                .find(|id| allowed(id) && !here.contains(id) && twin.popularity(id) as f32 > least);
            assert_eq!(missed, None, "a more popular item was passed over: {slate:#?}");
        }
        // What the model says is what its score says, over exactly what is allowed.
        let plain =
            query.wish.is_none() && !query.context.contains_key("diversity") && query.candidates.is_empty();
        if plain {
            let scores = twin.scores(query, now);
            let modelled: Vec<_> =
                slate.items.iter().filter(|i| matches!(&*i.source, "model" | "similar")).collect();
            let mut last = f32::INFINITY;
            for entry in &modelled {
                assert!((entry.score - scores[&entry.item]).abs() < 1e-4, "{entry:?} {scores:?} {query:?}");
                assert!(entry.score <= last);
                last = entry.score;
            }
            if modelled.len() == slate.items.len() && !modelled.is_empty() {
                let missed =
                    scores.iter().find(|(id, s)| **s > last + 1e-4 && allowed(id) && !here.contains(*id));
                assert_eq!(missed, None, "a better item was passed over: {slate:#?}");
            }
        }
        if twin.artefact.is_none() {
            assert!(
                slate.items.is_empty()
                    || slate.fallback.is_some()
                    || !query.candidates.is_empty()
                    || query.wish.is_some()
            );
        }
        assert_eq!(slate.artefact, twin.artefact.as_ref().map(|a| a.info.name.clone()));
    }

    /// Popular and new items fill every slate, so pages end only when nothing that has either is left.
    fn check_all_were_shown(&self, query: &Query, hide_seen: bool, shown: &BTreeSet<String>) {
        for id in self.twin.everything() {
            let reachable = self.twin.popularity(&id) > 0.0 || self.twin.came(&id).is_some();
            if reachable && self.twin.may_show(query, &id, self.now(), hide_seen, &BTreeSet::new()) {
                assert!(shown.contains(&id), "{id} never came for {query:?}: {shown:?}");
            }
        }
    }
}

/// Items and scores; equal scores may stand in any order, for slots differ between runs.
fn by_score(slate: &Slate) -> Vec<(String, String)> {
    let mut all: Vec<_> = slate.items.iter().map(|i| (format!("{:.4}", i.score), i.source.clone())).collect();
    all.sort();
    all
}

#[test]
fn engine_and_twin_agree() {
    // SOMMELIER_ORACLE_SEEDS=100 looks longer; every write is synced to disk, so the default is short.
    let seeds = std::env::var("SOMMELIER_ORACLE_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(4);
    for seed in 0..seeds {
        let mut world = World::new(seed);
        for _ in 0..150 {
            world.step();
        }
    }
}

#[test]
fn folders_stay_in_their_place() {
    let world = World::new(99);
    assert!(Path::new(world.space.dir()).starts_with(world.dir.path()));
}

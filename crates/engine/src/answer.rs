//! A query goes in, a slate comes out: check → resolve → sources → fuse → diversify → gate → reasons → record.
//!
//! What a query asks for follows from what it holds:
//!
//! | holds | is | items come from |
//! |---|---|---|
//! | `candidates` | ranking | the candidates, in the model's order |
//! | `wish` | search | items whose words match, re-ranked by taste where a history is known |
//! | `like`, no history | similar items | the model's neighbours |
//! | a history (`user`, `history`) | recommendation | the scenario's sources, fused |
//! | nothing of these | a cold start | the scenario's fallback |
//!
//! Filters and exclusions go into retrieval, never over a list that was cut; the gate then checks every item once
//! more against the catalogue as it is at that moment. Scores compare only among items of one source; where
//! several sources are fused (`weight / (60 + rank)`, summed) the fused score is given.

use crate::Filter;
use crate::catalogue::{Catalogue, Slot};
use crate::config::{
    DEFAULT_SCENARIO, PipelineConfig, Seen as SeenRule, SimilarityBy, SourceConfig, SourceKind,
};
use crate::diverse;
use crate::error::{EngineError, QueryError, near};
use crate::gate::Gate;
use crate::history::Known;
use crate::page::Shown;
use crate::reasons;
use crate::space::{Live, Space};
use hashbrown::HashMap;
use serde_json::Value;
use sommelier_core::{
    Allowed, BitSet, Candidate, HistoryEntry, ItemIx, PREFERENCES, Query, Reason, ResolvedQuery, Seen, Slate,
    SlateItem, Time, check_id,
};
use sommelier_data::log::SlateRecord;
use sommelier_models::Model;
use std::sync::Arc;

/// Constant of reciprocal rank fusion: how little the very first ranks differ. Cormack, Clarke and Büttcher,
/// SIGIR 2009.
const FUSION: f32 = 60.0;
const DEFAULT_COUNT: u32 = 10;
/// Unknown ids named one by one in a note; the rest are counted.
const NAMED: usize = 5;

/// An item on its way into the slate.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Pick {
    slot: Slot,
    score: f32,
    source: Source,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Kind(SourceKind),
    Candidates,
}

impl Source {
    fn name(self) -> &'static str {
        match self {
            Source::Kind(kind) => kind.name(),
            Source::Candidates => "candidates",
        }
    }
}

/// A query that passed every check, with its ids as slots.
struct Asked<'a> {
    query: &'a Query,
    pipeline: &'a PipelineConfig,
    count: usize,
    strength: f32,
    gate: Gate,
    /// Both filters joined, for the cache of matching items.
    filter: Option<Filter>,
    resolved: ResolvedQuery,
    /// Kind of the newest event with each item of the history, for reasons.
    history: Vec<Known>,
    likes: Vec<Slot>,
    notes: Vec<String>,
}

impl Space {
    /// Answers a query. Never fails for want of a model or a history: then popular and new items answer, and the
    /// slate says so.
    pub fn answer(&self, query: &Query) -> Result<Slate, QueryError> {
        let live = self.live();
        let asked = self.ask(&live, query)?;
        let mut fallback = None;
        // One more than asked for tells whether there is a next page.
        let mut picks = self.pick(&live, &asked, asked.count + 1, &mut fallback)?;
        let (items, next) = self.finish(&live, &asked, &mut picks);
        let slate = Slate {
            id: self.next_slate_id(),
            items,
            next,
            artefact: live.model.as_ref().map(|m| m.info.name.clone()),
            fallback,
            notes: asked.notes,
        };
        self.recorder.record(|| SlateRecord {
            at: asked.gate.now,
            user: query.user.clone(),
            query: query.clone(),
            slate: bare(&slate),
        });
        Ok(slate)
    }

    /// Why `item` would be in this user's slate: the items of the history that carry its score, and what else is
    /// known about it.
    pub fn explain(&self, user: &str, item: &str) -> Result<Vec<Reason>, EngineError> {
        let live = self.live();
        let query = Query { user: Some(user.to_owned()), ..Query::default() };
        let asked = self.ask(&live, &query).map_err(|e| EngineError::Invalid(e.to_string()))?;
        let catalogue = live.catalogue.read();
        let slot = catalogue
            .slot(item)
            .ok_or_else(|| EngineError::UnknownId { what: "item", id: item.chars().take(100).collect() })?;
        let carried = match &live.model {
            Some(published) if catalogue.knows(slot) => {
                published.model.contributions(&asked.resolved, ItemIx(slot), 10)
            }
            _ => Vec::new(),
        };
        let mut all = reasons::because(&catalogue, &self.kinds, &asked.history, &[], &carried);
        all.extend(reasons::popular(&catalogue, slot));
        all.extend(reasons::recent(&catalogue, slot));
        Ok(all)
    }

    fn ask<'a>(&'a self, live: &Live, query: &'a Query) -> Result<Asked<'a>, QueryError> {
        let now = self.clock.now();
        let limits = &self.config.limits;
        let count = query.count.unwrap_or(DEFAULT_COUNT.min(limits.count));
        if count == 0 || count > limits.count {
            let words = format!("expected 1 to {}, received {count}", limits.count);
            return Err(QueryError::new("count", "count", words));
        }
        check_sizes(self, query)?;
        let pipeline = self.pipeline(query.scenario.as_deref())?;
        let strength = strength(query, pipeline)?;
        let (filters, filter) = filters(query, pipeline)?;
        let shown = match &query.page {
            None => Shown::default(),
            Some(token) => {
                Shown::read(token, query).map_err(|e| QueryError::new("page", "page", e.to_string()))?
            }
        };
        if live.catalogue.read().next_expiry().is_some_and(|end| end <= now) {
            live.catalogue.write().expire(now);
        }
        let known = match &query.user {
            Some(user) => self.known(live, user)?,
            None => Arc::default(),
        };

        let catalogue = live.catalogue.read();
        let mut notes = Vec::new();
        let mut history: Vec<Known> = known.to_vec();
        let mut unknown = Vec::new();
        for entry in &query.history {
            match catalogue.interned(entry.item()) {
                Some(slot) => history.push(self.entry(slot, entry, now)),
                None => unknown.push(entry.item()),
            }
        }
        note(&mut notes, "history", &unknown);
        let likes = slots(&catalogue, &query.like, "like", &mut notes);
        let unlikes = slots(&catalogue, &query.unlike, "unlike", &mut notes);
        let candidates = slots(&catalogue, &query.candidates, "candidates", &mut notes);
        let excluded = query.exclude.iter().filter_map(|id| catalogue.interned(id));
        let mut barred: Vec<Slot> = likes.iter().chain(&unlikes).copied().chain(excluded).collect();
        if pipeline.seen == SeenRule::Hide {
            let counts = self.seen_kinds(pipeline);
            barred.extend(history.iter().filter(|k| counts(k.kind)).map(|k| k.slot));
        }
        barred.sort_unstable();
        barred.dedup();
        let only = (!query.candidates.is_empty()).then_some(candidates);
        drop(catalogue);

        let resolved = self.resolve(live, query, &history, (&likes, &unlikes), now)?;
        let gate = Gate { now, barred, shown, filters, only };
        let count = count as usize;
        Ok(Asked { query, pipeline, count, strength, gate, filter, resolved, history, likes, notes })
    }

    fn pipeline(&self, scenario: Option<&str>) -> Result<&PipelineConfig, QueryError> {
        let name = scenario.unwrap_or(DEFAULT_SCENARIO);
        self.config.pipelines.get(name).ok_or_else(|| {
            let near = near(name, self.config.pipelines.keys().map(String::as_str));
            let name: String = name.chars().take(100).collect();
            let words = format!("there is no scenario {name:?}{near}; leave it out for the default one");
            QueryError::new("scenario", "scenario", words)
        })
    }

    fn entry(&self, slot: Slot, entry: &HistoryEntry, now: Time) -> Known {
        match entry {
            HistoryEntry::Item(_) => {
                Known { slot, kind: self.kinds.weigh("", None).0, weight: 1.0, at: now.millis() }
            }
            HistoryEntry::Event(event) => {
                let (kind, weight) = self.kinds.weigh(event.kind.as_deref().unwrap_or(""), event.value);
                Known { slot, kind, weight, at: event.at.unwrap_or(now).millis() }
            }
        }
    }

    /// Whether events of a kind make an item seen. Bare items of the request's own history always are.
    fn seen_kinds(&self, pipeline: &PipelineConfig) -> impl Fn(u32) -> bool + use<> {
        let kinds: Option<Vec<u32>> = pipeline.seen_kinds.as_ref().map(|names| {
            names.iter().map(String::as_str).chain([""]).filter_map(|n| self.kinds.index(n)).collect()
        });
        move |kind| kinds.as_ref().is_none_or(|kinds| kinds.contains(&kind))
    }

    /// What the model is asked: the newest events that count, and likes it knows.
    fn resolve(
        &self,
        live: &Live,
        query: &Query,
        history: &[Known],
        (likes, unlikes): (&[Slot], &[Slot]),
        now: Time,
    ) -> Result<ResolvedQuery, QueryError> {
        let catalogue = live.catalogue.read();
        let newest = &history[history.len().saturating_sub(self.config.history_events)..];
        let steps: Vec<Seen> = newest
            .iter()
            .filter(|k| catalogue.knows(k.slot) && k.weight != 0.0)
            .map(|k| Seen {
                item: ItemIx(k.slot),
                weight: k.weight * self.kinds.fade(k.kind, k.at, now.millis()),
                at: Time::from_millis(k.at).unwrap_or_default(),
            })
            .collect();
        let ix = |slots: &[Slot]| -> Vec<ItemIx> {
            slots.iter().filter(|&&s| catalogue.knows(s)).map(|&s| ItemIx(s)).collect()
        };
        // The user's own row is a shortcut for exactly the history it was learnt from: newer events need the history.
        let unchanged = |newest: Time| {
            query.history.is_empty() && history.last().is_some_and(|last| last.at <= newest.millis())
        };
        let user = live.model.as_ref().and_then(|published| {
            let newest = published.info.newest?;
            query.user.as_deref().filter(|_| unchanged(newest)).and_then(|user| published.user(user))
        });
        let wish = match &live.model {
            Some(published) if published.model.hears() => {
                let preferences =
                    query.user.as_deref().map_or(Ok(String::new()), |id| self.preferences(id))?;
                published.hear(query.wish.as_deref().unwrap_or_default(), &preferences)
            }
            _ => None,
        };
        Ok(ResolvedQuery { user, history: steps, like: ix(likes), unlike: ix(unlikes), wish, now })
    }

    /// What a person is said to prefer, in words; of a very long text the beginning.
    fn preferences(&self, user: &str) -> Result<String, QueryError> {
        let user = self.user(user)?;
        let said = user.as_ref().and_then(|user| user.properties.get(PREFERENCES));
        let mut words = match said {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(". "),
            _ => String::new(),
        };
        words.truncate(words.floor_char_boundary(self.config.limits.wish_bytes));
        Ok(words)
    }

    /// The best items, best first, gate not yet applied to what changed meanwhile.
    fn pick(
        &self,
        live: &Live,
        asked: &Asked<'_>,
        want: usize,
        fallback: &mut Option<String>,
    ) -> Result<Vec<Pick>, QueryError> {
        let has_profile = !asked.resolved.profile().is_empty();
        if !asked.query.candidates.is_empty() {
            return Ok(rank(live, asked, has_profile));
        }
        let pool = if asked.strength > 0.0 { want.max(asked.pipeline.diversity.pool) } else { want };
        let allowed = allowed(live, asked);
        if let Some(wish) = asked.query.wish.as_deref().filter(|w| !w.trim().is_empty()) {
            let found = self.search(live, asked, wish, pool, has_profile)?;
            if !found.is_empty() {
                return Ok(diversify(live, asked, found, want));
            }
            if !asked.gate.shown.is_empty() {
                return Ok(found);
            }
            *fallback = Some(format!("nothing matches {:?}", wish.chars().take(100).collect::<String>()));
        }
        let found = match &live.model {
            Some(published) if has_profile || asked.resolved.wish.is_some() => {
                let found = from_sources(live, &*published.model, asked, pool, &allowed);
                diversify(live, asked, found, want)
            }
            _ => Vec::new(),
        };
        let filled = fill(live, asked, found, want, fallback, has_profile);
        Ok(filled)
    }

    /// Items whose words match. For a known person, word rank and taste rank are fused; a model that hears the wish names items of
    /// its own.
    fn search(
        &self,
        live: &Live,
        asked: &Asked<'_>,
        wish: &str,
        pool: usize,
        has_profile: bool,
    ) -> Result<Vec<Pick>, QueryError> {
        let text = self.text()?;
        let catalogue = live.catalogue.read();
        let passes = |id: &str| catalogue.slot(id).is_some_and(|slot| asked.gate.lets(&catalogue, slot));
        // A model that hears the wish has read the history too.
        let hears = asked.resolved.wish.is_some();
        let taste = has_profile && (asked.pipeline.search_taste > 0.0 || hears);
        let depth = if taste { pool.max(asked.pipeline.search_pool) } else { pool };
        let hits = text.search(wish, depth, &passes).map_err(EngineError::from)?;
        let source = Source::Kind(SourceKind::Search);
        let picks: Vec<Pick> = hits
            .into_iter()
            .filter_map(|(id, score)| Some(Pick { slot: catalogue.slot(&id)?, score, source }))
            .collect();
        drop(catalogue);
        let Some(published) = live.model.as_ref().filter(|_| taste) else { return Ok(picks) };
        if hears {
            let allowed = allowed(live, asked);
            let found = from_sources(live, &*published.model, asked, depth, &allowed);
            return Ok(fuse(&[(1.0, picks), (1.0, found)]));
        }
        let mut liked = picks.clone();
        let scores = scores_of(live, &*published.model, &asked.resolved, &liked);
        for (pick, score) in liked.iter_mut().zip(&scores) {
            pick.score = score.unwrap_or(f32::NEG_INFINITY);
        }
        liked.retain(|p| p.score.is_finite());
        sort(&mut liked);
        Ok(fuse(&[(1.0, picks), (asked.pipeline.search_taste, liked)]))
    }

    /// Gate, hydrate, explain: what is left is the slate. Also gives the token of the next page.
    fn finish(
        &self,
        live: &Live,
        asked: &Asked<'_>,
        picks: &mut Vec<Pick>,
    ) -> (Vec<SlateItem>, Option<String>) {
        let catalogue = live.catalogue.read();
        picks.retain(|pick| asked.gate.lets(&catalogue, pick.slot));
        let more = picks.len() > asked.count;
        picks.truncate(asked.count);
        drop(catalogue);

        let carried = contributions(live, asked, picks);
        let catalogue = live.catalogue.read();
        let mut shown = asked.gate.shown.clone();
        let mut items = Vec::with_capacity(picks.len());
        for (pick, carried) in picks.iter().zip(&carried) {
            // The last word: the catalogue may have changed while the reasons were found.
            if !asked.gate.lets(&catalogue, pick.slot) {
                continue;
            }
            let id = catalogue.id(pick.slot);
            shown.add(id);
            items.push(SlateItem {
                item: id.to_owned(),
                score: pick.score,
                source: pick.source.name().to_owned(),
                reasons: self.reasons(&catalogue, asked, *pick, carried),
                propensity: 1.0,
                properties: properties(&catalogue, asked.pipeline, pick.slot),
            });
        }
        let next = (more && shown.len() < self.config.limits.paged).then(|| shown.token(asked.query));
        (items, next)
    }

    fn reasons(
        &self,
        catalogue: &Catalogue,
        asked: &Asked<'_>,
        pick: Pick,
        carried: &[(ItemIx, f32)],
    ) -> Vec<Reason> {
        let mut all = Vec::new();
        match pick.source {
            Source::Kind(SourceKind::Search) => {
                all.push(reasons::matches(asked.query.wish.as_deref().unwrap_or_default()));
            }
            Source::Kind(SourceKind::Popular) => {
                return reasons::popular(catalogue, pick.slot).into_iter().collect();
            }
            Source::Kind(SourceKind::Recent) => {
                return reasons::recent(catalogue, pick.slot).into_iter().collect();
            }
            Source::Kind(SourceKind::Model | SourceKind::Similar) | Source::Candidates => {}
        }
        all.extend(reasons::because(catalogue, &self.kinds, &asked.history, &asked.likes, carried));
        all
    }
}

/// The slate as it is recorded: properties are in the catalogue, and would be most of its bytes.
fn bare(slate: &Slate) -> Slate {
    let items = slate
        .items
        .iter()
        .map(|i| SlateItem {
            item: i.item.clone(),
            score: i.score,
            source: i.source.clone(),
            reasons: i.reasons.clone(),
            propensity: i.propensity,
            properties: None,
        })
        .collect();
    Slate {
        id: slate.id.clone(),
        items,
        next: None,
        artefact: slate.artefact.clone(),
        fallback: slate.fallback.clone(),
        notes: slate.notes.clone(),
    }
}

fn check_sizes(space: &Space, query: &Query) -> Result<(), QueryError> {
    let limits = &space.config.limits;
    let lists = [
        ("history", query.history.len(), limits.list),
        ("exclude", query.exclude.len(), limits.list),
        ("candidates", query.candidates.len(), limits.list),
        ("like", query.like.len(), limits.like),
        ("unlike", query.unlike.len(), limits.like),
    ];
    for (field, len, most) in lists {
        if len > most {
            return Err(QueryError::new(
                "limit",
                field,
                format!("expected at most {most} entries, received {len}"),
            ));
        }
    }
    if let Some(bytes) = query.wish.as_ref().map(String::len).filter(|&bytes| bytes > limits.wish_bytes) {
        let words = format!("expected at most {} bytes, received {bytes}", limits.wish_bytes);
        return Err(QueryError::new("limit", "wish", words));
    }
    let id = |what, field: String, id: &str| {
        check_id(what, id).map_err(|e| QueryError::new("id", field, e.to_string()))
    };
    if let Some(user) = &query.user {
        id("user", "user".into(), user)?;
    }
    for (i, entry) in query.history.iter().enumerate() {
        id("item", format!("history[{i}]"), entry.item())?;
        if let HistoryEntry::Event(event) = entry {
            if event.value.is_some_and(|v| !v.is_finite()) {
                let words = "expected a finite number, received NaN or infinity";
                return Err(QueryError::new("value", format!("history[{i}].value"), words));
            }
            if let Some(kind) = &event.kind {
                id("kind", format!("history[{i}].kind"), kind)?;
            }
        }
    }
    for (field, list) in [
        ("like", &query.like),
        ("unlike", &query.unlike),
        ("exclude", &query.exclude),
        ("candidates", &query.candidates),
    ] {
        for (i, item) in list.iter().enumerate() {
            id("item", format!("{field}[{i}]"), item)?;
        }
    }
    Ok(())
}

/// `context.diversity` where it is given, else the pipeline's.
fn strength(query: &Query, pipeline: &PipelineConfig) -> Result<f32, QueryError> {
    let Some(value) = query.context.get("diversity") else { return Ok(pipeline.diversity.strength) };
    match value.as_f64() {
        Some(strength) if (0.0..=1.0).contains(&strength) => Ok(strength as f32),
        _ => {
            let received: String = value.to_string().chars().take(40).collect();
            let words =
                format!("expected a number from 0 (by score) to 1 (by difference), received {received}");
            Err(QueryError::new("context", "context.diversity", words))
        }
    }
}

/// The filters one by one, and joined.
fn filters(query: &Query, pipeline: &PipelineConfig) -> Result<(Vec<Filter>, Option<Filter>), QueryError> {
    let read = |field: &str, text: &String| {
        Filter::parse(text).map_err(|e| QueryError::new("filter", field, e.to_string()))
    };
    let own =
        query.filter.as_ref().filter(|t| !t.trim().is_empty()).map(|t| read("filter", t)).transpose()?;
    let house = pipeline.filter.as_ref().map(|t| read("scenario", t)).transpose()?;
    let all: Vec<Filter> = house.into_iter().chain(own).collect();
    let joined = match all.as_slice() {
        [] => None,
        [one] => Some(one.clone()),
        [a, b, ..] => Some(a.clone().and(b.clone())),
    };
    Ok((all, joined))
}

/// Slots of known ids, sorted, without repeats; a note names the others.
fn slots(catalogue: &Catalogue, ids: &[String], field: &str, notes: &mut Vec<String>) -> Vec<Slot> {
    let mut unknown = Vec::new();
    let mut found = Vec::with_capacity(ids.len());
    for id in ids {
        match catalogue.interned(id) {
            Some(slot) => found.push(slot),
            None => unknown.push(id.as_str()),
        }
    }
    note(notes, field, &unknown);
    found.sort_unstable();
    found.dedup();
    found
}

fn note(notes: &mut Vec<String>, field: &str, unknown: &[&str]) {
    if unknown.is_empty() {
        return;
    }
    let named: Vec<String> = unknown
        .iter()
        .take(NAMED)
        .map(|id| format!("{:?}", id.chars().take(100).collect::<String>()))
        .collect();
    let rest = unknown.len() - named.len();
    let rest = if rest > 0 { format!(" and {rest} more") } else { String::new() };
    notes.push(format!("{field}: unknown here and not used: {}{rest}", named.join(", ")));
}

/// What the model may return. Items of earlier pages are dropped after retrieval: see [`with_shown`].
fn allowed(live: &Live, asked: &Asked<'_>) -> Allowed {
    let catalogue = live.catalogue.read();
    let base: Arc<BitSet> = catalogue.allowed(asked.filter.as_ref(), asked.gate.now);
    let barred = asked.gate.barred.iter().filter(|&&s| catalogue.knows(s));
    Allowed::only(base).without(barred.map(|&s| ItemIx(s)))
}

/// Retrieves `k` items that were not shown: as many more are asked for as were shown, so none is missed.
fn with_shown(
    live: &Live,
    asked: &Asked<'_>,
    k: usize,
    source: SourceKind,
    retrieve: impl FnOnce(usize) -> Vec<Candidate>,
) -> Vec<Pick> {
    let found = retrieve(k.saturating_add(asked.gate.shown.len()));
    let catalogue = live.catalogue.read();
    found
        .into_iter()
        .filter(|c| asked.gate.shown.is_empty() || !asked.gate.shown.contains(catalogue.id(c.item.0)))
        .take(k)
        .map(|c| Pick { slot: c.item.0, score: c.score, source: Source::Kind(source) })
        .collect()
}

/// What the scenario's sources say for a person with a profile; `like` alone asks the neighbours only.
fn from_sources(live: &Live, model: &dyn Model, asked: &Asked<'_>, k: usize, allowed: &Allowed) -> Vec<Pick> {
    if asked.resolved.history.is_empty() {
        return with_shown(live, asked, k, SourceKind::Similar, |k| {
            model.retrieve(&asked.resolved, k, allowed)
        });
    }
    let lists: Vec<(f32, Vec<Pick>)> = asked
        .pipeline
        .sources
        .iter()
        .map(|source| (source.weight, from_source(live, model, asked, source, k, allowed)))
        .collect();
    match <[_; 1]>::try_from(lists) {
        Ok([(_, only)]) => only,
        Err(lists) => {
            let mut all = fuse(&lists);
            all.truncate(k);
            all
        }
    }
}

fn from_source(
    live: &Live,
    model: &dyn Model,
    asked: &Asked<'_>,
    source: &SourceConfig,
    k: usize,
    allowed: &Allowed,
) -> Vec<Pick> {
    match source.kind {
        SourceKind::Model => {
            with_shown(live, asked, k, SourceKind::Model, |k| model.retrieve(&asked.resolved, k, allowed))
        }
        SourceKind::Similar => {
            let mut newest: Vec<ItemIx> = Vec::new();
            for step in asked.resolved.history.iter().rev().filter(|s| s.weight > 0.0) {
                if newest.len() == source.recent_items {
                    break;
                }
                if !newest.contains(&step.item) {
                    newest.push(step.item);
                }
            }
            let query = ResolvedQuery { like: newest, now: asked.resolved.now, ..ResolvedQuery::default() };
            with_shown(live, asked, k, SourceKind::Similar, |k| model.retrieve(&query, k, allowed))
        }
        SourceKind::Popular | SourceKind::Recent | SourceKind::Search => {
            by_rule(live, asked, source.kind, k, &[])
        }
    }
}

/// The best by popularity or newness that pass the gate and are not taken.
fn by_rule(live: &Live, asked: &Asked<'_>, kind: SourceKind, k: usize, taken: &[Slot]) -> Vec<Pick> {
    let catalogue = live.catalogue.read();
    let collect = |ranked: &mut dyn Iterator<Item = (Slot, f64)>| {
        ranked
            .filter(|(slot, _)| !taken.contains(slot) && asked.gate.lets(&catalogue, *slot))
            .take(k)
            .map(|(slot, score)| Pick { slot, score: score as f32, source: Source::Kind(kind) })
            .collect()
    };
    match kind {
        SourceKind::Popular => collect(&mut catalogue.popular()),
        SourceKind::Recent => collect(&mut catalogue.recent()),
        SourceKind::Model | SourceKind::Similar | SourceKind::Search => Vec::new(),
    }
}

/// Reciprocal rank fusion. An item keeps the source that ranked it best for its weight.
fn fuse(lists: &[(f32, Vec<Pick>)]) -> Vec<Pick> {
    let mut fused: HashMap<Slot, (Pick, f32)> = HashMap::new();
    for (weight, list) in lists {
        let mut rank = 0;
        for (i, pick) in list.iter().enumerate() {
            // Equal scores share a rank, so that the order of their ids decides nothing.
            if i > 0 && list[i - 1].score != pick.score {
                rank = i;
            }
            let share = weight / (FUSION + 1.0 + rank as f32);
            let entry = fused.entry(pick.slot).or_insert((Pick { score: 0.0, ..*pick }, 0.0));
            entry.0.score += share;
            if share > entry.1 {
                (entry.0.source, entry.1) = (pick.source, share);
            }
        }
    }
    let mut all: Vec<Pick> = fused.into_values().map(|(pick, _)| pick).collect();
    sort(&mut all);
    all
}

fn sort(picks: &mut [Pick]) {
    picks.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.slot.cmp(&b.slot)));
}

/// The model's scores of items it knows.
fn scores_of(live: &Live, model: &dyn Model, query: &ResolvedQuery, picks: &[Pick]) -> Vec<Option<f32>> {
    let known: Vec<bool> = {
        let catalogue = live.catalogue.read();
        picks.iter().map(|p| catalogue.knows(p.slot)).collect()
    };
    let items: Vec<ItemIx> =
        picks.iter().zip(&known).filter(|(_, known)| **known).map(|(p, _)| ItemIx(p.slot)).collect();
    let mut scores = vec![0f32; items.len()];
    model.score(query, &items, &mut scores);
    let mut scores = scores.into_iter();
    known.into_iter().map(|known| if known { scores.next() } else { None }).collect()
}

/// Candidates in the model's order; those it does not know come after, by popularity.
fn rank(live: &Live, asked: &Asked<'_>, has_profile: bool) -> Vec<Pick> {
    let source = Source::Candidates;
    let mut picks: Vec<Pick> = {
        let catalogue = live.catalogue.read();
        let mut slots = asked.gate.only.clone().unwrap_or_default();
        slots.retain(|&slot| asked.gate.lets(&catalogue, slot));
        slots.into_iter().map(|slot| Pick { slot, score: 0.0, source }).collect()
    };
    let scores = match live.model.as_ref().filter(|_| has_profile) {
        Some(published) => scores_of(live, &*published.model, &asked.resolved, &picks),
        None => vec![None; picks.len()],
    };
    let (mut ranked, mut rest) = (Vec::new(), Vec::new());
    let catalogue = live.catalogue.read();
    for (mut pick, score) in picks.drain(..).zip(scores) {
        if let Some(score) = score {
            pick.score = score;
            ranked.push(pick);
        } else {
            pick.score = catalogue.counts(pick.slot).weight as f32;
            pick.source = Source::Kind(SourceKind::Popular);
            rest.push(pick);
        }
    }
    sort(&mut ranked);
    sort(&mut rest);
    ranked.extend(rest);
    ranked
}

/// Fills what the sources left open from the fallback, and says in words why.
fn fill(
    live: &Live,
    asked: &Asked<'_>,
    mut picks: Vec<Pick>,
    want: usize,
    fallback: &mut Option<String>,
    has_profile: bool,
) -> Vec<Pick> {
    let found = picks.len();
    if found >= want {
        if let Some(words) = fallback {
            words.push_str(": what the history suggests instead");
        }
        return picks;
    }
    let mut used = Vec::new();
    for &kind in &asked.pipeline.fallback {
        let taken: Vec<Slot> = picks.iter().map(|p| p.slot).collect();
        let more = by_rule(live, asked, kind, want - picks.len(), &taken);
        if !more.is_empty() && picks.len() < asked.count {
            used.push(if kind == SourceKind::Popular { "popular items" } else { "new items" });
        }
        picks.extend(more);
        if picks.len() >= want {
            break;
        }
    }
    let named = used.join(" and ");
    let words = match (fallback.take(), used.is_empty()) {
        (Some(why), true) if found == 0 => format!("{why}, and there is nothing else to show"),
        (Some(why), true) => format!("{why}: what the history suggests instead"),
        (Some(why), false) => format!("{why}: {named} instead"),
        (None, true) => return picks,
        (None, false) if found == 0 => format!("{}: {named}", why_nothing(live, asked, has_profile)),
        (None, false) => format!("only {found} items fit the history: filled with {named}"),
    };
    *fallback = Some(words);
    picks
}

fn why_nothing(live: &Live, asked: &Asked<'_>, has_profile: bool) -> String {
    let user =
        asked.query.user.as_ref().map(|u| format!("user {:?}", u.chars().take(100).collect::<String>()));
    let known = !asked.history.is_empty() || !asked.likes.is_empty();
    match (&live.model, user) {
        (Some(_), _) if has_profile && !asked.gate.shown.is_empty() => {
            "the history suggests no more items".into()
        }
        (Some(_), _) if has_profile => "no item that fits the history may be shown".into(),
        (None, _) if known => "no artefact is published".into(),
        (_, _) if known => "the artefact knows none of the items in the history yet".into(),
        (_, Some(user)) => format!("{user} has no history"),
        (_, None) => "the question names no user, history or like".into(),
    }
}

/// Chooses `want` of the picks that do not resemble each other, where the query or scenario asks for that.
fn diversify(live: &Live, asked: &Asked<'_>, picks: Vec<Pick>, want: usize) -> Vec<Pick> {
    if asked.strength <= 0.0 || picks.len() < 2 {
        return picks;
    }
    let config = &asked.pipeline.diversity;
    let scores: Vec<f32> = picks.iter().map(|p| p.score).collect();
    let catalogue = live.catalogue.read();
    let all_known = picks.iter().all(|p| catalogue.knows(p.slot));
    let chosen = match (&live.model, config.by) {
        (Some(published), SimilarityBy::Model) if all_known => {
            drop(catalogue);
            let items: Vec<ItemIx> = picks.iter().map(|p| ItemIx(p.slot)).collect();
            let mut row = |i: usize| likeness(&*published.model, &items, i);
            diverse::select(&scores, want, asked.strength, config.method, &mut row)
        }
        _ => {
            let about: Vec<_> = picks
                .iter()
                .map(|p| diverse::traits(catalogue.item(p.slot).map(|i| &**i), &config.properties))
                .collect();
            drop(catalogue);
            let mut row = |i: usize| {
                about
                    .iter()
                    .enumerate()
                    .map(|(j, a)| if i == j { 1.0 } else { diverse::jaccard(&about[i], a) })
                    .collect()
            };
            diverse::select(&scores, want, asked.strength, config.method, &mut row)
        }
    };
    chosen.into_iter().map(|i| picks[i]).collect()
}

/// The model's item-to-item scores of one row, mapped to 0…1.
fn likeness(model: &dyn Model, items: &[ItemIx], i: usize) -> Vec<f32> {
    let query = ResolvedQuery { like: vec![items[i]], ..ResolvedQuery::default() };
    let mut row = vec![0f32; items.len()];
    model.score(&query, items, &mut row);
    let top = row.iter().enumerate().filter(|&(j, _)| j != i).map(|(_, &s)| s).fold(0f32, f32::max);
    let top = top.max(row[i]);
    for (j, sim) in row.iter_mut().enumerate() {
        *sim = if i == j {
            1.0
        } else if top > 0.0 {
            (*sim / top).clamp(0.0, 1.0)
        } else {
            0.0
        };
    }
    row
}

/// Which items of the history carry each pick, for as many picks as the scenario explains.
fn contributions(live: &Live, asked: &Asked<'_>, picks: &[Pick]) -> Vec<Vec<(ItemIx, f32)>> {
    let mut out = vec![Vec::new(); picks.len()];
    let Some(published) = &live.model else { return out };
    let catalogue = live.catalogue.read();
    let explained: Vec<usize> = picks
        .iter()
        .enumerate()
        .filter(|(_, p)| {
            catalogue.knows(p.slot)
                && !matches!(p.source, Source::Kind(SourceKind::Popular | SourceKind::Recent))
        })
        .map(|(i, _)| i)
        .take(asked.pipeline.reasons)
        .collect();
    drop(catalogue);
    if explained.is_empty() || asked.resolved.profile().is_empty() {
        return out;
    }
    let items: Vec<ItemIx> = explained.iter().map(|&i| ItemIx(picks[i].slot)).collect();
    let carried = published.model.contributions_many(&asked.resolved, &items, 3);
    for (i, carried) in explained.into_iter().zip(carried) {
        out[i] = carried;
    }
    out
}

fn properties(
    catalogue: &Catalogue,
    pipeline: &PipelineConfig,
    slot: Slot,
) -> Option<serde_json::Map<String, serde_json::Value>> {
    let item = catalogue.item(slot)?;
    let map = match &pipeline.properties {
        None => item.properties.clone(),
        Some(names) => {
            names.iter().filter_map(|n| Some((n.clone(), item.properties.get(n)?.clone()))).collect()
        }
    };
    (!map.is_empty()).then_some(map)
}

//! The doctor: what is wrong with data, and what it can support, in words and in numbers.

use crate::import::grouped;
use crate::snapshot::{Snapshot, TimeQuality};
use serde::{Deserialize, Serialize};
use sommelier_core::Time;
use std::collections::BTreeMap;
use std::fmt;

/// A pause longer than this ends a session.
const SESSION_GAP_MILLIS: i64 = 30 * 60 * 1000;
const MINUTE: i64 = 60_000;
/// Columns of a terminal.
const WIDTH: usize = 80;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Diagnosis {
    pub name: String,
    pub users: usize,
    pub items: usize,
    pub events: usize,
    /// Distinct user–item pairs over all possible ones.
    pub density: f64,
    /// Events of each kind.
    pub kinds: BTreeMap<String, usize>,
    pub duplicates: Duplicates,
    pub catalogue: Catalogue,
    pub times: Times,
    pub popularity: Popularity,
    pub events_per_user: Spread,
    pub events_per_item: Spread,
    /// `None` where times are not wall-clock times.
    pub sessions: Option<Sessions>,
    /// Users that act faster or more alike than people do; the worst first, at most 20.
    pub suspects: Vec<Suspect>,
    pub suspects_total: usize,
    /// What is odd or wrong, worst first.
    pub findings: Vec<Finding>,
    /// What the data can and cannot support.
    pub support: Vec<Support>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Duplicates {
    /// Events beyond the first with the same user, item, kind and (where there are real times) time.
    pub exact: usize,
    /// Events beyond the first of the same user and item.
    pub repeats: usize,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Catalogue {
    /// Items with events that no item record describes.
    pub unknown_items: usize,
    pub items_without_events: usize,
    pub described_items: usize,
    pub described_users: usize,
    pub users_without_events: usize,
    /// Items that have each property; the commonest first, at most 30.
    pub properties: Vec<(String, usize)>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Times {
    pub quality: TimeQuality,
    /// Milliseconds since 1970.
    pub first: Option<i64>,
    pub last: Option<i64>,
    /// Events after now.
    pub future: usize,
    /// Events before 1990.
    pub ancient: usize,
    /// Events exactly at midnight UTC: dates without a time of day.
    pub midnight: usize,
    pub distinct: usize,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Popularity {
    /// 0: all items alike; 1: one item has all events. Over items with events.
    pub gini: f64,
    /// Share of all events on the most popular 1 %, 10 % and 20 % of the items.
    pub top_1_percent: f64,
    pub top_10_percent: f64,
    pub top_20_percent: f64,
    /// Items with exactly one event.
    pub singletons: usize,
    /// Events of the item at each tenth of the ranking, most popular first: 11 points of the curve.
    pub curve: Vec<usize>,
}

/// Quantiles of a count.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    pub min: usize,
    pub quarter: usize,
    pub median: usize,
    pub three_quarters: usize,
    pub p95: usize,
    pub max: usize,
    pub mean: f64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Sessions {
    /// Runs of a user's events without a pause of more than 30 minutes.
    pub count: usize,
    pub mean_events: f64,
    /// Share of the users with more than one session.
    pub returning_users: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Suspect {
    pub user: String,
    pub events: usize,
    pub why: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Results will be wrong or meaningless.
    Problem,
    /// Worth a look.
    Warning,
    Note,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    pub level: Level,
    pub text: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Yes,
    Partly,
    No,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Support {
    /// A family of models or a kind of evaluation.
    pub what: String,
    pub verdict: Verdict,
    pub why: String,
}

/// Examines a snapshot. `now` is needed to tell future times; without it none are reported.
pub fn doctor(snapshot: &Snapshot, now: Option<Time>) -> Diagnosis {
    let events = &snapshot.events;
    let mut per_item = vec![0usize; snapshot.items.len()];
    let mut kinds = vec![0usize; snapshot.kinds.len()];
    for (&item, &kind) in events.item.iter().zip(&events.kind) {
        per_item[item as usize] += 1;
        kinds[kind as usize] += 1;
    }
    let per_user: Vec<usize> = (0..events.users()).map(|u| events.of(u).len()).collect();
    let (duplicates, pairs) = duplicates(snapshot);
    let cells = snapshot.users.len() as f64 * snapshot.items.len() as f64;
    let (suspects, suspects_total) = suspects(snapshot);
    let mut diagnosis = Diagnosis {
        name: snapshot.name.clone(),
        users: snapshot.users.len(),
        items: snapshot.items.len(),
        events: events.len(),
        density: if cells > 0.0 { pairs as f64 / cells } else { 0.0 },
        kinds: snapshot.kinds.iter().cloned().zip(kinds).collect(),
        duplicates,
        catalogue: catalogue(snapshot, &per_item, &per_user),
        times: times(snapshot, now),
        popularity: popularity(&per_item),
        events_per_user: spread(per_user.into_iter().filter(|&n| n > 0).collect()),
        events_per_item: spread(per_item.into_iter().filter(|&n| n > 0).collect()),
        sessions: sessions(snapshot),
        suspects,
        suspects_total,
        findings: Vec::new(),
        support: Vec::new(),
    };
    diagnosis.findings = findings(&diagnosis, snapshot);
    diagnosis.support = support(&diagnosis, snapshot);
    diagnosis
}

/// Counts duplicates user by user, and distinct user–item pairs on the way.
fn duplicates(snapshot: &Snapshot) -> (Duplicates, usize) {
    let events = &snapshot.events;
    let clock = snapshot.times == TimeQuality::Clock;
    let mut out = Duplicates::default();
    let mut pairs = 0;
    let mut rows: Vec<(u32, u8, i64)> = Vec::new();
    for u in 0..events.users() {
        rows.clear();
        rows.extend(
            events.of(u).map(|e| (events.item[e], events.kind[e], if clock { events.at[e] } else { 0 })),
        );
        rows.sort_unstable();
        for (i, row) in rows.iter().enumerate() {
            let before = i.checked_sub(1).map(|p| &rows[p]);
            if before.is_some_and(|b| b.0 == row.0) {
                out.repeats += 1;
            } else {
                pairs += 1;
            }
            out.exact += usize::from(before == Some(row));
        }
    }
    (out, pairs)
}

fn catalogue(snapshot: &Snapshot, per_item: &[usize], per_user: &[usize]) -> Catalogue {
    let mut properties: BTreeMap<&str, usize> = BTreeMap::new();
    for item in snapshot.item_info.iter().flatten() {
        for (name, value) in &item.properties {
            let empty = value.is_null() || value.as_str().is_some_and(str::is_empty);
            if !empty {
                *properties.entry(name).or_default() += 1;
            }
        }
    }
    let mut properties: Vec<(String, usize)> =
        properties.into_iter().map(|(n, c)| (n.to_owned(), c)).collect();
    properties.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    properties.truncate(30);
    let with_events = |i: usize| per_item[i] > 0;
    Catalogue {
        unknown_items: (0..per_item.len())
            .filter(|&i| with_events(i) && snapshot.item_info[i].is_none())
            .count(),
        items_without_events: per_item.iter().filter(|&&n| n == 0).count(),
        described_items: snapshot.item_info.iter().flatten().count(),
        described_users: snapshot.user_info.iter().flatten().count(),
        users_without_events: per_user.iter().filter(|&&n| n == 0).count(),
        properties,
    }
}

fn times(snapshot: &Snapshot, now: Option<Time>) -> Times {
    let mut out = Times {
        quality: snapshot.times,
        first: None,
        last: None,
        future: 0,
        ancient: 0,
        midnight: 0,
        distinct: 0,
    };
    if snapshot.times != TimeQuality::Clock {
        return out;
    }
    let mut at = snapshot.events.at.clone();
    at.sort_unstable();
    out.first = at.first().copied();
    out.last = at.last().copied();
    out.future = now.map_or(0, |now| at.len() - at.partition_point(|&t| t <= now.millis()));
    out.ancient = at.partition_point(|&t| t < 631_152_000_000);
    out.midnight = at.iter().filter(|&&t| t.rem_euclid(86_400_000) == 0).count();
    at.dedup();
    out.distinct = at.len();
    out
}

fn popularity(per_item: &[usize]) -> Popularity {
    let mut counts: Vec<usize> = per_item.iter().copied().filter(|&n| n > 0).collect();
    counts.sort_unstable_by(|a, b| b.cmp(a));
    let (n, total) = (counts.len(), counts.iter().sum::<usize>());
    if n == 0 {
        return Popularity::default();
    }
    let share = |part: f64| {
        let top = ((n as f64 * part).ceil() as usize).clamp(1, n);
        counts[..top].iter().sum::<usize>() as f64 / total as f64
    };
    // Ranks ascend in the formula and descend in `counts`.
    let weighted: f64 = counts.iter().rev().enumerate().map(|(i, &c)| (i as f64 + 1.0) * c as f64).sum();
    Popularity {
        gini: (2.0 * weighted / (n as f64 * total as f64) - (n as f64 + 1.0) / n as f64).max(0.0),
        top_1_percent: share(0.01),
        top_10_percent: share(0.1),
        top_20_percent: share(0.2),
        singletons: counts.iter().filter(|&&c| c == 1).count(),
        curve: (0..=10).map(|tenth| counts[(n - 1) * tenth / 10]).collect(),
    }
}

fn spread(mut counts: Vec<usize>) -> Spread {
    if counts.is_empty() {
        return Spread::default();
    }
    counts.sort_unstable();
    let at = |share: f64| counts[((counts.len() - 1) as f64 * share).round() as usize];
    Spread {
        min: counts[0],
        quarter: at(0.25),
        median: at(0.5),
        three_quarters: at(0.75),
        p95: at(0.95),
        max: at(1.0),
        mean: counts.iter().sum::<usize>() as f64 / counts.len() as f64,
    }
}

fn sessions(snapshot: &Snapshot) -> Option<Sessions> {
    if snapshot.times != TimeQuality::Clock {
        return None;
    }
    let events = &snapshot.events;
    let (mut count, mut active, mut returning) = (0usize, 0usize, 0usize);
    for u in 0..events.users() {
        let of = events.of(u);
        if of.is_empty() {
            continue;
        }
        let own =
            1 + events.at[of].windows(2).filter(|w| w[1].saturating_sub(w[0]) > SESSION_GAP_MILLIS).count();
        count += own;
        active += 1;
        returning += usize::from(own > 1);
    }
    Some(Sessions {
        count,
        mean_events: events.len() as f64 / (count as f64).max(1.0),
        returning_users: returning as f64 / active.max(1) as f64,
    })
}

/// Users whose events come in bursts, on one item, or in a number that outweighs everybody else.
fn suspects(snapshot: &Snapshot) -> (Vec<Suspect>, usize) {
    let events = &snapshot.events;
    let mut found = Vec::new();
    for u in 0..events.users() {
        let of = events.of(u);
        let n = of.len();
        if n < 50 {
            continue;
        }
        let mut why = Vec::new();
        if snapshot.times == TimeQuality::Clock {
            let most = busiest_minute(&events.at[of.clone()]);
            if most >= 50 {
                why.push(format!("{most} events within one minute"));
            }
        }
        let mut items: Vec<u32> = events.item[of].to_vec();
        items.sort_unstable();
        let most = items.chunk_by(|a, b| a == b).map(<[u32]>::len).max().unwrap_or(0);
        if most * 10 >= n * 9 {
            why.push(format!("{most} of {n} events on one item"));
        }
        if n >= 1000 && n * 20 >= events.len() {
            why.push(format!("{:.0} % of all events", 100.0 * n as f64 / events.len() as f64));
        }
        if !why.is_empty() {
            found.push(Suspect {
                user: snapshot.users.id(u as u32).to_owned(),
                events: n,
                why: why.join("; "),
            });
        }
    }
    let total = found.len();
    found.sort_by(|a, b| b.events.cmp(&a.events).then_with(|| a.user.cmp(&b.user)));
    found.truncate(20);
    (found, total)
}

/// The most events in any minute; `at` ascends.
fn busiest_minute(at: &[i64]) -> usize {
    let mut from = 0;
    let mut most = 0;
    for to in 0..at.len() {
        while at[to].saturating_sub(at[from]) > MINUTE {
            from += 1;
        }
        most = most.max(to - from + 1);
    }
    most
}

fn findings(d: &Diagnosis, snapshot: &Snapshot) -> Vec<Finding> {
    let mut out = Vec::new();
    let mut add = |level, text: String, remedy: &str| {
        out.push(Finding { level, text, remedy: (!remedy.is_empty()).then(|| remedy.to_owned()) });
    };
    let percent = |part: usize, whole: usize| 100.0 * part as f64 / whole.max(1) as f64;
    if d.events == 0 {
        add(
            Level::Problem,
            "There are no events.".into(),
            "Import what people did: views, purchases, ratings.",
        );
        return out;
    }
    if d.duplicates.exact > 0 {
        let level = if percent(d.duplicates.exact, d.events) >= 5.0 { Level::Warning } else { Level::Note };
        let text = format!(
            "{} events ({:.1} %) repeat another of the same user, item, kind and time.",
            grouped(d.duplicates.exact as u64),
            percent(d.duplicates.exact, d.events)
        );
        add(level, text, "Give events an id, or set `dedupe` in the recipe.");
    }
    if d.catalogue.unknown_items > 0 {
        let text = format!(
            "{} items with events ({:.1} %) have no item record.",
            grouped(d.catalogue.unknown_items as u64),
            percent(d.catalogue.unknown_items, d.items)
        );
        let level = if d.catalogue.described_items > 0 { Level::Warning } else { Level::Note };
        add(level, text, "Import items with a title, so that slates, search and reasons can name them.");
    }
    if d.catalogue.items_without_events > 0 {
        let text = format!("{} items have no events.", grouped(d.catalogue.items_without_events as u64));
        add(Level::Note, text, "Models that learn from behaviour alone will not suggest them.");
    }
    if d.catalogue.users_without_events > 0 {
        let text = format!("{} users have no events.", grouped(d.catalogue.users_without_events as u64));
        add(Level::Note, text, "");
    }
    time_findings(d, &mut add);
    if d.suspects_total > 0 {
        let text =
            format!("{} users act faster or more alike than people do.", grouped(d.suspects_total as u64));
        add(Level::Warning, text, "Look at them below; `max_user_events` in the recipe leaves them out.");
    }
    if d.popularity.top_1_percent > 0.5 {
        let text =
            format!("The top 1 % of items have {:.0} % of the events.", 100.0 * d.popularity.top_1_percent);
        add(Level::Note, text, "Compare every model with popularity, and look at coverage too.");
    }
    if d.events_per_user.median < 3 {
        let text = format!("Half of the users have {} events or fewer.", d.events_per_user.median);
        add(
            Level::Warning,
            text,
            "Expect little from personal models; sessions, content and popularity carry most.",
        );
    }
    if d.kinds.len() == 1 && snapshot.events.value.iter().any(|&v| v != 1.0) {
        let low = snapshot.events.value.iter().copied().fold(f32::INFINITY, f32::min);
        let high = snapshot.events.value.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if snapshot.events.weight.iter().all(|&w| w > 0.0) {
            let text = format!("Events have values from {low} to {high}, and all count as liking.");
            add(
                Level::Note,
                text,
                "If low values mean dislike, say which count: --positive 'rating>=4'. To predict values with \
                 rating_knn: by_value = true.",
            );
        }
    }
    let negative = snapshot.events.weight.iter().filter(|&&w| w <= 0.0).count();
    if negative == d.events {
        add(
            Level::Problem,
            "No event counts: all weights are 0 or less.".into(),
            "Check the rules of [events].",
        );
    }
    out.sort_by_key(|f| f.level);
    out
}

fn time_findings(d: &Diagnosis, add: &mut impl FnMut(Level, String, &str)) {
    let t = &d.times;
    match t.quality {
        TimeQuality::None => {
            add(
                Level::Warning,
                "Events have no times, and their order means nothing.".into(),
                "Keep a time with each event; sequences, trends and honest time splits need it.",
            );
            return;
        }
        TimeQuality::Order => {
            add(
                Level::Note,
                "Only the order of each user's events is known, not their times.".into(),
                "Leave-one-out is possible; cuts at one date, trends and sessions are not.",
            );
            return;
        }
        TimeQuality::Clock => {}
    }
    if t.distinct == 1 && d.events > 1 {
        add(
            Level::Problem,
            "All events have the same time.".into(),
            "That is probably the time of an export. Order within a user is lost with it.",
        );
    } else if t.distinct * 100 < d.events {
        let text = format!(
            "{} events share {} different times.",
            grouped(d.events as u64),
            grouped(t.distinct as u64)
        );
        add(Level::Warning, text, "Events at the same time keep the order of the file.");
    }
    if t.future > 0 {
        let text = format!("{} events are in the future.", grouped(t.future as u64));
        add(
            Level::Problem,
            text,
            "Check the unit and the time zone of the column; half-lives count from the newest event.",
        );
    }
    if t.ancient > 0 {
        let text = format!("{} events are older than 1990.", grouped(t.ancient as u64));
        add(Level::Warning, text, "Check the unit of the column (seconds read as milliseconds?).");
    }
    if t.midnight * 10 >= d.events * 9 && t.distinct > 1 {
        add(
            Level::Note,
            "Times are dates without a time of day.".into(),
            "The order within a day is the order of the file; sessions cannot be told.",
        );
    }
}

fn support(d: &Diagnosis, snapshot: &Snapshot) -> Vec<Support> {
    let mut out = Vec::new();
    let mut add =
        |what: &str, verdict, why: String| out.push(Support { what: what.to_owned(), verdict, why });
    if d.events == 0 {
        add("anything but search", Verdict::No, "there are no events".into());
        return out;
    }
    add("popularity", Verdict::Yes, "needs nothing but events; the baseline that others must beat".into());

    let median = d.events_per_user.median;
    let enough = d.events >= 10_000 && d.events_per_item.median >= 3;
    let neighbours = match (median, enough) {
        (0..2, _) => (Verdict::No, format!("half of the users have {median} event; items never meet")),
        (_, true) => (Verdict::Yes, format!("median of {median} events a user; try these first")),
        _ => (Verdict::Partly, "few events; tune shrinkage and expect wide intervals".to_owned()),
    };
    add("ItemKNN, RP3beta, SLIM", neighbours.0, neighbours.1);

    let gigabytes = (d.items as f64).powi(2) * 8.0 * 2.0 / f64::from(1 << 30);
    if gigabytes > 8.0 {
        let why = format!("{} items need {gigabytes:.0} GiB; use sparse_ease", grouped(d.items as u64));
        add("EASE (dense)", Verdict::No, why);
    } else {
        add("EASE (dense)", neighbours.0, format!("fits in {:.1} GiB", gigabytes.max(0.1)));
    }
    let factors = match (d.events, median) {
        (_, 0..2) => (Verdict::No, "users have too few events for factors of their own".to_owned()),
        (0..10_000, _) => (Verdict::Partly, "few events; keep `dim` at 32 or less".to_owned()),
        _ => (Verdict::Yes, "enough events; dim 64 to 256".to_owned()),
    };
    add("iALS, BPR, PureSVD", factors.0, factors.1);

    let order = d.times.quality != TimeQuality::None
        && !(d.times.quality == TimeQuality::Clock && d.times.distinct <= 1);
    let sequences = match (order, median) {
        (false, _) => (Verdict::No, "the order of events is not known".to_owned()),
        (true, 0..3) => (
            Verdict::Partly,
            format!("the order is known, but half of the users have {median} events or fewer"),
        ),
        (true, _) => (Verdict::Yes, format!("the order is known; median of {median} events a user")),
    };
    add("sequence models, item2vec", sequences.0, sequences.1);

    let clock = d.times.quality == TimeQuality::Clock && d.times.distinct > 1;
    let days = d.times.last.zip(d.times.first).map_or(0, |(l, f)| l.saturating_sub(f) / 86_400_000);
    if clock && days >= 7 {
        add(
            "trends, half-lives, time splits",
            Verdict::Yes,
            format!("wall-clock times over {} days", grouped(days as u64)),
        );
    } else if clock {
        add("trends, half-lives, time splits", Verdict::Partly, format!("the times span only {days} days"));
    } else {
        add("trends, half-lives, time splits", Verdict::No, "there are no wall-clock times".into());
    }
    match &d.sessions {
        Some(s) if clock && d.times.midnight * 10 < d.events * 9 => {
            let verdict = if s.mean_events >= 2.0 { Verdict::Yes } else { Verdict::Partly };
            add(
                "sessions",
                verdict,
                format!("{} sessions of {:.1} events", grouped(s.count as u64), s.mean_events),
            );
        }
        _ => add("sessions", Verdict::No, "they need a time of day for each event".into()),
    }

    let has = |names: &[&str]| {
        d.catalogue
            .properties
            .iter()
            .filter(|(n, _)| names.contains(&n.as_str()))
            .map(|(_, c)| *c)
            .max()
            .unwrap_or(0)
    };
    let covered = |count: usize| count * 10 >= d.items * 9;
    let (title, text) =
        (has(&["title", "name"]), has(&["description", "plot", "summary", "text", "keywords"]));
    let search = match (covered(title), covered(text)) {
        (true, true) => (Verdict::Yes, "nearly all items have a title and a text".to_owned()),
        (true, false) => {
            (Verdict::Partly, "titles are there; descriptions are missing for many items".to_owned())
        }
        _ if title + text > 0 => (Verdict::Partly, format!("{} of {} items have a title", title, d.items)),
        _ => (Verdict::No, "items have neither title nor description".to_owned()),
    };
    add("search, new items, reasons", search.0, search.1);
    let labels =
        has(&["genres", "categories", "category", "attributes", "tags", "brand", "moods", "subjects"]);
    match labels {
        0 => {
            add("filters, diversity by kind", Verdict::No, "items have no genres, categories or tags".into());
        }
        n if covered(n) => {
            add("filters, diversity by kind", Verdict::Yes, "nearly all items carry labels".into());
        }
        n => add(
            "filters, diversity by kind",
            Verdict::Partly,
            format!("{} of {} items carry labels", n, d.items),
        ),
    }
    let images = has(&["image"]);
    if images > 0 {
        let verdict = if covered(images) { Verdict::Yes } else { Verdict::Partly };
        add("pictures", verdict, format!("{} of {} items have one", images, d.items));
    }
    if d.kinds.len() > 1 {
        add(
            "several behaviours",
            Verdict::Yes,
            format!("{} kinds of event; give each its weight in [events]", d.kinds.len()),
        );
    }
    if snapshot.given.is_some() {
        add("given split", Verdict::Yes, "the files came with one; --split given".into());
    }
    out
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = |count: usize| grouped(count as u64);
        paragraph(
            f,
            "",
            &format!(
                "{}: {} users, {} items, {} events",
                self.name,
                n(self.users),
                n(self.items),
                n(self.events)
            ),
        )?;
        let kinds: Vec<String> = self.kinds.iter().map(|(k, c)| format!("{k} {}", n(*c))).collect();
        if !kinds.is_empty() {
            paragraph(f, "  kinds: ", &kinds.join(", "))?;
        }
        paragraph(f, "  density: ", &format!("{:.4} % of all user-item pairs", 100.0 * self.density))?;
        if let (Some(first), Some(last)) = (self.times.first, self.times.last) {
            let day = |at: i64| {
                Time::from_millis(at).map_or_else(|_| at.to_string(), |t| t.to_iso()[..10].to_owned())
            };
            paragraph(f, "  times: ", &format!("{} to {}", day(first), day(last)))?;
        }
        for (what, s) in [("user", &self.events_per_user), ("item", &self.events_per_item)] {
            let text = format!(
                "min {}, quarter {}, median {}, three quarters {}, 95 % {}, max {}",
                n(s.min),
                n(s.quarter),
                n(s.median),
                n(s.three_quarters),
                n(s.p95),
                n(s.max)
            );
            paragraph(f, &format!("  events per {what}: "), &text)?;
        }
        let p = &self.popularity;
        let text = format!(
            "Gini {:.2}; the top 1 % / 10 % / 20 % of items have {:.0} % / {:.0} % / {:.0} % of the events; {} items have one event",
            p.gini,
            100.0 * p.top_1_percent,
            100.0 * p.top_10_percent,
            100.0 * p.top_20_percent,
            n(p.singletons)
        );
        paragraph(f, "  popularity: ", &text)?;
        if !p.curve.is_empty() {
            writeln!(f, "  curve: {}  (events by rank, most popular first)", spark(&p.curve))?;
        }
        if let Some(s) = &self.sessions {
            let text = format!(
                "{} of {:.1} events on average; {:.0} % of the users came back",
                n(s.count),
                s.mean_events,
                100.0 * s.returning_users
            );
            paragraph(f, "  sessions: ", &text)?;
        }
        if !self.catalogue.properties.is_empty() {
            let properties: Vec<String> = self
                .catalogue
                .properties
                .iter()
                .map(|(name, count)| format!("{name} {}", n(*count)))
                .collect();
            paragraph(f, "  properties: ", &properties.join(", "))?;
        }
        if !self.findings.is_empty() {
            writeln!(f, "\nWhat is odd")?;
        }
        for finding in &self.findings {
            let mark = match finding.level {
                Level::Problem => "  ✗ ",
                Level::Warning => "  ! ",
                Level::Note => "  · ",
            };
            let remedy = finding.remedy.as_ref().map_or_else(String::new, |r| format!(" {r}"));
            paragraph(f, mark, &format!("{}{remedy}", finding.text))?;
        }
        if !self.suspects.is_empty() {
            writeln!(f, "\nUsers that may be no people")?;
        }
        for suspect in self.suspects.iter().take(5) {
            paragraph(f, "  ", &format!("{}: {}", suspect.user, suspect.why))?;
        }
        if self.suspects_total > 5 {
            writeln!(f, "  … and {} more", n(self.suspects_total - 5))?;
        }
        writeln!(f, "\nWhat this data supports")?;
        for support in &self.support {
            let mark = match support.verdict {
                Verdict::Yes => "  ✓ ",
                Verdict::Partly => "  ~ ",
                Verdict::No => "  ✗ ",
            };
            paragraph(f, mark, &format!("{}: {}", support.what, support.why))?;
        }
        Ok(())
    }
}

/// Bars for counts, on a logarithmic scale: popularity curves are straight lines there.
fn spark(counts: &[usize]) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let high = counts.iter().copied().max().unwrap_or(1).max(2) as f64;
    counts.iter().map(|&c| BARS[((c.max(1) as f64).ln() / high.ln() * 7.0).round() as usize]).collect()
}

/// Wraps a text at 80 columns behind a label; further lines are indented as far as the mark, at most 8.
fn paragraph(f: &mut fmt::Formatter<'_>, label: &str, text: &str) -> fmt::Result {
    let indent = " ".repeat(label.chars().count().min(4));
    let mut line = label.to_owned();
    let mut width = label.chars().count();
    let mut empty = true;
    for word in text.split_whitespace() {
        // A word longer than a line is cut: an id may be 512 bytes.
        let word: String = word.chars().take(WIDTH - 8).collect();
        let length = word.chars().count();
        if !empty && width + 1 + length > WIDTH {
            writeln!(f, "{line}")?;
            line.clone_from(&indent);
            width = indent.len();
            empty = true;
        }
        if !empty {
            line.push(' ');
            width += 1;
        }
        line.push_str(&word);
        width += length;
        empty = false;
    }
    writeln!(f, "{line}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gini_of_equal_and_of_one() {
        assert!(popularity(&[5, 5, 5, 5]).gini.abs() < 1e-12);
        let skewed = popularity(&[1000, 1, 1, 1]);
        assert!(skewed.gini > 0.7);
        assert_eq!(skewed.singletons, 3);
        assert_eq!(popularity(&[]), Popularity::default());
    }

    #[test]
    fn minutes() {
        assert_eq!(busiest_minute(&[0, 10, 60_000, 60_001, 200_000]), 3);
        assert_eq!(busiest_minute(&[]), 0);
    }

    #[test]
    fn curve_is_drawn() {
        assert_eq!(spark(&[100, 10, 1]), "█▅▁");
        assert_eq!(spark(&[1, 1]), "▁▁");
    }
}

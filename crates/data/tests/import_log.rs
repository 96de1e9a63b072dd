//! Import into a log and export from it: nothing twice, nothing half, and what goes out comes back.
#![allow(clippy::format_collect)] // Test data reads best as one expression.

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use sommelier_core::{Event, Item, Time, User};
use sommelier_data::KindRules;
use sommelier_data::export::{ExportError, ExportFormat, export};
use sommelier_data::import::{
    ImportContext, ImportError, ImportOptions, ImportReport, detect, import_into, load,
};
use sommelier_data::log::{Log, LogOptions};
use std::collections::BTreeSet;
use std::path::Path;

fn now() -> Time {
    Time::parse("2026-01-01").unwrap()
}

fn open(dir: &Path) -> Log {
    Log::open(dir, &LogOptions::default()).unwrap()
}

fn import(log: &Log, path: &Path, options: &ImportOptions) -> Result<ImportReport, ImportError> {
    import_into(log, &detect(path, options)?, &ImportContext::quiet(now()))
}

fn events(log: &Log) -> Vec<Event> {
    let (mut all, mut at) = (Vec::new(), 0);
    loop {
        let (some, reached) = log.events_after(at, 1000).unwrap();
        if reached == at {
            return all;
        }
        all.extend(some);
        at = reached;
    }
}

fn sample_folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let rows: String = (0..5000)
        .map(|i| format!("u{},i{},{},{}\n", i % 97, i * 31 % 211, i % 5 + 1, 1_700_000_000 + i * 60))
        .collect();
    std::fs::write(dir.path().join("ratings.csv"), format!("user,item,rating,timestamp\n{rows}bad row\n"))
        .unwrap();
    std::fs::write(dir.path().join("items.csv"), "item_id,title\ni1,One\ni2,Two\ni1,Again\n").unwrap();
    std::fs::write(
        dir.path().join("more.jsonl"),
        "{\"item_id\":\"i1\",\"title\":\"no\",\"color\":\"red\"}\n",
    )
    .unwrap();
    std::fs::write(dir.path().join("users.csv"), "user_id,age\nu1,30\n").unwrap();
    dir
}

#[test]
fn the_log_holds_what_load_reads_and_a_second_import_adds_nothing() {
    let (files, dir) = (sample_folder(), tempfile::tempdir().unwrap());
    let log = open(dir.path());
    let report = import(&log, files.path(), &ImportOptions::default()).unwrap();
    assert_eq!((report.events, report.items, report.users), (5000, 2, 1));
    assert_eq!((report.skipped, report.duplicates, report.problems_total), (1, 1, 1));

    let ctx = ImportContext::quiet(now());
    let (loaded, same) = load(files.path(), &ImportOptions::default(), &KindRules::new(), &ctx).unwrap();
    assert_eq!((same.events, same.items, same.skipped, same.duplicates), (5000, 2, 1, 1));
    let logged = log.snapshot("x", &KindRules::new()).unwrap();
    let rows = |s: &sommelier_data::Snapshot| -> BTreeSet<(String, String, i64, u32)> {
        let row = |u: usize, e: usize| {
            let (user, item) = (s.users.id(u as u32), s.items.id(s.events.item[e]));
            (user.to_owned(), item.to_owned(), s.events.at[e], s.events.value[e].to_bits())
        };
        (0..s.events.users()).flat_map(|u| s.events.of(u).map(move |e| row(u, e))).collect()
    };
    assert_eq!(rows(&loaded), rows(&logged));
    assert_eq!(loaded.times, logged.times);
    let one = log.item("i1").unwrap().unwrap();
    assert_eq!((one.title(), one.properties["color"].as_str()), (Some("One"), Some("red")));

    let again = import(&log, files.path(), &ImportOptions::default()).unwrap();
    assert_eq!((again.events, again.resumed), (0, 5000));
    assert_eq!(events(&log).len(), 5000);
    // Another reading of the same file is another import.
    let other = ImportOptions { kind: Some("stars".into()), ..Default::default() };
    assert_eq!(import(&log, files.path(), &other).unwrap().events, 5000);
}

#[test]
fn strict_writes_nothing() {
    let (files, dir) = (sample_folder(), tempfile::tempdir().unwrap());
    let log = open(dir.path());
    let strict = ImportOptions { strict: true, ..Default::default() };
    assert!(matches!(import(&log, files.path(), &strict), Err(ImportError::Strict { total: 1, .. })));
    assert!(events(&log).is_empty() && log.items(None, 10).unwrap().is_empty());
    assert_eq!(log.offset(), 0);
}

#[test]
fn a_cancelled_import_goes_on_when_it_is_run_again() {
    let (files, dir) = (sample_folder(), tempfile::tempdir().unwrap());
    let log = open(dir.path());
    let ctx = ImportContext::quiet(now());
    ctx.cancel.cancel();
    let plan = detect(files.path(), &ImportOptions::default()).unwrap();
    assert!(matches!(import_into(&log, &plan, &ctx), Err(ImportError::Cancelled)));
    assert_eq!(import(&log, files.path(), &ImportOptions::default()).unwrap().events, 5000);
    assert_eq!(events(&log).len(), 5000);
}

#[test]
fn export_refuses_to_overwrite_and_leaves_no_litter() {
    let (dir, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let log = open(dir.path());
    let ctx = ImportContext::quiet(now());
    std::fs::write(to.path().join("users.jsonl"), "mine").unwrap();
    let out = export(&log, to.path(), ExportFormat::Jsonl, &ctx);
    assert!(matches!(out, Err(ExportError::Exists(_))));
    assert_eq!(std::fs::read_dir(to.path()).unwrap().count(), 1);
    assert!("xml".parse::<ExportFormat>().is_err());
}

/// Any text that is an id.
fn any_id() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z]{1,3}", "\\PC{1,8}", "[ \\t\\n\"',|:0-9]{1,5}"]
}

/// An id that every format can hold: RecBole has no escapes.
fn plain_id() -> impl Strategy<Value = String> {
    "[a-zA-Zäß漢0-9\",;|'/]{1,6}"
}

fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<bool>().prop_map(Value::from),
        (-1000i64..1000).prop_map(Value::from),
        (-4000i32..4000).prop_map(|n| json!(f64::from(n) / 4.0)),
        "\\PC{1,6}".prop_map(Value::from),
        prop::collection::vec("[a-z]{1,4}", 1..4).prop_map(Value::from),
        Just(json!({"deep": [1, {"er": null}]})),
    ]
}

fn any_map() -> impl Strategy<Value = Map<String, Value>> {
    prop::collection::btree_map("[a-z]{1,4}", any_value(), 0..4).prop_map(|m| m.into_iter().collect())
}

fn any_time() -> impl Strategy<Value = Time> {
    // Every format can hold these; times before 1970 are no times of events.
    (10_000_000_000i64..4_000_000_000_000).prop_map(|t| Time::from_millis(t).unwrap())
}

prop_compose! {
    fn full_event()(
        user in any_id(), item in any_id(), kind in "[a-z]{1,2}", at in any_time(),
        value in prop::option::of((-4000i32..4000).prop_map(|n| f64::from(n) / 4.0)),
        id in prop::option::of(any_id()), session in prop::option::of(any_id()), slate in prop::option::of(any_id()),
        position in prop::option::of(0u32..50), text in prop::option::of("\\PC{1,9}"), context in any_map(),
    ) -> Event {
        Event { id, user, item, kind, at: Some(at), value, slate, position, session, context, text }
    }
}

prop_compose! {
    fn plain_event()(
        user in plain_id(), item in plain_id(), kind in "[a-z]{1,2}", at in any_time(),
        value in prop::option::of((-4000i32..4000).prop_map(|n| f64::from(n) / 4.0)),
    ) -> Event {
        Event { at: Some(at), value, ..Event::new(user, item, kind) }
    }
}

prop_compose! {
    fn any_item()(
        id in any_id(), hidden in any::<bool>(), expires in prop::option::of(any_time()),
        at in prop::option::of(any_time()), properties in any_map(),
    ) -> Item {
        Item { id, hidden, expires, at, properties }
    }
}

prop_compose! {
    fn any_user()(id in any_id(), at in prop::option::of(any_time()), properties in any_map()) -> User {
        User { id, at, properties }
    }
}

/// Stores, exports, imports into a second log, and returns both.
fn round(format: ExportFormat, events: Vec<Event>, items: Vec<Item>, users: Vec<User>) -> [Log; 2] {
    let first = tempfile::tempdir().unwrap();
    let log = open(first.path());
    log.append(events, now()).unwrap();
    log.put_items(items).unwrap();
    log.put_users(users).unwrap();
    let to = tempfile::tempdir().unwrap();
    let folder = to.path().join("data");
    let ctx = ImportContext::quiet(now());
    export(&log, &folder, format, &ctx).unwrap();
    let second = tempfile::tempdir().unwrap();
    let back = open(second.path());
    let plan = detect(&folder, &ImportOptions::default()).unwrap();
    let report = import_into(&back, &plan, &ctx).unwrap();
    assert_eq!(report.problems_total, 0, "{plan}{report}");
    [log, back]
}

/// Sorted, for formats that promise no order.
fn sorted(mut events: Vec<Event>) -> Vec<String> {
    events.sort_by(|a, b| (&a.user, &a.item, a.at).cmp(&(&b.user, &b.item, b.at)));
    let mut lines: Vec<String> = events.iter().map(|e| serde_json::to_string(e).unwrap()).collect();
    lines.sort();
    lines
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, ..ProptestConfig::default() })]

    #[test]
    fn jsonl_and_parquet_keep_everything(
        events_in in prop::collection::vec(full_event(), 1..30),
        items in prop::collection::vec(any_item(), 0..6),
        users in prop::collection::vec(any_user(), 0..6),
        parquet in any::<bool>(),
    ) {
        let format = if parquet { ExportFormat::Parquet } else { ExportFormat::Jsonl };
        let [log, back] = round(format, events_in, items, users);
        prop_assert_eq!(sorted(events(&log)), sorted(events(&back)));
        prop_assert_eq!(log.items(None, 100).unwrap(), back.items(None, 100).unwrap());
        prop_assert_eq!(log.users(None, 100).unwrap(), back.users(None, 100).unwrap());
    }

    #[test]
    fn gorse_keeps_what_it_has_room_for(
        events_in in prop::collection::vec(full_event(), 1..30),
        items in prop::collection::vec(any_item(), 0..6),
    ) {
        let events_in: Vec<Event> = events_in
            .into_iter()
            .map(|e| Event { id: None, slate: None, position: None, session: None, context: Map::new(), ..e })
            .collect();
        let items: Vec<Item> = items.into_iter().map(|i| Item { expires: None, ..i }).collect();
        let [log, back] = round(ExportFormat::Gorse, events_in, items, Vec::new());
        prop_assert_eq!(sorted(events(&log)), sorted(events(&back)));
        prop_assert_eq!(log.items(None, 100).unwrap(), back.items(None, 100).unwrap());
    }

    #[test]
    fn recbole_keeps_what_it_has_room_for(
        events_in in prop::collection::vec(plain_event(), 1..30),
        ids in prop::collection::btree_set(plain_id(), 0..6),
        tags in prop::collection::vec("[a-z]{1,4}", 1..4),
    ) {
        let items: Vec<Item> = ids
            .into_iter()
            .map(|id| {
                let mut item = Item::new(id);
                item.properties.insert("tags".into(), tags.clone().into());
                item.properties.insert("title".into(), "A \"title\", it's".into());
                item.properties.insert("year".into(), 1999.into());
                item.properties.insert("vector".into(), json!([0.5, -1.25]));
                item
            })
            .collect();
        let [log, back] = round(ExportFormat::Recbole, events_in, items, Vec::new());
        prop_assert_eq!(sorted(events(&log)), sorted(events(&back)));
        prop_assert_eq!(log.items(None, 100).unwrap(), back.items(None, 100).unwrap());
    }
}

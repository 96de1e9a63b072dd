//! The doctor finds what is wrong with data made wrong on purpose, and its words fit a terminal.
#![allow(clippy::format_collect)] // Test data reads best as one expression.

use sommelier_core::Time;
use sommelier_data::doctor::{Diagnosis, Level, Verdict, doctor};
use sommelier_data::import::{ImportContext, ImportOptions, load};
use sommelier_data::{KindRules, Snapshot, TimeQuality};
use std::fmt::Write;
use std::path::PathBuf;

fn now() -> Time {
    Time::parse("2026-01-01").unwrap()
}

fn examine(files: &[(&str, &str)]) -> (Snapshot, Diagnosis) {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    let ctx = ImportContext::quiet(now());
    let (snapshot, _) = load(dir.path(), &ImportOptions::default(), &KindRules::new(), &ctx).unwrap();
    let diagnosis = doctor(&snapshot, Some(now()));
    (snapshot, diagnosis)
}

fn says(d: &Diagnosis, words: &str) -> bool {
    d.findings.iter().any(|f| f.text.contains(words))
}

fn verdict(d: &Diagnosis, what: &str) -> Verdict {
    d.support
        .iter()
        .find(|s| s.what.contains(what))
        .unwrap_or_else(|| panic!("no {what} in {:?}", d.support))
        .verdict
}

#[test]
fn everything_wrong_is_found() {
    let mut events = String::from("user,item,kind,timestamp\n");
    for i in 0..60 {
        let _ = writeln!(events, "bot,i{},view,{}", i % 3, 1_700_000_000 + i / 3);
    }
    for i in 0..60 {
        let _ = writeln!(events, "fan,i1,view,{}", 1_700_000_000 + i * 86_400);
    }
    events.push_str(
        "a,i1,view,1700000000\na,i1,view,1700000000\nb,ghost,buy,1800000000\nc,i2,view,300000000\n",
    );
    let items = "item_id,title,genres\ni1,One,a|b\ni2,Two,a\ni9,Nobody saw me,b\n";
    let (s, d) = examine(&[("events.csv", &events), ("items.csv", items)]);
    assert_eq!(s.times, TimeQuality::Clock);
    assert_eq!(d.duplicates.exact, 1);
    assert_eq!((d.catalogue.unknown_items, d.catalogue.items_without_events), (2, 1));
    assert_eq!((d.times.future, d.times.ancient), (1, 1));
    assert_eq!(d.suspects_total, 2);
    assert!(d.suspects.iter().any(|s| s.user == "bot" && s.why.contains("within one minute")));
    assert!(d.suspects.iter().any(|s| s.user == "fan" && s.why.contains("on one item")));
    for words in
        ["repeat another", "no item record", "have no events", "in the future", "older than 1990", "faster"]
    {
        assert!(says(&d, words), "{words} in {:#?}", d.findings);
    }
    assert_eq!(d.findings[0].level, Level::Problem, "the worst come first");
    assert_eq!(d.kinds["view"], 123);
    assert_eq!(verdict(&d, "several behaviours"), Verdict::Yes);
    assert_eq!(verdict(&d, "popularity"), Verdict::Yes);
}

#[test]
fn clean_data_has_no_problems() {
    let mut events = String::from("user,item,timestamp\n");
    for u in 0..400u64 {
        for e in 0..30u64 {
            let _ =
                writeln!(events, "u{u},i{},{}", (u * 7 + e * 13) % 90, 1_600_000_000 + e * 200_000 + u * 977);
        }
    }
    let items: String = (0..90).map(|i| format!("i{i},Title {i},A text about {i},red|blue\n")).collect();
    let items = format!("item_id,title,description,tags\n{items}");
    let (_, d) = examine(&[("events.csv", &events), ("items.csv", &items)]);
    assert!(d.findings.iter().all(|f| f.level == Level::Note), "{:#?}", d.findings);
    for what in ["ItemKNN", "EASE", "iALS", "sequence", "trends", "search", "filters"] {
        assert_eq!(verdict(&d, what), Verdict::Yes, "{what}");
    }
}

#[test]
fn order_only_all_equal_and_nothing() {
    let (_, d) = examine(&[("sequences.txt", "1 10 20 30\n2 10 30\n")]);
    assert!(says(&d, "Only the order"));
    assert_eq!(verdict(&d, "trends"), Verdict::No);
    let (_, d) = examine(&[("events.csv", "user,item,time\na,b,1700000000\nc,d,1700000000\n")]);
    assert!(says(&d, "the same time"));
    assert_eq!(verdict(&d, "sequence"), Verdict::No);
    let (_, d) = examine(&[("items.csv", "item_id,title\na,b\n")]);
    assert!(says(&d, "no events"));
    let (_, d) = examine(&[("x.csv", "user,item\na,b\n")]);
    assert!(says(&d, "no times"));
}

#[test]
fn words_fit_eighty_columns_and_json_round_trips() {
    let long = "x".repeat(500);
    let mut events = format!("user,item,kind,timestamp\n{long},{long},{long},1800000000\n");
    for i in 0..100 {
        let _ = writeln!(events, "{long},{long},view,{}", 1_700_000_000 + i % 2);
    }
    let (_, d) = examine(&[("events.csv", &events)]);
    let text = d.to_string();
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "{} columns: {line}", line.chars().count());
    }
    let json = serde_json::to_string(&d).unwrap();
    assert_eq!(serde_json::from_str::<Diagnosis>(&json).unwrap().findings, d.findings);
}

#[test]
fn movielens_as_its_papers_count_it() {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data/ml-100k"));
    if !path.exists() {
        eprintln!("skipped: {} is not there", path.display());
        return;
    }
    let ctx = ImportContext::quiet(now());
    let (s, _) = load(&path, &ImportOptions::default(), &KindRules::new(), &ctx).unwrap();
    let d = doctor(&s, Some(now()));
    println!("{d}");
    assert_eq!((d.users, d.items, d.events), (943, 1682, 100_000));
    assert!((d.density - 0.063_046_7).abs() < 1e-6);
    assert_eq!((d.events_per_user.min, d.events_per_user.max), (20, 737));
    assert_eq!(d.duplicates.repeats, 0);
    assert_eq!(verdict(&d, "EASE"), Verdict::Yes);
    assert!(says(&d, "Events have values from 1 to 5"));
}

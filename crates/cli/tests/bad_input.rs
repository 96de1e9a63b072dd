//! Bad input at the command line: each gives an error in words, none panics, nothing that was there is lost.

mod common;

use common::{Bench, SmallDisk, two_tastes};
use serde_json::Value;
use std::fmt::Write;

fn events_in(bench: &Bench) -> Value {
    bench.json(&["recommend", "--user", "u1", "-k", "3"])["items"].clone()
}

#[test]
fn files_that_cannot_be_read() {
    let bench = Bench::new();
    bench.write("good.csv", two_tastes(10, 12));
    bench.json(&["import", "good.csv"]);
    bench.json(&["train", "item_knn", "--publish"]);
    let before = events_in(&bench);
    let binary: Vec<u8> = (0..4000u32).map(|i| (i * 37 % 251) as u8).collect();
    for (name, content, word) in [
        ("empty.csv", Vec::new(), "empty"),
        ("binary.csv", binary, "text"),
        ("strange.csv", b"foo,bar\n1,2\n3,4\n".to_vec(), "--map"),
    ] {
        bench.write(name, content);
        let words = bench.fails(&["import", name]);
        assert!(words.to_lowercase().contains(word), "{name}: {words}");
        assert!(words.contains(name), "{name} is named: {words}");
    }
    let words = bench.fails(&["import", "not-there.csv"]);
    assert!(words.contains("not-there.csv"), "{words}");
    assert_eq!(events_in(&bench), before);
}

#[test]
fn lines_that_cannot_be_used_are_listed_and_the_rest_comes_in() {
    let bench = Bench::new();
    let mut csv = b"user_id,item_id,rating,timestamp\n".to_vec();
    csv.extend_from_slice(
        b"u1,i1,4,1700000000\nu1,i2,NaN,1700000001\nu1,i3,inf,1700000002\nu2,\xff\xfe,3,1700000003\n",
    );
    csv.extend_from_slice(
        b"u2,i1,5,2023-11-14T22:13:20Z\nu2,i2,5,1700000000000\nu2,i3,5,yesterday\nu3,i1,2,1700000004\n",
    );
    csv.extend_from_slice(b"u3,");
    csv.extend(std::iter::repeat_n(b'x', 10 << 20));
    csv.extend_from_slice(b",3,1700000005\nu3,i2,3,1700000006\n");
    bench.write("dirty.csv", &csv);
    let report = bench.json(&["import", "dirty.csv"]);
    let report = &report["imports"][0];
    assert!(report["events"].as_u64().unwrap() >= 3, "{report}");
    assert!(report["problems_total"].as_u64().unwrap() >= 5, "{report}");
    for problem in report["problems"].as_array().unwrap() {
        assert!(
            problem["line"].as_u64().unwrap() > 1 && !problem["reason"].as_str().unwrap().is_empty(),
            "{problem}"
        );
    }
    let words = bench.fails(&["import", "dirty.csv", "--strict", "--space", "strict"]);
    assert!(words.contains("line"), "{words}");
}

#[test]
fn arguments_that_mean_nothing() {
    let bench = Bench::new();
    bench.write("good.csv", two_tastes(10, 12));
    bench.json(&["import", "good.csv"]);
    bench.json(&["train", "item_knn", "--publish"]);
    for (args, word) in [
        (vec!["train", "eaze"], "ease"),
        (vec!["train", "ease", "--set", "lambda=3"], "l2"),
        (vec!["train", "ease", "--set", "l2=-3"], "l2"),
        (vec!["evaluate", "ease", "--split", "weekly"], "loo"),
        (vec!["evaluate", "ease", "--split", "ratio:0.5"], "ratio"),
        (vec!["evaluate", "ease", "--metrics", "accuracy"], "recall"),
        (vec!["recommend", "--user", "u1", "--space", "nowhere"], "nowhere"),
        (vec!["recommend", "--user", "u1", "--filter", "item.year <"], "filter"),
        (vec!["recommend", "--user", "u1", "-k", "0"], "count"),
        (vec!["recommend", "--user", "u1", "-k", "1000000000"], "count"),
        (vec!["artefacts", "--publish", "nothing"], "nothing"),
        (vec!["serve"], "key"),
        (vec!["serve", "--open", "--listen", "0.0.0.0:0"], "127.0.0.1"),
        (vec!["export", "--to", "good.csv"], "good.csv"),
        (vec!["restore", "good.csv", "--space", "other"], "backup"),
        (vec!["train", "ease", "--memory", "1KB"], "memory"),
    ] {
        let words = bench.fails(&args);
        assert!(words.to_lowercase().contains(word), "{args:?} should mention {word:?}:\n{words}");
    }
    bench.write("sommelier.toml", "dri = 'x'\n");
    let words = bench.fails(&["recommend", "--user", "u1"]);
    assert!(words.contains("dri") && words.contains("dir"), "{words}");
}

#[test]
fn a_truncated_store_is_reported_not_skipped() {
    let bench = Bench::new();
    bench.write("good.csv", two_tastes(30, 40));
    bench.json(&["import", "good.csv"]);
    bench.json(&["backup", "good.backup"]);
    let mut hurt = 0;
    let mut folders = vec![bench.path("sommelier-data")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "seg") {
                let bytes = std::fs::read(&path).unwrap();
                std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
                hurt += 1;
            }
        }
    }
    assert!(hurt > 0, "the import made a segment");
    let words = bench.fails(&["doctor"]);
    assert!(words.contains("restore"), "says how to recover: {words}");
    bench.json(&["restore", "good.backup", "--space", "mended"]);
    bench.json(&["doctor", "--space", "mended"]);
}

#[test]
fn a_disk_that_fills_up_during_an_import_loses_nothing() {
    let bench = Bench::new();
    let Some(disk) = SmallDisk::new(24) else {
        eprintln!("skipped: mounting a small tmpfs needs root");
        return;
    };
    bench.write("few.csv", two_tastes(10, 12));
    let mut many = String::from("user_id,item_id,timestamp\n");
    for n in 0..1_500_000 {
        writeln!(many, "user-{n},item-{},{}", n % 9_973, 1_700_000_000 + n).unwrap();
    }
    bench.write("many.csv", many);
    bench.write("sommelier.toml", format!("dir = {:?}\n", disk.path().join("data")));
    bench.json(&["import", "few.csv"]);
    let before = bench.json(&["doctor"])["events"].clone();
    let words = bench.fails(&["import", "many.csv"]);
    assert!(words.contains("no space is left"), "{words}");
    assert_eq!(bench.json(&["doctor"])["events"], before, "what was there is there, and nothing half");
    bench.json(&["restore", "--check"]);
}

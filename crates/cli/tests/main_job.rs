//! The main job through the binary alone: import, train, evaluate, serve, feedback, and all of it after `kill -9`.

mod common;

use common::{Bench, two_tastes};
use serde_json::json;
use std::fmt::Write;

#[test]
fn from_a_csv_to_answers_that_follow_events_and_survive_a_kill() {
    let bench = Bench::new();
    bench.write("events.csv", two_tastes(40, 20));
    bench.write("items.csv", "item_id,title,year\ni1,First,1901\ni3,Third,1903\n");

    let imported = bench.json(&["import", "events.csv", "items.csv"]);
    assert_eq!(imported["imports"][0]["events"], 40 * 8);
    assert_eq!(imported["imports"][1]["items"], 2);

    let doctor = bench.run(&["doctor"]);
    assert!(doctor.status.success() && !doctor.stdout.is_empty());

    let measured = bench.json(&["evaluate", "ease", "item_knn", "popularity", "--at", "10"]);
    let runs = measured["runs"].as_array().unwrap();
    let recall = |name: &str| {
        runs.iter().find(|r| r["recipe"] == name).unwrap()["metrics"]["recall@10"].as_f64().unwrap()
    };
    assert!(recall("ease") > recall("popularity"), "a personal model must beat popularity here: {runs:?}");

    let trained = bench.json(&["train", "ease", "--publish"]);
    let artefact = trained["artefacts"][0]["name"].as_str().unwrap().to_owned();

    let listed = String::from_utf8(bench.run(&["artefacts"]).stdout).unwrap();
    assert!(listed.contains(&artefact) && listed.lines().all(|line| line.chars().count() <= 80), "{listed}");

    // u0 likes even items and has left two out: they come first.
    let slate = bench.json(&["recommend", "--user", "u0", "-k", "2"]);
    assert_eq!(slate["artefact"], artefact.as_str());
    for item in slate["items"].as_array().unwrap() {
        let number: usize = item["item"].as_str().unwrap()[1..].parse().unwrap();
        assert_eq!(number % 2, 0, "{slate}");
    }

    let server = bench.serve(&["serve", "--open", "--listen", "127.0.0.1:0"]);
    let ask = json!({"user": "stranger", "count": 3});
    let (status, before) = server.post("/v1/recommend", &ask);
    assert_eq!(status, 200, "{before}");
    assert!(before["fallback"].is_string(), "a stranger gets a named fallback: {before}");
    let events = json!([
        {"id": "e1", "user": "stranger", "item": "i1", "kind": "view"},
        {"id": "e2", "user": "stranger", "item": "i3", "kind": "view"},
    ]);
    assert_eq!(server.post("/v1/events", &events).0, 200);
    let (_, after) = server.post("/v1/recommend", &ask);
    assert!(after["fallback"].is_null(), "{after}");
    for item in after["items"].as_array().unwrap() {
        let id = item["item"].as_str().unwrap();
        assert!(id != "i1" && id != "i3", "seen items stay away: {after}");
        assert_eq!(id[1..].parse::<usize>().unwrap() % 2, 1, "the odd taste: {after}");
    }
    server.kill();

    let server = bench.serve(&["serve", "--open", "--listen", "127.0.0.1:0"]);
    let (_, again) = server.post("/v1/recommend", &ask);
    assert_eq!(again["items"], after["items"], "the same answer after kill -9");
    let (_, known) = server.get("/v1/users/stranger/events?limit=10");
    assert_eq!(known["events"].as_array().unwrap().len(), 2);
    let (_, repeated) = server.post("/v1/events", &events);
    assert_eq!(repeated["duplicates"], 2, "idempotent by event id: {repeated}");
}

#[test]
fn backup_restore_and_forget() {
    let bench = Bench::new();
    bench.write("events.csv", two_tastes(10, 12));
    bench.json(&["import", "events.csv"]);
    bench.json(&["backup", "all.sommelier"]);
    let receipt = bench.json(&["forget", "--user", "u3", "--receipt", "u3.json"]);
    assert!(receipt["removed"]["events"].as_u64().unwrap() > 0, "{receipt}");
    assert!(bench.path("u3.json").exists());
    bench.json(&["export", "--to", "out", "--format", "jsonl"]);
    let exported = std::fs::read_dir(bench.path("out"))
        .unwrap()
        .fold(String::new(), |all, f| all + &std::fs::read_to_string(f.unwrap().path()).unwrap());
    assert!(exported.contains("\"u4\"") && !exported.contains("\"u3\""), "u3 is gone, u4 is not");
    bench.json(&["restore", "all.sommelier", "--space", "again"]);
    let restored = bench.json(&["doctor", "--space", "again"]);
    assert!(restored.to_string().len() > 100);
    assert!(bench.fails(&["restore", "all.sommelier", "--space", "again"]).contains("empty"));
    bench.json(&["restore", "--check"]);
}

#[test]
fn a_second_process_on_the_store_is_told_so() {
    let bench = Bench::new();
    bench.write("events.csv", two_tastes(10, 12));
    bench.json(&["import", "events.csv"]);
    let server = bench.serve(&["serve", "--open", "--listen", "127.0.0.1:0"]);
    let words = bench.fails(&["import", "events.csv"]);
    assert!(words.contains("another process") || words.contains("in use"), "{words}");
    drop(server);
    bench.json(&["import", "events.csv"]);
}

#[test]
fn an_import_that_is_killed_again_and_again_ends_complete_and_without_repeats() {
    let bench = Bench::new();
    let mut csv = String::from("user_id,item_id,timestamp\n");
    for n in 0..300_000 {
        writeln!(csv, "u{},i{},{}", n % 4_001, n * 7 % 1_013, 1_700_000_000 + n).unwrap();
    }
    bench.write("events.csv", csv);
    let (mut kills, mut wait) = (0, 30);
    loop {
        let mut child = bench.command(&["import", "events.csv", "--quiet"]).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(wait));
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "the import after {kills} kills failed");
            break;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
        wait += 40;
    }
    assert!(kills >= 3, "the import was over before it could be killed");
    let found = bench.json(&["doctor"]);
    assert_eq!(found["events"], 300_000, "after {kills} kills");
    assert_eq!(found["duplicates"]["exact"], 0);
}

//! Models that learn in rounds, through the binary: interrupted, killed, gone on with, served.

mod common;

use common::{Bench, two_tastes};
use serde_json::{Value, json};
use std::process::Command;
use std::time::Duration;

/// Long enough to be interrupted, short enough to wait for.
const SASREC: &[&str] = &[
    "train",
    "sasrec",
    "--set",
    "dim=32",
    "--set",
    "model.training.epochs=400",
    "--set",
    "model.sequence.batch=16",
    "--threads",
    "2",
];

fn digest(document: &Value) -> &str {
    document["artefacts"][0]["digest"].as_str().unwrap()
}

#[test]
fn an_interrupted_training_goes_on_and_ends_with_the_same_digest() {
    let bench = Bench::new();
    bench.write("events.csv", two_tastes(60, 20));
    bench.json(&["import", "events.csv"]);
    let unbroken = bench.json(SASREC);
    let unfinished = bench.path("sommelier-data/spaces/default/training/sasrec/checkpoint.safetensors");
    assert!(!unfinished.exists(), "a finished training leaves no checkpoint");

    let resumed: Vec<&str> = SASREC.iter().copied().chain(["--resume"]).collect();
    let mut interrupted = 0;
    for wait in [150, 300, 500] {
        let mut child = bench.command(&resumed).arg("--quiet").spawn().unwrap();
        std::thread::sleep(Duration::from_millis(wait));
        let signal = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
        let ended = child.wait().unwrap();
        if signal.success() && !ended.success() {
            interrupted += 1;
        }
    }
    assert!(interrupted > 0, "it was over before it could be interrupted");
    // Killed outright, it goes on from what the last interruption left.
    let mut child = bench.command(&resumed).arg("--quiet").spawn().unwrap();
    std::thread::sleep(Duration::from_millis(200));
    child.kill().unwrap();
    child.wait().unwrap();
    let whole = bench.json(&resumed);
    assert_eq!(digest(&whole), digest(&unbroken), "after {interrupted} interruptions");

    let artefact = bench
        .path("sommelier-data/spaces/default/artefacts")
        .join(whole["artefacts"][0]["name"].as_str().unwrap());
    let log = std::fs::read_to_string(artefact.join("training.jsonl")).unwrap();
    assert_eq!(log.lines().count(), 400, "one line for each round");
    assert!(std::fs::read_to_string(artefact.join("training.svg")).unwrap().starts_with("<svg"));
}

#[test]
fn a_history_in_the_request_is_answered_and_nonsense_is_refused_in_words() {
    let bench = Bench::new();
    bench.write("events.csv", two_tastes(60, 20));
    bench.json(&["import", "events.csv"]);
    bench.json(&["train", "sasrec", "--set", "dim=16", "--set", "model.sequence.batch=16", "--publish"]);
    let server = bench.serve(&["serve", "--open", "--listen", "127.0.0.1:0"]);
    let ask = json!({"history": ["i1", "i3", "i5"], "count": 4});
    let (status, slate) = server.post("/v1/recommend", &ask);
    assert_eq!(status, 200, "{slate}");
    let items: Vec<&str> =
        slate["items"].as_array().unwrap().iter().map(|i| i["item"].as_str().unwrap()).collect();
    assert_eq!(items.len(), 4, "{slate}");
    assert!(items.iter().all(|i| i[1..].parse::<usize>().unwrap() % 2 == 1), "the odd taste: {slate}");
    server.kill();

    for (change, words) in [
        ("heads=7", "heads must be a divisor of dim"),
        ("dropout=1", "dropout must be"),
        ("model.sequence.length=0", "sequence.length must be 1 to 65536"),
        ("model.training.epochs=0", "training.epochs must be at least 1"),
        ("model.sequence.losss=1", "did you mean `loss`"),
    ] {
        let said = bench.fails(&["train", "sasrec", "--set", change]);
        assert!(said.contains(words), "{change}: {said}");
    }
    let said =
        bench.fails(&["train", "sasrec", "--set", "dim=16", "--set", "model.training.learning_rate=1e30"]);
    assert!(said.contains("at step") && said.contains("lower learning_rate"), "{said}");
    bench.write("one.csv", "user,item\na,x\n");
    let said = bench.fails(&["train", "sasrec", "--data", "one.csv"]);
    assert!(said.contains("two positive events"), "{said}");
}

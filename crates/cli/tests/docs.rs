//! The guide is true: every `sommelier` line in its `sh` blocks runs, in order, in one folder.

mod common;

use common::Bench;
use std::path::Path;

#[test]
fn every_command_of_the_guide_runs() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    let guide = std::fs::read_to_string(docs.join("guide.md")).unwrap();
    let bench = Bench::new();
    for file in ["events.csv", "items.csv"] {
        bench.write(file, std::fs::read(docs.join("sample").join(file)).unwrap());
    }
    let mut ran = 0;
    for block in guide.split("```sh\n").skip(1) {
        for line in block.split("```").next().unwrap().lines().filter(|l| !l.trim().is_empty()) {
            let words = split_words(line);
            assert_eq!(words[0], "sommelier", "the guide shows only our own commands: {line}");
            let args: Vec<&str> = words[1..].iter().map(String::as_str).collect();
            let out = bench.run(&args);
            assert!(out.status.success(), "`{line}` failed:\n{}", String::from_utf8_lossy(&out.stderr));
            ran += 1;
        }
    }
    assert!(ran >= 15, "only {ran} commands were found");
}

/// Words as a shell splits them, with single and double quotes.
fn split_words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    for c in line.chars() {
        match quote {
            Some(q) if c == q => quote = None,
            None if c == '\'' || c == '"' => quote = Some(c),
            None if c == ' ' => words.push(std::mem::take(&mut word)),
            _ => word.push(c),
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

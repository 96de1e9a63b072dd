//! Mutated filters, recipes, page tokens and queries: whatever they hold, an answer or an error in words, never a
//! panic. Seeded, so that a failure comes again; `FUZZ_ROUNDS` makes it run longer.

use serde_json::json;
use sommelier_core::{Clock, Event, Item, ManualClock, Query, Rng, Time};
use sommelier_engine::{EngineConfig, Filter, Recipe, Space};
use std::sync::Arc;

const WORDS: [&str; 26] = [
    "(", ")", "[", "]", "\"", "'", "\\", "item.", "year", "id", " and ", " or ", "not ", " in ", "<", ">=",
    "!=", "=", "1e999", "-", "NaN", "null", "\u{0}", "é", "🍷", ",",
];

fn mutate(seed: &str, rng: &mut Rng) -> String {
    let mut text: Vec<char> = seed.chars().collect();
    for _ in 0..=rng.below(5) {
        let at = rng.below(text.len() + 1);
        match rng.below(5) {
            0 => {
                let end = (at + rng.below(8)).min(text.len());
                text.drain(at..end);
            }
            1 => {
                let from = rng.below(text.len() + 1);
                let copy = text[from..(from + rng.below(40)).min(text.len())].to_vec();
                text.splice(at..at, copy);
            }
            2 if rng.below(50) == 0 => {
                let word = WORDS[rng.below(WORDS.len())].repeat(5_000);
                text.splice(at..at, word.chars());
            }
            _ => {
                text.splice(at..at, WORDS[rng.below(WORDS.len())].chars());
            }
        }
    }
    text.into_iter().collect()
}

fn rounds(usual: usize) -> usize {
    std::env::var("FUZZ_ROUNDS").ok().and_then(|r| r.parse().ok()).unwrap_or(usual)
}

#[test]
fn filters() {
    let seeds = [
        "item.year < 1950 and \"Novel\" in item.genres",
        "not (item.id = \"a\" or item.price >= 2.5) and item.shop.city != null",
        "item.title in [\"x\", \"y\"] or item.sold = true",
    ];
    let item: Item =
        serde_json::from_value(json!({"id": "a", "properties": {"year": 1900, "genres": ["Novel"]}}))
            .unwrap();
    let mut rng = Rng::new(1);
    let mut read = 0;
    for round in 0..rounds(20_000) {
        match Filter::parse(&mutate(seeds[round % seeds.len()], &mut rng)) {
            Ok(filter) => {
                read += 1;
                let text = filter.text().to_owned();
                let again = Filter::parse(&text).unwrap_or_else(|e| panic!("{text} does not read back: {e}"));
                assert_eq!(filter.matches("a", Some(&item)), again.matches("a", Some(&item)), "{text}");
                filter.matches("b", None);
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
    assert!(
        read > 100,
        "only {read} of the mutated filters could be read: the mutations are too wild to test much"
    );
}

#[test]
fn recipes() {
    let mut rng = Rng::new(2);
    let mut read = 0;
    for seed in Recipe::all().unwrap() {
        let seed = seed.to_toml();
        for _ in 0..rounds(300) {
            match Recipe::parse("mutated", &mutate(&seed, &mut rng)) {
                Ok(recipe) => {
                    read += 1;
                    assert_eq!(Recipe::parse("again", &recipe.to_toml()).unwrap(), recipe);
                }
                Err(error) => assert!(!error.to_string().is_empty()),
            }
        }
    }
    assert!(read > 100, "only {read} of the mutated recipes could be read");
}

#[test]
fn queries_and_page_tokens() {
    let dir = tempfile::tempdir().unwrap();
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(Time::parse("2026-01-31T10:00:00Z").unwrap()));
    let space = Space::open(dir.path(), "s", EngineConfig::default(), clock).unwrap();
    let books: Vec<Item> = (0..40)
        .map(|i| serde_json::from_value(json!({"id": format!("i{i}"), "properties": {"title": format!("Book {i}"), "year": 1900 + i}})).unwrap())
        .collect();
    space.put_items(books).unwrap();
    space
        .append(
            (0..200)
                .map(|n| Event::new(format!("u{}", n % 20), format!("i{}", n * 7 % 40), "view"))
                .collect(),
        )
        .unwrap();
    let token = space
        .answer(&Query { user: Some("u1".into()), ..Query::default() })
        .unwrap()
        .next
        .expect("more items");
    let seeds = [
        r#"{"user": "u1", "count": 5, "filter": "item.year < 1930", "exclude": ["i3"]}"#.to_owned(),
        r#"{"history": ["i1", {"item": "i2", "kind": "view", "at": 1, "value": 2.5}], "wish": "book 7"}"#
            .to_owned(),
        r#"{"like": ["i1"], "unlike": ["i2"], "candidates": ["i3", "i4"], "context": {"variety": 1}}"#
            .to_owned(),
        json!({"user": "u1", "page": token}).to_string(),
    ];
    let mut rng = Rng::new(3);
    let mut answered = 0;
    for round in 0..rounds(10_000) {
        let text = mutate(&seeds[round % seeds.len()], &mut rng);
        let Ok(query) = serde_json::from_str::<Query>(&text) else { continue };
        match space.answer(&query) {
            Ok(slate) => {
                answered += 1;
                assert!(slate.items.len() <= query.count.unwrap_or(10) as usize, "{text}");
                assert!(slate.items.iter().all(|i| i.score.is_finite()), "{text}");
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
    for _ in 0..rounds(2_000) {
        let page = Some(mutate(&token, &mut rng));
        match space.answer(&Query { user: Some("u1".into()), page, ..Query::default() }) {
            Ok(slate) => assert!(slate.items.len() <= 10),
            Err(error) => assert!(error.to_string().contains("page"), "{error}"),
        }
    }
    assert!(answered > 100, "only {answered} of the mutated queries were answered");
}

//! Wishes: what people ask for in words, as vectors that a model is steered by.
//!
//! A recipe's `[wish]` fits an encoder on everything that is said of items and makes sentences by rule to learn from: a few facts of an
//! item (texts and lists that several items share, its decade), a few of its other words, and now and then something that it is
//! not. A wish is told apart into what is wanted and what is not (`no`, `not`, `without`, …), v = enc(wanted) − enc(unwanted) at
//! length 1, the same in training and in an answer.
//!
//! Source: Paischer et al., "Preference Discerning with LLM-Enhanced Generative Retrieval" (Mender), 2024, arXiv:2412.08604: a
//! generator steered by preferences in words. Departures: sentences are made by rule of attributes, where the paper has a
//! language model read reviews; one vector for a sentence, where it attends to each word.

use crate::error::EngineError;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sommelier_core::{FitContext, Item, Rng};
use sommelier_data::snapshot::ItemWishes;
use sommelier_encode::{EncodeError, Encoder, EncoderConfig, TextConfig};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

/// How wishes reach the model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Wish {
    /// What makes vectors of words.
    pub by: EncoderConfig,
    /// Which properties of items are read; all where none is named.
    pub properties: Vec<String>,
    /// Sentences that are made of each item to learn from.
    pub sentences: usize,
    /// Share of the items told in training whose wish is heard; the others are told as if nothing was said.
    pub heard: f32,
}

impl Default for Wish {
    fn default() -> Wish {
        Wish {
            by: EncoderConfig::Text(TextConfig { dim: 256, ..TextConfig::default() }),
            properties: Vec::new(),
            sentences: 8,
            heard: 0.5,
        }
    }
}

/// Words of this length are facts only in lists and short texts.
const FACT: usize = 40;
/// Facts, other words, and what is unwanted in one sentence, at most.
const FACTS: usize = 3;
const WORDS: usize = 3;
/// How often a sentence says what is not wanted.
const UNWANTED: f64 = 0.3;
/// What the words of a wish that are not wanted begin with; they end where its next part begins.
const NOT: [&str; 5] = ["no", "not", "without", "except", "never"];

/// Fits the encoder, and makes the sentences that a model learns to follow.
pub(crate) fn learn(
    how: &Wish,
    items: &[Option<Item>],
    ctx: &FitContext,
) -> Result<(Box<dyn Encoder>, ItemWishes), EngineError> {
    if how.sentences == 0 || !(how.heard > 0.0 && how.heard <= 1.0) {
        let received = format!("{} and {}", how.sentences, how.heard);
        return Err(EngineError::Invalid(format!(
            "wish.sentences must be at least 1 and wish.heard above 0 and at most 1, received {received}"
        )));
    }
    if matches!(how.by, EncoderConfig::Remote(_)) {
        let reason = "wish.by cannot be remote: each sentence would be a paid request of its own, and each wish would wait for one; \
                      use text or pretrained";
        return Err(EngineError::Invalid(reason.into()));
    }
    let items = &read(how, items)[..];
    let told: Vec<Option<Item>> = items.iter().map(|item| item.as_ref().map(all_of)).collect();
    let (encoder, _) = how.by.fit(&told, &BTreeMap::new(), ctx).map_err(EngineError::from)?;
    let words = Words::of(items);
    let (dim, each) = (encoder.dim(), how.sentences);
    let mut wishes = ItemWishes {
        dim,
        each,
        heard: how.heard,
        rows: vec![0.0; items.len() * each * dim],
        known: Vec::new(),
    };
    ctx.progress.start("wishes", Some(items.len() as u64));
    for i in 0..items.len() {
        ctx.cancel.check().map_err(EncodeError::Stopped)?;
        ctx.progress.at(i as u64);
        let mut rng = Rng::stream(ctx.seed ^ 0x3715, i as u64);
        // A sentence may have no word that the encoder knows: others stand in for it.
        let nothing = words.facts[i].is_empty() && words.others[i].is_empty();
        let draws = if nothing { 0 } else { 2 * each };
        let drawn = (0..draws).filter_map(|_| hear(&*encoder, &words.sentence(i as u32, &mut rng)));
        let heard: Vec<Vec<f32>> = drawn.take(each).collect();
        let rows = wishes.rows[i * each * dim..(i + 1) * each * dim].chunks_exact_mut(dim);
        rows.zip(heard.iter().cycle()).for_each(|(row, vector)| row.copy_from_slice(vector));
        wishes.known.push(!heard.is_empty());
    }
    ctx.progress.finish();
    if !wishes.known.contains(&true) {
        let reason = "wish: no item has texts or lists of texts, so there are no words to learn";
        return Err(EngineError::Invalid(reason.into()));
    }
    Ok((encoder, wishes))
}

/// Items with the properties that are read.
fn read<'a>(how: &Wish, items: &'a [Option<Item>]) -> Cow<'a, [Option<Item>]> {
    if how.properties.is_empty() {
        return Cow::Borrowed(items);
    }
    let mut items = items.to_vec();
    for item in items.iter_mut().flatten() {
        item.properties.retain(|name, _| how.properties.contains(name));
    }
    Cow::Owned(items)
}

/// The vector of a wish; `None` where no word of it is known.
pub(crate) fn hear(encoder: &dyn Encoder, wish: &str) -> Option<Vec<f32>> {
    let (wanted, unwanted) = apart(wish);
    let wanted = encoder.encode_text(&wanted);
    let unwanted = if unwanted.is_empty() { None } else { encoder.encode_text(&unwanted) };
    let mut vector = match (wanted, unwanted) {
        (None, None) => return None,
        (Some(wanted), None) => wanted,
        (None, Some(unwanted)) => unwanted.iter().map(|v| -v).collect(),
        (Some(wanted), Some(unwanted)) => {
            let (a, b) = (length(&wanted), length(&unwanted));
            wanted.iter().zip(&unwanted).map(|(w, u)| w / a - u / b).collect()
        }
    };
    let length = length(&vector);
    vector.iter_mut().for_each(|v| *v /= length);
    vector.iter().all(|v| v.is_finite()).then_some(vector)
}

/// What is said now and what is always preferred, which counts half as much where both are heard.
pub(crate) fn hear_both(encoder: &dyn Encoder, now: &str, always: &str) -> Option<Vec<f32>> {
    match (hear(encoder, now), hear(encoder, always)) {
        (Some(now), Some(always)) => {
            let mut vector: Vec<f32> = now.iter().zip(&always).map(|(n, a)| n + 0.5 * a).collect();
            let length = length(&vector);
            vector.iter_mut().for_each(|v| *v /= length);
            Some(vector)
        }
        (now, always) => now.or(always),
    }
}

fn length(vector: &[f32]) -> f32 {
    vector.iter().map(|v| v * v).sum::<f32>().sqrt().max(f32::MIN_POSITIVE)
}

/// What a wish wants and what it does not: `no horror, short and funny` wants short and funny, and not horror.
fn apart(wish: &str) -> (String, String) {
    let (mut wanted, mut unwanted) = (Vec::new(), Vec::new());
    for part in wish.split([',', '.', ';', '!', '?', '\n']) {
        for part in part.split(" but ") {
            let mut into = &mut wanted;
            for word in part.split_whitespace() {
                if NOT.iter().any(|not| word.eq_ignore_ascii_case(not)) {
                    into = &mut unwanted;
                } else {
                    into.push(word);
                }
            }
        }
    }
    (wanted.join(" "), unwanted.join(" "))
}

/// What sentences about items are made of.
pub(crate) struct Words {
    /// Of each item, what it has in common with some other, sorted.
    pub facts: Vec<Vec<String>>,
    /// The words of its title and longer texts.
    others: Vec<Vec<String>>,
    /// The facts of all items, as often as they have them.
    all: Vec<String>,
}

impl Words {
    pub fn of(items: &[Option<Item>]) -> Words {
        let facts = shared_facts(items);
        let others = items.iter().map(|item| item.as_ref().map(words_of).unwrap_or_default()).collect();
        let all = facts.iter().flatten().cloned().collect();
        Words { facts, others, all }
    }

    /// What somebody could say who wants the item.
    pub fn sentence(&self, item: u32, rng: &mut Rng) -> String {
        sentence(&self.facts[item as usize], &self.others[item as usize], &self.all, rng)
    }
}

/// Everything that is said of an item, as one text.
fn all_of(item: &Item) -> Item {
    let mut all: Vec<String> = facts_of(item);
    all.extend(texts(item).filter(|text| !is_address(text)).map(str::to_owned));
    let properties = Map::from_iter([("text".to_owned(), Value::from(all.join(" . ")))]);
    Item { properties, ..Item::new(&item.id) }
}

/// Facts that an item has in common with another.
fn shared_facts(items: &[Option<Item>]) -> Vec<Vec<String>> {
    let facts: Vec<Vec<String>> =
        items.iter().map(|i| i.as_ref().map(facts_of).unwrap_or_default()).collect();
    let mut counts: HashMap<&String, usize> = HashMap::new();
    facts.iter().flatten().for_each(|fact| *counts.entry(fact).or_default() += 1);
    let shared = |own: &Vec<String>| own.iter().filter(|fact| counts[fact] > 1).cloned().collect();
    facts.iter().map(shared).collect()
}

/// Short texts and the entries of lists, and the decade, each once; the title is none.
fn facts_of(item: &Item) -> Vec<String> {
    let short = |text: &str| !text.is_empty() && text.len() <= FACT && !is_address(text);
    let mut facts: Vec<String> = Vec::new();
    for (_, value) in item.properties.iter().filter(|(name, _)| *name != "title") {
        match value {
            Value::String(text) if short(text) && year_in(text).is_none() => facts.push(text.clone()),
            Value::Array(list) => {
                facts.extend(
                    list.iter().filter_map(Value::as_str).filter(|text| short(text)).map(str::to_owned),
                );
            }
            _ => {}
        }
    }
    facts.extend(year_of(item).map(decade));
    facts.sort_unstable();
    facts.dedup();
    facts
}

fn texts(item: &Item) -> impl Iterator<Item = &str> {
    item.properties.values().flat_map(|value| match value {
        Value::String(text) => vec![text.as_str()],
        Value::Array(list) => list.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    })
}

/// Words of title and longer texts.
fn words_of(item: &Item) -> Vec<String> {
    let long = texts(item).filter(|text| text.len() > FACT && !is_address(text));
    let words = long.chain(item.title()).flat_map(|text| text.split(|c: char| !c.is_alphanumeric()));
    words.filter(|word| word.len() > 3).map(str::to_owned).collect()
}

fn is_address(text: &str) -> bool {
    text.contains("://")
}

/// Of a number or short text that says when.
fn year_of(item: &Item) -> Option<u32> {
    let when = ["year", "released", "release_date", "published", "date"];
    let of = |name: &str| match item.properties.get(name)? {
        Value::Number(n) => {
            n.as_u64().and_then(|n| u32::try_from(n).ok()).filter(|n| (1000..=2999).contains(n))
        }
        Value::String(text) => year_in(text),
        _ => None,
    };
    when.into_iter().find_map(of).or_else(|| year_in(item.title()?.rsplit_once('(')?.1))
}

/// Four digits that stand alone.
fn year_in(text: &str) -> Option<u32> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).filter(|n| n.len() == 4);
    numbers.find_map(|n| n.parse().ok()).filter(|n| (1000..=2999).contains(n))
}

/// `nineties 1990s`
fn decade(year: u32) -> String {
    const NAMES: [&str; 10] = [
        "aughts",
        "tens",
        "twenties",
        "thirties",
        "forties",
        "fifties",
        "sixties",
        "seventies",
        "eighties",
        "nineties",
    ];
    format!("{} {}0s", NAMES[(year / 10 % 10) as usize], year / 10)
}

pub(crate) fn sentence(facts: &[String], words: &[String], all: &[String], rng: &mut Rng) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let few = |n: usize, most: usize, rng: &mut Rng| if n == 0 { 0 } else { 1 + rng.below(most.min(n)) };
    for _ in 0..few(facts.len(), FACTS, rng) {
        parts.push(&facts[rng.below(facts.len())]);
    }
    if facts.is_empty() || rng.unit() < 0.5 {
        for _ in 0..few(words.len(), WORDS, rng) {
            parts.push(&words[rng.below(words.len())]);
        }
    }
    let mut sentence = parts.join(" ");
    if rng.unit() < UNWANTED
        && let Some(other) = (!all.is_empty()).then(|| &all[rng.below(all.len())])
        && !facts.contains(other)
    {
        sentence.push_str(", no ");
        sentence.push_str(other);
    }
    sentence
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn film(id: &str, title: &str, genres: &[&str], year: u32) -> Item {
        let mut item = Item::new(id);
        item.properties.insert("title".into(), json!(title));
        item.properties.insert("genres".into(), json!(genres));
        item.properties.insert("released".into(), json!(format!("01-Jan-{year}")));
        item.properties.insert("address".into(), json!("http://x.org/horror"));
        item
    }

    fn films() -> Vec<Option<Item>> {
        let mut films = vec![None];
        for n in 0..12 {
            let (genre, year) = [("Comedy", 1994), ("Horror", 1984)][n % 2];
            films.push(Some(film(
                &format!("f{n}"),
                &format!("Title {n}"),
                &[genre, "Film"],
                year + (n / 6) as u32,
            )));
        }
        films
    }

    #[test]
    fn wishes_fall_apart_into_wanted_and_unwanted() {
        let cases = [
            ("no horror, short and funny", ("short and funny", "horror")),
            ("funny but not long", ("funny", "long")),
            ("Without blood. a whale", ("a whale", "blood")),
            ("", ("", "")),
            ("no", ("", "")),
            ("nothing notable", ("nothing notable", "")),
        ];
        for (wish, (wanted, unwanted)) in cases {
            assert_eq!(apart(wish), (wanted.to_owned(), unwanted.to_owned()), "{wish}");
        }
    }

    #[test]
    fn facts_are_shared_short_and_have_a_decade() {
        let facts = shared_facts(&films());
        assert_eq!(facts[1], ["Comedy", "Film", "nineties 1990s"]);
        assert!(facts[0].is_empty());
    }

    #[test]
    fn sentences_are_near_their_item_and_unwanted_words_far() {
        let (encoder, wishes) = learn(&Wish::default(), &films(), &FitContext::quiet(1)).unwrap();
        assert_eq!((wishes.each, &wishes.known[..2]), (8, &[false, true][..]));
        let hear = |text: &str| hear(&*encoder, text).unwrap();
        let near = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        let (comedy, horror) = (hear("a comedy"), hear("Horror!"));
        assert!(near(&horror, &hear("no horror, comedy")) < near(&horror, &hear("comedy horror")) - 0.5);
        assert!(near(&comedy, &hear("no horror, comedy")) > 0.3);
        assert!(near(&horror, &hear("no horror")) < -0.9);
        let mean = |i: usize| -> f32 {
            let rows = wishes.rows[i * 8 * wishes.dim..][..8 * wishes.dim].chunks_exact(wishes.dim);
            rows.map(|row| near(row, &comedy) - near(row, &horror)).sum::<f32>() / 8.0
        };
        assert!(mean(1) > 0.1 && mean(2) < -0.1, "{} {}", mean(1), mean(2));
        for text in ["", "   ", "сказка", "no", "\u{0}"] {
            assert_eq!(super::hear(&*encoder, text), None, "{text:?}");
        }
        let long = "comedy ".repeat(20_000);
        assert!(near(&super::hear(&*encoder, &long).unwrap(), &comedy) > 0.9);
    }

    #[test]
    fn only_named_properties_are_read() {
        let how = Wish { properties: vec!["genres".into()], ..Wish::default() };
        let (encoder, _) = learn(&how, &films(), &FitContext::quiet(1)).unwrap();
        assert!(hear(&*encoder, "comedy").is_some());
        assert_eq!(hear(&*encoder, "nineties"), None);
        let how = Wish { properties: vec!["no such".into()], ..Wish::default() };
        assert!(learn(&how, &films(), &FitContext::quiet(1)).is_err());
    }

    #[test]
    fn nobody_pays_for_a_request_a_sentence() {
        let by = EncoderConfig::default_of("remote").unwrap();
        let error = learn(&Wish { by, ..Wish::default() }, &films(), &FitContext::quiet(1)).err().unwrap();
        assert!(error.to_string().contains("use text or pretrained"), "{error}");
    }

    #[test]
    fn without_words_there_is_nothing_to_learn() {
        let bare = vec![Some(Item::new("a")), None];
        assert!(learn(&Wish::default(), &bare, &FitContext::quiet(1)).is_err());
    }
}

//! Reasons in words: which items of the history carry a recommendation, and what else speaks for it.

use crate::catalogue::{Catalogue, Slot};
use crate::history::{Kinds, Known};
use sommelier_core::{ItemIx, Reason};

/// One reason per contributing item, largest share first. The first says in one sentence what the first two are.
pub(crate) fn because(
    catalogue: &Catalogue,
    kinds: &Kinds,
    history: &[Known],
    likes: &[Slot],
    carried: &[(ItemIx, f32)],
) -> Vec<Reason> {
    let told: Vec<(ItemIx, f32, Option<&'static str>)> = carried
        .iter()
        .filter(|(_, share)| *share > 0.0)
        .map(|&(item, share)| (item, share, verb(kinds, history, item.0)))
        .collect();
    told.iter()
        .enumerate()
        .map(|(i, &(item, share, verb))| {
            let title = title(catalogue, item.0);
            let liked = likes.contains(&item.0);
            let second = told.get(1).filter(|_| i == 0);
            let text = match (liked, verb) {
                (true, _) => match second.filter(|s| likes.contains(&s.0.0)) {
                    Some(s) => format!("Similar to {title} and {}", self::title(catalogue, s.0.0)),
                    None => format!("Similar to {title}"),
                },
                (false, verb) => {
                    let verb = verb.map_or("Because of".to_owned(), |v| format!("Because you {v}"));
                    match second.filter(|s| !likes.contains(&s.0.0)) {
                        Some(s) => format!("{verb} {title} and {}", self::title(catalogue, s.0.0)),
                        None => format!("{verb} {title}"),
                    }
                }
            };
            Reason {
                kind: if liked { "like" } else { "because" }.into(),
                item: Some(catalogue.id(item.0).to_owned()),
                share: share.is_finite().then_some(share),
                text,
            }
        })
        .collect()
}

pub(crate) fn popular(catalogue: &Catalogue, slot: Slot) -> Option<Reason> {
    let events = catalogue.counts(slot).events;
    let text = match events {
        0 => return None,
        1 => "One event so far".to_owned(),
        n => format!("Popular: {n} events so far"),
    };
    Some(Reason { kind: "popular".into(), item: None, share: None, text })
}

pub(crate) fn recent(catalogue: &Catalogue, slot: Slot) -> Option<Reason> {
    let came = catalogue.came(slot)?.to_iso();
    let day = came.split('T').next().unwrap_or(&came);
    Some(Reason { kind: "recent".into(), item: None, share: None, text: format!("New here since {day}") })
}

pub(crate) fn matches(wish: &str) -> Reason {
    let wish: String = wish.chars().take(100).collect();
    Reason { kind: "match".into(), item: None, share: None, text: format!("Matches “{}”", wish.trim()) }
}

/// The title in quotation marks, or the id.
fn title(catalogue: &Catalogue, slot: Slot) -> String {
    let name = catalogue.item(slot).and_then(|item| item.title()).unwrap_or_else(|| catalogue.id(slot));
    let short: String = name.chars().take(80).collect();
    let more = if short.len() < name.len() { "…" } else { "" };
    format!("“{short}{more}”")
}

/// What the person did with the item last, where the kind is one that has a word.
fn verb(kinds: &Kinds, history: &[Known], slot: Slot) -> Option<&'static str> {
    let newest = history.iter().rev().find(|k| k.slot == slot)?;
    Some(match kinds.name(newest.kind).to_lowercase().as_str() {
        "read" => "read",
        "view" | "visit" | "look" => "looked at",
        "click" | "open" => "opened",
        "buy" | "purchase" | "order" => "bought",
        "like" | "love" | "favorite" | "favourite" | "star" | "upvote" => "liked",
        "rating" | "rate" | "review" => "rated",
        "watch" => "watched",
        "listen" | "play" => "played",
        "save" | "bookmark" | "add" | "cart" => "saved",
        _ => return None,
    })
}

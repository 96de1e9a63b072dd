//! gorse's JSON lines: `feedback.jsonl`, `items.jsonl`, `users.jsonl`. The title becomes the comment, other
//! properties become labels.

use super::{ExportError, ExportReport, Work};
use serde_json::{Map, Value, json};
use sommelier_core::{Event, Item, Time, User};

pub fn write(work: &mut Work<'_>) -> Result<(), ExportError> {
    let mut out = work.create("feedback.jsonl")?;
    work.events(|report, events| {
        report.events += events.len() as u64;
        events.into_iter().try_for_each(|event| out.json(&feedback(event, report)))
    })?;
    out.close()?;
    let mut out = work.create("items.jsonl")?;
    work.items(|report, items| {
        report.items += items.len() as u64;
        items.into_iter().try_for_each(|item| out.json(&item_object(item, report)))
    })?;
    out.close()?;
    let mut out = work.create("users.jsonl")?;
    work.users(|report, users| {
        report.users += users.len() as u64;
        users.into_iter().try_for_each(|user| out.json(&user_object(user, report)))
    })?;
    out.close()
}

fn feedback(event: Event, report: &mut ExportReport) -> Value {
    let rare = [
        ("id of an event", event.id.is_some()),
        ("session of an event", event.session.is_some()),
        ("slate of an event", event.slate.is_some()),
        ("position of an event", event.position.is_some()),
        ("context of an event", !event.context.is_empty()),
    ];
    for (what, _) in rare.into_iter().filter(|(_, there)| *there) {
        report.lose(what);
    }
    let mut map = Map::new();
    map.insert("FeedbackType".into(), event.kind.into());
    map.insert("UserId".into(), event.user.into());
    map.insert("ItemId".into(), event.item.into());
    if let Some(value) = event.value {
        map.insert("Value".into(), value.into());
    }
    map.insert("Timestamp".into(), time(event.at));
    map.insert("Comment".into(), event.text.unwrap_or_default().into());
    Value::Object(map)
}

fn item_object(item: Item, report: &mut ExportReport) -> Value {
    if item.expires.is_some() {
        report.lose("end of an item (`expires`)");
    }
    let mut labels = item.properties;
    let comment = take_text(&mut labels, "title");
    let texts =
        |v: &Value| v.as_array().is_some_and(|list| !list.is_empty() && list.iter().all(Value::is_string));
    let categories =
        if labels.get("categories").is_some_and(texts) { labels.remove("categories") } else { None };
    json!({
        "ItemId": item.id,
        "IsHidden": item.hidden,
        "Categories": categories.unwrap_or_else(|| json!([])),
        "Timestamp": time(item.at),
        "Labels": labels,
        "Comment": comment,
    })
}

fn user_object(user: User, report: &mut ExportReport) -> Value {
    if user.at.is_some() {
        report.lose("time of a user (`at`)");
    }
    let mut labels = user.properties;
    let comment = take_text(&mut labels, "comment");
    json!({ "UserId": user.id, "Labels": labels, "Comment": comment })
}

/// Takes a text out of the properties; empty where it is none.
fn take_text(properties: &mut Map<String, Value>, name: &str) -> String {
    match properties.get(name) {
        Some(Value::String(text)) if !text.is_empty() => {
            let text = text.clone();
            properties.remove(name);
            text
        }
        _ => String::new(),
    }
}

/// gorse writes no time as the first moment of the year 1.
fn time(at: Option<Time>) -> Value {
    at.map_or_else(|| "0001-01-01T00:00:00Z".to_owned(), Time::to_iso).into()
}

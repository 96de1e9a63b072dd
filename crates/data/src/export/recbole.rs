//! RecBole's atomic files: `NAME.inter`, `NAME.item`, `NAME.user`, typed columns between tabs.

use super::{ExportError, ExportReport, Out, Work};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

pub fn write(work: &mut Work<'_>) -> Result<(), ExportError> {
    let name = work.to.file_name().map_or_else(|| "data".to_owned(), |n| n.to_string_lossy().into_owned());
    let mut out = work.create(&format!("{name}.inter"))?;
    out.line("user_id:token\titem_id:token\tkind:token\trating:float\ttimestamp:float")?;
    work.events(|report, events| {
        for event in events {
            if [&event.user, &event.item, &event.kind].iter().any(|id| !is_token(id)) {
                report.lose("event whose ids hold a tab, a line end or blanks around them");
                continue;
            }
            report.events += 1;
            let rare = [
                ("id of an event", event.id.is_some()),
                ("session of an event", event.session.is_some()),
                ("slate of an event", event.slate.is_some()),
                ("position of an event", event.position.is_some()),
                ("context of an event", !event.context.is_empty()),
                ("text of an event", event.text.is_some()),
            ];
            for (what, _) in rare.into_iter().filter(|(_, there)| *there) {
                report.lose(what);
            }
            let value = event.value.map_or_else(String::new, |v| v.to_string());
            let at = event.at.map_or_else(String::new, |t| seconds(t.millis()));
            out.line(&format!("{}\t{}\t{}\t{value}\t{at}", event.user, event.item, event.kind))?;
        }
        Ok(())
    })?;
    out.close()?;

    let mut types = BTreeMap::new();
    work.items(|_, items| {
        for item in &items {
            learn(&mut types, &item.properties);
        }
        Ok(())
    })?;
    let mut out = work.create(&format!("{name}.item"))?;
    header(&mut out, "item_id", &types)?;
    work.items(|report, items| {
        for item in items {
            report.items += u64::from(row(&mut out, &item.id, &types, &item.properties, report)?);
            for (what, there) in [
                ("hidden item, which is written like any other", item.hidden),
                ("end of an item (`expires`)", item.expires.is_some()),
                ("time of an item (`at`)", item.at.is_some()),
            ] {
                if there {
                    report.lose(what);
                }
            }
        }
        Ok(())
    })?;
    out.close()?;

    let mut types = BTreeMap::new();
    work.users(|_, users| {
        for user in &users {
            learn(&mut types, &user.properties);
        }
        Ok(())
    })?;
    let mut out = work.create(&format!("{name}.user"))?;
    header(&mut out, "user_id", &types)?;
    work.users(|report, users| {
        for user in users {
            report.users += u64::from(row(&mut out, &user.id, &types, &user.properties, report)?);
            if user.at.is_some() {
                report.lose("time of a user (`at`)");
            }
        }
        Ok(())
    })?;
    out.close()
}

/// What all values of a property have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    Float,
    FloatSeq,
    Token,
    TokenSeq,
}

impl Type {
    fn of(value: &Value) -> Type {
        match value {
            Value::Number(_) => Type::Float,
            Value::Array(list) if !list.is_empty() && list.iter().all(Value::is_number) => Type::FloatSeq,
            Value::Array(_) => Type::TokenSeq,
            _ => Type::Token,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Type::Float => "float",
            Type::FloatSeq => "float_seq",
            Type::Token => "token",
            Type::TokenSeq => "token_seq",
        }
    }
}

fn learn(types: &mut BTreeMap<String, Type>, properties: &Map<String, Value>) {
    for (name, value) in properties {
        if value.is_null() || !is_token(name) || name.contains(':') {
            continue;
        }
        let found = Type::of(value);
        let kind = types.entry(name.clone()).or_insert(found);
        if *kind != found {
            *kind = Type::Token;
        }
    }
}

fn header(out: &mut Out, id: &str, types: &BTreeMap<String, Type>) -> Result<(), ExportError> {
    let columns: Vec<String> = types.iter().map(|(name, kind)| format!("\t{name}:{}", kind.name())).collect();
    out.line(&format!("{id}:token{}", columns.concat()))
}

/// False where the row cannot be written.
fn row(
    out: &mut Out,
    id: &str,
    types: &BTreeMap<String, Type>,
    properties: &Map<String, Value>,
    report: &mut ExportReport,
) -> Result<bool, ExportError> {
    if !is_token(id) {
        report.lose("item or user whose id holds a tab, a line end or blanks around it");
        return Ok(false);
    }
    let mut line = id.to_owned();
    for (name, kind) in types {
        line.push('\t');
        if let Some(value) = properties.get(name) {
            line.push_str(&cell(value, *kind, report));
        }
    }
    for (name, value) in properties {
        if !value.is_null() && !types.contains_key(name) {
            report.lose("property whose name holds a colon, a tab or a line end");
        }
    }
    out.line(&line)?;
    Ok(true)
}

fn cell(value: &Value, kind: Type, report: &mut ExportReport) -> String {
    match (kind, value) {
        (_, Value::Null) => String::new(),
        (Type::TokenSeq, Value::Array(list)) => {
            let mut words = Vec::new();
            for part in list {
                let text = text_of(part);
                let word = text.split_whitespace().collect::<Vec<_>>().join("_");
                if word != text {
                    report.lose("blanks in an entry of a list, written as `_`");
                }
                words.push(word);
            }
            words.join(" ")
        }
        (Type::FloatSeq, Value::Array(list)) => {
            list.iter().map(Value::to_string).collect::<Vec<_>>().join(" ")
        }
        (_, other) => {
            let text = text_of(other);
            if text.contains(['\t', '\n', '\r']) {
                report.lose("tab or line end in a text, written as a blank");
            }
            text.replace(['\t', '\n', '\r'], " ")
        }
    }
}

fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Whether a text survives between tabs.
fn is_token(text: &str) -> bool {
    !text.is_empty() && !text.contains(['\t', '\n', '\r']) && text.trim() == text
}

/// `978300760`, or `978300760.500` where there is part of a second.
fn seconds(millis: i64) -> String {
    if millis % 1000 == 0 { (millis / 1000).to_string() } else { format!("{:.3}", millis as f64 / 1000.0) }
}

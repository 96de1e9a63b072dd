//! Many things in one body: an array, one a line, or a single one; taken whole or not at all, with a list of what is wrong.

use crate::body::{Object, Shape, Text, parse, read_json, read_value};
use crate::problem::{self, Fault, Kind, Problem};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Reads all entries of a body. `check` tests what the type cannot; all faults are reported together.
pub fn read<T: DeserializeOwned>(
    body: &Text,
    what: &'static str,
    most: usize,
    kind: &'static Kind,
    check: impl Fn(&T) -> Result<(), String>,
) -> Result<Vec<T>, Problem> {
    let (things, lines, mut faults) = match body.shape {
        Shape::Lines => read_lines(&body.text),
        Shape::Json => read_array(&body.text)?,
    };
    let total = things.len() + faults.len();
    if total > most {
        return Err(Problem::new(
            &problem::TOO_LARGE,
            format!("a request may hold {most} {what}s, this one holds {total}; send several"),
        ));
    }
    for (place, (index, thing)) in things.iter().enumerate() {
        if let Err(reason) = check(thing) {
            faults.push(Fault { index: *index, line: lines.get(place).copied(), field: None, reason });
        }
    }
    if faults.is_empty() {
        return Ok(things.into_iter().map(|(_, thing)| thing).collect());
    }
    faults.sort_by_key(|f| f.index);
    let first = &faults[0];
    let detail = format!(
        "{} of {total} {what}s cannot be taken, so none was stored; the first, at index {}: {}{}",
        faults.len(),
        first.index,
        first.field.as_ref().map(|f| format!("{f}: ")).unwrap_or_default(),
        first.reason
    );
    Err(Problem::new(kind, detail).faults(faults))
}

type Entries<T> = (Vec<(usize, T)>, Vec<usize>, Vec<Fault>);

fn read_lines<T: DeserializeOwned>(text: &str) -> Entries<T> {
    let (mut things, mut lines, mut faults) = (Vec::new(), Vec::new(), Vec::new());
    let written = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    for (index, (line, text)) in written.enumerate() {
        match read_json(text) {
            Ok(Object(thing)) => {
                things.push((index, thing));
                lines.push(line + 1);
            }
            Err(wrong) => faults.push(wrong.fault(index, Some(line + 1))),
        }
    }
    (things, lines, faults)
}

fn read_array<T: DeserializeOwned>(text: &str) -> Result<Entries<T>, Problem> {
    if !text.trim_start().starts_with('[') {
        return Ok((vec![(0, parse::<Object<T>>(text)?.0)], Vec::new(), Vec::new()));
    }
    // Nearly every request is in order, and then one pass is enough.
    let problem = match parse::<Vec<Object<T>>>(text) {
        Ok(things) => {
            return Ok((things.into_iter().map(|o| o.0).enumerate().collect(), Vec::new(), Vec::new()));
        }
        Err(problem) if problem.kind() == &problem::BAD_JSON => return Err(problem),
        Err(problem) => problem,
    };
    // Not so here: go through one by one, for all faults and not only the first.
    let values: Vec<Value> = parse(text)?;
    let (mut things, mut faults) = (Vec::new(), Vec::new());
    for (index, value) in values.into_iter().enumerate() {
        match read_value(value) {
            Ok(Object(thing)) => things.push((index, thing)),
            Err(wrong) => faults.push(wrong.fault(index, None)),
        }
    }
    // A field given twice shows only in the text, not in the values.
    if faults.is_empty() { Err(problem) } else { Ok((things, Vec::new(), faults)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sommelier_core::Event;

    fn events(shape: Shape, text: &str) -> Result<Vec<Event>, Problem> {
        read(&Text { shape, text: text.into() }, "event", 5, &problem::BAD_EVENTS, |e: &Event| {
            e.check().map_err(|e| e.to_string())
        })
    }

    const GOOD: &str = r#"{"user":"u","item":"i","kind":"view"}"#;

    #[test]
    fn one_some_and_lines() {
        assert_eq!(events(Shape::Json, GOOD).unwrap().len(), 1);
        assert_eq!(events(Shape::Json, &format!(" [{GOOD},{GOOD}]")).unwrap().len(), 2);
        assert_eq!(events(Shape::Lines, &format!("{GOOD}\n\n{GOOD}\r\n")).unwrap().len(), 2);
        assert_eq!(events(Shape::Json, "[]").unwrap().len(), 0);
        assert_eq!(events(Shape::Lines, "").unwrap().len(), 0);
    }

    #[test]
    fn all_faults_are_listed_with_their_place() {
        let text = format!(r#"[{GOOD}, {{"user":"u"}}, {{"user":"","item":"i","kind":"k"}}, {GOOD}]"#);
        let problem = events(Shape::Json, &text).unwrap_err();
        assert!(problem.detail().starts_with("2 of 4 events cannot be taken"), "{}", problem.detail());
        let text = format!("{GOOD}\n\n{{\"user\":\"u\"}}\nnonsense\n{GOOD}");
        let problem = events(Shape::Lines, &text).unwrap_err();
        let said = format!("{problem:?}");
        assert!(said.contains("line: Some(3)") && said.contains("line: Some(4)"), "{said}");
        assert!(problem.detail().starts_with("2 of 4"), "{}", problem.detail());
    }

    #[test]
    fn too_many_are_refused_as_a_whole() {
        let text = format!("[{}]", [GOOD; 6].join(","));
        assert_eq!(events(Shape::Json, &text).unwrap_err().kind(), &problem::TOO_LARGE);
    }

    #[test]
    fn a_list_of_fields_is_no_event() {
        let problem = events(Shape::Json, r#"[["id", "u", "i", "view"]]"#).unwrap_err();
        assert!(problem.detail().contains("expected an object"), "{}", problem.detail());
        assert!(events(Shape::Lines, r#"["id", "u", "i", "view"]"#).is_err());
    }

    #[test]
    fn a_field_given_twice_is_told() {
        let text = r#"[{"user":"u","user":"v","item":"i","kind":"view"}]"#;
        assert!(events(Shape::Json, text).unwrap_err().detail().contains("duplicate field"));
    }
}

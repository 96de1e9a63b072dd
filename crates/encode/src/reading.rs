//! Which texts of an item are read, and the one text that they make together.

use crate::EncodeError;
use serde_json::Value;
use sommelier_core::Item;

/// Each text of an item with the name of its property: of those named, in their order; without names of all, addresses left out.
pub(crate) fn each_text(item: &Item, properties: &[String], each: &mut dyn FnMut(&str, &str)) {
    if properties.is_empty() {
        // By convention the address of a picture.
        for (name, value) in item.properties.iter().filter(|(name, _)| *name != "image") {
            of_value(value, false, &mut |text| each(name, text));
        }
    } else {
        for name in properties {
            if let Some(value) = item.properties.get(name) {
                of_value(value, true, &mut |text| each(name, text));
            }
        }
    }
}

/// The texts of an item, a property a line, as what reads whole sentences wants it; `None` where there is nothing but space.
///
/// Where no properties are named the title is first, for the end of a long text is cut off.
pub(crate) fn whole_text(item: &Item, properties: &[String]) -> Option<String> {
    let mut lines: Vec<(String, String)> = Vec::new();
    each_text(item, properties, &mut |name, text| {
        let text = text.trim();
        match lines.last_mut() {
            _ if text.is_empty() => {}
            Some((last, line)) if last == name => {
                line.push_str(", ");
                line.push_str(text);
            }
            _ => lines.push((name.to_owned(), text.to_owned())),
        }
    });
    if properties.is_empty() {
        lines.sort_by_key(|(name, _)| name != "title");
    }
    let lines: Vec<String> = lines.into_iter().map(|(_, line)| line).collect();
    (!lines.is_empty()).then(|| lines.join("\n"))
}

/// So many letters from the front of a text.
pub(crate) fn front(text: &str, letters: usize) -> &str {
    text.char_indices().nth(letters).map_or(text, |(end, _)| &text[..end])
}

pub(crate) fn no_text(items: usize, properties: &[String]) -> EncodeError {
    let what = match properties {
        [] => "a text property such as title, description or categories".to_owned(),
        some => format!("text in {}", some.join(", ")),
    };
    EncodeError::NoData(format!("none of {items} items has {what}; import texts, or name other properties"))
}

fn of_value(value: &Value, named: bool, each: &mut dyn FnMut(&str)) {
    match value {
        Value::String(text) if !named && is_address(text) => {}
        Value::String(text) => each(text),
        Value::Array(list) => list.iter().for_each(|v| of_value(v, named, each)),
        // A number is a word only where somebody asked for it.
        Value::Number(n) if named => each(&n.to_string()),
        _ => {}
    }
}

fn is_address(text: &str) -> bool {
    ["http://", "https://", "data:"].iter().any(|start| text.trim_start().starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoder::tests::item;
    use serde_json::json;

    #[test]
    fn an_item_is_one_text_with_its_title_first() {
        let of = |properties: &[&str], value: Value| {
            let names: Vec<String> = properties.iter().map(|&p| p.to_owned()).collect();
            whole_text(&item("a", value).unwrap(), &names)
        };
        let all = json!({"genres": ["War", " ", "Satire"], "image": "a.png", "link": "https://x.y", "title": " Švejk ", "year": 1921});
        assert_eq!(of(&[], all.clone()).unwrap(), "Švejk\nWar, Satire");
        assert_eq!(of(&["year", "title"], all.clone()).unwrap(), "1921\nŠvejk");
        assert_eq!(of(&["link"], all.clone()).unwrap(), "https://x.y");
        assert_eq!(of(&["plot"], all), None);
        assert_eq!(of(&[], json!({"title": " \n", "genres": [], "price": 3})), None);
    }
}

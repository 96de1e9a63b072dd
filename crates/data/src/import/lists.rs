//! Lines of ids: `user item item …` (sequences and pairs), and `user positive other …` (fixed candidates).

use super::batch::{Batch, CandidateRow, Row, Span};
use memchr::memchr_iter;
use sommelier_core::check_id;

/// `user item item …` with blanks between; a user alone on a line has no events.
pub fn parse(batch: &mut Batch, first_line: u64, kind: &str) {
    let text = std::mem::take(&mut batch.text);
    let kind = batch.add_text(kind);
    for (line, start, end) in lines(&text, first_line) {
        let mut ids = words(&text, start, end);
        let Some(user) = ids.next() else { continue };
        if let Err(e) = check_id("user", batch.get_in(&text, user)) {
            batch.skip(line, Some("user"), e.to_string());
            continue;
        }
        for item in ids {
            if let Err(e) = check_id("item", batch.get_in(&text, item)) {
                batch.warn(line, Some("item"), format!("{e}; the rest of the line was kept"));
                continue;
            }
            batch.rows.push(Row { user, item, kind, at: None, value: None, extra: u32::MAX });
        }
    }
    batch.text = text;
}

/// `user positive other other …`, between tabs or blanks. The positive is also an event.
pub fn parse_candidates(batch: &mut Batch, first_line: u64, kind: &str) {
    let kind = batch.add_text(kind);
    for_each_list(batch, first_line, "a user, an item to find and other candidates", |batch, user, item| {
        batch.rows.push(Row { user, item, kind, at: None, value: None, extra: u32::MAX });
    });
}

/// `user other other …`, between tabs or blanks.
pub fn parse_others(batch: &mut Batch, first_line: u64) {
    for_each_list(batch, first_line, "a user and candidates", |_, _, _| {});
}

/// Keeps each line as candidates; `first` gets its user and first item.
fn for_each_list(
    batch: &mut Batch,
    first_line: u64,
    expected: &str,
    mut first: impl FnMut(&mut Batch, Span, Span),
) {
    let text = std::mem::take(&mut batch.text);
    for (line, start, end) in lines(&text, first_line) {
        let ids: Vec<Span> = words(&text, start, end).collect();
        let [user, items @ ..] = ids.as_slice() else { continue };
        let Some(&item) = items.first() else {
            batch.skip(line, None, format!("expected {expected}, received one field"));
            continue;
        };
        let get = |span: Span| batch.get_in(&text, span).to_owned();
        let row = CandidateRow { user: get(*user), items: items.iter().map(|&i| get(i)).collect() };
        let bad = std::iter::once(("user", &row.user))
            .chain(row.items.iter().map(|i| ("item", i)))
            .find_map(|(what, id)| check_id(what, id).err());
        if let Some(e) = bad {
            batch.skip(line, None, e.to_string());
            continue;
        }
        first(batch, *user, item);
        batch.candidates.push(row);
    }
    batch.text = text;
}

/// Lines with their number and place.
fn lines(text: &str, first_line: u64) -> impl Iterator<Item = (u64, usize, usize)> + '_ {
    let bytes = text.as_bytes();
    let mut start = 0;
    let ends = memchr_iter(b'\n', bytes).chain(std::iter::once(bytes.len()));
    (first_line..).zip(ends).map(move |(line, end)| {
        let from = std::mem::replace(&mut start, end + 1).min(end);
        (line, from, end)
    })
}

/// Places of the words in `text[start..end]`.
fn words(text: &str, start: usize, end: usize) -> impl Iterator<Item = Span> + '_ {
    let base = text.as_ptr() as usize;
    text[start..end]
        .split_ascii_whitespace()
        .map(move |word| Span { start: (word.as_ptr() as usize - base) as u32, len: word.len() as u32 })
}

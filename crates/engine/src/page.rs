//! Page tokens: what an answer has shown so far, in the hands of whoever asks for more.
//!
//! A token holds a short hash of every item shown and of the question, so it needs no memory on the server,
//! survives restarts, new events and new artefacts, and no item shown before comes again. Two ids share a hash
//! once in 10¹² pairs; then one item is passed over, never repeated.

use hashbrown::HashSet;
use sommelier_core::Query;

const VERSION: u8 = 1;
const HASH_BYTES: usize = 5;
const HEAD_BYTES: usize = 1 + 4 + 4;
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Items of the pages before this one.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Shown {
    /// In the order they were shown.
    order: Vec<u64>,
    set: HashSet<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PageError {
    #[error("expected the `next` of an earlier slate, unchanged; received something else")]
    Unreadable,
    #[error(
        "this token belongs to another question; ask with the same user, wish, like, filter, candidates and scenario, or leave `page` out"
    )]
    OtherQuestion,
}

impl Shown {
    pub fn len(&self) -> usize {
        self.order.len()
    }

    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    pub fn contains(&self, id: &str) -> bool {
        !self.order.is_empty() && self.set.contains(&hash(id))
    }

    pub fn add(&mut self, id: &str) {
        let hash = hash(id);
        if self.set.insert(hash) {
            self.order.push(hash);
        }
    }

    /// The token that stands for these items under this question.
    pub fn token(&self, query: &Query) -> String {
        let mut bytes = Vec::with_capacity(HEAD_BYTES + HASH_BYTES * self.order.len());
        bytes.push(VERSION);
        bytes.extend_from_slice(&question(query));
        for hash in &self.order {
            bytes.extend_from_slice(&hash.to_le_bytes()[..HASH_BYTES]);
        }
        let check = blake3::hash(&bytes);
        bytes.extend_from_slice(&check.as_bytes()[..4]);
        encode(&bytes)
    }

    pub fn read(token: &str, query: &Query) -> Result<Shown, PageError> {
        let bytes = decode(token).ok_or(PageError::Unreadable)?;
        let body = bytes.len().checked_sub(4).ok_or(PageError::Unreadable)?;
        let (body, check) = bytes.split_at(body);
        let sound = body.first() == Some(&VERSION)
            && body.len() >= HEAD_BYTES - 4
            && (body.len() - (HEAD_BYTES - 4)).is_multiple_of(HASH_BYTES)
            && &blake3::hash(body).as_bytes()[..4] == check;
        if !sound {
            return Err(PageError::Unreadable);
        }
        if body[1..5] != question(query) {
            return Err(PageError::OtherQuestion);
        }
        let mut shown = Shown::default();
        for chunk in body[5..].chunks_exact(HASH_BYTES) {
            let mut hash = [0u8; 8];
            hash[..HASH_BYTES].copy_from_slice(chunk);
            let hash = u64::from_le_bytes(hash);
            if shown.set.insert(hash) {
                shown.order.push(hash);
            }
        }
        Ok(shown)
    }
}

fn hash(id: &str) -> u64 {
    let mut bytes = [0u8; 8];
    bytes[..HASH_BYTES].copy_from_slice(&blake3::hash(id.as_bytes()).as_bytes()[..HASH_BYTES]);
    u64::from_le_bytes(bytes)
}

/// What must stay the same from page to page. `count`, `history`, `exclude` and `context` may change.
fn question(query: &Query) -> [u8; 4] {
    let parts = (
        &query.user,
        &query.wish,
        &query.like,
        &query.unlike,
        &query.filter,
        &query.candidates,
        &query.scenario,
    );
    let text = serde_json::to_vec(&parts).unwrap_or_default();
    let mut out = [0u8; 4];
    out.copy_from_slice(&blake3::hash(&text).as_bytes()[..4]);
    out
}

fn encode(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = u32::from(chunk[0]) << 16
            | u32::from(chunk.get(1).copied().unwrap_or(0)) << 8
            | u32::from(chunk.get(2).copied().unwrap_or(0));
        for place in 0..=chunk.len() {
            out.push(char::from(ALPHABET[(group >> (18 - 6 * place) & 63) as usize]));
        }
    }
    out
}

fn decode(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    for chunk in text.as_bytes().chunks(4) {
        if chunk.len() == 1 {
            return None;
        }
        let mut group = 0u32;
        for place in 0..4 {
            let six = match chunk.get(place) {
                Some(letter) => ALPHABET.iter().position(|a| a == letter)? as u32,
                None => 0,
            };
            group = group << 6 | six;
        }
        // Letters carry six bits and bytes eight: what is left over must be nothing, so that a token has one form.
        if group & ((1 << (8 * (4 - chunk.len()))) - 1) != 0 {
            return None;
        }
        out.extend_from_slice(&group.to_be_bytes()[1..chunk.len()]);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn other_questions_and_damage_are_refused() {
        let query = Query { user: Some("u".into()), ..Query::default() };
        let mut shown = Shown::default();
        shown.add("a");
        shown.add("a");
        shown.add("b");
        let token = shown.token(&query);
        assert_eq!(Shown::read(&token, &query).unwrap(), shown);
        let more = Query {
            count: Some(3),
            history: vec![sommelier_core::HistoryEntry::Item("a".into())],
            ..query.clone()
        };
        assert!(Shown::read(&token, &more).is_ok(), "new events and another count are the same question");
        let other = Query { user: Some("v".into()), ..Query::default() };
        assert_eq!(Shown::read(&token, &other), Err(PageError::OtherQuestion));
        for at in 0..token.len() {
            let mut bad = token.clone().into_bytes();
            bad[at] = if bad[at] == b'A' { b'B' } else { b'A' };
            assert!(Shown::read(std::str::from_utf8(&bad).unwrap(), &query).is_err());
        }
        for bad in ["", "A", "!!!!", "é"] {
            assert_eq!(Shown::read(bad, &query), Err(PageError::Unreadable), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn tokens_round_trip(ids in prop::collection::vec("\\PC{1,12}", 0..50), junk in "\\PC{0,30}") {
            let query = Query::default();
            let mut shown = Shown::default();
            for id in &ids {
                shown.add(id);
            }
            let back = Shown::read(&shown.token(&query), &query).unwrap();
            prop_assert!(ids.iter().all(|id| back.contains(id)));
            prop_assert_eq!(back, shown);
            let _ = Shown::read(&junk, &query);
        }

        #[test]
        fn letters_round_trip(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            prop_assert_eq!(decode(&encode(&bytes)), Some(bytes));
        }
    }
}

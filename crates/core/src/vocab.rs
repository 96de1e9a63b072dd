//! Ids as dense numbers: a vocabulary maps each id to its index and back.

use foldhash::fast::FixedState;
use serde::{Deserialize, Serialize};
use std::hash::BuildHasher;

/// Index of an item in one vocabulary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(transparent)]
pub struct ItemIx(pub u32);

/// Index of a user in one vocabulary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(transparent)]
pub struct UserIx(pub u32);

impl ItemIx {
    pub fn ix(self) -> usize {
        self.0 as usize
    }
}

impl UserIx {
    pub fn ix(self) -> usize {
        self.0 as usize
    }
}

/// Ids in order of first sight, in one string arena with an open-addressing table: about 16 bytes an id over its text.
#[derive(Debug, Clone, Default)]
pub struct Vocab {
    text: String,
    /// `ends[i]` is where id `i` ends in `text`.
    ends: Vec<usize>,
    /// Index + 1 of the id that hashes here, 0 if free; length a power of two.
    table: Vec<u32>,
}

impl Vocab {
    pub fn new() -> Vocab {
        Vocab::default()
    }

    pub fn from_ids<S: AsRef<str>>(ids: impl IntoIterator<Item = S>) -> Vocab {
        let mut vocab = Vocab::new();
        for id in ids {
            vocab.intern(id.as_ref());
        }
        vocab
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The id at `ix`. Panics if `ix` did not come from this vocabulary.
    pub fn id(&self, ix: u32) -> &str {
        let ix = ix as usize;
        let start = if ix == 0 { 0 } else { self.ends[ix - 1] };
        &self.text[start..self.ends[ix]]
    }

    pub fn get(&self, id: &str) -> Option<u32> {
        if self.table.is_empty() {
            return None;
        }
        let mask = self.table.len() - 1;
        let mut slot = hash(id) as usize & mask;
        loop {
            match self.table[slot] {
                0 => return None,
                entry if self.id(entry - 1) == id => return Some(entry - 1),
                _ => slot = (slot + 1) & mask,
            }
        }
    }

    /// The index of `id`, new if it was not there.
    pub fn intern(&mut self, id: &str) -> u32 {
        if (self.ends.len() + 1) * 2 > self.table.len() {
            self.grow();
        }
        let mask = self.table.len() - 1;
        let mut slot = hash(id) as usize & mask;
        loop {
            match self.table[slot] {
                0 => break,
                entry if self.id(entry - 1) == id => return entry - 1,
                _ => slot = (slot + 1) & mask,
            }
        }
        let ix = u32::try_from(self.ends.len()).expect("more than 4 billion ids in one vocabulary");
        self.text.push_str(id);
        self.ends.push(self.text.len());
        self.table[slot] = ix + 1;
        ix
    }

    pub fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.len() as u32).map(|ix| self.id(ix))
    }

    pub fn item(&self, id: &str) -> Option<ItemIx> {
        self.get(id).map(ItemIx)
    }

    pub fn user(&self, id: &str) -> Option<UserIx> {
        self.get(id).map(UserIx)
    }

    fn grow(&mut self) {
        let size = (self.table.len() * 2).max(16);
        let mut table = vec![0u32; size];
        for ix in 0..self.len() as u32 {
            let mut slot = hash(self.id(ix)) as usize & (size - 1);
            while table[slot] != 0 {
                slot = (slot + 1) & (size - 1);
            }
            table[slot] = ix + 1;
        }
        self.table = table;
    }
}

impl PartialEq for Vocab {
    fn eq(&self, other: &Vocab) -> bool {
        self.text == other.text && self.ends == other.ends
    }
}

fn hash(id: &str) -> u64 {
    FixedState::with_seed(0x50_4d_31).hash_one(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interns_and_finds() {
        let mut vocab = Vocab::new();
        for round in 0..2 {
            for i in 0..1000u32 {
                assert_eq!(vocab.intern(&format!("id-{i}")), i, "round {round}");
            }
        }
        assert_eq!(vocab.len(), 1000);
        assert_eq!(vocab.get("id-77"), Some(77));
        assert_eq!(vocab.id(77), "id-77");
        assert_eq!(vocab.get("id-1000"), None);
        assert_eq!(vocab.intern(""), 1000);
        assert_eq!(vocab.id(1000), "");
    }
}

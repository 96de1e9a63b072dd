//! Ids of one segment as dense numbers, in a form that can be looked up in the file as it lies.

/// Text of the ids in order of first sight, their ends, and an open-addressing table of index + 1.
#[derive(Debug, Clone, Default)]
pub(super) struct Dict {
    pub text: Vec<u8>,
    pub ends: Vec<u32>,
    pub table: Vec<u32>,
    /// Events of one user often follow each other in a file.
    last: Option<u32>,
}

impl Dict {
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn id(&self, ix: u32) -> &[u8] {
        slot_text(&self.text, ix, |i| self.ends[i] as usize)
    }

    /// The index of `id`, new if it was not there.
    pub fn intern(&mut self, id: &str) -> u32 {
        if let Some(last) = self.last
            && self.id(last) == id.as_bytes()
        {
            return last;
        }
        if (self.ends.len() + 1) * 2 > self.table.len() {
            self.grow();
        }
        let mask = self.table.len() - 1;
        let mut slot = hash(id.as_bytes()) as usize & mask;
        while self.table[slot] != 0 {
            let ix = self.table[slot] - 1;
            if self.id(ix) == id.as_bytes() {
                self.last = Some(ix);
                return ix;
            }
            slot = (slot + 1) & mask;
        }
        let ix = self.ends.len() as u32;
        self.text.extend_from_slice(id.as_bytes());
        self.ends.push(self.text.len() as u32);
        self.table[slot] = ix + 1;
        self.last = Some(ix);
        ix
    }

    fn grow(&mut self) {
        let size = (self.table.len() * 2).max(16);
        let mut table = vec![0u32; size];
        for ix in 0..self.ends.len() as u32 {
            let mut slot = hash(self.id(ix)) as usize & (size - 1);
            while table[slot] != 0 {
                slot = (slot + 1) & (size - 1);
            }
            table[slot] = ix + 1;
        }
        self.table = table;
    }
}

fn slot_text(text: &[u8], ix: u32, end: impl Fn(usize) -> usize) -> &[u8] {
    let ix = ix as usize;
    let start = if ix == 0 { 0 } else { end(ix - 1) };
    &text[start..end(ix)]
}

/// 64 bits of an id. Part of the file format: it must never change, which is why it is written out here.
///
/// Eight bytes at a time are mixed in by a 64 × 64 → 128 bit product whose halves are folded together.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    const START: u64 = 0x9e37_79b9_7f4a_7c15;
    const STEP: u64 = 0xd6e8_feb8_6659_fd93;
    let fold = |a: u64, b: u64| {
        let product = u128::from(a) * u128::from(b);
        (product as u64) ^ (product >> 64) as u64
    };
    let mut state = START ^ (bytes.len() as u64);
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        let word = chunk.try_into().map(u64::from_le_bytes).expect("chunks of eight");
        state = fold(state ^ word, STEP);
    }
    let mut last = [0u8; 8];
    last[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
    fold(fold(state ^ u64::from_le_bytes(last), STEP) ^ START, STEP)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn interns_in_order_and_finds_again() {
        let mut dict = Dict::default();
        for round in 0..2 {
            for i in 0..5000u32 {
                assert_eq!(dict.intern(&format!("user {i}")), i, "round {round}");
            }
        }
        assert_eq!(dict.id(77), b"user 77");
        assert_eq!(dict.len(), 5000);
    }

    /// The values are stored in files: a change here is a change of format.
    #[test]
    fn the_hash_never_changes_and_spreads() {
        assert_eq!(hash(b""), 5706795948885657404);
        assert_eq!(hash(b"sommelier"), 6212495127981202882);
        let low: HashSet<u64> = (0..10_000).map(|i| hash(i.to_string().as_bytes()) & 0xf_ffff).collect();
        assert!(low.len() > 9_900, "{} of 10000 differ in their low 20 bits", low.len());
    }
}

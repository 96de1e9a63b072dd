//! Which items may come back: a shared bit set of live items, less a few of this query's own.

use crate::ItemIx;
use std::sync::Arc;

/// One bit per item of a vocabulary.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BitSet {
    words: Vec<u64>,
    len: usize,
}

impl BitSet {
    pub fn none(len: usize) -> BitSet {
        BitSet { words: vec![0; len.div_ceil(64)], len }
    }

    pub fn all(len: usize) -> BitSet {
        let mut set = BitSet { words: vec![u64::MAX; len.div_ceil(64)], len };
        if !len.is_multiple_of(64) {
            *set.words.last_mut().expect("len is not 0") = (1 << (len % 64)) - 1;
        }
        set
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// False for indices past the end.
    #[inline]
    pub fn contains(&self, ix: usize) -> bool {
        self.words.get(ix / 64).is_some_and(|w| w >> (ix % 64) & 1 == 1)
    }

    /// Room for more bits, none of them set.
    pub fn grow(&mut self, len: usize) {
        self.len = self.len.max(len);
        self.words.resize(self.len.div_ceil(64), 0);
    }

    pub fn insert(&mut self, ix: usize) {
        assert!(ix < self.len, "bit {ix} of a set of {}", self.len);
        self.words[ix / 64] |= 1 << (ix % 64);
    }

    pub fn remove(&mut self, ix: usize) {
        if let Some(word) = self.words.get_mut(ix / 64) {
            *word &= !(1 << (ix % 64));
        }
    }

    pub fn count(&self) -> usize {
        self.words.iter().map(|w| w.count_ones() as usize).sum()
    }

    pub fn iter(&self) -> impl Iterator<Item = usize> {
        self.words.iter().enumerate().flat_map(|(w, &word)| {
            let mut rest = word;
            std::iter::from_fn(move || {
                (rest != 0).then(|| {
                    let bit = rest.trailing_zeros() as usize;
                    rest &= rest - 1;
                    w * 64 + bit
                })
            })
        })
    }
}

/// The items a retrieval may return: those in `base` (all, where it is `None`) that are not in `except`.
#[derive(Debug, Clone, Default)]
pub struct Allowed {
    base: Option<Arc<BitSet>>,
    /// Sorted, without repeats.
    except: Vec<ItemIx>,
}

impl Allowed {
    pub fn everything() -> Allowed {
        Allowed::default()
    }

    pub fn only(base: Arc<BitSet>) -> Allowed {
        Allowed { base: Some(base), except: Vec::new() }
    }

    pub fn without(mut self, items: impl IntoIterator<Item = ItemIx>) -> Allowed {
        self.except.extend(items);
        self.except.sort_unstable();
        self.except.dedup();
        self
    }

    #[inline]
    pub fn contains(&self, item: ItemIx) -> bool {
        self.base.as_ref().is_none_or(|b| b.contains(item.ix())) && self.except.binary_search(&item).is_err()
    }

    pub fn base(&self) -> Option<&Arc<BitSet>> {
        self.base.as_ref()
    }

    pub fn except(&self) -> &[ItemIx] {
        &self.except
    }

    /// How many of `items` items are allowed, at most (an excepted item may be outside `base`).
    pub fn at_most(&self, items: usize) -> usize {
        self.base.as_ref().map_or(items, |b| b.count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits() {
        for len in [0, 1, 63, 64, 65, 200] {
            assert_eq!(BitSet::all(len).count(), len);
            assert_eq!(BitSet::all(len).iter().collect::<Vec<_>>(), (0..len).collect::<Vec<_>>());
        }
        let mut set = BitSet::none(100);
        set.insert(3);
        set.insert(99);
        set.remove(3);
        assert_eq!(set.iter().collect::<Vec<_>>(), [99]);
        assert!(!set.contains(1000));
        set.grow(1001);
        set.insert(1000);
        set.grow(7);
        assert_eq!((set.len(), set.iter().collect::<Vec<_>>()), (1001, vec![99, 1000]));
    }

    #[test]
    fn allowed_is_base_less_except() {
        let allowed = Allowed::only(Arc::new(BitSet::all(5))).without([ItemIx(3), ItemIx(1), ItemIx(3)]);
        let left: Vec<u32> = (0..7).filter(|&i| allowed.contains(ItemIx(i))).collect();
        assert_eq!(left, [0, 2, 4]);
    }
}

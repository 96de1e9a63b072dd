//! The codes of a catalogue as a trie: which codes may follow a beginning, so that only items that exist can be written.
//!
//! Sequences lie sorted, one after the other: a node is the range of those with one beginning, its children are found by bisection,
//! and whoever may see only some items gets a trie of these, made in one pass.
//!
//! Shapes: codes (sequences × levels). Cost: children of a node children · log(range); an insertion or removal moves what lies behind.

use sommelier_core::{Allowed, ItemIx};
use std::borrow::Cow;
use std::ops::Range;

/// Code sequences of one length, each with its item; items may share one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodeTrie {
    levels: usize,
    /// Sorted.
    codes: Vec<u32>,
    /// The item of each sequence, ascending where sequences are the same.
    items: Vec<u32>,
}

/// Sequences with one beginning.
pub type Node = Range<usize>;

impl CodeTrie {
    /// Panics unless sequences have a length.
    pub fn new(levels: usize) -> CodeTrie {
        assert!(levels > 0, "code sequences have at least one code");
        CodeTrie { levels, codes: Vec::new(), items: Vec::new() }
    }

    pub fn of<'a>(levels: usize, all: impl IntoIterator<Item = (&'a [u32], u32)>) -> CodeTrie {
        let mut sorted: Vec<(&[u32], u32)> = all.into_iter().collect();
        sorted.sort_unstable();
        let mut trie = CodeTrie::new(levels);
        for (codes, item) in sorted {
            assert_eq!(codes.len(), levels, "item {item} has as many codes as the others");
            trie.codes.extend_from_slice(codes);
            trie.items.push(item);
        }
        trie
    }

    pub fn levels(&self) -> usize {
        self.levels
    }

    pub fn len(&self) -> usize {
        self.items.len()
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    fn row(&self, i: usize) -> &[u32] {
        &self.codes[i * self.levels..][..self.levels]
    }

    /// Adds an item's sequence.
    pub fn insert(&mut self, codes: &[u32], item: u32) {
        assert_eq!(codes.len(), self.levels, "item {item} has as many codes as the others");
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = usize::midpoint(low, high);
            if (self.row(middle), self.items[middle]) < (codes, item) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        self.items.insert(low, item);
        self.codes.splice(low * self.levels..low * self.levels, codes.iter().copied());
    }

    /// Takes an item's sequence out; false where it has none.
    pub fn remove(&mut self, item: u32) -> bool {
        let Some(at) = self.items.iter().position(|&i| i == item) else { return false };
        self.items.remove(at);
        self.codes.drain(at * self.levels..(at + 1) * self.levels);
        true
    }

    /// The trie of those items that are allowed.
    pub fn restricted(&self, allowed: &Allowed) -> Cow<'_, CodeTrie> {
        if allowed.base().is_none() && allowed.except().is_empty() {
            return Cow::Borrowed(self);
        }
        let mut trie = CodeTrie::new(self.levels);
        for (i, &item) in self.items.iter().enumerate() {
            if allowed.contains(ItemIx(item)) {
                trie.items.push(item);
                trie.codes.extend_from_slice(self.row(i));
            }
        }
        Cow::Owned(trie)
    }

    pub fn root(&self) -> Node {
        0..self.len()
    }

    /// The codes that follow a node of this depth, ascending, with their nodes.
    pub fn children(&self, node: Node, depth: usize) -> impl Iterator<Item = (u32, Node)> + '_ {
        let code = move |i: usize| self.codes[i * self.levels + depth];
        let mut from = node.start;
        std::iter::from_fn(move || {
            if from >= node.end {
                return None;
            }
            let own = code(from);
            // Steps that double, then bisection: most children are short.
            let (mut low, mut step) = (from, 1);
            while low + step < node.end && code(low + step) == own {
                low += step;
                step *= 2;
            }
            let mut high = (low + step).min(node.end);
            low += 1;
            while low < high {
                let middle = usize::midpoint(low, high);
                if code(middle) == own { low = middle + 1 } else { high = middle }
            }
            let child = from..low;
            from = low;
            Some((own, child))
        })
    }

    /// The child of a node of this depth that goes on with `code`; empty where none does.
    pub fn child(&self, node: Node, depth: usize, code: u32) -> Node {
        let rows = &self.codes[node.start * self.levels..node.end * self.levels];
        let below = |limit: u64| {
            let (mut low, mut high) = (0, node.len());
            while low < high {
                let middle = usize::midpoint(low, high);
                if u64::from(rows[middle * self.levels + depth]) < limit {
                    low = middle + 1;
                } else {
                    high = middle;
                }
            }
            node.start + low
        };
        below(code.into())..below(u64::from(code) + 1)
    }

    pub fn items(&self, node: Node) -> &[u32] {
        &self.items[node]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sommelier_core::BitSet;
    use std::collections::BTreeSet;
    use std::sync::Arc;

    /// All sequences, by walking down.
    fn walk(trie: &CodeTrie, node: Node, depth: usize, path: &mut Vec<u32>, out: &mut Vec<(Vec<u32>, u32)>) {
        if depth == trie.levels() {
            out.extend(trie.items(node).iter().map(|&item| (path.clone(), item)));
            return;
        }
        for (code, child) in trie.children(node.clone(), depth) {
            assert_eq!(trie.child(node.clone(), depth, code), child);
            path.push(code);
            walk(trie, child, depth + 1, path, out);
            path.pop();
        }
    }

    fn all(trie: &CodeTrie) -> Vec<(Vec<u32>, u32)> {
        let mut out = Vec::new();
        walk(trie, trie.root(), 0, &mut Vec::new(), &mut out);
        out
    }

    proptest! {
        #[test]
        fn it_holds_what_was_put_while_items_come_and_go(
            levels in 1usize..4,
            acts in prop::collection::vec((0u32..40, prop::collection::vec(0u32..4, 3), any::<bool>()), 0..80),
            hidden in prop::collection::btree_set(0u32..40, 0..20),
        ) {
            let mut trie = CodeTrie::new(levels);
            let mut plain: BTreeSet<(Vec<u32>, u32)> = BTreeSet::new();
            for (item, codes, put) in acts {
                let had = plain.iter().any(|(_, i)| *i == item);
                prop_assert_eq!(trie.remove(item), had);
                plain.retain(|(_, i)| *i != item);
                if put {
                    trie.insert(&codes[..levels], item);
                    plain.insert((codes[..levels].to_vec(), item));
                }
            }
            let expected: Vec<_> = plain.iter().cloned().collect();
            prop_assert_eq!(&all(&trie), &expected);
            let again = CodeTrie::of(levels, expected.iter().map(|(codes, item)| (&codes[..], *item)));
            prop_assert_eq!(&again, &trie);
            let mut base = BitSet::none(40);
            (0..40).filter(|i| !hidden.contains(i)).for_each(|i| base.insert(i as usize));
            let allowed = Allowed::only(Arc::new(base)).without([ItemIx(3)]);
            let left: Vec<_> = expected.into_iter().filter(|(_, i)| !hidden.contains(i) && *i != 3).collect();
            prop_assert_eq!(all(&trie.restricted(&allowed)), left);
        }
    }

    #[test]
    fn long_runs_of_one_code_are_one_child() {
        let rows: Vec<[u32; 2]> = (0..1000).map(|i| [i / 997, i % 5]).collect();
        let trie = CodeTrie::of(2, rows.iter().enumerate().map(|(i, codes)| (&codes[..], i as u32)));
        let children: Vec<_> = trie.children(trie.root(), 0).collect();
        assert_eq!(children, [(0, 0..997), (1, 997..1000)]);
        assert_eq!(trie.children(0..997, 1).map(|(_, node)| node.len()).sum::<usize>(), 997);
    }
}

//! The best code sequences that items have: a beam down the trie.
//!
//! score(item) = Σ_l log p(c_l | c_1 … c_{l−1}, history), p over all codes of a level. At each level the best `width` beginnings go
//! on, of those only that some allowed item has: nothing else can come out, and as many items come out as the width, or all.

use sommelier_core::{Candidate, ItemIx};
use sommelier_index::trie::{CodeTrie, Node};
use sommelier_nn::kernel;

/// What writes codes: told which beginnings go on, it says how likely each next code is.
pub(super) trait Writer {
    /// Scores of all codes of the first level (1 × codes).
    fn first(&mut self) -> Vec<f32>;

    /// Scores of all codes of this level for each beginning that goes on: `from` names the beginning before it, and the code it
    /// went on with (beginnings × codes).
    fn next(&mut self, level: usize, from: &[(usize, u32)]) -> Vec<f32>;
}

struct Beginning {
    score: f32,
    /// Beginning before it, and its last code.
    from: (usize, u32),
    node: Node,
    /// The same beginning in the tree that codes are told among, where they are.
    among: Node,
}

/// The best `width` items, best first, equal scores by lower index; fewer where the trie has fewer. Items with the same codes have
/// the same score. p is over the codes that go on in `among`, which has all of the trie, or else over all codes of a level.
pub(super) fn best(
    writer: &mut dyn Writer,
    among: Option<&CodeTrie>,
    trie: &CodeTrie,
    width: usize,
) -> Vec<Candidate> {
    if trie.is_empty() || width == 0 {
        return Vec::new();
    }
    let root = among.map_or(0..0, CodeTrie::root);
    let mut beam = vec![Beginning { score: 0.0, from: (0, 0), node: trie.root(), among: root }];
    for level in 0..trie.levels() {
        let mut logits = if level == 0 {
            writer.first()
        } else {
            writer.next(level, &beam.iter().map(|b| b.from).collect::<Vec<_>>())
        };
        let codes = logits.len() / beam.len();
        let mut longer: Vec<Beginning> = Vec::new();
        for (b, (beginning, row)) in beam.iter().zip(logits.chunks_exact_mut(codes)).enumerate() {
            let tree = among.map(|tree| tree.children(beginning.among.clone(), level));
            let mut tree: Vec<(u32, Node)> = tree.into_iter().flatten().collect();
            if among.is_some() {
                keep_only(row, tree.iter().map(|(code, _)| *code));
            }
            log_softmax(row);
            let mut tree = tree.drain(..);
            longer.extend(trie.children(beginning.node.clone(), level).map(|(code, node)| Beginning {
                score: beginning.score + row[code as usize],
                from: (b, code),
                node,
                among: tree.find(|(other, _)| *other == code).map_or(0..0, |(_, node)| node),
            }));
        }
        longer.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.from.cmp(&b.from)));
        longer.truncate(width);
        beam = longer;
    }
    let mut found: Vec<Candidate> = beam
        .into_iter()
        .flat_map(|b| {
            trie.items(b.node).iter().map(move |&item| Candidate { item: ItemIx(item), score: b.score })
        })
        .collect();
    found.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.item.cmp(&b.item)));
    found.truncate(width);
    found
}

/// Leaves nothing of the other codes, which come in ascending order.
pub(super) fn keep_only(row: &mut [f32], codes: impl Iterator<Item = u32>) {
    let mut from = 0;
    for code in codes {
        row[from..code as usize].fill(NEVER);
        from = code as usize + 1;
    }
    row[from..].fill(NEVER);
}

/// Score of a code that no item goes on with.
pub(super) const NEVER: f32 = -1e30;

fn log_softmax(row: &mut [f32]) {
    let top = kernel::max(row);
    let sum: f32 = row.iter().map(|x| (x - top).exp()).sum();
    let shift = top + sum.ln();
    row.iter_mut().for_each(|x| *x -= shift);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sommelier_core::{Allowed, BitSet, Rng};
    use std::collections::BTreeMap;
    use std::sync::Arc;

    /// Scores that are a hash of the codes written so far.
    struct Hash {
        codes: u32,
        paths: Vec<Vec<u32>>,
    }

    impl Hash {
        fn new(codes: u32) -> Hash {
            Hash { codes, paths: vec![Vec::new()] }
        }

        fn row(&self, path: &[u32]) -> Vec<f32> {
            let seed = path.iter().fold(7u64, |h, &c| h.wrapping_mul(31).wrapping_add(u64::from(c) + 1));
            let mut rng = Rng::new(seed);
            (0..self.codes).map(|_| 3.0 * rng.normal() as f32).collect()
        }

        /// As the header has it.
        fn score(&self, codes: &[u32]) -> f32 {
            let level = |l: usize| {
                let mut row = self.row(&codes[..l]);
                log_softmax(&mut row);
                row[codes[l] as usize]
            };
            (0..codes.len()).map(level).sum()
        }
    }

    impl Writer for Hash {
        fn first(&mut self) -> Vec<f32> {
            self.row(&[])
        }

        fn next(&mut self, level: usize, from: &[(usize, u32)]) -> Vec<f32> {
            let longer = |&(b, code): &(usize, u32)| [&self.paths[b][..], &[code]].concat();
            self.paths = from.iter().map(longer).collect();
            assert!(self.paths.iter().all(|p| p.len() == level));
            self.paths.iter().flat_map(|path| self.row(path)).collect()
        }
    }

    proptest! {
        #[test]
        fn only_allowed_items_come_out_and_a_wide_beam_finds_the_best(
            items in prop::collection::vec((0u32..5, 0u32..5, 0u32..5), 1..60),
            hidden in prop::collection::btree_set(0usize..60, 0..40),
            width in 1usize..80,
        ) {
            let rows: Vec<[u32; 3]> = items.iter().map(|&(a, b, c)| [a, b, c]).collect();
            let trie = CodeTrie::of(3, rows.iter().enumerate().map(|(i, codes)| (&codes[..], i as u32)));
            let mut base = BitSet::none(rows.len());
            (0..rows.len()).filter(|i| !hidden.contains(i)).for_each(|i| base.insert(i));
            let allowed = Allowed::only(Arc::new(base));
            let trie = trie.restricted(&allowed);
            let found = best(&mut Hash::new(5), None, &trie, width);
            prop_assert_eq!(found.len(), width.min(trie.len()), "as many as asked for, or all there are");
            let plain = Hash::new(5);
            for c in &found {
                prop_assert!(allowed.contains(c.item));
                prop_assert!((c.score - plain.score(&rows[c.item.ix()])).abs() < 1e-4);
            }
            // Among the codes that go on in the tree, the chances of all there are add up to one, whatever is allowed.
            let whole = CodeTrie::of(3, rows.iter().enumerate().map(|(i, codes)| (&codes[..], i as u32)));
            let every = best(&mut Hash::new(5), Some(&whole), &whole, rows.len());
            let chances: BTreeMap<[u32; 3], f32> = every.iter().map(|c| (rows[c.item.ix()], c.score)).collect();
            prop_assert!((chances.values().map(|score| score.exp()).sum::<f32>() - 1.0).abs() < 1e-3);
            for c in best(&mut Hash::new(5), Some(&whole), &trie, width) {
                prop_assert!(allowed.contains(c.item) && (c.score - chances[&rows[c.item.ix()]]).abs() < 1e-4);
            }
            if width >= rows.len() {
                let mut all: Vec<f32> = (0..rows.len())
                    .filter(|&i| allowed.contains(ItemIx(i as u32)))
                    .map(|i| plain.score(&rows[i]))
                    .collect();
                all.sort_by(|a, b| b.total_cmp(a));
                prop_assert!(found.iter().zip(&all).all(|(c, s)| (c.score - s).abs() < 1e-4));
            }
        }
    }
}

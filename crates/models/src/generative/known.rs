//! The codes of the items that a model knows, and where they stand among its tokens.

use super::search::keep_only;
use sommelier_core::Item;
use sommelier_data::Snapshot;
use sommelier_index::trie::CodeTrie;

use crate::{FitError, LoadError, Weights};
use serde::{Deserialize, Serialize};

/// Among which codes the next one is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Among {
    /// All codes of its level.
    #[default]
    Level,
    /// Those that go on with what was told before as some item does, so that nothing is learned of codes that cannot come.
    Tree,
}

/// Code of an item that has none.
const NONE: u32 = u32::MAX;
const SIZES: &str = "codes.sizes";
const ITEMS: &str = "codes.items";

/// Codes by item. Tokens are numbered level by level: code k of level l is token `starts[l] + k`.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub sizes: Vec<u32>,
    /// First token of each level.
    starts: Vec<u32>,
    /// Items × levels; later items lie behind the fitted ones.
    rows: Vec<u32>,
    pub trie: CodeTrie,
    among: Among,
    /// Items at the fit.
    pub fitted: usize,
}

impl Known {
    pub fn of(snapshot: &Snapshot, among: Among) -> Result<Known, FitError> {
        let codes = snapshot.codes.as_ref().ok_or_else(|| {
            FitError::NoData(
                "items have no codes: the recipe must say how they get them ([encode] and [tokenise])".into(),
            )
        })?;
        let rows = codes.rows.chunks_exact(codes.sizes.len()).zip(&codes.known);
        let rows = rows.flat_map(|(row, &known)| row.iter().map(move |&k| if known { k } else { NONE }));
        let known = Known::new(codes.sizes.clone(), rows.collect(), among);
        if known.trie.is_empty() {
            return Err(FitError::NoData("no item has codes: none has a vector to make them from".into()));
        }
        Ok(known)
    }

    fn new(sizes: Vec<u32>, rows: Vec<u32>, among: Among) -> Known {
        let levels = sizes.len();
        let coded = rows.chunks_exact(levels).enumerate().filter(|(_, codes)| codes[0] != NONE);
        let trie = CodeTrie::of(levels, coded.map(|(item, codes)| (codes, item as u32)));
        let starts = sizes.iter().scan(0, |sum, &size| {
            let start = *sum;
            *sum += size;
            Some(start)
        });
        Known { starts: starts.collect(), fitted: rows.len() / levels, sizes, rows, trie, among }
    }

    pub fn load(weights: &Weights, among: Among) -> Result<Known, LoadError> {
        let (_, sizes) = weights.u32(SIZES)?;
        let (shape, rows) = weights.u32(ITEMS)?;
        let received = shape.to_vec();
        let fine = !sizes.is_empty()
            && !sizes.contains(&0)
            && received.len() == 2
            && received[1] == sizes.len()
            && rows
                .chunks_exact(sizes.len())
                .all(|row| row.iter().all(|&k| k == NONE) || row.iter().zip(sizes).all(|(k, size)| k < size));
        if !fine {
            let expected = vec![received.first().copied().unwrap_or(0), sizes.len()];
            return Err(LoadError::Shape { name: ITEMS.to_owned(), expected, received });
        }
        Ok(Known::new(sizes.to_vec(), rows.to_vec(), among))
    }

    /// Of the fitted items; whoever loads them is told of later ones again.
    pub fn store(&self, weights: &mut Weights) {
        let levels = self.levels();
        weights.set_u32(SIZES, &[levels], self.sizes.clone());
        weights.set_u32(ITEMS, &[self.fitted, levels], self.rows[..self.fitted * levels].to_vec());
    }

    pub fn levels(&self) -> usize {
        self.sizes.len()
    }

    /// The tree that codes are told among; `None` for all codes of a level.
    pub fn among(&self) -> Option<&CodeTrie> {
        (self.among == Among::Tree).then_some(&self.trie)
    }

    /// For rows of scores of a level, told behind these beginnings (a list of codes for each level before it): 0 where a code goes on,
    /// a score that never wins elsewhere (rows × codes); `None` where all may come.
    pub fn mask(&self, before: &[Vec<u32>], rows: usize) -> Option<Vec<f32>> {
        let (tree, level) = (self.among().filter(|_| !before.is_empty())?, before.len());
        let codes = self.sizes[level] as usize;
        let mut mask = vec![0f32; rows * codes];
        for (r, row) in mask.chunks_exact_mut(codes).enumerate() {
            let mut node = tree.root();
            for (depth, told) in before.iter().enumerate() {
                node = tree.child(node, depth, told[r]);
            }
            keep_only(row, tree.children(node, level).map(|(code, _)| code));
        }
        Some(mask)
    }

    /// Tokens of all levels.
    pub fn tokens(&self) -> u32 {
        self.sizes.iter().sum()
    }

    pub fn start(&self, level: usize) -> u32 {
        self.starts[level]
    }

    pub fn codes(&self, item: u32) -> Option<&[u32]> {
        let levels = self.levels();
        self.rows.get(item as usize * levels..(item as usize + 1) * levels).filter(|codes| codes[0] != NONE)
    }

    /// The tokens of an item's codes; none where it has none.
    pub fn tokens_of(&self, item: u32) -> impl Iterator<Item = u32> + '_ {
        self.codes(item).unwrap_or_default().iter().zip(&self.starts).map(|(code, start)| start + code)
    }

    /// Takes in the codes of an item that came, or came again, after the fit; true if it has some from now on.
    pub fn meet(&mut self, item: u32, info: &Item) -> bool {
        if (item as usize) < self.fitted {
            // What was learned of it was learned under these codes.
            return self.codes(item).is_some();
        }
        let levels = self.levels();
        let Some(codes) = codes_of(info, &self.sizes) else {
            if self.trie.remove(item) {
                self.rows[item as usize * levels..][..levels].fill(NONE);
            }
            return false;
        };
        if self.codes(item) == Some(&codes) {
            return true;
        }
        self.trie.remove(item);
        let end = (item as usize + 1) * levels;
        if self.rows.len() < end {
            self.rows.resize(end, NONE);
        }
        self.rows[end - levels..end].copy_from_slice(&codes);
        self.trie.insert(&codes, item);
        true
    }
}

/// The codes that the engine gave an item.
fn codes_of(info: &Item, sizes: &[u32]) -> Option<Vec<u32>> {
    let list = info.properties.get(sommelier_core::CODES)?.as_array()?;
    let code = |v: &serde_json::Value| v.as_u64().and_then(|k| u32::try_from(k).ok());
    let codes: Vec<u32> = list.iter().map(code).collect::<Option<_>>()?;
    let fits = codes.len() == sizes.len() && codes.iter().zip(sizes).all(|(k, size)| k < size);
    fits.then_some(codes)
}

//! The codes of a catalogue as people look at them: how good they are, which items begin alike, and who is like one item.
//!
//! They come of a recipe, which is fitted up to its codes and no further, or of an artefact, with the items that came after its fit.

use crate::artefact::{ArtefactInfo, watched};
use crate::catalogue::Catalogue;
use crate::error::{EngineError, near};
use crate::prepare::{Prepared, prepare};
use crate::recipe::Recipe;
use serde::Serialize;
use sommelier_core::{FitContext, Item};
use sommelier_data::Snapshot;
use sommelier_encode::tokenise::Quality;
use sommelier_index::trie::{CodeTrie, Node};
use std::cmp::Reverse;
use std::collections::HashMap;

/// Codes that an error names, of those that would have been right.
const NAMED: usize = 10;

/// A catalogue's codes, and the items that have them.
pub struct CodeTree {
    /// Of the recipe or artefact.
    pub name: String,
    /// How many codes there are at each level.
    pub sizes: Vec<u32>,
    /// Of the codes that were fitted: later items are not in it.
    pub quality: Quality,
    items: Vec<Coded>,
    /// Ids of items without codes.
    without: Vec<String>,
    /// Of indices into `items`.
    trie: CodeTrie,
}

/// An item that has codes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Coded {
    pub id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// It came after the fit.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub later: bool,
    #[serde(skip)]
    codes: Vec<u32>,
}

/// How much of a tree is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// Levels. An item that is alone with its beginning is always shown with all its codes.
    pub depth: usize,
    /// Codes that follow one beginning, the most common first; and items named at an end.
    pub width: usize,
}

/// Items whose codes begin alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Branch<'a> {
    /// The last code of the beginning; none where all items are meant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<u32>,
    /// How many items.
    pub count: usize,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub children: Vec<Branch<'a>>,
    /// Where codes end, or the view does: the items, or some that lie evenly among them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub items: Vec<&'a Coded>,
    /// Children, or items, that are not listed.
    #[serde(skip_serializing_if = "is_zero")]
    pub more: usize,
}

/// An item among those whose codes begin like its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Family<'a> {
    #[serde(flatten)]
    pub item: &'a Coded,
    pub codes: &'a [u32],
    /// One for each level.
    pub levels: Vec<Siblings<'a>>,
}

/// Items that have one beginning in common with an item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Siblings<'a> {
    pub beginning: &'a [u32],
    /// How many items begin so, itself too.
    pub count: usize,
    /// Those of them whose next code is another one, or some that lie evenly among them; at the last level those with the same
    /// codes.
    pub items: Vec<&'a Coded>,
    /// Such items that are not listed.
    #[serde(skip_serializing_if = "is_zero")]
    pub more: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_zero(n: &usize) -> bool {
    *n == 0
}

impl View {
    pub const ALL: View = View { depth: usize::MAX, width: usize::MAX };
}

impl CodeTree {
    /// Fits the recipe up to its codes, on the current rayon pool. The same snapshot, seed and threads give the codes that
    /// training it would give.
    pub fn of_recipe(
        recipe: &Recipe,
        snapshot: &Snapshot,
        ctx: &mut FitContext,
    ) -> Result<CodeTree, EngineError> {
        if recipe.tokenise.is_none() {
            let reason = "it makes no codes, for it has no [tokenise]; tiger_decoder is a recipe that has";
            return Err(EngineError::Recipe { name: recipe.name.clone(), reason: reason.into() });
        }
        let recipe = &Recipe { wish: None, ..recipe.clone() };
        let snapshot = recipe.data.filters.apply(snapshot);
        let watched = watched(recipe, &snapshot, ctx);
        let learnt = watched.as_ref().map_or(&snapshot, |split| &split.train);
        let (_, prepared) = prepare(recipe, learnt, ctx)?;
        let items = (0u32..).zip(learnt.items.iter().zip(&*learnt.item_info));
        let items = items.map(|(i, (id, info))| (i, id, info.as_ref()));
        CodeTree::of(&recipe.name, &prepared, prepared.quality.as_ref(), learnt.items.len(), items)
    }

    pub(crate) fn of_artefact(
        info: &ArtefactInfo,
        prepared: &Prepared,
        catalogue: &Catalogue,
    ) -> Result<CodeTree, EngineError> {
        let items = catalogue
            .slots()
            .map(|slot| (slot, catalogue.id(slot), catalogue.item(slot).map(|item| &**item)));
        CodeTree::of(&info.name, prepared, info.codes.as_ref(), info.items, items)
    }

    /// `items`: index, id and what is known of each; those from `fitted` on came after the fit.
    fn of<'a>(
        name: &str,
        prepared: &Prepared,
        quality: Option<&Quality>,
        fitted: usize,
        items: impl Iterator<Item = (u32, &'a str, Option<&'a Item>)>,
    ) -> Result<CodeTree, EngineError> {
        let (Some(sizes), Some(quality)) = (prepared.sizes(), quality) else {
            return Err(EngineError::Invalid(format!(
                "{name} has no codes, for its recipe has no [tokenise]; train one that has, such as tiger_decoder"
            )));
        };
        let of_fit: HashMap<u32, &[u32]> = prepared.codes().collect();
        let (mut coded, mut without) = (Vec::new(), Vec::new());
        for (index, id, info) in items {
            let later = index as usize >= fitted;
            let codes = if later {
                prepared.later_codes(id)
            } else {
                of_fit.get(&index).map(|&codes| codes.to_vec())
            };
            match codes {
                Some(codes) => coded.push(Coded {
                    id: id.to_owned(),
                    title: info.and_then(Item::title).map(str::to_owned),
                    later,
                    codes,
                }),
                None => without.push(id.to_owned()),
            }
        }
        CodeTree::new(name, sizes.to_vec(), quality.clone(), coded, without)
    }

    fn new(
        name: &str,
        sizes: Vec<u32>,
        quality: Quality,
        items: Vec<Coded>,
        without: Vec<String>,
    ) -> Result<CodeTree, EngineError> {
        if items.is_empty() {
            return Err(EngineError::Invalid(format!(
                "no item has codes: of those that had any none is left, and {} have none",
                without.len()
            )));
        }
        let trie = CodeTrie::of(sizes.len(), items.iter().zip(0..).map(|(item, i)| (&item.codes[..], i)));
        Ok(CodeTree { name: name.to_owned(), sizes, quality, items, without, trie })
    }

    /// How many items have codes.
    pub fn items(&self) -> usize {
        self.items.len()
    }

    /// How many of them came after the fit.
    pub fn later(&self) -> usize {
        self.items.iter().filter(|item| item.later).count()
    }

    /// How many items have no codes.
    pub fn without(&self) -> usize {
        self.without.len()
    }

    /// The items whose codes begin so; all for an empty beginning.
    pub fn under(&self, beginning: &[u32], view: View) -> Result<Branch<'_>, EngineError> {
        let node = self.find(beginning)?;
        Ok(self.branch(node, beginning.last().copied(), beginning.len(), view))
    }

    /// Of others at most `most` are listed for each level.
    pub fn family(&self, id: &str, most: usize) -> Result<Family<'_>, EngineError> {
        let at = self.items.iter().position(|item| item.id == id).ok_or_else(|| self.unknown(id))?;
        let item = &self.items[at];
        let mut levels = Vec::new();
        let mut node = self.find(&item.codes[..1])?;
        for depth in 1..=self.sizes.len() {
            let next = item.codes.get(depth).map(|&code| self.child(node.clone(), depth, code));
            let next = next.flatten();
            let parts = |i: &usize| next.as_ref().is_none_or(|next| !next.contains(i));
            let others = node.clone().filter(parts).map(|i| self.trie.items(i..i + 1)[0] as usize);
            let others: Vec<&Coded> = others.filter(|&other| other != at).map(|i| &self.items[i]).collect();
            levels.push(Siblings {
                beginning: &item.codes[..depth],
                count: node.len(),
                items: spread(others.len(), most).map(|i| others[i]).collect(),
                more: others.len().saturating_sub(most),
            });
            node = next.unwrap_or(node);
        }
        Ok(Family { item, codes: &item.codes, levels })
    }

    fn branch(&self, node: Node, code: Option<u32>, depth: usize, view: View) -> Branch<'_> {
        let count = node.len();
        let mut branch = Branch { code, count, children: Vec::new(), items: Vec::new(), more: 0 };
        if depth == self.sizes.len() || view.depth == 0 && count > 1 {
            let items = self.trie.items(node);
            branch.items = spread(count, view.width).map(|i| &self.items[items[i] as usize]).collect();
            branch.more = count - branch.items.len();
            return branch;
        }
        let mut children: Vec<(u32, Node)> = self.trie.children(node, depth).collect();
        children.sort_by_key(|(code, node)| (Reverse(node.len()), *code));
        branch.more = children.len().saturating_sub(view.width);
        let below = View { depth: view.depth.saturating_sub(1), ..view };
        branch.children = children
            .into_iter()
            .take(view.width)
            .map(|(code, node)| self.branch(node, Some(code), depth + 1, below))
            .collect();
        branch
    }

    fn child(&self, node: Node, depth: usize, code: u32) -> Option<Node> {
        self.trie.children(node, depth).find(|(own, _)| *own == code).map(|(_, child)| child)
    }

    fn find(&self, beginning: &[u32]) -> Result<Node, EngineError> {
        let levels = self.sizes.len();
        if beginning.len() > levels {
            let received = words(beginning);
            return Err(EngineError::Invalid(format!("items have {levels} codes each, received {received}")));
        }
        let mut node = self.trie.root();
        for (depth, &code) in beginning.iter().enumerate() {
            node = self
                .child(node.clone(), depth, code)
                .ok_or_else(|| self.no_such(&beginning[..=depth], node.clone()))?;
        }
        Ok(node)
    }

    /// No codes begin so; `node` is where they left the tree.
    fn no_such(&self, beginning: &[u32], node: Node) -> EngineError {
        let before = &beginning[..beginning.len() - 1];
        let mut codes: Vec<u32> = self.trie.children(node, before.len()).map(|(code, _)| code).collect();
        let more = if codes.len() > NAMED { ", …" } else { "" };
        codes.truncate(NAMED);
        let begin = words(beginning);
        let (after, codes) = (words(before), words(&codes).replace(',', ", "));
        let place =
            if before.is_empty() { "the first ones are".into() } else { format!("after {after} come") };
        EngineError::Invalid(format!("no item's codes begin with {begin}; {place} {codes}{more}"))
    }

    fn unknown(&self, id: &str) -> EngineError {
        if self.without.iter().any(|other| other == id) {
            return EngineError::Invalid(format!(
                "item {id:?} has no codes: it has no vector to make them of"
            ));
        }
        let known = self.items.iter().map(|item| item.id.as_str());
        EngineError::Invalid(format!("item {id:?} is unknown{}", near(id, known)))
    }
}

/// `12,7`: a beginning as people type it.
fn words(codes: &[u32]) -> String {
    codes.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

/// At most `most` of so many, evenly.
fn spread(all: usize, most: usize) -> impl Iterator<Item = usize> {
    let shown = all.min(most);
    (0..shown).map(move |i| i * all / shown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tree(levels: usize, rows: &[Vec<u32>]) -> CodeTree {
        let quality = Quality {
            items: rows.len(),
            collisions: 0.0,
            largest_group: 1,
            reconstruction: None,
            neighbours: None,
            levels: Vec::new(),
        };
        let item = |(i, codes): (usize, &Vec<u32>)| Coded {
            id: format!("i{i}"),
            title: Some(format!("Title {i}")),
            later: i == 0,
            codes: codes.clone(),
        };
        let items = rows.iter().enumerate().map(item).collect();
        CodeTree::new("t", vec![9; levels], quality, items, vec!["bare".into()]).unwrap()
    }

    /// i0 and i1 have the same codes; i2 begins as they do, i3 and i4 do not.
    fn shelf() -> CodeTree {
        tree(2, &[vec![1, 5], vec![1, 5], vec![1, 6], vec![4, 0], vec![7, 0]])
    }

    fn ids<'a>(items: &[&'a Coded]) -> Vec<&'a str> {
        items.iter().map(|item| item.id.as_str()).collect()
    }

    /// Items named below a branch, in order.
    fn named<'a>(branch: &Branch<'a>) -> Vec<&'a str> {
        let below = branch.children.iter().flat_map(named);
        ids(&branch.items).into_iter().chain(below).collect()
    }

    #[test]
    fn a_whole_tree_names_every_item_the_largest_branch_first() {
        let shelf = shelf();
        let all = shelf.under(&[], View::ALL).unwrap();
        assert_eq!((all.code, all.count, all.more), (None, 5, 0));
        let first: Vec<_> = all.children.iter().map(|b| (b.code.unwrap(), b.count)).collect();
        assert_eq!(first, [(1, 3), (4, 1), (7, 1)]);
        assert_eq!(named(&all), ["i0", "i1", "i2", "i3", "i4"]);
        assert!(all.items.is_empty() && all.children[0].items.is_empty(), "only ends name items");
        let json = serde_json::to_value(&all.children[0].children[0]).unwrap();
        let (first, second) = (
            serde_json::json!({"id": "i0", "title": "Title 0", "later": true}),
            serde_json::json!({"id": "i1", "title": "Title 1"}),
        );
        assert_eq!(json, serde_json::json!({"code": 5, "count": 2, "items": [first, second]}));
        assert_eq!((shelf.items(), shelf.later(), shelf.without()), (5, 1, 1));
    }

    #[test]
    fn depth_and_width_say_what_they_leave_out() {
        let shelf = shelf();
        let top = shelf.under(&[], View { depth: 1, width: 2 }).unwrap();
        assert_eq!((top.children.len(), top.more), (2, 1));
        // Three items end here, two of them named: the first and one from the middle. i3 is alone and goes to its end.
        assert_eq!((ids(&top.children[0].items), top.children[0].more), (vec!["i0", "i1"], 1));
        assert_eq!(top.children[1].children[0].code, Some(0));
        let below = shelf.under(&[1], View::ALL).unwrap();
        assert_eq!((below.code, below.count, named(&below)), (Some(1), 3, vec!["i0", "i1", "i2"]));
        let end = shelf.under(&[1, 5], View::ALL).unwrap();
        assert_eq!((end.code, ids(&end.items)), (Some(5), vec!["i0", "i1"]));
    }

    #[test]
    fn a_family_lists_each_other_item_where_it_parts() {
        let shelf = shelf();
        let family = shelf.family("i0", 10).unwrap();
        let [first, second] = &family.levels[..] else { panic!("{family:?}") };
        assert_eq!((family.codes, first.beginning, second.beginning), (&[1, 5][..], &[1][..], &[1, 5][..]));
        assert_eq!((first.count, ids(&first.items), first.more), (3, vec!["i2"], 0));
        assert_eq!((second.count, ids(&second.items), second.more), (2, vec!["i1"], 0));
        let alone = shelf.family("i4", 10).unwrap();
        assert!(alone.levels.iter().all(|level| level.count == 1 && level.items.is_empty()));
        let few = shelf.family("i2", 1).unwrap();
        assert_eq!((ids(&few.levels[0].items), few.levels[0].more), (vec!["i0"], 1));
    }

    #[test]
    fn what_is_not_there_is_said_in_words() {
        let shelf = shelf();
        let under = |beginning: &[u32]| shelf.under(beginning, View::ALL).unwrap_err().to_string();
        assert_eq!(under(&[2]), "no item's codes begin with 2; the first ones are 1, 4, 7");
        assert_eq!(under(&[1, 0]), "no item's codes begin with 1,0; after 1 come 5, 6");
        assert_eq!(under(&[1, 5, 0]), "items have 2 codes each, received 1,5,0");
        let family = |id: &str| shelf.family(id, 1).unwrap_err().to_string();
        assert!(family("bare").contains("has no vector"), "{}", family("bare"));
        assert!(family("i9").contains("unknown (did you mean"), "{}", family("i9"));
        let many: Vec<Vec<u32>> = (0..9).chain(0..9).map(|i| vec![i]).collect();
        assert!(tree(1, &many).under(&[11], View::ALL).unwrap_err().to_string().ends_with("7, 8"));
        let empty = CodeTree::new("t", vec![2], shelf.quality.clone(), Vec::new(), vec!["bare".into()]);
        assert!(empty.is_err_and(|e| e.to_string().contains("no item has codes")));
    }

    /// What is listed and what is said to be left out are all there is, under every branch.
    fn check(branch: &Branch, depth: usize, levels: usize, view: View) {
        assert!(branch.children.is_empty() != branch.items.is_empty(), "{branch:?}");
        if branch.children.is_empty() {
            assert_eq!(branch.items.len() + branch.more, branch.count);
            assert!(depth == levels || view.depth == 0 && branch.count > 1);
        } else {
            let below: usize = branch.children.iter().map(|child| child.count).sum();
            assert!(if branch.more == 0 { below == branch.count } else { below < branch.count });
            assert!(branch.children.is_sorted_by_key(|child| Reverse(child.count)));
        }
        assert!(branch.children.len() <= view.width && branch.items.len() <= view.width);
        let view = View { depth: view.depth.saturating_sub(1), ..view };
        branch.children.iter().for_each(|child| check(child, depth + 1, levels, view));
    }

    proptest! {
        #[test]
        fn counts_add_up_in_every_view(
            rows in prop::collection::vec(prop::collection::vec(0u32..4, 3), 1..40),
            depth in 0usize..5,
            width in 1usize..6,
            most in 1usize..6,
        ) {
            let tree = tree(3, &rows);
            let all = tree.under(&[], View::ALL).unwrap();
            let (mut every, mut expected) = (named(&all), Vec::new());
            expected.extend((0..rows.len()).map(|i| format!("i{i}")));
            every.sort_unstable();
            expected.sort_unstable();
            prop_assert_eq!(every, expected);
            check(&all, 0, 3, View::ALL);
            let view = View { depth, width };
            check(&tree.under(&[], view).unwrap(), 0, 3, view);
            for (i, row) in rows.iter().enumerate() {
                let family = tree.family(&format!("i{i}"), most).unwrap();
                let others: usize = family.levels.iter().map(|l| l.items.len() + l.more).sum();
                let begin = rows.iter().filter(|other| other[0] == row[0]).count();
                prop_assert_eq!((others, family.levels[0].count), (begin - 1, begin));
                for (level, siblings) in family.levels.iter().enumerate() {
                    prop_assert_eq!(siblings.beginning, &row[..=level]);
                    prop_assert_eq!(siblings.count, tree.under(&row[..=level], view).unwrap().count);
                }
            }
        }
    }
}

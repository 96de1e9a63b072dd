//! A tree of k-means: each code divides what the codes before it have in common.
//!
//! The root's centres are k-means of all vectors; a centre's own are k-means of what is nearest to it. Codes with a common
//! beginning lie in one place, which no other beginning reaches: a browsable map of the catalogue.
//!
//! Shapes: x (n × d); centres (codes × d) for each beginning that at least two vectors have. A beginning with one vector
//! goes on with zeros, and any code after it stands for that vector. Cost: 2 n codes d levels a round; memory the centres, at most n of them a level.
//! Source: Nister and Stewenius, "Scalable Recognition with a Vocabulary Tree", CVPR 2006; for semantic IDs, Si et al.,
//! "Generative Retrieval with Semantic Tree-Structured Item Identifiers via Contrastive Learning" (SEATER), 2023, arXiv:2309.13375.
//! Departures: k-means is not forced to be balanced; see `unique.rs` for what shares a leaf.

use super::{Tokeniser, centres_of, counts_of, damaged};
use crate::kmeans::{Centres, KMeans};
use crate::{EncodeError, Rows, require};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sommelier_core::{FitContext, Rng};
use sommelier_nn::{LoadError, Weights, kernel};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TreeConfig {
    pub levels: usize,
    /// Branches of each node, at most.
    pub codes: usize,
    /// Rounds of k-means of each node, at most.
    pub rounds: usize,
}

impl Default for TreeConfig {
    fn default() -> TreeConfig {
        TreeConfig { levels: 4, codes: 16, rounds: 25 }
    }
}

/// One beginning of codes.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    pub centres: Centres,
    /// The node of each centre; `None` where nothing divides it further.
    pub children: Vec<Option<u32>>,
}

/// A fitted tree; its first node is the root.
#[derive(Debug, Clone, PartialEq)]
pub struct Tree {
    dim: usize,
    sizes: Vec<u32>,
    nodes: Vec<Node>,
}

impl TreeConfig {
    /// On the current rayon pool. The same vectors, seed and settings give the same tree on any number of threads.
    pub fn fit(&self, x: Rows, ctx: &FitContext) -> Result<Tree, EncodeError> {
        require("levels", self.levels as f64, self.levels > 0, "at least 1")?;
        require("codes", self.codes as f64, self.codes > 1, "at least 2")?;
        require("codes", self.codes as f64, u32::try_from(self.codes).is_ok(), "below 2³²")?;
        x.check()?;
        let kmeans = |n: usize| KMeans { rounds: self.rounds, ..KMeans::new(self.codes.min(n)) };
        let root = kmeans(x.len()).fit(x, &mut Rng::stream(ctx.seed, 0), ctx)?;
        let mut nodes = vec![Node { children: vec![None; root.len()], centres: root }];
        // The vectors of each node of the level, by their places in x.
        let mut level: Vec<(usize, Vec<usize>)> = vec![(0, (0..x.len()).collect())];
        ctx.progress.start("codes", Some(self.levels as u64));
        for depth in 1..self.levels {
            let mut inner: Vec<(usize, usize, Vec<usize>)> = Vec::new();
            for (node, members) in level {
                let centres = &nodes[node].centres;
                let mut parts = vec![Vec::new(); centres.len()];
                let nearest = centres.nearest(Rows::new(&x.pick(&members), x.dim));
                members.into_iter().zip(nearest).for_each(|(i, (k, _))| parts[k as usize].push(i));
                let several = parts.into_iter().enumerate().filter(|(_, part)| part.len() > 1);
                inner.extend(several.map(|(k, part)| (node, k, part)));
            }
            let fit = |(node, k, members): &(usize, usize, Vec<usize>)| {
                let mut rng = Rng::stream(ctx.seed, (*node * self.codes + k + 1) as u64);
                kmeans(members.len()).fit(Rows::new(&x.pick(members), x.dim), &mut rng, ctx)
            };
            let fitted = inner.par_iter().map(fit).collect::<Result<Vec<_>, _>>()?;
            level = Vec::with_capacity(inner.len());
            for ((node, k, members), centres) in inner.into_iter().zip(fitted) {
                let child = nodes.len();
                nodes[node].children[k] = Some(child as u32);
                nodes.push(Node { children: vec![None; centres.len()], centres });
                level.push((child, members));
            }
            ctx.progress.at(depth as u64 + 1);
        }
        ctx.progress.finish();
        Ok(Tree { dim: x.dim, sizes: vec![self.codes as u32; self.levels], nodes })
    }

    pub fn load(&self, weights: &Weights) -> Result<Tree, LoadError> {
        let sizes = counts_of(weights, "sizes", 2)?;
        let branches = counts_of(weights, "branches", 1)?;
        let all: u64 = branches.iter().map(|&b| u64::from(b)).sum();
        let centres = centres_of(weights, "centres", all)?;
        let (_, children) = weights.u32("children")?;
        let leads = |&child: &u32| child == NO_NODE || (child as usize) < branches.len();
        if children.len() as u64 != all
            || !children.iter().all(leads)
            || branches.iter().any(|&b| b > sizes[0])
        {
            return Err(damaged("children does not describe a tree"));
        }
        let mut from = 0;
        let node = |&count: &u32| {
            let range = from..from + count as usize;
            from = range.end;
            let rows = &centres.rows[range.start * centres.dim..range.end * centres.dim];
            let children = &children[range];
            Node {
                centres: Centres::new(rows.to_vec(), centres.dim),
                children: children.iter().map(|&c| (c != NO_NODE).then_some(c)).collect(),
            }
        };
        let nodes = branches.iter().map(node).collect();
        Ok(Tree { dim: centres.dim, sizes, nodes })
    }
}

/// Stored in place of a child where there is none.
const NO_NODE: u32 = u32::MAX;

impl Tree {
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }
}

impl Tokeniser for Tree {
    fn dim(&self) -> usize {
        self.dim
    }

    fn sizes(&self) -> &[u32] {
        &self.sizes
    }

    fn encode(&self, x: Rows) -> Vec<u32> {
        let walk = |x: &[f32]| {
            let mut codes = vec![0u32; self.sizes.len()];
            let mut at = Some(0);
            for code in &mut codes {
                let Some(node) = at else { break };
                let node: &Node = &self.nodes[node as usize];
                *code = node.centres.nearest_of(x);
                at = node.children[*code as usize];
            }
            codes
        };
        x.data.par_chunks(x.dim).map(walk).collect::<Vec<_>>().concat()
    }

    fn decode(&self, codes: &[u32]) -> Vec<f32> {
        let mut out = Vec::with_capacity(codes.len() / self.sizes.len() * self.dim);
        for codes in codes.chunks_exact(self.sizes.len()) {
            let (mut at, mut centre) = (Some(0), &[][..]);
            for &code in codes {
                let Some(node) = at else { break };
                let node: &Node = &self.nodes[node as usize];
                centre = node.centres.row(code as usize);
                at = node.children[code as usize];
            }
            out.extend_from_slice(centre);
        }
        out
    }

    fn best(&self, x: &[f32], most: usize) -> Vec<(Vec<u32>, f32)> {
        // Codes so far, their squared distance, and the node that goes on.
        let mut beam: Vec<(Vec<u32>, f32, Option<u32>)> = vec![(Vec::new(), 0.0, Some(0))];
        for _ in &self.sizes {
            let mut longer = Vec::new();
            for (codes, distance, at) in beam {
                let with = |code: u32| [&codes[..], &[code]].concat();
                let Some(node) = at else {
                    longer.extend((0..self.sizes[codes.len()]).take(most).map(|k| (with(k), distance, None)));
                    continue;
                };
                let node: &Node = &self.nodes[node as usize];
                let mut scores = vec![0f32; node.centres.len()];
                node.centres.scores(Rows::new(x, self.dim), &mut scores);
                let own = kernel::dot(x, x);
                longer.extend(
                    scores
                        .iter()
                        .enumerate()
                        .map(|(k, score)| (with(k as u32), (own - 2.0 * score).max(0.0), node.children[k])),
                );
            }
            longer.sort_by(|a, b| a.1.total_cmp(&b.1).then_with(|| a.0.cmp(&b.0)));
            longer.truncate(most);
            beam = longer;
        }
        beam.into_iter().map(|(codes, distance, _)| (codes, distance)).collect()
    }

    fn weights(&self) -> Weights {
        let mut weights = Weights::default();
        let branches: Vec<u32> = self.nodes.iter().map(|n| n.centres.len() as u32).collect();
        let children: Vec<u32> =
            self.nodes.iter().flat_map(|n| &n.children).map(|c| c.unwrap_or(NO_NODE)).collect();
        let centres: Vec<f32> = self.nodes.iter().flat_map(|n| &n.centres.rows).copied().collect();
        weights.set_u32("sizes", &[self.sizes.len()], self.sizes.clone());
        weights.set_u32("branches", &[branches.len()], branches);
        weights.set_f32("centres", &[children.len(), self.dim], centres);
        weights.set_u32("children", &[children.len()], children);
        weights
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::grouped;
    use super::*;
    use std::collections::{HashMap, HashSet};

    #[test]
    fn a_beginning_is_a_place() {
        let data = grouped(400, 5, 20, 1);
        let x = Rows::new(&data, 5);
        let tree = TreeConfig { levels: 3, codes: 6, rounds: 25 }.fit(x, &FitContext::quiet(1)).unwrap();
        let codes = tree.encode(x);
        // Each code is the nearest of the centres that its beginning has, and what it stands for is the last of them.
        let known = tree.decode(&codes);
        for (i, own) in codes.chunks_exact(3).enumerate() {
            let far = |c: &[f32]| c.iter().zip(x.row(i)).map(|(a, b)| (a - b) * (a - b)).sum::<f32>();
            let (mut at, mut last) = (Some(0u32), None);
            for &code in own {
                let Some(node) = at.map(|n| &tree.nodes()[n as usize]) else {
                    assert_eq!(code, 0);
                    continue;
                };
                let least =
                    (0..node.centres.len()).map(|k| far(node.centres.row(k))).fold(f32::INFINITY, f32::min);
                last = Some(node.centres.row(code as usize));
                assert!(far(node.centres.row(code as usize)) < least + 1e-4);
                at = node.children[code as usize];
            }
            assert_eq!(last, Some(&known[i * 5..][..5]));
        }
        // Groups stay together: most of a group's vectors have the same first code.
        let mut first: HashMap<(usize, u32), usize> = HashMap::new();
        codes.chunks_exact(3).enumerate().for_each(|(i, c)| *first.entry((i % 20, c[0])).or_default() += 1);
        let together: usize = (0..20).map(|g| (0..6).filter_map(|c| first.get(&(g, c))).max().unwrap()).sum();
        assert!(together > 360, "{together} of 400");
    }

    #[test]
    fn alternatives_reach_every_leaf_and_go_on_after_the_last_vector() {
        let data = [0.0, 1.0, 10.0, 11.0, 12.0, 30.0];
        let tree = TreeConfig { levels: 3, codes: 3, rounds: 25 }
            .fit(Rows::new(&data, 1), &FitContext::quiet(1))
            .unwrap();
        let best = tree.best(&[30.0], 1000);
        let distinct: HashSet<&[u32]> = best.iter().map(|b| &b.0[..]).collect();
        assert_eq!(distinct.len(), best.len());
        // Alone after its first code: nine sequences stand for it, nearest of all.
        assert!(best[..9].iter().all(|b| b.1 < 1e-3) && best[9].1 > 100.0, "{best:?}");
        assert_eq!(best[0].0, tree.encode(Rows::new(&[30.0], 1)));
        assert!(best[..9].iter().all(|b| tree.decode(&b.0) == [30.0]));
    }
}

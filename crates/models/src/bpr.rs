//! BPR-MF: factors that put what a user chose above what they did not, pair by pair.
//!
//! max Σ ln σ(s_ui − s_uj) − (λ/2)(‖x_u‖² + ‖y_i‖² + ‖y_j‖² + b_i² + b_j²) over i chosen by u and j drawn among the rest,
//! s_ui = x_u·y_i + b_i
//!
//! Shapes: X (users × D), Y (items × D), b (items); scores = x Yᵀ + b. Only Y and b are kept: a query's x is learnt
//! from its own history, against the fixed items, by the same steps.
//! Cost: O(seen × D) an epoch; a query O(history × fold-in epochs × D) plus the search.
//! Source: Rendle, Freudenthaler, Gantner and Schmidt-Thieme, "BPR: Bayesian personalized ranking from implicit
//! feedback", UAI 2009, arXiv:1205.2618; strata after Gemulla et al., KDD 2011.
//! Departures: an epoch visits every seen pair once, user by user. Threads never share a row: users and items (in a
//! new random order each epoch) are cut into one block per thread, and in each of as many rounds thread t has user
//! block t and item block t + round, so the result is the same for the same number of threads. A pair's j comes from
//! the block of its i.

use crate::factors::{Ask, Factors};
use crate::item_item::{known_profile, largest};
use crate::model::{plan, require};
use crate::{FitError, LoadError, Model, Weights};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sommelier_core::{
    Allowed, Candidate, Csr, Explain, FitContext, ItemIx, ResolvedQuery, Retrieve, Rng, Score,
};
use sommelier_data::snapshot::Snapshot;
use sommelier_nn::kernel;

/// Where the items that a user did not choose are drawn from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Negatives {
    /// Every item alike, as in the paper.
    #[default]
    Uniform,
    /// In proportion to how often an item was chosen, as implicit does.
    Popular,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BprConfig {
    /// D: numbers per item, besides its bias.
    pub dim: usize,
    pub epochs: usize,
    pub learning_rate: f64,
    /// λ.
    pub l2: f64,
    pub negatives: Negatives,
    /// Passes over a query's history to learn its user vector.
    pub fold_in_epochs: usize,
}

impl Default for BprConfig {
    /// Conventional; 60 epochs of it give Recall@20 0.125 on gowalla. Not tuned yet.
    fn default() -> BprConfig {
        BprConfig {
            dim: 64,
            epochs: 100,
            learning_rate: 0.05,
            l2: 0.01,
            negatives: Negatives::Uniform,
            fold_in_epochs: 40,
        }
    }
}

/// Item factors with the bias as their last number, and how often each item was chosen.
#[derive(Debug, Clone)]
pub struct Bpr {
    factors: Factors,
    /// `cumulative[i]`: total of the draws' weights up to and with item i.
    cumulative: Vec<u64>,
    config: BprConfig,
}

impl BprConfig {
    pub fn fit(&self, snapshot: &Snapshot, ctx: &mut FitContext) -> Result<Bpr, FitError> {
        self.check()?;
        let seen = snapshot.interactions();
        let (users, items, pairs) = (snapshot.users.len(), snapshot.items.len(), seen.by_user.nnz());
        let floats = self.dim * (users + 4 * items) + pairs;
        plan(
            ctx,
            4 * floats as u64 + 64,
            &format!("{} numbers for each of {users} users and {items} items", self.dim),
            "lower dim",
        )?;
        ctx.cancel.check()?;
        let mut state = State::new(self, users, items, ctx.seed);
        let blocks = ctx.threads.max(1).min(items.max(1)).min(users.max(1));
        ctx.progress.start("bpr", Some(self.epochs as u64));
        for epoch in 0..self.epochs {
            state.epoch(
                self,
                seen.by_user.rows().min(users),
                &seen.by_user,
                &seen.by_item,
                (blocks, epoch, ctx),
            );
            ctx.cancel.check()?;
            ctx.progress.at(epoch as u64 + 1);
        }
        ctx.progress.finish();
        let counts = (0..items).map(|i| seen.by_item.row_len(i) as u64);
        let factors = Factors::new(&state.with_bias(self.dim), self.dim + 1)
            .map_err(|e| FitError::Numeric(format!("{e}: the steps were too long, lower learning_rate")))?;
        Ok(Bpr { factors, cumulative: self.cumulate(counts), config: self.clone() })
    }

    pub fn load(&self, weights: &Weights) -> Result<Bpr, LoadError> {
        let (items, _, data) = weights.matrix("items", Some(self.dim + 1))?;
        let (_, counts) = weights.u64("counts")?;
        if counts.len() != items {
            let received = vec![counts.len()];
            return Err(LoadError::Shape { name: "counts".into(), expected: vec![items], received });
        }
        let factors = Factors::new(data, self.dim + 1)?;
        Ok(Bpr { factors, cumulative: counts.to_vec(), config: self.clone() })
    }

    fn check(&self) -> Result<(), FitError> {
        require("dim", self.dim as f64, (1..=4096).contains(&self.dim), "from 1 to 4096")?;
        require("learning_rate", self.learning_rate, self.learning_rate > 0.0, "more than 0")?;
        require("fold_in_epochs", self.fold_in_epochs as f64, self.fold_in_epochs > 0, "at least 1")?;
        let decay = self.learning_rate * self.l2;
        require("l2", self.l2, self.l2 >= 0.0 && decay < 1.0, "0 or more, and below 1 / learning_rate")
    }

    /// Running totals of the weights by which items are drawn.
    fn cumulate(&self, counts: impl Iterator<Item = u64>) -> Vec<u64> {
        let uniform = self.negatives == Negatives::Uniform;
        let mut total = 0;
        counts
            .map(|c| {
                total += if uniform { 1 } else { c };
                total
            })
            .collect()
    }
}

/// Both sides while they are learnt. Items lie in the order of the current epoch.
struct State {
    users: Vec<f32>,
    items: Vec<f32>,
    bias: Vec<f32>,
    /// `order[position]` is the item there, `position[item]` the way back.
    order: Vec<u32>,
    position: Vec<u32>,
}

/// What one thread has in one round.
struct Cell<'a> {
    first_user: usize,
    users: &'a mut [f32],
    /// Positions of the block's items, and their rows.
    first: usize,
    items: &'a mut [f32],
    bias: &'a mut [f32],
    /// Positions negatives are drawn from, each as often as its weight; empty for all alike.
    pool: &'a [u32],
}

impl State {
    fn new(config: &BprConfig, users: usize, items: usize, seed: u64) -> State {
        let dim = config.dim;
        let spread = 0.5 / dim as f64;
        let mut rng = Rng::stream(seed, 0);
        let mut draw = |n: usize| (0..n * dim).map(|_| ((rng.unit() - 0.5) * 2.0 * spread) as f32).collect();
        let order: Vec<u32> = (0..items as u32).collect();
        State {
            users: draw(users),
            items: draw(items),
            bias: vec![0.0; items],
            position: order.clone(),
            order,
        }
    }

    fn epoch(
        &mut self,
        config: &BprConfig,
        users: usize,
        by_user: &Csr,
        by_item: &Csr,
        (blocks, epoch, ctx): (usize, usize, &FitContext),
    ) {
        let (dim, items) = (config.dim, self.order.len());
        self.shuffle_items(dim, &mut Rng::stream(ctx.seed, (epoch as u64) << 32 | 0xffff_ffff));
        let (users_a_block, items_a_block) = (users.div_ceil(blocks).max(1), items.div_ceil(blocks).max(1));
        let pools: Vec<Vec<u32>> = self
            .order
            .chunks(items_a_block)
            .map(|block| match config.negatives {
                Negatives::Uniform => Vec::new(),
                Negatives::Popular => {
                    let times = block.iter().enumerate();
                    times
                        .flat_map(|(p, &i)| std::iter::repeat_n(p as u32, by_item.row_len(i as usize)))
                        .collect()
                }
            })
            .collect();
        let position = &self.position;
        for round in 0..blocks {
            let mut item_blocks: Vec<_> = self
                .items
                .chunks_mut(items_a_block * dim)
                .zip(self.bias.chunks_mut(items_a_block))
                .zip(&pools)
                .enumerate()
                .map(Some)
                .collect();
            // Fewer blocks than threads can be left when they do not divide the items: that thread rests a round.
            let cells: Vec<(usize, Cell)> = self
                .users
                .chunks_mut(users_a_block * dim)
                .enumerate()
                .filter_map(|(t, users)| {
                    let (b, ((items, bias), pool)) = item_blocks.get_mut((t + round) % blocks)?.take()?;
                    let (first_user, first) = (t * users_a_block, b * items_a_block);
                    Some((t, Cell { first_user, users, first, items, bias, pool }))
                })
                .collect();
            cells.into_par_iter().for_each(|(t, cell)| {
                let part = (epoch as u64) << 32 | (round * blocks + t) as u64;
                cell.run(config, by_user, position, &mut Rng::stream(ctx.seed, part), ctx);
            });
        }
    }

    /// A new random order of the items, their rows moved along.
    fn shuffle_items(&mut self, dim: usize, rng: &mut Rng) {
        let mut order = self.order.clone();
        rng.shuffle(&mut order);
        let mut moved = vec![0f32; self.items.len()];
        let (items, position) = (&self.items, &self.position);
        moved.par_chunks_mut(dim).zip(&order).for_each(|(to, &item)| {
            let from = position[item as usize] as usize;
            to.copy_from_slice(&items[from * dim..(from + 1) * dim]);
        });
        self.bias = order.iter().map(|&item| self.bias[self.position[item as usize] as usize]).collect();
        for (p, &item) in order.iter().enumerate() {
            self.position[item as usize] = p as u32;
        }
        (self.items, self.order) = (moved, order);
    }

    /// Items × (D + 1) in vocabulary order, the bias last.
    fn with_bias(&self, dim: usize) -> Vec<f32> {
        let row = |&p: &u32| {
            let p = p as usize;
            self.items[p * dim..(p + 1) * dim].iter().copied().chain([self.bias[p]])
        };
        self.position.iter().flat_map(row).collect()
    }
}

impl Cell<'_> {
    /// One pass over the block's users, in random order, and each one's items that are in the block.
    fn run(self, config: &BprConfig, by_user: &Csr, position: &[u32], rng: &mut Rng, ctx: &FitContext) {
        let dim = config.dim;
        let (rate, l2) = (config.learning_rate as f32, config.l2 as f32);
        let width = self.bias.len();
        let mut order: Vec<usize> = (0..self.users.len() / dim).collect();
        rng.shuffle(&mut order);
        let mut chosen = vec![false; width];
        let mut mine = Vec::new();
        let mut steps = Vec::new();
        for u in order {
            if ctx.cancel.is_cancelled() {
                return;
            }
            let in_block =
                |&i: &u32| (position[i as usize] as usize).checked_sub(self.first).filter(|&p| p < width);
            mine.clear();
            mine.extend(by_user.row(self.first_user + u).0.iter().filter_map(in_block));
            if mine.is_empty() || mine.len() == width {
                continue;
            }
            for &p in &mine {
                chosen[p] = true;
            }
            rng.shuffle(&mut mine);
            steps.clear();
            for &i in &mine {
                let draw = |rng: &mut Rng| match self.pool.len() {
                    0 => rng.below(width),
                    n => self.pool[rng.below(n)] as usize,
                };
                // A drawn item the user did choose is no negative; the pair waits for another epoch, as in the peers.
                let j = draw(rng);
                if !chosen[j] {
                    steps.push((i as u32, j as u32));
                }
            }
            for &p in &mine {
                chosen[p] = false;
            }
            kernel::bpr_steps(
                &mut self.users[u * dim..(u + 1) * dim],
                self.items,
                self.bias,
                &steps,
                rate,
                l2,
            );
        }
    }
}

/// Queries have no seed of their own; their draws repeat.
const FOLD_IN_SEED: u64 = 0xb9b2;

impl Bpr {
    /// Learns a user vector (with a last 1 for the bias) for the profile. `each` is told, for every step, the profile
    /// entry, the factor it moved along i − j, the item j, and by how much all earlier moves shrank.
    fn fold_in(&self, profile: &[(usize, f32)], mut each: impl FnMut(usize, f32, usize, f32)) -> Vec<f32> {
        let dim = self.config.dim;
        let (rate, l2) = (self.config.learning_rate as f32, self.config.l2 as f32);
        let keep = 1.0 - rate * l2;
        let mut x = vec![0f32; dim + 1];
        x[dim] = 1.0;
        let total = self.cumulative.last().copied().unwrap_or(0);
        let mut rng = Rng::new(FOLD_IN_SEED);
        for _ in 0..self.config.fold_in_epochs {
            for (p, &(i, _)) in profile.iter().enumerate() {
                let drawn = rng.below(total as usize) as u64;
                let j = self.cumulative.partition_point(|&c| c <= drawn);
                if profile.binary_search_by_key(&j, |&(item, _)| item).is_ok() || j >= self.factors.items() {
                    continue;
                }
                let (a, b) = (self.factors.vector(i), self.factors.vector(j));
                let margin = kernel::dot(&x, a) - kernel::dot(&x, b);
                let g = rate / (1.0 + margin.exp());
                for l in 0..dim {
                    x[l] = keep * x[l] + g * (a[l] - b[l]);
                }
                each(p, g, j, keep);
            }
        }
        x
    }

    fn ask(&self, q: &ResolvedQuery) -> Ask {
        self.factors.ask(q, |profile| self.fold_in(profile, |_, _, _, _| ()))
    }
}

impl Score for Bpr {
    fn items(&self) -> usize {
        self.factors.items()
    }

    fn score(&self, q: &ResolvedQuery, items: &[ItemIx], out: &mut [f32]) {
        self.factors.score(&self.ask(q), items, out);
    }
}

impl Retrieve for Bpr {
    fn retrieve(&self, q: &ResolvedQuery, k: usize, allowed: &Allowed) -> Vec<Candidate> {
        self.factors.retrieve(&self.ask(q), k, allowed)
    }

    fn retrieve_batch(
        &self,
        queries: &[ResolvedQuery],
        k: usize,
        allowed: &[Allowed],
    ) -> Vec<Vec<Candidate>> {
        let asks: Vec<Ask> = queries.par_iter().map(|q| self.ask(q)).collect();
        self.factors.retrieve_batch(&asks, k, allowed)
    }
}

impl Explain for Bpr {
    /// The user vector is a sum of steps, each made for one item of the history: a share is what those steps give
    /// `item`. Together they are the score less the item's bias.
    fn contributions(&self, q: &ResolvedQuery, item: ItemIx, limit: usize) -> Vec<(ItemIx, f32)> {
        let profile = known_profile(q, self.factors.items(), true);
        if profile.is_empty() || q.history.is_empty() || item.ix() >= self.factors.items() {
            return Vec::new();
        }
        let dim = self.config.dim;
        let toward = &self.factors.vector(item.ix())[..dim];
        let mut shares = vec![0f32; profile.len()];
        self.fold_in(&profile, |p, g, j, keep| {
            for s in &mut shares {
                *s *= keep;
            }
            let (a, b) = (self.factors.vector(profile[p].0), self.factors.vector(j));
            shares[p] += g * (kernel::dot(&a[..dim], toward) - kernel::dot(&b[..dim], toward));
        });
        largest(profile.iter().zip(shares).map(|(&(i, _), s)| (ItemIx(i as u32), s)).collect(), limit)
    }
}

impl Model for Bpr {
    fn kind(&self) -> &'static str {
        "bpr"
    }

    fn weights(&self) -> Weights {
        let mut weights = Weights::default();
        let items = self.factors.items();
        weights.set_f32("items", &[items, self.config.dim + 1], self.factors.to_rows());
        weights.set_u64("counts", &[items], self.cumulative.clone());
        weights
    }
}

//! iALS: factors of the implicit-feedback matrix by alternating least squares.
//!
//! min Σ_{(u,i) seen} α r_ui (1 − x_u·y_i)² + α₀ Σ_{u,i} (x_u·y_i)² + Σ_u λ_u ‖x_u‖² + Σ_i λ_i ‖y_i‖²,
//! λ_u = λ (n_u + α₀ items)^ν, λ_i = λ (n_i + α₀ users)^ν, n the number of seen pairs of a row
//!   ⇒  x_u = H⁻¹ Σ_{i seen} α r_ui y_i,  H = α₀ YᵀY + λ_u I + Σ_{i seen} α r_ui y_i y_iᵀ
//!
//! Shapes: X (users × D), Y (items × D); scores = x Yᵀ. Only Y is kept: a query's x is solved from its own history.
//! Cost per round: O(seen × D × steps) for CG, O(seen × min(n, D) × D) for Cholesky, plus O((users + items) D²).
//! Source: Hu, Koren and Volinsky, ICDM 2008; Takács, Pilászy and Tikk, RecSys 2011 (CG); Rendle, Krichene, Zhang and
//! Koren, "Revisiting the performance of iALS", RecSys 2022, arXiv:2110.14037 (λ scaled by frequency, small α₀).
//! Departures: before each half round both sides are turned into the eigenbasis of YᵀY. Scores do not change, and
//! α₀ YᵀY + λ_u I becomes diagonal: CG needs no dense product and is preconditioned by the exact diagonal, and the
//! Cholesky solver can work on the smaller of history and dimension. Weights are as in Rendle et al.; Hu et al.'s
//! confidence c = 1 + αr is α₀ = 1 up to the factor (1 + αr)/αr on the right-hand side.

use crate::factors::{Ask, Factors};
use crate::item_item::{known_profile, largest};
use crate::model::{plan, require};
use crate::{FitError, LoadError, Model, Weights};
use faer::{Mat, Side};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sommelier_core::{
    Allowed, Candidate, Csr, Explain, FitContext, ItemIx, ResolvedQuery, Retrieve, Rng, Score,
};
use sommelier_data::snapshot::Snapshot;
use sommelier_nn::kernel::{self, Layout, NotPositive};
use std::sync::atomic::{AtomicU64, Ordering};

/// How a row's normal equations are solved while fitting. Queries are always solved exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Solver {
    /// A few steps of preconditioned conjugate gradients from the last round's solution.
    #[default]
    Cg,
    Cholesky,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IalsConfig {
    /// D: numbers per item.
    pub dim: usize,
    pub iterations: usize,
    /// λ, before it is scaled by frequency.
    pub l2: f64,
    /// ν: 1 scales λ with the weight of a row, 0 leaves it the same for all.
    pub l2_exponent: f64,
    /// α: weight of a seen pair of weight 1.
    pub alpha: f64,
    /// α₀: weight of every pair, seen or not.
    pub unobserved: f64,
    pub solver: Solver,
    pub cg_steps: usize,
    /// Count the weights of events; false: each seen pair weighs α.
    pub weighted: bool,
}

impl Default for IalsConfig {
    /// The best of a first few on gowalla at 64 dimensions (Recall@20 0.150); larger ones are not tuned yet.
    fn default() -> IalsConfig {
        IalsConfig {
            dim: 64,
            iterations: 15,
            l2: 0.01,
            l2_exponent: 1.0,
            alpha: 1.0,
            unobserved: 0.01,
            solver: Solver::Cg,
            cg_steps: 3,
            weighted: true,
        }
    }
}

/// Item factors, and all that a query's own factors are solved with.
#[derive(Debug, Clone)]
pub struct Ials {
    factors: Factors,
    /// α₀ times the diagonal of YᵀY, which has no other entries.
    diagonal: Vec<f32>,
    terms: Terms,
}

/// The parts of the loss a row's equations need.
#[derive(Debug, Clone, Copy)]
struct Terms {
    alpha: f32,
    weighted: bool,
    l2: f64,
    l2_exponent: f64,
    unobserved: f64,
}

impl Terms {
    /// λ of a row with `seen` pairs out of `others`.
    fn l2_of(&self, seen: usize, others: usize) -> f32 {
        (self.l2 * (seen as f64 + self.unobserved * others as f64).powf(self.l2_exponent)) as f32
    }

    fn weight(&self, r: f32) -> f32 {
        if self.weighted { self.alpha * r } else { self.alpha }
    }
}

impl IalsConfig {
    pub fn fit(&self, snapshot: &Snapshot, ctx: &mut FitContext) -> Result<Ials, FitError> {
        self.check()?;
        let (dim, interactions) = (self.dim, snapshot.interactions());
        let (users, items) = (snapshot.users.len(), snapshot.items.len());
        // Both sides, the searchable copy of the items, and each thread's gathered rows.
        let longest = longest_row(&interactions.by_user).max(longest_row(&interactions.by_item));
        let per_thread = (longest + 8) * (dim + 4) + dim * dim;
        let bytes =
            4 * (dim * (users + 3 * items) + ctx.threads * per_thread) as u64 + 16 * (dim * dim) as u64;
        plan(ctx, bytes, &format!("{dim} numbers for each of {users} users and {items} items"), "lower dim")?;
        ctx.cancel.check()?;
        let mut x = vec![0f32; users * dim];
        let mut y = vec![0f32; items * dim];
        // Small enough that the first scores are far from 1, as the paper does.
        let spread = 0.1 / (dim as f32).sqrt();
        y.par_chunks_mut(dim).enumerate().for_each(|(i, row)| {
            let mut rng = Rng::stream(ctx.seed, i as u64);
            for v in row {
                *v = spread * rng.normal() as f32;
            }
        });
        let terms = self.terms();
        ctx.progress.start("ials", Some((self.iterations * (users + items)) as u64));
        let done = AtomicU64::new(0);
        for _ in 0..self.iterations {
            let diagonal = diagonalise(&mut y, Some(&mut x), dim, self.unobserved)?;
            self.solve_side(&interactions.by_user, &mut x, &y, &diagonal, (ctx, &done))?;
            let diagonal = diagonalise(&mut x, Some(&mut y), dim, self.unobserved)?;
            self.solve_side(&interactions.by_item, &mut y, &x, &diagonal, (ctx, &done))?;
        }
        ctx.progress.finish();
        drop(x);
        let diagonal = diagonalise(&mut y, None, dim, self.unobserved)?;
        let factors = Factors::new(&y, dim).map_err(|e| FitError::Numeric(format!("{e}; raise l2")))?;
        Ok(Ials { factors, diagonal, terms })
    }

    pub fn load(&self, weights: &Weights) -> Result<Ials, LoadError> {
        let (_, dim, items) = weights.matrix("items", None)?;
        let (_, diagonal) = weights.f32("diagonal")?;
        if diagonal.len() != dim {
            let received = vec![diagonal.len()];
            return Err(LoadError::Shape { name: "diagonal".into(), expected: vec![dim], received });
        }
        Ok(Ials { factors: Factors::new(items, dim)?, diagonal: diagonal.to_vec(), terms: self.terms() })
    }

    fn check(&self) -> Result<(), FitError> {
        require("dim", self.dim as f64, (1..=4096).contains(&self.dim), "from 1 to 4096")?;
        require("cg_steps", self.cg_steps as f64, self.cg_steps > 0, "at least 1")?;
        require("l2", self.l2, self.l2 > 0.0, "more than 0")?;
        require("l2_exponent", self.l2_exponent, self.l2_exponent >= 0.0, "0 or more")?;
        require("alpha", self.alpha, self.alpha > 0.0, "more than 0")?;
        require("unobserved", self.unobserved, self.unobserved >= 0.0, "0 or more")
    }

    fn terms(&self) -> Terms {
        Terms {
            alpha: self.alpha as f32,
            weighted: self.weighted,
            l2: self.l2,
            l2_exponent: self.l2_exponent,
            unobserved: self.unobserved,
        }
    }

    /// New factors for every row of `seen`, from the fixed `other` side.
    fn solve_side(
        &self,
        seen: &Csr,
        mine: &mut [f32],
        other: &[f32],
        diagonal: &[f32],
        (ctx, done): (&FitContext, &AtomicU64),
    ) -> Result<(), FitError> {
        const ROWS: usize = 64;
        let (dim, terms) = (self.dim, self.terms());
        mine.par_chunks_mut(ROWS * dim).enumerate().for_each_init(Row::default, |row, (chunk, mine)| {
            if ctx.cancel.is_cancelled() {
                return;
            }
            for (r, x) in mine.chunks_exact_mut(dim).enumerate() {
                let (cols, values) = seen.row(chunk * ROWS + r);
                let entries = cols.iter().zip(values).map(|(&c, &v)| (c as usize, terms.weight(v)));
                row.gather(entries, |i| &other[i * dim..(i + 1) * dim]);
                row.start(diagonal, terms.l2_of(cols.len(), seen.cols));
                match self.solver {
                    _ if cols.is_empty() => x.fill(0.0),
                    Solver::Cg => row.cg(x, self.cg_steps),
                    Solver::Cholesky => row.solve(x),
                }
            }
            ctx.progress.at(done.fetch_add(ROWS as u64, Ordering::Relaxed));
        });
        Ok(ctx.cancel.check()?)
    }
}

fn longest_row(m: &Csr) -> usize {
    (0..m.rows()).map(|r| m.row_len(r)).max().unwrap_or(0)
}

/// One row's equations and the memory to solve them in, kept from row to row.
#[derive(Debug, Default)]
struct Row {
    /// Factors of the seen others, end to end, and their weights.
    seen: Vec<f32>,
    weight: Vec<f32>,
    /// α₀ YᵀY + λ, a diagonal.
    base: Vec<f32>,
    work: Vec<f32>,
    square: Vec<f32>,
}

impl Row {
    fn gather<'a>(
        &mut self,
        entries: impl Iterator<Item = (usize, f32)>,
        vector: impl Fn(usize) -> &'a [f32],
    ) {
        self.seen.clear();
        self.weight.clear();
        for (i, w) in entries {
            self.seen.extend_from_slice(vector(i));
            self.weight.push(w);
        }
    }

    fn start(&mut self, diagonal: &[f32], l2: f32) {
        self.base.clear();
        self.base.extend(diagonal.iter().map(|d| d + l2));
    }

    /// Improves `x` by `steps` of conjugate gradients, preconditioned by the diagonal of H.
    fn cg(&mut self, x: &mut [f32], steps: usize) {
        self.work.resize(4 * self.base.len(), 0.0);
        kernel::conjugate_gradients(&self.seen, &self.weight, &self.base, x, steps, &mut self.work);
    }

    /// Solves for `x` exactly, in as many unknowns as there are seen or dimensions, whichever is fewer.
    fn solve(&mut self, x: &mut [f32]) {
        if self.weight.len() < self.base.len() { self.solve_by_seen(x) } else { self.solve_by_dimension(x) }
    }

    /// x = A⁻¹ Sᵀ c with (W⁻¹ + S A⁻¹ Sᵀ) c = 1, for the diagonal A = α₀ YᵀY + λ and the seen rows S.
    fn solve_by_seen(&mut self, x: &mut [f32]) {
        let (dim, n) = (self.base.len(), self.weight.len());
        self.square.clear();
        self.square.resize(n * n, 0.0);
        self.work.clear();
        self.work.resize(dim + n, 1.0);
        let (scaled, c) = self.work.split_at_mut(dim);
        for i in 0..n {
            let row = &self.seen[i * dim..(i + 1) * dim];
            for ((s, &y), &b) in scaled.iter_mut().zip(row).zip(&self.base) {
                *s = y / b;
            }
            kernel::dot_rows(scaled, &self.seen[..(i + 1) * dim], &mut self.square[i * n..=i * n + i]);
            self.square[i * n + i] += 1.0 / self.weight[i];
        }
        x.fill(0.0);
        if kernel::cholesky(&mut self.square, n).is_err() {
            return;
        }
        kernel::cholesky_solve(&self.square, n, c);
        for (row, &c) in self.seen.chunks_exact(dim).zip(&*c) {
            kernel::axpy(c, row, x);
        }
        x.iter_mut().zip(&self.base).for_each(|(x, b)| *x /= b);
    }

    fn solve_by_dimension(&mut self, x: &mut [f32]) {
        x.fill(0.0);
        for (row, &w) in self.seen.chunks_exact(self.base.len()).zip(&self.weight) {
            kernel::axpy(w, row, x);
        }
        match self.factorise() {
            Ok(()) => kernel::cholesky_solve(&self.square, self.base.len(), x),
            Err(_) => x.fill(0.0),
        }
    }

    /// `square` ← the Cholesky factor of H. Fails where H is not positive definite in `f32`, which λ > 0 prevents.
    fn factorise(&mut self) -> Result<(), NotPositive> {
        let dim = self.base.len();
        self.square.clear();
        self.square.resize(dim * dim, 0.0);
        kernel::syrk_lower(&self.seen, &self.weight, dim, &mut self.square);
        for l in 0..dim {
            self.square[l * dim + l] += self.base[l];
        }
        kernel::cholesky(&mut self.square, dim)
    }
}

/// Rows multiplied or summed by one task; fixed, so that sums do not depend on the number of threads.
const CHUNK: usize = 2048;

/// Turns `a` (and `b` with it) into the eigenbasis of AᵀA, where it is diagonal; gives α₀ times that diagonal.
/// Inner products between rows of `a` and `b` stay what they were.
fn diagonalise(
    a: &mut [f32],
    b: Option<&mut [f32]>,
    dim: usize,
    unobserved: f64,
) -> Result<Vec<f32>, FitError> {
    let partial: Vec<Vec<f32>> = a
        .par_chunks(CHUNK * dim)
        .map(|rows| {
            let mut g = vec![0f32; dim * dim];
            let at = Layout::rows_of(dim);
            kernel::gemm(
                (dim, dim, rows.len() / dim),
                1.0,
                (rows, at.transposed()),
                (rows, at),
                0.0,
                (&mut g, at),
            );
            g
        })
        .collect();
    let gram = Mat::<f64>::from_fn(dim, dim, |r, c| partial.iter().map(|g| f64::from(g[r * dim + c])).sum());
    let diverged = || FitError::Numeric("the factors grew without bound; raise l2 or lower alpha".into());
    if (0..dim).any(|d| !gram[(d, d)].is_finite()) {
        return Err(diverged());
    }
    let eigen = gram.self_adjoint_eigen(Side::Lower).map_err(|_| diverged())?;
    let basis: Vec<f32> = (0..dim * dim).map(|at| eigen.U()[(at / dim, at % dim)] as f32).collect();
    turn(a, &basis, dim);
    if let Some(b) = b {
        turn(b, &basis, dim);
    }
    Ok((0..dim).map(|d| (unobserved * eigen.S()[d].max(0.0)) as f32).collect())
}

/// `rows ← rows · basis`.
fn turn(rows: &mut [f32], basis: &[f32], dim: usize) {
    rows.par_chunks_mut(CHUNK * dim).for_each_init(Vec::new, |copy: &mut Vec<f32>, rows| {
        copy.clear();
        copy.extend_from_slice(rows);
        let at = Layout::rows_of(dim);
        kernel::gemm((rows.len() / dim, dim, dim), 1.0, (copy, at), (basis, at), 0.0, (rows, at));
    });
}

impl Ials {
    fn row(&self, profile: &[(usize, f32)]) -> Row {
        let mut row = Row::default();
        let entries = profile.iter().map(|&(i, r)| (i, self.terms.weight(r)));
        row.gather(entries, |i| self.factors.vector(i));
        row.start(&self.diagonal, self.terms.l2_of(profile.len(), self.factors.items()));
        row
    }

    fn ask(&self, q: &ResolvedQuery) -> Ask {
        self.factors.ask(q, |profile| {
            let mut x = vec![0f32; self.factors.dim()];
            self.row(profile).solve(&mut x);
            x
        })
    }
}

impl Score for Ials {
    fn items(&self) -> usize {
        self.factors.items()
    }

    fn score(&self, q: &ResolvedQuery, items: &[ItemIx], out: &mut [f32]) {
        self.factors.score(&self.ask(q), items, out);
    }
}

impl Retrieve for Ials {
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

impl Explain for Ials {
    /// Exact (Hu et al., section 5): item i of the history carries α r_i y_jᵀ H⁻¹ y_i of j's score.
    fn contributions(&self, q: &ResolvedQuery, item: ItemIx, limit: usize) -> Vec<(ItemIx, f32)> {
        self.contributions_many(q, &[item], limit).pop().unwrap_or_default()
    }

    /// H is factorised once for all of them.
    fn contributions_many(
        &self,
        q: &ResolvedQuery,
        items: &[ItemIx],
        limit: usize,
    ) -> Vec<Vec<(ItemIx, f32)>> {
        let profile = known_profile(q, self.factors.items(), true);
        let mut row = self.row(&profile);
        if profile.is_empty() || q.history.is_empty() || row.factorise().is_err() {
            return vec![Vec::new(); items.len()];
        }
        let shares_of = |item: &ItemIx| {
            if item.ix() >= self.factors.items() {
                return Vec::new();
            }
            let mut toward = self.factors.vector(item.ix()).to_vec();
            kernel::cholesky_solve(&row.square, toward.len(), &mut toward);
            let share = |(&(i, _), w): (&(usize, f32), &f32)| {
                (ItemIx(i as u32), w * kernel::dot(&toward, self.factors.vector(i)))
            };
            largest(profile.iter().zip(&row.weight).map(share).collect(), limit)
        };
        items.iter().map(shares_of).collect()
    }
}

impl Model for Ials {
    fn kind(&self) -> &'static str {
        "ials"
    }

    fn weights(&self) -> Weights {
        let mut weights = Weights::default();
        let dim = self.factors.dim();
        weights.set_f32("items", &[self.factors.items(), dim], self.factors.to_rows());
        weights.set_f32("diagonal", &[dim], self.diagonal.clone());
        weights
    }
}

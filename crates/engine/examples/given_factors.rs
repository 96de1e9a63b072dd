//! Evaluates given factors, once per line of standard input: our half of `bench/eval/peers.py`.
//!
//! `given_factors DATA USERS.f32 ITEMS.f32 DIM` reads a data set that came with a split, and factors as rows of
//! little-endian `f32` in the order of the ids 0, 1, 2, …; prints one JSON line per evaluation.

use sommelier_core::{Allowed, Candidate, FitContext, ItemIx, ResolvedQuery, Retrieve, Score, Time, UserIx};
use sommelier_data::import::{ImportContext, ImportOptions, load};
use sommelier_data::{KindRules, SplitSpec};
use sommelier_eval::{EvalConfig, Metric, On, Profile, evaluate};
use sommelier_index::exact::{ExactIndex, Measure};
use std::error::Error;
use std::io::BufRead;
use std::path::Path;
use std::time::Instant;

const THREADS: usize = 2;

/// Users and items as given; rows of users are in the order of the snapshot's vocabulary.
struct Given {
    dim: usize,
    users: Vec<f32>,
    items: ExactIndex,
}

impl Given {
    fn user(&self, q: &ResolvedQuery) -> &[f32] {
        let u = q.user.map_or(0, UserIx::ix);
        &self.users[u * self.dim..(u + 1) * self.dim]
    }
}

impl Score for Given {
    fn items(&self) -> usize {
        self.items.len()
    }
    fn score(&self, q: &ResolvedQuery, items: &[ItemIx], out: &mut [f32]) {
        for (item, out) in items.iter().zip(out) {
            *out = self.items.score(Measure::InnerProduct, self.user(q), item.ix());
        }
    }
}

impl Retrieve for Given {
    fn retrieve(&self, q: &ResolvedQuery, k: usize, allowed: &Allowed) -> Vec<Candidate> {
        self.items.search(Measure::InnerProduct, self.user(q), k, allowed)
    }
    fn retrieve_batch(
        &self,
        queries: &[ResolvedQuery],
        k: usize,
        allowed: &[Allowed],
    ) -> Vec<Vec<Candidate>> {
        let vectors: Vec<f32> = queries.iter().flat_map(|q| self.user(q)).copied().collect();
        self.items.search_batch(Measure::InnerProduct, &vectors, k, allowed)
    }
}

type Failure = Box<dyn Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [data, users, items, dim] = &args[..] else {
        return Err("expected DATA USERS.f32 ITEMS.f32 DIM".into());
    };
    let dim: usize = dim.parse()?;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(THREADS).build()?;
    pool.install(|| run(data, users, items, dim))
}

fn run(data: &str, users: &str, items: &str, dim: usize) -> Result<(), Failure> {
    let options = ImportOptions::default();
    let (snapshot, _) =
        load(Path::new(data), &options, &KindRules::new(), &ImportContext::quiet(Time::default()))?;
    let split = "given".parse::<SplitSpec>()?.apply(&snapshot, 0, false)?;
    let rows = |path: &str, ids: &mut dyn Iterator<Item = &str>| -> Result<Vec<f32>, Failure> {
        let bytes = std::fs::read(path)?;
        let mut out = Vec::new();
        for id in ids {
            let at: usize = id.parse::<usize>()? * dim * 4;
            let row = bytes.get(at..at + dim * 4).ok_or("an id has no row of factors")?;
            out.extend(row.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])));
        }
        Ok(out)
    };
    let model = Given {
        dim,
        users: rows(users, &mut snapshot.users.iter())?,
        items: ExactIndex::new(&rows(items, &mut snapshot.items.iter())?, dim)?,
    };
    let config = EvalConfig {
        at: vec![20],
        metrics: vec![Metric::Ndcg, Metric::Recall, Metric::Precision],
        profile: Profile::Recbole,
        bootstrap: 0,
        ..EvalConfig::default()
    };
    for line in std::io::stdin().lock().lines() {
        line?;
        let start = Instant::now();
        let found = evaluate(&model, &split, On::Test, &config, &FitContext::quiet(0))?;
        let value = |key: &str| found.metrics[key].value;
        let seconds = start.elapsed().as_secs_f64();
        let (ndcg, recall) = (value("ndcg@20"), value("recall@20"));
        println!("{{\"seconds\":{seconds},\"ndcg\":{ndcg},\"recall\":{recall},\"users\":{}}}", found.users);
    }
    Ok(())
}

//! Fits one model on a file of `user item item …` lines and says how long it took: our half of `bench/models`.
//!
//! `measure fit CONFIG.toml TRAIN.txt LISTS.bin` fits, then writes every user's best 20 unseen items.
//! `measure rank USERS.f32 ITEMS.f32 DIM TRAIN.txt TEST.txt` ranks from given factors and scores the lists.
//! Both print one JSON line. Ids must be the numbers 0, 1, 2, …

use sommelier_core::{Allowed, FitContext, ItemIx, Vocab};
use sommelier_data::snapshot::{Events, Snapshot, TimeQuality};
use sommelier_index::exact::{ExactIndex, Measure};
use sommelier_models::ModelConfig;
use std::error::Error;
use std::time::Instant;

type Failure = Box<dyn Error + Send + Sync>;

const TOP: usize = 20;
const THREADS: usize = 2;

fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(THREADS).build()?;
    pool.install(|| match args[..] {
        ["fit", config, train, lists] => fit(config, train, lists),
        ["rank", users, items, dim, train, test] => rank(users, items, dim.parse()?, train, test),
        _ => Err("expected: fit CONFIG TRAIN LISTS, or rank USERS ITEMS DIM TRAIN TEST".into()),
    })
}

/// Lines of `user item item …` as rows of items.
fn rows(path: &str) -> Result<Vec<Vec<u32>>, Failure> {
    let mut rows: Vec<Vec<u32>> = Vec::new();
    for line in std::fs::read_to_string(path)?.lines() {
        let mut numbers = line.split_whitespace().map(str::parse::<u32>);
        let Some(user) = numbers.next().transpose()? else { continue };
        let user = user as usize;
        rows.resize(rows.len().max(user + 1), Vec::new());
        rows[user] = numbers.collect::<Result<_, _>>()?;
        rows[user].sort_unstable();
    }
    Ok(rows)
}

fn snapshot(rows: &[Vec<u32>]) -> Snapshot {
    let items = rows.iter().flatten().max().map_or(0, |&m| m as usize + 1);
    let mut events = Events { ptr: vec![0], ..Events::default() };
    for row in rows {
        events.item.extend(row);
        events.ptr.push(events.item.len());
    }
    let n = events.item.len();
    (events.kind, events.at) = (vec![0; n], vec![0; n]);
    (events.value, events.weight) = (vec![1.0; n], vec![1.0; n]);
    let ids = |n: usize| Vocab::from_ids((0..n).map(|i| i.to_string()));
    let kinds = vec!["view".to_owned()];
    Snapshot::assemble("bench", 0, ids(rows.len()), ids(items), kinds, TimeQuality::None, events)
}

fn fit(config: &str, train: &str, lists: &str) -> Result<(), Failure> {
    let config: ModelConfig = toml::from_str(&std::fs::read_to_string(config)?)?;
    let snapshot = snapshot(&rows(train)?);
    snapshot.interactions();
    let before = resident_mib("VmRSS:");
    let (start, cpu) = (Instant::now(), cpu_seconds());
    let model = config
        .fit(&snapshot, &mut FitContext { threads: THREADS, memory: u64::MAX, ..FitContext::quiet(7) })?;
    let (seconds, cpu) = (start.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    let peak = resident_mib("VmHWM:");
    let start = Instant::now();
    let users: Vec<usize> = (0..snapshot.users.len()).collect();
    let mut best: Vec<u8> = Vec::new();
    for block in users.chunks(512) {
        let queries: Vec<_> = block.iter().map(|&u| snapshot.query(u)).collect();
        let allowed: Vec<_> =
            queries.iter().map(|q| Allowed::everything().without(q.history.iter().map(|s| s.item))).collect();
        for list in model.retrieve_batch(&queries, TOP, &allowed) {
            let ids = list.iter().map(|c| c.item.0).chain(std::iter::repeat(u32::MAX)).take(TOP);
            best.extend(ids.flat_map(u32::to_le_bytes));
        }
    }
    let lists_seconds = start.elapsed().as_secs_f64();
    std::fs::write(lists, best)?;
    println!(
        "{{\"seconds\":{seconds:.4},\"cpu_seconds\":{cpu:.2},\"lists_seconds\":{lists_seconds:.4},\"before_mib\":{before},\"peak_mib\":{peak}}}"
    );
    Ok(())
}

fn rank(users: &str, items: &str, dim: usize, train: &str, test: &str) -> Result<(), Failure> {
    let (users, items) = (floats(users)?, floats(items)?);
    let (train, test) = (rows(train)?, rows(test)?);
    let asked: Vec<usize> = (0..test.len().min(train.len())).filter(|&u| !test[u].is_empty()).collect();
    let (start, cpu) = (Instant::now(), cpu_seconds());
    let index = ExactIndex::new(&items, dim)?;
    let (mut recall, mut ndcg) = (0f64, 0f64);
    for block in asked.chunks(2048) {
        let queries: Vec<f32> = block.iter().flat_map(|&u| &users[u * dim..(u + 1) * dim]).copied().collect();
        let allowed: Vec<Allowed> = block
            .iter()
            .map(|&u| Allowed::everything().without(train[u].iter().map(|&i| ItemIx(i))))
            .collect();
        let lists = index.search_batch(Measure::InnerProduct, &queries, TOP, &allowed);
        for (&u, list) in block.iter().zip(&lists) {
            let gains = list.iter().enumerate().filter(|(_, c)| test[u].binary_search(&c.item.0).is_ok());
            let (hits, dcg) =
                gains.fold((0, 0.0), |(h, d), (r, _)| (h + 1, d + 1.0 / (r as f64 + 2.0).log2()));
            let ideal: f64 = (0..test[u].len().min(TOP)).map(|r| 1.0 / (r as f64 + 2.0).log2()).sum();
            recall += f64::from(hits) / test[u].len() as f64;
            ndcg += dcg / ideal;
        }
    }
    let (seconds, cpu, n) = (start.elapsed().as_secs_f64(), cpu_seconds() - cpu, asked.len() as f64);
    println!(
        "{{\"seconds\":{seconds:.4},\"cpu_seconds\":{cpu:.2},\"recall\":{:.6},\"ndcg\":{:.6}}}",
        recall / n,
        ndcg / n
    );
    Ok(())
}

fn floats(path: &str) -> Result<Vec<f32>, Failure> {
    let bytes = std::fs::read(path)?;
    Ok(bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect())
}

/// Processor time of all threads so far, where `/proc` tells it in hundredths of a second.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

/// A line of `/proc/self/status` in MiB; 0 where there is none.
fn resident_mib(key: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix(key));
    line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) / 1024
}

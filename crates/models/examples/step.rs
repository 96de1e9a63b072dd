//! Our half of `bench/train`: what a step of training costs, or an answer. One measurement a call, one JSON line.
//!
//! `step train CONFIG L DATA [STEPS] [BATCH]` with a model's config as TOML on one line, `;` for its line ends: a step of it;
//! `step write CONFIG L [STEPS] [BATCH]`: of a model that writes codes; `step score L CONFIG`: answers for 256 people together and for one; `step adam`: lazy Adam on a million rows;
//! `step grow CONFIG L EVENTS`: a whole epoch; `step products ROWS D`: what a softmax over all items cannot do without. DATA is `full` (every history has L + 1 events) or `short` (lengths as in
//! bench/train/peers.py).

use rayon::prelude::*;
use sommelier_core::{Allowed, Cancel, FitContext, ItemIx, Progress, ResolvedQuery, Rng};
use sommelier_data::Snapshot;
use sommelier_data::snapshot::{Events, ItemCodes, TimeQuality};
use sommelier_models::{FitError, ModelConfig};
use sommelier_nn::kernel::{self, Layout};
use sommelier_nn::loss::Items;
use sommelier_nn::op::Embed;
use sommelier_nn::optim::{Optimiser, Rule};
use sommelier_nn::{ParamGrads, Params, Table, Tape, Workspace};
use std::error::Error;
use std::sync::{Arc, Mutex};
use std::time::Instant;

const ITEMS: usize = 12_000;

/// Seconds of processor time that this process has used, all threads together.
fn cpu_seconds() -> f64 {
    // Fields 14 and 15 after the name, in hundredths of a second.
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect::<Vec<_>>();
    let field = |n: usize| after.get(n).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    (field(11) + field(12)) / 100.0
}

fn peak_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap_or("VmHWM: 0 kB");
    line.split_whitespace().nth(1).and_then(|n| n.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}

/// Notes when each step ends, and stops after enough of them.
struct Clock {
    ends: Mutex<Vec<(Instant, f64)>>,
    enough: usize,
    cancel: Cancel,
}

impl Progress for Clock {
    fn start(&self, _: &str, _: Option<u64>) {}
    fn at(&self, _: u64) {
        let mut ends = self.ends.lock().unwrap();
        ends.push((Instant::now(), cpu_seconds()));
        if ends.len() >= self.enough {
            self.cancel.cancel();
        }
    }
    fn finish(&self) {}
}

/// Histories with items drawn by chance and events a minute apart.
fn snapshot(users: usize, longest: usize, data: &str) -> Snapshot {
    let mut rng = Rng::new(7);
    let mut length = || match data {
        "full" => longest + 1,
        _ => 1 + longest.min((5.0 * (1.0 - rng.unit()).powf(-1.0 / 2.1)) as usize),
    };
    let lengths: Vec<usize> = (0..users).map(|_| length()).collect();
    let mut rng = Rng::new(8);
    let (mut names, mut items) = (sommelier_core::Vocab::new(), sommelier_core::Vocab::new());
    (0..ITEMS).for_each(|i| {
        items.intern(&i.to_string());
    });
    let mut events = Events { ptr: vec![0], ..Events::default() };
    for (user, &n) in lengths.iter().enumerate() {
        names.intern(&user.to_string());
        for e in 0..n {
            events.item.push(rng.below(ITEMS) as u32);
            events.kind.push(0);
            events.at.push(e as i64 * 60_000);
            events.value.push(1.0);
            events.weight.push(1.0);
        }
        events.ptr.push(events.item.len());
    }
    let kinds = vec!["view".into()];
    let mut snapshot = Snapshot::assemble("synthetic", 0, names, items, kinds, TimeQuality::Clock, events);
    snapshot.codes = Some(Arc::new(codes()));
    snapshot
}

/// Four codes of 256 for each item, for the models that write them.
fn codes() -> ItemCodes {
    let mut rng = Rng::new(9);
    let of = |i: u32| [i % 256, i / 256, rng.below(256) as u32, rng.below(256) as u32];
    let rows = (0..ITEMS as u32).flat_map(of).collect();
    ItemCodes { sizes: vec![256; 4], rows, known: vec![true; ITEMS] }
}

/// The median, and the least.
fn median(mut v: Vec<f64>) -> (f64, f64) {
    v.sort_by(f64::total_cmp);
    (v[v.len() / 2], v[0])
}

fn train(config: &str, longest: usize, data: &str, steps: usize, batch: usize) -> Result<(), Box<dyn Error>> {
    let mut config: toml::Table = toml::from_str(&config.replace(';', "\n"))?;
    let sequence = config.get_mut("sequence").and_then(toml::Value::as_table_mut).ok_or("no `sequence`")?;
    sequence.insert("batch".into(), (batch as i64).into());
    time_steps(&config.try_into()?, &snapshot((steps + WARM + 1) * batch, longest, data), steps)
}

/// A model that writes codes: a step of so many histories of L items and one that is told.
fn write(config: &str, longest: usize, steps: usize, batch: usize) -> Result<(), Box<dyn Error>> {
    let mut config: toml::Table = toml::from_str(&config.replace(';', "\n"))?;
    config.insert("length".into(), (longest as i64).into());
    config.insert("batch".into(), (batch as i64).into());
    // Histories so long that hardly any event has fewer than L before it.
    let events = 100 * longest;
    let users = ((steps + WARM + 1) * batch).div_ceil(events);
    time_steps(&config.try_into()?, &snapshot(users, events, "full"), steps)
}

/// Steps before those that are timed.
const WARM: usize = 3;

fn time_steps(config: &ModelConfig, train: &Snapshot, steps: usize) -> Result<(), Box<dyn Error>> {
    let warm = WARM;
    let cancel = Cancel::default();
    let clock = Arc::new(Clock { ends: Mutex::default(), enough: steps + warm, cancel: cancel.clone() });
    let progress: Arc<dyn Progress> = clock.clone();
    let mut ctx = FitContext { progress, cancel, memory: 64 << 30, ..FitContext::quiet(1) };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(ctx.threads).build()?;
    match pool.install(|| config.fit(train, &mut ctx)) {
        Err(FitError::Stopped(_)) | Ok(_) => {}
        Err(other) => return Err(other.into()),
    }
    let ends = clock.ends.lock().map_err(|e| e.to_string())?;
    let walls: Vec<f64> =
        ends[warm - 1..].windows(2).map(|w| (w[1].0 - w[0].0).as_secs_f64() * 1e3).collect();
    let cpu = (ends[ends.len() - 1].1 - ends[warm - 1].1) * 1e3 / (ends.len() - warm) as f64;
    let (wall, least) = median(walls);
    let steps = ends.len() - warm;
    println!(
        "{}",
        serde_json::json!({ "wall_ms": wall, "least_ms": least, "cpu_ms": cpu, "peak_mb": peak_mb(), "steps": steps })
    );
    Ok(())
}

/// A model fitted for one step, then asked.
fn score(longest: usize, config: &str) -> Result<(), Box<dyn Error>> {
    let config: ModelConfig = toml::from_str(&config.replace(';', "\n"))?;
    let train = snapshot(256, longest, "full");
    let mut ctx = FitContext { memory: 64 << 30, ..FitContext::quiet(1) };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(ctx.threads).build()?;
    let model = pool.install(|| config.fit(&train, &mut ctx))?;
    let queries: Vec<ResolvedQuery> = (0..256).map(|u| train.query(u)).collect();
    let allowed = vec![Allowed::everything(); 256];
    let (mut many, mut one) = (Vec::new(), Vec::new());
    pool.install(|| {
        for _ in 0..15 {
            let start = Instant::now();
            let found = model.retrieve_batch(&queries, 10, &allowed);
            many.push(start.elapsed().as_secs_f64() * 1e3);
            assert!(found.iter().all(|list| list.len() == 10));
        }
    });
    for q in queries.iter().cycle().take(600) {
        let start = Instant::now();
        let found = model.retrieve(q, 10, &allowed[0]);
        one.push(start.elapsed().as_secs_f64() * 1e3);
        assert!(found[0].item != ItemIx(u32::MAX));
    }
    println!(
        "{}",
        serde_json::json!({ "many_ms": median(many).0, "one_ms": median(one).0, "peak_mb": peak_mb() })
    );
    Ok(())
}

/// A million rows of 64 numbers, of which each step reads and moves 8,192.
fn adam() -> Result<(), Box<dyn Error>> {
    const ROWS: usize = 1_000_000;
    const TOUCHED: usize = 8_192;
    const DIM: usize = 64;
    let mut params = Params::new(1);
    let table = params.add_table(Table::of_range("rows", ROWS, DIM, 1.0, 1));
    let mut rng = Rng::new(7);
    let draw = |_| {
        let mut picks: Vec<u32> = (0..2 * TOUCHED).map(|_| rng.below(ROWS) as u32).collect();
        picks.sort_unstable();
        picks.dedup();
        rng.shuffle(&mut picks);
        picks.truncate(TOUCHED);
        Arc::new(picks)
    };
    let picks: Vec<_> = (0..16).map(draw).collect();
    let values: Vec<f32> = (0..TOUCHED * DIM).map(|_| rng.normal() as f32 * 0.01).collect();
    let mut optimiser = Optimiser::new(Rule::default(), 0.0, 0.0);
    let mut grads = ParamGrads::default();
    let mut workspace = Workspace::default();
    let (mut whole, mut alone, mut cpu) = (Vec::new(), Vec::new(), Vec::new());
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build()?;
    pool.install(|| {
        for step in 0..103 {
            let (start, used) = (Instant::now(), cpu_seconds());
            grads.clear(&params);
            let mut tape = Tape::training(&params, Rng::new(step), std::mem::take(&mut workspace));
            let y = tape.embed(Items::Table(table), picks[step as usize % 16].clone(), Embed::default());
            tape.backward_from(y, &values, &mut grads);
            workspace = tape.finish();
            let update = Instant::now();
            let length = optimiser.step(&mut params, &grads, 1e-3);
            assert!(length.is_finite());
            if step >= 3 {
                whole.push(start.elapsed().as_secs_f64() * 1e3);
                alone.push(update.elapsed().as_secs_f64() * 1e3);
                cpu.push((cpu_seconds() - used) * 1e3);
            }
        }
    });
    // The clock of processor time ticks in hundredths of a second: a mean says more than a median.
    let cpu = cpu.iter().sum::<f64>() / cpu.len() as f64;
    println!(
        "{}",
        serde_json::json!({
            "lookup_ms": median(whole).0, "update_ms": median(alone).0, "cpu_ms": cpu, "peak_mb": peak_mb()
        })
    );
    Ok(())
}

/// The three products of a softmax over all items for so many rows, way back included, on two threads, and nothing around them:
/// laid out as `loss/catalogue.rs` has them, in the same tiles.
fn products(rows: usize, dim: usize) -> Result<(), Box<dyn Error>> {
    const TILE: usize = 80;
    const CHUNK: usize = 512;
    const THREADS: usize = 2;
    let mut rng = Rng::new(7);
    let mut numbers = |n: usize| (0..n).map(|_| rng.normal() as f32).collect::<Vec<f32>>();
    let (h, e, e_turned, p) =
        (numbers(rows * dim), numbers(ITEMS * dim), numbers(ITEMS * dim), numbers(TILE * CHUNK));
    let share = |part: usize| rows * part / THREADS..rows * (part + 1) / THREADS;
    let one = |part: usize, p: &mut [f32], dh: &mut [f32], de: &mut [f32]| {
        for from in share(part).step_by(TILE) {
            let rows = TILE.min(share(part).end - from);
            let (h, at) = (&h[from * dim..(from + rows) * dim], Layout::rows_of(rows));
            for first in (0..ITEMS).step_by(CHUNK) {
                let items = CHUNK.min(ITEMS - first);
                let (turned, d_at) = (at.transposed(), Layout::rows_of(dim));
                let e = (&e[first * dim..], d_at.transposed());
                let e_turned = (&e_turned[first..], Layout::rows_of(ITEMS).transposed());
                // What is multiplied does not matter, only that the processor cannot know it.
                kernel::gemm((rows, items, dim), 1e-3, (h, turned), e, 0.0, (p, turned));
                kernel::gemm((rows, dim, items), 1.0, (p, turned), e_turned, 0.0, (dh, turned));
                kernel::gemm(
                    (items, dim, rows),
                    1.0,
                    (p, at),
                    (h, d_at),
                    1.0,
                    (&mut de[first * dim..], d_at),
                );
            }
        }
    };
    let room = |_| (p.clone(), vec![0f32; TILE * dim], vec![0f32; ITEMS * dim]);
    let mut rooms: Vec<_> = (0..THREADS).map(room).collect();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(THREADS).build()?;
    let mut together = Vec::new();
    for _ in 0..12 {
        let start = Instant::now();
        pool.install(|| {
            rooms.par_iter_mut().enumerate().for_each(|(part, (p, dh, de))| one(part, p, dh, de));
        });
        together.push(start.elapsed().as_secs_f64() * 1e3);
    }
    // Half of the work, with the other processor idle: what two of them are worth.
    let mut alone = Vec::new();
    for _ in 0..12 {
        let start = Instant::now();
        let (p, dh, de) = &mut rooms[0];
        one(0, p, dh, de);
        alone.push(start.elapsed().as_secs_f64() * 1e3);
    }
    println!("{}", serde_json::json!({ "wall_ms": median(together).0, "half_alone_ms": median(alone).0 }));
    Ok(())
}

/// One epoch over about as many events, and the memory it takes beside the data.
fn grow(config: &str, longest: usize, events: usize) -> Result<(), Box<dyn Error>> {
    let mut config: toml::Table = toml::from_str(&config.replace(';', "\n"))?;
    config.insert("training".into(), toml::Table::from_iter([("epochs".to_owned(), 1.into())]).into());
    let config: ModelConfig = config.try_into()?;
    let train = snapshot(events / (longest + 1), longest, "full");
    let before = peak_mb();
    let mut ctx = FitContext { memory: 64 << 30, ..FitContext::quiet(1) };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(ctx.threads).build()?;
    let (start, used) = (Instant::now(), cpu_seconds());
    pool.install(|| config.fit(&train, &mut ctx))?;
    println!(
        "{}",
        serde_json::json!({
            "events": train.events.len(), "wall_s": start.elapsed().as_secs_f64(), "cpu_s": cpu_seconds() - used,
            "data_mb": before, "fit_mb": peak_mb() - before,
        })
    );
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |n: usize, default: usize| args.get(n).map_or(Ok(default), |a| a.parse::<usize>());
    match args.first().map(String::as_str) {
        Some("train") if args.len() >= 4 => {
            train(&args[1], number(2, 50)?, &args[3], number(4, 20)?, number(5, 128)?)
        }
        Some("write") if args.len() >= 3 => write(&args[1], number(2, 20)?, number(3, 20)?, number(4, 128)?),
        Some("score") if args.len() >= 3 => score(number(1, 50)?, &args[2]),
        Some("adam") => adam(),
        Some("products") if args.len() >= 3 => products(number(1, 6_400)?, number(2, 64)?),
        Some("grow") if args.len() >= 4 => grow(&args[1], number(2, 50)?, number(3, 100_000)?),
        _ => Err("usage: step train CONFIG L full|short [STEPS] [BATCH] | write CONFIG L [STEPS] [BATCH] | score L CONFIG | adam | products ROWS D | grow CONFIG L EVENTS".into()),
    }
}

//! How many recommendations a second, and how long from opening to the first answer? In process, without HTTP.
//!
//! `cargo run --release -p sommelier-engine --example recommend_rate -- [RECIPE] [SECONDS]` reads
//! `../shared/data/gowalla` and prints medians and percentiles, with events arriving all the while.

use sommelier_core::{Clock, Event, FitContext, Query, Rng, SystemClock};
use sommelier_data::import::{ImportContext, ImportOptions, detect, import_into, load};
use sommelier_data::log::{Log, LogOptions};
use sommelier_data::{KindRules, Snapshot};
use sommelier_engine::{EngineConfig, Recipe, Space, log_dir};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let recipe = Recipe::load(&args.next().unwrap_or_else(|| "ials".into()))?;
    let seconds: u64 = args.next().map_or(Ok(10), |s| s.parse())?;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/gowalla");
    if !path.exists() {
        println!("{} is not there: nothing to measure", path.display());
        return Ok(());
    }
    let (snapshot, _) =
        load(&path, &ImportOptions::default(), &KindRules::new(), &ImportContext::quiet(SystemClock.now()))?;
    println!(
        "gowalla: {} users, {} items, {} events",
        snapshot.users.len(),
        snapshot.items.len(),
        snapshot.events.len()
    );
    let dir = tempfile::tempdir()?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    fill(dir.path(), &path, &recipe, &clock)?;

    let start = Instant::now();
    drop(Log::open(&log_dir(dir.path(), "bench"), &LogOptions::default())?);
    println!("the log alone opens in {:.0?}", start.elapsed());

    let start = Instant::now();
    let space = Space::open(dir.path(), "bench", EngineConfig::default(), Arc::clone(&clock))?;
    let opened = start.elapsed();
    space.answer(&question(&snapshot, 0))?;
    println!("open {opened:.0?}, to the first answer {:.0?}", start.elapsed());

    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let askers: Vec<_> = (0..2)
            .map(|t| {
                scope.spawn({
                    let (space, snapshot, stop) = (&space, &snapshot, &stop);
                    move || ask(space, snapshot, t, stop)
                })
            })
            .collect();
        let writer = scope.spawn(|| write(&space, &snapshot, &stop));
        std::thread::sleep(Duration::from_secs(seconds));
        stop.store(true, Ordering::Relaxed);
        let mut times: Vec<Duration> =
            askers.into_iter().flat_map(|a| a.join().expect("an asker ran")).collect();
        times.sort_unstable();
        let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
        println!(
            "{}: {:.0} answers/s on 2 threads, median {:.0?}, p99 {:.0?}; {} events/s written meanwhile; {:?}",
            recipe.name,
            times.len() as f64 / seconds as f64,
            at(0.5),
            at(0.99),
            writer.join().expect("the writer ran") / seconds,
            space.stats(),
        );
    });
    Ok(())
}

fn fill(
    dir: &Path,
    data: &Path,
    recipe: &Recipe,
    clock: &Arc<dyn Clock>,
) -> Result<(), Box<dyn std::error::Error>> {
    let space = Space::open(dir, "bench", EngineConfig::default(), Arc::clone(clock))?;
    let start = Instant::now();
    let plan = detect(data, &ImportOptions::default())?;
    import_into(space.log(), &plan, &ImportContext::quiet(clock.now()))?;
    println!("imported in {:.1?}", start.elapsed());
    let start = Instant::now();
    space.refresh()?;
    println!("refreshed in {:.1?}", start.elapsed());
    let snapshot = space.snapshot()?;
    let start = Instant::now();
    let info = space.train(recipe, &snapshot, &mut FitContext::quiet(1), serde_json::Value::Null)?;
    println!("fitted {} in {:.1?}", info.name, start.elapsed());
    space.publish(&info.name)?;
    Ok(())
}

fn question(snapshot: &Snapshot, user: usize) -> Query {
    Query { user: Some(snapshot.users.id(user as u32).to_owned()), count: Some(10), ..Query::default() }
}

fn ask(space: &Space, snapshot: &Snapshot, thread: u64, stop: &AtomicBool) -> Vec<Duration> {
    let mut rng = Rng::new(thread);
    let mut times = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let query = question(snapshot, rng.below(snapshot.users.len()));
        let start = Instant::now();
        let slate = space.answer(&query).expect("every question is a good one");
        times.push(start.elapsed());
        assert_eq!(slate.items.len(), 10);
    }
    times
}

/// Batches of ten, a hundred times a second.
fn write(space: &Space, snapshot: &Snapshot, stop: &AtomicBool) -> u64 {
    let mut rng = Rng::new(99);
    let mut written = 0;
    while !stop.load(Ordering::Relaxed) {
        let mut id = |vocab: &sommelier_core::Vocab| vocab.id(rng.below(vocab.len()) as u32).to_owned();
        let events: Vec<Event> =
            (0..10).map(|_| Event::new(id(&snapshot.users), id(&snapshot.items), "view")).collect();
        written += space.append(events).expect("the disk has room").stored as u64;
        std::thread::sleep(Duration::from_millis(10));
    }
    written
}

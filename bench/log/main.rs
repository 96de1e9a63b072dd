//! How fast is the log? Bulk imports, durable appends, reading a user, snapshots; and how much memory they take.
//!
//! `cargo run --release -p sommelier-data --example bench_log [-- DIR [MILLIONS]]`

use sommelier_core::{Event, Rng, Time};
use sommelier_data::KindRules;
use sommelier_data::log::{EventRef, Log, LogOptions};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const USERS: usize = 200_000;
const ITEMS: usize = 50_000;
const START: i64 = 1_700_000_000_000;

fn main() {
    let mut args = std::env::args().skip(1);
    let dir = args.next().map_or_else(|| std::env::temp_dir().join("sommelier-bench-log"), PathBuf::from);
    let millions: usize = args.next().and_then(|m| m.parse().ok()).unwrap_or(10);
    println!("| measured | figure | peak memory |\n|---|---|---|");
    for (order, events) in [("by time", 1), ("by time", millions), ("at random", millions)] {
        let home = dir.join(format!("bulk-{}-{events}", order.replace(' ', "-")));
        import(&home, events * 1_000_000, order == "by time");
    }
    appends(&dir.join("appends"));
    // Only what this program made below the folder it was given.
    for name in ["bulk-by-time-1", "appends"] {
        let _ = std::fs::remove_dir_all(dir.join(name));
    }
    for order in ["by-time", "at-random"] {
        let _ = std::fs::remove_dir_all(dir.join(format!("bulk-{order}-{millions}")));
    }
}

fn row(what: &str, figure: &str) {
    println!("| {what} | {figure} | {} MB |", peak_memory() >> 20);
    // From here on the peak is that of the next row, where the system lets us say so.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// Peak resident memory in bytes; 0 where the system does not tell.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with("VmHWM:"));
    line.and_then(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok()).unwrap_or(0) << 10
}

/// Skewed: low numbers are popular.
fn skewed(rng: &mut Rng, n: usize) -> usize {
    let u = rng.unit();
    ((u * u * u) * n as f64) as usize
}

fn import(home: &Path, events: usize, by_time: bool) {
    let _ = std::fs::remove_dir_all(home);
    let log = Log::open(home, &LogOptions::default()).expect("a new log opens");
    let mut rng = Rng::new(1);
    // Ids are made beforehand: this measures the log, not the making of text.
    let users: Vec<String> = (0..USERS).map(|u| format!("user-{u}")).collect();
    let items: Vec<String> = (0..ITEMS).map(|i| format!("item-{i}")).collect();
    let drawn: Vec<(u32, u32, i64)> = (0..events)
        .map(|n| {
            let at = if by_time { n as i64 * 1000 } else { rng.below(events) as i64 * 1000 };
            (rng.below(USERS) as u32, skewed(&mut rng, ITEMS) as u32, START + at)
        })
        .collect();
    row(
        &format!("{}M events drawn, {}", events / 1_000_000, if by_time { "by time" } else { "at random" }),
        "",
    );
    let started = Instant::now();
    let mut bulk = log.bulk("bench").expect("a new source");
    for (user, item, at) in &drawn {
        let at = Time::from_millis(*at).expect("in range");
        let event = EventRef::new(&users[*user as usize], &items[*item as usize], "rating", at);
        bulk.push(&EventRef { value: Some(f64::from(item % 5) + 1.0), ..event }).expect("pushed");
    }
    bulk.commit().expect("committed");
    let seconds = started.elapsed().as_secs_f64();
    drop(drawn);
    let bytes = log.stats().expect("stats").bytes;
    row(
        &format!("bulk import of {}M, durable", events / 1_000_000),
        &format!(
            "{seconds:.2} s, {:.2} M/s, {:.0} bytes/event",
            events as f64 / seconds / 1e6,
            bytes as f64 / events as f64
        ),
    );
    let started = Instant::now();
    drop(log);
    let log = Log::open(home, &LogOptions::default()).expect("opens again");
    row("close and open", &format!("{:.1} ms", started.elapsed().as_secs_f64() * 1e3));
    scans(&log, &mut rng, &users);
    let started = Instant::now();
    let snapshot = log.snapshot("bench", &KindRules::new()).expect("a snapshot");
    assert_eq!(snapshot.events.len(), events);
    row("snapshot", &format!("{:.2} s", started.elapsed().as_secs_f64()));
}

fn scans(log: &Log, rng: &mut Rng, users: &[String]) {
    let mut times: Vec<Duration> = (0..5000)
        .map(|_| {
            let user = &users[rng.below(users.len())];
            let started = Instant::now();
            std::hint::black_box(log.user_events(user, None, 50).expect("read"));
            started.elapsed()
        })
        .collect();
    times.sort_unstable();
    let micros = |q: usize| times[times.len() * q / 100].as_secs_f64() * 1e6;
    row("newest 50 events of a user", &format!("p50 {:.0} µs, p99 {:.0} µs", micros(50), micros(99)));
}

fn appends(home: &Path) {
    const THREADS: usize = 4;
    const SECONDS: f64 = 10.0;
    let _ = std::fs::remove_dir_all(home);
    let log = Log::open(home, &LogOptions::default()).expect("a new log opens");
    let started = Instant::now();
    let mut times: Vec<Duration> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let log = &log;
                scope.spawn(move || {
                    let mut rng = Rng::stream(2, thread as u64);
                    let mut times = Vec::new();
                    let mut number = 0u64;
                    while started.elapsed().as_secs_f64() < SECONDS {
                        let batch = (0..100).map(|_| {
                            number += 1;
                            let (user, item) = (rng.below(USERS), skewed(&mut rng, ITEMS));
                            let mut event =
                                Event::new(format!("user-{user}"), format!("item-{item}"), "view");
                            event.id = Some(format!("e-{thread}-{number}"));
                            event
                        });
                        let batch = batch.collect();
                        let begun = Instant::now();
                        log.append(batch, Time::from_millis(START).expect("in range")).expect("appended");
                        times.push(begun.elapsed());
                    }
                    times
                })
            })
            .collect();
        threads.into_iter().flat_map(|t| t.join().expect("no panic")).collect()
    });
    let seconds = started.elapsed().as_secs_f64();
    times.sort_unstable();
    let millis = |q: usize| times[times.len() * q / 1000].as_secs_f64() * 1e3;
    row(
        "durable appends of 100 with ids, 4 threads",
        &format!(
            "{:.0} events/s, p50 {:.1} ms, p99 {:.1} ms, p99.9 {:.1} ms",
            times.len() as f64 * 100.0 / seconds,
            millis(500),
            millis(990),
            millis(999)
        ),
    );
    let users: Vec<String> = (0..USERS).map(|u| format!("user-{u}")).collect();
    scans(&log, &mut Rng::new(3), &users);
    let started = Instant::now();
    let events = log.snapshot("bench", &KindRules::new()).expect("a snapshot").events.len();
    row(
        &format!("snapshot of {:.1}M live events", events as f64 / 1e6),
        &format!("{:.2} s", started.elapsed().as_secs_f64()),
    );
    let started = Instant::now();
    drop(log);
    let log = Log::open(home, &LogOptions::default()).expect("opens again");
    row("close and open the live log", &format!("{:.1} ms", started.elapsed().as_secs_f64() * 1e3));
    drop(log);
}

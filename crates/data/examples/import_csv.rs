//! Times the import of a CSV file: `import_csv generate FILE ROWS`, then `log FILE DIR` or `load FILE`.
//!
//! `log` writes a durable log, `load` a snapshot in memory. Prints one JSON line; see bench/import/run.sh.

use sommelier_core::Time;
use sommelier_data::KindRules;
use sommelier_data::import::{ImportContext, ImportOptions, detect, import_into, load};
use sommelier_data::log::{Log, LogOptions};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let ctx = ImportContext::quiet(Time::parse("2026-01-01")?);
    let started = Instant::now();
    let events = match args.as_slice() {
        ["generate", file, rows] => {
            generate(Path::new(file), rows.parse()?)?;
            return Ok(());
        }
        ["log", file, dir] => {
            let log = Log::open(Path::new(dir), &LogOptions::default())?;
            let plan = detect(Path::new(file), &ImportOptions::default())?;
            import_into(&log, &plan, &ctx)?.events
        }
        ["load", file] => load(Path::new(file), &ImportOptions::default(), &KindRules::new(), &ctx)?.1.events,
        _ => return Err("usage: import_csv generate FILE ROWS | log FILE DIR | load FILE".into()),
    };
    let seconds = started.elapsed().as_secs_f64();
    println!("{{\"events\":{events},\"seconds\":{seconds:.3},\"peak_rss_mb\":{}}}", peak_rss_mb());
    Ok(())
}

/// A million users at most, a hundred thousand items, popularity falling with rank, five stars, two years of seconds.
fn generate(file: &Path, rows: u64) -> std::io::Result<()> {
    let mut out = BufWriter::with_capacity(1 << 20, std::fs::File::create(file)?);
    writeln!(out, "user_id,item_id,rating,timestamp")?;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = || {
        // SplitMix64.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    for _ in 0..rows {
        let user = random() % 1_000_000;
        let uniform = (random() >> 11) as f64 / (1u64 << 53) as f64;
        let item = (100_000.0 * uniform * uniform * uniform) as u64;
        let (rating, at) = (random() % 5 + 1, 1_700_000_000 + random() % 63_072_000);
        writeln!(out, "u{user},i{item},{rating},{at}")?;
    }
    out.flush()
}

/// Highest resident memory of this process so far; 0 where the system does not say.
fn peak_rss_mb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap_or(0) / 1024
}

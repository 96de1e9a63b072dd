//! What a terminal shows: progress bars, sizes, errors with their causes, Ctrl-C.

use crate::Global;
use anyhow::{Error, Result};
use comfy_table::{CellAlignment, ContentArrangement, LineStyle, Row, Table};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use parking_lot::Mutex;
use serde::Serialize;
use sommelier_core::{Cancel, FitContext, NoProgress, Progress};
use std::io::{IsTerminal, Write};
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tokio::sync::Notify;
use tracing_subscriber::EnvFilter;

/// Logs go to stderr: as text on a terminal, else as JSON lines. `level` is what is logged where SOMMELIER_LOG, a
/// filter such as `debug` or `sommelier_server=debug,warn`, says nothing.
pub fn start_logging(level: &str) {
    let filter = EnvFilter::try_from_env("SOMMELIER_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() { builder.with_target(false).init() } else { builder.json().init() }
}

/// `error: what failed` with every cause on its own line, or a JSON document with the same.
pub fn print_error(global: &Global, error: &Error) {
    let mut words: Vec<String> = error.chain().map(ToString::to_string).collect();
    words.dedup_by(|next, kept| kept.ends_with(next.as_str()));
    if global.json {
        println!("{}", serde_json::json!({ "error": words[0], "because": words[1..] }));
    }
    let mut err = std::io::stderr().lock();
    let _ = writeln!(err, "error: {}", words[0]);
    for cause in &words[1..] {
        let _ = writeln!(err, "  because: {cause}");
    }
}

/// Prints `document` as JSON, or whatever `people` writes.
pub fn show(global: &Global, document: &impl Serialize, people: impl FnOnce() -> String) -> Result<()> {
    let text = if global.json { serde_json::to_string(document)? } else { people().trim_end().to_owned() };
    print(format!("{text}\n").as_bytes())
}

/// To stdout. `sommelier … | head` is not an error.
pub fn print(bytes: &[u8]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

/// A line of narration for people, on stderr; silent under `--quiet`.
pub fn say(global: &Global, line: impl AsRef<str>) {
    if !global.quiet {
        eprintln!("{}", line.as_ref());
    }
}

/// `800MB`, `4GiB`, `2g` or bytes; powers of 1024.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let text = text.trim().to_ascii_lowercase();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == ' ');
    let factor: u64 = match text[digits.len()..].trim().trim_end_matches("ib").trim_end_matches('b') {
        "" => 1,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        "t" => 1 << 40,
        other => return Err(format!("expected a size such as 800MB or 4GB, received the unit {other:?}")),
    };
    let number: f64 =
        digits.parse().map_err(|_| format!("expected a size such as 800MB or 4GB, received {text:?}"))?;
    if number.is_finite() && number > 0.0 {
        Ok((number * factor as f64) as u64)
    } else {
        Err(format!("expected a positive size, received {text:?}"))
    }
}

/// Seed, threads, memory, progress and Ctrl-C for a long job.
pub fn context(global: &Global, seed: u64) -> FitContext {
    let threads = threads(global);
    FitContext {
        seed,
        threads,
        memory: global.memory.unwrap_or_else(|| free_memory() / 4 * 3),
        progress: progress(global),
        cancel: stop().cancel.clone(),
        checkpoints: None,
        resume: false,
        validate: None,
    }
}

pub fn threads(global: &Global) -> usize {
    global.threads.map_or_else(|| std::thread::available_parallelism().map_or(1, usize::from), usize::from)
}

/// Runs `work` on a pool of the asked-for number of threads.
pub fn on_pool<T: Send>(global: &Global, work: impl FnOnce() -> T + Send) -> Result<T> {
    Ok(rayon::ThreadPoolBuilder::new().num_threads(threads(global)).build()?.install(work))
}

pub fn progress(global: &Global) -> Arc<dyn Progress> {
    if global.quiet {
        Arc::new(NoProgress)
    } else if !std::io::stderr().is_terminal() {
        Arc::new(Lines)
    } else {
        Arc::new(Bars { current: Mutex::new(None) })
    }
}

/// What jobs say of themselves, in a log that no bar belongs in.
struct Lines;

impl Progress for Lines {
    fn start(&self, _: &str, _: Option<u64>) {}
    fn at(&self, _: u64) {}
    fn say(&self, words: &str) {
        eprintln!("{words}");
    }
    fn finish(&self) {}
}

/// One bar at a time on stderr, with rate and time left; it appears at once and leaves nothing behind.
struct Bars {
    current: Mutex<Option<ProgressBar>>,
}

impl Progress for Bars {
    fn start(&self, what: &str, total: Option<u64>) {
        self.finish();
        let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr_with_hz(8));
        let style = if total.is_some() {
            "{msg:28!} {wide_bar:.cyan/dim} {percent:>3}% {per_sec:>12} {eta:>5} left"
        } else {
            "{msg:28!} {spinner} {human_pos} ({per_sec}) {elapsed}"
        };
        bar.set_style(ProgressStyle::with_template(style).expect("the template is ours"));
        bar.set_message(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(250));
        *self.current.lock() = Some(bar);
    }

    fn at(&self, done: u64) {
        if let Some(bar) = &*self.current.lock() {
            bar.set_position(done);
        }
    }

    fn say(&self, words: &str) {
        match &*self.current.lock() {
            Some(bar) => bar.println(words),
            None => eprintln!("{words}"),
        }
    }

    fn finish(&self) {
        if let Some(bar) = self.current.lock().take() {
            bar.finish_and_clear();
        }
    }
}

/// Ctrl-C and SIGTERM. Jobs look at `cancel`, a server waits for `told`.
pub struct Stop {
    pub cancel: Cancel,
    pub told: Notify,
}

/// The first signal asks whatever runs to stop at a safe point; a second one ends the program.
pub fn stop() -> &'static Stop {
    static STOP: LazyLock<Stop> = LazyLock::new(|| {
        let installed = ctrlc::set_handler(|| {
            if STOP.cancel.is_cancelled() {
                std::process::exit(130);
            }
            eprintln!("\nstopping; press Ctrl-C again to stop at once");
            STOP.cancel.cancel();
            STOP.told.notify_one();
        });
        if let Err(error) = installed {
            tracing::warn!(%error, "Ctrl-C will end the program at once");
        }
        Stop { cancel: Cancel::default(), told: Notify::new() }
    });
    &STOP
}

/// Bytes the machine says are available; 4 GiB where it says nothing.
fn free_memory() -> u64 {
    let read = || -> Option<u64> {
        let text = std::fs::read_to_string("/proc/meminfo").ok()?;
        let line = text.lines().find(|l| l.starts_with("MemAvailable:"))?;
        Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? << 10)
    };
    read().unwrap_or(4 << 30)
}

/// Peak resident memory of this process so far, in MiB, where the system tells.
pub fn peak_rss_mb() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find(|l| l.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<f64>().ok()? / 1024.0)
}

/// A table that fits the terminal.
pub fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::UTF8_HORIZONTAL_ONLY);
    table.set_content_arrangement(ContentArrangement::Dynamic).set_header(header);
    table
}

/// A table for many short lines ([`line`]), nothing between them; 80 columns where nobody says how wide the terminal is. `numbers`
/// are the columns that are written to the right.
pub fn lines(header: &[&str], numbers: &[usize]) -> Table {
    let mut table = table(header);
    table.style_mut().row_separator = LineStyle::none();
    if table.width().is_none() {
        table.set_width(80);
    }
    for &column in numbers {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// One line of a table; what finds no room is cut.
pub fn line<const N: usize>(cells: [String; N]) -> Row {
    let mut row = Row::from(cells);
    row.max_height(1);
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(parse_bytes("4GB"), Ok(4 << 30));
        assert_eq!(parse_bytes("1.5 GiB"), Ok(3 << 29));
        assert_eq!(parse_bytes("512"), Ok(512));
        for bad in ["", "many", "-1GB", "1QB", "nan"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
    }
}

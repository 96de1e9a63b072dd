//! Durability under `kill -9`: a writing process dies at random moments, and nothing it acknowledged may be missing.
//!
//! The parent starts this very test binary again as the writer, which prints what it is about to do and what has been
//! acknowledged. After each kill the parent opens the log and compares: acknowledged writes are there, a write that
//! was under way is there whole or not at all, and every index agrees with the log.

use sommelier_core::{Event, Item, Rng, Time};
use sommelier_data::log::{Erasure, EventRef, Log, LogOptions, verify};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const KILLS: usize = 110;
/// A new log so often, so that checking stays quick.
const KILLS_PER_LOG: usize = 22;
const THREADS: usize = 3;
const USERS: usize = 5;
const DIR: &str = "SOMMELIER_TEST_KILL_DIR";
const CYCLE: &str = "SOMMELIER_TEST_KILL_CYCLE";

/// What a writer does next; drawn from the seed, so that the parent needs only its name.
#[derive(Debug, Clone, PartialEq)]
enum Act {
    /// Events with this tag as their session, spread over the thread's users.
    Append {
        tag: String,
        count: usize,
    },
    Bulk {
        tag: String,
        count: usize,
    },
    Erase {
        user: String,
    },
    Item {
        id: String,
    },
}

impl Act {
    fn line(&self) -> String {
        match self {
            Act::Append { tag, count } => format!("append {tag} {count}"),
            Act::Bulk { tag, count } => format!("bulk {tag} {count}"),
            Act::Erase { user } => format!("erase {user} 0"),
            Act::Item { id } => format!("item {id} 0"),
        }
    }

    fn read(line: &str) -> Option<Act> {
        let mut words = line.split(' ');
        let (verb, name, count) = (words.next()?, words.next()?.to_owned(), words.next()?.parse().ok()?);
        match verb {
            "append" => Some(Act::Append { tag: name, count }),
            "bulk" => Some(Act::Bulk { tag: name, count }),
            "erase" => Some(Act::Erase { user: name }),
            "item" => Some(Act::Item { id: name }),
            _ => None,
        }
    }
}

fn user_of(thread: usize, n: usize) -> String {
    format!("t{thread}-u{}", n % USERS)
}

#[test]
fn writer_process() {
    // Only does anything when the parent below has started it.
    let Ok(dir) = std::env::var(DIR) else { return };
    let cycle: u64 = std::env::var(CYCLE).unwrap().parse().unwrap();
    let options = LogOptions { segment_events: 40, ..LogOptions::default() };
    let log = Log::open(Path::new(&dir), &options).unwrap();
    say("ready");
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let log = &log;
            scope.spawn(move || write_forever(log, cycle, thread));
        }
    });
}

/// One write per line, flushed: a pipe keeps what a killed process wrote.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("\n@{line}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

fn write_forever(log: &Log, cycle: u64, thread: usize) {
    let mut rng = Rng::stream(cycle, thread as u64);
    let now = Time::from_millis(1_000).unwrap();
    for n in 0.. {
        let tag = format!("c{cycle}-t{thread}-n{n}");
        let act = match rng.below(12) {
            0 | 1 => Act::Bulk { tag, count: 1 + rng.below(30) },
            2 => Act::Erase { user: user_of(thread, rng.below(USERS)) },
            3 => Act::Item { id: tag },
            _ => Act::Append { tag, count: 1 + rng.below(30) },
        };
        say(&format!("try {thread} {}", act.line()));
        match &act {
            Act::Append { tag, count } => {
                let events = (0..*count).map(|j| Event {
                    id: Some(format!("{tag}-{j}")),
                    session: Some(tag.clone()),
                    ..Event::new(user_of(thread, j), format!("i{}", j % 7), "view")
                });
                assert_eq!(log.append(events.collect(), now).unwrap().stored, *count);
            }
            Act::Bulk { tag, count } => {
                let mut bulk = log.bulk(tag).unwrap();
                for j in 0..*count {
                    let (user, item) = (user_of(thread, j), format!("i{}", j % 7));
                    bulk.push(&EventRef { session: Some(tag), ..EventRef::new(&user, &item, "view", now) })
                        .unwrap();
                }
                assert_eq!(bulk.commit().unwrap().stored, *count as u64);
            }
            Act::Erase { user } => {
                log.erase(&Erasure::User(user.clone())).unwrap();
            }
            Act::Item { id } => log.put_items(vec![Item::new(id.as_str())]).unwrap(),
        }
        say(&format!("done {thread}"));
    }
}

/// What must be in the log: per user the tags of their events, with how many.
#[derive(Default)]
struct Expected {
    events: BTreeMap<String, BTreeMap<String, usize>>,
    items: BTreeSet<String>,
}

impl Expected {
    fn apply(&mut self, thread: usize, act: &Act) {
        match act {
            Act::Append { tag, count } | Act::Bulk { tag, count } => {
                for j in 0..*count {
                    *self.events.entry(user_of(thread, j)).or_default().entry(tag.clone()).or_default() += 1;
                }
            }
            Act::Erase { user } => drop(self.events.remove(user)),
            Act::Item { id } => drop(self.items.insert(id.clone())),
        }
    }
}

fn found(log: &Log) -> Expected {
    let mut found = Expected::default();
    let mut reached = 0;
    while reached < log.offset() {
        let (events, to) = log.events_after(reached, 5000).unwrap();
        reached = to;
        for event in events {
            *found.events.entry(event.user).or_default().entry(event.session.unwrap()).or_default() += 1;
        }
    }
    found.items = log.items(None, usize::MAX).unwrap().into_iter().map(|i| i.id).collect();
    found
}

#[test]
fn nothing_acknowledged_is_lost_when_the_writer_is_killed() {
    let mut rng = Rng::new(7);
    let (mut acknowledged, mut under_way, mut came_through) = (0usize, 0usize, 0usize);
    for home in 0..KILLS / KILLS_PER_LOG {
        let dir = tempfile::tempdir().unwrap();
        let mut expected = Expected::default();
        for kill in 0..KILLS_PER_LOG {
            let cycle = home * KILLS_PER_LOG + kill;
            let lines = run_and_kill(dir.path(), cycle, &mut rng);
            let mut pending: BTreeMap<usize, Act> = BTreeMap::new();
            for line in &lines {
                if let Some(rest) = line.strip_prefix("try ") {
                    let (thread, act) = rest.split_once(' ').unwrap();
                    // The very last line may be cut short by the kill; then nothing was tried yet.
                    if let Some(act) = Act::read(act) {
                        pending.insert(thread.parse().unwrap(), act);
                    }
                } else if let Some(thread) = line.strip_prefix("done ") {
                    let thread = thread.parse().unwrap();
                    expected.apply(thread, &pending.remove(&thread).expect("tried before done"));
                    acknowledged += 1;
                }
            }
            assert_eq!(verify(dir.path()).unwrap_or_default(), [], "cycle {cycle}");
            let log = Log::open(dir.path(), &LogOptions::default()).unwrap();
            let found = found(&log);
            // Each write under way is there whole or not at all: whichever makes the log agree.
            for (thread, act) in pending {
                under_way += 1;
                if took_place(&act, &found, &expected) {
                    came_through += 1;
                    expected.apply(thread, &act);
                }
            }
            assert_eq!(found.events, expected.events, "cycle {cycle}: {lines:?}");
            assert_eq!(found.items, expected.items, "cycle {cycle}");
            for (user, tags) in &found.events {
                let (events, next) = log.user_events(user, None, usize::MAX - 1).unwrap();
                assert_eq!((events.len(), next), (tags.values().sum(), None), "cycle {cycle}");
            }
        }
    }
    println!(
        "{KILLS} kills: {acknowledged} acknowledged writes found, {came_through} of {under_way} under way came through"
    );
    assert!(acknowledged > KILLS && under_way > 0, "the writer hardly wrote; make the delays longer");
}

fn took_place(act: &Act, found: &Expected, expected: &Expected) -> bool {
    match act {
        Act::Append { tag, .. } | Act::Bulk { tag, .. } => {
            found.events.values().any(|tags| tags.contains_key(tag))
        }
        Act::Erase { user } => expected.events.contains_key(user) && !found.events.contains_key(user),
        Act::Item { id } => found.items.contains(id),
    }
}

/// Starts a writer, kills it after a random while, and answers what it said.
fn run_and_kill(dir: &Path, cycle: usize, rng: &mut Rng) -> Vec<String> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["writer_process", "--exact", "--nocapture", "--test-threads=1"])
        .env(DIR, dir)
        .env(CYCLE, cycle.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    // One in eight dies while it opens the log; the others once they write.
    let at_once = rng.below(8) == 0;
    let delay = Duration::from_millis(rng.below(if at_once { 60 } else { 120 }) as u64);
    let (ready, wait) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut lines = Vec::new();
        for line in out.split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            if let Some(said) = line.strip_prefix('@') {
                if said == "ready" {
                    // The parent may not be waiting for it.
                    let _ = ready.send(());
                }
                lines.push(said.to_owned());
            }
        }
        lines
    });
    if !at_once {
        wait.recv_timeout(Duration::from_mins(1)).expect("the writer never opened the log");
    }
    std::thread::sleep(delay);
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap()
}

//! Damage is told, never hidden: changed, cut and missing files, full disks, foreign backups.

use sommelier_core::{Event, Item, Time};
use sommelier_data::log::{EventRef, Log, LogError, LogOptions, restore, verify};
use sommelier_data::{KindRules, StoreEngine};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

const LIVE: usize = 400;
const IMPORTED: usize = 3000;

fn now() -> Time {
    Time::from_millis(1_700_000_000_000).unwrap()
}

fn options(engine: StoreEngine) -> LogOptions {
    LogOptions { engine, ..LogOptions::default() }
}

/// A log with live events and a segment.
fn make(dir: &Path, engine: StoreEngine) {
    let log = Log::open(dir, &options(engine)).unwrap();
    let mut bulk = log.bulk("import").unwrap();
    for n in 0..IMPORTED {
        let (user, item) = (format!("user-{}", n % 100), format!("item-{}", n % 37));
        bulk.push(&EventRef { value: Some(n as f64), ..EventRef::new(&user, &item, "view", now()) }).unwrap();
    }
    bulk.commit().unwrap();
    for n in 0..LIVE / 20 {
        let events = (0..20).map(|j| Event::new(format!("live-{}", n % 10), format!("item-{j}"), "buy"));
        log.append(events.collect(), now()).unwrap();
    }
    log.put_items(vec![Item::new("item-1")]).unwrap();
}

/// Reads everything; says what came out, or the error.
fn read(dir: &Path, engine: StoreEngine) -> Result<usize, LogError> {
    let log = Log::open(dir, &options(engine))?;
    let snapshot = log.snapshot("t", &KindRules::new())?;
    for item in ["item-1", "item-36"] {
        log.item_events(item, None, 1000)?;
    }
    let (mut reached, mut count) = (0, 0);
    while reached < log.offset() {
        let (events, to) = log.events_after(reached, 1000)?;
        count += events.len();
        reached = to;
    }
    assert_eq!(count, snapshot.events.len());
    Ok(count)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.metadata().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
}

/// Where a file's content ends: journals are allocated ahead of it.
fn content(path: &Path) -> usize {
    let bytes = fs::read(path).unwrap();
    bytes.iter().rposition(|&b| b != 0).map_or(0, |p| p + 1)
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

/// Opens a damaged copy: either everything is there all the same, or the error says what is wrong and what to do.
fn told_or_harmless(dir: &Path, engine: StoreEngine, what: &str) -> bool {
    let outcome = std::panic::catch_unwind(|| read(dir, engine));
    match outcome.unwrap_or_else(|_| panic!("{what}: it panicked")) {
        Ok(count) => {
            assert_eq!(count, LIVE + IMPORTED, "{what}: events vanished without a word");
            false
        }
        Err(error) => {
            let words = error.to_string();
            assert!(words.len() > 30, "{what}: {words}");
            assert!(
                !matches!(error, LogError::Damaged(_)) || words.contains("sommelier restore"),
                "{what}: {words}"
            );
            true
        }
    }
}

#[test]
fn every_changed_block_of_a_segment_is_found() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path(), StoreEngine::Fjall);
    let segment = dir.path().join("segments/00000000.seg");
    let whole = fs::read(&segment).unwrap();
    assert_eq!(verify(dir.path()).unwrap(), []);
    for step in 0..40 {
        let at = step * (whole.len() - 1) / 39;
        flip(&segment, at);
        let damage = verify(dir.path()).unwrap();
        assert!(!damage.is_empty(), "a flip at {at} of {} went unnoticed", whole.len());
        assert!(
            damage[0].to_string().contains("events") && damage[0].to_string().contains("sommelier restore")
        );
        assert!(told_or_harmless(dir.path(), StoreEngine::Fjall, &format!("flip at {at}")));
        fs::write(&segment, &whole).unwrap();
    }
    for cut in [0, 7, 8, 30, whole.len() / 2, whole.len() - 1] {
        File::options().write(true).open(&segment).unwrap().set_len(cut as u64).unwrap();
        assert!(told_or_harmless(dir.path(), StoreEngine::Fjall, &format!("cut at {cut}")));
        assert!(!verify(dir.path()).unwrap().is_empty());
        fs::write(&segment, &whole).unwrap();
    }
    fs::remove_file(&segment).unwrap();
    let error = read(dir.path(), StoreEngine::Fjall).unwrap_err().to_string();
    assert!(
        error.contains("missing") && error.contains("3000 imported events, offsets 1 to 3000"),
        "{error}"
    );
}

#[test]
fn cut_and_changed_store_files_are_told_or_harmless() {
    for engine in [StoreEngine::Fjall, StoreEngine::Redb] {
        let home = tempfile::tempdir().unwrap();
        let original = home.path().join("original");
        make(&original, engine);
        let mut list = Vec::new();
        files(&original, &mut list);
        let mut told = 0;
        for (n, file) in list.iter().enumerate() {
            let length = content(file);
            let name = file.strip_prefix(&original).unwrap();
            for (way, at) in [
                ("cut", 0),
                ("cut", length / 2),
                ("cut", length * 9 / 10),
                ("flip", length / 3),
                ("flip", length * 3 / 4),
            ] {
                if length == 0 {
                    continue;
                }
                let damaged = home.path().join(format!("damaged-{n}-{way}-{at}"));
                copy(&original, &damaged);
                let victim = damaged.join(name);
                if way == "cut" {
                    File::options().write(true).open(&victim).unwrap().set_len(at as u64).unwrap();
                } else {
                    flip(&victim, at);
                }
                told += usize::from(told_or_harmless(
                    &damaged,
                    engine,
                    &format!("{} {way} at {at}", name.display()),
                ));
                fs::remove_dir_all(&damaged).unwrap();
            }
        }
        assert!(told >= 3, "{engine:?}: only {told} damages mattered; the test damages the wrong files");
    }
}

#[test]
fn a_backup_is_taken_while_writing_goes_on_and_a_damaged_one_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("log");
    make(&dir, StoreEngine::Fjall);
    let file = home.path().join("backup");
    let log = Log::open(&dir, &LogOptions::default()).unwrap();
    let stop = AtomicBool::new(false);
    let (digest, before, after) = std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                // Pairs, so that half a batch would show.
                log.append(vec![Event::new("w", "x", "view"), Event::new("w", "y", "view")], now()).unwrap();
            }
        });
        let before = log.offset();
        let digest = log.backup(&file).unwrap();
        let after = log.offset();
        stop.store(true, Ordering::Relaxed);
        writing.join().unwrap();
        (digest, before, after)
    });
    let into = home.path().join("restored");
    assert_eq!(restore(&file, &into).unwrap(), digest);
    assert_eq!(verify(&into).unwrap(), []);
    let restored = Log::open(&into, &LogOptions::default()).unwrap();
    assert!(before <= restored.offset() && restored.offset() <= after);
    assert_eq!(restored.user_events("w", None, usize::MAX - 1).unwrap().0.len() % 2, 0);

    let whole = fs::read(&file).unwrap();
    for (what, bytes) in [
        ("empty", Vec::new()),
        ("cut", whole[..whole.len() - 1].to_vec()),
        ("half", whole[..whole.len() / 2].to_vec()),
        (
            "foreign",
            b"PK\x03\x04 something else altogether, long enough to hold a digest of its own".to_vec(),
        ),
        ("flipped", {
            let mut bytes = whole.clone();
            bytes[whole.len() / 3] ^= 1;
            bytes
        }),
    ] {
        fs::write(&file, bytes).unwrap();
        let into = home.path().join(format!("into-{what}"));
        let error = restore(&file, &into).unwrap_err();
        assert!(matches!(error, LogError::NotABackup { .. }), "{what}: {error}");
        assert!(!into.join("FORMAT").exists());
    }
}

/// A few megabytes of disk of its own, gone when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(megabytes: usize) -> Option<SmallDisk> {
        let dir = tempfile::tempdir().unwrap();
        let mount = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "tmpfs"])
            .arg(dir.path())
            .output();
        mount.is_ok_and(|m| m.status.success()).then_some(SmallDisk(dir))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_is_told_and_writing_goes_on_once_there_is_space() {
    for engine in [StoreEngine::Fjall, StoreEngine::Redb] {
        let Some(disk) = SmallDisk::new(48) else {
            println!("skipped: mounting a small tmpfs needs root");
            return;
        };
        let ballast = disk.0.path().join("ballast");
        fs::write(&ballast, vec![1u8; 30 << 20]).unwrap();
        let dir = disk.0.path().join("log");
        let log = Log::open(&dir, &options(engine)).unwrap();
        let mut stored = 0usize;
        let batch = |n: usize| -> Vec<Event> {
            let text = Some("words ".repeat(60));
            (0..100)
                .map(|j| Event { text: text.clone(), ..Event::new(format!("u{n}"), format!("i{j}"), "view") })
                .collect()
        };
        let error = loop {
            match log.append(batch(stored), now()) {
                Ok(appended) => stored += appended.stored / 100,
                Err(error) => break error,
            }
            assert!(stored < 5000, "the disk never filled up");
        };
        assert!(error.to_string().contains("no space is left"), "{engine:?}: {error}");
        // An import into the full disk fails in the same words, and so does a backup.
        let mut bulk = log.bulk("big").unwrap();
        for n in 0..200_000 {
            bulk.push(&EventRef::new("u", &format!("item {n}"), "view", now())).unwrap();
        }
        let error = bulk.commit().unwrap_err();
        assert!(error.to_string().contains("no space is left"), "{engine:?}: {error}");

        fs::remove_file(&ballast).unwrap();
        log.append(batch(stored), now()).unwrap();
        stored += 1;
        let mut bulk = log.bulk("big").unwrap();
        for n in 0..1000 {
            bulk.push(&EventRef::new("u", &format!("item {n}"), "view", now())).unwrap();
        }
        assert_eq!(bulk.commit().unwrap().stored, 1000);
        drop(log);
        assert_eq!(verify(&dir).unwrap(), []);
        let log = Log::open(&dir, &options(engine)).unwrap();
        for n in 0..stored {
            let count = log.user_events(&format!("u{n}"), None, 1000).unwrap().0.len();
            // The batch that failed is not acknowledged; sent again, it may be there twice.
            assert!(
                count == 100 || (n + 1 == stored && count == 200),
                "{engine:?}: user {n} of {stored} has {count}"
            );
        }
    }
}

#[test]
fn folders_that_are_no_log_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    assert!(verify(dir.path()).unwrap_err().to_string().contains("no log here"));
    fs::write(dir.path().join("FORMAT"), "9 fjall\n").unwrap();
    assert!(
        Log::open(dir.path(), &LogOptions::default()).err().unwrap().to_string().contains("newer version")
    );
    fs::write(dir.path().join("FORMAT"), "1 leveldb\n").unwrap();
    assert!(matches!(Log::open(dir.path(), &LogOptions::default()), Err(LogError::Damaged(_))));
    let file = dir.path().join("file");
    fs::write(&file, "x").unwrap();
    assert!(matches!(Log::open(&file, &LogOptions::default()), Err(LogError::Io { .. })));
}

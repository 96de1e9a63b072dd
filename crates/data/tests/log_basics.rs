//! The log's first promises: what is appended is there after opening again, ids are stored once, one process at a time.

use sommelier_core::{Event, Time};
use sommelier_data::log::{BulkReport, EventRef, Log, LogError, LogOptions, Resume};
use sommelier_data::{KindRules, StoreEngine};

fn now() -> Time {
    Time::from_millis(1_700_000_000_000).unwrap()
}

#[test]
fn appended_events_survive_a_reopen_on_both_engines() {
    for engine in [StoreEngine::Fjall, StoreEngine::Redb] {
        let dir = tempfile::tempdir().unwrap();
        let options = LogOptions { engine, ..LogOptions::default() };
        {
            let log = Log::open(dir.path(), &options).unwrap();
            let mut event = Event::new("u1", "i1", "view");
            event.id = Some("e1".into());
            let appended =
                log.append(vec![event.clone(), event, Event::new("u1", "i2", "buy")], now()).unwrap();
            assert_eq!((appended.stored, appended.duplicates, appended.offset), (2, 1, 2));
            assert_eq!(appended.repeated, [1]);
            let busy = Log::open(dir.path(), &options).err().unwrap();
            assert_eq!(busy, LogError::Busy { dir: dir.path().to_owned(), pid: Some(std::process::id()) });
        }
        let log = Log::open(dir.path(), &options).unwrap();
        let (events, next) = log.user_events("u1", None, 10).unwrap();
        assert_eq!(events.iter().map(|e| e.item.as_str()).collect::<Vec<_>>(), ["i2", "i1"]);
        assert_eq!((events[0].at, next), (Some(now()), None));
    }
}

#[test]
fn a_bulk_import_is_resumed_and_done_once() {
    let dir = tempfile::tempdir().unwrap();
    let options = LogOptions { segment_events: 10, ..LogOptions::default() };
    let log = Log::open(dir.path(), &options).unwrap();
    let push = |count: usize, commit: bool| {
        let mut bulk = log.bulk("file digest").unwrap();
        assert!(matches!(log.bulk("file digest"), Err(LogError::Importing { .. })));
        let resume = bulk.resume_position();
        for n in 0..count {
            bulk.push(&EventRef::new(&format!("u{}", n % 3), &format!("i{n}"), "view", now())).unwrap();
        }
        let report = if commit { bulk.commit().unwrap() } else { BulkReport::default() };
        (resume, report.stored, report.resumed)
    };
    assert_eq!(push(25, false), (Resume::Fresh, 0, 0));
    assert_eq!(log.stats().unwrap().events, 20);
    assert_eq!(push(25, true), (Resume::At(20), 5, 20));
    assert_eq!(push(25, true), (Resume::Done(25), 0, 25));
    assert_eq!(log.stats().unwrap().events, 25);
    let snapshot = log.snapshot("t", &KindRules::new()).unwrap();
    assert_eq!((snapshot.events.len(), snapshot.users.len(), snapshot.items.len()), (25, 3, 25));
}

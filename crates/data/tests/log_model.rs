//! The log against a naive model of it: seeded random operations, on both engines, must give the same answers.

use sommelier_core::{Event, Item, Rng, Slate, SlateItem, Time, User};
use sommelier_data::log::{Erasure, EventKey, EventRef, Log, LogOptions, SlateRecord, restore, verify};
use sommelier_data::{KindRules, StoreEngine};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// What the log should know, as plainly as possible.
#[derive(Default)]
struct Twin {
    offset: u64,
    /// In order of arrival, with offsets.
    events: Vec<(u64, Event)>,
    items: BTreeMap<String, Item>,
    retired: BTreeSet<String>,
    users: BTreeMap<String, User>,
    slates: BTreeMap<String, SlateRecord>,
}

impl Twin {
    fn append(&mut self, events: &[Event], now: Time) -> Vec<u32> {
        let mut repeated = Vec::new();
        for (index, event) in events.iter().enumerate() {
            if event.id.is_some() && self.events.iter().any(|(_, e)| e.id == event.id) {
                repeated.push(index as u32);
                continue;
            }
            self.offset += 1;
            let event = Event { at: event.at.or(Some(now)), ..event.clone() };
            self.events.push((self.offset, event));
        }
        repeated
    }

    fn newest(&self, keep: impl Fn(&Event) -> bool) -> Vec<(EventKey, Event)> {
        let key = |offset: u64, e: &Event| EventKey { at: e.at.unwrap().millis(), offset };
        let kept = self.events.iter().filter(|(_, e)| keep(e));
        let mut list: Vec<_> = kept.map(|(offset, e)| (key(*offset, e), e.clone())).collect();
        list.sort_by_key(|(key, _)| std::cmp::Reverse(*key));
        list
    }
}

const IDS: [&str; 9] = ["a", "ab", "abc", "b", "ü", "\u{0}", "a\u{0}b", "🦊", "longer-than-eight-bytes"];

fn id(rng: &mut Rng) -> String {
    IDS[rng.below(IDS.len())].to_owned()
}

fn event(rng: &mut Rng) -> Event {
    let mut event = Event::new(id(rng), id(rng), ["view", "buy", "rating"][rng.below(3)]);
    if rng.below(4) > 0 {
        event.at = Some(Time::from_millis(rng.below(2000) as i64 - 1000).unwrap());
    }
    if rng.below(2) == 0 {
        event.value = Some([0.1, 4.0, -3.5, 1e300][rng.below(4)]);
    }
    if rng.below(3) == 0 {
        event.id = Some(format!("e{}", rng.below(60)));
    }
    if rng.below(5) == 0 {
        event.slate = Some("s1".into());
        event.position = Some(3);
        event.session = Some("x".into());
        event.text = Some("words".into());
        event.context = serde_json::from_str(r#"{"device":{"kind":"tv"},"n":[1,2.5,null]}"#).unwrap();
    }
    event
}

fn bulk(log: &Log, twin: &mut Twin, rng: &mut Rng, source: &str) {
    let now = Time::from_millis(0).unwrap();
    let events: Vec<Event> = (0..rng.below(60)).map(|_| event(rng)).collect();
    let mut bulk = log.bulk(source).unwrap();
    for event in &events {
        let context = (!event.context.is_empty()).then(|| serde_json::to_string(&event.context).unwrap());
        bulk.push(&EventRef {
            value: event.value,
            id: event.id.as_deref(),
            slate: event.slate.as_deref(),
            position: event.position,
            session: event.session.as_deref(),
            context: context.as_deref(),
            text: event.text.as_deref(),
            ..EventRef::new(&event.user, &event.item, &event.kind, event.at.unwrap_or(now))
        })
        .unwrap();
    }
    let report = bulk.commit().unwrap();
    let repeated = twin.append(&events, now).len() as u64;
    assert_eq!((report.stored, report.duplicates), (events.len() as u64 - repeated, repeated));
}

fn slate(rng: &mut Rng, number: usize) -> SlateRecord {
    let items = (0..rng.below(4)).map(|_| SlateItem {
        item: id(rng),
        score: 0.1,
        source: "model".into(),
        reasons: Vec::new(),
        propensity: 1.0,
        properties: None,
    });
    let items = items.collect();
    let slate = serde_json::json!({"id": format!("s{number}"), "items": [], "fallback": null});
    SlateRecord {
        at: Time::from_millis(5).unwrap(),
        user: (rng.below(2) == 0).then(|| id(rng)),
        query: serde_json::from_str("{}").unwrap(),
        slate: Slate { items, ..serde_json::from_value(slate).unwrap() },
    }
}

fn step(log: &Log, twin: &mut Twin, rng: &mut Rng, number: usize) {
    let now = Time::from_millis(number as i64).unwrap();
    match rng.below(20) {
        0..8 => {
            let events: Vec<Event> = (0..rng.below(12)).map(|_| event(rng)).collect();
            let appended = log.append(events.clone(), now).unwrap();
            let repeated = twin.append(&events, now);
            assert_eq!(appended.repeated, repeated);
            assert_eq!(appended.stored, events.len() - repeated.len());
            assert_eq!(appended.offset, twin.offset);
        }
        8..10 => bulk(log, twin, rng, &format!("source {number}")),
        10..12 => {
            let mut item = Item::new(id(rng));
            item.hidden = rng.below(2) == 0;
            item.properties.insert("title".into(), format!("t{number}").into());
            let again = Item::new(id(rng));
            log.put_items(vec![item.clone(), again.clone()]).unwrap();
            for item in [item, again] {
                twin.retired.remove(&item.id);
                twin.items.insert(item.id.clone(), item);
                twin.offset += 1;
            }
        }
        12 => {
            let user = User::new(id(rng));
            log.put_users(vec![user.clone()]).unwrap();
            twin.users.insert(user.id.clone(), user);
            twin.offset += 1;
        }
        13 => {
            let id = id(rng);
            let existed = twin.items.remove(&id).is_some();
            assert_eq!(log.delete_item(&id).unwrap(), existed);
            if existed {
                twin.offset += 1;
                twin.retired.insert(id);
            }
        }
        14 => {
            let id = id(rng);
            let existed = twin.users.remove(&id).is_some();
            assert_eq!(log.delete_user(&id).unwrap(), existed);
            twin.offset += u64::from(existed);
        }
        15 | 16 => {
            let record = slate(rng, number);
            log.record_slates(vec![std::sync::Arc::new(record.clone())]).unwrap();
            twin.offset += u64::from(twin.slates.insert(record.slate.id.clone(), record).is_none());
        }
        17 => erase(log, twin, rng),
        18 => log.compact().unwrap(),
        _ => {
            // Begun, given up and begun again.
            let source = format!("source {number}");
            drop(log.bulk(&source).unwrap());
            bulk(log, twin, rng, &source);
        }
    }
}

fn erase(log: &Log, twin: &mut Twin, rng: &mut Rng) {
    let id = id(rng);
    twin.offset += 1;
    let before = twin.events.len();
    let erased;
    if rng.below(2) == 0 {
        erased = log.erase(&Erasure::User(id.clone())).unwrap();
        twin.events.retain(|(_, e)| e.user != id);
        assert_eq!(erased.revision, twin.users.remove(&id).is_some());
        let slates = twin.slates.len();
        twin.slates.retain(|_, s| s.user.as_ref() != Some(&id));
        assert_eq!(erased.slates as usize, slates - twin.slates.len());
    } else {
        erased = log.erase(&Erasure::Item(id.clone())).unwrap();
        twin.events.retain(|(_, e)| e.item != id);
        assert_eq!(erased.revision, twin.items.remove(&id).is_some());
        for slate in twin.slates.values_mut() {
            slate.slate.items.retain(|i| i.item != id);
        }
        twin.retired.insert(id);
    }
    assert_eq!(erased.events as usize, before - twin.events.len());
    assert_eq!(erased.offset, twin.offset);
}

fn agree(log: &Log, twin: &Twin, rng: &mut Rng, steps: usize) {
    assert_eq!(log.offset(), twin.offset);
    let stats = log.stats().unwrap();
    assert_eq!(stats.events as usize, twin.events.len());
    assert_eq!((stats.items as usize, stats.users as usize), (twin.items.len(), twin.users.len()));
    assert_eq!(stats.slates as usize, twin.slates.len());
    for id in IDS {
        let size = 1 + rng.below(7);
        check_pages(&twin.newest(|e| e.user == id), size, |b, n| log.user_events(id, b, n).unwrap());
        check_pages(&twin.newest(|e| e.item == id), size, |b, n| log.item_events(id, b, n).unwrap());
        assert_eq!(log.item(id).unwrap().as_ref(), twin.items.get(id));
        assert_eq!(log.user(id).unwrap().as_ref(), twin.users.get(id));
    }
    assert_eq!(log.items(None, 100).unwrap(), twin.items.values().cloned().collect::<Vec<_>>());
    let after_ab = twin.items.iter().find(|(id, _)| id.as_str() > "ab").map(|(_, item)| item);
    assert_eq!(log.items(Some("ab"), 2).unwrap().first(), after_ab);
    assert_eq!(log.users(None, 100).unwrap(), twin.users.values().cloned().collect::<Vec<_>>());
    assert_eq!(log.items_deleted().unwrap(), twin.retired.iter().cloned().collect::<Vec<_>>());
    for number in 0..steps {
        let id = format!("s{number}");
        assert_eq!(log.slate(&id).unwrap().as_ref(), twin.slates.get(&id));
    }
    // In order of arrival, in odd steps.
    let (mut all, mut reached) = (Vec::new(), 0);
    while reached < log.offset() {
        let (events, to) = log.events_after(reached, 7).unwrap();
        assert!(to > reached && events.len() <= 7);
        reached = to;
        all.extend(events);
    }
    assert_eq!(all, twin.events.iter().map(|(_, e)| e.clone()).collect::<Vec<_>>());
    // The same facts at once and in any order, from the start and from the middle of whatever is there.
    for from in [0, log.offset() / 2] {
        let facts =
            |item: &str, kind: &str, value: Option<f64>, at: Time| format!("{item} {kind} {value:?} {at:?}");
        let mut found = Vec::new();
        let reached =
            log.each_after(from, &mut |e| found.push(facts(e.item, e.kind, e.value, e.at))).unwrap();
        assert_eq!(reached, log.offset());
        let later = twin.events.iter().filter(|(offset, _)| *offset > from).map(|(_, e)| e);
        let mut want: Vec<_> = later.map(|e| facts(&e.item, &e.kind, e.value, e.at.unwrap())).collect();
        found.sort();
        want.sort();
        assert_eq!(found, want);
    }
    check_snapshot(log, twin);
}

fn check_pages(
    want: &[(EventKey, Event)],
    size: usize,
    page: impl Fn(Option<EventKey>, usize) -> (Vec<Event>, Option<EventKey>),
) {
    let (mut got, mut before) = (Vec::new(), None);
    loop {
        let (events, next) = page(before, size);
        assert!(events.len() <= size);
        got.extend(events);
        match next {
            Some(key) => before = Some(key.to_string().parse().unwrap()),
            None => break,
        }
    }
    assert_eq!(got, want.iter().map(|(_, e)| e.clone()).collect::<Vec<_>>());
}

fn check_snapshot(log: &Log, twin: &Twin) {
    let snapshot = log.snapshot("t", &KindRules::new()).unwrap();
    assert_eq!(snapshot.offset, twin.offset);
    assert_eq!(snapshot.events.len(), twin.events.len());
    for user in IDS {
        let mut want = twin.newest(|e| e.user == user);
        want.reverse();
        let Some(u) = snapshot.users.get(user) else {
            assert!(want.is_empty() && !twin.users.contains_key(user));
            continue;
        };
        let range = snapshot.events.of(u as usize);
        assert_eq!(range.len(), want.len(), "events of {user:?}");
        for (e, (key, event)) in range.zip(want) {
            assert_eq!(snapshot.items.id(snapshot.events.item[e]), event.item);
            assert_eq!(snapshot.kinds[snapshot.events.kind[e] as usize], event.kind);
            assert_eq!(snapshot.events.at[e], key.at);
            assert_eq!(snapshot.events.value[e], event.value.unwrap_or(1.0) as f32);
        }
        assert_eq!(snapshot.user_info[u as usize].as_ref(), twin.users.get(user));
    }
    for (ix, id) in snapshot.items.iter().enumerate() {
        assert_eq!(snapshot.item_info[ix].as_ref(), twin.items.get(id));
    }
}

fn run(engine: StoreEngine, seed: u64, steps: usize) {
    let dir = tempfile::tempdir().unwrap();
    let dir: &Path = dir.path();
    // Small segments, so that an import of sixty events becomes several.
    let options = LogOptions { engine, segment_events: 25, ..LogOptions::default() };
    let mut rng = Rng::new(seed);
    let mut twin = Twin::default();
    let home = dir.join("log");
    let mut log = Some(Log::open(&home, &options).unwrap());
    for number in 0..steps {
        step(log.as_ref().unwrap(), &mut twin, &mut rng, number);
        if rng.below(8) == 0 {
            agree(log.as_ref().unwrap(), &twin, &mut rng, steps);
        }
        if rng.below(25) == 0 {
            drop(log.take());
            assert_eq!(verify(&home).unwrap(), [], "seed {seed}, step {number}");
            log = Some(Log::open(&home, &options).unwrap());
            agree(log.as_ref().unwrap(), &twin, &mut rng, steps);
        }
    }
    let log = log.unwrap();
    agree(&log, &twin, &mut rng, steps);
    let file = dir.join("backup");
    let digest = log.backup(&file).unwrap();
    let home = dir.join("restored");
    assert_eq!(restore(&file, &home).unwrap(), digest);
    assert_eq!(verify(&home).unwrap(), []);
    agree(&Log::open(&home, &options).unwrap(), &twin, &mut rng, steps);
    assert!(restore(&file, &home).unwrap_err().to_string().contains("not empty"));
}

#[test]
fn fjall_agrees_with_the_model() {
    for seed in 0..6 {
        run(StoreEngine::Fjall, seed, 120);
    }
}

#[test]
fn redb_agrees_with_the_model() {
    for seed in 0..3 {
        run(StoreEngine::Redb, seed, 120);
    }
}

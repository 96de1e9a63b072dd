//! What people did, as queries need it: a bounded cache of each user's events, oldest first, over the log.

use crate::catalogue::Slot;
use foldhash::fast::FixedState;
use hashbrown::HashMap;
use parking_lot::{Mutex, RwLock};
use sommelier_core::Vocab;
use sommelier_data::rules::{RuleError, Weigher};
use sommelier_data::{KindRule, KindRules, TimeQuality};
use std::hash::BuildHasher;
use std::sync::Arc;

const SHARDS: usize = 16;
const DAY_MILLIS: f64 = 86_400_000.0;

/// One event of a user.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Known {
    pub slot: Slot,
    /// Index in [`Kinds`].
    pub kind: u32,
    /// After kind, value and condition, before its half-life.
    pub weight: f32,
    pub at: i64,
}

/// Event kinds in order of first sight, with their rules.
pub(crate) struct Kinds {
    rules: KindRules,
    seen: RwLock<(Vocab, Vec<Rule>)>,
}

#[derive(Clone)]
struct Rule {
    weigher: Arc<Weigher>,
    half_life_days: Option<f64>,
}

impl Kinds {
    pub fn new(rules: KindRules) -> Result<Kinds, RuleError> {
        Weigher::new(&rules, &[], 0, TimeQuality::Clock)?;
        Ok(Kinds { rules, seen: RwLock::default() })
    }

    /// Index and weight of one event, half-life aside.
    pub fn weigh(&self, kind: &str, value: Option<f64>) -> (u32, f32) {
        let known = self.seen.read().0.get(kind);
        let ix = known.unwrap_or_else(|| self.learn(kind));
        let weigher = Arc::clone(&self.seen.read().1[ix as usize].weigher);
        (ix, weigher.weight(0, value.map(|v| v as f32), i64::MAX))
    }

    /// How much of an event's weight is left at `now`.
    pub fn fade(&self, kind: u32, at: i64, now: i64) -> f32 {
        let half_life = self.seen.read().1.get(kind as usize).and_then(|rule| rule.half_life_days);
        half_life
            .map_or(1.0, |days| (-(now.saturating_sub(at).max(0) as f64) / (days * DAY_MILLIS)).exp2() as f32)
    }

    pub fn index(&self, kind: &str) -> Option<u32> {
        self.seen.read().0.get(kind)
    }

    pub fn name(&self, kind: u32) -> String {
        self.seen.read().0.id(kind).to_owned()
    }

    fn learn(&self, kind: &str) -> u32 {
        let mut seen = self.seen.write();
        let ix = seen.0.intern(kind);
        if ix as usize == seen.1.len() {
            let rule = self.rules.get(kind).cloned().unwrap_or_else(KindRule::default);
            let half_life_days = rule.half_life_days;
            let alone = KindRules::from([(kind.to_owned(), rule)]);
            // The rules were checked when the space was opened; the newest time of 0 means that nothing fades here.
            let weigher = Weigher::new(&alone, &[kind.to_owned()], 0, TimeQuality::Clock)
                .unwrap_or_else(|_| unreachable!("rules are checked by Kinds::new"));
            seen.1.push(Rule { weigher: Arc::new(weigher), half_life_days });
        }
        ix
    }
}

/// Events by user, at most about `capacity` of them in all. Users not asked for lately are dropped first.
pub(crate) struct HistoryCache {
    shards: Vec<Mutex<Shard>>,
    /// Events a shard's young half may hold.
    half: usize,
}

#[derive(Default)]
struct Shard {
    young: HashMap<String, Arc<Vec<Known>>>,
    young_events: usize,
    old: HashMap<String, Arc<Vec<Known>>>,
    /// Counts invalidations, so that what was read before one is not kept after it.
    changes: u64,
}

/// Proof of when a reader began to read the log.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ticket(u64);

impl HistoryCache {
    pub fn new(capacity: usize) -> HistoryCache {
        HistoryCache {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            half: (capacity / SHARDS / 2).max(1),
        }
    }

    fn shard(&self, user: &str) -> &Mutex<Shard> {
        &self.shards[FixedState::with_seed(7).hash_one(user) as usize % SHARDS]
    }

    /// The events, or a ticket for [`HistoryCache::keep`].
    pub fn get(&self, user: &str) -> Result<Arc<Vec<Known>>, Ticket> {
        let mut shard = self.shard(user).lock();
        if let Some(found) = shard.young.get(user) {
            return Ok(Arc::clone(found));
        }
        match shard.old.remove(user) {
            Some(found) => {
                self.insert(&mut shard, user, Arc::clone(&found));
                Ok(found)
            }
            None => Err(Ticket(shard.changes)),
        }
    }

    /// Keeps what was read since the ticket, unless the user's events may have changed meanwhile.
    pub fn keep(&self, user: &str, events: Arc<Vec<Known>>, ticket: Ticket) {
        let mut shard = self.shard(user).lock();
        if shard.changes == ticket.0 {
            self.insert(&mut shard, user, events);
        }
    }

    pub fn forget(&self, user: &str) {
        let mut shard = self.shard(user).lock();
        shard.changes += 1;
        shard.old.remove(user);
        if let Some(gone) = shard.young.remove(user) {
            shard.young_events -= gone.len() + 1;
        }
    }

    pub fn clear(&self) {
        for shard in &self.shards {
            let mut shard = shard.lock();
            *shard = Shard { changes: shard.changes + 1, ..Shard::default() };
        }
    }

    fn insert(&self, shard: &mut Shard, user: &str, events: Arc<Vec<Known>>) {
        // Every user counts one more than its events, so that users without any cannot fill the memory.
        let added = events.len() + 1;
        if shard.young_events + added > self.half && !shard.young.is_empty() {
            shard.old = std::mem::take(&mut shard.young);
            shard.young_events = 0;
        }
        if let Some(replaced) = shard.young.insert(user.to_owned(), events) {
            shard.young_events -= replaced.len() + 1;
        }
        shard.young_events += added;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(n: usize) -> Arc<Vec<Known>> {
        Arc::new(vec![Known { slot: 0, kind: 0, weight: 1.0, at: 0 }; n])
    }

    #[test]
    fn stale_reads_are_not_kept() {
        let cache = HistoryCache::new(1000);
        let ticket = cache.get("u").unwrap_err();
        cache.forget("u");
        cache.keep("u", events(1), ticket);
        let ticket = cache.get("u").unwrap_err();
        cache.keep("u", events(2), ticket);
        assert_eq!(cache.get("u").unwrap().len(), 2);
        cache.clear();
        assert!(cache.get("u").is_err());
    }

    #[test]
    fn memory_is_bounded() {
        let cache = HistoryCache::new(3200);
        for i in 0..2000 {
            let user = format!("u{i}");
            let ticket = cache.get(&user).unwrap_err();
            cache.keep(&user, events(9), ticket);
        }
        let held: usize = cache
            .shards
            .iter()
            .map(|s| s.lock())
            .map(|s| s.young.values().chain(s.old.values()).map(|e| e.len() + 1).sum::<usize>())
            .sum();
        assert!(held <= 3200 && held > 800, "{held}");
        assert!(cache.get("u1999").is_ok());
    }

    #[test]
    fn kinds_weigh_and_fade() {
        let rules = KindRules::from([
            (
                "rating".into(),
                KindRule { by_value: true, only: Some("value >= 4".into()), ..KindRule::default() },
            ),
            ("view".into(), KindRule { half_life_days: Some(1.0), weight: 0.5, ..KindRule::default() }),
        ]);
        let kinds = Kinds::new(rules).unwrap();
        assert_eq!(kinds.weigh("rating", Some(5.0)).1, 5.0);
        assert_eq!(kinds.weigh("rating", Some(3.0)).1, 0.0);
        let (view, weight) = kinds.weigh("view", None);
        assert_eq!(weight, 0.5);
        assert_eq!(kinds.fade(view, 0, 86_400_000), 0.5);
        assert_eq!(kinds.fade(view, 86_400_000, 0), 1.0, "the future does not grow");
        let bad = KindRule { only: Some("?".into()), ..KindRule::default() };
        assert!(Kinds::new(KindRules::from([("x".into(), bad)])).is_err());
    }
}

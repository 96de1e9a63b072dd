//! `--data PATH`: files straight into a snapshot, without a log.

use super::batch::Batch;
use super::plan::{FilePlan, Part, Plan};
use super::run::{Sink, Tally, run};
use super::{Field, ImportContext, ImportError, ImportOptions, ImportReport, TimeUnit, detect};
use crate::rules::Weigher;
use crate::snapshot::{Events, Given, KindRules, Snapshot, TimeQuality};
use serde_json::{Map, Value};
use sommelier_core::{Item, ItemIx, Time, User, UserIx, Vocab};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// Reads a folder or file of any format into a snapshot. See [`detect`] for what is looked for.
pub fn load(
    path: &Path,
    options: &ImportOptions,
    rules: &KindRules,
    ctx: &ImportContext,
) -> Result<(Snapshot, ImportReport), ImportError> {
    load_plan(&detect(path, options)?, rules, ctx)
}

/// Reads what a plan says into a snapshot.
pub fn load_plan(
    plan: &Plan,
    rules: &KindRules,
    ctx: &ImportContext,
) -> Result<(Snapshot, ImportReport), ImportError> {
    let started = Instant::now();
    let mut memory = Memory::default();
    let tally = run(plan, ctx, &mut memory)?;
    if let (true, Some(first)) = (plan.strict, tally.problems.kept.first()) {
        return Err(ImportError::Strict { total: tally.problems.total, first: first.clone() });
    }
    let mut report = memory.report(tally);
    let mut rules = rules.clone();
    if let Some((kind, only)) = &plan.positive {
        rules.entry(kind.clone()).or_default().only = Some(only.clone());
        report.rules = KindRules::from([(kind.clone(), rules[kind].clone())]);
    }
    let snapshot = memory.snapshot(plan, &rules, ctx.now, &mut report)?;
    report.seconds = started.elapsed().as_secs_f64();
    Ok((snapshot, report))
}

/// No time in the row.
const NO_TIME: i64 = i64::MIN;

/// Columns in order of arrival, to be grouped by user at the end.
#[derive(Default)]
struct Memory {
    users: Vocab,
    items: Vocab,
    kinds: Vec<String>,
    ids: Vocab,
    user: Vec<u32>,
    item: Vec<u32>,
    kind: Vec<u8>,
    at: Vec<i64>,
    /// NaN where the event has none.
    value: Vec<f32>,
    part: Vec<Part>,
    item_info: BTreeMap<u32, (usize, Item)>,
    user_info: BTreeMap<u32, (usize, User)>,
    candidates: BTreeMap<u32, Vec<u32>>,
    duplicates: u64,
    file: usize,
    order_only: bool,
}

impl Sink for Memory {
    fn start(&mut self, file: &FilePlan) -> Result<(), ImportError> {
        self.file += 1;
        self.order_only |= file.columns.iter().any(|c| c.field == Field::At(TimeUnit::Order));
        Ok(())
    }

    fn take(&mut self, batch: &mut Batch) -> Result<(), ImportError> {
        let mut kind = (String::new(), 0u8);
        for row in &batch.rows {
            if let Some(id) = batch.extra(row).and_then(|e| e.id.as_deref()) {
                let before = self.ids.len();
                if (self.ids.intern(id) as usize) < before {
                    self.duplicates += 1;
                    continue;
                }
            }
            let name = batch.get(row.kind);
            if self.kinds.is_empty() || kind.0 != name {
                kind = (name.to_owned(), self.kind_of(name)?);
            }
            self.user.push(self.users.intern(batch.get(row.user)));
            self.item.push(self.items.intern(batch.get(row.item)));
            self.kind.push(kind.1);
            self.at.push(row.at.map_or(NO_TIME, Time::millis));
            self.value.push(row.value.map_or(f32::NAN, |v| v as f32));
            self.part.push(batch.part);
        }
        for item in batch.items.drain(..) {
            let ix = self.items.intern(&item.id);
            match self.item_info.get_mut(&ix) {
                Some((file, _)) if *file == self.file => self.duplicates += 1,
                Some((file, known)) => {
                    *file = self.file;
                    merge(&mut known.properties, item.properties);
                    known.hidden |= item.hidden;
                    known.expires = known.expires.or(item.expires);
                    known.at = known.at.or(item.at);
                }
                None => {
                    self.item_info.insert(ix, (self.file, item));
                }
            }
        }
        for user in batch.users.drain(..) {
            let ix = self.users.intern(&user.id);
            match self.user_info.get_mut(&ix) {
                Some((file, _)) if *file == self.file => self.duplicates += 1,
                Some((file, known)) => {
                    *file = self.file;
                    merge(&mut known.properties, user.properties);
                }
                None => {
                    self.user_info.insert(ix, (self.file, user));
                }
            }
        }
        for row in batch.candidates.drain(..) {
            let user = self.users.intern(&row.user);
            let list = row.items.iter().map(|i| self.items.intern(i)).collect();
            self.candidates.insert(user, list);
        }
        Ok(())
    }
}

/// Adds what is not known yet: the first file that says something about an item is believed.
pub(super) fn merge(known: &mut Map<String, Value>, more: Map<String, Value>) {
    for (key, value) in more {
        known.entry(key).or_insert(value);
    }
}

impl Memory {
    fn kind_of(&mut self, name: &str) -> Result<u8, ImportError> {
        let ix = self.kinds.iter().position(|k| k == name).unwrap_or_else(|| {
            self.kinds.push(name.to_owned());
            self.kinds.len() - 1
        });
        u8::try_from(ix).map_err(|_| ImportError::TooManyKinds(self.kinds.len()))
    }

    fn report(&self, tally: Tally) -> ImportReport {
        ImportReport {
            events: self.user.len() as u64,
            items: self.item_info.len() as u64,
            users: self.user_info.len() as u64,
            skipped: tally.skipped,
            duplicates: self.duplicates,
            problems: tally.problems.kept,
            problems_total: tally.problems.total,
            ..ImportReport::default()
        }
    }

    /// Whether the times mean something; fills the gaps where most rows have one.
    fn settle_times(&mut self, plan: &Plan, now: Time, report: &mut ImportReport) -> TimeQuality {
        let timed = self.at.iter().filter(|&&at| at != NO_TIME).count();
        if timed * 2 < self.at.len() || timed == 0 {
            return if plan.ordered { TimeQuality::Order } else { TimeQuality::None };
        }
        for at in &mut self.at {
            if *at == NO_TIME {
                *at = now.millis();
                report.without_time += 1;
            }
        }
        if self.order_only { TimeQuality::Order } else { TimeQuality::Clock }
    }

    fn snapshot(
        mut self,
        plan: &Plan,
        rules: &KindRules,
        now: Time,
        report: &mut ImportReport,
    ) -> Result<Snapshot, ImportError> {
        let times = self.settle_times(plan, now, report);
        let sorted = timed(&self);
        let newest = if times == TimeQuality::Clock { self.at.iter().copied().max().unwrap_or(0) } else { 0 };
        let weigher = Weigher::new(rules, &self.kinds, newest, times)?;

        // Rows of each user, in order of arrival, then in order of time.
        let mut ptr = vec![0usize; self.users.len() + 1];
        for &user in &self.user {
            ptr[user as usize + 1] += 1;
        }
        for u in 0..self.users.len() {
            ptr[u + 1] += ptr[u];
        }
        let mut next = ptr.clone();
        let mut order = vec![0u32; self.user.len()];
        for (row, &user) in self.user.iter().enumerate() {
            order[next[user as usize]] = row as u32;
            next[user as usize] += 1;
        }
        drop(next);
        if sorted {
            for u in 0..self.users.len() {
                order[ptr[u]..ptr[u + 1]].sort_by_key(|&row| self.at[row as usize]);
            }
        }

        let mut events = Events { ptr, ..Events::default() };
        for u in 0..self.users.len() {
            for (place, e) in events.ptr[u..=u + 1].windows(2).flat_map(|w| w[0]..w[1]).enumerate() {
                let row = order[e] as usize;
                let value = (!self.value[row].is_nan()).then_some(self.value[row]);
                let at = if times == TimeQuality::Clock { self.at[row] } else { place as i64 };
                events.item.push(self.item[row]);
                events.kind.push(self.kind[row]);
                events.at.push(at);
                events.value.push(value.unwrap_or(1.0));
                events.weight.push(weigher.weight(self.kind[row], value, at));
            }
        }
        let given = plan.is_split().then(|| Arc::new(self.given(&events, &order)));

        let mut item_info: Vec<Option<Item>> = vec![None; self.items.len()];
        for (ix, (_, item)) in self.item_info {
            item_info[ix as usize] = Some(item);
        }
        let mut user_info: Vec<Option<User>> = vec![None; self.users.len()];
        for (ix, (_, user)) in self.user_info {
            user_info[ix as usize] = Some(user);
        }
        Ok(Snapshot {
            name: plan.name.clone(),
            offset: 0,
            users: Arc::new(self.users),
            items: Arc::new(self.items),
            kinds: Arc::new(self.kinds),
            times,
            events: Arc::new(events),
            item_info: Arc::new(item_info),
            user_info: Arc::new(user_info),
            vectors: Arc::default(),
            codes: None,
            wishes: None,
            given,
            candidates: Arc::new(self.candidates),
            interactions: Arc::default(),
        })
    }

    /// The split the files came with. Held-out events that count nothing are not answers.
    fn given(&self, events: &Events, order: &[u32]) -> Given {
        let part = |e: usize| self.part[order[e] as usize];
        let pairs = |wanted: Part| {
            let mut pairs = Vec::new();
            for u in 0..events.users() {
                for e in events.of(u) {
                    if part(e) == wanted && events.weight[e] > 0.0 {
                        pairs.push((UserIx(u as u32), ItemIx(events.item[e])));
                    }
                }
            }
            pairs
        };
        Given {
            train: events.filter(|_, e| matches!(part(e), Part::Train | Part::Whole)),
            valid: pairs(Part::Valid),
            test: pairs(Part::Test),
        }
    }
}

fn timed(memory: &Memory) -> bool {
    memory.at.iter().any(|&at| at != NO_TIME)
}

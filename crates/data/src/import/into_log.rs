//! Import into a log: events through its bulk path, items and users as revisions.

use super::batch::Batch;
use super::memory::merge;
use super::plan::{FilePlan, Plan, Role};
use super::run::{Sink, run};
use super::{Field, ImportContext, ImportError, ImportReport, Source, TimeUnit};
use crate::log::{Bulk, EventRef, Log};
use crate::snapshot::{KindRule, KindRules, TimeQuality};
use foldhash::fast::FixedState;
use hashbrown::HashSet;
use sommelier_core::{Item, User};
use std::hash::BuildHasher;
use std::io::Read;
use std::time::Instant;

/// Imports what a plan says into a log.
///
/// Events are atomic and durable in batches of the log's choosing. An import that was cut off goes on where it
/// stopped when it is run again with the same files and options; one that was done stores nothing twice. A file is
/// recognised by its content, not its name. Revisions of items and users replace those of the same id; further files
/// of the same import add properties to them. With `strict`, everything is parsed once before anything is stored.
pub fn import_into(log: &Log, plan: &Plan, ctx: &ImportContext) -> Result<ImportReport, ImportError> {
    let started = Instant::now();
    if plan.strict {
        let tally = run(plan, ctx, &mut Nowhere)?;
        if let Some(first) = tally.problems.kept.first() {
            return Err(ImportError::Strict { total: tally.problems.total, first: first.clone() });
        }
    }
    let mut store = Store {
        log,
        ctx,
        quality: quality(plan),
        timed: false,
        bulk: None,
        seen_items: HashSet::default(),
        seen_users: HashSet::default(),
        files_with_items: 0,
        files_with_users: 0,
        report: ImportReport::default(),
    };
    let tally = run(plan, ctx, &mut store)?;
    let mut report = store.report;
    report.skipped = tally.skipped;
    report.problems = tally.problems.kept;
    report.problems_total = tally.problems.total;
    if let Some((kind, only)) = &plan.positive {
        report.rules =
            KindRules::from([(kind.clone(), KindRule { only: Some(only.clone()), ..KindRule::default() })]);
    }
    report.seconds = started.elapsed().as_secs_f64();
    Ok(report)
}

/// How far the times of a plan's events can be trusted.
fn quality(plan: &Plan) -> TimeQuality {
    let columns =
        || plan.files.iter().filter(|f| f.role == Role::Events).flat_map(|f| &f.columns).filter(|c| c.seen());
    let gorse = plan.files.iter().any(|f| f.layout == super::Layout::Gorse);
    if columns().any(|c| c.field == Field::At(TimeUnit::Order)) {
        TimeQuality::Order
    } else if gorse || columns().any(|c| matches!(c.field, Field::At(_))) {
        TimeQuality::Clock
    } else if plan.ordered {
        TimeQuality::Order
    } else {
        TimeQuality::None
    }
}

/// Takes everything and keeps nothing: the dry run of `strict`.
struct Nowhere;

impl Sink for Nowhere {
    fn take(&mut self, _: &mut Batch) -> Result<(), ImportError> {
        Ok(())
    }
}

struct Store<'a> {
    log: &'a Log,
    ctx: &'a ImportContext,
    quality: TimeQuality,
    /// Whether the file at hand has a column of times.
    timed: bool,
    bulk: Option<Bulk<'a>>,
    /// Hashes of the ids seen in the file at hand: sixty-four bits keep a catalogue of any size in little memory, and
    /// the chance that two of ten million ids meet is one in three hundred thousand.
    seen_items: HashSet<u64>,
    seen_users: HashSet<u64>,
    files_with_items: usize,
    files_with_users: usize,
    report: ImportReport,
}

impl Sink for Store<'_> {
    fn start(&mut self, file: &FilePlan) -> Result<(), ImportError> {
        self.seen_items.clear();
        self.seen_users.clear();
        self.timed = file.columns.iter().any(|c| c.seen() && matches!(c.field, Field::At(_)));
        if matches!(file.role, Role::Events | Role::Candidates) {
            let mut bulk = self.log.bulk(&fingerprint(file)?)?;
            bulk.times(self.quality);
            self.bulk = Some(bulk);
        }
        Ok(())
    }

    fn take(&mut self, batch: &mut Batch) -> Result<(), ImportError> {
        if let Some(bulk) = &mut self.bulk {
            let mut context;
            for row in &batch.rows {
                let at = row.at.unwrap_or(self.ctx.now);
                self.report.without_time += u64::from(self.timed && row.at.is_none());
                let mut event =
                    EventRef::new(batch.get(row.user), batch.get(row.item), batch.get(row.kind), at);
                event.value = row.value;
                if let Some(extra) = batch.extra(row) {
                    event.id = extra.id.as_deref();
                    event.slate = extra.slate.as_deref();
                    event.position = extra.position;
                    event.session = extra.session.as_deref();
                    event.text = extra.text.as_deref();
                    if !extra.context.is_empty() {
                        context = serde_json::to_string(&extra.context).unwrap_or_default();
                        event.context = Some(&context);
                    }
                }
                bulk.push(&event)?;
            }
        }
        self.items(std::mem::take(&mut batch.items))?;
        self.users(std::mem::take(&mut batch.users))
    }

    fn end(&mut self, _: &FilePlan) -> Result<(), ImportError> {
        if let Some(bulk) = self.bulk.take() {
            let stored = bulk.commit()?;
            self.report.events += stored.stored;
            self.report.duplicates += stored.duplicates;
            self.report.resumed += stored.resumed;
        }
        Ok(())
    }
}

impl Store<'_> {
    fn items(&mut self, items: Vec<Item>) -> Result<(), ImportError> {
        if items.is_empty() {
            return Ok(());
        }
        self.files_with_items += usize::from(self.seen_items.is_empty());
        let mut fresh = Vec::with_capacity(items.len());
        for mut item in items {
            if !self.seen_items.insert(hash(&item.id)) {
                self.report.duplicates += 1;
                continue;
            }
            let known = if self.files_with_items > 1 { self.log.item(&item.id)? } else { None };
            match known {
                Some(mut known) => {
                    merge(&mut known.properties, item.properties);
                    known.hidden |= item.hidden;
                    known.expires = known.expires.or(item.expires);
                    known.at = known.at.or(item.at);
                    item = known;
                }
                None => self.report.items += 1,
            }
            fresh.push(item);
        }
        Ok(self.log.put_items(fresh)?)
    }

    fn users(&mut self, users: Vec<User>) -> Result<(), ImportError> {
        if users.is_empty() {
            return Ok(());
        }
        self.files_with_users += usize::from(self.seen_users.is_empty());
        let mut fresh = Vec::with_capacity(users.len());
        for mut user in users {
            if !self.seen_users.insert(hash(&user.id)) {
                self.report.duplicates += 1;
                continue;
            }
            let known = if self.files_with_users > 1 { self.log.user(&user.id)? } else { None };
            match known {
                Some(mut known) => {
                    merge(&mut known.properties, user.properties);
                    user = known;
                }
                None => self.report.users += 1,
            }
            fresh.push(user);
        }
        Ok(self.log.put_users(fresh)?)
    }
}

fn hash(id: &str) -> u64 {
    FixedState::with_seed(0x1d).hash_one(id)
}

/// What decides which events a file yields: its bytes and how they are read.
fn fingerprint(file: &FilePlan) -> Result<String, ImportError> {
    let mut hasher = blake3::Hasher::new();
    let Source { path, member } = &file.source;
    let io = |source| ImportError::Io { path: path.clone(), source };
    let mut reader = std::fs::File::open(path).map_err(io)?;
    let mut chunk = vec![0u8; 1 << 20];
    loop {
        match reader.read(&mut chunk).map_err(io)? {
            0 => break,
            n => hasher.update(&chunk[..n]),
        };
    }
    let how = format!("{member:?} {:?} {:?} {} {:?}", file.role, file.layout, file.kind, file.columns);
    hasher.update(how.as_bytes());
    Ok(hasher.finalize().to_hex().to_string())
}

//! Splits: what a model may learn from, and what it is asked afterwards.
//!
//! Every split checks itself for leaks before it is handed out ([`Split::check_leaks`]).

use crate::snapshot::{Events, Given, Snapshot, TimeQuality};
use serde::{Deserialize, Serialize};
use sommelier_core::{ItemIx, ResolvedQuery, Rng, UserIx};
use std::fmt;
use std::str::FromStr;

/// How to cut. Written `loo`, `lastn:5`, `ratio:0.8,0.1,0.1`, `ratio:0.8,0.2`, `time:0.8,0.1,0.1` or `given`,
/// with `+repeats` behind it where finding an item again counts, and `+new:0.05` where the questions are about new items.
///
/// - `loo` (leave one out): a user's last event is the test, the last but one the validation; users with fewer than
///   three events stay in training. `lastn:N` is the same with N of each.
/// - `ratio`: each user's distinct items at random; validation and test are rounded down, training takes the rest,
///   and a part whose share is below one item still gets one while training keeps one (RecBole's `RS` by user).
/// - `time`: two cuts for everybody, at those shares of all events; events of one moment are never parted.
///   Users without an event before the cut are not asked about.
/// - `given`: the files say.
///
/// `+new:S` holds items out: a share S of those that the test asks for, drawn at random, have no event before the test, and
/// only they are asked for (TIGER's protocol for new items). What the catalogue says of them is there from the beginning.
///
/// Only events with a positive weight are targets. The others stay on the side of the cut where they happened.
/// Validation events join the history at test time, whatever the split. Without `+repeats`, a target that the user
/// had before is taken out, and counted in [`LeftOut::repeats`].
#[derive(Debug, Clone, PartialEq)]
pub struct SplitSpec {
    pub rule: SplitRule,
    /// Whether items of the history may be targets.
    pub repeats: bool,
    /// Share of the items asked for that are held out, and asked for alone; 0 for none.
    pub new_items: f64,
}

#[derive(Debug, Clone, PartialEq)]
pub enum SplitRule {
    LeaveOneOut,
    LastN(usize),
    /// Shares of training, validation and test; they sum to 1.
    Ratio([f64; 3]),
    Time([f64; 3]),
    Given,
}

#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SplitError {
    #[error(
        "expected loo, lastn:N, ratio:0.8,0.1,0.1, time:0.8,0.1,0.1 or given (then +repeats or +new:0.05 if wanted), \
         received {0:?}"
    )]
    Unknown(String),
    #[error(
        "shares must be two or three numbers of at least 0, with some training and some test, received {0:?}"
    )]
    Shares(String),
    #[error("{split} needs {needed}; {name} has {has}: use {instead}")]
    Times { split: String, needed: &'static str, name: String, has: &'static str, instead: &'static str },
    #[error(
        "{0} came without a split of its own, or with several and none was chosen (--given NAME); choose, or use loo, \
         ratio or time"
    )]
    NotGiven(String),
    #[error("the share of new items must be above 0 and below 1, received {0:?}")]
    NewItems(String),
    #[error("{0}: new items cannot be held out of a split that came with the data; use loo, ratio or time")]
    NewOfGiven(String),
    #[error("{split} leaves nothing to ask about in {name} ({why}); use another split or more data")]
    Empty { split: String, name: String, why: String },
    #[error("{split} of {name} leaks: {leak}")]
    Leak { split: String, name: String, leak: Box<Leak> },
}

/// What a model could know and must not. Indices are of the split's vocabularies.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Leak {
    #[error(
        "the {part} target {item:?} of user {user:?} is among the training events ({count} such pairs); remove them \
         from training, or say +repeats if finding an item again counts"
    )]
    Train { part: &'static str, user: String, item: String, count: usize },
    #[error(
        "the {part} target {item:?} is in the history of user {user:?} when asked ({count} such pairs); remove them, \
         or say +repeats if finding an item again counts"
    )]
    History { part: &'static str, user: String, item: String, count: usize },
    #[error("user {user:?} is asked for {part} at {asked}, and their history goes on to {latest}")]
    Later { part: &'static str, user: String, asked: i64, latest: i64 },
    #[error("{what} has an event at {at}, on or after the cut at {cut}")]
    PastCut { what: &'static str, at: i64, cut: i64 },
    #[error("the {part} part is not well formed: {what}")]
    Shape { part: &'static str, what: String },
}

/// What a split could not ask about, for reports.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// Users with too few events, who stay in training.
    pub short_users: usize,
    /// Users with test events and nothing before the cut.
    pub cold_users: usize,
    /// Test targets that the user had before.
    pub repeats: usize,
    /// Test targets that nobody has in training; they are asked for all the same.
    pub cold_targets: usize,
}

/// A snapshot cut into a part to fit on and parts to ask about. All parts share the vocabularies.
#[derive(Debug, Clone)]
pub struct Split {
    /// As asked, with ` refit` behind it where the validation events were fitted on too.
    pub name: String,
    pub train: Snapshot,
    pub valid: Option<Holdout>,
    pub test: Holdout,
    pub left_out: LeftOut,
    /// Whether items of the history may be targets.
    pub repeats: bool,
    /// Where one cut in time holds for everybody: the first moment of validation, and of test.
    pub cuts: Option<[i64; 2]>,
}

/// Questions with known answers: for each case a user, the events known when asking, and the items to find.
#[derive(Debug, Clone)]
pub struct Holdout {
    /// What is known of each user at question time (for `loo` tests: training and validation events).
    pub history: Snapshot,
    /// User index of each case, ascending.
    pub users: Vec<u32>,
    /// `targets[ptr[c]..ptr[c + 1]]` are case `c`'s relevant items, sorted, no repeats; never empty.
    pub ptr: Vec<usize>,
    pub targets: Vec<u32>,
    /// What each target counts: the weight of the user's newest event with it, such as a rating. Above 0.
    pub worth: Vec<f32>,
    /// Rank only these and the targets, per case, where the data set fixes candidates.
    pub candidates: Option<Vec<Vec<u32>>>,
    /// Time of each case's earliest target, where the split goes by time.
    pub asked_at: Option<Vec<i64>>,
}

impl Holdout {
    /// From users, their items and what each counts, in any order; of the same pair the last one counts.
    pub fn new(history: Snapshot, mut asked: Vec<(u32, u32, f32)>) -> Holdout {
        asked.reverse();
        asked.sort_by_key(|&(user, item, _)| (user, item));
        asked.dedup_by_key(|&mut (user, item, _)| (user, item));
        let mut holdout = Holdout {
            history,
            users: Vec::new(),
            ptr: vec![0],
            targets: Vec::new(),
            worth: Vec::new(),
            candidates: None,
            asked_at: None,
        };
        for (user, item, worth) in asked {
            if holdout.users.last() != Some(&user) {
                holdout.users.push(user);
                holdout.ptr.push(holdout.targets.len());
            }
            holdout.targets.push(item);
            holdout.worth.push(worth);
            *holdout.ptr.last_mut().expect("never empty") = holdout.targets.len();
        }
        let given = &holdout.history.candidates;
        if !given.is_empty() {
            let of = |user| given.get(user).cloned().unwrap_or_default();
            holdout.candidates = Some(holdout.users.iter().map(of).collect());
        }
        holdout
    }

    pub fn cases(&self) -> usize {
        self.users.len()
    }

    pub fn targets_of(&self, case: usize) -> &[u32] {
        &self.targets[self.ptr[case]..self.ptr[case + 1]]
    }

    /// What each of [`targets_of`](Holdout::targets_of) counts.
    pub fn worth_of(&self, case: usize) -> &[f32] {
        &self.worth[self.ptr[case]..self.ptr[case + 1]]
    }

    pub fn query(&self, case: usize) -> ResolvedQuery {
        self.history.query(self.users[case] as usize)
    }
}

impl FromStr for SplitSpec {
    type Err = SplitError;

    fn from_str(text: &str) -> Result<SplitSpec, SplitError> {
        let unknown = || SplitError::Unknown(text.to_owned());
        let mut parts = text.trim().split('+');
        let rule = parts.next().unwrap_or_default();
        let (mut repeats, mut new_items) = (false, 0.0);
        for part in parts {
            match part.split_once(':') {
                None if part == "repeats" => repeats = true,
                Some(("new", share)) => {
                    let parsed = share.trim().parse().ok().filter(|s: &f64| *s > 0.0 && *s < 1.0);
                    new_items = parsed.ok_or_else(|| SplitError::NewItems(share.to_owned()))?;
                }
                _ => return Err(unknown()),
            }
        }
        let rule = match rule.split_once(':') {
            None if rule == "loo" => SplitRule::LeaveOneOut,
            None if rule == "given" => SplitRule::Given,
            None if rule == "ratio" => SplitRule::Ratio([0.8, 0.1, 0.1]),
            None if rule == "time" => SplitRule::Time([0.8, 0.1, 0.1]),
            Some(("lastn", n)) => {
                SplitRule::LastN(n.trim().parse().ok().filter(|&n| n > 0).ok_or_else(unknown)?)
            }
            Some(("ratio", shares)) => SplitRule::Ratio(parse_shares(shares)?),
            Some(("time", shares)) => SplitRule::Time(parse_shares(shares)?),
            _ => return Err(unknown()),
        };
        if rule == SplitRule::Given && new_items > 0.0 {
            return Err(SplitError::NewOfGiven(text.to_owned()));
        }
        Ok(SplitSpec { rule, repeats, new_items })
    }
}

fn parse_shares(text: &str) -> Result<[f64; 3], SplitError> {
    let bad = || SplitError::Shares(text.to_owned());
    let numbers: Vec<f64> =
        text.split(',').map(|s| s.trim().parse().map_err(|_| bad())).collect::<Result<_, _>>()?;
    let shares = match numbers[..] {
        [train, test] => [train, 0.0, test],
        [train, valid, test] => [train, valid, test],
        _ => return Err(bad()),
    };
    let sum: f64 = shares.iter().sum();
    if shares.iter().any(|s| !s.is_finite() || *s < 0.0)
        || shares[0] <= 0.0
        || shares[2] <= 0.0
        || !sum.is_finite()
    {
        return Err(bad());
    }
    Ok(shares.map(|s| s / sum))
}

impl fmt::Display for SplitSpec {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        // Shares that were thirds print short; parsing divides by their sum again.
        let list = |s: &[f64; 3]| s.map(|x| format!("{}", (x * 1e6).round() / 1e6)).join(",");
        match &self.rule {
            SplitRule::LeaveOneOut => f.write_str("loo")?,
            SplitRule::LastN(n) => write!(f, "lastn:{n}")?,
            SplitRule::Ratio(shares) => write!(f, "ratio:{}", list(shares))?,
            SplitRule::Time(shares) => write!(f, "time:{}", list(shares))?,
            SplitRule::Given => f.write_str("given")?,
        }
        f.write_str(if self.repeats { "+repeats" } else { "" })?;
        if self.new_items > 0.0 { write!(f, "+new:{}", self.new_items) } else { Ok(()) }
    }
}

/// Which part of a split an event belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Train,
    Valid,
    Test,
    /// After the last question about this user, or of an item held out: nobody may see it.
    Out,
}

impl Part {
    fn name(self) -> &'static str {
        if self == Part::Valid { "validation" } else { "test" }
    }
}

impl SplitSpec {
    /// Cuts `snapshot`. With `refit`, the training part also holds the validation events and there is no
    /// validation part; the test part is the same either way.
    pub fn apply(&self, snapshot: &Snapshot, seed: u64, refit: bool) -> Result<Split, SplitError> {
        self.check_times(snapshot)?;
        let events = &*snapshot.events;
        let cut = |mut parts: Vec<Part>, cuts| {
            if self.new_items > 0.0 {
                hold_out(snapshot, &mut parts, self.new_items, seed);
            }
            self.cut(snapshot, &parts, cuts, refit)
        };
        let split = match &self.rule {
            SplitRule::LeaveOneOut => cut(last_n(events, 1), None),
            SplitRule::LastN(n) => cut(last_n(events, *n), None),
            SplitRule::Ratio(shares) => cut(ratio(snapshot, *shares, seed), None),
            SplitRule::Time(shares) => {
                let cuts = time_cuts(events, *shares);
                cut(by_time(events, cuts), Some(cuts))
            }
            SplitRule::Given => {
                let given =
                    snapshot.given.as_ref().ok_or_else(|| SplitError::NotGiven(snapshot.name.clone()))?;
                self.as_given(snapshot, given, refit)
            }
        };
        if split.test.cases() == 0 {
            return Err(self.nothing_to_ask(&split));
        }
        split.check_leaks().map_err(|leak| SplitError::Leak {
            split: self.to_string(),
            name: snapshot.name.clone(),
            leak: Box::new(leak),
        })?;
        Ok(split)
    }

    fn check_times(&self, snapshot: &Snapshot) -> Result<(), SplitError> {
        let (needed, instead) = match (&self.rule, snapshot.times) {
            (SplitRule::LeaveOneOut | SplitRule::LastN(_), TimeQuality::None) => {
                ("the order of each user's events", "ratio:0.8,0.1,0.1")
            }
            (SplitRule::Time(_), TimeQuality::None) => ("times", "ratio:0.8,0.1,0.1"),
            (SplitRule::Time(_), TimeQuality::Order) => ("times that compare between users", "loo"),
            _ => return Ok(()),
        };
        let has =
            if snapshot.times == TimeQuality::Order { "only the order of each user's own" } else { "none" };
        Err(SplitError::Times { split: self.to_string(), needed, name: snapshot.name.clone(), has, instead })
    }

    /// Every rule but `given` is a label per event.
    fn cut(&self, snapshot: &Snapshot, parts: &[Part], cuts: Option<[i64; 2]>, refit: bool) -> Split {
        let events = &*snapshot.events;
        let before = |last: Part| snapshot.with_events(events.filter(|_, e| parts[e] <= last));
        let (first, second) = (before(Part::Train), before(Part::Valid));
        let by_order = !matches!(self.rule, SplitRule::Ratio(_));
        let hold = |history: &Snapshot, part: Part| {
            let asked: Vec<Asked> = (0..events.users())
                .flat_map(|user| events.of(user).map(move |e| (user, e)))
                .filter(|&(_, e)| parts[e] == part && events.weight[e] > 0.0)
                .map(|(user, e)| Asked {
                    user: user as u32,
                    item: events.item[e],
                    worth: events.weight[e],
                    at: events.at[e],
                })
                .collect();
            ask(history, asked, self.repeats, by_order)
        };
        let valid = (!refit).then(|| hold(&first, Part::Valid).0).filter(|valid| valid.cases() > 0);
        let (test, mut left_out) = hold(&second, Part::Test);
        let train = if refit { second } else { first };
        left_out.short_users =
            (0..events.users()).filter(|&u| events.of(u).all(|e| parts[e] == Part::Train)).count();
        left_out.cold_targets = cold_targets(&train, &test);
        Split { name: self.name(refit), train, valid, test, left_out, repeats: self.repeats, cuts }
    }

    /// As the files say, unfiltered: a leak in them must show.
    fn as_given(&self, snapshot: &Snapshot, given: &Given, refit: bool) -> Split {
        let first = snapshot.with_events(given.train.clone());
        let second = snapshot.with_events(with_pairs(&given.train, &snapshot.events, &given.valid));
        // A low rating in a test file is no target: only pairs that count as positive are.
        let positive = &snapshot.interactions().by_user;
        let hold = |history: &Snapshot, pairs: &[(UserIx, ItemIx)]| {
            let mut pairs: Vec<(u32, u32)> = pairs.iter().map(|&(u, i)| (u.0, i.0)).collect();
            pairs.retain(|&(u, i)| positive.row(u as usize).0.binary_search(&i).is_ok());
            pairs.sort_unstable();
            let events = &snapshot.events;
            let asked = (0..events.users())
                .flat_map(|user| events.of(user).map(move |e| (user as u32, e)))
                .filter(|&(user, e)| {
                    events.weight[e] > 0.0 && pairs.binary_search(&(user, events.item[e])).is_ok()
                })
                .map(|(user, e)| (user, events.item[e], events.weight[e]))
                .collect();
            Holdout::new(history.clone(), asked)
        };
        let valid = (!refit).then(|| hold(&first, &given.valid)).filter(|valid| valid.cases() > 0);
        let test = hold(&second, &given.test);
        let train = if refit { second } else { first };
        let left_out = LeftOut { cold_targets: cold_targets(&train, &test), ..LeftOut::default() };
        Split { name: self.name(refit), train, valid, test, left_out, repeats: self.repeats, cuts: None }
    }

    fn name(&self, refit: bool) -> String {
        if refit { format!("{self} refit") } else { self.to_string() }
    }

    fn nothing_to_ask(&self, split: &Split) -> SplitError {
        let LeftOut { short_users, cold_users, repeats, .. } = split.left_out;
        let why = format!(
            "{} users: {short_users} with too few events, {cold_users} without history; {repeats} targets seen before",
            split.train.users.len()
        );
        SplitError::Empty { split: self.to_string(), name: split.train.name.clone(), why }
    }
}

/// The last `n` positive events of each user are the test, the `n` before them the validation.
fn last_n(events: &Events, n: usize) -> Vec<Part> {
    let mut parts = vec![Part::Train; events.len()];
    for user in 0..events.users() {
        let positive: Vec<usize> = events.of(user).filter(|&e| events.weight[e] > 0.0).collect();
        if positive.len() < 2 * n + 1 {
            continue;
        }
        let first_valid = positive[positive.len() - 2 * n];
        let first_test = positive[positive.len() - n];
        for e in events.of(user).filter(|&e| e >= first_valid) {
            parts[e] = match (e < first_test, events.weight[e] > 0.0) {
                (true, _) => Part::Valid,
                (false, true) => Part::Test,
                (false, false) => Part::Out,
            };
        }
    }
    parts
}

/// Each user's distinct positive items at random; all events of an item go with it.
fn ratio(snapshot: &Snapshot, shares: [f64; 3], seed: u64) -> Vec<Part> {
    let events = &*snapshot.events;
    let mut parts = vec![Part::Train; events.len()];
    for user in 0..events.users() {
        let mut items: Vec<u32> = snapshot.interactions().by_user.row(user).0.to_vec();
        Rng::stream(seed, hash(snapshot.users.id(user as u32))).shuffle(&mut items);
        let [train, valid, _] = ratio_counts(items.len(), shares);
        let (mut to_valid, mut to_test) =
            (items[train..train + valid].to_vec(), items[train + valid..].to_vec());
        to_valid.sort_unstable();
        to_test.sort_unstable();
        for e in events.of(user) {
            if to_test.binary_search(&events.item[e]).is_ok() {
                parts[e] = Part::Test;
            } else if to_valid.binary_search(&events.item[e]).is_ok() {
                parts[e] = Part::Valid;
            }
        }
    }
    parts
}

/// How many of `n` go where: validation and test rounded down, training the rest; then, from the last part on, a
/// part that is wanted and came out below one gets one, as long as training keeps one.
fn ratio_counts(n: usize, shares: [f64; 3]) -> [usize; 3] {
    let want = shares.map(|s| s * n as f64);
    let mut counts = want.map(|w| w as usize);
    counts[0] = n - counts[1] - counts[2];
    for part in [2, 1] {
        if counts[0] <= 1 {
            break;
        }
        if want[part] > 0.0 && want[part] < 1.0 {
            counts[part] += 1;
            counts[0] -= 1;
        }
    }
    counts
}

/// First moments of validation and test. A cut falls on the first event past its share, and takes every event of
/// that moment with it.
fn time_cuts(events: &Events, shares: [f64; 3]) -> [i64; 2] {
    let mut at = events.at.clone();
    at.sort_unstable();
    let cut = |share: f64| at.get((share * at.len() as f64).round() as usize).copied().unwrap_or(i64::MAX);
    [cut(shares[0]), cut(shares[0] + shares[1])]
}

fn by_time(events: &Events, [valid, test]: [i64; 2]) -> Vec<Part> {
    let part = |&at: &i64| match at {
        at if at < valid => Part::Train,
        at if at < test => Part::Valid,
        _ => Part::Test,
    };
    events.at.iter().map(part).collect()
}

/// Takes a share of the items that the test asks for out of all parts before it, and all others out of the test.
fn hold_out(snapshot: &Snapshot, parts: &mut [Part], share: f64, seed: u64) {
    let events = &*snapshot.events;
    let asked = |e: usize, part: Part| part == Part::Test && events.weight[e] > 0.0;
    let mut items: Vec<u32> =
        (0..events.len()).filter(|&e| asked(e, parts[e])).map(|e| events.item[e]).collect();
    // By name, so that the same items are drawn in whatever order the snapshot has them.
    items.sort_by(|a, b| snapshot.items.id(*a).cmp(snapshot.items.id(*b)));
    items.dedup();
    Rng::stream(seed, hash("new items")).shuffle(&mut items);
    items.truncate((share * items.len() as f64).ceil() as usize);
    let mut new = vec![false; snapshot.items.len()];
    items.iter().for_each(|&item| new[item as usize] = true);
    for (e, part) in parts.iter_mut().enumerate() {
        if new[events.item[e] as usize] != (*part == Part::Test) {
            *part = Part::Out;
        }
    }
}

/// An event to be found again.
struct Asked {
    user: u32,
    item: u32,
    worth: f32,
    at: i64,
}

/// The questions, less those about users without history and, unless `repeats`, less
/// items of the history.
fn ask(history: &Snapshot, asked: Vec<Asked>, repeats: bool, by_order: bool) -> (Holdout, LeftOut) {
    let mut left_out = LeftOut::default();
    let known = &history.events;
    let mut had_by = vec![u32::MAX; history.items.len()];
    let (mut current, mut cold) = (u32::MAX, false);
    let mut pairs = Vec::with_capacity(asked.len());
    let mut earliest: Vec<(u32, i64)> = Vec::new();
    for Asked { user, item, worth, at } in asked {
        if user != current {
            current = user;
            cold = known.of(user as usize).is_empty();
            left_out.cold_users += usize::from(cold);
            known.of(user as usize).for_each(|e| had_by[known.item[e] as usize] = user);
        }
        if cold {
            continue;
        }
        if had_by[item as usize] == user && !repeats {
            left_out.repeats += 1;
            continue;
        }
        pairs.push((user, item, worth));
        match earliest.last_mut().filter(|(last, _)| *last == user) {
            Some((_, first)) => *first = at.min(*first),
            None => earliest.push((user, at)),
        }
    }
    let mut holdout = Holdout::new(history.clone(), pairs);
    holdout.asked_at = by_order.then(|| earliest.into_iter().map(|(_, at)| at).collect());
    (holdout, left_out)
}

/// `train` with those events of `all` whose pair is in `pairs`, each user's in order of time.
fn with_pairs(train: &Events, all: &Events, pairs: &[(UserIx, ItemIx)]) -> Events {
    let mut pairs: Vec<(u32, u32)> = pairs.iter().map(|&(u, i)| (u.0, i.0)).collect();
    pairs.sort_unstable();
    let added = all.filter(|user, e| pairs.binary_search(&(user as u32, all.item[e])).is_ok());
    let mut out = Events { ptr: vec![0], ..Events::default() };
    for user in 0..train.users() {
        let mut both: Vec<(&Events, usize)> = train.of(user).map(|e| (train, e)).collect();
        both.extend(added.of(user).map(|e| (&added, e)));
        both.sort_by_key(|&(from, e)| from.at[e]);
        for (from, e) in both {
            out.item.push(from.item[e]);
            out.kind.push(from.kind[e]);
            out.at.push(from.at[e]);
            out.value.push(from.value[e]);
            out.weight.push(from.weight[e]);
        }
        out.ptr.push(out.item.len());
    }
    out
}

fn cold_targets(train: &Snapshot, test: &Holdout) -> usize {
    let mut known = vec![false; train.items.len()];
    train.events.item.iter().for_each(|&i| known[i as usize] = true);
    test.targets.iter().filter(|&&i| !known[i as usize]).count()
}

/// FNV-1a: a user's draw depends on their id, not on their place in the file.
fn hash(id: &str) -> u64 {
    id.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
}

/// At most so many people are watched, and this share of all events is held out for it at most; with fewer people than the last
/// number, what is found depends on who they are.
const WATCHED: (usize, usize, usize) = (2000, 50, 100);

impl Split {
    /// Everything but the newest positive event of some people, drawn by `seed` and their ids: for a model that learns in rounds
    /// and must know when to stop, where nothing else is held out. Its validation part is its test part too. `None` where
    /// events have no order, or there are too few.
    pub fn watching(snapshot: &Snapshot, seed: u64) -> Option<Split> {
        let (most, share, least) = WATCHED;
        let events = &*snapshot.events;
        let people = most.min(events.len() / share);
        if people < least || snapshot.times == TimeQuality::None {
            return None;
        }
        let newest = last_n(events, 1);
        let mut drawn: Vec<(u64, usize)> = (0..events.users())
            .filter(|&user| events.of(user).any(|e| newest[e] == Part::Test))
            .map(|user| (Rng::stream(seed, hash(snapshot.users.id(user as u32))).next_u64(), user))
            .collect();
        drawn.sort_unstable();
        drawn.truncate(people);
        let mut watched = vec![false; events.users()];
        drawn.iter().for_each(|&(_, user)| watched[user] = true);
        let held_out = |user: usize, e: usize| watched[user] && newest[e] > Part::Valid;
        let train = snapshot.with_events(events.filter(|user, e| !held_out(user, e)));
        let asked = (0..events.users())
            .flat_map(|user| events.of(user).map(move |e| (user, e)))
            .filter(|&(user, e)| held_out(user, e) && newest[e] == Part::Test)
            .map(|(user, e)| Asked {
                user: user as u32,
                item: events.item[e],
                worth: events.weight[e],
                at: events.at[e],
            })
            .collect();
        let (holdout, left_out) = ask(&train, asked, false, true);
        (holdout.cases() >= least).then(|| Split {
            name: "watched".into(),
            train,
            valid: Some(holdout.clone()),
            test: holdout,
            left_out,
            repeats: false,
            cuts: None,
        })
    }

    /// Looks for anything a model could know and must not: targets among the training events or in the history they
    /// are asked with, history from after the question, events past a common cut, and parts that do not fit
    /// together. [`SplitSpec::apply`] has already called it; call it again on a split made by hand.
    pub fn check_leaks(&self) -> Result<(), Leak> {
        let parts = [(Part::Valid, self.valid.as_ref()), (Part::Test, Some(&self.test))];
        for (part, holdout) in parts.into_iter().filter_map(|(p, h)| Some((p, h?))) {
            holdout.check_shape(part.name(), &self.train)?;
            if !self.repeats {
                let train_pair = holdout.pairs_in(&self.train.events);
                if let Some((user, item, count)) = train_pair {
                    let (user, item) = holdout.names(user, item);
                    return Err(Leak::Train { part: part.name(), user, item, count });
                }
                if let Some((user, item, count)) = holdout.pairs_in(&holdout.history.events) {
                    let (user, item) = holdout.names(user, item);
                    return Err(Leak::History { part: part.name(), user, item, count });
                }
            }
            holdout.check_order(part.name())?;
        }
        self.check_cuts()
    }

    fn check_cuts(&self) -> Result<(), Leak> {
        let Some([valid, test]) = self.cuts else { return Ok(()) };
        let before = |what, events: &Events, cut: i64| match events.at.iter().find(|&&at| at >= cut) {
            Some(&at) => Err(Leak::PastCut { what, at, cut }),
            None => Ok(()),
        };
        before("training", &self.train.events, if self.valid.is_some() { valid } else { test })?;
        before("the history of the tests", &self.test.history.events, test)?;
        match &self.valid {
            Some(holdout) => before("the history of the validation", &holdout.history.events, valid),
            None => Ok(()),
        }
    }
}

impl Holdout {
    fn check_shape(&self, part: &'static str, train: &Snapshot) -> Result<(), Leak> {
        let bad = |what: String| Err(Leak::Shape { part, what });
        let (users, items) = (train.users.len(), train.items.len());
        if (self.history.users.len(), self.history.items.len()) != (users, items) {
            return bad(format!(
                "training knows {users} users and {items} items, the history another number"
            ));
        }
        if self.ptr.len() != self.cases() + 1 || self.ptr.last() != Some(&self.targets.len()) {
            return bad("the bounds of the targets do not match them".into());
        }
        if self.worth.len() != self.targets.len() {
            return bad("not one worth per target".into());
        }
        if !self.users.is_sorted_by(|a, b| a < b) || self.users.last().is_some_and(|&u| u as usize >= users) {
            return bad("users are not ascending indices of the vocabulary".into());
        }
        for case in 0..self.cases() {
            let targets = self.targets_of(case);
            let sorted = targets.is_sorted_by(|a, b| a < b);
            if targets.is_empty() || !sorted || targets.last().is_some_and(|&i| i as usize >= items) {
                return bad(format!("targets of case {case} are not ascending indices of the vocabulary"));
            }
        }
        match &self.asked_at {
            Some(at) if at.len() != self.cases() => bad("not one time per case".into()),
            _ => Ok(()),
        }
    }

    /// The first target that its own user has in `events`, and how many there are.
    fn pairs_in(&self, events: &Events) -> Option<(u32, u32, usize)> {
        let mut first = None;
        let mut count = 0;
        for case in 0..self.cases() {
            let (user, targets) = (self.users[case], self.targets_of(case));
            for e in events.of(user as usize).filter(|&e| targets.binary_search(&events.item[e]).is_ok()) {
                first.get_or_insert((user, events.item[e]));
                count += 1;
            }
        }
        first.map(|(user, item)| (user, item, count))
    }

    fn check_order(&self, part: &'static str) -> Result<(), Leak> {
        let Some(asked_at) = &self.asked_at else { return Ok(()) };
        for (&user, &asked) in self.users.iter().zip(asked_at) {
            let events = &self.history.events;
            match events.of(user as usize).map(|e| events.at[e]).max() {
                Some(latest) if latest > asked => {
                    return Err(Leak::Later {
                        part,
                        user: self.history.users.id(user).to_owned(),
                        asked,
                        latest,
                    });
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn names(&self, user: u32, item: u32) -> (String, String) {
        (self.history.users.id(user).to_owned(), self.history.items.id(item).to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sommelier_core::Vocab;
    use std::sync::Arc;

    fn spec(text: &str) -> SplitSpec {
        text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    fn items(split: &Snapshot, user: usize) -> Vec<&str> {
        split.events.of(user).map(|e| split.items.id(split.events.item[e])).collect()
    }

    /// Events `(user, item, time, weight)` with clock times.
    fn timed(rows: &[(&str, &str, i64, f32)]) -> Snapshot {
        let (mut users, mut items) = (Vocab::new(), Vocab::new());
        let mut by_user: Vec<Vec<(u32, i64, f32)>> = Vec::new();
        for &(u, i, at, w) in rows {
            let u = users.intern(u) as usize;
            by_user.resize(by_user.len().max(u + 1), Vec::new());
            by_user[u].push((items.intern(i), at, w));
        }
        let mut events = Events { ptr: vec![0], ..Events::default() };
        for list in &mut by_user {
            list.sort_by_key(|&(_, at, _)| at);
            for &(item, at, weight) in list.iter() {
                events.item.push(item);
                events.kind.push(0);
                events.at.push(at);
                events.value.push(1.0);
                events.weight.push(weight);
            }
            events.ptr.push(events.item.len());
        }
        Snapshot::assemble("timed", 0, users, items, vec!["view".into()], TimeQuality::Clock, events)
    }

    #[test]
    fn a_few_people_are_watched() {
        let pairs: Vec<(String, String)> = (0..150)
            .flat_map(|u| (0..40).map(move |i| (format!("u{u}"), format!("i{}", (u * 7 + i) % 60))))
            .collect();
        let refs: Vec<(&str, &str)> = pairs.iter().map(|(u, i)| (&**u, &**i)).collect();
        let all = Snapshot::from_pairs("t", &refs);
        let split = Split::watching(&all, 3).unwrap();
        assert_eq!((split.test.cases(), split.train.events.len()), (120, 6000 - 120));
        split.check_leaks().unwrap();
        for (case, &user) in split.test.users.iter().enumerate() {
            let newest = all.events.of(user as usize).end - 1;
            assert_eq!(split.test.targets_of(case), [all.events.item[newest]]);
            assert_eq!(split.train.events.of(user as usize).len(), 39);
        }
        assert_eq!(Split::watching(&all, 3).unwrap().test.users, split.test.users);
        assert_ne!(Split::watching(&all, 4).unwrap().test.users, split.test.users);
        assert!(
            Split::watching(&all.with_events(all.events.filter(|_, e| e < 4900)), 3).is_none(),
            "too few"
        );
        assert!(Split::watching(&Snapshot { times: TimeQuality::None, ..all }, 3).is_none(), "no order");
    }

    #[test]
    fn specs_read_and_print() {
        for text in [
            "loo",
            "lastn:3",
            "ratio:0.8,0.1,0.1",
            "time:0.7,0,0.3",
            "given",
            "loo+repeats",
            "loo+new:0.05",
            "time:0.8,0.1,0.1+repeats+new:0.2",
        ] {
            assert_eq!(spec(text).to_string(), text);
        }
        assert_eq!(spec("ratio:8,1,1"), spec("ratio:0.8,0.1,0.1"));
        assert_eq!(spec("ratio:0.8,0.2").rule, SplitRule::Ratio([0.8, 0.0, 0.2]));
        for text in [
            "",
            "leave",
            "lastn:0",
            "lastn:x",
            "ratio:1",
            "ratio:0.5,-0.1,0.6",
            "ratio:0,0,1",
            "time:a,b",
            "loo:3",
            "loo+new",
            "loo+new:0",
            "loo+new:1",
            "loo+new:NaN",
            "loo+other",
            "given+new:0.1",
        ] {
            assert!(text.parse::<SplitSpec>().is_err(), "{text}");
        }
    }

    #[test]
    fn loo_takes_the_last_two() {
        let pairs = [("a", "1"), ("a", "2"), ("a", "3"), ("a", "4"), ("b", "1"), ("b", "2")];
        let s = Snapshot::from_pairs("t", &pairs);
        let split = spec("loo").apply(&s, 0, false).unwrap();
        assert_eq!(items(&split.train, 0), ["1", "2"]);
        assert_eq!(items(&split.train, 1), ["1", "2"], "two events: all of b trains");
        let valid = split.valid.as_ref().unwrap();
        assert_eq!((valid.users.clone(), valid.targets.clone()), (vec![0], vec![2]));
        assert_eq!(items(&valid.history, 0), ["1", "2"]);
        assert_eq!(split.test.targets, [3]);
        assert_eq!(
            items(&split.test.history, 0),
            ["1", "2", "3"],
            "the validation event is known when tested"
        );
        assert_eq!(split.left_out.short_users, 1);
        let refit = spec("loo").apply(&s, 0, true).unwrap();
        assert_eq!(items(&refit.train, 0), ["1", "2", "3"]);
        assert!(refit.valid.is_none());
        assert_eq!((refit.test.targets, refit.name.as_str()), (vec![3], "loo refit"));
    }

    #[test]
    fn new_items_are_seen_by_nobody_before_the_test_and_alone_are_asked_for() {
        let pairs: Vec<(String, String)> = (0..40)
            .flat_map(|u| (0..6).map(move |step| (format!("u{u}"), format!("i{}", (u + step * step) % 20))))
            .collect();
        let refs: Vec<(&str, &str)> = pairs.iter().map(|(u, i)| (&**u, &**i)).collect();
        let s = Snapshot::from_pairs("t", &refs);
        let plain = spec("loo").apply(&s, 3, false).unwrap();
        let split = spec("loo+new:0.2").apply(&s, 3, false).unwrap();
        let mut new = split.test.targets.clone();
        new.sort_unstable();
        new.dedup();
        assert_eq!(new.len(), 4, "a fifth of the 20 items that are last of somebody");
        let valid = split.valid.as_ref().unwrap();
        for events in [&split.train.events, &split.test.history.events, &valid.history.events] {
            assert!(events.item.iter().all(|item| !new.contains(item)));
        }
        assert!(valid.targets.iter().all(|item| !new.contains(item)) && valid.cases() > 0);
        assert_eq!(split.left_out.cold_targets, split.test.targets.len());
        let expected = plain.test.targets.iter().filter(|item| new.contains(item)).count();
        assert_eq!(split.test.cases(), expected, "everybody whose last item is new is asked");
        let others = plain.train.events.item.iter().filter(|item| !new.contains(item)).count();
        assert_eq!(split.train.events.len(), others, "nothing else is missing");
        let other_seed = spec("loo+new:0.2").apply(&s, 4, false).unwrap();
        assert_ne!(other_seed.test.targets, split.test.targets);
    }

    #[test]
    fn repeats_are_asked_for_only_on_request() {
        let s = Snapshot::from_pairs(
            "t",
            &[("a", "1"), ("a", "2"), ("a", "1"), ("b", "1"), ("b", "2"), ("b", "3")],
        );
        let plain = spec("loo").apply(&s, 0, false).unwrap();
        assert_eq!((plain.test.users.clone(), plain.left_out.repeats), (vec![1], 1));
        let repeats = spec("loo+repeats").apply(&s, 0, false).unwrap();
        assert_eq!(repeats.test.users, [0, 1]);
        assert_eq!(repeats.test.targets_of(0), [0]);
    }

    #[test]
    fn dislikes_are_never_targets() {
        let s = timed(&[("a", "1", 1, 1.0), ("a", "2", 2, 1.0), ("a", "3", 3, 1.0), ("a", "bad", 4, -1.0)]);
        let split = spec("loo").apply(&s, 0, false).unwrap();
        assert_eq!(split.test.targets, [2]);
        assert_eq!(items(&split.test.history, 0), ["1", "2"], "what came after the question is not known");
    }

    #[test]
    fn ratio_rounds_as_recbole_does() {
        for (n, want) in [
            (0, [0, 0, 0]),
            (1, [1, 0, 0]),
            (2, [1, 0, 1]),
            (3, [1, 1, 1]),
            (5, [3, 1, 1]),
            (10, [8, 1, 1]),
            (19, [17, 1, 1]),
            (20, [16, 2, 2]),
            (57, [47, 5, 5]),
        ] {
            assert_eq!(ratio_counts(n, [0.8, 0.1, 0.1]), want, "{n}");
        }
        assert_eq!(ratio_counts(3, [0.8, 0.0, 0.2]), [2, 0, 1]);
    }

    #[test]
    fn time_cuts_part_no_moment_and_ask_no_stranger() {
        let s = timed(&[
            ("a", "1", 10, 1.0),
            ("a", "2", 20, 1.0),
            ("b", "1", 30, 1.0),
            ("b", "3", 40, 1.0),
            ("a", "3", 40, 1.0),
            ("a", "4", 50, 1.0),
            ("c", "4", 60, 1.0),
        ]);
        let split = spec("time:0.5,0.2,0.3").apply(&s, 0, false).unwrap();
        assert_eq!(split.cuts, Some([40, 50]));
        assert_eq!(split.valid.as_ref().unwrap().users, [0, 1]);
        assert_eq!(split.test.users, [0], "c has no history");
        assert_eq!((split.left_out.cold_users, split.left_out.cold_targets), (1, 1));
    }

    #[test]
    fn splits_that_the_data_cannot_bear_say_so() {
        let s = Snapshot::from_pairs("t", &[("a", "1"), ("a", "2"), ("a", "3")]);
        assert!(matches!(spec("time").apply(&s, 0, false), Err(SplitError::Times { .. })));
        assert!(matches!(spec("given").apply(&s, 0, false), Err(SplitError::NotGiven(_))));
        assert!(matches!(spec("lastn:9").apply(&s, 0, false), Err(SplitError::Empty { .. })));
        let unordered = Snapshot { times: TimeQuality::None, ..s };
        let error = spec("loo").apply(&unordered, 0, false).unwrap_err().to_string();
        assert!(error.contains("use ratio:0.8,0.1,0.1"), "{error}");
    }

    fn given() -> Snapshot {
        let s = timed(&[
            ("a", "1", 1, 1.0),
            ("a", "2", 2, 1.0),
            ("a", "3", 3, 0.0),
            ("b", "1", 1, 1.0),
            ("b", "4", 7, 2.0),
            ("b", "4", 9, 3.0),
            ("b", "2", 5, 1.0),
        ]);
        let train = s.events.filter(|_, e| s.events.at[e] == 1);
        let test = vec![(UserIx(0), ItemIx(1)), (UserIx(0), ItemIx(2)), (UserIx(1), ItemIx(3))];
        let candidates = [(0, vec![1, 3]), (1, vec![2, 3])].into();
        let given = Given { train, valid: vec![(UserIx(1), ItemIx(1))], test };
        Snapshot { given: Some(Arc::new(given)), candidates: Arc::new(candidates), ..s }
    }

    #[test]
    fn given_is_taken_as_it_is() {
        let split = spec("given").apply(&given(), 0, false).unwrap();
        assert_eq!(split.train.events.item, [0, 0]);
        assert_eq!(
            (split.test.targets_of(0), split.test.targets_of(1)),
            (&[1][..], &[3][..]),
            "weight 0: no target"
        );
        assert_eq!(split.test.worth, [1.0, 3.0], "the newest counts");
        assert_eq!(items(&split.test.history, 1), ["1", "2"]);
        assert_eq!(split.test.candidates, Some(vec![vec![1, 3], vec![2, 3]]));
    }

    #[test]
    fn a_leak_in_the_files_is_loud() {
        let mut s = given();
        let mut leaking = (**s.given.as_ref().unwrap()).clone();
        leaking.test.push((UserIx(1), ItemIx(0)));
        s.given = Some(Arc::new(leaking));
        let error = spec("given").apply(&s, 0, false).unwrap_err();
        let SplitError::Leak { leak, .. } = &error else { panic!("{error}") };
        let Leak::Train { user, item, count, .. } = &**leak else { panic!("{leak}") };
        assert_eq!((user.as_str(), item.as_str(), *count), ("b", "1", 1));
    }

    #[test]
    fn every_kind_of_leak_is_found() {
        let rows: Vec<(String, String, i64, f32)> = (0..6)
            .flat_map(|u| {
                (0..10).map(move |i| (format!("u{u}"), format!("i{}", (u + i) % 12), u + 10 * i, 1.0))
            })
            .collect();
        let rows: Vec<(&str, &str, i64, f32)> =
            rows.iter().map(|(u, i, t, w)| (&**u, &**i, *t, *w)).collect();
        let s = timed(&rows);
        for text in ["loo", "lastn:2", "ratio", "time"] {
            let split = spec(text).apply(&s, 3, false).unwrap();
            let broken = |change: &dyn Fn(&mut Split)| {
                let mut split = split.clone();
                change(&mut split);
                split.check_leaks().err()
            };
            let all_events = |split: &mut Split| split.train = split.train.with_events((*s.events).clone());
            assert!(matches!(broken(&all_events), Some(Leak::Train { .. })), "{text}");
            let all_known = |split: &mut Split| split.test.history = s.clone();
            assert!(matches!(broken(&all_known), Some(Leak::History { .. })), "{text}");
            let unsorted = |split: &mut Split| split.test.users.reverse();
            assert!(matches!(broken(&unsorted), Some(Leak::Shape { .. })), "{text}");
            if text != "ratio" {
                let early = |split: &mut Split| split.test.asked_at.as_mut().unwrap()[0] = 0;
                assert!(matches!(broken(&early), Some(Leak::Later { .. })), "{text}");
            }
        }
        let mut timed = spec("time+repeats").apply(&s, 3, false).unwrap();
        timed.train = timed.train.with_events((*s.events).clone());
        assert!(
            matches!(timed.check_leaks(), Err(Leak::PastCut { .. })),
            "repeats allow items, not the future"
        );
    }

    proptest! {
        #[test]
        fn every_event_is_in_its_part_and_nowhere_else(
            rows in prop::collection::vec((0u8..8, 0u8..15, 0i64..50, prop::bool::weighted(0.8)), 1..150),
            which in 0usize..7,
            seed in 0u64..4,
            refit: bool,
        ) {
            let text: Vec<(String, String)> = rows.iter().map(|r| (format!("u{}", r.0), format!("i{}", r.1))).collect();
            let rows: Vec<(&str, &str, i64, f32)> = rows
                .iter()
                .zip(&text)
                .map(|(r, (u, i))| (u.as_str(), i.as_str(), r.2, if r.3 { 1.0 } else { -1.0 }))
                .collect();
            let s = timed(&rows);
            let spec = spec(
                ["loo", "lastn:2", "ratio", "time", "loo+repeats", "loo+new:0.3", "time+new:0.3"][which],
            );
            // Leaks would be errors here; only an empty test is a fair reason not to split.
            let split = match spec.apply(&s, seed, refit) {
                Ok(split) => split,
                Err(SplitError::Empty { .. }) => return Ok(()),
                Err(other) => panic!("{other}"),
            };
            prop_assert!(split.train.events.len() <= s.events.len());
            prop_assert!(split.test.history.events.len() >= split.train.events.len() || refit);
            let again = spec.apply(&s, seed, refit).unwrap();
            prop_assert_eq!(&again.train.events, &split.train.events);
            prop_assert_eq!(&again.test.targets, &split.test.targets);
            let other_fit = spec.apply(&s, seed, !refit).unwrap();
            prop_assert_eq!(&other_fit.test.targets, &split.test.targets, "refit changes no question");
            if !spec.repeats && spec.new_items == 0.0 && matches!(spec.rule, SplitRule::Ratio(_)) {
                let valid = split.valid.as_ref().map_or(0, |v| v.targets.len());
                let in_train = split.train.interactions().by_user.nnz();
                prop_assert_eq!(in_train + valid + split.test.targets.len(), s.interactions().by_user.nnz());
            }
        }
    }
}

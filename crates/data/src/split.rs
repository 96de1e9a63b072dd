//! Splits: what a model may learn from, and what it is asked afterwards.

use crate::snapshot::Snapshot;
use sommelier_core::ResolvedQuery;

/// A snapshot cut into a part to fit on and parts to ask about. All parts share the vocabularies.
#[derive(Debug, Clone)]
pub struct Split {
    /// `loo`, `ratio:0.8,0.1,0.1`, `time:…`, `given`, `lastn:N`, as asked.
    pub name: String,
    pub train: Snapshot,
    pub valid: Option<Holdout>,
    pub test: Holdout,
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
    /// Rank only these, per case, where the data set fixes candidates; positives included.
    pub candidates: Option<Vec<Vec<u32>>>,
}

impl Holdout {
    /// From `(user, item)` pairs in any order.
    pub fn from_pairs(history: Snapshot, mut pairs: Vec<(u32, u32)>) -> Holdout {
        pairs.sort_unstable();
        pairs.dedup();
        let mut holdout =
            Holdout { history, users: Vec::new(), ptr: vec![0], targets: Vec::new(), candidates: None };
        for (user, item) in pairs {
            if holdout.users.last() != Some(&user) {
                holdout.users.push(user);
                holdout.ptr.push(holdout.targets.len());
            }
            holdout.targets.push(item);
            *holdout.ptr.last_mut().expect("never empty") = holdout.targets.len();
        }
        holdout
    }

    pub fn cases(&self) -> usize {
        self.users.len()
    }

    pub fn targets_of(&self, case: usize) -> &[u32] {
        &self.targets[self.ptr[case]..self.ptr[case + 1]]
    }

    pub fn query(&self, case: usize) -> ResolvedQuery {
        self.history.query(self.users[case] as usize)
    }
}

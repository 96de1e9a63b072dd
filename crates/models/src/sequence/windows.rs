//! Histories cut to what a model reads, and dealt to the tapes of a step.

use super::Batch;
use serde::{Deserialize, Serialize};
use sommelier_core::{ItemIx, ResolvedQuery, Rng, Seen, Time};
use sommelier_data::Snapshot;
use sommelier_nn::Ragged;
use std::ops::Range;
use std::sync::Arc;

/// What is learned of a history that is longer than a model reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cut {
    /// All of it, in windows that begin somewhere else in each epoch.
    #[default]
    All,
    /// Only its end, as most papers do.
    Last,
}

/// The positive events of everybody, oldest first.
#[derive(Debug)]
pub(crate) struct Histories {
    ptr: Vec<usize>,
    items: Vec<u32>,
    at: Vec<i64>,
}

impl Histories {
    /// Of items that are `known`.
    pub fn of(train: &Snapshot, known: impl Fn(u32) -> bool) -> Histories {
        let e = &train.events;
        let mut all = Histories { ptr: vec![0], items: Vec::new(), at: Vec::new() };
        for user in 0..e.users() {
            for i in e.of(user).filter(|&i| e.weight[i] > 0.0 && known(e.item[i])) {
                all.items.push(e.item[i]);
                all.at.push(e.at[i]);
            }
            all.ptr.push(all.items.len());
        }
        all
    }

    pub fn events(&self) -> usize {
        self.items.len()
    }

    /// How often each of `items` items occurs.
    pub fn counts(&self, items: usize) -> Vec<u64> {
        let mut counts = vec![0u64; items];
        self.items.iter().for_each(|&i| counts[i as usize] += 1);
        counts
    }

    /// The windows of one epoch, in random order. A window of n events teaches n − 1 times, and none has more than
    /// `length` + 1.
    pub fn windows(&self, length: usize, cut: Cut, rng: &mut Rng) -> Vec<Range<usize>> {
        let mut out = Vec::new();
        for user in self.ptr.windows(2).filter(|w| w[1] - w[0] > 1) {
            let (start, end) = (user[0], user[1]);
            // Windows share one event: what one tells last, the next reads first.
            let mut to = end;
            if cut == Cut::All && end - start > length + 1 {
                to = end - rng.below(length.min(end - start - length - 1) + 1);
                if to < end {
                    out.push(to - 1..end);
                }
            }
            loop {
                let from = to.saturating_sub(length + 1).max(start);
                out.push(from..to);
                if from == start || cut == Cut::Last {
                    break;
                }
                to = from + 1;
            }
        }
        rng.shuffle(&mut out);
        out
    }

    /// Windows that end with what they tell, in random order: for each person `each` of their events after the first, or all where
    /// that is 0, behind `length` at most.
    pub fn endings(&self, length: usize, each: usize, rng: &mut Rng) -> Vec<Range<usize>> {
        let mut out = Vec::new();
        for user in self.ptr.windows(2).filter(|w| w[1] - w[0] > 1) {
            let mut told: Vec<usize> = (user[0] + 1..user[1]).collect();
            if each > 0 && each < told.len() {
                rng.shuffle(&mut told);
                told.truncate(each);
            }
            out.extend(told.into_iter().map(|i| i.saturating_sub(length).max(user[0])..i + 1));
        }
        rng.shuffle(&mut out);
        out
    }

    /// Deals windows to at most `parts` batches of about as many steps. With `whole` a batch has all events of its windows, else
    /// all but the last, which is only told.
    pub fn deal(&self, windows: &[Range<usize>], parts: usize, whole: bool) -> Vec<Batch> {
        let mut order: Vec<&Range<usize>> = windows.iter().collect();
        // Longest first, each to the part with the fewest steps yet; ties keep their order.
        order.sort_by_key(|w| std::cmp::Reverse(w.len()));
        let mut lists: Vec<(usize, Vec<&Range<usize>>)> =
            vec![(0, Vec::new()); parts.min(windows.len()).max(1)];
        for w in order {
            let least = (0..lists.len()).min_by_key(|&p| lists[p].0).unwrap_or(0);
            lists[least].0 += w.len();
            lists[least].1.push(w);
        }
        lists.into_iter().map(|(_, list)| self.batch(&list, whole)).collect()
    }

    fn batch(&self, windows: &[&Range<usize>], whole: bool) -> Batch {
        let less = usize::from(!whole);
        let ragged = Ragged::of(windows.iter().map(|w| w.len() - less));
        let n = ragged.rows();
        let column = || Vec::with_capacity(n);
        let (mut items, mut at, mut next, mut now) =
            (column(), Vec::with_capacity(n), column(), Vec::with_capacity(n));
        for w in windows {
            let steps = w.start..w.end - less;
            items.extend_from_slice(&self.items[steps.clone()]);
            at.extend_from_slice(&self.at[steps.clone()]);
            // The event after each step; the last of a whole window tells itself.
            let after = |i: usize| (i + 1).min(w.end - 1);
            next.extend(steps.clone().map(|i| self.items[after(i)]));
            now.extend(steps.map(|i| self.at[after(i)]));
        }
        let places = ragged.places_back().map(|p| p as u32).collect();
        Batch {
            ragged: Arc::new(ragged),
            items: Arc::new(items),
            places: Arc::new(places),
            at: Arc::new(at),
            now: Arc::new(now),
            next: Arc::new(next),
        }
    }
}

impl Batch {
    /// What is read of each query: the last `length` positive steps with items that have a row, oldest first.
    pub(crate) fn of_queries(
        queries: &[&ResolvedQuery],
        length: usize,
        row_of: impl Fn(ItemIx) -> Option<u32>,
    ) -> Batch {
        let mut batch = (Vec::new(), Vec::new(), Vec::new());
        let mut lengths = Vec::new();
        for q in queries {
            let known = |s: &Seen| Some((row_of(s.item).filter(|_| s.weight > 0.0)?, s.at));
            let mut steps: Vec<(u32, Time)> = q.history.iter().rev().filter_map(known).take(length).collect();
            steps.reverse();
            lengths.push(steps.len());
            let end = q.now.millis().max(steps.last().map_or(0, |s| s.1.millis()));
            for (i, (row, at)) in steps.iter().enumerate() {
                batch.0.push(*row);
                batch.1.push(at.millis());
                batch.2.push(steps.get(i + 1).map_or(end, |next| next.1.millis()));
            }
        }
        let ragged = Ragged::of(lengths);
        let places = ragged.places_back().map(|p| p as u32).collect();
        Batch {
            ragged: Arc::new(ragged),
            items: Arc::new(batch.0),
            places: Arc::new(places),
            at: Arc::new(batch.1),
            now: Arc::new(batch.2),
            next: Arc::new(Vec::new()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sommelier_core::Rng;

    fn histories(lengths: &[usize]) -> Histories {
        let mut h = Histories { ptr: vec![0], items: Vec::new(), at: Vec::new() };
        for (user, &n) in lengths.iter().enumerate() {
            h.items.extend((0..n).map(|i| (user * 1000 + i) as u32));
            h.at.extend((0..n).map(|i| i as i64));
            h.ptr.push(h.items.len());
        }
        h
    }

    proptest! {
        #[test]
        fn every_event_but_the_first_is_told_once(
            lengths in prop::collection::vec(0usize..40, 0..6), length in 1usize..12, parts in 1usize..5, seed: u64,
        ) {
            let h = histories(&lengths);
            let windows = h.windows(length, Cut::All, &mut Rng::new(seed));
            let mut told = Vec::new();
            let batches = h.deal(&windows, parts, false);
            prop_assert!(batches.len() <= parts);
            for b in &batches {
                for r in b.ragged.iter() {
                    prop_assert!(r.len() <= length);
                    for i in r.clone() {
                        told.push(b.next[i]);
                        prop_assert_eq!(b.next[i], b.items[i] + 1);
                        prop_assert_eq!(b.now[i], b.at[i] + 1);
                        prop_assert_eq!(b.places[i] as usize, r.end - 1 - i);
                    }
                }
            }
            told.sort_unstable();
            let expected: Vec<u32> =
                lengths.iter().enumerate().flat_map(|(u, &n)| (1..n).map(move |i| (u * 1000 + i) as u32)).collect();
            prop_assert_eq!(told, expected);
            let last = h.windows(length, Cut::Last, &mut Rng::new(seed));
            prop_assert_eq!(last.len(), lengths.iter().filter(|n| **n > 1).count());
            prop_assert!(last.iter().all(|w| h.ptr.contains(&w.end)));
        }
    }

    #[test]
    fn endings_tell_other_events_in_turn() {
        let h = histories(&[1, 4, 2, 0, 9]);
        let told = |each: usize, seed: u64| {
            let windows = h.endings(3, each, &mut Rng::new(seed));
            assert!(windows.iter().all(|w| (2..=4).contains(&w.len())));
            let mut told: Vec<u32> = windows.iter().map(|w| h.items[w.end - 1]).collect();
            told.sort_unstable();
            told
        };
        let all = told(0, 1);
        assert_eq!(all, [1001, 1002, 1003, 2001, 4001, 4002, 4003, 4004, 4005, 4006, 4007, 4008]);
        let seen: std::collections::BTreeSet<u32> = (0..200).flat_map(|seed| told(2, seed)).collect();
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), all);
        assert_eq!(told(2, 3).len(), 5);
    }

    #[test]
    fn parts_have_about_as_many_steps() {
        let h = histories(&[30, 3, 3, 3, 30, 3, 3, 3]);
        let windows = h.windows(50, Cut::All, &mut Rng::new(1));
        let steps: Vec<usize> = h.deal(&windows, 2, true).iter().map(|b| b.items.len()).collect();
        assert_eq!(steps, [39, 39]);
    }
}

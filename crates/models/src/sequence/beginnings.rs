//! Beginnings of histories, for models whose vectors are of a history as a whole and not of each step.

use super::{Batch, Embedder, Lesson};
use sommelier_core::Rng;
use sommelier_nn::{Ragged, Tape, Var, kernel};
use std::sync::Arc;

impl Batch {
    /// At most `count` beginnings of each history, and the item that follows each. With `whole` the batch ends with what is
    /// to be told, which no beginning reads.
    pub(super) fn beginnings(&self, count: usize, whole: bool, rng: &mut Rng) -> (Batch, Arc<Vec<u32>>) {
        let (mut read, mut right, mut lengths) = (Vec::new(), Vec::new(), Vec::new());
        for range in self.ragged.iter() {
            let mut ends: Vec<usize> =
                (range.start..range.end - usize::from(whole && !range.is_empty())).collect();
            rng.shuffle(&mut ends);
            for &last in ends.iter().take(count) {
                read.extend(range.start..=last);
                lengths.push(last + 1 - range.start);
                right.push(self.next[last]);
            }
        }
        let items = |column: &[u32]| Arc::new(read.iter().map(|&r| column[r]).collect::<Vec<u32>>());
        let times = |column: &[i64]| Arc::new(read.iter().map(|&r| column[r]).collect::<Vec<i64>>());
        let ragged = Ragged::of(lengths);
        let beginnings = Batch {
            places: Arc::new(ragged.places_back().map(|p| p as u32).collect()),
            ragged: Arc::new(ragged),
            items: items(&self.items),
            at: times(&self.at),
            now: times(&self.now),
            next: items(&self.next),
        };
        (beginnings, Arc::new(right))
    }
}

/// What is learned of models with `k` vectors for each history: the one nearest the right item.
pub(super) fn learn_nearest(
    tape: &mut Tape,
    items: Embedder,
    vectors: Var,
    k: usize,
    right: Arc<Vec<u32>>,
) -> Lesson {
    let nearest = right.iter().enumerate().map(|(history, &item)| {
        let target = items.vector(tape, item);
        let of = |i: &usize| kernel::dot(&tape.data(vectors)[i * target.len()..][..target.len()], target);
        let mine = history * k..(history + 1) * k;
        mine.max_by(|a, b| of(a).total_cmp(&of(b))).unwrap_or(history * k) as u32
    });
    let nearest = nearest.collect();
    Lesson { vectors: tape.pick_rows(vectors, nearest), right, further: Vec::new(), aside: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beginnings_end_before_what_they_tell() {
        let column = |from: u32| Arc::new((from..from + 6).collect::<Vec<u32>>());
        let times = |from: i64| Arc::new((from..from + 6).collect::<Vec<i64>>());
        // Histories 10 11, nothing, 12 … 15; row r is followed by 100 + r.
        let batch = Batch {
            ragged: Arc::new(Ragged::of([2, 0, 4])),
            items: column(10),
            places: Arc::new(vec![0, 1, 0, 1, 2, 3]),
            at: times(50),
            now: times(70),
            next: column(100),
        };
        for (count, whole, expected) in [(9, false, 6), (9, true, 4), (2, false, 4), (1, true, 2)] {
            let (begun, right) = batch.beginnings(count, whole, &mut Rng::new(1));
            assert_eq!((begun.ragged.len(), right.len()), (expected, expected), "{count}, {whole}");
            for (range, &right) in begun.ragged.iter().zip(&*right) {
                let last = begun.items[range.end - 1];
                assert_eq!((right, begun.next[range.end - 1]), (last + 90, last + 90));
                assert_eq!(begun.now[range.end - 1], i64::from(last) + 60);
                assert!(!whole || ![11, 15].contains(&last), "{last} is told, not read");
                let first = if last < 12 { 10 } else { 12 };
                let read: Vec<u32> = (first..=last).collect();
                assert_eq!(begun.items[range.clone()], read);
                assert_eq!(begun.places[range.clone()], (0..read.len() as u32).rev().collect::<Vec<_>>());
                assert_eq!(begun.at[range.start], i64::from(first) + 40);
            }
        }
    }
}

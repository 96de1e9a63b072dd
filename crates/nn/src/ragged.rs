//! Ragged batches: sequences of different lengths laid end to end. There is no padding anywhere in this crate.

use std::ops::Range;

/// Where each sequence of a batch begins and ends among the rows of a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ragged {
    /// Sequence `s` is rows `ptr[s]..ptr[s + 1]`.
    ptr: Vec<usize>,
}

impl Ragged {
    /// Sequences of these lengths, in this order. A length may be 0.
    pub fn of(lengths: impl IntoIterator<Item = usize>) -> Ragged {
        let mut ptr = vec![0];
        let mut end = 0;
        for length in lengths {
            end += length;
            ptr.push(end);
        }
        Ragged { ptr }
    }

    pub fn len(&self) -> usize {
        self.ptr.len() - 1
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Rows of all sequences together.
    pub fn rows(&self) -> usize {
        self.ptr[self.len()]
    }

    pub fn range(&self, sequence: usize) -> Range<usize> {
        self.ptr[sequence]..self.ptr[sequence + 1]
    }

    pub fn iter(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        self.ptr.windows(2).map(|w| w[0]..w[1])
    }

    pub fn longest(&self) -> usize {
        self.iter().map(|r| r.len()).max().unwrap_or(0)
    }

    /// For each row, its place in its own sequence, counted from 0.
    pub fn places(&self) -> impl Iterator<Item = usize> + '_ {
        self.iter().flat_map(|r| 0..r.len())
    }

    /// For each row, its place counted back from the end of its sequence: 0 for the last.
    pub fn places_back(&self) -> impl Iterator<Item = usize> + '_ {
        self.iter().flat_map(|r| (0..r.len()).rev())
    }

    /// The last row of each sequence; sequences of length 0 have none.
    pub fn last_rows(&self) -> impl Iterator<Item = usize> + '_ {
        self.iter().filter(|r| !r.is_empty()).map(|r| r.end - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_places() {
        let r = Ragged::of([2, 0, 3]);
        assert_eq!((r.len(), r.rows(), r.longest()), (3, 5, 3));
        assert_eq!(r.range(2), 2..5);
        assert_eq!(r.places().collect::<Vec<_>>(), [0, 1, 0, 1, 2]);
        assert_eq!(r.places_back().collect::<Vec<_>>(), [1, 0, 2, 1, 0]);
        assert_eq!(r.last_rows().collect::<Vec<_>>(), [1, 4]);
        assert_eq!((Ragged::of([]).rows(), Ragged::of([]).longest()), (0, 0));
    }
}

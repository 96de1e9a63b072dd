//! Vectors laid end to end.

use crate::EncodeError;
use rayon::prelude::*;
use sommelier_core::Rng;
use sommelier_nn::kernel;

/// Squared length of a vector, at most: sums and products of such vectors are still finite.
const LONGEST: f32 = 1e30;

/// So many vectors of `dim` numbers each.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rows<'a> {
    pub data: &'a [f32],
    pub dim: usize,
}

impl<'a> Rows<'a> {
    /// Panics if the numbers do not fill whole rows: that is a mistake of the caller's, not of the data.
    pub fn new(data: &'a [f32], dim: usize) -> Rows<'a> {
        assert!(dim > 0 && data.len().is_multiple_of(dim), "{} numbers in rows of {dim}", data.len());
        Rows { data, dim }
    }

    pub fn len(self) -> usize {
        self.data.len() / self.dim
    }

    pub fn is_empty(self) -> bool {
        self.data.is_empty()
    }

    pub fn row(self, i: usize) -> &'a [f32] {
        &self.data[i * self.dim..][..self.dim]
    }

    pub fn iter(self) -> std::slice::ChunksExact<'a, f32> {
        self.data.chunks_exact(self.dim)
    }

    /// Those rows, in that order.
    pub fn pick(self, which: &[usize]) -> Vec<f32> {
        which.iter().flat_map(|&i| self.row(i)).copied().collect()
    }

    /// At most `most` of them, drawn without repeats, in their order.
    pub fn sample(self, most: usize, rng: &mut Rng) -> Vec<f32> {
        if self.len() <= most { self.data.to_vec() } else { self.pick(&draw(self.len(), most, rng)) }
    }

    /// An error in words unless there is a vector, and all are made of numbers that can be reckoned with.
    pub fn check(self) -> Result<(), EncodeError> {
        if self.is_empty() {
            return Err(EncodeError::NoData("there is no vector to find codes for".into()));
        }
        let bad = |x: &[f32]| {
            let square = kernel::dot(x, x);
            !square.is_finite() || square > LONGEST
        };
        match self.data.par_chunks(self.dim).position_first(bad) {
            Some(i) => Err(EncodeError::Input(format!(
                "vector {i} holds NaN, infinity or numbers above 1e15; leave such items out, or encode them again"
            ))),
            None => Ok(()),
        }
    }
}

/// At most `most` of the numbers below `n`, drawn without repeats, ascending.
pub fn draw(n: usize, most: usize, rng: &mut Rng) -> Vec<usize> {
    // Selection sampling: each is taken with the chance that is left for it.
    let mut left = most.min(n);
    let mut picked = Vec::with_capacity(left);
    for i in 0..n {
        if rng.below(n - i) < left {
            picked.push(i);
            left -= 1;
        }
    }
    picked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_have_no_repeats_and_keep_the_order() {
        let data: Vec<f32> = (0..200).map(|i| i as f32).collect();
        let rows = Rows::new(&data, 2);
        for most in [0, 1, 40, 99, 100, 101] {
            let sample = rows.sample(most, &mut Rng::new(3));
            assert_eq!(sample.len(), 2 * most.min(100));
            assert!(sample.chunks_exact(2).all(|r| r[1] == r[0] + 1.0));
            assert!(sample.chunks_exact(2).is_sorted_by(|a, b| a[0] < b[0]));
        }
        let all: Vec<f32> = (0..500).flat_map(|s| rows.sample(10, &mut Rng::new(s))).collect();
        let low = all.chunks_exact(2).filter(|r| r[0] < 100.0).count();
        assert!((2300..2700).contains(&low), "the first half is drawn as often as the second: {low} of 5000");
    }

    #[test]
    fn vectors_that_cannot_be_reckoned_with_are_told() {
        let words = |data: &[f32]| Rows::new(data, 2).check().unwrap_err().to_string();
        assert!(words(&[]).contains("no vector"));
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e20] {
            assert!(words(&[1.0, 2.0, 3.0, bad]).starts_with("vector 1 holds NaN"), "{bad}");
        }
        assert_eq!(Rows::new(&[1e14, -1e14], 2).check(), Ok(()));
    }
}

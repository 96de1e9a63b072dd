//! Compressed sparse rows: the one sparse matrix of the house.

/// `rows × cols` with `values[ptr[r]..ptr[r + 1]]` at columns `cols_of[..]`, sorted within a row, no repeats.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Csr {
    pub cols: usize,
    pub ptr: Vec<usize>,
    pub index: Vec<u32>,
    pub value: Vec<f32>,
}

impl Csr {
    /// From `(row, column, value)` in any order; values at the same place are summed.
    pub fn from_triplets(
        rows: usize,
        cols: usize,
        triplets: impl IntoIterator<Item = (u32, u32, f32)>,
    ) -> Csr {
        let mut all: Vec<(u32, u32, f32)> = triplets.into_iter().collect();
        all.sort_by_key(|&(r, c, _)| (r, c));
        all.dedup_by(|next, kept| {
            let same = (next.0, next.1) == (kept.0, kept.1);
            if same {
                kept.2 += next.2;
            }
            same
        });
        let mut ptr = vec![0usize; rows + 1];
        for &(r, c, _) in &all {
            assert!((c as usize) < cols, "column {c} of {cols}");
            ptr[r as usize + 1] += 1;
        }
        for r in 0..rows {
            ptr[r + 1] += ptr[r];
        }
        Csr { cols, ptr, index: all.iter().map(|t| t.1).collect(), value: all.iter().map(|t| t.2).collect() }
    }

    pub fn rows(&self) -> usize {
        self.ptr.len().saturating_sub(1)
    }

    pub fn nnz(&self) -> usize {
        self.index.len()
    }

    /// Columns and values of row `r`.
    #[inline]
    pub fn row(&self, r: usize) -> (&[u32], &[f32]) {
        let range = self.ptr[r]..self.ptr[r + 1];
        (&self.index[range.clone()], &self.value[range])
    }

    #[inline]
    pub fn row_len(&self, r: usize) -> usize {
        self.ptr[r + 1] - self.ptr[r]
    }

    pub fn transpose(&self) -> Csr {
        let mut ptr = vec![0usize; self.cols + 1];
        for &c in &self.index {
            ptr[c as usize + 1] += 1;
        }
        for c in 0..self.cols {
            ptr[c + 1] += ptr[c];
        }
        let mut next = ptr.clone();
        let mut index = vec![0u32; self.nnz()];
        let mut value = vec![0f32; self.nnz()];
        for r in 0..self.rows() {
            let (cols, values) = self.row(r);
            for (&c, &v) in cols.iter().zip(values) {
                let at = next[c as usize];
                next[c as usize] += 1;
                index[at] = r as u32;
                value[at] = v;
            }
        }
        Csr { cols: self.rows(), ptr, index, value }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn transpose_twice_is_the_same(triplets in prop::collection::vec((0u32..7, 0u32..5, -3f32..3.0), 0..40)) {
            let m = Csr::from_triplets(7, 5, triplets);
            prop_assert_eq!(m.transpose().rows(), 5);
            prop_assert_eq!(m.transpose().transpose(), m);
        }
    }
}

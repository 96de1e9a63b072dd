//! What is learned: named dense matrices, and tables of rows that grow (see `table.rs`).

use crate::table::Table;
use sommelier_core::Rng;

/// A dense matrix of the model, by its place in [`Params`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ParamId(pub(crate) usize);

/// A table of the model, by its place in [`Params`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TableId(pub(crate) usize);

/// How a matrix begins.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    Zeros,
    Ones,
    /// Normal with this standard deviation.
    Normal(f32),
    /// Uniform in ± √(6 / (rows + columns)): Glorot and Bengio, AISTATS 2010.
    Glorot,
    /// Uniform in ± this.
    Uniform(f32),
    /// This number everywhere.
    Constant(f32),
}

/// A named dense matrix.
#[derive(Debug, Clone, PartialEq)]
pub struct Param {
    /// Its name on disk.
    pub name: String,
    pub rows: usize,
    pub cols: usize,
    /// Row-major.
    pub value: Vec<f32>,
    /// Whether weight decay pulls at it: matrices yes, biases and norms no.
    pub decay: bool,
    /// Its learning rate is the common one times this.
    pub rate: f32,
}

/// All of a model.
#[derive(Debug, Clone, Default)]
pub struct Params {
    pub(crate) dense: Vec<Param>,
    pub(crate) tables: Vec<Table>,
    seed: u64,
}

impl Params {
    /// What random beginnings are drawn from.
    pub fn new(seed: u64) -> Params {
        Params { seed, ..Params::default() }
    }

    /// A new matrix. Its beginning depends on the seed and its name, not on what was added before it.
    /// Weight decay takes part where both sides are longer than 1. Panics if the name is taken.
    pub fn add(&mut self, name: &str, rows: usize, cols: usize, init: Init) -> ParamId {
        assert!(self.dense.iter().all(|p| p.name != name), "two parameters are called {name}");
        let mut rng = Rng::stream(self.seed, name_hash(name));
        let mut uniform =
            |bound: f64| (0..rows * cols).map(|_| ((2.0 * rng.unit() - 1.0) * bound) as f32).collect();
        let value = match init {
            Init::Zeros => vec![0.0; rows * cols],
            Init::Ones => vec![1.0; rows * cols],
            Init::Constant(c) => vec![c; rows * cols],
            Init::Glorot => uniform((6.0 / (rows + cols).max(1) as f64).sqrt()),
            Init::Uniform(bound) => uniform(bound.into()),
            Init::Normal(deviation) => (0..rows * cols).map(|_| rng.normal() as f32 * deviation).collect(),
        };
        let decay = rows > 1 && cols > 1;
        self.dense.push(Param { name: name.to_owned(), rows, cols, value, decay, rate: 1.0 });
        ParamId(self.dense.len() - 1)
    }

    pub fn add_table(&mut self, table: Table) -> TableId {
        assert!(
            self.tables.iter().all(|t| t.name() != table.name()),
            "two tables are called {}",
            table.name()
        );
        self.tables.push(table);
        TableId(self.tables.len() - 1)
    }

    /// The parameter of this name.
    pub fn named(&self, name: &str) -> Option<ParamId> {
        self.dense.iter().position(|p| p.name == name).map(ParamId)
    }

    pub fn get(&self, id: ParamId) -> &Param {
        &self.dense[id.0]
    }

    pub fn get_mut(&mut self, id: ParamId) -> &mut Param {
        &mut self.dense[id.0]
    }

    pub fn table(&self, id: TableId) -> &Table {
        &self.tables[id.0]
    }

    pub fn table_mut(&mut self, id: TableId) -> &mut Table {
        &mut self.tables[id.0]
    }

    pub fn iter(&self) -> impl Iterator<Item = &Param> {
        self.dense.iter()
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Param> {
        self.dense.iter_mut()
    }

    pub fn tables(&self) -> impl Iterator<Item = &Table> {
        self.tables.iter()
    }
}

/// FNV-1a.
pub(crate) fn name_hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beginnings_depend_on_the_name_alone() {
        let mut a = Params::new(1);
        let mut b = Params::new(1);
        b.add("first", 3, 3, Init::Normal(1.0));
        let x = a.add("w", 4, 5, Init::Glorot);
        let y = b.add("w", 4, 5, Init::Glorot);
        assert_eq!(a.get(x), b.get(y));
        let bound = (6f32 / 9.0).sqrt();
        assert!(a.get(x).value.iter().all(|v| v.abs() <= bound) && a.get(x).decay);
        let mut other = Params::new(2);
        let z = other.add("w", 4, 5, Init::Glorot);
        assert_ne!(a.get(x), other.get(z));
        let bias = other.add("b", 1, 5, Init::Zeros);
        assert!(!other.get(bias).decay);
    }
}

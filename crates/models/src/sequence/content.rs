//! Item vectors that are made of what the catalogue says, next to what is learned of each item or instead of it.
//!
//! A [`Maker`] makes them; the usual one is E_i = e_i + W c_i, or W c_i alone; c_i is the item's vector at length 1, and 0 where it has
//! none.
//!
//! Shapes: c (items × k), W (dim × k), e and E (items × dim). Who answers has E in place of the table e, so that a
//! question costs what it costs without vectors; the maker is kept for items that come later.
//! Cost: a product of 2 · items · k · dim a tape and step, whatever the loss.

use crate::item2vec::to_unit;
use serde::{Deserialize, Serialize};
use sommelier_core::Item;
use sommelier_data::Snapshot;
use sommelier_nn::{Init, ParamId, Params, TableId, Tape, Tensor, Var, Workspace};
use std::sync::Arc;

/// Which vectors of items are used, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Content {
    /// The property of items that is a list of numbers.
    pub property: String,
    /// Whether something is learned of each item beside it; without, items are what their vectors say.
    #[serde(default = "yes")]
    pub ids: bool,
}

fn yes() -> bool {
    true
}

/// A property of items that is a list of numbers.
#[derive(Debug, Clone)]
pub struct Input {
    pub property: String,
    /// Whether it is read at length 1, or as it is.
    pub unit: bool,
}

impl Input {
    fn read(&self, mut rows: Vec<f32>, dim: usize) -> Arc<Tensor> {
        if self.unit {
            to_unit(&mut rows, dim);
        }
        Arc::new(Tensor::new(rows.len() / dim, dim, rows))
    }
}

/// Makes item vectors of what the catalogue says.
pub trait Maker: Send + Sync {
    fn inputs(&self) -> &[Input];

    /// Numbers in each input.
    fn lengths(&self) -> &[usize];

    /// Whether something is learned of each item beside.
    fn ids(&self) -> bool {
        false
    }

    /// Vectors of the items with these inputs, a matrix each, added to those of the table where there is one.
    fn make(&self, tape: &mut Tape, given: &[Arc<Tensor>], own: Option<TableId>) -> Var;

    /// A 1 × 1 loss beside, of the vectors that were made.
    fn aside(&self, tape: &mut Tape, given: &[Arc<Tensor>], made: Var) -> Option<Var> {
        let _ = (tape, given, made);
        None
    }

    /// The vector of an item that came after the fit; `None` where nothing is said of it.
    fn late(&self, params: &Params, item: &Item) -> Option<Vec<f32>> {
        let asked = self.inputs().iter().zip(self.lengths());
        let rows: Vec<Option<Vec<f32>>> = asked
            .clone()
            .map(|(input, &k)| {
                item.vector(&input.property).filter(|c| c.len() == k && c.iter().any(|&v| v != 0.0))
            })
            .collect();
        if rows.iter().all(Option::is_none) {
            return None;
        }
        let given: Vec<Arc<Tensor>> = asked
            .zip(rows)
            .map(|((input, &k), row)| input.read(row.unwrap_or_else(|| vec![0.0; k]), k))
            .collect();
        let mut tape = Tape::answering(params, Workspace::default());
        let made = self.make(&mut tape, &given, None);
        let row = tape.data(made).to_vec();
        row.iter().any(|&v| v != 0.0).then_some(row)
    }
}

/// Name of W among the weights.
const WEIGHT: &str = "content";

/// The usual maker.
struct Linear {
    input: [Input; 1],
    length: [usize; 1],
    weight: ParamId,
    ids: bool,
}

impl Maker for Linear {
    fn inputs(&self) -> &[Input] {
        &self.input
    }

    fn lengths(&self) -> &[usize] {
        &self.length
    }

    fn ids(&self) -> bool {
        self.ids
    }

    fn make(&self, tape: &mut Tape, given: &[Arc<Tensor>], own: Option<TableId>) -> Var {
        tape.describe(own, &given[0], self.weight)
    }
}

/// How many numbers the vectors of a property have, and the name of a weight that tells it too.
pub type Length<'a> = &'a dyn Fn(&str, &str) -> Result<usize, String>;

/// The maker that [`Content`] asks for.
pub(super) fn linear(
    content: &Content,
    length: Length,
    params: &mut Params,
    (dim, deviation): (usize, f32),
) -> Result<Arc<dyn Maker>, String> {
    let k = length(&content.property, WEIGHT)?;
    let weight = params.add(WEIGHT, dim, k, Init::Normal(deviation));
    let input = [Input { property: content.property.clone(), unit: true }];
    Ok(Arc::new(Linear { input, length: [k], weight, ids: content.ids }))
}

/// What is said of a snapshot's items, and who makes vectors of it.
pub(super) struct Described {
    pub maker: Arc<dyn Maker>,
    pub given: Vec<Arc<Tensor>>,
    /// Items that nobody took: what was drawn for them at the start means nothing.
    untouched: Vec<usize>,
}

impl Described {
    pub fn new(maker: Arc<dyn Maker>, snapshot: &Snapshot, counts: &[u64]) -> Result<Described, String> {
        let read =
            |input: &Input| snapshot.item_vectors(&input.property).map(|v| input.read(v.rows.clone(), v.dim));
        let given = maker.inputs().iter().map(read).collect::<Result<_, _>>()?;
        let untouched = (0..counts.len()).filter(|&i| counts[i] == 0).collect();
        Ok(Described { maker, given, untouched })
    }

    pub fn make(&self, tape: &mut Tape, table: TableId) -> Var {
        self.maker.make(tape, &self.given, self.maker.ids().then_some(table))
    }

    /// Puts the vectors E in the place of the table e.
    pub fn settle(&self, params: &mut Params, table: TableId) {
        if self.maker.ids() {
            let dim = params.table(table).dim();
            let rows = params.table_mut(table).rows_mut();
            self.untouched.iter().for_each(|&i| rows[i * dim..(i + 1) * dim].fill(0.0));
        }
        let made = {
            let mut tape = Tape::answering(params, Workspace::default());
            let made = self.make(&mut tape, table);
            tape.data(made).to_vec()
        };
        params.table_mut(table).rows_mut().copy_from_slice(&made);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{SasrecConfig, SequenceConfig};
    use super::*;
    use crate::Model;
    use serde_json::json;
    use sommelier_core::{Allowed, FitContext, ItemIx, ResolvedQuery, Retrieve, Score};
    use sommelier_nn::optim::Schedule;
    use sommelier_nn::train::Settings;

    /// Two tastes of twelve items each that never mix; what an item's vector says is its taste, and noise.
    fn tastes() -> Snapshot {
        let mut pairs = Vec::new();
        for user in 0..80 {
            for step in 0..6 {
                pairs.push((format!("u{user}"), format!("{}", (user % 2) * 12 + (user / 2 + step * 5) % 12)));
            }
        }
        let refs: Vec<(&str, &str)> = pairs.iter().map(|(u, i)| (&**u, &**i)).collect();
        let mut snapshot = Snapshot::from_pairs("tastes", &refs);
        let info = snapshot.items.iter().map(|id| Some(item(id, id.parse::<usize>().unwrap() / 12, 3.0)));
        snapshot.item_info = Arc::new(info.collect());
        snapshot
    }

    fn item(id: &str, taste: usize, size: f64) -> Item {
        let mut item = Item::new(id);
        let noise = (id.len() as f64 + id.as_bytes()[0] as f64) % 7.0 / 10.0;
        let list = if taste == 0 { [size, 0.0, noise] } else { [0.0, size, noise] };
        item.properties.insert("text".into(), json!(list));
        item
    }

    fn config(ids: bool) -> SasrecConfig {
        let content = Some(Content { property: "text".into(), ids });
        SasrecConfig {
            dim: 16,
            blocks: 1,
            sequence: SequenceConfig { length: 8, batch: 16, content, ..SequenceConfig::default() },
            training: Settings {
                epochs: 20,
                learning_rate: 0.01,
                schedule: Schedule::FLAT,
                ..Settings::default()
            },
            ..SasrecConfig::default()
        }
    }

    #[test]
    fn an_item_that_came_later_is_found_by_its_vector() {
        let snapshot = tastes();
        for ids in [true, false] {
            let model = config(ids).fit(&snapshot, &mut FitContext::quiet(1)).unwrap();
            let items = snapshot.items.len();
            let of = |taste: usize| {
                let mine = (0..items)
                    .filter(|&i| snapshot.items.id(i as u32).parse::<usize>().unwrap() / 12 == taste);
                ResolvedQuery::from_items(mine.take(4).map(|i| ItemIx(i as u32)))
            };
            // A gap in the numbers: what lies between is no item of the model's.
            let late = [ItemIx(items as u32 + 3), ItemIx(items as u32 + 1)];
            let before = model.retrieve(&of(0), items + 9, &Allowed::everything());
            assert!(before.len() <= items && !before.iter().any(|c| late.contains(&c.item)));
            assert!(model.meet(late[0], &item("new0", 0, 5.0)) && model.meet(late[1], &item("new1", 1, 0.2)));
            assert!(!model.meet(ItemIx(items as u32 + 5), &Item::new("bare")), "it has no vector");
            assert!(model.meet(ItemIx(0), &Item::new("old")), "it was fitted");
            for taste in [0, 1] {
                let query = of(taste);
                let found = model.retrieve(&query, items, &Allowed::everything());
                let place = |item| found.iter().position(|c| c.item == item);
                let (mine, other) = (place(late[taste]).expect("found"), place(late[1 - taste]));
                assert!(mine < 14 && other.is_none_or(|o| o > mine), "taste {taste}: {mine} and {other:?}");
                let mut scores = [0f32; 3];
                model.score(&query, &[late[0], late[1], ItemIx(items as u32 + 2)], &mut scores);
                assert_eq!(scores[taste], found[mine].score);
                assert_eq!(scores[2], 0.0, "unknown");
                let without = Allowed::everything().without([late[taste]]);
                assert!(!model.retrieve(&query, items, &without).iter().any(|c| c.item == late[taste]));
                let batch =
                    model.retrieve_batch(&[query.clone(), query], 5, &[Allowed::everything(), without]);
                // Read with others on one tape, the last digit of a score may differ.
                for (together, alone) in batch[0].iter().zip(&found) {
                    assert!(together.item == alone.item && (together.score - alone.score).abs() < 1e-4);
                }
            }
            // What somebody took after the fit is read, and more like it can be asked for.
            let taste = |c: &sommelier_core::Candidate| {
                let i = c.item.ix();
                if i < items {
                    snapshot.items.id(i as u32).parse::<usize>().unwrap() / 12
                } else {
                    usize::from(c.item == late[1])
                }
            };
            let like = ResolvedQuery { like: vec![late[1]], ..ResolvedQuery::default() };
            for query in [ResolvedQuery::from_items([late[1]]), like] {
                let found = model.retrieve(&query, 5, &Allowed::everything());
                assert!(found.iter().filter(|c| taste(c) == 1).count() >= 4, "{ids} {query:?}: {found:?}");
            }
            let again = config(ids).load(&model.weights()).unwrap();
            assert!(again.meet(late[0], &item("new0", 0, 5.0)) && again.meet(late[1], &item("new1", 1, 0.2)));
            let (one, two) = (
                model.retrieve(&of(1), 9, &Allowed::everything()),
                again.retrieve(&of(1), 9, &Allowed::everything()),
            );
            assert_eq!(one, two);
        }
    }

    #[test]
    fn missing_vectors_are_told() {
        let mut snapshot = tastes();
        snapshot.item_info = Arc::new(vec![None; snapshot.items.len()]);
        let error = config(true).fit(&snapshot, &mut FitContext::quiet(1)).err().unwrap().to_string();
        assert!(error.contains("no item has a list of numbers as \"text\""), "{error}");
    }
}

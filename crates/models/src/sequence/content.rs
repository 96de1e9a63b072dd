//! Item vectors that come with the catalogue, next to what is learned of each item or instead of it.
//!
//! E_i = e_i + W c_i, or W c_i alone; c_i is the item's vector at length 1, and 0 where it has none.
//!
//! Shapes: c (items × k), W (dim × k), e and E (items × dim). Who answers has E in place of the table e, so that a
//! question costs what it costs without vectors; W is kept for items that come later.
//! Cost: a product of 2 · items · k · dim a tape and step, whatever the loss.

use crate::FitError;
use crate::item2vec::to_unit;
use serde::{Deserialize, Serialize};
use sommelier_core::Item;
use sommelier_data::Snapshot;
use sommelier_nn::kernel::{self, Layout};
use sommelier_nn::{Init, ParamId, Params, TableId, Tensor};
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

/// Name of W among the weights.
pub(super) const WEIGHT: &str = "content";

/// The vectors of a snapshot's items, and what is learned of them.
pub(super) struct Described {
    pub given: Arc<Tensor>,
    pub weight: ParamId,
    pub ids: bool,
    /// Items that nobody took: what was drawn for them at the start means nothing.
    untouched: Vec<usize>,
}

impl Described {
    pub fn new(
        content: &Content,
        snapshot: &Snapshot,
        counts: &[u64],
        params: &mut Params,
        (dim, deviation): (usize, f32),
    ) -> Result<Described, FitError> {
        let vectors = snapshot.item_vectors(&content.property).map_err(FitError::NoData)?;
        let mut rows = vectors.rows.clone();
        to_unit(&mut rows, vectors.dim);
        let weight = params.add(WEIGHT, dim, vectors.dim, Init::Normal(deviation));
        Ok(Described {
            given: Arc::new(Tensor::new(snapshot.items.len(), vectors.dim, rows)),
            weight,
            ids: content.ids,
            untouched: (0..counts.len()).filter(|&i| counts[i] == 0).collect(),
        })
    }

    /// Puts the vectors E in the place of the table e.
    pub fn settle(&self, params: &mut Params, table: TableId) {
        let (n, k) = (self.given.rows, self.given.cols);
        let weight = params.get(self.weight).value.clone();
        let dim = params.table(table).dim();
        let rows = params.table_mut(table).rows_mut();
        if self.ids {
            self.untouched.iter().for_each(|&i| rows[i * dim..(i + 1) * dim].fill(0.0));
        }
        let beta = if self.ids { 1.0 } else { 0.0 };
        let across = Layout::rows_of(k);
        let given = (&self.given.data[..], across);
        kernel::gemm(
            (n, dim, k),
            1.0,
            given,
            (&weight, across.transposed()),
            beta,
            (rows, Layout::rows_of(dim)),
        );
    }
}

/// W c of an item that came after the fit; `None` where it has no such vector.
pub(super) fn late_row(params: &Params, weight: ParamId, item: &Item, property: &str) -> Option<Vec<f32>> {
    let weight = params.get(weight);
    let mut c = item.vector(property).filter(|c| c.len() == weight.cols)?;
    to_unit(&mut c, weight.cols);
    let row: Vec<f32> = weight.value.chunks_exact(weight.cols).map(|w| kernel::dot(w, &c)).collect();
    row.iter().any(|&v| v != 0.0).then_some(row)
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

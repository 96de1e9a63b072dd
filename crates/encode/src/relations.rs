//! What items are related to, as vectors: other items, brands, directors, given as ids in their properties.
//!
//! A is the table (items × others) with 1 where an item names another; one column for each id of each property. Where the id is
//! itself an item of the catalogue, that item has a 1 in the column too, so that who names it is near it.
//! ppmi: a_ic = max(0, ln(a_ic S / (r_i s_c)) − ln shift), S the sum of A; symmetric: a_ic / √(r_i s_c). r_i are the sums of rows,
//! s_c of columns. A ≈ U Σ Vᵀ, an item is a V Σ^(power − 1), of unit length.
//!
//! Shapes: A (items × others) sparse, V (others × dim). Cost: that of the truncated SVD, see `linear.rs`.
//! Sources: Levy, Goldberg, "Neural Word Embedding as Implicit Matrix Factorization", NeurIPS 2014 (shifted PPMI, power ½);
//! Dhillon, "Co-clustering documents and words using bipartite spectral graph partitioning", KDD 2001 (symmetric).
//! Departures: an item is encoded by what it names, not by who names it, so that a new one is encoded as an old one is; and
//! each property is one with its own sums, weighted by `boost`.

use crate::encoder::{Encoder, Problem, Vectors, plan, put_texts, take_f32, take_texts};
use crate::linear::{Sparse, to_unit};
use crate::text::csr;
use crate::{EncodeError, require};
use hashbrown::HashMap;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sommelier_core::{FitContext, Item};
use sommelier_nn::{LoadError, Weights, kernel};
use std::collections::{BTreeMap, BTreeSet};

/// How much a relation counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Normalise {
    /// By how much more often two go together than chance has it.
    #[default]
    Ppmi,
    /// By the roots of how many relations both sides have.
    Symmetric,
}

/// Defaults are customary, not searched for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RelationsConfig {
    /// Which properties hold ids, one or a list of them.
    pub properties: Vec<String>,
    /// How much a property counts; 1 for those not named.
    pub boost: BTreeMap<String, f32>,
    /// Length of the vectors; shorter where there are fewer directions.
    pub dim: usize,
    pub normalise: Normalise,
    /// Of `ppmi`: so many times chance does not count yet.
    pub shift: f64,
    /// How much large singular values count: 1 as the table has them, 0 all the same.
    pub power: f64,
    /// Others that fewer items name are left out: one that only one item names relates it to none.
    pub min_items: usize,
}

impl Default for RelationsConfig {
    fn default() -> RelationsConfig {
        RelationsConfig {
            properties: Vec::new(),
            boost: BTreeMap::new(),
            dim: 64,
            normalise: Normalise::Ppmi,
            shift: 1.0,
            power: 0.5,
            min_items: 2,
        }
    }
}

/// The others known, and their place in the space.
#[derive(Debug, Clone)]
pub struct RelationsEncoder {
    config: RelationsConfig,
    /// Each as its property and its id.
    others: Vec<(usize, String)>,
    places: Places,
    /// How many items name each.
    sums: Vec<f32>,
    /// Relations of each property.
    totals: Vec<f32>,
    /// Whether an id of the property may be an item's own.
    own: Vec<bool>,
    dim: usize,
    /// others × dim, singular values in it
    v: Vec<f32>,
    problems: Vec<Problem>,
    report: Vec<String>,
}

type Places = Vec<HashMap<String, u32, foldhash::fast::FixedState>>;

impl RelationsConfig {
    pub fn fit(
        &self,
        items: &[Option<Item>],
        _: &BTreeMap<String, Vectors>,
        ctx: &FitContext,
    ) -> Result<(RelationsEncoder, Vectors), EncodeError> {
        self.check()?;
        let mut encoder = self.choose(items)?;
        let rows: Vec<Vec<(u32, f32)>> =
            items.par_iter().map(|i| i.as_ref().map_or_else(Vec::new, |i| encoder.row(i))).collect();
        let (n, cols) = (rows.len(), encoder.others.len());
        let nonzero: usize = rows.iter().map(Vec::len).sum();
        plan(
            ctx,
            Sparse::bytes(n, cols, self.dim) + 32 * nonzero as u64,
            &format!("{n} items related to {cols} others"),
            "lower dim or raise min_items",
        )?;
        let found = Sparse::new(&csr(&rows, cols), None).singular(self.dim, 0, ctx)?;
        if found.values.is_empty() {
            return Err(EncodeError::NoData(format!(
                "relations of {} say nothing beyond chance; lower shift or use the symmetric form",
                self.properties.join(", ")
            )));
        }
        encoder.dim = found.values.len();
        let scale: Vec<f32> =
            found.values.iter().map(|s| f64::from(*s).powf(self.power - 1.0) as f32).collect();
        encoder.v = found.v;
        for row in encoder.v.chunks_exact_mut(encoder.dim) {
            row.iter_mut().zip(&scale).for_each(|(v, s)| *v *= s);
        }
        let vectors: Vec<_> = rows.par_iter().map(|row| encoder.project(row)).collect();
        let vectors = Vectors::from_rows(encoder.dim, vectors);
        encoder.report.push(format!("{} of {n} items have a vector", vectors.present()));
        Ok((encoder, vectors))
    }

    pub fn load(&self, weights: &Weights) -> Result<RelationsEncoder, LoadError> {
        let (n, dim, v) = weights.matrix("v", None)?;
        let ids = take_texts(weights, "others")?;
        let (_, of) = weights.u32("properties")?;
        let (_, own) = weights.u32("own")?;
        let properties = self.properties.len();
        if ids.len() != n
            || of.len() != n
            || own.len() != properties
            || of.iter().any(|&p| p as usize >= properties)
        {
            let (expected, received) = (vec![n, properties], vec![ids.len(), own.len()]);
            return Err(LoadError::Shape { name: "others".into(), expected, received });
        }
        let others: Vec<(usize, String)> = of.iter().map(|&p| p as usize).zip(ids).collect();
        Ok(RelationsEncoder {
            config: self.clone(),
            places: places(&others, properties),
            sums: take_f32(weights, "sums", n)?,
            totals: take_f32(weights, "totals", properties)?,
            own: own.iter().map(|&own| own > 0).collect(),
            others,
            dim,
            v: v.to_vec(),
            problems: Vec::new(),
            report: take_texts(weights, "report")?,
        })
    }

    fn check(&self) -> Result<(), EncodeError> {
        require("dim", self.dim as f64, self.dim > 0, "at least 1")?;
        require("shift", self.shift, self.shift > 0.0 && self.shift.is_finite(), "more than 0")?;
        require("power", self.power, (0.0..=2.0).contains(&self.power), "from 0 to 2")?;
        for &boost in self.boost.values() {
            require("boost", boost.into(), boost >= 0.0 && boost.is_finite(), "0 or more")?;
        }
        let named: BTreeSet<&String> = self.properties.iter().collect();
        if self.properties.is_empty() || named.len() < self.properties.len() {
            return Err(EncodeError::Input(format!(
                "properties must name what holds ids, such as also_bought or brand, each once; received [{}]",
                self.properties.join(", ")
            )));
        }
        Ok(())
    }

    /// An encoder without its space: which others count, and how many items name each.
    fn choose(&self, items: &[Option<Item>]) -> Result<RelationsEncoder, EncodeError> {
        let catalogue: BTreeSet<&str> = items.iter().flatten().map(|item| item.id.as_str()).collect();
        let (mut others, mut sums, mut own, mut report) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (mut problems, mut totals) = (Vec::new(), Vec::new());
        for (p, name) in self.properties.iter().enumerate() {
            let mut named: BTreeMap<String, f32> = BTreeMap::new();
            let mut with = 0;
            for item in items.iter().flatten() {
                let ids = item.properties.get(name).filter(|v| !v.is_null()).map(ids_of);
                if let Some(Err(received)) = &ids {
                    problems.push(Problem {
                        item: item.id.clone(),
                        reason: format!(
                            "{name} holds {received}, expected an id or a list of ids; it counts as missing"
                        ),
                    });
                }
                let ids = ids.and_then(Result::ok).unwrap_or_default();
                with += usize::from(!ids.is_empty());
                ids.into_iter().for_each(|id| *named.entry(id).or_insert(0.0) += 1.0);
            }
            // Relations to things that happen to be called as an item are no relations to it: most must be items.
            let items_among = named.keys().filter(|id| catalogue.contains(id.as_str())).count();
            let is_own = !named.is_empty() && 2 * items_among >= named.len();
            if is_own {
                for item in items.iter().flatten() {
                    if let Some(n) = named.get_mut(&item.id) {
                        let names_itself = item.properties.get(name).map(ids_of);
                        let names_itself =
                            names_itself.and_then(Result::ok).is_some_and(|l| l.contains(&item.id));
                        *n += f32::from(u8::from(!names_itself));
                    }
                }
            }
            let all = named.len();
            named.retain(|_, n| *n >= self.min_items as f32);
            report.push(format!(
                "{name}: {with} items name {all} {}, {} are kept",
                if is_own { "items" } else { "others" },
                named.len()
            ));
            totals.push(named.values().sum());
            own.push(is_own);
            for (id, n) in named {
                others.push((p, id));
                sums.push(n);
            }
        }
        if others.is_empty() {
            return Err(EncodeError::NoData(format!(
                "no id is named by {} items or more ({}); import relations, or lower min_items",
                self.min_items,
                report.join("; ")
            )));
        }
        Ok(RelationsEncoder {
            config: self.clone(),
            places: places(&others, self.properties.len()),
            others,
            sums,
            totals,
            own,
            dim: 0,
            v: Vec::new(),
            problems,
            report,
        })
    }
}

impl RelationsEncoder {
    /// The weighted relations of an item, sorted.
    fn row(&self, item: &Item) -> Vec<(u32, f32)> {
        let mut row = Vec::new();
        for (p, name) in self.config.properties.iter().enumerate() {
            let boost = self.config.boost.get(name).copied().unwrap_or(1.0);
            let mut ids = item.properties.get(name).map(ids_of).and_then(Result::ok).unwrap_or_default();
            if self.own[p] {
                ids.insert(item.id.clone());
            }
            let known: Vec<u32> = ids.iter().filter_map(|id| self.places[p].get(id).copied()).collect();
            let own = known.len() as f64;
            for c in known {
                let (sum, total) = (f64::from(self.sums[c as usize]), f64::from(self.totals[p]));
                let value = match self.config.normalise {
                    Normalise::Ppmi => ((total / (own * sum)).ln() - self.config.shift.ln()).max(0.0),
                    Normalise::Symmetric => 1.0 / (own * sum).sqrt(),
                };
                if value > 0.0 && boost > 0.0 {
                    row.push((c, value as f32 * boost));
                }
            }
        }
        row.sort_unstable_by_key(|&(c, _)| c);
        row
    }

    fn project(&self, row: &[(u32, f32)]) -> Option<Vec<f32>> {
        let mut out = vec![0f32; self.dim];
        for &(c, value) in row {
            kernel::axpy(value, &self.v[c as usize * self.dim..][..self.dim], &mut out);
        }
        to_unit(&mut out).then_some(out)
    }
}

impl Encoder for RelationsEncoder {
    fn dim(&self) -> usize {
        self.dim
    }

    fn encode(&self, item: &Item, _: &dyn Fn(&str) -> Option<Vec<f32>>) -> Option<Vec<f32>> {
        self.project(&self.row(item))
    }

    fn weights(&self) -> Weights {
        let mut weights = Weights::default();
        put_texts(&mut weights, "others", self.others.iter().map(|(_, id)| id.as_str()));
        put_texts(&mut weights, "report", self.report.iter().map(String::as_str));
        weights.set_u32(
            "properties",
            &[self.others.len()],
            self.others.iter().map(|(p, _)| *p as u32).collect(),
        );
        weights.set_u32("own", &[self.own.len()], self.own.iter().map(|&own| u32::from(own)).collect());
        weights.set_f32("sums", &[self.sums.len()], self.sums.clone());
        weights.set_f32("totals", &[self.totals.len()], self.totals.clone());
        weights.set_f32("v", &[self.others.len(), self.dim], self.v.clone());
        weights
    }

    fn problems(&self) -> &[Problem] {
        &self.problems
    }

    fn report(&self) -> Vec<String> {
        self.report.clone()
    }
}

fn places(others: &[(usize, String)], properties: usize) -> Places {
    let mut places: Places = (0..properties).map(|_| HashMap::default()).collect();
    others.iter().enumerate().for_each(|(c, (p, id))| {
        places[*p].insert(id.clone(), c as u32);
    });
    places
}

/// The ids of a property; what was received where it holds none.
fn ids_of(value: &Value) -> Result<BTreeSet<String>, &'static str> {
    let id = |v: &Value| match v {
        Value::String(s) => Ok(Some(s.trim().to_owned()).filter(|s| !s.is_empty())),
        Value::Number(n) => Ok(Some(n.to_string())),
        Value::Null => Ok(None),
        Value::Bool(_) => Err("true or false"),
        Value::Array(_) => Err("a list of lists"),
        Value::Object(_) => Err("an object"),
    };
    match value {
        Value::Array(list) => list.iter().filter_map(|v| id(v).transpose()).collect(),
        other => Ok(id(other)?.into_iter().collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::EncoderConfig;
    use crate::encoder::tests::{check, item, none};
    use faer::Mat;
    use proptest::prelude::*;
    use serde_json::json;
    use sommelier_core::Rng;

    /// Two shelves of ten items that name only each other, two brands, and some dirt.
    fn shelves() -> Vec<Option<Item>> {
        let mut rng = Rng::new(3);
        let mut items: Vec<_> = (0..20)
            .map(|i| {
                let shelf = 10 * (i / 10);
                let also: Vec<String> = (0..4).map(|_| format!("i{}", shelf + rng.below(10))).collect();
                item(
                    &format!("i{i}"),
                    json!({"also_bought": also, "brand": if i < 10 { "north" } else { "юг" }}),
                )
            })
            .collect();
        items.push(None);
        items.push(item("odd", json!({"also_bought": {"a": 1}, "brand": null})));
        items.push(item("far", json!({"also_bought": ["nowhere"], "brand": 7})));
        items
    }

    fn config() -> RelationsConfig {
        let properties = vec!["also_bought".into(), "brand".into()];
        RelationsConfig { properties, dim: 6, ..RelationsConfig::default() }
    }

    fn fit(config: &RelationsConfig, items: &[Option<Item>]) -> Result<(RelationsEncoder, Vectors), String> {
        config.fit(items, &BTreeMap::new(), &FitContext::quiet(1)).map_err(|e| e.to_string())
    }

    #[test]
    fn what_every_encoder_promises() {
        for normalise in [Normalise::Ppmi, Normalise::Symmetric] {
            for power in [0.0, 0.5, 1.0] {
                let config = RelationsConfig { normalise, power, ..config() };
                let (encoder, vectors) =
                    check(&EncoderConfig::Relations(config), &shelves(), &BTreeMap::new());
                assert_eq!(vectors.present(), 20);
                assert_eq!(encoder.problems().len(), 1);
                assert_eq!(encoder.problems()[0].item, "odd");
                assert!(encoder.report()[0].starts_with("also_bought: 21 items name"));
                assert!(encoder.report()[1].starts_with("brand: 21 items name 3 others, 2 are kept"));
            }
        }
    }

    #[test]
    fn items_of_a_shelf_are_near_and_a_new_one_finds_its_shelf() {
        let (encoder, vectors) = fit(&config(), &shelves()).unwrap();
        let near = |a: &[f32], b: &[f32]| kernel::dot(a, b);
        let row = |i| vectors.row(i).unwrap();
        for i in 0..10 {
            let within: f32 = (0..10).map(|j| near(row(i), row(j))).sum();
            let across: f32 = (10..20).map(|j| near(row(i), row(j))).sum();
            assert!(within > across + 2.0, "item {i}: {within}, {across}");
        }
        let new = |v| encoder.encode(&item("new", v).unwrap(), &none);
        let of = new(json!({"also_bought": ["i1", "i2", "i7"]})).unwrap();
        let mean = |range: std::ops::Range<usize>| range.map(|j| near(&of, row(j))).sum::<f32>();
        assert!(mean(0..10) > mean(10..20) + 2.0);
        assert_eq!(new(json!({"also_bought": ["nowhere"], "brand": "east"})), None);
        // Naming an item makes near to it, though nobody else is named by both.
        let named = [
            item("a", json!({"also_bought": ["b"]})),
            item("b", json!({})),
            item("c", json!({"also_bought": ["d"]})),
            item("d", json!({})),
        ];
        let (_, v) = fit(&config(), &named).unwrap();
        let at = |i| v.row(i).unwrap();
        assert!(near(at(0), at(1)) > 0.99 && near(at(0), at(2)) < 0.01);
    }

    #[test]
    fn values_are_those_of_the_formulas_and_the_space_keeps_them() {
        let items = [
            item("1", json!({"by": ["x", "y"]})),
            item("2", json!({"by": ["x"]})),
            item("3", json!({"by": ["y", "z"]})),
            item("4", json!({"by": ["z", "x", "x"]})),
        ];
        let has = [[1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 1.0], [1.0, 0.0, 1.0]];
        let (rows, cols, all) = ([2.0, 1.0, 2.0, 2.0], [3.0f64, 2.0, 2.0], 7.0f64);
        for normalise in [Normalise::Ppmi, Normalise::Symmetric] {
            let config = RelationsConfig {
                properties: vec!["by".into()],
                normalise,
                power: 1.0,
                shift: 0.9,
                ..config()
            };
            let (encoder, vectors) = fit(&config, &items).unwrap();
            let a = Mat::from_fn(4, 3, |i, c| {
                has[i][c]
                    * match normalise {
                        Normalise::Ppmi => ((all / (rows[i] * cols[c])).ln() - 0.9f64.ln()).max(0.0),
                        Normalise::Symmetric => 1.0 / (rows[i] * cols[c]).sqrt(),
                    }
            });
            for (i, item) in items.iter().enumerate() {
                let row = encoder.row(item.as_ref().unwrap());
                let sum: f64 = row.iter().map(|&(c, v)| (f64::from(v) - a[(i, c as usize)]).abs()).sum();
                assert!(sum < 1e-6 && row.len() == (0..3).filter(|&c| a[(i, c)] > 0.0).count());
            }
            // Of full rank and with power 1, products of vectors are the cosines of the rows.
            for i in 0..4 {
                for j in 0..4 {
                    let dot = |i: usize, j: usize| (0..3).map(|c| a[(i, c)] * a[(j, c)]).sum::<f64>();
                    let expected = dot(i, j) / (dot(i, i) * dot(j, j)).sqrt();
                    let found = kernel::dot(vectors.row(i).unwrap(), vectors.row(j).unwrap());
                    assert!((f64::from(found) - expected).abs() < 1e-4, "{i} {j}");
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_is_told() {
        let told = |config: RelationsConfig, items: &[Option<Item>]| fit(&config, items).err().unwrap();
        assert!(told(RelationsConfig::default(), &shelves()).contains("properties must name"));
        assert!(told(config(), &[]).contains("no id is named by 2 items"));
        assert!(told(config(), &shelves()[..1]).contains("lower min_items"));
        assert!(
            told(RelationsConfig { shift: 0.0, ..config() }, &shelves())
                .contains("shift must be more than 0")
        );
        assert!(told(RelationsConfig { shift: 1e9, ..config() }, &shelves()).contains("beyond chance"));
        assert!(told(RelationsConfig { power: f64::NAN, ..config() }, &shelves()).contains("power"));
    }

    proptest! {
        #[test]
        fn any_relations_are_read(n in 0usize..25, seed: u64, symmetric: bool) {
            let mut rng = Rng::new(seed);
            let items: Vec<_> = (0..n)
                .map(|i| {
                    let list: Vec<Value> = (0..rng.below(4)).map(|_| json!(rng.below(n).to_string())).collect();
                    item(&i.to_string(), json!({"also_bought": list, "brand": rng.below(3)}))
                })
                .collect();
            let normalise = if symmetric { Normalise::Symmetric } else { Normalise::Ppmi };
            if let Ok((encoder, vectors)) = fit(&RelationsConfig { normalise, min_items: 1, ..config() }, &items) {
                prop_assert!(vectors.rows.iter().all(|v| v.is_finite()));
                for (i, item) in items.iter().enumerate() {
                    let row = encoder.encode(item.as_ref().unwrap(), &none);
                    prop_assert_eq!(row.as_deref(), vectors.row(i));
                }
            }
        }
    }
}

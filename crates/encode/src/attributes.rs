//! Attributes of items as vectors: numbers, dates, truth values, categories and lists of categories.
//!
//! Numbers, dates, truth values: x = (v − mean) / spread, kept within ±4, and 1 in a column of its own where it is missing.
//! Categories: x_c = s · ln((1 + N) / (1 + N_c)) / √(how many the item has), s such that x·x is 1 on average over the N items that
//! have the property. Then y = (x − mean x) V with V the principal axes where there are more columns than `dim`, else V = I.
//!
//! Shapes: x (columns) sparse, V (columns × dim), y (dim). Cost: that of the truncated SVD, see `linear.rs`; means come off
//! without a dense matrix. Source: principal components of mixed data as in Pagès, "Analyse factorielle de données mixtes",
//! Revue de statistique appliquée 2004. Departure: a rare category weighs by the logarithm of its rarity instead of by its root,
//! and each property counts as much as a number, however many categories it has.

use crate::encoder::{Encoder, Problem, Vectors, plan, put_texts, take_f32, take_texts};
use crate::linear::{Sparse, to_unit};
use crate::text::csr;
use crate::{EncodeError, require};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sommelier_core::{FitContext, Item, Time};
use sommelier_nn::{LoadError, Weights, kernel};
use std::collections::{BTreeMap, BTreeSet};

/// What a property holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttributeType {
    Number,
    Date,
    /// True or false.
    Truth,
    /// One of some values, or a list of them.
    Category,
    /// Nothing to encode here: free text, vectors, objects.
    Leave,
}

/// Defaults are customary, not searched for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AttributesConfig {
    /// Which properties are read; empty reads all whose type is one.
    pub properties: Vec<String>,
    /// Types of properties that are not to be inferred.
    pub types: BTreeMap<String, AttributeType>,
    /// How much a property counts; 1 for those not named.
    pub boost: BTreeMap<String, f32>,
    /// Length of the vectors; shorter where there are fewer columns.
    pub dim: usize,
    /// Values of a category in fewer items are left out.
    pub min_items: usize,
    /// Values of a category kept at most, the most frequent ones.
    pub max_values: usize,
    /// Whether vectors have unit length.
    pub unit: bool,
}

impl Default for AttributesConfig {
    fn default() -> AttributesConfig {
        AttributesConfig {
            properties: Vec::new(),
            types: BTreeMap::new(),
            boost: BTreeMap::new(),
            dim: 64,
            min_items: 2,
            max_values: 1000,
            unit: true,
        }
    }
}

/// One property as it is encoded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Attribute {
    name: String,
    holds: AttributeType,
    /// Its first column.
    start: usize,
    mean: f64,
    spread: f64,
    boost: f32,
    /// Whether a column says that it is missing.
    flag: bool,
    /// Sorted; their columns follow each other.
    values: Vec<String>,
    weights: Vec<f32>,
}

/// What each property is and where its columns lie in the space.
#[derive(Debug, Clone)]
pub struct AttributesEncoder {
    attributes: Vec<Attribute>,
    unit: bool,
    dim: usize,
    /// columns × dim
    v: Vec<f32>,
    /// The mean of all x V.
    offset: Vec<f32>,
    problems: Vec<Problem>,
    report: Vec<String>,
}

/// Numbers are kept within so many spreads of their mean, so that one typing error does not stretch the axis for all.
const FARTHEST: f64 = 4.0;
/// Larger numbers have no square.
const LARGEST: f64 = 1e100;
/// So large a share of the values must be of a type.
const MOST: f64 = 0.95;

impl AttributesConfig {
    pub fn fit(
        &self,
        items: &[Option<Item>],
        _: &BTreeMap<String, Vectors>,
        ctx: &FitContext,
    ) -> Result<(AttributesEncoder, Vectors), EncodeError> {
        require("dim", self.dim as f64, self.dim > 0, "at least 1")?;
        for &boost in self.boost.values() {
            require("boost", boost.into(), boost >= 0.0 && boost.is_finite(), "0 or more")?;
        }
        let present: Vec<&Item> = items.iter().flatten().collect();
        let names: BTreeSet<&str> = match self.properties.as_slice() {
            [] => present.iter().flat_map(|i| i.properties.keys()).map(String::as_str).collect(),
            some => some.iter().map(String::as_str).collect(),
        };
        let looked: Vec<Looked> = names.par_iter().map(|name| self.look(name, &present)).collect();
        let mut encoder = AttributesEncoder {
            attributes: Vec::new(),
            unit: self.unit,
            dim: 0,
            v: Vec::new(),
            offset: Vec::new(),
            problems: Vec::new(),
            report: Vec::new(),
        };
        let mut cols = 0;
        for Looked { attribute, says, problems } in looked {
            encoder.report.push(says);
            encoder.problems.extend(problems);
            if let Some(mut attribute) = attribute {
                attribute.start = cols;
                cols += attribute.columns();
                encoder.attributes.push(attribute);
            }
        }
        if cols == 0 {
            return Err(EncodeError::NoData(format!(
                "no property of {} items is a number, a date, true or false, or a category, and differs between items ({}); \
                 name the types of properties, or import more",
                present.len(),
                if encoder.report.is_empty() {
                    "there is none".to_owned()
                } else {
                    encoder.report.join("; ")
                }
            )));
        }
        encoder.fit_axes(items, cols, self.dim, ctx)
    }

    pub fn load(&self, weights: &Weights) -> Result<AttributesEncoder, LoadError> {
        let (cols, dim, v) = weights.matrix("v", None)?;
        let attributes: Vec<Attribute> = take_texts(weights, "attributes")?
            .iter()
            .map(|text| serde_json::from_str(text))
            .collect::<Result<_, _>>()
            .map_err(|e| LoadError::Other(format!("attributes are damaged ({e}); fit the encoder again")))?;
        let mut next = 0;
        for attribute in &attributes {
            if attribute.start != next || attribute.values.len() != attribute.weights.len() {
                return Err(LoadError::Other("attributes are damaged; fit the encoder again".into()));
            }
            next += attribute.columns();
        }
        if next != cols {
            let (expected, received) = (vec![next, dim], vec![cols, dim]);
            return Err(LoadError::Shape { name: "v".into(), expected, received });
        }
        Ok(AttributesEncoder {
            attributes,
            unit: self.unit,
            dim,
            v: v.to_vec(),
            offset: take_f32(weights, "offset", dim)?,
            problems: Vec::new(),
            report: take_texts(weights, "report")?,
        })
    }

    /// What a property holds, and how to encode it where it says something.
    fn look(&self, name: &str, items: &[&Item]) -> Looked {
        let values: Vec<(&Item, &Value)> = items
            .iter()
            .filter_map(|item| item.properties.get(name).filter(|v| !v.is_null()).map(|v| (*item, v)))
            .collect();
        let told = self.types.get(name).copied();
        let (holds, why) = told.map_or_else(|| self.infer(&values), |t| (t, String::new()));
        let boost = self.boost.get(name).copied().unwrap_or(1.0);
        let mut attribute = Attribute {
            name: name.to_owned(),
            holds,
            start: 0,
            mean: 0.0,
            spread: 1.0,
            boost,
            flag: false,
            values: Vec::new(),
            weights: Vec::new(),
        };
        let leave = |says: String| Looked { attribute: None, says, problems: Vec::new() };
        if values.is_empty() || boost == 0.0 || holds == AttributeType::Leave {
            return leave(format!("{name}: left out{why}"));
        }
        let problems: Vec<Problem> = values
            .iter()
            .filter(|(_, v)| !fits(holds, v))
            .map(|(item, v)| Problem {
                item: item.id.clone(),
                reason: format!("{name} is {}, expected {}; it counts as missing", short(v), words(holds)),
            })
            .collect();
        let missing = items.len() - values.len() + problems.len();
        let rest = format!("missing in {missing} of {} items", items.len());
        let says = if holds == AttributeType::Category {
            let all = attribute.find_values(&values, self.min_items, self.max_values);
            if attribute.values.is_empty() {
                return leave(format!(
                    "{name}: a category, left out: none of {all} values tells items apart"
                ));
            }
            format!("{name}: a category, {} of {all} values are kept, {rest}", attribute.values.len())
        } else {
            let numbers: Vec<f64> = values.iter().filter_map(|(_, v)| number(holds, v)).collect();
            let n = numbers.len().max(1) as f64;
            attribute.mean = numbers.iter().sum::<f64>() / n;
            attribute.spread = (numbers.iter().map(|v| (v - attribute.mean).powi(2)).sum::<f64>() / n).sqrt();
            attribute.flag = missing > 0;
            // A spread that is only rounding is none.
            if attribute.spread <= attribute.mean.abs() * 1e-12 {
                return leave(format!("{name}: {}, left out: all are the same", words(holds)));
            }
            format!(
                "{name}: {}, mean {:.4}, spread {:.4}, {rest}",
                words(holds),
                attribute.mean,
                attribute.spread
            )
        };
        Looked { attribute: Some(attribute), says, problems }
    }

    /// The type of most of the values, and why they are none.
    fn infer(&self, values: &[(&Item, &Value)]) -> (AttributeType, String) {
        let n = values.len().max(1) as f64;
        let share = |of: &dyn Fn(&Value) -> bool| values.iter().filter(|(_, v)| of(v)).count() as f64 / n;
        let lists: Vec<&Vec<Value>> = values.iter().filter_map(|(_, v)| v.as_array()).collect();
        if lists.is_empty() {
            for holds in [AttributeType::Truth, AttributeType::Number, AttributeType::Date] {
                if share(&|v| fits(holds, v)) >= MOST {
                    return (holds, String::new());
                }
            }
        } else if lists.len() == values.len()
            && lists[0].len() > 2
            && lists.iter().all(|l| l.len() == lists[0].len() && l.iter().all(Value::is_number))
        {
            return (AttributeType::Leave, ": it holds vectors".into());
        }
        if share(&|v| fits(AttributeType::Category, v)) < MOST {
            return (AttributeType::Leave, ": its values are of no one type".into());
        }
        let having = having(values);
        let shared = |v: &Value| categories(v).iter().any(|c| having[c] >= self.min_items.max(2));
        if share(&shared) < 0.5 {
            return (AttributeType::Leave, ": most of its values are of one item only, as titles are".into());
        }
        (AttributeType::Category, String::new())
    }
}

/// A property that was looked at.
struct Looked {
    attribute: Option<Attribute>,
    says: String,
    problems: Vec<Problem>,
}

impl Attribute {
    fn columns(&self) -> usize {
        if self.holds == AttributeType::Category { self.values.len() } else { 1 + usize::from(self.flag) }
    }

    /// Keeps the values that tell items apart; how many there are in all.
    fn find_values(&mut self, values: &[(&Item, &Value)], min_items: usize, max_values: usize) -> usize {
        let having = having(values);
        let items = values.len();
        let mut kept: Vec<(&String, usize)> = having
            .iter()
            .map(|(value, &n)| (value, n))
            .filter(|&(_, n)| n >= min_items && n < items)
            .collect();
        kept.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(b.0)));
        kept.truncate(max_values);
        kept.sort();
        self.values = kept.iter().map(|(value, _)| (*value).clone()).collect();
        self.weights =
            kept.iter().map(|&(_, n)| (((1 + items) as f64) / ((1 + n) as f64)).ln() as f32).collect();
        let mut squares = 0f64;
        for (_, value) in values {
            let mut row = Vec::new();
            self.push(value, &mut row);
            squares += row.iter().map(|&(_, v)| f64::from(v).powi(2)).sum::<f64>();
        }
        if squares > 0.0 {
            let scale = (items as f64 / squares).sqrt() as f32 * self.boost;
            self.weights.iter_mut().for_each(|w| *w *= scale);
        }
        having.len()
    }

    /// Appends what a value puts into its columns; whether the value is one.
    fn push(&self, value: &Value, row: &mut Vec<(u32, f32)>) -> bool {
        if !fits(self.holds, value) {
            return false;
        }
        if self.holds == AttributeType::Category {
            let has = categories(value);
            let share = 1.0 / (has.len().max(1) as f32).sqrt();
            for value in &has {
                if let Ok(at) = self.values.binary_search(value) {
                    row.push(((self.start + at) as u32, self.weights[at] * share));
                }
            }
        } else if let Some(v) = number(self.holds, value) {
            let x = ((v - self.mean) / self.spread).clamp(-FARTHEST, FARTHEST);
            row.push((self.start as u32, x as f32 * self.boost));
        }
        true
    }
}

impl AttributesEncoder {
    fn fit_axes(
        mut self,
        items: &[Option<Item>],
        cols: usize,
        dim: usize,
        ctx: &FitContext,
    ) -> Result<(AttributesEncoder, Vectors), EncodeError> {
        let rows: Vec<Option<Vec<(u32, f32)>>> =
            items.par_iter().map(|item| self.row(item.as_ref()?)).collect();
        let known: Vec<Vec<(u32, f32)>> = rows.iter().flatten().cloned().collect();
        let n = known.len();
        let nonzero: usize = known.iter().map(Vec::len).sum();
        plan(
            ctx,
            Sparse::bytes(n, cols, dim) + 32 * nonzero as u64,
            &format!("{n} items with {cols} columns"),
            "lower dim or max_values",
        )?;
        let mut mean = vec![0f64; cols];
        known.iter().flatten().for_each(|&(c, v)| mean[c as usize] += f64::from(v) / n.max(1) as f64);
        let mean: Vec<f32> = mean.iter().map(|&m| m as f32).collect();
        if cols > dim {
            let x = csr(&known, cols);
            let found = Sparse::new(&x, Some(&mean)).singular(dim, 0, ctx)?;
            (self.dim, self.v) = (found.values.len(), found.v);
        } else {
            self.dim = cols;
            self.v = (0..cols * cols).map(|i| if i / cols == i % cols { 1.0 } else { 0.0 }).collect();
        }
        self.offset = vec![0f32; self.dim];
        for (c, &m) in mean.iter().enumerate() {
            kernel::axpy(m, &self.v[c * self.dim..][..self.dim], &mut self.offset);
        }
        self.report.push(format!("{cols} columns become {} numbers", self.dim));
        let vectors: Vec<_> = rows.par_iter().map(|row| row.as_ref().map(|row| self.project(row))).collect();
        let vectors = Vectors::from_rows(self.dim, vectors);
        self.report.push(format!("{} of {} items have a vector", vectors.present(), items.len()));
        Ok((self, vectors))
    }

    /// The columns of an item; `None` where it has none of the properties.
    fn row(&self, item: &Item) -> Option<Vec<(u32, f32)>> {
        let (mut row, mut any) = (Vec::new(), false);
        for attribute in &self.attributes {
            let value = item.properties.get(&attribute.name).filter(|v| !v.is_null());
            let is = value.is_some_and(|value| attribute.push(value, &mut row));
            any |= is;
            if !is && attribute.flag {
                row.push((attribute.start as u32 + 1, attribute.boost));
            }
        }
        any.then_some(row)
    }

    fn project(&self, row: &[(u32, f32)]) -> Vec<f32> {
        let mut out: Vec<f32> = self.offset.iter().map(|v| -v).collect();
        for &(c, value) in row {
            kernel::axpy(value, &self.v[c as usize * self.dim..][..self.dim], &mut out);
        }
        if self.unit {
            // An item that is average in everything stays in the middle.
            to_unit(&mut out);
        }
        out
    }
}

impl Encoder for AttributesEncoder {
    fn dim(&self) -> usize {
        self.dim
    }

    fn encode(&self, item: &Item, _: &dyn Fn(&str) -> Option<Vec<f32>>) -> Option<Vec<f32>> {
        self.row(item).map(|row| self.project(&row))
    }

    fn weights(&self) -> Weights {
        let mut weights = Weights::default();
        // Names, numbers and lists of texts are always JSON.
        let texts: Vec<String> =
            self.attributes.iter().map(|a| serde_json::to_string(a).unwrap_or_default()).collect();
        put_texts(&mut weights, "attributes", texts.iter().map(String::as_str));
        put_texts(&mut weights, "report", self.report.iter().map(String::as_str));
        weights.set_f32("v", &[self.v.len() / self.dim.max(1), self.dim], self.v.clone());
        weights.set_f32("offset", &[self.dim], self.offset.clone());
        weights
    }

    fn problems(&self) -> &[Problem] {
        &self.problems
    }

    fn report(&self) -> Vec<String> {
        self.report.clone()
    }
}

fn words(holds: AttributeType) -> &'static str {
    match holds {
        AttributeType::Number => "a number",
        AttributeType::Date => "a date",
        AttributeType::Truth => "true or false",
        AttributeType::Category => "a text, or a list of texts",
        AttributeType::Leave => "anything",
    }
}

/// The beginning of a value, for a message.
fn short(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 40 { text } else { text.chars().take(39).chain(['…']).collect() }
}

fn fits(holds: AttributeType, value: &Value) -> bool {
    match holds {
        AttributeType::Category => match value {
            Value::Array(list) => list.iter().all(is_plain),
            other => is_plain(other),
        },
        AttributeType::Leave => false,
        other => number(other, value).is_some(),
    }
}

fn is_plain(value: &Value) -> bool {
    matches!(value, Value::String(_) | Value::Number(_) | Value::Bool(_))
}

/// A value as a number: of days since 1970 where it is a date.
fn number(holds: AttributeType, value: &Value) -> Option<f64> {
    let v = match (holds, value) {
        (AttributeType::Truth, Value::Bool(b)) => f64::from(u8::from(*b)),
        (AttributeType::Truth, Value::String(s)) => match s.trim().to_ascii_lowercase().as_str() {
            "true" => 1.0,
            "false" => 0.0,
            _ => return None,
        },
        (AttributeType::Number, Value::Number(n)) => n.as_f64()?,
        (AttributeType::Number, Value::String(s)) => s.trim().parse().ok()?,
        (AttributeType::Date, Value::String(s)) => days(Time::parse(s).ok()?),
        (AttributeType::Date, Value::Number(n)) => days(Time::from_millis(n.as_i64()?).ok()?),
        _ => return None,
    };
    (v.abs() < LARGEST).then_some(v)
}

fn days(time: Time) -> f64 {
    time.millis() as f64 / 86_400_000.0
}

/// The distinct values of a category that an item has, sorted.
fn categories(value: &Value) -> BTreeSet<String> {
    let text = |v: &Value| match v {
        Value::String(s) => Some(s.trim().to_owned()).filter(|s| !s.is_empty()),
        Value::Number(_) | Value::Bool(_) => Some(v.to_string()),
        _ => None,
    };
    match value {
        Value::Array(list) => list.iter().filter_map(text).collect(),
        other => text(other).into_iter().collect(),
    }
}

/// How many items have each value.
fn having(values: &[(&Item, &Value)]) -> BTreeMap<String, usize> {
    let mut having = BTreeMap::new();
    for (_, value) in values {
        for category in categories(value) {
            *having.entry(category).or_insert(0) += 1;
        }
    }
    having
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::EncoderConfig;
    use crate::encoder::tests::{check, item, none};
    use proptest::prelude::*;
    use serde_json::json;
    use sommelier_core::Rng;

    fn cellar() -> Vec<Option<Item>> {
        let of = |i: usize| {
            let mut all = json!({
                "title": format!("Wine number {i}"),
                "price": 5.0 + i as f64,
                "year": format!("{}", 1990 + i % 7),
                "since": format!("2026-01-{:02}", 1 + i % 28),
                "organic": i.is_multiple_of(3),
                "country": (["France", "Italy", "Грузия"][i % 3]),
                "grapes": ([["Merlot", "Syrah"], ["Nebbiolo", "Merlot"], ["Саперави", "Syrah"]][i % 3]),
                "vector": [1.0, 2.0, i as f64],
                "constant": 4,
            });
            if i.is_multiple_of(5) {
                all["price"] = Value::Null;
            }
            item(&format!("w{i}"), all)
        };
        let mut items: Vec<_> = (0..40).map(of).collect();
        items[3].as_mut().unwrap().properties.insert("year".into(), json!("unknown"));
        items.push(None);
        items.push(item("empty", json!({"note": {"a": 1}})));
        items
    }

    #[test]
    fn what_every_encoder_promises() {
        for dim in [4, 64] {
            for unit in [true, false] {
                let config = AttributesConfig { dim, unit, ..AttributesConfig::default() };
                let (encoder, vectors) =
                    check(&EncoderConfig::Attributes(config), &cellar(), &BTreeMap::new());
                assert_eq!(vectors.present(), 40);
                assert!(encoder.dim() <= dim && encoder.dim() >= 4);
            }
        }
    }

    #[test]
    fn types_are_inferred_and_told() {
        let (encoder, _) =
            AttributesConfig::default().fit(&cellar(), &BTreeMap::new(), &FitContext::quiet(1)).unwrap();
        let said = encoder.report();
        for (name, what) in [
            ("price", "a number, mean"),
            ("price", "missing in 9 of 41"),
            ("year", "a number"),
            ("since", "a date"),
            ("organic", "true or false"),
            ("country", "a category, 3 of 3"),
            ("grapes", "a category, 4 of 4"),
            ("title", "left out: most of its values"),
            ("vector", "left out: it holds vectors"),
            ("constant", "all are the same"),
            ("note", "no one type"),
        ] {
            let told = said.iter().any(|line| line.starts_with(name) && line.contains(what));
            assert!(told, "{name} is {what}: {said:#?}");
        }
        let wrong = &encoder.problems()[0];
        assert_eq!((wrong.item.as_str(), encoder.problems().len()), ("w3", 1));
        assert_eq!(wrong.reason, "year is \"unknown\", expected a number; it counts as missing");
        let types = BTreeMap::from([("year".into(), AttributeType::Category)]);
        let told = AttributesConfig { types, ..AttributesConfig::default() };
        let (encoder, _) = told.fit(&cellar(), &BTreeMap::new(), &FitContext::quiet(1)).unwrap();
        assert!(encoder.report().iter().any(|l| l.starts_with("year: a category, 7 of 8")));
    }

    #[test]
    fn columns_are_those_of_the_formula() {
        let items = [
            item("a", json!({"n": 1, "c": ["x", "y"]})),
            item("b", json!({"n": 3, "c": "x"})),
            item("c", json!({"c": ["z", "y", "y"]})),
            item("d", json!({"n": 8, "c": []})),
        ];
        let config = AttributesConfig { min_items: 1, unit: false, ..AttributesConfig::default() };
        let types = BTreeMap::from([("c".into(), AttributeType::Category)]);
        let (_, vectors) = AttributesConfig { types, ..config }
            .fit(&items, &BTreeMap::new(), &FitContext::quiet(1))
            .unwrap();
        let (w, half) = ([(5f64 / 3.0).ln(), (5f64 / 3.0).ln(), 2.5f64.ln()], 0.5f64.sqrt());
        let mut c =
            [[w[0] * half, w[1] * half, 0.0], [w[0], 0.0, 0.0], [0.0, w[1] * half, w[2] * half], [0.0; 3]];
        let scale = (4.0 / c.iter().flatten().map(|v| v * v).sum::<f64>()).sqrt();
        c.iter_mut().flatten().for_each(|v| *v *= scale);
        let spread = ((9.0 + 1.0 + 16.0f64) / 3.0).sqrt();
        let n = [[-3.0 / spread, 0.0], [-1.0 / spread, 0.0], [0.0, 1.0], [4.0 / spread, 0.0]];
        let x: Vec<Vec<f64>> = (0..4).map(|i| c[i].iter().chain(&n[i]).copied().collect()).collect();
        for i in 0..4 {
            for k in 0..5 {
                let mean = x.iter().map(|row| row[k]).sum::<f64>() / 4.0;
                let found = f64::from(vectors.row(i).unwrap()[k]);
                assert!((found - (x[i][k] - mean)).abs() < 1e-6, "item {i}, column {k}: {found}");
            }
        }
    }

    #[test]
    fn principal_axes_keep_what_varies_most() {
        let full = AttributesConfig { unit: false, dim: 100, ..AttributesConfig::default() };
        let few = AttributesConfig { dim: 5, ..full.clone() };
        let rows = |config: AttributesConfig| {
            config.fit(&cellar(), &BTreeMap::new(), &FitContext::quiet(1)).unwrap().1
        };
        let (full, few) = (rows(full), rows(few));
        let x = faer::Mat::from_fn(40, full.dim, |i, c| f64::from(full.rows[i * full.dim + c]));
        let svd = x.svd().unwrap();
        for k in 0..5 {
            let kept: f64 = (0..40).map(|i| f64::from(few.rows[i * 5 + k]).powi(2)).sum();
            let expected = svd.S().column_vector()[k].powi(2);
            assert!((kept - expected).abs() < 0.01 * expected, "axis {k}: {kept}, expected {expected}");
        }
    }

    #[test]
    fn new_items_and_what_cannot_be() {
        let fit = |config: AttributesConfig, items: &[Option<Item>]| {
            config.fit(items, &BTreeMap::new(), &FitContext::quiet(1))
        };
        let (encoder, _) = fit(AttributesConfig::default(), &cellar()).unwrap();
        let of = |v: Value| encoder.encode(&item("new", v).unwrap(), &none);
        assert_eq!(of(json!({"title": "only a title"})), None);
        assert_eq!(of(json!({"price": "dear"})), None);
        for odd in [
            json!({"price": 1e300, "country": "France"}),
            json!({"country": ["nowhere"]}),
            json!({"price": -1e99}),
        ] {
            assert!(of(odd).unwrap().iter().all(|v| v.is_finite()));
        }
        let near = |a: &[f32], b: &[f32]| kernel::dot(a, b);
        let french =
            of(json!({"country": "France", "grapes": ["Merlot", "Syrah"], "organic": true})).unwrap();
        let also = of(json!({"country": "France", "grapes": ["Syrah"], "organic": true})).unwrap();
        let other = of(json!({"country": "Грузия", "grapes": ["Саперави"], "organic": false})).unwrap();
        assert!(near(&french, &also) > 0.3 + near(&french, &other));
        let told = |items: &[Option<Item>]| {
            fit(AttributesConfig::default(), items).err().map(|e| e.to_string()).unwrap_or_default()
        };
        assert!(told(&[]).contains("there is none"));
        assert!(told(&cellar()[..1]).contains("differs between items"), "one item is like no other");
    }

    fn value(rng: &mut Rng) -> Value {
        match rng.below(9) {
            0 => json!(rng.normal()),
            1 => json!(["a", "b", "3", "true"][..rng.below(4)]),
            2 => json!("2026-05-05"),
            3 => json!(rng.below(3)),
            4 => json!(rng.below(2) == 1),
            5 => Value::Null,
            6 => json!({"x": [1]}),
            7 => json!(1e308),
            _ => json!(["red", "white", "", "NaN", "inf"][rng.below(5)]),
        }
    }

    proptest! {
        #[test]
        fn any_properties_are_read(n in 0usize..30, dim in 1usize..6, seed: u64) {
            let mut rng = Rng::new(seed);
            let items: Vec<_> = (0..n)
                .map(|i| item(&i.to_string(), json!({"a": value(&mut rng), "b": value(&mut rng), "c": rng.below(4)})))
                .collect();
            let config = AttributesConfig { dim, ..AttributesConfig::default() };
            if let Ok((encoder, vectors)) = config.fit(&items, &BTreeMap::new(), &FitContext::quiet(1)) {
                prop_assert!(vectors.rows.iter().all(|v| v.is_finite()));
                for (i, item) in items.iter().enumerate() {
                    let row = encoder.encode(item.as_ref().unwrap(), &none);
                    prop_assert_eq!(row.as_deref(), vectors.row(i));
                }
            }
        }
    }
}

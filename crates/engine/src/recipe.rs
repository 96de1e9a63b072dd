//! Recipes: one TOML file says how to get from a snapshot to an artefact, and which published figures it claims.

use crate::error::{EngineError, near, nearest};
use crate::prepare::Tokenise;
use crate::wish::Wish;
use serde::{Deserialize, Serialize};
use sommelier_core::Time;
use sommelier_data::{Filters, KindRules};
use sommelier_encode::EncoderConfig;
use sommelier_models::ModelConfig;
use std::collections::BTreeMap;
use std::path::Path;

const BUILTIN: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/recipes.rs"));

/// A whole recipe.
///
/// ```
/// let recipe = sommelier_engine::Recipe::parse("mine", r#"
///     name = "mine"
///     about = "EASE with a firm hand"
///     model = { kind = "ease", l2 = 200.0 }
/// "#)?;
/// let firmer = recipe.set("l2=500")?;
/// assert_ne!(recipe, firmer);
/// # Ok::<(), sommelier_engine::EngineError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    pub name: String,
    /// What it is good for, in a sentence or two.
    pub about: String,
    /// Where the method was published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paper: Option<String>,
    #[serde(default, skip_serializing_if = "DataConfig::is_default")]
    pub data: DataConfig,
    /// Encoders of items, by the name of their vectors.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub encode: BTreeMap<String, EncoderConfig>,
    /// A model that is fitted first: what it learns of items are the vectors called `behaviour`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behaviour: Option<ModelConfig>,
    /// How vectors become codes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenise: Option<Tokenise>,
    /// How what people say reaches the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wish: Option<Wish>,
    pub model: ModelConfig,
    /// Settings tuned on a data set, by its name: of `[model]`, or under the names of `encode`, `behaviour`, `tokenise` and
    /// `wish`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tuned: BTreeMap<String, toml::Table>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub claims: Vec<Claim>,
}

/// What of the data takes part.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataConfig {
    #[serde(skip_serializing_if = "Filters::is_none")]
    pub filters: Filters,
}

impl DataConfig {
    fn is_default(&self) -> bool {
        *self == DataConfig::default()
    }
}

/// A published figure that this recipe is held against.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// Folder of the data set: `gowalla`, `ml-1m/lcf_split`.
    pub dataset: String,
    /// `loo`, `given`, …
    pub split: String,
    /// Names of the splits that came with the data, such as `u1`, where the figure is their mean.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub folds: Vec<String>,
    /// What events count in this figure, as in `sommelier.toml`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub events: KindRules,
    /// Settings of `[model]` for this figure, over those tuned on the data set.
    #[serde(default, skip_serializing_if = "toml::Table::is_empty")]
    pub settings: toml::Table,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub refit: bool,
    /// Fitted with so many seeds, one after the other; the figure held against the published one is their mean.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub seeds: usize,
    /// `recall@20`.
    pub metric: String,
    /// `recbole`, `rectools`, …; the house's own definitions where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// `sampled:100` or `given`; all items where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidates: Option<String>,
    pub published: f64,
    #[serde(default)]
    pub bound: Bound,
    /// Relative: 0.01 is one per cent.
    #[serde(default = "one_per_cent")]
    pub tolerance: f64,
    /// Who published the figure, and where.
    pub source: String,
    /// What the reader of the comparison must know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

fn one_per_cent() -> f64 {
    0.01
}

fn one() -> usize {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_one(n: &usize) -> bool {
    *n == 1
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// Ours lies within the tolerance of the published figure.
    #[default]
    Within,
    /// Ours is not more than the tolerance below it.
    AtLeast,
    /// Shown beside ours and not judged: the protocols are near, not the same.
    Guide,
}

impl Recipe {
    /// Names of the recipes that are part of the program, sorted.
    pub fn names() -> Vec<&'static str> {
        BUILTIN.iter().map(|&(name, _)| name).collect()
    }

    /// All recipes that are part of the program, by name.
    pub fn all() -> Result<Vec<Recipe>, EngineError> {
        BUILTIN.iter().map(|&(name, text)| Recipe::parse(name, text)).collect()
    }

    pub fn builtin(name: &str) -> Result<Recipe, EngineError> {
        match BUILTIN.iter().find(|&&(known, _)| known == name) {
            Some(&(name, text)) => Recipe::parse(name, text),
            None => Err(EngineError::UnknownRecipe { name: name.into(), near: near(name, Recipe::names()) }),
        }
    }

    /// A built-in name, or the path of a TOML file.
    pub fn load(name_or_path: &str) -> Result<Recipe, EngineError> {
        let looks_like_a_path =
            Path::new(name_or_path).extension().is_some_and(|e| e.eq_ignore_ascii_case("toml"))
                || name_or_path.contains(['/', '\\']);
        if !looks_like_a_path {
            return Recipe::builtin(name_or_path);
        }
        let path = Path::new(name_or_path);
        let text = std::fs::read_to_string(path).map_err(EngineError::io(path))?;
        Recipe::parse(name_or_path, &text)
    }

    /// Reads TOML; `origin` names it in errors.
    pub fn parse(origin: &str, text: &str) -> Result<Recipe, EngineError> {
        let fail = |reason: String| EngineError::Recipe { name: origin.to_owned(), reason };
        let recipe: Recipe = toml::from_str(text).map_err(|e| fail(hint(&e.to_string(), text)))?;
        crate::space::check_name("recipe", &recipe.name)?;
        for (dataset, settings) in &recipe.tuned {
            recipe.with_settings(settings).map_err(|e| fail(format!("tuned.{dataset}: {e}")))?;
        }
        for claim in &recipe.claims {
            recipe.claimed(claim).map_err(|e| fail(format!("claim on {}: {e}", claim.dataset)))?;
        }
        Ok(recipe)
    }

    pub fn to_toml(&self) -> String {
        toml::to_string(self).unwrap_or_else(|e| unreachable!("a recipe is plain data: {e}"))
    }

    /// The recipe with one value changed: `l2=500` or `model.l2=500` in the model, `data.filters.k_core=5`
    /// elsewhere. The value is TOML, or else text.
    pub fn set(&self, change: &str) -> Result<Recipe, EngineError> {
        let fail = |reason: String| EngineError::Recipe { name: self.name.clone(), reason };
        let (key, value) = change
            .split_once('=')
            .map(|(key, value)| (key.trim(), value.trim()))
            .filter(|(key, _)| !key.is_empty())
            .ok_or_else(|| fail(format!("expected --set key=value, received {change:?}")))?;
        let mut path: Vec<&str> = key.split('.').collect();
        if path.len() == 1 && !matches!(path[0], "name" | "about" | "paper") {
            path.insert(0, "model");
        }
        let mut recipe = toml::Table::try_from(self).map_err(|e| fail(e.to_string()))?;
        put(&mut recipe, &path, parse_value(value))
            .map_err(|inner| fail(format!("--set {change}: {inner} is a value and holds no keys")))?;
        let changed: Result<Recipe, _> = recipe.try_into();
        changed.map_err(|e| fail(format!("--set {change}: {}", hint(e.message(), ""))))
    }

    /// The recipe with the settings tuned on this data set, where there are any.
    pub fn tuned(&self, dataset: &str) -> Result<Recipe, EngineError> {
        match self.tuned.get(dataset) {
            Some(settings) => self.with_settings(settings),
            None => Ok(self.clone()),
        }
    }

    /// The recipe with the settings that the claim was made with.
    pub(crate) fn claimed(&self, claim: &Claim) -> Result<Recipe, EngineError> {
        self.tuned(&claim.dataset)?.with_settings(&claim.settings)
    }

    /// With these settings of `[model]`; those under `encode`, `behaviour`, `tokenise` and `wish` are of the tables with these names.
    fn with_settings(&self, settings: &toml::Table) -> Result<Recipe, EngineError> {
        let fail = |reason: String| EngineError::Recipe { name: self.name.clone(), reason };
        let mut all = toml::Table::try_from(self).map_err(|e| fail(e.to_string()))?;
        let (mut over, model): (toml::Table, toml::Table) =
            settings.clone().into_iter().partition(|(key, _)| PREPARING.contains(&key.as_str()));
        over.insert("model".to_owned(), toml::Value::Table(model));
        lay_over(&mut all, &over);
        all.try_into().map_err(|e: toml::de::Error| fail(hint(e.message(), "")))
    }
}

/// Tables of a recipe beside `[model]` that can be tuned.
const PREPARING: [&str; 4] = ["encode", "behaviour", "tokenise", "wish"];

/// Settings over others: tables key by key, except that a table of another kind replaces the one before.
fn lay_over(under: &mut toml::Table, over: &toml::Table) {
    for (key, value) in over {
        match (under.get_mut(key), value) {
            (Some(toml::Value::Table(old)), toml::Value::Table(new))
                if new.get("kind").is_none_or(|kind| old.get("kind") == Some(kind)) =>
            {
                lay_over(old, new);
            }
            _ => {
                under.insert(key.clone(), value.clone());
            }
        }
    }
}

fn parse_value(text: &str) -> toml::Value {
    let whole = toml::from_str::<toml::Table>(&format!("value = {text}"));
    whole
        .ok()
        .and_then(|mut table| table.remove("value"))
        .unwrap_or_else(|| toml::Value::String(text.to_owned()))
}

/// Sets the value at the path, making tables on the way; the error is the name that is no table.
fn put(table: &mut toml::Table, path: &[&str], value: toml::Value) -> Result<(), String> {
    let (&first, rest) = path.split_first().ok_or("")?;
    if rest.is_empty() {
        // Whole numbers are fine where a fraction is expected.
        let value = match (table.get(first), value) {
            (Some(toml::Value::Float(_)), toml::Value::Integer(n)) => toml::Value::Float(n as f64),
            (_, value) => value,
        };
        table.insert(first.to_owned(), value);
        return Ok(());
    }
    match table.entry(first).or_insert_with(|| toml::Value::Table(toml::Table::new())) {
        toml::Value::Table(inner) => put(inner, rest, value),
        _ => Err(first.to_owned()),
    }
}

/// Adds the nearest known key to serde's words about an unknown one.
fn hint(message: &str, text: &str) -> String {
    let message = message.trim_end();
    let unknown = ["unknown field `", "unknown variant `"].iter().find_map(|start| {
        let rest = &message[message.find(start)? + start.len()..];
        let (name, rest) = rest.split_once('`')?;
        Some((name, rest))
    });
    let Some((name, rest)) = unknown else { return message.to_owned() };
    let known: Vec<&str> = rest.split('`').skip(1).step_by(2).collect();
    match nearest(name, known.iter().copied()) {
        Some(best) => {
            let line = text.lines().position(|l| l.trim_start().starts_with(name)).map(|n| n + 1);
            let place = line.map_or_else(String::new, |n| format!(" (line {n})"));
            format!("{message}; did you mean `{best}`{place}?")
        }
        None => message.to_owned(),
    }
}

/// What a fit was made from, beside its recipe.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Origin {
    pub data: String,
    pub offset: u64,
    pub events: u64,
    /// Time of the newest event, where times mean something.
    pub newest: Option<Time>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const EASE: &str = "name = 'e'\nabout = 'x'\n[model]\nkind = 'ease'\nl2 = 100.0\n";

    #[test]
    fn every_builtin_recipe_reads_and_survives_writing() {
        let recipes = Recipe::all().unwrap();
        assert!(!recipes.is_empty());
        for (recipe, name) in recipes.iter().zip(Recipe::names()) {
            assert_eq!(recipe.name, name, "a recipe is named like its file");
            assert_eq!(Recipe::parse(name, &recipe.to_toml()).unwrap(), *recipe);
        }
        for kind in ModelConfig::KINDS {
            assert!(recipes.iter().any(|r| r.model.kind() == *kind), "no recipe fits {kind}");
        }
    }

    #[test]
    fn unknown_keys_get_a_hint() {
        let error = Recipe::parse("mine", &EASE.replace("l2", "l3")).unwrap_err().to_string();
        assert!(error.contains("did you mean `l2`"), "{error}");
        let error = Recipe::parse("mine", &EASE.replace("ease", "eas")).unwrap_err().to_string();
        assert!(error.contains("did you mean `ease`"), "{error}");
        let error = Recipe::parse("mine", &format!("colour = 1\n{EASE}")).unwrap_err().to_string();
        assert!(error.contains("colour"), "{error}");
        let error = Recipe::builtin("eaze").unwrap_err().to_string();
        assert!(error.contains("\"ease\""), "{error}");
    }

    #[test]
    fn set_changes_one_value() {
        let recipe = Recipe::parse("e", EASE).unwrap();
        let changed = recipe.set("l2=500").unwrap();
        assert_eq!(changed, recipe.set("model.l2 = 500.0").unwrap());
        assert_eq!(changed, Recipe::parse("e", &EASE.replace("100.0", "500.0")).unwrap());
        assert_eq!(recipe.set("data.filters.k_core=5").unwrap().data.filters.k_core, Some(5));
        assert_eq!(recipe.set("name=other").unwrap().name, "other");
        for (bad, part) in [
            ("l2", "key=value"),
            ("=5", "key=value"),
            ("l2=much", "--set l2=much"),
            ("l3=5", "did you mean `l2`"),
            ("name.x=5", "holds no keys"),
        ] {
            let error = recipe.set(bad).unwrap_err().to_string();
            assert!(error.contains(part), "{bad}: {error}");
        }
    }

    #[test]
    fn what_a_recipe_leaves_out_of_its_training_is_the_default() {
        let head = "name = 's'\nabout = 'x'\n[model]\nkind = 'sasrec'\n";
        let (plain, partial) =
            (head.to_owned(), format!("{head}[model.training]\nepochs = 3\nschedule = {{ warm_up = 7 }}\n"));
        let training = |text: &str| {
            let model = toml::Table::try_from(Recipe::parse("s", text).unwrap().model).unwrap();
            model["training"].as_table().unwrap().clone()
        };
        let (mut expected, found) = (training(&plain), training(&partial));
        assert_eq!(expected["schedule"]["then"].as_str(), Some("cosine"));
        expected.insert("epochs".into(), 3.into());
        expected["schedule"].as_table_mut().unwrap().insert("warm_up".into(), 7.into());
        assert_eq!(found, expected);
    }

    #[test]
    fn tuned_settings_are_checked_and_used() {
        let text = format!("{EASE}[tuned.gowalla]\nl2 = 7.0\n[tuned.d.encode.text]\nkind = 'text'\n");
        let recipe = Recipe::parse("e", &text).unwrap();
        assert_eq!(recipe.tuned("gowalla").unwrap().model, recipe.set("l2=7").unwrap().model);
        assert_eq!(recipe.tuned("other").unwrap(), recipe);
        let described = recipe.tuned("d").unwrap();
        assert_eq!((described.encode.len(), &described.model), (1, &recipe.model));
        assert!(Recipe::parse("e", &text.replace("l2 = 7", "l4 = 7")).is_err());
        // Of a table inside, only what is named changes; one of another kind is another one.
        let nested = "name = 's'\nabout = 'x'\n[model]\nkind = 'sasrec'\n[model.training]\nlearning_rate = 0.5\n\
            [tuned.d]\ntraining = { epochs = 3 }\nsequence = { loss = { kind = 'bce', negatives = 2 } }\n";
        let model =
            toml::Table::try_from(Recipe::parse("s", nested).unwrap().tuned("d").unwrap().model).unwrap();
        assert_eq!(model["training"]["epochs"].as_integer(), Some(3));
        assert_eq!(model["training"]["learning_rate"].as_float(), Some(0.5));
        assert_eq!(model["sequence"]["loss"]["kind"].as_str(), Some("bce"));
    }
}

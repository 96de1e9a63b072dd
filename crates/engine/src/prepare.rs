//! What a recipe does with the catalogue before its model is fitted: items become vectors, vectors become codes.
//!
//! Fitted encoders and tokenisers stay with the artefact, so that an item that comes later has its vectors and codes at once, and
//! without anything being fitted again.

use crate::error::EngineError;
use crate::recipe::Recipe;
use crate::wish;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sommelier_core::{CODES, FitContext, Item};
use sommelier_data::Snapshot;
use sommelier_data::snapshot::{ItemCodes, ItemVectors};
use sommelier_encode::tokenise::{
    Codes, Collisions, Quality, Taken, Tokeniser, TokeniserConfig, make_unique,
};
use sommelier_encode::{Encoder, EncoderConfig, Rows, Vectors};
use sommelier_models::{Array, LoadError, Weights};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Name of the vectors that a recipe's `[behaviour]` model learns of items.
pub const BEHAVIOUR: &str = "behaviour";

/// How items get their codes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tokenise {
    /// Name of the vectors that become codes: of an encoder, `behaviour`, or a property that items have.
    pub of: String,
    /// What is done about items with the same codes.
    #[serde(default)]
    pub collisions: Collisions,
    /// Name of vectors that codes are to agree with too, where the tokeniser can learn that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub align: Option<String>,
    #[serde(default)]
    pub by: TokeniserConfig,
}

/// What was fitted on the catalogue before the model.
#[derive(Default)]
pub struct Prepared {
    /// In the order in which they need each other.
    encoders: Vec<(String, Box<dyn Encoder>)>,
    tokeniser: Option<Tokens>,
    /// Of what people say.
    wish: Option<Box<dyn Encoder>>,
    /// How good the codes are, before any model learned from them.
    pub quality: Option<Quality>,
}

struct Tokens {
    how: Tokenise,
    tokeniser: Box<dyn Tokeniser>,
    /// Of the catalogue it was fitted on.
    codes: Codes,
    /// The item of each row of these.
    items: Vec<u32>,
    late: Mutex<Late>,
}

/// Codes of items that came after the fit.
struct Late {
    taken: Taken,
    of: HashMap<String, Vec<u32>>,
}

const ENCODE: &str = "encode";
const WISH: &str = "wish";
const TOKENISE: &str = "tokenise";
const OF_ITEMS: &str = "of_items";
const ITEMS: &str = "items";
const SIZES: &str = "sizes";

impl Recipe {
    /// Whether it makes vectors or codes of items before its model is fitted.
    fn prepares(&self) -> bool {
        !self.encode.is_empty() || self.behaviour.is_some() || self.tokenise.is_some() || self.wish.is_some()
    }
}

/// Fits what the recipe says on a snapshot's catalogue, and hands back the snapshot with vectors and codes. On the current rayon
/// pool.
pub(crate) fn prepare(
    recipe: &Recipe,
    snapshot: &Snapshot,
    ctx: &mut FitContext,
) -> Result<(Snapshot, Prepared), EngineError> {
    let mut snapshot = snapshot.clone();
    if !recipe.prepares() {
        return Ok((snapshot, Prepared::default()));
    }
    let fail = |reason: String| EngineError::Recipe { name: recipe.name.clone(), reason };
    let named_by = |error: EngineError| match error {
        EngineError::Invalid(reason) => fail(reason),
        other => other,
    };
    let mut named: BTreeMap<String, Vectors> = BTreeMap::new();
    let mut prepared = Prepared::default();
    if let Some(model) = &recipe.behaviour {
        if recipe.encode.contains_key(BEHAVIOUR) {
            return Err(fail(format!(
                "[encode.{BEHAVIOUR}] and [behaviour] have one name; rename the first"
            )));
        }
        let (validate, checkpoints) = (ctx.validate.take(), ctx.checkpoints.take());
        let fitted = model.fit(&snapshot, ctx);
        (ctx.validate, ctx.checkpoints) = (validate, checkpoints);
        named.insert(BEHAVIOUR.to_owned(), factors(model.kind(), &fitted?.weights()).map_err(fail)?);
    }
    for name in in_order(recipe).map_err(fail)? {
        let config = &recipe.encode[&name];
        for input in inputs(config) {
            if !named.contains_key(input) {
                let given = snapshot.item_vectors(input).map_err(|e| fail(format!("[encode.{name}] {e}")))?;
                named.insert(input.clone(), of_snapshot(&given));
            }
        }
        let (encoder, vectors) = config.fit(&snapshot.item_info, &named, ctx).map_err(EngineError::from)?;
        for line in encoder.report() {
            ctx.progress.say(&format!("{name}: {line}"));
        }
        if let Some(first) = encoder.problems().first() {
            let (count, reason) = (encoder.problems().len(), &first.reason);
            ctx.progress.say(&format!("{name}: {count} items could not be read; {:?}: {reason}", first.item));
        }
        named.insert(name.clone(), vectors);
        prepared.encoders.push((name, encoder));
    }
    snapshot.vectors =
        Arc::new(named.iter().map(|(name, v)| (name.clone(), Arc::new(to_snapshot(v)))).collect());
    if let Some(how) = &recipe.tokenise {
        let (tokens, codes, quality) = tokenise(how, &snapshot, &named, ctx).map_err(named_by)?;
        snapshot.codes = Some(Arc::new(codes));
        (prepared.tokeniser, prepared.quality) = (Some(tokens), Some(quality));
    }
    if let Some(how) = &recipe.wish {
        let (encoder, wishes) = wish::learn(how, &snapshot.item_info, ctx).map_err(named_by)?;
        snapshot.wishes = Some(Arc::new(wishes));
        prepared.wish = Some(encoder);
    }
    Ok((snapshot, prepared))
}

fn tokenise(
    how: &Tokenise,
    snapshot: &Snapshot,
    named: &BTreeMap<String, Vectors>,
    ctx: &FitContext,
) -> Result<(Tokens, ItemCodes, Quality), EngineError> {
    let find = |name: &str| match named.get(name) {
        Some(vectors) => Ok(vectors.clone()),
        None => snapshot.item_vectors(name).map(|given| of_snapshot(&given)),
    };
    let vectors = find(&how.of).map_err(|e| EngineError::Invalid(format!("tokenise.of: {e}")))?;
    let who: Vec<usize> = (0..vectors.len()).filter(|&i| vectors.known[i]).collect();
    if who.is_empty() {
        let reason = format!("tokenise.of: no item has a vector {:?}, so none can have codes", how.of);
        return Err(EngineError::Invalid(reason));
    }
    let pick = |of: &Vectors| -> Vec<f32> {
        who.iter().flat_map(|&i| &of.rows[i * of.dim..][..of.dim]).copied().collect()
    };
    let x = pick(&vectors);
    let x = Rows::new(&x, vectors.dim);
    let align = how.align.as_deref().map(find).transpose();
    let align = align.map_err(|e| EngineError::Invalid(format!("tokenise.align: {e}")))?;
    let beside = align.as_ref().map(|of| (pick(of), of.dim));
    let tokeniser = how.by.fit(x, beside.as_ref().map(|(rows, dim)| Rows::new(rows, *dim)), ctx)?;
    let (codes, taken) = make_unique(&*tokeniser, x, how.collisions)?;
    ctx.progress.start("how good the codes are", None);
    let quality = Quality::of(&codes, x, Some(&*tokeniser), ctx.seed);
    ctx.progress.finish();
    let levels = codes.levels();
    let mut of_items =
        ItemCodes { sizes: codes.sizes.clone(), rows: vec![0; vectors.len() * levels], known: vectors.known };
    for (&i, row) in who.iter().zip(codes.iter()) {
        of_items.rows[i * levels..][..levels].copy_from_slice(row);
    }
    let late = Mutex::new(Late { taken, of: HashMap::new() });
    let items = who.into_iter().map(|i| i as u32).collect();
    Ok((Tokens { how: how.clone(), tokeniser, codes, items, late }, of_items, quality))
}

/// Names of encoders so that each comes after those it needs.
fn in_order(recipe: &Recipe) -> Result<Vec<String>, String> {
    let mut left: Vec<&String> = recipe.encode.keys().collect();
    let mut order: Vec<String> = Vec::new();
    while !left.is_empty() {
        let waits = |name: &String| {
            let config = &recipe.encode[name];
            let of_all = matches!(config, EncoderConfig::Fuse(fuse) if fuse.inputs.is_empty());
            inputs(config).any(|input| left.contains(&input)) || of_all && left.len() > 1
        };
        let (waiting, ready): (Vec<&String>, Vec<&String>) = left.iter().partition(|name| waits(name));
        if ready.is_empty() {
            let names: Vec<&str> = waiting.iter().map(|name| name.as_str()).collect();
            return Err(format!(
                "[encode]: {} wait for each other; name the inputs of each",
                names.join(", ")
            ));
        }
        order.extend(ready.into_iter().cloned());
        left = waiting;
    }
    Ok(order)
}

/// The vectors that an encoder is made of.
fn inputs(config: &EncoderConfig) -> impl Iterator<Item = &String> {
    let fuse = match config {
        EncoderConfig::Fuse(fuse) => Some(fuse),
        _ => None,
    };
    fuse.into_iter().flat_map(|fuse| fuse.inputs.iter().chain(Some(&fuse.target).filter(|t| !t.is_empty())))
}

/// What a model learned of items.
fn factors(kind: &str, weights: &Weights) -> Result<Vectors, String> {
    let (items, dim, rows) = weights.matrix("items", None).map_err(|_| {
        format!("[behaviour]: {kind} learns no vectors of items; use ials, bpr, pure_svd, item2vec or a sequence model")
    })?;
    let row = |i: usize| {
        let row = &rows[i * dim..][..dim];
        row.iter().any(|&v| v != 0.0).then(|| row.to_vec())
    };
    Ok(Vectors::from_rows(dim, (0..items).map(row)))
}

fn to_snapshot(vectors: &Vectors) -> ItemVectors {
    ItemVectors { dim: vectors.dim, rows: vectors.rows.clone(), known: vectors.present() }
}

/// An item whose numbers are all 0 has none.
fn of_snapshot(vectors: &ItemVectors) -> Vectors {
    let known = vectors.rows.chunks_exact(vectors.dim).map(|row| row.iter().any(|&v| v != 0.0)).collect();
    Vectors { dim: vectors.dim, rows: vectors.rows.clone(), known }
}

impl Prepared {
    /// Whether there is anything that later items need.
    pub fn is_empty(&self) -> bool {
        self.encoders.is_empty() && self.tokeniser.is_none() && self.wish.is_none()
    }

    /// A wish, and what a person always prefers, as the vector that the model learned to hear; `None` where the recipe has no
    /// `[wish]` or no word is known.
    pub fn hear(&self, wish: &str, preferences: &str) -> Option<Arc<[f32]>> {
        wish::hear_both(self.wish.as_deref()?, wish, preferences).map(Arc::from)
    }

    /// How many codes there are at each level; `None` where the recipe makes none.
    pub(crate) fn sizes(&self) -> Option<&[u32]> {
        self.tokeniser.as_ref().map(|tokens| &tokens.codes.sizes[..])
    }

    /// Codes of the items it was fitted on, each with the item's index there.
    pub(crate) fn codes(&self) -> impl Iterator<Item = (u32, &[u32])> {
        self.tokeniser.iter().flat_map(|tokens| tokens.items.iter().copied().zip(&tokens.codes))
    }

    /// Codes of an item that came after the fit and was described.
    pub(crate) fn later_codes(&self, item: &str) -> Option<Vec<u32>> {
        self.tokeniser.as_ref()?.late.lock().of.get(item).cloned()
    }

    /// The item with its vectors and codes among the properties: what models are told of items that came after the fit. An
    /// item that comes again keeps its codes while its vector does, and gives them back when they change.
    pub fn describe(&self, item: &Item) -> Item {
        let mut described = item.clone();
        for (name, encoder) in &self.encoders {
            let vector = encoder.encode(item, &|name| described.vector(name));
            match vector {
                Some(vector) => described.properties.insert(name.clone(), Value::from(vector)),
                None => described.properties.remove(name),
            };
        }
        described.properties.remove(CODES);
        if let Some(tokens) = &self.tokeniser
            && let Some(codes) = tokens.codes_of(&item.id, described.vector(&tokens.how.of))
        {
            described.properties.insert(CODES.to_owned(), Value::from(codes));
        }
        described
    }

    /// Has encoders that are slow make what [`Prepared::describe`] will ask them for. May take seconds.
    pub(crate) fn ahead(&self, items: &[&Item]) {
        for (_, encoder) in &self.encoders {
            encoder.ahead(items);
        }
    }

    /// `None` where there is nothing to store.
    pub fn weights(&self) -> Option<Weights> {
        if self.is_empty() {
            return None;
        }
        let mut all = Weights::default();
        for (name, encoder) in &self.encoders {
            put(&mut all, &format!("{ENCODE}.{name}"), encoder.weights());
        }
        if let Some(tokens) = &self.tokeniser {
            let mut weights = Weights::default();
            put(&mut weights, "by", tokens.tokeniser.weights());
            let (levels, rows) = (tokens.codes.levels(), tokens.codes.rows.clone());
            weights.set_u32(SIZES, &[levels], tokens.codes.sizes.clone());
            weights.set_u32(OF_ITEMS, &[tokens.codes.len(), levels], rows);
            weights.set_u32(ITEMS, &[tokens.items.len()], tokens.items.clone());
            put(&mut all, TOKENISE, weights);
        }
        if let Some(encoder) = &self.wish {
            put(&mut all, WISH, encoder.weights());
        }
        Some(all)
    }

    /// What had these weights, which this recipe fitted.
    pub fn load(recipe: &Recipe, weights: &Weights) -> Result<Prepared, LoadError> {
        let mut prepared = Prepared::default();
        for name in in_order(recipe).map_err(LoadError::Other)? {
            let own = take(weights, &format!("{ENCODE}.{name}"));
            let encoder = recipe.encode[&name].load(&own)?;
            prepared.encoders.push((name, encoder));
        }
        if let Some(how) = &recipe.wish {
            prepared.wish = Some(how.by.load(&take(weights, WISH))?);
        }
        if let Some(how) = &recipe.tokenise {
            let own = take(weights, TOKENISE);
            let tokeniser = how.by.load(&take(&own, "by"))?;
            let (sizes, rows) = (own.u32(SIZES)?.1.to_vec(), own.u32(OF_ITEMS)?.1.to_vec());
            let items = own.u32(ITEMS)?.1.to_vec();
            let fits = !sizes.is_empty()
                && rows.len() == items.len() * sizes.len()
                && rows.chunks(sizes.len()).all(|row| {
                    row.len() == sizes.len() && row.iter().zip(&sizes).all(|(code, size)| code < size)
                });
            if !fits {
                let what = format!(
                    "{TOKENISE}.{OF_ITEMS} does not fit its sizes {sizes:?} and {} items",
                    items.len()
                );
                return Err(LoadError::Other(format!("{what}; the artefact is damaged, train it again")));
            }
            let codes = Codes { sizes, rows };
            let taken = Taken::of(&codes, how.collisions);
            let late = Mutex::new(Late { taken, of: HashMap::new() });
            prepared.tokeniser = Some(Tokens { how: how.clone(), tokeniser, codes, items, late });
        }
        Ok(prepared)
    }
}

impl Tokens {
    fn codes_of(&self, item: &str, vector: Option<Vec<f32>>) -> Option<Vec<u32>> {
        let mut late = self.late.lock();
        let old = late.of.remove(item);
        if let Some(old) = &old {
            late.taken.free(old);
        }
        let vector = vector.filter(|v| v.len() == self.tokeniser.dim())?;
        let codes = late.taken.take(&*self.tokeniser, &vector);
        // No free codes, or numbers that are none: such an item cannot be written, and other sources know it.
        let codes = codes.ok()?;
        late.of.insert(item.to_owned(), codes.clone());
        Some(codes)
    }
}

fn put(all: &mut Weights, prefix: &str, weights: Weights) {
    all.0.extend(weights.0.into_iter().map(|(name, array)| (format!("{prefix}.{name}"), array)));
}

fn take(all: &Weights, prefix: &str) -> Weights {
    let own = |(name, array): (&String, &Array)| {
        let rest = name.strip_prefix(prefix)?.strip_prefix('.')?;
        Some((rest.to_owned(), array.clone()))
    };
    Weights(all.0.iter().filter_map(own).collect())
}

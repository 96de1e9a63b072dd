//! Texts or pictures of items as vectors of a network that others trained: sentence encoders and encoders of pictures and texts.
//!
//! The network is a folder as the Hugging Face hub has it: `config.json`, `model.safetensors`, `tokenizer.json` (or `vocab.txt`),
//! and, where they are there, `modules.json` with what it names (how token vectors become one, whether that has unit length) and
//! `preprocessor_config.json`. `model_type` may be `bert` (MiniLM, E5, BGE, GTE), `roberta` (BLaIR), `xlm-roberta` (multilingual E5,
//! BGE-M3), `clip` or `siglip`. `hub:ORGANISATION/NAME` is fetched from the hub, once (see `hub.rs`); nothing else is fetched.
//!
//! Shapes: tokens (L) → their vectors (L × dim) → one of them, their mean or their maxima (dim).
//! Cost: that of the network, once for each different text or picture: the vectors are kept on disk (see `cache.rs`), so a run
//! goes on where an earlier one stopped. Texts of one length go through it together, so nothing is padded.
//! Sources: Devlin et al., arXiv:1810.04805; Reimers, Gurevych, arXiv:1908.10084; Wang et al., arXiv:2212.03533 (E5); Hou et al.,
//! arXiv:2403.03952 (BLaIR); Radford et al., arXiv:2103.00020 (CLIP); Zhai et al., arXiv:2303.15343 (SigLIP).
//!
//! An artefact holds the digest of the network, not its weights. Where the folder is not there when an artefact is served, or
//! holds another network, items that come later have no vector, and the log says so.

#[cfg(not(feature = "pretrained"))]
mod absent;
#[cfg(feature = "pretrained")]
mod folder;
// Its tests need no network of their own, and run in every build.
#[cfg(any(feature = "pretrained", test))]
#[cfg_attr(not(feature = "pretrained"), allow(dead_code))]
mod hub;
#[cfg(feature = "pretrained")]
mod network;

#[cfg(not(feature = "pretrained"))]
use absent::Model;
#[cfg(feature = "pretrained")]
use network::Model;

use crate::cache::{Cache, Key};
use crate::encoder::{Encoder, Problem, Vectors, plan, put_texts, take_texts};
use crate::images::{decoded, picture_bytes};
use crate::linear::usable;
use crate::reading::{no_text, whole_text};
use crate::{EncodeError, require};
use parking_lot::Mutex;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sommelier_core::{Cancel, FitContext, Item, NoProgress, Progress};
use sommelier_nn::{LoadError, Weights};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::OnceLock;

/// How the vectors of a text's tokens become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// As the folder says, or `mean` where it says nothing.
    #[default]
    Given,
    Mean,
    /// The first token's.
    Cls,
    Max,
}

/// Defaults are those of the network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PretrainedConfig {
    /// The folder of the network, or `hub:ORGANISATION/NAME`.
    pub model: PathBuf,
    /// Which properties are read, in that order; empty reads every text and list of texts, addresses left out.
    pub properties: Vec<String>,
    /// What is put before the text of an item: `passage: ` for E5.
    pub prefix: String,
    /// What is put before free text: `query: ` for E5.
    pub query_prefix: String,
    pub pooling: Pooling,
    /// Longer texts are cut; 0: as long as the network says.
    pub max_tokens: usize,
    /// The property with an item's picture, a path or a `data:` URI: items are then what their pictures show, not what their
    /// texts say. For `clip` and `siglip`; free text is in the same space.
    pub image: String,
    /// Where paths of pictures begin; none leads out of it.
    pub folder: PathBuf,
    /// Whether vectors are brought to unit length; those of some networks have it anyway.
    pub unit: bool,
    /// Folder in which vectors are kept; empty: `sommelier/vectors` among the user's caches.
    pub cache: PathBuf,
}

impl Default for PretrainedConfig {
    fn default() -> PretrainedConfig {
        PretrainedConfig {
            model: PathBuf::new(),
            properties: Vec::new(),
            prefix: String::new(),
            query_prefix: String::new(),
            pooling: Pooling::Given,
            max_tokens: 0,
            image: String::new(),
            folder: PathBuf::new(),
            unit: true,
            cache: PathBuf::new(),
        }
    }
}

/// A network, and how items are put to it.
pub struct PretrainedEncoder {
    config: PretrainedConfig,
    dim: usize,
    /// Digest of the network.
    identity: String,
    /// Opened when it is first asked; `None` where that failed.
    model: OnceLock<Option<Model>>,
    /// Opened when it is first asked. Never locked while vectors are made: who waits for a thread may be given other work.
    cache: OnceLock<Mutex<Cache>>,
    problems: Vec<Problem>,
    /// The same for every fit, whatever was kept.
    report: Vec<String>,
    made: String,
}

/// Items that are read at once.
const CHUNK: usize = 2048;
/// Texts of one length that go through the network together.
const TOGETHER: usize = 32;

impl PretrainedConfig {
    pub fn fit(
        &self,
        items: &[Option<Item>],
        _: &BTreeMap<String, Vectors>,
        ctx: &FitContext,
    ) -> Result<(PretrainedEncoder, Vectors), EncodeError> {
        let max = self.max_tokens;
        require(
            "max_tokens",
            max as f64,
            max == 0 || (8..=1 << 20).contains(&max),
            "0, or from 8 to 1048576",
        )?;
        Model::fetch(self, ctx)?;
        let model = self.open().map_err(EncodeError::Input)?;
        model.reads(!self.image.is_empty()).map_err(EncodeError::Input)?;
        let (n, dim) = (items.len(), model.dim());
        plan(ctx, 8 * (n * dim) as u64, &format!("{n} vectors of {dim} numbers"), "fit on fewer items")?;
        let cache = Mutex::new(self.kept(model.identity()));
        let mut work = Work { config: self, model: &model, cache: &cache, made: 0, refused: BTreeMap::new() };
        let mut keys: Vec<Option<Key>> = Vec::with_capacity(n);
        let mut problems = Vec::new();
        ctx.progress.start("vectors", Some(n as u64));
        for chunk in items.chunks(CHUNK) {
            let inputs: Vec<_> = chunk.par_iter().map(|item| self.input(item.as_ref()?)).collect();
            for (item, input) in chunk.iter().zip(&inputs) {
                if let (Some(item), Some(Err(reason))) = (item, input) {
                    problems.push(Problem { item: item.id.clone(), reason: reason.clone() });
                }
            }
            let inputs: Vec<Option<Input>> = inputs.into_iter().map(|input| input?.ok()).collect();
            let from = keys.len();
            keys.extend(work.all(&inputs, &ctx.cancel, &Part { progress: &*ctx.progress, from })?);
        }
        ctx.progress.finish();
        let Work { made, refused, .. } = work;
        for (item, key) in items.iter().zip(&keys) {
            if let (Some(item), Some(reason)) = (item, key.and_then(|key| refused.get(&key))) {
                problems.push(Problem { item: item.id.clone(), reason: reason.clone() });
            }
        }
        let mut cache = cache.into_inner();
        let vectors = cache.rows(dim, &keys, |row| usable(row, self.unit));
        if vectors.present() == 0 {
            return Err(self.nothing(n, &problems));
        }
        let mut told = format!("{made} vectors were made, the others were kept from before");
        if let Some(trouble) = cache.trouble() {
            told = format!("{made} vectors were made, and are not kept for the next run: {trouble}");
        }
        let encoder = PretrainedEncoder {
            report: vec![format!(
                "{} of {n} items have a vector of {dim} numbers, made by {}",
                vectors.present(),
                model.what()
            )],
            made: told,
            config: self.clone(),
            dim,
            identity: model.identity().to_owned(),
            model: OnceLock::from(Some(model)),
            cache: OnceLock::from(Mutex::new(cache)),
            problems,
        };
        Ok((encoder, vectors))
    }

    pub fn load(&self, weights: &Weights) -> Result<PretrainedEncoder, LoadError> {
        let damaged = |what: &str| LoadError::Other(format!("{what} is damaged; fit the encoder again"));
        let dim = weights.u32("dim")?.1.first().map_or(0, |&dim| dim as usize);
        if dim == 0 {
            return Err(damaged("dim"));
        }
        Ok(PretrainedEncoder {
            config: self.clone(),
            dim,
            identity: take_texts(weights, "identity")?.pop().ok_or_else(|| damaged("identity"))?,
            model: OnceLock::new(),
            cache: OnceLock::new(),
            problems: Vec::new(),
            report: take_texts(weights, "report")?,
            made: String::new(),
        })
    }

    fn open(&self) -> Result<Model, String> {
        if self.model.as_os_str().is_empty() {
            return Err(
                "model is not set; name the folder of a network, with config.json and model.safetensors, or hub:ORGANISATION/NAME"
                    .into(),
            );
        }
        Model::open(self)
    }

    fn kept(&self, identity: &str) -> Cache {
        let name = self.model.file_name().unwrap_or_default().to_string_lossy();
        Cache::open(&self.cache, &name, identity)
    }

    /// What of an item is put to the network; `None` where it has nothing of the kind.
    fn input(&self, item: &Item) -> Option<Result<Input, String>> {
        if self.image.is_empty() {
            return whole_text(item, &self.properties)
                .map(|text| Ok(Input::Text(format!("{}{text}", self.prefix))));
        }
        picture_bytes(item, &self.image, &self.folder).map(|bytes| bytes.map(Input::Picture))
    }

    fn nothing(&self, items: usize, problems: &[Problem]) -> EncodeError {
        if self.image.is_empty() && problems.is_empty() {
            return no_text(items, &self.properties);
        }
        let first =
            problems.first().map_or_else(String::new, |p| format!(" (first: {}: {})", p.item, p.reason));
        let what = if self.image.is_empty() { "a text" } else { "a picture" };
        EncodeError::NoData(format!(
            "none of {items} items has {what} that has a vector, {} could not be read{first}; check properties, image and folder",
            problems.len()
        ))
    }
}

enum Input {
    Text(String),
    Picture(Vec<u8>),
}

impl Input {
    fn key(&self) -> Key {
        match self {
            Input::Text(text) => Key::of(text.as_bytes()),
            Input::Picture(bytes) => Key::of(bytes),
        }
    }
}

/// Where a part of a job stands in the whole.
struct Part<'a> {
    progress: &'a dyn Progress,
    from: usize,
}

/// What makes vectors of many things.
struct Work<'a> {
    config: &'a PretrainedConfig,
    model: &'a Model,
    cache: &'a Mutex<Cache>,
    made: usize,
    /// Why the others have none.
    refused: BTreeMap<Key, String>,
}

/// Made together: which inputs, and their tokens.
type Batch = Vec<(usize, Vec<u32>)>;

impl Work<'_> {
    /// Makes what is missing, a few at a time, so that a stop is heard and little is lost. The keys of all.
    fn all(
        &mut self,
        inputs: &[Option<Input>],
        cancel: &Cancel,
        part: &Part,
    ) -> Result<Vec<Option<Key>>, EncodeError> {
        let keys: Vec<Option<Key>> = inputs.par_iter().map(|input| Some(input.as_ref()?.key())).collect();
        let missing = self.cache.lock().missing(&keys);
        let batches = self.batches(inputs, &missing).map_err(|why| self.broken(&why))?;
        let mut done = inputs.len() - missing.len();
        let at_once = rayon::current_num_threads().max(1) * 2;
        for wave in batches.chunks(at_once) {
            cancel.check()?;
            let made: Vec<_> = wave.par_iter().map(|batch| self.vectors(inputs, batch)).collect();
            for (batch, vectors) in wave.iter().zip(made) {
                for ((i, _), vector) in batch.iter().zip(vectors.map_err(|why| self.broken(&why))?) {
                    let Some(key) = keys[*i] else { continue };
                    match vector {
                        Ok(vector) => {
                            self.cache.lock().put([(key, vector.as_slice())]);
                            self.made += 1;
                        }
                        Err(why) => {
                            self.refused.insert(key, why);
                        }
                    }
                }
                done += batch.len();
            }
            part.progress.at((part.from + done) as u64);
        }
        Ok(keys)
    }

    /// Texts of one length together, the shortest first; each picture alone.
    fn batches(&mut self, inputs: &[Option<Input>], missing: &[usize]) -> Result<Vec<Batch>, String> {
        let tokens = |&i: &usize| match &inputs[i] {
            Some(Input::Text(text)) => Ok((i, self.model.tokens(text)?)),
            _ => Ok((i, Some(Vec::new()))),
        };
        let read: Vec<(usize, Option<Vec<u32>>)> =
            missing.par_iter().map(tokens).collect::<Result<_, String>>()?;
        let mut texts: Vec<(usize, Vec<u32>)> = Vec::with_capacity(read.len());
        for (i, tokens) in read {
            match (tokens, &inputs[i]) {
                (Some(tokens), _) => texts.push((i, tokens)),
                (None, Some(input)) => {
                    self.refused.insert(input.key(), "its text has no letter that the network knows".into());
                }
                (None, None) => {}
            }
        }
        texts.sort_by_key(|(_, tokens)| tokens.len());
        let mut batches: Vec<Batch> = Vec::new();
        for (i, tokens) in texts {
            match batches.last_mut() {
                Some(batch)
                    if batch.len() < TOGETHER && !tokens.is_empty() && batch[0].1.len() == tokens.len() =>
                {
                    batch.push((i, tokens));
                }
                _ => batches.push(vec![(i, tokens)]),
            }
        }
        Ok(batches)
    }

    /// A vector for each of a batch, or why it has none; an error where the network is to blame.
    fn vectors(
        &self,
        inputs: &[Option<Input>],
        batch: &Batch,
    ) -> Result<Vec<Result<Vec<f32>, String>>, String> {
        let first = batch.first().and_then(|(i, _)| inputs[*i].as_ref());
        let vectors = if let Some(Input::Picture(bytes)) = first {
            match decoded(bytes) {
                Ok(picture) => vec![Ok(self.model.of_picture(&picture)?)],
                Err(why) => vec![Err(why)],
            }
        } else {
            let tokens: Vec<&[u32]> = batch.iter().map(|(_, tokens)| tokens.as_slice()).collect();
            self.model.of_tokens(&tokens)?.into_iter().map(Ok).collect()
        };
        if vectors.iter().flatten().flatten().any(|v: &f32| !v.is_finite()) {
            return Err("it gives NaN or infinity; its weights are damaged, fetch them again".into());
        }
        Ok(vectors)
    }

    fn broken(&self, why: &str) -> EncodeError {
        EncodeError::Input(format!("{}: {why}", self.config.model.display()))
    }
}

impl PretrainedEncoder {
    /// The network; `None`, and a warning, where it is not there or another one than was fitted with.
    fn model(&self) -> Option<&Model> {
        let open = || {
            let other =
                "it is another network than the artefact was made with; put the old one back, or train again";
            let opened = self.config.open().and_then(|model| {
                if model.identity() == self.identity { Ok(model) } else { Err(other.to_owned()) }
            });
            opened
                .map_err(|why| {
                    let folder = self.config.model.display();
                    tracing::warn!(%folder, why, "what comes after the fit has no vectors");
                })
                .ok()
        };
        self.model.get_or_init(open).as_ref()
    }

    /// Makes the vectors that are not kept, and hands out those of all.
    fn vectors(&self, inputs: &[Option<Input>]) -> Vec<Option<Vec<f32>>> {
        let cache = self.cache.get_or_init(|| Mutex::new(self.config.kept(&self.identity)));
        let keys: Vec<Option<Key>> = inputs.iter().map(|input| Some(input.as_ref()?.key())).collect();
        let missing = cache.lock().missing(&keys);
        if !missing.is_empty()
            && let Some(model) = self.model()
        {
            let mut work = Work { config: &self.config, model, cache, made: 0, refused: BTreeMap::new() };
            let part = Part { progress: &NoProgress, from: 0 };
            if let Err(error) = work.all(inputs, &Cancel::default(), &part) {
                tracing::warn!(%error, "what comes after the fit has no vectors");
            }
        }
        let mut cache = cache.lock();
        keys.into_iter().map(|key| self.usable(cache.get(key?)?)).collect()
    }

    fn usable(&self, mut vector: Vec<f32>) -> Option<Vec<f32>> {
        (vector.len() == self.dim && usable(&mut vector, self.config.unit)).then_some(vector)
    }

    fn input(&self, item: &Item) -> Option<Input> {
        self.config.input(item)?.ok()
    }
}

impl Encoder for PretrainedEncoder {
    fn dim(&self) -> usize {
        self.dim
    }

    fn encode(&self, item: &Item, _: &dyn Fn(&str) -> Option<Vec<f32>>) -> Option<Vec<f32>> {
        self.vectors(&[Some(self.input(item)?)]).pop()?
    }

    fn ahead(&self, items: &[&Item]) {
        for chunk in items.chunks(CHUNK) {
            self.vectors(&chunk.iter().map(|item| self.input(item)).collect::<Vec<_>>());
        }
    }

    /// What a person writes is not kept.
    fn encode_text(&self, text: &str) -> Option<Vec<f32>> {
        if text.trim().is_empty() {
            return None;
        }
        let model = self.model()?;
        let tokens = model.tokens(&format!("{}{}", self.config.query_prefix, text.trim())).ok()??;
        self.usable(model.of_tokens(&[&tokens]).ok()?.pop()?)
    }

    fn weights(&self) -> Weights {
        let mut weights = Weights::default();
        weights.set_u32("dim", &[1], vec![self.dim as u32]);
        put_texts(&mut weights, "identity", [self.identity.as_str()]);
        put_texts(&mut weights, "report", self.report.iter().map(String::as_str));
        weights
    }

    fn problems(&self) -> &[Problem] {
        &self.problems
    }

    fn report(&self) -> Vec<String> {
        self.report.iter().chain(Some(&self.made).filter(|made| !made.is_empty())).cloned().collect()
    }
}

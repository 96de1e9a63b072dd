//! What makes vectors of items: the kinds of encoders, what they share, and how one is chosen.
//!
//! An encoder is fitted on a catalogue and then encodes any item, known or new, and free text where it can. The row of a fitted
//! item and the vector of the same item encoded later are the same numbers.

use crate::EncodeError;
use crate::attributes::AttributesConfig;
use crate::files::FileConfig;
use crate::fuse::FuseConfig;
use crate::images::ImagesConfig;
use crate::pretrained::PretrainedConfig;
use crate::relations::RelationsConfig;
use crate::remote::RemoteConfig;
use crate::text::TextConfig;
use serde::{Deserialize, Serialize};
use sommelier_core::{FitContext, Item};
use sommelier_nn::{LoadError, Weights};
use std::collections::BTreeMap;

/// A vector for each item of a catalogue, in its order; zeros where there is none.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Vectors {
    pub dim: usize,
    /// items × dim
    pub rows: Vec<f32>,
    /// Whether the item has a vector.
    pub known: Vec<bool>,
}

impl Vectors {
    /// Panics if a vector has not `dim` numbers: that is a mistake of the caller's, not of the data.
    pub fn from_rows(dim: usize, rows: impl IntoIterator<Item = Option<Vec<f32>>>) -> Vectors {
        let mut vectors = Vectors { dim, ..Vectors::default() };
        for row in rows {
            vectors.known.push(row.is_some());
            match row {
                Some(row) => {
                    assert_eq!(row.len(), dim, "a vector has another length than its encoder says");
                    vectors.rows.extend(row);
                }
                None => vectors.rows.resize(vectors.rows.len() + dim, 0.0),
            }
        }
        vectors
    }

    /// How many items.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// `None` where the item has no vector.
    pub fn row(&self, i: usize) -> Option<&[f32]> {
        self.known.get(i).filter(|known| **known).map(|_| &self.rows[i * self.dim..][..self.dim])
    }

    /// How many items have a vector.
    pub fn present(&self) -> usize {
        self.known.iter().filter(|known| **known).count()
    }
}

/// Why something of an item could not be encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub item: String,
    pub reason: String,
}

/// A fitted encoder.
pub trait Encoder: Send + Sync {
    /// Length of the vectors.
    fn dim(&self) -> usize;

    /// The vector of an item, new or known; `None` where it has nothing to encode. `named` gives the item's other vectors by
    /// the names of their encoders; only a fusion asks for them.
    fn encode(&self, item: &Item, named: &dyn Fn(&str) -> Option<Vec<f32>>) -> Option<Vec<f32>>;

    /// Makes what is slow to make of items, many at once, so that [`Encoder::encode`] has it at hand. May take seconds: not to be
    /// called where others wait.
    fn ahead(&self, _: &[&Item]) {}

    /// The vector of free text in the same space; `None` where no word of it is known or the encoder reads no text.
    fn encode_text(&self, _: &str) -> Option<Vec<f32>> {
        None
    }

    /// Everything to remember besides the config.
    fn weights(&self) -> Weights;

    /// What could not be encoded when it was fitted.
    fn problems(&self) -> &[Problem] {
        &[]
    }

    /// What was found and decided when it was fitted, a sentence each.
    fn report(&self) -> Vec<String> {
        Vec::new()
    }
}

/// What a fit gives: the encoder, and the vectors of the catalogue it was fitted on.
pub type Fitted = (Box<dyn Encoder>, Vectors);

macro_rules! encoders {
    ($($variant:ident($config:ty) = $kind:literal),+ $(,)?) => {
        /// One encoder's settings; `kind` says which.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "kind")]
        pub enum EncoderConfig {
            $(#[serde(rename = $kind)] $variant($config)),+
        }

        impl EncoderConfig {
            pub const KINDS: &'static [&'static str] = &[$($kind),+];

            pub fn kind(&self) -> &'static str {
                match self {
                    $(EncoderConfig::$variant(_) => $kind),+
                }
            }

            /// The defaults of a kind.
            pub fn default_of(kind: &str) -> Option<EncoderConfig> {
                match kind {
                    $($kind => Some(EncoderConfig::$variant(<$config>::default())),)+
                    _ => None,
                }
            }

            /// `items` in the order of the catalogue, `None` where it says nothing of one; `named` are vectors of the same
            /// items that other encoders made.
            pub fn fit(
                &self,
                items: &[Option<Item>],
                named: &BTreeMap<String, Vectors>,
                ctx: &FitContext,
            ) -> Result<Fitted, EncodeError> {
                match self {
                    $(EncoderConfig::$variant(config) => {
                        let (encoder, vectors) = config.fit(items, named, ctx)?;
                        Ok((Box::new(encoder), vectors))
                    })+
                }
            }

            /// The encoder from what [`Encoder::weights`] gave.
            pub fn load(&self, weights: &Weights) -> Result<Box<dyn Encoder>, LoadError> {
                match self {
                    $(EncoderConfig::$variant(config) => Ok(Box::new(config.load(weights)?)),)+
                }
            }
        }
    };
}

encoders! {
    Text(TextConfig) = "text",
    Attributes(AttributesConfig) = "attributes",
    Images(ImagesConfig) = "images",
    Relations(RelationsConfig) = "relations",
    File(FileConfig) = "file",
    Fuse(FuseConfig) = "fuse",
    Remote(RemoteConfig) = "remote",
    Pretrained(PretrainedConfig) = "pretrained",
}

/// An error in words where a fit would hold more than it may.
pub(crate) fn plan(ctx: &FitContext, bytes: u64, what: &str, instead: &str) -> Result<(), EncodeError> {
    if bytes <= ctx.memory {
        return Ok(());
    }
    let mib = |b: u64| b.div_ceil(1 << 20);
    Err(EncodeError::Input(format!(
        "{what} take {} MiB, the memory budget is {} MiB; raise it or {instead}",
        mib(bytes),
        mib(ctx.memory)
    )))
}

/// Texts as arrays: their bytes laid end to end, four to a number, and where each ends.
pub(crate) fn put_texts<'a>(weights: &mut Weights, name: &str, texts: impl IntoIterator<Item = &'a str>) {
    let (mut bytes, mut ends) = (Vec::new(), Vec::new());
    for text in texts {
        bytes.extend_from_slice(text.as_bytes());
        ends.push(bytes.len() as u64);
    }
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    let words: Vec<u32> = bytes.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
    weights.set_u32(&format!("{name}.bytes"), &[words.len()], words);
    weights.set_u64(&format!("{name}.ends"), &[ends.len()], ends);
}

/// What [`put_texts`] put.
pub(crate) fn take_texts(weights: &Weights, name: &str) -> Result<Vec<String>, LoadError> {
    let damaged = || LoadError::Other(format!("{name} is damaged; fit the encoder again"));
    let bytes: Vec<u8> =
        weights.u32(&format!("{name}.bytes"))?.1.iter().flat_map(|w| w.to_le_bytes()).collect();
    let mut from = 0usize;
    let mut texts = Vec::new();
    for &end in weights.u64(&format!("{name}.ends"))?.1 {
        let text = bytes.get(from..end as usize).ok_or_else(damaged)?;
        texts.push(String::from_utf8(text.to_vec()).map_err(|_| damaged())?);
        from = end as usize;
    }
    Ok(texts)
}

/// An array whose length must be `len`.
pub(crate) fn take_f32(weights: &Weights, name: &str, len: usize) -> Result<Vec<f32>, LoadError> {
    let (shape, data) = weights.f32(name)?;
    if data.len() == len {
        return Ok(data.to_vec());
    }
    Err(LoadError::Shape { name: name.to_owned(), expected: vec![len], received: shape.to_vec() })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// An item with those properties, as a catalogue holds it.
    #[allow(clippy::unnecessary_wraps)]
    pub(crate) fn item(id: &str, properties: Value) -> Option<Item> {
        let Value::Object(properties) = properties else { panic!("an object") };
        Some(Item { properties, ..Item::new(id) })
    }

    pub(crate) fn none(_: &str) -> Option<Vec<f32>> {
        None
    }

    /// What holds of every encoder: a known item encodes to its row, new ones have the right length and are finite, save and
    /// load change nothing, nothing of one's own depends on the number of threads.
    pub(crate) fn check(
        config: &EncoderConfig,
        items: &[Option<Item>],
        named: &BTreeMap<String, Vectors>,
    ) -> Fitted {
        let fit = |threads| {
            crate::linear::tests::on_threads(threads, || {
                config.fit(items, named, &FitContext::quiet(7)).unwrap_or_else(|e| panic!("{e}"))
            })
        };
        let ((encoder, vectors), again) = (fit(1), fit(3));
        assert_eq!(vectors, again.1, "on one thread and on three");
        assert_eq!(encoder.weights(), again.0.weights());
        assert_eq!((vectors.len(), vectors.dim), (items.len(), encoder.dim()));
        assert!(vectors.rows.iter().all(|v| v.is_finite()));
        let file = tempfile::NamedTempFile::new().unwrap();
        encoder.weights().write(file.path()).unwrap();
        let loaded = config.load(&Weights::read(file.path()).unwrap()).unwrap();
        assert_eq!(loaded.weights(), encoder.weights());
        assert!(encoder.report().starts_with(&loaded.report()), "what is of one run alone comes last");
        for (i, item) in items.iter().enumerate() {
            let named = |name: &str| named.get(name).and_then(|v| v.row(i)).map(<[f32]>::to_vec);
            let blank = Item::new("no such item");
            let item = item.as_ref().unwrap_or(&blank);
            let again = encoder.encode(item, &named);
            assert_eq!(again.as_deref(), vectors.row(i), "{}", item.id);
            assert_eq!(loaded.encode(item, &named), again);
        }
        let words = "some words, ordinary ones";
        assert_eq!(loaded.encode_text(words), encoder.encode_text(words));
        // Damage is an error, never a panic.
        for name in encoder.weights().0.keys() {
            let mut weights = encoder.weights();
            weights.0.remove(name);
            assert!(config.load(&weights).is_err(), "without {name}");
        }
        (encoder, vectors)
    }

    #[test]
    fn kinds_round_trip_and_unknown_keys_are_errors() {
        for kind in EncoderConfig::KINDS {
            let config = EncoderConfig::default_of(kind).unwrap();
            assert_eq!(config.kind(), *kind);
            let text = toml::to_string(&config).unwrap();
            assert_eq!(toml::from_str::<EncoderConfig>(&text).unwrap(), config, "{text}");
            assert_eq!(toml::from_str::<EncoderConfig>(&format!("kind = '{kind}'")).unwrap(), config);
            assert!(toml::from_str::<EncoderConfig>(&format!("kind = '{kind}'\nno_such_key = 1")).is_err());
        }
        assert!(EncoderConfig::default_of("no_such_kind").is_none());
    }

    #[test]
    fn an_empty_catalogue_is_refused_in_words() {
        for kind in EncoderConfig::KINDS {
            let config = EncoderConfig::default_of(kind).unwrap();
            for items in [vec![], vec![None, None], vec![item("a", json!({}))]] {
                let refused = config.fit(&items, &BTreeMap::new(), &FitContext::quiet(1)).err().unwrap();
                assert!(refused.to_string().len() > 30, "{kind}: {refused}");
            }
        }
    }

    #[test]
    fn texts_round_trip_as_numbers() {
        for texts in [vec![], vec![""], vec!["ab", "", "Привет", "五"]] {
            let mut weights = Weights::default();
            put_texts(&mut weights, "t", texts.iter().copied());
            assert_eq!(take_texts(&weights, "t").unwrap(), texts);
        }
        let mut weights = Weights::default();
        put_texts(&mut weights, "t", ["五"]);
        for ends in [vec![2], vec![3, 1], vec![u64::MAX]] {
            weights.set_u64("t.ends", &[ends.len()], ends);
            assert!(take_texts(&weights, "t").unwrap_err().to_string().contains("damaged"));
        }
    }
}

//! The folder of a network: what its files say, checked before anything is made of them.

use super::Pooling;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use tokenizers::{Tokenizer, TruncationParams};

pub(super) struct Folder {
    path: PathBuf,
    /// Where in it the network lies.
    inside: String,
    /// Digest of all that was read.
    hasher: blake3::Hasher,
}

/// A network that reads sentences.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Sentence {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub intermediate_size: usize,
    #[serde(default = "gelu")]
    pub hidden_act: String,
    pub max_position_embeddings: usize,
    #[serde(default = "two")]
    pub type_vocab_size: usize,
    #[serde(default = "tiny")]
    pub layer_norm_eps: f64,
    #[serde(default)]
    pub pad_token_id: Option<u32>,
    #[serde(default = "absolute")]
    pub position_embedding_type: String,
}

/// The two towers of `clip`, which leave out what is customary.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Clip {
    #[serde(default)]
    pub text_config: ClipText,
    #[serde(default)]
    pub vision_config: ClipVision,
    #[serde(default = "n512")]
    pub projection_dim: usize,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub(super) struct ClipText {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub max_position_embeddings: usize,
    pub hidden_act: String,
}

impl Default for ClipText {
    fn default() -> ClipText {
        ClipText {
            vocab_size: 49408,
            hidden_size: 512,
            intermediate_size: 2048,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            max_position_embeddings: 77,
            hidden_act: "quick_gelu".into(),
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub(super) struct ClipVision {
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_channels: usize,
    pub image_size: usize,
    pub patch_size: usize,
    pub hidden_act: String,
}

impl Default for ClipVision {
    fn default() -> ClipVision {
        ClipVision {
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            num_channels: 3,
            image_size: 224,
            patch_size: 32,
            hidden_act: "quick_gelu".into(),
        }
    }
}

/// How a picture becomes numbers.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Seeing {
    /// Pixels each way of what the network sees.
    pub side: u32,
    /// Whether the middle is cut out of a picture whose shorter edge has so many pixels; else all is stretched to a square.
    pub shortest: Option<u32>,
    /// A cubic filter; else a linear one.
    pub cubic: bool,
    pub mean: [f32; 3],
    pub std: [f32; 3],
}

/// What is done with the vectors of tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Pooled {
    pub by: Pooling,
    pub unit: bool,
}

fn gelu() -> String {
    "gelu".into()
}

fn absolute() -> String {
    "absolute".into()
}

fn two() -> usize {
    2
}

fn n512() -> usize {
    512
}

fn tiny() -> f64 {
    1e-12
}

impl Folder {
    pub fn open(path: &Path) -> Result<Folder, String> {
        if !path.is_dir() {
            return Err(
                "is no folder; name the folder of a network, with config.json and model.safetensors".into()
            );
        }
        Ok(Folder { path: path.to_owned(), inside: String::new(), hasher: blake3::Hasher::new() })
    }

    /// A file that may be missing.
    fn bytes(&mut self, name: &str) -> Result<Option<Vec<u8>>, String> {
        match std::fs::read(self.path.join(&self.inside).join(name)) {
            Ok(bytes) => {
                self.hasher
                    .update(name.as_bytes())
                    .update(&(bytes.len() as u64).to_le_bytes())
                    .update(&bytes);
                Ok(Some(bytes))
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(format!("{name} cannot be read ({e})")),
        }
    }

    fn json<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>, String> {
        let Some(bytes) = self.bytes(name)? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|e| format!("{name} cannot be used: {e}"))
    }

    pub fn config(&mut self) -> Result<Value, String> {
        self.json("config.json")?
            .ok_or_else(|| "has no config.json; take the whole folder of the network".into())
    }

    pub fn weights(&mut self) -> Result<Vec<u8>, String> {
        if let Some(bytes) = self.bytes("model.safetensors")? {
            return Ok(bytes);
        }
        let there = |name: &str| self.path.join(&self.inside).join(name).exists();
        Err(if there("model.safetensors.index.json") {
            "its weights lie in several files; save the network as one model.safetensors".into()
        } else if there("pytorch_model.bin") {
            "has pytorch_model.bin and no model.safetensors; save the network as safetensors".into()
        } else {
            "has no model.safetensors; take the whole folder of the network".into()
        })
    }

    /// How token vectors become one. To be asked first: it says where the other files are.
    pub fn pooled(&mut self, asked: Pooling) -> Result<Pooled, String> {
        #[derive(Deserialize)]
        struct Module {
            path: String,
            #[serde(rename = "type")]
            kind: String,
        }
        let modules: Vec<Module> = self.json("modules.json")?.unwrap_or_default();
        let (mut pooled, mut inside) = (Pooled { by: asked, unit: false }, String::new());
        for module in modules {
            let Module { path, kind } = module;
            if path.split(['/', '\\']).any(|part| part == "..") || Path::new(&path).is_absolute() {
                return Err(format!("modules.json names {path:?}, which leads out of the folder"));
            }
            match kind.rsplit('.').next().unwrap_or_default() {
                "Transformer" => inside = path,
                "Normalize" => pooled.unit = true,
                "Pooling" if asked == Pooling::Given => {
                    let name = format!("{path}/config.json");
                    let config: Value = self.json(&name)?.ok_or_else(|| format!("has no {name}"))?;
                    pooled.by = pooling(&config).map_err(|why| format!("{name} {why}"))?;
                }
                "Pooling" => {}
                other => {
                    return Err(format!(
                        "modules.json has a part {other}, expected Transformer, Pooling, Normalize"
                    ));
                }
            }
        }
        if pooled.by == Pooling::Given {
            pooled.by = Pooling::Mean;
        }
        self.inside = inside;
        Ok(pooled)
    }

    /// The tokeniser, cutting at `max_tokens` or where the folder says, and never past `most`.
    pub fn tokens(&mut self, most: usize, max_tokens: usize) -> Result<(Tokenizer, bool), String> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Limits {
            max_seq_length: Option<usize>,
            do_lower_case: bool,
        }
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Of {
            model_max_length: Option<f64>,
            do_lower_case: Option<bool>,
        }
        let limits: Limits = self.json("sentence_bert_config.json")?.unwrap_or_default();
        let of: Of = self.json("tokenizer_config.json")?.unwrap_or_default();
        let mut tokenizer = match self.bytes("tokenizer.json")? {
            Some(bytes) => {
                Tokenizer::from_bytes(bytes).map_err(|e| format!("tokenizer.json cannot be used: {e}"))?
            }
            None => self.word_pieces(of.do_lower_case.unwrap_or(true))?,
        };
        let told = limits.max_seq_length.or(of.model_max_length.map(|n| n.min(1e9) as usize)).unwrap_or(most);
        let length = if max_tokens > 0 { max_tokens } else { told }.min(most);
        let unusable = |e: tokenizers::Error| format!("its tokeniser cannot be used: {e}");
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(unusable)?;
        let added = tokenizer.encode_fast("", true).map_err(unusable)?.len();
        if length <= added {
            return Err(format!(
                "its texts would have {length} tokens, {added} of which every text has; raise max_tokens"
            ));
        }
        let cut = TruncationParams { max_length: length, ..TruncationParams::default() };
        tokenizer.with_truncation(Some(cut)).map_err(unusable)?;
        Ok((tokenizer, limits.do_lower_case))
    }

    /// From the list of words that older folders have.
    fn word_pieces(&mut self, lowercase: bool) -> Result<Tokenizer, String> {
        let none = "has no tokenizer.json and no vocab.txt; take the whole folder of the network";
        let words = String::from_utf8(self.bytes("vocab.txt")?.ok_or(none)?);
        let words = words.map_err(|_| "vocab.txt is not text in UTF-8")?;
        let vocab: HashMap<&str, usize> =
            words.lines().enumerate().map(|(i, word)| (word.trim_end(), i)).collect();
        let mark = |name: &str| {
            let id = vocab.get(name).ok_or_else(|| format!("vocab.txt has no {name}"))?;
            Ok::<_, String>(json!([name, id]))
        };
        let (sep, cls, _) = (mark("[SEP]")?, mark("[CLS]")?, mark("[UNK]")?);
        let whole = json!({
            "version": "1.0",
            "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                "strip_accents": null, "lowercase": lowercase},
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "post_processor": {"type": "BertProcessing", "sep": sep, "cls": cls},
            "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 100, "vocab": vocab},
        });
        Tokenizer::from_bytes(whole.to_string()).map_err(|e| format!("vocab.txt cannot be used: {e}"))
    }

    /// The token that short texts are filled up with.
    pub fn padding(&mut self, tokenizer: &Tokenizer) -> Result<Option<u32>, String> {
        let of: Value = self.json("tokenizer_config.json")?.unwrap_or_default();
        let token = of.get("pad_token").and_then(|t| t.as_str().or_else(|| t.get("content")?.as_str()));
        Ok(token.and_then(|token| tokenizer.token_to_id(token)))
    }

    pub fn seeing(&mut self, side: usize) -> Result<Seeing, String> {
        let name = "preprocessor_config.json";
        let of: Value =
            self.json(name)?.ok_or_else(|| format!("has no {name}; take the whole folder of the network"))?;
        seeing(&of, side as u32).map_err(|why| format!("{name} {why}"))
    }

    /// Digest of all files that were read and of how they are used.
    pub fn identity(mut self, how: &str) -> String {
        self.hasher.update(how.as_bytes()).finalize().to_hex().to_string()
    }
}

fn pooling(of: &Value) -> Result<Pooling, String> {
    let on = |mode: &&&str| {
        let key = format!("pooling_mode_{mode}");
        of.get(key.as_str()).and_then(Value::as_bool) == Some(true)
    };
    let modes = [
        "cls_token",
        "mean_tokens",
        "max_tokens",
        "mean_sqrt_len_tokens",
        "weightedmean_tokens",
        "lasttoken",
    ];
    let mut set: Vec<&str> = modes.iter().filter(on).copied().collect();
    set.extend(of.get("pooling_mode").and_then(Value::as_str));
    match set[..] {
        ["cls_token" | "cls"] => Ok(Pooling::Cls),
        ["mean_tokens" | "mean"] => Ok(Pooling::Mean),
        ["max_tokens" | "max"] => Ok(Pooling::Max),
        _ => Err(format!(
            "wants {}, expected one of cls, mean, max",
            if set.is_empty() { "nothing".into() } else { set.join(" and ") }
        )),
    }
}

fn seeing(of: &Value, side: u32) -> Result<Seeing, String> {
    let flag = |name: &str| of.get(name).and_then(Value::as_bool).unwrap_or(true);
    let size = of.get("size").cloned().unwrap_or_default();
    let number = |v: &Value| v.as_u64().filter(|n| (1..=4096).contains(n)).map(|n| n as u32);
    let shortest =
        number(&size).filter(|_| flag("do_center_crop")).or_else(|| number(size.get("shortest_edge")?));
    let three = |name: &str, usual: [f32; 3]| {
        let Some(list) = of.get(name).and_then(Value::as_array) else { return Ok(usual) };
        let list: Vec<f32> = list.iter().filter_map(|v| Some(v.as_f64()? as f32)).collect();
        <[f32; 3]>::try_from(list).map_err(|_| format!("has a {name} that is not three numbers"))
    };
    let cubic = match of.get("resample").and_then(Value::as_u64) {
        None | Some(3) => true,
        Some(2) => false,
        Some(other) => return Err(format!("wants filter {other} for pictures, expected 2 or 3")),
    };
    let std = three("image_std", [0.26862954, 0.261_302_6, 0.275_777_1])?;
    if std.iter().any(|&v| !v.is_finite() || v <= 0.0) {
        return Err("has an image_std that is not above 0".into());
    }
    let mean = three("image_mean", [0.48145466, 0.4578275, 0.40821073])?;
    Ok(Seeing { side, shortest: shortest.map(|s| s.max(side)), cubic, mean, std })
}

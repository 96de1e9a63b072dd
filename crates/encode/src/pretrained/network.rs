//! A network in memory: candle's, with what its folder says of texts, pictures and token vectors.

use super::folder::{Clip, Folder, Pooled, Seeing, Sentence};
use super::{Pooling, PretrainedConfig, hub};
use crate::EncodeError;
use crate::linear::to_unit;
use candle_core::{DType, Device, Module, Tensor};
use candle_nn::{Activation, Linear, VarBuilder};
use candle_transformers::models::bert::{self, BertModel};
use candle_transformers::models::clip::text_model::{self, ClipTextConfig, ClipTextTransformer};
use candle_transformers::models::clip::vision_model::{ClipVisionConfig, ClipVisionTransformer};
use candle_transformers::models::siglip;
use candle_transformers::models::xlm_roberta::{self, XLMRobertaModel};
use image::RgbImage;
use image::imageops::{FilterType, crop_imm, resize};
use serde::de::DeserializeOwned;
use serde_json::Value;
use sommelier_core::FitContext;
use std::path::Path;
use tokenizers::Tokenizer;

pub(crate) struct Model {
    kind: String,
    texts: Tokenizer,
    lowercase: bool,
    network: Network,
    dim: usize,
    identity: String,
}

enum Network {
    Bert(BertModel, Pooled),
    Roberta(XLMRobertaModel, Pooled),
    Clip {
        text: ClipTextTransformer,
        text_out: Linear,
        vision: ClipVisionTransformer,
        vision_out: Linear,
        seeing: Seeing,
    },
    Siglip {
        text: siglip::TextModel,
        vision: siglip::VisionModel,
        seeing: Seeing,
        length: usize,
        padding: u32,
    },
}

/// Changed when the same folder would give other vectors.
const VERSION: &str = "1";

impl Model {
    pub fn open(config: &PretrainedConfig) -> Result<Model, String> {
        let read = hub::folder(&config.model).and_then(|path| read(&path, config.pooling, config.max_tokens));
        read.map_err(|why| format!("{}: {why}", config.model.display()))
    }

    /// Fetches what is asked for by its name on the hub and is not here.
    pub fn fetch(config: &PretrainedConfig, ctx: &FitContext) -> Result<(), EncodeError> {
        hub::fetch(&config.model, ctx)
    }

    /// Length of the vectors.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Tells it from every network that gives other vectors.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// What it is, in words.
    pub fn what(&self) -> &str {
        &self.kind
    }

    /// An error in words where it does not read pictures and they are asked for.
    pub fn reads(&self, pictures: bool) -> Result<(), String> {
        match self.network {
            Network::Bert(..) | Network::Roberta(..) if pictures => Err(format!(
                "image is set, and a network of type {} reads no pictures; take clip or siglip",
                self.kind
            )),
            _ => Ok(()),
        }
    }

    /// `None` where the text has none but those that every text has.
    pub fn tokens(&self, text: &str) -> Result<Option<Vec<u32>>, String> {
        let lower = if self.lowercase { text.to_lowercase() } else { String::new() };
        let text = if self.lowercase { lower.as_str() } else { text };
        let tokens = self.texts.encode_fast(text, true).map_err(|e| format!("its tokeniser failed: {e}"))?;
        if tokens.get_special_tokens_mask().iter().all(|&special| special == 1) {
            return Ok(None);
        }
        let mut ids = tokens.get_ids().to_vec();
        if let Network::Siglip { length, padding, .. } = self.network {
            // It reads its last token, whatever that is.
            ids.resize(length, padding);
        }
        Ok(Some(ids))
    }

    /// A vector for each of some texts that have as many tokens.
    pub fn of_tokens(&self, batch: &[&[u32]]) -> Result<Vec<Vec<f32>>, String> {
        run(|| {
            let length = batch.first().map_or(0, |text| text.len());
            // (B, L)
            let ids = Tensor::from_vec(batch.concat(), (batch.len(), length), &Device::Cpu)?;
            match &self.network {
                Network::Bert(model, pooled) => {
                    pool(&model.forward(&ids, &ids.zeros_like()?, None)?, *pooled)
                }
                Network::Roberta(model, pooled) => {
                    let (ones, zeros) = (ids.ones_like()?, ids.zeros_like()?);
                    pool(&model.forward(&ids, &ones, &zeros, None, None, None)?, *pooled)
                }
                Network::Clip { text, text_out, .. } => text_out.forward(&text.forward(&ids)?)?.to_vec2(),
                Network::Siglip { text, .. } => text.forward(&ids)?.to_vec2(),
            }
        })
    }

    pub fn of_picture(&self, picture: &RgbImage) -> Result<Vec<f32>, String> {
        run(|| {
            let rows = match &self.network {
                Network::Bert(..) | Network::Roberta(..) => Vec::new(),
                Network::Clip { vision, vision_out, seeing, .. } => {
                    vision_out.forward(&vision.forward(&pixels(picture, seeing)?)?)?.to_vec2()?
                }
                Network::Siglip { vision, seeing, .. } => {
                    vision.forward(&pixels(picture, seeing)?)?.to_vec2()?
                }
            };
            Ok(rows.into_iter().next().unwrap_or_default())
        })
    }
}

fn run<T>(work: impl FnOnce() -> candle_core::Result<T>) -> Result<T, String> {
    work().map_err(|e| format!("the network failed: {}", first_line(&e)))
}

/// Without the stack that may follow.
fn first_line(e: &candle_core::Error) -> String {
    e.to_string().lines().next().unwrap_or_default().to_owned()
}

fn read(path: &Path, pooling: Pooling, max_tokens: usize) -> Result<Model, String> {
    let mut folder = Folder::open(path)?;
    let pooled = folder.pooled(pooling)?;
    let config = folder.config()?;
    let kind = config.get("model_type").and_then(Value::as_str).unwrap_or("bert").to_owned();
    if !matches!(kind.as_str(), "bert" | "roberta" | "xlm-roberta" | "camembert" | "clip" | "siglip") {
        return Err(format!(
            "config.json says the type {kind:?}, expected bert, roberta, xlm-roberta, camembert, clip or siglip"
        ));
    }
    let unfit =
        |e: &candle_core::Error| format!("model.safetensors does not fit config.json: {}", first_line(e));
    let tensors = |bytes| {
        VarBuilder::from_buffered_safetensors(bytes, DType::F32, &Device::Cpu)
            .map_err(|e| format!("model.safetensors cannot be read: {}", first_line(&e)))
    };
    let (network, dim, most) = match kind.as_str() {
        "clip" => {
            let config: Clip = typed(config)?;
            check_clip(&config)?;
            let seeing = folder.seeing(config.vision_config.image_size)?;
            let tensors = tensors(folder.weights()?)?;
            let network = clip(&config, &tensors, seeing).map_err(|e| unfit(&e))?;
            (network, config.projection_dim, config.text_config.max_position_embeddings)
        }
        "siglip" => {
            let config: siglip::Config = typed(config)?;
            check_siglip(&config)?;
            let seeing = folder.seeing(config.vision_config.image_size)?;
            let tensors = tensors(folder.weights()?)?;
            let network = siglip_of(&config, &tensors, seeing).map_err(|e| unfit(&e))?;
            (network, config.vision_config.hidden_size, config.text_config.max_position_embeddings)
        }
        _ => {
            let config: Sentence = typed(config)?;
            check_sentence(&config)?;
            let tensors = tensors(folder.weights()?)?;
            let (network, most) = sentence(&kind, &config, &tensors, pooled)?;
            (network.map_err(|e| unfit(&e))?, config.hidden_size, most)
        }
    };
    let (texts, lowercase) = folder.tokens(most, max_tokens)?;
    let network = match network {
        Network::Siglip { text, vision, seeing, length, padding } => {
            let padding = folder.padding(&texts)?.unwrap_or(padding);
            Network::Siglip { text, vision, seeing, length, padding }
        }
        other => other,
    };
    let identity = folder.identity(&format!("{VERSION} {pooled:?} {max_tokens}"));
    Ok(Model { kind, texts, lowercase, network, dim, identity })
}

fn typed<T: DeserializeOwned>(config: Value) -> Result<T, String> {
    serde_json::from_value(config).map_err(|e| format!("config.json cannot be used: {e}"))
}

/// An error in words unless a number is from 1 to `most`.
fn within(name: &str, received: usize, most: usize) -> Result<(), String> {
    if (1..=most).contains(&received) {
        return Ok(());
    }
    Err(format!("config.json says {name} = {received}, expected from 1 to {most}"))
}

/// What every stack of layers needs.
fn check_stack(hidden: usize, heads: usize, layers: usize, inner: usize) -> Result<(), String> {
    within("hidden_size", hidden, 1 << 16)?;
    within("num_attention_heads", heads, hidden)?;
    within("num_hidden_layers", layers, 1 << 10)?;
    within("intermediate_size", inner, 1 << 20)?;
    if hidden.is_multiple_of(heads) {
        return Ok(());
    }
    Err(format!(
        "config.json says hidden_size = {hidden} for {heads} num_attention_heads, which do not divide it"
    ))
}

const MOST_WORDS: usize = 1 << 24;
const MOST_PLACES: usize = 1 << 20;

fn check_sentence(c: &Sentence) -> Result<(), String> {
    check_stack(c.hidden_size, c.num_attention_heads, c.num_hidden_layers, c.intermediate_size)?;
    within("vocab_size", c.vocab_size, MOST_WORDS)?;
    within("max_position_embeddings", c.max_position_embeddings, MOST_PLACES)?;
    within("type_vocab_size", c.type_vocab_size, 1 << 16)?;
    if c.position_embedding_type != "absolute" {
        return Err(format!(
            "config.json says position_embedding_type = {:?}, expected absolute",
            c.position_embedding_type
        ));
    }
    Ok(())
}

fn check_vision(size: usize, patch: usize, channels: usize) -> Result<(), String> {
    within("image_size", size, 4096)?;
    within("patch_size", patch, size)?;
    if channels == 3 {
        Ok(())
    } else {
        Err(format!("config.json says num_channels = {channels}, expected 3"))
    }
}

fn check_clip(c: &Clip) -> Result<(), String> {
    let (t, v) = (&c.text_config, &c.vision_config);
    check_stack(t.hidden_size, t.num_attention_heads, t.num_hidden_layers, t.intermediate_size)?;
    check_stack(v.hidden_size, v.num_attention_heads, v.num_hidden_layers, v.intermediate_size)?;
    within("vocab_size", t.vocab_size, MOST_WORDS)?;
    within("max_position_embeddings", t.max_position_embeddings, MOST_PLACES)?;
    within("projection_dim", c.projection_dim, 1 << 16)?;
    check_vision(v.image_size, v.patch_size, v.num_channels)?;
    match [&t.hidden_act, &v.hidden_act].into_iter().find(|act| *act != "quick_gelu") {
        Some(other) => Err(format!("config.json says hidden_act = {other:?}, expected quick_gelu for clip")),
        None => Ok(()),
    }
}

fn check_siglip(c: &siglip::Config) -> Result<(), String> {
    let (t, v) = (&c.text_config, &c.vision_config);
    check_stack(t.hidden_size, t.num_attention_heads, t.num_hidden_layers, t.intermediate_size)?;
    check_stack(v.hidden_size, v.num_attention_heads, v.num_hidden_layers, v.intermediate_size)?;
    within("vocab_size", t.vocab_size, MOST_WORDS)?;
    within("max_position_embeddings", t.max_position_embeddings, 1 << 12)?;
    check_vision(v.image_size, v.patch_size, v.num_channels)?;
    if t.hidden_size == v.hidden_size {
        return Ok(());
    }
    Err(format!(
        "config.json says hidden_size = {} for texts and {} for pictures, expected the same",
        t.hidden_size, v.hidden_size
    ))
}

/// The network, and how many tokens it has places for.
fn sentence(
    kind: &str,
    c: &Sentence,
    tensors: &VarBuilder,
    pooled: Pooled,
) -> Result<(candle_core::Result<Network>, usize), String> {
    let named =
        |prefix: &&str| tensors.contains_tensor(&format!("{prefix}embeddings.word_embeddings.weight"));
    let prefix = ["", "bert.", "roberta.", "model."].into_iter().find(named).unwrap_or_default();
    let tensors = if prefix.is_empty() { tensors.clone() } else { tensors.pp(prefix.trim_end_matches('.')) };
    let wrong =
        || format!("config.json says hidden_act = {:?}, expected gelu, gelu_new or relu", c.hidden_act);
    if kind == "bert" {
        let hidden_act = match c.hidden_act.as_str() {
            "gelu" => bert::HiddenAct::Gelu,
            "gelu_new" | "gelu_pytorch_tanh" => bert::HiddenAct::GeluApproximate,
            "relu" => bert::HiddenAct::Relu,
            _ => return Err(wrong()),
        };
        let config = bert::Config {
            vocab_size: c.vocab_size,
            hidden_size: c.hidden_size,
            num_hidden_layers: c.num_hidden_layers,
            num_attention_heads: c.num_attention_heads,
            intermediate_size: c.intermediate_size,
            hidden_act,
            max_position_embeddings: c.max_position_embeddings,
            type_vocab_size: c.type_vocab_size,
            layer_norm_eps: c.layer_norm_eps,
            model_type: None,
            ..bert::Config::default()
        };
        let network = BertModel::load(tensors, &config).map(|model| Network::Bert(model, pooled));
        return Ok((network, c.max_position_embeddings));
    }
    let hidden_act = match c.hidden_act.as_str() {
        "gelu" => Activation::Gelu,
        "gelu_new" | "gelu_pytorch_tanh" => Activation::GeluPytorchTanh,
        "relu" => Activation::Relu,
        _ => return Err(wrong()),
    };
    let pad_token_id = c.pad_token_id.unwrap_or(1);
    let config = xlm_roberta::Config {
        hidden_size: c.hidden_size,
        layer_norm_eps: c.layer_norm_eps,
        attention_probs_dropout_prob: 0.0,
        hidden_dropout_prob: 0.0,
        num_attention_heads: c.num_attention_heads,
        position_embedding_type: c.position_embedding_type.clone(),
        intermediate_size: c.intermediate_size,
        hidden_act,
        num_hidden_layers: c.num_hidden_layers,
        vocab_size: c.vocab_size,
        max_position_embeddings: c.max_position_embeddings,
        type_vocab_size: c.type_vocab_size,
        pad_token_id,
    };
    let network = XLMRobertaModel::new(&config, tensors).map(|model| Network::Roberta(model, pooled));
    // The first place is after that of padding.
    Ok((network, c.max_position_embeddings.saturating_sub(pad_token_id as usize + 1)))
}

fn clip(c: &Clip, tensors: &VarBuilder, seeing: Seeing) -> candle_core::Result<Network> {
    let (t, v) = (&c.text_config, &c.vision_config);
    let text = ClipTextConfig {
        vocab_size: t.vocab_size,
        embed_dim: t.hidden_size,
        activation: text_model::Activation::QuickGelu,
        intermediate_size: t.intermediate_size,
        max_position_embeddings: t.max_position_embeddings,
        pad_with: None,
        num_hidden_layers: t.num_hidden_layers,
        num_attention_heads: t.num_attention_heads,
        projection_dim: c.projection_dim,
    };
    let vision = ClipVisionConfig {
        embed_dim: v.hidden_size,
        activation: text_model::Activation::QuickGelu,
        intermediate_size: v.intermediate_size,
        num_hidden_layers: v.num_hidden_layers,
        num_attention_heads: v.num_attention_heads,
        projection_dim: c.projection_dim,
        num_channels: v.num_channels,
        image_size: v.image_size,
        patch_size: v.patch_size,
    };
    let out = |from: usize, name: &str| candle_nn::linear_no_bias(from, c.projection_dim, tensors.pp(name));
    Ok(Network::Clip {
        text: ClipTextTransformer::new(tensors.pp("text_model"), &text)?,
        text_out: out(t.hidden_size, "text_projection")?,
        vision: ClipVisionTransformer::new(tensors.pp("vision_model"), &vision)?,
        vision_out: out(v.hidden_size, "visual_projection")?,
        seeing,
    })
}

fn siglip_of(c: &siglip::Config, tensors: &VarBuilder, seeing: Seeing) -> candle_core::Result<Network> {
    Ok(Network::Siglip {
        text: siglip::TextModel::new(&c.text_config, tensors.pp("text_model"))?,
        vision: siglip::VisionModel::new(&c.vision_config, true, tensors.pp("vision_model"))?,
        seeing,
        length: c.text_config.max_position_embeddings,
        padding: c.text_config.pad_token_id,
    })
}

/// One vector for each text, of those of its tokens (B, L, dim).
fn pool(tokens: &Tensor, pooled: Pooled) -> candle_core::Result<Vec<Vec<f32>>> {
    let one = match pooled.by {
        Pooling::Cls => tokens.narrow(1, 0, 1)?.squeeze(1)?,
        Pooling::Max => tokens.max(1)?,
        Pooling::Mean | Pooling::Given => tokens.mean(1)?,
    };
    let mut rows: Vec<Vec<f32>> = one.to_vec2()?;
    if pooled.unit {
        rows.iter_mut().for_each(|row| {
            to_unit(row);
        });
    }
    Ok(rows)
}

/// A picture as the network sees it (1, 3, side, side).
fn pixels(picture: &RgbImage, seeing: &Seeing) -> candle_core::Result<Tensor> {
    let side = seeing.side;
    let filter = if seeing.cubic { FilterType::CatmullRom } else { FilterType::Triangle };
    let seen = match seeing.shortest {
        None => resize(picture, side, side, filter),
        Some(shortest) => {
            let picture = middle(picture);
            let (w, h) = picture.dimensions();
            let long =
                |long: u32, short: u32| (u64::from(shortest) * u64::from(long) / u64::from(short)) as u32;
            let (w, h) = if w < h { (shortest, long(h, w)) } else { (long(w, h), shortest) };
            let small = resize(&picture, w, h, filter);
            crop_imm(&small, (w - side) / 2, (h - side) / 2, side, side).to_image()
        }
    };
    let mut planes = Vec::with_capacity(3 * (side * side) as usize);
    for channel in 0..3 {
        let (mean, std) = (seeing.mean[channel], seeing.std[channel]);
        planes.extend(seen.pixels().map(|p| (f32::from(p[channel]) / 255.0 - mean) / std));
    }
    Tensor::from_vec(planes, (1, 3, side as usize, side as usize), &Device::Cpu)
}

/// The middle of a picture that is very long one way: all that is seen of it, and not the memory of the rest.
fn middle(picture: &RgbImage) -> RgbImage {
    const LONGEST: u32 = 8;
    let (w, h) = picture.dimensions();
    let (new_w, new_h) = (w.min(h.saturating_mul(LONGEST)), h.min(w.saturating_mul(LONGEST)));
    crop_imm(picture, (w - new_w) / 2, (h - new_h) / 2, new_w, new_h).to_image()
}

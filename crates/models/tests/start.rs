//! Models that begin with the weights of another framework answer as it does (golden/start.py), and every mistake in saying
//! which weights is answered in words.

use serde_json::Value;
use sommelier_core::{FitContext, ItemIx, Progress, ResolvedQuery, Seen, Time};
use sommelier_data::Snapshot;
use sommelier_models::{FitError, Model, ModelConfig};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

const ITEMS: usize = 12;

const SASREC: &str = r#"
"items" = "item_emb.weight"
"places" = "pos_emb.weight"
"blocks.*.attention_norm.weight" = "attention_layernorms.*.weight"
"blocks.*.attention_norm.bias" = "attention_layernorms.*.bias"
"blocks.*.attention.in_proj.weight" = "attention_layers.*.in_proj_weight"
"blocks.*.attention.in_proj.bias" = "attention_layers.*.in_proj_bias"
"blocks.*.attention.out_proj.weight" = "attention_layers.*.out_proj.weight"
"blocks.*.attention.out_proj.bias" = "attention_layers.*.out_proj.bias"
"blocks.*.feed_forward_norm.weight" = "forward_layernorms.*.weight"
"blocks.*.feed_forward_norm.bias" = "forward_layernorms.*.bias"
"blocks.*.feed_forward.0.weight" = "forward_layers.*.conv1.weight"
"blocks.*.feed_forward.0.bias" = "forward_layers.*.conv1.bias"
"blocks.*.feed_forward.1.weight" = "forward_layers.*.conv2.weight"
"blocks.*.feed_forward.1.bias" = "forward_layers.*.conv2.bias"
"norm.*" = "last_layernorm.*"
"#;

const GRU4REC: &str = r#"
"items" = "item_embedding.weight"
"gru.*" = "gru_layers.*"
"dense.*" = "dense.*"
"#;

fn golden(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(file)
}

/// A recipe's text.
fn recipe(kind: &str, epochs: usize, weights: &Path, rows: &str, names: &str) -> String {
    let sizes = match kind {
        "sasrec" => "dim = 8\nblocks = 2\nheads = 2\ndropout = 0.0",
        _ => "dim = 8\nhidden = 10\nlayers = 1\ndropout = 0.0",
    };
    // The file's places are those of histories that were padded at their beginning.
    let newest = if kind == "sasrec" { "newest = 6\n" } else { "" };
    format!(
        "kind = '{kind}'\n{sizes}\n[training]\nepochs = {epochs}\n[sequence]\nlength = 6\n[sequence.start]\n\
         weights = '{}'\nrows = '{rows}'\n{newest}[sequence.start.names]\n{names}",
        weights.display()
    )
}

/// Two readers who had all items, in an order that is not the file's, and one that the file does not know.
fn snapshot(name: impl Fn(usize) -> String) -> Snapshot {
    let items: Vec<String> = (1..=ITEMS).rev().map(name).chain(["new".to_owned()]).collect();
    let pairs: Vec<(&str, &str)> =
        ["a", "b"].iter().flat_map(|user| items.iter().map(|item| (*user, &item[..]))).collect();
    Snapshot::from_pairs("start", &pairs)
}

fn fit(recipe: &str, snapshot: &Snapshot, ctx: &mut FitContext) -> Result<Box<dyn Model>, FitError> {
    toml::from_str::<ModelConfig>(recipe).unwrap_or_else(|e| panic!("{e}\n{recipe}")).fit(snapshot, ctx)
}

/// The largest difference between the model's scores and PyTorch's.
fn miss(model: &dyn Model, kind: &str, snapshot: &Snapshot, name: impl Fn(usize) -> String) -> f64 {
    let golden: Value = serde_json::from_str(include_str!("golden/start.json")).unwrap();
    let index = |n: usize| ItemIx(snapshot.items.get(&name(n)).unwrap());
    let all: Vec<ItemIx> = (1..=ITEMS).map(index).collect();
    let mut worst = 0f64;
    for (history, scores) in
        golden["histories"].as_array().unwrap().iter().zip(golden[kind].as_array().unwrap())
    {
        let history: Vec<usize> = serde_json::from_value(history.clone()).unwrap();
        let scores: Vec<f64> = serde_json::from_value(scores.clone()).unwrap();
        let seen = |&n: &usize| Seen { item: index(n), weight: 1.0, at: Time::default() };
        let query = ResolvedQuery { history: history.iter().map(seen).collect(), ..ResolvedQuery::default() };
        let mut ours = vec![f32::NAN; ITEMS];
        model.score(&query, &all, &mut ours);
        assert_eq!(scores.len(), ITEMS);
        for (ours, theirs) in ours.iter().zip(scores) {
            assert!(ours.is_finite());
            worst = worst.max((f64::from(*ours) - theirs).abs());
        }
    }
    worst
}

/// What is said.
#[derive(Default)]
struct Words(Mutex<Vec<String>>);

impl Progress for Words {
    fn start(&self, _: &str, _: Option<u64>) {}
    fn at(&self, _: u64) {}
    fn finish(&self) {}
    fn say(&self, words: &str) {
        self.0.lock().unwrap().push(words.to_owned());
    }
}

#[test]
fn a_sasrec_of_pytorch_answers_as_it_did() {
    let name = |n: usize| n.to_string();
    let snapshot = snapshot(name);
    let words = Arc::new(Words::default());
    let mut ctx = FitContext { progress: words.clone(), ..FitContext::quiet(1) };
    let file = golden("start_sasrec.safetensors");
    let model = fit(&recipe("sasrec", 0, &file, "id", SASREC), &snapshot, &mut ctx).unwrap();
    let miss = miss(&*model, "sasrec", &snapshot, name);
    assert!(miss < 1e-5, "{miss}");
    let said = words.0.lock().unwrap();
    assert!(said[0].contains("begins with 28 tensors") && said[0].ends_with("12 of 13 items"), "{said:?}");
}

#[test]
fn a_gru4rec_of_pytorch_answers_as_it_did() {
    let name = |n: usize| format!("book {n}");
    let snapshot = snapshot(name);
    let folder = tempfile::tempdir().unwrap();
    // Row 0 is padding.
    let list = folder.path().join("ids.txt");
    let lines: Vec<String> = std::iter::once(String::new()).chain((1..=ITEMS).map(name)).collect();
    fs::write(&list, lines.join("\r\n")).unwrap();
    let file = golden("start_gru4rec.safetensors");
    let recipe = recipe("gru4rec", 0, &file, list.to_str().unwrap(), GRU4REC);
    let model = fit(&recipe, &snapshot, &mut FitContext::quiet(1)).unwrap();
    let miss = miss(&*model, "gru4rec", &snapshot, name);
    assert!(miss < 1e-5, "{miss}");
}

#[test]
fn what_no_name_covers_begins_as_ever() {
    let snapshot = snapshot(|n| n.to_string());
    let words = Arc::new(Words::default());
    let mut ctx = FitContext { progress: words.clone(), ..FitContext::quiet(1) };
    let file = golden("start_sasrec.safetensors");
    let names = SASREC.replace("\"norm.*\" = \"last_layernorm.*\"", "");
    let model = fit(&recipe("sasrec", 0, &file, "id", &names), &snapshot, &mut ctx).unwrap();
    let weights = model.weights();
    assert_eq!(weights.f32("norm.weight").unwrap().1, [1.0; 8]);
    // The item without a row there, beside one that has it: random and small.
    let (_, items) = weights.f32("items").unwrap();
    let new = &items[snapshot.items.get("new").unwrap() as usize * 8..][..8];
    assert!(new.iter().all(|w| *w != 0.0 && w.abs() < 0.1), "{new:?}");
    let said = words.0.lock().unwrap();
    assert!(said[0].ends_with("their own beginning keep: norm.weight, norm.bias"), "{said:?}");
}

#[test]
fn learning_goes_on_from_there() {
    let snapshot = snapshot(|n| n.to_string());
    let file = golden("start_sasrec.safetensors");
    let text = recipe("sasrec", 1, &file, "id", SASREC)
        .replace("epochs = 1", "epochs = 1\nlearning_rate = 1e-3\nschedule = { warm_up = 0 }");
    let model = fit(&text, &snapshot, &mut FitContext::quiet(1)).unwrap();
    let miss = miss(&*model, "sasrec", &snapshot, |n| n.to_string());
    assert!((1e-4..0.5).contains(&miss), "{miss}");
}

#[test]
fn a_run_does_not_go_on_with_other_start_weights() {
    let snapshot = snapshot(|n| n.to_string());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("weights.safetensors");
    let bytes = fs::read(golden("start_sasrec.safetensors")).unwrap();
    fs::write(&file, &bytes).unwrap();
    let text = recipe("sasrec", 1, &file, "id", SASREC);
    let mut ctx =
        FitContext { checkpoints: Some(folder.path().to_owned()), resume: true, ..FitContext::quiet(1) };
    fit(&text, &snapshot, &mut ctx).unwrap();
    fit(&text, &snapshot, &mut ctx).unwrap();
    let mut other = bytes;
    *other.last_mut().unwrap() ^= 1;
    fs::write(&file, other).unwrap();
    let error = fit(&text, &snapshot, &mut ctx).err().unwrap().to_string();
    assert!(error.contains("another run (\"start "), "{error}");
}

#[test]
fn the_plan_counts_the_file() {
    let snapshot = snapshot(|n| n.to_string());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("weights.safetensors");
    let needed = |bytes: u64| {
        fs::File::create(&file).unwrap().set_len(bytes).unwrap();
        let mut ctx = FitContext { memory: 0, ..FitContext::quiet(1) };
        match fit(&recipe("sasrec", 0, &file, "id", SASREC), &snapshot, &mut ctx) {
            Err(FitError::Memory { needed, .. }) => needed,
            other => panic!("{:?}", other.err()),
        }
    };
    assert_eq!(needed(64 << 20) - needed(0), 64);
}

#[test]
fn mistakes_are_answered_in_words() {
    let snapshot = snapshot(|n| n.to_string());
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let sasrec = golden("start_sasrec.safetensors");
    let error = |weights: &Path, rows: &str, names: &str| {
        let text = recipe("sasrec", 0, weights, rows, names);
        match fit(&text, &snapshot, &mut FitContext::quiet(1)) {
            Err(FitError::Start(words)) => words,
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("fits: {names}"),
        }
    };
    for (names, words) in [
        ("", "names is empty; name at least one of places, blocks.0.attention_norm.weight"),
        ("itms = 'item_emb.weight'", "the model has no itms; its nearest are items, "),
        (
            "items = 'item_emb.wieght'",
            "item_emb.wieght, which the file does not have; the nearest there are item_emb.weight",
        ),
        ("places = 'item_emb.bias'", "places is to begin with item_emb.bias"),
        (
            "'blocks.*.attention.in_proj.weight' = 'attention.*.in_proj_weight'",
            "begin with attention.0.in_proj_weight",
        ),
        ("'norm.*' = 'last_layernorm.weight'", "must have one `*` on both sides, or none; it has 1 and 0"),
        ("'b*.*' = 'b*.*'", "it has 2 and 2"),
        (
            "'norm.*' = 'last_layernorm.*'\n'norm.bias' = 'last_layernorm.weight'",
            "norm.bias is to begin with both last_layernorm.bias and last_layernorm.weight",
        ),
        (
            "'norm.bias' = 'item_emb.weight'",
            "norm.bias must be 1 × 8, item_emb.weight of the file has shape [13, 8]",
        ),
        (
            "'norm.bias' = 'attention_layers.0.in_proj_bias'",
            "1 × 8, attention_layers.0.in_proj_bias of the file has shape [24]",
        ),
        (
            "places = 'forward_layernorms.0.bias'",
            "places must be 6 × 8 or more rows, forward_layernorms.0.bias of the file has shape [8]",
        ),
        (
            "'blocks.0.feed_forward.0.weight' = 'attention_layers.0.in_proj_weight'",
            "must be 8 × 8, attention_layers.0.in_proj_weight of the file has shape [24, 8]",
        ),
    ] {
        let found = error(&sasrec, "id", names);
        assert!(found.contains(words), "{names}: {found}");
    }

    let items = "items = 'item_emb.weight'";
    let found = error(&path("none.safetensors"), "id", items);
    assert!(found.contains("none.safetensors cannot be read"), "{found}");
    fs::write(path("text"), "no weights at all").unwrap();
    let found = error(&path("text"), "id", items);
    assert!(found.contains("is not a sound safetensors file"), "{found}");

    let list = |text: &[u8]| {
        fs::write(path("ids.txt"), text).unwrap();
        error(&sasrec, path("ids.txt").to_str().unwrap(), items)
    };
    let found = list(b"x\ny\n");
    assert!(
        found.contains("no item has a row in item_emb.weight (13 rows): items have ids such as \"12\""),
        "{found}"
    );
    assert!(list(b"1\n\n2\n1\n").contains("has \"1\" twice, in lines 1 and 4"));
    assert!(list("1\n".repeat(14).as_bytes()).contains("has 14 lines, the tensor 13 rows"));
    assert!(list(b"\xff\xfe").contains("is not UTF-8 text"));
    let found = error(&sasrec, "nowhere.txt", items);
    assert!(found.contains("nowhere.txt cannot be read"), "{found}");

    // Numbers of another kind, and what is none.
    let write = |array: sommelier_models::Array| {
        let mut weights = sommelier_models::Weights::default();
        weights.0.insert("w".into(), array);
        weights.write(&path("made")).unwrap();
        error(&path("made"), "id", "'norm.bias' = 'w'")
    };
    let found = write(sommelier_models::Array::U32 { shape: vec![8], data: vec![1; 8] });
    assert!(found.contains("w holds U32, expected F32, F64, F16 or BF16"), "{found}");
    let mut data = vec![1.0; 8];
    data[3] = f32::NAN;
    let found = write(sommelier_models::Array::F32 { shape: vec![8], data });
    assert!(found.contains("w holds NaN at place 3"), "{found}");
}

#[test]
fn no_rounds_are_for_start_weights_only() {
    let snapshot = snapshot(|n| n.to_string());
    let text = "kind = 'sasrec'\ntraining = { epochs = 0 }";
    let error = fit(text, &snapshot, &mut FitContext::quiet(1)).err().unwrap().to_string();
    assert!(error.contains("at least 1, or 0 with sequence.start"), "{error}");
    let unknown = "kind = 'sasrec'\n[sequence.start]\nweight = 'x'\nnames = {}";
    assert!(toml::from_str::<ModelConfig>(unknown).unwrap_err().to_string().contains("weight"));
}

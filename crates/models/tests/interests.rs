//! What follows depends on the first step of a history and on its last: models must join long ago with just now.

use sommelier_core::{Allowed, FitContext, ItemIx, ResolvedQuery, Rng};
use sommelier_data::Snapshot;
use sommelier_models::{Array, ModelConfig};

const COLOURS: usize = 2;
const SHAPES: usize = 4;
const BETWEEN: usize = 6;

/// A colour, shapes at random, and then the thing that has this colour and the last shape. Things are equally popular.
fn history(colour: usize, rng: &mut Rng) -> Vec<String> {
    let shapes: Vec<usize> = (0..BETWEEN).map(|_| rng.below(SHAPES)).collect();
    let mut steps = vec![format!("colour {colour}")];
    steps.extend(shapes.iter().map(|shape| format!("shape {shape}")));
    steps.push(format!("thing {colour} {}", shapes[BETWEEN - 1]));
    steps
}

fn train() -> Snapshot {
    let mut rng = Rng::new(3);
    let mut pairs = Vec::new();
    for person in 0..400 {
        pairs.extend(history(person % COLOURS, &mut rng).into_iter().map(|i| (format!("p{person}"), i)));
    }
    Snapshot::from_pairs("things", &pairs.iter().map(|(u, i)| (u.as_str(), i.as_str())).collect::<Vec<_>>())
}

/// Share of strangers whose thing comes first.
fn hits(text: &str, train: &Snapshot) -> f64 {
    let config: ModelConfig = toml::from_str(text).unwrap_or_else(|e| panic!("{text}: {e}"));
    let model = config.fit(train, &mut FitContext::quiet(7)).unwrap_or_else(|e| panic!("{text}: {e}"));
    let mut rng = Rng::new(99);
    let asked = 100;
    let hits = (0..asked).filter(|person| {
        let steps = history(person % COLOURS, &mut rng);
        let items: Vec<ItemIx> = steps.iter().map(|i| ItemIx(train.items.get(i).unwrap())).collect();
        let q = ResolvedQuery::from_items(items[..items.len() - 1].iter().copied());
        let best = model.retrieve(&q, 1, &Allowed::everything());
        best[0].item == items[items.len() - 1]
    });
    hits.count() as f64 / asked as f64
}

const SEQUENCE: &str =
    "sequence = { length = 8, batch = 32, initial = 0.1 }\ntraining = { epochs = 60, learning_rate = 0.01 }";

#[test]
fn what_popularity_cannot_tell_is_told() {
    let train = train();
    assert!(hits("kind = 'popularity'", &train) < 0.3);
    let hcn = format!("kind = 'hcn'\ndim = 16\ndropout = 0.0\ninterests = 2\nrecent = 2\n{SEQUENCE}");
    let share = hits(&hcn, &train);
    assert!(share > 0.8, "{share}");
    let wrapped = format!(
        "kind = 'ada_retrieval'\nrounds = 3\nretrieved = 2\ndropout = 0.0\n[backbone]\nkind = 'gru4rec'\ndim = 16\nhidden = 32\ndropout = 0.0\n{SEQUENCE}"
    );
    let share = hits(&wrapped, &train);
    assert!(share > 0.8, "{share}");
}

#[test]
fn later_rounds_learn_too() {
    let train = train();
    let fit = |rounds: usize, decay: f32| {
        let text = format!(
            "kind = 'ada_retrieval'\nrounds = {rounds}\nretrieved = 2\ndecay = {decay:?}\n[backbone]\nkind = 'gru4rec'\ndim = 8\nhidden = 8\n{}",
            SEQUENCE.replace("epochs = 60", "epochs = 3")
        );
        let config: ModelConfig = toml::from_str(&text).unwrap();
        config.fit(&train, &mut FitContext::quiet(7)).unwrap().weights()
    };
    // What both adapters add begins at nothing, and only the rounds' losses move it.
    let weights = fit(2, 0.3);
    for name in ["adapter.attention.out.weight", "adapter.dense.1.weight"] {
        let Some(Array::F32 { data, .. }) = weights.0.get(name) else { panic!("no {name}") };
        assert!(data.iter().any(|v| *v != 0.0), "{name}: {data:?}");
    }
    assert!(fit(2, 0.9) != weights, "what a round counts makes no difference");
    assert!(fit(1, 0.3).0.contains_key("adapter.norm.weight"));
}

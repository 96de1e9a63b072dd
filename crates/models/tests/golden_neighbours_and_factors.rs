//! ItemKNN, EASE and iALS against numbers that NumPy and implicit made (golden/make_neighbours_and_factors.py).

use serde_json::Value;
use sommelier_core::{Allowed, FitContext, ItemIx, ResolvedQuery, Vocab};
use sommelier_data::snapshot::{Events, Snapshot, TimeQuality};
use sommelier_models::{Array, Model, ModelConfig, Weights};

fn golden() -> Value {
    serde_json::from_str(include_str!("golden/neighbours_and_factors.json")).unwrap()
}

fn matrix(value: &Value) -> Vec<Vec<f32>> {
    serde_json::from_value(value.clone()).unwrap()
}

/// One event per pair, with the matrix's number as its weight.
fn snapshot(x: &[Vec<f32>]) -> Snapshot {
    let mut events = Events { ptr: vec![0], ..Events::default() };
    for row in x {
        for (i, &weight) in row.iter().enumerate().filter(|(_, w)| **w > 0.0) {
            events.item.push(i as u32);
            events.weight.push(weight);
        }
        events.ptr.push(events.item.len());
    }
    let n = events.item.len();
    (events.kind, events.at, events.value) = (vec![0; n], vec![0; n], vec![1.0; n]);
    let ids = |n: usize| Vocab::from_ids((0..n).map(|i| i.to_string()));
    let kinds = vec!["rating".to_owned()];
    Snapshot::assemble("golden", 0, ids(x.len()), ids(x[0].len()), kinds, TimeQuality::None, events)
}

fn fit(config: &str, snapshot: &Snapshot) -> Box<dyn Model> {
    toml::from_str::<ModelConfig>(config).unwrap().fit(snapshot, &mut FitContext::quiet(3)).unwrap()
}

/// Scores of every item for a history of the one item i: row i of an item–item model.
fn item_item(model: &dyn Model, items: usize) -> Vec<Vec<f32>> {
    let all: Vec<ItemIx> = (0..items as u32).map(ItemIx).collect();
    let row = |i: &ItemIx| {
        let mut out = vec![0.0; items];
        model.score(&ResolvedQuery::from_items([*i]), &all, &mut out);
        out
    };
    all.iter().map(row).collect()
}

fn check(name: &str, ours: &[Vec<f32>], theirs: &[Vec<f32>], tolerance: f32) {
    for (r, (a, b)) in ours.iter().zip(theirs).enumerate() {
        for (c, (a, b)) in a.iter().zip(b).enumerate() {
            assert!((a - b).abs() <= tolerance * (1.0 + b.abs()), "{name} ({r}, {c}): ours {a}, theirs {b}");
        }
    }
}

#[test]
fn item_item_matrices() {
    let golden = golden();
    let snapshot = snapshot(&matrix(&golden["x"]));
    for (name, config) in [
        ("ease_l2_2", "kind = 'ease'\nl2 = 2.0"),
        ("ease_weighted_l2_5", "kind = 'ease'\nl2 = 5.0\nweighted = true"),
        ("cosine", "kind = 'item_knn'"),
        ("tf_idf", "kind = 'item_knn'\nweighting = 'tf_idf'"),
        ("bm25", "kind = 'item_knn'\nweighting = 'bm25'\nsimilarity = 'dot'"),
    ] {
        let ours = item_item(&*fit(config, &snapshot), snapshot.items.len());
        // implicit keeps negative similarities (a column chosen by nearly all has a negative idf); we keep none.
        let mut theirs = matrix(&golden[name]);
        if config.contains("item_knn") {
            theirs.iter_mut().flatten().for_each(|v| *v = v.max(0.0));
        }
        check(name, &ours, &theirs, 1e-5);
    }
}

#[test]
fn ials_folds_in_and_explains_as_implicit_does() {
    let golden = golden();
    let x = matrix(&golden["x"]);
    let snapshot = snapshot(&x);
    let y = matrix(&golden["item_factors"]);
    let dim = y[0].len();
    let mut weights = Weights::default();
    weights.set_f32("items", &[y.len(), dim], y.concat());
    let square = |d: usize| y.iter().map(|row| row[d] * row[d]).sum();
    weights.set_f32("diagonal", &[dim], (0..dim).map(square).collect());
    let config = "kind = 'ials'\ndim = 3\nalpha = 2.0\nunobserved = 1.0\nl2 = 0.5\nl2_exponent = 0.0";
    let model = toml::from_str::<ModelConfig>(config).unwrap().load(&weights).unwrap();
    let all: Vec<ItemIx> = (0..y.len() as u32).map(ItemIx).collect();
    let theirs = matrix(&golden["fold_in_alpha_2_l2_half"]);
    for (u, x) in x.iter().enumerate() {
        let q = snapshot.query(u);
        // Implicit's right-hand side is Σ (1 + αr) y where ours is Σ αr y: the sum of two of our linear answers.
        let h_inverse = |item: ItemIx| {
            let shares = model.contributions(&q, item, 99);
            shares.iter().map(|&(i, s)| s / (2.0 * x[i.ix()]) * (1.0 + 2.0 * x[i.ix()])).sum::<f32>()
        };
        for &item in &all {
            let (ours, theirs) = (h_inverse(item), theirs[u][item.ix()]);
            assert!((ours - theirs).abs() < 1e-4, "user {u}, item {item:?}: ours {ours}, implicit {theirs}");
        }
        // And the score we serve is the sum of its contributions.
        for c in model.retrieve(&q, 5, &Allowed::everything()) {
            let sum: f32 = model.contributions(&q, c.item, 99).iter().map(|s| s.1).sum();
            assert!((sum - c.score).abs() < 1e-4);
        }
    }
}

#[test]
fn ials_reaches_the_best_known_loss() {
    let golden = golden();
    let x = matrix(&golden["x"]);
    let snapshot = snapshot(&x);
    let best = golden["objective_alpha_2_unobserved_half_l2_1"].as_f64().unwrap();
    for solver in ["cg", "cholesky"] {
        let config = format!(
            "kind = 'ials'\ndim = 3\nalpha = 2.0\nunobserved = 0.5\nl2 = 1.0\nl2_exponent = 0.0\niterations = 200\nsolver = '{solver}'"
        );
        let model = fit(&config, &snapshot);
        let weights = model.weights();
        let Array::F32 { data: y, .. } = &weights.0["items"] else { panic!("items are f32") };
        let norms: f64 = y.iter().map(|v| f64::from(*v).powi(2)).sum();
        // A user's part of the loss at its optimum is Σ w − Σ w s, for every quadratic with this right-hand side.
        let mut loss = norms;
        for (u, x) in x.iter().enumerate() {
            let mut s = vec![0.0; x.len()];
            let all: Vec<ItemIx> = (0..x.len() as u32).map(ItemIx).collect();
            model.score(&snapshot.query(u), &all, &mut s);
            loss += x.iter().zip(&s).map(|(x, s)| f64::from(2.0 * x * (1.0 - s))).sum::<f64>();
        }
        assert!((loss / best - 1.0).abs() < 0.01, "{solver}: {loss}, best known {best}");
    }
}

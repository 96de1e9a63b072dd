//! The linear and neighbourhood models against scikit-learn, SciPy and NumPy (tests/golden/linear.py made the numbers).

use serde_json::Value;
use sommelier_core::{FitContext, ItemIx, ResolvedQuery};
use sommelier_data::Snapshot;
use sommelier_models::ModelConfig;

const USERS: u32 = 40;
const ITEMS: u32 = 15;

fn golden() -> Value {
    serde_json::from_str(include_str!("golden/linear.json")).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

/// The matrix of the recipe; indices of items equal their numbers.
fn train() -> Snapshot {
    let chosen = |u: u32, i: u32| (u * 7 + i * 13 + u * i * 5 + u * u * 3) % 11 < 4;
    // Item ids get their indices in order of first sight, so every item is first seen in order.
    let mut pairs: Vec<(String, String)> = Vec::new();
    for i in 0..ITEMS {
        for u in (0..USERS).filter(|&u| chosen(u, i)) {
            pairs.push((format!("u{u}"), format!("i{i}")));
        }
    }
    let train = Snapshot::from_pairs(
        "golden",
        &pairs.iter().map(|(u, i)| (u.as_str(), i.as_str())).collect::<Vec<_>>(),
    );
    assert!((0..ITEMS).all(|i| train.items.id(i) == format!("i{i}")));
    train
}

fn check(config: &str, history: &[u32], expected: &[f64], tolerance: f64) {
    let config: ModelConfig = toml::from_str(config).unwrap();
    let model = config.fit(&train(), &mut FitContext::quiet(1)).unwrap();
    let items: Vec<ItemIx> = (0..ITEMS).map(ItemIx).collect();
    let mut scores = vec![f32::NAN; items.len()];
    model.score(&ResolvedQuery::from_items(history.iter().map(|&i| ItemIx(i))), &items, &mut scores);
    for (i, (&got, &expected)) in scores.iter().zip(expected).enumerate() {
        assert!(
            (f64::from(got) - expected).abs() < tolerance,
            "{config:?}, item {i}: {got}, expected {expected}"
        );
    }
}

#[test]
fn slim_is_elastic_net() {
    for (name, signed) in [("slim", false), ("slim_signed", true)] {
        let w = numbers(&golden()[name]);
        let config =
            format!("kind = 'slim'\nl1 = 0.5\nl2 = 2.0\nsigned = {signed}\nsweeps = 2000\ntolerance = 1e-9");
        for i in 0..ITEMS {
            let row = &w[(i * ITEMS) as usize..((i + 1) * ITEMS) as usize];
            check(&config, &[i], row, 1e-5);
        }
    }
}

#[test]
fn pure_svd_is_svds() {
    check("kind = 'pure_svd'\ndim = 5", &[0, 4, 9], &numbers(&golden()["pure_svd"]["scores"]), 1e-4);
}

#[test]
fn user_knn_is_numpy() {
    check("kind = 'user_knn'\ntop_k = 7\nshrink = 2.0", &[0, 4, 9], &numbers(&golden()["user_knn"]), 1e-5);
}

#[test]
fn rp3beta_is_numpy() {
    let golden = golden();
    for (name, normalise) in [("walks", false), ("normalised", true)] {
        let config =
            format!("kind = 'rp3beta'\nalpha = 0.7\nbeta = 0.4\nneighbours = 100\nnormalise = {normalise}");
        check(&config, &[0, 4, 9], &numbers(&golden["rp3beta"][name]), 1e-5);
    }
}

#[test]
fn ease_is_numpy() {
    check("kind = 'ease'\nl2 = 3.0", &[0, 4, 9], &numbers(&golden()["ease"]), 1e-4);
}

//! Rating prediction against Surprise (tests/golden/ratings.py made the numbers).

use serde_json::Value;
use sommelier_core::{FitContext, ItemIx, ResolvedQuery};
use sommelier_data::Snapshot;
use sommelier_models::ModelConfig;

const USERS: u32 = 30;
const ITEMS: u32 = 12;

fn rating(u: u32, i: u32) -> Option<f32> {
    let given = (u * 7 + i * 13 + u * i * 5 + u * u * 3) % 11 < 6;
    given.then(|| 1.0 + ((u * 3709 + i * 6113 + u * i * 1777) % 4001) as f32 / 1000.0)
}

/// The ratings of the recipe; user and item ids are their numbers.
fn train() -> Snapshot {
    let rated: Vec<(String, String, f32)> = (0..USERS)
        .flat_map(|u| (0..ITEMS).filter_map(move |i| Some((u.to_string(), i.to_string(), rating(u, i)?))))
        .collect();
    let pairs: Vec<(&str, &str)> = rated.iter().map(|(u, i, _)| (u.as_str(), i.as_str())).collect();
    let train = Snapshot::from_pairs("ratings", &pairs);
    let mut events = (*train.events).clone();
    events.weight = rated.iter().map(|r| r.2).collect();
    train.with_events(events)
}

#[test]
fn predictions_are_surprises() {
    let golden: Value = serde_json::from_str(include_str!("golden/ratings.json")).unwrap();
    let train = train();
    for (name, settings) in [
        ("baseline_only", "top_k = 0"),
        ("baseline", ""),
        ("baseline_5", "top_k = 5"),
        ("user_mean", "centre = 'user_mean'"),
        ("user_mean_5", "centre = 'user_mean'\ntop_k = 5"),
        ("none", "centre = 'none'"),
        ("none_5", "centre = 'none'\ntop_k = 5"),
    ] {
        let config: ModelConfig = toml::from_str(&format!("kind = 'rating_knn'\n{settings}")).unwrap();
        let model = config.fit(&train, &mut FitContext::quiet(1)).unwrap();
        let items: Vec<ItemIx> =
            (0..ITEMS).map(|i| ItemIx(train.items.get(&i.to_string()).unwrap())).collect();
        let want = golden[name].as_array().unwrap();
        assert_eq!(want.len(), (USERS * ITEMS) as usize);
        for (user, want) in want.chunks(ITEMS as usize).enumerate() {
            let mut got = vec![f32::NAN; items.len()];
            let known = train.users.get(&user.to_string());
            let q = known.map_or_else(ResolvedQuery::default, |u| train.query(u as usize));
            model.score(&q, &items, &mut got);
            for (i, (got, want)) in got.iter().zip(want).enumerate() {
                // A rating that the user gave is Surprise's neighbour of itself, and not ours.
                if rating(user as u32, i as u32).is_some() && !name.starts_with("baseline_only") {
                    continue;
                }
                let want = want.as_f64().unwrap();
                assert!(
                    (f64::from(*got) - want).abs() < 1e-4,
                    "{name}, user {user}, item {i}: {got}, {want}"
                );
            }
        }
    }
}

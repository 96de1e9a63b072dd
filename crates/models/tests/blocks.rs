//! Every model of this half finds two groups of readers, answers strangers, explains its scores and survives a file.

use sommelier_core::{Allowed, FitContext, ItemIx, ResolvedQuery, Seen, Time};
use sommelier_data::snapshot::Snapshot;
use sommelier_models::{Array, Model, ModelConfig, Weights};

/// Twelve readers of each of two shelves of six books; each left out a different one.
fn shelves() -> Snapshot {
    let mut pairs = Vec::new();
    for reader in 0..24 {
        for book in 0..6 {
            if book != reader / 2 % 6 {
                pairs.push((format!("u{reader}"), format!("b{}", book + 6 * (reader % 2))));
            }
        }
    }
    let pairs: Vec<(&str, &str)> = pairs.iter().map(|(u, i)| (u.as_str(), i.as_str())).collect();
    Snapshot::from_pairs("shelves", &pairs)
}

fn configs() -> Vec<ModelConfig> {
    let text = [
        "kind = 'ease'\nl2 = 1.0",
        "kind = 'ease'\nl2 = 1.0\nweighted = true",
        "kind = 'ials'\ndim = 4\nunobserved = 0.1",
        "kind = 'ials'\ndim = 4\nunobserved = 0.1\nsolver = 'cholesky'",
        "kind = 'ials'\ndim = 3\nunobserved = 1.0\nalpha = 10.0\nl2 = 1.0\nl2_exponent = 0.0",
        "kind = 'bpr'\ndim = 4\nepochs = 200\nlearning_rate = 0.1",
        "kind = 'bpr'\ndim = 4\nepochs = 200\nlearning_rate = 0.1\nnegatives = 'popular'",
        "kind = 'item_knn'",
        "kind = 'item_knn'\nsimilarity = 'jaccard'\nkeep = 'of_candidate'\nnormalise = true",
        "kind = 'item_knn'\nsimilarity = 'tversky'\nalpha = 0.2\nshrink = 3.0\nweighted = false",
        "kind = 'item_knn'\nweighting = 'tf_idf'",
        "kind = 'item_knn'\nweighting = 'bm25'\nsimilarity = 'dot'",
    ];
    text.iter().map(|t| toml::from_str(t).unwrap()).collect()
}

fn fit(config: &ModelConfig, snapshot: &Snapshot, threads: usize) -> Box<dyn Model> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| config.fit(snapshot, &mut FitContext { threads, ..FitContext::quiet(5) })).unwrap()
}

/// BPR's item bias is in no share: the last number of the item's row.
fn bias(model: &dyn Model, item: ItemIx) -> f32 {
    match model.weights().0.get("items") {
        Some(Array::F32 { shape, data }) if model.kind() == "bpr" => data[(item.ix() + 1) * shape[1] - 1],
        _ => 0.0,
    }
}

#[test]
fn strangers_get_their_shelf_and_reasons_that_add_up() {
    let snapshot = shelves();
    for config in configs() {
        let model = fit(&config, &snapshot, 2);
        for shelf in 0..2 {
            let book = |b: usize| snapshot.items.item(&format!("b{}", b + 6 * shelf)).unwrap();
            let history = [book(0), book(1), book(2)];
            let q = ResolvedQuery::from_items(history);
            let allowed = Allowed::everything().without(history);
            let found = model.retrieve(&q, 3, &allowed);
            for c in &found {
                assert!([3, 4, 5].map(book).contains(&c.item), "{config:?}: {found:?}");
                let mut score = [0.0];
                model.score(&q, &[c.item], &mut score);
                assert!((score[0] - c.score).abs() < 1e-5, "{config:?}");
                let shares: f32 = model.contributions(&q, c.item, 99).iter().map(|s| s.1).sum();
                let sum = shares + bias(&*model, c.item);
                assert!(
                    (sum - c.score).abs() < 2e-4 * c.score.abs().max(0.1),
                    "{config:?}: {sum} for {}",
                    c.score
                );
            }
            assert_eq!(found.len(), 3, "{config:?}");
            let like = ResolvedQuery { like: vec![book(3)], ..ResolvedQuery::default() };
            let near = model.retrieve(&like, 5, &Allowed::everything().without([book(3)]));
            assert!(near.iter().all(|c| (0..6).map(book).any(|b| b == c.item)), "{config:?}: {near:?}");
        }
        assert!(model.retrieve(&ResolvedQuery::default(), 3, &Allowed::everything()).is_empty());
    }
}

#[test]
fn files_threads_and_batches_change_no_bit() {
    let snapshot = shelves();
    let file = tempfile::NamedTempFile::new().unwrap();
    let queries: Vec<ResolvedQuery> = (0..24).map(|u| snapshot.query(u)).collect();
    let allowed = vec![Allowed::everything(); 24];
    for config in configs() {
        let model = fit(&config, &snapshot, 2);
        // BPR cuts its rounds by the number of threads; the others give the same bits for any number.
        let threads = if config.kind() == "bpr" { 2 } else { 1 };
        assert_eq!(model.weights(), fit(&config, &snapshot, threads).weights(), "{config:?}");
        model.weights().write(file.path()).unwrap();
        let back = config.load(&Weights::read(file.path()).unwrap()).unwrap();
        let answers = model.retrieve_batch(&queries, 4, &allowed);
        assert_eq!(answers, back.retrieve_batch(&queries, 4, &allowed));
        for (q, answer) in queries.iter().zip(&answers) {
            assert_eq!(*answer, model.retrieve(q, 4, &allowed[0]));
        }
    }
}

#[test]
fn odd_queries_and_small_budgets() {
    let snapshot = shelves();
    let seen = |item, weight| Seen { item: ItemIx(item), weight, at: Time::default() };
    for config in configs() {
        let model = fit(&config, &snapshot, 2);
        let history =
            vec![seen(1, 1.0), seen(4_000_000, 1.0), seen(1, 2.0), seen(2, -1.0), seen(3, f32::NAN)];
        let odd = ResolvedQuery { history, like: vec![ItemIx(9_999)], ..ResolvedQuery::default() };
        let mut out = [1.0; 2];
        model.score(&odd, &[ItemIx(0), ItemIx(77_777)], &mut out);
        assert!(out.iter().all(|s| s.is_finite()), "{config:?}");
        model.retrieve(&odd, 1_000_000_000, &Allowed::everything());
        assert!(model.retrieve(&odd, 0, &Allowed::everything()).is_empty());
        model.contributions(&odd, ItemIx(77_777), 3);
        let refused = config.fit(&snapshot, &mut FitContext { memory: 1, ..FitContext::quiet(1) });
        assert!(refused.err().unwrap().to_string().contains("--memory"), "{config:?}");
        let stopped = FitContext::quiet(1);
        stopped.cancel.cancel();
        assert_eq!(config.fit(&snapshot, &mut stopped.clone()).err().unwrap().to_string(), "cancelled");
    }
}

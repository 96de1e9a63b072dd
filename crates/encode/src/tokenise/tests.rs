//! What every tokeniser must do, whatever its kind.

use super::*;
use crate::EncodeError;
use sommelier_core::{Rng, Stopped};

/// `n` vectors in groups that lie apart.
pub(super) fn grouped(n: usize, dim: usize, groups: usize, seed: u64) -> Vec<f32> {
    let mut rng = Rng::new(seed);
    let centres: Vec<f32> = (0..groups * dim).map(|_| 3.0 + 2.0 * rng.normal() as f32).collect();
    (0..n)
        .flat_map(|i| centres[i % groups * dim..][..dim].to_vec())
        .map(|c| c + 0.3 * rng.normal() as f32)
        .collect()
}

/// Σ |x − x̂|² / Σ |x − x̄|²
pub(super) fn lost(x: Rows, tokeniser: &dyn Tokeniser) -> f64 {
    let levels = tokeniser.sizes().len();
    let codes = Codes { sizes: tokeniser.sizes().to_vec(), rows: tokeniser.encode(x) };
    assert_eq!(codes.rows.len(), x.len() * levels);
    Quality::of(&codes, x, Some(tokeniser), 1).reconstruction.unwrap()
}

fn short(steps: usize) -> Training {
    Training { epochs: 1, least_steps: steps, batch: 64, learning_rate: 3e-3, ..Training::default() }
}

/// One small config of each kind, and of what they can do beside.
fn small(steps: usize) -> Vec<TokeniserConfig> {
    let residual = ResidualConfig { levels: 3, codes: 8, beam: 3, ..ResidualConfig::default() };
    let product = ProductConfig { levels: 2, codes: 12, ..ProductConfig::default() };
    let rq_vae = RqVaeConfig {
        hidden: vec![24],
        latent: 6,
        codes: 8,
        training: short(steps),
        ..RqVaeConfig::default()
    };
    let fsq = FsqConfig { values: vec![5, 4, 3, 4], group: 2, hidden: vec![24], training: short(steps) };
    vec![
        TokeniserConfig::Residual(residual.clone()),
        TokeniserConfig::Residual(ResidualConfig { uniform: Uniform::All, beam: 1, ..residual }),
        TokeniserConfig::RqVae(rq_vae.clone()),
        TokeniserConfig::RqVae(RqVaeConfig {
            codebooks: Codebooks::Gradient,
            diversity: 1e-3,
            clusters: 3,
            uniform: Uniform::Last,
            hidden: Vec::new(),
            beam: 3,
            ..rq_vae
        }),
        TokeniserConfig::Product(product.clone()),
        TokeniserConfig::Product(ProductConfig { rotate: Rotate::None, ..product }),
        TokeniserConfig::Fsq(fsq.clone()),
        TokeniserConfig::Fsq(FsqConfig { group: 1, ..fsq }),
        TokeniserConfig::Tree(TreeConfig { levels: 3, codes: 5, ..TreeConfig::default() }),
    ]
}

fn sequences(tokeniser: &dyn Tokeniser) -> usize {
    tokeniser.sizes().iter().map(|&s| s as usize).product()
}

#[test]
fn codes_are_codes_and_alternatives_are_in_order() {
    let data = grouped(200, 6, 12, 1);
    let x = Rows::new(&data, 6);
    for config in small(60) {
        let fitted = config.fit(x, None, &FitContext::quiet(4)).unwrap();
        let (kind, levels) = (config.kind(), fitted.sizes().len());
        let codes = fitted.encode(x);
        assert_eq!((fitted.dim(), codes.len()), (6, 200 * levels), "{kind}");
        let fit = |codes: &[u32]| codes.iter().zip(fitted.sizes()).all(|(c, s)| c < s);
        assert!(codes.chunks_exact(levels).chain(fitted.assign(x).chunks_exact(levels)).all(fit), "{kind}");
        let known = fitted.decode(&codes);
        assert!(known.len() == data.len() && known.iter().all(|v| v.is_finite()), "{kind}");
        assert!(fitted.encode(Rows::new(&[], 6)).is_empty() && fitted.decode(&[]).is_empty());
        for i in [0, 7, 199] {
            let own = &codes[i * levels..][..levels];
            let one = fitted.best(x.row(i), 1);
            assert_eq!((one.len(), &one[0].0[..]), (1, own), "{kind}");
            for most in [0, 5, 40, 5000] {
                let best = fitted.best(x.row(i), most);
                let lists = best.len() == most.min(sequences(&*fitted));
                assert!(lists || kind == "tree" && best.len() <= most, "{kind}: {} of {most}", best.len());
                assert!(best.is_sorted_by(|a, b| a.1 <= b.1), "{kind}");
                let distinct: std::collections::HashSet<_> = best.iter().map(|b| &b.0).collect();
                assert!(distinct.len() == best.len() && best.iter().all(|b| fit(&b.0)), "{kind}");
            }
        }
    }
}

#[test]
fn what_is_stored_is_the_same_tokeniser() {
    let data = grouped(150, 6, 10, 2);
    let x = Rows::new(&data, 6);
    for config in small(30) {
        let fitted = config.fit(x, None, &FitContext::quiet(5)).unwrap();
        let text = serde_json::to_string(&config).unwrap();
        let config: TokeniserConfig = serde_json::from_str(&text).unwrap();
        let weights = fitted.weights();
        let again = config.load(&weights).unwrap();
        assert_eq!(again.weights(), weights, "{text}");
        assert_eq!((again.dim(), again.sizes()), (fitted.dim(), fitted.sizes()));
        assert_eq!(again.encode(x), fitted.encode(x), "{text}");
        assert_eq!(again.assign(x), fitted.assign(x), "{text}");
        assert_eq!(again.decode(&fitted.encode(x)), fitted.decode(&fitted.encode(x)));
        assert_eq!(again.best(x.row(3), 9), fitted.best(x.row(3), 9));
        // Whatever is missing or of another shape is told, and nothing panics.
        for name in weights.0.keys().filter(|name| *name != "rotation") {
            let mut damaged = weights.clone();
            damaged.0.remove(name);
            assert!(config.load(&damaged).is_err(), "{text} without {name}");
            damaged.set_f32(name, &[1, 1], vec![-1.0]);
            assert!(config.load(&damaged).is_err() || name == "alignment", "{text} with another {name}");
            damaged.set_u32(name, &[2], vec![1, u32::MAX]);
            assert!(config.load(&damaged).is_err(), "{text} with another {name}");
        }
    }
}

#[test]
fn threads_change_nothing_and_seeds_do() {
    let data = grouped(300, 5, 14, 3);
    let x = Rows::new(&data, 5);
    let behaviour = grouped(300, 3, 7, 4);
    for config in small(40) {
        let run = |threads: usize, seed: u64| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let ctx = FitContext { threads, ..FitContext::quiet(seed) };
            let behaviour = config.reads_behaviour().then(|| Rows::new(&behaviour, 3));
            pool.install(|| {
                let fitted = config.fit(x, behaviour, &ctx).unwrap();
                (fitted.weights(), make_unique(&*fitted, x, Collisions::Extra).unwrap().0)
            })
        };
        let one = run(1, 6);
        assert_eq!(one, run(3, 6), "{}", config.kind());
        assert_ne!(one.0, run(1, 7).0, "{}", config.kind());
    }
}

#[test]
fn groups_are_told_apart_by_few_codes() {
    let data = grouped(600, 16, 30, 5);
    let x = Rows::new(&data, 16);
    for mut config in small(800) {
        if let TokeniserConfig::Fsq(FsqConfig { hidden, .. })
        | TokeniserConfig::RqVae(RqVaeConfig { hidden, .. }) = &mut config
        {
            *hidden = vec![48];
        }
        let fitted = config.fit(x, None, &FitContext::quiet(7)).unwrap();
        let codes = Codes { sizes: fitted.sizes().to_vec(), rows: fitted.encode(x) };
        let quality = Quality::of(&codes, x, Some(&*fitted), 1);
        // The mean alone is 1. Within groups is 2 % of what there is, and the tree has enough leaves to say it all but that.
        let bound = match config {
            TokeniserConfig::Residual(_) => 0.2,
            TokeniserConfig::RqVae(_) => 0.15,
            TokeniserConfig::Product(_) => 0.35,
            TokeniserConfig::Fsq(_) => 0.3,
            TokeniserConfig::Tree(_) => 0.03,
        };
        assert!(quality.reconstruction.unwrap() < bound, "{config:?}: {quality:?}");
        assert!(quality.levels.iter().all(|l| l.used > 0.9), "{config:?}: {quality:?}");
        // Ten of 599 others by chance would be 2 %.
        assert!(quality.neighbours.unwrap() > 0.4, "{config:?}: {quality:?}");
    }
}

#[test]
fn small_and_strange_input_is_answered() {
    let same = [2.5f32; 40];
    let line: Vec<f32> = (0..9).map(|i| i as f32).collect();
    let cases: [(&str, &[f32], usize); 5] = [
        ("one vector", &[1.0, -2.0, 0.5], 3),
        ("one vector of zeros", &[0.0; 4], 4),
        ("all alike", &same, 4),
        ("one dimension, fewer vectors than codes", &line, 1),
        ("large numbers", &[1e14, -1e14, 3e13, 5.0], 2),
    ];
    for (what, data, dim) in cases {
        let x = Rows::new(data, dim);
        for config in small(10) {
            let (kind, fitted) = (config.kind(), config.fit(x, None, &FitContext::quiet(8)));
            if kind == "product" && dim < 2 {
                let error = fitted.err().unwrap().to_string();
                assert!(error.contains("levels must be 1 to the vectors' length, received 2"), "{error}");
                continue;
            }
            let fitted = fitted.unwrap_or_else(|e| panic!("{what}, {kind}: {e}"));
            let codes = fitted.encode(x);
            assert!(fitted.decode(&codes).iter().all(|v| v.is_finite()), "{what}, {kind}");
            if what.starts_with("all") {
                assert!(codes.chunks_exact(fitted.sizes().len()).all(|c| c == &codes[..c.len()]), "{kind}");
                let lost = fitted.decode(&codes).iter().map(|v| (v - 2.5).abs()).fold(0.0, f32::max);
                assert!(lost < 0.2, "{what}, {kind}: {lost}");
            }
            let quality =
                Quality::of(&Codes { sizes: fitted.sizes().to_vec(), rows: codes }, x, Some(&*fitted), 1);
            assert!(
                quality.reconstruction.unwrap().is_finite()
                    && quality.levels.iter().all(|l| l.gini.is_finite())
            );
        }
    }
}

#[test]
fn what_cannot_be_is_told() {
    let data = grouped(60, 4, 5, 6);
    let x = Rows::new(&data, 4);
    let ctx = FitContext::quiet(1);
    let words = |config: &TokeniserConfig, x: Rows, b: Option<Rows>| {
        config.fit(x, b, &FitContext::quiet(1)).err().map_or_else(|| "nothing".to_owned(), |e| e.to_string())
    };
    for config in small(10) {
        let kind = config.kind();
        assert!(words(&config, Rows::new(&[], 4), None).contains("no vector"), "{kind}");
        for bad in [f32::NAN, f32::INFINITY, -1e25] {
            let mut broken = data.clone();
            broken[4 * 9 + 2] = bad;
            assert!(words(&config, Rows::new(&broken, 4), None).contains("vector 9 holds NaN"), "{kind}");
            let fitted = config.fit(x, None, &ctx).unwrap();
            let told = make_unique(&*fitted, Rows::new(&broken, 4), Collisions::Extra).unwrap_err();
            assert!(told.to_string().contains("vector 9 holds NaN"));
            // Without being asked to look, it is some code or other.
            let codes = fitted.encode(Rows::new(&broken, 4));
            assert!(
                codes
                    .chunks_exact(fitted.sizes().len())
                    .all(|c| c.iter().zip(fitted.sizes()).all(|(c, s)| c < s))
            );
            assert!(fitted.best(&broken[36..40], 3).len() <= 3);
            if bad.is_infinite() {
                break;
            }
        }
        let fitted = config.fit(x, None, &ctx).unwrap();
        let short = make_unique(&*fitted, Rows::new(&data, 2), Collisions::Keep).unwrap_err().to_string();
        assert!(short.contains("vectors have 2 numbers, the tokeniser reads 4"), "{short}");
        if config.reads_behaviour() {
            assert!(
                words(&config, x, Some(Rows::new(&data, 2)))
                    .contains("120 vectors of behaviour for 60 items")
            );
            let nothing = vec![f32::NAN; 60];
            assert!(
                words(&config, x, Some(Rows::new(&nothing, 1))).contains("of behaviour, vector 0 holds NaN")
            );
        } else {
            assert!(words(&config, x, Some(x)).contains("does not learn from vectors of behaviour"));
        }
        let stopped = FitContext::quiet(1);
        stopped.cancel.cancel();
        assert_eq!(config.fit(x, None, &stopped).err(), Some(EncodeError::Stopped(Stopped)), "{kind}");
    }
    let refused = |json: &str, expected: &str| {
        let config: TokeniserConfig = serde_json::from_str(json).unwrap();
        let told = words(&config, x, None);
        assert!(told.contains(expected), "{json}: {told}");
    };
    refused(r#"{"kind": "residual", "levels": 0}"#, "levels must be at least 1, received 0");
    refused(r#"{"kind": "residual", "codes": 60000}"#, "levels × codes must be few enough");
    refused(r#"{"kind": "residual", "beam": 0}"#, "beam must be at least 1");
    refused(r#"{"kind": "tree", "codes": 1}"#, "codes must be at least 2");
    refused(r#"{"kind": "product", "levels": 5}"#, "levels must be 1 to the vectors' length, received 5");
    refused(r#"{"kind": "fsq", "values": []}"#, "values must be one number or more");
    refused(r#"{"kind": "fsq", "values": [8, 1]}"#, "each at least 2, received 1");
    refused(r#"{"kind": "fsq", "values": [8, 8], "group": 3}"#, "group must be a divisor");
    refused(r#"{"kind": "fsq", "values": [65536, 65536], "group": 2}"#, "fewer than 2³² codes");
    refused(r#"{"kind": "rq_vae", "hidden": [8, 0]}"#, "hidden must be at least 1");
    refused(r#"{"kind": "rq_vae", "diversity": 0.1}"#, "diversity must be 0 unless codebooks");
    refused(r#"{"kind": "rq_vae", "decay": 1.0}"#, "decay must be 0 or more, and below 1");
    refused(r#"{"kind": "rq_vae", "training": {"batch": 0}}"#, "training.batch must be at least 1");
    refused(
        r#"{"kind": "rq_vae", "hidden": [8], "training": {"epochs": 3, "learning_rate": 1e30}}"#,
        "lower training.learning_rate",
    );
    assert!(serde_json::from_str::<TokeniserConfig>(r#"{"kind": "residual", "level": 3}"#).is_err());
    assert!(serde_json::from_str::<TokeniserConfig>(r#"{"kind": "hash"}"#).is_err());
    let default: TokeniserConfig = serde_json::from_str(r#"{"kind": "residual"}"#).unwrap();
    assert_eq!(default, TokeniserConfig::default());
}

#[test]
fn the_cheapest_ways_are_the_cheapest() {
    let mut rng = Rng::new(1);
    let mut list = |n: usize| {
        let mut list: Vec<(u32, f32)> = (0..n as u32).map(|k| (k, rng.unit() as f32)).collect();
        list.sort_by(|a, b| a.1.total_cmp(&b.1));
        list
    };
    for (a, b, c) in [(1, 1, 1), (4, 3, 5), (7, 2, 6)] {
        let lists = [list(a), list(b), list(c)];
        let mut all: Vec<f32> = Vec::new();
        lists[0].iter().for_each(|x| {
            lists[1].iter().for_each(|y| all.extend(lists[2].iter().map(|z| x.1 + y.1 + z.1)));
        });
        all.sort_by(f32::total_cmp);
        for most in [1, 2, 10, 1000] {
            let found = cheapest(lists.clone(), most);
            assert_eq!(found.iter().map(|f| f.1).collect::<Vec<_>>(), all[..most.min(all.len())]);
            let cost = |codes: &[u32]| {
                let of =
                    |(list, code): (&Vec<(u32, f32)>, &u32)| list.iter().find(|l| l.0 == *code).unwrap().1;
                lists.iter().zip(codes).map(of).sum::<f32>()
            };
            assert!(found.iter().all(|(codes, c)| (cost(codes) - c).abs() < 1e-6));
        }
    }
}

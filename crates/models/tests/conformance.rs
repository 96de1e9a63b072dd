//! What every model promises, checked for every kind there is: a new kind is in here the moment it has a name.

use proptest::prelude::*;
use sommelier_core::{
    Allowed, BitSet, Candidate, FitContext, ItemIx, ResolvedQuery, Rng, Seen, Time, UserIx,
};
use sommelier_data::Snapshot;
use sommelier_data::snapshot::{ItemCodes, ItemVectors};
use sommelier_models::{FitError, Model, ModelConfig, Weights};
use std::sync::Arc;

/// A config that learns something from a dozen items; the defaults are for real data.
fn small(kind: &str) -> ModelConfig {
    let settings = match kind {
        // Two colours, two directions; any further ones are noise here.
        "pure_svd" => "dim = 2",
        "ials" => "dim = 4",
        "bpr" => "dim = 8\nlearning_rate = 0.1\nepochs = 60",
        "slim" => "l1 = 0.5\nl2 = 1.0",
        "ease" | "sparse_ease" => "l2 = 1.0",
        // A fifth of the items are told in each round, so it takes more of them.
        "bert4rec" => {
            "dim = 8\ndropout = 0.0\nmasked = 0.4\nsequence = { length = 10, batch = 32, initial = 0.1 }\ntraining = { schedule = { warm_up = 0, then = 'constant' }, epochs = 60, learning_rate = 0.01 }"
        }
        "ada_retrieval" => {
            "rounds = 3\nretrieved = 3\ndropout = 0.0\nbackbone = { kind = 'gru4rec', dim = 4, dropout = 0.0, sequence = { length = 10, batch = 32, initial = 0.1 }, training = { schedule = { warm_up = 0, then = 'constant' }, epochs = 25, learning_rate = 0.02 } }"
        }
        "tiger" => {
            "dim = 8\nblocks = 1\nheads = 1\ninner = 16\ndropout = 0.0\nlength = 10\nbatch = 32\nbeam = 30\ninitial = 0.1\ntraining = { schedule = { warm_up = 0, then = 'constant' }, epochs = 25, learning_rate = 0.02 }"
        }
        "tiger_decoder" => {
            "dim = 8\nblocks = 1\nheads = 1\ninner = 16\ndropout = 0.0\nlength = 10\nbatch = 32\nbeam = 30\namong = 'tree'\ninitial = 0.1\ntraining = { schedule = { warm_up = 0, then = 'constant' }, epochs = 25, learning_rate = 0.02 }"
        }
        "liger" => {
            "dim = 8\nblocks = 1\nheads = 1\ninner = 16\ndropout = 0.0\nbeam = 30\nsequence = { length = 10, batch = 32, initial = 0.1 }\ntraining = { schedule = { warm_up = 0, then = 'constant' }, epochs = 25, learning_rate = 0.02 }"
        }
        "setrec" => {
            "dim = 8\nblocks = 1\nheads = 1\ninner = 16\ndropout = 0.0\nhidden = 8\nsemantic = 2\ntext = 'own'\nsequence = { length = 10, batch = 32, initial = 0.1 }\ntraining = { schedule = { warm_up = 0, then = 'constant' }, epochs = 25, learning_rate = 0.02 }"
        }
        kind if reads_in_order(kind) => {
            "dim = 4\ndropout = 0.0\nsequence = { length = 10, batch = 32, initial = 0.1 }\ntraining = { schedule = { warm_up = 0, then = 'constant' }, epochs = 25, learning_rate = 0.02 }"
        }
        "item2vec" | "meta_prod2vec" => {
            "[skip_gram]\ndim = 8\nwindow = 8\nnegatives = 5\nepochs = 40\nsubsample = 0.0\nlearning_rate = 0.1\npower = 0.75"
        }
        _ => "",
    };
    toml::from_str(&format!("kind = \"{kind}\"\n{settings}")).unwrap_or_else(|e| panic!("{kind}: {e}"))
}

fn fit(kind: &str, train: &Snapshot) -> Box<dyn Model> {
    small(kind).fit(train, &mut FitContext::quiet(7)).unwrap_or_else(|e| panic!("{kind}: {e}"))
}

/// Kinds that give everybody the same answer, or none in particular.
fn impersonal(kind: &str) -> bool {
    matches!(kind, "popularity" | "random")
}

/// Kinds that read a history in order: a part is what the score loses without the step.
fn reads_in_order(kind: &str) -> bool {
    matches!(
        kind,
        "sasrec"
            | "gru4rec"
            | "bert4rec"
            | "hstu"
            | "tisasrec"
            | "cape"
            | "mamba"
            | "comirec"
            | "hcn"
            | "ada_retrieval"
            | "tiger_decoder"
            | "liger"
            | "setrec"
            | "tiger"
    )
}

/// Whether the parts are said to sum to the score. BPR's leave out the item's bias, ratings their baseline, iALS does not
/// take likeness of items apart, what reads in order has no parts that sum, and a blend counts from the end of its lists.
fn exact(kind: &str, q: &ResolvedQuery) -> bool {
    let known = !impersonal(kind)
        && kind != "bpr"
        && !rates(kind)
        && !reads_in_order(kind)
        && kind != "blend"
        && (kind != "ials" || !q.history.is_empty());
    // `unlike` turns a similarity question without being an item of one's own.
    known && q.unlike.is_empty()
}

/// Kinds that tell ratings, and need ratings that differ to learn from.
fn rates(kind: &str) -> bool {
    kind == "rating_knn"
}

/// Every kind with a checkerboard that it can learn.
fn every_kind(check: impl Fn(&str, &Snapshot)) {
    // To tell colours from orders takes more histories than to count.
    let (taken, many, rated) = (checkerboard(0), checkerboard(11), rated_checkerboard());
    for kind in ModelConfig::KINDS {
        let board = match kind {
            kind if rates(kind) => &rated,
            kind if reads_in_order(kind) => &many,
            _ => &taken,
        };
        check(kind, board);
    }
}

const SIDE: u32 = 24;

/// User u took the items of its own colour, all but item u itself, in an order of its own. After the first of each user come
/// those of `others` that have taken the same in other orders.
fn checkerboard(others: u32) -> Snapshot {
    let names: Vec<(String, String)> = (0..SIDE * (1 + others))
        .flat_map(|n| {
            let (u, copy) = (n % SIDE, n / SIDE);
            let mut items: Vec<u32> = (0..SIDE).filter(|i| i % 2 == u % 2 && *i != u).collect();
            Rng::new(n.into()).shuffle(&mut items);
            let name = if copy == 0 { format!("u{u:02}") } else { format!("u{u:02} {copy}") };
            items.into_iter().map(move |i| (name.clone(), format!("i{i:02}")))
        })
        .collect();
    coded(Snapshot::from_pairs(
        "checkerboard",
        &names.iter().map(|(u, i)| (u.as_str(), i.as_str())).collect::<Vec<_>>(),
    ))
}

/// With two codes for each item, for those that write them, no two of fewer than 37 items have the same; and with vectors, for
/// those that read them: one says its colour and a little that is its own, one only which item it is.
fn coded(mut train: Snapshot) -> Snapshot {
    let items = train.items.len() as u32;
    let vector = |i: u32| {
        let own = i as f32 / 100.0;
        if colour(&train, ItemIx(i)) == 0 { [1.0, 0.0, own] } else { [0.0, 1.0, own] }
    };
    let rows = (0..items).flat_map(vector).collect();
    let text = ItemVectors { dim: 3, rows, known: items as usize };
    let one = |i: u32| (0..items).map(move |j| if i == j { 1.0 } else { 0.0 });
    let own =
        ItemVectors { dim: items as usize, rows: (0..items).flat_map(one).collect(), known: items as usize };
    let named = [("text", text.clone()), ("behaviour", text), ("own", own)];
    train.vectors = Arc::new(named.map(|(name, of)| (name.to_owned(), Arc::new(of))).into());
    let rows = (0..items).flat_map(|i| [i % 6, i / 6 % 6]).collect();
    train.codes = Some(Arc::new(ItemCodes { sizes: vec![6, 6], rows, known: vec![true; items as usize] }));
    train
}

/// User u gave the items of its own colour a 5 and the others a 1, all but two: item u itself and one of the others.
fn rated_checkerboard() -> Snapshot {
    let unrated = |u: u32, i: u32| i == u || i == (u + 1) % SIDE;
    let names: Vec<(String, String)> = (0..SIDE)
        .flat_map(|u| {
            (0..SIDE).filter(move |&i| !unrated(u, i)).map(move |i| (format!("u{u:02}"), format!("i{i:02}")))
        })
        .collect();
    let train = Snapshot::from_pairs(
        "ratings",
        &names.iter().map(|(u, i)| (u.as_str(), i.as_str())).collect::<Vec<_>>(),
    );
    let mut events = (*train.events).clone();
    for u in 0..events.users() {
        for e in train.events.of(u) {
            let same = colour(&train, ItemIx(events.item[e])) == u as u32 % 2;
            events.weight[e] = if same { 5.0 } else { 1.0 };
        }
    }
    train.with_events(events)
}

fn item(train: &Snapshot, number: u32) -> ItemIx {
    ItemIx(train.items.get(&format!("i{number:02}")).unwrap())
}

/// Of the number in its name; of other names any.
fn colour(train: &Snapshot, item: ItemIx) -> u32 {
    train.items.id(item.0).get(1..).and_then(|n| n.parse::<u32>().ok()).unwrap_or(item.0) % 2
}

fn all_scores(model: &dyn Model, q: &ResolvedQuery) -> Vec<f32> {
    let items: Vec<ItemIx> = (0..model.items() as u32).map(ItemIx).collect();
    let mut out = vec![f32::NAN; items.len()];
    model.score(q, &items, &mut out);
    out
}

fn bits(list: &[Candidate]) -> Vec<(u32, u32)> {
    list.iter().map(|c| (c.item.0, c.score.to_bits())).collect()
}

/// Every question that any of the checks asks.
fn questions(train: &Snapshot) -> Vec<(&'static str, ResolvedQuery)> {
    let seen = |n: u32, weight: f32| Seen { item: item(train, n), weight, at: Time::default() };
    let history = |list: Vec<Seen>| ResolvedQuery { history: list, ..ResolvedQuery::default() };
    vec![
        ("known user", train.query(3)),
        ("unknown user with a history", history(vec![seen(1, 1.0), seen(3, 1.0)])),
        ("user index out of range", ResolvedQuery { user: Some(UserIx(9_999)), ..train.query(3) }),
        ("user without history", ResolvedQuery { user: Some(UserIx(0)), ..ResolvedQuery::default() }),
        ("nothing at all", ResolvedQuery::default()),
        ("repeated items", history(vec![seen(1, 1.0), seen(1, 1.0), seen(1, 1.0)])),
        (
            "an item out of range",
            history(vec![seen(1, 1.0), Seen { item: ItemIx(1_000_000), ..seen(1, 1.0) }]),
        ),
        ("only items out of range", history(vec![Seen { item: ItemIx(1_000_000), ..seen(1, 1.0) }])),
        ("dislikes", history(vec![seen(1, 1.0), seen(3, -1.0), seen(5, -0.5)])),
        ("only dislikes", history(vec![seen(1, -1.0)])),
        ("large weights", history(vec![seen(1, 1e6), seen(2, 1e-6)])),
        ("like", ResolvedQuery { like: vec![item(train, 2)], ..ResolvedQuery::default() }),
        (
            "like and unlike",
            ResolvedQuery {
                like: vec![item(train, 2)],
                unlike: vec![item(train, 3)],
                ..ResolvedQuery::default()
            },
        ),
        ("unlike", ResolvedQuery { unlike: vec![item(train, 3)], ..ResolvedQuery::default() }),
        ("like out of range", ResolvedQuery { like: vec![ItemIx(77_777)], ..ResolvedQuery::default() }),
        ("history and like", ResolvedQuery { like: vec![item(train, 2)], ..train.query(3) }),
    ]
}

#[test]
fn recovers_a_checkerboard() {
    every_kind(|kind, train| {
        if impersonal(kind) {
            return;
        }
        let model = fit(kind, train);
        for user in 0..SIDE as usize {
            // As a stranger: nothing but the history may be needed.
            let q = ResolvedQuery { user: None, ..train.query(user) };
            let allowed = Allowed::everything().without(q.history.iter().map(|s| s.item));
            let best = model.retrieve(&q, 1, &allowed);
            let number: u32 = train.users.id(user as u32)[1..].parse().unwrap();
            assert_eq!(best.first().map(|c| c.item), Some(item(train, number)), "{kind}, user {user}");
        }
    });
}

#[test]
fn similar_items_have_the_same_colour() {
    every_kind(|kind, train| {
        // Vectors of models that read in order tell what follows, not what is alike.
        if impersonal(kind) || reads_in_order(kind) {
            return;
        }
        let model = fit(kind, train);
        for number in 0..SIDE {
            let me = item(train, number);
            let q = ResolvedQuery { like: vec![me], ..ResolvedQuery::default() };
            let near = model.retrieve(&q, 5, &Allowed::everything().without([me]));
            assert_eq!(near.len(), 5, "{kind}, item {number}");
            assert!(
                near.iter().all(|c| colour(train, c.item) == number % 2),
                "{kind}, item {number}: {near:?}"
            );
        }
    });
}

#[test]
fn scores_are_finite_and_all_ways_of_asking_agree() {
    every_kind(|kind, train| {
        let model = fit(kind, train);
        assert_eq!(model.kind(), kind);
        assert_eq!(model.items(), SIDE as usize, "{kind}");
        let asked = questions(train);
        let k = SIDE as usize + 5;
        let queries: Vec<ResolvedQuery> = asked.iter().map(|a| a.1.clone()).collect();
        let batch = model.retrieve_batch(&queries, k, &vec![Allowed::everything(); queries.len()]);
        assert_eq!(batch.len(), asked.len(), "{kind}");
        for ((name, q), batched) in asked.iter().zip(&batch) {
            let scores = all_scores(&*model, q);
            assert!(scores.iter().all(|s| s.is_finite()), "{kind}, {name}: {scores:?}");
            let list = model.retrieve(q, k, &Allowed::everything());
            check_list(kind, name, &list, &scores);
            check_list(kind, &format!("{name}, batch"), batched, &scores);
            for n in [0, 1, 3] {
                let head = model.retrieve(q, n, &Allowed::everything());
                assert_eq!(
                    bits(&head),
                    bits(&list[..n.min(list.len())]),
                    "{kind}, {name}: the best {n} of {k}"
                );
            }
            // One at a time and out of range.
            let mut one = [f32::NAN; 2];
            model.score(q, &[ItemIx(5), ItemIx(1_000_000)], &mut one);
            assert_eq!(one[0].to_bits(), scores[5].to_bits(), "{kind}, {name}");
            assert!(one[1].is_finite(), "{kind}, {name}: an item out of range");
        }
    });
}

/// Best first, no item twice, the score that `score` gives, and nothing better left out.
fn check_list(kind: &str, name: &str, list: &[Candidate], scores: &[f32]) {
    let mut seen = BitSet::none(scores.len());
    let close = |a: f32, b: f32| (a - b).abs() <= 1e-5 * (1.0 + a.abs().max(b.abs()));
    for (at, c) in list.iter().enumerate() {
        assert!(!seen.contains(c.item.ix()), "{kind}, {name}: {:?} twice", c.item);
        seen.insert(c.item.ix());
        assert!(close(c.score, scores[c.item.ix()]), "{kind}, {name}: {c:?}, score {}", scores[c.item.ix()]);
        if at > 0 {
            let before = list[at - 1];
            let order = before.score > c.score || (before.score == c.score && before.item < c.item);
            assert!(order, "{kind}, {name}: {before:?} before {c:?}");
        }
    }
    // A model may stay silent about items it has nothing to say of: their score is 0.
    for (i, &score) in scores.iter().enumerate().filter(|(i, _)| !seen.contains(*i)) {
        assert!(score == 0.0, "{kind}, {name}: item {i} with score {score} was left out");
    }
}

#[test]
fn only_allowed_items_come_back() {
    every_kind(|kind, train| {
        let model = fit(kind, train);
        let mut base = BitSet::none(SIDE as usize);
        (0..SIDE as usize).filter(|i| i % 3 != 0).for_each(|i| base.insert(i));
        let allowed = Allowed::only(Arc::new(base)).without([ItemIx(1), ItemIx(4)]);
        for (name, q) in questions(train) {
            let batch =
                model.retrieve_batch(&[q.clone(), q.clone()], 100, &[allowed.clone(), Allowed::everything()]);
            let alone = model.retrieve(&q, 100, &allowed);
            let free = model.retrieve(&q, 100, &Allowed::everything());
            for list in [&batch[0], &alone] {
                let expected: Vec<ItemIx> =
                    free.iter().map(|c| c.item).filter(|&i| allowed.contains(i)).collect();
                assert_eq!(list.iter().map(|c| c.item).collect::<Vec<_>>(), expected, "{kind}, {name}");
            }
            let nothing = Allowed::only(Arc::new(BitSet::none(SIDE as usize)));
            assert!(model.retrieve(&q, 10, &nothing).is_empty(), "{kind}, {name}");
        }
    });
}

#[test]
fn a_stored_model_answers_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    every_kind(|kind, train| {
        let model = fit(kind, train);
        let path = folder.path().join(kind);
        model.weights().write(&path).unwrap();
        let again =
            small(kind).load(&Weights::read(&path).unwrap()).unwrap_or_else(|e| panic!("{kind}: {e}"));
        assert_eq!(again.kind(), kind);
        for (name, q) in questions(train) {
            let answers = |m: &dyn Model| bits(&m.retrieve(&q, 30, &Allowed::everything()));
            assert_eq!(answers(&*model), answers(&*again), "{kind}, {name}");
            let scores = |m: &dyn Model| all_scores(m, &q).iter().map(|s| s.to_bits()).collect::<Vec<_>>();
            assert_eq!(scores(&*model), scores(&*again), "{kind}, {name}");
            let parts = |m: &dyn Model| m.contributions(&q, ItemIx(2), 30);
            assert_eq!(parts(&*model), parts(&*again), "{kind}, {name}");
        }
    });
}

#[test]
fn damaged_weights_are_refused_not_believed() {
    every_kind(|kind, train| {
        let whole = fit(kind, train).weights();
        assert!(small(kind).load(&Weights::default()).is_err(), "{kind}: nothing stored");
        for name in whole.0.keys() {
            let mut part = whole.clone();
            part.0.remove(name);
            assert!(small(kind).load(&part).is_err(), "{kind}: without {name}");
        }
    });
}

#[test]
fn repeats_under_a_seed() {
    every_kind(|kind, train| {
        for threads in [1, 2, 3] {
            let run = || {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let mut ctx = FitContext { threads, ..FitContext::quiet(11) };
                pool.install(|| small(kind).fit(train, &mut ctx)).unwrap().weights()
            };
            assert!(run() == run(), "{kind}, {threads} threads");
        }
    });
}

#[test]
fn explanations_sum_to_the_score() {
    every_kind(|kind, train| {
        let model = fit(kind, train);
        for (name, q) in questions(train) {
            let scores = all_scores(&*model, &q);
            // Rounding of a vector that was added up from large weights.
            let asked_weight: f32 = q.history.iter().map(|s| s.weight.abs()).sum();
            let asked: std::collections::BTreeSet<ItemIx> =
                q.history.iter().map(|s| s.item).chain(q.like.iter().copied()).collect();
            for i in 0..SIDE {
                let parts = model.contributions(&q, ItemIx(i), usize::MAX);
                assert!(
                    parts.iter().all(|p| asked.contains(&p.0) && p.1.is_finite()),
                    "{kind}, {name}: {parts:?}"
                );
                assert!(parts.windows(2).all(|w| w[0].1 >= w[1].1), "{kind}, {name}: {parts:?}");
                let few = model.contributions(&q, ItemIx(i), 2);
                assert_eq!(few, parts[..parts.len().min(2)], "{kind}, {name}");
                if exact(kind, &q) {
                    let sum: f32 = parts.iter().map(|p| p.1).sum();
                    let size: f32 = parts.iter().map(|p| p.1.abs()).sum();
                    let score = scores[i as usize];
                    assert!(
                        (sum - score).abs() <= 1e-3 * size.max(score.abs()) + 1e-5 + 1e-7 * asked_weight,
                        "{kind}, {name}, item {i}: {sum} of {score}"
                    );
                }
            }
            assert!(model.contributions(&q, ItemIx(1_000_000), 5).is_empty(), "{kind}, {name}");
        }
    });
}

#[test]
fn a_cancelled_fit_stops() {
    every_kind(|kind, train| {
        let mut ctx = FitContext::quiet(1);
        ctx.cancel.cancel();
        let stopped = small(kind).fit(train, &mut ctx).err();
        assert!(matches!(stopped, Some(FitError::Stopped(_))), "{kind}: {stopped:?}");
    });
}

#[test]
fn a_budget_of_one_byte_is_refused_with_words() {
    every_kind(|kind, train| {
        if impersonal(kind) {
            return; // They need a number an item, or none.
        }
        let mut ctx = FitContext { memory: 1, ..FitContext::quiet(1) };
        match small(kind).fit(train, &mut ctx).err() {
            Some(FitError::Memory { needed, why, remedy, .. }) => {
                assert!(needed > 0 && !why.is_empty() && !remedy.is_empty(), "{kind}: {why}; {remedy}");
            }
            other => panic!("{kind}: {other:?}"),
        }
    });
}

#[test]
fn odd_data_is_learned_or_refused_with_words() {
    let one = |pairs: &[(&str, &str)]| coded(Snapshot::from_pairs("odd", pairs));
    let negative = {
        let train = one(&[("a", "x"), ("a", "y"), ("b", "x")]);
        let mut events = (*train.events).clone();
        events.weight.fill(-1.0);
        train.with_events(events)
    };
    let mixed = {
        let train = one(&[("a", "x"), ("a", "y"), ("b", "x"), ("b", "y"), ("c", "y"), ("c", "z")]);
        let mut events = (*train.events).clone();
        events.weight = vec![1.0, -2.0, 0.5, 3.0, 0.0, 1e5];
        train.with_events(events)
    };
    let cases = [
        ("empty", one(&[])),
        ("one event", one(&[("a", "x")])),
        ("one user", one(&[("a", "x"), ("a", "y"), ("a", "z")])),
        ("one item", one(&[("a", "x"), ("b", "x"), ("c", "x")])),
        ("one item again and again", one(&[("a", "x"), ("a", "x"), ("a", "x")])),
        ("nobody shares anything", one(&[("a", "x"), ("b", "y"), ("c", "z")])),
        ("only dislikes", negative),
        ("mixed weights", mixed),
    ];
    every_kind(|kind, _| {
        for (name, train) in &cases {
            match small(kind).fit(train, &mut FitContext::quiet(5)) {
                Ok(model) => check_answers(kind, name, &*model, train),
                Err(error) => assert!(!error.to_string().is_empty(), "{kind}, {name}"),
            }
        }
    });
}

/// Long histories are learned from whole; of a question, the end that a model looks at decides.
#[test]
fn a_history_of_a_hundred_thousand_events_is_learned_and_read() {
    let events = 100_000;
    let pairs: Vec<(&str, String)> = (0..events).map(|n| ("long", format!("i{}", n % 7))).collect();
    let refs: Vec<(&str, &str)> =
        pairs.iter().map(|(u, i)| (*u, &**i)).chain([("a", "i1"), ("a", "i2")]).collect();
    let train = coded(Snapshot::from_pairs("long", &refs));
    for kind in ModelConfig::KINDS.iter().filter(|kind| reads_in_order(kind)) {
        let training = "dim = 4\nsequence = { length = 10, batch = 512 }\ntraining = { epochs = 1 }";
        let text = match *kind {
            "ada_retrieval" => format!("kind = '{kind}'\n[backbone]\nkind = 'gru4rec'\n{training}"),
            "tiger" | "tiger_decoder" => {
                format!("kind = '{kind}'\ndim = 4\nlength = 10\nbatch = 512\ntraining = {{ epochs = 1 }}")
            }
            _ => format!("kind = '{kind}'\n{training}"),
        };
        let config: ModelConfig = toml::from_str(&text).unwrap_or_else(|e| panic!("{kind}: {e}"));
        let model = config.fit(&train, &mut FitContext::quiet(1)).unwrap_or_else(|e| panic!("{kind}: {e}"));
        let whole = train.query(0);
        assert_eq!(whole.history.len(), events);
        let end = ResolvedQuery { history: whole.history[events - 10..].to_vec(), ..whole.clone() };
        let best = |q: &ResolvedQuery| model.retrieve(q, 7, &Allowed::everything());
        assert_eq!(bits(&best(&whole)), bits(&best(&end)), "{kind}");
    }
}

fn check_answers(kind: &str, name: &str, model: &dyn Model, train: &Snapshot) {
    let users = (0..train.users.len()).map(|u| train.query(u));
    let likes = (0..train.items.len() as u32)
        .map(|i| ResolvedQuery { like: vec![ItemIx(i)], ..ResolvedQuery::default() });
    for q in users.chain(likes).chain([ResolvedQuery::default()]) {
        let scores = all_scores(model, &q);
        assert!(scores.iter().all(|s| s.is_finite()), "{kind}, {name}: {scores:?}");
        check_list(kind, name, &model.retrieve(&q, 10, &Allowed::everything()), &scores);
        for i in 0..train.items.len() as u32 {
            model.contributions(&q, ItemIx(i), 3);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_small_data_set_can_be_learned(
        events in prop::collection::vec((0u8..6, 0u8..8, -1f32..3.0), 1..60)
    ) {
        let names: Vec<(String, String)> = events.iter().map(|e| (format!("u{}", e.0), format!("i{}", e.1))).collect();
        let train = Snapshot::from_pairs("any", &names.iter().map(|(u, i)| (u.as_str(), i.as_str())).collect::<Vec<_>>());
        // Weights land on the events in the order of users, which is as random as any.
        let mut weighted = (*train.events).clone();
        weighted.weight = events.iter().map(|e| e.2).collect();
        let train = coded(train.with_events(weighted));
        for kind in ModelConfig::KINDS {
            match small(kind).fit(&train, &mut FitContext::quiet(2)) {
                Ok(model) => check_answers(kind, "any", &*model, &train),
                Err(error) => prop_assert!(matches!(error, FitError::NoData(_) | FitError::Numeric(_)), "{}: {}", kind, error),
            }
        }
    }
}

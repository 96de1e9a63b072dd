//! The same random lists, measured here and by RecBole's formulas, RecTools, implicit and LensKit: equal numbers.
//! `golden/make.py` made `golden/metrics.json`.

use serde::Deserialize;
use sommelier_core::{Allowed, Candidate, FitContext, ItemIx, ResolvedQuery, Retrieve, Score, Vocab};
use sommelier_data::{Events, Holdout, LeftOut, Snapshot, Split, TimeQuality};
use sommelier_eval::{EvalConfig, Metric, On, Profile, evaluate, stats};
use std::collections::BTreeMap;

#[derive(Deserialize)]
struct Golden {
    items: usize,
    relevant: Vec<Vec<u32>>,
    train: Vec<Vec<u32>>,
    lists: Vec<Vec<u32>>,
    /// Cut-off, library, metric.
    values: BTreeMap<usize, BTreeMap<String, BTreeMap<String, f64>>>,
    differences: Vec<f64>,
    /// Statistic and two-sided p.
    paired_t: (f64, f64),
    wilcoxon: (f64, f64),
    p: Vec<f64>,
    benjamini_hochberg: Vec<f64>,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("golden/metrics.json")).expect("the golden file")
}

/// Answers with its lists, whatever is asked.
struct Fixed(usize, Vec<Vec<u32>>);

impl Score for Fixed {
    fn items(&self) -> usize {
        self.0
    }
    fn score(&self, _: &ResolvedQuery, _: &[ItemIx], out: &mut [f32]) {
        out.fill(0.0);
    }
}

impl Retrieve for Fixed {
    fn retrieve(&self, q: &ResolvedQuery, k: usize, _: &Allowed) -> Vec<Candidate> {
        let list = &self.1[q.user.expect("a user").ix()];
        list.iter().take(k).map(|&i| Candidate { item: ItemIx(i), score: 0.0 }).collect()
    }
}

fn split(golden: &Golden) -> Split {
    let mut events = Events { ptr: vec![0], ..Events::default() };
    for list in &golden.train {
        for (at, &item) in list.iter().enumerate() {
            events.item.push(item);
            events.kind.push(0);
            events.at.push(at as i64);
            events.value.push(1.0);
            events.weight.push(1.0);
        }
        events.ptr.push(events.item.len());
    }
    let users = Vocab::from_ids((0..golden.train.len()).map(|u| format!("u{u}")));
    let items = Vocab::from_ids((0..golden.items).map(|i| format!("i{i}")));
    let train = Snapshot::assemble("golden", 0, users, items, vec!["view".into()], TimeQuality::None, events);
    let pairs = golden.relevant.iter().zip(0..).flat_map(|(list, u)| list.iter().map(move |&i| (u, i, 1.0)));
    let test = Holdout::new(train.clone(), pairs.collect());
    let split = Split {
        name: "golden".into(),
        train,
        valid: None,
        test,
        left_out: LeftOut::default(),
        repeats: false,
        cuts: None,
    };
    split.check_leaks().expect("no leaks");
    split
}

#[test]
fn lists_get_each_librarys_own_numbers() {
    let golden = golden();
    let (split, model) = (split(&golden), Fixed(golden.items, golden.lists.clone()));
    let mut checked = 0;
    for (&k, libraries) in &golden.values {
        for (library, values) in libraries {
            let profile: Profile = library.parse().expect("a profile");
            let metrics: Vec<Metric> = values.keys().map(|name| name.parse().expect("a metric")).collect();
            let config = EvalConfig { at: vec![k], metrics, profile, bootstrap: 0, ..EvalConfig::default() };
            let ours =
                evaluate(&model, &split, On::Test, &config, &FitContext::quiet(0)).expect("an evaluation");
            for (name, theirs) in values {
                let metric: Metric = name.parse().expect("a metric");
                let ours = ours.metrics[&metric.key(profile, k)].value;
                assert!((ours - theirs).abs() < 1e-9, "{name}@{k} of {library}: {ours}, theirs {theirs}");
                checked += 1;
            }
        }
    }
    assert_eq!(checked, 3 * (9 + 9 + 4 + 7), "every number of the file");
}

#[test]
fn tests_agree_with_scipy() {
    let golden = golden();
    let close = |(a, p): (f64, f64), (b, q): (f64, f64)| {
        assert!((a - b).abs() < 1e-9 && (p - q).abs() < 1e-9, "{a} p {p}, SciPy {b} p {q}");
    };
    close(stats::paired_t(&golden.differences), golden.paired_t);
    close(stats::wilcoxon(&golden.differences), golden.wilcoxon);
    let flips = stats::sign_flip(&golden.differences, 20_000, 1);
    assert!((flips - golden.paired_t.1).abs() < 0.01, "near the t-test on 60 even differences: {flips}");
    for (ours, theirs) in stats::benjamini_hochberg(&golden.p).into_iter().zip(golden.benjamini_hochberg) {
        assert!((ours - theirs).abs() < 1e-9);
    }
}

//! The sample data sets load as their READMEs count them. Skipped with a message where they are not there.

use sommelier_core::Time;
use sommelier_data::KindRules;
use sommelier_data::import::{Format, ImportContext, ImportOptions, ImportReport, detect, load};
use sommelier_data::{SplitSpec, TimeQuality};
use std::path::PathBuf;

fn folder(name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data")).join(name);
    if path.exists() {
        return Some(path);
    }
    eprintln!("skipped: {} is not there", path.display());
    None
}

fn now() -> Time {
    Time::parse("2026-01-01").unwrap()
}

fn read(name: &str, options: &ImportOptions) -> Option<(sommelier_data::Snapshot, ImportReport)> {
    let path = folder(name)?;
    println!("{}", detect(&path, options).unwrap());
    let (snapshot, report) = load(&path, options, &KindRules::new(), &ImportContext::quiet(now())).unwrap();
    println!("{report}");
    assert_eq!(report.problems_total, 0, "{report}");
    Some((snapshot, report))
}

#[test]
fn movielens_100k() {
    let Some((s, report)) = read("ml-100k", &ImportOptions::default()) else { return };
    assert_eq!((s.users.len(), s.items.len(), s.events.len()), (943, 1682, 100_000));
    assert_eq!((report.items, report.users), (1682, 943));
    assert_eq!(s.times, TimeQuality::Clock);
    assert_eq!(s.kinds.as_slice(), ["rating"]);
    let toys = s.item_info[s.items.get("1").unwrap() as usize].as_ref().unwrap();
    assert_eq!(toys.title(), Some("Toy Story"));
    assert_eq!(toys.properties["year"], 1995);
    assert!(toys.properties["description"].as_str().unwrap().contains("Woody"));
    assert!(toys.properties["image"].as_str().unwrap().starts_with("data:image/jpeg;base64,/9j/"));
    assert_eq!(toys.properties["genres"].as_array().unwrap().len(), 3);
    let pictures = s.item_info.iter().flatten().filter(|i| i.properties.contains_key("image")).count();
    assert_eq!(pictures, 1663);
    assert!(s.events.of(0).collect::<Vec<_>>().windows(2).all(|w| s.events.at[w[0]] <= s.events.at[w[1]]));
}

#[test]
fn movielens_100k_folds() {
    let options =
        ImportOptions { given: Some("u1".into()), positive: Some("rating>=4".into()), ..Default::default() };
    let Some((s, report)) = read("ml-100k", &options) else { return };
    let given = s.given.as_ref().unwrap();
    assert_eq!((given.train.len(), s.events.len()), (80_000, 100_000));
    assert!(given.test.len() < 20_000 && given.test.len() > 10_000, "only positive test events are answers");
    assert_eq!(report.rules["rating"].only.as_deref(), Some("value >=4"));
    assert_eq!(s.interactions().by_user.nnz(), 55_375);
    assert!(s.item_info.iter().flatten().count() == 1682);
}

#[test]
fn movielens_1m() {
    let Some((s, _)) = read("ml-1m", &ImportOptions::default()) else { return };
    assert_eq!((s.users.len(), s.events.len()), (6040, 1_000_209));
    assert_eq!(s.item_info.iter().flatten().count(), 3883);
    assert_eq!(s.times, TimeQuality::Order);
    let path = folder("ml-1m").unwrap().join("lcf_split");
    let plan = detect(&path, &ImportOptions::default()).unwrap();
    assert_eq!(plan.format, Format::Pairs);
    let (s, _) =
        load(&path, &ImportOptions::default(), &KindRules::new(), &ImportContext::quiet(now())).unwrap();
    let given = s.given.as_ref().unwrap();
    assert_eq!(
        (s.users.len(), s.items.len(), given.train.len(), given.test.len()),
        (6022, 3043, 796_244, 99_455)
    );
    assert!(s.item_info.iter().all(Option::is_none), "remapped ids must not get the titles of others");
}

#[test]
fn gowalla() {
    let Some((s, _)) = read("gowalla", &ImportOptions::default()) else { return };
    let given = s.given.as_ref().unwrap();
    assert_eq!((s.users.len(), s.items.len()), (29_858, 40_981));
    assert_eq!((given.train.len(), given.test.len()), (810_128, 217_242));
    assert_eq!(s.times, TimeQuality::None);
}

#[test]
fn amazon_beauty() {
    let Some((s, _)) = read("amazon-beauty", &ImportOptions::default()) else { return };
    assert_eq!((s.users.len(), s.items.len(), s.events.len()), (22_363, 12_101, 198_502));
    assert_eq!(s.times, TimeQuality::Order);
    assert_eq!(s.item_info.iter().flatten().filter(|i| i.title().is_some()).count(), 12_094);
    let first = s.item_info[s.items.get("1").unwrap() as usize].as_ref().unwrap();
    assert_eq!(first.properties["attributes"].as_array().unwrap().len(), 4);
}

#[test]
fn citeulike() {
    let Some((s, _)) = read("citeulike-a", &ImportOptions::default()) else { return };
    let given = s.given.as_ref().unwrap();
    assert_eq!((s.users.len(), given.train.len(), given.test.len()), (5551, 199_435, 5551));
    assert_eq!(s.candidates.len(), 5551);
    assert!(s.candidates.values().all(|c| c.len() == 101));
    assert!(given.test.iter().all(|(u, i)| s.candidates[&u.0][0] == i.0));
}

#[test]
fn lastfm_with_its_negatives() {
    let Some((s, _)) = read("lastfm-seq", &ImportOptions::default()) else { return };
    assert_eq!((s.users.len(), s.items.len(), s.events.len()), (1090, 3646, 52_551));
    assert!(s.given.is_none() && s.candidates.len() == 1090 && s.candidates.values().all(|c| c.len() == 99));
    let split = "loo".parse::<SplitSpec>().unwrap().apply(&s, 0, false).unwrap();
    for holdout in [split.valid.unwrap(), split.test] {
        let given = holdout.candidates.as_ref().unwrap();
        assert!((0..holdout.cases()).all(|c| !given[c].contains(&holdout.targets_of(c)[0])));
    }
}

#[test]
fn retailrocket() {
    let Some((s, _)) = read("retailrocket-multibehavior", &ImportOptions::default()) else { return };
    let given = s.given.as_ref().unwrap();
    assert_eq!((s.users.len(), given.train.len(), given.test.len()), (2174, 97_381, 2174));
    let mut kinds = s.kinds.to_vec();
    kinds.sort();
    assert_eq!(kinds, ["buy", "cart", "view"]);
    assert_eq!(s.times, TimeQuality::Clock);
}

#[test]
fn filmtrust_and_others() {
    let Some((s, _)) = read("filmtrust", &ImportOptions::default()) else { return };
    assert_eq!((s.users.len(), s.items.len(), s.events.len()), (1508, 2071, 35_497));
    assert_eq!(s.kinds.as_slice(), ["rating"]);
}

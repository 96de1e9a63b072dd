//! `sommelier codes`: of a recipe and of an artefact, for people and as JSON, and what it says where there is nothing to show.

mod common;

use common::Bench;
use serde_json::Value;
use std::path::Path;

/// EASE, and codes that it does not need: quick to train, and as good to look at.
const MINE: &str = "name = 'mine'\nabout = 'x'\n[encode.text]\nkind = 'text'\n[tokenise]\nof = 'text'\n\
    by = { kind = 'residual', levels = 2, codes = 4 }\n[model]\nkind = 'ease'\n";

/// Codes of what people did with items.
const BEHAVES: &str = "name = 'behaves'\nabout = 'x'\n[behaviour]\nkind = 'pure_svd'\ndim = 4\n[tokenise]\n\
    of = 'behaviour'\nby = { kind = 'residual', levels = 2, codes = 4 }\n[model]\nkind = 'ease'\n";

/// The guide's readers and novels, imported, and a recipe.
fn novels() -> Bench {
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/sample");
    let bench = Bench::new();
    for file in ["events.csv", "items.csv"] {
        bench.write(file, std::fs::read(sample.join(file)).unwrap());
    }
    bench.write("mine.toml", MINE);
    bench.json(&["import", "events.csv", "items.csv"]);
    bench
}

/// Items at the ends of a tree, with their codes; counts are checked on the way.
fn ends(branch: &Value, codes: &[u64]) -> Vec<(Vec<u64>, Value)> {
    assert!(branch["more"].is_null(), "nothing is left out of a whole tree: {branch}");
    let codes: Vec<u64> = codes.iter().copied().chain(branch["code"].as_u64()).collect();
    let found: Vec<(Vec<u64>, Value)> = match branch["children"].as_array() {
        Some(children) => children.iter().flat_map(|child| ends(child, &codes)).collect(),
        None => {
            branch["items"].as_array().unwrap().iter().map(|item| (codes.clone(), item.clone())).collect()
        }
    };
    assert_eq!(branch["count"], found.len(), "{branch}");
    found
}

fn printed(bench: &Bench, args: &[&str]) -> String {
    let out = bench.run(args);
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{args:?} fits a terminal:\n{text}");
    text
}

#[test]
fn a_recipe_shows_its_codes_before_a_model_is_trained_and_an_artefact_the_same() {
    let bench = novels();
    let before = bench.json(&["codes", "mine.toml"]);
    assert_eq!(
        (&before["recipe"], &before["items"], &before["without"]),
        (&"mine".into(), &24.into(), &0.into())
    );
    assert_eq!(before["sizes"], serde_json::json!([4, 4, 16]));
    let all = ends(&before["tree"], &[]);
    assert_eq!(all.len(), 24);
    assert!(all.iter().all(|(codes, item)| codes.len() == 3 && item["title"].is_string()), "{all:?}");
    let quality = &before["quality"];
    assert_eq!((&quality["items"], quality["levels"].as_array().unwrap().len()), (&24.into(), 3));
    assert!(quality["collisions"].as_f64().unwrap() > 0.0, "24 novels have 16 pairs of codes: {quality}");
    let levels = quality["levels"].as_array().unwrap();
    let beginnings =
        |n: usize| all.iter().map(|(codes, _)| &codes[..=n]).collect::<std::collections::HashSet<_>>();
    assert!((0..3).all(|n| levels[n]["prefixes"] == beginnings(n).len()), "{quality}");
    assert_eq!(bench.json(&["artefacts"])["artefacts"], serde_json::json!([]), "nothing was trained");

    bench.write("behaves.toml", BEHAVES);
    let files = bench.json(&["codes", "behaves.toml", "--data", "events.csv"]);
    assert_eq!(ends(&files["tree"], &[]).len(), 24, "codes of what people did, in a file without titles");

    let trained = bench.json(&["train", "mine.toml", "--publish"]);
    let name = trained["artefacts"][0]["name"].as_str().unwrap();
    let after = bench.json(&["codes"]);
    assert_eq!(after["artefact"], name);
    assert_eq!((&after["tree"], &after["quality"]), (&before["tree"], &before["quality"]));

    bench.write(
        "late.csv",
        "item_id,title,author,year,genre\ndracula-2,Dracula,Bram Stoker,1897,gothic\nblank,,,,\n",
    );
    bench.json(&["import", "late.csv"]);
    let later = bench.json(&["codes"]);
    assert_eq!((&later["items"], &later["later"], &later["without"]), (&25.into(), &1.into(), &1.into()));
    let late: Vec<_> =
        ends(&later["tree"], &[]).into_iter().filter(|(_, item)| item["later"] == true).collect();
    let dracula = all.iter().find(|(_, item)| item["id"] == "dracula").unwrap();
    assert_eq!(
        (late.len(), &late[0].0[..2]),
        (1, &dracula.0[..2]),
        "the same words, the same codes but for the last"
    );

    let family = bench.json(&["codes", "--item", "dracula-2"]);
    assert_eq!(family["item"]["codes"], serde_json::json!(late[0].0));
    let listed: usize = family["item"]["levels"]
        .as_array()
        .unwrap()
        .iter()
        .map(|l| l["items"].as_array().unwrap().len())
        .sum();
    assert_eq!(family["item"]["levels"][0]["count"], listed + 1, "each other item where it parts: {family}");
    let code = late[0].0[0].to_string();
    let under = bench.json(&["codes", "--prefix", &code]);
    assert_eq!(
        (&under["prefix"], &under["tree"]["count"]),
        (&serde_json::json!([late[0].0[0]]), &family["item"]["levels"][0]["count"])
    );
    assert_eq!(bench.json(&["codes", "--artefact", name])["tree"], later["tree"]);

    let text = printed(&bench, &["codes"]);
    for words in [
        "25 items with codes of 4 × 4 × 16",
        "1 later than the fit, 1 without codes",
        "collisions",
        "reconstruction",
        "neighbours",
        "largest group",
        "entropy",
        "perplexity",
        "gini",
        "shared",
        "Moby-Dick",
    ] {
        assert!(text.contains(words), "{words:?} is missing:\n{text}");
    }
    let narrow = printed(&bench, &["codes", "mine.toml", "--depth", "1", "--width", "2"]);
    assert!(narrow.contains("2 further codes") && narrow.contains("--prefix"), "{narrow}");
    let one = printed(&bench, &["codes", "--prefix", &code]);
    assert!(one.contains("Dracula") && !one.contains("Moby-Dick") && !one.contains("perplexity"), "{one}");
    let dracula = printed(&bench, &["codes", "--item", "dracula"]);
    assert!(dracula.contains("Dracula (dracula) has the codes") && dracula.contains("Carmilla"), "{dracula}");
}

#[test]
fn where_there_are_no_codes_it_says_why() {
    let bench = novels();
    assert!(bench.fails(&["codes"]).contains("published no artefact"));
    bench.json(&["train", "item_knn", "--publish"]);
    bench.write("titleless.csv", "user_id,item_id\na,x\na,y\nb,x\n");
    for (args, words) in [
        (vec!["codes"], "its recipe has no [tokenise]"),
        (vec!["codes", "ease"], "it makes no codes, for it has no [tokenise]"),
        (vec!["codes", "tiger_decodr"], "tiger_decoder"),
        (vec!["codes", "--artefact", "nothing"], "there is no artefact \"nothing\""),
        (vec!["codes", "--space", "nowhere"], "nowhere"),
        (vec!["codes", "mine.toml", "--data", "nothing.csv"], "nothing.csv"),
        (vec!["codes", "mine.toml", "--data", "titleless.csv"], "text"),
        (
            vec!["codes", "mine.toml", "--prefix", "9"],
            "no item's codes begin with 9; the first ones are 0, 1, 2, 3",
        ),
        (vec!["codes", "mine.toml", "--prefix", "0,0,0,0"], "items have 3 codes each"),
        (vec!["codes", "mine.toml", "--prefix", "x"], "--prefix"),
        (vec!["codes", "mine.toml", "--item", "dracla"], "did you mean \"dracula\""),
        (vec!["codes", "mine.toml", "--width", "0"], "--width"),
        (vec!["codes", "mine.toml", "--set", "tokenise.by.level=3"], "did you mean `levels`"),
        (vec!["codes", "mine.toml", "--set", "tokenise.of=images"], "images"),
        (vec!["codes", "mine.toml", "--artefact", "x"], "--artefact"),
        (vec!["codes", "--data", "events.csv"], "RECIPE"),
    ] {
        let said = bench.fails(&args);
        assert!(said.contains(words), "{args:?} should say {words:?}:\n{said}");
    }
    let empty = Bench::new();
    assert!(empty.fails(&["codes"]).contains("there is no data"));
    assert!(empty.fails(&["codes", "tiger_decoder"]).contains("there is no data"));
}

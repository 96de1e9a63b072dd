//! Old files open: folders and backups written by every version that was released, kept under `fixtures/VERSION`.
//!
//! Each was made by that version's own program: twelve users and items imported, EASE published, one live event by
//! `newcomer`, then `backup`. A new version adds a folder and changes none.

mod common;

use common::Bench;
use std::path::Path;

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn folders_and_backups_of_every_version_open() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut versions = 0;
    for version in std::fs::read_dir(&fixtures).unwrap() {
        let version = version.unwrap().path();
        let bench = Bench::new();
        copy(&version.join("spaces"), &bench.path("sommelier-data/spaces"));
        assert_eq!(bench.json(&["doctor"])["events"], 49, "{}", version.display());
        for (user, best) in [("u0", ["i0", "i2"]), ("newcomer", ["i1", "i5"])] {
            let slate = bench.json(&["recommend", "--user", user, "-k", "2"]);
            let mut items: Vec<&str> =
                slate["items"].as_array().unwrap().iter().filter_map(|i| i["item"].as_str()).collect();
            items.sort_unstable();
            assert_eq!(items, best, "{user}: {slate}");
            assert_eq!(slate["artefact"], "ease-92f6e118c2");
        }
        let backup = version.join("v1.backup");
        bench.json(&["restore", backup.to_str().unwrap(), "--space", "restored"]);
        assert_eq!(bench.json(&["doctor", "--space", "restored"])["events"], 49);
        versions += 1;
    }
    assert!(versions >= 1);
}

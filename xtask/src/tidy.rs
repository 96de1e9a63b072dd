//! Tidiness that no compiler checks: the walls between crates, a sentence at the head of each file, unsafe in its rooms.

use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};

/// Which crates of the house each crate may use. What is not listed must never be.
const WALLS: &[(&str, &[&str])] = &[
    ("core", &[]),
    ("data", &["core"]),
    ("nn", &["core"]),
    ("encode", &["core", "nn"]),
    ("index", &["core", "nn"]),
    ("models", &["core", "data", "nn", "index"]),
    ("eval", &["core", "data"]),
    ("engine", &["core", "data", "nn", "encode", "models", "eval", "index"]),
    ("server", &["core", "data", "engine"]),
    ("cli", &["core", "data", "models", "eval", "engine", "server"]),
];

/// The only files that may hold `unsafe`.
const UNSAFE_ROOMS: &[&str] = &["crates/nn/src/kernel", "crates/data/src/log/map.rs"];

pub fn check(root: &Path) -> Result<()> {
    let mut faults = Vec::new();
    walls(root, &mut faults)?;
    for file in rust_files(root)? {
        let text = fs::read_to_string(&file)?;
        let name = file.strip_prefix(root)?.display().to_string();
        if !text.starts_with("//!") {
            faults.push(format!("{name}: must open with one `//!` sentence that says what it is"));
        }
        let room = UNSAFE_ROOMS.iter().any(|r| name.starts_with(r));
        if !room && has_unsafe(&text) {
            faults.push(format!("{name}: unsafe outside the named modules ({})", UNSAFE_ROOMS.join(", ")));
        }
    }
    if faults.is_empty() { Ok(()) } else { bail!("not tidy:\n  {}", faults.join("\n  ")) }
}

fn walls(root: &Path, faults: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(root.join("crates"))? {
        let dir = entry?.path();
        let name = dir.file_name().context("a crate folder has a name")?.to_string_lossy().into_owned();
        let Some((_, allowed)) = WALLS.iter().find(|(n, _)| *n == name) else {
            faults
                .push(format!("crates/{name}: no entry in xtask's table of walls; add it with its question"));
            continue;
        };
        let manifest = fs::read_to_string(dir.join("Cargo.toml"))?;
        let normal = manifest.split("[dev-dependencies]").next().unwrap_or_default();
        for line in normal.lines() {
            let Some(used) = line.strip_prefix("sommelier-").and_then(|l| l.split([' ', '.', '=']).next())
            else {
                continue;
            };
            if !allowed.contains(&used) {
                faults.push(format!("crates/{name} uses {used}: that wall must stand (ARCHITECTURE.md)"));
            }
        }
    }
    Ok(())
}

fn has_unsafe(text: &str) -> bool {
    text.lines().map(|l| l.split("//").next().unwrap_or_default()).any(|l| {
        l.contains("unsafe {")
            || l.contains("unsafe fn")
            || l.contains("unsafe impl")
            || l.contains("allow(unsafe")
    })
}

fn rust_files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![root.join("crates")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_house_is_tidy() {
        super::check(&crate::root()).unwrap();
    }

    #[test]
    fn unsafe_is_seen_but_not_in_comments() {
        assert!(super::has_unsafe("let x = unsafe { y };"));
        assert!(!super::has_unsafe("// unsafe { y }"));
    }
}

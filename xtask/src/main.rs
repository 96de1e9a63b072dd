//! Chores: `cargo xtask demo`, `test`, `validate`, `fuzz`, `bench`, `reproduce`. Each does its own set-up.

mod browser;
mod tidy;

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

const HELP: &str = "\
Chores for Sommelier. Each installs what it needs first.

  cargo xtask demo [ARGS]       build the console (if Node is there) and the program, run `sommelier demo ARGS`
  cargo xtask test              everything: tidiness, lints, all tests, brief fuzzing, the browser test
  cargo xtask validate          the quick part of `test`: tidiness, formatting, lints
  cargo xtask console           build the console into console/dist
  cargo xtask fuzz [NAME] [S]   every fuzz target, or one, for S seconds each
  cargo xtask browser           only the browser test (against a fresh demo)
  cargo xtask bench [NAME…]     the scripts in bench/: us and the peer interleaved in one run
  cargo xtask reproduce [ARGS]  `sommelier reproduce ARGS`, release build, published figures beside ours
";

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let rest = args.get(1..).unwrap_or_default();
    std::env::set_current_dir(root())?;
    match args.first().map(String::as_str) {
        Some("demo") => demo(rest),
        Some("test") => test(),
        Some("validate") => validate(),
        Some("console") => console(true),
        Some("browser") => {
            console(true)?;
            browser_test()
        }
        Some("fuzz") => fuzz(rest),
        Some("bench") => bench(rest),
        Some("reproduce") => {
            cargo(&["build", "--release", "--package", "sommelier-cli"])?;
            run(Command::new(program("release")).arg("reproduce").args(rest))
        }
        _ => {
            print!("{HELP}");
            Ok(())
        }
    }
}

fn demo(args: &[String]) -> Result<()> {
    console(false)?;
    cargo(&["build", "--release", "--package", "sommelier-cli"])?;
    run(Command::new(program("release")).arg("demo").args(args))
}

fn validate() -> Result<()> {
    step("tidiness: walls between crates, one sentence per file, unsafe only in kernels");
    tidy::check(&root())?;
    step("formatting");
    cargo(&["fmt", "--all", "--check"])?;
    step("lints");
    cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])
}

fn test() -> Result<()> {
    console(true)?;
    validate()?;
    step("all tests");
    cargo(&["test", "--workspace"])?;
    if version_of("c++").is_some() {
        fuzz(&["all".into(), "3".into()])?;
    } else {
        eprintln!("no C++ compiler, which libFuzzer needs: only the seeded fuzzing was done, with the tests");
    }
    browser_test()
}

/// `fuzz/run.sh`: coverage-guided fuzzing of the parsers.
fn fuzz(args: &[String]) -> Result<()> {
    step("fuzzing with coverage");
    run(Command::new("bash").arg("fuzz/run.sh").args(args))
}

fn browser_test() -> Result<()> {
    step("browser test");
    // Built as `cargo test` builds it: another selection of packages would compile every dependency again.
    cargo(&["test", "--workspace", "--no-run", "--quiet"])?;
    browser::run(&root(), &program("debug"))
}

/// Builds the console; without Node says so and goes on unless `required`.
fn console(required: bool) -> Result<()> {
    let Some(node) = version_of("node") else {
        if required {
            bail!("the console needs Node.js 20 or later; install it and run this again");
        }
        eprintln!("Node.js is not there: building without the console (the page will say how to add it)");
        return Ok(());
    };
    step(&format!("console (Node {node})"));
    let dir = root().join("console");
    if !dir.join("node_modules/.package-lock.json").exists() {
        run(Command::new("npm").args(["ci", "--no-audit", "--no-fund"]).current_dir(&dir))?;
    }
    run(Command::new("npm").args(["run", "build"]).current_dir(&dir))
}

/// Runs `bench/NAME/run.sh`, or all of them.
fn bench(names: &[String]) -> Result<()> {
    let dir = root().join("bench");
    let mut all: Vec<String> = std::fs::read_dir(&dir)?
        .filter_map(Result::ok)
        .filter(|e| e.path().join("run.sh").exists())
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    all.sort();
    for name in names {
        if !all.contains(name) {
            bail!("no benchmark {name:?}; there are: {}", all.join(", "));
        }
    }
    for name in all.iter().filter(|n| names.is_empty() || names.contains(n)) {
        step(&format!("bench {name}"));
        run(Command::new("bash").arg(dir.join(name).join("run.sh")))?;
    }
    Ok(())
}

fn step(what: &str) {
    eprintln!("\n== {what}");
}

fn cargo(args: &[&str]) -> Result<()> {
    run(Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())).args(args))
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("could not start {command:?}"))?;
    if status.success() { Ok(()) } else { bail!("{command:?} failed: {status}") }
}

/// What `program --version` prints, if it is there.
fn version_of(program: &str) -> Option<String> {
    let out = Command::new(program).arg("--version").output().ok()?;
    out.status.success().then(|| String::from_utf8_lossy(&out.stdout).trim().to_owned())
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace").to_path_buf()
}

fn program(profile: &str) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    target.join(profile).join(if cfg!(windows) { "sommelier.exe" } else { "sommelier" })
}

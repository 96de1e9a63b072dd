//! The browser test: starts a fresh demo, finds or installs a browser, runs the console's own tests against it.

use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

pub fn run(root: &Path, program: &Path) -> Result<()> {
    let browser = find_browser().map_or_else(install_browser, Ok)?;
    let dir = std::env::temp_dir().join(format!("sommelier-browser-test-{}", std::process::id()));
    let (mut demo, address) = start_demo(program, &dir)?;
    let result = Command::new("npm")
        .args(["test"])
        .current_dir(root.join("console"))
        .env("SOMMELIER_URL", &address)
        .env("CHROMIUM", &browser)
        .status();
    let _ = demo.kill();
    let _ = demo.wait();
    let _ = std::fs::remove_dir_all(&dir);
    let status = result.context("could not start npm test")?;
    if status.success() { Ok(()) } else { bail!("the browser test failed") }
}

/// Starts `sommelier demo` on a free port in an empty folder and waits for the address it prints.
fn start_demo(program: &Path, dir: &Path) -> Result<(Child, String)> {
    let mut child = Command::new(program)
        .args(["demo", "--port", "0", "--json", "--dir"])
        .arg(dir)
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("could not start {}", program.display()))?;
    let out = child.stdout.take().context("the demo has no output")?;
    for line in BufReader::new(out).lines() {
        let line = line?;
        if let Some(start) = line.find("http://") {
            let address: String =
                line[start..].chars().take_while(|c| !c.is_whitespace() && *c != '"').collect();
            return Ok((child, address.trim_end_matches('/').to_owned()));
        }
    }
    let _ = child.kill();
    bail!("the demo ended without printing an address")
}

fn find_browser() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("CHROMIUM") {
        return Some(path.into());
    }
    let paths = std::env::var_os("PATH")?;
    let names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
    std::env::split_paths(&paths).flat_map(|dir| names.map(|n| dir.join(n))).find(|p| p.exists())
}

/// On Debian and its kin a browser is one package away; elsewhere the person must name one.
fn install_browser() -> Result<PathBuf> {
    eprintln!("no Chromium found: installing the package `chromium`");
    let sudo = if is_root() { "" } else { "sudo -n " };
    let script =
        format!("{sudo}apt-get update -qq && {sudo}apt-get install -y -qq --no-install-recommends chromium");
    let _ = Command::new("sh").args(["-c", &script]).stdout(Stdio::null()).status();
    find_browser().context("no Chromium could be installed; install one and set CHROMIUM=/path/to/it")
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|o| o.stdout.starts_with(b"0"))
}

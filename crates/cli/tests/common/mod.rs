//! What the tests of the binary share: a folder to work in, running the program, a small HTTP client.
#![allow(dead_code)] // each test file uses its part

use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

/// An empty folder with the program in reach.
pub struct Bench {
    pub dir: tempfile::TempDir,
}

impl Bench {
    pub fn new() -> Bench {
        Bench { dir: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sommelier"));
        command.args(args).current_dir(self.dir.path()).env("SOMMELIER_LOG", "warn").stdin(Stdio::null());
        command
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs with `--json` and reads the one document it prints.
    pub fn json(&self, args: &[&str]) -> Value {
        let mut all = args.to_vec();
        all.push("--json");
        let out = self.run(&all);
        assert!(out.status.success(), "{args:?} failed:\n{}", String::from_utf8_lossy(&out.stderr));
        serde_json::from_slice(&out.stdout).unwrap_or_else(|e| {
            panic!(
                "{args:?} printed no single JSON document ({e}):\n{}",
                String::from_utf8_lossy(&out.stdout)
            )
        })
    }

    /// Runs what must fail; returns what it told the person.
    pub fn fails(&self, args: &[&str]) -> String {
        let out = self.run(args);
        let words = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(
            !out.status.success(),
            "{args:?} should fail, printed:\n{}{words}",
            String::from_utf8_lossy(&out.stdout)
        );
        assert!(!words.contains("panicked"), "{args:?} panicked:\n{words}");
        words
    }

    /// Starts a command that serves; returns once it has printed its address.
    pub fn serve(&self, args: &[&str]) -> Server {
        let mut child =
            self.command(args).arg("--json").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let Some(start) = line.find("http://") else {
            let mut words = String::new();
            child.stderr.take().unwrap().read_to_string(&mut words).unwrap();
            panic!("{args:?} printed no address: {line}\n{words}");
        };
        let address: String =
            line[start + 7..].chars().take_while(|c| !matches!(c, '/' | '"') && !c.is_whitespace()).collect();
        Server { child, address }
    }
}

pub struct Server {
    child: Child,
    pub address: String,
}

impl Server {
    pub fn get(&self, path: &str) -> (u16, Value) {
        self.send("GET", path, None)
    }

    pub fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.send("POST", path, Some(&body.to_string()))
    }

    /// One request on a fresh connection; the body as JSON, or as a string where it is not JSON.
    pub fn send(&self, method: &str, path: &str, body: Option<&str>) -> (u16, Value) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let body = body.unwrap_or("");
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            self.address,
            body.len()
        )
        .unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let text = String::from_utf8_lossy(&answer);
        let status = text
            .split(' ')
            .nth(1)
            .and_then(|s| s.parse().ok())
            .unwrap_or_else(|| panic!("no status in {text:?}"));
        let (head, content) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let content = if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
            unchunk(content)
        } else {
            content.to_owned()
        };
        (status, serde_json::from_str(&content).unwrap_or(Value::String(content)))
    }

    /// `kill -9`.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn unchunk(mut rest: &str) -> String {
    let mut out = String::new();
    while let Some((size, after)) = rest.split_once("\r\n") {
        let Ok(size) = usize::from_str_radix(size.trim(), 16) else { break };
        if size == 0 || size > after.len() {
            break;
        }
        out.push_str(&after[..size]);
        rest = after[size..].trim_start_matches("\r\n");
    }
    out
}

/// The benchmark data sets, where this machine has them.
pub fn datasets(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data").join(name);
    if path.exists() {
        Some(path)
    } else {
        eprintln!("skipped: {} is not on this machine", path.display());
        None
    }
}

/// Two tastes: even users take even items, odd users odd ones; each leaves two of its items out.
pub fn two_tastes(users: usize, items: usize) -> String {
    let mut csv = String::from("user_id,item_id,event,timestamp\n");
    for u in 0..users {
        for step in 0..items / 2 {
            let i = step * 2 + u % 2;
            if (step + u / 2) % (items / 2) > 1 {
                std::fmt::Write::write_fmt(
                    &mut csv,
                    format_args!("u{u},i{i},view,{}\n", 1_700_000_000 + 60 * step + 3600 * u),
                )
                .unwrap();
            }
        }
    }
    csv
}

/// Some megabytes of disk of its own, where this user may mount one; gone when dropped.
pub struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    pub fn new(megabytes: usize) -> Option<SmallDisk> {
        let dir = tempfile::tempdir().unwrap();
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "tmpfs"])
            .arg(dir.path())
            .output();
        mount.is_ok_and(|m| m.status.success()).then_some(SmallDisk(dir))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

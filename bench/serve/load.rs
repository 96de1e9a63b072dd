//! How many slates and durable events a second does the server answer over HTTP, and how long does a start take?
//!
//! ```text
//! cargo run --release -p sommelier-server --example serve_load -- [--data ../shared/data/gowalla] [--recipe ials]
//!     [--seconds 10] [--runs 5] [--connections 16] [--writers 8] [--dir DIR]
//! ```
//!
//! Imports and trains once (kept in DIR), then starts the server as a process of its own for every run and drives it
//! over loopback from here, so server and driver share the machine. `recommend` is measured while another connection
//! posts events in batches of 10, up to 500 a second. Prints one JSON document.

use serde_json::{Value, json};
use sommelier_core::{Clock, Event, FitContext, SystemClock, Time};
use sommelier_data::import::{ImportContext, ImportOptions, load};
use sommelier_engine::{Engine, EngineConfig, Recipe, train};
use sommelier_server::{ServerConfig, bind};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// As in the `sommelier` program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

struct Options {
    data: PathBuf,
    recipe: String,
    dir: PathBuf,
    seconds: u64,
    runs: usize,
    connections: usize,
    writers: usize,
}

fn main() {
    let options = read_options();
    if std::env::args().any(|arg| arg == "--serve") {
        return serve(&options.dir);
    }
    let users = prepare(&options);
    let (mut starts, mut slates, mut events) = (Vec::new(), Vec::new(), Vec::new());
    for run in 0..options.runs {
        let (mut server, start) = Server::start(&options.dir, &users[0]);
        starts.push(start);
        let slate = measure_slates(server.address, &options, &users);
        eprintln!("run {run}: start {start:.3} s, recommend {slate}");
        slates.push(slate);
        server.stop();
    }
    // Afterwards, so that answering is not measured on a store still busy merging what a hundred thousand events a
    // second have left it.
    for run in 0..options.runs {
        let (mut server, start) = Server::start(&options.dir, &users[0]);
        let event = measure_events(server.address, &options, run);
        eprintln!("run {run}: start {start:.3} s, events {event}");
        events.push(event);
        server.stop();
    }
    let middle = |values: &[Value], key: &str| {
        median(values.iter().map(|v| v[key].as_f64().unwrap_or(f64::NAN)).collect())
    };
    let result = json!({
        "recipe": options.recipe,
        "users": users.len(),
        "connections": options.connections,
        "cold_start_seconds": median(starts),
        "recommend": {
            "requests_per_second": middle(&slates, "per_second"),
            "p50_ms": middle(&slates, "p50_ms"),
            "p99_ms": middle(&slates, "p99_ms"),
            "runs": slates,
        },
        "events": {
            "events_per_second": middle(&events, "events_per_second"),
            "p99_ms": middle(&events, "p99_ms"),
            "runs": events,
        },
    });
    println!("{result:#}");
}

fn read_options() -> Options {
    let args: Vec<String> = std::env::args().collect();
    let value = |name: &str| args.iter().position(|a| a == name).and_then(|at| args.get(at + 1)).cloned();
    let number =
        |name: &str, default: u64| value(name).map_or(default, |v| v.parse().expect("a whole number"));
    Options {
        data: value("--data").unwrap_or_else(|| "../shared/data/gowalla".into()).into(),
        recipe: value("--recipe").unwrap_or_else(|| "ials".into()),
        dir: value("--dir").map_or_else(|| std::env::temp_dir().join("sommelier-serve-load"), PathBuf::from),
        seconds: number("--seconds", 10),
        runs: number("--runs", 5) as usize,
        connections: number("--connections", 16) as usize,
        writers: number("--writers", 8) as usize,
    }
}

fn open(dir: &Path) -> Arc<Engine> {
    Engine::open(dir, EngineConfig::default(), Arc::new(SystemClock)).expect("the engine opens")
}

/// Imports and trains where that has not happened yet; the users to ask for.
fn prepare(options: &Options) -> Vec<String> {
    let context = ImportContext::quiet(SystemClock.now());
    let rules = EngineConfig::default().events;
    let (snapshot, _) =
        load(&options.data, &ImportOptions::default(), &rules, &context).expect("readable data");
    let users: Vec<String> = snapshot.users.iter().map(str::to_owned).collect();
    let engine = open(&options.dir);
    let space = engine.create_space("default").expect("a space");
    if space.published().is_some_and(|a| a.kind == options.recipe) {
        return users;
    }
    if space.log().offset() == 0 {
        let all = &snapshot.events;
        let mut batch = Vec::new();
        for user in 0..all.users() {
            for e in all.of(user) {
                let item = snapshot.items.id(all.item[e]);
                let kind = snapshot.kinds[all.kind[e] as usize].as_str();
                let mut event = Event::new(users[user].as_str(), item, kind);
                event.at = Time::from_millis(all.at[e]).ok();
                batch.push(event);
            }
            if batch.len() >= 20_000 {
                space.append(std::mem::take(&mut batch)).expect("stored");
            }
        }
        space.append(batch).expect("stored");
    }
    let recipe = Recipe::builtin(&options.recipe).expect("a built-in recipe");
    let trained = train(&recipe, &snapshot, &mut FitContext::quiet(1)).expect("trained");
    let info = space.save(&trained).expect("saved");
    space.publish(&info.name).expect("published");
    users
}

/// The server process.
fn serve(dir: &Path) {
    let engine = open(dir);
    let mut config = ServerConfig { allow_anonymous_loopback: true, ..ServerConfig::default() };
    config.listen.set_port(0);
    config.limits.requests_per_second = 0;
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async move {
        let bound = bind(engine, config).await.expect("a free port");
        println!("{}", bound.address());
        // The driver closes our input when it is done.
        let input = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
        bound.serve(async { drop(input.await) }).await.expect("served");
    });
}

struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    /// Starts it; seconds until the first answer was here.
    fn start(dir: &Path, user: &str) -> (Server, f64) {
        let begun = Instant::now();
        let program = std::env::current_exe().expect("this program");
        let mut child = Command::new(program)
            .args(["--serve", "--dir"])
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("its address");
        let address = line.trim().parse().expect("an address");
        let (status, answer) =
            Client::new(address).post("/v1/recommend", &json!({"user": user, "count": 10}).to_string());
        let seconds = begun.elapsed().as_secs_f64();
        let text = String::from_utf8_lossy(&answer);
        assert!(status == 200 && text.contains("\"fallback\":null"), "the model answers: {text}");
        (Server { child, address }, seconds)
    }

    fn stop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// One kept-open connection.
struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    fn new(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).expect("a connection");
        stream.set_nodelay(true).expect("no delay");
        Client { stream, buffer: vec![0; 1 << 20] }
    }

    fn post(&mut self, path: &str, body: &str) -> (u16, Vec<u8>) {
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        self.stream.write_all(request.as_bytes()).expect("sent");
        let mut have = 0;
        loop {
            let read = self.stream.read(&mut self.buffer[have..]).expect("an answer");
            assert!(read > 0, "the server closed the connection");
            have += read;
            let Some(head) = self.buffer[..have].windows(4).position(|w| w == b"\r\n\r\n") else { continue };
            let text = std::str::from_utf8(&self.buffer[..head]).expect("a head").to_ascii_lowercase();
            let length = text.lines().find_map(|l| l.strip_prefix("content-length: ")).expect("a length");
            let end = head + 4 + length.trim().parse::<usize>().expect("a number");
            if have >= end {
                return (text[9..12].parse().expect("a status"), self.buffer[head + 4..end].to_vec());
            }
        }
    }
}

fn measure_slates(address: SocketAddr, options: &Options, users: &[String]) -> Value {
    let done = Arc::new(AtomicBool::new(false));
    let users: Arc<[String]> = users.into();
    let writer = {
        let (done, users) = (done.clone(), users.clone());
        std::thread::spawn(move || {
            let mut client = Client::new(address);
            let mut sent = 0;
            while !done.load(Ordering::Relaxed) {
                let batch: Vec<Value> =
                    (0..10).map(|i| event(&users[(sent * 31 + i) % users.len()], sent + i)).collect();
                assert_eq!(client.post("/v1/events", &json!(batch).to_string()).0, 200);
                sent += 10;
                std::thread::sleep(Duration::from_millis(20));
            }
            sent
        })
    };
    let begun = Instant::now();
    let until = begun + Duration::from_secs(options.seconds);
    let readers: Vec<_> = (0..options.connections)
        .map(|connection| {
            let users = users.clone();
            std::thread::spawn(move || {
                let mut client = Client::new(address);
                let (mut times, mut failed, mut fallbacks) = (Vec::new(), 0u64, 0u64);
                let mut n = connection * 7919;
                while Instant::now() < until {
                    n += 104_729;
                    let body = format!("{{\"user\":{},\"count\":10}}", json!(users[n % users.len()]));
                    let asked = Instant::now();
                    let (status, answer) = client.post("/v1/recommend", &body);
                    times.push(asked.elapsed().as_secs_f64());
                    failed += u64::from(status != 200);
                    fallbacks += u64::from(!answer.windows(15).any(|w| w == b"\"fallback\":null"));
                }
                (times, failed, fallbacks)
            })
        })
        .collect();
    let (mut times, mut failed, mut fallbacks) = (Vec::new(), 0, 0);
    for reader in readers {
        let (t, f, b) = reader.join().expect("a reader");
        times.extend(t);
        failed += f;
        fallbacks += b;
    }
    let seconds = begun.elapsed().as_secs_f64();
    done.store(true, Ordering::Relaxed);
    let written = writer.join().expect("the writer");
    times.sort_by(f64::total_cmp);
    json!({
        "per_second": times.len() as f64 / seconds,
        "p50_ms": at(&times, 0.5), "p95_ms": at(&times, 0.95), "p99_ms": at(&times, 0.99), "max_ms": at(&times, 1.0),
        "failed": failed, "fallbacks": fallbacks, "events_meanwhile": written,
    })
}

fn measure_events(address: SocketAddr, options: &Options, run: usize) -> Value {
    let begun = Instant::now();
    let until = begun + Duration::from_secs(options.seconds);
    let writers: Vec<_> = (0..options.writers)
        .map(|w| {
            std::thread::spawn(move || {
                let mut client = Client::new(address);
                let (mut times, mut n) = (Vec::new(), 0);
                while Instant::now() < until {
                    let batch: Vec<Value> =
                        (0..100).map(|i| event(&format!("load-{run}-{w}-{}", n % 500), n + i)).collect();
                    let body = json!(batch).to_string();
                    let asked = Instant::now();
                    assert_eq!(client.post("/v1/events", &body).0, 200);
                    times.push(asked.elapsed().as_secs_f64());
                    n += 100;
                }
                times
            })
        })
        .collect();
    let mut times: Vec<f64> = writers.into_iter().flat_map(|w| w.join().expect("a writer")).collect();
    let seconds = begun.elapsed().as_secs_f64();
    times.sort_by(f64::total_cmp);
    json!({
        "events_per_second": times.len() as f64 * 100.0 / seconds,
        "p50_ms": at(&times, 0.5), "p99_ms": at(&times, 0.99), "max_ms": at(&times, 1.0),
    })
}

fn event(user: &str, n: usize) -> Value {
    json!({"user": user, "item": format!("{}", n * 7 % 40_000), "kind": "view"})
}

/// Milliseconds at a share of sorted seconds.
fn at(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * share).round() as usize).map_or(f64::NAN, |s| s * 1e3)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

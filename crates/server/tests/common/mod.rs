//! A real server on a free port over a small space, and a client that sends exactly what it is told.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::format_push_string, reason = "plain is better here")]

use serde_json::{Value, json};
use sommelier_core::{Event, FitContext, Item, SystemClock};
use sommelier_engine::{Engine, EngineConfig, Recipe};
use sommelier_server::{KeyConfig, Role, ServerConfig, ServerError, bind, hash_key};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::oneshot;

pub const READ: &str = "key-for-reading";
pub const WRITE: &str = "key-for-writing";
pub const ADMIN: &str = "key-for-deciding";
pub const OTHER: &str = "key-of-the-other-space";

/// Keys of the three roles for `default`, one for a space `other`.
pub fn config() -> ServerConfig {
    let key = |name: &str, space: &str, role| KeyConfig {
        name: name.into(),
        space: space.into(),
        role,
        sha256: hash_key(name),
    };
    ServerConfig {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        keys: vec![
            key(READ, "default", Role::Read),
            key(WRITE, "default", Role::Write),
            key(ADMIN, "default", Role::Admin),
            key(OTHER, "other", Role::Admin),
        ],
        ..ServerConfig::default()
    }
}

pub fn engine(dir: &Path) -> Arc<Engine> {
    let engine = Engine::open(dir, EngineConfig::default(), Arc::new(SystemClock)).expect("the engine opens");
    engine.create_space("default").expect("a space");
    engine.create_space("other").expect("a space");
    engine
}

/// 30 books of two kinds, 24 readers who each stay with one kind.
pub fn fill(engine: &Engine) {
    let space = engine.space("default").unwrap();
    let items = (0..30)
        .map(|i| {
            let mut item = Item::new(format!("i{i}"));
            item.properties.insert("title".into(), json!(format!("Book number {i}")));
            item.properties.insert("genres".into(), json!([if i % 2 == 0 { "even" } else { "odd" }]));
            item.properties.insert("year".into(), json!(1900 + i));
            item
        })
        .collect();
    space.put_items(items).unwrap();
    let mut events = Vec::new();
    for user in 0..24u32 {
        for step in 0..8u32 {
            let item = (user * 7 + step * 2 * (1 + user % 3)) % 30 / 2 * 2 + user % 2;
            let mut event = Event::new(format!("u{user}"), format!("i{item}"), "view");
            event.id = Some(format!("e-{user}-{step}"));
            events.push(event);
        }
    }
    space.append(events).unwrap();
}

/// Trains a model on what is there; its name.
pub fn train(engine: &Engine, recipe: &str) -> String {
    let space = engine.space("default").unwrap();
    let recipe = Recipe::builtin(recipe).unwrap();
    let snapshot = space.snapshot().unwrap();
    space.train(&recipe, &snapshot, &mut FitContext::quiet(1), json!({"recall@10": 0.5})).unwrap().name
}

pub struct Server {
    pub address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<(), ServerError>>>,
}

impl Server {
    pub fn start(engine: Arc<Engine>, config: ServerConfig) -> Server {
        let (stop, stopped) = oneshot::channel::<()>();
        let (tell, told) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(async move {
                let bound = bind(engine, config).await.expect("a free port");
                tell.send(bound.address()).unwrap();
                bound
                    .serve(async {
                        let _ = stopped.await;
                    })
                    .await
            })
        });
        Server { address: told.recv().expect("the server starts"), stop: Some(stop), thread: Some(thread) }
    }

    /// Asks it to stop and waits until it has.
    pub fn stop(mut self) {
        drop(self.stop.take());
        self.thread.take().unwrap().join().unwrap().unwrap();
    }

    /// Asks it to stop.
    pub fn ask_to_stop(&mut self) {
        drop(self.stop.take());
    }

    pub fn get(&self, path: &str) -> Answer {
        self.send("GET", path, Some(READ), None)
    }

    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.send("POST", path, Some(ADMIN), Some(&body.to_string()))
    }

    pub fn send(&self, method: &str, path: &str, key: Option<&str>, json: Option<&str>) -> Answer {
        let mut headers = Vec::new();
        let authorization = key.map(|key| format!("Bearer {key}"));
        if let Some(authorization) = &authorization {
            headers.push(("authorization", authorization.as_str()));
        }
        if json.is_some() {
            headers.push(("content-type", "application/json"));
        }
        self.raw(method, path, &headers, json.unwrap_or("").as_bytes())
    }

    pub fn raw(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut request =
            format!("{method} {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n", self.address);
        for (name, value) in headers {
            request += &format!("{name}: {value}\r\n");
        }
        if !body.is_empty() || method == "POST" || method == "PUT" || method == "PATCH" {
            request += &format!("content-length: {}\r\n", body.len());
        }
        request += "\r\n";
        let mut stream = self.connect();
        stream.write_all(request.as_bytes()).unwrap();
        // The server may answer and close before it has read all of a refused body.
        let _ = stream.write_all(body);
        Answer::read(&mut stream).expect("an answer")
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    /// Everything until the server closes.
    pub fn read(stream: &mut TcpStream) -> Option<Answer> {
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all);
        let split = all.windows(4).position(|w| w == b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&all[..split]).to_ascii_lowercase();
        let mut body = all[split + 4..].to_vec();
        if head.contains("transfer-encoding: chunked") {
            body = dechunk(&body);
        }
        Some(Answer { status: head.get(9..12)?.parse().ok()?, head, body })
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The JSON of a success.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert!((200..300).contains(&self.status), "{} {}", self.status, self.text());
        if self.body.is_empty() { Value::Null } else { self.json() }
    }

    /// The problem document of an error, its promises checked.
    #[track_caller]
    pub fn problem(self, status: u16, code: &str) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        assert!(self.head.contains("content-type: application/problem+json"), "{}", self.head);
        let problem = self.json();
        assert_eq!(problem["status"], status, "{problem}");
        assert_eq!(problem["code"], code, "{problem}");
        for field in ["type", "title", "detail", "request"] {
            assert!(problem[field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {problem}");
        }
        assert!(self.head.contains(&format!("x-request-id: {}", problem["request"].as_str().unwrap())));
        problem
    }
}

fn dechunk(mut body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some(end) = body.windows(2).position(|w| w == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&body[..end]).unwrap().trim(), 16).unwrap();
        out.extend_from_slice(&body[end + 2..end + 2 + size]);
        body = &body[end + 4 + size..];
        if size == 0 {
            break;
        }
    }
    out
}

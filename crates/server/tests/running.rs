//! Under way: publishing under load, dying and coming back, stopping gently.

mod common;

use common::{Answer, READ, Server, WRITE, config, engine, fill, train};
use serde_json::json;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

#[test]
fn publishing_under_load_fails_no_request() {
    let dir = tempfile::tempdir().unwrap();
    let engine = engine(dir.path());
    fill(&engine);
    let names = [train(&engine, "item_knn"), train(&engine, "popularity")];
    assert_ne!(names[0], names[1]);
    engine.space("default").unwrap().publish(&names[0]).unwrap();
    let server = Arc::new(Server::start(engine, config()));
    let (done, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let clients: Vec<_> = (0..4)
        .map(|c| {
            let (server, done, asked, names) = (server.clone(), done.clone(), asked.clone(), names.clone());
            std::thread::spawn(move || {
                let mut by_artefact = [0u32; 2];
                while !done.load(Ordering::SeqCst) {
                    let n = asked.fetch_add(1, Ordering::SeqCst);
                    if c == 0 {
                        let event = json!({"user": format!("u{}", n % 24), "item": format!("i{}", n % 30), "kind": "view"});
                        server.post("/v1/events", &event).ok();
                        continue;
                    }
                    let slate = server.post("/v1/recommend", &json!({"user": format!("u{}", n % 24), "count": 5})).ok();
                    assert_eq!(slate["items"].as_array().unwrap().len(), 5, "{slate}");
                    let artefact = slate["artefact"].as_str().expect("an artefact answers all the time");
                    by_artefact[usize::from(artefact == names[1])] += 1;
                }
                by_artefact
            })
        })
        .collect();
    for round in 0..20 {
        let name = &names[(round + 1) % 2];
        let path = format!("/v1/artefacts/{name}/publish");
        server.post(&path, &json!({})).ok();
        std::thread::sleep(Duration::from_millis(20));
    }
    done.store(true, Ordering::SeqCst);
    let by_artefact = clients
        .into_iter()
        .map(|c| c.join().expect("no request failed"))
        .fold([0; 2], |a, b| [a[0] + b[0], a[1] + b[1]]);
    assert!(by_artefact.iter().all(|&n| n > 0), "both answered: {by_artefact:?}");
}

/// Not a test of its own: the server process that `events_survive_a_kill` kills.
#[test]
fn server_process() {
    let Ok(dir) = std::env::var("SOMMELIER_TEST_SERVER_DIR") else { return };
    let server = Server::start(engine(dir.as_ref()), config());
    println!("listening on {}", server.address);
    std::thread::sleep(Duration::from_mins(1));
}

#[test]
fn events_survive_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = 0;
    for round in 0..3 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["server_process", "--exact", "--nocapture"])
            .env("SOMMELIER_TEST_SERVER_DIR", dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = loop {
            let line = lines.next().expect("the server says where it listens").unwrap();
            if let Some((_, address)) = line.split_once("listening on ") {
                break address.parse().unwrap();
            }
        };
        let server = Remote { address };
        assert_eq!(server.count(), acknowledged, "before round {round}");
        for n in 0..5 {
            let events: Vec<_> = (0..10)
                .map(|i| json!({"user": "u", "item": format!("{round}-{n}-{i}"), "kind": "view"}))
                .collect();
            let answer = server.send("POST", "/v1/events", &json!(events).to_string());
            assert_eq!(answer.ok()["stored"], 10);
            acknowledged += 10;
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let server = Server::start(engine(dir.path()), config());
    let events = server.get("/v1/users/u/events?limit=1000").ok();
    assert_eq!(events["events"].as_array().unwrap().len(), acknowledged);
}

struct Remote {
    address: std::net::SocketAddr,
}

impl Remote {
    fn send(&self, method: &str, path: &str, body: &str) -> Answer {
        let mut stream = std::net::TcpStream::connect(self.address).unwrap();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {WRITE}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).unwrap();
        Answer::read(&mut stream).unwrap()
    }

    fn count(&self) -> usize {
        self.send("GET", "/v1/users/u/events?limit=1000", "").ok()["events"].as_array().unwrap().len()
    }
}

#[test]
fn stopping_finishes_what_is_in_work() {
    let dir = tempfile::tempdir().unwrap();
    let engine = engine(dir.path());
    fill(&engine);
    let mut server = Server::start(engine, config());
    let idle = server.connect();
    let slate = server.post("/v1/recommend", &json!({"user": "u0"})).ok();
    // A request whose body has not all arrived is in work.
    let mut stream = server.connect();
    let body = r#"{"user":"late","item":"i1","kind":"view"}"#;
    let head = format!(
        "POST /v1/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {WRITE}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&body.as_bytes()[..5]).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    server.ask_to_stop();
    std::thread::sleep(Duration::from_millis(300));
    assert!(std::net::TcpStream::connect(server.address).is_err(), "no new connections");
    stream.write_all(&body.as_bytes()[5..]).unwrap();
    let answer = Answer::read(&mut stream).expect("the answer still comes");
    assert_eq!(answer.ok()["stored"], 1);
    let begun = Instant::now();
    server.stop();
    assert!(
        begun.elapsed() < Duration::from_secs(3),
        "an idle connection does not keep it: {:?}",
        begun.elapsed()
    );
    drop(idle);
    let server = Server::start(common::engine(dir.path()), config());
    assert_eq!(server.get("/v1/users/late/events").ok()["events"].as_array().unwrap().len(), 1);
    assert_eq!(
        server.get(&format!("/v1/slates/{}", slate["id"].as_str().unwrap())).ok()["query"]["user"],
        "u0"
    );
}

#[test]
fn a_busy_server_says_so() {
    let mut limited = config();
    limited.limits.concurrent_requests = 1;
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(engine(dir.path()), limited);
    let mut stream = server.connect();
    let head = format!(
        "POST /v1/recommend HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {READ}\r\ncontent-type: application/json\r\n\
         connection: close\r\ncontent-length: 2\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let answer = server.get("/v1/items");
    assert!(answer.head.contains("retry-after: 1"));
    answer.problem(503, "busy");
    assert_eq!(
        server.send("GET", "/healthz", None, None).status,
        200,
        "whether it lives can always be asked"
    );
    stream.write_all(b"{}").unwrap();
    Answer::read(&mut stream).unwrap().ok();
    server.get("/v1/items").ok();
}

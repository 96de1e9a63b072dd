//! What callers get wrong, out of malice or by accident: each gets a clear problem, and nothing is lost.
#![allow(clippy::format_push_string, reason = "plain is better here")]

mod common;

use common::{ADMIN, Answer, READ, Server, WRITE, config, engine, fill};
use serde_json::{Value, json};
use sommelier_server::ServerConfig;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

fn start_with(config: ServerConfig) -> (Server, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let engine = engine(dir.path());
    fill(&engine);
    (Server::start(engine, config), dir)
}

fn start() -> (Server, tempfile::TempDir) {
    start_with(config())
}

#[test]
fn queries_that_cannot_be_answered() {
    let (server, _dir) = start();
    let ask = |body: &str| server.send("POST", "/v1/recommend", Some(READ), Some(body));
    let detail = |p: &Value| p["detail"].as_str().unwrap().to_owned();

    for count in ["0", "1000000000"] {
        let p = ask(&format!(r#"{{"count":{count}}}"#)).problem(422, "count");
        assert_eq!(p["field"], "count");
        assert!(detail(&p).contains("1000") && detail(&p).contains(count), "{p}");
    }
    for count in ["-1", "1.5", "\"ten\"", "99999999999"] {
        let p = ask(&format!(r#"{{"user":"u0","count":{count}}}"#)).problem(422, "bad_body");
        assert_eq!(p["field"], "count");
        assert!(detail(&p).contains("whole number"), "{p}");
    }
    let p =
        ask("{\n  \"user\": \"u0\",\n  \"history\": [\"i1\", {\"item\": \"i2\", \"at\": \"yesterday\"}]\n}")
            .problem(422, "bad_body");
    assert_eq!(p["field"], "history[1].at", "{p}");
    let p = ask(r#"{"usr":"u0"}"#).problem(422, "bad_body");
    assert!(detail(&p).contains("`user`"), "the right names are listed: {p}");
    let p = ask(r#"{"user":"u0","filter":"item.year <"}"#).problem(422, "filter");
    assert_eq!(p["field"], "filter");
    ask(r#"{"user":"u0","scenario":"nowhere"}"#);
    let p = ask(r#"{"user":"u0","page":"garbage"}"#).problem(422, "page");
    assert_eq!(p["field"], "page");

    let p = ask("{\"user\": \"u0\",\n \"count\": }").problem(400, "bad_json");
    assert_eq!((p["line"].as_u64(), p["column"].as_u64()), (Some(2), Some(11)), "{p}");
    ask("").problem(400, "bad_json");
    ask("null").problem(422, "bad_body");
    ask("[]").problem(422, "bad_body");
    ask(r#"{"context":{"a":1e999}}"#).problem(400, "bad_json");
    for deep in [
        "[".repeat(10_000),
        "{\"a\":".repeat(10_000),
        format!("{{\"context\":{}1{}}}", "[".repeat(100), "]".repeat(100)),
    ] {
        ask(&deep).problem(400, "too_deep");
    }
    // Items and users that nobody knows are no error: they are left out, and the answer says so.
    let slate = ask(r#"{"user":"nobody","history":["no such item"]}"#).ok();
    assert!(slate["notes"].to_string().contains("no such item"), "{slate}");
    server.post("/v1/explain", &json!({"user": "u0"})).problem(422, "bad_body");
}

#[test]
fn events_that_cannot_be_taken() {
    let (server, _dir) = start();
    let offset = || server.get("/v1/status").ok()["offset"].clone();
    let before = offset();
    let good = json!({"user": "u", "item": "i", "kind": "view"});
    let long = "x".repeat(513);
    let batch = json!([
        good,
        {"user": "", "item": "i", "kind": "view"},
        {"user": "u", "item": "i"},
        {"user": "u", "item": long, "kind": "view"},
        {"user": "u", "item": "i", "kind": "view", "at": "nonsense"},
        {"user": "u", "item": "i", "kind": "view", "valeu": 1},
        {"user": "u", "item": "i", "kind": "view", "at": 1e300},
        "text",
        good
    ]);
    let p = server.post("/v1/events", &batch).problem(422, "bad_events");
    let at: Vec<u64> = p["errors"].as_array().unwrap().iter().map(|e| e["index"].as_u64().unwrap()).collect();
    assert_eq!(at, [1, 2, 3, 4, 5, 6, 7], "{p}");
    assert!(p["detail"].as_str().unwrap().starts_with("7 of 9 events"), "{p}");
    assert!(p["errors"][2]["reason"].as_str().unwrap().contains("512"), "{p}");
    assert_eq!(p["errors"][3]["field"], "at", "{p}");

    let key = format!("Bearer {WRITE}");
    let lines = |body: &[u8]| {
        server.raw(
            "POST",
            "/v1/events",
            &[("authorization", &key), ("content-type", "application/x-ndjson")],
            body,
        )
    };
    let p = lines(format!("{good}\n\n{good}\n{{\"user\":\n").as_bytes()).problem(422, "bad_events");
    assert_eq!(p["errors"][0]["line"], 4, "{p}");
    let p = lines(b"{\"user\":\"\xff\"}").problem(400, "not_utf8");
    assert!(p["detail"].as_str().unwrap().contains("byte 9"), "{p}");
    server
        .post("/v1/events", &json!({"user": "u", "item": "i", "kind": "view", "value": "NaN"}))
        .problem(422, "bad_body");
    let text = r#"{"user":"u","item":"i","kind":"view","value":NaN}"#;
    server.send("POST", "/v1/events", Some(WRITE), Some(text)).problem(400, "bad_json");
    let many = vec![good.clone(); 10_001];
    server.post("/v1/events", &json!(many)).problem(413, "too_large");
    assert_eq!(offset(), before, "nothing of all this was stored");
    assert_eq!(server.post("/v1/events", &json!([])).ok()["stored"], 0);
    assert_eq!(server.post("/v1/events", &good).ok()["stored"], 1, "and it still works");
}

#[test]
fn items_that_cannot_be_taken() {
    let (server, _dir) = start();
    let put = |path: &str, body: &str| server.send("PUT", path, Some(WRITE), Some(body));
    put("/v1/items/a", r#"{"id":"b"}"#).problem(422, "bad_body");
    put("/v1/items/a", r#"{"hidden":"yes"}"#).problem(422, "bad_body");
    put(&format!("/v1/items/{}", "x".repeat(513)), "{}").problem(400, "bad_request");
    put("/v1/items/%FF", "{}").problem(400, "not_utf8");
    server.get("/v1/items/a").problem(404, "unknown_item");
    server.send("PATCH", "/v1/items/i1", Some(WRITE), Some(r#"{"id":"other"}"#)).problem(422, "bad_body");
    server.send("PATCH", "/v1/items/i1", Some(WRITE), Some(r#"{"hidden":7}"#)).problem(422, "bad_body");
    server.send("PATCH", "/v1/items/i1", Some(WRITE), Some("[]")).problem(422, "bad_body");
    let p = server.post("/v1/items", &json!([{"id": "ok"}, {"id": ""}])).problem(422, "bad_list");
    assert_eq!(p["errors"][0]["index"], 1);
    server.get("/v1/items/ok").problem(404, "unknown_item");
    for query in ["limit=0", "limit=-1", "limit=1000000000", "limit=many", "lmit=3"] {
        server.get(&format!("/v1/items?{query}")).problem(400, "bad_request");
        server.get(&format!("/v1/users/u0/events?{query}")).problem(400, "bad_request");
    }
    server.get("/v1/users/u0/events?before=garbage").problem(400, "bad_request");
    server.get("/v1/slates/none").problem(404, "unknown_slate");
}

#[test]
fn requests_that_are_none() {
    let (server, _dir) = start();
    server.get("/v1/nothing").problem(404, "no_route");
    server.get("/../../etc/passwd").problem(404, "no_route");
    let wrong = server.send("DELETE", "/v1/recommend", Some(READ), None);
    assert!(wrong.head.contains("allow: post"), "{}", wrong.head);
    wrong.problem(405, "wrong_method");
    server.send("BREW", "/v1/items", Some(READ), None).problem(405, "wrong_method");
    let key = format!("Bearer {READ}");
    for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"] {
        let headers = [("authorization", key.as_str()), ("content-type", kind)];
        let p = server.raw("POST", "/v1/recommend", &headers, b"{}").problem(415, "media_type");
        assert!(p["detail"].as_str().unwrap().contains("application/json"), "{p}");
    }
    server.raw("POST", "/v1/recommend", &[("authorization", &key)], b"{}").problem(415, "media_type");
    let lines = [("authorization", key.as_str()), ("content-type", "application/x-ndjson")];
    server.raw("POST", "/v1/recommend", &lines, b"{}").problem(415, "media_type");

    server.get(&format!("/v1/items?after={}", "x".repeat(9_000))).problem(414, "long_address");
    let big = "x".repeat(40_000);
    server.raw("GET", "/v1/items", &[("x-big", &big)], b"").problem(431, "large_headers");
    // Not HTTP at all, and a head beyond all measure: refused without harm.
    for text in
        [&b"\x16\x03\x01\x02\x00\x01\x00"[..], b"GET\r\n\r\n", &b"GET / HTTP/1.1\r\nx: ".repeat(20_000)]
    {
        let mut stream = server.connect();
        let _ = stream.write_all(text);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(
            answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"),
            "{}",
            String::from_utf8_lossy(&answer)
        );
    }
    server.get("/v1/items").ok();
}

#[test]
fn keys_and_roles() {
    let (server, _dir) = start();
    let answer = server.send("GET", "/v1/items", None, None);
    assert!(answer.head.contains("www-authenticate: bearer"), "{}", answer.head);
    answer.problem(401, "no_key");
    let p = server.send("GET", "/v1/items", Some("secret-guess"), None).problem(401, "bad_key");
    assert!(!p.to_string().contains("secret-guess"), "a key is never repeated: {p}");
    server.raw("GET", "/v1/items", &[("authorization", "Basic abc")], b"").problem(401, "bad_key");
    server.raw("GET", "/v1/items", &[("authorization", "Bearer ")], b"").problem(401, "bad_key");
    server.raw("GET", "/v1/items", &[("x-api-key", READ)], b"").ok();
    let event = r#"{"user":"u","item":"i","kind":"view"}"#;
    let p = server.send("POST", "/v1/events", Some(READ), Some(event)).problem(403, "role");
    assert!(p["detail"].as_str().unwrap().contains("write"), "it says what is needed: {p}");
    server.send("PUT", "/v1/items/x", Some(READ), Some("{}")).problem(403, "role");
    server.send("DELETE", "/v1/items/i1", Some(READ), None).problem(403, "role");
    server.send("POST", "/v1/events", Some(ADMIN), Some(event)).ok();
    // Without a key nothing of the body is looked at.
    server.send("POST", "/v1/events", None, Some("not json")).problem(401, "no_key");
    for path in
        ["/v1/recommend", "/v1/explain", "/v1/forget", "/v1/items", "/v1/users", "/v1/artefacts/a/publish"]
    {
        server.send("POST", path, None, Some("{}")).problem(401, "no_key");
    }
}

#[test]
fn this_machine_needs_no_key_where_so_configured() {
    let open = ServerConfig { keys: Vec::new(), allow_anonymous_loopback: true, ..config() };
    let (server, _dir) = start_with(open);
    let host = server.address.to_string();
    let get = |headers: &[(&str, &str)]| {
        let mut stream = server.connect();
        let mut request = "GET /v1/items HTTP/1.1\r\nconnection: close\r\n".to_owned();
        for (name, value) in headers {
            request += &format!("{name}: {value}\r\n");
        }
        stream.write_all((request + "\r\n").as_bytes()).unwrap();
        Answer::read(&mut stream).unwrap()
    };
    get(&[("host", &host)]).ok();
    get(&[("host", &host), ("origin", &format!("http://{host}"))]).ok();
    get(&[("host", "evil.example")]).problem(403, "foreign_origin");
    get(&[("host", &host), ("origin", "https://evil.example")]).problem(403, "foreign_origin");
    let unknown = get(&[("host", &host), ("x-sommelier-space", "nowhere")]);
    let p = unknown.problem(404, "unknown_space");
    assert!(p["detail"].as_str().unwrap().contains("nowhere"), "{p}");
    get(&[("host", &host), ("x-sommelier-space", "other")]).ok();
    get(&[("host", &host), ("x-sommelier-space", "../..")]).problem(404, "unknown_space");
}

#[test]
fn bodies_too_large_and_too_slow() {
    let mut limited = config();
    limited.limits.body_bytes = 100_000;
    limited.limits.timeout_ms = 700;
    let (server, _dir) = start_with(limited);
    let body = format!("{{\"wish\":\"{}\"}}", "x".repeat(3_000_000));
    let p = server.send("POST", "/v1/recommend", Some(READ), Some(&body)).problem(413, "too_large");
    assert!(p["detail"].as_str().unwrap().contains("100000"), "{p}");

    // The same without saying so beforehand.
    let mut stream = server.connect();
    let head = format!(
        "POST /v1/recommend HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {READ}\r\n\
         content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    for _ in 0..20 {
        stream.write_all(format!("2710\r\n{}\r\n", "x".repeat(10_000)).as_bytes()).unwrap();
    }
    stream.write_all(b"0\r\n\r\n").unwrap();
    Answer::read(&mut stream).unwrap().problem(413, "too_large");

    // A body that drips.
    let mut stream = server.connect();
    stream.write_all(head.replace("transfer-encoding: chunked", "content-length: 1000").as_bytes()).unwrap();
    stream.write_all(b"{").unwrap();
    let begun = Instant::now();
    Answer::read(&mut stream).unwrap().problem(408, "slow_request");
    assert!(begun.elapsed() < Duration::from_secs(5));

    // Heads that drip, many at once: they are dropped, and others are served meanwhile.
    let mut slow: Vec<_> = (0..200).map(|_| server.connect()).collect();
    for stream in &mut slow {
        stream.write_all(b"GET /v1/items HTTP/1.1\r\nhost: ").unwrap();
    }
    let begun = Instant::now();
    server.get("/v1/items").ok();
    assert!(begun.elapsed() < Duration::from_secs(2), "others wait {:?}", begun.elapsed());
    for stream in &mut slow {
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&rest));
    }
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[test]
fn too_often_and_too_many() {
    let mut limited = config();
    limited.limits.requests_per_second = 5;
    let (server, _dir) = start_with(limited);
    let answers: Vec<Answer> = (0..20).map(|_| server.get("/v1/items?limit=1")).collect();
    let refused: Vec<&Answer> = answers.iter().filter(|a| a.status == 429).collect();
    assert!(answers[..5].iter().all(|a| a.status == 200));
    assert!(refused.len() >= 5, "{}", refused.len());
    assert!(refused[0].head.contains("retry-after: 1"));
    refused[0].clone().problem(429, "rate");
    // Others are not held up by it.
    server.send("GET", "/v1/items?limit=1", Some(WRITE), None).ok();
    assert_eq!(server.send("GET", "/healthz", None, None).status, 200);
}

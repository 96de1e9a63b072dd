//! Every address of the API over a real socket: what it does when all is well.

mod common;

use common::{ADMIN, READ, Server, WRITE, config, engine, fill, train};
use serde_json::{Value, json};

fn start() -> (Server, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let engine = engine(dir.path());
    fill(&engine);
    let name = train(&engine, "item_knn");
    engine.space("default").unwrap().publish(&name).unwrap();
    (Server::start(engine, config()), dir)
}

fn ids(slate: &Value) -> Vec<String> {
    slate["items"].as_array().unwrap().iter().map(|i| i["item"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_query_goes_in_and_a_slate_comes_out() {
    let (server, _dir) = start();
    let slate = server.send("POST", "/v1/recommend", Some(READ), Some(r#"{"user":"u0","count":5}"#)).ok();
    assert_eq!(slate["items"].as_array().unwrap().len(), 5);
    assert!(slate["fallback"].is_null(), "{slate}");
    assert!(slate["artefact"].is_string());
    let first = &slate["items"][0];
    assert!(
        first["score"].is_number() && first["source"].is_string() && first["reasons"].is_array(),
        "{first}"
    );

    // Evidence that the model answers: readers of even books get even books.
    let even = ids(&slate).iter().filter(|id| id[1..].parse::<u32>().unwrap() % 2 == 0).count();
    assert_eq!(even, 5, "{slate}");

    let next = server.post("/v1/recommend", &json!({"user": "u0", "count": 5, "page": slate["next"]})).ok();
    assert!(ids(&next).iter().all(|id| !ids(&slate).contains(id)), "pages do not repeat");

    let filtered = server.post("/v1/recommend", &json!({"user": "u0", "filter": "item.year < 1910"})).ok();
    assert!(ids(&filtered).iter().all(|id| id[1..].parse::<u32>().unwrap() < 10), "{filtered}");
    assert!(!ids(&filtered).is_empty());

    let similar = server.post("/v1/recommend", &json!({"like": ["i2"], "count": 3})).ok();
    assert!(!ids(&similar).contains(&"i2".to_owned()));
    let found = server.post("/v1/recommend", &json!({"wish": "number 17", "count": 3})).ok();
    assert_eq!(ids(&found)[0], "i17", "{found}");
    let nobody = server.post("/v1/recommend", &json!({"user": "never seen"})).ok();
    assert!(nobody["fallback"].is_string(), "a fallback names itself: {nobody}");

    let record = server.get(&format!("/v1/slates/{}", slate["id"].as_str().unwrap())).ok();
    assert_eq!(record["slate"]["items"].as_array().unwrap().len(), 5);
    assert_eq!(record["query"]["user"], "u0");

    let item = ids(&slate)[0].clone();
    let why = server
        .send("POST", "/v1/explain", Some(READ), Some(&json!({"user": "u0", "item": item}).to_string()))
        .ok();
    assert!(!why["reasons"].as_array().unwrap().is_empty(), "{why}");
}

#[test]
fn events_count_at_once_and_only_once() {
    let (server, _dir) = start();
    let event = json!({"id": "new-1", "user": "fresh", "item": "i4", "kind": "view"});
    let stored = server.send("POST", "/v1/events", Some(WRITE), Some(&event.to_string())).ok();
    assert_eq!((stored["stored"].as_u64(), stored["duplicates"].as_u64()), (Some(1), Some(0)));
    let again = server.post("/v1/events", &json!([event])).ok();
    assert_eq!((again["stored"].as_u64(), again["duplicates"].as_u64()), (Some(0), Some(1)));
    assert_eq!(again["offset"], stored["offset"]);

    let slate = server.post("/v1/recommend", &json!({"user": "fresh", "count": 5})).ok();
    assert!(slate["fallback"].is_null(), "one event is enough: {slate}");
    assert!(!ids(&slate).contains(&"i4".to_owned()), "what was just seen is not shown again");

    let lines = "{\"user\":\"fresh\",\"item\":\"i6\",\"kind\":\"view\",\"at\":1}\n\n{\"user\":\"fresh\",\"item\":\"i8\",\"kind\":\"view\",\"at\":\"2026-01-31T10:00:00Z\"}\n";
    let key = format!("Bearer {WRITE}");
    let headers = [("authorization", key.as_str()), ("content-type", "application/x-ndjson")];
    assert_eq!(server.raw("POST", "/v1/events", &headers, lines.as_bytes()).ok()["stored"], 2);

    let first = server.get("/v1/users/fresh/events?limit=2").ok();
    assert_eq!(first["events"].as_array().unwrap().len(), 2);
    assert_eq!(first["events"][0]["item"], "i4", "newest first: {first}");
    let rest = server
        .get(&format!("/v1/users/fresh/events?limit=2&before={}", first["next"].as_str().unwrap()))
        .ok();
    assert_eq!(rest["events"].as_array().unwrap().len(), 1);
    assert_eq!(rest["events"][0]["at"], 1);
    assert!(rest.get("next").is_none());
    let seen = server.get("/v1/items/i4/events?limit=1000").ok();
    assert!(seen["events"].as_array().unwrap().iter().any(|e| e["user"] == "fresh"));
    assert_eq!(server.get("/v1/users/nobody/events").ok()["events"], json!([]));
}

#[test]
fn items_and_users_come_and_go() {
    let (server, _dir) = start();
    let send = |method: &str, path: &str, body: Option<&str>| server.send(method, path, Some(WRITE), body);
    for (thing, things) in [("item", "items"), ("user", "users")] {
        let at = format!("/v1/{things}/new");
        send("GET", &at, None).problem(404, &format!("unknown_{thing}"));
        send("PATCH", &at, Some("{}")).problem(404, &format!("unknown_{thing}"));
        send("DELETE", &at, None).problem(404, &format!("unknown_{thing}"));
        let put = send("PUT", &at, Some(r#"{"properties":{"title":"New","a":1}}"#)).ok();
        assert_eq!(put["id"], "new");
        let patched = send("PATCH", &at, Some(r#"{"properties":{"a":null,"b":2}}"#)).ok();
        assert_eq!(patched["properties"], json!({"title": "New", "b": 2}));
        assert_eq!(send("GET", &at, None).ok(), patched);
        assert_eq!(send("DELETE", &at, None).status, 204);
        send("GET", &at, None).problem(404, &format!("unknown_{thing}"));

        let many: Vec<Value> = (0..5).map(|i| json!({"id": format!("bulk{i}")})).collect();
        assert_eq!(send("POST", &format!("/v1/{things}"), Some(&json!(many).to_string())).ok()["stored"], 5);
        let mut found = Vec::new();
        let mut after = String::from("bulk");
        loop {
            let page = send("GET", &format!("/v1/{things}?limit=2&after={after}"), None).ok();
            found.extend(
                page[things].as_array().unwrap().iter().map(|t| t["id"].as_str().unwrap().to_owned()),
            );
            match page.get("next").and_then(Value::as_str) {
                Some(next) => after = next.to_owned(),
                None => break,
            }
        }
        assert_eq!(found.iter().filter(|id| id.starts_with("bulk")).count(), 5, "{found:?}");
        let mut sorted = found.clone();
        sorted.sort();
        sorted.dedup();
        assert_eq!(found, sorted, "in order, without repeats");
    }
    // A hidden item leaves every answer at once.
    let before = server.post("/v1/recommend", &json!({"user": "u0", "count": 1})).ok();
    let best = ids(&before)[0].clone();
    send("PATCH", &format!("/v1/items/{best}"), Some(r#"{"hidden":true}"#)).ok();
    let after = server.post("/v1/recommend", &json!({"user": "u0", "count": 30})).ok();
    assert!(!ids(&after).contains(&best));
}

#[test]
fn ids_are_any_utf8() {
    let (server, _dir) = start();
    for id in
        ["a/b", "ü ß/%2F", "日本語", "a?b#c", "%", "🍷", "<script>", "new\nline", "a+b", "\u{202e}rtl", " "]
    {
        let encoded: String = id.bytes().map(|b| format!("%{b:02X}")).collect::<Vec<_>>().concat();
        let path = format!("/v1/items/{encoded}");
        let body = json!({"properties": {"title": id}}).to_string();
        assert_eq!(server.send("PUT", &path, Some(WRITE), Some(&body)).ok()["id"], id);
        assert_eq!(server.get(&path).ok()["properties"]["title"], id);
        let event = json!({"user": id, "item": id, "kind": "view"});
        assert_eq!(server.post("/v1/events", &event).ok()["stored"], 1);
        assert_eq!(server.get(&format!("/v1/users/{encoded}/events")).ok()["events"][0]["item"], id);
        assert_eq!(server.get(&format!("/v1/items/{encoded}/events")).ok()["events"][0]["user"], id);
        let cover = server.get(&format!("/covers/{encoded}.svg"));
        assert_eq!(cover.status, 200);
        assert!(cover.head.contains("image/svg+xml") && cover.text().starts_with("<svg"), "{}", cover.text());
        assert!(!cover.text().contains("<script>"), "titles are text");
    }
}

#[test]
fn artefacts_pipelines_and_measurements() {
    let (server, dir) = start();
    let list = server.get("/v1/artefacts").ok();
    let published = list["published"].as_str().unwrap().to_owned();
    assert_eq!(list["artefacts"][0]["name"], published.as_str());
    let path = format!("/v1/artefacts/{published}/publish");
    assert_eq!(server.send("POST", &path, Some(ADMIN), None).ok()["published"], published.as_str());
    server.send("POST", &path, Some(WRITE), None).problem(403, "role");
    server.send("POST", "/v1/artefacts/nothing/publish", Some(ADMIN), None).problem(404, "unknown_artefact");
    assert!(!server.get("/v1/pipelines").ok()["pipelines"].as_object().unwrap().is_empty());
    assert_eq!(server.get("/v1/evaluations").ok()["evaluations"], json!([]));
    assert_eq!(server.get("/v1/status").ok()["artefact"], published.as_str());

    std::fs::create_dir_all(dir.path().join("spaces/default/media")).unwrap();
    std::fs::write(dir.path().join("spaces/default/media/a.png"), b"png").unwrap();
    let picture = server.get("/media/a.png");
    assert!(picture.status == 200 && picture.head.contains("content-type: image/png"));
    server.get("/media/b.png").problem(404, "no_route");
    server.get("/media/..%2Fpublished.json").problem(404, "no_route");
}

#[test]
fn forgetting_leaves_a_receipt() {
    let (server, _dir) = start();
    server.send("POST", "/v1/forget", Some(WRITE), Some(r#"{"user":"u1"}"#)).problem(403, "role");
    let receipt = server.post("/v1/forget", &json!({"user": "u1"})).ok();
    assert_eq!(receipt["erased"]["events"], 8);
    assert_eq!(receipt["artefacts"].as_array().unwrap().len(), 1);
    assert!(
        receipt["note"].as_str().unwrap().contains("trained again"),
        "honest about what is learned: {receipt}"
    );
    assert_eq!(server.get("/v1/users/u1/events").ok()["events"], json!([]));
    server.post("/v1/forget", &json!({"item": "i2"})).ok();
    server.get("/v1/items/i2").problem(404, "unknown_item");
    let slate = server.post("/v1/recommend", &json!({"user": "u0", "count": 30})).ok();
    assert!(!ids(&slate).contains(&"i2".to_owned()));
    server.post("/v1/forget", &json!({})).problem(422, "bad_body");
    server.post("/v1/forget", &json!({"user": "a", "item": "b"})).problem(422, "bad_body");
}

#[test]
fn it_tells_how_it_is() {
    let (server, _dir) = start();
    assert_eq!(server.send("GET", "/healthz", None, None).ok()["status"], "alive");
    assert_eq!(server.send("GET", "/readyz", None, None).ok()["ready"], true);
    server.post("/v1/recommend", &json!({"user": "u0"})).ok();
    server.get("/v1/items/i1").ok();
    server.send("GET", "/metrics", None, None).problem(401, "no_key");
    let metrics = server.get("/metrics").text();
    for line in [
        "sommelier_http_requests_total{method=\"POST\",route=\"/v1/recommend\",status=\"200\"}",
        "sommelier_http_request_seconds_bucket{route=\"/v1/items/{id}\",le=\"0.015\"}",
        "sommelier_slates_total{fallback=\"no\"}",
    ] {
        assert!(metrics.contains(line), "{line} is missing in\n{metrics}");
    }
    assert!(!metrics.contains("/v1/items/i1"), "no id becomes a series");

    let document = server.send("GET", "/openapi.json", None, None).ok();
    assert!(document["paths"]["/v1/recommend"]["post"].is_object());
    let docs = server.send("GET", "/docs/", None, None);
    assert!(docs.status == 200 && docs.text().contains("swagger"), "{}", docs.text());
    let page = server.send("GET", "/", None, None);
    assert!(
        page.status == 200 && page.head.contains("content-security-policy: default-src 'none'"),
        "{}",
        page.head
    );
    assert!(page.head.contains("x-content-type-options: nosniff"));
    let words = server.send("GET", "/problems/rate", None, None);
    assert!(words.text().contains("Retry-After"));
}

#[test]
fn spaces_are_apart() {
    let (server, _dir) = start();
    let other = Some(common::OTHER);
    assert_eq!(server.send("GET", "/v1/items?limit=10", other, None).ok()["items"], json!([]));
    let event = r#"{"user":"u","item":"only-here","kind":"view"}"#;
    assert_eq!(server.send("POST", "/v1/events", other, Some(event)).ok()["stored"], 1);
    assert_eq!(server.get("/v1/items/only-here/events").ok()["events"], json!([]));
    let key = format!("Bearer {}", common::OTHER);
    let to = |space: &str| {
        server.raw("GET", "/v1/status", &[("authorization", &key), ("x-sommelier-space", space)], b"")
    };
    to("other").ok();
    to("default").problem(403, "other_space");
}

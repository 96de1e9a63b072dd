//! Bodies: read within limits of size and time, checked for depth and UTF-8, and read as JSON with the place of a mistake.

use crate::App;
use crate::problem::{self, Fault, Problem};
use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, header};
use http_body_util::BodyExt;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::marker::PhantomData;
use std::time::Duration;

/// Reads on after a refusal so that the caller, still sending, gets to see it; but not for ever.
const DRAIN_BYTES: usize = 64 << 20;
const DRAIN_TIME: Duration = Duration::from_secs(3);

/// A JSON body of type `T`.
pub struct Json<T>(pub T);

/// A `T` written as a JSON object. Left to itself, serde would also take a bare list of a struct's fields.
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Object<T>, D::Error> {
        struct Visit<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Visit<T> {
            type Value = Object<T>;
            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("an object {…}")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
        deserializer.deserialize_map(Visit(PhantomData))
    }
}

/// How a body is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    Json,
    /// One JSON document a line.
    Lines,
}

/// The text of a body that may be JSON or NDJSON.
pub struct Text {
    pub shape: Shape,
    pub text: String,
}

impl<T: DeserializeOwned> FromRequest<App> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Json<T>, Problem> {
        let Text { shape, text } = Text::from_request(request, app).await?;
        if shape != Shape::Json {
            return Err(Problem::new(
                &problem::MEDIA_TYPE,
                "expected application/json here, received NDJSON",
            ));
        }
        parse::<Object<T>>(&text).map(|object| Json(object.0))
    }
}

impl FromRequest<App> for Text {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Text, Problem> {
        let limits = &app.config().limits;
        let shape = match shape_of(request.headers()) {
            Ok(shape) => shape,
            Err(problem) => {
                drain(request.into_body()).await;
                return Err(problem);
            }
        };
        let bytes = read(request, limits.body_bytes, Duration::from_millis(limits.timeout_ms)).await?;
        let text = String::from_utf8(bytes.into()).map_err(|error| {
            let offset = error.utf8_error().valid_up_to();
            Problem::new(&problem::NOT_UTF8, format!("expected UTF-8 text, byte {offset} of the body is not"))
        })?;
        let text = match text.strip_prefix('\u{feff}') {
            Some(rest) => rest.to_owned(),
            None => text,
        };
        check_depth(&text, limits.json_depth)?;
        Ok(Text { shape, text })
    }
}

fn shape_of(headers: &HeaderMap) -> Result<Shape, Problem> {
    let media = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    let essence = media.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    match essence.as_str() {
        "application/json" | "application/merge-patch+json" => Ok(Shape::Json),
        "application/x-ndjson" | "application/ndjson" | "application/jsonl" | "application/x-jsonlines" => {
            Ok(Shape::Lines)
        }
        "" => Err(Problem::new(
            &problem::MEDIA_TYPE,
            "expected Content-Type: application/json, received none; with curl add -H 'content-type: application/json'",
        )),
        other => Err(Problem::new(
            &problem::MEDIA_TYPE,
            format!(
                "expected Content-Type: application/json (or application/x-ndjson for events), received {other:?}; \
                 with curl add -H 'content-type: application/json'"
            ),
        )),
    }
}

async fn read(request: Request, limit: usize, time: Duration) -> Result<Bytes, Problem> {
    let too_large = || {
        Problem::new(&problem::TOO_LARGE, format!("a body may have {limit} bytes; send it in smaller parts"))
    };
    let announced = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.parse::<u64>().ok());
    let mut body = request.into_body();
    if announced.is_some_and(|bytes| bytes > limit as u64) {
        drain(body).await;
        return Err(too_large());
    }
    let mut bytes = Vec::with_capacity(announced.unwrap_or(0) as usize);
    let reading = async {
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| {
                Problem::new(&problem::BAD_REQUEST, format!("the body broke off: {error}"))
            })?;
            if let Some(data) = frame.data_ref() {
                if bytes.len() + data.len() > limit {
                    return Err(too_large());
                }
                bytes.extend_from_slice(data);
            }
        }
        Ok(())
    };
    match tokio::time::timeout(time, reading).await {
        Ok(Ok(())) => Ok(bytes.into()),
        Ok(Err(problem)) => {
            drain(body).await;
            Err(problem)
        }
        Err(_) => Err(Problem::new(
            &problem::SLOW_REQUEST,
            format!("the body did not arrive within {} ms; nothing was stored", time.as_millis()),
        )),
    }
}

/// Throws away what is still coming. Closing at once would reset the connection before the caller reads the answer.
async fn drain(mut body: Body) {
    let mut left = DRAIN_BYTES;
    let reading = async {
        while let Some(Ok(frame)) = body.frame().await {
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            left = left.saturating_sub(bytes);
            if left == 0 {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(DRAIN_TIME, reading).await;
}

/// Refuses deep nesting before any recursive reader sees it.
fn check_depth(text: &str, limit: usize) -> Result<(), Problem> {
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for (at, byte) in text.bytes().enumerate() {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => {
                depth += 1;
                if depth > limit {
                    let (line, column) = place(text, at);
                    return Err(Problem::new(
                        &problem::TOO_DEEP,
                        format!("arrays and objects may be nested {limit} deep, the body goes deeper"),
                    )
                    .at(line, column));
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

/// Line and column of a byte, both from 1.
fn place(text: &str, at: usize) -> (usize, usize) {
    let before = &text[..at];
    let line = before.matches('\n').count() + 1;
    let column = at - before.rfind('\n').map_or(0, |p| p + 1) + 1;
    (line, column)
}

/// Reads a whole text as one JSON document.
pub fn parse<T: DeserializeOwned>(text: &str) -> Result<T, Problem> {
    read_json(text).map_err(|wrong| {
        let kind = if wrong.syntax { &problem::BAD_JSON } else { &problem::BAD_BODY };
        let detail = match &wrong.field {
            Some(field) => format!("{field}: {}", wrong.reason),
            None => wrong.reason.clone(),
        };
        let problem = Problem::new(kind, detail).at(wrong.line, wrong.column);
        match wrong.field {
            Some(field) => problem.field(field),
            None => problem,
        }
    })
}

/// Why a text is not the JSON that was expected.
pub struct Wrong {
    pub syntax: bool,
    pub field: Option<String>,
    pub reason: String,
    pub line: usize,
    pub column: usize,
}

impl Wrong {
    /// The same as one entry of a list.
    pub fn fault(self, index: usize, line: Option<usize>) -> Fault {
        Fault { index, line, field: self.field, reason: self.reason }
    }
}

pub fn read_json<T: DeserializeOwned>(text: &str) -> Result<T, Wrong> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        wrong(error.inner(), (path != ".").then_some(path), text)
    })?;
    reader.end().map_err(|error| wrong(&error, None, text))?;
    Ok(value)
}

/// The same for a value that is already JSON.
pub fn read_value<T: DeserializeOwned>(value: serde_json::Value) -> Result<T, Wrong> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        wrong(error.inner(), (path != ".").then_some(path), "")
    })
}

fn wrong(error: &serde_json::Error, field: Option<String>, text: &str) -> Wrong {
    let said = error.to_string();
    let said = said.split(" at line ").next().unwrap_or_default();
    let syntax = !error.is_data();
    let reason = if text.trim().is_empty() && error.is_eof() {
        "expected JSON, received an empty body".to_owned()
    } else if said.contains("untagged enum HistoryEntry") {
        "expected an item id or {\"item\", \"kind\"?, \"at\"?, \"value\"?}".to_owned()
    } else if said.contains("expected u32") {
        said.replace("expected u32", "expected a whole number from 0 to 4294967295")
    } else if said.contains("expected f64") {
        said.replace("expected f64", "expected a number")
    } else {
        said.to_owned()
    };
    // A path points into the document even when the document breaks off there; for syntax the place is enough.
    Wrong { syntax, field: field.filter(|_| !syntax), reason, line: error.line(), column: error.column() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sommelier_core::Query;

    fn problem(text: &str) -> serde_json::Value {
        use axum::response::IntoResponse;
        let problem = parse::<Query>(text).unwrap_err();
        let response = problem.into_response();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let body = runtime.block_on(axum::body::to_bytes(response.into_body(), 1 << 20)).unwrap();
        serde_json::from_slice(&body).unwrap()
    }

    #[test]
    fn a_mistake_is_named_with_its_field_and_place() {
        let p = problem("{\"user\":\"u\",\n \"count\": -1}");
        assert_eq!(p["code"], "bad_body");
        assert_eq!(p["field"], "count");
        assert_eq!(p["line"], 2);
        assert!(p["detail"].as_str().unwrap().contains("whole number"), "{p}");

        let p = problem(r#"{"history":["a", {"kind":"view"}]}"#);
        assert_eq!(p["field"], "history[1]");
        assert!(p["detail"].as_str().unwrap().contains("`item`"), "{p}");

        let p = problem(r#"{"usr":"u"}"#);
        assert!(p["detail"].as_str().unwrap().contains("`user`"), "the right names are listed: {p}");

        let p = problem(r#"{"user": "u", }"#);
        assert_eq!((p["code"].as_str().unwrap(), p["status"].as_i64().unwrap()), ("bad_json", 400));
        assert_eq!(p["line"], 1);

        assert!(problem("")["detail"].as_str().unwrap().contains("empty"));
        assert_eq!(problem("{} {}")["code"], "bad_json");
    }

    #[test]
    fn depth_counts_brackets_outside_of_strings() {
        assert!(check_depth(r#"{"a":"[[[[[[", "b":[1,[2]]}"#, 3).is_ok());
        assert!(check_depth(r#"{"a":"\"[[[[", "b":[1,[2]]}"#, 3).is_ok());
        assert!(check_depth("[[[[", 3).is_err());
        assert!(check_depth(&"[".repeat(10_000_000), 32).is_err());
        assert!(check_depth(&"[]".repeat(1000), 1).is_ok());
    }

    #[test]
    fn types_of_bodies() {
        let with = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, value.parse().unwrap());
            shape_of(&headers)
        };
        assert_eq!(with("application/json; charset=utf-8").unwrap(), Shape::Json);
        assert_eq!(with("Application/X-NDJSON").unwrap(), Shape::Lines);
        assert!(with("text/plain").is_err());
        assert!(shape_of(&HeaderMap::new()).is_err());
    }
}

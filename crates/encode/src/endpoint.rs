//! One request to an endpoint that answers OpenAI's `/embeddings`, and what came of it in words.

use serde::Deserialize;
use serde_json::{Value, json};
use std::time::Duration;
use ureq::Agent;

/// Whom to ask, and how.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// With `/embeddings` at the end of its path.
    url: String,
    model: String,
    /// 0 leaves it to the model.
    dimensions: usize,
    /// Name of the environment variable with the key; empty where none is needed.
    key_env: String,
    agent: Agent,
}

/// Vectors in the order of the texts, all finite and of one length.
#[derive(Debug, PartialEq)]
pub(crate) struct Answer {
    pub vectors: Vec<Vec<f32>>,
    pub tokens: u64,
}

/// Why there is no answer.
#[derive(Debug, PartialEq)]
pub(crate) enum Failure {
    /// It may answer later, after so many seconds where it says so.
    Again { why: String, after: Option<f64> },
    /// It does not take these texts.
    Refused(String),
    /// It will not answer whatever is asked, or not with vectors.
    Useless(String),
}

impl Failure {
    pub fn why(&self) -> &str {
        match self {
            Failure::Again { why, .. } | Failure::Refused(why) | Failure::Useless(why) => why,
        }
    }
}

/// Bytes of an answer that are read, at most.
const MOST_BYTES: u64 = 512 << 20;

impl Endpoint {
    pub fn new(url: &str, model: &str, dimensions: usize, key_env: &str) -> Endpoint {
        let url = full(url);
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // Texts go where the recipe says, and not where that sends them on.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent("sommelier");
        let config = if loopback(&url) { config.proxy(None) } else { config };
        let (model, key_env) = (model.to_owned(), key_env.to_owned());
        Endpoint { url, model, dimensions, key_env, agent: config.build().new_agent() }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// The key, where one is needed; an error in words where it is not there.
    pub fn key(&self) -> Result<Option<String>, String> {
        if self.key_env.is_empty() {
            return Ok(None);
        }
        let name = &self.key_env;
        match std::env::var(name).map(|key| key.trim().to_owned()) {
            Ok(key) if key.bytes().all(|b| b.is_ascii_graphic()) && !key.is_empty() => Ok(Some(key)),
            Ok(_) => Err(format!(
                "the key in the environment variable {name} is empty or holds letters that no key has; set it again"
            )),
            Err(_) => Err(format!(
                "key_env names the environment variable {name}, which is not set; set it to the endpoint's key"
            )),
        }
    }

    /// Vectors of texts, of which there must be at least one, within so many seconds.
    pub fn ask(&self, texts: &[&str], seconds: f64) -> Result<Answer, Failure> {
        let key = self.key().map_err(Failure::Useless)?;
        let mut body = json!({"model": self.model, "input": texts, "encoding_format": "float"});
        if self.dimensions > 0 {
            body["dimensions"] = self.dimensions.into();
        }
        let mut request = self
            .agent
            .post(&self.url)
            .config()
            .timeout_global(Some(Duration::from_secs_f64(seconds)))
            .build()
            .header("content-type", "application/json");
        if let Some(key) = &key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let failed = |e: ureq::Error| transport(&e, seconds);
        let mut response = request.send(body.to_string()).map_err(failed)?;
        let header =
            |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let (status, after, to) = (response.status().as_u16(), header("retry-after"), header("location"));
        let body = response.body_mut().with_config().limit(MOST_BYTES).read_to_vec().map_err(failed)?;
        if (200..300).contains(&status) {
            return answer(&body, texts.len()).map_err(|why| Failure::Useless(without(&why, key.as_deref())));
        }
        let said = without(&said(&body), key.as_deref());
        Err(refusal(status, &said, after.as_deref(), to.as_deref(), &self.key_env))
    }
}

/// `scheme://host` of an address, the host with its port and whatever is before it.
pub(crate) fn scheme_and_host(url: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = url.split_once("://")?;
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    (matches!(scheme, "http" | "https") && !host.is_empty()).then_some((scheme, host))
}

/// The address with `/embeddings` at the end of its path.
pub(crate) fn full(url: &str) -> String {
    let (path, rest) = url.split_at(url.find(['?', '#']).unwrap_or(url.len()));
    let path = path.trim_end_matches('/');
    let path = path.strip_suffix("/embeddings").unwrap_or(path);
    format!("{path}/embeddings{rest}")
}

/// Whether the address is this machine, which is asked without a proxy.
fn loopback(url: &str) -> bool {
    let host = scheme_and_host(url).map_or("", |(_, host)| host);
    let host = if host.starts_with('[') { host.split(']').next() } else { host.split(':').next() };
    host.is_some_and(|h| h == "localhost" || h == "[::1" || h.starts_with("127."))
}

fn transport(e: &ureq::Error, seconds: f64) -> Failure {
    match e {
        ureq::Error::Timeout(_) => {
            Failure::Again { why: format!("it did not answer within {seconds} s"), after: None }
        }
        ureq::Error::Io(_)
        | ureq::Error::ConnectionFailed
        | ureq::Error::HostNotFound
        | ureq::Error::Protocol(_) => {
            Failure::Again { why: format!("it could not be asked ({e})"), after: None }
        }
        _ => Failure::Useless(format!("it cannot be asked ({e})")),
    }
}

fn refusal(status: u16, said: &str, after: Option<&str>, to: Option<&str>, key_env: &str) -> Failure {
    let why = format!("it answered {status}{said}");
    match status {
        408 | 425 | 429 | 500..=599 => {
            // A date there would need a clock.
            let after =
                after.and_then(|s| s.trim().parse().ok()).filter(|s: &f64| s.is_finite() && *s >= 0.0);
            Failure::Again { why, after }
        }
        400 | 413 | 422 => Failure::Refused(why),
        300..=399 => Failure::Useless(format!(
            "{why}, and that it moved to {}; set url to that",
            to.unwrap_or("elsewhere")
        )),
        401 | 403 if key_env.is_empty() => Failure::Useless(format!(
            "{why}; put its key into an environment variable and name that as key_env"
        )),
        401 | 403 => Failure::Useless(format!("{why}; check the key in the environment variable {key_env}")),
        404 => Failure::Useless(format!("{why}; check url and model")),
        _ => Failure::Useless(why),
    }
}

/// What a refusal says, shortened.
fn said(body: &[u8]) -> String {
    let json: Value = serde_json::from_slice(body).unwrap_or_default();
    let places = ["/error/message", "/message", "/detail", "/error"];
    let text = places.iter().find_map(|p| json.pointer(p)?.as_str().map(str::to_owned));
    let text = text.unwrap_or_else(|| String::from_utf8_lossy(body).into_owned());
    let words: Vec<&str> = text.split_whitespace().collect();
    let text: String = words.join(" ").chars().take(200).collect();
    if text.is_empty() { text } else { format!(" ({text})") }
}

/// No word of an endpoint brings the key into a log.
fn without(text: &str, key: Option<&str>) -> String {
    key.map_or_else(|| text.to_owned(), |key| text.replace(key, "…"))
}

#[derive(Deserialize)]
struct Body {
    data: Vec<One>,
    #[serde(default)]
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct One {
    index: Option<usize>,
    embedding: Vec<f32>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Usage {
    total_tokens: Option<u64>,
    prompt_tokens: Option<u64>,
}

/// What an answer says of `n` texts, or what is wrong with it.
pub(crate) fn answer(body: &[u8], n: usize) -> Result<Answer, String> {
    let unreadable =
        |e: serde_json::Error| format!("its answer is not what /embeddings answers: {e}{}", said(body));
    let body: Body = serde_json::from_slice(body).map_err(unreadable)?;
    if body.data.len() != n {
        return Err(format!("it answered with {} vectors for {n} texts", body.data.len()));
    }
    let mut vectors: Vec<Vec<f32>> = vec![Vec::new(); n];
    for (place, one) in body.data.into_iter().enumerate() {
        let index = one.index.unwrap_or(place);
        let dim = one.embedding.len();
        match vectors.get_mut(index) {
            _ if dim == 0 => return Err(format!("its vector {index} is empty")),
            Some(vector) if vector.is_empty() => *vector = one.embedding,
            Some(_) => return Err(format!("it answered with vector {index} twice")),
            None => return Err(format!("it answered with vector {index} of {n} texts")),
        }
    }
    let dim = vectors.first().map_or(0, Vec::len);
    if let Some(other) = vectors.iter().find(|v| v.len() != dim) {
        return Err(format!("it answered with vectors of {dim} and of {} numbers", other.len()));
    }
    let usage = body.usage.unwrap_or_default();
    Ok(Answer { vectors, tokens: usage.total_tokens.or(usage.prompt_tokens).unwrap_or(0) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn addresses_are_completed_and_read() {
        for (given, expected) in [
            ("http://h/v1", "http://h/v1/embeddings"),
            ("http://h/v1/embeddings/", "http://h/v1/embeddings"),
            ("https://h/x/embeddings?api-version=1", "https://h/x/embeddings?api-version=1"),
            ("https://h?v=a/b", "https://h/embeddings?v=a/b"),
        ] {
            assert_eq!(full(given), expected);
        }
        assert_eq!(scheme_and_host("http://u:p@h:80/x"), Some(("http", "u:p@h:80")));
        for none in ["", "h/v1", "ftp://h", "http://", "http:///x"] {
            assert_eq!(scheme_and_host(none), None, "{none}");
        }
        for (url, here) in [
            ("http://127.0.0.1:8/x", true),
            ("http://localhost/v1", true),
            ("http://[::1]:9", true),
            ("http://localhost.evil.org", false),
            ("https://api.openai.com/v1", false),
        ] {
            assert_eq!(loopback(url), here, "{url}");
        }
    }

    #[test]
    fn answers_are_checked() {
        let good = br#"{"data":[{"index":1,"embedding":[3,4]},{"index":0,"embedding":[1e-3,2]}],"usage":{"prompt_tokens":7}}"#;
        let vectors = vec![vec![0.001, 2.0], vec![3.0, 4.0]];
        assert_eq!(answer(good, 2), Ok(Answer { vectors, tokens: 7 }), "in the order of the texts");
        assert_eq!(answer(br#"{"data":[{"embedding":[1]}]}"#, 1).unwrap().tokens, 0);
        for (body, what) in [
            (r#"{"data":[]}"#, "0 vectors for 2 texts"),
            (r#"{"data":[{"index":0,"embedding":[1]},{"index":0,"embedding":[1]}]}"#, "vector 0 twice"),
            (r#"{"data":[{"index":0,"embedding":[1]},{"index":2,"embedding":[1]}]}"#, "vector 2 of 2 texts"),
            (r#"{"data":[{"embedding":[1]},{"embedding":[]}]}"#, "vector 1 is empty"),
            (r#"{"data":[{"embedding":[1]},{"embedding":[1,2]}]}"#, "of 1 and of 2 numbers"),
            (r#"{"data":[{"embedding":[1]},{"embedding":[1e39]}]}"#, "number out of range"),
            (r#"{"data":[{"embedding":[1]},{"embedding":[NaN]}]}"#, "not what /embeddings answers"),
            (r#"{"data":[{"embedding":[1]},{"embedding":[null]}]}"#, "not what /embeddings answers"),
            (r#"{"error":{"message":"no such model"}}"#, "(no such model)"),
            ("<html>\n Welcome </html>", "(<html> Welcome </html>)"),
            ("", "not what /embeddings answers"),
        ] {
            let why = answer(body.as_bytes(), 2).unwrap_err();
            assert!(why.contains(what), "{body}: {why}");
        }
    }

    #[test]
    fn a_key_is_never_repeated() {
        assert_eq!(without("bad key sk-1 here", Some("sk-1")), "bad key … here");
        assert!(said(&[b'x'; 5000]).len() < 210);
        assert_eq!(said(b""), "");
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(body in prop::collection::vec(any::<u8>(), 0..100), n in 0usize..4) {
            let _ = (answer(&body, n), said(&body));
        }
    }
}

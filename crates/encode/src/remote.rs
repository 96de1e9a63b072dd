//! Texts of items as vectors that an endpoint makes: any that answers OpenAI's `/embeddings`, on this machine or elsewhere.
//!
//! {model, input: [text, …], encoding_format: "float"} → {data: [{index, embedding: […]}, …], usage: {total_tokens}}
//!
//! Only texts leave the machine, and only to the address that the recipe names. The recipe names the environment variable with
//! the key, too; the key itself is in no recipe, log or artefact. Each answer is kept (see `cache.rs`) before the next is asked
//! for, so that what was paid for is not asked again, whatever ended a run.
//!
//! Cost: a request for each `batch` texts, one after the other; a text that several items share is sent once.
//! Source: the OpenAI API reference, "Create embeddings".

use crate::cache::{Cache, Key};
use crate::encoder::{Encoder, Problem, Vectors, plan, put_texts, take_texts};
use crate::endpoint::{Answer, Endpoint, Failure, full, scheme_and_host};
use crate::linear::usable;
use crate::reading::{front, no_text, whole_text};
use crate::{EncodeError, require};
use parking_lot::Mutex;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sommelier_core::{Cancel, FitContext, Item};
use sommelier_nn::{LoadError, Weights};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// Defaults are customary, not searched for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RemoteConfig {
    /// Such as `https://api.openai.com/v1`; texts of items are sent there.
    pub url: String,
    /// As the endpoint calls it.
    pub model: String,
    /// Length of the vectors, where the model can shorten them; 0 leaves it to the model.
    pub dimensions: usize,
    /// Name of the environment variable that holds the key; empty where none is needed.
    pub key_env: String,
    /// Which properties are read, in that order; empty reads every text and list of texts, addresses left out.
    pub properties: Vec<String>,
    /// What is put before the text of an item, for models that were trained with it.
    pub prefix: String,
    /// What is put before free text.
    pub query_prefix: String,
    /// Texts are cut to so many letters.
    pub max_chars: usize,
    /// Texts in a request.
    pub batch: usize,
    /// Seconds to wait for an answer.
    pub timeout: f64,
    /// How often a request is made again where that may help.
    pub retries: u32,
    /// Seconds before the first of these, doubled each time, unless the endpoint says how long.
    pub pause: f64,
    /// Of a million tokens, in any currency; 0 where it is not known.
    pub price: f64,
    /// Whether vectors are brought to unit length.
    pub unit: bool,
    /// Folder in which answers are kept; empty: `sommelier/vectors` among the user's caches.
    pub cache: PathBuf,
}

impl Default for RemoteConfig {
    fn default() -> RemoteConfig {
        RemoteConfig {
            url: String::new(),
            model: String::new(),
            dimensions: 0,
            key_env: String::new(),
            properties: Vec::new(),
            prefix: String::new(),
            query_prefix: String::new(),
            // Such models read about 8,000 tokens, and in some scripts each letter is one.
            max_chars: 8000,
            batch: 64,
            timeout: 60.0,
            retries: 5,
            pause: 1.0,
            price: 0.0,
            unit: true,
            cache: PathBuf::new(),
        }
    }
}

/// An endpoint, and the length of its vectors.
#[derive(Debug)]
pub struct RemoteEncoder {
    config: RemoteConfig,
    endpoint: Endpoint,
    dim: usize,
    late: Mutex<Late>,
    problems: Vec<Problem>,
    /// The same for every fit, whatever was kept.
    report: Vec<String>,
    cost: Vec<String>,
}

/// What is asked after the fit.
#[derive(Debug, Default)]
struct Late {
    cache: Option<Cache>,
    /// In a row.
    failures: u32,
    /// Questions that are not asked, for the endpoint failed.
    skip: u32,
}

/// Seconds to wait for what is asked after the fit: somebody waits for it.
const PATIENCE: f64 = 5.0;
/// Seconds between two tries, at most.
const LONGEST_PAUSE: f64 = 120.0;

impl RemoteConfig {
    pub fn fit(
        &self,
        items: &[Option<Item>],
        _: &BTreeMap<String, Vectors>,
        ctx: &FitContext,
    ) -> Result<(RemoteEncoder, Vectors), EncodeError> {
        self.check()?;
        let endpoint = self.endpoint();
        endpoint.key().map_err(EncodeError::Input)?;
        let texts: Vec<Option<String>> =
            items.par_iter().map(|item| whole_text(item.as_ref()?, &self.properties)).collect();
        if texts.iter().all(Option::is_none) {
            return Err(no_text(items.len(), &self.properties));
        }
        let cut =
            texts.iter().flatten().filter(|text| front(text, self.max_chars).len() < text.len()).count();
        let texts: Vec<Option<String>> = texts.iter().map(|text| Some(self.sent(text.as_ref()?))).collect();
        let keys: Vec<Option<Key>> =
            texts.iter().map(|text| Some(Key::of(text.as_ref()?.as_bytes()))).collect();
        let mut run = Run { config: self, endpoint: &endpoint, cache: self.open(), done: Done::default() };
        let missing: Vec<(Key, &str)> = run
            .cache
            .missing(&keys)
            .into_iter()
            .filter_map(|i| Some((keys[i]?, texts[i].as_deref()?)))
            .collect();
        run.all(&missing, ctx)?;
        let Run { mut cache, done, .. } = run;
        let Some(dim) = cache.dim() else {
            return Err(EncodeError::NoData(format!("{} refused every text", endpoint.url())));
        };
        let (n, bytes) = (items.len(), 8 * (items.len() * dim) as u64);
        plan(ctx, bytes, &format!("{n} vectors of {dim} numbers"), "ask for fewer dimensions")?;
        let vectors = cache.rows(dim, &keys, |row| usable(row, self.unit));
        let (present, model) = (vectors.present(), &self.model);
        let encoder = RemoteEncoder {
            report: vec![
                format!("{present} of {n} items have a vector of {dim} numbers, made by {model}"),
                format!("{cut} texts were cut to {} letters", self.max_chars),
            ],
            cost: self.cost(&done, missing.len(), &cache),
            problems: problems(items, &keys, &vectors, &done),
            config: self.clone(),
            endpoint,
            dim,
            late: Mutex::new(Late { cache: Some(cache), ..Late::default() }),
        };
        Ok((encoder, vectors))
    }

    pub fn load(&self, weights: &Weights) -> Result<RemoteEncoder, LoadError> {
        let dim = weights.u32("dim")?.1.first().map_or(0, |&dim| dim as usize);
        if dim == 0 {
            return Err(LoadError::Other("dim is damaged; fit the encoder again".into()));
        }
        Ok(RemoteEncoder {
            config: self.clone(),
            endpoint: self.endpoint(),
            dim,
            late: Mutex::default(),
            problems: Vec::new(),
            report: take_texts(weights, "report")?,
            cost: Vec::new(),
        })
    }

    fn check(&self) -> Result<(), EncodeError> {
        let wrong = |what: &str| Err(EncodeError::Input(what.to_owned()));
        let Some((scheme, host)) = scheme_and_host(&self.url) else {
            return wrong("url must be the address of an endpoint, such as https://api.openai.com/v1");
        };
        if host.contains('@') {
            return wrong(
                "url holds a password; put it into an environment variable and name that as key_env",
            );
        }
        if scheme == "https" && !cfg!(feature = "tls") {
            return wrong(
                "url begins with https, and this program was built without it; build it with --features tls",
            );
        }
        if self.model.is_empty() {
            return wrong("model is not set; name one as the endpoint calls it");
        }
        require("max_chars", self.max_chars as f64, self.max_chars > 0, "at least 1")?;
        require("batch", self.batch as f64, (1..=2048).contains(&self.batch), "from 1 to 2048")?;
        require(
            "timeout",
            self.timeout,
            self.timeout > 0.0 && self.timeout <= 3600.0,
            "above 0, at most 3600",
        )?;
        require("retries", self.retries.into(), self.retries <= 100, "at most 100")?;
        require("pause", self.pause, (0.0..=LONGEST_PAUSE).contains(&self.pause), "from 0 to 120")?;
        require("price", self.price, self.price >= 0.0 && self.price.is_finite(), "0 or more")
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint::new(&self.url, &self.model, self.dimensions, &self.key_env)
    }

    fn open(&self) -> Cache {
        let identity = json!([full(&self.url), self.model, self.dimensions]).to_string();
        Cache::open(&self.cache, &self.model, &identity)
    }

    /// What is sent for the text of an item.
    fn sent(&self, text: &str) -> String {
        format!("{}{}", self.prefix, front(text, self.max_chars))
    }

    fn cost(&self, done: &Done, sent: usize, cache: &Cache) -> Vec<String> {
        let mut lines = vec![format!(
            "{sent} texts were sent in {} requests, {} of which were made again",
            done.requests, done.again
        )];
        let price = self.price * done.tokens as f64 / 1e6;
        match (done.tokens, price > 0.0) {
            (0, _) => {}
            (tokens, false) => lines.push(format!("{tokens} tokens were read")),
            (tokens, true) => lines.push(format!("{tokens} tokens were read, for {price:.6}")),
        }
        lines.extend(
            cache.trouble().map(|trouble| format!("vectors are not kept for the next run: {trouble}")),
        );
        lines
    }
}

/// Those whose texts were refused, or have a vector that says nothing.
fn problems(items: &[Option<Item>], keys: &[Option<Key>], vectors: &Vectors, done: &Done) -> Vec<Problem> {
    let mut problems = Vec::new();
    for ((item, key), known) in items.iter().zip(keys).zip(&vectors.known) {
        if let (Some(item), Some(key), false) = (item, key, known) {
            let zeros = || "its vector is nothing but zeros, so it has none".to_owned();
            let refused = |why: &String| format!("the endpoint refused its text: {why}");
            let reason = done.refused.get(key).map_or_else(zeros, refused);
            problems.push(Problem { item: item.id.clone(), reason });
        }
    }
    problems
}

/// The asking of one fit.
struct Run<'a> {
    config: &'a RemoteConfig,
    endpoint: &'a Endpoint,
    cache: Cache,
    done: Done,
}

#[derive(Debug, Default)]
struct Done {
    texts: usize,
    requests: usize,
    again: usize,
    tokens: u64,
    refused: BTreeMap<Key, String>,
}

impl Run<'_> {
    fn all(&mut self, texts: &[(Key, &str)], ctx: &FitContext) -> Result<(), EncodeError> {
        ctx.progress.start("texts", Some(texts.len() as u64));
        for batch in texts.chunks(self.config.batch) {
            self.some(batch, &ctx.cancel).map_err(|e| self.saved(e, texts.len()))?;
            ctx.progress.at((self.done.texts + self.done.refused.len()) as u64);
        }
        ctx.progress.finish();
        Ok(())
    }

    /// Asks for a batch; where it is refused, for its halves, until only what is to blame is left out.
    fn some(&mut self, batch: &[(Key, &str)], cancel: &Cancel) -> Result<(), EncodeError> {
        let texts: Vec<&str> = batch.iter().map(|(_, text)| *text).collect();
        match self.persist(&texts, cancel)? {
            Ok(answer) => self.keep(batch, &answer),
            Err(Failure::Refused(_)) if batch.len() > 1 => {
                let (front, back) = batch.split_at(batch.len() / 2);
                self.some(front, cancel)?;
                self.some(back, cancel)
            }
            Err(Failure::Refused(why)) => {
                self.done.refused.insert(batch[0].0, why.clone());
                // Then it is not the texts that it does not take.
                let nothing = self.cache.dim().is_none() && self.done.refused.len() >= 3;
                if nothing { Err(EncodeError::Input(why)) } else { Ok(()) }
            }
            Err(Failure::Again { why, .. }) => {
                Err(EncodeError::Input(format!("{why}, {} times in a row", self.config.retries + 1)))
            }
            Err(Failure::Useless(why)) => Err(EncodeError::Input(why)),
        }
    }

    /// A request, made again while that may help.
    fn persist(&mut self, texts: &[&str], cancel: &Cancel) -> Result<Result<Answer, Failure>, EncodeError> {
        let mut pause = self.config.pause;
        let mut left = self.config.retries;
        loop {
            cancel.check()?;
            self.done.requests += 1;
            match self.endpoint.ask(texts, self.config.timeout) {
                Err(Failure::Again { after, .. }) if left > 0 => {
                    rest(after.unwrap_or(pause).min(LONGEST_PAUSE), cancel)?;
                    pause *= 2.0;
                    left -= 1;
                    self.done.again += 1;
                }
                other => return Ok(other),
            }
        }
    }

    fn keep(&mut self, batch: &[(Key, &str)], answer: &Answer) -> Result<(), EncodeError> {
        let dim = answer.vectors.first().map_or(0, Vec::len);
        let asked = self.config.dimensions;
        if asked > 0 && asked != dim {
            return Err(EncodeError::Input(format!(
                "it answered with vectors of {dim} numbers, dimensions is {asked}; set it to 0, or name a model that shortens them"
            )));
        }
        if let Some(kept) = self.cache.dim().filter(|&kept| kept != dim) {
            return Err(EncodeError::Input(format!(
                "it answered with vectors of {dim} numbers, earlier ones have {kept}, so another model has this name now; \
                 delete {} to ask for all again",
                self.cache.place()
            )));
        }
        self.cache.put(batch.iter().zip(&answer.vectors).map(|((key, _), v)| (*key, v.as_slice())));
        self.done.tokens += answer.tokens;
        self.done.texts += batch.len();
        Ok(())
    }

    /// The error with the address, and with what is done.
    fn saved(&self, error: EncodeError, all: usize) -> EncodeError {
        let EncodeError::Input(why) = error else { return error };
        let (url, done) = (self.endpoint.url(), self.done.texts);
        let rest = match self.cache.trouble() {
            _ if done == 0 => String::new(),
            None => format!(
                "; {done} of {all} texts are done and kept in {}, run it again to go on with the others",
                self.cache.place()
            ),
            Some(trouble) => format!("; {done} of {all} texts were done and are lost: {trouble}"),
        };
        EncodeError::Input(format!("{url}: {why}{rest}"))
    }
}

/// Sleeps, unless the job is stopped meanwhile.
fn rest(seconds: f64, cancel: &Cancel) -> Result<(), EncodeError> {
    const NAP: f64 = 0.05;
    let mut left = seconds;
    while left > 0.0 {
        cancel.check()?;
        std::thread::sleep(Duration::from_secs_f64(left.min(NAP)));
        left -= NAP;
    }
    Ok(())
}

impl RemoteEncoder {
    /// What an earlier asking brought.
    fn kept(&self, key: Key) -> Option<Vec<f32>> {
        let mut late = self.late.lock();
        late.cache.get_or_insert_with(|| self.config.open()).get(key)
    }

    fn keep(&self, keys: &[Key], vectors: &[Vec<f32>]) {
        let mut late = self.late.lock();
        let cache = late.cache.get_or_insert_with(|| self.config.open());
        if cache.dim().is_none_or(|dim| dim == self.dim) {
            cache.put(keys.iter().zip(vectors).map(|(key, v)| (*key, v.as_slice())));
        }
    }

    /// One request after the fit. Where it fails, that is told in the log, and some of the next ones are not made, the more
    /// the longer it fails.
    fn ask_late(&self, texts: &[&str]) -> Option<Vec<Vec<f32>>> {
        {
            let mut late = self.late.lock();
            if late.skip > 0 {
                late.skip -= 1;
                return None;
            }
        }
        let answer = self.endpoint.ask(texts, self.config.timeout.min(PATIENCE));
        let answer = answer.and_then(|answer| match answer.vectors.first().map_or(0, Vec::len) {
            dim if dim == self.dim => Ok(answer.vectors),
            dim => Err(Failure::Useless(format!(
                "it answered with vectors of {dim} numbers, expected {}",
                self.dim
            ))),
        });
        let mut late = self.late.lock();
        match answer {
            Ok(vectors) => {
                late.failures = 0;
                Some(vectors)
            }
            Err(failure) => {
                tracing::warn!(url = self.endpoint.url(), why = failure.why(), "texts have no vectors");
                if !matches!(failure, Failure::Refused(_)) {
                    late.failures = (late.failures + 1).min(6);
                    late.skip = (1 << late.failures) - 1;
                }
                None
            }
        }
    }

    fn usable(&self, mut vector: Vec<f32>) -> Option<Vec<f32>> {
        (vector.len() == self.dim && usable(&mut vector, self.config.unit)).then_some(vector)
    }

    fn of_item(&self, item: &Item) -> Option<(Key, String)> {
        let text = self.config.sent(&whole_text(item, &self.config.properties)?);
        Some((Key::of(text.as_bytes()), text))
    }
}

impl Encoder for RemoteEncoder {
    fn dim(&self) -> usize {
        self.dim
    }

    fn encode(&self, item: &Item, _: &dyn Fn(&str) -> Option<Vec<f32>>) -> Option<Vec<f32>> {
        let (key, text) = self.of_item(item)?;
        if let Some(kept) = self.kept(key) {
            return self.usable(kept);
        }
        let vectors = self.ask_late(&[&text])?;
        self.keep(&[key], &vectors);
        self.usable(vectors.into_iter().next()?)
    }

    fn ahead(&self, items: &[&Item]) {
        let texts: BTreeMap<Key, String> = items.iter().filter_map(|item| self.of_item(item)).collect();
        let missing: Vec<(Key, String)> =
            texts.into_iter().filter(|(key, _)| self.kept(*key).is_none()).collect();
        for batch in missing.chunks(self.config.batch) {
            let texts: Vec<&str> = batch.iter().map(|(_, text)| text.as_str()).collect();
            let Some(vectors) = self.ask_late(&texts) else { return };
            let keys: Vec<Key> = batch.iter().map(|(key, _)| *key).collect();
            self.keep(&keys, &vectors);
        }
    }

    /// What a person writes is not kept.
    fn encode_text(&self, text: &str) -> Option<Vec<f32>> {
        let text = text.trim();
        if text.is_empty() {
            return None;
        }
        let text = format!("{}{}", self.config.query_prefix, front(text, self.config.max_chars));
        self.usable(self.ask_late(&[&text])?.into_iter().next()?)
    }

    fn weights(&self) -> Weights {
        let mut weights = Weights::default();
        weights.set_u32("dim", &[1], vec![self.dim as u32]);
        put_texts(&mut weights, "report", self.report.iter().map(String::as_str));
        weights
    }

    fn problems(&self) -> &[Problem] {
        &self.problems
    }

    fn report(&self) -> Vec<String> {
        self.report.iter().chain(&self.cost).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::EncoderConfig;
    use crate::encoder::tests::{check, item, none};
    use serde_json::Value;
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::sync::Arc;

    /// What a server does about a request.
    enum Reply {
        Vectors,
        Status(u16, &'static str, &'static str),
        Body(String),
        /// It says nothing for longer than anybody waits.
        Silence,
        /// It closes the connection within its answer.
        Half,
    }

    /// A server on this machine; it remembers what it was asked.
    struct Server {
        url: String,
        /// The head and the texts of each request.
        asked: Arc<Mutex<Vec<(String, Value)>>>,
        cache: tempfile::TempDir,
    }

    /// Three numbers that tell texts apart.
    fn vector(text: &str) -> Vec<f32> {
        let sum: u32 = text.chars().map(u32::from).sum();
        vec![1.0, sum as f32 / 1000.0, text.chars().count() as f32]
    }

    fn good(texts: &Value) -> String {
        let texts: Vec<&str> = texts.as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect();
        let one = |(i, text): (usize, &&str)| json!({"index": i, "embedding": vector(text)});
        let mut data: Vec<Value> = texts.iter().enumerate().map(one).collect();
        data.reverse();
        json!({"data": data, "usage": {"total_tokens": 10 * texts.len()}}).to_string()
    }

    impl Server {
        fn new(reply: impl Fn(usize, &Value) -> Reply + Send + 'static) -> Server {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let url = format!("http://{}/v1", listener.local_addr().unwrap());
            let asked = Arc::new(Mutex::new(Vec::new()));
            let seen = Arc::clone(&asked);
            std::thread::spawn(move || {
                let mut silent = Vec::new();
                for stream in listener.incoming() {
                    let Some((mut stream, head, body)) = request(stream.unwrap()) else { continue };
                    let texts = body["input"].clone();
                    seen.lock().push((head, body));
                    let number = seen.lock().len();
                    let (status, headers, body) = match reply(number, &texts) {
                        Reply::Vectors => (200, "", good(&texts)),
                        Reply::Status(status, headers, body) => (status, headers, body.to_owned()),
                        Reply::Body(body) => (200, "", body),
                        Reply::Silence => {
                            silent.push(stream);
                            continue;
                        }
                        Reply::Half => (200, "content-length: 999\r\n", String::from("{\"data\"")),
                    };
                    let length = if headers.contains("content-length") {
                        String::new()
                    } else {
                        format!("content-length: {}\r\n", body.len())
                    };
                    let _ = write!(
                        stream,
                        "HTTP/1.1 {status} X\r\n{headers}{length}connection: close\r\n\r\n{body}"
                    );
                }
            });
            Server { url, asked, cache: tempfile::tempdir().unwrap() }
        }

        fn config(&self) -> RemoteConfig {
            RemoteConfig {
                url: self.url.clone(),
                model: "m".into(),
                batch: 2,
                timeout: 5.0,
                retries: 2,
                pause: 0.01,
                cache: self.cache.path().to_owned(),
                ..RemoteConfig::default()
            }
        }

        /// The texts of each request so far.
        fn texts(&self) -> Vec<Vec<String>> {
            let texts = |(_, body): &(String, Value)| {
                body["input"].as_array().unwrap().iter().map(|t| t.as_str().unwrap().to_owned()).collect()
            };
            self.asked.lock().iter().map(texts).collect()
        }
    }

    fn request(stream: TcpStream) -> Option<(TcpStream, String, Value)> {
        let mut reader = BufReader::new(stream);
        let (mut head, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok().filter(|&n| n > 0)?;
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if line.trim().is_empty() {
                break;
            }
            head.push_str(&line);
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        Some((reader.into_inner(), head, serde_json::from_slice(&body).unwrap()))
    }

    fn items() -> Vec<Option<Item>> {
        let titles = ["Emma", "Эмма", "爱玛", "Persuasion", "Emma", " "];
        let mut items: Vec<_> =
            titles.iter().enumerate().map(|(i, t)| item(&format!("i{i}"), json!({"title": t}))).collect();
        items.push(None);
        items
    }

    fn fit(config: &RemoteConfig) -> Result<(RemoteEncoder, Vectors), String> {
        config.fit(&items(), &BTreeMap::new(), &FitContext::quiet(1)).map_err(|e| e.to_string())
    }

    fn unit(text: &str) -> Vec<f32> {
        let mut v = vector(text);
        crate::linear::to_unit(&mut v);
        v
    }

    #[test]
    fn what_every_encoder_promises() {
        let server = Server::new(|_, _| Reply::Vectors);
        let config = EncoderConfig::Remote(server.config());
        let (encoder, vectors) = check(&config, &items(), &BTreeMap::new());
        assert_eq!(vectors.known, [true, true, true, true, true, false, false]);
        assert_eq!(vectors.row(1).unwrap(), unit("Эмма"));
        assert_eq!(vectors.row(0), vectors.row(4));
        // Three fits, and each text of an item was sent once; a wish is asked for each time.
        let wish = "some words, ordinary ones";
        let all = [vec!["Emma", "Эмма"], vec!["爱玛", "Persuasion"], vec![wish], vec![wish]];
        assert_eq!(server.texts(), all);
        assert_eq!(encoder.encode_text("Emma").unwrap(), unit("Emma"));
        assert_eq!(encoder.encode_text(" \n"), None);
        let new = item("new", json!({"title": "Lady Susan"})).unwrap();
        assert_eq!(encoder.encode(&new, &none).unwrap(), unit("Lady Susan"));
        let asked = server.texts().len();
        assert!(encoder.encode(&new, &none).is_some() && server.texts().len() == asked, "kept");
        let late: Vec<Item> = ["b", "a", "c", "a"].map(|t| item(t, json!({"title": t})).unwrap()).into();
        encoder.ahead(&late.iter().collect::<Vec<_>>());
        assert_eq!(server.texts().len(), asked + 2, "in batches of two");
        assert!(late.iter().all(|item| encoder.encode(item, &none) == Some(unit(&item.id))));
        assert_eq!(server.texts().len(), asked + 2);
    }

    #[test]
    fn requests_say_what_the_recipe_says() {
        let server = Server::new(|_, _| Reply::Vectors);
        // The key is in a variable that every test of this crate has.
        let config = RemoteConfig {
            url: format!("{}/embeddings?v=1", server.url),
            dimensions: 3,
            key_env: "CARGO_PKG_NAME".into(),
            prefix: "passage: ".into(),
            query_prefix: "query: ".into(),
            max_chars: 4,
            price: 0.5,
            unit: false,
            ..server.config()
        };
        let (encoder, vectors) = fit(&config).unwrap();
        let asked = server.asked.lock().clone();
        let (head, body) = &asked[0];
        assert!(head.starts_with("POST /v1/embeddings?v=1 HTTP/1.1"), "{head}");
        let head = head.to_ascii_lowercase();
        assert!(head.contains("authorization: bearer sommelier-encode"), "{head}");
        let input = ["passage: Emma", "passage: Эмма"];
        assert_eq!(body, &json!({"model": "m", "dimensions": 3, "encoding_format": "float", "input": input}));
        assert_eq!(vectors.row(3).unwrap(), vector("passage: Pers"), "cut, and as it came");
        encoder.encode_text("Persuasion").unwrap();
        assert_eq!(server.texts().last().unwrap()[..], ["query: Pers"]);
        assert_eq!(
            encoder.report(),
            [
                "5 of 7 items have a vector of 3 numbers, made by m",
                "1 texts were cut to 4 letters",
                "4 texts were sent in 2 requests, 0 of which were made again",
                "40 tokens were read, for 0.000020",
            ]
        );
        let (again, _) = fit(&config).unwrap();
        assert_eq!(again.weights(), encoder.weights(), "whatever was kept");
        assert_eq!(again.report()[2..], ["0 texts were sent in 0 requests, 0 of which were made again"]);
        let all = format!("{:?}{:?}", encoder.weights(), config);
        assert!(!all.contains("sommelier-encode"), "the key is nowhere");
    }

    #[test]
    fn a_busy_endpoint_is_asked_again() {
        for busy in [
            Reply::Status(429, "retry-after: 0\r\n", "{}"),
            Reply::Status(503, "retry-after: Fri, 31 Dec 1999 23:59:59 GMT\r\n", ""),
            Reply::Status(500, "", "oops"),
            Reply::Half,
        ] {
            let busy = Mutex::new(Some(busy));
            let server = Server::new(move |n, _| match n {
                2 => busy.lock().take().unwrap(),
                _ => Reply::Vectors,
            });
            let (encoder, vectors) = fit(&server.config()).unwrap();
            assert_eq!(vectors.present(), 5);
            assert_eq!(encoder.report()[2], "4 texts were sent in 3 requests, 1 of which were made again");
        }
        // As long as it says, and no longer.
        let server = Server::new(|n, _| match n {
            1 => Reply::Status(429, "retry-after: 0.3\r\n", ""),
            _ => Reply::Vectors,
        });
        let start = std::time::Instant::now();
        fit(&server.config()).unwrap();
        assert!((0.3..5.0).contains(&start.elapsed().as_secs_f64()));
    }

    #[test]
    fn a_run_that_died_goes_on_where_it_stood() {
        let server = Server::new(|n, _| if (2..=4).contains(&n) { Reply::Silence } else { Reply::Vectors });
        let config = RemoteConfig { timeout: 0.2, ..server.config() };
        let told = fit(&config).unwrap_err();
        for part in [
            server.url.as_str(),
            "did not answer within 0.2 s, 3 times in a row",
            "2 of 4 texts are done and kept in",
            "run it again",
        ] {
            assert!(told.contains(part), "{told}");
        }
        let (_, vectors) = fit(&config).unwrap();
        assert_eq!(vectors.present(), 5);
        assert_eq!(server.texts()[4..], [["爱玛", "Persuasion"]], "only what was missing");
        // Where nothing can be kept, that is told.
        let server = Server::new(|n, _| if n == 1 { Reply::Vectors } else { Reply::Status(500, "", "") });
        let file = tempfile::NamedTempFile::new().unwrap();
        let told = fit(&RemoteConfig { cache: file.path().into(), ..server.config() }).unwrap_err();
        assert!(told.contains("2 of 4 texts were done and are lost"), "{told}");
    }

    #[test]
    fn a_stop_is_heard_and_what_was_done_is_kept() {
        let ctx = FitContext::quiet(1);
        let stop = ctx.cancel.clone();
        let server = Server::new(move |n, _| {
            if n != 2 {
                return Reply::Vectors;
            }
            stop.cancel();
            Reply::Status(503, "retry-after: 60\r\n", "")
        });
        let config = server.config();
        let stopped = config.fit(&items(), &BTreeMap::new(), &ctx).err().unwrap();
        assert_eq!(stopped, EncodeError::Stopped(sommelier_core::Stopped));
        fit(&config).unwrap();
        assert_eq!(server.texts().len(), 3);
    }

    #[test]
    fn answers_that_are_of_no_use_are_told() {
        let told = |body: &str| {
            let body = body.to_owned();
            let server = Server::new(move |n, _| match n {
                1 => Reply::Vectors,
                _ => Reply::Body(body.clone()),
            });
            let told = fit(&server.config()).unwrap_err();
            assert!(told.contains("2 of 4 texts are done and kept"), "{told}");
            assert_eq!(server.texts().len(), 2, "it is not asked again");
            told
        };
        for (body, what) in [
            (r#"{"data":[{"embedding":[1,2]},{"embedding":[1,2]}]}"#, "2 numbers, earlier ones have 3"),
            (r#"{"data":[{"embedding":[1,2,3]}]}"#, "1 vectors for 2 texts"),
            (r#"{"data":[{"embedding":[1,2,NaN]},{"embedding":[1,2,3]}]}"#, "not what /embeddings answers"),
            ("<html>Sign in</html>", "(<html>Sign in</html>)"),
        ] {
            assert!(told(body).contains(what), "{}", told(body));
        }
        let server = Server::new(|_, _| Reply::Vectors);
        let told = fit(&RemoteConfig { dimensions: 2, ..server.config() }).unwrap_err();
        assert!(told.contains("vectors of 3 numbers, dimensions is 2"), "{told}");
        let zeros = json!({"data": [{"embedding": [0, 0]}, {"embedding": [0, 1]}]}).to_string();
        let server = Server::new(move |_, _| Reply::Body(zeros.clone()));
        let (encoder, vectors) = fit(&server.config()).unwrap();
        assert_eq!(vectors.known, [false, true, false, true, false, false, false]);
        assert_eq!(encoder.problems().len(), 3);
        assert!(encoder.problems()[0].reason.contains("zeros"));
    }

    #[test]
    fn refusals_are_told() {
        for (status, headers, body, what) in [
            (
                401,
                "",
                r#"{"error":{"message":"no key"}}"#,
                "401 (no key); put its key into an environment variable",
            ),
            (404, "", r#"{"detail":"no such model"}"#, "404 (no such model); check url and model"),
            (307, "location: http://other/v1\r\n", "", "moved to http://other/v1"),
            (418, "", "short and stout", "418 (short and stout)"),
            (400, "", "bad", "400 (bad)"),
        ] {
            let server = Server::new(move |_, _| Reply::Status(status, headers, body));
            let told = fit(&server.config()).unwrap_err();
            assert!(told.contains(what), "{told}");
            assert!(server.texts().len() < 7, "{} requests", server.texts().len());
        }
        let server = Server::new(|_, _| Reply::Status(401, "", "sommelier-encode is no key"));
        let told = fit(&RemoteConfig { key_env: "CARGO_PKG_NAME".into(), ..server.config() }).unwrap_err();
        assert!(
            told.contains("(… is no key); check the key in the environment variable CARGO_PKG_NAME"),
            "{told}"
        );
    }

    #[test]
    fn a_text_that_is_refused_spoils_no_other() {
        let server = Server::new(|_, texts| {
            let long = texts.as_array().unwrap().iter().any(|t| t == "Эмма");
            if long { Reply::Status(400, "", r#"{"error":{"message":"too long"}}"#) } else { Reply::Vectors }
        });
        let (encoder, vectors) = fit(&RemoteConfig { batch: 64, ..server.config() }).unwrap();
        assert_eq!(vectors.known, [true, false, true, true, true, false, false]);
        let problem = Problem {
            item: "i1".into(),
            reason: "the endpoint refused its text: it answered 400 (too long)".into(),
        };
        assert_eq!(encoder.problems(), [problem]);
    }

    #[test]
    fn an_endpoint_that_fails_later_is_left_alone_for_a_while() {
        let server = Server::new(|n, _| if n <= 2 { Reply::Vectors } else { Reply::Status(500, "", "") });
        let (encoder, _) = fit(&server.config()).unwrap();
        let new = |i: usize| item("n", json!({"title": format!("t{i}")})).unwrap();
        for i in 0..20 {
            assert_eq!(encoder.encode(&new(i), &none), None);
        }
        // The 1st, 3rd, 7th and 15th.
        assert_eq!(server.texts().len(), 2 + 4);
        assert!(encoder.encode(&items()[0].clone().unwrap(), &none).is_some(), "what is kept is there");
    }

    #[test]
    fn settings_are_checked() {
        let config = Server::new(|_, _| Reply::Vectors).config();
        let told = |change: &dyn Fn(&mut RemoteConfig)| {
            let mut config = config.clone();
            change(&mut config);
            fit(&config).unwrap_err()
        };
        assert!(told(&|c| c.url = "localhost:80".into()).contains("url must be the address"));
        let secret = told(&|c| c.url = "http://me:secret@h/v1".into());
        assert!(secret.contains("key_env") && !secret.contains("secret"), "{secret}");
        assert!(told(&|c| c.model.clear()).contains("model is not set"));
        assert!(told(&|c| c.key_env = "NO_SUCH_KEY".into()).contains("NO_SUCH_KEY, which is not set"));
        assert!(told(&|c| c.properties = vec!["plot".into()]).contains("none of 7 items has text in plot"));
        assert!(told(&|c| c.batch = 0).contains("batch must be from 1"));
        assert!(told(&|c| c.timeout = f64::NAN).contains("timeout must be"));
        assert!(told(&|c| c.pause = -1.0).contains("pause must be"));
        if cfg!(not(feature = "tls")) {
            assert!(told(&|c| c.url = "https://h".into()).contains("--features tls"));
        }
        let nobody = told(&|c| c.url = "http://127.0.0.1:9".into());
        assert!(nobody.contains("could not be asked") && nobody.contains("3 times in a row"), "{nobody}");
    }
}

//! Networks of the Hugging Face hub: `hub:ORGANISATION/NAME`, or `hub:ORGANISATION/NAME@REVISION`, is fetched once and kept.
//!
//! Files go to `sommelier/networks` among the user's caches. One that stopped halfway goes on where it stopped; a folder is used when all
//! of its files are there. `HF_ENDPOINT` names another hub, `HF_TOKEN` is shown to the hub and to nobody that it sends us on to.

use crate::EncodeError;
use crate::cache::usual_folder;
use serde_json::Value;
use sommelier_core::FitContext;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use ureq::Agent;
use ureq::http::header::{AUTHORIZATION, RANGE};

const HUB: &str = "https://huggingface.co";
/// Written when all is there.
const COMPLETE: &str = ".complete";
/// Fetched where the hub has them; of the first two it must have both.
const FILES: [&str; 9] = [
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "vocab.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "modules.json",
    "sentence_bert_config.json",
    "preprocessor_config.json",
];
const REQUIRED: usize = 2;

/// A network of the hub.
#[derive(Debug, PartialEq)]
struct Name<'a> {
    /// `ORGANISATION/NAME`
    repository: &'a str,
    revision: &'a str,
}

/// `None` where it is a folder.
fn name(model: &Path) -> Result<Option<Name<'_>>, String> {
    let Some(asked) = model.to_str().and_then(|text| text.strip_prefix("hub:")) else { return Ok(None) };
    let (repository, revision) = asked.split_once('@').unwrap_or((asked, "main"));
    let fine = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    };
    let parts: Vec<&str> = repository.split('/').collect();
    if parts.len() == 2 && parts.iter().all(|part| fine(part)) && fine(revision) {
        return Ok(Some(Name { repository, revision }));
    }
    Err(format!(
        "is no name of the hub; expected hub:ORGANISATION/NAME or hub:ORGANISATION/NAME@REVISION, received {asked:?}"
    ))
}

impl Name<'_> {
    fn below(&self, networks: &Path) -> PathBuf {
        networks.join(format!("{}@{}", self.repository.replace('/', "--"), self.revision))
    }
}

/// Where networks are kept.
fn networks() -> Result<PathBuf, String> {
    let vectors = usual_folder().ok_or("this machine says no folder for caches; set XDG_CACHE_HOME")?;
    Ok(vectors.with_file_name("networks"))
}

/// The folder of a network; an error in words where it has not been fetched.
pub(super) fn folder(model: &Path) -> Result<PathBuf, String> {
    let Some(name) = name(model)? else { return Ok(model.to_owned()) };
    let folder = name.below(&networks()?);
    if folder.join(COMPLETE).exists() {
        return Ok(folder);
    }
    Err("was not fetched to this machine; train here, or copy the folder of networks from where it was trained".into())
}

/// Fetches what is not there yet.
pub(super) fn fetch(model: &Path, ctx: &FitContext) -> Result<(), EncodeError> {
    let refuse = |why: String| EncodeError::Input(format!("{}: {why}", model.display()));
    let Some(name) = name(model).map_err(refuse)? else { return Ok(()) };
    let hub = std::env::var("HF_ENDPOINT").ok().filter(|url| !url.is_empty());
    let hub = hub.as_deref().unwrap_or(HUB).trim_end_matches('/');
    let token = std::env::var("HF_TOKEN").ok().filter(|token| !token.is_empty());
    let networks = networks().map_err(refuse)?;
    fetch_to(&name, hub, token.as_deref(), &networks, ctx).map_err(|error| match error {
        EncodeError::Input(why) => refuse(why),
        other => other,
    })
}

fn fetch_to(
    name: &Name,
    hub: &str,
    token: Option<&str>,
    networks: &Path,
    ctx: &FitContext,
) -> Result<(), EncodeError> {
    let folder = name.below(networks);
    if folder.join(COMPLETE).exists() {
        return Ok(());
    }
    let agent: Agent = Agent::config_builder()
        .http_status_as_error(false)
        .timeout_connect(Some(Duration::from_secs(30)))
        .timeout_recv_response(Some(Duration::from_mins(1)))
        .user_agent("sommelier")
        .build()
        .new_agent();
    let source = Source { agent, hub, token, name, folder: &folder, ctx };
    for (n, file) in FILES.into_iter().enumerate() {
        if !source.file(file)? && n < REQUIRED {
            let why = format!("the hub has no {file} of it; use a network that is kept as safetensors");
            return Err(EncodeError::Input(why));
        }
    }
    // What follows the network, such as how its vectors become one, has settings of its own.
    let modules = std::fs::read(folder.join("modules.json")).unwrap_or_default();
    let modules: Vec<Value> = serde_json::from_slice(&modules).unwrap_or_default();
    for path in modules.iter().filter_map(|module| module["path"].as_str()) {
        let plain = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.contains(['\\', ':']);
        if path.split('/').all(plain) {
            source.file(&format!("{path}/config.json"))?;
            source.file(&format!("{path}/model.safetensors"))?;
        }
    }
    File::create(folder.join(COMPLETE)).map_err(|e| written(&e))?;
    Ok(())
}

struct Source<'a> {
    agent: Agent,
    hub: &'a str,
    token: Option<&'a str>,
    name: &'a Name<'a>,
    folder: &'a Path,
    ctx: &'a FitContext,
}

impl Source<'_> {
    /// False where the hub has no such file.
    fn file(&self, file: &str) -> Result<bool, EncodeError> {
        let place = self.folder.join(file);
        if place.exists() {
            return Ok(true);
        }
        let part = place.with_file_name(format!("{}.part", place.file_name().unwrap_or_default().display()));
        let have = part.metadata().map_or(0, |data| data.len());
        let Name { repository, revision } = self.name;
        let mut request = self.agent.get(format!("{}/{repository}/resolve/{revision}/{file}", self.hub));
        if let Some(token) = self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        if have > 0 {
            request = request.header(RANGE, format!("bytes={have}-"));
        }
        let asked = |e: ureq::Error| {
            EncodeError::Input(format!("{file} could not be fetched ({e}); try again, or name a folder"))
        };
        let mut response = request.call().map_err(asked)?;
        let status = response.status().as_u16();
        match status {
            200 | 206 => {}
            404 => return Ok(false),
            401 | 403 => {
                let why = format!(
                    "the hub answered {status} to {file}: there is no such network, or HF_TOKEN must name a key that may read it"
                );
                return Err(EncodeError::Input(why));
            }
            _ => {
                let why = format!("the hub answered {status} to {file}; try again later, or name a folder");
                return Err(EncodeError::Input(why));
            }
        }
        std::fs::create_dir_all(place.parent().unwrap_or(self.folder)).map_err(|e| written(&e))?;
        let goes_on = status == 206;
        let mut out = OpenOptions::new();
        out.create(true).append(goes_on).write(true).truncate(!goes_on);
        let mut out = out.open(&part).map_err(|e| written(&e))?;
        let left = response.body().content_length();
        let mut done = if goes_on { have } else { 0 };
        let whole = left.map(|left| done + left);
        self.ctx.progress.start(file, whole);
        let mut body = response.body_mut().as_reader();
        let mut buffer = vec![0; 1 << 18];
        loop {
            self.ctx.cancel.check().map_err(EncodeError::Stopped)?;
            let read = body.read(&mut buffer).map_err(|e| {
                EncodeError::Input(format!("{file} stopped halfway ({e}); what came is kept, try again"))
            })?;
            if read == 0 {
                break;
            }
            out.write_all(&buffer[..read]).map_err(|e| written(&e))?;
            done += read as u64;
            self.ctx.progress.at(done);
        }
        self.ctx.progress.finish();
        if whole.is_some_and(|whole| done != whole) {
            return Err(EncodeError::Input(format!("{file} stopped halfway; what came is kept, try again")));
        }
        out.sync_all().map_err(|e| written(&e))?;
        std::fs::rename(&part, &place).map_err(|e| written(&e))?;
        Ok(true)
    }
}

fn written(e: &std::io::Error) -> EncodeError {
    EncodeError::Input(format!("what was fetched cannot be written to the folder of networks ({e})"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;
    use std::sync::{Arc, Mutex};

    type Asked = Arc<Mutex<Vec<String>>>;

    /// A hub on this machine: files by path. It keeps what was asked, with the header that says where to go on, and of `model.safetensors`
    /// it sends half at first.
    fn hub(files: &[(&str, &str)]) -> (String, Asked) {
        let files: BTreeMap<String, String> = files
            .iter()
            .map(|(name, text)| (format!("/o/n/resolve/main/{name}"), (*text).to_owned()))
            .collect();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Asked::default();
        let told = asked.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let (mut line, mut path, mut from) = (String::new(), String::new(), None);
                while reader.read_line(&mut line).unwrap() > 2 {
                    let lower = line.to_ascii_lowercase();
                    if let Some(rest) = line.strip_prefix("GET ") {
                        path = rest.split(' ').next().unwrap().to_owned();
                    } else if let Some(range) = lower.strip_prefix("range: bytes=") {
                        from = range.trim().trim_end_matches('-').parse::<usize>().ok();
                    }
                    line.clear();
                }
                told.lock().unwrap().push(format!("{path} {from:?}"));
                let (status, body) = match (files.get(&path), from) {
                    (None, _) => ("404 Not Found", ""),
                    (Some(text), None) => ("200 OK", &text[..]),
                    (Some(text), Some(from)) => ("206 Partial Content", &text[from..]),
                };
                let head = format!(
                    "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                    body.len()
                );
                let half = path.ends_with("model.safetensors") && from.is_none();
                let sent = if half { &body[..body.len() / 2] } else { body };
                stream.write_all(format!("{head}{sent}").as_bytes()).unwrap();
            }
        });
        (url, asked)
    }

    #[test]
    fn a_network_is_fetched_goes_on_where_it_stopped_and_is_not_asked_for_again() {
        let files = [
            ("config.json", "{}"),
            ("model.safetensors", "0123456789"),
            ("modules.json", r#"[{"path": ""}, {"path": "1_Pooling"}, {"path": "../out"}]"#),
            ("1_Pooling/config.json", "{\"a\": 1}"),
        ];
        let (url, asked) = hub(&files);
        let dir = tempfile::tempdir().unwrap();
        let name = Name { repository: "o/n", revision: "main" };
        let fetch = || fetch_to(&name, &url, None, dir.path(), &FitContext::quiet(1));
        let stopped = fetch().unwrap_err().to_string();
        assert!(stopped.contains("model.safetensors stopped halfway"), "{stopped}");
        let folder = name.below(dir.path());
        assert!(!folder.join(COMPLETE).exists());
        fetch().unwrap();
        for (file, text) in files {
            assert_eq!(std::fs::read_to_string(folder.join(file)).unwrap(), text, "{file}");
        }
        let paths = asked.lock().unwrap().clone();
        assert!(paths.contains(&"/o/n/resolve/main/model.safetensors Some(5)".to_owned()), "{paths:?}");
        assert!(!paths.iter().any(|path| path.contains("..")), "{paths:?}");
        assert_eq!(paths.iter().filter(|path| path.contains("/main/config.json")).count(), 1, "it was there");
        fetch().unwrap();
        assert_eq!(asked.lock().unwrap().len(), paths.len(), "all is there");
    }

    #[test]
    fn what_the_hub_does_not_have_is_told() {
        let (url, _) = hub(&[("config.json", "{}"), ("pytorch_model.bin", "x")]);
        let dir = tempfile::tempdir().unwrap();
        let name = Name { repository: "o/n", revision: "main" };
        let why = fetch_to(&name, &url, None, dir.path(), &FitContext::quiet(1)).unwrap_err().to_string();
        assert!(why.contains("no model.safetensors"), "{why}");
        let nobody = "http://127.0.0.1:1";
        let why = fetch_to(&name, nobody, None, dir.path(), &FitContext::quiet(1)).unwrap_err().to_string();
        assert!(why.contains("model.safetensors could not be fetched"), "{why}");
    }

    #[test]
    fn names() {
        let read = |text: &'static str| name(Path::new(text)).map(|n| n.map(|n| (n.repository, n.revision)));
        assert_eq!(read("models/x"), Ok(None));
        assert_eq!(read("hub:a/b"), Ok(Some(("a/b", "main"))));
        assert_eq!(read("hub:a/b.c@v1"), Ok(Some(("a/b.c", "v1"))));
        for bad in ["hub:", "hub:a", "hub:a/b/c", "hub:../b", "hub:a/b@", "hub:a/b@../x", "hub:a/b c"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}

//! Who asks: API keys, roles, spaces and rates. A handler gets a space only through a role that it names here.

use crate::config::{DEFAULT_SPACE, KeyConfig, Role, ServerConfig, ServerError};
use crate::problem::{self, Problem};
use crate::{App, Peer};
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use sommelier_engine::Space;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

const SPACE_HEADER: &str = "x-sommelier-space";

/// A space, for those who may read it.
pub struct Reading(pub Arc<Space>);
/// A space, for those who may write to it.
pub struct Writing(pub Arc<Space>);
/// A space, for those who decide about it.
pub struct Deciding(pub Arc<Space>);
/// Anybody known, whatever the space.
pub struct Known;

macro_rules! opens_a_space {
    ($($name:ident $role:ident)*) => {$(
        impl FromRequestParts<App> for $name {
            type Rejection = Problem;
            async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<$name, Problem> {
                let (caller, space) = admit(parts, app, Role::$role)?;
                caller.note(parts);
                app.space(&space).map($name)
            }
        }
    )*};
}
opens_a_space! { Reading Read  Writing Write  Deciding Admin }

impl FromRequestParts<App> for Known {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Known, Problem> {
        app.access().identify(parts).map(|_| Known)
    }
}

/// Whom a request comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Name of the key, or the address of a caller without one.
    pub name: Arc<str>,
    pub role: Role,
    /// `*` for all.
    space: Arc<str>,
}

impl Caller {
    /// Leaves the name where the access log finds it.
    fn note(self, parts: &mut Parts) {
        if let Some(noted) = parts.extensions.get::<crate::guard::Noted>() {
            *noted.caller.lock() = Some(self.name);
        }
    }
}

fn admit(parts: &Parts, app: &App, need: Role) -> Result<(Caller, String), Problem> {
    let access = app.access();
    let caller = access.identify(parts)?;
    access.rates.take(&caller.name)?;
    if caller.role < need {
        return Err(Problem::new(
            &problem::ROLE,
            format!("this needs the role {need}, the key {:?} has the role {}", caller.name, caller.role),
        ));
    }
    let space = space_for(&caller, &parts.headers)?;
    Ok((caller, space))
}

fn space_for(caller: &Caller, headers: &HeaderMap) -> Result<String, Problem> {
    let asked = match headers.get(SPACE_HEADER) {
        None => None,
        Some(value) => Some(std::str::from_utf8(value.as_bytes()).map_err(|_| {
            Problem::new(&problem::NOT_UTF8, "X-Sommelier-Space must be the name of a space in UTF-8")
        })?),
    };
    match (asked, &*caller.space) {
        (None, "*") => Ok(DEFAULT_SPACE.to_owned()),
        (Some(asked), "*") => Ok(asked.to_owned()),
        (None, own) => Ok(own.to_owned()),
        (Some(asked), own) if asked == own => Ok(own.to_owned()),
        (Some(asked), _) => Err(Problem::new(
            &problem::OTHER_SPACE,
            format!("the key {:?} does not open the space {asked:?}", caller.name),
        )),
    }
}

/// The keys in a form made for comparing, and how much each has asked lately.
pub struct Access {
    keys: Vec<Key>,
    anonymous_loopback: bool,
    rates: Rates,
}

struct Key {
    digest: [u8; 32],
    caller: Caller,
}

impl Access {
    pub fn new(config: &ServerConfig) -> Result<Access, ServerError> {
        let keys = config.keys.iter().map(read_key).collect::<Result<Vec<Key>, _>>()?;
        Ok(Access {
            keys,
            anonymous_loopback: config.allow_anonymous_loopback,
            rates: Rates::new(config.limits.requests_per_second),
        })
    }

    fn identify(&self, parts: &Parts) -> Result<Caller, Problem> {
        match presented(&parts.headers)? {
            Some(key) => self.by_key(key),
            None => self.anonymous(parts),
        }
    }

    /// Looks at every key whatever matches, so that the time taken says nothing.
    fn by_key(&self, key: &[u8]) -> Result<Caller, Problem> {
        let digest: [u8; 32] = Sha256::digest(key).into();
        let mut found = None;
        for candidate in &self.keys {
            if same(&candidate.digest, &digest) {
                found = Some(candidate);
            }
        }
        found
            .map(|key| key.caller.clone())
            .ok_or_else(|| Problem::new(&problem::BAD_KEY, "no key of this server matches the one sent"))
    }

    fn anonymous(&self, parts: &Parts) -> Result<Caller, Problem> {
        let peer = parts.extensions.get::<Peer>().map(|p| p.0.ip().to_canonical());
        let local = peer.filter(|ip| self.anonymous_loopback && ip.is_loopback());
        let Some(ip) = local else {
            return Err(Problem::new(
                &problem::NO_KEY,
                "no API key was sent; send it as Authorization: Bearer KEY or as X-API-Key",
            ));
        };
        check_origin(&parts.headers, parts.uri.authority().map(axum::http::uri::Authority::as_str))?;
        Ok(Caller { name: ip.to_string().into(), role: Role::Admin, space: "*".into() })
    }
}

/// Without keys, any web page open in a browser of this machine could ask too: either by a request across
/// origins, or by a name of its own that it lets point here. Both show in the headers.
fn check_origin(headers: &HeaderMap, authority: Option<&str>) -> Result<(), Problem> {
    let text = |name| headers.get(name).map(|v: &axum::http::HeaderValue| v.to_str().unwrap_or("?"));
    let host = text(header::HOST).or(authority).unwrap_or("");
    if !is_loopback_name(host) {
        return Err(Problem::new(
            &problem::FOREIGN_ORIGIN,
            format!(
                "without a key this server answers to localhost and 127.0.0.1, it was addressed as {host:?}"
            ),
        ));
    }
    match text(header::ORIGIN) {
        Some(origin) if origin.split_once("://").is_none_or(|(_, at)| at != host) => Err(Problem::new(
            &problem::FOREIGN_ORIGIN,
            format!("without a key only pages of this server may ask, the page is from {origin:?}"),
        )),
        _ => Ok(()),
    }
}

fn is_loopback_name(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(""),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.to_ascii_lowercase().ends_with(".localhost")
        || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

fn presented(headers: &HeaderMap) -> Result<Option<&[u8]>, Problem> {
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let bytes = value.as_bytes();
        return match bytes.split_at_checked(7) {
            Some((scheme, key)) if scheme.eq_ignore_ascii_case(b"Bearer ") => Ok(Some(key.trim_ascii())),
            _ => Err(Problem::new(
                &problem::BAD_KEY,
                "expected Authorization: Bearer KEY, received another scheme",
            )),
        };
    }
    Ok(headers.get("x-api-key").map(|value| value.as_bytes().trim_ascii()))
}

fn same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    let difference = a.iter().zip(b).fold(0u8, |all, (x, y)| all | (x ^ y));
    std::hint::black_box(difference) == 0
}

fn read_key(config: &KeyConfig) -> Result<Key, ServerError> {
    let refuse = |reason: &str| ServerError::Key { name: config.name.clone(), reason: reason.to_owned() };
    if config.space.is_empty() {
        return Err(refuse("space must be the name of a space, or * for all"));
    }
    let hex = config.sha256.as_bytes();
    let mut digest = [0u8; 32];
    if hex.len() != 64 {
        return Err(refuse(
            "sha256 must have 64 hexadecimal digits; make it with: printf %s KEY | sha256sum",
        ));
    }
    for (byte, pair) in digest.iter_mut().zip(hex.chunks_exact(2)) {
        let digit = |c: u8| (c as char).to_digit(16);
        let (Some(high), Some(low)) = (digit(pair[0]), digit(pair[1])) else {
            return Err(refuse("sha256 must consist of hexadecimal digits"));
        };
        *byte = (high * 16 + low) as u8;
    }
    let caller =
        Caller { name: config.name.as_str().into(), role: config.role, space: config.space.as_str().into() };
    Ok(Key { digest, caller })
}

/// A bucket of tokens per caller: filled evenly, holding one second's worth.
struct Rates {
    per_second: f64,
    buckets: Mutex<HashMap<Arc<str>, Bucket>>,
}

#[derive(Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Rates {
    fn new(per_second: u32) -> Rates {
        Rates { per_second: f64::from(per_second), buckets: Mutex::new(HashMap::new()) }
    }

    fn take(&self, name: &Arc<str>) -> Result<(), Problem> {
        if self.per_second == 0.0 {
            return Ok(());
        }
        self.take_at(name, Instant::now())
    }

    fn take_at(&self, name: &Arc<str>, now: Instant) -> Result<(), Problem> {
        let mut buckets = self.buckets.lock();
        if buckets.len() > 10_000 {
            // A full bucket remembers nothing, so it can go.
            let per_second = self.per_second;
            buckets
                .retain(|_, b| b.tokens + now.duration_since(b.at).as_secs_f64() * per_second < per_second);
        }
        let bucket = buckets.entry(name.clone()).or_insert(Bucket { tokens: self.per_second, at: now });
        let passed = now.saturating_duration_since(bucket.at).as_secs_f64();
        bucket.tokens = (bucket.tokens + passed * self.per_second).min(self.per_second);
        bucket.at = now;
        if bucket.tokens < 1.0 {
            return Err(Problem::new(
                &problem::RATE,
                format!("{name} may ask {} times a second; wait a second", self.per_second),
            )
            .retry_after(1));
        }
        bucket.tokens -= 1.0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_bucket_fills_evenly() {
        let rates = Rates::new(10);
        let (start, name) = (Instant::now(), Arc::from("k"));
        let taken = |at: u64| {
            (0..100).filter(|_| rates.take_at(&name, start + Duration::from_millis(at)).is_ok()).count()
        };
        assert_eq!(taken(0), 10);
        assert_eq!(taken(500), 5);
        assert_eq!(taken(10_500), 10, "no more than one second's worth is kept");
    }

    #[test]
    fn keys_are_found_by_their_hash() {
        let mut config = ServerConfig::default();
        config.keys.push(KeyConfig {
            name: "shop".into(),
            space: "books".into(),
            role: Role::Write,
            sha256: crate::hash_key("s3cret").to_uppercase(),
        });
        let access = Access::new(&config).unwrap();
        assert_eq!(&*access.by_key(b"s3cret").unwrap().name, "shop");
        assert!(access.by_key(b"s3cre").is_err());
        config.keys[0].sha256.pop();
        assert!(Access::new(&config).is_err());
        config.keys[0].sha256.push('g');
        assert!(Access::new(&config).is_err());
    }

    #[test]
    fn pages_from_elsewhere_are_kept_out() {
        let check = |host: &str, origin: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().unwrap());
            if let Some(origin) = origin {
                headers.insert(header::ORIGIN, origin.parse().unwrap());
            }
            check_origin(&headers, None).is_ok()
        };
        assert!(check("localhost:8000", None));
        assert!(check("127.0.0.1:8000", Some("http://127.0.0.1:8000")));
        assert!(check("[::1]:8000", None));
        assert!(!check("evil.example:8000", None), "a name that was made to point here");
        assert!(!check("localhost:8000", Some("https://evil.example")));
        assert!(!check("localhost:8000", Some("null")));
        assert!(!check("localhost:8000", Some("http://localhost:9000")), "another program's page");
    }
}

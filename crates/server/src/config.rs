//! The `[server]` part of the configuration: where to listen, who may ask, and how much.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::net::SocketAddr;

/// Space of a request that names none.
pub const DEFAULT_SPACE: &str = "default";

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerConfig {
    /// Address and port; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Who may ask. Without any key nobody may, except as `allow_anonymous_loopback` says.
    pub keys: Vec<KeyConfig>,
    pub limits: Limits,
    /// Programs on this machine need no key and may do everything: for the demo and for development.
    pub allow_anonymous_loopback: bool,
}

impl Default for ServerConfig {
    fn default() -> ServerConfig {
        ServerConfig {
            listen: SocketAddr::from(([127, 0, 0, 1], 8000)),
            keys: Vec::new(),
            limits: Limits::default(),
            allow_anonymous_loopback: false,
        }
    }
}

/// One API key. Only its SHA-256 is written down; make it with [`hash_key`] or `printf %s KEY | sha256sum`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyConfig {
    /// How logs and limits call whoever holds the key.
    pub name: String,
    /// The space it opens; `*` opens all.
    pub space: String,
    pub role: Role,
    /// 64 hexadecimal digits.
    pub sha256: String,
}

/// What a key may do; each role may do all that the one before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Ask: recommendations, items, events, slates, artefacts.
    Read,
    /// Tell: events, items, users.
    Write,
    /// Decide: publish, forget.
    Admin,
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(match self {
            Role::Read => "read",
            Role::Write => "write",
            Role::Admin => "admin",
        })
    }
}

impl std::str::FromStr for Role {
    type Err = ServerError;
    fn from_str(text: &str) -> Result<Role, ServerError> {
        match text {
            "read" => Ok(Role::Read),
            "write" => Ok(Role::Write),
            "admin" => Ok(Role::Admin),
            _ => Err(ServerError::Role { received: text.to_owned() }),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Largest body of a request.
    pub body_bytes: usize,
    /// Most events, items or users in one request.
    pub events_per_request: usize,
    /// Most items in one slate, and most entries in one page of a list.
    pub count_max: u32,
    /// Deepest nesting of arrays and objects; at most 120.
    pub json_depth: usize,
    /// Per key (per address without keys), with bursts of one second; 0 means no limit.
    pub requests_per_second: u32,
    /// Most time for reading a request, again for answering it, and between two moments at which its client takes some
    /// of the answer.
    pub timeout_ms: u64,
    /// Most requests in work at the same time; more are told to come back.
    pub concurrent_requests: usize,
    /// Most open connections; more wait to be accepted.
    pub connections: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            body_bytes: 16 << 20,
            events_per_request: 10_000,
            count_max: 1_000,
            json_depth: 32,
            requests_per_second: 20_000,
            timeout_ms: 10_000,
            concurrent_requests: 1_024,
            connections: 4_096,
        }
    }
}

/// A new key, and the lines for the configuration that let it in. The key itself is written down nowhere.
pub fn new_key(name: &str, space: &str, role: Role) -> Result<(String, String), ServerError> {
    let mut random = [0u8; 32];
    getrandom::fill(&mut random).map_err(|error| ServerError::Random(error.to_string()))?;
    let key = format!("sk-{}", hex(&random));
    let config = KeyConfig { name: name.to_owned(), space: space.to_owned(), role, sha256: hash_key(&key) };
    // JSON texts are TOML basic strings too, control characters included.
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let lines = format!(
        "[[server.keys]]\nname = {}\nspace = {}\nrole = \"{role}\"\nsha256 = \"{}\"\n",
        quoted(&config.name),
        quoted(&config.space),
        config.sha256
    );
    Ok((key, lines))
}

/// What goes into [`KeyConfig::sha256`] for a key.
pub fn hash_key(key: &str) -> String {
    hex(&Sha256::digest(key.as_bytes()))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("cannot listen on {address}: {source}; choose another port, or 0 for any free one")]
    Bind { address: SocketAddr, source: std::io::Error },
    #[error(
        "no API key is configured, so nobody could ask anything; add one under [[server.keys]], or set \
         allow_anonymous_loopback = true to let programs on this machine in without one"
    )]
    NoKeys,
    #[error(
        "{address} can be reached from other machines and no API key is configured; listen on 127.0.0.1 or add \
         a key under [[server.keys]]"
    )]
    Open { address: SocketAddr },
    #[error("key {name:?}: {reason}")]
    Key { name: String, reason: String },
    #[error("a role is read, write or admin, received {received:?}")]
    Role { received: String },
    #[error("the system gave no random numbers for a key: {0}")]
    Random(String),
    #[error("limits.{field} must be {expected}, received {received}")]
    Limit { field: &'static str, expected: &'static str, received: u64 },
    #[error("the metrics recorder cannot be set up: {0}")]
    Metrics(String),
    #[error("the server stopped: {0}")]
    Io(#[from] std::io::Error),
}

impl ServerConfig {
    /// Refuses what could not work or would be open to everybody.
    pub fn check(&self) -> Result<(), ServerError> {
        if self.keys.is_empty() {
            if !self.allow_anonymous_loopback {
                return Err(ServerError::NoKeys);
            }
            if !self.listen.ip().is_loopback() {
                return Err(ServerError::Open { address: self.listen });
            }
        }
        self.limits.check()
    }
}

impl Limits {
    fn check(&self) -> Result<(), ServerError> {
        let positive = [
            ("body_bytes", self.body_bytes as u64),
            ("events_per_request", self.events_per_request as u64),
            ("count_max", u64::from(self.count_max)),
            ("json_depth", self.json_depth as u64),
            ("timeout_ms", self.timeout_ms),
            ("concurrent_requests", self.concurrent_requests as u64),
            ("connections", self.connections as u64),
        ];
        for (field, received) in positive {
            if received == 0 {
                return Err(ServerError::Limit { field, expected: "at least 1", received });
            }
        }
        // The JSON reader itself refuses at 128; staying below it makes the refusal ours, with its words.
        if self.json_depth > 120 {
            return Err(ServerError::Limit {
                field: "json_depth",
                expected: "at most 120",
                received: self.json_depth as u64,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_serves_the_world_without_keys() {
        let mut config = ServerConfig::default();
        assert!(matches!(config.check(), Err(ServerError::NoKeys)));
        config.allow_anonymous_loopback = true;
        assert!(config.check().is_ok());
        config.listen = SocketAddr::from(([0, 0, 0, 0], 8000));
        assert!(matches!(config.check(), Err(ServerError::Open { .. })));
    }

    #[test]
    fn senseless_limits_are_refused() {
        let mut config = ServerConfig { allow_anonymous_loopback: true, ..ServerConfig::default() };
        config.limits.timeout_ms = 0;
        assert!(matches!(config.check(), Err(ServerError::Limit { field: "timeout_ms", .. })));
        config.limits.timeout_ms = 1;
        config.limits.json_depth = 10_000;
        assert!(matches!(config.check(), Err(ServerError::Limit { field: "json_depth", .. })));
    }

    #[test]
    fn a_new_key_opens_what_its_lines_say() {
        #[derive(serde::Deserialize)]
        struct File {
            server: ServerConfig,
        }
        let (key, lines) = new_key("the \"shop\"", "books", Role::Write).unwrap();
        let file: File = toml::from_str(&lines).unwrap();
        let [config] = file.server.keys.as_slice() else { panic!("one key") };
        assert_eq!((config.name.as_str(), config.space.as_str()), ("the \"shop\"", "books"));
        assert_eq!((config.role, &config.sha256), ("write".parse().unwrap(), &hash_key(&key)));
        assert_ne!(new_key("a", "b", Role::Read).unwrap().0, new_key("a", "b", Role::Read).unwrap().0);
        assert!("root".parse::<Role>().is_err());
    }

    #[test]
    fn a_key_is_hashed_as_sha256sum_does() {
        assert_eq!(hash_key("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}

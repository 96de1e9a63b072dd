//! `sommelier.toml`: where spaces live, what events are worth, how answers are made, who may ask.

use crate::Global;
use anyhow::{Context, Result, anyhow, bail};
use serde::{Deserialize, Serialize};
use sommelier_data::{KindRule, KindRules};
use sommelier_engine::{Engine, EngineConfig, PipelineConfig, Space};
use sommelier_server::ServerConfig;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What the configuration is called where nothing else is said.
pub const FILE: &str = "sommelier.toml";

/// The whole file. Unknown keys are errors, so that a typing mistake is never a silent default.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    pub dir: PathBuf,
    pub server: ServerConfig,
    pub events: KindRules,
    pub pipelines: BTreeMap<String, PipelineConfig>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            dir: PathBuf::from("sommelier-data"),
            server: ServerConfig::default(),
            events: KindRules::new(),
            pipelines: BTreeMap::new(),
        }
    }
}

impl Config {
    /// The file named, or `sommelier.toml` here, or the defaults. A relative `dir` is relative to the file.
    pub fn find(global: &Global) -> Result<Config> {
        let here = PathBuf::from(FILE);
        match &global.config {
            Some(path) => Config::read(path),
            None if here.exists() => Config::read(&here),
            None => Ok(Config::default()),
        }
    }

    pub fn read(path: &Path) -> Result<Config> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the configuration {}", path.display()))?;
        let mut config: Config = toml::from_str(&text)
            .with_context(|| format!("{} is not a valid configuration", path.display()))?;
        if let Some(folder) = path.parent() {
            config.dir = folder.join(&config.dir);
        }
        Ok(config)
    }

    /// Adds "of this kind only these count" (from `--positive`) to the configuration and to its file, which is made
    /// where there is none. Returns the file's path if it was changed; refuses what contradicts it.
    pub fn add_rules(&mut self, global: &Global, rules: &[(String, String)]) -> Result<Option<PathBuf>> {
        let mut new = KindRules::new();
        for (kind, only) in rules {
            let rule = KindRule { only: Some(only.clone()), ..KindRule::default() };
            match self.events.get(kind) {
                None => {
                    self.events.insert(kind.clone(), rule.clone());
                    new.insert(kind.clone(), rule);
                }
                Some(there) if there.only == rule.only => {}
                Some(there) => bail!(
                    "the configuration says already how events of kind {kind} count ({}); set only = {only:?} under \
                     [events.{kind}] there, and import without --positive",
                    there.only.as_ref().map_or("all of them".to_owned(), |only| format!("only = {only:?}")),
                ),
            }
        }
        if new.is_empty() {
            return Ok(None);
        }
        let path = global.config.clone().unwrap_or_else(|| PathBuf::from(FILE));
        let mut text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(e) => {
                return Err(e).with_context(|| format!("cannot read the configuration {}", path.display()));
            }
        };
        text.push('\n');
        text += &events_toml(new)?;
        write(&path, &text)?;
        Ok(Some(path))
    }

    pub fn engine(&self) -> EngineConfig {
        EngineConfig {
            events: self.events.clone(),
            pipelines: self.pipelines.clone(),
            ..EngineConfig::default()
        }
    }

    pub fn open_engine(&self) -> Result<Arc<Engine>> {
        let clock = Arc::new(sommelier_core::SystemClock);
        Engine::open(&self.dir, self.engine(), clock)
            .with_context(|| format!("cannot open the store in {}", self.dir.display()))
    }
}

/// `[events.…]` tables.
pub fn events_toml(rules: KindRules) -> Result<String> {
    Ok(toml::to_string(&BTreeMap::from([("events", rules)]))?)
}

pub fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write the configuration {}", path.display()))
}

/// The space a command works on; it must exist.
pub fn open_space(global: &Global) -> Result<Arc<Space>> {
    let engine = Config::find(global)?.open_engine()?;
    engine.space(&global.space).map_err(|error| {
        if engine.spaces().is_empty() {
            anyhow!(
                "there is no data in {} yet; bring some in with `sommelier import FILE`",
                engine.root().display()
            )
        } else {
            error.into()
        }
    })
}

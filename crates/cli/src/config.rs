//! `sommelier.toml`: where spaces live, what events are worth, how answers are made, who may ask.

use crate::Global;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use sommelier_data::KindRules;
use sommelier_engine::{Engine, EngineConfig, PipelineConfig, Space};
use sommelier_server::ServerConfig;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

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
        let here = PathBuf::from("sommelier.toml");
        match &global.config {
            Some(path) => Config::read(path),
            None if here.exists() => Config::read(&here),
            None => Ok(Config::default()),
        }
    }

    fn read(path: &Path) -> Result<Config> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the configuration {}", path.display()))?;
        let mut config: Config =
            toml::from_str(&text).with_context(|| format!("{} is not a valid configuration", path.display()))?;
        if let Some(folder) = path.parent() {
            config.dir = folder.join(&config.dir);
        }
        Ok(config)
    }

    pub fn engine(&self) -> EngineConfig {
        EngineConfig { events: self.events.clone(), pipelines: self.pipelines.clone(), ..EngineConfig::default() }
    }

    pub fn open_engine(&self) -> Result<Arc<Engine>> {
        let clock = Arc::new(sommelier_core::SystemClock);
        Engine::open(&self.dir, self.engine(), clock)
            .map(Arc::new)
            .with_context(|| format!("cannot open the store in {}", self.dir.display()))
    }
}

/// The space a command works on; it must exist unless `create`.
pub fn open_space(global: &Global, create: bool) -> Result<(Config, Arc<Space>)> {
    let config = Config::find(global)?;
    let engine = config.open_engine()?;
    let space = if create { engine.create_space(&global.space)? } else { engine.space(&global.space)? };
    Ok((config, space))
}

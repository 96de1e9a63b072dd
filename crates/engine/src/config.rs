//! What a space is told in `sommelier.toml`: what events are worth, and one pipeline per scenario.

use crate::error::EngineError;
use serde::{Deserialize, Serialize};
use sommelier_data::KindRules;
use std::collections::BTreeMap;

/// The scenario that answers queries which name none.
pub const DEFAULT_SCENARIO: &str = "default";

/// Configuration of the spaces of one engine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EngineConfig {
    /// Weight, sign and half-life of each event kind; a kind without a rule has weight 1.
    pub events: KindRules,
    /// Pipelines by scenario. `default` is added with default values where it is absent.
    pub pipelines: BTreeMap<String, PipelineConfig>,
    pub limits: QueryLimits,
    /// A model sees at most this many of a user's newest events. The gate sees all of them.
    pub history_events: usize,
    /// Events of users kept in memory between queries, in total.
    pub history_cache_events: usize,
    /// Whether slates are written to the log, and how many may wait for that.
    pub record: RecordConfig,
}

impl Default for EngineConfig {
    fn default() -> EngineConfig {
        EngineConfig {
            events: KindRules::new(),
            pipelines: BTreeMap::new(),
            limits: QueryLimits::default(),
            history_events: 500,
            history_cache_events: 4_000_000,
            record: RecordConfig::default(),
        }
    }
}

/// How large a query may be. Past a limit the query is refused, never cut.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QueryLimits {
    /// Largest `count`.
    pub count: u32,
    /// Longest `history`, `exclude` and `candidates`, each.
    pub list: usize,
    /// Longest `like` and `unlike`, each.
    pub like: usize,
    /// Longest `wish`, in bytes.
    pub wish_bytes: usize,
    /// Items shown over all pages of one answer.
    pub paged: usize,
}

impl Default for QueryLimits {
    fn default() -> QueryLimits {
        QueryLimits { count: 1000, list: 10_000, like: 200, wish_bytes: 4096, paged: 2000 }
    }
}

/// Recording of slates. It happens behind the answer: a slate is on disk at most about `every_ms` after it was
/// given, on [`crate::Space::flush`] and on close. Where more than `queue` wait, new slates are not recorded and
/// counted in [`crate::SpaceStats::slates_dropped`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RecordConfig {
    pub slates: bool,
    pub queue: usize,
    pub every_ms: u64,
}

impl Default for RecordConfig {
    fn default() -> RecordConfig {
        RecordConfig { slates: true, queue: 10_000, every_ms: 100 }
    }
}

/// How a query of one scenario becomes a slate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PipelineConfig {
    /// Where items for a person with a history come from. Several are fused by weighted reciprocal rank.
    pub sources: Vec<SourceConfig>,
    /// What answers when the sources have nothing to say, and what fills a slate that they leave short; in order.
    pub fallback: Vec<SourceKind>,
    /// Whether items of the user's own history may come back.
    pub seen: Seen,
    /// Only events of these kinds make an item seen; all kinds where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seen_kinds: Option<Vec<String>>,
    /// Joined to the query's own filter with `and`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// Search hits that are considered for re-ranking by taste.
    pub search_pool: usize,
    /// How much taste counts beside the words when a known person searches; 0 ranks by words alone.
    pub search_taste: f32,
    pub diversity: DiversityConfig,
    /// Explain at most this many items of a slate with items of the history.
    pub reasons: usize,
    /// Return item properties: all of them, or only those named here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub properties: Option<Vec<String>>,
}

impl Default for PipelineConfig {
    fn default() -> PipelineConfig {
        PipelineConfig {
            sources: vec![SourceConfig::new(SourceKind::Model)],
            fallback: vec![SourceKind::Popular, SourceKind::Recent],
            seen: Seen::Hide,
            seen_kinds: None,
            filter: None,
            search_pool: 200,
            search_taste: 0.5,
            diversity: DiversityConfig::default(),
            reasons: 10,
            properties: None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seen {
    /// Items with an event of the user are never in a slate.
    Hide,
    /// They may come back: music, groceries.
    Allow,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceConfig {
    pub kind: SourceKind,
    /// Weight in the fusion of several sources.
    #[serde(default = "one")]
    pub weight: f32,
    /// `similar` only: neighbours of this many of the newest liked items.
    #[serde(default = "three")]
    pub recent_items: usize,
}

fn one() -> f32 {
    1.0
}

fn three() -> usize {
    3
}

impl SourceConfig {
    pub fn new(kind: SourceKind) -> SourceConfig {
        SourceConfig { kind, weight: one(), recent_items: three() }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceKind {
    /// The published artefact's answer to the whole history.
    Model,
    /// The artefact's neighbours of the newest items of the history.
    Similar,
    /// Items with the largest total weight of events.
    Popular,
    /// Items that came into the catalogue last.
    Recent,
    /// Items whose words match the wish.
    Search,
}

impl SourceKind {
    /// The name in slates.
    pub fn name(self) -> &'static str {
        match self {
            SourceKind::Model => "model",
            SourceKind::Similar => "similar",
            SourceKind::Popular => "popular",
            SourceKind::Recent => "recent",
            SourceKind::Search => "search",
        }
    }
}

/// How strongly a slate avoids items that resemble each other. A query may override `strength` with
/// `context.diversity` (0 to 1).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DiversityConfig {
    pub method: DiversityMethod,
    /// 0 ranks by score alone, 1 by difference alone.
    pub strength: f32,
    pub by: SimilarityBy,
    /// Select from this many of the best candidates, at least.
    pub pool: usize,
    /// `properties` only: these hold what an item is about (lists or text).
    pub properties: Vec<String>,
}

impl Default for DiversityConfig {
    fn default() -> DiversityConfig {
        DiversityConfig {
            method: DiversityMethod::Mmr,
            strength: 0.0,
            by: SimilarityBy::Properties,
            pool: 100,
            properties: ["genres", "categories", "subjects", "moods", "author", "tags"]
                .map(String::from)
                .to_vec(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiversityMethod {
    /// Maximal marginal relevance: score less the likeness to the nearest chosen item.
    Mmr,
    /// Greedy determinantal point process: score times the volume spanned with the chosen items.
    Dpp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SimilarityBy {
    /// Jaccard likeness of the named properties.
    Properties,
    /// The published artefact's item-to-item scores; properties where none is published.
    Model,
}

impl EngineConfig {
    /// Checks what the types cannot, and adds the `default` pipeline where it is absent.
    pub fn checked(mut self) -> Result<EngineConfig, EngineError> {
        self.pipelines.entry(DEFAULT_SCENARIO.to_owned()).or_default();
        for (name, pipeline) in &self.pipelines {
            pipeline.check().map_err(|reason| EngineError::Config(format!("pipelines.{name}.{reason}")))?;
        }
        for (kind, rule) in &self.events {
            if !rule.weight.is_finite() {
                let words = format!("events.{kind}.weight must be a finite number, received {}", rule.weight);
                return Err(EngineError::Config(words));
            }
        }
        if self.limits.count == 0 || self.history_events == 0 {
            let words = "limits.count and history_events must be at least 1, received 0";
            return Err(EngineError::Config(words.into()));
        }
        Ok(self)
    }
}

impl PipelineConfig {
    fn check(&self) -> Result<(), String> {
        if self.sources.iter().any(|s| s.kind == SourceKind::Search) {
            return Err("sources: `search` runs whenever a query has a wish, it is not listed".into());
        }
        if let Some(bad) = self.sources.iter().find(|s| !(s.weight.is_finite() && s.weight > 0.0)) {
            return Err(format!("sources: weight must be a number above 0, received {}", bad.weight));
        }
        if self.fallback.iter().any(|s| !matches!(s, SourceKind::Popular | SourceKind::Recent)) {
            return Err("fallback: expected `popular` or `recent`, which need no history".into());
        }
        if !(0.0..=1.0).contains(&self.diversity.strength) {
            return Err(format!(
                "diversity.strength must lie in 0 to 1, received {}",
                self.diversity.strength
            ));
        }
        if !(self.search_taste.is_finite() && self.search_taste >= 0.0) {
            return Err(format!(
                "search_taste must be a number of at least 0, received {}",
                self.search_taste
            ));
        }
        if let Some(text) = &self.filter {
            crate::Filter::parse(text).map_err(|e| format!("filter: {e}"))?;
        }
        Ok(())
    }
}

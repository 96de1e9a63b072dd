//! The one answer: ranked items, each with its source and reasons.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Slate {
    pub id: String,
    pub items: Vec<SlateItem>,
    /// Hand this back as `page` for the items after these; absent when there are no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// The artefact that ranked; absent when only rules answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artefact: Option<String>,
    /// Why this is not the answer asked for ("no artefact is published: popular items"); absent when it is.
    #[serde(default)]
    pub fallback: Option<String>,
    /// What of the question could not be used, in words ("history: item \"x\" is unknown").
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SlateItem {
    pub item: String,
    pub score: f32,
    /// Which source found it: `model`, `similar`, `popular`, `recent`, `search`, `candidates`.
    pub source: String,
    #[serde(default)]
    pub reasons: Vec<Reason>,
    /// Probability that this policy shows this item at this place; 1 for a deterministic pipeline.
    pub propensity: f32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub properties: Option<Map<String, Value>>,
}

/// Why an item is in a slate, in a form that can be checked and in words.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reason {
    /// `because` (an item of one's own history), `popular`, `recent`, `match` (words of the wish), `like`.
    pub kind: String,
    /// The item it refers to, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<String>,
    /// Share of the score this reason carries, where the model can tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<f32>,
    pub text: String,
}

//! Recommendation models, one file each. A config is a plain struct whose `fit` makes the model.
//!
//! ```
//! use sommelier_core::{Allowed, FitContext, ItemIx, ResolvedQuery};
//! use sommelier_data::snapshot::Snapshot;
//! use sommelier_models::ModelConfig;
//! let snapshot = Snapshot::from_pairs("tiny", &[("ann", "tea"), ("ann", "cake"), ("bob", "tea"), ("bob", "cake"), ("cy", "tea")]);
//! let config: ModelConfig = toml::from_str("kind = 'ease'\nl2 = 1.0")?;
//! let model = config.fit(&snapshot, &mut FitContext::quiet(1))?;
//! let best = model.retrieve(&ResolvedQuery::from_items([ItemIx(0)]), 1, &Allowed::everything().without([ItemIx(0)]));
//! assert_eq!(snapshot.items.id(best[0].item.0), "cake");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod config;
mod factors;
mod item_item;
mod model;
mod similarity;
mod weights;

mod bpr;
mod ease;
mod ials;
mod item_knn;
mod popularity;

pub use config::ModelConfig;
pub use model::{FitError, LoadError, Model};
pub use similarity::{Measure, Weighting};
pub use weights::{Array, Weights};

pub use bpr::{Bpr, BprConfig, Negatives};
pub use ease::{Ease, EaseConfig};
pub use ials::{Ials, IalsConfig, Solver};
pub use item_knn::{ItemKnn, ItemKnnConfig, Keep};
pub use popularity::{Popularity, PopularityConfig, PopularityMode};

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
pub mod generative;
mod item_item;
mod linear_factors;
mod model;
mod rows;
pub mod sequence;
mod sgns;
mod similarity;

mod blend;
mod bpr;
mod content_knn;
mod ease;
mod ials;
mod item2vec;
mod item_knn;
mod meta_prod2vec;
mod popularity;
mod pure_svd;
mod random;
mod rating_knn;
mod rp3beta;
mod slim;
mod spare;
mod sparse_ease;
mod user_knn;

pub use config::ModelConfig;
pub use model::{FitError, Model};
pub use similarity::{Measure, Weighting};
pub use sommelier_nn::{Array, LoadError, Weights};

pub use blend::{Blend, BlendConfig, Member};
pub use bpr::{Bpr, BprConfig, Negatives};
pub use content_knn::{ContentKnn, ContentKnnConfig};
pub use ease::{Ease, EaseConfig};
pub use generative::{LigerConfig, SetrecConfig, TigerConfig, TigerDecoderConfig};
pub use ials::{Ials, IalsConfig, Solver};
pub use item_knn::{ItemKnn, ItemKnnConfig, Keep};
pub use item2vec::{Item2vec, Item2vecConfig};
pub use meta_prod2vec::{MetaProd2vec, MetaProd2vecConfig};
pub use popularity::{Popularity, PopularityConfig, PopularityMode};
pub use pure_svd::{PureSvd, PureSvdConfig};
pub use random::{Random, RandomConfig};
pub use rating_knn::{Centre, RatingKnn, RatingKnnConfig};
pub use rp3beta::{Rp3beta, Rp3betaConfig};
pub use sequence::{
    AdaRetrievalConfig, Bert4recConfig, CapeConfig, ComirecConfig, Gru4recConfig, HcnConfig, HstuConfig,
    MambaConfig, SasrecConfig, TisasrecConfig,
};
pub use sgns::SkipGram;
pub use slim::{Slim, SlimConfig};
pub use sparse_ease::{SparseEase, SparseEaseConfig};
pub use user_knn::{UserKnn, UserKnnConfig};

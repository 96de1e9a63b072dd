//! One enum of all model configs: what a recipe's `[model]` table holds.

use crate::{
    AdaRetrievalConfig, Bert4recConfig, CapeConfig, ComirecConfig, Gru4recConfig, HcnConfig, HstuConfig,
    Item2vecConfig, LigerConfig, MambaConfig, MetaProd2vecConfig, PureSvdConfig, RandomConfig,
    RatingKnnConfig, Rp3betaConfig, SasrecConfig, SetrecConfig, SlimConfig, SparseEaseConfig, TigerConfig,
    TigerDecoderConfig, TisasrecConfig, UserKnnConfig,
};
use crate::{
    BlendConfig, BprConfig, ContentKnnConfig, EaseConfig, FitError, IalsConfig, ItemKnnConfig, LoadError,
    Model, PopularityConfig, Weights,
};
use serde::{Deserialize, Serialize};
use sommelier_core::FitContext;
use sommelier_data::snapshot::Snapshot;

/// Declares the enum and everything that goes variant by variant, so that a new model is one line here.
macro_rules! models {
    ($($variant:ident($config:ident) = $kind:literal),* $(,)?) => {
        /// The config of any model. In TOML and JSON, `kind` says which; unknown keys are errors.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "kind")]
        pub enum ModelConfig {
            $(#[serde(rename = $kind)] $variant($config),)*
        }

        impl ModelConfig {
            /// Every kind there is.
            pub const KINDS: &'static [&'static str] = &[$($kind),*];

            pub fn kind(&self) -> &'static str {
                match self {
                    $(ModelConfig::$variant(_) => $kind,)*
                }
            }

            /// The config of this kind with its defaults; `None` for a kind that does not exist.
            pub fn default_of(kind: &str) -> Option<ModelConfig> {
                match kind {
                    $($kind => Some(ModelConfig::$variant($config::default())),)*
                    _ => None,
                }
            }

            /// Learns from the snapshot, on the current rayon pool.
            pub fn fit(&self, snapshot: &Snapshot, ctx: &mut FitContext) -> Result<Box<dyn Model>, FitError> {
                match self {
                    $(ModelConfig::$variant(config) => config.fit(snapshot, ctx).map(|m| Box::new(m) as Box<dyn Model>),)*
                }
            }

            /// The model that had these weights, which this config fitted.
            pub fn load(&self, weights: &Weights) -> Result<Box<dyn Model>, LoadError> {
                match self {
                    $(ModelConfig::$variant(config) => config.load(weights).map(|m| Box::new(m) as Box<dyn Model>),)*
                }
            }
        }
    };
}

impl ModelConfig {
    /// Whether it learns in rounds, and ends when it is told that it gets no better.
    pub fn is_watched(&self) -> bool {
        let training = match self {
            ModelConfig::Sasrec(config) => &config.training,
            ModelConfig::Gru4rec(config) => &config.training,
            ModelConfig::Bert4rec(config) => &config.training,
            ModelConfig::Hstu(config) => &config.training,
            ModelConfig::Tisasrec(config) => &config.training,
            ModelConfig::Cape(config) => &config.training,
            ModelConfig::Mamba(config) => &config.training,
            ModelConfig::Comirec(config) => &config.training,
            ModelConfig::Hcn(config) => &config.training,
            ModelConfig::AdaRetrieval(config) => config.backbone.training(),
            ModelConfig::TigerDecoder(config) => &config.training,
            ModelConfig::Tiger(config) => &config.training,
            ModelConfig::Liger(config) => &config.training,
            ModelConfig::Setrec(config) => &config.training,
            ModelConfig::Blend(config) => return config.members.iter().any(|m| m.model.is_watched()),
            _ => return false,
        };
        training.patience > 0
    }
}

models! {
    Popularity(PopularityConfig) = "popularity",
    ItemKnn(ItemKnnConfig) = "item_knn",
    Ease(EaseConfig) = "ease",
    Ials(IalsConfig) = "ials",
    Bpr(BprConfig) = "bpr",
    Random(RandomConfig) = "random",
    UserKnn(UserKnnConfig) = "user_knn",
    Rp3beta(Rp3betaConfig) = "rp3beta",
    Slim(SlimConfig) = "slim",
    SparseEase(SparseEaseConfig) = "sparse_ease",
    PureSvd(PureSvdConfig) = "pure_svd",
    Item2vec(Item2vecConfig) = "item2vec",
    MetaProd2vec(MetaProd2vecConfig) = "meta_prod2vec",
    RatingKnn(RatingKnnConfig) = "rating_knn",
    Sasrec(SasrecConfig) = "sasrec",
    Gru4rec(Gru4recConfig) = "gru4rec",
    Bert4rec(Bert4recConfig) = "bert4rec",
    Hstu(HstuConfig) = "hstu",
    Tisasrec(TisasrecConfig) = "tisasrec",
    Cape(CapeConfig) = "cape",
    Mamba(MambaConfig) = "mamba",
    Comirec(ComirecConfig) = "comirec",
    Hcn(HcnConfig) = "hcn",
    AdaRetrieval(AdaRetrievalConfig) = "ada_retrieval",
    TigerDecoder(TigerDecoderConfig) = "tiger_decoder",
    Tiger(TigerConfig) = "tiger",
    Liger(LigerConfig) = "liger",
    Setrec(SetrecConfig) = "setrec",
    ContentKnn(ContentKnnConfig) = "content_knn",
    Blend(BlendConfig) = "blend",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_round_trip_and_unknown_keys_are_errors() {
        for kind in ModelConfig::KINDS {
            let config = ModelConfig::default_of(kind).unwrap();
            assert_eq!(config.kind(), *kind);
            let text = toml::to_string(&config).unwrap();
            assert_eq!(toml::from_str::<ModelConfig>(&text).unwrap(), config, "{text}");
            assert_eq!(toml::from_str::<ModelConfig>(&format!("kind = '{kind}'")).unwrap(), config);
            assert!(toml::from_str::<ModelConfig>(&format!("kind = '{kind}'\nno_such_key = 1")).is_err());
        }
        assert!(ModelConfig::default_of("no_such_kind").is_none());
    }

    #[test]
    fn whatever_has_patience_is_watched() {
        for kind in ModelConfig::KINDS {
            let config = ModelConfig::default_of(kind).unwrap();
            let text = toml::to_string(&config).unwrap();
            assert_eq!(config.is_watched(), text.contains("\npatience = 5\n"), "{text}");
        }
        let tireless = toml::from_str::<ModelConfig>("kind = 'sasrec'\ntraining = { patience = 0 }").unwrap();
        assert!(!tireless.is_watched());
        let blend =
            "kind = 'blend'\nmembers = [{ model = { kind = 'ease' } }, { model = { kind = 'hstu' } }]";
        assert!(toml::from_str::<ModelConfig>(blend).unwrap().is_watched());
    }
}

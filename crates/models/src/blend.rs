//! Several models in one: each ranks, and what they say adds up.
//!
//! score(j) = Σ_m w_m (s_m(j) − low_m) / (high_m − low_m)
//!
//! high_m and low_m are the best score of model m for this query and its `depth`-th best, items of the history aside; so each
//! model's list counts from 1 down to 0 whatever its scores mean, and what lies below its list counts less than 0. A model that has nothing to say
//! of a query takes no part.
//!
//! Cost: that of the members, each asked for two lists and for the scores of what any of them lists.
//! Source: CombSUM with min–max normalisation (Fox and Shaw, Combination of Multiple Searches, TREC-2, 1994; Lee, SIGIR 1997).

use crate::item_item::largest;
use crate::model::require;
use crate::{FitError, LoadError, Model, ModelConfig, Weights};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sommelier_core::{Allowed, Candidate, Explain, FitContext, Item, ItemIx, ResolvedQuery, Retrieve, Score};
use sommelier_data::Snapshot;
use std::collections::BTreeMap;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BlendConfig {
    /// Length of each member's list.
    pub depth: usize,
    pub members: Vec<Member>,
}

/// One of the models.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    #[serde(default = "one")]
    pub weight: f32,
    pub model: ModelConfig,
}

fn one() -> f32 {
    1.0
}

impl Default for BlendConfig {
    fn default() -> BlendConfig {
        let of = |kind| ModelConfig::default_of(kind).map(|model| Member { weight: 1.0, model });
        BlendConfig { depth: 100, members: ["ease", "item_knn"].into_iter().filter_map(of).collect() }
    }
}

/// Fitted models with their weights.
pub struct Blend {
    depth: usize,
    members: Vec<(f32, Box<dyn Model>)>,
}

impl BlendConfig {
    pub fn fit(&self, train: &Snapshot, ctx: &mut FitContext) -> Result<Blend, FitError> {
        self.check()?;
        let checkpoints = ctx.checkpoints.clone();
        let mut members = Vec::with_capacity(self.members.len());
        for (n, member) in self.members.iter().enumerate() {
            ctx.checkpoints = checkpoints.as_ref().map(|folder| folder.join(n.to_string()));
            let fitted = member.model.fit(train, ctx);
            ctx.checkpoints.clone_from(&checkpoints);
            members.push((member.weight, fitted?));
        }
        Ok(Blend { depth: self.depth, members })
    }

    fn check(&self) -> Result<(), FitError> {
        require("depth", self.depth as f64, self.depth > 1, "at least 2")?;
        require("members", self.members.len() as f64, !self.members.is_empty(), "at least one")?;
        self.members.iter().try_for_each(|m| {
            require("members.weight", m.weight.into(), m.weight > 0.0, "a finite number above 0")
        })
    }

    pub fn load(&self, weights: &Weights) -> Result<Blend, LoadError> {
        let of = |(n, member): (usize, &Member)| {
            let prefix = format!("{n}.");
            let own: BTreeMap<_, _> = weights
                .0
                .iter()
                .filter_map(|(name, array)| Some((name.strip_prefix(&prefix)?.to_owned(), array.clone())))
                .collect();
            Ok((member.weight, member.model.load(&Weights(own))?))
        };
        let members = self.members.iter().enumerate().map(of).collect::<Result<_, LoadError>>()?;
        Ok(Blend { depth: self.depth, members })
    }
}

/// What a member's score is multiplied with after taking away the lower end of its list.
#[derive(Clone, Copy)]
struct Scale {
    low: f32,
    factor: f32,
}

impl Scale {
    fn of(weight: f32, list: &[Candidate]) -> Option<Scale> {
        let (first, last) = (list.first()?, list.last()?);
        let wide = first.score - last.score;
        // All alike: the list says who is on it, and nothing of their order.
        Some(Scale { low: last.score, factor: weight / if wide > 0.0 { wide } else { 1.0 } })
    }
}

impl Blend {
    /// Of each member; `None` where it has nothing to say.
    fn scales(&self, q: &ResolvedQuery) -> Vec<Option<Scale>> {
        let unseen = unseen(q);
        let of = |(weight, model): &(f32, Box<dyn Model>)| {
            Scale::of(*weight, &model.retrieve(q, self.depth, &unseen))
        };
        self.members.iter().map(of).collect()
    }

    fn score_with(&self, scales: &[Option<Scale>], q: &ResolvedQuery, items: &[ItemIx], out: &mut [f32]) {
        out.fill(0.0);
        let mut own = vec![0f32; out.len()];
        for ((_, model), scale) in self.members.iter().zip(scales) {
            let Some(Scale { low, factor }) = *scale else { continue };
            model.score(q, items, &mut own);
            for (out, own) in out.iter_mut().zip(&own) {
                *out += factor * (own - low);
            }
        }
    }

    /// The best `k` of what the members list.
    fn best(
        &self,
        scales: &[Option<Scale>],
        q: &ResolvedQuery,
        k: usize,
        lists: impl Iterator<Item = Vec<Candidate>>,
    ) -> Vec<Candidate> {
        let mut items: Vec<ItemIx> = lists.flatten().map(|c| c.item).collect();
        items.sort_unstable();
        items.dedup();
        let mut scores = vec![0f32; items.len()];
        self.score_with(scales, q, &items, &mut scores);
        let mut all: Vec<Candidate> =
            items.into_iter().zip(scores).map(|(item, score)| Candidate { item, score }).collect();
        // Stable: equal scores keep the lower index first.
        all.sort_by(|a, b| b.score.total_cmp(&a.score));
        all.truncate(k);
        all
    }
}

fn unseen(q: &ResolvedQuery) -> Allowed {
    Allowed::everything().without(q.history.iter().map(|s| s.item))
}

impl Score for Blend {
    fn items(&self) -> usize {
        self.members.iter().map(|(_, model)| model.items()).max().unwrap_or(0)
    }

    fn score(&self, q: &ResolvedQuery, items: &[ItemIx], out: &mut [f32]) {
        self.score_with(&self.scales(q), q, items, out);
    }
}

impl Retrieve for Blend {
    fn retrieve(&self, q: &ResolvedQuery, k: usize, allowed: &Allowed) -> Vec<Candidate> {
        let wide = k.max(self.depth);
        let lists = self.members.iter().map(|(_, model)| model.retrieve(q, wide, allowed));
        self.best(&self.scales(q), q, k, lists)
    }

    fn retrieve_batch(
        &self,
        queries: &[ResolvedQuery],
        k: usize,
        allowed: &[Allowed],
    ) -> Vec<Vec<Candidate>> {
        let unseen: Vec<Allowed> = queries.iter().map(unseen).collect();
        let wide = k.max(self.depth);
        let mut of_members: Vec<_> = Vec::with_capacity(self.members.len());
        for (weight, model) in &self.members {
            let ends = model.retrieve_batch(queries, self.depth, &unseen);
            let scales: Vec<Option<Scale>> = ends.iter().map(|list| Scale::of(*weight, list)).collect();
            of_members.push((scales, model.retrieve_batch(queries, wide, allowed)));
        }
        queries
            .par_iter()
            .enumerate()
            .map(|(n, q)| {
                let scales: Vec<Option<Scale>> = of_members.iter().map(|(scales, _)| scales[n]).collect();
                self.best(&scales, q, k, of_members.iter().map(|(_, lists)| lists[n].clone()))
            })
            .collect()
    }
}

impl Explain for Blend {
    /// What the members say, each as far as it counts.
    fn contributions(&self, q: &ResolvedQuery, item: ItemIx, limit: usize) -> Vec<(ItemIx, f32)> {
        let mut all: BTreeMap<ItemIx, f32> = BTreeMap::new();
        for ((_, model), scale) in self.members.iter().zip(self.scales(q)) {
            let Some(scale) = scale else { continue };
            // A member's shares may be many; those past the wanted ones of all members together are small.
            for (of, share) in model.contributions(q, item, limit.max(self.depth)) {
                *all.entry(of).or_default() += scale.factor * share;
            }
        }
        largest(all.into_iter().collect(), limit)
    }
}

impl Model for Blend {
    fn kind(&self) -> &'static str {
        "blend"
    }

    /// Those of all members, the member's number in front of each name.
    fn weights(&self) -> Weights {
        let named = self.members.iter().enumerate().flat_map(|(n, (_, model))| {
            model.weights().0.into_iter().map(move |(name, array)| (format!("{n}.{name}"), array))
        });
        Weights(named.collect())
    }

    fn meet(&self, item: ItemIx, info: &Item) -> bool {
        self.members.iter().fold(false, |known, (_, model)| model.meet(item, info) || known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot() -> Snapshot {
        let pairs: Vec<(String, String)> = (0..60)
            .flat_map(|u| (0..5).map(move |s| (format!("u{u}"), format!("i{}", (u * 7 + s * s) % 20))))
            .collect();
        let refs: Vec<(&str, &str)> = pairs.iter().map(|(u, i)| (&**u, &**i)).collect();
        Snapshot::from_pairs("t", &refs)
    }

    fn blend(text: &str) -> Blend {
        toml::from_str::<BlendConfig>(text).unwrap().fit(&snapshot(), &mut FitContext::quiet(1)).unwrap()
    }

    const EASE: &str = "[[members]]\nmodel = { kind = 'ease' }\n";
    const KNN: &str = "[[members]]\nmodel = { kind = 'item_knn' }\n";

    #[test]
    fn one_member_keeps_its_order() {
        let alone =
            ModelConfig::default_of("ease").unwrap().fit(&snapshot(), &mut FitContext::quiet(1)).unwrap();
        let blend = blend(EASE);
        for user in 0..20 {
            let q = snapshot().query(user);
            let order = |list: Vec<Candidate>| list.into_iter().map(|c| c.item).collect::<Vec<_>>();
            let allowed = unseen(&q);
            let found = blend.retrieve(&q, 8, &allowed);
            assert_eq!(found[0].score, 1.0, "the best of a list counts 1");
            assert_eq!(order(found), order(alone.retrieve(&q, 8, &allowed)));
        }
    }

    #[test]
    fn weights_and_scales_are_what_the_header_says() {
        let both = blend(&format!("depth = 6\n{EASE}weight = 3.0\n{KNN}"));
        let (ease, knn) = (blend(EASE), blend(KNN));
        let q = snapshot().query(3);
        let items: Vec<ItemIx> = (0..20).map(ItemIx).collect();
        let mut expected = vec![0f64; 20];
        for (weight, single) in [(3.0, &ease), (1.0, &knn)] {
            let model = &single.members[0].1;
            let list = model.retrieve(&q, 6, &unseen(&q));
            let (high, low) = (f64::from(list[0].score), f64::from(list.last().unwrap().score));
            let mut own = vec![0f32; 20];
            model.score(&q, &items, &mut own);
            for (sum, own) in expected.iter_mut().zip(own) {
                *sum += weight * (f64::from(own) - low) / (high - low);
            }
        }
        let mut scores = vec![0f32; 20];
        both.score(&q, &items, &mut scores);
        for (got, expected) in scores.iter().zip(&expected) {
            assert!((f64::from(*got) - expected).abs() < 1e-3 * expected.abs().max(1.0), "{got} {expected}");
        }
    }

    #[test]
    fn bad_settings_are_told() {
        let fit = |text: &str| {
            let config: BlendConfig = toml::from_str(text).unwrap();
            config.fit(&snapshot(), &mut FitContext::quiet(1)).err().unwrap().to_string()
        };
        assert!(fit("members = []").contains("at least one"));
        assert!(fit(&format!("depth = 1\n{EASE}")).contains("depth"));
        assert!(fit(&format!("{EASE}weight = -1.0\n")).contains("members.weight"));
        assert!(toml::from_str::<BlendConfig>("[[members]]\nmodel = { kind = 'eas' }").is_err());
    }
}

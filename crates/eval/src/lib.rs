//! Metrics, protocols, significance and charts. Models are seen only through [`Score`](sommelier_core::Score) and
//! [`Retrieve`](sommelier_core::Retrieve), so no metric can favour one.
//!
//! Every value carries its [`Definition`]: a number without one cannot be compared with anything.
//!
//! ```
//! use sommelier_core::{Allowed, Candidate, FitContext, ItemIx, ResolvedQuery, Retrieve, Score};
//! use sommelier_data::Snapshot;
//! use sommelier_eval::{EvalConfig, On, evaluate};
//!
//! /// Likes items in the order they came into the catalogue.
//! struct Oldest(usize);
//! impl Score for Oldest {
//!     fn items(&self) -> usize {
//!         self.0
//!     }
//!     fn score(&self, _: &ResolvedQuery, items: &[ItemIx], out: &mut [f32]) {
//!         items.iter().zip(out).for_each(|(item, out)| *out = -(item.0 as f32));
//!     }
//! }
//! impl Retrieve for Oldest {
//!     fn retrieve(&self, _: &ResolvedQuery, k: usize, allowed: &Allowed) -> Vec<Candidate> {
//!         let all = (0..self.0 as u32).map(|i| Candidate { item: ItemIx(i), score: -(i as f32) });
//!         all.filter(|c| allowed.contains(c.item)).take(k).collect()
//!     }
//! }
//!
//! let pairs = [("a", "x"), ("a", "y"), ("a", "z"), ("b", "z"), ("b", "y"), ("b", "x")];
//! let split = "loo".parse::<sommelier_data::SplitSpec>()?.apply(&Snapshot::from_pairs("six", &pairs), 0, false)?;
//! let config = EvalConfig { at: vec![1, 2], ..EvalConfig::default() };
//! let found = evaluate(&Oldest(3), &split, On::Test, &config, &FitContext::quiet(0))?;
//! assert_eq!(found.metrics["recall@1"].value, 1.0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod chart;
mod compare;
mod evaluate;
mod facts;
mod metric;
mod report;
pub mod stats;
mod table;

pub use chart::svg_chart;
pub use compare::{CompareError, Comparison, Difference, Test, compare};
pub use evaluate::{Candidates, EvalConfig, EvalError, Evaluation, MetricValue, On, evaluate};
pub use facts::ItemFacts;
pub use metric::{Case, Definition, Discounts, Metric, NameError, Profile, Share};
pub use report::{DatasetSize, Defined, Report, Run, Seconds};
pub use table::table;

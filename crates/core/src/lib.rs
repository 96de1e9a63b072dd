//! The words every other crate speaks: ids, time, events, items, queries, slates, and the traits between the parts.
//!
//! ```
//! use sommelier_core::{Event, Query};
//! let event: Event = serde_json::from_str(r#"{"user":"u1","item":"i9","kind":"view","at":"2026-01-31T10:00:00Z"}"#)?;
//! assert_eq!(event.at.unwrap().millis(), 1_769_853_600_000);
//! let query: Query = serde_json::from_str(r#"{"history":["i9"],"count":10}"#)?;
//! assert_eq!(query.count, Some(10));
//! # Ok::<(), serde_json::Error>(())
//! ```

mod allowed;
mod context;
mod csr;
mod event;
mod item;
mod query;
mod random;
mod slate;
mod time;
mod traits;
mod vocab;

pub use allowed::{Allowed, BitSet};
pub use context::{Cancel, FitContext, NoProgress, Progress, Stopped, Validate};
pub use csr::Csr;
pub use event::{Event, EventError, IdError, MAX_ID_BYTES, check_id};
pub use item::{CODES, Item, PREFERENCES, User};
pub use query::{HistoryEntry, HistoryEvent, Query, ResolvedQuery, Seen};
pub use random::Rng;
pub use slate::{Reason, Slate, SlateItem};
pub use time::{Clock, ManualClock, SystemClock, Time, TimeError};
pub use traits::{Candidate, Explain, Ranker, Rerank, Retrieve, Score, Update};
pub use vocab::{ItemIx, UserIx, Vocab};

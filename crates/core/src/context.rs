//! What a long job is handed: seed, threads, memory budget, progress, cancellation. No job takes these from the air.

use crate::Ranker;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Told how far a job is. One bar at a time: `start` ends the one before.
pub trait Progress: Send + Sync {
    fn start(&self, what: &str, total: Option<u64>);
    /// Done so far, absolute.
    fn at(&self, done: u64);
    fn finish(&self);
    /// A few words on how it goes, beside the bar.
    fn say(&self, _: &str) {}
}

pub struct NoProgress;

impl Progress for NoProgress {
    fn start(&self, _: &str, _: Option<u64>) {}
    fn at(&self, _: u64) {}
    fn finish(&self) {}
}

/// Shared flag that asks a job to stop at the next safe point.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cancelled")]
pub struct Stopped;

impl Cancel {
    pub fn cancel(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub fn check(&self) -> Result<(), Stopped> {
        if self.is_cancelled() { Err(Stopped) } else { Ok(()) }
    }
}

/// Judges a model that is still learning, on events it does not learn from.
pub trait Validate: Send + Sync {
    /// What is measured, such as `ndcg@10`; higher is better.
    fn metric(&self) -> String;

    fn judge(&self, model: &dyn Ranker) -> Result<f64, Stopped>;
}

/// Everything a fit may depend on besides its snapshot and its config.
#[derive(Clone)]
pub struct FitContext {
    pub seed: u64,
    /// Work runs on the current rayon pool; the caller installs one of this size.
    pub threads: usize,
    /// Bytes a fit may plan for; it refuses with words before it starts when its plan is larger.
    pub memory: u64,
    pub progress: Arc<dyn Progress>,
    pub cancel: Cancel,
    /// Where a long fit keeps checkpoints; `None` keeps none.
    pub checkpoints: Option<PathBuf>,
    /// Whether to go on from a checkpoint found there; else it is written over.
    pub resume: bool,
    /// Decides when a model that learns in rounds has learned enough; without it, it learns all its rounds.
    pub validate: Option<Arc<dyn Validate>>,
}

impl FitContext {
    /// Quiet, two threads, 8 GiB: for tests and small jobs.
    pub fn quiet(seed: u64) -> FitContext {
        FitContext {
            seed,
            threads: 2,
            memory: 8 << 30,
            progress: Arc::new(NoProgress),
            cancel: Cancel::default(),
            checkpoints: None,
            resume: false,
            validate: None,
        }
    }
}

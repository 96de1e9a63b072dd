//! Recording of slates behind the answer: a bounded queue, one thread, batches into the log.

use crate::config::RecordConfig;
use hashbrown::HashMap;
use parking_lot::{Condvar, Mutex};
use sommelier_data::log::{Log, LogError, SlateRecord};
use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// Slates written in one batch at most: few, so that no batch takes a core away from answering for long.
const BATCH: usize = 200;

/// Writes slates to the log until it is dropped; then writes what is left.
pub(crate) struct Recorder {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    log: Arc<Log>,
    config: RecordConfig,
    state: Mutex<State>,
    /// Something to do: a full batch, a flush, the end.
    wake: Condvar,
    /// A batch is on disk.
    written: Condvar,
}

#[derive(Default)]
struct State {
    /// Ids in order; the slates themselves are in `waiting` until they are in the log.
    queue: VecDeque<String>,
    waiting: HashMap<String, Arc<SlateRecord>>,
    flush: bool,
    closing: bool,
    dropped: u64,
    failed: Option<String>,
}

impl Recorder {
    pub fn start(log: Arc<Log>, config: &RecordConfig) -> std::io::Result<Recorder> {
        let shared = Arc::new(Shared {
            log,
            config: config.clone(),
            state: Mutex::default(),
            wake: Condvar::new(),
            written: Condvar::new(),
        });
        let worker = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("slates".into()).spawn(move || worker.run())?;
        Ok(Recorder { shared, thread: Some(thread) })
    }

    /// Queues the slate; never waits. A full queue drops it and counts.
    pub fn record(&self, slate: impl FnOnce() -> SlateRecord) {
        if !self.shared.config.slates {
            return;
        }
        // Made before the lock is taken: answers must not wait for each other's copies.
        let slate = Arc::new(slate());
        let id = slate.slate.id.clone();
        let mut state = self.shared.state.lock();
        if state.waiting.len() >= self.shared.config.queue {
            state.dropped += 1;
            return;
        }
        state.waiting.insert(id.clone(), slate);
        state.queue.push_back(id);
        if state.queue.len() >= BATCH {
            self.shared.wake.notify_one();
        }
    }

    /// A slate that is not in the log yet.
    pub fn pending(&self, id: &str) -> Option<SlateRecord> {
        self.shared.state.lock().waiting.get(id).map(|slate| SlateRecord::clone(slate))
    }

    pub fn dropped(&self) -> u64 {
        self.shared.state.lock().dropped
    }

    /// Returns when every slate recorded before the call is on disk.
    pub fn flush(&self) -> Result<(), String> {
        let mut state = self.shared.state.lock();
        while !state.waiting.is_empty() {
            state.flush = true;
            self.shared.wake.notify_one();
            self.shared.written.wait(&mut state);
            if let Some(reason) = state.failed.take() {
                return Err(reason);
            }
        }
        Ok(())
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.shared.state.lock().closing = true;
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn run(&self) {
        let pause = Duration::from_millis(self.config.every_ms.max(1));
        loop {
            let (batch, closing) = {
                let mut state = self.state.lock();
                if state.queue.len() < BATCH && !state.closing && !state.flush {
                    self.wake.wait_for(&mut state, pause);
                }
                state.flush = false;
                let batch: Vec<Arc<SlateRecord>> =
                    state.queue.iter().take(BATCH).filter_map(|id| state.waiting.get(id).cloned()).collect();
                (batch, state.closing)
            };
            if !batch.is_empty() && !self.write(&batch, closing) {
                return;
            }
            let state = self.state.lock();
            if state.queue.is_empty() {
                self.written.notify_all();
                if state.closing {
                    return;
                }
            }
        }
    }

    /// Writes a batch and takes it off the queue; false where it failed and nobody will try again.
    fn write(&self, batch: &[Arc<SlateRecord>], closing: bool) -> bool {
        let result: Result<(), LogError> = self.log.record_slates(batch.to_vec());
        let mut state = self.state.lock();
        if let Err(error) = result {
            // A full disk may have room again later: keep the batch, say so, and wait before the next try.
            tracing::warn!(%error, "slates could not be recorded");
            state.failed = Some(error.to_string());
            self.written.notify_all();
            if !closing {
                self.wake.wait_for(&mut state, Duration::from_secs(1));
            }
            return !closing;
        }
        for slate in batch {
            state.queue.pop_front();
            state.waiting.remove(&slate.slate.id);
        }
        state.failed = None;
        self.written.notify_all();
        true
    }
}

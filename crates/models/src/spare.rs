//! Memory of tapes between answers.

use sommelier_nn::Workspace;
use std::sync::Mutex;

#[derive(Default)]
pub(crate) struct Spare(Mutex<Vec<Workspace>>);

/// More than so many answers at once are rare.
const KEPT: usize = 64;

impl Spare {
    pub fn take(&self) -> Workspace {
        self.0.lock().ok().and_then(|mut list| list.pop()).unwrap_or_default()
    }

    pub fn give(&self, workspace: Workspace) {
        if let Ok(mut list) = self.0.lock()
            && list.len() < KEPT
        {
            list.push(workspace);
        }
    }
}

//! What the fuzz targets share: import of some bytes as a file of a given name.

use sommelier_core::Time;
use sommelier_data::KindRules;
use sommelier_data::import::{ImportContext, ImportOptions, load};
use std::path::PathBuf;

/// Imports `bytes` as the file `name`; anything but a panic is fine.
pub fn import(name: &str, bytes: &[u8]) {
    // In memory where the system has such a place: a disk would be the slowest part.
    let base = PathBuf::from("/dev/shm");
    let base = if base.is_dir() { base } else { std::env::temp_dir() };
    let dir = base.join(format!("sommelier-fuzz-{}", std::process::id()));
    let path = dir.join(name);
    if std::fs::create_dir_all(&dir).and_then(|()| std::fs::write(&path, bytes)).is_err() {
        return;
    }
    let ctx = ImportContext::quiet(Time::default());
    if let Ok((snapshot, report)) = load(&path, &ImportOptions::default(), &KindRules::new(), &ctx) {
        assert_eq!(snapshot.events.len() as u64, report.events);
        assert_eq!(snapshot.events.ptr.len(), snapshot.users.len() + 1);
    }
}

//! Files as memory, for weights larger than one wants to hold twice.

use memmap2::Mmap;
use std::fs::File;
use std::io;
use std::path::Path;

/// Maps a file for reading.
///
/// Mapping is unsafe because somebody could change the file underneath. Files of weights and checkpoints are written under
/// another name, made durable and then renamed: a file under its own name never changes, and a mapping outlives its name.
pub fn map(path: &Path) -> io::Result<Mmap> {
    let file = File::open(path)?;
    // SAFETY: see above; nobody changes or shortens the file while it is mapped.
    unsafe { Mmap::map(&file) }
}

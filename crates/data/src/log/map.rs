//! Files in memory: the one place of this crate that maps them.
#![allow(unsafe_code)]

use memmap2::Mmap;
use std::fs::File;

/// Maps a file for reading.
///
/// Mapping is unsafe because another program could change the file underneath. Segment files are written once,
/// named only when complete, never changed, and deleted only after nothing refers to them (a mapping outlives its
/// name); the folder is locked against other processes; and each block is checksummed before its first use.
pub(super) fn map(file: &File) -> std::io::Result<Mmap> {
    // SAFETY: see above; nobody changes or shortens the file while it is mapped.
    unsafe { Mmap::map(file) }
}

//! Import of `sequences.txt`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sommelier_fuzz::import("sequences.txt", bytes));

//! Import of `u.data`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sommelier_fuzz::import("u.data", bytes));

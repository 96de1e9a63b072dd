//! Import of `all.jsonl`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sommelier_fuzz::import("all.jsonl", bytes));

//! Import of `events.jsonl`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sommelier_fuzz::import("events.jsonl", bytes));

//! Import of `x.csv.gz`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sommelier_fuzz::import("x.csv.gz", bytes));

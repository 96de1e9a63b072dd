//! Import of `x.parquet`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sommelier_fuzz::import("x.parquet", bytes));

//! Import of `ratings.dat`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sommelier_fuzz::import("ratings.dat", bytes));

//! Filter expressions: one that reads prints as one that reads the same.
#![no_main]

use sommelier_engine::Filter;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(filter) = Filter::parse(text)
    {
        filter.matches("a", None);
        assert_eq!(Filter::parse(filter.text()).expect("it was read before"), filter);
    }
});

//! Events, queries, items, users and times as the API reads them.
#![no_main]

use sommelier_core::{Event, Item, Query, Time, User};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = serde_json::from_slice::<Event>(bytes).map(|e| e.check());
    let _ = serde_json::from_slice::<Query>(bytes);
    let _ = serde_json::from_slice::<Item>(bytes);
    let _ = serde_json::from_slice::<User>(bytes);
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(time) = Time::parse(text)
    {
        assert_eq!(Time::parse(&time.to_iso()), Ok(time));
    }
});

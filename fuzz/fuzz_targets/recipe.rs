//! Recipes: one that reads is written as one that reads the same.
#![no_main]

use sommelier_engine::Recipe;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(recipe) = Recipe::parse("fuzz", text)
    {
        let again = Recipe::parse("fuzz", &recipe.to_toml()).expect("it was written by us");
        // Not compared as such: a recipe may hold NaN.
        assert_eq!(again.to_toml(), recipe.to_toml());
    }
});

//! Claims that take seconds hold on the real data. Skipped, with a message, where the data is not there.

use sommelier_core::FitContext;
use sommelier_engine::reproduce;
use std::path::PathBuf;

#[test]
fn quick_claims_hold() {
    let data = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    if !data.exists() {
        eprintln!("skipped: {} is not here", data.display());
        return;
    }
    let recipes = ["popularity", "item_knn", "user_knn", "rating_knn"].map(str::to_owned);
    let found = reproduce::run(&recipes, &[], &data, &mut FitContext::quiet(42)).expect("a reproduction");
    println!("{found}");
    assert!(!found.rows.is_empty());
    assert_eq!(found.missed(), 0, "{found}");
}

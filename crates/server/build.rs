//! Makes sure that the folder the console is embedded from exists: without Node it stays empty and the page says so.

fn main() {
    let dist = concat!(env!("CARGO_MANIFEST_DIR"), "/../../console/dist");
    // A source tree that cannot be written to (a vendored crate) still builds if the folder is there.
    if let Err(error) = std::fs::create_dir_all(dist) {
        println!("cargo:warning=cannot make {dist}: {error}");
    }
    println!("cargo:rerun-if-changed={dist}");
}

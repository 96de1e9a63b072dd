#!/usr/bin/env bash
# Builds the fuzz targets with coverage on the stable toolchain and runs one (`run.sh csv 60`, `run.sh csv FILE`) or all.
set -euo pipefail
cd "$(dirname "$0")"
# What cargo-fuzz passes, less the address sanitizer, which needs a nightly compiler. Safe code has little use for it.
flags="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4"
flags="$flags -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table"
# A target makes flags apply to the programs only, not to build scripts.
host=$(rustc -vV | sed -n 's/^host: //p')
run() {
    RUSTFLAGS="$flags" cargo build --release --target "$host" --bin "$1"
    mkdir -p "corpus/$1"
    if [ -f "${2:-}" ]; then
        "target/$host/release/$1" "$2"
    else
        "target/$host/release/$1" -max_total_time="${2:-10}" -rss_limit_mb=2048 -timeout=10 "corpus/$1"
    fi
}
if [ $# -gt 0 ]; then
    run "$@"
else
    for target in fuzz_targets/*.rs; do
        run "$(basename "$target" .rs)"
    done
fi

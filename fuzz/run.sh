#!/usr/bin/env bash
# Builds the fuzz targets with coverage on the stable toolchain and runs one (`run.sh csv 60`, `run.sh csv FILE`) or
# all of them for some seconds each (`run.sh all 5`).
set -euo pipefail
cd "$(dirname "$0")"
# What cargo-fuzz passes, less the address sanitizer, which needs a nightly compiler. Safe code has little use for it.
flags="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4"
flags="$flags -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table"
# A target makes flags apply to the programs only, not to build scripts.
host=$(rustc -vV | sed -n 's/^host: //p')
wanted=${1:-all}
# The engine's targets need most of the program: they are built only when asked for.
features=
case $wanted in filter | recipe) features=engine ;; esac
RUSTFLAGS="$flags" cargo build --locked --release --target "$host" --target-dir target --features "$features"
run() {
    mkdir -p "corpus/$1"
    if [ -f "${2:-}" ]; then
        "target/$host/release/$1" "$2"
    else
        "target/$host/release/$1" -max_total_time="${2:-10}" -rss_limit_mb=2048 -timeout=10 -verbosity=0 \
            -print_final_stats=1 "corpus/$1"
    fi
}
if [ "$wanted" != all ]; then
    run "$@"
    exit
fi
for file in fuzz_targets/*.rs; do
    target=$(basename "$file" .rs)
    case $target in filter | recipe) continue ;; esac
    echo "-- $target"
    run "$target" "${2:-10}"
done

#!/usr/bin/env bash
# How fast does a CSV file become durable events, beside DuckDB's COPY into a table? Both on two threads, interleaved.
# usage: run.sh [ROWS] [RUNS]
set -euo pipefail
cd "$(dirname "$0")/../.."
rows=${1:-10000000}
runs=${2:-5}
work=target/bench-import
mkdir -p "$work"
cargo build --release --quiet -p sommelier-data --example import_csv
if [ ! -x "$work/venv/bin/python" ]; then
    python3 -m venv "$work/venv"
    "$work/venv/bin/pip" install --quiet duckdb
fi
[ -f "$work/events-$rows.csv" ] || target/release/examples/import_csv generate "$work/events-$rows.csv" "$rows"
"$work/venv/bin/python" bench/import/compare.py "$work/events-$rows.csv" "$runs" target/release/examples/import_csv

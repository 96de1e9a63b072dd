#!/usr/bin/env bash
# How fast does a CSV file become durable events, beside DuckDB's COPY into a table? Both on two threads, interleaved.
# usage: run.sh [RUNS] [ROWS]
. "$(dirname "${BASH_SOURCE[0]}")/../setup.sh"
runs=${1:-5}
rows=${2:-10000000}
work=$target/bench-import
mkdir -p "$work"
[ -f "$work/events-$rows.csv" ] || "$examples/import_csv" generate "$work/events-$rows.csv" "$rows"
"$python" bench/import/compare.py "$work/events-$rows.csv" "$runs" "$examples/import_csv"

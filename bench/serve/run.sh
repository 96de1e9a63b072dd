#!/usr/bin/env bash
# Requests and durable events a second over HTTP, and the time from process start to first answer: `run.sh [RUNS]`.
. "$(dirname "${BASH_SOURCE[0]}")/../setup.sh"
for recipe in ials ease; do
    echo "== $recipe"
    dir=$(mktemp -d)
    "$examples/serve_load" --data "$data/gowalla" --recipe "$recipe" --runs "${1:-5}" --dir "$dir"
    rm -rf "$dir"
done

#!/usr/bin/env bash
# Requests and durable events a second over HTTP, and the time from process start to first answer: `run.sh [RUNS] [RECIPE]`.
. "$(dirname "${BASH_SOURCE[0]}")/../setup.sh"
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"$examples/serve_load" --data "$data/gowalla" --recipe "${2:-ials}" --runs "${1:-5}" --dir "$dir"

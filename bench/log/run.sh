#!/usr/bin/env bash
# How fast is the log? `run.sh [MILLIONS]`.
. "$(dirname "${BASH_SOURCE[0]}")/../setup.sh"
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"$examples/bench_log" "$dir" "${1:-10}"

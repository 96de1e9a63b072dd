#!/usr/bin/env bash
# Full-ranking evaluation beside implicit and RecTools: `run.sh [RUNS]`.
. "$(dirname "${BASH_SOURCE[0]}")/../setup.sh"
"$python" bench/eval/peers.py --repeats "${1:-5}" --data "$data/gowalla" --binary "$examples/given_factors"

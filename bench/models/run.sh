#!/usr/bin/env bash
# Fits beside implicit and NumPy/SciPy: `run.sh [RUNS] [ials|bpr|item_knn|ease]…`.
. "$(dirname "${BASH_SOURCE[0]}")/../setup.sh"
runs=${1:-5}
shift || true
for what in "${@:-ials bpr item_knn ease}"; do
    for one in $what; do
        echo "== $one"
        "$python" bench/models/peers.py "$one" --repeats "$runs" --data "$data" --binary "$examples/measure"
    done
done

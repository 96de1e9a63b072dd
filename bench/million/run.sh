#!/usr/bin/env bash
# A catalogue of a million items: time, memory and recall of the models that can hold one. Takes ten minutes and 6 GB.
. "$(dirname "${BASH_SOURCE[0]}")/../setup.sh"
events=$target/bench-million/events.csv
mkdir -p "$(dirname "$events")"
[ -f "$events" ] || "$python" bench/million/draw.py "$events"
for recipe in popularity item_knn sparse_ease; do
    "$target/release/sommelier" evaluate "$recipe" --data "$events" --split loo --metrics recall --at 20 --json --quiet |
        "$python" -c '
import json, sys
run = json.load(sys.stdin)["runs"][0]
recall, seconds = run["metrics"]["recall@20"], run["seconds"]
print(run["recipe"], f"recall@20 {recall:.4f}", "fit {fit:.1f} s, evaluate {evaluate:.1f} s".format(**seconds),
      "peak {:.0f} MB".format(run["peak_rss_mb"]), run["dataset"], sep=", ")'
done

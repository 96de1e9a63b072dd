#!/usr/bin/env bash
# Sourced by every run.sh here: builds our half in release, makes the peers' Python environment, names both.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
target=${CARGO_TARGET_DIR:-target}
# One selection of packages for all benchmarks: another would compile every dependency again.
cargo build --release --quiet --workspace --bins --examples
examples=$target/release/examples
if [ ! -x "$target/bench-venv/bin/python" ]; then
    python3 -m venv "$target/bench-venv"
    "$target/bench-venv/bin/pip" install --quiet -r bench/requirements.txt
fi
python=$target/bench-venv/bin/python
data=${SOMMELIER_DATASETS:-../shared/data}

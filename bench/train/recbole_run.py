"""Trains RecBole's SASRec from a file of sequences and prints what it cost and what it reached, in one JSON line.

    python bench/train/recbole_run.py [--epochs 3] [--batch N] [--data ../shared/data/amazon-beauty/sequences.txt.gz]

Needs recbole-requirements.txt. Leave-one-out: the last event of a user is the test, the last but one is left out of the
training and joins the history at test time; all items are ranked, those of the history too (RecBole allows a sequential
model nothing else).

What RecBole does that we do not, and a reader of these figures should know:
- A sequence of n training events becomes n - 1 samples, each of them a whole padded sequence with one target, where we
  learn all n - 1 targets in one pass over the sequence. So it runs its blocks over many times the positions, while its
  logits are as many as ours. `interactions_per_s` counts targets, which both sides have the same number of.
- Each sample is padded to --longest, not to the longest of its batch.
- Its attention materialises the weights; its blocks are post-norm, with a layer norm after the embeddings, and its
  dropout on the attention's weights is set to 0 here, as in peers.py (--attention-dropout).
- Its softmax is over all items, on materialised logits; its Adam is not fused.
Its batch is set so that a step learns as many targets as 128 of our sequences hold.
"""

import argparse
import gzip
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np

# RecBole 1.2.1 reads these names when it makes a Config; NumPy 2 took them away. The other names that it needs it
# defines itself. (Its ray, which needs an old setuptools, is only imported by recbole.quick_start: not used here.)
for name, now in {"float_": np.float64, "complex_": np.complex128, "unicode_": np.str_}.items():
    if not hasattr(np, name):
        setattr(np, name, now)

import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.model.sequential_recommender import SASRec
from recbole.trainer import Trainer
from recbole.utils import init_seed

SEQUENCES = 128


def write_atomic(source, folder):
    """RecBole's .inter file, the place in the sequence for a time stamp. Returns sequences and events."""
    sequences = events = 0
    opened = gzip.open(source, "rt") if source.suffix == ".gz" else open(source)
    folder.mkdir()
    with opened as lines, open(folder / f"{folder.name}.inter", "w") as out:
        out.write("user_id:token\titem_id:token\ttimestamp:float\n")
        for line in lines:
            user, *items = line.split()
            out.writelines(f"{user}\t{item}\t{at}\n" for at, item in enumerate(items))
            sequences, events = sequences + 1, events + len(items)
    return sequences, events


def configuration(args, work, batch):
    return {
        "data_path": str(work),
        "checkpoint_dir": str(work / "saved"),
        "USER_ID_FIELD": "user_id",
        "ITEM_ID_FIELD": "item_id",
        "TIME_FIELD": "timestamp",
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "MAX_ITEM_LIST_LENGTH": args.longest,
        "hidden_size": 64,
        "inner_size": 64,
        "n_layers": 2,
        "n_heads": 1,
        "hidden_act": "relu",
        "hidden_dropout_prob": 0.2,
        "attn_dropout_prob": args.attention_dropout,
        "loss_type": "CE",
        "train_neg_sample_args": None,
        "train_batch_size": batch,
        "epochs": args.epochs,
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full"},
        "metrics": ["NDCG", "Recall"],
        "topk": [10],
        "valid_metric": "NDCG@10",
        "use_gpu": False,
        "show_progress": False,
        "seed": args.seed,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/amazon-beauty/sequences.txt.gz"))
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch", type=int, help="samples a step; otherwise as many as 128 sequences hold")
    parser.add_argument("--longest", type=int, default=50)
    parser.add_argument("--attention-dropout", type=float, default=0.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    source = args.data.resolve()
    # RecBole reads the command line too, and writes its logs where it stands.
    sys.argv = sys.argv[:1]
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as work:
        os.chdir(work)
        print(json.dumps(run(args, source, Path(work))))
        os.chdir("/")


def run(args, source, work):
    sequences, events = write_atomic(source, work / "sequences")
    # Two events of a sequence are held out, and the first has nothing before it.
    targets = events - 3 * sequences
    batch = args.batch or round(SEQUENCES * targets / sequences)
    config = Config(model="SASRec", dataset="sequences", config_dict=configuration(args, work, batch))
    init_seed(config["seed"], config["reproducibility"])

    start = time.perf_counter()
    dataset = create_dataset(config)
    train, valid, test = data_preparation(config, dataset)
    prepared = time.perf_counter()

    init_seed(config["seed"], config["reproducibility"])
    model = SASRec(config, train._dataset)
    trainer = Trainer(config, model)
    epochs = []
    learn = trainer._train_epoch

    def timed(*args, **kwargs):
        wall, cpu = time.perf_counter(), time.process_time()
        loss = learn(*args, **kwargs)
        epochs.append((time.perf_counter() - wall, time.process_time() - cpu, loss / len(train)))
        return loss

    trainer._train_epoch = timed
    trainer.fit(train, valid_data=None, saved=False, show_progress=False)
    trained = time.perf_counter()
    result = trainer.evaluate(test, load_best_model=False, show_progress=False)
    end = time.perf_counter()

    wall, cpu, loss = (np.array(e) for e in zip(*epochs))
    return {
        "case": "recbole-sasrec",
        "samples": len(train._dataset),
        "batch": batch,
        "steps_per_epoch": len(train),
        "s_per_epoch": round(float(np.median(wall)), 2),
        "cpu_s_per_epoch": round(float(np.median(cpu)), 2),
        "interactions_per_s": round(targets / float(np.median(wall))),
        "s_prepare": round(prepared - start, 2),
        "s_train": round(trained - prepared, 2),
        "s_evaluate": round(end - trained, 2),
        "s_total": round(end - start, 2),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "loss": [round(float(one), 4) for one in loss],
        "ndcg@10": float(result["ndcg@10"]),
        "recall@10": float(result["recall@10"]),
    }


if __name__ == "__main__":
    main()

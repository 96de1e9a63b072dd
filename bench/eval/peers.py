"""Full-ranking evaluation of one pair of factor matrices by Sommelier, implicit and RecTools, turn by turn.

    cargo build --release -p sommelier-engine --example given_factors
    python bench/eval/peers.py [--repeats 5] [--data ../shared/data/gowalla]

Needs numpy, scipy, pandas, implicit and rectools. All three rank every item for every user with test items, without
the user's training items, at 20. implicit computes its precision, map, ndcg and auc together (that is its function);
RecTools recommends with its own ranker over the same factors, then computes Recall and NDCG. We compute recall, NDCG
and precision. Reading data and fitting are not timed, nor is anything RecTools needs to know the ids.
"""

import argparse
import gzip
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "2")

import implicit
import numpy as np
import pandas as pd
import rectools
import scipy.sparse as sp
from implicit.als import AlternatingLeastSquares
from implicit.evaluation import ranking_metrics_at_k
from rectools import Columns
from rectools.metrics import NDCG, Recall, calc_metrics
from rectools.models.rank import Distance, ImplicitRanker

K, DIM, THREADS = 20, 64, 2
sys.stdout.reconfigure(line_buffering=True)


def matrix(path, shape):
    users, items = [], []
    with gzip.open(path, "rt") as lines:
        for line in lines:
            numbers = [int(n) for n in line.split()]
            users += numbers[:1] * (len(numbers) - 1)
            items += numbers[1:]
    return sp.csr_matrix((np.ones(len(users), np.float32), (users, items)), shape=shape)


def size(folder):
    largest = [0, 0]
    for name in ("train.txt.gz", "test.txt.gz"):
        with gzip.open(folder / name, "rt") as lines:
            for line in lines:
                numbers = [int(n) for n in line.split()]
                largest = [max(largest[0], numbers[0]), max([largest[1], *numbers[1:]])]
    return largest[0] + 1, largest[1] + 1


class Ours:
    def __init__(self, binary, data, users, items):
        args = [binary, str(data), users, items, str(DIM)]
        self.process = subprocess.Popen(args, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __call__(self):
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        return answer["seconds"], {"ndcg": answer["ndcg"], "recall": answer["recall"]}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/gowalla"))
    parser.add_argument("--binary", default="target/release/examples/given_factors")
    args = parser.parse_args()
    shape = size(args.data)
    train, test = (matrix(args.data / f"{part}.txt.gz", shape) for part in ("train", "test"))
    model = AlternatingLeastSquares(factors=DIM, regularization=1.0, alpha=10.0, iterations=10, num_threads=THREADS, random_state=1)
    model.fit(train, show_progress=False)

    folder = tempfile.mkdtemp()
    paths = []
    for name, factors in (("users", model.user_factors), ("items", model.item_factors)):
        paths.append(os.path.join(folder, name + ".f32"))
        np.ascontiguousarray(factors, dtype="<f4").tofile(paths[-1])
    ours = Ours(args.binary, args.data, *paths)

    def peer_implicit():
        start = time.perf_counter()
        values = ranking_metrics_at_k(model, train, test, K=K, show_progress=False, num_threads=THREADS)
        return time.perf_counter() - start, {"ndcg": values["ndcg"]}

    asked = np.flatnonzero(np.diff(test.indptr)).astype(np.int64)
    coo = test.tocoo()
    wanted = pd.DataFrame({Columns.User: coo.row, Columns.Item: coo.col, Columns.Weight: 1.0, Columns.Datetime: pd.Timestamp("2026-01-01")})
    seen = train[asked]
    metrics = {"ndcg": NDCG(k=K, divide_by_achievable=True), "recall": Recall(k=K)}

    def peer_rectools():
        start = time.perf_counter()
        ranker = ImplicitRanker(Distance.DOT, model.user_factors, model.item_factors, num_threads=THREADS)
        users, items, scores = ranker.rank(subject_ids=asked, k=K, filter_pairs_csr=seen)
        reco = pd.DataFrame({Columns.User: users, Columns.Item: items, Columns.Score: scores})
        reco[Columns.Rank] = reco.groupby(Columns.User, sort=False).cumcount() + 1
        values = calc_metrics(metrics, reco, interactions=wanted)
        return time.perf_counter() - start, {name: float(v) for name, v in values.items()}

    runs = {"sommelier": ours, "implicit": peer_implicit, "rectools": peer_rectools}
    times, values = {name: [] for name in runs}, {}
    for repeat in range(args.repeats + 1):
        for name, run in runs.items():
            seconds, values[name] = run()
            if repeat > 0:  # the first round warms caches and lazy imports
                times[name].append(seconds)
    versions = {m.__name__: m.__version__ for m in (implicit, rectools, np)}
    median = {name: statistics.median(t) for name, t in times.items()}
    print(f"{shape[0]} users ({len(asked)} asked), {shape[1]} items, {DIM} factors, {THREADS} threads, {versions}")
    for name in runs:
        ratio = "" if name == "sommelier" else f"  {median[name] / median['sommelier']:.2f} x ours"
        spread = f"{min(times[name]):.3f}–{max(times[name]):.3f}"
        shown = ", ".join(f"{metric} {value:.6f}" for metric, value in sorted(values[name].items()))
        print(f"{name:10} median {median[name]:.3f} s ({spread} s){ratio}   {shown}")


main()

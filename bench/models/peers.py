"""Fits the same data with Sommelier and with implicit or NumPy/SciPy, turn by turn, and prints medians.

    python bench/models/peers.py WHAT [--repeats 5] [--data ../shared/data] [--binary target/release/examples/measure]

WHAT is ials, bpr, item_knn, ease or rank. Needs numpy, scipy, implicit and threadpoolctl; build our half first:
cargo build --release -p sommelier-models --example measure
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
import tracemalloc
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "2")
os.environ.setdefault("OMP_NUM_THREADS", "2")

import numpy as np
import scipy.linalg
import scipy.sparse as sp
import threadpoolctl

TOP, DIM = 20, 64

# What both sides fit. Implicit's confidence 1 + a is our alpha = a with unobserved = 1.
CONFIGS = {
    "ials": "kind = 'ials'\ndim = 64\niterations = 15\nl2 = 30.0\nl2_exponent = 0.0\nalpha = 20.0\nunobserved = 1.0\n",
    "bpr": "kind = 'bpr'\ndim = 64\nepochs = 60\nlearning_rate = 0.05\nl2 = 0.01\nnegatives = 'popular'\n",
    "item_knn": "kind = 'item_knn'\ntop_k = 100\n",
    "ease": "kind = 'ease'\nl2 = 500.0\n",
}


def rows(path):
    with gzip.open(path, "rt") as f:
        for line in f:
            numbers = [int(n) for n in line.split()]
            if numbers:
                yield numbers[0], sorted(set(numbers[1:]))


def matrix(path, shape=None):
    pairs = [(u, i) for u, items in rows(path) for i in items]
    u, i = np.array(pairs).T
    return sp.csr_matrix((np.ones(len(u), np.float32), (u, i)), shape=shape)


def quality(lists, test):
    """Recall and NDCG at 20, averaged over users with test items."""
    discount = 1 / np.log2(np.arange(2, TOP + 2))
    recall, ndcg, n = 0.0, 0.0, 0
    for u in range(min(test.shape[0], len(lists))):
        wanted = test.indices[test.indptr[u] : test.indptr[u + 1]]
        if len(wanted):
            hit = np.isin(lists[u], wanted)
            recall += hit.sum() / len(wanted)
            ndcg += (hit * discount).sum() / discount[: min(len(wanted), TOP)].sum()
            n += 1
    return {"recall@20": round(recall / n, 5), "ndcg@20": round(ndcg / n, 5)}


def ours(binary, what, work, overrides=""):
    config, lists = work / "config.toml", work / "lists.bin"
    config.write_text(CONFIGS[what] + overrides)
    out = subprocess.run(
        [binary, "fit", config, work / "train.txt", lists], check=True, capture_output=True, text=True
    )
    return json.loads(out.stdout), np.fromfile(lists, np.uint32).reshape(-1, TOP)


def theirs(what, train):
    """Fit seconds, and a function that makes the lists."""
    import implicit
    from implicit.als import AlternatingLeastSquares
    from implicit.nearest_neighbours import CosineRecommender
    from implicit.cpu.bpr import BayesianPersonalizedRanking

    if what == "ials":
        model = AlternatingLeastSquares(DIM, regularization=30.0, alpha=21.0, iterations=15, num_threads=2, random_state=7)
    elif what == "bpr":
        model = BayesianPersonalizedRanking(DIM, learning_rate=0.05, regularization=0.01, iterations=60, num_threads=2, random_state=7)
    elif what == "item_knn":
        model = CosineRecommender(K=100, num_threads=2)
    start, cpu = time.perf_counter(), time.process_time()
    # implicit asks for this itself: its own threads each call BLAS.
    with threadpoolctl.threadpool_limits(1, "blas"):
        model.fit(train, show_progress=False)
    seconds = time.perf_counter() - start, time.process_time() - cpu
    return seconds, lambda: model.recommend(np.arange(train.shape[0]), train, N=TOP)[0]


def numpy_ease(train, dtype, solver):
    """The closed form as a NumPy user writes it: Gram, inverse, divide. Returns seconds and B."""
    start, cpu = time.perf_counter(), time.process_time()
    x = train.astype(dtype)
    g = (x.T @ x).toarray()
    g[np.diag_indices(len(g))] += 500
    if solver == "inv":
        p = np.linalg.inv(g)
    else:
        c, _ = scipy.linalg.lapack.get_lapack_funcs("potrf", (g,))(g, lower=False, overwrite_a=True)
        p, _ = scipy.linalg.lapack.get_lapack_funcs("potri", (c,))(c, lower=False, overwrite_c=True)
        p = np.triu(p) + np.triu(p, 1).T
    b = p / -np.diag(p)
    b[np.diag_indices(len(b))] = 0
    return (time.perf_counter() - start, time.process_time() - cpu), b


def medians(name, values):
    """Of wall and processor seconds. On a busy machine the second says more."""
    wall, cpu = (statistics.median(v) for v in zip(*values))
    print(f"{name}: wall {wall:.3f} s, processor {cpu:.2f} s; wall of each run {[round(v[0], 3) for v in values]}")
    return wall, cpu


def compare(name, mine, peer):
    print(f"{name}: {peer[0] / mine[0]:.2f} times as fast by wall, {peer[1] / mine[1]:.2f} by processor time")


def run_ease(args, work):
    data = args.data / "ml-1m"
    train, test = matrix(data / "lcf_split_train.txt.gz"), None
    test = matrix(data / "lcf_split_test.txt.gz", train.shape)
    (work / "train.txt").write_text(gzip.open(data / "lcf_split_train.txt.gz", "rt").read())
    if args.memory_of:
        dtype, solver = args.memory_of.split(",")
        tracemalloc.start()
        numpy_ease(train, np.dtype(dtype), solver)
        print(json.dumps({"arrays_peak_mib": tracemalloc.get_traced_memory()[1] >> 20}))
        return
    variants = [("float64", "inv"), ("float32", "inv"), ("float64", "cholesky"), ("float32", "cholesky")]
    times = {v: [] for v in variants}
    mine = []
    for turn in range(args.repeats):
        out, lists = ours(args.binary, "ease", work)
        mine.append((out["seconds"], out["cpu_seconds"]))
        for v in variants:
            seconds, b = numpy_ease(train, np.dtype(v[0]), v[1])
            times[v].append(seconds)
            if turn == 0:
                scores = train @ b
                scores[train.nonzero()] = -np.inf
                top = np.argsort(-scores, axis=1)[:, :TOP]
                print(v, quality(top, test))
    print("sommelier", quality(lists, test), {k: out[k] for k in ("before_mib", "peak_mib")})
    base = medians("sommelier", mine)
    for v in variants:
        compare(f"numpy/scipy {v}", base, medians(f"numpy/scipy {v}", times[v]))
        command = [sys.executable, __file__, "ease", "--memory-of", ",".join(v), "--data", args.data]
        memory = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
        print(f"  {memory}")


def run_fit(args, work):
    data = args.data / "gowalla"
    train = matrix(data / "train.txt.gz")
    test = matrix(data / "test.txt.gz")
    shape = tuple(np.maximum(train.shape, test.shape))
    train.resize(shape), test.resize(shape)
    (work / "train.txt").write_text(gzip.open(data / "train.txt.gz", "rt").read())
    mine, peer = [], []
    for turn in range(args.repeats):
        out, lists = ours(args.binary, args.what, work)
        mine.append((out["seconds"], out["cpu_seconds"]))
        seconds, make_lists = theirs(args.what, train)
        peer.append(seconds)
        if turn == 0:
            print("implicit ", quality(make_lists(), test))
            print("sommelier", quality(lists, test), out)
    compare(f"{args.what}, implicit", medians("sommelier", mine), medians("implicit", peer))


def run_rank(args, work):
    from implicit.als import AlternatingLeastSquares
    from implicit.evaluation import ranking_metrics_at_k

    data = args.data / "gowalla"
    train, test = matrix(data / "train.txt.gz"), matrix(data / "test.txt.gz")
    shape = tuple(np.maximum(train.shape, test.shape))
    train.resize(shape), test.resize(shape)
    for name in ("train", "test"):
        (work / f"{name}.txt").write_text(gzip.open(data / f"{name}.txt.gz", "rt").read())
    model = AlternatingLeastSquares(DIM, regularization=30.0, alpha=21.0, iterations=15, num_threads=2, random_state=7)
    model.fit(train, show_progress=False)
    model.user_factors.astype(np.float32).tofile(work / "users.f32")
    model.item_factors.astype(np.float32).tofile(work / "items.f32")
    mine, peer = [], []
    for turn in range(args.repeats):
        command = [args.binary, "rank", work / "users.f32", work / "items.f32", str(DIM), work / "train.txt", work / "test.txt"]
        out = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        mine.append((out["seconds"], out["cpu_seconds"]))
        start, cpu = time.perf_counter(), time.process_time()
        figures = ranking_metrics_at_k(model, train, test, K=TOP, show_progress=False, num_threads=2)
        peer.append((time.perf_counter() - start, time.process_time() - cpu))
        if turn == 0:
            print("implicit", figures, "sommelier", out)
    compare("rank, implicit", medians("sommelier", mine), medians("implicit", peer))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["ials", "bpr", "item_knn", "ease", "rank"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--binary", type=Path, default=Path("target/release/examples/measure"))
    parser.add_argument("--memory-of", help="internal: fit once in this process and print its peak memory")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        {"ease": run_ease, "rank": run_rank}.get(args.what, run_fit)(args, Path(work))


if __name__ == "__main__":
    main()

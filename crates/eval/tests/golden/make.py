"""Makes metrics.json: random ranked lists measured by RecTools, implicit, LensKit (installed) and RecBole's formulas.

    pip install rectools==0.19.0 implicit==0.7.3 lenskit==2025.8.1 scipy==1.17.1
    python make.py > metrics.json

RecBole is written out below from its definitions (metrics.py of 1.2), because it does not install beside the others.
"""

import json
import sys

import implicit
import lenskit
import numpy as np
import pandas as pd
import rectools
import scipy
from implicit.evaluation import ranking_metrics_at_k
from lenskit.data import ItemList
from lenskit.metrics.ranking import NDCG, AveragePrecision, Hit, ListGini, Precision, Recall, RecipRank
from rectools import Columns
from rectools import metrics as rt
from scipy import sparse, stats

ITEMS, USERS, K = 60, 40, 10
rng = np.random.default_rng(20260101)

# Lists of all items by a random score that leans towards each user's relevant items, so that hits are neither rare nor
# sure. `train` gives the popularity counts.
relevant, lists, train = [], [], []
for user in range(USERS):
    items = rng.permutation(ITEMS)
    n = int(rng.integers(1, 25))
    wanted = sorted(int(i) for i in items[:n])
    had = sorted(int(i) for i in items[n : n + int(rng.integers(3, 12))])
    score = rng.random(ITEMS) + np.isin(np.arange(ITEMS), wanted) * 0.35
    order = [int(i) for i in np.argsort(-score, kind="stable") if i not in had]
    relevant.append(wanted)
    train.append(had)
    lists.append(order[:K])


def recbole(k):
    hits = np.array([[i in r for i in l[:k]] for l, r in zip(lists, relevant)])
    pos = np.array([len(r) for r in relevant])
    rank = np.arange(1, k + 1)
    cum = hits.cumsum(1)
    ap = (cum / rank * hits).sum(1) / np.minimum(pos, k)
    gain = 1 / np.log2(rank + 1)
    ideal = np.array([gain[: min(p, k)].sum() for p in pos])
    first = [next((1 / (i + 1) for i, h in enumerate(row) if h), 0.0) for row in hits]
    flat = [i for l in lists for i in l[:k]]
    _, counts = np.unique(flat, return_counts=True)
    counts = np.sort(counts)
    idx = np.arange(ITEMS - len(counts) + 1, ITEMS + 1)
    popularity = np.bincount([i for t in train for i in t], minlength=ITEMS)
    return {
        "recall": (hits.sum(1) / pos).mean(),
        "precision": (hits.sum(1) / k).mean(),
        "hit": hits.any(1).mean(),
        "mrr": np.mean(first),
        "map": ap.mean(),
        "ndcg": ((hits * gain).sum(1) / ideal).mean(),
        "coverage": len(set(flat)) / ITEMS,
        "gini": ((2 * idx - ITEMS - 1) * counts).sum() / len(flat) / ITEMS,
        "popularity": np.mean([popularity[l[:k]].mean() for l in lists]),
    }


def rectools_(k):
    reco = pd.DataFrame(
        [(u, i, r + 1) for u, l in enumerate(lists) for r, i in enumerate(l)],
        columns=[Columns.User, Columns.Item, Columns.Rank],
    )
    frame = lambda rows: pd.DataFrame(
        [(u, i, 1, "2026-01-01") for u, l in enumerate(rows) for i in l],
        columns=[Columns.User, Columns.Item, Columns.Weight, Columns.Datetime],
    )
    values = rt.calc_metrics(
        {
            "recall": rt.Recall(k=k),
            "precision": rt.Precision(k=k),
            "hit": rt.HitRate(k=k),
            "mrr": rt.MRR(k=k),
            "map": rt.MAP(k=k),
            "ndcg": rt.NDCG(k=k),
            "coverage": rt.CatalogCoverage(k=k),
            "novelty": rt.MeanInvUserFreq(k=k),
            "popularity": rt.AvgRecPopularity(k=k),
        },
        reco,
        interactions=frame(relevant),
        prev_interactions=frame(train),
        catalog=list(range(ITEMS)),
    )
    return values


class Fixed:
    """What implicit asks of a model: the lists as they are."""

    def recommend(self, users, user_items, N, **_):
        return np.array([lists[u][:N] for u in users], dtype=np.int32), None


def implicit_(k):
    matrix = lambda rows: sparse.csr_matrix(
        (np.ones(sum(map(len, rows))), [i for l in rows for i in l], np.cumsum([0] + [len(l) for l in rows])),
        shape=(USERS, ITEMS),
    )
    values = ranking_metrics_at_k(Fixed(), matrix(train), matrix(relevant), K=k, show_progress=False)
    return {"precision": values["precision"], "map": values["map"], "ndcg": values["ndcg"], "auc": values["auc"]}


def lenskit_(k):
    wanted = {
        "recall": Recall(k),
        "precision": Precision(k),
        "hit": Hit(k),
        "mrr": RecipRank(k),
        "map": AveragePrecision(k),
        "ndcg": NDCG(k),
    }
    pairs = [(ItemList(item_ids=l, ordered=True), ItemList(item_ids=r)) for l, r in zip(lists, relevant)]
    values = {name: np.mean([m.measure_list(l, r) for l, r in pairs]) for name, m in wanted.items()}
    gini = ListGini(k, items=ITEMS)
    values["gini"] = gini.global_aggregate([gini.compute_list_data(l, r) for l, r in pairs])
    return values


differences = np.round(rng.normal(0.02, 0.1, 60), 3)
differences[:7] = 0
p = np.round(rng.random(12) ** 2, 4)
json.dump(
    {
        "made_by": {
            m.__name__: m.__version__ for m in (implicit, lenskit, rectools, scipy, np)
        },
        "items": ITEMS,
        "relevant": relevant,
        "train": train,
        "lists": lists,
        "values": {
            str(k): {
                name: {metric: float(v) for metric, v in of(k).items()}
                for name, of in [("recbole", recbole), ("rectools", rectools_), ("implicit", implicit_), ("lenskit", lenskit_)]
            }
            for k in (1, 5, 10)
        },
        "differences": differences.tolist(),
        "paired_t": list(map(float, stats.ttest_1samp(differences, 0))),
        "wilcoxon": list(map(float, stats.wilcoxon(differences, correction=False, method="asymptotic"))),
        "p": p.tolist(),
        "benjamini_hochberg": stats.false_discovery_control(p).tolist(),
    },
    sys.stdout,
    separators=(",", ":"),
)

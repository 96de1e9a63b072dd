"""Makes neighbours_and_factors.json: what NumPy and implicit say about one small matrix.

    pip install numpy scipy implicit && python crates/models/tests/golden/make_neighbours_and_factors.py

The printed versions are stored with the numbers.
"""

import json
from pathlib import Path

import implicit
import numpy as np
import scipy.sparse as sp
from implicit.als import AlternatingLeastSquares
from implicit.nearest_neighbours import BM25Recommender, CosineRecommender, TFIDFRecommender

USERS, ITEMS, DIM = 14, 9, 3


def round_all(a):
    return [[round(float(v), 6) for v in row] for row in np.asarray(a)]


def pairs():
    rng = np.random.default_rng(11)
    x = rng.integers(1, 5, (USERS, ITEMS)) * (rng.random((USERS, ITEMS)) < 0.45)
    x[np.arange(USERS), rng.integers(0, ITEMS, USERS)] += 1
    return x.astype(np.float32)


def ease(x, l2):
    g = x.T @ x + l2 * np.eye(ITEMS)
    p = np.linalg.inv(g.astype(np.float64))
    b = p / -np.diag(p)
    np.fill_diagonal(b, 0)
    return b


def neighbours(model, x):
    """implicit's item–item matrix with every neighbour kept and the item itself left out."""
    model.fit(sp.csr_matrix(x.astype(np.float64)), show_progress=False)
    s = np.asarray(model.similarity.todense())
    np.fill_diagonal(s, 0)
    return s


def fold_in(x, y, alpha, l2):
    """Users solved by implicit from fixed item factors, and its explanation of one score."""
    model = AlternatingLeastSquares(DIM, regularization=l2, alpha=1.0, iterations=1, use_cg=False, random_state=0)
    confidence = sp.csr_matrix(x * alpha + (x > 0))
    model.fit(confidence, show_progress=False)
    model.item_factors = y.astype(np.float32)
    model._item_norms = model._YtY = model._XtX = None
    users = np.stack([model.recalculate_user(u, confidence[u]) for u in range(USERS)])
    return users @ y.T


def best_objective(x, alpha, unobserved, l2):
    """The smallest loss of exact alternating least squares over 30 random starts, in float64."""
    rng = np.random.default_rng(3)
    w = alpha * x

    def side(fixed, w):
        gram = unobserved * fixed.T @ fixed + l2 * np.eye(DIM)
        rows = []
        for weights in w:
            h = gram + (fixed.T * weights) @ fixed
            rows.append(np.linalg.solve(h, fixed.T @ weights))
        return np.stack(rows)

    def loss(u, v):
        s = u @ v.T
        return (w * (1 - s) ** 2).sum() + unobserved * (s**2).sum() + l2 * ((u**2).sum() + (v**2).sum())

    best = np.inf
    for _ in range(30):
        v = rng.normal(size=(ITEMS, DIM))
        for _ in range(400):
            u = side(v, w)
            v = side(u, w.T)
        best = min(best, loss(u, v))
    return best


def main():
    x = pairs()
    # Orthogonal columns: YᵀY is diagonal, the form in which our weights are stored.
    q, _ = np.linalg.qr(np.random.default_rng(4).normal(size=(ITEMS, DIM)))
    y = (q * [1.5, 1.0, 0.7]).astype(np.float32).astype(np.float64)
    out = {
        "made_by": {"numpy": np.__version__, "implicit": implicit.__version__},
        "x": x.astype(int).tolist(),
        "ease_l2_2": round_all(ease((x > 0).astype(float), 2.0)),
        "ease_weighted_l2_5": round_all(ease(x.astype(float), 5.0)),
        "cosine": round_all(neighbours(CosineRecommender(K=ITEMS), x)),
        "tf_idf": round_all(neighbours(TFIDFRecommender(K=ITEMS), x)),
        "bm25": round_all(neighbours(BM25Recommender(K=ITEMS, K1=1.2, B=0.75), x)),
        "item_factors": round_all(y),
        "fold_in_alpha_2_l2_half": round_all(fold_in(x, y, 2.0, 0.5)),
        "objective_alpha_2_unobserved_half_l2_1": best_objective(x.astype(float), 2.0, 0.5, 1.0),
    }
    path = Path(__file__).with_name("neighbours_and_factors.json")
    path.write_text(json.dumps(out) + "\n")


if __name__ == "__main__":
    main()

"""Golden numbers for rating_knn: python ratings.py > ratings.json

Made with scikit-surprise 1.1.5, numpy 2.4.6. The ratings are drawn by the formula below, which ratings.rs repeats, so
that only predictions are stored: users x items, row by row, rated pairs included.
"""
import json
import sys
import pandas as pd
from surprise import BaselineOnly, Dataset, KNNBaseline, KNNBasic, KNNWithMeans, Reader

USERS, ITEMS = 30, 12


def rating(u, i):
    """From 1 to 5 in steps fine enough that no two people are equally near; None where there is none."""
    if (u * 7 + i * 13 + u * i * 5 + u * u * 3) % 11 >= 6:
        return None
    return 1.0 + (u * 3709 + i * 6113 + u * i * 1777) % 4001 / 1000.0


rows = [(u, i, rating(u, i)) for u in range(USERS) for i in range(ITEMS) if rating(u, i) is not None]
data = Dataset.load_from_df(pd.DataFrame(rows, columns=["u", "i", "r"]), Reader(rating_scale=(1, 5)))
train = data.build_full_trainset()
# Surprise says so on stdout.
verbose = {"verbose": False}
algorithms = {
    "baseline_only": BaselineOnly(**verbose),
    "baseline": KNNBaseline(**verbose),
    "baseline_5": KNNBaseline(k=5, **verbose),
    "user_mean": KNNWithMeans(**verbose),
    "user_mean_5": KNNWithMeans(k=5, **verbose),
    "none": KNNBasic(**verbose),
    "none_5": KNNBasic(k=5, **verbose),
}
out = {}
for name, algorithm in algorithms.items():
    algorithm.fit(train)
    out[name] = [round(algorithm.predict(u, i, clip=False).est, 7) for u in range(USERS) for i in range(ITEMS)]
json.dump(out, sys.stdout)

"""Golden numbers for SLIM, PureSVD, UserKNN and RP3beta: python linear.py > linear.json

Made with numpy 2.4.6, scipy 1.17.1, scikit-learn 1.9.1. The matrix is drawn by the formula below, which linear.rs
repeats, so that only results are stored.
"""
import json
import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import svds
from sklearn.linear_model import ElasticNet

USERS, ITEMS = 40, 15


def chosen(u, i):
    return (u * 7 + i * 13 + u * i * 5 + u * u * 3) % 11 < 4


x = np.array([[1.0 if chosen(u, i) else 0.0 for i in range(ITEMS)] for u in range(USERS)])
history = [0, 4, 9]
h = np.zeros(ITEMS)
h[history] = 1.0


def slim(l1, l2, signed):
    w = np.zeros((ITEMS, ITEMS))
    for j in range(ITEMS):
        rest = [i for i in range(ITEMS) if i != j]
        # ElasticNet minimises 1/(2n)|y-Xw|^2 + a r |w|_1 + a (1-r)/2 |w|^2.
        alpha, ratio = (l1 + l2) / USERS, l1 / (l1 + l2)
        net = ElasticNet(alpha=alpha, l1_ratio=ratio, positive=not signed, fit_intercept=False, tol=1e-12, max_iter=100000)
        w[rest, j] = net.fit(x[:, rest], x[:, j]).coef_
    return w.ravel().tolist()


def pure_svd(dim):
    _, s, vt = svds(x, k=dim)
    order = np.argsort(-s)
    v = vt[order].T
    return {"singular_values": s[order].tolist(), "scores": (h @ v @ v.T).tolist()}


def user_knn(k, shrink):
    norms = np.linalg.norm(x, axis=1)
    sim = x @ h / (norms * np.linalg.norm(h) + shrink)
    near = np.lexsort((np.arange(USERS), -sim))[:k]
    return (sim[near] @ x[near]).tolist()


def rp3beta(alpha, beta):
    user, item = x.sum(1, keepdims=True), x.sum(0)
    p_ui = np.divide(x, user, where=user > 0, out=np.zeros_like(x)) ** alpha
    p_iu = (x / np.maximum(item, 1)).T ** alpha
    w = p_iu @ p_ui * np.maximum(item, 1) ** -beta
    np.fill_diagonal(w, 0)
    return {"walks": (h @ w).tolist(), "normalised": (h @ (w / w.sum(1, keepdims=True))).tolist()}


def ease(l2):
    p = np.linalg.inv(x.T @ x + l2 * np.eye(ITEMS))
    b = -p / np.diag(p)
    np.fill_diagonal(b, 0)
    return (h @ b).tolist()


print(json.dumps({
    "slim": slim(0.5, 2.0, False),
    "slim_signed": slim(0.5, 2.0, True),
    "pure_svd": pure_svd(5),
    "user_knn": user_knn(7, 2.0),
    "rp3beta": rp3beta(0.7, 0.4),
    "ease": ease(3.0),
}, indent=1))

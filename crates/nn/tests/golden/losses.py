"""Golden numbers for the losses of sommelier-nn: python3 losses.py > losses.json

Made with PyTorch 2.15.0 in 64 bits, with its own functions and autograd. Inputs are drawn by the formula below, which
golden_losses.rs repeats, so that only losses and gradients are stored.
"""
import json
import numpy as np
import torch
import torch.nn.functional as F

SCALE = 0.25
OUT = float("inf")


def wave(rows, cols, seed, size=1.0, learned=True):
    i = np.arange(rows * cols, dtype=np.float64)
    x = torch.tensor((np.sin(i * 0.7 + seed) * size).astype(np.float32).astype(np.float64).reshape(rows, cols))
    return x.requires_grad_(learned)


def found(loss, *inputs):
    (SCALE * loss).backward()
    return {
        "loss": float(f"{SCALE * loss.item():.9e}"),
        "gradients": [[float(f"{g:.9e}") for g in x.grad.ravel().tolist()] for x in inputs],
    }


def bpr(s):
    m = s.shape[1] - 1
    return found(-F.logsigmoid(s[:, :1] - s[:, 1:]).sum() / m, s)


def bce(s, beta):
    labels, weights = torch.zeros_like(s), torch.ones_like(s)
    labels[:, 0], weights[:, 0] = 1, beta
    return found(F.binary_cross_entropy_with_logits(s, labels, weights.detach(), reduction="sum"), s)


def sampled_softmax(s, log_q):
    right = torch.zeros(len(s), dtype=torch.long)
    return found(F.cross_entropy(s - log_q, right, reduction="sum"), s)


def hinge(s, margin):
    right, drawn = s[:, :1].expand(-1, s.shape[1] - 1), s[:, 1:]
    return found(F.margin_ranking_loss(right, drawn, torch.ones_like(drawn), margin, reduction="sum"), s)


def warp(s, margin, items):
    loss = 0.0 * s.sum()
    for row in s:
        for trial in range(1, s.shape[1]):
            if margin - row[0] + row[trial] > 0:
                weight = sum(1 / i for i in range(1, (items - 1) // trial + 1))
                loss = loss + weight * F.margin_ranking_loss(row[:1], row[trial : trial + 1], torch.ones(1), margin)
                break
    return found(loss, s)


def kl(x, target, temperature):
    return found(F.kl_div(F.log_softmax(x / temperature, dim=1), target, reduction="sum"), x)


def info_nce(a, b, temperature, log_q, same):
    z = a @ b.T / temperature - log_q
    left_out = (same[:, None] == same[None, :]) & ~torch.eye(len(a), dtype=torch.bool)
    return found(F.cross_entropy(z.masked_fill(left_out, -OUT), torch.arange(len(a)), reduction="sum"), a, b)


def alignment(a, b):
    return found((a - b).norm(p=2, dim=1).pow(2).sum(), a, b)


def uniformity(x, t):
    return found(torch.pdist(x, p=2).pow(2).mul(-t).exp().mean().log(), x)


s = lambda size=1.0: wave(5, 4, 0.3, size)
log_q = wave(5, 4, 0.9, 2.0, learned=False)
log_q[1, 2] = log_q[4, 3] = OUT
shares = F.softmax(wave(5, 4, 0.6, 2.0, learned=False), dim=1).float().double()
target = wave(5, 4, 1.7, learned=False)
pair = lambda: (wave(6, 3, 0.2), wave(6, 3, 1.1))
none, groups = torch.arange(6), torch.tensor([0, 1, 0, 2, 1, 0])
flat, columns = torch.zeros(6, dtype=torch.double), wave(1, 6, 0.4, 2.0, learned=False)[0]

print(
    json.dumps(
        {
            "bpr": bpr(s()),
            "bpr, large scores": bpr(s(40.0)),
            "binary cross entropy": bce(s(), 1.0),
            "binary cross entropy, large scores": bce(s(40.0), 1.0),
            "gbce": bce(s(), 0.3),
            "sampled softmax": sampled_softmax(s(), 0.0),
            "sampled softmax, log q": sampled_softmax(s(), log_q),
            "sampled softmax, large scores": sampled_softmax(s(40.0), log_q),
            "hinge": hinge(s(), 0.5),
            "warp": warp(s(), 0.2, 100),
            "kl": kl(s(), shares, 0.7),
            "kl, large scores": kl(s(40.0), shares, 0.7),
            "squared": found(F.mse_loss(x := s(), target, reduction="sum"), x),
            "huber": found(F.huber_loss(x := s(), target, reduction="sum", delta=0.6), x),
            "info nce": info_nce(*pair(), 0.4, flat, none),
            "info nce, log q and groups": info_nce(*pair(), 0.4, columns, groups),
            "alignment": alignment(*pair()),
            "uniformity": uniformity(wave(6, 3, 0.2), 2.0),
        },
        indent=1,
    )
)

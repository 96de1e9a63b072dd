"""Makes operations.json: outputs and gradients of PyTorch for the operations of golden_operations.rs.

    pip install torch && python crates/nn/tests/golden/operations.py

Inputs come from `noise` below and the gradient of every output from seed 99; golden_operations.rs makes the same numbers, so
that only outputs and gradients are stored. Outputs of ragged batches are laid end to end, an output of minus infinity is null
and has no gradient. Everything is computed in 64 bits with PyTorch's own functions and autograd, and the printed version of
PyTorch is stored with the numbers.
"""

import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F

torch.set_default_dtype(torch.float64)
ACTIVATIONS = {
    "identity": lambda z: z,
    "relu": F.relu,
    "gelu": F.gelu,
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}


def noise(seed, *shape, size=1.0):
    """Uniform in ± size, from a hash of the seed and the place; rounded to single precision, as in Rust."""
    numbers = []
    for place in range(math.prod(shape)):
        h = (place * 2654435761 + seed * 2246822519) % 2**32
        for _ in range(2):
            h ^= h >> 15
            h = h * 739982445 % 2**32
        h ^= h >> 15
        numbers.append(size * (h / 2**31 - 1.0))
    return torch.tensor(numbers).float().double().reshape(shape).requires_grad_()


def numbers(t):
    return [float(f"{v:.8g}") if math.isfinite(v) else None for v in t.detach().flatten().tolist()]


def case(y, inputs):
    gradient = noise(99, *y.shape).detach().masked_fill(y.isinf(), 0.0)
    grads = torch.autograd.grad(y, list(inputs.values()), gradient)
    return {"y": numbers(y), "grads": {name: numbers(g) for name, g in zip(inputs, grads)}}


def linear():
    cases = {}
    for name, f in ACTIVATIONS.items():
        inputs = {"x": noise(1, 6, 7, size=2.0), "w": noise(2, 9, 7), "b": noise(3, 1, 9), "r": noise(4, 6, 9)}
        y = inputs["r"] + f(F.linear(inputs["x"], inputs["w"], inputs["b"][0]))
        cases[f"linear, {name}"] = case(y, inputs)
    # Without a residual the slope of ReLU is told by the output.
    inputs = {"x": noise(1, 6, 7, size=2.0), "w": noise(2, 9, 7)}
    cases["linear, bare relu"] = case(F.relu(F.linear(inputs["x"], inputs["w"])), inputs)
    return cases


def norms():
    cases = {}
    # With the small rows ε counts.
    for name, size in {"": 1.0, ", small": 1e-3}.items():
        x, g, b = noise(1, 5, 37, size=size), noise(2, 1, 37), noise(3, 1, 37)
        cases["layer norm" + name] = case(F.layer_norm(x, (37,), g[0], b[0], 1e-5), {"x": x, "g": g, "b": b})
        cases["rms norm" + name] = case(F.rms_norm(x, (37,), g[0], 1e-5), {"x": x, "g": g})
    x = noise(1, 5, 37)
    cases["normalise"] = case(F.normalize(x, eps=1e-12), {"x": x})
    x = noise(1, 5, 37)
    cases["normalise, short rows"] = case(F.normalize(x, eps=100.0), {"x": x})
    return cases


def embed():
    """Rows that come again, one that nobody reads, and a token without a row."""
    rows, places = torch.tensor([3, 0, 3, 7, 1, 3, 8]), torch.tensor([0, 1, 2, 0, 1, 0, 1])
    items, p = noise(1, 8, 11), noise(2, 4, 11)
    padded = F.pad(items, (0, 0, 0, 1))
    cases = {"embed": case(F.embedding(rows, padded) * 1.5 + F.embedding(places, p), {"p": p, "items": items})}
    items = noise(1, 8, 11)
    cases["embed, bare"] = case(F.embedding(rows[:6], items), {"items": items})
    return cases


HEADS, KEY, VALUE, LENGTHS = 2, 3, 2, [5, 0, 1, 9]
COLUMNS = HEADS * (2 * KEY + VALUE)
SCALE = 0.6
# Times in the order of the batch; `now` is a little later.
TIMES = torch.tensor([0, 3, 4, 90, 1000, 7, 0, 1, 2, 40, 41, 300, 5000, 5001, 5070])
NOW = TIMES + torch.tensor([2, 1, 60, 5, 9, 3, 1, 1, 30, 2, 7, 70, 1, 50, 11])
HIDDEN = [0, 5, 6, 9, 13]


def pieces(x, lengths):
    """Queries, keys and values of each sequence that has any, (heads, length, width) each, with the rows of the sequence."""
    at = 0
    for n in filter(None, lengths):
        parts = x[at : at + n].split([HEADS * KEY, HEADS * KEY, HEADS * VALUE], 1)
        yield [p.reshape(n, HEADS, -1).transpose(0, 1) for p in parts], slice(at, at + n)
        at += n


def places(rows):
    t = torch.arange(rows.stop - rows.start)
    return (t[:, None] - t[None, :]).clamp(0, 3)


def keys(rows):
    n = rows.stop - rows.start
    return torch.arange(n).expand(n, n).clamp(max=3)


def stretches(rows):
    return (NOW[rows][:, None] - TIMES[rows][None, :]).abs()


def linear_times(rows):
    """Each row counts in a unit of its own."""
    units = torch.arange(1, 16)[rows]
    return (stretches(rows) // units[:, None]).clamp(max=4)


def logarithmic_times(rows):
    return (stretches(rows).clamp(min=1).double().log2() * 1.5).long().clamp(max=12)


def attention(causal, silu=None, buckets=(), hidden=False, lengths=LENGTHS, vectors=False, context=False):
    """`buckets` are pairs of a function from rows to buckets and the shape of its numbers."""
    inputs = {"x": noise(1, sum(lengths), COLUMNS, size=2.0)}
    for n, (_, shape) in enumerate(buckets):
        inputs[f"bias{n}"] = noise(2 + n, *shape, size=2.0)
    if vectors:
        inputs |= {"rk": noise(8, 4, HEADS * KEY), "rv": noise(9, 4, HEADS * VALUE)}
    if context:
        inputs["e"] = noise(10, 4, KEY)
    visible = torch.ones(sum(lengths), dtype=torch.bool)
    if hidden:
        visible[HIDDEN] = False
    outputs = []
    for (q, k, v), rows in pieces(inputs["x"], lengths):
        n = rows.stop - rows.start
        may = visible[rows].expand(n, n)
        if causal:
            may = may & torch.ones(n, n, dtype=torch.bool).tril()
        bias = torch.zeros(HEADS, n, n)
        for b, (of, _) in enumerate(buckets):
            bias = bias + inputs[f"bias{b}"][:, of(rows)]
        if vectors:
            rk = inputs["rk"].reshape(4, HEADS, KEY)[places(rows)]
            bias = bias + SCALE * torch.einsum("hid,ijhd->hij", q, rk)
        if context:
            bare = SCALE * q @ k.transpose(1, 2)
            gates = (1 - torch.sigmoid(bare)) * may
            at = gates.flip(-1).cumsum(-1).flip(-1).clamp(max=3)
            low = at.floor().clamp(max=2).long()
            part = at - low
            table = SCALE * q @ inputs["e"].T
            bias = bias + (1 - part) * table.gather(2, low) + part * table.gather(2, low + 1)
        if silu:
            weights = F.silu(SCALE * q @ k.transpose(1, 2) + bias) / silu * may
            y = weights @ v
        elif vectors:
            weights = torch.softmax((SCALE * q @ k.transpose(1, 2) + bias).masked_fill(~may, -math.inf), -1)
            rv = inputs["rv"].reshape(4, HEADS, VALUE)[places(rows)]
            y = weights @ v + torch.einsum("hij,ijhd->hid", weights, rv)
        else:
            y = F.scaled_dot_product_attention(q, k, v, bias.masked_fill(~may, -math.inf), scale=SCALE)
        outputs.append(y.transpose(0, 1).reshape(n, -1))
    return case(torch.cat(outputs), inputs)


def attentions():
    by_place, by_key = (places, (HEADS, 4)), (keys, (1, 4))
    by_time, by_log = (linear_times, (1, 5)), (logarithmic_times, (HEADS, 13))
    return {
        "attention, causal": attention(True),
        # More than a tile of queries.
        "attention, causal, long": attention(True, lengths=[2, 67]),
        "attention, not causal": attention(False),
        "attention, places": attention(True, buckets=[by_place]),
        "attention, keys, not causal": attention(False, buckets=[by_key]),
        "attention, times": attention(True, buckets=[by_time]),
        "attention, places and logarithmic times": attention(True, buckets=[by_place, by_log]),
        "attention, hidden": attention(True, hidden=True, buckets=[by_place]),
        "attention, hidden, not causal": attention(False, hidden=True),
        "attention, silu": attention(True, silu=5.0),
        "attention, silu, places and logarithmic times, hidden": attention(
            True, silu=5.0, buckets=[by_place, by_log], hidden=True
        ),
        "attention, vectors": attention(True, vectors=True),
        "attention, context": attention(True, context=True),
    }


def gates():
    cases = {}
    for name, f in ACTIVATIONS.items():
        x, z = noise(1, 4, 9, size=2.0), noise(2, 4, 8)
        cases[f"gate, {name}"] = case(f(x[:, 2:7]) * z[:, 1:6], {"x": x, "z": z})
    x = noise(1, 4, 10, size=2.0)
    cases["gate, of itself"] = case(F.silu(x[:, :5]) * x[:, 5:], {"x": x})
    return cases


def pools():
    lengths = [3, 0, 1, 6]
    of = {"mean": lambda x: x.mean(0), "sum": lambda x: x.sum(0), "max": lambda x: x.amax(0), "last": lambda x: x[-1]}
    cases = {}
    for name, f in of.items():
        x = noise(1, sum(lengths), 5)
        y = torch.stack([f(part) if len(part) else torch.zeros(5) for part in x.split(lengths)])
        cases[f"pool, {name}"] = case(y, {"x": x})
    return cases


def graph():
    """Entry e of a 9 × 7 matrix: row 5 e mod 9, column 3 e mod 7; row 8 has none. 83 columns: every width of the kernel."""
    e = torch.arange(25)
    keep = 5 * e % 9 < 8
    places = torch.stack([5 * e % 9, 3 * e % 7])[:, keep]
    a = torch.sparse_coo_tensor(places, noise(5, 25).detach()[keep], (9, 7)).coalesce().to_sparse_csr()
    x = noise(1, 7, 83)
    return {"graph": case(a @ x * 0.7, {"x": x})}


def candidates():
    """The right item is among the drawn ones now and then, and drawn items come again."""
    right = torch.tensor([2, 0, 5, 5])
    shared = torch.tensor([1, 5, 0, 3, 3]).expand(4, 5)
    each = torch.tensor([[1, 2, 3], [4, 4, 1], [5, 0, 0], [2, 1, 0]])
    log_q = noise(3, 7).detach()
    cases = {}
    for name, drawn in {"shared": shared, "each": each}.items():
        for more, minus in {"": torch.zeros(7), ", log q": log_q}.items():
            h, items = noise(1, 4, 6), noise(2, 7, 6)
            of_right = (h * items[right]).sum(1, keepdim=True)
            of_drawn = torch.einsum("nd,nmd->nm", h, items[drawn])
            s = torch.cat([of_right * 2.5, of_drawn * 2.5 - minus[drawn]], 1)
            out = F.pad(drawn == right[:, None], (1, 0))
            cases[f"candidates, {name}{more}"] = case(s.masked_fill(out, -math.inf), {"h": h, "items": items})
    return cases


def catalogue():
    cases = {}
    for name, (n, d, count, factor) in {"": (6, 8, 40, 1.0), ", temperature": (6, 8, 40, 1 / 0.07), ", large": (3, 2, 1100, 4.0)}.items():
        h, items = noise(1, n, d), noise(2, count, d)
        right = torch.arange(n) * 7 % count
        loss = 0.25 * F.cross_entropy(factor * h @ items.T, right, reduction="sum")
        cases["catalogue softmax" + name] = case(loss.reshape(1, 1), {"h": h, "items": items})
    return cases


def main():
    cases = {"torch": torch.__version__}
    for some in [linear, norms, embed, attentions, gates, pools, graph, candidates, catalogue]:
        cases |= some()
    out = Path(__file__).with_name("operations.json")
    out.write_text(json.dumps(cases, separators=(",", ":")) + "\n")
    print(f"torch {torch.__version__}: {out}, {out.stat().st_size} bytes")


main()

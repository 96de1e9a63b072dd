"""Makes recurrent.json: outputs and gradients of PyTorch for the operations of golden_recurrent.rs.

    pip install torch && python crates/nn/tests/golden/recurrent.py

Number i of the input with seed s is size · sin(0.7 i + s); the gradient of every output is sin(0.3 i + 5). Outputs of
ragged batches are laid end to end. The printed version of PyTorch is stored with the numbers.
"""

import json
from pathlib import Path

import torch
import torch.nn.functional as F

torch.set_default_dtype(torch.float64)
LENGTHS = [5, 0, 1, 19, 33]


def wave(seed, *shape, size=1.0):
    n = 1
    for s in shape:
        n *= s
    # As in Rust, the numbers are rounded to single precision first.
    x = (size * torch.sin(torch.arange(n) * 0.7 + seed)).float().double()
    return x.reshape(shape).requires_grad_()


def case(y, inputs):
    gradient = torch.sin(torch.arange(y.numel()) * 0.3 + 5).float().double().reshape(y.shape)
    grads = torch.autograd.grad(y, list(inputs.values()), gradient)

    def numbers(t):
        return [float(f"{v:.7g}") for v in t.detach().flatten().tolist()]

    return {"y": numbers(y), "grads": {name: numbers(g) for name, g in zip(inputs, grads)}}


def each_sequence(f, *rows):
    """f over the rows of each sequence, results laid end to end."""
    parts, at = [], 0
    for n in LENGTHS:
        if n:
            parts.append(f(*(r[at : at + n] for r in rows)))
        at += n
    return torch.cat(parts)


def gru():
    inner, h = 6, 10
    names = {"weight_ih_l0": (3 * h, inner), "weight_hh_l0": (3 * h, h), "bias_ih_l0": (3 * h,), "bias_hh_l0": (3 * h,)}
    x = wave(1, sum(LENGTHS), inner)
    weights = {name: wave(2 + n, *shape, size=0.5) for n, (name, shape) in enumerate(names.items())}
    layer = torch.nn.GRU(inner, h, batch_first=True)

    def run(x):
        return torch.func.functional_call(layer, weights, (x[None],))[0][0]

    return case(each_sequence(run, x), {"x": x, **weights})


def conv(depthwise):
    inner, outer, k = (20, 20, 4) if depthwise else (5, 7, 3)
    x = wave(1, sum(LENGTHS), inner)
    weights = {"weight": wave(2, outer, 1 if depthwise else inner, k), "bias": wave(3, outer)}
    layer = torch.nn.Conv1d(inner, outer, k, groups=inner if depthwise else 1)

    def run(x):
        padded = F.pad(x.T[None], (k - 1, 0))
        return F.silu(torch.func.functional_call(layer, weights, (padded,))[0].T)

    return case(each_sequence(run, x), {"x": x, **weights})


def scan():
    c, s, rows = 20, 5, sum(LENGTHS)
    u, delta, z = wave(1, rows, c), wave(2, rows, c), wave(7, rows, c)
    bias, a_log, d = wave(3, c), wave(4, c, s), wave(6, c)
    bc = wave(5, rows, 2 * s)

    def run(u, delta, bc, z):
        a = -torch.exp(a_log)
        step = F.softplus(delta + bias)
        h, out = torch.zeros(c, s), []
        for t in range(len(u)):
            h = torch.exp(step[t][:, None] * a) * h + (step[t] * u[t])[:, None] * bc[t, :s]
            out.append((h @ bc[t, s:] + d * u[t]) * F.silu(z[t]))
        return torch.stack(out)

    inputs = {"u": u, "delta": delta, "bias": bias, "a_log": a_log, "bc": bc, "d": d, "z": z}
    return case(each_sequence(run, u, delta, bc, z), inputs)


def sparse():
    """Entry e of a 9 × 7 matrix: row 5 e mod 9, column 3 e mod 7, sin(e); repeated places are summed."""
    e = torch.arange(25)
    a = torch.sparse_coo_tensor(torch.stack([5 * e % 9, 3 * e % 7]), torch.sin(e.double()).float().double(), (9, 7))
    x = wave(1, 7, 18)
    return case(torch.sparse.mm(a.coalesce(), x) * 0.5, {"x": x})


def attention():
    """Softmax within each sequence, then two weighted sums of its rows; zeros for the empty one."""
    x, scores = wave(1, sum(LENGTHS), 6), wave(2, sum(LENGTHS), 2, size=3.0)
    parts, at = [], 0
    for n in LENGTHS:
        weights = torch.softmax(scores[at : at + n], 0)
        parts.append(weights.T @ x[at : at + n])
        at += n
    return case(torch.cat(parts), {"x": x, "scores": scores})


def pools():
    """Mean, maximum and last row of each sequence that has any, side by side."""
    x = wave(1, sum(LENGTHS), 6)
    return case(each_sequence(lambda x: torch.cat([x.mean(0), x.max(0).values, x[-1]])[None], x), {"x": x})


def rows():
    """Row by row: unit length, then softmax."""
    x, other = wave(1, 9, 7), wave(2, 9, 7)
    unit = F.normalize(x)
    return {
        "normalise": case(unit, {"x": x}),
        "softmax": case(torch.softmax(x, -1), {"x": x}),
        "dots": case((x * other).sum(-1), {"x": x, "other": other}),
        "matmul": case(x @ other.T, {"x": x, "other": other}),
        "gelu": case(F.gelu(x * 3), {"x": x}),
    }


def main():
    cases = {
        "torch": torch.__version__,
        "gru": gru(),
        "conv_depthwise": conv(True),
        "conv_full": conv(False),
        "scan": scan(),
        "sparse": sparse(),
        "attention": attention(),
        "pools": pools(),
        **rows(),
    }
    out = Path(__file__).with_name("recurrent.json")
    out.write_text(json.dumps(cases, separators=(",", ":")) + "\n")
    print(f"torch {torch.__version__}: {out}")


main()

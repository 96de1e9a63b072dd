"""Measures what one training step or one recommendation costs in PyTorch, one case a process, one JSON line.

    python bench/train/peers.py CASE [--steps N] [--threads 2]
    python bench/train/peers.py --list      the names of the cases
    python bench/train/peers.py --check     the ways of writing a loss agree with one another

CASE                       what a step is
sasrec-L-D-LOSS-DATA       SASRec: forward, loss, backward, fused Adam. Batch 128
hstu-L-D-LOSS-DATA         HSTU, the same. Batch 128, or 16 where L is 1000
gru4rec-50-64-sampled-DATA one GRU layer, the same. Batch 128
sparse-adam-WHAT           torch.optim.SparseAdam on 1,000,000 x 64, 8,192 distinct rows a step
score-256                  256 user vectors x 12,000 items, then the 10 best of each
recommend-256              SASRec forward of 256 sequences of 50, then the same
recommend-1                the same for one sequence
products-ROWS-D            the three products of a softmax over all items, way back included, in the chunks of `chunked`

LOSS is `sampled` (softmax over the target and 256 negatives that the whole batch shares) or softmax over all items
in one of three ways, of which the fastest is the peer: `plain` (F.cross_entropy on materialised logits), `torch`
(F.linear_cross_entropy, chunked), `chunked` (the autograd.Function below). DATA is `full` (each sequence has L events)
or `short` (most have 5 to 9, see `lengths`; padded to the longest of the batch, the padding left out before the logits).

WHAT is `coalesced` (the optimiser alone, its gradient coalesced beforehand), `uncoalesced` (the optimiser alone, its
gradient as backward leaves it) or `lookup` (look up, multiply, backward, optimiser).

Batches are made beforehand; negatives are drawn within the step. `wall_ms` and `cpu_ms` (of all threads) are medians
over steps, `peak_mb` is the most memory that the process ever held, of which `import_mb` (MiB both) after the imports.
"""

import argparse
import json
import os
import resource
import statistics
import time

# Threads that spin while they wait would be billed to PyTorch on a machine that is shared.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
import torch.nn.functional as F
from torch import nn

ITEMS, NEGATIVES, BLOCKS, DROPOUT, TOP, BATCHES, SEED = 12_000, 256, 2, 0.2, 10, 16, 7

# Rows of logits at a time: the powers of two from 16 to 2,048 were tried on D 64 and 256, and these took the least
# processor time, or near it. What `linear_cross_entropy` chooses itself (64 rows at L 50, D 64) takes half as long again.
CHUNK = {"torch": 1024, "chunked": 512}


# Data ----------------------------------------------------------------------------------------------------------------


def uniform(n, seed):
    """n numbers in [0, 1) of splitmix64, which is short enough to be written again in our half."""
    mask, state, out = (1 << 64) - 1, seed, []
    for _ in range(n):
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        out.append(((z ^ (z >> 31)) >> 11) * 2.0**-53)
    return out


def lengths(data, longest, n):
    """Of `short`: min(L, floor(5 (1 - u)^(-1/2.1))). Mean 9, quartiles 5, 6 and 9, 99th percentile 45: Amazon Beauty's
    (8.9; 5, 6 and 9; 43)."""
    if data == "full":
        return [longest] * n
    return [min(longest, int(5 * (1 - u) ** (-1 / 2.1))) for u in uniform(n, SEED)]


class Batch:
    """`inputs` (B, longest here) padded with item 0 on the right, where the causal mask hides it from every event;
    `at` finds the real events in the flattened batch, None if all are; `targets` (events)."""

    def __init__(self, sizes, generator):
        width = max(sizes)
        real = torch.arange(width) < torch.tensor(sizes)[:, None]
        items = torch.randint(1, ITEMS, (len(sizes), width + 1), generator=generator)
        self.inputs = torch.where(real, items[:, :-1], 0)
        self.targets = items[:, 1:][real]
        self.at = None if real.all() else real.flatten().nonzero().flatten()


def batches(data, longest, size):
    generator = torch.Generator().manual_seed(SEED)
    sizes = lengths(data, longest, BATCHES * size)
    return [Batch(sizes[i : i + size], generator) for i in range(0, len(sizes), size)]


# Losses: hidden (events, D), table (items, D), targets (events) -> mean loss ------------------------------------------


def sampled(hidden, table, targets):
    negatives = torch.randint(1, ITEMS, (NEGATIVES,))
    positive = (hidden * F.embedding(targets, table)).sum(-1, keepdim=True)  # (events, 1)
    logits = torch.cat([positive, hidden @ F.embedding(negatives, table).T], 1)  # (events, 1 + negatives)
    return F.cross_entropy(logits, torch.zeros_like(targets))


def plain(hidden, table, targets):
    return F.cross_entropy(hidden @ table.T, targets)


def of_torch(hidden, table, targets, chunk=None):
    options = nn.LinearCrossEntropyOptions(batch_chunk_size=chunk or CHUNK["torch"])
    return F.linear_cross_entropy(hidden, table, targets, options=options)


class Chunked(torch.autograd.Function):
    """Computes both gradients on the way forward, while a chunk's logits are at hand."""

    @staticmethod
    def forward(ctx, hidden, table, targets, chunk):
        n = len(hidden)
        d_hidden, d_table = torch.empty_like(hidden), torch.zeros_like(table)
        buffer = hidden.new_empty(min(chunk, n), len(table))
        loss = hidden.new_zeros(())
        for start in range(0, n, chunk):
            h, t = hidden[start : start + chunk], targets[start : start + chunk, None]
            p = torch.mm(h, table.T, out=buffer[: len(h)])
            torch.softmax(p, 1, out=p)  # in place
            at_target = p.gather(1, t)
            loss -= at_target.clamp_min(torch.finfo(p.dtype).tiny).log().sum()
            p.scatter_(1, t, at_target - 1)
            torch.mm(p, table, out=d_hidden[start : start + chunk])
            d_table.addmm_(p.T, h)
        ctx.save_for_backward(d_hidden.div_(n), d_table.div_(n))
        return loss / n

    @staticmethod
    def backward(ctx, upstream):
        d_hidden, d_table = ctx.saved_tensors
        return d_hidden * upstream, d_table * upstream, None, None


def chunked(hidden, table, targets, chunk=None):
    return Chunked.apply(hidden, table, targets, chunk or CHUNK["chunked"])


LOSSES = {"sampled": sampled, "plain": plain, "torch": of_torch, "chunked": chunked}


# Models: inputs (B, L) -> hidden (B, L, D), with the item table tied to the output -------------------------------------


class Sequence(nn.Module):
    """Items plus learned positions, dropout, two blocks, layer norm."""

    def __init__(self, longest, dim, block):
        super().__init__()
        self.items, self.positions = nn.Embedding(ITEMS, dim), nn.Embedding(longest, dim)
        nn.init.normal_(self.items.weight, std=0.02)
        nn.init.normal_(self.positions.weight, std=0.02)
        self.dropout = nn.Dropout(DROPOUT)
        self.blocks = nn.ModuleList(block(longest, dim) for _ in range(BLOCKS))
        self.norm = nn.LayerNorm(dim)

    def forward(self, inputs):
        x = self.dropout(self.items(inputs) + self.positions.weight[: inputs.shape[1]])
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class SasRecBlock(nn.Module):
    """x + attn(LN(x)), then x + W2 relu(W1 LN(x)), one head, inner width D. Dropout after each; none on the attention's
    weights, where it would keep `scaled_dot_product_attention` from its fast kernel."""

    def __init__(self, _longest, dim):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.inner, self.outer = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, x):
        q, k, v = self.qkv(self.norm1(x)).unsqueeze(1).chunk(3, -1)  # each (B, 1, L, D)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True).squeeze(1)
        x = x + self.dropout(self.out(attended))
        return x + self.dropout(self.outer(F.relu(self.inner(self.norm2(x)))))


class HstuBlock(nn.Module):
    """u, v, q, k = silu(W LN(x)); x + W (dropout(LN(A v) * u)) with A = silu(q k' + bias[i - j]) / L over j <= i.

    One head. Layer norms without weights, as in Meta's code; its bias of time differences needs time stamps, which these
    sequences lack. The fastest of five ways to write A: what lies ahead is masked in the bias, where it costs L x L and
    not B x L x L, and the division follows the product with v."""

    def __init__(self, longest, dim):
        super().__init__()
        self.longest = longest
        self.uvqk, self.out = nn.Linear(dim, 4 * dim, bias=False), nn.Linear(dim, dim)
        self.bias = nn.Parameter(torch.randn(longest) * 0.02)
        self.register_buffer("ahead", torch.ones(longest, longest, dtype=torch.bool).triu(1))
        self.dropout = nn.Dropout(DROPOUT)

    def biases(self, n):
        """(L, L) of bias[i - j], and where j > i a number whose silu is 0 and has no gradient."""
        # As Meta's code does: rows of one longer sequence, each shifted by one; cheaper backward than looking up.
        row = F.pad(self.bias[:n].flip(0), (0, 2 * n - 1))
        shifted = row.repeat(n)[:-n].view(n, 3 * n - 2)[:, n - 1 : 2 * n - 1]
        return shifted.masked_fill(self.ahead[:n, :n], -1e4)

    def forward(self, x):
        length, dim = x.shape[1:]
        u, v, q, k = F.silu(self.uvqk(F.layer_norm(x, (dim,)))).chunk(4, -1)
        weights = F.silu(torch.baddbmm(self.biases(length), q, k.mT))  # (B, L, L)
        attended = torch.bmm(weights, v) / self.longest
        return x + self.out(self.dropout(F.layer_norm(attended, (dim,)) * u))


class Gru4Rec(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.items = nn.Embedding(ITEMS, dim)
        nn.init.normal_(self.items.weight, std=0.02)
        self.dropout = nn.Dropout(DROPOUT)
        self.gru = nn.GRU(dim, dim, batch_first=True)

    def forward(self, inputs):
        return self.gru(self.dropout(self.items(inputs)))[0]


# Cases: each returns a function that takes one step and returns its loss, or None ---------------------------------------


def training(model, loss, data):
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    model.train()

    def step(n):
        batch = data[n % len(data)]
        hidden = model(batch.inputs).flatten(0, 1)  # (B L, D)
        if batch.at is not None:
            hidden = hidden.index_select(0, batch.at)  # (events, D)
        value = loss(hidden, model.items.weight, batch.targets)
        optimiser.zero_grad(set_to_none=True)
        value.backward()
        optimiser.step()
        return value

    step.events = statistics.mean(len(batch.targets) for batch in data)
    return step


def sequence_case(kind, longest, dim, loss, data):
    longest, dim = int(longest), int(dim)
    size = 128 if longest <= 200 else 16
    if kind == "gru4rec":
        model = Gru4Rec(dim)
    else:
        model = Sequence(longest, dim, {"sasrec": SasRecBlock, "hstu": HstuBlock}[kind])
    return training(model, LOSSES[loss], batches(data, longest, size))


def sparse_adam(what, rows=1_000_000, dim=64, touched=8_192):
    table = nn.Embedding(rows, dim, sparse=True)
    optimiser = torch.optim.SparseAdam(table.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(SEED)
    picks = [torch.randint(rows, (2 * touched,), generator=generator).unique() for _ in range(BATCHES)]
    picks = [p[torch.randperm(len(p), generator=generator)[:touched]] for p in picks]
    values = torch.randn(touched, dim, generator=generator) * 0.01

    def gradient(n):
        made = torch.sparse_coo_tensor(picks[n][None], values, (rows, dim), check_invariants=False)
        return made.coalesce() if what == "coalesced" else made

    if what == "lookup":

        def step(n):
            optimiser.zero_grad(set_to_none=True)
            (table(picks[n % BATCHES]) * values).sum().backward()
            optimiser.step()

        return step

    gradients = [gradient(n) for n in range(BATCHES)]

    def step(n):
        table.weight.grad = gradients[n % BATCHES]
        optimiser.step()

    return step


def best(users, table):
    return torch.topk(users @ table.T, TOP)


def score(users, dim=64):
    users, table = torch.randn(users, dim), torch.randn(ITEMS, dim)
    step = torch.inference_mode()(lambda n: best(users, table) and None)
    step.users = len(users)
    return step


def recommend(users, longest=50, dim=64):
    model = Sequence(longest, dim, SasRecBlock).eval()
    data = batches("full", longest, users)
    step = torch.inference_mode()(lambda n: best(model(data[n % len(data)].inputs)[:, -1], model.items.weight) and None)
    step.users = users
    return step


def products(rows, dim):
    hidden, table = torch.randn(rows, dim), torch.randn(ITEMS, dim)
    d_hidden, d_table = torch.empty_like(hidden), torch.zeros_like(table)
    chunk = CHUNK["chunked"]
    buffer = hidden.new_empty(chunk, ITEMS)

    def step(_):
        for start in range(0, rows, chunk):
            h = hidden[start : start + chunk]
            p = torch.mm(h, table.T, out=buffer[: len(h)])
            torch.mm(p, table, out=d_hidden[start : start + chunk])
            d_table.addmm_(p.T, h, alpha=1e-3)

    return step


CASES = {}
for kind, sizes in {"sasrec": ["50-64", "200-64", "50-256"], "hstu": ["50-64", "200-64", "50-256", "1000-64"]}.items():
    for of_size in sizes:
        for name in LOSSES:
            for data in ("full", "short"):
                CASES[f"{kind}-{of_size}-{name}-{data}"] = sequence_case
for data in ("full", "short"):
    CASES[f"gru4rec-50-64-sampled-{data}"] = sequence_case
for what in ("coalesced", "uncoalesced", "lookup"):
    CASES[f"sparse-adam-{what}"] = lambda _sparse, _adam, what: sparse_adam(what)
CASES["score-256"] = lambda _, users: score(int(users))
CASES["recommend-256"] = CASES["recommend-1"] = lambda _, users: recommend(int(users))
for size in ("6400-64", "25600-64", "6400-256"):
    CASES[f"products-{size}"] = lambda _, rows, dim: products(int(rows), int(dim))


# Measuring -----------------------------------------------------------------------------------------------------------


def measure(step, steps, warm_up=3, seconds=10):
    """Medians of wall and processor milliseconds, steps, loss of the last. Without `steps`, for about `seconds`."""
    for n in range(warm_up):
        step(n)
    wall, cpu = [], []
    n, end = warm_up, time.perf_counter() + seconds
    while len(wall) < (steps or 7) or (steps is None and time.perf_counter() < end):
        start_wall, start_cpu = time.perf_counter(), time.process_time()
        loss = step(n)
        cpu.append(time.process_time() - start_cpu)
        wall.append(time.perf_counter() - start_wall)
        n += 1
    return statistics.median(wall) * 1e3, statistics.median(cpu) * 1e3, len(wall), loss


def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def check():
    """Losses and gradients of the three ways of a full softmax."""
    torch.manual_seed(SEED)
    hidden, table = torch.randn(300, 64, requires_grad=True), torch.randn(ITEMS, 64, requires_grad=True)
    targets = torch.randint(ITEMS, (300,))
    results = {}
    for name in ("plain", "torch", "chunked"):
        hidden.grad = table.grad = None
        value = LOSSES[name](hidden, table, targets)
        value.backward()
        results[name] = value.detach(), hidden.grad, table.grad
    for name, result in results.items():
        for one, other in zip(result, results["plain"]):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
        print(name, round(result[0].item(), 6), "agrees")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", nargs="?", choices=CASES, metavar="CASE")
    parser.add_argument("--steps", type=int, help="measured steps; otherwise about ten seconds of them")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.list:
        print("\n".join(CASES))
    elif args.check:
        check()
    elif args.case:
        import_mb = peak_mb()
        torch.manual_seed(SEED)
        step = CASES[args.case](*args.case.split("-"))
        wall, cpu, steps, loss = measure(step, args.steps)
        out = {"case": args.case, "wall_ms": round(wall, 3), "cpu_ms": round(cpu, 3), "steps": steps}
        out |= {"peak_mb": round(peak_mb()), "import_mb": round(import_mb)}
        if loss is not None:
            out |= {"loss": round(loss.item(), 5), "events": step.events}
        if hasattr(step, "users"):
            out["users_per_s"] = round(step.users / wall * 1e3)
        print(json.dumps(out))
    else:
        parser.error("which CASE? --list names them")


if __name__ == "__main__":
    main()

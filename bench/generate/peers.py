"""Measures the peers of generative models: Hugging Face's T5, and faiss. One case a process, one JSON line.

    python bench/generate/peers.py beam [--queries N]        a T5 writes 4 codes behind 20 items, 20 beams, only what a trie allows
    python bench/generate/peers.py step [--steps N]          a step of training of the same T5, batch 128, fused AdamW
    python bench/generate/peers.py vectors FILE [--rows N]   writes vectors of 384 numbers, a mixture with structure at several sizes
    python bench/generate/peers.py quantise FILE             faiss' ResidualQuantizer on them: 3 × 256, beam 5; fit, then codes of all

The T5 has d 128, 4 heads of 32, 512 inside, 4 + 4 blocks, a vocabulary of 4 × 256 codes. `ms` is a median.
"""

import argparse
import json
import os
import statistics
import time

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

ITEMS, LEVELS, CODES, LENGTH, BATCH, DIM = 12_000, 4, 256, 20, 128, 384


def t5(dropout):
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(1)
    torch.set_num_threads(2)
    return T5ForConditionalGeneration(T5Config(
        vocab_size=2 + LEVELS * CODES, d_model=128, d_kv=32, d_ff=512, num_layers=4, num_decoder_layers=4, num_heads=4,
        dropout_rate=dropout, feed_forward_proj="gelu", pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
    ))


def names(generator):
    """Codes of all items as tokens."""
    import torch

    codes = torch.randint(CODES, (ITEMS, LEVELS), generator=generator)
    items = torch.arange(ITEMS)
    codes[:, 0], codes[:, 1] = items % CODES, items // CODES
    return 2 + torch.arange(LEVELS) * CODES + codes


def beam(queries):
    import torch

    model = t5(0.0).eval()
    generator = torch.Generator().manual_seed(7)
    tokens = names(generator)
    trie = {}
    for name in tokens.tolist():
        node = trie
        for token in name:
            node = node.setdefault(token, {})

    def allowed(_, written):
        node = trie
        for token in written.tolist()[1:]:
            node = node.get(token, {})
        return list(node) or [1]

    times = []
    for n in range(queries + 3):
        history = tokens[torch.randint(ITEMS, (LENGTH,), generator=generator)].reshape(1, -1)
        start = time.perf_counter()
        with torch.inference_mode():
            found = model.generate(
                history, num_beams=20, num_return_sequences=20, max_new_tokens=LEVELS, min_new_tokens=LEVELS,
                do_sample=False, prefix_allowed_tokens_fn=allowed,
            )
        if n >= 3:
            times.append((time.perf_counter() - start) * 1e3)
        assert found.shape[0] == 20
    return {"ms": statistics.median(times), "most_ms": max(times)}


def step(steps):
    import torch

    model = t5(0.1).train()
    generator = torch.Generator().manual_seed(7)
    tokens = names(generator)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    times = []
    for n in range(steps + 3):
        history = tokens[torch.randint(ITEMS, (BATCH, LENGTH), generator=generator)].reshape(BATCH, -1)
        told = tokens[torch.randint(ITEMS, (BATCH,), generator=generator)]
        start = time.perf_counter()
        optimiser.zero_grad()
        model(input_ids=history, labels=told).loss.backward()
        optimiser.step()
        if n >= 3:
            times.append((time.perf_counter() - start) * 1e3)
    return {"wall_ms": statistics.median(times), "least_ms": min(times)}


def vectors(path, rows):
    import numpy as np

    rng = np.random.default_rng(7)
    coarse = rng.standard_normal((64, DIM), dtype=np.float32)
    fine = 0.5 * rng.standard_normal((4096, DIM), dtype=np.float32)
    with open(path, "wb") as out:
        for start in range(0, rows, 100_000):
            n = min(100_000, rows - start)
            x = coarse[rng.integers(64, size=n)] + fine[rng.integers(4096, size=n)]
            x += 0.3 * rng.standard_normal((n, DIM), dtype=np.float32)
            out.write(x.astype("<f4").tobytes())
    return {"rows": rows}


def quantise(path):
    import faiss
    import numpy as np

    faiss.omp_set_num_threads(2)
    x = np.fromfile(path, dtype="<f4").reshape(-1, DIM)
    quantiser = faiss.ResidualQuantizer(DIM, 3, 8)
    # As many as ours draws: trained on all it holds five residuals of each, more than this machine has room for.
    drawn = x[np.random.default_rng(1).choice(len(x), min(len(x), 256 * 256), replace=False)]
    start = time.perf_counter()
    quantiser.train(drawn)
    fitted = time.perf_counter()
    codes = np.concatenate([quantiser.compute_codes(x[i:i + 100_000]) for i in range(0, len(x), 100_000)])
    ended = time.perf_counter()
    lost = total = 0.0
    mean = x.mean(0)
    for start_row in range(0, len(x), 100_000):
        part = x[start_row:start_row + 100_000]
        lost += ((part - quantiser.decode(codes[start_row:start_row + 100_000])) ** 2).sum(dtype="f8")
        total += ((part - mean) ** 2).sum(dtype="f8")
    return {"fit_s": fitted - start, "encode_s": ended - fitted, "all_s": ended - start, "lost": lost / total}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=["beam", "step", "vectors", "quantise"])
    parser.add_argument("file", nargs="?")
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rows", type=int, default=1_000_000)
    args = parser.parse_args()
    cases = {
        "beam": lambda: beam(args.queries), "step": lambda: step(args.steps),
        "vectors": lambda: vectors(args.file, args.rows), "quantise": lambda: quantise(args.file),
    }
    print(json.dumps(cases[args.case]()))


if __name__ == "__main__":
    main()

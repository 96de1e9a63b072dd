"""Generative models beside their peers, by turns: medians, ranges and ratios as Markdown.

    python bench/generate/run.py [beam|step|quantise]… --rounds 3 --step target/release/examples/step …
"""

import argparse
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
from turns import by_turns, call, header, ratio, row, shown, values

SHAPE = "dim = 128;blocks = 4;heads = 4;inner = 512;beam = 20;length = 20"
MODELS = {"tiger": f"kind = 'tiger';{SHAPE}", "tiger_decoder": f"kind = 'tiger_decoder';{SHAPE}"}


def peer(args, *case):
    return lambda: call([args.torch, "bench/generate/peers.py", *case])


def beam(args):
    header("12,000 items, 4 codes, 20 beams, 20 items read, one person", "target", "ours", "Hugging Face T5", "ratio")
    for name, config in MODELS.items():
        config = f"{config};training = {{ epochs = 1 }}"
        found = by_turns(args.rounds, {
            "ours": lambda: call([args.step, "score", "20", config]), "peer": peer(args, "beam"),
        })
        ours, theirs = values(found["ours"], "one_ms"), values(found["peer"], "ms")
        row(name, "≥ 10 ×, < 15 ms", shown(ours), shown(theirs), f"**{ratio(theirs, ours):.1f} ×**")


def step(args):
    header("a step, d 128, 4 + 4 blocks, 128 histories of 20 items", "target", "ours", "PyTorch's T5", "ratio")
    found = by_turns(args.rounds, {
        "ours": lambda: call([args.step, "write", MODELS["tiger"] + ";dropout = 0.1", "20", "10"]),
        "peer": peer(args, "step"),
    })
    ours, theirs = values(found["ours"], "wall_ms"), values(found["peer"], "wall_ms")
    row("tiger", "≥ 1.5 ×", shown(ours), shown(theirs), f"**{ratio(theirs, ours):.2f} ×**")


def quantise(args):
    if not os.path.exists(args.vectors):
        peer(args, "vectors", args.vectors, "--rows", str(args.rows))()
    header(f"{args.rows:,} × 384, 3 × 256, beam 5", "target", "ours", "faiss ResidualQuantizer", "ratio", "lost, ours", "faiss")
    found = by_turns(args.rounds, {
        "ours": lambda: call([args.quantise, args.vectors, "384"]), "peer": peer(args, "quantise", args.vectors),
    })
    lost = [values(found[name], "lost")[0] for name in ("ours", "peer")]
    for what, key in [("fit", "fit_s"), ("codes of all", "encode_s"), ("both", "all_s")]:
        ours, theirs = values(found["ours"], key), values(found["peer"], key)
        row(what, "≥ 1.0 ×" if key == "all_s" else "", shown(ours, "s"), shown(theirs, "s"),
            f"**{ratio(theirs, ours):.2f} ×**", f"{lost[0]:.4f}", f"{lost[1]:.4f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows_wanted", nargs="*", help="beam, step, quantise; all where none is named")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--step", required=True)
    parser.add_argument("--quantise", required=True)
    parser.add_argument("--torch", required=True)
    parser.add_argument("--vectors", default="/tmp/sommelier-vectors.f32")
    parser.add_argument("--rows", type=int, default=1_000_000)
    args = parser.parse_args()
    for name in args.rows_wanted or ["beam", "step", "quantise"]:
        {"beam": beam, "step": step, "quantise": quantise}[name](args)


if __name__ == "__main__":
    main()

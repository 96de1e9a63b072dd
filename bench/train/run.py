"""Runs our half and the peers' by turns and prints medians, ranges and ratios as Markdown.

    python bench/train/run.py [ROW]… --rounds 5 --step target/release/examples/step --torch VENV/bin/python …

A row's runs take turns, ours and each peer's once a round, so that what else the machine does falls on all alike. A ratio
is that of the medians, peer over ours; where a work can be written in several ways in PyTorch, the fastest is the peer.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
from turns import by_turns, call, header, ratio, row, shown, values

SASREC = "kind = 'sasrec';blocks = 2;dropout = 0.2;dim = {dim};sequence = {{ length = {length}{loss} }}"
HSTU = "kind = 'hstu';blocks = 2;dropout = 0.2;dim = {dim};sequence = {{ length = {length}{loss} }}"
SAMPLED = ", loss = { kind = 'sampled', negatives = 256 }"
WAYS = ["plain", "torch", "chunked"]

# Name, our config, dim, length, loss, batch, peers' cases, target.
STEPS = {
    f"{model}-{length}-{dim}-{loss}": (config, dim, length, loss, 16 if length > 200 else 128, target)
    for model, config, sizes in [
        ("sasrec", SASREC, {(50, 64): "2.0", (200, 64): "2.0", (50, 256): "1.3"}),
        ("hstu", HSTU, {(50, 64): None, (200, 64): None, (1000, 64): None}),
    ]
    for (length, dim), target in sizes.items()
    for loss in ("sampled", "softmax")
    if model == "sasrec" or loss == "sampled"
}


def of_step(args, name):
    config, dim, length, loss, batch, _ = STEPS[name]
    config = config.format(dim=dim, length=length, loss=SAMPLED if loss == "sampled" else "")
    return lambda: call([args.step, "train", config, str(length), "full", str(args.steps), str(batch)])


def of_peer(args, case):
    return lambda: call([args.torch, "bench/train/peers.py", case, "--steps", str(args.steps)])


def steps(args):
    if not any(wanted(args, name) for name in STEPS if name.startswith("sasrec")):
        return
    header("step, batch 128", "target", "ours", "PyTorch", "ratio (wall; processor)", "peak memory, ours", "PyTorch's")
    for name, (_, dim, length, loss, _, target) in STEPS.items():
        if not wanted(args, name) or not name.startswith("sasrec"):
            continue
        kinds = ["sampled"] if loss == "sampled" else WAYS
        runs = {kind: of_peer(args, f"sasrec-{length}-{dim}-{kind}-full") for kind in kinds}
        found = by_turns(args.rounds, {"ours": of_step(args, name), **runs})
        ours = found.pop("ours")
        best = min(found, key=lambda kind: statistics.median(values(found[kind], "wall_ms")))
        least = min(statistics.median(values(f, "peak_mb")) for f in found.values())
        wall = ratio(values(found[best], "wall_ms"), values(ours, "wall_ms"))
        cpu = ratio(values(found[best], "cpu_ms"), values(ours, "cpu_ms"))
        row(
            f"SASRec, L {length}, d {dim}, {loss}", f"≥ {target} ×", shown(values(ours, "wall_ms")),
            f"{shown(values(found[best], 'wall_ms'))} [{best}]", f"**{wall:.2f} ×**; {cpu:.2f} ×",
            f"{statistics.median(values(ours, 'peak_mb')):.0f} MB", f"{least:.0f} MB",
        )


def products(args):
    """What a step of the full softmax cannot do without, on either side."""
    if not wanted(args, "products"):
        return
    header("the three products alone", "ours", "half of it, alone on the machine", "PyTorch's")
    for length, dim in [(50, 64), (200, 64), (50, 256)]:
        rows = 128 * length
        found = by_turns(args.rounds, {
            "ours": lambda: call([args.step, "products", str(rows), str(dim)]),
            "peer": of_peer(args, f"products-{rows}-{dim}"),
        })
        speed = 6 * rows * 12_000 * dim / 1e6 / statistics.median(values(found["ours"], "wall_ms"))
        row(
            f"L {length}, d {dim}", f"{shown(values(found['ours'], 'wall_ms'))}, {speed:.0f} GFLOP/s",
            shown(values(found["ours"], "half_alone_ms")), shown(values(found["peer"], "wall_ms")),
        )


def hstu(args):
    if not wanted(args, "hstu"):
        return
    header("sampled loss", "our HSTU", "our SASRec", "SASRec / HSTU", "PyTorch's HSTU", "PyTorch / ours")
    for length in (50, 200, 1000):
        name = f"hstu-{length}-64-sampled"
        batch = str(STEPS[name][4])
        other = SASREC.format(dim=64, length=length, loss=SAMPLED)
        found = by_turns(args.rounds, {
            "hstu": of_step(args, name),
            "sasrec": lambda: call([args.step, "train", other, str(length), "full", str(args.steps), batch]),
            "peer": of_peer(args, f"hstu-{length}-64-sampled-full"),
        })
        wall = {name: values(f, "wall_ms") for name, f in found.items()}
        row(
            f"L {length}, d 64, batch {batch}", shown(wall["hstu"]), shown(wall["sasrec"]),
            f"**{ratio(wall['sasrec'], wall['hstu']):.2f} ×**", shown(wall["peer"]), f"{ratio(wall['peer'], wall['hstu']):.2f} ×",
        )


def gru(args):
    if not wanted(args, "gru4rec"):
        return
    header("step, batch 128", "ours", "PyTorch", "ratio (wall; processor)")
    config = "kind = 'gru4rec';dim = 64;sequence = { length = 50" + SAMPLED + " }"
    for data in ("full", "short"):
        found = by_turns(args.rounds, {
            "ours": lambda: call([args.step, "train", config, "50", data, str(args.steps)]),
            "peer": of_peer(args, f"gru4rec-50-64-sampled-{data}"),
        })
        wall, cpu = ({name: values(f, key) for name, f in found.items()} for key in ("wall_ms", "cpu_ms"))
        row(
            f"GRU4Rec, L 50, d 64, sampled, {data}", shown(wall["ours"]), shown(wall["peer"]),
            f"**{ratio(wall['peer'], wall['ours']):.2f} ×**; {ratio(cpu['peer'], cpu['ours']):.2f} ×",
        )


def adam(args):
    if not wanted(args, "adam"):
        return
    header("1,000,000 × 64, 8,192 rows a step", "target", "ours", "torch SparseAdam", "ratio")
    found = by_turns(args.rounds, {
        "ours": lambda: call([args.step, "adam"]),
        "coalesced": of_peer(args, "sparse-adam-coalesced"),
        "lookup": of_peer(args, "sparse-adam-lookup"),
    })
    for name, ours, theirs in [
        ("the update alone, gradient coalesced", "update_ms", "coalesced"),
        ("look up, way back and update", "lookup_ms", "lookup"),
    ]:
        ours, theirs = values(found["ours"], ours), values(found[theirs], "wall_ms")
        row(name, "≥ 4 ×", shown(ours), shown(theirs), f"**{ratio(theirs, ours):.2f} ×**")


def scoring(args):
    if not wanted(args, "score"):
        return
    header("SASRec, L 50, d 64, 12,000 items, top 10", "target", "ours", "PyTorch", "ratio")
    config = SASREC.format(dim=64, length=50, loss="") + ";training = { epochs = 1 }"
    found = by_turns(args.rounds, {
        "ours": lambda: call([args.step, "score", "50", config]),
        "many": of_peer(args, "recommend-256"),
        "one": of_peer(args, "recommend-1"),
    })
    for name, target, key in [("256 people at once", "≥ 2 ×", "many"), ("one person", "< 0.5 ms", "one")]:
        ours, theirs = values(found["ours"], f"{key}_ms"), values(found[key], "wall_ms")
        row(name, target, shown(ours), shown(theirs), f"**{ratio(theirs, ours):.2f} ×**")


def growth(args):
    if not wanted(args, "grow"):
        return
    header("events", "an epoch", "processor", "a million events", "data", "beside the data")
    config = SASREC.format(dim=64, length=50, loss=SAMPLED)
    points = []
    for events in (100_000, 300_000, 1_000_000, 3_000_000, 10_000_000):
        found = [call([args.step, "grow", config, "50", str(events)]) for _ in range(args.rounds if events < 1e6 else 1)]
        one = min(found, key=lambda f: f["wall_s"])
        points.append(one)
        row(
            f"{one['events']:,}", f"{one['wall_s']:.2f} s", f"{one['cpu_s']:.2f} s",
            f"{one['wall_s'] / one['events'] * 1e6:.2f} s", f"{one['data_mb']:.0f} MB", f"{one['fit_mb']:.0f} MB",
        )
    with open("bench/train/growth.svg", "w") as out:
        out.write(chart(points))


def chart(points):
    """Seconds of an epoch by events, both on scales of powers of ten; a straight line of slope one is linear."""
    import math

    wide, high, left, top = 640, 400, 70, 40
    x = lambda v: left + (math.log10(v) - 5) / 2 * (wide - left - 50)
    y = lambda v: high - 50 - (math.log10(v) - lowest) / span * (high - 50 - top)
    lowest = math.floor(math.log10(points[0]["wall_s"]))
    span = math.ceil(math.log10(points[-1]["wall_s"])) - lowest
    place = lambda p: f"{x(p['events']):.1f},{y(p['wall_s']):.1f}"
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" font-family="sans-serif" font-size="13">',
        f'<rect width="{wide}" height="{high}" fill="#fff"/>',
        f'<text x="{left}" y="22" font-size="15">Seconds of an epoch by events (SASRec, L 50, d 64, sampled loss)</text>',
    ]
    for power in range(5, 8):
        out.append(f'<text x="{x(10**power):.0f}" y="{high - 26}" text-anchor="middle">10^{power} events</text>')
        out.append(f'<path d="M{x(10**power):.1f} {top}V{high - 50}" stroke="#ddd"/>')
    for power in range(lowest, lowest + span + 1):
        out.append(f'<text x="{left - 8}" y="{y(10.0**power) + 4:.1f}" text-anchor="end">{10.0**power:g} s</text>')
        out.append(f'<path d="M{left} {y(10.0**power):.1f}H{wide - 50}" stroke="#ddd"/>')
    first, last = points[0], points[-1]
    linear = first["wall_s"] * last["events"] / first["events"]
    out.append(
        f'<path d="M{place(first)} L{x(last["events"]):.1f},{y(linear):.1f}" stroke="#999" stroke-dasharray="5 4"/>'
        f'<text x="{wide - 54}" y="{high - 60}" text-anchor="end" fill="#666">dashed: in proportion to the first</text>'
    )
    out.append(f'<path d="M{" L".join(map(place, points))}" fill="none" stroke="#0b6bcb" stroke-width="2"/>')
    for p in points:
        out.append(f'<circle cx="{x(p["events"]):.1f}" cy="{y(p["wall_s"]):.1f}" r="4" fill="#0b6bcb"/>')
        words = f"{p['wall_s']:.1f} s, {p['fit_mb']:.0f} MB beside the data"
        # The first one's words go to its right, where there is room.
        dx, dy, end = (10, 16, "start") if p is first else (-8, -10, "end")
        at = f'x="{x(p["events"]) + dx:.1f}" y="{y(p["wall_s"]) + dy:.1f}"'
        out.append(f'<text {at} text-anchor="{end}" font-size="11">{words}</text>')
    return "\n".join(out + ["</svg>", ""])


def recbole(args):
    """End to end: some epochs over amazon-beauty, reading the data included."""
    data = os.path.join(args.data, "amazon-beauty")
    if not wanted(args, "recbole") or not args.recbole or not os.path.isdir(data):
        return
    epochs = args.epochs
    header(f"SASRec, amazon-beauty, softmax over all items, epochs: {epochs}", "target", "ours", "RecBole", "ratio (wall; processor)", "peak memory, ours", "RecBole's")

    def ours():
        before, start = os.times(), time.perf_counter()
        command = [args.sommelier, "evaluate", "sasrec", "--data", data, "--split", "loo", "--json", "--threads", "2"]
        command += ["--set", f"model.training.epochs={epochs}", "--set", "model.training.patience=0"]
        out = call(command)["runs"][0]
        after = os.times()
        cpu = after.children_user + after.children_system - before.children_user - before.children_system
        return {"wall_s": time.perf_counter() - start, "cpu_s": cpu, "peak_mb": out["peak_rss_mb"]}

    def theirs():
        before, start = os.times(), time.perf_counter()
        out = call([args.recbole, "bench/train/recbole_run.py", "--epochs", str(epochs), "--data", os.path.join(data, "sequences.txt.gz")])
        after = os.times()
        cpu = after.children_user + after.children_system - before.children_user - before.children_system
        return {"wall_s": time.perf_counter() - start, "cpu_s": cpu, "peak_mb": out["peak_mb"]}

    found = by_turns(min(args.rounds, 1), {"ours": ours, "peer": theirs})
    wall, cpu, peak = ({n: values(f, key) for n, f in found.items()} for key in ("wall_s", "cpu_s", "peak_mb"))
    row(
        "process start to end, with evaluation", "≥ 4 ×", shown(wall["ours"], "s"), shown(wall["peer"], "s"),
        f"**{ratio(wall['peer'], wall['ours']):.2f} ×**; {ratio(cpu['peer'], cpu['ours']):.2f} ×",
        f"{peak['ours'][0]:.0f} MB", f"{peak['peer'][0]:.0f} MB",
    )


def wanted(args, name):
    return not args.rows or any(name.startswith(row) for row in args.rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", help="sasrec[-L-D-LOSS], products, hstu, gru4rec, adam, score, grow, recbole; all where none")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=3, help="of RecBole's row, one run of which takes minutes an epoch")
    parser.add_argument("--steps", type=int, default=20, help="measured steps of a run")
    parser.add_argument("--step", required=True, help="our half, built in release")
    parser.add_argument("--sommelier", required=True)
    parser.add_argument("--torch", required=True, help="a Python with PyTorch")
    parser.add_argument("--recbole", help="a Python with RecBole")
    parser.add_argument("--data", required=True)
    args = parser.parse_args()
    for part in (steps, products, hstu, gru, adam, scoring, growth, recbole):
        part(args)


if __name__ == "__main__":
    main()

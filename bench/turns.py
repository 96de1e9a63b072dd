"""What the comparisons share: processes that print one JSON line, taking turns, and their tables as Markdown."""

import json
import os
import statistics
import subprocess
import sys


def call(command, environment=None):
    out = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **(environment or {})})
    if out.returncode:
        sys.exit(f"{' '.join(command)}\n{out.stderr}")
    return json.loads(out.stdout.strip().splitlines()[-1])


def by_turns(rounds, runs):
    """`runs` by name; a dictionary of lists of what each returned."""
    found = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            found[name].append(run())
    return found


def values(results, key):
    return [r[key] for r in results]


def shown(numbers, unit="ms"):
    return f"{statistics.median(numbers):.4g} {unit} ({min(numbers):.3g}–{max(numbers):.3g})"


def ratio(theirs, ours):
    return statistics.median(theirs) / statistics.median(ours)


def row(*cells):
    print("| " + " | ".join(cells) + " |", flush=True)


def header(*cells):
    print()
    row(*cells)
    row(*["---"] * len(cells))

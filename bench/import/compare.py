"""Runs our import and DuckDB's COPY by turns and prints medians: compare.py CSV RUNS BINARY."""

import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

DUCKDB = """
import duckdb, json, resource, sys, time
start = time.perf_counter()
db = duckdb.connect(sys.argv[2])
db.execute("SET threads = 2; SET enable_progress_bar = false")
db.execute("CREATE TABLE events (user_id VARCHAR, item_id VARCHAR, rating DOUBLE, timestamp BIGINT)")
db.execute(f"COPY events FROM '{sys.argv[1]}' (HEADER)")
db.execute("CHECKPOINT")
events = db.execute("SELECT count(*) FROM events").fetchone()[0]
db.close()
seconds = time.perf_counter() - start
rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
print(json.dumps({"events": events, "seconds": round(seconds, 3), "peak_rss_mb": rss}))
"""


def run(command):
    """Its JSON, with the processor seconds it took: those mean something on a machine that others use too."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    result["cpu"] = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return result


def ours(csv, binary, mode):
    folder = tempfile.mkdtemp(dir=os.path.dirname(csv))
    try:
        command = [binary, "log", csv, folder] if mode == "log" else [binary, "load", csv]
        return run(command)
    finally:
        shutil.rmtree(folder)


def theirs(csv):
    folder = tempfile.mkdtemp(dir=os.path.dirname(csv))
    try:
        command = [sys.executable, "-c", DUCKDB, csv, os.path.join(folder, "events.duckdb")]
        return run(command)
    finally:
        shutil.rmtree(folder)


def main():
    csv, runs, binary = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    import duckdb

    # Once through, so that both find the file in memory.
    with open(csv, "rb") as file:
        while file.read(1 << 24):
            pass
    found = {"import into the log": [], "DuckDB COPY": [], "load into memory": []}
    for turn in range(runs):
        found["import into the log"].append(ours(csv, binary, "log"))
        found["DuckDB COPY"].append(theirs(csv))
        found["load into memory"].append(ours(csv, binary, "load"))
        print(f"run {turn + 1} of {runs}: " + ", ".join(f"{k} {v[-1]['seconds']} s" for k, v in found.items()), file=sys.stderr)
    size = os.path.getsize(csv) / 1e6
    print(f"DuckDB {duckdb.__version__}, {size:.0f} MB of CSV, {time.strftime('%Y-%m-%d')}, load average {os.getloadavg()[0]:.1f}\n")
    print(f"| what | seconds (median of {runs}) | events/s | processor seconds | peak MB |")
    print("| --- | --- | --- | --- | --- |")
    median = {}
    for name, results in found.items():
        median[name] = statistics.median(r["seconds"] for r in results)
        events = results[0]["events"]
        assert all(r["events"] == events for r in results)
        rss = max(r["peak_rss_mb"] for r in results)
        cpu = statistics.median(r["cpu"] for r in results)
        print(f"| {name} | {median[name]:.2f} | {events / median[name]:,.0f} | {cpu:.2f} | {rss} |")
    ratio = median["import into the log"] / median["DuckDB COPY"]
    print(f"\nimport takes {ratio:.2f} times as long as DuckDB (target: at most 2)")


if __name__ == "__main__":
    main()

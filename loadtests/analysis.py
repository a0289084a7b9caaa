"""Cold reports side by side with tea-tasting on one Parquet file, in alternation; refreshes; many metrics.

Run with `python loadtests/analysis.py [--peer PYTHON] [--rounds N]`; PEER is an interpreter that has tea-tasting
(`pip install tea-tasting ibis-framework[duckdb]`), without it only our own times are printed.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import duckdb

CACHE = Path(__file__).resolve().parents[1] / ".cache" / "bench-analysis"

METRICS = ["mean:revenue|pre_revenue", "ratio:orders/sessions|pre_orders/pre_sessions"]
OURS = """
import sys
from engine.analysis import analyze_table
metrics = ["mean:revenue|pre_revenue", "ratio:orders/sessions|pre_orders/pre_sessions"]
analyze_table(sys.argv[1], variant="variant", control="control", metrics=metrics)
"""
THEIRS = """
import sys
import ibis
import tea_tasting as tt
data = ibis.duckdb.connect().read_parquet(sys.argv[1])
tt.Experiment(
    revenue=tt.Mean("revenue", covariate="pre_revenue"),
    orders=tt.RatioOfMeans("orders", "sessions", "pre_orders", "pre_sessions"),
).analyze(data, control="control")
"""
MANY = """
import sys
from engine.analysis import analyze_table
metrics = [f"mean:m{i}" for i in range(int(sys.argv[2]))]
analyze_table(sys.argv[1], variant="variant", control="control", metrics=metrics)
"""


def users(count: int) -> str:
    """A table of `count` users, one row each."""
    path = CACHE / f"users-{count}.parquet"
    if not path.exists():
        duckdb.sql(f"COPY ({_select(count)}) TO '{path}'")
    return str(path)


def _select(count: int, extra: str = "") -> str:
    return (
        "SELECT i AS user_id, "  # noqa: S608 # numbers of ours only
        "CASE WHEN hash(i) % 2 = 0 THEN 'control' ELSE 'treatment' END AS variant, pre_revenue, "
        "pre_revenue * 0.5 + random() * 30 AS revenue, 1 + (random() * 8)::int AS sessions, "
        "(random() * 4)::int AS orders, 1 + (random() * 8)::int AS pre_sessions, (random() * 4)::int AS pre_orders"
        f"{extra} FROM (SELECT i, random() * 20 AS pre_revenue FROM range({count}) t(i))"
    )


def cold(python: str, code: str, *arguments: str) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds and megabytes at most of a fresh interpreter."""
    started = time.perf_counter()
    child = subprocess.Popen([python, "-c", code, *arguments])
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"{python} failed on {arguments}")
    return time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def medians(rounds: list[tuple[float, float, float]]) -> str:
    wall, cpu, memory = (statistics.median(column) for column in zip(*rounds, strict=True))
    return f"{wall:6.2f} s wall {cpu:6.2f} s CPU {memory:6.0f} MB"


def against_peer(peer: str | None, rounds: int) -> None:
    for count in (1_000_000, 10_000_000):
        path = users(count)
        ours, theirs = [], []
        for _ in range(rounds):
            ours.append(cold(sys.executable, OURS, path))
            if peer:
                theirs.append(cold(peer, THEIRS, path))
        print(f"{count:>10,} users, cold: counterpoint {medians(ours)}")
        if peer:
            ratios = [[a[i] / b[i] for a, b in zip(ours, theirs, strict=True)] for i in range(3)]
            wall, cpu, memory = (statistics.median(column) for column in ratios)
            print(f"{'':>24} tea-tasting {medians(theirs)}")
            print(f"{'':>24} median ratio  {wall:.2f} wall, {cpu:.2f} CPU, {memory:.2f} memory")


def refresh(rounds: int) -> None:
    """A hundred days of 100,000 users; then one more."""
    days, store = CACHE / "days", CACHE / "partials"
    if not days.exists():
        days.mkdir()
        for day in range(101):
            duckdb.sql(f"COPY ({_select(100_000)}) TO '{days}/{day:03}.parquet'")
    last, aside = days / "100.parquet", CACHE / "100.parquet"
    full, more = [], []
    from engine.analysis import analyze_table  # noqa: PLC0415 # imported once, outside what is measured

    def report(partials: str | None) -> float:
        started = time.perf_counter()
        analyze_table(str(days), variant="variant", control="control", metrics=METRICS, partials=partials)
        return time.perf_counter() - started

    report(None)
    for _ in range(rounds):
        shutil.rmtree(store, ignore_errors=True)
        last.rename(aside)
        report(str(store))
        aside.rename(last)
        more.append(report(str(store)))
        full.append(report(None))
    ratio = statistics.median(a / b for a, b in zip(full, more, strict=True))
    times = f"full {statistics.median(full):.3f} s, refresh {statistics.median(more):.3f} s"
    print(f"100 days and one more: {times}, {ratio:.0f}x")


def many_metrics(rounds: int) -> None:
    path = CACHE / "metrics.parquet"
    if not path.exists():
        extra = "".join(f", random() * {i + 1} AS m{i}" for i in range(20))
        duckdb.sql(f"COPY ({_select(2_000_000, extra)}) TO '{path}'")
    one, twenty = [], []
    for _ in range(rounds):
        one.append(cold(sys.executable, MANY, str(path), "1"))
        twenty.append(cold(sys.executable, MANY, str(path), "20"))
    ratio = statistics.median(a[0] / b[0] for a, b in zip(twenty, one, strict=True))
    print(f"2,000,000 users: one metric {medians(one)}; twenty {medians(twenty)}; {ratio:.1f}x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", help="an interpreter with tea-tasting")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    CACHE.mkdir(parents=True, exist_ok=True)
    against_peer(arguments.peer, arguments.rounds)
    refresh(arguments.rounds)
    many_metrics(arguments.rounds)


if __name__ == "__main__":
    main()

"""Reports of a cold process against tea-tasting on the same Parquet; refreshes of a report; reports of many metrics.

`python -m loadtests.analysis [--rounds N] [--day-rows N] [--peer PYTHON]`. tea-tasting runs over Ibis and DuckDB in an
environment of its own, made on first use. Runs alternate; both sides run once from compiled files before they are
measured, and must find the same effects. Exits with 1 if a budget is missed. Measure wall times on a quiet machine.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
import venv
from pathlib import Path

import duckdb

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache" / "bench-analysis"
PEER = ROOT / ".cache" / "peers" / "tea-tasting"
PACKAGES = ["tea-tasting==1.14.0", "ibis-framework[duckdb]==12.0.0", "duckdb==1.5.6", "sqlglot<30.18"]
BUDGETS = {1_000_000: 1 / 3, 10_000_000: 0.6}  # of the peer's wall time
REFRESH = 20.0
TWENTY = 3.0

METRICS = ["mean:revenue|pre_revenue", "ratio:orders/sessions|pre_orders/pre_sessions"]
OURS = """
import sys
from engine.analysis import analyze_table
metrics, partials = sys.argv[2].split(), sys.argv[3] if len(sys.argv) > 3 else None
report = analyze_table(sys.argv[1], variant="variant", control="control", metrics=metrics, partials=partials)
print([row.absolute.estimate for row in report.metrics])
"""
THEIRS = """
import sys
import ibis
import tea_tasting as tt
data = ibis.duckdb.connect().read_parquet(sys.argv[1])
found = tt.Experiment(
    revenue=tt.Mean("revenue", covariate="pre_revenue"),
    orders=tt.RatioOfMeans("orders", "sessions", "pre_orders", "pre_sessions"),
).analyze(data, control="control")
print([found[name].effect_size for name in ("revenue", "orders")])
"""
Run = tuple[float, float, float]


def install_peer() -> Path:
    python = PEER / "bin" / "python"
    if not (PEER / "complete").exists():
        print(f"installing tea-tasting into {PEER.relative_to(ROOT)} (once)", file=sys.stderr)
        venv.create(PEER, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
        (PEER / "complete").touch()
    return python


def users(count: int) -> Path:
    """A table of `count` users, one row each."""
    path = CACHE / f"users-{count}.parquet"
    if not path.exists():
        duckdb.sql(f"COPY ({_select(count)}) TO '{path}'")
    return path


def _select(count: int, extra: str = "") -> str:
    return (
        "SELECT i AS user_id, "  # numbers of ours only
        "CASE WHEN hash(i) % 2 = 0 THEN 'control' ELSE 'treatment' END AS variant, pre_revenue, "
        "pre_revenue * 0.5 + random() * 30 AS revenue, 1 + (random() * 8)::int AS sessions, "
        "(random() * 4)::int AS orders, 1 + (random() * 8)::int AS pre_sessions, (random() * 4)::int AS pre_orders"
        f"{extra} FROM (SELECT i, random() * 20 AS pre_revenue FROM range({count}) t(i))"
    )


def cold(python: str | Path, code: str, *arguments: object) -> tuple[Run, list[float]]:
    """Wall seconds, CPU seconds and peak megabytes of a fresh interpreter, and the effects that it found."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    started = time.perf_counter()
    child = subprocess.Popen(
        [python, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, env=environment, cwd=ROOT
    )
    output = child.stdout.read() if child.stdout else b""
    _, status, usage = os.wait4(child.pid, 0)
    wall = time.perf_counter() - started
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"{python} failed on {arguments}")
    return (wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024), json.loads(
        output.splitlines()[-1]
    )  # a slow query prints a progress bar above it


def medians(rounds: list[Run]) -> str:
    wall, cpu, memory = (statistics.median(column) for column in zip(*rounds, strict=True))
    return f"{wall:6.2f} s wall {cpu:6.2f} s CPU {memory:6.0f} MB"


def report_budget(met: bool, budget: str) -> bool:  # noqa: FBT001 # the check's outcome
    print(f"{'':>24} {'meets' if met else 'MISSES'} the budget: {budget}")
    return met


def against_peer(peer: Path, rounds: int) -> bool:
    met = True
    for count, budget in BUDGETS.items():
        path = users(count)
        sides = [(sys.executable, OURS, path, " ".join(METRICS)), (peer, THEIRS, path)]
        (_, mine), (_, other) = (cold(*side) for side in sides)
        if any(abs(a - b) > 1e-9 * abs(b) + 1e-12 for a, b in zip(mine, other, strict=True)):
            sys.exit(f"effects differ, {mine} and {other}: the times are not comparable")
        pairs = [[cold(*side)[0] for side in sides] for _ in range(rounds)]
        wall, cpu, memory = (statistics.median(a[i] / b[i] for a, b in pairs) for i in range(3))
        print(f"{count:>10,} users, cold: counterpoint {medians([pair[0] for pair in pairs])}")
        print(f"{'':>24} tea-tasting  {medians([pair[1] for pair in pairs])}")
        print(f"{'':>24} median ratio   {wall:.2f} wall   {cpu:.2f} CPU   {memory:.2f} memory")
        met &= report_budget(wall <= budget and memory <= 1, f"{budget:.2f} of the wall time, no more memory")
    return met


def refresh(rounds: int, rows: int) -> bool:
    """Refresh a report of 100 days by one more day, in a running process and in one that must start."""
    days, store = CACHE / f"days-{rows}", CACHE / "partials"
    if not days.exists():
        making = days.with_suffix(".new")
        making.mkdir(exist_ok=True)
        for day in range(101):
            duckdb.sql(f"COPY ({_select(rows)}) TO '{making}/{day:03}.parquet'")
        making.rename(days)
    last, aside = days / "100.parquet", CACHE / f"aside-{rows}.parquet"
    from engine.analysis import analyze_table  # noqa: PLC0415 # imported once, outside what is measured

    def within(partials: Path | None) -> Run:
        started, spent = time.perf_counter(), time.process_time()
        store = str(partials) if partials else None
        analyze_table(str(days), variant="variant", control="control", metrics=METRICS, partials=store)
        return time.perf_counter() - started, time.process_time() - spent, 0.0

    def started(partials: Path | None) -> Run:
        return cold(sys.executable, OURS, days, " ".join(METRICS), *([partials] if partials else []))[0]

    met = True
    for name, report in (("in a running process", within), ("cold", started)):
        full, more = [], []
        report(None)
        for _ in range(rounds):
            shutil.rmtree(store, ignore_errors=True)
            last.rename(aside)
            try:
                report(store)
            finally:
                aside.rename(last)
            more.append(report(store))
            full.append(report(None))
        wall, cpu = (statistics.median(a[i] / b[i] for a, b in zip(full, more, strict=True)) for i in range(2))
        spent = [statistics.median(run[0] for run in runs) for runs in (full, more)]
        print(f"100 days of {rows:,} and one more, {name}: full {spent[0]:.3f} s, refresh {spent[1]:.3f} s,", end=" ")
        print(f"{wall:.1f} times faster by wall, {cpu:.1f} by CPU")
        if report is within:
            met = report_budget(wall >= REFRESH, f"{REFRESH:.0f} times faster")
    return met


def many_metrics(rounds: int) -> bool:
    path = CACHE / "metrics.parquet"
    if not path.exists():
        extra = "".join(f", random() * {i + 1} AS m{i}" for i in range(20))
        duckdb.sql(f"COPY ({_select(2_000_000, extra)}) TO '{path}'")
    names = [f"mean:m{i}" for i in range(20)]
    asked = [(sys.executable, OURS, path, " ".join(names[:some])) for some in (1, 20)]
    pairs = [[cold(*one)[0] for one in asked] for _ in range(rounds)]
    ratio = statistics.median(twenty[0] / one[0] for one, twenty in pairs)
    print(f"2,000,000 users, cold: one metric {medians([pair[0] for pair in pairs])}")
    print(f"{'':>18} twenty metrics {medians([pair[1] for pair in pairs])}, {ratio:.1f} times one")
    return report_budget(ratio <= TWENTY, f"{TWENTY:.0f} times one")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", type=Path, help="an interpreter with tea-tasting, if not that of .cache/peers")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--day-rows", type=int, default=100_000, help="users of each day that a refresh adds to")
    arguments = parser.parse_args()
    CACHE.mkdir(parents=True, exist_ok=True)
    met = [
        against_peer(arguments.peer or install_peer(), arguments.rounds),
        refresh(arguments.rounds, arguments.day_rows),
        many_metrics(arguments.rounds),
    ]
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())

"""All reports of `measure` on a shop's log of a year: together and each alone, cold, and after one more day.

    python -m loadtests.measure [--alone] [--customers N] [--events N]

The log is that of `loadtests.year_shop`, whose truths are known; it is written once. `measure all` runs in one process,
first on all days but the last without stored statistics, then on all days with those. With `--alone` each report then
does the second in a process of its own. The wall times of a busy machine mean little, so CPU seconds are printed beside
them. Exits with 1 if all reports together or a refresh miss their budgets.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from engine.settings import PARTIALS_FOLDER

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache" / "year"
TOGETHER, REFRESH, MEMORY = 60.0, 2.0, 2000.0
"""Seconds on two cores of all reports, seconds of a refresh, and megabytes of either."""
REPORTS = {
    "clv": [],
    "rfm": [],
    "cohorts": [],
    "satisfaction": [],
    "attribution": ["--by", "offer"],
    "funnel": ["--step", "page_view", "--step", "product_view", "--step", "purchase"],
    "journeys": [],
    "channels": [],
    "opportunity": [],
    "programme": [],
    "kpis": [],
    "all": ["--step", "page_view", "--step", "product_view", "--step", "purchase"],
}


def run(name: str, log: Path) -> tuple[float, float, float, dict[str, object]]:
    """Wall seconds, CPU seconds and peak megabytes of a report in a fresh process, and the report."""
    command = [sys.executable, "-m", "engine", "measure", name, *REPORTS[name], "--log", str(log), "--json"]
    started = time.perf_counter()
    child = subprocess.Popen(
        [*command, "--experiments", str(ROOT / "experiments")], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    output = child.stdout.read() if child.stdout else b""
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"measure {name} failed")
    return time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, json.loads(output)


def check_truths(found: Any, truth: Any) -> None:  # noqa: ANN401 # the JSON of reports, and of the truths
    """Print how many of the known truths lie in their 95% intervals."""
    inside = []

    def add(name: str, value: float, effect: dict[str, float]) -> None:
        if "low" in effect:
            inside.append((name, effect["low"] <= value <= effect["high"]))

    add("orders ahead", truth["orders_ahead"], found["clv"]["expected_orders"])
    add("nps", truth["nps"], next(row["score"] for row in found["satisfaction"]["scores"] if row["by"] == "all"))
    add("holdout", truth["holdout"], found["channels"]["holdout"])
    for row in found["attribution"]["causal"]:
        add(
            f"credit {row['offer']} {row['channel']}",
            truth["credit"][f"{row['offer']} on {row['channel']}"],
            row["money"],
        )
    for row in found["programme"]["effects"]:
        if row["experiment"] in truth["experiments"]:
            add(row["experiment"], truth["experiments"][row["experiment"]], row["measured"])
    missed = [name for name, is_inside in inside if not is_inside]
    print(f"{len(inside) - len(missed)} of {len(inside)} truths lie in their 95% intervals; missed: {missed}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--customers", type=int, default=100_000)
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--alone", action="store_true", help="refresh each report in a process of its own too")
    asked = parser.parse_args()
    if not (CACHE / "truth.json").exists():
        script = [sys.executable, "-m", "loadtests.year_shop", str(CACHE)]
        subprocess.run([*script, "--customers", str(asked.customers), "--events", str(asked.events)], check=True)
    log, aside = CACHE / "log", CACHE / "aside"
    shutil.rmtree(log / PARTIALS_FOLDER, ignore_errors=True)
    shutil.rmtree(aside, ignore_errors=True)
    moved = {table: max((log / table).glob("day=*")) for table in ("events", "decisions", "exposures")}
    for table, day in moved.items():
        (aside / table).mkdir(parents=True)
        day.rename(aside / table / day.name)
    kept, stored = CACHE / "stored", log / PARTIALS_FOLDER
    try:
        cold = run("all", log)
    finally:
        for table, day in moved.items():
            (aside / table / day.name).rename(day)
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(stored, kept)
    refreshed = {"all": run("all", log)}
    for name in REPORTS if asked.alone else ():
        if name != "all":
            shutil.rmtree(stored)
            shutil.copytree(kept, stored)
            refreshed[name] = run(name, log)
    print(f"{'':24}{'s wall':>8}{'s CPU':>8}{'MB':>7}")
    for name, (wall, cpu, memory, _) in {"all, nothing stored": cold, **refreshed}.items():
        label = f"{name}, one more day" if name in refreshed else name
        print(f"{label:24}{wall:8.1f}{cpu:8.1f}{memory:7.0f}")
    check_truths(refreshed["all"][3], json.loads((CACHE / "truth.json").read_text()))
    longest = max(one[1] for one in refreshed.values())
    met = cold[1] / 2 <= TOGETHER and longest <= REFRESH and max(cold[2], refreshed["all"][2]) <= MEMORY
    print(
        f"{'meets' if met else 'MISSES'} the budgets: {TOGETHER:.0f} s for all (half of the CPU: {cold[1] / 2:.0f}), "
        f"{MEMORY:.0f} MB, {REFRESH:.0f} s of CPU for a refresh (longest: {longest:.1f})"
    )
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())

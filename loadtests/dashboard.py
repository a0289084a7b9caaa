"""Times every page of the dashboard beside a large log: `python -m loadtests.dashboard [EXPERIMENTS] [EXPOSURES]`.

Writes a shop of many experiments and a log of as many exposures as asked for into a temporary folder, starts the store
and the dashboard on it, opens every page once so that its figures are computed, and prints the server time and the size
of each page, while reports are computed. Exits with 1 if a page takes 300 ms or has 200 kB.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from engine import embedded
from engine.customer import CustomerIds, Profile
from engine.dashboard.board.measure_names import MEASURES
from engine.decision.decision import Availability, DecideRequest
from engine.journal import traces
from engine.processes import counterpoint_command

SHOP = Path(__file__).resolve().parents[1] / "experiments"
ROWS = 500_000
"""Rows of one file of the log."""
PAGES = ("/", "/experiments", "/experiments?page=3", "/experiments/e7", "/experiments/e7?by=loyalty.tier")
PAGES += ("/experiments/checkout.v2", "/experiments/checkout.v2%23de", "/bandits", "/bandits/home_hero", "/offers")
PAGES += ("/offers/home_hero", "/moments", "/customers", "/customers/u-42", "/timeline?id=u-42", "/measure")
PAGES += tuple(f"/measure/{name}" for name in MEASURES)
PAGES += ("/power", "/live", "/audit", "/editor", "/editor?key=e7", "/login")
RULE = "checkout.v2#de"
"""An experiment that is a rule of a flag, in the log in the place of `e0`."""
MOST_MS, MOST_KB, MOST_SECONDS = 300, 200, 1_500.0
TIMES = 15
TIME = pa.timestamp("us", tz="UTC")


def write_shop(folder: Path, count: int) -> None:
    """The shop of the repository with `count` experiments more."""
    shutil.copytree(SHOP, folder)
    base = yaml.safe_load((SHOP / "checkout_layout.yaml").read_text())
    del base["layer"], base["force"]
    for number in range(count):
        (folder / f"e{number}.yaml").write_text(yaml.safe_dump(base | {"key": f"e{number}"}))
    weighed = [{"key": key, "weight": 0.5} for key in ("control", "one_page")]
    rule = {"key": "de", "audience": {"country": "DE"}, "variants": weighed, "metrics": {"primary": "conversion"}}
    flag = {"key": "checkout.v2", "kind": "flag", "type": "string", "rules": [rule], "default": "control"}
    (folder / "checkout.v2.yaml").write_text(yaml.safe_dump(flag))


def write_log(folder: Path, experiments: int, exposures: int) -> None:
    """Decisions, exposures and events of 30 days; files of `ROWS` rows."""
    chance, now = np.random.default_rng(7), time.time()
    seen = _make_traces(now)
    for part in range(-(-exposures // ROWS)):
        size = min(ROWS, exposures - part * ROWS)
        ids = np.arange(part * ROWS, part * ROWS + size)
        times = now - (30 - 30 * part * ROWS / exposures) * 86_400 + np.arange(size) * 0.1
        stamps = pa.array((times * 1e6).astype("int64"), TIME)
        customers = pa.array([f"u-{one}" for one in ids // experiments])
        decisions = pa.array([f"{int(t * 1000):012x}-{one}" for t, one in zip(times, ids, strict=True)])
        keys = pa.array([f"e{one}" if one else RULE for one in ids % experiments])
        variants = pa.array(np.where(chance.random(size) < 0.5, "control", "one_page"))
        day = f"day={time.strftime('%Y-%m-%d', time.gmtime(times[0]))}"
        same = {"decision_id": decisions, "time": stamps, "customer": customers, "key": keys}
        decided = same | {
            name: pa.array([value] * size, kind)
            for name, value, kind in (
                ("device", None, pa.string()),
                ("channel", "web", pa.string()),
                ("kind", "experiment", pa.string()),
                ("reason", "assigned", pa.string()),
                ("propensity", 0.5, pa.float64()),
                ("candidates", [], pa.list_(pa.string())),
                ("context", "{}", pa.string()),
                ("plan", "p1", pa.string()),
                ("policy", None, pa.string()),
                ("crossover", False, pa.bool_()),
                ("version", "", pa.string()),
            )
        }
        decided["trace"] = pa.array([seen[one % len(seen)] for one in range(size)], pa.binary())
        _write(folder / "decisions" / day, part, decided | {"variant": variants})
        _write(folder / "exposures" / day, part, same)
        bought = chance.random(size) < 0.02
        events = {
            "message_id": decisions.filter(pa.array(bought)),
            "time": stamps.filter(pa.array(bought)),
            "received": stamps.filter(pa.array(bought)),
            "customer": customers.filter(pa.array(bought)),
            "event": pa.array(["purchase"] * int(bought.sum())),
            "decision_id": decisions.filter(pa.array(bought)),
            "channel": pa.array(["web"] * int(bought.sum())),
            "revenue": pa.array(chance.lognormal(2.6, 0.5, int(bought.sum()))),
            "properties": pa.array(["{}"] * int(bought.sum())),
        }
        _write(folder / "events" / day, part, events)
    (folder / ".checkpoint.json").write_text("{}")


def _make_traces(now: float) -> list[bytes]:
    """Traces of 500 customers, from which the editor takes its sample."""
    return [
        traces.encode_trace(
            traces.Trace(
                now=now,
                request=DecideRequest(
                    customer=CustomerIds(user_id=f"u-{one}"), channel="web", placements=["home_hero"]
                ),
                profile=Profile(id=f"u-{one}", unit=f"u-{one}"),
                availability=Availability(),
            )
        )
        for one in range(500)
    ]


def _write(folder: Path, part: int, columns: dict[str, pa.Array]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), folder / f"{part}.parquet")


def await_reports(client: httpx.Client) -> float:
    """Open every page until all have their figures; returns the seconds needed."""
    began = time.monotonic()
    while time.monotonic() - began < MOST_SECONDS:
        if not [path for path in PAGES if "data-waits" in client.get(path).text]:
            return time.monotonic() - began
        time.sleep(2)
    waits = [path for path in PAGES if "data-waits" in client.get(path).text]
    raise SystemExit(f"no figures after {MOST_SECONDS:.0f} s: {', '.join(waits)}")


def measure(base: str) -> bool:
    """Print each page's median and worst server time and size; returns whether all are within the limits."""
    is_well = True
    with httpx.Client(base_url=base, timeout=60) as client:
        print(f"all figures were computed after {await_reports(client):.0f} s", flush=True)
        print(f"{'page':32} {'median':>8} {'worst':>8} {'size':>8}")
        for path in PAGES:
            spent = []
            for _ in range(TIMES):
                began = time.perf_counter()
                answer = client.get(path)
                spent.append(1000 * (time.perf_counter() - began))
            size, worst, median = len(answer.content) / 1000, max(spent), sorted(spent)[TIMES // 2]
            is_well = is_well and answer.status_code == 200 and median < MOST_MS and size < MOST_KB
            print(f"{path:32} {median:5.0f} ms {worst:5.0f} ms {size:5.0f} kB", flush=True)
    print(f"every page under {MOST_MS} ms and {MOST_KB} kB: {'yes' if is_well else 'NO'}")
    return is_well


def main(experiments: int = 200, exposures: int = 10_000_000) -> int:
    """Make the shop and its log, start the dashboard, measure."""
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        write_shop(root / "experiments", experiments)
        write_log(root / "data" / "log", experiments, exposures)
        print(f"{experiments} experiments, {exposures:,} exposures", flush=True)
        with embedded.running(root / "store") as store:
            command = counterpoint_command("dashboard", "--port", "18499", "--redis", store.url)
            folders = ["--data", str(root / "data"), "--experiments", str(root / "experiments")]
            process = subprocess.Popen([*command, *folders], env=os.environ)
            try:
                base = "http://127.0.0.1:18499"
                for _ in range(120):
                    try:
                        httpx.get(base, timeout=60)
                        break
                    except httpx.HTTPError:
                        time.sleep(0.5)
                return 0 if measure(base) else 1
            finally:
                process.terminate()
                process.wait(20)


if __name__ == "__main__":
    sys.exit(main(*(int(one) for one in sys.argv[1:])))

"""Times every page of the dashboard beside a large log: `python -m loadtests.dashboard [EXPERIMENTS] [EXPOSURES]`.

Writes a shop of many experiments and a log of as many exposures as asked for into a temporary folder, starts the store
and the dashboard on it, opens every page once so that its figures are computed, and prints the server time and the size
of each page, while reports are computed.
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
from engine.decision.decision import Availability, DecideRequest
from engine.journal import traces
from engine.processes import counterpoint_command

SHOP = Path(__file__).resolve().parents[1] / "experiments"
ROWS = 500_000
"""Rows of one file of the log."""
PAGES = ("/", "/experiments", "/experiments?page=3", "/experiments/e7", "/bandits", "/bandits/home_hero", "/offers")
PAGES += ("/offers/home_hero", "/moments", "/customers/u-42", "/timeline?id=u-42", "/measure", "/measure/channels")
PAGES += ("/power", "/live", "/audit", "/editor?key=e7")
TIMES = 15
TIME = pa.timestamp("us", tz="UTC")


def write_shop(folder: Path, count: int) -> None:
    """The shop of the repository with `count` experiments more."""
    shutil.copytree(SHOP, folder)
    base = yaml.safe_load((SHOP / "checkout_layout.yaml").read_text())
    del base["layer"], base["force"]
    for number in range(count):
        (folder / f"e{number}.yaml").write_text(yaml.safe_dump(base | {"key": f"e{number}"}))


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
        keys = pa.array([f"e{one}" for one in ids % experiments])
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


def measure(base: str) -> None:
    """Print the median and the worst server time and the size of each page."""
    print(f"{'page':28} {'median':>8} {'worst':>8} {'size':>8}")
    with httpx.Client(base_url=base, timeout=60) as client:
        for path in PAGES:
            client.get(path)
            spent = []
            for _ in range(TIMES):
                began = time.perf_counter()
                answer = client.get(path)
                spent.append(1000 * (time.perf_counter() - began))
            size = len(answer.content) / 1000
            print(f"{path:28} {sorted(spent)[TIMES // 2]:5.0f} ms {max(spent):5.0f} ms {size:5.0f} kB", flush=True)


def main(experiments: int = 200, exposures: int = 10_000_000) -> None:
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
                measure(base)
            finally:
                process.terminate()
                process.wait(20)


if __name__ == "__main__":
    main(*(int(one) for one in sys.argv[1:]))

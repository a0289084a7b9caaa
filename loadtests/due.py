"""A campaign's day of 100,000 customers on three channels, killed twice: checks the draws and the messages.

`make due` runs it. E-mails go out as a file, whose run is killed;
messages of the app are asked for over HTTP, whose server is killed; letters have a capacity per minute.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import httpx
import msgspec
import pyarrow.parquet as pq
import yaml

from engine import embedded
from engine.catalog.spec.offer import WEEKDAYS
from engine.service.access.listener import listen

CUSTOMERS = int(os.environ.get("CUSTOMERS", "100000"))
BATCH = 500
LETTERS = max(10, CUSTOMERS // 16)
"""The capacity of letters, per minute."""
PAGE = max(10, CUSTOMERS // 200)
CHANNELS = ("email", "app", "letter")


def write_shop(folder: Path) -> Path:
    """The shop: one offer on three outbound channels, one message a day at most, quiet hours of the app in Asia."""
    night = datetime.now(UTC) + timedelta(hours=9)  # by the clock of Tokyo
    quiet = {"from": f"{(night - timedelta(hours=2)):%H:00}", "to": f"{(night + timedelta(hours=3)):%H:00}"}
    cap = {"count": 1, "per": "1d", "scope": "customer"}
    coffee = {one: {"text": "Coffee"} for one in CHANNELS}
    offer = {"key": "coffee", "purpose": "marketing", "caps": [cap], "renderings": coffee}
    banner = {"key": "banner", "renderings": {one: {"text": "Hello"} for one in CHANNELS}}
    files: Mapping[str, object] = {
        "offers/coffee.yaml": offer,
        "offers/banner.yaml": banner,
        "message.yaml": {
            "key": "message",
            "placement": "message",
            "offers": ["coffee"],
            "policy": {"kind": "uniform"},
            "reward": {"metric": "click"},
            "fallback": "banner",
        },
        "metrics.yaml": {"metrics": [{"key": "click", "kind": "proportion", "event": "click"}]},
        "channels.yaml": {
            "channels": [
                {"key": "email", "outbound": True},
                {"key": "app", "outbound": True, "quiet": quiet | {"zone": "customer"}},
                {"key": "letter", "outbound": True, "capacity": f"{LETTERS}/m"},
            ],
            "placements": [{"key": "message", "channels": list(CHANNELS)}],
        },
        "campaigns.yaml": {
            "campaigns": [
                {
                    "key": "daily",
                    "schedule": {"days": list(WEEKDAYS), "at": ["00:00"]},
                    "channels": [{"channel": one, "placement": "message"} for one in CHANNELS],
                    "purpose": "marketing",
                    "policy": {"kind": "uniform"},
                    "reward": {"metric": "click", "window": "7d"},
                }
            ]
        },
    }
    for name, value in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(value), encoding="utf-8")
    return folder


class Shop:
    """A folder, a store, and the commands of the shop on them."""

    def __init__(self, place: Path, redis: str, port: int) -> None:
        self.place = place
        self.base = f"http://127.0.0.1:{port}"
        self._port = port
        self._words = ["--data", str(place / "data"), "--redis", redis]
        self._shop = ["--experiments", str(write_shop(place / "experiments"))]

    def start(self, verb: str, *words: str) -> "subprocess.Popen[bytes]":
        """Start a verb of the command line."""
        shop = [] if verb == "collect" else self._shop
        with (self.place / f"{verb}.log").open("ab") as log:
            command = [sys.executable, "-m", "engine", verb, *words, *self._words, *shop]
            return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)

    def run(self, verb: str, *words: str) -> bytes:
        """The output of a verb, once it has ended."""
        process = self.start(verb, *words)
        printed, _ = process.communicate()
        if process.returncode != 0:
            raise SystemExit(f"{verb} failed: {(self.place / f'{verb}.log').read_text()[-2000:]}")
        return printed

    @contextmanager
    def serving(self) -> Iterator["subprocess.Popen[bytes]"]:
        """Run a decision server until the block ends."""
        server = self.start("serve", "--port", str(self._port))
        try:
            while True:
                try:
                    httpx.get(f"{self.base}/healthz").raise_for_status()
                    break
                except httpx.HTTPError:
                    time.sleep(0.1)
            yield server
        finally:
            server.terminate()
            server.wait()


def load(shop: Shop) -> None:
    """Send everyone's identity and consent."""
    with httpx.Client(base_url=shop.base, timeout=120) as client:
        for start in range(0, CUSTOMERS, BATCH):
            batch: list[dict[str, object]] = []
            for n in range(start, min(start + BATCH, CUSTOMERS)):
                zone = "Asia/Tokyo" if n % 5 == 0 else "Europe/Berlin"
                who = {"user_id": f"u-{n:06}"}
                batch.append({"type": "identify", "message_id": f"i-{n}", "traits": {"timezone": zone}, **who})
                consent = {"event": "consent_given", "properties": {"purpose": "marketing"}}
                batch.append({"type": "track", "message_id": f"c-{n}", **who, **consent})
            answer = client.post("/v1/events", json={"batch": batch}).raise_for_status().json()
            if any(one["status"] != "accepted" for one in answer["statuses"]):
                raise SystemExit(f"not all events were accepted: {answer['statuses'][:3]}")


def write_emails(shop: Shop, out: Path) -> int:
    """The file of e-mails, whose first run is killed after some parts."""
    words = ("due", "--channel", "email", "--out", str(out), "--part", str(max(1, CUSTOMERS // 100)))
    first = shop.start(*words)
    parts = out.with_name(f"{out.name}.parts")
    while len(list(parts.glob("*.parquet"))) < 7 and first.poll() is None:
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    first.wait()
    print(f"e-mail: killed with {len(list(parts.glob('*.parquet')))} parts written")
    shop.run(*words)
    return pq.read_metadata(out).num_rows


def ask_for_app(shop: Shop) -> int:
    """Fetch messages over HTTP and confirm them; the server is killed with an unconfirmed page handed out."""
    sent, pages = 0, 0
    with ExitStack() as stack:
        server = stack.enter_context(shop.serving())
        while True:
            answer = httpx.get(f"{shop.base}/v1/due", params={"channel": "app", "limit": PAGE, "lease": 20}, timeout=60)
            found = answer.raise_for_status().json()
            pages += 1
            if pages == 12:
                server.kill()
                server.wait()
                print(f"app: killed the server with {len(found['items'])} messages handed out and not confirmed")
                server = stack.enter_context(shop.serving())
                continue
            ids = [item["decision_id"] for item in found["items"]]
            if ids:
                results = httpx.post(f"{shop.base}/v1/due/confirm", json={"sent": ids}, timeout=60).json()["results"]
                sent += sum(result == "sent" for result in results.values())
            if not found["more"] and not ids:
                break
        time.sleep(21)  # the lost leases return
        last = httpx.get(f"{shop.base}/v1/due", params={"channel": "app", "limit": 1000}, timeout=60).json()
        ids = [item["decision_id"] for item in last["items"]]
        confirmed = httpx.post(f"{shop.base}/v1/due/confirm", json={"sent": ids}, timeout=60).json()["results"]
        print(f"app: {len(ids)} returned when their lease ended")
    return sent + sum(result == "sent" for result in confirmed.values())


def write_letters(shop: Shop) -> list[Path]:
    """Write files of letters one after another, each as large as the capacity allows."""
    files: list[Path] = []
    while True:
        out = shop.place / f"letters-{len(files)}.parquet"
        files.append(out)
        summary = msgspec.json.decode(shop.run("due", "--channel", "letter", "--out", str(out), "--json"))
        if summary["messages"] == 0 and summary["left"] == LETTERS:
            return files  # nothing was taken for a minute, and nothing waits
        time.sleep(10)


def report(shop: Shop, letters: list[Path]) -> bool:
    """Compare the log's draws with its exposures, and the letters with their capacity."""
    shop.run("collect", "--drain")
    log = shop.place / "data/log"

    def rows(sql: str) -> list[tuple[object, ...]]:
        tables = {name: f"read_parquet('{log}/{name}/**/*.parquet')" for name in ("decisions", "exposures")}
        return duckdb.sql(sql.format(**tables)).fetchall()

    drawn = dict(rows("SELECT customer, variant FROM {decisions} WHERE key = 'daily'"))
    twice = rows(
        "SELECT count(*) FROM (SELECT 1 FROM {decisions} WHERE key = 'daily' GROUP BY customer HAVING count(*) > 1)"
    )
    exposed = rows(
        "SELECT d.customer, d.channel, count(DISTINCT decision_id) FROM {exposures} e JOIN {decisions} d "
        "USING (decision_id, key) WHERE key = 'message' GROUP BY ALL"
    )
    counts = Counter(str(arm).partition("@")[0] for arm in drawn.values())
    sent = Counter(str(channel) for _, channel, _ in exposed)
    quiet = {f"u-{n:06}" for n in range(0, CUSTOMERS, 5)}
    waiting = [name for name, arm in drawn.items() if arm == "app@00:00" and name in quiet]
    forgotten = {name for name, arm in drawn.items() if arm != "silence"} - {name for name, _, _ in exposed}
    wrong = [name for name, channel, _ in exposed if not str(drawn[name]).startswith(f"{channel}@")]
    often = [name for name, times in Counter(name for name, _, _ in exposed).items() if times > 1]
    often += [name for name, _, times in exposed if times != 1]
    times = sorted(row["time"].timestamp() for file in letters for row in pq.read_table(file).to_pylist())
    most = max((bisect_left(times, at + 60) - n for n, at in enumerate(times)), default=0)
    print(f"drawn: {len(drawn):,} of {CUSTOMERS:,} customers, once each (twice: {twice[0][0]})")
    for arm, number in sorted(counts.items()):
        share = number / len(drawn)
        error = abs(share - 0.25) / (0.25 * 0.75 / len(drawn)) ** 0.5
        print(f"  {arm:8} {number:7,}  {share:.4f}, {error:.1f} standard errors from 1/4; sent {sent[arm]:,}")
    print(f"written to more than once: {len(often)}; on another channel than drawn: {len(wrong)}")
    in_quiet = len(forgotten & set(waiting))
    print(f"not written to: {len(forgotten):,}; {in_quiet:,} of them wait for the end of quiet hours")
    print(f"letters: {len(times):,}, at most {most:,} within 60 s; the capacity is {LETTERS:,} a minute")
    return (
        len(drawn) == CUSTOMERS
        and not twice[0][0]
        and not often
        and not wrong
        and forgotten == set(waiting)
        and most <= LETTERS
    )


def main() -> int:
    """Run the day and print its result; returns 1 if a promise was broken."""
    with tempfile.TemporaryDirectory() as folder, embedded.running(Path(folder) / "store") as store:
        with listen("127.0.0.1", 0) as free:
            port = free.getsockname()[1]
        shop = Shop(Path(folder), store.url, port)
        began = time.monotonic()
        with shop.serving():
            load(shop)
        print(f"{CUSTOMERS:,} customers sent their consent in {time.monotonic() - began:.0f} s")
        for name, step in (
            ("e-mail", lambda: write_emails(shop, shop.place / "email.parquet")),
            ("app", lambda: ask_for_app(shop)),
        ):
            began = time.monotonic()
            print(f"{name}: {step():,} sent in {time.monotonic() - began:.0f} s, planning included", flush=True)
        letters = write_letters(shop)
        return 0 if report(shop, letters) else 1


if __name__ == "__main__":
    sys.exit(main())

"""The learner's speed on a real Valkey: decisions with rewards per second, and the time from reward to snapshot.

    python loadtests/learn.py [--decisions N] [--window SECONDS]

Every decision is exposed; one in ten is clicked, the others become zeros. Records come at 200 decisions per second of
shop time and are learnt about a hundred times as fast, so settling and closing windows is part of the figure.
"""

import argparse
import asyncio
import random
import resource
import statistics
import tempfile
import threading
import time
from pathlib import Path

import msgspec

from engine import embedded
from engine.catalog import Plan, load_plan
from engine.journal import stream
from engine.journal.records import AnyRecord, DecisionRecord, DecisionRow, EventRecord, ExposureRecord, encode
from engine.journal.spool import ship, spool
from engine.learn import learn
from engine.settings import Settings
from engine.snapshots.follow import Follower
from engine.snapshots.publish import current_headers

ARMS = [f"offer{index}" for index in range(10)]
T0 = 1_790_000_000.0
FILES = {
    "channels.yaml": (
        "channels: [{key: web}]\nplacements: [{key: hero, channels: [web]}, {key: side, channels: [web]}]\n"
    ),
    "metrics.yaml": "metrics: [{key: click, kind: proportion, event: click}]\n",
    "hero.yaml": (
        "key: hero\nplacement: hero\noffers: {tagged: t}\nreward: {metric: click, window: WINDOWs, settle: 60s}\n"
        "policy: {kind: linear_thompson, "
        "features: [{trait: tier, range: [0, 3]}, hour, {trait: coffee, range: [0, 1]}]}\n"
        "fallback: plain\n"
    ),
    "side.yaml": (
        "key: side\nplacement: side\noffers: {tagged: t}\nreward: {metric: click, window: WINDOWs, settle: 60s}\n"
        "policy: {kind: beta_thompson}\nfallback: plain\n"
    ),
    "offers/plain.yaml": "key: plain\nrenderings: {web: {h: x}}\n",
} | {f"offers/{arm}.yaml": f"key: {arm}\ntags: [t]\nrenderings: {{web: {{h: x}}}}\n" for arm in ARMS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--decisions", type=int, default=100_000)
    parser.add_argument("--window", type=int, default=600)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as root, embedded.running(Path(root) / "valkey") as server:
        folder = Path(root) / "experiments"
        (folder / "offers").mkdir(parents=True)
        for name, text in FILES.items():
            (folder / name).write_text(text.replace("WINDOW", str(asked.window)))
        settings = Settings(experiments=folder, data=Path(root) / "data", redis=server.url)
        plan = load_plan(folder)
        throughput(settings, plan, asked.decisions)
        latency(msgspec.structs.replace(settings, data=Path(root) / "idle"), plan)


def throughput(settings: Settings, plan: Plan, decisions: int) -> None:
    sent = asyncio.run(fill(settings, decisions))
    # The spool stays with the servers: a learner reads spools only to drain them, which is no part of this figure.
    settings = msgspec.structs.replace(settings, data=settings.data / "learner")
    begun, cpu = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    learn(settings, lambda: plan, threading.Event(), once=True)
    seconds, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF)
    used = after.ru_utime + after.ru_stime - cpu.ru_utime - cpu.ru_stime
    with stream.connect_stream(settings.redis) as client:
        found = current_headers(client)
    print(f"{decisions} decisions, {sent} records: {seconds:.2f} s, {used:.2f} s CPU")
    print(
        f"{decisions / seconds:,.0f} decisions with their rewards a second ({used / decisions * 1e6:.1f} µs CPU each)"
    )
    print(f"peak memory {after.ru_maxrss / 1024:,.0f} MB; learnt { ({k: int(h.learnt) for k, h in found.items()}) }")


def latency(settings: Settings, plan: Plan, rounds: int = 40) -> None:
    with stream.connect_stream(settings.redis) as client:
        client.flushall()
    stop = threading.Event()
    thread = threading.Thread(target=learn, args=(settings, lambda: plan, stop))
    thread.start()
    took = asyncio.run(reward_to_snapshot(settings, plan, rounds))
    stop.set()
    thread.join()
    took.sort()
    print(
        f"reward in the spool to snapshot in a decision server: median {statistics.median(took) * 1e3:.0f} ms, "
        f"greatest of {rounds} {took[-1] * 1e3:.0f} ms"
    )


async def fill(settings: Settings, decisions: int) -> int:
    kept = spool.Spool(settings.spool)
    draw = random.Random(7)
    sent = 0
    batch: list[tuple[bytes, int]] = []
    for index in range(decisions):
        customer = f"u{draw.randrange(decisions // 10)}"
        partition = spool.partition_of(customer, settings.partitions)
        batch += [(encode(record), partition) for record in journey(index, customer, T0 + index / 200, draw)]
        if len(batch) > 500 or index == decisions - 1:
            kept.append_many(batch)
            sent += len(batch)
            batch.clear()
    shipment = ship.Shipment(kept.path)
    async with ship.connect_shipper(settings.redis) as client:
        while await shipment.step(client):
            pass
    kept.close()
    return sent


def journey(index: int, customer: str, now: float, draw: random.Random) -> list[AnyRecord]:
    id_ = f"{int(now * 1000):012x}{draw.getrandbits(80):020x}"
    key = "hero" if index % 2 else "side"
    context: dict[str, str | float | bool | None] = {}
    if key == "hero":
        context = {"tier": draw.randrange(4), "hour": draw.random() * 24, "coffee": draw.random()}
    row = DecisionRow("offer", key, draw.choice(ARMS), "policy", 0.1, ARMS, context, f"{key}@3")
    made: list[AnyRecord] = [
        DecisionRecord(id_, now, customer, None, "web", "plan", [row], b"x" * 600),
        ExposureRecord(id_, now, customer, [key]),
    ]
    if draw.random() < 0.1:
        made.append(EventRecord(f"m{id_}", now + 5, now + 5, customer, "click", id_, "web", None, b"{}"))
    return made


async def reward_to_snapshot(settings: Settings, plan: Plan, rounds: int) -> list[float]:
    own = spool.Spool(settings.spool)
    shipper = ship.Shipper(own, settings.redis)
    follower = Follower(settings, lambda: plan)
    tasks = [asyncio.create_task(shipper.run()), asyncio.create_task(follower.run())]
    took = []
    draw = random.Random(8)
    for index in range(rounds):
        await asyncio.sleep(draw.random())
        decision, exposure = journey(0, "probe", time.time(), draw)[:2]
        if not isinstance(decision, DecisionRecord):
            raise TypeError(decision)
        click = EventRecord(
            f"p{index}", time.time(), time.time(), "probe", "click", decision.decision_id, "web", None, b"{}"
        )
        before = _version(follower)
        own.append_many([(encode(record), 0) for record in (decision, exposure, click)])
        begun = time.perf_counter()
        # A follower has no event to wait for: requests read its snapshots as they are.
        while _version(follower) == before:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.002)
        took.append(time.perf_counter() - begun)
    shipper.stop()
    tasks[1].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return took


def _version(follower: Follower) -> int:
    return follower.snapshots["side"].version if "side" in follower.snapshots else 0


if __name__ == "__main__":
    main()

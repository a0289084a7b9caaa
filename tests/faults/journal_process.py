"""The processes that the kill tests start and kill: a `writer` of decisions, a `collector` and a `compactor`."""

import asyncio
import os
import sys
import threading
import time
from pathlib import Path

from engine.erasure.listener import LogErasures
from engine.journal.log.collect import collect
from engine.journal.log.compact import compact
from engine.journal.records import DecisionRecord, DecisionRow, EventRecord, encode
from engine.journal.spool.ship import Shipper
from engine.journal.spool.spool import Spool, partition_of
from engine.settings import Settings


async def write(settings: Settings, answered: Path, name: str) -> None:
    spool = Spool(settings.spool, segment_bytes=200_000)
    shipper = Shipper(spool, settings.redis, interval=0.01, scan=0.2)
    shipping = asyncio.create_task(shipper.run())
    out = os.open(answered, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    number = 0
    while not shipping.done():
        records: list[tuple[bytes, int]] = []
        ids: list[str] = []
        for _ in range(1 + number % 7):
            number += 1
            ids.append(f"{name}-{number}")
            customer = f"u-{number % 97}"
            records.append((encode(decision(ids[-1], customer)), partition_of(customer, settings.partitions)))
            if number % 5 == 0:
                event = EventRecord(
                    f"m-{ids[-1]}", time.time(), time.time(), customer, "view", None, "web", None, b"{}"
                )
                records += [(encode(event), partition_of(customer, settings.partitions))] * 2
        spool.append_many(records)
        os.write(out, "".join(f"{identifier}\n" for identifier in ids).encode())
        await asyncio.sleep(0.001)


def decision(identifier: str, customer: str) -> DecisionRecord:
    rows = [
        DecisionRow("experiment", "layout", "one_page", "assigned", 1.0, version="1"),
        DecisionRow("offer", "hero", "coffee", "policy", 0.25, ["coffee", "tea"], {"hour": 7.0, "tier": "gold"}, "h@1"),
    ]
    return DecisionRecord(identifier, time.time(), customer, None, "web", "plan", rows, b"trace")


if __name__ == "__main__":
    role, data, url, name = sys.argv[1:]
    settings = Settings(data=Path(data), redis=url, partitions=3)
    if role == "writer":
        asyncio.run(write(settings, Path(data) / "answered", name))
    else:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        if role == "collector":
            collect(settings, LogErasures(), stop=threading.Event(), flush_seconds=0.02)
        while True:
            for directory in settings.log.glob("*/day=*"):
                compact(
                    settings.log,
                    "events" if directory.parent.name == "events" else "decisions",
                    directory.name.removeprefix("day="),
                )

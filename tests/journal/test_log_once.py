"""Each process logs an outage once at its start and once at its end."""

import asyncio
import re
import threading
import time
from pathlib import Path

import structlog
from redis.exceptions import BusyLoadingError
from redis.exceptions import ConnectionError as NoConnection
from redis.exceptions import TimeoutError as NoAnswer
from structlog.typing import EventDict

from engine import embedded
from engine.erasure.listener import LogErasures
from engine.errors import StoreUnavailable
from engine.journal.log.collect import collect
from engine.journal.log_once import LogOnce
from engine.journal.records import QuarantineRecord, encode
from engine.journal.spool.ship import Shipper
from engine.journal.spool.spool import Spool
from engine.settings import Settings


def test_an_outage_is_two_lines_and_each_further_cause_one_more() -> None:
    outage = LogOnce("it waits", "it goes on")
    with structlog.testing.capture_logs() as lines:
        outage.over()
        for error in (NoConnection("refused"), NoAnswer(), BusyLoadingError("loading"), StoreUnavailable("away")):
            outage.failed(error)
        for _ in range(3):
            outage.failed(OSError("disk full"))
        outage.over()
        outage.over()
        outage.failed(NoAnswer())
    logged = [(line["event"], line.get("error")) for line in lines]
    assert logged == [
        ("it waits", "refused"),
        ("it waits", "disk full"),
        ("it goes on", None),
        ("it waits", "TimeoutError"),
    ]
    assert re.fullmatch(r"\d+\.\d s", lines[2]["after"])


SHIPPING = ["the store refuses records; they wait in the spool", "the store takes records again"]
COLLECTING = ["cannot collect; records wait in the streams", "collecting again"]


def test_a_shipper_and_a_collector_log_the_start_and_end_of_an_outage(tmp_path: Path) -> None:
    stop, own = threading.Event(), Spool(tmp_path / "spool")

    async def run(lines: list[EventDict]) -> None:
        async def until(*events: str) -> None:
            async with asyncio.timeout(90):
                while not {line["event"] for line in lines} >= {*events}:
                    own.append(encode(QuarantineRecord(time.time(), "odd", "events", b"x")), 0)
                    await asyncio.sleep(0.02)

        store = embedded.start(tmp_path / "store")
        settings = Settings(data=tmp_path, redis=store.url)
        collector = threading.Thread(target=collect, args=(settings, LogErasures()), kwargs={"stop": stop})
        shipper = Shipper(own, store.url)
        collector.start()
        shipping = asyncio.create_task(shipper.run())
        try:
            store.stop()
            await until(SHIPPING[0], COLLECTING[0])
            store = embedded.start(tmp_path / "store", port=store.port)
            await until(SHIPPING[1], COLLECTING[1])
        finally:
            stop.set()
            shipper.stop()
            await shipping
            await asyncio.to_thread(collector.join)
            store.stop()

    with structlog.testing.capture_logs() as lines:
        asyncio.run(run(lines))
    for pair in (SHIPPING, COLLECTING):  # on a slow machine a time-out may add another outage, logged in turn
        logged = [line["event"] for line in lines if line["event"] in pair]
        assert logged == [pair[number % 2] for number in range(len(logged))]

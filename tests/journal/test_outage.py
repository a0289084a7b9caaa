"""A store that is away is told once by all who wait for it, and once when it is back."""

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


def test_one_outage_is_two_lines_and_another_cause_in_it_one_more() -> None:
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
    told = [(line["event"], line.get("error")) for line in lines]
    assert told == [
        ("it waits", "refused"),
        ("it waits", "disk full"),
        ("it goes on", None),
        ("it waits", "TimeoutError"),
    ]
    assert re.fullmatch(r"\d+\.\d s", lines[2]["after"])


SHIPPING = ["the store refuses records; they wait in the spool", "the store takes records again"]
COLLECTING = ["cannot collect; records wait in the streams", "collecting again"]


def test_a_shipper_and_a_collector_tell_when_the_store_is_away_and_when_it_is_back(tmp_path: Path) -> None:
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
    for pair in (SHIPPING, COLLECTING):  # a slow machine may time out once more, and is told so in turn
        told = [line["event"] for line in lines if line["event"] in pair]
        assert told == [pair[number % 2] for number in range(len(told))]

"""Repeats work in the store that a crash interrupted: merges of customers, and erasures up to *swept again*.

Every server runs both loops. Merges and erasures are idempotent, so servers need not agree on who does one.
"""

import asyncio
import time

import structlog

from engine.customers.model.events import EventJournal
from engine.customers.store import ProfileStore
from engine.erasure.profiles import DeleteElsewhere, finish_erasures
from engine.errors import CounterpointError
from engine.journal.log_once import LogOnce

MERGES_SECONDS = 60.0
"""Between two searches for unfinished merges."""
ERASURES_SECONDS = 2.0
"""Between two searches for unfinished erasures."""

log = structlog.get_logger(__name__)


async def recover_merges(store: ProfileStore, journal: EventJournal) -> None:
    """Complete unfinished merges until cancelled."""
    outage = LogOnce("cannot look for unfinished merges", "looking for unfinished merges again")
    while True:
        try:
            completed = await store.finish_merges(time.time(), journal)
        except CounterpointError as error:  # the store is away, or was written by a newer version
            outage.failed(error)
        else:
            outage.over()
            if completed:
                log.info("completed merges that a crash had interrupted", merges=completed)
        await asyncio.sleep(MERGES_SECONDS)


async def recover_erasures(store: ProfileStore, *also: DeleteElsewhere) -> None:
    """Complete unfinished erasures until cancelled; `also` as in `erase_profile`."""
    outage = LogOnce("cannot look for unfinished erasures", "looking for unfinished erasures again")
    while True:
        try:
            await finish_erasures(store, time.time(), *also)
            outage.over()
        except CounterpointError as error:
            outage.failed(error)
        await asyncio.sleep(ERASURES_SECONDS)

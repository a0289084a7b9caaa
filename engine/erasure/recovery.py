"""Finishes what a crash left half done in the store, merges of customers and erasures: at start, and again and again.

Several servers may, since doing it again is doing it once.
"""

import asyncio
import time

import structlog

from engine.customers.store import EventJournal, ProfileStore
from engine.erasure.profiles import Forget
from engine.erasure.profiles import finish_erasures as finish_begun
from engine.errors import CounterpointError
from engine.journal.log_once import LogOnce

MERGES_SECONDS = 60.0
ERASURES_SECONDS = 2.0

log = structlog.get_logger(__name__)


async def recover_merges(store: ProfileStore, journal: EventJournal) -> None:
    """Look for unfinished merges until cancelled."""
    outage = LogOnce("unfinished merges wait", "unfinished merges are looked for again")
    while True:
        try:
            done = await store.redo(time.time(), journal)
        except CounterpointError as error:  # the store is away, or was written by a newer version
            outage.failed(error)
        else:
            outage.over()
            if done:
                log.info("merges finished that a crash had cut short", merges=done)
        await asyncio.sleep(MERGES_SECONDS)


async def recover_erasures(store: ProfileStore, *also: Forget) -> None:
    """Look for erasures that may be unfinished until cancelled."""
    outage = LogOnce("unfinished erasures wait", "unfinished erasures are looked for again")
    while True:
        try:
            await finish_begun(store, time.time(), *also)
            outage.over()
        except CounterpointError as error:
            outage.failed(error)
        await asyncio.sleep(ERASURES_SECONDS)

"""Finishes the merges of customers that a crash left half done: when a server starts, and every minute."""

import asyncio
import time

import structlog

from engine.errors import CounterpointError
from engine.profiles.store import Journal, ProfileStore

EVERY_SECONDS = 60.0

log = structlog.get_logger(__name__)


async def finish_merges(store: ProfileStore, journal: Journal, every: float = EVERY_SECONDS) -> None:
    """Look for unfinished merges until cancelled; several servers may, since doing it again is doing it once."""
    while True:
        try:
            done = await store.redo(time.time(), journal)
        except CounterpointError as error:  # the store is away, or was written by a newer version
            log.warning("unfinished merges wait", error=str(error))
        else:
            if done:
                log.info("merges finished that a crash had cut short", merges=done)
        await asyncio.sleep(every)

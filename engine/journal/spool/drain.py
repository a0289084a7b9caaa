"""Waits until everything that this machine answered before the call is shipped or collected.

`collect --drain` and `learn --until-done` end only then. Spools whose process died are adopted and shipped here.
"""

import asyncio
import os
import time
from typing import Literal

from engine import keyspace
from engine.journal import stream
from engine.journal.spool import ship, spool
from engine.settings import Settings

PATIENCE = 30.0
"""Seconds without progress after which the rest is given up and reported."""


class Drain:
    """The records in this machine's spools at the start, until all of them are `shipped`, or `collected` as well."""

    def __init__(
        self,
        settings: Settings,
        client: stream.StreamClient,
        until: Literal["shipped", "collected"],
    ) -> None:
        self._root = settings.spool
        self._url = settings.redis
        self._client = client
        self._until = until
        self._adopted: list[tuple[ship.Shipment, int]] = []
        self._waiting = {path: spool.last_sequences(path) for path in spool.list_spools(self._root)}
        self._moved = time.monotonic()

    def done(self) -> bool:
        """Whether all records arrived, or none has for `PATIENCE`. Ships the spools that no process ships."""
        adopted = ship.adopt_spools(self._root)
        if adopted:
            self._adopted += adopted
            asyncio.run(ship.ship_spools(adopted, self._url))
        for path, last in list(self._waiting.items()):
            if all(self._reached(partition, path.name) >= seq for partition, seq in last.items()) or not path.exists():
                del self._waiting[path]
                self._moved = time.monotonic()
        return not self._waiting or time.monotonic() - self._moved > PATIENCE

    def finish(self) -> int:
        """Remove collected spools and release the others; returns the number of spools that still hold records.

        Raises:
            RedisError: if the store does not answer what is collected.
        """
        if self._adopted:
            asyncio.run(self._remove())
        return len(self._waiting)

    def close(self) -> None:
        """Release the adopted spools."""
        for _, lock in self._adopted:
            os.close(lock)
        self._adopted = []

    def _reached(self, partition: int, name: str) -> int:
        """The last sequence number of a spool that is shipped or collected."""
        return int(self._client.hget(getattr(keyspace.partition(partition), self._until), name) or 0)

    async def _remove(self) -> None:
        """Remove the adopted spools that are collected; release the others, also after an error."""
        try:
            async with ship.connect_shipper(self._url) as client:
                self._adopted = await ship.remove_collected(self._adopted, client)
        finally:
            self.close()

"""How one who empties the journal and ends knows that all that was answered before has come."""

import asyncio
import os
import time
from collections.abc import Collection
from typing import Literal

from engine import keyspace
from engine.journal import stream
from engine.journal.spool import ship, spool
from engine.settings import Settings

PATIENCE = 30.0  # s without any movement before what has not come is given up


class Drain:
    """What was in the spools of this machine at the beginning, until all of it is `shipped`, or `collected` too.

    Of all partitions, or of those `owned`.
    """

    def __init__(
        self,
        settings: Settings,
        client: stream.StreamClient,
        until: Literal["shipped", "collected"],
        owned: Collection[int] | None = None,
    ) -> None:
        self._root = settings.spool
        self._url = settings.redis
        self._client = client
        self._until = until
        self._adopted: list[tuple[ship.Shipment, int]] = []
        self._waiting = {
            path: {p: seq for p, seq in spool.last_sequences(path).items() if owned is None or p in owned}
            for path in spool.spools(self._root)
        }
        self._moved = time.monotonic()

    def done(self) -> bool:
        """Whether all has come, or nothing of it has moved for a while. Ships what no worker does."""
        adopted = ship.adopt(self._root)
        if adopted:
            self._adopted += adopted
            asyncio.run(ship.ship(adopted, self._url))
        for path, last in list(self._waiting.items()):
            if all(self._reached(partition, path.name) >= seq for partition, seq in last.items()) or not path.exists():
                del self._waiting[path]
                self._moved = time.monotonic()
        return not self._waiting or time.monotonic() - self._moved > PATIENCE

    def finish(self) -> int:
        """Remove the collected spools, let go of the others; how many spools still hold records that did not come.

        Raises:
            RedisError: if the store does not say what is collected.
        """
        if self._adopted:
            asyncio.run(self._remove())
        return len(self._waiting)

    def close(self) -> None:
        """Let go of the spools that no worker held."""
        for _, lock in self._adopted:
            os.close(lock)
        self._adopted = []

    def _reached(self, partition: int, name: str) -> int:
        return int(self._client.hget(getattr(keyspace.partition(partition), self._until), name) or 0)

    async def _remove(self) -> None:
        try:
            async with ship.connect(self._url) as client:
                self._adopted = await ship.remove_collected(self._adopted, client)
        finally:
            self.close()

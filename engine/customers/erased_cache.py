"""Digests of recently erased customers, so that no answer names one of them while the store is unreachable.

Invariants:
- The cache only grows. A digest is added within `SECONDS` of its announcement while the store answers.
- It stores digests of identifiers (`identifier_digest`), never the identifiers.
- The stream `ERASURES` carries announcements for 30 days (`ERASURES_LIFE`); a new process reads all of them.

Redis format: an entry of the stream has the field `who`, whitespace-separated digests of one customer's identifiers.
"""

import asyncio

import msgspec

from engine.customer import CustomerIds
from engine.customers.redis import keys
from engine.customers.redis.pipeline import RedisPipeline
from engine.errors import StoreUnavailable
from engine.hashing import identifier_digest
from engine.keyspace import ERASURES

SECONDS = 0.5
_PAGE = 1000


class ErasedCache:
    """The digests of erased identifiers that one process has read."""

    def __init__(self, pipeline: RedisPipeline) -> None:
        self._pipeline = pipeline
        self._since = b"0-0"
        self._digests: set[bytes] = set()

    async def run(self) -> None:
        """Reads announcements until the task is cancelled."""
        while True:
            if not await self.listen():
                await asyncio.sleep(SECONDS)

    async def listen(self) -> bool:
        """Reads the announcements since the last call; returns whether there may be more."""
        try:
            entries = await self._pipeline.send("XRANGE", ERASURES, b"(" + self._since, "+", "COUNT", _PAGE)
        except StoreUnavailable:
            return False
        for self._since, fields in msgspec.convert(entries or [], list[tuple[bytes, dict[bytes, bytes]]]):
            self._digests.update(fields.get(b"who", b"").split())
        return bool(entries)

    def names(self, ids: CustomerIds) -> bool:
        """Whether the strongest of `ids` was erased. Weaker ids do not count: a device may be another customer's."""
        return identifier_digest(keys.strongest_identifier(ids)).encode() in self._digests

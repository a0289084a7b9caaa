"""Who was erased lately, by identifier_digest, so that no record names them while the store that knows it is away."""

import asyncio

import msgspec

from engine.customer import CustomerIds
from engine.customers.redis import keys
from engine.customers.redis.pipeline import RedisPipeline
from engine.errors import StoreUnavailable
from engine.hashing import identifier_digest
from engine.keyspace import ERASURES

SECONDS = 0.5
_PIECE = 1000


class ErasedCache:
    """What one process heard of erasures; they are told for a month."""

    def __init__(self, pipeline: RedisPipeline) -> None:
        self._pipeline = pipeline
        self._since = b"0-0"
        self._digests: set[bytes] = set()

    async def run(self) -> None:
        """Listen for as long as the process decides."""
        while True:
            if not await self.listen():
                await asyncio.sleep(SECONDS)

    async def listen(self) -> bool:
        """Hear what was told since the last time; whether there may be more."""
        try:
            told = await self._pipeline.send("XRANGE", ERASURES, b"(" + self._since, "+", "COUNT", _PIECE)
        except StoreUnavailable:
            return False
        for self._since, said in msgspec.convert(told or [], list[tuple[bytes, dict[bytes, bytes]]]):
            self._digests.update(said[b"who"].split())
        return bool(told)

    def names(self, ids: CustomerIds) -> bool:
        """Whether they name somebody who was erased: the strongest does; a device may be another's too."""
        return identifier_digest(keys.strongest_identifier(ids)).encode() in self._digests

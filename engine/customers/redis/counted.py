"""Digests of counted messages, so that a message counts once for a customer within `seen_life`.

A digest is 64 bits of BLAKE2b. They are stored in three places, the newest first:

- in the profile, `Profile.marks`: up to `INLINE`, as long as there are no others;
- `keyspace.counted_messages`: up to `seen_limit`, newest last, read with the profile by every write;
- `keyspace.earlier_messages`: a sorted set of the rest, in hexadecimal, by the time at which each left the second. It
  is only asked for the digests of a batch, where the second is full, so it has no bound but time.
"""

import asyncio
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import NamedTuple, cast

import msgspec

from engine import keyspace
from engine.customers.redis.keys import ProfileKey
from engine.customers.redis.pipeline import RedisPipeline

MARK = 8
INLINE = 16
EarlierDigests = list[str | float]
"""Scores and hexadecimal digests in turn, as ZADD takes them."""


class StoredDigests(NamedTuple):
    """A customer's digests to store: in the profile or beside it, and those that are moved further."""

    marks: bytes
    seen: bytes
    leaving: bytes


def message_digest(message_id: str) -> bytes:
    """Returns the digest under which a counted message id is stored."""
    return blake2b(message_id.encode(), digest_size=MARK).digest()


def split_digests(blob: bytes) -> set[bytes]:
    """Returns the digests in a value."""
    return {blob[i : i + MARK] for i in range(0, len(blob), MARK)}


def place_digests(lately: bytes, seen: bytes, limit: int) -> StoredDigests:
    """Returns the storage of a profile's digests, with its newest and those `seen` before."""
    if not seen and len(lately) <= INLINE * MARK:
        return StoredDigests(b"".join(sorted(lately[i : i + MARK] for i in range(0, len(lately), MARK))), b"", b"")
    every = seen + lately
    return StoredDigests(b"", every[-MARK * limit :], every[: -MARK * limit])


def is_full(seen: bytes, limit: int) -> bool:
    """Whether digests may have left the second place."""
    return len(seen) >= MARK * limit


def encode_earlier(leaving: bytes, of_sources: Iterable[EarlierDigests], now: float) -> bytes:
    """Encodes digests that leave the second place `now`, and those of merged customers; empty if there are none."""
    pairs: EarlierDigests = [part for found in of_sources for part in found]
    for i in range(0, len(leaving), MARK):
        pairs += [now, leaving[i : i + MARK].hex()]
    return msgspec.msgpack.encode(pairs) if pairs else b""


async def find_earlier(pipeline: RedisPipeline, key: ProfileKey, digests: Sequence[bytes]) -> set[bytes]:
    """Returns those of the digests that left the second place of a customer.

    Raises:
        StoreUnavailable: if Redis does not answer in time.
    """
    if not digests:
        return set()
    names = [digest.hex() for digest in digests]
    reply = await pipeline.send("ZMSCORE", keyspace.earlier_messages(key), *names)
    scores = cast("Sequence[object]", reply)
    return {digest for digest, score in zip(digests, scores, strict=True) if score is not None}


async def read_earlier(pipeline: RedisPipeline, keys: Sequence[ProfileKey]) -> dict[ProfileKey, EarlierDigests]:
    """Returns all digests that left the second place of these customers; errors as in `find_earlier`."""

    async def read(key: ProfileKey) -> EarlierDigests:
        reply = await pipeline.send("ZRANGE", keyspace.earlier_messages(key), 0, -1, "WITHSCORES")
        found: EarlierDigests = []
        parts = cast("Sequence[object]", reply)
        # The third version of the protocol nests each pair, the second does not.
        pairs = parts if not parts or isinstance(parts[0], list) else list(zip(parts[::2], parts[1::2], strict=True))
        for name, score in cast("Sequence[tuple[bytes, bytes | float]]", pairs):
            found += [float(score), name.decode() if isinstance(name, bytes) else str(name)]
        return found

    return dict(zip(keys, await asyncio.gather(*map(read, keys)), strict=True))

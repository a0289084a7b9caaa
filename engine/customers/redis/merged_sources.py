"""Reads data stored beside merging profiles. Those profiles are frozen, so one read is final."""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from engine.customers.redis.archived import read_members_of
from engine.customers.redis.counted import EarlierDigests, read_earlier
from engine.customers.redis.counts import read_counts
from engine.customers.redis.keys import ProfileKey
from engine.customers.redis.pipeline import RedisPipeline


class SourceValues(NamedTuple):
    """The values by source, if it has any: encoded counters, archived identifiers, and earlier digests."""

    counts: dict[ProfileKey, bytes]
    members: dict[ProfileKey, list[bytes]]
    earlier: dict[ProfileKey, EarlierDigests]


async def read_source_values(
    pipeline: RedisPipeline, sources: Sequence[ProfileKey], full: Sequence[ProfileKey]
) -> SourceValues:
    """Reads the values of sources; those in `full` may have earlier digests.

    Raises:
        StoreUnavailable: if Redis does not answer in time.
    """
    read = (read_counts(pipeline, sources), read_members_of(pipeline, sources), read_earlier(pipeline, full))
    return SourceValues(*await asyncio.gather(*read))

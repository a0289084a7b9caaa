"""Finds merges that a crash interrupted; `ProfileStore.finish_merges` completes them."""

from engine.catalog.spec.profile_rules import ProfileRules
from engine.customers.redis.keys import ProfileKey
from engine.customers.redis.lookup import as_mapping, read_entries
from engine.customers.redis.pipeline import RedisPipeline
from engine.customers.redis.stored_entry import FrozenProfile, Tombstone
from engine.customers.redis.tombstones import write_tombstone
from engine.errors import UnreadableValueError
from engine.keyspace import UNFINISHED_MERGES


async def read_begun_merges(pipeline: RedisPipeline) -> dict[ProfileKey, ProfileKey]:
    """Returns source key -> target key of the merges that began and are not confirmed as complete."""
    merges = as_mapping(await pipeline.send("HGETALL", UNFINISHED_MERGES))
    return {source.decode(): target.decode() for source, target in merges.items()}


async def find_unfinished_merges(
    pipeline: RedisPipeline, rules: ProfileRules
) -> list[tuple[ProfileKey, FrozenProfile]]:
    """Returns the merges to repeat. Drops notes of completed ones, and erases sources whose target was erased."""
    found: list[tuple[ProfileKey, FrozenProfile]] = []
    for source, target in (await read_begun_merges(pipeline)).items():
        try:
            entries = await read_entries(pipeline, [source, target])
        except UnreadableValueError:  # it stays as it is, and the merges after it are finished
            continue
        entry = entries[source]
        if isinstance(entry, FrozenProfile) and not isinstance(entries[target], Tombstone):
            found.append((source, entry))
            continue
        if isinstance(entry, FrozenProfile):
            await write_tombstone(pipeline, source, b"M" + target.encode(), rules)
        await pipeline.send("HDEL", UNFINISHED_MERGES, source)
    return found

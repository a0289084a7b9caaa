"""Merges that a crash left half done: found here, finished by `ProfileStore.redo`."""

from engine.catalog.spec.profile_rules import ProfileRules
from engine.customers.redis.keys import ProfileKey
from engine.customers.redis.lookup import as_mapping, read_entries
from engine.customers.redis.pipeline import RedisPipeline
from engine.customers.redis.stored_entry import FrozenProfile, Tombstone
from engine.customers.redis.tombstones import write_tombstone
from engine.keyspace import UNFINISHED_MERGES


async def read_begun_merges(pipeline: RedisPipeline) -> dict[ProfileKey, ProfileKey]:
    """Visitors whose merge into a customer was begun and not seen to end."""
    merges = as_mapping(await pipeline.send("HGETALL", UNFINISHED_MERGES))
    return {source.decode(): target.decode() for source, target in merges.items()}


async def find_unfinished_merges(
    pipeline: RedisPipeline, rules: ProfileRules
) -> list[tuple[ProfileKey, FrozenProfile]]:
    """The merges to do again. Those that ended are forgotten, those into an erased customer are erased."""
    found: list[tuple[ProfileKey, FrozenProfile]] = []
    for source, target in (await read_begun_merges(pipeline)).items():
        entries = await read_entries(pipeline, [source, target])
        entry = entries[source]
        if isinstance(entry, FrozenProfile) and not isinstance(entries[target], Tombstone):
            found.append((source, entry))
            continue
        if isinstance(entry, FrozenProfile):
            await write_tombstone(pipeline, source, b"M" + target.encode(), rules)
        await pipeline.send("HDEL", UNFINISHED_MERGES, source)
    return found

"""Merges that a crash left half done: found here, finished by `ProfileStore.redo`."""

from engine.catalog.spec.profile_rules import ProfileRules
from engine.customers.redis.keys import Key
from engine.customers.redis.lookup import mapping_of, read_entries
from engine.customers.redis.pipeline import Wire
from engine.customers.redis.stored_entry import Frozen, Gone
from engine.customers.redis.tombstones import lay_tombstone
from engine.keyspace import UNFINISHED_MERGES


async def begun_merges(wire: Wire) -> dict[Key, Key]:
    """Visitors whose merge into a customer was begun and not seen to end."""
    merges = mapping_of(await wire.send("HGETALL", UNFINISHED_MERGES))
    return {source.decode(): target.decode() for source, target in merges.items()}


async def unfinished_merges(wire: Wire, rules: ProfileRules) -> list[tuple[Key, Frozen]]:
    """The merges to do again. Those that ended are forgotten, those into an erased customer are erased."""
    found: list[tuple[Key, Frozen]] = []
    for source, target in (await begun_merges(wire)).items():
        entries = await read_entries(wire, [source, target])
        entry = entries[source]
        if isinstance(entry, Frozen) and not isinstance(entries[target], Gone):
            found.append((source, entry))
            continue
        if isinstance(entry, Frozen):
            await lay_tombstone(wire, source, b"M" + target.encode(), rules)
        await wire.send("HDEL", UNFINISHED_MERGES, source)
    return found

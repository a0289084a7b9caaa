"""Lays the tombstone that an erased customer, or a visitor merged into one, leaves under each identifier."""

from pathlib import Path

from engine import keyspace
from engine.catalog.spec.profile_rules import ProfileRules
from engine.customers.redis.keys import Key
from engine.customers.redis.pipeline import Reply, Wire, script
from engine.customers.redis.stored_entry import TOMBSTONE

_ERASE = script(Path(__file__).with_name("erase.lua"))


async def lay_tombstone(wire: Wire, key: Key, over: bytes, rules: ProfileRules) -> Reply:
    """Replace the entry at `key`, if it begins with `over`, by a tombstone; truthy where it did."""
    names = (keyspace.profile(key), keyspace.counted_messages(key), keyspace.counters(key))
    return await wire.call(_ERASE, names, (over, TOMBSTONE, int(rules.tombstone_life * 1000)))

"""Writes the tombstones of an erased customer, one under each identifier."""

from pathlib import Path

from engine import keyspace
from engine.catalog.spec.profile_rules import ProfileRules
from engine.customers.redis.keys import ProfileKey
from engine.customers.redis.pipeline import RedisPipeline, RedisReply, load_script
from engine.customers.redis.stored_entry import TOMBSTONE

_ERASE = load_script(Path(__file__).with_name("erase.lua"))


async def write_tombstone(pipeline: RedisPipeline, key: ProfileKey, over: bytes, rules: ProfileRules) -> RedisReply:
    """Replace the entry at `key` by a tombstone if it begins with `over`; truthy if it was replaced."""
    return await pipeline.call(_ERASE, keyspace.customer_keys(key), (over, TOMBSTONE, int(rules.tombstone_life * 1000)))

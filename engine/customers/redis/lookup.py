"""Finds a customer in the store by an identifier whose kind is not given, following pointers and merges."""

from collections.abc import Mapping
from typing import NamedTuple

from engine import keyspace
from engine.customer import KINDS, Profile
from engine.customers.redis import keys
from engine.customers.redis.keys import KeyHasher, ProfileKey
from engine.customers.redis.pipeline import RedisPipeline, RedisReply, StoredValues
from engine.customers.redis.stored_entry import Entry, FrozenProfile, Pointer, decode_entry, entry_prefix

HOPS = 8
"""How many pointers are followed; a longer chain is not written."""


class StoredCustomer(NamedTuple):
    """A customer as stored at `key`. `over` is how the entry begins, so that it is written over only if unchanged.

    `to` is the customer that this one is being merged into, of whom nothing is stored yet.
    """

    key: ProfileKey
    profile: Profile
    over: bytes
    to: ProfileKey = ""


async def find_customer(pipeline: RedisPipeline, hash_: KeyHasher, value: str) -> tuple[ProfileKey, Profile] | None:
    """The customer that `value` names as an identifier of any kind, the strongest kind first."""
    found = await find_stored(pipeline, candidate_keys(hash_, value))
    return (found.key, found.profile) if found else None


def candidate_keys(hash_: KeyHasher, value: str) -> list[ProfileKey]:
    """Where a customer of this identifier would be found, by its kind, the strongest first; `u-42` is no phone."""
    kinds = [kind for kind in KINDS if kind != "phone" or not any(map(str.isalpha, value))]
    return [hash_(kind, name) for kind in kinds if (name := keys.normalize_identifier(kind, value))]


async def find_stored(pipeline: RedisPipeline, places: list[ProfileKey]) -> StoredCustomer | None:
    """The first customer that one of `places` leads to."""
    entries = await read_entries(pipeline, places)
    for key in places:
        end = await _end(pipeline, key, entries)
        entry = entries[end]
        if isinstance(entry, FrozenProfile):
            return StoredCustomer(end, entry.profile, entry_prefix(entry), entry.to)
        if isinstance(entry, Profile):
            return StoredCustomer(end, entry, b"P")
    return None


async def read_entries(pipeline: RedisPipeline, wanted: list[ProfileKey]) -> dict[ProfileKey, Entry]:
    """The entries stored under `wanted`."""
    values: StoredValues = await pipeline.get([keyspace.profile(key) for key in wanted], list)
    return {key: decode_entry(value) for key, value in zip(wanted, values, strict=True)}


def as_mapping(reply: RedisReply) -> Mapping[bytes, bytes]:
    """A reply to HGETALL, checked."""
    if not isinstance(reply, Mapping):
        raise TypeError(f"HGETALL answered {reply!r}")
    return reply


async def _end(pipeline: RedisPipeline, key: ProfileKey, entries: dict[ProfileKey, Entry]) -> ProfileKey:
    """Where the pointers from `key` end; what they lead to is added to `entries`."""
    for _ in range(HOPS):
        entry = entries[key]
        if not isinstance(entry, Pointer | FrozenProfile):
            return key
        if entry.to not in entries:
            entries |= await read_entries(pipeline, [entry.to])
        if isinstance(entry, FrozenProfile) and entries[entry.to] is None:
            return key
        key = entry.to
    return key

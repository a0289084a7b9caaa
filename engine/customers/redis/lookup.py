"""Finds a customer in the store by an identifier whose kind is not given, following pointers and merges."""

from collections.abc import Mapping
from typing import NamedTuple

from msgspec.structs import replace

from engine import keyspace
from engine.catalog.spec.identifiers import is_placeholder, normalize_identifier
from engine.customer import KINDS, Profile
from engine.customers.redis.archived import read_identifiers
from engine.customers.redis.keys import KeyHasher, ProfileKey
from engine.customers.redis.pipeline import RedisPipeline, RedisReply, StoredValues
from engine.customers.redis.stored_entry import Entry, FrozenProfile, Pointer, decode_entry, entry_prefix
from engine.errors import UnreadableValueError

HOPS = 16
"""The number of pointers that are followed; no longer chain is written."""


class StoredCustomer(NamedTuple):
    """A customer stored at `key`. `over` is the entry's prefix, which a conditional write compares.

    `to` is the key of the customer that this one is being merged into, if nothing is stored there yet.
    """

    key: ProfileKey
    profile: Profile
    over: bytes
    to: ProfileKey = ""


async def find_customer(pipeline: RedisPipeline, hash_: KeyHasher, value: str) -> tuple[ProfileKey, Profile] | None:
    """Returns the customer that `value` names as an identifier of any kind, the strongest kind first."""
    found = await find_stored(pipeline, candidate_keys(hash_, value))
    return (found.key, found.profile) if found else None


def candidate_keys(hash_: KeyHasher, value: str) -> list[ProfileKey]:
    """Returns the keys of an identifier of unknown kind, the strongest first; `u-42` cannot be a phone."""
    kinds = [kind for kind in KINDS if kind != "phone" or not any(map(str.isalpha, value))]
    named = {kind: normalize_identifier(kind, value) for kind in kinds if not is_placeholder(value, kind)}
    return [hash_(kind, name) for kind, name in named.items() if name]


async def find_stored(pipeline: RedisPipeline, places: list[ProfileKey]) -> StoredCustomer | None:
    """Returns the first customer that one of `places` leads to, with all identifiers ever bound to them."""
    entries = await read_entries(pipeline, places) if places else {}
    for key in places:
        end = await _end(pipeline, key, entries)
        entry = entries[end]
        if isinstance(entry, FrozenProfile):
            profile = await _with_archived_ids(pipeline, end, entry.profile)
            return StoredCustomer(end, profile, entry_prefix(entry), entry.to)
        if isinstance(entry, Profile):
            return StoredCustomer(end, await _with_archived_ids(pipeline, end, entry), entry_prefix(entry))
    return None


async def find_damaged(pipeline: RedisPipeline, places: list[ProfileKey]) -> StoredCustomer | None:
    """Finds a customer as `find_stored` does, or one whose stored value cannot be read.

    Their profile is empty, but for the archived identifiers; `over` is the whole value.
    """
    for place in places:
        key = place
        for _ in range(HOPS):
            (value,) = await pipeline.get([keyspace.profile(key)], list)
            try:
                entry = decode_entry(value)
            except UnreadableValueError:
                return StoredCustomer(key, await _with_archived_ids(pipeline, key, Profile("", "")), value or b"")
            if isinstance(entry, Profile):
                return StoredCustomer(key, await _with_archived_ids(pipeline, key, entry), entry_prefix(entry))
            if not isinstance(entry, Pointer | FrozenProfile):
                break
            key = entry.to
    return None


async def _with_archived_ids(pipeline: RedisPipeline, key: ProfileKey, profile: Profile) -> Profile:
    archived = await read_identifiers(pipeline, key)
    if not archived:
        return profile
    both = {
        kind: list(dict.fromkeys((*archived.get(kind, ()), *profile.ids.get(kind, ()))))
        for kind in KINDS
        if kind in archived or kind in profile.ids
    }
    return replace(profile, ids=dict(both))


async def read_entries(pipeline: RedisPipeline, wanted: list[ProfileKey]) -> dict[ProfileKey, Entry]:
    """Reads the entries stored under `wanted`."""
    values: StoredValues = await pipeline.get([keyspace.profile(key) for key in wanted], list)
    return {key: decode_entry(value) for key, value in zip(wanted, values, strict=True)}


def as_mapping(reply: RedisReply) -> Mapping[bytes, bytes]:
    """Returns a reply to HGETALL, checked."""
    if not isinstance(reply, Mapping):
        raise TypeError(f"HGETALL answered {reply!r}")
    return reply


async def _end(pipeline: RedisPipeline, key: ProfileKey, entries: dict[ProfileKey, Entry]) -> ProfileKey:
    """Returns the key at the end of the pointers from `key`; adds the entries on the path to `entries`."""
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

"""Reads customers by the keys in the roster and indexes, following pointers."""

from collections.abc import Iterable
from typing import NamedTuple

from engine import keyspace
from engine.customer import KINDS, CustomerIds, Profile
from engine.customers.redis.keys import KeyHasher, ProfileKey
from engine.customers.redis.lookup import HOPS
from engine.customers.redis.pipeline import RedisPipeline, StoredValues
from engine.customers.redis.stored_entry import Entry, FrozenProfile, Pointer, Tombstone, decode_entry
from engine.errors import UnreadableValueError

PAGE = 200


class FoundCustomer(NamedTuple):
    """A stored customer, and the key of their profile."""

    key: ProfileKey
    profile: Profile


class Gone(NamedTuple):
    """No customer is stored under a key any more; `is_erased` if they were erased."""

    is_erased: bool


class Unreadable(NamedTuple):
    """A customer in a merge, or whose stored value cannot be read: to be examined later."""


ReadCustomer = FoundCustomer | Gone | Unreadable


async def read_customers(pipeline: RedisPipeline, keys: Iterable[ProfileKey]) -> dict[ProfileKey, ReadCustomer]:
    """The customer to which each key leads.

    Raises:
        StoreUnavailable: if Redis does not answer in time.
    """
    wanted = list(dict.fromkeys(keys))
    entries: dict[ProfileKey, Entry | Unreadable] = {}
    missing = wanted
    for _ in range(HOPS):
        for start in range(0, len(missing), PAGE):
            part = missing[start : start + PAGE]
            found: list[Entry | Unreadable] = await pipeline.get([keyspace.profile(key) for key in part], _decode)
            entries |= zip(part, found, strict=True)
        targets = {entry.to for entry in entries.values() if isinstance(entry, Pointer | FrozenProfile)}
        missing = sorted(targets - entries.keys())
        if not missing:
            break
    return {key: _follow(entries, key) for key in wanted}


def keys_of(customer: FoundCustomer, hash_: KeyHasher) -> list[ProfileKey]:
    """The keys under which a customer's messages may be stored: their own, and those merged into it."""
    ids = customer.profile.ids
    named = (hash_(kind, value) for kind in KINDS for value in ids.get(kind, ()))
    return list(dict.fromkeys((customer.key, *named)))


def strongest_id(profile: Profile) -> CustomerIds | None:
    """The strongest identifier of a customer, the newest of its kind; None if there is none."""
    return next((CustomerIds(**{kind: profile.ids[kind][-1]}) for kind in KINDS if profile.ids.get(kind)), None)


def _decode(values: StoredValues) -> list[Entry | Unreadable]:
    return [_decode_one(value) for value in values]


def _decode_one(value: bytes | None) -> Entry | Unreadable:
    try:
        return decode_entry(value)
    except UnreadableValueError:
        return Unreadable()


def _follow(entries: dict[ProfileKey, Entry | Unreadable], key: ProfileKey) -> ReadCustomer:
    for _ in range(HOPS):
        entry = entries.get(key)
        if isinstance(entry, Pointer):
            key = entry.to
        elif isinstance(entry, FrozenProfile | Unreadable):
            return Unreadable()
        elif isinstance(entry, Profile):
            return Gone(is_erased=False) if entry.shared else FoundCustomer(key, entry)
        else:
            return Gone(is_erased=isinstance(entry, Tombstone))
    return Unreadable()

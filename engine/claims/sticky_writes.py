"""Writes sticky variants into the profile.

A sticky entry is absent, then stored with the first assigned decision, and dropped when its experiment is not live any
more. Invariants: of two concurrent decisions the entry stored first stands; nothing is written for customers without a
stored profile, being merged or erased, whose next decision writes its entries again. The entries are part of the
profile's format in Redis (`engine/customers/redis/stored_entry.py`), written by compare-and-set (`write.lua`).
"""

from collections.abc import Container, Mapping
from pathlib import Path

from msgspec.structs import replace

from engine import keyspace
from engine.customer import Profile
from engine.customers.redis import pipeline as pipeline_module
from engine.customers.redis.pipeline import StoredValues, load_script
from engine.customers.redis.stored_entry import Entry, decode_entry, encode_entry, entry_prefix
from engine.customers.store import FetchedCustomer, ProfileStore
from engine.decision.sticky import experiment_key

ATTEMPTS = 8

_WRITE = load_script(Path(pipeline_module.__file__).with_name("write.lua"))


async def write_sticky(
    store: ProfileStore, resolved: FetchedCustomer, entries: Mapping[str, str], live: Container[str]
) -> None:
    """Store a decision's sticky entries, and drop those of experiments that are not `live`.

    An entry that another decision stored since the customer was read stands. Gives up after `ATTEMPTS` conflicts.

    Raises:
        StoreUnavailable: if Redis does not answer in time.
    """
    if resolved.is_erased or not entries:
        return
    key, seen, rules = resolved.key, resolved.profile.sticky, store.rules
    slots = keyspace.customer_keys(key)
    stored: Entry = resolved.profile if resolved.is_settled else await store.pipeline.get([slots[0]], _entry)
    for _ in range(ATTEMPTS):
        if not isinstance(stored, Profile):
            return
        present = stored.sticky
        new = {name: variant for name, variant in entries.items() if present.get(name) == seen.get(name)}
        if not new:
            return
        sticky = {name: variant for name, variant in present.items() if experiment_key(name) in live} | new
        life = int((rules.life if stored.is_known and not stored.shared else rules.anonymous_life) * 1000)
        value = encode_entry(replace(stored, sticky=sticky, version=stored.version + 1))
        if await store.pipeline.call(
            _WRITE, slots, (entry_prefix(stored), value, life, b"", 0, b"", 0, b"", b"", b"", "")
        ):
            return
        stored = await store.pipeline.get([slots[0]], _entry)


def _entry(values: StoredValues) -> Entry:
    return decode_entry(values[0])

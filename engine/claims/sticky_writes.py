"""What a decision binds a customer to: sticky variants become part of the profile, in one write of their own."""

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
    store: ProfileStore, resolved: FetchedCustomer, kept: Mapping[str, str], live: Container[str]
) -> None:
    """Keep `kept` with the customer, and let go what is held for experiments that are not `live` any more.

    What others kept since the customer was read stays. Nothing is written of a customer whom the store does not know
    or who is on the way into another: the next decision has it to keep again.

    Raises:
        StoreUnavailable: if Redis does not answer in time.
    """
    if resolved.is_erased or not kept:
        return
    key, seen, rules = resolved.key, resolved.profile.sticky, store.rules
    slots = (keyspace.profile(key), keyspace.counted_messages(key), keyspace.counters(key))
    stored: Entry = resolved.profile if resolved.is_settled else await store.pipeline.get([slots[0]], _entry)
    for _ in range(ATTEMPTS):
        if not isinstance(stored, Profile):
            return
        held = stored.sticky
        news = {name: variant for name, variant in kept.items() if held.get(name) == seen.get(name)}
        if not news:
            return
        sticky = {name: variant for name, variant in held.items() if experiment_key(name) in live} | news
        life = int((rules.life if stored.is_known and not stored.shared else rules.anonymous_life) * 1000)
        value = encode_entry(replace(stored, sticky=sticky, version=stored.version + 1))
        if await store.pipeline.call(_WRITE, slots, (entry_prefix(stored), value, life, b"", 0, b"", 0)):
            return
        stored = await store.pipeline.get([slots[0]], _entry)


def _entry(values: StoredValues) -> Entry:
    return decode_entry(values[0])

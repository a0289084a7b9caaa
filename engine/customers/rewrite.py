"""Changes a stored customer without an event: reads all their data, and writes only if it is unchanged since."""

from collections.abc import Callable
from typing import Final, Literal

from msgspec.structs import replace

from engine import keyspace
from engine.customer import Profile
from engine.customers.model.archive import join_profile
from engine.customers.model.identity import EntryNotRead, resolve_identity
from engine.customers.model.merge import profile_kind
from engine.customers.redis.archived import decode_orders
from engine.customers.redis.counted import read_earlier, split_digests
from engine.customers.redis.keys import KeyedId
from engine.customers.redis.lookup import candidate_keys, find_stored
from engine.customers.store import ProfileStore
from engine.customers.write_batch import WriteBatch

ATTEMPTS: Final = 8
RewriteOutcome = Literal["written", "unchanged", "missing", "behind"]
ChangeCustomer = Callable[[Profile, set[bytes]], Profile | None]
"""From a profile with all of its orders and the digests of its messages to the changed one; None to wait."""


async def rewrite_customer(store: ProfileStore, customer: str, change: ChangeCustomer, now: float) -> RewriteOutcome:
    """Change the customer whose canonical id is `customer`.

    `missing` where the store has no such customer, `behind` where `change` waits, a merge is under way, or others write
    all the time.

    Raises:
        StoreUnavailable: if Redis does not answer in time.
    """
    for _ in range(ATTEMPTS):
        found = await find_stored(store.pipeline, candidate_keys(store.hash_key, customer))
        if found is None or found.profile.id != customer:
            return "missing"
        ident = KeyedId(profile_kind(found.profile), customer, found.key)
        names = (
            keyspace.profile(found.key),
            keyspace.counted_messages(found.key),
            keyspace.archived_orders(found.key),
        )
        value, seen, orders = await store.pipeline.get(list(names), list)
        earlier = (await read_earlier(store.pipeline, [found.key]))[found.key]
        batch = WriteBatch(store.rules, store.hash_key, {})
        batch.put(found.key, value, seen, orders)
        try:
            resolved = resolve_identity([ident], batch.entries, store.rules, now)
        except EntryNotRead:
            return "behind"
        stored = batch.entries.get(found.key)
        if resolved.is_erased or not isinstance(stored, Profile):
            return "missing" if resolved.is_erased else "behind"
        marks = split_digests((seen or b"") + stored.marks) | {bytes.fromhex(str(one)) for one in earlier[1::2]}
        changed = change(join_profile(stored, *decode_orders(orders)), marks)
        if changed is None:
            return "behind"
        if replace(changed, archived_series={}) == replace(stored, archived_series={}):
            return "unchanged"
        batch.keep(resolved, changed)
        if await batch.write(store.pipeline, now):
            return "written"
    return "behind"

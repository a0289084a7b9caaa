"""Exports or erases the customer named by an identifier: transitions to *announced*, *tombstoned* and *swept*.

A tombstone lives for `tombstone_life` under the keyed hash of each identifier and names nobody. Events that arrive for
it are refused. The note of a begun erasure is a msgpack array, stored in the hash `keyspace.UNFINISHED_ERASURES`:

    at         float: when it began (s since 1970)
    key        text: hash of the profile's key; empty for a customer who was never stored
    entries    array of texts: hashes of the identifiers' keys; without `key`, where the profile would be
    digests    array of texts: `identifier_digest` of every identifier
    owners     array of texts: hashes of the keys whose claims are the customer's alone; missing in older notes
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Container, Iterable, Sequence

import msgspec

from engine import keyspace
from engine.catalog.spec.identifiers import is_placeholder
from engine.catalog.spec.profile_rules import ProfileRules
from engine.claims import pending_exposures
from engine.claims.coupons import CustomerCode, forget_customers, offers_with_codes, read_codes
from engine.customer import KINDS, Counts, IdKind, Profile
from engine.customers.model.merge import absorbed_keys
from engine.customers.redis import keys
from engine.customers.redis.counts import decode_counts
from engine.customers.redis.keys import KeyHasher, ProfileKey
from engine.customers.redis.lookup import (
    as_mapping,
    candidate_keys,
    find_customer,
    find_damaged,
    find_stored,
    read_entries,
)
from engine.customers.redis.pipeline import RedisPipeline
from engine.customers.redis.stored_entry import TOMBSTONE, Pointer
from engine.customers.redis.tombstones import write_tombstone
from engine.customers.store import ProfileStore
from engine.customers.unfinished_merges import read_begun_merges
from engine.due.erased import delete_messages_of
from engine.erasure.announcements import announce_erasure
from engine.errors import BadInput, UnreadableValueError
from engine.hashing import identifier_digest
from engine.keyspace import ERASURES_LIFE, UNFINISHED_ERASURES

LATE_SECONDS = 60.0
"""Seconds after its start for which an erasure still covers new records: those accepted while the tombstones were being
written, and those of a server whose clock is ahead. No other record arrives while the tombstones live."""
SECOND_SWEEP_SECONDS = 5.0
"""Seconds after which an erasure is swept again. By then its process has finished or died, and so has every decision
that had read the profile before and could store something of it afterwards."""

AT_ONCE = 100
"""Tombstones written together; other requests run between two such batches."""

DeleteElsewhere = Callable[[RedisPipeline, Container[str]], Awaitable[None]]
"""Deletes what another room stores of the customers whose identifiers have these digests."""


class Export(msgspec.Struct, frozen=True):
    """The stored data of one customer: the profile, the times of counted events, and the coupon codes."""

    profile: Profile
    counts: Counts
    coupons: list[CustomerCode]


class _BegunErasure(msgspec.Struct, frozen=True, array_like=True):
    """The stored note of an erasure (fields: see the module); the array's order is the format."""

    at: float
    key: ProfileKey
    entries: list[ProfileKey]
    digests: list[str]
    owners: list[ProfileKey] = []


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_BegunErasure).decode


async def export_profile(store: ProfileStore, identifier: str) -> Export | None:
    """The stored data of the customer that `identifier` names; None if there is none.

    Raises:
        BadInput: if `identifier` is a placeholder.
    """
    _require_identifier(store, identifier)
    found = await find_customer(store.pipeline, store.hash_key, identifier)
    if found is None:
        return None
    key, profile = found
    counts = await store.pipeline.get([keyspace.counters(key)], lambda values: decode_counts(values[0]))
    absorbed = await asyncio.to_thread(absorbed_keys, profile, store.hash_key)
    offers = await offers_with_codes(store.pipeline)
    codes = await asyncio.gather(*(read_codes(store.pipeline, offer, key, absorbed) for offer in offers))
    return Export(profile, counts, [code for of_offer in codes for code in of_offer])


async def erase_profile(store: ProfileStore, identifier: str, *also: DeleteElsewhere) -> dict[IdKind, list[str]]:
    """Erase the customer that `identifier` names; returns their identifiers by kind, for the log's erasure.

    Their late events are refused while the tombstones live, also for a customer never seen (empty answer). `also`
    delete what is stored of them elsewhere in the store. `finish_erasures` completes an erasure that was cut short.

    Raises:
        BadInput: if `identifier` is a placeholder: many customers may have been sent with it.
    """
    _require_identifier(store, identifier)
    digests = {identifier_digest(name) for name in keys.identifier_spellings(identifier)}
    begun, profile = await _begin(store, candidate_keys(store.hash_key, identifier), digests, time.time())
    await _sweep(store.pipeline, [begun], time.time(), also)
    return {kind: profile.ids[kind] for kind in KINDS if kind in profile.ids} if profile else {}


async def finish_erasures(store: ProfileStore, now: float, *also: DeleteElsewhere) -> int:
    """Complete interrupted erasures, and sweep completed ones again; returns the number of the former.

    Call it every few seconds with the `also` of `erase_profile`. It is idempotent, so several servers may run it.
    """
    wire = store.pipeline
    stored = {
        field: _decode(value) for field, value in as_mapping(await wire.send("HGETALL", UNFINISHED_ERASURES)).items()
    }
    due = {field: begun for field, begun in stored.items() if begun.at + SECOND_SWEEP_SECONDS <= now}
    if not due:
        return 0
    swept: list[_BegunErasure] = []
    for begun in due.values():
        if profile_keys := await _keys_without_tombstone(wire, begun):
            resumed, _ = await _begin(store, profile_keys, set(begun.digests), now)
            swept.append(resumed)
        else:
            await _lay_tombstones(wire, store.rules, begun)
            swept.append(begun)
    await _sweep(wire, swept, now, also)
    await wire.send("HDEL", UNFINISHED_ERASURES, *due)
    return len(due)


def _require_identifier(store: ProfileStore, identifier: str) -> None:
    if is_placeholder(identifier, None, store.rules.placeholders) or not candidate_keys(store.hash_key, identifier):
        raise BadInput(f"id: {identifier!r:.40} is a placeholder that names nobody; send a real id of the customer")


async def _keys_without_tombstone(wire: RedisPipeline, begun: _BegunErasure) -> list[ProfileKey]:
    """The keys of an erasure interrupted before the customer's tombstone; empty if it exists.

    A device's entry that points to a later customer is left out: another person may have logged in on it meanwhile.
    """
    places = [begun.key] if begun.key else begun.entries
    try:
        entries = await read_entries(wire, places)
    except UnreadableValueError:
        return places
    keys_of_customer = [key for key, entry in entries.items() if not (isinstance(entry, Pointer) and entry.before)]
    return keys_of_customer if keys_of_customer and await find_stored(wire, keys_of_customer) else []


async def _begin(
    store: ProfileStore, places: list[ProfileKey], digests: set[str], now: float
) -> tuple[_BegunErasure, Profile | None]:
    """Note, announce and tombstone the customer found at `places`; starts over if the entry changed meanwhile.

    The announcement precedes the first tombstone, since afterwards nobody could find the identifiers to announce. A
    failure between the two only announces twice.
    """
    wire, hash_ = store.pipeline, store.hash_key
    while True:
        try:
            found = await find_stored(wire, places)
        except UnreadableValueError:  # a damaged customer is erased as far as their identifiers are known
            found = await find_damaged(wire, places)
        begun = _BegunErasure(now, "", places, sorted(digests), places)
        if found:
            owners = [found.key, *await _absorbed_alone(store, found.profile)]
            # A customer may have thousands of identifiers, whose hashes would hold the event loop.
            entries, named = await asyncio.to_thread(_hash_identifiers, found.profile, hash_)
            begun = _BegunErasure(now, found.key, sorted(entries - {found.key}), sorted(digests | named), owners)
        await wire.send("HSET", UNFINISHED_ERASURES, f"{now!r} {begun.key or places[0]}", _encode(begun))
        await wire.send("PEXPIRE", UNFINISHED_ERASURES, int(ERASURES_LIFE * 1000))
        await announce_erasure(wire, begun.digests, now, now + min(LATE_SECONDS, store.rules.tombstone_life))
        # The target of an unfinished merge first, where nothing is stored yet: a resumed merge would write the profile.
        if found and not (
            (not found.to or await write_tombstone(wire, found.to, TOMBSTONE, store.rules))
            and await write_tombstone(wire, found.key, found.over, store.rules)
        ):
            continue
        await _lay_tombstones(wire, store.rules, begun)
        return begun, found.profile if found else None


def _hash_identifiers(profile: Profile, hash_: KeyHasher) -> tuple[set[ProfileKey], set[str]]:
    """The keys of a customer's identifiers, and the digests of these and of the profile's id."""
    names = {name for names_of_kind in profile.ids.values() for name in names_of_kind} | {profile.id} - {""}
    entries = {hash_(kind, name) for kind in KINDS for name in profile.ids.get(kind, ())}
    return entries, {identifier_digest(name) for name in names}


async def _absorbed_alone(store: ProfileStore, profile: Profile) -> list[ProfileKey]:
    """The keys of visitors that a profile absorbed, except browsers that are customers again.

    Others that the profile names may be of a browser that another customer was a visitor on.
    """
    absorbed = await asyncio.to_thread(absorbed_keys, profile, store.hash_key)
    if not absorbed:
        return []
    values = await store.pipeline.get([keyspace.profile(one) for one in absorbed], list)
    return [one for one, value in zip(absorbed, values, strict=True) if value is None or value[:1] in (b">", TOMBSTONE)]


async def _lay_tombstones(wire: RedisPipeline, rules: ProfileRules, begun: _BegunErasure) -> None:
    """Replace the customer's pointers, and profiles being merged into theirs, by tombstones."""
    pointer = b">" + begun.key.encode() if begun.key else TOMBSTONE
    for at in range(0, len(begun.entries), AT_ONCE):
        some = begun.entries[at : at + AT_ONCE]
        await asyncio.gather(*(write_tombstone(wire, entry, pointer, rules) for entry in some))
    for source, target in (await read_begun_merges(wire)).items() if begun.key else ():
        if target == begun.key:
            await write_tombstone(wire, source, b"M" + target.encode(), rules)


async def _sweep(
    wire: RedisPipeline, erased: Sequence[_BegunErasure], now: float, also: Iterable[DeleteElsewhere]
) -> None:
    """Delete the erased customers' messages and pending decisions, and the data of the `also` functions.

    With the decisions go the holds that they have in stocks and budgets.
    """
    places = {key for begun in erased for key in (begun.key, *begun.entries) if key}
    merges = await read_begun_merges(wire)
    merged = {source for source, target in merges.items() if target in places}
    await delete_messages_of(wire, places | merged)
    await forget_customers(wire, places | merged)
    digests = {digest for begun in erased for digest in begun.digests}
    owners = {key for begun in erased for key in (begun.key, *begun.owners) if key}
    owners |= {source for source, target in merges.items() if target in owners}
    await pending_exposures.delete_pending_of(wire, owners, digests, now)
    for delete in also:
        await delete(wire, digests)

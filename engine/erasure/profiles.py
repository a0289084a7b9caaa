"""A person's data, handed out or gone: under every identifier, with what was counted, and what comes late.

An erased customer leaves tombstones for a time, under the keyed hashes of their identifiers and so without any; what
arrives for them meanwhile is refused. An erasure is noted in the store before anything is gone, by hashes and digests
alone, and every server looks for those that were cut short.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Container, Iterable

import msgspec

from engine import keyspace
from engine.catalog.spec.profile_rules import ProfileRules
from engine.claims import pending_exposures
from engine.customer import KINDS, Counts, IdKind, Profile
from engine.customers.redis import keys
from engine.customers.redis.counts import decode_counts
from engine.customers.redis.keys import KeyHasher, ProfileKey
from engine.customers.redis.lookup import as_mapping, candidate_keys, find_customer, find_stored, read_entries
from engine.customers.redis.pipeline import RedisPipeline
from engine.customers.redis.stored_entry import TOMBSTONE, Pointer
from engine.customers.redis.tombstones import write_tombstone
from engine.customers.store import ProfileStore
from engine.customers.unfinished_merges import read_begun_merges
from engine.hashing import identifier_digest
from engine.keyspace import ERASURES, ERASURES_LIFE
from engine.keyspace import UNFINISHED_ERASURES as BEGUN

SETTLES = 60.0
"""Seconds by which an erasure is told to be later than it began: what was let in while the tombstones were laid, or by
a server whose clock is ahead, is of the erased too. Nothing else of them comes as long as their tombstones live."""
SWEPT = 5.0
"""Seconds after which an erasure is looked after once more: whoever did it is done or dead, and so is every decision
that had read the customer before and keeps something of them after."""

Forget = Callable[[RedisPipeline, Container[str]], Awaitable[None]]
"""Lets go of what is kept elsewhere of the customers whose names have these digests."""


class Export(msgspec.Struct, frozen=True):
    """Everything kept of one customer: the profile, and when what was counted happened."""

    profile: Profile
    counts: Counts


class _Begun(msgspec.Struct, frozen=True, array_like=True):
    """An erasure begun at `at`: where the customer stood, the ways there, and the digests of their names.

    One never heard of has no `key`; `ways` are where they would be found.
    """

    at: float
    key: ProfileKey
    ways: list[ProfileKey]
    who: list[str]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Begun).decode


async def export_profile(store: ProfileStore, identifier: str) -> Export | None:
    """Everything stored of the customer that `identifier` names, None if there is none."""
    found = await find_customer(store.wire, store.hash_key, identifier)
    if found is None:
        return None
    key, profile = found
    return Export(profile, await store.wire.get([keyspace.counters(key)], lambda values: decode_counts(values[0])))


async def erase_profile(store: ProfileStore, identifier: str, *also: Forget) -> dict[IdKind, list[str]]:
    """Erase the customer that `identifier` names; returns their identifiers by kind, for the log's erasure.

    Their late events are refused while the tombstones live, also for a customer never seen (empty answer). `also`
    delete what is stored of them elsewhere in the store. `finish_erasures` completes an erasure that was cut short.
    """
    wire, hash_ = store.wire, store.hash_key
    who = {identifier_digest(name) for name in keys.identifier_spellings(identifier)}
    begun, profile = await _begin(wire, hash_, store.rules, candidate_keys(hash_, identifier), who, time.time())
    await _forget(wire, begun.who, also)
    return {kind: profile.ids[kind] for kind in KINDS if kind in profile.ids} if profile else {}


async def finish_erasures(store: ProfileStore, now: float, *also: Forget) -> int:
    """Complete erasures that a crash cut short and sweep once more after the others; returns how many.

    Call it every few seconds with what `erase_profile` is called with. Doing it twice equals doing it once.
    """
    wire, rules = store.wire, store.rules
    noted = {field: _decode(value) for field, value in as_mapping(await wire.send("HGETALL", BEGUN)).items()}
    due = {field: one for field, one in noted.items() if one.at + SWEPT <= now}
    if not due:
        return 0
    who: set[str] = set()
    for one in due.values():
        places = await read_entries(wire, [one.key] if one.key else one.ways)
        theirs = [key for key, entry in places.items() if not (isinstance(entry, Pointer) and entry.before)]
        if theirs and await find_stored(wire, theirs):  # it was cut short before their tombstone
            again, _ = await _begin(wire, store.hash_key, rules, theirs, set(one.who), now)
            who.update(again.who)
        else:
            await _bar(wire, rules, one)
            who.update(one.who)
    await _forget(wire, who, also)
    await wire.send("HDEL", BEGUN, *due)
    return len(due)


async def _begin(
    wire: RedisPipeline, hash_: KeyHasher, rules: ProfileRules, places: list[ProfileKey], who: set[str], now: float
) -> tuple[_Begun, Profile | None]:
    """Note and tell the erasure of the customer found at `places`, then lay their tombstones; again if they moved.

    Learners and collectors hear of it before anything is gone: who is told again after a failure finds the customer as
    they were.
    """
    while True:
        found = await find_stored(wire, places)
        begun = _Begun(now, "", places, sorted(who))
        if found:
            ids = found.profile.ids
            names = {name for held in ids.values() for name in held} | {found.profile.id}
            ways = {hash_(kind, name) for kind in KINDS for name in ids.get(kind, ())} - {found.key}
            begun = _Begun(now, found.key, sorted(ways), sorted(who.union(map(identifier_digest, names))))
        await wire.send("HSET", BEGUN, f"{now!r} {begun.key or places[0]}", _encode(begun))
        await wire.send("PEXPIRE", BEGUN, int(ERASURES_LIFE * 1000))
        await _tell(wire, begun.who, now, now + min(SETTLES, rules.tombstone_life))
        if found and not (
            (not found.to or await write_tombstone(wire, found.to, TOMBSTONE, rules))
            and await write_tombstone(wire, found.key, found.over, rules)
        ):
            continue
        await _bar(wire, rules, begun)
        return begun, found.profile if found else None


async def _bar(wire: RedisPipeline, rules: ProfileRules, begun: _Begun) -> None:
    """Lay tombstones on the ways to where the customer stood."""
    over = b">" + begun.key.encode() if begun.key else TOMBSTONE
    await asyncio.gather(*(write_tombstone(wire, way, over, rules) for way in begun.ways))
    for source, target in (await read_begun_merges(wire)).items() if begun.key else ():
        if target == begun.key:
            await write_tombstone(wire, source, b"M" + target.encode(), rules)


async def _forget(wire: RedisPipeline, who: Container[str], also: Iterable[Forget]) -> None:
    for forget in (pending_exposures.delete_pending_of, *also):
        await forget(wire, who)


async def _tell(wire: RedisPipeline, who: Iterable[str], now: float, until: float) -> None:
    oldest = int((now - ERASURES_LIFE) * 1000)
    await wire.send("XADD", ERASURES, "MINID", "~", oldest, "*", "at", repr(until), "who", " ".join(who))
    await wire.send("PEXPIRE", ERASURES, int(ERASURES_LIFE * 1000))

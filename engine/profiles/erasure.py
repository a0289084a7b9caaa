"""A person's data, handed out or gone: under every identifier, with what was counted, and what comes late.

An erased customer leaves tombstones for a time, under the keyed hashes of their identifiers and so without any; what
arrives for them meanwhile is refused. An erasure is noted in the store before anything is gone, by hashes and digests
alone, and every server looks for those that were cut short.
"""

import asyncio
from collections.abc import Awaitable, Callable, Container, Iterable, Mapping
from typing import NamedTuple

import msgspec

from engine.catalog.rules import KINDS, IdKind, ProfileRules
from engine.decide.profile import Profile
from engine.erasures import KEPT, STREAM, digest
from engine.profiles import keys, prefetched
from engine.profiles.claims import Counts, times
from engine.profiles.entries import TOMBSTONE, Entry, Frozen, Gone, Pointer, read, stamp
from engine.profiles.identity import HOPS
from engine.profiles.keys import Hasher, Key
from engine.profiles.wire import Reply, Values, Wire, script
from engine.profiles.workbench import MERGES

_ERASE = script("erase.lua")
SETTLES = 60.0
"""Seconds by which an erasure is told to be later than it began: what was let in while the tombstones were laid, or by
a server whose clock is ahead, is of the erased too. Nothing else of them comes as long as their tombstones live."""
BEGUN = f"{STREAM}:begun"
SWEPT = 5.0
"""Seconds after which an erasure is looked after once more: whoever did it is done or dead, and so is every decision
that had read the customer before and keeps something of them after."""

Forget = Callable[[Wire, Container[str]], Awaitable[None]]
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
    key: Key
    ways: list[Key]
    who: list[str]


class _Standing(NamedTuple):
    """A customer as stored at `key`; `to` is whom they are being merged into, of whom nothing is stored yet."""

    key: Key
    profile: Profile
    over: bytes
    to: Key = ""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Begun).decode


async def find(wire: Wire, hash_: Hasher, value: str) -> tuple[Key, Profile] | None:
    """The customer that `value` names as an identifier of any kind, the strongest kind first."""
    found = await _standing(wire, _candidates(hash_, value))
    return (found.key, found.profile) if found else None


async def export(wire: Wire, hash_: Hasher, value: str) -> Export | None:
    """All that is kept of the customer, None if there is none."""
    found = await find(wire, hash_, value)
    if found is None:
        return None
    key, profile = found
    return Export(profile, await wire.get([keys.caps(key)], lambda values: times(values[0])))


async def erase(
    wire: Wire, hash_: Hasher, rules: ProfileRules, value: str, now: float, also: Iterable[Forget]
) -> dict[IdKind, list[str]]:
    """Erase the customer that `value` names; the identifiers that were theirs, by kind, for the log's erasure.

    Of a customer never heard of, late events create nothing either; the answer is empty then. Where this is cut short,
    `finish` does the rest.
    """
    who = {digest(name) for name in keys.spellings(value)}
    begun, profile = await _begin(wire, hash_, rules, _candidates(hash_, value), who, now)
    await _forget(wire, begun.who, also)
    return {kind: profile.ids[kind] for kind in KINDS if kind in profile.ids} if profile else {}


async def finish(wire: Wire, hash_: Hasher, rules: ProfileRules, now: float, also: Iterable[Forget]) -> int:
    """Look once more after the erasures that were begun some seconds before `now`; how many. Twice is once."""
    noted = {field: _decode(value) for field, value in _mapping(await wire.send("HGETALL", BEGUN)).items()}
    due = {field: one for field, one in noted.items() if one.at + SWEPT <= now}
    if not due:
        return 0
    who: set[str] = set()
    for one in due.values():
        places = await _read(wire, [one.key] if one.key else one.ways)
        theirs = [key for key, entry in places.items() if not (isinstance(entry, Pointer) and entry.before)]
        if theirs and await _standing(wire, theirs):  # it was cut short before their tombstone
            again, _ = await _begin(wire, hash_, rules, theirs, set(one.who), now)
            who.update(again.who)
        else:
            await _bar(wire, rules, one)
            who.update(one.who)
    await _forget(wire, who, also)
    await wire.send("HDEL", BEGUN, *due)
    return len(due)


async def merging(wire: Wire) -> dict[Key, Key]:
    """Visitors whose merge into a customer was begun and not seen to end."""
    merges = _mapping(await wire.send("HGETALL", MERGES))
    return {source.decode(): target.decode() for source, target in merges.items()}


async def unfinished(wire: Wire, rules: ProfileRules) -> list[tuple[Key, Frozen]]:
    """The merges to do again. Those that ended are forgotten, those into an erased customer are erased."""
    found: list[tuple[Key, Frozen]] = []
    for source, target in (await merging(wire)).items():
        entries = await _read(wire, [source, target])
        entry = entries[source]
        if isinstance(entry, Frozen) and not isinstance(entries[target], Gone):
            found.append((source, entry))
            continue
        if isinstance(entry, Frozen):
            await _tombstone(wire, source, b"M" + target.encode(), rules)
        await wire.send("HDEL", MERGES, source)
    return found


async def _begin(
    wire: Wire, hash_: Hasher, rules: ProfileRules, places: list[Key], who: set[str], now: float
) -> tuple[_Begun, Profile | None]:
    """Note and tell the erasure of the customer found at `places`, then lay their tombstones; again if they moved.

    Learners and collectors hear of it before anything is gone: who is told again after a failure finds the customer as
    they were.
    """
    while True:
        found = await _standing(wire, places)
        begun = _Begun(now, "", places, sorted(who))
        if found:
            ids = found.profile.ids
            names = {name for held in ids.values() for name in held} | {found.profile.id}
            ways = {hash_(kind, name) for kind in KINDS for name in ids.get(kind, ())} - {found.key}
            begun = _Begun(now, found.key, sorted(ways), sorted(who.union(map(digest, names))))
        await wire.send("HSET", BEGUN, f"{now!r} {begun.key or places[0]}", _encode(begun))
        await wire.send("PEXPIRE", BEGUN, int(KEPT * 1000))
        await _tell(wire, begun.who, now, now + min(SETTLES, rules.tombstone_life))
        if found and not (
            (not found.to or await _tombstone(wire, found.to, TOMBSTONE, rules))
            and await _tombstone(wire, found.key, found.over, rules)
        ):
            continue
        await _bar(wire, rules, begun)
        return begun, found.profile if found else None


async def _bar(wire: Wire, rules: ProfileRules, begun: _Begun) -> None:
    """Lay tombstones on the ways to where the customer stood."""
    over = b">" + begun.key.encode() if begun.key else TOMBSTONE
    await asyncio.gather(*(_tombstone(wire, way, over, rules) for way in begun.ways))
    for source, target in (await merging(wire)).items() if begun.key else ():
        if target == begun.key:
            await _tombstone(wire, source, b"M" + target.encode(), rules)


async def _forget(wire: Wire, who: Container[str], also: Iterable[Forget]) -> None:
    for forget in (prefetched.forget, *also):
        await forget(wire, who)


async def _tell(wire: Wire, who: Iterable[str], now: float, until: float) -> None:
    oldest = int((now - KEPT) * 1000)
    await wire.send("XADD", STREAM, "MINID", "~", oldest, "*", "at", repr(until), "who", " ".join(who))
    await wire.send("PEXPIRE", STREAM, int(KEPT * 1000))


async def _tombstone(wire: Wire, key: Key, over: bytes, rules: ProfileRules) -> Reply:
    names = (keys.slot(key), keys.seen(key), keys.caps(key))
    return await wire.call(_ERASE, names, (over, TOMBSTONE, int(rules.tombstone_life * 1000)))


def _candidates(hash_: Hasher, value: str) -> list[Key]:
    """Where a customer of this identifier would be found, by its kind, the strongest first; `u-42` is no phone."""
    kinds = [kind for kind in KINDS if kind != "phone" or not any(map(str.isalpha, value))]
    return [hash_(kind, name) for kind in kinds if (name := keys.normal(kind, value))]


async def _standing(wire: Wire, places: list[Key]) -> _Standing | None:
    """The first customer that one of `places` leads to."""
    entries = await _read(wire, places)
    for key in places:
        end = await _end(wire, key, entries)
        entry = entries[end]
        if isinstance(entry, Frozen):
            return _Standing(end, entry.profile, stamp(entry), entry.to)
        if isinstance(entry, Profile):
            return _Standing(end, entry, b"P")
    return None


def _mapping(reply: Reply) -> Mapping[bytes, bytes]:
    if not isinstance(reply, Mapping):
        raise TypeError(f"HGETALL answered {reply!r}")
    return reply


async def _read(wire: Wire, wanted: list[Key]) -> dict[Key, Entry]:
    values: Values = await wire.get([keys.slot(key) for key in wanted], list)
    return {key: read(value) for key, value in zip(wanted, values, strict=True)}


async def _end(wire: Wire, key: Key, entries: dict[Key, Entry]) -> Key:
    """Where the pointers from `key` end; what they lead to is added to `entries`."""
    for _ in range(HOPS):
        entry = entries[key]
        if not isinstance(entry, Pointer | Frozen):
            return key
        if entry.to not in entries:
            entries |= await _read(wire, [entry.to])
        if isinstance(entry, Frozen) and entries[entry.to] is None:
            return key
        key = entry.to
    return key

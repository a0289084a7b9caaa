"""A person's data, handed out or gone: under every identifier, with what was counted, and what comes late.

An erased customer leaves tombstones for a time, under the keyed hashes of their identifiers and so without any; what
arrives for them meanwhile is refused.
"""

import asyncio
from collections.abc import Iterable, Mapping

import msgspec

from engine.catalog.rules import KINDS, IdKind, ProfileRules
from engine.decide.profile import Profile
from engine.erasures import KEPT, STREAM, digest
from engine.profiles import keys
from engine.profiles.claims import Counts, times
from engine.profiles.entries import TOMBSTONE, Entry, Frozen, Gone, Pointer, read
from engine.profiles.identity import HOPS
from engine.profiles.keys import Hasher, Key
from engine.profiles.prefetched import forget
from engine.profiles.wire import Values, Wire, script
from engine.profiles.workbench import MERGES

_ERASE = script("erase.lua")
SETTLES = 60.0
"""Seconds by which an erasure is told to be later than it began: what was let in while the tombstones were laid, or by
a server whose clock is ahead, is of the erased too. Nothing else of them comes as long as their tombstones live."""


class Export(msgspec.Struct, frozen=True):
    """Everything kept of one customer: the profile, and when what was counted happened."""

    profile: Profile
    counts: Counts


async def find(wire: Wire, hash_: Hasher, value: str) -> tuple[Key, Profile] | None:
    """The customer that `value` names as an identifier of any kind, the strongest kind first."""
    candidates = [hash_(kind, keys.normal(kind, value)) for kind in KINDS]
    entries = await _read(wire, candidates)
    for key in candidates:
        end = await _end(wire, key, entries)
        entry = entries[end]
        if isinstance(entry, Frozen):
            return end, entry.profile
        if isinstance(entry, Profile):
            return end, entry
    return None


async def export(wire: Wire, hash_: Hasher, value: str) -> Export | None:
    """All that is kept of the customer, None if there is none."""
    found = await find(wire, hash_, value)
    if found is None:
        return None
    key, profile = found
    return Export(profile, await wire.get([keys.caps(key)], lambda values: times(values[0])))


async def erase(wire: Wire, hash_: Hasher, rules: ProfileRules, value: str, now: float) -> dict[IdKind, list[str]]:
    """Erase the customer that `value` names; the identifiers that were theirs, by kind, for the log's erasure.

    Of a customer never heard of, late events create nothing either; the answer is empty then. Learners and collectors
    hear of it before anything is gone: who is told again after a failure finds the customer as they were.
    """
    found = await find(wire, hash_, value)
    given = [name for names in found[1].ids.values() for name in names] if found else []
    until = now + min(SETTLES, rules.tombstone_life)
    await _tell(wire, {value, *given, *([found[1].id] if found else [])}, now, until)
    if found is None:
        await asyncio.gather(
            *(
                _tombstone(wire, hash_(kind, name), TOMBSTONE, rules)
                for kind in KINDS
                if (name := keys.normal(kind, value))
            )
        )
        await forget(wire, {value})
        return {}
    key, profile = found
    ids: dict[IdKind, list[str]] = {kind: profile.ids[kind] for kind in KINDS if kind in profile.ids}
    aliases = {hash_(kind, name) for kind, names in ids.items() for name in names} - {key}
    await _tombstone(wire, key, b"", rules)
    await asyncio.gather(*(_tombstone(wire, alias, b">" + key.encode(), rules) for alias in aliases))
    for source, target in (await merging(wire)).items():
        if target == key:
            await _tombstone(wire, source, b"M" + key.encode(), rules)
    await forget(wire, {value, profile.id, *given})
    return ids


async def merging(wire: Wire) -> dict[Key, Key]:
    """Visitors whose merge into a customer was begun and not seen to end."""
    reply = await wire.send("HGETALL", MERGES)
    if not isinstance(reply, Mapping):
        raise TypeError(f"HGETALL answered {reply!r}")
    return {source.decode(): target.decode() for source, target in reply.items()}


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


async def _tell(wire: Wire, ids: Iterable[str], now: float, until: float) -> None:
    who = " ".join(sorted(map(digest, ids)))
    oldest = int((now - KEPT) * 1000)
    await wire.send("XADD", STREAM, "MINID", "~", oldest, "*", "at", repr(until), "who", who)
    await wire.send("PEXPIRE", STREAM, int(KEPT * 1000))


async def _tombstone(wire: Wire, key: Key, over: bytes, rules: ProfileRules) -> None:
    names = (keys.slot(key), keys.seen(key), keys.caps(key))
    await wire.call(_ERASE, names, (over, TOMBSTONE, int(rules.tombstone_life * 1000)))


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

"""What a batch reads, changes in memory and writes: every customer once, merges crash-safe across hash slots.

First the ways are laid: new identifiers point to their customer, and a visitor who is merged is frozen where they
stand, naming whom they go to. Then customers are written, then what was frozen becomes a pointer. Whoever finds a
frozen profile does the rest again; the customer remembers whom they hold, so again is once. Until all is done,
the key of unfinished merges names the visitor for `redo`.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

from msgspec.structs import replace

from engine import keyspace
from engine.catalog.spec.profile_rules import ProfileRules
from engine.customer import KINDS, Profile
from engine.customers.model.consent_sums import link_sources, source_tag
from engine.customers.model.events import Accepted
from engine.customers.model.identity import ResolvedIdentity, canonical_kind, shared_profile
from engine.customers.redis.counts import merge_counts
from engine.customers.redis.keys import KeyedId, KeyHasher, ProfileKey
from engine.customers.redis.pipeline import RedisPipeline, RedisReply, StoredValues, load_script
from engine.customers.redis.stored_entry import Entry, FrozenProfile, Pointer, decode_entry, encode_entry, entry_prefix
from engine.keyspace import UNFINISHED_MERGES as MERGES
from engine.vocabulary import MERGED

MARK = 8
INLINE = 16

_WRITE = load_script(Path(__file__).parent / "redis" / "write.lua")
_BECOME = load_script(Path(__file__).parent / "redis" / "become.lua")


@dataclass(slots=True)
class _CustomerWrite:
    """One customer as they will be written; `sources` become pointers, of which those `taken` are new to them."""

    name: KeyedId
    news: list[bytes] = field(default_factory=list)
    items: list[int] = field(default_factory=list)
    sources: dict[ProfileKey, Profile] = field(default_factory=dict)
    taken: set[ProfileKey] = field(default_factory=set)
    bound: set[ProfileKey] = field(default_factory=set)
    used: set[ProfileKey] = field(default_factory=set)


class WriteBatch:
    """The entries of one attempt: as stored, and as they are after what was reduced.

    After `write`, `written` are the items that are in the store; the merges of `begun` visitors must now be finished.
    """

    def __init__(self, rules: ProfileRules, hash_: KeyHasher) -> None:
        self.entries: dict[ProfileKey, Entry] = {}
        self.written: list[int] = []
        self.begun: list[ProfileKey] = []
        self._rules = rules
        self._hash = hash_
        self._stored: dict[ProfileKey, Entry] = {}
        self._seen: dict[ProfileKey, bytes] = {}
        self._marks: dict[ProfileKey, set[bytes]] = {}
        self._drafts: dict[ProfileKey, _CustomerWrite] = {}

    def put(self, key: ProfileKey, value: bytes | None, seen: bytes | None) -> None:
        """What the store holds under `key`."""
        self.entries[key] = self._stored[key] = decode_entry(value)
        self._seen[key] = seen or b""

    def led_to(self) -> set[ProfileKey]:
        """Keys that what was read leads to, and that were not read yet."""
        return {key for entry in self._stored.values() for key in _next(entry) if key not in self._stored}

    def counted(self, found: ResolvedIdentity, idents: Sequence[KeyedId], mark: bytes) -> bool:
        """Whether a message was counted: for the customer, or a visitor that turned out to be them.

        Or for whomever one of `idents` named before it moved on.
        """
        places = [found.name.key, *(source.key for source in found.sources)]
        for ident in idents:
            places += self._earlier(ident.key)
        return any(mark in self._marks_of(key) for key in dict.fromkeys(places))

    def _earlier(self, key: ProfileKey) -> list[ProfileKey]:
        """The known customers that an identifier named before, and whom these became."""
        entry = self.entries.get(key)
        waiting = list(_earlier(entry))
        found: list[ProfileKey] = []
        while waiting:
            key = waiting.pop()
            found.append(key)
            entry = self.entries.get(key)
            if isinstance(entry, Pointer | FrozenProfile) and entry.to not in found:
                waiting.append(entry.to)
        return found

    def profile(self, found: ResolvedIdentity) -> Profile:
        """The customer as they are after what was settled."""
        entry = self.entries.get(found.name.key)
        return entry if isinstance(entry, Profile) else found.profile

    def settle(
        self, found: ResolvedIdentity, time: float, received: float, idents: Sequence[KeyedId]
    ) -> list[Accepted]:
        """Take the customer up as `found` says; its merges, as events. `idents` are what named them at `time`."""
        if found.is_settled:
            return []
        key = found.name.key
        draft = self._draft(found.name)
        for source in found.sources:
            absorbed = self._drafts.pop(source.key, None)
            if absorbed is not None:
                draft.news += absorbed.news
                draft.items += absorbed.items
                draft.sources |= absorbed.sources
                draft.taken |= absorbed.taken
                draft.bound |= absorbed.bound
                for bound in (*absorbed.bound, *absorbed.sources):
                    self.entries[bound] = Pointer(key)
            draft.sources[source.key] = source.profile
            if not source.is_absorbed:
                draft.taken.add(source.key)
            self._marks_of(key).update(self._marks_of(source.key))
            self.entries[source.key] = Pointer(key)
        for ident, before in found.bindings:
            self.entries[ident.key] = Pointer(key, before)
            draft.bound.add(ident.key)
        for ident in found.blocked:
            named = _next(self.entries.get(ident.key))
            self.entries[ident.key] = replace(shared_profile(ident, self._rules, time), merged=list(named))
            draft.bound.add(ident.key)
        new = [source for source in found.sources if not source.is_absorbed]
        apart = [source_tag(found.name.kind, found.name.value)]
        apart += [source_tag(canonical_kind(source.profile), source.profile.id) for source in new]
        self.entries[key] = link_sources(found.profile, apart, time) if new else found.profile
        return [_merged(source.profile.id, found.profile.id, time, received, idents) for source in new]

    def pending(self) -> list[list[KeyedId]]:
        """Merges begun by others: the customer each goes to, and what is frozen on the way there."""
        return [
            [KeyedId(entry.kind, entry.id, entry.to), KeyedId("anonymous_id", "", key)]
            for key, entry in self._stored.items()
            if isinstance(entry, FrozenProfile)
        ]

    def keep(self, found: ResolvedIdentity, profile: Profile) -> None:
        """The customer as they are now, without a message that says so."""
        if profile != self.profile(found):
            self._draft(found.name)
            self.entries[found.name.key] = profile

    def change(
        self, found: ResolvedIdentity, profile: Profile, mark: bytes, idents: Sequence[KeyedId], item: int
    ) -> None:
        """The customer after one more message, which `item` of the batch brought."""
        key = found.name.key
        draft = self._draft(found.name)
        draft.news.append(mark)
        draft.items.append(item)
        draft.used.update(ident.key for ident in idents if ident.key != key)
        self._marks_of(key).add(mark)
        self.entries[key] = profile

    async def write(self, pipeline: RedisPipeline) -> bool:
        """Write every customer over what was read; False if any was changed by others meanwhile."""
        drafts = list(self._drafts.values())
        if not await self._lay_ways(pipeline, drafts):
            return False
        caps = await self._caps(pipeline, drafts)
        written = await asyncio.gather(*(self._write(pipeline, draft, caps) for draft in drafts))
        done = [draft for draft, reply in zip(drafts, written, strict=True) if reply]
        self.written = [item for draft in done for item in draft.items]
        await asyncio.gather(*(call for draft in done for call in self._follow_up(pipeline, draft)))
        finished = [key for draft in done for key in draft.sources]
        if finished:
            await pipeline.send("HDEL", MERGES, *finished)
        return len(done) == len(drafts)

    async def _lay_ways(self, pipeline: RedisPipeline, drafts: Sequence[_CustomerWrite]) -> bool:
        """Bind new identifiers and freeze what is merged; False if another was quicker."""
        ways: dict[ProfileKey, Pointer | Profile | FrozenProfile] = {}  # one for a tablet, however many drafts bound it
        for draft in drafts:
            for key in draft.sources.keys() | draft.bound:
                stored, entry = self._stored.get(key), self.entries[key]
                if key in draft.sources and isinstance(stored, Profile):
                    ways[key] = FrozenProfile(draft.name.key, draft.name.kind, draft.name.value, stored)
                elif not isinstance(stored, FrozenProfile) and isinstance(entry, Pointer | Profile):
                    ways.setdefault(key, entry)
        if not ways:
            return True
        frozen = [(key, entry.to) for key, entry in ways.items() if isinstance(entry, FrozenProfile)]
        if frozen:
            self.begun = [key for key, _ in frozen]
            await pipeline.send("HSET", MERGES, *(word for pair in frozen for word in pair))
            await pipeline.send("PEXPIRE", MERGES, _ms(self._rules.life))
        calls = [
            pipeline.call(
                _WRITE,
                _keys(key),
                (entry_prefix(self._stored.get(key)), encode_entry(entry), self._life(entry), b"", 0, b"", 0),
            )
            for key, entry in ways.items()
        ]
        return all(await asyncio.gather(*calls))

    async def _caps(self, pipeline: RedisPipeline, drafts: Sequence[_CustomerWrite]) -> dict[ProfileKey, bytes]:
        """What was counted for the visitors, now that nothing more is."""
        sources = [key for draft in drafts for key in draft.taken]
        if not sources:
            return {}
        values: StoredValues = await pipeline.get([keyspace.counters(key) for key in sources], list)
        return {key: value for key, value in zip(sources, values, strict=True) if value is not None}

    def _write(
        self, pipeline: RedisPipeline, draft: _CustomerWrite, caps: dict[ProfileKey, bytes]
    ) -> "asyncio.Future[RedisReply]":
        key = draft.name.key
        stored, entry = self._stored.get(key), self.entries[key]
        if not isinstance(entry, Profile):
            raise TypeError(f"{key} is written as a customer but is {type(entry).__name__}")
        life = self._life(entry)
        marks, seen = self._counted(draft, entry.marks)
        version = stored.version + 1 if isinstance(stored, Profile) else 1
        return pipeline.call(
            _WRITE,
            _keys(key),
            (
                entry_prefix(stored),
                encode_entry(replace(entry, version=version, marks=marks)),
                life,
                seen,
                _ms(self._rules.seen_life),
                merge_counts(caps.get(source) for source in draft.taken),
                life,
            ),
        )

    def _counted(self, draft: _CustomerWrite, marks: bytes) -> tuple[bytes, bytes]:
        """The messages counted for a customer: a few in the profile itself, or else in a value of their own."""
        theirs = [draft.sources[source].marks for source in draft.taken]
        lately = b"".join((marks, *theirs, *draft.news))
        elsewhere = b"".join(self._seen.get(source, b"") for source in draft.taken)
        if not elsewhere and len(lately) <= INLINE * MARK:
            return b"".join(sorted(lately[i : i + MARK] for i in range(0, len(lately), MARK))), b""
        seen = b"".join((elsewhere, self._seen.get(draft.name.key, b""), lately))
        return b"", seen[-MARK * self._rules.seen_limit :]

    def _follow_up(self, pipeline: RedisPipeline, draft: _CustomerWrite) -> "list[asyncio.Future[RedisReply]]":
        """Turn what became part of the customer into pointers, and keep alive those that led here."""
        to = draft.name.key
        life = self._life(self.entries[to])
        calls = []
        for key, profile in draft.sources.items():
            stored = self._stored.get(key)
            if not isinstance(stored, Profile | FrozenProfile):
                continue
            frozen = entry_prefix(stored) if isinstance(stored, FrozenProfile) else b"M" + to.encode()
            moved = self.entries[key]  # a tablet that was merged may have moved on since
            after = moved if isinstance(moved, Pointer | Profile) else Pointer(to)
            calls.append(pipeline.call(_BECOME, _keys(key), (frozen, encode_entry(after), life)))
            aliases = {self._hash(kind, value) for kind in KINDS for value in profile.ids.get(kind, ())}
            calls += [
                pipeline.call(_BECOME, _keys(alias), (encode_entry(Pointer(key)), encode_entry(Pointer(to)), life))
                for alias in aliases - {key, to} - draft.bound
            ]
        calls += [
            pipeline.send("PEXPIRE", keyspace.profile(key), life)
            for key in draft.used - draft.bound
            if isinstance(self._stored.get(key), Pointer)
        ]
        return calls

    def _draft(self, name: KeyedId) -> _CustomerWrite:
        draft = self._drafts.get(name.key)
        if draft is None:
            draft = self._drafts[name.key] = _CustomerWrite(name)
        return draft

    def _marks_of(self, key: ProfileKey) -> set[bytes]:
        marks = self._marks.get(key)
        if marks is None:
            entry = self._stored.get(key)
            profile = entry.profile if isinstance(entry, FrozenProfile) else entry
            blob = self._seen.get(key, b"") + (profile.marks if isinstance(profile, Profile) else b"")
            marks = self._marks[key] = {blob[i : i + MARK] for i in range(0, len(blob), MARK)}
        return marks

    def _life(self, entry: Entry) -> int:
        known = isinstance(entry, Profile) and entry.is_known and not entry.shared
        return _ms(
            self._rules.life if known or isinstance(entry, Pointer | FrozenProfile) else self._rules.anonymous_life
        )


def message_digest(message_id: str) -> bytes:
    """How a message id is remembered: 64 bits of BLAKE2b."""
    return blake2b(message_id.encode(), digest_size=MARK).digest()


def _next(entry: Entry) -> tuple[ProfileKey, ...]:
    """The keys that an entry leads to, now or before."""
    if isinstance(entry, FrozenProfile):
        return (entry.to,)
    return (entry.to, *entry.before) if isinstance(entry, Pointer) else _earlier(entry)


def _earlier(entry: Entry) -> tuple[ProfileKey, ...]:
    if isinstance(entry, Pointer):
        return entry.before
    return tuple(entry.merged) if isinstance(entry, Profile) and entry.shared else ()


def _merged(source: str, target: str, time: float, received: float, idents: Sequence[KeyedId]) -> Accepted:
    """Who became part of whom, when, and by which identifiers that came together."""
    by = {ident.kind: ident.value for ident in idents if ident.value}
    said: dict[str, object] = {"from": source, "into": target, "by": by}
    return Accepted(f"merge:{source}:{target}", time, received, target, MERGED, properties=said)


def _keys(key: ProfileKey) -> tuple[str, str, str]:
    return keyspace.profile(key), keyspace.counted_messages(key), keyspace.counters(key)


def _ms(seconds: float) -> int:
    return int(seconds * 1000)

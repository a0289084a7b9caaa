"""One optimistic attempt to write a batch: entries as read, changes in memory, crash-safe writes across hash slots.

Invariants:
- A write names the prefix of the entry that was read (`entry_prefix`); after a concurrent change it fails.
- A customer's profile and the digests of its messages change in one script, so a message counts exactly once.
- A merge can be interrupted at any write and repeated: the target lists what it absorbed (`Profile.merged`), and the
  source's counters are added by the script that writes the target.
- A source is frozen before the target is written, so no event can be written to it and lost.
- A target reserves new identifiers before anything points to it or is frozen for it. Of two processes that join
  something to it, the second therefore reads what the first will add, and neither passes `binds` or `holds`.

Redis formats: `cp:{key}` as in `redis/stored_entry.py`, digests of counted messages as in `redis/counted.py`.
`redis/archived.py` has the formats of what is stored beside the profile, which changes in the same script. `cp:merges`
maps source to target.

Steps of `write`, in order:
0. Targets get reservations of the identifiers that are about to join them.
1. `cp:merges` gets the sources; new identifiers become pointers, and sources become frozen profiles (`M`).
2. Targets are written with their digests and the counters of their new sources.
3. Frozen sources and their aliases become pointers to the target, and `cp:merges` drops them.

After a crash between these steps a process that reads a frozen profile resumes the merge; `ProfileStore.finish_merges`
finds the others through `cp:merges`.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from msgspec.structs import replace

from engine import keyspace
from engine.catalog.spec.profile_rules import ProfileRules
from engine.customer import KINDS, Profile
from engine.customers.model.archive import join_profile, split_profile
from engine.customers.model.consent_sums import link_sources, source_tag
from engine.customers.model.events import Accepted
from engine.customers.model.identity import MergeSource, ResolvedIdentity, shared_profile
from engine.customers.model.merge import MARK as MERGE_MARK
from engine.customers.model.merge import merge_event, profile_kind
from engine.customers.model.reservations import Reservation, drop_reservations, reserve_identifiers
from engine.customers.redis.archived import ArchivedOrders, decode_orders, encode_members, encode_orders
from engine.customers.redis.counted import (
    encode_earlier,
    find_earlier,
    is_full,
    place_digests,
    split_digests,
)
from engine.customers.redis.counts import merge_counts
from engine.customers.redis.keys import KeyedId, KeyHasher, ProfileKey
from engine.customers.redis.merged_sources import SourceValues, read_source_values
from engine.customers.redis.pipeline import RedisPipeline, RedisReply, load_script
from engine.customers.redis.stored_entry import (
    Entry,
    FrozenProfile,
    Pointer,
    decode_entry,
    earlier_targets,
    encode_entry,
    entry_prefix,
    entry_targets,
)
from engine.errors import UnreadableValueError
from engine.keyspace import UNFINISHED_MERGES as MERGES

_WRITE = load_script(Path(__file__).parent / "redis" / "write.lua")
_BECOME = load_script(Path(__file__).parent / "redis" / "become.lua")


@dataclass(slots=True, kw_only=True)
class _CustomerWrite:
    """The pending write of one customer.

    Attributes:
        news: digests of new messages, which `items` of the batch brought.
        sources: profiles to turn into pointers; `new_sources` are those that the customer has not absorbed yet.
        bound: keys of identifiers to point to the customer.
        used: keys of identifiers whose expiry starts again.
    """

    name: KeyedId
    news: list[bytes] = field(default_factory=list)
    items: list[int] = field(default_factory=list)
    sources: dict[ProfileKey, Profile] = field(default_factory=dict)
    new_sources: set[ProfileKey] = field(default_factory=set)
    bound: set[ProfileKey] = field(default_factory=set)
    used: set[ProfileKey] = field(default_factory=set)


class WriteBatch:
    """The entries of one attempt, as stored and as changed.

    After `write`, `written` are the items in the store, `begun` the sources whose merges must be completed, and
    `reserved` the identifiers that this and earlier attempts reserved, by customer.
    """

    def __init__(self, rules: ProfileRules, hash_: KeyHasher, reserved: dict[ProfileKey, set[str]]) -> None:
        self.entries: dict[ProfileKey, Entry] = {}
        self.unreadable: dict[ProfileKey, UnreadableValueError] = {}
        self.written: list[int] = []
        self.begun: list[ProfileKey] = []
        self.reserved = reserved
        self._rules = rules
        self._hash = hash_
        self._stored: dict[ProfileKey, Entry] = {}
        self._seen: dict[ProfileKey, bytes] = {}
        self._archived: dict[ProfileKey, ArchivedOrders] = {}
        self._marks: dict[ProfileKey, set[bytes]] = {}
        self._drafts: dict[ProfileKey, _CustomerWrite] = {}

    def put(self, key: ProfileKey, value: bytes | None, seen: bytes | None, orders: bytes | None) -> None:
        """Adds the values that were read under `key`: the entry, digests of messages, and archived orders.

        Values that cannot be read stay as they are: their key is `unreadable`, and so are the items that need it.
        """
        try:
            entry, archived = decode_entry(value), decode_orders(orders)
        except UnreadableValueError as error:
            self.unreadable[key] = error
            return
        self._stored[key], self._archived[key] = entry, archived
        if isinstance(entry, Profile):
            entry = join_profile(entry, *archived)
        elif isinstance(entry, FrozenProfile):
            entry = replace(entry, profile=join_profile(entry.profile, *archived))
        self.entries[key] = entry
        self._seen[key] = seen or b""

    def unread_targets(self) -> set[ProfileKey]:
        """Returns the keys that entries point to and that have not been read."""
        targets = {key for entry in self._stored.values() for key in entry_targets(entry)}
        return targets - self._stored.keys() - self.unreadable.keys()

    async def find_earlier(self, pipeline: RedisPipeline, digests: Sequence[bytes]) -> None:
        """Looks for these digests among those that were moved out of the values given to `put`."""
        full = [key for key, seen in self._seen.items() if is_full(seen, self._rules.seen_limit)]
        found = await asyncio.gather(*(find_earlier(pipeline, key, digests) for key in full))
        for key, marks in zip(full, found, strict=True):
            self._marks_of(key).update(marks)

    def counted(self, found: ResolvedIdentity, idents: Sequence[KeyedId], mark: bytes) -> bool:
        """Whether a message was counted for the customer, one of its sources, or an earlier target of `idents`."""
        places = [found.name.key, *(source.key for source in found.sources)]
        for ident in idents:
            places += self._earlier(ident.key)
        return any(mark in self._marks_of(key) for key in dict.fromkeys(places))

    def _earlier(self, key: ProfileKey) -> list[ProfileKey]:
        """Returns the known customers that an identifier named earlier, and those that they were merged into."""
        entry = self.entries.get(key)
        waiting = list(earlier_targets(entry))
        found: list[ProfileKey] = []
        while waiting:
            key = waiting.pop()
            found.append(key)
            entry = self.entries.get(key)
            if isinstance(entry, Pointer | FrozenProfile) and entry.to not in found:
                waiting.append(entry.to)
        return found

    def profile(self, found: ResolvedIdentity) -> Profile:
        """Returns the customer after the changes so far."""
        entry = self.entries.get(found.name.key)
        return entry if isinstance(entry, Profile) else found.profile

    def settle(
        self, found: ResolvedIdentity, time: float, received: float, idents: Sequence[KeyedId]
    ) -> list[Accepted]:
        """Applies the merges and bindings of `found`, which `idents` named at `time`; returns the merges as events."""
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
                draft.new_sources |= absorbed.new_sources
                draft.bound |= absorbed.bound
                for bound in (*absorbed.bound, *absorbed.sources):
                    self.entries[bound] = Pointer(key)
            draft.sources[source.key] = source.profile
            if not source.is_absorbed:
                draft.new_sources.add(source.key)
            self._marks_of(key).update(self._marks_of(source.key))
            self.entries[source.key] = Pointer(key)
        for ident, before in found.bindings:
            self.entries[ident.key] = Pointer(key, before)
            draft.bound.add(ident.key)
        for ident in found.blocked:
            named = entry_targets(self.entries.get(ident.key))
            self.entries[ident.key] = replace(shared_profile(ident, self._rules, time), merged=list(named))
            draft.bound.add(ident.key)
        new = [source for source in found.sources if not source.is_absorbed]
        apart = [source_tag(found.name.kind, found.name.value)]
        apart += [source_tag(profile_kind(source.profile), source.profile.id) for source in new]
        self.entries[key] = link_sources(self._unmark(found.profile, new), apart, time) if new else found.profile
        return [merge_event(source.profile.id, found.profile.id, time, received, idents) for source in new]

    def _unmark(self, profile: Profile, sources: Sequence[MergeSource]) -> Profile:
        """Removes the marks of sources that only this batch has seen, since nothing stored could be repeated.

        Another process may store a profile under such a key before it finds the pointer. With the mark, the merge of
        that profile would count as done and its events would be lost.
        """
        unstored = {
            source.key[:MERGE_MARK]
            for source in sources
            if not isinstance(self._stored.get(source.key), Profile | FrozenProfile)
        }
        return replace(profile, merged=[mark for mark in profile.merged if mark not in unstored])

    def pending(self) -> list[list[KeyedId]]:
        """Returns the merges that other processes began: the target and the frozen source of each."""
        return [
            [KeyedId(entry.kind, entry.id, entry.to), KeyedId("anonymous_id", "", key)]
            for key, entry in self._stored.items()
            if isinstance(entry, FrozenProfile)
        ]

    def keep(self, found: ResolvedIdentity, profile: Profile) -> None:
        """Stores the customer without counting a message."""
        if profile != self.profile(found):
            self._draft(found.name)
            self.entries[found.name.key] = profile

    def change(
        self, found: ResolvedIdentity, profile: Profile, mark: bytes, idents: Sequence[KeyedId], item: int
    ) -> None:
        """Changes the customer by a message, which is `item` of the batch."""
        key = found.name.key
        draft = self._draft(found.name)
        draft.news.append(mark)
        draft.items.append(item)
        draft.used.update(ident.key for ident in idents if ident.key != key)
        self._marks_of(key).add(mark)
        self.entries[key] = profile

    def check_storable(self) -> None:
        """Raises the error of encoding a changed customer before anything of the batch is journaled or written."""
        for key in self._drafts:
            if (entry := self.entries[key]) is not None:
                encode_entry(entry)

    async def write(self, pipeline: RedisPipeline, now: float) -> bool:
        """Writes every changed customer; returns False if another process changed one of them since the read."""
        drafts = list(self._drafts.values())
        if not await self._reserve(pipeline, drafts, now) or not await self._bind_and_freeze(pipeline, drafts):
            return False
        sources = [key for draft in drafts for key in draft.new_sources]  # they are frozen, so what is read is final
        full = [key for key in sources if is_full(self._seen.get(key, b""), self._rules.seen_limit)]
        values = await read_source_values(pipeline, sources, full)
        written = await asyncio.gather(*(self._write(pipeline, draft, values, now) for draft in drafts))
        done = [draft for draft, reply in zip(drafts, written, strict=True) if reply]
        self.written = [item for draft in done for item in draft.items]
        await asyncio.gather(*(call for draft in done for call in self._follow_up(pipeline, draft)))
        finished = [key for draft in done for key in draft.sources]
        if finished:
            await pipeline.send("HDEL", MERGES, *finished)
        return len(done) == len(drafts)

    async def _reserve(self, pipeline: RedisPipeline, drafts: Sequence[_CustomerWrite], now: float) -> bool:
        """Reserves new identifiers for their customers; returns False if another process was faster."""
        made: dict[ProfileKey, Reservation] = {}
        for draft in drafts:
            key = draft.name.key
            stored, entry = self._stored.get(key), self.entries[key]
            if isinstance(entry, Profile) and (draft.sources or draft.bound):
                before = stored.profile if isinstance(stored, FrozenProfile) else stored
                before = before if isinstance(before, Profile) else None
                found = reserve_identifiers(entry, before, self.reserved.get(key, ()), now)
                made |= {key: found} if found else {}
        written = await asyncio.gather(*(self._write_entry(pipeline, key, one.profile) for key, one in made.items()))
        for key, done in zip(made, written, strict=True):
            if done:
                self._stored[key] = made[key].profile
                self.reserved.setdefault(key, set()).update(made[key].names)
        return all(written)

    async def _bind_and_freeze(self, pipeline: RedisPipeline, drafts: Sequence[_CustomerWrite]) -> bool:
        """Binds new identifiers and freezes sources; returns False if another process was faster."""
        # One write per key: several customers of the batch may bind the same tablet.
        writes: dict[ProfileKey, Pointer | Profile | FrozenProfile] = {}
        for draft in drafts:
            for key in draft.sources.keys() | draft.bound:
                stored, entry = self._stored.get(key), self.entries[key]
                if key in draft.sources and isinstance(stored, Profile):
                    writes[key] = FrozenProfile(draft.name.key, draft.name.kind, draft.name.value, stored)
                elif not isinstance(stored, FrozenProfile) and isinstance(entry, Pointer | Profile):
                    writes.setdefault(key, entry)
        if not writes:
            return True
        frozen = [(key, entry.to) for key, entry in writes.items() if isinstance(entry, FrozenProfile)]
        if frozen:
            self.begun = [key for key, _ in frozen]
            await pipeline.send("HSET", MERGES, *(key for pair in frozen for key in pair))
            await pipeline.send("PEXPIRE", MERGES, _ms(self._rules.life))
        return all(await asyncio.gather(*(self._write_entry(pipeline, key, entry) for key, entry in writes.items())))

    def _write_entry(
        self, pipeline: RedisPipeline, key: ProfileKey, entry: Pointer | Profile | FrozenProfile
    ) -> "asyncio.Future[RedisReply]":
        """Writes an entry alone; data stored beside it stays unchanged."""
        before = entry_prefix(self._stored.get(key))
        values = (before, encode_entry(entry), self._life(entry), b"", 0, b"", 0, b"", b"", b"", "")
        return pipeline.call(_WRITE, keyspace.customer_keys(key), values)

    def _write(
        self, pipeline: RedisPipeline, draft: _CustomerWrite, values: SourceValues, now: float
    ) -> "asyncio.Future[RedisReply]":
        key = draft.name.key
        stored, entry = self._stored.get(key), self.entries[key]
        if not isinstance(entry, Profile):
            raise TypeError(f"{key} is written as a customer but is {type(entry).__name__}")
        entry = drop_reservations(entry, self.reserved.get(key, ()), now)
        entry, archive = split_profile(entry, self._rules)
        archived = ArchivedOrders(archive.orders, archive.facts)
        of_sources = (member for source in draft.new_sources for member in values.members[source])
        life = self._life(entry)
        theirs = [draft.sources[source].marks for source in draft.new_sources]
        seen = b"".join(self._seen.get(place, b"") for place in (*draft.new_sources, key))
        placed = place_digests(b"".join((entry.marks, *theirs, *draft.news)), seen, self._rules.seen_limit)
        older = encode_earlier(placed.leaving, (values.earlier.get(source, []) for source in draft.new_sources), now)
        version = stored.version + 1 if isinstance(stored, Profile) else 1
        return pipeline.call(
            _WRITE,
            keyspace.customer_keys(key),
            (
                entry_prefix(stored),
                encode_entry(replace(entry, version=version, marks=placed.marks)),
                life,
                placed.seen,
                _ms(self._rules.seen_life),
                merge_counts(values.counts.get(source) for source in draft.new_sources),
                life,
                b"" if archived == self._archived.get(key, ArchivedOrders({})) else encode_orders(archived),
                encode_members(archive.identifiers, of_sources),
                older,
                repr(now - self._rules.seen_life),
            ),
        )

    def _follow_up(self, pipeline: RedisPipeline, draft: _CustomerWrite) -> "list[asyncio.Future[RedisReply]]":
        """Turns merged profiles into pointers, and renews the expiry of used pointers."""
        to = draft.name.key
        life = self._life(self.entries[to])
        calls = []
        for key, profile in draft.sources.items():
            stored = self._stored.get(key)
            if not isinstance(stored, Profile | FrozenProfile):
                continue
            frozen = entry_prefix(stored) if isinstance(stored, FrozenProfile) else b"M" + to.encode()
            moved = self.entries[key]  # a later item of the batch may have rebound a merged tablet
            after = moved if isinstance(moved, Pointer | Profile) else Pointer(to)
            calls.append(pipeline.call(_BECOME, keyspace.customer_keys(key), (frozen, encode_entry(after), life)))
            aliases = {self._hash(kind, value) for kind in KINDS for value in profile.ids.get(kind, ())}
            calls += [
                pipeline.call(
                    _BECOME,
                    keyspace.customer_keys(alias),
                    (encode_entry(Pointer(key)), encode_entry(Pointer(to)), life),
                )
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
            draft = self._drafts[name.key] = _CustomerWrite(name=name)
        return draft

    def _marks_of(self, key: ProfileKey) -> set[bytes]:
        marks = self._marks.get(key)
        if marks is None:
            entry = self._stored.get(key)
            profile = entry.profile if isinstance(entry, FrozenProfile) else entry
            inline = profile.marks if isinstance(profile, Profile) else b""
            marks = self._marks[key] = split_digests(self._seen.get(key, b"") + inline)
        return marks

    def _life(self, entry: Entry) -> int:
        known = isinstance(entry, Profile) and entry.is_known and not entry.shared
        return _ms(
            self._rules.life if known or isinstance(entry, Pointer | FrozenProfile) else self._rules.anonymous_life
        )


def _ms(seconds: float) -> int:
    return int(seconds * 1000)

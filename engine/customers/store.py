"""The customers in Redis: read in one coalesced round trip, written by events, the same on every channel."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from engine import keyspace
from engine.catalog.spec.profile_rules import ProfileRules
from engine.customer import WEAK, Counts, CustomerIds, Profile
from engine.customers.ingest import IngestQueue
from engine.customers.model.events import Accepted, Event, EventStatus
from engine.customers.model.identity import EntryNotRead, resolve_identity
from engine.customers.redis import keys
from engine.customers.redis.counts import decode_counts, merge_counts
from engine.customers.redis.keys import KeyedId, ProfileKey
from engine.customers.redis.lookup import find_customer
from engine.customers.redis.pipeline import FollowUp, RedisPipeline, StoredValue, StoredValues, connect_store
from engine.customers.redis.stored_entry import Entry, decode_entry, encode_entry
from engine.customers.unfinished_merges import find_unfinished_merges
from engine.errors import BadInput

if TYPE_CHECKING:
    import asyncio

EventJournal = Callable[[list[Accepted]], Awaitable[None]]


class FetchedCustomer(msgspec.Struct, frozen=True):
    """The customer of a request, with everything their identifiers name already merged into the view.

    `known`: the store had them before. `settled`: it says already who they are, with nothing to bind or merge.
    `erased`: they asked to be forgotten; nothing of them may be written. `key` is where their claims are, `counts`
    what was counted for them, if asked for.
    """

    profile: Profile
    key: ProfileKey
    identifiers: list[KeyedId]
    is_known: bool
    is_settled: bool
    is_erased: bool = False
    counts: Counts = {}


class ProfileStore:
    """Customers by any of their identifiers. One per process and event loop.

    Every method raises StoreUnavailable where Redis does not answer in time, is read-only or refuses a write.
    """

    def __init__(
        self, pipeline: RedisPipeline, rules: ProfileRules | None = None, secret: bytes = b"counterpoint"
    ) -> None:
        """Customers behind `pipeline`; their keys are hashed with `secret`, and another secret finds none of them."""
        self.pipeline: Final = pipeline
        self.rules = rules or ProfileRules()
        self.hash_key: Final = keys.key_hasher(secret)
        self._ingest = IngestQueue(pipeline, self.rules, self.hash_key)

    @classmethod
    def open(
        cls, url: str, rules: ProfileRules | None = None, *, timeout: float = 0.05, secret: bytes = b"counterpoint"
    ) -> "ProfileStore":
        """The store at `url`, as `pipeline.connect` takes it. Nothing is sent yet."""
        return cls(RedisPipeline(connect_store(url, timeout)), rules, secret)

    def use_rules(self, rules: ProfileRules) -> None:
        """Keep customers by `rules` from now on."""
        self.rules = self._ingest.rules = rules

    def fetch(self, ids: CustomerIds, now: float, *, counts: bool = False) -> "asyncio.Future[FetchedCustomer]":
        """The customer that `ids` name at `now` (s since 1970); one never seen is a fresh profile.

        With `counts` it says what they were shown and refused too.

        All fetches of one event-loop tick share a round trip; a pointer that leads elsewhere costs a second.

        Raises:
            BadInput: if no identifier is given.
        """
        idents = keys.keyed_ids(ids, self.hash_key)
        if not idents:
            raise BadInput("customer: no identifier; send at least one of user_id, anonymous_id, email, phone, …")
        rules = self.rules
        key = idents[0].key
        names = [keyspace.profile(ident.key) for ident in idents]
        if counts:
            names.append(keyspace.counters(key))

        def look(values: StoredValues) -> FetchedCustomer | FollowUp:
            counted = {key: values[-1]} if counts else None
            entry = decode_entry(values[0])
            if type(entry) is Profile and (len(idents) == 1 or _points_here(values[1 : len(idents)], key)):
                shown = decode_counts(values[-1]) if counts else {}
                return FetchedCustomer(entry, key, idents, is_known=True, is_settled=True, counts=shown)
            entries: dict[ProfileKey, Entry] = {key: entry}
            for ident, value in zip(idents[1:], values[1 : len(idents)], strict=True):
                entries[ident.key] = decode_entry(value)
            return _resolved(idents, entries, counted, rules, now)

        return self.pipeline.get(names, look)

    async def bind_customer(self, resolved: FetchedCustomer, now: float, journal: EventJournal) -> None:
        """Make the store say what `resolved` says, as a decision for them is seen now.

        Known from first contact, aliases bound, a login's visitor merged, and the unit theirs for good. `journal` is
        told of merges before they are written. Does nothing where all is said, and for the erased.
        """
        if resolved.is_erased or (resolved.is_settled and not resolved.profile.undecided):
            return
        if not resolved.is_known and len(resolved.identifiers) == 1:
            life = self.rules.anonymous_life if resolved.identifiers[0].kind in WEAK else self.rules.life
            value = encode_entry(msgspec.structs.replace(resolved.profile, version=1, undecided=False))
            if await self.pipeline.send("SET", keyspace.profile(resolved.key), value, "PX", int(life * 1000), "NX"):
                return  # else an event was quicker, which leaves them undecided
        await self._ingest.login(resolved.identifiers, now, journal, resolved.profile.unit)

    async def bind_exposed(self, ids: CustomerIds, unit: str, now: float, journal: EventJournal) -> bool:
        """Take up whom a prefetched decision is seen by now, who was `unit` when it was made; False for the erased.

        Whoever has another unit by now (they logged in meanwhile) keeps it and remembers this one.
        """
        resolved = await self.fetch(ids, now)
        if resolved.is_erased:
            return False
        profile = resolved.profile
        if not resolved.is_settled or profile.undecided or unit not in (profile.unit, *profile.units):
            await self._ingest.login(resolved.identifiers, now, journal, unit)
        return True

    async def ingest(
        self, batch: Sequence[Event | EventStatus], received: float, journal: EventJournal
    ) -> list[EventStatus]:
        """Count the events of a batch, once each; a status per item, in order. What was refused before stays so.

        `journal` is told of every accepted event, and has it, before a profile changes. Events of one customer, of
        all the batches that wait, are one write.
        """
        return await self._ingest.batch(batch, received, journal)

    async def find(self, identifier: str) -> Profile | None:
        """The customer whom `identifier` names, whatever kind it is of, the strongest kind first."""
        found = await find_customer(self.pipeline, self.hash_key, identifier)
        return found[1] if found else None

    async def finish_merges(self, now: float, journal: EventJournal) -> int:
        """Finish the merges that a crash left half done; how many. Call it at start and every minute or so."""
        unfinished = await find_unfinished_merges(self.pipeline, self.rules)
        for source, frozen in unfinished:
            idents = [KeyedId(frozen.kind, frozen.id, frozen.to), KeyedId("anonymous_id", "", source)]
            await self._ingest.login(idents, now, journal, "")
        return len(unfinished)

    async def close(self) -> None:
        """Close the connections."""
        await self.pipeline.close()


def _points_here(values: StoredValues, key: ProfileKey) -> bool:
    """Whether every further identifier points to the customer at `key`."""
    here = b">" + key.encode()
    return all(value is not None and value.startswith(here) for value in values)


def _resolved(
    idents: list[KeyedId],
    entries: dict[ProfileKey, Entry],
    counted: dict[ProfileKey, StoredValue] | None,
    rules: ProfileRules,
    now: float,
) -> FetchedCustomer | FollowUp:
    """The customer, once every entry and, unless `counted` is None, every count that matters was read."""
    try:
        found = resolve_identity(idents, entries, rules, now)
    except EntryNotRead as missing:
        key = missing.key

        def look(values: StoredValues) -> FetchedCustomer | FollowUp:
            entries[key] = decode_entry(values[0])
            return _resolved(idents, entries, counted, rules, now)

        return FollowUp([keyspace.profile(key)], look)
    places = [found.name.key, *(source.key for source in found.sources if not source.is_absorbed)]
    if counted is not None and (missing_ := [key for key in places if key not in counted]):

        def look_at_counts(values: StoredValues) -> FetchedCustomer | FollowUp:
            return _resolved(idents, entries, counted | dict(zip(missing_, values, strict=True)), rules, now)

        return FollowUp([keyspace.counters(key) for key in missing_], look_at_counts)
    return FetchedCustomer(
        found.profile,
        found.name.key,
        idents,
        is_known=found.base is not None or bool(found.sources),
        is_settled=found.is_settled,
        is_erased=found.is_erased,
        counts=decode_counts(merge_counts(counted[key] for key in places) or None) if counted is not None else {},
    )

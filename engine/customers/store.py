"""The store of customers in Redis: read in one coalesced round trip, written by events, the same on every channel.

Invariants:
- A fetch sees every write that was acknowledged before it, by any process (promise 5). Nothing is cached.
- A fetch writes nothing. The view that it returns contains the merges that the next write will make.
- A customer is bucketed by their unit. It is final once a decision is exposed (`bind_customer`, `bind_exposed`).
- An erased customer is fetched as `is_erased`, and no method writes anything for them.

Redis formats are documented in `redis/stored_entry.py` (the entry), `write_batch.py` (message digests, merges) and
`redis/counts.py` (counters); `engine/keyspace.py` names the keys.

States of a customer: unknown -> stored by an event, `undecided` -> stored with a final unit -> merged into another
customer or erased. A first exposure goes from unknown to a final unit in one write.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final, cast

import msgspec

from engine import keyspace
from engine.catalog.spec.identifiers import present_ids
from engine.catalog.spec.profile_rules import ProfileRules
from engine.customer import WEAK, Counts, CustomerIds, Profile
from engine.customers.ingest import IngestQueue
from engine.customers.model.events import Event, EventJournal, EventStatus
from engine.customers.model.identity import EntryNotRead, resolve_identity
from engine.customers.redis import keys
from engine.customers.redis.counts import decode_counts, merge_counts
from engine.customers.redis.keys import KeyedId, ProfileKey
from engine.customers.redis.lookup import find_customer
from engine.customers.redis.pipeline import FollowUp, RedisPipeline, StoredValue, StoredValues, connect_store
from engine.customers.redis.read_connection import ReadOutcome, connect_reads
from engine.customers.redis.stored_entry import Entry, decode_entry, encode_entry
from engine.customers.unfinished_merges import find_unfinished_merges
from engine.errors import BadInput


class FetchedCustomer(msgspec.Struct, frozen=True, kw_only=True):
    """The customer of a request; `profile` contains the merges that the identifiers imply.

    Attributes:
        key: the key of the profile and of its claims.
        is_known: whether the store has the customer.
        is_settled: whether every identifier is bound to the customer and no merge is pending.
        is_erased: whether the customer was erased, so nothing may be written for them.
        counts: the counters of the customer, if requested.
    """

    profile: Profile
    key: ProfileKey
    identifiers: list[KeyedId]
    is_known: bool
    is_settled: bool
    is_erased: bool = False
    counts: Counts = {}


BatchFetch = FetchedCustomer | asyncio.Future[FetchedCustomer] | Exception
"""One customer of a batch: as read, to be read by a second look-up, or the error of reading."""
LookAtCustomer = Callable[[StoredValues], FetchedCustomer | FollowUp]
_NOT_READ = RuntimeError("the values of this customer were not looked at")


class ProfileStore:
    """Finds and writes customers by any of their identifiers. One per process and event loop.

    Every method raises StoreUnavailable if Redis does not answer in time, is read-only or refuses a write.
    """

    def __init__(
        self, pipeline: RedisPipeline, rules: ProfileRules | None = None, secret: bytes = b"counterpoint"
    ) -> None:
        """Opens the customers behind `pipeline`; `secret` keys the hash of their identifiers."""
        self.pipeline: Final = pipeline
        self.rules = rules or ProfileRules()
        self.hash_key: Final = keys.key_hasher(secret)
        self._ingest = IngestQueue(pipeline, self.rules, self.hash_key)

    @classmethod
    def open(
        cls, url: str, rules: ProfileRules | None = None, *, timeout: float = 0.05, secret: bytes = b"counterpoint"
    ) -> "ProfileStore":
        """Returns the store at `url`, which `connect_store` takes. Sends nothing yet."""
        return cls(RedisPipeline(connect_store(url, timeout), connect_reads(url, timeout)), rules, secret)

    def use_rules(self, rules: ProfileRules) -> None:
        """Uses `rules` from now on."""
        self.rules = self._ingest.rules = rules

    def fetch(self, ids: CustomerIds, now: float, *, counts: bool = False) -> asyncio.Future[FetchedCustomer]:
        """Returns the customer that `ids` name at `now` (s since 1970), a new profile if there is none.

        With `counts` the result has the customer's counters too. All fetches of one event-loop tick share a round
        trip; a pointer to another customer costs a second one.

        Raises:
            BadInput: if no identifier is given.
        """
        names, look = self._look_up(present_ids(ids, self.rules.placeholders), now, counts=counts)
        return self.pipeline.get(names, look)

    def fetch_batch(
        self, batch: Sequence[tuple[CustomerIds, float]], take: Callable[[list[BatchFetch]], None], *, counts: bool
    ) -> None:
        """Reads a batch of customers in one round trip of its own; `take` gets for each what `fetch` returns.

        The identifiers are without placeholders. A customer that needs a second look-up is a future of it; a store that
        does not answer in time is the error of each. `take` is called in a later tick, and must not raise.
        """
        found: list[BatchFetch] = []
        looks: list[tuple[int, slice, LookAtCustomer]] = []
        wanted: list[str] = []
        for ids, now in batch:
            try:
                names, look = self._look_up(ids, now, counts=counts)
            except BadInput as error:
                found.append(error)
                continue
            looks.append((len(found), slice(len(wanted), len(wanted) + len(names)), look))
            found.append(_NOT_READ)
            wanted += names

        def take_values(values: ReadOutcome) -> None:
            for place, of_customer, look in looks:
                found[place] = values if isinstance(values, Exception) else self._read_one(look, values[of_customer])
            take(found)

        if wanted:
            self.pipeline.get_at_once(wanted, take_values)
        else:
            asyncio.get_running_loop().call_soon(take, found)

    def _read_one(self, look: LookAtCustomer, values: StoredValues) -> BatchFetch:
        try:
            found = look(values)
        except Exception as error:  # noqa: BLE001 (it is of this customer; the others are read)
            return error
        if isinstance(found, FollowUp):
            return self.pipeline.get(found.keys, cast("LookAtCustomer", found.read))
        return found

    def _look_up(self, ids: CustomerIds, now: float, *, counts: bool) -> tuple[list[str], LookAtCustomer]:
        """The keys of a customer's entries, and the function that reads their values. Errors as in `fetch`."""
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
                return FetchedCustomer(
                    profile=entry, key=key, identifiers=idents, is_known=True, is_settled=True, counts=shown
                )
            entries: dict[ProfileKey, Entry] = {key: entry}
            for ident, value in zip(idents[1:], values[1 : len(idents)], strict=True):
                entries[ident.key] = decode_entry(value)
            return _resolved(idents, entries, counted, rules, now)

        return names, look

    async def bind_customer(self, resolved: FetchedCustomer, now: float, journal: EventJournal) -> None:
        """Writes the customer that a decision was exposed to: its bindings, its merges and its final unit.

        `journal` gets the merges before they are written. Does nothing if the store needs no write, and for erased
        customers.
        """
        if resolved.is_erased or (resolved.is_settled and not resolved.profile.undecided):
            return
        if not resolved.is_known and len(resolved.identifiers) == 1:
            life = self.rules.anonymous_life if resolved.identifiers[0].kind in WEAK else self.rules.life
            value = encode_entry(msgspec.structs.replace(resolved.profile, version=1, undecided=False))
            if await self.pipeline.send("SET", keyspace.profile(resolved.key), value, "PX", int(life * 1000), "NX"):
                return  # otherwise an event was faster and left the customer undecided
        await self._ingest.login(resolved.identifiers, now, journal, resolved.profile.unit)

    async def bind_exposed(self, ids: CustomerIds, unit: str, now: float, journal: EventJournal) -> bool:
        """Writes the customer of an exposed prefetched decision that was bucketed by `unit`; False if erased.

        A customer with another unit (after a login since the decision) keeps it and lists this one in `units`.
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
        """Counts each event of a batch once; returns a status per item, in order. A given status stays as it is.

        `journal` has every accepted event before a profile changes. The events of one customer in all waiting batches
        are one write.
        """
        return await self._ingest.batch(batch, received, journal)

    def take_bounded(self) -> Counter[str]:
        """The number of times that the series of each trait passed its bound since the last call."""
        taken, self._ingest.bounded = self._ingest.bounded, Counter()
        return taken

    async def find(self, identifier: str) -> Profile | None:
        """Returns the customer that `identifier` names as any kind, the strongest kind first."""
        found = await find_customer(self.pipeline, self.hash_key, identifier)
        return found[1] if found else None

    async def finish_merges(self, now: float, journal: EventJournal) -> int:
        """Completes the merges that a crash interrupted; returns their number. Call it at start and once a minute."""
        unfinished = await find_unfinished_merges(self.pipeline, self.rules)
        for source, frozen in unfinished:
            idents = [KeyedId(frozen.kind, frozen.id, frozen.to), KeyedId("anonymous_id", "", source)]
            await self._ingest.login(idents, now, journal, "")
        return len(unfinished)

    async def close(self) -> None:
        """Closes the connections."""
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
    """Returns the customer, or the next look-up if an entry or (unless `counted` is None) a count is not read yet."""
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
        profile=found.profile,
        key=found.name.key,
        identifiers=idents,
        is_known=found.base is not None or bool(found.sources),
        is_settled=found.is_settled,
        is_erased=found.is_erased,
        counts=decode_counts(merge_counts(counted[key] for key in places) or None) if counted is not None else {},
    )

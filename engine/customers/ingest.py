"""Ingestion of events into profiles. `IngestQueue` is the only writer of profiles in a process.

Invariants:
- An accepted event is in the journal before a profile changes, so the log never lacks an event that a profile counts.
- A message id counts once per customer. A repeat that arrives after a write but before its answer is a duplicate.
- A write replaces only what was read (`WriteBatch`); if another process was faster, it reads and reduces again.
- An event of an erased customer is rejected, and nothing of it is written.
- An item that cannot be applied, or whose customer could not be stored with it, fails alone: where a batch does, it is
  reduced again with every item tried by itself first. Such an event is rejected before it is journaled.

States of an item: waiting -> journaled -> written. Each attempt journals an item at most once, so an item that is
journaled but not written is not journaled again. `status`, or the `error` of a login, is set when the outcome is known.

Batches that arrive while one is written form the next one, so the events of one customer are one write.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from engine import keyspace
from engine.catalog.spec.profile_rules import ProfileRules
from engine.customers.model.computed.series import newly_bounded
from engine.customers.model.consent_sums import link_sources, source_tag
from engine.customers.model.event_warnings import full_profile_warnings, limit_warnings
from engine.customers.model.events import (
    Accepted,
    Event,
    EventJournal,
    EventStatus,
    accepted_event,
    customer_ids,
    event_time,
)
from engine.customers.model.identity import EntryNotRead, ResolvedIdentity, resolve_identity
from engine.customers.model.merge import record_unit
from engine.customers.model.reducers import apply_event
from engine.customers.redis import keys
from engine.customers.redis.counted import message_digest
from engine.customers.redis.keys import KeyedId, KeyHasher, ProfileKey
from engine.customers.redis.pipeline import RedisPipeline
from engine.customers.redis.stored_entry import encode_entry
from engine.customers.time_slice import TimeSlice
from engine.customers.write_batch import WriteBatch
from engine.errors import StoreUnavailable
from engine.vocabulary import REFUNDS

ATTEMPTS = 32
UNREADABLE = (
    "the stored customer cannot be read: it is damaged, or a newer version wrote it. Nothing was changed; update the "
    "server, or restore the customer, and send the item again"
)
UNSTORABLE = (
    "the customer cannot be stored with this event ({error}). Nothing was changed; send the item without that value"
)
BATCH = 100  # a larger batch would delay the decisions of this process


class _IngestItem:
    """An event, or a login without one: the exposure of a decision that was bucketed by `unit`."""

    __slots__ = (
        *("error", "event", "idents", "journal", "journaled", "mark", "received", "status", "time", "unit"),
        "written",
    )

    def __init__(
        self,
        *,
        event: Event | None,
        idents: list[KeyedId],
        time: float,
        received: float,
        journal: EventJournal,
        unit: str = "",
    ) -> None:
        self.event = event
        self.unit = unit
        self.idents = idents
        self.time = time
        self.received = received
        self.journal = journal
        self.mark = message_digest(event.message_id) if event is not None else b""
        self.journaled = False
        self.written = False
        self.status: EventStatus | None = None
        self.error: Exception | None = None


class _Reduced(NamedTuple):
    """The items that were applied to a batch, their newly accepted events by journal, and series that became full."""

    items: list[_IngestItem]
    accepted: dict[EventJournal, list[Accepted]]
    bounded: Counter[str]


class _QueuedItems(NamedTuple):
    items: list[_IngestItem]
    future: "asyncio.Future[None]"


class IngestQueue:
    """Writes events and logins of one process, a batch at a time."""

    def __init__(self, pipeline: RedisPipeline, rules: ProfileRules, hash_: KeyHasher) -> None:
        self._pipeline = pipeline
        self.rules = rules
        self._hash = hash_
        self.bounded: Counter[str] = Counter()
        """The number of times that the series of a trait passed its bound since the last read, which clears it."""
        self._waiting: list[_QueuedItems] = []
        self._running: asyncio.Task[None] | None = None

    async def batch(
        self, batch: Sequence[Event | EventStatus], received: float, journal: EventJournal
    ) -> list[EventStatus]:
        """Ingests a batch and returns a status per item; errors as in `ProfileStore`."""
        items = [
            _IngestItem(
                event=event,
                idents=keys.keyed_ids(customer_ids(event), self._hash),
                time=event_time(event, received),
                received=received,
                journal=journal,
            )
            for event in batch
            if isinstance(event, Event)
        ]
        await self._add(items)
        done = iter(items)
        return [
            item if isinstance(item, EventStatus) else next(done).status or EventStatus("rejected", item.message_id)
            for item in batch
        ]

    async def login(self, idents: list[KeyedId], now: float, journal: EventJournal, unit: str) -> None:
        """Binds the identifiers and merges their customers, after an exposure of a decision that hashed `unit`."""
        await self._add([_IngestItem(event=None, idents=idents, time=now, received=now, journal=journal, unit=unit)])

    async def _add(self, items: list[_IngestItem]) -> None:
        loop = asyncio.get_running_loop()
        items = sorted(items, key=lambda item: item.time)
        for start in range(0, len(items), BATCH):
            future: asyncio.Future[None] = loop.create_future()
            self._waiting.append(_QueuedItems(items[start : start + BATCH], future))
            if self._running is None:
                self._running = loop.create_task(self._run())
            await future

    async def _run(self) -> None:
        try:
            while self._waiting:
                taken: list[_QueuedItems] = []
                size = 0
                while self._waiting and size < BATCH:
                    taken.append(self._waiting.pop(0))
                    size += len(taken[-1].items)
                try:
                    await self._write([item for waiting in taken for item in waiting.items])
                except Exception as error:  # noqa: BLE001 (the waiting callers get the error; later batches continue)
                    for waiting in taken:
                        if not waiting.future.done():
                            waiting.future.set_exception(error)
                for waiting in taken:
                    fault = next((item.error for item in waiting.items if item.error is not None), None)
                    if not waiting.future.done():
                        waiting.future.set_result(None) if fault is None else waiting.future.set_exception(fault)
        finally:
            self._running = None

    async def _write(self, items: list[_IngestItem]) -> None:
        items = sorted(items, key=lambda item: item.time)
        begun: set[ProfileKey] = set()
        reserved: dict[ProfileKey, set[str]] = {}
        now = max(item.received for item in items)
        one_by_one = False
        for _ in range(ATTEMPTS):
            batch = WriteBatch(self.rules, self._hash, reserved)
            await self._load(batch, items, begun)
            try:
                reduced = await self._reduce(items, batch, one_by_one=one_by_one)
                batch.check_storable()
            except Exception:
                if one_by_one:
                    raise
                one_by_one = True
                continue
            for journal, accepted in reduced.accepted.items():
                await journal(accepted)
            self.bounded.update(reduced.bounded)
            for item in reduced.items:
                item.journaled = True
            if await batch.write(self._pipeline, now):
                return
            begun.update(batch.begun)
            for number in batch.written:
                items[number].written = True
        raise StoreUnavailable(f"a customer changed {ATTEMPTS} times while they were written; send the batch again")

    async def _load(self, batch: WriteBatch, items: list[_IngestItem], begun: set[ProfileKey]) -> None:
        """Reads the entries that the items name and those whose merge has `begun`, and follows their pointers."""
        missing = begun | {ident.key for item in items for ident in item.idents}
        while missing:
            wanted = sorted(missing)
            names = [
                name
                for key in wanted
                for name in (keyspace.profile(key), keyspace.counted_messages(key), keyspace.archived_orders(key))
            ]
            values = await self._pipeline.get(names, list)
            for index, key in enumerate(wanted):
                value, seen, orders = values[3 * index : 3 * index + 3]
                batch.put(key, value, seen, orders)
            missing = batch.unread_targets()
        await batch.find_earlier(self._pipeline, [item.mark for item in items if item.mark])

    async def _reduce(self, items: Sequence[_IngestItem], batch: WriteBatch, *, one_by_one: bool) -> _Reduced:
        """Applies every item to the batch; with `one_by_one` each is tried first, and a failing one is left out.

        Other requests run in between: nothing is written until all items are applied, and `write` detects changes.
        """
        time_slice = TimeSlice()
        reduced = _Reduced([], {}, Counter())
        for idents in batch.pending():
            with contextlib.suppress(EntryNotRead):  # of values that cannot be read: the merge stays as it is
                if not (found := resolve_identity(idents, batch.entries, self.rules, items[0].received)).is_erased:
                    batch.settle(found, items[0].received, items[0].received, idents)
        for number, item in enumerate(items):
            if item.written:
                continue
            await time_slice.give_way()
            event = item.event
            try:
                found = resolve_identity(item.idents, batch.entries, self.rules, item.time)
            except EntryNotRead as missing:
                if event is None:
                    item.error = batch.unreadable[missing.key]
                else:
                    item.status = EventStatus("rejected", event.message_id, UNREADABLE)
                continue
            if found.is_erased:
                if event is not None:
                    item.status = EventStatus(
                        "rejected", event.message_id, "the customer was erased; nothing is kept of them"
                    )
                continue
            if event is not None and batch.counted(found, item.idents, item.mark):
                item.status = item.status or EventStatus("duplicate", event.message_id)
                continue
            if one_by_one and (error := self._try(item, found)) is not None:
                if event is None:
                    item.error = error
                else:
                    item.status = EventStatus("rejected", event.message_id, UNSTORABLE.format(error=error))
                continue
            self._apply(item, number, found, batch, reduced)
        return reduced

    def _try(self, item: _IngestItem, found: ResolvedIdentity) -> Exception | None:
        """The error of applying an item to its merged customer and encoding the result; None if it succeeds."""
        after = found.profile
        try:
            if item.event is not None:
                after = apply_event(after, item.event, item.time, self.rules)
            encode_entry(after)
        except Exception as error:  # noqa: BLE001 (it is of this item; the others are written)
            return error
        return None

    def _apply(
        self, item: _IngestItem, number: int, found: ResolvedIdentity, batch: WriteBatch, reduced: _Reduced
    ) -> None:
        """Applies one item, which is `number` of the batch."""
        event, item.error = item.event, None
        news = batch.settle(found, item.time, item.received, item.idents)
        profile = batch.profile(found)
        if event is None:
            sources = [source_tag(ident.kind, ident.value) for ident in item.idents if ident.value]
            batch.keep(found, record_unit(link_sources(profile, sources, item.time), item.unit, item.time))
        else:
            after = apply_event(profile, event, item.time, self.rules)
            batch.change(found, after, item.mark, item.idents, number)
            if self.rules.computed.rules and not item.journaled:
                reduced.bounded.update(newly_bounded(profile, after, self.rules.computed))
            taken_back = profile.revenue - after.revenue if event.event in REFUNDS else 0.0
            news.append(accepted_event(event, after.id, item.time, item.received, taken_back))
            warnings = [*limit_warnings(found), *full_profile_warnings(event, after, self.rules)]
            item.status = EventStatus("accepted", event.message_id, warnings=warnings)
        if news and not item.journaled:
            reduced.accepted.setdefault(item.journal, []).extend(news)
        reduced.items.append(item)

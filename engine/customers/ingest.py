"""Events into profiles: read, reduce, journal, then write only over what was read; what waits goes together."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from engine import keyspace
from engine.catalog.spec.profile_rules import ProfileRules
from engine.customers.model.consent_sums import link_sources, source_tag
from engine.customers.model.events import Accepted, Event, EventStatus, accepted_event, customer_ids, event_time
from engine.customers.model.identity import resolve_identity
from engine.customers.model.merge import record_unit
from engine.customers.model.reducers import apply_event
from engine.customers.redis import keys
from engine.customers.redis.keys import KeyedId, KeyHasher, ProfileKey
from engine.customers.redis.pipeline import RedisPipeline
from engine.customers.write_batch import WriteBatch, message_digest
from engine.errors import StoreUnavailable
from engine.vocabulary import REFUNDS

ATTEMPTS = 32
BATCH = 100  # more would keep the decisions of this process waiting

EventJournal = Callable[[list[Accepted]], Awaitable[None]]


class _IngestItem:
    """One event, or without one a decision that is seen (by `unit`), on its way; `status` is set once it is settled."""

    __slots__ = ("event", "idents", "journal", "journaled", "mark", "received", "status", "time", "unit", "written")

    def __init__(
        self,
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


class _QueuedItems(NamedTuple):
    items: list[_IngestItem]
    future: "asyncio.Future[None]"


class IngestQueue:
    """The one writer of profiles in a process: batches that come while one is written are the next."""

    def __init__(self, pipeline: RedisPipeline, rules: ProfileRules, hash_: KeyHasher) -> None:
        self._pipeline = pipeline
        self.rules = rules
        self._hash = hash_
        self._waiting: list[_QueuedItems] = []
        self._running: asyncio.Task[None] | None = None

    async def batch(
        self, batch: Sequence[Event | EventStatus], received: float, journal: EventJournal
    ) -> list[EventStatus]:
        """A status per item; errors as in `ProfileStore`."""
        items = [
            _IngestItem(
                event, keys.keyed_ids(customer_ids(event), self._hash), event_time(event, received), received, journal
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
        """Bind and merge what `idents` name, of whom a decision was seen that hangs on `unit` (empty: none was)."""
        await self._add([_IngestItem(None, idents, now, now, journal, unit)])

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
                    await self._count([item for waiting in taken for item in waiting.items])
                except Exception as error:  # noqa: BLE001 (whoever waits gets it; the next batches go on)
                    for waiting in taken:
                        if not waiting.future.done():
                            waiting.future.set_exception(error)
                for waiting in taken:
                    if not waiting.future.done():
                        waiting.future.set_result(None)
        finally:
            self._running = None

    async def _count(self, items: list[_IngestItem]) -> None:
        items = sorted(items, key=lambda item: item.time)
        begun: set[ProfileKey] = set()
        for _ in range(ATTEMPTS):
            bench = await self._load(items, begun)
            for journal, accepted in self._reduce(items, bench).items():
                await journal(accepted)
            if await bench.write(self._pipeline):
                return
            begun.update(bench.begun)
            for number in bench.written:
                items[number].written = True
        raise StoreUnavailable(f"a customer changed {ATTEMPTS} times while they were written; send the batch again")

    async def _load(self, items: list[_IngestItem], begun: set[ProfileKey]) -> WriteBatch:
        """Everything the items name and the visitors whose merge was `begun`, with what they lead to."""
        bench = WriteBatch(self.rules, self._hash)
        missing = begun | {ident.key for item in items for ident in item.idents}
        while missing:
            wanted = sorted(missing)
            names = [name for key in wanted for name in (keyspace.profile(key), keyspace.counted_messages(key))]
            values = await self._pipeline.get(names, list)
            for index, key in enumerate(wanted):
                bench.put(key, values[2 * index], values[2 * index + 1])
            missing = bench.led_to()
        return bench

    def _reduce(self, items: Sequence[_IngestItem], bench: WriteBatch) -> dict[EventJournal, list[Accepted]]:
        """Reduce every item on the bench; what is newly accepted, by the journal to tell."""
        told: dict[EventJournal, list[Accepted]] = {}
        for idents in bench.pending():
            if not (found := resolve_identity(idents, bench.entries, self.rules, items[0].received)).is_erased:
                bench.settle(found, items[0].received, items[0].received, idents)
        for number, item in enumerate(items):
            if item.written:
                continue
            event = item.event
            found = resolve_identity(item.idents, bench.entries, self.rules, item.time)
            if found.is_erased:
                if event is not None:
                    item.status = EventStatus(
                        "rejected", event.message_id, "the customer was erased; nothing is kept of them"
                    )
                continue
            if event is not None and bench.counted(found, item.idents, item.mark):
                item.status = item.status or EventStatus("duplicate", event.message_id)
                continue
            news = bench.settle(found, item.time, item.received, item.idents)
            profile = bench.profile(found)
            if event is None:
                named = [source_tag(ident.kind, ident.value) for ident in item.idents if ident.value]
                bench.keep(found, record_unit(link_sources(profile, named, item.time), item.unit, item.time))
            else:
                after = apply_event(profile, event, item.time, self.rules)
                bench.change(found, after, item.mark, item.idents, number)
                taken_back = profile.revenue - after.revenue if event.event in REFUNDS else 0.0
                news.append(accepted_event(event, after.id, item.time, item.received, taken_back))
                item.status = EventStatus("accepted", event.message_id)
            if news and not item.journaled:
                told.setdefault(item.journal, []).extend(news)
            item.journaled = True
        return told

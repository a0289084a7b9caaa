"""Rewards joined to the decisions that earned them, record by record, by the clock of the streams alone.

What this makes of the records depends on their order and on nothing else, so a learner that was killed and reads them
again, in other batches, learns the same.
"""

import heapq
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from engine.journal.records import (
    DecisionRecord,
    DecisionRow,
    EventRecord,
    ExposureRecord,
    QuarantineRecord,
    RewardRecord,
    encode,
)
from engine.learn.aliases import Aliases
from engine.learn.early_arrivals import EarlyArrival, EarlyArrivals, EarlyRecord
from engine.learn.merge_streams import Stamped
from engine.learn.pending import BARE, CLOSED, OPEN, PAID, REVERSED, WAITING, ZERO, Board, Pending
from engine.learn.reward_rules import Properties, Rules, order_of, properties_of
from engine.vocabulary import MERGED, REFUNDS

HOLD = 300.0  # how long a record waits for what it belongs to
DAY = 86_400.0
REVERSIBLE = 30 * DAY  # how long after its exposure a reward can be taken back
SOURCE = "learner"
_json = msgspec.json.Encoder()


class Lesson(NamedTuple):
    """One thing to learn: `row` earned `reward`, in place of `instead` that was learnt before."""

    row: Pending
    reward: float
    instead: float | None


class Join:
    """Takes the records of one batch; `lessons`, `log` and `aside` are what came out."""

    def __init__(self, rules: Rules, board: Board, early: EarlyArrivals, aliases: Aliases) -> None:
        self.lessons: list[Lesson] = []
        self.log: list[tuple[int, RewardRecord | QuarantineRecord]] = []
        self.aside: Counter[str] = Counter()
        self._rules = rules
        self._board = board
        self._early = early
        self._aliases = aliases
        self._heap: list[tuple[float, str, str]] = []
        self._horizon = 0.0
        self._clock = 0.0
        self._waiting: dict[str, EarlyArrival] = {}

    def run(self, records: Iterable[Stamped], clock: float, until: float) -> None:
        """Take records in their order; the clock goes from `clock` to `until`."""
        self._clock, self._horizon = clock, until
        for row in self._board.load_due(until):
            self._schedule(row, row.due)
        waited = self._early.load_due(until)
        self._board.load({waiting.record.decision_id for waiting in waited if waiting.record.decision_id}, ())
        for waiting in waited:
            self._watch(waiting)
        for at, partition, record in records:
            self._advance(at)
            if isinstance(record, DecisionRecord):
                self._decided(record, partition)
            elif isinstance(record, ExposureRecord):
                self._exposed(record, partition, self._clock + HOLD)
            elif isinstance(record, EventRecord) and self._rules.relevant(record.event):
                self._happened(record, partition, self._clock + HOLD)
        self._advance(until)

    def _decided(self, record: DecisionRecord, partition: int) -> None:
        if self._board.of(record.decision_id):
            self.aside["decision twice"] += 1
            return
        offers = [row for row in record.rows if row.kind == "offer" and row.policy and row.variant]
        if not all(0 < row.propensity <= 1 for row in offers):
            self.aside["propensity outside (0, 1]"] += 1
            offers = []
        for row in offers:
            self._pend(record, row, partition)
        if not offers:
            due = record.time + max(self._rules.longest, DAY)
            customer = self._aliases.of(record.customer)
            bare = Pending(record.decision_id, "", "", customer, partition, "", 1.0, b"", record.time, BARE, due)
            self._board.add(bare)
            self._schedule(bare, due)
        self._retry(record.decision_id)

    def _pend(self, record: DecisionRecord, row: DecisionRow, partition: int) -> None:
        key = (row.policy or "").rpartition("@")[0]
        rule = self._rules.of.get(key)
        pending = Pending(
            record.decision_id,
            row.key,
            key,
            self._aliases.of(record.customer),
            partition,
            row.variant or "",
            row.propensity,
            _json.encode(row.context) if row.context else b"",
            record.time,
            WAITING,
            record.time + max(rule.window if rule else DAY, DAY),
        )
        self._board.add(pending)
        self._schedule(pending, pending.due)

    def _exposed(self, record: ExposureRecord, partition: int, due: float) -> None:
        rows = self._board.of(record.decision_id)
        if not rows:
            self._hold(f"d{record.decision_id}", partition, due, record)
            return
        seen = False
        for row in rows:
            if row.key in record.keys and row.status == WAITING:
                rule = self._rules.of.get(row.selection)
                row.status, row.exposed, seen = OPEN, record.time, True
                self._until(row, record.time + (rule.settle if rule else HOLD))
        if seen:
            self._retry(record.decision_id, rows[0].customer)

    def _happened(self, event: EventRecord, partition: int, due: float) -> None:
        try:
            properties = properties_of(event)
        except ValueError as error:
            self._keep_aside(event, partition, f"wrong type: {error}")
            return
        if event.event == MERGED:
            self._merged(str(properties.get("from")), str(properties.get("into")))
            return
        if event.event in REFUNDS:
            self._refunded(event, properties, partition, due)
        if event.event in self._rules.events:
            self._rewarded(event, properties, partition, due)

    def _merged(self, before: str, after: str) -> None:
        moved = self._aliases.merge(before, after, self._clock)
        if moved is not None:
            self._board.rename(*moved)
            self._take_again(sorted(self._waiting_for(*(f"c{customer}" for customer in moved)), key=lambda w: w.id))

    def _rewarded(self, event: EventRecord, properties: Properties, partition: int, due: float) -> None:
        if event.decision_id:
            rows = self._board.of(event.decision_id)
            if not rows:
                self._hold(f"d{event.decision_id}", partition, due, event)
                return
            earning = [row for row in rows if self._earns(row, event, properties)]
            seen = [row for row in earning if row.status != WAITING]
            if earning and not seen:
                self._hold(f"d{event.decision_id}", partition, due, event)
            for row in seen:
                self._reward(row, event, properties)
            return
        customer = self._aliases.of(event.customer)
        rows = self._board.seen_by(customer)
        if any(row.cause == event.message_id for row in rows):
            self._keep_aside(event, partition, "duplicate: this message was a reward before")
            return
        newest = max(
            (row for row in rows if _had_seen(row, event.time) and self._earns(row, event, properties)),
            key=lambda row: (row.exposed, row.decision_id, row.key),
            default=None,
        )
        if newest is None or event.time > newest.exposed + self._rules.of[newest.selection].window:
            self._hold(f"c{customer}", partition, due, event)
        else:
            self._reward(newest, event, properties)

    def _earns(self, row: Pending, event: EventRecord, properties: Properties) -> bool:
        """Whether an event is of the kind that rewards this row; it may name the placement or the offer it is for."""
        rule = self._rules.of.get(row.selection)
        return (
            rule is not None
            and rule.event == event.event
            and properties.get("placement", row.key) == row.key
            and properties.get("offer", row.arm) == row.arm
            and rule.counts(properties)
        )

    def _reward(self, row: Pending, event: EventRecord, properties: Properties) -> None:
        rule = self._rules.of[row.selection]
        if row.cause and row.cause == event.message_id:
            self._keep_aside(event, row.partition, "duplicate: this message was a reward before")
        elif row.status in {PAID, REVERSED}:
            self._keep_aside(event, row.partition, f"second reward: {row.decision_id} has one")
        elif event.time > row.exposed + rule.window or row.status == CLOSED:
            self._keep_aside(event, row.partition, f"late: the window of {row.decision_id} is over")
        else:
            try:
                amount = rule.amount(event, properties)
            except ValueError as error:
                self._keep_aside(event, row.partition, str(error))
                return
            self.lessons.append(Lesson(row, amount, 0.0 if row.status == ZERO else None))
            row.status, row.reward, row.rewarded = PAID, amount, event.time
            row.cause, row.purchase = event.message_id, order_of(properties)
            self._until(row, row.exposed + max(rule.window, REVERSIBLE))
            self.log.append((row.partition, RewardRecord(row.decision_id, row.key, amount, event.time)))
            self._retry(row.decision_id, row.customer)

    def _refunded(self, event: EventRecord, properties: Properties, partition: int, due: float) -> None:
        order, customer = order_of(properties), self._aliases.of(event.customer)
        if event.decision_id:
            rows = [row for row in self._board.of(event.decision_id) if not order or row.purchase in {"", order}]
        elif order:
            rows = [row for row in self._board.seen_by(customer) if row.purchase == order]
        else:
            rows = []
        paid = [row for row in rows if row.status == PAID]
        if not paid and any(row.status == REVERSED for row in rows):
            self._keep_aside(event, partition, "second refund: this reward was taken back before")
        elif not paid and (event.decision_id or order):
            self._hold(f"d{event.decision_id}" if event.decision_id else f"c{customer}", partition, due, event)
        for row in paid:
            left = 0.0
            if event.revenue is not None and 0 < event.revenue < row.reward and self._is_amount(row):
                left = row.reward - event.revenue
            self.lessons.append(Lesson(row, left, row.reward))
            row.status, row.reward, row.dirty = REVERSED, left, True
            # The newest record of a decision is the one that counts, so this one must not be the older.
            at = max(event.time, row.rewarded + 1e-3)
            self.log.append((row.partition, RewardRecord(row.decision_id, row.key, left, at)))

    def _is_amount(self, row: Pending) -> bool:
        rule = self._rules.of.get(row.selection)
        return rule is not None and rule.selection.reward.metric.kind in {"mean", "revenue"}

    def _advance(self, now: float) -> None:
        """Do what time alone does until `now`, each thing at its own moment."""
        heap = self._heap
        while heap and heap[0][0] <= now:
            due, decision_id, key = heapq.heappop(heap)
            self._clock = max(self._clock, due)
            waiting = self._waiting.pop(key, None) if not decision_id else None
            if waiting is not None:
                self._expire(waiting)
                continue
            for row in tuple(self._board.of(decision_id)):
                if row.key == key and row.due == due:
                    self._ripen(row)
        self._clock = max(self._clock, now)

    def _ripen(self, row: Pending) -> None:
        rule = self._rules.of.get(row.selection)
        if rule is None or row.status in {BARE, WAITING, PAID, REVERSED, CLOSED}:
            if rule is None and row.status in {OPEN, ZERO}:
                self.aside["selection that is gone"] += 1
            self._board.remove(row)
        elif row.status == OPEN:
            self.lessons.append(Lesson(row, 0.0, None))
            row.status = ZERO
            self._until(row, row.exposed + rule.window + rule.settle)
        else:
            row.status = CLOSED
            self._until(row, row.due + max(rule.window, DAY))
            self.log.append((row.partition, RewardRecord(row.decision_id, row.key, 0.0, row.exposed + rule.window)))

    def _expire(self, waiting: EarlyArrival) -> None:
        if not self._early.expire(waiting):
            return
        record = waiting.record
        if isinstance(record, ExposureRecord):
            self.aside["exposure of an unknown decision"] += 1
        elif record.event in REFUNDS:
            self._keep_aside(record, waiting.partition, "unknown: no reward that this refund takes back")
        elif not record.decision_id:
            self.aside["event of a customer who saw nothing"] += 1
        elif self._board.of(record.decision_id):
            self._keep_aside(record, waiting.partition, f"not exposed: {record.decision_id} was never seen")
        else:
            self._keep_aside(record, waiting.partition, f"unknown decision: {record.decision_id}")

    def _retry(self, decision_id: str, customer: str | None = None) -> None:
        """Take again what waited for a decision, or for its customer to see something."""
        if not self._early.empty:
            self._take_again(self._waiting_for(f"d{decision_id}", *(() if customer is None else (f"c{customer}",))))

    def _waiting_for(self, *keys: str) -> list[EarlyArrival]:
        return [waiting for key in keys for waiting in self._early.release(key)]

    def _take_again(self, released: Iterable[EarlyArrival]) -> None:
        for waiting in released:
            if isinstance(waiting.record, ExposureRecord):
                self._exposed(waiting.record, waiting.partition, waiting.due)
            else:
                self._happened(waiting.record, waiting.partition, waiting.due)

    def _hold(self, key: str, partition: int, due: float, record: EarlyRecord) -> None:
        self._watch(self._early.hold(key, partition, due, record))

    def _watch(self, waiting: EarlyArrival) -> None:
        name = f"{waiting.id:020d}"
        self._waiting[name] = waiting
        if waiting.due <= self._horizon:
            heapq.heappush(self._heap, (waiting.due, "", name))

    def _until(self, row: Pending, due: float) -> None:
        row.due, row.dirty = due, True
        self._schedule(row, due)

    def _schedule(self, row: Pending, due: float) -> None:
        if due <= self._horizon:
            heapq.heappush(self._heap, (due, row.decision_id, row.key))

    def _keep_aside(self, event: EventRecord, partition: int, reason: str) -> None:
        self.aside[reason.partition(":")[0]] += 1
        self.log.append((partition, QuarantineRecord(event.received, reason, SOURCE, encode(event))))


def _had_seen(row: Pending, at: float) -> bool:
    """Whether a row was seen by then; a time that is told in whole seconds may be anywhen in that second."""
    return (math.floor(row.exposed) if at.is_integer() else row.exposed) <= at


def bring(records: Sequence[Stamped], rules: Rules, board: Board, early: EarlyArrivals, aliases: Aliases) -> None:
    """Bring in all that a batch of records may touch."""
    ids: set[str] = set()
    customers: set[str] = set()
    earning: set[str] = set()
    merging: set[str] = set()
    for _, _, record in records:
        if isinstance(record, DecisionRecord | ExposureRecord):
            ids.add(record.decision_id)
            customers.add(record.customer)
        elif isinstance(record, EventRecord) and rules.relevant(record.event):
            customers.add(record.customer)
            if record.event == MERGED:
                merging |= _merged(record)
            elif record.decision_id:
                ids.add(record.decision_id)
            else:
                earning.add(record.customer)
    aliases.load(customers, merging)
    board.load(ids, {aliases.of(customer) for customer in earning | merging})
    everyone = {aliases.of(customer) for customer in customers | merging} | board.customers
    # What waits for a customer may be taken again: it may reward anything that they have seen.
    patient = {waiting.record.customer for waiting in early.load(ids, everyone)}
    aliases.load(patient, ())
    board.load((), {aliases.of(customer) for customer in patient})


def _merged(record: EventRecord) -> set[str]:
    try:
        properties = properties_of(record)
    except ValueError:
        return set()
    return {str(properties.get("from")), str(properties.get("into"))}

"""Joins rewards to the decisions that earned them, record by record.

Every offer that a policy chose is one row of `pending`. Its state and what changes it:

    state     meaning                            change                               next state
    --------  ---------------------------------  -----------------------------------  -----------------------
    UNSEEN    decided, not exposed               on_exposure                          OPEN
                                                 expire: max(window, 1 d)             removed
    OPEN      exposed, no reward yet             on_reward: lesson r                  REWARDED
                                                 expire: settle; lesson 0             ZERO
    ZERO      learnt as 0, the window is open    on_reward: lesson r instead of 0     REWARDED
                                                 expire: window + settle; logs 0      CLOSED
    REWARDED  learnt and logged as r             on_refund: lesson rest instead of r  REFUNDED
                                                 on_reward: another statement of the  REWARDED
                                                 same order; lesson of what stands
                                                 expire: max(window, 30 d)            removed
                                                 on_reward: the order names another   ZERO
                                                 decision, which earns it; lesson 0
    REFUNDED  learnt and logged as the rest      on_refund, on_reward: as REWARDED    REFUNDED
                                                 expire: as REWARDED                  removed
    CLOSED    learnt and logged as 0; late       expire: max(window, 1 d)             removed
              events are recognized as late
    NO_OFFER  a decision without any such offer  expire: max(longest window, 1 d)     removed
              is known to exist

The times of UNSEEN and NO_OFFER run from the decision, those of CLOSED from its beginning, the others from the
exposure. If the plan no longer has the selection, `expire` removes the row.

An order earns once, however many messages state it (`engine.orders` has the rules): the decision that one of them
names earns it, else the exposure that the first of them rewarded. Refunds take back rewards of orders only. A decision
earns one order: the statements of another wait for `HOLD` seconds, since the first may turn out to be another
decision's, and are then logged as second rewards.

A lesson is one update of a policy (`teach`). An exposure or event whose decision or exposure has not arrived waits in
`early_arrivals` for `HOLD` seconds and is then processed again (`replay_early`) or logged as unmatched
(`expire_early`). What cannot count is quarantined in the log with its reason, never dropped silently.

The result depends on the order of the records alone: time is the clock of the streams, and what time does is done at
its own due time between two records (`poll_due`), whatever batches the records come in. A learner that was killed and
reads records again therefore learns the same.
"""

import heapq
from collections.abc import Iterable, Sequence

import msgspec

from engine.catalog.plan.creatives import creative_arm
from engine.journal.records import EncodedRow, EventRecord, ExposureRecord, RewardRecord, UntracedDecision
from engine.learn.early_arrivals import EarlyArrival, EarlyArrivals, EarlyRecord
from engine.learn.merge_streams import Stamped
from engine.learn.pending import (
    CLOSED,
    NO_OFFER,
    OPEN,
    REFUNDED,
    REWARDED,
    UNSEEN,
    ZERO,
    Aliases,
    Pending,
    PendingStore,
)
from engine.learn.reward_rules import DUPLICATE, NO_ITEM, Lesson, Properties, RewardBook, RewardRules, decode_properties
from engine.orders import order_id
from engine.vocabulary import MERGED, PURCHASES, REFUNDS, item_name

HOLD = 300.0
"""Seconds for which an early record waits."""
DAY = 86_400.0
REFUNDABLE = 30 * DAY
"""Seconds after its exposure for which a reward can be refunded, or its window if that is longer."""
_json = msgspec.json.Encoder()

OTHERS_DECISION = "another customer's decision, rewarded"
"""The counter of rewards that an event of one customer gave to the decision of another, by its id."""


class Join:
    """Processes the records of one batch; `lessons`, `log` and `aside` are the results.

    `log` has the records to add to the log with their partitions, `aside` the number of records that could not count
    by reason.
    """

    def __init__(self, rules: RewardRules, pending: PendingStore, early: EarlyArrivals, aliases: Aliases) -> None:
        self._rewards = RewardBook(rules)
        self.lessons, self.log, self.aside = self._rewards.lessons, self._rewards.log, self._rewards.aside
        self._rules = rules
        self._pending = pending
        self._early = early
        self._aliases = aliases
        # (due, decision id, key) of a row, or (due, "", name) of an early arrival. Stale ones are skipped when polled.
        self._due: list[tuple[float, str, str]] = []
        self._early_by_name: dict[str, EarlyArrival] = {}
        self._policies: dict[str, tuple[str, float]] = {}  # what `find` found
        self._settled: set[str] = set()  # customers whose second orders may now be rewarded, or restate a reward
        self._horizon = 0.0
        self._clock = 0.0

    def process(self, records: Iterable[Stamped], clock: float, until: float) -> None:
        """Process records in order, while the clock advances from `clock` to `until` (s since 1970)."""
        self._clock, self._horizon = clock, until
        self._due = [(row.due, row.decision_id, row.key) for row in self._pending.load_due(until)]
        heapq.heapify(self._due)
        arrivals = self._early.load_due(until)
        # `expire_early` asks whether their decisions are known.
        self._pending.load({one.record.decision_id for one in arrivals if one.record.decision_id}, ())
        for arrival in arrivals:
            self._schedule_early(arrival)
        for at, partition, record in records:
            if self._due and self._due[0][0] <= at:
                self.poll_due(at)
            elif at > self._clock:
                self._clock = at
            if isinstance(record, UntracedDecision):
                self.on_decision(record, partition)
            elif isinstance(record, ExposureRecord):
                self.on_exposure(record, partition, self._clock + HOLD)
            elif isinstance(record, EventRecord) and self._rules.uses(record.event):
                self.on_event(record, partition, self._clock + HOLD)
        self.poll_due(until)

    def on_decision(self, record: UntracedDecision, partition: int) -> None:
        """Add a row for each offer that a policy chose, and process the records that waited for the decision."""
        if self._pending.of_decision(record.decision_id):
            self.aside["decision twice"] += 1
            return
        offers = [row for row in record.rows if row.kind == "offer" and row.policy and row.variant]
        if not all(0 < row.propensity <= 1 for row in offers):
            self.aside["propensity outside (0, 1]"] += 1
            offers = []
        for row in offers:
            self._add_offer(record, row, partition)
        if not offers:  # stored all the same, so that its events are not quarantined as of an unknown decision
            self._add_without_offer(record, partition)
        if not self._early.is_empty:
            self.replay_early(record.decision_id)

    def on_exposure(self, record: ExposureRecord, partition: int, due: float) -> None:
        """Open the rows of the exposed offers; without its decision the exposure waits until `due`."""
        rows = self._pending.of_decision(record.decision_id)
        if not rows:
            self._add_early(f"d{record.decision_id}", partition, due, record)
            return
        opened = False
        for row in rows:
            if row.key in record.keys and row.status == UNSEEN:
                rule = self._rules.by_selection.get(row.selection)
                row.status, row.exposed, opened = OPEN, record.time, True
                self._set_due(row, record.time + (rule.settle if rule else HOLD))
        if opened and not self._early.is_empty:
            self.replay_early(record.decision_id, rows[0].customer)

    def on_event(self, event: EventRecord, partition: int, due: float) -> None:
        """Process a merge, a refund or an event that can earn a reward; an unmatched one waits until `due`."""
        try:
            properties = decode_properties(event)
        except ValueError as error:
            self._rewards.quarantine(event, partition, f"wrong type: {error}")
            return
        if event.event == MERGED:
            self.on_merge(str(properties.get("from")), str(properties.get("into")))
            return
        if event.event in REFUNDS:
            self.on_refund(event, properties, partition, due)
        if event.event in self._rules.events:
            self.on_reward(event, properties, partition, due)

    def on_merge(self, before: str, after: str) -> None:
        """Give one customer's rows to the other, and process records that waited for an exposure of either."""
        moved = self._aliases.merge(before, after, self._clock)
        if moved is not None:
            self._pending.move_customer(*moved)
            released = self._release(*(f"{kind}{customer}" for customer in moved for kind in "cs"))
            self._process_early(sorted(released, key=lambda arrival: arrival.id))

    def on_reward(self, event: EventRecord, properties: Properties, partition: int, due: float) -> None:
        """Reward the rows of the event's decision; without one, the customer's latest exposure that can earn it."""
        order = order_id(properties) if event.event in PURCHASES else ""
        if order and self._restate_order(event, properties, order):
            return
        if event.decision_id:
            self._reward_decision(event, event.decision_id, properties, partition, due)
        else:
            self._reward_newest(event, properties, partition, due)
        self._rewards.restate_moved()
        settled, self._settled = self._settled, set()
        self._process_early(self._release(*(f"s{customer}" for customer in sorted(settled))))

    def _reward_newest(self, event: EventRecord, properties: Properties, partition: int, due: float) -> None:
        """Reward the customer's latest exposure that can earn the event."""
        customer = self._aliases.current_id(event.customer)
        rows = self._pending.of_customer(customer)
        if any(row.cause == event.message_id for row in rows):
            self._rewards.quarantine(event, partition, DUPLICATE)
            return
        newest = max(
            (
                row
                for row in rows
                if self._rewards.was_exposed(row, event.time) and self._rewards.earns(row, event, properties)
            ),
            key=lambda row: (row.exposed, row.decision_id, row.key),
            default=None,
        )
        if newest is None or event.time > newest.exposed + self._rules.by_selection[newest.selection].window:
            self._add_early(f"c{customer}", partition, due, event)
        else:
            self._reward_rows([newest], event, properties, partition, due)

    def on_refund(self, event: EventRecord, properties: Properties, partition: int, due: float) -> None:
        """Reduce the reward of the event's decision or order by the refund."""
        order, customer = order_id(properties), self._aliases.current_id(event.customer)
        if not event.decision_id and not order:
            return
        rows = self._rows_of_order(customer, order) if order else []
        if event.decision_id:
            named = self._pending.of_decision(event.decision_id)
            if named and not any(self._rewards.is_of_orders(row) for row in named if row.key):
                return  # what it earned is no order: a click stays a click
            rows += [row for row in named if not (order and row.purchase) and row not in rows]
        rewarded = [row for row in rows if row.status in {REWARDED, REFUNDED} and self._rewards.is_of_orders(row)]
        if not rewarded:
            self._add_early(f"d{event.decision_id}" if event.decision_id else f"c{customer}", partition, due, event)
        elif all(row.refunded_whole for row in rewarded):
            self._rewards.quarantine(event, partition, "second refund: this reward was refunded before")
        for row in rewarded:
            self._rewards.refund(row, event, properties)

    def poll_due(self, now: float) -> None:
        """Expire rows and records due by `now`, each at its own time and in the order of due times."""
        while self._due and self._due[0][0] <= now:
            due, decision_id, key = heapq.heappop(self._due)
            self._clock = max(self._clock, due)
            arrival = self._early_by_name.pop(key, None) if not decision_id else None
            if arrival is not None:
                self.expire_early(arrival)
                continue
            for row in tuple(self._pending.of_decision(decision_id)):
                if row.key == key and row.due == due:  # a row that was scheduled again since then has another due time
                    self.expire(row)
        self._clock = max(self._clock, now)

    def expire(self, row: Pending) -> None:
        """Move a row whose time is over to its next state; see the table above."""
        rule = self._rules.by_selection.get(row.selection)
        if rule is None or row.status in {NO_OFFER, UNSEEN, REWARDED, REFUNDED, CLOSED}:
            if rule is None and row.status in {OPEN, ZERO}:
                self.aside["selection that is gone"] += 1
            self._pending.remove(row)
        elif row.status == OPEN:
            self.lessons.append(Lesson(row, 0.0, None))
            row.status = ZERO
            self._set_due(row, row.exposed + rule.window + rule.settle)
        else:
            row.status = CLOSED
            self._set_due(row, row.due + max(rule.window, DAY))
            self.log.append((row.partition, RewardRecord(row.decision_id, row.key, 0.0, row.exposed + rule.window)))

    def expire_early(self, arrival: EarlyArrival) -> None:
        """Count or quarantine a record whose decision or exposure did not arrive in time."""
        if not self._early.expire(arrival):
            return
        record = arrival.record
        if isinstance(record, ExposureRecord):
            self.aside["exposure of an unknown decision"] += 1
        elif record.event in REFUNDS:
            self._rewards.quarantine(record, arrival.partition, "unknown: no reward matches this refund")
        elif arrival.waits_for.startswith("s"):
            decision = record.decision_id or "the newest decision"
            self._rewards.quarantine(record, arrival.partition, f"second reward: {decision} has one")
        elif not record.decision_id:
            self.aside["event of a customer who saw nothing"] += 1  # most events of a shop are of this kind: not logged
        elif self._pending.of_decision(record.decision_id):
            self._rewards.quarantine(record, arrival.partition, f"not exposed: {record.decision_id} was never seen")
        else:
            self._rewards.quarantine(record, arrival.partition, f"unknown decision: {record.decision_id}")

    def replay_early(self, decision_id: str, customer: str | None = None) -> None:
        """Process the records that waited for a decision, or for an exposure of its customer."""
        if not self._early.is_empty:
            keys = [f"d{decision_id}"] if customer is None else [f"d{decision_id}", f"c{customer}"]
            self._process_early(self._release(*keys))

    def _add_offer(self, record: UntracedDecision, offer: EncodedRow, partition: int) -> None:
        """Add the row of an offer, UNSEEN until its exposure."""
        policy, creative = offer.policy or "", offer.creative
        selection, window = self._policies.get(policy) or self._policies.setdefault(policy, self._rules.find(policy))
        row = Pending(
            decision_id=record.decision_id,
            key=item_name(offer.key, offer.position) if offer.position else offer.key,
            selection=selection,
            customer=self._aliases.current_id(record.customer),
            partition=partition,
            arm=offer.variant or "",
            propensity=offer.offer_propensity,
            context=_json.encode(offer.context) if offer.context else b"",
            time=record.time,
            status=UNSEEN,
            due=record.time + max(window, DAY),
            creative=creative_arm(offer.variant or "", creative.key) if creative and creative.policy else "",
            creative_propensity=creative.propensity if creative else 1.0,
        )
        self._pending.add(row)
        self._schedule(row)

    def _add_without_offer(self, record: UntracedDecision, partition: int) -> None:
        """Store that a decision without an offer is known, until no event can refer to it."""
        due = record.time + max(self._rules.longest_window, DAY)
        customer = self._aliases.current_id(record.customer)
        row = Pending.without_offer(record.decision_id, customer, partition, time=record.time, due=due)
        self._pending.add(row)
        self._schedule(row)

    def _reward_decision(
        self, event: EventRecord, decision_id: str, properties: Properties, partition: int, due: float
    ) -> None:
        """Reward every exposed row of a decision that the event can reward."""
        rows = self._pending.of_decision(decision_id)
        if not rows:
            self._add_early(f"d{decision_id}", partition, due, event)
            return
        earning = [row for row in rows if self._rewards.earns(row, event, properties)]
        if not earning and any(self._rewards.lacks_item(row, event, properties) for row in rows):
            self._rewards.quarantine(event, partition, NO_ITEM)
            return
        exposed = [row for row in earning if row.status != UNSEEN]
        if earning and not exposed:
            self._add_early(f"d{decision_id}", partition, due, event)
        customer = self._aliases.current_id(event.customer)
        # The event names the decision, so it counts; many of these are a mistake.
        self.aside[OTHERS_DECISION] += sum(row.customer != customer for row in exposed)
        self._reward_rows(exposed, event, properties, partition, due)

    def _reward_rows(
        self, rows: Sequence[Pending], event: EventRecord, properties: Properties, partition: int, due: float
    ) -> None:
        """Reward rows, and process records that waited for it; wait if all rows earned by another order."""
        order = order_id(properties) if event.event in PURCHASES else ""
        if order and rows and all(self._rewards.has_other_order(row, order) for row in rows):
            self._add_early(f"s{rows[0].customer}", partition, due, event)
            return
        for row in rows:
            if self._rewards.give(row, event, properties):
                row.dirty = True
                rule = self._rules.by_selection[row.selection]
                self._set_due(row, row.exposed + max(rule.window, REFUNDABLE))
                self.replay_early(row.decision_id, row.customer)
                if order:
                    self._settled.add(row.customer)

    def _rows_of_order(self, customer: str, order: str) -> list[Pending]:
        """The customer's rows that an order rewarded."""
        rows = self._pending.of_customer(customer)
        return [row for row in rows if row.purchase == order and row.status in {REWARDED, REFUNDED}]

    def _restate_order(self, event: EventRecord, properties: Properties, order: str) -> bool:
        """Whether an event states an already rewarded order, and so is done (`RewardBook.restate_order`)."""
        rows = self._rows_of_order(self._aliases.current_id(event.customer), order)
        named = self._pending.of_decision(event.decision_id or "")
        is_done = bool(rows) and self._rewards.restate_order(rows, named, event, properties)
        for row in rows:
            if row.status == ZERO:  # taken back
                self._settled.add(row.customer)
                rule = self._rules.by_selection.get(row.selection)
                self._set_due(row, max(self._clock, row.exposed + (rule.window + rule.settle if rule else 0.0)))
        return is_done

    def _release(self, *keys: str) -> list[EarlyArrival]:
        return [arrival for key in keys for arrival in self._early.release(key)]

    def _process_early(self, released: Iterable[EarlyArrival]) -> None:
        """Process released records; one that is still early waits until its first due time, not longer."""
        for arrival in released:
            if isinstance(arrival.record, ExposureRecord):
                self.on_exposure(arrival.record, arrival.partition, arrival.due)
            else:
                self.on_event(arrival.record, arrival.partition, arrival.due)

    def _add_early(self, key: str, partition: int, due: float, record: EarlyRecord) -> None:
        """Store a record until its decision or exposure arrives, or until it is due."""
        self._schedule_early(self._early.add(key, partition, due, record))

    def _schedule_early(self, arrival: EarlyArrival) -> None:
        """Poll an early arrival in this batch if it is due within the batch."""
        name = f"{arrival.id:020d}"  # equal due times are polled in the order of arrival
        self._early_by_name[name] = arrival
        if arrival.due <= self._horizon:
            heapq.heappush(self._due, (arrival.due, "", name))

    def _set_due(self, row: Pending, due: float) -> None:
        row.due, row.advanced = due, True
        if due <= self._horizon:
            heapq.heappush(self._due, (due, row.decision_id, row.key))

    def _schedule(self, row: Pending) -> None:
        """Poll a row in this batch if it is due within it; otherwise a later batch loads it by its due time."""
        if row.due <= self._horizon:
            heapq.heappush(self._due, (row.due, row.decision_id, row.key))

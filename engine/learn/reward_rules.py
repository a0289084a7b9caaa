"""The reward rule of each selection, compiled from the plan, and its effect on rows of pending decisions.

A rule says which events earn a reward, how much, and in which window. `RewardBook` gives rewards to rows, corrects them
by later statements of the same order and by refunds, and makes a lesson and a record of each change.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import msgspec
import numpy as np

from engine.catalog.conditions.compile import Predicate, compile_condition
from engine.catalog.plan.plan import Plan, Selection
from engine.catalog.spec.experiment import NOT_LEARNING
from engine.catalog.spec.metrics import MetricSpec
from engine.customer import Order
from engine.journal.records import EventRecord, QuarantineRecord, RewardRecord, encode
from engine.learn.pending import CLOSED, OPEN, REFUNDED, REWARDED, UNSEEN, ZERO, Pending
from engine.metric_kinds import METRIC_KINDS, MOST_VALUE
from engine.orders import CENTS, is_counted, net_revenue, order_id, refund_amount, statement_rank
from engine.snapshots.header import meaning_of, prior_of
from engine.vocabulary import MERGED, PURCHASES, REFUNDS, names_of_same_event, split_item

Properties = Mapping[str, object]
SOURCE = "learner"
DUPLICATE = "duplicate: this message already earned a reward"
NO_ITEM = "no item: the decision shows a list; send properties.offer, or properties.placement as home_row[2]"


@dataclass(frozen=True)
class RewardRule:
    """The rule by which a selection's decisions earn rewards.

    An exposure earns for `window` seconds. After `settle` seconds without a reward it is learnt as 0, which a later
    reward corrects.
    """

    selection: Selection
    learns: bool
    events: frozenset[str]
    window: float
    settle: float
    matches: Predicate | None

    @cached_property
    def meaning(self) -> str:
        """A digest that changes when earlier rewards no longer apply to the selection."""
        return meaning_of(self.selection)

    @cached_property
    def _check_rewards(self) -> Callable[[np.ndarray], None]:
        """The check against the policy's reward range, made once per rule."""
        return prior_of(self.selection).check_rewards

    @property
    def is_count(self) -> bool:
        """Whether a reward is 1 or 0, so that an expected one is a probability."""
        return METRIC_KINDS[self.selection.reward.metric.kind].rewards_are_counts

    @property
    def is_of_orders(self) -> bool:
        """Whether orders earn the reward, so that a refund reduces it; no refund undoes a click."""
        return bool(self.events & PURCHASES) or self.selection.reward.metric.value == "revenue"

    @property
    def is_amount(self) -> bool:
        """Whether the reward is an amount, which can be refunded in part."""
        return METRIC_KINDS[self.selection.reward.metric.kind].refund_leaves_rest

    def counts(self, properties: Properties) -> bool:
        """Whether the metric counts an event with these properties."""
        return self.matches is None or self.matches(properties)

    def amount(self, event: EventRecord, properties: Properties) -> float:
        """The reward that an event earns.

        Raises:
            ValueError: if it is not a finite number, or outside the range that the policy learns from.
        """
        value = metric_amount(self.selection.reward.metric, event, properties)
        try:
            self._check_rewards(np.array([value]))
        except ValueError as error:
            raise ValueError(f"out of range: {error}") from error
        return value


@dataclass(frozen=True)
class RewardRules:
    """A plan's rules by selection, the events that they count, and their longest window in seconds."""

    by_selection: Mapping[str, RewardRule]
    events: frozenset[str]
    longest_window: float

    def find(self, policy: str) -> tuple[str, float]:
        """The selection of a policy logged as KEY@VERSION, and its window in seconds; 0 without a rule."""
        selection = policy.rpartition("@")[0]
        rule = self.by_selection.get(selection)
        return selection, rule.window if rule else 0.0

    def uses(self, event: str) -> bool:
        """Whether an event of this name can change what is learnt."""
        return event in self.events or event in REFUNDS or event == MERGED


NO_RULES = RewardRules({}, frozenset(), 0.0)


def reward_rules(plan: Plan) -> RewardRules:
    """Compile the rules of every selection of the plan that has a policy."""
    rules = {key: _rule(selection) for key, selection in plan.taught.items()}
    events = frozenset(event for rule in rules.values() for event in rule.events)
    return RewardRules(rules, events, max((rule.window for rule in rules.values()), default=0.0))


def metric_amount(metric: MetricSpec, event: EventRecord, properties: Properties) -> float:
    """The amount that an event adds to a metric: 1 if the metric counts events, else the value that the event carries.

    Raises:
        ValueError: if the value is not a number, not finite, or larger than a policy can compute with.
    """
    kind = METRIC_KINDS[metric.kind]
    if kind.rewards_are_counts or (kind.has_least and metric.value is None):
        return 1.0
    name = metric.value or kind.default_value or "revenue"
    value = event.revenue if name == "revenue" else properties.get(name)
    if name == "revenue" and value is None and event.event in PURCHASES and order_id(properties):
        value = 0.0  # the order is this decision's; another statement of it may have the revenue
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"wrong type: {name} of {event.event!r} is {value!r}, not a number")  # noqa: TRY004
    if not math.isfinite(value):
        raise ValueError(f"not finite: {name} of {event.event!r} is {value}")
    if abs(value) > MOST_VALUE:
        raise ValueError(f"out of range: {name} of {event.event!r} is {value:g}, beyond {MOST_VALUE:.0e}")
    return kind.score(float(value))


def decode_properties(event: EventRecord) -> Properties:
    """Decode the properties of an event.

    Raises:
        ValueError: if they are not a JSON object.
    """
    if event.properties in {b"", b"{}"}:
        return {}
    try:
        decoded = msgspec.json.decode(event.properties)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"properties are not JSON: {error}") from error
    if not isinstance(decoded, dict):
        raise ValueError(f"properties are a JSON {type(decoded).__name__}, not an object")  # noqa: TRY004
    return decoded


def _rule(selection: Selection) -> RewardRule:
    """The reward rule of a selection; its reward is final within its window at the latest."""
    reward = selection.reward
    return RewardRule(
        selection=selection,
        learns=selection.policy.kind != NOT_LEARNING,
        events=frozenset(name for event in reward.metric.events for name in names_of_same_event(event)),
        window=reward.window,
        settle=min(reward.settle, reward.window),
        matches=compile_condition(reward.metric.filter) if reward.metric.filter else None,
    )


class Lesson(NamedTuple):
    """One update of a policy: `row` earned `reward`; `instead` is the reward learnt before, if any."""

    row: Pending
    reward: float
    instead: float | None


class OrderStatement(NamedTuple):
    """A statement of an order under the metric that it rewards: its time, revenue and reward."""

    metric: MetricSpec | None
    time: float
    revenue: float
    amount: float


class RewardBook:
    """Gives rewards to rows and takes them back; `lessons`, `log` and `aside` are the results.

    `log` has the records to add to the log with their partitions, `aside` the number of records that could not count
    by reason. The caller sets when a row is due.
    """

    def __init__(self, rules: RewardRules) -> None:
        self.lessons: list[Lesson] = []
        self.log: list[tuple[int, RewardRecord | QuarantineRecord]] = []
        self.aside: Counter[str] = Counter()
        self._rules = rules
        # The statements of orders that other decisions earn now.
        self._moved: list[tuple[Pending, str, OrderStatement]] = []

    def earns(self, row: Pending, event: EventRecord, properties: Properties) -> bool:
        """Whether a row's rule counts an event; its properties may name the placement or offer.

        An item of a list must be named, by its offer or as `home_row[2]`.
        """
        return self._counts(row, event, properties) and not _names_no_item(row, properties)

    def lacks_item(self, row: Pending, event: EventRecord, properties: Properties) -> bool:
        """Whether a row would earn the event if the event named its item of the list."""
        return self._counts(row, event, properties) and _names_no_item(row, properties)

    def was_exposed(self, row: Pending, at: float) -> bool:
        """Whether a row was exposed by `at`; a time in whole seconds stands for any moment of that second."""
        return (math.floor(row.exposed) if at.is_integer() else row.exposed) <= at

    def is_of_orders(self, row: Pending) -> bool:
        """Whether orders earn a row's reward, even if the plan no longer has its rule."""
        rule = self._rules.by_selection.get(row.selection)
        return rule is None or rule.is_of_orders

    def give(self, row: Pending, event: EventRecord, properties: Properties) -> bool:
        """Reward a row by an event and return True, or quarantine the event with the rule that it breaks."""
        rule = self._rules.by_selection[row.selection]
        if row.cause and row.cause == event.message_id:
            self.quarantine(event, row.partition, DUPLICATE)
        elif row.status in {REWARDED, REFUNDED}:
            self.quarantine(event, row.partition, f"second reward: {row.decision_id} has one")
        elif self._is_late(row, event):
            self.quarantine(event, row.partition, f"late: the window of {row.decision_id} is over")
        elif self._state(row, rule, event, properties):
            row.cause = event.message_id
            row.purchase = order_id(properties) if event.event in PURCHASES else ""
            row.reward = self._left(row)
            self.lessons.append(Lesson(row, row.reward, 0.0 if row.status == ZERO else None))
            row.status = REFUNDED if row.refunded or row.refunded_whole else REWARDED
            self._log_reward(row, event.time)
            return True
        return False

    def restate(self, row: Pending, event: EventRecord, properties: Properties) -> None:
        """Replace a row's reward by that of another statement of its order, if that is newer."""
        rule = self._rules.by_selection.get(row.selection)
        stands = statement_rank(event.time, event.revenue or 0.0) > statement_rank(row.rewarded, row.revenue)
        counts = rule is not None and stands and event.time <= row.exposed + rule.window
        if rule is not None and counts and self._state(row, rule, event, properties):
            self._correct(row, event.time)

    def has_other_order(self, row: Pending, order: str) -> bool:
        """Whether a row is rewarded by another order."""
        return row.status in {REWARDED, REFUNDED} and bool(row.purchase) and row.purchase != order

    def restate_order(
        self, rows: Sequence[Pending], named: Sequence[Pending], event: EventRecord, properties: Properties
    ) -> bool:
        """Apply another statement of an order, the newest wins; False if the event's decision earns the order instead.

        Where the event names a decision whose rows `named` can earn the order and did not, what others earned by it is
        taken back, and False returned: that decision earns it. One whose window is over can not.
        """
        order = rows[0].purchase
        seen = [row for row in named if row.status != UNSEEN and not self._is_late(row, event)]
        earning = [row for row in seen if self.earns(row, event, properties)]
        if earning and not any(row.purchase == order for row in earning):
            free = [row for row in earning if not self.has_other_order(row, order)]
            for row in rows if free else ():
                self._move_order(row, free)
            return False
        if any(row.cause == event.message_id for row in rows):
            self.quarantine(event, rows[0].partition, DUPLICATE)
            return True
        self.aside["order stated again"] += 1
        for row in rows:
            self.restate(row, event, properties)
        return True

    def _move_order(self, row: Pending, earning: Iterable[Pending]) -> None:
        """Take back what a row earned by an order; the rows that now earn it get its statement and refunds."""
        for other in earning:
            if other.status in {OPEN, ZERO}:
                other.refunded, other.refunded_whole, other.dirty = row.refunded, row.refunded_whole, True
                statement = OrderStatement(self._metric_of(row), row.rewarded, row.revenue, row.amount)
                self._moved.append((other, row.purchase, statement))
        self.take_back(row)

    def restate_moved(self) -> None:
        """Apply earlier statements of moved orders to their new rows, if those are newer."""
        for row, order, (metric, at, revenue, amount) in self._moved:
            is_newer = statement_rank(at, revenue) > statement_rank(row.rewarded, row.revenue)
            if row.purchase == order and is_newer and metric == self._metric_of(row):
                row.rewarded, row.revenue, row.amount = at, revenue, amount
                self._correct(row, at)
        self._moved.clear()

    def refund(self, row: Pending, event: EventRecord, properties: Properties) -> None:
        """Subtract a refund from a reward: an amount keeps the rest, a conversion becomes 0."""
        amount = refund_amount(properties)
        if amount is None and not order_id(properties):
            amount = event.revenue
        row.refunded_whole = row.refunded_whole or amount is None
        row.refunded = round(row.refunded + (amount or 0.0), CENTS)
        row.status = REFUNDED
        self._correct(row, event.time)

    def take_back(self, row: Pending) -> None:
        """Reset a row to its state before the reward, and correct what the policy learnt."""
        row.amount = row.revenue = row.refunded = 0.0
        row.refunded_whole = False
        self._correct(row, row.rewarded)
        row.cause = row.purchase = ""
        row.status, row.rewarded = ZERO, 0.0

    def quarantine(self, event: EventRecord, partition: int, reason: str) -> None:
        """Log an event that cannot count; `reason` up to its colon names the counter."""
        self.aside[reason.partition(":")[0]] += 1
        self.log.append((partition, QuarantineRecord(event.received, reason, SOURCE, encode(event))))

    def _is_late(self, row: Pending, event: EventRecord) -> bool:
        """Whether an event can no longer reward this unrewarded row."""
        if row.status in {REWARDED, REFUNDED}:
            return False
        rule = self._rules.by_selection.get(row.selection)
        return row.status == CLOSED or rule is None or event.time > row.exposed + rule.window

    def _metric_of(self, row: Pending) -> MetricSpec | None:
        rule = self._rules.by_selection.get(row.selection)
        return rule.selection.reward.metric if rule else None

    def _counts(self, row: Pending, event: EventRecord, properties: Properties) -> bool:
        rule = self._rules.by_selection.get(row.selection)
        return (
            rule is not None
            and event.event in rule.events
            and properties.get("placement", row.key) in (row.key, split_item(row.key)[0])
            and properties.get("offer", row.arm) == row.arm
            and rule.counts(properties)
        )

    def _state(self, row: Pending, rule: RewardRule, event: EventRecord, properties: Properties) -> bool:
        """Take the event's amount as the row's and return True; otherwise quarantine the event."""
        try:
            amount = rule.amount(event, properties)
        except ValueError as error:
            self.quarantine(event, row.partition, str(error))
            return False
        row.amount, row.revenue, row.rewarded = amount, event.revenue or 0.0, event.time
        return True

    def _left(self, row: Pending) -> float:
        """The reward after refunds: for an amount the order's remaining share, for a conversion all or nothing."""
        order = Order(row.revenue, 1.0, refunded=row.refunded, full=row.refunded_whole)
        rule = self._rules.by_selection.get(row.selection)
        if not is_counted(order):
            return 0.0
        if rule is None or not rule.is_amount or row.revenue <= 0 or not row.refunded:
            return row.amount
        return row.amount * (net_revenue(order) / row.revenue)

    def _correct(self, row: Pending, at: float) -> None:
        """Teach and log a rewarded row's current reward, if it changed."""
        reward = self._left(row)
        if reward != row.reward:
            self.lessons.append(Lesson(row, reward, row.reward))
            row.reward = reward
            self._log_reward(row, at)
        row.dirty = True

    def _log_reward(self, row: Pending, at: float) -> None:
        """Log a reward with a later time than those before, since readers count a decision's newest record."""
        row.logged = max(at, row.logged + 1e-3) if row.logged else at
        self.log.append((row.partition, RewardRecord(row.decision_id, row.key, row.reward, row.logged)))


def _names_no_item(row: Pending, properties: Properties) -> bool:
    """Whether a row is an item of a list and the event names neither its offer nor its position."""
    return row.key.endswith("]") and "offer" not in properties and properties.get("placement") != row.key

"""The reward rule of each selection, compiled from the plan: which events earn a reward, how much, in which window."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import msgspec
import numpy as np

from engine.catalog.conditions.compile import Predicate, compile_condition
from engine.catalog.plan.plan import Plan, Selection
from engine.catalog.spec.experiment import NOT_LEARNING, MetricSpec
from engine.journal.records import EventRecord
from engine.metric_kinds import METRIC_KINDS
from engine.snapshots.header import meaning_of, prior_of
from engine.vocabulary import MERGED, REFUNDS
from policies.batches import LARGEST

ORDER_FIELDS = ("order_id", "order")

Properties = Mapping[str, object]


@dataclass(frozen=True)
class RewardRule:
    """The reward of one selection.

    An exposure earns for `window` seconds. After `settle` seconds without a reward it is learnt as 0, which a later
    reward corrects.
    """

    selection: Selection
    learns: bool
    event: str
    window: float
    settle: float
    matches: Predicate | None

    @cached_property
    def meaning(self) -> str:
        """A digest that changes when earlier rewards no longer apply to the selection."""
        return meaning_of(self.selection)

    @cached_property
    def _check_rewards(self) -> Callable[[np.ndarray], None]:
        return prior_of(self.selection).check_rewards

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
    """The rules of a plan by selection, the events that they count, and their longest window in seconds."""

    by_selection: Mapping[str, RewardRule]
    events: frozenset[str]
    longest_window: float

    def uses(self, event: str) -> bool:
        """Whether an event of this name can change what is learnt."""
        return event in self.events or event in REFUNDS or event == MERGED


NO_RULES = RewardRules({}, frozenset(), 0.0)


def reward_rules(plan: Plan) -> RewardRules:
    """Compile the rules of every selection of the plan that has a policy."""
    rules = {key: _rule(selection) for key, selection in plan.policies.items()}
    events = frozenset(rule.event for rule in rules.values())
    return RewardRules(rules, events, max((rule.window for rule in rules.values()), default=0.0))


def metric_amount(metric: MetricSpec, event: EventRecord, properties: Properties) -> float:
    """What an event adds to a metric: 1 if the metric counts events, otherwise the value that the event carries.

    Raises:
        ValueError: if the value is not a number, not finite, or larger than a policy can compute with.
    """
    if METRIC_KINDS[metric.kind].rewards_are_counts:
        return 1.0
    name = metric.value or "revenue"
    value = event.revenue if name == "revenue" else properties.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"wrong type: {name} of {event.event!r} is {value!r}, not a number")  # noqa: TRY004
    if not math.isfinite(value):
        raise ValueError(f"not finite: {name} of {event.event!r} is {value}")
    if abs(value) > LARGEST:
        raise ValueError(f"out of range: {name} of {event.event!r} is {value:g}, beyond {LARGEST:.0e}")
    return float(value)


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


def order_id(properties: Properties) -> str:
    """The order that a purchase or a refund names; empty if it names none."""
    named = next((properties[field] for field in ORDER_FIELDS if field in properties), "")
    return str(named) if isinstance(named, str | int) else ""


def _rule(selection: Selection) -> RewardRule:
    reward = selection.reward
    return RewardRule(
        selection=selection,
        learns=selection.policy.kind != NOT_LEARNING,
        event=reward.metric.event,
        window=reward.window,
        settle=min(reward.settle, reward.window),
        matches=compile_condition(reward.metric.filter) if reward.metric.filter else None,
    )

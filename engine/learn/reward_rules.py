"""What counts as the reward of each selection of a plan, ready to be asked of every event."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import msgspec
import numpy as np

from engine.catalog.conditions.compile import Predicate, compile_condition
from engine.catalog.plan.plan import Plan, Selection
from engine.catalog.spec.experiment import MetricSpec
from engine.journal.records import EventRecord
from engine.snapshots.header import meaning_of, prior_of
from engine.vocabulary import MERGED, REFUNDS
from policies.batches import LARGEST

ORDER_FIELDS = ("order_id", "order")
_COUNTED = {"proportion", "count", "retention"}

Properties = Mapping[str, object]


@dataclass(frozen=True)
class Rule:
    """The reward of one selection. Times are seconds."""

    selection: Selection
    learns: bool
    event: str
    window: float
    settle: float
    matches: Predicate | None

    @cached_property
    def meaning(self) -> str:
        """Changes when what was learnt does not apply any more."""
        return meaning_of(self.selection)

    @cached_property
    def _holds(self) -> Callable[[np.ndarray], None]:
        return prior_of(self.selection).check_rewards

    def counts(self, properties: Properties) -> bool:
        """Whether an event with these properties is one that the metric counts."""
        return self.matches is None or self.matches(properties)

    def amount(self, event: EventRecord, properties: Properties) -> float:
        """The reward that an event is worth.

        Raises:
            ValueError: if it is no finite number, or none that the policy can learn from.
        """
        value = amount_of(self.selection.reward.metric, event, properties)
        try:
            self._holds(np.array([value]))
        except ValueError as error:
            raise ValueError(f"out of range: {error}") from error
        return value


@dataclass(frozen=True)
class Rules:
    """The rules of a plan by selection, and all events that they listen to."""

    of: Mapping[str, Rule]
    events: frozenset[str]
    longest: float
    """The longest window, in seconds."""

    def relevant(self, event: str) -> bool:
        """Whether an event can change what is learnt."""
        return event in self.events or event in REFUNDS or event == MERGED


NO_RULES = Rules({}, frozenset(), 0.0)


def rules_of(plan: Plan) -> Rules:
    """The rules of every selection that has a policy."""
    of = {key: _rule(selection) for key, selection in plan.policies.items()}
    return Rules(of, frozenset(rule.event for rule in of.values()), max((r.window for r in of.values()), default=0.0))


def amount_of(metric: MetricSpec, event: EventRecord, properties: Properties) -> float:
    """What an event adds to a metric: 1 where events are counted, else the number that it carries.

    Raises:
        ValueError: if it carries no number that can be computed with.
    """
    if metric.kind in _COUNTED:
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


def properties_of(event: EventRecord) -> Properties:
    """The properties of an event.

    Raises:
        ValueError: if they are no JSON object.
    """
    if event.properties in {b"", b"{}"}:
        return {}
    try:
        found = msgspec.json.decode(event.properties)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"properties are no JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"properties are no JSON object but {type(found).__name__}")  # noqa: TRY004
    return found


def order_of(properties: Properties) -> str:
    """The order that a purchase or a refund names; empty if none."""
    named = next((properties[field] for field in ORDER_FIELDS if field in properties), "")
    return str(named) if isinstance(named, str | int) else ""


def _rule(selection: Selection) -> Rule:
    reward = selection.reward
    return Rule(
        selection=selection,
        learns=selection.policy.kind != "uniform",
        event=reward.metric.event,
        window=reward.window,
        settle=min(reward.settle, reward.window),
        matches=compile_condition(reward.metric.filter) if reward.metric.filter else None,
    )

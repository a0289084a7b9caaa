"""The shop's traits from `traits.yaml`, compiled: the events that each reads, and its value for a customer.

A trait over purchases reads orders, as all of the engine does (`engine.orders`): an order counts once, however many
messages state it, by its newest statement and less its refunds; one that was refunded in full does not count. So the
orders of a profile are read where they are, and only purchases without an order id and orders that are stored nowhere
any more are in a series. A refund that names no order lowers a sum of revenue and changes nothing else.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from engine.customer import Order, Profile, Scalar, TraitSeries
from engine.orders import is_counted, net_revenue, order_id, refund_amount
from engine.traits.series import EMPTY, Point, SeriesRule, extend_series, read_series
from engine.traits.stages import STAGE_RULES, StageRules
from engine.vocabulary import CAMPAIGN, PURCHASES, REFUNDS, VISIT_GAP

REVENUE: Final = "revenue"
MATCHED: Final = "?"
"""Before the digest of a filter: the name of the fact that an order's purchase matched it."""
FACT_TEXT: Final = 200
"""Most characters of a property that is stored with an order."""

OrderFacts = Mapping[str, Mapping[str, Scalar]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TraitRule:
    """One trait. `digest` names its series, `filter_digest` its filter; `of` is the property that it aggregates."""

    name: str
    digest: str
    series: SeriesRule
    events: frozenset[str]
    of: str = ""
    matches: Callable[[Mapping[str, object]], bool] | None = None
    filter_digest: str = ""

    @property
    def is_of_orders(self) -> bool:
        """Whether the trait reads orders, not single events."""
        return self.events >= PURCHASES

    def read(self, profile: Profile, now: float) -> Scalar:
        """The trait of a customer at `now` (s since 1970); None if it has no value."""
        series = (profile.series.get(self.digest, EMPTY), profile.archived_series.get(self.digest, EMPTY))
        orders = self.points_of(profile.orders, profile.order_facts) if self.is_of_orders else ()
        return read_series(self.series, series, now, orders)

    def newest(self, profile: Profile) -> float | None:
        """The time of its newest event (s since 1970); None if there is none."""
        series = (profile.series.get(self.digest, EMPTY), profile.archived_series.get(self.digest, EMPTY))
        times = [one.points[-1][0] for one in series if one.points]
        if self.is_of_orders:
            times += [time for time, _ in self.points_of(profile.orders, profile.order_facts)]
        return max(times, default=None)

    def points_of(self, orders: Mapping[str, Order], facts: OrderFacts) -> Iterator[Point]:
        """Yields the points of counted orders."""
        matched = MATCHED + self.filter_digest
        for key, order in orders.items():
            if is_counted(order):
                known = facts.get(key, {})
                if self.filter_digest and not known.get(matched):
                    continue
                value = net_revenue(order) if self.of == REVENUE else known.get(self.of)
                if self.series.takes(value):
                    yield self.series.point(order.time, value)

    def point_of_event(self, event: str, properties: Mapping[str, object], time: float) -> Point | None:
        """The point of an event other than an order with an id; None if it does not count."""
        if event in self.events:
            if self.is_of_orders and order_id(properties):
                return None
            value = _property(properties, self.of) if self.of else None
            if self.is_of_orders and self.of == REVENUE and not self.series.takes(value):
                value = 0.0
        elif event in REFUNDS and self.is_of_orders and self.series.aggregate == "sum" and self.of == REVENUE:
            amount = refund_amount(properties)
            if order_id(properties) or not amount:
                return None
            value = -amount
        else:
            return None
        if not self.series.takes(value) or (self.matches is not None and not self.matches(properties)):
            return None
        return self.series.point(time, value)


@dataclass(frozen=True, slots=True)
class TraitRules:
    """The shop's traits, and unnamed ones that moments need, indexed by event."""

    rules: tuple[TraitRule, ...] = ()
    by_event: Mapping[str, tuple[TraitRule, ...]] = field(default_factory=dict)
    of_orders: tuple[TraitRule, ...] = ()
    by_digest: Mapping[str, TraitRule] = field(default_factory=dict)
    names: frozenset[str] = frozenset()
    unnamed: frozenset[str] = frozenset()
    """The digests of rules that only moments read."""
    stages: StageRules = STAGE_RULES

    def read(self, profile: Profile, now: float) -> Sequence[tuple[str, Scalar]]:
        """Yields each named trait with a value for the customer at `now` (s since 1970), and their campaign."""
        if not self.rules and CAMPAIGN not in profile.journey:
            return ()
        read = ((rule.name, rule.read(profile, now)) for rule in self.rules if rule.name)
        return [*_campaign_of(profile, now), *((name, value) for name, value in read if value is not None)]

    def facts_of(self, properties: Mapping[str, object]) -> dict[str, Scalar]:
        """A purchase's properties that traits of orders read, and the filters that it matches."""
        facts: dict[str, Scalar] = {}
        for rule in self.of_orders:
            if rule.matches is not None:
                if not rule.matches(properties):
                    continue
                facts[MATCHED + rule.filter_digest] = True
            if rule.of and rule.of != REVENUE:
                value = _property(properties, rule.of)
                if isinstance(value, int | float) or (isinstance(value, str) and len(value) <= FACT_TEXT):
                    facts[rule.of] = value
        return facts

    def fold_orders(
        self, series: Mapping[str, TraitSeries], orders: Mapping[str, Order], facts: OrderFacts
    ) -> dict[str, TraitSeries]:
        """The series with these orders added, because the profile no longer stores them."""
        folded = dict(series)
        for rule in self.of_orders:
            points = list(rule.points_of(orders, facts))
            if points:
                folded[rule.digest] = extend_series(rule.series, folded.get(rule.digest, EMPTY), points)
        return folded


def _campaign_of(profile: Profile, now: float) -> Iterator[tuple[str, Scalar]]:
    """Yields the campaign that brought the customer to the current visit, while it lasts."""
    item = profile.journey.get(CAMPAIGN)
    if item is None or item.until <= now or not isinstance(item.value, dict):
        return
    began = int(item.time)
    if any(start <= began <= end and now <= end + VISIT_GAP for start, end in profile.visits):
        yield from item.value.items()


def index_traits(rules: Iterable[TraitRule], stages: StageRules = STAGE_RULES) -> TraitRules:
    """The rules with their indexes, and where the stages of the journey begin."""
    every = tuple(rules)
    stored = {rule.digest: rule for rule in every}  # a count and a rate of the same events share a series
    by_event: dict[str, tuple[TraitRule, ...]] = {}
    for rule in stored.values():
        reads = rule.events | (REFUNDS if rule.is_of_orders else frozenset())
        for event in sorted(reads):
            by_event[event] = (*by_event.get(event, ()), rule)
    return TraitRules(
        rules=every,
        by_event=by_event,
        of_orders=tuple(rule for rule in stored.values() if rule.is_of_orders),
        by_digest=stored,
        names=frozenset(rule.name for rule in every if rule.name),
        stages=stages,
        unnamed=frozenset(rule.digest for rule in every if not rule.name),
    )


NO_TRAITS: Final = TraitRules()


def facts_order(facts: Mapping[str, Scalar]) -> tuple[int, str]:
    """The sort key of two equal statements of an order: the one with more facts is last."""
    return len(facts), repr(sorted(facts.items()))


def _property(properties: Mapping[str, object], path: str) -> object:
    """A property by its name, or by its dotted path."""
    if path in properties:
        return properties[path]
    value: object = properties
    for step in path.split("."):
        value = value.get(step) if isinstance(value, Mapping) else None
    return value

"""The YAML of `traits.yaml`: the traits that a shop computes from its customers' events."""

from typing import Annotated, Final, get_args

from msgspec import Meta

from engine.catalog.spec.fields import Condition, Key, PropertyName, Span, Spec, Text
from engine.traits.series import Aggregate

AGGREGATES: Final[tuple[Aggregate, ...]] = get_args(Aggregate)
MOST_TRAITS: Final = 64
LONGEST_DAYS: Final = 400
"""The longest window in days; a customer without an event for that long is not stored."""


class TraitSpec(Spec, frozen=True, kw_only=True):
    """One trait: an aggregate of an event, or of the property `of` of an event. Exactly one aggregate is given.

    `filter` is a condition on the event's properties. With a `window` only events of that span before now count. `rate`
    is the number of events per span `per`, and `time_since` the days since the last one. Without any event, counts,
    sums and rates are 0 and the others have no value. Traits of purchases read orders: an order counts once, less its
    refunds.
    """

    count: Text | None = None
    sum: Text | None = None
    mean: Text | None = None
    min: Text | None = None
    max: Text | None = None
    first: Text | None = None
    last: Text | None = None
    distinct: Text | None = None
    rate: Text | None = None
    time_since: Text | None = None
    of: PropertyName | None = None
    filter: Condition = {}
    window: Span | None = None
    per: Span | None = None
    title: Text | None = None

    def aggregates(self) -> list[tuple[Aggregate, str]]:
        """The aggregates that are given, each with its event; a checked trait has one."""
        return [(name, event) for name in AGGREGATES if (event := getattr(self, name)) is not None]


TraitsByName = Annotated[dict[Key, TraitSpec], Meta(max_length=MOST_TRAITS)]
"""The content of `traits.yaml`."""


class TraitsFile(Spec, frozen=True, kw_only=True):
    """`traits.yaml`: the shop's own traits by name, which conditions, moments, features and segments read."""

    traits: TraitsByName = {}

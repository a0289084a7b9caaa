"""The computed values of customers: traits in `traits.yaml`, stages and RFM segments in `segments.yaml`."""

from typing import Annotated, Final, get_args

from msgspec import Meta

from engine.catalog.spec.fields import Condition, Count, Key, PropertyName, Span, Spec, Text
from engine.traits.series import Aggregate
from engine.traits.stages import STAGE_RULES

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
        """The given aggregates, each with its event; a checked trait has exactly one."""
        return [(name, event) for name in AGGREGATES if (event := getattr(self, name)) is not None]


TraitsByName = Annotated[dict[Key, TraitSpec], Meta(max_length=MOST_TRAITS)]
"""The content of `traits.yaml`."""


class TraitsFile(Spec, frozen=True, kw_only=True):
    """`traits.yaml`: the shop's own traits by name, which conditions, moments, features and segments read."""

    traits: TraitsByName = {}


Score = Annotated[int, Meta(ge=1, le=5, extra={"remedy": "scores are whole numbers from 1 to 5"})]
ScoreRange = Annotated[list[Score], Meta(min_length=2, max_length=2, description="the lowest and the highest score")]


class StagesSpec(Spec, frozen=True, kw_only=True):
    """The starts of the stages of the journey, which conditions read as `stage`.

    A customer with `loyal_orders` orders is loyal, and one whose last order is older than `lapsed_after` has lapsed.
    Without an order, `engaged_visits` visits make a customer engaged.
    """

    engaged_visits: Annotated[int, Meta(ge=2, extra={"remedy": "give a whole number, 2 or more"})] = (
        STAGE_RULES.engaged_visits
    )
    loyal_orders: Count = STAGE_RULES.loyal_orders
    lapsed_after: Span = "180d"


class RfmSpec(Spec, frozen=True, kw_only=True):
    """One segment of `measure rfm`: the scores of its customers, who are in no segment above it in the list.

    5 are the most recent, the most frequent, the most money. `slipping` counts its revenue as at stake.
    """

    name: PropertyName
    recency: ScoreRange | None = None
    frequency: ScoreRange | None = None
    monetary: ScoreRange | None = None
    slipping: bool = False

    @property
    def takes_all(self) -> bool:
        """Whether the segment's scores include every customer."""
        return (self.recency or self.frequency or self.monetary) is None


RFM_SEGMENTS: Final = (
    RfmSpec(name="champions", recency=[4, 5], frequency=[4, 5]),
    RfmSpec(name="loyal", recency=[3, 3], frequency=[4, 5]),
    RfmSpec(name="cannot lose", recency=[1, 2], frequency=[4, 5], slipping=True),
    RfmSpec(name="promising", recency=[4, 5], frequency=[2, 5]),
    RfmSpec(name="new", recency=[4, 5]),
    RfmSpec(name="at risk", recency=[1, 2], frequency=[3, 3], slipping=True),
    RfmSpec(name="need attention", recency=[3, 3]),
    RfmSpec(name="asleep"),
)
"""The segments where `segments.yaml` has none."""

"""The YAML of offers, the placements that show them, channels and moments of truth: strict structs as in `spec`."""

from typing import Annotated, Literal

from msgspec import Meta

from engine.catalog.spec.experiment import PolicySpec
from engine.catalog.spec.fields import Condition, Count, Key, Payload, Positive, Span, Spec, Text, TimeOfDay, Timestamp
from engine.vocabulary import EXPOSURE, IGNORED


class RewardSpec(Spec, frozen=True, kw_only=True):
    """What teaches a policy: the metric, within `window` of being seen.

    Without a reward by `settle` an exposure is learnt as a zero for the time being; a reward that comes later, but in
    the window, corrects it.
    """

    metric: Key
    window: Span = "24h"
    settle: Span = "10m"


class ArbitrationSpec(Spec, frozen=True, kw_only=True):
    """Which factors make an offer's probability: that of the policy, the context's weight, its value, its lever."""

    policy: bool = True
    context: bool = True
    value: bool = False
    lever: bool = True


class ContextWeightSpec(Spec, frozen=True, kw_only=True):
    """Where the customer and the request match `when`, these offers weigh so much more."""

    when: Condition = {}
    offers: "list[Key] | TaggedOffers"
    weight: Positive


class SelectionSpec(Spec, frozen=True, kw_only=True):
    """How the offers of one placement are chosen."""

    key: Key
    placement: Key
    channels: list[Key] | None = None
    offers: "list[Key] | TaggedOffers"
    policy: PolicySpec
    reward: RewardSpec
    fallback: Key
    arbitration: ArbitrationSpec = ArbitrationSpec()
    weights: list[ContextWeightSpec] = []


class TaggedOffers(Spec, frozen=True, kw_only=True):
    """All offers with this tag."""

    tagged: Key


class CapSpec(Spec, frozen=True, kw_only=True):
    """At most `count` of an event per customer and window.

    Counted over this offer, over all offers with a tag, on a channel, or over all that the customer gets. A calendar
    window is a day, a week from Monday, a month or a year where the customer is, or in a zone of its own.
    """

    count: Count
    per: Span
    window: Literal["rolling", "calendar"] = "rolling"
    zone: Text = "customer"
    event: Text = EXPOSURE
    scope: Literal["offer", "tag", "channel", "customer"] = "offer"
    tag: Key | None = None


class SuppressSpec(Spec, frozen=True, kw_only=True, rename={"lasts": "for"}):
    """After so many outcomes `within` a time the offer is not shown to this customer `for` a time.

    An `ignored` offer was seen and not answered for a day, or a channel said so; any other outcome is an event.
    """

    after: Annotated[int, Meta(ge=1, le=64, extra={"remedy": "give a whole number from 1 to 64"})]
    outcome: Text = IGNORED
    within: Span
    lasts: Span


class StockSpec(Spec, frozen=True, kw_only=True):
    """Shown only while `at_least` of the SKU are left; one is held for whom it is shown to, until they collect it.

    With `pace` the stock is spread over the time until the offer's `end`: a shadow price, higher the faster it goes,
    keeps the last ones for those to whom they are worth most.
    """

    sku: Text
    at_least: Count = 1
    hold: Span = "15m"
    pace: bool = False


class BudgetSpec(Spec, frozen=True, kw_only=True):
    """What the offer may cost in all. What one showing may `cost` is held until it is redeemed or the hold ends.

    With `pace` it is spread over the time until the offer's `end`, as a stock is.
    """

    amount: Positive
    cost: Positive = 1.0
    hold: Span = "1d"
    pace: bool = False


class OfferSpec(Spec, frozen=True, kw_only=True):
    """One offer, with its rendering per channel. `lever` is how much the shop wants it: 2 is twice as much.

    `attributes` say what it is like, for policies that learn from similar offers; its tags are `tags.KEY` there.
    Price, currency, discount, terms and dates (`until`, `valid_from`, …) are the same in every rendering that has them.
    """

    key: Key
    title: Text | None = None
    tags: list[Key] = []
    attributes: dict[Key, str | float | bool] = {}
    purpose: Key | None = None
    value: float = 0.0
    lever: Positive = 1.0
    audience: Condition = {}
    start: Timestamp | None = None
    end: Timestamp | None = None
    caps: list[CapSpec] = []
    suppress: SuppressSpec | None = None
    stock: StockSpec | None = None
    budget: BudgetSpec | None = None
    renderings: Annotated[dict[Key, Payload], Meta(min_length=1)]


class QuietSpec(Spec, frozen=True, kw_only=True, rename={"start": "from", "end": "to"}):
    """Hours in which an outbound channel sends nothing: it waits for their end (`defer`), or gives up (`drop`)."""

    start: TimeOfDay
    end: TimeOfDay
    zone: Text = "customer"
    then: Literal["defer", "drop"] = "defer"


class ChannelSpec(Spec, frozen=True, kw_only=True):
    """A way in which customers meet the shop; `outbound` where the shop writes to them. `caps` hold for every offer.

    Past its caps an outbound channel sends nothing, another one shows the fallback.
    """

    key: Key
    title: Text | None = None
    outbound: bool = False
    quiet: QuietSpec | None = None
    caps: list[CapSpec] = []


class PlacementSpec(Spec, frozen=True, kw_only=True):
    """A place on some channels where one offer is shown."""

    key: Key
    channels: Annotated[list[Key], Meta(min_length=1)]
    title: Text | None = None


class ChannelsFile(Spec, frozen=True, kw_only=True):
    """`channels.yaml`: where customers meet the shop. `zone` is that of those who told none in the trait `timezone`."""

    channels: Annotated[list[ChannelSpec], Meta(min_length=1)]
    placements: list[PlacementSpec] = []
    zone: Text = "UTC"


class TriggerSpec(Spec, frozen=True, kw_only=True):
    """What begins a moment: an event of the customer, a date trait of theirs, or what is so now (`when`).

    A date comes every year unless `yearly` is false; who was born on 29 February has it on the 28th in other years, or
    on 1 March. An event begins the moment `after` a while, `unless` one of these events came later.
    """

    event: Text | None = None
    date: Text | None = None
    when: Condition = {}
    yearly: bool = True
    leap_day: Literal["28 February", "1 March"] = "28 February"
    after: Span | None = None
    unless: list[Text] = []


class OnceSpec(Spec, frozen=True, kw_only=True):
    """A moment is over for a customer after one `event` in it: in its occurrence, or in a calendar period."""

    per: Literal["occurrence", "day", "week", "month", "year"] = "occurrence"
    event: Text = EXPOSURE


class MomentSpec(Spec, frozen=True, kw_only=True):
    """A moment of truth: while it lasts, the first of its offers that the customer may have goes before all others.

    A `window` in days ends with the day, where the customer is.
    """

    key: Key
    title: Text | None = None
    trigger: TriggerSpec
    window: Span = "1d"
    placements: Annotated[list[Key], Meta(min_length=1)]
    channels: list[Key] | None = None
    audience: Condition = {}
    offers: Annotated[list[Key], Meta(min_length=1)]
    once: OnceSpec | None = None


class MomentsFile(Spec, frozen=True, kw_only=True):
    """`moments.yaml`: when some offers go before all others; of two moments the first in the file."""

    moments: list[MomentSpec] = []

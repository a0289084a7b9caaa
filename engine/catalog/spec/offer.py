"""The YAML of offers, placements, channels, moments of truth and campaigns, as structs that reject unknown keys."""

from typing import Annotated, Literal

from msgspec import Meta

from engine.catalog.spec.experiment import PolicySpec
from engine.catalog.spec.fields import (
    RESTRICTS,
    Condition,
    HandOutRate,
    Key,
    Payload,
    Positive,
    PropertyName,
    Span,
    Spec,
    Text,
    TimeOfDay,
    ZonedTime,
    restricting_fields,
)
from engine.catalog.spec.limits.caps import CapSpec, SuppressSpec
from engine.catalog.spec.limits.stock import BudgetSpec, CouponsSpec, SharedBudgetSpec, StockSpec
from engine.catalog.spec.notify import Weekday
from engine.catalog.spec.sources import TableName
from engine.customer import IdKind
from engine.vocabulary import EXPOSURE

MOST_ITEMS = 50
ListLength = Annotated[
    int,
    Meta(ge=1, le=MOST_ITEMS, extra={"remedy": f"give a whole number from 1 to {MOST_ITEMS}"}),
]
Examined = Annotated[float, Meta(gt=0, le=1, extra={"remedy": "give the share who look there, such as 0.7"})]

Renderings = dict[Key, Payload | Annotated[list[Payload], Meta(min_length=1, description="creatives")]]
"""By channel: one rendering, or several from which a policy chooses."""
HeldOutShare = Annotated[float, Meta(ge=0, lt=1, extra={"remedy": "give a share below 1, such as 0.05"})]
FeedFile = Annotated[
    str,
    Meta(
        pattern=r"^(feeds/)?[A-Za-z0-9_-][A-Za-z0-9_.-]*\.(csv|jsonl|ndjson|parquet)$",
        description="a file beside the YAML that ends with .csv, .jsonl, .ndjson or .parquet",
        extra={"remedy": "name a file in the folder of the YAML, such as products.csv"},
    ),
]


class RewardSpec(Spec, frozen=True, kw_only=True):
    """The reward from which a policy learns: the metric, within `window` after the exposure.

    An exposure without a reward by `settle` is learnt as a zero for the time being. A reward that arrives later within
    the window corrects it.

    Of a list, `examination` is the share of customers who look at each position, such as `[1, 0.7, 0.5]`: an offer
    that earned nothing far down teaches less. `learnt` estimates the shares from the rewards, and is the default.
    """

    metric: Key
    window: Span = "24h"
    settle: Span = "10m"
    examination: list[Examined] | Literal["learnt"] = "learnt"


class ArbitrationSpec(Spec, frozen=True, kw_only=True):
    """Which factors multiply to an offer's probability: the policy's, the context weight, the value, the lever."""

    policy: bool = True
    context: bool = True
    value: bool = False
    lever: bool = True


class ContextWeightSpec(Spec, frozen=True, kw_only=True):
    """Where the customer and the request match `when`, the probability of these offers is multiplied by `weight`."""

    when: Condition = {}
    offers: "list[Key] | TaggedOffers"
    weight: Positive


class SelectionSpec(Spec, frozen=True, kw_only=True):
    """The choice of the offers of one placement.

    With `count` above 1, here or at the placement, it shows a list. The list is drawn without replacement, each
    position from the policy's probabilities over the offers that are left. Each item is claimed by itself. With
    `claims: skip` another offer takes the place of one that cannot be claimed, and if none is left the list is shorter.
    With `claims: all` the list has all of its items, or the fallback is shown.

    With `silence` the placement stays empty in that share of the decisions that would show an offer. It is logged with
    its propensity, so that reports know what showing is worth.

    Where an offer has several renderings on a channel, `creatives` is the policy that chooses one of them after the
    offer; without it that is a policy as the placement's own.
    """

    key: Key
    placement: Key
    channels: list[Key] | None = None
    offers: "list[Key] | OffersSpec"
    policy: PolicySpec
    creatives: PolicySpec | None = None
    reward: RewardSpec
    fallback: Key
    count: ListLength | None = None
    claims: Literal["skip", "all"] = "skip"
    silence: HeldOutShare = 0.0
    arbitration: ArbitrationSpec = ArbitrationSpec()
    weights: list[ContextWeightSpec] = []


class TaggedOffers(Spec, frozen=True, kw_only=True):
    """Selects all offers with a tag."""

    tagged: Key


class FeedTableSpec(Spec, frozen=True, kw_only=True):
    """The table that a feed is written from: `at` names a connection of `sources.yaml`.

    `counterpoint feeds` writes the columns that the entry names into the file.
    """

    table: TableName
    at: Key


class OffersSpec(Spec, frozen=True, kw_only=True):
    """The offers of a placement that are not listed: all with the tag `tagged`, or one for each row of a `feed`.

    A feed is a CSV, JSON Lines or Parquet file in the folder of the YAML, which is read again when it changes. `key`,
    `title`, `price`, `value` and `tags` name its columns, `attributes` further ones by the name under which policies
    read them; `price` is an attribute too. `prefix` begins the keys of its offers. `{column}` in a text of the
    `rendering`, the `audience` or the `stock` is what the row has there. Every item has the entry's gates: `purpose`,
    `audience`, dates, `caps`, `suppress` and `stock`. A row that is wrong is left out, and `check` names it. With
    `table` the file is what `counterpoint feeds` last wrote of a table in a database.
    """

    tagged: Key | None = None
    feed: FeedFile | None = None
    table: FeedTableSpec | None = None
    key: PropertyName | None = None
    prefix: Key | None = None
    title: PropertyName | None = None
    price: PropertyName | None = None
    value: PropertyName | None = None
    tags: PropertyName | None = None
    attributes: dict[Key, PropertyName] = {}
    purpose: Annotated[Key | None, RESTRICTS] = None
    audience: Annotated[Condition, RESTRICTS] = {}
    start: Annotated[ZonedTime | None, RESTRICTS] = None
    end: Annotated[ZonedTime | None, RESTRICTS] = None
    caps: Annotated[list[CapSpec], RESTRICTS] = []
    suppress: Annotated[SuppressSpec | None, RESTRICTS] = None
    stock: Annotated[StockSpec | None, RESTRICTS] = None
    rendering: Renderings = {}


OWN_OF_CREATIVE = frozenset(("key", "attributes"))
"""The names in a creative that are the engine's, and not the storefront's."""


class OfferSpec(Spec, frozen=True, kw_only=True):
    """One offer, with its rendering per channel. A `lever` of 2 doubles its probability relative to the others.

    `attributes` describe it to policies that learn from similar offers; its tags are read there as `tags.KEY`.
    Price, currency, discount, terms and dates (`until`, `valid_from`, …) are the same in every rendering that has them.
    A rendering may be by language, `{de: …, en: …}`: the customer's `language`, from traits or context, chooses.
    It may be a list of creatives, `[{key: photo, …}, {key: text, …}]`, from which a policy chooses; `attributes` of a
    creative are read as those of the offer are.

    Of the offers that name the same group under `exclusive`, an answer shows at most one.
    """

    key: Key
    title: Text | None = None
    tags: list[Key] = []
    attributes: dict[Key, str | float | bool] = {}
    purpose: Annotated[Key | None, RESTRICTS] = None
    value: float = 0.0
    lever: Positive = 1.0
    audience: Annotated[Condition, RESTRICTS] = {}
    start: Annotated[ZonedTime | None, RESTRICTS] = None
    end: Annotated[ZonedTime | None, RESTRICTS] = None
    caps: Annotated[list[CapSpec], RESTRICTS] = []
    suppress: Annotated[SuppressSpec | None, RESTRICTS] = None
    stock: Annotated[StockSpec | None, RESTRICTS] = None
    budget: Annotated[BudgetSpec | None, RESTRICTS] = None
    coupons: Annotated[CouponsSpec | None, RESTRICTS] = None
    exclusive: Annotated[list[Key], RESTRICTS] = []
    renderings: Annotated[Renderings, Meta(min_length=1)]

    @property
    def is_unrestricted(self) -> bool:
        """Whether the offer may be shown to anyone at any time, as a fallback must."""
        return not any(getattr(self, name) for name in restricting_fields(OfferSpec))


class QuietSpec(Spec, frozen=True, kw_only=True, rename={"start": "from", "end": "to"}):
    """Hours in which an outbound channel sends nothing: `defer` delays a message to their end, `drop` discards it."""

    start: TimeOfDay
    end: TimeOfDay
    zone: Text = "customer"
    then: Literal["defer", "drop"] = "defer"


class ChannelSpec(Spec, frozen=True, kw_only=True):
    """A channel; on an `outbound` one the shop writes to the customers. Its `caps` hold for every offer.

    Where a cap of the channel is reached, an outbound channel sends nothing and any other shows the fallback.
    `/v1/due` hands out no more messages of the channel than its `capacity`, and none to customers without an identifier
    of the kind `address`.
    """

    key: Key
    title: Text | None = None
    outbound: bool = False
    quiet: Annotated[QuietSpec | None, RESTRICTS] = None
    capacity: Annotated[HandOutRate | None, RESTRICTS] = None
    address: Annotated[IdKind | None, RESTRICTS] = None
    caps: Annotated[list[CapSpec], RESTRICTS] = []


class PlacementSpec(Spec, frozen=True, kw_only=True):
    """A place on one or more channels where one offer is shown, or an ordered list of `count` offers."""

    key: Key
    channels: Annotated[list[Key], Meta(min_length=1)]
    count: ListLength = 1
    title: Text | None = None


class SilenceSpec(Spec, frozen=True, kw_only=True, rename={"spared": "except"}):
    """While `when` holds for a customer, no offer is shown to them but those `except` names, by key or tag.

    `when` is `complaint_open`, a segment, or a condition. Fallbacks are shown still, but not sent on an outbound
    channel.
    """

    when: Text | Condition
    spared: list[Key] = []


class StackingSpec(Spec, frozen=True, kw_only=True):
    """Of these offers, all of the shop where it says `all`, one order may redeem at most `most`."""

    offers: "list[Key] | TaggedOffers | Literal['all']"
    most: Annotated[int, Meta(ge=1, le=1000, extra={"remedy": "give a whole number from 1"})] = 1


class ChannelsFile(Spec, frozen=True, kw_only=True):
    """`channels.yaml`: channels and placements.

    `zone` is the time zone of customers without the trait `timezone`. `language` is that of customers whose own is not
    known or not spoken by an offer; without one it is the first language of the offer's rendering. `suppress` silences
    all offers but some while a condition holds. `stacking` are the rules of which offers one order may redeem; each
    must hold.
    """

    channels: Annotated[list[ChannelSpec], Meta(min_length=1)]
    placements: list[PlacementSpec] = []
    zone: Text = "UTC"
    language: Text | None = None
    suppress: Annotated[SilenceSpec | None, RESTRICTS] = None
    stacking: list[StackingSpec] = []


class TriggerSpec(Spec, frozen=True, kw_only=True):
    """The start of a moment: an event of the customer, a date trait, or a condition that holds now (`when`).

    A date recurs every year unless `yearly` is false; 29 February falls on `leap_day` in other years. An event starts
    the moment `after` a span, `unless` one of these events followed it. With a `filter` on its properties only such
    events do: `{event: beacon, filter: {shelf: coffee}}`.
    """

    event: Text | None = None
    filter: Condition = {}
    date: Text | None = None
    when: Condition = {}
    yearly: bool = True
    leap_day: Literal["28 February", "1 March"] = "28 February"
    after: Span | None = None
    unless: list[Text] = []


class OnceSpec(Spec, frozen=True, kw_only=True):
    """A moment ends for a customer after one `event`, counted per occurrence of the moment or per calendar period."""

    per: Literal["occurrence", "day", "week", "month", "year"] = "occurrence"
    event: Text = EXPOSURE


class MomentSpec(Spec, frozen=True, kw_only=True):
    """A moment of truth: while it lasts, the first of its offers that the customer may have precedes all others.

    A `window` in days ends at midnight in the customer's time zone.
    """

    key: Key
    title: Text | None = None
    trigger: TriggerSpec
    window: Span = "1d"
    placements: Annotated[list[Key], Meta(min_length=1)]
    channels: Annotated[list[Key] | None, RESTRICTS] = None
    audience: Annotated[Condition, RESTRICTS] = {}
    offers: Annotated[list[Key], Meta(min_length=1)]
    once: Annotated[OnceSpec | None, RESTRICTS] = None


class MomentsFile(Spec, frozen=True, kw_only=True):
    """`moments.yaml`: when some offers precede all others; of several moments at once the first in the file applies."""

    moments: list[MomentSpec] = []


WEEKDAYS: tuple[Weekday, ...] = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
"""The weekdays in the order of `date.weekday`."""


class ScheduleSpec(Spec, frozen=True, kw_only=True):
    """The days of a campaign and its hours: each of `at` lasts until the next, the last one until midnight.

    They are those of the customer's time zone, or of `zone`.
    """

    days: Annotated[list[Weekday], Meta(min_length=1)]
    at: Annotated[list[TimeOfDay], Meta(min_length=1, max_length=24)]
    zone: Text = "customer"


class CampaignChannelSpec(Spec, frozen=True, kw_only=True):
    """A channel that a campaign may use, for customers who match `when`; the offer is chosen at `placement`."""

    channel: Key
    placement: Key
    when: Condition = {}


class CampaignSpec(Spec, frozen=True, kw_only=True):
    """One campaign. On each of its days the policy chooses for every customer: a channel and an hour, or silence.

    A person gets at most one message of it a day. `purpose` is the consent that any message needs. The choice is logged
    as that of a placement with the campaign's key; its arms are `email@09:00` and the like, and `silence`, from which
    the report knows what a message is worth. `/v1/due` hands the messages out.
    """

    key: Key
    title: Text | None = None
    schedule: ScheduleSpec
    channels: Annotated[list[CampaignChannelSpec], Meta(min_length=1)]
    audience: Annotated[Condition, RESTRICTS] = {}
    purpose: Annotated[Key | None, RESTRICTS] = None
    start: Annotated[ZonedTime | None, RESTRICTS] = None
    end: Annotated[ZonedTime | None, RESTRICTS] = None
    policy: PolicySpec
    reward: RewardSpec


class CampaignsFile(Spec, frozen=True, kw_only=True):
    """`campaigns.yaml`: the messages that the shop sends on days of the week. A moment sends by itself.

    `budgets` are amounts that several offers spend together.
    """

    campaigns: list[CampaignSpec] = []
    budgets: list[SharedBudgetSpec] = []

"""The customer: their identifiers and their profile as it is stored. Conditions read it by `engine.traits.attributes`.

A customer is bucketed over their `unit`, not over their id. The unit is the id of their first decision and survives a
login, so an experiment keeps its variant on every channel without a write in `decide`.

A profile is stored as one msgpack map with one-letter keys; its parts are arrays, so their fields are stored by
position: append a field with a default, and never reorder or remove one.
"""

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from typing import Annotated, Final, Literal, NamedTuple

import msgspec

from engine.vocabulary import CAMPAIGN, DAY

HALF_LIFE = 30 * DAY
"""Seconds in which an affinity loses half its weight, unless `identities.yaml` says otherwise."""

IdKind = Literal["user_id", "loyalty_card", "email", "phone", "anonymous_id", "device_id"]
KINDS: tuple[IdKind, ...] = ("user_id", "loyalty_card", "email", "phone", "anonymous_id", "device_id")
"""Kinds of identifiers, the strongest first: the strongest that a request names decides whose profile is read."""
WEAK: frozenset[IdKind] = frozenset(("anonymous_id", "device_id"))
"""Kinds that name a browser or a device, which several customers may use."""

COMPLAINT_FIELD: Final = "complaint"
"""The field of a profile in which earlier releases stored whether a complaint is open."""

Scalar = str | int | float | bool | None
TraitValue = Scalar | list[Scalar]
Counts = Mapping[str, Sequence[float]]
"""Counter -> times (s since 1970) of what it counted for one customer, oldest first."""

Identifier = Annotated[str, msgspec.Meta(max_length=200)]


class CustomerIds(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The identifiers by which a channel knows the customer; at least one is given."""

    user_id: Identifier | None = None
    anonymous_id: Identifier | None = None
    email: Identifier | None = None
    phone: Identifier | None = None
    loyalty_card: Identifier | None = None
    device_id: Identifier | None = None


def prove(secret: bytes, ids: CustomerIds) -> str:
    """Sign a customer: HMAC-SHA256 in hex over a line `name=value` for each id that is set, in `CustomerIds` order.

    >>> prove(b"kept-by-the-backend", CustomerIds(user_id="u-42"))[:16]
    'f3f72ce7330fdb68'
    """
    lines = "".join(f"{name}={value}\n" for name in ids.__struct_fields__ if (value := getattr(ids, name)) is not None)
    return hmac.new(secret, lines.encode(), hashlib.sha256).hexdigest()


class Trait(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The value of one trait as of `time` (s since 1970), from the channel or system `source`.

    `known`: the statement named a person (a user id), and not only a browser or device.
    """

    value: TraitValue
    time: float
    source: str = ""
    known: bool = False


class Decayed(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A sum that halves every half-life; it was `value` at `time` (s since 1970)."""

    value: float
    time: float


class Order(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One order. `refunded` is an amount, `full` marks a refund of all of it; a refund may arrive before its order."""

    revenue: float
    time: float
    points: float = 0.0
    refunded: float = 0.0
    full: bool = False


class Consent(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A consent to one purpose, until `expires` (s since 1970; None: until it is withdrawn).

    `source` is the channel, `by` the identifier under which it was given or withdrawn.
    """

    granted: bool
    time: float
    expires: float | None = None
    source: str = ""
    by: str = ""

    def is_in_force(self, now: float) -> bool:
        """Whether the consent is given and has not expired at `now` (s since 1970)."""
        return self.granted and (self.expires is None or self.expires > now)


class Link(NamedTuple):
    """Two identifiers of one customer, `a` < `b` as text; `time` is when one event first named both (s since 1970)."""

    a: str
    b: str
    time: float


class ComplaintStatement(NamedTuple):
    """An event that opened or resolved a complaint at `time` (s since 1970); `id` is empty if it named none."""

    time: float
    opens: bool
    id: str = ""


class SurveyAnswer(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The newest answer to a satisfaction question; `time` is in seconds since 1970."""

    score: float
    time: float


class JourneyItem(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A cart, step or conversation that any channel can resume until `until` (s since 1970); None once finished."""

    value: object
    time: float
    until: float


class SeriesTally(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The events of one step of a window; the sum is in ten-thousandths, `value` the least, greatest or first."""

    step: int
    count: int = 0
    total: int = 0
    value: Scalar = None
    time: float = 0.0


class TraitSeries(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The newest events, oldest first, and the tallies of older ones by their step."""

    points: list[tuple[float, Scalar]] = []
    tallies: list[SeriesTally] = []


class Profile(
    msgspec.Struct,
    frozen=True,
    omit_defaults=True,
    gc=False,  # here as in its parts: a tree read from a blob has no cycles, and decodes a third faster untracked
    rename={
        "id": "i",
        "unit": "u",
        "version": "v",
        "created": "c",
        "updated": "t",
        "ids": "k",
        "units": "D",
        "merged": "M",
        "marks": "m",
        "shared": "S",
        "undecided": "x",
        "traits": "T",
        "affinities": "A",
        "half_life": "h",
        "points": "p",
        "earned": "e",
        "tier": "l",
        "orders": "O",
        "order_count": "n",
        "revenue": "r",
        "first_order": "f",
        "last_order": "o",
        "visits": "V",
        "past_visits": "w",
        "channels": "H",
        "recent": "R",
        "complaint": "C",
        "consents": "N",
        "answers": "Q",
        "journey": "J",
        "sticky": "b",
        "links": "L",
        "consent_statements": "W",
        "trait_statements": "P",
        "complaints": "q",
        "joining": "j",
        "order_facts": "F",
        "series": "Z",
        "archived_series": "z",
    },
):
    """One customer. Times are seconds since 1970, UTC; money is in the shop's currency, net of refunds.

    Attributes:
        id: the canonical customer id; `unit` is what experiments hash, until a decision was seen (`undecided`) the id.
        ids: every identifier bound to the customer, by kind.
        units: units of visitors who turned out to be this customer, and when: until then a variant may be a crossover.
        shared: the identifier bound too many people, so it identifies nobody.
        merged: tags of the profiles merged into this one, which make a repeated merge harmless.
        marks: digests of the messages counted most recently, which make a repeated message harmless.
        earned: points from orders, before redemptions.
        visits: the newest visits, first and last second of each; `past_visits` counts the older ones.
        recent: the time of the last event of each kind.
        complaints: what was stated of complaints, oldest first; `complaint` is how earlier releases stored it.
        links: which identifiers were linked when; with `consent_statements` and `trait_statements` the newest statement
            of each identifier, where several made one. See `engine.customers.model.consent_sums`.
        joining: identifiers that a merge in progress brings, as `kind:value`, and until when they count towards limits.
        series: what the shop's traits store, by digest (`engine.traits`), of archived orders in `archived_series`;
            `order_facts` are what they read of each order's purchase.
    """

    id: str
    unit: str
    version: int = 0
    created: float = 0.0
    updated: float = 0.0
    ids: dict[str, list[str]] = {}
    units: dict[str, float] = {}
    merged: list[str] = []
    marks: bytes = b""
    shared: bool = False
    undecided: bool = False
    traits: dict[str, Trait] = {}
    affinities: dict[str, Decayed] = {}
    half_life: float = HALF_LIFE
    points: float = 0.0
    earned: float = 0.0
    tier: int = 0
    orders: dict[str, Order] = {}
    order_count: int = 0
    revenue: float = 0.0
    first_order: float = 0.0
    last_order: float = 0.0
    visits: list[tuple[int, int]] = []
    past_visits: int = 0
    channels: dict[str, int] = {}
    recent: dict[str, float] = {}
    complaint: tuple[bool, float] | None = None
    consents: dict[str, Consent] = {}
    answers: dict[str, SurveyAnswer] = {}
    journey: dict[str, JourneyItem] = {}
    sticky: dict[str, str] = {}
    links: list[Link] = []
    consent_statements: dict[str, dict[str, Consent]] = {}
    trait_statements: dict[str, dict[str, Trait]] = {}
    complaints: list[ComplaintStatement] = []
    joining: dict[str, float] = {}
    order_facts: dict[str, dict[str, Scalar]] = {}
    series: dict[str, TraitSeries] = {}
    archived_series: dict[str, TraitSeries] = {}

    @property
    def is_known(self) -> bool:
        """Whether the profile has an identifier of a person, and not only of a browser or device."""
        return any(kind not in ("anonymous_id", "device_id") for kind in self.ids)


def complaint_statements(profile: Profile) -> list[ComplaintStatement]:
    """The statements on the customer's complaints, oldest first, by this release and earlier ones."""
    if profile.complaint is None:
        return profile.complaints
    opens, time = profile.complaint
    return sorted((ComplaintStatement(time, opens), *profile.complaints))


def pair_complaints(statements: Sequence[ComplaintStatement]) -> list[tuple[ComplaintStatement, ...]]:
    """Returns each statement that opened a complaint, oldest first, with the one that closed it, if any.

    A resolution closes the complaint whose id it names, or else the oldest open one that has no id. Without an id it
    closes the oldest without one, or else the oldest. A complaint that is open under its id is not opened again.
    """
    pairs: list[tuple[ComplaintStatement, ...]] = []
    for statement in statements:
        waiting = [place for place, pair in enumerate(pairs) if len(pair) == 1]
        same = [place for place in waiting if pairs[place][0].id == statement.id]
        if statement.opens:
            if not statement.id or not same:
                pairs.append((statement,))
            continue
        closes = same or [place for place in waiting if not (statement.id and pairs[place][0].id)]
        if closes:
            pairs[closes[0]] = (pairs[closes[0]][0], statement)
    return pairs


def has_open_complaint(profile: Profile) -> bool:
    """Whether one of the customer's complaints is not resolved."""
    if not profile.complaints:
        return profile.complaint is not None and profile.complaint[0]
    return any(len(pair) == 1 for pair in pair_complaints(complaint_statements(profile)))


def has_consented(profile: Profile, purpose: str, now: float) -> bool:
    """Whether the customer has consented to `purpose` and it has not expired at `now`."""
    consent = profile.consents.get(purpose)
    return consent is not None and consent.is_in_force(now)


def resumable_journey(profile: Profile, now: float) -> dict[str, object]:
    """The cart, step and conversation that any channel can resume at `now` (s since 1970)."""
    if not profile.journey:
        return {}
    items = (one for one in profile.journey.items() if one[0] != CAMPAIGN and one[1].until > now)
    return {name: item.value for name, item in items if item.value is not None}

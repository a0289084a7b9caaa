"""The customer as a decision reads them: one compact blob, and the attributes that conditions and policies see.

A customer is bucketed over their `unit`, not over their id: the unit is the id they were first decided under, and
it survives a login, so every experiment keeps its variant across channels without a write on decide.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, NamedTuple

import msgspec

from engine.vocabulary import DAY

HALF_LIFE = 30 * DAY
"""Seconds after which an affinity has lost half its weight, unless `identities.yaml` says otherwise."""

IdKind = Literal["user_id", "loyalty_card", "email", "phone", "anonymous_id", "device_id"]
KINDS: tuple[IdKind, ...] = ("user_id", "loyalty_card", "email", "phone", "anonymous_id", "device_id")
"""Kinds of identifiers, the strongest first."""
WEAK: frozenset[IdKind] = frozenset(("anonymous_id", "device_id"))
"""Kinds that name a browser or a device, which several customers may use."""

LOYAL_ORDERS = 5
LAPSED_AFTER = 180 * DAY

Scalar = str | int | float | bool | None
TraitValue = Scalar | list[Scalar]
Stage = Literal["new", "engaged", "cart", "customer", "loyal", "lapsed"]
Counts = Mapping[str, Sequence[float]]
"""Counter -> times (s since 1970) of what it counted for one customer, oldest first."""

Identifier = Annotated[str, msgspec.Meta(max_length=200)]


class CustomerIds(msgspec.Struct, frozen=True, omit_defaults=True):
    """Every identifier a channel knows of the customer; at least one is given."""

    user_id: Identifier | None = None
    anonymous_id: Identifier | None = None
    email: Identifier | None = None
    phone: Identifier | None = None
    loyalty_card: Identifier | None = None
    device_id: Identifier | None = None


class Trait(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What is known of one trait: its value, when it was so (s since 1970), who said it, whether under a user id."""

    value: TraitValue
    time: float
    source: str = ""
    known: bool = False


class Decayed(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A sum that halves every half-life: worth `value` at `time`."""

    value: float
    time: float


class Order(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One order by its id; `refunded` is an amount, `full` a refund of all of it, whichever of them came first."""

    revenue: float
    time: float
    points: float = 0.0
    refunded: float = 0.0
    full: bool = False


class Consent(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A consent to one purpose, until `expires` (s since 1970; None: until withdrawn); `by` names who said it."""

    granted: bool
    time: float
    expires: float | None = None
    source: str = ""
    by: str = ""


class Link(NamedTuple):
    """Two identifiers of one customer, `a` before `b` as text, and when both were first named together."""

    a: str
    b: str
    time: float


class SurveyAnswer(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The newest answer to a satisfaction question."""

    score: float
    time: float


class JourneyItem(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A piece of the journey to go on from, on any channel, until `until`; None once it is finished."""

    value: object
    time: float
    until: float


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
    },
):
    """One customer. Times are seconds since 1970, UTC; money is in the shop's currency, net of refunds.

    `id` is the canonical customer id, `unit` the id they are bucketed over, `units` those of visitors who turned out to
    be this customer, with when they did (another variant under one of them till then is a crossover), `ids` every
    identifier bound to them by kind, `shared` marks an identifier that bound too many people and so stands for nobody;
    `sticky` is what experiments keep them in, as `decide.sticky` names it. Until a decision was seen they are
    `undecided` and their unit is only their id. `merged` and `marks` are the store's: whom the profile holds already,
    and the messages it counted lately. `links`, `consent_statements` and `trait_statements` belong to
    `customers.model.consent_sums`: when identifiers were linked, and each one's newest statement on a consent or on a
    trait that is added up, where several made one.
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

    @property
    def is_known(self) -> bool:
        """Whether a person stands behind it: any identifier but a browser's or a device's."""
        return any(kind not in ("anonymous_id", "device_id") for kind in self.ids)


def derive_attributes(profile: Profile, now: float) -> dict[str, object]:
    """The customer as conditions and policy features read them, at `now` (s since 1970).

    A trait stands at top level under its name; a dotted name nests (`loyalty.tier` is `{"loyalty": {"tier": …}}`)
    and, told by the shop, wins over the computed one. What was never seen is absent. `segments` is the caller's.
    """
    count = profile.order_count
    visits = profile.past_visits + len(profile.visits)
    tree: dict[str, object] = {
        "loyalty": {"points": profile.points, "tier": profile.tier},
        "visits": visits,
        "frequency": count,
        "monetary": profile.revenue,
        "channels": list(profile.channels),
        "complaint_open": profile.complaint is not None and profile.complaint[0],
        "stage": derive_stage(profile, now),
    }
    orders: dict[str, object] = {"count": count, "revenue": profile.revenue}
    if profile.last_order and count:  # not of what was wholly taken back
        orders["last_days"] = tree["recency_days"] = max(0.0, now - profile.last_order) / DAY
    tree["orders"] = orders
    if profile.affinities:
        rate = -1.0 / profile.half_life
        tree["affinity"] = {
            name: held.value * 2.0 ** ((now - held.time) * rate) for name, held in profile.affinities.items()
        }
    if profile.consents:
        tree["consent"] = {name: _holds(consent, now) for name, consent in profile.consents.items()}
    if profile.answers:
        tree["satisfaction"] = {name: answer.score for name, answer in profile.answers.items()}
    for name, trait in profile.traits.items():
        if "." in name:
            _nest(tree, name, trait.value)
        else:
            tree[name] = trait.value
    return tree


def has_consented(profile: Profile, purpose: str, now: float) -> bool:
    """Whether the customer has consented to `purpose` and it has not expired at `now`."""
    consent = profile.consents.get(purpose)
    return consent is not None and _holds(consent, now)


def resumable_journey(profile: Profile, now: float) -> dict[str, object]:
    """Where the customer can go on, on any channel: cart, step, conversation, while they live at `now`."""
    return {name: held.value for name, held in profile.journey.items() if held.value is not None and held.until > now}


def derive_stage(profile: Profile, now: float) -> Stage:
    """The journey stage: lapsed and loyal customers by their orders, then an open cart, then any second visit."""
    if profile.order_count:
        if now - profile.last_order > LAPSED_AFTER:
            return "lapsed"
        return "loyal" if profile.order_count >= LOYAL_ORDERS else "customer"
    cart = profile.journey.get("cart")
    if cart is not None and cart.value is not None and cart.until > now:
        return "cart"
    return "engaged" if profile.past_visits + len(profile.visits) > 1 else "new"


def _holds(consent: Consent, now: float) -> bool:
    return consent.granted and (consent.expires is None or consent.expires > now)


def _nest(tree: dict[str, object], name: str, value: TraitValue) -> None:
    *path, leaf = name.split(".")
    for part in path:
        child = tree.get(part)
        if not isinstance(child, dict):
            child = tree[part] = {}
        tree = child
    tree[leaf] = value

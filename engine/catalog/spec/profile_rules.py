"""The rules for stored customers: merge rules, limits per identifier kind, and the life of each stored part."""

from typing import Annotated, Literal

import msgspec

from engine.catalog.spec.fields import Count
from engine.customer import HALF_LIFE, IdKind
from engine.traits.rules import NO_TRAITS, TraitRules
from engine.vocabulary import DAY, NOT_VISITS, VISIT_GAP

MergeRule = Literal["recency", "source", "sum", "max", "union", "known_wins"]

Seconds = Annotated[float, msgspec.Meta(gt=0)]


class ProfileRules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The compiled `identities.yaml`, which reducers and merges read. Lives and windows are in seconds.

    `binds` is the number of known customers that one value of a kind may name; a value that names more identifies
    nobody. `holds` is the number of values of a kind stored for one customer. `sources` orders the channels for traits
    merged by `source`, best first. `placeholders` are the shop's own values that name nobody, as
    `compile_placeholders` returns them. The last times of `watched_events`, which moments read, are
    stored however many other events a customer has, besides those of the `recent_limit` newest others. The properties
    `amounts` are money; an event in a currency of `rates` is converted into the shop's `currency`. `measured` are, by
    event, the properties that metrics read as numbers. `named_events` are all that
    metrics name. `computed` are the shop's own traits. Without the consent `profiling`, where it is set, decisions use
    no history.
    """

    merge: dict[str, MergeRule] = {}
    sources: list[str] = []
    binds: dict[IdKind, Count] = msgspec.field(default_factory=lambda: {"anonymous_id": 2, "device_id": 4})
    holds: dict[IdKind, Count] = msgspec.field(default_factory=lambda: {"anonymous_id": 32, "device_id": 16})
    life: Seconds = 400 * DAY
    anonymous_life: Seconds = 90 * DAY
    seen_life: Seconds = 14 * DAY
    return_period: Seconds = 100 * DAY
    seen_limit: Count = 4096
    tombstone_life: Seconds = 90 * DAY
    half_life: Seconds = HALF_LIFE
    points_per_unit: Annotated[float, msgspec.Meta(ge=0)] = 1.0
    tiers: list[float] = []
    visit_gap: Seconds = VISIT_GAP
    not_visits: frozenset[str] = NOT_VISITS
    cart_life: Seconds = 7 * DAY
    step_life: Seconds = 1 * DAY
    conversation_life: Seconds = 3 * DAY
    campaign_life: Seconds = 1 * DAY
    traits_limit: Count = 100
    affinities_limit: Count = 50
    orders_limit: Count = 50
    visits_limit: Count = 8
    recent_limit: Count = 24
    placeholders: frozenset[str] = frozenset()
    watched_events: frozenset[str] = frozenset()
    currency: str = "EUR"
    rates: dict[str, float] = {}
    amounts: frozenset[str] = frozenset(("revenue",))
    measured: dict[str, frozenset[str]] = {}
    named_events: frozenset[str] = frozenset()
    computed: TraitRules = NO_TRAITS
    profiling: str | None = None

    def bind_limit(self, kind: IdKind) -> int:
        """The number of known customers that a value of `kind` may identify."""
        return self.binds.get(kind, 1)

    def hold_limit(self, kind: IdKind) -> int:
        """The number of values of `kind` stored for one customer; always 1 for a user id."""
        return 1 if kind == "user_id" else self.holds.get(kind, 8)

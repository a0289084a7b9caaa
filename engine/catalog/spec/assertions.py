"""The YAML of `tests/*.yaml`: what a growth team expects of its shop. No plan has any of it."""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType

from engine.catalog.spec.fields import Condition, FlagKey, Key, Positive, Probability, Spec, Text, ZonedTime

POWER = "power"
"""The key of `expect` that asks for the power of an experiment."""

GivenTraits = Annotated[dict[str, object], Meta(description="traits, as in an identify")]
Expectations = Annotated[
    dict[str, object],
    Meta(min_length=1, description="what each experiment, flag or placement gives, and `power`"),
]


class SampledCustomers(Spec, frozen=True, kw_only=True):
    """Which of the sampled customers an assertion is about.

    `held_out: true` are those of any holdout, `held_out: q4` those of one.
    """

    held_out: Literal[True] | Key | None = None
    audience: Condition = {}
    channel: Key | None = None


class AssertionSpec(Spec, frozen=True, kw_only=True):
    """One assertion: what customers like `given` get (`expect`), or what sampled `customers` see `always` or `never`.

    Without a `customer` (an id) everyone with these traits must get it: 100 ids are tried. `expect` has, by experiment
    or flag, a variant or a flag's value; a list of which one is enough; nothing (`null`) for no variant; or a mapping
    of `variant`, `value`, `reason` and `rule`. By placement it has an offer or a list, and no other may be shown; or
    `null` for nothing; or a mapping of `only`, `may` (has a chance), `never` and `reason`. Drafts are decided as if
    they ran.

    `expect: {power: {conversion: 0.8, days: 14}}` asks whether the `experiment` finds the metric's `mde` with that
    power in so many days; `effect` is another effect. Without an `experiment` it asks of all that have it as primary.

    `never` and `always` name offers, experiments that give a variant, or variants, as in `checkout.v2=new`.
    """

    name: Text | None = None
    given: GivenTraits = {}
    customer: Text | None = None
    channel: Key | None = None
    context: dict[str, object] = {}
    at: ZonedTime | None = None
    experiment: Text | None = None
    expect: Expectations | None = None
    customers: SampledCustomers | None = None
    always: list[Text] = []
    never: list[Text] = []


class AssertionsFile(Spec, frozen=True, kw_only=True):
    """`tests/<any name>.yaml`: assertions that `counterpoint test` checks. `at` is the time of those that name none.

    An assertion may be a sentence: `no held-out customer sees banner`, `every customer in regulars on web sees
    checkout.v2=new`. It has `no` or `every`, `customer` or `held-out customer`, `in SEGMENT` and `on CHANNEL` where
    wanted, `sees`, and what is seen; several have `or` between them after `no`, and `and` after `every`.
    """

    tests: Annotated[list[AssertionSpec | Text], Meta(min_length=1)]
    at: ZonedTime | None = None


class ExpectedVariant(Spec, frozen=True, kw_only=True):
    """The expected results of an experiment or a flag; a field that is left out may be anything."""

    variant: FlagKey | list[FlagKey | None] | UnsetType | None = UNSET
    value: object | UnsetType = UNSET
    reason: Text | list[Text] | None = None
    rule: Key | None = None


class ExpectedOffers(Spec, frozen=True, kw_only=True):
    """The expected results of a placement: offers that may be shown, that have a chance, and that have none."""

    only: list[Key] | None = None
    may: list[Key] = []
    never: list[Key] = []
    reason: Text | list[Text] | None = None


class ExpectedPower(Spec, frozen=True, kw_only=True):
    """The power that an experiment is to have after `days`, by metric; `effect` replaces the metric's `mde`."""

    metrics: dict[Key, Probability]
    days: Positive
    effect: Positive | None = None

"""Checks properties of what sampled customers see on every channel: for all of a group, or for none of it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from engine.catalog.conditions.compile import compile_condition
from engine.catalog.plan.plan import Holdout, Plan
from engine.catalog.spec.assertions import AssertionSpec, SampledCustomers
from engine.catalog.spec.folder import Specs
from engine.catalog.spec.segments import expand_segments
from engine.catalog.spec.units import Unit
from engine.customer import CustomerIds
from engine.decision.attributes import build_attributes
from engine.decision.decision import DecideOptions, DecideRequest, Decision, decide
from engine.decision.units import read_units
from engine.rehearse.customers import SampledCustomer
from engine.rehearse.generated_customers import STORES
from engine.vocabulary import SILENCE

MOST_DECIDED = 200
"""Customers of the group that are decided for, on every channel."""
GIVEN = ("assigned", "forced", "sticky", "rule", "shipped")
"""The reasons by which an experiment gives a variant, rather than the default for those without."""


@dataclass(frozen=True, kw_only=True)
class SeenBy:
    """The customers of a group who see something, with place and reason, and those who do not."""

    customers: int
    seen: list[str] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)


def check_customers(
    plan: Plan, specs: Specs, spec: AssertionSpec, name: str, *, sample: Iterable[SampledCustomer], now: float
) -> SeenBy:
    """Returns who of the group sees `name`: an offer, an experiment with a variant, or `EXPERIMENT=VARIANT`.

    A customer sees what any request of any channel may show at `now` (s since 1970); the group has one if it names one.
    """
    who = spec.customers or SampledCustomers()
    seen: list[str] = []
    unseen: list[str] = []
    customers = 0
    for number, one in _members(plan, specs, who, sample, now):
        customers += 1
        channels = [who.channel] if who.channel else sorted(plan.channels)
        places = [_sight(_decide(plan, one, channel, number, now), name) for channel in channels]
        where = next((place for place in places if place), "")
        if where:
            seen.append(f"{one.profile.id} sees {name}: {where}")
        else:
            unseen.append(f"{one.profile.id} does not see {name} on {', '.join(channels)}")
        if customers >= MOST_DECIDED:
            break
    return SeenBy(customers=customers, seen=seen, unseen=unseen)


def shown_offers(decision: Decision, placement: str) -> dict[str, float]:
    """The offers that a placement may show, with probabilities; empty if it shows nothing."""
    choice = decision.choices[placement]
    if choice.is_silent and choice.reason != SILENCE:  # what holds out a share of the decisions shows the others
        return {}
    pairs: dict[str, float] = {}
    for item in choice.items:  # of a list, an offer may be shown where any position may show it
        own = {offer: p for offer, p in zip(item.candidates, item.probabilities, strict=True) if offer != SILENCE} or {
            item.offer.key: item.propensity
        }
        pairs = {offer: max(p, pairs.get(offer, 0.0)) for offer, p in (pairs | own).items()}
    return {offer: float(p) for offer, p in pairs.items() if p > 0}


def _members(
    plan: Plan, specs: Specs, who: SampledCustomers, sample: Iterable[SampledCustomer], now: float
) -> Iterator[tuple[int, SampledCustomer]]:
    """Yield the sampled customers of the group, each with its place in the sample."""
    matches = compile_condition(expand_segments(who.audience, specs.segments))
    holdouts = [one for key, one in plan.holdouts.items() if who.held_out in {True, key}]
    for number, one in enumerate(sample):
        attributes, _ = build_attributes(
            one.profile, who.channel or "", one.context, now, plan.zone, computed=plan.rules.computed
        )
        units: dict[Unit, str | None] = {**_units(one, number)}
        units |= read_units(plan.unit_traits, attributes, plan.rules.placeholders)
        is_out = any(_holds_out(holdout, units[holdout.unit]) for holdout in holdouts)
        if (who.held_out is None or is_out) and matches(attributes):
            yield number, one


def _holds_out(holdout: Holdout, unit: str | None) -> bool:
    """Whether a holdout contains a unit; a customer without such a unit is in none."""
    return unit is not None and holdout.hash_unit(unit) < holdout.share


def _units(one: SampledCustomer, number: int) -> dict[str, str]:
    """The ids of a customer, by kind of unit."""
    store = one.context.get("store")
    return {
        "customer": one.profile.unit,
        "device": f"device of {one.profile.id}",
        "store": store if isinstance(store, str) else f"store-{number % STORES}",
    }


def _decide(plan: Plan, one: SampledCustomer, channel: str, number: int, now: float) -> Decision:
    """Everything that a channel may show a customer."""
    units = _units(one, number)
    request = DecideRequest(
        customer=CustomerIds(user_id=one.profile.id, device_id=units["device"]),
        channel=channel,
        placements=[placement for on, placement in plan.selections if on == channel],
        experiments="*",
        context={"store": units["store"], **one.context},
        expose=False,
    )
    options = DecideOptions(trace=True)
    return decide(plan, {}, one.profile, request, now, decision_id=f"test for {one.profile.id}", options=options)


def _sight(decision: Decision, name: str) -> str:
    """The place where a decision shows `name`, and the reason; empty if it does not show it."""
    key, _, variant = name.partition("=")
    answer = decision.answer.experiments.get(key)
    if answer is not None and answer.reason in GIVEN and variant in {"", answer.variant}:
        return f"{answer.variant} on {decision.channel} ({answer.reason})"
    for placement, choice in decision.choices.items():
        if not variant and key in shown_offers(decision, placement):
            return f"at {placement} on {decision.channel} ({choice.reason})"
    return ""

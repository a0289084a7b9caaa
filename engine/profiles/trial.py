"""Who would get what, without side effects: previews and dry runs through the same `decide` that serves."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import msgspec

from engine.catalog.plan import Plan
from engine.catalog.specs import Specs
from engine.catalog.validate import similar
from engine.decide.decision import DecideRequest, Decision, decide
from engine.decide.offers import Snapshot
from engine.decide.profile import CustomerIds
from engine.errors import BadInput
from engine.profiles.sample import Sampled

NO_SNAPSHOTS: Mapping[str, Snapshot] = {}


class Shown(msgspec.Struct, frozen=True):
    """What one customer would get. `detail` is the payload, or the candidates with their probabilities."""

    customer: str
    channel: str
    gets: str | None
    reason: str
    propensity: float
    detail: str


class Outcome(msgspec.Struct, frozen=True):
    """A variant, an offer, or a reason for neither: expected customers, their share, the offer's mean value."""

    outcome: str
    customers: float
    share: float
    value: float


class DryRun(msgspec.Struct, frozen=True):
    """The outcomes of a dry run, the largest first."""

    key: str
    customers: int
    outcomes: list[Outcome]


def preview(
    plan: Plan, key: str, sample: Iterable[Sampled], now: float, snapshots: Mapping[str, Snapshot] = NO_SNAPSHOTS
) -> list[Shown]:
    """What each customer of the sample would get of an experiment or a placement at `now` (seconds since 1970).

    Raises:
        BadInput: if `key` is neither.
    """
    return [_shown(key, one, decision) for one, decision in _decisions(plan, key, sample, now, snapshots)]


def dry_run(
    plan: Plan, key: str, sample: Iterable[Sampled], now: float, snapshots: Mapping[str, Snapshot] = NO_SNAPSHOTS
) -> DryRun:
    """The expected allocation of an experiment or a placement over the sample.

    Offers are counted by their propensities, so the figures are expectations and not one draw.

    Raises:
        BadInput: if `key` is neither.
    """
    counts: defaultdict[str, float] = defaultdict(float)
    values: defaultdict[str, float] = defaultdict(float)
    total = 0
    for _, decision in _decisions(plan, key, sample, now, snapshots):
        total += 1
        for outcome, share, value in _expected(plan, key, decision):
            counts[outcome] += share
            values[outcome] += share * value
    outcomes = [
        Outcome(outcome, number, number / max(total, 1), values[outcome] / number if number else 0.0)
        for outcome, number in sorted(counts.items(), key=lambda item: -item[1])
    ]
    return DryRun(key, total, outcomes)


def with_drafts(specs: Specs, key: str) -> Specs:
    """The specs with the draft `key`, and it alone, as if it ran."""
    if key not in specs.experiments:
        return specs
    started = msgspec.structs.replace(specs.experiments[key], status="running", start=None)
    return replace(specs, experiments={**specs.experiments, key: started})


def _decisions(
    plan: Plan, key: str, sample: Iterable[Sampled], now: float, snapshots: Mapping[str, Snapshot]
) -> Iterator[tuple[Sampled, Decision]]:
    placement = _placement(plan, key)
    if placement is None and key not in plan.experiments:
        known = [*plan.experiments, *plan.placements, *plan.policies]
        raise BadInput(f"{key!r} is no experiment and no placement; {similar(key, known)}")
    for one in sample:
        channel = one.channel or _channel(plan, key, placement)
        request = DecideRequest(
            customer=CustomerIds(user_id=one.profile.id),
            channel=channel,
            placements=[placement] if placement else [],
            experiments=[] if placement else [key],
            context=one.context,
            expose=False,
        )
        yield one, decide(plan, snapshots, one.profile, request, now, trace=True)


def _placement(plan: Plan, key: str) -> str | None:
    if key in plan.experiments:
        return plan.experiments[key].spec.placement
    return key if key in plan.placements else plan.policies[key].placement if key in plan.policies else None


def _channel(plan: Plan, key: str, placement: str | None) -> str:
    shown_on = plan.placements[placement] if placement else plan.experiments[key].spec.channels or plan.channels
    return "web" if "web" in shown_on else min(shown_on)


def _shown(key: str, one: Sampled, decision: Decision) -> Shown:
    channel = decision.channel
    if key in decision.assigned:
        answer = decision.answer.experiments[key]
        detail = msgspec.json.encode(answer.payload).decode() if answer.payload else ""
        return Shown(one.profile.id, channel, answer.variant, answer.reason, 1.0, detail)
    (choice,) = decision.choices.values()
    pairs = zip(choice.candidates, choice.probabilities, strict=True)
    detail = ", ".join(f"{offer} {p:.3f}" for offer, p in pairs)
    detail += "".join(f", {offer}: {gate}" for offer, gate in choice.closed.items())
    return Shown(one.profile.id, channel, choice.offer.key, choice.reason, choice.propensity, detail)


def _expected(plan: Plan, key: str, decision: Decision) -> Iterator[tuple[str, float, float]]:
    if key in decision.assigned:
        answer = decision.answer.experiments[key]
        yield answer.variant or f"({answer.reason})", 1.0, 0.0
        return
    (choice,) = decision.choices.values()
    if not choice.candidates:
        yield f"{choice.offer.key} ({choice.reason})", 1.0, choice.offer.spec.value
    for offer, p in zip(choice.candidates, choice.probabilities, strict=True):
        yield offer, p, plan.offers[offer].spec.value

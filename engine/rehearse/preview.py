"""Who would get what, without side effects, through the same `decide` that serves."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import msgspec

from engine.catalog.check.decode import suggest_name
from engine.catalog.plan.plan import Plan
from engine.catalog.spec.folder import Specs
from engine.customer import CustomerIds
from engine.decision.decision import DecideOptions, DecideRequest, Decision, decide
from engine.decision.offers import Snapshot
from engine.errors import BadInput
from engine.rehearse.customers import SampledCustomer

NO_SNAPSHOTS: Mapping[str, Snapshot] = {}


class PreviewRow(msgspec.Struct, frozen=True):
    """What one customer would get. `detail` is the payload, or the candidates with their probabilities.

    `propensity` is that of the offer; of a variant its share of those let in, None where the hash did not assign it.
    `policy` is the one that chooses at the placement, with its version: the placement's own, or a variant's; None where
    none has a say.
    """

    customer: str
    channel: str
    gets: str | None
    reason: str
    propensity: float | None
    detail: str
    policy: str | None = None


def preview(
    plan: Plan,
    key: str,
    sample: Iterable[SampledCustomer],
    now: float,
    snapshots: Mapping[str, Snapshot] = NO_SNAPSHOTS,
) -> list[PreviewRow]:
    """What each customer of the sample would get of an experiment or a placement at `now` (seconds since 1970).

    Raises:
        BadInput: if `key` is neither.
    """
    return [_shown(key, one, decision) for one, decision in _decisions(plan, key, sample, now, snapshots)]


def with_draft(specs: Specs, key: str) -> Specs:
    """The specs with the draft `key`, and it alone, as if it ran."""
    if key not in specs.experiments:
        return specs
    started = msgspec.structs.replace(specs.experiments[key], status="running", start=None)
    return replace(specs, experiments={**specs.experiments, key: started})


def placement_of(plan: Plan, key: str) -> str | None:
    """The placement that `key` names or is an experiment on; None for an experiment on none.

    Raises:
        BadInput: if `key` is neither an experiment nor a placement.
    """
    if key in plan.experiments:
        return plan.experiments[key].spec.placement
    if key in plan.placements:
        return key
    if key in plan.policies:
        return plan.policies[key].placement
    known = list(dict.fromkeys([*plan.experiments, *plan.placements, *plan.policies]))
    raise BadInput(f"{key!r} is no experiment and no placement; {suggest_name(key, known)}")


def channel_of(plan: Plan, key: str, placement: str | None) -> str:
    """The channel where an experiment or placement is tried: the web where it is on it."""
    shown_on = plan.placements[placement] if placement else plan.experiments[key].spec.channels or plan.channels
    return "web" if "web" in shown_on else min(shown_on)


def _decisions(
    plan: Plan, key: str, sample: Iterable[SampledCustomer], now: float, snapshots: Mapping[str, Snapshot]
) -> Iterator[tuple[SampledCustomer, Decision]]:
    placement = placement_of(plan, key)
    for one in sample:
        channel = one.channel or channel_of(plan, key, placement)
        request = DecideRequest(
            customer=CustomerIds(user_id=one.profile.id),
            channel=channel,
            placements=[placement] if placement else [],
            experiments=[] if placement else [key],
            context=one.context,
            expose=False,
        )
        draw = f"preview of {key} for {one.profile.id}"  # asked again it shows the same
        yield (
            one,
            decide(plan, snapshots, one.profile, request, now, decision_id=draw, options=DecideOptions(trace=True)),
        )


def _shown(key: str, one: SampledCustomer, decision: Decision) -> PreviewRow:
    channel = decision.channel
    choice = next(iter(decision.choices.values()), None)
    policy = choice.policy if choice else None
    if choice is None or key in decision.assigned:
        answer = decision.answer.experiments[key]
        detail = msgspec.json.encode(answer.payload).decode() if answer.payload else ""
        share = decision.assigned[key].share if answer.reason == "assigned" else None
        return PreviewRow(one.profile.id, channel, answer.variant, answer.reason, share, detail, policy)
    pairs = zip(choice.candidates, choice.probabilities, strict=True)
    detail = ", ".join(f"{offer} {p:.3f}" for offer, p in pairs)
    detail += "".join(f", {offer}: {gate}" for offer, gate in choice.closed.items())
    gets = None if choice.is_silent else choice.offer.key
    return PreviewRow(one.profile.id, channel, gets, choice.reason, choice.propensity, detail, policy)

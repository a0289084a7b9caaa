"""Decides for a sample of customers by the served `decide`, without side effects."""

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


class PreviewRow(msgspec.Struct, frozen=True, kw_only=True):
    """The variant or offer that one customer would get. `detail` is the payload, or the candidates' probabilities.

    `propensity` is that of the offer, or the variant's share of the covered customers; None where the hash did not
    assign the variant. `policy` is the one that chooses at the placement, with its version: the placement's own or a
    variant's; None where no policy chooses.
    """

    customer: str
    channel: str
    gets: str | None
    reason: str
    propensity: float | None
    creative: str | None = None
    detail: str
    policy: str | None = None


def preview(
    plan: Plan,
    key: str,
    sample: Iterable[SampledCustomer],
    now: float,
    snapshots: Mapping[str, Snapshot] = NO_SNAPSHOTS,
) -> list[PreviewRow]:
    """The decision on an experiment or a placement for each customer of the sample at `now` (s since 1970).

    Raises:
        BadInput: if `key` is neither.
    """
    return [_shown(key, one, decision) for one, decision in _decisions(plan, key, sample, now, snapshots)]


def with_draft(specs: Specs, key: str, *, dated: bool = False) -> Specs:
    """The specs with the draft `key` running; other drafts stay drafts.

    It runs from now on whatever its `start`. With `dated` its dates hold, and an experiment that is no draft keeps its
    status.
    """
    spec = specs.experiments.get(key)
    if spec is None or (dated and spec.status != "draft"):
        return specs
    started = msgspec.structs.replace(spec, status="running", start=spec.start if dated else None)
    return replace(specs, experiments={**specs.experiments, key: started})


def placement_of(plan: Plan, key: str) -> str | None:
    """The placement with this key, or of the experiment `key`; None for an experiment without one.

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
    raise BadInput(f"{key!r} is neither an experiment nor a placement; {suggest_name(key, known)}")


def channel_of(plan: Plan, key: str, placement: str | None) -> str:
    """The channel for trying an experiment or placement: the web if it runs there."""
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
        draw = f"preview of {key} for {one.profile.id}"  # the same draw in every preview
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
        return PreviewRow(
            customer=one.profile.id,
            channel=channel,
            gets=answer.variant,
            reason=answer.reason,
            propensity=share,
            detail=detail,
            policy=policy,
        )
    pairs = zip(choice.candidates, choice.probabilities, strict=True)
    detail = ", ".join(f"{offer} {p:.3f}" for offer, p in pairs)
    if choice.creative is not None:
        creatives = zip(choice.creative.candidates, choice.creative.probabilities, strict=True)
        detail += f"; creatives {', '.join(f'{key} {p:.3f}' for key, p in creatives)}"
    detail += "".join(f", {offer}: {gate}" for offer, gate in choice.closed.items())
    gets = None if choice.is_silent else choice.offer.key
    return PreviewRow(
        customer=one.profile.id,
        channel=channel,
        gets=gets,
        creative=choice.creative.key if choice.creative else None,
        reason=choice.reason,
        propensity=choice.shown_propensity,
        detail=detail,
        policy=policy,
    )

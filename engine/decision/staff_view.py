"""`/v1/agent`: a decision for staff at a desk, a till or on the phone, in words they can repeat to a customer."""

from collections.abc import Mapping

import msgspec

from engine.catalog.plan.plan import Plan
from engine.customer import Profile, has_open_complaint, resumable_journey
from engine.decision.answers import OfferAnswer
from engine.decision.decision import Decision
from engine.decision.gating.gates import GATES
from engine.decision.offers import Choice, OfferReason
from engine.traits.stages import Stage, StageRules, derive_stage
from engine.vocabulary import SILENCE

REASONS: Mapping[OfferReason, str] = {
    "fallback": "nothing else may be offered now",
    "preview": "a preview forces it",
    "breaker": "the learnt choice is switched off",
    "shown": "all that may be offered is on this screen already",
    "deferred": "the customer is not disturbed at this hour",
    "dropped": "the customer is not to be disturbed now",
    "silence": "nothing is offered this time, to learn what offers are worth",
}
"""Why a placement shows what it shows, for the reasons that need no facts of the decision."""


class Suggestion(msgspec.Struct, frozen=True, kw_only=True):
    """One placement for staff; `next_best` are further offers that it could show, best first."""

    offer: str | None
    title: str
    rendering: Mapping[str, object]
    creative: str | msgspec.UnsetType = msgspec.UNSET
    why: str
    next_best: list[str]
    not_now: dict[str, str]
    items: "list[Suggestion] | msgspec.UnsetType" = msgspec.UNSET
    """All positions of a list, where the placement shows one; the suggestion itself is the first."""


class CustomerSummary(msgspec.Struct, frozen=True, kw_only=True):
    """The customer in a few lines. `last_seen` is the last time per channel, `recent` per event (s since 1970)."""

    customer: str
    known: bool
    stage: Stage
    tier: int
    points: float
    orders: int
    revenue: float
    last_seen: dict[str, int]
    recent: dict[str, float]
    complaint_open: bool
    satisfaction: dict[str, float]
    resume: dict[str, object]


class AgentView(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `/v1/agent`."""

    decision_id: str
    degraded: bool
    suggestions: dict[str, Suggestion]
    history: CustomerSummary


def build_agent_view(plan: Plan, decision: Decision, profile: Profile, now: float) -> AgentView:
    """The view of a decision that was made with `trace=True`."""
    return AgentView(
        decision_id=decision.answer.decision_id,
        degraded=decision.answer.degraded,
        suggestions={
            placement: _suggest_all(plan, decision, placement, choice) for placement, choice in decision.choices.items()
        },
        history=_summarize(profile, now, plan.rules.computed.stages),
    )


def _suggest_all(plan: Plan, decision: Decision, placement: str, choice: Choice) -> Suggestion:
    """One placement in staff's words, with its list where it shows one."""
    answer = decision.answer.offers[placement]
    if not choice.position or choice.is_silent or answer.items is msgspec.UNSET:
        return _suggest(plan, decision.channel, placement, choice, answer)
    items = [
        _suggest(plan, decision.channel, placement, item, shown)
        for item, shown in zip(choice.items, answer.items, strict=True)
    ]
    return msgspec.structs.replace(items[0], items=items)


def _suggest(plan: Plan, channel: str, placement: str, choice: Choice, answer: OfferAnswer) -> Suggestion:
    """One placement in staff's words; a closed offer has the sentence of its gate."""
    offer = None if choice.is_silent else choice.offer
    not_next = {SILENCE} if choice.reason == SILENCE else {SILENCE, choice.offer.key}  # a held-out offer was not shown
    others = sorted(zip(choice.probabilities, choice.candidates, strict=True), reverse=True)
    return Suggestion(
        offer=offer.key if offer else None,
        title=offer.spec.title or offer.key if offer else "",
        rendering={} if answer.rendering is msgspec.UNSET else answer.rendering,
        creative=answer.creative or msgspec.UNSET,
        why=_say_why(plan, channel, placement, choice),
        next_best=[key for _, key in others if key not in not_next],
        not_now={key: GATES[gate].for_staff for key, gate in choice.closed.items()},
    )


def _say_why(plan: Plan, channel: str, placement: str, choice: Choice) -> str:
    """The reason for an offer in words: the moment's title, or how often the policy chooses the offer."""
    if choice.reason == "moment":
        moments = plan.moments.get((channel, placement), ())
        title = next((moment.spec.title for moment in moments if moment.key == choice.moment), None)
        return title or str(choice.moment)
    if choice.reason == "policy":
        factors = choice.factors.get(choice.offer.key)
        weight = (
            f", weighed {factors.context:g} times for the reason of their visit"
            if factors and factors.context != 1
            else ""
        )
        return f"chosen in {choice.propensity:.0%} of such cases{weight}"
    return REASONS[choice.reason]


def _summarize(profile: Profile, now: float, stages: StageRules) -> CustomerSummary:
    """The customer's summary; channels and events with the latest first."""
    return CustomerSummary(
        customer=profile.id,
        known=profile.is_known,
        stage=derive_stage(profile, now, stages),
        tier=profile.tier,
        points=profile.points,
        orders=profile.order_count,
        revenue=profile.revenue,
        last_seen=dict(sorted(profile.channels.items(), key=lambda seen: -seen[1])),
        recent=dict(sorted(profile.recent.items(), key=lambda event: -event[1])),
        complaint_open=has_open_complaint(profile),
        satisfaction={name: answer.score for name, answer in profile.answers.items()},
        resume=resumable_journey(profile, now),
    )

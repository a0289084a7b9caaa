"""What staff at a desk, a till or on the phone see: the offer, why it, why not the others, and whom they serve."""

from collections.abc import Mapping

import msgspec

from engine.catalog.plan.plan import Plan
from engine.customer import Profile, Stage, derive_stage, resumable_journey
from engine.decision.decision import Decision
from engine.decision.gates import Gate
from engine.decision.offers import Choice

NOT_NOW: Mapping[Gate, str] = {
    "dates": "not on offer today",
    "channel": "not offered here",
    "consent": "the customer did not agree to be approached with it",
    "audience": "not meant for this customer",
    "suppressed": "the customer turned it down lately",
    "cap": "the customer had it as often as allowed",
    "stock": "sold out",
    "budget": "its budget is spent",
    "price": "kept for customers to whom it is worth more",
    "shown": "already on this screen",
    "moment": "another offer is for this very moment",
    "erased": "nothing may be kept of this customer",
}


class Suggestion(msgspec.Struct, frozen=True):
    """One placement for staff; `next_best` are the other candidates, best first."""

    offer: str | None
    title: str
    rendering: Mapping[str, object]
    why: str
    next_best: list[str]
    not_now: dict[str, str]


class CustomerSummary(msgspec.Struct, frozen=True):
    """The customer in a few lines. `last_seen` says when on which channel (s since 1970)."""

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


class AgentView(msgspec.Struct, frozen=True):
    """What `/v1/agent` answers."""

    decision_id: str
    degraded: bool
    suggestions: dict[str, Suggestion]
    history: CustomerSummary


def build_agent_view(plan: Plan, decision: Decision, profile: Profile, now: float) -> AgentView:
    """A decision that was made with its trace, for staff."""
    answer = decision.answer
    return AgentView(
        answer.decision_id,
        answer.degraded,
        {
            placement: _suggestion(plan, decision.channel, placement, choice)
            for placement, choice in decision.choices.items()
        },
        _history(profile, now),
    )


def _suggestion(plan: Plan, channel: str, placement: str, choice: Choice) -> Suggestion:
    others = sorted(zip(choice.probabilities, choice.candidates, strict=True), reverse=True)
    return Suggestion(
        None if choice.is_silent else choice.offer.key,
        "" if choice.is_silent else choice.offer.spec.title or choice.offer.key,
        {} if choice.is_silent else choice.offer.spec.renderings.get(channel, {}),
        _why(plan, channel, placement, choice),
        [offer for _, offer in others if offer != choice.offer.key],
        {offer: NOT_NOW[gate] for offer, gate in choice.closed.items()},
    )


def _why(plan: Plan, channel: str, placement: str, choice: Choice) -> str:
    if choice.reason == "moment":
        moments = plan.moments.get((channel, placement), ())
        title = next((moment.spec.title for moment in moments if moment.key == choice.moment), None)
        return title or str(choice.moment)
    if choice.reason == "policy":
        factors = choice.factors.get(choice.offer.key)
        weight = (
            f", weighed {factors.context:g} times for what they came for" if factors and factors.context != 1 else ""
        )
        return f"chosen in {choice.propensity:.0%} of such cases{weight}"
    return {
        "fallback": "nothing else may be offered now",
        "breaker": "the learnt choice is switched off",
        "shown": "all that may be offered is on this screen already",
        "deferred": "the customer is not disturbed at this hour",
        "dropped": "the customer is not to be disturbed now",
    }[choice.reason]


def _history(profile: Profile, now: float) -> CustomerSummary:
    return CustomerSummary(
        profile.id,
        profile.known,
        derive_stage(profile, now),
        profile.tier,
        profile.points,
        profile.order_count,
        profile.revenue,
        dict(sorted(profile.channels.items(), key=lambda seen: -seen[1])),
        dict(sorted(profile.recent.items(), key=lambda seen: -seen[1])),
        profile.complaint is not None and profile.complaint[0],
        {name: answer.score for name, answer in profile.answers.items()},
        resumable_journey(profile, now),
    )

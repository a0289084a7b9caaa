"""A decision with its trace, as an answer: every candidate, gate, score and reason."""

from collections.abc import Mapping

import msgspec

from engine.catalog.plan.features import Context
from engine.decision.arbitrate import Factors
from engine.decision.decision import Decision, ExperimentAnswer
from engine.decision.gates import Gate
from engine.decision.offers import Choice, OfferReason


class Candidate(msgspec.Struct, frozen=True):
    """An offer that may be shown: its propensity, and the factors that it is made of (1 where one is not asked).

    `price` is what one more showing of it costs others who want it, where it must last; its worth exceeds that.
    """

    offer: str
    propensity: float
    policy: float
    context: float
    value: float
    lever: float
    price: float = 0.0


class ExplainedPlacement(msgspec.Struct, frozen=True):
    """What a placement would show and why: the candidates, best first, and the gate that closed each other offer."""

    offer: str | None
    reason: OfferReason
    propensity: float
    policy: str | None
    moment: str | None
    candidates: list[Candidate]
    closed: Mapping[str, Gate]
    features: Context


class ExplainedExperiment(msgspec.Struct, frozen=True):
    """The variant, and why; `crossover`: the customer met another one before they were known."""

    variant: str | None
    payload: Mapping[str, object] | None
    reason: str
    unit: str | None
    crossover: bool


class Explanation(msgspec.Struct, frozen=True):
    """A decision and its reasons."""

    customer: str
    channel: str
    plan: str
    degraded: bool
    experiments: dict[str, ExplainedExperiment]
    placements: dict[str, ExplainedPlacement]
    resume: dict[str, object]


def build_explanation(decision: Decision) -> Explanation:
    """The explanation of a decision that was made with its trace."""
    answer = decision.answer
    return Explanation(
        answer.customer,
        decision.channel,
        answer.plan,
        answer.degraded,
        {key: _experiment(decision, key, one) for key, one in answer.experiments.items()},
        {placement: _placement(choice) for placement, choice in decision.choices.items()},
        answer.resume,
    )


def _experiment(decision: Decision, key: str, answer: ExperimentAnswer) -> ExplainedExperiment:
    assigned = decision.assigned.get(key)
    unit = assigned.assignment.unit or None if assigned else None
    crossover = assigned.crossover if assigned else False
    return ExplainedExperiment(answer.variant, answer.payload, answer.reason, unit, crossover)


def _placement(choice: Choice) -> ExplainedPlacement:
    found = []
    for offer, propensity in zip(choice.candidates, choice.probabilities, strict=True):
        factors = choice.factors.get(offer)
        parts = msgspec.structs.astuple(factors or Factors(1.0))
        found.append(Candidate(offer, propensity, *parts))
    return ExplainedPlacement(
        None if choice.is_silent else choice.offer.key,
        choice.reason,
        choice.propensity,
        choice.policy,
        choice.moment,
        sorted(found, key=lambda candidate: -candidate.propensity),
        choice.closed,
        choice.context,
    )

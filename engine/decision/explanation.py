"""Builds the answer of `/v1/explain`: the traced decision with every candidate, gate, factor and reason."""

from collections.abc import Mapping

import msgspec

from engine.catalog.plan.creatives import DrawnCreative
from engine.catalog.plan.features import Context
from engine.decision.arbitrate import Factors
from engine.decision.decision import Decision
from engine.decision.experiments import ExperimentAnswer, HoldoutSide
from engine.decision.gating.gates import Gate
from engine.decision.offers import Choice, OfferReason
from engine.decision.shelves import ShelfReason


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """An offer that may be shown, with its propensity and its factors (1 for a factor that is not used).

    `price` is the shadow price of a scarce offer; the offer's worth exceeds it.
    """

    offer: str
    propensity: float
    policy: float
    context: float
    value: float
    lever: float
    price: float = 0.0


class ExplainedCreative(msgspec.Struct, frozen=True, kw_only=True):
    """The offer's creative, its probability given the offer, and those of the channel's creatives."""

    key: str
    propensity: float
    policy: str | None
    candidates: dict[str, float]


class ExplainedPlacement(msgspec.Struct, frozen=True, kw_only=True):
    """One placement's choice: the candidates, best first, and the gate that closed each other offer.

    `propensity` is that of the offer with its creative, where it has one.
    """

    offer: str | None
    reason: OfferReason
    propensity: float
    policy: str | None
    moment: str | None
    candidates: list[Candidate]
    closed: Mapping[str, Gate]
    features: Context
    places: Mapping[str, list[ShelfReason]] | msgspec.UnsetType = msgspec.UNSET
    """By offer whose item places hand over: every place, the nearest first, with what it is to the item."""
    below: "list[ExplainedPlacement] | msgspec.UnsetType" = msgspec.UNSET
    """The positions of a list after the first, each given those above it."""
    creative: ExplainedCreative | msgspec.UnsetType = msgspec.UNSET


class ExplainedExperiment(msgspec.Struct, frozen=True, kw_only=True):
    """One experiment's variant and reason, with the flag rule that decided.

    `crossover`: the customer had another variant as a visitor, before they were known.
    """

    variant: str | None
    payload: Mapping[str, object] | None
    reason: str
    unit: str | None
    crossover: bool
    rule: str | msgspec.UnsetType = msgspec.UNSET


class ExplainedHoldout(msgspec.Struct, frozen=True, kw_only=True):
    """The pool of a frozen holdout that a customer is in, the rule that put them there, and the archived plan."""

    pool: str
    unit: str
    position: float
    share: float
    archived_plan: str
    rule: str


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """A decision and its reasons."""

    customer: str
    channel: str
    plan: str
    degraded: bool
    experiments: dict[str, ExplainedExperiment]
    placements: dict[str, ExplainedPlacement]
    resume: dict[str, object]
    holdout: str | msgspec.UnsetType = msgspec.UNSET
    """The frozen holdout whose plan decided, where one did."""
    held_out: ExplainedHoldout | msgspec.UnsetType = msgspec.UNSET


def build_explanation(decision: Decision) -> Explanation:
    """The explanation of a decision that was made with `trace=True`."""
    answer = decision.answer
    return Explanation(
        customer=answer.customer,
        channel=decision.channel,
        plan=answer.plan,
        degraded=answer.degraded,
        experiments={key: _explain_experiment(decision, key, one) for key, one in answer.experiments.items()},
        placements={placement: _explain_placement(choice) for placement, choice in decision.choices.items()},
        resume=answer.resume,
        holdout=next((side.holdout.key for side in decision.sides if side.is_held_out), msgspec.UNSET),
        held_out=next((_explain_holdout(side) for side in decision.sides if side.is_held_out), msgspec.UNSET),
    )


def _explain_holdout(side: HoldoutSide) -> ExplainedHoldout:
    """The pool, the rule and the archived plan of a customer who is held out."""
    holdout, plan = side.holdout, side.holdout.spec.keeps or ""
    position = holdout.hash_unit(side.hashed)
    hashed = f"the {holdout.unit} hashes to {position:.4f}, below the share {holdout.share:g} of holdout {holdout.key}"
    return ExplainedHoldout(
        pool=holdout.key,
        unit=holdout.unit,
        position=position,
        share=holdout.share,
        archived_plan=plan,
        rule=f"{hashed}: plan {plan} decides, under today's limits",
    )


def _explain_experiment(decision: Decision, key: str, answer: ExperimentAnswer) -> ExplainedExperiment:
    """One experiment's answer with the unit it was hashed over."""
    assigned = decision.assigned.get(key)  # None for an experiment that the plan does not have
    return ExplainedExperiment(
        variant=answer.variant,
        payload=answer.payload,
        reason=answer.reason,
        unit=assigned.assignment.unit or None if assigned else None,
        crossover=assigned.crossover if assigned else False,
        rule=answer.rule,
    )


def _explain_placement(choice: Choice) -> ExplainedPlacement:
    """One placement: its candidates by probability, and the gate of every closed offer."""
    candidates = []
    for offer, propensity in zip(choice.candidates, choice.probabilities, strict=True):
        factors = choice.factors.get(offer) or Factors(policy=1.0)  # a moment's offer has none
        candidates.append(Candidate(offer=offer, propensity=propensity, **msgspec.structs.asdict(factors)))
    return ExplainedPlacement(
        offer=None if choice.is_silent else choice.offer.key,
        reason=choice.reason,
        propensity=choice.shown_propensity,
        policy=choice.policy,
        moment=choice.moment,
        candidates=sorted(candidates, key=lambda candidate: -candidate.propensity),
        closed=choice.closed,
        features=choice.context,
        places=choice.shelves or msgspec.UNSET,
        below=[_explain_placement(item) for item in choice.below] if choice.position == 1 else msgspec.UNSET,
        creative=msgspec.UNSET if choice.creative is None else _explain_creative(choice.creative),
    )


def _explain_creative(creative: DrawnCreative) -> ExplainedCreative:
    return ExplainedCreative(
        key=creative.key,
        propensity=creative.propensity,
        policy=creative.policy,
        candidates=dict(zip(creative.candidates, creative.probabilities, strict=True)),
    )

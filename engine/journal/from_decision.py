"""The records that an answered decision adds to the log."""

from collections.abc import Sequence

import msgspec

from engine.catalog.plan.creatives import CREATIVES, DrawnCreative
from engine.decision.decision import Decision
from engine.decision.experiments import Assigned, HoldoutSide
from engine.decision.offers import Choice
from engine.journal.records import CreativeRow, DecisionRecord, DecisionRow, ExposureRecord
from engine.vocabulary import HELD_OUT, LET_IN, SILENCE


def records_of(decision: Decision, now: float, *, expose: bool) -> list[DecisionRecord | ExposureRecord]:
    """The decision's records; with `expose` its exposure too.

    For an erased customer they carry no identifier, and of experiments no traits: an audience may name an e-mail.
    """
    if decision.erased:
        unnamed = msgspec.structs.replace(decision.answer, customer="")
        assigned = {key: msgspec.structs.replace(one, context={}) for key, one in decision.assigned.items()}
        decision = msgspec.structs.replace(
            decision, answer=unnamed, device=None, trace=b"", assigned=assigned, sides=()
        )
    exposure = exposure_record(decision, now) if expose else None
    return [decision_record(decision, now), *([exposure] if exposure else [])]


def decision_record(decision: Decision, now: float) -> DecisionRecord:
    """The record of an answered decision: a row per experiment, placement and frozen holdout."""
    answer = decision.answer
    rows = [_experiment(assigned) for assigned in decision.assigned.values()]
    rows += [_holdout_side(side) for side in decision.sides]
    for placement, choice in decision.choices.items():
        if choice.below:
            rows += [_offer(placement, item, choice) for item in choice.items]
        else:
            rows.append(_offer(placement, choice, choice))
    return DecisionRecord(
        decision_id=answer.decision_id,
        time=now,
        customer=answer.customer,
        device=decision.device,
        channel=decision.channel,
        plan=answer.plan,
        rows=rows,
        trace=decision.trace,
    )


def exposure_record(decision: Decision, now: float) -> ExposureRecord | None:
    """The exposure of everything in the decision; None if it shows nothing."""
    keys = exposable_keys(decision)
    return ExposureRecord(decision.answer.decision_id, now, decision.answer.customer, keys) if keys else None


def exposable_keys(decision: Decision) -> list[str]:
    """The keys that can be exposed: experiments with a variant, placements with an offer, each item of a list.

    A placement that is held out is exposed as well: its silence is compared with what others show.
    """
    keys = [one.logged.key for one in decision.assigned.values() if one.assignment.index >= 0]
    keys += [name for name, choice in decision.items() if not choice.is_silent or choice.reason == SILENCE]
    return keys


def logged_probabilities(decision: Decision) -> dict[str, Sequence[float]]:
    """The candidates' probabilities by placement or item, in their order, if a learnt policy chose.

    Those of an item's creatives stand under its name and `CREATIVES`.
    """
    found: dict[str, Sequence[float]] = {}
    for name, choice in decision.items():
        if choice.policy is not None and not choice.policy.endswith("@0"):
            found[name] = choice.probabilities
        creative = choice.creative
        if creative is not None and creative.policy is not None and not creative.policy.endswith("@0"):
            found[name + CREATIVES] = creative.probabilities
    return found


def _experiment(assigned: Assigned) -> DecisionRow:
    """The row of an assigned experiment; a flag's has the key of the deciding rule."""
    logged = assigned.logged
    # The first five by position, here and below: naming them all takes 5 % longer, in every answered decision.
    return DecisionRow(
        "experiment",
        logged.key,
        assigned.variant,
        assigned.assignment.reason,
        assigned.share,
        context=assigned.context,
        crossover=assigned.crossover,
        version=str(logged.spec.bucket_version),
    )


def _holdout_side(side: HoldoutSide) -> DecisionRow:
    """The row of a frozen holdout, which every decision has, since the holdout's report counts them."""
    reason = "holdout" if side.is_held_out else "assigned"
    variant = HELD_OUT if side.is_held_out else LET_IN
    return DecisionRow("experiment", side.holdout.key, variant, reason, side.share, context=side.context)


def _offer(placement: str, choice: Choice, shown: Choice) -> DecisionRow:
    """The row of a placement or of one item of the list `shown`; without a variant if it stays empty."""
    return DecisionRow(
        "offer",
        placement,
        choice.offer.key if not choice.is_silent else SILENCE if choice.reason == SILENCE else None,
        choice.reason,
        choice.shown_propensity,
        candidates=choice.candidates,
        context=choice.context,
        policy=choice.policy,
        position=choice.position,
        joint=shown.joint if choice.position else 0.0,
        creative=None if choice.creative is None else _creative(choice.creative),
    )


def _creative(drawn: DrawnCreative) -> CreativeRow:
    return CreativeRow(drawn.key, drawn.propensity, drawn.candidates, drawn.policy)

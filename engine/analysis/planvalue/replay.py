"""The probabilities with which a plan would have chosen in each logged decision, by the pure `decide`.

Each placement is decided in the state in which it was logged: the traced profile, the counts of caps, what was left of
pools, and the other placements of the answer as they were shown. A policy that both plans have serves in the state
that it had then (`served_state`). Any other that learns is trained on the log, on the customers who came before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import msgspec
import numpy as np

from engine.analysis.offpolicy.crossfit import FIRST_PART, PARTS
from engine.analysis.planvalue.served_state import ServedChances, recover_chances
from engine.analysis.planvalue.shown_rows import ShownLog, ShownRow
from engine.catalog.plan.features import Context
from engine.catalog.plan.plan import Plan, Selection
from engine.catalog.spec.experiment import NOT_LEARNING
from engine.decision.decision import Availability, DecideOptions, decide
from engine.decision.gating.gates import Gate
from engine.decision.offers import Choice, Snapshot
from engine.errors import BadInput
from engine.journal.traces import Trace
from engine.snapshots.header import meaning_of, prior_of
from engine.vocabulary import SILENCE
from policies import Bandit
from policies.batches import Ints

Chances = Mapping[str, float]
"""The probability of each arm: an offer, or silence."""
NOTHING: Chances = {SILENCE: 1.0}


@dataclass(frozen=True)
class ReplayedPlan:
    """A plan's probabilities in each of the n rows, and whether each row (n,) can be evaluated.

    A policy that had to be trained is not evaluated on the customers that trained it first.
    """

    chances: Sequence[Chances]
    evaluated: np.ndarray
    trained: Sequence[str]
    """The selections whose policy was trained on the log."""


class PlanReplay:
    """Replays plans on the rows of one log.

    Args:
        log: the rows.
        served: the plan that served them, or the one that stands for it.
        customer: (n,) the rows' customers, numbered in the order in which they first came.
    """

    def __init__(self, log: ShownLog, served: Plan, customer: Ints) -> None:
        self.log = log
        self.customer = customer
        self._served = served
        self._taught = served.taught
        self._states = [self._state_of(at) for at in range(len(log.rows))]

    def replay(self, plan: Plan) -> ReplayedPlan:
        """The plan's probabilities in every row."""
        taught = plan.taught
        kept = {key: one for key, one in taught.items() if _means_the_same(self._taught.get(key), one)}
        choices = [self._decide(plan, at, self._snapshots_of(kept, at)) for at in range(len(self.log.rows))]
        untrained: dict[str, list[int]] = {}
        for at, choice in enumerate(choices):
            key = "" if choice is None else (choice.policy or "").rpartition("@")[0]
            is_served = key in kept and key == (self.log.rows[at].policy or "").rpartition("@")[0]
            if key and not is_served and taught[key].policy.kind != NOT_LEARNING:
                untrained.setdefault(key, []).append(at)
        evaluated = np.ones(len(choices), dtype=bool)
        if untrained:
            evaluated = self.customer >= self._ends()[0]
        for key, rows in untrained.items():
            for policy, stage in self._train(taught[key], choices):
                for at in rows:
                    if stage[at]:
                        snapshots = {**self._snapshots_of(kept, at), key: Snapshot(policy, 1)}
                        choices[at] = self._decide(plan, at, snapshots)
        return ReplayedPlan([chances_of(choice) for choice in choices], evaluated, sorted(untrained))

    def _snapshots_of(self, kept: Mapping[str, Selection], at: int) -> dict[str, Snapshot]:
        """The state of the policy that served a row, in the form that the plan needs."""
        key, _, version = (self.log.rows[at].policy or "").rpartition("@")
        state, selection = self._states[at], kept.get(key)
        if not state or selection is None:
            return {}
        policy = ServedChances(selection.arms, floor=selection.policy.floor, served=state)
        return {key: Snapshot(policy, int(version))}

    def _state_of(self, at: int) -> dict[str, float]:
        """The chances of the policy that served a row; empty without a learnt or recorded state."""
        row, trace = self.log.rows[at], self.log.traces[self.log.rows[at].decision_id]
        selection = self._taught.get((row.policy or "").rpartition("@")[0])
        recorded = trace.probabilities.get(row.placement)
        if selection is None or recorded is None or len(recorded) != len(row.candidates):
            return {}
        factors = {}
        if selection.arbitration is not None:
            choice = self._decide(self._served, at, {}, trace=True)
            factors = {} if choice is None else dict(choice.factors)
        return recover_chances(selection, row.candidates, recorded, factors)

    def _decide(self, plan: Plan, at: int, snapshots: Mapping[str, Snapshot], *, trace: bool = False) -> Choice | None:
        """The plan's choice in a row; None if the plan lacks the channel or the placement."""
        row = self.log.rows[at]
        logged = self.log.traces[row.decision_id]
        before = _shown_above(plan, self.log.beside[row.decision_id], logged.request.placements, row.placement)
        request = msgspec.structs.replace(logged.request, placements=[*before, row.placement], experiments=[])
        options = DecideOptions(
            degraded=logged.degraded,
            tripped=logged.tripped,
            availability=_without_prices(logged, row),
            preview=before,
            trace=trace,
        )
        current = _at_the_time(plan, logged)
        try:
            decision = decide(
                current, snapshots, logged.profile, request, logged.now, decision_id=row.decision_id, options=options
            )
        except BadInput:
            return None
        return decision.choices[row.placement]

    def _ends(self) -> list[float]:
        """The numbers of customers at which the successive training parts of a policy end."""
        customers = int(self.customer.max()) + 1
        ends: list[float] = np.unique(np.ceil(np.linspace(FIRST_PART, 1, PARTS + 1) * customers)).tolist()
        return ends

    def _train(self, selection: Selection, choices: Sequence[Choice | None]) -> Iterator[tuple[Bandit, np.ndarray]]:
        """A selection's policy after each stage of training, with the rows (n,) to evaluate it on."""
        places = {arm: place for place, arm in enumerate(selection.arms)}
        rows = [
            at
            for at, (row, choice) in enumerate(zip(self.log.rows, choices, strict=True))
            if row.policy is not None and row.placement == selection.placement and row.arm in places and choice
        ]
        x = [selection.features.vector(_context_of(choices[at])) for at in rows]
        learnt = np.array(rows, dtype=np.intp)
        ends = self._ends()
        for first, last in pairwise(ends):
            chosen = np.flatnonzero(self.customer[learnt] < first)
            policy = prior_of(selection)
            if chosen.size:
                own = [self.log.rows[rows[one]] for one in chosen.tolist()]
                policy = policy.update(
                    np.array([x[one] for one in chosen.tolist()]) if policy.dim else None,
                    np.array([places[row.arm] for row in own]),
                    np.array([row.reward or 0.0 for row in own]),
                    np.array([row.propensity for row in own]),
                )
            yield policy, (first <= self.customer) & (self.customer < last)


def _means_the_same(before: Selection | None, after: Selection) -> bool:
    """Whether a policy's state under one plan is valid under another."""
    return before is not None and meaning_of(before) == meaning_of(after)


def chances_of(choice: Choice | None) -> Chances:
    """The probability of each arm of a choice."""
    if choice is None:
        return NOTHING
    if choice.candidates:
        return dict(zip(choice.candidates, choice.probabilities, strict=True))
    return NOTHING if choice.is_silent else {choice.offer.key: 1.0}


def _shown_above(plan: Plan, shown: Mapping[str, str], order: Sequence[str], placement: str) -> dict[str, str]:
    """The offers of earlier placements in a request, which a replay forces."""
    above = order[: order.index(placement)] if placement in order else ()
    return {key: shown[key] for key in above if shown.get(key) in plan.offers and key not in plan.experiments}


def _without_prices(logged: Trace, row: ShownRow) -> Availability:
    """A decision's availability, with prices replaced by the offers that they closed."""
    limits = logged.availability
    if not limits.prices:
        return limits
    closed: dict[str, Gate] = {
        offer: "price" for offer, price in limits.prices.items() if price > 0 and offer not in row.candidates
    }
    lost = {**limits.lost, row.placement: {**closed, **limits.lost.get(row.placement, {})}}
    return msgspec.structs.replace(limits, prices={}, lost=lost)


def _at_the_time(plan: Plan, logged: Trace) -> Plan:
    """The plan with the pauses and ramp positions at a decision's time."""
    if not logged.paused and not logged.ramped:
        return plan
    return replace(plan, paused=frozenset(logged.paused), ramped=logged.ramped)


def _context_of(choice: Choice | None) -> Context:
    return {} if choice is None else choice.context

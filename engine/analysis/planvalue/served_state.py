"""Recovers the state in which a policy served a logged decision, from the decision's probabilities.

A record has the final probabilities of the candidates where a learnt policy chose. Silence, arbitration and the floor
are taken out of them by the formulas that put them in, so that another plan can put in its own. Offers that were no
candidates have no recorded probability; they count as likely as the mean of the candidates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from engine.catalog.plan.plan import Selection
from engine.decision.arbitrate import Factors
from engine.vocabulary import SILENCE
from policies import Bandit
from policies.base import ArmPositions
from policies.batches import Floats


@dataclass(frozen=True, eq=False)
class ServedChances(Bandit):
    """A policy's chances in one decision for each candidate, before the floor."""

    kind: ClassVar[str] = "as served"
    served: Mapping[str, float] = field(default_factory=dict, kw_only=True)

    def chances(self, x: Floats, among: ArmPositions) -> Floats:  # noqa: ARG002 - as every policy
        """The chances (n,) of these arms only, in this decision."""
        asked = [self.arms[place] for place in np.arange(len(self.arms))[among].tolist()]
        usual = sum(self.served.values()) / max(len(self.served), 1)
        chances = np.array([self.served.get(arm, usual) for arm in asked])
        return chances / chances.sum() if chances.sum() > 0 else np.full(chances.size, 1 / chances.size)


def recover_chances(
    selection: Selection, candidates: Sequence[str], recorded: Sequence[float], factors: Mapping[str, Factors]
) -> dict[str, float]:
    """The policy's chances before floor, arbitration and silence.

    Args:
        selection: the one that served.
        candidates: the candidates, with silence last where the placement holds out.
        recorded: their probabilities.
        factors: of arbitration, by candidate; empty where there is none.
    """
    pairs = dict(zip(candidates, recorded, strict=True))
    if SILENCE not in selection.arms:
        pairs.pop(SILENCE, None)
    names = list(pairs)
    p = np.array([pairs[name] for name in names])
    if not p.size or p.sum() <= 0:
        return {}
    p = p / p.sum()
    least = min(selection.policy.floor, 1 / p.size)
    if selection.arbitration is not None:
        if not selection.arbitration.policy:
            return dict.fromkeys(names, 1 / p.size)
        weights = np.array([_weight(factors.get(name)) for name in names])
        p = _without_floor(p, least) / np.where(weights > 0, weights, np.inf)
        p = p / p.sum() if p.sum() > 0 else np.full(p.size, 1 / p.size)
    return dict(zip(names, _without_floor(p, least).tolist(), strict=True))


def _without_floor(p: Floats, least: float) -> Floats:
    """Probabilities (n,) before each was raised to `least`; even ones if the floor fixed them all."""
    room = 1 - p.size * least
    if room <= 1e-9:
        return np.full(p.size, 1 / p.size)
    chances = np.clip((p - least) / room, 0.0, None)
    return np.asarray(chances / chances.sum()) if chances.sum() > 0 else np.full(p.size, 1 / p.size)


def _weight(factors: Factors | None) -> float:
    return 1.0 if factors is None else factors.context * factors.value * factors.lever

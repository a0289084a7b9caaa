"""The compiled factors of `arbitration`, which multiply a policy's probabilities."""

from dataclasses import dataclass

import numpy as np

from engine.catalog.conditions.compile import Predicate
from engine.catalog.plan.indexing.bits import Bits


@dataclass(frozen=True, slots=True)
class ContextWeight:
    """If `matches` is true, the probabilities of the arms in `bits` are multiplied by `weight`."""

    matches: Predicate | None
    bits: Bits
    weight: float


@dataclass(frozen=True, slots=True)
class Arbitration:
    """The factors on a policy's probabilities: values and levers, float64 (arms,), None if all are equal."""

    policy: bool
    weights: tuple[ContextWeight, ...]
    value: np.ndarray | None
    lever: np.ndarray | None
    reads: frozenset[str] = frozenset()
    """The traits that the weights' conditions read, as dotted paths; every decision logs them."""

"""The probability of being the best arm by quadrature, for independent arms; others use `joint_draws`."""

from collections.abc import Callable

import numpy as np

from policies.batches import Floats

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(8)
_DOUBLING = 8.0 * 2.0 ** np.arange(20)
_EDGES = np.concatenate((-_DOUBLING[::-1], [-4.0, -2.5, -1.2, 0.0, 1.2, 2.5, 4.0], _DOUBLING))


def shared_nodes(
    location: Floats, scale: Floats, low: float = -np.inf, high: float = np.inf, reach: float = 24.0
) -> tuple[Floats, Floats]:
    """Gauss-Legendre nodes and weights on panels that resolve the maximum of independent arms.

    The arm with the greatest lower end (location - 8 scale) is the narrowest whose shape matters. Far below it no arm
    is the best; above it, panels of doubling width resolve every wider arm.

    Args:
        location: centres of the arms' distributions (n,).
        scale: their spreads (n,).
        low: least value any arm can take.
        high: greatest value any arm can take.
        reach: how many spreads from its centre an arm is followed; 24 for light tails.

    Returns:
        Nodes and weights (m,), m a multiple of 8.
    """
    leader = int(np.argmax(location - 8 * scale))
    bottom = max(low, float(location[leader] - reach * scale[leader]))
    top = min(high, float((location + reach * scale).max()))
    edges = location[leader] + scale[leader] * _EDGES
    edges = np.concatenate(([bottom], edges[(edges > bottom) & (edges < top)], [top]))
    half = np.diff(edges) / 2
    nodes = (edges[:-1] + half)[:, None] + half[:, None] * _NODES
    return nodes.ravel(), (half[:, None] * _WEIGHTS).ravel()


def best_of_independent(
    density: Callable[[Floats], Floats], distribution: Callable[[Floats], Floats], nodes: tuple[Floats, Floats]
) -> Floats:
    """P(arm k is best) = ∫ f_k(t) ∏_{j≠k} F_j(t) dt, for all arms over the same nodes.

    Args:
        density: nodes (m,) -> densities (n, m).
        distribution: nodes (m,) -> distribution functions (n, m).
        nodes: nodes and weights (m,), from `shared_nodes`.

    Returns:
        (n,), normalized to sum 1. Ten Beta arms: error below 1e-6.
    """
    at, weights = nodes
    logs = np.log(np.maximum(distribution(at), 1e-300))
    below_others = np.exp(logs.sum(axis=0) - logs)
    chances = np.maximum((density(at) * below_others) @ weights, 0)
    return np.asarray(chances / chances.sum())

"""Adjusts p-values for multiple comparisons."""

from collections.abc import Sequence

import numpy as np


def holm(p: Sequence[float]) -> list[float]:
    """Adjusted p-values that control the probability of any false finding (Holm 1979)."""
    order = np.argsort(p, kind="stable")
    count = len(p)
    stepped = np.maximum.accumulate(np.asarray(p, dtype=float)[order] * (count - np.arange(count)))
    return _back(np.minimum(stepped, 1.0), order)


def benjamini_hochberg(p: Sequence[float], *, dependent: bool = False) -> list[float]:
    """Adjusted p-values that control the share of false findings (Benjamini and Hochberg 1995).

    Args:
        p: the raw p-values.
        dependent: allow any dependence between them (Benjamini and Yekutieli 2001), at the price of power.
    """
    count = len(p)
    order = np.argsort(p, kind="stable")
    price = float(np.sum(1 / np.arange(1, count + 1))) if dependent else 1.0
    ranked = np.asarray(p, dtype=float)[order] * count * price / np.arange(1, count + 1)
    return _back(np.minimum(np.minimum.accumulate(ranked[::-1])[::-1], 1.0), order)


def _back(ranked: np.ndarray, order: np.ndarray) -> list[float]:
    """Put values sorted by `order` back into the order of the input."""
    result = np.empty(len(ranked))
    result[order] = ranked
    return [float(value) for value in result]

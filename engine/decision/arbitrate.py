"""The policy's probability, the context's weight, the offer's value and its lever, as one probability with a floor."""

from collections.abc import Mapping

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.catalog.plan.plan import Arbitration
from policies import worth_showing
from policies.batches import Floats, Ints


class Factors(msgspec.Struct, frozen=True):
    """What made an offer's probability: the policy's, the context's weight, its value, its lever (1: not asked).

    `price` is what its worth had to exceed, 0 where it is not scarce.
    """

    policy: float
    context: float = 1.0
    value: float = 1.0
    lever: float = 1.0
    price: float = 0.0


def arbitrate(
    rule: Arbitration, probabilities: Floats, may: Ints, attributes: Mapping[str, object], floor: float
) -> tuple[Floats, list[Factors]]:
    """The final probabilities (n,) of the candidates `may`, and what made them: their product, renormalized.

    Each is at least min(floor, 1/n). Where no product is above 0 (no offer has a value), the policy's stand.
    """
    policy = probabilities if rule.policy else np.ones_like(probabilities)
    weights = context_weights(rule, may, attributes)
    value = rule.value[may] if rule.value is not None else np.ones_like(policy)
    lever = rule.lever[may] if rule.lever is not None else np.ones_like(policy)
    product = policy * weights * value * lever
    total = float(product.sum())
    final = product / total if total > 0 else probabilities
    least = min(floor, 1 / may.size)
    final = final * (1 - may.size * least) + least
    factors = [
        Factors(*each) for each in zip(*(part.tolist() for part in (policy, weights, value, lever)), strict=True)
    ]
    return final / final.sum(), factors


def worth_their_price(
    rule: Arbitration | None, expected: Floats, prices: Floats, may: Ints, attributes: Mapping[str, object]
) -> NDArray[np.bool_]:
    """Which of the candidates `may` are worth their shadow prices (n,) to this customer; the others are kept.

    An offer's worth is its expected reward, times what arbitration weighs it by. One with a price must bring that much
    more than the best of those without, of which the fallback is one: it brings 0.
    """
    worth = expected
    if rule is not None:
        worth = worth * context_weights(rule, may, attributes)
        for factor in (rule.value, rule.lever):
            worth = worth if factor is None else worth * factor[may]
    return worth_showing(np.append(worth, 0.0), np.append(prices, 0.0))[:-1]


def context_weights(rule: Arbitration, may: Ints, attributes: Mapping[str, object]) -> Floats:
    """The weight (n,) of each candidate in this context: the product of all that hold for it."""
    weights = np.ones(may.size)
    for weight in rule.weights:
        if weight.matches is None or weight.matches(attributes):
            weights[[bool(weight.bits >> place & 1) for place in may.tolist()]] *= weight.weight
    return weights

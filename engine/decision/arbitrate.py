"""Arbitration: the policy's probability, context weights, the offer's value and its lever as one probability."""

from collections.abc import Mapping

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.catalog.plan.arbitration import Arbitration
from policies import worth_showing
from policies.batches import Floats, Ints


class Factors(msgspec.Struct, frozen=True, gc=False):
    """The factors of an offer's probability; 1 for a factor that the placement does not use.

    `price` is what its worth had to exceed, 0 where the offer is not scarce.
    """

    policy: float
    context: float = 1.0
    value: float = 1.0
    lever: float = 1.0
    price: float = 0.0


class Weighed(msgspec.Struct, frozen=True, gc=False):
    """The final probabilities (n,) of the candidates, and the four factors (n,) that they are the product of."""

    probabilities: Floats
    policy: Floats
    context: Floats
    value: Floats
    lever: Floats

    def factors(self) -> list[Factors]:
        """The factors of each candidate, in their order."""
        columns = (self.policy, self.context, self.value, self.lever)
        return [Factors(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]


def arbitrate(
    rule: Arbitration, probabilities: Floats, places: Ints, attributes: Mapping[str, object], floor: float
) -> Weighed:
    """Multiply the factors of the candidates at `places` and renormalize.

    Each final probability is at least min(floor, 1/n). Where every product is 0 (no offer has a value), the policy's
    probabilities stand.
    """
    policy = probabilities if rule.policy else np.ones_like(probabilities)
    context = context_weights(rule, places, attributes)
    value = rule.value[places] if rule.value is not None else np.ones_like(policy)
    lever = rule.lever[places] if rule.lever is not None else np.ones_like(policy)
    product = policy * context * value * lever
    total = float(product.sum())
    final = product / total if total > 0 else probabilities
    least = min(floor, 1 / places.size)
    final = final * (1 - places.size * least) + least
    return Weighed(final / final.sum(), policy, context, value, lever)


def worth_their_price(
    rule: Arbitration | None, expected: Floats, prices: Floats, places: Ints, attributes: Mapping[str, object]
) -> NDArray[np.bool_]:
    """Tests for each candidate at `places` whether it is worth its shadow price (n,) to this customer: bool (n,).

    An offer's worth is its expected reward (n,) times the factors that arbitration weighs it by. One with a price must
    bring that much more than the best of those without; the fallback is one of these and brings 0.
    """
    worth = expected
    if rule is not None:
        worth = worth * context_weights(rule, places, attributes)
        for factor in (rule.value, rule.lever):
            worth = worth if factor is None else worth * factor[places]
    return worth_showing(np.append(worth, 0.0), np.append(prices, 0.0))[:-1]


def context_weights(rule: Arbitration, places: Ints, attributes: Mapping[str, object]) -> Floats:
    """The weight (n,) of each candidate in this context: the product of the weights whose condition holds."""
    weights = np.ones(places.size)
    for weight in rule.weights:
        if weight.matches is None or weight.matches(attributes):
            weights[[bool(weight.bits >> place & 1) for place in places.tolist()]] *= weight.weight
    return weights

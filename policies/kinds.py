"""Every kind of policy, by its name in YAML and stored states."""

from collections.abc import Mapping

from policies.base import Bandit
from policies.greedy import EpsilonGreedy
from policies.klucb import KLUCB
from policies.linear.linucb import LinUCB
from policies.linear.logistic import LogisticThompson
from policies.linear.squarecb import SquareCB
from policies.linear.thompson import LinearThompson
from policies.thompson import BetaThompson, GaussianThompson, TopTwoThompson
from policies.uniform import Uniform

__all__ = [
    "KINDS",
    "KLUCB",
    "BetaThompson",
    "EpsilonGreedy",
    "GaussianThompson",
    "LinUCB",
    "LinearThompson",
    "LogisticThompson",
    "SquareCB",
    "TopTwoThompson",
    "Uniform",
]

KINDS: Mapping[str, type[Bandit]] = {
    policy.kind: policy
    for policy in (
        Uniform,
        EpsilonGreedy,
        KLUCB,
        BetaThompson,
        GaussianThompson,
        TopTwoThompson,
        LinUCB,
        LinearThompson,
        LogisticThompson,
        SquareCB,
    )
}

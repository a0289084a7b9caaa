"""Bandit policies: exact propensities out, observations in; numpy, scipy and msgspec only, no I/O."""

from policies.base import Bandit, Policy
from policies.greedy import EpsilonGreedy
from policies.linear import LinearThompson
from policies.state import KINDS, dump, load, make, merge, parameters_of, with_arms
from policies.thompson import BetaThompson
from policies.uniform import Uniform

__all__ = [
    "KINDS",
    "Bandit",
    "BetaThompson",
    "EpsilonGreedy",
    "LinearThompson",
    "Policy",
    "Uniform",
    "dump",
    "load",
    "make",
    "merge",
    "parameters_of",
    "with_arms",
]

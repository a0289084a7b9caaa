"""Bandit policies: exact propensities out, observations in; numpy, scipy and msgspec only, no I/O."""

from policies.base import Bandit, Policy
from policies.change import Change, latest_change
from policies.explore import LinUCB, SquareCB
from policies.greedy import EpsilonGreedy
from policies.klucb import KLUCB
from policies.linear_thompson import LinearThompson
from policies.logistic import LogisticThompson
from policies.pacing import Pacing, worth_showing
from policies.state import KINDS, dump, load, make, merge, parameters_of, with_arms
from policies.thompson import BetaThompson, GaussianThompson, TopTwoThompson
from policies.uniform import Uniform

__all__ = [
    "KINDS",
    "KLUCB",
    "Bandit",
    "BetaThompson",
    "Change",
    "EpsilonGreedy",
    "GaussianThompson",
    "LinUCB",
    "LinearThompson",
    "LogisticThompson",
    "Pacing",
    "Policy",
    "SquareCB",
    "TopTwoThompson",
    "Uniform",
    "dump",
    "latest_change",
    "load",
    "make",
    "merge",
    "parameters_of",
    "with_arms",
    "worth_showing",
]

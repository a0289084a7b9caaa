"""Bandit policies: exact propensities out, observations in; numpy, scipy and msgspec only, no I/O."""

from policies.base import Bandit, Policy
from policies.change_point import ChangePoint, detect_change
from policies.greedy import EpsilonGreedy
from policies.klucb import KLUCB
from policies.linear_thompson import LinearThompson
from policies.linucb import LinUCB
from policies.logistic import LogisticThompson
from policies.pacing import Pacing, worth_showing
from policies.squarecb import SquareCB
from policies.state import KINDS, dump_policy, load_policy, make_policy, merge_policies, parameters_of, with_arms
from policies.thompson import BetaThompson, GaussianThompson, TopTwoThompson
from policies.uniform import Uniform

__all__ = [
    "KINDS",
    "KLUCB",
    "Bandit",
    "BetaThompson",
    "ChangePoint",
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
    "detect_change",
    "dump_policy",
    "load_policy",
    "make_policy",
    "merge_policies",
    "parameters_of",
    "with_arms",
    "worth_showing",
]

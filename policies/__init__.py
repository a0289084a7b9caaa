"""Bandit policies: exact propensities out, observations in; numpy, scipy and msgspec only, no I/O."""

from policies import kinds
from policies.base import Bandit, Policy
from policies.change_point import ChangePoint, detect_change
from policies.kinds import *  # noqa: F403 - one class per kind: a new one is named there and nowhere else
from policies.pacing import Pacing, worth_showing
from policies.state import dump_policy, load_policy, make_policy, merge_policies, parameters_of, with_arms

__all__ = [
    "Bandit",
    "ChangePoint",
    "Pacing",
    "Policy",
    "detect_change",
    "dump_policy",
    "load_policy",
    "make_policy",
    "merge_policies",
    "parameters_of",
    "with_arms",
    "worth_showing",
]
__all__ += kinds.__all__

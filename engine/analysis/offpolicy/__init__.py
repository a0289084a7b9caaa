"""Off-policy evaluation: the value of a policy from decisions of other policies."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.analysis.offpolicy.estimators import Estimate, dr, ips, snips, switch_dr

__all__ = ["Estimate", "dr", "ips", "snips", "switch_dr"]


def __getattr__(name: str) -> object:
    """Imports the estimators on first use, since they load scipy, which slows a cold command line."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.estimators"), name)

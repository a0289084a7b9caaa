"""The functions of scipy.special, which is imported when the first of them is used.

The import takes as long as all others of a process that only checks a plan. A decision server calls `load_special`
before it answers, so that no decision waits for it.
"""

import importlib
from collections.abc import Callable

from policies.batches import Floats

SpecialFunction = Callable[..., Floats]


def load_special() -> None:
    """Import scipy.special now."""
    importlib.import_module("scipy.special")


def __getattr__(name: str) -> SpecialFunction:
    """A function of scipy.special; from its first use on it is an attribute of this module."""
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    function: SpecialFunction = getattr(importlib.import_module("scipy.special"), name)
    globals()[name] = function
    return function

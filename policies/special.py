"""The functions of scipy.special, imported at the first use of one.

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
    """A function of scipy.special, stored as an attribute of this module at its first use."""
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    function: SpecialFunction = getattr(importlib.import_module("scipy.special"), name)
    globals()[name] = function
    return function

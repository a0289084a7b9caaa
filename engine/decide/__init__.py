"""(plan, snapshots, profile, request, now) -> Decision; no I/O, no clock, no global.

The package is the function as well: `from engine import decide; decide(plan, …)`.
"""

import sys
from collections.abc import Callable
from types import ModuleType


class _Callable(ModuleType):
    """A module that is called like the function it is named for."""

    @property
    def __call__(self) -> Callable[..., object]:
        from engine.decide.decision import decide  # noqa: PLC0415 (the package is imported by its own modules)

        return decide


sys.modules[__name__].__class__ = _Callable

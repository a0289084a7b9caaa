"""Counterpoint: experiments and offers, decided for every channel of one shop."""

import importlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.catalog import load_plan
    from engine.catalog.conditions.compile import compile_condition
    from engine.catalog.plan.plan import Plan
    from engine.decision.decision import decide
    from engine.hashing import bucket, bucket_ranges, choose_variant

__all__ = ["Plan", "bucket", "bucket_ranges", "choose_variant", "compile_condition", "decide", "load_plan"]

_MODULES = {
    "Plan": "engine.catalog.plan.plan",
    "bucket": "engine.hashing",
    "bucket_ranges": "engine.hashing",
    "choose_variant": "engine.hashing",
    "compile_condition": "engine.catalog.conditions.compile",
    "decide": "engine.decision.decision",
    "load_plan": "engine.catalog",
}


_MARK = os.path.join(os.path.dirname(__file__), "compiled.txt")  # noqa: PTH118, PTH120 (before any other import)
if os.path.exists(_MARK):  # noqa: PTH110 (as above)
    from engine.compiled import refuse_outdated

    refuse_outdated(_MARK)


def __getattr__(name: str) -> object:
    """Imports a public name's module on first use: a client or a report starts without the policies."""
    if name not in _MODULES:
        raise AttributeError(f"module 'engine' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)

"""Counterpoint: experiments and offers, decided for every channel of one shop."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.catalog import Plan, load_plan
    from engine.catalog.conditions import compile_condition
    from engine.decide.decision import decide
    from engine.hashing import bucket, bucket_ranges, choose_variant

__all__ = ["Plan", "bucket", "bucket_ranges", "choose_variant", "compile_condition", "decide", "load_plan"]

_PLACES = {
    "Plan": "engine.catalog",
    "load_plan": "engine.catalog",
    "compile_condition": "engine.catalog.conditions",
    "bucket": "engine.hashing",
    "bucket_ranges": "engine.hashing",
    "choose_variant": "engine.hashing",
}


def __getattr__(name: str) -> object:
    """Each name from its place when it is first asked for: a client or a report needs no policies to start."""
    if name not in _PLACES:
        raise AttributeError(f"module 'engine' has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)

"""Counterpoint: experiments and offers, decided for every channel of one shop."""

from engine.catalog import Plan, load_plan
from engine.catalog.conditions import compile_condition
from engine.hashing import bucket, bucket_ranges, choose_variant

# Last, so that `engine.decide` is the function here; `from engine.decide.x import y` finds the package all the same.
from engine.decide.decision import decide  # isort: skip

__all__ = ["Plan", "bucket", "bucket_ranges", "choose_variant", "compile_condition", "decide", "load_plan"]

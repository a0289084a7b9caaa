"""The growth team's YAML, checked and compiled to the immutable `Plan` that every decision reads."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.catalog.plan.plan import Plan

__all__ = ["Plan", "load_plan"]


def load_plan(folder: Path | str, plans: Path | None = None) -> "Plan":
    """The checked and compiled plan of a folder of YAML; `plans` is the archive of plans that its holdouts keep.

    Raises:
        CatalogError: with every problem of every file, if there is one.
    """
    from engine.catalog.check.load import load_specs  # noqa: PLC0415
    from engine.catalog.plan.compile import compile_plan  # noqa: PLC0415 (as `Plan`)

    return compile_plan(load_specs(Path(folder), plans))


def __getattr__(name: str) -> object:
    """Imports `Plan` on first use, so that a client that only reads rules starts without numpy and the policies."""
    if name != "Plan":
        raise AttributeError(f"module 'engine.catalog' has no attribute {name!r}")
    from engine.catalog.plan.plan import Plan  # noqa: PLC0415

    return Plan

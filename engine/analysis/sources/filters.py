"""Evaluates a metric's filter with the plan's compiled condition, so that reports count what the learner counts."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

    import ibis.expr.types as ir

    from engine.analysis.sources.engines import DuckDB


def register_filter(source: DuckDB, condition: Mapping[str, object]) -> None:
    """Registers a condition as a function of the engine, for `matches_filter`; does nothing if it is registered."""
    from engine.catalog.conditions.compile import compile_condition  # noqa: PLC0415 # only metrics with a filter need it

    name, matches = _name(condition), compile_condition(condition)
    if source.run("SELECT 1 FROM duckdb_functions() WHERE function_name = {}", name):
        return

    def check(properties: str | None) -> bool:
        try:
            found = msgspec.json.decode(properties) if properties else {}
        except msgspec.DecodeError:
            return False
        return isinstance(found, dict) and matches(found)

    source.connection.create_function(name, check, ["VARCHAR"], "BOOLEAN", null_handling="special")  # type: ignore[call-overload] # its stub lacks the text


def matches_filter(properties: ir.Value, condition: Mapping[str, object]) -> ir.BooleanValue:
    """Whether the JSON of a column meets a condition that `register_filter` registered."""
    import ibis  # noqa: PLC0415 # slow to import, and only reports need it

    @ibis.udf.scalar.builtin(  # type: ignore[untyped-decorator] # Ibis ships no types
        name=_name(condition), signature=(("string",), "boolean")
    )
    def condition_holds(document: str) -> bool: ...  # type: ignore[empty-body] # registered

    return condition_holds(properties)


def _name(condition: Mapping[str, object]) -> str:
    text = msgspec.json.encode(condition, order="deterministic")
    return f"condition_{hashlib.sha256(text).hexdigest()[:16]}"

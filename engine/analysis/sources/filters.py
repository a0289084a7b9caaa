"""A metric's filter on properties of events is the plan's own condition: a report counts what the learner counts."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

    import ibis.expr.types as ir

    from engine.analysis.sources.engines import DuckDB


def register_filter(source: DuckDB, condition: Mapping[str, object]) -> None:
    """Makes a condition known to the engine, once; `holds` then speaks of it."""
    from engine.catalog.conditions.compile import compile_condition  # noqa: PLC0415 # only metrics with a filter need it

    name, matches = _name(condition), compile_condition(condition)
    if source.run(f"SELECT 1 FROM duckdb_functions() WHERE function_name = '{name}'"):  # noqa: S608 # letters and digits
        return

    def check(properties: str | None) -> bool:
        try:
            found = msgspec.json.decode(properties) if properties else {}
        except msgspec.DecodeError:
            return False
        return isinstance(found, dict) and matches(found)

    source.connection.create_function(name, check, ["VARCHAR"], "BOOLEAN", null_handling="special")  # type: ignore[call-overload] # it takes the word


def matches_filter(properties: ir.Value, condition: Mapping[str, object]) -> ir.BooleanValue:
    """Whether a column of JSON meets a condition that was registered."""
    import ibis  # noqa: PLC0415 # slow to import, and only reports need it

    @ibis.udf.scalar.builtin(  # type: ignore[untyped-decorator] # Ibis ships no types
        name=_name(condition), signature=(("string",), "boolean")
    )
    def condition_holds(document: str) -> bool: ...  # type: ignore[empty-body] # registered

    return condition_holds(properties)


def _name(condition: Mapping[str, object]) -> str:
    text = msgspec.json.encode(condition, order="deterministic")
    return f"condition_{hashlib.sha256(text).hexdigest()[:16]}"

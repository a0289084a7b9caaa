"""Fields of JSON columns as SQL, in Ibis's expressions and as text.

A number is a number of JSON, as it is to the profile and the learner. A text is none, or one event's `"NaN"` would
make every sum NaN.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from engine.analysis.sources.duckdb_expressions import text_literal
from engine.catalog.spec.fields import PROPERTY_NAME, PROPERTY_NAME_REMEDY, PROPERTY_NAME_RULE
from engine.errors import BadInput
from engine.metric_kinds import MOST_VALUE

if TYPE_CHECKING:
    import ibis.expr.types as ir

JSON_INTEGERS: Final = ("BIGINT", "UBIGINT", "HUGEINT")
JSON_NUMBERS: Final = (*JSON_INTEGERS, "DOUBLE")
"""DuckDB's names of the types of numbers in JSON."""


def json_text(column: ir.Value, name: str) -> ir.StringValue:
    """The text of a field of a JSON column; the name may contain dots.

    Raises:
        BadInput: if the name is no name of a trait or property.
    """
    if not re.search(PROPERTY_NAME, name):
        raise BadInput(f"{name!r} is not {PROPERTY_NAME_RULE}; {PROPERTY_NAME_REMEDY}")
    return json_at(column, _pointer(name))


def json_at(column: ir.Value, pointer: str) -> ir.StringValue:
    """The text at a place of a JSON column, given by RFC 6901."""
    import ibis  # noqa: PLC0415 # slow to import, and only reports need it

    @ibis.udf.scalar.builtin(  # type: ignore[untyped-decorator] # Ibis ships no types
        signature=(("string", "string"), "string")
    )
    def json_extract_string(document: str, path: str) -> str: ...  # type: ignore[empty-body] # DuckDB's own

    return json_extract_string(column, pointer)


def json_kind(column: ir.Value, name: str) -> ir.StringValue:
    """DuckDB's type name of a JSON column's field; null if there is no such field."""
    import ibis  # noqa: PLC0415 # slow to import, and only reports need it

    @ibis.udf.scalar.builtin(  # type: ignore[untyped-decorator] # Ibis ships no types
        signature=(("string", "string"), "string")
    )
    def json_type(document: str, path: str) -> str: ...  # type: ignore[empty-body] # DuckDB's own

    return json_type(column, _pointer(name))


def json_number(column: ir.Value, name: str) -> ir.FloatingValue:
    """The number in a JSON column's field; null if it is not one, or beyond what metrics count."""
    import ibis  # noqa: PLC0415 # slow to import, and only reports need it

    number = json_text(column, name).try_cast("float64")
    is_number = json_kind(column, name).isin(JSON_NUMBERS) & (number.abs() <= MOST_VALUE)
    return is_number.ifelse(number, ibis.null("float64"))


def _pointer(name: str) -> str:
    """The place of a field by RFC 6901, since a JSONPath would have wildcards."""
    return "/" + name.replace("~", "~0").replace("/", "~1")


def json_number_sql(column: str, pointer: str) -> str:
    """`json_number` as text; `column` and `pointer` (RFC 6901) are SQL."""
    number = f"TRY_CAST(json_extract_string({column}, {pointer}) AS DOUBLE)"
    kinds = ", ".join(map(text_literal, JSON_NUMBERS))
    return (
        f"CASE WHEN json_type({column}, {pointer}) IN ({kinds}) AND abs({number}) <= {MOST_VALUE!r} THEN {number} END"
    )

"""The part of Ibis's expression language that sums of a table need, compiled to DuckDB's SQL without Ibis.

Importing Ibis takes as long as reading ten million rows. A query in these methods is written once: on DuckDB it becomes
SQL here; on other engines, and where the log needs joins, the same lines run on Ibis's own tables.

Text enters DuckDB's SQL in two ways alone: through `text_literal` and `identifier` here, and through sqlglot, by which
Ibis compiles. Bound parameters would do the same, but the first one makes DuckDB import pandas and pyarrow, which takes
longer than the report.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

from engine.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    CastType = Literal["float64", "string"]
    SqlLiteral = str | float | bool | None

_TYPES: Mapping[CastType, str] = {"float64": "DOUBLE", "string": "VARCHAR"}


class ColumnType(str):
    """A column's type by Ibis's name for it."""

    __slots__ = ()

    def is_numeric(self) -> bool:
        """Whether the column holds numbers."""
        return self in {"int64", "float32", "float64", "decimal"}

    def is_boolean(self) -> bool:
        """Whether the column holds truth values."""
        return self == "boolean"


class SqlValue(msgspec.Struct, frozen=True, eq=False):
    """An expression over a row, or over the rows of a group."""

    sql: str

    def __add__(self, other: SqlValue | float) -> SqlValue:
        return _expression("({} + {})", self, other)

    def __sub__(self, other: SqlValue | float) -> SqlValue:
        return _expression("({} - {})", self, other)

    def __mul__(self, other: SqlValue | float) -> SqlValue:
        return _expression("({} * {})", self, other)

    def __eq__(self, other: SqlValue | SqlLiteral) -> SqlValue:  # type: ignore[override] # as in Ibis
        return _expression("({} = {})", self, other)

    def __ne__(self, other: SqlValue | SqlLiteral) -> SqlValue:  # type: ignore[override] # as in Ibis
        return _expression("({} <> {})", self, other)

    def __gt__(self, other: SqlValue | float) -> SqlValue:
        return _expression("({} > {})", self, other)

    __hash__ = None  # type: ignore[assignment] # equality is an expression

    def __and__(self, other: SqlValue) -> SqlValue:
        return _expression("({} AND {})", self, other)

    def __invert__(self) -> SqlValue:
        return _expression("(NOT {})", self)

    def abs(self) -> SqlValue:
        """The absolute value."""
        return _expression("ABS({})", self)

    def cast(self, kind: CastType) -> SqlValue:
        """The value as another type; a value that cannot be converted is an error."""
        return _expression(f"CAST({{}} AS {_TYPES[kind]})", self)

    def try_cast(self, kind: CastType) -> SqlValue:
        """The value as another type; null if it cannot be converted."""
        return _expression(f"TRY_CAST({{}} AS {_TYPES[kind]})", self)

    def notnull(self) -> SqlValue:
        """Whether the value is not null."""
        return _expression("({} IS NOT NULL)", self)

    def fill_null(self, other: SqlLiteral) -> SqlValue:
        """The value, or `other` for null."""
        return _expression("COALESCE({}, {})", self, other)

    def ifelse(self, yes: SqlValue | SqlLiteral, no: SqlValue | SqlLiteral) -> SqlValue:
        """`yes` if this condition is true, else `no`."""
        return _expression("CASE WHEN {} THEN {} ELSE {} END", self, yes, no)

    def cases(self, *branches: tuple[SqlLiteral, float], else_: float) -> SqlValue:
        """The number paired with this value in `branches`, `else_` for any other value."""
        whens = " ".join("WHEN {} THEN {}" for _ in branches)
        pairs = (part for branch in branches for part in branch)
        return _expression(f"CASE {{}} {whens} ELSE {{}} END", self, *pairs, else_)

    def count(self) -> SqlValue:
        """The number of values in a group that are not null."""
        return _expression("COUNT({})", self)

    def sum(self) -> SqlValue:
        """The sum over a group."""
        return _expression("SUM({})", self)

    def mean(self) -> SqlValue:
        """The mean over a group."""
        return _expression("AVG({})", self)

    def min(self) -> SqlValue:
        """The minimum of a group."""
        return _expression("MIN({})", self)

    def max(self) -> SqlValue:
        """The maximum of a group."""
        return _expression("MAX({})", self)


class Query(msgspec.Struct, frozen=True):
    """Rows that can be queried further; `sql` is a table or a subquery after FROM."""

    sql: str

    def __getitem__(self, name: str) -> SqlValue:
        return SqlValue(identifier(name))

    def select(self, *names: str, **values: SqlValue | SqlLiteral) -> Query:
        """A query for these columns and expressions."""
        return self._subquery([*map(self.__getitem__, names), *_aliased(values)])

    def mutate(self, **values: SqlValue | SqlLiteral) -> Query:
        """A query for all columns and these expressions."""
        return self._subquery([SqlValue("*"), *_aliased(values)])

    def filter(self, condition: SqlValue) -> Query:
        """The rows for which the condition is true."""
        return self._subquery([SqlValue("*")], f"WHERE {condition.sql}")

    def limit(self, rows: int) -> Query:
        """The first rows, at most `rows`."""
        return self._subquery([SqlValue("*")], f"LIMIT {rows:d}")

    def order_by(self, *names: str) -> Query:
        """The rows sorted by these columns."""
        return self._subquery([SqlValue("*")], f"ORDER BY {', '.join(map(identifier, names))}")

    def count(self) -> SqlValue:
        """The number of rows in a group."""
        return SqlValue("COUNT(*)")

    def aggregate(self, **values: SqlValue) -> Query:
        """One row over all rows."""
        return self._subquery(_aliased(values))

    def group_by(self, *names: str) -> Grouped:
        """The rows grouped by these columns."""
        return Grouped(self, names)

    def _subquery(self, columns: Sequence[SqlValue], rest: str = "") -> Query:
        # Each part is made in this module, by which its names are quoted and its values are literals.
        selected = ", ".join(column.sql for column in columns)
        return Query(f"(SELECT {selected} FROM {self.sql} {rest})")  # noqa: S608 # nosec B608


class View(Query, frozen=True, kw_only=True):
    """A view of the engine, with the columns that it described."""

    columns: Mapping[str, ColumnType]

    def schema(self) -> Mapping[str, ColumnType]:
        """The columns and their types."""
        return self.columns


class Grouped(msgspec.Struct, frozen=True):
    """Rows grouped by some columns."""

    rows: Query
    keys: tuple[str, ...]

    def aggregate(self, **values: SqlValue) -> Query:
        """One row per group: its keys, then these expressions."""
        keys = [self.rows[key] for key in self.keys]
        grouping = f"GROUP BY {', '.join(key.sql for key in keys)}"
        return self.rows._subquery([*keys, *_aliased(values)], grouping)  # noqa: SLF001 # one file


def identifier(name: str) -> str:
    """A column's or table's name quoted for SQL.

    Raises:
        BadInput: if it contains a NUL, at which DuckDB ends the query.
    """
    return _quote(name, '"')


def text_literal(text: str) -> str:
    """The text as an SQL literal; in DuckDB's plain literals only the quote is special.

    Raises:
        BadInput: if it contains a NUL, at which DuckDB ends the query.
    """
    return _quote(text, "'")


def _quote(text: str, mark: str) -> str:
    if "\0" in text:
        raise BadInput(f"{text!r} contains a NUL character, which no name or value may; remove it")
    return mark + text.replace(mark, mark * 2) + mark


def _aliased(values: Mapping[str, SqlValue | SqlLiteral]) -> list[SqlValue]:
    return [SqlValue(f"{_sql(value)} AS {identifier(name)}") for name, value in values.items()]


def _expression(template: str, *operands: SqlValue | SqlLiteral) -> SqlValue:
    """The template with an operand for each `{}`."""
    return SqlValue(template.format(*map(_sql, operands)))


def _sql(value: SqlValue | SqlLiteral) -> str:
    if isinstance(value, SqlValue):
        return value.sql
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, str):
        return text_literal(value)
    number = repr(float(value))
    return number if "e" in number else f"{number}e0"  # with an exponent it is a double, else a decimal


_OF_CREATIVE = {
    "creative": "VARCHAR",
    "creative_propensity": "DOUBLE",
    "creatives": "VARCHAR[]",
    "creative_policy": "VARCHAR",
}
_NEWER = {"decisions": "".join(f"NULL::{kind} AS {name}, " for name, kind in _OF_CREATIVE.items())}
OFFER_PROPENSITY = "propensity / coalesce(creative_propensity, 1)"
"""The probability of the offer of a logged decision, whichever creative of it was shown."""


def with_added_columns(reader: str, name: str) -> str:
    """A table's rows, for files written before the columns of lists or creatives existed."""
    return f"(FROM {reader} UNION ALL BY NAME SELECT {_NEWER.get(name, '')}NULL::INTEGER AS position WHERE false)"

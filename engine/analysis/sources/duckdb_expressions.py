"""The verbs of Ibis that sums of a table need, as DuckDB's SQL: importing Ibis takes as long as ten million rows.

A query in these verbs is written once. On DuckDB it becomes SQL text here; on other engines, and where the log needs
joins, the same lines run on Ibis's own tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    CastType = Literal["float64", "string"]
    SqlLiteral = str | float | bool | None

_TYPES: Mapping[CastType, str] = {"float64": "DOUBLE", "string": "VARCHAR"}


class ColumnType(str):
    """A column's type by Ibis's name for it."""

    __slots__ = ()

    def is_numeric(self) -> bool:
        """Whether it holds numbers."""
        return self in {"int64", "float32", "float64", "decimal"}

    def is_boolean(self) -> bool:
        """Whether it holds truth values."""
        return self == "boolean"


@dataclass(frozen=True, eq=False)
class SqlValue:
    """An expression over a row, or over the rows of a group."""

    sql: str

    def __sub__(self, other: SqlValue | float) -> SqlValue:
        return SqlValue(f"({self.sql} - {_sql(other)})")

    def __mul__(self, other: SqlValue) -> SqlValue:
        return SqlValue(f"({self.sql} * {other.sql})")

    def __eq__(self, other: SqlValue | SqlLiteral) -> SqlValue:  # type: ignore[override] # as in Ibis
        return SqlValue(f"({self.sql} = {_sql(other)})")

    def __ne__(self, other: SqlValue | SqlLiteral) -> SqlValue:  # type: ignore[override] # as in Ibis
        return SqlValue(f"({self.sql} <> {_sql(other)})")

    __hash__ = None  # type: ignore[assignment] # equality is an expression

    def __and__(self, other: SqlValue) -> SqlValue:
        return SqlValue(f"({self.sql} AND {other.sql})")

    def __invert__(self) -> SqlValue:
        return SqlValue(f"(NOT {self.sql})")

    def cast(self, kind: CastType) -> SqlValue:
        """As another type; what cannot be is an error."""
        return SqlValue(f"CAST({self.sql} AS {_TYPES[kind]})")

    def try_cast(self, kind: CastType) -> SqlValue:
        """As another type; what cannot be is null."""
        return SqlValue(f"TRY_CAST({self.sql} AS {_TYPES[kind]})")

    def notnull(self) -> SqlValue:
        """Whether there is a value."""
        return SqlValue(f"({self.sql} IS NOT NULL)")

    def fill_null(self, other: SqlLiteral) -> SqlValue:
        """The value, or `other` where there is none."""
        return SqlValue(f"COALESCE({self.sql}, {_sql(other)})")

    def ifelse(self, yes: SqlValue | SqlLiteral, no: SqlValue | SqlLiteral) -> SqlValue:
        """One value where this is true, the other elsewhere."""
        return SqlValue(f"CASE WHEN {self.sql} THEN {_sql(yes)} ELSE {_sql(no)} END")

    def cases(self, *branches: tuple[SqlLiteral, float], else_: float) -> SqlValue:
        """The number that stands beside this value."""
        whens = " ".join(f"WHEN {_sql(value)} THEN {_sql(number)}" for value, number in branches)
        return SqlValue(f"CASE {self.sql} {whens} ELSE {_sql(else_)} END")

    def count(self) -> SqlValue:
        """How many values a group has."""
        return SqlValue(f"COUNT({self.sql})")

    def sum(self) -> SqlValue:
        """The sum over a group."""
        return SqlValue(f"SUM({self.sql})")

    def mean(self) -> SqlValue:
        """The mean over a group."""
        return SqlValue(f"AVG({self.sql})")

    def min(self) -> SqlValue:
        """The least of a group."""
        return SqlValue(f"MIN({self.sql})")

    def max(self) -> SqlValue:
        """The greatest of a group."""
        return SqlValue(f"MAX({self.sql})")


@dataclass(frozen=True)
class Query:
    """Rows that can be asked further; `sql` is what stands after FROM."""

    sql: str

    def __getitem__(self, name: str) -> SqlValue:
        return SqlValue(_name(name))

    def select(self, *names: str, **values: SqlValue | SqlLiteral) -> Query:
        """These columns, and these expressions."""
        return self._query([*map(_name, names), *_named(values)])

    def mutate(self, **values: SqlValue | SqlLiteral) -> Query:
        """All columns, and these expressions."""
        return self._query(["*", *_named(values)])

    def filter(self, condition: SqlValue) -> Query:
        """The rows for which it is true."""
        return self._query(["*"], f"WHERE {condition.sql}")

    def limit(self, rows: int) -> Query:
        """At most so many rows."""
        return self._query(["*"], f"LIMIT {rows}")

    def order_by(self, *names: str) -> Query:
        """The rows in order."""
        return self._query(["*"], f"ORDER BY {', '.join(map(_name, names))}")

    def count(self) -> SqlValue:
        """How many rows a group has."""
        return SqlValue("COUNT(*)")

    def aggregate(self, **values: SqlValue) -> Query:
        """One row of all."""
        return self._query(_named(values))

    def group_by(self, *names: str) -> Grouped:
        """The rows by what these columns hold."""
        return Grouped(self, names)

    def _query(self, columns: list[str], rest: str = "") -> Query:
        return Query(f"(SELECT {', '.join(columns)} FROM {self.sql} {rest})")  # noqa: S608 # names and literals are quoted below


@dataclass(frozen=True)
class View(Query):
    """A view that the engine has described."""

    columns: Mapping[str, ColumnType]

    def schema(self) -> Mapping[str, ColumnType]:
        """Its columns and their types."""
        return self.columns


@dataclass(frozen=True)
class Grouped:
    """Rows by what some columns hold."""

    rows: Query
    keys: tuple[str, ...]

    def aggregate(self, **values: SqlValue) -> Query:
        """One row per group: its keys, then these."""
        keys = [_name(key) for key in self.keys]
        return self.rows._query([*keys, *_named(values)], f"GROUP BY {', '.join(keys)}")  # noqa: SLF001 # one file


def _named(values: Mapping[str, SqlValue | SqlLiteral]) -> list[str]:
    return [f"{_sql(value)} AS {_name(name)}" for name, value in values.items()]


def _name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _sql(value: SqlValue | SqlLiteral) -> str:
    if isinstance(value, SqlValue):
        return value.sql
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return repr(value) if "e" in repr(value) else f"{value!r}e0"  # with an exponent it is a double, else a decimal

"""The verbs of Ibis that sums of a table need, as DuckDB's SQL: importing Ibis takes as long as ten million rows.

What is said in these verbs is written once. On DuckDB it becomes text here; on other engines, and where the log needs
joins, the same lines run on Ibis's own tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    Kind = Literal["float64", "string"]
    Literally = str | float | bool | None

_TYPES: Mapping[Kind, str] = {"float64": "DOUBLE", "string": "VARCHAR"}


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
class Value:
    """An expression over a row, or over the rows of a group."""

    sql: str

    def __sub__(self, other: Value | float) -> Value:
        return Value(f"({self.sql} - {_sql(other)})")

    def __mul__(self, other: Value) -> Value:
        return Value(f"({self.sql} * {other.sql})")

    def __eq__(self, other: Value | Literally) -> Value:  # type: ignore[override] # as in Ibis
        return Value(f"({self.sql} = {_sql(other)})")

    def __ne__(self, other: Value | Literally) -> Value:  # type: ignore[override] # as in Ibis
        return Value(f"({self.sql} <> {_sql(other)})")

    __hash__ = None  # type: ignore[assignment] # equality is an expression

    def __and__(self, other: Value) -> Value:
        return Value(f"({self.sql} AND {other.sql})")

    def __invert__(self) -> Value:
        return Value(f"(NOT {self.sql})")

    def cast(self, kind: Kind) -> Value:
        """As another type; what cannot be is an error."""
        return Value(f"CAST({self.sql} AS {_TYPES[kind]})")

    def try_cast(self, kind: Kind) -> Value:
        """As another type; what cannot be is null."""
        return Value(f"TRY_CAST({self.sql} AS {_TYPES[kind]})")

    def notnull(self) -> Value:
        """Whether there is a value."""
        return Value(f"({self.sql} IS NOT NULL)")

    def fill_null(self, other: Literally) -> Value:
        """The value, or `other` where there is none."""
        return Value(f"COALESCE({self.sql}, {_sql(other)})")

    def ifelse(self, yes: Value | Literally, no: Value | Literally) -> Value:
        """One value where this is true, the other elsewhere."""
        return Value(f"CASE WHEN {self.sql} THEN {_sql(yes)} ELSE {_sql(no)} END")

    def cases(self, *branches: tuple[Literally, float], else_: float) -> Value:
        """The number that stands beside this value."""
        whens = " ".join(f"WHEN {_sql(value)} THEN {_sql(number)}" for value, number in branches)
        return Value(f"CASE {self.sql} {whens} ELSE {_sql(else_)} END")

    def count(self) -> Value:
        """How many values a group has."""
        return Value(f"COUNT({self.sql})")

    def sum(self) -> Value:
        """The sum over a group."""
        return Value(f"SUM({self.sql})")

    def mean(self) -> Value:
        """The mean over a group."""
        return Value(f"AVG({self.sql})")

    def min(self) -> Value:
        """The least of a group."""
        return Value(f"MIN({self.sql})")

    def max(self) -> Value:
        """The greatest of a group."""
        return Value(f"MAX({self.sql})")


@dataclass(frozen=True)
class Query:
    """Rows that can be asked further; `sql` is what stands after FROM."""

    sql: str

    def __getitem__(self, name: str) -> Value:
        return Value(_name(name))

    def select(self, *names: str, **values: Value | Literally) -> Query:
        """These columns, and these expressions."""
        return self._query([*map(_name, names), *_named(values)])

    def mutate(self, **values: Value | Literally) -> Query:
        """All columns, and these expressions."""
        return self._query(["*", *_named(values)])

    def filter(self, condition: Value) -> Query:
        """The rows for which it is true."""
        return self._query(["*"], f"WHERE {condition.sql}")

    def limit(self, rows: int) -> Query:
        """At most so many rows."""
        return self._query(["*"], f"LIMIT {rows}")

    def order_by(self, *names: str) -> Query:
        """The rows in order."""
        return self._query(["*"], f"ORDER BY {', '.join(map(_name, names))}")

    def count(self) -> Value:
        """How many rows a group has."""
        return Value("COUNT(*)")

    def aggregate(self, **values: Value) -> Query:
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

    def aggregate(self, **values: Value) -> Query:
        """One row per group: its keys, then these."""
        keys = [_name(key) for key in self.keys]
        return self.rows._query([*keys, *_named(values)], f"GROUP BY {', '.join(keys)}")  # noqa: SLF001 # one file


def _named(values: Mapping[str, Value | Literally]) -> list[str]:
    return [f"{_sql(value)} AS {_name(name)}" for name, value in values.items()]


def _name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _sql(value: Value | Literally) -> str:
    if isinstance(value, Value):
        return value.sql
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return repr(value) if "e" in repr(value) else f"{value!r}e0"  # with an exponent it is a double, else a decimal

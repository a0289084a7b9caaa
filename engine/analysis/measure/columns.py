"""Checks the values that a report reads: a cell that is not a number is reported, never counted as 0."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from engine.analysis.sources.duckdb_expressions import identifier
from engine.catalog.check.decode import suggest_name
from engine.errors import BadInput

if TYPE_CHECKING:
    from engine.analysis.measure.sources import EventSource

LONGEST_DAYS: Final = 36_500.0
_WRONG = """
SELECT count(*) FILTER (wrong), count(*), min(text) FILTER (wrong) FROM (
    SELECT {text} AS text, coalesce({wrong}, {missing}) AS wrong FROM {table} WHERE {where}
)
"""


def check_numbers(source: EventSource, *roles: str, filled: bool = False, where: str = "true") -> None:
    """Refuses a table whose column of a role holds a text or a number that is not finite; empty cells may pass.

    Args:
        source: of tables.
        roles: the columns; those that the table has not pass.
        filled: whether an empty cell is refused too.
        where: SQL of the rows that count.

    Raises:
        BadInput: with the count of such cells and the first of them.
    """
    for role in roles:
        _check(source, role, "isfinite(TRY_CAST({text} AS DOUBLE))", "finite number", filled=filled, where=where)


def check_flags(source: EventSource, *roles: str, filled: bool = False) -> None:
    """Refuses a table whose column of a role has values other than yes and no, as `check_numbers`."""
    for role in roles:
        _check(source, role, "TRY_CAST({text} AS BOOLEAN) IS NOT NULL", "yes or no", filled=filled, where="true")


def _check(source: EventSource, role: str, rule: str, kind: str, *, filled: bool, where: str) -> None:
    name = source.column(role)
    if name is None:
        return
    text = f"nullif(trim(CAST({identifier(name)} AS VARCHAR)), '')"
    wrong = f"CASE WHEN {text} IS NOT NULL THEN NOT coalesce({rule.format(text=text)}, false) END"
    sql = _WRONG.format(text=text, wrong=wrong, missing=str(filled).lower(), table=source.table.sql, where=where)
    count, rows, example = source.engine.run(sql)[0]
    if not count:
        return
    shown = "an empty cell" if example is None else repr(str(example))
    remedy = "write numbers with a decimal point and without separators" if "number" in kind else "write yes or no"
    empty = "" if filled else ", leave unknown cells empty"
    raise BadInput(
        f"{source.place}: column {name!r} ({role}) is no {kind} in {count:,} of {rows:,} rows, such as {shown}; "
        f"{remedy}{empty}, or name another column with --{role}"
    )


def to_microseconds(option: str, days: float) -> int:
    """The microseconds of an option in days.

    Raises:
        BadInput: if they are not above 0, or longer than a century.
    """
    if not (math.isfinite(days) and 0 < days <= LONGEST_DAYS):
        raise BadInput(f"--{option} {days:g}: is not a number of days; give one above 0, up to {LONGEST_DAYS:,.0f}")
    return int(days * 86_400_000_000)


def describe_missing_event(source: EventSource, *groups: frozenset[str] | set[str]) -> str:
    """A sentence for event names missing in the source; empty if none is missing or there are no events."""
    known = sorted(str(name) for (name,) in source.rows("SELECT DISTINCT event FROM {visits} WHERE event IS NOT NULL"))
    missing = [] if not known else [sorted(names) for names in groups if names.isdisjoint(known)]
    remedies = [(names[0], suggest_name(names[0], known)) for names in missing]
    return " ".join(
        f"Event {name!r} never occurs; {remedy}{'' if remedy.endswith('?') else '.'}" for name, remedy in remedies
    )

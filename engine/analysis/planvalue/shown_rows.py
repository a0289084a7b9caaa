"""The rows on which a plan is valued: the offers that logged decisions showed at placements, with traces.

A row was exposed, or shows nothing and so cannot be. Of a large log the rows are those of a random part of the
customers, chosen by a hash of their ids.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from engine.analysis.design.log_times import SECOND
from engine.analysis.sources.engines import DuckDB
from engine.analysis.sources.log import read_log_table
from engine.analysis.sources.log_read_lock import lock_log_for_reading
from engine.errors import BadInput
from engine.journal.traces import Trace, decode_trace
from engine.vocabulary import DAY, SILENCE

if TYPE_CHECKING:
    from pathlib import Path

    from engine.analysis.sources.engines import Cell

MOST_ROWS = 40_000
_HASHES = 1 << 16


class ShownRow(NamedTuple):
    """One placement's offer in one decision; `propensity` is the offer's, whichever creative was shown.

    `arm` is the offer, or silence. `time` is in seconds since 1970. `reward` is None where none has arrived.
    """

    decision_id: str
    time: float
    placement: str
    customer: str
    arm: str
    reason: str
    propensity: float
    candidates: tuple[str, ...]
    context: str
    policy: str | None
    reward: float | None
    position: int


class ShownLog(NamedTuple):
    """A log's rows in time order, their decisions' traces, and the share of the log that they cover.

    `rows_per_day` is that of the whole log.
    """

    rows: list[ShownRow]
    traces: dict[str, Trace]
    beside: dict[str, dict[str, str]]
    """By decision, what each of its placements showed, seen or not."""
    rows_per_day: float
    days: float
    untraced: int
    """Rows without a trace that this release reads."""


def read_shown_log(log_dir: Path) -> ShownLog:
    """Read the rows of all placements.

    Raises:
        BadInput: if the folder is no log, or has no decision on an offer that was seen.
    """
    with lock_log_for_reading(log_dir):
        source = DuckDB()
        found, total, table, beside = _read_rows(source, log_dir)
        traces: dict[str, Trace] = {}
        for decision_id, blob in source.traces(log_dir, table) if found else ():
            try:
                traces[decision_id] = decode_trace(blob)
            except BadInput:  # of a release that this one does not read
                continue
    rows = [row for row in found if row.decision_id in traces]
    if not rows:
        raise BadInput(f"{log_dir}: has no decision on an offer that was seen; name the log of a shop that ran")
    times = [row.time for row in found]
    days = (max(times) - min(times)) / DAY
    return ShownLog(
        rows=rows,
        traces=traces,
        beside=beside,
        rows_per_day=total / max(days, 1e-9),
        days=days,
        untraced=len(found) - len(rows),
    )


def _read_rows(source: DuckDB, log_dir: Path) -> tuple[list[ShownRow], int, str, dict[str, dict[str, str]]]:
    """The rows, the number in the whole log, the table of the rows, and `beside` of `ShownLog`."""
    decided = read_log_table(source, log_dir, "decisions")
    decided = decided.filter(decided["kind"] == "offer")
    seen = read_log_table(source, log_dir, "exposures").select("decision_id", "key", "position").distinct()
    earned = read_log_table(source, log_dir, "rewards")
    names = ["decision_id", "key", "position"]
    latest = earned.group_by(names).aggregate(reward=earned["reward"].argmax(earned["time"]))
    shown = decided.semi_join(seen, names).union(decided.filter(decided["variant"].isnull()))
    shown = shown.left_join(latest, names)
    shown = shown.select(*decided.columns, "reward")
    total = int(source.rows(shown.aggregate(n=shown.count()))[0][0] or 0)
    if total > MOST_ROWS:
        share = int(_HASHES * MOST_ROWS / total)
        one = shown["customer"].nullif("").fill_null(shown["decision_id"])  # without an id, each decision is one
        shown = shown.filter((one.hash() % _HASHES).abs() < share)
    kept = source.keep("shown_rows", shown)
    names = ["decision_id", "time", "key", "customer", "variant", "reason", "propensity"]
    names += ["candidates", "context", "policy", "reward", "position"]
    rows = source.rows(kept.select(*names).order_by("time", "decision_id", "key", "position"))
    beside: dict[str, dict[str, str]] = {}
    for decision_id, key, variant in source.rows(
        decided.semi_join(kept, ["decision_id"]).select("decision_id", "key", "variant")
    ):
        beside.setdefault(str(decision_id), {})[str(key)] = SILENCE if variant is None else str(variant)
    return [_row_of(row) for row in rows], total, kept.get_name(), beside


def _row_of(cells: tuple[Cell, ...]) -> ShownRow:
    decision_id, time, key, customer, variant, reason, propensity, candidates, context, policy, reward, place = cells
    return ShownRow(
        decision_id=str(decision_id),
        time=int(time or 0) / SECOND,
        placement=str(key),
        customer=str(customer or decision_id),
        arm=SILENCE if variant is None else str(variant),
        reason=str(reason),
        propensity=float(propensity or 0.0),
        candidates=tuple(map(str, candidates)) if isinstance(candidates, list) else (),
        context=str(context or "{}"),
        policy=None if policy is None else str(policy),
        reward=None if reward is None else float(reward),
        position=int(place or 0),
    )

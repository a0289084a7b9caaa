"""Reads an experiment's decisions and exposures in one pass, for reports whose units are customers.

Joining decisions with exposures is the dearest step of a report, and every part of it asks for that join: the members,
the shares that were served, the customers assigned and seen, repeated exposures and those without a decision. So the
join is made once, and summed by customer, channel, variant and plan. What a report needs is in these *cells*, of which
a customer has one as a rule; the rows of the join are not stored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from engine.analysis.design.log_times import SECOND
from engine.analysis.sources.engines import unbound_table
from engine.analysis.sources.log import (
    RANDOMIZED,
    count_assigned_customers,
    count_channel_exposures,
    count_exposure_faults,
    latest_version,
    read_log_table,
)

if TYPE_CHECKING:
    from pathlib import Path

    import ibis.expr.types as ir

    from engine.analysis.design.question import ExperimentQuestion
    from engine.analysis.sources.engines import DuckDB
    from engine.analysis.sources.traced_traits import Segment

_CELLS = """
CREATE OR REPLACE TEMP TABLE cells AS
WITH decided AS (
    SELECT decision_id, customer, channel, variant, plan, crossover, time AS decided,
        CASE WHEN reason = 'assigned' THEN propensity::DOUBLE END AS share
    FROM {decisions} WHERE {randomized}
), exposed AS (
    SELECT decision_id, time AS seen FROM {exposures}
    WHERE key = {{}} AND decision_id IS NOT NULL AND time <= {as_of}
), joined AS (
    SELECT customer, channel, variant, plan, seen, decided,
        CASE WHEN seen >= {start} THEN seen END AS counted,
        CASE WHEN seen >= {start} THEN crossover END AS crossover,
        CASE WHEN seen >= {start} THEN share END AS share,
        CASE WHEN seen >= {start} AND share IS NOT NULL THEN seen END AS drawn
    FROM decided FULL JOIN exposed USING (decision_id)
)
SELECT customer, channel, variant, plan, min(counted) AS first, bool_or(crossover) AS flagged, max(share) AS share,
    min(drawn) AS drawn, count(seen) AS pairs, count(*) - count(seen) AS unseen, max(decided) >= {start} AS is_assigned,
    max(CASE WHEN seen IS NOT NULL THEN decided END) >= {start} AS is_seen
FROM joined GROUP BY customer, channel, variant, plan
"""
"""An exposure without a decision has no variant. `counted` is the exposure if it is after the experiment's start."""
_MEMBERS = """
CREATE OR REPLACE TEMP TABLE exposed_customers AS
SELECT customer, first, chosen.variant, chosen.segment, chosen.plan, crossed FROM (
    SELECT customer, min(first) AS first, arg_min(struct_pack(variant, segment := {segment}, plan), first) AS chosen,
        max(variant) <> min(variant) OR coalesce(bool_or(flagged), false) AS crossed
    FROM cells WHERE first IS NOT NULL AND customer IS NOT NULL GROUP BY customer
);
CREATE OR REPLACE TEMP VIEW customer_members AS SELECT customer AS unit, * FROM exposed_customers
"""
"""The unit is the same column as the customer, so that DuckDB groups and joins by one of them."""
_ASSIGNED = "SELECT variant, count(DISTINCT customer) FROM cells WHERE is_assigned GROUP BY variant"
_CHANNELS = """
SELECT channel, count(*), count(CASE WHEN is_seen THEN 1 END) FROM (
    SELECT channel, customer, bool_or(is_seen) AS is_seen FROM cells
    WHERE is_assigned AND customer IS NOT NULL AND channel IS NOT NULL GROUP BY channel, customer
) GROUP BY channel
"""
_DRAWN = """
CREATE OR REPLACE TEMP TABLE drawn AS
SELECT drawn AS time, plan, variant, 'assigned' AS reason, share AS propensity
FROM cells WHERE drawn IS NOT NULL AND customer IS NOT NULL
"""
_PAIRS = """
SELECT sum(pairs) FILTER (variant IS NOT NULL), sum(unseen), sum(pairs) FILTER (variant IS NULL) FROM cells
"""


class CustomerCells(NamedTuple):
    """The result of one pass: `members` as in `exposed_members`, and drawn decisions for `read_allocation`."""

    members: ir.Table
    drawn: ir.Table


class ExposureCounts(NamedTuple):
    """The customers `assigned` by variant, those assigned and seen by channel, and the faults of the exposures.

    `double` are exposures sent twice for one decision, `orphans` exposures without a decision in the log.
    """

    assigned: dict[str, int]
    channels: dict[str, tuple[int, int]]
    double: int
    orphans: int


def has_customer_cells(question: ExperimentQuestion, segment: Segment | None) -> bool:
    """Whether the cells cover a report's units and segments: customers, overall or by channel."""
    is_split = segment is not None and (segment.name != "channel" or segment.matches is not None)
    return question.unit == "customer" and not is_split and not question.is_holdout and question.switchback is None


def read_customer_cells(
    source: DuckDB, log_dir: Path, question: ExperimentQuestion, as_of: int, segment: Segment | None
) -> CustomerCells:
    """Reads decisions and exposures into the temporary table `cells`."""
    decisions, randomized = _randomized(source, log_dir, question, as_of)
    exposures = read_log_table(source, log_dir, "exposures").get_name()
    start = _start(question)
    # The texts consist of names and numbers of this module; what the log and the plan name is bound.
    text = _CELLS.format(decisions=decisions, randomized=randomized, exposures=exposures, start=start, as_of=as_of)
    version = latest_version(source, log_dir, question, as_of)
    source.run(text, question.key, *([version] if version else []), question.key)
    source.run(_MEMBERS.format(segment="NULL::VARCHAR" if segment is None else "channel"))
    source.run(_DRAWN)
    texts = dict.fromkeys(("unit", "customer", "variant", "segment", "plan"), "VARCHAR")
    return CustomerCells(
        unbound_table("customer_members", texts | {"first": "BIGINT", "crossed": "BOOLEAN"}),
        unbound_table(
            "drawn",
            dict.fromkeys(("plan", "variant", "reason"), "VARCHAR") | {"time": "BIGINT", "propensity": "DOUBLE"},
        ),
    )


def count_exposures(
    source: DuckDB, log_dir: Path, question: ExperimentQuestion, as_of: int, *, has_cells: bool
) -> ExposureCounts:
    """The counts of the checks of exposures, from the cells of the last `read_customer_cells` if it `has_cells`."""
    if not has_cells:
        return ExposureCounts(
            count_assigned_customers(source, log_dir, question, as_of),
            count_channel_exposures(source, log_dir, question, as_of),
            *count_exposure_faults(source, log_dir, question, as_of),
        )
    decisions, randomized = _randomized(source, log_dir, question, as_of)
    version = latest_version(source, log_dir, question, as_of)
    count = f"SELECT count(*) FROM {decisions} WHERE {randomized}"  # noqa: S608 # names of ours # nosec B608
    [[decided]] = source.run(count, question.key, *([version] if version else []))
    pairs, unseen, alone = (int(found or 0) for found in source.run(_PAIRS)[0])
    # Each decision that was seen has one exposure, and each exposure a decision: nothing is double, nothing an orphan.
    is_clean = not alone and pairs == int(decided or 0) - unseen
    faults = (0, 0) if is_clean else count_exposure_faults(source, log_dir, question, as_of)
    return ExposureCounts(
        {str(variant): int(units or 0) for variant, units in source.run(_ASSIGNED)},
        {str(channel): (int(n or 0), int(seen or 0)) for channel, n, seen in source.run(_CHANNELS)},
        *faults,
    )


def _start(question: ExperimentQuestion) -> int:
    """The experiment's start in microseconds; without one, a time before all records."""
    return -(2**62) if question.start is None else int(question.start * SECOND)


def _randomized(source: DuckDB, log_dir: Path, question: ExperimentQuestion, as_of: int) -> tuple[str, str]:
    """The view of the log's decisions, and the condition of `randomized_decisions` with `{}` for key and version."""
    version = " AND version = {}" if latest_version(source, log_dir, question, as_of) else ""
    return read_log_table(source, log_dir, "decisions").get_name(), f"{RANDOMIZED} AND time <= {as_of:d}{version}"

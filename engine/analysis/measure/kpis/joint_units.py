"""The customers of several experiments with their metric values, from one reading of decisions and events.

A member is a customer in an experiment, and the unit of `metric_sums` is the member: its name starts with the key of
the experiment, so that an event that names a decision counts for the experiment of that decision alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from engine.analysis.design.log_times import SECOND
from engine.analysis.sources.duckdb_expressions import text_literal
from engine.analysis.sources.engines import unbound_table
from engine.analysis.sources.metric_sums import Members, measure_members
from engine.analysis.values.customer_cells import has_customer_cells

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from engine.analysis.design.metrics import Measure
    from engine.analysis.design.question import ExperimentQuestion, MeasuredMetric
    from engine.analysis.sources.engines import DuckDB

# As of `customer_cells`: the latest version of each experiment, and exposures from its start on.
_EXPOSED: Final = """
CREATE OR REPLACE TEMP TABLE joint_exposed AS
WITH asked AS (SELECT unnest({asked}, recursive := true)), drawn AS (
    SELECT decided.*, asked.start FROM {decisions} AS decided JOIN asked USING (key)
    WHERE kind = 'experiment' AND variant IS NOT NULL AND reason IN ('assigned', 'sticky') AND time <= {as_of}
), latest AS (SELECT key, arg_max(version, time) AS version FROM drawn GROUP BY key)
SELECT drawn.key, decision_id, drawn.customer, variant, plan, crossover, seen.time
FROM drawn JOIN latest USING (key) JOIN {exposures} AS seen USING (decision_id, key)
WHERE (coalesce(latest.version, '') = '' OR drawn.version = latest.version)
    AND seen.time <= {as_of} AND seen.time >= start AND drawn.customer IS NOT NULL
"""
_MEMBERS: Final = """
CREATE OR REPLACE TEMP TABLE joint_members AS
SELECT key || chr(0) || customer AS unit, customer, chosen.variant, crossed, first, key AS segment, chosen.plan FROM (
    SELECT key, customer, min(time) AS first, arg_min(struct_pack(variant, plan), time) AS chosen,
        max(variant) <> min(variant) OR coalesce(bool_or(crossover), false) AS crossed
    FROM joint_exposed GROUP BY key, customer
);
CREATE OR REPLACE TEMP VIEW joint_decisions AS SELECT decision_id, key || chr(0) AS owner FROM joint_exposed
"""


def is_joint(question: ExperimentQuestion, metrics: Sequence[MeasuredMetric]) -> bool:
    """Whether an experiment can be read with others: its units are customers, and no metric is capped."""
    return has_customer_cells(question, None) and all(one.winsorize is None and one.source is None for one in metrics)


def read_joint_units(
    source: DuckDB,
    log_dir: Path,
    questions: Sequence[ExperimentQuestion],
    metrics: Sequence[MeasuredMetric],
    *,
    as_of: int,
    tables: dict[str, str],
    place: str,
) -> list[Measure]:
    """Reads the units of all experiments into the table `place`, with the key as their `segment`.

    Args:
        source: the engine of the log.
        log_dir: the log.
        questions: of experiments that are joint.
        metrics: the metrics, in the order of the measures.
        as_of: the date of the report in microseconds.
        tables: the names of the tables `decisions` and `exposures`.
        place: the table of units: `variant, segment`, and a column or two per measure; crossed ones are left out.
    """
    starts = [(one.key, -(2**62) if one.start is None else int(one.start * SECOND)) for one in questions]
    asked = ", ".join(f"{{key: {text_literal(key)}, start: {start}}}" for key, start in starts)
    source.run(_EXPOSED.format(asked=f"[{asked}]", as_of=as_of, **tables))
    source.run(_MEMBERS)
    texts = dict.fromkeys(("unit", "customer", "variant", "segment", "plan"), "VARCHAR")
    members = unbound_table("joint_members", texts | {"first": "BIGINT", "crossed": "BOOLEAN"})
    decisions = unbound_table("joint_decisions", dict.fromkeys(("decision_id", "owner"), "VARCHAR"))
    frame, measures = measure_members(source, log_dir, Members(members, decisions), metrics, as_of)
    source.keep(place, frame.filter(~frame["crossed"]).drop("unit", "customer", "crossed", "first", "plan"))
    return measures

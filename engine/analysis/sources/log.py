"""Reads the log as tables: the units exposed to an experiment, and their events before and after the exposure."""

from __future__ import annotations

from datetime import UTC, datetime
from glob import escape
from typing import TYPE_CHECKING

from engine.analysis.aggregates.strata import SLOT
from engine.analysis.design.log_times import DAY, SECOND
from engine.analysis.sources.duckdb_expressions import OFFER_PROPENSITY, with_added_columns
from engine.analysis.sources.engines import ibis_table
from engine.analysis.sources.merged_customers import TABLES_OF_CUSTOMERS, merged_customers_table
from engine.analysis.sources.traced_traits import Segment, fill_from_traces, unit_reader
from engine.analysis.values.json_fields import json_kind, json_number, json_text
from engine.errors import BadInput
from engine.vocabulary import PERIOD

if TYPE_CHECKING:
    from pathlib import Path

    import ibis.expr.types as ir

    from engine.analysis.design.question import ExperimentQuestion
    from engine.analysis.sources.engines import DuckDB
    from engine.catalog.plan.switchback import Switchback

ASSIGNED = ("assigned", "sticky")  # reasons of a randomized assignment; forced and held-out units are not randomized
RANDOMIZED = "kind = 'experiment' AND key = {} AND variant IS NOT NULL AND reason IN ('assigned', 'sticky')"
HOLDOUT = "holdout"
SHIPPED = "shipped"

_COLUMNS = {
    "decisions": "decision_id VARCHAR, time BIGINT, customer VARCHAR, device VARCHAR, channel VARCHAR, kind VARCHAR, "
    "key VARCHAR, variant VARCHAR, reason VARCHAR, propensity DOUBLE, candidates VARCHAR[], context VARCHAR, "
    "plan VARCHAR, policy VARCHAR, crossover BOOLEAN, version VARCHAR, position INTEGER, creative VARCHAR, "
    "creative_propensity DOUBLE, creatives VARCHAR[], creative_policy VARCHAR",
    "exposures": "decision_id VARCHAR, time BIGINT, key VARCHAR, customer VARCHAR, position INTEGER",
    "events": "message_id VARCHAR, time BIGINT, customer VARCHAR, event VARCHAR, decision_id VARCHAR, channel VARCHAR, "
    "revenue DOUBLE, properties VARCHAR",
    "rewards": "decision_id VARCHAR, key VARCHAR, reward DOUBLE, time BIGINT, position INTEGER",
    "quarantine": "time BIGINT, reason VARCHAR, source VARCHAR, body VARCHAR",
}


def read_log_table(source: DuckDB, log_dir: Path, name: str, since: int | None = None) -> ir.Table:
    """A table of the log (`decisions`, `exposures`, `events`, `rewards`, `quarantine`); empty if unwritten.

    `since` (microseconds) skips files and row groups that have only older rows; up to a day's older rows may remain.
    A merged visitor's rows have the customer's identifier; the body of a quarantined record is hexadecimal. The
    `position` of an item of a list counts from 1, and is 0 for what is no list. The `propensity` of a decision is that
    of the variant, whichever creative was shown: the log has that of both, and `creative_propensity` given the variant.

    Raises:
        BadInput: if the folder does not exist, or is not a log's.
    """
    if not log_dir.is_dir():
        raise BadInput(f"{log_dir} is not a folder; give the log's, which holds decisions/ and events/")
    entries = {entry.name for entry in log_dir.iterdir() if not entry.name.startswith((".", "_"))}
    if entries and entries.isdisjoint(_COLUMNS):
        raise BadInput(f"{log_dir} has {min(entries)!r} but no log; give the log's folder, which holds decisions/")
    loaded = source.made.get(loaded_rows(log_dir, name))
    if loaded is not None:
        rows = ibis_table(source.view(f"loaded {name}", f"FROM {loaded}"))
        return rows if since is None else rows.filter(rows["time"] >= since - DAY)
    columns = [part.rsplit(" ", 1) for part in _COLUMNS[name].split(", ")]
    if next((log_dir / name).glob("**/*.parquet"), None) is None:
        empty = ", ".join(f"NULL::{kind} AS {column}" for column, kind in columns)
        return ibis_table(source.view(name, f"SELECT {empty} WHERE false"))
    reader = "read_parquet({}, union_by_name = true, hive_partitioning = true)"
    has_position = any(column == "position" for column, _ in columns)
    reader = f"{with_added_columns(reader, name) if has_position else reader} AS logged"
    bound = "" if since is None else f" WHERE logged.time >= to_timestamp({since // SECOND - DAY // SECOND})"
    read = {column: f"logged.{column}" for column, _ in columns} | {"time": "epoch_us(logged.time)"}
    if has_position:
        read["position"] = "coalesce(logged.position, 0)"
    if name == "decisions":
        read["propensity"] = OFFER_PROPENSITY
    if "body" in read:
        read["body"] = "hex(logged.body)"
    merges = merged_customers_table(source, log_dir) if name in TABLES_OF_CUSTOMERS else None
    if merges is not None:
        reader += f" LEFT JOIN {merges} AS became ON logged.customer = became.old AND logged.time <= became.until"
        read["customer"] = "coalesce(became.customer, logged.customer)"
    chosen = ", ".join(f"{value} AS {column}" for column, value in read.items())
    files = f"{escape(str(log_dir / name))}/**/*.parquet"
    # The text consists of column names and table names of this module; the path is bound.
    return ibis_table(source.view(f"{name}{bound}", f"SELECT {chosen} FROM {reader}{bound}", files))  # noqa: S608 # nosec B608


def loaded_rows(log_dir: Path, name: str) -> str:
    """The key in `made` of a temporary table with a log table's rows that several reports need."""
    return f"{log_dir}: {name}"


def randomized_decisions(source: DuckDB, log_dir: Path, question: ExperimentQuestion, as_of: int) -> ir.Table:
    """The randomized decisions of the experiment's latest version; a new version reassigns every unit.

    Of a holdout they are those of all experiments that it covers, with the side of the customer as their variant: who
    is held out would have a variant otherwise, so both are the same kind. Of a frozen one all decisions state the side.
    """
    decided = read_log_table(source, log_dir, "decisions")
    if question.is_holdout:
        return _drawn_by_holdout(decided, question, as_of)
    decided = decided.filter(
        (decided["kind"] == "experiment")
        & (decided["key"] == question.key)
        & decided["variant"].notnull()
        & decided["reason"].isin(ASSIGNED)
        & (decided["time"] <= as_of)
    )
    last = latest_version(source, log_dir, question, as_of)
    return decided.filter(decided["version"] == last) if last else decided


def latest_version(source: DuckDB, log_dir: Path, question: ExperimentQuestion, as_of: int) -> str | None:
    """The version of the experiment's latest randomized decision; None if there is none or it has none."""
    asked = f"{log_dir} {question.key} {as_of}"
    if asked not in source.latest_versions:  # several checks of a report ask for the same decisions
        view = read_log_table(source, log_dir, "decisions").get_name()
        # The text consists of names and numbers of this module; the key is bound.
        query = f"SELECT arg_max(version, time) FROM {view} WHERE {RANDOMIZED} AND time <= {as_of:d}"  # noqa: S608 # nosec B608
        [[version]] = source.run(query, question.key)
        source.latest_versions[asked] = None if version is None else str(version)
    return source.latest_versions[asked]


def find_end(source: DuckDB, log_dir: Path, question: ExperimentQuestion) -> datetime | None:
    """The time of the experiment's end: its first decision after shipping, or the end of that day.

    None while it is open.
    """
    ends = [] if question.decided is None else [question.decided]
    if question.is_shipped:
        decided = read_log_table(source, log_dir, "decisions")
        decided = decided.filter(decided["key"] == question.key)
        drawn = decided.filter(decided["reason"].isin(ASSIGNED))
        [[last]] = source.rows(drawn.aggregate(last=drawn["time"].max()))
        shipped = decided.filter((decided["reason"] == SHIPPED) & (decided["time"] > (last or 0)))
        [[first]] = source.rows(shipped.aggregate(first=shipped["time"].min()))
        ends += [] if first is None else [int(first) / SECOND]
    end = min(ends, default=None)
    return None if end is None or end > datetime.now(UTC).timestamp() else datetime.fromtimestamp(end, UTC)


def _drawn_by_holdout(decided: ir.Table, question: ExperimentQuestion, as_of: int) -> ir.Table:
    import ibis  # noqa: PLC0415 # slow to import, and only reports need it

    decided = decided.filter(
        (decided["kind"] == "experiment")
        & decided["key"].isin(question.logged_keys)
        & decided["reason"].isin([*ASSIGNED, SHIPPED, HOLDOUT])
        & (decided["time"] <= as_of)
    )
    is_held_out = decided["reason"] == HOLDOUT
    held_out, let_in = question.weights
    share = question.weights[held_out]
    return decided.mutate(
        variant=is_held_out.ifelse(held_out, let_in),
        propensity=is_held_out.ifelse(share, 1.0 - share),
        reason=ibis.literal(ASSIGNED[0]),
        crossover=ibis.literal(value=False),
    )


def exposed_decisions(
    source: DuckDB, log_dir: Path, question: ExperimentQuestion, as_of: int, segment: Segment | None
) -> ir.Table:
    """One row per exposure with its decision; for a holdout one per decision, seen or not.

    Its columns are `decision_id, time, customer, variant, crossover, plan, reason, propensity, unit, segment`; of a
    switchback also `washed`, whether the decision was in the washout of its period.
    """
    start = None if question.start is None else int(question.start * SECOND)
    decided = randomized_decisions(source, log_dir, question, as_of)
    own = ["decision_id", "customer", "variant", "crossover", "plan", "reason", "propensity"]
    if question.switchback is not None:
        decided = decided.mutate(begun=_period_of(decided, question.switchback), decided=decided["time"])
        own += ["begun", "decided"]
    is_plain = question.unit == "customer" and segment is None
    if not is_plain:  # what units and segments are read from
        own += ["channel", "device", "context"]
    if question.is_holdout:
        seen = decided.select(*own, "time")
    else:
        exposures = read_log_table(source, log_dir, "exposures", start)
        exposures = exposures.filter((exposures["key"] == question.key) & (exposures["time"] <= as_of))
        if start is not None:
            exposures = exposures.filter(exposures["time"] >= start)
        seen = exposures.select("decision_id", "time").join(decided.select(*own), "decision_id")
    if is_plain:
        return seen.mutate(unit=seen["customer"], segment=_logged_segment(seen, segment)).filter(
            seen["customer"].notnull()
        )
    seen = source.keep("exposed", seen)
    seen = seen.mutate(unit=_logged_unit(seen, question), segment=_logged_segment(seen, segment))
    if question.unit != "customer":
        missing = seen["unit"].isnull()
        read = unit_reader(question)
        seen = fill_from_traces(source, log_dir, seen, column="unit", missing=missing, read=read)
    if segment is not None and segment.name != "channel":
        missing = json_kind(seen["context"], segment.name).isnull() if segment.matches is None else seen["time"] > 0
        read = segment.reader(question.zone)
        seen = fill_from_traces(source, log_dir, seen, column="segment", missing=missing, read=read)
    seen = seen.filter(seen["unit"].notnull()).drop("channel", "device", "context")
    return seen if question.switchback is None else _in_periods(seen, question.switchback, segment)


def _period_of(decided: ir.Table, design: Switchback) -> ir.Value:
    """The start of each decision's period in microseconds, as logged, else by its time."""
    every, origin = int(design.every * SECOND), int(design.origin * SECOND)
    computed = ((decided["time"] - origin) // every).cast("int64") * every + origin
    logged = (json_text(decided["context"], PERIOD).try_cast("float64") * SECOND).cast("int64")
    return logged.fill_null(computed)


def _in_periods(seen: ir.Table, design: Switchback, segment: Segment | None) -> ir.Table:
    """The exposures with the unit in its period as unit, and whether they fall into the washout."""
    if segment is not None and segment.by_period:
        number = (seen["begun"] - int(design.origin * SECOND)) // int(design.every * SECOND)
        slot = (number % design.series).cast("int64").cast("string")
        seen = seen.mutate(segment=seen["segment"].concat(SLOT, slot))
    return seen.mutate(
        unit=seen["unit"].concat("@", seen["begun"].cast("string")),
        washed=seen["decided"] - seen["begun"] < int(design.washout * SECOND),
    ).drop("begun", "decided")


def _logged_unit(seen: ir.Table, question: ExperimentQuestion) -> ir.Value:
    """The unit of each decision; null if an earlier release logged none."""
    trait = question.trait
    return seen[question.unit] if trait is None else json_text(seen["context"], trait)


def _logged_segment(seen: ir.Table, segment: Segment | None) -> ir.Value:
    """The segment's value in each decision; null if it was not logged."""
    import ibis  # noqa: PLC0415 # slow to import, and only reports need it

    if segment is None or segment.matches is not None:
        return ibis.null("string")
    return seen["channel"] if segment.name == "channel" else json_text(seen["context"], segment.name)


def first_exposures(source: DuckDB, log_dir: Path, question: ExperimentQuestion, as_of: int) -> ir.Table | None:
    """Each customer's first exposure `ever` to the experiment's latest version, even before `start`.

    None if it has no start, so that no exposure can be older.
    """
    if question.start is None:
        return None
    exposures = read_log_table(source, log_dir, "exposures")
    exposures = exposures.filter((exposures["key"] == question.key) & (exposures["time"] <= as_of))
    decided = randomized_decisions(source, log_dir, question, as_of).select("decision_id", "customer")
    seen = exposures.select("decision_id", "time").join(decided, "decision_id")
    return seen.group_by("customer").aggregate(ever=seen["time"].min())


def exposed_members(seen: ir.Table) -> ir.Table:
    """One row per unit and customer: `unit, customer, variant, crossed, first, segment, plan`; first exposure counts.

    `seen` is as of `exposed_decisions`. A unit seen in two variants, or flagged by the decision, is `crossed`.
    """
    import ibis  # noqa: PLC0415 # slow to import, and only reports need it

    own = ("variant", "segment", "plan")
    first = ibis.struct({name: seen[name] for name in own}).argmin(seen["time"])
    per_unit = seen.group_by("unit").aggregate(
        first_row=first,  # each column's own `argmin` would be sorted by itself
        other=seen["variant"].max(),
        least=seen["variant"].min(),
        flagged=seen["crossover"].any(),
    )
    per_unit = per_unit.select(
        "unit",
        **{name: per_unit["first_row"][name] for name in own},
        crossed=(per_unit["other"] != per_unit["least"]) | per_unit["flagged"].fill_null(False),
    )
    if "washed" in seen.columns:
        return _switched_members(seen).join(per_unit, "unit")
    members = seen.group_by("unit", "customer").aggregate(first=seen["time"].min())
    return members.join(per_unit, "unit")


def _switched_members(seen: ir.Table) -> ir.Table:
    """The members of a switchback: `unit, customer, first, until`.

    An event counts for the store and period in which its customer was last exposed: from the first exposure there up
    to the first one in another, `until`. An exposure in a washout ends the membership before it and begins none.
    """
    import ibis  # noqa: PLC0415 # slow to import, and only reports need it

    kept = seen["time"].min(where=~seen["washed"])
    members = seen.group_by("unit", "customer").aggregate(first=kept, entered=seen["time"].min())
    window = ibis.window(group_by="customer", order_by=["entered", "unit"])
    members = members.mutate(until=members["entered"].lead().over(window))
    return members.filter(members["first"].notnull()).drop("entered")


def event_number(events: ir.Table, value: str, missing: float | None) -> ir.Value:
    """An event's number: its revenue, or a property that is a JSON number; else `missing`."""
    number = events["revenue"] if value == "revenue" else json_number(events["properties"], value)
    return number if missing is None else number.fill_null(missing)


def count_assigned_customers(source: DuckDB, log_dir: Path, question: ExperimentQuestion, as_of: int) -> dict[str, int]:
    """The number of customers assigned to each variant, exposed or not."""
    decided = randomized_decisions(source, log_dir, question, as_of)
    if question.start is not None:
        decided = decided.filter(decided["time"] >= int(question.start * SECOND))
    counted = decided.group_by("variant").aggregate(units=decided["customer"].nunique())
    return {str(variant): int(units or 0) for variant, units in source.rows(counted)}


def count_channel_exposures(
    source: DuckDB, log_dir: Path, question: ExperimentQuestion, as_of: int
) -> dict[str, tuple[int, int]]:
    """The numbers of assigned customers, and of those exposed to these decisions, by channel."""
    if question.is_holdout:
        return {}  # its units are those assigned, seen or not
    decided = randomized_decisions(source, log_dir, question, as_of)
    if question.start is not None:
        decided = decided.filter(decided["time"] >= int(question.start * SECOND))
    exposures = read_log_table(source, log_dir, "exposures")
    exposures = exposures.filter((exposures["key"] == question.key) & (exposures["time"] <= as_of))
    is_seen = decided["decision_id"].isin(exposures["decision_id"])
    # By customer first: two counts of distinct customers take twice as long.
    customers = (
        decided.filter(decided["customer"].notnull()).group_by("channel", "customer").aggregate(is_seen=is_seen.any())
    )
    counted = customers.group_by("channel").aggregate(assigned=customers.count(), exposed=customers["is_seen"].sum())
    return {str(channel): (int(n or 0), int(m or 0)) for channel, n, m in source.rows(counted) if channel is not None}


def count_exposure_faults(source: DuckDB, log_dir: Path, question: ExperimentQuestion, as_of: int) -> tuple[int, int]:
    """The number of repeated exposures of one decision, and of exposures whose decision is not in the log."""
    exposures = read_log_table(source, log_dir, "exposures")
    exposures = exposures.filter((exposures["key"] == question.key) & (exposures["time"] <= as_of))
    ids = exposures.filter(exposures["decision_id"].notnull()).select("decision_id")
    known = read_log_table(source, log_dir, "decisions")
    orphans = ids.anti_join(known.filter(known["key"] == question.key).select("decision_id"), "decision_id")
    [[sent, decisions]] = source.rows(ids.aggregate(sent=ids.count(), decisions=ids["decision_id"].nunique()))
    [[unknown]] = source.rows(orphans.aggregate(n=orphans["decision_id"].nunique()))
    return int(sent or 0) - int(decisions or 0), int(unknown or 0)


def list_traits(source: DuckDB, log_dir: Path, question: ExperimentQuestion) -> list[str]:
    """The names of the traits in the contexts of an experiment's decisions."""
    import ibis  # noqa: PLC0415 # slow to import, and only reports need it

    @ibis.udf.scalar.builtin(  # type: ignore[untyped-decorator] # Ibis ships no types
        signature=(("string",), "array<string>")
    )
    def json_keys(document: str) -> list[str]: ...  # type: ignore[empty-body] # DuckDB's own

    decided = read_log_table(source, log_dir, "decisions")
    decided = decided.filter(decided["key"].isin(question.logged_keys))
    names = decided.select(name=json_keys(decided["context"]).unnest())
    return [str(name) for (name,) in source.rows(names.distinct().order_by("name"))]

"""The log as tables: units exposed to an experiment, and what they did before and after it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.analysis.design.metrics import Measure, Term
from engine.analysis.sources.engines import ibis_table
from engine.analysis.sources.filters import matches_filter, register_filter
from engine.analysis.sources.merged_customers import TABLES_OF_CUSTOMERS, merged_customers_table
from engine.errors import BadInput
from engine.vocabulary import REFUNDS

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    import ibis.expr.types as ir

    from engine.analysis.design.question import ExperimentQuestion, MeasuredMetric
    from engine.analysis.sources.engines import DuckDB

SECOND = 1_000_000  # times are microseconds since 1970: comparing integers needs no time zone database
DAY = 86_400 * SECOND
ASSIGNED = ("assigned", "sticky")  # reasons of a randomized assignment; forced and held-out units are not one

_COLUMNS = {
    "decisions": "decision_id VARCHAR, time BIGINT, customer VARCHAR, device VARCHAR, channel VARCHAR, kind VARCHAR, "
    "key VARCHAR, variant VARCHAR, reason VARCHAR, propensity DOUBLE, candidates VARCHAR[], context VARCHAR, "
    "policy VARCHAR, crossover BOOLEAN, version VARCHAR",
    "exposures": "decision_id VARCHAR, time BIGINT, key VARCHAR, customer VARCHAR",
    "events": "message_id VARCHAR, time BIGINT, customer VARCHAR, event VARCHAR, decision_id VARCHAR, channel VARCHAR, "
    "revenue DOUBLE, properties VARCHAR",
    "rewards": "decision_id VARCHAR, key VARCHAR, reward DOUBLE, time BIGINT",
}


def read_log_table(source: DuckDB, log_dir: Path, name: str, since: int | None = None) -> ir.Table:
    """One table of the log (`decisions`, `exposures`, `events`, `rewards`), empty if nothing was written yet.

    `since` (microseconds) leaves files and row groups unread that hold older rows alone; a day's older rows may stay.
    A customer is who they turned out to be.

    Raises:
        BadInput: if the log's folder does not exist, or is another's.
    """
    if not log_dir.is_dir():
        raise BadInput(f"{log_dir} is no folder; give the log's, which holds decisions/ and events/")
    held = {entry.name for entry in log_dir.iterdir() if not entry.name.startswith((".", "_"))}
    if held and held.isdisjoint((*_COLUMNS, "quarantine")):
        raise BadInput(f"{log_dir} holds no log but {min(held)!r}; give the log's folder, which holds decisions/")
    columns = [part.rsplit(" ", 1) for part in _COLUMNS[name].split(", ")]
    if next((log_dir / name).glob("**/*.parquet"), None) is None:
        empty = ", ".join(f"NULL::{kind} AS {column}" for column, kind in columns)
        return ibis_table(source.view(name, f"SELECT {empty} WHERE false"))
    path = str(log_dir / name).replace("'", "''")
    reader = f"read_parquet('{path}/**/*.parquet', union_by_name = true, hive_partitioning = true) AS logged"
    bound = "" if since is None else f" WHERE logged.time >= to_timestamp({since // SECOND - DAY // SECOND})"
    read = {column: f"logged.{column}" for column, _ in columns} | {"time": "epoch_us(logged.time)"}
    people = merged_customers_table(source, log_dir) if name in TABLES_OF_CUSTOMERS else None
    if people is not None:
        reader += f" LEFT JOIN {people} AS became ON logged.customer = became.old AND logged.time <= became.until"
        read["customer"] = "coalesce(became.customer, logged.customer)"
    chosen = ", ".join(f"{value} AS {column}" for column, value in read.items())
    return ibis_table(source.view(f"{name}{bound}", f"SELECT {chosen} FROM {reader}{bound}"))  # noqa: S608 # quoted above


def json_text(column: ir.Value, name: str) -> ir.StringValue:
    """The text of a field of a JSON column; the name may hold dots."""
    import ibis  # noqa: PLC0415 # slow to import, and only reports need it

    @ibis.udf.scalar.builtin(  # type: ignore[untyped-decorator] # Ibis ships no types
        signature=(("string", "string"), "string")
    )
    def json_extract_string(document: str, path: str) -> str: ...  # type: ignore[empty-body] # DuckDB's own

    escaped = name.replace('"', '\\"')
    return json_extract_string(column, f'$."{escaped}"')


def randomized_decisions(source: DuckDB, log_dir: Path, question: ExperimentQuestion, as_of: int) -> ir.Table:
    """The experiment's randomized decisions, of its latest version only: a new version reassigns every unit."""
    decided = read_log_table(source, log_dir, "decisions")
    decided = decided.filter(
        (decided["kind"] == "experiment")
        & (decided["key"] == question.key)
        & decided["variant"].notnull()
        & decided["reason"].isin(ASSIGNED)
        & (decided["time"] <= as_of)
    )
    last = source.rows(decided.aggregate(version=decided["version"].argmax(decided["time"])))[0][0]
    return decided.filter(decided["version"] == last) if last else decided


def exposed_members(
    source: DuckDB, log_dir: Path, question: ExperimentQuestion, as_of: int, segment: str | None
) -> ir.Table:
    """One row per unit and customer: `unit, customer, variant, crossed, first, segment`; first exposure counts.

    A unit seen in two variants, or flagged by the decision, is `crossed`.
    """
    import ibis  # noqa: PLC0415 # slow to import, and only reports need it

    start = None if question.start is None else int(question.start * SECOND)
    shown = read_log_table(source, log_dir, "exposures", start)
    shown = shown.filter((shown["key"] == question.key) & (shown["time"] <= as_of))
    if start is not None:
        shown = shown.filter(shown["time"] >= start)
    decided = randomized_decisions(source, log_dir, question, as_of)
    unit = json_text(decided["context"], "store") if question.unit == "store" else decided[question.unit]
    trait = ibis.null("string")
    if segment is not None:
        trait = decided["channel"] if segment == "channel" else json_text(decided["context"], segment)
    decided = decided.select("decision_id", "customer", "variant", "crossover", unit=unit, segment=trait)
    seen = shown.select("decision_id", "time").join(decided, "decision_id")
    seen = seen.filter(seen["unit"].notnull())
    order = seen["time"]
    per_unit = seen.group_by("unit").aggregate(
        variant=seen["variant"].argmin(order),
        other=seen["variant"].max(),
        least=seen["variant"].min(),
        flagged=seen["crossover"].any(),
        segment=seen["segment"].argmin(order),
    )
    per_unit = per_unit.select(
        "unit",
        "variant",
        "segment",
        crossed=(per_unit["other"] != per_unit["least"]) | per_unit["flagged"].fill_null(False),
    )
    members = seen.group_by("unit", "customer").aggregate(first=seen["time"].min())
    return members.join(per_unit, "unit")


def measure_members(
    source: DuckDB, log_dir: Path, members: ir.Table, specs: Sequence[MeasuredMetric], as_of: int
) -> tuple[ir.Table, list[Measure]]:
    """The members with a column (or two) per metric, and the measures over these.

    A metric that must be `ripe` is null for members whose window is not over yet.
    """
    done = _done(source, log_dir, members, specs, as_of)
    sums: dict[str, ir.Value] = {}
    measures = []
    for index, spec in enumerate(specs):
        columns, measure = _columns(done, spec, f"m{index}")
        sums |= columns
        measures.append(measure)
    per_member = done.group_by("unit", "customer").aggregate(**sums)
    joined = members.left_join(per_member, ["unit", "customer"])
    values = {name: joined[name].fill_null(0.0) for name in sums}
    for index, spec in enumerate(specs):
        if spec.ripe:
            ripe = joined["first"] <= as_of - int((spec.delay + (spec.window or 0.0)) * SECOND)
            values[f"m{index}"] = ripe.ifelse(values[f"m{index}"], None)
    own = ("unit", "customer", "variant", "crossed", "first", "segment")
    return joined.select(*own, **values), measures


def metric_values(source: DuckDB, log_dir: Path, members: ir.Table, spec: MeasuredMetric, as_of: int) -> ir.Table:
    """The single values `x` of a quantile metric, with their `unit` and `variant`; crossed units are left out."""
    kept = members.filter(~members["crossed"])
    done = _done(source, log_dir, kept, [spec], as_of)
    done = done.filter(_counts(done, spec, {spec.event}, before=False))
    rows = done.join(kept.select("unit", "variant").distinct(), "unit")
    return rows.select("unit", "variant", x=event_number(rows, spec.value or "revenue", None))


def _done(source: DuckDB, log_dir: Path, members: ir.Table, specs: Sequence[MeasuredMetric], as_of: int) -> ir.Table:
    """What the members did, with the time `since` their first exposure."""
    longest = max((spec.covariate_window or 0.0 for spec in specs), default=0.0)
    earliest = source.rows(members.aggregate(first=members["first"].min()))[0][0]
    events = read_log_table(source, log_dir, "events", int(earliest or 0) - int(longest * SECOND))
    for condition in (filtered for spec in specs for filtered in (spec.filter, spec.denominator_filter) if filtered):
        register_filter(source, condition)
    names = {name for spec in specs for name in (spec.event, spec.denominator) if name}
    if any("revenue" in (spec.value, spec.denominator_value) for spec in specs):
        names |= REFUNDS
    events = events.filter(events["event"].isin(sorted(names)) & (events["time"] <= as_of))
    events = events.select("customer", "event", "revenue", "properties", at=events["time"])
    done = members.select("unit", "customer", "first").join(events, "customer")
    done = done.mutate(since=done["at"] - done["first"])
    return done.filter(done["since"] >= -int(longest * SECOND))


def _columns(done: ir.Table, spec: MeasuredMetric, name: str) -> tuple[dict[str, ir.Value], Measure]:
    covariates: tuple[Term, ...] = ()
    columns = {name: _summed(done, spec, spec.event, spec.value, before=False)}
    term = Term(name)
    if spec.denominator:
        columns[f"{name}_den"] = _summed(done, spec, spec.denominator, spec.denominator_value, before=False, below=True)
        term = Term(name, f"{name}_den")
    if spec.covariate_window:
        columns[f"{name}_pre"] = _summed(done, spec, spec.event, spec.value, before=True)
        covariates = (Term(f"{name}_pre"),)
        if spec.denominator:
            columns[f"{name}_pre_den"] = _summed(
                done, spec, spec.denominator, spec.denominator_value, before=True, below=True
            )
            covariates = (Term(f"{name}_pre", f"{name}_pre_den"),)
    return columns, Measure(
        name=spec.name,
        kind=spec.kind,
        y=term,
        covariates=covariates,
        quantile=spec.quantile,
        direction=spec.direction,
        margin=spec.margin,
    )


def _counts(
    done: ir.Table, spec: MeasuredMetric, names: Collection[str], *, before: bool, below: bool = False
) -> ir.BooleanValue:
    """Whether an event is one of these and the metric's, within its window after (or before) the exposure.

    `below` asks for the denominator's, which has a filter of its own.
    """
    since, counted = done["since"], done["event"].isin(sorted(names))
    if before:
        counted = counted & (since < 0) & (since >= -int((spec.covariate_window or 0.0) * SECOND))
    else:
        counted = counted & (since >= int(spec.delay * SECOND))
        if spec.window is not None:
            counted = counted & (since < int((spec.delay + spec.window) * SECOND))
    condition = spec.denominator_filter if below else spec.filter
    return counted & matches_filter(done["properties"], condition) if condition else counted


def _summed(
    done: ir.Table, spec: MeasuredMetric, event: str, value: str | None, *, before: bool, below: bool = False
) -> ir.Value:
    """The event's values, or its count, summed over the metric's window."""
    counted = _counts(done, spec, {event}, before=before, below=below)
    adds = spec.rules.event_adds
    if value == "revenue" and adds != "one":
        refunds = _counts(done, spec, REFUNDS - {event}, before=before, below=below)
        money = event_number(done, value, 0.0)
        net = refunds.ifelse(-money.abs(), counted.ifelse(money, 0.0))
        return net.cast("float64").sum()
    if adds == "presence":
        return counted.any().cast("float64")
    amount = 1.0 if value is None or adds == "one" else event_number(done, value, 0.0)
    return counted.ifelse(amount, 0.0).cast("float64").sum()


def event_number(events: ir.Table, value: str, missing: float | None) -> ir.Value:
    """The number an event carries: its revenue, or a property; `missing` where it carries none."""
    number = events["revenue"] if value == "revenue" else json_text(events["properties"], value).try_cast("float64")
    return number if missing is None else number.fill_null(missing)


def count_assigned_customers(source: DuckDB, log_dir: Path, question: ExperimentQuestion, as_of: int) -> dict[str, int]:
    """Customers assigned to each variant, whether or not they saw it."""
    decided = randomized_decisions(source, log_dir, question, as_of)
    if question.start is not None:
        decided = decided.filter(decided["time"] >= int(question.start * SECOND))
    counted = decided.group_by("variant").aggregate(units=decided["customer"].nunique())
    return {str(variant): int(units or 0) for variant, units in source.rows(counted)}


def count_exposure_faults(source: DuckDB, log_dir: Path, question: ExperimentQuestion, as_of: int) -> tuple[int, int]:
    """Exposures sent twice for one decision, and exposures without a decision in the log."""
    shown = read_log_table(source, log_dir, "exposures")
    shown = shown.filter((shown["key"] == question.key) & (shown["time"] <= as_of))
    per_decision = shown.group_by("decision_id").aggregate(sent=shown.count())
    known = read_log_table(source, log_dir, "decisions")
    known = known.filter(known["key"] == question.key).select("decision_id").distinct()
    orphans = per_decision.anti_join(known, "decision_id")
    double = per_decision.aggregate(extra=(per_decision["sent"] - 1).sum())
    counted = source.rows(double)[0][0], source.rows(orphans.aggregate(n=orphans.count()))[0][0]
    return int(counted[0] or 0), int(counted[1] or 0)


def list_traits(source: DuckDB, log_dir: Path, question: ExperimentQuestion) -> list[str]:
    """The names that the contexts of an experiment's decisions hold."""
    import ibis  # noqa: PLC0415 # slow to import, and only reports need it

    @ibis.udf.scalar.builtin(  # type: ignore[untyped-decorator] # Ibis ships no types
        signature=(("string",), "array<string>")
    )
    def json_keys(document: str) -> list[str]: ...  # type: ignore[empty-body] # DuckDB's own

    decided = read_log_table(source, log_dir, "decisions")
    names = decided.filter(decided["key"] == question.key).select(name=json_keys(decided["context"]).unnest())
    return [str(name) for (name,) in source.rows(names.distinct().order_by("name"))]

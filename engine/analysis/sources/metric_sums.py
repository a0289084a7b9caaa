"""The values of an experiment's metrics, summed over members' events after (and before) the first exposure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from engine.analysis.design.log_times import SECOND
from engine.analysis.design.metrics import Measure, Term
from engine.analysis.sources.engines import compile_sql
from engine.analysis.sources.filters import matches_filter, register_filter
from engine.analysis.sources.log import event_number, read_log_table
from engine.analysis.sources.orders import ORDER_COLUMNS, EventSum, with_orders
from engine.analysis.values.funnels import FunnelValue, passed_members
from engine.analysis.values.table_values import TableMetric, measure_tables, table_values
from engine.vocabulary import PURCHASES, REFUNDS, names_of_same_event

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from pathlib import Path

    import ibis.expr.types as ir

    from engine.analysis.design.question import MeasuredMetric
    from engine.analysis.sources.engines import DuckDB
    from engine.metric_kinds import EventAdds


class Members(NamedTuple):
    """An experiment's members (`unit, customer, variant, crossed, first, segment, plan`), and its decisions.

    Of a switchback they also have `until`, after which events count for another period.

    `earlier` has each customer's first exposure `ever`, where an earlier run may have exposed them already. Where the
    members are of several experiments, the decisions have their `owner`: the begin of the units that they count for.
    """

    table: ir.Table
    decisions: ir.Table
    earlier: ir.Table | None = None


def measure_members(
    source: DuckDB, log_dir: Path, members: Members, specs: Sequence[MeasuredMetric], as_of: int
) -> tuple[ir.Table, list[Measure]]:
    """The members with one or two columns per metric, and the measures over these.

    A metric is null for members whose window is not over yet, unless it is to count them as they are.
    """
    of_events = [spec for spec in specs if spec.source is None]
    events = _member_events(source, log_dir, members, of_events, as_of) if of_events else members.table
    sums: list[EventSum] = []
    funnels: list[FunnelValue] = []
    tables: list[TableMetric] = []
    measures = []
    for index, spec in enumerate(specs):
        if spec.source is not None:
            tables.append(TableMetric(f"m{index}", spec, spec.source))
            measures.append(_measure(spec, *tables[-1].terms))
            continue
        added, passed, measure = _values(events, spec, f"m{index}")
        sums += added
        funnels += passed
        measures.append(measure)
    columns = {name: column for each in sums for name, column in each.per_order(events).items()}
    joined = members.table
    if columns:
        rows = events.group_by("unit", "customer", "row").aggregate(**columns)
        per_member = rows.group_by("unit", "customer").aggregate(**{each.name: each.total(rows) for each in sums})
        joined = joined.left_join(per_member, ["unit", "customer"]).drop("unit_right", "customer_right")
    for funnel in funnels:
        per_member = passed_members(events, funnel)
        joined = joined.left_join(per_member, ["unit", "customer"]).drop("unit_right", "customer_right")
    if tables:
        exposed = _with_first_ever(members)
        per_member = measure_tables(source, log_dir, exposed=exposed, metrics=tables, as_of=as_of)
        joined = joined.left_join(per_member, ["unit", "customer"]).drop("unit_right", "customer_right")
    names = [*(each.name for each in sums), *(each.name for each in funnels)]
    names += [name for each in tables for name in each.columns]
    values = {name: joined[name].fill_null(0.0) for name in names}
    for spec, measure in zip(specs, measures, strict=True):
        if spec.needs_closed_window:
            is_over = _is_window_over(joined, spec, as_of)
            values |= {name: is_over.ifelse(values[name], None) for name in measure.y.columns}
    own = ("unit", "customer", "variant", "crossed", "first", "segment", "plan")
    return joined.select(*own, **values), measures


def _is_window_over(members: ir.Table, spec: MeasuredMetric, as_of: int) -> ir.BooleanValue:
    return members["first"] <= as_of - int(spec.span * SECOND)


def metric_values(source: DuckDB, log_dir: Path, members: Members, spec: MeasuredMetric, as_of: int) -> ir.Table:
    """The single values `x` of a quantile metric, with their `unit` and `variant`; crossed units are left out.

    A value is that of an event, or what is left of an order after refunds; an order that is wholly refunded has none.
    """
    kept = members.table.filter(~members.table["crossed"])
    if spec.needs_closed_window:
        kept = kept.filter(_is_window_over(kept, spec, as_of))
    variants = kept.select("unit", "variant").distinct()
    if spec.source is not None:
        exposed = _with_first_ever(members._replace(table=kept))
        return table_values(source, log_dir, exposed, spec, as_of).join(variants, "unit").select("unit", "variant", "x")
    events = _member_events(source, log_dir, members._replace(table=kept), [spec], as_of)
    if not _is_of_orders(spec.event, spec.value):
        taken = events.filter(_in_window(events, spec, names_of_same_event(spec.event)))
        rows = taken.join(variants, "unit")
        return rows.select("unit", "variant", x=event_number(rows, spec.value or "revenue", None))
    each = _sum(events, spec, "x", event=spec.event, value=spec.value or "revenue")
    per_order = events.group_by("unit", "customer", "row").aggregate(**each.per_order(events))
    per_order = per_order.filter(each.is_counted(per_order)).mutate(x=each.per_row(per_order))
    rows = per_order.join(variants, "unit")
    return rows.select("unit", "variant", "x")


def _member_events(
    source: DuckDB, log_dir: Path, members: Members, specs: Sequence[MeasuredMetric], as_of: int
) -> ir.Table:
    """The members' events with the time `since` their first exposure and `ahead` of their first ever.

    A covariate counts what was ahead of the first exposure of any run: what came after it is an effect of the variant.
    An event that names a decision of the experiment came after it, whatever its sender's clock shows, and counts from
    the exposure on even if it arrived before it.
    """
    longest = max((spec.covariate_window or 0.0 for spec in specs), default=0.0)
    own_members = _with_first_ever(members)
    earliest = source.rows(own_members.aggregate(first=own_members["ever"].min()))[0][0]
    events = read_log_table(source, log_dir, "events", int(earliest or 0) - int(longest * SECOND))
    for condition in (filtered for spec in specs for filtered in _filters(spec) if filtered):
        register_filter(source, condition)
    asked = [(event, value) for spec in specs for event, value in _parts(spec)]
    names = {name for event, _ in asked for name in names_of_same_event(event)}
    if any(_is_of_orders(event, value) for event, value in asked):
        names |= REFUNDS
    events = events.filter(events["event"].isin(sorted(names)) & (events["time"] <= as_of))
    own = ("message_id", "customer", "event", "revenue", "properties", "decision_id")
    of_orders = ORDER_COLUMNS if "given_back" in events.columns else ()  # a table may be stored with them
    events = events.select(*own, *of_orders, at="time")
    joined = _order_events(source, own_members.join(events, "customer"), members.decisions)
    since, ahead = joined["at"] - joined["first"], joined["at"] - joined["ever"]
    is_named = joined["named"].notnull()
    joined = joined.mutate(
        since=(is_named & (since < 0)).ifelse(0, since), ahead=(is_named & (ahead < 0)).ifelse(0, ahead)
    )
    if "until" in joined.columns:
        joined = joined.filter(joined["until"].isnull() | (joined["at"] < joined["until"]))
    return joined.filter((joined["since"] >= 0) | (joined["ahead"] >= -int(longest * SECOND)))


def _order_events(source: DuckDB, events: ir.Table, decisions: ir.Table) -> ir.Table:
    """The events with the columns of orders, and `named`, the decision of the experiment that they name, as a view."""
    import ibis  # noqa: PLC0415 # slow to import, and only reports need it

    number = source.number_view()
    logged, named = f"(FROM logged_events_{number})", f"named_decisions_{number}"
    # The texts consist of names of this module, and of what Ibis compiled.
    source.run(f"CREATE TEMP VIEW logged_events_{number} AS {compile_sql(events, 'duckdb')}")
    # Few of the decisions are named by an event, and often none: then the decisions are not read at all.
    ids = f"SELECT decision_id FROM {logged} WHERE decision_id IS NOT NULL"  # noqa: S608 # nosec B608
    orders = logged if "given_back" in events.columns else with_orders(logged)
    if source.run(f"{ids} LIMIT 1"):
        asked = f"(SELECT DISTINCT decision_id FROM ({ids}))"  # noqa: S608 # nosec B608
        own = f"{asked} JOIN ({compile_sql(decisions, 'duckdb')}) USING (decision_id)"
        is_owned = "owner" in decisions.columns
        kept = "decision_id AS named, owner" if is_owned else "decision_id AS named"
        source.run(f"CREATE TEMP TABLE {named} AS SELECT DISTINCT {kept} FROM {own}")  # noqa: S608 # nosec B608
        joined = f"{orders} AS event LEFT JOIN {named} ON event.decision_id = {named}.named"
        joined += f" AND starts_with(event.unit, {named}.owner)" if is_owned else ""
    else:
        joined = f"(SELECT *, NULL::VARCHAR AS named FROM {orders})"  # noqa: S608 # nosec B608
    source.run(f"CREATE TEMP VIEW order_events_{number} AS FROM {joined}")
    return ibis.table(
        {**events.schema(), "order_id": "string", "given_back": "float64", "row": "string", "named": "string"},
        name=f"order_events_{number}",
    )


def _with_first_ever(members: Members) -> ir.Table:
    """The members' `unit, customer, first`, and their first exposure `ever`."""
    until = ["until"] if "until" in members.table.columns else []  # of a switchback
    own = members.table.select("unit", "customer", "first", *until)
    if members.earlier is None:
        return own.mutate(ever=own["first"])
    earlier = members.earlier.rename(seen_by="customer")
    joined = own.left_join(earlier, own["customer"] == earlier["seen_by"])
    is_earlier = joined["ever"].notnull() & (joined["ever"] < joined["first"])
    return joined.select("unit", "customer", "first", ever=is_earlier.ifelse(joined["ever"], joined["first"]))


def flag_earlier_runs(source: DuckDB, members: Members) -> list[str]:
    """A flag if customers were exposed before the start, which their covariates then precede."""
    if members.earlier is None:
        return []
    rows = _with_first_ever(members)
    early = int(source.rows(rows.aggregate(n=(rows["ever"] < rows["first"]).sum()))[0][0] or 0)
    what = "saw the experiment before its start; their covariates are from before that"
    return [f"{early:,} customers {what}"] if early else []


def _parts(spec: MeasuredMetric) -> Iterator[tuple[str, str | None]]:
    """The events of a metric, each with the value that it sums."""
    yield from ((event, spec.value) for event in spec.events)
    if spec.denominator:
        yield spec.denominator, spec.denominator_value


def _filters(spec: MeasuredMetric) -> Iterator[dict[str, object]]:
    """The conditions of a metric on its events' properties; empty if there are none."""
    yield spec.filter
    yield spec.denominator_filter
    yield from (step.filter for step in spec.steps)


def _is_of_orders(event: str, value: str | None) -> bool:
    """Whether refunds reduce what these events add."""
    return event in PURCHASES or (value == "revenue" and event not in REFUNDS)


def _values(events: ir.Table, spec: MeasuredMetric, name: str) -> tuple[list[EventSum], list[FunnelValue], Measure]:
    """The sums and funnels of a metric, and its measure over them."""
    if spec.rules.has_steps:
        return [], *_funnels(events, spec, name)
    sums, measure = _answer_sums(events, spec, name) if spec.rules.is_of_answers else _sums(events, spec, name)
    return sums, [], measure


def _funnels(events: ir.Table, spec: MeasuredMetric, name: str) -> tuple[list[FunnelValue], Measure]:
    """The funnel of a metric and that of its covariate, and its measure over them."""
    refunds = any(_is_of_orders(event, None) for event in spec.events)
    funnels = []
    for suffix, before in (("", False), ("_pre", True)) if spec.covariate_window else (("", False),):
        steps = []
        for step in spec.steps:
            taken = _in_window(events, spec, names_of_same_event(step.event), before=before)
            steps.append(taken & matches_filter(events["properties"], step.filter) if step.filter else taken)
        taken_back = _in_window(events, spec, REFUNDS, before=before) if refunds else None
        names = tuple(names_of_same_event(step.event) for step in spec.steps)
        funnels.append(
            FunnelValue(name=f"{name}{suffix}", steps=steps, events=names, within=spec.within, refunds=taken_back)
        )
    return funnels, _measure(spec, *((each.name,) for each in funnels))


def _measure(spec: MeasuredMetric, value: Sequence[str], *covariates: Sequence[str]) -> Measure:
    """The measure of a mean over units, or of a ratio if each term has a second column."""
    return Measure(
        name=spec.name,
        kind=spec.kind,
        y=_term(value),
        covariates=tuple(map(_term, covariates)),
        direction=spec.direction,
        margin=spec.margin,
    )


def _term(columns: Sequence[str]) -> Term:
    return Term(columns[0], columns[1] if len(columns) > 1 else None)


def _sums(events: ir.Table, spec: MeasuredMetric, name: str) -> tuple[list[EventSum], Measure]:
    """The sums of a metric of one event, and its measure over them."""
    sums = [_sum(events, spec, name, event=spec.event, value=spec.value)]
    below, value = spec.denominator, spec.denominator_value
    covariates: tuple[Term, ...] = ()
    term = Term(name)
    if below:
        sums.append(_sum(events, spec, f"{name}_den", event=below, value=value, below=True))
        term = Term(name, f"{name}_den")
    if spec.covariate_window:
        sums.append(_sum(events, spec, f"{name}_pre", event=spec.event, value=spec.value, before=True))
        covariates = (Term(f"{name}_pre"),)
        if below:
            sums.append(_sum(events, spec, f"{name}_pre_den", event=below, value=value, below=True, before=True))
            covariates = (Term(f"{name}_pre", f"{name}_pre_den"),)
    return sums, Measure(
        name=spec.name,
        kind=spec.kind,
        y=term,
        covariates=covariates,
        quantile=spec.quantile,
        direction=spec.direction,
        margin=spec.margin,
    )


def _answer_sums(events: ir.Table, spec: MeasuredMetric, name: str) -> tuple[list[EventSum], Measure]:
    """The scores of a unit's answers and their number: the mean is over answers, and its error clustered by unit."""
    answered = event_number(events, spec.value or spec.kind, None).notnull()
    covariates: tuple[Term, ...] = ()
    sums = []
    for suffix, before in (("", False), ("_pre", True)) if spec.covariate_window else (("", False),):
        taken = _in_window(events, spec, names_of_same_event(spec.event), before=before) & answered
        if spec.filter:
            taken = taken & matches_filter(events["properties"], spec.filter)
        sums.append(
            EventSum(
                name=f"{name}{suffix}",
                adds="amount",
                value=spec.value,
                bounds=spec.rules.score_bounds,
                taken=taken,
                refunds=None,
            )
        )
        sums.append(EventSum(name=f"{name}{suffix}_den", adds="one", value=None, taken=taken, refunds=None))
        if before:
            covariates = (Term(f"{name}_pre", f"{name}_pre_den"),)
    return sums, Measure(
        name=spec.name,
        kind=spec.kind,
        y=Term(name, f"{name}_den"),
        covariates=covariates,
        direction=spec.direction,
        margin=spec.margin,
    )


def _sum(
    events: ir.Table,
    spec: MeasuredMetric,
    name: str,
    *,
    event: str,
    value: str | None,
    before: bool = False,
    below: bool = False,
) -> EventSum:
    """One sum of a metric; `below` is its denominator with its own filter, `before` its covariate."""
    taken = _in_window(events, spec, names_of_same_event(event), before=before)
    condition = spec.denominator_filter if below else spec.filter
    if condition:
        taken = taken & matches_filter(events["properties"], condition)
    refunds = _in_window(events, spec, REFUNDS, before=before) if _is_of_orders(event, value) else None
    adds: EventAdds = "one" if value is None and spec.rules.event_adds == "amount" else spec.rules.event_adds
    return EventSum(
        name=name, adds=adds, value=value, taken=taken, refunds=refunds, at_least=spec.at_least, zone=spec.zone
    )


def _in_window(
    events: ir.Table, spec: MeasuredMetric, names: Collection[str], *, before: bool = False
) -> ir.BooleanValue:
    """Whether one of these events is in the metric's window after (or before) the exposure."""
    since, taken = events["since"], events["event"].isin(sorted(names))
    if before:
        ahead = events["ahead"]
        return taken & (ahead < 0) & (ahead >= -int((spec.covariate_window or 0.0) * SECOND))
    taken = taken & (since >= int(spec.delay * SECOND))
    return taken if spec.window is None else taken & (since < int((spec.delay + spec.window) * SECOND))

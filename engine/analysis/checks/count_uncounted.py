"""Counts the events of a metric that a report leaves out, by the reasons of `uncounted`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.analysis.checks.uncounted import REASONS, UncountedEvents
from engine.analysis.design.log_times import DAY, SECOND
from engine.analysis.sources.filters import matches_filter, register_filter
from engine.analysis.sources.log import randomized_decisions, read_log_table
from engine.vocabulary import names_of_same_event

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import ibis.expr.types as ir

    from engine.analysis.design.question import ExperimentQuestion, MeasuredMetric
    from engine.analysis.sources.engines import DuckDB


def count_uncounted_events(
    source: DuckDB,
    log_dir: Path,
    question: ExperimentQuestion,
    *,
    members: ir.Table,
    specs: Sequence[MeasuredMetric],
    as_of: int,
) -> dict[str, UncountedEvents]:
    """The uncounted events by metric, for metrics that have any.

    Args:
        source: the engine of the log.
        log_dir: the folder of the log.
        question: the experiment's design.
        members: `customer, first` (microseconds), one row per unit and customer.
        specs: the metrics.
        as_of: the date of the report in microseconds.
    """
    events = _named_events(source, log_dir, question, members=members, specs=specs, as_of=as_of)
    sums: dict[str, ir.Value] = {}
    for at, spec in enumerate(specs):
        own = events["event"].isin(sorted(_names(spec)))
        if spec.filter:
            register_filter(source, spec.filter)
            own = own & matches_filter(events["properties"], spec.filter)
        for reason, applies in _reasons(events, spec).items():
            sums[f"{reason}{at}"] = (own & applies).sum()
    (row,) = source.rows(events.aggregate(**sums))
    counts = dict(zip(sums, row, strict=True))
    found = {
        spec.name: UncountedEvents(**{reason: int(counts[f"{reason}{at}"] or 0) for reason in REASONS})
        for at, spec in enumerate(specs)
    }
    return {name: one for name, one in found.items() if one != UncountedEvents()}


def _names(spec: MeasuredMetric) -> set[str]:
    return {name for event in spec.events for name in names_of_same_event(event)}


def _named_events(
    source: DuckDB,
    log_dir: Path,
    question: ExperimentQuestion,
    *,
    members: ir.Table,
    specs: Sequence[MeasuredMetric],
    as_of: int,
) -> ir.Table:
    """The metrics' events of members, and the events that name a decision.

    Columns: `event, properties, customer`; `since`, microseconds after the first exposure, null for non-members;
    `named`, whether the event names a decision; `is_known`, whether the log has that decision; `owner`, that decision's
    customer if it is one of the experiment's.
    """
    import ibis  # noqa: PLC0415 # slow to import, and only reports need it

    first = members.group_by("customer").aggregate(first=members["first"].min())
    earliest = source.rows(first.aggregate(first=first["first"].min()))[0][0]
    events = read_log_table(source, log_dir, "events", None if earliest is None else int(earliest) - DAY)
    names = {name for spec in specs for name in _names(spec)}
    events = events.filter(events["event"].isin(sorted(names)) & (events["time"] <= as_of))
    asked = events.filter(events["decision_id"].notnull()).select("decision_id")
    if source.rows(asked.limit(1)):
        joined = _with_decisions(source, log_dir, question, events=events, asked=asked.distinct(), as_of=as_of)
    else:  # the decisions need not be read
        joined = events.mutate(is_known=ibis.null("boolean"), owner=ibis.null("string"))
    joined = joined.left_join(first, "customer")
    return joined.select(
        "event",
        "properties",
        "customer",
        "owner",
        named=joined["decision_id"].notnull(),
        is_known=joined["is_known"].notnull(),
        since=joined["time"] - joined["first"],
    )


def _with_decisions(
    source: DuckDB, log_dir: Path, question: ExperimentQuestion, *, events: ir.Table, asked: ir.Table, as_of: int
) -> ir.Table:
    """The events with `is_known`, true for a decision of the log, and the `owner` of one of the experiment."""
    # The few ids that events name select from the many decisions of the log, not the other way about.
    known = read_log_table(source, log_dir, "decisions").select("decision_id").semi_join(asked, "decision_id")
    known = source.keep("named_decisions", known.distinct().mutate(is_known=True))
    own = randomized_decisions(source, log_dir, question, as_of)
    own = own.semi_join(asked, "decision_id").select("decision_id", owner=own["customer"]).distinct()
    joined = events.left_join(known, "decision_id").drop("decision_id_right")
    return joined.left_join(own, "decision_id").drop("decision_id_right")


def _reasons(events: ir.Table, spec: MeasuredMetric) -> dict[str, ir.BooleanValue]:
    """The reasons for leaving events out, with the events of a metric that each applies to."""
    since, is_own = events["since"], events["owner"].notnull()
    is_member = since.notnull()
    passed = (is_own & (since < 0)).ifelse(0, since)
    is_counted = passed >= int(spec.delay * SECOND)
    if spec.window is not None:
        is_counted = is_counted & (passed < int((spec.delay + spec.window) * SECOND))
    return {
        "before_exposure": is_member & (since < 0) & (since >= -DAY) & ~is_own,
        "outside_window": is_member & (passed >= 0) & ~is_counted,
        "not_exposed": is_own & ~is_member,
        "unknown_decision": events["named"] & ~events["is_known"],
        "other_decision": is_own & is_member & (events["owner"] != events["customer"]),
    }

"""Reads units and segments that the log did not store with a decision from the decision's trace.

A trace has the request and the profile as the decision read them (`journal.traces`), so any trait, and any condition,
can be asked for afterwards. Rows of erased customers have no trace, and so no value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import msgspec

from engine.catalog.conditions.check import condition_problems
from engine.catalog.conditions.compile import Predicate, compile_condition
from engine.catalog.conditions.js_coercion import read_member
from engine.decision.attributes import build_attributes
from engine.decision.units import read_store, read_unit
from engine.errors import BadInput
from engine.journal.traces import Trace, decode_trace
from engine.traits.rules import NO_TRAITS

if TYPE_CHECKING:
    from pathlib import Path

    import ibis.expr.types as ir

    from engine.analysis.design.question import ExperimentQuestion
    from engine.analysis.sources.engines import DuckDB

TraceReader = Callable[[Trace], str | None]
_CONDITION = re.compile(r"[:{]")


class Segment(msgspec.Struct, frozen=True):
    """Splits a report by the trait `name` (or `channel`), or by the condition `matches` called `name`.

    With `by_period` it is also split by the time of day of a switchback's periods.
    """

    name: str
    matches: Predicate | None = None
    by_period: bool = False

    def reader(self, zone: str) -> TraceReader:
        """Reads the segment's value from a trace; `zone` is the shop's, for customers without a time zone."""

        def read(trace: Trace) -> str | None:
            request = trace.request
            attributes, _ = build_attributes(
                trace.profile, request.channel, request.context, trace.now, zone, computed=NO_TRAITS
            )
            return _text(read_path(attributes, self.name) if self.matches is None else self.matches(attributes))

        return read


class ReportSplit(msgspec.Struct, frozen=True):
    """The segment that splits a placement's report; `zone` is the shop's, for customers without one."""

    segment: Segment
    zone: str = "UTC"


def parse_segment(text: str, named: Mapping[str, Predicate] | None = None) -> Segment:
    """The segment named by a text: a trait, a segment of `segments.yaml`, or a condition in YAML.

    Args:
        text: `country`, `loyalty.tier: {$gte: 2}` or the key of a segment.
        named: the predicates of the shop's segments, by key.

    Raises:
        BadInput: if a condition is malformed.
    """
    if text in (named or {}):
        return Segment(text, (named or {})[text])
    if not _CONDITION.search(text):
        return Segment(text)
    try:
        condition = msgspec.yaml.decode(text.encode())
    except msgspec.DecodeError as error:
        raise BadInput(
            f"--segment {text!r}: {error}; write a condition as in an audience, such as country: DE"
        ) from error
    if not isinstance(condition, dict):
        return Segment(text)
    problems = condition_problems(condition)
    if problems:
        path, value, rule, remedy = problems[0]
        raise BadInput(f"--segment {text!r}: {path}: {value!r} {rule}; {remedy}")
    return Segment(text, compile_condition(condition))


def find_split(question: ExperimentQuestion, segment: str | None) -> Segment | None:
    """The segment that splits a report: the requested one, else the question's stratum.

    Raises:
        BadInput: as `parse_segment`.
    """
    trait = segment or question.inference.stratum
    if trait is None:
        return None
    split = parse_segment(trait, question.segments)
    return split if segment else msgspec.structs.replace(split, by_period=question.has_period_strata)


def read_path(attributes: Mapping[str, object], path: str) -> object:
    """The value at a dotted path; None if it does not exist."""
    value: object = attributes
    for name in path.split("."):
        value = read_member(value, name)
    return value


def unit_reader(question: ExperimentQuestion) -> TraceReader:
    """Reads the unit from a trace, for experiments that do not assign customers."""
    trait, placeholders = question.trait, question.placeholders

    def read(trace: Trace) -> str | None:
        request = trace.request
        if trait is None:
            return request.customer.device_id or request.customer.anonymous_id
        if question.unit == "store":
            return read_store(request.context, placeholders)
        attributes, _ = build_attributes(
            trace.profile, request.channel, request.context, trace.now, question.zone, computed=NO_TRAITS
        )
        return read_unit(attributes, trait, placeholders)

    return read


def fill_from_traces(
    source: DuckDB, log_dir: Path, seen: ir.Table, *, column: str, missing: ir.BooleanValue, read: TraceReader
) -> ir.Table:
    """The decisions with `column` filled from traces if it is `missing`; null without a trace.

    Args:
        source: the log's engine.
        log_dir: the log's folder.
        seen: a table with `decision_id` and `column`.
        column: a column of text.
        missing: whether a row's value is read from its trace.
        read: finds the value in a trace.
    """
    wanted = source.keep(f"unlogged_{column}", seen.filter(missing).select("decision_id").distinct())
    if not source.rows(wanted.limit(1)):
        return seen
    ids: list[str] = []
    values: list[str | None] = []
    for decision_id, blob in source.traces(log_dir, wanted.get_name()):
        try:
            values.append(read(decode_trace(blob)))
        except BadInput:  # of a release that this one does not read
            continue
        ids.append(decision_id)
    traced = source.load(f"traced_{column}", decision_id=ids, traced=values)
    filled = seen.mutate(is_missing=missing).left_join(traced, "decision_id")
    value = filled["is_missing"].ifelse(filled["traced"], filled[column])
    return filled.select(**{name: value if name == column else filled[name] for name in seen.columns})


def _text(value: object) -> str | None:
    """A value as the log's JSON shows it."""
    if value is None or isinstance(value, str):
        return value
    return msgspec.json.encode(value).decode()

"""The period of a report, and its ramp steps with the coverage of each.

A ramp by dates is in the plan. One that holds itself moved when its report allowed: its moves are events `ramp_moved`
in the log, from which the coverage of every moment follows, also after it was stopped and resumed.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from engine.analysis.design.log_times import DAY, SECOND, iso_time
from engine.analysis.report.model import RampPeriod
from engine.analysis.sources.log import read_log_table
from engine.analysis.values.json_fields import json_text
from engine.vocabulary import RAMP_MOVED

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    import ibis.expr.types as ir

    from engine.analysis.design.question import ExperimentQuestion
    from engine.analysis.sources.engines import DuckDB


class ReportPeriod(NamedTuple):
    """The first and the last exposure and the end of the traffic, in microseconds; 0 without exposures."""

    first: int
    last: int
    end: int

    @property
    def days(self) -> float:
        """Days of traffic."""
        return (self.end - self.first) / DAY


def find_period(source: DuckDB, units: ir.Table, as_of: int) -> ReportPeriod:
    """The period from the first exposure to the report, or to the last exposure if that is over a day earlier."""
    first, last = source.rows(units.aggregate(first=units["first"].min(), last=units["first"].max()))[0]
    if first is None or last is None:
        return ReportPeriod(0, 0, 0)
    return ReportPeriod(int(first), int(last), as_of if as_of - int(last) < DAY else int(last))


def with_ramp_history(
    source: DuckDB, log_dir: Path, question: ExperimentQuestion, as_of: datetime | None
) -> ExperimentQuestion:
    """The question with a held ramp's coverage after each of its moves, and the reason why it stopped."""
    if not question.held_steps:
        return question
    events = read_log_table(source, log_dir, "events")
    properties = events["properties"]
    moved = events.filter((events["event"] == RAMP_MOVED) & (json_text(properties, "experiment") == question.key))
    if as_of is not None:
        moved = moved.filter(moved["time"] <= int(as_of.timestamp() * SECOND))
    coverage = json_text(moved["properties"], "coverage").try_cast("float64")
    status = json_text(moved["properties"], "status")
    ramp, stop = [(0.0, question.held_steps[0])], ""
    chosen = moved.select(at="time", share=coverage, status=status, reason=json_text(properties, "reason"))
    for at, share, state, reason in source.rows(chosen.order_by("at")):
        if at is not None and share is not None:
            stop = f"everyone is back at control since {iso_time(float(at) / SECOND)}: {reason}"
            stop = stop if state == "stopped" else ""
            # Stopped, it is paused: everyone has control and nobody is let in.
            reached = 0.0 if state == "stopped" else _step_up_to(question.held_steps, float(share))
            if reached != ramp[-1][1]:  # it begins, and it is over, where it stands
                ramp.append((float(at) / SECOND, reached))
    scale = question.coverage / question.held_steps[-1]  # its part of the layer, and what its filters let in
    return msgspec.structs.replace(
        question,
        ramp=tuple((at, share * scale) for at, share in ramp),
        description=msgspec.structs.replace(question.description, ramp_stop=stop),
    )


def _step_up_to(steps: tuple[float, ...], coverage: float) -> float:
    """The last ramp step of the plan up to a coverage; at least the first."""
    return max((step for step in steps if step <= coverage), default=steps[0])


def share_let_in(source: DuckDB, decisions: ir.Table, question: ExperimentQuestion) -> float:
    """The admitted share of the report's eligible units: the coverage, or an estimate over ramp steps.

    A unit that comes again is let in by the largest step that it met, so its chance was the coverage at its last visit,
    c. Its inverse estimates the number of eligible units without bias (Horvitz and Thompson, 1952): the share is the
    number of units by the sum of 1/c. A step of 0, where the ramp was stopped, counts as the one before.
    """
    if len(question.ramp) < 2:
        return question.coverage
    steps: list[tuple[float, float]] = []
    for at, share in question.ramp:
        steps.append((at, share if share > 0 or not steps else steps[-1][1]))
    last = decisions.group_by("unit").aggregate(last=decisions["time"].max())["last"]
    counts = {f"n{place}": (last >= int(at * SECOND)).sum() for place, (at, _) in enumerate(steps)}
    since = [int(count or 0) for count in source.rows(last.as_table().aggregate(**counts))[0]]
    eligible = 0.0
    for (_, share), count, later in zip(steps, since, [*since[1:], 0], strict=True):
        eligible += (count - later) / share if share > 0 else 0.0
    return since[0] / eligible if eligible else question.ramp[-1][1]


def describe_ramp(
    source: DuckDB, units: ir.Table, question: ExperimentQuestion, period: ReportPeriod
) -> list[RampPeriod]:
    """The ramp steps in the report's period, each with its new units; empty without a ramp."""
    begin, end = period.first / SECOND, period.end / SECOND
    edges = [*question.ramp, (float("inf"), 0.0)]
    steps = [(max(at, begin), min(until, end), share) for (at, share), (until, _) in pairwise(edges)]
    steps = [step for step in steps if step[0] < step[1]]
    if len(question.ramp) < 2 or not steps:
        return []
    kept = units.filter(~units["crossed"])["first"]
    counts = {f"n{at}": (kept >= int(low * SECOND)).sum() for at, (low, _, _) in enumerate(steps)}
    since = [int(count or 0) for count in source.rows(kept.as_table().aggregate(**counts))[0]]
    return [
        RampPeriod(coverage=share, begin=iso_time(low), end=iso_time(high), units=count - after)
        for (low, high, share), count, after in zip(steps, since, [*since[1:], 0], strict=True)
    ]

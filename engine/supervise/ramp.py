"""Decides when a held ramp advances, waits, or returns everyone to control.

    state       look at the report                                            next
    running     a verdict to stop, a harmed guardrail, a loss past its budget  stopped: paused by the kill switch
    running     an unexpected split (SRM), or fewer than `LEAST_UNITS` a variant  running, same step
    running     the step began less than `every` ago                          running, same step
    running     otherwise, and there is a next step                           running, next step
    running     otherwise                                                     done: the last step stays
    done        as running, for the first line only                           stopped
    stopped     resumed by a person                                           running, first step, by data from then on
    any         paused by a person                                            the same; the step begins at the resume

The loss that a budget bounds is n · (-L): n units had another variant than control, and L is the lower limit of the
effect per unit, in money, with one-sided 95 % confidence. That suffices at every look: the true loss grows with n, so
it exceeds the budget only if the ramp is not stopped at the one n where it equals the budget; there the limit is below
the true effect in at least 95 % of runs, and then the bound is past the budget. As people come between two looks, n
includes those who will have come until the next one, as many as since the last.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import msgspec
from msgspec.structs import replace

from engine.analysis.report.model import MetricReport, Report
from engine.analysis.stats.estimate import Effect
from engine.catalog.spec.fields import seconds
from engine.catalog.spec.ramp import HeldRamp

LEAST_UNITS = 100
"""Units of each variant before a ramp advances."""
LOSS_LEVEL = 0.1
"""The level of the two-sided interval whose lower limit is the one-sided 95 % limit of the loss."""

RampStatus = Literal["running", "stopped", "done"]


class RampState(msgspec.Struct, frozen=True, kw_only=True):
    """The position of a ramp: its coverage since a time (s since 1970), and the reason of the last move.

    `judged_from` is when it was resumed after a stop: what came before does not count again.
    """

    coverage: float
    since: float
    status: RampStatus = "running"
    reason: str = ""
    judged_from: float = 0.0


@dataclass(frozen=True, kw_only=True)
class RampLook:
    """The results of one look at an experiment: its report, and the report whose primary effect bounds the loss.

    `worth` is one of the primary metric in money, None without a budget. The loss report is at `LOSS_LEVEL`. `before`
    are the units of each variant at the look before.
    """

    report: Report
    loss_report: Report | None = None
    worth: float | None = None
    before: Mapping[str, int] = field(default_factory=dict)


def next_state(ramp: HeldRamp, state: RampState, look: RampLook, now: float) -> RampState:
    """The state after a look at `now` (s since 1970); the same object where nothing changes."""
    if state.status == "stopped":
        return state
    if reason := find_harm(ramp, look):
        return replace(state, since=now, status="stopped", reason=reason)
    if state.status == "done" or not is_sound(look.report) or now - state.since < seconds(ramp.every):
        return state
    later = [step for step in ramp.steps if step > state.coverage]
    if not later:
        return replace(state, since=now, status="done", reason="the last step held")
    kept = f"the guardrails held for {ramp.every} at {state.coverage:.3g}"
    return replace(state, coverage=later[0], since=now, reason=kept)


def find_harm(ramp: HeldRamp, look: RampLook) -> str:
    """The reason why everyone must return to control; empty if there is none."""
    report = look.report
    for metric in report.metrics:
        if metric.guard == "harmed":
            return f"the guardrail {metric.metric} is harmed in {metric.variant}"
    if report.recommendation.verdict == "stop":
        return report.recommendation.why
    if ramp.loss_budget is None or look.loss_report is None or look.worth is None:
        return ""
    loss = largest_loss(look.loss_report, look.worth, look.before)
    if loss <= ramp.loss_budget:
        return ""
    currency = f" {report.currency}" if report.currency else ""
    return f"the loss until now may be {loss:,.0f}{currency}, and the budget is {ramp.loss_budget:,.0f}{currency}"


def largest_loss(report: Report, worth: float, before: Mapping[str, int]) -> float:
    """The loss in money that the variants may have caused by the next look, at the confidence of the intervals."""
    loss = 0.0
    for metric in report.metrics:
        if metric.role == "primary":
            units = report.units[metric.variant]
            coming = max(0, units - before.get(metric.variant, units))
            loss += max(0.0, loss_per_unit(metric)) * (units + coming)
    return loss * abs(worth)


def loss_per_unit(metric: MetricReport) -> float:
    """The largest loss per unit in the metric's own unit, positive where something may be lost.

    Where the effect is not estimable yet, a unit is assumed to have lost what one of control brings on average; nothing
    while control has no average.
    """
    if isinstance(metric.absolute, Effect):
        return -metric.absolute.low if metric.direction == "increase" else metric.absolute.high
    return max((abs(mean) for name, mean in metric.mean.items() if name != metric.variant), default=0.0)


def is_sound(report: Report) -> bool:
    """Whether the report has enough units, split as planned, for a ramp to rely on it."""
    enough = len(report.units) > 1 and min(report.units.values()) >= LEAST_UNITS
    return enough and report.recommendation.verdict != "fix the data"

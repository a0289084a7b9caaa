"""`power KEY --days`: the days until a draft has a verdict, from the log."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from engine.cli.app import print_json, print_line
from engine.errors import BadInput
from engine.settings import Settings

if TYPE_CHECKING:
    from engine.analysis.design.methods import Method
    from engine.analysis.design.question import ExperimentQuestion, MeasuredMetric
    from engine.analysis.stats.power import Baseline

METHODS: "tuple[Method, ...]" = ("sequential", "fixed", "group_sequential", "bayesian")
WINDOWS = (1.0, 7.0, 14.0, 28.0)
DAY = 86_400.0


class DaysRow(msgspec.Struct, frozen=True, kw_only=True):
    """The days for one way to run it. `vary` is its difference from the first row: method, audience, layer, window."""

    vary: str
    value: str
    method: str
    units_per_day: float
    days: float | None
    days_80: float | None
    units: int | None


class DaysReport(msgspec.Struct, frozen=True, kw_only=True):
    """The days until a verdict of experiment `key` on a metric, with the relative effect `mde`.

    `baseline` and `deviation` are of the customers that the draft would have let in during the log's `log_days`.
    `coverage` is that at the end of its ramp, where it has one: every row counts with it from the first day on.
    """

    key: str
    metric: str
    mde: float
    baseline: float
    deviation: float | None
    log_days: float
    coverage: float | None = None
    rows: list[DaysRow]


def print_days(
    settings: Settings,
    log: Path,
    key: str | None,
    given: Mapping[str, object],
    *,
    metric: str | None,
    mde: float | None,
    json: bool,
) -> int:
    """Print the days of each way to run the experiment; `given` are options that do not apply to it.

    Raises:
        BadInput: if an option does not apply, and as `report_days`.
    """
    if key is None or any(value is not None for value in given.values()):
        raise BadInput(f"power --days: name an experiment, and leave out {', '.join(given)}")
    report = report_days(settings, log, key, metric=metric, mde=mde)
    if json:
        print_json(report)
        return 0
    print_line(
        f"{report.key}: days until a verdict on {report.metric} with an effect of {report.mde:+.1%}; it is "
        f"{report.baseline:.4g} in {report.log_days:.0f} days of the log"
    )
    if report.coverage is not None:
        print_line(f"It has a ramp; every row counts with the coverage at its end, {report.coverage:.4g}, from day one")
    for row in report.rows:
        days, late = ("more than 730" if one is None else f"{one:.0f}" for one in (row.days, row.days_80))
        what = f"{row.vary}: {row.value}"
        print_line(f"  {what:28} {row.units_per_day:8.1f} units a day  {days:>5} days, 80 % of runs by day {late}")
    return 0


def report_days(settings: Settings, log: Path, key: str, *, metric: str | None, mde: float | None) -> DaysReport:
    """The report; arguments as of `power`.

    Raises:
        BadInput: if there is no such experiment or metric, no log, or no effect to look for.
    """
    from engine.analysis.design.question_from_plan import build_question
    from engine.analysis.planning.first_values import find_log_end
    from engine.catalog.check.load import load_specs
    from engine.catalog.plan.audience_names import experiment_names
    from engine.catalog.spec.ramp import final_coverage
    from engine.journal.log.logged_requests import logged_requests
    from engine.journal.untraced_names import find_untraced
    from engine.rehearse.arrivals import draft_plans, first_arrivals

    specs = load_specs(settings.experiments, settings.plans)
    plans = draft_plans(specs, key)
    question, metrics = build_question(plans["as drafted"], key)
    spec = next((one for one in metrics if one.name == (metric or question.primary)), None)
    if spec is None:
        raise BadInput(f"power: {metric!r} is not a metric; the metrics are {', '.join(one.name for one in metrics)}")
    effect = mde if mde is not None else specs.metric(spec.name).mde
    if not effect:
        raise BadInput("power --days: name the relative effect to find, as in --mde 0.05, or mde in metrics.yaml")
    traces = list(logged_requests(log))
    untraced = find_untraced(experiment_names(specs, key), traces)
    if untraced:
        raise BadInput(
            f"power --days: the log's traces do not have {', '.join(untraced)}, which {key} reads, so its customers "
            "cannot be counted; they have it some days after a segment of the running plan reads it"
        )
    begin, end = traces[0].now, max(find_log_end(log), traces[-1].now, traces[0].now + 1.0)
    arrived = {name: first_arrivals(plan, key, traces) for name, plan in plans.items()}
    found = _Days(question=question, spec=spec, effect=effect, log=log, span=(begin, end), arrived=arrived).report()
    drafted = specs.experiments[key]
    return replace(found, coverage=final_coverage(drafted.ramp, drafted.coverage)) if drafted.ramp else found


@dataclass(frozen=True, kw_only=True)
class _Days:
    """The input of the rows of one report; `arrived` has each customer's arrival by the way to run it."""

    question: "ExperimentQuestion"
    spec: "MeasuredMetric"
    effect: float
    log: Path
    span: tuple[float, float]
    arrived: dict[str, dict[str, float]]

    def report(self) -> DaysReport:
        """Every row; the first is the draft as it is written."""
        drafted = self.question.inference
        first = self._row("drafted", "as drafted", drafted.method)
        methods = (self._row("method", name, name) for name in METHODS if name != drafted.method)
        names = {"all customers": "audience", "whole layer": "layer share"}
        ways = (self._row(names[one], one, drafted.method, way=one) for one in self.arrived if one in names)
        own = None if self.spec.window is None else self.spec.window / DAY
        windows = (
            self._row("window", f"{days:g}d", drafted.method, window=days)
            for days in WINDOWS
            if own is not None and days != own and days * DAY < self.span[1] - self.span[0]
        )
        baseline = self._baseline(self.spec, "as drafted")
        return DaysReport(
            key=self.question.key,
            metric=self.spec.name,
            mde=self.effect,
            baseline=baseline.value,
            deviation=baseline.sd,
            log_days=(self.span[1] - self.span[0]) / DAY,
            rows=list(chain([first], methods, ways, windows)),
        )

    def _baseline(self, spec: "MeasuredMetric", way: str) -> "Baseline":
        from engine.analysis.planning.first_values import baseline_after

        if not self.arrived[way]:
            raise BadInput(f"power --days: no visit of the log would have come into {self.question.key}")
        return baseline_after(self.log, spec, self.arrived[way], self.span[1])

    def _row(
        self, vary: str, value: str, method: "Method", *, way: str = "as drafted", window: float | None = None
    ) -> DaysRow:
        from engine.analysis.planning.first_values import arrivals_by_day
        from engine.analysis.planning.verdict_days import Arrivals, estimate_verdict_days

        question = self.question
        spec = self.spec if window is None else replace(self.spec, window=window * DAY)
        control = question.weights[question.control]
        other = next(share for name, share in question.weights.items() if name != question.control)
        arrivals = arrivals_by_day(self.arrived[way], *self.span)
        both = Arrivals(arrivals.daily * (control + other) / sum(question.weights.values()))
        found = estimate_verdict_days(
            both,
            self._baseline(spec, way),
            replace(question.inference, method=method),
            effect=self.effect,
            window_days=spec.span / DAY if spec.needs_closed_window else 0.0,
            min_days=question.min_days,
            share=control / (control + other),
        )
        days, late, units = found.days, found.days_80, found.units
        mean = float(arrivals.daily.mean())
        return DaysRow(vary=vary, value=value, method=method, units_per_day=mean, days=days, days_80=late, units=units)

"""The power planner: how many customers an experiment needs, as a sentence and a picture."""

import math
from typing import NamedTuple

from engine.analysis.design.methods import Inference, decode_inference
from engine.analysis.report.model import Report
from engine.analysis.stats.estimate import Effect
from engine.analysis.stats.power import Baseline, Design, least_detectable_effect, parse_baseline, sample_size
from engine.dashboard.board.results import Job
from engine.dashboard.charts.lines import Line, LineChart, LinePoint, number_chart
from engine.dashboard.figures import DAY, format_share, format_span
from engine.dashboard.tables import DataTable, columns_of, count_cell, share_cell
from engine.dashboard.web import Page, PageVisit
from engine.errors import BadInput
from engine.metric_kinds import METRIC_KINDS

METHODS = ("sequential", "fixed", "bayesian")
EFFECTS = (0.01, 0.02, 0.03, 0.05, 0.1, 0.2)
CURVE = (0.25, 0.5, 1.0, 1.6, 2.4)
"""Multiples of the planned customers at which the picture has the least effect."""


class KnownBaseline(NamedTuple):
    """A metric's control in a report, and the daily units of that experiment."""

    name: str
    baseline: str
    daily: float


class PlannerQuestion(NamedTuple):
    """The planner's fields as numbers; shares, not percentages."""

    baseline: Baseline
    inference: Inference
    mde: float
    power: float
    share: float


async def power(visit: PageVisit) -> Page:
    """The planner; every field is a parameter of the address, so that a plan can be shared."""
    known = known_baselines(visit)
    first = known[0] if known else KnownBaseline("", "proportion:0.05", 1000.0)
    defaults = {"baseline": first.baseline, "daily": f"{first.daily:.0f}", "mde": "5", "power": "80", "alpha": "5"}
    defaults |= {"share": "50", "method": METHODS[0]}
    asked = {name: visit.query.get(name, "").strip() or value for name, value in defaults.items()}
    design, chart, rows, problem, daily = None, None, [], "", 0.0
    try:
        daily = _number("customers a day", asked["daily"], 1e-3, 1e12)
        question = _read(asked)
        design = sample_size(
            question.baseline, question.mde, question.inference, power=question.power, share=question.share
        )
        rows, chart = _effects(question), _chart(question, design.units)
    except BadInput as error:
        problem = str(error)
    return Page(
        template="power.html",
        title="Power planner",
        context={
            "asked": asked,
            "known": known,
            "methods": METHODS,
            "problem": problem,
            "sentence": _sentence(design, daily) if design else "",
            "formula": design.formula if design else "",
            "chart": chart,
        },
        tables=(_effects_table(rows),),
    )


def known_baselines(visit: PageVisit) -> list[KnownBaseline]:
    """The controls of all metrics of the reports so far, one of each metric."""
    found: dict[str, KnownBaseline] = {}
    for key in visit.desk.plan.experiments:
        result = visit.desk.results.peek(Job("experiment", key, "channel"))
        if result is None or not isinstance(result.value, Report) or not result.value.units:
            continue
        report = result.value
        daily = sum(report.units.values()) / max(report.days or 1.0, 1.0)
        for metric in report.metrics:
            mean, effect = metric.mean.get(report.control), metric.absolute
            counts = (report.units[report.control], report.units[metric.variant])
            if mean is None or not isinstance(effect, Effect) or min(counts) < 2 or metric.metric in found:
                continue
            if METRIC_KINDS[metric.kind].is_share and 0 < mean < 1:
                found[metric.metric] = KnownBaseline(metric.metric, f"proportion:{mean:.4g}", daily)
            elif mean > 0 and effect.se > 0:
                sd = effect.se / math.sqrt(1 / counts[0] + 1 / counts[1])  # of one unit, from the difference's
                found[metric.metric] = KnownBaseline(metric.metric, f"mean:{mean:.4g},{sd:.4g}", daily)
    return list(found.values())


def _read(asked: dict[str, str]) -> PlannerQuestion:
    """The fields as numbers.

    Raises:
        BadInput: if one is no number, or no design can use it.
    """
    alpha = _number("false alarms", asked["alpha"], 0.01, 50) / 100
    return PlannerQuestion(
        baseline=parse_baseline(asked["baseline"]),
        inference=decode_inference({"method": asked["method"], "alpha": alpha}),
        mde=_number("effect", asked["mde"], 0.01, 1000) / 100,
        power=_number("power", asked["power"], 1, 99.9) / 100,
        share=_number("control's share", asked["share"], 1, 99) / 100,
    )


def _number(name: str, text: str, low: float, high: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        raise BadInput(f"{name} {text!r}: is not a number from {low:g} to {high:g}; correct it above")
    return value


def _sentence(design: Design, daily: float) -> str:
    days = design.units / daily
    span = format_span(days * DAY) if days < 3650 else "over ten years"
    return (
        f"{design.units:,} customers, over control and one variant, find a change of {format_share(design.mde)} "
        f"relative to control with a chance of {format_share(design.power)}. That is {span} at {daily:,.0f} customers "
        "a day."
    )


def _effects(question: PlannerQuestion) -> list[tuple[float, int]]:
    """The number of units for each of several effects, without those that no number detects."""
    rows = []
    for effect in sorted({*EFFECTS, question.mde}):
        try:
            found = sample_size(
                question.baseline, effect, question.inference, power=question.power, share=question.share
            )
        except BadInput:
            continue
        rows.append((effect, found.units))
    return rows


def _chart(question: PlannerQuestion, units: int) -> LineChart | None:
    """The least detectable effect by the number of customers around the planned one."""
    points = []
    for step in CURVE:
        count = max(10, round(units * step))
        try:
            found = least_detectable_effect(
                question.baseline, count, question.inference, power=question.power, share=question.share
            )
        except BadInput:
            continue
        points.append(LinePoint(float(count), found.mde))
    label = "The least effect that is found, by the number of customers"
    return number_chart(label, [Line("least effect", points)], tick=format_share, axis="customers")


def _effects_table(rows: list[tuple[float, int]]) -> DataTable:
    titles = {"effect": "Effect", "customers": "Customers"}
    cells = [[share_cell(effect), count_cell(units)] for effect, units in rows]
    columns = columns_of(titles, figures=titles)
    return DataTable(name="effects", title="Customers for each effect", columns=columns, rows=cells)

"""One experiment: verdict, effects, data quality, and its file with history."""

import asyncio
import time
from collections.abc import Collection, Sequence
from datetime import datetime

from engine.analysis.checks.lights import Tone
from engine.analysis.render.terminal import describe_design, notes
from engine.analysis.report.model import MetricReport, Report, SegmentReport
from engine.analysis.stats.estimate import Bayes, Effect, NotEstimable, format_chance, format_level
from engine.dashboard.board.compute import HistoryPoint
from engine.dashboard.board.refresh import read_history
from engine.dashboard.board.reported import file_key, reported_specs
from engine.dashboard.board.results import Job
from engine.dashboard.charts.intervals import IntervalChart, IntervalRow, TickFormat, interval_chart
from engine.dashboard.charts.lines import Line, LineChart, LinePoint, line_chart
from engine.dashboard.figures import format_change, format_figure, format_moment, format_share, format_span_of
from engine.dashboard.tables import (
    DataTable,
    TableCell,
    columns_of,
    count_cell,
    moment_cell,
    share_cell,
    text_cell,
)
from engine.dashboard.views.experiment_file import changes_table, list_splits, read_file_changes
from engine.dashboard.views.summary import LOOKS, STATE_TONES, stale_flags, summarize
from engine.dashboard.web import Page, PageVisit, Redirect, link_to
from engine.metric_kinds import METRIC_KINDS
from engine.service.endpoints.admin import switch_experiment
from engine.service.problems import Refusal


async def experiment(visit: PageVisit) -> Page:
    """The page of one experiment."""
    key, desk = visit.path["key"], visit.desk
    specs = desk.worker.watch.specs
    known = reported_specs(specs)
    if key not in known:
        raise Refusal(404, f"{key!r} is not an experiment of the running plan; see the list of experiments")
    trait, traits = visit.query.get("by", "") or "channel", list_splits(visit)
    if trait not in traits:
        raise Refusal(404, f"by={trait}: is not a trait to split by; the traits are {', '.join(traits)}")
    desk.results.read(Job("experiment", key, "channel"))
    one = summarize(desk, known[key], stale_flags(desk))
    split = desk.results.read(Job("experiment", key, trait)) if trait != "channel" else None
    by_trait = split.value if split is not None and isinstance(split.value, Report) else None
    report = one.report
    segments = (by_trait or report) if trait != "channel" else report
    history = read_history(desk.results, report, time.time()) if report else []
    changes = await asyncio.to_thread(read_file_changes, visit, key)
    amounts = [name for name, spec in visit.desk.plan.metrics.items() if METRIC_KINDS[spec.kind].is_money]
    parts = report_parts(report, segments, history, amounts) if report and one.units else {}
    return Page(
        template="experiment.html",
        title=one.title,
        context={
            "one": one,
            "state_tone": STATE_TONES.get(one.state, ""),
            "report": report,
            "design": describe_design(report) if report else [],
            "notes": notes(report) if report else [],
            "trait": trait,
            "traits": traits,
            "looks": LOOKS[report.method][1] if report else "",
            "waits": trait != "channel" and by_trait is None,
            "split_reason": split.reason if split else "",
            "changes": changes,
            "yaml": changes[0].after if changes else "",
            "file": specs.files.get(file_key(key), ""),
            "switch_key": file_key(key),
            "flag": link_to("experiments", file_key(key)) if file_key(key) != key else "",
            "rules": [(rule, link_to("experiments", rule)) for rule in known if rule != key and file_key(rule) == key],
            "moment": format_moment,
            **{name: parts.get(name) for name in ("forest", "bayes", "effect", "units", "by", "heterogeneity")},
        },
        tables=(*report_tables(report, segments, history), changes_table(changes)),
    )


async def switch(visit: PageVisit) -> Redirect:
    """Pause or resume an experiment, with the reason for the audit log."""
    key, reason = visit.form.get("key", ""), visit.form.get("reason", "").strip()[:1000]
    paused = visit.form.get("do") == "pause"
    await switch_experiment(visit.desk.worker, file_key(key), paused=paused, by=visit.session.name, reason=reason)
    return Redirect(to=link_to("experiments", key))


def report_parts(
    report: Report, segments: Report | None, history: Sequence[HistoryPoint], amounts: Collection[str] = ()
) -> dict[str, object]:
    """The charts of a report; `amounts` names the metrics that are money."""
    return {
        "forest": forest(report, amounts),
        "bayes": _bayes_chart(report),
        "effect": _effect_chart(report, history),
        "units": _units_chart(report, history),
        "by": [(part, _segment_chart(part, segments, amounts)) for part in segments.segments if segments]
        if segments
        else [],
    }


def forest(report: Report, amounts: Collection[str] = ()) -> IntervalChart:
    """The relative effects of all metrics and variants."""
    rows = []
    for metric in report.metrics:
        effect = metric.relative
        means = f"{_mean(metric, report.control)} → {_mean(metric, metric.variant)}{_unit(metric, report, amounts)}"
        detail = metric.variant if len(report.units) > 2 else ""
        if isinstance(effect, NotEstimable):
            rows.append(
                IntervalRow(
                    name=metric.metric, detail=detail, reason=effect.not_estimable, badge=metric.role, side=means
                )
            )
            continue
        rows.append(
            IntervalRow(
                name=metric.metric,
                detail=detail,
                estimate=effect.estimate,
                low=effect.low,
                high=effect.high,
                label=format_change(effect.estimate),
                span=format_span_of(effect.low, effect.high),
                side=means,
                tone=_tone(effect, metric.direction),
                badge=metric.role,
                margin=_margin(metric),
            )
        )
    heads = (
        "Metric",
        "Effect, relative to control",
        f"Effect, {format_level(1 - report.alpha)} interval",
        "Control → variant",
    )
    return interval_chart("Effects on every metric", rows, heads=heads, tick=TickFormat())


def _margin(metric: MetricReport) -> float | None:
    """The effect past which a guardrail is harmed, on its bad side."""
    if metric.role != "guardrail" or not metric.margin:
        return None
    return -metric.margin if metric.direction == "increase" else metric.margin


def _tone(effect: Effect, direction: str) -> Tone:
    side = (effect.low > 0) - (effect.high < 0)
    if side == 0:
        return ""
    return "good" if (side > 0) == (direction == "increase") else "bad"


def _mean(metric: MetricReport, variant: str) -> str:
    mean = metric.mean.get(variant)
    return METRIC_KINDS[metric.kind].format.format(mean) if mean is not None else "?"


def _unit(metric: MetricReport, report: Report, amounts: Collection[str]) -> str:
    """The unit of a metric's absolute figures, such as the currency; empty without one."""
    return f" {report.currency}" if metric.metric in amounts and report.currency else ""


def _bayes_chart(report: Report) -> IntervalChart | None:
    """The posteriors of the relative effects."""
    rows = [
        IntervalRow(
            name=metric.metric,
            detail=metric.variant if len(report.units) > 2 else "",
            estimate=(metric.bayes.low + metric.bayes.high) / 2,
            low=metric.bayes.low,
            high=metric.bayes.high,
            label=format_chance(metric.bayes.chance_to_win),
            span=format_span_of(metric.bayes.low, metric.bayes.high),
            side=format_share(metric.bayes.expected_loss),
            badge=metric.role,
        )
        for metric in report.metrics
        if isinstance(metric.bayes, Bayes)
    ]
    heads = ("Metric", "Credible interval of the effect", "Chance to win", "Expected loss")
    return interval_chart("Posterior of every effect", rows, heads=heads, tick=TickFormat()) if rows else None


def _effect_chart(report: Report, history: Sequence[HistoryPoint]) -> LineChart | None:
    """The primary metric's effect, as each day's report shows it, with its band."""
    primary = next((row.metric for row in report.metrics if row.role == "primary"), "")
    lines = []
    for variant in report.units:
        points = [_effect_point(point.at, point.report, variant) for point in history]
        now = _effect_point(_time_of(report), report, variant)
        known = [point for point in (*points, now) if point is not None]
        if known:
            lines.append(Line(variant, known))
    label = f"Effect on {primary} over time, with the interval {LOOKS[report.method][0]}"
    return line_chart(label, lines, tick=format_change)


def _effect_point(at: float, report: Report, variant: str) -> LinePoint | None:
    row = next((row for row in report.metrics if row.role == "primary" and row.variant == variant), None)
    if row is None or not isinstance(row.relative, Effect):
        return None
    return LinePoint(at, row.relative.estimate, row.relative.low, row.relative.high)


def _units_chart(report: Report, history: Sequence[HistoryPoint]) -> LineChart | None:
    """The cumulative units of each variant."""
    points = [(point.at, point.report.units) for point in history] + [(_time_of(report), report.units)]
    lines = [
        Line(variant, [LinePoint(at, float(units.get(variant, 0))) for at, units in points]) for variant in report.units
    ]
    return line_chart("Units that saw the experiment, in all, by variant", lines, tick=format_figure)


def _time_of(report: Report) -> float:
    return datetime.fromisoformat(report.as_of).timestamp()


def _segment_chart(part: SegmentReport, report: Report, amounts: Collection[str]) -> IntervalChart:
    kinds = {row.metric: row for row in report.metrics}
    metric = kinds[part.metric]
    is_share, unit = METRIC_KINDS[metric.kind].is_share, _unit(metric, report, amounts)

    def form(value: float) -> str:
        return f"{100 * value:+z.2f} points" if is_share else f"{value:+z.3g}{unit}"

    rows = []
    for effect in part.effects:
        found, side = effect.shrunken, f"{sum(effect.units.values()):,} units"
        if isinstance(found, NotEstimable):
            rows.append(IntervalRow(name=effect.segment, reason=found.not_estimable, side=side))
            continue
        rows.append(
            IntervalRow(
                name=effect.segment,
                estimate=found.estimate,
                low=found.low,
                high=found.high,
                label=form(found.estimate),
                span=f"{form(found.low)} to {form(found.high)}",
                side=side,
                tone=_tone(found, metric.direction),
            )
        )
    heads = (part.trait.capitalize(), "Effect, absolute", "Effect, interval", "Units")
    title = f"{part.metric}, {part.variant}, by {part.trait}"
    return interval_chart(title, rows, heads=heads, tick=TickFormat("share" if is_share else "number"))


def report_tables(
    report: Report | None, segments: Report | None, history: Sequence[HistoryPoint]
) -> tuple[DataTable, ...]:
    """The tables behind the charts."""
    return (
        _metrics_table(report),
        _bayes_table(report),
        _history_table(report, history),
        _segments_table(segments),
    )


def _metrics_table(report: Report | None) -> DataTable:
    titles = {
        "metric": "Metric",
        "role": "Role",
        "variant": "Variant",
        "control_mean": "Control",
        "variant_mean": "Variant's",
        "effect": "Effect",
        "low": "From",
        "high": "To",
        "p": "p",
        "adjusted_p": "p, adjusted",
        "chance_to_win": "Chance to win",
        "note": "Note",
    }
    rows = [_metric_row(metric, report.control) for metric in report.metrics] if report else []
    return DataTable(
        name="metrics",
        title="Effects, relative to control",
        columns=columns_of(titles, figures=list(titles)[3:11]),
        rows=rows,
    )


def _metric_row(metric: MetricReport, control: str) -> list[TableCell]:
    effect = metric.relative
    head = [text_cell(metric.metric), text_cell(metric.role), text_cell(metric.variant)]
    head += [TableCell(metric.mean.get(name), _mean(metric, name)) for name in (control, metric.variant)]
    if isinstance(effect, NotEstimable):
        return [*head, *(TableCell(None) for _ in range(6)), text_cell(effect.not_estimable)]
    chance = metric.bayes.chance_to_win if isinstance(metric.bayes, Bayes) else None
    p = metric.absolute.p if isinstance(metric.absolute, Effect) else None
    return [
        *head,
        *(TableCell(value, format_change(value)) for value in (effect.estimate, effect.low, effect.high)),
        count_cell(p),
        count_cell(metric.adjusted_p),
        TableCell(chance, format_chance(chance) if chance is not None else ""),
        text_cell({"harmed": "harmed", "passed": "no worse than its margin"}.get(metric.guard or "", "")),
    ]


def _bayes_table(report: Report | None) -> DataTable:
    titles = {
        "metric": "Metric",
        "variant": "Variant",
        "chance_to_win": "Chance to win",
        "chance_best": "Chance to be best",
        "expected_loss": "Expected loss",
        "forgone": "Forgone if kept",
        "low": "From",
        "high": "To",
    }
    rows = [
        [
            text_cell(metric.metric),
            text_cell(metric.variant),
            TableCell(metric.bayes.chance_to_win, format_chance(metric.bayes.chance_to_win)),
            share_cell(metric.chance_best),
            share_cell(metric.bayes.expected_loss),
            share_cell(metric.bayes.forgone),
            TableCell(metric.bayes.low, format_change(metric.bayes.low)),
            TableCell(metric.bayes.high, format_change(metric.bayes.high)),
        ]
        for metric in (report.metrics if report else [])
        if isinstance(metric.bayes, Bayes)
    ]
    columns = columns_of(titles, figures=list(titles)[2:])
    return DataTable(name="bayes", title="Bayesian view", columns=columns, rows=rows)


def _history_table(report: Report | None, history: Sequence[HistoryPoint]) -> DataTable:
    titles = {"time": "Until", "variant": "Variant", "units": "Units", "effect": "Effect", "low": "From", "high": "To"}
    titles |= {"split_p": "Split, p"}
    rows = []
    reports = [(point.at, point.report) for point in history] + ([(_time_of(report), report)] if report else [])
    for at, found in reports[::-1]:
        for variant, units in found.units.items():
            point = _effect_point(at, found, variant)
            ends = (point.value, point.low, point.high) if point else (None, None, None)
            cells = [TableCell(end, format_change(end) if end is not None else "") for end in ends]
            rows.append(
                [moment_cell(at), text_cell(variant), count_cell(units), *cells, count_cell(found.quality.srm.p)]
            )
    columns = columns_of(titles, figures=list(titles)[2:])
    return DataTable(name="history", title="Over time", columns=columns, rows=rows)


def _segments_table(report: Report | None) -> DataTable:
    titles = {
        "metric": "Metric",
        "variant": "Variant",
        "trait": "By",
        "segment": "Segment",
        "units": "Units",
        "measured": "As measured",
        "shrunken": "Shrunken",
        "low": "From",
        "high": "To",
        "adjusted_p": "p, adjusted",
    }
    rows = []
    for part in report.segments if report else []:
        for row in part.effects:
            shrunken = row.shrunken if isinstance(row.shrunken, Effect) else None
            measured = row.measured.estimate if isinstance(row.measured, Effect) else None
            ends = (shrunken.estimate, shrunken.low, shrunken.high) if shrunken else (None, None, None)
            names = (part.metric, part.variant, part.trait, row.segment)
            rows.append(
                [
                    *(text_cell(name) for name in names),
                    count_cell(sum(row.units.values())),
                    count_cell(measured),
                    *(count_cell(end) for end in ends),
                    count_cell(row.adjusted_p),
                ]
            )
    columns = columns_of(titles, figures=list(titles)[4:])
    note = "In the unit of the metric. Shrunken towards the mean of all segments, the more the noisier a segment is."
    return DataTable(name="segments", title="By segment", columns=columns, rows=rows, note=note)

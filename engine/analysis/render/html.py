"""A report as one HTML file with embedded charts and scripts, which can be mailed and opened offline."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Literal, Protocol

from engine.analysis.render.tabular import import_library
from engine.analysis.render.terminal import describe_design, describe_first_verdict, heading, money_text, notes
from engine.analysis.stats.estimate import Bayes, Effect, NotEstimable, format_chance, format_level, format_percents
from engine.errors import BadInput, MissingExtra
from engine.metric_kinds import METRIC_KINDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import ModuleType

    from altair import LayerChart

    from engine.analysis.design.metrics import Direction
    from engine.analysis.report.model import MetricReport, Report

    Row = dict[str, str | float]
    Unit = Literal["%", "points", "number", "level"]


GOOD, BAD, OPEN = "#1a7f4b", "#b3261e", "#5c6773"
_FORMATS = {"%": "+.1~%", "points": "+.2~%", "number": "+.3~r", "level": ".3~r"}  # 0.031 is 3.1 points, never '31m'
_LABELS = {"%": "{:+z.1%}", "points": "{:+z.2%}", "number": "{:+z.3g}", "level": "{:.3g}"}
_PAGE_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1.5rem; color: #1b1f24 }
"""
_STYLE = """
h1 { margin: 0; font-size: 1.3rem; font-weight: 600 } h2 { font-size: 1.1rem; margin: 2.2rem 0 .4rem }
.as-of, .note { color: #5c6773 } .as-of { margin: 0 }
.decision { border-left: .4rem solid; padding: .2rem 1rem; margin: 1.2rem 0 } .decision p { margin: .4rem 0 }
.verdict { font-size: 1.7rem; font-weight: 700 } .good { border-color: #1a7f4b } .bad { border-color: #b3261e }
.open { border-color: #c98a00 } .flag { color: #8a4b00; margin: .2rem 0 }
.change { white-space: pre-line }
table { border-collapse: collapse; margin: .6rem 0; width: 100%; font-size: .93rem }
td, th { padding: .35rem .7rem; text-align: left }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
tbody tr.first { border-top: 1px solid #d5dae0 } .role { color: #5c6773; font-size: .85rem }
"""
_SHRUNKEN = (
    "In the unit of the metric, shares in points. Each segment's effect is shrunken towards the mean of all segments, "
    "the more the noisier it is, so that the best of many is not merely the luckiest."
)
_TONES = {"ship": "good", "stop": "bad", "fix the data": "bad", "keep running": "open"}


def report_html(report: Report) -> str:
    """The whole report as a page; needs the extra `dashboard`.

    Raises:
        MissingExtra: if the extra is not installed.
    """

    def body(alt: ModuleType, place: Place) -> Iterable[str]:
        yield _head(report)
        yield "<h2>Effects, relative to control</h2>"
        yield place(effects_chart(alt, report))
        yield _table(report)
        yield from paragraphs(notes(report))
        yield _segments(alt, report, place)
        yield _novelty(alt, report, place)
        yield _data(report)

    return page(heading(report), body)


def notebook_html(report: Report) -> str:
    """The report as a fragment of HTML without charts and scripts, for notebooks."""
    parts = (_head(report), _table(report), *paragraphs(notes(report)), _data(report))
    return f'<div class="counterpoint-report"><style>.counterpoint-report {{{_STYLE}}}</style>{"".join(parts)}</div>'


def report_chart(report: Report) -> LayerChart:
    """The relative effects with their intervals as an Altair chart.

    Raises:
        BadInput: if altair is not installed, or no metric has a relative effect.
    """
    chart = effects_chart(import_library("altair", "plot()"), report)
    if chart is None:
        raise BadInput(f"{report.experiment}: no metric has a relative effect; there is nothing to plot")
    return chart


class Place(Protocol):
    """Appends a chart's specification to the page, and returns the element that shows it."""

    def __call__(self, chart: LayerChart | None) -> str:
        """The element's HTML; empty without a chart."""
        ...


def page(title: str, body: Callable[[ModuleType, Place], Iterable[str]]) -> str:
    """A whole page with the parts of `body`, which gets the Altair module and a `Place` for charts.

    Raises:
        MissingExtra: if the extra `dashboard` is not installed.
    """
    try:
        import altair as alt  # noqa: PLC0415 # an optional extra, and slow to import
        import vl_convert  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtra("an HTML report", "dashboard") from error
    specs: list[str] = []

    def place(chart: LayerChart | None) -> str:
        if chart is None:
            return ""
        specs.append(chart.to_json(indent=None))
        return f'<div id="chart{len(specs) - 1}"></div>'

    parts = "".join(body(alt, place))
    version = alt.SCHEMA_VERSION.removeprefix("v").rpartition(".")[0]
    bundle = vl_convert.javascript_bundle(None, version)  # type: ignore[arg-type] # its stub forgets the default
    calls = "".join(f"vegaEmbed('#chart{at}', {_script(spec)}, {{actions: false}});" for at, spec in enumerate(specs))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_PAGE_STYLE}{_STYLE}</style></head><body>{parts}"
        f"<script>{_script(bundle)}</script><script>{calls}</script></body></html>"
    )


def _script(code: str) -> str:
    return code.replace("</script", "<\\/script")


def paragraphs(lines: Iterable[str], kind: str = "") -> list[str]:
    """A paragraph for each line of text, with a class of the page's style."""
    return [f"<p{f' class={kind!r}' if kind else ''}>{html.escape(line)}</p>" for line in lines if line]


def _head(report: Report) -> str:
    advice = report.recommendation
    days = "" if report.days is None else f" {report.days:.0f} days of traffic."
    lines = [f"{advice.why}.", *describe_first_verdict(report), money_text(report)]
    change = f"<p class='change'><strong>What would change this:</strong> {html.escape(advice.would_change)}</p>"
    first = [report.cumulated] if report.cumulated else []
    return (
        f"{''.join(paragraphs(first))}<h1>{html.escape(heading(report))}</h1>"
        f'<p class="as-of">As of {report.as_of[:16].replace("T", " ")} UTC.{days}</p>'
        f"{''.join(paragraphs(describe_design(report), 'note'))}"
        f'<div class="decision {_TONES[advice.verdict]}"><p class="verdict">{advice.verdict.capitalize()}</p>'
        f"{''.join(paragraphs(lines))}{change if advice.would_change else ''}</div>"
        f"{''.join(paragraphs(report.quality.flags, 'flag'))}"
    )


def _data(report: Report) -> str:
    quality = report.quality
    units = ", ".join(f"{name} {count:,}" for name, count in report.units.items())
    split = "as asked" if quality.srm.ok else "not the one asked for"
    crossed = f"{quality.crossovers:,} units saw two variants"
    lines = [f"Units: {units}. The split is {split} (p = {quality.srm.p:.3g}); {crossed}."]
    if quality.exposure is not None:
        shares = ", ".join(f"{name} {share:.1%}" for name, share in quality.exposure.shares.items())
        lines.append(f"Exposed, of those assigned: {shares} (p = {quality.exposure.p:.3g} of equal shares).")
    return f"<h2>The data</h2>{''.join(paragraphs(lines))}"


def _table(report: Report) -> str:
    rows, before = [], ""
    for metric in report.metrics:
        new = metric.metric != before
        name = html.escape(metric.metric) if new else ""
        role = f' <span class="role">{metric.role}</span>' if new else ""
        cells = "".join(_cells(metric, report.control))
        rows.append(f"<tr{' class=first' if new else ''}><td>{name}{role}</td>{cells}</tr>")
        before = metric.metric
    names = (
        "control's",
        "variant's",
        "effect",
        f"{format_level(1 - report.alpha)} interval",
        "p, adjusted",
        "chance to win",
    )
    head = "<th>metric</th><th>variant</th>" + "".join(f'<th class="n">{name}</th>' for name in names)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _cells(metric: MetricReport, control: str) -> Iterable[str]:
    yield f"<td>{html.escape(metric.variant)}</td>"
    effect, percent = metric.relative, True
    if isinstance(effect, NotEstimable):
        effect, percent = metric.absolute, False
    if isinstance(effect, NotEstimable):
        yield f'<td colspan="6">{html.escape(effect.not_estimable)}</td>'
        return
    mean = METRIC_KINDS[metric.kind].format
    shown = (effect.estimate, effect.low, effect.high)
    estimate, low, high = format_percents(shown) if percent else [f"{value:+z.4g}" for value in shown]
    bayes = html.escape(format_chance(metric.bayes.chance_to_win)) if isinstance(metric.bayes, Bayes) else ""
    numbers = (
        mean.format(metric.mean[control]),
        mean.format(metric.mean[metric.variant]),
        estimate,
        f"{low} to {high}",
        "" if metric.adjusted_p is None else f"{metric.adjusted_p:.3g}",
        bayes,
    )
    yield "".join(f'<td class="n">{number}</td>' for number in numbers)


def effects_chart(alt: ModuleType, report: Report) -> LayerChart | None:
    """The relative effects with their intervals; None if no metric has one."""
    rows = [
        row_of(f"{metric.metric}, {metric.variant}", e, metric.direction)
        for metric in report.metrics
        if isinstance(e := metric.relative, Effect)
    ]
    return intervals(alt, rows, "", "%") if rows else None


def _segments(alt: ModuleType, report: Report, place: Place) -> str:
    if not report.segments:
        return ""
    kinds = {metric.metric: metric for metric in report.metrics}
    parts = [f"<h2>By {html.escape(report.segments[0].trait)}</h2>", f'<p class="note">{_SHRUNKEN}</p>']
    for part in report.segments:
        metric = kinds[part.metric]
        rows = [
            row_of(f"{row.segment} ({sum(row.units.values()):,})", e, metric.direction)
            for row in part.effects
            if isinstance(e := row.shrunken, Effect)
        ]
        unit: Unit = "points" if METRIC_KINDS[metric.kind].is_share else "number"
        if rows:
            p = "" if part.heterogeneity_p is None else f"; do segments differ? p = {part.heterogeneity_p:.2g}"
            parts.append(place(intervals(alt, rows, f"{part.metric}, {part.variant}{p}", unit)))
    return "".join(parts)


def _novelty(alt: ModuleType, report: Report, place: Place) -> str:
    primary = next((metric for metric in report.metrics if metric.role == "primary"), None)
    charts = []
    for variant in dict.fromkeys(row.variant for row in report.quality.novelty):
        rows = [
            row_of(f"day {row.from_day:g} to {row.to_day:g}", e, primary.direction if primary else "increase")
            for row in report.quality.novelty
            if row.variant == variant and isinstance(e := row.effect, Effect)
        ]
        if len(rows) > 1 and primary is not None:
            charts.append(place(intervals(alt, rows, f"{primary.metric}, {variant}, per day", "number")))
    return f"<h2>By days since the first exposure</h2>{''.join(charts)}" if charts else ""


def row_of(name: str, effect: Effect, direction: Direction) -> Row:
    """A row of `intervals`, green if the effect is significantly good, red if bad."""
    sign = 1 if direction == "increase" else -1
    side = sign * ((effect.low > 0) - (effect.high < 0))
    tone = GOOD if side > 0 else BAD if side < 0 else OPEN
    return {"name": name, "effect": effect.estimate, "low": effect.low, "high": effect.high, "tone": tone}


def intervals(alt: ModuleType, rows: list[Row], title: str, unit: Unit) -> LayerChart:
    """A line for each row with its interval and estimate, and a dashed line at zero."""
    labelled = [row | {"label": _LABELS[unit].format(row["effect"])} for row in rows]
    base = alt.Chart(alt.Data(values=labelled), width=620, height={"step": 30})
    if title:
        base = base.properties(title=alt.Title(title, anchor="start"))
    y = alt.Y("name:N", title=None, sort=None, axis=alt.Axis(labelLimit=220, minExtent=200, maxExtent=200, ticks=False))
    axis = alt.Axis(format=_FORMATS[unit], tickCount=6, grid=False)
    tone = alt.Color("tone:N", scale=None)
    bar = base.mark_rule(strokeWidth=3).encode(y=y, x=alt.X("low:Q", title=None, axis=axis), x2="high:Q", color=tone)
    point = base.mark_point(filled=True, size=90, opacity=1).encode(y=y, x="effect:Q", color=tone)
    label = base.mark_text(dy=-11, fontSize=11).encode(y=y, x="effect:Q", text="label:N", color=tone)
    zero = alt.Chart(alt.Data(values=[{"zero": 0}])).mark_rule(strokeDash=[4, 4]).encode(x="zero:Q")
    chart: LayerChart = (zero + bar + point + label).configure_view(stroke=None).configure_axis(labelFontSize=12)
    return chart

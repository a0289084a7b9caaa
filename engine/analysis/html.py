"""A report as one HTML file with its charts inside: it can be mailed, and asks no other machine for anything."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Protocol

from engine.analysis.estimate import Bayes, Effect, NotEstimable, chance
from engine.analysis.report import Money
from engine.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import ModuleType

    from engine.analysis.report import MetricReport, Report, SegmentReport


class Chart(Protocol):
    """What is used of an Altair chart."""

    def to_json(self, *, indent: int | None) -> str:
        """The Vega-Lite specification."""
        ...


_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1b1f24 }
table { border-collapse: collapse; margin: 1rem 0 } td, th { padding: .3rem .8rem; text-align: left }
tbody tr { border-top: 1px solid #d5dae0 } td.n { text-align: right; font-variant-numeric: tabular-nums }
.verdict { font-size: 1.4rem; margin-bottom: 0 } .flag { color: #8a4b00 }
"""


def report_html(report: Report) -> str:
    """The whole report; needs the extra `dashboard`.

    Raises:
        BadInput: if the extra is not installed.
    """
    try:
        import altair as alt  # noqa: PLC0415 # an optional extra, and slow to import
        import vl_convert  # noqa: PLC0415
    except ImportError as error:
        raise BadInput("an HTML report needs altair; install counterpoint[dashboard]") from error
    charts = [chart for chart in (_effects(alt, report), *_by_segment(alt, report.segments)) if chart is not None]
    specs = [chart.to_json(indent=None) for chart in charts]
    version = alt.SCHEMA_VERSION.removeprefix("v").rpartition(".")[0]
    bundle = vl_convert.javascript_bundle(None, version)  # type: ignore[arg-type] # its stub forgets the default
    places = "".join(f'<div id="chart{at}"></div>' for at in range(len(specs)))
    calls = "".join(f"vegaEmbed('#chart{at}', {_script(spec)}, {{actions: false}});" for at, spec in enumerate(specs))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{html.escape(report.experiment)}</title><style>{_STYLE}</style></head><body>"
        f"{_head(report)}{_table(report)}{places}{_words(report.metrics)}"
        f"<script>{_script(bundle)}</script><script>{calls}</script></body></html>"
    )


def _script(code: str) -> str:
    return code.replace("</script", "<\\/script")


def _head(report: Report) -> str:
    decision = report.decision
    lines = [
        f"<h1>{html.escape(report.experiment)}</h1>",
        f'<p class="verdict"><strong>{decision.verdict.capitalize()}</strong></p><p>{html.escape(decision.why)}.</p>',
    ]
    if isinstance(decision.money_per_month, Money):
        money = decision.money_per_month
        lines.append(
            f"<p>Worth {money.estimate:,.0f} a month at full traffic, "
            f"between {money.low:,.0f} and {money.high:,.0f}.</p>"
        )
    if decision.would_change:
        lines.append(f"<p>{html.escape(decision.would_change)}</p>")
    ratio = report.quality.srm
    units = ", ".join(f"{html.escape(name)} {count:,}" for name, count in report.units.items())
    lines.append(f"<p>As of {report.as_of}. Units: {units}. The split is {'as asked' if ratio.ok else 'broken'}.</p>")
    lines += [f'<p class="flag">{html.escape(flag)}</p>' for flag in report.quality.flags]
    return "".join(lines)


def _table(report: Report) -> str:
    rows = "".join(f"<tr>{''.join(_cells(metric, report.control))}</tr>" for metric in report.metrics)
    names = ("metric", "variant", "control's", "variant's", "effect", f"{1 - report.alpha:.0%} interval", "p")
    head = "".join(f"<th>{name}</th>" for name in (*names, "chance to win"))
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _cells(metric: MetricReport, control: str) -> Iterable[str]:
    yield f"<td>{html.escape(metric.metric)}</td><td>{html.escape(metric.variant)}</td>"
    effect, show = metric.relative, "{:+.2%}"
    if isinstance(effect, NotEstimable):
        effect, show = metric.absolute, "{:+.4g}"
    if isinstance(effect, NotEstimable):
        yield f'<td colspan="6">{html.escape(effect.not_estimable)}</td>'
        return
    bayes = html.escape(chance(metric.bayes.chance_to_win)) if isinstance(metric.bayes, Bayes) else ""
    numbers = (
        f"{metric.mean[control]:.4g}",
        f"{metric.mean[metric.variant]:.4g}",
        show.format(effect.estimate),
        f"{show.format(effect.low)} to {show.format(effect.high)}",
        "" if effect.p is None else f"{effect.p:.3g}",
        bayes,
    )
    yield "".join(f'<td class="n">{number}</td>' for number in numbers)


def _words(metrics: Iterable[MetricReport]) -> str:
    said = dict.fromkeys(metric.words for metric in metrics if metric.words and metric.role == "primary")
    return "".join(f"<p>{html.escape(text)}</p>" for text in said)


def _effects(alt: ModuleType, report: Report) -> Chart | None:
    rows: list[dict[str, str | float]] = [
        {"name": f"{metric.metric}, {metric.variant}", "effect": e.estimate, "low": e.low, "high": e.high}
        for metric in report.metrics
        if isinstance(e := metric.relative, Effect)
    ]
    return _intervals(alt, rows, "Effect, relative to control", "%") if rows else None


def _by_segment(alt: ModuleType, segments: Iterable[SegmentReport]) -> Iterable[Chart]:
    for part in segments:
        rows: list[dict[str, str | float]] = [
            {"name": row.segment, "effect": e.estimate, "low": e.low, "high": e.high}
            for row in part.effects
            if isinstance(e := row.shrunken, Effect)
        ]
        if rows:
            yield _intervals(alt, rows, f"{part.metric}, {part.variant}: effect by {part.trait}, shrunken", "s")


def _intervals(alt: ModuleType, rows: list[dict[str, str | float]], title: str, unit: str) -> Chart:
    base = alt.Chart(alt.Data(values=rows), width=640, title=title)
    y = alt.Y("name:N", title=None, sort=None)
    axis = alt.Axis(format=f"+.2{unit}")
    bar = base.mark_rule(strokeWidth=2).encode(y=y, x=alt.X("low:Q", title=None, axis=axis), x2="high:Q")
    point = base.mark_point(filled=True, size=70).encode(y=y, x="effect:Q")
    zero = alt.Chart(alt.Data(values=[{"zero": 0}])).mark_rule(strokeDash=[4, 4]).encode(x="zero:Q")
    chart: Chart = zero + bar + point
    return chart

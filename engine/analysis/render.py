"""A report as tables for a terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from engine.analysis.estimate import Bayes, Effect, NotEstimable
from engine.analysis.policies import PolicyReport, Rate
from engine.analysis.report import MetricReport, Money, Report, SegmentReport

_COLOURS = {"ship": "green", "stop": "red", "fix the data": "red", "keep running": "yellow"}


def render(report: Report) -> RenderableType:
    """The report of one experiment: the decision, the data's quality, a row per metric and variant."""
    decision = report.decision
    verdict = Text.assemble((decision.verdict.upper(), f"bold {_COLOURS[decision.verdict]}"), f": {decision.why}")
    lines = [Text(""), Text(f"{report.experiment}, as of {report.as_of}", style="bold"), verdict]
    if isinstance(decision.money_per_month, Money):
        money = decision.money_per_month
        lines.append(
            Text(
                f"Worth {money.estimate:,.0f} a month at full traffic ({money.low:,.0f} to {money.high:,.0f}), "
                "in the shop's currency"
            )
        )
    if decision.would_change:
        lines.append(Text(decision.would_change))
    units = ", ".join(f"{name} {count:,}" for name, count in report.units.items())
    ratio = report.quality.srm
    lines.append(Text(f"Units: {units}; sample ratio {'ok' if ratio.ok else 'MISMATCH'} (p = {ratio.p:.3g})"))
    lines.extend(Text(f"! {flag}", style="yellow") for flag in report.quality.flags)
    words = [Text(metric.words) for metric in report.metrics if metric.role == "primary" and metric.words][:1]
    return Group(*lines, _metrics(report), *words, *(_segment(part) for part in report.segments))


def _segment(part: SegmentReport) -> Table:
    """Effects by segment, in the metric's unit, as measured and shrunken towards each other."""
    table = Table(
        title=f"{part.metric}, {part.variant}, by {part.trait}", title_justify="left", box=None, pad_edge=False
    )
    table.add_column(part.trait)
    for name in ("units", "measured", "shrunken", "interval", "adjusted p"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in part.effects:
        measured, shrunken = row.measured, row.shrunken
        interval = f"{shrunken.low:+.4g} to {shrunken.high:+.4g}" if isinstance(shrunken, Effect) else ""
        table.add_row(
            row.segment,
            f"{sum(row.units.values()):,}",
            f"{measured.estimate:+.4g}" if isinstance(measured, Effect) else measured.not_estimable,
            f"{shrunken.estimate:+.4g}" if isinstance(shrunken, Effect) else shrunken.not_estimable,
            interval,
            "" if row.adjusted_p is None else f"{row.adjusted_p:.3g}",
        )
    return table


def chance(value: float) -> str:
    """A probability as people read it: nothing is certain."""
    return "> 99.9%" if value > 0.999 else "< 0.1%" if value < 0.001 else f"{value:.1%}"


def _metrics(report: Report) -> Table:
    """Two lines a comparison, so that it is whole in a terminal of 80 columns."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("metric\n  variant")
    table.add_column("control\nvariant", justify="right", no_wrap=True)
    table.add_column(f"effect\n{1 - report.alpha:.0%} interval", justify="right")
    table.add_column("p\nadjusted", justify="right", no_wrap=True)
    table.add_column("chance\nto win", justify="right", no_wrap=True)
    for metric in report.metrics:
        table.add_row(*_row(metric, report.control))
    return table


def _row(metric: MetricReport, control: str) -> list[str]:
    effect: Effect | NotEstimable = metric.relative
    percent = True
    if isinstance(effect, NotEstimable) and isinstance(metric.absolute, Effect):
        effect, percent = metric.absolute, False
    name = metric.metric if metric.role != "guardrail" else f"{metric.metric} (guardrail)"
    name = f"{name}\n  {metric.variant}"
    if isinstance(effect, NotEstimable):
        return [name, "", effect.not_estimable, "", ""]
    show = "{:+.2%}" if percent else "{:+.4g}"
    p = "" if effect.p is None else f"{effect.p:.3g}"
    adjusted = "" if metric.adjusted_p is None else f"{metric.adjusted_p:.3g}"
    return [
        name,
        f"{metric.mean[control]:.4g}\n{metric.mean[metric.variant]:.4g}",
        f"{show.format(effect.estimate)}\n{show.format(effect.low)} to {show.format(effect.high)}",
        f"{p}\n{adjusted}",
        f"{metric.bayes.chance_to_win:.1%}" if isinstance(metric.bayes, Bayes) else "",
    ]


def render_policies(report: PolicyReport) -> RenderableType:
    """A placement's policies, a row each, and the off-policy value of uniform choice below."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("policy\n  exposures")
    table.add_column("reward rate\n95% interval", justify="right")
    table.add_column("against uniform\n95% interval", justify="right")
    for row in report.policies:
        rate, against = row.rate, report.against_uniform.get(row.policy)
        if isinstance(rate, Rate):
            estimate = f"{rate.estimate:.4f}\n{rate.low:.4f} to {rate.high:.4f}"
        else:
            estimate = rate.not_estimable
        effect = ""
        if isinstance(against, Effect):
            effect = f"{against.estimate:+.4f}\n{against.low:+.4f} to {against.high:+.4f}"
        table.add_row(f"{row.policy}\n  {row.exposures:,}", estimate, effect)
    lines: list[RenderableType] = [Text(f"Placement {report.placement}", style="bold"), table]
    for name, value in (("IPS", report.uniform_ips), ("SNIPS", report.uniform_snips)):
        said = (
            value.not_estimable
            if isinstance(value, NotEstimable)
            else f"{value.value:.4f} ({value.low:.4f} to {value.high:.4f}), effective sample {value.ess:,.0f}"
        )
        lines.append(Text(f"Uniform choice would have earned, by {name}: {said}"))
    lines.append(_offers(report))
    return Group(*lines)


def _offers(report: PolicyReport) -> RenderableType:
    if not report.arms:
        return Text("")
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("offer\n  exposures")
    table.add_column("value\n95% interval", justify="right")
    table.add_column("plain mean\n(biased)", justify="right", no_wrap=True)
    for row in report.arms:
        value = row.value
        if isinstance(value, Effect):
            said = f"{value.estimate:.4f}\n{value.low:.4f} to {value.high:.4f}"
        else:
            said = value.not_estimable
        table.add_row(f"{row.offer}\n  {row.exposures:,}", said, f"{row.naive_mean:.4f}")
    return table

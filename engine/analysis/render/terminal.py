"""A report as tables for a terminal."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from engine.analysis.bandits.policy_report import PolicyReport, RewardRate
from engine.analysis.report.model import MetricReport, Money, Report, SegmentReport
from engine.analysis.report.money import NO_MONEY
from engine.analysis.stats.estimate import Bayes, Effect, NotEstimable, format_chance

BEST_SHOWN = 5
if TYPE_CHECKING:
    from collections.abc import Iterable

_COLOURS = {"ship": "green", "stop": "red", "fix the data": "red", "keep running": "yellow"}


def render(report: Report) -> RenderableType:
    """The report of one experiment: the decision, the data's quality, a row per metric and variant."""
    decision = report.decision
    verdict = Text.assemble((decision.verdict.upper(), f"bold {_COLOURS[decision.verdict]}"), f": {decision.why}")
    lines = [Text(""), Text(f"{report.experiment}, as of {report.as_of}", style="bold"), verdict]
    lines += [Text(said) for said in (money_text(report), decision.would_change) if said]
    units = ", ".join(f"{name} {count:,}" for name, count in report.units.items())
    ratio = report.quality.srm
    lines.append(Text(f"Units: {units}; sample ratio {'ok' if ratio.ok else 'MISMATCH'} (p = {ratio.p:.3g})"))
    lines.extend(Text(f"! {flag}", style="yellow") for flag in report.quality.flags)
    words = [Text(said) for said in (*notes(report), *_words(report.metrics)) if said]
    return Group(*lines, _metrics(report), *words, *(_segment(part) for part in report.segments))


def money_text(report: Report) -> str:
    """What the variant that is ahead is worth, and how that is known; empty if nothing of the report is in money."""
    money = report.decision.money_per_month
    if isinstance(money, Money):
        return (
            f"{money.variant} would bring {money.estimate:+,.0f} a month at full traffic ({money.low:+,.0f} to "
            f"{money.high:+,.0f}) by {money.metric}, in the shop's currency, if months go on as these days: "
            f"{money.basis}."
        )
    return "" if money == NO_MONEY else f"Worth per month: {money.not_estimable}."


def notes(report: Report) -> list[str]:
    """What stands beside the table: the best of many, the null region, what covariates took off, guardrails."""
    said = []
    primary = [metric for metric in report.metrics if metric.role == "primary"]
    best = {metric.variant: metric.chance_best for metric in primary if metric.chance_best is not None}
    if len(best) > 1:
        ranked = sorted({**best, report.control: 1 - sum(best.values())}.items(), key=lambda item: -item[1])
        shown = ", ".join(f"{name} {format_chance(share)}" for name, share in ranked[:BEST_SHOWN])
        said.append(f"Chance of being best of all by {primary[0].metric}: {shown}.")
    said += [
        f"Chance that {metric.variant} makes no practical difference to {metric.metric}, less than "
        f"{metric.bayes.within:.1%} either way: {format_chance(metric.bayes.rope)}."
        for metric in primary[:BEST_SHOWN]
        if isinstance(metric.bayes, Bayes) and metric.bayes.rope is not None
    ]
    said += [
        "p-values are of the difference, on which the report decides; "
        f"of {metric.metric}'s relative effect p is {own:.3g}."
        for metric in primary[:BEST_SHOWN]
        if (own := _own_p(metric)) is not None
    ]
    helped = {row.metric: row for row in report.metrics if row.variance_reduction is not None}
    said += [
        f"{name}: {', '.join(row.covariates)} took {row.variance_reduction:.0%} of the variance off."
        for name, row in helped.items()
    ]
    said += [
        f"{metric.metric} of {metric.variant}: {_GUARDS[metric.guard].format(margin=metric.margin)}"
        for metric in report.metrics
        if metric.guard is not None and metric.margin
    ]
    return said


def _own_p(metric: MetricReport) -> float | None:
    """The relative effect's p-value where it is another than the difference's: log and linear delta have their own."""
    share, difference = metric.relative, metric.absolute
    if not (isinstance(share, Effect) and isinstance(difference, Effect)) or share.p is None or difference.p is None:
        return None
    return None if math.isclose(share.p, difference.p, rel_tol=1e-6) else share.p


_GUARDS = {
    "passed": "shown to be no worse than its margin of {margin:.1%}.",
    "harmed": "worse than its margin of {margin:.1%} allows.",
    "open": "may still be worse than its margin of {margin:.1%}; more units tell.",
}


def _words(metrics: Iterable[MetricReport]) -> list[str]:
    return [metric.words for metric in metrics if metric.role == "primary" and metric.words][:1]


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
    p = f"{metric.absolute.p:.3g}" if isinstance(metric.absolute, Effect) and metric.absolute.p is not None else ""
    adjusted = "" if metric.adjusted_p is None else f"{metric.adjusted_p:.3g}"
    return [
        name,
        f"{metric.mean[control]:.4g}\n{metric.mean[metric.variant]:.4g}",
        f"{show.format(effect.estimate)}\n{show.format(effect.low)} to {show.format(effect.high)}",
        f"{p}\n{adjusted}",
        format_chance(metric.bayes.chance_to_win) if isinstance(metric.bayes, Bayes) else "",
    ]


def render_policies(report: PolicyReport) -> RenderableType:
    """A placement's policies, a row each, and the off-policy value of uniform choice below."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("policy\n  exposures")
    table.add_column("reward rate\n95% interval", justify="right")
    table.add_column("against uniform\n95% interval", justify="right")
    for row in report.policies:
        rate, against = row.rate, report.against_uniform.get(row.policy)
        if isinstance(rate, RewardRate):
            estimate = f"{rate.estimate:.4f}\n{rate.low:.4f} to {rate.high:.4f}"
        else:
            estimate = rate.not_estimable
        effect = ""
        if isinstance(against, Effect):
            effect = f"{against.estimate:+.4f}\n{against.low:+.4f} to {against.high:+.4f}"
        table.add_row(f"{row.policy}\n  {row.exposures:,}", estimate, effect)
    lines: list[RenderableType] = [Text(f"Placement {report.placement}, as of {report.as_of}", style="bold"), table]
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

"""A report as tables for a terminal."""

from __future__ import annotations

import math

import msgspec
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from engine.analysis.bandits.policy_report import OfferRow, PolicyReport, RewardRate
from engine.analysis.bandits.quarantined import describe_quarantined_rewards
from engine.analysis.checks.open_windows import describe_open_windows
from engine.analysis.checks.ratio_parts import parts_text
from engine.analysis.checks.uncounted import describe_uncounted_events
from engine.analysis.design.methods import Method
from engine.analysis.report.model import MetricReport, Money, RampPeriod, Report, SegmentReport
from engine.analysis.report.money import NO_MONEY
from engine.analysis.stats.estimate import Bayes, Effect, NotEstimable, format_chance, format_level, format_percents
from engine.metric_kinds import METRIC_KINDS

BEST_SHOWN = 5
_METHODS: dict[Method, str] = {
    "fixed": "fixed (valid at a single look)",
    "sequential": "sequential (valid at every look)",
    "group_sequential": "group_sequential (valid at the planned looks)",
    "bayesian": "bayesian (valid under its prior)",
}
_COLOURS = {"ship": "green", "stop": "red", "fix the data": "red", "keep running": "yellow"}


def render(report: Report) -> RenderableType:
    """The report of one experiment: the recommendation, the data's quality, a row per metric and variant."""
    advice = report.recommendation
    verdict = Text.assemble((advice.verdict.upper(), f"bold {_COLOURS[advice.verdict]}"), f": {advice.why}")
    lines = [Text(""), *([Text(report.cumulated, style="bold")] if report.cumulated else [])]
    lines.append(Text(f"{heading(report)}, as of {report.as_of}", style="bold"))
    lines += [*(Text(fact, style="dim") for fact in describe_design(report)), verdict]
    lines += [Text(line, style="yellow") for line in describe_first_verdict(report)]
    lines += [Text(line) for line in (money_text(report), advice.would_change) if line]
    units = ", ".join(f"{name} {count:,}" for name, count in report.units.items())
    ratio = report.quality.srm
    lines.append(Text(f"Units: {units}; sample ratio {'ok' if ratio.ok else 'MISMATCH'} (p = {ratio.p:.3g})"))
    lines.extend(Text(f"! {flag}", style="yellow") for flag in report.quality.flags)
    below = [Text(note) for note in notes(report)]
    return Group(*lines, _metrics_table(report), *below, *(_segment_table(part) for part in report.segments))


def heading(report: Report) -> str:
    """The title of the report, with the experiment's key if it differs."""
    is_titled = report.title and report.title != report.experiment
    return f"{report.title} ({report.experiment})" if is_titled else report.experiment


def describe_design(report: Report) -> list[str]:
    """The facts of the experiment's file and the method, one per line; for a table only the method."""
    method = f"Method: {_METHODS[report.method]}, {100 * (1 - report.alpha):.6g}% intervals."
    if not report.channels:
        return [method]
    dates = [f"from {report.start[:10]}" if report.start else "", f"to {report.end[:10]}" if report.end else ""]
    planned = " ".join(date for date in dates if date)
    if report.first_exposure and report.last_exposure:
        planned += f"{', ' if planned else ''}seen from {report.first_exposure[:10]} to {report.last_exposure[:10]}"
    audience = msgspec.json.encode(report.audience).decode() if report.audience else "everyone"
    return [
        *([f"Hypothesis: {report.hypothesis}"] if report.hypothesis else []),
        *([f"Owner: {report.owner}."] if report.owner else []),
        *([f"Dates: {planned}."] if planned else []),
        f"Channels: {', '.join(report.channels)}. Audience: {audience}.",
        *([f"Design: {report.design}"] if report.design else []),
        *([f"Decided: {report.conclusion}"] if report.conclusion else []),
        *([f"Ramp: {describe_steps(report.ramp)}."] if report.ramp else []),
        *([f"Ramp stopped: {report.ramp_stop}."] if report.ramp_stop else []),
        f"{method} Currency: {report.currency}.",
    ]


def describe_steps(ramp: list[RampPeriod]) -> str:
    """The steps of a ramp: `5% to 2026-06-02 (120 units), 50% to 2026-06-03 (900 units)`."""
    return ", ".join(f"{step.coverage:.3g} to {step.end[:16]} ({step.units:,} units)" for step in ramp)


UNVERIFIED = "could not be verified"


def describe_first_verdict(report: Report) -> list[str]:
    """The verdict by the first question, and its changes; empty if nothing changed."""
    first = report.first_verdict
    if report.unverified_question:
        return [f"Whether the question changed after the first exposure {UNVERIFIED}: {report.unverified_question}."]
    if first is None:
        return []
    advice = first.recommendation
    return [
        f"The question changed after the first exposure: {'; '.join(first.changes)}.",
        f"By the question of the start: {advice.verdict.upper()}: {advice.why}",
    ]


def money_text(report: Report) -> str:
    """The value of the leading variant per month, with its basis; empty if no metric of the report is in money."""
    money = report.recommendation.money_per_month
    if isinstance(money, Money):
        unit = f" {report.currency}" if report.currency else ""
        where = f"at full traffic, by {money.metric}, if traffic stays: {money.basis}"
        if not money.settled:
            span = f"{_amount(money.low, '+')} to {_amount(money.high, '+')}"
            return f"The worth of {money.variant} per month is open: {span}{unit} {where}."
        verb = "bring" if money.estimate > 0 else "cost"
        low, high = sorted((abs(money.low), abs(money.high)))
        amount, span = _amount(abs(money.estimate)), f"{_amount(low)} to {_amount(high)}"
        return f"{money.variant} would {verb} {amount}{unit} a month ({span}) {where}."
    return "" if money == NO_MONEY else f"Worth per month: {money.not_estimable}."


def _amount(value: float, sign: str = "-") -> str:
    """Money without cents from 100 on."""
    return f"{value:{sign}z,.{0 if abs(value) >= 100 else 2}f}"


def notes(report: Report) -> list[str]:
    """Sentences below the table: multiplicity, null region, p-values, covariates, guardrails, chance to win."""
    found = []
    primary = [metric for metric in report.metrics if metric.role == "primary"]
    best = {metric.variant: metric.chance_best for metric in primary if metric.chance_best is not None}
    if len(best) > 1:
        ranked = sorted({**best, report.control: 1 - sum(best.values())}.items(), key=lambda item: -item[1])
        shown = ", ".join(f"{name} {format_chance(share)}" for name, share in ranked[:BEST_SHOWN])
        found.append(f"Chance of being best of all by {primary[0].metric}: {shown}.")
    found += [
        f"Chance that {metric.variant} makes no practical difference to {metric.metric}, less than "
        f"{metric.bayes.within:.1%} either way: {format_chance(metric.bayes.rope)}."
        for metric in primary[:BEST_SHOWN]
        if isinstance(metric.bayes, Bayes) and metric.bayes.rope is not None
    ]
    found += [
        "p-values are of the absolute effect, on which the verdict rests; "
        f"the p-value of {metric.metric}'s relative effect is {own:.3g}."
        for metric in primary[:BEST_SHOWN]
        if (own := _relative_p(metric)) is not None
    ]
    adjusted = {row.metric: row for row in report.metrics if row.variance_reduction is not None}
    found += [
        f"{name}: {', '.join(row.covariates)} removed {row.variance_reduction:.0%} of the variance. The means are "
        f"adjusted for it; without, they are {_raw_means(report, name)}."
        for name, row in adjusted.items()
    ]
    capped = {row.metric: row.winsorized for row in report.metrics if row.winsorized is not None}
    found += [
        f"{name}: values above {cap.cap:.6g}, the {cap.level:.4g} quantile of the sizes other than zero, count as "
        "that, and those below its negative as the negative; "
        f"{cap.share:.2%} of units."
        for name, cap in capped.items()
    ]
    found += describe_open_windows({row.metric: row.open_windows for row in report.metrics if row.open_windows})
    found += describe_uncounted_events(report.quality.uncounted)
    found += [f"{row.metric} of {row.variant}: {text}." for row in report.metrics if (text := parts_text(row))]
    answered = {row.metric: row.response for row in report.metrics if row.response}
    found += [
        f"{name} is the mean of the answers; answered: "
        f"{', '.join(f'{rate:.0%} of {side}' for side, rate in sorted(rates.items()))}."
        for name, rates in answered.items()
    ]
    found += [
        f"{metric.metric} of {metric.variant}: {_guard_text(metric)}"
        for metric in report.metrics
        if metric.guard is not None and (metric.margin or (metric.guard == "open" and metric.joint is not None))
    ]
    found += [metric.interpretation for metric in primary if metric.interpretation][:1]
    return found


def _raw_means(report: Report, metric: str) -> str:
    rows = [row for row in report.metrics if row.metric == metric]
    means = {name: mean for row in rows for name, mean in row.raw_mean.items()}
    kind = METRIC_KINDS[rows[0].kind]
    return ", ".join(f"{name} {kind.format.format(mean)}" for name, mean in means.items())


def _relative_p(metric: MetricReport) -> float | None:
    """The relative effect's p-value if it differs from the absolute effect's, as with log and linear delta."""
    share, difference = metric.relative, metric.absolute
    if not (isinstance(share, Effect) and isinstance(difference, Effect)) or share.p is None or difference.p is None:
        return None
    return None if math.isclose(share.p, difference.p, rel_tol=1e-6) else share.p


_GUARDS = {
    "passed": "shown to be no worse than its margin of {margin}.",
    "harmed": "worse than its margin of {margin} allows.",
    "open": "may still be worse than its margin of {margin}; more units narrow its interval.",
}


def _guard_text(metric: MetricReport) -> str:
    """Whether a guardrail stays within its margin, and what an open one lacks."""
    if isinstance(metric.relative, NotEstimable):
        return f"its margin of {format_level(metric.margin or 0.0)} cannot be tested: {metric.relative.not_estimable}."
    if metric.guard == "open" and isinstance(metric.joint, NotEstimable):
        return f"beyond its margin alone; for all guardrails together: {metric.joint.not_estimable}."
    if metric.guard == "open" and isinstance(metric.joint, Effect):
        _, low, high = format_percents((metric.joint.estimate, metric.joint.low, metric.joint.high))
        return f"beyond its margin alone, but not by the interval for all guardrails together: {low} to {high}."
    return _GUARDS[metric.guard or "open"].format(margin=format_level(metric.margin or 0.0))


def _segment_table(part: SegmentReport) -> Table:
    """Effects by segment in the metric's unit, measured and shrunken towards their mean."""
    table = Table(
        title=f"{part.metric}, {part.variant}, by {part.trait}", title_justify="left", box=None, pad_edge=False
    )
    table.add_column(part.trait)
    for name in ("units", "measured", "shrunken", "interval", "adjusted p"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in part.effects:
        measured, shrunken = row.measured, row.shrunken
        cells = [
            row.segment,
            f"{sum(row.units.values()):,}",
            f"{measured.estimate:+z.4g}" if isinstance(measured, Effect) else measured.not_estimable,
            f"{shrunken.estimate:+z.4g}" if isinstance(shrunken, Effect) else shrunken.not_estimable,
            f"{shrunken.low:+z.4g} to {shrunken.high:+z.4g}" if isinstance(shrunken, Effect) else "",
            "" if row.adjusted_p is None else f"{row.adjusted_p:.3g}",
        ]
        table.add_row(*cells)
    return table


def _metrics_table(report: Report) -> Table:
    """Two lines per comparison, to fit a terminal of 80 columns."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("metric\n  variant")
    table.add_column("control\nvariant", justify="right", no_wrap=True)
    table.add_column(f"effect\n{format_level(1 - report.alpha)} interval", justify="right")
    table.add_column("p\nadjusted", justify="right", no_wrap=True)
    table.add_column("chance\nto win", justify="right", no_wrap=True)
    for metric in report.metrics:
        table.add_row(*_metric_row(metric, report.control))
    return table


def _metric_row(metric: MetricReport, control: str) -> list[str]:
    effect: Effect | NotEstimable = metric.relative
    percent = True
    if isinstance(effect, NotEstimable) and isinstance(metric.absolute, Effect):
        effect, percent = metric.absolute, False
    name = metric.metric if metric.role != "guardrail" else f"{metric.metric} (guardrail)"
    name = f"{name}\n  {metric.variant}"
    if isinstance(effect, NotEstimable):
        return [name, "", effect.not_estimable, "", ""]
    shown = (effect.estimate, effect.low, effect.high)
    estimate, low, high = format_percents(shown, 2) if percent else [f"{value:+z.4g}" for value in shown]
    p = f"{metric.absolute.p:.3g}" if isinstance(metric.absolute, Effect) and metric.absolute.p is not None else ""
    adjusted = "" if metric.adjusted_p is None else f"{metric.adjusted_p:.3g}"
    return [
        name,
        f"{metric.mean[control]:.4g}\n{metric.mean[metric.variant]:.4g}",
        f"{estimate}\n{low} to {high}",
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
            effect = f"{against.estimate:+z.4f}\n{against.low:+z.4f} to {against.high:+z.4f}"
        table.add_row(f"{row.policy}\n  {row.exposures:,}", estimate, effect)
    lines: list[RenderableType] = [Text(f"Placement {report.placement}, as of {report.as_of}", style="bold"), table]
    warnings = (report.unsettled.text, describe_quarantined_rewards(report.quarantined))
    lines += [Text(f"! {text}", style="yellow") for text in warnings if text]
    for name, value in (("IPS", report.uniform_ips), ("SNIPS", report.uniform_snips)):
        earned = (
            value.not_estimable
            if isinstance(value, NotEstimable)
            else f"{value.value:.4f} ({value.low:.4f} to {value.high:.4f}), effective sample {value.ess:,.0f}"
        )
        lines.append(Text(f"Uniform choice would have earned, by {name}: {earned}"))
    lines.extend(
        (_offers_table(report), *_creatives_table(report), *_contrast_lines(report), Text(report.drift.statement))
    )
    return Group(*lines)


def _contrast_lines(report: PolicyReport) -> list[RenderableType]:
    """A line for each pair of offers that differ, and the number of pairs that do not."""
    known = [(row, row.effect) for row in report.contrasts if isinstance(row.effect, Effect)]
    apart = [(row, effect) for row, effect in known if effect.low > 0 or effect.high < 0]
    lines: list[RenderableType] = [
        Text(f"{row.offer} against {row.against}: {effect.estimate:+z.4f} ({effect.low:+z.4f} to {effect.high:+z.4f})")
        for row, effect in apart
    ]
    if len(known) > len(apart):
        lines.append(Text(f"Pairs of offers whose difference may be 0: {len(known) - len(apart):,} of {len(known):,}"))
    return lines


def _offers_table(report: PolicyReport) -> RenderableType:
    if not report.arms:
        return Text("")
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("offer\n  exposures")
    table.add_column("value\n95% interval", justify="right")
    table.add_column("plain mean\n(biased)", justify="right", no_wrap=True)
    if report.drift.offers:
        table.add_column("value by period", justify="right")
    for row in report.arms:
        value = row.value
        if isinstance(value, Effect):
            shown = f"{value.estimate:.4f}\n{value.low:.4f} to {value.high:.4f}"
        else:
            shown = value.not_estimable
        cells = [f"{row.offer}\n  {row.exposures:,}", shown, f"{row.naive_mean:.4f}"]
        table.add_row(*cells, *(_period_cell(row) for _ in report.drift.offers[:1]))
    return table


def _creatives_table(report: PolicyReport) -> list[RenderableType]:
    """The creatives by offer, channel and segment; empty if no offer has any."""
    if not report.creatives:
        return []
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("creative, channel\n  exposures")
    table.add_column("value\n95% interval", justify="right")
    table.add_column("against the first\n95% interval", justify="right")
    for row in report.creatives:
        place = row.channel if row.segment is None else f"{row.channel}, {row.segment}"
        cells = [
            ""
            if found is None
            else found.not_estimable
            if isinstance(found, NotEstimable)
            else f"{found.estimate:{sign}z.4f}\n{found.low:{sign}z.4f} to {found.high:{sign}z.4f}"
            for found, sign in ((row.value, ""), (row.against_first, "+"))
        ]
        table.add_row(f"{row.offer}/{row.creative}, {place}\n  {row.exposures:,}", *cells)
    return [table]


def _period_cell(row: OfferRow) -> str:
    """The offer's value in each period; a question mark if there is none."""
    values = [period.value for period in row.periods]
    return " → ".join(f"{value.estimate:.3f}" if isinstance(value, Effect) else "?" for value in values)

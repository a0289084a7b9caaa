"""A report as tables for a terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from engine.analysis.estimate import Bayes, Effect, NotEstimable
from engine.analysis.policies import PolicyReport, Rate
from engine.analysis.report import MetricReport, Money, Report

_COLOURS = {"ship": "green", "stop": "red", "fix the data": "red", "keep running": "yellow"}


def render(report: Report) -> RenderableType:
    """The report of one experiment: the decision, the data's quality, a row per metric and variant."""
    decision = report.decision
    verdict = Text.assemble((decision.verdict.upper(), f"bold {_COLOURS[decision.verdict]}"), f": {decision.why}")
    lines = [Text(f"{report.experiment}, as of {report.as_of}", style="bold"), verdict]
    if isinstance(decision.money_per_month, Money):
        money = decision.money_per_month
        lines.append(
            Text(f"Worth {money.estimate:,.0f} a month at full traffic ({money.low:,.0f} to {money.high:,.0f})")
        )
    if decision.would_change:
        lines.append(Text(decision.would_change))
    units = ", ".join(f"{name} {count:,}" for name, count in report.units.items())
    ratio = report.quality.srm
    lines.append(Text(f"Units: {units}; sample ratio {'ok' if ratio.ok else 'MISMATCH'} (p = {ratio.p:.3g})"))
    lines.extend(Text(f"! {flag}", style="yellow") for flag in report.quality.flags)
    return Group(*lines, _metrics(report))


def _metrics(report: Report) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("metric", "variant"):
        table.add_column(name)
    level = f"{1 - report.alpha:.0%}"
    for name in ("control", "variant's", "effect", f"{level} interval", "p", "adjusted", "chance to win"):
        table.add_column(name, justify="right", no_wrap=True)
    for metric in report.metrics:
        table.add_row(*_row(metric, report.control))
    return table


def _row(metric: MetricReport, control: str) -> list[str]:
    effect: Effect | NotEstimable = metric.relative
    percent = True
    if isinstance(effect, NotEstimable) and isinstance(metric.absolute, Effect):
        effect, percent = metric.absolute, False
    name = metric.metric if metric.role != "guardrail" else f"{metric.metric} (guardrail)"
    if isinstance(effect, NotEstimable):
        return [name, metric.variant, "", "", "", effect.not_estimable]
    show = "{:+.2%}" if percent else "{:+.4g}"
    win = f"{metric.bayes.chance_to_win:.1%}" if isinstance(metric.bayes, Bayes) else ""
    return [
        name,
        metric.variant,
        f"{metric.mean[control]:.4g}",
        f"{metric.mean[metric.variant]:.4g}",
        show.format(effect.estimate),
        f"{show.format(effect.low)} to {show.format(effect.high)}",
        "" if effect.p is None else f"{effect.p:.3g}",
        "" if metric.adjusted_p is None else f"{metric.adjusted_p:.3g}",
        win,
    ]


def render_policies(report: PolicyReport) -> RenderableType:
    """A placement's policies, a row each, and the off-policy value of uniform choice below."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("policy")
    for name in ("exposures", "reward rate", "95% interval", "against uniform"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in report.policies:
        rate, against = row.rate, report.against_uniform.get(row.policy)
        estimate = f"{rate.estimate:.4f}" if isinstance(rate, Rate) else ""
        interval = f"{rate.low:.4f} to {rate.high:.4f}" if isinstance(rate, Rate) else rate.not_estimable
        effect = ""
        if isinstance(against, Effect):
            effect = f"{against.estimate:+.4f} ({against.low:+.4f} to {against.high:+.4f})"
        table.add_row(row.policy, f"{row.exposures:,}", estimate, interval, effect)
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


def _offers(report: PolicyReport) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("offer")
    for name in ("exposures", "value", "95% interval", "plain mean (biased)"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in report.arms:
        value = row.value
        estimate = f"{value.estimate:.4f}" if isinstance(value, Effect) else ""
        interval = f"{value.low:.4f} to {value.high:.4f}" if isinstance(value, Effect) else value.not_estimable
        table.add_row(row.offer, f"{row.exposures:,}", estimate, interval, f"{row.naive_mean:.4f}")
    return table

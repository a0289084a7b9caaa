"""An off-policy evaluation as tables for a terminal of 80 columns."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from engine.analysis.offpolicy.evaluate import LOGGED_POLICY, EvaluationReport, PolicyDifference
from engine.analysis.offpolicy.learning_curve import LearningCurve
from engine.analysis.offpolicy.policy_value import BernsteinInterval, PolicyValue, ValueEstimate
from engine.analysis.stats.estimate import Effect, NotEstimable, format_level


def render_evaluation(report: EvaluationReport) -> RenderableType:
    """The log's mean reward, a table of the policies' values, then each policy with its checks and estimators."""
    level = f"{format_level(1 - report.alpha)}"
    head = (
        f"{report.placement}: {report.decisions:,} decisions of {report.customers:,} customers, {report.arms} offers, "
        f"{report.rewarded:,} rewarded"
    )
    own = report.on_policy
    on_policy = f"On-policy mean {own.value:.6g} ({level}: {_range(own)}): the mean reward of the logged decisions"
    parts: list[RenderableType] = [Text(head, style="bold"), Text(on_policy)]
    if report.unsettled:
        unsettled = f"! {report.unsettled:,} decisions count as 0 but their reward may still arrive: no zero is logged"
        parts.append(Text(unsettled, style="yellow"))
    against_log = {row.policy: row for row in report.differences if row.against == LOGGED_POLICY}
    parts += [Text(""), _summary_table(report.policies, against_log, level)]
    for policy in report.policies:
        parts += [Text(""), *_render_policy(policy, level)]
    between = [row for row in report.differences if row.against != LOGGED_POLICY]
    if between:
        parts += [Text(""), _differences_table(between, level)]
    return Group(*parts)


def _summary_table(policies: list[PolicyValue], against_log: dict[str, PolicyDifference], level: str) -> Table:
    """Two lines per policy: its value and its difference from the log's mean, if they can be estimated."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("policy\n  verdict")
    table.add_column(f"value (DR)\n{level} interval", justify="right")
    table.add_column(f"value less the log's\n{level} interval", justify="right")
    table.add_column("p", justify="right", no_wrap=True)
    for policy in policies:
        name = Text.assemble((policy.policy, "bold"), "\n  ", _styled_verdict(policy))
        if not policy.verdict.is_estimable or isinstance(policy.dr, NotEstimable):
            table.add_row(name, "not on this log", "", "")
            continue
        value = f"{_figure(policy.dr.value)}\n{_range(policy.dr)}"
        table.add_row(name, value, *_effect_cells(against_log[policy.policy].effect))
    return table


def _styled_verdict(policy: PolicyValue) -> tuple[str, str]:
    """The verdict and its style."""
    if not policy.verdict.is_estimable:
        return "NOT ESTIMABLE", "bold red"
    return ("ESTIMATED, WITH WARNINGS", "bold yellow") if policy.warnings else ("ESTIMATED", "bold green")


def _effect_cells(effect: Effect | NotEstimable) -> tuple[str, str]:
    """An effect with its interval, and its p-value."""
    if isinstance(effect, NotEstimable):
        return effect.not_estimable, ""
    p = effect.p or 0.0
    interval = f"{_figure(effect.low, '+')} to {_figure(effect.high, '+')}"
    return f"{_figure(effect.estimate, '+')}\n{interval}", "< 0.0001" if p < 0.0001 else f"{p:.2g}"


def _render_policy(policy: PolicyValue, level: str) -> list[RenderableType]:
    """A policy's verdict, failed checks, warnings, notes, estimators and learning curve."""
    head = (f"{policy.policy} ", "bold"), f"({policy.kind}, {policy.arms} offers): "
    lines: list[RenderableType] = [
        Text.assemble(*head, _styled_verdict(policy)),
        *(Text(f"! {check.why}", style="yellow") for check in policy.checks if not check.ok),
        *(Text(f"! {warning}", style="yellow") for warning in policy.warnings),
        *(Text(f"- {note}") for note in policy.notes),
        _passed_checks(policy) if policy.verdict.is_estimable else _checks_table(policy),
        _estimators_table(policy, level),
    ]
    if policy.positions:
        lines.append(_positions_table(policy, level))
    if policy.curve is not None:
        lines.append(_render_curve(policy.curve))
    return lines


def _passed_checks(policy: PolicyValue) -> Text:
    """The figures of the checks in one sentence."""
    figures = (
        f"mean weight {policy.mean_weight:.8g}, largest weight {policy.largest_weight:.6g}, effective sample size "
        f"{policy.ess:.6g}, unlogged mass {policy.unlogged_mass:.2g}"
    )
    return Text(f"checks passed: {figures}")


def _checks_table(policy: PolicyValue) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("check", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("required")
    table.add_column("")
    for check in policy.checks:
        passed = Text("ok", "green") if check.ok else Text("FAILED", "bold red")
        table.add_row(check.name, f"{check.value:.8g}", check.rule, passed)
    return table


def _estimators_table(policy: PolicyValue, level: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("estimator", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column(f"{level} interval", justify="right", no_wrap=True)
    table.add_column("cautious (Bernstein)", justify="right", no_wrap=True)
    named = (("IPS", policy.ips), ("SNIPS", policy.snips), ("DR", policy.dr), ("SWITCH-DR", policy.switch_dr))
    for name, value in named:
        table.add_row(name, *_estimator_cells(value))
    return table


def _positions_table(policy: PolicyValue, level: str) -> Table:
    """The value at each position of a list, beside the log's own."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("position", no_wrap=True)
    for name in ("value (IPS)", f"{level} interval", "in the log"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in policy.positions:
        interval = f"{_figure(row.ips.low)} to {_figure(row.ips.high)}"
        table.add_row(str(row.position), f"{row.ips.value:#.4g}", interval, f"{row.logged:#.4g}")
    return table


def _estimator_cells(value: ValueEstimate | NotEstimable) -> list[str]:
    """A value with its asymptotic and its Bernstein interval."""
    if isinstance(value, NotEstimable):
        return ["-", value.not_estimable, ""]
    return [f"{value.value:#.6g}", _range(value), _range(value.bernstein)]


def _range(interval: ValueEstimate | BernsteinInterval) -> str:
    return f"{_figure(interval.low)} to {_figure(interval.high)}"


def _figure(value: float, sign: str = "-") -> str:
    """A number with four significant digits, or all digits before the point."""
    return f"{value:{sign}z,.0f}" if abs(value) >= 1000 else f"{value:{sign}z#.4g}"


def _differences_table(differences: list[PolicyDifference], level: str) -> Table:
    """Two lines per pair of policies: the difference of their values."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("policy\n  less policy")
    table.add_column(f"difference (DR)\n{level} interval", justify="right")
    table.add_column("p", justify="right", no_wrap=True)
    for row in differences:
        table.add_row(f"{row.policy}\n  {row.against}", *_effect_cells(row.effect))
    return table


def _render_curve(curve: LearningCurve) -> RenderableType:
    if curve.rate is None:
        return Text("Learning curve: no round of the log matched")
    title = f"Learning curve: {curve.rate:.6g} over {curve.matched:,} matched rounds"
    if curve.capped > 0:
        title += f"; {curve.capped:.1%} of the log's rounds count more than once"
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("rounds", "matched", "rate so far", "rate since the last"):
        table.add_column(name, justify="right", no_wrap=True)
    for point in curve.points:
        table.add_row(f"{point.rounds:,}", f"{point.matched:,}", f"{point.rate:.4g}", f"{point.recent:.4g}")
    return Group(Text(title), table)

"""An evaluation for a terminal of 80 columns."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from engine.analysis.offpolicy.evaluate import LOGGED, Difference, EvaluationReport
from engine.analysis.offpolicy.learning_curve import Curve
from engine.analysis.offpolicy.policy_value import Interval, Judgement, Valued
from engine.analysis.stats.estimate import Effect, NotEstimable


def render_evaluation(report: EvaluationReport) -> RenderableType:
    """The log's own mean, what each policy would have earned beside it, and then each with its checks and values."""
    level = f"{1 - report.alpha:.0%}"
    head = (
        f"{report.placement}: {report.decisions:,} decisions of {report.customers:,} customers, {report.arms} offers, "
        f"{report.rewarded:,} rewarded"
    )
    own = report.on_policy
    logged = f"On-policy mean {own.value:.6g} ({level}: {_range(own)}): what a decision of the log earned"
    parts: list[RenderableType] = [Text(head, style="bold"), Text(logged)]
    if report.unsettled:
        parts.append(
            Text(
                f"! {report.unsettled:,} decisions count as 0 though their reward may still come: no zero was logged",
                style="yellow",
            )
        )
    against = {one.policy: one for one in report.differences if one.against == LOGGED}
    parts += [Text(""), _summary(report.policies, against, level)]
    for one in report.policies:
        parts += [Text(""), *_policy(one, level)]
    between = [one for one in report.differences if one.against != LOGGED]
    if between:
        parts += [Text(""), _differences(between, level)]
    return Group(*parts)


def _summary(policies: list[Judgement], against: dict[str, Difference], level: str) -> Table:
    """Two lines a policy: what it would have earned and how much more than the log, or that this cannot be said."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("policy\n  verdict")
    table.add_column(f"would earn (DR)\n{level} interval", justify="right")
    table.add_column(f"more than the log\n{level} interval", justify="right")
    table.add_column("p", justify="right", no_wrap=True)
    for one in policies:
        name = Text.assemble((one.policy, "bold"), "\n  ", _verdict(one))
        if not one.verdict.can_be_judged or isinstance(one.dr, NotEstimable):
            table.add_row(name, "not on this log", "", "")
            continue
        table.add_row(name, f"{_figure(one.dr.value)}\n{_range(one.dr)}", *_effect(against[one.policy].effect))
    return table


def _verdict(one: Judgement) -> tuple[str, str]:
    if not one.verdict.can_be_judged:
        return "CANNOT BE JUDGED", "bold red"
    return ("JUDGE WITH CARE", "bold yellow") if one.warnings else ("CAN BE JUDGED", "bold green")


def _effect(effect: Effect | NotEstimable) -> tuple[str, str]:
    if isinstance(effect, NotEstimable):
        return effect.not_estimable, ""
    p = effect.p or 0.0
    said = f"{_figure(effect.estimate, '+')}\n{_figure(effect.low, '+')} to {_figure(effect.high, '+')}"
    return said, "< 0.0001" if p < 0.0001 else f"{p:.2g}"


def _policy(one: Judgement, level: str) -> list[RenderableType]:
    lines: list[RenderableType] = [
        Text.assemble((f"{one.policy} ", "bold"), f"({one.kind}, {one.arms} offers): ", _verdict(one)),
        *(Text(f"! {gate.why}", style="yellow") for gate in one.gates if not gate.ok),
        *(Text(f"! {warning}", style="yellow") for warning in one.warnings),
        *(Text(f"- {note}") for note in one.notes),
        _passed(one) if one.verdict.can_be_judged else _gates(one),
        _values(one, level),
    ]
    if one.curve is not None:
        lines.append(_curve(one.curve))
    return lines


def _passed(one: Judgement) -> Text:
    found = (
        f"mean weight {one.mean_weight:.8g}, largest weight {one.largest_weight:.6g}, effective sample size "
        f"{one.ess:.6g}, unlogged mass {one.unlogged_mass:.2g}"
    )
    return Text(f"checks passed: {found}")


def _gates(one: Judgement) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("check", no_wrap=True)
    table.add_column("found", justify="right", no_wrap=True)
    table.add_column("asked for")
    table.add_column("")
    for gate in one.gates:
        passed = Text("ok", "green") if gate.ok else Text("FAILED", "bold red")
        table.add_row(gate.name, f"{gate.value:.8g}", gate.rule, passed)
    return table


def _values(one: Judgement, level: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("estimator", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column(f"{level} interval", justify="right", no_wrap=True)
    table.add_column("cautious (Bernstein)", justify="right", no_wrap=True)
    named = (("IPS", one.ips), ("SNIPS", one.snips), ("DR", one.dr), ("SWITCH-DR", one.switch_dr))
    for name, value in named:
        table.add_row(name, *_numbers(value))
    return table


def _numbers(value: Valued | NotEstimable) -> list[str]:
    if isinstance(value, NotEstimable):
        return ["-", value.not_estimable, ""]
    return [f"{value.value:#.6g}", _range(value), _range(value.bernstein)]


def _range(between: Valued | Interval) -> str:
    return f"{_figure(between.low)} to {_figure(between.high)}"


def _figure(value: float, sign: str = "-") -> str:
    """Four significant digits, and all before the point."""
    return f"{value:{sign},.0f}" if abs(value) >= 1000 else f"{value:{sign}#.4g}"


def _differences(differences: list[Difference], level: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("policy\n  less policy")
    table.add_column(f"difference (DR)\n{level} interval", justify="right")
    table.add_column("p", justify="right", no_wrap=True)
    for one in differences:
        table.add_row(f"{one.policy}\n  {one.against}", *_effect(one.effect))
    return table


def _curve(curve: Curve) -> RenderableType:
    if curve.rate is None:
        return Text("Learning curve: no round of the log matched")
    title = f"Learning curve: {curve.rate:.6g} over {curve.matched:,} matched rounds"
    if curve.capped > 0:
        title += f"; {curve.capped:.1%} of the log's rounds count for more than one"
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("rounds", "matched", "rate until then", "rate since the last"):
        table.add_column(name, justify="right", no_wrap=True)
    for point in curve.points:
        table.add_row(f"{point.rounds:,}", f"{point.matched:,}", f"{point.rate:.4g}", f"{point.recent:.4g}")
    return Group(Text(title), table)

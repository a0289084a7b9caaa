"""An evaluation for a terminal of 80 columns."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from engine.analysis.curve import Curve
from engine.analysis.estimate import Effect, NotEstimable
from engine.analysis.evaluate import Difference, EvaluationReport
from engine.analysis.judgement import Judgement, Valued


def render_evaluation(report: EvaluationReport) -> RenderableType:
    """The log's own mean, each policy with its verdict, checks and values, and the differences."""
    level = f"{1 - report.alpha:.0%}"
    head = (
        f"{report.placement}: {report.decisions:,} decisions of {report.customers:,} customers, {report.arms} offers, "
        f"{report.rewarded:,} rewarded"
    )
    own = report.on_policy
    logged = f"On-policy mean {own.value:.6g} ({own.low:.4g} to {own.high:.4g}, {level})"
    parts: list[RenderableType] = [Text(head, style="bold"), Text(logged)]
    for one in report.policies:
        parts += [Text(""), *_policy(one, level)]
    if report.differences:
        parts += [Text(""), _differences(report.differences, level)]
    return Group(*parts)


def _policy(one: Judgement, level: str) -> list[RenderableType]:
    good = one.verdict.can_be_judged
    verdict = ("CAN BE JUDGED", "bold green") if good else ("CANNOT BE JUDGED", "bold red")
    lines: list[RenderableType] = [
        Text.assemble((f"{one.policy} ", "bold"), f"({one.kind}, {one.arms} offers): ", verdict),
        *(Text(f"! {gate.why}", style="yellow") for gate in one.gates if not gate.ok),
        *(Text(f"- {note}") for note in one.notes),
        _gates(one),
        _values(one, level),
    ]
    if one.curve is not None:
        lines.append(_curve(one.curve))
    return lines


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
    table.add_column("empirical Bernstein", justify="right", no_wrap=True)
    named = (("IPS", one.ips), ("SNIPS", one.snips), ("DR", one.dr), ("SWITCH-DR", one.switch_dr))
    for name, value in named:
        table.add_row(name, *_numbers(value))
    return table


def _numbers(value: Valued | NotEstimable) -> list[str]:
    if isinstance(value, NotEstimable):
        return ["-", value.not_estimable, ""]
    wide = value.bernstein
    return [f"{value.value:.6g}", f"{value.low:.4g} to {value.high:.4g}", f"{wide.low:.4g} to {wide.high:.4g}"]


def _differences(differences: list[Difference], level: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("policy")
    table.add_column("against")
    table.add_column("difference (DR)", justify="right", no_wrap=True)
    table.add_column(f"{level} interval", justify="right")
    table.add_column("p", justify="right", no_wrap=True)
    for one in differences:
        effect = one.effect
        if isinstance(effect, Effect):
            said = [f"{effect.estimate:+.4g}", f"{effect.low:+.3g} to {effect.high:+.3g}", f"{effect.p:.3g}"]
        else:
            said = ["", effect.not_estimable, ""]
        table.add_row(one.policy, one.against, *said)
    return table


def _curve(curve: Curve) -> RenderableType:
    if curve.rate is None:
        return Text("Learning curve: no round of the log matched")
    title = f"Learning curve: {curve.rate:.6g} over {curve.matched:,} matched rounds"
    if curve.capped > 0:
        title += f"; {curve.capped:.1%} of the rounds were cut at one, a bias"
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("rounds", "matched", "rate until then", "rate since the last"):
        table.add_column(name, justify="right", no_wrap=True)
    for point in curve.points:
        table.add_row(f"{point.rounds:,}", f"{point.matched:,}", f"{point.rate:.4g}", f"{point.recent:.4g}")
    return Group(Text(title), table)

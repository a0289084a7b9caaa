"""The value of a plan's changed lines, and the rent of a shop's rules, as tables for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from engine.analysis.stats.estimate import Effect, NotEstimable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.analysis.planvalue.line_values import LineValue, LineVerdict, PlanValue
    from engine.analysis.planvalue.rent import RentReport, RentVerdict, RuleRent
    from engine.catalog.diff.yaml_lines import ChangedLine

LONGEST = 40
"""Characters of a value that a line shows."""
STYLES: dict[LineVerdict | RentVerdict, str] = {
    "earns": "bold green",
    "loses": "bold red",
    "costs": "bold red",
    "pays": "bold green",
    "open": "",
    "no effect": "dim",
    "cannot be judged": "yellow",
}


def render_plan_value(value: PlanValue) -> RenderableType:
    """The value of each changed line, and of all together."""
    head = f"{value.decisions:,} decisions of {value.customers:,} customers, {value.days:.1f} days, {value.currency}"
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("changed lines")
    table.add_column("decisions\nchanged", justify="right")
    table.add_column(f"per 1,000 decisions\n{1 - value.alpha:.0%} interval", justify="right")
    table.add_column("per 30 days\ninterval", justify="right")
    for line in value.lines:
        table.add_row(Text("\n".join(map(describe_line, line.lines))), *_cells(line))
    if value.together is not None:
        table.add_row(Text("all of them", style="bold"), *_cells(value.together))
    rows = [*value.lines, *([value.together] if value.together else [])]
    parts: list[RenderableType] = [Text(head, style="bold"), table]
    for row in rows:
        name = "all of them" if row is value.together else "; ".join(_place(line) for line in row.lines)
        parts += [Text(f"! {name}: {why}", style="yellow") for why in _reasons(row)]
        parts += [Text(f"- {name}: {note}") for note in row.notes]
    parts += [Text(f"- {note}") for note in [*_month_notes(rows), *value.notes]]
    if not value.lines:
        parts.append(Text("No line of YAML differs."))
    return Group(*parts)


def describe_line(line: ChangedLine) -> str:
    """A changed line as `offers/tea.yaml:7 lever 1 → 2`."""
    if not line.path:
        is_kept = msgspec.UNSET not in (line.old, line.new)
        return f"{line.file} {'changed' if is_kept else 'is new' if line.old is msgspec.UNSET else 'is removed'}"
    return f"{_place(line)} {line.path} {_short(line.old)} → {_short(line.new)}"


def summarize_line(line: LineValue, currency: str, *, named: bool = True) -> str:
    """A changed line's value in one line."""
    name = f"{'; '.join(map(describe_line, line.lines))}: " if named else ""
    value = line.per_thousand
    if isinstance(value, NotEstimable):
        return f"{name}{line.verdict}, {value.not_estimable}"
    interval = f"{value.low:+,.2f} to {value.high:+,.2f}"
    return f"{name}{line.verdict}, {value.estimate:+,.2f} {currency} per 1,000 decisions ({interval})"


def _place(line: ChangedLine) -> str:
    return f"{line.file}:{line.line}"


def _short(value: object) -> str:
    if value is msgspec.UNSET:
        return "nothing"
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def render_rent(report: RentReport) -> RenderableType:
    """The cost of each rule."""
    head = (
        f"{report.decisions:,} decisions of {report.customers:,} customers, {report.days:.1f} days, {report.currency}"
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("rule")
    table.add_column("decisions\nchanged", justify="right")
    table.add_column(f"costs per 1,000 decisions\n{1 - report.alpha:.0%} interval", justify="right")
    table.add_column("per 30 days\ninterval", justify="right")
    for rule in report.rules:
        table.add_row(f"{rule.where} {rule.rule} {_short(rule.value)}", *_cells(rule))
    parts: list[RenderableType] = [Text(head, style="bold"), table]
    for rule in report.rules:
        parts += [Text(f"! {rule.where} {rule.rule}: {why}", style="yellow") for why in _reasons(rule)]
    parts += [Text(f"- {note}") for note in _month_notes(report.rules)]
    if not report.rules:
        parts.append(Text("The shop has no rule that could be lifted."))
    return Group(*parts)


def _cells(line: LineValue | RuleRent) -> tuple[str, Text, Text]:
    style = STYLES[line.verdict]
    if isinstance(line.per_thousand, NotEstimable):
        return f"{line.changed:.1%}", Text(line.verdict, style=style), Text("")
    month = line.per_month
    per_month = Text("-") if isinstance(month, NotEstimable) else _figures(month, style, ",.0f")
    value = _figures(line.per_thousand, style, ",.2f")
    value.append(f"\n{line.verdict}")
    return f"{line.changed:.1%}", value, per_month


def _figures(effect: Effect, style: str, spec: str) -> Text:
    value = Text(f"{effect.estimate:+{spec}}", style=style)
    value.append(f"\n{effect.low:+{spec}} to {effect.high:+{spec}}")
    return value


def _reasons(line: LineValue | RuleRent) -> list[str]:
    """The reason why a line has no figures, with the remedy."""
    refused = line.per_thousand
    if not isinstance(refused, NotEstimable):
        return []
    return [f"{refused.not_estimable}. {refused.remedy}".removesuffix(". ")]


def _month_notes(lines: Sequence[LineValue | RuleRent]) -> list[str]:
    """The reason why lines with figures have none per month, once for all."""
    months = [line.per_month for line in lines if not isinstance(line.per_thousand, NotEstimable)]
    refused = [month.not_estimable for month in months if isinstance(month, NotEstimable)]
    return [f"per 30 days: {why}" for why in dict.fromkeys(refused)]

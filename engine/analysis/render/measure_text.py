"""A measurement report as text for a terminal, and its first table as a data frame."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from engine.analysis.measure.model import MeasureReport, MoneyFigure
from engine.analysis.render.tabular import import_library
from engine.analysis.stats.estimate import NotEstimable, format_level
from engine.errors import BadInput

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

    from engine.analysis.measure.model import ReportCell, ReportTable

MOST_ROWS = 40
"""Rows of a table that a terminal shows; JSON and the data frames have all."""


def render_measure(report: MeasureReport) -> RenderableType:
    """The report as text: its sentence, its money figure, its tables, and its limits."""
    lines: list[RenderableType] = [
        Text(""),
        Text(f"{title_of(report)}{f', as of {report.as_of}' if report.as_of else ''}", style="bold"),
        Text(report.sentence),
        Text(figure_text(report.money, report.currency)),
        Text(f"({report.standing})", style="dim" if report.standing == "causal" else "yellow"),
    ]
    for table in shown_tables(report):
        lines += [Text(""), Text(table.title, style="bold"), _table(table, report.currency)]
        if len(table.rows) > MOST_ROWS:
            lines.append(Text(f"The first {MOST_ROWS} of {len(table.rows):,} rows; --json has all.", style="dim"))
        if table.note:
            lines.append(Text(table.note, style="dim"))
    lines += [Text(""), *(Text(f"- {limit}", style="dim") for limit in report.limits)]
    return Group(*lines)


def shown_tables(report: MeasureReport) -> list[ReportTable]:
    """The tables of a report that have rows."""
    return [table for table in report.tables() if table.rows]


def title_of(report: MeasureReport) -> str:
    """The name of a report as a title."""
    return {"clv": "Customer lifetime value", "rfm": "Recency, frequency, money", "kpis": "KPI tree"}.get(
        report.report, report.report.capitalize()
    )


def figure_text(figure: MoneyFigure | NotEstimable, currency: str) -> str:
    """An amount with its interval, or the reason why there is none."""
    if isinstance(figure, NotEstimable):
        return f"Money: none, because {figure.not_estimable}."
    unit = f" {currency}" if currency else ""
    span = ""
    if figure.low is not None and figure.high is not None:
        span = f" ({format_level(figure.share)} interval {figure.low:z,.2f} to {figure.high:z,.2f})"
    return f"{figure.what.capitalize()}: {figure.estimate:z,.2f}{unit}{span}."


LEAST_SHOWN = 0.0001
"""Figures that are nearer to zero are shown as such: their digits say nothing."""


def cell_text(cell: ReportCell) -> str:
    """A unitless cell for people: large numbers without decimals, others with four significant digits."""
    if cell is None:
        return "-"
    if isinstance(cell, str):
        return cell
    if isinstance(cell, int) or float(cell).is_integer():
        return f"{cell:,.0f}"
    if abs(cell) < LEAST_SHOWN:
        return f"< {LEAST_SHOWN}" if cell > 0 else f"> -{LEAST_SHOWN}"
    return f"{cell:z,.0f}" if abs(cell) >= 10_000 else f"{cell:z,.2f}" if abs(cell) >= 100 else f"{cell:z.4g}"


def table_texts(table: ReportTable, currency: str = "") -> list[list[str]]:
    """A table's cells for people: the numbers of a column share unit and digits."""
    digits = [_digits(table, at) for at in range(len(table.columns))]
    return [
        [_unit_text(cell, table, (row, at), digits=digits[at], currency=currency) for at, cell in enumerate(cells)]
        for row, cells in enumerate(table.rows)
    ]


def table_names(table: ReportTable, currency: str = "") -> list[str]:
    """A table's column names, with the currency for columns of money."""
    units = [table.units.get(at) if name not in {"low", "high"} else "" for at, name in enumerate(table.columns)]
    return [
        f"{name} ({currency})" if currency and unit in {"money", "cents"} else name
        for name, unit in zip(table.columns, units, strict=True)
    ]


def _digits(table: ReportTable, column: int) -> int:
    """The decimals of a column of money or counts, given its largest number."""
    numbers = (row[column] for row in table.rows)
    most = max((abs(cell) for cell in numbers if isinstance(cell, int | float)), default=0.0)
    if table.units.get(column) == "count":
        return 0 if most >= 100 else 1
    return 0 if most >= 10_000 else 2


def _unit_text(cell: ReportCell, table: ReportTable, place: tuple[int, int], *, digits: int, currency: str) -> str:
    unit = table.unit_of(*place)
    if not unit or not isinstance(cell, int | float):
        return cell_text(cell)
    if unit == "share":
        return f"{cell:z.1%}"
    is_own = table.units.get(place[1]) == "row"
    if unit in {"money", "count"}:
        text = f"{cell:z,.{2 if is_own and abs(cell) < 10_000 else 0 if is_own else digits}f}"
        return f"{text} {currency}" if is_own and currency and unit == "money" else text
    decimals = {"score": 1, "decimal": 2, "cents": 2}[unit]
    return f"{cell:,}" if isinstance(cell, int) else f"{cell:z,.{decimals}f}"


def is_figure(table: ReportTable, column: int) -> bool:
    """Whether a column contains numbers."""
    cells = [row[column] for row in table.rows if row[column] is not None]
    return bool(cells) and all(isinstance(cell, int | float) for cell in cells)


def _table(table: ReportTable, currency: str) -> Table:
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for at, name in enumerate(table_names(table, currency)):
        shown.add_column(name, justify="right" if is_figure(table, at) else "left", overflow="fold")
    for row in table_texts(table, currency)[:MOST_ROWS]:
        shown.add_row(*map(Text, row))
    return shown


def first_table_columns(report: MeasureReport) -> dict[str, list[ReportCell]]:
    """The columns of the first table.

    Raises:
        BadInput: if the report has none.
    """
    found = report.tables()
    if not found:
        raise BadInput(f"{report.report}: has no table, since there is nothing to report")
    return {name: [row[at] for row in found[0].rows] for at, name in enumerate(found[0].columns)}


def first_table_pandas(report: MeasureReport) -> pd.DataFrame:
    """The first table as a pandas frame."""
    return import_library("pandas", "to_pandas()").DataFrame(first_table_columns(report))


def first_table_polars(report: MeasureReport) -> pl.DataFrame:
    """The first table as a polars frame."""
    frame: pl.DataFrame = import_library("polars", "to_polars()").DataFrame(first_table_columns(report), strict=False)
    return frame

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
    """The report: its sentence, its figure in money, its tables, and what it is not."""
    lines: list[RenderableType] = [
        Text(""),
        Text(f"{title_of(report)}{f', as of {report.as_of}' if report.as_of else ''}", style="bold"),
        Text(report.sentence),
        Text(figure_text(report.money, report.currency)),
        Text(f"({report.standing})", style="dim" if report.standing == "causal" else "yellow"),
    ]
    for table in report.tables():
        lines += [Text(""), Text(table.title, style="bold"), _table(table)]
        if len(table.rows) > MOST_ROWS:
            lines.append(Text(f"The first {MOST_ROWS} of {len(table.rows):,} rows; --json has all.", style="dim"))
        if table.note:
            lines.append(Text(table.note, style="dim"))
    lines += [Text(""), *(Text(f"- {limit}", style="dim") for limit in report.limits)]
    return Group(*lines)


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


def cell_text(cell: ReportCell, *, is_share: bool = False) -> str:
    """A cell for people: shares in percent, large numbers without decimals, others with four significant digits."""
    if cell is None:
        return "-"
    if isinstance(cell, str):
        return cell
    if is_share:
        return f"{cell:.1%}"
    if isinstance(cell, int) or float(cell).is_integer():
        return f"{cell:,.0f}"
    if abs(cell) < LEAST_SHOWN:
        return f"< {LEAST_SHOWN}" if cell > 0 else f"> -{LEAST_SHOWN}"
    return f"{cell:z,.0f}" if abs(cell) >= 10_000 else f"{cell:z,.2f}" if abs(cell) >= 100 else f"{cell:z.4g}"


def is_figure(table: ReportTable, column: int) -> bool:
    """Whether a column holds numbers."""
    cells = [row[column] for row in table.rows if row[column] is not None]
    return bool(cells) and all(isinstance(cell, int | float) for cell in cells)


def _table(table: ReportTable) -> Table:
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for at, name in enumerate(table.columns):
        shown.add_column(name, justify="right" if is_figure(table, at) else "left", overflow="fold")
    for row in table.rows[:MOST_ROWS]:
        shown.add_row(*(Text(cell_text(cell, is_share=at in table.shares)) for at, cell in enumerate(row)))
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

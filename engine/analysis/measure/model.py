"""The form of every measurement report: a sentence, a money figure, a picture, tables, and limits.

A report is a frozen struct with its own typed fields; `tables` and `picture` show them, so that terminal, page and
dashboard render every report alike and compute nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec

from engine.analysis.stats.estimate import NotEstimable

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    from altair import LayerChart

ReportCell: TypeAlias = str | int | float | None
CellUnit = Literal["", "money", "cents", "share", "count", "score", "decimal", "row"]
"""What a number of a table is, which says how people read it.

Money has two decimals up to 10,000, `cents` always; a share is in percent; an expected `count` of customers or orders
has none from 100 on; a `score` has one, a `decimal` two. A column of `row` has the unit of each row.
"""
Standing = Literal["causal", "observational", "not causal", "descriptive"]
"""Whether a report's figures are effects: randomized, compared without randomization, credited by rule, or counted."""


class MoneyFigure(msgspec.Struct, frozen=True, kw_only=True):
    """An amount in the shop's currency with its meaning; `low` and `high` are None if it is counted.

    `share` is the coverage of the interval.
    """

    what: str
    estimate: float
    low: float | None = None
    high: float | None = None
    share: float = 0.95


def count_of(number: int, noun: str) -> str:
    """A count with its noun, such as `1 edge` or `2 edges`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def units_of(unit: CellUnit, *columns: int) -> dict[int, CellUnit]:
    """One unit for several columns of a table."""
    return dict.fromkeys(columns, unit)


class ReportTable(msgspec.Struct, frozen=True, kw_only=True):
    """A table of a report. A column of numbers is flush right; None is a cell without a number.

    `units` are those of the columns by their place, `row_units` those of the rows for columns of the unit `row`.
    """

    title: str
    columns: list[str]
    rows: list[list[ReportCell]]
    note: str = ""
    units: dict[int, CellUnit] = {}
    row_units: list[CellUnit] = []

    def unit_of(self, row: int, column: int) -> CellUnit:
        """The unit of a cell."""
        unit = self.units.get(column, "")
        return self.row_units[row] if unit == "row" else unit


class PictureMark(msgspec.Struct, frozen=True, kw_only=True):
    """One bar, point or node: its name, value, interval if any, and series."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    series: str = ""
    at: float = 0.0
    """Its place on the horizontal axis of a picture of lines."""


class PictureLink(msgspec.Struct, frozen=True, kw_only=True):
    """An edge of a tree between two marks, by name, with its state and label."""

    start: str
    end: str
    state: str
    label: str = ""


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """A picture of a report: horizontal bars, lines over a number, or a tree of marks with links.

    In a tree `at` is a mark's place from left to right, from 0 to 1, `value` its row from the bottom, `series` the
    row's name.
    """

    shape: Literal["bars", "lines", "tree"]
    title: str
    marks: list[PictureMark]
    links: list[PictureLink] = []
    unit: Literal["money", "share", "number"] = "number"
    axis: str = ""


class MeasureReport(msgspec.Struct, frozen=True, kw_only=True):
    """The part that all measurement reports share.

    `standing` is whether the figures are causal, and `limits` are sentences on what they are not.
    """

    report: str
    as_of: str
    sentence: str
    money: MoneyFigure | NotEstimable
    standing: Standing
    limits: list[str]
    currency: str = ""

    def json(self) -> bytes:
        """The report as JSON."""
        return msgspec.json.encode(self)

    def tables(self) -> list[ReportTable]:
        """The tables of the report, the most important first."""
        return []

    def picture(self) -> Picture | None:
        """The picture of the report; None if nothing can be estimated."""
        return None

    def _repr_html_(self) -> str:
        """The report as HTML for notebooks, without its picture; see `plot`."""
        from engine.analysis.render.measure_page import measure_notebook  # noqa: PLC0415 # as in `Report`

        return measure_notebook(self)

    def to_polars(self) -> pl.DataFrame:
        """The first table.

        Raises:
            BadInput: if polars is not installed.
        """
        from engine.analysis.render.measure_text import first_table_polars  # noqa: PLC0415

        return first_table_polars(self)

    def to_pandas(self) -> pd.DataFrame:
        """The first table.

        Raises:
            BadInput: if pandas is not installed.
        """
        from engine.analysis.render.measure_text import first_table_pandas  # noqa: PLC0415

        return first_table_pandas(self)

    def plot(self) -> LayerChart:
        """The picture as an Altair chart.

        Raises:
            BadInput: if altair is not installed, or the report has no picture.
        """
        from engine.analysis.render.measure_page import measure_chart  # noqa: PLC0415

        return measure_chart(self)

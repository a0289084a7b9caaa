"""The tables of the pages, shown to people and downloaded as CSV or JSON with the same values."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from engine.analysis.checks.lights import Tone
from engine.dashboard.figures import (
    NONE,
    format_figure,
    format_latency,
    format_moment,
    format_money,
    format_share,
    format_span,
)

CellValue = str | int | float | bool | None

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""Beginnings of a text that a spreadsheet would run as a formula."""


class TableCell(msgspec.Struct, frozen=True):
    """One cell: its value, its text for people, its link, and whether it is good or bad news."""

    value: CellValue
    text: str = ""
    href: str = ""
    tone: Tone = ""

    @property
    def shown(self) -> str:
        """The text for people."""
        if self.text:
            return self.text
        if self.value is None:
            return NONE
        return str(self.value)


class TableColumn(msgspec.Struct, frozen=True):
    """One column: its name in downloads, its title, and whether it holds figures, which are flush right."""

    name: str
    title: str
    is_figure: bool = False


class DataTable(msgspec.Struct, frozen=True, kw_only=True):
    """A table with its caption; `empty` is the advice shown without rows."""

    name: str
    title: str
    columns: list[TableColumn]
    rows: list[list[TableCell]]
    note: str = ""
    empty: str = "Nothing is here yet."

    @property
    def records(self) -> list[dict[str, CellValue]]:
        """The rows as mappings from column to value."""
        names = [column.name for column in self.columns]
        return [dict(zip(names, (cell.value for cell in row), strict=True)) for row in self.rows]


def columns_of(titles: Mapping[str, str], *, figures: Iterable[str] = ()) -> list[TableColumn]:
    """Columns from names and titles; those in `figures` are flush right."""
    numeric = set(figures)
    return [TableColumn(name, title, name in numeric) for name, title in titles.items()]


def text_cell(value: object, *, href: str = "", tone: Tone = "") -> TableCell:
    """A cell of text."""
    return TableCell("" if value is None else str(value), href=href, tone=tone)


def count_cell(value: float | None, *, tone: Tone = "") -> TableCell:
    """A cell with a number."""
    return TableCell(value, format_figure(value), tone=tone)


def share_cell(value: float | None, *, tone: Tone = "") -> TableCell:
    """A cell with a share."""
    return TableCell(value, format_share(value), tone=tone)


def money_cell(value: float | None, currency: str, *, signed: bool = False, tone: Tone = "") -> TableCell:
    """A cell with an amount."""
    return TableCell(value, format_money(value, currency, signed=signed), tone=tone)


def moment_cell(value: float | str | None) -> TableCell:
    """A cell with a time."""
    return TableCell(value, format_moment(value).replace(" ", "\N{NO-BREAK SPACE}"))


def span_cell(seconds: float | None) -> TableCell:
    """A cell with a span of time, in seconds."""
    return TableCell(seconds, format_span(seconds))


def latency_cell(seconds: float | None) -> TableCell:
    """A cell with a latency, in seconds."""
    return TableCell(seconds, format_latency(seconds))


def table_csv(table: DataTable) -> bytes:
    """The table as CSV with a header; texts are escaped so that spreadsheets run no formula."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow([column.name for column in table.columns])
    writer.writerows([_csv_value(cell.value) for cell in row] for row in table.rows)
    return out.getvalue().encode()


def table_json(tables: Sequence[DataTable]) -> bytes:
    """One table as a list of records, or several by name."""
    if len(tables) == 1:
        return msgspec.json.encode(tables[0].records)
    return msgspec.json.encode({table.name: table.records for table in tables})


def _csv_value(value: CellValue) -> CellValue:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value

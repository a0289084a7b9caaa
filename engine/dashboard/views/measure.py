"""Measurement reports: a sentence, a money figure, a picture, tables, and limits."""

from engine.analysis.measure.model import MeasureReport, Picture, ReportTable
from engine.analysis.render.measure_text import figure_text, is_figure, table_names, table_texts, title_of
from engine.dashboard.board.measure_names import MEASURES
from engine.dashboard.board.results import Job
from engine.dashboard.charts.bars import Bar, BarChart, bar_chart
from engine.dashboard.charts.lines import Line, LineChart, LinePoint, number_chart
from engine.dashboard.charts.tree import tree_chart
from engine.dashboard.figures import format_figure, format_money, format_share, format_short
from engine.dashboard.tables import DataTable, TableCell, TableColumn
from engine.dashboard.web import Page, PageVisit, link_to
from engine.service.problems import Refusal

EMPTY = "Nothing is here yet. The sentence above says what is missing; it fills as customers see, click and order."


async def measures(visit: PageVisit) -> Page:
    """The page of all reports, each with its sentence."""
    cards = []
    for name, (title, question) in MEASURES.items():
        result = visit.desk.results.read(Job("measure", name))
        report = result.value if result is not None and isinstance(result.value, MeasureReport) else None
        cards.append(
            {
                "href": link_to("measure", name),
                "title": title,
                "question": question,
                "sentence": report.sentence if report else (result.reason if result else "It is being computed."),
                "standing": report.standing if report else "",
                "waits": result is None,
            }
        )
    return Page(template="measures.html", title="Measure", context={"cards": cards})


async def measure(visit: PageVisit) -> Page:
    """The page of one report."""
    name = visit.path["name"]
    if name not in MEASURES:
        raise Refusal(404, f"{name!r} is not a report; the reports are {', '.join(MEASURES)}")
    result = visit.desk.results.read(Job("measure", name))
    report = result.value if result is not None and isinstance(result.value, MeasureReport) else None
    picture = report.picture() if report else None
    return Page(
        template="measure.html",
        title=title_of(report) if report else MEASURES[name][0],
        context={
            "name": name,
            "question": MEASURES[name][1],
            "report": report,
            "figure": figure_text(report.money, report.currency) if report else "",
            "reason": result.reason if result else "",
            "computed": result.at if result else None,
            "bars": _bars(picture, report.currency) if picture and report and picture.shape == "bars" else None,
            "lines": _lines(picture) if picture and picture.shape == "lines" else None,
            "tree": tree_chart(picture.title, picture.marks, picture.links)
            if picture and picture.shape == "tree"
            else None,
            "picture_title": picture.title if picture else "",
        },
        tables=tuple(data_table(at, table, report.currency) for at, table in enumerate(report.tables()))
        if report
        else (),
    )


def data_table(at: int, table: ReportTable, currency: str = "") -> DataTable:
    """A report's table as one of the pages."""
    names = table_names(table, currency)
    columns = [
        TableColumn(name, shown, is_figure(table, place))
        for place, (name, shown) in enumerate(zip(table.columns, names, strict=True))
    ]
    rows = [
        [TableCell(cell, text) for cell, text in zip(cells, texts, strict=True)]
        for cells, texts in zip(table.rows, table_texts(table, currency), strict=True)
    ]
    return DataTable(name=f"t{at}", title=table.title, columns=columns, rows=rows, note=table.note, empty=EMPTY)


def _bars(picture: Picture, currency: str) -> BarChart | None:
    def text(value: float) -> str:
        if picture.unit == "money":
            return format_money(value, currency)
        return format_share(value) if picture.unit == "share" else format_figure(value)

    bars = [
        Bar(name=mark.name, value=mark.value, text=text(mark.value), low=mark.low, high=mark.high, series=mark.series)
        for mark in picture.marks[:60]
    ]
    return bar_chart(picture.title, bars)


def _lines(picture: Picture) -> LineChart | None:
    series = list(dict.fromkeys(mark.series for mark in picture.marks))[:12]
    lines = [
        Line(name, [LinePoint(m.at, m.value, m.low, m.high) for m in picture.marks if m.series == name])
        for name in series
    ]
    tick = format_share if picture.unit == "share" else format_short
    return number_chart(picture.title, lines, tick=tick, axis=picture.axis)

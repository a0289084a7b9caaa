"""A measurement report as one HTML page: a sentence, a figure, a picture, tables, and limits."""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING

from engine.analysis.measure.model import MoneyFigure
from engine.analysis.render.html import page, paragraphs
from engine.analysis.render.measure_text import figure_text, is_figure, shown_tables, table_names, table_texts, title_of
from engine.analysis.render.tabular import import_library
from engine.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import ModuleType

    from altair import LayerChart

    from engine.analysis.measure.model import MeasureReport, Picture, ReportTable
    from engine.analysis.render.html import Place

MOST_PAGE_ROWS = 200
LONG_TEXT = 24
"""Characters of a cell from which its column is not squeezed into a few letters; a narrow page scrolls the table."""
_STYLE = """<style>
.standing { display: inline-block; padding: .1rem .6rem; border: 2px solid #c98a00; color: #8a4b00; font-weight: 700 }
.standing.causal { border-color: #1a7f4b; color: #1a7f4b } .figure { font-size: 1.25rem; font-weight: 600 }
td.long { min-width: 13rem }
section + section { border-top: 1px solid #d5dae0; margin-top: 3rem; padding-top: 2rem }
.sentence { font-size: 1.15rem } .scroll { overflow-x: auto } [id^=chart] { width: 100%; max-width: 50rem }
</style>"""
_FORMATS = {"money": ",.0f", "share": ".0%", "number": ",.3~r"}
_STATES = {"validated": ("#1a7f4b", [1, 0]), "correlational": ("#c98a00", [6, 3]), "assumed": ("#9a9a9a", [2, 3])}
"""The colour and the dashes of a tree's links, by state."""
_SPLIT = ": "
"""The separator in a bar's name: the text after it is on a second line."""
_SERIES = 12
"""Series of a picture that get a colour of their own and a place in its legend."""


def measure_html(*reports: MeasureReport) -> str:
    """Reports as one page, linked to each other; needs the extra `dashboard`.

    Raises:
        MissingExtra: if the extra is not installed.
    """

    def body(alt: ModuleType, place: Place) -> Iterable[str]:
        yield _STYLE
        if len(reports) > 1:
            yield _contents(reports)
        for report in reports:
            yield f'<section id="{html.escape(report.report)}">'
            yield _head(report)
            picture = report.picture()
            if picture is not None and picture.marks:
                yield place(_chart(alt, picture))
            yield from (_table(table, report.currency) for table in shown_tables(report))
            yield _limits(report)
            yield "</section>"

    return page(title_of(reports[0]) if len(reports) == 1 else "All reports", body)


def _contents(reports: Sequence[MeasureReport]) -> str:
    """A line per report: its linked title and its figure in money."""
    items = "".join(
        f'<li><a href="#{html.escape(one.report)}">{html.escape(title_of(one))}</a>: '
        f"{html.escape(figure_text(one.money, one.currency))} ({html.escape(one.standing)})</li>"
        for one in reports
    )
    return f"<h1>All reports</h1><ul>{items}</ul>"


def measure_notebook(report: MeasureReport) -> str:
    """The report as a fragment of HTML without its picture and scripts, for notebooks."""
    return "".join(
        (_STYLE, _head(report), *(_table(table, report.currency) for table in shown_tables(report)), _limits(report))
    )


def measure_chart(report: MeasureReport) -> LayerChart:
    """The picture of a report as an Altair chart.

    Raises:
        BadInput: if altair is not installed, or the report has no picture.
    """
    picture = report.picture()
    if picture is None or not picture.marks:
        raise BadInput(f"{report.report}: has no picture, since there is nothing to show")
    return _chart(import_library("altair", "plot()"), picture)


def _head(report: MeasureReport) -> str:
    as_of = (
        f'<p class="as-of">As of {html.escape(report.as_of[:16].replace("T", " "))} UTC.</p>' if report.as_of else ""
    )
    kind = "figure" if isinstance(report.money, MoneyFigure) else "note"
    causal = " causal" if report.standing == "causal" else ""
    return (
        f"<h1>{html.escape(title_of(report))}</h1>{as_of}"
        f'<p class="sentence">{html.escape(report.sentence)}</p>'
        f"{''.join(paragraphs([figure_text(report.money, report.currency)], kind))}"
        f'<p><span class="standing{causal}">{html.escape(report.standing)}</span></p>'
    )


def _limits(report: MeasureReport) -> str:
    items = "".join(f"<li>{_escape(limit)}</li>" for limit in report.limits)
    return f"<h2>What this is not</h2><ul>{items}</ul>" if items else ""


def _table(table: ReportTable, currency: str) -> str:
    figures = [is_figure(table, at) for at in range(len(table.columns))]
    widest = [_longest(table, at) for at in range(len(figures))]
    kinds = [
        ' class="n"' if figure else ' class="long"' if wide > LONG_TEXT else ""
        for figure, wide in zip(figures, widest, strict=True)
    ]
    names = table_names(table, currency)
    head = "".join(f"<th{kind}>{html.escape(name)}</th>" for kind, name in zip(kinds, names, strict=True))
    rows = "".join(
        "<tr>" + "".join(f"<td{kind}>{_escape(cell)}</td>" for kind, cell in zip(kinds, row, strict=True)) + "</tr>"
        for row in table_texts(table, currency)[:MOST_PAGE_ROWS]
    )
    more = len(table.rows) - MOST_PAGE_ROWS
    notes = [table.note, f"{more:,} more rows are in the JSON." if more > 0 else ""]
    return (
        f'<h2>{html.escape(table.title)}</h2><div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>{''.join(paragraphs(notes, 'note'))}"
    )


def _escape(text: str) -> str:
    """A text as HTML, with backticked parts as code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", html.escape(text))


def _longest(table: ReportTable, column: int) -> int:
    texts = (cell for row in table.rows for cell in (row[column],) if isinstance(cell, str))
    return max(map(len, texts), default=0)


def _chart(alt: ModuleType, picture: Picture) -> LayerChart:
    """Bars or lines as wide as the page, with intervals where the marks have them."""
    rows = [
        {"name": m.name, "value": m.value, "low": m.low, "high": m.high, "series": m.series, "at": m.at}
        for m in picture.marks
    ]
    base = alt.Chart(alt.Data(values=rows), title=alt.Title(picture.title, anchor="start"), width="container")
    if picture.shape == "tree":
        return _tree(alt, picture)
    series = list(dict.fromkeys(mark.series for mark in picture.marks))
    colour = alt.Color("series:N", title=None, sort=None) if 1 < len(series) <= _SERIES else alt.value("#2f6f9f")
    value = alt.Axis(format=_FORMATS[picture.unit], title=picture.axis or None)
    if picture.shape == "lines":
        scaled = {"x": alt.X("at:Q", title=picture.axis or None), "color": colour, "detail": "series:N"}
        plain = alt.Axis(format=_FORMATS[picture.unit], title=None)
        layers = [base.mark_line(point=True).encode(y=alt.Y("value:Q", axis=plain), **scaled)]
    else:
        is_split = any(_SPLIT in mark.name for mark in picture.marks)
        lines = {"labelExpr": f"split(datum.label, '{_SPLIT}')"} if is_split else {}
        y = alt.Y("name:N", title=None, sort=None, axis=alt.Axis(labelLimit=180, **lines))
        place = {"yOffset": alt.YOffset("series:N", sort=None)} if len(series) > 1 else {}
        base = base.properties(height={"step": 14 if len(series) > 1 else 36 if is_split else 24})
        layers = [base.mark_bar(opacity=0.8).encode(y=y, x=alt.X("value:Q", axis=value), color=colour, **place)]
        if any(mark.low is not None for mark in picture.marks):
            layers.append(base.mark_rule(strokeWidth=2).encode(y=y, x="low:Q", x2="high:Q", **place))
    chart: LayerChart = alt.layer(*layers).configure_view(stroke=None)
    return chart


def _tree(alt: ModuleType, picture: Picture) -> LayerChart:
    """Marks in rows, the first at the bottom, with a line for each link in the colour of its state."""
    places = {mark.name: (mark.at, mark.value) for mark in picture.marks}
    links = [
        {
            "x": places[one.start][0],
            "y": places[one.start][1],
            "x2": places[one.end][0],
            "y2": places[one.end][1],
            "state": one.state,
            "label": one.label,
            "mx": (2 * places[one.start][0] + places[one.end][0]) / 3,
            "my": (2 * places[one.start][1] + places[one.end][1]) / 3,
        }
        for one in picture.links
        if one.start in places and one.end in places
    ]
    nodes = [{"name": mark.name, "x": mark.at, "y": mark.value, "row": mark.series} for mark in picture.marks]
    rows = {mark.value: mark.series for mark in picture.marks}
    most = max(rows, default=0.0)
    x = alt.X("x:Q", axis=None, scale=alt.Scale(domain=[0, 1]))
    y = alt.Y("y:Q", axis=None, scale=alt.Scale(domain=[-0.5, most + 0.6]))
    states = alt.Scale(domain=list(_STATES), range=[colour for colour, _ in _STATES.values()])
    dashes = alt.Scale(domain=list(_STATES), range=[dash for _, dash in _STATES.values()])
    legend = alt.Legend(title=None, orient="bottom")
    lines = alt.Chart(alt.Data(values=links)).mark_rule(strokeWidth=3)
    lines = lines.encode(
        x=x,
        y=y,
        x2="x2:Q",
        y2="y2:Q",
        color=alt.Color("state:N", scale=states, legend=legend),
        strokeDash=alt.StrokeDash("state:N", scale=dashes, legend=legend),
    )
    labels = alt.Chart(alt.Data(values=links)).mark_text(fontSize=11, dx=4, align="left", color="#333333")
    labels = labels.encode(x=alt.X("mx:Q", axis=None), y=alt.Y("my:Q", axis=None), text="label:N")
    base = alt.Chart(alt.Data(values=nodes))
    dots = base.mark_point(filled=True, size=140, opacity=1, color="#22313f").encode(x=x, y=y)
    word = {"fontSize": 12, "fontWeight": "bold"}
    below = base.transform_filter(f"datum.y < {most}").mark_text(dy=17, **word).encode(x=x, y=y, text="name:N")
    above = base.transform_filter(f"datum.y >= {most}").mark_text(dy=-14, **word).encode(x=x, y=y, text="name:N")
    tiers = alt.Chart(alt.Data(values=[{"x": 0.0, "y": at, "row": name} for at, name in rows.items()]))
    tiers = tiers.mark_text(fontSize=11, align="left", dy=34, color="#6b6b6b").encode(x=x, y=y, text="row:N")
    chart: LayerChart = alt.layer(
        *(lines, labels, dots, below, above, tiers),
        title=alt.Title(picture.title, anchor="start"),
        width="container",
        height=320,
    ).configure_view(stroke=None)
    return chart

"""The list of experiments: state, days left, traffic, lights, the next decision."""

from collections.abc import Sequence

from engine.dashboard.figures import DAY, format_share
from engine.dashboard.tables import DataTable, TableCell, columns_of, count_cell, span_cell, text_cell
from engine.dashboard.views.summary import STATE_TONES, Summary, keep_fresh, summaries
from engine.dashboard.web import Page, PageVisit

SHOWN = 50
"""Experiments on one page of the list."""


async def experiments(visit: PageVisit) -> Page:
    """The list, filtered by words and by state, a page at a time."""
    words, state = visit.query.get("q", "").strip().lower(), visit.query.get("state", "")
    found = summaries(visit.desk)
    states = {name: sum(one.state == name for one in found) for name in dict.fromkeys(one.state for one in found)}
    chosen = [one for one in found if (not state or one.state == state) and _matches(one, words)]
    number = _page_number(visit.query.get("page", "1"), len(chosen))
    shown = chosen[(number - 1) * SHOWN : number * SHOWN]
    keep_fresh(visit.desk, shown)
    return Page(
        template="experiments.html",
        title="Experiments",
        context={
            "shown": shown,
            "total": len(chosen),
            "number": number,
            "pages": max(1, -(-len(chosen) // SHOWN)),
            "states": states,
            "state": state,
            "words": visit.query.get("q", ""),
        },
        tables=(experiments_table("experiments", chosen),),
    )


def experiments_table(name: str, found: Sequence[Summary]) -> DataTable:
    """The experiments as a table."""
    titles = {
        "experiment": "Experiment",
        "state": "State",
        "owner": "Owner",
        "coverage": "Coverage",
        "units": "Units seen",
        "days_left": "Left",
        "verdict": "Verdict",
        "effect": "Effect",
        "money_per_month": "Worth a month",
        "checks": "Checks",
        "why": "Why",
    }
    return DataTable(
        name=name,
        title="Experiments",
        columns=columns_of(titles, figures=("coverage", "units", "days_left", "money_per_month")),
        rows=[_row(one) for one in found],
        empty="No experiment is here. Write one in the editor, or change the filter above.",
    )


def _row(one: Summary) -> list[TableCell]:
    faults = [f"{light.name}: {light.text}" for light in one.lights if light.tone in {"bad", "warn"}]
    return [
        text_cell(one.key, href=one.href),
        text_cell(one.state, tone=STATE_TONES.get(one.state, "")),
        text_cell(one.owner),
        TableCell(one.spec.coverage, format_share(one.spec.coverage)),
        count_cell(one.units),
        span_cell(None if one.days_left is None else one.days_left * DAY),
        text_cell(one.verdict, tone=one.tone),
        text_cell(one.effect),
        TableCell(one.money.estimate if one.money else None, one.money_short),
        text_cell(" ".join(faults)),
        text_cell(one.why or one.reason),
    ]


def _matches(one: Summary, words: str) -> bool:
    text = f"{one.key} {one.title} {one.owner} {one.spec.hypothesis or ''}".lower()
    return all(word in text for word in words.split())


def _page_number(text: str, total: int) -> int:
    last = max(1, -(-total // SHOWN))
    return min(max(int(text), 1), last) if text.isascii() and text.isdigit() else 1

"""Current throughput, latency, lag and degraded answers, updated by server-sent events."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import msgspec

from engine.dashboard.tables import DataTable, TableCell, columns_of, text_cell
from engine.dashboard.views.overview import engine_lights
from engine.dashboard.web import Page, PageVisit, Stream

EVENT_SECONDS = 1.0
LONGEST_SECONDS = 3_600.0
"""Seconds after which a stream ends; a page that is still open connects again, with its session checked again."""

FIGURES = {
    "decisions": "Decisions",
    "p50": "Latency, median",
    "p95": "Latency, 95 of 100",
    "p99": "Latency, 99 of 100",
    "degraded": "Degraded answers",
    "events": "Events",
    "lag": "Waiting in the spools",
    "log": "Log written",
}
"""The figures of the page, with their titles."""


async def live(visit: PageVisit) -> Page:
    """The page with the current figures; a script updates them."""
    desk = visit.desk
    figures = desk.live.read()
    titles = {"figure": "Figure", "value": "Value"}
    rows = [[text_cell(title), TableCell(figures[name].value, figures[name].text)] for name, title in FIGURES.items()]
    table = DataTable(name="figures", title="Now", columns=columns_of(titles, figures=("value",)), rows=rows)
    return Page(
        template="live.html",
        title="Live",
        context={
            "figures": figures,
            "titles": FIGURES,
            "is_shared": desk.live.is_shared,
            "health": await engine_lights(visit),
            "job": desk.refresher.running,
        },
        tables=(table,),
    )


async def live_events(visit: PageVisit) -> Stream:
    """The figures, once a second until the process stops."""
    stopping = visit.desk.stopping

    async def parts() -> AsyncIterator[bytes]:
        for _ in range(int(LONGEST_SECONDS / EVENT_SECONDS)):
            yield b"data: " + msgspec.json.encode(visit.desk.live.read()) + b"\n\n"
            with suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), EVENT_SECONDS)
            if stopping.is_set():
                return

    return Stream(parts=parts(), media_type="text/event-stream")

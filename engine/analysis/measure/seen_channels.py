"""What customers did on each channel, from all days: read once for the reports that ask."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from engine.analysis.measure.daily.tables import daily_table
from engine.analysis.sources.duckdb_expressions import text_literal
from engine.vocabulary import NOT_VISITS

if TYPE_CHECKING:
    from engine.analysis.measure.sources import EventSource

_USED: Final = """
SELECT customer, channel, CAST(sum(n) AS BIGINT) AS n, max(time) AS last FROM {visits}
WHERE event NOT IN ({not_visits}) AND NOT starts_with(event, '$') GROUP BY ALL
"""
_STATED: Final = """
SELECT customer, channel, motive, min(time) AS time, CAST(sum(n) AS BIGINT) AS n FROM {rows}
WHERE motive IS NOT NULL GROUP BY ALL
"""


def used_channels(source: EventSource) -> str:
    """The table `customer, channel, n, last` of events that are visits; a row without a channel has those without."""

    def build() -> str:
        source.create("used_channels", _USED, not_visits=", ".join(map(text_literal, sorted(NOT_VISITS))))
        return "used_channels"

    return source.once("used channels", build)


def stated_motives(source: EventSource) -> str:
    """The table `customer, channel, motive, time, n`: when a motive was stated first on a channel, and how often."""

    def build() -> str:
        if source.daily is None:
            source.create("stated_motives", _STATED.replace("{rows}", "{motives}"))
        else:
            source.load_ordered(daily_table("motives"), "stated_motives", _STATED)
        return "stated_motives"

    return source.once("stated motives", build)

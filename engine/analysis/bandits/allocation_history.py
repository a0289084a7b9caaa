"""The counts of each offer's choices at a placement over time, by channel, from the log's decisions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from engine.analysis.design.log_times import SECOND
from engine.analysis.sources.engines import DuckDB
from engine.analysis.sources.log import read_log_table
from engine.analysis.sources.log_read_lock import lock_log_for_reading
from engine.errors import BadInput

if TYPE_CHECKING:
    from pathlib import Path

MOST_BUCKETS = 24
_STEPS = (5, 15, 60, 300, 900, 3_600, 10_800, 43_200, 86_400, 604_800, 2_592_000)
ALL_CHANNELS = "(all)"


class AllocationHistory(msgspec.Struct, frozen=True, kw_only=True):
    """A placement's decisions by policies, in spans of `step` seconds that begin at `times`.

    `chosen` has, by channel and offer, the decisions of each span; the channel `(all)` adds them up.
    """

    placement: str
    step: int
    times: list[float]
    chosen: dict[str, dict[str, list[int]]]


def allocation_history(log_dir: Path, placement: str) -> AllocationHistory:
    """The history of a placement.

    Raises:
        BadInput: if the log has no decision of it by a policy.
    """
    with lock_log_for_reading(log_dir):
        source = DuckDB()
        decisions = read_log_table(source, log_dir, "decisions")
        chosen = (decisions["key"] == placement) & (decisions["kind"] == "offer") & decisions["policy"].notnull()
        decided = decisions.filter(chosen)
        first, last = source.rows(decided.aggregate(first=decided["time"].min(), last=decided["time"].max()))[0]
        if first is None or last is None:
            raise BadInput(f"placement {placement!r}: no policy has decided on it yet; its first decision shows here")
        seconds = (int(last) - int(first)) / SECOND
        step = next((step for step in _STEPS if seconds / step < MOST_BUCKETS), _STEPS[-1])
        bucket = (decided["time"] // (step * SECOND)).cast("int64")
        counted = decided.group_by(bucket=bucket, channel=decided["channel"], offer=decided["variant"])
        rows = source.rows(counted.aggregate(n=decided.count()))
    begin, end = int(first) // (step * SECOND), int(last) // (step * SECOND)
    size = end - begin + 1
    found: dict[str, dict[str, list[int]]] = {ALL_CHANNELS: {}}
    for at, channel, offer, number in rows:
        for name in (ALL_CHANNELS, str(channel)):
            counts = found.setdefault(name, {}).setdefault(str(offer), [0] * size)
            counts[int(at or 0) - begin] += int(number or 0)
    ordered = {name: dict(sorted(offers.items(), key=lambda item: -sum(item[1]))) for name, offers in found.items()}
    times = [float((begin + at) * step) for at in range(size)]
    return AllocationHistory(placement=placement, step=step, times=times, chosen=ordered)

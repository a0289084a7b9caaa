"""Finds flags that the code can drop: the log has one value for 90 days, or no decisions on the flag any more."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from engine.analysis.design.log_times import SECOND
from engine.analysis.sources.engines import DuckDB
from engine.analysis.sources.log import read_log_table
from engine.analysis.sources.log_read_lock import lock_log_for_reading
from engine.catalog.spec.flags import RULE
from engine.vocabulary import DAY

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from engine.catalog.spec.experiment import ExperimentSpec

STALE_DAYS = 90
"""Days with one value after which a flag is stale."""
FORCED = "forced"
"""The reason of testers and staff, whose values say nothing of the flag."""


class StaleFlag(msgspec.Struct, frozen=True, kw_only=True):
    """A flag with one value since a day (RFC 3339), or last decided on that day; `text` adds the remedy.

    `variant` is None where the code no longer evaluates the flag, or where it gave no variant.
    """

    key: str
    variant: str | None
    since: str
    days: int
    text: str


class _Seen(msgspec.Struct, frozen=True):
    """The first and last time of a value in the log (s since 1970), and a variant that has it."""

    first: float
    last: float
    variant: str | None


def find_stale_flags(flags: Mapping[str, ExperimentSpec], log_dir: Path, now: float) -> list[StaleFlag]:
    """The stale experiments and flags by the log until `now` (s since 1970), in their order.

    Values are compared, not variants: two variants with equal payloads give one value. Values of testers who are forced
    do not count, nor do those of experiments that are no flags.

    Raises:
        BadInput: if the folder is no log.
    """
    specs = {key: spec for key, spec in flags.items() if spec.kind == "flag"}
    if not specs:
        return []
    found: dict[str, dict[bytes, _Seen]] = {}
    for key, variant, first, last in _read_values(log_dir, now):
        flag = key.partition(RULE)[0]
        if flag in specs:
            value = _value(specs[flag], variant)
            known = found.setdefault(flag, {})
            before = known.get(value, _Seen(first, last, variant))
            name = variant if last >= before.last else before.variant
            known[value] = _Seen(min(first, before.first), max(last, before.last), name)
    stale = (_judge(key, list(found[key].values()), now) for key in specs if key in found)
    return [one for one in stale if one is not None]


def _read_values(log_dir: Path, now: float) -> list[tuple[str, str | None, float, float]]:
    """Key, variant, and its first and last time (s since 1970), of every experiment and rule in the log."""
    with lock_log_for_reading(log_dir):
        source = DuckDB()
        decided = read_log_table(source, log_dir, "decisions")
        decided = decided.filter(
            (decided["kind"] == "experiment") & (decided["reason"] != FORCED) & (decided["time"] <= int(now * SECOND))
        )
        times = decided.group_by("key", "variant").aggregate(
            first=decided["time"].min(),
            last=decided["time"].max(),
        )
        rows = source.rows(times)
    return [
        (str(key), None if variant is None else str(variant), int(first or 0) / SECOND, int(last or 0) / SECOND)
        for key, variant, first, last in rows
    ]


def _value(spec: ExperimentSpec, variant: str | None) -> bytes:
    """The value of a variant, for comparisons; a variant that the file no longer has is its own value."""
    payload = next((one.payload for one in spec.variants if one.key == variant), None)
    return msgspec.json.encode([None, variant] if not payload else [payload], order="sorted")


def _judge(key: str, values: list[_Seen], now: float) -> StaleFlag | None:
    """The flag if the times of its values make it stale; else None."""
    *others, current = sorted(values, key=lambda value: value.last)
    before = max((value.last for value in others), default=current.first)
    since, remedy = max(before, current.first), "take it out of the code, then delete its file"
    if current.last <= now - STALE_DAYS * DAY:
        text = f"nobody asked for it since {_day(current.last)}; {remedy}"
        return StaleFlag(key=key, variant=None, since=_day(current.last), days=_days(now - current.last), text=text)
    if since > now - STALE_DAYS * DAY:
        return None
    given = "no variant" if current.variant is None else f"only {current.variant!r}"
    text = f"gave {given} since {_day(since)} ({_days(now - since)} days); {remedy}"
    return StaleFlag(key=key, variant=current.variant, since=_day(since), days=_days(now - since), text=text)


def _day(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).date().isoformat()


def _days(span: float) -> int:
    return int(span // DAY)

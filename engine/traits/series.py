"""Series: a customer's stored events for one trait of the shop, and how events, merges and reads use them.

Invariants:
- A series is a function of the set of events alone. Adding and merging commute, so that every order of arrival, live or
  from the log, gives the same series to the last bit. Sums are whole ten-thousandths.
- A series is bounded: the newest `POINTS` events are stored exactly. Older ones are added to tallies, one for each
  `STEPS`-th of the window, so that a read is off by at most the events of the oldest step. Without a window one tally
  has everything exactly. `distinct` stores the newest `DISTINCT` values and counts no further.
- What no read at the newest event or later can see is dropped.
"""

from bisect import insort
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final, Literal

from engine.customer import Scalar, SeriesTally, TraitSeries
from engine.vocabulary import DAY

Aggregate = Literal["count", "sum", "mean", "min", "max", "first", "last", "distinct", "rate", "time_since"]
POINTS: Final = 32
"""Events of a trait with a window that are stored exactly."""
STEPS: Final = 30
"""Tallies of a window."""
DISTINCT: Final = 100
"""Values that `distinct` tells apart."""
TEXT: Final = 200
"""Most characters of a text that `first` and `last` store."""
MOST: Final = 1e9
_SCALE: Final = 10_000
_MOST_TOTAL: Final = 2**62
_MOST_WHOLE: Final = 2**63
"""The bound beyond which whole numbers do not fit in msgpack's 64 bits; a larger number stays a float."""

Point = tuple[float, Scalar]
"""When an event was (s since 1970), and its value."""


EMPTY: Final = TraitSeries()


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesRule:
    """The aggregation of a series. `window` and `per` are in seconds; a window of 0 has no end."""

    aggregate: Aggregate
    window: float = 0.0
    per: float = DAY

    @property
    def exact(self) -> int:
        """The number of events stored exactly."""
        if self.aggregate in {"last", "time_since"}:
            return 1
        if self.aggregate == "distinct":
            return DISTINCT
        return POINTS if self.window else 0

    def takes(self, value: object) -> bool:
        """Whether an event with this value counts; `count` and similar aggregates need no value."""
        match self.aggregate:
            case "count" | "rate" | "time_since":
                return True
            case "sum" | "mean" | "min" | "max":
                return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MOST
            case "distinct":
                return isinstance(value, str | int | float | bool)
            case _:
                return isinstance(value, int | float | bool) or (isinstance(value, str) and len(value) <= TEXT)

    def point(self, time: float, value: object) -> Point:
        """The point of an event that `takes` admits; its time is in microseconds, as in the log."""
        time = round(time * 1e6) / 1e6
        if self.aggregate in {"count", "rate", "time_since"}:
            return time, None
        if self.aggregate == "distinct":  # 48 bits of its hash stand for a value, however long it is
            return time, int.from_bytes(blake2b(repr(_plain(value)).encode(), digest_size=6).digest())
        return time, _plain(value)


def _plain(value: object) -> Scalar:
    """A number rounded to the ten-thousandth, so that 2 and 2.0 are equal."""
    if isinstance(value, bool | str):
        return value
    if isinstance(value, int | float):
        number = round(float(value), 4) if abs(value) <= MOST else value
        return int(number) if abs(number) < _MOST_WHOLE and number == int(number) else number
    return str(value)


def extend_series(rule: SeriesRule, series: TraitSeries, points: Iterable[Point]) -> TraitSeries:
    """The series with more points added."""
    for point in points:
        series = _insert(rule, series, point)
    return series


def merge_series(rule: SeriesRule, a: TraitSeries, b: TraitSeries) -> TraitSeries:
    """The series of both customers' events."""
    return _bounded(rule, [*a.points, *b.points], [*a.tallies, *b.tallies])


def merge_unread(a: TraitSeries, b: TraitSeries) -> TraitSeries:
    """Both series of a trait that this plan does not define, bounded, until a plan defines it or a backfill ends it."""
    points = sorted([*a.points, *b.points], key=_point_order)[-DISTINCT:]
    steps = sorted([*a.tallies, *b.tallies], key=lambda tally: tally.step)[-2 * STEPS :]
    return TraitSeries(points, steps)


def is_past_bound(rule: SeriesRule, series: TraitSeries) -> bool:
    """Whether a read may be inexact: tallies replace events, or there are more values than `distinct` counts."""
    if rule.aggregate == "distinct":
        return len(series.points) >= DISTINCT
    return rule.window > 0 and bool(series.tallies)


def read_series(rule: SeriesRule, series: Iterable[TraitSeries], now: float, more: Iterable[Point] = ()) -> Scalar:
    """The value at `now` (s since 1970) of several series and points of one trait; None if nothing counts."""
    since = now - rule.window if rule.window else float("-inf")
    points = [point for one in series for point in one.points if point[0] > since]
    points += [point for point in more if point[0] > since]
    first = _step_of(rule, since) if rule.window else -1
    tallies = [tally for one in series for tally in one.tallies if tally.step > first]
    return _value(rule, points, tallies, now)


def _value(rule: SeriesRule, points: list[Point], tallies: list[SeriesTally], now: float) -> Scalar:
    count = len(points) + sum(tally.count for tally in tallies)
    match rule.aggregate:
        case "count":
            return count
        case "rate":
            return count / (rule.window / rule.per)
        case "distinct":
            return min(DISTINCT, len({value for _, value in points}))
        case "sum":
            return _total(points, tallies) / _SCALE
        case _ if not count:
            return None
        case "mean":
            return _total(points, tallies) / _SCALE / count
        case "min":
            return min(_numbers(points, tallies))
        case "max":
            return max(_numbers(points, tallies))
        case "first":
            return min([*points, *((tally.time, tally.value) for tally in tallies)], key=_point_order)[1]
        case "last":
            return max(points, key=_point_order)[1]
        case _:
            return max(0.0, now - max(time for time, _ in points)) / DAY


def newest_time(series: TraitSeries) -> float | None:
    """The time of the newest event of a series (s since 1970)."""
    return series.points[-1][0] if series.points else None


def _insert(rule: SeriesRule, series: TraitSeries, point: Point) -> TraitSeries:
    """Adds a point and bounds the series as `_bounded` does; it sorts only if the point is not the newest."""
    points = series.points
    if rule.aggregate == "distinct":
        same = next((place for place, (_, value) in enumerate(points) if value == point[1]), None)
        if same is not None:
            if points[same][0] >= point[0]:
                return series
            points = points[:same] + points[same + 1 :]
    if not points or point[0] > points[-1][0]:
        points = [*points, point]
    else:
        points = points.copy()
        insort(points, point, key=_point_order)
    if len(points) <= rule.exact and not (rule.window and points[0][0] <= points[-1][0] - rule.window):
        return TraitSeries(points, _within(rule, series.tallies, points[-1][0]))
    return _bounded(rule, points, series.tallies)


def _within(rule: SeriesRule, tallies: list[SeriesTally], newest: float) -> list[SeriesTally]:
    """The tallies that a read at the newest event includes."""
    if not rule.window or not tallies:
        return tallies
    first = _step_of(rule, newest - rule.window)
    return tallies if tallies[0].step > first else [tally for tally in tallies if tally.step > first]


def _bounded(rule: SeriesRule, points: list[Point], tallies: list[SeriesTally]) -> TraitSeries:
    """The newest points exactly, older ones as tallies, without those that no read can include."""
    points.sort(key=_point_order)
    if rule.aggregate == "distinct":
        newest = {value: time for time, value in points}
        points = sorted(((time, value) for value, time in newest.items()), key=_point_order)
    cut = max(0, len(points) - rule.exact)
    evicted, points = points[:cut], points[cut:]
    by_step: dict[int, SeriesTally] = {}
    if rule.aggregate not in {"last", "time_since", "distinct"}:
        for tally in (*tallies, *(_tally(rule, point) for point in evicted)):
            held = by_step.get(tally.step)
            by_step[tally.step] = tally if held is None else _add(rule.aggregate, held, tally)
    if rule.window and points:
        since = points[-1][0] - rule.window
        points = [point for point in points if point[0] > since]
        return TraitSeries(points, _within(rule, [by_step[step] for step in sorted(by_step)], points[-1][0]))
    return TraitSeries(points, [by_step[step] for step in sorted(by_step)])


def _tally(rule: SeriesRule, point: Point) -> SeriesTally:
    """The tally of one event; equal to `_add` of it and nothing."""
    time, value = point
    step = _step_of(rule, time)
    match rule.aggregate:
        case "sum" | "mean":
            return SeriesTally(step, 1, _scaled(value))
        case "min" | "max":
            return SeriesTally(step, 1, 0, value)
        case "first":
            return SeriesTally(step, 1, 0, value, time)
        case _:
            return SeriesTally(step, 1)


def _add(aggregate: Aggregate, a: SeriesTally, b: SeriesTally) -> SeriesTally:
    value, time = a.value, a.time
    match aggregate:
        case "min":
            value = min(_numbers((), (a, b)))
        case "max":
            value = max(_numbers((), (a, b)))
        case "first":
            time, value = min(((a.time, a.value), (b.time, b.value)), key=_point_order)
        case _:
            pass
    total = max(-_MOST_TOTAL, min(a.total + b.total, _MOST_TOTAL))  # msgpack has 64 bits
    return SeriesTally(a.step, a.count + b.count, total, value, time)


def _step_of(rule: SeriesRule, time: float) -> int:
    """The step of a time; steps are aligned to 1970, so that every process has the same."""
    return int(time // (rule.window / STEPS)) if rule.window else 0


def _scaled(value: Scalar) -> int:
    return round(value * _SCALE) if isinstance(value, int | float) else 0


def _total(points: Iterable[Point], tallies: Iterable[SeriesTally]) -> int:
    return sum(_scaled(value) for _, value in points) + sum(tally.total for tally in tallies)


def _numbers(points: Iterable[Point], tallies: Iterable[SeriesTally]) -> list[int | float]:
    values = (*(value for _, value in points), *(tally.value for tally in tallies))
    return [value for value in values if isinstance(value, int | float)]


def _point_order(point: Point) -> tuple[float, str]:
    """The sort key of points; at equal times by their values as text."""
    return point[0], repr(point[1])


def series_digest(definition: Mapping[str, object]) -> str:
    """The name under which a profile stores the series of a definition: 8 digits, the same while it stays the same."""
    return blake2b(repr(sorted(definition.items())).encode(), digest_size=4).hexdigest()

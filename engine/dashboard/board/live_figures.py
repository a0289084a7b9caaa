"""The current load of this machine's decision servers, from their shared counters."""

import os
import time
from collections import deque
from typing import NamedTuple

import msgspec

from engine.dashboard.board.refresh import log_time
from engine.dashboard.figures import NONE, format_figure, format_latency, format_share, format_span
from engine.service.worker import Worker
from engine.settings import Settings

SAMPLE_SECONDS = 0.9
"""A sample that is younger serves everyone who looks."""
WINDOW_SECONDS = 10.0
"""The span over which rates and latencies are computed."""


class LiveFigure(msgspec.Struct, frozen=True):
    """One figure as number and text; the value is None if nothing happened."""

    value: float | None
    text: str


class _CounterSample(NamedTuple):
    at: float
    sums: dict[str, float]
    buckets: dict[float, float]
    lag: float


class LiveFigures:
    """Samples the counters on request, and stores the samples of recent seconds."""

    def __init__(self, worker: Worker, settings: Settings) -> None:
        self._worker = worker
        self._settings = settings
        self._samples: deque[_CounterSample] = deque()
        self.is_shared = "PROMETHEUS_MULTIPROC_DIR" in os.environ
        """Whether the servers run on this machine and share their counters with this process."""

    def read(self) -> dict[str, LiveFigure]:
        """The figures of the last seconds."""
        now = time.monotonic()
        if not self._samples or now - self._samples[-1].at >= SAMPLE_SECONDS:
            self._samples.append(self._sample(now))
        while len(self._samples) > 2 and now - self._samples[1].at > WINDOW_SECONDS:
            self._samples.popleft()
        first, last = self._samples[0], self._samples[-1]
        return _figures(first, last, log_time(self._settings.log))

    def _sample(self, now: float) -> _CounterSample:
        sums: dict[str, float] = {}
        buckets: dict[float, float] = {}
        for family in self._worker.metrics.registry.collect():
            for sample in family.samples:
                if sample.name == "counterpoint_decide_seconds_bucket":
                    edge = float(sample.labels["le"])
                    buckets[edge] = buckets.get(edge, 0.0) + sample.value
                else:
                    sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
        return _CounterSample(now, sums, buckets, sums.get("counterpoint_spool_lag_records", 0.0))


def _figures(first: _CounterSample, last: _CounterSample, written: float | None) -> dict[str, LiveFigure]:
    seconds = last.at - first.at

    def grown(name: str) -> float:
        return max(0.0, last.sums.get(name, 0.0) - first.sums.get(name, 0.0))

    def rate(name: str) -> LiveFigure:
        value = grown(name) / seconds if seconds else None
        return LiveFigure(value, f"{format_figure(round(value, 1))} /s" if value is not None else NONE)

    decisions, degraded = grown("counterpoint_decisions_total"), grown("counterpoint_degraded_total")
    share = degraded / decisions if decisions else None
    age = time.time() - written if written is not None else None
    found = {
        "decisions": rate("counterpoint_decisions_total"),
        "events": rate("counterpoint_events_total"),
        "degraded": LiveFigure(share, format_share(share)),
        "lag": LiveFigure(last.lag, f"{last.lag:,.0f} records"),
        "log": LiveFigure(age, f"{format_span(age)} ago" if age is not None else "never"),
    }
    for name, quantile in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
        value = _quantile(first, last, quantile)
        found[name] = LiveFigure(value, f"\u2264 {format_latency(value)}" if value is not None else NONE)
    return found


def _quantile(first: _CounterSample, last: _CounterSample, quantile: float) -> float | None:
    """The upper edge of the bucket that has the quantile of the decisions between two samples."""
    grown = {edge: count - first.buckets.get(edge, 0.0) for edge, count in sorted(last.buckets.items())}
    total = max(grown.values(), default=0.0)
    if total <= 0:
        return None
    edge = next(edge for edge, count in grown.items() if count >= quantile * total)
    return edge if edge != float("inf") else 1.0

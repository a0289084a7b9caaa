"""What an operator watches, in Prometheus form, added up over the workers of this machine."""

import collections
import os
from bisect import bisect_left
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess

from engine.customers.model.events import EventStatus
from engine.decision.decision import Decision

BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0)


class ServiceMetrics:
    """The counters of one worker."""

    def __init__(self) -> None:
        shared = "PROMETHEUS_MULTIPROC_DIR" in os.environ
        self.registry = CollectorRegistry()
        if shared:
            multiprocess.MultiProcessCollector(self.registry)  # type: ignore[no-untyped-call]
        to = None if shared else self.registry
        self._decisions = Counter("counterpoint_decisions", "Answered decisions", ["channel"], registry=to)
        self._degraded = Counter("counterpoint_degraded", "Decisions answered without the store", registry=to)
        self._seconds = Histogram(
            "counterpoint_decide_seconds", "From the body read to the answer made", registry=to, buckets=BUCKETS
        )
        self._events = Counter("counterpoint_events", "Items of event batches", ["status"], registry=to)
        self.plans_refused = Counter("counterpoint_plans_refused", "Changed folders with problems", registry=to)
        self.spool_lag = Gauge(
            "counterpoint_spool_lag_records", "Kept, not yet in the stream", registry=to, multiprocess_mode="livesum"
        )
        self._told: list[tuple[str, bool, float]] = []

    def decided(self, decision: Decision, seconds: float) -> None:
        """Count one answered decision; it is on the page after the next `flush`."""
        self._told.append((decision.channel, decision.answer.degraded, seconds))

    def flush(self) -> None:
        """Add up what was counted: each number of the client costs system calls, so they are told many at once."""
        told, self._told = self._told, []
        if not told:
            return
        for channel, count in collections.Counter(channel for channel, _, _ in told).items():
            self._decisions.labels(channel).inc(count)
        self._degraded.inc(sum(degraded for _, degraded, _ in told))
        buckets = collections.Counter(bisect_left(BUCKETS, seconds) for _, _, seconds in told)
        for bucket, count in buckets.items():
            self._seconds._buckets[bucket].inc(count)  # noqa: SLF001 (its own verb takes one at a time)
        self._seconds._sum.inc(sum(seconds for _, _, seconds in told))  # noqa: SLF001 (as above)

    def ingested(self, statuses: Iterable[EventStatus]) -> None:
        """Count what became of a batch."""
        for status in statuses:
            self._events.labels(status.status).inc()

    def page(self) -> bytes:
        """The Prometheus text of all workers."""
        self.flush()
        return generate_latest(self.registry)

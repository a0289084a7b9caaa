"""The counters for operators in Prometheus form, summed over the workers of this machine."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess

from engine.claims.claims import PoolShare
from engine.customers.model.events import Event, EventStatus
from engine.decision.decision import Decision
from engine.decision.gating.gates import Gate
from engine.service.metrics.shared_files import share_counters

BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0)
"""Upper bounds of the latency histogram in seconds."""
WARNED_FIELDS = frozenset((*Event.__struct_fields__, "consents", "cart", "step", "conversation"))
"""Labels of the counter of warnings; names that clients make up are one label."""


class _Unflushed:
    """The counts of decisions since the last flush."""

    __slots__ = ("assigned", "buckets", "channels", "degraded", "offers", "seconds")

    def __init__(self) -> None:
        self.channels: defaultdict[str, int] = defaultdict(int)
        self.offers: defaultdict[tuple[str, str], int] = defaultdict(int)
        self.assigned: defaultdict[str, int] = defaultdict(int)
        self.buckets: defaultdict[int, int] = defaultdict(int)
        self.degraded = 0
        self.seconds = 0.0


class ServiceMetrics:
    """The counters of one worker."""

    def __init__(self) -> None:
        shared = share_counters()
        self.registry = CollectorRegistry()
        if shared:
            multiprocess.MultiProcessCollector(self.registry)  # type: ignore[no-untyped-call]
        # Shared counters are in files that the collector above adds up; registered here they would be counted twice.
        registry = None if shared else self.registry
        self._decisions = Counter("counterpoint_decisions", "Answered decisions", ["channel"], registry=registry)
        self._degraded = Counter("counterpoint_degraded", "Decisions answered without the store", registry=registry)
        self._unrecorded = Counter(
            "counterpoint_unrecorded",
            "Decisions answered without a record, since the disk of the spool took none",
            registry=registry,
        )
        self._refused = Counter(
            "counterpoint_overload_refused",
            "Decisions refused at once, since more were waiting than can be made in time",
            registry=registry,
        )
        self._seconds = Histogram(
            "counterpoint_decide_seconds", "Seconds from request body to answer", registry=registry, buckets=BUCKETS
        )
        self._events = Counter("counterpoint_events", "Items of event batches", ["status"], registry=registry)
        self._event_warnings = Counter(
            "counterpoint_event_warnings", "Parts of accepted events that are left out", ["field"], registry=registry
        )
        self._bounded_traits = Counter(
            "counterpoint_traits_bounded",
            "Customers whose series of a trait passed its bound",
            ["trait"],
            registry=registry,
        )
        self._gate_failures = Counter(
            "counterpoint_gate_failures",
            "Offers and moments that an error of the engine closed; the log has the error",
            ["gate"],
            registry=registry,
        )
        self.plans_refused = Counter("counterpoint_plans_refused", "Changed folders with problems", registry=registry)
        self._bad_rows = Gauge(
            "counterpoint_feed_rows_left_out",
            "Rows of the running plan's feeds that are no offers",
            ["selection"],
            registry=registry,
            multiprocess_mode="mostrecent",
        )
        self._offers = Counter(
            "counterpoint_offers", "Answered placements by reason", ["placement", "reason"], registry=registry
        )
        names = ("place", "outcome"), ("offer", "outcome")
        self._shelf_claims = Counter("counterpoint_shelf_claims", "Items claimed", names[0], registry=registry)
        self._coupon_claims = Counter("counterpoint_coupon_claims", "Codes claimed", names[1], registry=registry)
        self._assignments = Counter(
            "counterpoint_assignments", "Answered experiments and flags by reason", ["reason"], registry=registry
        )
        self.shared = registry
        """The registry of metrics that processes share; None where they share files."""
        self._unflushed = _Unflushed()
        self._unflushed_refused = 0

    def count_decision(self, decision: Decision, seconds: float) -> None:
        """Count one answered decision; `render` shows it after the next `flush`.

        The decision is not kept: the memory of the next one is then still in the CPU's caches.
        """
        counted, answer = self._unflushed, decision.answer
        counted.channels[decision.channel] += 1
        counted.degraded += answer.degraded
        for placement, offer in answer.offers.items():
            counted.offers[placement, offer.reason] += 1
        for one in answer.experiments.values():
            counted.assigned[one.reason] += 1
        counted.buckets[bisect_left(BUCKETS, seconds)] += 1
        counted.seconds += seconds

    def flush(self) -> None:
        """Add the collected counts at once, since each update of a shared counter costs system calls."""
        counted, self._unflushed = self._unflushed, _Unflushed()
        refused, self._unflushed_refused = self._unflushed_refused, 0
        if refused:
            self._refused.inc(refused)
        if not counted.channels:
            return
        for channel, count in counted.channels.items():
            self._decisions.labels(channel).inc(count)
        self._degraded.inc(counted.degraded)
        for (placement, reason), count in counted.offers.items():
            self._offers.labels(placement, reason).inc(count)
        for assigned_for, count in counted.assigned.items():
            self._assignments.labels(assigned_for).inc(count)
        for bucket, count in counted.buckets.items():
            self._seconds._buckets[bucket].inc(count)  # noqa: SLF001 (its public `observe` takes one value at a time)
        self._seconds._sum.inc(counted.seconds)  # noqa: SLF001 (as above)

    def count_refused(self) -> None:
        """Count one decision refused for overload; `render` shows it after the next `flush`."""
        self._unflushed_refused += 1

    def count_unrecorded(self, decisions: int = 1) -> None:
        """Count decisions that were answered without a record."""
        self._unrecorded.inc(decisions)

    def count_events(self, statuses: Iterable[EventStatus]) -> None:
        """Count the items of an event batch by status."""
        for status in statuses:
            self._events.labels(status.status).inc()

    def count_event_warnings(self, statuses: Iterable[EventStatus]) -> None:
        """Count what was left out of accepted events, by the field in each warning."""
        for status in statuses:
            for warning in status.warnings:
                field = warning.partition(":")[0].partition(".")[0]
                self._event_warnings.labels(field if field in WARNED_FIELDS else "unknown field").inc()

    def set_bad_rows(self, rows: Mapping[str, int]) -> None:
        """Set the number of rejected rows per feed."""
        for selection, number in rows.items():
            self._bad_rows.labels(selection).set(number)

    def count_bounded_traits(self, bounded: Mapping[str, int]) -> None:
        """Count customers whose trait series passed its bound; an unnamed series belongs to a moment's trigger."""
        for trait, number in bounded.items():
            self._bounded_traits.labels(trait or "(trigger)").inc(number)

    def count_gate_failure(self, gate: Gate) -> None:
        """Count an offer or a moment that was closed because its gate raised an error."""
        self._gate_failures.labels(gate).inc()

    def count_claim(self, share: PoolShare, is_granted: bool) -> None:  # noqa: FBT001 (a callback of the claims)
        """Count the claim of an item at a place, or of a coupon code."""
        outcome = "granted" if is_granted else "refused"
        if share.pool == "coupon":
            self._coupon_claims.labels(share.name, outcome).inc()
        else:
            self._shelf_claims.labels(share.name.partition("/")[0], outcome).inc()

    def render(self) -> bytes:
        """The Prometheus text of all workers of this machine."""
        self.flush()
        return generate_latest(self.registry)

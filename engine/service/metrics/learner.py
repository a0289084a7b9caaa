"""Exports the counters of learner and collector on every decision server's Prometheus page."""

from collections import defaultdict
from collections.abc import Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from engine.snapshots.follow import Follower

REJECTED_REWARDS = "Rewards that were not learnt; the log's quarantine has them with the reason"
REWARD_CHANGES = "Changes detected in an offer's reward; each is an event $change in the log"


class LearnerMetrics(Collector):
    """The figures that this worker's follower read last; all workers export the same, so any can be scraped."""

    def __init__(self, follower: Follower) -> None:
        self._follower = follower

    def collect(self) -> Iterator[Metric]:
        """The metric families."""
        by_kind: defaultdict[str, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
        for name, figure in self._follower.figures.items():
            kind, label, _ = name.split("|")  # the last part names the learner, of several
            by_kind[kind][label] += figure
        aside = CounterMetricFamily("counterpoint_rewards_aside", REJECTED_REWARDS, labels=["reason"])
        for reason, count in by_kind["aside"].items():
            aside.add_metric([reason], count)
        changes = CounterMetricFamily("counterpoint_reward_changes", REWARD_CHANGES, labels=["selection", "offer"])
        for label, count in by_kind["changes"].items():
            changes.add_metric(label.split("/"), count)
        learnt = CounterMetricFamily("counterpoint_learnt", "Exposures learnt", labels=["selection"])
        for selection, count in by_kind["learnt"].items():
            learnt.add_metric([selection], count)
        prices = GaugeMetricFamily(
            "counterpoint_shadow_price", "What showing a scarce offer must earn", labels=["offer"]
        )
        for offer, price in self._follower.prices.items():
            prices.add_metric([offer], price)
        tripped = GaugeMetricFamily("counterpoint_breaker_open", "Circuit breakers that are open", labels=["selection"])
        for selection in self._follower.tripped:
            tripped.add_metric([selection], 1.0)
        yield from self._collector_families(by_kind)
        copied = GaugeMetricFamily(
            "counterpoint_log_copied_seconds", "Time up to which the log is on the object store (s since 1970)"
        )
        for at in by_kind["copied"].values():
            copied.add_metric([], at)
        versions = GaugeMetricFamily(
            "counterpoint_snapshot_version", "Version in use at this worker", labels=["selection"]
        )
        for selection, snapshot in self._follower.snapshots.items():
            versions.add_metric([selection], snapshot.version)
        rejected = CounterMetricFamily(
            "counterpoint_snapshots_rejected",
            "Snapshots that are damaged or do not fit the plan",
            self._follower.rejected,
        )
        yield from (aside, changes, learnt, prices, tripped, versions, rejected, copied)

    @staticmethod
    def _collector_families(by_kind: Mapping[str, Mapping[str, float]]) -> Iterator[Metric]:
        """The collector's counts since its start."""
        for kind, meaning, label in (
            ("collected", "Rows written to the log", "table"),
            ("deduplicated", "Rows that were in the log already and were dropped", "table"),
            ("quarantined", "Records that could not be counted or learnt; the log's quarantine has them", "reason"),
            ("lost", "Gaps of records that the store lost before they were collected", "reader"),
        ):
            family = CounterMetricFamily(f"counterpoint_{kind}", meaning, labels=[label])
            for name, count in by_kind.get(kind, {}).items():
                family.add_metric([name], count)
            yield family

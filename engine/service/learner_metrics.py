"""What the learner says of itself, on the page that Prometheus reads."""

from collections import defaultdict
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from engine.snapshots.follow import Follower

ASIDE = "Rewards that were kept aside and not learnt; they are in the log's quarantine"
CHANGES = "Changes found in what an offer earns; each is an event $change in the log"


class LearnerMetrics(Collector):
    """As this worker's follower has it, so that the page is right whichever worker is asked."""

    def __init__(self, follower: Follower) -> None:
        self._follower = follower

    def collect(self) -> Iterator[Metric]:
        """The families, in Prometheus' terms."""
        by_kind: defaultdict[str, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
        for name, figure in self._follower.figures.items():
            kind, label, _ = name.split("|")  # the last part says which learner, of several
            by_kind[kind][label] += figure
        aside = CounterMetricFamily("counterpoint_rewards_aside", ASIDE, labels=["reason"])
        for reason, count in by_kind["aside"].items():
            aside.add_metric([reason], count)
        changes = CounterMetricFamily("counterpoint_reward_changes", CHANGES, labels=["selection", "offer"])
        for label, count in by_kind["changes"].items():
            changes.add_metric(label.split("/"), count)
        learnt = CounterMetricFamily("counterpoint_learnt", "Exposures learnt", labels=["selection"])
        for selection, count in by_kind["learnt"].items():
            learnt.add_metric([selection], count)
        prices = GaugeMetricFamily("counterpoint_shadow_price", "What a scarce offer must exceed", labels=["offer"])
        for offer, price in self._follower.prices.items():
            prices.add_metric([offer], price)
        tripped = GaugeMetricFamily("counterpoint_breaker_open", "Circuit breakers that are open", labels=["selection"])
        for selection in self._follower.tripped:
            tripped.add_metric([selection], 1.0)
        versions = GaugeMetricFamily("counterpoint_snapshot_version", "As this worker has it", labels=["selection"])
        for selection, snapshot in self._follower.snapshots.items():
            versions.add_metric([selection], snapshot.version)
        rejected = CounterMetricFamily(
            "counterpoint_snapshots_rejected", "Damaged or unfit ones that were not taken", self._follower.rejected
        )
        yield from (aside, changes, learnt, prices, tripped, versions, rejected)

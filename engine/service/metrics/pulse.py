"""Measures what changes in a worker without requests: its spool, its event loop and the streams."""

import asyncio
import time
from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from engine.errors import StoreUnavailable
from engine.journal.spool.ship import Shipper, connect_shipper
from engine.journal.spool.spool import Spool
from engine.journal.stream_lag import StreamLag, read_stream_lags
from engine.snapshots.follow import Follower

BEAT_SECONDS = 0.05
"""Between two looks at the clock; what one comes late is the lag of the event loop."""
_FADING = 0.95
_SPOOL_BEATS, _STREAM_BEATS = 10, 100


class Pulse(Collector):
    """Measures one worker while `run` is running, and exports the lag of the streams.

    Figures of the spool and the loop are shared by the workers of a machine; the streams' are the same for all.
    """

    def __init__(self, redis: str, spool: Spool, shipper: Shipper, follower: Follower) -> None:
        self._redis = redis
        self._spool = spool
        self._shipper = shipper
        self._follower = follower
        self._lags: Sequence[StreamLag] = ()
        self._shown: dict[str, Gauge] = {}
        self.lag = 0.0
        """By how much the event loop is late of late (s): a peak, which fades within a second or two."""

    def register(self, shared: CollectorRegistry | None, own: CollectorRegistry) -> None:
        """Register the gauges; `shared` is None if processes share counters by files."""
        modes = {
            "spool_lag_records": ("Spooled, not yet in the stream", "livesum"),
            "spool_bytes": ("Bytes in the spool that are not in the stream yet", "livesum"),
            "spool_oldest_seconds": ("Age of the oldest record that is not in the stream yet", "livemax"),
            "spool_free_bytes": ("Free bytes on the disk of the spool", "livemin"),
            "spools_adopted": ("Spools of dead processes that are shipped and not removed yet", "livesum"),
            "loop_lag_seconds": ("The longest wait of the event loop in the last half second", "livemax"),
            "snapshot_age_seconds": ("Seconds since the learnt policies were read from the store", "livemax"),
        }
        for name, (meaning, mode) in modes.items():
            self._shown[name] = Gauge(f"counterpoint_{name}", meaning, registry=shared, multiprocess_mode=mode)  # type: ignore[arg-type]
        own.register(self)

    async def run(self) -> None:
        """Measure until cancelled."""
        async with connect_shipper(self._redis, timeout=2.0) as client:
            beat, longest = 0, 0.0
            while True:
                due = time.monotonic() + BEAT_SECONDS
                await asyncio.sleep(BEAT_SECONDS)
                late = time.monotonic() - due
                self.lag, longest = max(late, self.lag * _FADING), max(longest, late)
                beat += 1
                if beat % _SPOOL_BEATS == 0:
                    self._shown["loop_lag_seconds"].set(longest)
                    self.measure_spool()
                    longest = 0.0
                if beat % _STREAM_BEATS == 0:
                    try:
                        self._lags = await read_stream_lags(client)
                    except StoreUnavailable:  # others report the outage; the figures are of before it
                        continue

    def measure_spool(self) -> None:
        """Update the gauges of spool and snapshots."""
        lag = self._shipper.lag()
        self._shown["spool_lag_records"].set(lag.records)
        self._shown["spool_bytes"].set(lag.bytes)
        self._shown["spool_oldest_seconds"].set(lag.seconds)
        self._shown["spool_free_bytes"].set(self._spool.free)
        self._shown["spools_adopted"].set(self._shipper.adopted)
        if self._follower.age is not None:
            self._shown["snapshot_age_seconds"].set(self._follower.age)

    def collect(self) -> Iterator[Metric]:
        """The streams' figures, which may be some seconds old."""
        entries = GaugeMetricFamily("counterpoint_stream_entries", "Entries retained in a stream", labels=["partition"])
        for partition, count in {lag.partition: lag.entries for lag in self._lags}.items():
            entries.add_metric([str(partition)], count)
        labels = ["reader", "partition"]
        seconds = GaugeMetricFamily(
            "counterpoint_stream_lag_seconds", "Age of what a reader has not stored", labels=labels
        )
        positions = GaugeMetricFamily(
            "counterpoint_stream_position_seconds", "Time up to which a reader has stored (s since 1970)", labels=labels
        )
        for lag in self._lags:
            seconds.add_metric([lag.reader, str(lag.partition)], lag.seconds)
            positions.add_metric([lag.reader, str(lag.partition)], lag.position)
        yield from (entries, seconds, positions)

"""Collects the streams into the Parquet log, every record exactly once.

Rows wait in memory until a flush. A flush is one commit: new files together with the stream positions and sequence
numbers that they contain. After a crash the next collector starts from the last commit and reads again what was in
memory. Only after a commit does the collector publish what workers may delete and trim the streams.
"""

import functools
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import msgspec
import pyarrow as pa
import structlog
from redis.exceptions import RedisError

from engine.errors import StoreUnavailable
from engine.journal import stream
from engine.journal.log import commit, compact, parquet
from engine.journal.log.dedupe import Deduplicator
from engine.journal.log.erased_rows import without_erased
from engine.journal.log_once import LogOnce
from engine.journal.records import LoggedRecord, QuarantineRecord, decode_for_log
from engine.journal.spool.drain import PATIENCE, Drain
from engine.journal.stream import LEARNER
from engine.settings import Settings
from engine.telemetry.tracing import record_batch

_READER = "collector"
_IDLE = 0.05
_PUBLISH_SECONDS = 5.0
"""Seconds between two publications of the collected position while nothing new is committed."""
_MARK_LIFE_MS = 7 * 86_400_000
"""Milliseconds after which the mark of a silent spool is dropped."""
_PACK = 4096
"""Rows that are turned into columns together."""
_COMPACT_SECONDS = 60.0
_BROKEN_SOURCES = 10_000
"""Entries that were quarantined, remembered for the case that a stream is read again from its start."""
_log = structlog.get_logger(__name__)


class CollectSummary(msgspec.Struct, frozen=True):
    """Rows written by table; gaps of records that the store lost; spools whose records did not arrive in time."""

    rows: dict[str, int]
    lost: int
    waiting: int


class UncommittedRows:
    """Rows that are not committed yet, and the keys of recent rows for deduplication."""

    def __init__(self, log: Path) -> None:
        self.count = 0
        self._rows: dict[tuple[parquet.LogTable, str], list[parquet.Row]] = {}
        self._columns: dict[tuple[parquet.LogTable, str], list[pa.RecordBatch]] = {}
        self._deduplicator = Deduplicator(log)
        self._broken: dict[str, None] = {}
        self.figures = Counter[str]()
        """The counts of deduplicated and quarantined records since the start, by name (`stream.publish_counts`)."""

    def take(self, delivery: stream.Delivery) -> None:
        """Turn a delivery's records into rows; an unusable record is quarantined with the reason."""
        now = stream.position_key(delivery.position)[0] / 1000
        for _, payload in delivery.frames:
            try:
                self._add(decode_for_log(payload))
            except (msgspec.MsgspecError, ValueError) as error:
                self.figures["quarantined|unreadable|collector"] += 1
                self._add(QuarantineRecord(now, str(error), f"{delivery.spool}@{delivery.position}", payload))
        if delivery.broken:
            self._quarantine_broken(delivery, now)

    def _quarantine_broken(self, delivery: stream.Delivery, now: float) -> None:
        """Quarantine an entry's bytes that are no frame, once: they have no sequence number to deduplicate by."""
        source = f"{delivery.partition}/{delivery.spool}@{delivery.position}"
        if source in self._broken:
            return
        self._broken[source] = None
        if len(self._broken) > _BROKEN_SOURCES:
            del self._broken[next(iter(self._broken))]
        self.figures["quarantined|no frame|collector"] += 1
        self._add(QuarantineRecord(now, "no frame", f"{delivery.spool}@{delivery.position}", delivery.broken))

    def write(self, log: Path, progress: stream.Progress) -> Counter[str]:
        """Commit all rows; returns the number per table. After an OSError they stay uncommitted."""
        for place in tuple(self._rows):
            self._pack(place)
        written = Counter[str]()

        def change(before: commit.Checkpoint) -> commit.LogChange:
            files: dict[Path, Callable[[Path], None]] = {}
            for (table, day), packed in self._columns.items():
                batches = [without_erased(batch, before.erased) for batch in packed]
                count = sum(batch.num_rows for batch in batches)
                if count:
                    path = log / table / f"day={day}" / f"{before.commit + 1:010d}.parquet"
                    files[path] = functools.partial(parquet.write_table, table=table, batches=batches)
                    written[table] += count
            return commit.LogChange(files, progress=progress)

        commit.commit_change(log, change)
        self._columns.clear()
        self.count = 0
        self._deduplicator.drop_old_days()
        return written

    def _add(self, record: LoggedRecord) -> None:
        """Add a record's rows that are not in the log yet."""
        table, day, rows = parquet.rows_of_record(record)
        before = len(rows)
        rows = self._deduplicator.new_rows(record, day, rows)
        if len(rows) < before:
            self.figures[f"deduplicated|{table}|collector"] += before - len(rows)
        if isinstance(record, QuarantineRecord) and record.source == LEARNER:
            self.figures[f"quarantined|{record.reason.partition(':')[0]:.40}|collector"] += 1
        if rows:
            pending = self._rows.setdefault((table, day), [])
            pending += rows
            self.count += len(rows)
            if len(pending) >= _PACK:
                self._pack((table, day))

    def _pack(self, place: tuple[parquet.LogTable, str]) -> None:
        """Turn a table's rows into columns, which take a tenth of the memory."""
        rows = self._rows.pop(place)
        self._columns.setdefault(place, []).append(parquet.as_columns(place[0], rows))


class ErasureTask(Protocol):
    """Deletes erased customers' rows from the log that is collected into; erasure is a room above this one."""

    def running(self, client: stream.StreamClient, log: Path) -> AbstractContextManager[None]:
        """Delete rows as erasures are announced, in parallel with the collector, until the block ends."""
        ...

    def finish(self, client: stream.StreamClient, log: Path) -> int:
        """Delete the rows of all customers erased so far; returns their number."""
        ...


def collect(
    settings: Settings,
    erasures: ErasureTask,
    *,
    drain: bool = False,
    stop: threading.Event | None = None,
    flush_seconds: float = 5.0,
    flush_records: int = 200_000,
) -> CollectSummary:
    """Collect until `stop`; with `drain` until everything answered before the call is in the log.

    One collector works on a log; others wait to take over. A drain beside a working collector waits for it.

    Args:
        settings: where the log, the spools and the store are.
        erasures: deletes erased customers' rows beside collecting.
        drain: end once everything is collected.
        stop: ends collecting when set.
        flush_seconds: the longest time between two commits.
        flush_records: commit at this many rows.

    Raises:
        StoreUnavailable: in a drain, if the store stays unreachable.
        JournalError: if the store evicts; in a drain, if the disk is full.
    """
    stop = stop or threading.Event()
    client = stream.connect_stream(settings.redis)
    drained = Drain(settings, client, "collected") if drain else None
    waiting_logged = False
    if drained:
        _require_store(client)
    while True:
        with commit.collector_lock(settings.log) as is_ours:
            if is_ours is not None and is_ours():
                try:
                    return _Collector(
                        settings,
                        client,
                        erasures,
                        flush_seconds=flush_seconds,
                        flush_records=flush_records,
                        is_ours=is_ours,
                    ).run(stop, drained)
                except _LogGoneError:
                    _log.error("the log was deleted or moved away; starting a new one", log=str(settings.log))
                    continue
        if drained and drained.done():
            return CollectSummary({}, 0, drained.finish())
        if stop.wait(_IDLE * 4):
            return CollectSummary({}, 0, 0)
        if not waiting_logged and drained is None:
            _log.info("another collector works on this log; waiting to take over", log=str(settings.log))
            waiting_logged = True


def _require_store(client: stream.StreamClient) -> None:
    """Raise StoreUnavailable if the store does not answer, before creating a lock or a folder."""
    try:
        client.ping()
    except RedisError as error:
        raise StoreUnavailable(f"cannot collect: {error}; nothing is lost, run it again") from error


class _LogGoneError(Exception):
    """The error that the log was deleted or moved while it was collected into."""


class _Collector:
    """The state of the one collector of a log."""

    def __init__(
        self,
        settings: Settings,
        client: stream.StreamClient,
        erasures: ErasureTask,
        *,
        flush_seconds: float,
        flush_records: int,
        is_ours: Callable[[], bool],
    ) -> None:
        self._log_dir = settings.log
        self._is_ours = is_ours
        self._client = client
        self._erasures = erasures
        self._flush_seconds = flush_seconds
        self._flush_records = flush_records
        self._partitions = settings.partitions
        self._committed = commit.recover_log(settings.log).progress
        self._reader = stream.Reader(client, _READER, self._committed, partitions=self._partitions)
        self._rows = UncommittedRows(settings.log)
        self._written = Counter[str]()
        self._flushed = time.monotonic()
        self._published = -_PUBLISH_SECONDS

    def run(self, stop: threading.Event, drained: Drain | None) -> CollectSummary:
        """Collect until `stop` or `drained`; erased rows are deleted meanwhile, in a drain at the end."""
        if drained is not None:
            return self._run(stop, drained)
        with self._erasures.running(self._client, self._log_dir):
            return self._run(stop, None)

    def _run(self, stop: threading.Event, drained: Drain | None) -> CollectSummary:
        """Read, commit and compact until stopped or drained; an unreachable store delays it, and ends a drain."""
        ready, outage = False, LogOnce("cannot collect; records wait in the streams", "collecting again")
        ending: float | None = None
        compacted = time.monotonic()
        while True:
            deliveries: list[stream.Delivery] = []
            try:
                if not ready:
                    stream.refuse_eviction(self._client)
                    self._drop_removed_spools()
                    ready = True
                if self._rows.count < self._flush_records:
                    deliveries = self._reader.read()
                for delivery in deliveries:
                    self._rows.take(delivery)
                self._flush(force=not deliveries and (drained is not None or stop.is_set()))
                if not deliveries and drained and drained.done():
                    self._erasures.finish(self._client, self._log_dir)
                    return self._summary(drained.finish())
                outage.over()
            except (RedisError, OSError) as error:
                if drained:
                    raise StoreUnavailable(f"cannot collect: {error}; nothing is lost, run it again") from error
                outage.failed(error)
                stop.wait(1.0)
            if stop.is_set():
                ending = ending or time.monotonic()
                if not deliveries or time.monotonic() - ending > PATIENCE:
                    return self._summary(0)
            elif not deliveries:
                if drained is None and time.monotonic() - compacted > _COMPACT_SECONDS:
                    compacted = time.monotonic()
                    self._compact()
                stop.wait(_IDLE)

    def _drop_removed_spools(self) -> None:
        """Start reading from the last commit, without the marks of removed spools."""
        since = int(time.time() * 1000) - _MARK_LIFE_MS
        self._committed = stream.drop_removed_spools(self._client, self._committed, since)
        self._reader = stream.Reader(self._client, _READER, self._committed, partitions=self._partitions)

    def _flush(self, *, force: bool) -> None:
        """Commit if a commit is due, then release the committed entries in the store.

        In this order: a spool or stream entry may be deleted only once its records are in the log.
        """
        now = time.monotonic()
        progress = self._reader.progress
        if progress != self._committed and (
            force or self._rows.count >= self._flush_records or now - self._flushed >= self._flush_seconds
        ):
            if not self._is_ours():
                raise _LogGoneError
            began = time.time()
            written = self._rows.write(self._log_dir, progress)
            record_batch("collect.commit", began, **written)
            self._written += written
            self._committed = progress
            self._flushed = now
            self._published = -_PUBLISH_SECONDS
        if now - self._published >= _PUBLISH_SECONDS:
            self._reader.commit(self._committed)
            stream.publish_collected(self._client, self._committed)
            stream.trim_streams(self._client, list(self._committed.positions))
            stream.publish_counts(self._client, self._figures())
            self._published = now

    def _figures(self) -> dict[str, int]:
        """The counts of this collector since it started, by name."""
        collected = {f"collected|{table}|collector": count for table, count in self._written.items()}
        return {**collected, **self._rows.figures, "lost|collector|collector": len(self._reader.lost)}

    def _compact(self) -> None:
        """Merge small files if that is due; a full disk only postpones it."""
        try:
            compact.compact_due(self._log_dir, time.time())
        except OSError as error:
            _log.warning("cannot compact the log; it grows in small files", error=str(error))

    def _summary(self, waiting: int) -> CollectSummary:
        """The result of collecting; every gap of lost records is also logged as an error."""
        for lost in self._reader.lost:
            _log.error(
                "the store lost records before they were collected; check its memory limit and its persistence",
                **lost._asdict(),
            )
        return CollectSummary(dict(self._written), len(self._reader.lost), waiting)

"""Collects the streams into the Parquet log, every record exactly once."""

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
from engine.journal.log.dedupe import Again
from engine.journal.log.erased_rows import without_erased
from engine.journal.log_once import LogOnce
from engine.journal.records import AnyRecord, QuarantineRecord, decode
from engine.journal.spool.drain import PATIENCE, Drain
from engine.settings import Settings

_READER = "collector"
_IDLE = 0.05
_TELL_SECONDS = 5.0
_KEEP_MARKS_MS = 7 * 86_400_000
_PACK = 4096
_COMPACT_SECONDS = 60.0
_log = structlog.get_logger(__name__)


class Summary(msgspec.Struct, frozen=True):
    """Rows written by table; records that the store lost; records of live workers that had not come by the end."""

    rows: dict[str, int]
    lost: int
    waiting: int


class Pending:
    """Rows not yet in the log, and what may come again of the last days."""

    def __init__(self, log: Path) -> None:
        self.count = 0
        self._rows: dict[tuple[parquet.Table, str], list[parquet.Row]] = {}
        self._columns: dict[tuple[parquet.Table, str], list[pa.RecordBatch]] = {}
        self._again = Again(log)

    def take(self, delivery: stream.Delivery) -> None:
        """Turn the records of a delivery into rows; what cannot be used is quarantined."""
        now = stream.order(delivery.position)[0] / 1000
        for _, payload in delivery.frames:
            try:
                self._add(decode(payload))
            except (msgspec.MsgspecError, ValueError) as error:
                self._add(QuarantineRecord(now, str(error), f"{delivery.spool}@{delivery.position}", payload))
        if delivery.broken:
            self._add(QuarantineRecord(now, "no frame", f"{delivery.spool}@{delivery.position}", delivery.broken))

    def write(self, log: Path, progress: stream.Progress) -> Counter[str]:
        """Commit all rows; how many for each table. They stay pending if the disk takes no more."""
        for place in tuple(self._rows):
            self._pack(place)
        written = Counter[str]()

        def change(before: commit.Checkpoint) -> commit.Change:
            files: dict[Path, Callable[[Path], None]] = {}
            for (table, day), packed in self._columns.items():
                batches = [without_erased(batch, before.erased) for batch in packed]
                count = sum(batch.num_rows for batch in batches)
                if count:
                    path = log / table / f"day={day}" / f"{before.commit + 1:010d}.parquet"
                    files[path] = functools.partial(parquet.write, table=table, batches=batches)
                    written[table] += count
            return commit.Change(files, progress=progress)

        commit.commit(log, change)
        self._columns.clear()
        self.count = 0
        self._again.forget()
        return written

    def _add(self, record: AnyRecord) -> None:
        table, day, rows = parquet.rows_of(record)
        rows = self._again.fresh(record, day, rows)
        if rows:
            pending = self._rows.setdefault((table, day), [])
            pending += rows
            self.count += len(rows)
            if len(pending) >= _PACK:
                self._pack((table, day))

    def _pack(self, place: tuple[parquet.Table, str]) -> None:
        """Columns take a tenth of the memory that rows take."""
        rows = self._rows.pop(place)
        self._columns.setdefault(place, []).append(parquet.columns(place[0], rows))


class ErasureTask(Protocol):
    """Deletes erased customers' rows from the log that is collected into; erasure is a room above this one."""

    def running(self, client: stream.StreamClient, log: Path) -> AbstractContextManager[None]:
        """Delete rows as erasures are announced, beside the collector, until the block ends."""
        ...

    def finish(self, client: stream.StreamClient, log: Path) -> int:
        """Delete the rows of everybody erased so far; returns how many."""
        ...


def collect(
    settings: Settings,
    erasures: ErasureTask,
    *,
    drain: bool = False,
    stop: threading.Event | None = None,
    flush_seconds: float = 5.0,
    flush_records: int = 200_000,
) -> Summary:
    """Collect until `stop`; with `drain` until all that was answered before the call is in the log.

    Of several collectors of one log one works; the others wait to take over. A drain beside a working collector waits
    for its work.

    Raises:
        StoreUnavailable: in a drain, if the store stays away.
        JournalError: if the store evicts; in a drain, if the disk takes no more.
    """
    stop = stop or threading.Event()
    client = stream.connect(settings.redis)
    drained = Drain(settings, client, "collected") if drain else None
    said = False
    while True:
        with commit.only_collector(settings.log) as alone:
            if alone is not None and alone():
                try:
                    return _Collector(settings, client, erasures, flush_seconds, flush_records, alone).run(
                        stop, drained
                    )
                except _LogGoneError:
                    _log.error("the log was deleted or moved away; a new one begins", log=str(settings.log))
                    continue
        if drained and drained.done():
            return Summary({}, 0, drained.finish())
        if stop.wait(_IDLE * 4):
            return Summary({}, 0, 0)
        if not said and drained is None:
            _log.info("another collector works on this log; waiting", log=str(settings.log))
            said = True


class _LogGoneError(Exception):
    """The log that was collected into is not there any more."""


class _Collector:
    def __init__(
        self,
        settings: Settings,
        client: stream.StreamClient,
        erasures: ErasureTask,
        flush_seconds: float,
        flush_records: int,
        alone: Callable[[], bool],
    ) -> None:
        self._log_dir = settings.log
        self._alone = alone
        self._client = client
        self._erasures = erasures
        self._flush_seconds = flush_seconds
        self._flush_records = flush_records
        self._partitions = settings.partitions
        self._committed = commit.recover(settings.log).progress
        self._reader = stream.Reader(client, _READER, self._committed, partitions=self._partitions)
        self._pending = Pending(settings.log)
        self._written = Counter[str]()
        self._flushed = time.monotonic()
        self._told = -_TELL_SECONDS

    def run(self, stop: threading.Event, drained: Drain | None) -> Summary:
        """Collect until `stop`, or until all is `drained`; the erased are looked for beside that, or at the end."""
        if drained is not None:
            return self._run(stop, drained)
        with self._erasures.running(self._client, self._log_dir):
            return self._run(stop, None)

    def _run(self, stop: threading.Event, drained: Drain | None) -> Summary:
        ready, outage = False, LogOnce("cannot collect; the records wait", "collecting goes on")
        ending: float | None = None
        compacted = time.monotonic()
        while True:
            deliveries: list[stream.Delivery] = []
            try:
                if not ready:
                    stream.refuse_eviction(self._client)
                    self._forget_spools()
                    ready = True
                if self._pending.count < self._flush_records:
                    deliveries = self._reader.read()
                for delivery in deliveries:
                    self._pending.take(delivery)
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

    def _forget_spools(self) -> None:
        since = int(time.time() * 1000) - _KEEP_MARKS_MS
        self._committed = stream.forget_spools(self._client, self._committed, since)
        self._reader = stream.Reader(self._client, _READER, self._committed, partitions=self._partitions)

    def _flush(self, *, force: bool) -> None:
        now = time.monotonic()
        progress = self._reader.progress
        if progress != self._committed and (
            force or self._pending.count >= self._flush_records or now - self._flushed >= self._flush_seconds
        ):
            if not self._alone():
                raise _LogGoneError
            self._written += self._pending.write(self._log_dir, progress)
            self._committed = progress
            self._flushed = now
            self._told = -_TELL_SECONDS
        if now - self._told >= _TELL_SECONDS:
            self._reader.commit(self._committed)
            stream.publish_collected(self._client, self._committed)
            stream.trim(self._client, list(self._committed.positions))
            self._told = now

    def _compact(self) -> None:
        try:
            compact.compact_due(self._log_dir, time.time())
        except OSError as error:
            _log.warning("cannot compact the log; it grows in small files", error=str(error))

    def _summary(self, waiting: int) -> Summary:
        for lost in self._reader.lost:
            _log.error("the store lost records before they were collected", **lost._asdict())
        return Summary(dict(self._written), len(self._reader.lost), waiting)

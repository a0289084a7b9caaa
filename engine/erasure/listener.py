"""Erases announced customers from a log, beside its collector: states *log rewritten* and *settled*.

A server knows neither where every log is nor when the last record in flight has arrived. So the eraser reads the
announcements, rewrites the log, and only later writes the stream position to `LOG/.erasures`: once the streams have no
entry from before the erasure and the store rewrites its append-only file. A crash before that repeats the erasure.
"""

import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import pyarrow.compute as pc
import structlog
from redis import Redis, RedisCluster
from redis.exceptions import RedisError, ResponseError

from engine.erasure.announcements import read_announcements
from engine.erasure.log import FileId, delete_rows, file_id, files_to_search, record_erased
from engine.errors import JournalError, StoppedError
from engine.hashing import identifier_digest
from engine.journal import stream
from engine.journal.log import parquet
from engine.journal.log.parquet import LogTable
from engine.journal.log_once import LogOnce
from engine.journal.stream import BEGINNING, Position, StreamClient

_POSITION_FILE = ".erasures"
_SLACK_SECONDS = 5.0
"""After the last record that an erasure covers, before it can be settled."""
_STEP_SECONDS = 2.0
_REMEMBERED_NAMES = 1_000_000
"""Hashes of other customers' names, so that a name is not digested again for every file."""
_CUSTOMER_COLUMNS: dict[LogTable, list[str]] = {
    "decisions": ["customer", "device"],
    "exposures": ["customer"],
    "events": ["customer"],
}
_log = structlog.get_logger(__name__)


def erase_logged(client: StreamClient, log: Path) -> int:
    """Delete the rows of customers whose erasure is not settled in this log yet; returns how many rows.

    If it is interrupted, the next call repeats it.

    Raises:
        redis.RedisError: if the store does not answer. Calling again skips nothing.
        OSError: if the disk is full.
    """
    return LogEraser(client, log).step(time.time())


class LogEraser:
    """Erases announced customers from one log, and settles the erasures. `step` it every few seconds.

    All erasures announced since the last step share one search of the log.
    """

    def __init__(self, client: StreamClient, log: Path, stop: Event | None = None) -> None:
        self._client = client
        self._log = log
        self._stop = stop
        self._position_file = log / _POSITION_FILE
        self._position = self._position_file.read_text() if self._position_file.is_file() else BEGINNING
        self._unsettled: list[tuple[float, Position]] = []
        """Rewritten erasures: the time of the last record that each covers, and its position."""

    def step(self, now: float) -> int:
        """Erase customers announced since the last step, settle finished erasures; returns the number of deleted rows.

        Args:
            now: seconds since 1970.

        Raises:
            redis.RedisError: if the store does not answer. Calling again skips nothing.
            OSError: if the disk is full.
            StoppedError: if `stop` was set before the end.
        """
        announced, position = read_announcements(self._client, self._position)
        deleted = 0
        if announced:
            record_erased(self._log, announced)  # first: no row may arrive behind the search
            names, unaffected = _search_log(self._log, announced, self._stop)
            deleted = delete_rows(self._log, names, unaffected, self._stop) if names else 0
            self._position = position
            self._unsettled.append((max(announced.values()), position))
        self._settle(now)
        return deleted

    def _settle(self, now: float) -> None:
        """Store the position of erasures that can gain no more records, once the append-only file is rewritten.

        That file has every write of the store, so it names the customers until then.
        """
        due = [erasure for erasure in self._unsettled if erasure[0] + _SLACK_SECONDS < now]
        if not due:
            return
        if stream.has_entries_before(self._client, max(at for at, _ in due)) or not _rewrite_append_only(self._client):
            return
        prepared = self._position_file.with_suffix(".tmp")
        prepared.write_text(due[-1][1])
        prepared.replace(self._position_file)
        self._unsettled = [erasure for erasure in self._unsettled if erasure not in due]


def _rewrite_append_only(client: StreamClient) -> bool:
    """Make every node with an append-only file rewrite it; False if one is busy with an earlier rewrite.

    Hosted stores forbid the command: that is logged and counts as done, since waiting would not help.
    """
    for node in _nodes(client):
        if not node.info("persistence").get("aof_enabled"):
            continue
        try:
            node.bgrewriteaof()
        except ResponseError as error:
            if "in progress" in str(error):
                return False
            _log.warning(
                "the store refuses BGREWRITEAOF: its append-only file names erased customers until it rewrites it",
                error=str(error),
            )
    return True


def _nodes(client: StreamClient) -> Iterator[Redis]:
    """A client of every node: a cluster's AOF is rewritten node by node."""
    if isinstance(client, RedisCluster):
        yield from (node.redis_connection for node in client.nodes_manager.nodes_cache.values())
    else:
        yield client


def _search_log(log: Path, digests: Collection[str], stop: Event | None) -> tuple[set[str], set[FileId]]:
    """The log's identifiers with one of these digests, and the files without any."""
    names: set[str] = set()
    unaffected: set[FileId] = set()
    other_names: set[int] = set()
    for table, columns in _CUSTOMER_COLUMNS.items():
        for path in files_to_search(log, table, (), stop):
            this, rows = file_id(path), parquet.read_table(path, columns)
            in_file = {name for column in columns for name in pc.unique(rows[column]).to_pylist() if name is not None}
            erased = set()
            for name in in_file:
                if hash(name) not in other_names:
                    if identifier_digest(name) in digests:
                        erased.add(name)
                    elif len(other_names) < _REMEMBERED_NAMES:
                        other_names.add(hash(name))
            names |= erased
            if this is not None and not erased:
                unaffected.add(this)
    return names, unaffected


class LogErasures:
    """Runs a `LogEraser` for the collector: its `ErasureTask`."""

    @contextmanager
    def running(self, client: StreamClient, log: Path) -> Iterator[None]:
        """Erase announced customers in a thread of its own until the block ends."""
        stop = threading.Event()

        def run() -> None:
            eraser = LogEraser(client, log, stop)
            outage = LogOnce("cannot erase customers from the log", "erasing customers from the log again")
            while not stop.wait(_STEP_SECONDS):
                try:
                    eraser.step(time.time())
                    outage.over()
                except StoppedError:
                    return
                except (RedisError, OSError, JournalError) as error:
                    outage.failed(error)

        thread = threading.Thread(target=run, name="log-erasures")
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def finish(self, client: StreamClient, log: Path) -> int:
        """Erase all customers announced so far; returns the number of rows deleted."""
        return erase_logged(client, log)

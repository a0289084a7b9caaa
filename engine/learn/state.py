"""The state of one learner in one SQLite file: `DATA/learn/all.sqlite`, or a file named by its partitions.

Invariants:

- A batch writes everything in one transaction: the stream position, what it learnt, the open rewards and the records
  for the log. After a crash the learner reads on from the stored position, so nothing counts twice or is lost.
- The file answers for its commits (`synchronous = full`): a position is committed in the stream, which may then be
  trimmed, only after the transaction that contains it.
- The file can be deleted under a running learner. The learner notices, because its inode is another or gone, and
  starts over from the published snapshots and positions.
- The format is `state.sql`; files of earlier releases open as they are.
"""

import sqlite3
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec
import structlog

from engine.errors import StoreUnavailable
from engine.journal.stream import Progress
from engine.learn.guarding.breaker import GRACE
from engine.learn.teach import Learnt
from policies import dump_policy, load_policy
from policies.examination import PositionSums

_spans = msgspec.json.Decoder(tuple[tuple[float, float], ...])
_examined = msgspec.json.Decoder(tuple[PositionSums, ...])
_log = structlog.get_logger(__name__)
_SCHEMA = Path(__file__).with_name("state.sql").read_text(encoding="utf-8")


def state_path(data: Path, owned: Sequence[int] | None) -> Path:
    """The file of the learner of these partitions (None: all partitions)."""
    return data / "learn" / ("all.sqlite" if owned is None else f"{'-'.join(map(str, sorted(owned)))}.sqlite")


_BEFORE = "pending_before"
_GUARD_BEFORE = "guard_heard"
_ADDED = {
    "pending": (
        ("amount REAL NOT NULL DEFAULT 0", "reward"),
        ("revenue REAL NOT NULL DEFAULT 0", "0"),
        ("refunded REAL NOT NULL DEFAULT 0", "0"),
        ("refunded_whole INTEGER NOT NULL DEFAULT 0", "0"),
        ("logged REAL NOT NULL DEFAULT 0", "rewarded"),
        ("weight REAL NOT NULL DEFAULT 1", "1"),
        ("creative TEXT NOT NULL DEFAULT ''", "''"),
        ("creative_propensity REAL NOT NULL DEFAULT 1", "1"),
        ("creative_learnt REAL NOT NULL DEFAULT 0", "0"),
        ("creative_weight REAL NOT NULL DEFAULT 1", "1"),
    ),
    "policies": (("examined BLOB NOT NULL DEFAULT '[]'", "'[]'"),),
}
"""Columns that tables of earlier releases lack, by table and in their order, each with its value in rows that exist."""


TRIES = 3
"""Attempts that fail with a record before it is quarantined."""
TRANSIENT = (StoreUnavailable, OSError, sqlite3.OperationalError, MemoryError)
"""Failures of the surroundings, for which no record is to blame."""
T = TypeVar("T")


class State:
    """The learner's file. `id` is the spool name under which its records are shipped."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.db = sqlite3.connect(path, isolation_level=None)
        self._set_pending_aside()
        self._name_published()
        self._rename_guard_messages()
        self.db.executescript(_SCHEMA)
        self._add_columns()
        self._take_pending_over()
        self._inode = _inode(path)
        self.db.execute("INSERT OR IGNORE INTO meta VALUES ('id', ?)", [f"learner-{uuid.uuid4().hex}".encode()])
        self.id = self._meta("id").decode()

    @property
    def is_lost(self) -> bool:
        """Whether the file was deleted or replaced, so that writes to it are lost."""
        return _inode(self.path) != self._inode

    def close(self) -> None:
        """Close the file."""
        self.db.close()

    @contextmanager
    def transaction(self, undone: Callable[[], None] | None = None, *, keep: bool = True) -> Iterator[None]:
        """Commit the whole block or nothing: after a failure or without `keep` it rolls back and calls `undone`."""
        self.db.execute("BEGIN IMMEDIATE")
        is_kept = False
        try:
            yield
            if keep:
                self.db.execute("COMMIT")
                is_kept = True
        finally:
            if not is_kept:
                if self.db.in_transaction:
                    self.db.execute("ROLLBACK")
                if undone is not None:
                    undone()

    def progress(self) -> Progress | None:
        """The position up to which the streams are read; None before the first read."""
        stored = self._meta("progress")
        return msgspec.json.decode(stored, type=Progress) if stored else None

    def put_progress(self, progress: Progress) -> None:
        """Store the position up to which the streams are read."""
        self.db.execute("INSERT OR REPLACE INTO meta VALUES ('progress', ?)", [msgspec.json.encode(progress)])

    def clocks(self) -> dict[int, float]:
        """The clock of each partition (s since 1970)."""
        return dict(self.db.execute("SELECT partition, time FROM clocks"))

    def put_clocks(self, clocks: Mapping[int, float]) -> None:
        """Store the clocks of partitions."""
        self.db.executemany("INSERT OR REPLACE INTO clocks VALUES (?, ?)", clocks.items())

    def time(self) -> float:
        """The time until which everything due was processed (s since 1970)."""
        stored = self._meta("time")
        return msgspec.json.decode(stored, type=float) if stored else 0.0

    def put_time(self, time: float) -> None:
        """Store the time until which everything due was processed."""
        self.db.execute("INSERT OR REPLACE INTO meta VALUES ('time', ?)", [msgspec.json.encode(time)])

    def due(self, until: float, limit: int) -> list[float]:
        """The due times of the first `limit` pending rows, early arrivals and outcomes that are due by `until`."""
        rows = self.db.execute(
            "SELECT due FROM (SELECT due FROM pending WHERE due <= :until UNION ALL "
            "SELECT due FROM early WHERE due <= :until UNION ALL "
            "SELECT ended + :grace FROM under_guard WHERE NOT known AND ended <= :until "
            "AND ended + :grace <= :until) "
            "ORDER BY due LIMIT :limit",
            {"until": until, "limit": limit, "grace": GRACE},
        )
        return [due for (due,) in rows]

    def erased(self) -> dict[str, float]:
        """Digests of erased customers' ids, with the time of each erasure (s since 1970)."""
        return dict(self.db.execute("SELECT digest, at FROM erased"))

    def drop_merges(self, before: float) -> None:
        """Delete the merges of customers that are older than `before` (s since 1970)."""
        self.db.execute("DELETE FROM merged WHERE at < ?", [before])

    def policies(self) -> dict[str, Learnt]:
        """The stored policies by selection; one that cannot be read is reported and starts over."""
        policies: dict[str, Learnt] = {}
        rows = self.db.execute("SELECT key, meaning, version, learnt, forgotten, policy, examined FROM policies")
        for key, meaning, version, learnt, spans, blob, examined in rows:
            sums = _examined.decode(examined)
            try:
                policy, forgotten = load_policy(blob), _spans.decode(spans)
                policies[key] = Learnt(policy, meaning, version, learnt, forgotten=forgotten, examined=sums)
            except ValueError as error:
                _log.error("a policy of an earlier release cannot be read and starts over", key=key, error=str(error))
        return policies

    def put_policies(self, learnt: Mapping[str, Learnt]) -> None:
        """Store policies by selection."""
        self.db.executemany(
            "INSERT OR REPLACE INTO policies VALUES (?, ?, ?, ?, ?, ?, ?)",
            [(key, *_policy_columns(one)) for key, one in learnt.items()],
        )

    def add_aside(self, counts: Counter[str]) -> None:
        """Add to the numbers of records that could not be learnt."""
        self.db.executemany(
            "INSERT INTO aside VALUES (?, ?) ON CONFLICT (reason) DO UPDATE SET count = count + excluded.count",
            counts.items(),
        )

    def aside(self) -> dict[str, int]:
        """The number of records that could not be learnt, by reason."""
        return dict(self.db.execute("SELECT reason, count FROM aside ORDER BY reason"))

    def unpublished_trips(self) -> list[tuple[str, str]]:
        """Tripped selections that are not published to the decision servers yet, each with its reason."""
        return list(self.db.execute("SELECT selection, reason FROM unpublished_trips"))

    def published_trips(self) -> list[str]:
        """Tripped selections that are published to the decision servers."""
        return [selection for (selection,) in self.db.execute("SELECT selection FROM published_trips")]

    def mark_published(self, selection: str) -> None:
        """Store that a trip is published to the decision servers."""
        statement = "INSERT OR REPLACE INTO trips SELECT selection, reason, 1 FROM trips WHERE selection = ?"
        self.db.execute(statement, [selection])

    def drop_trip(self, selection: str) -> None:
        """Delete a trip whose breaker was closed by hand; the selection is tested again."""
        self.db.execute("DELETE FROM trips WHERE selection = ?", [selection])

    def _set_pending_aside(self) -> None:
        """Rename the table `pending` of an earlier release, which has no row numbers."""
        created = self.db.execute("SELECT sql FROM sqlite_master WHERE name = 'pending'").fetchone()
        if created is None or "WITHOUT ROWID" not in created[0].upper():
            return
        self._add_columns()
        self.db.execute("PRAGMA secure_delete = on")
        with self.transaction():
            for index in ("pending_of_customer", "pending_by_customer", "pending_by_due"):
                self.db.execute(f"DROP INDEX IF EXISTS {index}")
            self.db.execute(f"ALTER TABLE pending RENAME TO {_BEFORE}")

    def _rename_guard_messages(self) -> None:
        """Rename the table `guard_messages`, which has another name in earlier releases."""
        if self.db.execute("SELECT 1 FROM sqlite_master WHERE name = ?", [_GUARD_BEFORE]).fetchone():
            with self.transaction():
                self.db.execute(f"DROP INDEX IF EXISTS {_GUARD_BEFORE}_ended")
                self.db.execute(f"ALTER TABLE {_GUARD_BEFORE} RENAME TO guard_messages")

    def _name_published(self) -> None:
        """Rename the last column of `trips`, which has another name in earlier releases."""
        columns = [name for _, name, *_ in self.db.execute("PRAGMA table_info(trips)")]
        if columns and columns[-1] != "published":
            self.db.execute(f"ALTER TABLE trips RENAME COLUMN {columns[-1]} TO published")

    def _take_pending_over(self) -> None:
        """Move the rows of a renamed table into `pending`, also if an earlier process died while doing so."""
        if self.db.execute("SELECT 1 FROM sqlite_master WHERE name = ?", [_BEFORE]).fetchone():
            with self.transaction():
                self.db.execute(f"INSERT INTO pending SELECT * FROM {_BEFORE} ORDER BY decision_id, key")  # noqa: S608 # nosec B608
                self.db.execute(f"DROP TABLE {_BEFORE}")

    def _add_columns(self) -> None:
        """Add columns that an earlier release's tables lack."""
        for table, columns in _ADDED.items():
            present = {name for _, name, *_ in self.db.execute(f"PRAGMA table_info({table})")}
            missing = [(column, value) for column, value in columns if column.split()[0] not in present]
            if present and missing:
                with self.transaction():
                    for column, value in missing:
                        self.db.execute(f"ALTER TABLE {table} ADD COLUMN {column}")
                        # SQLite binds no names; these and the values are the constants of `_ADDED`.
                        self.db.execute(f"UPDATE {table} SET {column.split()[0]} = {value}")  # noqa: S608 # nosec B608

    def _meta(self, name: str) -> bytes:
        """A value of the table `meta`; empty if it was never written."""
        row = self.db.execute("SELECT value FROM meta WHERE name = ?", [name]).fetchone()
        return bytes(row[0]) if row else b""


def _policy_columns(one: Learnt) -> tuple[object, ...]:
    """The columns of a stored policy after its key."""
    spans, examined = msgspec.json.encode(one.forgotten), msgspec.json.encode(one.examined)
    return one.meaning, one.version, one.learnt, spans, dump_policy(one.policy), examined


def _inode(path: Path) -> tuple[int, int] | None:
    """Device and inode of a file, by which a replaced file is recognized; None if it does not exist."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def find_poisoned(records: Sequence[T], attempt: Callable[[Sequence[T]], None]) -> dict[int, str]:
    """The places and errors of records on which `attempt` fails `TRIES` times; empty if none is at fault.

    Looks for the shortest failing beginning of the records by halves, takes its last one out, and repeats: as many
    attempts as the logarithm of the records for each that is found.
    """
    poisoned: dict[int, str] = {}
    left = list(range(len(records)))

    def failure(places: Sequence[int]) -> str:
        """The error of the last of several tries; empty if one succeeded."""
        found = ""
        for _ in range(TRIES):
            try:
                attempt([records[place] for place in places])
            except TRANSIENT:
                raise
            except Exception as error:  # noqa: BLE001 (whatever a record causes, the others must go on)
                found = type(error).__name__
            else:
                return ""
        return found

    while (error := failure(left)) and not failure([]):
        low, high = 0, len(left)
        while high - low > 1:
            middle = (low + high) // 2
            if failure(left[:middle]):
                high = middle
            else:
                low = middle
        poisoned[left.pop(high - 1)] = error
    return {} if error else poisoned

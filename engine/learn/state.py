"""What the learner knows, in one SQLite file: a batch changes all of it or nothing, so that a crash repeats nothing."""

import sqlite3
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import structlog

from engine.journal.stream import Progress
from engine.learn.breaker import GRACE
from engine.learn.teach import Learnt
from policies import dump_policy, load_policy

_spans = msgspec.json.Decoder(tuple[tuple[float, float], ...])
_log = structlog.get_logger(__name__)
_SCHEMA = Path(__file__).with_name("state.sql").read_text(encoding="utf-8")


def path_of(data: Path, owned: Sequence[int] | None) -> Path:
    """Where the learner of these partitions (None: of all) keeps its state."""
    return data / "learn" / ("all.sqlite" if owned is None else f"{'-'.join(map(str, sorted(owned)))}.sqlite")


class State:
    """The learner's file. `id` names it among the spools of the stream."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.db = sqlite3.connect(path, isolation_level=None)
        self.db.executescript(_SCHEMA)
        self._inode = _inode(path)
        self.db.execute("INSERT OR IGNORE INTO meta VALUES ('id', ?)", [f"learner-{uuid.uuid4().hex}".encode()])
        self.id = self._meta("id").decode()

    @property
    def lost(self) -> bool:
        """Whether the file was deleted, or another is in its place: what is written here, nobody reads again."""
        return _inode(self.path) != self._inode

    def close(self) -> None:
        """Let go of the file."""
        self.db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All that the block writes, or nothing of it."""
        self.db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self.db.execute("ROLLBACK")
            raise
        self.db.execute("COMMIT")

    def progress(self) -> Progress | None:
        """How far the streams were read; None if they never were."""
        stored = self._meta("progress")
        return msgspec.json.decode(stored, type=Progress) if stored else None

    def put_progress(self, progress: Progress) -> None:
        """Keep how far the streams were read."""
        self.db.execute("INSERT OR REPLACE INTO meta VALUES ('progress', ?)", [msgspec.json.encode(progress)])

    def clocks(self) -> dict[int, float]:
        """The clock of each partition, seconds since 1970."""
        return dict(self.db.execute("SELECT partition, time FROM clocks"))

    def put_clocks(self, clocks: Mapping[int, float]) -> None:
        """Keep the partitions' clocks."""
        self.db.executemany("INSERT OR REPLACE INTO clocks VALUES (?, ?)", clocks.items())

    def time(self) -> float:
        """How far time went, seconds since 1970."""
        stored = self._meta("time")
        return msgspec.json.decode(stored, type=float) if stored else 0.0

    def put_time(self, time: float) -> None:
        """Keep how far time went."""
        self.db.execute("INSERT OR REPLACE INTO meta VALUES ('time', ?)", [msgspec.json.encode(time)])

    def due(self, until: float, limit: int) -> list[float]:
        """When the first `limit` things are due that only time changes."""
        rows = self.db.execute(
            "SELECT due FROM (SELECT due FROM pending WHERE due <= :until UNION ALL "
            "SELECT due FROM early WHERE due <= :until UNION ALL "
            "SELECT ended + :grace FROM under_guard WHERE NOT known AND ended <= :until "
            "AND ended + :grace <= :until) "
            "ORDER BY due LIMIT :limit",
            {"until": until, "limit": limit, "grace": GRACE},
        )
        return [due for (due,) in rows]

    def forget_merges(self, before: float) -> None:
        """Let go of who became whom before then."""
        self.db.execute("DELETE FROM merged WHERE at < ?", [before])

    def policies(self) -> dict[str, Learnt]:
        """What was learnt, by selection."""
        found: dict[str, Learnt] = {}
        rows = self.db.execute("SELECT key, meaning, version, learnt, forgotten, policy FROM policies")
        for key, meaning, version, learnt, spans, blob in rows:
            try:
                found[key] = Learnt(load_policy(blob), meaning, version, learnt, _spans.decode(spans))
            except ValueError as error:
                _log.error("a policy of an earlier release cannot be read and starts again", key=key, error=str(error))
        return found

    def put_policies(self, learnt: Mapping[str, Learnt]) -> None:
        """Keep what was learnt."""
        self.db.executemany(
            "INSERT OR REPLACE INTO policies VALUES (?, ?, ?, ?, ?, ?)",
            [
                (key, one.meaning, one.version, one.learnt, msgspec.json.encode(one.forgotten), dump_policy(one.policy))
                for key, one in learnt.items()
            ],
        )

    def put_aside(self, counts: Counter[str]) -> None:
        """Count what was kept aside."""
        self.db.executemany(
            "INSERT INTO aside VALUES (?, ?) ON CONFLICT (reason) DO UPDATE SET count = count + excluded.count",
            counts.items(),
        )

    def aside(self) -> dict[str, int]:
        """How much was kept aside, by reason."""
        return dict(self.db.execute("SELECT reason, count FROM aside ORDER BY reason"))

    def untold_trips(self) -> list[tuple[str, str]]:
        """Selections with the reason for which they tripped, that nobody was told of."""
        return list(self.db.execute("SELECT selection, reason FROM trips WHERE NOT told"))

    def told_trip(self, selection: str) -> None:
        """It was told."""
        self.db.execute("UPDATE trips SET told = 1 WHERE selection = ?", [selection])

    def told_trips(self) -> list[str]:
        """Selections that tripped and of which everybody was told."""
        return [selection for (selection,) in self.db.execute("SELECT selection FROM trips WHERE told")]

    def forget_trip(self, selection: str) -> None:
        """Somebody closed the breaker again: a new test begins."""
        self.db.execute("DELETE FROM trips WHERE selection = ?", [selection])

    def _meta(self, name: str) -> bytes:
        found = self.db.execute("SELECT value FROM meta WHERE name = ?", [name]).fetchone()
        return bytes(found[0]) if found else b""


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino

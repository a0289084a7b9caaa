"""State *learner files cleaned*: no learner's SQLite file has a row of the erased customers.

Here and not in `learn`, because a server that erases a customer imports no learner. The file's table `erased` has
digests with the time of erasure; the learner drops earlier records of them that arrive later.
"""

import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import msgspec

from engine.erasure.announcements import read_announcements
from engine.hashing import identifier_digest
from engine.journal.records import AnyRecord, QuarantineRecord, RewardRecord, decode
from engine.journal.stream import Position, StreamClient
from engine.keyspace import ERASURES_LIFE

_VACUUM_BYTES = 128 << 20
"""A file up to this size is rewritten whole, in about a second. In a larger one SQLite overwrites copies over time."""
_DECISIONS = "SELECT decision_id FROM pending WHERE customer IN (SELECT value FROM json_each(?))"
_DELETIONS = (
    "DELETE FROM pending WHERE customer IN (SELECT value FROM json_each(?))",
    "DELETE FROM under_guard WHERE customer IN (SELECT value FROM json_each(?))",
    "DELETE FROM merged WHERE customer IN (SELECT value FROM json_each(?))",
    "DELETE FROM merged WHERE into_ IN (SELECT value FROM json_each(?))",
)
_STORE_DIGEST = "INSERT INTO erased VALUES (?, ?) ON CONFLICT DO UPDATE SET at = max(at, excluded.at)"


def erase_from_learner_files(data: Path, ids: Collection[str], now: float) -> int:
    """Delete the rows of the customers `ids` in the learners' files under `data`; drop their records before `now`.

    What a policy learnt from them stays: it is a sum over all customers that names nobody. Works beside a running
    learner.

    Returns:
        The number of rows deleted.
    """
    deleted = 0
    names = msgspec.json.encode(list(ids)).decode()
    for path in sorted((data / "learn").glob("*.sqlite")):
        with _connect(path) as db:
            db.execute("PRAGMA secure_delete = on")
            db.execute("BEGIN IMMEDIATE")
            decisions = {decision for (decision,) in db.execute(_DECISIONS, [names])}
            deleted += sum(db.execute(statement, [names]).rowcount for statement in _DELETIONS)
            early = db.execute("SELECT id, record FROM early").fetchall()
            deleted += _delete_records(db, "DELETE FROM early WHERE id = ?", early, ids, decisions)
            outbox = db.execute("SELECT seq, record FROM outbox").fetchall()
            deleted += _delete_records(db, "DELETE FROM outbox WHERE seq = ?", outbox, ids, decisions)
            db.execute("DELETE FROM erased WHERE at < ?", [now - ERASURES_LIFE])
            db.executemany(
                "INSERT OR REPLACE INTO erased VALUES (?, ?)", [(identifier_digest(name), now) for name in ids]
            )
            db.execute("COMMIT")
            if path.stat().st_size < _VACUUM_BYTES:
                db.execute("VACUUM")  # rows that moved within the file leave copies, which no deletion reaches
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return deleted


def erase_pending(client: StreamClient, data: Path, since: Position) -> Position:
    """Delete from the learners' files under `data` the customers whose erasure was announced after `since`.

    Returns:
        The position to continue from.

    Raises:
        redis.RedisError: if the store does not answer. Calling again skips nothing.
    """
    announced, position = read_announcements(client, since)
    unknown: dict[Path, list[tuple[str, float]]] = {}
    names: set[str] = set()
    for path in sorted((data / "learn").glob("*.sqlite")) if announced else ():
        with _connect(path) as db:
            known: dict[str, float] = dict(db.execute("SELECT digest, at FROM erased"))
            new = {digest: at for digest, at in announced.items() if at > known.get(digest, 0.0)}
            if new:
                unknown[path] = list(new.items())
                names |= {name for name in _customers(db) if identifier_digest(name) in new}
    if names:
        erase_from_learner_files(data, names, max(announced.values()))
    # Last: a file that has a digest is not searched for it again, so a crash before this repeats the deletion.
    for path, digests in unknown.items():
        with _connect(path) as db:
            db.executemany(_STORE_DIGEST, digests)
    return position


def _connect(path: Path) -> closing[sqlite3.Connection]:
    """A connection that waits up to 30 s for a learner's transaction to end."""
    return closing(sqlite3.connect(path, isolation_level=None, timeout=30.0))


def _customers(db: sqlite3.Connection) -> Iterator[str]:
    """The customers in all tables with a customer column or stored records, with repetitions."""
    columns = "SELECT m.name FROM sqlite_master m, pragma_table_info(m.name) c WHERE m.type = 'table' AND c.name = ?"
    # SQLite binds values, not names of tables. These names are those of the learner's own schema, and they are quoted.
    for (table,) in db.execute(columns, ["customer"]).fetchall():
        customers = f"SELECT DISTINCT customer FROM {_quote_name(table)}"  # noqa: S608 # nosec B608
        yield from (name for (name,) in db.execute(customers))
    for (table,) in db.execute(columns, ["record"]).fetchall():
        records = f"SELECT record FROM {_quote_name(table)}"  # noqa: S608 # nosec B608
        for (payload,) in db.execute(records):
            record = decode(payload)
            if not isinstance(record, RewardRecord | QuarantineRecord):
                yield record.customer


def _quote_name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _delete_records(
    db: sqlite3.Connection,
    statement: str,
    stored: Sequence[tuple[int, bytes]],
    ids: Collection[str],
    decisions: Collection[str],
) -> int:
    """Delete the (row id, encoded record) pairs that belong to `ids`; returns their number."""
    rows = [(row,) for row, payload in stored if _belongs_to(decode(payload), ids, decisions)]
    db.executemany(statement, rows)
    return len(rows)


def _belongs_to(record: AnyRecord, ids: Collection[str], decisions: Collection[str]) -> bool:
    """Whether a record belongs to the customers `ids`, or is a reward of one of their `decisions`."""
    if isinstance(record, QuarantineRecord):
        return _belongs_to(decode(record.body), ids, decisions)
    if isinstance(record, RewardRecord):
        return record.decision_id in decisions
    return record.customer in ids

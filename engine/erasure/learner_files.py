"""Takes people out of the learner's files; here, because a server that deletes a customer knows no learner."""

import sqlite3
from collections.abc import Collection, Sequence
from contextlib import closing
from pathlib import Path

import msgspec

from engine.hashing import identifier_digest
from engine.journal.records import AnyRecord, QuarantineRecord, RewardRecord, decode
from engine.keyspace import ERASURES_LIFE

_DECISIONS = "SELECT decision_id FROM pending WHERE customer IN (SELECT value FROM json_each(?))"
_REWRITTEN = 128 << 20
"""Bytes of a file that is written anew in a second or so; in a larger one copies go as their place is used again."""
_STATEMENTS = (
    "DELETE FROM pending WHERE customer IN (SELECT value FROM json_each(?))",
    "DELETE FROM under_guard WHERE customer IN (SELECT value FROM json_each(?))",
    "DELETE FROM merged WHERE customer IN (SELECT value FROM json_each(?))",
    "DELETE FROM merged WHERE into_ IN (SELECT value FROM json_each(?))",
)


def erase_pending(data: Path, ids: Collection[str], now: float) -> int:
    """Remove what the learners under `data` keep of the customers `ids`, and what came before `now` and is to come.

    What a policy learnt from them stays: sums over everybody, in which nobody can be found. Works beside a running
    learner.

    Returns:
        The number of rows removed.
    """
    removed = 0
    asked = msgspec.json.encode(list(ids)).decode()
    for path in sorted((data / "learn").glob("*.sqlite")):
        with closing(sqlite3.connect(path, isolation_level=None, timeout=30.0)) as db:
            db.execute("PRAGMA secure_delete = on")
            db.execute("BEGIN IMMEDIATE")
            decisions = {id_ for (id_,) in db.execute(_DECISIONS, [asked])}
            removed += sum(db.execute(statement, [asked]).rowcount for statement in _STATEMENTS)
            early = db.execute("SELECT id, record FROM early").fetchall()
            removed += _delete(db, "DELETE FROM early WHERE id = ?", early, ids, decisions)
            outbox = db.execute("SELECT seq, record FROM outbox").fetchall()
            removed += _delete(db, "DELETE FROM outbox WHERE seq = ?", outbox, ids, decisions)
            db.execute("DELETE FROM erased WHERE at < ?", [now - ERASURES_LIFE])
            db.executemany(
                "INSERT OR REPLACE INTO erased VALUES (?, ?)", [(identifier_digest(name), now) for name in ids]
            )
            db.execute("COMMIT")
            if path.stat().st_size < _REWRITTEN:
                db.execute("VACUUM")  # rows that were moved within the file leave copies that no deletion reaches
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return removed


def _delete(
    db: sqlite3.Connection,
    statement: str,
    stored: Sequence[tuple[int, bytes]],
    ids: Collection[str],
    decisions: Collection[str],
) -> int:
    gone = [(row,) for row, payload in stored if _is_about(decode(payload), ids, decisions)]
    db.executemany(statement, gone)
    return len(gone)


def _is_about(record: AnyRecord, ids: Collection[str], decisions: Collection[str]) -> bool:
    if isinstance(record, QuarantineRecord):
        return _is_about(decode(record.body), ids, decisions)
    if isinstance(record, RewardRecord):
        return record.decision_id in decisions
    return record.customer in ids

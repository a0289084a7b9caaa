"""Keeps what of erased people is still on its way from coming in; `erase_customers` takes them out of our files."""

import sqlite3
from collections.abc import Sequence

from engine.erasure.learner_files import erase_pending as erase_customers
from engine.hashing import identifier_digest
from engine.journal.records import AnyRecord, DecisionRecord, EventRecord, ExposureRecord
from engine.learn.merge_streams import Stamped, time_of

__all__ = ["erase_customers", "without_erased"]


def without_erased(db: sqlite3.Connection, records: Sequence[Stamped]) -> Sequence[Stamped]:
    """The records that were not made by an erased customer before the erasure."""
    erased: dict[str, float] = dict(db.execute("SELECT digest, at FROM erased"))
    if not erased:
        return records
    return [stamped for stamped in records if not _is_erased(stamped.record, erased)]


def _is_erased(record: AnyRecord, erased: dict[str, float]) -> bool:
    if not isinstance(record, DecisionRecord | ExposureRecord | EventRecord):
        return False
    return time_of(record) <= erased.get(identifier_digest(record.customer), float("-inf"))

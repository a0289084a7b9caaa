"""Audit records of processes that serve no requests: each gets its own spool, closed at once.

A server or the collector of the machine ships it. On a machine without either, `ship_audit` does.
"""

import asyncio
from collections.abc import Mapping

import msgspec
import structlog
from redis.exceptions import RedisError

from engine.journal.records import EventRecord, encode
from engine.journal.spool.ship import adopt_spools, ship_spools
from engine.journal.spool.spool import Spool, partition_of
from engine.settings import Settings

_NOBODY = ""
"""The customer of a record that concerns no customer."""
log = structlog.get_logger(__name__)


def append_audit(
    settings: Settings, event: str, properties: Mapping[str, object], *, message_id: str, now: float
) -> None:
    """Append an audit record, one of `vocabulary.AUDIT_EVENTS`; a repeated message id counts once.

    Raises:
        OSError: if the disk does not take it.
    """
    record = EventRecord(
        message_id=message_id,
        time=now,
        received=now,
        customer=_NOBODY,
        event=event,
        decision_id=None,
        channel=None,
        revenue=None,
        properties=msgspec.json.encode(properties),
    )
    settings.spool.mkdir(parents=True, exist_ok=True)
    spool = Spool(settings.spool, fsync=settings.fsync)
    try:
        spool.append(encode(record), partition_of(_NOBODY, settings.partitions))
    finally:
        spool.close()


def ship_audit(settings: Settings) -> None:
    """Ship spools that no process of this machine ships; what the store refuses stays in its spool."""
    try:
        asyncio.run(ship_spools(adopt_spools(settings.spool), settings.redis))
    except RedisError as error:
        log.warning("the audit record waits in its spool", spool=str(settings.spool), error=str(error))

"""A customer's 360 over HTTP: read, handed out, deleted."""

import asyncio
import sqlite3
import time
from collections.abc import Mapping

import msgspec
import structlog

from engine.customer import derive_attributes
from engine.customers.customer_view import customer_view
from engine.customers.redis.keys import identifier_spellings
from engine.decision.attributes import local_clock
from engine.decision.moments import customer_zone
from engine.erasure.learner_files import erase_from_learner_files
from engine.erasure.log import erase_from_log
from engine.erasure.profiles import Export, erase_profile, export_profile
from engine.errors import JournalError, StoreUnavailable
from engine.journal.log.export import export_rows
from engine.service.auth import RequestGuard
from engine.service.http import Call, Reply, Route, endpoint
from engine.service.idempotency import delete_answers
from engine.service.problems import Refusal
from engine.service.worker import Worker

log = structlog.get_logger(__name__)

_encode = msgspec.json.Encoder().encode


class CustomerExport(msgspec.Struct, frozen=True):
    """All that is kept of a customer: the profile, and every row of the log by table."""

    customer: str
    profile: Mapping[str, object] | None
    log: dict[str, list[dict[str, object]]]


class ErasureResult(msgspec.Struct, frozen=True):
    """What went: the identifiers that named the customer, and so many rows of the log."""

    ids: list[str]
    rows: int


def profile_routes(worker: Worker, guard: RequestGuard, limit: int) -> list[Route]:
    """`GET` and `DELETE /v1/profiles/{id}`, `GET /v1/profiles/{id}/export`; any identifier of the customer will do."""

    async def show(call: Call) -> Reply:
        found = await _found(worker, call)
        if found is None:
            raise _unknown(call)
        return Reply(_encode(_portrait(worker, found)))

    async def export(call: Call) -> Reply:
        found = await _found(worker, call)
        customer = str(call.path["id"])
        ids = {*identifier_spellings(customer), *(_ids(found) if found else ())}
        try:
            rows = await asyncio.to_thread(export_rows, worker.settings.log, ids, worker.settings.redis)
        except StoreUnavailable:
            raise _away() from None
        if found is None and not any(rows.values()):
            raise _unknown(call)
        profile = _portrait(worker, found) if found else None
        return Reply(_encode(CustomerExport(customer, profile, rows)))

    async def delete(call: Call) -> Reply:
        customer = str(call.path["id"])
        try:
            gone = await erase_profile(worker.patient, customer, delete_answers)
        except StoreUnavailable:
            raise _away() from None
        ids = {*identifier_spellings(customer), *(value for values in gone.values() for value in values)}
        folder, now = worker.settings.log, time.time()
        try:
            rows = await asyncio.to_thread(erase_from_log, folder, ids, now) if folder.is_dir() else 0
            await asyncio.to_thread(erase_from_learner_files, worker.settings.data, ids, now)
        except (OSError, JournalError, sqlite3.Error) as error:
            log.warning("an erasure is left to the collector and the learner", error=str(error))
            where = f"gone from the store, and not from all files of {worker.settings.data}"
            detail = f"{where}: {error}; mend that, and the collector and the learner finish it"
            raise Refusal(503, detail, "", ((b"retry-after", b"5"),)) from None
        log.warning("customer erased", by=call.caller.name, ids=len(ids), rows=rows)
        return Reply(_encode(ErasureResult(sorted(ids), rows)))

    return [
        endpoint("/v1/profiles/{id:str}", {"GET": show, "DELETE": delete}, limit=limit, guard=guard),
        endpoint("/v1/profiles/{id:str}/export", {"GET": export}, limit=limit, guard=guard),
    ]


async def _found(worker: Worker, call: Call) -> Export | None:
    try:
        return await export_profile(worker.store, str(call.path["id"]))
    except StoreUnavailable:
        raise _away() from None


def _portrait(worker: Worker, found: Export) -> Mapping[str, object]:
    """All that is kept of the customer, and the segments they are in now."""
    now = time.time()
    seen = derive_attributes(found.profile, now)
    seen |= {"id": found.profile.id, **local_clock(now, customer_zone(seen, worker.plan.zone))}
    segments = [key for key, matches in worker.plan.segments.items() if matches(seen)]
    return customer_view(found.profile, now, found.counts) | {"segments": segments}


def _ids(found: Export) -> list[str]:
    return [found.profile.id, *(value for values in found.profile.ids.values() for value in values)]


def _unknown(call: Call) -> Refusal:
    return Refusal(404, f"{call.path['id']!r} is nobody here; give any id the customer was known by", "id")


def _away() -> Refusal:
    return Refusal(503, "the store is away; ask again", "", ((b"retry-after", b"1"),))

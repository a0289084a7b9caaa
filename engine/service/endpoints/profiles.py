"""`/v1/profiles/{id}`: a customer's profile, read, exported with the log, or erased."""

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
from engine.service.problems import DISK_RETRY_SECONDS, Refusal, refuse_for_now
from engine.service.worker import Worker

AWAY = "the store is away, so the customer cannot be found; send it again"

log = structlog.get_logger(__name__)

_encode = msgspec.json.Encoder().encode


class CustomerExport(msgspec.Struct, frozen=True):
    """Everything stored about a customer: the profile, and the rows of the log by table."""

    customer: str
    profile: Mapping[str, object] | None
    log: dict[str, list[dict[str, object]]]


class ErasureResult(msgspec.Struct, frozen=True):
    """What was deleted: the identifiers of the customer, and the number of rows of the log."""

    ids: list[str]
    rows: int


def profile_routes(worker: Worker, guard: RequestGuard, limit: int) -> list[Route]:
    """`GET` and `DELETE /v1/profiles/{id}`, `GET /v1/profiles/{id}/export`, by any identifier of the customer."""

    async def show(call: Call) -> Reply:
        stored = await _read_customer(worker, call)
        if stored is None:
            raise _unknown_customer(call)
        return Reply(_encode(_view(worker, stored)))

    async def export(call: Call) -> Reply:
        stored = await _read_customer(worker, call)
        customer = str(call.path["id"])
        ids = {*identifier_spellings(customer), *(_identifiers(stored) if stored else ())}
        try:
            rows = await asyncio.to_thread(export_rows, worker.settings.log, ids, worker.settings.redis)
        except StoreUnavailable:
            raise refuse_for_now(AWAY) from None
        if stored is None and not any(rows.values()):
            raise _unknown_customer(call)
        profile = _view(worker, stored) if stored else None
        return Reply(_encode(CustomerExport(customer, profile, rows)))

    async def delete(call: Call) -> Reply:
        customer = str(call.path["id"])
        # The store first: its tombstones reject what still arrives for the customer while the files are rewritten.
        try:
            erased = await erase_profile(worker.event_store, customer, delete_answers)
        except StoreUnavailable:
            raise refuse_for_now(AWAY) from None
        ids = {*identifier_spellings(customer), *(value for values in erased.values() for value in values)}
        rows = await _erase_from_files(worker, ids)
        log.warning("customer erased", by=call.caller.name, ids=len(ids), rows=rows)
        return Reply(_encode(ErasureResult(sorted(ids), rows)))

    return [
        endpoint("/v1/profiles/{id:str}", {"GET": show, "DELETE": delete}, limit=limit, guard=guard),
        endpoint("/v1/profiles/{id:str}/export", {"GET": export}, limit=limit, guard=guard),
    ]


async def _erase_from_files(worker: Worker, ids: set[str]) -> int:
    """Delete an erased customer's rows from the files of the log and of the learner; returns those of the log.

    Raises:
        Refusal: 503 if a file cannot be rewritten. The erasure is announced in the store by then, so the collector and
            the learner complete it in their files.
    """
    settings, now = worker.settings, time.time()
    try:
        rows = await asyncio.to_thread(erase_from_log, settings.log, ids, now) if settings.log.is_dir() else 0
        await asyncio.to_thread(erase_from_learner_files, settings.data, ids, now)
    except (OSError, JournalError, sqlite3.Error) as error:
        log.warning("erasure incomplete in the files; the collector and the learner complete it", error=str(error))
        detail = (
            f"erased from the store, but not from all files of {settings.data}: {error}; fix that, and the collector "
            "and the learner complete the erasure"
        )
        raise refuse_for_now(detail, seconds=DISK_RETRY_SECONDS) from None
    return rows


async def _read_customer(worker: Worker, call: Call) -> Export | None:
    try:
        return await export_profile(worker.store, str(call.path["id"]))
    except StoreUnavailable:
        raise refuse_for_now(AWAY) from None


def _view(worker: Worker, stored: Export) -> Mapping[str, object]:
    """The customer's profile and counters, with the segments they belong to now."""
    now = time.time()
    attributes = derive_attributes(stored.profile, now)
    attributes |= {"id": stored.profile.id, **local_clock(now, customer_zone(attributes, worker.plan.zone))}
    segments = [key for key, matches in worker.plan.segments.items() if matches(attributes)]
    return customer_view(stored.profile, now, stored.counts) | {"segments": segments}


def _identifiers(stored: Export) -> list[str]:
    return [stored.profile.id, *(value for values in stored.profile.ids.values() for value in values)]


def _unknown_customer(call: Call) -> Refusal:
    return Refusal(404, f"{call.path['id']!r} is no customer's identifier; send any id that events named", "id")

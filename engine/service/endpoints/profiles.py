"""`/v1/profiles/{id}`: reads, exports or erases a customer's profile."""

import asyncio
import sqlite3
import time
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import msgspec
import structlog
from msgspec import Raw

from engine.claims.coupons import CustomerCode
from engine.customers.customer_view import customer_view
from engine.customers.redis.keys import identifier_spellings
from engine.decision.attributes import local_clock
from engine.decision.moments import customer_zone
from engine.erasure.learner_files import erase_from_learner_files
from engine.erasure.profiles import Export, erase_profile, export_profile
from engine.errors import BadInput, JournalError, StoreUnavailable, has_extra, missing_extra
from engine.journal.log.offer_history import OfferedOffer, build_offer_history
from engine.service.auth import RequestGuard
from engine.service.endpoints.admin import record_audit
from engine.service.http import Call, Reply, Route, endpoint
from engine.service.idempotency import delete_answers
from engine.service.problems import DISK_RETRY_SECONDS, Refusal, refuse_for_now
from engine.service.worker import Worker
from engine.settings import Settings
from engine.traits.attributes import derive_attributes
from engine.vocabulary import CUSTOMER_ERASED, CUSTOMER_EXPORTED

HISTORY_SECONDS = 1.0
"""The time for which days of the log are read for a history of offers, the newest first."""
AWAY = "the store is away, so the customer cannot be found; send it again"

log = structlog.get_logger(__name__)

_encode = msgspec.json.Encoder().encode


class CustomerExport(msgspec.Struct, frozen=True):
    """The stored data of a customer: the profile, the rows of the log by table, and the coupon codes."""

    customer: str
    profile: Mapping[str, object] | None
    log: dict[str, list[dict[str, object]]]
    coupons: list[CustomerCode]


class OfferHistory(msgspec.Struct, frozen=True):
    """A customer's offers, newest first; `since` is the oldest day read, empty if the whole log was read."""

    customer: str
    offers: "list[OfferedOffer]"
    since: str


class ErasureResult(msgspec.Struct, frozen=True):
    """The result of an erasure: the customer's identifiers, and the number of deleted log rows."""

    ids: list[str]
    rows: int


def profile_routes(worker: Worker, guard: RequestGuard, limit: int) -> list[Route]:
    """The routes of `/v1/profiles/{id}`, `/export` and `/offers`, by any identifier of the customer."""

    async def show(call: Call) -> Reply:
        return Reply(_encode(await show_customer(worker, str(call.path["id"]))))

    async def export(call: Call) -> Reply:
        found = await export_customer(worker, str(call.path["id"]))
        record_audit(worker, CUSTOMER_EXPORTED, {"by": call.caller.name}, time.time())
        return Reply(_encode(found))

    async def offers(call: Call) -> Reply:
        return Reply(_encode(await show_offers(worker, str(call.path["id"]))))

    async def delete(call: Call) -> Reply:
        result = await erase_customer(worker, str(call.path["id"]), by=call.caller.name)
        record_audit(worker, CUSTOMER_ERASED, {"by": call.caller.name, "rows": result.rows}, time.time())
        return Reply(_encode(result))

    return [
        endpoint("/v1/profiles/{id:str}", {"GET": show, "DELETE": delete}, limit=limit, guard=guard),
        endpoint("/v1/profiles/{id:str}/export", {"GET": export}, limit=limit, guard=guard),
        endpoint("/v1/profiles/{id:str}/offers", {"GET": offers}, limit=limit, guard=guard),
    ]


async def show_customer(worker: Worker, customer: str) -> Mapping[str, object]:
    """The profile, the counters and the segments of a customer, by any identifier.

    Raises:
        Refusal: 404 for an unknown one, 503 if the store does not answer.
    """
    stored = await _read_customer(worker, customer)
    if stored is None:
        raise _unknown_customer(customer)
    return _view(worker, stored)


async def export_customer(worker: Worker, customer: str) -> CustomerExport:
    """Everything stored about a customer. Errors as in `show_customer`, and 501 without the libraries."""
    stored = await _read_customer(worker, customer)
    ids = {*identifier_spellings(customer), *(_identifiers(stored) if stored else ())}
    rows = await asyncio.to_thread(_export_rows, worker.settings, ids)
    if stored is None and not any(rows.values()):
        raise _unknown_customer(customer)
    profile = await asyncio.to_thread(_view, worker, stored) if stored else None
    return CustomerExport(customer, profile, rows, stored.coupons if stored else [])


async def show_offers(worker: Worker, customer: str) -> OfferHistory:
    """Returns the offers that a customer got. Errors as in `export_customer`."""
    stored = await _read_customer(worker, customer)
    if stored is None:
        raise _unknown_customer(customer)
    found, since = await asyncio.to_thread(_read_offers, worker.settings, set(_identifiers(stored)))
    return OfferHistory(stored.profile.id, found, since)


async def erase_customer(worker: Worker, customer: str, *, by: str) -> ErasureResult:
    """Erase a customer everywhere.

    Raises:
        Refusal: 404 for a placeholder, 503 if the store or the disk does not answer.
    """
    # The store first: its tombstones reject what still arrives for the customer while the files are rewritten.
    try:
        erased = await erase_profile(worker.event_store, customer, delete_answers)
    except BadInput as error:
        raise _names_nobody(error) from None
    except StoreUnavailable:
        raise refuse_for_now(AWAY) from None
    ids = {*identifier_spellings(customer), *(value for values in erased.values() for value in values)}
    rows = await _erase_from_files(worker, ids)
    log.warning("customer erased", by=by, ids=len(ids), rows=rows)
    return ErasureResult(sorted(ids), rows)


def _read_offers(settings: Settings, ids: set[str]) -> "tuple[list[OfferedOffer], str]":
    """The customer's offers, and the oldest day that was read. Errors as in `_export_rows`."""
    try:
        from engine.journal.log.export import recent_rows  # noqa: PLC0415 # see `_export_rows`

        recent = recent_rows(settings.log, ids, settings.redis, seconds=HISTORY_SECONDS, traced=True)
    except ImportError as error:
        missing = missing_extra("a history of offers", error)
        raise Refusal(501, str(missing)) if missing else error from None
    except StoreUnavailable:
        raise refuse_for_now(AWAY) from None
    return build_offer_history(recent.rows), recent.since


def _export_rows(settings: Settings, ids: set[str]) -> dict[str, list[dict[str, object]]]:
    """The customer's rows of the log and of the streams, encoded.

    Raises:
        Refusal: 501 if the libraries that read the log are not installed, 503 if the store is away.
    """
    try:
        from engine.journal.log.export import export_rows  # noqa: PLC0415 # a server runs without the analysis extra

        found = export_rows(settings.log, ids, settings.redis)
        # Encoded here, in a thread; the answer copies the bytes. All rows at once would hold the event loop.
        return {table: [cast("dict[str, object]", Raw(_encode(row))) for row in rows] for table, rows in found.items()}
    except ImportError as error:
        missing = missing_extra("an export", error)
        raise Refusal(501, str(missing)) if missing else error from None
    except StoreUnavailable:
        raise refuse_for_now(AWAY) from None


def _erase_from_log(log_folder: Path, ids: set[str], now: float) -> int:
    """Delete the customer's rows from a log on this machine; returns their number.

    The erasure is announced in the store, so a collector deletes the rows of a log that this process cannot read.
    """
    if not log_folder.is_dir():
        return 0
    if not has_extra("analysis"):
        log.warning("the log is left to the collector to erase from: counterpoint[analysis] is not installed here")
        return 0
    from engine.erasure.log import erase_from_log  # noqa: PLC0415 # see above

    return erase_from_log(log_folder, ids, now)


async def _erase_from_files(worker: Worker, ids: set[str]) -> int:
    """Delete an erased customer's rows from the log and the learner's files; returns the number in the log.

    Raises:
        Refusal: 503 if a file cannot be rewritten. The erasure is announced in the store by then, so the collector and
            the learner complete it in their files.
    """
    settings, now = worker.settings, time.time()
    try:
        rows = await asyncio.to_thread(_erase_from_log, settings.log, ids, now)
        await asyncio.to_thread(erase_from_learner_files, settings.data, ids, now)
    except (OSError, JournalError, sqlite3.Error) as error:
        log.warning("erasure incomplete in the files; the collector and the learner complete it", error=str(error))
        detail = (
            "erased from the store, but not from all files of the data folder; the server's log says why. Mend that, "
            "and the collector and the learner complete the erasure"
        )
        raise refuse_for_now(detail, seconds=DISK_RETRY_SECONDS) from None
    return rows


async def _read_customer(worker: Worker, customer: str) -> Export | None:
    """The stored data of a customer; None for an unknown id.

    Raises:
        Refusal: 503 if the store does not answer; 404 if the id is a placeholder.
    """
    try:
        return await export_profile(worker.event_store, customer)
    except BadInput as error:
        raise _names_nobody(error) from None
    except StoreUnavailable:
        raise refuse_for_now(AWAY) from None


def _view(worker: Worker, stored: Export) -> Mapping[str, object]:
    """The customer's profile and counters, with the segments they belong to now."""
    now = time.time()
    attributes = derive_attributes(stored.profile, now, worker.plan.rules.computed)
    attributes |= {"id": stored.profile.id, **local_clock(now, customer_zone(attributes, worker.plan.zone))}
    segments = [key for key, matches in worker.plan.segments.items() if matches(attributes)]
    return customer_view(stored.profile, now, stored.counts, worker.plan.rules.computed) | {"segments": segments}


def _identifiers(stored: Export) -> list[str]:
    """All ids of a customer, the profile's id first."""
    return [stored.profile.id, *(value for values in stored.profile.ids.values() for value in values)]


def _names_nobody(error: BadInput) -> Refusal:
    """The refusal of an id that is a placeholder, so no customer has it."""
    return Refusal(404, str(error).removeprefix("id: "), "id")


def _unknown_customer(customer: str) -> Refusal:
    return Refusal(404, f"{customer!r} is not an identifier of a customer; send any id that events named", "id")

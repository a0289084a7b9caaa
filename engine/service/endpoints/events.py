"""`POST /v1/events`: receives customers' events and traits in batches."""

import asyncio
import time
from collections.abc import Collection

import msgspec
from msgspec.structs import replace

from engine.catalog.plan.plan import Plan
from engine.claims.claims import Claims
from engine.claims.coupon_events import redeem_coupons, return_rejected
from engine.claims.offer_outcomes import IncomingEvents, admit_redemptions, apply_outcomes
from engine.claims.stacking import admit_stacked, undo_rejected
from engine.customers.model.currency import convert_batch
from engine.customers.model.event_batch import decode_batch
from engine.customers.model.event_warnings import event_warnings
from engine.customers.model.events import Event, EventStatus, customer_ids
from engine.customers.model.placeholders import present_batch, with_warnings
from engine.customers.redis.keys import ProfileKey, keyed_ids
from engine.customers.store import ProfileStore
from engine.customers.time_slice import TimeSlice
from engine.due.index import SAFETY_SECONDS
from engine.errors import StoreUnavailable
from engine.json_body import MAX_BYTES
from engine.service.access.client_statements import find_worth
from engine.service.auth import PROOF_HEADER, Caller, RequestGuard
from engine.service.endpoints.decision_owners import foreign_decision_warnings
from engine.service.http import Call, Reply, Route, endpoint
from engine.service.ids import is_preview, may_be_of
from engine.service.problems import refuse_for_now
from engine.service.worker import Worker

AWAY = "the store is away and no item of the batch has a status; send the same batch again"
UNPROVEN = "customer: not proven by X-Customer-Proof; sign all ids of the item"
PREVIEWED = "decision_id: the decision was a preview; the event counts for no decision"
OTHERS_DECISION = "decision_id: the decision was for another customer; send the ids that it was asked with"


class BatchStatuses(msgspec.Struct, frozen=True):
    """The status of each item of a batch, in its order."""

    statuses: list[EventStatus]


_encode = msgspec.json.Encoder().encode


def event_routes(worker: Worker, guard: RequestGuard, limit: int) -> list[Route]:
    """The route of `/v1/events`."""
    claims = Claims(worker.event_store.pipeline)

    async def handle_events(call: Call) -> Reply:
        store, plan, now = worker.event_store, worker.plan, time.time()
        # The proof covers the identifiers as they were sent; placeholders among them are dropped afterwards.
        items, unread = await _decode_in_slices(call.body, plan)
        proven = _reject_unproven(call, items, plan.audience_names)
        present, absent = present_batch(proven, plan.rules.placeholders)
        batch = convert_batch(present, plan.rules)
        try:
            # Redemptions past a cap are rejected before they are journaled; outcomes are applied after the events are
            # in the profiles. Each step is idempotent, so a batch that failed half way is sent again as it is.
            redeemed = await redeem_coupons(store.pipeline, plan, batch, now)
            stacked = await admit_stacked(store, plan, redeemed)
            admitted = await admit_redemptions(store, claims, plan, stacked.items, now)
            changed = _changed_keys(store, admitted) if await worker.roster.follow(plan) else set[ProfileKey]()
            await worker.roster.note(plan, changed, now + SAFETY_SECONDS)
            statuses = await store.ingest(admitted, now, worker.recorder.append_events)
            await worker.roster.note(plan, changed, now)
            await return_rejected(store.pipeline, redeemed, statuses, now)
            await undo_rejected(store, plan, stacked.items, statuses)
            await apply_outcomes(store, claims, worker.plan, admitted, statuses=statuses, now=now)
            foreign = await foreign_decision_warnings(store, admitted, statuses, now)
        except StoreUnavailable:
            raise refuse_for_now(AWAY) from None
        worker.metrics.count_events(statuses)
        worker.metrics.count_bounded_traits(store.take_bounded())
        for warnings in (unread, absent, stacked.warnings, foreign):
            statuses = with_warnings(statuses, warnings)
        worker.metrics.count_event_warnings(statuses)
        return Reply(_encode(BatchStatuses(statuses)))

    return [endpoint("/v1/events", {"POST": handle_events}, limit=limit, guard=guard)]


def _changed_keys(store: ProfileStore, batch: IncomingEvents) -> set[ProfileKey]:
    """The keys of customers whose profile a batch changes, for the planner of due messages."""
    named = (keyed_ids(customer_ids(item), store.hash_key) for item in batch if isinstance(item, Event))
    return {idents[0].key for idents in named if idents}


async def _decode_in_slices(body: bytes, plan: Plan) -> tuple[list[Event | EventStatus], list[list[str]]]:
    """The items of a batch and the warnings of each, in slices of time: a full batch is work for many milliseconds."""
    time_slice = TimeSlice()
    items: list[Event | EventStatus] = []
    warnings: list[list[str]] = []
    # To separate the items of a large batch in which one is no JSON takes long; a thread lets the others run.
    batch = await asyncio.to_thread(decode_batch, body) if len(body) > MAX_BYTES else decode_batch(body)
    for sent, unknown in batch:
        of_preview = isinstance(sent, Event) and sent.decision_id is not None and is_preview(sent.decision_id)
        item = replace(sent, decision_id=None) if of_preview else sent
        items.append(item)
        unread = [] if isinstance(item, EventStatus) else event_warnings(item, plan.channels, plan.rules)
        warnings.append([*unknown, *unread, *([PREVIEWED] if of_preview else [])])
        await time_slice.give_way()
    return items, warnings


def _reject_unproven(
    call: Call, batch: list[Event | EventStatus], audience_names: Collection[str]
) -> list[Event | EventStatus]:
    """The batch, in which items that a publishable key may not send are rejected."""
    if call.caller.role != "client":
        return batch
    proof = call.header(PROOF_HEADER)
    return [
        item
        if isinstance(item, EventStatus) or (reason := _why_not(call.caller, item, proof, audience_names)) is None
        else EventStatus("rejected", item.message_id, reason)
        for item in batch
    ]


def _why_not(caller: Caller, item: Event, proof: str, audience_names: Collection[str]) -> str | None:
    """The reason why a publishable key may not send an item; None if it may."""
    ids = customer_ids(item)
    if not caller.is_proven(ids, proof):
        return UNPROVEN
    if item.decision_id and not may_be_of(item.decision_id, ids):
        return OTHERS_DECISION
    return find_worth(item, audience_names, caller.may_say)

"""`POST /v1/events`: what customers did and who they are, in batches."""

import time

import msgspec

from engine.claims.claims import Claims
from engine.claims.offer_outcomes import admit_redemptions, apply_outcomes
from engine.customers.model.events import Event, EventStatus, customer_ids, decode_batch
from engine.errors import StoreUnavailable
from engine.service.auth import PROOF_HEADER, RequestGuard
from engine.service.http import Call, Reply, Route, endpoint
from engine.service.problems import refuse_for_now
from engine.service.worker import Worker

AWAY = "the store is away and no item of the batch has a status; send the same batch again"
UNPROVEN = "customer: not proven by X-Customer-Proof; sign all ids of the item"


class BatchStatuses(msgspec.Struct, frozen=True):
    """The status of each item of a batch, in its order."""

    statuses: list[EventStatus]


_encode = msgspec.json.Encoder().encode


def event_routes(worker: Worker, guard: RequestGuard, limit: int) -> list[Route]:
    """`/v1/events`."""
    claims = Claims(worker.event_store.pipeline)

    async def handle_events(call: Call) -> Reply:
        batch = _reject_unproven(call, decode_batch(call.body))
        store, plan, now = worker.event_store, worker.plan, time.time()
        try:
            # Redemptions past a cap are rejected before they are journaled; outcomes are applied after the events are
            # in the profiles. Each step is idempotent, so a batch that failed half way is sent again as it is.
            admitted = await admit_redemptions(store, claims, plan, batch, now)
            statuses = await store.ingest(admitted, now, worker.recorder.append_events)
            await apply_outcomes(store, claims, worker.plan, admitted, statuses=statuses, now=now)
        except StoreUnavailable:
            raise refuse_for_now(AWAY) from None
        worker.metrics.count_events(statuses)
        return Reply(_encode(BatchStatuses(statuses)))

    return [endpoint("/v1/events", {"POST": handle_events}, limit=limit, guard=guard)]


def _reject_unproven(call: Call, batch: list[Event | EventStatus]) -> list[Event | EventStatus]:
    """The batch, in which items whose customer a publishable key does not prove are rejected."""
    if call.caller.role != "client":
        return batch
    proof = call.header(PROOF_HEADER)
    return [
        item
        if isinstance(item, EventStatus) or call.caller.is_proven(customer_ids(item), proof)
        else EventStatus("rejected", item.message_id, UNPROVEN)
        for item in batch
    ]

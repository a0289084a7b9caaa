"""Confirms or releases messages that were handed out. A confirmation is the exposure.

| outcome | claims | exposure | the message |
|---|---|---|---|
| sent | stay | logged | is not sent again |
| released | released | | is due again at once |
| dropped | released | | is not sent in this occurrence |

The same report again changes nothing: the collector counts each key of an exposure once. A message that was handed
out to another sender since, because its lease had ended, is `expired`: its decision is not the one that counts.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Literal, NamedTuple

from msgspec.structs import replace

from engine import keyspace
from engine.customers.redis.pipeline import StoredValues
from engine.due.customers import FoundCustomer, ReadCustomer, read_customers
from engine.due.index import DueIndex
from engine.due.sends import Send, SendKey, SendState, StoredSend, read_sends, replace_send
from engine.journal.records import ExposureRecord
from engine.service.due.release import release_leases
from engine.service.worker import Worker

Outcome = Literal["sent", "released", "dropped"]
Confirmation = Literal["sent", "released", "dropped", "expired", "unknown", "contradictory"]
PAGE = 500


class _Reported(NamedTuple):
    """A reported message with its customer; it is leased under its decision."""

    decision_id: str
    outcome: Outcome
    place: SendKey
    send: Send
    value: bytes
    customer: ReadCustomer


async def confirm_messages(worker: Worker, reported: Sequence[tuple[str, Outcome]]) -> dict[str, Confirmation]:
    """Store the outcome of messages, by the decision ids under which they were handed out.

    Raises:
        StoreUnavailable: if Redis does not answer in time; the report can be repeated.
        Refusal: 503 if the disk takes no more records.
    """
    done: dict[str, Confirmation] = {}
    for start in range(0, len(reported), PAGE):
        done |= await _confirm_page(worker, reported[start : start + PAGE])
    return done


async def _confirm_page(worker: Worker, reported: Sequence[tuple[str, Outcome]]) -> dict[str, Confirmation]:
    pipeline, now = worker.event_store.pipeline, time.time()
    members: StoredValues = await pipeline.get([keyspace.due_lease(id_) for id_, _ in reported], list)
    places = {id_: SendKey.parse(member) for (id_, _), member in zip(reported, members, strict=True) if member}
    sends = dict(zip(places, await read_sends(pipeline, list(places.values())), strict=True))
    customers = await read_customers(pipeline, [place.key for place in places.values()])
    done: dict[str, Confirmation] = {}
    leased: list[_Reported] = []
    for id_, outcome in reported:
        state = _state_of(id_, outcome, sends.get(id_))
        if state is not None:
            done[id_] = state
            continue
        place, stored = places[id_], sends[id_]
        if stored.send is not None:
            reported_one = _Reported(
                decision_id=id_,
                outcome=outcome,
                place=place,
                send=stored.send,
                value=stored.value,
                customer=customers[place.key],
            )
            leased.append(reported_one)
    # Record before answer and before the state: a crash in between is repeated, and counts once.
    worker.recorder.append(
        [
            ExposureRecord(one.decision_id, now, one.customer.profile.id, one.send.exposes)
            for one in leased
            if one.outcome == "sent" and isinstance(one.customer, FoundCustomer) and one.send.exposes
        ]
    )
    index = DueIndex(pipeline)
    stored_states = await asyncio.gather(*(_store(worker, index, one, now) for one in leased))
    return done | {one.decision_id: state for one, state in zip(leased, stored_states, strict=True)}


def _state_of(decision_id: str, outcome: Outcome, stored: StoredSend | None) -> Confirmation | None:
    """The state of a message whose report changes nothing; None if it is leased under this decision."""
    if stored is None or stored.send is None:
        return "unknown"
    send = stored.send
    if send.decision_id != decision_id:
        return "expired"
    if send.state == "sent":
        return "sent"
    if send.state == "leased":
        return None
    repeated: dict[SendState, Confirmation] = {"dropped": "dropped", "waiting": "released"}
    return outcome if repeated.get(send.state) == outcome else "expired"


async def _store(worker: Worker, index: DueIndex, one: _Reported, now: float) -> Confirmation:
    """Store the outcome of one leased message."""
    pipeline, send = worker.event_store.pipeline, one.send
    if one.outcome == "sent":
        after = replace(send, state="sent")
    else:
        after = replace(send, state="waiting" if one.outcome == "released" else "dropped", at=now, why="sender")
    if one.outcome == "released":
        await index.add(send.channel, one.place, now)
    if await replace_send(pipeline, one.place, one.value, after, now) is None:
        return "expired"
    if one.outcome != "sent":
        await release_leases(worker, worker.plan, one.customer, send, now)
    if one.outcome != "released":
        await index.remove(send.channel, one.place)
    if one.outcome != "sent" and send.channel in worker.plan.capacities:
        await index.give_back(send.channel, send.taken)
    return one.outcome

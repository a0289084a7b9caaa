"""Hands out a channel's due messages under a lease, each message to one sender at a time.

A message is taken from the index (`DueIndex.take`), leased in its own state, decided as any request, claimed, recorded,
and answered, in this order. Invariants:

1. A message is handed out by one process: its state goes from the value that was read to `leased`. The state decides,
   not the index: a message whose lease runs is put back, whatever brought it forward, except for its holder.
2. Caps, consent, quiet hours, stock and budget are asked when it is handed out, and claimed before it leaves. A lease
   that ended unconfirmed was decided for nothing: its claims are released before the message is decided again, and
   after the state has changed, since until then it may be confirmed.
3. What a crash leaves behind returns when the lease ends. So a sender that dies after sending and before confirming
   gets the message again, with the same `message_id`, by which its provider can recognize it.
4. A message whose customer has another of the same occurrence, under an identifier that was merged into them, is
   dropped: a person gets one.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from hashlib import blake2b
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from engine import keyspace
from engine.catalog.plan.plan import Plan
from engine.customer import has_consented
from engine.decision.answers import OfferAnswer
from engine.decision.decision import DecideRequest
from engine.decision.offers import OfferReason
from engine.decision.schedule import attributes_of, name_cause
from engine.due.customers import FoundCustomer, Gone, ReadCustomer, keys_of, read_customers, strongest_id
from engine.due.index import DueIndex
from engine.due.sends import SETTLED, Send, SendKey, StoredSend, read_sends, replace_send, unreleased_ids
from engine.journal.from_decision import exposable_keys, records_of
from engine.service.decision_flow import DecisionFlow
from engine.service.decision_task import Decided, DecidedTask, DecisionTask, FailedTask
from engine.service.due.planner import Planner
from engine.service.due.release import release_leases
from engine.service.ids import new_id, tag_customer
from engine.service.recorder import encode_records
from engine.service.worker import Worker
from engine.vocabulary import DAY, SILENCE

LEASE = 900.0
"""Seconds of a lease, if the sender asks for no other."""
AGAIN_SECONDS = 2.0
"""After which a message is looked at again that could not be handed out for a reason of the engine's own."""
TOGETHER = 32
"""Messages decided in one go: more would keep storefronts waiting."""
PLAN_SECONDS = 2.0
"""Seconds after which an answer leaves, though there is more to plan."""
RECALL_PAGE = 1000
PATIENCE = 10.0
"""Seconds that a decision here waits for the store: nobody looks at a page meanwhile."""


class DueItem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A message to send. `ids` are the customer's identifiers by kind; `cause` is the campaign or moment.

    `message_id` is the same if the message is handed out again. A placement with a `count` has a list under `items`.
    """

    decision_id: str
    message_id: str
    cause: str
    occurrence: str
    channel: str
    placement: str
    customer: str
    ids: dict[str, list[str]]
    offer: str | msgspec.UnsetType | None = msgspec.UNSET
    rendering: Mapping[str, object] | msgspec.UnsetType = msgspec.UNSET
    items: list[OfferAnswer] | msgspec.UnsetType = msgspec.UNSET
    creative: str | msgspec.UnsetType = msgspec.UNSET
    propensity: float
    policy: str | None
    reason: OfferReason
    time: datetime
    lease_until: datetime


class DueAnswer(msgspec.Struct, frozen=True):
    """The messages of a channel that were handed out; `more` if further messages can be requested now.

    `left` is what the channel's capacity allows beyond them, None without one.
    """

    items: list[DueItem]
    more: bool
    left: int | None


class _Terms(NamedTuple):
    """The terms of a hand-out: channel, time, seconds of the lease, and holder."""

    channel: str
    now: float
    lease: float
    holder: str


class _Related(NamedTuple):
    """The time, and the messages of the same cause under a customer's other keys."""

    others: Sequence[tuple[SendKey, StoredSend]]
    now: float


class _Leased(NamedTuple):
    """A message whose state is `leased`, with its customer and the task of its decision."""

    place: SendKey
    send: Send
    value: bytes
    customer: FoundCustomer
    task: DecisionTask


class DueDesk:
    """The desk of one worker: plans, hands out and recalls messages."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._flow = DecisionFlow(worker, patient=True)
        self._index = DueIndex(worker.event_store.pipeline)
        self._pipeline = worker.event_store.pipeline
        self.planner = Planner(worker, self._flow, self._index)

    async def hand_out(self, channel: str, limit: int, lease: float = LEASE, holder: str = "") -> DueAnswer:
        """Plan pending messages, then hand out up to `limit` messages of a channel for `lease` seconds.

        `holder` names who may take them back before (`recall`).

        Raises:
            StoreUnavailable: if Redis does not answer in time; what was leased returns by itself.
            Refusal: 503 if the disk takes no more records.
        """
        began = time.monotonic()
        is_planned = False
        while not is_planned and time.monotonic() - began < PLAN_SECONDS:
            is_planned = await self.planner.step(time.time())
            if not is_planned and await self._index.count_due(channel, time.time()) >= limit:
                break
        now, plan = time.time(), self._worker.plan
        taken = await self._index.take(channel, limit, plan.capacities.get(channel), now, lease)
        items: list[DueItem] = []
        for start in range(0, len(taken.places), TOGETHER):
            part = taken.places[start : start + TOGETHER]
            items += await self._hand_out_taken(plan, part, _Terms(channel, now, lease, holder))
        left = taken.left
        if left is not None:
            left += len(taken.places) - len(items)
        is_open = left is None or left > 0
        more = is_open and (not is_planned or await self._index.count_due(channel, time.time()) > 0)
        return DueAnswer(items, more, left)

    async def recall(self, channel: str, holder: str) -> int:
        """Make the messages that `holder` leased and lost due now; returns their number. Errors as in `hand_out`."""
        recalled, start = 0, 0
        while places := await self._index.read_places(channel, start, RECALL_PAGE):
            sends = await read_sends(self._pipeline, places)
            lost = [
                place
                for place, stored in zip(places, sends, strict=True)
                if stored.send and stored.send.state == "leased" and stored.send.holder == holder
            ]
            await asyncio.gather(*(self._index.add(channel, place, 0.0) for place in lost))
            recalled += len(lost)
            start += RECALL_PAGE
        return recalled

    async def _hand_out_taken(self, plan: Plan, places: Sequence[SendKey], terms: "_Terms") -> list[DueItem]:
        """Lease, decide and record indexed messages; those that are not sent leave the index or wait."""
        now = terms.now
        found = await read_customers(self._pipeline, [place.key for place in places])
        stored = await self._read_related(places, found)
        leases = await asyncio.gather(*(self._lease(plan, found[place.key], stored[place], terms) for place in places))
        leased = [one for one in leases if one is not None]
        outcomes = await self._flow.decide_with_store([one.task for one in leased]) if leased else []
        answered = [
            (one, outcome.decision)
            for one, outcome in zip(leased, outcomes, strict=True)
            if isinstance(outcome, DecidedTask) and not outcome.decision.answer.degraded
        ]
        # Record before answer, as every decision: exposed is what the sender confirms.
        records = [
            record
            for one, decision in answered
            for record in records_of(decision, now, expose=decision.choices[one.send.placement].reason == SILENCE)
        ]
        if records:
            self._worker.recorder.append_encoded(encode_records(records))
        items = await asyncio.gather(
            *(self._settle(plan, one, outcome, now) for one, outcome in zip(leased, outcomes, strict=True))
        )
        sent = [item for item in items if item is not None]
        channel = terms.channel
        if plan.capacities.get(channel) and len(places) > len(sent):
            await self._index.give_back(channel, now, len(places) - len(sent))
        return sent

    async def _read_related(
        self, places: Sequence[SendKey], found: dict[str, ReadCustomer]
    ) -> dict[SendKey, list[tuple[SendKey, StoredSend]]]:
        """The messages of the same cause under every key of each customer, the place's own first."""
        hash_ = self._worker.event_store.hash_key
        groups: dict[SendKey, list[SendKey]] = {}
        for place in places:
            customer = found[place.key]
            others = keys_of(customer, hash_) if isinstance(customer, FoundCustomer) else []
            groups[place] = [place, *(SendKey(key, place.cause) for key in others if key != place.key)]
        sends = iter(await read_sends(self._pipeline, [one for group in groups.values() for one in group]))
        return {place: [(one, next(sends)) for one in group] for place, group in groups.items()}

    async def _lease(
        self, plan: Plan, customer: ReadCustomer, stored: Sequence[tuple[SendKey, StoredSend]], terms: "_Terms"
    ) -> _Leased | None:
        """Lease one message, the first of `stored`, if it may be handed out; else it leaves the index or waits."""
        (place, own), *others = stored
        channel = terms.channel
        send, now = own.send, terms.now
        if send is None or send.state in SETTLED or send.channel != channel:
            if send is not None and send.state == "dropped":
                await release_leases(self._worker, plan, customer, send, now)  # a crash may have come before
            await self._index.remove(channel, place)
            return None
        if send.state == "drawn" or not isinstance(customer, FoundCustomer | Gone):
            await self._index.add(channel, place, now + AGAIN_SECONDS)
            return None
        if send.state == "leased" and send.at > now and not (send.holder and send.holder == terms.holder):
            await self._index.add(channel, place, send.at)
            return None
        ids = strongest_id(customer.profile) if isinstance(customer, FoundCustomer) else None
        why = _why_not(plan, place, send, customer, _Related(others, now))
        if why is not None or ids is None or not isinstance(customer, FoundCustomer):
            dropped = replace(send, state="dropped", why=why or "gone")
            if await replace_send(self._pipeline, place, own.value, dropped, now) is not None:
                await release_leases(self._worker, plan, customer, send, now)
                await self._index.remove(channel, place)
            return None
        decision_id = tag_customer(new_id(now, ahead=True), ids)
        leased = replace(
            send,
            state="leased",
            at=now + terms.lease,
            decision_id=decision_id,
            offers=[],
            exposes=[],
            taken=now,
            holder=terms.holder,
            owed=unreleased_ids(send),
        )
        value = await replace_send(self._pipeline, place, own.value, leased, now)
        if value is None:
            return None
        await release_leases(self._worker, plan, customer, send, now)
        task = DecisionTask(
            request=DecideRequest(customer=ids, channel=channel, placements=[send.placement]),
            now=now,
            decision_id=decision_id,
            deadline=asyncio.get_running_loop().time() + PATIENCE,
        )
        return _Leased(place, leased, value, customer, task)

    async def _settle(self, plan: Plan, leased: _Leased, outcome: Decided, now: float) -> DueItem | None:
        """The outcome of a leased message by its decision: answered, waiting, or dropped."""
        place, send, value = leased.place, leased.send, leased.value
        if isinstance(outcome, FailedTask) or outcome.decision.answer.degraded:
            # It may have claimed, though no answer came: as after a crash, the next lease releases that.
            again = now + AGAIN_SECONDS
            await self._index.add(send.channel, place, again)
            await replace_send(self._pipeline, place, value, replace(send, at=again, owed=[]), now)
            return None
        decision = outcome.decision
        choice = decision.choices[send.placement]
        if choice.not_before is not None:
            await self._wait(place, send, value, choice.not_before, now)
            return None
        offers = [item.offer.key for item in choice.items if not item.is_silent]
        claimed = replace(send, offers=offers, exposes=exposable_keys(decision), owed=[])
        cause, is_campaign = name_cause(place.cause)
        is_over = not is_campaign and choice.moment != cause
        if choice.is_silent or is_over or decision.erased:
            # These claims are of this decision alone, which nobody has seen: they go, whoever has the message now.
            if not choice.is_silent:
                await release_leases(self._worker, plan, leased.customer, claimed, now)
            why = "over" if is_over else choice.reason
            dropped = replace(claimed, state="dropped", why=why, decision_id="")
            if await replace_send(self._pipeline, place, value, dropped, now) is not None:
                await self._index.remove(send.channel, place)
            return None
        await self._pipeline.send(
            "SET", keyspace.due_lease(send.decision_id), place.member, "EX", int(send.at - now + DAY)
        )
        if await replace_send(self._pipeline, place, value, claimed, now) is None:
            # Its lease ended meanwhile, and another process has it, which may have looked before this one claimed.
            await release_leases(self._worker, plan, leased.customer, claimed, now)
            return None
        answer = decision.answer.offers[send.placement]
        return DueItem(
            decision_id=send.decision_id,
            message_id=message_id(place, send),
            cause=cause,
            occurrence=send.occurrence,
            channel=send.channel,
            placement=send.placement,
            customer=leased.customer.profile.id,
            ids={str(kind): values for kind, values in leased.customer.profile.ids.items()},
            offer=answer.offer,
            rendering=answer.rendering,
            items=answer.items,
            creative=answer.creative or msgspec.UNSET,
            propensity=answer.propensity,
            policy=answer.policy,
            reason=answer.reason,
            time=datetime.fromtimestamp(now, UTC),
            lease_until=datetime.fromtimestamp(send.at, UTC),
        )

    async def _wait(self, place: SendKey, send: Send, value: bytes, at: float, now: float) -> None:
        """Postpone a leased message until `at` (s since 1970)."""
        await self._index.add(send.channel, place, at)
        waiting = replace(send, state="waiting", at=at, decision_id="", owed=[])
        await replace_send(self._pipeline, place, value, waiting, now)


def message_id(place: SendKey, send: Send) -> str:
    """The id of a message: one for each customer, cause and occurrence."""
    return blake2b(f"{place.member}|{send.occurrence}".encode(), digest_size=12).hexdigest()


def _why_not(plan: Plan, place: SendKey, send: Send, customer: ReadCustomer, related: "_Related") -> str | None:
    """The reason not to hand a message out; None if it may be decided."""
    if not isinstance(customer, FoundCustomer):
        return "gone"
    others, now = related
    if send.closes <= now:
        return "late"
    if (send.channel, send.placement) not in plan.selections:
        return "plan"
    for at, one in others:
        if one.send is None or one.send.occurrence != send.occurrence or one.send.state == "dropped":
            continue
        # Of two that wait, that of the customer's own key goes, else that of the first: the other one sees the same.
        waits = one.send.state in ("drawn", "waiting")
        if not waits or (place.key != customer.key and (at.key == customer.key or at.key < place.key)):
            return "merged"
    cause, is_campaign = name_cause(place.cause)
    if not is_campaign:
        return None
    campaign = plan.campaigns.get(cause)
    if campaign is None:
        return "plan"
    purpose, profile = campaign.spec.purpose, customer.profile
    if purpose is not None and not has_consented(profile, purpose, now):
        return "consent"
    if campaign.matches and not campaign.matches(attributes_of(plan, profile, send.channel, now)[0]):
        return "audience"
    return None

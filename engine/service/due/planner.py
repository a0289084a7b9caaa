"""Plans messages: draws a campaign's channel and hour for each customer, and finds moments that begin.

A step is bounded: it looks at the customers that an event or the clock brought, and goes over one page of the roster
for a campaign's day. Steps may run in any process and be repeated after a crash (`engine.due.sends`).
"""

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from datetime import date
from hashlib import blake2b

import msgspec
from msgspec.structs import replace

from engine.catalog.plan.plan import Campaign, Plan
from engine.customers.redis.keys import ProfileKey
from engine.customers.store import FetchedCustomer
from engine.customers.time_slice import TimeSlice
from engine.decision.decision import Availability, DecideRequest
from engine.decision.schedule import (
    HOLDING,
    DayCause,
    DueMoment,
    attributes_of,
    campaign_zone,
    closed_arms,
    find_next_moments,
    local_span,
    next_day_begin,
    open_days,
    sending_moments,
    time_of_arm,
)
from engine.due.customers import FoundCustomer, Gone, keys_of, read_customers, strongest_id
from engine.due.index import DONE, MOMENTS, SHARDS, DueIndex, Look
from engine.due.sends import Send, SendKey, StoredSend, read_sends, replace_send, unreleased_ids
from engine.service.decision_flow import DecisionFlow
from engine.service.decision_task import DecisionTask, FetchedTask
from engine.service.due.roster import sends_by_itself
from engine.service.ids import mark_repeatable, new_id, tag_customer
from engine.service.worker import Worker
from engine.vocabulary import CAMPAIGN_CHANNEL

PAGE = 500
"""Customers of one step."""


class Planner:
    """The planning steps of one worker."""

    def __init__(self, worker: Worker, flow: DecisionFlow, index: DueIndex) -> None:
        self._worker = worker
        self._flow = flow
        self._index = index
        self._pipeline = worker.event_store.pipeline

    async def step(self, now: float, page: int = PAGE) -> bool:
        """Plan some messages; True if none is left to plan at `now` (s since 1970).

        Raises:
            StoreUnavailable: if Redis does not answer in time; the step can be repeated.
            Refusal: 503 if the disk takes no more records.
        """
        plan = self._worker.plan
        await self._note_all_once(plan, now)
        looks = await self._index.list_looks(now, max(1, page // SHARDS))
        await self._look_at(plan, looks, now)
        is_swept = await self._sweep(plan, now, page)
        return is_swept and not looks

    async def _note_all_once(self, plan: Plan, now: float) -> None:
        """Put all customers on the roster when campaigns or sending moments change, since no event announces that."""
        if not sends_by_itself(plan):
            return
        sent = [(channel, place, msgspec.to_builtins(moment.spec)) for channel, place, moment in sending_moments(plan)]
        parts = (plan.zone, plan.addresses, bool(plan.campaigns), sent)
        digest = blake2b(msgspec.json.encode(parts, order="sorted"), digest_size=8).hexdigest()
        [noted] = await self._index.read_progress([MOMENTS])
        if noted != digest:
            await self._index.note_all(now)
            await self._index.store_progress(MOMENTS, digest)

    async def _sweep(self, plan: Plan, now: float, page: int) -> bool:
        """Process one page of the roster for a campaign's day; True if all current days are complete."""
        days = {
            f"{campaign.key}@{day}": (campaign, day)
            for campaign in plan.campaigns.values()
            for day in open_days(campaign, now)
        }
        progress = dict(zip(days, await self._index.read_progress(list(days)), strict=True))
        name = next((name for name, reached in progress.items() if reached != DONE), None)
        if name is None:
            return True
        if not progress[name]:
            await self._index.forget_progress(days)
        shard, _, after = (progress[name] or "0:").partition(":")
        number = int(shard)
        keys = await self._index.read_page(number, after, page)
        found = await read_customers(self._pipeline, keys)
        present = {one.key: one for one in found.values() if isinstance(one, FoundCustomer)}
        # One who is gone leaves the roster by a look, which a new event of theirs overtakes.
        await self._index.note([key for key, one in found.items() if isinstance(one, Gone)], now)
        campaign, day = days[name]
        await self._draw(plan, campaign, day, list(present.values()), now)
        # A day that begins for them later is drawn when it does.
        begins = [(key, next_day_begin(plan, one.profile, now)) for key, one in present.items()]
        await self._index.note_later(Look(key, begin) for key, begin in begins if begin is not None)
        last = number == SHARDS - 1
        reached = f"{shard}:{keys[-1]}" if len(keys) == page else DONE if last else f"{number + 1}:"
        await self._index.store_progress(name, reached)
        return False

    async def _look_at(self, plan: Plan, looks: Sequence[Look], now: float) -> None:
        """Find the messages of moments for these customers, and today's campaigns that they have no draw of yet."""
        found = await read_customers(self._pipeline, [look.key for look in looks])
        moments: list[tuple[FoundCustomer, list[DueMoment], list[str]]] = []
        ends: list[tuple[Look, float | None, bool]] = []
        time_slice = TimeSlice()
        for look in looks:
            customer = found[look.key]
            await time_slice.give_way()
            if isinstance(customer, FoundCustomer) and customer.key == look.key:
                upcoming = find_next_moments(plan, customer.profile, now)
                moments.append((customer, upcoming.due, upcoming.ended))
                begin = next_day_begin(plan, customer.profile, now)
                ends.append((look, _earliest(upcoming.look_at, begin), False))
            elif isinstance(customer, FoundCustomer | Gone):
                ends.append((look, None, True))
            else:
                ends.append((look, now + 1.0, False))
        merged = {one.key for key, one in found.items() if isinstance(one, FoundCustomer) and one.key != key}
        await self._index.note(merged, now)
        busy = await self._plan_moments(moments, now)
        customers = [customer for customer, _, _ in moments]
        for campaign in plan.campaigns.values() if customers else ():
            for day in open_days(campaign, now):
                await self._draw(plan, campaign, day, customers, now)
        await asyncio.gather(
            *(self._index.end_look(look, _earliest(at, busy.get(look.key)), is_gone=gone) for look, at, gone in ends)
        )

    async def _plan_moments(
        self, customers: Iterable[tuple[FoundCustomer, list[DueMoment], list[str]]], now: float
    ) -> dict[ProfileKey, float]:
        """Schedule the messages of moments, each occurrence once; a condition that ended may begin again.

        Returns until when (s since 1970) a sender has an earlier message of a moment, by customer.
        """
        busy: dict[ProfileKey, float] = {}
        wanted = [(customer, due) for customer, moments, _ in customers for due in moments]
        stored = await self._read_all([(customer, due.cause) for customer, due in wanted])
        writes: list[Coroutine[None, None, object]] = []
        for (customer, due), known in zip(wanted, stored, strict=True):
            place = SendKey(customer.key, due.cause)
            send = Send(
                occurrence=due.occurrence,
                state="waiting",
                channel=due.channel,
                placement=due.placement,
                at=now,
                closes=due.end,
            )
            same = [(at, one) for at, one in known if one.send and one.send.occurrence == due.occurrence]
            if not same:
                own = next(one for at, one in known if at == place)
                if own.send and own.send.state == "leased" and own.send.at > now:
                    busy[customer.key] = min(own.send.at, busy.get(customer.key, own.send.at))
                    continue
                if own.send:
                    send = replace(send, owed=unreleased_ids(own.send))
                writes.append(self._begin(place, own, send, now))
            elif due.occurrence == HOLDING:
                writes += [self._prolong(at, one, due.end, now) for at, one in same]
        ended = [(customer, cause) for customer, _, causes in customers for cause in causes]
        for known in await self._read_all(ended):
            for at, one in known:
                if one.send and one.send.occurrence == HOLDING and one.send.state != "leased":
                    ids = unreleased_ids(one.send)
                    over = replace(one.send, occurrence="over", state="dropped", why="over", decision_id="", owed=ids)
                    writes.append(replace_send(self._pipeline, at, one.value, over, now))
        await asyncio.gather(*writes)
        return busy

    async def _begin(self, place: SendKey, before: StoredSend, send: Send, now: float) -> None:
        """Schedule a message: first in the index, so that a crash leaves it to be read, then in its own state."""
        await self._index.add(send.channel, place, send.at)
        await replace_send(self._pipeline, place, before.value, send, now)

    async def _prolong(self, place: SendKey, stored: StoredSend, closes: float, now: float) -> None:
        """Store the later end of the condition that sent a message, so that its state lives as long."""
        if stored.send is not None and stored.send.closes < closes:
            await replace_send(self._pipeline, place, stored.value, replace(stored.send, closes=closes), now)

    async def _read_all(self, wanted: Sequence[tuple[FoundCustomer, str]]) -> list[list[tuple[SendKey, StoredSend]]]:
        """The messages of each customer and cause, under all keys of the customer."""
        hash_ = self._worker.event_store.hash_key
        places = [[SendKey(key, cause) for key in keys_of(customer, hash_)] for customer, cause in wanted]
        sends = iter(await read_sends(self._pipeline, [place for group in places for place in group]))
        return [[(place, next(sends)) for place in group] for group in places]

    async def _draw(
        self, plan: Plan, campaign: Campaign, day: date, customers: Sequence[FoundCustomer], now: float
    ) -> None:
        """Draw a campaign's arm for each of these customers without one for the day."""
        cause = str(DayCause(campaign.key, day))
        stored = await self._read_all([(customer, cause) for customer in customers])
        drawn: list[tuple[SendKey, Send, bytes]] = []
        new: list[tuple[SendKey, Send, bytes]] = []
        time_slice = TimeSlice()
        for customer, known in zip(customers, stored, strict=True):
            await time_slice.give_way()
            today = [(at, one) for at, one in known if one.send and one.send.occurrence == str(day)]
            drawn += [(at, one.send, one.value) for at, one in today if one.send and one.send.state == "drawn"]
            if today:
                continue
            send = self._draw_arm(plan, campaign, day, customer, now)
            if send is not None:
                place = SendKey(customer.key, cause)
                new.append((place, send, next(one.value for at, one in known if at == place)))
        values = await asyncio.gather(
            *(replace_send(self._pipeline, place, before, send, now) for place, send, before in new)
        )
        for (place, send, _), value in zip(new, values, strict=True):
            if value is not None:
                drawn.append((place, send, value))
        # Where another process was faster, its draw counts; it may have died before its records were appended.
        lost = [place for (place, _, _), value in zip(new, values, strict=True) if value is None]
        for place, one in zip(lost, await read_sends(self._pipeline, lost), strict=True):
            if one.send and one.send.state == "drawn":
                drawn.append((place, one.send, one.value))
        await self._let_wait(drawn, now)

    async def _let_wait(self, drawn: Sequence[tuple[SendKey, Send, bytes]], now: float) -> None:
        """Append the records of drawn arms, then schedule their messages."""
        records = [record for _, send, _ in drawn for record in send.records]
        if records:
            self._worker.recorder.append_encoded(records)
        await asyncio.gather(
            *(self._index.add(send.channel, place, send.at) for place, send, _ in drawn if send.channel)
        )
        await asyncio.gather(
            *(
                replace_send(
                    self._pipeline,
                    place,
                    value,
                    replace(send, state="waiting" if send.channel else "silent", records=[]),
                    now,
                )
                for place, send, value in drawn
            )
        )

    def _draw_arm(self, plan: Plan, campaign: Campaign, day: date, customer: FoundCustomer, now: float) -> Send | None:
        """The drawn message with its records; None if the customer is outside the campaign's audience."""
        profile, ids = customer.profile, strongest_id(customer.profile)
        span = local_span(plan, campaign, profile, day, now)
        if span is None or ids is None:
            return None
        if campaign.matches and not campaign.matches(attributes_of(plan, profile, CAMPAIGN_CHANNEL, now)[0]):
            return None
        task = DecisionTask(
            request=DecideRequest(customer=ids, channel=CAMPAIGN_CHANNEL, placements=[campaign.key]),
            now=now,
            decision_id=tag_customer(mark_repeatable(new_id(now)), ids),
        )
        lost = {campaign.key: closed} if (closed := closed_arms(plan, campaign, profile, day, now)) else {}
        known = FetchedCustomer(profile=profile, key=customer.key, identifiers=[], is_known=True, is_settled=True)
        decided = self._flow.decide_one(FetchedTask(task, known, Availability(lost=lost)))
        prepared = self._flow.answers.prepare_one(self._flow.complete(decided))
        arm = campaign.arms.get(decided.decision.choices[campaign.key].offer.key)
        return Send(
            occurrence=str(day),
            state="drawn",
            channel=arm.channel if arm else "",
            placement=arm.placement if arm else "",
            at=max(now, time_of_arm(arm, day, campaign_zone(plan, campaign, profile, now))) if arm else now,
            closes=span[1],
            records=list(prepared.answer.records),
        )


def _earliest(*times: float | None) -> float | None:
    """The earliest of some times; None if there are none."""
    return min((time for time in times if time is not None), default=None)

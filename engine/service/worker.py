"""One decision server: the parts it holds, and what it does with a request."""

import asyncio
import contextlib
import gc
import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Literal, TypeVar

import msgspec
import structlog

from engine.catalog.archive import Archive
from engine.catalog.plan.plan import Plan
from engine.catalog.watch import PlanWatch
from engine.claims.claims import Claims, DenialReason
from engine.claims.grant_offers import LostOffers, OfferGrants, pending_of
from engine.claims.offer_outcomes import admit_redemptions, apply_outcomes
from engine.claims.pending_exposures import fetch_pending, store_pending
from engine.claims.sticky_writes import write_sticky
from engine.customer import CustomerIds, Profile
from engine.customers.erased_cache import ErasedCache
from engine.customers.model.events import Accepted, Event, EventStatus, customer_ids, decode_batch
from engine.customers.redis.keys import strongest_identifier
from engine.customers.store import ProfileStore
from engine.decision.decision import UNRESTRICTED, Availability, DecideOptions, DecideRequest, Decision, decide
from engine.decision.offers import Snapshot
from engine.erasure.recovery import recover_erasures, recover_merges
from engine.errors import JournalError, StoreUnavailable
from engine.journal import traces
from engine.journal.from_decision import exposable_keys, logged_probabilities, records_of
from engine.journal.records import DecisionRecord, EventRecord, ExposureRecord, encode
from engine.journal.spool.ship import Shipper
from engine.journal.spool.spool import Spool, partition_of
from engine.service.auth import PROOF
from engine.service.http import Call, Reply
from engine.service.idempotency import IdempotentAnswers, PreparedAnswer, delete_answers
from engine.service.ids import mark_repeatable, new_id
from engine.service.kill_switch import KillSwitch
from engine.service.learner_metrics import LearnerMetrics
from engine.service.metrics import ServiceMetrics
from engine.service.problems import Refusal, refuse_body
from engine.service.store_health import StoreHealth
from engine.settings import Settings
from engine.snapshots.follow import Follower

PLAN_SECONDS = 0.3
SHIPPING_SECONDS = 8.0
"""For what is left of the spool at the end; the rest waits in it."""
GARBAGE = (50_000, 20, 50)
"""How many more objects are made than freed before cycles are looked for: a request makes hundreds and no cycle."""

T = TypeVar("T")
Logged = DecisionRecord | ExposureRecord | EventRecord

log = structlog.get_logger(__name__)


class ExposeRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was seen of an earlier decision: all of it, unless placements or experiments are named."""

    decision_id: str
    placements: list[str] | None = None
    experiments: list[str] | None = None


class ExposureAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of an exposure; the offer of a `refused` placement cannot be had any more: show the fallback."""

    status: Literal["accepted", "refused"]
    refused: dict[str, DenialReason] = {}


class BatchStatuses(msgspec.Struct, frozen=True):
    """What became of each item of a batch, in its order."""

    statuses: list[EventStatus]


class Worker:
    """All that one process needs to decide; made before the first request, stopped after the last."""

    def __init__(self, settings: Settings, *, tells: bool = True) -> None:
        self.settings = settings
        self.watch = PlanWatch(settings.experiments, Archive(settings.data / "plans"), logs_changes=tells)
        self.meters = ServiceMetrics()
        rules = self.watch.plan.rules
        self.store = ProfileStore.open(settings.redis, rules, timeout=settings.store_timeout)
        self.away = StoreHealth(self.store.pipeline, settings.store_timeout)
        self.patient = ProfileStore.open(settings.redis, rules, timeout=settings.event_timeout)
        self.spool = Spool(settings.spool, fsync=settings.fsync)
        self.shipper = Shipper(self.spool, settings.redis)
        self.follower = Follower(settings, lambda: self.watch.plan)
        self.meters.registry.register(LearnerMetrics(self.follower))
        self.switch = KillSwitch(self.patient.pipeline)
        self.forgotten = ErasedCache(self.patient.pipeline)
        self.claims = Claims(self.store.pipeline)
        self.granting = OfferGrants(self.claims)
        self.repeats = IdempotentAnswers(self.store.pipeline, self.away, self._spool)
        self._encoder = msgspec.json.Encoder()
        self._request = msgspec.json.Decoder(DecideRequest)
        self._expose = msgspec.json.Decoder(ExposeRequest)

    @property
    def plan(self) -> Plan:
        """The running plan, with what the kill switch holds paused."""
        return self.switch.over(self.watch.plan)

    @property
    def snapshots(self) -> Mapping[str, Snapshot]:
        """The learnt policies as they stand."""
        return self.follower.snapshots

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Ship the spool, follow the snapshots and the plan until the block ends."""
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GARBAGE)
        shipping = asyncio.create_task(self.shipper.run())
        finishing = recover_merges(self.patient, self._journal), recover_erasures(self.patient, delete_answers)
        listening = self.switch.run(), self.away.run(), self.forgotten.run()
        following = self.follower.run(), self._follow_plan(), *finishing, *listening
        followers = [asyncio.create_task(task) for task in following]
        try:
            yield
        finally:
            self.shipper.stop()
            await _ended(followers)
            self.meters.flush()
            await asyncio.wait([shipping], timeout=SHIPPING_SECONDS)
            await _ended([shipping])
            await self.store.close()
            await self.patient.close()

    async def decide(self, call: Call) -> Reply:
        """Answer `/v1/decide`; the record is in the spool before the answer is returned."""
        began = time.perf_counter()
        request = self._decode(self._request, call.body)
        call.caller.vouch(request.customer, call.header(PROOF))
        now = time.time()
        token = call.header(b"idempotency-key")
        if token:

            async def make() -> PreparedAnswer:
                decision, kept = await self._made(request, now, mark_repeatable(new_id(now)))
                self.meters.decided(decision, time.perf_counter() - began)
                return kept

            # A key of the shop's pages is every customer's, so theirs are told apart.
            whose = repr(request.customer) if call.caller.role == "client" else ""
            return Reply(await self.repeats.once(f"{call.caller.name}\0{whose}\0{token}", call.body, make))
        decision, kept = await self._made(request, now, new_id(now, ahead=not request.expose))
        self._spool(kept.records)
        self.meters.decided(decision, time.perf_counter() - began)
        return Reply(kept.answer)

    async def _made(self, request: DecideRequest, now: float, decision_id: str) -> tuple[Decision, PreparedAnswer]:
        decision = await self.weigh(request, now, decision_id)
        if not request.expose and not await self.hold(decision):  # nobody could be told that it was seen
            decision = self._alone(address_store(request), now, decision_id)
        records = records_of(decision, now, expose=request.expose)
        customer = None if decision.erased else decision.answer.customer
        return decision, PreparedAnswer(self._encoder.encode(decision.answer), _payloads(records), customer)

    async def weigh(self, request: DecideRequest, now: float, decision_id: str) -> Decision:
        """Decide; if this is to be seen, the store knows the customer, and what is limited is claimed for them.

        Nothing is logged yet.
        """
        request = address_store(request)
        if self.away.now:
            return self._alone(request, now, decision_id)
        began = time.monotonic()
        try:
            found = self.store.fetch(request.customer, now, counts=bool(self.plan.watched))
            if self.granting.low and request.placements:
                resolved, pools = await asyncio.gather(found, self.granting.read_low_pools(self.plan, now))
            else:
                resolved, pools = await found, {}
            availability = Availability(resolved.counts, pools, prices=self.follower.prices)
            profile = resolved.profile
            decision = self.decided(profile, request, now, decision_id, availability=availability)
            if request.expose:
                if not resolved.is_settled or profile.undecided:
                    await self.store.bind_customer(resolved, now, self._journal)

                def again(lost: LostOffers) -> Decision:
                    nonlocal availability
                    availability = msgspec.structs.replace(availability, lost=lost)
                    return self.decided(profile, request, now, decision_id, availability=availability)

                decision = await self.granting.grant(self.plan, decision, resolved.key, now, again)
            if decision.sticky_entries:
                await write_sticky(self.store, resolved, decision.sticky_entries, self.plan.experiments)
            if request.expose and (told := pending_of(decision, resolved.key, ())) is not None:
                await store_pending(self.store.pipeline, decision_id, told)
        except StoreUnavailable:
            self.away.failed(began, time.monotonic())
            return self._alone(request, now, decision_id)
        if self.away.suspected:
            self.away.answered()
        trace = self._trace(decision, now, request, profile, availability)
        return msgspec.structs.replace(
            decision,
            claims_key=resolved.key,
            customer_ids=request.customer,
            unit=profile.unit,
            erased=resolved.is_erased,
            trace=trace,
        )

    def _alone(self, request: DecideRequest, now: float, decision_id: str) -> Decision:
        """Decide without the store: nothing is known of the customer, so it is the fallback."""
        profile = unknown_profile(request.customer)
        decision = self.decided(profile, request, now, decision_id, degraded=True)
        trace = self._trace(decision, now, request, profile, UNRESTRICTED)
        return msgspec.structs.replace(decision, erased=self.forgotten.names(request.customer), trace=trace)

    def decided(
        self,
        profile: Profile,
        request: DecideRequest,
        now: float,
        decision_id: str,
        *,
        degraded: bool = False,
        availability: Availability = UNRESTRICTED,
        trace: bool = False,
    ) -> Decision:
        """`decide` by the plan and the snapshots as they stand; a paused selection counts as tripped."""
        return decide(
            self.plan,
            self.snapshots,
            profile,
            request,
            now,
            decision_id=decision_id,
            options=DecideOptions(degraded=degraded, tripped=self._tripped, availability=availability, trace=trace),
        )

    @property
    def _tripped(self) -> Collection[str]:
        tripped = self.follower.tripped
        return {*tripped, *self.switch.paused} if self.switch.paused else tripped

    def _trace(
        self, decision: Decision, now: float, request: DecideRequest, profile: Profile, availability: Availability
    ) -> bytes:
        degraded, paused, tripped = decision.answer.degraded, list(self.switch.paused), list(self._tripped)
        made = traces.Trace(
            now, request, profile, availability, degraded, tripped, paused, probabilities=logged_probabilities(decision)
        )
        return traces.encode_trace(made)

    async def hold(self, decision: Decision) -> bool:
        """Keep a decision until its exposure is told; False where the store did not take it."""
        waits = exposable_keys(decision)
        lost = decision.answer.degraded or decision.erased
        told = None if lost else pending_of(decision, decision.claims_key, waits)
        if told is not None:
            try:
                await store_pending(self.store.pipeline, decision.answer.decision_id, told)
            except StoreUnavailable:
                return False
        return True

    async def expose(self, call: Call) -> Reply:
        """Answer `/v1/exposures`: what was prefetched is now seen."""
        request = self._decode(self._expose, call.body)
        try:
            waiting = await fetch_pending(self.patient.pipeline, request.decision_id)
        except StoreUnavailable:
            raise Refusal(503, "the store is away; send the exposure again", "", ((b"retry-after", b"1"),)) from None
        if waiting is None or not waiting.keys:
            detail = f'{request.decision_id!r} is no decision that waits to be seen; decide with "expose": false first'
            raise Refusal(404, detail, "decision_id")
        wanted = waiting.keys
        if request.placements is not None or request.experiments is not None:
            wanted = [*(request.experiments or []), *(request.placements or [])]
        for key in wanted:
            if key not in waiting.keys:
                raise Refusal(400, f"{key!r} is not in that decision; it has {', '.join(waiting.keys)}", "placements")
        now = time.time()
        try:
            if waiting.who and not await self.patient.bind_exposed(waiting.who, waiting.unit, now, self._journal):
                raise Refusal(404, "the customer was erased; nothing is kept of them", "decision_id")
            lost = await self.granting.claim_exposed(self.plan, waiting, request.decision_id, wanted, now)
        except StoreUnavailable:
            raise Refusal(503, "the store is away; send the exposure again", "", ((b"retry-after", b"1"),)) from None
        seen = [key for key in wanted if key not in lost]
        if seen or not wanted:
            self.append([ExposureRecord(request.decision_id, now, waiting.customer, seen)])
        refused = {placement: denial.reason for placement, denial in lost.items()}
        status: Literal["accepted", "refused"] = "refused" if lost and not seen else "accepted"
        return Reply(self._encoder.encode(ExposureAnswer(status, refused)), 202)

    async def events(self, call: Call) -> Reply:
        """Answer `/v1/events`: a status per item, each accepted event in the spool and in the profile."""
        batch = decode_batch(call.body)
        if call.caller.role == "client":
            proof = call.header(PROOF)
            batch = [
                item
                if isinstance(item, EventStatus) or call.caller.proven(customer_ids(item), proof)
                else _unproven(item)
                for item in batch
            ]
        now = time.time()
        try:
            store, claims = self.patient, Claims(self.patient.pipeline)
            admitted = await admit_redemptions(store, claims, self.plan, batch, now)
            statuses = await store.ingest(admitted, now, self._journal)
            await apply_outcomes(store, claims, self.plan, admitted, statuses, now)
        except StoreUnavailable:
            detail = "the store is away and none of the batch is answered for; send it again as it is"
            raise Refusal(503, detail, "", ((b"retry-after", b"1"),)) from None
        self.meters.ingested(statuses)
        return Reply(self._encoder.encode(BatchStatuses(statuses)), 200)

    def _decode(self, decoder: msgspec.json.Decoder[T], body: bytes) -> T:
        try:
            return decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise refuse_body(error) from None

    async def _journal(self, events: list[Accepted]) -> None:
        self.append([self._event(event) for event in events])

    def _event(self, event: Accepted) -> EventRecord:
        return EventRecord(
            event.message_id,
            event.time,
            event.received,
            event.customer,
            event.event,
            event.decision_id,
            event.channel,
            event.revenue,
            self._encoder.encode(event.properties),
        )

    def append(self, records: Sequence[Logged]) -> None:
        """Put records into the spool.

        Raises:
            Refusal: 503 if the disk takes no more.
        """
        self._spool(_payloads(records))

    def _spool(self, payloads: list[tuple[bytes, str]]) -> None:
        partitions = self.settings.partitions
        try:
            self.spool.append_many([(payload, partition_of(customer, partitions)) for payload, customer in payloads])
        except JournalError as error:
            raise Refusal(503, str(error), "", ((b"retry-after", b"5"),)) from error

    async def _follow_plan(self) -> None:
        while True:
            await asyncio.sleep(PLAN_SECONDS)
            refused = self.watch.rejected_changes
            try:
                plan = await asyncio.to_thread(self.watch.read_change)
                if plan is not None:
                    await self.follower.adopt(plan, self._swap)
            except OSError as error:
                log.warning("the experiments cannot be looked at; the plan keeps running", error=str(error))
            self.meters.plans_refused.inc(self.watch.rejected_changes - refused)
            self.meters.flush()

    def _swap(self, plan: Plan) -> None:
        self.watch.swap(plan)
        self.store.use_rules(plan.rules)
        self.patient.use_rules(plan.rules)


def _payloads(records: Sequence[Logged]) -> list[tuple[bytes, str]]:
    return [(encode(record), record.customer) for record in records]


def _unproven(event: Event) -> EventStatus:
    return EventStatus(
        "rejected", event.message_id, "customer: not proven by X-Customer-Proof; sign all ids of the item"
    )


def address_store(request: DecideRequest) -> DecideRequest:
    """A request without a person, from a sign or a kiosk: its customer is the store that it names."""
    store = request.context.get("store")
    if request.customer != CustomerIds() or not isinstance(store, str):
        return request
    return msgspec.structs.replace(request, customer=CustomerIds(device_id=f"store:{store}"))


def unknown_profile(ids: CustomerIds) -> Profile:
    """Whom a decision is for while the store is away: nothing is known but an id."""
    name = strongest_identifier(ids)
    return Profile(id=name, unit=name)


async def _ended(tasks: Collection["asyncio.Task[None]"]) -> None:
    """Cancel until all have ended: one that waits for the store may take a cancellation for a time-out and go on."""
    waiting = set(tasks)
    while waiting:
        for task in waiting:
            task.cancel()
        _, waiting = await asyncio.wait(waiting, timeout=0.5)

"""`POST /v1/exposures`: reports that a prefetched decision was seen."""

import time
from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
from msgspec.structs import replace

from engine.catalog.plan.plan import Plan
from engine.catalog.spec.flags import RULE
from engine.claims.claims import DenialReason
from engine.claims.pending_exposures import PendingDecision, fetch_pending, release_if_erased
from engine.claims.requirements import claim_id
from engine.customer import CustomerIds
from engine.customers.model.merge import absorbed_keys
from engine.customers.redis.keys import ProfileKey, keyed_ids
from engine.errors import StoreUnavailable
from engine.journal.records import ExposureRecord
from engine.service.auth import PROOF_HEADER, RequestGuard
from engine.service.decide_body import RequestName
from engine.service.http import Call, Reply, Route, endpoint
from engine.service.ids import is_preview
from engine.service.problems import Refusal, decode_body, refuse_for_now
from engine.service.worker import Worker
from engine.vocabulary import split_item

AWAY = "the store is away and the exposure is not counted; send it again"


class ExposeRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The parts of an earlier decision that were seen: all, unless placements or experiments are named.

    `home_row` among the placements is its whole list, `home_row[2]` the second item alone.
    """

    decision_id: RequestName
    placements: Annotated[list[RequestName], msgspec.Meta(max_length=100)] | None = None
    experiments: Annotated[list[RequestName], msgspec.Meta(max_length=1000)] | None = None


class ExposureAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """The result of an exposure. `refused` lists placements whose offer is used up: show their fallback.

    Of a list it has the items, such as `home_row[2]`: take them out.
    `coupons` has, by placement, the code that the customer got now.
    With status `preview` the decision was one for the bearer of a preview, and nothing is counted. `unknown` has the
    names that the decision does not have; the others count.
    """

    status: Literal["accepted", "refused", "preview"]
    refused: dict[str, DenialReason] = {}
    coupons: dict[str, str] = {}
    unknown: list[str] = []


_decoder = msgspec.json.Decoder(ExposeRequest)
_encode = msgspec.json.Encoder().encode


def exposure_routes(worker: Worker, guard: RequestGuard, limit: int) -> list[Route]:
    """The route of `/v1/exposures`."""

    async def handle_exposures(call: Call) -> Reply:
        request = decode_body(_decoder, call.body)
        if is_preview(request.decision_id):
            return Reply(_encode(ExposureAnswer("preview")), 202)
        try:
            pending = await fetch_pending(worker.event_store.pipeline, request.decision_id)
            if pending is None or not pending.keys:
                detail = f'{request.decision_id!r} awaits no exposure; decide with "expose": false, report within a day'
                raise Refusal(404, detail, "decision_id")
            call.caller.require_proof(pending.who or CustomerIds(), call.header(PROOF_HEADER))
            (keys, unknown), now = _exposed_keys(request, pending, worker.plan), time.time()
            refused = await _claim(worker, pending, request.decision_id, keys, now)
            exposed = [key for key in keys if key not in refused]
            coupons = await _show_coupons(worker, pending, request.decision_id, exposed, now)
        except StoreUnavailable:
            raise refuse_for_now(AWAY) from None
        if exposed or not keys:
            # Record before answer, and after the claims: what was refused was not seen.
            worker.recorder.append([ExposureRecord(request.decision_id, now, pending.customer, exposed)])
        status: Literal["accepted", "refused"] = "refused" if refused and not exposed else "accepted"
        return Reply(_encode(ExposureAnswer(status, dict(refused), coupons, unknown)), 202)

    return [endpoint("/v1/exposures", {"POST": handle_exposures}, limit=limit, guard=guard)]


def _exposed_keys(request: ExposeRequest, pending: PendingDecision, plan: Plan) -> tuple[list[str], list[str]]:
    """The experiments and placements that the request names (all if it names none), and the unknown names.

    Whoever sees a placement sees the experiments on it too: their variant chose its offer.

    Raises:
        Refusal: 404 if the decision has none of the names.
    """
    if request.placements is None and request.experiments is None:
        return pending.keys, []
    # A flag is exposed as the rule that decided it.
    known = {key.partition(RULE)[0]: [key] for key in pending.keys} | {key: [key] for key in pending.keys}
    for key in pending.keys:
        if (placement := split_item(key)[0]) != key:  # naming a list names its items
            known.setdefault(placement, []).append(key)
    names = list(dict.fromkeys((*(request.experiments or ()), *(request.placements or ()))))
    unknown = [name for name in names if name not in known]
    if unknown and len(unknown) == len(names):
        parts = ", ".join(pending.keys)
        raise Refusal(404, f"{unknown[0]!r} is not in that decision; it has {parts}", "placements")
    placements = {split_item(name)[0] for name in request.placements or ()}
    on_placements = (
        key for key in pending.keys if key in plan.experiments and plan.experiments[key].spec.placement in placements
    )
    shown = (key for name in names for key in known.get(name, ()))
    return list(dict.fromkeys((*shown, *on_placements))), unknown


async def _show_coupons(
    worker: Worker, pending: PendingDecision, decision_id: str, exposed: list[str], now: float
) -> dict[str, str]:
    """The coupon codes of the exposed offers, by placement or item."""
    shown = {key: pending.offers[key][0] for key in exposed if key in pending.offers}
    claims = {one: claim_id(decision_id, one) for one in shown.values() if _has_coupons(worker.plan, one)}
    codes = await worker.event_claims.show_codes(claims, now) if claims else {}
    return {key: codes[one] for key, one in shown.items() if one in codes}


def _has_coupons(plan: Plan, offer: str) -> bool:
    return offer in plan.offers and plan.offers[offer].limits.coupons is not None


async def _claim(
    worker: Worker, pending: PendingDecision, decision_id: str, keys: list[str], now: float
) -> Mapping[str, DenialReason]:
    """Bind the customer, then claim the limited offers; returns the reason per placement whose claim is denied."""
    store = worker.event_store
    if pending.who and not await store.bind_exposed(pending.who, pending.unit, now, worker.recorder.append_events):
        raise Refusal(404, "the customer was erased; their exposures are not counted, send none", "decision_id")
    if pending.who:
        await worker.roster.note(worker.plan, [keyed_ids(pending.who, store.hash_key)[0].key], now)
    absorbed: list[ProfileKey] = []
    if pending.who and any(_has_coupons(worker.plan, offer) for offer, *_ in pending.offers.values()):
        customer = await store.fetch(pending.who, now)  # who may have logged in since the decision
        pending, absorbed = replace(pending, key=customer.key), absorbed_keys(customer.profile, store.hash_key)
    grants = worker.offer_grants
    denials = await grants.claim_exposed(worker.plan, pending, decision_id, keys, now, absorbed=absorbed)
    await release_if_erased(store.pipeline, decision_id, pending, now)
    return {placement: denial.reason for placement, denial in denials.items()}

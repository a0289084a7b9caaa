"""Claims the limited offers of a decision; if a claim is refused, the placement is decided again without the offer.

One decision's claims pass these states, of which `claims.py` has those of each claim in its pools:

- claimed: made before the answer, or at the exposure of a prefetched decision
- released: an offer of an earlier draw that the last draw does not show
- confirmed, released: by events about the offer (`offer_outcomes.py`)
- expired: without such an event, when the offer's `hold` ends

Invariants: every shown offer with a limit is claimed before the answer, except a channel's fallback, which caps do not
bind. Of an item that places hand over, the place that is answered is the one that has the claim. The logged propensity
is that of the last draw. From draw `ROUNDS` on, a placement that is refused loses every candidate that was not granted,
so that draws come to an end; what another placement then shows instead is claimed as well. This module stores nothing
in Redis of its own; the pools that were found empty are remembered per process.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import count

import msgspec

from engine.catalog.plan.places import NearPlace, shelf_name
from engine.catalog.plan.plan import Plan
from engine.catalog.spec.fields import seconds
from engine.catalog.spec.limits.stock import PlaceSpec
from engine.claims.budgets import id_time
from engine.claims.claims import Claim, Claims, Denial, PoolKind, PoolShare, denial_reason
from engine.claims.pending_exposures import LIFE, PendingDecision
from engine.claims.requirements import ShowingContext, claim_id, pool_shares, required_claim
from engine.customers.redis.keys import ProfileKey
from engine.decision.decision import Decision
from engine.decision.gating.facts import Pools
from engine.decision.gating.gates import Gate
from engine.decision.offers import FALLBACK_REASONS, Choice
from engine.decision.windows import former_zones
from engine.vocabulary import split_item

ROUNDS = 8
LOW = 64

LostOffers = Mapping[str, Mapping[str, Gate]]
"""By placement, the offers whose claims were refused, with the gate that closes each."""
DecideAgain = Callable[[LostOffers, Pools, Mapping[str, str]], Decision]
"""Decides again without the lost offers, given what is left of places that turned out to be short of an item, and by
offer the places where its item is claimed: the redraw leaves it there."""
CountClaim = Callable[[PoolShare, bool], None]
"""Counts the claim of an item at a place or of a coupon code, and whether it was granted."""


def _count_nothing(_share: PoolShare, _is_granted: bool) -> None:  # noqa: FBT001 (as CountClaim)
    pass


class OfferGrants:
    """The claims of one worker, and the stocks and budgets that it found empty last.

    Every method raises StoreUnavailable where Redis does not answer in time; claims made until then expire.
    """

    def __init__(self, claims: Claims, count_claim: CountClaim = _count_nothing) -> None:
        self._count_claim = count_claim
        self.low: dict[str, PoolShare] = {}
        self._plan: str | None = None
        self._claims = claims

    async def read_low_pools(self, plan: Plan, now: float) -> dict[str, float]:
        """The rest at `now` of each pool found empty: `stock:SKU`, `shelf:PLACE/SKU`, `budget:OFFER`.

        Pools that were refilled are dropped from the list, and all of them under a new plan, which may allow more.
        """
        self._follow(plan)
        low = list(self.low.items())
        left = await asyncio.gather(*(self._claims.read_remaining(share, now) for _, share in low))
        for (pool, share), amount in zip(low, left, strict=True):
            if share.ends <= now or amount >= max(share.amount, share.least):
                self.low.pop(pool, None)
        return {pool: amount for (pool, share), amount in zip(low, left, strict=True) if now < share.ends}

    async def show_coupons(self, decision: Decision, now: float) -> dict[str, str]:
        """The coupon codes of a decision's claims, by offer, for its answer."""
        shown = [choice.offer for _, choice in decision.items() if not choice.is_silent]
        id_ = decision.answer.decision_id
        claims = {offer.key: claim_id(id_, offer.key) for offer in shown if offer.limits.coupons is not None}
        return await self._claims.show_codes(claims, now) if claims else {}

    async def grant(
        self,
        plan: Plan,
        decision: Decision,
        key: ProfileKey,
        now: float,
        decide_again: DecideAgain,
        *,
        absorbed: Sequence[ProfileKey] = (),
    ) -> Decision:
        """The decision once all its limited offers are claimed for the customer at `key` and those `absorbed`.

        A refused claim masks its offer and `decide_again` draws from the others; claims on offers that are not shown in
        the end are released. Takes one round trip where no claim is refused. An item that a place turns out not to have
        is looked for at the further places in one more; the offer is masked if none has it. A fallback is shown in
        spite of a channel's caps, uncounted, but is not sent to a customer on an outbound channel.
        """
        exempt: set[str] = set()
        lost: dict[str, dict[str, Gate]] = {}
        granted: dict[str, Claim] = {}
        short: dict[str, float] = {}
        for attempt in count(1):  # ends: each draw without an answer closes at least one more offer
            is_late = attempt >= ROUNDS
            required = self.required_claims(plan, decision, now)
            if exempt:
                required = {placement: claim for placement, claim in required.items() if claim.id not in exempt}
            needed = {claim.id: claim for claim in required.values()}
            # A claim that was granted for other shares or caps is no claim on what is shown now.
            stale = [granted.pop(name) for name, claim in [*granted.items()] if needed.get(name) != claim]
            fresh = {placement: claim for placement, claim in required.items() if claim.id not in granted}
            if not fresh and not stale:
                break
            denials = await self._claim(key, list(fresh.values()), stale, now, absorbed)
            if not any(denials):
                break
            items = dict(decision.items())
            for (name, claim), denial in zip(fresh.items(), denials, strict=True):
                if denial is None:
                    granted[claim.id] = claim
                    continue
                choice = items[name]
                if choice.reason in FALLBACK_REASONS and decision.channel not in plan.outbound:
                    exempt.add(claim.id)
                    continue
                if not is_late and await self._find_elsewhere(choice, claim, denial, short, now):
                    continue
                placement, _ = split_item(name)
                gone = {choice.offer.key, *(choice.candidates if is_late else ())}
                lost.setdefault(placement, {}).update(dict.fromkeys(sorted(gone), denial.reason))
                self._note_empty(plan, claim, denial)
            if is_late:
                _keep_granted(lost, decision, granted.keys())
            decision = decide_again(lost, short, _reserved_places(decision, granted))
        return decision

    async def _find_elsewhere(
        self, choice: Choice, claim: Claim, denial: Denial, short: dict[str, float], now: float
    ) -> bool:
        """Whether a further place has the item that one place lacked; adds places without it to `short`.

        The offer stays where one has: it was drawn, and which place hands it over changes no probability.
        """
        lacking = next((one for one in claim.shares if (one.pool, one.name) == ("shelf", denial.name)), None)
        if lacking is None:
            return False
        sku = lacking.name.partition("/")[2]
        others = [msgspec.structs.replace(lacking, name=shelf_name(near.place.key, sku)) for near in choice.further]
        left = await asyncio.gather(*(self._claims.read_remaining(share, now) for share in others))
        amounts = [(lacking, 0.0), *zip(others, left, strict=True)]
        empty = [(share, amount) for share, amount in amounts if amount < max(share.amount, share.least)]
        for share, amount in empty:
            short[f"shelf:{share.name}"] = amount
            self._note_low(share)
        return len(empty) < len(amounts)

    def required_claims(self, plan: Plan, decision: Decision, now: float) -> dict[str, Claim]:
        """The claims that must be granted before a decision is shown, by placement or item."""
        showing = ShowingContext(decision.channel, decision.zone, now, former_zones(decision.zone, decision.counts))
        return {
            name: claim
            for name, choice in decision.items()
            if (claim := required_claim(plan, decision.answer.decision_id, name, choice, showing)) is not None
        }

    async def claim_exposed(
        self,
        plan: Plan,
        pending: PendingDecision,
        decision_id: str,
        names: Iterable[str],
        now: float,
        *,
        absorbed: Sequence[ProfileKey] = (),
    ) -> dict[str, Denial]:
        """Claim the offers of a prefetched decision that are exposed now; returns denials by placement or item.

        The customer is the one at `pending.key`, with those `absorbed`.

        Of a list whose claims are all or nothing, one denied item denies the others that are exposed with it.
        """
        counts = await self._claims.read_counts(pending.key) if plan.zoned else {}
        showing = ShowingContext(pending.channel, pending.zone, now, former_zones(pending.zone, counts))
        claims: dict[str, Claim] = {}
        for name in names:
            offer, moment, began = pending.offers.get(name, ("", None, 0.0))
            if offer in plan.offers:
                choice = Choice(
                    offer=plan.offers[offer],
                    reason="policy",
                    propensity=1.0,
                    moment=moment,
                    moment_start=began,
                    place=_reserved_place(plan, pending, offer),
                )
                claim = required_claim(plan, decision_id, name, choice, showing)
                if claim is not None:
                    claims[name] = claim
        denials = await self._claim(pending.key, list(claims.values()), [], now, absorbed)
        denied = {name: denial for name, denial in zip(claims, denials, strict=True) if denial is not None}
        whole = _denied_whole(plan, pending.channel, names, denied)
        broken = [claim for name, claim in claims.items() if name in whole and name not in denied]
        await asyncio.gather(*(self._claims.release(pending.key, claim, now, is_unseen=True) for claim in broken))
        return whole | denied

    async def _claim(
        self,
        key: ProfileKey,
        fresh: Sequence[Claim],
        stale: Sequence[Claim],
        now: float,
        absorbed: Sequence[ProfileKey],
    ) -> list[Denial | None]:
        # Released first: a fresh claim may have the id, and need the last unit, of a stale one.
        await asyncio.gather(*(self._claims.release(key, claim, now, is_unseen=True) for claim in stale))
        denials = await self._claims.claim(key, fresh, now, absorbed)
        for claim, denial in zip(fresh, denials, strict=True):
            for share in claim.shares:
                if share.pool in ("shelf", "coupon"):
                    self._count_claim(share, denial is None)
        return denials

    def _follow(self, plan: Plan) -> None:
        if self._plan not in (None, plan.version):
            self.low.clear()
        self._plan = plan.version

    def _note_empty(self, plan: Plan, claim: Claim, denial: Denial) -> None:
        self._follow(plan)
        for share in claim.shares:
            is_short = (denial_reason(share.pool), share.name) == (denial.reason, denial.name)
            if is_short and share.pool != "coupon":  # whoever has a code already is shown it when no other is left
                self._note_low(share)

    def _note_low(self, share: PoolShare) -> None:
        self.low[f"{share.pool}:{share.name}"] = share
        while len(self.low) > LOW:  # the oldest first; a pool that is still empty comes back with its next denial
            del self.low[next(iter(self.low))]


def _keep_granted(lost: dict[str, dict[str, Gate]], decision: Decision, granted: Collection[str]) -> None:
    """The decision whose lists that lost an offer in the last draw show only the granted rest."""
    for placement, gone in lost.items():
        for item in decision.choices[placement].below and decision.choices[placement].items:
            if claim_id(decision.answer.decision_id, item.offer.key) in granted:
                gone.pop(item.offer.key, None)


def _reserved_places(decision: Decision, granted: Collection[str]) -> dict[str, str]:
    """The places with granted claims of a decision, by offer."""
    return {
        choice.offer.key: choice.place.place.key
        for _, choice in decision.items()
        if choice.place is not None and claim_id(decision.answer.decision_id, choice.offer.key) in granted
    }


def _denied_whole(plan: Plan, channel: str, names: Iterable[str], denied: Mapping[str, Denial]) -> dict[str, Denial]:
    """The exposed items of each all-or-nothing list with a denied item, with that denial."""
    first: dict[str, Denial] = {}
    for name, denial in denied.items():
        placement, position = split_item(name)
        selection = plan.selections.get((channel, placement))
        if position and selection is not None and selection.is_whole:
            first.setdefault(placement, denial)
    return {name: first[placement] for name in names if (placement := split_item(name)[0]) in first}


def _reserved_place(plan: Plan, pending: PendingDecision, offer: str) -> NearPlace | None:
    """The place at which a decision offered the item, even if that place was removed from the plan."""
    key = pending.places.get(offer)
    if key is None:
        return None
    place = None if plan.places is None else plan.places.by_key.get(key)
    return NearPlace(PlaceSpec(key=key, latitude=0.0, longitude=0.0) if place is None else place, None)


def is_unlimited(choice: Choice, channel: str) -> bool:
    """Whether showing a choice needs no claim and no later event changes one, as for most offers.

    What `required_claim` and `pending_of` would find out, at a fraction of their cost.
    """
    limits = choice.offer.limits
    if choice.below and not all(is_unlimited(item, channel) for item in choice.below):
        return False
    return choice.is_silent or not (
        limits.feedback_events
        or limits.caps.get(channel)
        or limits.exposed.get(channel)
        or choice.moment is not None
        or limits.stock is not None
        or limits.budget is not None
        or limits.coupons is not None
    )


def pending_of(decision: Decision, key: ProfileKey, waits: Sequence[str]) -> PendingDecision | None:
    """The part of a decision that later events need; None if none can follow.

    Args:
        decision: as it is answered.
        key: the customer whose claims they are.
        waits: the experiments, placements and items that are not exposed yet.
    """
    offers = {
        name: (choice.offer.key, choice.moment, choice.moment_start)
        for name, choice in decision.items()
        if not choice.is_silent and (name in waits or choice.offer.limits.feedback_events)
    }
    if not offers and not waits:
        return None
    pending = PendingDecision(
        customer="",
        keys=list(waits),
        key=key,
        offers=offers,
        channel=decision.channel,
        zone=decision.zone,
        places={one.offer.key: one.place.place.key for _, one in decision.items() if one.place and not one.is_silent},
        pools=_pools_of(decision, offers),
    )
    if not waits:
        return pending
    customer = decision.answer.customer
    return msgspec.structs.replace(pending, customer=customer, unit=decision.unit, who=decision.customer_ids)


def _pools_of(decision: Decision, names: Collection[str]) -> dict[str, list[tuple[PoolKind, str]]]:
    """The stocks and budgets, by offer, in which these placements and items of a decision may have claims."""
    found: dict[str, list[tuple[PoolKind, str]]] = {}
    for name, choice in decision.items():
        if name in names:
            place = None if choice.place is None else choice.place.place.key
            at = id_time(decision.answer.decision_id) or 0.0
            shares = pool_shares(choice.offer, place, decision.channel, at=at)
            pools: list[tuple[PoolKind, str]] = [(one.pool, one.counter) for one in shares if one.pool != "coupon"]
            if pools:
                found[choice.offer.key] = pools
    return found


def pending_life(decision: Decision) -> float:
    """The seconds for which a pending decision is stored: a day past the longest hold or refund of its offers."""
    limits = [choice.offer.limits for _, choice in decision.items()]
    holds = [seconds(one.hold) for each in limits for one in (each.stock, each.coupons) if one]
    holds += [each.budget.hold + each.budget.refunds for each in limits if each.budget is not None]
    return max(holds, default=0.0) + LIFE

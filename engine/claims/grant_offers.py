"""From a decision to what the customer really gets: limited offers are claimed, one that is lost is drawn again."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from engine.catalog.plan.plan import Plan
from engine.claims.claims import Claim, Claims, Denial, PoolShare
from engine.claims.pending_exposures import PendingDecision
from engine.claims.requirements import ShowingContext, required_claim
from engine.customers.redis.keys import ProfileKey
from engine.decision.decision import Decision
from engine.decision.gates import Gate
from engine.decision.offers import FALLBACK_REASONS, Choice

ROUNDS = 8
LOW = 64

LostOffers = Mapping[str, Mapping[str, Gate]]
DecideAgain = Callable[[LostOffers], Decision]


class OfferGrants:
    """The claims of one worker, and which stocks and budgets it last found empty.

    Every method raises StoreUnavailable where Redis does not answer in time; what was claimed until then expires.
    """

    def __init__(self, claims: Claims) -> None:
        self.low: dict[str, PoolShare] = {}
        self._plan: str | None = None
        self._claims = claims

    async def read_low_pools(self, plan: Plan, now: float) -> dict[str, float]:
        """What is left now of the stocks and budgets that were found empty; those filled again are forgotten.

        So are all by another plan, which may allow more.
        """
        self._follow(plan)
        low = list(self.low.items())
        left = await asyncio.gather(*(self._claims.read_remaining(take, now) for _, take in low))
        for (pool, take), amount in zip(low, left, strict=True):
            if amount >= max(take.amount, take.least):
                self.low.pop(pool, None)
        return {pool: amount for (pool, _), amount in zip(low, left, strict=True)}

    async def grant(self, plan: Plan, decision: Decision, key: ProfileKey, now: float, again: DecideAgain) -> Decision:
        """The decision with every limited offer of it claimed for the customer at `key`.

        A lost claim masks that offer and `again` draws from the others; what was claimed and is not shown after all is
        given back. One round trip where nothing is lost. A fallback is shown past a channel's caps too, uncounted, but
        not sent to a customer.
        """
        free: set[str] = set()
        lost: dict[str, dict[str, Gate]] = {}
        got: dict[str, Claim] = {}
        for attempt in range(ROUNDS + 1):
            wanted = self.required_claims(plan, decision, now)
            if free:
                wanted = {placement: claim for placement, claim in wanted.items() if claim.id not in free}
            stale = [got.pop(name) for name in got.keys() - {claim.id for claim in wanted.values()}]
            fresh = {placement: claim for placement, claim in wanted.items() if claim.id not in got}
            if not fresh and not stale:
                return decision
            denials = await self._claim(key, list(fresh.values()), stale, now)
            if not any(denials):
                return decision
            for (placement, claim), denial in zip(fresh.items(), denials, strict=True):
                if denial is None:
                    got[claim.id] = claim
                    continue
                choice = decision.choices[placement]
                if choice.reason in FALLBACK_REASONS and decision.channel not in plan.outbound:
                    free.add(claim.id)
                    continue
                gone = [choice.offer.key, *(choice.candidates if attempt == ROUNDS - 1 else ())]
                lost.setdefault(placement, {}).update(dict.fromkeys(gone, denial.reason))
                self._note(plan, claim, denial)
            decision = again(lost)
        return decision

    def required_claims(self, plan: Plan, decision: Decision, now: float) -> dict[str, Claim]:
        """What a decision must be granted before it may be seen, by placement."""
        where = ShowingContext(decision.channel, decision.zone, now)
        return {
            placement: claim
            for placement, choice in decision.choices.items()
            if (claim := required_claim(plan, decision.answer.decision_id, placement, choice, where)) is not None
        }

    async def claim_exposed(
        self, plan: Plan, waiting: PendingDecision, decision_id: str, keys: Iterable[str], now: float
    ) -> dict[str, Denial]:
        """Claim what was prefetched and is seen now; by placement, why its offer cannot be had any more."""
        where = ShowingContext(waiting.channel, waiting.zone, now)
        found: dict[str, Claim] = {}
        for placement in keys:
            offer, moment, began = waiting.offers.get(placement, ("", None, 0.0))
            if offer in plan.offers:
                choice = Choice(
                    offer=plan.offers[offer], reason="policy", propensity=1.0, moment=moment, moment_start=began
                )
                claim = required_claim(plan, decision_id, placement, choice, where)
                if claim is not None:
                    found[placement] = claim
        denials = await self._claim(waiting.key, list(found.values()), [], now)
        return {p: denial for p, denial in zip(found, denials, strict=True) if denial is not None}

    async def _claim(
        self, key: ProfileKey, fresh: Sequence[Claim], stale: Sequence[Claim], now: float
    ) -> list[Denial | None]:
        releases = asyncio.gather(*(self._claims.release(key, claim, now) for claim in stale))
        denials, _ = await asyncio.gather(self._claims.claim(key, fresh, now), releases)
        return denials

    def _follow(self, plan: Plan) -> None:
        if self._plan not in (None, plan.version):
            self.low.clear()
        self._plan = plan.version

    def _note(self, plan: Plan, claim: Claim, denial: Denial) -> None:
        self._follow(plan)
        for take in claim.shares:
            if (take.pool, take.name) == (denial.reason, denial.name):
                self.low[f"{take.pool}:{take.name}"] = take
        while len(self.low) > LOW:
            del self.low[next(iter(self.low))]


def pending_of(decision: Decision, key: ProfileKey, waits: Sequence[str]) -> PendingDecision | None:
    """What must be kept of a decision: what `waits` to be seen, offers of which more will be heard; None if nothing."""
    offers = {
        placement: (choice.offer.key, choice.moment, choice.moment_start)
        for placement, choice in decision.choices.items()
        if not choice.is_silent and (placement in waits or choice.offer.limits.feedback_events)
    }
    if not offers and not waits:
        return None
    told = PendingDecision("", list(waits), key, offers, decision.channel, decision.zone)
    if not waits:
        return told
    customer = decision.answer.customer
    return msgspec.structs.replace(told, customer=customer, unit=decision.unit, who=decision.customer_ids)

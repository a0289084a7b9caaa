"""Releases unconfirmed claims of a message's leases.

A release follows the change of state that makes it right: until then another process may confirm the lease. What a
crash in between leaves is found in the message (`unreleased_ids`), and released by the next lease or look at it. A
claim is released by its id, so a second release changes nothing.
"""

import asyncio

from engine.catalog.plan.plan import Plan
from engine.claims.budgets import decided_at
from engine.claims.claims import Claim
from engine.claims.requirements import claim_id, every_share
from engine.due.customers import FoundCustomer, ReadCustomer
from engine.due.sends import Send, unreleased_ids
from engine.service.worker import Worker


async def release_leases(worker: Worker, plan: Plan, customer: ReadCustomer, send: Send, now: float) -> None:
    """Release the claims of a message's last lease, and of earlier leases that a crash left.

    Raises:
        StoreUnavailable: if Redis does not answer in time; the message still names what is to be released.
    """
    if not isinstance(customer, FoundCustomer):
        return
    claims = [
        _claim_of(plan, send, decision_id, offer)
        for decision_id in unreleased_ids(send)
        for offer in _claimable(plan, send, decision_id)
        if offer in plan.offers
    ]
    await asyncio.gather(*(worker.event_claims.release(customer.key, claim, now) for claim in claims))


def _claimable(plan: Plan, send: Send, decision_id: str) -> list[str]:
    """The offers that a lease may have claimed: all that its decision could show if it died before storing them."""
    if send.offers and decision_id == send.decision_id:
        return send.offers
    selection = plan.selections.get((send.channel, send.placement))
    if selection is None:
        return []
    moments = plan.moments.get((send.channel, send.placement), ())
    offers = {offer.key for moment in moments for offer in moment.offers}
    return sorted({*selection.arms, selection.fallback.key, *offers})


def _claim_of(plan: Plan, send: Send, decision_id: str, offer: str) -> Claim:
    """The claim that showing an offer makes in a lease."""
    limits = plan.offers[offer].limits
    return Claim(
        id=claim_id(decision_id, offer),
        counters=list(limits.exposed.get(send.channel, ())),
        shares=every_share(plan, plan.offers[offer], decided_at(decision_id, send.at)),
    )

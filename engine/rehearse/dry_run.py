"""Runs visits through the served `decide`, with caps, stock and budgets counted in memory."""

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

import msgspec

from engine.catalog.plan.plan import Plan
from engine.claims.budgets import budget_share
from engine.claims.claims import Claim, PoolShare
from engine.claims.pacing import expected_worth, paced_pools, pools_by_offer, prices_by_offer, update_pacing
from engine.claims.requirements import ShowingContext, every_share, required_claim
from engine.customer import CustomerIds, Profile
from engine.decision.decision import Availability, DecideOptions, DecideRequest, Decision, decide
from engine.decision.gating.gates import Gate
from engine.decision.offers import Choice, Snapshot
from engine.decision.windows import former_zones
from engine.hashing import uniform_draw
from engine.rehearse.customers import SampledCustomer
from engine.rehearse.generated_customers import STORES
from engine.rehearse.preview import NO_SNAPSHOTS, channel_of, placement_of
from engine.vocabulary import DAY, REDEMPTION, item_name
from policies import Pacing

Visit = tuple[float, DecideRequest, Profile]
"""A time (s since 1970), a request and the customer who makes it."""


class OutcomeShare(msgspec.Struct, frozen=True, kw_only=True):
    """The visits and customers with one outcome: a variant, an offer, or a reason for neither.

    `share` is that of all visits, of which one that is shown a list has several outcomes; `value` is the mean value of
    the offers shown.
    """

    outcome: str
    visits: int
    customers: int
    share: float
    value: float


class PoolUse(msgspec.Struct, frozen=True, kw_only=True):
    """The use of a stock or budget.

    `limit` is the amount at the start, None for a stock without a given level; `spent` was redeemed, and `held` is on
    hold at the end. `ran_out` is the time (s since 1970) at which one more showing exceeded it, None where it lasted.
    """

    pool: Literal["stock", "budget"]
    name: str
    limit: float | None
    spent: float
    held: float
    ran_out: float | None


class ClosedGate(msgspec.Struct, frozen=True):
    """The number of visits in which a gate closed an offer."""

    offer: str
    gate: Gate
    visits: int


class DryRun(msgspec.Struct, frozen=True, kw_only=True):
    """The outcomes of all visits, the most frequent first; `kept` are the closed gates, the most frequent first."""

    key: str
    customers: int
    visits: int
    outcomes: list[OutcomeShare]
    limits: list[PoolUse]
    kept: list[ClosedGate]


def visits_of_sample(
    plan: Plan, key: str, sample: Iterable[SampledCustomer], now: float, *, each: int = 1, days: float = 1.0
) -> Iterator[Visit]:
    """`each` visits of every customer to an experiment or a placement, evenly spread over `days` from `now`.

    Each customer has a device. Where stores are the unit, each visits one of 50 unless their context names a store.

    Raises:
        BadInput: if `key` is neither.
    """
    placement = placement_of(plan, key)
    by_store = key in plan.experiments and plan.experiments[key].spec.unit == "store"
    everyone = list(sample)
    step = days * DAY / max(1, each * len(everyone))
    for number in range(each * len(everyone)):
        place = number % len(everyone)
        one = everyone[place]
        store = {"store": f"store-{place % STORES}"} if by_store else {}
        request = DecideRequest(
            customer=CustomerIds(user_id=one.profile.id, device_id=f"device of {one.profile.id}"),
            channel=one.channel or channel_of(plan, key, placement),
            placements=[placement] if placement else [],
            experiments=[] if placement else [key],
            context=store | one.context,
        )
        yield now + number * step, request, one.profile


def visits_of_log(plan: Plan, key: str, logged: Iterable[Visit]) -> Iterator[Visit]:
    """The logged visits on a channel of the experiment or placement, reduced to that request.

    Raises:
        BadInput: if `key` is neither.
    """
    placement = placement_of(plan, key)
    shown_on = plan.placements[placement] if placement else plan.experiments[key].spec.channels or plan.channels
    for now, request, profile in logged:
        if request.channel in shown_on and (placement is None or placement in request.placements):
            one = msgspec.structs.replace(
                request, placements=[placement] if placement else [], experiments=[] if placement else [key]
            )
            yield now, one, profile


def dry_run(
    plan: Plan,
    key: str,
    traffic: Iterable[Visit],
    *,
    stock: Mapping[str, float] | None = None,
    redeemed: float = 1.0,
    snapshots: Mapping[str, Snapshot] = NO_SNAPSHOTS,
) -> DryRun:
    """Decide all visits in their order and sum up their outcomes.

    Pools that are paced get the shadow prices that the learner would compute, from 0 at the first visit.

    Args:
        plan: with the experiment or placement `key`.
        key: the experiment or placement that the visits request.
        traffic: the visits, ordered by time.
        stock: the levels by SKU, or by `PLACE/SKU`; one without a level never runs out.
        redeemed: the share of shown offers that are redeemed at once. The other claims expire after the offer's hold.
        snapshots: the learnt policies; by default every policy is untrained.
    """
    ledger, prices, tally = _Ledger(plan, stock or {}), _ShadowPrices(plan, snapshots), _OutcomeCounts()
    for number, (now, request, profile) in enumerate(traffic, 1):
        availability = ledger.availability(profile.id, now)
        availability = msgspec.structs.replace(availability, prices=prices.at(now, availability.pools))
        decision_id = f"dry-run-{number}"
        decision = decide(
            plan,
            snapshots,
            profile,
            request,
            now,
            decision_id=decision_id,
            options=DecideOptions(availability=availability, trace=True),
        )
        tally.add(_outcomes(key, decision), profile.id, decision)
        showing = ShowingContext(decision.channel, decision.zone, now, former_zones(decision.zone, decision.counts))
        for name, choice in decision.items():
            if choice.is_silent:
                continue
            prices.observe(choice)
            claim = required_claim(plan, decision_id, name, choice, showing)
            kept = item_name(REDEMPTION, choice.position)
            redeems = choice.reason != "fallback" and uniform_draw(decision_id, kept) < redeemed
            counters = choice.offer.limits.counters(REDEMPTION, decision.channel, plan.watched) if redeems else []
            ledger.show(profile.id, claim, counters, now, redeems=redeems)
    return tally.report(key, ledger.limits())


def _outcomes(key: str, decision: Decision) -> dict[str, float]:
    """The outcomes of a visit, each with its value: a variant, an offer, or each offer of a list."""
    if key in decision.assigned:
        answer = decision.answer.experiments[key]
        shown = (choice for _, choice in decision.items() if not choice.is_silent)
        return {answer.variant or f"({answer.reason})": sum(choice.offer.spec.value for choice in shown)}
    return dict(map(_outcome, (choice for _, choice in decision.items())))


def _outcome(choice: Choice) -> tuple[str, float]:
    if choice.is_silent:
        return f"({choice.reason})", 0.0
    name = choice.offer.key if choice.reason == "policy" else f"{choice.offer.key} ({choice.reason})"
    return name, choice.offer.spec.value


class _OutcomeCounts:
    """The visits, customers and offer values of each outcome, and visits with an offer closed by each gate."""

    def __init__(self) -> None:
        self._total = 0
        self._visits: Counter[str] = Counter()
        self._customers: defaultdict[str, set[str]] = defaultdict(set)
        self._values: defaultdict[str, float] = defaultdict(float)
        self._closed: Counter[tuple[str, Gate]] = Counter()

    def add(self, outcomes: Mapping[str, float], customer: str, decision: Decision) -> None:
        self._total += 1
        for outcome, value in outcomes.items():
            self._visits[outcome] += 1
            self._customers[outcome].add(customer)
            self._values[outcome] += value
        for choice in decision.choices.values():
            self._closed.update((offer, gate) for offer, gate in choice.closed.items())

    def report(self, key: str, limits: list[PoolUse]) -> DryRun:
        total = self._total
        outcomes = [
            OutcomeShare(
                outcome=outcome,
                visits=visits,
                customers=len(self._customers[outcome]),
                share=visits / total,
                value=self._values[outcome] / visits,
            )
            for outcome, visits in self._visits.most_common()
        ]
        return DryRun(
            key=key,
            customers=len(set[str]().union(*self._customers.values())),
            visits=total,
            outcomes=outcomes,
            limits=limits,
            kept=[ClosedGate(offer, gate, visits) for (offer, gate), visits in self._closed.most_common()],
        )


class _Ledger:
    """The counters of customers and the pools' amounts held and spent, as Redis would have them."""

    def __init__(self, plan: Plan, stock: Mapping[str, float]) -> None:
        shares = {share.name: share for offer in plan.offers.values() for share in every_share(plan, offer, 0.0)}
        self._whole = {f"{shares[name].pool if name in shares else 'stock'}:{name}": stock[name] for name in stock}
        self._whole_of = dict(self._whole)
        self._zone = plan.zone
        budgets = [offer.limits.budget for offer in plan.offers.values() if offer.limits.budget]
        self._budgets = {f"budget:{budget.pool}": budget for budget in budgets}
        self._counts: defaultdict[str, dict[str, list[float]]] = defaultdict(dict)
        self._spent: defaultdict[str, float] = defaultdict(float)
        self._held: defaultdict[str, float] = defaultdict(float)
        self._holds: list[tuple[float, str, float]] = []
        self._ran_out: dict[str, float] = {}

    def availability(self, customer: str, now: float) -> Availability:
        while self._holds and self._holds[0][0] <= now:
            _, pool, amount = heapq.heappop(self._holds)
            self._held[pool] -= amount
        left = {pool: self._left(pool, self._whole[pool]) for pool in self._whole}
        for pool, budget in self._budgets.items():
            share = budget_share(budget, self._zone, "", now)
            left[pool] = self._left(f"budget:{share.counter}", share.limit_at(now) or 0.0)
        return Availability(self._counts[customer], left)

    def show(self, customer: str, claim: Claim | None, counters: Iterable[str], now: float, *, redeems: bool) -> None:
        counts = self._counts[customer]
        if claim and any(
            sum(time > cap.since for time in counts.get(cap.counter, ())) >= cap.limit for cap in claim.caps
        ):
            return  # a fallback, which is shown in spite of a channel's caps, uncounted
        for counter in (*(claim.counters if claim else ()), *counters):
            counts.setdefault(counter, []).append(now)
        for share in claim.shares if claim else ():
            self._claim(share, now, confirmed=redeems or not share.hold)

    def limits(self) -> list[PoolUse]:
        found = sorted({*self._spent, *self._held})
        return [
            PoolUse(
                pool="budget" if pool.startswith("budget:") else "stock",
                name=pool.partition(":")[2],
                limit=self._whole_of.get(pool),
                spent=self._spent[pool],
                held=self._held[pool],
                ran_out=self._ran_out.get(pool),
            )
            for pool in found
        ]

    def _left(self, pool: str, whole: float) -> float:
        return round(whole - self._spent.get(pool, 0.0) - self._held.get(pool, 0.0), 4)

    def _claim(self, share: PoolShare, now: float, *, confirmed: bool) -> None:
        pool = f"{share.pool}:{share.counter}"
        if share.limit is not None:
            self._whole_of[pool] = share.limit
        if confirmed:
            self._spent[pool] += share.amount
        else:
            self._held[pool] += share.amount
            heapq.heappush(self._holds, (now + share.hold, pool, share.amount))
        whole = self._whole_of.get(pool)
        if whole is not None and self._left(pool, whole) < max(share.amount, share.least):
            self._ran_out.setdefault(pool, now)


class _ShadowPrices:
    """The shadow prices of paced pools, as the learner would compute them."""

    def __init__(self, plan: Plan, snapshots: Mapping[str, Snapshot]) -> None:
        self._pools = paced_pools(plan)
        self._of_offer = pools_by_offer(self._pools)
        self._selections = plan.policies
        self._snapshots = snapshots
        self._pacing: dict[str, Pacing] = {}
        self._worth: defaultdict[str, list[float]] = defaultdict(list)

    def at(self, now: float, left: Mapping[str, float]) -> dict[str, float]:
        """The prices by offer at `now`, from the amounts left in the pools."""
        for name, pool in self._pools.items():
            if name in left and pool.begins <= now < pool.ends:
                units = max(left[name], 0.0) / pool.share.amount
                self._pacing[name] = update_pacing(self._pacing.get(name), pool, units, now, self._worth.pop(name, []))
            else:
                self._pacing.pop(name, None)
        return prices_by_offer(self._pools, self._pacing)

    def observe(self, choice: Choice) -> None:
        """Record the expected worth of showing a paced offer, for the next price."""
        key = (choice.policy or "").rpartition("@")[0]
        selection = self._selections.get(key)
        if selection is None or choice.offer.key not in self._of_offer:
            return
        policy = self._snapshots[key].policy if key in self._snapshots else selection.prior
        for name in self._of_offer[choice.offer.key]:
            self._worth[name].append(expected_worth(selection, policy, choice.offer.key, choice.context))

"""What visits would come to: through the same `decide` that serves, with caps, stock and budgets kept in memory."""

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

import msgspec

from engine.catalog.plan.plan import Plan
from engine.claims.claims import Claim, PoolShare
from engine.claims.pacing import expected_worth, paced_pools, pools_by_offer, prices_by_offer, update_pacing
from engine.claims.requirements import ShowingContext, required_claim
from engine.customer import CustomerIds, Profile
from engine.decision.decision import Availability, DecideOptions, DecideRequest, Decision, decide
from engine.decision.gates import Gate
from engine.decision.offers import Choice, Snapshot
from engine.hashing import uniform_draw
from engine.rehearse.customers import SampledCustomer
from engine.rehearse.preview import NO_SNAPSHOTS, channel_of, placement_of
from engine.vocabulary import DAY, REDEMPTION
from policies import Pacing

Visit = tuple[float, DecideRequest, Profile]
"""When (s since 1970), what is asked, and the customer."""

STORES = 50


class OutcomeShare(msgspec.Struct, frozen=True):
    """A variant, an offer, or a reason for neither: visits and customers it came to, its share of the visits.

    `value` is the mean value of the offers shown.
    """

    outcome: str
    visits: int
    customers: int
    share: float
    value: float


class PoolUse(msgspec.Struct, frozen=True):
    """A stock or budget: what there was (None: not told), what was redeemed, and what is held for others at the end.

    `ran_out` is when there was not enough for one more (s since 1970), None where it lasted.
    """

    pool: Literal["stock", "budget"]
    name: str
    limit: float | None
    spent: float
    held: float
    ran_out: float | None


class ClosedGate(msgspec.Struct, frozen=True):
    """In how many visits a gate kept an offer from being shown."""

    offer: str
    gate: Gate
    visits: int


class DryRun(msgspec.Struct, frozen=True):
    """What came of the visits; the largest outcome first, the offers most often kept from customers first."""

    key: str
    customers: int
    visits: int
    outcomes: list[OutcomeShare]
    limits: list[PoolUse]
    kept: list[ClosedGate]


def visits_of_sample(
    plan: Plan, key: str, sample: Iterable[SampledCustomer], now: float, *, each: int = 1, days: float = 1.0
) -> Iterator[Visit]:
    """The sample asks for an experiment or a placement, each customer `each` times, evenly over `days` from `now`.

    Each has a device of their own, and where stores are the unit they come to one of 50, unless their context says it.

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
    """Those of logged visits that could have asked for the experiment or the placement, asking for it alone.

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
    """What the visits come to, in their order.

    Args:
        plan: with the experiment or placement `key`.
        key: which of the two the visits ask for.
        traffic: in the order of their times.
        stock: the levels by SKU; a SKU that is not told of never runs out. What must last has its shadow price, which
            begins at 0 and moves as the learner moves it.
        redeemed: the share of those shown an offer who redeem it at once. The others' holds end as the offer says.
        snapshots: the learnt policies; by default none has learnt anything.
    """
    ledger, prices = _Ledger(plan, stock or {}), _ShadowPrices(plan, snapshots)
    seen: Counter[str] = Counter()
    who: defaultdict[str, set[str]] = defaultdict(set)
    values: defaultdict[str, float] = defaultdict(float)
    kept: Counter[tuple[str, Gate]] = Counter()
    number = 0
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
        outcome = _outcome(key, decision)
        seen[outcome] += 1
        who[outcome].add(profile.id)
        for placement, choice in decision.choices.items():
            kept.update((offer, gate) for offer, gate in choice.closed.items())
            if choice.is_silent:
                continue
            values[outcome] += choice.offer.spec.value
            prices.saw(choice)
            claim = required_claim(
                plan, decision_id, placement, choice, ShowingContext(decision.channel, decision.zone, now)
            )
            takes_it = choice.reason != "fallback" and uniform_draw(decision_id, REDEMPTION) < redeemed
            told = choice.offer.limits.counters(REDEMPTION, decision.channel, plan.watched) if takes_it else []
            ledger.seen(profile.id, claim, told, now, takes_it=takes_it)
    outcomes = [
        OutcomeShare(outcome, times, len(who[outcome]), times / number, values[outcome] / times)
        for outcome, times in seen.most_common()
    ]
    gates = [ClosedGate(offer, gate, times) for (offer, gate), times in kept.most_common()]
    return DryRun(key, len(set[str]().union(*who.values())), number, outcomes, ledger.limits(), gates)


def _outcome(key: str, decision: Decision) -> str:
    if key in decision.assigned:
        answer = decision.answer.experiments[key]
        return answer.variant or f"({answer.reason})"
    (choice,) = decision.choices.values()
    if choice.is_silent:
        return f"({choice.reason})"
    return choice.offer.key if choice.reason == "policy" else f"{choice.offer.key} ({choice.reason})"


class _Ledger:
    """What was counted of customers, held and spent, as the store would keep it."""

    def __init__(self, plan: Plan, stock: Mapping[str, float]) -> None:
        self._whole = {f"stock:{sku}": level for sku, level in stock.items()}
        for offer in plan.offers.values():
            if offer.limits.budget is not None:
                self._whole[f"budget:{offer.key}"] = offer.limits.budget.amount
        self._counts: defaultdict[str, dict[str, list[float]]] = defaultdict(dict)
        self._spent: defaultdict[str, float] = defaultdict(float)
        self._held: defaultdict[str, float] = defaultdict(float)
        self._holds: list[tuple[float, str, float]] = []
        self._ran_out: dict[str, float] = {}

    def availability(self, customer: str, now: float) -> Availability:
        while self._holds and self._holds[0][0] <= now:
            _, pool, amount = heapq.heappop(self._holds)
            self._held[pool] -= amount
        return Availability(self._counts[customer], {pool: self._left(pool) for pool in self._whole})

    def seen(self, customer: str, claim: Claim | None, told: Iterable[str], now: float, *, takes_it: bool) -> None:
        counts = self._counts[customer]
        if claim and any(
            sum(time > cap.since for time in counts.get(cap.counter, ())) >= cap.limit for cap in claim.caps
        ):
            return  # a fallback, which is shown past a channel's caps
        for counter in (*(claim.counters if claim else ()), *told):
            counts.setdefault(counter, []).append(now)
        for take in claim.shares if claim else ():
            self._take(take, now, at_once=takes_it or not take.hold)

    def limits(self) -> list[PoolUse]:
        found = sorted({*self._spent, *self._held})
        return [
            PoolUse(
                "stock" if pool.startswith("stock:") else "budget",
                pool.partition(":")[2],
                self._whole.get(pool),
                self._spent[pool],
                self._held[pool],
                self._ran_out.get(pool),
            )
            for pool in found
        ]

    def _left(self, pool: str) -> float:
        return round(self._whole[pool] - self._spent.get(pool, 0.0) - self._held.get(pool, 0.0), 4)

    def _take(self, take: PoolShare, now: float, *, at_once: bool) -> None:
        pool = f"{take.pool}:{take.name}"
        if at_once:
            self._spent[pool] += take.amount
        else:
            self._held[pool] += take.amount
            heapq.heappush(self._holds, (now + take.hold, pool, take.amount))
        if pool in self._whole and self._left(pool) < max(take.amount, take.least):
            self._ran_out.setdefault(pool, now)


class _ShadowPrices:
    """The shadow prices of what must last, as the learner would move them."""

    def __init__(self, plan: Plan, snapshots: Mapping[str, Snapshot]) -> None:
        self._pools = paced_pools(plan)
        self._of_offer = pools_by_offer(self._pools)
        self._selections = plan.policies
        self._snapshots = snapshots
        self._pacing: dict[str, Pacing] = {}
        self._worth: defaultdict[str, list[float]] = defaultdict(list)

    def at(self, now: float, left: Mapping[str, float]) -> dict[str, float]:
        """The prices by offer at `now`, with so much of each pool left."""
        for name, pool in self._pools.items():
            if name in left and pool.begins <= now < pool.ends:
                units = max(left[name], 0.0) / pool.take.amount
                self._pacing[name] = update_pacing(self._pacing.get(name), pool, units, now, self._worth.pop(name, []))
            else:
                self._pacing.pop(name, None)
        return prices_by_offer(self._pools, self._pacing)

    def saw(self, choice: Choice) -> None:
        """Take note of what showing a scarce offer was worth."""
        key = (choice.policy or "").rpartition("@")[0]
        selection = self._selections.get(key)
        if selection is None or choice.offer.key not in self._of_offer:
            return
        policy = self._snapshots[key].policy if key in self._snapshots else selection.prior
        for name in self._of_offer[choice.offer.key]:
            self._worth[name].append(expected_worth(selection, policy, choice.offer.key, choice.context))

"""Limits on showing an offer to a customer, compiled to counters that the profile stores.

A counter is named `event|scope`, such as `exposure|offer:second_coffee`. Its scope is `offer:KEY`, `tag:TAG`,
`channel:KEY`, `moment:KEY`, or `*` for all offers. Only counters that some rule reads are stored: `watched_counters`.
"""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal, NamedTuple

import msgspec

from engine.catalog.plan.places import HandOverRule, NearPlace, Vicinity, hand_over_rule, shelf_name
from engine.catalog.spec.fields import seconds
from engine.catalog.spec.folder import Specs
from engine.catalog.spec.limits.caps import CapSpec, SuppressSpec
from engine.catalog.spec.limits.stock import BudgetPer, BudgetSpec, CouponsSpec, StockSpec
from engine.catalog.spec.offer import ChannelSpec, OfferSpec, StackingSpec, TaggedOffers
from engine.vocabulary import ANSWERED, ANSWERS, CONFIRMS, EXPOSURE, IGNORED, REFUNDS, RELEASES, names_of_same_event


@dataclass(frozen=True, slots=True)
class Cap:
    """At most `count` entries of `counter` in a window of `per` seconds; `zone` None is the customer's time zone."""

    counter: str
    count: int
    per: float
    calendar: bool
    zone: str | None


@dataclass(frozen=True, slots=True)
class Suppression:
    """After `after` outcomes within `within` seconds the offer is not shown for `lasts` seconds.

    `outcome` is the counter of reported outcomes. Where `shown` is set, an exposure without an entry of `answered`
    within a day counts as an outcome too.
    """

    after: int
    within: float
    lasts: float
    outcome: str
    shown: str | None
    answered: str | None


class StackingRule(NamedTuple):
    """How many of some offers one order may redeem.

    Open orders store the `name`, which is of the offers alone: a rule that moves in the list keeps its count.
    """

    name: str
    most: int
    place: str
    """The path of the rule in `channels.yaml`, for people."""


@dataclass(frozen=True, slots=True)
class Budget:
    """The budget that showings of an offer take their cost from: its own, or one that several offers share.

    `pool` is the key of the offer or of the shared budget. `amount` is for each period of `per`, else from `begins` to
    `ends` (s since 1970). A refund gives back for `refunds` seconds; 0 for never.
    """

    spec: BudgetSpec
    pool: str
    amount: float
    per: BudgetPer | None
    pace: bool | Literal["even"]
    hold: float
    refunds: float
    begins: float
    ends: float

    def cost_on(self, channel: str) -> float:
        """The amount that one showing on a channel reserves."""
        return self.spec.cost_on(channel)


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one offer. By channel, `caps` are checked before showing it, and `exposed` counters count it.

    `names` are the scopes to which the offer belongs, its own first; `feedback_events` are the events after an exposure
    that change one of its counters, its stock or its budget.
    """

    caps: Mapping[str, tuple[Cap, ...]]
    exposed: Mapping[str, tuple[str, ...]]
    names: tuple[str, ...]
    feedback_events: frozenset[str]
    suppression: Suppression | None
    stock: StockSpec | None
    budget: Budget | None
    coupons: CouponsSpec | None = None
    hand_over: HandOverRule | None = None
    """Which places hand its item over; None where its stock has no place."""
    zone: str = "UTC"
    """The shop's time zone, by which the periods of its budget begin."""
    stacking: tuple[StackingRule, ...] = ()
    """The rules on the offers of one order that it counts under."""

    @property
    def all_caps(self) -> frozenset[Cap]:
        """The caps of all channels."""
        return frozenset(cap for caps in self.caps.values() for cap in caps)

    @property
    def read(self) -> frozenset[str]:
        """The counters that may exclude the offer."""
        rule = self.suppression
        outcomes = () if rule is None else (rule.outcome, rule.shown)
        return frozenset((*(cap.counter for cap in self.all_caps), *filter(None, outcomes)))

    @property
    def pools(self) -> tuple[str, ...]:
        """The names of the stock and the budget that must not be empty; a place's stock is named by `shelf`."""
        stock = () if self.stock is None or self.hand_over is not None else (f"stock:{self.stock.sku}",)
        key = self.names[0].removeprefix("offer:") if self.names else ""
        budget = () if self.budget is None else (f"budget:{self.budget.pool}",)
        return (*stock, *budget) if self.coupons is None else (*stock, *budget, f"coupon:{key}")

    @property
    def shelf_sku(self) -> str | None:
        """The SKU of a stock by place; None for any other stock."""
        return None if self.stock is None or self.hand_over is None else self.stock.sku

    def places_with_stock(self, vicinity: Vicinity, pools: Mapping[str, float]) -> list[NearPlace]:
        """The places that can hand the item over, the nearest first, without those that `pools` shows as short."""
        if self.hand_over is None or self.stock is None:
            return []
        sku, least = self.stock.sku, max(1, self.stock.at_least)
        reached = vicinity.reached(self.hand_over)
        return [near for near in reached if pools.get(f"shelf:{shelf_name(near.place.key, sku)}", least) >= least]

    def is_enough(self, pool: str, left: float, channel: str) -> bool:
        """Whether `left` of a stock, budget or pool of codes suffices to show the offer once more on a channel."""
        if pool.startswith("coupon:"):
            return left >= 1
        if pool.startswith("stock:"):
            return self.stock is None or left >= max(1, self.stock.at_least)
        return self.budget is None or left >= self.budget.cost_on(channel)

    def counters(self, event: str, channel: str | None, watched: Collection[str]) -> list[str]:
        """The watched counters that an event about the offer adds to, under any of the offer's names."""
        scopes = (*self.names, f"channel:{channel}", "*")
        named = (f"{name}|{scope}" for name in sorted(names_of_same_event(event)) for scope in scopes)
        counters = [counter for counter in named if counter in watched]
        answered = f"{ANSWERED}|{self.names[0]}"
        return [*counters, answered] if event in ANSWERS and answered in watched else counters


def events_by_scope(watched: Iterable[str]) -> dict[str, frozenset[str]]:
    """The events of watched counters by scope; `*` has the counters that any offer may add to."""
    found: dict[str, set[str]] = {"*": set()}
    for counter in watched:
        event, _, scope = counter.partition("|")
        found.setdefault("*" if scope.startswith("channel:") else scope, set()).add(event)
    return {scope: frozenset(events) for scope, events in found.items()}


def watched_counters(specs: Specs) -> dict[str, int]:
    """The counters that any rule of the shop reads, each with the highest count compared; no other is stored."""
    watched: dict[str, int] = {}
    for offer in specs.every_offer():
        rule = _suppression(offer)
        if rule is not None:
            watched |= {name: rule.after for name in (rule.outcome, rule.shown, rule.answered) if name is not None}
    for moment in specs.moments.values():
        if moment.once is not None:
            watched[f"{moment.once.event}|moment:{moment.key}"] = 1
    for cap in _every_cap(specs):
        watched[cap.counter] = max(cap.count, watched.get(cap.counter, 0))
    return watched


def zoned_counters(specs: Specs) -> frozenset[str]:
    """The counters with calendar windows in the customer's time zone; counting one also stores that zone."""
    once = (moment for moment in specs.moments.values() if moment.once is not None and moment.once.per != "occurrence")
    return frozenset(cap.counter for cap in _every_cap(specs) if cap.calendar and cap.zone is None) | frozenset(
        f"{moment.once.event}|moment:{moment.key}" for moment in once if moment.once
    )


def _every_cap(specs: Specs) -> Iterator[Cap]:
    """Yield every cap of channels and offers."""
    for channel in specs.channels.channels:
        yield from (_compile_cap(cap, _scope(cap, None, channel.key)) for cap in channel.caps)
    for offer in specs.every_offer():
        for spec in offer.caps:
            channels = offer.renderings if spec.scope == "channel" else [""]
            yield from (_compile_cap(spec, _scope(spec, offer, name)) for name in channels)


def compile_limits(
    specs: Specs, offer: OfferSpec, watched: Collection[str], by_scope: Mapping[str, frozenset[str]]
) -> Limits:
    """The limits of an offer, its own and its channels'; `by_scope` is `events_by_scope(watched)`."""
    names = (
        f"offer:{offer.key}",
        *(f"tag:{tag}" for tag in offer.tags),
        *(f"moment:{moment.key}" for moment in specs.moments.values() if offer.key in moment.offers),
    )
    stacking = _stacking_rules(specs, offer)
    budget = None if offer.budget is None else _compile_budget(specs, offer, offer.budget)
    later = _feedback_events(offer, names, by_scope)
    if stacking:
        later |= CONFIRMS
    if budget and budget.refunds:
        later |= REFUNDS
    shown_on = [channel for channel in specs.channels.channels if channel.key in offer.renderings]
    return Limits(
        caps={channel.key: tuple(_list_caps(offer, channel)) for channel in shown_on},
        exposed={channel.key: _exposure_counters(names, channel.key, watched) for channel in shown_on},
        names=names,
        feedback_events=later,
        suppression=_suppression(offer),
        stock=offer.stock,
        budget=budget,
        coupons=offer.coupons,
        hand_over=hand_over_rule(offer.stock) if offer.stock else None,
        zone=specs.channels.zone,
        stacking=stacking,
    )


def _compile_budget(specs: Specs, offer: OfferSpec, spec: BudgetSpec) -> Budget:
    """The budget of an offer, or the shared one that it names."""
    shared = None if spec.of is None else specs.budgets[spec.of]
    amount = spec.amount if shared is None else shared.amount
    if amount is None:
        raise ValueError(f"the budget of {offer.key} has no amount, which `check` refuses")
    refunds = spec.refunds if shared is None else shared.refunds
    start, end = (offer.start, offer.end) if shared is None else (shared.start, shared.end)
    return Budget(
        spec=spec,
        pool=offer.key if shared is None else shared.key,
        amount=amount,
        per=spec.per if shared is None else shared.per,
        pace=spec.pace if shared is None else shared.pace or False,
        hold=seconds(spec.hold),
        refunds=0.0 if refunds is None else seconds(refunds),
        begins=0.0 if start is None else start.timestamp(),
        ends=math.inf if end is None else end.timestamp(),
    )


def _stacking_rules(specs: Specs, offer: OfferSpec) -> tuple[StackingRule, ...]:
    """The rules of `stacking` that name an offer: by its key, by a tag, or all of the shop."""
    return tuple(
        StackingRule(_rule_name(rule), rule.most, f"stacking[{at}]")
        for at, rule in enumerate(specs.channels.stacking)
        if rule.offers == "all"
        or (isinstance(rule.offers, list) and offer.key in rule.offers)
        or (isinstance(rule.offers, TaggedOffers) and rule.offers.tagged in offer.tags)
    )


def _rule_name(rule: StackingSpec) -> str:
    offers = sorted(rule.offers) if isinstance(rule.offers, list) else rule.offers
    return blake2b(msgspec.json.encode(offers), digest_size=8).hexdigest()


def _exposure_counters(names: Iterable[str], channel: str, watched: Collection[str]) -> tuple[str, ...]:
    """The watched counters to which an exposure on a channel adds."""
    counters = (f"{EXPOSURE}|{name}" for name in (*names, f"channel:{channel}", "*"))
    return tuple(counter for counter in counters if counter in watched)


def _feedback_events(
    offer: OfferSpec, names: Collection[str], by_scope: Mapping[str, frozenset[str]]
) -> frozenset[str]:
    """The events after an exposure that change one of the offer's counters, its stock or its budget."""
    counted = by_scope["*"].union(*(by_scope[name] for name in names if name in by_scope)) - {EXPOSURE}
    events = frozenset(name for event in counted for name in names_of_same_event(event))
    if ANSWERED in events:  # `answered` is no event of its own: any of these events is an answer
        events = (events - {ANSWERED}) | ANSWERS
    if offer.stock or offer.budget or offer.coupons:
        events |= CONFIRMS | RELEASES
    return frozenset(events)


def _list_caps(offer: OfferSpec, channel: ChannelSpec) -> Iterable[Cap]:
    """Yield the offer's caps on a channel, then the channel's own."""
    yield from (_compile_cap(cap, _scope(cap, offer, channel.key)) for cap in offer.caps)
    yield from (_compile_cap(cap, _scope(cap, None, channel.key)) for cap in channel.caps)


def _scope(cap: CapSpec, offer: OfferSpec | None, channel: str) -> str:
    """The scope in a cap counter's name; `offer` is None for a channel's cap."""
    if cap.scope == "customer":
        return "*"
    if cap.scope == "tag":
        return f"tag:{cap.tag or (offer.tags[0] if offer else '')}"
    return f"offer:{offer.key}" if offer and cap.scope == "offer" else f"channel:{channel}"


def _compile_cap(cap: CapSpec, scope: str) -> Cap:
    """A cap on the counter of its event and scope."""
    zone = None if cap.zone == "customer" else cap.zone
    return Cap(
        counter=f"{cap.event}|{scope}",
        count=cap.count,
        per=seconds(cap.per),
        calendar=cap.window == "calendar",
        zone=zone,
    )


def _suppression(offer: OfferSpec) -> Suppression | None:
    """The suppression rule of an offer as counters; None without a rule."""
    rule: SuppressSpec | None = offer.suppress
    if rule is None:
        return None
    name = f"offer:{offer.key}"
    # Nobody reports that an offer was ignored: exposures without an answer are counted from these two counters.
    inferred = rule.outcome == IGNORED
    return Suppression(
        after=rule.after,
        within=seconds(rule.within),
        lasts=seconds(rule.lasts),
        outcome=f"{rule.outcome}|{name}",
        shown=f"{EXPOSURE}|{name}" if inferred else None,
        answered=f"{ANSWERED}|{name}" if inferred else None,
    )

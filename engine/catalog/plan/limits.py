"""How often a customer may meet an offer, compiled: caps as named counters, and which events add to which of them."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from engine.catalog.spec.fields import seconds
from engine.catalog.spec.folder import Specs
from engine.catalog.spec.offer import BudgetSpec, CapSpec, ChannelSpec, OfferSpec, StockSpec, SuppressSpec
from engine.vocabulary import ANSWERED, ANSWERS, CONFIRMS, EXPOSURE, IGNORED, RELEASES


@dataclass(frozen=True, slots=True)
class Cap:
    """At most `count` entries of `counter` in a window of `per` seconds; `zone` None is the customer's."""

    counter: str
    count: int
    per: float
    calendar: bool
    zone: str | None


@dataclass(frozen=True, slots=True)
class Suppression:
    """After `after` outcomes within `within` seconds, nothing for `lasts` seconds.

    `outcome` is the counter of those that were told; where `shown` is set, an exposure that no `answered` followed
    is one too.
    """

    after: int
    within: float
    lasts: float
    outcome: str
    shown: str | None
    answered: str | None


@dataclass(frozen=True, slots=True)
class Limits:
    """All that limits one offer. `caps` and `exposed` (what an exposure adds to) are per channel.

    `names` are what its counters are named after, `heard` the events that concern it after it was shown.
    """

    caps: Mapping[str, tuple[Cap, ...]]
    exposed: Mapping[str, tuple[str, ...]]
    names: tuple[str, ...]
    feedback_events: frozenset[str]
    suppression: Suppression | None
    stock: StockSpec | None
    budget: BudgetSpec | None

    @property
    def all_caps(self) -> frozenset[Cap]:
        """The caps of every channel."""
        return frozenset(cap for caps in self.caps.values() for cap in caps)

    @property
    def read(self) -> frozenset[str]:
        """The counters that may keep the offer from being shown."""
        rule = self.suppression
        told = () if rule is None else (rule.outcome, rule.shown)
        return frozenset((*(cap.counter for cap in self.all_caps), *filter(None, told)))

    @property
    def pools(self) -> tuple[str, ...]:
        """The stock and the budget that must not be empty."""
        stock = () if self.stock is None else (f"stock:{self.stock.sku}",)
        return stock if self.budget is None else (*stock, f"budget:{self.names[0].removeprefix('offer:')}")

    def counters(self, event: str, channel: str | None, watched: Collection[str]) -> list[str]:
        """The counters that an event about the offer adds to."""
        names = (*self.names, f"channel:{channel}", "*")
        found = [f"{event}|{name}" for name in names if f"{event}|{name}" in watched]
        answered = f"{ANSWERED}|{self.names[0]}"
        return [*found, answered] if event in ANSWERS and answered in watched else found


def watched_counters(specs: Specs) -> dict[str, int]:
    """The counters that any rule of the shop reads, and up to how many of each; nothing else is counted."""
    found: dict[str, int] = {}
    caps = [_cap(cap, _scope(cap, None, channel.key)) for channel in specs.channels.channels for cap in channel.caps]
    for offer in specs.offers.values():
        for spec in offer.caps:
            channels = offer.renderings if spec.scope == "channel" else [""]
            caps += [_cap(spec, _scope(spec, offer, channel)) for channel in channels]
        rule = _suppression(offer)
        if rule is not None:
            found |= {name: rule.after for name in (rule.outcome, rule.shown, rule.answered) if name is not None}
    for moment in specs.moments.values():
        if moment.once is not None:
            found[f"{moment.once.event}|moment:{moment.key}"] = 1
    for cap in caps:
        found[cap.counter] = max(cap.count, found.get(cap.counter, 0))
    return found


def compile_limits(specs: Specs, offer: OfferSpec, watched: Collection[str]) -> Limits:
    """What limits an offer, its own rules and those of the channels."""
    names = (
        f"offer:{offer.key}",
        *(f"tag:{tag}" for tag in offer.tags),
        *(f"moment:{moment.key}" for moment in specs.moments.values() if offer.key in moment.offers),
    )
    on = [channel for channel in specs.channels.channels if channel.key in offer.renderings]
    heard = {counter.partition("|")[0] for counter in watched if _concerns(counter, names)} - {EXPOSURE}
    if ANSWERED in heard:
        heard = (heard - {ANSWERED}) | ANSWERS
    if offer.stock or offer.budget:
        heard |= CONFIRMS | RELEASES
    return Limits(
        {channel.key: tuple(_caps(offer, channel)) for channel in on},
        {
            channel.key: tuple(
                counter
                for name in (*names, f"channel:{channel.key}", "*")
                if (counter := f"{EXPOSURE}|{name}") in watched
            )
            for channel in on
        },
        names,
        frozenset(heard),
        _suppression(offer),
        offer.stock,
        offer.budget,
    )


def _concerns(counter: str, names: Iterable[str]) -> bool:
    name = counter.partition("|")[2]
    return name == "*" or name.startswith("channel:") or name in names


def _caps(offer: OfferSpec, channel: ChannelSpec) -> Iterable[Cap]:
    yield from (_cap(cap, _scope(cap, offer, channel.key)) for cap in offer.caps)
    yield from (_cap(cap, _scope(cap, None, channel.key)) for cap in channel.caps)


def _scope(cap: CapSpec, offer: OfferSpec | None, channel: str) -> str:
    if cap.scope == "customer":
        return "*"
    if cap.scope == "tag":
        return f"tag:{cap.tag or (offer.tags[0] if offer else '')}"
    return f"offer:{offer.key}" if offer and cap.scope == "offer" else f"channel:{channel}"


def _cap(cap: CapSpec, name: str) -> Cap:
    zone = None if cap.zone == "customer" else cap.zone
    return Cap(f"{cap.event}|{name}", cap.count, seconds(cap.per), cap.window == "calendar", zone)


def _suppression(offer: OfferSpec) -> Suppression | None:
    rule: SuppressSpec | None = offer.suppress
    if rule is None:
        return None
    seen = rule.outcome == IGNORED
    return Suppression(
        rule.after,
        seconds(rule.within),
        seconds(rule.lasts),
        f"{rule.outcome}|offer:{offer.key}",
        f"{EXPOSURE}|offer:{offer.key}" if seen else None,
        f"{ANSWERED}|offer:{offer.key}" if seen else None,
    )

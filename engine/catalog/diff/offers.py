"""What a change of offers, placements, moments, channels and customers' rules does, field by field."""

from collections.abc import Iterator, Mapping
from typing import Literal

import msgspec

from engine.catalog.spec.folder import Specs
from engine.catalog.spec.offer import SelectionSpec

Safety = Literal["safe", "unsafe"]
FieldChange = tuple[str, Safety, str]
"""The path in the file, the class, and the reason."""

ANEW = "offers are chosen by each request anew"
COUNTED = "what was counted of a customer counts against the new limit"
OFFER: Mapping[str, str] = {
    "title": "words only",
    "caps": COUNTED,
    "suppress": COUNTED,
    "stock": "what is held stays held; the next showing asks the new one",
    "budget": "what was spent or is held counts against the new amount",
}
ZONE = "days, quiet hours and birthdays of customers without a zone of their own begin at another time"
REMOVED = "requests that name it are refused; change the storefronts first"
IDENTITIES: Mapping[str, str] = {
    "merge": "traits are put together otherwise from the next word on",
    "sources": "traits are put together otherwise from the next word on",
    "binds": "identifiers are looked at when they come in again",
    "holds": "identifiers are looked at when they come in again",
    "points_per_unit": "the next orders earn otherwise; points that were earned stay",
    "tiers": "a customer's tier is reckoned when they next earn or lose points",
}


class Change(msgspec.Struct, frozen=True):
    """One thing that differs between two folders."""

    key: str
    path: str
    verdict: Safety = msgspec.field(name="class")
    reason: str
    old: object = None
    new: object = None


def offer_changes(old: Specs, new: Specs) -> Iterator[Change]:
    """Every change from `old` to `new` but those of experiments, layers and holdouts."""
    yield from _selections(old, new)
    for key in sorted({*old.offers, *new.offers}):
        yield from _named(key, "offer", old.offers.get(key), new.offers.get(key), OFFER, ANEW)
    for key in sorted({*old.moments, *new.moments}):
        yield from _named(key, "moments", old.moments.get(key), new.moments.get(key), {}, "each request asks it anew")
    yield from _channels(old, new)
    for key in sorted({*old.segments, *new.segments}):
        reason = "each request asks it anew; experiments that it takes people out of are told apart"
        yield from _named(key, "segments", old.segments.get(key), new.segments.get(key), {}, reason)
    metrics = [{metric.key: metric for metric in specs.metrics.metrics} for specs in (old, new)]
    for key in sorted({*metrics[0], *metrics[1]}):
        reason = "reports count otherwise; nobody moves"
        yield from _named(key, "metrics", metrics[0].get(key), metrics[1].get(key), {}, reason)
    for path, before, after in _fields(old.customers, new.customers):
        yield Change("identities", path, "safe", IDENTITIES.get(path, "holds from the next word on"), before, after)


def _selections(old: Specs, new: Specs) -> Iterator[Change]:
    for key in sorted({*old.selections, *new.selections}):
        before, after = old.selections.get(key), new.selections.get(key)
        if before is None or after is None:
            reason = "its placement has a new way to choose" if before is None else "what it learnt is left aside"
            yield Change(key, "", "safe" if before is None else "unsafe", reason)
            continue
        for path, verdict, reason in _selection(old, new, before, after):
            yield Change(key, path, verdict, reason, *(_plain(getattr(spec, path)) for spec in (before, after)))


def _selection(old: Specs, new: Specs, before: SelectionSpec, after: SelectionSpec) -> Iterator[FieldChange]:
    one, two = before.policy, after.policy
    if (one.kind, one.features, one.pool, one.attributes) != (two.kind, two.features, two.pool, two.attributes):
        yield "policy", "unsafe", "what it learnt does not fit the new one, which starts from its prior"
    elif one != two:
        yield "policy", "safe", "it learns or explores otherwise from now on and keeps what it learnt"
    same = old.metric(before.reward.metric) == new.metric(after.reward.metric)
    if before.reward != after.reward or not same:
        reason = "rewards are waited for otherwise" if same else "it has learnt for another reward"
        yield "reward", "safe" if same else "unsafe", reason
    if before.offers != after.offers:
        yield "offers", "safe", "new offers start from the prior, the others keep what was learnt"
    for field in ("placement", "channels", "fallback", "weights", "arbitration"):
        if getattr(before, field) != getattr(after, field):
            yield field, "unsafe" if field == "placement" else "safe", ANEW


def _channels(old: Specs, new: Specs) -> Iterator[Change]:
    if old.channels.zone != new.channels.zone:
        yield Change("channels", "zone", "safe", ZONE, old.channels.zone, new.channels.zone)
    channels = [{channel.key: channel for channel in specs.channels.channels} for specs in (old, new)]
    for key in sorted({*channels[0], *channels[1]}):
        yield from _named(key, "channels", channels[0].get(key), channels[1].get(key), {"caps": COUNTED}, ANEW, REMOVED)
    places = [{place.key: place for place in specs.channels.placements} for specs in (old, new)]
    for key in sorted({*places[0], *places[1]}):
        before, after = places[0].get(key), places[1].get(key)
        if before is not None and after is not None and not {*before.channels} <= {*after.channels}:
            yield Change(key, "placements.channels", "unsafe", REMOVED, before.channels, after.channels)
        else:
            yield from _named(key, "placements", before, after, {}, ANEW, REMOVED)


def _named(
    key: str,
    place: str,
    before: msgspec.Struct | None,
    after: msgspec.Struct | None,
    reasons: Mapping[str, str],
    otherwise: str,
    removed: str | None = None,
) -> Iterator[Change]:
    """The changes of what stands under one key; where `removed` says what it does to lose it, that is unsafe."""
    if before is None:
        yield Change(key, place, "safe", f"new; {otherwise}")
    elif after is None:
        yield Change(key, place, "unsafe" if removed else "safe", f"removed; {removed or otherwise}")
    else:
        for path, one, two in _fields(before, after):
            yield Change(key, f"{place}.{path}", "safe", reasons.get(path, otherwise), one, two)


def _fields(before: msgspec.Struct, after: msgspec.Struct) -> Iterator[tuple[str, object, object]]:
    for field in type(before).__struct_fields__:
        one, two = getattr(before, field), getattr(after, field)
        if one != two:
            yield field, _plain(one), _plain(two)


def _plain(value: object) -> object:
    return msgspec.to_builtins(value)

"""Classifies a change of offers, placements, moments, channels, metrics and identities, field by field."""

from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

import msgspec

from engine.catalog.spec.experiment import PolicySpec
from engine.catalog.spec.folder import Specs
from engine.catalog.spec.offer import OfferSpec, SelectionSpec

Safety = Literal["safe", "unsafe"]
FieldChange = tuple[str, Safety, str]
"""The path in the file, the class of the change, and its reason."""

PER_REQUEST = "each request chooses its offers independently"
COUNTED = "existing counts of a customer apply to the new limit"
OFFER: Mapping[str, str] = {
    "title": "text only",
    "caps": COUNTED,
    "suppress": COUNTED,
    "stock": "reservations stay; the next showing uses the new stock",
    "exclusive": "each answer combines offers by the new groups",
    "coupons": "codes that customers have stay theirs",
    "budget": "what was spent or is reserved counts against the new amount; new periods begin with nothing spent",
}
ZONE = "days, quiet hours and birthdays of customers without a time zone of their own begin at another time"
REMOVED = "requests that name it are rejected; change the storefronts first"
STAGES = "each request reads the stage by the new threshold; audiences that ask for it reach others"
NEXT_EVENT = "applies from the next event on"
IDENTITIES: Mapping[str, str] = {
    "merge": "the next event merges traits by the new rule",
    "sources": "the next event merges traits by the new order",
    "binds": "an identifier is checked when it is next received",
    "holds": "an identifier is checked when it is next received",
    "placeholders": "a value is judged when it is next received; what it joined before stays joined",
    "points_per_unit": "the next orders earn by the new rate; earned points stay",
    "tiers": "a customer's tier is computed when they next earn or lose points",
}


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One difference between two folders; an empty `path` is the whole entry `key`."""

    key: str
    path: str
    verdict: Safety = msgspec.field(name="class")
    reason: str
    old: object = None
    new: object = None


class _Reasons(NamedTuple):
    """The reasons why changes of one kind of entry are safe, and the effect of removing an entry."""

    default: str
    by_field: Mapping[str, str] = {}
    removed: str | None = None
    """Set where removing the entry is unsafe."""


OFFER_REASONS = _Reasons(PER_REQUEST, OFFER)
MOMENT_REASONS = _Reasons("each request evaluates it")
CAMPAIGN_REASONS = _Reasons(
    "messages already chosen for a day stay; the next day uses the change",
    {"policy": "of another kind or other features it starts from its prior"},
)
BUDGET_REASONS = _Reasons(OFFER["budget"])
SEGMENT_REASONS = _Reasons("each request evaluates it; experiments that it removes people from are listed separately")
TRAIT_REASONS = _Reasons(
    "its window begins empty at each customer; `counterpoint traits backfill` fills it from the log"
)
METRIC_REASONS = _Reasons("reports count by the new definition; no customer changes variant")
CHANNEL_REASONS = _Reasons(PER_REQUEST, {"caps": COUNTED}, REMOVED)
PLACE_REASONS = _Reasons("its stock stays; the next showing goes by the new places")
PLACEMENT_REASONS = _Reasons(PER_REQUEST, removed=REMOVED)


def offer_changes(old: Specs, new: Specs) -> Iterator[Change]:
    """Yield every change from `old` to `new` except those of experiments, layers and holdouts."""
    yield from _compare_selections(old, new)
    yield from _compare_entries("offer", old.offers, new.offers, OFFER_REASONS)
    yield from _compare_entries("moments", old.moments, new.moments, MOMENT_REASONS)
    yield from _compare_entries("campaigns", old.campaigns, new.campaigns, CAMPAIGN_REASONS)
    yield from _compare_entries("budgets", old.budgets, new.budgets, BUDGET_REASONS)
    yield from _compare_channels(old, new)
    yield from _compare_entries("segments", old.segments, new.segments, SEGMENT_REASONS)
    for path, before, after in _compare_fields(old.grouping.stages, new.grouping.stages):
        yield Change(key="segments", path=f"stages.{path}", verdict="safe", reason=STAGES, old=before, new=after)
    if old.grouping.rfm != new.grouping.rfm:
        yield Change(key="segments", path="rfm", verdict="safe", reason="`measure rfm` sorts by the new segments")
    places = [{place.key: place for place in specs.places} for specs in (old, new)]
    yield from _compare_entries("places", places[0], places[1], PLACE_REASONS)
    yield from _compare_entries("traits", old.traits.traits, new.traits.traits, TRAIT_REASONS)
    metrics = [{metric.key: metric for metric in specs.metrics.metrics} for specs in (old, new)]
    yield from _compare_entries("metrics", metrics[0], metrics[1], METRIC_REASONS)
    yield from _compare_money(old, new)
    for path, before, after in _compare_fields(old.customers, new.customers):
        reason = IDENTITIES.get(path, NEXT_EVENT)
        yield Change(key="identities", path=path, verdict="safe", reason=reason, old=before, new=after)


def _compare_money(old: Specs, new: Specs) -> Iterator[Change]:
    """Yield changes of the shop's currency and of exchange rates."""
    before, after = old.metrics, new.metrics
    if before.currency != after.currency:
        yield Change(
            key="metrics",
            path="currency",
            verdict="unsafe",
            reason=f"amounts that are stored and learnt stay in {before.currency} and are added to those to come",
            old=before.currency,
            new=after.currency,
        )
    for code in sorted({*before.rates, *after.rates}):
        rates = before.rates.get(code), after.rates.get(code)
        if rates[0] != rates[1]:
            reason = f"events in {code} are rejected" if rates[1] is None else "applies to events from now on"
            yield Change(key="metrics", path=f"rates.{code}", verdict="safe", reason=reason, old=rates[0], new=rates[1])


def _compare_selections(old: Specs, new: Specs) -> Iterator[Change]:
    """Yield the changes of selections, by key."""
    for key in sorted({*old.selections, *new.selections}):
        before, after = old.selections.get(key), new.selections.get(key)
        if before is None:
            yield Change(key=key, path="", verdict="safe", reason="its placement has a new way to choose")
        elif after is None:
            yield Change(key=key, path="", verdict="unsafe", reason="what its policy has learnt is discarded")
        else:
            for path, verdict, reason in _compare_selection(old, new, before, after):
                old_value, new_value = _to_plain(getattr(before, path)), _to_plain(getattr(after, path))
                yield Change(key=key, path=path, verdict=verdict, reason=reason, old=old_value, new=new_value)
            if before.offers == after.offers:
                yield from _compare_items(key, old.items_of(before.offers), new.items_of(after.offers))


def _compare_items(key: str, before: Mapping[str, OfferSpec], after: Mapping[str, OfferSpec]) -> Iterator[Change]:
    """Yield a change of the items of a selection's feed."""
    if before == after:
        return
    added = len(after.keys() - before.keys())
    changed = sum(after[name] != before[name] for name in after.keys() & before.keys())
    sizes = [f"{len(items)} item{'' if len(items) == 1 else 's'}" for items in (before, after)]
    new = f"{sizes[1]}, {added} added, {len(before) + added - len(after)} removed, {changed} changed"
    yield Change(key=key, path="feed", verdict="safe", reason=PER_REQUEST, old=sizes[0], new=new)


def _compare_selection(old: Specs, new: Specs, before: SelectionSpec, after: SelectionSpec) -> Iterator[FieldChange]:
    """Yield the changes of one selection; losing its placement or its learnt state is unsafe."""
    one, two = before.policy, after.policy
    if _learns_as(one) != _learns_as(two):
        yield "policy", "unsafe", "its learnt state does not fit the new policy, which starts from its prior"
    elif one != two:
        yield "policy", "safe", "it learns or explores differently from now on and keeps its learnt state"
    if before.creatives != after.creatives:
        chosen = [spec.creatives or spec.policy for spec in (before, after)]
        is_new = _learns_as(chosen[0]) != _learns_as(chosen[1])
        reason = "what is learnt of creatives does not fit the new policy" if is_new else "it keeps its learnt state"
        yield "creatives", "unsafe" if is_new else "safe", reason
    same = old.metric(before.reward.metric) == new.metric(after.reward.metric)
    if before.reward != after.reward or not same:
        reason = "rewards have another window" if same else "its learnt state is of another reward"
        yield "reward", "safe" if same else "unsafe", reason
    if before.offers != after.offers:
        yield "offers", "safe", "new offers start from the prior, the others keep their learnt state"
    for field in ("placement", "channels", "fallback", "count", "claims", "silence", "weights", "arbitration"):
        if getattr(before, field) != getattr(after, field):
            yield field, "unsafe" if field == "placement" else "safe", PER_REQUEST


def _learns_as(policy: PolicySpec) -> tuple[object, ...]:
    """The fields on which a policy's learnt state depends."""
    return policy.kind, policy.features, policy.pool, policy.attributes


def _compare_channels(old: Specs, new: Specs) -> Iterator[Change]:
    """Yield the changes of the default time zone, of channels and of placements."""
    zones = old.channels.zone, new.channels.zone
    if zones[0] != zones[1]:
        yield Change(key="channels", path="zone", verdict="safe", reason=ZONE, old=zones[0], new=zones[1])
    languages = old.channels.language, new.channels.language
    if languages[0] != languages[1]:
        reason = "customers whose language an offer does not speak see another one"
        yield Change(key="channels", path="language", verdict="safe", reason=reason, old=languages[0], new=languages[1])
    if old.channels.suppress != new.channels.suppress:
        before, after = _to_plain(old.channels.suppress), _to_plain(new.channels.suppress)
        yield Change(key="channels", path="suppress", verdict="safe", reason=PER_REQUEST, old=before, new=after)
    if old.channels.stacking != new.channels.stacking:
        rules = _to_plain(old.channels.stacking), _to_plain(new.channels.stacking)
        reason = "orders of which nothing was redeemed yet follow the new rules"
        yield Change(key="channels", path="stacking", verdict="safe", reason=reason, old=rules[0], new=rules[1])
    channels = [{channel.key: channel for channel in specs.channels.channels} for specs in (old, new)]
    yield from _compare_entries("channels", channels[0], channels[1], CHANNEL_REASONS)
    places = [{place.key: place for place in specs.channels.placements} for specs in (old, new)]
    for key in sorted({*places[0], *places[1]}):
        before, after = places[0].get(key), places[1].get(key)
        if before is not None and after is not None and not {*before.channels} <= {*after.channels}:
            yield Change(
                key=key,
                path="placements.channels",
                verdict="unsafe",
                reason=REMOVED,
                old=before.channels,
                new=after.channels,
            )
        else:
            yield from _compare_entry(key, "placements", before, after, PLACEMENT_REASONS)


def _compare_entries(
    place: str, old: Mapping[str, msgspec.Struct], new: Mapping[str, msgspec.Struct], reasons: _Reasons
) -> Iterator[Change]:
    """Yield the changes of all entries of one kind, in key order; `place` begins their paths."""
    for key in sorted({*old, *new}):
        yield from _compare_entry(key, place, old.get(key), new.get(key), reasons)


def _compare_entry(
    key: str, place: str, before: msgspec.Struct | None, after: msgspec.Struct | None, reasons: _Reasons
) -> Iterator[Change]:
    """Yield the changes of one entry; it is None on the side that lacks it."""
    if before is None:
        yield Change(key=key, path=place, verdict="safe", reason=f"new; {reasons.default}")
    elif after is None:
        verdict: Safety = "unsafe" if reasons.removed else "safe"
        yield Change(key=key, path=place, verdict=verdict, reason=f"removed; {reasons.removed or reasons.default}")
    else:
        for path, old_value, new_value in _compare_fields(before, after):
            reason = reasons.by_field.get(path, reasons.default)
            yield Change(key=key, path=f"{place}.{path}", verdict="safe", reason=reason, old=old_value, new=new_value)


def _compare_fields(before: msgspec.Struct, after: msgspec.Struct) -> Iterator[tuple[str, object, object]]:
    """Yield the name of each changed field, with its old and new value."""
    for field in type(before).__struct_fields__:
        old_value, new_value = getattr(before, field), getattr(after, field)
        if old_value != new_value:
            yield field, _to_plain(old_value), _to_plain(new_value)


def _to_plain(value: object) -> object:
    """The value in JSON form."""
    return msgspec.to_builtins(value)

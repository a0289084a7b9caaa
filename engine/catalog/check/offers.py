"""Checks offers, channels and moments: equal prices on every channel, limits that can apply, and defined names."""

import re
from collections.abc import Iterable, Iterator, Mapping
from zoneinfo import ZoneInfo

from engine.catalog.check.budgets import check_budget
from engine.catalog.check.decode import FieldProblem, find_problems
from engine.catalog.check.defined_names import DefinedNames, check_defined
from engine.catalog.check.policies import policy_problems
from engine.catalog.plan.compile_offers import list_length
from engine.catalog.plan.creatives import each_rendering, shown_of
from engine.catalog.plan.languages import is_language
from engine.catalog.spec.fields import Key, seconds
from engine.catalog.spec.folder import Specs
from engine.catalog.spec.limits.caps import CapSpec
from engine.catalog.spec.limits.stock import StockSpec
from engine.catalog.spec.offer import OfferSpec, OffersSpec, Renderings, SelectionSpec, TaggedOffers, TriggerSpec
from engine.catalog.spec.segments import segments_in
from engine.errors import Problem
from engine.vocabulary import DAY, SILENCE

TERMS = (
    "price",
    "currency",
    "discount",
    "percent",
    "percentage",
    "valid_from",
    "valid_until",
    "valid_to",
    "until",
    "expires",
    "start",
    "end",
)
"""The keys that must be equal in all renderings of one offer."""
LEGAL = ("terms", "legal", "small_print", "disclaimer")
"""The keys whose texts must be equal in all renderings of one language, and have the same numbers in any other."""
_NUMBER = r"\d{1,6}(?:[.,]\d{1,2})?"
_COINS = "€|£|[$]|EUR|USD|GBP|CHF"
PROMISED = {
    "percentage": re.compile(rf"(?<![\d.,])({_NUMBER})\s?(?:%|percent|per cent|Prozent|pour cent|por ciento)"),
    "price": re.compile(rf"(?:{_COINS})\s?({_NUMBER})(?![\d%])|(?<![\d.,])({_NUMBER})\s?(?:{_COINS})"),
    "day": re.compile(r"(?<!\d)(\d{4}-\d\d?-\d\d?|\d\d?\.\d\d?\.\d{4})(?!\d)"),
}
"""The promises in the texts of a rendering, as `check` finds them."""
COMPLAINT_OPEN = "complaint_open"
"""The attribute of a customer that `suppress` may name beside segments."""
CALENDAR = ("1d", "7d", "30d", "365d")
LONGEST = 400 * DAY
"""The counts of a customer are stored for so many seconds; no rule can look back further."""


def offer_problems(specs: Specs, known: DefinedNames) -> Iterator[Problem]:
    """Yield the problems of offers, channels, moments and policies."""
    for offer in specs.offers.values():
        file = f"{specs.folder}/offers/{offer.key}.yaml"
        yield from (Problem(file, *found) for found in _check_offer(offer))
        yield from (Problem(file, *found) for found in check_budget(specs, offer, known))
        if offer.stock is not None:
            yield from (Problem(file, *found) for found in _check_stock("stock", offer.stock, known))
    for found in (*_check_channels(specs), *_check_silence(specs, known), *_check_stacking(specs, known)):
        yield Problem(f"{specs.folder}/channels.yaml", *found)
    yield from (Problem(f"{specs.folder}/moments.yaml", *found) for found in _check_moments(specs, known))
    for selection in specs.selections.values():
        yield from (Problem(specs.files[selection.key], *found) for found in _check_weights(specs, selection, known))
        yield from (Problem(specs.files[selection.key], *found) for found in _check_list(specs, selection))
        if isinstance(selection.offers, OffersSpec) and selection.offers.stock is not None:
            stock = _check_stock("offers.stock", selection.offers.stock, known)
            yield from (Problem(specs.files[selection.key], *found) for found in stock)
    for at, place in enumerate(specs.places):
        if place.key in {one.key for one in specs.places[:at]}:
            message = f"{place.key!r} is given twice; give each place its own key"
            yield Problem(f"{specs.folder}/places.yaml", f"places[{at}].key", message)
    yield from policy_problems(specs, known)


def _check_offer(offer: OfferSpec) -> Iterator[FieldProblem]:
    """Yield the problems of one offer: limits that cannot apply, and contradictory renderings."""
    if offer.key == SILENCE:
        yield "key", f"{SILENCE!r} is the log's name for deliberate silence; give the offer another key"
    for index, cap in enumerate(offer.caps):
        yield from _check_cap(f"caps[{index}]", cap, offer.tags)
    if offer.suppress and seconds(offer.suppress.within) + seconds(offer.suppress.lasts) > LONGEST:
        yield "suppress", "looks back further than 400 days, after which counts are deleted; shorten within or for"
    yield from _check_pace(offer)
    malformed = list(check_renderings("renderings", offer.renderings))
    yield from malformed or _check_terms(offer)


def _check_pace(offer: OfferSpec) -> Iterator[FieldProblem]:
    """Yield a pace of a stock without an end."""
    if offer.stock and offer.stock.pace and offer.end is None:
        yield "stock.pace", "needs a time over which to spread it; give the offer an end"


def check_renderings(place: str, renderings: Renderings) -> Iterator[FieldProblem]:
    """Yield creatives without a unique key, and renderings that are only partly by language."""
    for channel, one in renderings.items():
        path = f"{place}.{channel}"
        if not isinstance(one, list):
            yield from _check_languages(path, one)
            continue
        keys = [creative.get("key") for creative in one]
        for at, creative in enumerate(one):
            yield from _check_creative(f"{path}[{at}]", creative, keys[:at])
            yield from _check_languages(f"{path}[{at}]", shown_of(creative))


def _check_creative(path: str, creative: Mapping[str, object], before: list[object]) -> Iterator[FieldProblem]:
    """Yield the problems of a creative's key and attributes; `before` are the keys of earlier creatives."""
    key, attributes = creative.get("key"), creative.get("attributes")
    if key is None:
        yield f"{path}.key", "is missing; name the creative, such as photo: reports and policies know it by that"
        return
    yield from find_problems(key, Key, f"{path}.key")
    if key in before:
        yield f"{path}.key", f"{key!r} is the key of another creative of the channel; give each its own"
    if attributes is not None:
        yield from find_problems(attributes, dict[Key, str | float | bool], f"{path}.attributes")


def _check_terms(offer: OfferSpec) -> Iterator[FieldProblem]:
    """Yield terms that differ between the channels, creatives and languages of an offer.

    Legal texts are compared within a language; of two languages their numbers are.
    """
    first: dict[tuple[str, ...], tuple[str, object]] = {}
    for place, language, one in each_rendering(offer.renderings):
        for name in (*TERMS, *LEGAL):
            if name not in one:
                continue
            value = one[name]
            known = {(name,): _numbers_in(value), (name, language): value} if name in LEGAL else {(name,): value}
            for compared, each in known.items():
                other, expected = first.setdefault(compared, (place, each))
                if expected != each:
                    difference = f"{value!r} here is {expected!r} on {other}"
                    if len(compared) == 1 and name in LEGAL:
                        difference = f"the numbers {each!r} here are {expected!r} on {other}"
                    yield (
                        f"renderings.{place}.{name}",
                        f"{difference}; one offer has the same {name} on every channel and language, in every creative",
                    )
                    break


def _numbers_in(value: object) -> str:
    """The numbers in a text, in order, whatever separates their digits."""
    return " ".join(re.sub(r"[.,]", "", found) for found in re.findall(r"\d[\d.,]*\d|\d", str(value)))


def find_unlike_terms(specs: Specs) -> Iterator[Problem]:
    """Yield offers whose texts promise different percentages, prices or days on two channels or languages."""
    for offer in specs.offers.values():
        first: dict[str, tuple[str, set[str]]] = {}
        for place, _, one in each_rendering(offer.renderings):
            texts = " ".join(text for name, text in _texts_of(one) if name not in (*TERMS, *LEGAL))
            for what, pattern in PROMISED.items():
                found = {_normalize_term("".join(parts)) for parts in pattern.findall(texts)}
                if not found:
                    continue
                other, expected = first.setdefault(what, (place, found))
                if found != expected:
                    here, there = (", ".join(sorted(each)) for each in (found, expected))
                    path, file = f"renderings.{place}", f"{specs.folder}/offers/{offer.key}.yaml"
                    message = f"promises the {what} {here}, and {other} promises {there}; is it the same offer?"
                    yield Problem(file, path, message)


def _normalize_term(text: str) -> str:
    """The comparable form of a price, percentage or day: `12,50` is `12.5`, `1.12.2026` is `2026-12-1`."""
    days = [part.lstrip("0") for part in re.split(r"[-./]", text)]
    if len(days) == 3:
        return "-".join(days if len(days[0]) == 4 else reversed(days))
    return f"{float(text.replace(',', '.')):g}"


def _texts_of(value: object, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield the texts of a rendering at any depth, each with its key."""
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from _texts_of(part, str(key))
    elif isinstance(value, list):
        for part in value:
            yield from _texts_of(part, name)


def _check_stock(path: str, stock: StockSpec, known: DefinedNames) -> Iterator[FieldProblem]:
    """Yield the problems of a stock: keys that need a stock by place, and undefined places."""
    if stock.by is None:
        for name in ("within", "places"):
            if getattr(stock, name) is not None:
                yield f"{path}.{name}", "applies only to a stock by place; add 'by: pick_up' or 'by: ship'"
        return
    if stock.pace:
        yield f"{path}.pace", "spreads one stock over time, not that of each place; remove it, or remove by"
    if known.places is not None and not known.places:
        yield f"{path}.by", "needs places; list them in places.yaml"
        return
    for at, key in enumerate(stock.places or []):
        yield from check_defined(f"{path}.places[{at}]", key, known.places, "places.yaml")


def _check_languages(path: str, rendering: Mapping[str, object]) -> Iterator[FieldProblem]:
    """Yield a rendering that is only partly by language: every customer would get its languages as fields."""
    spoken = [key for key, value in rendering.items() if is_language(key) and isinstance(value, Mapping)]
    others = [key for key in rendering if key not in spoken]
    for key, value in rendering.items():
        if is_language(key) and isinstance(value, list):
            yield f"{path}.{key}", "is a list; give the creatives as a list, and in each of them the languages"
    if len(spoken) > 1 and others:
        languages = " and ".join(spoken)
        yield path, f"has {languages} beside {others[0]!r}; repeat it in each language, or give no language"


def _check_cap(path: str, cap: CapSpec, tags: Iterable[str] | None) -> Iterator[FieldProblem]:
    """Yield the problems of one cap; `tags` are its offer's tags, None for a channel's cap."""
    if cap.window == "calendar" and cap.per not in CALENDAR:
        yield (
            f"{path}.per",
            f"{cap.per!r} is not a calendar window; use one of {', '.join(CALENDAR)}, or window: rolling",
        )
    if seconds(cap.per) > LONGEST:
        yield f"{path}.per", f"{cap.per!r} is longer than 400 days, after which counts are deleted; shorten it"
    if cap.scope == "tag" and cap.tag is None and not (tags and len(list(tags)) == 1):
        yield f"{path}.tag", "is missing; name the tag whose offers this cap counts"
    if cap.scope != "tag" and cap.tag is not None:
        yield f"{path}.tag", f"{cap.tag!r} has no effect; add 'scope: tag' or remove it"
    yield from check_zone(f"{path}.zone", cap.zone, customer=True)


def _check_channels(specs: Specs) -> Iterator[FieldProblem]:
    """Yield the problems of the channels' time zones, caps and quiet hours."""
    yield from check_zone("zone", specs.channels.zone, customer=False)
    if specs.channels.language is not None and not is_language(specs.channels.language):
        yield "language", f"{specs.channels.language!r} is not a language; write a code of ISO 639-1 such as de"
    for index, channel in enumerate(specs.channels.channels):
        path = f"channels[{index}]"
        for at, cap in enumerate(channel.caps):
            yield from _check_cap(f"{path}.caps[{at}]", cap, None)
            if cap.scope == "tag" and cap.tag is None:
                yield f"{path}.caps[{at}].tag", "is missing; name the tag whose offers this cap counts"
        for name in ("capacity", "address"):
            if getattr(channel, name) and not channel.outbound:
                message = "is of channels that write to customers; add 'outbound: true', or leave it out"
                yield f"{path}.{name}", message
        if channel.quiet and not channel.outbound:
            yield f"{path}.quiet", "quiet hours need a channel that writes to customers; add 'outbound: true'"
        if channel.quiet:
            yield from check_zone(f"{path}.quiet.zone", channel.quiet.zone, customer=True)
            if channel.quiet.start == channel.quiet.end:
                yield f"{path}.quiet.to", f"{channel.quiet.end!r} is also their start; give them another end"


def check_zone(path: str, zone: str, *, customer: bool) -> Iterator[FieldProblem]:
    """Yield the problem of a name that is not a time zone; `customer` allows the customer's own."""
    if zone == "customer" and customer:
        return
    try:
        ZoneInfo(zone)
    except (OSError, ValueError, KeyError):
        remedy = "use a name such as Europe/Berlin" + (", or customer" if customer else "")
        yield path, f"{zone!r} is not a time zone; {remedy}"


def _check_moments(specs: Specs, known: DefinedNames) -> Iterator[FieldProblem]:
    """Yield the problems of moments: undefined names, and channels on which none of their offers can be shown."""
    placements: Mapping[str, list[str]] = {p.key: p.channels for p in specs.channels.placements}
    for index, moment in enumerate(specs.moments.values()):
        path = f"moments[{index}]"
        yield from ((f"{path}.trigger", message) for message in _check_trigger(moment.trigger))
        for at, key in enumerate(moment.placements):
            yield from check_defined(f"{path}.placements[{at}]", key, known.placements, "channels.yaml")
        for at, key in enumerate(moment.channels or []):
            yield from check_defined(f"{path}.channels[{at}]", key, known.channels, "channels.yaml")
        for at, key in enumerate(moment.offers):
            yield from check_defined(f"{path}.offers[{at}]", key, known.offers, "offers/")
        shown_on = {channel for key in moment.placements for channel in placements.get(key, [])}
        for channel in sorted(shown_on.intersection(moment.channels or shown_on)):
            offers = [specs.offers[key] for key in moment.offers if key in specs.offers]
            if (
                moment.channels
                and len(offers) == len(moment.offers)
                and not any(channel in offer.renderings for offer in offers)
            ):
                yield f"{path}.offers", f"none has a rendering for {channel}; add one, or remove {channel}"


def _check_trigger(trigger: TriggerSpec) -> Iterator[str]:
    """Yield the problems of a trigger."""
    given = [name for name in ("event", "date", "when") if getattr(trigger, name)]
    if len(given) != 1:
        yield f"has {' and '.join(given) or 'no condition'}; give one of event, date and when"
    if trigger.unless and trigger.event is None:
        yield "has unless without an event that it can follow; give the event, or remove unless"


def _check_silence(specs: Specs, known: DefinedNames) -> Iterator[FieldProblem]:
    """Yield undefined names in the shop's `suppress`."""
    silence = specs.channels.suppress
    if silence is None:
        return
    segments = [silence.when] if isinstance(silence.when, str) else segments_in(silence.when)
    for name in segments:
        if name != COMPLAINT_OPEN:
            yield from check_defined("suppress.when", name, known.conditions, "the conditions of segments.yaml")
    named = {name for offer in specs.offers.values() for name in (offer.key, *offer.tags)}
    for at, name in enumerate(silence.spared):
        if known.has_all_offers:
            yield from check_defined(f"suppress.except[{at}]", name, sorted(named), "offers/, as a key or a tag")


def _check_stacking(specs: Specs, known: DefinedNames) -> Iterator[FieldProblem]:
    """Yield the names in the rules of `stacking` that name no offer and no tag."""
    for at, rule in enumerate(specs.channels.stacking if known.has_all_offers else ()):
        if isinstance(rule.offers, TaggedOffers):
            tags = sorted({tag for offer in specs.every_offer() for tag in offer.tags})
            yield from check_defined(f"stacking[{at}].offers.tagged", rule.offers.tagged, tags, "the tags of offers/")
        elif isinstance(rule.offers, list):
            keys = sorted(specs.offers)
            for place, name in enumerate(rule.offers):
                yield from check_defined(f"stacking[{at}].offers[{place}]", name, keys, "offers/")


def _check_list(specs: Specs, spec: SelectionSpec) -> Iterator[FieldProblem]:
    """Yield the problems of a list: shares of positions that it lacks, a length that its offers cannot fill."""
    count, shares = list_length(specs, spec), spec.reward.examination
    if not any(place.key == spec.placement for place in specs.channels.placements):
        return  # which is another problem
    if shares != "learnt" and len(shares) != count:
        yield (
            "reward.examination",
            f"has {len(shares)} shares for {count} positions; give one for each, or 'learnt'",
        )
    if count == 1 and spec.claims == "all":
        yield "claims", "'all' has no effect on a single offer; give a count above 1, or remove it"
    if count > 1 and spec.claims == "all" and isinstance(spec.offers, list) and len(spec.offers) < count:
        yield (
            "count",
            f"{count} is more than its {len(spec.offers)} offers, so 'claims: all' never shows a list; lower it",
        )


def _check_weights(specs: Specs, spec: SelectionSpec, known: DefinedNames) -> Iterator[FieldProblem]:
    """Yield offers in context weights that are not in their placement."""
    named = spec.offers
    for index, weight in enumerate(spec.weights):
        path = f"weights[{index}].offers"
        if isinstance(weight.offers, TaggedOffers):
            if known.has_all_offers and not any(weight.offers.tagged in offer.tags for offer in specs.offers.values()):
                yield f"{path}.tagged", f"no offer has the tag {weight.offers.tagged!r}; tag one in offers/"
            continue
        tagged = [] if isinstance(named, list) else [o.key for o in specs.offers.values() if named.tagged in o.tags]
        here = named if isinstance(named, list) else tagged if known.has_all_offers else None
        for at, key in enumerate(weight.offers):
            yield from check_defined(f"{path}[{at}]", key, here, "the offers of this placement")

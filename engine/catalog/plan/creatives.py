"""Creatives: several renderings of one offer on one channel, from which a policy chooses after the offer.

`{web: [{key: photo, headline: …}, {key: text, headline: …}]}` has two. Of each the engine reads `key` and `attributes`;
the rest is what the storefront receives, by language where all of it is (`{key: photo, de: {…}, en: {…}}`).

The policy of a placement's creatives is a selection of its own, `home_hero#creatives`, whose arms are
`OFFER/CREATIVE`. An arm is one creative on all channels that have it, as an offer is.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import msgspec

from engine.catalog.plan.languages import NO_LANGUAGES, Rendering, split_languages
from engine.catalog.spec.offer import OWN_OF_CREATIVE, OfferSpec, Renderings

CREATIVES = "#creatives"
"""The end of the key of a selection that chooses creatives; no other key contains `#` and this word."""


@dataclass(frozen=True, slots=True)
class Creative:
    """One creative: the fields that the storefront receives, or its `languages` by tag if it is by language."""

    key: str
    rendering: Rendering
    languages: Mapping[str, Rendering]


class DrawnCreative(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An offer's drawn creative; `propensity` is its probability given the offer, `policy` None if none learns."""

    key: str
    propensity: float
    candidates: list[str]
    probabilities: list[float]
    policy: str | None = None


NO_CREATIVES: Mapping[str, tuple[Creative, ...]] = {}


def compile_creatives(renderings: Renderings) -> Mapping[str, tuple[Creative, ...]]:
    """The creatives of each channel that has several."""
    found = {channel: tuple(map(_compile, one)) for channel, one in renderings.items() if isinstance(one, list)}
    return found or NO_CREATIVES


def creative_arm(offer: str, creative: str) -> str:
    """The arm of a creative in its placement's policy of creatives; keys contain no slash."""
    return f"{offer}/{creative}"


def creatives_of(offer: OfferSpec) -> dict[str, OfferSpec]:
    """An offer's creatives on all channels by key, each as an offer with the attributes of both."""
    attributes: dict[str, dict[str, str | float | bool]] = {}
    for one in offer.renderings.values():
        for each in one if isinstance(one, list) else ():
            own = each.get("attributes")
            attributes.setdefault(str(each.get("key")), {}).update(own if isinstance(own, dict) else {})
    return {
        key: OfferSpec(
            key=offer.key, tags=offer.tags, value=offer.value, attributes=offer.attributes | own, renderings={"": {}}
        )
        for key, own in attributes.items()
    }


def each_rendering(renderings: Renderings) -> Iterator[tuple[str, str, Rendering]]:
    """Yield the path, language (if any) and fields of everything that customers may see of an offer."""
    for channel, one in renderings.items():
        listed = (
            [(channel, one)] if not isinstance(one, list) else [(f"{channel}[{at}]", own) for at, own in enumerate(one)]
        )
        for path, rendering in listed:
            shown = rendering if path == channel else shown_of(rendering)
            spoken = split_languages(shown)
            yield from ((f"{path}.{tag}", tag, each) for tag, each in spoken.items())
            if not spoken:
                yield path, "", shown


def shown_of(creative: Rendering) -> Rendering:
    """A creative's fields without those that only the engine reads."""
    return {name: value for name, value in creative.items() if name not in OWN_OF_CREATIVE}


def _compile(creative: Rendering) -> Creative:
    shown = shown_of(creative)
    return Creative(str(creative["key"]), shown, split_languages(shown) or NO_LANGUAGES)

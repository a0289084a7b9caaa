"""The answer of a placement to the storefront: the offer or the list that it shows, in the customer's language."""

from collections.abc import Collection, Mapping
from datetime import UTC, datetime

import msgspec

from engine.catalog.plan.creatives import Creative, DrawnCreative
from engine.catalog.plan.languages import choose_language, preferred_languages
from engine.catalog.plan.places import NearPlace
from engine.catalog.plan.plan import Offer, Plan
from engine.catalog.spec.limits.stock import HandOver
from engine.decision.gating.facts import Facts
from engine.decision.gating.gates import is_capped
from engine.decision.offers import Choice, LostClaims, OfferReason


class PlaceAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The place that hands an offer's item over, and the way in which it does.

    `km` is its distance from the request, where that has a position. It is reserved for `hold` once the offer is
    exposed.
    """

    key: str
    by: HandOver
    hold: str
    title: str | None = None
    address: str | None = None
    latitude: float
    longitude: float
    km: float | None = None


class OfferAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The offer to show and its rendering for the channel.

    There is none in the quiet hours of an outbound channel (`not_before` says when to ask again) nor past its caps,
    and none where another placement of the answer shows the fallback already.

    A placement that shows several has them under `items`, the first position first, in the place of an offer and a
    rendering. The propensity of an item is the probability of its offer given those above it, and that of the whole is
    the probability of the list. The list is empty where nothing is shown. `language` is that of the rendering, where it
    is by language; `place` hands the item over, where each place has a stock of its own; `coupon` is the customer's own
    code, once it is reserved.
    `creative` is the one that is shown of an offer that has several: the propensity is then that of the
    offer with this creative, and `creative_propensity` the probability of the creative given the offer.
    """

    offer: str | msgspec.UnsetType | None = msgspec.UNSET
    rendering: Mapping[str, object] | msgspec.UnsetType = msgspec.UNSET
    items: "list[OfferAnswer] | msgspec.UnsetType" = msgspec.UNSET
    propensity: float
    policy: str | None
    reason: OfferReason
    moment: str | None = None
    language: str | None = None
    creative: str | None = None
    creative_propensity: float | None = None
    not_before: datetime | None = None
    place: PlaceAnswer | None = None
    coupon: str | None = None


def answer_offer(plan: Plan, choice: Choice, facts: Facts) -> OfferAnswer:
    """The answer that the storefront gets for a placement's choice."""
    not_before = None if choice.not_before is None else datetime.fromtimestamp(choice.not_before, UTC)
    if choice.position:
        return OfferAnswer(
            items=[] if choice.is_silent else [_answer_item(plan, item, facts) for item in choice.items],
            propensity=choice.joint,
            policy=choice.policy,
            reason=choice.reason,
            not_before=not_before,
        )
    if choice.is_silent:
        return OfferAnswer(
            offer=None,
            rendering={},
            propensity=choice.propensity,
            policy=None,
            reason=choice.reason,
            not_before=not_before,
        )
    return _answer_item(plan, choice, facts)


def find_creative(offer: Offer, channel: str, key: str | None) -> Creative | None:
    """The creative of an offer on a channel: the one with this key, else the first; None if the offer has none."""
    creatives = offer.creatives.get(channel, ())
    return next((one for one in creatives if one.key == key), creatives[0] if creatives else None)


def force_creative(offer: Offer, channel: str, key: str) -> DrawnCreative | None:
    """The creative that a preview names; None if the preview names no creative."""
    if not key or not any(one.key == key for one in offer.creatives.get(channel, ())):
        return None
    return DrawnCreative(key=key, propensity=1.0, candidates=[key], probabilities=[1.0])


def render_offer(
    plan: Plan, offer: Offer, channel: str, attributes: Mapping[str, object], key: str | None = None
) -> tuple[Mapping[str, object], str | None]:
    """An offer's rendering on a channel, in the customer's language if the offer has several.

    The language is the customer's, by trait or context, if the offer speaks it; else the shop's; else its first. Of
    several creatives it is the one with the `key`, or the first.
    """
    creative = find_creative(offer, channel, key)
    spoken = offer.languages.get(channel) if creative is None else creative.languages
    if not spoken:
        own = offer.spec.renderings.get(channel, {}) if creative is None else creative.rendering
        return ({} if isinstance(own, list) else own), None
    language = choose_language(list(spoken), preferred_languages(attributes), plan.language)
    return spoken[language], language


def fill_coupon(answer: OfferAnswer, codes: Mapping[str, str]) -> OfferAnswer:
    """The answer with the customer's code in place of `{coupon}` in its texts; `codes` are by offer."""
    if isinstance(answer.items, list):
        return msgspec.structs.replace(answer, items=[fill_coupon(item, codes) for item in answer.items])
    code = codes.get(answer.offer) if isinstance(answer.offer, str) else None
    if code is None or not isinstance(answer.rendering, Mapping):
        return answer
    filled = {key: _fill_text(value, code) for key, value in answer.rendering.items()}
    return msgspec.structs.replace(answer, rendering=filled, coupon=code)


def _fill_text(value: object, code: str) -> object:
    if isinstance(value, str):
        return value.replace("{coupon}", code)
    if isinstance(value, Mapping):
        return {key: _fill_text(one, code) for key, one in value.items()}
    return [_fill_text(one, code) for one in value] if isinstance(value, list) else value


def _answer_item(plan: Plan, choice: Choice, facts: Facts) -> OfferAnswer:
    """The answer for one shown offer."""
    creative = choice.creative
    rendering, language = render_offer(
        plan, choice.offer, facts.channel, facts.attributes, None if creative is None else creative.key
    )
    return OfferAnswer(
        offer=choice.offer.key,
        rendering=rendering,
        propensity=choice.shown_propensity,
        policy=choice.policy,
        reason=choice.reason,
        moment=choice.moment,
        language=language,
        creative=None if creative is None else creative.key,
        creative_propensity=None if creative is None else creative.propensity,
        place=None if choice.place is None else _answer_place(choice.offer, choice.place),
    )


def _answer_place(offer: Offer, near: NearPlace) -> PlaceAnswer | None:
    """The place that hands an offer's item over, as the storefront gets it."""
    stock, (place, km) = offer.limits.stock, near
    if stock is None or stock.by is None:
        return None
    return PlaceAnswer(
        key=place.key,
        by=stock.by,
        hold=stock.hold,
        title=place.title,
        address=place.address,
        latitude=place.latitude,
        longitude=place.longitude,
        km=None if km is None else round(km, 3),
    )


def withhold_fallback(plan: Plan, facts: Facts, choice: Choice, shown: Collection[str], lost: LostClaims) -> Choice:
    """The choice of a fallback, or silence if the fallback must not be shown.

    No gate closes a fallback. But the shop does not write to a customer past their caps, or while its `suppress` holds,
    and an answer shows no offer twice.
    """
    key = choice.offer.key
    if key in shown:
        return msgspec.structs.replace(choice, reason="shown")
    is_silent = facts.is_silenced and not choice.offer.is_spared
    if facts.channel in plan.outbound and (is_silent or key in lost or is_capped(choice.offer, facts)):
        return msgspec.structs.replace(choice, reason="dropped")
    return choice


def force_offer(plan: Plan, channel: str, forced: str) -> Choice:
    """The offer that a preview forces; `OFFER/CREATIVE` also forces one of its creatives."""
    key, _, creative = forced.partition("/")
    offer = plan.offers[key]
    return Choice(offer=offer, reason="preview", propensity=1.0, creative=force_creative(offer, channel, creative))

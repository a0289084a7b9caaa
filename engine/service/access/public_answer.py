"""The answer to a publishable key, in a form that every visitor of a page may read.

Propensities and the names of policies are the shop's: whoever knows them learns what it tries and on how many. They are
in the log, and in the answers to other keys.
"""

from collections.abc import Mapping
from datetime import datetime

import msgspec

from engine.decision.answers import OfferAnswer
from engine.decision.decision import Answer
from engine.decision.experiments import ExperimentAnswer
from engine.decision.offers import OfferReason


class PublicOffer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An offer, or the items of a list, without propensities and policies."""

    offer: str | msgspec.UnsetType | None = msgspec.UNSET
    rendering: Mapping[str, object] | msgspec.UnsetType = msgspec.UNSET
    items: "list[PublicOffer] | msgspec.UnsetType" = msgspec.UNSET
    reason: OfferReason
    moment: str | None = None
    language: str | None = None
    creative: str | None = None
    not_before: datetime | None = None


class PublicAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """An answer with public offers."""

    decision_id: str
    customer: str
    plan: str
    degraded: bool
    ttl: int
    experiments: dict[str, ExperimentAnswer]
    offers: dict[str, PublicOffer]
    resume: dict[str, object]
    warnings: list[str] | msgspec.UnsetType = msgspec.UNSET


def publish_answer(answer: Answer) -> PublicAnswer:
    """The answer in the form for a publishable key."""
    given = msgspec.structs.asdict(answer)
    offers = {placement: _publish_offer(offer) for placement, offer in answer.offers.items()}
    return PublicAnswer(**(given | {"offers": offers}))


def _publish_offer(offer: OfferAnswer) -> PublicOffer:
    items = offer.items if offer.items is msgspec.UNSET else [_publish_offer(item) for item in offer.items]
    return PublicOffer(
        offer=offer.offer,
        rendering=offer.rendering,
        items=items,
        reason=offer.reason,
        moment=offer.moment,
        language=offer.language,
        creative=offer.creative,
        not_before=offer.not_before,
    )

"""The answer to a publishable key, which every visitor of a page can read.

Propensities and the names of policies are the shop's: whoever knows them learns what it tries and on how many. They are
in the log, and in the answers to other keys.
"""

from collections.abc import Mapping
from datetime import datetime

import msgspec

from engine.decision.decision import Answer
from engine.decision.experiments import ExperimentAnswer
from engine.decision.offers import OfferReason


class PublicOffer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An offer without its propensity and policy."""

    offer: str | None
    rendering: Mapping[str, object]
    reason: OfferReason
    moment: str | None = None
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
    """The answer as a publishable key gets it."""
    given = {name: value for name, value in msgspec.structs.asdict(answer).items() if value is not msgspec.UNSET}
    return msgspec.convert(given, PublicAnswer, from_attributes=True)

"""The requests of the clients as bytes, and their answers decoded; the clients themselves do the I/O.

Every request can be repeated without counting twice: a decision carries an idempotency key, an event its message id,
and an exposure counts once per decision and placement.
"""

import logging
import math
import re
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Literal, TypeVar
from urllib.parse import urlsplit

import msgspec

from engine.customer import CustomerIds
from engine.errors import BadInput, CounterpointError
from engine.json_body import MAX_DEPTH
from engine.vocabulary import CLICK, CONSENT_GIVEN, CONSENT_WITHDRAWN, split_item

log = logging.getLogger(__name__)

RETRYABLE = frozenset((408, 425, 429, 500, 502, 503, 504))
"""Status codes after which another attempt may succeed."""
FIRST_PAUSE = 0.02
"""Seconds before the second attempt; each further pause is twice as long."""

_encoder = msgspec.json.Encoder(decimal_format="number")
_SURROGATE = re.compile("[\ud800-\udfff]")

Flag = TypeVar("Flag", bool, str, int, float, dict[str, object], list[object])
Experiments = Sequence[str] | Literal["*"]


class NoAnswer(CounterpointError):
    """The error that the engine did not answer in time, or that another server answered."""


class Rejected(CounterpointError):
    """The error of a rejected request; the message names the field, the rule and the remedy."""


class Unsendable(Rejected):
    """The error of a value that JSON cannot carry, named with its place; nothing was sent."""


class ExperimentReply(msgspec.Struct, frozen=True):
    """The customer's variant in one experiment with its payload, or None, and the reason."""

    variant: str | None
    payload: dict[str, object] | None
    reason: str


class OfferReply(msgspec.Struct, frozen=True):
    """The offer of one placement and its rendering on this channel; of a list, `items` in the order of display.

    Without an offer the placement stays empty: during quiet hours, which end at `not_before`, or if another placement
    of the answer already shows the fallback. A publishable key gets neither `propensity` nor `policy`.
    """

    reason: str
    offer: str | None = None
    rendering: dict[str, object] = {}
    items: "list[OfferReply]" = []
    propensity: float | None = None
    policy: str | None = None
    moment: str | None = None
    not_before: datetime | None = None
    place: dict[str, object] | None = None
    coupon: str | None = None


class DecisionReply(msgspec.Struct, frozen=True):
    """A decision of the engine. Without arguments it is the empty one that a client returns without an answer."""

    decision_id: str = ""
    customer: str = ""
    plan: str = ""
    degraded: bool = True
    ttl: int = 0
    experiments: dict[str, ExperimentReply] = {}
    offers: dict[str, OfferReply] = {}
    resume: dict[str, object] = {}

    def variant(self, experiment: str, default: str) -> str:
        """The key of the customer's variant, or `default` if there is none."""
        answer = self.experiments.get(experiment)
        return default if answer is None or answer.variant is None else answer.variant

    def rendering(self, placement: str, default: Mapping[str, object]) -> Mapping[str, object]:
        """The rendering of the placement's offer: empty to show nothing, `default` without an answer."""
        answer = self.offers.get(placement)
        return default if answer is None else answer.rendering


class ClientRequest(msgspec.Struct, frozen=True):
    """One request; every attempt sends the same bytes and headers."""

    path: str
    body: bytes
    headers: dict[str, str]


class _ItemReply(msgspec.Struct, frozen=True):
    status: str
    reason: str = ""
    warnings: list[str] = []


class _EventsReply(msgspec.Struct, frozen=True):
    statuses: list[_ItemReply]


class _ExposuresReply(msgspec.Struct, frozen=True):
    refused: dict[str, str] = {}


class _ProblemReply(msgspec.Struct, frozen=True):
    detail: str = ""
    errors: list[dict[str, str]] = []


def check_arguments(url: str, timeout: float, retries: int) -> None:
    """Check a client's arguments at once, since with bad ones every call would silently return its fallback.

    Raises:
        BadInput: if `url` is not an address, `timeout` (s) not above 0 or `retries` below 0.
    """
    try:
        parts = urlsplit(url)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # the port is not a number below 65536
        is_address = False
    if not is_address:
        raise BadInput(f"url {url!r}: is not the address of an engine; write http://127.0.0.1:8080 or https://…")
    if not 0 < timeout < math.inf:
        raise BadInput(f"timeout {timeout}: is not a number of seconds above 0; leave it out for 0.25")
    if retries < 0:
        raise BadInput(f"retries {retries}: is below 0; write 0 for a single attempt")


def decide_request(
    customer: CustomerIds,
    channel: str,
    placements: Sequence[str],
    experiments: Experiments,
    context: Mapping[str, object],
    *,
    expose: bool,
    preview: str = "",
) -> ClientRequest:
    """A request to `/v1/decide`; its idempotency key makes a repeated one return the first answer and log nothing.

    `preview` is a preview token, empty where there is none.
    """
    body: dict[str, object] = {
        "customer": customer,
        "channel": channel,
        "placements": placements,
        "experiments": experiments,
        "context": context,
        "expose": expose,
    }
    if preview:
        body["preview"] = preview
    return _message("/v1/decide", body, {"idempotency-key": uuid.uuid4().hex})


def exposures_request(
    decision_id: str, placements: Sequence[str] | None, experiments: Sequence[str] | None
) -> ClientRequest:
    """A request to `/v1/exposures`, for the whole decision or the named parts."""
    body: dict[str, object] = {"decision_id": decision_id}
    if placements is not None:
        body["placements"] = placements
    if experiments is not None:
        body["experiments"] = experiments
    return _message("/v1/exposures", body, {})


def event_request(customer: CustomerIds, channel: str, item: Mapping[str, object]) -> ClientRequest:
    """A request to `/v1/events` with one item; its message id makes repeated attempts count once."""
    ids = msgspec.to_builtins(customer)
    at = datetime.now(UTC).isoformat()
    event = {"message_id": uuid.uuid4().hex, "channel": channel, "timestamp": at, **ids, **item}
    return _message("/v1/events", {"batch": [event]}, {})


def click_item(decision: DecisionReply, placement: str) -> dict[str, object]:
    """The item of a click on a placement's offer in a decision; without an answer, on the shop's own offer.

    `row[2]` is the second item of the list that the placement `row` shows.
    """
    place, position = split_item(placement)
    answer = decision.offers.get(place)
    if answer is not None and position:
        answer = answer.items[position - 1] if position <= len(answer.items) else None
    properties = {"placement": placement} | ({"offer": answer.offer} if answer and answer.offer else {})
    item: dict[str, object] = {"type": "track", "event": CLICK, "properties": properties}
    return item | ({"decision_id": decision.decision_id} if decision.decision_id else {})


def consent_item(purpose: str, *, granted: bool) -> dict[str, object]:
    """The item by which a customer grants or withdraws the consent to a purpose."""
    event = CONSENT_GIVEN if granted else CONSENT_WITHDRAWN
    return {"type": "track", "event": event, "properties": {"purpose": purpose}}


def read_decision(body: bytes) -> DecisionReply:
    """Decode a decision.

    Raises:
        NoAnswer: if the body is not one, because a proxy answered in the engine's place.
    """
    try:
        return msgspec.json.decode(body, type=DecisionReply)
    except msgspec.MsgspecError as error:
        raise NoAnswer(f"the answer is not the engine's: {error}; check the address") from error


def read_status(body: bytes) -> bool:
    """Decode the status of the one event: True if it counted now, False if an earlier attempt did.

    Raises:
        Rejected: if the engine rejected the event, with its reason.
        NoAnswer: as in `read_decision`.
    """
    try:
        [item] = msgspec.json.decode(body, type=_EventsReply).statuses
    except (msgspec.MsgspecError, ValueError) as error:
        raise NoAnswer(f"the answer is not the engine's: {error}; check the address") from error
    if item.status == "rejected":
        raise Rejected(item.reason)
    for warning in item.warnings:
        log.warning("the event counts, but %s", warning)
    return item.status == "accepted"


def read_refused(body: bytes) -> dict[str, str]:
    """Decode the placements whose offer was refused, each with the reason, such as `cap`.

    Raises:
        NoAnswer: as in `read_decision`.
    """
    try:
        return msgspec.json.decode(body, type=_ExposuresReply).refused
    except msgspec.MsgspecError as error:
        raise NoAnswer(f"the answer is not the engine's: {error}; check the address") from error


def rejection(status: int, body: bytes) -> Rejected:
    """The error for an answer that rejects the request."""
    try:
        problem = msgspec.json.decode(body, type=_ProblemReply)
    except msgspec.MsgspecError:
        problem = _ProblemReply()
    fields = ", ".join(error.get("field", "") for error in problem.errors)
    return Rejected(f"{status} {fields}: {problem.detail}" if fields else f"{status}: {problem.detail}")


def value_or_default(decision: DecisionReply, key: str, default: Flag) -> Flag:
    """The value of a flag, or `default` if it has none or one of another type.

    A payload that is `{"value": …}` stands for its value, and a variant without a payload for its key.
    """
    answer = decision.experiments.get(key)
    if answer is None or answer.variant is None:
        return default
    payload = answer.payload or {}
    value: object = payload["value"] if payload.keys() == {"value"} else payload or answer.variant
    if type(default) is float and type(value) is int:
        value = float(value)
    return value if type(value) is type(default) else default


def retry_pause(attempt: int, retry_after: str, left: float) -> float | None:
    """Seconds to wait after attempt number `attempt`, from 0; None if less time is left.

    `retry_after` is the header of that name, empty if there was none.
    """
    requested = float(retry_after) if retry_after.isdecimal() else 0.0
    pause = max(requested, math.ldexp(FIRST_PAUSE, attempt))
    return pause if pause < left else None


def _message(path: str, body: Mapping[str, object], headers: dict[str, str]) -> ClientRequest:
    """A request with a JSON body.

    Raises:
        Unsendable: if a value in it cannot be sent.
    """
    _check_value(body, "")
    try:
        content = _encoder.encode(body)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise Unsendable(f"the request is no JSON: {error}; send texts, numbers, booleans, lists and dicts") from error
    return ClientRequest(path, content, {"content-type": "application/json", **headers})


def _check_value(value: object, place: str, depth: int = 0) -> None:
    """Raise Unsendable for a value that would be refused or would change in transit."""
    if isinstance(value, Mapping):
        for name, part in value.items():
            _check_value(name, f"{place}, a name" if place else "a name", depth)
            _check_value(part, f"{place}.{name}" if place else str(name), depth + 1)
    elif isinstance(value, list | tuple):
        for index, part in enumerate(value):
            _check_value(part, f"{place}[{index}]", depth + 1)
    if depth > MAX_DEPTH:
        raise Unsendable(f"{place[:80]}: is nested more than {MAX_DEPTH} deep; send it flatter")
    if isinstance(value, str) and (half := _SURROGATE.search(value)):
        where = _SURROGATE.sub("\ufffd", place)
        raise Unsendable(
            f"{where}: has {half[0]!a}, half of a surrogate pair; decode the text as UTF-8 or UTF-16, or replace it"
        )
    if isinstance(value, float | Decimal) and not math.isfinite(value):
        raise Unsendable(f"{place}: {value} is not a number in JSON; leave it out")
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        raise Unsendable(f"{place}: {value:.3e} has more than 64 bits; send it as text")

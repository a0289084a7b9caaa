"""What the clients send and read, without sending or reading it."""

import math
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Literal, TypeVar
from urllib.parse import urlsplit

import msgspec

from engine.customer import CustomerIds
from engine.errors import BadInput, CounterpointError

AGAIN = frozenset((408, 425, 429, 500, 502, 503, 504))
"""Answers that another attempt may better."""

PAUSE = 0.02

Flag = TypeVar("Flag", bool, str, int, float, dict[str, object], list[object])
Experiments = Sequence[str] | Literal["*"]


class NoAnswer(CounterpointError):
    """The engine did not answer in time, or could not."""


class Rejected(CounterpointError):
    """The engine refuses the request as it is: its message says which field, which rule, what to do."""


class ExperimentReply(msgspec.Struct, frozen=True):
    """The customer's variant in one experiment and its payload, or none, and the reason."""

    variant: str | None
    payload: dict[str, object] | None
    reason: str


class OfferReply(msgspec.Struct, frozen=True):
    """The offer to show in one placement, as it looks on this channel.

    With no offer the placement stays empty: in quiet hours (`not_before` says from when to ask again), or where the
    answer shows the fallback in another placement already.
    """

    offer: str | None
    rendering: dict[str, object]
    propensity: float
    policy: str | None
    reason: str
    moment: str | None = None
    not_before: datetime | None = None


class DecisionReply(msgspec.Struct, frozen=True):
    """What the engine decided; as it stands here, nothing: what a shop goes on with that got no answer."""

    decision_id: str = ""
    customer: str = ""
    plan: str = ""
    degraded: bool = True
    ttl: int = 0
    experiments: dict[str, ExperimentReply] = {}
    offers: dict[str, OfferReply] = {}
    resume: dict[str, object] = {}

    def variant(self, experiment: str, default: str) -> str:
        """The key of the customer's variant, or `default` where there is none."""
        answer = self.experiments.get(experiment)
        return default if answer is None or answer.variant is None else answer.variant

    def rendering(self, placement: str, default: Mapping[str, object]) -> Mapping[str, object]:
        """How the placement's offer looks: empty where nothing is to be shown, `default` where there is no answer."""
        answer = self.offers.get(placement)
        return default if answer is None else answer.rendering


class ClientRequest(msgspec.Struct, frozen=True):
    """One request: every attempt sends the same bytes under the same key."""

    path: str
    body: bytes
    headers: dict[str, str]


class _ItemReply(msgspec.Struct, frozen=True):
    status: str
    reason: str = ""


class _EventsReply(msgspec.Struct, frozen=True):
    statuses: list[_ItemReply]


class _ExposuresReply(msgspec.Struct, frozen=True):
    refused: dict[str, str] = {}


class _ProblemReply(msgspec.Struct, frozen=True):
    detail: str = ""
    errors: list[dict[str, str]] = []


def check_client(url: str, timeout: float, retries: int) -> None:
    """Refuse what no request could be sent with: a shop would show its fallbacks for ever, and nobody would know why.

    Raises:
        BadInput: if `url` is no address, `timeout` no time or `retries` no count.
    """
    try:
        parts = urlsplit(url)
        found = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none
        found = False
    if not found:
        raise BadInput(f"url {url!r}: is no address of an engine; write http://127.0.0.1:8080 or https://…")
    if not 0 < timeout < math.inf:
        raise BadInput(f"timeout {timeout}: is no number of seconds above 0; leave it out for 0.25")
    if retries < 0:
        raise BadInput(f"retries {retries}: is below 0; write 0 for a single attempt")


def deciding(
    customer: CustomerIds,
    channel: str,
    placements: Sequence[str],
    experiments: Experiments,
    context: Mapping[str, object],
    *,
    expose: bool,
) -> ClientRequest:
    """`/v1/decide`, with a key of its own: asked again, the engine answers as before and logs nothing more."""
    body = {
        "customer": customer,
        "channel": channel,
        "placements": placements,
        "experiments": experiments,
        "context": context,
        "expose": expose,
    }
    return _message("/v1/decide", body, {"idempotency-key": uuid.uuid4().hex})


def exposing(decision_id: str, placements: Sequence[str] | None, experiments: Sequence[str] | None) -> ClientRequest:
    """`/v1/exposures`; an exposure that is told twice counts once in the reports."""
    body: dict[str, object] = {"decision_id": decision_id}
    if placements is not None:
        body["placements"] = placements
    if experiments is not None:
        body["experiments"] = experiments
    return _message("/v1/exposures", body, {})


def telling(customer: CustomerIds, channel: str, item: Mapping[str, object]) -> ClientRequest:
    """`/v1/events` with one item; its message id makes every attempt count once."""
    ids = msgspec.to_builtins(customer)
    at = datetime.now(UTC).isoformat()
    event = {"message_id": uuid.uuid4().hex, "channel": channel, "timestamp": at, **ids, **item}
    return _message("/v1/events", {"batch": [event]}, {})


def decided(body: bytes) -> DecisionReply:
    """The engine's decision.

    Raises:
        NoAnswer: if it is none; some proxy answered.
    """
    try:
        return msgspec.json.decode(body, type=DecisionReply)
    except msgspec.MsgspecError as error:
        raise NoAnswer(f"what answered is not the engine: {error}; check the address") from error


def accepted(body: bytes) -> bool:
    """Whether the one item was counted now; False for one counted before.

    Raises:
        Rejected: with the item's reason.
        NoAnswer: as in `decided`.
    """
    try:
        [item] = msgspec.json.decode(body, type=_EventsReply).statuses
    except (msgspec.MsgspecError, ValueError) as error:
        raise NoAnswer(f"what answered is not the engine: {error}; check the address") from error
    if item.status == "rejected":
        raise Rejected(item.reason)
    return item.status == "accepted"


def withheld(body: bytes) -> dict[str, str]:
    """The placements whose offer could not be had any more, each with the reason.

    Raises:
        NoAnswer: as in `decided`.
    """
    try:
        return msgspec.json.decode(body, type=_ExposuresReply).refused
    except msgspec.MsgspecError as error:
        raise NoAnswer(f"what answered is not the engine: {error}; check the address") from error


def refused(status: int, body: bytes) -> Rejected:
    """The engine's refusal as an error."""
    try:
        problem = msgspec.json.decode(body, type=_ProblemReply)
    except msgspec.MsgspecError:
        problem = _ProblemReply()
    fields = ", ".join(error.get("field", "") for error in problem.errors)
    return Rejected(f"{status} {fields}: {problem.detail}" if fields else f"{status}: {problem.detail}")


def flag_value(decision: DecisionReply, key: str, default: Flag) -> Flag:
    """The flag's value, or `default` where there is none or it is of another type."""
    answer = decision.experiments.get(key)
    if answer is None or answer.variant is None:
        return default
    payload = answer.payload or {}
    value: object = payload["value"] if payload.keys() == {"value"} else payload or answer.variant
    if type(default) is float and type(value) is int:
        value = float(value)
    return value if type(value) is type(default) else default


def pause_after(attempt: int, retry_after: str, left: float) -> float | None:
    """Seconds to wait before the attempt after `attempt` (from 0); None if they are not left."""
    asked = float(retry_after) if retry_after.isdecimal() else 0.0
    pause = max(asked, math.ldexp(PAUSE, attempt))
    return pause if pause < left else None


def _message(path: str, body: Mapping[str, object], headers: dict[str, str]) -> ClientRequest:
    return ClientRequest(path, msgspec.json.encode(body), {"content-type": "application/json", **headers})

"""Decodes the body of a request for a decision, for `/v1/decide`, `/v1/explain`, `/v1/agent` and OpenFeature.

The limits are on the body and not on `DecideRequest`: requests that were logged before a limit are still explained.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import field
from msgspec.structs import replace

from engine.decision.decision import DecideRequest
from engine.errors import BadInput
from engine.json_body import decode_json, describe
from engine.vocabulary import CAMPAIGN_CHANNEL

RequestName = Annotated[str, msgspec.Meta(max_length=200)]
"""The key of a channel, placement or experiment, or the name of an attribute."""
Attributes = Annotated[dict[RequestName, object], msgspec.Meta(max_length=500)]


class DecideBody(DecideRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The request of a storefront: customer, channel, placements and experiments to decide."""

    channel: RequestName
    placements: Annotated[list[RequestName], msgspec.Meta(max_length=100)] = field(default_factory=list)
    experiments: Annotated[list[RequestName], msgspec.Meta(max_length=1000)] | Literal["*"] = field(
        default_factory=list
    )
    context: Attributes = field(default_factory=dict)
    preview: Annotated[str, msgspec.Meta(max_length=4000)] | msgspec.UnsetType = msgspec.UNSET
    """A preview token, whose variants and offers its bearer sees; or it is in the header `X-Counterpoint-Preview`.
    An empty one is none."""


class EvaluationRequest(msgspec.Struct, frozen=True):
    """The body of an OpenFeature evaluation: `targetingKey`, and the attributes that conditions read."""

    context: dict[str, object] = {}


_decoder = msgspec.json.Decoder(DecideBody)
_evaluation = msgspec.json.Decoder(EvaluationRequest)


def decode_decide(body: bytes) -> DecideBody:
    """The request of a body.

    Raises:
        BadInput: `field: rule; remedy`, for a body that breaks a rule of `DecideBody`.
    """
    request = decode_json(_decoder, body)
    if request.channel == CAMPAIGN_CHANNEL:
        raise BadInput(f"channel: {CAMPAIGN_CHANNEL!r} is where campaigns choose; ask /v1/due for their messages")
    return replace(request, preview=msgspec.UNSET) if request.preview == "" else request


def decode_context(body: bytes) -> dict[str, object]:
    """The context of an OpenFeature request; errors as in `decode_decide`."""
    return decode_json(_evaluation, body).context


def preview_token(request: DecideBody, header: str) -> str:
    """The preview token in a request's body or header; empty if there is none."""
    return header if isinstance(request.preview, msgspec.UnsetType) else request.preview


def build_request(values: Mapping[str, object]) -> DecideRequest:
    """The request with these values, by the rules of `decode_decide`, which also raises its errors."""
    try:
        return msgspec.convert(values, DecideBody)
    except msgspec.ValidationError as error:
        place, detail = describe(error, b"")
        raise BadInput(f"{place}: {detail}") from None

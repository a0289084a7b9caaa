"""Errors of the HTTP face: RFC 9457 problem+json that names the field, its value, the rule and the remedy."""

from http import HTTPStatus
from typing import TypeVar

import msgspec

from engine.errors import BadInput
from engine.json_body import decode_json

PROBLEM = b"application/problem+json"
DISK_RETRY_SECONDS = 5
"""When a client should retry after a 503 of the disk, which takes longer to mend than the store to answer."""

T = TypeVar("T")


class FieldError(msgspec.Struct, frozen=True):
    """One field and its problem."""

    field: str
    message: str


class ProblemDetails(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body of an error answer."""

    title: str
    status: int
    detail: str
    type: str = "about:blank"
    errors: list[FieldError] = []
    request_id: str = ""


class Refusal(Exception):
    """Ends a request with an error answer: the HTTP status, the detail, and the field at fault if there is one."""

    def __init__(
        self, status: int, detail: str, field: str = "", headers: tuple[tuple[bytes, bytes], ...] = ()
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.field = field
        self.headers = headers

    def body(self, request_id: str) -> bytes:
        """The problem as JSON."""
        details = ProblemDetails(
            title=HTTPStatus(self.status).phrase,
            status=self.status,
            detail=self.detail,
            errors=[FieldError(self.field, self.detail)] if self.field else [],
            request_id=request_id,
        )
        return msgspec.json.encode(details)


def refuse_for_now(detail: str, *, seconds: int = 1) -> Refusal:
    """A 503 that asks the client to retry after `seconds`."""
    return Refusal(503, detail, "", ((b"retry-after", b"%d" % seconds),))


def refuse_field(message: str) -> Refusal:
    """A 400 from a message of the form `field: what is wrong; what to do`."""
    field, colon, rest = message.partition(": ")
    return Refusal(400, rest if colon else message, field if colon else "")


def decode_body(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """Decode a request's body.

    Raises:
        Refusal: 400 with the field or the place that breaks a rule.
    """
    try:
        return decode_json(decoder, body)
    except BadInput as error:
        raise refuse_field(str(error)) from None

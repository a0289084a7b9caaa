"""Errors of the HTTP face: RFC 9457 problem+json that names the field, its value, the rule and the remedy."""

import re
from http import HTTPStatus
from typing import TypeVar

import msgspec

_PLACE = re.compile(r" - at `(?:key in )?\$(.*?)`$")
_FIELD = re.compile(r"(?:required|unknown) field `([^`]+)`")

DISK_RETRY_SECONDS = 5
"""When a client should retry after a 503 of the disk, which takes longer to mend than the store to answer."""

T = TypeVar("T")


class FieldError(msgspec.Struct, frozen=True):
    """One field and what is wrong with it."""

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
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _refuse_body(error) from None


def _refuse_body(error: Exception) -> Refusal:
    """The refusal of a body that msgspec could not decode: names the field where msgspec does, else the body."""
    if isinstance(error, msgspec.ValidationError):
        text = str(error)
        place = _PLACE.search(text)
        path = place.group(1).lstrip(".") if place else ""
        rule = _PLACE.sub("", text).replace("`", "'")
        field = _FIELD.search(text)
        if field:
            path = f"{path}.{field.group(1)}" if path else field.group(1)
            remedy = "remove it" if "unknown" in rule else "add it"
        else:
            remedy = "see /docs for the request's schema"
        return Refusal(400, f"{rule}; {remedy}", path or "body")
    if isinstance(error, RecursionError):
        return Refusal(400, "the JSON is nested too deeply; send a flat request", "body")
    if isinstance(error, UnicodeDecodeError):
        return Refusal(400, f"the body is not UTF-8 at byte {error.start}; encode it as UTF-8", "body")
    return Refusal(400, f"the body is not JSON: {error}; send a JSON object", "body")
